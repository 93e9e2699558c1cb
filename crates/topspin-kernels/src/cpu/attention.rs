//! Scaled dot-product attention over paths of segments.
//!
//! A query's scores are all computed before its softmax, in order of position along its path, and every sum runs over
//! positions in that order: the result cannot depend on how the path is cut into segments, on where they are stored, or
//! on which other queries are in the batch.

use std::ops::Range;

use rayon::prelude::*;

use super::kv::{HeadKv, KvStore, padded_dim, put_key};
use super::math::{LANES, dot, exp, max, sum_lanes};
use crate::device::{HeadShape, Segment, Span};
use crate::multiversion;
use crate::simd::{Arithmetic, Level};

/// Query rows of one task.
const ROWS: usize = 8;

/// Query rows whose gradients are computed together: their probabilities stay in the second-level cache.
const BLOCK: usize = 16;

/// Calls the body with `first` and a constant `N` for groups of at most 4 that together are `0..count`: what a group
/// reads in common is loaded once, and its sums fit into registers.
macro_rules! for_groups {
    ($count:expr, |$first:ident, $n:ident| $body:block) => {{
        let count: usize = $count;
        let mut $first = 0;
        while $first < count {
            match count - $first {
                1 => for_groups!(@one 1, $first, $n, $body),
                2 => for_groups!(@one 2, $first, $n, $body),
                3 => for_groups!(@one 3, $first, $n, $body),
                _ => for_groups!(@one 4, $first, $n, $body),
            }
        }
    }};
    (@one $size:literal, $first:ident, $n:ident, $body:block) => {{
        const $n: usize = $size;
        $body
        $first += $n;
    }};
}

/// Calls the body with `channel` and a constant `V` for groups of at most 4 vectors of channels that together are
/// `0..$padded`, as many at a time as there are registers for the sums of `N` rows.
macro_rules! for_channels {
    ($math:ident, $n:ident, $padded:expr, |$channel:ident, $v:ident| $body:block) => {{
        let padded: usize = $padded;
        let mut $channel = 0;
        while $channel < padded {
            let left = (padded - $channel) / LANES;
            if left >= 4 && $math::SUMS >= 4 * $n {
                for_channels!(@one 4, $channel, $v, $body)
            } else if left >= 2 && $math::SUMS >= 2 * $n {
                for_channels!(@one 2, $channel, $v, $body)
            } else {
                for_channels!(@one 1, $channel, $v, $body)
            }
        }
    }};
    (@one $size:literal, $channel:ident, $v:ident, $body:block) => {{
        const $v: usize = $size;
        $body
        $channel += $v * LANES;
    }};
}

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

/// `scores[n * stride + position] = queries[n] · blocked[position]` for the first `visible` positions of a path.
#[inline(always)]
fn blocked_dots<M: Arithmetic, const N: usize>(
    math: M,
    scores: &mut [f32],
    stride: usize,
    queries: [&[f32]; N],
    blocked: &[f32],
    path: &[Segment],
    visible: usize,
) {
    let mut position = 0;
    for segment in path {
        let end = segment.start + segment.len.min(visible - position);
        let mut slot = segment.start;
        while slot < end {
            let whole = if slot.is_multiple_of(LANES) { (end - slot) / LANES } else { 0 };
            let scores = &mut scores[position..];
            let done = if whole >= 4 && M::SUMS >= 4 * N {
                block_dots::<M, N, 4>(math, scores, stride, queries, blocked, slot, end)
            } else if whole >= 2 && M::SUMS >= 2 * N {
                block_dots::<M, N, 2>(math, scores, stride, queries, blocked, slot, end)
            } else {
                block_dots::<M, N, 1>(math, scores, stride, queries, blocked, slot, end)
            };
            position += done;
            slot += done;
        }
    }
}

