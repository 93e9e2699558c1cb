//! `topspin chat` through pipes.

use crate::harness::Sandbox;

/// What is said to the turns of `input`.
fn chat(sandbox: &Sandbox, flags: &str, input: &str) -> String {
    let flags: Vec<&str> = flags.split_whitespace().collect();
    let mut command = sandbox.topspin(&["-q", "chat", "--model", "model", "--max-new-tokens", "6"]);
    let output = command.args(flags).write_stdin(input).output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap().as_str()), (Some(0), ""));
    String::from_utf8(output.stdout).unwrap()
}

/// Cut after as many tokens, of which one at least is no line feed: the tiny model's answers may hold any character.
#[test]
fn turns_build_on_each_other_until_a_reset() {
    let sandbox = Sandbox::with_model();
    let once = chat(&sandbox, "--greedy", "Hi\n");
    assert!(once.ends_with('\n') && once.len() > 1, "{once:?}");
    // Blank lines are no turns, and what follows `/quit` is not read.
    assert_eq!(chat(&sandbox, "--greedy", "\n  \nHi\n/quit\nHi\n"), once);
    let twice = chat(&sandbox, "--greedy", "Hi\nHi\n");
    assert!(twice.starts_with(&once) && twice[once.len()..] != once, "{twice:?}");
    assert_eq!(chat(&sandbox, "--greedy", "Hi\n/reset\nHi\n"), format!("{once}{once}"));
    // The last line needs no line feed.
    assert_eq!(chat(&sandbox, "--greedy", "Hi\n/reset\nHi"), format!("{once}{once}"));
    assert_ne!(chat(&sandbox, "--greedy --system Be", "Hi\n"), once);
}

/// The keys and values of earlier turns are used again, so the answer must be that of a model which sees the whole
/// conversation anew.
#[test]
fn an_answer_is_what_generate_gives_to_the_conversation() {
    let sandbox = Sandbox::with_model();
    let said = chat(&sandbox, "--greedy", "Hi\nso\n");
    let generate = |messages: serde_json::Value| {
        sandbox.write_lines("in.jsonl", &[serde_json::json!({"messages": messages})]);
        sandbox.succeed("generate --model model --input in.jsonl --output out.jsonl --greedy --max-new-tokens 6");
        sandbox.read_lines("out.jsonl")[0]["response"].as_str().unwrap().to_owned()
    };
    let user = |text: &str| serde_json::json!({"role": "user", "content": text});
    let first = generate(serde_json::json!([user("Hi")]));
    let answer = serde_json::json!({"role": "assistant", "content": first});
    let second = generate(serde_json::json!([user("Hi"), answer, user("so")]));
    assert_eq!(said, format!("{first}\n{second}\n"));
}

#[test]
fn a_conversation_that_outgrows_the_context_is_an_error() {
    let sandbox = Sandbox::with_model();
    let mut command = sandbox.topspin(&["-q", "chat", "--model", "model"]);
    let long = format!("{}\n", "x".repeat(80));
    insta::assert_snapshot!(crate::harness::block(command.write_stdin(long)), @"
    exit code: 2
    --- stdout
    --- stderr
    error: the conversation has 83 tokens, which leaves no room for an answer in the model's context of 64; start anew with `/reset`
    ");
}
