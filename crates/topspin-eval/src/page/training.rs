//! What was trained on: each prompt with its real answer and the opponents' own, and what the opponents thought of them.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::pieces::{Piece, Pieces, Spell};
use super::scored::{Logprobs, Scored, rounded};
use super::{Folder, PageError};

/// How much of the pairs goes into a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Most {
    /// Prompts.
    pub prompts: usize,
    /// Different generated answers to a prompt in one iteration.
    pub answers: usize,
}

/// A line of `pairs.jsonl`.
#[derive(Deserialize)]
struct Tree {
    prompt_id: String,
    prompt: Vec<u32>,
    real: Response,
    generated: Vec<Response>,
}

#[derive(Deserialize)]
struct Response {
    token_ids: Vec<u32>,
    #[serde(default)]
    logprobs: Vec<f32>,
    #[serde(default)]
    base_logprobs: Vec<f32>,
    finish: String,
}

/// The prompts of all iterations.
#[derive(Debug, Default, Serialize)]
pub struct Training {
    /// Folders of the iterations, or of their rounds, in order.
    pub rounds: Vec<String>,
    /// Number of prompts in the run; the page may have fewer.
    pub total: usize,
    /// What all prompts begin with: the chat template, and what else they share.
    pub prefix: String,
    /// What all prompts end with.
    pub suffix: String,
    /// The prompts.
    pub prompts: Vec<Prompt>,
}

/// A prompt of one or several iterations.
#[derive(Debug, Serialize)]
pub struct Prompt {
    /// The record's id.
    pub id: String,
    /// What is its own of its tokens, as places in the table of pieces.
    pub prompt: Vec<u32>,
    /// Its different answers, real and generated.
    pub answers: Vec<Answer>,
    /// What it got in each round that it took part in.
    pub rounds: Vec<Played>,
    /// In the latest round: the real answer's log-probability less the mean of the generated ones', both under the opponent,
    /// in nats.
    pub gap: Option<f64>,
    /// How much the log-probability of the real answer changed from one opponent that scored it to the next, the latest
    /// two, in nats.
    pub change: Option<f64>,
    /// That change less the mean of the same of the generated answers: the margin without beta, where both are known.
    pub margin: Option<f64>,
    #[serde(skip)]
    ids: Vec<u32>,
    #[serde(skip)]
    places: HashMap<Vec<u32>, usize>,
}

/// An answer as it was trained on.
#[derive(Debug, Serialize)]
pub struct Answer {
    /// Its tokens, as places in the table of pieces.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub finish: String,
    /// What the opponent of each round gave to it, of those that have scored it.
    pub scores: Vec<Scored>,
    /// What the base model gave to it, where the loss needs that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<Logprobs>,
}

/// A prompt's part in a round.
#[derive(Debug, Serialize)]
pub struct Played {
    /// Place of the round.
    pub round: usize,
    /// Place of the real answer.
    pub real: usize,
    /// Places of the generated ones with their counts, the most frequent first.
    pub generated: Vec<(usize, usize)>,
    /// Different generated answers that the page leaves out.
    pub omitted: usize,
}

/// Reads the pairs of all iterations.
pub fn read(folder: &Folder, spell: Option<&Spell>, most: Most, pieces: &mut Pieces) -> Result<Training, PageError> {
    let mut training = Training::default();
    let mut places: HashMap<(String, Vec<u32>), usize> = HashMap::new();
    let spelled = |ids: &[u32]| spell.map_or_else(|| Pieces::numbers(ids), |spell| spell(ids));
    for name in folder.stage_folders() {
        let round = training.rounds.len();
        let is_there = folder.lines(name, "pairs", |tree: Tree| {
            let next = places.len();
            let at = *places.entry((tree.prompt_id.clone(), tree.prompt.clone())).or_insert(next);
            if at >= most.prompts {
                return;
            }
            if at == training.prompts.len() {
                training.prompts.push(Prompt::new(tree.prompt_id.clone(), tree.prompt.clone()));
            }
            training.prompts[at].play(round, tree, most.answers, &mut |ids| pieces.intern_all(spelled(ids)));
        })?;
        if is_there {
            training.rounds.push(name.into());
        }
    }
    training.total = places.len();
    training.prompts.iter_mut().for_each(Prompt::measure);
    training.spell_prompts(&spelled, pieces);
    Ok(training)
}

impl Training {
    /// Spells the prompts out and sets apart what all of them share.
    fn spell_prompts(&mut self, spelled: &dyn Fn(&[u32]) -> Vec<Piece>, pieces: &mut Pieces) {
        let prompts: Vec<Vec<Piece>> = self.prompts.iter().map(|prompt| spelled(&prompt.ids)).collect();
        let (before, after) = if prompts.len() > 1 { shared(&prompts) } else { (0, 0) };
        let text = |pieces: &[Piece]| pieces.iter().map(|piece| piece.text.as_str()).collect();
        if let Some(first) = prompts.first() {
            self.prefix = text(&first[..before]);
            self.suffix = text(&first[first.len() - after..]);
        }
        for (prompt, mut own) in self.prompts.iter_mut().zip(prompts) {
            own.truncate(own.len() - after);
            prompt.prompt = pieces.intern_all(own.split_off(before));
        }
    }
}

