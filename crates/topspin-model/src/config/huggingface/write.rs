//! From a configuration to `config.json`.

use serde_json::{Map, Value, json};
use topspin_kernels::device::Activation;

use super::SpecialIds;
use crate::checkpoint::SaveDtype;
use crate::config::{DecoderConfig, Family, RopeScaling};

impl DecoderConfig {
    /// A `config.json` that transformers opens as the family's class.
    ///
    /// Keys that version 5 renamed (`dtype`, `rope_parameters`) are written under both names, so that version 4 and
    /// the many readers modelled on it see the same model.
    pub(crate) fn to_json(&self, dtype: SaveDtype, ids: &SpecialIds) -> Map<String, Value> {
        let positions = match self.rope_scaling {
            RopeScaling::LongRope { long_positions, .. } => long_positions,
            _ => self.max_positions,
        };
        let mut json = object(json!({
            "architectures": [self.family.class()],
            "model_type": self.family.model_type(),
            "attention_bias": self.biases.o,
            "attention_dropout": 0.0,
            "dtype": dtype.name(),
            "torch_dtype": dtype.name(),
            "head_dim": self.head_dim,
            "hidden_size": self.hidden_size,
            "initializer_range": 0.02,
            "intermediate_size": self.intermediate_size,
            "max_position_embeddings": positions,
            "num_attention_heads": self.num_heads,
            "num_hidden_layers": self.num_layers,
            "num_key_value_heads": self.num_kv_heads,
            "rms_norm_eps": decimal(self.rms_norm_eps),
            "tie_word_embeddings": self.tie_word_embeddings,
            "use_cache": true,
            "vocab_size": self.vocab_size,
        }));
        let activation = match self.activation {
            Activation::Silu => "silu",
            Activation::GeluTanh => "gelu_pytorch_tanh",
        };
        json.insert("hidden_act".into(), activation.into());
        json.append(&mut self.family_json());
        json.append(&mut self.rope_json());
        ids.write_to(&mut json);
        json
    }

    /// Keys that other families lack.
    fn family_json(&self) -> Map<String, Value> {
        let types = || -> Vec<&str> {
            let kinds = (0..self.num_layers).map(|layer| self.attention(layer).window.is_some());
            kinds.map(|windowed| if windowed { "sliding_attention" } else { "full_attention" }).collect()
        };
        object(match self.family {
            Family::Llama => json!({ "mlp_bias": self.biases.mlp, "pretraining_tp": 1 }),
            Family::Mistral | Family::Phi3 => json!({ "sliding_window": self.sliding_window }),
            Family::Qwen2 | Family::Qwen3 => json!({
                "use_sliding_window": self.sliding_window.is_some(),
                "sliding_window": self.sliding_window,
                "max_window_layers": types().iter().position(|&kind| kind == "sliding_attention").unwrap_or(self.num_layers),
                "layer_types": types(),
            }),
            Family::Gemma2 | Family::Gemma3 => json!({
                "hidden_activation": "gelu_pytorch_tanh",
                "query_pre_attn_scalar": self.attention_scale.map(query_scalar),
                "attn_logit_softcapping": self.attention_softcap.map(decimal),
                "final_logit_softcapping": self.logit_scale.softcap.map(decimal),
                "sliding_window": self.sliding_window,
                "layer_types": types(),
            }),
            Family::SmolLm3 => json!({
                "mlp_bias": self.biases.mlp,
                "use_sliding_window": self.sliding_window.is_some(),
                "sliding_window": self.sliding_window,
                "layer_types": types(),
                "no_rope_layers": (0..self.num_layers).map(|layer| u8::from(self.layer_kind(layer).rotary)).collect::<Vec<_>>(),
            }),
            Family::Olmo2 => json!({}),
            Family::Granite => json!({
                "mlp_bias": self.biases.mlp,
                "attention_multiplier": self.attention_scale.map(decimal),
                "embedding_multiplier": decimal(self.embedding_multiplier),
                "residual_multiplier": decimal(self.residual_multiplier),
                "logits_scaling": inverse(self.logit_scale.multiplier),
            }),
        })
    }

