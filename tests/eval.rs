//! Models measured by tasks.

use std::fs;

use serde_json::{Value, json};

use crate::harness::{Sandbox, pairs, root};
use crate::runs;

/// What `eval` says with `--json`.
fn evaluate(sandbox: &Sandbox, line: &str) -> Value {
    let said = sandbox.run(&format!("-q eval {line} --json"));
    let json = said.strip_prefix("exit code: 0\n--- stdout\n").and_then(|said| said.strip_suffix("--- stderr\n"));
    serde_json::from_str(json.unwrap_or_else(|| panic!("{line}\n{said}"))).unwrap()
}

/// The value of a figure of the first task of a model.
fn value(evaluation: &Value, model: usize, figure: &str) -> f64 {
    let tasks = evaluation["models"][model]["tasks"].as_object().unwrap();
    let figures =
        tasks.values().find_map(|task| task["figures"].get(figure)).unwrap_or_else(|| panic!("{figure}: {evaluation}"));
    figures["value"].as_f64().unwrap()
}

/// Questions with three choices each, whose answers are a place, a letter and a text.
fn questions() -> Vec<Value> {
    vec![
        json!({"question": "One", "choices": ["a", "bc", "def"], "answer": 2}),
        json!({"question": "Two?", "choices": ["no", "yes", "never"], "answer": "A"}),
        json!({"question": "Three", "choices": ["x y", "z", "w"], "answer": "z"}),
    ]
}

#[test]
fn likelihoods_and_answers_are_those_of_score_and_generate() {
    let sandbox = Sandbox::with_model();
    let lines = [json!({"prompt": "a", "response": "bcd"}), json!({"prompt": "Hello", "response": "h i"})];
    sandbox.write_lines("data.jsonl", &lines);
    let evaluation = evaluate(&sandbox, "model --data data.jsonl --max-new-tokens 9 --output results");

    sandbox.succeed("score --model model --input data.jsonl --output scored.jsonl");
    let scored = sandbox.read_lines("scored.jsonl");
    let nats = -scored.iter().map(|line| line["logprob"].as_f64().unwrap()).sum::<f64>();
    let tokens: usize = scored.iter().map(|line| line["token_ids"].as_array().unwrap().len()).sum();
    for (figure, expected) in [
        ("nll.per_token", nats / tokens as f64),
        ("nll.perplexity", (nats / tokens as f64).exp()),
        ("word_perplexity", (nats / 3.0).exp()),
        ("byte_perplexity", (nats / 6.0).exp()),
        ("bits_per_byte", nats / 6.0 / std::f64::consts::LN_2),
    ] {
        assert!((value(&evaluation, 0, figure) / expected - 1.0).abs() < 1e-9, "{figure}");
    }

    sandbox.succeed("generate --model model --input data.jsonl --output greedy.jsonl --greedy --max-new-tokens 9");
    let greedy = sandbox.read_lines("greedy.jsonl");
    let lengths: Vec<usize> = greedy.iter().map(|line| line["token_ids"].as_array().unwrap().len()).collect();
    assert_eq!(value(&evaluation, 0, "tokens.mean"), lengths.iter().sum::<usize>() as f64 / 2.0);
    assert_eq!(value(&evaluation, 0, "exact_match"), 0.0);
    let samples = sample_lines(&sandbox, "results/model", "exact_match");
    for (sample, line) in samples.iter().zip(&greedy) {
        assert_eq!(sample["resps"][0][0], line["response"]);
    }

    // An answer of the model's own is an exact match, whichever field holds it.
    let own = json!({"prompt": "a", "references": ["no", greedy[0]["response"]]});
    sandbox.write_lines("own.jsonl", &[own, lines[1].clone()]);
    let evaluation = evaluate(&sandbox, "model --data own.jsonl --max-new-tokens 9");
    assert_eq!(value(&evaluation, 0, "exact_match"), 0.5);
}

