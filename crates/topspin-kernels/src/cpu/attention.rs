//! Scaled dot-product attention over paths of segments.
//!
//! A query's scores are all computed before its softmax, in order of position along its path, and every sum runs over
//! positions in that order: the result cannot depend on how the path is cut into segments, on where they are stored, or
//! on which other queries are in the batch.

use rayon::prelude::*;

use super::kv::{HeadKv, KvStore, padded_dim, put_key};
use super::math::{LANES, dot, exp, max, sum_lanes};
use crate::device::{HeadShape, Segment, Span};
use crate::multiversion;
use crate::simd::{Arithmetic, Level};

/// Query rows of one task.
const ROWS: usize = 8;

/// Most query heads that share one pass over the keys.
const MAX_TOGETHER: usize = 4;

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
        let mut first = 0;
        while first < lse.len() {
            let n = (lse.len() - first).min(MAX_TOGETHER);
            let (out, lse) = (&mut out[first * c..][..n * c], &mut lse[first..][..n]);
            let queries = &queries[first * c..][..n * c];
            match n {
                1 => attend_together::<1>(math, out, lse, queries, kv, path, visible, c, scores),
                2 => attend_together::<2>(math, out, lse, queries, kv, path, visible, c, scores),
                3 => attend_together::<3>(math, out, lse, queries, kv, path, visible, c, scores),
                _ => attend_together::<MAX_TOGETHER>(math, out, lse, queries, kv, path, visible, c, scores),
            }
            first += n;
        }
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
    blocked_dots::<N>(math, scores, stride, queries, kv.keys, path, visible, c);
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
    for channel in (0..c).step_by(LANES) {
        let mut sums = [math.splat(0.0); N];
        let mut position = 0;
        for segment in path {
            let len = segment.len.min(visible - position);
            let probabilities: [&[f32]; N] = std::array::from_fn(|n| &scores[n * stride + position..][..len]);
            let values = kv.values[segment.start * padded_dim(c)..].chunks_exact(padded_dim(c));
            for (at, value) in values.take(len).enumerate() {
                let value = value[channel..].first_chunk::<LANES>().expect("values are padded to whole vectors");
                let value = math.load(value);
                for n in 0..N {
                    sums[n] = math.mul_add_lanes(math.splat(probabilities[n][at]), value, sums[n]);
                }
            }
            position += len;
        }
        let len = LANES.min(c - channel);
        for n in 0..N {
            out[n * c + channel..][..len].copy_from_slice(&math.store(sums[n])[..len]);
        }
    }
}

/// `scores[n * stride + position] = queries[n] · blocked[position]` for the first `visible` positions of a path.
#[inline(always)]
fn blocked_dots<const N: usize>(
    math: impl Arithmetic,
    scores: &mut [f32],
    stride: usize,
    queries: &[f32],
    blocked: &[f32],
    path: &[Segment],
    visible: usize,
    c: usize,
) {
    let queries: [&[f32]; N] = std::array::from_fn(|n| &queries[n * c..][..c]);
    let mut position = 0;
    for segment in path {
        let end = segment.start + segment.len.min(visible - position);
        let mut slot = segment.start;
        while slot < end {
            let block = &blocked[slot / LANES * LANES * c..][..LANES * c];
            let mut sums = [math.splat(0.0); N];
            for (channel, keys) in block.as_chunks::<LANES>().0[..c].iter().enumerate() {
                let keys = math.load(keys);
                for n in 0..N {
                    sums[n] = math.mul_add_lanes(math.splat(queries[n][channel]), keys, sums[n]);
                }
            }
            let lanes = slot % LANES..LANES.min(slot % LANES + end - slot);
            for n in 0..N {
                scores[n * stride + position..][..lanes.len()].copy_from_slice(&math.store(sums[n])[lanes.clone()]);
            }
            position += lanes.len();
            slot += lanes.len();
        }
    }
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
    let forward = Rows { dout, out, qkv, lse, heads };
    let trees = trees(spans);
    // Branches of a tree add to the same keys and values, so a tree's head is one task.
    let tasks: Vec<(usize, usize)> =
        (0..trees.len()).flat_map(|tree| (0..heads.num_kv_heads).map(move |head| (tree, head))).collect();
    let grads: Vec<HeadGrads> = tasks
        .into_par_iter()
        .with_max_len(1)
        .map(|(tree, head)| head_backward(level, &forward, trees[tree], head))
        .collect();

    let (width, group, c) = (heads.qkv_width(), heads.num_heads / heads.num_kv_heads, heads.head_dim);
    let put = |row: usize, dqkv: &mut [f32]| {
        let tree = trees.partition_point(|spans| spans[spans.len() - 1].rows.end <= row);
        let at = row - trees[tree][0].rows.start;
        for head in 0..heads.num_kv_heads {
            let grads = &grads[tree * heads.num_kv_heads + head];
            dqkv[head * group * c..][..group * c].copy_from_slice(&grads.dq[at * group * c..][..group * c]);
            let (k, v) = (heads.q_width() + head * c, heads.q_width() + heads.kv_width() + head * c);
            dqkv[k..][..c].copy_from_slice(&grads.dk[at * padded_dim(c)..][..c]);
            dqkv[v..][..c].copy_from_slice(&grads.dv[at * padded_dim(c)..][..c]);
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
struct Rows<'a> {
    dout: &'a [f32],
    out: &'a [f32],
    qkv: &'a [f32],
    lse: &'a [f32],
    heads: HeadShape,
}

/// Gradients of one key/value head and its query heads over the rows of one tree.
struct HeadGrads {
    /// `[rows][group * C]`.
    dq: Vec<f32>,
    /// `[rows][C']`.
    dk: Vec<f32>,
    /// `[rows][C']`.
    dv: Vec<f32>,
}

fn head_backward(level: Level, forward: &Rows<'_>, tree: &[Span], head: usize) -> HeadGrads {
    let Rows { dout, out, qkv, lse, heads } = *forward;
    let (group, c, padded) = (heads.num_heads / heads.num_kv_heads, heads.head_dim, padded_dim(heads.head_dim));
    let rows = tree[0].rows.start..tree[tree.len() - 1].rows.end;
    let blocked = || vec![0.0; rows.len().next_multiple_of(LANES) * c];
    let (mut keys, mut values) = (blocked(), blocked());
    let mut key_rows = vec![0.0; rows.len() * padded];
    for (at, row) in rows.clone().enumerate() {
        let qkv = &qkv[row * heads.qkv_width()..][..heads.qkv_width()];
        let key = &qkv[heads.q_width() + head * c..][..c];
        put_key(&mut keys, at, key);
        put_key(&mut values, at, &qkv[heads.q_width() + heads.kv_width() + head * c..][..c]);
        key_rows[at * padded..][..c].copy_from_slice(key);
    }
    let mut grads = HeadGrads {
        dq: vec![0.0; rows.len() * group * c],
        dk: vec![0.0; rows.len() * padded],
        dv: vec![0.0; rows.len() * padded],
    };
    let mut scratch = Scratch::default();
    for span in tree {
        let local = |segment: &Segment| Segment { start: segment.start - rows.start, len: segment.len };
        let path: Vec<Segment> = span.path.iter().map(local).collect();
        for row in span.rows.clone() {
            let visible = span.context() - (span.rows.end - 1 - row);
            let at = row - rows.start;
            for query_head in 0..group {
                let (lse_at, q_at) = (head * group + query_head, (head * group + query_head) * c);
                let query = QueryRow {
                    q: &qkv[row * heads.qkv_width() + q_at..][..c],
                    dout: &dout[row * heads.q_width() + q_at..][..c],
                    out: &out[row * heads.q_width() + q_at..][..c],
                    lse: lse[row * heads.num_heads + lse_at],
                };
                let dq = &mut grads.dq[(at * group + query_head) * c..][..c];
                let tables = Tables { keys: &keys, values: &values, key_rows: &key_rows };
                query_backward(level, dq, &mut grads.dk, &mut grads.dv, query, tables, &path, visible, &mut scratch);
            }
        }
    }
    grads
}

/// One query of one row, and what its forward left.
#[derive(Clone, Copy)]
struct QueryRow<'a> {
    q: &'a [f32],
    dout: &'a [f32],
    out: &'a [f32],
    lse: f32,
}

/// Keys and values of a tree: blocked for products with a query, keys in rows as well.
#[derive(Clone, Copy)]
struct Tables<'a> {
    keys: &'a [f32],
    values: &'a [f32],
    key_rows: &'a [f32],
}

