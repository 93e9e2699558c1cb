//! `topspin run`: the whole game.

use std::io::{IsTerminal, stderr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use topspin_game::config::{Config, PrecisionChoice};
use topspin_game::run::{Observer, RunError, Until};
use topspin_kernels::cpu::Cpu;
use tracing::{info, warn};

use crate::error::Interrupted;
use crate::exporter::{Exported, Exporter};
use crate::flags::Dtype;
use crate::interrupt::Graceful;
use crate::{engine, output, progress};

const EXAMPLES: &str = "\
Examples:
  topspin run configs/e2e-smollm2.toml --set data.train=train.jsonl --set data.test=test.jsonl
  topspin run my.toml --set game.beta=0.2 --set 'train.lr=[2e-6, 1e-6, 5e-7]'
  topspin inspect runs/my                                          How far is it?

The same command again goes on where the last one ended, in whatever way it ended. Ctrl-C finishes the step at hand and
saves; a second Ctrl-C ends the program at once.";

/// How often there is a line about progress where there are no bars.
const BETWEEN_LINES: Duration = Duration::from_secs(30);

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
    let mut listener = Exported { listener: Listener::new(), exporter };
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
pub struct Listener {
    bar: ProgressBar,
    stage: String,
    unit: &'static str,
    total: usize,
    shows_bars: bool,
    last_line: Instant,
}

impl Listener {
    /// Shows nothing yet.
    pub fn new() -> Self {
        Self {
            bar: ProgressBar::hidden(),
            stage: String::new(),
            unit: "",
            total: 0,
            shows_bars: stderr().is_terminal(),
            last_line: Instant::now(),
        }
    }
}

impl Observer for Listener {
    fn begin(&mut self, stage: &str, unit: &'static str, total: usize, done: usize) {
        self.bar.finish_and_clear();
        self.bar = progress::bar(unit, total);
        self.bar.set_position(done as u64);
        // Else the steps of an earlier call would count as done in no time.
        self.bar.reset_eta();
        (self.stage, self.unit, self.total, self.last_line) = (stage.into(), unit, total, Instant::now());
    }

    fn advance(&mut self, done: usize, note: &str) {
        self.bar.set_position(done as u64);
        self.bar.set_message(if note.is_empty() { String::new() } else { format!(" {note}") });
        if !self.shows_bars && self.last_line.elapsed() >= BETWEEN_LINES && done < self.total {
            let note = if note.is_empty() { String::new() } else { format!(", {note}") };
            info!("{}: {done} of {} {}{note}", self.stage, self.total, self.unit);
            self.last_line = Instant::now();
        }
    }

    fn end(&mut self) {
        self.bar.finish_and_clear();
    }

    fn say(&mut self, line: &str) {
        info!("{line}");
    }

    fn warn(&mut self, line: &str) {
        warn!("{line}");
    }
}
