//! Training of adapters: TRL's steps with PEFT, dropout, and what an adapter leaves alone.

use proptest::prelude::*;
use safetensors::SafeTensors;
use serde::Deserialize;
use topspin_game::objective::{Loss, Objective};
use topspin_game::optimizer::{OptimizerSettings, Rule};
use topspin_game::pair::{Tree, all_pairs};
use topspin_game::schedule::{Schedule, Shape, Warmup};
use topspin_game::score::score;
use topspin_game::trainer::{TrainSettings, Trainer};
use topspin_kernels::cpu::Cpu;
use topspin_kernels::device::{Buffer, Device};
use topspin_kernels::gemm::Precision;
use topspin_kernels::rng::Rng;
use topspin_model::adapter::{Adapter, LoraConfig, Targets};
use topspin_model::config::DecoderConfig;
use topspin_model::decoder::{Decoder, Keep, Tape};

use crate::common::{ADAMW, bits, config, decoder, distance, params, score_trees, settings, tokens_of, trees};
use crate::families::Expected;
use crate::stored::{Stored, golden};

/// Five steps of TRL's `DPOTrainer`.
#[derive(Deserialize)]
struct Steps {
    adapter: String,
    steps: usize,
    lr: f64,
    betas: [f32; 2],
    eps: f32,
    weight_decay: f32,
    max_norm: f64,
    loss: Vec<f64>,
    grad_norm: Vec<f64>,
}

