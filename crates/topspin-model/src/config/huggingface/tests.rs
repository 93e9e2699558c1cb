//! What is read of configurations, refused, and written again.

use proptest::prelude::*;
use serde_json::json;
use topspin_kernels::device::{Activation, LogitScale};

use super::*;
use crate::checkpoint::SaveDtype;
use crate::config::{Biases, Family, HeadNorm, LayerKind, NormPosition, RopeScaling};

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
        ..DecoderConfig::default()
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
fn reads_scaled_rotary_positions() {
    let scaling = |value: Value| read(&with("rope_scaling", value)).map(|config| config.rope_scaling);
    let linear = json!({"type": "linear", "factor": 4.0});
    assert_eq!(scaling(linear).unwrap(), RopeScaling::Linear { factor: 4.0 });
    let llama3 = json!({
        "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 2048
    });
    let expected =
        RopeScaling::Llama3 { factor: 32.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_positions: 2048 };
    assert_eq!(scaling(llama3).unwrap(), expected);
    let yarn = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048});
    let RopeScaling::Yarn { attention_factor, beta_fast, beta_slow, truncate, .. } = scaling(yarn).unwrap() else {
        panic!("another kind")
    };
    // 0.1 ln 4 + 1.
    assert!((attention_factor - 1.138_629_436).abs() < 1e-9);
    assert_eq!((beta_fast, beta_slow, truncate), (32.0, 1.0, true));
    let error = scaling(json!({"rope_type": "mrope"})).unwrap_err().to_string();
    assert!(
        error.ends_with("the `rope_type` `default`, `linear`, `dynamic`, `llama3`, `yarn` or `longrope`"),
        "{error}"
    );
}

/// transformers takes the frequencies for long contexts once a sequence is longer than the original one.
#[test]
fn a_longrope_model_is_as_long_as_its_first_context() {
    let mut json =
        with("rope_scaling", json!({"type": "longrope", "short_factor": vec![1.0; 32], "long_factor": vec![2.0; 32]}));
    json.insert("model_type".into(), json!("phi3"));
    json.remove("architectures");
    json.insert("original_max_position_embeddings".into(), json!(2048));
    let config = read(&json).unwrap();
    assert_eq!(config.max_positions, 2048);
    let RopeScaling::LongRope { attention_factor, long_positions, .. } = config.rope_scaling else {
        panic!("another kind")
    };
    assert_eq!(long_positions, 8192);
    // sqrt(1 + ln 4 / ln 2048).
    assert!((attention_factor - 1.087_114_613).abs() < 1e-9, "{attention_factor}");
    json.insert(
        "rope_scaling".into(),
        json!({"type": "longrope", "short_factor": vec![1.0; 3], "long_factor": vec![2.0; 32]}),
    );
    let error = read(&json).unwrap_err().to_string();
    assert_eq!(error, "`rope_scaling` in `m/config.json` has a `short_factor` of 3 numbers; it must have 32");
}

#[test]
fn reads_windows() {
    let mut json = with("model_type", json!("mistral"));
    json.remove("architectures");
    let window = |json: &Map<String, Value>, layer| read(json).unwrap().attention(layer).window;
    // Absent means 4096 to transformers, null none.
    assert_eq!(window(&json, 3), Some(4096));
    json.insert("sliding_window".into(), Value::Null);
    assert_eq!(window(&json, 3), None);
    json.insert("model_type".into(), json!("qwen2"));
    json.insert("sliding_window".into(), json!(100));
    assert_eq!(window(&json, 29), None);
    json.insert("use_sliding_window".into(), json!(true));
    json.insert("max_window_layers".into(), json!(20));
    assert_eq!([19, 20].map(|layer| window(&json, layer)), [None, Some(100)]);
    json.insert("layer_types".into(), json!(vec!["sliding_attention"; 30]));
    assert_eq!(window(&json, 19), Some(100));
    json.insert("layer_types".into(), json!(vec!["sliding_attention"; 29]));
    let error = read(&json).unwrap_err().to_string();
    assert_eq!(error, "`layer_types` in `m/config.json` names 29 layers, but there are 30");
    json.insert("layer_types".into(), json!(vec!["linear_attention"; 30]));
    assert!(read(&json).unwrap_err().to_string().contains("a list of `full_attention` and `sliding_attention`"));
}

