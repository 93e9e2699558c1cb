//! Continuous-batching generation.
