//! A writer of GGUF files and the block encoders, for tests.

use half::f16;

use super::SaveType;
use super::write::put_string as string;
use super::{GgmlType, Value};

/// Encodes whole blocks; the inverse of decoding up to the quantisation error.
pub(crate) fn encode(kind: GgmlType, values: &[f32]) -> Vec<u8> {
    let half = |x: f32| f16::from_f32(x).to_le_bytes();
    let mut out = Vec::new();
    match kind {
        GgmlType::F32 => SaveType::F32.encode(values, &mut out),
        GgmlType::F16 => SaveType::F16.encode(values, &mut out),
        GgmlType::BF16 => SaveType::BF16.encode(values, &mut out),
        GgmlType::Q8_0 => SaveType::Q8_0.encode(values, &mut out),
        GgmlType::Q4_0 => {
            for block in values.chunks(32) {
                let extreme = block.iter().copied().fold(0.0_f32, |m, x| if x.abs() > m.abs() { x } else { m });
                let d = extreme / -8.0;
                out.extend(half(d));
                pack(&mut out, block, |x| quantise(x / d + 8.0, 0.0, 15.0) as u8);
            }
        }
        GgmlType::Q4_1 => {
            for block in values.chunks(32) {
                let min = block.iter().copied().fold(f32::INFINITY, f32::min);
                let max = block.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let d = (max - min) / 15.0;
                out.extend(half(d));
                out.extend(half(min));
                pack(&mut out, block, |x| quantise((x - min) / d, 0.0, 15.0) as u8);
            }
        }
        _ => unreachable!("blocks of {kind:?} come from golden files"),
    }
    out
}

/// Rounds and clamps; a block of equal elements has scale 0 and any code will do.
fn quantise(x: f32, low: f32, high: f32) -> f32 {
    if x.is_nan() { 0.0 } else { x.round().clamp(low, high) }
}

fn pack(out: &mut Vec<u8>, block: &[f32], code: impl Fn(f32) -> u8) {
    out.extend((0..16).map(|j| code(block[j]) | code(block[j + 16]) << 4));
}

/// Builds a GGUF version 3 file in memory.
#[derive(Default)]
pub(crate) struct Writer {
    keys: Vec<u8>,
    key_count: u64,
    table: Vec<u8>,
    tensor_count: u64,
    data: Vec<u8>,
}

impl Writer {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn value(mut self, key: &str, value: Value) -> Self {
        string(&mut self.keys, key);
        let out = &mut self.keys;
        let kind = |out: &mut Vec<u8>, kind: u32| out.extend(kind.to_le_bytes());
        let array = |out: &mut Vec<u8>, element: u32, n: usize| {
            kind(out, 9);
            kind(out, element);
            out.extend((n as u64).to_le_bytes());
        };
        match value {
            Value::Int(x) => {
                kind(out, 11);
                out.extend(x.to_le_bytes());
            }
            Value::Float(x) => {
                kind(out, 12);
                out.extend(x.to_le_bytes());
            }
            Value::Bool(x) => {
                kind(out, 7);
                out.push(x.into());
            }
            Value::String(x) => {
                kind(out, 8);
                string(out, &x);
            }
            Value::Ints(list) => {
                array(out, 5, list.len());
                out.extend(list.iter().flat_map(|&x| (x as i32).to_le_bytes()));
            }
            Value::Floats(list) => {
                array(out, 6, list.len());
                out.extend(list.iter().flat_map(|&x| (x as f32).to_le_bytes()));
            }
            Value::Bools(list) => {
                array(out, 7, list.len());
                out.extend(list.iter().map(|&x| u8::from(x)));
            }
            Value::Strings(list) => {
                array(out, 8, list.len());
                list.iter().for_each(|x| string(out, x));
            }
        }
        self.key_count += 1;
        self
    }

