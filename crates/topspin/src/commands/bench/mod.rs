//! `topspin bench`: speed and memory on this machine.
//!
//! The figures and their names are those of `benches/peers/`, which times the same work in other programs.

mod architecture;
mod clock;
mod figures;
mod gemm;
mod generate;
mod iteration;
mod scaling;
mod subject;
mod tokens;
mod train;

use clap::Subcommand;
use subject::SubjectFlags;
use tokens::TokenFlags;

const EXAMPLES: &str = "\
Examples:
  topspin bench gemm --architecture smollm2-135m --dtype bf16
  topspin bench generate --model M
  topspin bench generate --architecture smollm2-360m --sequences 16 --json
  topspin bench train --model M --pairs 4 --prompt-tokens 128 --response-tokens 128
  topspin bench train --model big.Q4_0.gguf --lora-rank 16 --weights stored --recompute
  topspin bench iteration --model M --data train.jsonl --prompts 64 --max-new-tokens 128
  topspin bench scaling --model M --out figures";

/// Measure speed and memory on this machine
///
/// Prints tokens/s, the floating-point operations that the architecture asks for and their rate, MFU, the largest memory
/// that the process held, and where the time went by operation. Rates are of the median repetition.
///
/// MFU is that rate over the one that the work's own matrix products reach, each alone, with its right operand packed
/// beforehand; they are timed in the same run, before and after the work, and the better counts. Beside it stands the
/// share of what one large product reaches.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    work: Work,
}

/// What is measured.
#[derive(Debug, Subcommand)]
enum Work {
    Gemm(gemm::Args),
    Train(train::Args),
    Generate(generate::Args),
    Iteration(iteration::Args),
    Scaling(scaling::Args),
}

/// Flags of all work on a model.
#[derive(Debug, clap::Args)]
struct Common {
    #[command(flatten)]
    tokens: TokenFlags,
    #[command(flatten)]
    subject: SubjectFlags,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// Measures and prints.
pub fn run(args: Args) -> anyhow::Result<()> {
    match args.work {
        Work::Gemm(args) => gemm::run(args),
        Work::Train(args) => train::run(args),
        Work::Generate(args) => generate::run(args),
        Work::Iteration(args) => iteration::run(args),
        Work::Scaling(args) => scaling::run(args),
    }
}
