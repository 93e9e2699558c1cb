//! bf16 with the conversions of AVX-512, which take denormals for zero as its products do.

use std::arch::x86_64::*;
use std::ops::Range;

use super::super::lanes::LANES;
use super::{Numbers, Operand, for_each_group};
use crate::simd::{Level, pair_lanes, prefetch, round_to_bf16};

/// Width of the narrowest tiles that whole vectors pay for.
pub(super) const NARROWEST: usize = 8;
/// Steps of columns that are asked for before their turn: of a matrix in memory they lie a row apart, which the
/// processor does not foresee.
const COLUMNS_AHEAD: usize = 32;
/// Numbers of rows that are: it foresees these, but not so many rows side by side.
const ROWS_AHEAD: usize = 128;

/// [`super::interleave`] in bf16, for widths from [`NARROWEST`] on.
pub(super) fn interleave(
    level: Level,
    to: &mut [u32],
    from: Operand,
    width: usize,
    lines: Range<usize>,
    steps: Range<usize>,
) {
    assert_eq!(level.verified(), Level::Avx512Bf16);
    // SAFETY: `verified` made sure that the processor has these instructions.
    unsafe {
        match width {
            16 => groups::<16>(to, from, lines, steps),
            12 => groups::<12>(to, from, lines, steps),
            8 => groups::<8>(to, from, lines, steps),
            _ => unreachable!("no wide tile has {width} rows"),
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn groups<const W: usize>(to: &mut [u32], from: Operand, lines: Range<usize>, steps: Range<usize>) {
    let Operand { lines: width, depth, .. } = from;
    for_each_group::<W>(to, from, lines, steps, |to, lines, steps| match (from.data, from.by_row) {
        (Numbers::F32(data), true) => transpose(to, data, depth, lines, steps, |line| {
            fetch(line, ROWS_AHEAD);
            fetch(line, ROWS_AHEAD + LANES);
            round_to_bf16(load(line), load(line.get(LANES..).unwrap_or_default()))
        }),
        (Numbers::Bf16(data), true) => transpose(to, data, depth, lines, steps, |line| {
            fetch(line, ROWS_AHEAD);
            load_pairs(line)
        }),
        (Numbers::F32(data), false) => zip(to, steps, |step| {
            let ahead = 2 * (step + COLUMNS_AHEAD) * width + lines.start;
            fetch(data, ahead);
            fetch(data, ahead + width);
            let row = |row: usize| match row < depth {
                true => load(&data[row * width..][lines.clone()]),
                false => _mm512_setzero_ps(),
            };
            pair_lanes(row(2 * step), row(2 * step + 1))
        }),
        (Numbers::Bf16(data), false) => zip(to, steps, |step| {
            let ahead = 2 * (step + COLUMNS_AHEAD) * width + lines.start;
            fetch(data, ahead);
            fetch(data, ahead + width);
            let row = |row: usize| match row < depth {
                true => load_words(&data[row * width..][lines.clone()]),
                false => _mm512_setzero_si512(),
            };
            _mm512_or_si512(row(2 * step), _mm512_slli_epi32::<16>(row(2 * step + 1)))
        }),
    });
}

/// Interleaves lines that are rows of `depth`, in blocks of 16 steps. `units_of` makes these of a line from its block on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn transpose<const W: usize, T>(
    to: &mut [[u32; W]],
    data: &[T],
    depth: usize,
    lines: Range<usize>,
    steps: Range<usize>,
    units_of: impl Fn(&[T]) -> __m512i,
) {
    for (block, to) in to.chunks_mut(LANES).enumerate() {
        let first = ((steps.start + block * LANES) * 2).min(depth);
        let mut units = [_mm512_setzero_si512(); LANES];
        for (units, line) in units.iter_mut().zip(lines.clone()) {
            *units = units_of(&data[line * depth..][first..depth]);
        }
        for (units, to) in transposed(units).into_iter().zip(to) {
            store(to, units);
        }
    }
}

/// Interleaves lines that are columns, from the units of a step.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn zip<const W: usize>(to: &mut [[u32; W]], steps: Range<usize>, units_of: impl Fn(usize) -> __m512i) {
    for (to, step) in to.iter_mut().zip(steps) {
        store(to, units_of(step));
    }
}

/// Asks for the number at index `at`, which may lie outside.
#[inline(always)]
fn fetch<T>(from: &[T], at: usize) {
    prefetch(from.as_ptr().wrapping_add(at));
}

/// The first 16 numbers of `from`, zeros for those that it lacks.
#[inline]
#[target_feature(enable = "avx512f")]
fn load(from: &[f32]) -> __m512 {
    // SAFETY: the mask names numbers of `from` alone.
    unsafe { _mm512_maskz_loadu_ps(mask(from.len()), from.as_ptr()) }
}

/// The first 32 numbers of `from` in pairs, zeros for those that it lacks.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn load_pairs(from: &[u16]) -> __m512i {
    let mask = if from.len() >= 2 * LANES { u32::MAX } else { (1 << from.len()) - 1 };
    // SAFETY: the mask names numbers of `from` alone.
    unsafe { _mm512_maskz_loadu_epi16(mask, from.as_ptr().cast()) }
}

