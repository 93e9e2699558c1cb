//! Real and generated responses of an iteration side by side, with the opponent's log-probabilities.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};
use topspin_eval::distinct_runs;
use topspin_kernels::device::Device;
use topspin_model::decoder::{Keep, Tape};
use topspin_rollout::Finish;

use super::guard::of_pairs;
use super::items::Item;
use super::lines::{read_lines, write_lines};
use super::lineup::Answerer;
use super::round::Round;
use super::{Done, Rollout, Run, RunError, Stage, State};
use crate::opponent::{Opponent, Player, Reference};
use crate::pair::{Response, Tree};
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
    /// Distinct pairs of tokens among all pairs of tokens, in one response to each prompt. None where all are of one token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distinct_2: Option<f64>,
}

/// Results of the stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PairFigures {
    /// Pairs to train on.
    pub pairs: usize,
    /// Pairs whose responses are the same; they are dropped where the loss ignores them.
    pub identical: usize,
    /// Samples skipped because their score is not below that of the real response, where a score judges them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped: Option<usize>,
    /// Pairs to train on whose generated response comes from the iteration before.
    pub mixed: usize,
    /// Real responses of this iteration's prompts.
    pub real: Side,
    /// Responses that the opponent gave to them.
    pub generated: Side,
    /// Share of this iteration's pairs whose generated response is the longer one, equal ones counted by half: at 0 or
    /// 1 length alone tells real from generated.
    pub longer: f64,
}

/// A response whose log-probabilities are not all known yet.
struct Candidate {
    response: Response,
    /// What is known of its log-probabilities, by whose they are.
    known: BTreeMap<Player, Vec<f32>>,
}

impl Candidate {
    /// A response of which nothing is known.
    fn bare(response: Response) -> Self {
        Self { response: Response { logprobs: Vec::new(), ..response }, known: BTreeMap::new() }
    }

    /// A response with the log-probabilities of `player`, those that it came with.
    fn of(player: Player, mut response: Response) -> Self {
        let logprobs = std::mem::take(&mut response.logprobs);
        Self { response, known: BTreeMap::from([(player, logprobs)]) }
    }

    /// The response with the reference's log-probabilities, and with those of the base model if they are known.
    fn finish(self, reference: &Reference) -> Response {
        let Self { response, mut known } = self;
        let logprobs = reference.logprobs(response.token_ids.len(), |player| &known[&player]);
        Response { logprobs, base_logprobs: known.remove(&Player::Model(0)).unwrap_or_default(), ..response }
    }
}

/// A prompt's pairs in the making.
struct Sapling {
    prompt_id: String,
    prompt: Vec<u32>,
    real: Candidate,
    /// Generated responses, each with that of the base model beside it where there is one.
    generated: Vec<(Candidate, Option<Response>)>,
}

impl Sapling {
    /// Counts pairs whose two responses have the same tokens, and removes them on request.
    ///
    /// Such a pair has the margin 0 whatever the policy: to a function of the margin it would only dilute the mean. Other
    /// losses learn from it, and without it from another distribution than the opponent's.
    fn count_identical(&mut self, dropped: bool) -> usize {
        let real = &self.real.response.token_ids;
        let is_identical = |(generated, _): &(Candidate, _)| generated.response.token_ids == *real;
        let identical = self.generated.iter().filter(|generated| is_identical(generated)).count();
        if dropped {
            self.generated.retain(|generated| !is_identical(generated));
        }
        identical
    }

    /// The generated responses, and on request the real one, that lack the log-probabilities of `player`, with the prompt.
    fn lacking(&mut self, player: Player, of_real: bool) -> (TokenTree<'_>, Vec<&mut Candidate>) {
        let Self { prompt_id, prompt, real, generated } = self;
        let real = of_real.then_some(real);
        let all = real.into_iter().chain(generated.iter_mut().map(|(generated, _)| generated));
        let lacking: Vec<_> = all.filter(|candidate| !candidate.known.contains_key(&player)).collect();
        (TokenTree { prompt_id, prompt, responses: Vec::new(), turns: &[] }, lacking)
    }

