//! `topspin bench train`.

use topspin_game::config;
use topspin_game::metrics::Throughput;
use topspin_game::objective::{Loss, Objective};
use topspin_game::optimizer::{OptimizerSettings, Rule, matrices};
use topspin_game::pair::{Pair, Response, Tree, all_pairs};
use topspin_game::schedule::{Schedule, Shape, Warmup};
use topspin_game::trainer::{TrainSettings, Trainer};
use topspin_kernels::cpu::Cpu;
use topspin_kernels::rng::Key;
use topspin_kernels::timed::Timed;
use topspin_model::decoder::Keep;
use topspin_rollout::Finish;

use super::Common;
use super::clock::Clock;
use super::figures::{Done, Figures};
use super::subject::Subject;
use super::tokens::TokenPair;
use crate::flags::positive;
use crate::progress::Bar;

/// Self-play steps on pairs: forward, backward and update
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    size: Size,
    #[command(flatten)]
    batch: BatchFlags,
    #[command(flatten)]
    common: Common,
}

/// How much is trained on, and how often.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Work")]
struct Size {
    /// Pairs in a step, each of a prompt of its own
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = positive)]
    pairs: usize,
    /// Tokens of each prompt
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = positive)]
    prompt_tokens: usize,
    /// Tokens of each response, real or generated
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = positive)]
    response_tokens: usize,
    /// Timed repetitions, after one that is not timed
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = positive)]
    steps: usize,
    /// Train an adapter of this rank beside all linear layers, in place of the model's own parameters
    #[arg(long, value_name = "RANK", value_parser = positive)]
    lora_rank: Option<usize>,
}

/// How a step is computed.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Work")]
pub struct BatchFlags {
    /// Rows of one forward and backward; a step of more rows accumulates gradients, in less memory
    #[arg(long, value_name = "N", default_value_t = config::Train::default().batch_tokens, value_parser = positive)]
    pub batch_tokens: usize,
    /// Compute activations within layers again in the backward instead of keeping them
    #[arg(long)]
    recompute: bool,
}

impl BatchFlags {
    /// The settings of `steps` steps.
    pub fn settings(&self, steps: usize) -> TrainSettings {
        settings(steps, self.batch_tokens, if self.recompute { Keep::LayerInputs } else { Keep::Everything })
    }
}

/// AdamW, as the peers, for `steps` steps.
pub fn settings(steps: usize, batch_tokens: usize, keep: Keep) -> TrainSettings {
    TrainSettings {
        optimizer: OptimizerSettings {
            rule: Rule::AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8 },
            weight_decay: 0.0,
            decays: matrices,
        },
        schedule: Schedule::new(1e-6, Shape::Constant, Warmup::Steps(0), steps as u32),
        max_grad_norm: Some(1.0),
        batch_tokens,
        keep,
        dropout: Key::new(0, "dropout", 0),
    }
}

/// Measures and prints.
pub fn run(Args { size, batch, common }: Args) -> anyhow::Result<()> {
    let subject = Subject::open(&common.subject)?;
    let (prompt, response) = (size.prompt_tokens, size.response_tokens);
    if common.tokens.are_random() {
        subject.check_lengths(prompt, response)?;
    }
    let trees = trees(common.tokens.pairs(&subject, size.pairs, prompt, response)?);
    let pairs = all_pairs(&trees);
    let mut trainer = Trainer::new(subject.trainee(size.lora_rank)?, batch.settings(size.steps + 1));
    let mut clock = Clock::new(&subject);

    let mut bar = Bar::begin("training", "repetitions", size.steps + 1, 0);
    clock.phase("train", || step(&mut trainer, &trees, &pairs))?;
    clock.warm();
    clock.measure_products();
    let mut work = Throughput::default();
    for at in 0..size.steps {
        bar.advance(at + 1, "");
        work = clock.phase("train", || step(&mut trainer, &trees, &pairs))?;
        clock.lap();
    }
    drop(trainer);
    let done = Done { rows: work.tokens, flops: work.flops.0, new_tokens: None, pairs: Some(pairs.len() as u64) };
    Figures::new("train", &subject, done, clock.stop()).print(common.json)
}

/// One step on some of the pairs.
pub fn step(trainer: &mut Trainer<Timed<Cpu>>, trees: &[Tree], pairs: &[Pair]) -> anyhow::Result<Throughput> {
    Ok(trainer.spin_step(trees, pairs, &Loss::new(Objective::Logistic, 0.1))?.throughput)
}

/// Trees of one pair each.
pub fn trees(pairs: Vec<TokenPair>) -> Vec<Tree> {
    // What the opponent thought has no bearing on the time.
    let response = |token_ids: Vec<u32>| {
        let logprobs = vec![-1.0; token_ids.len()];
        Response::new(token_ids, logprobs, Finish::Length)
    };
    let tree = |(number, pair): (usize, TokenPair)| Tree {
        prompt_id: (number + 1).to_string(),
        prompt: pair.prompt,
        real: response(pair.real),
        generated: vec![response(pair.generated)],
        base: Vec::new(),
    };
    pairs.into_iter().enumerate().map(tree).collect()
}
