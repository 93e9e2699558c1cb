//! The laboratory.

use serde_json::Value;

use crate::harness::{Sandbox, root};

fn json(sandbox: &Sandbox, line: &str) -> Value {
    let said = sandbox.run(&format!("-q lab {line} --json"));
    let body = said.strip_prefix("exit code: 0\n--- stdout\n").and_then(|rest| rest.strip_suffix("--- stderr\n"));
    serde_json::from_str(body.unwrap_or_else(|| panic!("{said}"))).unwrap()
}

fn divergences(game: &Value) -> Vec<f64> {
    game["iterations"].as_array().unwrap().iter().map(|row| row["kl_data_policy"].as_f64().unwrap()).collect()
}

#[test]
fn the_figures_of_the_tables_are_current() {
    let sandbox = Sandbox::new();
    let said = sandbox.run("-q lab figures --out figures --tables-only");
    assert!(said.starts_with("exit code: 0\n"), "{said}");
    for name in ["beta", "objectives", "linear", "additions", "opponents", "samples"] {
        let name = format!("lab-{name}.svg");
        let page = std::fs::read_to_string(root().join("docs/figures").join(&name)).unwrap_or_default();
        assert!(
            sandbox.read(&format!("figures/{name}")) == page,
            "docs/figures/{name} is not current; write it with `cargo run --release -- lab figures --out docs/figures`"
        );
    }
}

#[test]
fn every_objective_and_opponent_plays() {
    let sandbox = Sandbox::new();
    let played =
        json(&sandbox, "tables --objective all --opponent all --beta 1,2 --iterations 3 --prompts 2 --responses 4");
    let games = played["games"].as_array().unwrap();
    assert_eq!(games.len(), 11 * 7 * 2);
    for game in games {
        assert_eq!(game["iterations"].as_array().unwrap().len(), 4, "{game}");
    }
    // SPIN arrives at beta 1 in one iteration; the base model as the opponent leaves it half way at beta 2.
    let of = |objective: &str, opponent: &str, beta: f64| {
        let is = |game: &&Value| game["objective"] == objective && game["opponent"] == opponent && game["beta"] == beta;
        games.iter().find(is).unwrap()
    };
    assert!(divergences(of("logistic", "latest", 1.0))[1] < 1e-12);
    let base = divergences(of("logistic", "base", 2.0));
    assert!((base[1] - base[3]).abs() < 1e-9 && base[1] > 1e-3, "{base:?}");
    let remark = of("linear", "latest", 1.0)["remark"].as_str().unwrap();
    assert!(remark.starts_with("in iteration 1 the loss has no minimum; from there on 100 gradient steps"), "{remark}");
    let remark = of("hinge", "latest", 1.0)["remark"].as_str().unwrap();
    assert!(remark.contains("is flat or has kinks"), "{remark}");
    assert!(of("logistic", "latest", 1.0)["remark"].is_null());
}

#[test]
fn samples_and_additions_count() {
    let sandbox = Sandbox::new();
    let last =
        |line: &str| *divergences(&json(&sandbox, &format!("tables --beta 1 {line}"))["games"][0]).last().unwrap();
    let (few, many) = (last("--samples 20"), last("--samples 20000"));
    assert!(many < 0.1 * few, "{few} {many}");
    assert_eq!(last("--samples 20"), few);
    assert_ne!(last("--samples 20 --seed 1"), few);
    assert!(last("--forward-kl 1") > 1e-2);
    let said = sandbox.run("-q lab tables --beta 1 --iterations 2 --out all.svg");
    assert!(said.contains("logistic against latest, beta 1\n") && said.contains("total variation"), "{said}");
    let svg = sandbox.read("all.svg");
    assert_eq!((svg.matches("<g ").count(), svg.matches("<circle").count()), (3, 9), "{svg}");
}

#[test]
fn the_policy_step_is_the_closed_form() {
    let sandbox = Sandbox::new();
    for outcome in json(&sandbox, "policy-step --seed 5 --responses 9").as_array().unwrap() {
        let row = |name: &str| -> Vec<f64> {
            outcome[name].as_array().unwrap().iter().map(|p| p.as_f64().unwrap()).collect()
        };
        for (closed, searched) in row("closed_form").iter().zip(row("searched")) {
            assert!((closed - searched).abs() < 1e-12, "{outcome}");
        }
        let figure = |name: &str| outcome[name].as_f64().unwrap();
        assert!((figure("value") - figure("optimum")).abs() < 1e-12 && figure("best_perturbation") < figure("value"));
    }
    let said = sandbox.run("-q lab policy-step --beta 1");
    assert!(said.contains("closed form") && said.contains("beta log Z"), "{said}");
}

#[test]
fn a_network_plays_beside_the_tables() {
    let sandbox = Sandbox::new();
    let line = "network --beta 1 --iterations 1 --samples 500 --steps 40 --out network.svg";
    let compared = json(&sandbox, line);
    let rows = compared[0]["iterations"].as_array().unwrap();
    let figure = |row: usize, name: &str| rows[row][name].as_f64().unwrap();
    assert!(figure(1, "law").abs() < 1e-9 && figure(1, "table").abs() < 1e-9, "{compared}");
    assert!(figure(1, "network") < 0.3 * figure(0, "network"), "{compared}");
    assert!(figure(1, "network_outside") < 0.5 * figure(0, "network_outside"), "{compared}");
    let svg = sandbox.read("network.svg");
    assert_eq!((svg.matches("<g ").count(), svg.matches("<polyline").count()), (1, 4), "{svg}");
}

#[test]
fn flags_out_of_range() {
    let sandbox = Sandbox::new();
    let error = |line: &str| {
        let said = sandbox.run(&format!("-q lab {line}"));
        assert!(said.starts_with("exit code: 2\n--- stdout\n--- stderr\nerror: "), "{said}");
        said.lines().nth(3).unwrap().to_owned()
    };
    insta::assert_snapshot!(error("tables --objective logistics"), @"error: invalid value 'logistics' for '--objective <NAME,..>': `logistics` is none of `logistic`, `linear`, `hinge`, `exponential`, `squared`, `truncated_quadratic`, `length_normalized`, `sppo`, `space`, `apo_zero`, `triplet`");
    insta::assert_snapshot!(error("tables --opponent self"), @"error: invalid value 'self' for '--opponent <NAME,..>': `self` is none of `latest`, `latest_two`, `history`, `base`, `average`, `mixture`, `data`");
    insta::assert_snapshot!(error("tables --beta 0"), @"error: invalid value '0' for '--beta <B,..>': it must be a number above 0");
    insta::assert_snapshot!(error("tables --label-smoothing 0.5"), @"error: invalid value '0.5' for '--label-smoothing <E>': it must be a number from 0, below 0.5");
    insta::assert_snapshot!(error("tables --responses 1"), @"error: invalid value '1' for '--responses <N>': it must be a whole number from 2 to 64");
    insta::assert_snapshot!(error("tables --mixture 2"), @"error: invalid value '2' for '--mixture <A>': it must be a number from 0 to 1");
    insta::assert_snapshot!(error("network --out nowhere/a.svg"), @"error: cannot write `nowhere/a.svg`: the folder that should hold it does not exist; create it, or check the path");
    assert_eq!(sandbox.names(), [""; 0]);
}