    fn finish(self, reference: &Reference, with_base: bool) -> Tree {
        let finish = |candidate: Candidate| {
            let response = candidate.finish(reference);
            if with_base { response } else { Response { base_logprobs: Vec::new(), ..response } }
        };
        let Self { prompt_id, prompt, real, generated } = self;
        let real = Response { base_logprobs: Vec::new(), ..finish(real) };
        let (generated, base): (Vec<_>, Vec<_>) = generated.into_iter().map(|(g, base)| (finish(g), base)).unzip();
        Tree { prompt_id, prompt, real, generated, base: base.into_iter().flatten().collect() }
    }
}

impl<D: Device + Clone> Run<'_, D> {
    /// Puts the rollouts of a round, and where the opponent is the latest two those of the iteration before, beside the real
    /// responses.
    pub(super) fn pairs(&mut self, round: &Round) -> Result<Done, RunError> {
        let (name, k) = (round.stage("pairs"), round.iteration);
        let file = format!("{name}.jsonl");
        let field = self.field(round);
        let loss = self.config.game.loss(k);
        let (needs, drops) = (loss.needs(), loss.ignores_identical());
        let items = self.items.by_line();
        let new: Vec<Rollout> = read_lines(&self.path(&format!("{}.jsonl", round.stage("rollouts"))))?;
        let old: Vec<Rollout> = match (k, self.config.game.opponent.of(k)) {
            (2.., Opponent::LatestTwo) => read_lines(&self.path(&format!("iter-{}/rollouts.jsonl", k - 1)))?,
            _ => Vec::new(),
        };
        let (real, generated) = sides(&items, &new);
        let (new, skipped) = self.judge_pairs(&round.folder, k, drops, new)?;
        let (old, skipped_old) = self.judge_pairs(&format!("iter-{}", k - 1), k, drops, old)?;
        let skipped = skipped.map(|skipped| skipped + skipped_old.unwrap_or_default());
        let longer = longer(&items, &new);
        let all = new.len() + old.len();
        let mixed = old.iter().filter(|rollout| rollout.response.token_ids != items[&rollout.line].real).count();
        let [mut beside_new, mut beside_old] = [HashMap::new(), HashMap::new()];
        if needs.base_response {
            beside_new = self.base_responses(&round.folder)?;
            beside_old = if old.is_empty() { beside_old } else { self.base_responses(&format!("iter-{}", k - 1))? };
        }

        let mut garden = Garden::new(items, self.read_if_there(&round.folder, "real")?, field.lineup.players[0].0);
        for rollout in new {
            let player = match &rollout.player {
                None => field.lineup.players[0].0,
                Some(player) => field.named(player).expect("a player of this round is one of its lineup"),
            };
            // Where the base alone answers, its response stands for both.
            let own = (needs.base_response && field.lineup.is_base()).then(|| rollout.response.clone());
            let beside = beside_new.remove(&rollout.key()).or(own);
            garden.add(&rollout, Candidate::of(player, rollout.response.clone()), beside);
        }
        // What the present opponent makes of these is yet to be scored.
        for rollout in old {
            let own = (needs.base_response && k == 2).then(|| rollout.response.clone());
            let beside = beside_old.remove(&rollout.key()).or(own);
            garden.add(&rollout, Candidate::bare(rollout.response.clone()), beside);
        }
        let mut saplings = garden.saplings;
        let identical = saplings.iter_mut().map(|sapling| sapling.count_identical(drops)).sum();
        saplings.retain(|sapling| !sapling.generated.is_empty());
        let reference: BTreeSet<_> = field.lineup.reference.players().collect();
        for &player in &reference {
            self.fill_in(&name, &field.answerer(player), player, true, &mut saplings)?;
        }
        let start = Player::Model(0);
        if needs.base_logprobs && !reference.contains(&start) {
            self.fill_in(&name, &field.answerer(start), start, false, &mut saplings)?;
        }
        let finish = |sapling: Sapling| sapling.finish(&field.lineup.reference, needs.base_logprobs);
        write_lines(&self.path(&file), saplings.into_iter().map(finish))?;

        let pairs = if drops { all - identical } else { all };
        let figures = PairFigures { pairs, identical, skipped, mixed, real, generated, longer };
        let judged = skipped.map(|n| format!(", {n} skipped by their score")).unwrap_or_default();
        self.observer.say(&format!(
            "{name}: {pairs} pairs, {identical} identical ones {}{judged}; real {:.1} tokens, {:.0}% cut; generated {:.1} \
             tokens, {:.0}% cut",
            if drops { "dropped" } else { "kept" },
            real.mean_tokens,
            100.0 * real.cut,
            generated.mean_tokens,
            100.0 * generated.cut
        ));
        let before = self.last_pairs()?;
        let fired = of_pairs(&self.config.guard, &figures, before.as_ref());
        self.warn_of(&name, &fired);
        Ok(Done::new([file], &figures).guarded(fired))
    }

    /// Figures of the pairs that were made last, if any were.
    fn last_pairs(&self) -> Result<Option<PairFigures>, RunError> {
        let made = |stage: &&Stage| stage.state == State::Done && stage.name.ends_with("/pairs");
        let last = self.manifest.stages.iter().rfind(made);
        last.map_or(Ok(None), |last| self.figures_of(&last.name))
    }

    /// Leaves out the samples of `folder` whose score is not far enough below that of the real response in iteration `k`; says
    /// how many went, if a score judges them at all. Those that are the real response are left to who `drops` them.
    fn judge_pairs(
        &self,
        folder: &str,
        k: usize,
        drops: bool,
        mut rollouts: Vec<Rollout>,
    ) -> Result<(Vec<Rollout>, Option<usize>), RunError> {
        if !self.config.score.is_given() || rollouts.is_empty() {
            return Ok((rollouts, None));
        }
        let scores: HashMap<_, _> =
            self.judged(folder)?.into_iter().map(|judged| ((judged.line, judged.sample), judged.score)).collect();
        let (items, all, gap) = (self.items.by_line(), rollouts.len(), *self.config.score.gap.of(k));
        rollouts.retain(|rollout| {
            let (real, sample) = (scores[&(rollout.line, None)], scores[&(rollout.line, rollout.sample)]);
            real - sample > gap || (drops && rollout.response.token_ids == items[&rollout.line].real)
        });
        let left = rollouts.len();
        Ok((rollouts, Some(all - left)))
    }

    /// A file of rollouts that not every round has.
    fn read_if_there(&self, folder: &str, name: &str) -> Result<Vec<Rollout>, RunError> {
        let path = self.path(&format!("{folder}/{name}.jsonl"));
        if path.exists() { read_lines(&path) } else { Ok(Vec::new()) }
    }

    /// Responses of the base model by the record and the number of the sample that each stands beside.
    fn base_responses(&self, folder: &str) -> Result<HashMap<(usize, Option<u32>), Response>, RunError> {
        let rollouts = self.read_if_there(folder, "base")?;
        Ok(rollouts.into_iter().map(|rollout| (rollout.key(), rollout.response)).collect())
    }

    /// Scores with the model of `player` the responses that it has not given or scored, the generated ones and on request the
    /// real ones.
    fn fill_in(
        &mut self,
        name: &str,
        answerer: &Answerer,
        player: Player,
        of_real: bool,
        saplings: &mut [Sapling],
    ) -> Result<(), RunError> {
        let lacking = saplings.iter_mut().map(|sapling| sapling.lacking(player, of_real));
        let mut lacking: Vec<_> = lacking.filter(|(_, candidates)| !candidates.is_empty()).collect();
        if lacking.is_empty() {
            return Ok(());
        }
        let decoder = self.answering(answerer)?;
        let mut tape = Tape::new(decoder.device(), Keep::Nothing);
        self.observer.begin(name, "prompts", lacking.len(), 0);
        let mut done = 0;
        for part in lacking.chunks_mut(SCORED_AT_ONCE) {
            self.check_stop(name)?;
            let trees = part.iter().map(|(tree, candidates)| {
                let responses = candidates.iter().map(|candidate| &candidate.response.token_ids[..]);
                TokenTree { responses: responses.collect(), ..tree.clone() }
            });
            let trees: Vec<_> = trees.collect();
            let scores = score(&decoder, &mut tape, &trees, self.config.train.batch_tokens)?;
            drop(trees);
            let candidates = part.iter_mut().flat_map(|(_, candidates)| candidates);
            for (candidate, logprobs) in candidates.zip(scores.into_iter().flatten()) {
                candidate.known.insert(player, logprobs);
            }
            done += part.len();
            self.observer.advance(done, "");
        }
        Ok(())
    }
}

