//! The three products of a linear layer, `y = x · wᵀ`, with the weights as checkpoints store them: `w[n,k]`, out x in.
//!
//! # What is promised
//!
//! - An element of `y` or `dx` depends, to the bit, on its row of the left operand, on the weights and on `k` or `n`.
//!   It does not depend on the number of rows, on where among them its row stands, or on the number of threads. So a
//!   token computed alone gives the bits that it gives in a batch.
//! - `dw` depends on the rows and their order, not on the number of threads.
//! - Bits do differ between vector levels, since these differ in fused multiply-add.
//!
//! # How it is done
//!
//! Both operands are packed: 16 columns of the right one interleaved into a *panel*, a few rows of the left one into a
//! row *tile*. The inner loop multiplies one row tile with a few panels and keeps all sums in registers (Goto & van de
//! Geijn, "Anatomy of high-performance matrix multiplication", 2008). Weights are packed when they change, not when
//! they are used: below some hundred rows that copy would cost more than the product. Training in `f32`, where packed
//! weights would be two more copies of the parameters at full size, packs on the way.
//!
//! The modules, from the outside in: `product` cuts and deals out the work, `pack` copies operands, `tile` is the inner
//! loop, `lanes` the vector instructions.

mod lanes;
mod pack;
mod product;
mod tile;

use crate::device::Use;
use crate::memory::Memory;
use crate::simd::Level;
use crate::stored::Stored;
use lanes::LANES;
use pack::{Operand, Source, pack_panels, steps};
pub use product::Plus;
use product::{Panels, product};

/// What products are computed in. Sums and results are always `f32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Precision {
    /// Operands as they are.
    F32,
    /// Operands rounded to bf16, to nearest and ties to even. Levels below [`Level::Avx512Bf16`] widen them to `f32`
    /// again, so the arithmetic is defined everywhere; results at that level differ from the others' in denormals
    /// alone, which its instruction takes for zero.
    Bf16,
}

impl Precision {
    /// Bytes of a number in this precision.
    pub fn bytes(self) -> usize {
        match self {
            Precision::F32 => 4,
            Precision::Bf16 => 2,
        }
    }
}

