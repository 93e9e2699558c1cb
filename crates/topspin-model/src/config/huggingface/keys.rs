//! The keys of one `config.json`.

use std::path::Path;

use serde_json::{Map, Value};

use crate::config::Family;
use crate::error::ModelError;

/// The keys of `config.json`, or of an object within it; `null` counts as absent.
pub(super) struct Keys<'a> {
    pub path: &'a Path,
    pub json: &'a Map<String, Value>,
    /// What the names of the keys are preceded by in errors.
    within: String,
}

impl<'a> Keys<'a> {
    /// Those of the whole file; `path` is only named in errors.
    pub(super) fn new(path: &'a Path, json: &'a Map<String, Value>) -> Self {
        Self { path, json, within: String::new() }
    }

    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.json.get(key).filter(|value| !value.is_null())
    }

    pub(super) fn fail(&self, key: &str, problem: impl Into<String>) -> ModelError {
        ModelError::config(self.path, format!("{}{key}", self.within), problem)
    }

    /// That the value of `key` asks for something which the decoder does not have.
    pub(super) fn unsupported(&self, key: &str, needed: &str) -> ModelError {
        let value = self.get(key).cloned().unwrap_or_default();
        self.fail(key, format!("is {value}, which is not supported; the decoder needs {needed}"))
    }

    pub(super) fn optional(&self, key: &str) -> Result<Option<usize>, ModelError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_u64().and_then(|n| usize::try_from(n).ok()) {
            Some(n) => Ok(Some(n)),
            None => Err(self.fail(key, format!("is {value}; it must be a whole number"))),
        }
    }

    pub(super) fn required(&self, key: &str) -> Result<usize, ModelError> {
        self.optional(key)?.ok_or_else(|| self.fail(key, "is missing"))
    }

    pub(super) fn float(&self, key: &str) -> Result<Option<f64>, ModelError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_f64().map(Some).ok_or_else(|| self.fail(key, format!("is {value}; it must be a number")))
    }

    pub(super) fn floats(&self, key: &str) -> Result<Vec<f64>, ModelError> {
        let numbers = self.get(key).and_then(Value::as_array).and_then(|list| list.iter().map(Value::as_f64).collect());
        numbers.ok_or_else(|| self.fail(key, "must be a list of numbers"))
    }

    pub(super) fn bool(&self, key: &str) -> Result<Option<bool>, ModelError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| self.fail(key, format!("is {value}; it must be `true` or `false`")))
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>, ModelError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.fail(key, format!("is {value}; it must be a name")))
    }

    pub(super) fn object(&self, key: &str) -> Result<Option<Keys<'a>>, ModelError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_object() {
            Some(json) => Ok(Some(Keys { path: self.path, json, within: format!("{}{key}.", self.within) })),
            None => Err(self.fail(key, format!("is {value}; it must be an object or `null`"))),
        }
    }

    /// The family that `model_type` and `architectures` name.
    pub(super) fn family(&self) -> Result<Family, ModelError> {
        let unknown = |found: &str| ModelError::Architecture {
            path: self.path.into(),
            found: found.into(),
            known: Family::ALL.map(Family::model_type).join(", "),
        };
        let known = |name: &str| Family::from_name(name).ok_or_else(|| unknown(name));
        let class = match self.get("architectures") {
            None => None,
            Some(Value::Array(list)) => match &list[..] {
                [] => None,
                [Value::String(name)] => Some(known(name)?),
                _ => return Err(unknown(&Value::from(list.clone()).to_string())),
            },
            Some(other) => return Err(self.fail("architectures", format!("is {other}; it must be a list of names"))),
        };
        let family = self.text("model_type")?.map(known).transpose()?;
        match (family, class) {
            (Some(a), Some(b)) if a != b => {
                Err(self.fail("model_type", "and `architectures` name two different models"))
            }
            (Some(found), _) | (None, Some(found)) => Ok(found),
            (None, None) => Err(self.fail("model_type", "is missing, so the architecture is not known")),
        }
    }
}
