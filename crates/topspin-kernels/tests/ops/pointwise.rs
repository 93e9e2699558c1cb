//! Norms, gated layers, biases, rotary positions, sums, embedding and gathering, logits and log-probabilities.

use half::bf16;
use proptest::prelude::*;
use topspin_kernels::device::{Activation, Device, HeadShape, LogitScale, Matrix, Norm, Rows};
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

fn glu_case() -> impl Strategy<Value = (usize, Memory, Memory)> {
    (1usize..5, 1usize..40).prop_flat_map(|(t, f)| (Just(f), values(t * 2 * f), values(t * f)))
}

fn heads() -> impl Strategy<Value = HeadShape> {
    (1usize..4, 1usize..4, 1usize..12).prop_map(|(group, kv, half)| HeadShape {
        num_heads: group * kv,
        num_kv_heads: kv,
        head_dim: 2 * half,
    })
}

/// Heads, of each the channels that are rotated, positions, rows and gradients.
fn rope_case() -> impl Strategy<Value = (HeadShape, usize, Vec<u32>, Memory, Memory)> {
    (heads(), 1usize..4).prop_flat_map(|(heads, t)| {
        let len = t * heads.qkv_width();
        let dim = (1..=heads.head_dim / 2).prop_map(|half| 2 * half);
        (Just(heads), dim, proptest::collection::vec(0u32..50, t), values(len), values(len))
    })
}

/// Heads, rows, weights of each head or of all, and gradients.
fn head_norm_case() -> impl Strategy<Value = (HeadShape, Memory, Memory, Memory)> {
    (heads(), 1usize..150, any::<bool>()).prop_flat_map(|(heads, t, each)| {
        let weights = if each { 2 * heads.head_dim } else { heads.q_width() + heads.kv_width() };
        let len = t * heads.qkv_width();
        (Just(heads), values(len), values(weights), values(len))
    })
}

fn bias_case() -> impl Strategy<Value = (Memory, Memory)> {
    (1usize..150, 1usize..9).prop_flat_map(|(t, n)| (values(t * n), values(n)))
}

