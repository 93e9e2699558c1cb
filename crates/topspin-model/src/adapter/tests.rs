use std::fs;

use proptest::prelude::*;
use serde_json::json;
use topspin_kernels::rng::Rng;

use super::*;
use crate::error::ModelError;
use crate::testing::{random_parameters, small_config, tiny_config};

fn lora(targets: Targets) -> LoraConfig {
    LoraConfig::new(3, 5.0, targets)
}

fn names(names: &[&str]) -> Targets {
    Targets::Names(names.iter().map(|&name| name.into()).collect())
}

fn patterns(patterns: &[(&str, f64)]) -> Map<String, Value> {
    patterns.iter().map(|&(pattern, value)| (pattern.into(), json!(value))).collect()
}

/// Modules of a two-layer model that have an adapter, with rank and factor.
fn modules(config: LoraConfig) -> Vec<(String, usize, f32)> {
    let decoder = DecoderConfig { num_layers: 2, ..small_config(20) };
    let adapter = Adapter::new(config, &decoder).unwrap();
    let members = adapter.layers.iter().flatten().flatten().flat_map(|group| &group.members);
    let short = |module: &str| module.strip_prefix("model.layers.").unwrap().to_owned();
    members.map(|member| (short(&member.module), member.ranks.len(), member.scale)).collect()
}

#[test]
fn names_end_a_modules_name_behind_a_dot() {
    let found = modules(lora(names(&["v_proj", "1.mlp.down_proj"])));
    let expected = ["0.self_attn.v_proj", "1.self_attn.v_proj", "1.mlp.down_proj"];
    assert_eq!(found.iter().map(|(name, ..)| name.as_str()).collect::<Vec<_>>(), expected);
    assert!(found.iter().all(|&(_, rank, scale)| rank == 3 && scale == 5.0 / 3.0));
}

#[test]
fn patterns_match_whole_names_and_what_is_excluded_is_left_out() {
    let mut config = lora(Targets::Pattern(r".*\.(q|k|v)_proj".into()));
    config.exclude = Some(names(&["k_proj"]));
    config.rank_stabilized = true;
    let found = modules(config);
    let expected = ["0.self_attn.q_proj", "0.self_attn.v_proj", "1.self_attn.q_proj", "1.self_attn.v_proj"];
    assert_eq!(found.iter().map(|(name, ..)| name.as_str()).collect::<Vec<_>>(), expected);
    assert!(found.iter().all(|&(.., scale)| scale == (5.0 / 3.0f64.sqrt()) as f32));
    // A pattern that matches a part alone matches nothing.
    let decoder = small_config(20);
    let error = Adapter::new(lora(Targets::Pattern("q_proj".into())), &decoder).unwrap_err();
    assert!(matches!(error, AdapterError::NoTarget { .. }), "{error}");
}

#[test]
fn layers_and_ranks_vary_by_pattern_and_the_first_one_counts() {
    let mut config = lora(Targets::AllLinear);
    config.layers = Some(vec![1]);
    config.exclude = Some(Targets::Pattern(".*mlp.*".into()));
    config.rank_pattern = patterns(&[("1.self_attn.q_proj", 7.0), ("q_proj", 2.0), ("v_proj", 2.0)]);
    config.alpha_pattern = patterns(&[("o_proj", 12.0)]);
    let found = modules(config);
    let expected = [("q_proj", 7, 5.0 / 7.0), ("k_proj", 3, 5.0 / 3.0), ("v_proj", 2, 2.5), ("o_proj", 3, 4.0)];
    let expected = expected.map(|(name, rank, scale)| (format!("1.self_attn.{name}"), rank, scale));
    assert_eq!(found, expected);
}

