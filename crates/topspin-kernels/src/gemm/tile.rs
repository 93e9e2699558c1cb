//! The tile: sums of some rows and some panels, held in registers over the whole reduction.

use super::Precision;
#[cfg(target_arch = "x86_64")]
use super::lanes::{Avx2, Avx512, DotBf16};
use super::lanes::{LANES, Multiply, Portable, Single, Sum, Vector, Widened};
use super::pack::tile_rows;
use crate::simd::{Fused, Level, Plain, prefetch};

/// A part of a product: `out[rows, columns] = base + rows · panelsᵀ` over the steps of one block.
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
    /// The same element of what to add to, `out` itself or another matrix of its shape.
    pub base: Option<*const f32>,
    /// Elements from one row of `out` to the next.
    pub out_stride: usize,
    /// Number of columns, of which 16 belong to a panel and the rest to the last one.
    pub columns: usize,
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
    /// `block` must describe memory that is valid to read and, for `out`, to write, and nobody else may touch `out`.
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
    let tiles = block.row_count.div_ceil(M::ROWS);
    let mut column = 0;
    while column < block.columns {
        let end = block.columns.min(column + GROUP * LANES);
        let (mut row, mut tile) = (0, 0);
        while row < block.row_count {
            let rows = tile_rows(block.row_count - row, M::ROWS);
            let fetch = Fetch::share(tile, tiles, block.steps);
            // SAFETY: the caller's promise; the tile has `rows` rows from `row` on, as packed.
            unsafe {
                match rows {
                    12 if M::ROWS >= 12 => run_tiles::<M, 12>(multiply, block, row, column, end, fetch),
                    8 if M::ROWS >= 8 => run_tiles::<M, 8>(multiply, block, row, column, end, fetch),
                    6 if M::ROWS >= 6 => run_tiles::<M, 6>(multiply, block, row, column, end, fetch),
                    4 if M::ROWS >= 4 => run_tiles::<M, 4>(multiply, block, row, column, end, fetch),
                    2 => run_tiles::<M, 2>(multiply, block, row, column, end, fetch),
                    _ => run_tiles::<M, 1>(multiply, block, row, column, end, fetch),
                }
            }
            (row, tile) = (row + rows, tile + 1);
        }
        column = end;
    }
}

/// The part of the next group's panels that a row tile brings near while it works on this group. The tiles share that
/// out, so that memory is asked evenly. In steps, with [`Fetch::BITS`] binary places.
#[derive(Clone, Copy)]
struct Fetch {
    first: usize,
    per_step: usize,
}

impl Fetch {
    const BITS: u32 = 16;

    /// The share of one of some tiles. What the last ones fetch again, where there are more tiles than were counted,
    /// is near already.
    #[inline(always)]
    fn share(tile: usize, tiles: usize, steps: usize) -> Self {
        let per_step = (1 << Self::BITS) / tiles;
        Self { first: tile.min(tiles - 1) * steps * per_step, per_step }
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
    fetch: Fetch,
) {
    // SAFETY: the caller's promise.
    unsafe {
        if M::Vector::SUMS >= 4 * R {
            while column + 4 * LANES <= end {
                tile::<M, R, 4>(multiply, block, row, column, fetch);
                column += 4 * LANES;
            }
        }
        if M::Vector::SUMS >= 2 * R {
            while column + 2 * LANES <= end {
                tile::<M, R, 2>(multiply, block, row, column, fetch);
                column += 2 * LANES;
            }
        }
        while column < end {
            tile::<M, R, 1>(multiply, block, row, column, fetch);
            column += LANES;
        }
    }
}

/// One tile of `R` rows and `P` panels.
///
/// # Safety
/// As [`run_block`].
#[inline(always)]
unsafe fn tile<M: Multiply, const R: usize, const P: usize>(
    multiply: M,
    block: &Block,
    row: usize,
    column: usize,
    fetch: Fetch,
) {
    let vector = multiply.vector();
    // SAFETY: the caller's promise: rows and panels hold `steps` units for each of their lines.
    unsafe {
        let rows = block.rows.add(row * block.steps);
        let panels = block.panels.add(column / LANES * block.panel_stride);
        let first = row * block.out_stride + column;
        let (out, base) = (block.out.add(first), block.base.map(|base| base.add(first)));
        // The result, which may be far away, comes near while the sums are made.
        for r in 0..R {
            for p in 0..P {
                let at = r * block.out_stride + p * LANES;
                prefetch(out.wrapping_add(at));
                if let Some(base) = base {
                    prefetch(base.wrapping_add(at));
                }
            }
        }
        let mut sums = [[vector.load(ZEROS.as_ptr()); P]; R];
        let mut fetched = fetch.first;
        for step in 0..block.steps {
            let mut panel = [multiply.panel(panels.add(step * LANES)); P];
            for p in 1..P {
                panel[p] = multiply.panel(panels.add(p * block.panel_stride + step * LANES));
            }
            let ahead = (fetched >> Fetch::BITS) * LANES;
            fetched += fetch.per_step;
            for p in 0..P {
                prefetch(panels.wrapping_add((GROUP + p) * block.panel_stride + ahead));
            }
            for r in 0..R {
                let x = multiply.row(rows.add(step * R + r));
                for p in 0..P {
                    sums[r][p] = multiply.mul_add(panel[p], x, sums[r][p]);
                }
            }
        }
        let columns = block.columns - column;
        if columns < P * LANES {
            // A copy: sums whose address is taken would not be kept in registers from the start.
            let sums = sums;
            return write_edge::<M, R, P>(multiply, out, block.out_stride, &sums, columns, base);
        }
        if let Some(base) = base {
            for r in 0..R {
                for p in 0..P {
                    let at = r * block.out_stride + p * LANES;
                    vector.store(out.add(at), vector.add(vector.load(base.add(at)), sums[r][p]));
                }
            }
        } else {
            for r in 0..R {
                for p in 0..P {
                    vector.store(out.add(r * block.out_stride + p * LANES), sums[r][p]);
                }
            }
        }
    }
}

/// Writes the first `columns` of a tile's at the right edge.
///
/// # Safety
/// `out`, and `base` where there is one, must be valid for `R` rows of as many elements, `stride` apart.
#[inline(never)]
unsafe fn write_edge<M: Multiply, const R: usize, const P: usize>(
    multiply: M,
    out: *mut f32,
    stride: usize,
    sums: &[[Sum<M>; P]; R],
    columns: usize,
    base: Option<*const f32>,
) {
    let vector = multiply.vector();
    for r in 0..R {
        for p in 0..columns.div_ceil(LANES) {
            let mut lanes = [0.0; LANES];
            // SAFETY: the array is as long as the vector; elements of `out` are the caller's promise.
            unsafe {
                vector.store(lanes.as_mut_ptr(), sums[r][p]);
                for lane in 0..LANES.min(columns - p * LANES) {
                    let at = r * stride + p * LANES + lane;
                    *out.add(at) = lanes[lane] + base.map_or(0.0, |base| *base.add(at));
                }
            }
        }
    }
}
