//! The forward: the rows of a batch in tasks of a few.

use std::borrow::Cow;

use rayon::prelude::*;

use super::super::kv::{Format, HeadKv, KvStore, Store, padded_dim, parts, put_query};
use super::super::math::{LANES, exp, max, sum_lanes, tanh};
use super::tiles::{blocked_dots, for_groups, weighted_sums};
use crate::device::{Attention, Segment, Span};
use crate::memory::Memory;
use crate::multiversion;
use crate::simd::{Arithmetic, Level, prefetch};

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
    attention: Attention,
) {
    match kv {
        KvStore::F32(store) => by_rows(level, out, lse, qkv, store, layer, spans, attention),
        KvStore::Bf16(store) => by_rows(level, out, lse, qkv, store, layer, spans, attention),
    }
}

fn by_rows<F: Format>(
    level: Level,
    out: &mut [f32],
    lse: &mut [f32],
    qkv: &[f32],
    kv: &Store<F>,
    layer: usize,
    spans: &[Span],
    attention: Attention,
) {
    let heads = kv.heads;
    let (width, group, c) = (heads.q_width(), heads.num_heads / heads.num_kv_heads, heads.head_dim);
    let task = |(task, (out, lse)): (usize, (&mut [f32], &mut [f32]))| {
        let rows = task * ROWS..task * ROWS + out.len() / width;
        let mut scratch = Scratch::<F> { queries: Memory::zeroed(group * parts::<F>(c)), scores: Memory::default() };
        let seen: Vec<Seen<'_>> = rows.clone().map(|row| Seen::by(row, spans, attention)).collect();
        for head in 0..heads.num_kv_heads {
            let head_kv = kv.head(layer, head);
            for (row, of_row) in rows.clone().zip(&seen) {
                let first = head * group;
                let at = row - rows.start;
                let out = &mut out[at * width + first * c..][..group * c];
                let lse = &mut lse[at * heads.num_heads + first..][..group];
                let queries = &qkv[row * heads.qkv_width() + first * c..][..group * c];
                // Neighbours of a longer span leave near what they have in common.
                if of_row.alone {
                    fetch(head_kv.values, padded_dim(c), &of_row.path);
                    if let Some(next) = seen.get(at + 1) {
                        fetch(head_kv.keys, parts::<F>(c), &next.path);
                    }
                }
                attend(level, out, lse, queries, head_kv, of_row, c, attention, &mut scratch, level);
            }
        }
    };
    let tasks = out.par_chunks_mut(ROWS * width).zip(lse.par_chunks_mut(ROWS * heads.num_heads)).enumerate();
    tasks.for_each(task);
}

/// Asks for what a store with `width` elements for each slot has along a path, to work on something else until it is near.
/// What a block of keys has before the path's first or behind its last slot is as near then as it was.
fn fetch<T>(store: &[T], width: usize, path: &[Segment]) {
    for segment in path {
        let store = &store[segment.start * width..][..segment.len * width];
        store.iter().step_by(64 / size_of::<T>()).for_each(|at| prefetch(at));
    }
}

/// Memory of a task.
struct Scratch<F: Format> {
    /// The queries of a group of heads.
    queries: Memory<F::Key>,
    /// Their scores, by position.
    scores: Memory<f32>,
}

/// What a row sees.
struct Seen<'a> {
    /// From the first position that it sees on.
    path: Cow<'a, [Segment]>,
    /// Positions of the path that it sees.
    len: usize,
    /// Whether no other row stands in its span.
    alone: bool,
}

impl<'a> Seen<'a> {
    fn by(row: usize, spans: &'a [Span], attention: Attention) -> Self {
        let span = &spans[spans.partition_point(|span| span.rows.end <= row)];
        let end = span.context() - (span.rows.end - 1 - row);
        let first = attention.first_seen(end);
        let path = if first == 0 { Cow::Borrowed(&span.path[..]) } else { Cow::Owned(beyond(&span.path, first)) };
        Self { path, len: end - first, alone: span.rows.len() == 1 }
    }
}

/// The part of a path from the position `first` on.
fn beyond(path: &[Segment], first: usize) -> Vec<Segment> {
    let mut left = first;
    let part = |segment: &Segment| {
        let skipped = left.min(segment.len);
        left -= skipped;
        (skipped < segment.len).then(|| Segment { start: segment.start + skipped, len: segment.len - skipped })
    };
    path.iter().filter_map(part).collect()
}

multiversion! {
    /// The queries of one row that share a key/value head.
    fn attend<F: Format>(
        math,
        out: &mut [f32],
        lse: &mut [f32],
        queries: &[f32],
        kv: HeadKv<'_, F>,
        seen: &Seen<'_>,
        c: usize,
        attention: Attention,
        scratch: &mut Scratch<F>,
        level: Level,
    ) {
        let parts = parts::<F>(c);
        for (query, to) in queries.chunks_exact(c).zip(scratch.queries.chunks_exact_mut(parts)) {
            put_query::<F>(math, to, query);
        }
        let Scratch { queries, scores } = scratch;
        for_groups!(lse.len(), |first, N| {
            let (out, lse) = (&mut out[first * c..][..N * c], &mut lse[first..][..N]);
            let queries = &queries[first * parts..][..N * parts];
            attend_together::<F, N>(math, out, lse, queries, kv, seen, c, attention, scores, level);
        });
    }
}

#[inline(always)]
fn attend_together<F: Format, const N: usize>(
    math: impl Arithmetic,
    out: &mut [f32],
    lse: &mut [f32],
    queries: &[F::Key],
    kv: HeadKv<'_, F>,
    seen: &Seen<'_>,
    c: usize,
    attention: Attention,
    scores: &mut Memory<f32>,
    level: Level,
) {
    let (path, visible) = (&seen.path[..], seen.len);
    let stride = visible.next_multiple_of(LANES);
    let scores = scores.grown(N * stride);
    scores.fill(f32::NEG_INFINITY);
    let parts = parts::<F>(c);
    let queries: [&[F::Key]; N] = std::array::from_fn(|n| &queries[n * parts..][..parts]);
    blocked_dots::<F, _, N>(math, scores, stride, queries, kv.keys, path, visible);
    let scale = match attention.softcap {
        None => attention.scale,
        Some(cap) => {
            scores
                .chunks_exact_mut(stride)
                .for_each(|row| cap_scores(level, &mut row[..visible], attention.scale, cap));
            1.0
        }
    };
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
    weighted_sums::<F, _, N>(math, out, probabilities, kv.values, path, c);
}

multiversion! {
    /// `score := cap * tanh(scale * score / cap)`. Not in place, where it would take registers from those who need it not.
    #[inline(never)]
    fn cap_scores(math, scores: &mut [f32], scale: f32, cap: f32) {
        for score in scores {
            *score = cap * tanh(math, *score * scale / cap);
        }
    }
}
