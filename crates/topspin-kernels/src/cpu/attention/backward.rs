//! The backward of batches that hold all of their keys, in pieces of some query rows of one head.

use std::mem::take;
use std::ops::Range;

use rayon::prelude::*;

use super::super::kv::{Bf16, F32, Format, borrow, padded_dim, parts, put_key, put_query};
use super::super::math::{LANES, dot, exp};
use super::super::parallel::for_rows;
use super::tiles::{add_products, blocked_dots, for_groups};
use crate::device::{HeadShape, Segment, Span};
use crate::gemm::Precision;
use crate::multiversion;
use crate::simd::Level;

/// Query rows of a piece. Fixed, as the next one: the order of sums must not depend on the threads.
const PIECE: usize = 64;
/// Most sums that a tree's gradients of keys and values are made of: as many tasks add to those of a head.
const SUMS: usize = 4;
/// Query rows whose gradients are computed together: their probabilities stay in the second-level cache.
const BLOCK: usize = 32;

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
    match precision {
        Precision::F32 => backward::<F32>(level, dqkv, &forward, spans),
        Precision::Bf16 => backward::<Bf16>(level, dqkv, &forward, spans),
    }
}

/// What the backward reads, `T` rows each.
struct Forward<'a> {
    dout: &'a [f32],
    out: &'a [f32],
    qkv: &'a [f32],
    lse: &'a [f32],
    heads: HeadShape,
}

/// Some consecutive query rows of a span.
struct Piece<'a> {
    /// Index of the span.
    span: usize,
    rows: Range<usize>,
    /// What its last row sees.
    visible: usize,
    path: &'a [Segment],
}

/// A root span and its branches.
struct Tree<'a> {
    rows: Range<usize>,
    /// Its pieces in sets, each of which makes one of its sums.
    sets: Vec<Vec<Piece<'a>>>,
}

impl<'a> Tree<'a> {
    /// The trees of a batch: a root's path is its own segment alone.
    fn all(spans: &'a [Span]) -> Vec<Self> {
        let mut trees: Vec<Self> = Vec::new();
        let mut pieces = 0;
        for (at, span) in spans.iter().enumerate() {
            if span.path.len() == 1 {
                trees.push(Self { rows: span.rows.clone(), sets: Vec::new() });
                pieces = 0;
            }
            let tree = trees.last_mut().expect("the first span of a batch is a root");
            tree.rows.end = span.rows.end;
            for first in span.rows.clone().step_by(PIECE) {
                let rows = first..span.rows.end.min(first + PIECE);
                let visible = span.context() - (span.rows.end - rows.end);
                let piece = Piece { span: at, rows, visible, path: &span.path };
                match tree.sets.get_mut(pieces % SUMS) {
                    Some(set) => set.push(piece),
                    None => tree.sets.push(vec![piece]),
                }
                pieces += 1;
            }
        }
        trees
    }
}

/// Gradients that a set of pieces makes in the query heads of one key/value head, for the rows of its tree.
struct HeadGrads<'a> {
    /// `[query head][rows][C]`, of which the set's rows are written.
    dq: &'a mut [f32],
    /// `[rows][C']`.
    dk: &'a mut [f32],
    /// `[rows][C']`.
    dv: &'a mut [f32],
}

fn backward<F: Format>(level: Level, dqkv: &mut [f32], forward: &Forward<'_>, spans: &[Span]) {
    let (heads, c) = (forward.heads, forward.heads.head_dim);
    let len = spans.iter().map(|span| Tables::<F>::len(span, c)).sum::<usize>() * heads.num_kv_heads;
    borrow::<F, _>(len, |memory| {
        let (mut places, mut rest) = (Vec::new(), memory);
        for span in spans {
            for kv_head in 0..heads.num_kv_heads {
                let (place, behind) = take(&mut rest).split_at_mut(Tables::<F>::len(span, c));
                places.push((span, kv_head, place));
                rest = behind;
            }
        }
        let fill = |(span, kv_head, place)| Tables::<F>::fill(level, place, forward, span, kv_head);
        let tables: Vec<Tables<F>> = places.into_par_iter().with_max_len(1).map(fill).collect();
        by_trees(level, dqkv, forward, spans, &tables);
    });
}

