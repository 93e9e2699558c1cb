//! Which rows make up the next step.

use std::collections::{HashMap, VecDeque};
use std::mem::take;

use topspin_kernels::device::Segment;
use topspin_kernels::rng::Key;
use topspin_model::batch::Batch;

use crate::block_manager::{BLOCK, BlockManager, Path};
use crate::engine::EngineSettings;
use crate::sequence::{Request, Sequence, Task};

/// A prompt and the sequences behind it.
#[derive(Debug)]
struct Prompt {
    tokens: Vec<u32>,
    /// Its slots, all of them from the moment at which a sequence wants them.
    path: Path,
    /// Positions whose keys and values are stored, or are by the end of the step.
    computed: usize,
    /// Live sequences that need them.
    users: usize,
}

impl Prompt {
    fn is_computed(&self) -> bool {
        self.computed == self.tokens.len()
    }
}

/// A row of logits that a step wants.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    /// The live sequence that it belongs to.
    pub live: usize,
    /// Index in the response of the token that it predicts.
    pub at: usize,
}

/// Tokens whose keys and values are still in the store when a run is over.
#[derive(Debug, Default)]
pub struct Kept {
    /// The tokens.
    pub tokens: Vec<u32>,
    /// Their slots.
    pub path: Path,
}

/// The pool of live sequences and the queue behind it.
///
/// Sequences are in order of their request's prompt, by its first appearance, so that samples of one prompt stand
/// together. The live ones come before all that wait: when slots run out it is the last live one that must wait again.
/// It loses its keys and values, not its tokens.
#[derive(Debug)]
pub struct Scheduler {
    /// Most live sequences.
    live_sequences: usize,
    /// Most rows of a step.
    rows_per_step: usize,
    blocks: BlockManager,
    prompts: Vec<Prompt>,
    /// Prompts with slots.
    stored: Vec<usize>,
    waiting: VecDeque<Sequence>,
    live: Vec<Sequence>,
    /// What the last sequence of all left behind.
    kept: Kept,
}

impl Scheduler {
    /// A scheduler of `requests`, each of which fits into `slots` alone, for a model whose longest sequence is
    /// `context`. `kept` are tokens that the store holds already.
    pub fn new(requests: &[Request], context: usize, settings: &EngineSettings, slots: usize, kept: Kept) -> Self {
        let key = Key::new(settings.seed, "rollout", settings.iteration);
        let mut prompts: Vec<Prompt> = Vec::new();
        let mut sequences: Vec<Sequence> = Vec::with_capacity(requests.len());
        let mut prompt_of: HashMap<&[u32], usize> = HashMap::new();
        for (index, request) in requests.iter().enumerate() {
            let prompt = *prompt_of.entry(&request.prompt).or_insert_with(|| {
                let tokens = request.prompt.clone();
                prompts.push(Prompt { tokens, path: Path::default(), computed: 0, users: 0 });
                prompts.len() - 1
            });
            let (stream, token_ids) = match &request.task {
                Task::Sample { key: of, .. } => (Some(key.stream(of.prompt, of.sample)), Vec::new()),
                Task::Score { token_ids } => (None, token_ids.clone()),
            };
            sequences.push(Sequence {
                request: index,
                prompt,
                limit: response_limit(request, context),
                stream,
                token_ids,
                logprobs: Vec::new(),
                path: Path::default(),
                finish: None,
            });
        }
        sequences.sort_by_key(|sequence| sequence.prompt);
        let mut scheduler = Self {
            live_sequences: settings.live_sequences,
            rows_per_step: settings.rows_per_step,
            blocks: BlockManager::new(slots, &kept.path),
            prompts,
            stored: Vec::new(),
            waiting: VecDeque::from(sequences),
            live: Vec::new(),
            kept: Kept::default(),
        };
        scheduler.adopt(kept);
        scheduler
    }

    /// Lets the first prompt begin with what it has in common with `kept`.
    fn adopt(&mut self, Kept { tokens, mut path }: Kept) {
        let Some(first) = self.prompts.first_mut() else { return };
        let common = first.tokens.iter().zip(&tokens).take_while(|(a, b)| a == b).count();
        self.blocks.truncate(&mut path, common);
        if common > 0 {
            (first.path, first.computed) = (path, common);
            self.stored.push(0);
        }
    }

    /// Live sequences, in order.
    pub fn live(&self) -> &[Sequence] {
        &self.live
    }

