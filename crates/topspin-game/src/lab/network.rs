//! The same game by a transformer: a task so small that all its responses can be scored.
//!
//! A prompt is a letter; an answer is two letters and the end of the turn. Four answers to each prompt are valid, with known
//! probabilities; the base model has learned to give them evenly half of the time, and any two letters else. Decoder, engine
//! and trainer are those of a run, so what a table does exactly can be laid beside what a network does with samples and
//! steps.

use std::collections::HashMap;

use topspin_kernels::device::{Device, Use};
use topspin_kernels::gemm::Precision;
use topspin_kernels::rng::{Key, Rng};
use topspin_model::chat::Message;
use topspin_model::config::DecoderConfig;
use topspin_model::decoder::{Decoder, Keep, Tape};
use topspin_model::dialect::Dialect;
use topspin_model::error::ModelError;
use topspin_model::tokenizer::Tokenizer;
use topspin_rollout::{Completion, Engine, EngineSettings, Finish, Request, RolloutError, SampleKey, Task};

use super::table::{Table, World};
use crate::objective::{Loss, Objective};
use crate::optimizer::{OptimizerSettings, Rule, matrices};
use crate::order::{Batches, Position, singly};
use crate::pair::{Example, Pair, Response, Tree};
use crate::quickstart::random_parameters;
use crate::schedule::{Schedule, Shape, Warmup};
use crate::score::score;
use crate::trainer::{TrainError, TrainSettings, Trainer};
use crate::tree::{TokenTree, TreeError};

/// Letters of prompts and answers.
const LETTERS: [&str; 4] = ["a", "b", "c", "d"];
/// Probabilities of a prompt's valid answers.
const VALID: [f64; 4] = [0.4, 0.3, 0.2, 0.1];
/// Longest response in tokens, its end included.
const MOST_TOKENS: usize = 3;
/// Answers that the base model learns from.
const BASE_ANSWERS: usize = 4096;