/// The part of [`blocked_dots`] from `slot` on that lies in the same block and the `B - 1` next, before `end`. Returns
/// the number of positions.
#[inline(always)]
fn block_dots<M: Arithmetic, const N: usize, const B: usize>(
    math: M,
    scores: &mut [f32],
    stride: usize,
    queries: [&[f32]; N],
    blocked: &[f32],
    slot: usize,
    end: usize,
) -> usize {
    let c = queries[0].len();
    let blocks = &blocked[slot / LANES * LANES * c..][..B * LANES * c];
    let blocks: [&[[f32; LANES]]; B] = std::array::from_fn(|b| &blocks.as_chunks().0[b * c..][..c]);
    let mut sums = [[math.splat(0.0); B]; N];
    for channel in 0..c {
        let mut keys = [math.splat(0.0); B];
        for b in 0..B {
            keys[b] = math.load(&blocks[b][channel]);
        }
        for n in 0..N {
            let query = math.splat(queries[n][channel]);
            for b in 0..B {
                sums[n][b] = math.mul_add_lanes(query, keys[b], sums[n][b]);
            }
        }
    }
    // Only a single block may begin or end within its lanes.
    let first = slot % LANES;
    let count = (end - slot).min(B * LANES - first);
    for n in 0..N {
        for b in 0..B {
            let lanes = first..LANES.min(first + count - b * LANES);
            scores[n * stride + b * LANES..][..lanes.len()].copy_from_slice(&math.store(sums[n][b])[lanes]);
        }
    }
    count
}

/// `dqkv[T, ..]` of a batch of trees whose slots are its rows.
pub fn attention_backward(
    level: Level,
    dqkv: &mut [f32],
    dout: &[f32],
    out: &[f32],
    qkv: &[f32],
    lse: &[f32],
    spans: &[Span],
    heads: HeadShape,
) {
    let forward = Forward { dout, out, qkv, lse, heads };
    let trees = trees(spans);
    // Branches of a tree add to the same keys and values, so a query head of a tree is one task.
    let tasks: Vec<(usize, usize)> =
        (0..trees.len()).flat_map(|tree| (0..heads.num_heads).map(move |head| (tree, head))).collect();
    let grads: Vec<HeadGrads> = tasks
        .into_par_iter()
        .with_max_len(1)
        .map(|(tree, head)| head_backward(level, &forward, trees[tree], head))
        .collect();

    let (width, group, c) = (heads.qkv_width(), heads.num_heads / heads.num_kv_heads, heads.head_dim);
    let put = |row: usize, dqkv: &mut [f32]| {
        let tree = trees.partition_point(|spans| spans[spans.len() - 1].rows.end <= row);
        let at = row - trees[tree][0].rows.start;
        let grads = &grads[tree * heads.num_heads..][..heads.num_heads];
        let (dq, dkv) = dqkv.split_at_mut(heads.q_width());
        for (dq, grads) in dq.chunks_exact_mut(c).zip(grads) {
            dq.copy_from_slice(&grads.dq[at * c..][..c]);
        }
        let (dk, dv) = dkv.split_at_mut(heads.kv_width());
        for (head, (dk, dv)) in dk.chunks_exact_mut(c).zip(dv.chunks_exact_mut(c)).enumerate() {
            for (query_head, grads) in grads[head * group..][..group].iter().enumerate() {
                let place = at * padded_dim(c);
                for (to, from) in [(&mut *dk, &grads.dk[place..][..c]), (&mut *dv, &grads.dv[place..][..c])] {
                    match query_head {
                        0 => to.copy_from_slice(from),
                        _ => to.iter_mut().zip(from).for_each(|(to, from)| *to += from),
                    }
                }
            }
        }
    };
    super::parallel::for_rows(dqkv, width, put);
}

/// The spans of each tree: a root's path is its own segment alone.
fn trees(spans: &[Span]) -> Vec<&[Span]> {
    let mut trees: Vec<&[Span]> = Vec::new();
    let mut start = 0;
    for at in 1..=spans.len() {
        if at == spans.len() || spans[at].path.len() == 1 {
            trees.push(&spans[start..at]);
            start = at;
        }
    }
    trees
}

/// What the backward reads, `T` rows each.
struct Forward<'a> {
    dout: &'a [f32],
    out: &'a [f32],
    qkv: &'a [f32],
    lse: &'a [f32],
    heads: HeadShape,
}

/// Gradients of one query head, and what it adds to those of its key/value head, over the rows of one tree.
struct HeadGrads {
    /// `[rows][C]`.
    dq: Vec<f32>,
    /// `[rows][C']`.
    dk: Vec<f32>,
    /// `[rows][C']`.
    dv: Vec<f32>,
}

/// Keys and values of a tree: blocked for products with a query, keys in rows as well.
struct Tables {
    keys: Vec<f32>,
    values: Vec<f32>,
    /// `[rows][C']`.
    key_rows: Vec<f32>,
}

