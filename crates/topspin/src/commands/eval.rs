//! `topspin eval`: a model measured on held-out pairs.

use std::path::{Path, PathBuf};

use serde::Serialize;
use topspin_data::Need;
use topspin_eval::{Bootstrap, Lengths, Nll, NllFigures, Report, distinct_n, exact_match, share};
use topspin_model::source::ModelFiles;
use topspin_rollout::{Completion, Finish, Sampling};

use crate::engine::Model;
use crate::flags::{ModelFlags, positive, temperature};
use crate::generation::{self, Generated, Plan};
use crate::input::{self, Line};
use crate::{engine, output, scoring};

const EXAMPLES: &str = "\
Examples:
  topspin eval --model M --data test.jsonl
  topspin eval --model M --data test.jsonl --limit 100 --json
  topspin eval --model M --data test.jsonl --temperature 1 --output answers.jsonl";

/// Measure a model on held-out pairs: likelihood, exact matches, diversity, lengths
///
/// `nll` is the negative log-likelihood of the file's responses in nats; where a record has `references` and no response,
/// that of all its references. The other figures are those of the answers that the model gives to the same prompts,
/// greedy unless `--temperature` is given: the share that is a response or reference of the file word for word
/// (`exact_match`), distinct runs of n words over all such runs (`distinct_n`), lengths in tokens, and how answers ended.
/// Intervals hold the figure with 95% confidence over other prompts of the same kind (bootstrap; Wilson for shares).
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    model: ModelFlags,
    /// Records with a prompt, and a response or `references`: JSON lines, or what else the name ends with
    ///
    /// `.json`, `.csv`, `.tsv` and `.parquet` are read too, and `.gz` and `.zst` behind all but the last.
    #[arg(short, long, value_name = "FILE", help_heading = "Files")]
    data: PathBuf,
    /// Also write the answers here, as `topspin generate` does
    #[arg(short, long, value_name = "FILE", help_heading = "Files")]
    output: Option<PathBuf>,
    /// Use only the first N records [default: all]
    #[arg(long, value_name = "N", value_parser = positive, help_heading = "Files")]
    limit: Option<usize>,
    /// Sample the answers at this temperature [default: greedy]
    ///
    /// Greedy answers are what a model is usually asked for, and the same at every seed.
    #[arg(long, value_name = "T", default_value_t = 0.0, hide_default_value = true, value_parser = temperature, help_heading = "Sampling")]
    temperature: f64,
    /// Longest answer, its end-of-turn token included
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = positive, help_heading = "Sampling")]
    max_new_tokens: usize,
    /// Seed of the random numbers
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Sampling")]
    seed: u64,
    /// Most answers generated side by side
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = positive, help_heading = "Computation")]
    live: usize,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Evaluation<'a> {
    model: &'a str,
    data: &'a Path,
    records: usize,
    #[serde(flatten)]
    report: Report,
}

/// Measures and prints.
pub fn run(args: Args) -> anyhow::Result<()> {
    args.output.iter().try_for_each(|path| output::check(path))?;
    let files = engine::open(&args.model.model)?;
    let lines = input::read(&args.data, Need::Prompt, args.limit, &files.dialect)?;
    let real = lines.iter().map(|line| encode(line, &files)).collect::<anyhow::Result<Vec<_>>>()?;
    let model = Model::load(files, &args.model)?;
    let mut report = Report::new(Bootstrap::default());
    likelihood(&model, &lines, &real, &mut report)?;
    let plan = Plan {
        sampling: Sampling { temperature: args.temperature, ..Sampling::default() },
        max_new_tokens: args.max_new_tokens,
        samples: 1,
        live: args.live,
        seed: args.seed,
    };
    let completions = generation::generate(&model, &lines, &plan)?;
    lengths(&real, &completions, &mut report)?;
    let answers: Vec<Generated> = lines
        .iter()
        .zip(completions)
        .map(|(line, completion)| Generated::new(line, completion, None, &model.files.dialect))
        .collect();
    read(&lines, &answers, &mut report)?;
    if let Some(path) = &args.output {
        output::write_jsonl(path, &answers)?;
    }
    if args.json {
        let (model, records) = (args.model.model.as_str(), lines.len());
        return output::print_json(&Evaluation { model, data: &args.data, records, report });
    }
    print_table(&report)
}

