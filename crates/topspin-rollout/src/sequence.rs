//! Requests, responses in the making, and completions.

use topspin_kernels::rng::Stream;

use crate::block_manager::Path;

/// Which random numbers a sample gets, besides seed and iteration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SampleKey {
    /// Number of the prompt in its data set.
    pub prompt: u64,
    /// Number of the sample among those of its prompt.
    pub sample: u32,
}

/// A response that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Token ids of the prompt, one at least.
    pub prompt: Vec<u32>,
    /// Which random numbers it gets. Two requests with the same prompt and key get the same response.
    pub key: SampleKey,
    /// Longest response in tokens. The model's context may end it earlier.
    pub max_new_tokens: usize,
}

/// Why a response ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// With a stop id.
    Stop,
    /// Cut, at the request's or the model's limit.
    Length,
}

/// A response.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// Its token ids just as they were drawn; the last is a stop id if it ended with one.
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
    /// Most tokens that it may have.
    pub limit: usize,
    /// Its random numbers, by position in the response.
    pub stream: Stream,
    /// Tokens so far.
    pub token_ids: Vec<u32>,
    /// Their log-probabilities.
    pub logprobs: Vec<f32>,
    /// Slots of the tokens whose keys and values are stored, or are by the end of the step. Between two steps the last
    /// token is not among them.
    pub path: Path,
    /// Set when it has ended.
    pub finish: Option<Finish>,
}

impl Sequence {
    /// The uniform number for its next token. It depends on the position in the response alone.
    pub fn uniform(&self) -> f64 {
        self.stream.uniform(self.token_ids.len() as u32)
    }

    /// Adds a token, and ends where it ends.
    pub fn push(&mut self, token: u32, logprob: f32, stop_ids: &[u32]) {
        self.token_ids.push(token);
        self.logprobs.push(logprob);
        if stop_ids.contains(&token) {
            self.finish = Some(Finish::Stop);
        } else if self.token_ids.len() == self.limit {
            self.finish = Some(Finish::Length);
        }
    }

    /// The response of a sequence that has ended.
    pub fn into_completion(self) -> Completion {
        let finish = self.finish.expect("only sequences that have ended become completions");
        Completion { token_ids: self.token_ids, logprobs: self.logprobs, finish }
    }
}
