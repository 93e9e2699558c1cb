//! The texts behind tokens and ids: the run's tokenizer, and the records that it plays on.
//!
//! Both may take long to read, so another thread does, while the view is there already. It fetches nothing.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};

use anyhow::Context;
use topspin_data::{Need, Options, Record, records};
use topspin_eval::page::Folder;
use topspin_game::config::Config;
use topspin_game::run::Manifest;
use topspin_model::dialect::Dialect;
use topspin_model::hub::Hub;
use topspin_model::source::{ModelFiles, ModelSource};

use crate::commands::report::speller_of;

/// What the data say to a prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Known {
    /// The prompt; of several messages each with its role.
    pub prompt: String,
    /// The good responses.
    pub real: Vec<String>,
}

impl Known {
    fn new(record: Record) -> Self {
        let prompt = match &record.messages[..] {
            [only] => only.content.clone(),
            several => several.iter().map(|m| format!("{}: {}", m.role, m.content)).collect::<Vec<_>>().join("\n"),
        };
        Self { prompt, real: record.response.map_or(record.references, |response| vec![response]) }
    }
}

/// What the other thread finds.
enum Found {
    Dialect(Box<Dialect>),
    NoDialect(String),
    Record(String, Known),
}

/// Texts, as far as they are known by now.
pub struct Library {
    wanted: Sender<HashSet<String>>,
    found: Receiver<Found>,
    asked: HashSet<String>,
    known: HashMap<String, Known>,
    dialect: Option<Box<Dialect>>,
    /// Why tokens cannot be spelled, if they cannot.
    pub problem: Option<String>,
}

impl Library {
    /// Begins to read. Names of files are as the run wrote them: where it ran in another folder, prompts stay unknown.
    pub fn open(folder: &Folder, config: &Config, manifest: &Manifest) -> Self {
        let (wanted, asked) = channel();
        let (answers, found) = channel();
        let data = manifest.inputs.iter().filter(|(key, _)| key.starts_with("data."));
        let data: Vec<PathBuf> = data.map(|(_, input)| input.path.clone()).collect();
        let options =
            Options { shape: config.data.shape, columns: config.data.columns.clone(), ..Options::new(Need::Prompt) };
        let model = speller_of(folder);
        std::thread::spawn(move || serve(model.as_deref(), &data, &options, &asked, &answers));
        Self { wanted, found, asked: HashSet::new(), known: HashMap::new(), dialect: None, problem: None }
    }

    /// Asks for what belongs to these ids, forgets what belongs to others, and takes what has been found by now.
    pub fn look(&mut self, ids: &HashSet<&str>) {
        self.known.retain(|id, _| ids.contains(id.as_str()));
        self.asked.retain(|id| ids.contains(id.as_str()));
        let new: HashSet<String> =
            ids.iter().filter(|id| !self.asked.contains(**id)).map(|id| id.to_string()).collect();
        if !new.is_empty() {
            self.asked.extend(new.iter().cloned());
            // With nobody to ask, ids stay ids.
            let _ = self.wanted.send(new);
        }
        for found in self.found.try_iter() {
            match found {
                Found::Dialect(dialect) => self.dialect = Some(dialect),
                Found::NoDialect(problem) => self.problem = Some(problem),
                Found::Record(id, known) => drop(self.known.insert(id, known)),
            }
        }
    }

    /// What the data say to the prompt of this id.
    pub fn known(&self, id: &str) -> Option<&Known> {
        self.known.get(id)
    }

    /// The text of a response; without a tokenizer its tokens as numbers.
    pub fn spell(&self, ids: &[u32]) -> String {
        match &self.dialect {
            Some(dialect) => dialect.decode_response(ids),
            None => ids.iter().map(u32::to_string).collect::<Vec<_>>().join(" "),
        }
    }
}

/// Opens the tokenizer, then looks up records until nobody asks any more.
fn serve(
    model: Option<&str>,
    data: &[PathBuf],
    options: &Options,
    asked: &Receiver<HashSet<String>>,
    answers: &Sender<Found>,
) {
    let dialect = match dialect(model) {
        Ok(dialect) => Found::Dialect(Box::new(dialect)),
        Err(error) => Found::NoDialect(format!("{error:#}")),
    };
    if answers.send(dialect).is_err() {
        return;
    }
    while let Ok(mut wanted) = asked.recv() {
        wanted.extend(asked.try_iter().flatten());
        for path in data {
            if find(path, options, &mut wanted, answers).is_none() {
                return;
            }
        }
    }
}

fn dialect(model: Option<&str>) -> anyhow::Result<Dialect> {
    let model = model.context("its config.toml names no model")?;
    let hub = Hub { offline: true, ..Hub::from_env() };
    Ok(ModelFiles::open(&ModelSource::resolve_with(model, &hub)?)?.dialect)
}

/// Sends the records of a file that are wanted; nothing if nobody takes them any more. What cannot be read is not found.
fn find(path: &Path, options: &Options, wanted: &mut HashSet<String>, answers: &Sender<Found>) -> Option<()> {
    let Ok(records) = records(path, options) else { return Some(()) };
    for (_, record) in records.flatten() {
        if wanted.is_empty() {
            break;
        }
        if wanted.remove(&record.id) {
            answers.send(Found::Record(record.id.clone(), Known::new(record))).ok()?;
        }
    }
    Some(())
}
