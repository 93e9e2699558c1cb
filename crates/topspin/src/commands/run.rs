//! `topspin run`: the whole game.

use std::path::PathBuf;

use topspin_game::config::{Config, PrecisionChoice};
use topspin_game::run::{Observer, RunError, Until};
use topspin_kernels::cpu::Cpu;
use tracing::{info, warn};

use crate::error::Interrupted;
use crate::exporter::{Exported, Exporter};
use crate::flags::Dtype;
use crate::interrupt::Graceful;
use crate::progress::Bar;
use crate::{engine, output};

const EXAMPLES: &str = "\
Examples:
  topspin run configs/e2e-smollm2.toml --set data.train=train.jsonl --set data.test=test.jsonl
  topspin run my.toml --set game.beta=0.2 --set 'train.lr=[2e-6, 1e-6, 5e-7]'
  topspin watch runs/my                                            See it at work

The same command again goes on where the last one ended, in whatever way it ended. Ctrl-C finishes the step at hand and
saves; a second Ctrl-C ends the program at once.";

/// Play the whole game: supervised warm-up, self-play iterations, evaluation
///
/// A run goes to a folder of its own, `runs/` and the configuration's name unless `output.dir` says otherwise: the resolved
/// configuration, a manifest, and a folder for each iteration with its samples, pairs, metrics, evaluation and model. At the
/// end stands a table of all stages; the link `best` in the folder names the best model.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The configuration, a TOML file; `topspin inspect` shows it with every default
    pub config: PathBuf,
    /// Override a setting; may be given many times
    #[arg(long = "set", value_name = "TABLE.KEY=VALUE")]
    pub sets: Vec<String>,
}

/// Plays and prints the table.
pub fn run(args: Args) -> anyhow::Result<()> {
    play(args, Until::End)
}

/// Plays as far as `until` and prints the table.
pub fn play(args: Args, until: Until) -> anyhow::Result<()> {
    let config = Config::load(&args.config, &args.sets)?;
    let output = &config.output;
    let exporter = output.prometheus.0.map(Exporter::listen).transpose()?;
    let dtype = match output.precision {
        PrecisionChoice::Auto => Dtype::Auto,
        PrecisionChoice::F32 => Dtype::F32,
        PrecisionChoice::Bf16 => Dtype::Bf16,
    };
    let precision = engine::prepare(dtype, Some(output.threads).filter(|&threads| threads > 0))?;
    let graceful = Graceful::begin();
    let mut listener = Exported { listener: Listener::default(), exporter };
    let stop = Graceful::requested();
    let played = topspin_game::run::run(&Cpu::new(), precision, &config, until, &mut listener, stop);
    match played {
        Ok(summary) => {
            output::print(|out| write!(out, "{summary}"))?;
            graceful.last();
            Ok(())
        }
        Err(stopped @ RunError::Stopped { .. }) => Err(Interrupted(stopped.to_string()).into()),
        Err(error) => Err(error.into()),
    }
}

/// Shows a run: bars in a terminal, else a line now and then.
#[derive(Default)]
pub struct Listener {
    bar: Option<Bar>,
}

impl Observer for Listener {
    fn begin(&mut self, stage: &str, unit: &'static str, total: usize, done: usize) {
        // The old one goes before the new one comes.
        self.bar = None;
        self.bar = Some(Bar::begin(stage, unit, total, done));
    }

    fn advance(&mut self, done: usize, note: &str) {
        if let Some(bar) = &mut self.bar {
            bar.advance(done, note);
        }
    }

    fn end(&mut self) {
        self.bar = None;
    }

    fn say(&mut self, line: &str) {
        info!("{line}");
    }

    fn warn(&mut self, line: &str) {
        warn!("{line}");
    }
}
