//! From a configuration to the settings of a GGUF file.
//!
//! Keys are those that [`families`](super::families) reads, so what is written is read back and compared: a difference is
//! something that the format, or llama.cpp's loading of the architecture, has no place for.

use std::collections::BTreeMap;

use super::families::{ARCHITECTURES, Settings, window_period};
use super::rotary::{Divisors, describe_scaling};
use super::{Gguf, Value, keys};
use crate::config::{Biases, DecoderConfig, Family, RopeScaling, all_but_last, inverse};

/// Settings behind the architecture's name, as they are put together.
pub(super) type Keys = BTreeMap<&'static str, Value>;

/// The configuration as files tell it: Mistral's say `llama`.
pub(super) fn in_terms_of_files(config: &DecoderConfig) -> DecoderConfig {
    let family = if config.family == Family::Mistral { Family::Llama } else { config.family };
    DecoderConfig { family, ..config.clone() }
}

fn architecture(family: Family) -> &'static str {
    let (architecture, _) = ARCHITECTURES.into_iter().find(|&(_, known)| known == family).expect("all but Mistral's");
    architecture
}

/// The settings that say what `config` is, and the tensors that say the rest of it. An error is a problem that ends the
/// sentence.
pub(super) fn describe(config: &DecoderConfig) -> Result<(BTreeMap<String, Value>, Divisors), String> {
    let mut keys = dimensions(config);
    let divisors = describe_scaling(config, &mut keys)?;
    describe_family(config, &mut keys);
    describe_windows(config, &mut keys);
    let architecture = architecture(config.family);
    let prefixed = keys.into_iter().map(|(key, value)| (format!("{architecture}.{key}"), value));
    let named = (keys::ARCHITECTURE.to_owned(), Value::String(architecture.into()));
    Ok((prefixed.chain([named]).collect(), divisors))
}

fn count(n: usize) -> Value {
    Value::Int(n as i64)
}

fn float(x: f32) -> Value {
    Value::Float(x.into())
}

/// What all families have.
fn dimensions(config: &DecoderConfig) -> Keys {
    let context = match config.rope_scaling {
        RopeScaling::LongRope { long_positions, .. } => long_positions,
        _ => config.max_positions,
    };
    Keys::from([
        (keys::VOCABULARY, count(config.vocab_size)),
        (keys::CONTEXT, count(context)),
        (keys::WIDTH, count(config.hidden_size)),
        (keys::GATED_WIDTH, count(config.intermediate_size)),
        (keys::LAYERS, count(config.num_layers)),
        (keys::HEADS, count(config.num_heads)),
        (keys::KV_HEADS, count(config.num_kv_heads)),
        (keys::KEY_WIDTH, count(config.head_dim)),
        (keys::VALUE_WIDTH, count(config.head_dim)),
        (keys::EPS, float(config.rms_norm_eps)),
        (keys::ROTARY_WIDTH, count(config.rotary_dim())),
        (keys::ROTARY_BASE, Value::Float(config.rope_theta)),
    ])
}

/// Constants that a family has keys for and others lack.
fn describe_family(config: &DecoderConfig, keys: &mut Keys) {
    let softcaps =
        [(keys::ATTENTION_SOFTCAP, config.attention_softcap), (keys::LOGIT_SOFTCAP, config.logit_scale.softcap)];
    keys.extend(softcaps.into_iter().filter_map(|(key, bound)| Some((key, float(bound?)))));
    keys.extend(config.local_rope_theta.map(|base| (keys::LOCAL_ROTARY_BASE, Value::Float(base))));
    if config.family == Family::Granite {
        keys.insert(keys::ATTENTION_SCALE, float(config.attention(0).scale));
        keys.insert(keys::EMBEDDING_SCALE, float(config.embedding_multiplier));
        keys.insert(keys::RESIDUAL_SCALE, float(config.residual_multiplier));
        keys.insert(keys::LOGIT_SCALE, Value::Float(inverse(config.logit_scale.multiplier)));
    }
}