fn logit_scale() -> impl Strategy<Value = LogitScale> {
    let softcap = prop_oneof![Just(None), (0.5f32..40.0).prop_map(Some)];
    (0.1f32..3.0, softcap).prop_map(|(multiplier, softcap)| LogitScale { multiplier, softcap })
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
    fn rmsnorm((d, x, w, dy) in norm_case(), eps in 1e-6f32..1e-2, offset in prop_oneof![Just(0.0f32), Just(1.0)]) {
        let (x64, w64) = (f64s(&x), f64s(&w));
        let norm = Norm { eps, offset };
        let expected = reference::rmsnorm(&x64, &w64, norm);
        let dx_expected = gradient(&x64, &dy, |x| reference::rmsnorm(x, &w64, norm));
        let dw_expected = gradient(&w64, &dy, |w| reference::rmsnorm(&x64, w, norm));
        for cpu in devices() {
            let mut rstd = Memory::zeroed(x.len() / d);
            let [y, rounded] = PRECISIONS.map(|precision| {
                let mut y = cpu.alloc_rounded(precision, x.len());
                cpu.rmsnorm_forward(all_mut(&mut y), all_mut(&mut rstd), all(&x), all(&w), norm);
                y.to_f32()
            });
            prop_assert!(error(&y, &expected) < 1e-5);
            prop_assert_eq!(rounded, nearest(&y));
            // The same behind a residual, which is any matrix.
            let (mut sum, mut rstd_again) = (Memory::zeroed(x.len()), Memory::zeroed(x.len() / d));
            cpu.rmsnorm_add_forward(all_mut(&mut sum), all_mut(&mut rstd_again), all(&x), all(&w), all(&dy), norm);
            let expected: Vec<f32> = y.iter().zip(&dy[..]).map(|(y, residual)| y + residual).collect();
            prop_assert_eq!((&sum[..], &rstd_again), (&expected[..], &rstd));
            // Gradients are added to what is there.
            let (mut dx, mut dw) = (filled(x.len(), 1.0), filled(d, -1.0));
            cpu.rmsnorm_backward(all_mut(&mut dx), Some(all_mut(&mut dw)), all(&dy), all(&x), all(&w), all(&rstd), norm);
            dx.iter_mut().for_each(|dx| *dx -= 1.0);
            dw.iter_mut().for_each(|dw| *dw += 1.0);
            prop_assert!(error(&dx, &dx_expected) < 2e-4, "{dx:?} {dx_expected:?}");
            prop_assert!(error(&dw, &dw_expected) < 1e-4);
        }
    }

    #[test]
    fn glu((width, gate_up, dy) in glu_case(), gelu in any::<bool>()) {
        let activation = if gelu { Activation::GeluTanh } else { Activation::Silu };
        let expected = reference::glu(&f64s(&gate_up), width, activation);
        let d_expected = gradient(&f64s(&gate_up), &dy, |gate_up| reference::glu(gate_up, width, activation));
        for cpu in devices() {
            let [(y, dgate_up), rounded] = PRECISIONS.map(|precision| {
                let [mut y, mut y_again, mut dgate_up] =
                    [dy.len(), dy.len(), gate_up.len()].map(|len| cpu.alloc_rounded(precision, len));
                cpu.glu_forward(all_mut(&mut y), all(&gate_up), width, activation);
                let (dgate_up_mut, y_mut) = (all_mut(&mut dgate_up), all_mut(&mut y_again));
                cpu.glu_backward(dgate_up_mut, y_mut, all(&dy), all(&gate_up), width, activation);
                assert_eq!(y.to_f32(), y_again.to_f32());
                (y.to_f32(), dgate_up.to_f32())
            });
            prop_assert!(error(&y, &expected) < 1e-5);
            prop_assert!(error(&dgate_up, &d_expected) < 1e-5);
            prop_assert_eq!(rounded, (nearest(&y), nearest(&dgate_up)));
        }
    }

    #[test]
    fn bias((y, bias) in bias_case()) {
        let n = bias.len();
        let expected: Vec<f32> = y.chunks(n).flat_map(|y| y.iter().zip(&bias[..]).map(|(y, b)| y + b)).collect();
        // Each row adds its gradient, to what is there.
        let d_expected: Vec<f64> = (0..n).map(|at| f64s(&y).iter().skip(at).step_by(n).sum::<f64>() - 3.0).collect();
        for cpu in devices() {
            let mut sum = y.clone();
            cpu.bias_forward(all_mut(&mut sum), all(&bias));
            prop_assert_eq!(&sum[..], &expected[..]);
            let mut dbias = filled(n, -3.0);
            cpu.bias_backward(all_mut(&mut dbias), Rows::Single(all(&y)));
            prop_assert!(error(&dbias, &d_expected) < 1e-5);
        }
    }

    #[test]
    fn residual((x, other) in (1usize..200).prop_flat_map(|len| (values(len), values(len))), multiplier in 0.1f32..3.0) {
        for cpu in devices() {
            let [mut y, mut dx] = [(); 2].map(|()| filled(x.len(), 5.0));
            let mut sum = other.clone();
            cpu.residual_forward(all_mut(&mut y), all(&other), all(&x), multiplier);
            cpu.residual_backward(all_mut(&mut dx), all(&x), multiplier);
            cpu.add(all_mut(&mut sum), all(&x));
            for at in 0..x.len() {
                prop_assert_eq!(y[at], other[at] + multiplier * x[at]);
                prop_assert_eq!((dx[at], sum[at]), (multiplier * x[at], other[at] + x[at]));
            }
        }
    }

    #[test]
    fn rope((heads, dim, positions, qkv, dout) in rope_case(), theta in 10.0f64..1e5) {
        let table = rope_table(dim, 50, theta);
        let expected = reference::rope(&f64s(&qkv), &positions, heads, dim, theta);
        let d_expected = gradient(&f64s(&qkv), &dout, |qkv| reference::rope(qkv, &positions, heads, dim, theta));
        for cpu in devices() {
            let mut rotated = qkv.clone();
            cpu.rope_forward(all_mut(&mut rotated), all(&table), &positions, heads, dim);
            prop_assert!(error(&rotated, &expected) < 1e-5);
            let mut dqkv = dout.clone();
            cpu.rope_backward(all_mut(&mut dqkv), all(&table), &positions, heads, dim);
            prop_assert!(error(&dqkv, &d_expected) < 1e-5);
        }
    }

    #[test]
    fn logprob((logits, targets, dlogp) in logprob_case(), scale in logit_scale()) {
        let logprobs = |logits: &[f64]| reference::logprobs(&reference::logit_scale(logits, scale), &targets);
        let expected = logprobs(&f64s(&logits));
        let d_expected = gradient(&f64s(&logits), &dlogp, logprobs);
        for cpu in devices() {
            let (mut logp, mut lse) = (Memory::zeroed(targets.len()), Memory::zeroed(targets.len()));
            let mut logits = logits.clone();
            cpu.logit_scale_forward(all_mut(&mut logits), scale);
            cpu.logprob_forward(all_mut(&mut logp), all_mut(&mut lse), all(&logits), &targets);
            prop_assert!(error(&logp, &expected) < 1e-5);
            cpu.logprob_backward(all_mut(&mut logits), all(&dlogp), all(&lse), &targets, scale);
            prop_assert!(error(&logits, &d_expected) < 1e-5);
        }
    }

    #[test]
    fn gather(
        (d, table, rows, dout) in (1usize..9, 1usize..7, 1usize..12).prop_flat_map(|(d, v, n)| {
            (Just(d), values(v * d), proptest::collection::vec(0..v as u32, n), values(n * d))
        }),
        scale in prop_oneof![Just(1.0f32), 0.1f32..30.0],
    ) {
        let pick = |table: &[f64]| {
            let rows = rows.iter().flat_map(|&row| table[row as usize * d..][..d].to_vec());
            rows.map(|x| f64::from(scale) * x).collect::<Vec<_>>()
        };
        let expected = pick(&f64s(&table));
        let d_expected = gradient(&f64s(&table), &dout, pick);
        for cpu in devices() {
            let mut out = Memory::zeroed(dout.len());
            cpu.embedding_forward(all_mut(&mut out), Matrix::Single(all(&table)), &rows, scale);
            prop_assert!(error(&out, &expected) < 1e-7);
            let mut dtable = Memory::zeroed(table.len());
            cpu.embedding_backward(all_mut(&mut dtable), all(&dout), &rows, scale);
            prop_assert!(error(&dtable, &d_expected) < 1e-5);
            let (mut gathered, mut dx) = (Memory::zeroed(dout.len()), Memory::zeroed(table.len()));
            cpu.gather_forward(all_mut(&mut gathered), all(&table), &rows);
            cpu.gather_backward(all_mut(&mut dx), all(&dout), &rows);
            if scale == 1.0 {
                prop_assert_eq!((gathered, dx), (out, dtable));
            }
        }
    }
}