    fn rope_json(&self) -> Map<String, Value> {
        let theta = self.rope_theta;
        let mut scaling = self.scaling_json();
        // Null where nothing is scaled, as version 4 has it.
        let plain = self.rope_scaling == RopeScaling::None;
        let old = if plain { Value::Null } else { Value::Object(scaling.clone()) };
        scaling.insert("rope_theta".into(), theta.into());
        let mut json = object(json!({ "rope_theta": theta, "rope_scaling": old }));
        if self.family == Family::Phi3 {
            json.insert("partial_rotary_factor".into(), self.partial_rotary_factor.into());
            scaling.insert("partial_rotary_factor".into(), self.partial_rotary_factor.into());
        }
        if let RopeScaling::LongRope { original_positions, .. } = self.rope_scaling {
            json.insert("original_max_position_embeddings".into(), original_positions.into());
        }
        let parameters = match self.local_rope_theta {
            None => Value::Object(scaling),
            Some(local) => {
                json.insert("rope_local_base_freq".into(), local.into());
                json!({
                    "full_attention": scaling,
                    "sliding_attention": { "rope_theta": local, "rope_type": "default" },
                })
            }
        };
        json.insert("rope_parameters".into(), parameters);
        json
    }

    fn scaling_json(&self) -> Map<String, Value> {
        let kind = self.rope_scaling.kind();
        object(match &self.rope_scaling {
            RopeScaling::None => json!({ "rope_type": kind }),
            RopeScaling::Linear { factor } => json!({ "rope_type": kind, "factor": factor }),
            RopeScaling::Dynamic { factor } => json!({ "rope_type": kind, "factor": factor }),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_positions } => json!({
                "rope_type": kind,
                "factor": factor,
                "low_freq_factor": low_freq_factor,
                "high_freq_factor": high_freq_factor,
                "original_max_position_embeddings": original_positions,
            }),
            RopeScaling::Yarn { factor, beta_fast, beta_slow, truncate, original_positions, attention_factor } => {
                json!({
                    "rope_type": kind,
                    "factor": factor,
                    "beta_fast": beta_fast,
                    "beta_slow": beta_slow,
                    "truncate": truncate,
                    "original_max_position_embeddings": original_positions,
                    "attention_factor": attention_factor,
                })
            }
            RopeScaling::LongRope { short_factor, long_factor, original_positions, attention_factor, .. } => json!({
                "rope_type": kind,
                "short_factor": short_factor,
                "long_factor": long_factor,
                "original_max_position_embeddings": original_positions,
                "attention_factor": attention_factor,
            }),
        })
    }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        _ => unreachable!("the literals above are objects"),
    }
}

/// The f64 with the same shortest decimal form: 1e-5 rather than 9.999999747378752e-6.
fn decimal(x: f32) -> f64 {
    x.to_string().parse().unwrap_or(x.into())
}

/// The number whose inverse is the f32 `x`, the roundest one there is.
pub(crate) fn inverse(x: f32) -> f64 {
    roundest(1.0 / f64::from(x), |candidate| (1.0 / candidate as f32) == x)
}

/// The number whose inverse root is the f32 `scale`, the roundest one there is; transformers insists on a whole one.
fn query_scalar(scale: f32) -> Value {
    let scalar = roundest(f64::from(scale).powi(-2), |candidate| candidate.powf(-0.5) as f32 == scale);
    if scalar.fract() == 0.0 { (scalar as u64).into() } else { scalar.into() }
}

/// `x`, to as few decimals as `same` is content with.
fn roundest(x: f64, same: impl Fn(f64) -> bool) -> f64 {
    let rounded = (0..16).map(|decimals| format!("{x:.decimals$}").parse::<f64>().unwrap_or(x));
    rounded.into_iter().find(|&candidate| same(candidate)).unwrap_or(x)
}
