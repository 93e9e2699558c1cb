//! Files that are written: held to golden ones of llama.cpp's conversion and of the `gguf` package, and read back.

use std::path::PathBuf;

use safetensors::SafeTensors;

use super::super::testing::Writer;
use super::super::tokenizer::describe;
use super::super::*;
use super::families::Golden;
use super::golden;
use crate::chat::Message;
use crate::config::{DecoderConfig, Family};
use crate::dialect::Dialect;
use crate::testing::random_parameters;

/// Letters and three special tokens, fewer than the 61 ids of the golden models.
pub(super) fn letters() -> Dialect {
    let mut tokens: Vec<String> = ('a'..='z').chain(['Ġ', 'Ċ']).map(String::from).collect();
    tokens.extend(["th", "<s>", "</s>", "<user>"].map(String::from));
    let mut types = vec![1; tokens.len()];
    types[29..].copy_from_slice(&[3, 3, 4]);
    let template = "{% for m in messages %}{{ '<user>' + m.content + '</s>' }}{% endfor %}";
    let bytes = Writer::new()
        .value(keys::TOKENIZER, Value::String("gpt2".into()))
        .value(keys::PRE_TOKENIZER, Value::String("qwen2".into()))
        .value(keys::TOKENS, Value::Strings(tokens))
        .value(keys::TOKEN_TYPES, Value::Ints(types))
        .value(keys::MERGES, Value::Strings(vec!["t h".into()]))
        .value(keys::BOS, Value::Int(29))
        .value(keys::ENDS[0], Value::Int(30))
        .value(keys::TEMPLATE, Value::String(template.into()))
        .finish();
    read_dialect(&Gguf::parse(Path::new("letters"), &mut &bytes[..], bytes.len() as u64).unwrap()).unwrap()
}

/// A file with these parameters, opened.
fn written(config: &DecoderConfig, parameters: &[f32], save_type: SaveType) -> (tempfile::TempDir, Gguf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    GgufDraft::new(Path::new("m"), config, &letters(), save_type).unwrap().write(&path, parameters).unwrap();
    let gguf = Gguf::open(&path).unwrap();
    (dir, gguf)
}

fn elements(gguf: &Gguf, name: &str) -> Vec<f32> {
    let mut out = vec![f32::NAN; gguf.tensor(name).unwrap().elements()];
    gguf.read_f32(name, &mut out).unwrap();
    out
}

#[test]
fn tensors_and_settings_are_those_of_llama_cpps_conversion() {
    for golden in Golden::all() {
        let Golden { name, gguf, config } = &golden;
        let (_dir, ours) = written(config, &golden.parameters(), SaveType::F32);
        assert!(ours.tensors().map(|(name, _)| name).eq(gguf.tensors().map(|(name, _)| name)), "{name}");
        for (tensor, info) in gguf.tensors() {
            assert_eq!(ours.tensor(tensor).unwrap().shape, info.shape, "{name}: {tensor}");
            // Of Gemma's norms one is taken away and added again; divisors are computed in f64 here, in f32 there.
            let rounding = if tensor.contains("norm") || tensor.starts_with("rope_") { 1e-6 } else { 0.0 };
            let pairs = elements(&ours, tensor).into_iter().zip(elements(gguf, tensor));
            for (a, b) in pairs {
                assert!((a - b).abs() <= rounding * b.abs().max(1.0), "{name}: {tensor} has {a} for {b}");
            }
        }
        let number = |value: &Value| match value {
            Value::Int(n) => Some(*n as f64),
            Value::Float(x) => Some(*x),
            _ => None,
        };
        let said = gguf.metadata().filter(|(key, _)| !key.starts_with("general.") && !key.starts_with("tokenizer."));
        for (key, theirs) in said {
            let ours = ours.value(key).unwrap_or_else(|| panic!("{name}: `{key}` is missing"));
            match (number(ours), number(theirs)) {
                (Some(a), Some(b)) => assert!((a - b).abs() <= 1e-6 * b.abs(), "{name}: `{key}` is {a} for {b}"),
                _ => assert_eq!(ours, theirs, "{name}: `{key}`"),
            }
        }
    }
}

