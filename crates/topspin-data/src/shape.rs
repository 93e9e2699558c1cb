//! From the fields of a row to a record.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::dataset::short_hex;
use crate::format::Fields;
use crate::{Fault, Message, Need, Place, Record};

/// The columns that hold fields under another name, by the field: `prompt = "frage"`.
pub type Columns = BTreeMap<String, String>;

/// All fields that a record may have.
const FIELDS: [&str; 16] = [
    "answer",
    "chosen",
    "completion",
    "conversations",
    "generated",
    "id",
    "input",
    "instruction",
    "messages",
    "output",
    "prompt",
    "question",
    "real",
    "references",
    "rejected",
    "response",
];

/// Whether a record may have a field of that name.
pub fn is_field(name: &str) -> bool {
    FIELDS.contains(&name)
}

/// How a record is laid out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecordShape {
    /// As the fields say.
    #[default]
    Auto,
    /// `prompt` or `question`, and `response`, `completion` or `answer`.
    Pair,
    /// `messages` with `role` and `content`.
    Messages,
    /// `conversations` with `from` and `value`.
    ShareGpt,
    /// `instruction`, `input` and `output`.
    Alpaca,
    /// `prompt`, `chosen` and `rejected`.
    Preference,
    /// `real` and `generated`, lists of messages.
    Spin,
}

impl RecordShape {
    /// The record that `fields` hold. Its number and its weight are for the reader to say.
    pub(crate) fn record(self, row: &Fields, columns: &Columns, need: Need, place: Place) -> Result<Record, Fault> {
        let mut fields = row.clone();
        for (field, column) in columns {
            fields.insert(field.clone(), row.get(column).cloned().unwrap_or_default());
        }
        fields.retain(|_, value| !value.is_null());
        let shape = if self == Self::Auto { Self::of(&fields)? } else { self };
        let Parts { messages, response, rejected } = match shape {
            Self::Auto | Self::Pair => pair(&mut fields)?,
            Self::Messages => messages(&mut fields)?,
            Self::ShareGpt => share_gpt(&mut fields)?,
            Self::Alpaca => alpaca(&mut fields)?,
            Self::Preference => preference(&mut fields)?,
            Self::Spin => spin(&mut fields)?,
        };
        if need == Need::Response {
            let (field, text) = response.as_ref().ok_or(Fault::NoResponse)?;
            not_blank(field.as_str(), text)?;
        }
        let references = references(&mut fields)?;
        let own_id = own_id(&mut fields)?;
        let response = response.map(|(_, text)| text);
        let id = own_id.unwrap_or_default();
        let mut record = Record { id, messages, response, rejected, references, place, number: 0, weight: 1.0 };
        if record.id.is_empty() {
            record.id = short_hex(&record.prompt_hash());
        }
        Ok(record)
    }

    /// The shape whose fields are there.
    fn of(fields: &Fields) -> Result<Self, Fault> {
        let has = |names: &[&str]| names.iter().all(|name| fields.contains_key(*name));
        let shapes = [
            (Self::Messages, has(&["messages"])),
            (Self::ShareGpt, has(&["conversations"])),
            (Self::Alpaca, has(&["instruction", "output"])),
            (Self::Preference, has(&["chosen", "rejected"])),
            (Self::Spin, has(&["real", "generated"])),
        ];
        let mut found = shapes.into_iter().filter(|(_, is_there)| *is_there).map(|(shape, _)| shape);
        match (found.next(), found.next()) {
            (None, _) => Ok(Self::Pair),
            (Some(shape), None) => Ok(shape),
            (Some(first), Some(second)) => Err(Fault::TwoShapes { first: first.name(), second: second.name() }),
        }
    }

    /// As it is called in a configuration.
    fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Pair => "pair",
            Self::Messages => "messages",
            Self::ShareGpt => "sharegpt",
            Self::Alpaca => "alpaca",
            Self::Preference => "preference",
            Self::Spin => "spin",
        }
    }
}

/// A text with the name of the field that it is from.
type Named = (String, String);

/// What all shapes come down to.
struct Parts {
    messages: Vec<Message>,
    response: Option<Named>,
    rejected: Option<String>,
}

fn pair(fields: &mut Fields) -> Result<Parts, Fault> {
    let (field, value) = one_of(fields, "prompt", &["prompt", "question"])?.ok_or(Fault::NoPrompt)?;
    let messages = prompt(&field, value)?;
    let response = response(fields)?;
    Ok(Parts { messages, response, rejected: None })
}

fn messages(fields: &mut Fields) -> Result<Parts, Fault> {
    let prompt = one_of(fields, "prompt", &["prompt", "question"])?;
    let other = response(fields)?;
    let (messages, response) = split("messages", conversation("messages", needed(fields, "messages", "messages")?)?);
    same_opening(prompt, &messages, "messages")?;
    match (other, &response) {
        (Some((field, _)), Some(_)) => Err(ambiguous("response", field, "messages")),
        (other, _) => Ok(Parts { messages: ending_with_user(messages)?, response: other.or(response), rejected: None }),
    }
}

