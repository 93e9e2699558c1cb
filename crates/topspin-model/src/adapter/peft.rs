//! `adapter_config.json`, as PEFT 0.21 reads and writes it.

use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::{Adapter, LoraConfig, Targets};
use crate::error::ModelError;

/// Keys that change no arithmetic of ours, whatever they say.
const INERT: [&str; 14] = [
    "task_type",
    "auto_mapping",
    "peft_version",
    "revision",
    "inference_mode",
    "fan_in_fan_out",
    // How the matrices began; they are in the file as they are now.
    "init_lora_weights",
    "megatron_config",
    "megatron_core",
    "eva_config",
    "corda_config",
    "lora_ga_config",
    "qalora_group_size",
    "loftq_config",
];

/// The model that an adapter was trained on; texts are empty where the file says nothing.
pub(super) struct Base {
    /// A path, or `org/name` on the Hub.
    pub name: String,
    /// Of the Hub's model.
    pub revision: String,
}

impl Base {
    /// As a user names it: a path, or `hf:org/name[@revision]`.
    pub fn spec(&self) -> String {
        let Self { name, revision } = self;
        // The Hub's names have two parts.
        let on_hub = name.split('/').filter(|part| !part.is_empty()).count() == 2 && !Path::new(name).exists();
        match (on_hub, revision.as_str()) {
            (false, _) => name.clone(),
            (true, "") => format!("hf:{name}"),
            (true, revision) => format!("hf:{name}@{revision}"),
        }
    }

    /// The reverse of [`spec`](Self::spec).
    fn of(spec: &str) -> Self {
        let Some(model) = spec.strip_prefix("hf:") else { return Self { name: spec.into(), revision: String::new() } };
        let (name, revision) = model.split_once('@').unwrap_or((model, ""));
        Self { name: name.into(), revision: revision.into() }
    }
}

/// Keys that [`read`] takes account of.
const READ: [&str; 13] = [
    "peft_type",
    "base_model_name_or_path",
    "r",
    "lora_alpha",
    "lora_dropout",
    "use_rslora",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "rank_pattern",
    "alpha_pattern",
    "bias",
];

/// The settings in `object`, and the model that the adapter was trained on.
pub(super) fn read(path: &Path, object: &Map<String, Value>) -> Result<(LoraConfig, Base), ModelError> {
    let keys = Keys { path, object };
    keys.refuse_others()?;
    let targets = |key| keys.read::<Targets>(key, "a text or a list of texts");
    let number = |key| keys.read::<f64>(key, "a number");
    let patterns = |key| Ok::<_, ModelError>(keys.read(key, "an object")?.unwrap_or_default());
    let text = |key| keys.present(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let config = LoraConfig {
        rank: keys.read("r", RANK)?.ok_or_else(|| keys.missing("r", RANK))?,
        alpha: number("lora_alpha")?.unwrap_or(8.0),
        rank_stabilized: keys.read("use_rslora", "true or false")?.unwrap_or(false),
        dropout: number("lora_dropout")?.unwrap_or(0.0),
        targets: targets("target_modules")?
            .ok_or_else(|| keys.missing("target_modules", "a text or a list of texts"))?,
        exclude: targets("exclude_modules")?,
        layers: keys.layers()?,
        rank_pattern: patterns("rank_pattern")?,
        alpha_pattern: patterns("alpha_pattern")?,
    };
    Ok((config, Base { name: text("base_model_name_or_path"), revision: text("revision") }))
}

/// What a rank must be.
const RANK: &str = "a whole number above 0";

/// The object, and the file that it is from.
struct Keys<'a> {
    path: &'a Path,
    object: &'a Map<String, Value>,
}

