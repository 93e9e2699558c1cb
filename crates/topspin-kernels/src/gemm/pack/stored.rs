//! Panels of matrices as files store them: some blocks are decoded, then interleaved as any other numbers.

use std::ops::Range;

use super::super::Precision;
use super::super::lanes::LANES;
use super::{Operand, interleave, per_step};
use crate::gemm::Numbers;
use crate::simd::Level;
use crate::stored::{Stored, WHOLE_BLOCKS};

/// Elements of a row that are decoded at a time: near when they are interleaved, and whole blocks of every encoding.
const WIDTH: usize = WHOLE_BLOCKS;
/// Rows whose elements are.
const ROWS: usize = 16;

/// Lines that one task packs. Columns share blocks of their rows, and lines of the cache.
pub(super) fn together(matrix: &Stored, by_row: bool) -> usize {
    if by_row { super::TOGETHER * LANES } else { matrix.block().max(8 * LANES) }
}

/// Packs rows, `to[panel][step][16]`.
pub(super) fn pack_rows(
    level: Level,
    precision: Precision,
    to: &mut [u32],
    matrix: &Stored,
    lines: Range<usize>,
    steps: Range<usize>,
) {
    let mut numbers = [0.0; LANES * WIDTH];
    let (per_step, block) = (per_step(precision), matrix.block());
    let end = (steps.end * per_step).next_multiple_of(block).min(matrix.columns());
    for (to, first) in to.chunks_mut(steps.len() * LANES).zip(lines.clone().step_by(LANES)) {
        let lines = first..lines.end.min(first + LANES);
        let (mut step, mut to) = (steps.start, to);
        while step < steps.end {
            let start = step * per_step / block * block;
            let part = start..end.min((start / WIDTH + 1) * WIDTH);
            let next = steps.end.min(part.end.div_ceil(per_step));
            let (here, rest) = to.split_at_mut((next - step) * LANES);
            let numbers = &mut numbers[..lines.len() * part.len()];
            matrix.decode(level, lines.clone(), part.clone(), numbers);
            let rows = Operand::rows(Numbers::F32(numbers), lines.len(), part.len());
            let first = step - start / per_step;
            interleave(level, here, rows, precision, LANES, 0..lines.len(), first..first + next - step);
            (step, to) = (next, rest);
        }
    }
}

/// Packs columns, of which the first begins a block, `to[panel][step][16]`.
pub(super) fn pack_columns(
    level: Level,
    precision: Precision,
    to: &mut [u32],
    matrix: &Stored,
    lines: Range<usize>,
    steps: Range<usize>,
) {
    let mut numbers = [0.0; ROWS * WIDTH];
    let per_step = per_step(precision);
    let columns = lines.start..lines.end.next_multiple_of(matrix.block()).min(matrix.columns());
    for first in steps.clone().step_by(ROWS / per_step) {
        let part = first..steps.end.min(first + ROWS / per_step);
        let rows = part.start * per_step..matrix.rows().min(part.end * per_step);
        let numbers = &mut numbers[..rows.len() * columns.len()];
        matrix.decode(level, rows.clone(), columns.clone(), numbers);
        let operand = Operand::columns(Numbers::F32(numbers), columns.len(), rows.len());
        for (panel, to) in to.chunks_mut(steps.len() * LANES).enumerate() {
            let to = &mut to[(part.start - steps.start) * LANES..][..part.len() * LANES];
            let lines = panel * LANES..lines.len().min((panel + 1) * LANES);
            interleave(level, to, operand, precision, LANES, lines, 0..part.len());
        }
    }
}
