//! What the tile is made of: vectors of 16 lanes, and the ways to multiply a unit of two operands into them.
//!
//! A *unit* is four bytes along the reduction: one `f32`, or two bf16 that are neighbours there. So both precisions
//! share one packed layout and one tile, and differ in [`Multiply`] alone.

use crate::bf16::widen;
use crate::simd::Arithmetic;

/// Lanes of a vector, which is also the width of a packed panel: 16 units are one cache line.
pub(super) const LANES: usize = 16;

/// A logical vector of 16 `f32` in as many registers as the instruction set needs.
///
/// # Safety
/// Methods may be called only where the instructions of the implementing type are available, and are inlined there.
/// Pointers must be valid for 16 units, or for one where it is spread over the lanes.
pub(super) trait Vector: Copy {
    /// The registers.
    type Reg: Copy;
    /// Rows of a full tile in single precision, and with bf16 widened to it: as many as the registers hold.
    const ROWS_SINGLE: usize;
    /// See [`Self::ROWS_SINGLE`].
    const ROWS_WIDENED: usize;
    /// Vectors of sums that the registers hold: sets how many panels a tile of few rows spans.
    const SUMS: usize;

    unsafe fn splat(self, from: *const f32) -> Self::Reg;
    /// The even and the odd half of a pair of bf16, widened, each in every lane.
    unsafe fn splat_pair(self, from: *const u32) -> [Self::Reg; 2];
    unsafe fn load(self, from: *const f32) -> Self::Reg;
    /// The even and the odd halves of 16 pairs of bf16, widened.
    unsafe fn load_pairs(self, from: *const u32) -> [Self::Reg; 2];
    unsafe fn store(self, to: *mut f32, x: Self::Reg);
    unsafe fn add(self, a: Self::Reg, b: Self::Reg) -> Self::Reg;
    /// `a * b + c`.
    unsafe fn mul_add(self, a: Self::Reg, b: Self::Reg, c: Self::Reg) -> Self::Reg;
}

/// How one unit of a row is multiplied into sums with 16 units of a panel.
///
/// # Safety
/// As [`Vector`]'s.
pub(super) trait Multiply: Copy {
    /// The vectors in which sums are held.
    type Vector: Vector;
    /// 16 units of a panel.
    type Panel: Copy;
    /// A unit of a row, in every lane.
    type Row: Copy;
    /// Rows of a full tile.
    const ROWS: usize;

    fn vector(self) -> Self::Vector;
    unsafe fn panel(self, from: *const u32) -> Self::Panel;
    unsafe fn row(self, from: *const u32) -> Self::Row;
    unsafe fn mul_add(self, panel: Self::Panel, row: Self::Row, sum: Sum<Self>) -> Sum<Self>;
}

/// The registers that hold 16 sums.
pub(super) type Sum<M> = <<M as Multiply>::Vector as Vector>::Reg;

/// Units are single `f32`.
#[derive(Clone, Copy)]
pub(super) struct Single<V>(pub V);

impl<V: Vector> Multiply for Single<V> {
    type Vector = V;
    type Panel = V::Reg;
    type Row = V::Reg;
    const ROWS: usize = V::ROWS_SINGLE;

    #[inline(always)]
    fn vector(self) -> V {
        self.0
    }

    #[inline(always)]
    unsafe fn panel(self, from: *const u32) -> V::Reg {
        // SAFETY: the caller's promise.
        unsafe { self.0.load(from.cast()) }
    }

    #[inline(always)]
    unsafe fn row(self, from: *const u32) -> V::Reg {
        // SAFETY: the caller's promise.
        unsafe { self.0.splat(from.cast()) }
    }

    #[inline(always)]
    unsafe fn mul_add(self, panel: V::Reg, row: V::Reg, sum: V::Reg) -> V::Reg {
        // SAFETY: the caller's promise.
        unsafe { self.0.mul_add(panel, row, sum) }
    }
}

/// Units are pairs of bf16, widened to `f32` and added one after the other, odd first as `vdpbf16ps` does.
///
/// The product of two bf16 is exact in `f32`, so it makes no difference whether multiply-add is fused.
#[derive(Clone, Copy)]
pub(super) struct Widened<V>(pub V);

impl<V: Vector> Multiply for Widened<V> {
    type Vector = V;
    type Panel = [V::Reg; 2];
    type Row = [V::Reg; 2];
    const ROWS: usize = V::ROWS_WIDENED;

    #[inline(always)]
    fn vector(self) -> V {
        self.0
    }

    #[inline(always)]
    unsafe fn panel(self, from: *const u32) -> [V::Reg; 2] {
        // SAFETY: the caller's promise.
        unsafe { self.0.load_pairs(from) }
    }