#[test]
fn an_answer_ends_where_a_text_says() {
    let sandbox = Sandbox::with_model();
    sandbox.write_lines("data.jsonl", &[json!({"prompt": "a", "response": "b"})]);
    let said = |folder: &str, line: &str| {
        let evaluation =
            evaluate(&sandbox, &format!("model --data data.jsonl --max-new-tokens 5 --output {folder} {line}"));
        let sample = &sample_lines(&sandbox, &format!("{folder}/model"), "exact_match")[0];
        (sample["resps"][0][0].as_str().unwrap().to_owned(), value(&evaluation, 0, "finish.stop"))
    };
    let (whole, _) = said("whole", "--task exact_match");
    let end = whole.chars().nth(2).unwrap();
    let until = format!("[[task]]\npreset = 'exact_match'\nuntil = [{}]\n", json!(end.to_string()));
    sandbox.write("t.toml", until);
    let (cut, stopped) = said("cut", "--tasks t.toml");
    assert_eq!((cut.as_str(), stopped), (whole.split(end).next().unwrap(), 1.0));
}

/// The results in a folder of results.
fn results_of(sandbox: &Sandbox, folder: &str) -> Value {
    let name = sandbox.read_dir(folder).into_iter().find(|name| name.starts_with("results_")).unwrap();
    serde_json::from_str(&sandbox.read(&format!("{folder}/{name}"))).unwrap()
}

/// The samples of a task in a folder of results.
fn sample_lines(sandbox: &Sandbox, folder: &str, task: &str) -> Vec<Value> {
    let start = format!("samples_{task}_");
    let name = sandbox.read_dir(folder).into_iter().find(|name| name.starts_with(&start)).unwrap();
    sandbox.read_lines(&format!("{folder}/{name}"))
}

/// Log-probabilities of choices are those that `score` gives to their tokens without an end of turn, and the most probable one is
/// the model's.
#[test]
fn choices_are_scored_as_texts_are() {
    let sandbox = Sandbox::with_model();
    sandbox.write_lines("data.jsonl", &questions());
    let evaluation = evaluate(&sandbox, "model --data data.jsonl --task multiple_choice --output results");
    let samples = sample_lines(&sandbox, "results/model", "multiple_choice");
    let right = [2, 0, 1];
    let (mut hits, mut normalised) = (0, 0);
    for ((question, sample), right) in questions().iter().zip(&samples).zip(right) {
        let choices = question["choices"].as_array().unwrap();
        let line = |text: &Value| json!({"prompt": question["question"], "response": text});
        sandbox.write_lines("texts.jsonl", &choices.iter().map(line).collect::<Vec<_>>());
        sandbox.succeed("score -m model -i texts.jsonl -o ended.jsonl");
        let open = sandbox.read_lines("ended.jsonl").into_iter().map(|mut line| {
            line["token_ids"].as_array_mut().unwrap().pop();
            line
        });
        sandbox.write_lines("open.jsonl", &open.collect::<Vec<_>>());
        sandbox.succeed("score -m model -i open.jsonl -o scored.jsonl");
        let logprobs: Vec<f64> =
            sandbox.read_lines("scored.jsonl").iter().map(|line| line["logprob"].as_f64().unwrap()).collect();
        for (said, expected) in sample["resps"].as_array().unwrap().iter().zip(&logprobs) {
            assert_eq!(said[0][0].as_str().unwrap().parse::<f64>().unwrap(), *expected);
        }
        let best = |values: &[f64]| (0..3).max_by(|&a, &b| values[a].total_cmp(&values[b])).unwrap();
        let lengths = choices.iter().map(|text| text.as_str().unwrap().chars().count() as f64);
        let by_length: Vec<f64> = logprobs.iter().zip(lengths).map(|(logprob, length)| logprob / length).collect();
        hits += usize::from(best(&logprobs) == right);
        normalised += usize::from(best(&by_length) == right);
        assert_eq!(sample["target"], right.to_string());
    }
    assert_eq!(value(&evaluation, 0, "acc"), hits as f64 / 3.0);
    assert_eq!(value(&evaluation, 0, "acc_norm"), normalised as f64 / 3.0);

    // The same questions in the columns of HellaSwag and of ARC.
    let hellaswag = questions().into_iter().zip(right).map(
        |(q, right)| json!({"ind": right, "ctx": q["question"], "endings": q["choices"], "label": right.to_string()}),
    );
    sandbox.write_lines("hellaswag.jsonl", &hellaswag.collect::<Vec<_>>());
    let arc = questions().into_iter().zip(right).map(|(q, right)| {
        let choices = json!({"text": q["choices"], "label": ["1", "2", "3"]});
        json!({"id": format!("q{right}"), "question": q["question"], "choices": choices, "answerKey": (right + 1).to_string()})
    });
    sandbox.write_lines("arc.jsonl", &arc.collect::<Vec<_>>());
    for task in ["hellaswag", "arc"] {
        let same = evaluate(&sandbox, &format!("model --data {task}.jsonl --task {task}"));
        assert_eq!(value(&same, 0, "acc"), value(&evaluation, 0, "acc"), "{task}");
    }
    // A delimiter belongs to the choice.
    sandbox.write("t.toml", "[[task]]\npreset = 'multiple_choice'\ntarget_delimiter = ' '\n");
    evaluate(&sandbox, "model --data data.jsonl --tasks t.toml --output spaced");
    let spaced = sample_lines(&sandbox, "spaced/model", "multiple_choice");
    assert_eq!(spaced[0]["arguments"]["gen_args_1"]["arg_1"], " bc");
}

