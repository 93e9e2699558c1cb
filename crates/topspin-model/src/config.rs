//! The decoder's dimensions and constants, and the table of its parameter arena.

mod family;
mod huggingface;
mod rope;

use topspin_kernels::arena::Layout;
use topspin_kernels::device::{Activation, Attention, HeadShape, LogitScale, Norm};

pub use family::Family;
pub(crate) use huggingface::{SpecialIds, inverse};
pub use rope::RopeScaling;
pub(crate) use rope::yarn_attention_factor;

/// Where a block's norms stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NormPosition {
    /// The block reads the normed residual stream.
    #[default]
    Before,
    /// What the block makes is normed before it is added.
    After,
    /// Both.
    Around,
}

/// What of queries and keys is normed by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadNorm {
    /// Each head, all by the same weights.
    Each,
    /// All heads of a row together.
    All,
}

/// Which linear layers have biases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Biases {
    /// Queries, keys and values.
    pub qkv: bool,
    /// Attention's output.
    pub o: bool,
    /// All three of the gated layer.
    pub mlp: bool,
}

/// How a layer differs from others of its model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerKind {
    /// Whether attention is confined to the sliding window.
    pub windowed: bool,
    /// Whether queries and keys are rotated by their position.
    pub rotary: bool,
}

/// Dimensions and constants of a decoder: RMSNorm, rotary positions, grouped-query attention, a gated layer, and an output
/// head that may share the embedding matrix. What differs between families has a name here; the decoder knows no family.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderConfig {
    /// What the tensors and the settings are called.
    pub family: Family,
    /// V: rows of the embedding matrix.
    pub vocab_size: usize,
    /// D: width of the residual stream.
    pub hidden_size: usize,
    /// F: width of the gated layer.
    pub intermediate_size: usize,
    /// Number of decoder layers.
    pub num_layers: usize,
    /// H: number of query heads.
    pub num_heads: usize,
    /// KV: number of key/value heads; a divisor of `num_heads`.
    pub num_kv_heads: usize,
    /// hd: elements per head, even; need not be `hidden_size / num_heads`.
    pub head_dim: usize,
    /// Longest sequence, in tokens.
    pub max_positions: usize,
    /// Whether the output head is the embedding matrix.
    pub tie_word_embeddings: bool,

    /// Added to the mean square inside RMSNorm's root.
    pub rms_norm_eps: f32,
    /// Added to each norm's weight.
    pub norm_offset: f32,
    /// Where a block's norms stand.
    pub norm_position: NormPosition,
    /// How queries and keys are normed, if they are.
    pub head_norm: Option<HeadNorm>,
    /// Which linear layers have biases.
    pub biases: Biases,
    /// Activation of the gate.
    pub activation: Activation,

    /// Factor of attention's scores; `1 / sqrt(head_dim)` unless given.
    pub attention_scale: Option<f32>,
    /// Bound of attention's scores.
    pub attention_softcap: Option<f32>,
    /// Positions that a windowed layer sees, its own included.
    pub sliding_window: Option<usize>,
    /// One for each layer; none where all layers are windowed, if there is a window, and rotary.
    pub layer_kinds: Vec<LayerKind>,

    /// Base of the rotary frequencies `rope_theta^(-2i / rotary_dim)`.
    pub rope_theta: f64,
    /// What is done to the frequencies for longer contexts.
    pub rope_scaling: RopeScaling,
    /// Base of windowed layers, whose frequencies are not scaled, where it is another one.
    pub local_rope_theta: Option<f64>,
    /// Part of each head that is rotated.
    pub partial_rotary_factor: f64,

    /// Factor of the embedding's rows.
    pub embedding_multiplier: f32,
    /// Factor of what a block adds to the residual stream.
    pub residual_multiplier: f32,
    /// The last step to logits.
    pub logit_scale: LogitScale,
}

impl LayerKind {
    /// Rotary layers, windowed or not.
    pub(crate) fn rotary(windowed: Vec<bool>) -> Vec<Self> {
        windowed.into_iter().map(|windowed| Self { windowed, rotary: true }).collect()
    }
}

/// For each layer whether it is another than the last of a `period`.
pub(crate) fn all_but_last(layers: usize, period: usize) -> Vec<bool> {
    (1..=layers).map(|number| !number.is_multiple_of(period)).collect()
}

