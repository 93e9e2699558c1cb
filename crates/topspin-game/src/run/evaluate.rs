//! Evaluation of a stage's model: generations, then figures.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use topspin_data::{Message, Record};
use topspin_eval::{
    Bootstrap, Discrimination, EvalError, Evaluated, Lengths, Nll, NllFigures, REAL, Report, SAMPLED, SAMPLED_BEFORE,
    Scored, Unit, distinct_n,
};
use topspin_kernels::device::Device;
use topspin_model::decoder::{Keep, Tape};
use topspin_model::dialect::Dialect;
use topspin_rollout::{Finish, Sampling};

use super::items::TestItem;
use super::lines::{read_lines, write_json, write_lines};
use super::lineup::Answerer;
use super::plan::kinds;
use super::rollouts::Wanted;
use super::summary::words;
use super::{BASE, Done, Run, RunError, candidates};
use crate::command::Call;
use crate::config::Eval;
use crate::pair::Response;
use crate::score::score;
use crate::scorer;
use crate::tree::TokenTree;

/// Number of evaluations in random draws: that of no iteration, and the same for all stages, so that they are compared
/// on the same random numbers.
const EVALUATION: u64 = u64::MAX;

/// Prompts scored between two looks at the progress.
const SCORED_AT_ONCE: usize = 32;

/// A generation: one line of `greedy.jsonl` or `sampled.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Generation {
    /// The record's id.
    pub id: String,
    /// The prompt, where it is a single message of the user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// The prompt, where it is more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages: Option<Vec<Message>>,
    /// Good responses.
    pub references: Vec<String>,
    /// What the model answered.
    pub response: String,
    /// The same as tokens, the end-of-turn token included.
    pub token_ids: Vec<u32>,
    /// `stop` or `length`.
    pub finish_reason: String,
}

impl Generation {
    /// What was answered to the prompt of `record`.
    pub fn new(record: &Record, references: Vec<String>, response: &Response, dialect: &Dialect) -> Self {
        let (prompt, messages) = match &record.messages[..] {
            [Message { role, content }] if role == "user" => (Some(content.clone()), None),
            messages => (None, Some(messages.to_vec())),
        };
        Self {
            id: record.id.clone(),
            prompt,
            messages,
            references,
            response: dialect.decode_response(&response.token_ids),
            token_ids: response.token_ids.clone(),
            finish_reason: match response.finish {
                Finish::Stop => "stop".into(),
                Finish::Length => "length".into(),
            },
        }
    }
}

