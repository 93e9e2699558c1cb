//! Runs with an explicit score.

use crate::runs::sandbox;

const RUN: &str = "run run.toml --set output.dir=out --set game.opponent=latest --set sft.controls=[]";

#[test]
fn a_policy_step_says_what_its_weights_are_like() {
    let sandbox = sandbox();
    let said =
        sandbox.run(&format!("{RUN} --set score.kind=length --set score.target_tokens=4 --set score.use=policy"));
    assert!(said.starts_with("exit code: 0\n"), "{said}");
    let line = said.lines().find(|line| line.contains("iter-2/scores: ")).unwrap();
    for part in ["90 responses scored; samples -", " as they are weighted; ", " effective ones to a prompt; "] {
        assert!(line.contains(part), "{line}");
    }
    for step in sandbox.read_lines("out/iter-2/metrics.jsonl") {
        let [score, size] = ["scores/mean", "scores/effective_samples"].map(|name| step[name].as_f64().unwrap());
        assert!(score < 0.0 && size > 0.0 && size <= 5.0, "{step}");
    }
}

#[cfg(unix)]
#[test]
fn a_command_that_answers_wrongly_ends_the_run_in_a_sentence_and_may_be_mended() {
    let sandbox = sandbox();
    let run = |script: &str| {
        sandbox.write("f.sh", script);
        sandbox.run(&format!("-q {RUN} --set score.kind=command --set score.command=['sh','f.sh']"))
    };
    insta::assert_snapshot!(run("echo 0.5; echo high"), @r#"
    exit code: 2
    --- stdout
    --- stderr
    error: the command `sh f.sh` (`score.command`) printed "high" for line 2, which is no finite number; it must print one for each line; try it by hand on `out/iter-1/scores.questions.jsonl`
    "#);
    let said = run("while read -r line; do echo ${#line}; done");
    assert!(said.starts_with("exit code: 0\n"), "{said}");
}
