//! Iterations whose opponent is refreshed.

use serde_json::json;

use topspin_kernels::rng::Key;

use super::resume::play_with_stops;
use super::settings::lines;
use super::*;
use crate::objective::{Loss, Objective};
use crate::optimizer::{OptimizerSettings, Rule, matrices};
use crate::order::{Batches, Position};
use crate::pair::{all_pairs, siblings};
use crate::schedule::{Schedule, Shape, Warmup};
use crate::trainer::{TrainSettings, Trainer};

/// Eight prompts of two samples, four prompts to a round of at most three steps of three pairs.
const STEPS: [&str; 3] = ["game.refresh=3", "train.optimizer=adamw", "train.warmup=0"];
const EPOCHS: [&str; 3] = ["game.refresh=epoch", "train.epochs=3", "train.optimizer=adamw"];

fn with<'a>(sets: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [sets, more].concat()
}

fn metrics(fixture: &Fixture, folder: &str) -> Vec<Value> {
    lines(&fixture.path(&format!("{folder}/metrics.jsonl")))
}

fn number(value: &Value, name: &str) -> f64 {
    value[name].as_f64().unwrap()
}

#[test]
fn each_round_starts_at_its_opponent_and_the_steps_go_on() {
    let fixture = Fixture::new();
    let summary = fixture.play("out", &with(&EPOCHS, &["train.schedule=constant"])).unwrap();
    let folders: Vec<_> = summary.rows.iter().map(|row| row.folder.as_str()).collect();
    assert_eq!(folders, ["base", "iter-0", "control-1", "iter-1", "iter-2"]);
    for k in 1..=2 {
        let all = metrics(&fixture, &format!("out/iter-{k}"));
        let numbers: Vec<_> = all.iter().map(|line| line["step"].as_u64().unwrap()).collect();
        assert_eq!(numbers, (1..=all.len() as u64).collect::<Vec<_>>());
        let mut first = 0;
        let mut seen = Vec::new();
        for round in 1..=3 {
            let folder = fixture.path(&format!("out/iter-{k}/round-{round}"));
            let start = &all[first];
            assert_eq!(number(start, "train/loss").to_bits(), std::f64::consts::LN_2.to_bits(), "round {round}");
            assert_eq!((number(start, "rewards/real"), number(start, "rewards/generated")), (0.0, 0.0));
            let trees = lines(&format!("{folder}/pairs.jsonl"));
            let pairs: usize = trees.iter().map(|tree| tree["generated"].as_array().unwrap().len()).sum();
            let steps = pairs.div_ceil(3);
            assert!(all[first + 1..first + steps].iter().any(|line| number(line, "rewards/margins") != 0.0));
            first += steps;
            let rollouts = lines(&format!("{folder}/rollouts.jsonl"));
            assert_eq!(rollouts.len(), 16);
            let tokens: Vec<_> = rollouts.iter().map(|line| line["response"]["token_ids"].clone()).collect();
            assert!(!seen.contains(&tokens), "samples of round {round} are those of another");
            seen.push(tokens);
            // Kept until the next round has begun from it and is over.
            let mut there: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            there.sort();
            let artefacts = ["metrics.jsonl", "pairs.jsonl", "real.jsonl", "rollouts.jsonl", "throughput.jsonl"];
            let is_there = |name: &&str| round < 3 || !["metrics.jsonl", "throughput.jsonl"].contains(name);
            assert_eq!(there, artefacts.into_iter().filter(is_there).collect::<Vec<_>>());
        }
        assert_eq!(first, all.len());
    }
    let manifest = Manifest::read(Path::new(&fixture.path("out"))).unwrap();
    let figures = manifest.figures("iter-1/train").unwrap();
    assert_eq!(figures["steps"], metrics(&fixture, "out/iter-1").len());
}

/// The first round is what the whole iteration begins with: the same samples, order and rates, as long as no pair is
/// dropped.
#[test]
fn the_first_round_is_the_first_pass() {
    let fixture = Fixture::new();
    fixture.play("rounds", &with(&EPOCHS, &["game.iterations=1"])).unwrap();
    fixture.play("whole", &with(&EPOCHS, &["game.iterations=1", "game.refresh=never"])).unwrap();
    let read = |path: &str| fs::read_to_string(fixture.path(path)).unwrap();
    for name in ["rollouts", "real", "pairs"] {
        assert_eq!(read(&format!("rounds/iter-1/round-1/{name}.jsonl")), read(&format!("whole/iter-1/{name}.jsonl")));
    }
    let (rounds, whole) = (metrics(&fixture, "rounds/iter-1"), metrics(&fixture, "whole/iter-1"));
    let pass = metrics(&fixture, "rounds/iter-1/round-1").len();
    assert_eq!(rounds[..pass], whole[..pass]);
    assert_eq!(rounds.len(), whole.len(), "pairs were dropped in a later round: take another seed");
    assert_ne!(rounds[pass..], whole[pass..]);
    let rates = |lines: &[Value]| lines.iter().map(|line| number(line, "train/learning_rate")).collect::<Vec<_>>();
    assert_eq!(rates(&rounds), rates(&whole));
}

