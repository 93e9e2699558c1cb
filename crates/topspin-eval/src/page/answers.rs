//! Answers of the evaluations, for the reader.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::pieces::{Pieces, Spell};
use super::results::{Results, Row};
use super::scored::{Logprobs, Scored, rounded, sum_by};
use super::{Folder, PageError};
use crate::{Evaluated, REAL, SAMPLED, SAMPLED_BEFORE, exact_match};

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
    /// Stages whose models have scored answers, in order; runs of earlier versions have none.
    pub stages: Vec<Stage>,
    /// The prompts.
    pub prompts: Vec<TestPrompt>,
}

/// A stage whose model has scored answers.
#[derive(Debug, Serialize)]
pub struct Stage {
    /// Its folder.
    pub folder: String,
    /// Place of the stage that it is set against.
    pub before: Option<usize>,
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
    /// The first good answer, where it is scored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub real: Option<Real>,
    /// What the stages answer, in their order.
    pub answers: Vec<Answer>,
    /// The margin of each stage that is set against one before it, behind its place: by how much more the real answer has become
    /// likelier than the sample of the stage before, in nats. With beta it is the margin that self-play trains.
    pub margins: Vec<(usize, f64)>,
    /// How far the last greedy answer (or else the last sampled one) is from the first: the share of tokens not in common,
    /// order aside. None where there is one alone.
    pub change: Option<f64>,
}

/// A good answer.
#[derive(Debug, Serialize)]
pub struct Real {
    /// Its tokens, as places in the table of pieces.
    pub tokens: Vec<u32>,
    /// What each stage gives to it.
    pub scores: Vec<Scored>,
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
    /// What its own stage gives to it, where it is sampled, and the stages that are set against that one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scores: Vec<Scored>,
}

/// Reads the answers of all evaluations, with the texts of the first `most` prompts.
pub fn read(
    folder: &Folder,
    results: &Results,
    spell: Option<&Spell>,
    most: usize,
    pieces: &mut Pieces,
) -> Result<Tests, PageError> {
    // Without the texts of tokens an answer is one piece.
    let mut spelled = |ids: &[u32], text: &str| match spell {
        Some(spell) => pieces.intern_all(spell(ids)),
        None => vec![pieces.intern(text, false)],
    };
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
                let tokens = spelled(&line.token_ids, &line.response);
                let exact = (!line.references.is_empty()).then(|| exact_match(&line.response, &line.references));
                let finish = line.finish_reason.clone();
                let answer = Answer { folder: name.into(), kind, finish, exact, tokens, scores: Vec::new() };
                if at == tests.prompts.len() {
                    tests.prompts.push(TestPrompt::new(key, line));
                }
                tests.prompts[at].answers.push(answer);
            })?;
        }
    }
    tests.total = places.len();
    tests.prompts.iter_mut().for_each(TestPrompt::measure_change);
    for row in &results.rows {
        tests.score(row, &places, &mut spelled);
    }
    Ok(tests)
}

impl Tests {
    /// Enters what the model of a stage gives to answers.
    fn score(
        &mut self,
        row: &Row,
        places: &HashMap<(String, usize), usize>,
        spelled: &mut dyn FnMut(&[u32], &str) -> Vec<u32>,
    ) {
        if row.records.iter().all(|record| record.responses.is_empty()) {
            return;
        }
        let place = self.stages.len();
        let before =
            row.before.as_ref().and_then(|before| self.stages.iter().position(|stage| stage.folder == *before));
        self.stages.push(Stage { folder: row.folder.clone(), before });
        let mut seen: HashMap<&str, usize> = HashMap::new();
        for record in &row.records {
            let nth = seen.entry(&record.id).or_default();
            let at = places.get(&(record.id.clone(), *nth));
            *nth += 1;
            if let Some(prompt) = at.and_then(|&at| self.prompts.get_mut(at)) {
                prompt.score(place, &self.stages, record, spelled);
            }
        }
    }
}

impl TestPrompt {
    fn new((id, nth): (String, usize), line: Generation) -> Self {
        let told = |message: Message| format!("{}: {}", message.role, message.content);
        let messages = line.messages.into_iter().flatten().map(told).collect::<Vec<_>>().join("\n");
        let prompt = line.prompt.unwrap_or(messages);
        let (answers, margins) = (Vec::new(), Vec::new());
        Self { id, nth, prompt, references: line.references, real: None, answers, margins, change: None }
    }

    /// Enters what the model of a stage gives to the real answer, to its own sample and to that of the stage before.
    fn score(
        &mut self,
        place: usize,
        stages: &[Stage],
        record: &Evaluated,
        spelled: &mut dyn FnMut(&[u32], &str) -> Vec<u32>,
    ) {
        let before = stages[place].before;
        let scored = |kind: &str, tokens: usize| {
            let response = record.responses.get(kind)?;
            Some(Scored { by: place, logprobs: Logprobs::new(&response.logprobs, tokens) })
        };
        if let Some(response) = record.responses.get(REAL) {
            let text = self.references.first().map_or("", String::as_str);
            let new = || Real { tokens: spelled(&response.token_ids, text), scores: Vec::new() };
            let real = self.real.get_or_insert_with(new);
            real.scores.extend(scored(REAL, real.tokens.len()));
        }
        for (stage, kind) in std::iter::once((place, SAMPLED)).chain(before.map(|before| (before, SAMPLED_BEFORE))) {
            if let Some(answer) = self.sample_mut(&stages[stage].folder) {
                answer.scores.extend(scored(kind, answer.tokens.len()));
            }
        }
        let log_ratio = |scores: &[Scored]| Some(sum_by(scores, place)? - sum_by(scores, before?)?);
        let real = self.real.as_ref().and_then(|real| log_ratio(&real.scores));
        let sample = before.and_then(|before| log_ratio(&self.sample_mut(&stages[before].folder)?.scores));
        self.margins.extend(real.zip(sample).map(|(real, sample)| (place, rounded(real - sample))));
    }

    /// What a stage sampled.
    fn sample_mut(&mut self, folder: &str) -> Option<&mut Answer> {
        self.answers.iter_mut().find(|answer| answer.folder == folder && answer.kind == KINDS[1])
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
