//! RMSNorm.

use rayon::prelude::*;

use super::math::dot;
use super::parallel::for_rows2;
use super::rounded::Number;
use crate::multiversion;
use crate::simd::Level;

/// Rows whose weight gradients are summed by one task. Fixed, so that the sum's order does not depend on the threads.
const ROWS: usize = 64;

/// `y[T,D] = x * rstd * w`, `rstd[T] = 1 / sqrt(mean(x^2) + eps)`.
pub fn rmsnorm_forward<N: Number>(level: Level, y: &mut [N], rstd: &mut [f32], x: &[f32], w: &[f32], eps: f32) {
    multiversion! {
        fn row(math, y: &mut [f32], rstd: &mut f32, x: &[f32], w: &[f32], eps: f32) {
            let mean_square = dot(math, x, x) / x.len() as f32;
            *rstd = 1.0 / (mean_square + eps).sqrt();
            for ((y, &x), &w) in y.iter_mut().zip(x).zip(w) {
                *y = x * *rstd * w;
            }
        }
    }
    let d = w.len();
    for_rows2(y, d, rstd, 1, |t, y, rstd| N::fill(level, y, |y| row(level, y, &mut rstd[0], &x[t * d..][..d], w, eps)));
}

/// `dx[T,D] += rstd * (dy * w - x * rstd^2 * mean(dy * w * x))`, `dw[D] += sum_t dy * x * rstd`.
pub fn rmsnorm_backward(level: Level, dx: &mut [f32], dw: &mut [f32], dy: &[f32], x: &[f32], w: &[f32], rstd: &[f32]) {
    multiversion! {
        /// One row; `scratch[D]` holds `dy * w`.
        fn row(math, dx: &mut [f32], dw: &mut [f32], dy: &[f32], x: &[f32], w: &[f32], rstd: f32, scratch: &mut [f32]) {
            let d = w.len();
            let (dx, dw, dy, x, scratch) = (&mut dx[..d], &mut dw[..d], &dy[..d], &x[..d], &mut scratch[..d]);
            for i in 0..d {
                scratch[i] = dy[i] * w[i];
                dw[i] = math.mul_add(dy[i] * x[i], rstd, dw[i]);
            }
            let along = dot(math, scratch, x) / d as f32 * rstd * rstd;
            for i in 0..d {
                dx[i] = math.mul_add(rstd, math.mul_add(-along, x[i], scratch[i]), dx[i]);
            }
        }
    }
    let d = w.len();
    let blocks = |(block, dx): (usize, &mut [f32])| {
        let (mut dw, mut scratch) = (vec![0.0; d], vec![0.0; d]);
        for (at, dx) in dx.chunks_exact_mut(d).enumerate() {
            let t = block * ROWS + at;
            row(level, dx, &mut dw, &dy[t * d..][..d], &x[t * d..][..d], w, rstd[t], &mut scratch);
        }
        dw
    };
    let parts: Vec<Vec<f32>> = if dx.len() <= ROWS * d {
        vec![blocks((0, dx))]
    } else {
        dx.par_chunks_mut(ROWS * d).enumerate().map(blocks).collect()
    };
    for part in parts {
        dw.iter_mut().zip(part).for_each(|(dw, part)| *dw += part);
    }
}
