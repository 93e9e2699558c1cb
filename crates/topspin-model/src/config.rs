//! The decoder's dimensions and constants, and the table of its parameter arena.

mod huggingface;

use topspin_kernels::arena::Layout;

pub(crate) use huggingface::SpecialIds;

/// Dimensions and constants of a Llama-family decoder.
///
/// RMSNorm, rotary positions over the whole head, grouped-query attention without biases, SwiGLU without biases, and
/// an output head that may share the embedding matrix.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderConfig {
    /// V: rows of the embedding matrix.
    pub vocab_size: usize,
    /// D: width of the residual stream.
    pub hidden_size: usize,
    /// F: width of the SwiGLU's inner layer.
    pub intermediate_size: usize,
    /// Number of decoder layers.
    pub num_layers: usize,
    /// H: number of query heads.
    pub num_heads: usize,
    /// KV: number of key/value heads; a divisor of `num_heads`.
    pub num_kv_heads: usize,
    /// hd: elements per head, even; need not be `hidden_size / num_heads`.
    pub head_dim: usize,
    /// Added to the mean square inside RMSNorm's root.
    pub rms_norm_eps: f32,
    /// Base of the rotary frequencies `rope_theta^(-2i / head_dim)`.
    pub rope_theta: f64,
    /// Longest sequence, in tokens.
    pub max_positions: usize,
    /// Whether the output head is the embedding matrix.
    pub tie_word_embeddings: bool,
}

impl DecoderConfig {
    /// The parameter arena: embedding, then the layers from first to last, final norm, and the head unless tied.
    ///
    /// Query, key and value matrices stand side by side, as do gate and up: each group is one matrix product.
    pub fn layout(&self) -> Layout {
        let d = self.hidden_size;
        let q_rows = self.num_heads * self.head_dim;
        let kv_rows = self.num_kv_heads * self.head_dim;
        let mut layout = Layout::new();
        layout.push("model.embed_tokens.weight", &[self.vocab_size, d]);
        for layer in 0..self.num_layers {
            let mut push = |name: &str, shape: &[usize]| {
                layout.push(format!("model.layers.{layer}.{name}.weight"), shape);
            };
            push("input_layernorm", &[d]);
            push("self_attn.q_proj", &[q_rows, d]);
            push("self_attn.k_proj", &[kv_rows, d]);
            push("self_attn.v_proj", &[kv_rows, d]);
            push("self_attn.o_proj", &[d, q_rows]);
            push("post_attention_layernorm", &[d]);
            push("mlp.gate_proj", &[self.intermediate_size, d]);
            push("mlp.up_proj", &[self.intermediate_size, d]);
            push("mlp.down_proj", &[d, self.intermediate_size]);
        }
        layout.push("model.norm.weight", &[d]);
        if !self.tie_word_embeddings {
            layout.push("lm_head.weight", &[self.vocab_size, d]);
        }
        layout
    }
    /// Whether the dimensions fit each other, so that [`layout`](Self::layout) and the decoder can rely on it.
    pub fn validate(&self) -> Result<(), InvalidConfig> {
        let positive = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_layers),
            ("num_attention_heads", self.num_heads),
            ("num_key_value_heads", self.num_kv_heads),
            ("head_dim", self.head_dim),
            ("max_position_embeddings", self.max_positions),
        ];
        for (key, value) in positive {
            // Far above any model, and low enough that products of two cannot overflow.
            if value == 0 || value > MAX_DIMENSION {
                return Err(InvalidConfig { key, problem: format!("is {value}; it must lie in 1..={MAX_DIMENSION}") });
            }
        }
        let fail = |key, problem| Err(InvalidConfig { key, problem });
        if self.num_layers > MAX_LAYERS {
            return fail("num_hidden_layers", format!("is {}; it must lie in 1..={MAX_LAYERS}", self.num_layers));
        }
        if !self.num_heads.is_multiple_of(self.num_kv_heads) {
            let problem = format!("is {}, which does not divide the {} heads", self.num_kv_heads, self.num_heads);
            return fail("num_key_value_heads", problem);
        }
        if !self.head_dim.is_multiple_of(2) {
            let problem = format!("is {}, but rotary positions turn pairs and need an even number", self.head_dim);
            return fail("head_dim", problem);
        }
        if !(self.rms_norm_eps.is_finite() && self.rms_norm_eps > 0.0) {
            return fail("rms_norm_eps", format!("is {}; it must be positive", self.rms_norm_eps));
        }
        if !(self.rope_theta.is_finite() && self.rope_theta > 0.0) {
            return fail("rope_theta", format!("is {}; it must be positive", self.rope_theta));
        }
        Ok(())
    }
}

const MAX_DIMENSION: usize = 1 << 28;
const MAX_LAYERS: usize = 4096;

/// A dimension or constant that the decoder cannot have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{key}` {problem}")]
pub struct InvalidConfig {
    /// The key as `config.json` spells it.
    pub key: &'static str,
    /// The rest of the sentence.
    pub problem: String,
}
