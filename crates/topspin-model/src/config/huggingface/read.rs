//! From `config.json` to a configuration.

use std::path::Path;

use serde_json::{Map, Value};
use topspin_kernels::device::{Activation, LogitScale};

use super::keys::Keys;
use super::rope;
use crate::config::{Biases, DecoderConfig, Family, LayerKind, all_but_last};
use crate::error::ModelError;

/// Parts of names that arithmetic goes by. An unknown key with one of them is refused: to ignore it might give another model.
#[rustfmt::skip]
const ARITHMETIC: [&str; 19] = [
    "activation", "attention", "attn", "bias", "cap", "embedding", "expert", "head", "layer", "logit", "mlp", "moe", "multiplier",
    "norm", "qkv", "residual", "rope", "scal", "window",
];

/// Keys with such names that are read, in one family or another.
#[rustfmt::skip]
const READ: [&str; 33] = [
    "attention_bias", "attention_multiplier", "attn_logit_softcapping", "embedding_multiplier",
    "final_logit_softcapping", "head_dim", "hidden_act", "hidden_activation", "layer_types", "logits_scaling",
    "max_position_embeddings", "max_window_layers", "mlp_bias", "no_rope_layer_interval", "no_rope_layers",
    "num_attention_heads", "num_hidden_layers", "num_key_value_heads", "original_max_position_embeddings",
    "partial_rotary_factor", "query_pre_attn_scalar", "residual_multiplier", "rms_norm_eps", "rope_interleaved",
    "rope_local_base_freq", "rope_parameters", "rope_scaling", "rope_theta", "sliding_window", "sliding_window_pattern",
    "tie_word_embeddings", "use_bidirectional_attention", "use_sliding_window",
];

/// Keys with such names that no arithmetic depends on: settings of training, of how a computation is carried out, or of what
/// is given out.
const HARMLESS: [&str; 7] = [
    "attention_dropout",
    "attn_implementation",
    "full_attn_mod",
    "output_attentions",
    "pruned_heads",
    "use_flash_attention",
    "use_flash_attn",
];

impl DecoderConfig {
    /// Reads a parsed `config.json`. `path` is only named in errors.
    ///
    /// Absent keys take the defaults of transformers' class. A key that asks for other arithmetic than the decoder's is an
    /// error, as is an unknown one that sounds like it: ignoring it would give another model. Other keys, and dropout, which
    /// is a setting of training, are passed over.
    pub(crate) fn from_json(path: &Path, json: &Map<String, Value>) -> Result<Self, ModelError> {
        let keys = Keys::new(path, json);
        let family = keys.family()?;
        refuse_other_arithmetic(&keys)?;
        let hidden_size = keys.required("hidden_size")?;
        let num_heads = keys.required("num_attention_heads")?;
        let num_kv_heads = match keys.optional("num_key_value_heads")? {
            Some(n) => n,
            None => kv_heads_unless_given(&keys, family, num_heads)?,
        };
        let head_dim = match keys.optional("head_dim")? {
            Some(n) => n,
            None => head_dim_unless_given(&keys, family, hidden_size, num_heads)?,
        };
        let base = Self::of_family(family);
        let mut config = Self {
            vocab_size: keys.required("vocab_size")?,
            hidden_size,
            intermediate_size: keys.required("intermediate_size")?,
            num_layers: keys.required("num_hidden_layers")?,
            num_heads,
            num_kv_heads,
            head_dim,
            max_positions: keys.optional("max_position_embeddings")?.unwrap_or(default_positions(family)),
            tie_word_embeddings: keys.bool("tie_word_embeddings")?.unwrap_or(default_tied(family)),
            rms_norm_eps: keys.float("rms_norm_eps")?.unwrap_or(default_eps(family)) as f32,
            activation: activation(&keys, &base)?,
            biases: biases(&keys, family)?,
            ..base
        };
        read_family(&keys, &mut config)?;
        // Before anything is made one for each layer.
        config.validate().map_err(|e| keys.fail(e.key, e.problem))?;
        read_layers(&keys, &mut config)?;
        rope::read(&keys, &mut config)?;
        config.validate().map_err(|e| keys.fail(e.key, e.problem))?;
        Ok(config)
    }
}

