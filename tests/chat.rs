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

/// A conversation through pipes that stay open.
#[cfg(unix)]
pub struct Open {
    child: std::process::Child,
}

#[cfg(unix)]
impl Open {
    pub fn new(sandbox: &Sandbox, args: &[&str]) -> Self {
        use std::process::{Command, Stdio};
        let mut command = Command::new(crate::harness::program());
        command.current_dir(sandbox.path("")).args(["-q", "chat"]).args(args);
        Self { child: command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap() }
    }

    pub fn say(&mut self, text: &str) {
        use std::io::Write;
        self.child.stdin.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
    }

    /// Waits for one byte of an answer.
    pub fn hear(&mut self) {
        use std::io::Read;
        self.child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    }

    /// Presses Ctrl-C.
    pub fn interrupt(&self) {
        let pid = self.child.id().to_string();
        assert!(std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    }

    /// The exit code of a program that ends by itself.
    pub fn wait(mut self) -> Option<i32> {
        // `Child::wait` would close stdin, which ends a conversation too.
        let stdin = self.child.stdin.take();
        let code = self.child.wait().unwrap().code();
        drop(stdin);
        code
    }

    /// What is left of the answers, and the exit code.
    pub fn end(mut self) -> (String, Option<i32>) {
        use std::io::Read;
        drop(self.child.stdin.take());
        let mut rest = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut rest).unwrap();
        (rest, self.child.wait().unwrap().code())
    }
}

#[cfg(unix)]
#[test]
fn ctrl_c_between_two_turns_ends_the_program() {
    let sandbox = Sandbox::with_model();
    let mut chat = Open::new(&sandbox, &["--model", "model", "--greedy", "--max-new-tokens", "1"]);
    chat.say("Hi\n");
    chat.hear();
    // The answer is printed before it is over: give it time to be.
    std::thread::sleep(std::time::Duration::from_millis(500));
    chat.interrupt();
    assert_eq!(chat.wait(), Some(130));
}
