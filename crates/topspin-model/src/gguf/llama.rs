//! What a GGUF file of the architecture `llama` means: its settings and its tensors in Hugging Face terms.

use topspin_kernels::arena::{Entry, Layout};

use super::{Gguf, Value};
use crate::config::DecoderConfig;
use crate::error::ModelError;

/// `llama.*` keys that are read below, or that change nothing in the arithmetic.
const KNOWN_KEYS: [&str; 18] = [
    "vocab_size",
    "context_length",
    "embedding_length",
    "block_count",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.layer_norm_rms_epsilon",
    "attention.key_length",
    "attention.value_length",
    "attention.causal",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scaling.type",
    "rope.scaling.original_context_length",
    "rope.scaling.finetuned",
    "expert_count",
    "expert_used_count",
];

const EMBEDDING: &str = "token_embd.weight";

impl Gguf {
    /// The decoder's dimensions. An architecture or a key that asks for other arithmetic is an error.
    pub fn config(&self) -> Result<DecoderConfig, ModelError> {
        let path = self.path.as_path();
        match self.text("general.architecture")? {
            Some("llama") => {}
            Some(other) => return Err(ModelError::Architecture { path: path.into(), found: other.into() }),
            None => return Err(ModelError::config(path, "general.architecture", "is missing")),
        }
        self.refuse_other_arithmetic()?;
        let required = |key: &str| self.count(key)?.ok_or_else(|| ModelError::config(path, key, "is missing"));
        let hidden_size = required("llama.embedding_length")?;
        let num_heads = required("llama.attention.head_count")?;
        let head_dim = match self.count("llama.attention.key_length")? {
            Some(n) => n,
            None => hidden_size.checked_div(num_heads).unwrap_or(0),
        };
        for key in ["llama.rope.dimension_count", "llama.attention.value_length"] {
            if let Some(n) = self.count(key)?
                && n != head_dim
            {
                let problem = format!("is {n}, which is not supported; it must be {head_dim}, the size of a head");
                return Err(ModelError::config(path, key, problem));
            }
        }
        let embedding = self.tensor(EMBEDDING).ok_or_else(|| ModelError::tensor(path, EMBEDDING, "is missing"))?;
        let config = DecoderConfig {
            vocab_size: embedding.shape.first().copied().unwrap_or(0),
            hidden_size,
            intermediate_size: required("llama.feed_forward_length")?,
            num_layers: required("llama.block_count")?,
            num_heads,
            num_kv_heads: self.count("llama.attention.head_count_kv")?.unwrap_or(num_heads),
            head_dim,
            rms_norm_eps: self
                .float("llama.attention.layer_norm_rms_epsilon")?
                .ok_or_else(|| ModelError::config(path, "llama.attention.layer_norm_rms_epsilon", "is missing"))?
                as f32,
            rope_theta: self.float("llama.rope.freq_base")?.unwrap_or(10_000.0),
            max_positions: required("llama.context_length")?,
            tie_word_embeddings: self.tensor("output.weight").is_none(),
            ..DecoderConfig::default()
        };
        config.validate().map_err(|e| ModelError::config(path, e.key, e.problem))?;
        Ok(config)
    }

    fn refuse_other_arithmetic(&self) -> Result<(), ModelError> {
        let refuse = |key: &str, problem: &str| Err(ModelError::config(&self.path, key, problem));
        for (key, value) in self.metadata() {
            let Some(name) = key.strip_prefix("llama.") else { continue };
            if !KNOWN_KEYS.contains(&name) {
                return refuse(key, "is not a key that the decoder knows, and ignoring it might give another model");
            }
            let plain = match name {
                "attention.causal" => *value == Value::Bool(true),
                "expert_count" | "expert_used_count" => *value == Value::Int(0),
                "rope.scaling.type" => *value == Value::String("none".into()),
                _ => true,
            };
            if !plain {
                return refuse(key, "asks for arithmetic that the decoder does not have");
            }
        }
        Ok(())
    }

    /// Checks that the file holds exactly the tensors of the layout, in their shapes.
    pub fn check(&self, layout: &Layout) -> Result<(), ModelError> {
        let mut known = Vec::with_capacity(layout.entries().len());
        for entry in layout.entries() {
            let name = gguf_name(&entry.name);
            let Some(tensor) = self.tensor(&name) else {
                return Err(ModelError::tensor(&self.path, name, "is missing"));
            };
            if tensor.shape != entry.shape {
                let problem =
                    format!("has the shape {:?}; the model's settings ask for {:?}", tensor.shape, entry.shape);
                return Err(ModelError::tensor(&self.path, name, problem));
            }
            known.push(name);
        }
        known.sort_unstable();
        match self.tensors().find(|(name, _)| known.binary_search_by(|k| k.as_str().cmp(name)).is_err()) {
            Some((name, _)) => Err(ModelError::tensor(&self.path, name, "is none that the decoder uses")),
            None => Ok(()),
        }
    }

    /// Decodes all parameters into the arena `out`, laid out by [`DecoderConfig::layout`] of `config`.
    ///
    /// # Panics
    /// If `out` is not of the arena's size.
    pub fn read_parameters(&self, config: &DecoderConfig, out: &mut [f32]) -> Result<(), ModelError> {
        let layout = config.layout();
        assert_eq!(out.len(), layout.len(), "elements of the parameter arena");
        self.check(&layout)?;
        let mut scratch = vec![0.0; config.head_dim * config.hidden_size];
        for entry in layout.entries() {
            let tensor = &mut out[entry.range()];
            self.read_f32(&gguf_name(&entry.name), tensor)?;
            if is_rotated(entry) {
                for head in tensor.chunks_exact_mut(scratch.len()) {
                    deinterleave(head, &mut scratch, config.hidden_size);
                }
            }
        }
        Ok(())
    }
}

