//! Metrics of generated text, with their uncertainty.
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
pub mod harness;
mod ngrams;
mod nll;
mod normalise;
mod number;
mod pattern;
mod perplexity;
mod porter;
mod report;
mod rouge;
mod text;
mod white_space;
mod win_rate;

pub use bleu::BleuStatistics;
pub use bootstrap::{Bootstrap, Figure, share};
pub use choice::{Choice, ChoiceScores};
pub use chrf::ChrfStatistics;
pub use corpus::CorpusStatistics;
pub use discrimination::{BestThreshold, auc, best_threshold};
pub use error::EvalError;
pub use nll::{Nll, NllFigures};
pub use normalise::Normalisation;
pub use number::{numeric_answer, numeric_match};
pub use pattern::{Pattern, RegexFilter};
pub use perplexity::{Perplexities, TextNll};
pub use report::{Report, end_reasons};
pub use rouge::{RougeL, Stemming};
pub use text::{Lengths, distinct_n, exact_match};
pub use win_rate::win_rate;
