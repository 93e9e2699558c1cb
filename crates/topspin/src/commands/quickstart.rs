//! `topspin quickstart`: a whole run that needs nothing.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;
use serde::Serialize;
use topspin_game::quickstart;
use topspin_game::run::{Generation, Observer, RunError, Summary, Until};
use topspin_kernels::cpu::Cpu;
use topspin_kernels::gemm::Precision;

use super::run::Listener;
use crate::error::Interrupted;
use crate::flags::Dtype;
use crate::interrupt::Graceful;
use crate::{engine, output};

const EXAMPLES: &str = "\
Examples:
  topspin quickstart
  topspin quickstart --seed 3 --output /tmp/game
  topspin quickstart --json > game.json

Afterwards the folder holds everything that a run leaves: samples, pairs, metrics, evaluations and models.
  topspin inspect runs/quickstart-0/run
  topspin chat --model runs/quickstart-0/run/best/model";

/// Test prompts whose sampled answers are shown after each stage: one of each kind.
const SHOWN: usize = 4;

/// See self-play at work in a minute: no download, no file, no settings
///
/// A small transformer knows its subject (Roman numerals, units, capitals, counting) but has bad habits of speech: "um, ",
/// "maybe ", " or so". It gets twelve clean examples. Supervised fine-tuning on twelve examples memorises them; self-play on
/// the same twelve, against the model's own answers, learns the habit itself. The table shows both side by side.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Seed of the questions, the model and every draw
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Folder of the run [default: runs/quickstart-SEED]
    #[arg(long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// Print the table as one JSON object
    #[arg(long)]
    pub json: bool,
}

/// One stage of the game.
#[derive(Debug, Serialize)]
struct StageResult {
    stage: &'static str,
    iteration: usize,
    /// The right mass: the exact probability that a sample at temperature 1 is right.
    sampled_accuracy: f64,
    greedy_accuracy: f64,
    kl: f64,
    #[serde(skip)]
    label: String,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Outcome {
    seed: u64,
    stages: Vec<StageResult>,
    /// Folder of the best iteration.
    best: String,
    seconds: f64,
}

/// Plays and prints the table.
pub fn run(args: Args) -> anyhow::Result<()> {
    let start = Instant::now();
    let dir = args.output.unwrap_or_else(|| PathBuf::from(format!("runs/quickstart-{}", args.seed)));
    // So small a model gains nothing from bf16.
    let precision = engine::prepare(Dtype::F32, None)?;
    let graceful = Graceful::begin();
    let played = play(&dir, args.seed, precision);
    drop(graceful);
    let summary = played?;
    let best = summary.best().map_or_else(String::new, |row| row.folder.clone());
    let stages = summary.rows.iter().map(stage_result).collect::<anyhow::Result<Vec<_>>>()?;
    let outcome = Outcome { seed: args.seed, stages, best, seconds: start.elapsed().as_secs_f64() };
    if args.json { output::print_json(&outcome) } else { output::print(|out| tell(out, &outcome, &summary.dir)) }
}

fn play(dir: &Path, seed: u64, precision: Precision) -> anyhow::Result<Summary> {
    let (device, stop) = (Cpu::new(), Graceful::requested());
    let config = quickstart::config(dir, seed);
    let mut audience = Audience { listener: Listener::default(), run: PathBuf::from(&config.output.dir) };
    match quickstart::prepare(&device, dir, seed, &mut audience, stop) {
        Err(stopped @ quickstart::QuickstartError::Stopped) => return Err(Interrupted(stopped.to_string()).into()),
        prepared => prepared?,
    }
    match topspin_game::run::run(&device, precision, &config, Until::End, &mut audience, stop) {
        Err(stopped @ RunError::Stopped { .. }) => Err(Interrupted(stopped.to_string()).into()),
        summary => Ok(summary?),
    }
}

/// Shows a run's progress, and after each stage what its model says.
struct Audience {
    listener: Listener,
    run: PathBuf,
}

impl Observer for Audience {
    fn begin(&mut self, stage: &str, unit: &'static str, total: usize, done: usize) {
        if let Some(folder) = stage.strip_suffix("/eval") {
            // Its samples are there by now.
            self.show_samples(folder);
        }
        self.listener.begin(stage, unit, total, done);
    }

