//! `topspin data inspect`: what data files hold, and what a run would make of it.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::Serialize;
use topspin_data::{Columns, Dataset, Need, Options, Reason, Record, RecordShape, Source, Unusable};
use topspin_game::config::{Config, Turns, fetch};
use topspin_model::chat::Message;
use topspin_model::conversation::Conversation;
use topspin_model::source::ModelFiles;

use super::lengths::Lengths;
use super::rendering::{Example, Marks, Part};
use crate::flags::positive;
use crate::{engine, input, output};

const EXAMPLES: &str = "\
Examples:
  topspin data inspect train.jsonl
  topspin data inspect train.jsonl --model M --max-response-tokens 96
  topspin data inspect chats.jsonl --model M --turns all
  topspin data inspect 'data/*.parquet' extra.csv --column prompt=frage --column response=antwort
  topspin data inspect scraped.jsonl.gz --problems --json";

/// Say what data files hold, and what a run would refuse or cut
///
/// Counts, lengths, repetitions, records that cannot be used, and some records as they are rendered, with what is trained on
/// set off: in colour in a terminal, else between `{+` and `+}`. With a model, lengths are in its tokens and records look
/// as its chat template writes them; without one, lengths are in characters.
///
/// A file's name says its format: `.jsonl`, `.json`, `.csv`, `.tsv`, each also with `.gz` or `.zst` behind it, or `.parquet`;
/// any other is JSON lines. A name with `*`, `?` or `[` stands for all files that it matches.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Data files, or `hf:ORG/NAME` on the Hub; `-` is JSON lines on stdin
    #[arg(value_name = "FILE", required = true)]
    files: Vec<String>,
    /// A model whose tokenizer and chat template to use
    #[arg(short, long, value_name = "MODEL")]
    model: Option<String>,
    /// Longest response that is not cut [default: 256, that of `rollout.max_new_tokens`]
    #[arg(long, value_name = "N", value_parser = positive, requires = "model")]
    max_response_tokens: Option<usize>,
    /// Which of the assistant's turns are trained on, `last` or `all`, as `sft.turns` says it [default: last]
    #[arg(long, value_name = "WHICH", value_parser = turns, requires = "model")]
    turns: Option<Turns>,
    /// The records' shape, as `data.shape` names it
    #[arg(long, value_name = "SHAPE", value_parser = shape, default_value = "auto")]
    shape: RecordShape,
    /// The column that holds a field, as in `data.columns`; may be given many times
    #[arg(long = "column", value_name = "FIELD=NAME", value_parser = column)]
    columns: Vec<(String, String)>,
    /// Name each record that cannot be used, is repeated, or would be cut
    #[arg(long)]
    problems: bool,
    /// Records to show
    #[arg(long, value_name = "N", default_value_t = 3)]
    examples: usize,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

fn shape(text: &str) -> Result<RecordShape, String> {
    serde_json::from_value(text.into()).map_err(|e| e.to_string())
}

fn turns(text: &str) -> Result<Turns, String> {
    serde_json::from_value(text.into()).map_err(|e| e.to_string())
}

fn column(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((field, name)) if topspin_data::is_field(field) => Ok((field.into(), name.into())),
        Some((field, _)) => Err(format!("`{field}` is no field of a record, such as `prompt` or `response`")),
        None => Err("it must be FIELD=NAME".into()),
    }
}

/// What `--json` prints.
#[derive(Serialize)]
struct Findings {
    files: Vec<String>,
    records: usize,
    unusable: BTreeMap<Reason, usize>,
    duplicates: usize,
    different_prompts: usize,
    with_response: usize,
    with_rejected: usize,
    with_references: usize,
    with_system_message: usize,
    with_several_turns: usize,
    /// What lengths are counted in.
    unit: &'static str,
    prompt_lengths: Option<Lengths>,
    response_lengths: Option<Lengths>,
    /// Responses longer than `--max-response-tokens`.
    #[serde(skip_serializing_if = "Option::is_none")]
    cut: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problems: Option<Vec<Problem>>,
    examples: Vec<Example>,
}

/// A record that is not used as it stands.
#[derive(Serialize)]
struct Problem {
    place: String,
    kind: String,
    problem: String,
}