/// Query and key rows are stored for rotary positions that turn neighbours (2i, 2i + 1); the decoder, as
/// transformers, turns (i, i + hd/2).
fn is_rotated(entry: &Entry) -> bool {
    entry.name.ends_with(".self_attn.q_proj.weight") || entry.name.ends_with(".self_attn.k_proj.weight")
}

/// Moves row 2i + s of a head [hd, width] to row i + s hd/2.
fn deinterleave(head: &mut [f32], scratch: &mut [f32], width: usize) {
    scratch.copy_from_slice(head);
    let half = head.len() / width / 2;
    for (row, source) in scratch.chunks_exact(width).enumerate() {
        let target = row / 2 + row % 2 * half;
        head[target * width..][..width].copy_from_slice(source);
    }
}

/// The name in a GGUF file of a tensor of [`DecoderConfig::layout`].
fn gguf_name(name: &str) -> String {
    let stem = name.strip_suffix(".weight").unwrap_or(name);
    match stem {
        "model.embed_tokens" => return EMBEDDING.into(),
        "model.norm" => return "output_norm.weight".into(),
        "lm_head" => return "output.weight".into(),
        _ => {}
    }
    let (layer, part) = stem
        .strip_prefix("model.layers.")
        .and_then(|rest| rest.split_once('.'))
        .expect("layouts name embedding, layers, norm and head only");
    let part = match part {
        "input_layernorm" => "attn_norm",
        "self_attn.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.o_proj" => "attn_output",
        "post_attention_layernorm" => "ffn_norm",
        "mlp.gate_proj" => "ffn_gate",
        "mlp.up_proj" => "ffn_up",
        "mlp.down_proj" => "ffn_down",
        _ => unreachable!("a layer has nine tensors, and `{part}` is none of them"),
    };
    format!("blk.{layer}.{part}.weight")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use proptest::prelude::*;

    use super::super::GgmlType;
    use super::super::testing::{Writer, llama_keys};
    use super::*;
    use crate::testing::{random_parameters, small_config, tiny_config};

    fn write(dir: &Path, writer: Writer) -> PathBuf {
        let path = dir.join("m.gguf");
        fs::write(&path, writer.finish()).unwrap();
        path
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
            let name = gguf_name(&entry.name);
            writer = match is_rotated(entry) {
                true => writer.tensor(
                    &name,
                    GgmlType::F32,
                    &entry.shape,
                    &interleaved(values, config.head_dim, config.hidden_size),
                ),
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
            let path = write(dir.path(), with_tensors(llama_keys(&config), &config, &parameters));
            let gguf = Gguf::open(&path).unwrap();
            prop_assert_eq!(gguf.config().unwrap(), config.clone());
            let mut read = vec![f32::NAN; parameters.len()];
            gguf.read_parameters(&config, &mut read).unwrap();
            prop_assert_eq!(read, parameters);
        }
    }

    #[test]
    fn names_what_does_not_fit() {
        let config = small_config(5);
        let parameters = random_parameters(config.layout().len(), 1);
        let dir = tempfile::tempdir().unwrap();
        let open = |writer: Writer| Gguf::open(&write(dir.path(), writer)).unwrap();
        let full = |writer: Writer| with_tensors(writer, &config, &parameters);
        let at = format!("in `{}`", dir.path().join("m.gguf").display());

        let other = full(Writer::new().value("general.architecture", Value::String("gpt2".into())));
        let error = open(other).config().unwrap_err().to_string();
        assert!(error.contains("architecture `gpt2`, which is not supported"), "{error}");

        let scaled = full(llama_keys(&config).value("llama.rope.scaling.type", Value::String("yarn".into())));
        let error = open(scaled).config().unwrap_err().to_string();
        assert_eq!(error, format!("`llama.rope.scaling.type` {at} asks for arithmetic that the decoder does not have"));

        let strange = full(llama_keys(&config).value("llama.logit_scale", Value::Float(2.0)));
        let error = open(strange).config().unwrap_err().to_string();
        assert_eq!(
            error,
            format!(
                "`llama.logit_scale` {at} is not a key that the decoder knows, and ignoring it might give another model"
            )
        );

        let check = |writer: Writer| open(writer).check(&config.layout()).unwrap_err().to_string();
        let more = full(llama_keys(&config)).tensor("rope_freqs.weight", GgmlType::F32, &[2], &[1.0, 8.0]);
        assert_eq!(check(more), format!("tensor `rope_freqs.weight` {at} is none that the decoder uses"));
        let less = llama_keys(&config).tensor(EMBEDDING, GgmlType::F32, &[5, 8], &parameters[..40]);
        assert_eq!(check(less), format!("tensor `blk.0.attn_norm.weight` {at} is missing"));
        let odd = llama_keys(&config).tensor(EMBEDDING, GgmlType::F32, &[4, 8], &parameters[..32]);
        assert_eq!(
            check(odd),
            format!("tensor `{EMBEDDING}` {at} has the shape [4, 8]; the model's settings ask for [5, 8]")
        );
    }
}
