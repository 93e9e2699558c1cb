//! Keys and values as the backward wants them.

use super::super::super::kv::{Format, padded_dim, parts, put_key};
use super::super::super::math::LANES;
use super::Forward;
use crate::device::{Segment, Span};
use crate::multiversion;
use crate::simd::{Arithmetic, Level};

/// Keys and values of one head along the path of a span.
pub(super) struct Tables<'a, F: Format> {
    /// In blocks of positions, as the store has keys.
    pub keys: &'a mut [F::Key],
    pub values: &'a mut [F::Key],
    /// `[position / CHANNELS][C']`.
    pub key_rows: &'a mut [F::Key],
}

impl<'a, F: Format> Tables<'a, F> {
    /// Length of the tables together.
    pub(super) fn len(span: &Span, c: usize) -> usize {
        2 * Self::blocked(span, c) + span.context().div_ceil(F::CHANNELS) * padded_dim(c)
    }

    /// Length of one in blocks.
    fn blocked(span: &Span, c: usize) -> usize {
        span.context().next_multiple_of(LANES) * parts::<F>(c)
    }

    pub(super) fn fill(
        level: Level,
        memory: &'a mut [F::Key],
        forward: &Forward<'_>,
        span: &Span,
        kv_head: usize,
    ) -> Self {
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
        math,
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
            put_key::<F>(math, tables.keys, position, &kv(row)[..c]);
            put_key::<F>(math, tables.values, position, &kv(row)[heads.kv_width()..][..c]);
        }
        put_rows::<F>(math, tables.key_rows, rows().map(|row| &kv(row)[..c]), c);
    }
}

/// Rows side by side in the parts of sums over them, `[row / CHANNELS][C']`. A last row without a neighbour has zeros.
#[inline(always)]
pub(super) fn put_rows<'a, F: Format>(
    math: impl Arithmetic,
    to: &mut [F::Key],
    mut rows: impl Iterator<Item = &'a [f32]>,
    c: usize,
) {
    const NOTHING: &[f32] = &[];
    for to in to.chunks_exact_mut(padded_dim(c)) {
        let first = rows.next().unwrap_or(NOTHING);
        let second = if F::CHANNELS == 2 { rows.next().unwrap_or(NOTHING) } else { NOTHING };
        put_parts::<F>(math, &mut to[..first.len()], first, second);
    }
}

/// `to[i]` holds `first[i]` and, in a format of pairs, `second[i]`, which may be missing.
#[inline(always)]
pub(super) fn put_parts<F: Format>(math: impl Arithmetic, to: &mut [F::Key], first: &[f32], second: &[f32]) {
    let (to_whole, to_rest) = to.as_chunks_mut::<LANES>();
    let ((first, first_rest), (second, second_rest)) = (first.as_chunks::<LANES>(), second.as_chunks::<LANES>());
    for (at, (to, first)) in to_whole.iter_mut().zip(first).enumerate() {
        *to = F::rows(math, first, second.get(at).unwrap_or(&[0.0; LANES]));
    }
    for (at, (to, &first)) in to_rest.iter_mut().zip(first_rest).enumerate() {
        *to = F::key(&[first, second_rest.get(at).copied().unwrap_or(0.0)][..F::CHANNELS]);
    }
}