#[test]
fn five_steps_of_trl_with_peft() {
    let steps: Steps = serde_json::from_slice(&std::fs::read(golden("lora/steps.json")).unwrap()).unwrap();
    let folder = golden("lora").join(&steps.adapter);
    let stored: Stored<Expected> = Stored::read_adapter(&folder, &golden("families/llama-llama3"));
    let spin = &stored.expected.spin;
    let trees = stored.trees(&spin.pairs);
    let rule = Rule::AdamW { beta1: steps.betas[0], beta2: steps.betas[1], eps: steps.eps };
    let optimizer = OptimizerSettings { rule, weight_decay: steps.weight_decay, decays: |_| true };
    let settings = TrainSettings {
        optimizer,
        schedule: Schedule::new(steps.lr, Shape::Constant, Warmup::Steps(0), 1),
        max_grad_norm: Some(steps.max_norm),
        // Not all pairs in one batch, so that gradients are accumulated.
        ..settings(rule, 32)
    };
    let mut trainer = Trainer::new(stored.decoder(), settings);
    let before = trainer.decoder().read_params();
    let mut clipped = 0;
    for at in 0..steps.steps {
        let step = trainer.spin_step(&trees, &all_pairs(&trees), &Loss::new(Objective::Logistic, spin.beta)).unwrap();
        let close = |found: f64, expected: f64| (found - expected).abs() < 1e-4 * expected;
        assert!(close(step.metrics.loss, steps.loss[at]), "step {at}: loss {}", step.metrics.loss);
        assert!(close(step.metrics.grad_norm, steps.grad_norm[at]), "step {at}: norm {}", step.metrics.grad_norm);
        clipped += usize::from(step.metrics.grad_norm > steps.max_norm);
    }
    assert!(0 < clipped && clipped < steps.steps, "clipping is not tried");

    let (layout, after) = (trainer.decoder().layout().into_owned(), trainer.decoder().read_params());
    let file = std::fs::read(golden("lora/steps.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&file).unwrap();
    assert_eq!(expected.len(), layout.entries().len());
    for entry in layout.entries() {
        let (quads, _) = expected.tensor(&entry.name).unwrap().data().as_chunks();
        let expected: Vec<f32> = quads.iter().map(|&quad| f32::from_le_bytes(quad)).collect();
        let moved = |to: &[f32]| to.iter().zip(&before[entry.range()]).map(|(a, b)| a - b).collect::<Vec<f32>>();
        let found = &after[entry.range()];
        assert!(distance(found, &expected) < 1e-4, "{}: {:e}", entry.name, distance(found, &expected));
        let distance = distance(&moved(found), &moved(&expected));
        assert!(distance < 2e-3, "change of {}: {distance:e}", entry.name);
    }
}

/// A trainer of an adapter whose matrices B are not zero, from parameters of any size.
fn trainer(config: &DecoderConfig, seed: u64, dropout: f64, shift: Option<(&[f32], f32)>, keep: Keep) -> Trainer<Cpu> {
    let exclude = Some(Targets::Names(vec!["k_proj".into()]));
    let lora = LoraConfig { dropout, exclude, ..LoraConfig::new(3, 4.0, Targets::AllLinear) };
    let adapter = Adapter::new(lora, config).unwrap();
    let mut rng = Rng::new(seed, "adapter of a test", 0);
    let mut parameters: Vec<f32> = (0..adapter.layout().len()).map(|_| 0.3 * rng.normal() as f32).collect();
    if let Some((direction, by)) = shift {
        parameters.iter_mut().zip(direction).for_each(|(parameter, along)| *parameter += by * along);
    }
    let base = decoder(config, &params(config, seed), Precision::F32);
    Trainer::new(base.with_adapter(adapter, parameters.into()), TrainSettings { keep, ..settings(ADAMW, 40) })
}

fn gradient(trainer: &mut Trainer<Cpu>, trees: &[Tree]) -> f64 {
    trainer.spin_gradient(trees, &all_pairs(trees), &Loss::new(Objective::Logistic, 0.7)).unwrap().loss
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// The slope of the loss along a direction, with the same elements dropped on both sides.
    #[test]
    fn gradients_with_dropout_are_the_slope(config in config(), trees in trees(), seed: u64, dropout in 0.0f64..0.8) {
        let mut at = trainer(&config, seed, dropout, None, Keep::Everything);
        gradient(&mut at, &trees);
        let grads = at.grads().to_vec();
        // Along the gradient the slope is far above rounding errors, unless it is so steep that a step is near those of parameters.
        let norm = grads.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
        prop_assume!((0.3..100.0).contains(&norm));
        let direction: Vec<f32> = grads.iter().map(|g| (f64::from(*g) / norm) as f32).collect();
        let slope = |step: f32| {
            let loss = |by: f32| gradient(&mut trainer(&config, seed, dropout, Some((&direction, by)), Keep::Everything), &trees);
            (loss(step) - loss(-step)) / f64::from(2.0 * step)
        };
        // Richardson: two steps leave an error of the fourth order. Where the loss bends long ones are wrong, and where it is steep
        // short ones are, by rounding; a gradient that is wrong by a hundredth is wrong at all of them.
        let slopes = [8e-3, 4e-3, 2e-3, 1e-3, 5e-4, 2.5e-4].map(|moved| slope((moved / norm).min(moved / 4.0) as f32));
        let errors = slopes.windows(2).map(|pair| ((4.0 * pair[1] - pair[0]) / 3.0 - norm).abs());
        let error = errors.fold(f64::INFINITY, f64::min);
        prop_assert!(error < 5e-3 * norm, "{norm}, not that by {error}: {slopes:?}");
    }

    #[test]
    fn computing_activations_again_drops_the_same(config in config(), trees in trees(), seed: u64) {
        let [kept, again] = [Keep::Everything, Keep::LayerInputs].map(|keep| {
            let mut trainer = trainer(&config, seed, 0.4, None, keep);
            let loss = gradient(&mut trainer, &trees);
            (loss.to_bits(), bits(trainer.grads()))
        });
        prop_assert_eq!(kept, again);
    }

    /// Steps move the adapter alone, and a model against itself begins at ln 2 whatever its adapter.
    #[test]
    fn the_model_below_stays_as_it_is(config in config(), mut trees in trees(), seed: u64) {
        let mut trainer = trainer(&config, seed, 0.0, None, Keep::Everything);
        score_trees(&trainer, &mut trees);
        let before = bits(&trainer.decoder().read_params());
        let pairs = all_pairs(&trees);
        let first = trainer.spin_step(&trees, &pairs, &Loss::new(Objective::Logistic, 0.7)).unwrap();
        prop_assert_eq!(first.metrics.loss, std::f64::consts::LN_2);
        for _ in 0..2 {
            trainer.spin_step(&trees, &pairs, &Loss::new(Objective::Logistic, 0.7)).unwrap();
        }
        prop_assert_ne!(bits(&trainer.decoder().read_params()), before);
        // Once its B are zero, an adapter adds nothing.
        let mut decoder = trainer.into_decoder();
        decoder.update(|device, params| device.zero(params.head_mut(params.len())));
        let scores = |decoder: &Decoder<Cpu>| {
            let mut tape = Tape::new(decoder.device(), Keep::Nothing);
            let scores = score(decoder, &mut tape, &trees.iter().map(tokens_of).collect::<Vec<_>>(), 64).unwrap();
            bits(&scores.concat().concat())
        };
        prop_assert_eq!(scores(&decoder), scores(&crate::common::decoder(&config, &params(&config, seed), Precision::F32)));
    }
}
