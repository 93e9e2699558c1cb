//! The first pass: the queries of a piece.

use super::super::super::kv::{F32, Format, borrow, padded_dim, parts, put_query};
use super::super::super::math::{LANES, dot, exp, tanh};
use super::super::tiles::{add_products, blocked_dots, for_groups};
use super::tables::{Tables, put_parts, put_rows};
use super::{Forward, PIECE, Piece};
use crate::device::{Attention, Segment};
use crate::multiversion;
use crate::simd::Level;

/// Gradients of a piece's queries in the heads that share a key/value head, `dq[row][group * C]`, and what the second pass
/// wants of each of these heads.
pub(super) fn piece_backward<F: Format>(
    level: Level,
    dq: &mut [&mut [f32]],
    held: &mut [F::Key],
    forward: &Forward<'_>,
    tables: &Tables<'_, F>,
    piece: &Piece<'_>,
    kv_head: usize,
) {
    let heads = forward.heads;
    let (group, c) = (heads.num_heads / heads.num_kv_heads, heads.head_dim);
    Scratch::<F>::with(piece.visible, c, |mut scratch| {
        for (at, held) in held.chunks_exact_mut(piece.held::<F>(c).len()).enumerate() {
            head_backward(level, dq, held, forward, tables, piece, kv_head * group + at, at * c, &mut scratch);
        }
    });
}

/// Memory for a piece, of any content.
struct Scratch<'a, F: Format> {
    /// Probabilities, `[row][position]`.
    p: &'a mut [f32],
    /// Gradients of probabilities, then of scores, `[row][position]`.
    ds: &'a mut [f32],
    /// Gradients of some queries, `[4][C']`.
    sums: &'a mut [f32],
    /// Queries and gradients of outputs, in parts along their channels, `[row][part]`.
    q: &'a mut [F::Key],
    dout: &'a mut [F::Key],
    /// Gradients of scores, in parts along positions, `[row][part]`.
    ds_parts: &'a mut [F::Key],
}

impl<F: Format> Scratch<'_, F> {
    /// Scratch for a piece that sees `visible` positions.
    fn with<R>(visible: usize, c: usize, work: impl FnOnce(Scratch<'_, F>) -> R) -> R {
        let (stride, padded) = (visible.next_multiple_of(LANES), padded_dim(c));
        borrow::<F32, _>(2 * PIECE * stride + 4 * padded, |mut floats| {
            borrow::<F, _>(PIECE * (2 * parts::<F>(c) + stride), |mut keys| {
                let mut float = |len: usize| floats.split_off_mut(..len).expect("room for all of them");
                let [p, ds, sums] = [PIECE * stride, PIECE * stride, 4 * padded].map(&mut float);
                let mut key = |width: usize| keys.split_off_mut(..PIECE * width).expect("room for all of them");
                let [q, dout, ds_parts] = [parts::<F>(c), parts::<F>(c), stride].map(&mut key);
                work(Scratch { p, ds, sums, q, dout, ds_parts })
            })
        })
    }
}

