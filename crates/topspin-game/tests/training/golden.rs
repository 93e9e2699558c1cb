//! Held to PyTorch and transformers: `tests/golden/README.md` says what is stored.
//!
//! Every comparison is relative to the largest magnitude in the tensor and must be within [`TOLERANCE`].

use serde::Deserialize;
use topspin_game::objective::{Loss, Objective};
use topspin_game::optimizer::{OptimizerSettings, Rule};
use topspin_game::pair::{Tree, all_pairs};
use topspin_game::schedule::{Schedule, Shape, Warmup};
use topspin_game::trainer::{TrainSettings, Trainer};
use topspin_game::tree::TokenTree;
use topspin_kernels::cpu::Cpu;
use topspin_model::batch::Batch;
use topspin_model::decoder::{Keep, Tape};

use crate::common::{distance, settings};
use crate::stored::{Spin, Stored, golden};

const TOLERANCE: f64 = 1e-4;
/// For the difference of parameters after and before: both are rounded to f32, the difference is far smaller.
const CHANGE_TOLERANCE: f64 = 1e-3;
const VARIANTS: [&str; 2] = ["tiny-llama", "tiny-llama-tied"];

#[derive(Deserialize)]
struct Expected {
    sequences: Vec<Vec<u32>>,
    spin: Spin,
    adamw: Run,
    adamw_clipped: Run,
    rmsprop: Run,
}

/// A run's settings are those of its optimizer; absent ones are not its own.
#[derive(Deserialize)]
struct Run {
    steps: usize,
    lr: f64,
    eps: f32,
    betas: Option<(f32, f32)>,
    alpha: Option<f32>,
    weight_decay: Option<f32>,
    max_norm: Option<f64>,
    loss: Vec<f64>,
    grad_norm: Vec<f64>,
}

struct Golden(Stored<Expected>);

impl Golden {
    fn read(variant: &str) -> Self {
        Self(Stored::read(&golden(variant)))
    }

    fn trees(&self) -> Vec<Tree> {
        self.0.trees(&self.0.expected.spin.pairs)
    }

    fn trainer(&self, run: &Run) -> Trainer<Cpu> {
        let rule = match (run.betas, run.alpha) {
            (Some((beta1, beta2)), None) => Rule::AdamW { beta1, beta2, eps: run.eps },
            (None, Some(decay)) => Rule::RmsProp { decay, eps: run.eps },
            _ => panic!("a run has the settings of one optimizer"),
        };
        let weight_decay = run.weight_decay.unwrap_or(0.0);
        let settings = TrainSettings {
            // The script gives all parameters to PyTorch as one group.
            optimizer: OptimizerSettings { rule, weight_decay, decays: |_| true },
            schedule: Schedule::new(run.lr, Shape::Constant, Warmup::Steps(0), 1),
            max_grad_norm: run.max_norm,
            // Not all pairs in one batch, so that gradients are accumulated.
            batch_tokens: 32,
            keep: Keep::Everything,
            ..settings(rule, 32)
        };
        Trainer::new(self.0.decoder(), settings)
    }

    /// Compares every tensor of an arena with the stored `{prefix}.{name}`.
    fn compare_arena(&self, prefix: &str, arena: &[f32]) {
        for entry in self.0.config.layout().entries() {
            let name = format!("{prefix}.{}", entry.name);
            assert_close(&name, &arena[entry.range()], &self.0.tensor(&name));
        }
    }

    /// Compares how far every tensor has moved, which shows what the size of the parameters hides.
    fn compare_changes(&self, prefix: &str, arena: &[f32]) {
        let before = &self.0.params;
        let moved = |after: &[f32], before: &[f32]| after.iter().zip(before).map(|(a, b)| a - b).collect::<Vec<_>>();
        for entry in self.0.config.layout().entries() {
            let (name, before) = (format!("{prefix}.{}", entry.name), &before[entry.range()]);
            let expected = moved(&self.0.tensor(&name), before);
            let distance = distance(&moved(&arena[entry.range()], before), &expected);
            assert!(distance < CHANGE_TOLERANCE, "change of {name}: {distance:e}");
        }
    }
}

fn assert_close(what: &str, found: &[f32], expected: &[f32]) {
    let distance = distance(found, expected);
    assert!(distance < TOLERANCE, "{what}: {distance:e}");
}

fn assert_close_numbers(what: &str, found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    for (step, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!((found - expected).abs() < TOLERANCE * expected.abs(), "{what}, step {step}: {found} {expected}");
    }
}

#[test]
fn logits_and_logprobs() {
    for golden in VARIANTS.map(Golden::read) {
        let decoder = golden.0.decoder();
        let mut tape = Tape::new(decoder.device(), Keep::Nothing);
        for (at, tokens) in golden.0.expected.sequences.iter().enumerate() {
            let mut batch = Batch::default();
            batch.push(tokens, &[], None, 0);
            batch.outputs = (0..tokens.len() as u32).collect();
            let mut logits = Vec::new();
            decoder.next_tokens(&batch, &mut decoder.kv(tokens.len()), &mut tape, |_, chunk, _| {
                logits.extend_from_slice(chunk);
            });
            assert_close(&format!("logits.{at}"), &logits, &golden.0.tensor(&format!("logits.{at}")));
            if tokens.len() > 1 {
                let tree = TokenTree { prompt_id: "", prompt: &tokens[..1], responses: vec![&tokens[1..]], turns: &[] };
                let scores = topspin_game::score::score(&decoder, &mut tape, &[tree], 64).unwrap();
                assert_close(&format!("logprobs.{at}"), &scores[0][0], &golden.0.tensor(&format!("logprobs.{at}")));
            }
        }
    }
}

#[test]
fn spin_loss_and_gradient() {
    for golden in VARIANTS.map(Golden::read) {
        let (trees, spin) = (golden.trees(), &golden.0.expected.spin);
        let mut trainer = golden.trainer(&golden.0.expected.adamw);
        for (pair, margin) in all_pairs(&trees).into_iter().zip(&spin.margins) {
            let one = trainer.spin_gradient(&trees, &[pair], &Loss::new(Objective::Logistic, spin.beta)).unwrap();
            assert_close_numbers("margin", &[one.game.unwrap().margin], &[*margin]);
        }
        let gradient =
            trainer.spin_gradient(&trees, &all_pairs(&trees), &Loss::new(Objective::Logistic, spin.beta)).unwrap();
        assert_close_numbers("loss", &[gradient.loss], &[spin.loss]);
        golden.compare_arena("grad", trainer.grads());
    }
}

#[test]
fn five_steps_of_each_optimizer() {
    for golden in VARIANTS.map(Golden::read) {
        let (trees, expected) = (golden.trees(), &golden.0.expected);
        let runs =
            [("adamw", &expected.adamw), ("adamw_clipped", &expected.adamw_clipped), ("rmsprop", &expected.rmsprop)];
        for (name, run) in runs {
            let mut trainer = golden.trainer(run);
            let (mut losses, mut norms) = (Vec::new(), Vec::new());
            for _ in 0..run.steps {
                let step = trainer
                    .spin_step(&trees, &all_pairs(&trees), &Loss::new(Objective::Logistic, expected.spin.beta))
                    .unwrap();
                losses.push(step.metrics.loss);
                norms.push(step.metrics.grad_norm);
            }
            assert_close_numbers(&format!("{name}, loss"), &losses, &run.loss);
            assert_close_numbers(&format!("{name}, gradient norm"), &norms, &run.grad_norm);
            golden.compare_arena(name, &trainer.decoder().read_params());
            golden.compare_changes(name, &trainer.decoder().read_params());
        }
    }
}
