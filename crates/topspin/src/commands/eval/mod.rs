//! `topspin eval`: models measured by tasks.

mod answer;
mod candidates;
mod docs;
mod results;
mod table;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;

use anyhow::{bail, ensure};
use serde::Serialize;
use topspin_eval::task::{self, Comparison, Measured, OutputType, PRESETS, Task, TaskSettings};
use topspin_eval::{Bootstrap, Figure};

use self::answer::{Answering, Asked};
use self::candidates::Candidate;
use self::docs::Docs;
use self::results::Folder;
use crate::engine::{self, Model};
use crate::flags::{ComputeFlags, positive, temperature};
use crate::output;

const EXAMPLES: &str = "\
Examples:
  topspin eval M --data test.jsonl                          How likely are the responses, and how good the answers?
  topspin eval M --data test.jsonl --task translation --json
  topspin eval A B --data test.jsonl --task gsm8k --limit 200 --output results     Two models
  topspin eval runs/game --data test.jsonl --task discrimination                   All models of a run
  topspin eval M --tasks tasks.toml --temperature 0 --temperature 1
  topspin eval A B --data test.jsonl --scorer 'python3 scorer.py'                  Which one wins?";

/// The tasks where none is named.
const DEFAULT: [&str; 2] = ["nll", "exact_match"];

/// Measure models by tasks: likelihood, matches, choices, overlap with references, your own scorer
///
/// A task is one that goes by name, or a table of a TOML file. Every figure has an interval that holds it with 95% confidence over
/// other prompts of the same kind. Several models are compared with the first one, and those of a run, which stands for all models
/// that it has finished, with its supervised one, on the same prompts: a difference whose interval holds 0 is within noise.
/// docs/evaluation.md says what is measured and how; without a task it is the likelihood of the responses, and exact matches of
/// greedy answers.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Models or runs: the folder of a run or of a stage of it, a Hugging Face folder, an adapter's folder, a GGUF file, or `hf:ORG/NAME`
    #[arg(value_name = "RUN|MODEL", required_unless_present = "model")]
    models: Vec<String>,
    /// A further one, as other commands have it; may be given many times
    #[arg(short, long, value_name = "RUN|MODEL", help_heading = "Model")]
    model: Vec<String>,
    /// The model that `discrimination` takes the log-ratio to, and whose samples are told from the data's responses [default: of a run the stage before]
    #[arg(long, value_name = "MODEL", help_heading = "Model")]
    reference: Option<String>,
    #[command(flatten)]
    compute: ComputeFlags,
    /// A task by name; may be given many times
    #[arg(short, long, value_name = "NAME", long_help = task_help(), help_heading = "Tasks")]
    task: Vec<String>,
    /// A file of tasks, each a `[[task]]` table
    #[arg(long, value_name = "FILE", help_heading = "Tasks")]
    tasks: Option<PathBuf>,
    /// Records with a prompt, and a response, `references` or choices, of all tasks that name none: JSON lines, or what else the name ends with
    ///
    /// `.json`, `.csv`, `.tsv` and `.parquet` are read too, and `.gz` and `.zst` behind all but the last.
    #[arg(short, long, value_name = "FILE", help_heading = "Tasks")]
    data: Option<PathBuf>,
    /// Use only the first N records [default: the task's, which is all if it says nothing]
    #[arg(long, value_name = "N", value_parser = positive, help_heading = "Tasks")]
    limit: Option<usize>,
    /// Also have this command score the answers; its words are parted by spaces
    ///
    /// It reads an answer a line, as JSON, and prints a number or an object of numbers for each.
    #[arg(long, value_name = "COMMAND", help_heading = "Tasks")]
    scorer: Option<String>,
    /// A figure of the scorer of which the lower one is better, and wins; may be given many times
    #[arg(long, value_name = "FIGURE", help_heading = "Tasks")]
    lower_is_better: Vec<String>,
    /// Longest silence of the scorer, after which it is ended [default: the task's, which is 600 if it says nothing]
    #[arg(long, value_name = "SECONDS", value_parser = positive, help_heading = "Tasks")]
    timeout: Option<usize>,
    /// Sample the answers at this temperature, 0 being greedy; may be given many times [default: the task's, which is 0 if it says nothing]
    #[arg(long, value_name = "T", value_parser = temperature, help_heading = "Sampling")]
    temperature: Vec<f64>,
    /// Samples of each prompt, whose mean is measured [default: the task's, which is 1 if it says nothing]
    #[arg(long, value_name = "S", value_parser = positive, help_heading = "Sampling")]
    samples: Option<usize>,
    /// Longest answer, its end-of-turn token included [default: the task's, which is 256 if it says nothing]
    #[arg(long, value_name = "N", value_parser = positive, help_heading = "Sampling")]
    max_new_tokens: Option<usize>,
    /// Seed of the random numbers
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Sampling")]
    seed: u64,
    /// Most answers generated side by side
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = positive, help_heading = "Computation")]
    live: usize,
    /// Write results and samples of each model into this folder, in the layout of lm-evaluation-harness
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Print one JSON object instead of tables
    #[arg(long)]
    json: bool,
}

