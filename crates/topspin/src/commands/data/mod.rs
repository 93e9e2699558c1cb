//! `topspin data`: what is in data files, before anything is trained on it.

mod inspect;
mod lengths;
mod rendering;

use clap::Subcommand;

const EXAMPLES: &str = "\
Examples:
  topspin data inspect train.jsonl
  topspin data inspect train.jsonl --model M
  topspin data inspect 'data/*.parquet' extra.csv --column prompt=frage --column response=antwort
  topspin data inspect scraped.jsonl.gz --problems --json";

/// Look at data before it is trained on
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    work: Work,
}

/// What is done with the data.
#[derive(Debug, Subcommand)]
enum Work {
    Inspect(inspect::Args),
}

/// Looks and prints.
pub fn run(args: Args) -> anyhow::Result<()> {
    match args.work {
        Work::Inspect(args) => inspect::run(args),
    }
}
