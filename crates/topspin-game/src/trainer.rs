//! The trainer: one step of self-play, of supervised training or of a weighted fit, whatever the objective.
//!
//! A step packs its examples into batches ([`crate::tree`]), runs each forward and backward, adds up the gradients in
//! order, clips, and lets the optimizer step. Losses and derivatives of log-probabilities are computed in f64.

use std::ops::Range;
use std::time::Instant;

use topspin_kernels::device::{Buffer, Device};
use topspin_kernels::rng::Key;
use topspin_model::decoder::{Decoder, DropoutDraw, Flops, Keep, Tape};

use crate::metrics::{FitMetrics, GameMeans, GameMetrics, Mean, StepMetrics, Throughput};
use crate::objective::{Loss, Scored, Triplet};
use crate::optimizer::{Optimizer, OptimizerSettings};
use crate::pair::{Example, Pair, Response, Tree};
use crate::policy::{self, Draw, Weighted};
use crate::schedule::Schedule;
use crate::score::score;
use crate::tree::{Group, Packed, TokenTree, TreeError, group, pack, split};

/// Settings of a training stage.
#[derive(Clone, Copy, Debug)]
pub struct TrainSettings {
    /// The optimizer.
    pub optimizer: OptimizerSettings,
    /// The learning rate.
    pub schedule: Schedule,
    /// Longest gradient, in Euclidean norm; a longer one is scaled down to it as PyTorch's `clip_grad_norm_` does.
    pub max_grad_norm: Option<f64>,
    /// Most rows of one forward and backward. A tree with more generated responses than fit is computed in parts; one
    /// pair is never split, so a long one exceeds the budget.
    pub batch_tokens: usize,
    /// [`Keep::Everything`], or [`Keep::LayerInputs`] for less memory and more time; the result is the same.
    pub keep: Keep,
    /// Random numbers of the stage, for the dropout of an adapter that has one.
    pub dropout: Key,
}

/// Why a step could not be made. The parameters are as they were before it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrainError {
    /// An example does not fit the model.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// Tokens and log-probabilities of a response do not go side by side.
    #[error(
        "a response to the prompt `{prompt_id}` has {tokens} tokens but {logprobs} log-probabilities of {of}; score its \
         pairs anew"
    )]
    LogprobCount {
        /// The prompt's name.
        prompt_id: String,
        /// Tokens of the response.
        tokens: usize,
        /// Log-probabilities that it came with.
        logprobs: usize,
        /// Whose they are.
        of: &'static str,
    },
    /// Generated responses and those of the base model do not go side by side.
    #[error(
        "the prompt `{prompt_id}` has {wanted} generated responses but {found} of the base model; make its pairs anew"
    )]
    BaseResponses {
        /// The prompt's name.
        prompt_id: String,
        /// Responses of the base model.
        found: usize,
        /// Generated responses.
        wanted: usize,
    },
    /// Nothing to learn from.
    #[error("step {step} has no examples; give it at least one")]
    NoExamples {
        /// Number of the step, from 1.
        step: u32,
    },
    /// Training has diverged.
    #[error("the {what} of step {step} is not a finite number; lower the learning rate")]
    NotFinite {
        /// `loss` or `gradient`.
        what: &'static str,
        /// Number of the step, from 1.
        step: u32,
    },
}

/// What a step's examples say, before the parameters move.
#[derive(Clone, Copy, Debug)]
#[must_use = "a gradient that is not applied has no effect"]
pub struct Gradient {
    /// Mean loss.
    pub loss: f64,
    /// Both sides of the game, in self-play.
    pub game: Option<GameMetrics>,
    /// The samples, in a policy step.
    pub fit: Option<FitMetrics>,
    /// Euclidean norm before clipping.
    pub norm: f64,
    /// Work done so far.
    throughput: Throughput,
}

/// A finished step.
#[derive(Clone, Debug)]
pub struct Step {
    /// What it did; the same in every run with the same inputs.
    pub metrics: StepMetrics,
    /// How fast it was.
    pub throughput: Throughput,
}

/// A decoder in training: all of it, or its adapter where it has one.
pub struct Trainer<D: Device> {
    decoder: Decoder<D>,
    settings: TrainSettings,
    optimizer: Optimizer<D>,
    grads: D::Buffer,
    tape: Tape<D>,
}

