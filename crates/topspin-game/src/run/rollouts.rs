//! The opponent answers the prompts of an iteration, and says how likely the real responses are to it. Where the data give
//! the answers, it says how likely both are.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use topspin_kernels::device::Device;
use topspin_rollout::{
    Completion, Engine, EngineSettings, Event, Progress, Request, RolloutError, SampleKey, Sampling, Task,
};

use super::items::Item;
use super::lines::{Lines, write_lines};
use super::{Done, Round, Run, RunError};
use crate::pair::Response;

/// A response and what the opponent thinks of it: one line of `rollouts.jsonl`, its samples, or of `real.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rollout {
    /// Number of the prompt's record: its line, or with several data files that counted on from one to the next.
    pub line: usize,
    /// The record's id.
    pub prompt_id: String,
    /// Number of the sample among those of its record, from 0; the real response has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample: Option<u32>,
    /// What was sampled, or the real response.
    pub response: Response,
}

impl Rollout {
    fn key(&self) -> (usize, Option<u32>) {
        (self.line, self.sample)
    }
}

/// A rollout that is wanted.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    line: usize,
    prompt_id: String,
    sample: Option<u32>,
    request: Request,
}

impl Wanted {
    /// Sample number `sample` for the prompt of a record.
    pub fn sample(line: usize, prompt_id: &str, prompt: &[u32], sample: u32, max_new_tokens: usize) -> Self {
        let task = Task::Sample { key: SampleKey { prompt: line as u64, sample }, max_new_tokens };
        let request = Request { prompt: prompt.to_vec(), task };
        Self { line, prompt_id: prompt_id.into(), sample: Some(sample), request }
    }

    /// The log-probabilities of the real response.
    fn real(item: &Item) -> Self {
        Self::score(item, None, &item.real)
    }

    /// The log-probabilities of a response, which has the place of sample number `sample`.
    fn score(item: &Item, sample: Option<u32>, token_ids: &[u32]) -> Self {
        let task = Task::Score { token_ids: token_ids.to_vec() };
        let request = Request { prompt: item.prompt.clone(), task };
        Self { line: item.line, prompt_id: item.id.clone(), sample, request }
    }

    fn key(&self) -> (usize, Option<u32>) {
        (self.line, self.sample)
    }
}

/// Results of the stage.
#[derive(Serialize)]
struct Figures {
    prompts: usize,
    samples: usize,
    tokens: usize,
}

