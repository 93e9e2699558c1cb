//! What a person wants to know first, in sentences.

use serde::Serialize;
use serde_json::{Map, Value};

use super::results::Results;
use super::{Folder, Guard};

/// A question and its answer.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// The question.
    pub question: &'static str,
    /// The answer in short.
    pub short: String,
    /// What it rests on, a sentence each.
    pub why: Vec<String>,
    /// How the answer is to be taken.
    pub tone: Tone,
}

/// How an answer is to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Tone {
    /// As it should be.
    Good,
    /// Something is wrong.
    Bad,
    /// Neither, or not known.
    Neutral,
}

/// The answers for a run.
pub fn answers(folder: &Folder, results: &Results, guards: &[Guard]) -> Vec<Answer> {
    let iterations: Vec<Iteration> =
        folder.stage_folders().iter().filter_map(|name| Iteration::new(folder, name, results)).collect();
    let mut answers = vec![best(results), chance(results), learning(&iterations), collapse(&iterations, guards)];
    for answer in &mut answers {
        answer.short = with_minus(&answer.short);
        answer.why.iter_mut().for_each(|sentence| *sentence = with_minus(sentence));
    }
    answers
}

/// With true minus signs before numbers.
fn with_minus(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut before = ' ';
    for (at, c) in text.char_indices() {
        let is_sign = c == '-' && !before.is_alphanumeric() && text[at + 1..].starts_with(|c: char| c.is_ascii_digit());
        out.push(if is_sign { '−' } else { c });
        before = c;
    }
    out
}

fn best(results: &Results) -> Answer {
    let question = "Which iteration is best?";
    let (Some(at), Some(metric)) = (results.best, &results.metric) else {
        let why = vec!["No iteration is evaluated yet.".into()];
        return Answer { question, short: "Not known yet".into(), why, tone: Tone::Neutral };
    };
    let goal = if results.highest { "highest" } else { "lowest" };
    let mut why = vec![match results.figure(at) {
        Some(figure) => format!("The {goal} {metric} of the supervised model and the iterations: {figure}."),
        None => String::new(),
    }];
    let others = || (0..results.rows.len()).filter(|&row| row != at);
    let names =
        |rows: Vec<usize>| rows.iter().map(|&row| results.rows[row].folder.as_str()).collect::<Vec<_>>().join(", ");
    let near = others().filter(|&row| {
        let difference = results.difference(row.min(at), row.max(at));
        difference.is_some_and(|difference| difference.low.is_some() && difference.sign().is_none())
    });
    let near: Vec<_> = near.collect();
    if !near.is_empty() {
        why.push(format!("Perhaps no worse, as the difference may be chance: {}.", names(near)));
    }
    let ahead = others().filter(|&row| match (results.figure(row), results.figure(at)) {
        (Some(row), Some(best)) => results.is_better(row.value, best.value),
        _ => false,
    });
    let ahead: Vec<_> = ahead.collect();
    if !ahead.is_empty() {
        why.push(format!("Ahead of it: {}.", names(ahead)));
    }
    Answer { question, short: results.rows[at].folder.clone(), why, tone: Tone::Neutral }
}

fn chance(results: &Results) -> Answer {
    let question = "By how much more than chance?";
    let from = match results.best {
        Some(best) if results.rows[best].folder == "iter-0" => results.place("base"),
        _ => results.place("iter-0").or_else(|| results.place("base")),
    };
    let known = results.best.zip(from).and_then(|(best, from)| Some((from, results.difference(from, best)?)));
    let Some((from, difference)) = known else {
        let why = vec!["There is nothing to compare the best iteration with yet.".into()];
        return Answer { question, short: "Not known yet".into(), why, tone: Tone::Neutral };
    };
    let short = format!("{} against {}", number(difference.value), results.rows[from].folder);
    let better = results.is_better(difference.value, 0.0);
    let (sentence, tone) = match (difference.low, difference.high) {
        (Some(low), Some(high)) => {
            let interval = format!("[{}, {}]", number(low), number(high));
            match (difference.sign(), better) {
                (Some(_), true) => (format!("Its 95% interval {interval} leaves out 0: more than chance."), Tone::Good),
                (Some(_), false) => {
                    (format!("Its 95% interval {interval} leaves out 0, on the worse side."), Tone::Bad)
                }
                _ => (format!("Its 95% interval {interval} holds 0: it may be chance."), Tone::Neutral),
            }
        }
        _ => ("The figure has no interval, so nobody knows whether that is chance.".into(), Tone::Neutral),
    };
    let how = match difference.paired {
        true => "Taken prompt by prompt (paired).",
        false => {
            "Taken from the two intervals as if the prompts were different ones: the answers' own values are not in the run."
        }
    };
    let scope = "By chance other prompts of the same kind are meant, not another training run.";
    Answer { question, short, why: vec![sentence, how.into(), scope.into()], tone }
}