/// Saplings as they are planted: one for each prompt, in the order in which it first occurs.
struct Garden<'a> {
    items: HashMap<usize, &'a Item>,
    /// Real responses that were scored as samples were made, by record.
    scored: HashMap<usize, Response>,
    /// Who scored them.
    scorer: Player,
    place_of: HashMap<usize, usize>,
    saplings: Vec<Sapling>,
}

impl<'a> Garden<'a> {
    fn new(items: HashMap<usize, &'a Item>, scored: Vec<Rollout>, scorer: Player) -> Self {
        let scored = scored.into_iter().map(|rollout| (rollout.line, rollout.response)).collect();
        Self { items, scored, scorer, place_of: HashMap::new(), saplings: Vec::new() }
    }

    fn add(&mut self, rollout: &Rollout, generated: Candidate, base: Option<Response>) {
        let Self { items, scored, scorer, place_of, saplings } = self;
        let at = *place_of.entry(rollout.line).or_insert_with(|| {
            let item = items[&rollout.line];
            let real = match scored.remove(&rollout.line) {
                Some(real) => Candidate::of(*scorer, real),
                None => Candidate::bare(Response::new(item.real.clone(), Vec::new(), item.finish)),
            };
            let (prompt_id, prompt) = (item.id.clone(), item.prompt.clone());
            saplings.push(Sapling { prompt_id, prompt, real, generated: Vec::new() });
            saplings.len() - 1
        });
        saplings[at].generated.push((generated, base));
    }
}

