//! `topspin bench`: speed and memory on this machine.
//!
//! The figures and their names are those of `benches/peers/`, which times the same work in other programs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{anyhow, ensure};
use clap::Subcommand;
use serde::{Deserialize, Serialize};
use topspin_game::config;
use topspin_game::objective::Objective;
use topspin_game::optimizer::{OptimizerSettings, Rule, matrices};
use topspin_game::pair::{Response, Tree, all_pairs};
use topspin_game::run::product_rate;
use topspin_game::schedule::{Schedule, Shape};
use topspin_game::trainer::{TrainSettings, Trainer};
use topspin_kernels::cpu::Cpu;
use topspin_kernels::device::Use;
use topspin_kernels::timed::{Seconds, Timed};
use topspin_model::decoder::Keep;
use topspin_rollout::{Engine, EngineSettings, Event, Finish, Request, SampleKey};

use crate::engine;
use crate::flags::{ModelFlags, positive};
use crate::{machine, output, progress};

const EXAMPLES: &str = "\
Examples:
  topspin bench generate --model M
  topspin bench generate --model M --sequences 16 --json
  topspin bench train --model M --pairs 4 --prompt-tokens 128 --response-tokens 128";

/// Measure speed and memory on this machine
///
/// Prints tokens/s, MFU (the arithmetic that was done over what matrix products alone reach, measured in the same run),
/// the largest memory that the process held, and where the time went by operation. Rates are of the median repetition.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    work: Work,
}

/// What is measured.
#[derive(Debug, Subcommand)]
enum Work {
    /// Self-play steps on pairs: forward, backward and update
    Train {
        /// Pairs in a step, each of a prompt of its own
        #[arg(long, value_name = "N", default_value_t = 4, value_parser = positive, help_heading = "Work")]
        pairs: usize,
        /// Tokens of each prompt
        #[arg(long, value_name = "N", default_value_t = 128, value_parser = positive, help_heading = "Work")]
        prompt_tokens: usize,
        /// Tokens of each response, real or generated
        #[arg(long, value_name = "N", default_value_t = 128, value_parser = positive, help_heading = "Work")]
        response_tokens: usize,
        /// Rows of one forward and backward; a step of more rows accumulates gradients, in less memory
        #[arg(long, value_name = "N", default_value_t = config::Train::default().batch_tokens, value_parser = positive,
            help_heading = "Work")]
        batch_tokens: usize,
        /// Compute activations within layers again in the backward instead of keeping them
        #[arg(long, help_heading = "Work")]
        recompute: bool,
        #[command(flatten)]
        common: Common,
    },
    /// Generation, every response to its full length
    Generate {
        /// Sequences generated side by side
        #[arg(long, value_name = "N", default_value_t = 64, value_parser = positive, help_heading = "Work")]
        sequences: usize,
        /// Tokens of each prompt
        #[arg(long, value_name = "N", default_value_t = 64, value_parser = positive, help_heading = "Work")]
        prompt_tokens: usize,
        /// Tokens generated for each prompt
        #[arg(long, value_name = "N", default_value_t = 64, value_parser = positive, help_heading = "Work")]
        response_tokens: usize,
        #[command(flatten)]
        common: Common,
    },
}

/// Flags of both.
#[derive(Debug, clap::Args)]
struct Common {
    #[command(flatten)]
    model: ModelFlags,
    /// Timed repetitions, after one that is not timed
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = positive, help_heading = "Work")]
    steps: usize,
    /// Take token ids from this JSON file, so that another program can have the same [default: random]
    ///
    /// `prompts` is a list of lists of ids, `pairs` a list of objects with `prompt`, `real` and `generated`. They are as
    /// long as they are, whatever `--prompt-tokens` says.
    #[arg(long, value_name = "FILE", help_heading = "Work")]
    tokens: Option<PathBuf>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// A model whose operations are timed.
type Model = engine::Model<Timed<Cpu>>;

