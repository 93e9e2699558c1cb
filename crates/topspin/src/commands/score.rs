//! `topspin score`: how likely the responses of a file are under a model.

use serde::Serialize;
use topspin_data::{Fields, Need};

use crate::engine::Model;
use crate::flags::{FileFlags, ModelFlags};
use crate::{engine, input, output, scoring};

const EXAMPLES: &str = "\
Examples:
  topspin score --model M --input pairs.jsonl --output scored.jsonl
  topspin score --model M --input pairs.jsonl | jq .logprob";

/// Compute how likely the responses of a file are under a model
///
/// A line of the input has `prompt` or `messages`, and `response`. A line of the output is that line with `token_ids`
/// (the response's tokens, the end-of-turn token included), `token_logprobs` (natural logarithms) and `logprob` (their
/// sum).
///
/// A line that `topspin generate` wrote is scored by its `token_ids`, just as they were sampled, and gets to the bit the
/// log-probabilities that were reported then.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    model: ModelFlags,
    #[command(flatten)]
    files: FileFlags,
}

/// Keys that a scored line sets.
const KEYS: [&str; 3] = ["token_ids", "token_logprobs", "logprob"];

/// A line of the output.
#[derive(Serialize)]
struct Scored {
    #[serde(flatten)]
    fields: Fields,
    token_ids: Vec<u32>,
    token_logprobs: Vec<f32>,
    logprob: f64,
}

/// Scores and writes.
pub fn run(args: Args) -> anyhow::Result<()> {
    output::check(&args.files.output)?;
    let files = engine::open(&args.model.model)?;
    let (path, dialect, context) = (&args.files.input, &files.dialect, files.config.max_positions);
    // The text of a response may be empty: a model may have ended its turn at once.
    let lines = input::read(path, Need::Prompt, None, dialect)?;
    let responses = lines.iter().map(|line| line.response(dialect, context)).collect::<anyhow::Result<Vec<_>>>()?;
    let model = Model::load(files, &args.model)?;
    let trees: Vec<_> = lines.iter().zip(&responses).map(|(line, response)| line.tree(vec![response])).collect();
    let logprobs = scoring::score_all(&model, &trees)?.into_iter().flatten();
    let out = lines.iter().zip(responses).zip(logprobs).map(|((line, token_ids), token_logprobs)| Scored {
        fields: line.fields_without(&KEYS),
        token_ids,
        logprob: token_logprobs.iter().copied().map(f64::from).sum(),
        token_logprobs,
    });
    output::write_jsonl(&args.files.output, out)
}
