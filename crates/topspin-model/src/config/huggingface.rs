//! `config.json` as transformers writes and reads it.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::DecoderConfig;
use crate::checkpoint::SaveDtype;
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

    /// Reads a parsed `config.json`. `path` is only named in errors.
    ///
    /// Absent keys take the defaults of transformers' `LlamaConfig`. A key that asks for other arithmetic than the
    /// decoder's is an error: ignoring it would give another model. Keys that transformers' Llama does not read, and
    /// dropout, which is a setting of training, are passed over.
    pub(crate) fn from_json(path: &Path, json: &Map<String, Value>) -> Result<Self, ModelError> {
        let keys = Keys { path, json };
        let mistral = keys.architecture()? == Architecture::Mistral;
        keys.refuse_other_arithmetic(mistral)?;
        let hidden_size = keys.required("hidden_size")?;
        let num_heads = keys.required("num_attention_heads")?;
        let num_kv_heads = match keys.optional("num_key_value_heads")? {
            Some(n) => n,
            None if mistral => return Err(keys.fail("num_key_value_heads", "is missing")),
            None => num_heads,
        };
        let head_dim = match keys.optional("head_dim")? {
            Some(n) => n,
            None if num_heads > 0 && hidden_size % num_heads == 0 => hidden_size / num_heads,
            None => {
                let problem =
                    format!("is {hidden_size}, which the {num_heads} heads do not divide, and there is no `head_dim`");
                return Err(keys.fail("hidden_size", problem));
            }
        };
        let config = Self {
            vocab_size: keys.required("vocab_size")?,
            hidden_size,
            intermediate_size: keys.required("intermediate_size")?,
            num_layers: keys.required("num_hidden_layers")?,
            num_heads,
            num_kv_heads,
            head_dim,
            rms_norm_eps: keys.float("rms_norm_eps")?.unwrap_or(1e-6) as f32,
            rope_theta: keys.rope_theta()?,
            max_positions: keys.optional("max_position_embeddings")?.unwrap_or(2048),
            tie_word_embeddings: keys.bool("tie_word_embeddings")?.unwrap_or(false),
        };
        config.validate().map_err(|e| keys.fail(e.key, e.problem))?;
        Ok(config)
    }

    /// A `config.json` that transformers opens as `LlamaForCausalLM`.
    ///
    /// Keys that version 5 renamed (`dtype`, `rope_parameters`) are written under both names, so that version 4 and
    /// the many readers modelled on it see the same model.
    pub(crate) fn to_json(&self, dtype: SaveDtype, ids: &SpecialIds) -> Map<String, Value> {
        let eps = decimal(self.rms_norm_eps);
        let json = json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "attention_bias": false,
            "attention_dropout": 0.0,
            "dtype": dtype.name(),
            "torch_dtype": dtype.name(),
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "hidden_size": self.hidden_size,
            "initializer_range": 0.02,
            "intermediate_size": self.intermediate_size,
            "max_position_embeddings": self.max_positions,
            "mlp_bias": false,
            "num_attention_heads": self.num_heads,
            "num_hidden_layers": self.num_layers,
            "num_key_value_heads": self.num_kv_heads,
            "pretraining_tp": 1,
            "rms_norm_eps": eps,
            "rope_parameters": { "rope_theta": self.rope_theta, "rope_type": "default" },
            "rope_scaling": null,
            "rope_theta": self.rope_theta,
            "tie_word_embeddings": self.tie_word_embeddings,
            "use_cache": true,
            "vocab_size": self.vocab_size,
        });
        let Value::Object(mut json) = json else { unreachable!("the literal above is an object") };
        ids.write_to(&mut json);
        json
    }
}

/// The f64 with the same shortest decimal form: 1e-5 rather than 9.999999747378752e-6.
fn decimal(x: f32) -> f64 {
    x.to_string().parse().unwrap_or(x.into())
}

#[derive(PartialEq)]
enum Architecture {
    Llama,
    Mistral,
}

/// The keys of one `config.json`; `null` counts as absent.
struct Keys<'a> {
    path: &'a Path,
    json: &'a Map<String, Value>,
}