/// A difference as it is printed, with as many digits as tell it from 0.
fn number(value: f64) -> String {
    let digits = if value == 0.0 || value.abs() >= 1e-3 { 3 } else { 6 };
    format!("{value:+.digits$}")
}

/// What an iteration's stages say of themselves. A round of an iteration that is still at work is told of like one.
struct Iteration {
    name: String,
    loss: Option<f64>,
    first_loss: Option<f64>,
    accuracy: Option<f64>,
    /// Of held-out pairs: the share that is told apart, and a sentence.
    held_out: Option<(f64, String)>,
    /// Mean score of a policy step's samples, and what it is when they are weighted.
    scores: Option<(f64, f64)>,
    real_change: Option<f64>,
    generated_change: Option<f64>,
    real_tokens: Option<f64>,
    generated_tokens: Option<f64>,
    cut: Option<(f64, f64)>,
}

impl Iteration {
    /// Those of a stage folder, if pairs or samples were trained on there.
    fn new(folder: &Folder, name: &str, results: &Results) -> Option<Self> {
        let train = folder.figures(name, "train");
        if name.split_once('/').is_some_and(|(iteration, _)| folder.figures(iteration, "train").is_some()) {
            return None;
        }
        let is_round = |other: &&str| other.strip_prefix(name).is_some_and(|rest| rest.starts_with('/'));
        let last_round = || folder.stage_folders().into_iter().rev().find(is_round);
        // An iteration in rounds has the pairs in theirs.
        let pairs =
            folder.figures(name, "pairs").or_else(|| train.and_then(|_| folder.figures(last_round()?, "pairs")));
        let of = |figures: Option<&Map<String, Value>>, key: &str| figures?.get(key)?.as_f64();
        let side = |side: &str, key: &str| pairs?.get(side)?.get(key)?.as_f64();
        let samples = folder.figures(name, "scores");
        let scores = of(samples, "generated").zip(of(samples, "weighted"));
        let (first_loss, loss) = (of(train, "first_loss"), of(train, "loss"));
        // Before the first step all margins are 0, which tells nothing: a round of a single step ends there.
        let accuracy = of(train, "accuracy").filter(|&accuracy| accuracy > 0.0 || first_loss != loss);
        (accuracy.is_some() || pairs.is_some() || scores.is_some()).then(|| Self {
            name: name.into(),
            loss,
            first_loss,
            accuracy,
            held_out: held_out(name, results),
            scores,
            real_change: of(train, "real_change"),
            generated_change: of(train, "generated_change"),
            real_tokens: side("real", "mean_tokens"),
            generated_tokens: side("generated", "mean_tokens"),
            cut: side("real", "cut").zip(side("generated", "cut")),
        })
    }

    /// The share of pairs that it tells apart: of those trained on, or where that says nothing of held-out ones.
    fn told_apart(&self) -> Option<f64> {
        self.accuracy.or_else(|| Some(self.held_out.as_ref()?.0))
    }
}

/// How well held-out pairs are told apart.
fn held_out(name: &str, results: &Results) -> Option<(f64, String)> {
    let figures = &results.rows[results.place(name)?].figures;
    let of = |name: &str| figures.get(&format!("discrimination.{name}"));
    let (pairs, area, length) = (of("log_ratio.pairs")?, of("log_ratio.auc")?, of("length.auc")?);
    let sentence = format!(
        "Held out: {:.0}%, with an area under the ROC curve of {area}; length alone has {length}, chance 0.5.",
        100.0 * pairs.value
    );
    Some((pairs.value, sentence))
}

