//! Real and generated responses of an iteration side by side, with the opponent's log-probabilities.

use std::cmp::Ordering;
use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use topspin_kernels::device::Device;
use topspin_model::decoder::{Keep, Tape};
use topspin_rollout::Finish;

use super::items::Item;
use super::lines::{read_lines, write_lines};
use super::{Done, Rollout, Round, Run, RunError};
use crate::pair::{Response, Tree, drop_identical};
use crate::score::score;
use crate::tree::TokenTree;

/// Trees scored between two looks at the progress.
const SCORED_AT_ONCE: usize = 32;

/// How the responses of one side look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Side {
    /// Responses.
    pub responses: usize,
    /// Mean length in tokens.
    pub mean_tokens: f64,
    /// Share of them that were cut at the length limit.
    pub cut: f64,
}

/// Results of the stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PairFigures {
    /// Pairs to train on.
    pub pairs: usize,
    /// Pairs dropped because both responses were the same.
    pub identical: usize,
    /// Samples skipped because their score is not below that of the real response, where a score judges them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped: Option<usize>,
    /// Pairs among them whose generated response comes from the iteration before.
    pub mixed: usize,
    /// Real responses of this iteration's prompts.
    pub real: Side,
    /// Responses that the opponent gave to them.
    pub generated: Side,
    /// Share of this iteration's pairs whose generated response is the longer one, equal ones counted by half: at 0 or
    /// 1 length alone tells real from generated.
    pub longer: f64,
}

impl<D: Device + Clone> Run<'_, D> {
    /// Puts the rollouts of a round, and on request those of the one before, beside the real responses.
    pub(super) fn pairs(&mut self, round: &Round) -> Result<Done, RunError> {
        let (name, k) = (round.stage("pairs"), round.iteration);
        let file = format!("{name}.jsonl");
        let items = self.items.by_line();
        let new: Vec<Rollout> = read_lines(&self.path(&format!("{}.jsonl", round.stage("rollouts"))))?;
        let old: Vec<Rollout> = match k {
            2.. if self.config.game.mix_previous => read_lines(&self.path(&format!("iter-{}/rollouts.jsonl", k - 1)))?,
            _ => Vec::new(),
        };

        let path = self.path(&format!("{}/real.jsonl", round.folder));
        // Rollouts of an earlier build came without.
        let scored: Vec<Rollout> = if path.exists() { read_lines(&path)? } else { Vec::new() };
        let (real, generated) = sides(&items, &new);
        let (new, skipped) = self.judge_pairs(round, k, new)?;
        let (old, skipped_old) = self.judge_pairs(&Round::new(k - 1), k, old)?;
        let skipped = skipped.map(|skipped| skipped + skipped_old.unwrap_or_default());
        let longer = longer(&items, &new);
        let all = new.len() + old.len();
        let mixed = old.iter().filter(|rollout| rollout.response.token_ids != items[&rollout.line].real).count();
        let mut trees = plant(&items, scored, new, old);
        let identical = drop_identical(&mut trees);
        self.fill_in_logprobs(&round.before, &name, &mut trees)?;
        write_lines(&self.path(&file), &trees)?;

        let figures = PairFigures { pairs: all - identical, identical, skipped, mixed, real, generated, longer };
        let judged = skipped.map(|n| format!(", {n} skipped by their score")).unwrap_or_default();
        self.observer.say(&format!(
            "{name}: {} pairs, {identical} identical ones dropped{judged}; real {:.1} tokens, {:.0}% cut; generated {:.1} \
             tokens, {:.0}% cut",
            figures.pairs,
            real.mean_tokens,
            100.0 * real.cut,
            generated.mean_tokens,
            100.0 * generated.cut
        ));
        Ok(Done::new([file], &figures))
    }

    /// Leaves out the samples of `from` whose score is not far enough below that of the real response in iteration `k`; says
    /// how many went, if a score judges them at all. One that is the real response stays, and is dropped as such.
    fn judge_pairs(
        &self,
        from: &Round,
        k: usize,
        mut rollouts: Vec<Rollout>,
    ) -> Result<(Vec<Rollout>, Option<usize>), RunError> {
        if !self.config.score.is_given() || rollouts.is_empty() {
            return Ok((rollouts, None));
        }
        let scores: HashMap<_, _> =
            self.judged(from)?.into_iter().map(|judged| ((judged.line, judged.sample), judged.score)).collect();
        let (items, all, gap) = (self.items.by_line(), rollouts.len(), *self.config.score.gap.of(k));
        rollouts.retain(|rollout| {
            let (real, sample) = (scores[&(rollout.line, None)], scores[&(rollout.line, rollout.sample)]);
            real - sample > gap || rollout.response.token_ids == items[&rollout.line].real
        });
        let left = rollouts.len();
        Ok((rollouts, Some(all - left)))
    }

    /// Scores the responses that have no log-probabilities yet with the model of folder `of`.
    fn fill_in_logprobs(&mut self, of: &str, name: &str, trees: &mut [Tree]) -> Result<(), RunError> {
        let mut trees: Vec<_> = trees.iter_mut().filter(|tree| responses(tree).any(is_bare)).collect();
        if trees.is_empty() {
            return Ok(());
        }
        let decoder = self.decoder(of)?;
        let mut tape = Tape::new(decoder.device(), Keep::Nothing);
        let total = trees.len();
        self.observer.begin(name, "prompts", total, 0);
        let mut done = 0;
        for part in trees.chunks_mut(SCORED_AT_ONCE) {
            self.check_stop(name)?;
            let bare: Vec<TokenTree> = part
                .iter()
                .map(|tree| TokenTree {
                    prompt_id: &tree.prompt_id,
                    prompt: &tree.prompt,
                    responses: responses(tree).filter(|r| is_bare(r)).map(|r| &r.token_ids[..]).collect(),
                    turns: &[],
                })
                .collect();
            let scores = score(&decoder, &mut tape, &bare, self.config.train.batch_tokens)?;
            for (tree, scores) in part.iter_mut().zip(scores) {
                let all = std::iter::once(&mut tree.real).chain(&mut tree.generated);
                all.filter(|r| is_bare(r)).zip(scores).for_each(|(response, scores)| response.logprobs = scores);
            }
            done += part.len();
            self.observer.advance(done, "");
        }
        Ok(())
    }
}

