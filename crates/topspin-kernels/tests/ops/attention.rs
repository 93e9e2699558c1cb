//! Attention over trees of segments.

use half::bf16;
use proptest::prelude::*;
use topspin_kernels::cpu::Cpu;
use topspin_kernels::device::{Device, HeadShape, Segment, Span};
use topspin_kernels::gemm::Precision;

use crate::{Memory, all, all_mut, devices, error, f64s, filled, gradient, reference, values};

/// Random trees: a root span and branches behind it, packed one after another.
pub fn trees() -> impl Strategy<Value = Vec<Span>> {
    let tree = (1usize..24, proptest::collection::vec(1usize..20, 0..4));
    proptest::collection::vec(tree, 1..4).prop_map(|trees| {
        let (mut spans, mut row) = (Vec::new(), 0);
        for (root_len, branches) in trees {
            let root = Segment { start: row, len: root_len };
            spans.push(Span { rows: row..row + root_len, path: vec![root] });
            row += root_len;
            for len in branches {
                spans.push(Span { rows: row..row + len, path: vec![root, Segment { start: row, len }] });
                row += len;
            }
        }
        spans
    })
}

pub fn heads() -> impl Strategy<Value = HeadShape> {
    // Head sizes under, at and over a vector; groups over what shares one pass.
    let dims = prop_oneof![Just(2usize), Just(6), Just(16), Just(20), Just(64)];
    (1usize..6, 1usize..3, dims).prop_map(|(group, kv, head_dim)| HeadShape {
        num_heads: group * kv,
        num_kv_heads: kv,
        head_dim,
    })
}

fn case() -> impl Strategy<Value = (Vec<Span>, HeadShape, Memory, Memory)> {
    (trees(), heads()).prop_flat_map(|(spans, heads)| {
        let rows = spans[spans.len() - 1].rows.end;
        (Just(spans), Just(heads), values(rows * heads.qkv_width()), values(rows * heads.q_width()))
    })
}

/// The numbers that attention in `precision` sees, for a reference that rounds nothing.
fn seen(precision: Precision, x: &[f32]) -> Memory {
    let mut seen = Memory::from(x);
    if precision == Precision::Bf16 {
        seen.iter_mut().for_each(|x| *x = bf16::from_f32(*x).to_f32());
    }
    seen
}

/// Output and normaliser of the forward.
fn run(cpu: &Cpu, precision: Precision, qkv: &Memory, spans: &[Span], heads: HeadShape) -> [Memory; 2] {
    let rows = qkv.len() / heads.qkv_width();
    let mut kv = cpu.kv(precision, 1, rows, heads);
    cpu.kv_append(&mut kv, 0, all(qkv), &(0..rows as u32).collect::<Vec<_>>());
    let (mut out, mut lse) = (Memory::zeroed(rows * heads.q_width()), Memory::zeroed(rows * heads.num_heads));
    cpu.attention_forward(all_mut(&mut out), all_mut(&mut lse), all(qkv), &kv, 0, spans);
    [out, lse]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn forward((spans, heads, qkv, _) in case()) {
        for precision in [Precision::F32, Precision::Bf16] {
            let expected = reference::attention(&f64s(&seen(precision, &qkv)), &spans, heads);
            for cpu in devices() {
                let [out, _] = run(&cpu, precision, &qkv, &spans, heads);
                prop_assert!(error(&out, &expected) < 1e-5);
            }
        }
    }
}

proptest! {
    // Finite differences run the reference twice for each input element.
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn backward(
        (spans, heads, qkv, dout) in case().prop_filter("small", |(_, _, qkv, _)| qkv.len() < 1500),
    ) {
        for precision in [Precision::F32, Precision::Bf16] {
            // Rounding counts as the identity, so the gradient is that at the rounded numbers.
            let (qkv, dout) = (seen(precision, &qkv), seen(precision, &dout));
            let d_expected = gradient(&f64s(&qkv), &dout, |qkv| reference::attention(qkv, &spans, heads));
            let sizes = reference::attention_gradient_sizes(&f64s(&qkv), &dout, &spans, heads);
            for cpu in devices() {
                let [out, lse] = run(&cpu, precision, &qkv, &spans, heads);
                let mut dqkv = filled(qkv.len(), 5.0);
                cpu.attention_backward(
                    precision, all_mut(&mut dqkv), all(&dout), all(&out), all(&qkv), all(&lse), &spans, heads,
                );
                match precision {
                    Precision::F32 => prop_assert!(error(&dqkv, &d_expected) < 1e-4),
                    // Probabilities and gradients of scores are rounded as well: at most 2^-8 of each term.
                    Precision::Bf16 => {
                        for ((&d, expected), size) in dqkv.iter().zip(&d_expected).zip(&sizes) {
                            let off = (f64::from(d) - expected).abs();
                            prop_assert!(off < 1.01 * size / 256.0 + 1e-5, "{off} of {size}");
                        }
                    }
                }
            }
        }
    }
}