/// The backward from keys and values as it wants them, by span and key/value head.
fn by_trees<F: Format>(
    level: Level,
    dqkv: &mut [f32],
    forward: &Forward<'_>,
    spans: &[Span],
    tables: &[Tables<'_, F>],
) {
    let heads = forward.heads;
    let (group, c, padded) = (heads.num_heads / heads.num_kv_heads, heads.head_dim, padded_dim(heads.head_dim));
    let trees = Tree::all(spans);
    // Of one row, in one key/value head.
    let width = group * c + 2 * padded;
    let of_set = |tree: &Tree| heads.num_kv_heads * tree.rows.len() * width;
    let mut starts = vec![0];
    for tree in &trees {
        starts.push(starts[starts.len() - 1] + tree.sets.len() * of_set(tree));
    }
    borrow::<F32, _>(starts[trees.len()], |memory| {
        let (mut tasks, mut rest) = (Vec::new(), &mut *memory);
        for tree in &trees {
            for set in &tree.sets {
                for kv_head in 0..heads.num_kv_heads {
                    let (grads, behind) = rest.split_at_mut(tree.rows.len() * width);
                    tasks.push((tree, set, kv_head, grads));
                    rest = behind;
                }
            }
        }
        tasks.into_par_iter().with_max_len(1).for_each(|(tree, set, kv_head, grads)| {
            let rows = tree.rows.len();
            let (dq, dkv) = grads.split_at_mut(rows * group * c);
            dkv.fill(0.0);
            let (dk, dv) = dkv.split_at_mut(rows * padded);
            let mut grads = HeadGrads { dq, dk, dv };
            for piece in set {
                let tables = &tables[piece.span * heads.num_kv_heads + kv_head];
                piece_backward(level, forward, tables, &tree.rows, piece, kv_head, &mut grads);
            }
        });

        for_rows(dqkv, heads.qkv_width(), |row, dqkv| {
            let at = trees.partition_point(|tree| tree.rows.end <= row);
            let (tree, grads) = (&trees[at], &memory[starts[at]..starts[at + 1]]);
            let (rows, local) = (tree.rows.len(), row - tree.rows.start);
            let (dq, dkv) = dqkv.split_at_mut(heads.q_width());
            dkv.fill(0.0);
            let (dk, dv) = dkv.split_at_mut(heads.kv_width());
            for (set, grads) in tree.sets.iter().zip(grads.chunks(of_set(tree))) {
                let own = set.iter().any(|piece| piece.rows.contains(&row));
                for (kv_head, grads) in grads.chunks(rows * width).enumerate() {
                    let (of_q, of_kv) = grads.split_at(rows * group * c);
                    if own {
                        for (head, dq) in dq[kv_head * group * c..][..group * c].chunks_exact_mut(c).enumerate() {
                            dq.copy_from_slice(&of_q[(head * rows + local) * c..][..c]);
                        }
                    }
                    let (of_k, of_v) = of_kv.split_at(rows * padded);
                    for (to, from) in [(&mut *dk, of_k), (&mut *dv, of_v)] {
                        let to = &mut to[kv_head * c..][..c];
                        to.iter_mut().zip(&from[local * padded..]).for_each(|(to, from)| *to += from);
                    }
                }
            }
        });
    });
}

/// Keys and values of one head along the path of a span.
struct Tables<'a, F: Format> {
    /// In blocks of positions, as the store has keys.
    keys: &'a mut [F::Key],
    values: &'a mut [F::Key],
    /// `[position / CHANNELS][C']`.
    key_rows: &'a mut [F::Key],
}