/// The real response of a tree, then the generated ones.
fn responses(tree: &Tree) -> impl Iterator<Item = &Response> {
    std::iter::once(&tree.real).chain(&tree.generated)
}

/// Whether a response waits for its log-probabilities.
fn is_bare(response: &Response) -> bool {
    response.logprobs.is_empty()
}

/// One tree for each prompt in the order of `new`, then of `old`. The rollouts brought the log-probabilities of `new` and
/// of its prompts' real responses, `scored`; what the present opponent makes of `old`, and of the real responses to
/// prompts that only `old` has, is yet to be scored.
fn plant(items: &HashMap<usize, &Item>, scored: Vec<Rollout>, new: Vec<Rollout>, old: Vec<Rollout>) -> Vec<Tree> {
    let mut trees: Vec<Tree> = Vec::new();
    let mut tree_of = HashMap::new();
    let mut scored: HashMap<_, _> = scored.into_iter().map(|rollout| (rollout.line, rollout.response)).collect();
    let bare = |rollout: Rollout| (rollout.line, Response { logprobs: Vec::new(), ..rollout.response });
    let new = new.into_iter().map(|rollout| (rollout.line, rollout.response));
    for (line, response) in new.chain(old.into_iter().map(bare)) {
        let at = *tree_of.entry(line).or_insert_with(|| {
            let item = items[&line];
            let bare = || Response::new(item.real.clone(), Vec::new(), item.finish);
            let real = scored.remove(&line).unwrap_or_else(bare);
            let prompt_id = item.id.clone();
            trees.push(Tree { prompt_id, prompt: item.prompt.clone(), real, generated: Vec::new(), base: Vec::new() });
            trees.len() - 1
        });
        trees[at].generated.push(response);
    }
    trees
}

/// How real and generated responses look.
fn sides(items: &HashMap<usize, &Item>, rollouts: &[Rollout]) -> (Side, Side) {
    let side = |responses: &mut dyn Iterator<Item = (usize, Finish)>| {
        let (mut responses_seen, mut tokens, mut cut) = (0, 0, 0);
        for (len, finish) in responses {
            responses_seen += 1;
            tokens += len;
            cut += usize::from(finish == Finish::Length);
        }
        let share = |part: usize| part as f64 / responses_seen as f64;
        Side { responses: responses_seen, mean_tokens: share(tokens), cut: share(cut) }
    };
    let mut lines: Vec<usize> = rollouts.iter().map(|rollout| rollout.line).collect();
    lines.dedup();
    let real = side(&mut lines.iter().map(|line| (items[line].real.len(), items[line].finish)));
    (real, side(&mut rollouts.iter().map(|r| (r.response.token_ids.len(), r.response.finish))))
}

/// How often the generated response is the longer one; a half where there is none.
fn longer(items: &HashMap<usize, &Item>, rollouts: &[Rollout]) -> f64 {
    let longer = rollouts.iter().map(|r| match r.response.token_ids.len().cmp(&items[&r.line].real.len()) {
        Ordering::Less => 0.0,
        Ordering::Equal => 0.5,
        Ordering::Greater => 1.0,
    });
    if rollouts.is_empty() { 0.5 } else { longer.sum::<f64>() / rollouts.len() as f64 }
}
