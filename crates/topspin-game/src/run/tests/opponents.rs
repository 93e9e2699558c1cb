//! Runs against each opponent: whose responses there are, and whose log-probabilities.

use serde_json::Value;

use super::resume::play_with_stops;
use super::*;
use crate::pair::Response;

const THREE: [&str; 4] = ["game.iterations=3", "data.fresh=false", "data.prompts=6", "sft.controls=[]"];

fn sets<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&THREE[..], more].concat()
}

fn trees(fixture: &Fixture, folder: &str) -> Vec<Tree> {
    read_lines(Path::new(&fixture.path(&format!("{folder}/pairs.jsonl")))).unwrap()
}

fn rollouts(fixture: &Fixture, file: &str) -> Vec<Rollout> {
    read_lines(Path::new(&fixture.path(file))).unwrap()
}

/// All responses of a tree: real, generated, the base model's.
fn responses(tree: &Tree) -> Vec<&Response> {
    std::iter::once(&tree.real).chain(&tree.generated).chain(&tree.base).collect()
}

/// Log-probabilities of all responses of trees under parameters.
fn scores(fixture: &Fixture, parameters: Vec<f32>, trees: &[Tree]) -> Vec<Vec<Vec<f32>>> {
    let (files, _) = read_model(&fixture.path("model"));
    let decoder = Decoder::new(Cpu::new(), files.config, parameters.into(), Precision::F32, Use::Forward);
    let bare = trees.iter().map(|tree| TokenTree {
        prompt_id: &tree.prompt_id,
        prompt: &tree.prompt,
        responses: responses(tree).iter().map(|response| &response.token_ids[..]).collect(),
        turns: &[],
    });
    let mut tape = Tape::new(decoder.device(), Keep::Nothing);
    score(&decoder, &mut tape, &bare.collect::<Vec<_>>(), 64).unwrap()
}

fn parameters(fixture: &Fixture, out: &str, k: usize) -> Vec<f32> {
    read_model(&fixture.path(&format!("{out}/iter-{k}/model"))).1
}

fn sum(logprobs: &[f32]) -> f64 {
    logprobs.iter().map(|&logprob| f64::from(logprob)).sum()
}

/// Plays three iterations and compares the last one's log-probabilities of whole responses with what `expected` makes of
/// those of the models after iterations 0, 1 and 2.
fn assert_reference(set: &[&str], expected: impl Fn([f64; 3]) -> f64) {
    let fixture = Fixture::new();
    fixture.play("out", &sets(set)).unwrap();
    let trees = trees(&fixture, "out/iter-3");
    let scores = [0, 1, 2].map(|k| scores(&fixture, parameters(&fixture, "out", k), &trees));
    let mut differ = false;
    for (at, tree) in trees.iter().enumerate() {
        for (place, response) in responses(tree).into_iter().enumerate() {
            let of_models = [0, 1, 2].map(|k| sum(&scores[k][at][place]));
            let (found, expected) = (sum(&response.logprobs), expected(of_models));
            assert!((found - expected).abs() < 1e-4, "{found} {expected}");
            differ |= (found - of_models[2]).abs() > 1e-2;
        }
    }
    assert_eq!(differ, !set.is_empty(), "whether the reference is another than the latest model");
}

#[test]
fn each_reference_is_what_its_formula_says() {
    assert_reference(&[], |[_, _, latest]| latest);
    assert_reference(&["game.opponent=base"], |[base, ..]| base);
    assert_reference(&["game.opponent=mixture", "game.mixture=0.3"], |[base, _, latest]| 0.3 * base + 0.7 * latest);
    assert_reference(&["game.opponent=history", "game.history_decay=0.5"], |logps| {
        let [a, b, c] = logps.map(f64::exp);
        ((0.25 * a + 0.5 * b + c) / 1.75).ln()
    });
}

