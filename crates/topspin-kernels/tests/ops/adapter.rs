//! What adapters need: columns of a matrix, and dropout.

use proptest::prelude::*;
use topspin_kernels::cpu::Cpu;
use topspin_kernels::device::{Device, Dropout, Rows};
use topspin_kernels::gemm::Precision;
use topspin_kernels::rng::Key;

use crate::{Memory, all, all_mut, devices, filled, values};

proptest! {
    #[test]
    fn columns(
        (rows, before, own, after, to, from) in (1..60usize, 0..9usize, 1..9usize, 0..9usize).prop_flat_map(|(t, a, b, c)| {
            (Just(t), Just(a), Just(b), Just(c), values(t * (a + b + c)), values(t * b))
        }),
        scale in 0.1f32..3.0,
    ) {
        let (width, columns) = (before + own + after, before..before + own);
        let cpu = Cpu::new();
        let mut written = to.clone();
        cpu.columns_forward(all_mut(&mut written), width, columns.clone(), all(&from), scale);
        let mut added = from.clone();
        cpu.columns_backward(all_mut(&mut added), all(&to), width, columns.clone(), scale);
        for (t, row) in to.chunks(width).enumerate() {
            for (at, &x) in row.iter().enumerate() {
                let own_at = columns.contains(&at).then(|| t * own + at - before);
                prop_assert_eq!(written[t * width + at], own_at.map_or(x, |at| scale * from[at]));
                if let Some(own_at) = own_at {
                    prop_assert_eq!(added[own_at], from[own_at] + scale * x);
                }
            }
        }
        prop_assert_eq!(rows * own, from.len());
    }

    #[test]
    fn dropout(
        (rows, width, x) in (1..20usize, 1..30usize).prop_flat_map(|(t, k)| (Just(t), Just(k), values(t * k))),
        rate in 0.0f32..0.95, seed: u64,
    ) {
        let dropout = Dropout { rate, stream: Key::new(seed, "dropout", 1).stream(2, 3) };
        for cpu in devices() {
            // A gradient of ones shows the factors.
            let mut factors = Memory::zeroed(rows * width);
            cpu.dropout_backward(all_mut(&mut factors), all(&filled(rows * width, 1.0)), width, dropout);
            prop_assert!(factors.iter().all(|&factor| factor == 0.0 || factor == 1.0 / (1.0 - rate)));
            let mut y = cpu.alloc_rounded(Precision::F32, rows * width);
            cpu.dropout_forward(all_mut(&mut y), Rows::Single(all(&x)), width, dropout);
            let expected: Vec<f32> = x.iter().zip(&factors[..]).map(|(x, factor)| factor * x).collect();
            prop_assert_eq!(y.to_f32(), expected);
        }
    }
}

#[test]
fn dropout_takes_its_share_and_differs_from_place_to_place() {
    let cpu = Cpu::new();
    let (rows, width, rate) = (200, 103, 0.3);
    let dropped = |batch: u64, number: u32| {
        let dropout = Dropout { rate, stream: Key::new(5, "dropout", 1).stream(batch, number) };
        let mut factors = Memory::zeroed(rows * width);
        cpu.dropout_backward(all_mut(&mut factors), all(&filled(rows * width, 1.0)), width, dropout);
        factors.iter().map(|&factor| factor == 0.0).collect::<Vec<_>>()
    };
    let same = |a: &[bool], b: &[bool]| a.iter().zip(b).filter(|(a, b)| a == b).count() as f64 / a.len() as f64;
    let all = [dropped(0, 0), dropped(1, 0), dropped(0, 1)];
    // Independent draws agree in p^2 + (1 - p)^2 of the places. The bounds are six standard deviations wide.
    let (p, n) = (f64::from(rate), (rows * width) as f64);
    let agree = p * p + (1.0 - p) * (1.0 - p);
    for (at, one) in all.iter().enumerate() {
        let share = one.iter().filter(|&&dropped| dropped).count() as f64 / n;
        assert!((share - p).abs() < 6.0 * (p * (1.0 - p) / n).sqrt(), "{share}");
        for other in &all[..at] {
            assert!((same(one, other) - agree).abs() < 6.0 * (agree * (1.0 - agree) / n).sqrt());
        }
        // Neighbours, along rows and along columns, are as strangers.
        for step in [1, width] {
            let share = same(&one[step..], &one[..one.len() - step]);
            assert!((share - agree).abs() < 6.0 * (agree * (1.0 - agree) / n).sqrt(), "{step}: {share}");
        }
    }
}
