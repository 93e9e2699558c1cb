//! Answers of the evaluations, for the reader.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::pieces::{Pieces, Spell};
use super::{Folder, PageError};
use crate::exact_match;

/// The kinds of answers that an evaluation has.
pub const KINDS: [&str; 2] = ["greedy", "sampled"];

/// A line of `greedy.jsonl` or `sampled.jsonl`.
#[derive(Deserialize)]
struct Generation {
    id: String,
    prompt: Option<String>,
    messages: Option<Vec<Message>>,
    #[serde(default)]
    references: Vec<String>,
    response: String,
    token_ids: Vec<u32>,
    finish_reason: String,
}

#[derive(Deserialize)]
struct Message {
    role: String,
    content: String,
}

/// Test prompts with what every stage answers.
#[derive(Debug, Default, Serialize)]
pub struct Tests {
    /// Number of test prompts in the run; the page may have fewer.
    pub total: usize,
    /// The prompts.
    pub prompts: Vec<TestPrompt>,
}

/// A test prompt.
#[derive(Debug, Serialize)]
pub struct TestPrompt {
    /// The record's id.
    pub id: String,
    /// Its number among those of the same id.
    pub nth: usize,
    /// The prompt.
    pub prompt: String,
    /// Good answers.
    pub references: Vec<String>,
    /// What the stages answer, in their order.
    pub answers: Vec<Answer>,
    /// How far the last greedy answer (or else the last sampled one) is from the first: the share of tokens not in common,
    /// order aside. None where there is one alone.
    pub change: Option<f64>,
}

/// An answer of a stage.
#[derive(Debug, Serialize)]
pub struct Answer {
    /// The stage's folder.
    pub folder: String,
    /// `greedy` or `sampled`.
    pub kind: &'static str,
    /// Why it ended.
    pub finish: String,
    /// Whether it is one of the references word for word; none where there are none.
    pub exact: Option<bool>,
    /// Its tokens, as places in the table of pieces.
    pub tokens: Vec<u32>,
}

/// Reads the answers of all evaluations, with the texts of the first `most` prompts.
pub fn read(folder: &Folder, spell: Option<&Spell>, most: usize, pieces: &mut Pieces) -> Result<Tests, PageError> {
    let mut tests = Tests::default();
    let mut places: HashMap<(String, usize), usize> = HashMap::new();
    for name in folder.stage_folders() {
        for kind in KINDS {
            let mut seen: HashMap<String, usize> = HashMap::new();
            folder.lines(name, kind, |line: Generation| {
                let nth = seen.entry(line.id.clone()).or_default();
                let key = (line.id.clone(), *nth);
                *nth += 1;
                let next = places.len();
                let at = *places.entry(key.clone()).or_insert(next);
                if at >= most {
                    return;
                }
                let tokens = match spell {
                    Some(spell) => pieces.intern_all(spell(&line.token_ids)),
                    None => vec![pieces.intern(&line.response, false)],
                };
                let exact = (!line.references.is_empty()).then(|| exact_match(&line.response, &line.references));
                let answer = Answer { folder: name.into(), kind, finish: line.finish_reason.clone(), exact, tokens };
                if at == tests.prompts.len() {
                    tests.prompts.push(TestPrompt::new(key, line));
                }
                tests.prompts[at].answers.push(answer);
            })?;
        }
    }
    tests.total = places.len();
    tests.prompts.iter_mut().for_each(TestPrompt::measure_change);
    Ok(tests)
}

impl TestPrompt {
    fn new((id, nth): (String, usize), line: Generation) -> Self {
        let told = |message: Message| format!("{}: {}", message.role, message.content);
        let messages = line.messages.into_iter().flatten().map(told).collect::<Vec<_>>().join("\n");
        let prompt = line.prompt.unwrap_or(messages);
        Self { id, nth, prompt, references: line.references, answers: Vec::new(), change: None }
    }

    fn measure_change(&mut self) {
        let of = |kind| self.answers.iter().filter(move |answer| answer.kind == kind);
        let kind = KINDS.into_iter().find(|&kind| of(kind).count() > 1);
        let ends = kind.and_then(|kind| Some((of(kind).next()?, of(kind).next_back()?)));
        self.change = ends.map(|(first, last)| distance(&first.tokens, &last.tokens));
    }
}

/// One minus Dice's coefficient (1945) of two bags of tokens: 0 where they are the same, 1 where they share none.
fn distance(a: &[u32], b: &[u32]) -> f64 {
    let mut counts: HashMap<u32, usize> = HashMap::new();
    a.iter().for_each(|&token| *counts.entry(token).or_default() += 1);
    let take = |token: &&u32| counts.get_mut(token).filter(|count| **count > 0).map(|count| *count -= 1).is_some();
    let common = b.iter().filter(take).count();
    if a.is_empty() && b.is_empty() { 0.0 } else { 1.0 - 2.0 * common as f64 / (a.len() + b.len()) as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distance_counts_what_is_not_in_common() {
        assert_eq!(distance(&[1, 2, 2, 3], &[2, 3, 1, 2]), 0.0);
        assert_eq!(distance(&[1, 1], &[2]), 1.0);
        assert_eq!(distance(&[1, 1], &[1, 2]), 0.5);
        assert_eq!(distance(&[], &[]), 0.0);
    }
}
