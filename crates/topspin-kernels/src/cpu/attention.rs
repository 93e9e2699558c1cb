//! Scaled dot-product attention over paths of segments.
//!
//! A query's scores are all computed before its softmax, in order of position along its path, and every sum runs over
//! positions in that order: the result cannot depend on how the path is cut into segments, on where they are stored, or
//! on which other queries are in the batch.

mod backward;
mod forward;
mod tiles;

pub use backward::attention_backward;
pub use forward::attention_forward;