impl Keys<'_> {
    fn get(&self, key: &str) -> Option<&Value> {
        self.json.get(key).filter(|value| !value.is_null())
    }

    fn fail(&self, key: &str, problem: impl Into<String>) -> ModelError {
        ModelError::config(self.path, key, problem)
    }

    fn optional(&self, key: &str) -> Result<Option<usize>, ModelError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_u64().and_then(|n| usize::try_from(n).ok()) {
            Some(n) => Ok(Some(n)),
            None => Err(self.fail(key, format!("is {value}; it must be a whole number"))),
        }
    }

    fn required(&self, key: &str) -> Result<usize, ModelError> {
        self.optional(key)?.ok_or_else(|| self.fail(key, "is missing"))
    }

    fn float(&self, key: &str) -> Result<Option<f64>, ModelError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_f64().map(Some).ok_or_else(|| self.fail(key, format!("is {value}; it must be a number")))
    }

    fn bool(&self, key: &str) -> Result<Option<bool>, ModelError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| self.fail(key, format!("is {value}; it must be `true` or `false`")))
    }

    fn architecture(&self) -> Result<Architecture, ModelError> {
        let unknown = |found: &str| ModelError::Architecture { path: self.path.into(), found: found.into() };
        let known = |name: &str| match name {
            "llama" | "LlamaForCausalLM" => Ok(Architecture::Llama),
            "mistral" | "MistralForCausalLM" => Ok(Architecture::Mistral),
            _ => Err(unknown(name)),
        };
        let class = match self.get("architectures") {
            None => None,
            Some(Value::Array(list)) => match &list[..] {
                [] => None,
                [Value::String(name)] => Some(known(name)?),
                _ => return Err(unknown(&Value::from(list.clone()).to_string())),
            },
            Some(other) => return Err(self.fail("architectures", format!("is {other}; it must be a list of names"))),
        };
        let family = match self.get("model_type") {
            None => None,
            Some(Value::String(name)) => Some(known(name)?),
            Some(other) => return Err(self.fail("model_type", format!("is {other}; it must be a name"))),
        };
        match (family, class) {
            (Some(a), Some(b)) if a != b => {
                Err(self.fail("model_type", "and `architectures` name two different models"))
            }
            (Some(found), _) | (None, Some(found)) => Ok(found),
            (None, None) => Err(self.fail("model_type", "is missing, so the architecture is not known")),
        }
    }

    fn refuse_other_arithmetic(&self, mistral: bool) -> Result<(), ModelError> {
        let unsupported = |key: &str, needed: &str| {
            let value = self.get(key).cloned().unwrap_or_default();
            Err(self.fail(key, format!("is {value}, which is not supported; the decoder needs {needed}")))
        };
        for key in ["attention_bias", "mlp_bias", "rope_interleaved"] {
            if self.bool(key)? == Some(true) {
                return unsupported(key, "`false`");
            }
        }
        if self.get("hidden_act").is_some_and(|act| act != "silu") {
            return unsupported("hidden_act", "`silu`");
        }
        for key in ["pretraining_tp", "partial_rotary_factor"] {
            if self.float(key)?.is_some_and(|factor| factor != 1.0) {
                return unsupported(key, "1");
            }
        }
        if let Some(scaling) = self.get("rope_scaling")
            && !self.is_default_rope("rope_scaling", scaling)?
        {
            return unsupported("rope_scaling", "unscaled rotary positions (`null`)");
        }
        if self.get("quantization_config").is_some() {
            return Err(self.fail("quantization_config", "is set, but training needs the unquantised weights"));
        }
        if mistral {
            // Absent means 4096 to transformers.
            let window =
                if self.json.contains_key("sliding_window") { self.optional("sliding_window")? } else { Some(4096) };
            let longest = self.optional("max_position_embeddings")?.unwrap_or(4096 * 32);
            if let Some(window) = window.filter(|&window| window < longest) {
                let problem =
                    format!("is {window}, which is not supported; the decoder attends to all {longest} positions");
                return Err(self.fail("sliding_window", problem));
            }
        }
        Ok(())
    }

    /// Whether a rotary setting, under either of its names, means plain rotary positions.
    fn is_default_rope(&self, key: &str, setting: &Value) -> Result<bool, ModelError> {
        let Some(setting) = setting.as_object() else {
            return Err(self.fail(key, format!("is {setting}; it must be an object or `null`")));
        };
        let kind = setting.get("rope_type").or_else(|| setting.get("type"));
        // A table by kind of layer has neither name.
        let named = kind.is_some_and(|kind| kind == "default");
        let unnamed = kind.is_none() && setting.keys().all(|key| key == "rope_theta");
        let whole = setting.get("partial_rotary_factor").is_none_or(|factor| factor.as_f64() == Some(1.0));
        Ok((named || unnamed) && whole)
    }

    /// The base of the rotary frequencies, from `rope_theta` (transformers 4), `rope_parameters` (5), or both.
    fn rope_theta(&self) -> Result<f64, ModelError> {
        let plain = self.float("rope_theta")?;
        let Some(parameters) = self.get("rope_parameters") else { return Ok(plain.unwrap_or(10_000.0)) };
        if !self.is_default_rope("rope_parameters", parameters)? {
            let problem =
                format!("is {parameters}, which is not supported; the decoder needs the `rope_type` `default`");
            return Err(self.fail("rope_parameters", problem));
        }
        let nested = match parameters.get("rope_theta") {
            None | Some(Value::Null) => None,
            Some(theta) => match theta.as_f64() {
                Some(theta) => Some(theta),
                None => return Err(self.fail("rope_parameters.rope_theta", format!("is {theta}; it must be a number"))),
            },
        };
        match (plain, nested) {
            (Some(a), Some(b)) if a != b => {
                Err(self.fail("rope_theta", format!("is {a}, but `rope_parameters` says {b}; leave one of them out")))
            }
            _ => Ok(nested.or(plain).unwrap_or(10_000.0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// SmolLM2-135M's file as transformers 4 wrote it, with the extra keys that such files carry.
    fn smollm2() -> Map<String, Value> {
        let json = json!({
            "architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
            "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 576,
            "initializer_range": 0.041666666666666664, "intermediate_size": 1536, "is_llama_config": true,
            "max_position_embeddings": 8192, "mlp_bias": false, "model_type": "llama", "num_attention_heads": 9,
            "num_hidden_layers": 30, "num_key_value_heads": 3, "pad_token_id": 2, "pretraining_tp": 1,
            "rms_norm_eps": 1e-05, "rope_interleaved": false, "rope_scaling": null, "rope_theta": 100000,
            "tie_word_embeddings": true, "torch_dtype": "bfloat16", "use_cache": true, "vocab_size": 49152
        });
        json.as_object().unwrap().clone()
    }

    fn read(json: &Map<String, Value>) -> Result<DecoderConfig, ModelError> {
        DecoderConfig::from_json(Path::new("m/config.json"), json)
    }

    fn with(key: &str, value: Value) -> Map<String, Value> {
        let mut json = smollm2();
        json.insert(key.into(), value);
        json
    }

    #[test]
    fn reads_a_llama() {
        let config = read(&smollm2()).unwrap();
        let expected = DecoderConfig {
            vocab_size: 49152,
            hidden_size: 576,
            intermediate_size: 1536,
            num_layers: 30,
            num_heads: 9,
            num_kv_heads: 3,
            head_dim: 64,
            rms_norm_eps: 1e-5,
            rope_theta: 100_000.0,
            max_positions: 8192,
            tie_word_embeddings: true,
        };
        assert_eq!(config, expected);
        assert_eq!(config.layout().len(), 134_515_008);
    }

    #[test]
    fn reads_rotary_settings_of_both_versions() {
        let mut json = smollm2();
        json.remove("rope_theta");
        assert_eq!(read(&json).unwrap().rope_theta, 10_000.0);
        json.insert("rope_parameters".into(), json!({"rope_theta": 5e5, "rope_type": "default"}));
        assert_eq!(read(&json).unwrap().rope_theta, 5e5);
        json.insert("rope_theta".into(), json!(5e5));
        assert_eq!(read(&json).unwrap().rope_theta, 5e5);
        assert_eq!(read(&with("rope_scaling", json!({"type": "default"}))).unwrap().rope_theta, 1e5);
    }

    #[test]
    fn reads_a_mistral_that_attends_to_everything() {
        let mut json = with("model_type", json!("mistral"));
        json.insert("architectures".into(), json!(["MistralForCausalLM"]));
        let error = read(&json).unwrap_err().to_string();
        assert_eq!(
            error,
            "`sliding_window` in `m/config.json` is 4096, which is not supported; the decoder attends to all 8192 \
             positions"
        );
        json.insert("sliding_window".into(), Value::Null);
        assert_eq!(read(&json).unwrap(), read(&smollm2()).unwrap());
    }

    #[test]
    fn refuses_what_the_decoder_does_not_compute() {
        let cases = [
            ("attention_bias", json!(true), "is true, which is not supported; the decoder needs `false`"),
            ("mlp_bias", json!(true), "is true, which is not supported; the decoder needs `false`"),
            ("hidden_act", json!("gelu"), "is \"gelu\", which is not supported; the decoder needs `silu`"),
            ("pretraining_tp", json!(2), "is 2, which is not supported; the decoder needs 1"),
            (
                "rope_scaling",
                json!({"rope_type": "linear", "factor": 2.0}),
                "is {\"rope_type\":\"linear\",\"factor\":2.0}, which is not supported; the decoder needs unscaled \
                 rotary positions (`null`)",
            ),
            (
                "rope_parameters",
                json!({"rope_type": "llama3", "rope_theta": 1e5}),
                "is {\"rope_type\":\"llama3\",\"rope_theta\":100000.0}, which is not supported; the decoder needs \
                 the `rope_type` `default`",
            ),
            (
                "rope_parameters",
                json!({"rope_theta": 1e4}),
                "`rope_theta` in `m/config.json` is 100000, but `rope_parameters` says 10000; leave one of them out",
            ),
            ("quantization_config", json!({"bits": 4}), "is set, but training needs the unquantised weights"),
            ("hidden_size", json!("wide"), "is \"wide\"; it must be a whole number"),
            ("hidden_size", json!(577), "is 577, which the 9 heads do not divide, and there is no `head_dim`"),
            ("head_dim", json!(63), "is 63, but rotary positions turn pairs and need an even number"),
            ("num_key_value_heads", json!(2), "is 2, which does not divide the 9 heads"),
            ("num_hidden_layers", json!(0), "is 0; it must lie in 1..=268435456"),
            ("vocab_size", Value::Null, "is missing"),
            ("rms_norm_eps", json!(-1.0), "is -1; it must be positive"),
        ];
        for (key, value, problem) in cases {
            let error = read(&with(key, value)).unwrap_err().to_string();
            let expected =
                if problem.starts_with('`') { problem.into() } else { format!("`{key}` in `m/config.json` {problem}") };
            assert_eq!(error, expected);
        }
    }

    #[test]
    fn names_an_unknown_architecture() {
        let mut json = with("model_type", json!("qwen2"));
        let expected = "`m/config.json` describes a model of the architecture `qwen2`, which is not supported; choose \
                        a Llama model (`LlamaForCausalLM`), or a Mistral model without a sliding window";
        assert_eq!(read(&json).unwrap_err().to_string(), expected);
        json.remove("model_type");
        assert!(read(&json).is_ok());
        json.insert("architectures".into(), json!(["GPT2LMHeadModel"]));
        assert!(read(&json).unwrap_err().to_string().contains("`GPT2LMHeadModel`"));
        json.remove("architectures");
        assert!(read(&json).unwrap_err().to_string().contains("`model_type`"));
    }

    proptest! {
        #[test]
        fn survives_a_round_trip(
            kv in 1_usize..9, group in 1_usize..9, half_head in 1_usize..70, layers in 1_usize..50,
            vocab in 1_usize..200_000, hidden in 1_usize..9000, inner in 1_usize..9000, positions in 1_usize..200_000,
            eps in 1e-9_f32..1e-2, theta in 1.0_f64..1e9, tied in any::<bool>(),
        ) {
            let config = DecoderConfig {
                vocab_size: vocab, hidden_size: hidden, intermediate_size: inner, num_layers: layers,
                num_heads: kv * group, num_kv_heads: kv, head_dim: 2 * half_head, rms_norm_eps: eps, rope_theta: theta,
                max_positions: positions, tie_word_embeddings: tied,
            };
            let ids = SpecialIds { bos: Some(7), eos: vec![3, 5], pad: None };
            let text = serde_json::to_string(&config.to_json(SaveDtype::F32, &ids)).unwrap();
            let json: Map<String, Value> = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(read(&json).unwrap(), config);
            prop_assert_eq!(SpecialIds::from_json(&json), ids);
        }
    }
}