multiversion! {
    /// One query head, whose gradients of queries are the channels from `channel` on of the rows of `dq`.
    fn head_backward<F: Format>(
        math,
        dq: &mut [&mut [f32]],
        held: &mut [F::Key],
        forward: &Forward<'_>,
        tables: &Tables<'_, F>,
        piece: &Piece<'_>,
        head: usize,
        channel: usize,
        scratch: &mut Scratch<'_, F>,
    ) {
        let heads = forward.heads;
        let (c, padded, parts) = (heads.head_dim, padded_dim(heads.head_dim), parts::<F>(heads.head_dim));
        let (len, shape) = (piece.rows.len(), piece.held::<F>(c));
        let stride = shape.stride;
        let [q_rows, dout_rows, p_rows, ds_rows] =
            held.get_disjoint_mut(shape.ranges()).expect("ranges one behind the other");
        let q_of = |row: usize| &forward.qkv[row * heads.qkv_width() + head * c..][..c];
        let dout_of = |row: usize| &forward.dout[row * heads.q_width() + head * c..][..c];
        let Scratch { p, ds, sums, q, dout, ds_parts } = scratch;
        for (at, row) in piece.rows.clone().enumerate() {
            put_query::<F>(math, &mut q[at * parts..][..parts], q_of(row));
            put_query::<F>(math, &mut dout[at * parts..][..parts], dout_of(row));
        }
        put_rows::<F>(math, q_rows, piece.rows.clone().map(q_of), c);
        put_rows::<F>(math, dout_rows, piece.rows.clone().map(dout_of), c);

        // Rows that go together all see what any of them sees, in whole blocks; what is too much is then set to 0.
        let Attention { scale, softcap, .. } = forward.attention;
        let first_seen = |at: usize| forward.attention.first_seen(piece.seen(at));
        let first_block = |at: usize| first_seen(at) / LANES * LANES;
        for_groups!(len, |first, N| {
            let (start, end) = (first_block(first), piece.seen(first + N - 1));
            let (at, along) = (first * stride + start, [Segment { start, len: end - start }]);
            let rows: [&[F::Key]; N] = std::array::from_fn(|n| &q[(first + n) * parts..][..parts]);
            blocked_dots::<F, _, N>(math, &mut p[at..], stride, rows, tables.keys, &along, end - start);
            let rows: [&[F::Key]; N] = std::array::from_fn(|n| &dout[(first + n) * parts..][..parts]);
            blocked_dots::<F, _, N>(math, &mut ds[at..], stride, rows, tables.values, &along, end - start);
        });
        for (at, row) in piece.rows.clone().enumerate() {
            let lse = forward.lse[row * heads.num_heads + head];
            // sum_j p_j dp_j, by way of the output that they made.
            let along = dot(math, dout_of(row), &forward.out[row * heads.q_width() + head * c..][..c]);
            let (p, ds) = (&mut p[at * stride..][..stride], &mut ds[at * stride..][..stride]);
            let (seen, whole) = (first_seen(at)..piece.seen(at), first_block(at)..piece.seen(at).next_multiple_of(LANES));
            let lanes = p[whole.clone()].as_chunks_mut::<LANES>().0.iter_mut();
            let lanes = lanes.zip(ds[whole].as_chunks_mut::<LANES>().0);
            match softcap {
                None => {
                    for (p, ds) in lanes {
                        for lane in 0..LANES {
                            p[lane] = exp(math, math.mul_add(p[lane], scale, -lse));
                            ds[lane] = p[lane] * (ds[lane] - along) * scale;
                        }
                    }
                }
                Some(cap) => {
                    for (p, ds) in lanes {
                        for lane in 0..LANES {
                            let share = tanh(math, p[lane] * scale / cap);
                            p[lane] = exp(math, math.mul_add(cap, share, -lse));
                            ds[lane] = p[lane] * (ds[lane] - along) * (scale * (1.0 - share * share));
                        }
                    }
                }
            }
            for row in [&mut *p, &mut *ds] {
                row[..seen.start].fill(0.0);
                row[seen.end..].fill(0.0);
            }
            put_query::<F>(math, &mut ds_parts[at * stride..], ds);
        }
        for unit in 0..shape.units {
            for (to, from) in [(&mut *p_rows, &**p), (&mut *ds_rows, &**ds)] {
                let row = |at: usize| if at < len { &from[at * stride..][..stride] } else { &[] };
                let second = if F::CHANNELS == 2 { row(2 * unit + 1) } else { &[] };
                put_parts::<F>(math, &mut to[unit * stride..][..stride], row(F::CHANNELS * unit), second);
            }
        }

        for_groups!(len, |first, N| {
            let sums = &mut sums[..N * padded];
            sums.fill(0.0);
            let start = first_block(first) / F::CHANNELS;
            let end = piece.seen(first + N - 1).div_ceil(F::CHANNELS);
            let (weights, keys) = (&ds_parts[first * stride + start..], &tables.key_rows[start * padded..end * padded]);
            add_products::<F, _, N>(math, sums, weights, [stride, 1], keys, padded);
            for n in 0..N {
                dq[first + n][channel..][..c].copy_from_slice(&sums[n * padded..][..c]);
            }
        });
    }
}