fn share_gpt(fields: &mut Fields) -> Result<Parts, Fault> {
    let value = needed(fields, "conversations", "sharegpt")?;
    let (messages, response) = split("conversations", conversation("conversations", value)?);
    Ok(Parts { messages: ending_with_user(messages)?, response, rejected: None })
}

fn alpaca(fields: &mut Fields) -> Result<Parts, Fault> {
    let mut content = string("instruction", needed(fields, "instruction", "alpaca")?)?;
    not_blank("instruction", &content)?;
    if let Some((field, _)) = one_of(fields, "prompt", &["prompt", "question"])? {
        return Err(ambiguous("prompt", field, "instruction"));
    }
    let input = fields.remove("input").map(|value| string("input", value)).transpose()?;
    if let Some(input) = input.filter(|input| !input.trim().is_empty()) {
        content = format!("{content}\n\n{input}");
    }
    let output = fields.remove("output").map(|value| string("output", value)).transpose()?;
    let response = output.map(|output| ("output".into(), output));
    Ok(Parts { messages: vec![user(content)], response, rejected: None })
}

fn preference(fields: &mut Fields) -> Result<Parts, Fault> {
    let given = one_of(fields, "prompt", &["prompt", "question"])?;
    let chosen = needed(fields, "chosen", "preference")?;
    let rejected = needed(fields, "rejected", "preference")?;
    if chosen.is_string() && rejected.is_string() {
        let (field, value) = given.ok_or(Fault::NoPrompt)?;
        let response = ("chosen".into(), string("chosen", chosen)?);
        let rejected = Some(string("rejected", rejected)?);
        return Ok(Parts { messages: prompt(&field, value)?, response: Some(response), rejected });
    }
    let (opening, response) = split("chosen", answer_or_conversation("chosen", chosen)?);
    let (other, rejected) = split("rejected", answer_or_conversation("rejected", rejected)?);
    if opening != other {
        return Err(Fault::OtherPrompt { first: "chosen", second: "rejected" });
    }
    let messages = match given {
        Some((field, value)) if opening.is_empty() => prompt(&field, value)?,
        given => {
            same_opening(given, &opening, "chosen")?;
            ending_with_user(opening)?
        }
    };
    let rejected = rejected.ok_or(Fault::NoField { field: "rejected", shape: "preference" })?;
    Ok(Parts { messages, response, rejected: Some(rejected.1) })
}

fn spin(fields: &mut Fields) -> Result<Parts, Fault> {
    let (opening, response) = split("real", conversation("real", needed(fields, "real", "spin")?)?);
    let (other, rejected) = split("generated", conversation("generated", needed(fields, "generated", "spin")?)?);
    if opening != other {
        return Err(Fault::OtherPrompt { first: "real", second: "generated" });
    }
    Ok(Parts { messages: ending_with_user(opening)?, response, rejected: rejected.map(|(_, text)| text) })
}

/// The response in a field of its own: a string, or a list with the assistant's message.
fn response(fields: &mut Fields) -> Result<Option<Named>, Fault> {
    let found = one_of(fields, "response", &["response", "completion", "answer"])?;
    found
        .map(|(field, value)| match value {
            Value::Array(items) if items.first().is_some_and(Value::is_object) => {
                let (before, response) = split(&field, answer_or_conversation(&field, Value::Array(items))?);
                match response {
                    Some(response) if before.is_empty() => Ok(response),
                    _ => Err(Fault::WrongType { field, wanted: "one message of the assistant", found: "several" }),
                }
            }
            value => string(&field, value).map(|text| (field, text)),
        })
        .transpose()
}

/// The prompt in a field of its own: a string, or a list of messages.
fn prompt(field: &str, value: Value) -> Result<Vec<Message>, Fault> {
    if value.is_array() {
        return ending_with_user(conversation(field, value)?);
    }
    let content = string(field, value)?;
    not_blank(field, &content)?;
    Ok(vec![user(content)])
}

fn user(content: String) -> Message {
    Message { role: "user".into(), content }
}

/// Some collections repeat the opening of a conversation as `prompt`; that is all it may say beside one.
fn same_opening(prompt: Option<(String, Value)>, messages: &[Message], field: &str) -> Result<(), Fault> {
    let opening = messages.iter().find(|message| message.role == "user").map(|message| &message.content);
    let Some((name, value)) = prompt else { return Ok(()) };
    let is_same = match value {
        Value::String(text) => Some(&text) == opening,
        list => conversation(&name, list)? == messages,
    };
    if is_same { Ok(()) } else { Err(ambiguous("prompt", name, field)) }
}

/// Takes the response off the end of a conversation, if it is there.
fn split(field: &str, mut messages: Vec<Message>) -> (Vec<Message>, Option<Named>) {
    let response = messages.pop_if(|last| last.role == "assistant");
    let response = response.map(|message| (format!("{field}[{}].content", messages.len()), message.content));
    (messages, response)
}

/// A prompt is the user's to end.
fn ending_with_user(messages: Vec<Message>) -> Result<Vec<Message>, Fault> {
    if messages.last().is_some_and(|message| message.role == "user") { Ok(messages) } else { Err(Fault::NoPrompt) }
}