impl<D: Device + Clone> Run<'_, D> {
    /// Has the model of a stage folder answer the test prompts, `greedy` or `sampled`.
    pub(super) fn generations(&mut self, folder: &str, kind: &str) -> Result<Done, RunError> {
        let sampling = if kind == "greedy" { Sampling::greedy() } else { Sampling::default() };
        let max_new_tokens = match self.config.eval.max_new_tokens {
            0 => self.config.rollout.max_new_tokens,
            most => most,
        };
        let sample = |item: &TestItem| Wanted::sample(0, item.line, &item.record.id, &item.prompt, 0, max_new_tokens);
        let wanted = self.items.test.iter().map(sample).collect();
        let name = format!("{folder}/{kind}");
        let model = [Answerer::Folder(folder.into())];
        let samples = self.complete(&name, &model, wanted, sampling, EVALUATION)?;
        let generations = self.items.test.iter().zip(samples).map(|(item, sample)| {
            Generation::new(&item.record, item.good.clone(), &sample.response, &self.base.dialect)
        });
        let file = format!("{name}.jsonl");
        write_lines(&self.path(&file), generations)?;
        Ok(Done::new([file], &Map::new()))
    }

    /// Computes the figures of a stage folder.
    pub(super) fn figures(&mut self, folder: &str) -> Result<Done, RunError> {
        let bootstrap = Bootstrap::default();
        let mut report = Report::new(bootstrap);
        let before = self.before(folder);
        report.before.clone_from(&before);
        let mut records = self.scored(folder, before.as_deref())?;
        self.add_likelihood(&mut report, &records)?;
        if let Some(before) = &before {
            self.add_discrimination(&mut report, &records, before)?;
        }
        for kind in kinds(&self.config).collect::<Vec<_>>() {
            let path = self.path(&format!("{folder}/{kind}.jsonl"));
            let generations = read_lines(&path)?;
            add_what_has_no_units(&mut report, kind, &generations)?;
            for (record, generation) in records.iter_mut().zip(&generations) {
                self.measure(record, kind, generation)?;
            }
            for (name, units) in self.ask_scorer(folder, &path, generations.len())? {
                for (record, unit) in records.iter_mut().zip(units) {
                    record.units.insert(format!("{kind}.{name}"), unit);
                }
            }
        }
        report.add_units(&records)?;
        let best = &self.config.eval.best;
        let Some(figure) = report.figures.get(best) else {
            let known: Vec<_> = report.figures.keys().map(|name| format!("`{name}`")).collect();
            return Err(RunError::UnknownMetric { best: best.clone(), known: known.join(", ") });
        };
        // Of an iteration the line that sums it up tells it.
        let is_played = folder.starts_with("iter-") && folder != "iter-0";
        let mut told = if is_played { Vec::new() } else { vec![(best.as_str(), words(figure))] };
        let others =
            ["nll.per_token", "greedy.tokens.mean", "sampled.tokens.mean"].into_iter().filter(|name| name != best);
        told.extend(others.filter_map(|name| Some((name, words(report.figures.get(name)?)))));
        let told: Vec<_> = told.into_iter().map(|(name, figure)| format!("`{name}` {figure}")).collect();
        self.observer.say(&format!("{folder}/eval: {}", told.join(", ")));
        let [file, lines] = ["json", "jsonl"].map(|extension| format!("{folder}/eval.{extension}"));
        write_lines(&self.path(&lines), &records)?;
        write_json(&self.path(&file), &report)?;
        let figures: Map<_, Value> = report.figures.iter().map(|(name, f)| (name.clone(), f.value.into())).collect();
        let fired = self.harm(folder, &report)?;
        self.warn_of(&format!("{folder}/eval"), fired.as_slice());
        Ok(Done::new([file, lines], &figures).guarded(fired.into_iter().collect()))
    }

    /// The stage folder whose model that of `folder` was trained from, if it is evaluated and sampled from: the opponent that
    /// held-out responses are told apart from.
    fn before(&self, folder: &str) -> Option<String> {
        let before = candidates::before(folder).filter(|_| self.config.eval.sampled)?;
        (before != BASE || self.config.sft.enabled).then_some(before)
    }

    /// The test records with what the model of a stage folder gives to good responses, to its own samples, and to those of the
    /// model of `before`.
    fn scored(&mut self, folder: &str, before: Option<&str>) -> Result<Vec<Evaluated>, RunError> {
        let name = format!("{folder}/eval");
        let sampled = |folder: &str| read_lines::<Generation>(&self.path(&format!("{folder}/sampled.jsonl")));
        let own = if self.config.eval.sampled { sampled(folder)? } else { Vec::new() };
        let before = before.map_or(Ok(Vec::new()), sampled)?;
        let decoder = self.answering(&Answerer::Folder(folder.into()))?;
        let mut tape = Tape::new(decoder.device(), Keep::Nothing);
        let items = &self.items.test;
        self.observer.begin(&name, "prompts", items.len(), 0);
        let mut records = Vec::with_capacity(items.len());
        for places in (0..items.len()).step_by(SCORED_AT_ONCE).map(|at| at..items.len().min(at + SCORED_AT_ONCE)) {
            if self.stop.load(std::sync::atomic::Ordering::Relaxed) {
                return Err(RunError::Stopped { stage: name });
            }
            let samples = |place: usize| [own.get(place), before.get(place)].into_iter().flatten();
            let tree = |place: usize| {
                let good = items[place].good_tokens.iter().map(Vec::as_slice);
                let responses = good.chain(samples(place).map(|generation| generation.token_ids.as_slice())).collect();
                TokenTree { prompt_id: &items[place].record.id, prompt: &items[place].prompt, responses, turns: &[] }
            };
            let trees: Vec<_> = places.clone().map(tree).collect();
            let scores = score(&decoder, &mut tape, &trees, self.config.train.batch_tokens)?;
            records.extend(places.clone().zip(&scores).map(|(place, scores)| {
                let item = &items[place];
                let (good, sampled) = scores.split_at(item.good_tokens.len());
                let kinds = [(SAMPLED, own.get(place)), (SAMPLED_BEFORE, before.get(place))].into_iter();
                let kinds = kinds.filter_map(|(kind, generation)| Some((kind, &generation?.token_ids)));
                evaluated(item, good, kinds.zip(sampled))
            }));
            self.observer.advance(places.end, "");
        }
        Ok(records)
    }

    /// Adds the likelihood of good responses.
    fn add_likelihood(&self, report: &mut Report, records: &[Evaluated]) -> Result<(), EvalError> {
        let nll = |record: &Evaluated| match record.unit("nll.per_token")? {
            Unit::Ratio([nats, tokens]) => Some(Nll { nats, tokens: tokens as usize }),
            _ => None,
        };
        let likelihoods: Vec<_> = records.iter().filter_map(nll).collect();
        if likelihoods.is_empty() {
            return Ok(());
        }
        let nll = NllFigures::new(&likelihoods, &report.bootstrap)?;
        if self.items.test.iter().all(|item| item.good.len() <= 1) {
            report.add_nll("nll", &nll);
        } else {
            // What a single response has does not exist where prompts have several.
            report.add("nll.per_token", nll.per_token);
            report.add("nll.perplexity", nll.perplexity);
        }
        Ok(())
    }

    /// Adds how well real responses are told apart from samples of the model of `before`.
    fn add_discrimination(&self, report: &mut Report, records: &[Evaluated], before: &str) -> Result<(), RunError> {
        let of_before = self.path(&format!("{before}/eval.jsonl"));
        if !of_before.exists() {
            // An earlier version, which this run was begun with, did not keep it.
            return Ok(());
        }
        let of_before: Vec<Evaluated> = read_lines(&of_before)?;
        let discrimination = Discrimination::new(records, Some(&of_before));
        if !discrimination.is_empty() {
            discrimination.report(report)?;
        }
        Ok(())
    }

    /// Notes what the metrics know of a generation.
    fn measure(&self, record: &mut Evaluated, kind: &str, generation: &Generation) -> Result<(), EvalError> {
        let Generation { response, references, token_ids, finish_reason, .. } = generation;
        let mut note = |name: &str, unit| record.units.insert(format!("{kind}.{name}"), unit);
        if !references.is_empty() {
            for measure in &self.config.eval.metrics {
                note(measure.name(), measure.unit(response, references)?);
            }
        }
        note("tokens.mean", Unit::Value(token_ids.len() as f64));
        for reason in ["stop", "length"] {
            note(&format!("finish.{reason}"), Unit::Hit(finish_reason == reason));
        }
        Ok(())
    }

    /// What the user's scorer, if there is one, says of the generations in a file.
    fn ask_scorer(
        &mut self,
        folder: &str,
        file: &Path,
        generations: usize,
    ) -> Result<BTreeMap<String, Vec<Unit>>, RunError> {
        let Eval { scorer, timeout, .. } = &self.config.eval;
        if scorer.is_empty() {
            return Ok(BTreeMap::new());
        }
        let work = format!("{folder}/eval");
        self.observer.begin(&work, "answers", generations, 0);
        let patience = Duration::from_secs(*timeout as u64);
        let call = Call { setting: "eval.scorer", command: scorer, file, patience, work: &work, stop: self.stop };
        Ok(scorer::score(&call, generations, |done| self.observer.advance(done, ""))?)
    }
}