    fn advance(&mut self, done: usize, note: &str) {
        self.listener.advance(done, note);
    }

    fn end(&mut self) {
        self.listener.end();
    }

    fn say(&mut self, line: &str) {
        self.listener.say(line);
    }

    fn warn(&mut self, line: &str) {
        self.listener.warn(line);
    }
}

impl Audience {
    fn show_samples(&mut self, folder: &str) {
        let Ok(text) = fs::read_to_string(self.run.join(folder).join("sampled.jsonl")) else { return };
        for line in text.lines().take(SHOWN) {
            let Ok(Generation { prompt: Some(prompt), references, response, .. }) = serde_json::from_str(line) else {
                continue;
            };
            let mark = if references.contains(&response) { '+' } else { '-' };
            self.listener.say(&format!("  {mark} {prompt:<16} {response}"));
        }
    }
}

fn stage_result(row: &topspin_game::run::Row) -> anyhow::Result<StageResult> {
    let figure = |name: &str| {
        let figure = row.report.figures.get(name);
        figure.map(|figure| figure.value).with_context(|| format!("`{}/eval.json` has no figure `{name}`", row.folder))
    };
    let number = |folder: &str| folder.rsplit('-').next().and_then(|number| number.parse().ok()).unwrap_or(0);
    let iteration = number(&row.folder);
    let (stage, label) = match (row.folder.split('-').next(), iteration) {
        (Some("base"), _) => ("base", "base".into()),
        (Some("control"), n) => {
            let control = &quickstart::config(Path::new(""), 0).sft.controls[n - 1];
            ("control", format!("control, {} epochs at {:e}", control.epochs, control.lr))
        }
        (_, 0) => ("sft", "supervised, 12 examples".into()),
        (_, k) => ("spin", format!("self-play {k}")),
    };
    Ok(StageResult {
        stage,
        iteration,
        sampled_accuracy: figure("nll.probability")?,
        greedy_accuracy: figure("greedy.exact_match")?,
        kl: figure("nll.per_response")?,
        label,
    })
}

fn tell(out: &mut dyn Write, outcome: &Outcome, run: &Path) -> std::io::Result<()> {
    writeln!(out, "{:<28}{:>11}{:>9}{:>8}", "stage", "right mass", "greedy", "KL")?;
    for stage in &outcome.stages {
        let StageResult { label, sampled_accuracy, greedy_accuracy, kl, .. } = stage;
        writeln!(out, "{label:<28}{sampled_accuracy:>11.3}{greedy_accuracy:>9.3}{kl:>8.3}")?;
    }
    writeln!(out, "\n{}", meaning(&outcome.stages))?;
    let run = run.display();
    writeln!(out, "\nThe run is in `{run}`, its best model in `{run}/best/model` ({}).", outcome.best)?;
    writeln!(out, "Next: `topspin chat --model {run}/best/model`, or your own model and data: `topspin run --help`.")
}

/// What the table says, in two sentences.
fn meaning(stages: &[StageResult]) -> String {
    let controls = || stages.iter().filter(|stage| stage.stage == "control");
    let Some(last) = stages.iter().rfind(|stage| stage.stage == "spin") else { return String::new() };
    let most = |of: fn(&StageResult) -> f64| controls().map(of).fold(0.0, f64::max);
    let (mass, greedy) = (most(|stage| stage.sampled_accuracy), most(|stage| stage.greedy_accuracy));
    let ahead = last.sampled_accuracy > mass && last.greedy_accuracy > greedy;
    let first = format!(
        "Self-play on twelve examples ends with {:.0}% of samples right, the better of two supervised controls on the same \
         twelve with {:.0}% (greedy {:.0}% and {:.0}%){}.",
        100.0 * last.sampled_accuracy,
        100.0 * mass,
        100.0 * last.greedy_accuracy,
        100.0 * greedy,
        if ahead { "" } else { ": with this seed it is not ahead in both" },
    );
    format!(
        "{first} The advantage is that of few demonstrations: with hundreds of examples supervised training draws level, so \
         keep a control in your own runs."
    )
}
