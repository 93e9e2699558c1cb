//! `topspin lab`: self-play where everything can be computed.

mod figures;
mod network;
mod policy_step;
mod tables;

use std::path::Path;

use clap::Subcommand;
use serde::Serialize;

use crate::chart::Figure;

const EXAMPLES: &str = "\
Examples:
  topspin lab tables --beta 0.4,0.5,1,2
  topspin lab tables --objective all --beta 1 --iterations 6
  topspin lab tables --opponent latest,history,average --beta 0.45 --out opponents.svg
  topspin lab tables --objective linear --forward-kl 1
  topspin lab tables --samples 100 --steps 200 --json
  topspin lab policy-step --beta 0.5,2
  topspin lab network --beta 1
  topspin lab figures --out docs/figures";

/// Play the game where everything can be computed: on tables of probabilities, and with a tiny network
///
/// Objectives, additions and opponents are those of a run. docs/method.md says what theory expects of each; here it can be
/// seen, without a model and without data.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    work: Work,
}

/// What is played.
#[derive(Debug, Subcommand)]
enum Work {
    Tables(tables::Args),
    PolicyStep(policy_step::Args),
    Network(network::Args),
    Figures(figures::Args),
}

/// Plays and prints.
pub fn run(args: Args) -> anyhow::Result<()> {
    match args.work {
        Work::Tables(args) => tables::run(args),
        Work::PolicyStep(args) => policy_step::run(args),
        Work::Network(args) => network::run(args),
        Work::Figures(args) => figures::run(args),
    }
}

/// Divergences below this are drawn as this: rounding is not far below.
const FLOOR: f64 = 1e-10;

fn write(path: &Path, figure: &Figure) -> anyhow::Result<()> {
    Ok(topspin_files::write_atomic(path, |out| std::io::Write::write_all(out, figure.svg().as_bytes()))?)
}

/// The name that something has in configurations.
fn name(of: impl Serialize) -> String {
    serde_json::to_value(of).ok().and_then(|name| Some(name.as_str()?.to_owned())).unwrap_or_default()
}

/// Parses a number above 0.
fn positive(text: &str) -> Result<f64, String> {
    let inside = |x: &f64| x.is_finite() && *x > 0.0;
    text.parse().ok().filter(inside).ok_or_else(|| "it must be a number above 0".into())
}

/// Parses a number of 0 or more.
fn weight(text: &str) -> Result<f64, String> {
    let inside = |x: &f64| x.is_finite() && *x >= 0.0;
    text.parse().ok().filter(inside).ok_or_else(|| "it must be a number, 0 or above".into())
}
