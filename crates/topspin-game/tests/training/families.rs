//! Every family of decoders held to transformers: `tests/golden/README.md` says what is stored.

use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use serde::Deserialize;
use topspin_game::objective::Objective;
use topspin_game::pair::{Response, Tree, all_pairs};
use topspin_game::trainer::{TrainSettings, Trainer};
use topspin_game::tree::TokenTree;
use topspin_kernels::cpu::Cpu;
use topspin_kernels::gemm::Precision;
use topspin_model::batch::Batch;
use topspin_model::checkpoint::Checkpoint;
use topspin_model::config::DecoderConfig;
use topspin_model::decoder::{Decoder, Keep, Tape};
use topspin_rollout::Finish;

use crate::common::{ADAMW, bits, decoder, distance, settings};

const TOLERANCE: f64 = 1e-4;

#[derive(Deserialize)]
struct Expected {
    sequences: Vec<Vec<u32>>,
    prompts: Vec<Vec<u32>>,
    greedy: Vec<Vec<u32>>,
    spin: Spin,
    gradients: Vec<String>,
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

struct Golden {
    name: String,
    config: DecoderConfig,
    params: Vec<f32>,
    expected: Expected,
    tensors: Vec<u8>,
}

impl Golden {
    fn read(folder: &Path) -> Self {
        let config = DecoderConfig::read(&folder.join("config.json")).unwrap();
        let layout = config.layout();
        let mut params = vec![0.0; layout.len()];
        Checkpoint::open(folder).unwrap().read_parameters(&layout, &mut params).unwrap();
        Self {
            name: folder.file_name().unwrap().to_string_lossy().into(),
            config,
            params,
            expected: serde_json::from_slice(&std::fs::read(folder.join("expected.json")).unwrap()).unwrap(),
            tensors: std::fs::read(folder.join("expected.safetensors")).unwrap(),
        }
    }

    /// Those that are committed, or those of another folder.
    fn all() -> Vec<Self> {
        let committed = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/families");
        let folder = std::env::var_os("TOPSPIN_TEST_FAMILIES").map_or_else(committed, PathBuf::from);
        let mut folders: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        folders.sort();
        assert!(!folders.is_empty());
        folders.iter().map(|folder| Self::read(folder)).collect()
    }

    fn tensor(&self, name: &str) -> Vec<f32> {
        let tensors = SafeTensors::deserialize(&self.tensors).unwrap();
        let (quads, _) = tensors.tensor(name).unwrap().data().as_chunks();
        quads.iter().map(|&quad| f32::from_le_bytes(quad)).collect()
    }

    fn decoder(&self) -> Decoder<Cpu> {
        decoder(&self.config, &self.params, Precision::F32)
    }

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

    fn assert_close(&self, what: &str, found: &[f32], expected: &[f32]) {
        let distance = distance(found, expected);
        assert!(distance < TOLERANCE, "{}, {what}: {distance:e}", self.name);
    }
}

/// One path as a batch behind what the store holds of it, with the last row's next token wanted.
fn step(tokens: &[u32], past: usize) -> Batch {
    let mut batch = Batch::default();
    let own = (past > 0).then_some(topspin_kernels::device::Segment { start: 0, len: past });
    batch.push(tokens, &[], own, past);
    batch.outputs = vec![tokens.len() as u32 - 1];
    batch
}

fn largest(logits: &[f32]) -> u32 {
    let better = |best: usize, at: usize| if logits[at] > logits[best] { at } else { best };
    (0..logits.len()).fold(0, better) as u32
}

#[test]
fn logits_and_logprobs() {
    for golden in Golden::all() {
        let decoder = golden.decoder();
        let mut tape = Tape::new(decoder.device(), Keep::Nothing);
        for (at, tokens) in golden.expected.sequences.iter().enumerate() {
            let mut kv = decoder.kv(tokens.len());
            decoder.next_tokens(&step(tokens, 0), &mut kv, &mut tape, |_, logits, _| {
                golden.assert_close("logits", logits, &golden.tensor(&format!("logits.{at}")));
            });
            if tokens.len() > 1 {
                let tree = TokenTree { prompt_id: "", prompt: &tokens[..1], responses: vec![&tokens[1..]] };
                let scores = topspin_game::score::score(&decoder, &mut tape, &[tree], 64).unwrap();
                golden.assert_close("logprobs", &scores[0][0], &golden.tensor(&format!("logprobs.{at}")));
            }
        }
    }
}

/// Token by token from the store, and the log-probabilities on the way are those of scoring, to the bit.
#[test]
fn greedy_continuations() {
    for golden in Golden::all() {
        let decoder = golden.decoder();
        let mut tape = Tape::new(decoder.device(), Keep::Nothing);
        for (prompt, expected) in golden.expected.prompts.iter().zip(&golden.expected.greedy) {
            let mut kv = decoder.kv(prompt.len() + expected.len());
            let (mut found, mut logprobs, mut past) = (Vec::new(), Vec::new(), 0);
            let mut next = prompt.clone();
            while found.len() < expected.len() {
                let choose = |_: usize, logits: &[f32], tokens: &mut [u32]| tokens[0] = largest(logits);
                let choice = decoder.next_tokens(&step(&next, past), &mut kv, &mut tape, choose)[0];
                found.push(choice.token);
                logprobs.push(choice.logprob);
                past += next.len();
                next = vec![choice.token];
            }
            assert_eq!(&found, expected, "{}", golden.name);
            let tree = TokenTree { prompt_id: "", prompt, responses: vec![&found] };
            let scores = topspin_game::score::score(&decoder, &mut tape, &[tree], 64).unwrap();
            assert_eq!(bits(&scores[0][0]), bits(&logprobs), "{}", golden.name);
        }
    }
}

#[test]
fn spin_loss_and_gradient() {
    for golden in Golden::all() {
        let (trees, spin) = (golden.trees(), &golden.expected.spin);
        let gradient_of = |keep: Keep| {
            let settings = TrainSettings { keep, ..settings(ADAMW, 64) };
            let mut trainer = Trainer::new(golden.decoder(), settings);
            let gradient = trainer.spin_gradient(&trees, &all_pairs(&trees), Objective::Logistic, spin.beta).unwrap();
            (gradient, trainer.grads().to_vec())
        };
        let (gradient, grads) = gradient_of(Keep::Everything);
        assert!((gradient.loss - spin.loss).abs() < TOLERANCE * spin.loss, "{}: loss {}", golden.name, gradient.loss);
        let (margin, count) = (gradient.game.unwrap().margin, spin.margins.len() as f64);
        let expected = spin.margins.iter().sum::<f64>() / count;
        // Margins of both signs leave a mean that is small beside their rounding errors.
        let size = spin.margins.iter().map(|margin| margin.abs()).sum::<f64>() / count;
        assert!((margin - expected).abs() < TOLERANCE * size, "{}: margin {margin}, not {expected}", golden.name);
        let layout = golden.config.layout();
        for name in &golden.expected.gradients {
            let range = layout.get(name).unwrap().range();
            golden.assert_close(name, &grads[range], &golden.tensor(&format!("grad.{name}")));
        }
        assert_eq!(bits(&gradient_of(Keep::LayerInputs).1), bits(&grads), "{}", golden.name);
    }
}
