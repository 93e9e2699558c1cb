//! Model folders that are not what they seem: each is one sentence and exit code 2.

use std::fs;

use serde_json::{Value, json};

use crate::harness::Sandbox;

/// A model to be damaged.
struct Model(Sandbox);

impl Model {
    fn new() -> Self {
        let sandbox = Sandbox::with_model();
        sandbox.write("in.jsonl", "{\"prompt\": \"a\"}\n");
        Self(sandbox)
    }

    /// What the program says of the model with a file of it changed, which is then put back.
    fn with(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.0.path("model").join(name);
        let before = fs::read(&path).ok();
        fs::write(&path, content).unwrap();
        let said = self.0.run("-q generate --model model --input in.jsonl --max-new-tokens 2 --output out.jsonl");
        match before {
            Some(before) => fs::write(&path, before).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        assert!(!self.0.path("out.jsonl").exists(), "{said}");
        let error =
            said.strip_prefix("exit code: 2\n--- stdout\n--- stderr\nerror: ").unwrap_or_else(|| panic!("{said}"));
        assert_eq!(error.matches('\n').count(), 1, "{error}");
        error.trim_end().to_owned()
    }

    /// The same with a file of JSON edited.
    fn edited(&self, name: &str, change: impl FnOnce(&mut Value)) -> String {
        let mut json = serde_json::from_slice(&fs::read(self.0.path("model").join(name)).unwrap()).unwrap();
        change(&mut json);
        self.with(name, json.to_string())
    }
}

const JSON: [&str; 4] = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"];

#[test]
fn json_that_is_none() {
    let model = Model::new();
    for name in JSON {
        let said = model.with(name, b"{\"a\": \"\xff\xfe\"}");
        assert_eq!(said, format!("cannot read `model/{name}`: it is not UTF-8 text; check that it is the right file"));
        for (text, problem) in [("", "EOF while parsing"), ("{\"a\": ", "EOF while parsing"), ("not JSON", "expected ")]
        {
            let said = model.with(name, text);
            assert!(said.starts_with(&format!("`model/{name}` is not valid JSON: {problem}")), "{said}");
        }
        let deep = format!("{{\"a\": {}", "[".repeat(100_000));
        let said = model.with(name, deep);
        assert!(said.contains(&format!("`model/{name}`")), "{said}");
    }
}

#[test]
fn json_of_the_wrong_shape() {
    let model = Model::new();
    for name in JSON {
        for text in ["[]", "3", "null", "\"text\""] {
            let said = model.with(name, text);
            assert!(said.contains(&format!("`model/{name}`")), "{said}");
        }
    }
    for (key, value) in [
        ("hidden_size", json!(-1)),
        ("hidden_size", json!(1e300)),
        ("num_attention_heads", json!(0)),
        ("vocab_size", json!(null)),
        ("max_position_embeddings", json!("many")),
        ("rms_norm_eps", json!([])),
    ] {
        let said = model.edited("config.json", |json| json[key] = value);
        assert!(said.starts_with(&format!("`{key}` in `model/config.json` ")), "{said}");
    }
    for (key, value) in
        [("model", json!(null)), ("model", json!({"type": "BPE", "vocab": 3})), ("added_tokens", json!({}))]
    {
        let said = model.edited("tokenizer.json", |json| json[key] = value);
        let problem =
            "cannot use the tokenizer in `model/tokenizer.json`: it is not a tokenizer that `tokenizers` reads: ";
        assert!(said.starts_with(problem), "{said}");
    }
    let said = model.edited("tokenizer_config.json", |json| json["eos_token"] = "<none>".into());
    let problem = "its `eos_token` is `<none>`, which its vocabulary lacks";
    assert_eq!(said, format!("cannot use the tokenizer in `model/tokenizer.json`: {problem}"));
    let said = model.edited("tokenizer.json", |json| {
        let vocabulary = json["model"]["vocab"].as_object_mut().unwrap();
        vocabulary.insert("more".into(), 9999.into());
    });
    let problem = "it has 10000 ids, but the model's vocabulary has 99; the files are of two different models";
    assert_eq!(said, format!("cannot use the tokenizer in `model`: {problem}"));
}

#[test]
fn templates_that_do_not_end() {
    let model = Model::new();
    for template in [
        "{% for i in range(90000) %}{% for j in range(90000) %}x{% endfor %}{% endfor %}",
        "{% set ns = namespace(s='ab') %}{% for i in range(100) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
    ] {
        let said = model.with("chat_template.jinja", template);
        let problem = "`in.jsonl`, line 1: cannot apply the chat template of `model/chat_template.jinja`: it takes more than \
                       2000000 steps, operations and pieces of 64 bytes; shorten the conversation, or mend the template";
        assert_eq!(said, problem);
    }
    let doubled = "{% set ns = namespace(l=[1]) %}{% for i in range(64) %}{% set ns.l = ns.l + ns.l %}{% endfor %}{{ ns.l | length }}";
    let said = model.with("chat_template.jinja", doubled);
    assert!(said.ends_with(": it takes longer than 5 s; mend the template"), "{said}");
    let said = model.with("chat_template.jinja", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}");
    assert!(said.contains("recursion limit exceeded"), "{said}");
    assert!(model.with("chat_template.jinja", "{% for %}").contains("syntax error"));
    assert!(
        model.with("chat_template.jinja", b"\xff").ends_with("it is not UTF-8 text; check that it is the right file")
    );
}

#[test]
fn weights_that_are_none() {
    let model = Model::new();
    let weights = fs::read(model.0.path("model/model.safetensors")).unwrap();
    let mut nan = weights.clone();
    let end = nan.len();
    nan[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    let said = model.with("model.safetensors", nan);
    let names = |said: &str| {
        said.starts_with("tensor `") && said.contains("in `model/model.safetensors` has NaN as its element ")
    };
    assert!(names(&said), "{said}");
    let said = model.with("model.safetensors", [&(1_u64 << 62).to_le_bytes()[..], &weights[8..]].concat());
    assert!(said.ends_with("it is not a safetensors file; check that it is the right one"), "{said}");
    fs::remove_file(model.0.path("model/model.safetensors")).unwrap();
    let index = "model.safetensors.index.json";
    let said = model.with(index, json!({"weight_map": {"model.norm.weight": "../in.jsonl"}}).to_string());
    assert!(said.ends_with("is said to be in \"../in.jsonl\", which is no file of the folder"), "{said}");
    let said = model.with(index, json!({"weight_map": {"model.norm.weight": "1.safetensors"}}).to_string());
    assert_eq!(said, "cannot read `model/1.safetensors`: there is no such file or folder; check the path");
}
