//! `topspin export`.

use std::fs;

use serde_json::{Value, json};

use crate::harness::{Sandbox, root};
use crate::runs;

/// A random model of the Qwen 3 family with a byte-level tokenizer of letters, in the folder `letters`.
fn with_letters() -> Sandbox {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("letters")).unwrap();
    for name in ["config.json", "model.safetensors"] {
        let golden = root().join("tests/golden/families/qwen3").join(name);
        fs::copy(golden, sandbox.path("letters").join(name)).unwrap();
    }
    let letters = ('a'..='z').map(String::from).chain(["Ġ", "th", "the", "<s>", "</s>"].map(String::from));
    let vocabulary: serde_json::Map<String, Value> = letters.zip((0..).map(|id| json!(id))).collect();
    let added = |token: &str| {
        json!({"id": vocabulary[token], "content": token, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    let pattern = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\
                   \\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
    let tokenizer = json!({
        "version": "1.0",
        "added_tokens": [added("<s>"), added("</s>")],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false}, bytes]},
        "decoder": bytes,
        // Merges in the older spelling.
        "model": {"type": "BPE", "vocab": vocabulary, "merges": ["t h", "th e"]},
    });
    sandbox.write("letters/tokenizer.json", tokenizer.to_string());
    let settings = json!({"bos_token": "<s>", "eos_token": "</s>", "chat_template": "{{ messages[0].content }}"});
    sandbox.write("letters/tokenizer_config.json", settings.to_string());
    sandbox.write("letters/generation_config.json", r#"{"temperature": 0.6, "eos_token_id": [30, 7]}"#);
    sandbox.write("letters/README.md", "---\nlicense: cc0-1.0\n---\n# Letters\n");
    sandbox
}

