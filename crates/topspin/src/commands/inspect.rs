//! `topspin inspect`: what a path is, as Topspin sees it.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::bail;
use serde::Serialize;
use serde_json::{Map, Value, json};
use topspin_game::config::{Config, ConfigError, Sources};
use topspin_game::run::{Manifest, State, Summary};
use topspin_model::adapter::AdapterFiles;

use crate::{engine, output};

const EXAMPLES: &str = "\
Examples:
  topspin inspect hf:HuggingFaceTB/SmolLM2-135M-Instruct
  topspin inspect configs/e2e-smollm2.toml
  topspin inspect runs/e2e-smollm2
  topspin data inspect train.jsonl                    Of data there is more to see";

/// Say what a model, a configuration or a run folder is
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// A model, a configuration (`.toml`), or a run folder
    #[arg(value_name = "PATH")]
    path: String,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// The fact about a run that stands in sentences below its table.
const TOLD_BELOW: &str = "guards";

/// Looks and prints.
pub fn run(args: Args) -> anyhow::Result<()> {
    let path = Path::new(&args.path);
    let (kind, (facts, text)) = match kind(&args.path)? {
        Kind::Model => ("model", (model(&args.path)?, String::new())),
        Kind::Configuration => ("configuration", configuration(path)?),
        Kind::Run => ("run", run_folder(path)?),
    };
    if args.json {
        let mut object = Map::from_iter([("kind".to_owned(), kind.into())]);
        object.extend(facts);
        return output::print_json(&object);
    }
    output::print(|out| {
        writeln!(out, "{:<22} {kind}", "kind")?;
        for (key, value) in facts.iter().filter(|(key, _)| *key != TOLD_BELOW) {
            writeln!(out, "{:<22} {}", key.replace('_', " "), plain(value))?;
        }
        if text.is_empty() { Ok(()) } else { write!(out, "\n{text}") }
    })
}

enum Kind {
    Model,
    Configuration,
    Run,
}

fn kind(spec: &str) -> anyhow::Result<Kind> {
    let path = Path::new(spec);
    if spec.starts_with("hf:") {
        return Ok(Kind::Model);
    }
    if path.is_dir() {
        return match () {
            () if path.join("manifest.json").exists() => Ok(Kind::Run),
            () if path.join("config.json").exists() || AdapterFiles::is_in(path) => Ok(Kind::Model),
            () => bail!("`{spec}` is neither a run (it has no `manifest.json`) nor a model (it has no `config.json`)"),
        };
    }
    Ok(match path.extension().and_then(|extension| extension.to_str()) {
        Some("gguf") => Kind::Model,
        Some("toml") => Kind::Configuration,
        _ => {
            topspin_files::open(path)?;
            bail!("`{spec}` is neither a model nor a configuration; `topspin data inspect {spec}` shows it as data")
        }
    })
}

/// The fields of a struct in their order.
fn fields(value: &impl Serialize) -> Map<String, Value> {
    match serde_json::to_value(value) {
        Ok(Value::Object(fields)) => fields,
        _ => unreachable!("what is described is a struct with plain keys"),
    }
}

fn model(spec: &str) -> anyhow::Result<Map<String, Value>> {
    Ok(fields(&engine::open(spec)?.describe()))
}

/// Facts about a configuration, and all of it with every default.
fn configuration(path: &Path) -> anyhow::Result<(Map<String, Value>, String)> {
    // What a file leaves to the command line must not hide what else is wrong with it.
    let mut missing = Vec::new();
    let mut config = loop {
        let placeholders: Vec<String> = missing.iter().map(|key| format!("{key}='?'")).collect();
        match Config::load(path, &placeholders) {
            Err(ConfigError::Missing { key }) => missing.push(key),
            result => break result?,
        }
    };
    let defaults: BTreeMap<_, _> = Config::default().entries().into_iter().collect();
    for key in &missing {
        match key.as_str() {
            "model.path" => config.model.path.clear(),
            "data.train" => config.data.train = Sources::default(),
            _ => {}
        }
    }
    let set = config.entries().into_iter().filter(|(key, value)| defaults[key] != *value);
    let facts = json!({
        "path": path,
        "still_to_be_set": missing,
        "other_than_default": set.map(|(key, value)| (key, json!(value))).collect::<Map<_, _>>(),
    });
    Ok((fields(&facts), config.to_toml()))
}

/// Facts about a run, and its table of results.
fn run_folder(dir: &Path) -> anyhow::Result<(Map<String, Value>, String)> {
    let manifest = Manifest::read(dir)?;
    let config_path = dir.join("config.toml");
    let config = Config::parse(&topspin_files::read_to_string(&config_path)?, &config_path, &[])?;
    let summary = Summary::read(dir)?;
    let told = summary.guards.iter().map(|(stage, fired)| {
        let mut told = Map::from_iter([("stage".to_owned(), json!(stage))]);
        told.extend(fields(fired));
        told
    });
    let told: Vec<_> = told.collect();
    let left = manifest.stages.iter().find(|stage| stage.state != State::Done);
    let next = left.filter(|_| !summary.is_over()).map(|stage| &stage.name);
    let done = manifest.stages.iter().filter(|stage| stage.state == State::Done).count();
    let facts = json!({
        "path": dir,
        "model": config.model.path,
        "data": config.data.train,
        "seed": manifest.seed,
        "stages_done": done,
        "stages": manifest.stages.len(),
        "next_stage": next,
        "best": summary.best().map(|row| &row.folder),
        TOLD_BELOW: told,
    });
    Ok((fields(&facts), summary.to_string()))
}

/// A value as a person reads it.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(", "),
        Value::Object(items) => {
            items.iter().map(|(key, value)| format!("{key} {}", plain(value))).collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    }
}
