//! The backward of batches that hold all of their keys: the query heads of trees, each in blocks of rows.

use std::ops::Range;

use rayon::prelude::*;

use super::super::kv::{Bf16, F32, Format, padded_dim, parts, put_key, put_query};
use super::super::math::{LANES, dot, exp};
use super::super::parallel::for_rows;
use super::tiles::{add_rows, blocked_dots, for_groups, weighted_sums};
use crate::device::{HeadShape, Segment, Span};
use crate::gemm::Precision;
use crate::multiversion;
use crate::simd::Level;

/// Query rows whose gradients are computed together: their probabilities stay in the second-level cache.
const BLOCK: usize = 16;

/// `dqkv[T, ..]` of a batch of trees whose slots are its rows, after a forward with keys and values in `precision`.
pub fn attention_backward(
    level: Level,
    precision: Precision,
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
        .map(|(tree, head)| match precision {
            Precision::F32 => head_backward::<F32>(level, &forward, trees[tree], head),
            Precision::Bf16 => head_backward::<Bf16>(level, &forward, trees[tree], head),
        })
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
    for_rows(dqkv, width, put);
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
struct Tables<F: Format> {
    keys: Vec<F::Key>,
    values: Vec<F::Key>,
    /// `[rows][C']`.
    key_rows: Vec<f32>,
}

/// Memory for the queries of a block, by position along their path.
struct Scratch<F: Format> {
    /// Probabilities, `[block][position]`.
    p: Vec<f32>,
    /// Gradients of probabilities, then of scores, `[block][position]`.
    ds: Vec<f32>,
    /// Queries, `[block][C']`.
    q: Vec<f32>,
    /// Gradients of outputs, `[block][C']`.
    dout: Vec<f32>,
    /// Both in the parts that they are multiplied in, `[block][part]`.
    q_parts: Vec<F::Key>,
    dout_parts: Vec<F::Key>,
}

fn head_backward<F: Format>(level: Level, forward: &Forward<'_>, tree: &[Span], head: usize) -> HeadGrads {
    let heads = forward.heads;
    let (c, padded) = (heads.head_dim, padded_dim(heads.head_dim));
    let kv_head = head / (heads.num_heads / heads.num_kv_heads);
    let rows = tree[0].rows.start..tree[tree.len() - 1].rows.end;
    let blocked = || vec![F::Key::default(); rows.len().next_multiple_of(LANES) * parts::<F>(c)];
    let mut tables = Tables::<F> { keys: blocked(), values: blocked(), key_rows: vec![0.0; rows.len() * padded] };
    fill_tables(level, &mut tables, forward, rows.clone(), kv_head);
    let mut grads = HeadGrads {
        dq: vec![0.0; rows.len() * c],
        dk: vec![0.0; rows.len() * padded],
        dv: vec![0.0; rows.len() * padded],
    };
    let mut scratch = Scratch::<F> {
        p: Vec::new(),
        ds: Vec::new(),
        q: Vec::new(),
        dout: Vec::new(),
        q_parts: Vec::new(),
        dout_parts: Vec::new(),
    };
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
    /// Tables of a key/value head from the rows of a tree.
    fn fill_tables<F: Format>(
        _math,
        tables: &mut Tables<F>,
        forward: &Forward<'_>,
        rows: Range<usize>,
        kv_head: usize,
    ) {
        let heads = forward.heads;
        let (c, padded) = (heads.head_dim, padded_dim(heads.head_dim));
        for (at, row) in rows.enumerate() {
            let kv = &forward.qkv[row * heads.qkv_width()..][heads.q_width()..heads.qkv_width()];
            let key = &kv[kv_head * c..][..c];
            put_key::<F>(&mut tables.keys, at, key);
            put_key::<F>(&mut tables.values, at, &kv[heads.kv_width() + kv_head * c..][..c]);
            for (to, &x) in tables.key_rows[at * padded..][..c].iter_mut().zip(key) {
                *to = F::held(x);
            }
        }
    }
}

multiversion! {
    /// The part of some consecutive rows of a span, of which the last one sees `visible` positions: `dq[block][C]`
    /// overwritten, `dk[rows][C']` and `dv[rows][C']` added to.
    fn block_backward<F: Format>(
        math,
        dq: &mut [f32],
        dk: &mut [f32],
        dv: &mut [f32],
        forward: &Forward<'_>,
        tables: &Tables<F>,
        head: usize,
        block: Range<usize>,
        path: &[Segment],
        visible: usize,
        scratch: &mut Scratch<F>,
    ) {
        let heads = forward.heads;
        let (c, padded, parts) = (heads.head_dim, padded_dim(heads.head_dim), parts::<F>(heads.head_dim));
        let stride = visible.next_multiple_of(LANES);
        let Scratch { p, ds, q, dout, q_parts, dout_parts } = scratch;
        for (memory, len) in [(&mut *p, stride), (&mut *ds, stride), (&mut *q, padded), (&mut *dout, padded)] {
            memory.clear();
            memory.resize(block.len() * len, 0.0);
        }
        for memory in [&mut *q_parts, &mut *dout_parts] {
            memory.resize(block.len() * parts, F::Key::default());
        }
        for (at, row) in block.clone().enumerate() {
            let from = &forward.qkv[row * heads.qkv_width() + head * c..][..c];
            put_query::<F>(&mut q_parts[at * parts..][..parts], from);
            for (to, &x) in q[at * padded..][..c].iter_mut().zip(from) {
                *to = F::held(x);
            }
            let from = &forward.dout[row * heads.q_width() + head * c..][..c];
            put_query::<F>(&mut dout_parts[at * parts..][..parts], from);
            dout[at * padded..][..c].copy_from_slice(from);
        }
        // Rows that go together all see what the last one of them sees; what is too much is then set to 0.
        for_groups!(block.len(), |first, N| {
            let visible = visible - (block.len() - first - N);
            let q: [&[F::Key]; N] = std::array::from_fn(|n| &q_parts[(first + n) * parts..][..parts]);
            blocked_dots::<F, _, N>(math, &mut p[first * stride..], stride, q, &tables.keys, path, visible);
            let dout: [&[F::Key]; N] = std::array::from_fn(|n| &dout_parts[(first + n) * parts..][..parts]);
            blocked_dots::<F, _, N>(math, &mut ds[first * stride..], stride, dout, &tables.values, path, visible);
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
            weighted_sums::<F32, _, N>(math, &mut dq[first * c..][..N * c], weights, &tables.key_rows, path, c);
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