#[test]
fn passes_over_what_is_no_arithmetic_and_nothing_else() {
    for harmless in ["_attn_implementation_autoset", "is_llama_config", "unsloth_fixed", "transformers_version"] {
        assert_eq!(read(&with(harmless, json!("4.57"))).unwrap(), read(&smollm2()).unwrap());
    }
    // Keys of published models: Phi-4-mini's first three, SmolLM3's fourth, which transformers computes nothing by.
    let published = [("full_attn_mod", 1), ("interpolate_factor", 1), ("embd_pdrop", 0), ("pretraining_tp", 2)];
    for (key, value) in published {
        assert_eq!(read(&with(key, json!(value))).unwrap(), read(&smollm2()).unwrap(), "{key}");
    }
    // What is switched off asks for nothing.
    assert!(read(&with("use_qk_norm", json!(false))).is_ok());
    assert!(read(&with("lm_head_bias", json!(false))).is_ok());
    for key in ["use_qk_norm", "attn_temperature_scale", "num_local_experts", "clip_qkv", "lm_head_bias"] {
        let error = read(&with(key, json!(8))).unwrap_err().to_string();
        let problem = "is 8, but no key that the decoder knows, and ignoring it might give another model";
        assert_eq!(error, format!("`{key}` in `m/config.json` {problem}"));
    }
}