impl<D: Device> Trainer<D> {
    /// A trainer at its first step. `decoder` was made for forward and backward.
    pub fn new(decoder: Decoder<D>, settings: TrainSettings) -> Self {
        let device = decoder.device();
        let optimizer = Optimizer::new(device, &decoder.layout(), settings.optimizer);
        let grads = device.alloc(decoder.params().len());
        let tape = Tape::new(device, settings.keep);
        Self { decoder, settings, optimizer, grads, tape }
    }

    /// The decoder.
    pub fn decoder(&self) -> &Decoder<D> {
        &self.decoder
    }

    /// The decoder alone; what training needed beside it is freed.
    pub fn into_decoder(self) -> Decoder<D> {
        self.decoder
    }

    /// The optimizer and its state.
    pub fn optimizer(&self) -> &Optimizer<D> {
        &self.optimizer
    }

    /// What a saved state restores.
    pub(crate) fn state_mut(&mut self) -> (&mut Decoder<D>, &mut Optimizer<D>) {
        (&mut self.decoder, &mut self.optimizer)
    }

    /// Steps taken.
    pub fn steps(&self) -> u32 {
        self.optimizer.steps()
    }

    /// Whether every parameter is a finite number.
    pub fn is_finite(&self) -> bool {
        let params = self.decoder.params();
        self.decoder.device().sum_squares(params.head(params.len())).is_finite()
    }

    /// The gradient arena, as the last [`spin_gradient`](Self::spin_gradient), [`sft_gradient`](Self::sft_gradient) or
    /// [`fit_gradient`](Self::fit_gradient) left it.
    pub fn grads(&self) -> &D::Buffer {
        &self.grads
    }

    /// One step on pairs of `trees`: the mean of `loss` over them.
    pub fn spin_step(&mut self, trees: &[Tree], pairs: &[Pair], loss: &Loss) -> Result<Step, TrainError> {
        let gradient = self.spin_gradient(trees, pairs, loss)?;
        self.apply(gradient)
    }

    /// One supervised step on some of `examples`: the mean of `-log p` over the tokens to imitate, those of all turns
    /// alike.
    pub fn sft_step(&mut self, examples: &[Example], chosen: &[usize]) -> Result<Step, TrainError> {
        let gradient = self.sft_gradient(examples, chosen)?;
        self.apply(gradient)
    }

    /// One step of the weighted fit on samples of `prompts`: the mean of `-w log p` over them, whose weights are 1 on average.
    pub fn fit_step(&mut self, prompts: &[Weighted], chosen: &[Draw]) -> Result<Step, TrainError> {
        let gradient = self.fit_gradient(prompts, chosen)?;
        self.apply(gradient)
    }

    /// The first half of [`spin_step`](Self::spin_step): computes the gradient.
    pub fn spin_gradient(&mut self, trees: &[Tree], pairs: &[Pair], loss: &Loss) -> Result<Gradient, TrainError> {
        let groups = group(trees, pairs);
        for group in &groups {
            check(&trees[group.tree], group, loss)?;
        }
        let groups = split(trees, groups, self.settings.batch_tokens);
        let token_trees: Vec<_> = groups.iter().map(|group| group.token_tree(trees)).collect();

        let count = pairs.len() as f64;
        let (mut mean, mut means) = (Mean::default(), GameMeans::default());
        let (norm, throughput) = self.accumulate(&token_trees, |packed, logprobs, dlogp| {
            let mut branches = packed.branches.iter();
            while let Some(real) = branches.next() {
                let (tree, group) = (&trees[groups[real.tree].tree], &groups[real.tree]);
                let scored_real = scored(&logprobs[real.outputs.clone()], &tree.real);
                let mut d_real = 0.0;
                let generated: Vec<_> = branches.by_ref().take(group.generated.len()).collect();
                for (&(index, weight), generated) in group.generated.iter().zip(generated) {
                    let weight = f64::from(weight);
                    // One branch stands for both where the base's response is the generated one.
                    let base = match tree.other_base(index) {
                        Some(_) => branches.next(),
                        None if tree.base.is_empty() => None,
                        None => Some(generated),
                    };
                    let triplet = Triplet {
                        real: scored_real,
                        generated: scored(&logprobs[generated.outputs.clone()], &tree.generated[index]),
                        base: base.map(|base| scored_base(&logprobs[base.outputs.clone()], &tree.base[index])),
                    };
                    let cost = loss.pair(&triplet);
                    mean.push(weight, cost.loss);
                    means.push(weight, loss.beta, &triplet);
                    d_real += weight * cost.d_real;
                    let derivatives = [(Some(generated), cost.d_generated), (base, cost.d_base)];
                    for (branch, derivative) in derivatives.into_iter().filter_map(|(branch, d)| Some((branch?, d))) {
                        let derivative = (weight * derivative / count) as f32;
                        dlogp[branch.outputs.clone()].iter_mut().for_each(|dlogp| *dlogp += derivative);
                    }
                }
                dlogp[real.outputs.clone()].fill((d_real / count) as f32);
            }
        })?;
        Ok(Gradient { loss: mean.get(), game: Some(means.get()), fit: None, norm, throughput })
    }

