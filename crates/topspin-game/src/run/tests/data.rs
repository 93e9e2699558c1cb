//! What a run makes of its data files.

use std::collections::{BTreeMap, HashSet};

use serde_json::json;

use super::guards::Warned;
use super::settings::lines;
use super::*;

/// Settings of a run that is over after the supervised stage.
const SHORT: [&str; 2] = ["game.iterations=0", "sft.controls=[]"];

fn records(fixture: &Fixture, out: &str) -> Records {
    Manifest::read(Path::new(&fixture.path(out))).unwrap().records
}

/// The records of `train.jsonl` as a table, under other names.
fn write_table(fixture: &Fixture, name: &str) {
    let row =
        |record: &Value| format!("{},{}\n", record["prompt"].as_str().unwrap(), record["response"].as_str().unwrap());
    let rows: String = lines(&fixture.path("train.jsonl")).iter().map(row).collect();
    fs::write(fixture.path(name), format!("frage,antwort\n{rows}")).unwrap();
}

#[test]
fn a_table_with_columns_of_other_names_is_the_same_data() {
    let fixture = Fixture::new();
    write_table(&fixture, "train.csv");
    let train = format!("data.train={}", fixture.path("train.csv"));
    let test = format!("data.test={}", fixture.path("train.csv"));
    let columns = "data.columns={prompt='frage', response='antwort'}";
    let sets = [SHORT[0], SHORT[1], "eval.greedy=false", "eval.sampled=false"];
    fixture.play("table", &[&sets[..], &[&train, &test, columns]].concat()).unwrap();
    fixture.play("again", &[&sets[..], &[&format!("data.test={}", fixture.path("train.jsonl"))]].concat()).unwrap();
    let model = |out: &str| fs::read(fixture.path(&format!("{out}/iter-0/model/model.safetensors"))).unwrap();
    assert!(model("table") == model("again"));
    let eval = |out: &str| fs::read_to_string(fixture.path(&format!("{out}/iter-0/eval.json"))).unwrap();
    assert_eq!(eval("table"), eval("again"));
    assert_eq!(records(&fixture, "table"), records(&fixture, "again"));
}

#[test]
fn weights_say_how_often_the_records_of_a_file_are_drawn() {
    let fixture = Fixture::new();
    fixture.write_data("more.jsonl", 10, 5);
    let [first, more] = ["train.jsonl", "more.jsonl"].map(|name| fixture.path(name));
    let train = |weight: f64| format!("data.train=['{first}', {{ path = '{more}', weight = {weight} }}]");
    let sets = ["data.prompts=0", "game.iterations=1", "game.samples=1", "sft.controls=[]"];
    let play = |out: &str, weight| fixture.play(out, &[&sets[..], &[&train(weight)]].concat());
    play("twice", 2.0).unwrap();
    let found = records(&fixture, "twice");
    assert_eq!((found.read, found.train), (24 + 10 + 6, 24 + 2 * 10));
    // Each copy draws samples of its own.
    let rollouts = lines(&fixture.path("twice/iter-1/rollouts.jsonl"));
    let numbers: HashSet<_> = rollouts.iter().map(|rollout| rollout["line"].as_u64().unwrap()).collect();
    assert_eq!((rollouts.len(), numbers.len()), (44, 44));
    assert!(numbers.contains(&(24 + 10)) && numbers.contains(&(2 * (24 + 10))));

    play("half", 0.5).unwrap();
    let half = records(&fixture, "half").train;
    assert!((24..34).contains(&half), "{half}");
    let error = play("half", 0.6).unwrap_err().to_string();
    assert!(error.contains("what `data.train.2` names has changed"), "{error}");
    assert!(error.contains(&format!("(the weight of `{more}`: 0.5 -> 0.6)")), "{error}");
    let error = fixture.play("half", &sets).unwrap_err().to_string();
    assert!(error.contains("what `data.train.1` names has changed"), "{error}");
}

