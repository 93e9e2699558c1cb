//! A run's page, from folders written here by hand.

use std::fs;
use std::io::Read;
use std::path::Path;

use base64::prelude::{BASE64_STANDARD, Engine};
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;
use topspin_eval::page::{Folder, Most, PageError, Piece, RunPage, html};

const MOST: Most = Most { prompts: 100, answers: 8 };

/// A run's folder.
struct Run(TempDir);

impl Run {
    fn new(stages: &[Value]) -> Self {
        let run = Self(TempDir::new().unwrap());
        run.write(
            "config.toml",
            "[model]\npath = 'm'\n[eval]\nbest = 'greedy.tokens.mean'\ngoal = 'lowest'\n[new]\nkey = [1, 2]\n",
        );
        run.write(
            "manifest.json",
            &json!({"format": 9, "topspin": "9.1", "seed": 3, "stages": stages, "new": {}}).to_string(),
        );
        run
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn write_lines(&self, name: &str, lines: &[Value]) {
        self.write(name, &lines.iter().map(|line| format!("{line}\n")).collect::<String>());
    }

    fn page(&self, most: Most) -> Result<RunPage, PageError> {
        RunPage::read(&Folder::open(self.0.path())?, Some(&spell), most)
    }

    fn problem(&self) -> String {
        self.page(MOST).unwrap_err().to_string()
    }
}

/// Letters for ids, and a special end.
fn spell(ids: &[u32]) -> Vec<Piece> {
    let piece = |&id: &u32| match id {
        0 => Piece { text: "<end>".into(), special: true },
        id => Piece { text: char::from_u32(96 + id).unwrap().into(), special: false },
    };
    ids.iter().map(piece).collect()
}

fn done(name: &str) -> Value {
    json!({"name": name, "state": "done", "files": {}, "new": 1})
}

fn pending(name: &str) -> Value {
    json!({"name": name, "state": "pending"})
}

fn text(pages: &[RunPage]) -> String {
    let mut out = Vec::new();
    html(pages, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

/// What stands between two marks.
fn cut<'a>(page: &'a str, from: &str, to: &str) -> &'a str {
    page.split_once(from).unwrap().1.split_once(to).unwrap().0
}

/// The data in a page: what is drawn at once, and the packed part of each run.
fn data(page: &str) -> (Value, Vec<Value>) {
    let runs = serde_json::from_str(cut(page, "id=\"runs\">", "</script>")).unwrap();
    let packed = cut(page, "id=\"packed\">", "</script>").split_whitespace();
    let unpack = |packed: &str| {
        let mut json = String::new();
        flate2::read::GzDecoder::new(&BASE64_STANDARD.decode(packed).unwrap()[..]).read_to_string(&mut json).unwrap();
        serde_json::from_str(&json).unwrap()
    };
    (runs, packed.map(unpack).collect())
}

fn report(mean: f64) -> String {
    json!({"bootstrap": {"seed": 0, "replicates": 2000}, "figures": {
        "greedy.tokens.mean": {"value": mean, "low": mean - 1.0, "high": mean + 1.0, "n": 3},
        "nll.per_token": {"value": mean / 10.0, "low": mean / 10.0 - 0.03, "high": mean / 10.0 + 0.04, "n": 3}}})
    .to_string()
}

fn generation(id: &str, tokens: &[u32]) -> Value {
    let response: String = spell(tokens).into_iter().filter(|piece| !piece.special).map(|piece| piece.text).collect();
    json!({"id": id, "prompt": format!("say {id}"), "references": ["ab"], "response": response, "token_ids": tokens,
        "finish_reason": if tokens.ends_with(&[0]) { "stop" } else { "length" }, "new": true})
}

/// What is known of each test prompt: the answer's length.
fn evaluated(lengths: [usize; 3]) -> Vec<Value> {
    let line =
        |(at, length)| json!({"line": at, "id": format!("p{at}"), "units": {"greedy.tokens.mean": length as f64}});
    lengths.into_iter().enumerate().map(line).collect()
}

fn response(tokens: &[u32], logprobs: &[f64]) -> Value {
    json!({"token_ids": tokens, "logprobs": logprobs, "finish": "stop"})
}

/// Three stages, the last of which is the best by a hair.
fn played() -> Run {
    let train = json!({"name": "iter-1/train", "state": "done", "figures": {"accuracy": 0.75, "loss": 0.5, "real_change": -2.0},
        "guards": [{"guard": "real", "step": 7, "sentence": "it fell"}]});
    let stages = [
        done("base/eval"),
        done("iter-0/train"),
        done("iter-0/eval"),
        done("iter-1/pairs"),
        train,
        done("iter-1/eval"),
        done("iter-2/pairs"),
        pending("iter-2/train"),
    ];
    let run = Run::new(&stages);
    for (folder, lengths) in [("base", [4, 5, 6]), ("iter-0", [3, 3, 3]), ("iter-1", [2, 3, 2])] {
        run.write(&format!("{folder}/eval.json"), &report(lengths.iter().sum::<usize>() as f64 / 3.0));
        let answer = |(at, &length): (usize, &usize)| {
            generation(&format!("p{at}"), &[&vec![1 + at as u32; length - 1][..], &[0]].concat())
        };
        run.write_lines(&format!("{folder}/greedy.jsonl"), &lengths.iter().enumerate().map(answer).collect::<Vec<_>>());
        run.write_lines(&format!("{folder}/eval.jsonl"), &evaluated(lengths));
    }
    let metrics = |steps: u32, game: bool| {
        let line = |step| match game {
            true => {
                json!({"step": step, "train/loss": 0.5, "rewards/margins": f64::from(step), "train/grad_norm": 1, "train/learning_rate": 1e-3, "new/one": 2})
            }
            // As earlier versions had it.
            false => json!({"step": step, "loss": 2.5, "grad_norm": 1, "lr": 1e-3}),
        };
        (1..=steps).map(line).collect::<Vec<_>>()
    };
    run.write_lines("iter-0/metrics.jsonl", &metrics(4, false));
    run.write_lines("iter-0/throughput.jsonl", &[json!({"step": 2, "tokens_per_second": 50.5, "mfu": 0.5})]);
    run.write_lines("iter-1/metrics.jsonl", &metrics(3, true));
    // The third line is being written.
    run.write("iter-2/metrics.partial.jsonl", &format!("{}\n{}\n{{\"st", metrics(2, true)[0], metrics(2, true)[1]));
    let tree = |id: &str, real: Value, generated: Vec<Value>| json!({"prompt_id": id, "prompt": [0, 9, id.len(), 0], "real": real, "generated": generated});
    run.write_lines(
        "iter-1/pairs.jsonl",
        &[
            tree(
                "x",
                response(&[1, 2, 0], &[-1.0, -2.0, -0.5]),
                vec![
                    response(&[3, 0], &[-1.0, -0.25]),
                    response(&[3, 0], &[-1.0, -0.25]),
                    response(&[4, 0], &[-4.0, -0.25]),
                ],
            ),
            tree("yy", response(&[1, 0], &[-1.0, -0.5]), vec![response(&[2, 0], &[-1.5, -0.25])]),
        ],
    );
    // The opponent of the second round scores the real answer anew, and an answer of the first.
    run.write_lines(
        "iter-2/pairs.jsonl",
        &[tree("x", response(&[1, 2, 0], &[-0.5, -2.25, -0.5]), vec![response(&[3, 0], &[-3.0, -0.5])])],
    );
    run
}

#[test]
fn a_page_holds_what_the_files_say() {
    let (runs, game) = data(&text(&[played().page(MOST).unwrap()]));
    let page = &runs["pages"][0];
    let results = &page["results"];
    assert_eq!((&results["metric"], &results["best"]), (&json!("greedy.tokens.mean"), &json!(2)));
    let of = |from: usize, to: usize, name: &str| {
        let all = results["differences"].as_array().unwrap();
        let found = all.iter().find(|d| d["from"] == from && d["to"] == to).unwrap();
        found["figures"][name].clone()
    };
    // By prompt: -1, 0, -1.
    let lengths = of(1, 2, "greedy.tokens.mean");
    assert!((lengths["value"].as_f64().unwrap() + 2.0 / 3.0).abs() < 1e-12 && lengths["paired"] == true, "{lengths}");
    assert_eq!((lengths["low"].as_f64(), lengths["high"].as_f64()), (Some(-1.0), Some(0.0)));
    // Where nothing is known by prompt: the ends by squares and sums.
    let nll = of(0, 1, "nll.per_token");
    let close = |value: &Value, expected: f64| (value.as_f64().unwrap() - expected).abs() < 1e-9;
    assert!(
        close(&nll["value"], -0.2) && close(&nll["low"], -0.25) && close(&nll["high"], -0.15) && nll["paired"] == false,
        "{nll}"
    );

    // Steps count on.
    let curves = page["curves"].as_array().unwrap();
    let places: Vec<_> = curves
        .iter()
        .map(|c| (c["folder"].as_str().unwrap(), c["before"].as_u64().unwrap(), c["steps"].as_u64().unwrap()))
        .collect();
    assert_eq!(places, [("iter-0", 0, 4), ("iter-1", 4, 3), ("iter-2", 7, 2)]);
    assert_eq!(curves[1]["series"]["rewards/margins"], json!([1.0, 2.0, 3.0]));
    assert_eq!(curves[1]["series"]["new/one"], json!([2.0, 2.0, 2.0]));
    assert_eq!(curves[0]["series"]["train/loss"], json!([2.5, 2.5, 2.5, 2.5]));
    assert_eq!(curves[0]["series"]["train/learning_rate"], json!([1e-3, 1e-3, 1e-3, 1e-3]));
    assert_eq!(curves[0]["series"]["tokens_per_second"], json!([null, 50.5, null, null]));

    assert_eq!(page["guards"], json!([{"stage": "iter-1/train", "step": 7, "sentence": "it fell"}]));
    let glance: Vec<_> = page["glance"]
        .as_array()
        .unwrap()
        .iter()
        .map(|a| (a["short"].as_str().unwrap(), a["tone"].as_str().unwrap()))
        .collect();
    assert_eq!(
        glance,
        [
            ("iter-1", "neutral"),
            ("−0.667 against iter-0", "neutral"),
            ("Yes: tells 75% of pairs apart", "good"),
            ("A guard fired", "bad")
        ]
    );
    let notes = page["notes"].as_array().unwrap();
    assert_eq!(notes.len(), 1);
    assert!(
        notes[0]
            .as_str()
            .unwrap()
            .starts_with("The run is not finished: 7 of 8 stages are done, and iter-2/train is next"),
        "{notes:?}"
    );

    let (tests, training) = (&game[0]["tests"], &game[0]["training"]);
    let spelled = |tokens: &Value| -> String {
        tokens
            .as_array()
            .unwrap()
            .iter()
            .map(|at| game[0]["pieces"]["texts"][at.as_u64().unwrap() as usize].as_str().unwrap())
            .collect()
    };
    let answers = tests["prompts"][1]["answers"].as_array().unwrap();
    assert_eq!(
        answers.iter().map(|answer| spelled(&answer["tokens"])).collect::<Vec<_>>(),
        ["bbbb<end>", "bb<end>", "bb<end>"]
    );
    // Five tokens and three, three of them in common.
    assert_eq!(tests["prompts"][1]["change"], json!(0.25));

    assert_eq!((training["rounds"].clone(), training["total"].clone()), (json!(["iter-1", "iter-2"]), json!(2)));
    let prompt = &training["prompts"][0];
    // What both prompts begin and end with is set apart, up to the special token.
    assert_eq!(
        (training["prefix"].as_str(), spelled(&prompt["prompt"]), training["suffix"].as_str()),
        (Some("<end>"), "ia".into(), Some("<end>"))
    );
    assert_eq!(prompt["rounds"][0]["generated"], json!([[1, 2], [2, 1]]));
    assert_eq!(prompt["rounds"][1]["generated"], json!([[1, 1]]));
    assert_eq!(prompt["answers"][0]["scores"][1], json!({"by": 1, "logprobs": [-50, -225, -50], "sum": -3.25}));
    // -3.25 against -3.5; from -3.5 to -3.25; and the generated one from -1.25 to -3.5.
    assert_eq!((&prompt["gap"], &prompt["change"], &prompt["margin"]), (&json!(0.25), &json!(0.25), &json!(2.5)));
    // -1.5 against -1.75; nobody else scored it.
    let other = &training["prompts"][1];
    assert_eq!((&other["gap"], &other["change"], &other["margin"]), (&json!(0.25), &json!(null), &json!(null)));
}

/// Base, supervised model and an iteration, each of which has scored the real answer, its own sample and that of the model before.
fn scored() -> Run {
    let run = Run::new(&["base/eval", "iter-0/eval", "control-1/eval", "iter-1/eval"].map(done));
    let sample = |folder: &str| match folder {
        "base" => vec![3, 3, 0],
        "iter-0" => vec![1, 0],
        _ => vec![2, 0],
    };
    for (folder, before, real, own, other) in [
        ("base", None, [-1.0, -2.0, -3.0], [-0.5, -0.25].to_vec(), None),
        ("iter-0", Some("base"), [-0.5, -1.25, -0.125], vec![-1.0, -0.0625], Some(vec![-2.0, -1.5, -4.0])),
        ("control-1", Some("iter-0"), [-0.5, -1.0, -0.125], vec![-1.0, -0.5], Some(vec![-1.0, -0.0625])),
        ("iter-1", Some("iter-0"), [-0.75, -1.25, -0.125], vec![-3.0, -0.5], Some(vec![-1.5, -0.125])),
    ] {
        let mut report: Value = serde_json::from_str(&report(2.0)).unwrap();
        report["before"] = json!(before);
        run.write(&format!("{folder}/eval.json"), &report.to_string());
        // Two records have one id; the second is like the first, but for its own sample.
        let twice = [sample(folder), vec![4, 4, 4]].map(|tokens| generation("p", &tokens));
        run.write_lines(&format!("{folder}/sampled.jsonl"), &twice);
        run.write_lines(&format!("{folder}/greedy.jsonl"), &twice);
        let mut responses = json!({"real": {"token_ids": [1, 2, 0], "logprobs": real}, "sampled": {"token_ids": sample(folder), "logprobs": own}});
        if let (Some(before), Some(other)) = (before, other) {
            responses["sampled_before"] = json!({"token_ids": sample(before), "logprobs": other});
        }
        let line = |line| json!({"line": line, "id": "p", "responses": responses, "units": {}});
        run.write_lines(&format!("{folder}/eval.jsonl"), &[line(1), line(2)]);
    }
    run
}

#[test]
fn test_prompts_have_what_the_next_stage_makes_of_them() {
    let (_, game) = data(&text(&[scored().page(MOST).unwrap()]));
    let tests = &game[0]["tests"];
    let stage = |folder: &str, before: Option<usize>| json!({"folder": folder, "before": before});
    let stages = [stage("base", None), stage("iter-0", Some(0)), stage("control-1", Some(1)), stage("iter-1", Some(1))];
    assert_eq!(tests["stages"], json!(stages));
    let prompt = &tests["prompts"][0];
    assert_eq!(
        prompt["real"]["scores"],
        json!([
            {"by": 0, "logprobs": [-100, -200, -300], "sum": -6.0},
            {"by": 1, "logprobs": [-50, -125, -13], "sum": -1.875},
            {"by": 2, "logprobs": [-50, -100, -13], "sum": -1.625},
            {"by": 3, "logprobs": [-75, -125, -13], "sum": -2.125},
        ])
    );
    assert_eq!(prompt["real"]["tokens"].as_array().unwrap().len(), 3);
    let answers = prompt["answers"].as_array().unwrap();
    let of = |folder: &str, kind: &str| answers.iter().find(|a| a["folder"] == folder && a["kind"] == kind).unwrap();
    assert_eq!(of("iter-0", "greedy")["scores"], Value::Null);
    assert_eq!(
        of("iter-0", "sampled")["scores"],
        json!([
            {"by": 1, "logprobs": [-100, -6], "sum": -1.063},
            {"by": 2, "logprobs": [-100, -6], "sum": -1.063},
            {"by": 3, "logprobs": [-150, -13], "sum": -1.625},
        ])
    );
    // What has a log-probability for some tokens only has none for any; the sum of those is what it is.
    assert_eq!(of("base", "sampled")["scores"][0], json!({"by": 0, "sum": -0.75}));
    // -1.875 + 6 - (-7.5 + 0.75); -1.625 + 1.875; -2.125 + 1.875 - (-1.625 + 1.0625).
    assert_eq!(prompt["margins"], json!([[1, 10.875], [2, 0.25], [3, 0.313]]));
    assert_eq!(tests["prompts"][1]["nth"], 1);
    assert_eq!(tests["prompts"][1]["real"]["scores"], prompt["real"]["scores"]);

    // Without a tokenizer the answers are texts, and the sums are known all the same.
    let run = scored();
    let page = RunPage::read(&Folder::open(run.0.path()).unwrap(), None, MOST).unwrap();
    let (_, game) = data(&text(&[page]));
    let prompt = &game[0]["tests"]["prompts"][0];
    assert_eq!(prompt["real"]["scores"][1], json!({"by": 1, "sum": -1.875}));
    assert_eq!(game[0]["pieces"]["texts"][prompt["real"]["tokens"][0].as_u64().unwrap() as usize], "ab");
    assert_eq!(prompt["margins"][2], json!([3, 0.313]));
}

fn glance(run: &Run, question: usize) -> (String, String, String) {
    let answer = data(&text(&[run.page(MOST).unwrap()])).0["pages"][0]["glance"][question].clone();
    (answer["short"].as_str().unwrap().into(), answer["tone"].as_str().unwrap().into(), answer["why"].to_string())
}

/// A policy step has no pairs: its samples' scores say whether it learns.
#[test]
fn a_policy_step_is_judged_by_its_scores() {
    let stage = |name: &str, figures: Value| json!({"name": name, "state": "done", "figures": figures});
    let scores = |samples: f64| json!({"responses": 8, "generated": samples, "weighted": samples + 0.125});
    let train = || json!({"steps": 3, "loss": 1.5});
    let mut stages = vec![stage("iter-1/scores", scores(0.25)), stage("iter-1/train", train())];
    let (short, tone, _) = glance(&Run::new(&stages), 2);
    assert_eq!((&*short, &*tone), ("The next samples will tell", "neutral"));
    stages.push(stage("iter-2/scores", scores(0.5)));
    let (short, tone, why) = glance(&Run::new(&stages), 2);
    assert_eq!((&*short, &*tone), ("Yes: samples score 0.250, then 0.500", "good"));
    assert!(
        why.contains("iter-2: the samples score 0.500 on average; weighted, what training is after, 0.625."),
        "{why}"
    );
    let (short, tone, _) = glance(&Run::new(&stages), 3);
    assert_eq!((&*short, &*tone), ("No guard fired", "neutral"));
    stages.push(stage("iter-3/scores", scores(0.125)));
    assert_eq!(glance(&Run::new(&stages), 2).1, "bad");
}

/// An iteration in rounds is told of by round while it is at work, and then as one; where its last steps tell nothing of pairs, the
/// held-out ones do.
#[test]
fn rounds_are_judged_together() {
    let stage = |name: &str, figures: Value| json!({"name": name, "state": "done", "figures": figures});
    let side = |tokens: f64| json!({"mean_tokens": tokens, "cut": 0.0});
    let pairs = |tokens: f64| json!({"pairs": 4, "real": side(6.0), "generated": side(tokens)});
    let train = |loss: f64, accuracy: f64, change: f64| json!({"first_loss": 0.75, "loss": loss, "accuracy": accuracy, "real_change": change, "generated_change": -1.0});
    let mut stages = vec![
        stage("iter-1/round-1/pairs", pairs(8.0)),
        stage("iter-1/round-1/train", train(0.5, 0.9, -0.5)),
        stage("iter-1/round-2/pairs", pairs(9.0)),
    ];
    let (short, _, why) = glance(&Run::new(&stages), 2);
    assert_eq!(short, "Yes: tells 90% of pairs apart");
    assert!(why.starts_with("[\"iter-1/round-1: 90%"), "{why}");
    assert_eq!(glance(&Run::new(&stages), 3).0, "Real answers grew less likely in 1 of 1 iterations");

    stages.extend([stage("iter-1/train", train(0.75, 0.0, 0.25)), done("iter-1/eval")]);
    let run = Run::new(&stages);
    assert_eq!(glance(&run, 2).0, "Not known yet");
    let figure = |value: f64| json!({"value": value, "low": null, "high": null, "stderr": null, "n": 4});
    let figures = json!({"discrimination.log_ratio.pairs": figure(0.75), "discrimination.log_ratio.auc": figure(0.8), "discrimination.length.auc": figure(0.5)});
    run.write("iter-1/eval.json", &json!({"bootstrap": {"seed": 0, "replicates": 2}, "figures": figures}).to_string());
    let (short, _, why) = glance(&run, 2);
    assert_eq!(short, "Yes: tells 75% of pairs apart");
    assert!(
        why.contains("iter-1: its last steps were each the first against a new opponent") && !why.contains("round-1"),
        "{why}"
    );
    let (short, _, why) = glance(&run, 3);
    assert_eq!(short, "No sign of it");
    assert!(why.contains("its opponent's answers have 9.0 tokens") && !why.contains("round-"), "{why}");
}

/// Two runs on the same test prompts are compared prompt by prompt.
#[test]
fn two_runs_are_laid_over_each_other() {
    let (one, other) = (played(), played());
    other.write_lines("iter-1/eval.jsonl", &evaluated([3, 3, 3]));
    let (runs, game) = data(&text(&[one.page(MOST).unwrap(), other.page(MOST).unwrap()]));
    assert_eq!(game.len(), 2);
    let between = runs["between"].as_array().unwrap();
    assert_eq!(between.len(), 3);
    let difference = &between[2]["figures"]["greedy.tokens.mean"];
    assert!(
        (difference["value"].as_f64().unwrap() - 2.0 / 3.0).abs() < 1e-12 && difference["paired"] == true,
        "{difference}"
    );
}

#[test]
fn limits_are_told() {
    let page = played().page(Most { prompts: 1, answers: 1 }).unwrap();
    let (runs, game) = data(&text(&[page]));
    let notes = runs["pages"][0]["notes"].to_string();
    for note in [
        "Of 3 test prompts the first 1 can",
        "Of 2 training prompts the first 1 can",
        "the 1 most frequent",
        "--prompts 1",
        "--answers 1",
    ] {
        assert!(notes.contains(note), "{note}\n{notes}");
    }
    assert_eq!((&game[0]["tests"]["total"], game[0]["tests"]["prompts"].as_array().unwrap().len()), (&json!(3), 1));
    assert_eq!(game[0]["training"]["prompts"][0]["rounds"][0]["omitted"], 1);
    // Figures are those of all prompts.
    assert_eq!(runs["pages"][0]["results"]["differences"][2]["figures"]["greedy.tokens.mean"]["paired"], true);
}

/// An iteration in rounds: the steps of those that are finished, then those of the iteration, each once.
#[test]
fn rounds_count_once() {
    let run =
        Run::new(&["iter-1/round-1/pairs", "iter-1/round-1/train", "iter-1/round-2/pairs", "iter-1/train"].map(done));
    let lines = |steps: u32| (1..=steps).map(|step| json!({"step": step, "train/loss": step})).collect::<Vec<_>>();
    run.write_lines("iter-1/round-1/metrics.jsonl", &lines(2));
    let steps =
        |run: &Run| data(&text(&[run.page(MOST).unwrap()])).0["pages"][0]["curves"][0]["series"]["train/loss"].clone();
    assert_eq!(steps(&run), json!([1.0, 2.0]));
    run.write_lines("iter-1/metrics.jsonl", &lines(3));
    assert_eq!(steps(&run), json!([1.0, 2.0, 3.0]));
}

#[test]
fn long_curves_are_means_of_steps() {
    let run = Run::new(&[done("iter-0/train")]);
    run.write_lines(
        "iter-0/metrics.jsonl",
        &(1..=2001).map(|step| json!({"step": step, "train/loss": step})).collect::<Vec<_>>(),
    );
    let (runs, _) = data(&text(&[run.page(MOST).unwrap()]));
    let curve = &runs["pages"][0]["curves"][0];
    let loss = curve["series"]["train/loss"].as_array().unwrap();
    assert_eq!(
        (&curve["steps_per_point"], loss.len(), &loss[0], &loss[666]),
        (&json!(3), 667, &json!(2.0), &json!(2000.0))
    );
    assert!(runs["pages"][0]["notes"].to_string().contains("3 in iter-0"));
}

/// A run that is out of patience has ended, though stages are left.
#[test]
fn an_early_end_is_told() {
    let mut stages = ["iter-0/eval", "iter-1/eval", "iter-2/eval"].map(done).to_vec();
    stages.push(pending("iter-3/rollouts"));
    let notes = |patience: usize, stages: &[Value]| {
        let run = Run::new(stages);
        run.write(
            "config.toml",
            &format!("[eval]\nbest = 'greedy.tokens.mean'\ngoal = 'lowest'\npatience = {patience}\n"),
        );
        for (folder, mean) in [("iter-0", 3.0), ("iter-1", 2.0), ("iter-2", 2.5)] {
            run.write(&format!("{folder}/eval.json"), &report(mean));
        }
        data(&text(&[run.page(MOST).unwrap()])).0["pages"][0]["notes"].clone()
    };
    assert_eq!(notes(1, &stages), json!(["The run ended after 1 iteration without a better one (eval.patience)."]));
    for patience in [0, 2] {
        let notes = notes(patience, &stages).to_string();
        assert!(notes.contains("3 of 4 stages are done, and iter-3/rollouts is next"), "{notes}");
    }
    assert_eq!(notes(1, &stages[..3]), json!([]));
}

#[test]
fn an_empty_run_is_a_page() {
    let run = Run::new(&[pending("base/greedy")]);
    fs::remove_file(run.0.path().join("config.toml")).unwrap();
    let (runs, _) = data(&text(&[run.page(MOST).unwrap()]));
    let notes = runs["pages"][0]["notes"].to_string();
    assert!(notes.contains("0 of 1 stages are done") && notes.contains("no config.toml"), "{notes}");
    assert_eq!(runs["pages"][0]["glance"][0]["short"], "Not known yet");
}

#[test]
fn what_cannot_be_read_is_named() {
    let none = TempDir::new().unwrap();
    let problem = |dir: &Path| Folder::open(dir).unwrap_err().to_string();
    assert!(problem(none.path()).contains("is not the folder of a run: it has no `manifest.json`"));
    assert!(problem(&none.path().join("x")).starts_with("cannot read `"));
    for (file, content, said) in [
        ("manifest.json", "{\"stages\": [\n{}]}", "line 2 of `"),
        ("config.toml", "[eval]\nbest = \n", "line 2 of `"),
        ("iter-1/eval.json", "{\"bootstrap\":\n 3}", "line 2 of `"),
        ("iter-1/greedy.jsonl", "{}\n", "line 1 of `"),
        ("iter-1/metrics.jsonl", "{\"step\": 1}\n{\"st", "line 2 of `"),
        ("iter-1/pairs.jsonl", "\n", "line 1 of `"),
    ] {
        let run = played();
        run.write(file, content);
        let problem = run.problem();
        assert!(
            problem.starts_with(said) && problem.contains(file) && problem.contains("cannot be understood"),
            "{problem}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 8, ..ProptestConfig::default() })]

    /// Whatever a run holds, the page has three scripts of its own and no other element, and its data read back.
    #[test]
    fn texts_stay_texts(
        parts in prop::collection::vec(
            prop_oneof![Just("</script>"), Just("<script>"), Just("<!--"), Just("{{"), Just("}}"), Just("{{script}}"), Just("\u{2028}"),
                Just("<img src=x onerror=alert(1)>"), Just("&lt;"), Just("\""), Just("\\"), Just("\n"), Just("a")], 0..6),
        any in "\\PC{0,9}",
    ) {
        let nasty = parts.concat() + &any;
        let stages = [json!({"name": format!("{}/eval", nasty.replace('/', "")), "state": "done", "guards": [{"sentence": nasty}]})];
        let run = Run::new(&stages);
        let line = json!({"id": nasty, "prompt": nasty, "references": [nasty], "response": nasty, "token_ids": [1], "finish_reason": nasty});
        let folder = nasty.replace('/', "");
        // A name that the file system takes.
        if !folder.is_empty() && folder != "." && folder != ".." && !folder.contains('\0') {
            run.write_lines(&format!("{folder}/greedy.jsonl"), &[line]);
        }
        let written = text(&[RunPage::read(&Folder::open(run.0.path()).unwrap(), None, MOST).unwrap()]);
        let plain = text(&[Run::new(&[]).page(MOST).unwrap()]);
        prop_assert_eq!(written.matches("<script").count(), 3);
        prop_assert_eq!(written.matches("</script").count(), 3);
        prop_assert_eq!(written.matches('<').count(), plain.matches('<').count());
        let (runs, game) = data(&written);
        prop_assert_eq!(&runs["pages"][0]["guards"][0]["sentence"], &json!(nasty));
        if let Some(prompt) = game[0]["tests"]["prompts"].get(0) {
            prop_assert_eq!(&prompt["prompt"], &json!(nasty));
        }
    }
}
