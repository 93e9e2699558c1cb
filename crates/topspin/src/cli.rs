//! What can be typed: the commands and what `--help` says of the whole.

use clap::{Parser, Subcommand};

use crate::commands::{
    bench, chat, completions, data, eval, export, generate, inspect, lab, quickstart, report, run, score, sft, watch,
};
use crate::log::LogFlags;

/// Fine-tunes language models by self-play (SPIN): the model answers your prompts, then learns to prefer the answers in
/// your data over its own, and plays again from where it stands.
#[derive(Debug, Parser)]
#[command(name = "topspin", version, max_term_width = 100, after_help = EXAMPLES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// How much to say meanwhile.
    #[command(flatten)]
    pub log: LogFlags,
}

const EXAMPLES: &str = "\
Examples:
  topspin quickstart                                             See it at work in a minute
  topspin run game.toml --set data.train=train.jsonl             Play the game on your data
  topspin watch runs/game                                        See it while it is at work
  topspin report runs/game                                       Look at it: results, curves, answers
  topspin data inspect train.jsonl                               What is in this file?
  topspin generate --model M --input p.jsonl --output out.jsonl  An answer to each prompt
  topspin score --model M --input pairs.jsonl --output s.jsonl   How likely are these answers?
  topspin eval M --data test.jsonl                               How good is the model?
  topspin eval A B --data test.jsonl --task gsm8k                Which one is better, and is that more than noise?
  topspin chat --model M                                         Talk to it
  topspin export runs/game --output my-model                     Hand it on
  topspin lab tables --objective all                             What does theory say?

A model is a Hugging Face folder, a GGUF file, or `hf:ORG/NAME` from the Hugging Face Hub.
A data file is JSON lines, JSON, CSV, TSV or Parquet: `prompt` (or `messages`) and `response`.
`topspin COMMAND --help` explains a command's flags and their defaults.";

/// The commands; each says itself what it does.
#[derive(Debug, Subcommand)]
pub enum Command {
    Quickstart(quickstart::Args),
    Run(run::Args),
    Sft(sft::Args),
    Generate(generate::Args),
    Score(score::Args),
    Eval(eval::Args),
    Chat(chat::Args),
    Export(export::Args),
    Inspect(inspect::Args),
    Watch(watch::Args),
    Report(report::Args),
    Data(data::Args),
    Bench(bench::Args),
    Lab(lab::Args),
    Completions(completions::Args),
    /// Print docs/reference.md
    #[command(hide = true)]
    Reference,
}
