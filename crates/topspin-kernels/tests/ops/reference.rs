//! The operations once more, in f64, as the formulas say.

use topspin_kernels::device::{Activation, Attention, HeadShape, LogitScale, Norm, Span};

pub fn rmsnorm(x: &[f64], w: &[f64], norm: Norm) -> Vec<f64> {
    let d = w.len();
    x.chunks(d)
        .flat_map(|x| {
            let rstd = 1.0 / (x.iter().map(|x| x * x).sum::<f64>() / d as f64 + f64::from(norm.eps)).sqrt();
            x.iter().zip(w).map(move |(x, w)| x * rstd * (w + f64::from(norm.offset))).collect::<Vec<_>>()
        })
        .collect()
}

pub fn head_norm(x: &[f64], w: &[f64], heads: HeadShape, norm: Norm) -> Vec<f64> {
    let (q, k) = (heads.q_width(), heads.kv_width());
    let (wq, wk) = if w.len() == 2 * heads.head_dim { w.split_at(heads.head_dim) } else { w.split_at(q) };
    let row =
        |row: &[f64]| [rmsnorm(&row[..q], wq, norm), rmsnorm(&row[q..q + k], wk, norm), row[q + k..].to_vec()].concat();
    x.chunks(heads.qkv_width()).flat_map(row).collect()
}

pub fn glu(gate_up: &[f64], width: usize, activation: Activation) -> Vec<f64> {
    let act = |x: f64| match activation {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::GeluTanh => {
            x / 2.0 * (1.0 + (std::f64::consts::FRAC_2_PI.sqrt() * (x + 0.044715 * x.powi(3))).tanh())
        }
    };
    let row = |row: &[f64]| (0..width).map(|i| act(row[i]) * row[width + i]).collect::<Vec<_>>();
    gate_up.chunks(2 * width).flat_map(row).collect()
}

/// Rotation of the pair (i, i + dim/2) of each query and key head by `position * theta^(-2i/dim)`.
pub fn rope(qkv: &[f64], positions: &[u32], heads: HeadShape, dim: usize, theta: f64) -> Vec<f64> {
    let (c, half) = (heads.head_dim, dim / 2);
    let mut out = qkv.to_vec();
    for (row, &position) in out.chunks_mut(heads.qkv_width()).zip(positions) {
        for head in row[..heads.q_width() + heads.kv_width()].chunks_mut(c) {
            for i in 0..half {
                let angle = f64::from(position) * theta.powf(-2.0 * i as f64 / dim as f64);
                let (a, b) = (head[i], head[i + half]);
                head[i] = a * angle.cos() - b * angle.sin();
                head[i + half] = b * angle.cos() + a * angle.sin();
            }
        }
    }
    out
}

/// What attention makes of a product of query and key.
fn attention_score(product: f64, attention: Attention) -> f64 {
    let score = product * f64::from(attention.scale);
    attention.softcap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh())
}

/// What the last of some positions sees of them.
fn seen(visible: &[usize], attention: Attention) -> &[usize] {
    &visible[visible.len() - attention.window.unwrap_or(visible.len()).min(visible.len())..]
}

pub fn logit_scale(logits: &[f64], scale: LogitScale) -> Vec<f64> {
    let logit = |x: &f64| {
        let x = x * f64::from(scale.multiplier);
        scale.softcap.map_or(x, |cap| f64::from(cap) * (x / f64::from(cap)).tanh())
    };
    logits.iter().map(logit).collect()
}

