//! `topspin report`.

use std::ffi::OsStr;
use std::fs;
use std::io::{Write, stderr};
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{Sandbox, root};

/// What must not become markup, with the prompt that is asked about it.
const NASTY: &str = "</script><script>owned=1//";
const IMAGE: &str = "<img src=x onerror=owned=1>";

/// A sandbox with a run of a tiny model, `out`, and the same with another beta, `other`.
fn played() -> Sandbox {
    let sandbox = Sandbox::with_model();
    let line = |k: usize| match k {
        0 => json!({"prompt": NASTY, "response": IMAGE}),
        _ => json!({"prompt": format!("{k} and one"), "response": format!("that is {}", k + 1)}),
    };
    sandbox.write_lines("train.jsonl", &(0..14).map(line).collect::<Vec<Value>>());
    sandbox.write_lines("test.jsonl", &(0..23).map(|k| line(k * k)).collect::<Vec<Value>>());
    sandbox.write(
        "run.toml",
        "[model]\npath = 'model'\n[data]\ntrain = 'train.jsonl'\ntest = 'test.jsonl'\n[sft]\nlr = 1e-2\nbatch = 2\nepochs = 4\n\
         [game]\niterations = 2\nsamples = 2\nbeta = 0.5\n[rollout]\nmax_new_tokens = 24\n[train]\nlr = 1e-3\nbatch_pairs = 4\n\
         [eval]\nbest = 'greedy.tokens.mean'\n",
    );
    for (dir, beta) in [("out", "0.5"), ("other", "2")] {
        let said = sandbox.run(&format!("-q run run.toml --set output.dir={dir} --set game.beta={beta}"));
        assert!(said.starts_with("exit code: 0\n"), "{said}");
    }
    sandbox
}

/// The page is looked at in a browser where there is one: tests/browser/report.py says what is checked.
#[test]
fn a_page_of_a_run() {
    let sandbox = played();
    let said = sandbox.run("report out");
    assert!(said.starts_with("exit code: 0\n--- stdout\n`out/report.html` (0."), "{said}");
    assert!(said.ends_with(" MB) is written; open it in a browser\n--- stderr\n"), "{said}");
    let page = sandbox.read("out/report.html");
    assert!(!page.contains(NASTY) && !page.contains(IMAGE));
    // The same again is the same page, and the run goes on beside it.
    let printed = sandbox.topspin(&["report", "out", "--output", "-"]).output().unwrap();
    assert!(printed.status.success() && printed.stdout == page.as_bytes());
    let said = sandbox.run("-q run run.toml --set output.dir=out");
    assert!(said.starts_with("exit code: 0\n"), "{said}");
    let said = sandbox.run("report out other");
    assert!(said.starts_with("exit code: 0\n--- stdout\n`report.html` (0."), "{said}");

    look_at(&sandbox, ["out", "out/report.html", "report.html", "--text", NASTY].map(OsStr::new));
}

/// The run that `TOPSPIN_REPORT_RUN` names, if it names one: its page is looked at as that of the tiny run is.
#[test]
fn a_page_of_a_named_run() {
    let Some(run) = std::env::var_os("TOPSPIN_REPORT_RUN") else { return };
    let (sandbox, run) = (Sandbox::new(), root().join(run));
    // Where the run's configuration says a path of its model, it is likely from there.
    let mut report = sandbox.topspin(&["report", "--output"]);
    report.arg(sandbox.path("page.html")).arg(&run).current_dir(root()).assert().success();
    look_at(&sandbox, [run.as_os_str(), OsStr::new("page.html")]);
}

/// Looks at pages in a browser, where there is one.
fn look_at<const N: usize>(sandbox: &Sandbox, args: [&OsStr; N]) {
    let mut look = Command::new("python3");
    look.arg(root().join("tests/browser/report.py")).current_dir(sandbox.path("")).args(args);
    let Ok(looked) = look.output() else { return skip("there is no `python3`") };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    match looked.status.code() {
        Some(0) => {}
        Some(77) => skip(&text(&looked.stdout)),
        _ => panic!("{}\n{}", text(&looked.stdout), text(&looked.stderr)),
    }
}

/// Says on stderr itself, since a test's own output is shown only when it fails.
fn skip(why: &str) {
    let _ = writeln!(stderr(), "\nreport: the page was NOT looked at in a browser: {why}\n");
}

/// A run at its beginning, without its model, or with a file damaged.
#[test]
fn what_is_not_there_is_told() {
    let sandbox = Sandbox::new();
    fs::create_dir_all(sandbox.path("out/iter-0")).unwrap();
    sandbox.write("out/manifest.json", r#"{"stages": [{"name": "iter-0/train", "state": "pending"}]}"#);
    sandbox.write("out/config.toml", "[model]\npath = 'gone'\n");
    sandbox.write("out/iter-0/metrics.partial.jsonl", "{\"step\":1,\"loss\":2.5}\n{\"st");
    let said = sandbox.run("report out");
    assert!(said.starts_with("exit code: 0\n"), "{said}");
    assert!(said.contains("tokens cannot be spelled (`gone` is not a model"), "{said}");
    let page = sandbox.read("out/report.html");
    assert!(page.contains("The run is not finished: 0 of 1 stages are done, and iter-0/train is next."), "{page}");
    assert!(page.contains("The tokenizer of the run's model could not be read"), "{page}");

    insta::assert_snapshot!(sandbox.run("report out --model gone"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: `gone` is not a model: there is no such file or folder; check the path, or write `hf:org/name` for a model on the Hub
    ");
    insta::assert_snapshot!(sandbox.run("report nowhere"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: cannot read `nowhere/manifest.json`: there is no such file or folder; check the path
    ");
    fs::create_dir(sandbox.path("folder")).unwrap();
    insta::assert_snapshot!(sandbox.run("report folder"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: `folder` is not the folder of a run: it has no `manifest.json`; name the folder that `topspin run` wrote
    ");
    fs::create_dir(sandbox.path("torn")).unwrap();
    sandbox.write("torn/manifest.json", "{\"stages\": [");
    insta::assert_snapshot!(sandbox.run("report torn"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: line 1 of `torn/manifest.json` cannot be understood (EOF while parsing a list at line 1 column 12); restore the file: without it nobody knows what the folder holds
    ");
    insta::assert_snapshot!(sandbox.run("report out --output nowhere/page.html"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: cannot write `nowhere/page.html`: the folder that should hold it does not exist; create it, or check the path
    ");
    sandbox.write("out/iter-0/metrics.jsonl", "{\"step\":1,\"loss\":2.5}\n{\"st\n");
    insta::assert_snapshot!(sandbox.run("-q report out"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: line 2 of `out/iter-0/metrics.jsonl` cannot be understood (EOF while parsing a string at line 1 column 4); restore the file, or remove it and the page goes without
    ");
}
