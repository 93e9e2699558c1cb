//! Sums over positions and channels, some rows and vectors at a time in registers. A sum alone would wait for the end of
//! each multiply-add; their number changes no bit of any of them.

use std::ops::Range;

use super::super::kv::{F32, Format, padded_dim};
use super::super::math::LANES;
use crate::device::Segment;
use crate::simd::Arithmetic;

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

pub(super) use for_groups;

/// `scores[n * stride + position] = queries[n] · blocked[position]` for the first `visible` positions of a path.
#[inline(always)]
pub(super) fn blocked_dots<F: Format, M: Arithmetic, const N: usize>(
    math: M,
    scores: &mut [f32],
    stride: usize,
    queries: [&[F::Key]; N],
    blocked: &[F::Key],
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
                block_dots::<F, M, N, 4>(math, scores, stride, queries, blocked, slot, end)
            } else if whole >= 2 && M::SUMS >= 2 * N {
                block_dots::<F, M, N, 2>(math, scores, stride, queries, blocked, slot, end)
            } else {
                block_dots::<F, M, N, 1>(math, scores, stride, queries, blocked, slot, end)
            };
            position += done;
            slot += done;
        }
    }
}

/// The part of [`blocked_dots`] from `slot` on that lies in the same block and the `B - 1` next, before `end`. Returns
/// the number of positions.
#[inline(always)]
fn block_dots<F: Format, M: Arithmetic, const N: usize, const B: usize>(
    math: M,
    scores: &mut [f32],
    stride: usize,
    queries: [&[F::Key]; N],
    blocked: &[F::Key],
    slot: usize,
    end: usize,
) -> usize {
    let parts = queries[0].len();
    let blocks = &blocked[slot / LANES * LANES * parts..][..B * LANES * parts];
    let blocks: [&[[F::Key; LANES]]; B] = std::array::from_fn(|b| &blocks.as_chunks().0[b * parts..][..parts]);
    let mut sums = [[math.splat(0.0); B]; N];
    for part in 0..parts {
        let mut keys = [F::load_keys(math, &blocks[0][part]); B];
        for b in 1..B {
            keys[b] = F::load_keys(math, &blocks[b][part]);
        }
        for n in 0..N {
            let query = F::splat_key(math, queries[n][part]);
            for b in 0..B {
                sums[n][b] = F::mul_add(math, query, keys[b], sums[n][b]);
            }
        }
    }
    // Only a single block may begin or end within its lanes.
    let first = slot % LANES;
    let count = (end - slot).min(B * LANES - first);
    for n in 0..N {
        for b in 0..B {
            let lanes = first..LANES.min(first + count - b * LANES);
            put(&mut scores[n * stride + b * LANES..], &math.store(sums[n][b]), lanes);
        }
    }
    count
}

/// `sums[n][C] = sum_position weights[n][position] * rows[position]` over the positions of a path, in their order.
#[inline(always)]
pub(super) fn weighted_sums<F: Format, M: Arithmetic, const N: usize>(
    math: M,
    sums: &mut [f32],
    weights: [&[f32]; N],
    rows: &[F::Value],
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
                let row = vectors::<F, M, V>(math, &row[channel..]);
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
                put(&mut sums[n * c + channel..], &math.store(lanes[n][v]), 0..len);
            }
        }
    });
}

/// Writes some of a vector's lanes to the begin of `to`.
#[inline(always)]
fn put(to: &mut [f32], vector: &[f32; LANES], lanes: Range<usize>) {
    if lanes.len() == LANES {
        // Of a known length, so that it is one store and no call.
        to[..LANES].copy_from_slice(vector);
    } else {
        to[..lanes.len()].copy_from_slice(&vector[lanes]);
    }
}

/// `to[n][C'] += sum_row weights[n, row] * rows[row][C']`, in order of the rows, which come in the parts that the format
/// multiplies at a time; the weight of row `n` and a part lies at `n * by_row + part * by_part`.
#[inline(always)]
pub(super) fn add_products<F: Format, M: Arithmetic, const N: usize>(
    math: M,
    to: &mut [f32],
    weights: &[F::Key],
    [by_row, by_part]: [usize; 2],
    rows: &[F::Key],
    padded: usize,
) {
    for_channels!(M, N, padded, |channel, V| {
        let mut sums = [[math.splat(0.0); V]; N];
        for n in 0..N {
            sums[n] = vectors::<F32, M, V>(math, &to[n * padded + channel..]);
        }
        for (part, row) in rows.chunks_exact(padded).enumerate() {
            let (row, _) = row[channel..][..V * LANES].as_chunks::<LANES>();
            let mut vectors = [F::load_keys(math, &row[0]); V];
            for v in 0..V {
                vectors[v] = F::load_keys(math, &row[v]);
            }
            for n in 0..N {
                let weight = F::splat_key(math, weights[n * by_row + part * by_part]);
                for v in 0..V {
                    sums[n][v] = F::mul_add(math, weight, vectors[v], sums[n][v]);
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
fn vectors<F: Format, M: Arithmetic, const V: usize>(math: M, row: &[F::Value]) -> [M::Lanes; V] {
    // A loop and not `from_fn`, whose result would not stay in registers.
    let (row, _) = row[..V * LANES].as_chunks::<LANES>();
    let mut vectors = [math.splat(0.0); V];
    for v in 0..V {
        vectors[v] = F::load_values(math, &row[v]);
    }
    vectors
}
