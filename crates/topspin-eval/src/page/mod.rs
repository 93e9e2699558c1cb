//! A run's report page: one HTML file that needs nothing else.
//!
//! [`Folder`] opens a run, [`RunPage::read`] takes from its files what the page shows, and [`html`] puts one run, or two over
//! each other, into a page. Rust computes every figure, difference and sentence; the script in `assets/` draws them.
//! It writes text as text, and the page's policy lets no other script run and nothing be fetched.

mod answers;
mod curves;
mod error;
mod folder;
mod glance;
mod html;
mod pieces;
mod results;
mod scored;
mod training;

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;
use serde_json::Value;

pub use error::PageError;
pub use folder::Folder;
pub use html::html;
pub use pieces::{Piece, Spell};
pub use training::Most;
use training::Training;

/// All that a page shows of a run.
#[derive(Debug, Serialize)]
pub struct RunPage {
    /// The folder's name.
    name: String,
    /// What the run was made from, and how far it is.
    facts: Vec<(String, String)>,
    /// What is missing, or shown in part.
    notes: Vec<String>,
    /// Questions and answers.
    glance: Vec<glance::Answer>,
    results: results::Results,
    guards: Vec<Guard>,
    curves: Vec<curves::Curve>,
    /// Figures of the pairs of each round.
    pairs: Vec<Pairs>,
    /// Whether tokens have texts; else they are numbers.
    spelled: bool,
    /// What is looked at one by one; it is packed apart.
    #[serde(skip)]
    game: Game,
}

/// A guard that fired.
#[derive(Debug, Serialize)]
struct Guard {
    stage: String,
    step: Option<u64>,
    sentence: String,
}

/// Figures of a stage that made pairs, as the manifest has them.
#[derive(Debug, Serialize)]
struct Pairs {
    folder: String,
    figures: BTreeMap<String, Value>,
}

/// Prompts and answers.
#[derive(Debug, Serialize)]
struct Game {
    pieces: pieces::Pieces,
    tests: answers::Tests,
    training: Training,
}

impl RunPage {
    /// Reads a run. `spell` gives the texts of tokens; without it they are shown as numbers.
    ///
    /// # Errors
    /// If a file of a finished stage cannot be read or understood. What is not there yet is a sentence in the page.
    pub fn read(folder: &Folder, spell: Option<&Spell>, most: Most) -> Result<Self, PageError> {
        let mut pieces = pieces::Pieces::default();
        let results = results::read(folder)?;
        let tests = answers::read(folder, &results, spell, most.prompts, &mut pieces)?;
        let training = training::read(folder, spell, most, &mut pieces)?;
        let guards = guards(folder);
        let glance = glance::answers(folder, &results, &guards);
        let (curves, pairs) = (curves::read(folder)?, pairs(folder));
        let game = Game { pieces, tests, training };
        let mut page = Self {
            name: name(folder.dir()),
            facts: facts(folder),
            notes: Vec::new(),
            glance,
            results,
            guards,
            curves,
            pairs,
            spelled: spell.is_some(),
            game,
        };
        page.notes = page.limits(folder, most);
        Ok(page)
    }

    /// Adds a sentence about what is missing.
    pub fn note(&mut self, sentence: String) {
        self.notes.push(sentence);
    }

