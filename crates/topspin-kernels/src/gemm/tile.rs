//! The tile: sums of some rows and some panels, held in registers over the whole reduction.

use super::Precision;
#[cfg(target_arch = "x86_64")]
use super::lanes::{Avx2, Avx512, DotBf16};
use super::lanes::{LANES, Multiply, Portable, Single, Sum, Vector, Widened, prefetch};
use super::pack::tile_rows;
use crate::simd::{Fused, Level, Plain};

/// A part of a product: `out[rows, columns] (+)= rows · panelsᵀ` over the steps of one block.
#[derive(Clone, Copy)]
pub(super) struct Block {
    /// Row tiles, packed one after the other.
    pub rows: *const u32,
    /// Number of rows.
    pub row_count: usize,
    /// The first step of the first panel.
    pub panels: *const u32,
    /// Units from one panel to the next.
    pub panel_stride: usize,
    /// Steps of the reduction.
    pub steps: usize,
    /// The element of the first row and of column 0 of the first panel.
    pub out: *mut f32,
    /// Elements from one row of `out` to the next.
    pub out_stride: usize,
    /// Number of columns, of which 16 belong to a panel and the rest to the last one.
    pub columns: usize,
    /// Whether to add to `out` or to overwrite it.
    pub accumulate: bool,
}

/// The tile for one instruction set and precision.
#[derive(Clone, Copy)]
pub(super) struct Kernel {
    /// Rows of a full tile.
    pub tallest: usize,
    run: unsafe fn(&Block),
}

