//! SwiGLU and rotary positions: one row at a time, every element by itself.

use super::math::sigmoid;
use super::parallel::{for_rows, for_rows2};
use super::rounded::Number;
use crate::device::HeadShape;
use crate::multiversion;
use crate::simd::Level;

/// `y[T,F] = silu(gate) * up`; `gate_up[T, F|F]`.
pub fn swiglu_forward<N: Number>(level: Level, y: &mut [N], gate_up: &[f32], width: usize) {
    multiversion! {
        fn row(math, y: &mut [f32], gate: &[f32], up: &[f32]) {
            for ((y, &gate), &up) in y.iter_mut().zip(gate).zip(up) {
                *y = gate * sigmoid(math, gate) * up;
            }
        }
    }
    for_rows(y, width, |t, y| {
        let (gate, up) = gate_up[t * 2 * width..][..2 * width].split_at(width);
        N::fill(level, y, |y| row(level, y, gate, up));
    });
}

/// `dgate_up[T, F|F]` from `dy[T,F]`, and the forward's `y[T,F]` once more.
pub fn swiglu_backward<N: Number>(
    level: Level,
    dgate_up: &mut [N],
    y: &mut [N],
    dy: &[f32],
    gate_up: &[f32],
    width: usize,
) {
    multiversion! {
        fn row(math, dgate: &mut [f32], dup: &mut [f32], y: &mut [f32], dy: &[f32], gate: &[f32], up: &[f32]) {
            let n = dy.len();
            let (dgate, dup, y, gate, up) = (&mut dgate[..n], &mut dup[..n], &mut y[..n], &gate[..n], &up[..n]);
            for i in 0..n {
                let s = sigmoid(math, gate[i]);
                let silu = gate[i] * s;
                y[i] = silu * up[i];
                dup[i] = dy[i] * silu;
                dgate[i] = dy[i] * up[i] * math.mul_add(silu, 1.0 - s, s);
            }
        }
    }
    for_rows2(dgate_up, 2 * width, y, width, |t, dgate_up, y| {
        let (gate, up) = gate_up[t * 2 * width..][..2 * width].split_at(width);
        let dy = &dy[t * width..][..width];
        N::fill(level, dgate_up, |dgate_up| {
            let (dgate, dup) = dgate_up.split_at_mut(width);
            N::fill(level, y, |y| row(level, dgate, dup, y, dy, gate, up));
        });
    });
}

/// Rotates the queries and keys of each row by the angle of its position.
pub fn rope_forward(level: Level, qkv: &mut [f32], table: &[f32], positions: &[u32], heads: HeadShape) {
    rotate(level, qkv, table, positions, heads, 1.0);
}

/// Rotates their gradients back: the transpose of a rotation is its inverse.
pub fn rope_backward(level: Level, dqkv: &mut [f32], table: &[f32], positions: &[u32], heads: HeadShape) {
    rotate(level, dqkv, table, positions, heads, -1.0);
}

fn rotate(level: Level, rows: &mut [f32], table: &[f32], positions: &[u32], heads: HeadShape, direction: f32) {
    multiversion! {
        fn row(math, heads: &mut [f32], head_dim: usize, angles: &[f32], direction: f32) {
            let half = head_dim / 2;
            let (cos, sin) = angles.split_at(half);
            for head in heads.chunks_exact_mut(head_dim) {
                let (first, second) = head.split_at_mut(half);
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
        let angles = &table[positions[t] as usize * heads.head_dim..][..heads.head_dim];
        row(level, &mut qkv[..rotated], heads.head_dim, angles, direction);
    });
}