#[test]
fn what_does_not_fit_the_model_is_an_error() {
    let decoder = small_config(20);
    let error = |config: LoraConfig| Adapter::new(config, &decoder).unwrap_err().to_string();
    let known = "q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj";
    let no_layer = "which is no linear layer of the model's blocks";
    assert_eq!(error(lora(names(&["lm_head"]))), format!("its targets name `lm_head`, {no_layer}; there are {known}"));
    let problem = error(lora(Targets::Pattern("(".into())));
    assert!(problem.starts_with("the pattern \"(\" of its targets is no regular expression: "), "{problem}");
    assert_eq!(error(LoraConfig { rank: 0, ..lora(Targets::AllLinear) }), "its rank is 0; it must lie in 1..=65536");
    let pattern = patterns(&[("q_proj", 1e9)]);
    let problem = error(LoraConfig { rank_pattern: pattern, ..lora(Targets::AllLinear) });
    assert_eq!(problem, "its rank_pattern has 1000000000.0 for \"q_proj\", which is out of range");
    let alpha = LoraConfig { alpha: f64::NAN, ..lora(Targets::AllLinear) };
    assert_eq!(error(alpha), "its alpha is NaN; it must be above 0");
    assert_eq!(error(LoraConfig { dropout: 1.0, ..lora(Targets::AllLinear) }), "its dropout is 1; it must lie in 0..1");
}

#[test]
fn initial_parameters_change_nothing_and_are_spread_as_pytorch_spreads_them() {
    let decoder = DecoderConfig { hidden_size: 400, ..small_config(20) };
    let adapter = Adapter::new(LoraConfig { rank: 30, ..lora(names(&["q_proj", "k_proj"])) }, &decoder).unwrap();
    let parameters = adapter.initial(3, 1);
    assert_ne!(parameters, adapter.initial(3, 2));
    assert_ne!(parameters, adapter.initial(4, 1));
    for entry in adapter.layout().entries() {
        let values = &parameters[entry.range()];
        if entry.name.ends_with("lora_B.weight") {
            assert!(values.iter().all(|&b| b == 0.0));
            continue;
        }
        // Uniform within 1 / sqrt(400); its standard deviation is 1 / sqrt(3) of that. 12,000 draws.
        let n = values.len() as f64;
        assert!(values.iter().all(|a| a.abs() <= 0.05));
        let mean = values.iter().map(|&a| f64::from(a)).sum::<f64>() / n;
        let deviation = (values.iter().map(|&a| f64::from(a).powi(2)).sum::<f64>() / n).sqrt();
        let expected = 0.05 / 3.0f64.sqrt();
        assert!(mean.abs() < 5.0 * expected / n.sqrt(), "{mean}");
        assert!((deviation / expected - 1.0).abs() < 0.03, "{deviation}");
    }
}

proptest! {
    #[test]
    fn a_saved_adapter_is_read_as_it_was(
        decoder in tiny_config(), rank in 1..5usize, alpha in 0.1f64..40.0, rank_stabilized: bool, dropout in 0.0f64..0.9,
        pattern: bool, seed: u64,
    ) {
        let targets = if pattern { Targets::Pattern(".*_proj".into()) } else { names(&["q_proj", "up_proj", "down_proj"]) };
        let config = LoraConfig { rank, alpha, rank_stabilized, dropout, ..lora(targets) };
        let adapter = Adapter::new(config, &decoder).unwrap();
        let parameters = random_parameters(adapter.layout().len(), seed);
        let dir = tempfile::tempdir().unwrap();
        save_adapter(dir.path(), &adapter, &parameters, "hf:org/name@v2").unwrap();
        let files = AdapterFiles::open(dir.path(), &decoder).unwrap();
        prop_assert_eq!(files.adapter(), &adapter);
        prop_assert_eq!(&files.parameters().unwrap()[..], &parameters[..]);
        prop_assert_eq!(AdapterFiles::base_of(dir.path()).unwrap(), "hf:org/name@v2");
    }

    /// Against sums in double precision.
    #[test]
    fn merging_adds_the_product(decoder in tiny_config(), rank in 1..5usize, seed: u64) {
        let adapter = Adapter::new(LoraConfig { rank, ..lora(names(&["k_proj", "o_proj"])) }, &decoder).unwrap();
        let layout = decoder.layout();
        let uniform = |len: usize, seed: u64| {
            let mut rng = Rng::new(seed, "a test", 0);
            (0..len).map(|_| 2.0 * rng.uniform_f32() - 1.0).collect::<Vec<_>>()
        };
        let (parameters, model) = (uniform(adapter.layout().len(), seed), uniform(layout.len(), seed ^ 1));
        let mut merged = model.clone();
        adapter.merge_into(&parameters, &decoder, &mut merged);
        for entry in layout.entries() {
            let module = entry.name.strip_suffix(".weight").unwrap();
            let part = |kind: &str| adapter.layout().get(&format!("{PREFIX}{module}.lora_{kind}.weight"));
            let (Some(a), Some(b)) = (part("A"), part("B")) else {
                prop_assert_eq!(&merged[entry.range()], &model[entry.range()]);
                continue;
            };
            let (a, b, width) = (&parameters[a.range()], &parameters[b.range()], entry.shape[1]);
            for (at, (&merged, &before)) in merged[entry.range()].iter().zip(&model[entry.range()]).enumerate() {
                let (row, column) = (at / width, at % width);
                let terms = (0..rank).map(|i| f64::from(b[row * rank + i]) * f64::from(a[i * width + column]));
                let expected = f64::from(before) + 5.0 / rank as f64 * terms.sum::<f64>();
                prop_assert!((f64::from(merged) - expected).abs() < 1e-5, "{merged}, not {expected}");
            }
        }
    }
}