#[test]
fn a_pattern_is_held_to_the_files_that_it_stood_for() {
    let fixture = Fixture::new();
    fs::create_dir(fixture.path("parts")).unwrap();
    fixture.write_data("parts/a.jsonl", 12, 1);
    fixture.write_data("parts/b.jsonl", 12, 3);
    let train = format!("data.train={}", fixture.path("parts/*.jsonl"));
    let play = || fixture.play("out", &[SHORT[0], SHORT[1], &train]);
    play().unwrap();
    play().unwrap();
    assert_eq!(records(&fixture, "out").read, 30);
    fixture.write_data("parts/c.jsonl", 12, 4);
    let error = play().unwrap_err().to_string();
    assert!(error.contains(&format!("(`{}` is new)", fixture.path("parts/c.jsonl"))), "{error}");
}

#[test]
fn unusable_records_are_left_out_only_up_to_a_share_and_are_named() {
    let fixture = Fixture::new();
    let data = fs::read_to_string(fixture.path("train.jsonl")).unwrap();
    let long = format!("{{\"prompt\": \"{}\", \"response\": \"b\"}}", "a".repeat(60));
    let twice = data.lines().next().unwrap();
    let bad =
        format!("{{\"prompt\": \"ab\"}}\nnot JSON\n{long}\n{{\"prompt\": \"é\", \"response\": \"b\"}}\n{twice}\n");
    fs::write(fixture.path("train.jsonl"), format!("{data}{bad}")).unwrap();
    let play = |most: &str| fixture.play("out", &[SHORT[0], SHORT[1], &format!("data.max_unusable={most}")]);

    let strict = play("0").unwrap_err().to_string();
    assert!(strict.contains("train.jsonl`, line 25: there is no response"), "{strict}");
    // 4 of 29 records and of the 6 of the test file.
    let refused = play("0.1").unwrap_err().to_string();
    let expected = "4 of 35 records cannot be used (1 empty, 2 malformed, 1 too long), more than `data.max_unusable` = 0.1 \
                    allows; mend them, or raise it; the first is `";
    assert!(refused.starts_with(expected) && refused.contains("line 25: there is no response"), "{refused}");
    assert!(!Path::new(&fixture.path("out/manifest.json")).exists());

    play("0.2").unwrap();
    let found = records(&fixture, "out");
    assert_eq!((found.read, found.train, found.test), (35, 25, 6));
    // Random data may repeat itself.
    assert!(found.duplicates >= 1);
    let reasons = [("empty", 1), ("malformed", 2), ("too long", 1)].map(|(reason, n)| (reason.to_owned(), n));
    assert_eq!(found.unusable, BTreeMap::from(reasons));
    let skipped = lines(&fixture.path("out/skipped.jsonl"));
    let mut told: Vec<_> = skipped.iter().map(|line| (line["line"].clone(), line["reason"].clone())).collect();
    told.sort_by_key(|(line, _)| line.as_u64());
    let expected = [(25, "empty"), (26, "malformed"), (27, "too_long"), (28, "malformed")];
    assert_eq!(told, expected.map(|(line, reason)| (json!(line), json!(reason))));
    assert!(skipped.iter().all(|line| line["problem"].is_string() && line["file"] == fixture.path("train.jsonl")));
    // What is allowed may change while a run is under way: it changes no artefact.
    play("0.5").unwrap();
}

/// Training on what is evaluated on is said, and a held-out share never does.
#[test]
fn prompts_on_both_sides_are_told() {
    let fixture = Fixture::new();
    let train = fs::read_to_string(fixture.path("train.jsonl")).unwrap();
    fs::write(fixture.path("test.jsonl"), train.lines().take(3).map(|line| format!("{line}\n")).collect::<String>())
        .unwrap();
    let warned = |out: &str, sets: &[&str]| {
        let mut warned = Warned::default();
        let config = fixture.config(out, &[&SHORT[..], sets].concat());
        play(&config, &mut warned, &AtomicBool::new(false)).unwrap();
        warned.0.into_iter().find(|line| line.contains("evaluated on as well"))
    };
    let said = warned("out", &[]).unwrap();
    assert!(said.starts_with("3 records to train on have prompts that are evaluated on as well"), "{said}");
    assert_eq!(records(&fixture, "out").tested, 3);
    assert_eq!(warned("held", &["data.test=", "data.test_share=0.2"]), None);
    assert_eq!(records(&fixture, "held").tested, 0);
}
