//! What the program says of itself.

use crate::harness::Sandbox;

#[test]
fn help_teaches() {
    let sandbox = Sandbox::new();
    insta::assert_snapshot!("help", sandbox.run("--help"));
    let commands = [
        "run",
        "sft",
        "generate",
        "score",
        "eval",
        "chat",
        "export",
        "inspect",
        "watch",
        "report",
        "data",
        "bench",
        "lab",
        "completions",
    ];
    for command in commands.into_iter().chain([
        "quickstart",
        "data inspect",
        "bench gemm",
        "bench train",
        "bench generate",
        "bench iteration",
        "bench scaling",
        "lab tables",
        "lab policy-step",
        "lab network",
        "lab figures",
    ]) {
        insta::assert_snapshot!(
            format!("help-{}", command.replace(' ', "-")),
            sandbox.run(&format!("{command} --help"))
        );
    }
}

#[test]
fn a_wrong_command_line_is_the_users_to_mend() {
    let sandbox = Sandbox::new();
    insta::assert_snapshot!(sandbox.run("generat --model m"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: unrecognized subcommand 'generat'

      tip: a similar subcommand exists: 'generate'

    Usage: topspin [OPTIONS] <COMMAND>

    For more information, try '--help'.
    ");
    insta::assert_snapshot!(sandbox.run("generate --model m --input i --temperature 0"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: `m` is not a model: there is no such file or folder; check the path, or write `hf:org/name` for a model on the Hub
    ");
    insta::assert_snapshot!(sandbox.run("generate --model m --input i --greedy --top-k 4"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: the argument '--greedy' cannot be used with '--top-k <K>'

    Usage: topspin generate --model <MODEL> --input <FILE> --greedy

    For more information, try '--help'.
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
