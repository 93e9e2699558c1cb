//! What a forward leaves behind for the backward, and the memory that layers share.

use std::ops::Range;

use topspin_kernels::device::Device;
use topspin_kernels::gemm::Precision;

use super::block::Branch;
use super::head::head_chunk;
use super::low_rank::{LowRankGrads, LowRankScratch, LowRankTape};
use super::{Decoder, DropoutDraw};
use crate::batch::Batch;
use crate::config::NormPosition;

/// How much of the forward a [`Tape`] keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Nothing: generation and scoring.
    Nothing,
    /// The input of each layer; the backward runs each layer's forward again.
    LayerInputs,
    /// All that the backward needs.
    Everything,
}

/// Activations of one layer that its backward reads. `T` rows each.
pub(super) struct LayerTape<D: Device> {
    pub rstd_attn: D::Buffer,
    /// Before the norm of queries and keys, where there is one.
    pub qkv_product: D::Buffer,
    pub rstd_heads: D::Buffer,
    pub qkv: D::Buffer,
    pub attn: D::Buffer,
    pub lse: D::Buffer,
    /// What goes through a norm behind the block.
    pub attn_branch: Option<Branch<D>>,
    pub low_rank: LowRankTape<D>,
    pub mid: D::Buffer,
    pub rstd_mlp: D::Buffer,
    pub gate_up: D::Buffer,
    pub mlp_branch: Option<Branch<D>>,
}

/// Memory that each layer uses anew.
pub(super) struct Scratch<D: Device> {
    /// A normed input of a product, `[T, D]`.
    pub normed: D::Rounded,
    /// The gated product, `[T, F]`.
    pub act: D::Rounded,
    /// What a block adds with a factor.
    pub branch: Branch<D>,
    pub low_rank: LowRankScratch<D>,
}

/// What a layer works with.
pub(super) struct LayerParts<'a, D: Device> {
    /// Its input.
    pub x: &'a mut D::Buffer,
    /// Input of the next.
    pub next: &'a mut D::Buffer,
    pub saved: &'a mut LayerTape<D>,
    pub scratch: &'a mut Scratch<D>,
    /// Tables of rotary positions.
    pub rope: &'a [D::Buffer],
}

/// Gradients of one layer's activations.
pub(super) struct Grads<D: Device> {
    /// Of the residual stream, `[T, D]`.
    pub x: D::Buffer,
    /// Of a normed input, `[T, D]`.
    pub normed: D::Buffer,
    /// Of what a block adds, where it is another one than that of the residual stream.
    pub branch: D::Buffer,
    pub act: D::Buffer,
    pub gate_up: D::Rounded,
    pub attn: D::Buffer,
    pub qkv: D::Buffer,
    pub low_rank: LowRankGrads<D>,
    /// Of the gathered output rows, before and after the final norm, `[N, D]`.
    pub gathered: D::Buffer,
    pub normed_out: D::Buffer,
    /// Of the log-probabilities, `[N]`.
    pub logp: D::Buffer,
}

/// Activations of one batch. Its memory grows to the largest batch it has seen and is used again.
pub struct Tape<D: Device> {
    pub(super) keep: Keep,
    draw: Option<DropoutDraw>,
    rows: usize,
    outputs: usize,
    positions: usize,
    /// Tables of rotary positions, see [`super::rotary`].
    rope: Vec<D::Buffer>,
    /// Input of each layer and of the head, `[T, D]`; two in turn when nothing is kept.
    pub(super) inputs: Vec<D::Buffer>,
    /// One for each layer, or one for all.
    pub(super) layers: Vec<LayerTape<D>>,
    pub(super) scratch: Option<Scratch<D>>,
    pub(super) grads: Option<Grads<D>>,
    /// Keys and values of one layer of a batch that holds its whole paths.
    pub(super) kv: Option<D::Kv>,
    pub(super) gathered: D::Buffer,
    pub(super) normed_out: D::Rounded,
    pub(super) rstd_out: D::Buffer,
    pub(super) logp: D::Buffer,
    pub(super) lse_out: D::Buffer,
    pub(super) logits: D::Buffer,
    /// The outputs whose logits `logits` holds.
    pub(super) logits_of: Option<Range<usize>>,
}

impl<D: Device> Tape<D> {
    /// An empty tape.
    pub fn new(device: &D, keep: Keep) -> Self {
        Self {
            keep,
            draw: None,
            rows: 0,
            outputs: 0,
            positions: 0,
            rope: Vec::new(),
            inputs: Vec::new(),
            layers: Vec::new(),
            scratch: None,
            grads: None,
            kv: None,
            gathered: device.alloc(0),
            normed_out: device.alloc_rounded(Precision::F32, 0),
            rstd_out: device.alloc(0),
            logp: device.alloc(0),
            lse_out: device.alloc(0),
            logits: device.alloc(0),
            logits_of: None,
        }
    }

    /// What the adapters of the next batches do not see; nothing is hidden from those of a new tape.
    pub fn set_dropout(&mut self, draw: Option<DropoutDraw>) {
        self.draw = draw;
    }

