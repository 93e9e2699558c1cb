//! Attention over trees of segments.

use half::bf16;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use topspin_kernels::cpu::Cpu;
use topspin_kernels::device::{Attention, Device, HeadShape, Segment, Span};
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

/// Scores as they are or bounded, of all positions or of a window.
pub fn attentions() -> impl Strategy<Value = Attention> {
    let softcap = prop_oneof![Just(None), (0.5f32..20.0).prop_map(Some)];
    let window = prop_oneof![Just(None), (1usize..40).prop_map(Some)];
    (0.05f32..0.6, softcap, window).prop_map(|(scale, softcap, window)| Attention { scale, softcap, window })
}

fn case() -> impl Strategy<Value = (Vec<Span>, HeadShape, Attention, Memory, Memory)> {
    (trees(), heads(), attentions()).prop_flat_map(|(spans, heads, attention)| {
        let rows = spans[spans.len() - 1].rows.end;
        let (qkv, dout) = (values(rows * heads.qkv_width()), values(rows * heads.q_width()));
        (Just(spans), Just(heads), Just(attention), qkv, dout)
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
fn run(
    cpu: &Cpu,
    precision: Precision,
    qkv: &Memory,
    spans: &[Span],
    heads: HeadShape,
    attention: Attention,
) -> [Memory; 2] {
    let rows = qkv.len() / heads.qkv_width();
    let mut kv = cpu.kv(precision, 1, rows, heads);
    cpu.kv_append(&mut kv, 0, all(qkv), &(0..rows as u32).collect::<Vec<_>>());
    let (mut out, mut lse) = (Memory::zeroed(rows * heads.q_width()), Memory::zeroed(rows * heads.num_heads));
    cpu.attention_forward(all_mut(&mut out), all_mut(&mut lse), all(qkv), &kv, 0, spans, attention);
    [out, lse]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn forward((spans, heads, attention, qkv, _) in case()) {
        for precision in [Precision::F32, Precision::Bf16] {
            let expected = reference::attention(&f64s(&seen(precision, &qkv)), &spans, heads, attention);
            for cpu in devices() {
                let [out, _] = run(&cpu, precision, &qkv, &spans, heads, attention);
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
        (spans, heads, attention, qkv, dout) in case().prop_filter("small", |(_, _, _, qkv, _)| qkv.len() < 1500),
    ) {
        for precision in [Precision::F32, Precision::Bf16] {
            // Rounding counts as the identity, so the gradient is that at the rounded numbers.
            let (qkv, dout) = (seen(precision, &qkv), seen(precision, &dout));
            let d_expected = gradient(&f64s(&qkv), &dout, |qkv| reference::attention(qkv, &spans, heads, attention));
            let sizes = reference::attention_gradient_sizes(&f64s(&qkv), &dout, &spans, heads, attention);
            for cpu in devices() {
                let [out, lse] = run(&cpu, precision, &qkv, &spans, heads, attention);
                let mut dqkv = filled(qkv.len(), 5.0);
                cpu.attention_backward(
                    precision, all_mut(&mut dqkv), all(&dout), all(&out), all(&qkv), all(&lse), &spans, heads,
                    attention,
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

/// More rows than the backward takes together, so that a window begins within some and before others.
#[test]
fn backward_of_a_long_span() {
    let heads = HeadShape { num_heads: 1, num_kv_heads: 1, head_dim: 2 };
    let rows = 150;
    let spans = [Span { rows: 0..rows, path: vec![Segment { start: 0, len: rows }] }];
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut some = |len: usize| values(len).new_tree(&mut runner).unwrap().current();
    let (qkv, dout) = (some(rows * heads.qkv_width()), some(rows * heads.q_width()));
    for window in [None, Some(5), Some(70)] {
        let attention = Attention { scale: 0.7, softcap: Some(2.0), window };
        let d_expected = gradient(&f64s(&qkv), &dout, |qkv| reference::attention(qkv, &spans, heads, attention));
        for cpu in devices() {
            let [out, lse] = run(&cpu, Precision::F32, &qkv, &spans, heads, attention);
            let mut dqkv = filled(qkv.len(), 5.0);
            let (dqkv_mut, dout, out, qkv, lse) = (all_mut(&mut dqkv), all(&dout), all(&out), all(&qkv), all(&lse));
            cpu.attention_backward(Precision::F32, dqkv_mut, dout, out, qkv, lse, &spans, heads, attention);
            assert!(error(&dqkv, &d_expected) < 1e-4);
        }
    }
}
