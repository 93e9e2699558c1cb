//! Every shape is read, and every fault is named with its line.

use std::fs;

use tempfile::tempdir;
use topspin_data::{DataError, Dataset, Fault, Need, Options, Reason, RecordShape, Source};

fn read_with(text: &str, options: &Options) -> Result<Dataset, DataError> {
    let dir = tempdir().unwrap();
    let path = dir.path().join("data.jsonl");
    fs::write(&path, text).unwrap();
    topspin_data::read(&[Source::new(path.to_str().unwrap())], options)
}

fn read(text: &str, need: Need) -> Result<Dataset, DataError> {
    read_with(text, &Options::new(need))
}

fn fault(text: &str, need: Need) -> (usize, Fault) {
    match read(text, need) {
        Err(DataError::Record { place, fault }) => (place.line, fault),
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
    assert_eq!((turns(&r[0]), r[0].response.as_deref(), r[0].place.line), (vec![("user", "p")], Some("r"), 1));
    assert_eq!((r[1].id.as_str(), r[1].response.as_deref()), ("7", Some(" r2")));
    assert_eq!(r[1].references, ["a", "b"]);
    assert_eq!((r[2].id.as_str(), r[2].response.as_deref(), r[2].place.line), ("q-1", Some("a"), 4));
    assert_eq!(turns(&r[3]), [("system", "s"), ("user", "u"), ("assistant", "x"), ("user", "v")]);
    assert_eq!(r[3].response.as_deref(), Some("last"));
    // The same prompt in another shape is the same prompt.
    assert_eq!((&r[4].id, &r[4].messages), (&r[0].id, &r[0].messages));
    assert_eq!((r[0].id.len(), data.repeated_prompts(), data.duplicates().len()), (16, 1, 0));
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
    let absent = [Source::new("/absent/data.jsonl")];
    let error = topspin_data::read(&absent, &Options::new(Need::Prompt)).unwrap_err().to_string();
    assert_eq!(error, "cannot read `/absent/data.jsonl`: there is no such file or folder; check the path");
    assert!(matches!(fault("{\"prompt\": \"\u{e9}\"}\n\u{e9}", Need::Prompt), (2, Fault::NotJson { .. })));
}

/// Every collection's shape, as its own page shows it.
#[test]
fn every_collections_shape_is_read() {
    let talk =
        |last: &str| format!(r#"[{{"role": "user", "content": "u"}}, {{"role": "assistant", "content": "{last}"}}]"#);
    let (good, bad) = (talk("good"), talk("bad"));
    let answer = |text: &str| format!(r#"[{{"role": "assistant", "content": "{text}"}}]"#);
    for (record, prompt, response, rejected) in [
        (
            r#"{"conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "u"},
                {"from": "gpt", "value": "a"}]}"#
                .replace('\n', " "),
            vec![("system", "s"), ("user", "u")],
            "a",
            None,
        ),
        (
            r#"{"conversations": [{"from": "user", "value": "u"}, {"from": "assistant", "value": "a"}]}"#.into(),
            vec![("user", "u")],
            "a",
            None,
        ),
        (r#"{"instruction": "i", "input": "", "output": "o"}"#.into(), vec![("user", "i")], "o", None),
        (r#"{"instruction": "i", "input": "x", "output": "o"}"#.into(), vec![("user", "i\n\nx")], "o", None),
        (r#"{"prompt": "u", "chosen": "good", "rejected": "bad"}"#.into(), vec![("user", "u")], "good", Some("bad")),
        (format!(r#"{{"chosen": {good}, "rejected": {bad}}}"#), vec![("user", "u")], "good", Some("bad")),
        (
            format!(r#"{{"prompt": "u", "chosen": {good}, "rejected": {bad}, "score_chosen": 8.5}}"#),
            vec![("user", "u")],
            "good",
            Some("bad"),
        ),
        (
            format!(
                r#"{{"prompt": [{{"role": "user", "content": "u"}}], "chosen": {}, "rejected": {}}}"#,
                answer("good"),
                answer("bad")
            ),
            vec![("user", "u")],
            "good",
            Some("bad"),
        ),
        (
            format!(r#"{{"prompt": [{{"role": "user", "content": "u"}}], "completion": {}}}"#, answer("good")),
            vec![("user", "u")],
            "good",
            None,
        ),
        (format!(r#"{{"real": {good}, "generated": {bad}}}"#), vec![("user", "u")], "good", Some("bad")),
        // A model may have ended its turn at once.
        (format!(r#"{{"real": {good}, "generated": {}}}"#, talk("")), vec![("user", "u")], "good", Some("")),
        (format!(r#"{{"messages": {}}}"#, serde_json::Value::from(good.as_str())), vec![("user", "u")], "good", None),
    ] {
        let data = read(&record, Need::Response).unwrap_or_else(|e| panic!("{record}: {e}"));
        let found = &data.records[0];
        let parts = (turns(found), found.response.as_deref(), found.rejected.as_deref());
        assert_eq!(parts, (prompt, Some(response), rejected), "{record}");
    }
}

#[test]
fn faults_of_shapes_are_named() {
    let talk = |prompt: &str| {
        format!(r#"[{{"role": "user", "content": "{prompt}"}}, {{"role": "assistant", "content": "a"}}]"#)
    };
    let (u, v) = (talk("u"), talk("v"));
    for (record, message) in [
        (format!(r#"{{"real": {u}, "generated": {v}}}"#), "`real` and `generated` begin with different prompts"),
        (format!(r#"{{"chosen": {u}, "rejected": {v}}}"#), "`chosen` and `rejected` begin with different prompts"),
        (
            format!(r#"{{"prompt": "w", "chosen": {u}, "rejected": {u}}}"#),
            "`prompt` and `chosen` both give the prompt; keep one of them",
        ),
        (
            format!(r#"{{"messages": {u}, "conversations": {u}}}"#),
            "the record has the fields of two shapes, `messages` and `sharegpt`; say which in `data.shape`",
        ),
        (
            r#"{"conversations": [{"from": "robot", "value": "v"}]}"#.into(),
            "`conversations[0].from` is `robot`; use `system`, `human` or `gpt`",
        ),
        (
            r#"{"conversations": [{"from": "gpt", "value": "v"}]}"#.into(),
            "`conversations[0]` is the assistant's where the user's is due",
        ),
        (r#"{"instruction": " ", "output": "o"}"#.into(), "`instruction` is empty"),
        (r#"{"prompt": "p", "instruction": "i", "output": "o"}"#.into(), "`prompt` and `instruction` both give"),
        (r#"{"chosen": "c", "rejected": "r"}"#.into(), "there is no prompt"),
        (r#"{"prompt": "p", "chosen": "c", "rejected": 3}"#.into(), "`chosen` must be a list and is a string"),
        (r#"{"prompt": "p", "chosen": "", "rejected": "r"}"#.into(), "`chosen` is empty"),
        (r#"{"prompt": "p", "response": [{"role": "user", "content": "u"}]}"#.into(), "`response` must be one message"),
    ] {
        let (_, found) = fault(&record, Need::Response);
        let text = found.to_string();
        assert!(text.starts_with(message) && !text.ends_with('.'), "{record}\n{text}");
    }
}

#[test]
fn a_stated_shape_decides_and_columns_may_have_other_names() {
    let talk = r#"[{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]"#;
    let record = format!(r#"{{"messages": {talk}, "prompt": "u", "chosen": {talk}, "rejected": {talk}}}"#);
    let stated = |shape| Options { shape, ..Options::new(Need::Response) };
    assert!(read(&record, Need::Response).is_err());
    let rejected = |shape| read_with(&record, &stated(shape)).unwrap().records[0].rejected.clone();
    assert_eq!(rejected(RecordShape::Messages), None);
    assert_eq!(rejected(RecordShape::Preference).as_deref(), Some("a"));
    let error = read_with(&record, &stated(RecordShape::Spin)).unwrap_err().to_string();
    assert!(
        error.ends_with(
            "there is no `real`, and the shape `spin` needs one; add it, or name its column in `data.columns`"
        )
    );

    let named = |pairs: &[(&str, &str)]| Options {
        columns: pairs.iter().map(|&(field, column)| (field.into(), column.into())).collect(),
        ..Options::new(Need::Response)
    };
    let record = r#"{"frage": "f", "antwort": "a", "prompt": "not this", "id": 3}"#;
    let data = read_with(record, &named(&[("prompt", "frage"), ("response", "antwort")])).unwrap();
    assert_eq!((turns(&data.records[0]), data.records[0].response.as_deref()), (vec![("user", "f")], Some("a")));
    // Two may change places.
    let swapped =
        read_with(r#"{"prompt": "p", "response": "r"}"#, &named(&[("prompt", "response"), ("response", "prompt")]));
    assert_eq!(turns(&swapped.unwrap().records[0]), [("user", "r")]);
    let missing = read_with(record, &named(&[("prompt", "fragen")])).unwrap_err().to_string();
    assert!(missing.contains("there is no prompt"), "{missing}");
}

#[test]
fn unusable_records_are_passed_over_only_on_request_and_told() {
    let text = "{\"prompt\": \"a\", \"response\": \"b\"}\nnot json\n\n{\"prompt\": \"\"}\n{\"prompt\": \"c\", \"response\": \"d\"}\n";
    assert_eq!(fault(text, Need::Response).0, 2);
    let data = read_with(text, &Options { tolerant: true, ..Options::new(Need::Response) }).unwrap();
    assert_eq!(data.records.iter().map(|record| record.number).collect::<Vec<_>>(), [1, 5]);
    let told: Vec<_> = data.unusable.iter().map(|bad| (bad.place.line, bad.reason)).collect();
    assert_eq!(told, [(2, Reason::Malformed), (4, Reason::Empty)]);
    assert_eq!(data.unusable[1].problem, "`prompt` is empty; fill it in or remove the record");
}

#[test]
fn several_files_are_read_in_order_and_numbered_on() {
    let dir = tempdir().unwrap();
    for (name, records) in [("b.jsonl", 2), ("a.jsonl", 3), ("c.csv", 0)] {
        let line = |n| format!("{{\"prompt\": \"{name} {n}\", \"response\": \"r\", \"id\": {n}}}\n\n");
        fs::write(dir.path().join(name), (0..records).map(line).collect::<String>()).unwrap();
    }
    let source = |spec: &str, weight| Source { spec: format!("{}/{spec}", dir.path().display()), weight };
    let options = Options::new(Need::Response);
    let data = topspin_data::read(&[source("*.jsonl", 2.0), source("b.jsonl", 0.5)], &options).unwrap();
    let found: Vec<_> = data.records.iter().map(|r| (r.messages[0].content.as_str(), r.number, r.weight)).collect();
    assert_eq!(
        found,
        [
            ("a.jsonl 0", 1, 2.0),
            ("a.jsonl 1", 3, 2.0),
            ("a.jsonl 2", 5, 2.0),
            ("b.jsonl 0", 6, 2.0),
            ("b.jsonl 1", 8, 2.0),
            ("b.jsonl 0", 9, 0.5),
            ("b.jsonl 1", 11, 0.5)
        ]
    );
    let error = topspin_data::read(&[source("*.tsv", 1.0)], &options).unwrap_err().to_string();
    assert!(error.ends_with("*.tsv` matches no file; check the path"), "{error}");
    let error = topspin_data::read(&[source("a[.jsonl", 1.0)], &options).unwrap_err().to_string();
    assert!(error.contains("is no pattern ("), "{error}");
}
