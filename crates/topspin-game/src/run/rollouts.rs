//! The opponent answers the prompts of an iteration, and says how likely the real responses are to it. Where the data give
//! the answers, it says how likely both are.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use topspin_kernels::device::Device;
use topspin_kernels::rng::Key;
use topspin_rollout::{
    Completion, Engine, EngineSettings, Event, Progress, Request, RolloutError, SampleKey, Sampling, Task,
};

use super::items::Item;
use super::lines::{Lines, write_lines};
use super::lineup::Answerer;
use super::round::Round;
use super::{Done, Run, RunError};
use crate::opponent::{Opponent, Player};
use crate::pair::Response;

/// A response and what the one who gave it thinks of it: one line of `rollouts.jsonl` or `base.jsonl`, samples, or of
/// `real.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rollout {
    /// Number of the prompt's record: its line, or with several data files that counted on from one to the next.
    pub line: usize,
    /// The record's id.
    pub prompt_id: String,
    /// Number of the sample among those of its record, from 0; of a response of the base model, that of the sample beside
    /// which it stands. The real response has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample: Option<u32>,
    /// Who of several players gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub player: Option<String>,
    /// What was sampled, or the real response.
    pub response: Response,
}

impl Rollout {
    /// The real response of a record, with nobody's log-probabilities.
    pub(super) fn bare(item: &Item) -> Self {
        let response = Response::new(item.real.clone(), Vec::new(), item.finish);
        Self { line: item.line, prompt_id: item.id.clone(), sample: None, player: None, response }
    }

    /// Record and number of the sample.
    pub(super) fn key(&self) -> (usize, Option<u32>) {
        (self.line, self.sample)
    }
}

/// A rollout that is wanted.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    /// Which of those who answer it is wanted of.
    of: usize,
    line: usize,
    prompt_id: String,
    sample: Option<u32>,
    request: Request,
}

impl Wanted {
    /// Sample number `sample` for the prompt of a record.
    pub fn sample(of: usize, line: usize, id: &str, prompt: &[u32], sample: u32, max_new_tokens: usize) -> Self {
        let task = Task::Sample { key: SampleKey { prompt: line as u64, sample }, max_new_tokens };
        let request = Request { prompt: prompt.to_vec(), task };
        Self { of, line, prompt_id: id.into(), sample: Some(sample), request }
    }

    /// The log-probabilities of the real response.
    fn real(item: &Item) -> Self {
        Self::score(item, None, &item.real)
    }