/// What of each family's golden model a file has no place for, if anything.
const REFUSED: [(&str, &str); 9] = [
    ("gemma2", "the factor of the model's attention scores"),
    ("gemma3", "the factor of the model's attention scores"),
    ("gemma3-scaled", "the factor of the model's attention scores"),
    ("gemma3-yarn", "rotary positions scaled as `yarn`"),
    ("llama-dynamic", "rotary positions scaled as `dynamic`"),
    ("mistral-window", "the model's sliding window"),
    ("qwen2-window", "the model's sliding window"),
    ("smollm3", "the layers that lack rotary positions, but for every fourth one"),
    ("smollm3-window", "the model's sliding window"),
];

fn families() -> Vec<(String, DecoderConfig)> {
    let folders = std::fs::read_dir(golden("families")).unwrap().map(|folder| folder.unwrap().path());
    let read = |path: PathBuf| {
        let config = DecoderConfig::read(&path.join("config.json")).unwrap();
        (path.file_name().unwrap().to_string_lossy().into_owned(), config)
    };
    folders.map(read).collect()
}

#[test]
fn a_model_is_read_back_to_the_bit_or_refused() {
    let mut refused = Vec::new();
    for (name, config) in families() {
        let expected = REFUSED.iter().find(|(refused, _)| *refused == name);
        let draft = GgufDraft::new(Path::new("m"), &config, &letters(), SaveType::F32);
        if let Some((_, what)) = expected {
            let problem = draft.map(|_| ()).unwrap_err().to_string();
            let (head, tail) = ("cannot export `m` as GGUF: ", "; export a Hugging Face folder");
            assert!(
                problem.starts_with(head) && problem.contains(what) && problem.ends_with(tail),
                "{name}: {problem}"
            );
            refused.push(name);
            continue;
        }
        let parameters = random_parameters(config.layout().len(), 5);
        let (_dir, gguf) = written(&config, &parameters, SaveType::F32);
        let found = gguf.config().unwrap();
        let mut read = vec![f32::NAN; parameters.len()];
        gguf.read_parameters(&found, &mut read).unwrap();
        assert_eq!(config.norm_offset, 0.0, "{name}");
        assert_eq!(read, parameters, "{name}");
        let family = if config.family == Family::Mistral { Family::Llama } else { config.family };
        assert_eq!(found.family, family, "{name}");
        let frequencies =
            |config: &DecoderConfig| config.rope_scaling.frequencies(config.rope_theta, config.rotary_dim());
        let close = frequencies(&found).into_iter().zip(frequencies(&config)).all(|(a, b)| (a - b).abs() <= 1e-6 * b);
        assert!(close, "{name}");
    }
    assert_eq!(refused.len(), REFUSED.len());

    // What a file could say, but llama.cpp does not open.
    let (_, gemma2) = families().into_iter().find(|(name, _)| name == "gemma2").unwrap();
    let scale = Some((gemma2.head_dim as f32).powf(-0.5));
    let gemma2 = DecoderConfig { attention_scale: scale, tie_word_embeddings: false, ..gemma2 };
    let error = GgufDraft::new(Path::new("m"), &gemma2, &letters(), SaveType::F32).unwrap_err().to_string();
    assert!(error.contains("`gemma2` of that format has no place for an output head beside the embedding"), "{error}");
}