    #[inline(always)]
    unsafe fn row(self, from: *const u32) -> [V::Reg; 2] {
        // SAFETY: the caller's promise.
        unsafe { self.0.splat_pair(from) }
    }

    #[inline(always)]
    unsafe fn mul_add(self, panel: [V::Reg; 2], row: [V::Reg; 2], sum: V::Reg) -> V::Reg {
        // SAFETY: the caller's promise.
        unsafe { self.0.mul_add(panel[0], row[0], self.0.mul_add(panel[1], row[1], sum)) }
    }
}

/// Arrays, which the compiler turns into what vectors the architecture's baseline has.
#[derive(Clone, Copy)]
pub(super) struct Portable<A>(pub A);

impl<A: Arithmetic> Vector for Portable<A> {
    type Reg = [f32; LANES];
    // A vector takes 4 registers of 128 bits; aarch64 has 32 of them, x86-64 without AVX 16.
    const ROWS_SINGLE: usize = if cfg!(target_arch = "aarch64") { 4 } else { 2 };
    const ROWS_WIDENED: usize = Self::ROWS_SINGLE;
    const SUMS: usize = Self::ROWS_SINGLE;

    #[inline(always)]
    unsafe fn splat(self, from: *const f32) -> Self::Reg {
        // SAFETY: the caller's promise.
        [unsafe { *from }; LANES]
    }

    #[inline(always)]
    unsafe fn splat_pair(self, from: *const u32) -> [Self::Reg; 2] {
        // SAFETY: the caller's promise.
        widen(unsafe { *from }).map(|x| [x; LANES])
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Self::Reg {
        // SAFETY: the caller's promise.
        unsafe { from.cast::<Self::Reg>().read() }
    }

    #[inline(always)]
    unsafe fn load_pairs(self, from: *const u32) -> [Self::Reg; 2] {
        // SAFETY: the caller's promise.
        let pairs = unsafe { from.cast::<[u32; LANES]>().read() };
        let mut halves = [[0.0; LANES]; 2];
        for lane in 0..LANES {
            [halves[0][lane], halves[1][lane]] = widen(pairs[lane]);
        }
        halves
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, x: Self::Reg) {
        // SAFETY: the caller's promise.
        unsafe { to.cast::<Self::Reg>().write(x) }
    }

    #[inline(always)]
    unsafe fn add(self, a: Self::Reg, b: Self::Reg) -> Self::Reg {
        let mut sum = a;
        for lane in 0..LANES {
            sum[lane] += b[lane];
        }
        sum
    }

    #[inline(always)]
    unsafe fn mul_add(self, a: Self::Reg, b: Self::Reg, c: Self::Reg) -> Self::Reg {
        let mut sum = c;
        for lane in 0..LANES {
            sum[lane] = self.0.mul_add(a[lane], b[lane], sum[lane]);
        }
        sum
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Avx2, Avx512, DotBf16};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Multiply, Vector};
    use crate::bf16::ODD;

    /// Two registers of AVX2 with FMA.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Avx2;

    impl Vector for Avx2 {
        type Reg = [__m256; 2];
        // 12 registers of sums, 2 of the panel, 1 of the row, of 16.
        const ROWS_SINGLE: usize = 6;
        // 8 registers of sums, 4 of the panel, 2 of the row.
        const ROWS_WIDENED: usize = 4;
        const SUMS: usize = 4;

        #[inline(always)]
        unsafe fn splat(self, from: *const f32) -> Self::Reg {
            // SAFETY: the caller's promise.
            unsafe { [_mm256_broadcast_ss(&*from); 2] }
        }

        #[inline(always)]
        unsafe fn splat_pair(self, from: *const u32) -> [Self::Reg; 2] {
            // SAFETY: the caller's promise.
            unsafe { widen256(_mm256_castps_si256(_mm256_broadcast_ss(&*from.cast()))).map(|half| [half; 2]) }
        }

