//! What can be wrong with requests and settings, each said in one sentence.

/// Generation that cannot begin, or cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RolloutError {
    /// A setting of the engine has a value that it cannot have.
    #[error("`{name}` is {value}; it must be {range}")]
    Setting {
        /// The setting.
        name: &'static str,
        /// Its value.
        value: String,
        /// The values that it can have.
        range: &'static str,
    },
    /// A request's prompt has no token.
    #[error(
        "the prompt of request {request} is empty: give it one token at least, such as the beginning-of-text token"
    )]
    EmptyPrompt {
        /// Index of the request.
        request: usize,
    },
    /// A request's prompt leaves no room for a response.
    #[error(
        "the prompt of request {request} has {tokens} tokens, which leaves no room for a response in the model's \
         context of {context}: shorten it to {} tokens or fewer", context - 1
    )]
    PromptTooLong {
        /// Index of the request.
        request: usize,
        /// Tokens of its prompt.
        tokens: usize,
        /// Longest sequence of the model, prompt and response together.
        context: usize,
    },
    /// A given response has no token.
    #[error("the response of request {request} is empty: give it one token at least, such as the end-of-turn token")]
    EmptyResponse {
        /// Index of the request.
        request: usize,
    },
    /// A given response leaves the positions that the model has.
    #[error(
        "the prompt of request {request} and its response have {tokens} tokens, but the model's context holds \
         {context}: shorten them"
    )]
    ResponseTooLong {
        /// Index of the request.
        request: usize,
        /// Tokens of prompt and response.
        tokens: usize,
        /// Longest sequence of the model, prompt and response together.
        context: usize,
    },
    /// A request's prompt or given response holds an id that the model has no token for.
    #[error(
        "token {at} of the {part} of request {request} is {token}, outside the model's vocabulary of {vocab_size}: \
         encode it with the tokenizer of this model"
    )]
    UnknownToken {
        /// Index of the request.
        request: usize,
        /// Which of the two: `prompt` or `response`.
        part: &'static str,
        /// Index in it.
        at: usize,
        /// The id.
        token: u32,
        /// Number of ids of the model.
        vocab_size: usize,
    },
    /// A request for a sample asks for no token.
    #[error("`max_new_tokens` of request {request} is 0; it must be 1 at least")]
    NoNewTokens {
        /// Index of the request.
        request: usize,
    },
    /// The store of keys and values cannot hold even this request alone.
    #[error("request {request} needs up to {needed} key/value slots, but `kv_slots` is {slots}: raise it to {needed}")]
    StoreTooSmall {
        /// Index of the request.
        request: usize,
        /// Slots that it may need, in whole blocks.
        needed: usize,
        /// Slots that there are.
        slots: usize,
    },
    /// The model's prediction is not a distribution.
    #[error(
        "the model's logits for token {at} of the response to request {request} are not finite: its weights have \
         diverged or are damaged"
    )]
    NotFinite {
        /// Index of the request.
        request: usize,
        /// Index in its response.
        at: usize,
    },
    /// The caller asked for an early end.
    #[error("generation was stopped after {completed} of {requests} requests")]
    Stopped {
        /// Requests that were completed before.
        completed: usize,
        /// All requests.
        requests: usize,
    },
}
