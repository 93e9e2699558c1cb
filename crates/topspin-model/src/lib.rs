//! The decoder, its weights, tokenizer and chat template.
