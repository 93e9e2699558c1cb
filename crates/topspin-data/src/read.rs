//! From lines of JSON to records.

use std::collections::HashMap;
use std::io::BufRead;
use std::path::Path;

use serde_json::{Map, Value};
use topspin_files::{Action, FileError};

use crate::dataset::short_hex;
use crate::{DataError, Dataset, Fault, Message, Record};

/// What each record must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// A prompt. A response may be there and may be empty: so a model may have answered.
    Prompt,
    /// A prompt and a response that is not blank.
    Response,
}

/// Reads all records of a JSONL file; the module page lists the fields. Blank lines between records are no records.
///
/// # Errors
/// [`DataError::File`] if the file cannot be read, [`DataError::Empty`] if it holds no record, and
/// [`DataError::Record`] for the first record that cannot be used.
pub fn read_records(path: &Path, need: Need) -> Result<Dataset, DataError> {
    parse_records(topspin_files::open(path)?, path, need)
}

/// [`read_records`] of what `lines` holds; `path` is only named in errors.
pub fn parse_records(mut lines: impl BufRead, path: &Path, need: Need) -> Result<Dataset, DataError> {
    let mut records = Vec::new();
    let mut first_with_id: HashMap<String, usize> = HashMap::new();
    let (mut bytes, mut line) = (Vec::new(), 0);
    loop {
        bytes.clear();
        if lines.read_until(b'\n', &mut bytes).map_err(|e| FileError::new(Action::Read, path, e))? == 0 {
            break;
        }
        line += 1;
        // Some editors open a file with a byte-order mark.
        let text = if line == 1 { bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes) } else { &bytes }.trim_ascii();
        if text.is_empty() {
            continue;
        }
        let at = |fault| DataError::Record { path: path.into(), line, fault };
        let record = parse(text, need, line).map_err(at)?;
        let first = *first_with_id.entry(record.id.clone()).or_insert(records.len());
        if let Some(other) = records.get(first).filter(|other: &&Record| other.messages != record.messages) {
            return Err(at(Fault::SharedId { id: record.id, first: other.line }));
        }
        records.push(record);
    }
    if records.is_empty() { Err(DataError::Empty { path: path.into() }) } else { Ok(Dataset { records }) }
}

fn parse(text: &[u8], need: Need, line: usize) -> Result<Record, Fault> {
    let mut fields = match serde_json::from_slice(text) {
        Ok(Value::Object(fields)) => fields,
        Ok(other) => return Err(Fault::NotObject { found: kind(&other) }),
        Err(e) => {
            let full = e.to_string();
            let reason = full.rsplit_once(" at line ").map_or(full.as_str(), |(reason, _)| reason).into();
            return Err(Fault::NotJson { reason, column: e.column() });
        }
    };
    fields.retain(|_, value| !value.is_null());

    let mut prompt = one_of(&mut fields, "prompt", &["prompt", "question"])?;
    let mut response = one_of(&mut fields, "response", &["response", "completion", "answer"])?;
    let messages = match fields.remove("messages") {
        None => {
            let (field, content) = prompt.take().ok_or(Fault::NoPrompt)?;
            not_blank(field, &content)?;
            vec![Message { role: "user".into(), content }]
        }
        Some(value) => {
            let mut messages = conversation(value)?;
            // Some collections repeat the opening of a conversation as `prompt`.
            let opening = messages.iter().find(|m| m.role == "user").map(|m| &m.content);
            if let Some((field, _)) = prompt.filter(|(_, content)| Some(content) != opening) {
                return Err(ambiguous("prompt", field, "messages"));
            }
            if messages.last().is_some_and(|m| m.role == "assistant") {
                if let Some((field, _)) = response {
                    return Err(ambiguous("response", field, "messages"));
                }
                let index = messages.len() - 1;
                response = messages.pop().map(|m| (format!("messages[{index}].content"), m.content));
            }
            if messages.last().is_none_or(|m| m.role != "user") {
                return Err(Fault::NoPrompt);
            }
            messages
        }
    };
    if need == Need::Response {
        let (field, content) = response.as_ref().ok_or(Fault::NoResponse)?;
        not_blank(field, content)?;
    }
    let references = match fields.remove("references") {
        None => Vec::new(),
        Some(value) => list("references", value)?
            .into_iter()
            .enumerate()
            .map(|(i, value)| string(&format!("references[{i}]"), value))
            .collect::<Result<_, _>>()?,
    };
    let own_id = match fields.remove("id") {
        None => None,
        Some(Value::Number(number)) if !number.is_f64() => Some(number.to_string()),
        Some(Value::String(id)) => not_blank("id", &id).map(|()| Some(id))?,
        Some(other) => return Err(wrong_type("id", "a string or a whole number", &other)),
    };
    let response = response.map(|(_, content)| content);
    let mut record = Record { id: String::new(), messages, response, references, line };
    record.id = own_id.unwrap_or_else(|| short_hex(&record.prompt_hash()));
    Ok(record)
}

