//! Adapters beside the products of a layer: `y += u · Bᵀ` with `u = drop(x) · Aᵀ`, and `s` within B.
//!
//! Layers that are one product have one product for all their matrices A, and one for all their B: a matrix with each B at
//! its own rows and ranks, and zeros elsewhere. The zeros cost less than products by themselves would.

use topspin_kernels::device::{Buffer, Device, Dropout, Matrix, Plus, Rows, Use};
use topspin_kernels::gemm::Precision;
use topspin_kernels::rng::Key;

use super::Decoder;
use crate::adapter::{Adapter, Group, Site};
use crate::config::DecoderConfig;

/// Which elements an adapter does not see in one batch of training.
#[derive(Clone, Copy, Debug)]
pub struct DropoutDraw {
    /// Share of the elements.
    pub rate: f32,
    /// The random numbers of the stage.
    pub key: Key,
    /// Number of the batch.
    pub batch: u64,
}

impl DropoutDraw {
    /// That of one product.
    fn of(self, layer: usize, site: Site) -> Dropout {
        let number = layer * Site::ALL.len() + site as usize;
        Dropout { rate: self.rate, stream: self.key.stream(self.batch, number as u32) }
    }
}

/// The adapters of one product.
pub(super) struct LowRank<D: Device> {
    layer: usize,
    site: Site,
    group: Group,
    /// `[R, k]`.
    a: D::Weight,
    /// `[n, R]`, all B with their factors.
    wide_b: D::Buffer,
    b: D::Weight,
}

/// What the forward of one product's adapters leaves for its backward.
pub(super) struct SiteTape<D: Device> {
    /// `[T, R]`.
    u: D::Buffer,
}

/// What the forward of a layer's adapters leaves for its backward.
pub(super) struct LowRankTape<D: Device> {
    pub qkv: SiteTape<D>,
    pub output: SiteTape<D>,
    pub gate_up: SiteTape<D>,
    pub down: SiteTape<D>,
}

/// Memory that the adapters of all products use anew.
pub(super) struct LowRankScratch<D: Device> {
    /// `[T, k]`: what is read, with some elements dropped.
    dropped: D::Rounded,
    /// Which elements, if any.
    pub draw: Option<DropoutDraw>,
}

/// What the forward of one product's adapters writes.
pub(super) struct LowRankForward<'a, D: Device> {
    u: &'a mut D::Buffer,
    dropped: &'a mut D::Rounded,
    pub draw: Option<DropoutDraw>,
}

/// Gradients that all adapters share memory for.
pub(super) struct LowRankGrads<D: Device> {
    /// Of `u`, `[T, R]`.
    u: D::Buffer,
    /// Of what is read, as far as it was not dropped, `[T, k]`.
    dropped: D::Buffer,
    /// Of all B, `[n, R]`.
    wide_b: D::Buffer,
}

impl<D: Device> SiteTape<D> {
    pub fn forward<'a>(&'a mut self, scratch: &'a mut LowRankScratch<D>) -> LowRankForward<'a, D> {
        LowRankForward { u: &mut self.u, dropped: &mut scratch.dropped, draw: scratch.draw }
    }
}

impl<D: Device> LowRankTape<D> {
    /// Room for `rows`.
    pub fn new(decoder: &Decoder<D>, rows: usize) -> Self {
        let widest = decoder.adapter().map_or(0, Adapter::widest);
        let site = || SiteTape { u: decoder.device.alloc(rows * widest) };
        Self { qkv: site(), output: site(), gate_up: site(), down: site() }
    }
}

impl<D: Device> LowRankScratch<D> {
    /// Room for `rows`.
    pub fn new(decoder: &Decoder<D>, rows: usize) -> Self {
        let width = if dropout(decoder) { widest_input(&decoder.config) } else { 0 };
        Self { dropped: decoder.device.alloc_rounded(decoder.precision, rows * width), draw: None }
    }
}

impl<D: Device> LowRankGrads<D> {
    /// Room for `rows`.
    pub fn new(decoder: &Decoder<D>, rows: usize) -> Self {
        let (device, config) = (&decoder.device, &decoder.config);
        let widest = decoder.adapter().map_or(0, Adapter::widest);
        let width = if dropout(decoder) { widest_input(config) } else { 0 };
        let outputs = config.heads().qkv_width().max(2 * config.intermediate_size).max(config.hidden_size);
        Self {
            u: device.alloc(rows * widest),
            dropped: device.alloc(rows * width),
            wide_b: device.alloc(outputs * widest),
        }
    }
}

/// Whether training with the adapter may hide elements from it.
fn dropout<D: Device>(decoder: &Decoder<D>) -> bool {
    decoder.adapter().is_some_and(|adapter| adapter.config().dropout > 0.0)
}

/// Width of the widest rows that a layer's products read.
fn widest_input(config: &DecoderConfig) -> usize {
    config.hidden_size.max(config.intermediate_size).max(config.heads().q_width())
}

