//! Runs whose generated responses the data give.

use serde_json::json;
use topspin_rollout::Finish;

use super::resume::play_with_stops;
use super::settings::lines;
use super::*;

const GIVEN: [&str; 2] = ["game.opponent=data", "game.samples=1"];

/// Records of `train.jsonl`, each with its prompt as the rejected response: the data reward turning it round.
fn write_preferences(fixture: &Fixture) {
    let records = lines(&fixture.path("train.jsonl"));
    let line = |record: &Value| {
        let pair = json!({"prompt": record["prompt"], "chosen": record["response"], "rejected": record["prompt"]});
        format!("{pair}\n")
    };
    fs::write(fixture.path("train.jsonl"), records.iter().map(line).collect::<String>()).unwrap();
}

/// Losses, gradients, rewards and log-probabilities of five steps are TRL's.
#[test]
fn an_iteration_on_pairs_of_the_data_is_dpo() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/dpo");
    let expected: Value = serde_json::from_slice(&fs::read(golden.join("expected.json")).unwrap()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (pairs, out) = (golden.join("pairs.jsonl"), dir.path().join("out"));
    let text = format!(
        "[model]\npath = {golden:?}\n[data]\ntrain = {pairs:?}\ntest = {pairs:?}\n[sft]\nenabled = false\n\
         [game]\niterations = 1\nopponent = 'data'\nbeta = {}\n\
         [train]\noptimizer = 'adamw'\nlr = {}\nschedule = 'constant'\nwarmup = 0.0\nepochs = {}\nbatch_pairs = 8\nclip = 0\n\
         [eval]\ngreedy = false\nsampled = false\n[output]\ndir = {out:?}\n",
        expected["settings"]["beta"], expected["settings"]["lr"], expected["settings"]["steps"],
    );
    let config = Config::parse(&text, Path::new("dpo.toml"), &[]).unwrap();
    play(&config, &mut Silent, &AtomicBool::new(false)).unwrap();
    let found = lines(out.join("iter-1/metrics.jsonl").to_str().unwrap());
    let steps = expected["steps"].as_array().unwrap();
    assert_eq!(found.len(), steps.len());
    for (found, step) in found.iter().zip(steps) {
        for (name, value) in step.as_object().unwrap() {
            let (found, value) = (found[name].as_f64().unwrap(), value.as_f64().unwrap());
            assert!((found - value).abs() <= 1e-4 * (1.0 + value.abs()), "{name}: {found} instead of {value}");
        }
    }
    // The model before the iteration is the reference, so the first margins are none at all.
    assert_eq!(found[0]["train/loss"].as_f64(), Some(std::f64::consts::LN_2));
    assert_eq!(found[0]["rewards/margins"].as_f64(), Some(0.0));
}

#[test]
fn what_is_trained_on_is_what_the_data_say() {
    let fixture = Fixture::new();
    write_preferences(&fixture);
    fixture.play("out", &[&GIVEN[..], &["data.prompts=0"]].concat()).unwrap();
    let (files, _) = read_model(&fixture.path("model"));
    let text = |ids: &[u32]| files.dialect.decode_response(ids);
    let mut told: Vec<_> = lines(&fixture.path("train.jsonl"))
        .iter()
        .map(|record| ["prompt", "chosen", "rejected"].map(|part| record[part].as_str().unwrap().to_owned()))
        .filter(|[_, chosen, rejected]| chosen != rejected)
        .collect();
    told.sort();
    for k in 1..=2 {
        let trees: Vec<Tree> = read_lines(Path::new(&fixture.path(&format!("out/iter-{k}/pairs.jsonl")))).unwrap();
        let mut trained = Vec::new();
        for tree in &trees {
            assert_eq!(tree.generated.len(), 1);
            // Without its separator.
            let prompt = text(&tree.prompt[..tree.prompt.len() - 1]);
            trained.push([prompt, text(&tree.real.token_ids), text(&tree.generated[0].token_ids)]);
        }
        trained.sort();
        assert_eq!(trained, told);
        // The reference is the model before: in each iteration the game begins anew.
        let metrics = lines(&fixture.path(&format!("out/iter-{k}/metrics.jsonl")));
        assert_eq!(metrics[0]["train/loss"].as_f64(), Some(std::f64::consts::LN_2));
        assert_eq!(metrics[0]["rewards/margins"].as_f64(), Some(0.0));
    }
}

/// Given responses are cut where real ones are, and say so.
#[test]
fn long_rejected_responses_are_cut() {
    let fixture = Fixture::new();
    write_preferences(&fixture);
    fixture.play("out", &[&GIVEN[..], &["data.max_response_tokens=4"]].concat()).unwrap();
    let trees: Vec<Tree> = read_lines(Path::new(&fixture.path("out/iter-1/pairs.jsonl"))).unwrap();
    assert!(!trees.is_empty());
    for tree in &trees {
        // A response of three letters has its end as the fourth token.
        let whole = tree.prompt.len() - 1 == 3;
        for response in [&tree.real, &tree.generated[0]] {
            assert_eq!(response.token_ids.len(), 4);
            assert_eq!(response.finish, if whole { Finish::Stop } else { Finish::Length });
        }
    }
}

#[test]
fn stops_leave_no_trace() {
    let fixture = Fixture::new();
    write_preferences(&fixture);
    let sets = [&GIVEN[..], &["rollout.live_sequences=2"]].concat();
    fixture.play("whole", &sets).unwrap();
    let (stops, _) = play_with_stops(&fixture.config("stopped", &sets), 1, 40);
    assert!(stops >= 5, "{stops} stops");
    assert_same(&fixture.path("whole"), &fixture.path("stopped"));
}

#[test]
fn records_without_a_rejected_response_are_counted() {
    let fixture = Fixture::new();
    let plain = fs::read_to_string(fixture.path("train.jsonl")).unwrap();
    write_preferences(&fixture);
    let pairs = fs::read_to_string(fixture.path("train.jsonl")).unwrap();
    let two: String = plain.lines().take(2).map(|line| format!("{line}\n")).collect();
    fs::write(fixture.path("train.jsonl"), format!("{pairs}{two}")).unwrap();
    let play = |set: &str| fixture.play("out", &[&GIVEN[..], &["game.iterations=1", set]].concat());
    let error = play("data.max_unusable=0").unwrap_err().to_string();
    let problem = "2 of 26 training records have no rejected response, and `game.opponent` = \"data\" needs one; add \
                   `rejected`, or leave such records out with `data.max_unusable`; the first is `";
    assert!(error.starts_with(problem) && error.ends_with("train.jsonl`, line 25"), "{error}");
    let error = play("data.max_unusable=0.01").unwrap_err().to_string();
    assert!(error.starts_with("2 of 32 records cannot be used (2 empty)"), "{error}");
    play("data.max_unusable=0.1").unwrap();
    let manifest = Manifest::read(Path::new(&fixture.path("out"))).unwrap();
    assert_eq!((manifest.records.train, manifest.records.unusable["empty"]), (24, 2));
    let changed = fixture.play("out", &["game.iterations=1", "game.samples=1", "data.max_unusable=0.1"]);
    let changed = changed.unwrap_err().to_string();
    assert!(changed.contains("was begun with `game.opponent` = \"data\", and it is now \"latest\""), "{changed}");
}