impl<'a, F: Format> Tables<'a, F> {
    /// Length of the tables together.
    fn len(span: &Span, c: usize) -> usize {
        2 * Self::blocked(span, c) + span.context().div_ceil(F::CHANNELS) * padded_dim(c)
    }

    /// Length of one in blocks.
    fn blocked(span: &Span, c: usize) -> usize {
        span.context().next_multiple_of(LANES) * parts::<F>(c)
    }

    fn fill(level: Level, memory: &'a mut [F::Key], forward: &Forward<'_>, span: &Span, kv_head: usize) -> Self {
        let blocked = Self::blocked(span, forward.heads.head_dim);
        let (keys, rest) = memory.split_at_mut(blocked);
        let (values, key_rows) = rest.split_at_mut(blocked);
        let mut tables = Self { keys, values, key_rows };
        fill_tables(level, &mut tables, forward, &span.path, kv_head);
        tables
    }
}

multiversion! {
    fn fill_tables<F: Format>(
        _math,
        tables: &mut Tables<'_, F>,
        forward: &Forward<'_>,
        path: &[Segment],
        kv_head: usize,
    ) {
        let heads = forward.heads;
        let c = heads.head_dim;
        let rows = || path.iter().flat_map(|segment| segment.start..segment.start + segment.len);
        let kv = |row: usize| &forward.qkv[row * heads.qkv_width() + heads.q_width() + kv_head * c..];
        for (position, row) in rows().enumerate() {
            put_key::<F>(tables.keys, position, &kv(row)[..c]);
            put_key::<F>(tables.values, position, &kv(row)[heads.kv_width()..][..c]);
        }
        put_rows::<F>(tables.key_rows, rows().map(|row| &kv(row)[..c]), c);
    }
}

/// Rows side by side in the parts of sums over them, `[row / CHANNELS][C']`. A last row without a neighbour has zeros.
#[inline(always)]
fn put_rows<'a, F: Format>(to: &mut [F::Key], mut rows: impl Iterator<Item = &'a [f32]>, c: usize) {
    const NOTHING: &[f32] = &[];
    for to in to.chunks_exact_mut(padded_dim(c)) {
        let first = rows.next().unwrap_or(NOTHING);
        let second = if F::CHANNELS == 2 { rows.next().unwrap_or(NOTHING) } else { NOTHING };
        put_parts::<F>(&mut to[..first.len()], first, second);
    }
}

/// `to[i]` holds `first[i]` and, in a format of pairs, `second[i]`, which may be missing.
#[inline(always)]
fn put_parts<F: Format>(to: &mut [F::Key], first: &[f32], second: &[f32]) {
    if second.is_empty() {
        to.iter_mut().zip(first).for_each(|(to, &first)| *to = F::key(&[first, 0.0][..F::CHANNELS]));
    } else {
        let both = to.iter_mut().zip(first.iter().zip(second));
        both.for_each(|(to, (&first, &second))| *to = F::key(&[first, second][..F::CHANNELS]));
    }
}

/// Memory for the queries of a block, of any content. A part is what the format multiplies at a time.
struct Scratch<'a, F: Format> {
    /// Probabilities, `[block][position]`.
    p: &'a mut [f32],
    /// Gradients of probabilities, then of scores, `[block][position]`.
    ds: &'a mut [f32],
    /// Gradients of some queries, `[4][C']`.
    dq: &'a mut [f32],
    /// Queries and gradients of outputs, parts along their channels, `[block][part]`.
    q: &'a mut [F::Key],
    dout: &'a mut [F::Key],
    /// The same, parts along the rows, `[block / CHANNELS][C']`.
    q_rows: &'a mut [F::Key],
    dout_rows: &'a mut [F::Key],
    /// Gradients of scores, parts along positions, `[block][position / CHANNELS]`.
    ds_parts: &'a mut [F::Key],
    /// Probabilities and gradients of scores, parts along the rows, `[block / CHANNELS][position]`.
    p_rows: &'a mut [F::Key],
    ds_rows: &'a mut [F::Key],
}