#[test]
fn an_average_is_one_of_parameters() {
    let fixture = Fixture::new();
    fixture.play("out", &sets(&["game.opponent=average", "game.average_decay=0.25"])).unwrap();
    let [first, second, third] = [0, 1, 2].map(|k| parameters(&fixture, "out", k));
    let mean = |at: usize| 0.25 * (0.25 * first[at] + 0.75 * second[at]) + 0.75 * third[at];
    let trees = trees(&fixture, "out/iter-3");
    let scores = scores(&fixture, (0..first.len()).map(mean).collect(), &trees);
    for (tree, scores) in trees.iter().zip(scores) {
        for (response, scores) in responses(tree).into_iter().zip(scores) {
            assert!((sum(&response.logprobs) - sum(&scores)).abs() < 1e-4);
        }
    }
}

#[test]
fn an_average_of_adapters_is_one_of_what_is_trained() {
    let fixture = Fixture::new();
    let adapter = ["adapter.rank=2", "game.opponent=average", "train.optimizer=adamw"];
    fixture.play("out", &sets(&adapter)).unwrap();
    let (base, _) = read_model(&fixture.path("model"));
    let files =
        [0, 1, 2].map(|k| base.with_adapter(&Path::new(&fixture.path("out")).join(format!("iter-{k}/model"))).unwrap());
    let [first, second, third] = files.each_ref().map(|files| files.adapter().unwrap().parameters().unwrap());
    let mean: Vec<f32> = (0..first.len()).map(|at| 0.25 * first[at] + 0.25 * second[at] + 0.5 * third[at]).collect();
    let mut merged = vec![0.0; base.config.layout().len()];
    base.read_parameters(&mut merged).unwrap();
    files[0].adapter().unwrap().adapter().merge_into(&mean, &base.config, &mut merged);
    let trees = trees(&fixture, "out/iter-3");
    for (tree, scores) in trees.iter().zip(scores(&fixture, merged, &trees)) {
        for (response, scores) in responses(tree).into_iter().zip(scores) {
            assert!((sum(&response.logprobs) - sum(&scores)).abs() < 1e-4);
        }
    }
}

/// In a history each response was sampled by the model that it names, and all of them have their turns.
#[test]
fn a_history_takes_turns() {
    let fixture = Fixture::new();
    fixture.play("out", &sets(&["game.opponent=history", "game.samples=6"])).unwrap();
    let all = rollouts(&fixture, "out/iter-3/rollouts.jsonl");
    let decoders = [0, 1, 2].map(|k| parameters(&fixture, "out", k));
    for (k, parameters) in decoders.into_iter().enumerate() {
        let name = format!("iter-{k}");
        let own: Vec<_> = all.iter().filter(|rollout| rollout.player.as_ref() == Some(&name)).collect();
        // A third of 36 each; fewer than 4 have a probability of 2e-4.
        assert!(own.len() >= 4, "{} samples of {name}", own.len());
        let planted = trees(&fixture, "out/iter-3");
        let tree = |rollout: &&Rollout| {
            let prompt = planted.iter().find(|tree| tree.prompt_id == rollout.prompt_id)?.prompt.clone();
            let (prompt_id, real) = (rollout.prompt_id.clone(), rollout.response.clone());
            Some(Tree { prompt_id, prompt, real, generated: Vec::new(), base: Vec::new() })
        };
        let own: Vec<_> = own.iter().filter_map(tree).collect();
        for (tree, scores) in own.iter().zip(scores(&fixture, parameters, &own)) {
            assert_eq!(tree.real.logprobs, scores[0], "{name}");
        }
    }
    assert!(!Path::new(&fixture.path("out/iter-3/real.jsonl")).exists(), "no one alone is the reference");
}

