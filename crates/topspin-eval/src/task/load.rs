//! Tasks out of files, and by name.

use std::path::Path;

use serde::Deserialize;
use toml::Table;

use super::{Task, TaskError, TaskSettings, quoted};

/// The file of the tasks that go by name.
pub const PRESETS: &str = include_str!("presets.toml");

/// A file of tasks.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File<T> {
    #[serde(default = "Vec::new")]
    task: Vec<T>,
}

/// The settings of the tasks that go by name.
pub fn presets() -> Vec<TaskSettings> {
    let File { task } = toml::from_str(PRESETS).expect("the file is part of the program");
    task
}

/// The tables of the same.
fn tables() -> Vec<(String, Table)> {
    let File::<Table> { task } = toml::from_str(PRESETS).expect("the file is part of the program");
    task.into_iter().map(|table| (table["name"].as_str().unwrap_or_default().to_owned(), table)).collect()
}

fn preset(name: &str) -> Result<Table, TaskError> {
    let tables = tables();
    let known: Vec<_> = tables.iter().map(|(known, _)| known.clone()).collect();
    let found = tables.into_iter().find(|(known, _)| known == name).map(|(_, table)| table);
    found.ok_or_else(|| TaskError::Unknown { name: name.into(), known: quoted(&known) })
}

/// The settings of the task that goes by a name.
///
/// # Errors
/// [`TaskError::Unknown`] where there is none.
pub fn named(name: &str) -> Result<TaskSettings, TaskError> {
    Ok(preset(name)?.try_into().expect("the file is part of the program"))
}

/// The settings in a file of `[[task]]` tables, each over those of its preset.
///
/// # Errors
/// The file cannot be read, has no task, or one that is not made of settings.
pub fn read(path: &Path) -> Result<Vec<TaskSettings>, TaskError> {
    parse(&topspin_files::read_to_string(path)?, path)
}

pub(super) fn parse(text: &str, path: &Path) -> Result<Vec<TaskSettings>, TaskError> {
    let syntax = |e: toml::de::Error| TaskError::Syntax {
        path: path.into(),
        line: text[..e.span().map_or(0, |span| span.start.min(text.len()))].matches('\n').count() + 1,
        problem: e.message().to_owned(),
    };
    // As settings first, so that what is wrong is found where it stands.
    let File::<TaskSettings> { task } = toml::from_str(text).map_err(syntax)?;
    let File::<Table> { task: tables } = toml::from_str(text).map_err(syntax)?;
    if task.is_empty() {
        return Err(TaskError::None { path: path.into() });
    }
    let over_preset = |(settings, own): (TaskSettings, Table)| {
        if settings.preset.is_empty() {
            return Ok(settings);
        }
        let mut table = preset(&settings.preset)?;
        table.extend(own);
        Ok(table.try_into().expect("both parts are settings"))
    };
    task.into_iter().zip(tables).map(over_preset).collect()
}

/// The tasks that go by `names`, then those of other settings, checked.
///
/// # Errors
/// [`TaskError::Unknown`], [`TaskError::Twice`], and those of [`Task::new`].
pub fn with_names(
    names: &[impl AsRef<str>],
    others: Vec<TaskSettings>,
    adjust: impl Fn(&mut TaskSettings),
) -> Result<Vec<Task>, TaskError> {
    let mut all = names.iter().map(|name| named(name.as_ref())).collect::<Result<Vec<_>, _>>()?;
    all.extend(others);
    let mut tasks: Vec<Task> = Vec::new();
    for mut settings in all {
        adjust(&mut settings);
        for task in Task::new(&settings)? {
            if tasks.iter().any(|other| other.name == task.name) {
                return Err(TaskError::Twice { name: task.name });
            }
            tasks.push(task);
        }
    }
    Ok(tasks)
}
