//! A product of two operands, cut into blocks that fit the caches and dealt out to threads.
//!
//! The reduction is cut into blocks whose length depends on its own length alone. Within a block a sum runs in order of
//! the steps, in one register lane, from zero; blocks are added to the result in order. Nothing else enters an element
//! of the result: not where its row and column lie, not how many there are, not the tile or the thread that does it.

use std::cell::Cell;
use std::ops::Range;

use rayon::prelude::*;

use super::Precision;
use super::lanes::LANES;
use super::pack::{Operand, pack_panels, pack_rows, steps};
use super::tile::{Block, GROUP, Kernel};
use crate::simd::Level;

/// Longest block of the reduction, in steps.
const BLOCK_STEPS: usize = 640;
/// Rows whose tiles pass one group of panels; their packed units stay in the second-level cache.
const BLOCK_ROWS: usize = 96;
/// Packed units of rows held at a time.
const ROW_UNITS: usize = 1 << 20;
/// Packed units of panels held at a time, where they are packed on the way.
const PANEL_UNITS: usize = 1 << 20;
/// Multiplications below which a product is not worth waking threads for.
const SERIAL_WORK: usize = 1 << 18;

/// The operand that is read 16 lines at a time.
#[derive(Clone, Copy)]
pub(super) enum Panels<'a> {
    /// Packed beforehand over the whole reduction.
    Packed(&'a [u32]),
    /// To be packed on the way.
    Plain(Operand<'a>),
}

thread_local! {
    /// Memory for packed operands, kept between products. Taken while in use: a thread that waits for its own product
    /// may be lent to another one.
    static SCRATCH: Cell<[Vec<u32>; 2]> = const { Cell::new([Vec::new(), Vec::new()]) };
}

/// `out[rows.lines, columns] = rows · panelsᵀ`, or `+=` when `accumulate`.
pub(super) fn product(
    level: Level,
    precision: Precision,
    out: &mut [f32],
    rows: Operand,
    panels: Panels,
    columns: usize,
    accumulate: bool,
) {
    assert_eq!(out.len(), rows.lines * columns, "result of {} rows and {columns} columns", rows.lines);
    let kernel = Kernel::new(level, precision);
    let total = steps(precision, rows.depth);
    let blocks = total.div_ceil(BLOCK_STEPS);
    let block_steps = total.div_ceil(blocks.max(1));
    let mut scratch = SCRATCH.take();
    for block in 0..blocks {
        let steps = block * block_steps..total.min((block + 1) * block_steps);
        let count = steps.len();
        let accumulate = accumulate || block > 0;
        let [packed_rows, packed_panels] = &mut scratch;
        let held = (ROW_UNITS / count / BLOCK_ROWS).max(1) * BLOCK_ROWS;
        for first in (0..rows.lines).step_by(held) {
            let lines = first..rows.lines.min(first + held);
            let packed = grown(packed_rows, lines.len() * count);
            pack_rows(level, precision, packed, rows, lines.clone(), steps.clone(), kernel.tallest);
            let out = &mut out[lines.start * columns..lines.end * columns];
            match panels {
                Panels::Packed(panels) => {
                    let panels = &panels[steps.start * LANES..];
                    multiply(kernel, out, packed, panels, total * LANES, count, 0..columns, columns, accumulate);
                }
                Panels::Plain(operand) => {
                    // A part of the panels at a time, so that they are still in the cache when their turn comes.
                    let width = (PANEL_UNITS / count).next_multiple_of(GROUP * LANES);
                    for first in (0..columns).step_by(width) {
                        let part = first..columns.min(first + width);
                        let panels = grown(packed_panels, part.len().next_multiple_of(LANES) * count);
                        pack_panels(level, precision, panels, operand, part.clone(), steps.clone());
                        multiply(kernel, out, packed, panels, count * LANES, count, part, columns, accumulate);
                    }
                }
            }
        }
    }
    if blocks == 0 && !accumulate {
        out.fill(0.0);
    }
    SCRATCH.set(scratch);
}

/// The first `len` units of `memory`, which grows if it has to.
fn grown(memory: &mut Vec<u32>, len: usize) -> &mut [u32] {
    if memory.len() < len {
        memory.resize(len, 0);
    }
    &mut memory[..len]
}

/// A pointer into the result that tasks may share, since each writes its own part.
#[derive(Clone, Copy)]
struct Shared(*mut f32);
// SAFETY: `multiply` gives each task rows and columns of its own.
unsafe impl Sync for Shared {}

/// `out[.., columns] (+)= rows · panelsᵀ` over one block of the reduction, both operands packed; a row of `out` has
/// `width` elements, and the panels hold `columns` of them.
fn multiply(
    kernel: Kernel,
    out: &mut [f32],
    rows: &[u32],
    panels: &[u32],
    panel_stride: usize,
    steps: usize,
    columns: Range<usize>,
    width: usize,
    accumulate: bool,
) {
    let row_count = rows.len() / steps;
    let panel_count = columns.len().div_ceil(LANES);
    assert!(out.len() == row_count * width && columns.end <= width);
    assert!(panels.len() >= (panel_count - 1) * panel_stride + steps * LANES);
    let out = Shared(out.as_mut_ptr());
    let run = |row_range: Range<usize>, panel_range: Range<usize>| {
        let out = &out;
        let first = columns.start + panel_range.start * LANES;
        let block = Block {
            rows: rows[row_range.start * steps..row_range.end * steps].as_ptr(),
            row_count: row_range.len(),
            panels: panels[panel_range.start * panel_stride..].as_ptr(),
            panel_stride,
            steps,
            // SAFETY: an element of `out`, by the assertion above.
            out: unsafe { out.0.add(row_range.start * width + first) },
            out_stride: width,
            columns: columns.end.min(columns.start + panel_range.end * LANES) - first,
            accumulate,
        };
        // SAFETY: the operands hold the block's lines and steps, by the assertions above, and no other task has
        // these rows and columns of the result.
        unsafe { kernel.run(&block) }
    };
    let threads = rayon::current_num_threads();
    let row_blocks = row_count.div_ceil(BLOCK_ROWS);
    if threads == 1 || row_count * steps * columns.len() < SERIAL_WORK {
        for block in 0..row_blocks {
            run(block * BLOCK_ROWS..row_count.min((block + 1) * BLOCK_ROWS), 0..panel_count);
        }
        return;
    }
    // Several tasks per thread, so that a thread which loses its processor for a while does not hold up the others;
    // whole groups of panels, so that tiles of few rows stay wide.
    let per_task = (panel_count * row_blocks).div_ceil(8 * threads).next_multiple_of(GROUP);
    let panel_tasks = panel_count.div_ceil(per_task);
    (0..row_blocks * panel_tasks).into_par_iter().with_max_len(1).for_each(|task| {
        let (block, panel) = (task / panel_tasks, task % panel_tasks * per_task);
        run(block * BLOCK_ROWS..row_count.min((block + 1) * BLOCK_ROWS), panel..panel_count.min(panel + per_task));
    });
}
