//! Files of lm-evaluation-harness: those that it wrote (`scripts/oracle/harness_results.py`) come out of the same answers.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};
use topspin_eval::harness::{Metric, Request, Results, Sample, SampleCounts, Task};
use topspin_eval::{Bootstrap, Choice, ChoiceScores, Figure, Normalisation, RegexFilter};

fn read(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/metrics/harness");
    std::fs::read_to_string(folder.join(name)).unwrap()
}

fn lines(name: &str) -> Vec<Value> {
    read(name).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn string(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn object(value: &Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

/// A sample of the task `sums`, from its question and what the model said to it.
fn sum(line: &Value) -> Sample {
    let (arguments, said) = (&line["arguments"]["gen_args_0"], string(&line["resps"][0][0]));
    let (name, filter) = match string(&line["filter"]) {
        "strict-match" => ("strict-match", RegexFilter::strict_match()),
        other => (other, RegexFilter::flexible_extract()),
    };
    let doc = object(&line["doc"]);
    let target = string(&doc["answer"]).to_owned();
    let prompt = format!("Question: {}\nAnswer:", string(&doc["question"]));
    let answer = filter.apply(said).unwrap();
    let is_right = Normalisation::gsm8k().matches(&answer, &[&target]).unwrap();
    let values = object(&json!({ "exact_match": f64::from(is_right) }));
    let request = Request::generation(&prompt, object(&arguments["arg_1"]), &[said], &answer);
    Sample::new(line["doc_id"].as_u64().unwrap() as usize, doc, &target, vec![request], name, values)
}

/// A sample of the task `picks`.
fn pick(line: &Value) -> Sample {
    let doc = object(&line["doc"]);
    let texts: Vec<String> = serde_json::from_value(doc["choices"].clone()).unwrap();
    let label = doc["label"].as_u64().unwrap();
    let (mut choices, mut requests) = (Vec::new(), Vec::new());
    for (i, text) in texts.iter().enumerate() {
        let said = &line["resps"][i][0];
        let logprob = string(&said[0]).parse().unwrap();
        choices.push(Choice::new(text, logprob));
        let is_greedy = Some(string(&said[1]) == "True");
        requests.push(Request::loglikelihood(string(&doc["question"]), &format!(" {text}"), logprob, is_greedy));
    }
    let ChoiceScores { acc, acc_norm, acc_bytes } = ChoiceScores::new(&choices, &[label as usize]).unwrap();
    let [acc, acc_norm, acc_bytes] = [acc, acc_norm, acc_bytes].map(f64::from);
    let values = object(&json!({ "acc": acc, "acc_norm": acc_norm, "acc_bytes": acc_bytes }));
    let doc_id = line["doc_id"].as_u64().unwrap() as usize;
    Sample::new(doc_id, doc, &label.to_string(), requests, "none", values)
}

fn samples(task: &str) -> Vec<Sample> {
    let of = if task == "sums" { sum } else { pick };
    lines(&format!("samples_{task}.jsonl")).iter().map(of).collect()
}

#[test]
fn samples_are_those_of_the_harness() {
    for task in ["sums", "picks"] {
        let (expected, found) = (lines(&format!("samples_{task}.jsonl")), samples(task));
        assert!(expected.len() > 3);
        for (expected, found) in expected.iter().zip(&found) {
            let written = serde_json::to_string(found).unwrap();
            let read: Value = serde_json::from_str(&written).unwrap();
            assert_eq!(&read, expected);
            let order = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
            assert_eq!(order(&read), order(expected));
            assert_eq!(&serde_json::from_str::<Sample>(&written).unwrap(), found);
        }
    }
}

/// Holds numbers to each other, and all else to be the same.
fn compare(found: &Value, expected: &Value, at: &str) {
    match (found, expected) {
        (Value::Object(left), Value::Object(right)) => {
            let keys = |object: &Map<String, Value>| object.keys().cloned().collect::<std::collections::BTreeSet<_>>();
            assert_eq!(keys(left), keys(right), "{at}");
            left.iter().for_each(|(key, value)| compare(value, &right[key], &format!("{at}.{key}")));
        }
        (Value::Number(left), Value::Number(right)) => {
            let (left, right) = (left.as_f64().unwrap(), right.as_f64().unwrap());
            assert!((left - right).abs() < 1e-12, "{at}: {left} instead of {right}");
        }
        _ => assert_eq!(found, expected, "{at}"),
    }
}

#[test]
fn results_are_those_of_the_harness() {
    let expected: Value = serde_json::from_str(&read("results.json")).unwrap();
    let mut results = Results::default();
    for (task, version) in [("sums", 3.0), ("picks", 1.0)] {
        let samples = samples(task);
        let mut values: BTreeMap<(String, String), Vec<f64>> = BTreeMap::new();
        for sample in &samples {
            for (metric, value) in &sample.values {
                let key = (metric.clone(), sample.filter.clone());
                values.entry(key).or_default().push(value.as_f64().unwrap());
            }
        }
        let n = values.values().next().unwrap().len();
        let metric = |((name, filter), values): ((String, String), Vec<f64>)| {
            let figure = Bootstrap { seed: 0, replicates: 9 }.mean(&values).unwrap();
            Metric { name, filter, figure, higher_is_better: Some(true) }
        };
        results.add(Task {
            name: task.into(),
            config: object(&expected["configs"][task]),
            version: version.into(),
            samples: SampleCounts { original: n, effective: n },
            metrics: values.into_iter().map(metric).collect(),
        });
        results.add_task_hash(task, &samples);
    }
    let found: Value = serde_json::to_value(&results).unwrap();
    compare(&found, &expected, "");
    assert_eq!(serde_json::from_value::<Results>(found).unwrap(), results);
}

#[test]
fn what_a_file_has_besides_is_kept() {
    let mut file: Value = serde_json::from_str(&read("results.json")).unwrap();
    file["config"] = json!({"model": "hf", "model_args": null});
    file["date"] = 1.5e9.into();
    let results: Results = serde_json::from_value(file.clone()).unwrap();
    assert_eq!(serde_json::to_value(results).unwrap(), file);
}

#[test]
fn a_single_question_has_no_standard_error() {
    let mut results = Results::default();
    let metric = |figure| Metric { name: "bleu".into(), filter: "none".into(), figure, higher_is_better: Some(true) };
    results.add(Task {
        name: "one".into(),
        config: object(&json!({"task_alias": "- One", "num_fewshot": 5})),
        version: Value::Null,
        samples: SampleCounts { original: 9, effective: 1 },
        metrics: vec![metric(Figure::without_interval(12.5, 1))],
    });
    let row = json!({"name": "one", "alias": "- One", "sample_len": 1, "bleu,none": 12.5, "bleu_stderr,none": "N/A"});
    assert_eq!(Value::from(results.results["one"].clone()), row);
    assert_eq!((results.n_shot["one"], &results.versions["one"]), (5, &Value::Null));
    assert_eq!(serde_json::to_value(&results).unwrap()["n-samples"]["one"]["original"], 9);
}
