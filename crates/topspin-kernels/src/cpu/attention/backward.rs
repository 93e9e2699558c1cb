//! The backward of batches that hold all of their keys, in two passes.
//!
//! The first goes by pieces of some query rows: probabilities, gradients of scores, and from these the gradients of
//! queries. The second goes by keys: it adds up, piece after piece, what the queries that see them make of them. Each
//! number is written by one task.

mod keys;
mod queries;
mod tables;

use std::ops::Range;

use rayon::prelude::*;

use super::super::kv::{Bf16, F32, Format, borrow, padded_dim};
use super::super::math::LANES;
use crate::device::{Attention, HeadShape, Segment, Span};
use crate::gemm::Precision;
use crate::simd::Level;
use keys::keys_backward;
use queries::piece_backward;
use tables::Tables;

/// Query rows of a piece, and keys of a task. Fixed, as the next one: the order of sums must not depend on the threads.
const PIECE: usize = 64;
/// Most parts that lie between the passes, 16 MiB of them, or those of one piece if that has more. What is left is done in
/// another round of both passes.
const HELD: usize = 1 << 22;

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
    attention: Attention,
) {
    let forward = Forward { dout, out, qkv, lse, heads, attention };
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
    attention: Attention,
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
    /// Positions that row `at` of the piece sees.
    fn seen(&self, at: usize) -> usize {
        self.visible - (self.rows.len() - 1 - at)
    }

    /// What it holds of a query head between the passes.
    fn held<F: Format>(&self, c: usize) -> Held {
        let (units, stride) = (self.rows.len().div_ceil(F::CHANNELS), self.visible.next_multiple_of(LANES));
        Held { units, stride, padded: padded_dim(c) }
    }
}

/// A root span and its branches.
struct Tree {
    rows: Range<usize>,
    /// Indices of its pieces.
    pieces: Range<usize>,
}

/// The pieces of a batch in order of rows, and its trees. The path of a root is its own segment alone.
fn cut(spans: &[Span]) -> (Vec<Piece<'_>>, Vec<Tree>) {
    let (mut pieces, mut trees) = (Vec::new(), Vec::<Tree>::new());
    for (at, span) in spans.iter().enumerate() {
        if span.path.len() == 1 {
            trees.push(Tree { rows: span.rows.clone(), pieces: pieces.len()..pieces.len() });
        }
        for first in span.rows.clone().step_by(PIECE) {
            let rows = first..span.rows.end.min(first + PIECE);
            let visible = span.context() - (span.rows.end - rows.end);
            pieces.push(Piece { span: at, rows, visible, path: &span.path });
        }
        let tree = trees.last_mut().expect("the first span of a batch is a root");
        (tree.rows.end, tree.pieces.end) = (span.rows.end, pieces.len());
    }
    (pieces, trees)
}

/// What a piece holds of one query head for the second pass, in the parts that its format multiplies at a time.
#[derive(Clone, Copy)]
struct Held {
    /// Parts along the rows.
    units: usize,
    /// Positions.
    stride: usize,
    /// Channels.
    padded: usize,
}

impl Held {
    /// Parts together.
    fn len(self) -> usize {
        2 * self.units * (self.padded + self.stride)
    }

    /// Where queries and gradients of outputs lie, `[unit][C']`, then probabilities and gradients of scores,
    /// `[unit][position]`.
    fn ranges(self) -> [Range<usize>; 4] {
        let (channels, positions) = (self.units * self.padded, self.units * self.stride);
        let mut end = 0;
        [channels, channels, positions, positions].map(|len| {
            end += len;
            end - len..end
        })
    }
}

/// The rows of `dqkv`, of each the parts that belong to one key/value head.
struct HeadRows<'a> {
    queries: Vec<&'a mut [f32]>,
    keys: Vec<&'a mut [f32]>,
    values: Vec<&'a mut [f32]>,
}

impl<'a> HeadRows<'a> {
    /// One for each key/value head.
    fn all(dqkv: &'a mut [f32], heads: HeadShape) -> Vec<Self> {
        let (group, c) = (heads.num_heads / heads.num_kv_heads, heads.head_dim);
        let none = || Self { queries: Vec::new(), keys: Vec::new(), values: Vec::new() };
        let mut all: Vec<Self> = (0..heads.num_kv_heads).map(|_| none()).collect();
        for row in dqkv.chunks_exact_mut(heads.qkv_width()) {
            let (queries, rest) = row.split_at_mut(heads.q_width());
            let (keys, values) = rest.split_at_mut(heads.kv_width());
            let parts =
                queries.chunks_exact_mut(group * c).zip(keys.chunks_exact_mut(c).zip(values.chunks_exact_mut(c)));
            for (head, (queries, (keys, values))) in all.iter_mut().zip(parts) {
                head.queries.push(queries);
                head.keys.push(keys);
                head.values.push(values);
            }
        }
        all
    }
}

