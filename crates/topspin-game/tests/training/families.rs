//! Every family of decoders held to transformers, and adapters to PEFT: `tests/golden/README.md` says what is stored.

use std::path::PathBuf;

use serde::Deserialize;
use topspin_game::objective::{Loss, Objective};
use topspin_game::pair::all_pairs;
use topspin_game::trainer::{TrainSettings, Trainer};
use topspin_game::tree::TokenTree;
use topspin_kernels::cpu::Cpu;
use topspin_kernels::device::Segment;
use topspin_kernels::gemm::Precision;
use topspin_model::batch::Batch;
use topspin_model::decoder::{Decoder, Keep, Tape};

use crate::common::{ADAMW, bits, decoder, distance, settings};
use crate::stored::{Spin, Stored, golden};

const TOLERANCE: f64 = 1e-4;

#[derive(Deserialize)]
pub struct Expected {
    sequences: Vec<Vec<u32>>,
    prompts: Vec<Vec<u32>>,
    greedy: Vec<Vec<u32>>,
    pub spin: Spin,
    gradients: Vec<String>,
}

/// What an adapter is of.
#[derive(Deserialize)]
struct Base {
    base: String,
}

struct Family {
    name: String,
    stored: Stored<Expected>,
}

/// The folders in `tests/golden/{name}`, or those in another folder, and that folder.
fn folders(variable: &str, name: &str) -> (PathBuf, Vec<PathBuf>) {
    let folder = std::env::var_os(variable).map_or_else(|| golden(name), PathBuf::from);
    let mut folders: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    // Beside adapters there is what becomes of one.
    folders.retain(|folder| folder.is_dir());
    folders.sort();
    assert!(!folders.is_empty());
    (folder, folders)
}

impl Family {
    /// The models, and the adapters of some of them.
    fn all() -> Vec<Self> {
        let (models, folders) = folders("TOPSPIN_TEST_FAMILIES", "families");
        let model = |folder: PathBuf| {
            let name = folder.file_name().unwrap().to_string_lossy().into_owned();
            Self { name, stored: Stored::read(&folder) }
        };
        folders.into_iter().map(model).chain(Self::with_adapters(models)).collect()
    }

    fn with_adapters(models: PathBuf) -> impl Iterator<Item = Self> {
        folders("TOPSPIN_TEST_ADAPTERS", "lora").1.into_iter().map(move |folder| {
            let name = folder.file_name().unwrap().to_string_lossy().into_owned();
            let Base { base } = serde_json::from_slice(&std::fs::read(folder.join("expected.json")).unwrap()).unwrap();
            Self { name, stored: Stored::read_adapter(&folder, &models.join(base)) }
        })
    }

    /// Holds log-probabilities to those that are stored under names with `prefix`.
    fn check_logprobs(&self, decoder: &Decoder<Cpu>, prefix: &str) {
        let mut tape = Tape::new(decoder.device(), Keep::Nothing);
        for (at, tokens) in self.stored.expected.sequences.iter().enumerate().filter(|(_, tokens)| tokens.len() > 1) {
            let tree = TokenTree { prompt_id: "", prompt: &tokens[..1], responses: vec![&tokens[1..]], turns: &[] };
            let scores = topspin_game::score::score(decoder, &mut tape, &[tree], 64).unwrap();
            self.assert_close("logprobs", &scores[0][0], &format!("{prefix}logprobs.{at}"));
        }
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
        }
        family.check_logprobs(&decoder, "");
    }
}

#[test]
fn merged_adapters() {
    for family in Family::with_adapters(folders("TOPSPIN_TEST_FAMILIES", "families").0) {
        let Stored { config, params, adapter, .. } = &family.stored;
        let (files, mut merged) = (adapter.as_ref().unwrap(), params.clone());
        files.adapter().merge_into(&files.parameters().unwrap(), config, &mut merged);
        family.check_logprobs(&decoder(config, &merged, Precision::F32), "merged.");
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
            let gradient =
                trainer.spin_gradient(&trees, &all_pairs(&trees), &Loss::new(Objective::Logistic, spin.beta)).unwrap();
            (gradient, trainer.grads().to_vec())
        };
        let (gradient, grads) = gradient_of(Keep::Everything);
        assert!((gradient.loss - spin.loss).abs() < TOLERANCE * spin.loss, "{}: loss {}", family.name, gradient.loss);
        let (margin, count) = (gradient.game.unwrap().margin, spin.margins.len() as f64);
        let expected = spin.margins.iter().sum::<f64>() / count;
        // Margins of both signs leave a mean that is small beside their rounding errors.
        let size = spin.margins.iter().map(|margin| margin.abs()).sum::<f64>() / count;
        assert!((margin - expected).abs() < TOLERANCE * size, "{}: margin {margin}, not {expected}", family.name);
        let layout = family.stored.decoder().layout().into_owned();
        for name in &family.stored.expected.gradients {
            let range = layout.get(name).unwrap().range();
            family.assert_close(name, &grads[range], &format!("grad.{name}"));
        }
        assert_eq!(bits(&gradient_of(Keep::LayerInputs).1), bits(&grads), "{}", family.name);
    }
}
