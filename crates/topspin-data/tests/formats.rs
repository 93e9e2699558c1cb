//! Every format gives the rows that other programs wrote, and no file, however damaged, does harm.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use tempfile::{TempDir, tempdir};
use topspin_data::{DataError, Dataset, Fault, Need, Options, Row, Source, rows};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/data").join(name)
}

/// The rows of a file, all of which are whole.
fn fields(path: &Path) -> Vec<Value> {
    let whole = |row: Result<Row, DataError>| Value::Object(row.unwrap().fields.unwrap());
    rows(path).unwrap_or_else(|e| panic!("{e}")).map(whole).collect()
}

fn expected(name: &str) -> Vec<Value> {
    serde_json::from_str(&fs::read_to_string(golden(name)).unwrap()).unwrap()
}

/// Every file of the folder that holds data.
fn all() -> Vec<String> {
    let entries = fs::read_dir(golden("")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn texts_are_read_as_python_wrote_them() {
    let records = expected("pairs.json");
    assert_eq!(records.len(), 24);
    let names =
        ["pairs.jsonl", "pairs.json", "object.json", "pairs.csv", "pairs.tsv", "pairs.jsonl.gz", "pairs.jsonl.zst"];
    for name in names {
        assert_eq!(fields(&golden(name)), records, "{name}");
    }
}

#[test]
fn parquet_is_read_as_pyarrow_wrote_it() {
    let chat = expected("chat.json");
    let names: Vec<_> = all().into_iter().filter(|name| name.starts_with("chat-")).collect();
    assert_eq!(names.len(), 10);
    for name in names {
        let found = fields(&golden(&name));
        for (at, (found, expected)) in found.iter().zip(&chat).enumerate() {
            assert_eq!(found, expected, "{name}, row {}", at + 1);
        }
        assert_eq!(found.len(), chat.len(), "{name}");
    }
    assert_eq!(fields(&golden("spin.parquet")), expected("spin.json"));
}

#[test]
fn the_official_spin_sets_are_read_as_pairs() {
    let spin = golden("spin.parquet");
    let source = Source::new(spin.to_str().unwrap());
    let data = topspin_data::read(&[source], &Options::new(Need::Response)).unwrap();
    for (record, row) in data.records.iter().zip(expected("spin.json")) {
        assert_eq!(record.messages[0].content, row["real"][0]["content"]);
        assert_eq!(json!(record.response), row["real"][1]["content"]);
        assert_eq!(json!(record.rejected), row["generated"][1]["content"]);
    }
    assert_eq!(data.records[2].place.to_string(), format!("`{}`, row 3", spin.display()));
}

/// A folder with one file in it.
fn file(name: &str, content: impl AsRef<[u8]>) -> (TempDir, PathBuf) {
    let dir = tempdir().unwrap();
    let path = dir.path().join(name);
    fs::write(&path, content).unwrap();
    (dir, path)
}

fn read(path: &Path) -> Result<Dataset, DataError> {
    topspin_data::read(&[Source::new(path.to_str().unwrap())], &Options::new(Need::Response))
}

/// What is said of a file.
fn error(name: &str, content: impl AsRef<[u8]>) -> String {
    let (_dir, path) = file(name, content);
    let error = read(&path).unwrap_err().to_string();
    assert!(!error.ends_with('.') && !error.contains('\n'), "{error}");
    error.replace(&path.display().to_string(), name)
}

#[test]
fn json_of_the_wrong_shape_is_named() {
    let record = r#"{"prompt": "p", "response": "r"}"#;
    let no_document = |problem: &str| format!("cannot read `d.json`: it is no JSON document of records: {problem}");
    for (text, message) in [
        (format!("[\n{record}\n{record}]"), no_document("a comma or `]` is missing behind a record on line 3")),
        (format!("[{record}] x"), no_document("something follows the end of the document on line 1")),
        (format!("[\n{record},\n"), no_document("the document ends where a value is due on line 3")),
        ("3\n4".into(), no_document("neither a list nor an object begins on line 1")),
        (r#"{"version": 1}"#.into(), no_document("the object ends and holds no list of records on line 1")),
        (r#"{"version" 1}"#.into(), no_document("a colon is missing behind a key on line 1")),
        (r#"{version: 1}"#.into(), no_document("a key in quotes is missing on line 1")),
        (
            format!(r#"{{"a": [{record}], "b": []}}"#),
            "cannot read `d.json`: `a` and `b` are lists, and only one can be the records; remove the other".into(),
        ),
        (
            format!("[{record},\n{{\"prompt\": \"p"),
            "cannot read `d.json`: it ends within the value that begins on line 2; it is cut short, fetch it again"
                .into(),
        ),
        (format!("[{record},\n3]"), "`d.json`, line 2: the record must be an object and is a number".into()),
        (format!("[{record},\n{{\n\"prompt\": p}}]"), "`d.json`, line 3: this is not JSON (expected value".into()),
        ("[]".into(), "`d.json` holds no record; write a list of objects, or one JSON object a line".into()),
        (String::new(), "`d.json` holds no record".into()),
    ] {
        let found = error("d.json", &text);
        assert!(found.starts_with(&message), "{text}\n{found}");
    }
    // Many files that are called JSON hold lines, also a single one.
    for text in [format!("{record}\n"), format!("\n{record}\n\n{record}"), format!("{{\"version\": 1}}\n{record}")] {
        let (_dir, path) = file("d.json", &text);
        assert!(rows(&path).unwrap().all(|row| row.unwrap().fields.is_ok()), "{text}");
    }
}

#[test]
fn tables_of_the_wrong_shape_are_named() {
    for (text, message) in [
        ("prompt,response\np,r\np\n", "`d.csv`, line 3: the row has 1 cells and the table 2 columns"),
        ("prompt,response\n\"p\nq\",r\np,r,s\n", "`d.csv`, line 4: the row has 3 cells and the table 2 columns"),
        ("prompt,prompt\np,r\n", "cannot read `d.csv`: its first row names the column `prompt` twice; rename one"),
        ("prompt,response\n", "`d.csv` holds no record"),
        ("", "`d.csv` holds no record"),
        ("prompt,response\n,r\n", "`d.csv`, line 2: there is no prompt"),
    ] {
        let found = error("d.csv", text);
        assert!(found.starts_with(message), "{text}\n{found}");
    }
    assert!(error("d.csv", b"prompt\xff,response\n").contains("its first row is not UTF-8"));
    let found = error("d.csv", b"prompt,response\np\xff,r\n");
    assert_eq!(found, "`d.csv`, line 2: the text is not UTF-8; save the file as UTF-8");
    // A row that cannot be used leaves the next one whole, and a cell may hold a list.
    let talk = r#"[{""role"": ""user"", ""content"": ""u""}, {""role"": ""assistant"", ""content"": ""a""}]"#;
    let (_dir, path) = file("d.csv", format!("id,messages\n1\n2,\"{talk}\"\n"));
    let source = Source::new(path.to_str().unwrap());
    let data = topspin_data::read(&[source], &Options { tolerant: true, ..Options::new(Need::Response) }).unwrap();
    assert_eq!((data.unusable.len(), data.records[0].response.as_deref()), (1, Some("a")));
}

#[test]
fn what_is_cut_short_is_named() {
    for name in all() {
        let whole = fs::read(golden(&name)).unwrap();
        let packed = name.ends_with(".gz") || name.ends_with(".zst") || name.ends_with(".parquet");
        for len in [1, whole.len() / 3, whole.len() - 3, whole.len() - 1].into_iter().filter(|_| packed) {
            let found = error(&name, &whole[..len]);
            let expected = if name.ends_with(".parquet") { "cut short" } else { "stream is damaged or cut short" };
            assert!(found.contains(expected), "{name}, {len} bytes: {found}");
        }
    }
    assert!(error("d.parquet.gz", "x").contains("Parquet is compressed within"));
    assert!(error("d.parquet", "PAR1 and no more").contains("it is not a Parquet file, or cut short"));
    assert!(error("d.jsonl.zst", "no frame").contains("its zstd stream is damaged"));
    assert!(error("d.jsonl.gz", "no member").contains("its gzip stream is damaged"));
    let mut checked = fs::read(golden("pairs.jsonl.zst")).unwrap();
    let last = checked.len() - 1;
    checked[last] ^= 1;
    assert!(error("d.jsonl.zst", checked).contains("its checksum is another"));
}

/// A few kilobytes that unpack to more than a record may have.
fn bomb(start: &str) -> Vec<u8> {
    let mut out = GzEncoder::new(Vec::new(), Compression::fast());
    out.write_all(start.as_bytes()).unwrap();
    let block = vec![b'a'; 1 << 20];
    (0..70).for_each(|_| out.write_all(&block).unwrap());
    out.finish().unwrap()
}

#[test]
fn records_beyond_all_measure_are_refused() {
    let good = "{\"prompt\": \"p\", \"response\": \"r\"}";
    let too_large = |line| format!("the record on line {line} is larger than 64 MiB; split it, or remove it");
    let found = error("d.jsonl.gz", bomb(&format!("{good}\n{{\"prompt\": \"")));
    assert_eq!(found, format!("cannot read `d.jsonl.gz`: {}", too_large(2)));
    let found = error("d.json.gz", bomb(&format!("[{good},\n\n{{\"prompt\": \"")));
    assert!(found.ends_with(&too_large(3)), "{found}");
    let found = error("d.csv.gz", bomb("prompt,response\np,r\np,\"r"));
    assert!(found.ends_with(&too_large(3)), "{found}");
}

#[test]
fn nesting_beyond_all_measure_is_a_fault_of_the_record() {
    let deep = |n: usize| format!("{{\"prompt\": {}{}}}", "[".repeat(n), "]".repeat(n));
    for (name, text) in [("d.jsonl", deep(200_000)), ("d.json", format!("[{}]", deep(200_000)))] {
        let (_dir, path) = file(name, text);
        let Err(DataError::Record { fault: Fault::NotJson { reason, .. }, .. }) = read(&path) else {
            panic!("{name} was read");
        };
        assert_eq!(reason, "recursion limit exceeded");
    }
}

/// Reads a file to its end or to what is wrong with it.
fn exhaust(path: &Path) {
    if let Ok(rows) = rows(path) {
        // Few bytes can stand for many rows.
        rows.take(10_000).for_each(drop);
    }
    let _ = topspin_data::read(
        &[Source::new(path.to_str().unwrap())],
        &Options { tolerant: true, ..Options::new(Need::Response) },
    );
}

const NAMES: [&str; 9] =
    ["d.jsonl", "d.json", "d.csv", "d.tsv", "d.parquet", "d.jsonl.gz", "d.json.zst", "d.csv.zst", "d"];

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = GzEncoder::new(Vec::new(), Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

fn table(records: &[Map<String, Value>], delimiter: u8) -> Vec<u8> {
    let mut out = csv::WriterBuilder::new().delimiter(delimiter).from_writer(Vec::new());
    out.write_record(records[0].keys()).unwrap();
    records.iter().for_each(|r| out.write_record(r.values().map(|cell| cell.as_str().unwrap())).unwrap());
    out.into_inner().unwrap()
}

/// Texts with what formats trip over.
fn hard_text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z\"',;|{}\\[\\]\\\\:#\t\r\n ]{0,12}", "\\PC{0,12}", Just("\u{feff}[\"".into()),]
        .prop_map(|text: String| format!("{text}."))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_same_records_are_the_same_dataset_in_every_format(
        texts in prop::collection::vec((hard_text(), hard_text()), 1..12),
    ) {
        let object = |(n, (prompt, response)): (usize, &(String, String))| {
            let record = json!({"id": format!("r{n}"), "prompt": prompt, "response": response});
            record.as_object().unwrap().clone()
        };
        let records: Vec<_> = texts.iter().enumerate().map(object).collect();
        let lines: String = records.iter().map(|r| format!("{}\n", Value::Object(r.clone()))).collect();
        let list = serde_json::to_vec_pretty(&records).unwrap();
        let files = [
            ("d.jsonl", lines.clone().into_bytes()),
            ("d.ndjson", format!("\u{feff}{}", lines.replace('\n', "\r\n")).into_bytes()),
            ("d.json", lines.clone().into_bytes()),
            ("d.json", list.clone()),
            ("d.json", serde_json::to_vec(&json!({"about": {"a": [1, "]"]}, "rows": records, "b": null})).unwrap()),
            ("d.csv", table(&records, b',')),
            ("d.TSV", table(&records, b'\t')),
            ("d.jsonl.gz", gzip(lines.as_bytes())),
            ("d.json.gz", gzip(&list)),
            ("d.csv.zst", zstd(&table(&records, b','))),
            ("d.jsonl.zst", zstd(lines.as_bytes())),
        ];
        for (name, content) in files {
            let (_dir, path) = file(name, content);
            let data = read(&path).unwrap();
            let found: Vec<_> = data
                .records
                .iter()
                .map(|r| (r.id.clone(), r.messages[0].content.clone(), r.response.clone().unwrap()))
                .collect();
            let expected: Vec<_> =
                texts.iter().enumerate().map(|(n, (p, r))| (format!("r{n}"), p.clone(), r.clone())).collect();
            prop_assert_eq!(found, expected, "{}", name);
        }
    }

    #[test]
    fn no_bytes_do_harm(bytes in prop::collection::vec(any::<u8>(), 0..400), text in "[\\[\\]{}:,\"a-z0-9\\\\ \n]{0,60}") {
        for name in NAMES {
            for content in [&bytes[..], text.as_bytes()] {
                exhaust(&file(name, content).1);
            }
        }
    }

    /// What was changed anywhere gives rows, faults or an error: no panic, no memory without end, no waiting.
    #[test]
    fn no_damage_does_harm(
        which in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
        near_the_end: bool,
    ) {
        let names: Vec<_> = all().into_iter().filter(|name| !name.starts_with("chat.")).collect();
        let name = which.get(&names);
        let mut bytes = fs::read(golden(name)).unwrap();
        for (at, byte) in changes {
            // Footers and headers are the most of a Parquet file's structure, and stand at its end.
            let from = if near_the_end { bytes.len() / 2 } else { 0 };
            let at = from + at.index(bytes.len() - from);
            bytes[at] = byte;
        }
        exhaust(&file(name, bytes).1);
    }
}
