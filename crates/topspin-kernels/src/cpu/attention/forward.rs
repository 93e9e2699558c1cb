//! The forward: the rows of a batch in tasks of a few.

use rayon::prelude::*;

use super::super::kv::{HeadKv, KvStore};
use super::super::math::{LANES, exp, max, sum_lanes};
use super::tiles::{blocked_dots, for_groups, weighted_sums};
use crate::device::{Segment, Span};
use crate::multiversion;
use crate::simd::{Arithmetic, Level};

/// Query rows of one task.
const ROWS: usize = 8;

/// `out[T, H*C]` and `lse[T, H]` from the queries of `qkv[T, ..]` and stored keys and values.
pub fn attention_forward(
    level: Level,
    out: &mut [f32],
    lse: &mut [f32],
    qkv: &[f32],
    kv: &KvStore,
    layer: usize,
    spans: &[Span],
) {
    let heads = kv.heads;
    let (width, group, c) = (heads.q_width(), heads.num_heads / heads.num_kv_heads, heads.head_dim);
    let task = |(task, (out, lse)): (usize, (&mut [f32], &mut [f32]))| {
        let rows = task * ROWS..task * ROWS + out.len() / width;
        let mut scores = Vec::new();
        for head in 0..heads.num_kv_heads {
            let head_kv = kv.head(layer, head);
            for row in rows.clone() {
                let span = span_of(spans, row);
                let visible = span.context() - (span.rows.end - 1 - row);
                let first = head * group;
                let at = row - rows.start;
                let out = &mut out[at * width + first * c..][..group * c];
                let lse = &mut lse[at * heads.num_heads + first..][..group];
                let queries = &qkv[row * heads.qkv_width() + first * c..][..group * c];
                attend(level, out, lse, queries, head_kv, &span.path, visible, c, &mut scores);
            }
        }
    };
    let tasks = out.par_chunks_mut(ROWS * width).zip(lse.par_chunks_mut(ROWS * heads.num_heads)).enumerate();
    tasks.for_each(task);
}

/// The span that holds a row.
fn span_of(spans: &[Span], row: usize) -> &Span {
    &spans[spans.partition_point(|span| span.rows.end <= row)]
}

multiversion! {
    /// The queries of one row that share a key/value head.
    fn attend(
        math,
        out: &mut [f32],
        lse: &mut [f32],
        queries: &[f32],
        kv: HeadKv<'_>,
        path: &[Segment],
        visible: usize,
        c: usize,
        scores: &mut Vec<f32>,
    ) {
        for_groups!(lse.len(), |first, N| {
            let (out, lse) = (&mut out[first * c..][..N * c], &mut lse[first..][..N]);
            attend_together::<N>(math, out, lse, &queries[first * c..][..N * c], kv, path, visible, c, scores);
        });
    }
}

#[inline(always)]
fn attend_together<const N: usize>(
    math: impl Arithmetic,
    out: &mut [f32],
    lse: &mut [f32],
    queries: &[f32],
    kv: HeadKv<'_>,
    path: &[Segment],
    visible: usize,
    c: usize,
    scores: &mut Vec<f32>,
) {
    let stride = visible.next_multiple_of(LANES);
    scores.clear();
    scores.resize(N * stride, f32::NEG_INFINITY);
    let queries: [&[f32]; N] = std::array::from_fn(|n| &queries[n * c..][..c]);
    blocked_dots(math, scores, stride, queries, kv.keys, path, visible);
    let scale = 1.0 / (c as f32).sqrt();
    for n in 0..N {
        let scores = &mut scores[n * stride..][..stride];
        let max = max(scores);
        let mut sums = [0.0; LANES];
        for lanes in scores.as_chunks_mut::<LANES>().0 {
            for lane in 0..LANES {
                lanes[lane] = exp(math, (lanes[lane] - max) * scale);
                sums[lane] += lanes[lane];
            }
        }
        let sum = sum_lanes(sums);
        lse[n] = max * scale + sum.ln();
        let inverse = 1.0 / sum;
        scores.iter_mut().for_each(|p| *p *= inverse);
    }
    let probabilities: [&[f32]; N] = std::array::from_fn(|n| &scores[n * stride..][..visible]);
    weighted_sums(math, out, probabilities, kv.values, path, c);
}