/// The tasks that go by name.
fn task_help() -> String {
    let told = task::presets()
        .into_iter()
        .map(|TaskSettings { name, description, .. }| format!("\n\n- `{name}`: {description}"));
    format!("A task by name; may be given many times{}", told.collect::<String>())
}

/// Prints the tasks that go by name as a chapter of the reference.
pub fn chapter() -> String {
    format!("\nThe tasks that go by name:\n\n```toml\n{PRESETS}```\n")
}

/// What `--json` prints.
#[derive(Serialize)]
struct Evaluation<'a> {
    bootstrap: Bootstrap,
    models: Vec<OfModel<'a>>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    notes: &'a [String],
}

#[derive(Serialize)]
struct OfModel<'a> {
    model: &'a str,
    tasks: BTreeMap<&'a str, OfTask<'a>>,
}

#[derive(Serialize)]
struct OfTask<'a> {
    data: &'a str,
    records: usize,
    figures: &'a BTreeMap<String, Figure>,
    /// Each figure against that of another model.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    against: BTreeMap<String, Against<'a>>,
}

/// A figure against that of another model.
#[derive(Clone, Serialize)]
struct Against<'a> {
    /// The other one.
    model: &'a str,
    #[serde(flatten)]
    comparison: Comparison,
}

/// Measures and prints.
pub fn run(args: Args) -> anyhow::Result<()> {
    let tasks = tasks(&args)?;
    let folder = args.output.as_deref().map(Folder::new).transpose()?;
    let is_told_apart = tasks.iter().any(|task| task.settings.output_type == OutputType::Discrimination);
    if args.reference.is_some() && !is_told_apart {
        bail!(
            "`--reference` is for the task `discrimination`, and there is none; add `--task discrimination`, or leave it out"
        );
    }
    let specs: Vec<_> = args.models.iter().chain(&args.model).cloned().collect();
    let candidates = candidates::find(&specs, args.reference.as_deref())?;
    let all_docs = docs::read_all(&tasks)?;
    for candidate in &candidates {
        // Made again when it is asked: of many models, the tokens of one are kept.
        for (task, docs) in tasks.iter().zip(&all_docs).filter(|(task, _)| candidate.is_asked(task)) {
            Asked::new(task, docs, &candidate.files)?;
        }
    }
    if is_told_apart {
        candidates::check_tokenizers(&candidates)?;
    }

    let precision = engine::prepare(args.compute.dtype, args.compute.threads)?;
    let mut measured: Vec<Vec<Option<Measured>>> = candidates.iter().map(|_| Vec::new()).collect();
    for at in candidates::order(&candidates) {
        let candidate = &candidates[at];
        let model = Model::read(candidate.files.clone(), &candidate.name, precision, args.compute.weights)?;
        let mut answering = Answering::new(&model, &candidate.name, args.seed, args.live);
        let mut samples = Vec::new();
        for (number, (task, docs)) in tasks.iter().zip(&all_docs).enumerate() {
            if !candidate.is_asked(task) {
                measured[at].push(None);
                continue;
            }
            let before = candidate.before.and_then(|before| Some(&measured[before][number].as_ref()?.records[..]));
            let asked = Asked::new(task, docs, &candidate.files)?;
            let (of_task, said) = answering.measure(task, docs, &asked, before)?;
            measured[at].push(Some(of_task));
            samples.push(said);
        }
        if let (Some(folder), true) = (&folder, candidate.shown) {
            let all: Vec<_> = measured[at].iter().flatten().collect();
            folder.write(&candidate.name, args.seed, &tasks, &all_docs, &all, samples)?;
        }
    }
    tell(&args, &tasks, &all_docs, &candidates, &measured)
}

