//! A product of two operands, cut into blocks that fit the caches and dealt out to threads.
//!
//! The reduction is cut into blocks whose length depends on its own length alone. Within a block a sum runs in order of
//! the steps, in one register lane, from zero; blocks are added to the result in order. Nothing else enters an element
//! of the result: not where its row and column lie, not how many there are, not the tile or the thread that does it.

use std::cell::Cell;
use std::ops::Range;

use rayon::prelude::*;

use super::lanes::LANES;
use super::pack::{Operand, Source, pack_panels, pack_rows, pack_rows_here, steps};
use super::tile::{Block, Kernel};
use super::{Numbers, Precision};
use crate::memory::Memory;
use crate::simd::Level;
use crate::stored::WHOLE_BLOCKS;

/// Longest block of the reduction, in steps.
const BLOCK_STEPS: usize = 640;
/// Rows whose tiles pass one group of panels; their packed units stay in the second-level cache.
const BLOCK_ROWS: usize = 96;
/// Rows of a task from which on each task has all panels and some rows; below, all rows and some panels.
const MANY_ROWS: usize = 24;
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
    OnTheWay(Source<'a>),
}

thread_local! {
    /// Memory for packed rows and panels, kept between products. Taken while in use: a thread that waits for its own
    /// product may be lent to another one.
    static ROWS: Cell<Memory<u32>> = Cell::default();
    static PANELS: Cell<Memory<u32>> = Cell::default();
}

/// What a product is added to.
#[derive(Clone, Copy, Debug)]
pub enum Plus<'a> {
    /// Nothing: the result is overwritten.
    Nothing,
    /// What stands in the result.
    Result,
    /// A matrix of the result's shape.
    Matrix(&'a [f32]),
}

impl Plus<'_> {
    /// What a gradient is added to.
    pub(super) fn to_result(accumulate: bool) -> Self {
        if accumulate { Self::Result } else { Self::Nothing }
    }
}

/// `out[rows.lines, columns] = plus + rows · panelsᵀ`.
pub(super) fn product(
    level: Level,
    precision: Precision,
    out: &mut [f32],
    rows: Operand,
    panels: Panels,
    columns: usize,
    plus: Plus,
) {
    assert_eq!(out.len(), rows.lines * columns, "result of {} rows and {columns} columns", rows.lines);
    if let Plus::Matrix(matrix) = plus {
        assert_eq!(matrix.len(), out.len(), "a matrix of the result's shape");
    }
    let rounded = |operand: &Operand| matches!(operand.data, Numbers::Bf16(_));
    let some_rounded = rounded(&rows) || matches!(&panels, Panels::OnTheWay(Source::Plain(panels)) if rounded(panels));
    assert!(precision == Precision::Bf16 || !some_rounded, "numbers rounded to bf16 in a product of {precision:?}");
    let kernel = Kernel::new(level, precision);
    let total = steps(precision, rows.depth);
    let blocks = total.div_ceil(BLOCK_STEPS);
    let block_steps = total.div_ceil(blocks.max(1));
    for block in 0..blocks {
        let steps = block * block_steps..total.min((block + 1) * block_steps);
        let plus = if block > 0 { Plus::Result } else { plus };
        let mut multiply = |panels: &[u32], stride: usize, part: Range<usize>| {
            let product =
                Product { level, precision, kernel, rows, steps: steps.clone(), panels, stride, part, columns };
            product.run(out, plus);
        };
        match panels {
            Panels::Packed(panels) => multiply(&panels[steps.start * LANES..], total * LANES, 0..columns),
            Panels::OnTheWay(source) => {
                // A part of the panels at a time, so that they are still in the cache when their turn comes.
                let width = (PANEL_UNITS / steps.len()).next_multiple_of(WHOLE_BLOCKS);
                let mut packed = PANELS.take();
                for first in (0..columns).step_by(width) {
                    let part = first..columns.min(first + width);
                    let panels = packed.grown(part.len().next_multiple_of(LANES) * steps.len());
                    pack_panels(level, precision, panels, source, part.clone(), steps.clone());
                    multiply(panels, steps.len() * LANES, part);
                }
                PANELS.set(packed);
            }
        }
    }
    if blocks == 0 {
        match plus {
            Plus::Nothing => out.fill(0.0),
            Plus::Result => {}
            Plus::Matrix(matrix) => out.copy_from_slice(matrix),
        }
    }
}

/// The result and what it is added to. Tasks may share it, since each writes its own part.
#[derive(Clone, Copy)]
struct Shared {
    out: *mut f32,
    base: Option<*const f32>,
}
// SAFETY: `Product::run` gives each task rows and columns of its own.
unsafe impl Sync for Shared {}