/// Softmax attention; slot `s` is row `s`.
pub fn attention(qkv: &[f64], spans: &[Span], heads: HeadShape, attention: Attention) -> Vec<f64> {
    let (c, width) = (heads.head_dim, heads.qkv_width());
    let mut out = Vec::new();
    for span in spans {
        let path: Vec<usize> =
            span.path.iter().flat_map(|segment| segment.start..segment.start + segment.len).collect();
        for row in span.rows.clone() {
            let visible = seen(&path[..path.len() - (span.rows.end - 1 - row)], attention);
            for head in 0..heads.num_heads {
                let kv_head = head * heads.num_kv_heads / heads.num_heads;
                let q = &qkv[row * width + head * c..][..c];
                let k = |slot: usize| &qkv[slot * width + heads.q_width() + kv_head * c..][..c];
                let v = |slot: usize| &qkv[slot * width + heads.q_width() + heads.kv_width() + kv_head * c..][..c];
                let product = |slot: &usize| q.iter().zip(k(*slot)).map(|(q, k)| q * k).sum::<f64>();
                let score = |slot: &usize| attention_score(product(slot), attention);
                let scores: Vec<f64> = visible.iter().map(score).collect();
                let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = scores.iter().map(|s| (s - max).exp()).sum();
                let weigh = |i: usize| {
                    visible.iter().zip(&scores).map(|(&slot, s)| (s - max).exp() / sum * v(slot)[i]).sum::<f64>()
                };
                out.extend((0..c).map(weigh));
            }
        }
    }
    out
}

/// For each gradient of [`attention`]'s inputs the sum of its terms' sizes, each a probability or the gradient of a score
/// times a channel, where a gradient of a score counts as the sizes of its own two terms.
pub fn attention_gradient_sizes(
    qkv: &[f64],
    dout: &[f32],
    spans: &[Span],
    heads: HeadShape,
    attention: Attention,
) -> Vec<f64> {
    let (c, width) = (heads.head_dim, heads.qkv_width());
    let mut sizes = vec![0.0; qkv.len()];
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    for span in spans {
        let path: Vec<usize> =
            span.path.iter().flat_map(|segment| segment.start..segment.start + segment.len).collect();
        for (row, head) in span.rows.clone().flat_map(|row| (0..heads.num_heads).map(move |head| (row, head))) {
            let visible = seen(&path[..path.len() - (span.rows.end - 1 - row)], attention);
            let (q_at, kv_head) = (row * width + head * c, head * heads.num_kv_heads / heads.num_heads);
            let k_at = |slot: usize| slot * width + heads.q_width() + kv_head * c;
            let v_at = |slot: usize| k_at(slot) + heads.kv_width();
            let d: Vec<f64> = dout[row * heads.q_width() + head * c..][..c].iter().map(|&d| f64::from(d)).collect();
            let product = |&slot: &usize| dot(&qkv[q_at..][..c], &qkv[k_at(slot)..][..c]);
            let scores: Vec<f64> = visible.iter().map(|slot| attention_score(product(slot), attention)).collect();
            let sum: f64 = scores.iter().map(|score| score.exp()).sum();
            let p: Vec<f64> = scores.iter().map(|score| score.exp() / sum).collect();
            let dp: Vec<f64> = visible.iter().map(|&slot| dot(&d, &qkv[v_at(slot)..][..c])).collect();
            let mean = dot(&p, &dp).abs();
            for (((&slot, p), dp), score) in visible.iter().zip(p).zip(dp).zip(scores) {
                let share = attention.softcap.map_or(0.0, |cap| score / f64::from(cap));
                let ds = p * (dp.abs() + mean) * f64::from(attention.scale) * (1.0 - share * share);
                for i in 0..c {
                    sizes[q_at + i] += ds * qkv[k_at(slot) + i].abs();
                    sizes[k_at(slot) + i] += ds * qkv[q_at + i].abs();
                    sizes[v_at(slot) + i] += p * d[i].abs();
                }
            }
        }
    }
    sizes
}

pub fn logprobs(logits: &[f64], targets: &[u32]) -> Vec<f64> {
    let v = logits.len() / targets.len();
    let row = |(row, &target): (&[f64], &u32)| {
        let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        row[target as usize] - max - row.iter().map(|l| (l - max).exp()).sum::<f64>().ln()
    };
    logits.chunks(v).zip(targets).map(row).collect()
}