    /// The first half of [`sft_step`](Self::sft_step): computes the gradient.
    pub fn sft_gradient(&mut self, examples: &[Example], chosen: &[usize]) -> Result<Gradient, TrainError> {
        let tree_of = |&index: &usize| {
            let Example { prompt_id, prompt, response, turns } = &examples[index];
            TokenTree { prompt_id, prompt, responses: vec![response], turns }
        };
        let trees: Vec<_> = chosen.iter().map(tree_of).collect();
        let wanted = |tree: &TokenTree| tree.turns.iter().map(Range::len).sum::<usize>() + tree.responses[0].len();
        let count = trees.iter().map(wanted).sum::<usize>() as f64;
        let mut sum = 0.0;
        let (norm, throughput) = self.accumulate(&trees, |_, logprobs, dlogp| {
            sum += logprobs.iter().map(|&logprob| f64::from(logprob)).sum::<f64>();
            dlogp.fill((-1.0 / count) as f32);
        })?;
        Ok(Gradient { loss: -sum / count, game: None, fit: None, norm, throughput })
    }

    /// The first half of [`fit_step`](Self::fit_step): computes the gradient.
    pub fn fit_gradient(&mut self, prompts: &[Weighted], chosen: &[Draw]) -> Result<Gradient, TrainError> {
        let parts = policy::parts(prompts, chosen, self.settings.batch_tokens);
        let trees: Vec<_> = parts.iter().map(policy::Part::token_tree).collect();
        let count = chosen.len() as f64;
        let mut loss = 0.0;
        let (norm, throughput) = self.accumulate(&trees, |packed, logprobs, dlogp| {
            for branch in &packed.branches {
                let weight = parts[branch.tree].branches[branch.response].1 / count;
                loss -=
                    weight * logprobs[branch.outputs.clone()].iter().map(|&logprob| f64::from(logprob)).sum::<f64>();
                dlogp[branch.outputs.clone()].fill(-weight as f32);
            }
        })?;
        let samples = || chosen.iter().map(|draw| &prompts[draw.prompt].samples[draw.sample]);
        let fit = FitMetrics {
            score: samples().map(|sample| sample.score).sum::<f64>() / count,
            effective_samples: policy::effective(samples().map(|sample| sample.weight)),
        };
        Ok(Gradient { loss, game: None, fit: Some(fit), norm, throughput })
    }

    /// Computes the gradient of all trees in the arena, and its norm. `cost` gets each batch with its log-probabilities and
    /// writes the loss's derivative by each of them.
    fn accumulate(
        &mut self,
        trees: &[TokenTree],
        mut cost: impl FnMut(&Packed, &[f32], &mut [f32]),
    ) -> Result<(f64, Throughput), TrainError> {
        let start = Instant::now();
        if trees.is_empty() {
            return Err(TrainError::NoExamples { step: self.steps() + 1 });
        }
        trees.iter().try_for_each(|tree| tree.check(self.decoder.config()))?;
        let mut throughput = Throughput::default();
        for (at, packed) in pack(trees, self.settings.batch_tokens).into_iter().enumerate() {
            let rate = self.decoder.adapter().map_or(0.0, |adapter| adapter.config().dropout);
            self.tape.set_dropout((rate > 0.0).then_some(DropoutDraw {
                rate: rate as f32,
                key: self.settings.dropout,
                // No step has that many batches.
                batch: u64::from(self.steps()) << 32 | at as u64,
            }));
            let logprobs = self.decoder.logprobs(&packed.batch, &mut self.tape);
            let mut dlogp = vec![0.0; logprobs.len()];
            cost(&packed, &logprobs, &mut dlogp);
            self.decoder.backward(&packed.batch, &mut self.tape, &dlogp, &mut self.grads, at > 0);
            throughput.tokens += packed.batch.rows() as u64;
            let (config, adapter) = (self.decoder.config(), self.decoder.adapter());
            throughput.flops.0 += Flops::forward_and_backward(config, adapter, &packed.batch).0;
        }
        let norm = self.decoder.device().sum_squares(self.grads.head(self.grads.len())).sqrt();
        throughput.seconds = start.elapsed().as_secs_f64();
        Ok((norm, throughput))
    }

