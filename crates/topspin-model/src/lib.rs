//! The decoder, its weights, tokenizer and chat template.

pub mod config;