    /// Number of sequences in the queue.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whether all sequences have ended.
    pub fn is_done(&self) -> bool {
        self.live.is_empty() && self.waiting.is_empty()
    }

    /// Fills `batch` with the rows of the next step and `outputs` with what each of its outputs is for, those of a
    /// sequence in order. Returns how many of the rows are a prompt's.
    ///
    /// Sequences that go on come first; prompts, and the given responses that begin with them, have what is left of the
    /// bound on rows. Either is cut where the bound is reached and goes on in the next step.
    pub fn schedule(&mut self, batch: &mut Batch, outputs: &mut Vec<Output>) -> usize {
        batch.clear();
        outputs.clear();
        self.refill();
        self.schedule_sequences(batch, outputs);
        let prompt_rows = self.schedule_prompts(batch, outputs);
        assert!(!batch.is_empty(), "a request that fits into the store alone can always go on");
        prompt_rows
    }

    /// Makes sequences live while there is room.
    fn refill(&mut self) {
        self.admit();
        // Only now: what the prompts of ended sequences left in the store may have been the next one's prompt.
        let (blocks, prompts) = (&mut self.blocks, &mut self.prompts);
        let before = self.stored.len();
        self.stored.retain(|&prompt| {
            let Prompt { path, computed, users, .. } = &mut prompts[prompt];
            if *users == 0 {
                blocks.release(path);
                *computed = 0;
            }
            *users > 0
        });
        if self.stored.len() < before {
            self.admit();
        }
    }

    /// Makes sequences live while there is room beside what the live ones will soon need: the blocks of tokens that they
    /// have already, and one for a sample to grow into. Else what is admitted now would have to give way.
    fn admit(&mut self) {
        while self.live.len() < self.live_sequences
            && let Some(next) = self.waiting.front()
        {
            let prompt = &mut self.prompts[next.prompt];
            let missing = prompt.tokens.len() - prompt.path.len();
            // A bound: a part of the prompt that is stored may end within a block.
            let needed = missing.div_ceil(BLOCK) + next.fed().div_ceil(BLOCK);
            let soon = |live: &Sequence| {
                let held = live.path.len().div_ceil(BLOCK);
                (live.fed().div_ceil(BLOCK) - held).max(usize::from(held * BLOCK < live.limit - 1))
            };
            if needed + self.live.iter().map(soon).sum::<usize>() > self.blocks.free_blocks() {
                return;
            }
            if prompt.path.is_empty() {
                self.stored.push(next.prompt);
            }
            assert!(self.blocks.extend(&mut prompt.path, missing), "there are blocks enough, counted above");
            prompt.users += 1;
            self.live.extend(self.waiting.pop_front());
        }
    }

    /// Rows of sequences that have begun: the last token of a sample, what is left of a given response, and tokens before
    /// them that lost their slots.
    fn schedule_sequences(&mut self, batch: &mut Batch, outputs: &mut Vec<Output>) {
        let mut live = 0;
        while live < self.live.len() {
            let sequence = &self.live[live];
            let rows = (sequence.fed() - sequence.path.len()).min(self.rows_per_step - batch.rows());
            let can_go_on = !sequence.is_new() && self.prompts[sequence.prompt].is_computed();
            if rows > 0 && can_go_on && self.make_room(live, rows) {
                let sequence = &self.live[live];
                push_rows(sequence, live, rows, &self.prompts[sequence.prompt], batch, outputs);
            }
            live += 1;
        }
    }

    /// Lengthens the path of live sequence `at` by `rows`, at the expense of the last live ones. Returns whether it is
    /// still live.
    fn make_room(&mut self, at: usize, rows: usize) -> bool {
        while !self.blocks.extend(&mut self.live[at].path, rows) {
            self.preempt_last();
            if at == self.live.len() {
                return false;
            }
        }
        true
    }

    /// Sends the last live sequence back to the head of the queue. It has no row in the step at hand.
    fn preempt_last(&mut self) {
        let mut last = self.live.pop().expect("a sequence that lacks room is live");
        self.blocks.release(&mut last.path);
        let prompt = &mut self.prompts[last.prompt];
        prompt.users -= 1;
        if prompt.users == 0 {
            self.blocks.release(&mut prompt.path);
            prompt.computed = 0;
            self.stored.retain(|&stored| stored != last.prompt);
        }
        self.waiting.push_front(last);
    }