/// Token ids to work on.
#[derive(Default, Deserialize)]
struct Tokens {
    #[serde(default)]
    prompts: Vec<Vec<u32>>,
    #[serde(default)]
    pairs: Vec<TokenPair>,
}

/// Token ids of one pair.
#[derive(Clone, Deserialize)]
struct TokenPair {
    prompt: Vec<u32>,
    real: Vec<u32>,
    generated: Vec<u32>,
}

/// What was measured.
#[derive(Serialize)]
struct Figures {
    work: &'static str,
    dtype: &'static str,
    threads: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    new_tokens_per_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pairs_per_s: Option<f64>,
    /// Rows that went through the model: a prompt counts once.
    tokens_per_s: f64,
    seconds: f64,
    cpu_seconds: Option<f64>,
    gflops: f64,
    product_gflops: f64,
    mfu: f64,
    peak_rss_bytes: Option<u64>,
    /// Seconds of a repetition by operation, in the mean.
    operations: BTreeMap<&'static str, f64>,
}

/// Measures and prints.
pub fn run(args: Args) -> anyhow::Result<()> {
    let (common, figures) = match args.work {
        Work::Train { pairs, prompt_tokens, response_tokens, batch_tokens, recompute, common } => {
            let keep = if recompute { Keep::LayerInputs } else { Keep::Everything };
            let settings = settings(common.steps as u32 + 1, batch_tokens, keep);
            let figures = train(&common, pairs, prompt_tokens, response_tokens, settings)?;
            (common, figures)
        }
        Work::Generate { sequences, prompt_tokens, response_tokens, common } => {
            let figures = generate(&common, sequences, prompt_tokens, response_tokens)?;
            (common, figures)
        }
    };
    if common.json { output::print_json(&figures) } else { print_table(&figures) }
}

fn generate(common: &Common, sequences: usize, prompt_tokens: usize, new_tokens: usize) -> anyhow::Result<Figures> {
    let model = load(common, Use::Forward, prompt_tokens, new_tokens)?;
    let rate = product_rate(model.decoder.device(), model.decoder.precision());
    let prompts = match &common.tokens {
        Some(path) => take(path, "prompts", read(path)?.prompts, sequences)?,
        None => (0..sequences).map(|at| random(&model, at as u64, prompt_tokens)).collect(),
    };
    let requests: Vec<Request> = prompts
        .into_iter()
        .zip(0..)
        .map(|(prompt, at)| Request { prompt, key: SampleKey { prompt: at, sample: 0 }, max_new_tokens: new_tokens })
        .collect();
    let settings = EngineSettings { live_sequences: sequences, ..EngineSettings::default() };
    let mut times = Times::new(&model);
    let mut last = topspin_rollout::Progress::default();
    for _ in bar(common.steps) {
        // A new engine each time: the old one would have the last sequence's keys and values still.
        let mut engine = Engine::new(&model.decoder, settings.clone())?;
        times.time(|| {
            engine.run_with(&requests, |event| {
                if let Event::Step(progress) = event {
                    last = progress;
                }
            })
        })?;
    }
    let mut figures = times.figures("generate", &model, rate, last.rows, last.flops);
    figures.new_tokens_per_s = Some(last.tokens as f64 / figures.seconds);
    Ok(figures)
}