/// Memory for the queries of a block, by position along their path.
#[derive(Default)]
struct Scratch {
    /// Probabilities, `[block][position]`.
    p: Vec<f32>,
    /// Gradients of probabilities, then of scores, `[block][position]`.
    ds: Vec<f32>,
    /// Queries, `[block][C']`.
    q: Vec<f32>,
    /// Gradients of outputs, `[block][C']`.
    dout: Vec<f32>,
}

fn head_backward(level: Level, forward: &Forward<'_>, tree: &[Span], head: usize) -> HeadGrads {
    let heads = forward.heads;
    let (c, padded) = (heads.head_dim, padded_dim(heads.head_dim));
    let kv_head = head / (heads.num_heads / heads.num_kv_heads);
    let rows = tree[0].rows.start..tree[tree.len() - 1].rows.end;
    let blocked = || vec![0.0; rows.len().next_multiple_of(LANES) * c];
    let mut tables = Tables { keys: blocked(), values: blocked(), key_rows: vec![0.0; rows.len() * padded] };
    for (at, row) in rows.clone().enumerate() {
        let kv = &forward.qkv[row * heads.qkv_width()..][heads.q_width()..heads.qkv_width()];
        let key = &kv[kv_head * c..][..c];
        put_key(&mut tables.keys, at, key);
        put_key(&mut tables.values, at, &kv[heads.kv_width() + kv_head * c..][..c]);
        tables.key_rows[at * padded..][..c].copy_from_slice(key);
    }
    let mut grads = HeadGrads {
        dq: vec![0.0; rows.len() * c],
        dk: vec![0.0; rows.len() * padded],
        dv: vec![0.0; rows.len() * padded],
    };
    let mut scratch = Scratch::default();
    for span in tree {
        let local = |segment: &Segment| Segment { start: segment.start - rows.start, len: segment.len };
        let path: Vec<Segment> = span.path.iter().map(local).collect();
        for first in span.rows.clone().step_by(BLOCK) {
            let block = first..span.rows.end.min(first + BLOCK);
            let visible = span.context() - (span.rows.end - block.end);
            let HeadGrads { dq, dk, dv } = &mut grads;
            let dq = &mut dq[(first - rows.start) * c..][..block.len() * c];
            block_backward(level, dq, dk, dv, forward, &tables, head, block, &path, visible, &mut scratch);
        }
    }
    grads
}

multiversion! {
    /// The part of some consecutive rows of a span, of which the last one sees `visible` positions: `dq[block][C]`
    /// overwritten, `dk[rows][C']` and `dv[rows][C']` added to.
    fn block_backward(
        math,
        dq: &mut [f32],
        dk: &mut [f32],
        dv: &mut [f32],
        forward: &Forward<'_>,
        tables: &Tables,
        head: usize,
        block: Range<usize>,
        path: &[Segment],
        visible: usize,
        scratch: &mut Scratch,
    ) {
        let heads = forward.heads;
        let (c, padded) = (heads.head_dim, padded_dim(heads.head_dim));
        let stride = visible.next_multiple_of(LANES);
        let Scratch { p, ds, q, dout } = scratch;
        for (memory, len) in [(&mut *p, stride), (&mut *ds, stride), (&mut *q, padded), (&mut *dout, padded)] {
            memory.clear();
            memory.resize(block.len() * len, 0.0);
        }
        for (at, row) in block.clone().enumerate() {
            q[at * padded..][..c].copy_from_slice(&forward.qkv[row * heads.qkv_width() + head * c..][..c]);
            dout[at * padded..][..c].copy_from_slice(&forward.dout[row * heads.q_width() + head * c..][..c]);
        }
        // Rows that go together all see what the last one of them sees; what is too much is then set to 0.
        for_groups!(block.len(), |first, N| {
            let visible = visible - (block.len() - first - N);
            let q: [&[f32]; N] = std::array::from_fn(|n| &q[(first + n) * padded..][..c]);
            blocked_dots(math, &mut p[first * stride..], stride, q, &tables.keys, path, visible);
            let dout: [&[f32]; N] = std::array::from_fn(|n| &dout[(first + n) * padded..][..c]);
            blocked_dots(math, &mut ds[first * stride..], stride, dout, &tables.values, path, visible);
        });
        let scale = 1.0 / (c as f32).sqrt();
        for (at, row) in block.clone().enumerate() {
            let lse = forward.lse[row * heads.num_heads + head];
            let out = &forward.out[row * heads.q_width() + head * c..][..c];
            // sum_j p_j dp_j, by way of the output that they made.
            let along = dot(math, &dout[at * padded..][..c], out);
            let (p, ds) = (&mut p[at * stride..][..stride], &mut ds[at * stride..][..stride]);
            for (p, ds) in p.as_chunks_mut::<LANES>().0.iter_mut().zip(ds.as_chunks_mut::<LANES>().0) {
                for lane in 0..LANES {
                    p[lane] = exp(math, math.mul_add(p[lane], scale, -lse));
                    ds[lane] = p[lane] * (ds[lane] - along) * scale;
                }
            }
            let seen = visible - (block.len() - 1 - at);
            p[seen..].fill(0.0);
            ds[seen..].fill(0.0);
        }
        for_groups!(block.len(), |first, N| {
            let visible = visible - (block.len() - first - N);
            let weights: [&[f32]; N] = std::array::from_fn(|n| &ds[(first + n) * stride..][..visible]);
            weighted_sums(math, &mut dq[first * c..][..N * c], weights, &tables.key_rows, path, c);
        });
        let mut position = 0;
        for segment in path {
            let len = segment.len.min(visible - position);
            for_groups!(len, |first, N| {
                let (from, to) = (position + first, (segment.start + first) * padded);
                add_rows::<_, N>(math, &mut dv[to..][..N * padded], &p[from..], stride, dout, padded);
                add_rows::<_, N>(math, &mut dk[to..][..N * padded], &ds[from..], stride, q, padded);
            });
            position += len;
        }
    }
}