/// Numbers that a product reads: as they are, or rounded already.
#[derive(Clone, Copy, Debug)]
pub enum Numbers<'a> {
    /// In single precision.
    F32(&'a [f32]),
    /// The bits of bf16, for products in [`Precision::Bf16`].
    Bf16(&'a [u16]),
}

impl Numbers<'_> {
    /// How many.
    pub fn len(&self) -> usize {
        match self {
            Numbers::F32(numbers) => numbers.len(),
            Numbers::Bf16(numbers) => numbers.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A weight matrix where it lies: out x in, row-major.
#[derive(Clone, Copy, Debug)]
pub enum Elements<'a> {
    /// In single precision.
    Single(&'a [f32]),
    /// As a file stores it. Products compute what they would of its elements decoded to single precision, to the bit.
    Stored(&'a Stored),
}

impl<'a> Elements<'a> {
    /// Checks that this is a matrix `[n, k]`, whose rows, or else its columns, are lines of panels.
    fn lines(self, n: usize, k: usize, by_row: bool) -> Source<'a> {
        match self {
            Elements::Single(w) => {
                assert_eq!(w.len(), n * k, "weights of shape [{n}, {k}]");
                let operand = if by_row { Operand::rows } else { |w, n, k| Operand::columns(w, k, n) };
                Source::Plain(operand(Numbers::F32(w), n, k))
            }
            Elements::Stored(matrix) => {
                assert_eq!([matrix.rows(), matrix.columns()], [n, k], "shape of the stored weights");
                Source::Stored { matrix, by_row }
            }
        }
    }
}

/// A weight matrix laid out for products.
pub struct Weight {
    level: Level,
    precision: Precision,
    n: usize,
    k: usize,
    /// Panels of 16 rows of the matrix, for the forward.
    forward: Option<Memory<u32>>,
    /// Panels of 16 of its columns, for the gradient of the input.
    backward: Option<Memory<u32>>,
}

impl Weight {
    /// Lays out `w[n,k]` for products in `precision` with the instructions of `level`.
    ///
    /// `for_use` decides about speed and memory alone: every weight can take part in every product. What is not kept
    /// packed is packed on the way.
    ///
    /// # Panics
    /// If `n` or `k` is 0, if `w` is of another shape, or if the level is not available.
    pub fn prepare(level: Level, precision: Precision, w: Elements, n: usize, k: usize, for_use: Use) -> Self {
        assert!(n > 0 && k > 0, "weights of shape [{n}, {k}]");
        let panels =
            |lines: usize, depth: usize| Some(Memory::zeroed(lines.next_multiple_of(LANES) * steps(precision, depth)));
        let (forward, backward) = match (for_use, precision) {
            (Use::Forward, _) => (panels(n, k), None),
            (Use::ForwardAndBackward, Precision::Bf16) => (panels(n, k), panels(k, n)),
            (Use::ForwardAndBackward, Precision::F32) | (Use::InPlace, _) => (None, None),
        };
        let mut weight = Self { level: level.verified(), precision, n, k, forward, backward };
        weight.update(w);
        weight
    }

    /// The same after `w` changed, in the same memory.
    ///
    /// # Panics
    /// If `w` is of another shape than before.
    pub fn update(&mut self, w: Elements) {
        let Self { level, precision, n, k, .. } = *self;
        let (rows, columns) = (w.lines(n, k, true), w.lines(n, k, false));
        if let Some(panels) = &mut self.forward {
            pack_panels(level, precision, panels, rows, 0..n, 0..steps(precision, k));
        }
        if let Some(panels) = &mut self.backward {
            pack_panels(level, precision, panels, columns, 0..k, 0..steps(precision, n));
        }
    }
}

/// Panels that are there, or what they are to be made of.
fn panels<'a>(packed: &'a Option<Memory<u32>>, source: Source<'a>) -> Panels<'a> {
    packed.as_deref().map_or(Panels::OnTheWay(source), Panels::Packed)
}

/// `y[m,n] = plus + x[m,k] · wᵀ`. `w` are the weights that `weight` was last updated with.
///
/// # Panics
/// If the lengths of `y`, `x`, `w` and `plus` do not fit the weights or each other.
pub fn linear_forward(y: &mut [f32], x: Numbers, w: Elements, weight: &Weight, plus: Plus) {
    let Weight { level, precision, n, k, .. } = *weight;
    let panels = panels(&weight.forward, w.lines(n, k, true));
    product(level, precision, y, Operand::rows(x, row_count(x, k), k), panels, n, plus);
}

/// `dx[m,k] = dy[m,n] · w`, or `+=` when `accumulate`.
///
/// # Panics
/// If the lengths of `dx`, `dy` and `w` do not fit the weights or each other.
pub fn linear_backward_input(dx: &mut [f32], dy: Numbers, w: Elements, weight: &Weight, accumulate: bool) {
    let Weight { level, precision, n, k, .. } = *weight;
    let panels = panels(&weight.backward, w.lines(n, k, false));
    product(level, precision, dx, Operand::rows(dy, row_count(dy, n), n), panels, k, Plus::to_result(accumulate));
}

/// `dw[n,k] = dy[m,n]ᵀ · x[m,k]`, sums over the rows, or `+=` when `accumulate`.
///
/// # Panics
/// If the lengths of `dw`, `dy` and `x` do not fit the weights or each other.
pub fn linear_backward_weight(dw: &mut [f32], dy: Numbers, x: Numbers, weight: &Weight, accumulate: bool) {
    let Weight { level, precision, n, k, .. } = *weight;
    let m = row_count(x, k);
    assert_eq!(dy.len(), m * n, "gradient of {m} rows of {n}");
    let panels = Panels::OnTheWay(Source::Plain(Operand::columns(x, k, m)));
    product(level, precision, dw, Operand::columns(dy, n, m), panels, k, Plus::to_result(accumulate));
}

/// Number of rows of `width` in `matrix`.
fn row_count(matrix: Numbers, width: usize) -> usize {
    assert!(matrix.len().is_multiple_of(width), "{} elements in rows of {width}", matrix.len());
    matrix.len() / width
}
