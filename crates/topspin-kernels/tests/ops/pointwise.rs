//! Norm, SwiGLU, rotary positions, embedding and gathering, log-probabilities.

use half::bf16;
use proptest::prelude::*;
use topspin_kernels::device::{Device, HeadShape};
use topspin_kernels::gemm::Precision;

use crate::{Memory, all, all_mut, devices, error, f64s, filled, gradient, reference, values};

const PRECISIONS: [Precision; 2] = [Precision::F32, Precision::Bf16];

/// Rounded to bf16, and a denormal counts as zero, as the highest level has it.
fn nearest(x: &[f32]) -> Vec<f32> {
    x.iter().map(|&x| if x.is_subnormal() { 0.0 } else { bf16::from_f32(x).to_f32() }).collect()
}

fn norm_case() -> impl Strategy<Value = (usize, Memory, Memory, Memory)> {
    (1usize..6, 1usize..40).prop_flat_map(|(t, d)| (Just(d), values(t * d), values(d), values(t * d)))
}

fn swiglu_case() -> impl Strategy<Value = (usize, Memory, Memory)> {
    (1usize..5, 1usize..40).prop_flat_map(|(t, f)| (Just(f), values(t * 2 * f), values(t * f)))
}

fn rope_case() -> impl Strategy<Value = (HeadShape, Vec<u32>, Memory, Memory)> {
    let shape = (1usize..4, 1usize..4, 1usize..12, 1usize..4);
    shape.prop_flat_map(|(group, kv, half, t)| {
        let heads = HeadShape { num_heads: group * kv, num_kv_heads: kv, head_dim: 2 * half };
        let len = t * heads.qkv_width();
        (Just(heads), proptest::collection::vec(0u32..50, t), values(len), values(len))
    })
}

fn logprob_case() -> impl Strategy<Value = (Memory, Vec<u32>, Memory)> {
    (1usize..5, 1usize..70)
        .prop_flat_map(|(n, v)| (values(n * v), proptest::collection::vec(0..v as u32, n), values(n)))
}

fn rope_table(head_dim: usize, positions: usize, theta: f64) -> Memory {
    let angle = |p: usize, i: usize| p as f64 * theta.powf(-2.0 * i as f64 / head_dim as f64);
    let half = head_dim / 2;
    (0..positions)
        .flat_map(|p| (0..half).map(move |i| angle(p, i).cos()).chain((0..half).map(move |i| angle(p, i).sin())))
        .map(|x| x as f32)
        .collect::<Vec<_>>()
        .into()
}

