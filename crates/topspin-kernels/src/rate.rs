//! The rate of plain matrix products, against which the rate of a whole computation is told.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::device::{Buffer, Device, Matrix, Plus, Rows, Use};
use crate::gemm::Precision;
use crate::memory::Memory;

/// The shape of a matrix product, `[rows, depth] · [depth, columns]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Product {
    /// Rows of the left operand and of the result.
    pub rows: usize,
    /// Columns of the right operand and of the result.
    pub columns: usize,
    /// Terms of each sum.
    pub depth: usize,
}

impl Product {
    /// Floating-point operations: a multiplication and an addition for each term.
    pub fn flops(self) -> u64 {
        2 * (self.rows * self.columns * self.depth) as u64
    }
}

/// Fewest repetitions of a product, one to warm up not counted.
const REPETITIONS: usize = 3;

/// Seconds of each of `products` alone, its right operand packed beforehand: the best of several repetitions, which last
/// `span` together, since anything else that runs on the machine can only slow them down.
pub fn best_seconds<D: Device>(
    device: &D,
    precision: Precision,
    products: impl IntoIterator<Item = Product>,
    span: Duration,
) -> BTreeMap<Product, f64> {
    // Those with the same right operand together, so that it is packed once.
    let mut by_weight: BTreeMap<[usize; 2], Vec<Product>> = BTreeMap::new();
    for product in products {
        by_weight.entry([product.columns, product.depth]).or_default().push(product);
    }
    let mut best = BTreeMap::new();
    for ([columns, depth], products) in by_weight {
        let rows = products.iter().map(|product| product.rows).max().unwrap_or(0);
        let (x, w) = (device.upload(noise(rows * depth)), device.upload(noise(columns * depth)));
        let mut y = device.alloc(rows * columns);
        let matrix = || Matrix::Single(w.head(columns * depth));
        let weight = device.weight(precision, matrix(), columns, depth, Use::Forward);
        for product in products {
            let len = product.rows * columns;
            let mut run = || {
                let x = Rows::Single(x.head(product.rows * depth));
                device.linear_forward(y.head_mut(len), x, matrix(), &weight, Plus::Nothing);
                // Reading a result waits for it where the device works on its own.
                device.read(y.part(len - 1..len), &mut [0.0]);
            };
            best.insert(product, times(span, &mut run).into_iter().fold(f64::INFINITY, f64::min));
        }
    }
    best
}

/// Seconds of each repetition of `work`, of which there are as many as `span` holds, three at least.
pub fn times(span: Duration, work: &mut impl FnMut()) -> Vec<f64> {
    work();
    let (start, mut seconds) = (Instant::now(), Vec::new());
    while seconds.len() < REPETITIONS || start.elapsed() < span {
        let start = Instant::now();
        work();
        seconds.push(start.elapsed().as_secs_f64());
    }
    seconds
}

/// Numbers in -0.5 .. 0.5, none of them 0: zeros are multiplied faster by some processors.
pub fn noise(len: usize) -> Memory<f32> {
    let mut state = 1_u32;
    let mut next = || {
        // Knuth's linear congruential generator: good enough for a clock, and much faster than filling memory by Philox.
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((state >> 9) as f32 + 0.5) / (1 << 23) as f32 - 0.5
    };
    let mut numbers = Memory::zeroed(len);
    numbers.iter_mut().for_each(|number| *number = next());
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::Cpu;

    #[test]
    fn every_product_has_its_time() {
        let product = |rows, columns, depth| Product { rows, columns, depth };
        let products = [product(1, 33, 8), product(5, 33, 8), product(5, 8, 33)];
        for precision in [Precision::F32, Precision::Bf16] {
            let seconds = best_seconds(&Cpu::new(), precision, products, Duration::ZERO);
            assert_eq!(seconds.keys().copied().collect::<Vec<_>>(), [products[0], products[2], products[1]]);
            assert!(seconds.values().all(|&seconds| seconds > 0.0 && seconds < 10.0));
        }
        assert_eq!(products[1].flops(), 2 * 5 * 33 * 8);
    }

    #[test]
    fn noise_has_no_zeros_and_no_bias() {
        let numbers = noise(1 << 16);
        assert!(numbers.iter().all(|x| *x != 0.0 && x.abs() <= 0.5));
        let mean = numbers.iter().map(|&x| f64::from(x)).sum::<f64>() / numbers.len() as f64;
        assert!(mean.abs() < 0.01, "{mean}");
    }
}