fn train(
    common: &Common,
    pairs: usize,
    prompt_tokens: usize,
    response_tokens: usize,
    settings: TrainSettings,
) -> anyhow::Result<Figures> {
    let model = load(common, Use::ForwardAndBackward, prompt_tokens, response_tokens)?;
    let rate = product_rate(model.decoder.device(), model.decoder.precision());
    let pair = |at: u64| TokenPair {
        prompt: random(&model, 3 * at, prompt_tokens),
        real: random(&model, 3 * at + 1, response_tokens),
        generated: random(&model, 3 * at + 2, response_tokens),
    };
    let tokens = match &common.tokens {
        Some(path) => take(path, "pairs", read(path)?.pairs, pairs)?,
        None => (0..pairs as u64).map(pair).collect(),
    };
    // What the opponent thought has no bearing on the time.
    let response =
        |token_ids: Vec<u32>| Response { logprobs: vec![-1.0; token_ids.len()], token_ids, finish: Finish::Length };
    let tree = |pair: TokenPair| Tree {
        prompt_id: "bench".into(),
        prompt: pair.prompt,
        real: response(pair.real),
        generated: vec![response(pair.generated)],
    };
    let trees: Vec<Tree> = tokens.into_iter().map(tree).collect();
    let mut times = Times::new(&model);
    let (files, all) = (model.files, all_pairs(&trees));
    let mut trainer = Trainer::new(model.decoder, settings);
    let mut last = None;
    for _ in bar(common.steps) {
        last = Some(times.time(|| trainer.spin_step(&trees, &all, Objective::Logistic, 0.1))?.throughput);
    }
    let work = last.expect("there is one step at least");
    let model = Model { files, decoder: trainer.into_decoder() };
    let mut figures = times.figures("train", &model, rate, work.tokens, work.flops.0);
    figures.pairs_per_s = Some(pairs as f64 / figures.seconds);
    Ok(figures)
}

/// Loads the model, if prompts and responses of these lengths fit into its context.
fn load(common: &Common, for_use: Use, prompt: usize, response: usize) -> anyhow::Result<Model> {
    let files = engine::open(&common.model.model)?;
    let context = files.config.max_positions;
    // Of ids out of a file the lengths are known only later, and the engine checks them.
    ensure!(
        common.tokens.is_some() || prompt + response <= context,
        "`--prompt-tokens {prompt}` and `--response-tokens {response}` are more than the model's context of {context}; \
         ask for fewer"
    );
    Model::load_on(Timed::new(Cpu::new()), files, &common.model, for_use)
}

/// AdamW, as the peers.
fn settings(steps: u32, batch_tokens: usize, keep: Keep) -> TrainSettings {
    TrainSettings {
        optimizer: OptimizerSettings {
            rule: Rule::AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8 },
            weight_decay: 0.0,
            decays: matrices,
        },
        schedule: Schedule { lr: 1e-6, shape: Shape::Constant, warmup_steps: 0, total_steps: steps },
        max_grad_norm: Some(1.0),
        batch_tokens,
        keep,
    }
}

/// Repetitions with a bar: one to warm up, then the timed ones.
fn bar(steps: usize) -> impl Iterator<Item = usize> {
    let bar = progress::bar("repetitions", steps + 1);
    (0..steps + 1).inspect(move |&at| bar.set_position(at as u64))
}

fn read(path: &Path) -> anyhow::Result<Tokens> {
    let text = topspin_files::read_to_string(path)?;
    serde_json::from_str(&text).map_err(|e| anyhow!("`{}` does not hold token ids as wanted: {e}", path.display()))
}

fn take<T: Clone>(path: &Path, key: &str, all: Vec<T>, n: usize) -> anyhow::Result<Vec<T>> {
    let (path, have) = (path.display(), all.len());
    ensure!(have > 0, "`{path}` has no `{key}`; give it some");
    Ok(all.into_iter().cycle().take(n).collect())
}

/// Token ids that are no special tokens of the model, the same at every call.
fn random(model: &Model, stream: u64, len: usize) -> Vec<u32> {
    let tokenizer = model.files.dialect.tokenizer();
    let ids: Vec<u32> = (0..model.files.config.vocab_size as u32).filter(|&id| !tokenizer.is_special(id)).collect();
    let stream = topspin_kernels::rng::Key::new(0, "bench", 0).stream(stream, 0);
    (0..len as u32).map(|at| ids[(stream.uniform(at) * ids.len() as f64) as usize]).collect()
}