fn backward<F: Format>(level: Level, dqkv: &mut [f32], forward: &Forward<'_>, spans: &[Span]) {
    let (heads, c) = (forward.heads, forward.heads.head_dim);
    let len = spans.iter().map(|span| Tables::<F>::len(span, c)).sum::<usize>() * heads.num_kv_heads;
    borrow::<F, _>(len, |mut memory| {
        let mut places = Vec::new();
        for span in spans {
            for kv_head in 0..heads.num_kv_heads {
                let place = memory.split_off_mut(..Tables::<F>::len(span, c)).expect("room for all of them");
                places.push((span, kv_head, place));
            }
        }
        let fill = |(span, kv_head, place)| Tables::<F>::fill(level, place, forward, span, kv_head);
        let tables: Vec<Tables<F>> = places.into_par_iter().with_max_len(1).map(fill).collect();

        let (pieces, trees) = cut(spans);
        let mut rows = HeadRows::all(dqkv, heads);
        let parts_of = |piece: &Piece<'_>| piece.held::<F>(c).len() * heads.num_heads;
        let (mut first, mut parts) = (0, 0);
        for (at, piece) in pieces.iter().enumerate() {
            parts += parts_of(piece);
            if pieces.get(at + 1).is_none_or(|next| parts + parts_of(next) > HELD) {
                borrow::<F, _>(parts, |held| {
                    let round = Round { level, forward, pieces: &pieces, range: first..at + 1 };
                    round.queries(&mut rows, held, &tables);
                    round.keys::<F>(&mut rows, held, &trees);
                });
                (first, parts) = (at + 1, 0);
            }
        }
    });
}

/// Both passes over some pieces.
struct Round<'a> {
    level: Level,
    forward: &'a Forward<'a>,
    /// All pieces of the batch.
    pieces: &'a [Piece<'a>],
    /// Those of the round.
    range: Range<usize>,
}

impl Round<'_> {
    /// Writes the gradients of queries, and to `held` what [`Round::keys`] reads: `[piece][query head]`.
    fn queries<F: Format>(&self, rows: &mut [HeadRows<'_>], mut held: &mut [F::Key], tables: &[Tables<'_, F>]) {
        let heads = self.forward.heads;
        let group = heads.num_heads / heads.num_kv_heads;
        let first = self.pieces[self.range.start].rows.start;
        let mut left: Vec<_> = rows.iter_mut().map(|head| &mut head.queries[first..]).collect();
        let mut tasks = Vec::new();
        for piece in &self.pieces[self.range.clone()] {
            for (kv_head, left) in left.iter_mut().enumerate() {
                let dq = left.split_off_mut(..piece.rows.len()).expect("pieces are made of the rows");
                let len = group * piece.held::<F>(heads.head_dim).len();
                let held = held.split_off_mut(..len).expect("room for all of them");
                tasks.push((piece, kv_head, dq, held));
            }
        }
        tasks.into_par_iter().with_max_len(1).for_each(|(piece, kv_head, dq, held)| {
            let tables = &tables[piece.span * heads.num_kv_heads + kv_head];
            piece_backward(self.level, dq, held, self.forward, tables, piece, kv_head);
        });
    }

    /// Writes the gradients of keys and values of the trees that the pieces belong to, or adds to what earlier rounds
    /// have made.
    fn keys<F: Format>(&self, rows: &mut [HeadRows<'_>], held: &[F::Key], trees: &[Tree]) {
        let heads = self.forward.heads;
        let mut starts = vec![0];
        for piece in &self.pieces[self.range.clone()] {
            starts.push(starts[starts.len() - 1] + heads.num_heads * piece.held::<F>(heads.head_dim).len());
        }
        let mut tasks = Vec::new();
        for (kv_head, head) in rows.iter_mut().enumerate() {
            let (mut dk, mut dv) = (&mut head.keys[..], &mut head.values[..]);
            for tree in trees {
                let dk = dk.split_off_mut(..tree.rows.len()).expect("trees are made of the rows");
                let dv = dv.split_off_mut(..tree.rows.len()).expect("trees are made of the rows");
                let pieces = tree.pieces.start.max(self.range.start)..tree.pieces.end.min(self.range.end);
                if pieces.is_empty() {
                    continue;
                }
                let accumulate = pieces.start > tree.pieces.start;
                let firsts = tree.rows.clone().step_by(PIECE);
                for (first, (dk, dv)) in firsts.zip(dk.chunks_mut(PIECE).zip(dv.chunks_mut(PIECE))) {
                    tasks.push((kv_head, pieces.clone(), first..first + dk.len(), dk, dv, accumulate));
                }
            }
        }
        tasks.into_par_iter().with_max_len(1).for_each(|(kv_head, pieces, keys, dk, dv, accumulate)| {
            let held = pieces.map(|at| (&self.pieces[at], &held[starts[at - self.range.start]..]));
            keys_backward::<F>(self.level, dk, dv, held, keys, kv_head, self.forward, accumulate);
        });
    }
}