    /// What the page lacks, a sentence each.
    fn limits(&self, folder: &Folder, most: Most) -> Vec<String> {
        let mut notes = Vec::new();
        let stages = &folder.manifest().stages;
        let done = stages.iter().filter(|stage| stage.is_done()).count();
        let next = stages.iter().find(|stage| !stage.is_done());
        match (next, self.results.out_of_patience) {
            (None, _) => {}
            (Some(_), Some(patience)) => {
                let s = if patience == 1 { "" } else { "s" };
                notes
                    .push(format!("The run ended after {patience} iteration{s} without a better one (eval.patience)."));
            }
            (Some(next), None) => notes.push(format!(
                "The run is not finished: {done} of {} stages are done, and {} is next. This is what is there so far.",
                stages.len(),
                next.name
            )),
        }
        if self.results.metric.is_none() {
            notes.push(
                "The run has no config.toml that names a metric (eval.best), so no iteration is named the best.".into(),
            );
        }
        let Training { total, prompts, .. } = &self.game.training;
        for (kind, shown, total) in
            [("test", self.game.tests.prompts.len(), self.game.tests.total), ("training", prompts.len(), *total)]
        {
            if shown < total {
                notes.push(format!(
                    "Of {total} {kind} prompts the first {shown} can be looked at here (--prompts {}); all figures are those of \
                     all prompts.",
                    most.prompts
                ));
            }
        }
        let omitted = prompts.iter().flat_map(|prompt| &prompt.rounds).filter(|played| played.omitted > 0).count();
        if omitted > 0 {
            notes.push(format!(
                "Of the different generated answers to a training prompt in one iteration the {} most frequent can be looked at \
                 here (--answers {}).",
                most.answers, most.answers
            ));
        }
        if let Some(curve) = self.curves.iter().find(|curve| curve.steps_per_point > 1) {
            notes.push(format!(
                "Curves of long stages have one point for several steps, their mean: {} in {}.",
                curve.steps_per_point, curve.folder
            ));
        }
        notes
    }
}

/// The folder's name, behind that of the folder around it where it says nothing: the quick start's is called `run`.
fn name(dir: &Path) -> String {
    let whole = dir.canonicalize().unwrap_or_else(|_| dir.into());
    let part = |path: Option<&Path>| path.and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned();
    match part(Some(&whole)) {
        name if name == "run" => format!("{}/{name}", part(whole.parent())),
        name => name,
    }
}

/// What the run was made from.
fn facts(folder: &Folder) -> Vec<(String, String)> {
    let mut facts = Vec::new();
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            facts.push((name.to_owned(), value));
        }
    };
    let setting = |table: &str, key: &str| folder.setting(table, key).map(plain);
    let manifest = folder.manifest();
    let input = |key: &str| manifest.inputs.get(key).map(|input| input.path.clone());
    add("model", setting("model", "path"));
    add("training data", input("data.train").or_else(|| setting("data", "train")));
    add("test data", input("data.test").or_else(|| setting("data", "test")));
    for (table, key) in [
        ("game", "objective"),
        ("game", "opponent"),
        ("game", "beta"),
        ("game", "samples"),
        ("train", "lr"),
        ("rollout", "temperature"),
        ("adapter", "rank"),
    ] {
        let value = setting(table, key);
        add(&format!("{table}.{key}"), value.filter(|value| (table, value.as_str()) != ("adapter", "0")));
    }
    add("seed", Some(manifest.seed.to_string()));
    let done = manifest.stages.iter().filter(|stage| stage.is_done()).count();
    add("stages done", Some(format!("{done} of {}", manifest.stages.len())));
    add("topspin", Some(manifest.topspin.clone()));
    facts
}

/// A setting as a person reads it.
fn plain(value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) => text.clone(),
        toml::Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

fn guards(folder: &Folder) -> Vec<Guard> {
    let stages = folder.manifest().stages.iter();
    let of = |stage: &folder::Stage| {
        let guard = |fired: &folder::Fired| Guard {
            stage: stage.name.clone(),
            step: fired.step,
            sentence: fired.sentence.clone(),
        };
        stage.guards.iter().map(guard).collect::<Vec<_>>()
    };
    stages.flat_map(of).collect()
}

fn pairs(folder: &Folder) -> Vec<Pairs> {
    let of = |name: &&str| {
        let figures = folder.figures(name, "pairs")?;
        Some(Pairs { folder: name.to_string(), figures: figures.clone().into_iter().collect() })
    };
    folder.stage_folders().iter().filter_map(of).collect()
}
