//! The tensors of a GGUF file in Hugging Face terms: their names, and what llama.cpp's conversion does to their values.

use topspin_kernels::arena::Entry;

use super::Gguf;
use super::rotary::rotary_tensors;
use crate::checkpoint::{check_finite, check_rows};
use crate::config::{DecoderConfig, Family, NormPosition};
use crate::decoder::Parameters;
use crate::error::ModelError;

impl Gguf {
    /// Checks that the file holds exactly the tensors of the model's layout, in their shapes.
    pub fn check(&self, config: &DecoderConfig) -> Result<(), ModelError> {
        let layout = config.layout();
        let mut known: Vec<String> = rotary_tensors(config).iter().map(|&name| name.into()).collect();
        for entry in layout.entries() {
            let name = gguf_name(&entry.name, config.norm_position);
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
        self.check(config)?;
        layout.entries().iter().try_for_each(|entry| self.decode(entry, config, &mut out[entry.range()]))
    }

    /// Reads the parameters of a model, its matrices as they are stored.
    pub fn read_frozen(&self, config: &DecoderConfig) -> Result<Parameters, ModelError> {
        self.check(config)?;
        let read_rows = |entry: &Entry| {
            let name = gguf_name(&entry.name, config.norm_position);
            let mut rows = self.read_rows(&name)?;
            check_rows(&self.path, &name, &rows)?;
            if is_interleaved(entry, config.family) {
                deinterleave(&mut rows.bytes, config.head_dim, rows.kind.bytes(entry.shape[1]));
            }
            Ok(rows)
        };
        Parameters::read_frozen(config, read_rows, |entry, out| self.decode(entry, config, out))
    }

    /// Decodes the tensor of an entry of the layout of `config`.
    fn decode(&self, entry: &Entry, config: &DecoderConfig, out: &mut [f32]) -> Result<(), ModelError> {
        let name = gguf_name(&entry.name, config.norm_position);
        self.read_f32(&name, out)?;
        check_finite(&self.path, &name, out, 0)?;
        if is_interleaved(entry, config.family) {
            deinterleave(out, config.head_dim, entry.shape.get(1).copied().unwrap_or(1));
        }
        if let Some(offset) = norm_offset(entry, config) {
            out.iter_mut().for_each(|x| *x -= offset);
        }
        Ok(())
    }
}

/// Hands a tensor of the arena to `write` as files have it: in parts of whole rows.
pub(super) fn in_order_of_files<E>(
    entry: &Entry,
    config: &DecoderConfig,
    values: &[f32],
    mut write: impl FnMut(&[f32]) -> Result<(), E>,
) -> Result<(), E> {
    if let Some(offset) = norm_offset(entry, config) {
        return write(&values.iter().map(|x| x + offset).collect::<Vec<_>>());
    }
    if !is_interleaved(entry, config.family) {
        return write(values);
    }
    let width = entry.shape.get(1).copied().unwrap_or(1);
    let mut interleaved = vec![0.0; config.head_dim * width];
    values.chunks_exact(interleaved.len()).try_for_each(|head| {
        for (row, target) in interleaved.chunks_exact_mut(width).enumerate() {
            target.copy_from_slice(&head[row_of_model(row, config.head_dim) * width..][..width]);
        }
        write(&interleaved)
    })
}

/// What is already added to the weights of norms in a file.
fn norm_offset(entry: &Entry, config: &DecoderConfig) -> Option<f32> {
    (entry.name.ends_with("norm.weight") && config.norm_offset != 0.0).then_some(config.norm_offset)
}

/// Query and key rows of some architectures are stored for rotary positions that turn neighbours (2i, 2i + 1); the decoder,
/// as transformers, turns (i, i + hd/2).
pub(super) fn is_interleaved(entry: &Entry, family: Family) -> bool {
    let family = matches!(family, Family::Llama | Family::SmolLm3 | Family::Granite);
    family && (entry.name.contains(".self_attn.q_proj.") || entry.name.contains(".self_attn.k_proj."))
}

/// Where row 2i + s of a head in a file is in the decoder's: at i + s hd/2.
fn row_of_model(row: usize, head_dim: usize) -> usize {
    row / 2 + row % 2 * (head_dim / 2)
}

/// Moves the rows of each head [hd, width] to where the decoder has them.
fn deinterleave<T: Copy>(heads: &mut [T], head_dim: usize, width: usize) {
    let mut scratch = heads[..head_dim * width].to_vec();
    for head in heads.chunks_exact_mut(scratch.len()) {
        scratch.copy_from_slice(head);
        for (row, source) in scratch.chunks_exact(width).enumerate() {
            head[row_of_model(row, head_dim) * width..][..width].copy_from_slice(source);
        }
    }
}

/// The name in a GGUF file of a tensor of [`DecoderConfig::layout`], in a model whose norms stand so.
pub(super) fn gguf_name(name: &str, norms: NormPosition) -> String {
    let (stem, kind) = name.rsplit_once('.').expect("layouts name weights and biases");
    match stem {
        "model.embed_tokens" => return format!("token_embd.{kind}"),
        "model.norm" => return format!("output_norm.{kind}"),
        "lm_head" => return format!("output.{kind}"),
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
        "self_attn.qkv_proj" => "attn_qkv",
        "self_attn.q_norm" => "attn_q_norm",
        "self_attn.k_norm" => "attn_k_norm",
        "self_attn.o_proj" => "attn_output",
        "post_attention_layernorm" if norms == NormPosition::Before => "ffn_norm",
        "post_attention_layernorm" => "post_attention_norm",
        "pre_feedforward_layernorm" => "ffn_norm",
        "post_feedforward_layernorm" => "post_ffw_norm",
        "mlp.gate_proj" => "ffn_gate",
        // Fused, both matrices go by the name of one.
        "mlp.up_proj" | "mlp.gate_up_proj" => "ffn_up",
        "mlp.down_proj" => "ffn_down",
        _ => unreachable!("no layer has a tensor `{part}`"),
    };
    format!("blk.{layer}.{part}.{kind}")
}
