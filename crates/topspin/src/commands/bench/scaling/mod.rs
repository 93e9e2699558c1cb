//! `topspin bench scaling`: how time grows, as figures.

mod report;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context;
use topspin_game::config;
use topspin_game::pair::all_pairs;
use topspin_game::run::product_rate;
use topspin_game::trainer::Trainer;
use topspin_model::decoder::Keep;
use topspin_rollout::{Engine, EngineSettings, Event, Progress};

use super::clock::median;
use super::generate::requests;
use super::subject::{Subject, SubjectFlags, TimedDecoder};
use super::tokens::TokenFlags;
use super::train::{self, settings, trees};
use crate::flags::positive;
use crate::progress::Bar;
use crate::{engine, machine, output};
use report::{Point, Scaling};

/// Pairs of a training step, where they are not what varies.
const PAIRS: usize = 4;

/// How time grows with the work, as figures
///
/// Writes SVG files: time of a training step by batch tokens, by prompt length and by threads; rate and step time of
/// generation by live sequences. The dashed line is what the arithmetic alone would take at the rate of one large matrix
/// product. Token ids are random.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    sweep: Sweep,
    #[command(flatten)]
    subject: SubjectFlags,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// What varies, and how.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Work")]
struct Sweep {
    /// Folder to write the figures into; it is made where there is none
    #[arg(short, long, value_name = "DIR")]
    out: PathBuf,
    /// Rows of a training step of one batch, of as many pairs as fit
    #[arg(long, value_name = "N,..", value_delimiter = ',', value_parser = positive,
        default_values_t = [384, 768, 1536, 3072])]
    batch_tokens: Vec<usize>,
    /// Prompt lengths of a training step of 4 pairs
    #[arg(long, value_name = "N,..", value_delimiter = ',', value_parser = positive,
        default_values_t = [64, 128, 256, 512, 1024])]
    prompt_tokens: Vec<usize>,
    /// Numbers of threads of a training step of 4 pairs [default: 1 to `--threads`]
    #[arg(long, value_name = "N,..", value_delimiter = ',', value_parser = positive)]
    thread_counts: Vec<usize>,
    /// Numbers of sequences that are generated side by side
    #[arg(long, value_name = "N,..", value_delimiter = ',', value_parser = positive,
        default_values_t = [1, 2, 4, 8, 16, 32, 64, 128])]
    live_sequences: Vec<usize>,
    /// Tokens of prompts and of responses in training, where they are not what varies
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = positive)]
    train_tokens: usize,
    /// Tokens of prompts and of responses in generation
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = at_least_two)]
    generate_tokens: usize,
    /// Timed repetitions, after one that is not timed; the median counts
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = positive)]
    steps: usize,
}

/// Measures, writes the figures and prints.
pub fn run(Args { sweep, subject, json }: Args) -> anyhow::Result<()> {
    let subject = Subject::open(&subject)?;
    let longest = sweep.prompt_tokens.iter().copied().fold(sweep.train_tokens, usize::max);
    subject.check_lengths(longest, sweep.train_tokens)?;
    subject.check_lengths(sweep.generate_tokens, sweep.generate_tokens)?;
    topspin_files::create_dir_all(&sweep.out)?;
    let scaling = measure(&subject, &sweep)?;
    for (name, figure) in scaling.figures() {
        let path = sweep.out.join(format!("{name}.svg"));
        topspin_files::write_atomic(&path, |out| std::io::Write::write_all(out, figure.svg().as_bytes()))?;
    }
    if json { output::print_json(&scaling) } else { scaling.print_table() }
}

fn measure(subject: &Subject, sweep: &Sweep) -> anyhow::Result<Scaling> {
    let threads = rayon::current_num_threads();
    let thread_counts = match sweep.thread_counts.is_empty() {
        true => (1..=threads).collect(),
        false => sweep.thread_counts.clone(),
    };
    let points = [&sweep.batch_tokens, &sweep.prompt_tokens, &thread_counts, &sweep.live_sequences];
    let mut bar = Bar::begin("scaling", "points", points.iter().map(|values| values.len()).sum(), 0);

    let standard = Step {
        x: 0,
        pairs: PAIRS,
        prompt_tokens: sweep.train_tokens,
        batch_tokens: config::Train::default().batch_tokens,
        threads,
    };
    let mut training = Training::new(subject, sweep)?;
    let mut train = |values: &[usize], step: &dyn Fn(usize) -> Step| -> anyhow::Result<Vec<Point>> {
        let point = |&value| {
            bar.step();
            training.point(step(value))
        };
        values.iter().map(point).collect()
    };
    let train_by_batch_tokens = train(&sweep.batch_tokens, &|asked| {
        let rows_of_pair = 3 * sweep.train_tokens - 2;
        let pairs = (asked / rows_of_pair).max(1);
        let rows = pairs * rows_of_pair;
        Step { x: rows, pairs, batch_tokens: rows, ..standard }
    })?;
    let train_by_prompt_tokens = train(&sweep.prompt_tokens, &|n| Step { x: n, prompt_tokens: n, ..standard })?;
    let train_by_threads = train(&thread_counts, &|n| Step { x: n, threads: n, ..standard })?;
    drop(training);

    let decoder = subject.generator()?;
    let generate = |&live: &usize| {
        bar.step();
        generation(subject, sweep, &decoder, live)
    };
    let generate_by_live_sequences = sweep.live_sequences.iter().map(generate).collect::<anyhow::Result<_>>()?;
    drop(bar);
    Ok(Scaling {
        work: "scaling",
        model: subject.name.clone(),
        machine: machine::description(),
        dtype: engine::name(subject.precision),
        threads,
        train_tokens: sweep.train_tokens,
        generate_tokens: sweep.generate_tokens,
        train_by_batch_tokens,
        train_by_prompt_tokens,
        train_by_threads,
        generate_by_live_sequences,
    })
}