/// The messages of a conversation, in due order.
fn conversation(field: &str, value: Value) -> Result<Vec<Message>, Fault> {
    turns(field, value, "user")
}

/// The same, or one message of the assistant alone, whose prompt is elsewhere.
fn answer_or_conversation(field: &str, value: Value) -> Result<Vec<Message>, Fault> {
    let speaker = |item: &Value| Some(item.get("role").or(item.get("from"))?.as_str()? == "assistant");
    let is_answer = value.as_array().is_some_and(|items| items.len() == 1 && speaker(&items[0]) == Some(true));
    turns(field, value, if is_answer { "assistant" } else { "user" })
}

fn turns(field: &str, value: Value, first: &'static str) -> Result<Vec<Message>, Fault> {
    let mut messages = Vec::new();
    let mut due = first;
    for (index, value) in list(field, value)?.into_iter().enumerate() {
        let at = |part: &str| format!("{field}[{index}].{part}");
        let Value::Object(mut fields) = value else {
            return Err(wrong_type(format!("{field}[{index}]"), "an object", &value));
        };
        // ShareGPT's names, or the ones that everybody has taken to.
        let (speaker, words, known) = match fields.contains_key("from") {
            true => ("from", "value", "`system`, `human` or `gpt`"),
            false => ("role", "content", "`system`, `user` or `assistant`"),
        };
        let mut text = |part| string(&at(part), fields.remove(part).unwrap_or_default());
        let (role, content) = (text(speaker)?, text(words)?);
        let role = match role.as_str() {
            "human" if speaker == "from" => "user",
            "gpt" if speaker == "from" => "assistant",
            "system" | "user" | "assistant" => role.as_str(),
            _ => return Err(Fault::UnknownRole { field: at(speaker), role, known }),
        };
        match role {
            "system" if index == 0 => {}
            _ if role == due => due = if due == "user" { "assistant" } else { "user" },
            _ => {
                return Err(Fault::RoleOrder { field: format!("{field}[{index}]"), found: role.into(), wanted: due });
            }
        }
        messages.push(Message { role: role.into(), content });
    }
    // What a last turn of the assistant may be is for the reader's `Need` to say.
    let prompts = messages.len() - usize::from(messages.last().is_some_and(|m| m.role == "assistant"));
    for (index, message) in messages[..prompts].iter().enumerate() {
        not_blank(format!("{field}[{index}].content"), &message.content)?;
    }
    Ok(messages)
}

fn references(fields: &mut Fields) -> Result<Vec<String>, Fault> {
    let Some(value) = fields.remove("references") else { return Ok(Vec::new()) };
    let texts = list("references", value)?.into_iter().enumerate();
    texts.map(|(i, value)| string(&format!("references[{i}]"), value)).collect()
}

fn own_id(fields: &mut Fields) -> Result<Option<String>, Fault> {
    match fields.remove("id") {
        None => Ok(None),
        Some(Value::Number(number)) if !number.is_f64() => Ok(Some(number.to_string())),
        Some(Value::String(id)) => not_blank("id", &id).map(|()| Some(id)),
        Some(other) => Err(wrong_type("id", "a string or a whole number", &other)),
    }
}

/// The one field of `names` that is there, with its name.
fn one_of(fields: &mut Fields, part: &'static str, names: &[&str]) -> Result<Option<(String, Value)>, Fault> {
    let mut found: Option<(String, Value)> = None;
    for &name in names {
        let Some(value) = fields.remove(name) else { continue };
        if let Some((first, _)) = found {
            return Err(ambiguous(part, first, name));
        }
        found = Some((name.into(), value));
    }
    Ok(found)
}

/// A field that the shape must have.
fn needed(fields: &mut Fields, field: &'static str, shape: &'static str) -> Result<Value, Fault> {
    fields.remove(field).ok_or(Fault::NoField { field, shape })
}

fn string(field: &str, value: Value) -> Result<String, Fault> {
    match value {
        Value::String(text) => Ok(text),
        other => Err(wrong_type(field, "a string", &other)),
    }
}

/// A list, or a string that holds one as JSON: a cell of a table has no other way.
fn list(field: &str, value: Value) -> Result<Vec<Value>, Fault> {
    match value {
        Value::Array(items) => Ok(items),
        Value::String(text) => {
            serde_json::from_str(&text).map_err(|_| wrong_type(field, "a list", &Value::String(text)))
        }
        other => Err(wrong_type(field, "a list", &other)),
    }
}

fn not_blank(field: impl Into<String>, text: &str) -> Result<(), Fault> {
    if text.trim().is_empty() { Err(Fault::Blank { field: field.into() }) } else { Ok(()) }
}

fn ambiguous(part: &'static str, first: impl Into<String>, second: &str) -> Fault {
    Fault::Ambiguous { part, first: first.into(), second: second.into() }
}

fn wrong_type(field: impl Into<String>, wanted: &'static str, found: &Value) -> Fault {
    Fault::WrongType { field: field.into(), wanted, found: kind(found) }
}

/// The kind of a JSON value, in words.
pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "missing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