/// Bytes that the `gguf` package makes of the same numbers (`scripts/oracle/gguf_blocks.py`).
#[test]
fn blocks_are_those_of_the_gguf_package() {
    let bytes = std::fs::read(golden("gguf-blocks/encoded.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let (quads, _) = tensors.tensor("values").unwrap().data().as_chunks();
    let values: Vec<f32> = quads.iter().map(|&quad| f32::from_le_bytes(quad)).collect();
    for save_type in [SaveType::F16, SaveType::BF16, SaveType::Q8_0] {
        let mut encoded = Vec::new();
        save_type.encode(&values, &mut encoded);
        let expected = tensors.tensor(&format!("{save_type:?}")).unwrap();
        assert_eq!(encoded.len(), expected.data().len(), "{save_type:?}");
        let wrong = encoded.iter().zip(expected.data()).position(|(a, b)| a != b);
        assert_eq!(wrong, None, "{save_type:?}");
    }
}

#[test]
fn rows_that_blocks_do_not_divide_are_halves_and_vectors_stay_as_they_are() {
    let (_, config) = families().into_iter().find(|(name, _)| name == "qwen3").unwrap();
    let draft = GgufDraft::new(Path::new("m"), &config, &letters(), SaveType::Q8_0).unwrap();
    assert_eq!(draft.kept_as_f16(), config.num_layers, "those of 40 elements");
    let parameters = random_parameters(config.layout().len(), 6);
    let (_dir, gguf) = written(&config, &parameters, SaveType::Q8_0);
    let kind = |name: &str| gguf.tensor(name).unwrap().kind;
    assert_eq!(kind("blk.0.ffn_down.weight"), GgmlType::F16);
    assert_eq!(kind("blk.0.ffn_up.weight"), GgmlType::Q8_0);
    assert_eq!(kind("token_embd.weight"), GgmlType::Q8_0);
    assert_eq!(kind("blk.0.attn_q_norm.weight"), GgmlType::F32);

    let mut large = parameters;
    let place = config.layout().get("model.layers.0.mlp.down_proj.weight").unwrap().offset;
    large[place] = -1e5;
    let error = draft.write(Path::new("never written"), &large).unwrap_err().to_string();
    assert_eq!(
        error,
        "tensor `model.layers.0.mlp.down_proj.weight` in `m` has the element -100000, which F16 cannot hold; choose bf16 \
         or f32"
    );
}

#[test]
fn tokenizer_and_template_are_read_back() {
    let (_, config) = families().into_iter().find(|(name, _)| name == "olmo2").unwrap();
    let (_dir, gguf) = written(&config, &random_parameters(config.layout().len(), 7), SaveType::F16);
    let (ours, theirs) = (letters(), read_dialect(&gguf).unwrap());
    assert_eq!(gguf.strings(keys::TOKENS).unwrap()[40], "[PAD40]");
    assert_eq!(gguf.value(keys::PRE_TOKENIZER), Some(&Value::String("qwen2".into())));
    assert_eq!(gguf.value(keys::ADD_BOS), Some(&Value::Bool(false)));
    assert_eq!(ours.template().unwrap().source(), theirs.template().unwrap().source());
    let prompt = |dialect: &Dialect| dialect.encode_prompt(&[Message::new("user", "the path")]).unwrap();
    assert_eq!(prompt(&ours), prompt(&theirs));
    assert_eq!(prompt(&theirs)[0], 31);
    assert_eq!(theirs.tokenizer().stop_ids(), [30]);
    assert_eq!(theirs.tokenizer().settings()["model_max_length"], config.max_positions);
}

/// The published kinds keep their names, but for those that several names are given to.
#[test]
fn tokenizers_are_described_as_they_were() {
    for (name, pre) in [
        ("default", "default"),
        ("gpt-2", "gpt-2"),
        ("olmo", "olmo"),
        ("refact", "smollm"),
        ("llama-bpe", "llama-bpe"),
        ("dbrx", "dbrx"),
        ("qwen2", "qwen2"),
        ("qwen35", "qwen35"),
        ("gpt-4o", "gpt-4o"),
        ("tekken", "tekken"),
        ("llama-2", "default"),
        ("gemma", "default"),
        ("no-bytes", "default"),
    ] {
        let gguf = Gguf::open(&golden("tokenizers").join(format!("{name}.gguf"))).unwrap();
        let dialect = read_dialect(&gguf).unwrap();
        let tokens = gguf.strings(keys::TOKENS).unwrap().len();
        let again = describe(&dialect, tokens).unwrap();
        assert_eq!(again[keys::PRE_TOKENIZER], Value::String(pre.into()), "{name}");
        for key in [keys::TOKENIZER, keys::TOKENS, keys::TOKEN_TYPES] {
            assert_eq!(gguf.value(key), Some(&again[key]), "{name}: {key}");
        }
        if let Some(Value::Strings(_)) = gguf.value(keys::MERGES) {
            assert_eq!(gguf.value(keys::MERGES), Some(&again[keys::MERGES]), "{name}");
        }
        let rebuilt = Gguf::draft(&gguf.path, again, []);
        tokenizer::check(&rebuilt, &dialect).unwrap();
        let texts = std::fs::read_to_string(golden("tokenizers/texts.json")).unwrap();
        let texts: Vec<String> = serde_json::from_str(&texts).unwrap();
        let rebuilt = read_dialect(&rebuilt).unwrap();
        for text in texts {
            let ids = |dialect: &Dialect| dialect.tokenizer().encode(&text).unwrap();
            assert_eq!(ids(&dialect), ids(&rebuilt), "{name}: {text:?}");
        }
    }
}
