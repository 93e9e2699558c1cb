//! The decoder's dimensions and constants, and the table of its parameter arena.

use topspin_kernels::arena::Layout;

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
}