/// The tasks that are asked for, with the flags that stand above their settings.
fn tasks(args: &Args) -> anyhow::Result<Vec<Task>> {
    let of_file = args.tasks.as_deref().map(task::read).transpose()?.unwrap_or_default();
    let names: Vec<&str> = match (&args.task[..], &of_file[..]) {
        ([], []) => DEFAULT.to_vec(),
        (names, _) => names.iter().map(String::as_str).collect(),
    };
    let adjust = |settings: &mut TaskSettings| {
        if let Some(data) = args.data.as_ref().filter(|_| settings.data.is_empty()) {
            settings.data = data.display().to_string();
        }
        settings.limit = args.limit.unwrap_or(settings.limit);
        settings.max_new_tokens = args.max_new_tokens.unwrap_or(settings.max_new_tokens);
        if settings.output_type == OutputType::GenerateUntil {
            if !args.temperature.is_empty() {
                settings.temperatures.clone_from(&args.temperature);
            }
            if let Some(command) = &args.scorer {
                settings.scorer = command.split_whitespace().map(String::from).collect();
            }
            settings.lower_is_better.extend(args.lower_is_better.iter().cloned());
            settings.samples = args.samples.unwrap_or(settings.samples);
            settings.timeout = args.timeout.unwrap_or(settings.timeout);
        }
    };
    let tasks = task::with_names(&names, of_file, adjust)?;
    if let Some(task) = tasks.iter().find(|task| task.settings.data.is_empty()) {
        bail!("the task `{}` has no data; name a file with `--data`, or in the task's `data`", task.name);
    }
    if args.scorer.is_some() && !tasks.iter().any(|task| task.settings.output_type == OutputType::GenerateUntil) {
        bail!("`--scorer` scores answers, and none of the tasks has any; add one such as `--task exact_match`");
    }
    let is_empty = args.scorer.as_ref().is_some_and(|command| command.trim().is_empty());
    ensure!(!is_empty, "`--scorer` is empty; name a command, or leave it out");
    Ok(tasks)
}

/// Prints what came out.
fn tell(
    args: &Args,
    tasks: &[Task],
    all_docs: &[Rc<Docs>],
    candidates: &[Candidate],
    measured: &[Vec<Option<Measured>>],
) -> anyhow::Result<()> {
    let shown: Vec<usize> = (0..candidates.len()).filter(|&at| candidates[at].shown).collect();
    let compared = candidates::compared(candidates);
    let of = |at: usize, task: usize| measured[at][task].as_ref().expect("what is shown is measured by all tasks");
    // What lacks a figure, as a model without one before it lacks the log-ratio, gives way to the next.
    let against = |at: usize, task: usize| {
        let mut all = BTreeMap::new();
        for figure in of(at, task).report.figures.keys() {
            let has_figure = |other: &&usize| of(**other, task).report.figures.contains_key(figure);
            let other = *compared.iter().find(has_figure).expect("it has it itself");
            if other != at
                && let Some(comparison) = task::compare(&tasks[task], of(other, task), of(at, task), figure)?
            {
                all.insert(figure.clone(), Against { model: &candidates[other].name, comparison });
            }
        }
        anyhow::Ok(all)
    };
    let mut comparisons = Vec::new();
    for &at in &shown {
        comparisons.push((0..tasks.len()).map(|task| against(at, task)).collect::<Result<Vec<_>, _>>()?);
    }
    let notes = notes(tasks, candidates);
    if !args.json {
        // Of one run the stages say it all.
        let run = candidates[shown[0]].run.as_ref();
        let run = run.filter(|_| shown.iter().all(|&at| candidates[at].run.as_ref() == run));
        let other = if run.is_some() { candidates[compared[0]].short_name() } else { "the first" };
        let name = |at: usize| if run.is_some() { candidates[at].short_name() } else { &candidates[at].name };
        let rows = |task: usize| {
            let row = |(place, &at): (usize, &usize)| table::Row {
                model: name(at),
                figures: &of(at, task).report.figures,
                against: &comparisons[place][task],
            };
            shown.iter().enumerate().map(row).collect::<Vec<_>>()
        };
        return output::print(|out| {
            if let Some(run) = run {
                writeln!(out, "models of `{run}`\n")?;
            }
            for (number, (task, docs)) in tasks.iter().zip(all_docs).enumerate() {
                writeln!(out, "{}{}", if number == 0 { "" } else { "\n" }, table::heading(task, docs))?;
                table::write(&rows(number), other, out)?;
            }
            notes.iter().try_for_each(|note| writeln!(out, "\n{note}"))
        });
    }
    let mut models = Vec::new();
    for (&at, comparisons) in shown.iter().zip(comparisons) {
        let of_task = |(number, against): (usize, _)| {
            let task: &Task = &tasks[number];
            let (data, records) = (&*task.settings.data, all_docs[number].all.len());
            (&*task.name, OfTask { data, records, figures: &of(at, number).report.figures, against })
        };
        let tasks = comparisons.into_iter().enumerate().map(of_task).collect();
        models.push(OfModel { model: &candidates[at].name, tasks });
    }
    output::print_json(&Evaluation { bootstrap: Bootstrap::default(), models, notes: &notes })
}

/// What is to be said beside the figures.
fn notes(tasks: &[Task], candidates: &[Candidate]) -> Vec<String> {
    let alone: Vec<_> = candidates.iter().filter(|candidate| candidate.shown && candidate.before.is_none()).collect();
    let is_told_apart = tasks.iter().any(|task| task.settings.output_type == OutputType::Discrimination);
    let note = |candidate: &&Candidate| {
        format!(
            "`{}`: its own samples are told from the real responses by length alone, as the log-ratio needs a reference model \
             (`--reference`)",
            candidate.name
        )
    };
    if is_told_apart { alone.iter().map(note).collect() } else { Vec::new() }
}
