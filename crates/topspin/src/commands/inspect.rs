//! `topspin inspect`: what a path is, as Topspin sees it.

const EXAMPLES: &str = "\
Examples:
  topspin inspect hf:HuggingFaceTB/SmolLM2-135M-Instruct
  topspin inspect train.jsonl
  topspin inspect configs/e2e-smollm2.toml
  topspin inspect runs/e2e-smollm2";

/// Say what a model, a data file, a configuration or a run folder is
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// A model, a data file, a configuration, or a run folder
    #[arg(value_name = "PATH")]
    path: String,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Looks and prints.
pub fn run(args: Args) -> anyhow::Result<()> {
    anyhow::bail!("not yet: {args:?}")
}
