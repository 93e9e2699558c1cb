//! `adapter_config.json`, as PEFT 0.21 reads and writes it.

use std::path::Path;

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

/// The settings in `object`, and the model that the adapter was trained on.
pub(super) fn read(path: &Path, object: &Map<String, Value>) -> Result<(LoraConfig, Base), ModelError> {
    let fail = |key: &str, problem: String| ModelError::Config { path: path.into(), key: key.into(), problem };
    let of_kind = |key: &str, kind: &str| {
        let problem = match object.get(key) {
            Some(value) => format!("is {value}; it must be {kind}"),
            None => format!("is missing; it must be {kind}"),
        };
        fail(key, problem)
    };
    let present = |key: &str| object.get(key).filter(|value| !value.is_null());
    let flag = |key: &str| match present(key) {
        Some(value) => value.as_bool().ok_or_else(|| of_kind(key, "true or false")),
        None => Ok(false),
    };
    let number = |key: &str, default: f64| match present(key) {
        Some(value) => value.as_f64().ok_or_else(|| of_kind(key, "a number")),
        None => Ok(default),
    };
    let targets = |key: &str| match present(key) {
        Some(value) => {
            serde_json::from_value(value.clone()).map(Some).map_err(|_| of_kind(key, "a text or a list of texts"))
        }
        None => Ok(None),
    };
    let patterns = |key: &str| match present(key) {
        Some(Value::Object(patterns)) => Ok(patterns.clone()),
        Some(_) => Err(of_kind(key, "an object")),
        None => Ok(Map::new()),
    };

    if present("peft_type").and_then(Value::as_str) != Some("LORA") {
        return Err(of_kind("peft_type", "\"LORA\", the kind of adapter that is supported"));
    }
    if let Some(bias) = present("bias").filter(|bias| bias.as_str() != Some("none")) {
        return Err(fail("bias", format!("is {bias}; only adapters without biases of their own are supported")));
    }
    let layers = match present("layers_to_transform") {
        None => None,
        Some(Value::Array(layers)) if layers.is_empty() => None,
        Some(layers) => {
            let one = layers.as_u64().map(|layer| vec![layer as usize]);
            let several = || serde_json::from_value(layers.clone()).ok();
            Some(one.or_else(several).ok_or_else(|| of_kind("layers_to_transform", "a number or a list of numbers"))?)
        }
    };
    let layers_pattern = match present("layers_pattern") {
        Some(Value::Array(patterns)) => patterns.iter().any(|pattern| pattern.as_str() == Some("layers")),
        Some(pattern) => matches!(pattern.as_str(), Some("" | "layers")),
        None => true,
    };
    if layers.is_some() && !layers_pattern {
        return Err(fail("layers_pattern", "names other layers than `layers`, where the model has its own".into()));
    }
    let known = [
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
    for (key, value) in object {
        // What is off, whatever it would be, changes nothing.
        let off = match value {
            Value::Null | Value::Bool(false) => true,
            Value::Array(items) => items.is_empty(),
            Value::Object(items) => items.is_empty(),
            _ => false,
        };
        if !off && !known.contains(&key.as_str()) && !INERT.contains(&key.as_str()) {
            let problem = format!("is {value}, which is not supported; only LoRA as such and rank-stabilised LoRA are");
            return Err(fail(key, problem));
        }
    }
    let rank = present("r").and_then(Value::as_u64).ok_or_else(|| of_kind("r", "a whole number above 0"))?;
    let config = LoraConfig {
        rank: rank as usize,
        alpha: number("lora_alpha", 8.0)?,
        rank_stabilized: flag("use_rslora")?,
        dropout: number("lora_dropout", 0.0)?,
        targets: targets("target_modules")?.ok_or_else(|| of_kind("target_modules", "a text or a list of texts"))?,
        exclude: targets("exclude_modules")?,
        layers,
        rank_pattern: patterns("rank_pattern")?,
        alpha_pattern: patterns("alpha_pattern")?,
    };
    let text = |key: &str| present(key).and_then(Value::as_str).unwrap_or_default();
    Ok((config, Base { name: text("base_model_name_or_path").into(), revision: text("revision").into() }))
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
