//! Families of decoders: what each calls its settings and tensors.

use super::NormPosition;

/// A family of decoders, as transformers has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Llama 2 and 3, SmolLM2 and many others.
    Llama,
    /// Mistral: a window in every layer, or none.
    Mistral,
    /// Qwen 2 and 2.5: biases of queries, keys and values.
    Qwen2,
    /// Qwen 3: norms of queries and keys.
    Qwen3,
    /// Gemma 2: norms around each block, bounded scores, windows in every other layer.
    Gemma2,
    /// Gemma 3, the models of text: norms of queries and keys, windows in five layers of six.
    Gemma3,
    /// Phi 3 and 4: fused matrices, partly rotated heads.
    Phi3,
    /// SmolLM3: some layers without rotary positions.
    SmolLm3,
    /// OLMo 2: norms behind each block.
    Olmo2,
    /// Granite: multipliers.
    Granite,
}

/// Names of a layer's tensors, without `.weight`.
pub(crate) struct BlockNames {
    pub attn_norm: Option<&'static str>,
    /// Queries, keys and values, or one matrix of all.
    pub qkv: &'static [&'static str],
    pub attn_post_norm: Option<&'static str>,
    pub mlp_norm: Option<&'static str>,
    /// Gate and up, or one matrix of both.
    pub gate_up: &'static [&'static str],
    pub mlp_post_norm: Option<&'static str>,
}

impl BlockNames {
    /// The linear layers, those of one product together: queries, keys and values; attention's output; gate and up; down.
    pub fn products(&self) -> [&'static [&'static str]; 4] {
        [self.qkv, &["self_attn.o_proj"], self.gate_up, &["mlp.down_proj"]]
    }
}

impl Family {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Llama,
        Self::Mistral,
        Self::Qwen2,
        Self::Qwen3,
        Self::Gemma2,
        Self::Gemma3,
        Self::Phi3,
        Self::SmolLm3,
        Self::Olmo2,
        Self::Granite,
    ];

    /// The `model_type` of `config.json`.
    pub fn model_type(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Gemma2 => "gemma2",
            Self::Gemma3 => "gemma3_text",
            Self::Phi3 => "phi3",
            Self::SmolLm3 => "smollm3",
            Self::Olmo2 => "olmo2",
            Self::Granite => "granite",
        }
    }

    /// The class that `architectures` names.
    pub fn class(self) -> &'static str {
        match self {
            Self::Llama => "LlamaForCausalLM",
            Self::Mistral => "MistralForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
            Self::Gemma2 => "Gemma2ForCausalLM",
            Self::Gemma3 => "Gemma3ForCausalLM",
            Self::Phi3 => "Phi3ForCausalLM",
            Self::SmolLm3 => "SmolLM3ForCausalLM",
            Self::Olmo2 => "Olmo2ForCausalLM",
            Self::Granite => "GraniteForCausalLM",
        }
    }

    /// The family of either name.
    pub(super) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|family| [family.model_type(), family.class()].contains(&name))
    }

    /// Names of a layer's tensors, where its norms stand so.
    pub(crate) fn block_names(self, norms: NormPosition) -> BlockNames {
        let (input, attention) = (Some("input_layernorm"), Some("post_attention_layernorm"));
        let (before, after) = (Some("pre_feedforward_layernorm"), Some("post_feedforward_layernorm"));
        let [attn_norm, attn_post_norm, mlp_norm, mlp_post_norm] = match norms {
            // Named by its place alone: it norms what the gated layer reads.
            NormPosition::Before => [input, None, attention, None],
            NormPosition::After => [None, attention, None, after],
            NormPosition::Around => [input, attention, before, after],
        };
        let (qkv, gate_up): (&[&str], &[&str]) = match self {
            Self::Phi3 => (&["self_attn.qkv_proj"], &["mlp.gate_up_proj"]),
            _ => (&["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"], &["mlp.gate_proj", "mlp.up_proj"]),
        };
        BlockNames { attn_norm, qkv, attn_post_norm, mlp_norm, gate_up, mlp_post_norm }
    }
}