/// How many pieces all prompts share at their beginning, up to the last special token or line break there, and how many at
/// their end, from the first such on: words that happen to be the same stay where they are.
fn shared(prompts: &[Vec<Piece>]) -> (usize, usize) {
    let is_seam = |piece: &Piece| piece.special || piece.text.contains('\n');
    let common = |of: &dyn Fn(&[Piece], usize) -> Option<Piece>, from: usize| {
        let first = &prompts[0];
        let is_shared =
            |at: &usize| prompts.iter().all(|prompt| prompt.len() > at + from && of(prompt, *at) == of(first, *at));
        (0..first.len()).take_while(is_shared).count()
    };
    let mut before = common(&|prompt, at| prompt.get(at).cloned(), 0);
    before = prompts[0][..before].iter().rposition(is_seam).map_or(0, |at| at + 1);
    // No piece is counted on both sides.
    let after = common(&|prompt, at| prompt.iter().rev().nth(at).cloned(), before);
    let tail = &prompts[0][prompts[0].len() - after..];
    (before, tail.iter().position(is_seam).map_or(0, |at| after - at))
}

impl Prompt {
    fn new(id: String, ids: Vec<u32>) -> Self {
        Self {
            id,
            prompt: Vec::new(),
            answers: Vec::new(),
            rounds: Vec::new(),
            gap: None,
            change: None,
            margin: None,
            ids,
            places: HashMap::new(),
        }
    }

    /// Enters what it got in a round.
    fn play(&mut self, round: usize, tree: Tree, most: usize, intern: &mut dyn FnMut(&[u32]) -> Vec<u32>) {
        let mut generated: Vec<(Response, usize)> = Vec::new();
        let mut seen: HashMap<Vec<u32>, usize> = HashMap::new();
        for response in tree.generated {
            match seen.get(&response.token_ids) {
                Some(&at) => generated[at].1 += 1,
                None => {
                    seen.insert(response.token_ids.clone(), generated.len());
                    generated.push((response, 1));
                }
            }
        }
        // Stable: of equally frequent ones the order of the file stays.
        generated.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let total: usize = generated.iter().map(|(_, count)| count).sum();
        let sum = |response: &Response| response.logprobs.iter().copied().map(f64::from).sum::<f64>();
        let mean = generated.iter().map(|(response, count)| *count as f64 * sum(response)).sum::<f64>() / total as f64;
        self.gap = Some(sum(&tree.real) - mean).filter(|gap| gap.is_finite());
        let omitted = generated.len().saturating_sub(most);
        generated.truncate(most);
        let real = self.enter(round, tree.real, intern);
        let generated = generated.into_iter().map(|(response, count)| (self.enter(round, response, intern), count));
        let played = Played { round, real, generated: generated.collect(), omitted };
        self.rounds.push(played);
    }

    /// Enters an answer, or its log-probabilities if it is there already.
    fn enter(&mut self, round: usize, response: Response, intern: &mut dyn FnMut(&[u32]) -> Vec<u32>) -> usize {
        let Response { token_ids, logprobs, base_logprobs, finish } = response;
        let at = *self.places.entry(token_ids.clone()).or_insert_with(|| {
            let tokens = intern(&token_ids);
            self.answers.push(Answer { tokens, finish, scores: Vec::new(), base: None });
            self.answers.len() - 1
        });
        let answer = &mut self.answers[at];
        let packed = |logprobs: &[f32]| Logprobs::new(logprobs, answer.tokens.len());
        if !base_logprobs.is_empty() {
            answer.base = Some(packed(&base_logprobs));
        }
        if !logprobs.is_empty() && answer.scores.last().is_none_or(|last| last.by != round) {
            answer.scores.push(Scored { by: round, logprobs: packed(&logprobs) });
        }
        at
    }

    /// What follows from the log-probabilities of the latest round.
    fn measure(&mut self) {
        let Some(latest) = self.rounds.last() else { return };
        let change = |answer: usize| match &self.answers[answer].scores[..] {
            [.., before, after] if after.by == latest.round => {
                Some((after.logprobs.sum - before.logprobs.sum, before.by))
            }
            _ => None,
        };
        let real = change(latest.real);
        self.change = real.map(|(change, _)| change);
        self.margin = real.and_then(|(real, since)| {
            let of_same = |&(answer, count): &(usize, usize)| {
                change(answer).filter(|(_, before)| *before == since).map(|(change, _)| (change, count as f64))
            };
            let known: Vec<_> = latest.generated.iter().filter_map(of_same).collect();
            let total: f64 = known.iter().map(|(_, count)| count).sum();
            (total > 0.0).then(|| real - known.iter().map(|(change, count)| change * count).sum::<f64>() / total)
        });
        for value in [&mut self.gap, &mut self.change, &mut self.margin].into_iter().flatten() {
            *value = rounded(*value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(text: &str) -> Vec<Piece> {
        text.chars().map(|c| Piece { text: c.to_string(), special: "<>".contains(c) }).collect()
    }

    #[test]
    fn only_the_template_is_set_apart() {
        let of = |texts: &[&str]| shared(&texts.iter().map(|text| pieces(text)).collect::<Vec<_>>());
        // Both begin with `ab` and end with `yz`, words of their own.
        assert_eq!(of(&["<u\nab1yz>a\n", "<u\nab22yz>a\n"]), (3, 3));
        assert_eq!(of(&["abc", "abd"]), (0, 0));
        // One is all of the other's beginning.
        assert_eq!(of(&["<\n>", "<\nx\n>"]), (2, 1));
        assert_eq!(of(&["<>", "<>"]), (2, 0));
    }
}
