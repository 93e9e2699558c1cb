//! Dropout: an element's fate is a function of its place, so the backward draws it again instead of keeping it.

use super::parallel::for_rows;
use super::rounded::Number;
use crate::device::Dropout;
use crate::gemm::Numbers;
use crate::simd::Level;

/// Elements that share a block of random bits.
const TOGETHER: usize = 4;

/// `y[T,width]`: `x[T,width]` with some elements dropped.
pub fn dropout_forward<N: Number>(level: Level, y: &mut [N], x: Numbers, width: usize, dropout: Dropout) {
    let factors = Factors::new(dropout, width);
    for_rows(y, width, |t, y| {
        N::fill(level, y, |y| match x {
            Numbers::F32(x) => factors.of_row(t, |at, factor| y[at] = factor * x[t * width + at]),
            Numbers::Bf16(x) => factors.of_row(t, |at, factor| {
                y[at] = factor * f32::from_bits(u32::from(x[t * width + at]) << 16);
            }),
        });
    });
}

/// `dx[T,width] += dy[T,width]` with the same elements dropped.
pub fn dropout_backward(dx: &mut [f32], dy: &[f32], width: usize, dropout: Dropout) {
    let factors = Factors::new(dropout, width);
    for_rows(dx, width, |t, dx| factors.of_row(t, |at, factor| dx[at] += factor * dy[t * width + at]));
}

/// What each element is multiplied by.
struct Factors {
    dropout: Dropout,
    width: usize,
    /// Random words below it drop their element.
    dropped_under: u64,
    /// The factor of the others.
    kept: f32,
}

impl Factors {
    fn new(dropout: Dropout, width: usize) -> Self {
        assert!((0.0..1.0).contains(&dropout.rate), "a share of {} to drop", dropout.rate);
        let dropped_under = (f64::from(dropout.rate) * (1u64 << 32) as f64) as u64;
        Self { dropout, width, dropped_under, kept: 1.0 / (1.0 - dropout.rate) }
    }

    fn of_row(&self, row: usize, mut take: impl FnMut(usize, f32)) {
        let blocks = self.width.div_ceil(TOGETHER);
        for block in 0..blocks {
            let words = self.dropout.stream.block((row * blocks + block) as u32);
            for at in block * TOGETHER..self.width.min((block + 1) * TOGETHER) {
                let dropped = u64::from(words[at % TOGETHER]) < self.dropped_under;
                take(at, if dropped { 0.0 } else { self.kept });
            }
        }
    }
}