impl<F: Format> Scratch<'_, F> {
    /// Scratch for blocks that see `visible` positions.
    fn with<R>(visible: usize, c: usize, work: impl FnOnce(Scratch<'_, F>) -> R) -> R {
        let (stride, padded) = (visible.next_multiple_of(LANES), padded_dim(c));
        borrow::<F32, _>(BLOCK * 2 * stride + 4 * padded, |floats| {
            borrow::<F, _>(BLOCK * (2 * parts::<F>(c) + 2 * padded + 3 * stride), |keys| {
                let (mut floats, mut keys) = (floats, keys);
                let mut float = |width: usize| floats.split_off_mut(..width).expect("room for all of them");
                let [p, ds, dq] = [BLOCK * stride, BLOCK * stride, 4 * padded].map(&mut float);
                let mut key = |width: usize| keys.split_off_mut(..BLOCK * width).expect("room for all of them");
                let [q, dout] = [parts::<F>(c); 2].map(&mut key);
                let [q_rows, dout_rows] = [padded; 2].map(&mut key);
                let [ds_parts, p_rows, ds_rows] = [stride; 3].map(&mut key);
                work(Scratch { p, ds, dq, q, dout, q_rows, dout_rows, ds_parts, p_rows, ds_rows })
            })
        })
    }
}

/// Adds what a piece makes in the query heads of one key/value head; `tree` are the rows of its tree.
fn piece_backward<F: Format>(
    level: Level,
    forward: &Forward<'_>,
    tables: &Tables<'_, F>,
    tree: &Range<usize>,
    piece: &Piece<'_>,
    kv_head: usize,
    grads: &mut HeadGrads<'_>,
) {
    let HeadShape { num_heads, num_kv_heads, head_dim: c } = forward.heads;
    let group = num_heads / num_kv_heads;
    let local = |segment: &Segment| Segment { start: segment.start - tree.start, len: segment.len };
    let path: Vec<Segment> = piece.path.iter().map(local).collect();
    let HeadGrads { dq, dk, dv } = grads;
    Scratch::<F>::with(piece.visible, c, |mut scratch| {
        for (head, dq) in dq.chunks_exact_mut(tree.len() * c).enumerate() {
            for first in piece.rows.clone().step_by(BLOCK) {
                let block = first..piece.rows.end.min(first + BLOCK);
                let visible = piece.visible - (piece.rows.end - block.end);
                let dq = &mut dq[(first - tree.start) * c..][..block.len() * c];
                let head = kv_head * group + head;
                block_backward(level, dq, dk, dv, forward, tables, head, block, &path, visible, &mut scratch);
            }
        }
    });
}