#[test]
fn results_are_in_the_layout_of_the_harness() {
    let sandbox = Sandbox::with_model();
    let sums = json!({"question": "Two and two?", "answer": "Two more.\n#### 4"});
    sandbox.write_lines("sums.jsonl", &[sums.clone(), json!({"question": "1, 2", "answer": "#### 2"})]);
    sandbox.write_lines("picks.jsonl", &questions());
    sandbox.write(
        "t.toml",
        "[[task]]\nname = 'sums'\npreset = 'gsm8k'\ndata = 'sums.jsonl'\nlimit = 1\nmax_new_tokens = 4\n\
         [[task]]\nname = 'picks'\npreset = 'multiple_choice'\ndata = 'picks.jsonl'\n",
    );
    sandbox.finish("eval model --tasks t.toml --output results");
    let found = results_of(&sandbox, "results/model");
    let golden = root().join("tests/golden/metrics/harness");
    let golden_results: Value =
        serde_json::from_str(&fs::read_to_string(golden.join("results.json")).unwrap()).unwrap();
    let keys = |value: &Value| -> Vec<String> { value.as_object().unwrap().keys().cloned().collect() };
    for (key, value) in golden_results.as_object().unwrap() {
        let same = |found: &Value| found.is_object() == value.is_object();
        assert!(same(&found[key]), "{key}");
    }
    for task in ["sums", "picks"] {
        for key in keys(&golden_results["results"][task]) {
            assert!(found["results"][task].get(&key).is_some(), "{task}: {key}");
        }
        let kind = &golden_results["configs"][task]["output_type"];
        assert_eq!(&found["configs"][task]["output_type"], kind);
        let expected = &golden_results["higher_is_better"][task];
        for key in keys(expected) {
            assert_eq!(found["higher_is_better"][task][&key], expected[&key], "{key}");
        }
        let lines = fs::read_to_string(golden.join(format!("samples_{task}.jsonl"))).unwrap();
        let expected: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
        let sample = &sample_lines(&sandbox, "results/model", task)[0];
        let until =
            |sample: &Value| keys(sample).into_iter().take_while(|key| key != "target_hash").collect::<Vec<_>>();
        assert_eq!(until(sample), until(&expected));
        for metric in expected["metrics"].as_array().unwrap() {
            assert!(sample.get(metric.as_str().unwrap()).is_some(), "{task}: {metric}");
        }
    }
    assert_eq!(found["n-samples"]["sums"], json!({"original": 2, "effective": 1}));
    assert_eq!((&found["versions"]["sums"], &found["versions"]["picks"]), (&json!(3.0), &json!(1.0)));
    assert_eq!(found["config"]["model_args"], "model");
    let sample = &sample_lines(&sandbox, "results/model", "sums")[0];
    assert_eq!(
        (&sample["doc"], &sample["target"], &sample["filter"]),
        (&sums, &sums["answer"], &json!("strict-match"))
    );
}

