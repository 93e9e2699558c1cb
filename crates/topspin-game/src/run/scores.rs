//! Explicit scores of an iteration's responses, and what a policy step makes of them.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use topspin_eval::EvalError;
use topspin_kernels::device::Device;

use super::lines::{Lines, read_lines, write_lines};
use super::round::Round;
use super::{Done, Generation, Rollout, Run, RunError};
use crate::command::Call;
use crate::judge::{Answer, Judge};
use crate::policy::Weighted;

/// Effective samples of a prompt below which one sample has most of its weight.
const FEW: f64 = 2.0;

/// A score: one line of `scores.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Judged {
    /// Number of the prompt's record, as in `rollouts.jsonl`.
    pub line: usize,
    /// The record's id.
    pub prompt_id: String,
    /// Number of the sample; the real response has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample: Option<u32>,
    /// The score.
    pub score: f64,
}

/// Results of the stage.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct ScoreFigures {
    /// Responses that were scored.
    responses: usize,
    /// Mean score of samples.
    generated: f64,
    /// Mean score of real responses, where they are scored.
    #[serde(skip_serializing_if = "Option::is_none")]
    real: Option<f64>,
    /// The weights, in a policy step.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    weights: Option<WeightFigures>,
}

/// What the weights of a policy step are like. The means are over the prompts that are trained on, if there are any.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct WeightFigures {
    /// Mean score of samples as they are weighted: what the step is after.
    #[serde(skip_serializing_if = "Option::is_none")]
    weighted: Option<f64>,
    /// Mean of the effective samples of a prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    effective_samples: Option<f64>,
    /// Prompts that are left out, since their samples score alike.
    level: usize,
}

