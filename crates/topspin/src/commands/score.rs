//! `topspin score`: how likely the responses of a file are under a model.

use crate::flags::{FileFlags, ModelFlags};

const EXAMPLES: &str = "\
Examples:
  topspin score --model M --input pairs.jsonl --output scored.jsonl
  topspin score --model M --input pairs.jsonl | jq .logprob";

/// Compute how likely the responses of a file are under a model
///
/// A line of the input has `prompt` or `messages`, and `response`. A line of the output is that line with `token_ids`
/// (the response's tokens, the end-of-turn token included), `token_logprobs` (natural logarithms) and `logprob` (their
/// sum). Tokens that `topspin generate` chose have, to the bit, the log-probabilities that it reported.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    model: ModelFlags,
    #[command(flatten)]
    files: FileFlags,
}

/// Scores and writes.
pub fn run(args: Args) -> anyhow::Result<()> {
    anyhow::bail!("not yet: {args:?}")
}
