//! `topspin bench generate`.

use topspin_rollout::{Engine, EngineSettings, Event, Progress, Request, SampleKey, Task};

use super::Common;
use super::clock::Clock;
use super::figures::{Done, Figures};
use super::subject::{Subject, TimedDecoder};
use crate::flags::positive;
use crate::progress::Bar;

/// Generation, every response to its full length
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    size: Size,
    #[command(flatten)]
    common: Common,
}

/// How much is generated, and how often.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Work")]
struct Size {
    /// Responses in a repetition, each to a prompt of its own
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = positive)]
    sequences: usize,
    /// Most sequences generated side by side
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = positive)]
    live_sequences: usize,
    /// Tokens of each prompt
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = positive)]
    prompt_tokens: usize,
    /// Tokens generated for each prompt
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = positive)]
    response_tokens: usize,
    /// Timed repetitions, after one that is not timed
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = positive)]
    steps: usize,
}

/// Measures and prints.
pub fn run(Args { size, common }: Args) -> anyhow::Result<()> {
    let subject = Subject::open(&common.subject)?;
    let (prompt, response) = (size.prompt_tokens, size.response_tokens);
    if common.tokens.are_random() {
        subject.check_lengths(prompt, response)?;
    }
    let requests = requests(common.tokens.prompts(&subject, size.sequences, prompt)?, response);
    let decoder = subject.generator()?;
    let settings = EngineSettings { live_sequences: size.live_sequences, ..EngineSettings::default() };
    let mut clock = Clock::new(&subject);
    let last = repeat(&mut clock, size.steps, || generate(&decoder, &settings, &requests))?;
    let done = Done { rows: last.rows, flops: last.flops, new_tokens: Some(last.tokens), pairs: None };
    drop(decoder);
    Figures::new("generate", &subject, done, clock.stop()).print(common.json)
}

fn repeat(
    clock: &mut Clock,
    steps: usize,
    mut generate: impl FnMut() -> anyhow::Result<Progress>,
) -> anyhow::Result<Progress> {
    let mut bar = Bar::begin("generating", "repetitions", steps + 1, 0);
    clock.phase("generate", &mut generate)?;
    clock.warm();
    clock.measure_products();
    let mut last = Progress::default();
    for step in 0..steps {
        bar.advance(step + 1, "");
        last = clock.phase("generate", &mut generate)?;
        clock.lap();
    }
    Ok(last)
}

/// One response of `new_tokens` to each prompt.
pub fn requests(prompts: Vec<Vec<u32>>, new_tokens: usize) -> Vec<Request> {
    let task = |prompt| Task::Sample { key: SampleKey { prompt, sample: 0 }, max_new_tokens: new_tokens };
    prompts.into_iter().zip(0..).map(|(prompt, at)| Request { prompt, task: task(at) }).collect()
}

/// Generates all responses; says what it took.
pub fn generate(decoder: &TimedDecoder, settings: &EngineSettings, requests: &[Request]) -> anyhow::Result<Progress> {
    let mut last = Progress::default();
    // A new engine each time: an old one would have the last sequence's keys and values still.
    Engine::new(decoder, settings.clone())?.run_with(requests, |event| {
        if let Event::Step(progress) = event {
            last = progress;
        }
    })?;
    Ok(last)
}