/// Why the network could not play.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The task could not be put into tokens.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The opponent could not answer.
    #[error(transparent)]
    Rollout(#[from] RolloutError),
    /// Responses could not be scored.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// A step could not be made.
    #[error(transparent)]
    Train(#[from] TrainError),
}

/// How the network plays.
#[derive(Clone, Copy, Debug)]
pub struct NetworkSettings {
    /// Iterations.
    pub iterations: usize,
    /// Real and generated responses of each prompt and iteration.
    pub draws: usize,
    /// Optimizer steps of an iteration, each on all pairs.
    pub steps: u32,
    /// Learning rate of the first step; it falls to 0 by the last one.
    pub lr: f64,
}

/// The task and the base model.
pub struct Network<D: Device> {
    device: D,
    dialect: Dialect,
    config: DecoderConfig,
    seed: u64,
    prompts: Vec<Vec<u32>>,
    /// Token ids of the valid answers to each prompt, beside [`VALID`].
    valid: Vec<Vec<Vec<u32>>>,
    /// Token ids of every response that there is.
    responses: Vec<Vec<u32>>,
    base: Vec<f32>,
}

/// What a model answers to a prompt.
struct Drawn {
    /// The different responses.
    responses: Vec<Response>,
    /// Which of them each sample is.
    samples: Vec<usize>,
}

impl<D: Device + Clone> Network<D> {
    /// Makes the task and trains the base model.
    pub fn new(device: &D, seed: u64) -> Result<Self, NetworkError> {
        let dialect = Dialect::new(Tokenizer::from_characters(&LETTERS.concat()), None);
        let config = dimensions(dialect.tokenizer().vocab_size());
        let pairs = LETTERS.iter().flat_map(|first| LETTERS.map(|second| format!("{first}{second}")));
        let answers = pairs.map(|text| dialect.encode_response(&text)).collect::<Result<Vec<_>, _>>()?;
        let prompt = |letter: &&str| dialect.encode_prompt(&[Message::new("user", *letter)]);
        let prompts = LETTERS.iter().map(prompt).collect::<Result<Vec<_>, _>>()?;
        let mut rng = Rng::new(seed, "lab task", 0);
        let mut valid_of = || {
            let mut answers = answers.clone();
            rng.shuffle(&mut answers);
            answers.truncate(VALID.len());
            answers
        };
        let valid: Vec<_> = prompts.iter().map(|_| valid_of()).collect();
        let responses = responses(dialect.tokenizer().vocab_size() as u32, |id| dialect.is_stop(id));
        let base = random_parameters(&config, seed, "lab model");
        let mut network = Self { device: device.clone(), dialect, config, seed, prompts, valid, responses, base };
        network.base = network.learn_base(&answers)?;
        Ok(network)
    }

    /// The data and the base model as tables: an entry for all that is not valid, then the valid answers.
    pub fn world(&self) -> Result<World, NetworkError> {
        let data = self.data();
        let tokens = vec![vec![MOST_TOKENS; 1 + VALID.len()]; self.prompts.len()];
        Ok(World {
            base: self.table(&self.decoder(self.base.clone(), Use::Forward))?,
            rejected: data.clone(),
            data,
            tokens,
        })
    }

    /// Plays the logistic game and gives the policy after each iteration as a table like those of [`world`](Self::world).
    /// `after` hears of each.
    pub fn play(
        &self,
        beta: f64,
        settings: NetworkSettings,
        mut after: impl FnMut(&Table),
    ) -> Result<Vec<Table>, NetworkError> {
        let mut params = self.base.clone();
        let mut policies = Vec::with_capacity(settings.iterations);
        for iteration in 0..settings.iterations {
            params = self.iterate(params, beta, settings, iteration as u64)?;
            let policy = self.table(&self.decoder(params.clone(), Use::Forward))?;
            after(&policy);
            policies.push(policy);
        }
        Ok(policies)
    }

    /// Parameters after one iteration against those of `params`.
    fn iterate(
        &self,
        params: Vec<f32>,
        beta: f64,
        settings: NetworkSettings,
        iteration: u64,
    ) -> Result<Vec<f32>, NetworkError> {
        let decoder = self.decoder(params, Use::ForwardAndBackward);
        let generated = self.generate(&decoder, settings.draws, iteration)?;
        let drawn = self.data().draws(settings.draws, Key::new(self.seed, "lab real", iteration));
        let (mut trees, mut pairs) = (Vec::new(), Vec::new());
        let scored = self.logprobs(&decoder, |prompt| self.valid[prompt].iter().collect())?;
        for (prompt, Drawn { responses, samples }) in generated.into_iter().enumerate() {
            let first = trees.len();
            for (token_ids, logprobs) in self.valid[prompt].iter().zip(&scored[prompt]) {
                trees.push(Tree {
                    prompt_id: LETTERS[prompt].into(),
                    prompt: self.prompts[prompt].clone(),
                    real: Response::new(token_ids.clone(), logprobs.clone(), Finish::Stop),
                    generated: responses.clone(),
                    base: Vec::new(),
                });
            }
            // The first entry of a table is what is not valid; no real response is.
            pairs.extend(
                samples
                    .iter()
                    .zip(&drawn[prompt])
                    .map(|(&generated, &real)| Pair { tree: first + real - 1, generated }),
            );
        }
        let mut trainer = Trainer::new(decoder, self.train_settings(settings.lr, settings.steps));
        for _ in 0..settings.steps {
            let _ = trainer.spin_step(&trees, &pairs, &Loss::new(Objective::Logistic, beta))?;
        }
        Ok(trainer.into_decoder().read_params())
    }

    /// What the model answers to each prompt.
    fn generate(&self, decoder: &Decoder<D>, draws: usize, iteration: u64) -> Result<Vec<Drawn>, NetworkError> {
        let request = |prompt: usize, sample: usize| Request {
            prompt: self.prompts[prompt].clone(),
            task: Task::Sample {
                key: SampleKey { prompt: prompt as u64, sample: sample as u32 },
                max_new_tokens: MOST_TOKENS,
            },
        };
        let requests: Vec<_> =
            (0..self.prompts.len()).flat_map(|prompt| (0..draws).map(move |sample| request(prompt, sample))).collect();
        let settings = EngineSettings {
            live_sequences: 512,
            stop_ids: self.dialect.tokenizer().stop_ids().to_vec(),
            seed: self.seed,
            iteration,
            ..EngineSettings::default()
        };
        let completions = Engine::new(decoder, settings)?.run(&requests, |_, _| {})?;
        let of_prompt = |completions: &[Completion]| {
            let (mut responses, mut index_of) = (Vec::new(), HashMap::new());
            let samples = completions.iter().map(|completion| {
                *index_of.entry(completion.token_ids.clone()).or_insert_with(|| {
                    let Completion { token_ids, logprobs, finish } = completion.clone();
                    responses.push(Response::new(token_ids, logprobs, finish));
                    responses.len() - 1
                })
            });
            let samples = samples.collect();
            Drawn { responses, samples }
        };
        Ok(completions.chunks(draws).map(of_prompt).collect())
    }

    /// The model as a table, by scoring every response.
    fn table(&self, decoder: &Decoder<D>) -> Result<Table, NetworkError> {
        let scores = self.logprobs(decoder, |_| self.responses.iter().collect())?;
        let row = |(scores, valid): (&Vec<Vec<f32>>, &Vec<Vec<u32>>)| {
            let logp = |tokens: &[f32]| tokens.iter().map(|&logprob| f64::from(logprob)).sum::<f64>();
            let of = |answer: &Vec<u32>| {
                let at = self.responses.iter().position(|response| response == answer);
                logp(&scores[at.expect("a valid answer is a response")])
            };
            let others = self.responses.iter().zip(scores).filter(|(response, _)| !valid.contains(response));
            let outside: f64 = others.map(|(_, scores)| logp(scores).exp()).sum();
            [outside.ln()].into_iter().chain(valid.iter().map(of)).collect()
        };
        Ok(Table::from_logits(scores.iter().zip(&self.valid).map(row).collect()))
    }

    /// Log-probabilities of tokens of the responses `to` each prompt.
    fn logprobs<'a>(
        &'a self,
        decoder: &Decoder<D>,
        to: impl Fn(usize) -> Vec<&'a Vec<u32>>,
    ) -> Result<Vec<Vec<Vec<f32>>>, NetworkError> {
        let tree = |(at, prompt): (usize, &'a Vec<u32>)| TokenTree {
            prompt_id: LETTERS[at],
            prompt,
            responses: to(at).into_iter().map(Vec::as_slice).collect(),
            turns: &[],
        };
        let trees: Vec<_> = self.prompts.iter().enumerate().map(tree).collect();
        Ok(score(decoder, &mut Tape::new(&self.device, Keep::Nothing), &trees, usize::MAX)?)
    }

    fn data(&self) -> Table {
        let row: Vec<f64> = [0.0].iter().chain(&VALID).map(|p| p.ln()).collect();
        Table::from_logits(vec![row; self.prompts.len()])
    }

    fn decoder(&self, params: Vec<f32>, for_use: Use) -> Decoder<D> {
        Decoder::new(self.device.clone(), self.config.clone(), params.into(), Precision::F32, for_use)
    }

    /// Supervised training on the base model's habits: half of the time one of the valid answers, else any of `answers`.
    fn learn_base(&self, answers: &[Vec<u32>]) -> Result<Vec<f32>, NetworkError> {
        let mut rng = Rng::new(self.seed, "lab base answers", 0);
        let example = |at: usize| {
            let prompt = at % self.prompts.len();
            let from = if rng.below(2) == 0 { &self.valid[prompt][..] } else { answers };
            Example {
                prompt_id: LETTERS[prompt].into(),
                prompt: self.prompts[prompt].clone(),
                response: from[rng.below(from.len())].clone(),
                turns: Vec::new(),
            }
        };
        let examples: Vec<_> = (0..BASE_ANSWERS).map(example).collect();
        let batches = Batches::new(self.seed, 0, singly(examples.len()), 128, 10, Position::default());
        let decoder = self.decoder(self.base.clone(), Use::ForwardAndBackward);
        let mut trainer = Trainer::new(decoder, self.train_settings(4e-3, batches.total()));
        for chosen in batches {
            let _ = trainer.sft_step(&examples, &chosen)?;
        }
        Ok(trainer.into_decoder().read_params())
    }

    fn train_settings(&self, lr: f64, steps: u32) -> TrainSettings {
        TrainSettings {
            optimizer: OptimizerSettings {
                rule: Rule::AdamW { beta1: 0.9, beta2: 0.98, eps: 1e-8 },
                weight_decay: 0.0,
                decays: matrices,
            },
            schedule: Schedule::new(lr, Shape::Cosine, Warmup::Steps(0), steps),
            max_grad_norm: Some(1.0),
            batch_tokens: usize::MAX,
            keep: Keep::Everything,
            dropout: Key::new(self.seed, "dropout", 0),
        }
    }
}

