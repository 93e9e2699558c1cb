//! `config.json` as transformers writes and reads it.

mod keys;
mod read;
mod rope;
#[cfg(test)]
mod tests;
mod write;

pub(crate) use write::inverse;

use std::path::Path;

use serde_json::{Map, Value};

use super::DecoderConfig;
use crate::error::ModelError;

/// Token ids that `config.json` and `generation_config.json` repeat from the tokenizer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SpecialIds {
    pub bos: Option<u32>,
    pub eos: Vec<u32>,
    pub pad: Option<u32>,
}

impl SpecialIds {
    /// Reads `bos_token_id`, `eos_token_id` (a number or a list) and `pad_token_id`; anything else counts as absent.
    pub(crate) fn from_json(json: &Map<String, Value>) -> Self {
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let eos = match json.get("eos_token_id") {
            Some(Value::Array(list)) => list.iter().filter_map(id).collect(),
            Some(one) => id(one).into_iter().collect(),
            None => Vec::new(),
        };
        Self { bos: json.get("bos_token_id").and_then(id), eos, pad: json.get("pad_token_id").and_then(id) }
    }

    /// The same three keys; one end token is written as a number, as most readers expect.
    pub(crate) fn write_to(&self, json: &mut Map<String, Value>) {
        json.insert("bos_token_id".into(), self.bos.into());
        let eos = if let [one] = self.eos[..] { one.into() } else { self.eos.clone().into() };
        json.insert("eos_token_id".into(), eos);
        json.insert("pad_token_id".into(), self.pad.into());
    }
}

impl DecoderConfig {
    /// Reads a `config.json`, as [`ModelFiles::open`](crate::source::ModelFiles::open) does with that of a folder.
    pub fn read(path: &Path) -> Result<Self, ModelError> {
        let text = topspin_files::read_to_string(path)?;
        let json =
            serde_json::from_str(&text).map_err(|e| ModelError::Json { path: path.into(), problem: e.to_string() })?;
        Self::from_json(path, &json)
    }
}