impl Default for DecoderConfig {
    /// A Llama without dimensions.
    fn default() -> Self {
        Self {
            family: Family::Llama,
            vocab_size: 0,
            hidden_size: 0,
            intermediate_size: 0,
            num_layers: 0,
            num_heads: 0,
            num_kv_heads: 0,
            head_dim: 0,
            max_positions: 0,
            tie_word_embeddings: false,
            rms_norm_eps: 1e-6,
            norm_offset: 0.0,
            norm_position: NormPosition::Before,
            head_norm: None,
            biases: Biases::default(),
            activation: Activation::Silu,
            attention_scale: None,
            attention_softcap: None,
            sliding_window: None,
            layer_kinds: Vec::new(),
            rope_theta: 10_000.0,
            rope_scaling: RopeScaling::None,
            local_rope_theta: None,
            partial_rotary_factor: 1.0,
            embedding_multiplier: 1.0,
            residual_multiplier: 1.0,
            logit_scale: LogitScale::NONE,
        }
    }
}

impl DecoderConfig {
    /// What all members of a family have in common, without dimensions.
    pub(crate) fn of_family(family: Family) -> Self {
        let base = Self { family, ..Self::default() };
        match family {
            Family::Llama | Family::Mistral | Family::Qwen2 | Family::Phi3 | Family::SmolLm3 | Family::Granite => base,
            Family::Qwen3 => Self { head_norm: Some(HeadNorm::Each), ..base },
            Family::Olmo2 => Self { norm_position: NormPosition::After, head_norm: Some(HeadNorm::All), ..base },
            Family::Gemma2 | Family::Gemma3 => Self {
                norm_position: NormPosition::Around,
                norm_offset: 1.0,
                activation: Activation::GeluTanh,
                head_norm: (family == Family::Gemma3).then_some(HeadNorm::Each),
                ..base
            },
        }
    }

    /// The factor of Gemma's embedding.
    pub(crate) fn root_of_width(&self) -> f32 {
        (self.hidden_size as f64).sqrt() as f32
    }

    /// The attention heads.
    pub fn heads(&self) -> HeadShape {
        HeadShape { num_heads: self.num_heads, num_kv_heads: self.num_kv_heads, head_dim: self.head_dim }
    }

    /// Constants of every norm.
    pub fn norm(&self) -> Norm {
        Norm { eps: self.rms_norm_eps, offset: self.norm_offset }
    }

    /// How a layer differs from others.
    pub fn layer_kind(&self, layer: usize) -> LayerKind {
        self.layer_kinds.get(layer).copied().unwrap_or(LayerKind { windowed: true, rotary: true })
    }

    /// What a layer's attention makes of scores.
    pub fn attention(&self, layer: usize) -> Attention {
        Attention {
            scale: self.attention_scale.unwrap_or(1.0 / (self.head_dim as f32).sqrt()),
            softcap: self.attention_softcap,
            window: self.sliding_window.filter(|_| self.layer_kind(layer).windowed),
        }
    }

    /// Parts of a row of queries and keys that are normed by themselves.
    pub fn head_norm_parts(&self) -> usize {
        match self.head_norm {
            None => 0,
            Some(HeadNorm::Each) => self.num_heads + self.num_kv_heads,
            Some(HeadNorm::All) => 2,
        }
    }

    /// Channels of a head that are rotated.
    pub fn rotary_dim(&self) -> usize {
        (self.head_dim as f64 * self.partial_rotary_factor) as usize
    }

    /// The parameter arena: embedding, then the layers from first to last, final norm, and the head unless tied.
    ///
    /// Query, key and value matrices stand side by side, as do gate and up: each group is one matrix product. So do the
    /// biases of a group, and the norms of queries and keys.
    pub fn layout(&self) -> Layout {
        let (d, f, heads) = (self.hidden_size, self.intermediate_size, self.heads());
        let (q, kv) = (heads.q_width(), heads.kv_width());
        let names = self.family.block_names(self.norm_position);
        let mut layout = Layout::new();
        layout.push("model.embed_tokens.weight", &[self.vocab_size, d]);
        for layer in 0..self.num_layers {
            let mut block = LayerLayout { layout: &mut layout, layer };
            block.norm(names.attn_norm, d);
            block.linear(names.qkv, &[q, kv, kv], d, self.biases.qkv);
            if let Some(head_norm) = self.head_norm {
                let [of_queries, of_keys] = match head_norm {
                    HeadNorm::Each => [self.head_dim; 2],
                    HeadNorm::All => [q, kv],
                };
                block.norm(Some("self_attn.q_norm"), of_queries);
                block.norm(Some("self_attn.k_norm"), of_keys);
            }
            block.linear(&["self_attn.o_proj"], &[d], q, self.biases.o);
            block.norm(names.attn_post_norm, d);
            block.norm(names.mlp_norm, d);
            block.linear(names.gate_up, &[f, f], d, self.biases.mlp);
            block.linear(&["mlp.down_proj"], &[d], f, self.biases.mlp);
            block.norm(names.mlp_post_norm, d);
        }
        layout.push("model.norm.weight", &[d]);
        if !self.tie_word_embeddings {
            layout.push("lm_head.weight", &[self.vocab_size, d]);
        }
        layout
    }

