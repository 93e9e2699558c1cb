//! The second pass: some keys and values of a tree.

use std::ops::Range;

use super::super::super::kv::{F32, Format, borrow, padded_dim};
use super::super::tiles::{add_products, for_groups};
use super::{Forward, Piece};
use crate::multiversion;
use crate::simd::Level;

/// Gradients `dk[key][C]` and `dv[key][C]` of the keys and values in rows `keys` by the queries of some pieces, each with
/// what it holds, `[query head]..`: overwritten, or added to when `accumulate`.
pub(super) fn keys_backward<'a, 'b, F: Format>(
    level: Level,
    dk: &mut [&'b mut [f32]],
    dv: &mut [&'b mut [f32]],
    pieces: impl Iterator<Item = (&'a Piece<'a>, &'a [F::Key])>,
    keys: Range<usize>,
    kv_head: usize,
    forward: &Forward<'_>,
    accumulate: bool,
) {
    let heads = forward.heads;
    let (group, c, padded) = (heads.num_heads / heads.num_kv_heads, heads.head_dim, padded_dim(heads.head_dim));
    borrow::<F32, _>(2 * keys.len() * padded, |sums| {
        sums.fill(0.0);
        if accumulate {
            let before = dk.iter().chain(&*dv);
            sums.chunks_exact_mut(padded).zip(before).for_each(|(sums, row)| sums[..c].copy_from_slice(row));
        }
        let (dk_sums, dv_sums) = sums.split_at_mut(keys.len() * padded);
        for (piece, held) in pieces {
            let len = piece.held::<F>(c).len();
            for held in held.chunks_exact(len).skip(kv_head * group).take(group) {
                let first = forward.attention.first_seen(piece.seen(0));
                add_piece::<F>(level, dk_sums, dv_sums, piece, first, held, &keys, c);
            }
        }
        let rows = dk.iter_mut().chain(dv);
        sums.chunks_exact(padded).zip(rows).for_each(|(sums, row)| row.copy_from_slice(&sums[..c]));
    });
}

multiversion! {
    /// Adds what the queries of a piece, of which none sees a position before `first_seen`, make in one query head.
    fn add_piece<F: Format>(
        math,
        dk: &mut [f32],
        dv: &mut [f32],
        piece: &Piece<'_>,
        first_seen: usize,
        held: &[F::Key],
        keys: &Range<usize>,
        c: usize,
    ) {
        let shape = piece.held::<F>(c);
        let (padded, stride) = (shape.padded, shape.stride);
        let [q_rows, dout_rows, p_rows, ds_rows] = shape.ranges().map(|range| &held[range]);
        let mut position = 0;
        for segment in piece.path {
            let seen = segment.start..segment.start + segment.len.min(piece.visible - position);
            let near = segment.start + first_seen.saturating_sub(position);
            let common = near.max(keys.start)..seen.end.min(keys.end);
            for_groups!(common.len(), |first, N| {
                let key = common.start + first;
                // A piece's own keys are seen from their own row on.
                let own = piece.rows.contains(&key);
                let units = if own { (key - piece.rows.start) / F::CHANNELS } else { 0 };
                let from = units * stride + position + key - segment.start;
                let (to, rows) = ((key - keys.start) * padded..(key - keys.start + N) * padded, units * padded);
                let (dk, dv) = (&mut dk[to.clone()], &mut dv[to]);
                add_products::<F, _, N>(math, dk, &ds_rows[from..], [1, stride], &q_rows[rows..], padded);
                add_products::<F, _, N>(math, dv, &p_rows[from..], [1, stride], &dout_rows[rows..], padded);
            });
            position += seen.len();
        }
    }
}