/// A training step to be timed.
#[derive(Clone, Copy)]
struct Step {
    x: usize,
    pairs: usize,
    prompt_tokens: usize,
    batch_tokens: usize,
    threads: usize,
}

/// A decoder in training, in steps of different sizes.
struct Training<'a> {
    subject: &'a Subject,
    sweep: &'a Sweep,
    /// Lent to a trainer during a step.
    decoder: Option<TimedDecoder>,
}

impl<'a> Training<'a> {
    fn new(subject: &'a Subject, sweep: &'a Sweep) -> anyhow::Result<Self> {
        Ok(Self { subject, sweep, decoder: Some(subject.trainee(None)?) })
    }

    fn point(&mut self, step: Step) -> anyhow::Result<Point> {
        if step.threads == rayon::current_num_threads() {
            return self.time(step);
        }
        let pool = rayon::ThreadPoolBuilder::new().num_threads(step.threads).build();
        let pool = pool.with_context(|| format!("{} threads cannot be started; ask for fewer", step.threads))?;
        pool.install(|| self.time(step))
    }

    fn time(&mut self, Step { x, pairs, prompt_tokens, batch_tokens, .. }: Step) -> anyhow::Result<Point> {
        let Sweep { train_tokens, steps, .. } = *self.sweep;
        let trees = trees(TokenFlags::default().pairs(self.subject, pairs, prompt_tokens, train_tokens)?);
        let pairs = all_pairs(&trees);
        let decoder = self.decoder.take().expect("each step gives it back");
        let mut trainer = Trainer::new(decoder, settings(steps + 1, batch_tokens, Keep::Everything));
        let mut work = train::step(&mut trainer, &trees, &pairs)?;
        let mut seconds = Vec::new();
        for _ in 0..steps {
            let start = Instant::now();
            work = train::step(&mut trainer, &trees, &pairs)?;
            seconds.push(start.elapsed().as_secs_f64());
        }
        self.decoder = Some(trainer.into_decoder());
        Ok(self.subject.point(x, seconds, work.flops.0 as f64, None))
    }
}

/// Generation with `live` sequences from beginning to end. The step that counts is one without rows of prompts.
fn generation(subject: &Subject, sweep: &Sweep, decoder: &TimedDecoder, live: usize) -> anyhow::Result<Point> {
    let tokens = sweep.generate_tokens;
    let requests = requests(TokenFlags::default().prompts(subject, live, tokens)?, tokens);
    let (mut rates, mut seconds, mut flops) = (Vec::new(), Vec::new(), Vec::new());
    for repetition in 0..=sweep.steps {
        let settings = EngineSettings { live_sequences: live, ..EngineSettings::default() };
        let mut engine = Engine::new(decoder, settings)?;
        let mut before = Progress::default();
        let start = Instant::now();
        let mut step_start = start;
        engine.run_with(&requests, |event| {
            let Event::Step(progress) = event else { return };
            if repetition > 0 && progress.prompt_rows == before.prompt_rows {
                seconds.push(step_start.elapsed().as_secs_f64());
                flops.push((progress.flops - before.flops) as f64);
            }
            (before, step_start) = (progress, Instant::now());
        })?;
        if repetition > 0 {
            rates.push(before.tokens as f64 / start.elapsed().as_secs_f64());
        }
    }
    let flops = median(flops).expect("every response has several tokens");
    Ok(subject.point(live, seconds, flops, median(rates)))
}

impl Subject {
    /// A point of steps that took `seconds` and `flops` each.
    fn point(&self, x: usize, seconds: Vec<f64>, flops: f64, new_tokens_per_s: Option<f64>) -> Point {
        // Measured each time: the number of threads may differ.
        let rate = product_rate(self.device.inner(), self.precision);
        let seconds = median(seconds).expect("there is one repetition at least");
        Point { x, seconds, arithmetic_seconds: flops / rate, new_tokens_per_s }
    }
}

/// Parses a number of tokens of which there must be a second: the first one comes out of the prompt.
fn at_least_two(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|&n| n > 1).ok_or_else(|| "it must be a whole number from 2 up".into())
}
