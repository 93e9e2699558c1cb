//! What the user can mend: one sentence that says what is wrong and where, exit code 2, and no file left half-written.

use serde_json::{Value, json};

use crate::harness::{CONTEXT, Sandbox};

/// Runs `generate` on the content of a file and returns what was said; nothing must have been written.
fn generate(content: &str) -> String {
    let sandbox = Sandbox::with_model();
    sandbox.write("in.jsonl", content);
    let said = sandbox.run("-q generate --model model --input in.jsonl --output out.jsonl");
    assert_eq!(sandbox.names(), ["in.jsonl", "model"]);
    said
}

fn score(content: &str) -> String {
    let sandbox = Sandbox::with_model();
    sandbox.write("in.jsonl", content);
    let said = sandbox.run("-q score --model model --input in.jsonl --output out.jsonl");
    assert_eq!(sandbox.names(), ["in.jsonl", "model"]);
    said
}

#[test]
fn files_that_cannot_be_read() {
    let sandbox = Sandbox::with_model();
    insta::assert_snapshot!(sandbox.run("-q generate --model model --input nowhere.jsonl --output o"), @"");
    insta::assert_snapshot!(sandbox.run("-q generate --model model --input model --output o"), @"");
    assert_eq!(sandbox.names(), ["model"]);
    insta::assert_snapshot!(generate(""), @"");
    insta::assert_snapshot!(generate("\n\n"), @"");
}

#[test]
fn records_that_cannot_be_used() {
    insta::assert_snapshot!(generate("{\"prompt\": \"a\"}\nprompt: b\n"), @"");
    insta::assert_snapshot!(generate("[1, 2]\n"), @"");
    insta::assert_snapshot!(generate("{\"text\": \"a\"}\n"), @"");
    insta::assert_snapshot!(generate("{\"prompt\": 3}\n"), @"");
    insta::assert_snapshot!(generate("{\"prompt\": \" \"}\n"), @"");
    insta::assert_snapshot!(generate("{\"messages\": [{\"role\": \"robot\", \"content\": \"a\"}]}\n"), @"");
    insta::assert_snapshot!(score("{\"prompt\": \"a\", \"response\": \"b\"}\n{\"prompt\": \"a\"}\n"), @"");
    insta::assert_snapshot!(score("{\"prompt\": \"a\", \"response\": [\"b\"]}\n"), @"");
}

#[test]
fn text_that_does_not_fit() {
    let long = |key: &str, n: usize| {
        let mut line = json!({"prompt": "a", "response": "b"});
        line[key] = "x".repeat(n).into();
        format!("{line}\n")
    };
    insta::assert_snapshot!(generate(&long("prompt", CONTEXT)), @"");
    insta::assert_snapshot!(generate(&long("prompt", CONTEXT - 3)), @"");
    insta::assert_snapshot!(score(&long("response", CONTEXT)), @"");
    insta::assert_snapshot!(generate("{\"prompt\": \"caf\u{e9}\"}\n"), @"");
}

#[test]
fn models_that_cannot_be_used() {
    let sandbox = Sandbox::with_model();
    sandbox.write("in.jsonl", "{\"prompt\": \"a\"}\n");
    let run = |model: &str| sandbox.run(&format!("-q generate --model {model} --input in.jsonl --output out.jsonl"));
    insta::assert_snapshot!(run("nowhere"), @"");
    insta::assert_snapshot!(run("in.jsonl"), @"");
    insta::assert_snapshot!(run("hf:not/a/model"), @"");

    std::fs::create_dir(sandbox.path("empty")).unwrap();
    insta::assert_snapshot!(run("empty"), @"");

    let weights = sandbox.path("model/model.safetensors");
    let whole = std::fs::read(&weights).unwrap();
    std::fs::remove_file(&weights).unwrap();
    insta::assert_snapshot!(run("model"), @"");
    std::fs::write(&weights, &whole[..whole.len() / 2]).unwrap();
    insta::assert_snapshot!(run("model"), @"");
    std::fs::write(&weights, "These are no weights.").unwrap();
    insta::assert_snapshot!(run("model"), @"");
    std::fs::write(&weights, &whole).unwrap();

    let with = |key: &str, value: Value| {
        let path = sandbox.path("model/config.json");
        let before = std::fs::read_to_string(&path).unwrap();
        let mut config: Value = serde_json::from_str(&before).unwrap();
        config[key] = value;
        std::fs::write(&path, config.to_string()).unwrap();
        let said = run("model");
        std::fs::write(&path, before).unwrap();
        said
    };
    insta::assert_snapshot!(with("hidden_size", json!(64)), @"");
    insta::assert_snapshot!(with("architectures", json!(["GPT2LMHeadModel"])), @"");
    insta::assert_snapshot!(with("num_hidden_layers", json!("two")), @"");

    sandbox.write("foreign.gguf", "not a GGUF file at all, but as long as one might be");
    insta::assert_snapshot!(run("foreign.gguf"), @"");
    assert_eq!(sandbox.names(), ["empty", "foreign.gguf", "in.jsonl", "model"]);
}

#[test]
fn outputs_that_cannot_be_written() {
    let sandbox = Sandbox::with_model();
    sandbox.write("in.jsonl", "{\"prompt\": \"a\"}\n");
    let run = |output: &str| {
        sandbox.run(&format!("-q generate --model model --input in.jsonl --max-new-tokens 2 --output {output}"))
    };
    insta::assert_snapshot!(run("no/such/folder/out.jsonl"), @"");
    insta::assert_snapshot!(run("model"), @"");
    #[cfg(target_os = "linux")]
    insta::assert_snapshot!(run("/dev/full"), @"");
    assert_eq!(sandbox.names(), ["in.jsonl", "model"]);
}

#[test]
fn a_vector_unit_that_does_not_exist() {
    let sandbox = Sandbox::with_model();
    sandbox.write("in.jsonl", "{\"prompt\": \"a\"}\n");
    let mut command = sandbox.topspin(&["generate", "--model", "model", "--input", "in.jsonl"]);
    insta::assert_snapshot!(crate::harness::block(command.env("TOPSPIN_SIMD", "sse9")), @"");
}

#[test]
fn configurations_that_cannot_be_used() {
    let sandbox = Sandbox::new();
    let inspect = |text: &str| {
        sandbox.write("c.toml", text);
        sandbox.run("inspect c.toml")
    };
    insta::assert_snapshot!(inspect("[game\n"), @"");
    insta::assert_snapshot!(inspect("[game]\nbetta = 0.1\n"), @"");
    insta::assert_snapshot!(inspect("[game]\nbeta = -1\n"), @"");
    insta::assert_snapshot!(inspect("[game]\niterations = 3\nbeta = [1, 2]\n"), @"");
    insta::assert_snapshot!(inspect("[rollout]\nmax_new_tokens = \"many\"\n"), @"");
}
