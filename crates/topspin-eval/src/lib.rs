//! Metrics of generated text, with their uncertainty.
//!
//! Every figure is computed over responses as the units that were drawn: an interval says what other responses to
//! other prompts of the same kind would have given, not what another training run would.

mod bootstrap;
mod error;
mod nll;
pub mod page;
mod report;
mod text;

pub use bootstrap::{Bootstrap, Figure, share};
pub use error::EvalError;
pub use nll::{Nll, NllFigures};
pub use report::{Report, end_reasons};
pub use text::{Lengths, distinct_n, exact_match};
