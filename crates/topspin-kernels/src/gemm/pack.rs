//! Packing: the copy of an operand in the order in which the tile reads it.
//!
//! An operand is a set of *lines*, each as long as the reduction. Lines are packed by interleaving some of them,
//! `[step][line]`, a step being one unit (see [`super::lanes`]). Panels interleave 16 lines and are filled up with lines
//! of zeros; row tiles interleave as many lines as the tile has rows.

mod stored;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::ops::Range;

use rayon::prelude::*;

use super::lanes::LANES;
use super::{Numbers, Precision};
use crate::bf16;
use crate::multiversion;
use crate::simd::Level;
use crate::stored::Stored;

/// Units below which a copy is not worth waking threads for.
const SERIAL_UNITS: usize = 1 << 15;

/// One operand of a product in plain memory.
#[derive(Clone, Copy)]
pub(super) struct Operand<'a> {
    pub data: Numbers<'a>,
    /// Number of lines.
    pub lines: usize,
    /// Length of a line.
    pub depth: usize,
    /// Whether lines are the rows of a row-major matrix, else its columns.
    pub by_row: bool,
}

impl<'a> Operand<'a> {
    /// The rows of a row-major matrix.
    pub(super) fn rows(data: Numbers<'a>, lines: usize, depth: usize) -> Self {
        Self { data, lines, depth, by_row: true }
    }

    /// The columns of a row-major matrix.
    pub(super) fn columns(data: Numbers<'a>, lines: usize, depth: usize) -> Self {
        Self { data, lines, depth, by_row: false }
    }
}

