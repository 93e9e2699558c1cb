//! Gated activations, rotary positions and sums with the residual stream: one row at a time, every element by itself.

use rayon::prelude::*;

use super::math::sigmoid;
use super::parallel::{GRAIN, for_rows, for_rows2};
use super::rounded::Number;
use crate::device::{Activation, HeadShape};
use crate::multiversion;
use crate::simd::{Arithmetic, Level};

/// An activation of the form `x * sigmoid(inner(x))`.
trait Gate {
    /// `inner(x)` and its derivative.
    fn inner(math: impl Arithmetic, x: f32) -> [f32; 2];
}

/// `inner(x) = x`.
struct Silu;

impl Gate for Silu {
    #[inline(always)]
    fn inner(_math: impl Arithmetic, x: f32) -> [f32; 2] {
        [x, 1.0]
    }
}

/// `inner(x) = 2 sqrt(2 / pi) (x + 0.044715 x^3)`, as `(1 + tanh u) / 2 = sigmoid(2 u)`.
struct GeluTanh;

impl Gate for GeluTanh {
    #[inline(always)]
    fn inner(math: impl Arithmetic, x: f32) -> [f32; 2] {
        use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};
        const FIRST: f32 = (2.0 * FRAC_2_SQRT_PI * FRAC_1_SQRT_2) as f32;
        const THIRD: f32 = 0.044_715 * FIRST;
        let square = x * x;
        [x * math.mul_add(square, THIRD, FIRST), math.mul_add(square, 3.0 * THIRD, FIRST)]
    }
}

/// `y[T,F] = activation(gate) * up`; `gate_up[T, F|F]`.
pub fn glu_forward<N: Number>(level: Level, y: &mut [N], gate_up: &[f32], width: usize, activation: Activation) {
    match activation {
        Activation::Silu => forward::<Silu, N>(level, y, gate_up, width),
        Activation::GeluTanh => forward::<GeluTanh, N>(level, y, gate_up, width),
    }
}

fn forward<G: Gate, N: Number>(level: Level, y: &mut [N], gate_up: &[f32], width: usize) {
    multiversion! {
        fn row<G: Gate>(math, y: &mut [f32], gate: &[f32], up: &[f32]) {
            for ((y, &gate), &up) in y.iter_mut().zip(gate).zip(up) {
                *y = gate * sigmoid(math, G::inner(math, gate)[0]) * up;
            }
        }
    }
    for_rows(y, width, |t, y| {
        let (gate, up) = gate_up[t * 2 * width..][..2 * width].split_at(width);
        N::fill(level, y, |y| row::<G>(level, y, gate, up));
    });
}

/// `dgate_up[T, F|F]` from `dy[T,F]`, and the forward's `y[T,F]` once more.
pub fn glu_backward<N: Number>(
    level: Level,
    dgate_up: &mut [N],
    y: &mut [N],
    dy: &[f32],
    gate_up: &[f32],
    width: usize,
    activation: Activation,
) {
    match activation {
        Activation::Silu => backward::<Silu, N>(level, dgate_up, y, dy, gate_up, width),
        Activation::GeluTanh => backward::<GeluTanh, N>(level, dgate_up, y, dy, gate_up, width),
    }
}

fn backward<G: Gate, N: Number>(
    level: Level,
    dgate_up: &mut [N],
    y: &mut [N],
    dy: &[f32],
    gate_up: &[f32],
    width: usize,
) {
    multiversion! {
        fn row<G: Gate>(
            math,
            dgate: &mut [f32],
            dup: &mut [f32],
            y: &mut [f32],
            dy: &[f32],
            gate: &[f32],
            up: &[f32],
        ) {
            let n = dy.len();
            let (dgate, dup, y, gate, up) = (&mut dgate[..n], &mut dup[..n], &mut y[..n], &gate[..n], &up[..n]);
            for i in 0..n {
                let [inner, slope] = G::inner(math, gate[i]);
                let s = sigmoid(math, inner);
                let act = gate[i] * s;
                y[i] = act * up[i];
                dup[i] = dy[i] * act;
                dgate[i] = dy[i] * up[i] * math.mul_add(act, (1.0 - s) * slope, s);
            }
        }
    }
    for_rows2(dgate_up, 2 * width, y, width, |t, dgate_up, y| {
        let (gate, up) = gate_up[t * 2 * width..][..2 * width].split_at(width);
        let dy = &dy[t * width..][..width];
        N::fill(level, dgate_up, |dgate_up| {
            let (dgate, dup) = dgate_up.split_at_mut(width);
            N::fill(level, y, |y| row::<G>(level, dgate, dup, y, dy, gate, up));
        });
    });
}

/// `y = residual + multiplier * x`.
pub fn residual_forward(y: &mut [f32], residual: &[f32], x: &[f32], multiplier: f32) {
    let tasks = y.par_chunks_mut(GRAIN).zip(residual.par_chunks(GRAIN)).zip(x.par_chunks(GRAIN));
    tasks.for_each(|((y, residual), x)| {
        y.iter_mut().zip(residual).zip(x).for_each(|((y, residual), x)| *y = residual + multiplier * x);
    });
}

/// `dx = multiplier * dy`; the residual's gradient is `dy` itself.
pub fn residual_backward(dx: &mut [f32], dy: &[f32], multiplier: f32) {
    let tasks = dx.par_chunks_mut(GRAIN).zip(dy.par_chunks(GRAIN));
    tasks.for_each(|(dx, dy)| dx.iter_mut().zip(dy).for_each(|(dx, dy)| *dx = multiplier * dy));
}

/// `to += x`.
pub fn add(to: &mut [f32], x: &[f32]) {
    let tasks = to.par_chunks_mut(GRAIN).zip(x.par_chunks(GRAIN));
    tasks.for_each(|(to, x)| to.iter_mut().zip(x).for_each(|(to, x)| *to += x));
}

/// Rotates the first `dim` channels of the queries and keys of each row by the angle of its position.
pub fn rope_forward(level: Level, qkv: &mut [f32], table: &[f32], positions: &[u32], heads: HeadShape, dim: usize) {
    rotate(level, qkv, table, positions, heads, dim, 1.0);
}

/// Rotates their gradients back: the transpose of a rotation is its inverse.
pub fn rope_backward(level: Level, dqkv: &mut [f32], table: &[f32], positions: &[u32], heads: HeadShape, dim: usize) {
    rotate(level, dqkv, table, positions, heads, dim, -1.0);
}

fn rotate(
    level: Level,
    rows: &mut [f32],
    table: &[f32],
    positions: &[u32],
    heads: HeadShape,
    dim: usize,
    direction: f32,
) {
    multiversion! {
        fn row(math, heads: &mut [f32], head_dim: usize, angles: &[f32], direction: f32) {
            let (cos, sin) = angles.split_at(angles.len() / 2);
            let half = cos.len();
            for head in heads.chunks_exact_mut(head_dim) {
                let (first, second) = head[..2 * half].split_at_mut(half);
                let (first, second, cos, sin) = (&mut first[..half], &mut second[..half], &cos[..half], &sin[..half]);
                for i in 0..half {
                    let sin = direction * sin[i];
                    let (a, b) = (first[i], second[i]);
                    first[i] = math.mul_add(a, cos[i], -(b * sin));
                    second[i] = math.mul_add(b, cos[i], a * sin);
                }
            }
        }
    }
    let rotated = heads.q_width() + heads.kv_width();
    for_rows(rows, heads.qkv_width(), |t, qkv| {
        let angles = &table[positions[t] as usize * dim..][..dim];
        row(level, &mut qkv[..rotated], heads.head_dim, angles, direction);
    });
}
