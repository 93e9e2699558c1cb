//! The decoder, its weights, tokenizer and chat template.

pub mod config;
pub mod batch;
pub mod decoder;
