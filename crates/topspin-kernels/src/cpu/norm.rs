//! RMSNorm of rows, and of parts of rows.

use rayon::prelude::*;

use super::math::dot;
use super::parallel::for_rows2;
use super::rounded::Number;
use crate::device::{HeadShape, Norm};
use crate::multiversion;
use crate::simd::Level;

/// Rows whose weight gradients are summed by one task. Fixed, so that the sum's order does not depend on the threads.
const ROWS: usize = 64;

multiversion! {
    /// `y = x * rstd * (w + offset)`, `rstd = 1 / sqrt(mean(x^2) + eps)`, for each part of the width of `w`.
    fn norm_parts(math, y: &mut [f32], rstd: &mut [f32], x: &[f32], w: &[f32], norm: Norm) {
        let parts = y.chunks_exact_mut(w.len()).zip(x.chunks_exact(w.len()));
        for ((y, x), rstd) in parts.zip(rstd) {
            let mean_square = dot(math, x, x) / x.len() as f32;
            *rstd = 1.0 / (mean_square + norm.eps).sqrt();
            for ((y, &x), &w) in y.iter_mut().zip(x).zip(w) {
                *y = x * *rstd * (w + norm.offset);
            }
        }
    }
}

multiversion! {
    /// `dx += rstd * (dy * w' - x * rstd^2 * mean(dy * w' * x))` with `w' = w + offset`, and `dw += dy * x * rstd`, for
    /// each part of the width of `w`; `scratch` of that width holds `dy * w'`.
    fn norm_parts_backward(
        math,
        dx: &mut [f32],
        dw: &mut [f32],
        dy: &[f32],
        x: &[f32],
        w: &[f32],
        rstd: &[f32],
        offset: f32,
        scratch: &mut [f32],
    ) {
        let d = w.len();
        let (dw, scratch) = (&mut dw[..d], &mut scratch[..d]);
        let parts = dx.chunks_exact_mut(d).zip(dy.chunks_exact(d)).zip(x.chunks_exact(d));
        for (((dx, dy), x), &rstd) in parts.zip(rstd) {
            for i in 0..d {
                scratch[i] = dy[i] * (w[i] + offset);
                dw[i] = math.mul_add(dy[i] * x[i], rstd, dw[i]);
            }
            let along = dot(math, scratch, x) / d as f32 * rstd * rstd;
            for i in 0..d {
                dx[i] = math.mul_add(rstd, math.mul_add(-along, x[i], scratch[i]), dx[i]);
            }
        }
    }
}

/// `y[T,D] = norm(x)`, `rstd[T]`.
pub fn rmsnorm_forward<N: Number>(level: Level, y: &mut [N], rstd: &mut [f32], x: &[f32], w: &[f32], norm: Norm) {
    let d = w.len();
    for_rows2(y, d, rstd, 1, |t, y, rstd| N::fill(level, y, |y| norm_parts(level, y, rstd, &x[t * d..][..d], w, norm)));
}

/// `y[T,D] = residual + norm(x)`, `rstd[T]`.
pub fn rmsnorm_add_forward(
    level: Level,
    y: &mut [f32],
    rstd: &mut [f32],
    x: &[f32],
    w: &[f32],
    residual: &[f32],
    norm: Norm,
) {
    let d = w.len();
    for_rows2(y, d, rstd, 1, |t, y, rstd| {
        norm_parts(level, y, rstd, &x[t * d..][..d], w, norm);
        y.iter_mut().zip(&residual[t * d..][..d]).for_each(|(y, residual)| *y += residual);
    });
}

/// `dx[T,D] += ..`, `dw[D] += sum_t ..`.
pub fn rmsnorm_backward(
    level: Level,
    dx: &mut [f32],
    dw: &mut [f32],
    dy: &[f32],
    x: &[f32],
    w: &[f32],
    rstd: &[f32],
    norm: Norm,
) {
    let d = w.len();
    sum_over_rows(dx, d, dw, |t, dx, dw, scratch| {
        let (dy, x) = (&dy[t * d..][..d], &x[t * d..][..d]);
        norm_parts_backward(level, dx, dw, dy, x, w, &rstd[t..=t], norm.offset, scratch);
    });
}

/// How the queries and keys of a row are normed.
struct HeadNorm<'a> {
    /// Weights of queries and of keys: those of one head, which serve all, or of the whole row.
    weights: [&'a [f32]; 2],
    /// Ends of the queries and of the keys of a row.
    ends: [usize; 2],
    /// Parts that queries and keys are normed in.
    parts: [usize; 2],
}