multiversion! {
    /// The part of some consecutive rows, of which the last one sees `visible` positions of a path: `dq[block][C]`
    /// overwritten, `dk[rows][C']` and `dv[rows][C']` added to.
    fn block_backward<F: Format>(
        math,
        dq: &mut [f32],
        dk: &mut [f32],
        dv: &mut [f32],
        forward: &Forward<'_>,
        tables: &Tables<'_, F>,
        head: usize,
        block: Range<usize>,
        path: &[Segment],
        visible: usize,
        scratch: &mut Scratch<'_, F>,
    ) {
        let heads = forward.heads;
        let (c, padded, parts) = (heads.head_dim, padded_dim(heads.head_dim), parts::<F>(heads.head_dim));
        let (len, stride) = (block.len(), visible.next_multiple_of(LANES));
        let units = len.div_ceil(F::CHANNELS);
        let q_of = |row: usize| &forward.qkv[row * heads.qkv_width() + head * c..][..c];
        let dout_of = |row: usize| &forward.dout[row * heads.q_width() + head * c..][..c];
        for (at, row) in block.clone().enumerate() {
            put_query::<F>(&mut scratch.q[at * parts..][..parts], q_of(row));
            put_query::<F>(&mut scratch.dout[at * parts..][..parts], dout_of(row));
        }
        put_rows::<F>(&mut scratch.q_rows[..units * padded], block.clone().map(q_of), c);
        put_rows::<F>(&mut scratch.dout_rows[..units * padded], block.clone().map(dout_of), c);

        // Rows that go together all see what the last one of them sees; what is too much is then set to 0.
        let Scratch { p, ds, q, dout, q_rows, dout_rows, ds_parts, p_rows, ds_rows, dq: sums } = scratch;
        for_groups!(len, |first, N| {
            let visible = visible - (len - first - N);
            let along = [Segment { start: 0, len: visible }];
            let rows: [&[F::Key]; N] = std::array::from_fn(|n| &q[(first + n) * parts..][..parts]);
            blocked_dots::<F, _, N>(math, &mut p[first * stride..], stride, rows, tables.keys, &along, visible);
            let rows: [&[F::Key]; N] = std::array::from_fn(|n| &dout[(first + n) * parts..][..parts]);
            blocked_dots::<F, _, N>(math, &mut ds[first * stride..], stride, rows, tables.values, &along, visible);
        });
        let scale = 1.0 / (c as f32).sqrt();
        for (at, row) in block.clone().enumerate() {
            let lse = forward.lse[row * heads.num_heads + head];
            // sum_j p_j dp_j, by way of the output that they made.
            let along = dot(math, dout_of(row), &forward.out[row * heads.q_width() + head * c..][..c]);
            let (p, ds) = (&mut p[at * stride..][..stride], &mut ds[at * stride..][..stride]);
            for (p, ds) in p.as_chunks_mut::<LANES>().0.iter_mut().zip(ds.as_chunks_mut::<LANES>().0) {
                for lane in 0..LANES {
                    p[lane] = exp(math, math.mul_add(p[lane], scale, -lse));
                    ds[lane] = p[lane] * (ds[lane] - along) * scale;
                }
            }
            let seen = visible - (len - 1 - at);
            p[seen..].fill(0.0);
            ds[seen..].fill(0.0);
            put_query::<F>(&mut ds_parts[at * stride..], ds);
        }
        for unit in 0..units {
            for (to, from) in [(&mut **p_rows, &**p), (&mut **ds_rows, &**ds)] {
                let row = |at: usize| if at < len { &from[at * stride..][..stride] } else { &[] };
                let second = if F::CHANNELS == 2 { row(2 * unit + 1) } else { &[] };
                put_parts::<F>(&mut to[unit * stride..][..stride], row(F::CHANNELS * unit), second);
            }
        }

        for_groups!(len, |first, N| {
            let sums = &mut sums[..N * padded];
            sums.fill(0.0);
            let (weights, count) = (&ds_parts[first * stride..], visible.div_ceil(F::CHANNELS));
            add_products::<F, _, N>(math, sums, weights, [stride, 1], &tables.key_rows[..count * padded], padded);
            for n in 0..N {
                dq[(first + n) * c..][..c].copy_from_slice(&sums[n * padded..][..c]);
            }
        });
        let mut position = 0;
        for segment in path {
            let len = segment.len.min(visible - position);
            for_groups!(len, |first, N| {
                let (from, to) = (position + first, (segment.start + first) * padded..(segment.start + first + N) * padded);
                let (dk, dv) = (&mut dk[to.clone()], &mut dv[to]);
                add_products::<F, _, N>(math, dk, &ds_rows[from..], [1, stride], &q_rows[..units * padded], padded);
                add_products::<F, _, N>(math, dv, &p_rows[from..], [1, stride], &dout_rows[..units * padded], padded);
            });
            position += len;
        }
    }
}