/// Every sequence of tokens that ends with a stop token, and those that are cut at the limit.
fn responses(vocab_size: u32, is_stop: impl Fn(u32) -> bool) -> Vec<Vec<u32>> {
    let (mut ended, mut open) = (Vec::new(), vec![Vec::new()]);
    for _ in 0..MOST_TOKENS {
        let longer: Vec<Vec<u32>> =
            open.iter().flat_map(|start| (0..vocab_size).map(move |id| [&start[..], &[id]].concat())).collect();
        let (stopped, rest): (Vec<_>, Vec<_>) =
            longer.into_iter().partition(|ids| ids.last().is_some_and(|&id| is_stop(id)));
        ended.extend(stopped);
        open = rest;
    }
    ended.extend(open);
    ended
}

/// 27 thousand parameters.
fn dimensions(vocab_size: usize) -> DecoderConfig {
    DecoderConfig {
        vocab_size,
        hidden_size: 32,
        intermediate_size: 88,
        num_layers: 2,
        num_heads: 4,
        num_kv_heads: 4,
        head_dim: 8,
        rms_norm_eps: 1e-5,
        rope_theta: 1e4,
        max_positions: 8,
        tie_word_embeddings: false,
        ..DecoderConfig::default()
    }
}

#[cfg(test)]
mod tests {
    use topspin_kernels::cpu::Cpu;