/// One trainer that never stops does the same: moments, numbers of steps and parameters go on from round to round.
#[test]
fn the_optimizer_goes_on_from_round_to_round() {
    let fixture = Fixture::new();
    fixture.play("out", &with(&EPOCHS, &["game.iterations=1"])).unwrap();
    let (files, _) = read_model(&fixture.path("out/iter-0/model"));
    let decoder = files.trainable(Cpu::new(), Precision::F32, Use::ForwardAndBackward).unwrap();
    let trees = [1, 2, 3].map(|round| {
        let path = fixture.path(&format!("out/iter-1/round-{round}/pairs.jsonl"));
        read_lines::<Tree>(Path::new(&path)).unwrap()
    });
    let batches = |round: usize, trees: &[Tree]| {
        let address = ((round as u64) << 32) + 1;
        Batches::new(0, address, siblings(trees.iter().map(|tree| tree.generated.len()), 4), 3, 1, Position::default())
    };
    let total: u32 = trees.iter().enumerate().map(|(round, trees)| batches(round, trees).total()).sum();
    let settings = TrainSettings {
        optimizer: OptimizerSettings {
            rule: Rule::AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8 },
            weight_decay: 0.0,
            decays: matrices,
        },
        schedule: Schedule::new(1e-3, Shape::Linear, Warmup::Share(0.1), total),
        max_grad_norm: Some(1.0),
        batch_tokens: 64,
        keep: Keep::Everything,
        dropout: Key::new(0, "dropout", 1),
    };
    let mut trainer = Trainer::new(decoder, settings);
    for (round, trees) in trees.iter().enumerate() {
        let pairs = all_pairs(trees);
        for chosen in batches(round, trees) {
            let pairs: Vec<_> = chosen.into_iter().map(|index| pairs[index]).collect();
            trainer.spin_step(trees, &pairs, &Loss::new(Objective::Logistic, 1.0)).unwrap();
        }
    }
    assert_eq!(trainer.steps() as usize, metrics(&fixture, "out/iter-1").len());
    assert_eq!(trainer.decoder().read_params(), read_model(&fixture.path("out/iter-1/model")).1);
}

#[test]
fn a_round_of_steps_answers_its_next_prompts() {
    let fixture = Fixture::new();
    fixture.play("out", &with(&STEPS, &["game.iterations=1", "train.epochs=2"])).unwrap();
    fixture.play("whole", &["game.iterations=1"]).unwrap();
    let prompts = |folder: &str| {
        let mut prompts: Vec<_> =
            lines(&fixture.path(&format!("{folder}/rollouts.jsonl"))).iter().map(|line| line["line"].clone()).collect();
        prompts.dedup();
        prompts
    };
    let whole = prompts("whole/iter-1");
    assert_eq!(whole.len(), 8);
    for (round, expected) in [(1, &whole[..4]), (2, &whole[4..]), (3, &whole[..4]), (4, &whole[4..])] {
        assert_eq!(prompts(&format!("out/iter-1/round-{round}")), expected);
    }
    assert!(!Path::new(&fixture.path("out/iter-1/round-5")).exists());
    let rates: Vec<_> =
        metrics(&fixture, "out/iter-1").iter().map(|line| number(line, "train/learning_rate")).collect();
    assert_eq!(rates[0], 1e-3);
    assert!(rates.windows(2).all(|pair| pair[1] < pair[0]) && rates[rates.len() - 1] < 1.5e-4, "{rates:?}");
}

#[test]
fn stops_leave_no_trace_in_rounds() {
    let fixture = Fixture::new();
    let (mut stops, mut resumed) = (0, Vec::new());
    for (name, sets) in [
        ("steps", with(&STEPS, &["output.save_dtype=bf16"])),
        ("epochs", with(&EPOCHS, &["adapter.rank=2", "adapter.dropout=0.2", "train.batch_pairs=1"])),
        ("merged", with(&STEPS, &["adapter.rank=2", "adapter.merge=true", "game.opponent=average"])),
    ] {
        let whole = format!("{name}-whole");
        fixture.play(&whole, &sets).unwrap();
        for seed in 0..2 {
            let out = format!("{name}-{seed}");
            let (more, stages) = play_with_stops(&fixture.config(&out, &sets), seed, 50);
            stops += more;
            resumed.extend(stages);
            assert_same(&fixture.path(&whole), &fixture.path(&out));
        }
    }
    assert!(stops >= 40, "{stops} stops");
    for work in ["/rollouts", "/train"] {
        assert!(resumed.iter().any(|stage| stage.contains("/round-") && stage.ends_with(work)), "{work}: {resumed:?}");
    }
    // Only the model of a whole iteration is merged.
    let model = |name: &str| fixture.path(&format!("{name}-whole/iter-1/model"));
    assert!(AdapterFiles::is_in(Path::new(&model("epochs"))) && !AdapterFiles::is_in(Path::new(&model("merged"))));
}

