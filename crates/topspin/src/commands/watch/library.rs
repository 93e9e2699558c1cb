//! The texts behind tokens and ids: the run's tokenizer, and the records that it plays on.
//!
//! Both may take long to read, so another thread does, once, while the view is there already. It fetches nothing.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};

use anyhow::Context;
use topspin_data::{Message, Need, Options, Record, records};
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
            several => spoken(several),
        };
        Self { prompt, real: record.response.map_or(record.references, |response| vec![response]) }
    }
}

/// A conversation as text.
pub fn spoken(messages: &[Message]) -> String {
    messages.iter().map(|message| format!("{}: {}", message.role, message.content)).collect::<Vec<_>>().join("\n")
}

/// Bytes of text that are kept of the data: beyond them prompts stay ids.
const MOST_TEXT: usize = 64 << 20;

/// What the data say, by the ids of records.
type Records = HashMap<String, Known>;

/// What the other thread finds.
enum Found {
    Dialect(Box<Dialect>),
    NoDialect(String),
    Train(Records),
    Test(Records),
}

/// Texts, as far as they are known by now.
pub struct Library {
    found: Receiver<Found>,
    train: Records,
    /// Where these are of files of their own.
    test: Option<Records>,
    dialect: Option<Box<Dialect>>,
    /// Why tokens cannot be spelled, if they cannot.
    pub problem: Option<String>,
}

impl Library {
    /// Begins to read. Names of files are as the run wrote them: where it ran in another folder, prompts stay unknown.
    pub fn open(folder: &Folder, config: &Config, manifest: &Manifest) -> Self {
        let files = |key: &str| -> Vec<PathBuf> {
            let inputs = manifest.inputs.iter().filter(|(name, _)| name.starts_with(key));
            inputs.map(|(_, input)| input.path.clone()).collect()
        };
        let (train, test) = (files("data.train"), files("data.test"));
        let has_test = !test.is_empty();
        let options =
            Options { shape: config.data.shape, columns: config.data.columns.clone(), ..Options::new(Need::Prompt) };
        let (model, (finds, found)) = (speller_of(folder), channel());
        std::thread::spawn(move || {
            let dialect = match dialect(model.as_deref()) {
                Ok(dialect) => Found::Dialect(Box::new(dialect)),
                Err(error) => Found::NoDialect(format!("{error:#}")),
            };
            // With nobody to take it, the view has ended.
            let _ = finds.send(dialect);
            let _ = finds.send(Found::Train(read(&train, &options)));
            let _ = finds.send(Found::Test(read(&test, &options)));
        });
        Self { found, train: Records::new(), test: has_test.then(Records::new), dialect: None, problem: None }
    }

    /// Takes what has been found by now.
    pub fn look(&mut self) {
        for found in self.found.try_iter() {
            match found {
                Found::Dialect(dialect) => self.dialect = Some(dialect),
                Found::NoDialect(problem) => self.problem = Some(problem),
                Found::Train(records) => self.train = records,
                Found::Test(records) => self.test = self.test.take().map(|_| records),
            }
        }
    }

    /// What the data say to the prompt of this id, which is of those to evaluate on or of those to train on. A share of the
    /// latter is evaluated on where there are no others.
    pub fn known(&self, id: &str, is_test: bool) -> Option<&Known> {
        self.test.as_ref().filter(|_| is_test).unwrap_or(&self.train).get(id)
    }

    /// The text of a response; without a tokenizer its tokens as numbers.
    pub fn spell(&self, ids: &[u32]) -> String {
        match &self.dialect {
            Some(dialect) => dialect.decode_response(ids),
            None => ids.iter().map(u32::to_string).collect::<Vec<_>>().join(" "),
        }
    }
}

fn dialect(model: Option<&str>) -> anyhow::Result<Dialect> {
    let model = model.context("its config.toml names no model")?;
    let hub = Hub { offline: true, ..Hub::from_env() };
    Ok(ModelFiles::open(&ModelSource::resolve_with(model, &hub)?)?.dialect)
}

/// The records of files by their ids, several responses to a prompt together. What cannot be read is not there.
fn read(files: &[PathBuf], options: &Options) -> Records {
    let (mut all, mut bytes) = (Records::new(), 0);
    for record in files.iter().filter_map(|path| records(path, options).ok()).flatten().flatten() {
        let (id, new) = (record.1.id.clone(), Known::new(record.1));
        bytes += id.len() + new.prompt.len() + new.real.iter().map(String::len).sum::<usize>();
        if bytes > MOST_TEXT {
            break;
        }
        let known = all.entry(id).or_insert_with(|| Known { prompt: new.prompt, real: Vec::new() });
        for real in new.real {
            if !known.real.contains(&real) {
                known.real.push(real);
            }
        }
    }
    all
}