impl<D: Device + Clone> Run<'_, D> {
    /// Scores the samples of a round, and where the score judges pairs the real responses too.
    pub(super) fn scores(&mut self, round: &Round) -> Result<Done, RunError> {
        let name = round.stage("scores");
        let responses = self.scored_responses(round)?;
        let judge = Judge::new(&self.config.score).expect("checked settings have a pattern that can be read");
        let judged = match judge {
            Some(judge) => self.judge(&judge, &responses)?,
            None => self.ask(&name, &responses)?,
        };
        let file = format!("{name}.jsonl");
        write_lines(&self.path(&file), &judged)?;
        let figures = self.score_figures(round, &judged)?;
        self.observer.say(&format!("{name}: {}", figures.sentence()));
        if let Some(few) = figures.weights.and_then(|weights| weights.effective_samples).filter(|&size| size < FEW) {
            self.observer.warn(&format!(
                "{name}: {few:.1} effective samples to a prompt: single samples have nearly all weight; a larger `game.beta` \
                 or more `game.samples` spread it"
            ));
        }
        Ok(Done::new([file], &figures))
    }

    /// What is scored: the samples, then the real responses if they are judged beside them.
    fn scored_responses(&self, round: &Round) -> Result<Vec<Rollout>, RunError> {
        let mut responses: Vec<Rollout> = read_lines(&self.path(&format!("{}.jsonl", round.stage("rollouts"))))?;
        if !self.config.score.is_policy() {
            let mut share = self.items.share(&self.config, round.iteration);
            responses.extend(share.drain(round.prompts.clone()).map(Rollout::bare));
        }
        Ok(responses)
    }

    /// The responses as text, with their prompts and references.
    fn texts(&self, responses: &[Rollout]) -> Vec<Generation> {
        let items = self.items.by_line();
        let generation = |rollout: &Rollout| {
            let record = items[&rollout.line].record.as_ref().expect("records are kept where responses are scored");
            let references = record.response.iter().chain(&record.references).cloned().collect();
            Generation::new(record, references, &rollout.response, &self.base.dialect)
        };
        responses.iter().map(generation).collect()
    }

    fn judge(&self, judge: &Judge, responses: &[Rollout]) -> Result<Vec<Judged>, RunError> {
        let generations = self.texts(responses);
        let score = |(rollout, generation): (&Rollout, &Generation)| {
            let Generation { response, references, token_ids, .. } = generation;
            let score = judge.score(&Answer { response, references, tokens: token_ids.len() });
            let fail = |error| match error {
                EvalError::Pattern { problem, .. } => {
                    RunError::Pattern { prompt_id: rollout.prompt_id.clone(), problem }
                }
                error => error.into(),
            };
            Ok(Judged::new(rollout, score.map_err(fail)?))
        };
        responses.iter().zip(&generations).map(score).collect()
    }

    /// Asks the command. Its answers go to a partial file at once, and a run that was killed asks for the others only.
    fn ask(&mut self, name: &str, responses: &[Rollout]) -> Result<Vec<Judged>, RunError> {
        let [partial, questions] = ["partial", "questions"].map(|part| self.path(&format!("{name}.{part}.jsonl")));
        let (mut lines, mut judged) = Lines::resume::<Judged>(&partial, responses.len())?;
        let (done, total) = (judged.len(), responses.len());
        if done == total {
            return Ok(judged);
        }
        self.observer.begin(name, "responses", total, done);
        write_lines(&questions, self.texts(&responses[done..]))?;
        let (command, timeout) = (self.config.score.command.clone(), self.config.score.timeout);
        let call = Call {
            setting: "score.command",
            command: &command,
            file: &questions,
            patience: Duration::from_secs(timeout as u64),
            work: name,
            stop: self.stop,
        };
        // The last answer counts when the command has ended well.
        let (mut last, mut answers, mut in_doubt) = (None, 0, false);
        let asked = call.run(|said| {
            let number = |said: &str| said.trim().parse().ok().filter(|score: &f64| score.is_finite());
            let problem = match number(said) {
                _ if answers == total - done => {
                    format!("printed more than {answers} lines, though it reads no more; it must print one number for each line")
                }
                Some(score) => {
                    if let Some(answer) = last.replace(Judged::new(&responses[done + answers], score)) {
                        lines.push(&answer)?;
                        judged.push(answer);
                    }
                    answers += 1;
                    self.observer.advance(done + answers, "");
                    return Ok(());
                }
                None => {
                    let (start, line): (String, _) = (said.chars().take(60).collect(), answers + 1);
                    format!("printed {start:?} for line {line}, which is no finite number; it must print one for each line")
                }
            };
            in_doubt = true;
            Err(call.fault(&problem).into())
        });
        let asked = asked.and_then(|()| {
            if answers == total - done {
                return Ok(());
            }
            in_doubt = true;
            let read = total - done;
            Err(call
                .fault(&format!(
                    "printed {answers} lines for the {read} that it reads; it must print one number for each"
                ))
                .into())
        });
        if let Err(error) = asked {
            // Where an answer is wrong, those before it may be as well; those before a crash or a silence are kept.
            if in_doubt {
                topspin_files::remove_file(&partial)?;
            }
            return Err(error);
        }
        let answer = last.expect("there are as many answers as questions, and one at least");
        lines.push(&answer)?;
        judged.push(answer);
        Ok(judged)
    }

    fn score_figures(&self, round: &Round, judged: &[Judged]) -> Result<ScoreFigures, RunError> {
        let mean = |is_wanted: &dyn Fn(&Judged) -> bool| {
            let scores: Vec<f64> =
                judged.iter().filter(|judged| is_wanted(judged)).map(|judged| judged.score).collect();
            (!scores.is_empty()).then(|| scores.iter().sum::<f64>() / scores.len() as f64)
        };
        let weights = match self.config.score.is_policy() {
            false => None,
            true => {
                let (prompts, level) = self.weighted(round)?;
                Some(WeightFigures::new(&prompts, level))
            }
        };
        Ok(ScoreFigures {
            responses: judged.len(),
            generated: mean(&|judged| judged.sample.is_some()).unwrap_or_default(),
            real: mean(&|judged| judged.sample.is_none()),
            weights,
        })
    }

    /// The prompts of a round with their samples as a policy step weighs them, without those whose samples all have one
    /// score; how many these are.
    ///
    /// They are left out because their gradient has an expectation of 0 at the opponent and is noise alone.
    pub(super) fn weighted(&self, round: &Round) -> Result<(Vec<Weighted>, usize), RunError> {
        let responses: Vec<Rollout> = read_lines(&self.path(&format!("{}.jsonl", round.stage("rollouts"))))?;
        let scores = self.judged(&round.folder)?;
        let (items, beta) = (self.items.by_line(), *self.config.game.beta.of(round.iteration));
        let both: Vec<_> = responses.into_iter().zip(scores).collect();
        // Samples of a prompt stand side by side.
        let prompts = both.chunk_by(|(a, _), (b, _)| a.line == b.line).map(|of_prompt| {
            let item = items[&of_prompt[0].0.line];
            let samples = of_prompt.iter().map(|(rollout, judged)| (rollout.response.token_ids.clone(), judged.score));
            Weighted::new(item.id.clone(), item.prompt.clone(), samples.collect(), beta)
        });
        let (level, prompts): (Vec<_>, Vec<_>) = prompts.partition(Weighted::is_level);
        Ok((prompts, level.len()))
    }

    /// The scores of a round in `folder`: of its samples in the order of `rollouts.jsonl`, then of real responses if they are
    /// judged.
    pub(super) fn judged(&self, folder: &str) -> Result<Vec<Judged>, RunError> {
        read_lines(&self.path(&format!("{folder}/scores.jsonl")))
    }
}

impl ScoreFigures {
    fn sentence(&self) -> String {
        let mut sentence = format!("{} responses scored; samples {:.3} on average", self.responses, self.generated);
        if let Some(real) = self.real {
            sentence += &format!(", real responses {real:.3}");
        }
        if let Some(WeightFigures { weighted, effective_samples, level }) = self.weights {
            if let (Some(weighted), Some(size)) = (weighted, effective_samples) {
                sentence += &format!(", {weighted:.3} as they are weighted; {size:.1} effective ones to a prompt");
            }
            sentence += &format!("; {level} prompts left out whose samples score alike");
        }
        sentence
    }
}

impl WeightFigures {
    fn new(prompts: &[Weighted], level: usize) -> Self {
        let mean = |of: &dyn Fn(&Weighted) -> f64| {
            (!prompts.is_empty()).then(|| prompts.iter().map(of).sum::<f64>() / prompts.len() as f64)
        };
        let (weighted, effective_samples) = (mean(&Weighted::weighted_score), mean(&Weighted::effective_samples));
        Self { weighted, effective_samples, level }
    }
}

impl Judged {
    fn new(rollout: &Rollout, score: f64) -> Self {
        Self { line: rollout.line, prompt_id: rollout.prompt_id.clone(), sample: rollout.sample, score }
    }
}