#[test]
fn refuses_what_the_decoder_does_not_compute() {
    let cases = [
        ("attention_bias", json!(1), "is 1; it must be `true` or `false`"),
        (
            "hidden_act",
            json!("gelu"),
            "is \"gelu\", which is not supported; the decoder needs `silu` or `gelu_pytorch_tanh`",
        ),
        (
            "rope_parameters",
            json!({"rope_type": "llama3", "rope_theta": 1e5, "factor": 8.0}),
            "`rope_parameters.low_freq_factor` in `m/config.json` is missing",
        ),
        ("rope_scaling", json!({"type": "linear", "factor": -2.0}), "has a `factor` of -2; it must be positive"),
        ("partial_rotary_factor", json!(0.5), "is 0.5, which is not supported; the decoder needs 1"),
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
    let error = read(&json).unwrap_err().to_string();
    assert_eq!(error, "`model_type` in `m/config.json` and `architectures` name two different models");
    json.insert("model_type".into(), json!("mamba"));
    let expected = "`m/config.json` describes a model of the architecture `mamba`, which is not supported; choose \
                    one of llama, mistral, qwen2, qwen3, gemma2, gemma3_text, phi3, smollm3, olmo2, granite";
    assert_eq!(read(&json).unwrap_err().to_string(), expected);
    json.remove("model_type");
    assert!(read(&json).is_ok());
    json.insert("architectures".into(), json!(["GPT2LMHeadModel"]));
    assert!(read(&json).unwrap_err().to_string().contains("`GPT2LMHeadModel`"));
    json.remove("architectures");
    assert!(read(&json).unwrap_err().to_string().contains("`model_type`"));
}

prop_compose! {
    /// The dimensions and constants that all families have.
    fn plain()(
        kv in 1_usize..9, group in 1_usize..9, half_head in 1_usize..70, layers in 1_usize..50,
        vocab in 1_usize..200_000, hidden in 1_usize..9000, inner in 1_usize..9000, positions in 1_usize..200_000,
        eps in 1e-9_f32..1e-2, theta in 1.0_f64..1e9, tied in any::<bool>(),
    ) -> DecoderConfig {
        DecoderConfig {
            vocab_size: vocab, hidden_size: hidden, intermediate_size: inner, num_layers: layers,
            num_heads: kv * group, num_kv_heads: kv, head_dim: 2 * half_head, rms_norm_eps: eps, rope_theta: theta,
            max_positions: positions, tie_word_embeddings: tied, ..DecoderConfig::default()
        }
    }
}

/// Scalings that every family can have.
fn rope_scaling() -> impl Strategy<Value = RopeScaling> {
    let (factor, turns) = (1.0..64.0_f64, 0.5..2.0_f64);
    prop_oneof![
        Just(RopeScaling::None),
        factor.clone().prop_map(|factor| RopeScaling::Linear { factor }),
        factor.clone().prop_map(|factor| RopeScaling::Dynamic { factor }),
        (factor.clone(), turns.clone(), 1..100_000_usize).prop_map(|(factor, low, original_positions)| {
            RopeScaling::Llama3 { factor, low_freq_factor: low, high_freq_factor: 4.0 * low, original_positions }
        }),
        (factor, turns, any::<bool>(), 1..100_000_usize).prop_map(|(factor, turns, truncate, original_positions)| {
            RopeScaling::Yarn {
                factor,
                beta_fast: 32.0 * turns,
                beta_slow: turns,
                truncate,
                original_positions,
                attention_factor: 1.0 + turns,
            }
        }),
    ]
}

/// A configuration of `family` with some of what sets it apart.
fn of_family(
    family: Family,
    plain: DecoderConfig,
    scaling: RopeScaling,
    some: [bool; 2],
    window: usize,
) -> DecoderConfig {
    let layers = plain.num_layers;
    let alternating = || (0..layers).map(|layer| LayerKind { windowed: layer % 2 == 0, rotary: true }).collect();
    let biases = Biases { qkv: some[0], o: some[0], mlp: false };
    let base = DecoderConfig { family, rope_scaling: scaling, ..plain };
    match family {
        Family::Llama => DecoderConfig { biases: Biases { mlp: some[1], ..biases }, ..base },
        Family::Mistral => DecoderConfig { sliding_window: some[0].then_some(window), ..base },
        Family::Qwen2 => DecoderConfig {
            biases: Biases { qkv: true, ..Biases::default() },
            sliding_window: some[0].then_some(window),
            layer_kinds: if some[0] { alternating() } else { Vec::new() },
            ..base
        },
        Family::Qwen3 => DecoderConfig { biases, head_norm: Some(HeadNorm::Each), ..base },
        Family::Gemma2 | Family::Gemma3 => {
            let gemma2 = family == Family::Gemma2;
            DecoderConfig {
                activation: Activation::GeluTanh,
                norm_offset: 1.0,
                norm_position: NormPosition::Around,
                head_norm: (!gemma2).then_some(HeadNorm::Each),
                embedding_multiplier: (base.hidden_size as f64).sqrt() as f32,
                attention_scale: Some((window as f64).powf(-0.5) as f32),
                attention_softcap: (gemma2 && some[0]).then_some(50.0),
                logit_scale: LogitScale { multiplier: 1.0, softcap: some[1].then_some(30.0) },
                sliding_window: Some(window),
                layer_kinds: alternating(),
                local_rope_theta: (!gemma2).then_some(1e4),
                ..base
            }
        }
        Family::Phi3 => {
            let dim = base.rotary_dim() / 2;
            let long_rope = RopeScaling::LongRope {
                short_factor: (0..dim).map(|i| 1.0 + i as f64).collect(),
                long_factor: vec![3.0; dim],
                original_positions: base.max_positions,
                long_positions: 4 * base.max_positions,
                attention_factor: 1.25,
            };
            let rope_scaling = if some[1] { long_rope } else { RopeScaling::None };
            DecoderConfig { sliding_window: some[0].then_some(window), rope_scaling, ..base }
        }
        Family::SmolLm3 => DecoderConfig {
            sliding_window: some[0].then_some(window),
            layer_kinds: (0..layers)
                .map(|at| LayerKind { windowed: some[0] && at % 4 == 3, rotary: at % 4 != 3 })
                .collect(),
            ..base
        },
        Family::Olmo2 => {
            DecoderConfig { norm_position: NormPosition::After, head_norm: Some(HeadNorm::All), biases, ..base }
        }
        Family::Granite => DecoderConfig {
            attention_scale: Some(0.015625),
            embedding_multiplier: 12.0,
            residual_multiplier: 0.22,
            logit_scale: LogitScale { multiplier: 1.0 / window as f32, softcap: None },
            ..base
        },
    }
}

proptest! {
    #[test]
    fn every_family_survives_a_round_trip(
        family in prop::sample::select(&Family::ALL[..]),
        plain in plain(),
        scaling in rope_scaling(),
        some in any::<[bool; 2]>(),
        window in 1_usize..5000,
    ) {
        let config = of_family(family, plain, scaling, some, window);
        prop_assert_eq!(config.validate(), Ok(()));
        let ids = SpecialIds { bos: Some(7), eos: vec![3, 5], pad: None };
        let text = serde_json::to_string(&config.to_json(SaveDtype::F32, &ids)).unwrap();
        let json: Map<String, Value> = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(read(&json).unwrap(), config);
        prop_assert_eq!(SpecialIds::from_json(&json), ids);
    }
}

/// What may stand behind a key.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (0_u64..5000).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z_]{0,12}".prop_map(Value::from),
        prop::sample::select(vec!["linear", "yarn", "longrope", "llama3", "sliding_attention", "silu"])
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 6, |inner| {
        let keys =
            prop::sample::select(vec!["rope_type", "factor", "rope_theta", "full_attention", "short_factor", "x"]);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((keys, inner), 0..6).prop_map(|pairs| {
                Value::Object(pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
            }),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Damaged files of every family: an error is as good as a configuration, and a configuration can be laid out.
    #[test]
    fn damage_is_an_error_and_no_panic(
        family in prop::sample::select(&Family::ALL[..]),
        plain in plain(),
        scaling in rope_scaling(),
        some in any::<[bool; 2]>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any_json()), 1..4),
    ) {
        let small = DecoderConfig { num_layers: plain.num_layers.min(4), ..plain };
        let mut json = of_family(family, small, scaling, some, 7).to_json(SaveDtype::F32, &SpecialIds::default());
        for (at, value) in changes {
            let key = json.keys().nth(at.index(json.len())).unwrap().clone();
            json.insert(key, value);
        }
        if let Ok(config) = read(&json) {
            prop_assert_eq!(config.validate(), Ok(()));
            prop_assert!(!config.layout().is_empty());
            prop_assert!(config.rope_scaling.frequencies(config.rope_theta, config.rotary_dim()).iter().all(|f| !f.is_nan()));
            let _ = read(&config.to_json(SaveDtype::F32, &SpecialIds::default())).unwrap();
        }
    }
}