    /// Rows of the live sequences' prompts; returns their number. The last row of a prompt is an output for each sequence
    /// that begins; for one that begins when the prompt is in the store already, that row is computed again. A given
    /// response goes on at once where there are rows and blocks left.
    fn schedule_prompts(&mut self, batch: &mut Batch, outputs: &mut Vec<Output>) -> usize {
        let no_past: &[Segment] = &[];
        let (mut prompt_rows, mut live) = (0, 0..);
        for of_prompt in self.live.chunk_by_mut(|a, b| a.prompt == b.prompt) {
            let prompt = &mut self.prompts[of_prompt[0].prompt];
            let numbered = of_prompt.iter_mut().zip(live.by_ref());
            let mut beginning: Vec<_> = numbered.filter(|(sequence, _)| sequence.is_new()).collect();
            if prompt.is_computed() && beginning.is_empty() {
                continue;
            }
            let len = prompt.tokens.len();
            let first = prompt.computed.min(len - 1);
            let rows = (len - first).min(self.rows_per_step - batch.rows());
            prompt.path.push_rows(batch, no_past, first, &prompt.tokens[first..first + rows]);
            prompt.computed = prompt.computed.max(first + rows);
            prompt_rows += rows;
            if rows == 0 || first + rows < len {
                continue;
            }
            let last = batch.rows() as u32 - 1;
            for (sequence, live) in &mut beginning {
                outputs.push(Output { live: *live, at: 0 });
                batch.outputs.push(last);
                let rows = sequence.fed().min(self.rows_per_step - batch.rows());
                if rows > 0 && self.blocks.extend(&mut sequence.path, rows) {
                    push_rows(sequence, *live, rows, prompt, batch, outputs);
                }
            }
        }
        prompt_rows
    }

    /// Gives live sequence `live` its next token.
    pub fn push(&mut self, live: usize, token: u32, logprob: f32, stop_ids: &[u32]) -> &Sequence {
        self.live[live].push(token, logprob, stop_ids);
        &self.live[live]
    }

    /// Takes the sequences that have ended out of the pool, in order.
    pub fn take_ended(&mut self) -> Vec<Sequence> {
        let mut ended: Vec<Sequence> = self.live.extract_if(.., |sequence| sequence.finish.is_some()).collect();
        if self.is_done()
            && let Some(last) = ended.last_mut()
        {
            self.kept = self.keep(last);
        }
        for sequence in &mut ended {
            self.prompts[sequence.prompt].users -= 1;
            self.blocks.release(&mut sequence.path);
        }
        ended
    }

    /// What a sequence has in the store, taken from it and from its prompt.
    fn keep(&mut self, sequence: &mut Sequence) -> Kept {
        let prompt = &mut self.prompts[sequence.prompt];
        self.blocks.truncate(&mut prompt.path, prompt.computed);
        let tokens = [&prompt.tokens[..prompt.computed], &sequence.token_ids[..sequence.path.len()]].concat();
        Kept { tokens, path: take(&mut prompt.path).followed_by(take(&mut sequence.path)) }
    }

    /// The end of a run: what is in the store of the last sequence, or of the first of those that are still live.
    pub fn into_kept(mut self) -> Kept {
        match self.live.is_empty() {
            true => self.kept,
            false => {
                let mut first = self.live.swap_remove(0);
                self.keep(&mut first)
            }
        }
    }
}

/// Appends the last `rows` rows on the path of live sequence `live`. Those that predict a token without log-probability
/// are outputs.
fn push_rows(
    sequence: &Sequence,
    live: usize,
    rows: usize,
    prompt: &Prompt,
    batch: &mut Batch,
    outputs: &mut Vec<Output>,
) {
    let end = sequence.path.len();
    let (first, first_row) = (end - rows, batch.rows());
    sequence.path.push_rows(batch, prompt.path.segments(), first, &sequence.token_ids[first..end]);
    // The row of a token predicts the next one. The prompt's last row has predicted token 0.
    for at in sequence.logprobs.len().max(first + 1)..end + 1 {
        outputs.push(Output { live, at });
        batch.outputs.push((first_row + at - 1 - first) as u32);
    }
}

/// Most tokens that the response to a request can have: prompt and response fill the context together.
pub fn response_limit(request: &Request, context: usize) -> usize {
    match &request.task {
        Task::Sample { max_new_tokens, .. } => (*max_new_tokens).min(context - request.prompt.len()),
        Task::Score { token_ids } => token_ids.len(),
    }
}
