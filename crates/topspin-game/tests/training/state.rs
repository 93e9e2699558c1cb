//! Stopping in the middle of a stage and going on.

use std::path::Path;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use topspin_game::checkpoint::StateError;
use topspin_game::metrics::StepMetrics;
use topspin_game::objective::{Loss, Objective};
use topspin_game::order::{Batches, Position, singly};
use topspin_game::pair::{Pair, Tree, all_pairs};
use topspin_game::trainer::Trainer;
use topspin_kernels::cpu::Cpu;
use topspin_model::config::DecoderConfig;

use crate::common::*;

const SEED: u64 = 11;
const EPOCHS: u32 = 2;
const TAG: &str = "iter-1/train 5f0e";

/// The batches of a stage from `position` on.
fn batches(pairs: &[Pair], position: Position) -> Batches {
    Batches::new(SEED, 1, singly(pairs.len()), 2, EPOCHS, position)
}

/// Up to `steps` steps of the stage; the metrics, and where it stands then.
fn train(trainer: &mut Trainer<Cpu>, trees: &[Tree], start: Position, steps: usize) -> (Vec<StepMetrics>, Position) {
    let pairs = all_pairs(trees);
    let mut batches = batches(&pairs, start);
    let step = |batch: Vec<usize>| {
        let chosen: Vec<Pair> = batch.into_iter().map(|index| pairs[index]).collect();
        trainer.spin_step(trees, &chosen, &Loss::new(Objective::Logistic, 0.5)).unwrap().metrics
    };
    let metrics = batches.by_ref().take(steps).map(step).collect();
    (metrics, batches.position())
}

fn stage(config: &DecoderConfig, rmsprop: bool) -> Trainer<Cpu> {
    trainer(config, 3, settings(if rmsprop { RMSPROP } else { ADAMW }, 30))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn going_on_is_bitwise_not_having_stopped(
        config in config(),
        trees in trees(),
        rmsprop in any::<bool>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let mut whole = stage(&config, rmsprop);
        let (expected, _) = train(&mut whole, &trees, Position::default(), usize::MAX);

        let mut first = stage(&config, rmsprop);
        let (mut metrics, position) = train(&mut first, &trees, Position::default(), cut.index(expected.len() + 1));
        first.save_state(&path, TAG, position).unwrap();
        let mut second = stage(&config, rmsprop);
        let position = second.load_state(&path, TAG).unwrap();
        prop_assert_eq!(second.steps(), first.steps());
        metrics.extend(train(&mut second, &trees, position, usize::MAX).0);

        prop_assert_eq!(bits(&second.decoder().read_params()), bits(&whole.decoder().read_params()));
        let lines = |metrics: &[StepMetrics]| metrics.iter().map(|m| serde_json::to_string(m).unwrap()).collect::<Vec<_>>();
        prop_assert_eq!(lines(&metrics), lines(&expected));
    }

    #[test]
    fn a_damaged_state_is_refused(
        config in config(),
        trees in trees(),
        at in any::<prop::sample::Index>(),
        flip in 1..=255u8,
        cut in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let mut saved = stage(&config, false);
        let (_, position) = train(&mut saved, &trees, Position::default(), 1);
        saved.save_state(&path, TAG, position).unwrap();

        let mut bytes = std::fs::read(&path).unwrap();
        let at = at.index(bytes.len());
        if cut {
            bytes.truncate(at);
        } else {
            bytes[at] ^= flip;
        }
        std::fs::write(&path, bytes).unwrap();
        let mut trainer = stage(&config, false);
        let before = bits(&trainer.decoder().read_params());
        let error = trainer.load_state(&path, TAG).unwrap_err();
        // A changed byte in the header may also read as another tag, rule or length.
        let refused = matches!(error, StateError::Damaged { .. } | StateError::Foreign { .. });
        prop_assert!(refused && (!cut || matches!(error, StateError::Damaged { .. })), "{error}");
        prop_assert!(error.to_string().contains(path.to_str().unwrap()));
        prop_assert_eq!(bits(&trainer.decoder().read_params()), before);
        prop_assert_eq!(trainer.steps(), 0);
    }
}

#[test]
fn a_state_of_another_stage_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let config = config().new_tree(&mut runner).unwrap().current();
    let other = DecoderConfig { vocab_size: config.vocab_size + 1, ..config.clone() };
    stage(&config, false).save_state(&path, TAG, Position { epoch: 1, visited: 6 }).unwrap();

    let load = |mut trainer: Trainer<Cpu>, path: &Path, tag| trainer.load_state(path, tag).map_err(|e| e.to_string());
    assert_eq!(load(stage(&config, false), &path, TAG), Ok(Position { epoch: 1, visited: 6 }));
    let refused = |trainer, tag, problem: &str| {
        let error = load(trainer, &path, tag).unwrap_err();
        assert!(error.contains(&format!("is of another stage: {problem}")), "{error}");
    };
    refused(stage(&config, false), "sft 77aa", "it belongs to `iter-1/train 5f0e`, not to `sft 77aa`");
    refused(stage(&config, true), TAG, "it was saved by the optimizer `adamw`, not `rmsprop`");
    refused(stage(&other, false), TAG, "it has ");
    let missing = load(stage(&config, false), &dir.path().join("none"), TAG).unwrap_err();
    assert!(missing.contains("there is no such file"), "{missing}");
}