#[derive(Default)]
struct Scratch {
    /// Probabilities by position.
    p: Vec<f32>,
    /// Gradients of probabilities, then of scores, by position.
    ds: Vec<f32>,
}

multiversion! {
    /// One query's part: `dq[C]` overwritten, `dk[rows][C']` and `dv[rows][C']` added to.
    fn query_backward(
        math,
        dq: &mut [f32],
        dk: &mut [f32],
        dv: &mut [f32],
        query: QueryRow<'_>,
        tables: Tables<'_>,
        path: &[Segment],
        visible: usize,
        scratch: &mut Scratch,
    ) {
        let c = dq.len();
        let padded = padded_dim(c);
        let stride = visible.next_multiple_of(LANES);
        let Scratch { p, ds } = scratch;
        p.clear();
        p.resize(stride, f32::NEG_INFINITY);
        ds.clear();
        ds.resize(stride, 0.0);
        blocked_dots::<1>(math, p, stride, query.q, tables.keys, path, visible, c);
        blocked_dots::<1>(math, ds, stride, query.dout, tables.values, path, visible, c);
        let scale = 1.0 / (c as f32).sqrt();
        // sum_j p_j dp_j, by way of the output that they made.
        let along = dot(math, query.dout, query.out);
        for (p, ds) in p.as_chunks_mut::<LANES>().0.iter_mut().zip(ds.as_chunks_mut::<LANES>().0) {
            for lane in 0..LANES {
                p[lane] = exp(math, math.mul_add(p[lane], scale, -query.lse));
                ds[lane] = p[lane] * (ds[lane] - along) * scale;
            }
        }
        for channel in (0..c).step_by(LANES) {
            let len = LANES.min(c - channel);
            let lanes = |values: &[f32]| {
                let mut lanes = [0.0; LANES];
                lanes[..len].copy_from_slice(&values[channel..][..len]);
                lanes
            };
            let (q, dout) = (lanes(query.q), lanes(query.dout));
            let mut sums = [0.0; LANES];
            let mut position = 0;
            for segment in path {
                let n = segment.len.min(visible - position);
                for at in 0..n {
                    let (p, ds) = (p[position + at], ds[position + at]);
                    let place = (segment.start + at) * padded + channel;
                    let dk = dk[place..].first_chunk_mut::<LANES>().expect("rows are padded to whole vectors");
                    let dv = dv[place..].first_chunk_mut::<LANES>().expect("rows are padded to whole vectors");
                    let key = tables.key_rows[place..].first_chunk::<LANES>().expect("rows are padded to whole vectors");
                    for lane in 0..LANES {
                        dk[lane] = math.mul_add(ds, q[lane], dk[lane]);
                        dv[lane] = math.mul_add(p, dout[lane], dv[lane]);
                        sums[lane] = math.mul_add(ds, key[lane], sums[lane]);
                    }
                }
                position += n;
            }
            dq[channel..][..len].copy_from_slice(&sums[..len]);
        }
    }
}
