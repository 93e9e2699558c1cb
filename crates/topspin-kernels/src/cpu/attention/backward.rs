//! The backward of batches that hold all of their keys, in pieces of some query rows of one head.

use std::ops::Range;

use rayon::prelude::*;

use super::super::kv::{Bf16, F32, Format, padded_dim, parts, put_key, put_query};
use super::super::math::{LANES, dot, exp};
use super::super::parallel::for_rows;
use super::tiles::{add_products, blocked_dots, for_groups};
use crate::device::{HeadShape, Segment, Span};
use crate::gemm::Precision;
use crate::multiversion;
use crate::simd::Level;

/// Query rows of a piece. Fixed, so that the order of sums does not depend on the threads.
const PIECE: usize = 128;
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

impl Piece<'_> {
    /// The position at which the rows see `row`, if they do.
    fn position(&self, row: usize) -> Option<usize> {
        let mut begin = 0;
        for segment in self.path {
            if (segment.start..segment.start + segment.len).contains(&row) {
                return Some(begin + row - segment.start).filter(|&position| position < self.visible);
            }
            begin += segment.len;
        }
        None
    }
}

/// Gradients that the rows of a piece make in one query head.
struct PieceGrads {
    /// `[rows][C]`.
    dq: Vec<f32>,
    /// By position, `[visible][C']`.
    dk: Vec<f32>,
    /// By position, `[visible][C']`.
    dv: Vec<f32>,
}

fn backward<F: Format>(level: Level, dqkv: &mut [f32], forward: &Forward<'_>, spans: &[Span]) {
    let heads = forward.heads;
    let (group, c, padded) = (heads.num_heads / heads.num_kv_heads, heads.head_dim, padded_dim(heads.head_dim));
    let tables: Vec<Tables<F>> = (0..spans.len() * heads.num_kv_heads)
        .into_par_iter()
        .with_max_len(1)
        .map(|at| tables(level, forward, &spans[at / heads.num_kv_heads], at % heads.num_kv_heads))
        .collect();
    let pieces: Vec<Piece> = spans.iter().enumerate().flat_map(|(at, span)| pieces(at, span)).collect();
    let grads: Vec<PieceGrads> = (0..pieces.len() * heads.num_heads)
        .into_par_iter()
        .with_max_len(1)
        .map(|at| {
            let (piece, head) = (&pieces[at / heads.num_heads], at % heads.num_heads);
            piece_backward(level, forward, &tables[piece.span * heads.num_kv_heads + head / group], piece, head)
        })
        .collect();

    // The pieces of a row's tree: those from its root on that are not behind the next root.
    let trees = trees(spans, &pieces);
    for_rows(dqkv, heads.qkv_width(), |row, dqkv| {
        let (dq, dkv) = dqkv.split_at_mut(heads.q_width());
        let (dk, dv) = dkv.split_at_mut(heads.kv_width());
        dk.fill(0.0);
        dv.fill(0.0);
        let tree = &trees[trees.partition_point(|tree| pieces[tree.end - 1].rows.end <= row)];
        for at in tree.clone() {
            let (piece, grads) = (&pieces[at], &grads[at * heads.num_heads..][..heads.num_heads]);
            if piece.rows.contains(&row) {
                for (dq, grads) in dq.chunks_exact_mut(c).zip(grads) {
                    dq.copy_from_slice(&grads.dq[(row - piece.rows.start) * c..][..c]);
                }
            }
            if let Some(position) = piece.position(row) {
                for (head, grads) in grads.iter().enumerate() {
                    let to = head / group * c;
                    for (to, from) in [(&mut dk[to..][..c], &grads.dk), (&mut dv[to..][..c], &grads.dv)] {
                        to.iter_mut().zip(&from[position * padded..]).for_each(|(to, from)| *to += from);
                    }
                }
            }
        }
    });
}

/// A span in pieces.
fn pieces(at: usize, span: &Span) -> impl Iterator<Item = Piece<'_>> {
    span.rows.clone().step_by(PIECE).map(move |first| {
        let rows = first..span.rows.end.min(first + PIECE);
        let visible = span.context() - (span.rows.end - rows.end);
        Piece { span: at, rows, visible, path: &span.path }
    })
}

/// The pieces of each tree: a root's path is its own segment alone.
fn trees(spans: &[Span], pieces: &[Piece]) -> Vec<Range<usize>> {
    let mut trees: Vec<Range<usize>> = Vec::new();
    for (at, piece) in pieces.iter().enumerate() {
        let is_root = spans[piece.span].path.len() == 1 && piece.rows.start == spans[piece.span].rows.start;
        match trees.last_mut() {
            Some(tree) if !is_root => tree.end = at + 1,
            _ => trees.push(at..at + 1),
        }
    }
    trees
}

/// Keys and values of one head along the path of a span.
struct Tables<F: Format> {
    /// In blocks of positions, as the store has keys.
    keys: Vec<F::Key>,
    values: Vec<F::Key>,
    /// `[position / CHANNELS][C']`.
    key_rows: Vec<F::Key>,
}

fn tables<F: Format>(level: Level, forward: &Forward<'_>, span: &Span, kv_head: usize) -> Tables<F> {
    let (c, context) = (forward.heads.head_dim, span.context());
    let blocked = || vec![F::Key::default(); context.next_multiple_of(LANES) * parts::<F>(c)];
    let key_rows = vec![F::Key::default(); context.div_ceil(F::CHANNELS) * padded_dim(c)];
    let mut tables = Tables::<F> { keys: blocked(), values: blocked(), key_rows };
    fill_tables(level, &mut tables, forward, &span.path, kv_head);
    tables
}