proptest! {
    #[test]
    fn rmsnorm((d, x, w, dy) in norm_case(), eps in 1e-6f32..1e-2) {
        let (x64, w64) = (f64s(&x), f64s(&w));
        let expected = reference::rmsnorm(&x64, &w64, f64::from(eps));
        let dx_expected = gradient(&x64, &dy, |x| reference::rmsnorm(x, &w64, f64::from(eps)));
        let dw_expected = gradient(&w64, &dy, |w| reference::rmsnorm(&x64, w, f64::from(eps)));
        for cpu in devices() {
            let mut rstd = Memory::zeroed(x.len() / d);
            let [y, rounded] = PRECISIONS.map(|precision| {
                let mut y = cpu.alloc_rounded(precision, x.len());
                cpu.rmsnorm_forward(all_mut(&mut y), all_mut(&mut rstd), all(&x), all(&w), eps);
                y.to_f32()
            });
            prop_assert!(error(&y, &expected) < 1e-5);
            prop_assert_eq!(rounded, nearest(&y));
            // Gradients are added to what is there.
            let (mut dx, mut dw) = (filled(x.len(), 1.0), filled(d, -1.0));
            cpu.rmsnorm_backward(all_mut(&mut dx), all_mut(&mut dw), all(&dy), all(&x), all(&w), all(&rstd));
            dx.iter_mut().for_each(|dx| *dx -= 1.0);
            dw.iter_mut().for_each(|dw| *dw += 1.0);
            prop_assert!(error(&dx, &dx_expected) < 2e-4, "{dx:?} {dx_expected:?}");
            prop_assert!(error(&dw, &dw_expected) < 1e-4);
        }
    }

    #[test]
    fn swiglu((width, gate_up, dy) in swiglu_case()) {
        let expected = reference::swiglu(&f64s(&gate_up), width);
        let d_expected = gradient(&f64s(&gate_up), &dy, |gate_up| reference::swiglu(gate_up, width));
        for cpu in devices() {
            let [(y, dgate_up), rounded] = PRECISIONS.map(|precision| {
                let [mut y, mut y_again, mut dgate_up] =
                    [dy.len(), dy.len(), gate_up.len()].map(|len| cpu.alloc_rounded(precision, len));
                cpu.swiglu_forward(all_mut(&mut y), all(&gate_up), width);
                cpu.swiglu_backward(all_mut(&mut dgate_up), all_mut(&mut y_again), all(&dy), all(&gate_up), width);
                assert_eq!(y.to_f32(), y_again.to_f32());
                (y.to_f32(), dgate_up.to_f32())
            });
            prop_assert!(error(&y, &expected) < 1e-5);
            prop_assert!(error(&dgate_up, &d_expected) < 1e-5);
            prop_assert_eq!(rounded, (nearest(&y), nearest(&dgate_up)));
        }
    }

    #[test]
    fn rope((heads, positions, qkv, dout) in rope_case(), theta in 10.0f64..1e5) {
        let table = rope_table(heads.head_dim, 50, theta);
        let expected = reference::rope(&f64s(&qkv), &positions, heads, theta);
        let d_expected = gradient(&f64s(&qkv), &dout, |qkv| reference::rope(qkv, &positions, heads, theta));
        for cpu in devices() {
            let mut rotated = qkv.clone();
            cpu.rope_forward(all_mut(&mut rotated), all(&table), &positions, heads);
            prop_assert!(error(&rotated, &expected) < 1e-5);
            let mut dqkv = dout.clone();
            cpu.rope_backward(all_mut(&mut dqkv), all(&table), &positions, heads);
            prop_assert!(error(&dqkv, &d_expected) < 1e-5);
        }
    }

    #[test]
    fn logprob((logits, targets, dlogp) in logprob_case()) {
        let expected = reference::logprobs(&f64s(&logits), &targets);
        let d_expected = gradient(&f64s(&logits), &dlogp, |logits| reference::logprobs(logits, &targets));
        for cpu in devices() {
            let (mut logp, mut lse) = (Memory::zeroed(targets.len()), Memory::zeroed(targets.len()));
            cpu.logprob_forward(all_mut(&mut logp), all_mut(&mut lse), all(&logits), &targets);
            prop_assert!(error(&logp, &expected) < 1e-5);
            let mut dlogits = logits.clone();
            cpu.logprob_backward(all_mut(&mut dlogits), all(&dlogp), all(&lse), &targets);
            prop_assert!(error(&dlogits, &d_expected) < 1e-5);
        }
    }

    #[test]
    fn gather(
        (d, table, rows, dout) in (1usize..9, 1usize..7, 1usize..12).prop_flat_map(|(d, v, n)| {
            (Just(d), values(v * d), proptest::collection::vec(0..v as u32, n), values(n * d))
        }),
    ) {
        let pick = |table: &[f64]| rows.iter().flat_map(|&row| table[row as usize * d..][..d].to_vec()).collect::<Vec<_>>();
        let expected = pick(&f64s(&table));
        let d_expected = gradient(&f64s(&table), &dout, pick);
        for cpu in devices() {
            let mut out = Memory::zeroed(dout.len());
            cpu.embedding_forward(all_mut(&mut out), all(&table), &rows);
            prop_assert_eq!(error(&out, &expected), 0.0);
            let mut dtable = Memory::zeroed(table.len());
            cpu.embedding_backward(all_mut(&mut dtable), all(&dout), &rows);
            prop_assert!(error(&dtable, &d_expected) < 1e-5);
            let (mut gathered, mut dx) = (Memory::zeroed(dout.len()), Memory::zeroed(table.len()));
            cpu.gather_forward(all_mut(&mut gathered), all(&table), &rows);
            cpu.gather_backward(all_mut(&mut dx), all(&dout), &rows);
            prop_assert_eq!((gathered, dx), (out, dtable));
        }
    }
}