/// The first 16 numbers of `from`, each as a word, zeros for those that it lacks.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn load_words(from: &[u16]) -> __m512i {
    // SAFETY: the mask names numbers of `from` alone.
    _mm512_cvtepu16_epi32(unsafe { _mm256_maskz_loadu_epi16(mask(from.len()), from.as_ptr().cast()) })
}

/// The first `W` units.
#[inline]
#[target_feature(enable = "avx512f")]
fn store<const W: usize>(to: &mut [u32; W], units: __m512i) {
    // SAFETY: the mask names units of `to` alone.
    unsafe { _mm512_mask_storeu_epi32(to.as_mut_ptr().cast(), mask(W), units) }
}

/// The lowest `len` of 16 bits.
#[inline(always)]
fn mask(len: usize) -> u16 {
    if len >= LANES { u16::MAX } else { (1 << len) - 1 }
}

/// The transpose of a matrix of 16 x 16 units.
#[inline]
#[target_feature(enable = "avx512f")]
fn transposed(rows: [__m512i; LANES]) -> [__m512i; LANES] {
    let mut pairs = rows;
    for i in (0..LANES).step_by(2) {
        pairs[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    // Afterwards the quarter `q` of `fours[i + j]` holds column `4 q + j` of the rows `i .. i + 4`.
    let mut fours = rows;
    for i in (0..LANES).step_by(4) {
        fours[i] = _mm512_unpacklo_epi64(pairs[i], pairs[i + 2]);
        fours[i + 1] = _mm512_unpackhi_epi64(pairs[i], pairs[i + 2]);
        fours[i + 2] = _mm512_unpacklo_epi64(pairs[i + 1], pairs[i + 3]);
        fours[i + 3] = _mm512_unpackhi_epi64(pairs[i + 1], pairs[i + 3]);
    }
    // Quarters 0 and 2, or 1 and 3, of both operands.
    const EVEN: i32 = 0b10_00_10_00;
    const ODD: i32 = 0b11_01_11_01;
    let mut columns = rows;
    for j in 0..4 {
        let [a, b, c, d] = [fours[j], fours[j + 4], fours[j + 8], fours[j + 12]];
        let (even, odd) = (_mm512_shuffle_i32x4::<EVEN>(a, b), _mm512_shuffle_i32x4::<ODD>(a, b));
        let (even_below, odd_below) = (_mm512_shuffle_i32x4::<EVEN>(c, d), _mm512_shuffle_i32x4::<ODD>(c, d));
        columns[j] = _mm512_shuffle_i32x4::<EVEN>(even, even_below);
        columns[j + 4] = _mm512_shuffle_i32x4::<EVEN>(odd, odd_below);
        columns[j + 8] = _mm512_shuffle_i32x4::<ODD>(even, even_below);
        columns[j + 12] = _mm512_shuffle_i32x4::<ODD>(odd, odd_below);
    }
    columns
}
