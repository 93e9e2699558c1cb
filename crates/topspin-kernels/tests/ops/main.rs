//! Every operation against a slow f64 reference: the forward directly, the backward by finite differences of the
//! reference. Shapes and inputs are random; each case runs at every vector level that the processor has.

mod adapter;
mod attention;
mod invariance;
mod optimizers;
mod pointwise;
mod reference;

use proptest::prelude::*;
use topspin_kernels::cpu::Cpu;
use topspin_kernels::device::{Buffer, In, Out};
use topspin_kernels::memory;
use topspin_kernels::simd::Level;

type Memory = memory::Memory<f32>;

/// Inputs that keep every function well away from where f32 has no digits left.
fn values(len: usize) -> impl Strategy<Value = Memory> {
    proptest::collection::vec(-2.0f32..2.0, len).prop_map(Memory::from)
}

/// `len` numbers, all the same.
fn filled(len: usize, number: f32) -> Memory {
    vec![number; len].into()
}

fn devices() -> impl Iterator<Item = Cpu> {
    Level::available().map(Cpu::with_level)
}

fn all<B: Buffer>(buffer: &B) -> In<'_, B> {
    buffer.part(0..buffer.len())
}

fn all_mut<B: Buffer>(buffer: &mut B) -> Out<'_, B> {
    let len = buffer.len();
    buffer.part_mut(0..len)
}

fn f64s(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value)).collect()
}

/// Largest difference relative to the largest value (or to 1 where all are small).
fn error(actual: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(actual.len(), expected.len());
    let scale = expected.iter().fold(1.0f64, |most, value| most.max(value.abs()));
    actual.iter().zip(expected).fold(0.0f64, |most, (&a, &e)| most.max((f64::from(a) - e).abs() / scale))
}

/// Gradient of `sum_i weights[i] * f(x)[i]` by central differences.
fn gradient(x: &[f64], weights: &[f32], f: impl Fn(&[f64]) -> Vec<f64>) -> Vec<f64> {
    const STEP: f64 = 1e-5;
    let value = |x: &[f64]| -> f64 { f(x).iter().zip(weights).map(|(y, &w)| y * f64::from(w)).sum() };
    let mut x = x.to_vec();
    (0..x.len())
        .map(|i| {
            let center = x[i];
            x[i] = center + STEP;
            let above = value(&x);
            x[i] = center - STEP;
            let below = value(&x);
            x[i] = center;
            (above - below) / (2.0 * STEP)
        })
        .collect()
}
