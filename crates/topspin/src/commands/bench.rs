//! `topspin bench`: speed and memory on this machine.

use std::path::PathBuf;

use clap::Subcommand;

use crate::flags::{ModelFlags, positive};

const EXAMPLES: &str = "\
Examples:
  topspin bench generate --model M
  topspin bench train --model M --pairs 4 --prompt-tokens 128 --response-tokens 128
  topspin bench generate --model M --sequences 16 --json";

/// Measure speed and memory on this machine
///
/// Prints tokens/s, MFU (the arithmetic that was done over what matrix products alone reach, measured in the same run)
/// and the largest memory that the process held.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    work: Work,
}

/// What is measured.
#[derive(Debug, Subcommand)]
enum Work {
    /// Self-play training steps: forward, backward and update on pairs
    Train {
        /// Pairs in a step
        #[arg(long, value_name = "N", default_value_t = 4, value_parser = positive)]
        pairs: usize,
        #[command(flatten)]
        common: Common,
    },
    /// Generation by continuous batching
    Generate {
        /// Sequences generated side by side
        #[arg(long, value_name = "N", default_value_t = 64, value_parser = positive)]
        sequences: usize,
        #[command(flatten)]
        common: Common,
    },
}

/// Flags of both.
#[derive(Debug, clap::Args)]
struct Common {
    #[command(flatten)]
    model: ModelFlags,
    /// Tokens of each prompt
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = positive)]
    prompt_tokens: usize,
    /// Tokens of each response
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = positive)]
    response_tokens: usize,
    /// Timed repetitions, after one that is not timed
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = positive)]
    steps: usize,
    /// Take the token ids from this JSON file, so that another program can have the same
    #[arg(long, value_name = "FILE")]
    tokens: Option<PathBuf>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// Measures and prints.
pub fn run(args: Args) -> anyhow::Result<()> {
    anyhow::bail!("not yet: {args:?}")
}
