//! What the program says of itself.

use crate::harness::Sandbox;

#[test]
fn help_teaches() {
    let sandbox = Sandbox::new();
    insta::assert_snapshot!("help", sandbox.run("--help"));
    for command in ["generate", "score", "eval", "chat", "inspect", "bench", "completions"] {
        insta::assert_snapshot!(format!("help-{command}"), sandbox.run(&format!("{command} --help")));
    }
}

#[test]
fn a_wrong_command_line_is_the_users_to_mend() {
    let sandbox = Sandbox::new();
    insta::assert_snapshot!(sandbox.run("generat --model m"), @r"
    ");
    insta::assert_snapshot!(sandbox.run("generate --model m --input i --temperature 0"), @r"
    ");
    insta::assert_snapshot!(sandbox.run("generate --model m --input i --greedy --top-k 4"), @r"
    ");
}

#[test]
fn completions_name_the_commands() {
    let sandbox = Sandbox::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let said = sandbox.run(&format!("completions {shell}"));
        assert!(said.starts_with("exit code: 0\n") && said.ends_with("--- stderr\n"), "{said}");
        assert!(said.contains("score") && said.contains("max-new-tokens"), "{shell}");
    }
}

/// `topspin ... | head -1` is no error.
#[test]
fn a_reader_that_goes_away_is_no_error() {
    use std::io::Read;
    use std::process::{Command, Stdio};
    // More than a pipe holds, so that the program must meet the closed end.
    let mut child = Command::new(crate::harness::program())
        .args(["completions", "zsh"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!((child.wait().unwrap().code(), said.as_str()), (Some(0), ""));
}
