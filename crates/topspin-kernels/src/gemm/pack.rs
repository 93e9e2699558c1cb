//! Packing: the copy of an operand in the order in which the tile reads it.
//!
//! An operand is a set of *lines*, each as long as the reduction. Lines are packed by interleaving some of them,
//! `[step][line]`, a step being one unit (see [`super::lanes`]). Panels interleave 16 lines and are filled up with lines
//! of zeros; row tiles interleave as many lines as the tile has rows.

use std::ops::Range;

use rayon::prelude::*;

use super::Precision;
use super::lanes::LANES;
use crate::multiversion;
use crate::simd::Level;

/// Units below which a copy is not worth waking threads for.
const SERIAL_UNITS: usize = 1 << 15;

/// One operand of a product in plain memory.
#[derive(Clone, Copy)]
pub(super) struct Operand<'a> {
    pub data: &'a [f32],
    /// Number of lines.
    pub lines: usize,
    /// Length of a line.
    pub depth: usize,
    /// Whether lines are the rows of a row-major matrix, else its columns.
    pub by_row: bool,
}

impl<'a> Operand<'a> {
    /// The rows of a row-major matrix.
    pub(super) fn rows(data: &'a [f32], lines: usize, depth: usize) -> Self {
        Self { data, lines, depth, by_row: true }
    }

    /// The columns of a row-major matrix.
    pub(super) fn columns(data: &'a [f32], lines: usize, depth: usize) -> Self {
        Self { data, lines, depth, by_row: false }
    }
}

/// Steps of a reduction over `depth` elements.
pub(super) fn steps(precision: Precision, depth: usize) -> usize {
    match precision {
        Precision::F32 => depth,
        Precision::Bf16 => depth.div_ceil(2),
    }
}

/// Sizes of tiles, by number of rows.
pub(super) const TILE_ROWS: [usize; 6] = [12, 8, 6, 4, 2, 1];

/// Rows of the next tile when `left` rows are to do and the tallest tile has `tallest`.
#[inline(always)]
pub(super) fn tile_rows(left: usize, tallest: usize) -> usize {
    let limit = left.min(tallest);
    TILE_ROWS.into_iter().find(|&rows| rows <= limit).unwrap_or(1)
}

/// Panels or tiles that are packed together: where lines are columns, a step of them is one stretch of memory.
const TOGETHER: usize = 4;

/// Packs `lines` into panels: `to[panel][step][16]`.
pub(super) fn pack_panels(
    level: Level,
    precision: Precision,
    to: &mut [u32],
    from: Operand,
    lines: Range<usize>,
    steps: Range<usize>,
) {
    for_each_chunk(to, TOGETHER * LANES * steps.len(), |(chunk, to)| {
        let first = lines.start + chunk * TOGETHER * LANES;
        let lines = first..lines.end.min(first + TOGETHER * LANES);
        interleave(level, to, from, precision, LANES, lines, steps.clone());
    });
}

/// Packs `lines` into row tiles, each `[step][row]`; tiles follow [`tile_rows`].
pub(super) fn pack_rows(
    level: Level,
    precision: Precision,
    to: &mut [u32],
    from: Operand,
    lines: Range<usize>,
    steps: Range<usize>,
    tallest: usize,
) {
    let pack = |(chunk, mut to): (usize, &mut [u32])| {
        let mut first = lines.start + chunk * TOGETHER * tallest;
        let end = lines.end.min(first + TOGETHER * tallest);
        while first < end {
            let width = tile_rows(end - first, tallest);
            let next = end - (end - first) % width;
            let (tiles, rest) = to.split_at_mut((next - first) * steps.len());
            interleave(level, tiles, from, precision, width, first..next, steps.clone());
            (first, to) = (next, rest);
        }
    };
    for_each_chunk(to, TOGETHER * tallest * steps.len(), pack);
}

/// Calls `work` for every chunk of `data`, on several threads if there is much of it.
fn for_each_chunk(data: &mut [u32], chunk: usize, work: impl Fn((usize, &mut [u32])) + Send + Sync) {
    if data.len() < SERIAL_UNITS {
        data.chunks_mut(chunk).enumerate().for_each(work);
    } else {
        data.par_chunks_mut(chunk).enumerate().for_each(work);
    }
}

multiversion! {
    /// Interleaves `lines`, `width` at a time: `to[lines / width][step][width]`. Lines missing in the end are zeros.
    fn interleave(
        _math,
        to: &mut [u32],
        from: Operand,
        precision: Precision,
        width: usize,
        lines: Range<usize>,
        steps: Range<usize>
    ) {
        match width {
            16 => interleave_by::<16>(to, from, precision, lines, steps),
            12 => interleave_by::<12>(to, from, precision, lines, steps),
            8 => interleave_by::<8>(to, from, precision, lines, steps),
            6 => interleave_by::<6>(to, from, precision, lines, steps),
            4 => interleave_by::<4>(to, from, precision, lines, steps),
            2 => interleave_by::<2>(to, from, precision, lines, steps),
            1 => interleave_by::<1>(to, from, precision, lines, steps),
            _ => unreachable!("no tile has {width} rows"),
        }
    }
}

