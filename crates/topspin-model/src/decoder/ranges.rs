//! Where parameters lie in the arena.

use std::ops::Range;

use topspin_kernels::arena::Layout;

use crate::config::DecoderConfig;

/// A linear layer, or several side by side that are one product.
#[derive(Clone, Debug)]
pub(super) struct Linear {
    pub weight: Range<usize>,
    pub bias: Option<Range<usize>>,
}

/// A block: norm, product, something in between, product, norm; what it makes is added to what it read.
#[derive(Clone, Debug)]
pub(super) struct Block {
    pub norm: Option<Range<usize>>,
    pub first: Linear,
    pub last: Linear,
    pub post_norm: Option<Range<usize>>,
}

/// One layer.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    /// Queries, keys and values; the output.
    pub attn: Block,
    /// Norm weights of queries and keys.
    pub head_norm: Option<Range<usize>>,
    /// Gate and up; down.
    pub mlp: Block,
}

/// All parameters.
#[derive(Clone, Debug)]
pub(super) struct Ranges {
    pub embed: Range<usize>,
    pub layers: Vec<Layer>,
    pub norm: Range<usize>,
    /// The embedding's range when tied.
    pub head: Range<usize>,
    /// Norms and biases, neighbours as one.
    pub vectors: Vec<Range<usize>>,
}

impl Ranges {
    pub(super) fn new(config: &DecoderConfig) -> Self {
        let layout = config.layout();
        let of = |name: &str| layout.get(name).map(|entry| entry.range());
        let must = |name: &str| of(name).expect("the layout names every tensor of its configuration");
        let names = config.family.block_names(config.norm_position);
        let layers = (0..config.num_layers)
            .map(|layer| {
                let tensor = |name: &str| format!("model.layers.{layer}.{name}");
                // Neighbours in the arena, so that each group is one range.
                let group = |parts: &[&str], kind: &str| {
                    let [first, last] = [0, parts.len() - 1].map(|at| must(&tensor(&format!("{}.{kind}", parts[at]))));
                    first.start..last.end
                };
                let linear = |parts: &[&str], bias: bool| Linear {
                    weight: group(parts, "weight"),
                    bias: bias.then(|| group(parts, "bias")),
                };
                let norm = |name: Option<&str>| name.map(|name| must(&tensor(&format!("{name}.weight"))));
                let biases = config.biases;
                Layer {
                    attn: Block {
                        norm: norm(names.attn_norm),
                        first: linear(names.qkv, biases.qkv),
                        last: linear(&["self_attn.o_proj"], biases.o),
                        post_norm: norm(names.attn_post_norm),
                    },
                    head_norm: config.head_norm.map(|_| group(&["self_attn.q_norm", "self_attn.k_norm"], "weight")),
                    mlp: Block {
                        norm: norm(names.mlp_norm),
                        first: linear(names.gate_up, biases.mlp),
                        last: linear(&["mlp.down_proj"], biases.mlp),
                        post_norm: norm(names.mlp_post_norm),
                    },
                }
            })
            .collect();
        let embed = must("model.embed_tokens.weight");
        let head = of("lm_head.weight").unwrap_or_else(|| embed.clone());
        Self { embed, layers, norm: must("model.norm.weight"), head, vectors: vectors(&layout) }
    }
}

fn vectors(layout: &Layout) -> Vec<Range<usize>> {
    let mut vectors: Vec<Range<usize>> = Vec::new();
    for entry in layout.entries().iter().filter(|entry| entry.shape.len() == 1) {
        match vectors.last_mut() {
            Some(last) if last.end == entry.offset => last.end = entry.range().end,
            _ => vectors.push(entry.range()),
        }
    }
    vectors
}
