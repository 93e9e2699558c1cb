//! Evaluation of a stage's model: generations, then figures.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use topspin_data::{Message, Record};
use topspin_eval::{Bootstrap, EvalError, Lengths, Nll, NllFigures, Report, distinct_n, exact_match, share};
use topspin_kernels::device::Device;
use topspin_model::decoder::{Keep, Tape};
use topspin_model::dialect::Dialect;
use topspin_rollout::{Finish, Sampling};

use super::command::{Call, Given};
use super::items::TestItem;
use super::lines::{read_lines, write_json, write_lines};
use super::lineup::Answerer;
use super::plan::kinds;
use super::rollouts::Wanted;
use super::summary::words;
use super::{Done, Run, RunError, scorer};
use crate::pair::Response;
use crate::score::score;
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
    pub(super) fn new(record: &Record, references: Vec<String>, response: &Response, dialect: &Dialect) -> Self {
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
        let likelihoods = self.likelihoods(folder)?;
        if !likelihoods.is_empty() {
            let nll = NllFigures::new(&likelihoods, &bootstrap)?;
            if self.items.test.iter().all(|item| item.good.len() <= 1) {
                report.add_nll("nll", &nll);
            } else {
                // What a single response has does not exist where prompts have several.
                report.add("nll.per_token", nll.per_token);
                report.add("nll.perplexity", nll.perplexity);
            }
        }
        for kind in kinds(&self.config) {
            let path = self.path(&format!("{folder}/{kind}.jsonl"));
            add_text_figures(&mut report, kind, &read_lines(&path)?)?;
            if !self.config.eval.scorer.is_empty() {
                self.observer.begin(&format!("{folder}/eval"), "scorers", 1, 0);
                let call = Call {
                    setting: "eval.scorer",
                    command: &self.config.eval.scorer,
                    file: &path,
                    given: Given::AsArgument,
                    patience: None,
                    stage: &format!("{folder}/eval"),
                    stop: self.stop,
                };
                for (name, figure) in scorer::score(&call)? {
                    report.add(format!("{kind}.{name}"), figure);
                }
            }
        }
        let best = &self.config.eval.best;
        let Some(figure) = report.figures.get(best) else {
            let known: Vec<_> = report.figures.keys().map(|name| format!("`{name}`")).collect();
            return Err(RunError::UnknownMetric { best: best.clone(), known: known.join(", ") });
        };
        let mut told = vec![(best.as_str(), words(figure))];
        let others =
            ["nll.per_token", "greedy.tokens.mean", "sampled.tokens.mean"].into_iter().filter(|name| name != best);
        told.extend(others.filter_map(|name| Some((name, words(report.figures.get(name)?)))));
        let told: Vec<_> = told.into_iter().map(|(name, figure)| format!("`{name}` {figure}")).collect();
        self.observer.say(&format!("{folder}/eval: {}", told.join(", ")));
        let file = format!("{folder}/eval.json");
        write_json(&self.path(&file), &report)?;
        let figures: Map<_, Value> = report.figures.iter().map(|(name, f)| (name.clone(), f.value.into())).collect();
        let fired = self.harm(folder, &report)?;
        self.warn_of(&format!("{folder}/eval"), fired.as_slice());
        Ok(Done::new([file], &figures).guarded(fired.into_iter().collect()))
    }

    /// What the model of a stage folder gives to the good responses of each test record. Those to one prompt are not
    /// independent: together they are one unit of the intervals.
    fn likelihoods(&mut self, folder: &str) -> Result<Vec<Nll>, RunError> {
        let name = format!("{folder}/eval");
        let decoder = self.answering(&Answerer::Folder(folder.into()))?;
        let mut tape = Tape::new(decoder.device(), Keep::Nothing);
        let trees: Vec<_> = self.items.test.iter().filter(|item| !item.good_tokens.is_empty()).collect();
        self.observer.begin(&name, "prompts", trees.len(), 0);
        let (mut likelihoods, mut done) = (Vec::new(), 0);
        for part in trees.chunks(SCORED_AT_ONCE) {
            if self.stop.load(std::sync::atomic::Ordering::Relaxed) {
                return Err(RunError::Stopped { stage: name });
            }
            let trees: Vec<_> = part
                .iter()
                .map(|item| TokenTree {
                    prompt_id: &item.record.id,
                    prompt: &item.prompt,
                    responses: item.good_tokens.iter().map(Vec::as_slice).collect(),
                    turns: &[],
                })
                .collect();
            let scores = score(&decoder, &mut tape, &trees, self.config.train.batch_tokens)?;
            likelihoods.extend(scores.iter().map(|of_prompt| {
                let all = || of_prompt.iter().flatten().copied().map(f64::from);
                Nll { nats: -all().sum::<f64>(), tokens: all().count() }
            }));
            done += part.len();
            self.observer.advance(done, "");
        }
        Ok(likelihoods)
    }
}

/// Adds what can be read off the generations themselves.
fn add_text_figures(report: &mut Report, kind: &str, generations: &[Generation]) -> Result<(), EvalError> {
    let judged: Vec<_> = generations.iter().filter(|g| !g.references.is_empty()).collect();
    if !judged.is_empty() {
        let right = judged.iter().filter(|g| exact_match(&g.response, &g.references)).count();
        report.add(format!("{kind}.exact_match"), share(right, judged.len())?);
    }
    let responses: Vec<_> = generations.iter().map(|g| &g.response).collect();
    // Answers of a single word have no pairs of words.
    if let Ok(figure) = distinct_n(&responses, 2) {
        report.add(format!("{kind}.distinct_2"), figure);
    }
    let lengths: Vec<_> = generations.iter().map(|g| g.token_ids.len()).collect();
    report.add_lengths(&format!("{kind}.tokens"), &Lengths::new(&lengths, &report.bootstrap.clone())?);
    report.add_end_reasons(&format!("{kind}.finish"), generations.iter().map(|g| g.finish_reason.as_str()))
}