    /// A row of the tensor table as it stands in the file: dimensions fastest first, offset from the weights' start.
    pub(crate) fn raw_tensor(mut self, name: &str, kind: u32, dimensions: &[u64], offset: u64) -> Self {
        string(&mut self.table, name);
        self.table.extend((dimensions.len() as u32).to_le_bytes());
        self.table.extend(dimensions.iter().flat_map(|n| n.to_le_bytes()));
        self.table.extend(kind.to_le_bytes());
        self.table.extend(offset.to_le_bytes());
        self.tensor_count += 1;
        self
    }

    /// A tensor of row-major `shape`.
    pub(crate) fn tensor(self, name: &str, kind: GgmlType, shape: &[usize], values: &[f32]) -> Self {
        assert_eq!(shape.iter().product::<usize>(), values.len());
        self.encoded(name, kind, shape, &encode(kind, values))
    }

    /// A tensor of row-major `shape` from its blocks.
    pub(crate) fn encoded(mut self, name: &str, kind: GgmlType, shape: &[usize], blocks: &[u8]) -> Self {
        self.data.resize(self.data.len().next_multiple_of(32), 0);
        let offset = self.data.len() as u64;
        self.data.extend(blocks);
        let dimensions: Vec<u64> = shape.iter().rev().map(|&n| n as u64).collect();
        self.raw_tensor(name, kind.number(), &dimensions, offset)
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(3_u32.to_le_bytes());
        out.extend(self.tensor_count.to_le_bytes());
        out.extend(self.key_count.to_le_bytes());
        out.extend(self.keys);
        out.extend(self.table);
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(self.data);
        out
    }
}

/// A file with the settings of `config` and no tensors yet.
pub(crate) fn llama_keys(config: &crate::config::DecoderConfig) -> Writer {
    let int = |n: usize| Value::Int(n as i64);
    Writer::new()
        .value("general.architecture", Value::String("llama".into()))
        .value("llama.embedding_length", int(config.hidden_size))
        .value("llama.feed_forward_length", int(config.intermediate_size))
        .value("llama.block_count", int(config.num_layers))
        .value("llama.attention.head_count", int(config.num_heads))
        .value("llama.attention.head_count_kv", int(config.num_kv_heads))
        .value("llama.attention.key_length", int(config.head_dim))
        .value("llama.rope.dimension_count", int(config.head_dim))
        .value("llama.attention.layer_norm_rms_epsilon", Value::Float(config.rms_norm_eps.into()))
        .value("llama.rope.freq_base", Value::Float(config.rope_theta))
        .value("llama.context_length", int(config.max_positions))
}

/// The characters that stand for the 256 bytes in byte-level vocabularies: printable ones for themselves, the others
/// moved behind U+0100 in order.
pub(crate) fn byte_characters() -> Vec<String> {
    let mut moved = 0x100;
    let mut next = || {
        moved += 1;
        char::from_u32(moved - 1).unwrap()
    };
    let printable = |b: u8| matches!(b, 33..=126 | 161..=172 | 174..=255);
    (0..=255).map(|b| if printable(b) { char::from(b) } else { next() }.to_string()).collect()
}

/// Adds the tokenizer that [`crate::testing::byte_tokenizer`] describes.
pub(crate) fn byte_vocabulary_keys(writer: Writer) -> Writer {
    let mut tokens = byte_characters();
    tokens.extend(["<|endoftext|>", "<|im_start|>", "<|im_end|>", "th", "the"].map(String::from));
    let types = (0..tokens.len()).map(|id| if (256..259).contains(&id) { 3 } else { 1 }).collect();
    writer
        .value("tokenizer.ggml.model", Value::String("gpt2".into()))
        .value("tokenizer.ggml.pre", Value::String("smollm".into()))
        .value("tokenizer.ggml.tokens", Value::Strings(tokens))
        .value("tokenizer.ggml.token_type", Value::Ints(types))
        .value("tokenizer.ggml.merges", Value::Strings(vec!["t h".into(), "th e".into()]))
        .value("tokenizer.ggml.bos_token_id", Value::Int(257))
        .value("tokenizer.ggml.eos_token_id", Value::Int(256))
        .value("tokenizer.ggml.add_bos_token", Value::Bool(false))
}