/// The messages of a conversation, in due order.
fn conversation(value: Value) -> Result<Vec<Message>, Fault> {
    let mut messages = Vec::new();
    let mut due = "user";
    for (index, value) in list("messages", value)?.into_iter().enumerate() {
        let at = |field: &str| format!("messages[{index}].{field}");
        let Value::Object(mut fields) = value else {
            return Err(wrong_type(&format!("messages[{index}]"), "an object", &value));
        };
        let mut text = |field| string(&at(field), fields.remove(field).unwrap_or_default());
        let (role, content) = (text("role")?, text("content")?);
        match role.as_str() {
            "system" if index == 0 => {}
            "user" | "assistant" if role == due => due = if due == "user" { "assistant" } else { "user" },
            "system" | "user" | "assistant" => return Err(Fault::RoleOrder { index, found: role, wanted: due }),
            _ => return Err(Fault::UnknownRole { index, role }),
        }
        messages.push(Message { role, content });
    }
    // What a last turn of the assistant may be is for the reader's `Need` to say.
    let prompts = messages.len() - usize::from(messages.last().is_some_and(|m| m.role == "assistant"));
    for (index, message) in messages[..prompts].iter().enumerate() {
        not_blank(format!("messages[{index}].content"), &message.content)?;
    }
    Ok(messages)
}

/// The one field of `names` that is there, with its name.
fn one_of(
    fields: &mut Map<String, Value>,
    part: &'static str,
    names: &[&str],
) -> Result<Option<(String, String)>, Fault> {
    let mut found: Option<(String, String)> = None;
    for &name in names {
        let Some(value) = fields.remove(name) else { continue };
        if let Some((first, _)) = found {
            return Err(ambiguous(part, first, name));
        }
        found = Some((name.into(), string(name, value)?));
    }
    Ok(found)
}

fn string(field: &str, value: Value) -> Result<String, Fault> {
    match value {
        Value::String(text) => Ok(text),
        other => Err(wrong_type(field, "a string", &other)),
    }
}

fn list(field: &str, value: Value) -> Result<Vec<Value>, Fault> {
    match value {
        Value::Array(items) => Ok(items),
        other => Err(wrong_type(field, "a list", &other)),
    }
}

fn not_blank(field: impl Into<String>, text: &str) -> Result<(), Fault> {
    if text.trim().is_empty() { Err(Fault::Blank { field: field.into() }) } else { Ok(()) }
}

fn ambiguous(part: &'static str, first: impl Into<String>, second: &str) -> Fault {
    Fault::Ambiguous { part, first: first.into(), second: second.into() }
}

fn wrong_type(field: &str, wanted: &'static str, found: &Value) -> Fault {
    Fault::WrongType { field: field.into(), wanted, found: kind(found) }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "missing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
