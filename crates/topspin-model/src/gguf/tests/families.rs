//! Models of every architecture: golden files, and files that ask for something else.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use safetensors::SafeTensors;
use topspin_kernels::cpu::Cpu;
use topspin_kernels::device::Use;
use topspin_kernels::gemm::Precision;

use super::super::tensors::{gguf_name, is_interleaved};
use super::super::testing::{Writer, llama_keys};
use super::super::{GgmlType, Gguf, Value};
use super::golden;
use crate::batch::Batch;
use crate::checkpoint::{Checkpoint, SaveDtype};
use crate::config::{DecoderConfig, Family, RopeScaling, SpecialIds};
use crate::decoder::{Decoder, Keep, Tape};
use crate::error::ModelError;
use crate::testing::{random_parameters, small_config, tiny_config};

/// A GGUF file as llama.cpp's conversion writes it, and the folder it was made from (`scripts/oracle/gguf_families.py`).
pub(super) struct Golden {
    pub name: String,
    pub gguf: Gguf,
    /// Of the folder, with the changes that the file's conventions ask for.
    pub config: DecoderConfig,
}

impl Golden {
    pub fn all() -> Vec<Self> {
        let files = fs::read_dir(golden("gguf-families")).unwrap().map(|file| file.unwrap().path());
        let ggufs = files.filter(|path| path.extension().is_some_and(|extension| extension == "gguf"));
        let read = |path: PathBuf| Self {
            name: path.file_stem().unwrap().to_string_lossy().into(),
            gguf: Gguf::open(&path).unwrap(),
            config: DecoderConfig::read(&path.with_extension("json")).unwrap(),
        };
        ggufs.map(read).collect()
    }

    fn folder(&self) -> PathBuf {
        golden("families").join(&self.name)
    }

    pub fn parameters(&self) -> Vec<f32> {
        let config = self.gguf.config().unwrap();
        let mut parameters = vec![f32::NAN; config.layout().len()];
        self.gguf.read_parameters(&config, &mut parameters).unwrap();
        parameters
    }
}

/// Each number of one within `tolerance` of the other's, relative to it.
fn close(a: &[f32], b: &[f32], tolerance: f32) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() <= tolerance * b.abs())
}

#[test]
fn settings_are_those_of_the_folder() {
    let goldens = Golden::all();
    assert_eq!(goldens.len(), 12);
    for Golden { name, gguf, config } in goldens {
        let found = gguf.config().unwrap();
        let frequencies =
            |config: &DecoderConfig| config.rope_scaling.frequencies(config.rope_theta, config.rotary_dim());
        // Scalings have more than one name, and the file has them in f32.
        assert!(close(&frequencies(&found), &frequencies(&config), 1e-6), "{name}: {found:?}");
        let factors = [&found, &config].map(|config| config.rope_scaling.attention_factor());
        assert!(close(&factors[..1], &factors[1..], 1e-6), "{name}: {factors:?}");
        assert_eq!(found.rope_scaling == RopeScaling::None, config.rope_scaling == RopeScaling::None, "{name}");
        assert_eq!(DecoderConfig { rope_scaling: config.rope_scaling.clone(), ..found }, config, "{name}");
    }
}

#[test]
fn settings_survive_a_hugging_face_folder() {
    for Golden { name, gguf, .. } in Golden::all() {
        let config = gguf.config().unwrap();
        let json = config.to_json(SaveDtype::F32, &SpecialIds::default());
        assert_eq!(DecoderConfig::from_json(Path::new("config.json"), &json).unwrap(), config, "{name}");
    }
}

#[test]
fn parameters_are_those_of_the_folder() {
    for golden in Golden::all() {
        let Golden { name, config, .. } = &golden;
        let found = golden.parameters();
        // The folder's own settings: it may have a head that the file lacks.
        let theirs = DecoderConfig::read(&golden.folder().join("config.json")).unwrap().layout();
        let mut expected = vec![f32::NAN; theirs.len()];
        Checkpoint::open(&golden.folder()).unwrap().read_parameters(&theirs, &mut expected).unwrap();
        for entry in config.layout().entries() {
            let expected = &expected[theirs.get(&entry.name).unwrap().range()];
            let found = &found[entry.range()];
            // One is added and taken away again.
            let rounding =
                if config.norm_offset != 0.0 && entry.name.ends_with("norm.weight") { f32::EPSILON } else { 0.0 };
            let same = found.iter().zip(expected).all(|(a, b)| (a - b).abs() <= rounding * b.abs().max(1.0));
            assert!(same, "{name}: {}", entry.name);
        }
    }
}