/// Looks and prints.
pub fn run(args: Args) -> anyhow::Result<()> {
    let sources = args.files.iter().map(Source::new).collect();
    let sources = engine::with_hub(|hub| fetch(sources, hub))?;
    let columns: Columns = args.columns.into_iter().collect();
    let options = Options { need: Need::Prompt, shape: args.shape, columns, tolerant: true };
    let dataset = topspin_data::read(&sources, &options)?;
    let mut measured = Measured { unusable: dataset.unusable.clone(), ..Measured::default() };
    match &args.model {
        Some(model) => {
            let files = engine::open(model)?;
            let view = View {
                files: &files,
                limit: args.max_response_tokens.unwrap_or(Config::default().rollout.max_new_tokens),
                turns: args.turns.unwrap_or_default(),
                shown: args.examples,
            };
            dataset.records.iter().for_each(|record| measured.tokens(record, &view));
        }
        None => dataset.records.iter().for_each(|record| measured.characters(record, args.examples)),
    }
    let findings = findings(args.files, &dataset, measured, args.model.is_some(), args.problems);
    if args.json { output::print_json(&findings) } else { output::print(|out| tell(out, &findings)) }
}

/// What records are looked at with.
struct View<'a> {
    files: &'a ModelFiles,
    /// Longest response.
    limit: usize,
    turns: Turns,
    /// Records to show.
    shown: usize,
}

/// What is found record by record.
#[derive(Default)]
struct Measured {
    prompts: Vec<usize>,
    responses: Vec<usize>,
    unusable: Vec<Unusable>,
    cut: Vec<Problem>,
    examples: Vec<Example>,
}

impl Measured {
    fn characters(&mut self, record: &Record, shown: usize) {
        self.prompts.push(record.messages.iter().map(|message| message.content.chars().count()).sum());
        self.responses.extend(record.response.as_ref().map(|text| text.chars().count()));
        if self.examples.len() < shown {
            self.examples.push(Example::plain(record));
        }
    }

    fn tokens(&mut self, record: &Record, view: &View) {
        if let Err((reason, problem)) = self.try_tokens(record, view) {
            self.unusable.push(Unusable { place: record.place.clone(), reason, problem });
        }
    }

    fn try_tokens(&mut self, record: &Record, view: &View) -> Result<(), (Reason, String)> {
        let context = view.files.config.max_positions;
        let Conversation { mut tokens, mut turns } = conversation(record, view)?;
        let response = turns.pop().map(|last| tokens.split_off(last.start));
        if tokens.len() >= context {
            let problem = format!("the prompt has {} tokens, and the model's context is {context}", tokens.len());
            return Err((Reason::TooLong, problem));
        }
        self.prompts.push(tokens.len());
        self.responses.extend(response.as_ref().map(Vec::len));
        let mut response = response.unwrap_or_default();
        let kept = response.len().min(view.limit).min(context - tokens.len());
        let cut = response.len() - kept;
        if cut > 0 {
            let problem = format!("the response has {} tokens and is cut to {kept}", response.len());
            self.cut.push(Problem { place: record.place.to_string(), kind: "cut".into(), problem });
        }
        if self.examples.len() < view.shown {
            response.truncate(kept);
            let text = |ids: &[u32]| view.files.dialect.tokenizer().decode(ids);
            let (mut parts, mut behind) = (Vec::new(), 0);
            for turn in turns {
                parts.extend([
                    Part::read(text(&tokens[behind..turn.start])),
                    Part::trained(text(&tokens[turn.clone()])),
                ]);
                behind = turn.end;
            }
            parts.extend([Part::read(text(&tokens[behind..])), Part::trained(text(&response))]);
            self.examples.push(Example { place: record.place.to_string(), parts, cut });
        }
        Ok(())
    }
}