impl<'a> HeadNorm<'a> {
    fn new(w: &'a [f32], heads: HeadShape) -> Self {
        let (q, k) = (heads.q_width(), heads.kv_width());
        let by_head = w.len() == 2 * heads.head_dim;
        assert!(by_head || w.len() == q + k, "{} weights for queries and keys of {heads:?}", w.len());
        let (wq, wk) = w.split_at(if by_head { heads.head_dim } else { q });
        Self { weights: [wq, wk], ends: [q, q + k], parts: [q / wq.len(), k / wk.len()] }
    }

    fn all_parts(&self) -> usize {
        self.parts[0] + self.parts[1]
    }
}

/// `y[T, ..]`: the queries and keys of `x[T, H*C|G*C|G*C]` normed, the values as they are; `rstd[T, parts]`.
pub fn head_norm_forward(
    level: Level,
    y: &mut [f32],
    rstd: &mut [f32],
    x: &[f32],
    w: &[f32],
    heads: HeadShape,
    norm: Norm,
) {
    let by = HeadNorm::new(w, heads);
    let (width, [q_end, k_end], [wq, wk]) = (heads.qkv_width(), by.ends, by.weights);
    for_rows2(y, width, rstd, by.all_parts(), |t, y, rstd| {
        let x = &x[t * width..][..width];
        let (q_rstd, k_rstd) = rstd.split_at_mut(by.parts[0]);
        norm_parts(level, &mut y[..q_end], q_rstd, &x[..q_end], wq, norm);
        norm_parts(level, &mut y[q_end..k_end], k_rstd, &x[q_end..k_end], wk, norm);
        y[k_end..].copy_from_slice(&x[k_end..]);
    });
}

/// `dqkv[T, ..]` from the gradient of the normed to that of `x`, in place; `dw += ..`.
pub fn head_norm_backward(
    level: Level,
    dqkv: &mut [f32],
    dw: &mut [f32],
    x: &[f32],
    w: &[f32],
    rstd: &[f32],
    heads: HeadShape,
    norm: Norm,
) {
    let by = HeadNorm::new(w, heads);
    let (width, [q_end, k_end], [wq, wk]) = (heads.qkv_width(), by.ends, by.weights);
    sum_over_rows(dqkv, width, dw, |t, dqkv, dw, scratch| {
        let (dy, scratch) = scratch.split_at_mut(k_end);
        dy.copy_from_slice(&dqkv[..k_end]);
        dqkv[..k_end].fill(0.0);
        let (x, (dq, dk)) = (&x[t * width..][..k_end], dqkv[..k_end].split_at_mut(q_end));
        let (q_rstd, k_rstd) = rstd[t * by.all_parts()..][..by.all_parts()].split_at(by.parts[0]);
        let ((dwq, dwk), offset) = (dw.split_at_mut(wq.len()), norm.offset);
        norm_parts_backward(level, dq, dwq, &dy[..q_end], &x[..q_end], wq, q_rstd, offset, scratch);
        norm_parts_backward(level, dk, dwk, &dy[q_end..], &x[q_end..], wk, k_rstd, offset, scratch);
    });
}

/// Calls `row(t, dx, dw, scratch)` for each row of `width` elements of `dx`, with a sum `dw` of some rows and scratch of two
/// rows, and adds the sums to `dw` in order.
fn sum_over_rows(
    dx: &mut [f32],
    width: usize,
    dw: &mut [f32],
    row: impl Fn(usize, &mut [f32], &mut [f32], &mut [f32]) + Sync,
) {
    let weights = dw.len();
    let block = |(block, dx): (usize, &mut [f32])| {
        let (mut dw, mut scratch) = (vec![0.0; weights], vec![0.0; 2 * width]);
        for (at, dx) in dx.chunks_exact_mut(width).enumerate() {
            row(block * ROWS + at, dx, &mut dw, &mut scratch);
        }
        dw
    };
    let parts: Vec<Vec<f32>> = if dx.len() <= ROWS * width {
        vec![block((0, dx))]
    } else {
        dx.par_chunks_mut(ROWS * width).enumerate().map(block).collect()
    };
    for part in parts {
        dw.iter_mut().zip(part).for_each(|(dw, part)| *dw += part);
    }
}
