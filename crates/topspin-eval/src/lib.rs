//! Metrics of generated text, with their uncertainty.
//!
//! Every figure is computed over responses as the units that were drawn: an interval says what other responses to
//! other prompts of the same kind would have given, not what another training run would.

mod bleu;
mod bootstrap;
mod chrf;
mod corpus;
mod error;
mod ngrams;
mod nll;
mod porter;
mod report;
mod rouge;
mod text;
mod white_space;

pub use bleu::BleuStatistics;
pub use bootstrap::{Bootstrap, Figure, share};
pub use chrf::ChrfStatistics;
pub use corpus::CorpusStatistics;
pub use error::EvalError;
pub use nll::{Nll, NllFigures};
pub use report::{Report, end_reasons};
pub use rouge::{RougeL, Stemming};
pub use text::{Lengths, distinct_n, exact_match};