impl<D: Device> LowRank<D> {
    /// The adapters of `group`, whose parameters are in `params`.
    pub fn new(device: &D, precision: Precision, params: &D::Buffer, layer: usize, site: Site, group: &Group) -> Self {
        // Small beside the model's, and always laid out: they change at each step.
        let (n, k, for_use) = (group.rows, group.width, Use::ForwardAndBackward);
        let a = device.weight(precision, Matrix::Single(params.part(group.a.clone())), group.rank, k, for_use);
        let mut wide_b = device.alloc(n * group.rank);
        widen(device, &mut wide_b, params, group);
        let b = device.weight(precision, Matrix::Single(wide_b.head(n * group.rank)), n, group.rank, for_use);
        Self { layer, site, group: group.clone(), a, wide_b, b }
    }

    /// The same after the parameters changed.
    pub fn update(&mut self, device: &D, params: &D::Buffer) {
        device.weight_update(&mut self.a, params.part(self.group.a.clone()));
        widen(device, &mut self.wide_b, params, &self.group);
        device.weight_update(&mut self.b, self.wide_b.head(self.wide_b.len()));
    }

    /// `[R, k]`.
    fn matrix_a<'a>(&self, params: &'a D::Buffer) -> Matrix<'a, D> {
        Matrix::Single(params.part(self.group.a.clone()))
    }

    /// `[n, R]`.
    fn matrix_b(&self) -> Matrix<'_, D> {
        Matrix::Single(self.wide_b.head(self.wide_b.len()))
    }

    /// What the adapters read: `x`, or what dropout leaves of it.
    fn input<'a>(
        &self,
        device: &D,
        x: Rows<'a, D>,
        dropped: &'a mut D::Rounded,
        draw: Option<DropoutDraw>,
    ) -> Rows<'a, D> {
        let Some(draw) = draw else { return x };
        let len = x.len();
        device.dropout_forward(dropped.head_mut(len), x, self.group.width, draw.of(self.layer, self.site));
        Rows::Rounded(dropped.head(len))
    }

    /// Adds to the product's result `y`, of which there are `len` elements.
    pub fn forward(
        &self,
        device: &D,
        params: &D::Buffer,
        y: &mut D::Buffer,
        len: usize,
        x: Rows<D>,
        LowRankForward { u, dropped, draw }: LowRankForward<D>,
    ) {
        let u_len = x.len() / self.group.width * self.group.rank;
        let (input, a) = (self.input(device, x, dropped, draw), self.matrix_a(params));
        device.linear_forward(u.head_mut(u_len), input, a, &self.a, Plus::Nothing);
        let u = Rows::Single(u.head(u_len));
        device.linear_forward(y.head_mut(len), u, self.matrix_b(), &self.b, Plus::Result);
    }

    /// Adds to the gradient `dx` of what the product reads, of which there are `len` elements, and leaves that of `u`.
    pub fn backward_input(
        &self,
        device: &D,
        params: &D::Buffer,
        dx: &mut D::Buffer,
        len: usize,
        dy: Rows<D>,
        acts: &mut LowRankGrads<D>,
        draw: Option<DropoutDraw>,
    ) {
        let u_len = len / self.group.width * self.group.rank;
        device.linear_backward_input(acts.u.head_mut(u_len), dy, self.matrix_b(), &self.b, false);
        let (du, a) = (Rows::Single(acts.u.head(u_len)), self.matrix_a(params));
        match draw {
            None => device.linear_backward_input(dx.head_mut(len), du, a, &self.a, true),
            Some(draw) => {
                device.linear_backward_input(acts.dropped.head_mut(len), du, a, &self.a, false);
                let dropout = draw.of(self.layer, self.site);
                device.dropout_backward(dx.head_mut(len), acts.dropped.head(len), self.group.width, dropout);
            }
        }
    }

    /// The gradients of A and B, in the arena `grads` of the adapter, after [`backward_input`](Self::backward_input).
    pub fn backward_weight(
        &self,
        device: &D,
        grads: &mut D::Buffer,
        dy: Rows<D>,
        x: Rows<D>,
        acts: &mut LowRankGrads<D>,
        LowRankForward { u, dropped, draw }: LowRankForward<D>,
        accumulate: bool,
    ) {
        let (rank, wide_len) = (self.group.rank, self.wide_b.len());
        let u_len = x.len() / self.group.width * rank;
        let input = self.input(device, x, dropped, draw);
        let (du, u) = (Rows::Single(acts.u.head(u_len)), Rows::Single(u.head(u_len)));
        device.linear_backward_weight(grads.part_mut(self.group.a.clone()), du, input, &self.a, accumulate);
        device.linear_backward_weight(acts.wide_b.head_mut(wide_len), dy, u, &self.b, false);
        for member in &self.group.members {
            let dwide = acts.wide_b.part(member.rows.start * rank..member.rows.end * rank);
            if !accumulate {
                device.zero(grads.part_mut(member.b.clone()));
            }
            device.columns_backward(grads.part_mut(member.b.clone()), dwide, rank, member.ranks.clone(), member.scale);
        }
    }
}

/// Puts each B at its rows and ranks.
fn widen<D: Device>(device: &D, wide_b: &mut D::Buffer, params: &D::Buffer, group: &Group) {
    for member in &group.members {
        let wide = wide_b.part_mut(member.rows.start * group.rank..member.rows.end * group.rank);
        let b = params.part(member.b.clone());
        device.columns_forward(wide, group.rank, member.ranks.clone(), b, member.scale);
    }
}