/// How real and generated responses look.
fn sides<'a>(items: &HashMap<usize, &'a Item>, rollouts: &'a [Rollout]) -> (Side, Side) {
    let side = |responses: Vec<(&[u32], Finish)>, one_each: Vec<&[u32]>| {
        let share = |part: usize| part as f64 / responses.len() as f64;
        Side {
            responses: responses.len(),
            mean_tokens: share(responses.iter().map(|(token_ids, _)| token_ids.len()).sum()),
            cut: share(responses.iter().filter(|(_, finish)| *finish == Finish::Length).count()),
            distinct_2: distinct_runs(&one_each, 2).ok().map(|figure| figure.value),
        }
    };
    let tokens = |rollout: &'a Rollout| &rollout.response.token_ids[..];
    let mut firsts: Vec<&Rollout> = rollouts.iter().collect();
    firsts.dedup_by_key(|rollout| rollout.line);
    let prompts: Vec<&Item> = firsts.iter().map(|rollout| items[&rollout.line]).collect();
    let real = side(
        prompts.iter().map(|item| (&item.real[..], item.finish)).collect(),
        prompts.iter().map(|item| &item.real[..]).collect(),
    );
    let generated = side(
        rollouts.iter().map(|rollout| (tokens(rollout), rollout.response.finish)).collect(),
        firsts.into_iter().map(tokens).collect(),
    );
    (real, generated)
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Few tokens, so that equal responses occur.
        #[test]
        fn only_identical_pairs_go(
            real in prop::collection::vec(0..3u32, 1..3),
            generated in prop::collection::vec(prop::collection::vec(0..3u32, 1..3), 0..9),
        ) {
            let response = |token_ids: &Vec<u32>| Response::new(token_ids.clone(), Vec::new(), Finish::Stop);
            let planted = generated.iter().enumerate().map(|(at, tokens)| {
                (Candidate::bare(response(tokens)), Some(response(&vec![at as u32])))
            });
            let real_tokens = Candidate::bare(response(&real));
            let (prompt_id, prompt) = (String::new(), vec![1]);
            let mut sapling = Sapling { prompt_id, prompt, real: real_tokens, generated: planted.collect() };
            let whole = sapling.generated.len();
            let kept = sapling.count_identical(false);
            prop_assert_eq!(sapling.generated.len(), whole);
            let dropped = sapling.count_identical(true);
            prop_assert_eq!(dropped, kept);
            let kept: Vec<_> = generated.iter().enumerate().filter(|(_, tokens)| **tokens != real).collect();
            prop_assert_eq!(dropped, generated.len() - kept.len());
            // What stands beside a response goes and stays with it.
            for ((candidate, base), (at, tokens)) in sapling.generated.iter().zip(kept) {
                prop_assert_eq!(&candidate.response.token_ids, tokens);
                prop_assert_eq!(&base.as_ref().unwrap().token_ids, &vec![at as u32]);
            }
        }
    }
}
