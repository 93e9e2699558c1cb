//! Reading a configuration: a file, then `--set` after `--set`, one key at a time so that an error names its key.

use std::collections::BTreeMap;
use std::path::Path;

use toml::{Spanned, Table, Value};

use super::error::Place;
use super::{Config, ConfigError};

impl Config {
    /// Reads the file, lets each of `sets` (`table.key=value`) override it, and checks every value.
    ///
    /// An empty `output.dir` becomes `runs/` and the file's name.
    pub fn load(path: &Path, sets: &[String]) -> Result<Self, ConfigError> {
        let text = topspin_files::read_to_string(path)?;
        let mut config = Self::parse(&text, path, sets)?;
        if config.output.dir.is_empty() {
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            config.output.dir = format!("runs/{name}");
        }
        config.check()?;
        Ok(config)
    }

    /// The configuration in `text`, which came from `path`, with `sets` applied; values are not checked.
    pub fn parse(text: &str, path: &Path, sets: &[String]) -> Result<Self, ConfigError> {
        let mut settings = Settings::default();
        for (line, key, value) in file_settings(text, path)? {
            settings.set(&key, value, Place::Line(path.into(), line))?;
        }
        for set in sets {
            let (key, value) = set.split_once('=').ok_or_else(|| ConfigError::Set { text: set.clone() })?;
            settings.set(key.trim(), value_of(value.trim()), Place::Set)?;
        }
        Ok(settings.config)
    }

    /// The configuration as TOML, every default spelled out.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("tables of plain values can be written as TOML")
    }

    /// All settings as (`table.key`, value), in the order of the tables.
    pub fn entries(&self) -> Vec<(String, Value)> {
        let tables = Table::try_from(self).expect("tables of plain values can be written as TOML");
        let entries = tables.into_iter().flat_map(|(table, keys)| {
            let Value::Table(keys) = keys else { unreachable!("every field of a configuration is a table") };
            keys.into_iter().map(move |(key, value)| (format!("{table}.{key}"), value))
        });
        entries.collect()
    }
}

/// A configuration and the same as a table, in which single keys can be set.
struct Settings {
    config: Config,
    table: Table,
}

impl Default for Settings {
    fn default() -> Self {
        let config = Config::default();
        let table = Table::try_from(&config).expect("tables of plain values can be written as TOML");
        Self { config, table }
    }
}

impl Settings {
    /// Sets `key` (`table.key`).
    fn set(&mut self, key: &str, value: Value, place: Place) -> Result<(), ConfigError> {
        let slot =
            key.split_once('.').and_then(|(table, name)| self.table.get_mut(table)?.as_table_mut()?.get_mut(name));
        let Some(slot) = slot else {
            let names = self.config.entries().into_iter().map(|(name, _)| name);
            // A table may have been left out altogether.
            let bare = |name: &str| name.split_once('.').map_or(usize::MAX, |(_, bare)| distance(key, bare));
            let nearest = names.min_by_key(|name| distance(key, name).min(bare(name))).unwrap_or_default();
            return Err(ConfigError::UnknownKey { key: key.into(), place, nearest });
        };
        *slot = value;
        self.config = self.table.clone().try_into().map_err(|e: toml::de::Error| ConfigError::Value {
            key: key.into(),
            place,
            problem: in_plain_words(e.message()),
        })?;
        Ok(())
    }
}

/// Serde's message, with the types of Rust as a user calls them.
fn in_plain_words(message: &str) -> String {
    let whole = "expected a whole number, 0 or more";
    message.replace("expected f64", "expected a number").replace("expected usize", whole).replace("expected u64", whole)
}

/// The settings that a file makes: line, `table.key`, value.
fn file_settings(text: &str, path: &Path) -> Result<Vec<(usize, String, Value)>, ConfigError> {
    let line_of = |offset: usize| text[..offset.min(text.len())].matches('\n').count() + 1;
    let syntax = |span: Option<std::ops::Range<usize>>, problem: String| ConfigError::Syntax {
        path: path.into(),
        line: line_of(span.map_or(0, |span| span.start)),
        problem,
    };
    // First as TOML of any form, so that what is wrong with the form is told apart from what is wrong with TOML.
    let any: Table = toml::from_str(text).map_err(|e| syntax(e.span(), e.message().to_owned()))?;
    type Tables = BTreeMap<Spanned<String>, BTreeMap<Spanned<String>, Spanned<Value>>>;
    let tables: Tables = toml::from_str(text).map_err(|e| {
        let stray = any.iter().find(|(_, value)| !value.is_table()).map_or("a key", |(key, _)| key);
        syntax(e.span(), format!("`{stray}` stands outside of every table; put it below its table, such as `[game]`"))
    })?;
    let mut settings = Vec::new();
    for (table, keys) in tables {
        for (key, value) in keys {
            let name = format!("{}.{}", table.get_ref(), key.get_ref());
            settings.push((line_of(key.span().start), name, value.into_inner()));
        }
    }
    // In the order of the file: of two errors, the first is told.
    settings.sort_by_key(|(line, ..)| *line);
    Ok(settings)
}

/// The value of a `--set`: TOML where it is TOML, else the text itself, so that paths need no quotes.
fn value_of(text: &str) -> Value {
    let line = format!("value = {text}");
    let parsed = toml::from_str::<Table>(&line).ok().and_then(|mut table| table.remove("value"));
    parsed.unwrap_or_else(|| Value::String(text.into()))
}

/// Levenshtein's distance between two names.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let changed = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