impl Keys<'_> {
    fn fail(&self, key: &str, problem: String) -> ModelError {
        ModelError::Config { path: self.path.into(), key: key.into(), problem }
    }

    fn missing(&self, key: &str, kind: &str) -> ModelError {
        self.fail(key, format!("is missing; it must be {kind}"))
    }

    /// The value of a key that is there and not null.
    fn present(&self, key: &str) -> Option<&Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    /// The same as a `T`, which is in words a `kind`.
    fn read<T: DeserializeOwned>(&self, key: &str, kind: &str) -> Result<Option<T>, ModelError> {
        let Some(value) = self.present(key) else { return Ok(None) };
        match T::deserialize(value) {
            Ok(read) => Ok(Some(read)),
            Err(_) => Err(self.fail(key, format!("is {value}; it must be {kind}"))),
        }
    }

    /// The decoder layers that have adapters, where not all do.
    fn layers(&self) -> Result<Option<Vec<usize>>, ModelError> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Spelled<T> {
            One(T),
            Many(Vec<T>),
        }
        let layers = match self.read("layers_to_transform", "a number or a list of numbers")? {
            Some(Spelled::One(layer)) => vec![layer],
            Some(Spelled::Many(layers)) => layers,
            None => Vec::new(),
        };
        let in_layers = match self.read::<Spelled<String>>("layers_pattern", "a text or a list of texts")? {
            Some(Spelled::One(pattern)) => ["", "layers"].contains(&pattern.as_str()),
            Some(Spelled::Many(patterns)) => patterns.is_empty() || patterns.iter().any(|pattern| pattern == "layers"),
            None => true,
        };
        if layers.is_empty() {
            return Ok(None);
        }
        if !in_layers {
            return Err(self.fail("layers_pattern", "names none that is `layers`, where the model has its own".into()));
        }
        Ok(Some(layers))
    }

    /// Refuses what is no LoRA as [`LoraConfig`] has it.
    fn refuse_others(&self) -> Result<(), ModelError> {
        if self.present("peft_type").and_then(Value::as_str) != Some("LORA") {
            let kind = "\"LORA\", the kind of adapter that is supported";
            return Err(match self.present("peft_type") {
                Some(value) => self.fail("peft_type", format!("is {value}; it must be {kind}")),
                None => self.missing("peft_type", kind),
            });
        }
        if let Some(bias) = self.present("bias").filter(|bias| bias.as_str() != Some("none")) {
            let problem = format!("is {bias}; only adapters without biases of their own are supported");
            return Err(self.fail("bias", problem));
        }
        for (key, value) in self.object {
            // What is off, whatever it would be, changes nothing.
            let is_off = match value {
                Value::Null | Value::Bool(false) => true,
                Value::Array(items) => items.is_empty(),
                Value::Object(items) => items.is_empty(),
                _ => false,
            };
            if !is_off && !READ.contains(&key.as_str()) && !INERT.contains(&key.as_str()) {
                let problem =
                    format!("is {value}, which is not supported; only LoRA as such and rank-stabilised LoRA are");
                return Err(self.fail(key, problem));
            }
        }
        Ok(())
    }
}

/// The object of an adapter of the model that a user names `base`, with all that PEFT needs to load it.
pub(super) fn write(adapter: &Adapter, base: &str) -> Map<String, Value> {
    let (config, base) = (adapter.config(), Base::of(base));
    let targets = match &config.targets {
        // Spelled out, as PEFT does when it saves.
        Targets::AllLinear => json!(adapter.module_names()),
        targets => json!(targets),
    };
    let object = json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base.name,
        "revision": Some(base.revision).filter(|revision| !revision.is_empty()),
        "inference_mode": true,
        "r": config.rank,
        "lora_alpha": whole(config.alpha),
        "lora_dropout": config.dropout,
        "use_rslora": config.rank_stabilized,
        "target_modules": targets,
        "exclude_modules": config.exclude,
        "layers_to_transform": config.layers,
        "rank_pattern": config.rank_pattern,
        "alpha_pattern": config.alpha_pattern,
        "bias": "none",
        "fan_in_fan_out": false,
        "modules_to_save": null,
        "init_lora_weights": true,
    });
    let Value::Object(object) = object else { unreachable!("the literal above is an object") };
    object
}

/// A whole number as PEFT's users write it.
fn whole(x: f64) -> Value {
    if x.fract() == 0.0 && x.abs() < 1e15 { json!(x as i64) } else { json!(x) }
}