        #[inline(always)]
        unsafe fn load(self, from: *const f32) -> Self::Reg {
            // SAFETY: the caller's promise.
            unsafe { [_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))] }
        }

        #[inline(always)]
        unsafe fn load_pairs(self, from: *const u32) -> [Self::Reg; 2] {
            // SAFETY: the caller's promise.
            unsafe {
                let [even_low, odd_low] = widen256(_mm256_loadu_si256(from.cast()));
                let [even_high, odd_high] = widen256(_mm256_loadu_si256(from.add(8).cast()));
                [[even_low, even_high], [odd_low, odd_high]]
            }
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f32, x: Self::Reg) {
            // SAFETY: the caller's promise.
            unsafe {
                _mm256_storeu_ps(to, x[0]);
                _mm256_storeu_ps(to.add(8), x[1]);
            }
        }

        #[inline(always)]
        unsafe fn add(self, a: Self::Reg, b: Self::Reg) -> Self::Reg {
            // SAFETY: the caller's promise.
            unsafe { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] }
        }

        #[inline(always)]
        unsafe fn mul_add(self, a: Self::Reg, b: Self::Reg, c: Self::Reg) -> Self::Reg {
            // SAFETY: the caller's promise.
            unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
        }
    }

    /// [`super::widen`] of 8 pairs.
    ///
    /// # Safety
    /// AVX2 must be available.
    #[inline(always)]
    unsafe fn widen256(pairs: __m256i) -> [__m256; 2] {
        // SAFETY: the caller's promise.
        unsafe {
            let odd = _mm256_and_si256(pairs, _mm256_set1_epi32(ODD.cast_signed()));
            [_mm256_castsi256_ps(_mm256_slli_epi32::<16>(pairs)), _mm256_castsi256_ps(odd)]
        }
    }

    /// One register of AVX-512.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Avx512;

    impl Vector for Avx512 {
        type Reg = __m512;
        // Over two panels: 24 registers of sums, 2 of the panels, 1 of the row, of 32.
        const ROWS_SINGLE: usize = 12;
        // 24 registers of sums, 4 of the panels, 2 of the row.
        const ROWS_WIDENED: usize = 12;
        const SUMS: usize = 24;

        #[inline(always)]
        unsafe fn splat(self, from: *const f32) -> __m512 {
            // SAFETY: the caller's promise.
            unsafe { _mm512_set1_ps(*from) }
        }

        #[inline(always)]
        unsafe fn splat_pair(self, from: *const u32) -> [__m512; 2] {
            // SAFETY: the caller's promise.
            unsafe { widen512(_mm512_set1_epi32((*from).cast_signed())) }
        }

        #[inline(always)]
        unsafe fn load(self, from: *const f32) -> __m512 {
            // SAFETY: the caller's promise.
            unsafe { _mm512_loadu_ps(from) }
        }

        #[inline(always)]
        unsafe fn load_pairs(self, from: *const u32) -> [__m512; 2] {
            // SAFETY: the caller's promise.
            unsafe { widen512(_mm512_loadu_si512(from.cast())) }
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f32, x: __m512) {
            // SAFETY: the caller's promise.
            unsafe { _mm512_storeu_ps(to, x) }
        }

        #[inline(always)]
        unsafe fn add(self, a: __m512, b: __m512) -> __m512 {
            // SAFETY: the caller's promise.
            unsafe { _mm512_add_ps(a, b) }
        }

        #[inline(always)]
        unsafe fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
            // SAFETY: the caller's promise.
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }
    }

    /// [`super::widen`] of 16 pairs.
    ///
    /// # Safety
    /// AVX-512 must be available.
    #[inline(always)]
    unsafe fn widen512(pairs: __m512i) -> [__m512; 2] {
        // SAFETY: the caller's promise.
        unsafe {
            let odd = _mm512_and_si512(pairs, _mm512_set1_epi32(ODD.cast_signed()));
            [_mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs)), _mm512_castsi512_ps(odd)]
        }
    }

    /// Units are pairs of bf16, multiplied by `vdpbf16ps`: adds the odd product, rounds, adds the even one, rounds.
    ///
    /// It gives the bits of [`super::Widened`] except that denormals count as zero, operands and sums alike.
    #[derive(Clone, Copy)]
    pub(in super::super) struct DotBf16;

    impl Multiply for DotBf16 {
        type Vector = Avx512;
        type Panel = __m512bh;
        type Row = __m512bh;
        const ROWS: usize = 12;

        #[inline(always)]
        fn vector(self) -> Avx512 {
            Avx512
        }

        #[inline(always)]
        unsafe fn panel(self, from: *const u32) -> __m512bh {
            // SAFETY: the caller's promise; both types are 512 bits, and any bits will do.
            unsafe { std::mem::transmute::<__m512i, __m512bh>(_mm512_loadu_si512(from.cast())) }
        }

        #[inline(always)]
        unsafe fn row(self, from: *const u32) -> __m512bh {
            // SAFETY: as above.
            unsafe { std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32((*from).cast_signed())) }
        }

        #[inline(always)]
        unsafe fn mul_add(self, panel: __m512bh, row: __m512bh, sum: __m512) -> __m512 {
            // SAFETY: the caller's promise.
            unsafe { _mm512_dpbf16_ps(sum, panel, row) }
        }
    }
}