/// The part of a product that some packed panels make, over one block of the reduction.
struct Product<'a> {
    level: Level,
    precision: Precision,
    kernel: Kernel,
    rows: Operand<'a>,
    /// The block of the reduction.
    steps: Range<usize>,
    /// From the block's first step on.
    panels: &'a [u32],
    /// Units from one panel to the next.
    stride: usize,
    /// Columns of the result that the panels make.
    part: Range<usize>,
    /// All columns of the result.
    columns: usize,
}

impl Product<'_> {
    /// Writes its columns of `out`.
    fn run(&self, out: &mut [f32], plus: Plus) {
        let (lines, panel_count) = (self.rows.lines, self.part.len().div_ceil(LANES));
        assert!(out.len() == lines * self.columns && self.part.end <= self.columns);
        assert!(self.panels.len() >= (panel_count - 1) * self.stride + self.steps.len() * LANES);
        let result = out.as_mut_ptr();
        let base = match plus {
            Plus::Nothing => None,
            Plus::Result => Some(result.cast_const()),
            Plus::Matrix(matrix) => Some(matrix.as_ptr()),
        };
        let out = Shared { out: result, base };
        let threads = rayon::current_num_threads();
        let tallest = self.kernel.tallest;
        let tiles = lines.div_ceil(tallest);
        // Several tasks per thread, so that a thread which loses its processor for a while does not hold up the others;
        // the same number for each thread, of about the same size.
        let most = (BLOCK_ROWS / tallest).max(1);
        let tasks = (4 * threads).max(tiles.div_ceil(most)).next_multiple_of(threads);
        // Rows that a thread packs just before it multiplies them are near, and nobody waits for them.
        let rows_alone = |task: usize| {
            let [first, end] = [task, task + 1].map(|task| lines.min(task * tiles / tasks * tallest));
            let lines = first..end;
            if lines.is_empty() {
                return;
            }
            let mut memory = ROWS.take();
            let packed = memory.grown(lines.len() * self.steps.len());
            pack_rows_here(self.level, self.precision, packed, self.rows, lines.clone(), self.steps.clone(), tallest);
            // SAFETY: no other task has these rows.
            unsafe { self.multiply(out, packed, lines.start, 0..panel_count) };
            ROWS.set(memory);
        };
        if threads == 1 || lines * self.steps.len() * self.part.len() < SERIAL_WORK {
            (0..tasks).for_each(rows_alone);
        } else if lines >= tasks * MANY_ROWS {
            (0..tasks).into_par_iter().with_max_len(1).for_each(rows_alone);
        } else {
            let mut memory = ROWS.take();
            let packed = memory.grown(lines * self.steps.len());
            pack_rows(self.level, self.precision, packed, self.rows, 0..lines, self.steps.clone(), tallest);
            // Two panels at least, so that tiles of few rows stay wide.
            let pairs = panel_count.div_ceil(2);
            let tasks = pairs.min(8 * threads).next_multiple_of(threads);
            (0..tasks).into_par_iter().with_max_len(1).for_each(|task| {
                let [first, end] = [task, task + 1].map(|task| panel_count.min(task * pairs / tasks * 2));
                if first < end {
                    // SAFETY: no other task has these columns.
                    unsafe { self.multiply(out, packed, 0, first..end) }
                }
            });
            ROWS.set(memory);
        }
    }

    /// The rows from `first` on that `packed` holds, times some of the panels.
    ///
    /// # Safety
    /// `out` must be the result that [`Product::run`] checked, and nobody else may touch these rows of these columns.
    unsafe fn multiply(&self, out: Shared, packed: &[u32], first: usize, panels: Range<usize>) {
        let column = self.part.start + panels.start * LANES;
        let at = first * self.columns + column;
        let count = self.steps.len();
        let block = Block {
            rows: packed.as_ptr(),
            row_count: packed.len() / count,
            panels: self.panels[panels.start * self.stride..].as_ptr(),
            panel_stride: self.stride,
            steps: count,
            // SAFETY: an element of `out`, as `run` has checked.
            out: unsafe { out.out.add(at) },
            // SAFETY: the same, in a matrix of its shape.
            base: out.base.map(|base| unsafe { base.add(at) }),
            out_stride: self.columns,
            columns: self.part.end.min(self.part.start + panels.end * LANES) - column,
        };
        // SAFETY: the operands hold the block's lines and steps, as `run` has checked; the rest is the caller's promise.
        unsafe { self.kernel.run(&block) }
    }
}