fn names(sandbox: &Sandbox, folder: &str) -> Vec<String> {
    let entries = fs::read_dir(sandbox.path(folder)).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn json(sandbox: &Sandbox, name: &str) -> Value {
    serde_json::from_str(&sandbox.read(name)).unwrap()
}

#[test]
fn a_run_is_its_best_iteration() {
    let sandbox = runs::sandbox();
    runs::play(&sandbox, "game");
    let best = fs::read_link(sandbox.path("game/best")).unwrap().display().to_string();
    sandbox.succeed("-q export game --output best");
    assert_eq!(
        names(&sandbox, "best"),
        [
            "README.md",
            "config.json",
            "generation_config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json"
        ]
    );
    for name in ["model.safetensors", "config.json", "tokenizer.json", "generation_config.json"] {
        let read = |folder: &str| fs::read(sandbox.path(folder).join(name)).unwrap();
        assert!(read("best") == read(&format!("game/{best}/model")), "{name}");
    }
    let card = sandbox.read("best/README.md");
    let head = "---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags:\n- topspin\n- spin\n- self-play\n---\n\n# best\n";
    assert!(card.starts_with(head), "{card}");
    let table = sandbox.run("inspect game");
    let row = |folder: &str| table.lines().find(|line| line.starts_with(folder)).unwrap().to_owned();
    for cell in row("iter-1 ").split("  ").map(str::trim).filter(|cell| !cell.is_empty()) {
        assert!(card.contains(&format!("| {cell} |")), "{cell}\n{card}");
    }
    let manifest = json(&sandbox, "game/manifest.json");
    for (key, name) in [("data.train", "train.jsonl"), ("data.test", "test.jsonl"), ("model.path", "model")] {
        let hash = manifest["inputs"][key]["sha256"].as_str().unwrap();
        assert!(card.contains(&format!("| `{key}` | `{name}` | `{hash}` |")), "{key}\n{card}");
    }
    for fact in [
        format!("It is `{best}`, the best of the run by `nll.per_token`."),
        "[arXiv 2401.01335](https://arxiv.org/abs/2401.01335)".into(),
        "Objective `logistic`, beta 1.0, 3 sample(s) of each prompt; 2 iteration(s) played of 2".into(),
        "game.iterations = 2\n".into(),
    ] {
        assert!(card.contains(&fact), "{fact}\n{card}");
    }
    assert!(!card.contains("output.dir") && !card.contains("model.path ="), "{card}");

    sandbox.succeed("-q export game --iteration 0 --output first --type bf16");
    assert!(sandbox.read("first/README.md").contains("`iter-0` is what the game starts from: a model supervised on"));
    assert_eq!(json(&sandbox, "first/config.json")["dtype"], "bfloat16");
    let size = |name: &str| fs::metadata(sandbox.path(name)).unwrap().len();
    assert!(size("first/model.safetensors") < size("best/model.safetensors") * 6 / 10);

    insta::assert_snapshot!(sandbox.run("export game --iteration 3 --output third"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: the run in `game` has no finished iteration 3, but 0 to 2
    ");
    insta::assert_snapshot!(sandbox.run("export game --output best"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: cannot write `best`: something of that name is already there; remove it, or choose another name
    ");
    let said = sandbox.run("export game --output best-gguf --format gguf");
    let what = "its tokenizer is of the kind `WordLevel`, and that format has BPE alone; export a Hugging Face folder";
    assert!(said.starts_with("exit code: 2\n") && said.contains(what), "{said}");
    assert!(!sandbox.names().iter().any(|name| name.contains("third") || name.contains("gguf")));
}

#[test]
fn a_gguf_file_is_the_same_model() {
    let sandbox = with_letters();
    sandbox.write_lines("p.jsonl", &[json!({"prompt": "the path"}), json!({"prompt": "other letters"})]);
    let answers = |model: &str| {
        let line = format!(
            "generate --model {model} --input p.jsonl --output a.jsonl --greedy --max-new-tokens 12 --dtype f32"
        );
        let said = sandbox.run(&line);
        assert!(said.starts_with("exit code: 0\n"), "{said}");
        // Ids that no token belongs to have a text in one of them.
        sandbox
            .read_lines("a.jsonl")
            .into_iter()
            .map(|line| (line["token_ids"].clone(), line["logprobs"].clone()))
            .collect::<Vec<_>>()
    };
    insta::assert_snapshot!(sandbox.run("export letters --output small --format gguf"), @"
    exit code: 0
    --- stdout
    --- stderr
    wrote `letters` in f32 to `small`
    ");
    assert_eq!(names(&sandbox, "small"), ["README.md", "small-F32.gguf"]);
    let parameters = sandbox.run("inspect letters --json").split("\"parameters\":").nth(1).unwrap().to_owned();
    let parameters = parameters.split(',').next().unwrap().to_owned();
    let card = sandbox.read("small/README.md");
    let (head, tail) = card.split_once(" parameters of the architecture").unwrap();
    assert_eq!(
        head.replace(',', ""),
        format!(
            "---\nlicense: cc0-1.0\nlibrary_name: gguf\npipeline_tag: text-generation\ntags:\n- topspin\n---\n\n# small\n\n\
             {parameters}"
        )
    );
    assert_eq!(
        tail,
        format!(" `qwen3`, in f32.\n\nThis is `letters`, written by Topspin {}.\n", env!("CARGO_PKG_VERSION"))
    );
    assert_eq!(answers("small/small-F32.gguf"), answers("letters"));

    insta::assert_snapshot!(sandbox.run("export letters --output tiny --format gguf --type q8_0"), @"
    exit code: 0
    --- stdout
    --- stderr
    3 matrices stay F16: blocks of 32 do not divide their rows
    wrote `letters` in q8_0 to `tiny`
    ");
    sandbox.succeed("-q export tiny/tiny-Q8_0.gguf --output again --type f16");
    assert_eq!(json(&sandbox, "again/config.json")["dtype"], "float16");
    sandbox.succeed("-q export again --output once-more --format gguf --type bf16");
    answers("once-more/once-more-BF16.gguf");
}

#[test]
fn a_folder_keeps_what_the_model_says_of_generation() {
    let sandbox = with_letters();
    sandbox.succeed("-q export letters --output copy");
    let generation = json(&sandbox, "copy/generation_config.json");
    assert_eq!(
        generation,
        json!({"temperature": 0.6, "bos_token_id": 29, "eos_token_id": [30, 7], "pad_token_id": null})
    );
    assert!(sandbox.read("copy/README.md").starts_with("---\nlicense: cc0-1.0\nlibrary_name: transformers\n"));
    let template = json(&sandbox, "copy/tokenizer_config.json")["chat_template"].clone();
    assert_eq!(template, "{{ messages[0].content }}");
}

#[test]
fn what_cannot_be_written_is_said_before_the_work() {
    let sandbox = with_letters();
    let mut config = json(&sandbox, "letters/config.json");
    config["use_sliding_window"] = true.into();
    config["sliding_window"] = 8.into();
    config["max_window_layers"] = 1.into();
    fs::create_dir(sandbox.path("windows")).unwrap();
    for name in ["model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        fs::copy(sandbox.path("letters").join(name), sandbox.path("windows").join(name)).unwrap();
    }
    config.as_object_mut().unwrap().remove("layer_types");
    sandbox.write("windows/config.json", config.to_string());
    insta::assert_snapshot!(sandbox.run("export windows --output o --format gguf"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: cannot export `windows` as GGUF: the architecture `qwen3` of that format has no place for the model's sliding window; export a Hugging Face folder
    ");

    let cut = sandbox.read("letters/tokenizer.json").replace("\\\\p{N}| ?", "\\\\p{N}{1,2}| ?");
    assert_ne!(cut, sandbox.read("letters/tokenizer.json"));
    sandbox.write("letters/tokenizer.json", cut);
    insta::assert_snapshot!(sandbox.run("export letters --output o --format gguf"), @r#"
    exit code: 2
    --- stdout
    --- stderr
    error: cannot export `letters` as GGUF: its tokenizer prepares a text as none does that has a name there (its `normalizer` is {"type":"NFC"}, its `pre_tokenizer` {"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,2}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},"behavior":"Isolated","invert":false},{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":false,"use_regex":false}]}); export a Hugging Face folder
    "#);
    insta::assert_snapshot!(sandbox.run("export letters --output o --type q8_0"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: `--type q8_0` is one of GGUF; add `--format gguf`, or choose `f32`, `bf16` or `f16`
    ");
    insta::assert_snapshot!(sandbox.run("export letters --output o --iteration 1"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: `--iteration` is one of a run, and `letters` is none (it has no `manifest.json`); leave it out
    ");
    insta::assert_snapshot!(sandbox.run("export letters --output no/o"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: cannot write `no/o`: the folder that should hold it does not exist; create it, or check the path
    ");
    insta::assert_snapshot!(sandbox.run("export nothing --output o"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: `nothing` is not a model: there is no such file or folder; check the path, or write `hf:org/name` for a model on the Hub
    ");
    assert_eq!(sandbox.names(), ["letters", "windows"]);
}
