//! The engine: `step` is schedule, run, postprocess.

use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;
use topspin_kernels::device::Device;
use topspin_model::batch::Batch;
use topspin_model::decoder::{Choice, Decoder, Flops, Keep, Tape};

use crate::block_manager::BLOCK;
use crate::error::RolloutError;
use crate::sampler::{Sampler, Sampling};
use crate::scheduler::{Kept, Output, Scheduler, response_limit};
use crate::sequence::{Completion, Request, Task};

/// Most memory that a store of keys and values takes whose size is left to the engine.
const MOST_STORE_BYTES: usize = 4 << 30;

/// Logits below which sampling on another thread costs more than it saves.
const GRAIN: usize = 1 << 14;

/// How completions are drawn, and how many at a time.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineSettings {
    /// Most sequences in the pool. More fill the processor better, up to a point, and take more memory.
    pub live_sequences: usize,
    /// Most rows of a step, prompts' and continuing sequences' together: a longer prompt is split over steps.
    pub rows_per_step: usize,
    /// Slots of the store of keys and values, one for each token of a path. `None`: enough for the largest of the
    /// requests side by side, within 4 GiB. Where slots run out, sequences wait and are computed again.
    pub kv_slots: Option<usize>,
    /// Ids that end a response.
    pub stop_ids: Vec<u32>,
    /// How a token is chosen.
    pub sampling: Sampling,
    /// Seed of the random numbers.
    pub seed: u64,
    /// Iteration of self-play: each has random numbers of its own.
    pub iteration: u64,
}

impl Default for EngineSettings {
    /// 64 live sequences, 512 rows a step, no stop id, the model's own distribution, seed 0.
    fn default() -> Self {
        Self {
            live_sequences: 64,
            rows_per_step: 512,
            kv_slots: None,
            stop_ids: Vec::new(),
            sampling: Sampling::default(),
            seed: 0,
            iteration: 0,
        }
    }
}

/// What happens during [`Engine::run_with`].
#[derive(Clone, Debug, PartialEq)]
pub enum Event<'a> {
    /// A sample has one more token.
    Token {
        /// Index of the request.
        request: usize,
        /// The token.
        token: u32,
        /// Its log-probability under the model, at temperature 1 and without cuts.
        logprob: f32,
    },
    /// A response has ended.
    Completion {
        /// Index of the request.
        request: usize,
        /// The response.
        completion: &'a Completion,
    },
    /// A step is over.
    Step(Progress),
}

/// How far a run has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// All requests.
    pub requests: usize,
    /// Those that are completed.
    pub completed: usize,
    /// Those whose sequences are in the pool.
    pub live: usize,
    /// Those behind it.
    pub waiting: usize,
    /// Tokens drawn.
    pub tokens: u64,
    /// Rows computed, those of prompts and of given responses included.
    pub rows: u64,
    /// Rows computed for prompts. A prompt counts once however many responses share it.
    pub prompt_rows: u64,
    /// Floating-point operations of the rows computed.
    pub flops: u64,
}

/// Generates responses and scores given ones, many at a time.
///
/// The keys and values of the run's last sequence stay in the store: a next run whose first prompt begins with the same
/// tokens, such as the next turn of a conversation, computes only what is new. (A conversation sets `kv_slots` to the
/// model's context, so that the store need not be made anew for a longer turn.)
pub struct Engine<'a, D: Device> {
    decoder: &'a Decoder<D>,
    settings: EngineSettings,
    sampler: Sampler,
    stop: Option<&'a AtomicBool>,
    tape: Tape<D>,
    kv: D::Kv,
    slots: usize,
    kept: Kept,
    batch: Batch,
    /// What each output of `batch` is for.
    outputs: Vec<Output>,
    progress: Progress,
}

impl<'a, D: Device> Engine<'a, D> {
    /// An engine on `decoder`.
    ///
    /// # Errors
    /// [`RolloutError::Setting`] for a setting that is out of range.
    pub fn new(decoder: &'a Decoder<D>, settings: EngineSettings) -> Result<Self, RolloutError> {
        for (name, value) in [("live_sequences", settings.live_sequences), ("rows_per_step", settings.rows_per_step)] {
            if value == 0 {
                return Err(RolloutError::Setting { name, value: value.to_string(), range: "1 at least" });
            }
        }
        Ok(Self {
            decoder,
            sampler: Sampler::new(settings.sampling)?,
            settings,
            stop: None,
            tape: Tape::new(decoder.device(), Keep::Nothing),
            kv: decoder.kv(0),
            slots: 0,
            kept: Kept::default(),
            batch: Batch::default(),
            outputs: Vec::new(),
            progress: Progress::default(),
        })
    }

