//! Optimizer steps and sums over whole arenas.

use rayon::prelude::*;

use crate::device::{AdamW, RmsProp};
use crate::multiversion;
use crate::simd::Level;

/// Elements of one task. Fixed, so that sums do not depend on the number of threads.
const CHUNK: usize = 1 << 16;

/// One AdamW step as PyTorch defines it.
pub fn adamw_step(
    level: Level,
    params: &mut [f32],
    first: &mut [f32],
    second: &mut [f32],
    grads: &[f32],
    grad_scale: f32,
    settings: AdamW,
) {
    multiversion! {
        fn chunk(math, p: &mut [f32], m: &mut [f32], v: &mut [f32], g: &[f32], scale: f32, s: AdamW, correct: (f32, f32)) {
            let n = p.len();
            let (m, v, g) = (&mut m[..n], &mut v[..n], &g[..n]);
            let keep = 1.0 - s.lr * s.weight_decay;
            let (rate, root) = correct;
            for i in 0..n {
                let g = g[i] * scale;
                m[i] = math.mul_add(g - m[i], 1.0 - s.beta1, m[i]);
                v[i] = math.mul_add(g * g, 1.0 - s.beta2, v[i] * s.beta2);
                p[i] = p[i] * keep - rate * m[i] / (v[i].sqrt() * root + s.eps);
            }
        }
    }
    // In f64: 1 - beta^step loses half its digits in f32 at the first steps.
    let bias = |beta: f32| 1.0 - f64::from(beta).powi(settings.step as i32);
    let correct = ((f64::from(settings.lr) / bias(settings.beta1)) as f32, (1.0 / bias(settings.beta2).sqrt()) as f32);
    params
        .par_chunks_mut(CHUNK)
        .zip(first.par_chunks_mut(CHUNK))
        .zip(second.par_chunks_mut(CHUNK))
        .zip(grads.par_chunks(CHUNK))
        .for_each(|(((p, m), v), g)| chunk(level, p, m, v, g, grad_scale, settings, correct));
}

/// One RMSprop step as PyTorch defines it, neither centred nor with momentum.
pub fn rmsprop_step(
    level: Level,
    params: &mut [f32],
    square: &mut [f32],
    grads: &[f32],
    grad_scale: f32,
    settings: RmsProp,
) {
    multiversion! {
        fn chunk(math, p: &mut [f32], v: &mut [f32], g: &[f32], scale: f32, s: RmsProp) {
            let n = p.len();
            let (v, g) = (&mut v[..n], &g[..n]);
            for i in 0..n {
                let g = math.mul_add(p[i], s.weight_decay, g[i] * scale);
                v[i] = math.mul_add(g * g, 1.0 - s.decay, v[i] * s.decay);
                p[i] -= s.lr * g / (v[i].sqrt() + s.eps);
            }
        }
    }
    params
        .par_chunks_mut(CHUNK)
        .zip(square.par_chunks_mut(CHUNK))
        .zip(grads.par_chunks(CHUNK))
        .for_each(|((p, v), g)| chunk(level, p, v, g, grad_scale, settings));
}

/// Sum of squares in f64.
pub fn sum_squares(x: &[f32]) -> f64 {
    let chunk = |x: &[f32]| {
        let mut sums = [0.0f64; 8];
        let (whole, rest) = x.as_chunks::<8>();
        for x in whole {
            for lane in 0..8 {
                sums[lane] += f64::from(x[lane]) * f64::from(x[lane]);
            }
        }
        sums.iter().sum::<f64>() + rest.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>()
    };
    let parts: Vec<f64> = x.par_chunks(CHUNK).map(chunk).collect();
    parts.iter().sum()
}
