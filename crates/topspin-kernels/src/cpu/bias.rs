//! Biases of linear layers.

use rayon::prelude::*;

use super::parallel::for_rows;
use crate::gemm::Numbers;

/// Rows that are summed by one task. Fixed, so that the sum's order does not depend on the threads.
const ROWS: usize = 64;

/// `y[T,n] += bias[n]`.
pub fn bias_forward(y: &mut [f32], bias: &[f32]) {
    for_rows(y, bias.len(), |_, y| y.iter_mut().zip(bias).for_each(|(y, bias)| *y += bias));
}

/// `dbias[n] += sum_t dy[t,n]`.
pub fn bias_backward(dbias: &mut [f32], dy: Numbers) {
    match dy {
        Numbers::F32(dy) => add_rows(dbias, dy, |x| x),
        Numbers::Bf16(dy) => add_rows(dbias, dy, |x| f32::from_bits(u32::from(x) << 16)),
    }
}

fn add_rows<T: Copy + Sync>(sum: &mut [f32], rows: &[T], widen: impl Fn(T) -> f32 + Sync) {
    let width = sum.len();
    let some = |rows: &[T]| {
        let mut sum = vec![0.0; width];
        for row in rows.chunks_exact(width) {
            sum.iter_mut().zip(row).for_each(|(sum, &x)| *sum += widen(x));
        }
        sum
    };
    let parts: Vec<Vec<f32>> = rows.par_chunks(ROWS * width).map(some).collect();
    for part in parts {
        sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
    }
}
