//! Metrics of generated text, with their uncertainty.
//!
//! | what is measured | by | from .. to, the better end |
//! |---|---|---|
//! | common runs of words with references | [`BleuStatistics`] | 0 .. 100, high |
//! | common runs of characters, and of words | [`ChrfStatistics`] | 0 .. 100, high |
//! | the longest common subsequence of words | [`RougeL`] | 0 .. 1, high |
//! | whether the answer is right, as text | [`exact_match`], [`Normalisation`] behind a [`RegexFilter`] | yes or no |
//! | the same, as a number | [`numeric_match`] | yes or no |
//! | whether the right choice is the most probable | [`ChoiceScores`] | yes or no |
//! | likelihood of given texts | [`NllFigures`], [`Perplexities`] | 0 .. or 1 .., low |
//! | how well real and generated responses are told apart | [`auc`], [`best_threshold`], [`Discrimination`] | 0 .. 1 and 1/2 .. 1; chance is 1/2 |
//! | which of two responses is the better one | [`win_rate`] | 0 .. 1; a draw is 1/2 |
//! | diversity, lengths | [`distinct_n`], [`Lengths`] | |
//!
//! Each has a [`Figure`] with an interval and a standard error: a share by [`share`], a mean by [`Bootstrap::mean`], a corpus
//! metric by [`Bootstrap::corpus`]; two models on the same prompts are compared by [`Bootstrap::difference`] and
//! [`Bootstrap::corpus_difference`]. A [`Measure`] names those that compare an answer with references; what it knows of each
//! answer is a [`Unit`], from which figure and difference come ([`Bootstrap::units`], [`Bootstrap::units_difference`]). [`Report`] is what `eval.json` holds, [`harness`] the layout of lm-evaluation-harness; a [`task`] is what is asked and measured
//! together.
//!
//! Every figure is computed over responses as the units that were drawn: an interval says what other responses to
//! other prompts of the same kind would have given, not what another training run would.

mod bleu;
mod bootstrap;
mod choice;
mod chrf;
mod corpus;
mod discrimination;
mod error;
mod evaluated;
pub mod harness;
mod measure;
mod ngrams;
mod nll;
mod normalise;
mod number;
pub mod page;
mod pattern;
mod perplexity;
mod porter;
mod report;
mod rouge;
pub mod task;
mod text;
mod unit;
mod white_space;
mod win_rate;

pub use bleu::BleuStatistics;
pub use bootstrap::{Bootstrap, Figure, share};
pub use choice::{Choice, ChoiceScores};
pub use chrf::ChrfStatistics;
pub use corpus::CorpusStatistics;
pub use discrimination::{BestThreshold, Discrimination, auc, best_threshold};
pub use error::EvalError;
pub use evaluated::{Evaluated, REAL, SAMPLED, SAMPLED_BEFORE, Scored, paired_difference};
pub use measure::{Measure, higher_is_better};
pub use nll::{Nll, NllFigures};
pub use normalise::Normalisation;
pub use number::{numeric_answer, numeric_match};
pub use pattern::{Pattern, RegexFilter};
pub use perplexity::{Perplexities, TextNll};
pub use report::Report;
pub use rouge::{RougeL, Stemming};
pub use text::{Lengths, distinct_n, distinct_runs, exact_match};
pub use unit::Unit;
pub use win_rate::win_rate;
