//! Runs on pairs that the data give, and conversations trained on in all turns.

use serde_json::{Value, json};

use crate::harness::{Sandbox, pairs};

fn message(role: &str, content: &str) -> Value {
    json!({"role": role, "content": content})
}

const CONFIG: &str = "[model]\npath = 'model'\n[data]\ntrain = 'pairs.jsonl'\ntest_share = 0.3\n[sft]\nenabled = false\n\
    [game]\nopponent = 'data'\niterations = 2\nbeta = 0.1\n[train]\noptimizer = 'adamw'\nlr = 1e-3\nepochs = 6\nbatch_pairs = 4\n[rollout]\nmax_new_tokens = 8\n\
    [output]\ndir = 'out'\n";

/// Both shapes of preference pairs are trained on, without a sample being drawn to train on.
#[test]
fn a_run_on_given_pairs() {
    let sandbox = Sandbox::with_model();
    let lines: Vec<Value> = (0..12)
        .map(|k| {
            let (prompt, good, bad) = (format!("{k} + 1"), (k + 1).to_string(), (k * 7 + 3).to_string());
            if k % 2 == 0 {
                return json!({"prompt": prompt, "chosen": good, "rejected": bad});
            }
            let talk = |answer: &str| vec![message("user", &prompt), message("assistant", answer)];
            json!({"real": talk(&good), "generated": talk(&bad)})
        })
        .collect();
    sandbox.write_lines("pairs.jsonl", &lines);
    sandbox.write("dpo.toml", CONFIG);
    let said = sandbox.run("run dpo.toml");
    assert!(said.starts_with("exit code: 0\n") && said.contains(" given responses scored; "), "{said}");
    for k in 1..=2 {
        let trees = sandbox.read_lines(&format!("out/iter-{k}/pairs.jsonl"));
        assert_eq!(trees.len(), sandbox.read_lines(&format!("out/iter-{k}/real.jsonl")).len());
        let metrics = sandbox.read_lines(&format!("out/iter-{k}/metrics.jsonl"));
        assert_eq!(metrics[0]["train/loss"], json!(std::f64::consts::LN_2));
        let margin = |line: &Value| line["rewards/margins"].as_f64().unwrap();
        assert!(margin(&metrics[0]) == 0.0 && margin(metrics.last().unwrap()) > 0.0, "{metrics:?}");
    }
    // The same call finds all done.
    assert!(sandbox.run("run dpo.toml").starts_with("exit code: 0\n"));

    sandbox.write_lines("pairs.jsonl", &[&lines[..], &pairs()[..2]].concat());
    let said = sandbox.run("run dpo.toml --set output.dir=other --set data.test=pairs.jsonl");
    let problem = "error: 2 of 14 training records have no rejected response, and `game.opponent` = \"data\" needs one; add \
                   `rejected`, or leave such records out with `data.max_unusable`; the first is `pairs.jsonl`, line 13\n";
    assert!(said.starts_with("exit code: 2\n") && said.ends_with(problem), "{said}");
}

#[test]
fn what_all_turns_are_is_shown() {
    let sandbox = Sandbox::with_model();
    let talk = |answer: &str| {
        json!({"messages": [message("system", "s"), message("user", "a"), message("assistant", answer),
                            message("user", "c"), message("assistant", "d e")]})
    };
    sandbox.write_lines("talk.jsonl", &[talk(" b"), talk("b<end>b")]);
    let said = sandbox.run("data inspect talk.jsonl --model model --turns all --max-response-tokens 2 --problems");
    for part in [
        "exit code: 0\n",
        "unusable               1 malformed\n",
        "least 17, median 17, 95% up to 17, most 17\n",
        "\ns:s<sep>u:a<sep>{+a: b<end>+}u:c<sep>{+a:+} (4 tokens more are cut off)\n",
        "\n`talk.jsonl`, line 2: malformed: cannot apply the chat template of `",
        "`: the assistant's message 3 holds `<end>`, which ends a turn; remove it\n",
    ] {
        assert!(said.contains(part), "{part}\n{said}");
    }
    let json = sandbox.run("data inspect talk.jsonl --model model --turns all --examples 1 --json");
    let parts = r#""parts":[{"text":"s:s<sep>u:a<sep>","trained":false},{"text":"a: b<end>","trained":true},"#;
    assert!(json.contains(parts), "{json}");
    let said = sandbox.run("data inspect talk.jsonl --model model --turns some");
    assert!(
        said.starts_with("exit code: 2\n") && said.contains("unknown variant `some`, expected `last` or `all`"),
        "{said}"
    );
}