#[inline(always)]
fn interleave_by<const W: usize>(
    to: &mut [u32],
    from: Operand,
    precision: Precision,
    lines: Range<usize>,
    steps: Range<usize>,
) {
    // Columns are read a few steps at a time, so that a line of the cache serves all groups that share it.
    let block = if from.by_row { steps.len() } else { 32 };
    for start in steps.clone().step_by(block.max(1)) {
        let part = start..steps.end.min(start + block);
        for (to, first) in to.chunks_mut(steps.len() * W).zip(lines.clone().step_by(W)) {
            let to = &mut to[(start - steps.start) * W..][..part.len() * W];
            interleave_group::<W>(to, from, precision, first..lines.end.min(first + W), part.clone());
        }
    }
}

#[inline(always)]
fn interleave_group<const W: usize>(
    to: &mut [u32],
    from: Operand,
    precision: Precision,
    lines: Range<usize>,
    steps: Range<usize>,
) {
    let (to, _) = to.as_chunks_mut::<W>();
    match (precision, from.by_row) {
        (Precision::F32, true) => transpose(to, from, lines, steps, 1, |x: &[f32; LANES]| x.map(f32::to_bits)),
        (Precision::Bf16, true) => transpose(to, from, lines, steps, 2, round_pairs),
        (Precision::F32, false) => {
            for (to, step) in to.iter_mut().zip(steps) {
                let row = &from.data[step * from.lines..][..from.lines][lines.clone()];
                *to = load_padded::<W>(row).map(f32::to_bits);
            }
        }
        (Precision::Bf16, false) => {
            for (to, step) in to.iter_mut().zip(steps) {
                let even = &from.data[2 * step * from.lines..][..from.lines][lines.clone()];
                let even = load_padded::<W>(even);
                let odd = match from.data.get((2 * step + 1) * from.lines..) {
                    Some(rest) if !rest.is_empty() => load_padded::<W>(&rest[lines.clone()]),
                    _ => [0.0; W],
                };
                for line in 0..W {
                    to[line] = pair(even[line], odd[line]);
                }
            }
        }
    }
}

/// Interleaves lines that are rows, in blocks of 16 steps. `convert` makes 16 units of `N`
/// elements.
#[inline(always)]
fn transpose<const W: usize, const N: usize>(
    to: &mut [[u32; W]],
    from: Operand,
    lines: Range<usize>,
    steps: Range<usize>,
    elements_per_step: usize,
    convert: impl Fn(&[f32; N]) -> [u32; LANES],
) {
    for (block, to) in to.chunks_mut(LANES).enumerate() {
        let mut units = [[0; LANES]; W];
        for (units, line) in units.iter_mut().zip(lines.clone()) {
            let line = &from.data[line * from.depth..][..from.depth];
            let line = &line[((steps.start + block * LANES) * elements_per_step).min(from.depth)..];
            *units = match line.first_chunk::<N>() {
                Some(whole) => convert(whole),
                None => convert(&load_padded(line)),
            };
        }
        for (step, to) in to.iter_mut().enumerate() {
            for line in 0..W {
                to[line] = units[line][step];
            }
        }
    }
}

/// The elements of `from`, at most `N`, filled up with zeros.
#[inline(always)]
fn load_padded<const N: usize>(from: &[f32]) -> [f32; N] {
    match from.first_chunk::<N>() {
        Some(whole) => *whole,
        None => {
            let mut padded = [0.0; N];
            padded[..from.len()].copy_from_slice(from);
            padded
        }
    }
}

#[inline(always)]
fn round_pairs(x: &[f32; 2 * LANES]) -> [u32; LANES] {
    let mut pairs = [0; LANES];
    for lane in 0..LANES {
        pairs[lane] = pair(x[2 * lane], x[2 * lane + 1]);
    }
    pairs
}

/// Two bf16 in one unit, the even one in the low half.
#[inline(always)]
fn pair(even: f32, odd: f32) -> u32 {
    (round_bf16(even) >> 16) | round_bf16(odd)
}

/// The bf16 nearest to `x`, ties to even, as the high half of a word. A NaN stays one and becomes quiet.
#[inline(always)]
fn round_bf16(x: f32) -> u32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1));
    let kept = if x.is_nan() { bits | 0x0040_0000 } else { rounded };
    kept & 0xffff_0000
}

#[cfg(test)]
mod tests {
    use half::bf16;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn rounding_is_that_of_half(bits: u32) {
            let x = f32::from_bits(bits);
            prop_assert_eq!((round_bf16(x) >> 16) as u16, bf16::from_f32(x).to_bits());
        }
    }
}
