//! `topspin bench`: that it measures; how fast anything is, no test says.

use serde_json::Value;

use crate::harness::{Sandbox, root};

fn bench(sandbox: &Sandbox, line: &str) -> Value {
    let line = format!("-q bench {line} --model model --steps 2 --json");
    let output = sandbox.topspin(&line.split_whitespace().collect::<Vec<_>>()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The names are those that benches/peers reads.
#[test]
fn figures_have_their_names_and_are_numbers() {
    let sandbox = Sandbox::with_model();
    let generate = bench(&sandbox, "generate --sequences 3 --prompt-tokens 5 --response-tokens 7 --threads 1");
    let train = bench(&sandbox, "train --pairs 2 --prompt-tokens 5 --response-tokens 7 --dtype f32");
    for (figures, rate) in [(&generate, "new_tokens_per_s"), (&train, "pairs_per_s")] {
        for name in [rate, "tokens_per_s", "seconds", "gflops", "product_gflops", "mfu"] {
            assert!(figures[name].as_f64().is_some_and(|x| x > 0.0), "{name}: {figures}");
        }
        let operations = figures["operations"].as_object().unwrap();
        let sum: f64 = operations.values().map(|seconds| seconds.as_f64().unwrap()).sum();
        assert!(operations["linear_forward"].as_f64().unwrap() > 0.0 && sum > 0.0, "{figures}");
        if cfg!(target_os = "linux") {
            assert!(figures["peak_rss_bytes"].as_u64().is_some_and(|bytes| bytes > 1 << 20), "{figures}");
        }
    }
    assert_eq!(
        (&generate["work"], &train["work"], &train["dtype"]),
        (&"generate".into(), &"train".into(), &"f32".into())
    );
    assert_eq!(generate["threads"], 1);
    assert!(train["operations"]["attention_backward"].as_f64().is_some_and(|seconds| seconds > 0.0));
    assert!(generate["operations"].get("attention_backward").is_none());
    let peers = std::fs::read_to_string(root().join("benches/peers/compare.py")).unwrap();
    assert!(peers.contains("new_tokens_per_s") && peers.contains("pairs_per_s"));
}

#[test]
fn token_ids_may_come_from_a_file() {
    let sandbox = Sandbox::with_model();
    let tokens = r#"{"prompts": [[5, 6], [7]], "pairs": [{"prompt": [5], "real": [6, 2], "generated": [7, 8, 2]}]}"#;
    sandbox.write("tokens.json", tokens);
    // Three tokens for each of four prompts, which are the two of the file in turn.
    let figures = bench(&sandbox, "generate --tokens tokens.json --sequences 4 --response-tokens 3");
    let rate = |name: &str| figures[name].as_f64().unwrap();
    assert!((rate("new_tokens_per_s") * rate("seconds") - 12.0).abs() < 1e-6);
    let figures = bench(&sandbox, "train --tokens tokens.json --pairs 2");
    let rate = |name: &str| figures[name].as_f64().unwrap();
    assert!((rate("pairs_per_s") * rate("seconds") - 2.0).abs() < 1e-6);
    assert!((rate("tokens_per_s") * rate("seconds") - 2.0 * (1 + 1 + 2) as f64).abs() < 1e-6);

    sandbox.write("tokens.json", r#"{"prompts": []}"#);
    insta::assert_snapshot!(sandbox.run("-q bench generate --model model --tokens tokens.json"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: `tokens.json` has no `prompts`; give it some
    ");
    insta::assert_snapshot!(sandbox.run("-q bench train --model model --prompt-tokens 60 --response-tokens 60"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: `--prompt-tokens 60` and `--response-tokens 60` are more than the model's context of 64; ask for fewer
    ");
}
