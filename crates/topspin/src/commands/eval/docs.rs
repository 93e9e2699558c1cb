//! The records of a task.

use std::path::Path;
use std::rc::Rc;

use anyhow::bail;
use topspin_data::{Columns, DataError, Fault, Fields, Need, Options, Record, RecordShape};
use topspin_eval::harness::hash_of_doc;
use topspin_eval::task::{CHOICES, OutputType, Question, Task};

use crate::input::at;

/// A record.
pub struct Doc {
    /// Its place in the file, from 0.
    pub id: usize,
    /// The fields as they stand in the file.
    pub fields: Fields,
    /// What they say.
    pub record: Record,
    /// Its choices, if the task is to choose.
    pub question: Option<Question>,
}

/// The records of a task in an order that does not depend on that of the file: so no figure does.
pub struct Docs {
    /// The records.
    pub all: Vec<Doc>,
    /// How many the file has.
    pub original: usize,
}

/// Reads the records of all tasks, those that several share once, and finds what is missing in them.
pub fn read_all(tasks: &[Task]) -> anyhow::Result<Vec<Rc<Docs>>> {
    let mut read: Vec<(&Task, Rc<Docs>)> = Vec::new();
    for task in tasks {
        if let Some(field) = columns(task).keys().find(|field| !topspin_data::is_field(field)) {
            let name = &task.name;
            bail!(
                "`columns` of the task `{name}` names `{field}`, which is no field of a record, such as `prompt` or `response`"
            );
        }
        let same = |(other, _): &&(&Task, _)| {
            let of = |task: &Task| {
                (task.settings.data.clone(), task.settings.limit, task.settings.columns.clone(), is_question(task))
            };
            of(other) == of(task)
        };
        let docs = match read.iter().find(same) {
            Some((_, docs)) => Rc::clone(docs),
            None => Rc::new(Docs::read(task)?),
        };
        let mut in_file: Vec<&Doc> = docs.all.iter().collect();
        in_file.sort_by_key(|doc| doc.id);
        in_file.into_iter().try_for_each(|doc| check(task, &doc.record))?;
        read.push((task, docs));
    }
    Ok(read.into_iter().map(|(_, docs)| docs).collect())
}

impl Docs {
    fn read(task: &Task) -> anyhow::Result<Self> {
        let settings = &task.settings;
        let path = Path::new(&settings.data);
        let options = Options { need: Need::Prompt, shape: RecordShape::Auto, columns: columns(task), tolerant: false };
        let limit = if settings.limit == 0 { usize::MAX } else { settings.limit };
        let mut records = topspin_data::records(path, &options)?;
        let mut all = Vec::new();
        for (id, found) in records.by_ref().take(limit).enumerate() {
            let (fields, record) = found?;
            let question = is_question(task).then(|| Question::new(&fields, &settings.columns)).transpose();
            let question = question.map_err(|e| at(&record, e))?;
            all.push(Doc { id, fields, record, question });
        }
        let original = all.len() + records.count();
        all.sort_by_cached_key(|doc| hash_of_doc(&doc.fields));
        Ok(Self { all, original })
    }
}

fn is_question(task: &Task) -> bool {
    task.settings.output_type == OutputType::MultipleChoice
}

/// The columns of prompts and responses.
fn columns(task: &Task) -> Columns {
    let mut columns = task.settings.columns.clone();
    if is_question(task) {
        columns.remove(CHOICES[0]);
        // What is right is a choice. A field whose column is not there is left out.
        columns.extend(["answer", "response", "completion"].map(|field| (field.to_owned(), String::new())));
    }
    columns
}

/// Checks that a record has what the task compares with.
fn check(task: &Task, record: &Record) -> anyhow::Result<()> {
    let has_none = targets(record).is_empty() && record.references.is_empty();
    match task.settings.output_type {
        OutputType::GenerateUntil if has_none && task.needs_references() => Err(at(
            record,
            format!(
                "there is nothing to compare an answer with, and the metrics of the task `{}` need it; add `response` or \
                 `references`, or choose a task without such metrics",
                task.name
            ),
        )),
        OutputType::Loglikelihood | OutputType::Discrimination if has_none => {
            Err(DataError::Record { place: record.place.clone(), fault: Fault::NoResponse }.into())
        }
        _ => Ok(()),
    }
}

/// The texts that are good answers to a prompt: the response, or else the references.
pub fn targets(record: &Record) -> Vec<&str> {
    match &record.response {
        Some(response) => vec![response],
        None => record.references.iter().map(String::as_str).collect(),
    }
}

/// All texts that an answer is compared with.
pub fn references(record: &Record) -> Vec<&str> {
    record.response.iter().chain(&record.references).map(String::as_str).collect()
}
