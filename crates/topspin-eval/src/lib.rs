//! Metrics of generated text, with their uncertainty.