/// `sums[n][C] = sum_position weights[n][position] * rows[position]` over the positions of a path, in their order.
#[inline(always)]
fn weighted_sums<M: Arithmetic, const N: usize>(
    math: M,
    sums: &mut [f32],
    weights: [&[f32]; N],
    rows: &[f32],
    path: &[Segment],
    c: usize,
) {
    for_channels!(M, N, padded_dim(c), |channel, V| {
        let (padded, visible) = (padded_dim(c), weights[0].len());
        let mut lanes = [[math.splat(0.0); V]; N];
        let mut position = 0;
        for segment in path {
            let len = segment.len.min(visible - position);
            let weights: [&[f32]; N] = std::array::from_fn(|n| &weights[n][position..][..len]);
            let rows = rows[segment.start * padded..].chunks_exact(padded);
            for (at, row) in rows.take(len).enumerate() {
                let row = vectors::<M, V>(math, &row[channel..]);
                for n in 0..N {
                    let weight = math.splat(weights[n][at]);
                    for v in 0..V {
                        lanes[n][v] = math.mul_add_lanes(weight, row[v], lanes[n][v]);
                    }
                }
            }
            position += len;
        }
        for n in 0..N {
            for v in 0..V {
                let channel = channel + v * LANES;
                let len = LANES.min(c - channel);
                sums[n * c + channel..][..len].copy_from_slice(&math.store(lanes[n][v])[..len]);
            }
        }
    });
}

/// `to[n][C'] += sum_at weights[at * stride + n] * rows[at][C']`, in order of `at`.
#[inline(always)]
fn add_rows<M: Arithmetic, const N: usize>(
    math: M,
    to: &mut [f32],
    weights: &[f32],
    stride: usize,
    rows: &[f32],
    padded: usize,
) {
    for_channels!(M, N, padded, |channel, V| {
        let mut sums = [[math.splat(0.0); V]; N];
        for n in 0..N {
            sums[n] = vectors(math, &to[n * padded + channel..]);
        }
        for (row, weights) in rows.chunks_exact(padded).zip(weights.chunks(stride)) {
            let row = vectors::<M, V>(math, &row[channel..]);
            let weights: &[f32; N] = weights.first_chunk().expect("a weight for each of the positions");
            for n in 0..N {
                let weight = math.splat(weights[n]);
                for v in 0..V {
                    sums[n][v] = math.mul_add_lanes(weight, row[v], sums[n][v]);
                }
            }
        }
        for n in 0..N {
            for v in 0..V {
                to[n * padded + channel + v * LANES..][..LANES].copy_from_slice(&math.store(sums[n][v]));
            }
        }
    });
}

/// The first `V` vectors of a row that is padded to whole ones.
#[inline(always)]
fn vectors<M: Arithmetic, const V: usize>(math: M, row: &[f32]) -> [M::Lanes; V] {
    // A loop and not `from_fn`, whose result would not stay in registers.
    let (row, _) = row[..V * LANES].as_chunks::<LANES>();
    let mut vectors = [math.splat(0.0); V];
    for v in 0..V {
        vectors[v] = math.load(&row[v]);
    }
    vectors
}