fn kv_heads_unless_given(keys: &Keys, family: Family, num_heads: usize) -> Result<usize, ModelError> {
    match family {
        // Numbers that transformers has for them and that no model relies on.
        Family::Mistral | Family::Qwen2 | Family::Qwen3 | Family::Gemma2 | Family::Gemma3 | Family::SmolLm3 => {
            Err(keys.fail("num_key_value_heads", "is missing"))
        }
        _ => Ok(num_heads),
    }
}

fn head_dim_unless_given(keys: &Keys, family: Family, hidden: usize, num_heads: usize) -> Result<usize, ModelError> {
    match family {
        Family::Gemma2 | Family::Gemma3 => Ok(256),
        Family::Qwen3 => Ok(128),
        _ if num_heads > 0 && hidden.is_multiple_of(num_heads) => Ok(hidden / num_heads),
        _ => {
            let problem = format!("is {hidden}, which the {num_heads} heads do not divide, and there is no `head_dim`");
            Err(keys.fail("hidden_size", problem))
        }
    }
}

fn default_positions(family: Family) -> usize {
    match family {
        Family::Llama | Family::Olmo2 | Family::Granite => 2048,
        Family::Mistral | Family::Gemma3 => 131_072,
        Family::Qwen2 | Family::Qwen3 | Family::SmolLm3 => 32_768,
        Family::Gemma2 => 8192,
        Family::Phi3 => 4096,
    }
}

fn default_tied(family: Family) -> bool {
    matches!(family, Family::Gemma2 | Family::Gemma3 | Family::SmolLm3)
}

fn default_eps(family: Family) -> f64 {
    if matches!(family, Family::Phi3 | Family::Olmo2) { 1e-5 } else { 1e-6 }
}

fn activation(keys: &Keys, base: &DecoderConfig) -> Result<Activation, ModelError> {
    let key = match base.family {
        Family::Gemma2 | Family::Gemma3 => "hidden_activation",
        _ => "hidden_act",
    };
    match keys.text(key)? {
        None => Ok(base.activation),
        Some("silu" | "swish") => Ok(Activation::Silu),
        Some("gelu_pytorch_tanh") => Ok(Activation::GeluTanh),
        Some(_) => Err(keys.unsupported(key, "`silu` or `gelu_pytorch_tanh`")),
    }
}

fn biases(keys: &Keys, family: Family) -> Result<Biases, ModelError> {
    let attention = keys.bool("attention_bias")?.unwrap_or(false);
    let mlp = keys.bool("mlp_bias")?.unwrap_or(false);
    Ok(match family {
        Family::Qwen2 => Biases { qkv: true, o: false, mlp: false },
        Family::Mistral | Family::Phi3 => Biases::default(),
        Family::Llama | Family::SmolLm3 | Family::Granite => Biases { qkv: attention, o: attention, mlp },
        Family::Qwen3 | Family::Gemma2 | Family::Gemma3 | Family::Olmo2 => {
            Biases { qkv: attention, o: attention, mlp: false }
        }
    })
}

/// Constants that a family has keys for and others lack.
fn read_family(keys: &Keys, config: &mut DecoderConfig) -> Result<(), ModelError> {
    let factor = |key: &str| -> Result<f32, ModelError> { Ok(keys.float(key)?.unwrap_or(1.0) as f32) };
    match config.family {
        Family::Gemma2 | Family::Gemma3 => {
            let gemma2 = config.family == Family::Gemma2;
            let softcap = |key: &str, default: f64| -> Result<Option<f32>, ModelError> {
                let absent = (gemma2 && !keys.json.contains_key(key)).then_some(default);
                Ok(keys.float(key)?.or(absent).map(|cap| cap as f32))
            };
            config.embedding_multiplier = config.root_of_width();
            config.attention_scale = Some(keys.float("query_pre_attn_scalar")?.unwrap_or(256.0).powf(-0.5) as f32);
            config.logit_scale.softcap = softcap("final_logit_softcapping", 30.0)?;
            // For Gemma 3 transformers reads the key too, and computes as if it were not there.
            config.attention_softcap = softcap("attn_logit_softcapping", 50.0)?.filter(|_| gemma2);
            if keys.bool("use_bidirectional_attention")? == Some(true) {
                return Err(keys.unsupported("use_bidirectional_attention", "`false`"));
            }
        }
        Family::Granite => {
            config.attention_scale = Some(factor("attention_multiplier")?);
            config.embedding_multiplier = factor("embedding_multiplier")?;
            config.residual_multiplier = factor("residual_multiplier")?;
            config.logit_scale = LogitScale { multiplier: 1.0 / factor("logits_scaling")?, softcap: None };
        }
        _ => {}
    }
    Ok(())
}

