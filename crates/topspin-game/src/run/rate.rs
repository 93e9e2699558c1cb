//! The rate of matrix products on this machine, against which throughput is told.

use std::time::Duration;

use topspin_kernels::device::Device;
use topspin_kernels::gemm::Precision;
use topspin_kernels::rate::{Product, best_seconds};

/// The product that is timed: large enough for the full rate, small enough to be done in a moment. Tests play many runs
/// and look at no rate.
const PRODUCT: Product = match cfg!(test) {
    true => Product { rows: 8, columns: 16, depth: 16 },
    false => Product { rows: 512, columns: 1024, depth: 1024 },
};

/// For how long it is timed.
const SPAN: Duration = if cfg!(test) { Duration::ZERO } else { Duration::from_millis(300) };

/// Floating-point operations of matrix products in a second, at their best.
pub fn product_rate<D: Device>(device: &D, precision: Precision) -> f64 {
    let seconds = best_seconds(device, precision, [PRODUCT], SPAN);
    PRODUCT.flops() as f64 / seconds[&PRODUCT]
}
