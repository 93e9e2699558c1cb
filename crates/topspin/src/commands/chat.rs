//! `topspin chat`: a conversation in the terminal.

use crate::flags::{ModelFlags, SamplingFlags};

const EXAMPLES: &str = "\
Examples:
  topspin chat --model M
  topspin chat --model M --system 'Answer in one sentence.' --temperature 0.7
  echo 'What is a top?' | topspin chat --model M --greedy";

/// Talk to a model in the terminal
///
/// Type a message and Enter. `/reset` forgets the conversation, `/quit` or Ctrl-D ends it, Ctrl-C ends the answer.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    model: ModelFlags,
    #[command(flatten)]
    sampling: SamplingFlags,
    /// Instructions that stand before the conversation
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
}

/// Talks until the input ends.
pub fn run(args: Args) -> anyhow::Result<()> {
    anyhow::bail!("not yet: {args:?}")
}