/// The sliding window, and which layers have it or lack rotary positions.
fn read_layers(keys: &Keys, config: &mut DecoderConfig) -> Result<(), ModelError> {
    let layers = config.num_layers;
    let window = |default: usize| -> Result<Option<usize>, ModelError> {
        let absent = (!keys.json.contains_key("sliding_window")).then_some(default);
        Ok(keys.optional("sliding_window")?.or(absent))
    };
    let wanted = keys.bool("use_sliding_window")?.unwrap_or(false);
    match config.family {
        Family::Mistral => config.sliding_window = window(4096)?,
        Family::Phi3 => config.sliding_window = keys.optional("sliding_window")?,
        Family::Qwen2 | Family::Qwen3 if wanted => {
            config.sliding_window = window(4096)?;
            let first = keys.optional("max_window_layers")?.unwrap_or(28);
            let windowed = layer_types(keys)?.unwrap_or_else(|| (0..layers).map(|layer| layer >= first).collect());
            config.layer_kinds = LayerKind::rotary(windowed);
        }
        Family::Gemma2 | Family::Gemma3 => {
            config.sliding_window = window(4096)?;
            let pattern = match config.family {
                Family::Gemma2 => 2,
                _ => keys.optional("sliding_window_pattern")?.unwrap_or(6).max(1),
            };
            let by_pattern = || all_but_last(layers, pattern);
            config.layer_kinds = LayerKind::rotary(layer_types(keys)?.unwrap_or_else(by_pattern));
        }
        Family::SmolLm3 => {
            let interval = keys.optional("no_rope_layer_interval")?.unwrap_or(4).max(1);
            let rotary: Vec<bool> = match keys.get("no_rope_layers") {
                None => all_but_last(layers, interval),
                Some(_) => keys.floats("no_rope_layers")?.into_iter().map(|rotary| rotary != 0.0).collect(),
            };
            config.sliding_window = if wanted { keys.optional("sliding_window")? } else { None };
            let windowed = match config.sliding_window {
                None => vec![false; rotary.len()],
                Some(_) => layer_types(keys)?.unwrap_or_else(|| rotary.iter().map(|rotary| !rotary).collect()),
            };
            let kinds = windowed.into_iter().zip(rotary).take(layers);
            config.layer_kinds = kinds.map(|(windowed, rotary)| LayerKind { windowed, rotary }).collect();
        }
        _ => {}
    }
    Ok(())
}

/// Whether each layer is windowed, if the configuration names their kinds.
fn layer_types(keys: &Keys) -> Result<Option<Vec<bool>>, ModelError> {
    let Some(value) = keys.get("layer_types") else { return Ok(None) };
    let kind = |kind: &Value| match kind.as_str() {
        Some("sliding_attention") => Some(true),
        Some("full_attention") => Some(false),
        _ => None,
    };
    let kinds = value.as_array().and_then(|list| list.iter().map(kind).collect());
    match kinds {
        Some(kinds) => Ok(Some(kinds)),
        None => Err(keys.unsupported("layer_types", "a list of `full_attention` and `sliding_attention`")),
    }
}

fn refuse_other_arithmetic(keys: &Keys) -> Result<(), ModelError> {
    if keys.bool("rope_interleaved")? == Some(true) {
        return Err(keys.unsupported("rope_interleaved", "`false`"));
    }
    if keys.get("quantization_config").is_some() {
        return Err(keys.fail("quantization_config", "is set, but training needs the unquantised weights"));
    }
    for (key, value) in keys.json.iter().filter(|(_, value)| !value.is_null() && **value != Value::Bool(false)) {
        let known = READ.contains(&key.as_str()) || HARMLESS.contains(&key.as_str()) || key.starts_with('_');
        let sounds = ARITHMETIC.iter().any(|part| key.contains(part));
        if !known && sounds {
            let problem =
                format!("is {value}, but no key that the decoder knows, and ignoring it might give another model");
            return Err(keys.fail(key, problem));
        }
    }
    Ok(())
}