impl<D: Device + Clone> Run<'_, D> {
    /// Samples the responses of a round from the model before it, which scores the real ones on the way; rejected
    /// responses of the data, which take the place of samples, are scored too.
    pub(super) fn rollouts(&mut self, round: &Round) -> Result<Done, RunError> {
        let (name, k) = (round.stage("rollouts"), round.iteration);
        let samples = *self.config.game.samples.of(k) as u32;
        let rollout = &self.config.rollout;
        let share = self.items.share(&self.config, k);
        let (prompts, policy) = (share.len(), self.config.score.is_policy());
        let finishes: Vec<_> = share.iter().map(|item| item.finish).collect();
        let given: Vec<_> = share.iter().filter_map(|item| Some(item.rejected.as_ref()?.1)).collect();
        let wanted = share.into_iter().flat_map(|item| {
            let Item { line, id, prompt, rejected, .. } = item;
            let sample = |sample| match rejected {
                Some((token_ids, _)) => Wanted::score(item, Some(sample), token_ids),
                None => Wanted::sample(*line, id, prompt, sample, rollout.max_new_tokens),
            };
            // A policy step has no part for the real response.
            let real = (!policy).then(|| Wanted::real(item));
            (0..samples).map(sample).chain(real).collect::<Vec<_>>()
        });
        let wanted = wanted.collect();
        let sampling = Sampling { temperature: *rollout.temperature.of(k), top_k: rollout.top_k, top_p: rollout.top_p };
        let all = self.complete(&name, &round.before, wanted, sampling, k as u64)?;
        let (mut samples, mut real): (Vec<_>, Vec<_>) = all.into_iter().partition(|rollout| rollout.sample.is_some());
        // The engine sees a stop token at the end, not whether the data went on.
        real.iter_mut().zip(finishes).for_each(|(real, finish)| real.response.finish = finish);
        samples.iter_mut().zip(given).for_each(|(sample, finish)| sample.response.finish = finish);
        let mut files = vec![format!("{name}.jsonl")];
        write_lines(&self.path(&files[0]), &samples)?;
        if !policy {
            files.push(format!("{}/real.jsonl", round.folder));
            write_lines(&self.path(&files[1]), &real)?;
        }
        let tokens = samples.iter().map(|rollout| rollout.response.token_ids.len()).sum();
        Ok(Done::new(files, &Figures { prompts, samples: samples.len(), tokens }))
    }

    /// Has the model of folder `of` sample and score for the stage `name`; gives back what was wanted, in that order.
    ///
    /// What is completed goes to a partial file at once, and a run that was killed goes on from it: a rollout does not
    /// depend on which others are made beside it.
    pub(super) fn complete(
        &mut self,
        name: &str,
        of: &str,
        wanted: Vec<Wanted>,
        sampling: Sampling,
        iteration: u64,
    ) -> Result<Vec<Rollout>, RunError> {
        let partial = self.path(&format!("{name}.partial.jsonl"));
        let place: HashMap<_, _> = wanted.iter().enumerate().map(|(at, wanted)| (wanted.key(), at)).collect();
        let (mut lines, mut all) = Lines::resume::<Rollout>(&partial, wanted.len())?;
        let there: HashSet<_> = all.iter().map(Rollout::key).collect();
        let missing: Vec<_> = wanted.iter().filter(|wanted| !there.contains(&wanted.key())).collect();
        let done = all.len();
        self.observer.begin(name, "responses", wanted.len(), done);
        let requests: Vec<_> = missing.iter().map(|wanted| wanted.request.clone()).collect();
        self.generate(name, of, &requests, sampling, iteration, done, |at, completion| {
            let &Wanted { line, ref prompt_id, sample, .. } = missing[at];
            let Completion { token_ids, logprobs, finish } = completion.clone();
            let response = Response::new(token_ids, logprobs, finish);
            let rollout = Rollout { line, prompt_id: prompt_id.clone(), sample, response };
            lines.push(&rollout)?;
            all.push(rollout);
            Ok(())
        })?;
        // Responses end in an order that depends on how many run side by side.
        all.sort_by_key(|rollout| place[&rollout.key()]);
        Ok(all)
    }

    /// Generates and scores responses, `done` having been done before, and hands each over as it is completed.
    fn generate(
        &mut self,
        name: &str,
        of: &str,
        requests: &[Request],
        sampling: Sampling,
        iteration: u64,
        done: usize,
        mut take: impl FnMut(usize, &Completion) -> Result<(), RunError>,
    ) -> Result<(), RunError> {
        if requests.is_empty() {
            return Ok(());
        }
        let decoder = self.decoder(of)?;
        let settings = EngineSettings {
            live_sequences: self.config.rollout.live_sequences,
            rows_per_step: self.config.rollout.rows_per_step,
            kv_slots: None,
            stop_ids: self.base.dialect.tokenizer().stop_ids().to_vec(),
            sampling,
            seed: self.config.game.seed,
            iteration,
        };
        let sampled = requests.iter().filter(|request| matches!(request.task, Task::Sample { .. })).count();
        // Where nothing is drawn, the tokens that are read tell how fast it goes.
        let drawn = |progress: &Progress| if sampled > 0 { progress.tokens } else { progress.rows };
        let halt = AtomicBool::new(false);
        let mut engine = Engine::new(&decoder, settings)?.stop_when(&halt);
        let (start, mut failed, mut last) = (Instant::now(), None, Progress::default());
        let ended = engine.run_with(requests, |event| match event {
            Event::Completion { request, completion } if failed.is_none() => failed = take(request, completion).err(),
            Event::Step(progress) => {
                let rate = drawn(&progress) as f64 / start.elapsed().as_secs_f64();
                self.observer.advance(done + progress.completed, &format!("{rate:.0} tokens/s"));
                last = progress;
                halt.store(failed.is_some() || self.stop.load(Ordering::Relaxed), Ordering::Relaxed);
            }
            _ => {}
        });
        match (ended, failed) {
            (_, Some(error)) => return Err(error),
            (Err(RolloutError::Stopped { .. }), None) => return Err(RunError::Stopped { stage: name.into() }),
            (Err(error), None) => return Err(error.into()),
            (Ok(_), None) => {}
        }
        let seconds = start.elapsed().as_secs_f64();
        let scored = requests.len() - sampled;
        let mean = last.tokens as f64 / sampled.max(1) as f64;
        let work = match (sampled, scored) {
            (0, _) => format!("{scored} given responses scored"),
            (_, 0) => format!("{sampled} responses of {mean:.1} tokens on average"),
            _ => format!("{sampled} responses of {mean:.1} tokens on average, {scored} real ones scored"),
        };
        self.observer.say(&format!(
            "{name}: {work}; {:.0} tokens/s, {:.0}% of the product rate",
            drawn(&last) as f64 / seconds,
            100.0 * last.flops as f64 / seconds / self.rate,
        ));
        Ok(())
    }
}