/// A test record with the log-probabilities of its good responses, and with samples by kind, each by token.
fn evaluated<'a>(
    item: &TestItem,
    good: &[Vec<f32>],
    sampled: impl Iterator<Item = ((&'a str, &'a Vec<u32>), &'a Vec<f32>)>,
) -> Evaluated {
    let scored =
        |token_ids: &[u32], logprobs: &[f32]| Scored { token_ids: token_ids.into(), logprobs: logprobs.into() };
    let mut record = Evaluated { line: item.line, id: item.record.id.clone(), ..Evaluated::default() };
    if let (Some(tokens), Some(logprobs)) = (item.good_tokens.first(), good.first()) {
        record.responses.insert(REAL.into(), scored(tokens, logprobs));
        // Responses to one prompt are not independent: together they are one unit of the intervals.
        let all = || good.iter().flatten().copied().map(f64::from);
        record.set_nll(Nll { nats: -all().sum::<f64>(), tokens: all().count() });
    }
    let sampled = sampled.map(|((kind, tokens), logprobs)| (kind.to_owned(), scored(tokens, logprobs)));
    record.responses.extend(sampled);
    record
}

/// Adds what is said of all generations together, and not of each.
fn add_what_has_no_units(report: &mut Report, kind: &str, generations: &[Generation]) -> Result<(), EvalError> {
    let responses: Vec<_> = generations.iter().map(|g| &g.response).collect();
    // Answers of a single word have no pairs of words.
    if let Ok(figure) = distinct_n(&responses, 2) {
        report.add(format!("{kind}.distinct_2"), figure);
    }
    let lengths: Vec<_> = generations.iter().map(|g| g.token_ids.len()).collect();
    report.add_lengths(&format!("{kind}.tokens"), &Lengths::new(&lengths, &report.bootstrap.clone())?);
    Ok(())
}