    /// The tensors of each matrix that products read, those of a group side by side: the embedding, then of each layer
    /// queries, keys and values, attention's output, gate and up, and down; the head unless tied.
    pub fn matrices(&self) -> Vec<Vec<String>> {
        let groups = self.family.block_names(self.norm_position).products();
        let group = |layer: usize, names: &[&str]| -> Vec<String> {
            names.iter().map(|name| format!("model.layers.{layer}.{name}.weight")).collect()
        };
        let mut matrices = vec![vec!["model.embed_tokens.weight".into()]];
        matrices.extend((0..self.num_layers).flat_map(|layer| groups.map(|names| group(layer, names))));
        if !self.tie_word_embeddings {
            matrices.push(vec!["lm_head.weight".into()]);
        }
        matrices
    }

    /// The table of all that is no matrix, norms and biases, in the order of [`layout`](Self::layout).
    pub fn vectors(&self) -> Layout {
        let mut vectors = Layout::new();
        for entry in self.layout().entries().iter().filter(|entry| entry.shape.len() == 1) {
            vectors.push(entry.name.clone(), &entry.shape);
        }
        vectors
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
            ("sliding_window", self.sliding_window.unwrap_or(1)),
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
        if !self.layer_kinds.is_empty() && self.layer_kinds.len() != self.num_layers {
            let problem = format!("names {} layers, but there are {}", self.layer_kinds.len(), self.num_layers);
            return fail("layer_types", problem);
        }
        if !self.num_heads.is_multiple_of(self.num_kv_heads) {
            let problem = format!("is {}, which does not divide the {} heads", self.num_kv_heads, self.num_heads);
            return fail("num_key_value_heads", problem);
        }
        if !self.head_dim.is_multiple_of(2) {
            let problem = format!("is {}, but rotary positions turn pairs and need an even number", self.head_dim);
            return fail("head_dim", problem);
        }
        let (factor, rotary_dim) = (self.partial_rotary_factor, self.rotary_dim());
        if !(factor > 0.0 && factor <= 1.0) || rotary_dim == 0 || !rotary_dim.is_multiple_of(2) {
            let problem = format!("is {factor}, which does not leave an even number of each head's {}", self.head_dim);
            return fail("partial_rotary_factor", problem);
        }
        let constants = [
            ("rms_norm_eps", Some(self.rms_norm_eps.into())),
            ("rope_theta", Some(self.rope_theta)),
            ("rope_local_base_freq", self.local_rope_theta),
            ("attention scale", self.attention_scale.map(f64::from)),
            ("attn_logit_softcapping", self.attention_softcap.map(f64::from)),
            ("final_logit_softcapping", self.logit_scale.softcap.map(f64::from)),
            ("embedding_multiplier", Some(self.embedding_multiplier.into())),
            ("residual_multiplier", Some(self.residual_multiplier.into())),
            ("logits_scaling", Some(self.logit_scale.multiplier.into())),
        ];
        for (key, value) in constants {
            if let Some(value) = value.filter(|value| !(value.is_finite() && *value > 0.0)) {
                return fail(key, format!("is {value}; it must be positive"));
            }
        }
        if self.residual_multiplier != 1.0 && self.norm_position != NormPosition::Before {
            let problem =
                format!("is {}, but a block that is normed behind is added as it is", self.residual_multiplier);
            return fail("residual_multiplier", problem);
        }
        self.rope_scaling.validate(rotary_dim / 2)
    }
}

/// The table while the tensors of a layer are added.
struct LayerLayout<'a> {
    layout: &'a mut Layout,
    layer: usize,
}

impl LayerLayout<'_> {
    fn push(&mut self, name: &str, kind: &str, shape: &[usize]) {
        self.layout.push(format!("model.layers.{}.{name}.{kind}", self.layer), shape);
    }

    /// A norm, if there is one.
    fn norm(&mut self, name: Option<&str>, width: usize) {
        name.into_iter().for_each(|name| self.push(name, "weight", &[width]));
    }

    /// Linear layers of `outputs`, each by its name, or as one by the only name.
    fn linear(&mut self, names: &[&str], outputs: &[usize], inputs: usize, bias: bool) {
        let fused = [outputs.iter().sum()];
        let outputs = if names.len() == 1 { &fused[..] } else { outputs };
        for (name, &outputs) in names.iter().zip(outputs) {
            self.push(name, "weight", &[outputs, inputs]);
        }
        for (name, &outputs) in names.iter().zip(outputs).filter(|_| bias) {
            self.push(name, "bias", &[outputs]);
        }
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