    /// Ends a run between two steps once `stop` is set, with [`RolloutError::Stopped`].
    pub fn stop_when(mut self, stop: &'a AtomicBool) -> Self {
        self.stop = Some(stop);
        self
    }

    /// The completions of `requests`, in their order; `on_completion` is given each with its request's index as soon as
    /// it has ended.
    ///
    /// # Errors
    /// Before anything is computed: a request that the model cannot run. In between: logits that are no distribution, or
    /// the caller's wish to stop.
    pub fn run(
        &mut self,
        requests: &[Request],
        mut on_completion: impl FnMut(usize, &Completion),
    ) -> Result<Vec<Completion>, RolloutError> {
        self.run_with(requests, |event| {
            if let Event::Completion { request, completion } = event {
                on_completion(request, completion);
            }
        })
    }

    /// [`Engine::run`] with a word on every token and every step.
    ///
    /// # Errors
    /// As for [`Engine::run`].
    pub fn run_with(
        &mut self,
        requests: &[Request],
        mut on_event: impl FnMut(Event<'_>),
    ) -> Result<Vec<Completion>, RolloutError> {
        let config = self.decoder.config();
        let context = config.max_positions;
        check(requests, config.vocab_size, context)?;
        self.make_store(requests)?;
        let kept = std::mem::take(&mut self.kept);
        let mut scheduler = Scheduler::new(requests, context, &self.settings, self.slots, kept);
        let mut completions: Vec<Option<Completion>> = requests.iter().map(|_| None).collect();
        self.progress = Progress { requests: requests.len(), ..Progress::default() };
        while !scheduler.is_done() {
            if self.stop.is_some_and(|stop| stop.load(Ordering::Relaxed)) {
                self.kept = scheduler.into_kept();
                return Err(RolloutError::Stopped { completed: self.progress.completed, requests: requests.len() });
            }
            self.step(&mut scheduler, &mut completions, &mut on_event)?;
        }
        self.kept = scheduler.into_kept();
        Ok(completions.into_iter().map(|completion| completion.expect("no sequence is left")).collect())
    }

    /// One token more for every live sample whose rows fit into the step, and of given responses what fits.
    fn step(
        &mut self,
        scheduler: &mut Scheduler,
        completions: &mut [Option<Completion>],
        on_event: &mut impl FnMut(Event<'_>),
    ) -> Result<(), RolloutError> {
        let prompt_rows = scheduler.schedule(&mut self.batch, &mut self.outputs);
        let choices = self.next_tokens(scheduler);
        self.count(prompt_rows);
        self.postprocess(scheduler, &choices, completions, on_event)
    }

    /// Runs the model on the batch and chooses the token of each output.
    fn next_tokens(&mut self, scheduler: &Scheduler) -> Vec<Choice> {
        let (sampler, outputs, vocab_size) = (self.sampler, &self.outputs, self.decoder.config().vocab_size);
        let choose = |first: usize, logits: &[f32], tokens: &mut [u32]| {
            let rows = tokens.par_iter_mut().zip(logits.par_chunks_exact(vocab_size)).zip(&outputs[first..]);
            rows.with_min_len((GRAIN / vocab_size).max(1)).for_each(|((token, logits), &Output { live, at })| {
                *token = scheduler.live()[live].token(at, logits, sampler);
            });
        };
        self.decoder.next_tokens(&self.batch, &mut self.kv, &mut self.tape, choose)
    }

    /// Adds the rows of the step to the progress.
    fn count(&mut self, prompt_rows: usize) {
        self.progress.rows += self.batch.rows() as u64;
        self.progress.prompt_rows += prompt_rows as u64;
        self.progress.flops += Flops::forward(self.decoder.config(), self.decoder.adapter(), &self.batch).0;
    }

    /// Hands the tokens to their sequences, and out those that have ended.
    fn postprocess(
        &mut self,
        scheduler: &mut Scheduler,
        choices: &[Choice],
        completions: &mut [Option<Completion>],
        on_event: &mut impl FnMut(Event<'_>),
    ) -> Result<(), RolloutError> {
        for (&Output { live, at }, &Choice { token, logprob }) in self.outputs.iter().zip(choices) {
            let sequence = scheduler.push(live, token, logprob, &self.settings.stop_ids);
            let request = sequence.request;
            if !logprob.is_finite() {
                return Err(RolloutError::NotFinite { request, at });
            }
            if sequence.is_sampled() {
                self.progress.tokens += 1;
                on_event(Event::Token { request, token, logprob });
            }
        }
        for ended in scheduler.take_ended() {
            let request = ended.request;
            let completion = completions[request].insert(ended.into_completion());
            self.progress.completed += 1;
            on_event(Event::Completion { request, completion });
        }
        (self.progress.live, self.progress.waiting) = (scheduler.live().len(), scheduler.waiting());
        on_event(Event::Step(self.progress));
        Ok(())
    }

    /// Makes a store that `requests` fit into, unless the present one will do.
    fn make_store(&mut self, requests: &[Request]) -> Result<(), RolloutError> {
        let config = self.decoder.config();
        let needs: Vec<[usize; 2]> = requests.iter().map(|request| slots_of(request, config.max_positions)).collect();
        let alone = needs.iter().map(|[prompt, own]| prompt + own).max().unwrap_or(0);
        let slots = match self.settings.kv_slots {
            Some(slots) => {
                if let Some(request) = needs.iter().position(|[prompt, own]| prompt + own > slots / BLOCK * BLOCK) {
                    return Err(RolloutError::StoreTooSmall { request, needed: needs[request].iter().sum(), slots });
                }
                slots
            }
            None => {
                // Prompts may all differ, and what is in the pool at one time is any of the requests.
                let largest = |part: usize| {
                    let mut sizes: Vec<usize> = needs.iter().map(|need| need[part]).collect();
                    sizes.sort_unstable_by(|a, b| b.cmp(a));
                    sizes.iter().take(self.settings.live_sequences).sum::<usize>()
                };
                let bytes_of_slot =
                    config.num_layers * 2 * config.heads().kv_width() * self.decoder.precision().bytes();
                (largest(0) + largest(1)).min(MOST_STORE_BYTES / bytes_of_slot).max(alone)
            }
        };
        if slots > self.slots {
            self.kept = Kept::default();
            self.kv = self.decoder.kv(slots);
            self.slots = slots;
        }
        Ok(())
    }
}

/// Most slots that a request's prompt and its response take, in whole blocks. The last token of a response takes none.
fn slots_of(request: &Request, context: usize) -> [usize; 2] {
    [request.prompt.len(), response_limit(request, context) - 1].map(|len| len.next_multiple_of(BLOCK))
}

/// Whether the model can run all requests.
fn check(requests: &[Request], vocab_size: usize, context: usize) -> Result<(), RolloutError> {
    let unknown = |tokens: &[u32]| tokens.iter().position(|&token| token as usize >= vocab_size);
    for (index, Request { prompt, task }) in requests.iter().enumerate() {
        if prompt.is_empty() {
            return Err(RolloutError::EmptyPrompt { request: index });
        }
        if prompt.len() >= context {
            return Err(RolloutError::PromptTooLong { request: index, tokens: prompt.len(), context });
        }
        if let Some(at) = unknown(prompt) {
            let token = prompt[at];
            return Err(RolloutError::UnknownToken { request: index, part: "prompt", at, token, vocab_size });
        }
        match task {
            Task::Sample { max_new_tokens: 0, .. } => return Err(RolloutError::NoNewTokens { request: index }),
            Task::Sample { .. } => {}
            Task::Score { token_ids } => {
                if token_ids.is_empty() {
                    return Err(RolloutError::EmptyResponse { request: index });
                }
                let tokens = prompt.len() + token_ids.len();
                // The last token is not fed.
                if tokens > context + 1 {
                    return Err(RolloutError::ResponseTooLong { request: index, tokens, context });
                }
                if let Some(at) = unknown(token_ids) {
                    let token = token_ids[at];
                    return Err(RolloutError::UnknownToken { request: index, part: "response", at, token, vocab_size });
                }
            }
        }
    }
    Ok(())
}
