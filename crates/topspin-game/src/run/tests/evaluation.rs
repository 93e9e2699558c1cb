//! What an evaluation keeps of each record, and what is made of it.

use std::fs;

use topspin_eval::{Bootstrap, Evaluated, auc};
use topspin_model::chat::Message;

use super::*;

fn records(fixture: &Fixture, folder: &str) -> Vec<Evaluated> {
    read_lines(Path::new(&fixture.path(&format!("out/{folder}/eval.jsonl")))).unwrap()
}

/// The log-probability of the response that `of` picks for each of the test prompts, under the model of a stage folder.
fn logps(fixture: &Fixture, folder: &str, of: &dyn Fn(&Generation) -> Vec<u32>) -> Vec<f64> {
    let (files, parameters) = read_model(&fixture.path(&format!("out/{folder}/model")));
    let dialect = Dialect::new(Tokenizer::from_characters(ALPHABET), None);
    let decoder = Decoder::new(Cpu::new(), files.config, parameters.into(), Precision::F32, Use::Forward);
    let mut tape = Tape::new(decoder.device(), Keep::Nothing);
    let generations: Vec<Generation> = read_lines(Path::new(&fixture.path("out/iter-0/sampled.jsonl"))).unwrap();
    let logp = |generation: &Generation| {
        let prompt = dialect.encode_prompt(&[Message::new("user", generation.prompt.as_ref().unwrap())]).unwrap();
        let response = of(generation);
        let tree = TokenTree { prompt_id: "", prompt: &prompt, responses: vec![&response], turns: &[] };
        let tokens = &score(&decoder, &mut tape, &[tree], 64).unwrap()[0][0];
        tokens.iter().copied().map(f64::from).sum()
    };
    generations.iter().map(logp).collect()
}

/// Held-out responses are told from samples of the model before by what both models give to them, which saved models confirm.
#[test]
fn real_responses_are_told_from_those_of_the_model_before() {
    let fixture = Fixture::new();
    let summary = fixture.play("out", &["game.iterations=1"]).unwrap();
    let dialect = Dialect::new(Tokenizer::from_characters(ALPHABET), None);
    let real = |generation: &Generation| dialect.encode_response(&generation.references[0]).unwrap();
    let sampled = |generation: &Generation| generation.token_ids.clone();
    let of = |folder: &str, of: &dyn Fn(&Generation) -> Vec<u32>| logps(&fixture, folder, of);
    let (now, then) = (records(&fixture, "iter-1"), records(&fixture, "iter-0"));
    let kept = |records: &[Evaluated], kind: &str| records.iter().map(|r| r.responses[kind].logp()).collect::<Vec<_>>();
    assert_eq!(kept(&now, "real"), of("iter-1", &real));
    assert_eq!(kept(&now, "sampled_before"), of("iter-1", &sampled));
    assert_eq!(kept(&then, "real"), of("iter-0", &real));
    assert_eq!(kept(&then, "sampled"), of("iter-0", &sampled));
    assert_ne!(kept(&now, "real"), kept(&then, "real"));

    let ratios = |of: &dyn Fn(&Generation) -> Vec<u32>| {
        let both = logps(&fixture, "iter-1", of).into_iter().zip(logps(&fixture, "iter-0", of));
        both.map(|(now, then)| now - then).collect::<Vec<_>>()
    };
    let figures = &summary.rows.iter().find(|row| row.folder == "iter-1").unwrap().report.figures;
    assert_eq!(figures["discrimination.log_ratio.auc"], auc(&ratios(&real), &ratios(&sampled)).unwrap());
    let pairs = ratios(&real).into_iter().zip(ratios(&sampled)).filter(|(real, generated)| real > generated).count();
    assert_eq!(figures["discrimination.log_ratio.pairs"].value, pairs as f64 / 6.0);
    assert!(figures.contains_key("discrimination.length.auc"));
    // The model as it came has none before it.
    assert!(!summary.rows[0].report.figures.contains_key("discrimination.length.auc"));
}

/// The figures of an evaluation follow from its lines.
#[test]
fn differences_are_paired_by_prompt() {
    let fixture = Fixture::new();
    let sets =
        ["game.iterations=1", "eval.metrics=['exact_match', 'chrf', 'bleu', 'rouge_l']", "eval.best=greedy.chrf"];
    let summary = fixture.play("out", &[sets[0], sets[1], sets[2], "eval.goal=highest"]).unwrap();
    let [first, last] =
        ["iter-0", "iter-1"].map(|folder| summary.rows.iter().find(|row| row.folder == folder).unwrap());
    let records = summary.records(last).unwrap();
    let difference = summary.difference(first, (last, &records)).unwrap().unwrap();
    let value = |row: &Row, figure: &str| row.report.figures[figure].value;
    assert!((difference.value - (value(last, "greedy.chrf") - value(first, "greedy.chrf"))).abs() < 1e-9);
    for (name, figure) in &last.report.figures {
        let units: Vec<_> = records.iter().filter_map(|record| record.unit(name)).collect();
        let has_units = !["distinct", "discrimination", "median", "min", "max"].iter().any(|part| name.contains(part));
        assert_eq!(!units.is_empty(), has_units, "{name}");
        if has_units {
            let again = Bootstrap::default().units(&units).unwrap().value;
            assert!((again - figure.value).abs() < 1e-12, "{name}");
        }
    }
    let said = summary.to_string();
    assert!(said.contains("\nagainst iter-0 ") || said.contains("best: iter-0"), "{said}");
}

/// A run ends where it has lost its patience, and goes on to what it would have been where it gets more.
#[test]
fn a_run_without_patience_ends_early() {
    let fixture = Fixture::new();
    // The earliest of equal ones is the best, and answers have one token.
    let constant =
        ["eval.best=greedy.tokens.min", "eval.goal=lowest", "rollout.max_new_tokens=1", "eval.max_new_tokens=1"];
    let play = |out: &str, patience: &str| fixture.play(out, &[&constant[..], &[patience]].concat()).unwrap();
    let ended = play("out", "eval.patience=1");
    let folders = |summary: &Summary| summary.rows.iter().map(|row| row.folder.clone()).collect::<Vec<_>>();
    assert_eq!(folders(&ended), ["base", "iter-0", "control-1", "iter-1"]);
    assert!(ended.is_over() && !ended.is_finished);
    assert!(!Path::new(&fixture.path("out/progress.json")).exists());
    let said = ended.to_string();
    assert!(said.contains("\nended after 1 iteration without a better one; with a larger `eval.patience`"), "{said}");
    // The same again does nothing more.
    let before = reproducible(&fixture.path("out"));
    assert_eq!(play("out", "eval.patience=1"), ended);
    assert_eq!(reproducible(&fixture.path("out")), before);
    // With more patience it goes on.
    let whole = play("whole", "eval.patience=0");
    assert_eq!(folders(&whole), ["base", "iter-0", "control-1", "iter-1", "iter-2"]);
    let on = play("out", "eval.patience=2");
    assert_eq!(on.rows, whole.rows);
    let records = |summary: &Summary| summary.rows.iter().map(|row| summary.records(row).unwrap()).collect::<Vec<_>>();
    assert_eq!(records(&on), records(&whole));
    // All is played by then.
    assert!(on.is_over() && !on.to_string().contains("ended after"), "{on}");
    let bytes = |out: &str| fs::read(fixture.path(&format!("{out}/iter-2/model/model.safetensors"))).unwrap();
    assert_eq!(bytes("out"), bytes("whole"));
}
