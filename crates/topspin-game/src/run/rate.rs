//! The rate of matrix products on this machine, against which throughput is told.

use std::time::{Duration, Instant};

use topspin_kernels::device::{Buffer, Device, Use};
use topspin_kernels::gemm::Precision;

/// Sides of the product that is timed: large enough for the full rate, small enough to be done in a moment. Tests play
/// many runs and look at no rate.
const ROWS: usize = if cfg!(test) { 8 } else { 512 };
const SIDE: usize = if cfg!(test) { 16 } else { 1024 };

/// For how long products are timed.
const SPAN: Duration = if cfg!(test) { Duration::ZERO } else { Duration::from_millis(300) };

/// Floating-point operations of matrix products in a second: the best of the products timed, as anything else that
/// runs on the machine can only slow them down.
pub fn product_rate<D: Device>(device: &D, precision: Precision) -> f64 {
    let (mut x, mut w, mut y) = (device.alloc(ROWS * SIDE), device.alloc(SIDE * SIDE), device.alloc(ROWS * SIDE));
    // Not zeros, which some processors multiply faster.
    let numbers = |len: usize| (0..len).map(|i| (i % 251) as f32 / 251.0 - 0.5).collect::<Vec<_>>();
    device.write(x.head_mut(ROWS * SIDE), &numbers(ROWS * SIDE));
    device.write(w.head_mut(SIDE * SIDE), &numbers(SIDE * SIDE));
    let weight = device.weight(precision, w.head(SIDE * SIDE), SIDE, SIDE, Use::Forward);
    let mut last = [0.0];
    let mut product = || {
        let start = Instant::now();
        let (x, w) = (x.head(ROWS * SIDE), w.head(SIDE * SIDE));
        device.linear_forward(y.head_mut(ROWS * SIDE), x, w, &weight, false);
        // Reading a result waits for it where the device works on its own.
        device.read(y.part(ROWS * SIDE - 1..ROWS * SIDE), &mut last);
        start.elapsed()
    };
    product();
    let start = Instant::now();
    let mut best = product();
    while start.elapsed() < SPAN {
        best = best.min(product());
    }
    (2 * ROWS * SIDE * SIDE) as f64 / best.as_secs_f64()
}