/// What the reader says of a file of settings.
fn problem_of(change: impl FnOnce(&mut Map<String, Value>)) -> String {
    let dir = tempfile::tempdir().unwrap();
    let decoder = small_config(20);
    let adapter = Adapter::new(lora(names(&["q_proj"])), &decoder).unwrap();
    save_adapter(dir.path(), &adapter, &random_parameters(adapter.layout().len(), 1), "base").unwrap();
    let path = dir.path().join("adapter_config.json");
    let mut object: Map<String, Value> = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    change(&mut object);
    fs::write(&path, Value::Object(object).to_string()).unwrap();
    let error: ModelError = AdapterFiles::open(dir.path(), &decoder).map(|files| files.parameters()).unwrap_err();
    error.to_string().replace(&dir.path().display().to_string(), "")
}

#[test]
fn settings_that_ask_for_other_arithmetic_are_refused() {
    let set = |key: &str, value: Value| problem_of(|object| drop(object.insert(key.into(), value)));
    let unsupported = |key: &str, value: &str| {
        let only = "only LoRA as such and rank-stabilised LoRA are";
        format!("`{key}` in `/adapter_config.json` is {value}, which is not supported; {only}")
    };
    assert_eq!(set("use_dora", json!(true)), unsupported("use_dora", "true"));
    assert_eq!(set("modules_to_save", json!(["lm_head"])), unsupported("modules_to_save", "[\"lm_head\"]"));
    assert_eq!(set("a_new_idea", json!(3)), unsupported("a_new_idea", "3"));
    let wanted = "is \"IA3\"; it must be \"LORA\", the kind of adapter that is supported";
    assert_eq!(set("peft_type", json!("IA3")), format!("`peft_type` in `/adapter_config.json` {wanted}"));
    let wanted = "is \"all\"; only adapters without biases of their own are supported";
    assert_eq!(set("bias", json!("all")), format!("`bias` in `/adapter_config.json` {wanted}"));
    let wanted = "is -1; it must be a whole number above 0";
    assert_eq!(set("r", json!(-1)), format!("`r` in `/adapter_config.json` {wanted}"));
    let wanted = "its targets name `lm_head`, which is no linear layer of the model's blocks; there are";
    let found = set("target_modules", json!(["lm_head"]));
    assert!(found.starts_with(&format!("cannot use the adapter of `/adapter_config.json`: {wanted} ")), "{found}");
    // The weights are of another rank than the settings.
    let wanted = "has the shape [3, 8]; `adapter_config.json` asks for [1000, 8]";
    let tensor = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";
    assert_eq!(set("r", json!(1000)), format!("tensor `{tensor}` in `/adapter_model.safetensors` {wanted}"));
}

#[test]
fn settings_that_are_off_are_passed_over() {
    let error = problem_of(|object| {
        object.insert("use_dora".into(), json!(false));
        object.insert("eva_config".into(), json!({}));
        object.insert("another_new_idea".into(), Value::Null);
        // What is wrong after all.
        object.insert("lora_dropout".into(), json!("much"));
    });
    assert_eq!(error, "`lora_dropout` in `/adapter_config.json` is \"much\"; it must be a number");
}