proptest! {
    // Finite differences run the reference twice for each input element.
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn head_norm(
        (heads, x, w, dy) in head_norm_case().prop_filter("small", |(_, x, ..)| x.len() < 4000),
        eps in 1e-6f32..1e-2,
        offset in prop_oneof![Just(0.0f32), Just(1.0)],
    ) {
        let (x64, w64) = (f64s(&x), f64s(&w));
        let norm = Norm { eps, offset };
        let expected = reference::head_norm(&x64, &w64, heads, norm);
        let dx_expected = gradient(&x64, &dy, |x| reference::head_norm(x, &w64, heads, norm));
        let dw_expected = gradient(&w64, &dy, |w| reference::head_norm(&x64, w, heads, norm));
        let rows = x.len() / heads.qkv_width();
        let parts = if w.len() == 2 * heads.head_dim { heads.num_heads + heads.num_kv_heads } else { 2 };
        for cpu in devices() {
            let (mut y, mut rstd) = (Memory::zeroed(x.len()), Memory::zeroed(rows * parts));
            cpu.head_norm_forward(all_mut(&mut y), all_mut(&mut rstd), all(&x), all(&w), heads, norm);
            prop_assert!(error(&y, &expected) < 1e-5);
            let (mut dqkv, mut dw) = (dy.clone(), filled(w.len(), -1.0));
            cpu.head_norm_backward(all_mut(&mut dqkv), Some(all_mut(&mut dw)), all(&x), all(&w), all(&rstd), heads, norm);
            dw.iter_mut().for_each(|dw| *dw += 1.0);
            prop_assert!(error(&dqkv, &dx_expected) < 2e-4);
            prop_assert!(error(&dw, &dw_expected) < 1e-4);
        }
    }
}
