//! Reading prompts and responses.
