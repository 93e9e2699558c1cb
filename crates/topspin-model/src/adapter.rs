//! Adapters of low rank (LoRA: Hu et al., arXiv 2106.09685), with the names and files of PEFT.
//!
//! Beside a linear layer `y = x · Wᵀ` that stays as it is, an adapter adds `s · (drop(x) · Aᵀ) · Bᵀ`, with `A[r,k]` and
//! `B[n,r]` trained, and `s` being `alpha / r`, or `alpha / sqrt(r)` when rank-stabilised (Kalajdzievski, arXiv 2312.03732).

mod files;
mod merge;
mod peft;
mod targets;

use std::ops::Range;

use serde_json::{Map, Value};
use topspin_kernels::arena::Layout;
use topspin_kernels::memory::Memory;
use topspin_kernels::rng::Rng;

use crate::config::DecoderConfig;
pub use files::{AdapterFiles, save_adapter};
pub(crate) use files::{SETTINGS, WEIGHTS};
use targets::Matcher;
pub use targets::{BadPattern, Targets};

/// What PEFT puts before the names of a model's tensors.
const PREFIX: &str = "base_model.model.";

/// Ranks that an adapter may have.
const RANKS: std::ops::RangeInclusive<usize> = 1..=1 << 16;

/// Settings of an adapter: what of PEFT's `adapter_config.json` bears on the arithmetic.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraConfig {
    /// `r`.
    pub rank: usize,
    /// The numerator of the factor.
    pub alpha: f64,
    /// Whether the factor is `alpha / sqrt(r)` instead of `alpha / r`.
    pub rank_stabilized: bool,
    /// Share of what an adapter reads that is dropped in training.
    pub dropout: f64,
    /// The linear layers that have one.
    pub targets: Targets,
    /// Those among them that have none.
    pub exclude: Option<Targets>,
    /// Decoder layers that have any; all, where it is not said.
    pub layers: Option<Vec<usize>>,
    /// Other ranks, by the pattern of a name.
    pub rank_pattern: Map<String, Value>,
    /// Other numerators, by the pattern of a name.
    pub alpha_pattern: Map<String, Value>,
}

/// The linear layers of a decoder layer that are one product, in the order of `BlockNames::products`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Site {
    Qkv,
    Output,
    GateUp,
    Down,
}

impl Site {
    pub(crate) const ALL: [Self; 4] = [Self::Qkv, Self::Output, Self::GateUp, Self::Down];
}

/// The adapters of linear layers that are one product: their matrices A one above the other are one product too.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Group {
    /// All matrices A, `[rank, k]`.
    pub a: Range<usize>,
    /// Sum of the ranks.
    pub rank: usize,
    /// Rows of the product's matrix, of linear layers without an adapter too.
    pub rows: usize,
    /// Width of what the product reads.
    pub width: usize,
    pub members: Vec<Member>,
}

/// The adapter of one linear layer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Member {
    /// The layer's name, as in `model.layers.0.self_attn.q_proj`.
    pub module: String,
    /// Its matrix A in the arena.
    pub a: Range<usize>,
    /// Its matrix B.
    pub b: Range<usize>,
    /// The layer's rows among those of the product.
    pub rows: Range<usize>,
    /// Its ranks among those of the group.
    pub ranks: Range<usize>,
    pub scale: f32,
}

/// Why an adapter does not fit a model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdapterError {
    /// The pattern of target modules cannot be read.
    #[error(transparent)]
    Pattern(#[from] BadPattern),
    /// A target that the model does not have.
    #[error("its targets name `{name}`, which is no linear layer of the model's blocks; there are {known}")]
    UnknownTarget {
        /// As the settings name it.
        name: String,
        /// Names of the model's linear layers.
        known: String,
    },
    /// Nothing to adapt.
    #[error("its targets are none of the model's linear layers; there are {known}")]
    NoTarget {
        /// Names of the model's linear layers.
        known: String,
    },
    /// A setting is out of range.
    #[error("its {what} {problem}")]
    Setting {
        /// The setting.
        what: &'static str,
        /// The rest of the sentence.
        problem: String,
    },
}

/// An adapter of a model: which linear layers it has, and where its parameters lie in an arena of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter {
    config: LoraConfig,
    layout: Layout,
    layers: Vec<[Option<Group>; 4]>,
}