fn learning(iterations: &[Iteration]) -> Answer {
    let question = "Is it learning?";
    let trained: Vec<_> = iterations.iter().filter_map(|i| Some((i, i.told_apart()?))).collect();
    if iterations.iter().any(|i| i.scores.is_some() && i.accuracy.is_none()) {
        return scoring(question, iterations);
    }
    let Some((_, last)) = trained.last() else {
        let why = vec!["No iteration has been trained on pairs yet.".into()];
        return Answer { question, short: "Not known yet".into(), why, tone: Tone::Neutral };
    };
    let sentence = |(i, _): &(&Iteration, f64)| {
        let loss = match (i.first_loss, i.loss) {
            (Some(first), Some(loss)) => format!(", loss {first:.3} to {loss:.3}"),
            (None, Some(loss)) => format!(", loss {loss:.3}"),
            _ => String::new(),
        };
        let trained = match i.accuracy {
            Some(accuracy) => format!("{:.0}% of pairs told apart at the end{loss}", 100.0 * accuracy),
            None => "its last steps were each the first against a new opponent, where all margins are 0".into(),
        };
        let held_out = i.held_out.iter().map(|(_, sentence)| format!(" {sentence}")).collect::<String>();
        format!("{}: {trained}.{held_out}", i.name)
    };
    let (short, tone) = match *last {
        last if last > 0.5 => (format!("Yes: tells {:.0}% of pairs apart", 100.0 * last), Tone::Good),
        last => (format!("Hardly: tells {:.0}% of pairs apart", 100.0 * last), Tone::Bad),
    };
    // The latest first: a page shows the others on request.
    let mut why: Vec<_> = trained.iter().rev().map(sentence).collect();
    why.insert(
        1,
        "Half would be guessing. Telling pairs apart is what is trained; whether answers get better, the results say."
            .into(),
    );
    Answer { question, short, why, tone }
}

/// Whether a policy step's samples score higher from one iteration to the next.
fn scoring(question: &'static str, iterations: &[Iteration]) -> Answer {
    let scores: Vec<_> = iterations.iter().filter_map(|i| Some((i, i.scores?))).collect();
    let sentence = |(i, (samples, weighted)): &(&Iteration, (f64, f64))| {
        format!(
            "{}: the samples score {samples:.3} on average; weighted, what training is after, {weighted:.3}.",
            i.name
        )
    };
    let why = scores.iter().rev().map(sentence).collect();
    let (short, tone) = match &scores[..] {
        [(_, (first, _)), .., (_, (last, _))] if last > first => {
            (format!("Yes: samples score {first:.3}, then {last:.3}"), Tone::Good)
        }
        [(_, (first, _)), .., (_, (last, _))] => {
            (format!("Hardly: samples score {first:.3}, then {last:.3}"), Tone::Bad)
        }
        _ => ("The next samples will tell".into(), Tone::Neutral),
    };
    Answer { question, short, why, tone }
}

fn collapse(iterations: &[Iteration], guards: &[Guard]) -> Answer {
    let question = "Is it collapsing?";
    if iterations.is_empty() && guards.is_empty() {
        let why = vec!["No iteration is played yet.".into()];
        return Answer { question, short: "Not known yet".into(), why, tone: Tone::Neutral };
    }
    let mut why: Vec<String> = Vec::new();
    for i in iterations.iter().rev() {
        let mut parts = Vec::new();
        if let (Some(real), Some(generated)) = (i.real_change, i.generated_change) {
            let per_token = i.real_tokens.map(|tokens| format!(" ({:+.3} a token)", real / tokens)).unwrap_or_default();
            parts.push(format!(
                "log-probability of real answers {real:+.2} nats{per_token}, of generated ones {generated:+.2}"
            ));
        }
        if let (Some(real), Some(generated)) = (i.real_tokens, i.generated_tokens) {
            parts.push(format!("its opponent's answers have {generated:.1} tokens, the real ones {real:.1}"));
        }
        if let Some((real, generated)) = i.cut {
            parts.push(format!("cut at the limit {:.0}% and {:.0}%", 100.0 * generated, 100.0 * real));
        }
        if !parts.is_empty() {
            why.push(format!("{}: {}.", i.name, parts.join("; ")));
        }
    }
    let changes: Vec<f64> = iterations.iter().filter_map(|i| i.real_change).collect();
    let fell = changes.iter().filter(|&&change| change < 0.0).count();
    if changes.is_empty() && iterations.iter().any(|i| i.scores.is_some()) {
        why.push("A policy step is trained on samples alone, so no real answers are watched; lengths and variety are among the curves.".into());
    }
    let (short, tone) = match (guards.len(), fell) {
        (0, _) if changes.is_empty() => ("No guard fired".to_owned(), Tone::Neutral),
        (0, 0) => ("No sign of it".to_owned(), Tone::Good),
        (0, n) => (format!("Real answers grew less likely in {n} of {} iterations", changes.len()), Tone::Neutral),
        (1, _) => ("A guard fired".to_owned(), Tone::Bad),
        (n, _) => (format!("{n} guards fired"), Tone::Bad),
    };
    Answer { question, short, why, tone }
}