/// Times of repetitions, the first of which warms up.
struct Times {
    device: Timed<Cpu>,
    warm: bool,
    clock: Vec<f64>,
    processor: Vec<f64>,
    operations: Seconds,
}

impl Times {
    fn new(model: &Model) -> Self {
        let device = model.decoder.device().clone();
        Self { device, warm: false, clock: Vec::new(), processor: Vec::new(), operations: Seconds::new() }
    }

    fn time<R>(&mut self, work: impl FnOnce() -> R) -> R {
        self.device.take();
        let (clock, processor) = (Instant::now(), machine::cpu_seconds());
        let result = work();
        if self.warm {
            self.clock.push(clock.elapsed().as_secs_f64());
            self.processor.extend(machine::cpu_seconds().zip(processor).map(|(now, then)| now - then));
            for (operation, seconds) in self.device.take() {
                *self.operations.entry(operation).or_default() += seconds;
            }
        }
        self.warm = true;
        result
    }

    fn figures(self, work: &'static str, model: &Model, rate: f64, rows: u64, flops: u64) -> Figures {
        let repetitions = self.clock.len() as f64;
        let operations = self.operations.into_iter().map(|(name, seconds)| (name, seconds / repetitions)).collect();
        let seconds = median(self.clock).expect("there is one timed repetition at least");
        Figures {
            work,
            dtype: engine::name(model.decoder.precision()),
            threads: rayon::current_num_threads(),
            new_tokens_per_s: None,
            pairs_per_s: None,
            tokens_per_s: rows as f64 / seconds,
            seconds,
            cpu_seconds: median(self.processor),
            gflops: flops as f64 / seconds / 1e9,
            product_gflops: rate / 1e9,
            mfu: flops as f64 / seconds / rate,
            peak_rss_bytes: machine::peak_rss_bytes(),
            operations,
        }
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let (low, high) = (values.get(values.len().saturating_sub(1) / 2)?, values.get(values.len() / 2)?);
    Some((low + high) / 2.0)
}

fn print_table(figures: &Figures) -> anyhow::Result<()> {
    output::print(|out| {
        writeln!(out, "{}, {}, {} threads", figures.work, figures.dtype, figures.threads)?;
        if let Some(rate) = figures.new_tokens_per_s {
            writeln!(out, "{:<22} {rate:>10.1}", "new tokens/s")?;
        }
        if let Some(rate) = figures.pairs_per_s {
            writeln!(out, "{:<22} {rate:>10.3}", "pairs/s")?;
        }
        writeln!(out, "{:<22} {:>10.1}   prompts counted once", "tokens/s", figures.tokens_per_s)?;
        writeln!(out, "{:<22} {:>10.3}", "seconds", figures.seconds)?;
        if let Some(seconds) = figures.cpu_seconds {
            writeln!(out, "{:<22} {seconds:>10.3}", "processor seconds")?;
        }
        let Figures { gflops, product_gflops, .. } = figures;
        let share = format!("{gflops:.1} of {product_gflops:.1} GFLOP/s");
        writeln!(out, "{:<22} {:>9.1}%   {share}", "MFU", 100.0 * figures.mfu)?;
        if let Some(bytes) = figures.peak_rss_bytes {
            writeln!(out, "{:<22} {:>10.1}", "peak memory, MiB", bytes as f64 / f64::from(1 << 20))?;
        }
        writeln!(out)?;
        let elsewhere = figures.seconds - figures.operations.values().sum::<f64>();
        let mut rows: Vec<_> = figures.operations.iter().map(|(name, seconds)| (*name, *seconds)).collect();
        rows.push(("all else", elsewhere.max(0.0)));
        rows.sort_by(|a, b| b.1.total_cmp(&a.1));
        for (name, seconds) in rows {
            writeln!(out, "{name:<22} {seconds:>10.3} s {:>5.1}%", 100.0 * seconds / figures.seconds)?;
        }
        Ok(())
    })
}