    use super::*;
    use crate::lab::logistic_law;

    #[test]
    fn all_responses_are_there() {
        let all = responses(7, |id| id == 2);
        // 1 + 6 + 36 that end, 216 that are cut.
        assert_eq!(all.len(), 259);
        assert!(all.iter().all(|ids| ids.len() == 3 || ids.last() == Some(&2)));
    }

    /// The network's table is a distribution, the base model has its habits, and an iteration at beta 1 goes where the law
    /// says, as far as samples and steps allow.
    #[test]
    fn a_network_follows_the_law() {
        let network = Network::new(&Cpu::new(), 0).unwrap();
        let World { data, base, .. } = network.world().unwrap();
        let decoder = network.decoder(network.base.clone(), Use::Forward);
        for scores in network.logprobs(&decoder, |_| network.responses.iter().collect()).unwrap() {
            let mass: f64 = scores.iter().map(|tokens| tokens.iter().map(|&l| f64::from(l)).sum::<f64>().exp()).sum();
            assert!((mass - 1.0).abs() < 1e-4, "{mass}");
        }
        let habits = 0.5 * 12.0 / 16.0;
        for row in base.probs() {
            assert!((row[0] - habits).abs() < 0.1, "{row:?}");
        }
        let settings = NetworkSettings { iterations: 1, draws: 1000, steps: 60, lr: 4e-3 };
        let policy = network.play(1.0, settings, |_| {}).unwrap().pop().unwrap();
        let law = logistic_law(&base, &base, &data, 1.0);
        assert!(data.total_variation(&law) < 1e-9);
        let (before, after) = (data.kl(&base), data.kl(&policy));
        assert!(after < 0.15 * before, "{before} {after}");
        // To the bit the same again.
        assert_eq!(network.play(1.0, settings, |_| {}).unwrap()[0], policy);
    }
}
