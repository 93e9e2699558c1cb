//! Every shape is read, and every fault is named with its line.

use std::fs;

use tempfile::tempdir;
use topspin_data::{DataError, Dataset, Fault, Need, read_records};

fn read(text: &str, need: Need) -> Result<Dataset, DataError> {
    let dir = tempdir().unwrap();
    let path = dir.path().join("data.jsonl");
    fs::write(&path, text).unwrap();
    read_records(&path, need)
}

fn fault(text: &str, need: Need) -> (usize, Fault) {
    match read(text, need) {
        Err(DataError::Record { line, fault, .. }) => (line, fault),
        other => panic!("{text}: {other:?}"),
    }
}

fn turns(record: &topspin_data::Record) -> Vec<(&str, &str)> {
    record.messages.iter().map(|m| (m.role.as_str(), m.content.as_str())).collect()
}

#[test]
fn every_shape_is_read() {
    let text = "\u{feff}{\"prompt\": \"p\", \"response\": \"r\", \"other\": [1]}\r\n\
        {\"prompt\": \"p2\", \"completion\": \" r2\", \"id\": 7, \"references\": [\"a\", \"b\"]}\n\
        \n\
        {\"question\": \"q\", \"answer\": \"a\", \"response\": null, \"id\": \"q-1\"}\n\
        {\"messages\": [{\"role\": \"system\", \"content\": \"s\"}, {\"role\": \"user\", \"content\": \"u\"}, \
        {\"role\": \"assistant\", \"content\": \"x\"}, {\"role\": \"user\", \"content\": \"v\"}, \
        {\"role\": \"assistant\", \"content\": \"last\"}], \"prompt\": \"u\"}\n\
        {\"messages\": [{\"role\": \"user\", \"content\": \"p\"}], \"response\": \"other\"}";
    let data = read(text, Need::Response).unwrap();
    let r = &data.records;
    assert_eq!(data.len(), 5);
    assert_eq!((turns(&r[0]), r[0].response.as_deref(), r[0].line), (vec![("user", "p")], Some("r"), 1));
    assert_eq!((r[1].id.as_str(), r[1].response.as_deref()), ("7", Some(" r2")));
    assert_eq!(r[1].references, ["a", "b"]);
    assert_eq!((r[2].id.as_str(), r[2].response.as_deref(), r[2].line), ("q-1", Some("a"), 4));
    assert_eq!(turns(&r[3]), [("system", "s"), ("user", "u"), ("assistant", "x"), ("user", "v")]);
    assert_eq!(r[3].response.as_deref(), Some("last"));
    // The same prompt in another shape is the same prompt.
    assert_eq!((&r[4].id, &r[4].messages), (&r[0].id, &r[0].messages));
    assert_eq!((r[0].id.len(), data.repeated_prompts(), data.duplicates()), (16, 1, 0));
}

#[test]
fn a_prompt_is_enough_where_only_that_is_needed() {
    let data = read("{\"prompt\": \"p\"}\n{\"prompt\": \"p\", \"response\": \"\"}", Need::Prompt).unwrap();
    assert_eq!((data.records[0].response.as_deref(), data.records[1].response.as_deref()), (None, Some("")));
    let conversation = r#"{"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]}"#;
    let record = &read(conversation, Need::Prompt).unwrap().records[0];
    assert_eq!((turns(record), record.response.as_deref()), (vec![("user", "u")], Some("a")));
}

