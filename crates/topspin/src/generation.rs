//! Responses to the prompts of a file, with a bar: what `generate` and `eval` share.

use std::time::Instant;

use serde::Serialize;
use topspin_data::Fields;
use topspin_model::dialect::Dialect;
use topspin_rollout::{Completion, Engine, EngineSettings, Event, Finish, Request, SampleKey, Sampling, Task};
use tracing::info;

use crate::engine::Model;
use crate::input::{self, Line};
use crate::progress::Bar;

/// What to generate.
pub struct Plan {
    /// How a token is chosen.
    pub sampling: Sampling,
    /// Longest response.
    pub max_new_tokens: usize,
    /// Responses to each prompt.
    pub samples: usize,
    /// Most sequences side by side.
    pub live: usize,
    /// Seed of the random numbers.
    pub seed: u64,
}

/// Keys that a generated line sets.
pub const KEYS: [&str; 5] = ["response", "token_ids", "logprobs", "finish_reason", "sample"];

/// A line of the output.
#[derive(Serialize)]
pub struct Generated {
    #[serde(flatten)]
    fields: Fields,
    /// The text.
    pub response: String,
    token_ids: Vec<u32>,
    // Not as a `Value`: that would print an f32 with the digits of an f64.
    logprobs: Vec<f32>,
    finish_reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    sample: Option<usize>,
}

impl Generated {
    /// The response to `line`; `sample` is its number where a prompt has several.
    pub fn new(line: &Line, completion: Completion, sample: Option<usize>, dialect: &Dialect) -> Self {
        Self {
            fields: line.fields_without(&KEYS),
            response: dialect.decode_response(&completion.token_ids),
            finish_reason: finish_name(completion.finish),
            token_ids: completion.token_ids,
            logprobs: completion.logprobs,
            sample,
        }
    }
}

/// How an end is spelled.
fn finish_name(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "stop",
        Finish::Length => "length",
    }
}

/// Generates the responses to each line, those of one line side by side.
pub fn generate(model: &Model, lines: &[Line], plan: &Plan) -> anyhow::Result<Vec<Completion>> {
    let requests: Vec<Request> =
        lines.iter().zip(input::keys(lines)).flat_map(|(line, key)| requests(line, key, plan)).collect();
    let settings = EngineSettings {
        live_sequences: plan.live,
        stop_ids: model.files.dialect.tokenizer().stop_ids().to_vec(),
        sampling: plan.sampling,
        seed: plan.seed,
        ..EngineSettings::default()
    };
    let mut engine = Engine::new(&model.decoder, settings)?;
    let mut bar = Bar::begin("generating", "responses", requests.len(), 0);
    let start = Instant::now();
    let mut tokens = 0;
    let completions = engine.run_with(&requests, |event| {
        if let Event::Step(progress) = event {
            tokens = progress.tokens;
            bar.advance(progress.completed, &format!("{:.0} tokens/s", tokens as f64 / start.elapsed().as_secs_f64()));
        }
    });
    drop(bar);
    let completions = completions?;
    let seconds = start.elapsed().as_secs_f64();
    let cut = completions.iter().filter(|completion| completion.finish == Finish::Length).count();
    info!(
        "{} responses, {tokens} tokens in {seconds:.1} s ({:.0} tokens/s); {cut} cut at the length limit",
        completions.len(),
        tokens as f64 / seconds
    );
    Ok(completions)
}

/// The requests of one line.
fn requests(line: &Line, (prompt, before): (u64, u32), plan: &Plan) -> impl Iterator<Item = Request> {
    let samples = plan.samples as u32;
    let request = move |sample| Request {
        prompt: line.prompt.clone(),
        task: Task::Sample {
            key: SampleKey { prompt, sample: before * samples + sample },
            max_new_tokens: plan.max_new_tokens,
        },
    };
    (0..samples).map(request)
}