/// A record as tokens, and what of it is trained on; nothing, where it has no response.
fn conversation(record: &Record, view: &View) -> Result<Conversation, (Reason, String)> {
    let dialect = &view.files.dialect;
    let mut messages = input::messages(record);
    let conversation = match (&record.response, view.turns) {
        (None, _) => dialect.encode_prompt(&messages).map(|tokens| Conversation { tokens, turns: Vec::new() }),
        (Some(text), Turns::Last) => dialect.encode_prompt(&messages).and_then(|mut tokens| {
            let start = tokens.len();
            tokens.extend(dialect.encode_response(text)?);
            let turn = start..tokens.len();
            Ok(Conversation { tokens, turns: vec![turn] })
        }),
        (Some(text), Turns::All) => {
            messages.push(Message::new("assistant", text));
            dialect.encode_conversation(&messages)
        }
    };
    conversation.map_err(|e| (Reason::Malformed, e.to_string()))
}

fn findings(files: Vec<String>, dataset: &Dataset, measured: Measured, in_tokens: bool, named: bool) -> Findings {
    let count = |is: fn(&Record) -> bool| dataset.records.iter().filter(|record| is(record)).count();
    let mut unusable = BTreeMap::new();
    measured.unusable.iter().for_each(|bad| *unusable.entry(bad.reason).or_default() += 1);
    let duplicates = dataset.duplicates();
    let cut = measured.cut.len();
    let problems = named.then(|| {
        let bad = measured.unusable.into_iter().map(|Unusable { place, reason, problem }| Problem {
            place: place.to_string(),
            kind: reason.to_string(),
            problem,
        });
        let repeated = duplicates.iter().map(|record| Problem {
            place: record.place.to_string(),
            kind: "duplicate".into(),
            problem: "it repeats an earlier record word for word".into(),
        });
        bad.chain(repeated).chain(measured.cut).collect()
    });
    Findings {
        files,
        records: dataset.len() + dataset.unusable.len(),
        unusable,
        duplicates: duplicates.len(),
        different_prompts: dataset.len() - dataset.repeated_prompts(),
        with_response: count(|record| record.response.as_ref().is_some_and(|text| !text.trim().is_empty())),
        with_rejected: count(|record| record.rejected.is_some()),
        with_references: count(|record| !record.references.is_empty()),
        with_system_message: count(|record| record.messages[0].role == "system"),
        with_several_turns: count(|record| record.messages.iter().filter(|m| m.role == "user").count() > 1),
        unit: if in_tokens { "tokens" } else { "characters" },
        prompt_lengths: Lengths::new(measured.prompts),
        response_lengths: Lengths::new(measured.responses),
        cut: in_tokens.then_some(cut),
        problems,
        examples: measured.examples,
    }
}

fn tell(out: &mut dyn Write, findings: &Findings) -> io::Result<()> {
    let mut line = |name: &str, value: String| writeln!(out, "{name:<22} {value}");
    line("files", findings.files.join(", "))?;
    line("records", findings.records.to_string())?;
    let reasons: Vec<_> = findings.unusable.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    line("unusable", if reasons.is_empty() { "0".into() } else { reasons.join(", ") })?;
    line("exact duplicates", findings.duplicates.to_string())?;
    line("different prompts", findings.different_prompts.to_string())?;
    line("with response", findings.with_response.to_string())?;
    line("with rejected", findings.with_rejected.to_string())?;
    line("with references", findings.with_references.to_string())?;
    line("with system message", findings.with_system_message.to_string())?;
    line("with several turns", findings.with_several_turns.to_string())?;
    if let Some(cut) = findings.cut {
        line("responses cut", cut.to_string())?;
    }
    let lengths = [("prompt", &findings.prompt_lengths), ("response", &findings.response_lengths)];
    for (name, lengths) in lengths {
        if let Some(lengths) = lengths {
            lengths.print(&format!("{name} {}", findings.unit), out)?;
        }
    }
    if let Some(problems) = &findings.problems {
        writeln!(out)?;
        for Problem { place, kind, problem } in problems {
            writeln!(out, "{place}: {kind}: {problem}")?;
        }
    }
    if !findings.examples.is_empty() {
        let marks = Marks::of_stdout();
        writeln!(out, "\nexamples ({})", marks.legend())?;
        for example in &findings.examples {
            writeln!(out, "\n{}\n{}", example.place, example.text(marks))?;
        }
    }
    Ok(())
}