#[test]
fn the_first_bad_record_is_named() {
    use Need::{Prompt, Response};
    let good = r#"{"prompt": "p", "response": "r"}"#;
    let turn = |role: &str| format!(r#"{{"role": "{role}", "content": "c"}}"#);
    let talk = |roles: &[&str]| {
        format!(r#"{{"messages": [{}]}}"#, roles.iter().map(|r| turn(r)).collect::<Vec<_>>().join(", "))
    };
    for (need, record, message) in [
        (Prompt, r#"{"prompt": "p""#.to_string(), "this is not JSON (EOF while parsing an object at column 14)"),
        (Prompt, "prompt: p".into(), "this is not JSON (expected value at column 1)"),
        (Prompt, "[1, 2]".into(), "the record must be an object and is a list; write one JSON object a line"),
        (Prompt, r#"{"text": "t"}"#.into(), "there is no prompt"),
        (Prompt, r#"{"prompt": null}"#.into(), "there is no prompt"),
        (Prompt, r#"{"prompt": 3}"#.into(), "`prompt` must be a string and is a number"),
        (Prompt, r#"{"prompt": " \n"}"#.into(), "`prompt` is empty"),
        (Prompt, r#"{"prompt": "p", "question": "p"}"#.into(), "`prompt` and `question` both give the prompt"),
        (Prompt, r#"{"prompt": "p", "references": "r"}"#.into(), "`references` must be a list and is a string"),
        (Prompt, r#"{"prompt": "p", "references": ["r", 1]}"#.into(), "`references[1]` must be a string"),
        (Prompt, r#"{"prompt": "p", "id": 1.5}"#.into(), "`id` must be a string or a whole number"),
        (Response, r#"{"prompt": "p"}"#.into(), "there is no response, and this use of the data needs one"),
        (Response, r#"{"prompt": "p", "completion": " "}"#.into(), "`completion` is empty"),
        (Response, r#"{"prompt": "p", "response": ["r"]}"#.into(), "`response` must be a string and is a list"),
        (Response, r#"{"prompt": "p", "response": "r", "answer": "r"}"#.into(), "`response` and `answer` both give"),
        (Response, talk(&["user"]), "there is no response"),
        (Prompt, r#"{"messages": []}"#.into(), "there is no prompt"),
        (Prompt, r#"{"messages": {}}"#.into(), "`messages` must be a list and is an object"),
        (Prompt, r#"{"messages": ["u"]}"#.into(), "`messages[0]` must be an object and is a string"),
        (Prompt, r#"{"messages": [{"role": "user"}]}"#.into(), "`messages[0].content` must be a string and is missing"),
        (Prompt, r#"{"messages": [{"role": "user", "content": ""}]}"#.into(), "`messages[0].content` is empty"),
        (Prompt, talk(&["system"]), "there is no prompt"),
        (Prompt, talk(&["assistant"]), "`messages[0]` is the assistant's where the user's is due"),
        (Prompt, talk(&["user", "user"]), "`messages[1]` is the user's where the assistant's is due"),
        (Prompt, talk(&["user", "system"]), "`messages[1]` is the system's where the assistant's is due"),
        (Prompt, talk(&["human"]), "`messages[0].role` is `human`; use `system`, `user` or `assistant`"),
        (
            Response,
            r#"{"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": ""}]}"#.into(),
            "`messages[1].content` is empty",
        ),
        (
            Response,
            format!(r#"{{"response": "r", {}"#, &talk(&["user", "assistant"])[1..]),
            "`response` and `messages` both give the response",
        ),
        (Prompt, format!(r#"{{"prompt": "x", {}"#, &talk(&["user"])[1..]), "`prompt` and `messages` both give"),
    ] {
        let (line, found) = fault(&format!("{good}\n\n{record}\n{good}\n"), need);
        assert_eq!(line, 3, "{record}");
        let text = found.to_string();
        assert!(text.starts_with(message) && !text.ends_with('.'), "{record}\n{text}");
    }
    let error = read(&format!("{good}\n{{"), Prompt).unwrap_err().to_string();
    assert!(error.starts_with('`') && error.contains("data.jsonl`, line 2: this is not JSON"), "{error}");
}

#[test]
fn an_id_names_one_prompt() {
    let line = |prompt| format!("{{\"id\": \"a\", \"prompt\": \"{prompt}\"}}\n");
    assert_eq!(read(&(line("p") + &line("p")), Need::Prompt).unwrap().len(), 2);
    let (at, found) = fault(&(line("p") + &line("q")), Need::Prompt);
    assert_eq!((at, found), (2, Fault::SharedId { id: "a".into(), first: 1 }));
}

#[test]
fn a_file_without_records_is_an_error() {
    for text in ["", "\n \n"] {
        let error = read(text, Need::Prompt).unwrap_err();
        assert!(matches!(error, DataError::Empty { .. }));
        assert!(error.to_string().contains("holds no record"), "{error}");
    }
    let error = read_records("/absent/data.jsonl".as_ref(), Need::Prompt).unwrap_err().to_string();
    assert_eq!(error, "cannot read `/absent/data.jsonl`: there is no such file or folder; check the path");
    assert!(matches!(fault("{\"prompt\": \"\u{e9}\"}\n\u{e9}", Need::Prompt), (2, Fault::NotJson { .. })));
}