/// A [`Kernel`] of one way to multiply, compiled for the given instructions.
macro_rules! kernel {
    ($(#[$attribute:meta])* $multiply:ty = $value:expr) => {{
        $(#[$attribute])*
        unsafe fn run(block: &Block) {
            // SAFETY: the instructions are enabled here, and the caller vouches for the block.
            unsafe { run_block($value, block) }
        }
        Kernel { tallest: <$multiply>::ROWS, run }
    }};
}

impl Kernel {
    /// The tile for `level`.
    pub(super) fn new(level: Level, precision: Precision) -> Self {
        match (level.verified(), precision) {
            #[cfg(target_arch = "x86_64")]
            (Level::Avx2, Precision::F32) => {
                kernel!(#[target_feature(enable = "avx2,fma")] Single<Avx2> = Single(Avx2))
            }
            #[cfg(target_arch = "x86_64")]
            (Level::Avx2, Precision::Bf16) => {
                kernel!(#[target_feature(enable = "avx2,fma")] Widened<Avx2> = Widened(Avx2))
            }
            #[cfg(target_arch = "x86_64")]
            (Level::Avx512 | Level::Avx512Bf16, Precision::F32) => {
                kernel!(#[target_feature(enable = "avx512f")] Single<Avx512> = Single(Avx512))
            }
            #[cfg(target_arch = "x86_64")]
            (Level::Avx512, Precision::Bf16) => {
                kernel!(#[target_feature(enable = "avx512f")] Widened<Avx512> = Widened(Avx512))
            }
            #[cfg(target_arch = "x86_64")]
            (Level::Avx512Bf16, Precision::Bf16) => {
                kernel!(
                    #[target_feature(enable = "avx512f,avx512bf16")]
                    DotBf16 = DotBf16
                )
            }
            (Level::Neon, Precision::F32) => kernel!(Single<Portable<Fused>> = Single(Portable(Fused))),
            (Level::Neon, Precision::Bf16) => kernel!(Widened<Portable<Fused>> = Widened(Portable(Fused))),
            (_, Precision::F32) => kernel!(Single<Portable<Plain>> = Single(Portable(Plain))),
            (_, Precision::Bf16) => kernel!(Widened<Portable<Plain>> = Widened(Portable(Plain))),
        }
    }

    /// Computes one block.
    ///
    /// # Safety
    /// `block` must describe memory that is valid to read and, for `out`, to write, and that nobody else touches.
    pub(super) unsafe fn run(self, block: &Block) {
        // SAFETY: `new` made sure of the instructions; the rest is the caller's promise.
        unsafe { (self.run)(block) }
    }
}

/// Panels that a row tile passes before the next row tile takes its turn on them: few enough to stay in the
/// second-level cache together with the rows.
pub(super) const GROUP: usize = 4;

static ZEROS: [f32; LANES] = [0.0; LANES];

/// # Safety
/// As [`Kernel::run`], and the instructions of `multiply` must be enabled in the caller.
#[inline(always)]
unsafe fn run_block<M: Multiply>(multiply: M, block: &Block) {
    let mut column = 0;
    while column < block.columns {
        let end = block.columns.min(column + GROUP * LANES);
        let mut row = 0;
        while row < block.row_count {
            let rows = tile_rows(block.row_count - row, M::ROWS);
            // SAFETY: the caller's promise; the tile has `rows` rows from `row` on, as packed.
            unsafe {
                match rows {
                    12 if M::ROWS >= 12 => run_tiles::<M, 12>(multiply, block, row, column, end),
                    8 if M::ROWS >= 8 => run_tiles::<M, 8>(multiply, block, row, column, end),
                    6 if M::ROWS >= 6 => run_tiles::<M, 6>(multiply, block, row, column, end),
                    4 if M::ROWS >= 4 => run_tiles::<M, 4>(multiply, block, row, column, end),
                    2 => run_tiles::<M, 2>(multiply, block, row, column, end),
                    _ => run_tiles::<M, 1>(multiply, block, row, column, end),
                }
            }
            row += rows;
        }
        column = end;
    }
}

/// `R` rows over the columns `column .. end`, in tiles as wide as the registers allow.
///
/// # Safety
/// As [`run_block`].
#[inline(always)]
unsafe fn run_tiles<M: Multiply, const R: usize>(
    multiply: M,
    block: &Block,
    row: usize,
    mut column: usize,
    end: usize,
) {
    // SAFETY: the caller's promise.
    unsafe {
        if M::Vector::SUMS >= 4 * R {
            while column + 4 * LANES <= end {
                tile::<M, R, 4>(multiply, block, row, column);
                column += 4 * LANES;
            }
        }
        if M::Vector::SUMS >= 2 * R {
            while column + 2 * LANES <= end {
                tile::<M, R, 2>(multiply, block, row, column);
                column += 2 * LANES;
            }
        }
        while column < end {
            tile::<M, R, 1>(multiply, block, row, column);
            column += LANES;
        }
    }
}

/// One tile of `R` rows and `P` panels.
///
/// # Safety
/// As [`run_block`].
#[inline(always)]
unsafe fn tile<M: Multiply, const R: usize, const P: usize>(multiply: M, block: &Block, row: usize, column: usize) {
    let vector = multiply.vector();
    // SAFETY: the caller's promise: rows and panels hold `steps` units for each of their lines.
    unsafe {
        let rows = block.rows.add(row * block.steps);
        let panels = block.panels.add(column / LANES * block.panel_stride);
        // The result, which may be far away, comes near while the sums are made.
        for r in 0..R {
            for p in 0..P {
                prefetch(block.out.wrapping_add((row + r) * block.out_stride + column + p * LANES).cast());
            }
        }
        let mut sums = [[vector.load(ZEROS.as_ptr()); P]; R];
        for step in 0..block.steps {
            let mut panel = [multiply.panel(panels.add(step * LANES)); P];
            for p in 1..P {
                panel[p] = multiply.panel(panels.add(p * block.panel_stride + step * LANES));
            }
            // While tiles work on this group of panels, the next one comes from memory.
            for p in 0..P {
                prefetch(panels.wrapping_add((GROUP + p) * block.panel_stride + step * LANES));
            }
            for r in 0..R {
                let x = multiply.row(rows.add(step * R + r));
                for p in 0..P {
                    sums[r][p] = multiply.mul_add(panel[p], x, sums[r][p]);
                }
            }
        }
        for r in 0..R {
            for p in 0..P {
                let column = column + p * LANES;
                let out = block.out.add((row + r) * block.out_stride + column);
                write::<M>(multiply, out, sums[r][p], block.columns - column, block.accumulate);
            }
        }
    }
}

/// Writes 16 sums or, at the right edge, the first `columns` of them.
///
/// # Safety
/// `out` must be valid for as many elements as are written.
#[inline(always)]
unsafe fn write<M: Multiply>(multiply: M, out: *mut f32, sum: Sum<M>, columns: usize, accumulate: bool) {
    let vector = multiply.vector();
    // SAFETY: the caller's promise.
    unsafe {
        if columns >= LANES {
            let sum = if accumulate { vector.add(vector.load(out), sum) } else { sum };
            vector.store(out, sum);
        } else {
            let mut lanes = [0.0; LANES];
            vector.store(lanes.as_mut_ptr(), sum);
            for lane in 0..columns {
                let before = if accumulate { *out.add(lane) } else { 0.0 };
                *out.add(lane) = before + lanes[lane];
            }
        }
    }
}
