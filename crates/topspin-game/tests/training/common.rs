//! Random small models and trees.

use std::ops::Range;

use proptest::prelude::*;
use topspin_game::optimizer::{OptimizerSettings, Rule, matrices};
use topspin_game::pair::{Response, Tree};
use topspin_game::schedule::{Schedule, Shape, Warmup};
use topspin_game::trainer::{TrainSettings, Trainer};
use topspin_game::tree::TokenTree;
use topspin_kernels::arena::Entry;
use topspin_kernels::cpu::Cpu;
use topspin_kernels::device::Use;
use topspin_kernels::gemm::Precision;
use topspin_kernels::memory::Memory;
use topspin_kernels::rng::{Key, Rng};
use topspin_model::config::DecoderConfig;
use topspin_model::decoder::{Decoder, Keep};
use topspin_rollout::Finish;

pub const ADAMW: Rule = Rule::AdamW { beta1: 0.9, beta2: 0.98, eps: 1e-8 };
pub const RMSPROP: Rule = Rule::RmsProp { decay: 0.99, eps: 1e-8 };

/// A small model with odd sizes.
pub fn config() -> impl Strategy<Value = DecoderConfig> {
    let heads = (1..3usize, 1..4usize, 1..5usize);
    (5..40usize, 3..25usize, 1..30usize, 1..4usize, heads, any::<bool>()).prop_map(
        |(vocab_size, hidden_size, intermediate_size, num_layers, (groups, per_group, half_head), tied)| {
            DecoderConfig {
                vocab_size,
                hidden_size,
                intermediate_size,
                num_layers,
                num_heads: groups * per_group,
                num_kv_heads: groups,
                head_dim: 2 * half_head,
                rms_norm_eps: 1e-5,
                rope_theta: 1e4,
                max_positions: 32,
                tie_word_embeddings: tied,
                ..DecoderConfig::default()
            }
        },
    )
}

/// Weights large enough that no gradient is tiny.
pub fn params(config: &DecoderConfig, seed: u64) -> Vec<f32> {
    let layout = config.layout();
    let mut rng = Rng::new(seed, "parameters of a test", 0);
    let mut params = Vec::with_capacity(layout.len());
    for entry in layout.entries() {
        let (mean, scale) = match entry.shape[..] {
            [_, inputs] => (0.0, 0.8 / (inputs as f64).sqrt()),
            _ => (1.0, 0.3),
        };
        params.extend((0..entry.len()).map(|_| (mean + scale * rng.normal()) as f32));
    }
    params
}

pub fn decoder(config: &DecoderConfig, params: &[f32], precision: Precision) -> Decoder<Cpu> {
    Decoder::new(Cpu::new(), config.clone(), params.into(), precision, Use::ForwardAndBackward)
}

pub fn settings(rule: Rule, batch_tokens: usize) -> TrainSettings {
    TrainSettings {
        optimizer: OptimizerSettings { rule, weight_decay: 0.01, decays: matrices },
        schedule: Schedule::new(1e-3, Shape::Cosine, Warmup::Steps(2), 9),
        max_grad_norm: Some(1.0),
        batch_tokens,
        keep: Keep::Everything,
        dropout: Key::new(1, "dropout of a test", 0),
    }
}

pub fn trainer(config: &DecoderConfig, seed: u64, settings: TrainSettings) -> Trainer<Cpu> {
    Trainer::new(decoder(config, &params(config, seed), Precision::F32), settings)
}

/// Trees over a vocabulary of 5, the smallest of [`config`]; now and then two generated responses are equal.
pub fn trees() -> impl Strategy<Value = Vec<Tree>> {
    let tokens = |longest: usize| prop::collection::vec(0..5u32, 1..=longest);
    let tree = (tokens(8), tokens(9), prop::collection::vec((tokens(9), any::<bool>()), 1..4));
    let tree = tree.prop_map(|(prompt, real, generated)| {
        let response = |token_ids: Vec<u32>| {
            // What another model might have said: no function of the one in training.
            let logprob = |(at, &token): (usize, &u32)| -0.4 - 0.3 * token as f32 - 0.01 * at as f32;
            {
                let logprobs = token_ids.iter().enumerate().map(logprob).collect();
                Response::new(token_ids, logprobs, Finish::Stop)
            }
        };
        let twice = generated.into_iter().flat_map(|(tokens, twice)| std::iter::repeat_n(tokens, 1 + twice as usize));
        Tree {
            prompt_id: "a test's".into(),
            prompt,
            real: response(real),
            generated: twice.map(response).collect(),
            base: Vec::new(),
        }
    });
    prop::collection::vec(tree, 1..5)
}

/// The tokens of a tree.
pub fn tokens_of(tree: &Tree) -> TokenTree<'_> {
    let responses = std::iter::once(&tree.real).chain(&tree.generated).map(|response| &response.token_ids[..]);
    TokenTree { prompt_id: &tree.prompt_id, prompt: &tree.prompt, responses: responses.collect(), turns: &[] }
}

/// Puts the log-probabilities of the model at hand into the trees: the model becomes its own opponent.
pub fn score_trees(trainer: &Trainer<Cpu>, trees: &mut [Tree]) {
    let scores = trainer.score(&trees.iter().map(tokens_of).collect::<Vec<_>>()).unwrap();
    for (tree, scores) in trees.iter_mut().zip(scores) {
        let responses = std::iter::once(&mut tree.real).chain(&mut tree.generated);
        responses.zip(scores).for_each(|(response, logprobs)| response.logprobs = logprobs);
    }
}

pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Largest difference, relative to the largest magnitude of `expected`.
pub fn distance(found: &[f32], expected: &[f32]) -> f64 {
    largest_difference(found, expected) / magnitude(expected)
}

/// How far `found` is from the sum of `terms`, arenas all, in the worst tensor and relative to the largest magnitude of
/// any term there, if that is not below a hundredth of the arena's. Where terms cancel, no more than their rounding
/// errors can be expected to agree.
pub fn distance_from_sum(config: &DecoderConfig, found: &[f32], terms: &[Memory<f32>]) -> (f64, String) {
    let expected: Vec<f32> = (0..found.len()).map(|at| terms.iter().map(|term| term[at]).sum()).collect();
    let largest = |range: Range<usize>| terms.iter().map(|term| magnitude(&term[range.clone()])).fold(0.0, f64::max);
    let floor = 1e-2 * largest(0..found.len());
    let of_tensor = |entry: &Entry| {
        let range = entry.range();
        let difference = largest_difference(&found[range.clone()], &expected[range.clone()]);
        // A loss may have no slope anywhere, and then the gradient has nothing either.
        let distance = if difference == 0.0 { 0.0 } else { difference / largest(range).max(floor) };
        (distance, entry.name.clone())
    };
    config.layout().entries().iter().map(of_tensor).max_by(|a, b| a.0.total_cmp(&b.0)).unwrap()
}

fn largest_difference(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    // Not `f64::max`, which passes over what is not a number.
    let differences = a.iter().zip(b).map(|(a, b)| f64::from((a - b).abs()));
    differences.max_by(f64::total_cmp).unwrap_or(0.0)
}

fn magnitude(values: &[f32]) -> f64 {
    values.iter().map(|value| f64::from(value.abs())).fold(0.0, f64::max)
}
