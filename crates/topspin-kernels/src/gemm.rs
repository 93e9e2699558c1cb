//! The three products of a linear layer.

mod lanes;
mod pack;
mod product;
mod tile;

use crate::device::Use;
use crate::simd::Level;
use pack::{Operand, pack_panels, steps};
use product::{Panels, product};

/// What products are computed in. Accumulation and results are always `f32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Precision {
    /// Operands as they are.
    F32,
    /// Operands rounded to bf16.
    Bf16,
}

/// A weight matrix laid out for products.
#[derive(Clone, Debug)]
pub struct Weight {
    level: Level,
    precision: Precision,
    n: usize,
    k: usize,
    forward: Vec<u32>,
    backward: Option<Vec<u32>>,
}

impl Weight {
    /// Lays out `w[n,k]` (out x in).
    pub fn prepare(level: Level, precision: Precision, w: &[f32], n: usize, k: usize, for_use: Use) -> Self {
        let panels = |lines: usize, depth: usize| vec![0; lines.next_multiple_of(lanes::LANES) * steps(precision, depth)];
        let backward = (for_use == Use::ForwardAndBackward).then(|| panels(k, n));
        let mut weight = Self { level, precision, n, k, forward: panels(n, k), backward };
        weight.update(w);
        weight
    }

    /// The same after `w` changed.
    pub fn update(&mut self, w: &[f32]) {
        let (level, precision) = (self.level, self.precision);
        pack_panels(level, precision, &mut self.forward, Operand::rows(w, self.n, self.k), 0..steps(precision, self.k));
        if let Some(backward) = &mut self.backward {
            pack_panels(level, precision, backward, Operand::columns(w, self.k, self.n), 0..steps(precision, self.n));
        }
    }
}

/// `y[m,n] = x[m,k] · wᵀ`, or `+=` when `accumulate`.
pub fn linear_forward(level: Level, y: &mut [f32], x: &[f32], _w: &[f32], weight: &Weight, accumulate: bool) {
    let (n, k) = (weight.n, weight.k);
    let rows = Operand::rows(x, x.len() / k, k);
    product(level, weight.precision, y, rows, Panels::Packed(&weight.forward), n, accumulate);
}

/// `dx[m,k] = dy[m,n] · w`, or `+=` when `accumulate`.
pub fn linear_backward_input(level: Level, dx: &mut [f32], dy: &[f32], w: &[f32], weight: &Weight, accumulate: bool) {
    let (n, k) = (weight.n, weight.k);
    let panels = match &weight.backward {
        Some(backward) => Panels::Packed(backward),
        None => Panels::Plain(Operand::columns(w, k, n)),
    };
    product(level, weight.precision, dx, Operand::rows(dy, dy.len() / n, n), panels, k, accumulate);
}

/// `dw[n,k] += dy[m,n]ᵀ · x[m,k]`.
pub fn linear_backward_weight(level: Level, dw: &mut [f32], dy: &[f32], x: &[f32], weight: &Weight) {
    let (n, k) = (weight.n, weight.k);
    let m = x.len() / k;
    product(level, weight.precision, dw, Operand::columns(dy, n, m), Panels::Plain(Operand::columns(x, k, m)), k, true);
}
