//! Supervised training on all turns of the assistant.

use serde_json::json;
use topspin_model::chat::{ChatTemplate, Message};

use super::settings::lines;
use super::*;

const TEMPLATE: &str =
    "{% for m in messages %}{{ m.content }}{% if m.role == 'user' %}<sep>{% else %}<end>{% endif %}{% endfor %}";

/// A fixture whose model has a chat template, and whose data are conversations of two questions.
fn fixture() -> (Fixture, Vec<[String; 4]>) {
    let fixture = Fixture::new();
    let (files, parameters) = read_model(&fixture.path("model"));
    let tokenizer = files.dialect.tokenizer().clone();
    let template = ChatTemplate::new(Path::new("template"), TEMPLATE, &tokenizer).unwrap();
    let dialect = Dialect::new(tokenizer, Some(template));
    fs::remove_dir_all(fixture.path("model")).unwrap();
    save_folder(Path::new(&fixture.path("model")), &files.config, &parameters, SaveDtype::F32, &dialect).unwrap();
    let records = lines(&fixture.path("train.jsonl"));
    let text = |record: &Value, part: &str| record[part].as_str().unwrap().to_owned();
    let talk = |two: &[Value]| {
        [text(&two[0], "prompt"), text(&two[0], "response"), text(&two[1], "prompt"), text(&two[1], "response")]
    };
    let talks: Vec<_> = records.chunks(2).map(talk).collect();
    let line = |[a, b, c, d]: &[String; 4]| {
        let message = |role: &str, content: &str| json!({"role": role, "content": content});
        let messages = [message("user", a), message("assistant", b), message("user", c), message("assistant", d)];
        format!("{}\n", json!({"messages": messages}))
    };
    fs::write(fixture.path("train.jsonl"), talks.iter().map(line).collect::<String>()).unwrap();
    (fixture, talks)
}

/// Settings of a single supervised step on all records.
const STEP: [&str; 6] = [
    "game.iterations=0",
    "sft.controls=[]",
    "sft.epochs=1",
    "sft.batch=100",
    "eval.greedy=false",
    "eval.sampled=false",
];

/// The first loss is the mean over the tokens of both answers, each scored behind what comes before it.
#[test]
fn the_loss_is_over_every_answer() {
    let (fixture, talks) = fixture();
    let (files, parameters) = read_model(&fixture.path("model"));
    let decoder = Decoder::new(Cpu::new(), files.config.clone(), parameters.into(), Precision::F32, Use::Forward);
    let mut tape = Tape::new(decoder.device(), Keep::Nothing);
    let mut nll = |before: &[&str], answer: &str| -> (f64, usize) {
        let role = |at: usize| if at.is_multiple_of(2) { "user" } else { "assistant" };
        let messages: Vec<_> = before.iter().enumerate().map(|(at, &text)| Message::new(role(at), text)).collect();
        let prompt = files.dialect.encode_prompt(&messages).unwrap();
        let response = files.dialect.encode_response(answer).unwrap();
        let tree = TokenTree { prompt_id: "", prompt: &prompt, responses: vec![&response], turns: &[] };
        let scores = score(&decoder, &mut tape, &[tree], 64).unwrap();
        (-scores[0][0].iter().map(|&x| f64::from(x)).sum::<f64>(), response.len())
    };
    let mean = |of: Vec<(f64, usize)>| {
        let (nats, tokens) = of.iter().fold((0.0, 0), |(a, n), (b, m)| (a + b, n + m));
        nats / tokens as f64
    };
    let last: Vec<_> = talks.iter().map(|[a, b, c, d]| nll(&[a, b, c], d)).collect();
    let first: Vec<_> = talks.iter().map(|[a, b, ..]| nll(&[a], b)).collect();
    for (turns, expected) in [("last", mean(last.clone())), ("all", mean([first, last].concat()))] {
        fixture.play(turns, &[&STEP[..], &[&format!("sft.turns={turns}")]].concat()).unwrap();
        let metrics = lines(&fixture.path(&format!("{turns}/iter-0/metrics.jsonl")));
        let loss = metrics[0]["train/loss"].as_f64().unwrap();
        assert!((loss - expected).abs() < 1e-9, "{turns}: {loss} instead of {expected}");
    }
    // Evaluation is of the last answer in either.
    let figures = |out: &str| fs::read_to_string(fixture.path(&format!("{out}/base/eval.json"))).unwrap();
    assert_eq!(figures("last"), figures("all"));
}

#[test]
fn answers_that_cannot_be_told_name_their_record() {
    let (fixture, talks) = fixture();
    let [a, b, c, d] = &talks[0];
    let message = |role: &str, content: &str| json!({"role": role, "content": content});
    let twice = json!({"messages": [
        message("user", a), message("assistant", &format!("{b}<end>a")), message("user", c), message("assistant", d)]});
    let data = fs::read_to_string(fixture.path("train.jsonl")).unwrap();
    fs::write(fixture.path("train.jsonl"), format!("{data}{twice}\n")).unwrap();
    fixture.play("last", &STEP).unwrap();
    let error = fixture.play("all", &[&STEP[..], &["sft.turns=all"]].concat()).unwrap_err().to_string();
    let problem = "the assistant's message 2 holds `<end>`, which ends a turn; remove it";
    assert!(error.contains("train.jsonl`, line 13: ") && error.ends_with(problem), "{error}");
}