/// The texts that are good answers to a line: its response, or else its references.
fn targets(line: &Line) -> Vec<&str> {
    match &line.record.response {
        Some(response) => vec![response],
        None => line.record.references.iter().map(String::as_str).collect(),
    }
}

/// The tokens of each of them.
fn encode(line: &Line, files: &ModelFiles) -> anyhow::Result<Vec<Vec<u32>>> {
    let texts = targets(line);
    if texts.is_empty() {
        return Err(line.no_response());
    }
    texts.into_iter().map(|text| line.encode(&files.dialect, files.config.max_positions, text)).collect()
}

/// Adds the likelihood of the file's responses.
fn likelihood(model: &Model, lines: &[Line], real: &[Vec<Vec<u32>>], report: &mut Report) -> anyhow::Result<()> {
    let trees = lines.iter().zip(real).map(|(line, texts)| line.tree(texts.iter().map(Vec::as_slice).collect()));
    let logprobs = scoring::score_all(model, &trees.collect::<Vec<_>>())?;
    // The responses to one prompt are not independent: they are one unit of the intervals.
    let unit = |of_prompt: &Vec<Vec<f32>>| {
        let all = || of_prompt.iter().flatten().copied().map(f64::from);
        Nll { nats: -all().sum::<f64>(), tokens: all().count() }
    };
    let units: Vec<Nll> = logprobs.iter().map(unit).collect();
    let nll = NllFigures::new(&units, &report.bootstrap)?;
    report.add("nll.per_token", nll.per_token);
    report.add("nll.perplexity", nll.perplexity);
    Ok(())
}

/// Adds lengths and ends.
fn lengths(real: &[Vec<Vec<u32>>], completions: &[Completion], report: &mut Report) -> anyhow::Result<()> {
    let real: Vec<usize> = real.iter().flatten().map(Vec::len).collect();
    let generated: Vec<usize> = completions.iter().map(|completion| completion.token_ids.len()).collect();
    report.add_lengths("tokens.real", &Lengths::new(&real, &report.bootstrap)?);
    report.add_lengths("tokens.generated", &Lengths::new(&generated, &report.bootstrap)?);
    let stopped = completions.iter().filter(|completion| completion.finish == Finish::Stop).count();
    report.add("finish_reason.stop", share(stopped, completions.len())?);
    Ok(())
}

/// Adds what can be read off the answers.
fn read(lines: &[Line], answers: &[Generated], report: &mut Report) -> anyhow::Result<()> {
    let texts: Vec<&str> = answers.iter().map(|answer| answer.response.as_str()).collect();
    let is_match =
        |(line, text): &(&Line, &&str)| exact_match(text, &targets(line)) || exact_match(text, &line.record.references);
    let matches = lines.iter().zip(&texts).filter(is_match).count();
    report.add("exact_match", share(matches, lines.len())?);
    for n in 1..=3 {
        // Answers of fewer words have no such figure.
        if let Ok(figure) = distinct_n(&texts, n) {
            report.add(format!("distinct_{n}"), figure);
        }
    }
    Ok(())
}

fn print_table(report: &Report) -> anyhow::Result<()> {
    output::print(|out| {
        writeln!(out, "{:<24} {:>9}  {:<22} {:>6}", "", "value", "95% interval", "n")?;
        for (name, figure) in &report.figures {
            let interval = match (figure.low, figure.high) {
                (Some(low), Some(high)) => format!("{} .. {}", short(low), short(high)),
                _ => String::new(),
            };
            writeln!(out, "{name:<24} {:>9}  {interval:<22} {:>6}", short(figure.value), figure.n)?;
        }
        Ok(())
    })
}

/// Four significant digits or so.
fn short(value: f64) -> String {
    let digits = if value.abs() >= 100.0 {
        1
    } else if value.abs() >= 10.0 {
        2
    } else {
        4
    };
    format!("{value:.digits$}")
}
