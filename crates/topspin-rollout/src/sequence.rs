//! Requests, responses in the making, and completions.

use topspin_kernels::rng::Stream;

use crate::block_manager::Path;
use crate::sampler::Sampler;

/// Which random numbers a sample gets, besides seed and iteration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SampleKey {
    /// Number of the prompt in its data set.
    pub prompt: u64,
    /// Number of the sample among those of its prompt.
    pub sample: u32,
}

/// A prompt, and what is wanted of the model there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Token ids of the prompt, one at least.
    pub prompt: Vec<u32>,
    /// What is wanted.
    pub task: Task,
}

/// What a request wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    /// A response drawn from the model.
    Sample {
        /// Which random numbers it gets. Two requests with the same prompt and key get the same response.
        key: SampleKey,
        /// Longest response in tokens. The model's context may end it earlier.
        max_new_tokens: usize,
    },
    /// The log-probabilities of a given response.
    Score {
        /// Its token ids, one at least.
        token_ids: Vec<u32>,
    },
}

/// Why a response ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// With a stop id.
    Stop,
    /// Cut, at the request's or the model's limit; or given without a stop id at its end.
    Length,
}

/// A response.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// Its token ids just as they were drawn or given; the last is a stop id if it ended with one.
    pub token_ids: Vec<u32>,
    /// The model's log-probability of each of them, at temperature 1 and without cuts whatever the sampling.
    pub logprobs: Vec<f32>,
    /// Why it ended.
    pub finish: Finish,
}

/// A response in the making: a branch behind the prompt that it shares with others.
#[derive(Debug)]
pub(crate) struct Sequence {
    /// Index of its request.
    pub request: usize,
    /// Index of its prompt in the scheduler.
    pub prompt: usize,
    /// Most tokens that it may have, which are all of a given response.
    pub limit: usize,
    /// Its random numbers, by position in the response; a given response needs none.
    pub stream: Option<Stream>,
    /// Tokens so far, a given response's from the beginning.
    pub token_ids: Vec<u32>,
    /// Log-probabilities so far, those of the first tokens. A sample has one for each of its tokens.
    pub logprobs: Vec<f32>,
    /// Slots of the tokens whose keys and values are stored, or are by the end of the step. Between two steps a
    /// sample's last token is not among them.
    pub path: Path,
    /// Set when it has ended.
    pub finish: Option<Finish>,
}

impl Sequence {
    /// Whether its tokens are drawn, not given.
    pub fn is_sampled(&self) -> bool {
        self.stream.is_some()
    }

    /// Whether nothing of it has been predicted.
    pub fn is_new(&self) -> bool {
        self.logprobs.is_empty()
    }

    /// Tokens whose rows are wanted: those that it has, but for the last that it may have, which predicts nothing.
    pub fn fed(&self) -> usize {
        self.token_ids.len().min(self.limit - 1)
    }

    /// The token at index `at`: the given one, or one drawn from `logits`. The uniform number of a draw depends on the
    /// position in the response alone.
    pub fn token(&self, at: usize, logits: &[f32], sampler: Sampler) -> u32 {
        match self.stream {
            Some(stream) => sampler.sample(logits, stream.uniform(at as u32)),
            None => self.token_ids[at],
        }
    }

    /// Takes in the next token with its log-probability, and ends where it ends.
    pub fn push(&mut self, token: u32, logprob: f32, stop_ids: &[u32]) {
        self.logprobs.push(logprob);
        if self.is_sampled() {
            self.token_ids.push(token);
        }
        let full = self.logprobs.len() == self.limit;
        // A given response goes on behind a stop id in its middle.
        if (full || self.is_sampled()) && stop_ids.contains(&token) {
            self.finish = Some(Finish::Stop);
        } else if full {
            self.finish = Some(Finish::Length);
        }
    }

    /// The response of a sequence that has ended.
    pub fn into_completion(self) -> Completion {
        let finish = self.finish.expect("only sequences that have ended become completions");
        Completion { token_ids: self.token_ids, logprobs: self.logprobs, finish }
    }
}