    /// The second half of a step: clips the gradient in the arena and moves the parameters.
    pub fn apply(&mut self, gradient: Gradient) -> Result<Step, TrainError> {
        let start = Instant::now();
        let step = self.steps() + 1;
        if !gradient.loss.is_finite() {
            return Err(TrainError::NotFinite { what: "loss", step });
        }
        let Self { decoder, settings, optimizer, grads, .. } = self;
        let grad_norm = gradient.norm;
        if !grad_norm.is_finite() {
            return Err(TrainError::NotFinite { what: "gradient", step });
        }
        let scale = settings.max_grad_norm.map_or(1.0, |max| (max / (grad_norm + 1e-6)).min(1.0));
        let lr = settings.schedule.at(optimizer.steps());
        decoder.update(|device, params| optimizer.step(device, params, grads, scale as f32, lr as f32));

        let Gradient { loss, game, fit, mut throughput, .. } = gradient;
        throughput.seconds += start.elapsed().as_secs_f64();
        Ok(Step { metrics: StepMetrics { step, loss, game, fit, grad_norm, lr }, throughput })
    }

    /// Log-probabilities of responses at the present parameters, see [`score`].
    pub fn score(&self, trees: &[TokenTree]) -> Result<Vec<Vec<Vec<f32>>>, TreeError> {
        // Not the tape of training: nothing is to be kept, and that takes far less memory.
        let mut tape = Tape::new(self.decoder.device(), Keep::Nothing);
        score(&self.decoder, &mut tape, trees, self.settings.batch_tokens)
    }
}

/// Sums over the tokens of a response, of its log-probabilities and of their differences to the opponent's and to the base
/// model's.
fn scored(logprobs: &[f32], response: &Response) -> Scored {
    let logp = logprobs.iter().map(|&logprob| f64::from(logprob)).sum();
    // Difference by difference: each is exactly 0 where both agree.
    let less =
        |then: &[f32]| -> f64 { logprobs.iter().zip(then).map(|(&now, &then)| f64::from(now) - f64::from(then)).sum() };
    Scored {
        logp,
        log_ratio: less(&response.logprobs),
        base_log_ratio: less(&response.base_logprobs),
        tokens: logprobs.len(),
    }
}

/// The same of a response of the base model, which comes with its own log-probabilities.
fn scored_base(logprobs: &[f32], response: &Response) -> Scored {
    let scored = scored(logprobs, response);
    Scored { log_ratio: 0.0, base_log_ratio: scored.log_ratio, ..scored }
}

/// Whether the responses of a group have all that their cost is made of.
fn check(tree: &Tree, group: &Group, loss: &Loss) -> Result<(), TrainError> {
    let (prompt_id, needs) = (|| tree.prompt_id.clone(), loss.needs());
    if (needs.base_response || !tree.base.is_empty()) && tree.base.len() != tree.generated.len() {
        let (found, wanted) = (tree.base.len(), tree.generated.len());
        return Err(TrainError::BaseResponses { prompt_id: prompt_id(), found, wanted });
    }
    for response in group.responses(tree) {
        let (tokens, logprobs) = (response.token_ids.len(), response.logprobs.len());
        if tokens != logprobs {
            return Err(TrainError::LogprobCount { prompt_id: prompt_id(), tokens, logprobs, of: "the opponent" });
        }
    }
    for &(index, _) in &group.generated {
        let Response { token_ids, base_logprobs, .. } = &tree.generated[index];
        let (tokens, logprobs) = (token_ids.len(), base_logprobs.len());
        if needs.base_logprobs && tokens != logprobs {
            return Err(TrainError::LogprobCount { prompt_id: prompt_id(), tokens, logprobs, of: "the base model" });
        }
    }
    Ok(())
}
