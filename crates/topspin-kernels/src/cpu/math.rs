//! Vectorisable pieces that several operations share. All are elementwise or reduce over 16 lanes in a fixed order.

use crate::simd::Arithmetic;

/// Lanes of every reduction, on every processor: the order of a sum does not depend on the width of its vectors.
pub const LANES: usize = 16;

/// `e^x`, within 2 units in the last place; 0 below -87.3 (and for -inf), saturated above 88.3.
///
/// Cody-Waite reduction to `|r| <= ln 2 / 2`, then the Taylor polynomial of degree 7 in Horner form; no branches, so a
/// loop over it becomes vector code.
#[inline(always)]
pub fn exp(math: impl Arithmetic, x: f32) -> f32 {
    // Adding 1.5 * 2^23 leaves the nearest integer in the low bits of the sum.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 355.0 / 512.0;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let clamped = x.clamp(-87.3, 88.3);
    let shifted = math.mul_add(clamped, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = math.mul_add(n, -LN2_HIGH, clamped);
    let r = math.mul_add(n, -LN2_LOW, r);
    let mut p = 1.0 / 5040.0;
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = math.mul_add(p, r, coefficient);
    }
    // 2^n, by its exponent bits: n lies between -126 and 127.
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0f32.to_bits()));
    if x < -87.3 { 0.0 } else { p * power }
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub fn sigmoid(math: impl Arithmetic, x: f32) -> f32 {
    1.0 / (1.0 + exp(math, -x))
}

/// `tanh x`, within 4 units in the last place: near 0 the odd polynomial of degree 11 of Cephes (Moshier's `tanhf`), elsewhere
/// by the exponential function.
#[inline(always)]
pub fn tanh(math: impl Arithmetic, x: f32) -> f32 {
    let square = x * x;
    let mut p = -5.704_988_7e-3;
    for coefficient in [2.063_909e-2, -5.373_971_6e-2, 1.333_144_2e-1, -3.333_328e-1] {
        p = math.mul_add(p, square, coefficient);
    }
    let near = math.mul_add(p * square, x, x);
    let far = 1.0 - 2.0 / (exp(math, 2.0 * x.abs()) + 1.0);
    if x.abs() < 0.625 { near } else { far.copysign(x) }
}

/// Sum of the lanes as a balanced tree.
#[inline(always)]
pub fn sum_lanes(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// Up to 16 values, the missing ones replaced by `fill`.
#[inline(always)]
fn padded(values: &[f32], fill: f32) -> [f32; LANES] {
    let mut lanes = [fill; LANES];
    lanes[..values.len()].copy_from_slice(values);
    lanes
}

/// Calls `f` for the values in groups of 16, the last one filled up.
#[inline(always)]
fn for_lanes(values: &[f32], fill: f32, mut f: impl FnMut(&[f32; LANES])) {
    let (whole, rest) = values.as_chunks::<LANES>();
    for lanes in whole {
        f(lanes);
    }
    if !rest.is_empty() {
        f(&padded(rest, fill));
    }
}

/// `sum x[i] * y[i]`.
#[inline(always)]
pub fn dot(math: impl Arithmetic, x: &[f32], y: &[f32]) -> f32 {
    let mut sums = [0.0; LANES];
    let (x_whole, x_rest) = x.as_chunks::<LANES>();
    let (y_whole, y_rest) = y.as_chunks::<LANES>();
    for (x, y) in x_whole.iter().zip(y_whole) {
        for lane in 0..LANES {
            sums[lane] = math.mul_add(x[lane], y[lane], sums[lane]);
        }
    }
    let (x, y) = (padded(x_rest, 0.0), padded(y_rest, 0.0));
    for lane in 0..LANES {
        sums[lane] = math.mul_add(x[lane], y[lane], sums[lane]);
    }
    sum_lanes(sums)
}

/// The largest value; -inf for none.
#[inline(always)]
pub fn max(values: &[f32]) -> f32 {
    let mut most = [f32::NEG_INFINITY; LANES];
    for_lanes(values, f32::NEG_INFINITY, |lanes| {
        for lane in 0..LANES {
            most[lane] = if lanes[lane] > most[lane] { lanes[lane] } else { most[lane] };
        }
    });
    most.into_iter().fold(f32::NEG_INFINITY, f32::max)
}

/// `sum e^(x[i] - max)`.
#[inline(always)]
pub fn sum_exp(math: impl Arithmetic, values: &[f32], max: f32) -> f32 {
    let mut sums = [0.0; LANES];
    for_lanes(values, f32::NEG_INFINITY, |lanes| {
        for lane in 0..LANES {
            sums[lane] += exp(math, lanes[lane] - max);
        }
    });
    sum_lanes(sums)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Level;

    crate::multiversion! {
        #[inline(never)]
        fn exp_all(math, values: &mut [f32]) {
            for value in values {
                *value = exp(math, *value);
            }
        }
    }

    #[test]
    fn exp_is_close_everywhere() {
        let inputs: Vec<f32> = (-873_000..883_000).step_by(37).map(|i| i as f32 * 1e-4).collect();
        for level in Level::available() {
            let mut outputs = inputs.clone();
            exp_all(level, &mut outputs);
            for (&x, &y) in inputs.iter().zip(&outputs) {
                let exact = f64::from(x).exp();
                assert!((f64::from(y) / exact - 1.0).abs() < 2.4e-7, "{level}: e^{x} = {exact}, not {y}");
            }
        }
    }

    crate::multiversion! {
        #[inline(never)]
        fn tanh_all(math, values: &mut [f32]) {
            for value in values {
                *value = tanh(math, *value);
            }
        }
    }

    #[test]
    fn tanh_is_close_everywhere() {
        let magnitudes = (-240..24).map(|i| 10f32.powf(i as f32 / 16.0));
        let inputs: Vec<f32> = magnitudes.chain((0..2000).map(|i| i as f32 * 1e-3)).flat_map(|x| [x, -x]).collect();
        for level in Level::available() {
            let mut outputs = inputs.clone();
            tanh_all(level, &mut outputs);
            for (&x, &y) in inputs.iter().zip(&outputs) {
                let exact = f64::from(x).tanh();
                assert!((f64::from(y) - exact).abs() <= 2.4e-7 * exact.abs(), "{level}: tanh {x} = {exact}, not {y}");
            }
        }
    }

    #[test]
    fn exp_at_the_ends() {
        for level in Level::available() {
            let mut ends = [f32::NEG_INFINITY, -1e30, -88.0, 0.0, 1e30];
            exp_all(level, &mut ends);
            assert_eq!(ends[..4], [0.0, 0.0, 0.0, 1.0]);
            assert!(ends[4].is_finite() && ends[4] > 2e38);
        }
    }
}