#[test]
fn logits_are_those_of_transformers() {
    let bytes = fs::read(golden("gguf-families/logits.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    for golden in Golden::all() {
        let config = golden.gguf.config().unwrap();
        let text = fs::read_to_string(golden.folder().join("expected.json")).unwrap();
        let sequences: serde_json::Value = serde_json::from_str(&text).unwrap();
        let sequences: Vec<Vec<u32>> = serde_json::from_value(sequences["sequences"].clone()).unwrap();
        let decoder = Decoder::new(Cpu::new(), config, golden.parameters().into(), Precision::F32, Use::Forward);
        let mut tape = Tape::new(decoder.device(), Keep::Nothing);
        for (at, tokens) in sequences.iter().enumerate() {
            let name = format!("{}.{at}", golden.name);
            let (quads, _) = tensors.tensor(&name).unwrap().data().as_chunks();
            let expected: Vec<f32> = quads.iter().map(|&quad| f32::from_le_bytes(quad)).collect();
            let mut batch = Batch::default();
            batch.push(tokens, &[], None, 0);
            batch.outputs = vec![tokens.len() as u32 - 1];
            let mut kv = decoder.kv(tokens.len());
            decoder.next_tokens(&batch, &mut kv, &mut tape, |_, logits, _| {
                let largest = expected.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
                let distance = logits.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / largest;
                assert!(logits.len() == expected.len() && distance < 1e-4, "{name}: {distance:e}");
            });
        }
    }
}

fn open(dir: &Path, writer: Writer) -> Gguf {
    let path = dir.join("m.gguf");
    fs::write(&path, writer.finish()).unwrap();
    Gguf::open(&path).unwrap()
}

/// As llama.cpp's conversion stores query and key rows: [heads, 2, hd/2, width] -> [heads, hd/2, 2, width].
fn interleaved(matrix: &[f32], head_dim: usize, width: usize) -> Vec<f32> {
    let mut out = Vec::new();
    for head in matrix.chunks(head_dim * width) {
        for i in 0..head_dim / 2 {
            for s in 0..2 {
                out.extend(&head[(s * head_dim / 2 + i) * width..][..width]);
            }
        }
    }
    out
}

fn with_tensors(mut writer: Writer, config: &DecoderConfig, parameters: &[f32]) -> Writer {
    for entry in config.layout().entries() {
        let values = &parameters[entry.range()];
        let name = gguf_name(&entry.name, config.norm_position);
        writer = match is_interleaved(entry, config.family) {
            true => {
                let values = interleaved(values, config.head_dim, config.hidden_size);
                writer.tensor(&name, GgmlType::F32, &entry.shape, &values)
            }
            false => writer.tensor(&name, GgmlType::F32, &entry.shape, values),
        };
    }
    writer
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn settings_and_parameters_survive(config in tiny_config(), seed in any::<u64>()) {
        let parameters = random_parameters(config.layout().len(), seed);
        let dir = tempfile::tempdir().unwrap();
        let gguf = open(dir.path(), with_tensors(llama_keys(&config), &config, &parameters));
        prop_assert_eq!(gguf.config().unwrap(), config.clone());
        let mut read = vec![f32::NAN; parameters.len()];
        gguf.read_parameters(&config, &mut read).unwrap();
        prop_assert_eq!(read, parameters);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn a_damaged_model_never_panics(file in any::<prop::sample::Index>(), at in 0_usize..3000, byte in any::<u8>()) {
        let goldens = Golden::all();
        let mut bytes = fs::read(&file.get(&goldens).gguf.path).unwrap();
        bytes[at] = byte;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.gguf");
        fs::write(&path, bytes).unwrap();
        let Ok(gguf) = Gguf::open(&path) else { return Ok(()) };
        let Ok(config) = gguf.config() else { return Ok(()) };
        if gguf.check(&config).is_ok() {
            // A tensor of another type than it was may hold anything.
            if let Err(error) = gguf.read_parameters(&config, &mut vec![0.0; config.layout().len()]) {
                prop_assert!(error.to_string().contains("which is no finite number"), "{error}");
            }
        }
    }
}

#[test]
fn names_what_does_not_fit() {
    let config = small_config(5);
    let parameters = random_parameters(config.layout().len(), 1);
    let dir = tempfile::tempdir().unwrap();
    let open = |writer: Writer| open(dir.path(), writer);
    let full = |writer: Writer| with_tensors(writer, &config, &parameters);
    let at = format!("in `{}`", dir.path().join("m.gguf").display());

    let other = full(Writer::new().value("general.architecture", Value::String("gpt2".into())));
    let error = open(other).config().unwrap_err().to_string();
    assert!(error.contains("architecture `gpt2`, which is not supported"), "{error}");

    let strange = full(llama_keys(&config).value("llama.logit_scale", Value::Float(2.0)));
    let error = open(strange).config().unwrap_err().to_string();
    assert_eq!(
        error,
        format!(
            "`llama.logit_scale` {at} is not a key that the decoder knows, and ignoring it might give another model"
        )
    );

    let check = |writer: Writer| open(writer).check(&config).unwrap_err().to_string();
    let more = full(llama_keys(&config)).tensor("cls.output.weight", GgmlType::F32, &[2], &[1.0, 8.0]);
    assert_eq!(check(more), format!("tensor `cls.output.weight` {at} is none that the decoder uses"));
    let embedding = "token_embd.weight";
    let less = llama_keys(&config).tensor(embedding, GgmlType::F32, &[5, 8], &parameters[..40]);
    assert_eq!(check(less), format!("tensor `blk.0.attn_norm.weight` {at} is missing"));
    let odd = llama_keys(&config).tensor(embedding, GgmlType::F32, &[4, 8], &parameters[..32]);
    assert_eq!(
        check(odd),
        format!("tensor `{embedding}` {at} has the shape [4, 8]; the model's settings ask for [5, 8]")
    );
}

/// The settings of a file of `architecture` with an embedding, some `keys`, and tensors of one row.
fn settings(
    architecture: &str,
    layers: usize,
    keys: &[(&str, Value)],
    rows: &[(&str, &[f32])],
) -> Result<DecoderConfig, ModelError> {
    let dimensions = [
        ("embedding_length", 12),
        ("feed_forward_length", 6),
        ("block_count", layers as i64),
        ("attention.head_count", 2),
        ("attention.key_length", 4),
        ("context_length", 64),
    ];
    let key = |name: &str| format!("{architecture}.{name}");
    let mut writer = Writer::new()
        .value("general.architecture", Value::String(architecture.into()))
        .value(&key("attention.layer_norm_rms_epsilon"), Value::Float(1e-5))
        .tensor("token_embd.weight", GgmlType::F32, &[3, 12], &random_parameters(36, 1));
    for (name, value) in dimensions {
        writer = writer.value(&key(name), Value::Int(value));
    }
    for (name, value) in keys {
        writer = writer.value(&key(name), value.clone());
    }
    for (name, row) in rows {
        writer = writer.tensor(name, GgmlType::F32, &[row.len()], row);
    }
    let dir = tempfile::tempdir().unwrap();
    open(dir.path(), writer).config()
}

fn kind(kind: &str) -> (&'static str, Value) {
    ("rope.scaling.type", Value::String(kind.into()))
}

#[test]
fn rotary_positions_are_scaled_as_llama_cpp_has_it() {
    let scaling = |architecture: &str, keys: &[(&str, Value)], rows: &[(&str, &[f32])]| {
        settings(architecture, 1, keys, rows).map(|config| config.rope_scaling)
    };
    let factor = || ("rope.scaling.factor", Value::Float(4.0));
    let linear = RopeScaling::Linear { factor: 4.0 };
    assert_eq!(scaling("qwen2", &[factor()], &[]).unwrap(), linear);
    assert_eq!(scaling("qwen2", &[kind("linear"), factor()], &[]).unwrap(), linear);
    assert_eq!(scaling("llama", &[("rope.scale_linear", Value::Float(4.0))], &[]).unwrap(), linear);
    assert_eq!(scaling("llama", &[kind("none"), factor()], &[]).unwrap(), RopeScaling::None);
    let RopeScaling::Yarn { factor: 4.0, beta_fast, beta_slow, original_positions, attention_factor, .. } = scaling(
        "qwen3",
        &[
            kind("yarn"),
            factor(),
            ("rope.scaling.original_context_length", Value::Int(16)),
            ("rope.scaling.yarn_beta_fast", Value::Float(24.0)),
            ("rope.scaling.attn_factor", Value::Float(2.0)),
        ],
        &[],
    )
    .unwrap() else {
        panic!("not YaRN")
    };
    assert_eq!((beta_fast, beta_slow, original_positions), (24.0, 1.0, 16));
    assert_eq!(attention_factor, 2.0 * (1.0 + 0.1 * 4.0_f64.ln()));

    let divisors: (&str, &[f32]) = ("rope_freqs.weight", &[1.0, 8.0]);
    for architecture in ["llama", "granite"] {
        let keys: &[_] = if architecture == "granite" { &[("logit_scale", Value::Float(8.0))] } else { &[] };
        let by_frequency = scaling(architecture, keys, &[divisors]).unwrap();
        assert_eq!(by_frequency.frequencies(1e4, 4), [1.0, 1e-2 / 8.0]);
        assert_eq!(by_frequency.attention_factor(), 1.0);
    }

    let error = |architecture: &str, keys: &[(&str, Value)], rows: &[(&str, &[f32])]| {
        scaling(architecture, keys, rows).unwrap_err().to_string()
    };
    let long = error("llama", &[], &[("rope_freqs.weight", &[1.0, 8.0, 8.0])]);
    assert!(long.contains("has the shape [3]; the model's settings ask for [2]"), "{long}");
    let half = error("phi3", &[], &[("rope_factors_short.weight", &[1.0, 8.0])]);
    assert!(half.starts_with("tensor `rope_factors_long.weight` in") && half.ends_with("is missing"), "{half}");
    let zero = error("llama", &[], &[("rope_freqs.weight", &[1.0, 0.0])]);
    assert!(zero.contains("whose numbers must be positive"), "{zero}");
    for (architecture, keys) in [
        ("llama", vec![kind("longrope")]),
        ("gemma3", vec![kind("yarn"), factor()]),
        ("phi3", vec![kind("yarn"), factor()]),
        ("phi3", vec![kind("longrope")]),
        ("qwen2", vec![kind("linear"), ("rope.scaling.attn_factor", Value::Float(2.0))]),
        ("qwen2", vec![kind("yarn"), factor(), ("rope.scaling.yarn_ext_factor", Value::Float(0.5))]),
        ("granite", vec![("rope.scaling.finetuned", Value::Bool(false)), ("logit_scale", Value::Float(8.0))]),
    ] {
        let error = error(architecture, &keys, &[]);
        assert!(error.ends_with("asks for arithmetic that the decoder does not have"), "{architecture}: {error}");
    }
}

#[test]
fn what_a_file_leaves_unsaid_is_that_of_the_published_models() {
    let windowed = |architecture: &str, layers: usize, keys: &[(&str, Value)]| -> Vec<bool> {
        let config = settings(architecture, layers, keys, &[]).unwrap();
        (0..layers).map(|layer| config.attention(layer).window.is_some()).collect()
    };
    let window = ("attention.sliding_window", Value::Int(9));
    let pattern = |value: Value| ("attention.sliding_window_pattern", value);
    assert_eq!(windowed("gemma2", 5, &[]), [true, false, true, false, true]);
    let in_sixes = windowed("gemma3", 13, std::slice::from_ref(&window));
    assert_eq!(in_sixes, (1..=13).map(|number| number % 6 != 0).collect::<Vec<_>>());
    assert_eq!(windowed("gemma3", 3, &[window.clone(), pattern(Value::Int(2))]), [true, false, true]);
    let listed = windowed("gemma3", 2, &[window.clone(), pattern(Value::Bools(vec![false, true]))]);
    assert_eq!(listed, [false, true]);
    assert_eq!(windowed("gemma3", 2, &[]), [false, false]);
    assert_eq!(windowed("phi3", 2, std::slice::from_ref(&window)), [true, true]);
    assert_eq!(windowed("phi3", 2, &[("attention.sliding_window", Value::Int(0))]), [false, false]);
    let short = settings("gemma2", 2, &[pattern(Value::Bools(vec![true]))], &[]).unwrap_err().to_string();
    assert!(short.contains("names 1 layers, but there are 2"), "{short}");
    let olmo3 = settings("olmo2", 2, &[window], &[]).unwrap_err().to_string();
    assert!(olmo3.contains("`olmo2.attention.sliding_window`"), "{olmo3}");

    let scale =
        |architecture: &str, layers: usize| settings(architecture, layers, &[], &[]).unwrap().attention_scale.unwrap();
    for (architecture, largest) in [("gemma2", 46), ("gemma3", 62)] {
        assert_eq!(scale(architecture, largest - 1), 0.5, "a head is 4 wide");
        assert_eq!(scale(architecture, largest), 6.0_f32.powf(-0.5), "two heads share 12");
    }
    let rotary = settings("smollm3", 9, &[], &[]).unwrap().layer_kinds;
    assert_eq!(
        rotary.iter().map(|kind| kind.rotary).collect::<Vec<_>>(),
        (1..=9).map(|n| n % 4 != 0).collect::<Vec<_>>()
    );

    let part = |architecture: &str, channels: i64| {
        settings(architecture, 1, &[("rope.dimension_count", Value::Int(channels))], &[])
    };
    assert_eq!(part("phi3", 2).unwrap().rotary_dim(), 2);
    assert!(part("phi3", 6).unwrap_err().to_string().contains("partial_rotary_factor"));
    assert!(part("qwen2", 2).unwrap_err().to_string().contains("it must be 4, the size of a head"));
    assert_eq!(settings("gemma2", 1, &[], &[]).unwrap().family, Family::Gemma2);
}