/// The sliding window, and which layers have it, where that is not what is known of the family.
fn describe_windows(config: &DecoderConfig, keys: &mut Keys) {
    let family = config.family;
    // Without the key llama.cpp does not open a Phi.
    let window = config.sliding_window.or((family == Family::Phi3).then_some(0));
    let Some(window) = window.filter(|_| matches!(family, Family::Gemma2 | Family::Gemma3 | Family::Phi3)) else {
        return;
    };
    keys.insert(keys::WINDOW, count(window));
    let windowed: Vec<bool> = (0..config.num_layers).map(|layer| config.layer_kind(layer).windowed).collect();
    if family != Family::Phi3 && windowed != all_but_last(config.num_layers, window_period(family)) {
        keys.insert(keys::WINDOW_PATTERN, Value::Bools(windowed));
    }
}

/// Whether a file with these settings and tensors is a model of `config`.
pub(super) fn check(gguf: &Gguf, config: &DecoderConfig) -> Result<(), String> {
    let settings = Settings::of(gguf).map_err(|e| e.to_string())?;
    let architecture = architecture(config.family);
    let no_place = |what: &str| {
        Err(format!(
            "the architecture `{architecture}` of that format has no place for {what}; export a Hugging Face folder"
        ))
    };
    let found = settings.unscaled().map_err(|e| e.to_string())?;
    let layers = || (0..config.num_layers).map(|layer| (config.attention(layer), found.attention(layer), layer));
    let is_rotary = |config: &DecoderConfig, layer: usize| config.layer_kind(layer).rotary;
    if layers().any(|(ours, theirs, _)| ours.window != theirs.window) {
        return no_place("the model's sliding window");
    }
    if layers().any(|(.., layer)| is_rotary(config, layer) != is_rotary(&found, layer)) {
        return no_place("the layers that lack rotary positions, but for every fourth one");
    }
    if layers().any(|(ours, theirs, _)| ours.scale != theirs.scale) {
        return no_place("the factor of the model's attention scores");
    }
    if layers().any(|(ours, theirs, _)| ours.softcap != theirs.softcap) || config.logit_scale != found.logit_scale {
        return no_place("the bound or the factor of the model's scores or logits");
    }
    if config.biases != found.biases {
        return no_place("the model's biases");
    }
    let same = DecoderConfig {
        // Compared above, layer by layer, and below.
        layer_kinds: found.layer_kinds.clone(),
        sliding_window: found.sliding_window,
        attention_scale: found.attention_scale,
        rope_scaling: RopeScaling::None,
        // Files hold the number of channels.
        partial_rotary_factor: match config.rotary_dim() == found.rotary_dim() {
            true => found.partial_rotary_factor,
            false => config.partial_rotary_factor,
        },
        max_positions: found.max_positions,
        // Files hold them in f32.
        rope_theta: f64::from(config.rope_theta as f32),
        local_rope_theta: config.local_rope_theta.map(|base| f64::from(base as f32)),
        ..config.clone()
    };
    let rounded = DecoderConfig {
        rope_theta: f64::from(found.rope_theta as f32),
        local_rope_theta: found.local_rope_theta.map(|base| f64::from(base as f32)),
        ..found
    };
    if same != rounded {
        return no_place("one of the model's settings");
    }
    check_loading(config).map_or(Ok(()), no_place)
}

/// What llama.cpp's loading of an architecture takes for granted, although a file could say otherwise.
fn check_loading(config: &DecoderConfig) -> Option<&'static str> {
    let shared = config.num_heads * config.head_dim == config.hidden_size;
    match config.family {
        Family::Gemma2 if !config.tie_word_embeddings => Some("an output head beside the embedding"),
        Family::Olmo2 if config.tie_word_embeddings => Some("an output head that is the embedding"),
        Family::SmolLm3 if config.biases != Biases::default() => Some("the model's biases"),
        Family::Qwen2 | Family::Phi3 | Family::Olmo2 if !shared => {
            Some("heads that are together wider or narrower than the residual stream")
        }
        _ => None,
    }
}
