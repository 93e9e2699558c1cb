//! The decoder, its weights, tokenizer and chat template.

pub mod adapter;
pub mod batch;
pub mod chat;
pub mod checkpoint;
pub mod clock;
pub mod config;
pub mod conversation;
pub mod decoder;
pub mod dialect;
pub mod error;
pub mod gguf;
pub mod hub;
pub mod source;
pub mod tokenizer;

#[cfg(test)]
mod testing;
