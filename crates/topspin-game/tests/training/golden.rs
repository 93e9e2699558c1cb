//! Held to PyTorch and transformers: `tests/golden/README.md` says what is stored.
//!
//! Every comparison is relative to the largest magnitude in the tensor and must be within [`TOLERANCE`].

use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use serde::Deserialize;
use topspin_game::objective::Objective;
use topspin_game::optimizer::{OptimizerSettings, Rule};
use topspin_game::pair::{Response, Tree, all_pairs};
use topspin_game::schedule::{Schedule, Shape, Warmup};
use topspin_game::trainer::{TrainSettings, Trainer};
use topspin_game::tree::TokenTree;
use topspin_kernels::cpu::Cpu;
use topspin_kernels::gemm::Precision;
use topspin_model::batch::Batch;
use topspin_model::checkpoint::Checkpoint;
use topspin_model::config::DecoderConfig;
use topspin_model::decoder::{Decoder, Keep, Tape};
use topspin_rollout::Finish;

use crate::common::{decoder, distance};

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

#[derive(Deserialize)]
struct Spin {
    beta: f64,
    pairs: Vec<TokenPair>,
    loss: f64,
    margins: Vec<f64>,
}

#[derive(Deserialize)]
struct TokenPair {
    prompt: Vec<u32>,
    real: Vec<u32>,
    generated: Vec<u32>,
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

struct Golden {
    folder: PathBuf,
    config: DecoderConfig,
    expected: Expected,
    tensors: Vec<u8>,
}

impl Golden {
    fn read(variant: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(variant);
        let config = DecoderConfig::read(&folder.join("config.json")).unwrap();
        let expected = serde_json::from_slice(&std::fs::read(folder.join("expected.json")).unwrap()).unwrap();
        let tensors = std::fs::read(folder.join("expected.safetensors")).unwrap();
        Self { folder, config, expected, tensors }
    }

    fn tensor(&self, name: &str) -> Vec<f32> {
        let tensors = SafeTensors::deserialize(&self.tensors).unwrap();
        let (quads, rest) = tensors.tensor(name).unwrap().data().as_chunks();
        assert!(rest.is_empty());
        quads.iter().map(|&quad| f32::from_le_bytes(quad)).collect()
    }

    fn params(&self) -> Vec<f32> {
        let layout = self.config.layout();
        let mut params = vec![0.0; layout.len()];
        Checkpoint::open(&self.folder).unwrap().read_parameters(&layout, &mut params).unwrap();
        params
    }

    fn decoder(&self) -> Decoder<Cpu> {
        decoder(&self.config, &self.params(), Precision::F32)
    }

    /// The pairs, each a tree of its own, with the log-probabilities of the stored opponent.
    fn trees(&self) -> Vec<Tree> {
        let tree = |(at, pair): (usize, &TokenPair)| {
            let response = |side: &str, tokens: &[u32]| Response {
                token_ids: tokens.to_vec(),
                logprobs: self.tensor(&format!("opponent.{at}.{side}")),
                finish: Finish::Stop,
            };
            Tree {
                prompt_id: at.to_string(),
                prompt: pair.prompt.clone(),
                real: response("real", &pair.real),
                generated: vec![response("generated", &pair.generated)],
            }
        };
        self.expected.spin.pairs.iter().enumerate().map(tree).collect()
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
        };
        Trainer::new(self.decoder(), settings)
    }

    /// Compares every tensor of an arena with the stored `{prefix}.{name}`.
    fn compare_arena(&self, prefix: &str, arena: &[f32]) {
        for entry in self.config.layout().entries() {
            let name = format!("{prefix}.{}", entry.name);
            assert_close(&name, &arena[entry.range()], &self.tensor(&name));
        }
    }

    /// Compares how far every tensor has moved, which shows what the size of the parameters hides.
    fn compare_changes(&self, prefix: &str, arena: &[f32]) {
        let before = self.params();
        let moved = |after: &[f32], before: &[f32]| after.iter().zip(before).map(|(a, b)| a - b).collect::<Vec<_>>();
        for entry in self.config.layout().entries() {
            let (name, before) = (format!("{prefix}.{}", entry.name), &before[entry.range()]);
            let expected = moved(&self.tensor(&name), before);
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
        let decoder = golden.decoder();
        let mut tape = Tape::new(decoder.device(), Keep::Nothing);
        for (at, tokens) in golden.expected.sequences.iter().enumerate() {
            let mut batch = Batch::default();
            batch.push(tokens, &[], None, 0);
            batch.outputs = (0..tokens.len() as u32).collect();
            let mut logits = Vec::new();
            decoder.next_tokens(&batch, &mut decoder.kv(tokens.len()), &mut tape, |_, chunk, _| {
                logits.extend_from_slice(chunk);
            });
            assert_close(&format!("logits.{at}"), &logits, &golden.tensor(&format!("logits.{at}")));
            if tokens.len() > 1 {
                let tree = TokenTree { prompt_id: "", prompt: &tokens[..1], responses: vec![&tokens[1..]] };
                let scores = topspin_game::score::score(&decoder, &mut tape, &[tree], 64).unwrap();
                assert_close(&format!("logprobs.{at}"), &scores[0][0], &golden.tensor(&format!("logprobs.{at}")));
            }
        }
    }
}

#[test]
fn spin_loss_and_gradient() {
    for golden in VARIANTS.map(Golden::read) {
        let (trees, spin) = (golden.trees(), &golden.expected.spin);
        let mut trainer = golden.trainer(&golden.expected.adamw);
        for (pair, margin) in all_pairs(&trees).into_iter().zip(&spin.margins) {
            let one = trainer.spin_gradient(&trees, &[pair], Objective::Logistic, spin.beta).unwrap();
            assert_close_numbers("margin", &[one.game.unwrap().margin], &[*margin]);
        }
        let gradient = trainer.spin_gradient(&trees, &all_pairs(&trees), Objective::Logistic, spin.beta).unwrap();
        assert_close_numbers("loss", &[gradient.loss], &[spin.loss]);
        golden.compare_arena("grad", trainer.grads());
    }
}

#[test]
fn five_steps_of_each_optimizer() {
    for golden in VARIANTS.map(Golden::read) {
        let (trees, expected) = (golden.trees(), &golden.expected);
        let runs =
            [("adamw", &expected.adamw), ("adamw_clipped", &expected.adamw_clipped), ("rmsprop", &expected.rmsprop)];
        for (name, run) in runs {
            let mut trainer = golden.trainer(run);
            let (mut losses, mut norms) = (Vec::new(), Vec::new());
            for _ in 0..run.steps {
                let step =
                    trainer.spin_step(&trees, &all_pairs(&trees), Objective::Logistic, expected.spin.beta).unwrap();
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