    /// The log-probabilities of a response, which has the place of sample number `sample`.
    fn score(item: &Item, sample: Option<u32>, token_ids: &[u32]) -> Self {
        let task = Task::Score { token_ids: token_ids.to_vec() };
        let request = Request { prompt: item.prompt.clone(), task };
        Self { of: 0, line: item.line, prompt_id: item.id.clone(), sample, request }
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
    /// Samples the responses of a round from its opponent, which scores the real ones on the way if it is one model;
    /// rejected responses of the data, which take the place of samples, are scored too. Where the loss needs them, the base
    /// model answers as well.
    pub(super) fn rollouts(&mut self, round: &Round) -> Result<Done, RunError> {
        let (name, k) = (round.stage("rollouts"), round.iteration);
        let field = self.field(round);
        let (game, rollout) = (&self.config.game, &self.config.rollout);
        let (samples, max_new_tokens) = (*game.samples.of(k) as u32, rollout.max_new_tokens);
        let opponent = *game.opponent.of(k);
        // Where the base alone answers, its responses stand beside themselves.
        let needs_base = game.loss(k).needs().base_response && !field.lineup.is_base();
        // The older of the latest two answered in its own iteration.
        let players = match opponent {
            Opponent::LatestTwo => &field.lineup.players[..1],
            _ => &field.lineup.players[..],
        };
        let base = players.iter().position(|&(player, _)| player == Player::Model(0)).unwrap_or(players.len());
        let mut answerers: Vec<_> = players.iter().map(|&(player, _)| field.answerer(player)).collect();
        if needs_base && base == players.len() {
            answerers.push(field.answerer(Player::Model(0)));
        }
        let turns = Key::new(game.seed, "opponent", round.address());
        let turn = |line: usize, sample| {
            let drawn = field.lineup.draw(turns.stream(line as u64, sample).uniform(0));
            players.iter().position(|&(player, _)| player == drawn).unwrap_or(0)
        };

        let mut share = self.items.share(&self.config, k);
        let share: Vec<_> = share.drain(round.prompts.clone()).collect();
        let mut wanted = Vec::new();
        for item in &share {
            let Item { line, id, prompt, rejected, .. } = item;
            for sample in 0..samples {
                wanted.push(match rejected {
                    Some((token_ids, _)) if opponent == Opponent::Data => Wanted::score(item, Some(sample), token_ids),
                    _ => Wanted::sample(turn(*line, sample), *line, id, prompt, sample, max_new_tokens),
                });
            }
            if needs_base {
                // They have the numbers behind those of all samples.
                let of_base = |sample| Wanted::sample(base, *line, id, prompt, samples + sample, max_new_tokens);
                wanted.extend((0..samples).map(of_base));
            }
            // A policy step has no part for the real response.
            if players.len() == 1 && !self.config.score.is_policy() {
                wanted.push(Wanted::real(item));
            }
        }
        let finishes: HashMap<_, _> = share.iter().map(|item| (item.line, item.finish)).collect();
        let given: HashMap<_, _> =
            share.iter().filter_map(|item| Some((item.line, item.rejected.as_ref()?.1))).collect();
        let prompts = share.len();
        let names: Vec<_> = players.iter().map(|&(player, _)| field.name(player)).collect();
        let of: HashMap<_, _> = wanted.iter().map(|wanted| (wanted.key(), wanted.of)).collect();
        let (temperature, top_k, top_p) = (*rollout.temperature.of(k), *rollout.top_k.of(k), *rollout.top_p.of(k));
        let sampling = Sampling { temperature, top_k, top_p };
        let all = self.complete(&name, &answerers, wanted, sampling, round.address())?;

        let (mut generated, mut real, mut from_base) = (Vec::new(), Vec::new(), Vec::new());
        for mut rollout in all {
            match rollout.sample {
                // The engine sees a stop token at the end, not whether the data went on.
                None => {
                    rollout.response.finish = finishes[&rollout.line];
                    real.push(rollout);
                }
                Some(sample) if sample < samples => {
                    if opponent == Opponent::Data {
                        rollout.response.finish = given[&rollout.line];
                    }
                    if names.len() > 1 {
                        rollout.player = Some(names[of[&rollout.key()]].clone());
                    }
                    generated.push(rollout);
                }
                Some(sample) => from_base.push(Rollout { sample: Some(sample - samples), ..rollout }),
            }
        }
        let path = |name: &str| format!("{}/{name}.jsonl", round.folder);
        let mut files = vec![format!("{name}.jsonl")];
        write_lines(&self.path(&files[0]), &generated)?;
        for (file, rollouts) in [(path("real"), real), (path("base"), from_base)] {
            if !rollouts.is_empty() {
                write_lines(&self.path(&file), &rollouts)?;
                files.push(file);
            }
        }
        let tokens = generated.iter().map(|rollout| rollout.response.token_ids.len()).sum();
        Ok(Done::new(files, &Figures { prompts, samples: generated.len(), tokens }))
    }

    /// Has those who answer sample and score for the stage `name`; gives back what was wanted, in that order.
    ///
    /// What is completed goes to a partial file at once, and a run that was killed goes on from it: a rollout does not
    /// depend on which others are made beside it.
    pub(super) fn complete(
        &mut self,
        name: &str,
        answerers: &[Answerer],
        wanted: Vec<Wanted>,
        sampling: Sampling,
        iteration: u64,
    ) -> Result<Vec<Rollout>, RunError> {
        let partial = self.path(&format!("{name}.partial.jsonl"));
        let place: HashMap<_, _> = wanted.iter().enumerate().map(|(at, wanted)| (wanted.key(), at)).collect();
        let (mut lines, mut all) = Lines::resume::<Rollout>(&partial, wanted.len())?;
        let there: HashSet<_> = all.iter().map(Rollout::key).collect();
        self.observer.begin(name, "responses", wanted.len(), all.len());
        for (of, answerer) in answerers.iter().enumerate() {
            let missing = wanted.iter().filter(|wanted| wanted.of == of && !there.contains(&wanted.key()));
            let missing: Vec<_> = missing.collect();
            let done = all.len();
            let requests: Vec<_> = missing.iter().map(|wanted| wanted.request.clone()).collect();
            self.generate(name, answerer, &requests, sampling, iteration, done, |at, completion| {
                let &Wanted { line, ref prompt_id, sample, .. } = missing[at];
                let Completion { token_ids, logprobs, finish } = completion.clone();
                let response = Response::new(token_ids, logprobs, finish);
                let rollout = Rollout { line, prompt_id: prompt_id.clone(), sample, player: None, response };
                lines.push(&rollout)?;
                all.push(rollout);
                Ok(())
            })?;
        }
        // Responses end in an order that depends on how many run side by side.
        all.sort_by_key(|rollout| place[&rollout.key()]);
        Ok(all)
    }

    /// Generates and scores responses, `done` having been done before, and hands each over as it is completed.
    fn generate(
        &mut self,
        name: &str,
        of: &Answerer,
        requests: &[Request],
        sampling: Sampling,
        iteration: u64,
        done: usize,
        mut take: impl FnMut(usize, &Completion) -> Result<(), RunError>,
    ) -> Result<(), RunError> {
        if requests.is_empty() {
            return Ok(());
        }
        let decoder = self.answering(of)?;
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