    /// Makes room for `batch`.
    pub(super) fn reserve(&mut self, decoder: &Decoder<D>, batch: &Batch) {
        if batch.rows() > self.rows {
            self.rows = batch.rows();
            self.reserve_rows(decoder);
        }
        if batch.outputs.len() > self.outputs {
            self.outputs = batch.outputs.len();
            self.reserve_outputs(decoder);
        }
        self.scratch.iter_mut().for_each(|scratch| scratch.low_rank.draw = self.draw);
        let positions = batch.positions.iter().max().map_or(0, |&last| last as usize + 1);
        if positions > self.positions {
            // A power of two: sequences grow one by one.
            self.positions = positions.next_power_of_two();
            self.rope = decoder.rotary.tables(&decoder.device, self.positions);
        }
    }

    fn reserve_rows(&mut self, decoder: &Decoder<D>) {
        let (config, device, t) = (&decoder.config, &decoder.device, self.rows);
        let (d, f, heads, layers) = (config.hidden_size, config.intermediate_size, config.heads(), config.num_layers);
        let rounded = |len: usize| device.alloc_rounded(decoder.precision, len);
        // Freed first: the new memory must not stand beside the old.
        self.inputs.clear();
        self.layers.clear();
        (self.scratch, self.grads, self.kv) = (None, None, None);
        let branch = |here: bool| Branch::new(device, if here { t } else { 0 }, d);
        let (normed_behind, factor) = (config.norm_position != NormPosition::Before, config.residual_multiplier != 1.0);
        let head_norm_rows = if config.head_norm.is_some() { t } else { 0 };
        let kept_inputs = if self.keep == Keep::Nothing { 2 } else { layers + 1 };
        let kept_layers = if self.keep == Keep::Everything { layers } else { 1 };
        self.inputs.extend((0..kept_inputs).map(|_| device.alloc(t * d)));
        self.layers.extend((0..kept_layers).map(|_| LayerTape {
            rstd_attn: device.alloc(t),
            qkv_product: device.alloc(head_norm_rows * heads.qkv_width()),
            rstd_heads: device.alloc(head_norm_rows * config.head_norm_parts()),
            qkv: device.alloc(t * heads.qkv_width()),
            attn: device.alloc(t * heads.q_width()),
            lse: device.alloc(t * heads.num_heads),
            attn_branch: normed_behind.then(|| branch(true)),
            low_rank: LowRankTape::new(decoder, t),
            mid: device.alloc(t * d),
            rstd_mlp: device.alloc(t),
            gate_up: device.alloc(t * 2 * f),
            mlp_branch: normed_behind.then(|| branch(true)),
        }));
        self.scratch = Some(Scratch {
            normed: rounded(t * d),
            act: rounded(t * f),
            branch: branch(factor),
            low_rank: LowRankScratch::new(decoder, t),
        });
        self.kv = Some(device.kv(decoder.precision, 1, t, heads));
        if self.keep != Keep::Nothing {
            self.grads = Some(Grads {
                x: device.alloc(t * d),
                normed: device.alloc(t * d),
                branch: device.alloc(if normed_behind || factor { t * d } else { 0 }),
                act: device.alloc(t * f),
                gate_up: rounded(t * 2 * f),
                attn: device.alloc(t * heads.q_width()),
                qkv: device.alloc(t * heads.qkv_width()),
                low_rank: LowRankGrads::new(decoder, t),
                gathered: device.alloc(0),
                normed_out: device.alloc(0),
                logp: device.alloc(0),
            });
            // The gradients of outputs live in the same struct: have them made anew.
            self.outputs = 0;
        }
    }

    fn reserve_outputs(&mut self, decoder: &Decoder<D>) {
        let (config, device, n) = (&decoder.config, &decoder.device, self.outputs);
        let d = config.hidden_size;
        self.gathered = device.alloc(n * d);
        self.normed_out = device.alloc_rounded(decoder.precision, n * d);
        self.rstd_out = device.alloc(n);
        self.logp = device.alloc(n);
        self.lse_out = device.alloc(n);
        self.logits = device.alloc(n.min(head_chunk(config.vocab_size)) * config.vocab_size);
        if let Some(grads) = &mut self.grads {
            grads.gathered = device.alloc(n * d);
            grads.normed_out = device.alloc(n * d);
            grads.logp = device.alloc(n);
        }
    }

    /// Which of `inputs` is the input of `layer` (of the head, for the number of layers).
    pub(super) fn input_index(&self, layer: usize) -> usize {
        layer % self.inputs.len()
    }

    /// What a layer works with.
    pub(super) fn layer_mut(&mut self, layer: usize) -> LayerParts<'_, D> {
        let (at, next) = (self.input_index(layer), self.input_index(layer + 1));
        let [x, next] = self.inputs.get_disjoint_mut([at, next]).expect("two inputs at least");
        let kept = layer % self.layers.len();
        let scratch = self.scratch.as_mut().expect("a reserved tape has scratch");
        LayerParts { x, next, saved: &mut self.layers[kept], scratch, rope: &self.rope }
    }
}
