//! `topspin sft`: the supervised part of a run alone.

use topspin_game::run::Until;

use super::run::{Args as RunArgs, play};

const EXAMPLES: &str = "\
Examples:
  topspin sft my.toml
  topspin sft my.toml --set sft.epochs=2 --set output.dir=runs/two-epochs
  topspin run my.toml                                              Go on with self-play from there";

/// Fine-tune on the good responses and evaluate: the supervised part of a run
///
/// It is the beginning of `topspin run` with the same configuration and the same folder, which goes on from there: the
/// supervised model, and the controls that `sft.controls` asks for.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    run: RunArgs,
}

/// Trains and prints the table.
pub fn run(args: Args) -> anyhow::Result<()> {
    play(args.run, Until::Supervised)
}
