//! The opponent answers the prompts of an iteration.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use topspin_kernels::device::{Device, Use};
use topspin_rollout::{
    Completion, Engine, EngineSettings, Event, Progress, Request, RolloutError, SampleKey, Sampling, Task,
};

use super::items::Item;
use super::lines::{Lines, write_lines};
use super::{Done, Run, RunError};
use crate::pair::Response;

/// A sample of the opponent: one line of `rollouts.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rollout {
    /// Line of the prompt's record in the data file.
    pub line: usize,
    /// The record's id.
    pub prompt_id: String,
    /// Number of the sample among those of its record, from 0.
    pub sample: u32,
    /// What was sampled.
    pub response: Response,
}

impl Rollout {
    fn key(&self) -> (usize, u32) {
        (self.line, self.sample)
    }
}

/// A sample that is wanted.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    /// Line of the prompt's record.
    pub line: usize,
    /// The record's id.
    pub prompt_id: String,
    /// Tokens of the prompt.
    pub prompt: Vec<u32>,
    /// Number of the sample among those of its record.
    pub sample: u32,
}

/// Results of the stage.
#[derive(Serialize)]
struct Figures {
    prompts: usize,
    samples: usize,
    tokens: usize,
}

impl<D: Device + Clone> Run<'_, D> {
    /// Samples the responses of iteration `k` from the model before it.
    pub(super) fn rollouts(&mut self, k: usize) -> Result<Done, RunError> {
        let name = format!("iter-{k}/rollouts");
        let samples = *self.config.game.samples.of(k) as u32;
        let share = self.items.share(&self.config, k);
        let prompts = share.len();
        let wanted = share.into_iter().flat_map(|item| {
            let Item { line, id, prompt, .. } = item;
            (0..samples).map(move |sample| Wanted {
                line: *line,
                prompt_id: id.clone(),
                prompt: prompt.clone(),
                sample,
            })
        });
        let wanted = wanted.collect();
        let rollout = &self.config.rollout;
        let sampling = Sampling { temperature: *rollout.temperature.of(k), top_k: rollout.top_k, top_p: rollout.top_p };
        let all = self.sample(&name, &format!("iter-{}", k - 1), wanted, rollout.max_new_tokens, sampling, k as u64)?;
        let file = format!("{name}.jsonl");
        write_lines(&self.path(&file), &all)?;
        let tokens = all.iter().map(|rollout| rollout.response.token_ids.len()).sum();
        Ok(Done::new([file], &Figures { prompts, samples: all.len(), tokens }))
    }

    /// Samples from the model of folder `of` for the stage `name`, and gives back what was wanted in that order.
    ///
    /// What is completed goes to a partial file at once, and a run that was killed goes on from it: a sample does not
    /// depend on which others are drawn beside it.
    pub(super) fn sample(
        &mut self,
        name: &str,
        of: &str,
        wanted: Vec<Wanted>,
        max_new_tokens: usize,
        sampling: Sampling,
        iteration: u64,
    ) -> Result<Vec<Rollout>, RunError> {
        let partial = self.path(&format!("{name}.partial.jsonl"));
        let place: HashMap<_, _> = wanted.iter().enumerate().map(|(at, w)| ((w.line, w.sample), at)).collect();
        let (mut lines, mut all) = Lines::resume::<Rollout>(&partial, wanted.len())?;
        let there: HashSet<_> = all.iter().map(Rollout::key).collect();
        let missing: Vec<_> = wanted.iter().filter(|w| !there.contains(&(w.line, w.sample))).collect();
        let done = all.len();
        self.observer.begin(name, "samples", wanted.len(), done);
        let request = |wanted: &&Wanted| Request {
            prompt: wanted.prompt.clone(),
            task: Task::Sample { key: SampleKey { prompt: wanted.line as u64, sample: wanted.sample }, max_new_tokens },
        };
        let requests: Vec<_> = missing.iter().map(request).collect();
        self.generate(name, of, &requests, sampling, iteration, done, |at, completion| {
            let Wanted { line, prompt_id, sample, .. } = missing[at].clone();
            let Completion { token_ids, logprobs, finish } = completion.clone();
            let rollout = Rollout { line, prompt_id, sample, response: Response { token_ids, logprobs, finish } };
            lines.push(&rollout)?;
            all.push(rollout);
            Ok(())
        })?;
        // Samples end in an order that depends on how many run side by side.
        all.sort_by_key(|rollout| place[&rollout.key()]);
        Ok(all)
    }

    /// Generates responses, `done` having been done before, and hands each over as it is completed.
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
        let decoder = self.decoder(of, Use::Forward)?;
        let settings = EngineSettings {
            live_sequences: self.config.rollout.live_sequences,
            rows_per_step: self.config.rollout.rows_per_step,
            kv_slots: None,
            stop_ids: self.base.dialect.tokenizer().stop_ids().to_vec(),
            sampling,
            seed: self.config.game.seed,
            iteration,
        };
        let halt = AtomicBool::new(false);
        let mut engine = Engine::new(&decoder, settings)?.stop_when(&halt);
        let (start, mut failed, mut last) = (Instant::now(), None, Progress::default());
        let ended = engine.run_with(requests, |event| match event {
            Event::Completion { request, completion } if failed.is_none() => failed = take(request, completion).err(),
            Event::Step(progress) => {
                let rate = progress.tokens as f64 / start.elapsed().as_secs_f64();
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
        self.observer.say(&format!(
            "{name}: {} responses of {:.1} tokens on average; {:.0} tokens/s, {:.0}% of the product rate",
            requests.len(),
            last.tokens as f64 / requests.len() as f64,
            last.tokens as f64 / seconds,
            100.0 * last.flops as f64 / seconds / self.rate,
        ));
        Ok(())
    }
}