/// What panels are packed from.
#[derive(Clone, Copy)]
pub(super) enum Source<'a> {
    /// Numbers.
    Plain(Operand<'a>),
    /// A matrix as a file stores it, whose lines are its rows or its columns.
    Stored { matrix: &'a Stored, by_row: bool },
}

/// Elements of a step.
fn per_step(precision: Precision) -> usize {
    match precision {
        Precision::F32 => 1,
        Precision::Bf16 => 2,
    }
}

/// Steps of a reduction over `depth` elements.
pub(super) fn steps(precision: Precision, depth: usize) -> usize {
    depth.div_ceil(per_step(precision))
}

/// Sizes of tiles, by number of rows.
pub(super) const TILE_ROWS: [usize; 6] = [12, 8, 6, 4, 2, 1];

/// Rows of the next tile when `left` rows are to do and the tallest tile has `tallest`.
#[inline(always)]
pub(super) fn tile_rows(left: usize, tallest: usize) -> usize {
    // Two middling tiles instead of a tall and a low one, whose few sums would wait for one another.
    let limit = if matches!(left, 14 | 16) { left.min(tallest).min(8) } else { left.min(tallest) };
    TILE_ROWS.into_iter().find(|&rows| rows <= limit).unwrap_or(1)
}

/// Panels or tiles that are packed together: where lines are columns, a step of them is one stretch of memory.
const TOGETHER: usize = 4;

/// Packs `lines` into panels: `to[panel][step][16]`.
pub(super) fn pack_panels(
    level: Level,
    precision: Precision,
    to: &mut [u32],
    from: Source,
    lines: Range<usize>,
    steps: Range<usize>,
) {
    let together = match from {
        Source::Plain(_) => TOGETHER * LANES,
        Source::Stored { matrix, by_row } => stored::together(matrix, by_row),
    };
    for_each_chunk(to, together * steps.len(), |(chunk, to)| {
        let first = lines.start + chunk * together;
        let (lines, steps) = (first..lines.end.min(first + together), steps.clone());
        match from {
            Source::Plain(operand) => interleave(level, to, operand, precision, LANES, lines, steps),
            Source::Stored { matrix, by_row: true } => stored::pack_rows(level, precision, to, matrix, lines, steps),
            Source::Stored { matrix, by_row: false } => {
                stored::pack_columns(level, precision, to, matrix, lines, steps);
            }
        }
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
    if lines.len() * steps.len() < SERIAL_UNITS {
        return pack_rows_here(level, precision, to, from, lines, steps, tallest);
    }
    // The last tiles depend on how many rows there are left: they are packed in one go.
    let together = TOGETHER * tallest;
    let tail = lines.start + lines.len().saturating_sub(2 * tallest) / together * together;
    let (to, to_tail) = to.split_at_mut((tail - lines.start) * steps.len());
    let tail = || pack_rows_here(level, precision, to_tail, from, tail..lines.end, steps.clone(), tallest);
    let rest = || {
        for_each_chunk(to, together * steps.len(), |(chunk, to)| {
            let first = lines.start + chunk * together;
            pack_rows_here(level, precision, to, from, first..first + together, steps.clone(), tallest);
        });
    };
    rayon::join(rest, tail);
}

/// [`pack_rows`] on this thread alone.
pub(super) fn pack_rows_here(
    level: Level,
    precision: Precision,
    mut to: &mut [u32],
    from: Operand,
    lines: Range<usize>,
    steps: Range<usize>,
    tallest: usize,
) {
    let mut first = lines.start;
    while first < lines.end {
        let width = tile_rows(lines.end - first, tallest);
        let mut next = first + width;
        while next < lines.end && tile_rows(lines.end - next, tallest) == width {
            next += width;
        }
        let (tiles, rest) = to.split_at_mut((next - first) * steps.len());
        interleave(level, tiles, from, precision, width, first..next, steps.clone());
        (first, to) = (next, rest);
    }
}

/// Calls `work` for every chunk of `data`, on several threads if there is much of it.
fn for_each_chunk(data: &mut [u32], chunk: usize, work: impl Fn((usize, &mut [u32])) + Send + Sync) {
    if data.len() < SERIAL_UNITS {
        data.chunks_mut(chunk).enumerate().for_each(work);
    } else {
        data.par_chunks_mut(chunk).enumerate().for_each(work);
    }
}

/// Interleaves `lines`, `width` at a time: `to[lines / width][step][width]`. Lines missing in the end are zeros.
fn interleave(
    level: Level,
    to: &mut [u32],
    from: Operand,
    precision: Precision,
    width: usize,
    lines: Range<usize>,
    steps: Range<usize>,
) {
    #[cfg(target_arch = "x86_64")]
    if level == Level::Avx512Bf16 && precision == Precision::Bf16 && width >= x86::NARROWEST {
        return x86::interleave(level, to, from, width, lines, steps);
    }
    interleave_plainly(level, to, from, precision, width, lines, steps);
}

multiversion! {
    /// [`interleave`] in code that the compiler finds vectors for.
    fn interleave_plainly(
        _math,
        to: &mut [u32],
        from: Operand,
        precision: Precision,
        width: usize,
        lines: Range<usize>,
        steps: Range<usize>
    ) {
        match width {
            16 => for_each_group::<16>(to, from, lines, steps, |to, l, s| interleave_group(to, from, precision, l, s)),
            12 => for_each_group::<12>(to, from, lines, steps, |to, l, s| interleave_group(to, from, precision, l, s)),
            8 => for_each_group::<8>(to, from, lines, steps, |to, l, s| interleave_group(to, from, precision, l, s)),
            6 => for_each_group::<6>(to, from, lines, steps, |to, l, s| interleave_group(to, from, precision, l, s)),
            4 => for_each_group::<4>(to, from, lines, steps, |to, l, s| interleave_group(to, from, precision, l, s)),
            2 => for_each_group::<2>(to, from, lines, steps, |to, l, s| interleave_group(to, from, precision, l, s)),
            1 => for_each_group::<1>(to, from, lines, steps, |to, l, s| interleave_group(to, from, precision, l, s)),
            _ => unreachable!("no tile has {width} rows"),
        }
    }
}

/// Calls `interleave` for each group of at most `W` lines and some steps, with the units that they go to.
#[inline(always)]
fn for_each_group<const W: usize>(
    to: &mut [u32],
    from: Operand,
    lines: Range<usize>,
    steps: Range<usize>,
    interleave: impl Fn(&mut [[u32; W]], Range<usize>, Range<usize>),
) {
    // Columns are read a few steps at a time, so that a line of the cache serves all groups that share it.
    let block = if from.by_row { steps.len() } else { 32 };
    for start in steps.clone().step_by(block.max(1)) {
        let part = start..steps.end.min(start + block);
        for (to, first) in to.chunks_mut(steps.len() * W).zip(lines.clone().step_by(W)) {
            let to = &mut to[(start - steps.start) * W..][..part.len() * W];
            interleave(to.as_chunks_mut().0, first..lines.end.min(first + W), part.clone());
        }
    }
}

#[inline(always)]
fn interleave_group<const W: usize>(
    to: &mut [[u32; W]],
    from: Operand,
    precision: Precision,
    lines: Range<usize>,
    steps: Range<usize>,
) {
    let Operand { lines: width, depth, by_row, .. } = from;
    match (precision, from.data, by_row) {
        (Precision::F32, Numbers::F32(data), true) => {
            transpose(to, data, depth, lines, steps, 1, |x: &[f32; LANES]| x.map(f32::to_bits));
        }
        (Precision::F32, Numbers::F32(data), false) => {
            for (to, step) in to.iter_mut().zip(steps) {
                *to = load_padded::<W, f32>(&data[step * width..][..width][lines.clone()]).map(f32::to_bits);
            }
        }
        (Precision::F32, Numbers::Bf16(_), _) => unreachable!("a product checks what it is given"),
        (Precision::Bf16, Numbers::F32(data), true) => transpose(to, data, depth, lines, steps, 2, pairs::<f32>),
        (Precision::Bf16, Numbers::Bf16(data), true) => transpose(to, data, depth, lines, steps, 2, pairs::<u16>),
        (Precision::Bf16, Numbers::F32(data), false) => pair_columns(to, data, width, lines, steps),
        (Precision::Bf16, Numbers::Bf16(data), false) => pair_columns(to, data, width, lines, steps),
    }
}

/// A number of which two make a unit.
trait Half: Copy + Default {
    fn pair(even: Self, odd: Self) -> u32;
}

impl Half for f32 {
    #[inline(always)]
    fn pair(even: f32, odd: f32) -> u32 {
        bf16::pair(even, odd)
    }
}

impl Half for u16 {
    #[inline(always)]
    fn pair(even: u16, odd: u16) -> u32 {
        u32::from(even) | u32::from(odd) << 16
    }
}

/// Interleaves lines that are columns of a matrix of `width`, two of its rows to a step.
#[inline(always)]
fn pair_columns<const W: usize, T: Half>(
    to: &mut [[u32; W]],
    data: &[T],
    width: usize,
    lines: Range<usize>,
    steps: Range<usize>,
) {
    for (to, step) in to.iter_mut().zip(steps) {
        let even = load_padded::<W, T>(&data[2 * step * width..][..width][lines.clone()]);
        let odd = match data.get((2 * step + 1) * width..) {
            Some(rest) if !rest.is_empty() => load_padded::<W, T>(&rest[lines.clone()]),
            _ => [T::default(); W],
        };
        for line in 0..W {
            to[line] = T::pair(even[line], odd[line]);
        }
    }
}

/// Interleaves lines that are rows of `depth`, in blocks of 16 steps. `convert` makes 16 units of `N` elements.
#[inline(always)]
fn transpose<const W: usize, const N: usize, T: Copy + Default>(
    to: &mut [[u32; W]],
    data: &[T],
    depth: usize,
    lines: Range<usize>,
    steps: Range<usize>,
    elements_per_step: usize,
    convert: impl Fn(&[T; N]) -> [u32; LANES],
) {
    for (block, to) in to.chunks_mut(LANES).enumerate() {
        let mut units = [[0; LANES]; W];
        for (units, line) in units.iter_mut().zip(lines.clone()) {
            let line = &data[line * depth..][..depth];
            let line = &line[((steps.start + block * LANES) * elements_per_step).min(depth)..];
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
fn load_padded<const N: usize, T: Copy + Default>(from: &[T]) -> [T; N] {
    match from.first_chunk::<N>() {
        Some(whole) => *whole,
        None => {
            let mut padded = [T::default(); N];
            padded[..from.len()].copy_from_slice(from);
            padded
        }
    }
}

#[inline(always)]
fn pairs<T: Half>(x: &[T; 2 * LANES]) -> [u32; LANES] {
    let mut pairs = [0; LANES];
    for lane in 0..LANES {
        pairs[lane] = T::pair(x[2 * lane], x[2 * lane + 1]);
    }
    pairs
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_level_packs_the_same_units(
            lines in 1..70usize, depth in 1..100usize, by_row: bool, bits in proptest::collection::vec(any::<u32>(), 7000),
        ) {
            // Denormals count as zero at the highest level.
            let data: Vec<f32> = bits.into_iter().map(f32::from_bits).map(|x| if x.is_subnormal() { 0.0 } else { x }).collect();
            let rounded: Vec<u16> = data.iter().map(|&x| (bf16::round(x) >> 16) as u16).collect();
            let (data, rounded) = (Numbers::F32(&data[..lines * depth]), Numbers::Bf16(&rounded[..lines * depth]));
            for (precision, width) in [(Precision::F32, 16), (Precision::Bf16, 16), (Precision::Bf16, 12), (Precision::Bf16, 8)] {
                let all = steps(precision, depth);
                let part = all / 3..all;
                let packed = |level: Level, data: Numbers| {
                    let mut to = vec![7; lines.next_multiple_of(width) * part.len()];
                    let from = Operand { data, lines, depth, by_row };
                    interleave(level, &mut to, from, precision, width, 0..lines, part.clone());
                    to
                };
                let expected = packed(Level::Scalar, data);
                for level in Level::available() {
                    prop_assert!(packed(level, data) == expected, "{level}, {precision:?}, width {width}");
                    if precision == Precision::Bf16 {
                        prop_assert!(packed(level, rounded) == expected, "{level}, rounded, width {width}");
                    }
                }
            }
        }
    }
}