#[test]
fn rounds_of_an_adapter_start_at_their_opponent() {
    let fixture = Fixture::new();
    for merge in ["adapter.merge=true", "adapter.merge=false"] {
        fixture.play(merge, &with(&EPOCHS, &["adapter.rank=2", merge])).unwrap();
        for (k, round) in [(1, 2), (2, 1), (2, 2)] {
            let first = &metrics(&fixture, &format!("{merge}/iter-{k}/round-{round}"))[0];
            assert_eq!(
                number(first, "train/loss").to_bits(),
                std::f64::consts::LN_2.to_bits(),
                "{merge}, round {round} of {k}"
            );
        }
    }
}

/// The model at hand is one more, and the base stays what it was.
#[test]
fn opponents_of_several_models_gain_one_in_a_round() {
    let fixture = Fixture::new();
    let sets = with(&EPOCHS, &["game.iterations=1", "game.samples=4"]);
    fixture.play("history", &with(&sets, &["game.opponent=history", "game.objective=triplet"])).unwrap();
    let players = |round: usize| {
        let rollouts = lines(&fixture.path(&format!("history/iter-1/round-{round}/rollouts.jsonl")));
        let mut players: Vec<_> =
            rollouts.iter().map(|line| line["player"].as_str().unwrap_or("").to_owned()).collect();
        players.sort();
        players.dedup();
        players
    };
    assert_eq!([1, 2, 3].map(players), [vec![""], vec!["iter-0", "iter-1/round-1"], vec!["iter-0", "iter-1/round-2"]]);
    for tree in lines(&fixture.path("history/iter-1/round-3/pairs.jsonl")) {
        assert_eq!(tree["base"].as_array().unwrap().len(), tree["generated"].as_array().unwrap().len());
    }

    fixture.play("base", &with(&sets, &["game.opponent=base"])).unwrap();
    let second = &metrics(&fixture, "base/iter-1")[metrics(&fixture, "base/iter-1/round-1").len()];
    assert_ne!(number(second, "rewards/real"), 0.0, "the base has moved");
}

/// Real and rejected responses are the same but for one record: most rounds have nothing to learn from.
#[test]
fn a_round_without_pairs_hands_on_what_it_got() {
    let fixture = Fixture::new();
    let records = lines(&fixture.path("train.jsonl"));
    for odd in [1, 9] {
        let line = |(at, record): (usize, &Value)| {
            let same = record["response"].as_str().unwrap();
            let rejected = if at == odd { "abc" } else { same };
            format!("{}\n", json!({"prompt": record["prompt"], "chosen": same, "rejected": rejected}))
        };
        fs::write(fixture.path("odd.jsonl"), records.iter().enumerate().map(line).collect::<String>()).unwrap();
        let train = format!("data.train={}", fixture.path("odd.jsonl"));
        let sets = [
            &*train,
            "game.opponent=data",
            "game.samples=1",
            "game.iterations=1",
            "game.refresh=1",
            "data.prompts=0",
            "train.warmup=0",
        ];
        let out = format!("out-{odd}");
        fixture.play(&out, &sets).unwrap();
        let all = metrics(&fixture, &format!("{out}/iter-1"));
        assert_eq!(all.len(), 1);
        assert_eq!(number(&all[0], "train/loss").to_bits(), std::f64::consts::LN_2.to_bits());
        let weights = |k| read_model(&fixture.path(&format!("{out}/iter-{k}/model"))).1;
        assert_ne!(weights(0), weights(1));
    }
}

#[test]
fn iterations_of_one_round_and_of_several_stand_side_by_side() {
    let fixture = Fixture::new();
    fixture.play("out", &["game.refresh=['never', 'epoch']", "train.epochs=2"]).unwrap();
    let stages = Manifest::read(Path::new(&fixture.path("out"))).unwrap().stages;
    let names: Vec<_> = stages.iter().map(|stage| &*stage.name).filter(|name| name.contains("iter-")).collect();
    let evaluated = |k: usize| ["greedy", "sampled", "eval"].map(|work| format!("iter-{k}/{work}"));
    let mut expected = vec!["iter-0/train".to_owned()];
    expected.extend(evaluated(0));
    expected.extend(["iter-1/rollouts", "iter-1/pairs", "iter-1/train"].map(String::from));
    expected.extend(evaluated(1));
    for round in ["iter-2/round-1", "iter-2/round-2"] {
        expected.extend(["rollouts", "pairs"].map(|work| format!("{round}/{work}")));
        expected.push(if round.ends_with('1') { format!("{round}/train") } else { "iter-2/train".into() });
    }
    expected.extend(evaluated(2));
    assert_eq!(names, expected);
    assert_eq!(stage_of_model(Path::new(&fixture.path("out")), Some(2)).unwrap(), "iter-2");
    let error = fixture.play("out", &["game.refresh=['never', 1]", "train.epochs=2"]).unwrap_err().to_string();
    assert!(error.contains("`game.refresh` = [\"never\", \"epoch\"], and it is now [\"never\", 1]"), "{error}");
}