/// The base model's responses are its own, one beside each generated one: that one itself if the base gave it.
#[test]
fn the_base_model_answers_where_the_loss_asks_it() {
    let fixture = Fixture::new();
    let losses = [
        (&["game.objective=triplet"][..], true, false),
        (&["game.forward_kl=0.1"], true, false),
        (&["game.reverse_kl=0.1"], false, true),
        (&["game.forward_kl=0.1", "game.reverse_kl=0.1", "game.opponent=history"], true, true),
    ];
    for (at, (set, answers, scores_generated)) in losses.into_iter().enumerate() {
        let out = format!("out-{at}");
        fixture.play(&out, &sets(set)).unwrap();
        for k in 1..=3 {
            let trees = trees(&fixture, &format!("{out}/iter-{k}"));
            let scores = scores(&fixture, parameters(&fixture, &out, 0), &trees);
            let mut all = 0;
            for (tree, scores) in trees.iter().zip(scores) {
                let count = tree.generated.len();
                assert_eq!(tree.base.len(), if answers { count } else { 0 });
                for (response, scores) in tree.base.iter().zip(&scores[1 + count..]) {
                    assert_eq!(&response.logprobs, scores, "{set:?}");
                }
                for (response, scores) in tree.generated.iter().zip(&scores[1..]) {
                    let expected = if scores_generated { scores.clone() } else { Vec::new() };
                    assert_eq!(response.base_logprobs, expected, "{set:?}");
                }
                all += tree.generated.iter().zip(&tree.base).filter(|(a, b)| a.token_ids != b.token_ids).count();
            }
            assert_eq!(all > 0, answers && k > 1, "whether responses of the base in iteration {k} are others");
        }
    }
}

#[test]
fn the_latest_two_are_scored_by_the_latest() {
    let fixture = Fixture::new();
    let sets = ["game.opponent=latest_two", "data.fresh=false", "data.prompts=6", "game.objective=triplet"];
    fixture.play("out", &sets).unwrap();
    let [first, second] = [1, 2].map(|k| trees(&fixture, &format!("out/iter-{k}")));
    let count = |trees: &[Tree]| trees.iter().map(|tree| tree.generated.len()).sum::<usize>();
    let manifest = Manifest::read(Path::new(&fixture.path("out"))).unwrap();
    let figures = manifest.figures("iter-2/pairs").unwrap();
    assert_eq!(figures["pairs"], Value::from(count(&second)));
    assert_eq!(figures["mixed"], Value::from(count(&first)));
    assert!(count(&first) > 0);
    let scores = scores(&fixture, parameters(&fixture, "out", 1), &second);
    for (tree, scores) in second.iter().zip(scores) {
        for (response, scores) in std::iter::once(&tree.real).chain(&tree.generated).zip(scores) {
            assert_eq!(response.logprobs, scores);
        }
        let old = first.iter().find(|other| other.prompt_id == tree.prompt_id);
        for (old, beside) in old.iter().flat_map(|old| old.generated.iter().zip(&old.base)) {
            let place = tree
                .generated
                .iter()
                .zip(&tree.base)
                .position(|(response, base)| response.token_ids == old.token_ids && base == beside);
            assert!(place.is_some(), "a pair of the iteration before keeps what stands beside it");
        }
    }
}

/// At the opponent every margin is 0, of old pairs too: else the first step would tell.
#[test]
fn the_first_step_starts_at_the_reference_where_that_is_the_latest_model() {
    let fixture = Fixture::new();
    for set in ["game.opponent=latest_two", "game.reverse_kl=0.5", "game.dpop=2", "game.label_smoothing=0.2"] {
        fixture.play(set, &[set, "data.fresh=false", "data.prompts=6"]).unwrap();
        let metrics = fs::read_to_string(fixture.path(&format!("{set}/iter-1/metrics.jsonl"))).unwrap();
        let first: Value = serde_json::from_str(metrics.lines().next().unwrap()).unwrap();
        assert_eq!(first["train/loss"].as_f64(), Some(std::f64::consts::LN_2), "{set}");
    }
}

#[test]
fn stops_leave_no_trace() {
    let fixture = Fixture::new();
    let variants = [
        ["game.opponent=history", "game.objective=triplet", "rollout.live_sequences=2"],
        ["game.opponent=average", "game.reverse_kl=0.2", "rollout.live_sequences=2"],
        ["game.opponent=latest_two", "game.forward_kl=0.2", "train.optimizer=adamw"],
    ];
    for (at, variant) in variants.iter().enumerate() {
        let [whole, stopped] = [format!("whole-{at}"), format!("stopped-{at}")];
        fixture.play(&whole, &sets(variant)).unwrap();
        let (stops, _) = play_with_stops(&fixture.config(&stopped, &sets(variant)), 1, 40);
        assert!(stops >= 5, "{stops} stops");
        assert_same(&fixture.path(&whole), &fixture.path(&stopped));
    }
}
