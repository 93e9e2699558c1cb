//! `topspin bench iteration`: what one iteration of self-play takes, all stages together.

use topspin_game::metrics::Throughput;
use topspin_game::order::{Batches, Position, singly};
use topspin_game::pair::{Response, Tree, all_pairs};
use topspin_game::trainer::Trainer;
use topspin_game::tree::TokenTree;
use topspin_rollout::{Completion, Engine, EngineSettings, Event, Progress, Request, SampleKey, Task};

use super::Common;
use super::clock::Clock;
use super::figures::{Done, Figures};
use super::subject::{Subject, TimedDecoder};
use super::tokens::TokenExample;
use super::train::{BatchFlags, step};
use crate::flags::positive;
use crate::progress::Bar;

/// One iteration of self-play: a sample for each prompt, the opponent's view of the real responses, an epoch of training
///
/// Samples are drawn at temperature 1 and end at the model's stop tokens; real responses are scored in the same run of the
/// engine, so that a prompt is computed once for both. Training takes all pairs once, in random order,
/// with AdamW; its time includes laying out the weights for it. Reading and writing files is not timed.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    size: Size,
    #[command(flatten)]
    batch: BatchFlags,
    #[command(flatten)]
    common: Common,
}

/// How much is played, and how often.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Work")]
struct Size {
    /// Prompts [default: all of the file, or 64 random ones]
    #[arg(long, value_name = "N", value_parser = positive)]
    prompts: Option<usize>,
    /// Tokens of random prompts, in the mean: their lengths vary from half of it to one and a half
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = positive)]
    prompt_tokens: usize,
    /// Tokens of random real responses, in the mean, as for prompts
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = positive)]
    response_tokens: usize,
    /// Longest generated response, its end-of-turn token included
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = positive)]
    max_new_tokens: usize,
    /// Most sequences generated side by side
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = positive)]
    live_sequences: usize,
    /// Pairs in a training step
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = positive)]
    batch_pairs: usize,
    /// Timed repetitions, each from the model as it came
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = positive)]
    steps: usize,
}

/// Measures and prints.
pub fn run(Args { size, batch, common }: Args) -> anyhow::Result<()> {
    let subject = Subject::open(&common.subject)?;
    if common.tokens.are_random() {
        subject.check_lengths(size.prompt_tokens, size.response_tokens)?;
    }
    let examples = common.tokens.examples(&subject, size.prompts, size.prompt_tokens, size.response_tokens)?;
    let names = (1..=examples.len()).map(|number| number.to_string()).collect();
    let iteration = Iteration { subject: &subject, size: &size, batch: &batch, names, examples };
    iteration.token_trees().iter().try_for_each(|tree| tree.check(&subject.config))?;
    let mut clock = Clock::new(&subject);
    let mut done = None;
    for _ in 0..size.steps {
        done = Some(iteration.play(&mut clock)?);
        clock.lap();
    }
    let done = done.expect("there is one repetition at least");
    Figures::new("iteration", &subject, done, clock.stop()).print(common.json)
}

/// An iteration to be played.
struct Iteration<'a> {
    subject: &'a Subject,
    size: &'a Size,
    batch: &'a BatchFlags,
    /// Numbers of the prompts, from 1.
    names: Vec<String>,
    examples: Vec<TokenExample>,
}

impl Iteration<'_> {
    /// One repetition.
    fn play(&self, clock: &mut Clock) -> anyhow::Result<Done> {
        let decoder = self.subject.generator()?;
        let (completions, generated) = clock.phase("generate", || self.generate(&decoder))?;
        clock.measure_products();
        drop(decoder);
        let trees = self.trees(completions);
        let trained = clock.phase("train", || self.train(&trees))?;
        Ok(Done {
            rows: generated.rows + trained.tokens,
            flops: generated.flops + trained.flops.0,
            new_tokens: Some(generated.tokens),
            pairs: Some(trees.len() as u64),
        })
    }

    /// A response to each prompt and behind it the real one, both with their log-probabilities under the opponent.
    fn generate(&self, decoder: &TimedDecoder) -> anyhow::Result<(Vec<Completion>, Progress)> {
        let stop_ids = self.subject.dialect().map(|dialect| dialect.tokenizer().stop_ids().to_vec());
        let settings = EngineSettings {
            live_sequences: self.size.live_sequences,
            stop_ids: stop_ids.unwrap_or_default(),
            ..EngineSettings::default()
        };
        let requests = self.requests();
        let mut bar = Bar::begin("rollouts", "responses", requests.len(), 0);
        let mut last = Progress::default();
        let completions = Engine::new(decoder, settings)?.run_with(&requests, |event| {
            if let Event::Step(progress) = event {
                last = progress;
                bar.advance(progress.completed, "");
            }
        })?;
        drop(bar);
        Ok((completions, last))
    }

    /// For each prompt a sample, then its real response.
    fn requests(&self) -> Vec<Request> {
        let tasks = |(example, prompt): (&TokenExample, u64)| {
            let key = SampleKey { prompt, sample: 0 };
            let sample = Task::Sample { key, max_new_tokens: self.size.max_new_tokens };
            let real = Task::Score { token_ids: example.real.clone() };
            [sample, real].map(|task| Request { prompt: example.prompt.clone(), task })
        };
        self.examples.iter().zip(0..).flat_map(tasks).collect()
    }

    /// An epoch over all pairs.
    fn train(&self, trees: &[Tree]) -> anyhow::Result<Throughput> {
        let pairs = all_pairs(trees);
        let batches = Batches::new(0, 1, singly(pairs.len()), self.size.batch_pairs, 1, Position::default());
        let mut bar = Bar::begin("training", "steps", batches.total() as usize, 0);
        let mut trainer = Trainer::new(self.subject.trainee(None)?, self.batch.settings(batches.total() as usize));
        let mut work = Throughput::default();
        for chosen in batches {
            let pairs: Vec<_> = chosen.iter().map(|&index| pairs[index]).collect();
            work += step(&mut trainer, trees, &pairs)?;
            bar.step();
        }
        drop(bar);
        Ok(work)
    }

    /// Prompts with their real responses.
    fn token_trees(&self) -> Vec<TokenTree<'_>> {
        let named = self.names.iter().zip(&self.examples);
        named
            .map(|(name, example)| TokenTree {
                prompt_id: name,
                prompt: &example.prompt,
                responses: vec![&example.real],
                turns: &[],
            })
            .collect()
    }

    /// Prompts with both responses and what the opponent thought of them.
    fn trees(&self, completions: Vec<Completion>) -> Vec<Tree> {
        let named = self.names.iter().zip(&self.examples);
        let mut responses = completions.into_iter().map(response);
        named
            .map(|(name, example)| {
                let mut next = || responses.next().expect("there are two responses to each prompt");
                let (generated, real) = (vec![next()], next());
                Tree { prompt_id: name.clone(), prompt: example.prompt.clone(), real, generated, base: Vec::new() }
            })
            .collect()
    }
}

/// A completion as one side of a pair.
fn response(Completion { token_ids, logprobs, finish }: Completion) -> Response {
    Response::new(token_ids, logprobs, finish)
}