impl Adapter {
    /// The adapter that `config` means for a model.
    pub fn new(config: LoraConfig, decoder: &DecoderConfig) -> Result<Self, AdapterError> {
        config.check()?;
        let (base, names) = (decoder.layout(), decoder.family.block_names(decoder.norm_position).products());
        let known: Vec<_> = names.iter().flat_map(|names| names.iter().map(|name| last(name))).collect();
        if let Some(name) = targets::unknown(&config.targets, &known) {
            return Err(AdapterError::UnknownTarget { name: name.into(), known: known.join(", ") });
        }
        let matcher = Matcher::new(&config)?;
        let mut layout = Layout::new();
        let layers: Vec<_> = (0..decoder.num_layers)
            .map(|layer| names.map(|names| group(&mut layout, &matcher, &base, layer, names)))
            .collect();
        if layout.is_empty() {
            return Err(AdapterError::NoTarget { known: known.join(", ") });
        }
        Ok(Self { config, layout, layers })
    }

    /// The settings.
    pub fn config(&self) -> &LoraConfig {
        &self.config
    }

    /// The table of the arena, with the names of PEFT's files.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Parameters that change nothing yet, as PEFT draws them: A uniform within `1 / sqrt(k)`, which is
    /// `kaiming_uniform_(a = sqrt(5))`, and B zero. `number` tells the adapters of one seed apart.
    pub fn initial(&self, seed: u64, number: u64) -> Memory<f32> {
        let mut random = Rng::new(seed, "adapter", number);
        let mut parameters = Memory::zeroed(self.layout.len());
        for entry in self.layout.entries().iter().filter(|entry| entry.name.ends_with("lora_A.weight")) {
            let bound = 1.0 / (entry.shape[1] as f32).sqrt();
            parameters[entry.range()].iter_mut().for_each(|a| *a = bound * (2.0 * random.uniform_f32() - 1.0));
        }
        parameters
    }

    /// The last parts of the names of the linear layers that have an adapter.
    pub fn module_names(&self) -> Vec<&str> {
        let modules = self.layout.entries().iter().filter_map(|entry| entry.name.strip_suffix(".lora_A.weight"));
        let mut names: Vec<_> = modules.map(last).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// The groups of a layer, by [`Site`].
    pub(crate) fn layer(&self, layer: usize) -> &[Option<Group>; 4] {
        &self.layers[layer]
    }

    /// Widest of the groups, in ranks.
    pub(crate) fn widest(&self) -> usize {
        self.layers.iter().flatten().flatten().map(|group| group.rank).max().unwrap_or(0)
    }
}

impl LoraConfig {
    /// An adapter of one rank in all layers, with nothing else that is not usual.
    pub fn new(rank: usize, alpha: f64, targets: Targets) -> Self {
        Self {
            rank,
            alpha,
            rank_stabilized: false,
            dropout: 0.0,
            targets,
            exclude: None,
            layers: None,
            rank_pattern: Map::new(),
            alpha_pattern: Map::new(),
        }
    }

    fn check(&self) -> Result<(), AdapterError> {
        let fail = |what, problem: String| Err(AdapterError::Setting { what, problem });
        if !RANKS.contains(&self.rank) {
            return fail("rank", format!("is {}; it must lie in {RANKS:?}", self.rank));
        }
        if !(self.alpha.is_finite() && self.alpha > 0.0) {
            return fail("alpha", format!("is {}; it must be above 0", self.alpha));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return fail("dropout", format!("is {}; it must lie in 0..1", self.dropout));
        }
        Ok(())
    }

    /// The factor of an adapter of these.
    fn scale(&self, rank: usize, alpha: f64) -> f32 {
        let rank = rank as f64;
        (alpha / if self.rank_stabilized { rank.sqrt() } else { rank }) as f32
    }
}

/// Appends the adapters of one product to the layout.
fn group(layout: &mut Layout, matcher: &Matcher, base: &Layout, layer: usize, names: &[&str]) -> Option<Group> {
    let (mut members, mut width, mut rank, mut row) = (Vec::new(), 0, 0, 0);
    for name in names {
        let module = format!("model.layers.{layer}.{name}");
        let shape = &base.get(&format!("{module}.weight")).expect("the layout names every linear layer").shape;
        let rows = row..row + shape[0];
        (row, width) = (rows.end, shape[1]);
        if let Some((own, scale)) = matcher.find(&module) {
            members.push(Member { module, a: 0..0, b: 0..0, rows, ranks: rank..rank + own, scale });
            rank += own;
        }
    }
    // All A first: side by side they are one matrix.
    let mut a = layout.len()..layout.len();
    for Member { module, ranks, a: own, .. } in &mut members {
        *own = layout.push(format!("{PREFIX}{module}.lora_A.weight"), &[ranks.len(), width]);
        a.end = own.end;
    }
    for Member { module, ranks, rows, b, .. } in &mut members {
        *b = layout.push(format!("{PREFIX}{module}.lora_B.weight"), &[rows.len(), ranks.len()]);
    }
    (!members.is_empty()).then_some(Group { a, rank, rows: row, width, members })
}

/// What follows the last dot.
fn last(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

#[cfg(test)]
mod tests;
