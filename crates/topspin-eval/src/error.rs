//! Inputs from which nothing can be computed.

/// Values that no figure can be computed from.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// There are no values.
    #[error("there are no responses to evaluate; generate some first")]
    Empty,
    /// A value is NaN or infinite.
    #[error("the value of response {index} (counted from 0) is not a finite number; the model that gave it is broken")]
    NotFinite {
        /// The place of the value, counted from 0.
        index: usize,
    },
    /// The tokens of all responses together are none.
    #[error("the responses have no token between them, so there is nothing to average over; check how they were made")]
    NoTokens,
    /// A metric says of one response a thing of another kind than of the next: a number here, a pair of numbers there.
    #[error(
        "what is known of the responses is of several kinds; say the same kind of every one: a truth value, a number or a \
         pair of numbers"
    )]
    Mixed,
    /// A response has nothing to be compared with.
    #[error("a response has no reference to compare it with; give each prompt at least one, or leave it out")]
    NoReference,
    /// A regular expression is none, or a match takes too many steps.
    #[error(
        "the pattern `{pattern}` cannot be used ({problem}); write it as a regular expression that needs no long search"
    )]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A choice has no length by which its log-probability could be divided.
    #[error("choice {index} (counted from 0) of a question is empty; give each choice a text")]
    EmptyChoice {
        /// The place of the choice, counted from 0.
        index: usize,
    },
    /// The right choice is none of those that there are.
    #[error("choice {index} (counted from 0) is to be the right one of only {choices}; correct the question")]
    NoSuchChoice {
        /// The place of the right choice, counted from 0.
        index: usize,
        /// The number of choices.
        choices: usize,
    },
    /// Values that should belong in pairs are not as many on both sides.
    #[error(
        "the two sides of a comparison have {left} and {right} responses; compare the same prompts in the same order"
    )]
    Unpaired {
        /// The number of values on the one side.
        left: usize,
        /// The number of values on the other.
        right: usize,
    },
}