#[test]
fn figures_depend_on_neither_the_day_nor_the_order() {
    let sandbox = Sandbox::with_model();
    let mut lines = pairs();
    lines.push(lines[1].clone());
    lines.push(json!({"prompt": "two", "response": "three"}));
    sandbox.write_lines("data.jsonl", &lines);
    let tasks = "--task nll --task summary --task discrimination --temperature 1 --samples 2 --max-new-tokens 6 --json";
    let run = |data: &str, output: &str, day: &str| {
        let line = format!("-q eval model --data {data} {tasks} --output {output}");
        let words: Vec<_> = line.split_whitespace().collect();
        let output = sandbox.topspin(&words).env("SOURCE_DATE_EPOCH", day).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let first = run("data.jsonl", "a", "0");
    assert_eq!(run("data.jsonl", "b", "0"), first);
    for turn in 1..lines.len() {
        lines.rotate_left(turn);
        lines.swap(0, turn);
        sandbox.write_lines("other.jsonl", &lines);
        assert_eq!(run("other.jsonl", "c", "86400").replace("other.jsonl", "data.jsonl"), first);
    }
    let names = sandbox.read_dir("a/model");
    assert_eq!(names, sandbox.read_dir("b/model"));
    let expected: Vec<_> =
        ["discrimination", "nll", "summary"].map(|task| format!("samples_{task}_1970-01-01T00-00-00.jsonl")).into();
    assert_eq!(names[1..], expected);
    assert_eq!(names[0], "results_1970-01-01T00-00-00.json");
    for name in names {
        assert_eq!(sandbox.read(&format!("a/model/{name}")), sandbox.read(&format!("b/model/{name}")), "{name}");
    }
    assert_eq!(sandbox.read_dir("c/model")[0], "results_1970-01-02T00-00-00.json");
}

#[test]
fn an_evaluation_prints_tables() {
    let sandbox = Sandbox::with_model();
    sandbox.write_lines("data.jsonl", &pairs());
    let said = sandbox.run("-q eval model --data data.jsonl --limit 3 --max-new-tokens 3");
    assert!(said.starts_with("exit code: 0\n--- stdout\n") && said.ends_with("--- stderr\n"), "{said}");
    for name in ["nll.per_token", "nll.perplexity", "exact_match", "tokens.mean", "finish.stop"] {
        assert!(said.contains(&format!("\n{name} ")), "{name}\n{said}");
    }
    assert!(said.contains("\nexact_match: 3 records of `data.jsonl`; greedy answers\n"), "{said}");

    crate::harness::save_tiny_model(&sandbox.path("twin"));
    let said = sandbox.run("-q eval model twin --data data.jsonl --task nll");
    let line = said
        .lines()
        .find(|line| line.contains("twin ") && line.contains("within noise"))
        .unwrap_or_else(|| panic!("{said}"));
    assert!(line.ends_with("+0.0000 (0.0000 .. 0.0000), within noise  0.5000"), "{line}");
    assert!(said.contains("  against the first  "), "{said}");
}

/// A run is all its models, with the likelihoods that it found itself.
#[test]
fn a_run_is_its_models() {
    let sandbox = runs::sandbox();
    runs::play(&sandbox, "out");
    let tasks = "--task nll --task discrimination --dtype f32 --max-new-tokens 20";
    let evaluation = evaluate(&sandbox, &format!("out --data test.jsonl {tasks}"));
    let models = evaluation["models"].as_array().unwrap();
    let names: Vec<_> = models.iter().map(|model| model["model"].as_str().unwrap()).collect();
    assert_eq!(names, ["out/base", "out/iter-0", "out/control-1", "out/iter-1", "out/iter-2"]);
    let own = |folder: &str| -> Value { serde_json::from_str(&sandbox.read(&format!("{folder}/eval.json"))).unwrap() };
    for (place, name) in names.iter().enumerate() {
        let figures = &models[place]["tasks"];
        let nll = figures["nll"]["figures"]["nll.per_token"]["value"].as_f64().unwrap();
        let run = own(name)["figures"]["nll.per_token"]["value"].as_f64().unwrap();
        // The run may have computed in bf16.
        assert!((nll / run - 1.0).abs() < 0.02, "{name}: {nll}, {run}");
        let apart = &figures["discrimination"]["figures"];
        assert_eq!(apart.get("discrimination.log_ratio.auc").is_some(), place > 0, "{name}");
        assert!(apart.get("discrimination.length.auc").is_some(), "{name}");
        let against = &figures["discrimination"]["against"];
        // All are compared with the supervised model, and the one that it came from has no log-ratio.
        assert_eq!(against.get("discrimination.log_ratio.auc").is_some(), place > 1, "{name}");
        assert_eq!(against.get("discrimination.length.auc").is_some(), place != 1, "{name}");
        let against = &figures["nll"]["against"];
        let other = against.get("nll.per_token").map(|against| against["model"].as_str().unwrap());
        assert_eq!(other, (place != 1).then_some("out/iter-0"), "{name}");
    }
    let note = evaluation["notes"][0].as_str().unwrap();
    assert!(note.starts_with("`out/base`: its own samples are told from the real responses by length alone"), "{note}");
    // A difference is that of the figures.
    let value = |place: usize| models[place]["tasks"]["nll"]["figures"]["nll.per_token"]["value"].as_f64().unwrap();
    let difference = &models[4]["tasks"]["nll"]["against"]["nll.per_token"];
    assert!((difference["difference"]["value"].as_f64().unwrap() - (value(4) - value(1))).abs() < 1e-9);
    assert!(difference["win_rate"]["value"].as_f64().unwrap() > 0.5, "training helps: {difference}");

    // A stage by itself, and the same against another reference.
    let evaluation =
        evaluate(&sandbox, &format!("--model out/iter-2 --data test.jsonl --reference out/iter-1 {tasks}"));
    assert_eq!(evaluation["models"].as_array().unwrap().len(), 1);
    let own = &evaluation["models"][0]["tasks"]["discrimination"]["figures"];
    assert_eq!(*own, models[4]["tasks"]["discrimination"]["figures"]);
}

#[test]
fn an_adapter_of_a_run_stands_above_its_model() {
    let sandbox = runs::sandbox();
    let said = sandbox.run("run run.toml --set output.dir=out --set adapter.rank=2 --set sft.controls=[]");
    assert!(said.starts_with("exit code: 0\n"), "{said}");
    let of_run = evaluate(&sandbox, "out --data test.jsonl --task nll");
    let place = of_run["models"].as_array().unwrap().iter().position(|model| model["model"] == "out/iter-2").unwrap();
    for model in ["out/iter-2/model", "out/iter-2"] {
        let alone = evaluate(&sandbox, &format!("{model} --data test.jsonl --task nll"));
        assert_eq!(alone["models"][0]["tasks"]["nll"]["figures"], of_run["models"][place]["tasks"]["nll"]["figures"]);
    }
}

#[test]
fn runs_that_have_no_models() {
    let sandbox = runs::sandbox();
    sandbox.finish("sft run.toml --set output.dir=out");
    let manifest = sandbox.read("out/manifest.json");
    let run = || sandbox.run("-q eval out --data test.jsonl");
    sandbox.write("out/manifest.json", &manifest[..manifest.len() / 2]);
    let said = run();
    assert!(said.contains("error: line ") && said.contains(" of `out/manifest.json` cannot be understood ("), "{said}");
    assert!(said.starts_with("exit code: 2\n") && said.lines().count() == 4, "{said}");
    sandbox.write("out/manifest.json", manifest.replace("\"done\"", "\"pending\""));
    insta::assert_snapshot!(run(), @"
    exit code: 2
    --- stdout
    --- stderr
    error: the run in `out` has no finished model yet; let it run on
    ");
    fs::remove_file(sandbox.path("out/manifest.json")).unwrap();
    insta::assert_snapshot!(run(), @"
    exit code: 2
    --- stdout
    --- stderr
    error: `out` is neither a run (it has no `manifest.json`) nor a model (it has no `config.json`)
    ");
}

/// The task `t.toml` of greedy answers to `pairs.jsonl`, scored by a script of the shell.
fn scored_by(sandbox: &Sandbox, script: &str) {
    sandbox.write_lines("pairs.jsonl", &pairs());
    sandbox.write("s.sh", script);
    sandbox.write("t.toml", SCORED);
}

const SCORED: &str = "[[task]]\nname = 'own'\ndata = 'pairs.jsonl'\nscorer = ['sh', 's.sh']\nmax_new_tokens = 5\n\
                      lower_is_better = ['bytes']\ntimeout = 2\n";

#[cfg(unix)]
#[test]
fn a_scorer_says_what_answers_are_worth() {
    let sandbox = Sandbox::with_model();
    crate::harness::save_tiny_model(&sandbox.path("twin"));
    scored_by(&sandbox, "while read -r line; do echo \"{\\\"bytes\\\": ${#line}, \\\"good\\\": true}\"; done\n");
    let evaluation = evaluate(&sandbox, "model twin --tasks t.toml --output results");
    let task = &evaluation["models"][1]["tasks"]["own"];
    assert_eq!(task["figures"]["good"]["value"], 1.0);
    assert_eq!(task["figures"]["good"]["n"], 4);
    for figure in ["bytes", "good"] {
        let against = &task["against"][figure];
        assert_eq!(
            (&against["difference"]["value"], &against["win_rate"]["value"]),
            (&json!(0.0), &json!(0.5)),
            "{figure}"
        );
    }
    let samples = sample_lines(&sandbox, "results/model", "own");
    let mean = samples.iter().map(|sample| sample["bytes"].as_f64().unwrap()).sum::<f64>() / 4.0;
    assert_eq!(task["figures"]["bytes"]["value"].as_f64().unwrap(), mean);

    // As a flag, beside the metrics of a task; the first answer to each prompt counts one, the second none.
    sandbox.write("s.sh", "while read -r a && read -r b; do echo 1; echo 0; done\n");
    let words =
        ["-q", "eval", "model", "--data", "pairs.jsonl", "--task", "exact_match", "--scorer", "sh s.sh", "--json"];
    let sampled = ["--samples", "2", "--temperature", "1", "--max-new-tokens", "3"];
    let lower = ["--lower-is-better", "score", "--output", "flagged"];
    let output = sandbox.topspin(&[&words[..], &sampled, &lower].concat()).output().unwrap();
    let evaluation: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((value(&evaluation, 0, "score"), value(&evaluation, 0, "exact_match")), (0.5, 0.0));
    let better = &results_of(&sandbox, "flagged/model")["higher_is_better"]["exact_match"];
    assert_eq!(better["score"], false);
    assert_eq!((&better["exact_match"], &better["tokens.mean"]), (&json!(true), &json!(null)));
}

/// What is said of a scorer that is a script of the shell, without the name of the file that it read.
#[cfg(unix)]
fn scorer_that(script: &str) -> String {
    let sandbox = Sandbox::with_model();
    scored_by(&sandbox, script);
    let words = ["-q", "eval", "model", "--tasks", "t.toml"];
    let said = crate::harness::block(sandbox.topspin(&words).env("TMPDIR", sandbox.path("")));
    let answers = sandbox.names().into_iter().find(|name| name.starts_with("topspin-")).expect("the answers stay");
    assert_eq!(sandbox.read_lines(&answers).len(), 4);
    said.replace(&sandbox.path(&answers).display().to_string(), "ANSWERS")
}

#[cfg(unix)]
#[test]
fn scorers_that_fail() {
    insta::assert_snapshot!(scorer_that("exit 3"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: the command `sh s.sh` (`scorer`) failed (exit status: 3); try it by hand on `ANSWERS`
    ");
    insta::assert_snapshot!(scorer_that("echo 1; exec sleep 60"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: the command `sh s.sh` (`scorer`) was silent for 2 s, and was ended; try it by hand on `ANSWERS`
    ");
    insta::assert_snapshot!(scorer_that("echo 1; echo fine"), @r#"
    exit code: 2
    --- stdout
    --- stderr
    error: the command `sh s.sh` (`scorer`) printed "fine" for line 2, which is neither a number nor an object of numbers; it must print a number, or a JSON object of numbers, for each; try it by hand on `ANSWERS`
    "#);
    insta::assert_snapshot!(scorer_that("echo 1; echo 2"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: the command `sh s.sh` (`scorer`) printed 2 lines for the 4 that it reads; it must print a number, or a JSON object of numbers, for each; try it by hand on `ANSWERS`
    ");
    insta::assert_snapshot!(scorer_that("for i in 1 2 3 4 5; do echo $i; done"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: the command `sh s.sh` (`scorer`) printed more than 4 lines, though it reads no more; it must print a number, or a JSON object of numbers, for each; try it by hand on `ANSWERS`
    ");
    // A figure of the task's own is not the scorer's to say.
    let sandbox = Sandbox::with_model();
    scored_by(&sandbox, "for i in 1 2 3 4; do echo '{\"tokens.mean\": 1}'; done");
    insta::assert_snapshot!(sandbox.run("-q eval model --tasks t.toml"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: the scorer of the task `own` says `tokens.mean`, which is a figure of the task; call it otherwise
    ");
}

/// What is said of a task, which must be said before any weights are read.
fn refused(lines: &[Value], words: &str) -> String {
    let sandbox = Sandbox::with_model();
    sandbox.write_lines("d.jsonl", lines);
    sandbox.write("bad.toml", "[[task]]\nname = 'x'\nmetrics = [{ metric = 'regex', pattern = '(' }]\n");
    sandbox.write("columns.toml", "[[task]]\npreset = 'nll'\ncolumns = { prmpt = 'a' }\n");
    sandbox.write("regex.toml", "[[task]]\nname = 'x'\nmetrics = [{ metric = 'regex', pattern = 'a' }]\n");
    let said = sandbox.run(&format!("eval {words}"));
    assert!(!said.contains("million parameters"), "{said}");
    said
}

#[test]
fn tasks_that_cannot_be_asked() {
    let prompt = [json!({"prompt": "a", "response": "b"}), json!({"prompt": "b"})];
    insta::assert_snapshot!(refused(&prompt, "model --data d.jsonl"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: `d.jsonl`, line 2: there is no response, and this use of the data needs one; add `response` (or `completion`, or `answer`), or end `messages` with the assistant's
    ");
    insta::assert_snapshot!(refused(&prompt, "model --data d.jsonl --task squad"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: `d.jsonl`, line 2: there is nothing to compare an answer with, and the metrics of the task `squad` need it; add `response` or `references`, or choose a task without such metrics
    ");
    insta::assert_snapshot!(refused(&prompt, "model --data d.jsonl --task multiple_choice"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: `d.jsonl`, line 1: there are no choices; add `choices` (or `endings`), or name their column in the task's `columns`
    ");
    let question = |answer: Value| [json!({"question": "a", "choices": ["x", "y"], "answer": answer})];
    insta::assert_snapshot!(refused(&question(json!(2)), "model --data d.jsonl --task multiple_choice"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: `d.jsonl`, line 1: `answer` is 2, which is none of the 2 choices; give its place, counted from 0, its letter or its text
    ");
    insta::assert_snapshot!(refused(&question(json!("z")), "model --data d.jsonl --task multiple_choice"), @r#"
    exit code: 2
    --- stdout
    --- stderr
    error: `d.jsonl`, line 1: `answer` is "z", which is none of the 2 choices; give its place, counted from 0, its letter or its text
    "#);
    let empty = [json!({"question": "a", "choices": ["x", ""], "answer": 0})];
    insta::assert_snapshot!(refused(&empty, "model --data d.jsonl --task multiple_choice"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: `d.jsonl`, line 1: choice 1 (counted from 0) of `choices` is empty; give each a text
    ");
    insta::assert_snapshot!(refused(&prompt, "model"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: the task `nll` has no data; name a file with `--data`, or in the task's `data`
    ");
    insta::assert_snapshot!(refused(&prompt, "model --data d.jsonl --task gsm9k"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: no task goes by the name `gsm9k`; choose one of `nll`, `exact_match`, `squad`, `gsm8k`, `multiple_choice`, `mmlu`, `arc`, `hellaswag`, `translation`, `summary`, `discrimination`, or write your own with `--tasks`
    ");
    insta::assert_snapshot!(refused(&prompt, "model --data d.jsonl --tasks bad.toml"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: `metrics` of the task `x` has a fault: the pattern `(` cannot be used (Parsing error at position 1: Opening parenthesis without closing parenthesis); write it as a regular expression that needs no long search
    ");
    insta::assert_snapshot!(refused(&prompt, "model --data d.jsonl --tasks columns.toml"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: `columns` of the task `nll` names `prmpt`, which is no field of a record, such as `prompt` or `response`
    ");
    insta::assert_snapshot!(refused(&prompt, "model --data d.jsonl --tasks nowhere.toml"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: cannot read `nowhere.toml`: there is no such file or folder; check the path
    ");
    insta::assert_snapshot!(refused(&prompt, "model model --data d.jsonl --tasks regex.toml"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: `model` is named twice; name each model once
    ");
    insta::assert_snapshot!(refused(&prompt, "model --data d.jsonl --tasks regex.toml --reference other"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: `--reference` is for the task `discrimination`, and there is none; add `--task discrimination`, or leave it out
    ");
    insta::assert_snapshot!(refused(&prompt[..1], "model --data d.jsonl --task nll --scorer true"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: `--scorer` scores answers, and none of the tasks has any; add one such as `--task exact_match`
    ");
    insta::assert_snapshot!(refused(&prompt, "model --data d.jsonl --tasks regex.toml --output d.jsonl"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: cannot write `d.jsonl`: a part of the path is a file where a folder should be; check the path
    ");
    insta::assert_snapshot!(refused(&prompt, "model --data d.jsonl --tasks regex.toml --samples 2"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: `samples` of the task `x` asks for several answers, and greedy ones are all the same; set `temperatures`, or leave it out
    ");
    insta::assert_snapshot!(refused(&[json!({"prompt": "a".repeat(90)})], "model --data d.jsonl --tasks regex.toml"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: `d.jsonl`, line 1: the prompt has 93 tokens, which leaves no room for a response in the model's context of 64; shorten it to 63 tokens or fewer
    ");
    insta::assert_snapshot!(refused(&prompt, "--data d.jsonl"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: the following required arguments were not provided:
      <RUN|MODEL>...

    Usage: topspin eval --data <FILE> <RUN|MODEL>...

    For more information, try '--help'.
    ");
}

#[test]
fn models_of_different_tokenizers_do_not_score_each_other() {
    let sandbox = runs::sandbox();
    crate::harness::save_tiny_model(&sandbox.path("other"));
    let line = "-q eval model --reference other --data test.jsonl --task discrimination";
    insta::assert_snapshot!(sandbox.run(line), @"
    exit code: 2
    --- stdout
    --- stderr
    error: `model` and `other` have different tokenizers, and `discrimination` has one score the samples of the other; choose a reference of the same family
    ");
    // Each by itself can be measured beside the other.
    let evaluation = evaluate(&sandbox, "model other --data test.jsonl --task exact_match --max-new-tokens 4");
    assert_eq!(evaluation["models"][1]["tasks"]["exact_match"]["records"], 12);
}
