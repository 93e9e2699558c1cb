//! Where parameters lie.

use std::ops::Range;

use topspin_kernels::arena::Layout;

use crate::config::DecoderConfig;

/// Where a matrix is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In the arena.
    Arena(Range<usize>),
    /// Among the matrices that are kept as their file stores them.
    Stored(usize),
}

impl Place {
    /// The place in the arena, and in that of the gradients.
    ///
    /// # Panics
    /// If the matrix is kept as stored: it has no gradient and never changes.
    pub(super) fn arena(&self) -> Range<usize> {
        match self {
            Place::Arena(range) => range.clone(),
            Place::Stored(_) => panic!("a matrix that is kept as stored has no gradient and never changes"),
        }
    }
}

/// A linear layer, or several side by side that are one product.
#[derive(Clone, Debug)]
pub(super) struct Linear {
    pub weight: Place,
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
    pub embed: Place,
    pub layers: Vec<Layer>,
    pub norm: Range<usize>,
    /// The embedding's place when tied.
    pub head: Place,
    /// Norms and biases, neighbours as one.
    pub vectors: Vec<Range<usize>>,
}

impl Ranges {
    /// Places in the arena, or those of matrices that are kept as stored and of an arena of all else.
    pub(super) fn new(config: &DecoderConfig, frozen: bool) -> Self {
        let layout = if frozen { config.vectors() } else { config.layout() };
        let must = |name: &str| layout.get(name).expect("the layout names every tensor of its configuration").range();
        // Neighbours in the arena, so that each group is one range.
        let span = |names: &[String]| {
            let [first, last] = [0, names.len() - 1].map(|at| must(&names[at]));
            first.start..last.end
        };
        let place = |(at, names): (usize, Vec<String>)| match frozen {
            true => Place::Stored(at),
            false => Place::Arena(span(&names)),
        };
        let mut places = config.matrices().into_iter().enumerate().map(place);
        let mut next = || places.next().expect("a configuration lists all of its matrices");
        let embed = next();
        let names = config.family.block_names(config.norm_position);
        let layers = (0..config.num_layers)
            .map(|layer| {
                let tensor = |name: &str| format!("model.layers.{layer}.{name}");
                let group = |parts: &[&str], kind: &str| {
                    span(&parts.iter().map(|part| tensor(&format!("{part}.{kind}"))).collect::<Vec<_>>())
                };
                let mut linear =
                    |parts: &[&str], bias: bool| Linear { weight: next(), bias: bias.then(|| group(parts, "bias")) };
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
        let head = places.next().unwrap_or_else(|| embed.clone());
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
