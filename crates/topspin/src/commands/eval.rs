//! `topspin eval`: a model measured on held-out pairs.

use std::path::PathBuf;

use crate::flags::{ModelFlags, positive};

const EXAMPLES: &str = "\
Examples:
  topspin eval --model M --data test.jsonl
  topspin eval --model M --data test.jsonl --limit 100 --json
  topspin eval --model M --data test.jsonl --temperature 1 --output answers.jsonl";

/// Measure a model on held-out pairs: likelihood, exact matches, diversity, lengths
///
/// The negative log-likelihood (nats a token) is that of the file's responses; exact match, distinct-n and lengths are
/// those of the answers that the model gives to the same prompts, greedy unless `--temperature` is given.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    model: ModelFlags,
    /// Lines of JSON with `prompt` or `messages`, and `response`
    #[arg(short, long, value_name = "FILE", help_heading = "Files")]
    data: PathBuf,
    /// Also write the answers here, as `topspin generate` does
    #[arg(short, long, value_name = "FILE", help_heading = "Files")]
    output: Option<PathBuf>,
    /// Use only the first N records [default: all]
    #[arg(long, value_name = "N", value_parser = positive, help_heading = "Files")]
    limit: Option<usize>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// Measures and prints.
pub fn run(args: Args) -> anyhow::Result<()> {
    anyhow::bail!("not yet: {args:?}")
}
