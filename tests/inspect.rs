//! `topspin inspect` and `topspin eval`.

use serde_json::{Value, json};

use crate::harness::Sandbox;

fn pairs() -> Vec<Value> {
    vec![
        json!({"prompt": "one", "response": "1"}),
        json!({"prompt": "two", "response": "2 or so"}),
        json!({"prompt": "two", "references": ["2", "two"]}),
        json!({"messages": [
            {"role": "system", "content": "Count."}, {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b"}, {"role": "user", "content": "three"}], "response": "3"}),
    ]
}

#[test]
fn says_what_a_path_is() {
    let sandbox = Sandbox::with_model();
    sandbox.write_lines("data.jsonl", &pairs());
    sandbox.write("game.toml", "[data]\ntrain = \"data.jsonl\"\n[game]\nbeta = [0.5, 1]\niterations = 2\n");
    insta::assert_snapshot!(sandbox.run("inspect model"), @"");
    insta::assert_snapshot!(sandbox.run("inspect model --json"), @"");
    insta::assert_snapshot!(sandbox.run("inspect data.jsonl"), @"");
    insta::assert_snapshot!(sandbox.run("inspect game.toml"), @"");
    std::fs::create_dir(sandbox.path("folder")).unwrap();
    insta::assert_snapshot!(sandbox.run("inspect folder"), @"");
    insta::assert_snapshot!(sandbox.run("inspect nowhere"), @"");
}

/// The likelihood is that which `score` gives, aggregated over tokens.
#[test]
fn an_evaluation_agrees_with_score_and_generate() {
    let sandbox = Sandbox::with_model();
    let lines = [json!({"prompt": "a", "response": "bcd"}), json!({"prompt": "Hello", "response": "h"})];
    sandbox.write_lines("data.jsonl", &lines);
    let output = sandbox
        .topspin(&["-q", "eval", "--model", "model", "--data", "data.jsonl", "--json", "--max-new-tokens", "9"])
        .args(["--output", "answers.jsonl"])
        .output()
        .unwrap();
    let evaluation: Value = serde_json::from_slice(&output.stdout).unwrap();
    let figure = |name: &str| evaluation["figures"][name]["value"].as_f64().unwrap();

    sandbox.succeed("score --model model --input data.jsonl --output scored.jsonl");
    let scored = sandbox.read_lines("scored.jsonl");
    let sum: f64 = scored.iter().map(|line| line["logprob"].as_f64().unwrap()).sum();
    let tokens: usize = scored.iter().map(|line| line["token_ids"].as_array().unwrap().len()).sum();
    assert!((figure("nll.per_token") + sum / tokens as f64).abs() < 1e-9);

    sandbox.succeed("generate --model model --input data.jsonl --output greedy.jsonl --greedy --max-new-tokens 9");
    assert_eq!(sandbox.read("greedy.jsonl"), sandbox.read("answers.jsonl"));
    let lengths: Vec<usize> =
        sandbox.read_lines("greedy.jsonl").iter().map(|line| line["token_ids"].as_array().unwrap().len()).collect();
    assert_eq!(figure("tokens.generated.mean"), lengths.iter().sum::<usize>() as f64 / 2.0);
    assert_eq!((evaluation["records"].as_u64(), figure("exact_match")), (Some(2), 0.0));

    // An answer of the model's own is an exact match, whichever field holds it.
    let own = sandbox.read_lines("answers.jsonl");
    let own = json!({"prompt": "a", "references": ["no", own[0]["response"]]});
    sandbox.write_lines("own.jsonl", &[own, lines[1].clone()]);
    let mut command = sandbox.topspin(&["-q", "eval", "--model", "model", "--data", "own.jsonl", "--json"]);
    let output = command.args(["--max-new-tokens", "9"]).output().unwrap();
    let evaluation: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(evaluation["figures"]["exact_match"]["value"], 0.5);
}

#[test]
fn an_evaluation_prints_a_table() {
    let sandbox = Sandbox::with_model();
    sandbox.write_lines("data.jsonl", &pairs());
    let said = sandbox.run("-q eval --model model --data data.jsonl --limit 3 --max-new-tokens 3");
    assert!(said.starts_with("exit code: 0\n--- stdout\n") && said.ends_with("--- stderr\n"), "{said}");
    for name in ["nll.per_token", "nll.perplexity", "exact_match", "tokens.generated.mean", "finish_reason.stop"] {
        assert!(said.contains(&format!("\n{name} ")), "{name}\n{said}");
    }
    sandbox.write("none.jsonl", "{\"prompt\": \"a\"}\n");
    insta::assert_snapshot!(sandbox.run("-q eval --model model --data none.jsonl"), @"");
}