multiversion! {
    fn fill_tables<F: Format>(
        _math,
        tables: &mut Tables<F>,
        forward: &Forward<'_>,
        path: &[Segment],
        kv_head: usize,
    ) {
        let heads = forward.heads;
        let c = heads.head_dim;
        let rows = || path.iter().flat_map(|segment| segment.start..segment.start + segment.len);
        let kv = |row: usize| &forward.qkv[row * heads.qkv_width() + heads.q_width() + kv_head * c..];
        for (position, row) in rows().enumerate() {
            put_key::<F>(&mut tables.keys, position, &kv(row)[..c]);
            put_key::<F>(&mut tables.values, position, &kv(row)[heads.kv_width()..][..c]);
        }
        put_rows::<F>(&mut tables.key_rows, rows().map(|row| &kv(row)[..c]), c);
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

/// Memory for the queries of a block. A part is what the format multiplies at a time.
struct Scratch<F: Format> {
    /// Probabilities, `[block][position]`.
    p: Vec<f32>,
    /// Gradients of probabilities, then of scores, `[block][position]`.
    ds: Vec<f32>,
    /// Queries and gradients of outputs, parts along their channels, `[block][part]`.
    q: Vec<F::Key>,
    dout: Vec<F::Key>,
    /// The same, parts along the rows, `[block / CHANNELS][C']`.
    q_rows: Vec<F::Key>,
    dout_rows: Vec<F::Key>,
    /// Gradients of scores, parts along positions, `[block][position / CHANNELS]`.
    ds_parts: Vec<F::Key>,
    /// Probabilities and gradients of scores, parts along the rows, `[block / CHANNELS][position]`.
    p_rows: Vec<F::Key>,
    ds_rows: Vec<F::Key>,
    /// Gradients of some queries, `[..][C']`.
    dq: Vec<f32>,
}

fn piece_backward<F: Format>(
    level: Level,
    forward: &Forward<'_>,
    tables: &Tables<F>,
    piece: &Piece<'_>,
    head: usize,
) -> PieceGrads {
    let (c, padded) = (forward.heads.head_dim, padded_dim(forward.heads.head_dim));
    let memory = |width: usize| vec![F::Key::default(); BLOCK * width];
    let stride = piece.visible.next_multiple_of(LANES);
    let mut scratch = Scratch::<F> {
        p: vec![0.0; BLOCK * stride],
        ds: vec![0.0; BLOCK * stride],
        q: memory(parts::<F>(c)),
        dout: memory(parts::<F>(c)),
        q_rows: memory(padded),
        dout_rows: memory(padded),
        ds_parts: memory(stride),
        p_rows: memory(stride),
        ds_rows: memory(stride),
        dq: Vec::new(),
    };
    let mut grads = PieceGrads {
        dq: vec![0.0; piece.rows.len() * c],
        dk: vec![0.0; piece.visible * padded],
        dv: vec![0.0; piece.visible * padded],
    };
    for first in piece.rows.clone().step_by(BLOCK) {
        let block = first..piece.rows.end.min(first + BLOCK);
        let visible = piece.visible - (piece.rows.end - block.end);
        let PieceGrads { dq, dk, dv } = &mut grads;
        let dq = &mut dq[(first - piece.rows.start) * c..][..block.len() * c];
        block_backward(level, dq, dk, dv, forward, tables, head, block, visible, &mut scratch);
    }
    grads
}

multiversion! {
    /// The part of some consecutive rows, of which the last one sees `visible` positions: `dq[block][C]` overwritten,
    /// `dk[position][C']` and `dv[position][C']` added to.
    fn block_backward<F: Format>(
        math,
        dq: &mut [f32],
        dk: &mut [f32],
        dv: &mut [f32],
        forward: &Forward<'_>,
        tables: &Tables<F>,
        head: usize,
        block: Range<usize>,
        visible: usize,
        scratch: &mut Scratch<F>,
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
            let path = [Segment { start: 0, len: visible }];
            let rows: [&[F::Key]; N] = std::array::from_fn(|n| &q[(first + n) * parts..][..parts]);
            blocked_dots::<F, _, N>(math, &mut p[first * stride..], stride, rows, &tables.keys, &path, visible);
            let rows: [&[F::Key]; N] = std::array::from_fn(|n| &dout[(first + n) * parts..][..parts]);
            blocked_dots::<F, _, N>(math, &mut ds[first * stride..], stride, rows, &tables.values, &path, visible);
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
            for (to, from) in [(&mut *p_rows, &*p), (&mut *ds_rows, &*ds)] {
                let row = |at: usize| if at < len { &from[at * stride..][..stride] } else { &[] };
                let second = if F::CHANNELS == 2 { row(2 * unit + 1) } else { &[] };
                put_parts::<F>(&mut to[unit * stride..][..stride], row(F::CHANNELS * unit), second);
            }
        }

        for_groups!(len, |first, N| {
            sums.clear();
            sums.resize(N * padded, 0.0);
            let (weights, count) = (&ds_parts[first * stride..], visible.div_ceil(F::CHANNELS));
            add_products::<F, _, N>(math, sums, weights, [stride, 1], &tables.key_rows[..count * padded], padded);
            for n in 0..N {
                dq[(first + n) * c..][..c].copy_from_slice(&sums[n * padded..][..c]);
            }
        });
        for_groups!(visible, |first, N| {
            let (dk, dv) = (&mut dk[first * padded..][..N * padded], &mut dv[first * padded..][..N * padded]);
            add_products::<F, _, N>(math, dk, &ds_rows[first..], [1, stride], &q_rows[..units * padded], padded);
            add_products::<F, _, N>(math, dv, &p_rows[first..], [1, stride], &dout_rows[..units * padded], padded);
        });
    }
}
