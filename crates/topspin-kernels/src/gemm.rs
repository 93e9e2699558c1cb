//! The three products of a linear layer.

use gemmkit::{MatMut, MatRef, Parallelism, gemm};

use crate::device::Use;
use crate::simd::Level;

/// What products are computed in. Accumulation and results are always `f32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Precision {
    /// Operands as they are.
    F32,
    /// Operands rounded to bf16.
    Bf16,
}

/// A weight matrix laid out for products.
pub struct Weight {
    n: usize,
    k: usize,
}

impl Weight {
    /// Lays out `w[n,k]` (out x in).
    pub fn prepare(_level: Level, _precision: Precision, _w: &[f32], n: usize, k: usize, _for_use: Use) -> Self {
        Self { n, k }
    }

    /// The same after `w` changed.
    pub fn update(&mut self, _w: &[f32]) {}
}

/// `y[m,n] = x[m,k] · wᵀ`, or `+=` when `accumulate`.
pub fn linear_forward(_level: Level, y: &mut [f32], x: &[f32], w: &[f32], weight: &Weight, accumulate: bool) {
    let (n, k) = (weight.n, weight.k);
    let m = x.len() / k;
    let b = MatRef::new(w, k, n, 1, k as isize);
    let beta = f32::from(accumulate as u8);
    let y = MatMut::from_row_major(y, m, n);
    gemm(1.0, MatRef::from_row_major(x, m, k), b, beta, y, Parallelism::default());
}

/// `dx[m,k] = dy[m,n] · w`, or `+=` when `accumulate`.
pub fn linear_backward_input(_level: Level, dx: &mut [f32], dy: &[f32], w: &[f32], weight: &Weight, accumulate: bool) {
    let (n, k) = (weight.n, weight.k);
    let m = dx.len() / k;
    let beta = f32::from(accumulate as u8);
    let (dy, w) = (MatRef::from_row_major(dy, m, n), MatRef::from_row_major(w, n, k));
    gemm(1.0, dy, w, beta, MatMut::from_row_major(dx, m, k), Parallelism::default());
}

/// `dw[n,k] += dy[m,n]ᵀ · x[m,k]`.
pub fn linear_backward_weight(_level: Level, dw: &mut [f32], dy: &[f32], x: &[f32], weight: &Weight) {
    let (n, k) = (weight.n, weight.k);
    let m = x.len() / k;
    let (dy, x) = (MatRef::new(dy, n, m, 1, n as isize), MatRef::from_row_major(x, m, k));
    gemm(1.0, dy, x, 1.0, MatMut::from_row_major(dw, n, k), Parallelism::default());
}
