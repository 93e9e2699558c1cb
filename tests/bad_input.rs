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
    insta::assert_snapshot!(sandbox.run("-q generate --model model --input nowhere.jsonl --output o"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: cannot read `nowhere.jsonl`: there is no such file or folder; check the path
    ");
    insta::assert_snapshot!(sandbox.run("-q generate --model model --input model --output o"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: cannot read `model`: it is a folder; name a file
    ");
    assert_eq!(sandbox.names(), ["model"]);
    insta::assert_snapshot!(generate(""), @"
    exit code: 2
    --- stdout
    --- stderr
    error: `in.jsonl` holds no record; write one JSON object a line
    ");
    insta::assert_snapshot!(generate("\n\n"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: `in.jsonl` holds no record; write one JSON object a line
    ");
}

#[test]
fn records_that_cannot_be_used() {
    insta::assert_snapshot!(generate("{\"prompt\": \"a\"}\nprompt: b\n"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: `in.jsonl`, line 2: this is not JSON (expected value at column 1); write one JSON object a line
    ");
    insta::assert_snapshot!(generate("[1, 2]\n"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: `in.jsonl`, line 1: the record must be an object and is a list; write one JSON object a line
    ");
    insta::assert_snapshot!(generate("{\"text\": \"a\"}\n"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: `in.jsonl`, line 1: there is no prompt; add `prompt` (or `question`, or `messages`), or name its column in `data.columns`
    ");
    insta::assert_snapshot!(generate("{\"prompt\": 3}\n"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: `in.jsonl`, line 1: `prompt` must be a string and is a number
    ");
    insta::assert_snapshot!(generate("{\"prompt\": \" \"}\n"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: `in.jsonl`, line 1: `prompt` is empty; fill it in or remove the record
    ");
    insta::assert_snapshot!(generate("{\"messages\": [{\"role\": \"robot\", \"content\": \"a\"}]}\n"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: `in.jsonl`, line 1: `messages[0].role` is `robot`; use `system`, `user` or `assistant`
    ");
    insta::assert_snapshot!(score("{\"prompt\": \"a\", \"response\": \"b\"}\n{\"prompt\": \"a\"}\n"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: `in.jsonl`, line 2: there is no response, and this use of the data needs one; add `response` (or `completion`, or `answer`), or end `messages` with the assistant's
    ");
    insta::assert_snapshot!(score("{\"prompt\": \"a\", \"response\": [\"b\"]}\n"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: `in.jsonl`, line 1: `response` must be a string and is a list
    ");
}

#[test]
fn text_that_does_not_fit() {
    let long = |key: &str, n: usize| {
        let mut line = json!({"prompt": "a", "response": "b"});
        line[key] = "x".repeat(n).into();
        format!("{line}\n")
    };
    insta::assert_snapshot!(generate(&long("prompt", CONTEXT)), @"
    exit code: 2
    --- stdout
    --- stderr
    error: `in.jsonl`, line 1: the prompt has 67 tokens, which leaves no room for a response in the model's context of 64; shorten it to 63 tokens or fewer
    ");
    insta::assert_snapshot!(generate(&long("prompt", CONTEXT - 3)), @"
    exit code: 2
    --- stdout
    --- stderr
    error: `in.jsonl`, line 1: the prompt has 64 tokens, which leaves no room for a response in the model's context of 64; shorten it to 63 tokens or fewer
    ");
    insta::assert_snapshot!(score(&long("response", CONTEXT)), @"
    exit code: 2
    --- stdout
    --- stderr
    error: `in.jsonl`, line 1: prompt and response have 4 + 65 tokens, more than the model's context of 64; shorten one of them
    ");
    insta::assert_snapshot!(generate("{\"prompt\": \"caf\u{e9}\"}\n"), @r#"
    exit code: 2
    --- stdout
    --- stderr
    error: `in.jsonl`, line 1: cannot turn the text "u:café<sep>" into tokens: the model has no token for 'é'; remove it, or choose a model that knows it
    "#);
}

#[test]
fn models_that_cannot_be_used() {
    let sandbox = Sandbox::with_model();
    sandbox.write("in.jsonl", "{\"prompt\": \"a\"}\n");
    let run = |model: &str| sandbox.run(&format!("-q generate --model {model} --input in.jsonl --output out.jsonl"));
    insta::assert_snapshot!(run("nowhere"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: `nowhere` is not a model: there is no such file or folder; check the path, or write `hf:org/name` for a model on the Hub
    ");
    insta::assert_snapshot!(run("in.jsonl"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: `in.jsonl` is not a model: it is a file, but not a `.gguf`; name the folder that holds it
    ");
    insta::assert_snapshot!(run("hf:not/a/model"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: `hf:not/a/model` is not a model: a model on the Hub is written `hf:org/name` or `hf:org/name@revision`
    ");

    std::fs::create_dir(sandbox.path("empty")).unwrap();
    insta::assert_snapshot!(run("empty"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: `empty` is not a model: it is a folder without `config.json`; name a folder in the Hugging Face layout
    ");

    let weights = sandbox.path("model/model.safetensors");
    let whole = std::fs::read(&weights).unwrap();
    std::fs::remove_file(&weights).unwrap();
    insta::assert_snapshot!(run("model"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: cannot use the weights in `model`: it has neither `model.safetensors` nor `model.safetensors.index.json`; put the weights there, or name another folder
    ");
    std::fs::write(&weights, &whole[..whole.len() / 2]).unwrap();
    insta::assert_snapshot!(run("model"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: cannot use the weights in `model/model.safetensors`: it ends after 44764 bytes, but its header asks for 89528; the file is truncated, fetch it again
    ");
    std::fs::write(&weights, "These are no weights.").unwrap();
    insta::assert_snapshot!(run("model"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: cannot use the weights in `model/model.safetensors`: it is not a safetensors file; check that it is the right one
    ");
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
    insta::assert_snapshot!(with("hidden_size", json!(64)), @"
    exit code: 2
    --- stdout
    --- stderr
    error: tensor `model.embed_tokens.weight` in `model/model.safetensors` has the shape [99, 32]; `config.json` asks for [99, 64]
    ");
    insta::assert_snapshot!(with("architectures", json!(["GPT2LMHeadModel"])), @"
    exit code: 2
    --- stdout
    --- stderr
    error: `model/config.json` describes a model of the architecture `GPT2LMHeadModel`, which is not supported; choose one of llama, mistral, qwen2, qwen3, gemma2, gemma3_text, phi3, smollm3, olmo2, granite
    ");
    insta::assert_snapshot!(with("num_hidden_layers", json!("two")), @r#"
    exit code: 2
    --- stdout
    --- stderr
    error: `num_hidden_layers` in `model/config.json` is "two"; it must be a whole number
    "#);

    sandbox.write("foreign.gguf", "not a GGUF file at all, but as long as one might be");
    insta::assert_snapshot!(run("foreign.gguf"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: cannot use the weights in `foreign.gguf`: it is not a GGUF file; check that it is the right one
    ");
    assert_eq!(sandbox.names(), ["empty", "foreign.gguf", "in.jsonl", "model"]);
}

#[test]
fn outputs_that_cannot_be_written() {
    let sandbox = Sandbox::with_model();
    sandbox.write("in.jsonl", "{\"prompt\": \"a\"}\n");
    let run = |output: &str| {
        sandbox.run(&format!("-q generate --model model --input in.jsonl --max-new-tokens 2 --output {output}"))
    };
    insta::assert_snapshot!(run("no/such/folder/out.jsonl"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: cannot write `no/such/folder/out.jsonl`: the folder that should hold it does not exist; create it, or check the path
    ");
    insta::assert_snapshot!(run("model"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: cannot write `model`: it is a folder; name a file
    ");
    #[cfg(target_os = "linux")]
    insta::assert_snapshot!(run("/dev/full"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: cannot write `/dev/full`: no space is left on the device; free some, or choose a folder on another one
    ");
    assert_eq!(sandbox.names(), ["in.jsonl", "model"]);
}

#[test]
fn a_vector_unit_that_does_not_exist() {
    let sandbox = Sandbox::with_model();
    sandbox.write("in.jsonl", "{\"prompt\": \"a\"}\n");
    let mut command = sandbox.topspin(&["generate", "--model", "model", "--input", "in.jsonl"]);
    insta::assert_snapshot!(crate::harness::block(command.env("TOPSPIN_SIMD", "sse9")), @"
    exit code: 2
    --- stdout
    --- stderr
    error: `sse9` names no vector instruction set: `TOPSPIN_SIMD` takes `scalar`, `neon`, `avx2`, `avx512` or `avx512bf16`
    ");
}

#[test]
fn configurations_that_cannot_be_used() {
    let sandbox = Sandbox::new();
    let inspect = |text: &str| {
        sandbox.write("c.toml", text);
        sandbox.run("inspect c.toml")
    };
    insta::assert_snapshot!(inspect("[game\n"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: line 1 of `c.toml` cannot be understood: unclosed table, expected `]`
    ");
    insta::assert_snapshot!(inspect("[game]\nbetta = 0.1\n"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: unknown key `game.betta` in `c.toml`, line 2; did you mean `game.beta`?
    ");
    insta::assert_snapshot!(inspect("[game]\nbeta = -1\n"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: `game.beta` is -1, but must be a number above 0
    ");
    insta::assert_snapshot!(inspect("[game]\niterations = 3\nbeta = [1, 2]\n"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: `game.beta` lists 2 values for 3 iterations (`game.iterations`); give one value for all, or one for each
    ");
    insta::assert_snapshot!(inspect("[rollout]\nmax_new_tokens = \"many\"\n"), @r#"
    exit code: 2
    --- stdout
    --- stderr
    error: `rollout.max_new_tokens` in `c.toml`, line 2: invalid type: string "many", expected a whole number, 0 or more
    "#);
}
