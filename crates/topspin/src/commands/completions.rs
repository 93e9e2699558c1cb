//! `topspin completions`: what a shell needs to complete commands and flags.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::Cli;
use crate::output;

const EXAMPLES: &str = "\
Examples:
  topspin completions bash > ~/.local/share/bash-completion/completions/topspin
  topspin completions zsh > \"${fpath[1]}/_topspin\"
  topspin completions fish > ~/.config/fish/completions/topspin.fish";

/// Print what a shell needs to complete commands and flags
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The shell
    shell: Shell,
}

/// Prints the script.
pub fn run(args: Args) -> anyhow::Result<()> {
    // Into memory first: clap_complete panics where it cannot write.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "topspin", &mut script);
    output::print(|out| out.write_all(&script))
}
