//! Every family of decoders held to transformers: `tests/golden/README.md` says what is stored.

use std::path::PathBuf;

use serde::Deserialize;
use topspin_game::objective::Objective;
use topspin_game::pair::all_pairs;
use topspin_game::trainer::{TrainSettings, Trainer};
use topspin_game::tree::TokenTree;
use topspin_kernels::device::Segment;
use topspin_model::batch::Batch;
use topspin_model::decoder::{Keep, Tape};

use crate::common::{ADAMW, bits, distance, settings};
use crate::stored::{Spin, Stored, golden};

const TOLERANCE: f64 = 1e-4;

#[derive(Deserialize)]
struct Expected {
    sequences: Vec<Vec<u32>>,
    prompts: Vec<Vec<u32>>,
    greedy: Vec<Vec<u32>>,
    spin: Spin,
    gradients: Vec<String>,
}

struct Family {
    name: String,
    stored: Stored<Expected>,
}

impl Family {
    /// Those that are committed, or those of another folder.
    fn all() -> Vec<Self> {
        let folder = std::env::var_os("TOPSPIN_TEST_FAMILIES").map_or_else(|| golden("families"), PathBuf::from);
        let mut folders: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        folders.sort();
        assert!(!folders.is_empty());
        let read = |folder: &PathBuf| {
            let name = folder.file_name().unwrap().to_string_lossy().into_owned();
            Self { name, stored: Stored::read(folder) }
        };
        folders.iter().map(read).collect()
    }

    fn assert_close(&self, what: &str, found: &[f32], tensor: &str) {
        let distance = distance(found, &self.stored.tensor(tensor));
        assert!(distance < TOLERANCE, "{}, {what}: {distance:e}", self.name);
    }
}

/// One path as a batch behind what the store holds of it, with the last row's next token wanted.
fn step(tokens: &[u32], past: usize) -> Batch {
    let mut batch = Batch::default();
    let own = (past > 0).then_some(Segment { start: 0, len: past });
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
    for family in Family::all() {
        let decoder = family.stored.decoder();
        let mut tape = Tape::new(decoder.device(), Keep::Nothing);
        for (at, tokens) in family.stored.expected.sequences.iter().enumerate() {
            let mut kv = decoder.kv(tokens.len());
            decoder.next_tokens(&step(tokens, 0), &mut kv, &mut tape, |_, logits, _| {
                family.assert_close("logits", logits, &format!("logits.{at}"));
            });
            if tokens.len() > 1 {
                let tree = TokenTree { prompt_id: "", prompt: &tokens[..1], responses: vec![&tokens[1..]], turns: &[] };
                let scores = topspin_game::score::score(&decoder, &mut tape, &[tree], 64).unwrap();
                family.assert_close("logprobs", &scores[0][0], &format!("logprobs.{at}"));
            }
        }
    }
}

/// Token by token from the store, and the log-probabilities on the way are those of scoring, to the bit.
#[test]
fn greedy_continuations() {
    for family in Family::all() {
        let decoder = family.stored.decoder();
        let mut tape = Tape::new(decoder.device(), Keep::Nothing);
        for (prompt, expected) in family.stored.expected.prompts.iter().zip(&family.stored.expected.greedy) {
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
            assert_eq!(&found, expected, "{}", family.name);
            let tree = TokenTree { prompt_id: "", prompt, responses: vec![&found], turns: &[] };
            let scores = topspin_game::score::score(&decoder, &mut tape, &[tree], 64).unwrap();
            assert_eq!(bits(&scores[0][0]), bits(&logprobs), "{}", family.name);
        }
    }
}

#[test]
fn spin_loss_and_gradient() {
    for family in Family::all() {
        let spin = &family.stored.expected.spin;
        let trees = family.stored.trees(&spin.pairs);
        let gradient_of = |keep: Keep| {
            let settings = TrainSettings { keep, ..settings(ADAMW, 64) };
            let mut trainer = Trainer::new(family.stored.decoder(), settings);
            let gradient = trainer.spin_gradient(&trees, &all_pairs(&trees), Objective::Logistic, spin.beta).unwrap();
            (gradient, trainer.grads().to_vec())
        };
        let (gradient, grads) = gradient_of(Keep::Everything);
        assert!((gradient.loss - spin.loss).abs() < TOLERANCE * spin.loss, "{}: loss {}", family.name, gradient.loss);
        let (margin, count) = (gradient.game.unwrap().margin, spin.margins.len() as f64);
        let expected = spin.margins.iter().sum::<f64>() / count;
        // Margins of both signs leave a mean that is small beside their rounding errors.
        let size = spin.margins.iter().map(|margin| margin.abs()).sum::<f64>() / count;
        assert!((margin - expected).abs() < TOLERANCE * size, "{}: margin {margin}, not {expected}", family.name);
        let layout = family.stored.config.layout();
        for name in &family.stored.expected.gradients {
            let range = layout.get(name).unwrap().range();
            family.assert_close(name, &grads[range], &format!("grad.{name}"));
        }
        assert_eq!(bits(&gradient_of(Keep::LayerInputs).1), bits(&grads), "{}", family.name);
    }
}
