//! Runs with an explicit score: pairs that it judges, and policy steps.

use std::collections::HashMap;

use super::resume::{StopIn, play_with_stops};
use super::settings::{figures, lines};
use super::*;
use crate::policy::weights;

const POLICY: [&str; 4] = ["score.kind=length", "score.target_tokens=3", "score.use=policy", "game.samples=4"];

/// A score by the number of `a` and `b` in the response, out of a script.
fn write_command(fixture: &Fixture, name: &str, text: &str) -> String {
    fs::write(fixture.path(name), text).unwrap();
    format!("score.command=['sh', '{}']", fixture.path(name))
}

const COUNTS: &str = r#"
while read -r line; do
    letters=$(printf '%s' "$line" | sed 's/.*"response":"\([^"]*\)".*/\1/' | tr -cd ab)
    echo ${#letters}
done
"#;

/// The score that each kind must give, by rules of this file.
fn expected(kind: &str, response: &str, tokens: usize, reference: &str) -> f64 {
    let yes = |yes: bool| f64::from(u8::from(yes));
    match kind {
        "exact_match" => yes(response.trim() == reference),
        "regex" => yes(response.starts_with(['a', 'b', 'c'])),
        // The data have no numbers.
        "numeric" => 0.0,
        "length" => -(tokens as f64 - 4.0).abs(),
        "command" => response.chars().filter(|c| ['a', 'b'].contains(c)).count() as f64,
        other => panic!("{other}"),
    }
}

/// The settings of each kind.
fn kinds(fixture: &Fixture) -> Vec<(&'static str, Vec<String>)> {
    let of = |kind: &'static str, more: &[String]| (kind, [&[format!("score.kind={kind}")], more].concat());
    vec![
        of("exact_match", &[]),
        of("regex", &["score.pattern='^[a-c]'".into()]),
        of("numeric", &[]),
        of("length", &["score.target_tokens=4".into()]),
        of("command", &[write_command(fixture, "counts.sh", COUNTS)]),
    ]
}

fn read_rollouts(fixture: &Fixture, name: &str) -> Vec<Rollout> {
    read_lines(Path::new(&fixture.path(name))).unwrap()
}

/// Scores by record and sample.
fn scores(fixture: &Fixture, folder: &str) -> HashMap<(usize, Option<u32>), f64> {
    let judged: Vec<Judged> = read_lines(Path::new(&fixture.path(&format!("{folder}/scores.jsonl")))).unwrap();
    judged.into_iter().map(|judged| ((judged.line, judged.sample), judged.score)).collect()
}

#[cfg(unix)]
#[test]
fn each_kind_judges_pairs_and_weighs_samples() {
    let fixture = Fixture::new();
    let records = lines(&fixture.path("train.jsonl"));
    let (model, _) = read_model(&fixture.path("model"));
    let mut skips = Vec::new();
    for (kind, sets) in kinds(&fixture) {
        for used in ["pairs", "policy"] {
            let out = format!("{kind}-{used}");
            let used = format!("score.use={used}");
            let more = ["game.samples=3", "game.iterations=1", "sft.controls=[]", &used];
            fixture.play(&out, &sets.iter().map(String::as_str).chain(more).collect::<Vec<_>>()).unwrap();
            let folder = format!("{out}/iter-1");
            let scores = scores(&fixture, &folder);
            let mut responses = read_rollouts(&fixture, &format!("{folder}/rollouts.jsonl"));
            let samples = responses.len();
            if used.ends_with("pairs") {
                responses.extend(read_rollouts(&fixture, &format!("{folder}/real.jsonl")));
            }
            assert_eq!((scores.len(), samples), (responses.len(), 24), "{out}");
            for rollout in &responses {
                let text = model.dialect.decode_response(&rollout.response.token_ids);
                let reference = records[rollout.line - 1]["response"].as_str().unwrap();
                let expected = expected(kind, &text, rollout.response.token_ids.len(), reference);
                assert_eq!(scores[&(rollout.line, rollout.sample)], expected, "{out}: {text}");
            }
            if used.ends_with("policy") {
                for name in ["real.jsonl", "pairs.jsonl"] {
                    assert!(!Path::new(&fixture.path(&format!("{folder}/{name}"))).exists(), "{name}");
                }
                continue;
            }
            let worse = |rollout: &&Rollout| scores[&(rollout.line, None)] > scores[&(rollout.line, rollout.sample)];
            let kept = responses[..samples].iter().filter(worse).count();
            let judged = figures(&fixture, &out, "iter-1/pairs");
            let [pairs, identical, skipped] =
                ["pairs", "identical", "skipped"].map(|name| judged[name].as_u64().unwrap());
            assert_eq!((pairs, pairs + identical + skipped), (kept as u64, 24), "{out}");
            skips.push(skipped);
        }
    }
    assert!(skips.iter().any(|&skipped| (1..23).contains(&skipped)), "{skips:?}");
}

#[test]
fn a_gap_by_iteration_applies_to_the_pairs_of_the_iteration_before_too() {
    let fixture = Fixture::new();
    let sets =
        ["score.kind=length", "score.gap=[0, 3]", "game.opponent=latest_two", "data.fresh=false", "game.samples=3"];
    fixture.play("out", &sets).unwrap();
    let both = [1, 2].map(|k| scores(&fixture, &format!("out/iter-{k}")));
    let worse = |k: usize, gap: f64| {
        let rollouts = read_rollouts(&fixture, &format!("out/iter-{k}/rollouts.jsonl"));
        let scores = &both[k - 1];
        rollouts.iter().filter(|r| scores[&(r.line, None)] - scores[&(r.line, r.sample)] > gap).count()
    };
    let pairs = |k: usize| figures(&fixture, "out", &format!("iter-{k}/pairs"))["pairs"].as_u64().unwrap() as usize;
    assert_eq!((pairs(1), pairs(2)), (worse(1, 0.0), worse(2, 3.0) + worse(1, 3.0)));
    assert!(worse(1, 3.0) > 0 && worse(1, 3.0) < worse(1, 0.0));
    let mixed = figures(&fixture, "out", "iter-2/pairs")["mixed"].as_u64().unwrap() as usize;
    assert_eq!(mixed, worse(1, 3.0));
}

/// Where several models answer, the real responses are not in the rollouts, and are judged all the same. A loss that learns
/// from pairs of equal responses gets none: they are not worse.
#[test]
fn responses_of_several_players_are_judged_alike() {
    let fixture = Fixture::new();
    let history = ["score.kind=length", "score.target_tokens=4", "game.opponent=history", "game.objective=sppo"];
    fixture.play("pairs", &history).unwrap();
    assert!(!Path::new(&fixture.path("pairs/iter-2/real.jsonl")).exists());
    let scores = scores(&fixture, "pairs/iter-2");
    let rollouts = read_rollouts(&fixture, "pairs/iter-2/rollouts.jsonl");
    let worse = rollouts.iter().filter(|r| scores[&(r.line, None)] > scores[&(r.line, r.sample)]).count();
    let judged = figures(&fixture, "pairs", "iter-2/pairs");
    assert_eq!((judged["pairs"].as_u64(), judged["identical"].as_u64()), (Some(worse as u64), Some(0)));
    assert!(worse > 0 && worse < rollouts.len());
    fixture.play("policy", &[&history[..3], &["score.use=policy"]].concat()).unwrap();
    assert!(lines(&fixture.path("policy/iter-2/metrics.jsonl"))[0]["scores/mean"].as_f64().unwrap() < 0.0);
}

/// The first loss of an iteration is that of the opponent, whose log-probabilities stand in `rollouts.jsonl`.
#[test]
fn a_policy_step_starts_at_the_opponent() {
    let fixture = Fixture::new();
    for (out, beta, betas) in [("one", "game.beta=2.0", [2.0, 2.0]), ("list", "game.beta=[0.5, 3.0]", [0.5, 3.0])] {
        fixture.play(out, &[&POLICY[..], &["train.batch_pairs=1000", beta]].concat()).unwrap();
        for k in 1..=2 {
            let scores = scores(&fixture, &format!("{out}/iter-{k}"));
            let rollouts = read_rollouts(&fixture, &format!("{out}/iter-{k}/rollouts.jsonl"));
            let (mut losses, mut sizes) = (Vec::new(), Vec::new());
            for of_prompt in rollouts.chunks(4) {
                let scores: Vec<f64> = of_prompt.iter().map(|r| scores[&(r.line, r.sample)]).collect();
                if scores.iter().all(|score| *score == scores[0]) {
                    continue;
                }
                let weights = weights(&scores, betas[k - 1]);
                let logp = |r: &Rollout| r.response.logprobs.iter().map(|&x| f64::from(x)).sum::<f64>();
                losses.push(of_prompt.iter().zip(&weights).map(|(r, w)| -w * logp(r)).sum::<f64>());
                sizes.push(1.0 / weights.iter().map(|w| w * w).sum::<f64>());
            }
            let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
            let metrics = lines(&fixture.path(&format!("{out}/iter-{k}/metrics.jsonl")));
            let found = metrics[0]["train/loss"].as_f64().unwrap();
            assert!((found - mean(&losses)).abs() < 1e-9, "{found} {}", mean(&losses));
            let told = figures(&fixture, out, &format!("iter-{k}/scores"));
            assert!((told["effective_samples"].as_f64().unwrap() - mean(&sizes)).abs() < 1e-9);
            assert_eq!(told["level"].as_u64().unwrap() as usize, rollouts.len() / 4 - losses.len());
        }
    }
}

/// What the policy step is for: samples of the next iteration score higher.
#[test]
fn policy_steps_raise_the_score() {
    let fixture = Fixture::new();
    let sets = ["game.samples=16", "game.iterations=3", "data.prompts=0", "train.lr=1e-2", "train.optimizer=adamw"];
    let sets = [&POLICY[..3], &sets, &["train.batch_pairs=64", "train.epochs=8", "sft.controls=[]"]].concat();
    fixture.play("out", &sets).unwrap();
    let means = [1, 2, 3].map(|k| figures(&fixture, "out", &format!("iter-{k}/scores"))["generated"].as_f64().unwrap());
    // The weighted mean of the first samples is what the first step is after.
    let aim = figures(&fixture, "out", "iter-1/scores")["weighted"].as_f64().unwrap();
    assert!(means[1] > means[0] + 0.5 * (aim - means[0]) && means[2] > means[1], "{means:?} {aim}");
}

#[test]
fn policy_steps_train_adapters_and_leave_no_trace_of_stops() {
    let fixture = Fixture::new();
    let sets = [&POLICY[..], &["adapter.rank=2", "adapter.alpha=4", "train.optimizer=adamw"]].concat();
    fixture.play("whole", &sets).unwrap();
    let (stops, _) = play_with_stops(&fixture.config("stopped", &sets), 3, 40);
    assert!(stops >= 4, "{stops} stops");
    assert_same(&fixture.path("whole"), &fixture.path("stopped"));
    let before = fs::read(fixture.path("whole/iter-0/model/adapter_model.safetensors")).unwrap();
    assert!(before != fs::read(fixture.path("whole/iter-1/model/adapter_model.safetensors")).unwrap());
}

/// Where no sample is better than another a policy step has nothing to go by, and the model stays.
#[test]
fn samples_that_score_alike_leave_the_model_as_it_is() {
    let fixture = Fixture::new();
    let sets = ["score.kind=numeric", "score.use=policy", "game.iterations=1", "sft.controls=[]"];
    fixture.play("out", &sets).unwrap();
    let told = figures(&fixture, "out", "iter-1/scores");
    assert_eq!((told["level"].as_u64(), told["generated"].as_f64()), (Some(8), Some(0.0)));
    let weights = |k: usize| fs::read(fixture.path(&format!("out/iter-{k}/model/model.safetensors"))).unwrap();
    assert_eq!(weights(0), weights(1));
}

#[cfg(unix)]
#[test]
fn a_command_is_asked_once() {
    let fixture = Fixture::new();
    let script =
        format!("tee -a '{}' | {}", fixture.path("asked.jsonl"), "while read -r line; do echo ${#line}; done\n");
    let command = write_command(&fixture, "command.sh", &script);
    let sets = ["score.kind=command", &command, "game.samples=3", "game.iterations=1", "sft.controls=[]"];
    let asked = || lines(&fixture.path("asked.jsonl"));
    fixture.play("whole", &sets).unwrap();
    let whole = asked();
    // 8 prompts with 3 samples and a real response each.
    assert_eq!(whole.len(), 32);
    for (question, rollout) in whole.iter().zip(read_rollouts(&fixture, "whole/iter-1/rollouts.jsonl")) {
        assert_eq!(question["id"], rollout.prompt_id.as_str());
        assert_eq!(question["token_ids"].as_array().unwrap().len(), rollout.response.token_ids.len());
        let prompt = question["prompt"].as_str().unwrap();
        assert_eq!(question["references"], serde_json::json!([prompt.chars().rev().collect::<String>()]));
        assert!(question["response"].is_string());
    }
    fixture.play("whole", &sets).unwrap();
    assert_eq!(asked().len(), 32);

    fs::remove_file(fixture.path("asked.jsonl")).unwrap();
    let stop = AtomicBool::new(false);
    let observer = &mut StopIn { stage: "iter-1/scores", steps: 9, inside: false, stop: &stop };
    let ended = play(&fixture.config("out", &sets), observer, &stop);
    assert!(matches!(&ended, Err(RunError::Stopped { stage }) if stage == "iter-1/scores"), "{ended:?}");
    let kept: Vec<Judged> = read_lines(Path::new(&fixture.path("out/iter-1/scores.partial.jsonl"))).unwrap();
    assert!((8..32).contains(&kept.len()), "{}", kept.len());
    // Answers stand, so they must be answers of the same command.
    let other =
        ["score.kind=command", "score.command=['true']", "game.samples=3", "game.iterations=1", "sft.controls=[]"];
    let error = fixture.play("out", &other).unwrap_err().to_string();
    assert!(error.contains("was begun with `score.command` = "), "{error}");
    fs::remove_file(fixture.path("asked.jsonl")).unwrap();
    fixture.play("out", &sets).unwrap();
    assert_eq!(asked(), whole[kept.len()..]);
    assert_same(&fixture.path("whole"), &fixture.path("out"));
}

#[cfg(unix)]
#[test]
fn faults_of_a_command_are_named_and_cost_nothing() {
    let fixture = Fixture::new();
    let play = |command: &str, more: &[&str]| {
        let command = format!("score.command={command}");
        let sets = ["score.kind=command", &command, "game.iterations=1", "sft.controls=[]", "score.timeout=1"];
        fixture.play("out", &[&sets, more].concat())
    };
    let questions = fixture.path("out/iter-1/scores.questions.jsonl");
    let mut rollouts = None;
    for (script, problem) in [
        ("exit 3", "failed (exit status: 3)"),
        ("kill -9 $$", "failed (signal: 9 (SIGKILL))"),
        (
            "echo 1; echo much",
            "printed \"much\" for line 2, which is no finite number; it must print one for each line",
        ),
        ("echo 1; echo", "printed \"\" for line 2, which is no finite number; it must print one for each line"),
        ("echo nan", "printed \"nan\" for line 1, which is no finite number; it must print one for each line"),
        ("echo -inf", "printed \"-inf\" for line 1, which is no finite number; it must print one for each line"),
        ("echo 1 2", "printed \"1 2\" for line 1, which is no finite number; it must print one for each line"),
        ("echo 1; echo 2", "printed 2 lines for the 24 that it reads; it must print one number for each"),
        ("yes 1", "printed more than 24 lines, though it reads no more; it must print one number for each line"),
        ("exec sleep 60", "was silent for 1 s, and was ended"),
        ("exec >&-; exec sleep 60", "was silent for 1 s, and was ended"),
        ("head -c 3000000 /dev/zero", "printed a line of more than 1048576 bytes"),
    ] {
        let error = play(&format!("['sh', '-c', '{script}']"), &[]).unwrap_err().to_string();
        let expected =
            format!("the command `sh -c {script}` (`score.command`) {problem}; try it by hand on `{questions}`");
        assert_eq!(error, expected);
        // The samples are there, whatever happens to their scores, and stay as they are.
        let there = fs::read(fixture.path("out/iter-1/rollouts.jsonl")).unwrap();
        assert_eq!(*rollouts.get_or_insert_with(|| there.clone()), there);
    }
    let error = play("['/nonexistent/x', '-v']", &[]).unwrap_err().to_string();
    assert!(error.starts_with("the command `/nonexistent/x -v` (`score.command`) cannot be started ("), "{error}");

    // What was answered before a crash is kept, but for the last answer: so a command that fails at its end fails again.
    let failing = write_command(&fixture, "late.sh", "while read -r line; do echo 7; done; exit 5");
    let failing = failing.strip_prefix("score.command=").unwrap();
    for _ in 0..2 {
        let error = play(failing, &[]).unwrap_err().to_string();
        assert!(error.contains("late.sh` (`score.command`) failed (exit status: 5)"), "{error}");
    }
    assert_eq!(lines(&fixture.path("out/iter-1/scores.partial.jsonl")).len(), 23);
    write_command(&fixture, "late.sh", "while read -r line; do echo 8; done");
    play(failing, &[]).unwrap();
    let scores: Vec<_> =
        lines(&fixture.path("out/iter-1/scores.jsonl")).iter().map(|line| line["score"].as_f64()).collect();
    assert_eq!(scores, [vec![Some(7.0); 23], vec![Some(8.0)]].concat());
    assert!(!Path::new(&questions).exists());
}

#[test]
fn a_pattern_that_gives_up_is_named() {
    let fixture = Fixture::new();
    // Four ways to match each character, and no way to match the end.
    let pattern = "score.pattern='^(.|(?!z).|(?!z).|(?!z).)*(?<=q)$'";
    let sets = ["score.kind=regex", pattern, "game.iterations=1", "rollout.max_new_tokens=40", "sft.enabled=false"];
    let error = fixture.play("out", &sets).unwrap_err().to_string();
    assert!(error.starts_with("`score.pattern` gave up on a response to the prompt `"), "{error}");
}
