//! Optimizer steps against their formulas in f64.

use proptest::prelude::*;
use topspin_kernels::device::{AdamW, Device, RmsProp};

use crate::{Memory, all, all_mut, devices, error, f64s, values};

proptest! {
    #[test]
    fn adamw(
        (params, grads) in (1usize..100).prop_flat_map(|n| (values(n), proptest::collection::vec(values(n), 1..5))),
        lr in 1e-4f32..1e-1, weight_decay in 0.0f32..0.5, grad_scale in 0.1f32..2.0,
    ) {
        let (beta1, beta2, eps) = (0.9f32, 0.98f32, 1e-6f32);
        let (mut p, mut m, mut v) = (f64s(&params), vec![0.0f64; params.len()], vec![0.0f64; params.len()]);
        for (step, grads) in grads.iter().enumerate() {
            for i in 0..p.len() {
                let (b1, b2, g) = (f64::from(beta1), f64::from(beta2), f64::from(grads[i]) * f64::from(grad_scale));
                m[i] = b1 * m[i] + (1.0 - b1) * g;
                v[i] = b2 * v[i] + (1.0 - b2) * g * g;
                let (m, v) = (m[i] / (1.0 - b1.powi(step as i32 + 1)), v[i] / (1.0 - b2.powi(step as i32 + 1)));
                p[i] -= f64::from(lr) * (m / (v.sqrt() + f64::from(eps)) + f64::from(weight_decay) * p[i]);
            }
        }
        for cpu in devices() {
            let (mut params, mut first, mut second) = (params.clone(), Memory::zeroed(p.len()), Memory::zeroed(p.len()));
            for (step, grads) in grads.iter().enumerate() {
                let settings = AdamW { lr, beta1, beta2, eps, weight_decay, step: step as u32 + 1 };
                let moments = (all_mut(&mut first), all_mut(&mut second));
                cpu.adamw_step(all_mut(&mut params), moments.0, moments.1, all(grads), grad_scale, settings);
            }
            prop_assert!(error(&params, &p) < 1e-5);
        }
    }

    #[test]
    fn rmsprop(
        (params, grads) in (1usize..100).prop_flat_map(|n| (values(n), proptest::collection::vec(values(n), 1..5))),
        lr in 1e-4f32..1e-2, weight_decay in 0.0f32..0.5, grad_scale in 0.1f32..2.0,
    ) {
        let (decay, eps) = (0.99f32, 1e-8f32);
        let (mut p, mut v) = (f64s(&params), vec![0.0f64; params.len()]);
        for grads in &grads {
            for i in 0..p.len() {
                let g = f64::from(grads[i]) * f64::from(grad_scale) + f64::from(weight_decay) * p[i];
                v[i] = f64::from(decay) * v[i] + (1.0 - f64::from(decay)) * g * g;
                p[i] -= f64::from(lr) * g / (v[i].sqrt() + f64::from(eps));
            }
        }
        for cpu in devices() {
            let (mut params, mut square) = (params.clone(), Memory::zeroed(p.len()));
            for grads in &grads {
                let settings = RmsProp { lr, decay, eps, weight_decay };
                cpu.rmsprop_step(all_mut(&mut params), all_mut(&mut square), all(grads), grad_scale, settings);
            }
            prop_assert!(error(&params, &p) < 1e-5);
        }
    }

    #[test]
    fn sum_of_squares(x in (1usize..300_000).prop_map(|n| (0..n).map(|i| (i as f32 * 0.37).sin()).collect::<Vec<_>>())) {
        let x = Memory::from(x);
        let exact: f64 = f64s(&x).iter().map(|x| x * x).sum();
        for cpu in devices() {
            prop_assert!((cpu.sum_squares(all(&x)) / exact - 1.0).abs() < 1e-12);
        }
    }
}
