//! Which vector instructions the processor has, and one body compiled for several of them.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

use crate::bf16::{pair, widen};

/// A set of vector instructions. Levels of one architecture are ordered: each has all of the lower ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// What every processor of the architecture has, and no fused multiply-add.
    Scalar,
    /// aarch64: 128-bit vectors with fused multiply-add.
    Neon,
    /// x86-64: AVX2 and FMA.
    Avx2,
    /// x86-64: AVX-512 F, BW, DQ and VL.
    Avx512,
    /// x86-64: AVX-512 with `vdpbf16ps`, the dot product of pairs of bf16.
    Avx512Bf16,
}

/// A name that is no [`Level`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{name}` names no vector instruction set: `TOPSPIN_SIMD` takes `scalar`, `neon`, `avx2`, `avx512` or `avx512bf16`"
)]
pub struct UnknownLevel {
    /// The name as given.
    pub name: String,
}

/// Environment variable that caps what [`Level::detect`] returns.
const CAP: &str = "TOPSPIN_SIMD";

impl Level {
    /// All levels, from the lowest.
    const ALL: [Level; 5] = [Level::Scalar, Level::Neon, Level::Avx2, Level::Avx512, Level::Avx512Bf16];

    /// The highest level of this processor, capped by the environment variable `TOPSPIN_SIMD`. Looked up once per
    /// process. A value of the variable that names no level is no cap; [`Level::check_cap`] reports it.
    pub fn detect() -> Level {
        static DETECTED: OnceLock<Level> = OnceLock::new();
        *DETECTED.get_or_init(|| {
            let cap = cap_from_environment().ok().flatten().unwrap_or(Level::Avx512Bf16);
            // The highest level that is both present and under the cap: a cap of another architecture leaves `Scalar`.
            Level::ALL.into_iter().filter(|level| *level <= cap && level.is_present()).max().unwrap_or(Level::Scalar)
        })
    }

    /// Says what is wrong with `TOPSPIN_SIMD`, for a program to call at its start.
    ///
    /// # Errors
    /// When the variable holds something that names no level.
    pub fn check_cap() -> Result<(), UnknownLevel> {
        cap_from_environment().map(|_| ())
    }

    /// Every level that kernels may be asked for in this process, from the lowest. Tests loop over it.
    pub fn available() -> impl Iterator<Item = Level> {
        Level::ALL.into_iter().filter(|level| level.is_available())
    }

    /// Whether kernels may be asked for this level in this process.
    pub fn is_available(self) -> bool {
        self <= Level::detect() && self.is_present()
    }

    /// This level, after making sure that its instructions can run.
    ///
    /// # Panics
    /// If the level is not available: kernels are safe functions, so a wrong level must not reach the processor.
    #[inline]
    pub fn verified(self) -> Level {
        assert!(self.is_available(), "vector level `{self}` is above `{}`, the highest available", Level::detect());
        self
    }

    /// Whether the processor has the level's instructions.
    fn is_present(self) -> bool {
        match self {
            Level::Scalar => true,
            // Part of the architecture's baseline.
            Level::Neon => cfg!(target_arch = "aarch64"),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => {
                Level::Avx2.is_present()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Bf16 => Level::Avx512.is_present() && is_x86_feature_detected!("avx512bf16"),
            #[cfg(not(target_arch = "x86_64"))]
            Level::Avx2 | Level::Avx512 | Level::Avx512Bf16 => false,
        }
    }

    /// The name that `TOPSPIN_SIMD` takes.
    pub fn name(self) -> &'static str {
        match self {
            Level::Scalar => "scalar",
            Level::Neon => "neon",
            Level::Avx2 => "avx2",
            Level::Avx512 => "avx512",
            Level::Avx512Bf16 => "avx512bf16",
        }
    }
}

/// The cap that the environment asks for, if it asks for one.
fn cap_from_environment() -> Result<Option<Level>, UnknownLevel> {
    match std::env::var_os(CAP) {
        Some(value) if !value.is_empty() => value.to_string_lossy().parse().map(Some),
        _ => Ok(None),
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Level {
    type Err = UnknownLevel;

    fn from_str(name: &str) -> Result<Self, UnknownLevel> {
        let found = Level::ALL.into_iter().find(|level| level.name().eq_ignore_ascii_case(name));
        found.ok_or_else(|| UnknownLevel { name: name.to_owned() })
    }
}

/// Asks for the cache line at `at`, which need not be valid, to be brought near.
#[inline(always)]
pub(crate) fn prefetch<T>(at: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: part of the architecture's baseline; a prefetch reads nothing and never faults.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Arithmetic that differs between levels, as a zero-sized argument of a body under [`multiversion!`](crate::multiversion).
pub trait Arithmetic: Copy {
    /// 16 numbers in vector registers. Loops over `[f32; 16]` become vector code too, but only while there are few of
    /// them: a tile of several sums is kept in registers reliably by this type alone.
    type Lanes: Copy;
    /// 16 pairs of bf16, in the form in which they are multiplied.
    type Pairs: Copy;
    /// How many [`Lanes`](Self::Lanes) of sums the registers hold beside the operands.
    const SUMS: usize;

    /// `a * b + c`: rounded once where the level has a fused instruction, else after each operation.
    fn mul_add(self, a: f32, b: f32, c: f32) -> f32;
    /// 16 times the same number.
    fn splat(self, x: f32) -> Self::Lanes;
    /// From memory.
    fn load(self, x: &[f32; 16]) -> Self::Lanes;
    /// To memory.
    fn store(self, x: Self::Lanes) -> [f32; 16];
    /// [`mul_add`](Self::mul_add) in each lane.
    fn mul_add_lanes(self, a: Self::Lanes, b: Self::Lanes, c: Self::Lanes) -> Self::Lanes;

    /// 16 bf16 from memory, widened.
    fn widen(self, x: &[u16; 16]) -> Self::Lanes;
    /// 16 times the same pair of bf16, the even one in the low half.
    fn splat_pair(self, x: u32) -> Self::Pairs;
    /// 16 pairs of bf16 from memory.
    fn load_pairs(self, x: &[u32; 16]) -> Self::Pairs;
    /// `c + a_odd * b_odd + a_even * b_even` in each lane, from left to right. Where the processor does this in one
    /// instruction ([`Level::Avx512Bf16`]), denormals count as zero; apart from them all levels have the same bits.
    fn dot_pairs(self, a: Self::Pairs, b: Self::Pairs, c: Self::Lanes) -> Self::Lanes;

    /// 16 pairs of neighbours, rounded to bf16. [`Level::Avx512Bf16`] takes denormals for zero here too.
    #[inline(always)]
    fn pair_neighbours(self, x: &[f32; 32]) -> [u32; 16] {
        let mut pairs = [0; 16];
        for at in 0..16 {
            pairs[at] = pair(x[2 * at], x[2 * at + 1]);
        }
        pairs
    }
    /// 16 pairs of one number from each array, rounded to bf16 in the same way.
    #[inline(always)]
    fn pair_rows(self, even: &[f32; 16], odd: &[f32; 16]) -> [u32; 16] {
        let mut pairs = [0; 16];
        for at in 0..16 {
            pairs[at] = pair(even[at], odd[at]);
        }
        pairs
    }
}

/// [`Arithmetic`] with fused multiply-add, for architectures whose baseline has it.
#[derive(Clone, Copy, Debug)]
pub struct Fused;

/// [`Arithmetic`] without fused multiply-add.
#[derive(Clone, Copy, Debug)]
pub struct Plain;

/// [`Arithmetic`] that the compiler turns into vectors of the baseline.
macro_rules! portable {
    ($name:ident, |$a:ident, $b:ident, $c:ident| $mul_add:expr) => {
        impl Arithmetic for $name {
            type Lanes = [f32; 16];
            type Pairs = [[f32; 16]; 2];
            // Lanes take 4 registers of 128 bits; aarch64 has 32 of them, x86-64 without AVX 16.
            const SUMS: usize = if cfg!(target_arch = "aarch64") { 6 } else { 2 };

            #[inline(always)]
            fn mul_add(self, $a: f32, $b: f32, $c: f32) -> f32 {
                $mul_add
            }

            #[inline(always)]
            fn splat(self, x: f32) -> [f32; 16] {
                [x; 16]
            }

            #[inline(always)]
            fn load(self, x: &[f32; 16]) -> [f32; 16] {
                *x
            }

            #[inline(always)]
            fn store(self, x: [f32; 16]) -> [f32; 16] {
                x
            }

            #[inline(always)]
            fn mul_add_lanes(self, a: [f32; 16], b: [f32; 16], c: [f32; 16]) -> [f32; 16] {
                std::array::from_fn(|lane| self.mul_add(a[lane], b[lane], c[lane]))
            }

            #[inline(always)]
            fn widen(self, x: &[u16; 16]) -> [f32; 16] {
                x.map(|x| f32::from_bits(u32::from(x) << 16))
            }

            #[inline(always)]
            fn splat_pair(self, x: u32) -> [[f32; 16]; 2] {
                widen(x).map(|x| [x; 16])
            }

            #[inline(always)]
            fn load_pairs(self, x: &[u32; 16]) -> [[f32; 16]; 2] {
                [x.map(|x| widen(x)[0]), x.map(|x| widen(x)[1])]
            }

            #[inline(always)]
            fn dot_pairs(self, a: [[f32; 16]; 2], b: [[f32; 16]; 2], c: [f32; 16]) -> [f32; 16] {
                self.mul_add_lanes(a[0], b[0], self.mul_add_lanes(a[1], b[1], c))
            }
        }
    };
}

portable!(Fused, |a, b, c| a.mul_add(b, c));
portable!(Plain, |a, b, c| a * b + c);

#[cfg(target_arch = "x86_64")]
pub use x86::{Avx2, Avx512, Avx512Bf16};
#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{pair_lanes, round_to_bf16};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::Arithmetic;
    use crate::bf16::ODD;

    /// [`Arithmetic`] of [`Level::Avx2`](super::Level::Avx2). A value is the proof that its instructions can run.
    #[derive(Clone, Copy, Debug)]
    pub struct Avx2(());

    /// [`Arithmetic`] of [`Level::Avx512`](super::Level::Avx512). A value is the proof that its instructions can run.
    #[derive(Clone, Copy, Debug)]
    pub struct Avx512(());

    /// [`Arithmetic`] of [`Level::Avx512Bf16`](super::Level::Avx512Bf16). A value is the proof that its instructions can
    /// run.
    #[derive(Clone, Copy, Debug)]
    pub struct Avx512Bf16(Avx512);

    impl Avx2 {
        /// # Safety
        /// The processor has AVX2 and FMA.
        #[inline(always)]
        pub unsafe fn new() -> Self {
            Self(())
        }
    }

    impl Avx512 {
        /// # Safety
        /// The processor has AVX-512 F, BW, DQ and VL.
        #[inline(always)]
        pub unsafe fn new() -> Self {
            Self(())
        }
    }

    impl Avx512Bf16 {
        /// # Safety
        /// The processor has AVX-512 F, BW, DQ, VL and BF16.
        #[inline(always)]
        pub unsafe fn new() -> Self {
            Self(Avx512(()))
        }
    }

    impl Arithmetic for Avx2 {
        type Lanes = [__m256; 2];
        type Pairs = [[__m256; 2]; 2];
        const SUMS: usize = 6;

        #[inline(always)]
        fn mul_add(self, a: f32, b: f32, c: f32) -> f32 {
            a.mul_add(b, c)
        }

        #[inline(always)]
        fn splat(self, x: f32) -> [__m256; 2] {
            // SAFETY: `self` proves AVX2.
            unsafe { [_mm256_set1_ps(x); 2] }
        }

        #[inline(always)]
        fn load(self, x: &[f32; 16]) -> [__m256; 2] {
            // SAFETY: `self` proves AVX2; both halves lie in the array.
            unsafe { [_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(x.as_ptr().add(8))] }
        }

        #[inline(always)]
        fn store(self, x: [__m256; 2]) -> [f32; 16] {
            let mut lanes = [0.0; 16];
            // SAFETY: `self` proves AVX2; both halves lie in the array.
            unsafe {
                _mm256_storeu_ps(lanes.as_mut_ptr(), x[0]);
                _mm256_storeu_ps(lanes.as_mut_ptr().add(8), x[1]);
            }
            lanes
        }

        #[inline(always)]
        fn mul_add_lanes(self, a: [__m256; 2], b: [__m256; 2], c: [__m256; 2]) -> [__m256; 2] {
            // SAFETY: `self` proves FMA.
            unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
        }

        #[inline(always)]
        fn widen(self, x: &[u16; 16]) -> [__m256; 2] {
            // SAFETY: `self` proves AVX2; both halves lie in the array.
            unsafe {
                [0, 8].map(|at| {
                    let half = _mm256_cvtepu16_epi32(_mm_loadu_si128(x.as_ptr().add(at).cast()));
                    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(half))
                })
            }
        }

        #[inline(always)]
        fn splat_pair(self, x: u32) -> [[__m256; 2]; 2] {
            self.load_pairs(&[x; 16])
        }

        #[inline(always)]
        fn load_pairs(self, x: &[u32; 16]) -> [[__m256; 2]; 2] {
            // SAFETY: `self` proves AVX2; both halves lie in the array.
            unsafe {
                let pairs = [0, 8].map(|at| _mm256_loadu_si256(x.as_ptr().add(at).cast()));
                let odd = _mm256_set1_epi32(ODD.cast_signed());
                [
                    pairs.map(|pairs| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(pairs))),
                    pairs.map(|pairs| _mm256_castsi256_ps(_mm256_and_si256(pairs, odd))),
                ]
            }
        }

        #[inline(always)]
        fn dot_pairs(self, a: [[__m256; 2]; 2], b: [[__m256; 2]; 2], c: [__m256; 2]) -> [__m256; 2] {
            self.mul_add_lanes(a[0], b[0], self.mul_add_lanes(a[1], b[1], c))
        }
    }

    impl Arithmetic for Avx512 {
        type Lanes = __m512;
        type Pairs = [__m512; 2];
        const SUMS: usize = 24;

        #[inline(always)]
        fn mul_add(self, a: f32, b: f32, c: f32) -> f32 {
            a.mul_add(b, c)
        }

        #[inline(always)]
        fn splat(self, x: f32) -> __m512 {
            // SAFETY: `self` proves AVX-512 F.
            unsafe { _mm512_set1_ps(x) }
        }

        #[inline(always)]
        fn load(self, x: &[f32; 16]) -> __m512 {
            // SAFETY: `self` proves AVX-512 F; the array is as long as the vector.
            unsafe { _mm512_loadu_ps(x.as_ptr()) }
        }

        #[inline(always)]
        fn store(self, x: __m512) -> [f32; 16] {
            let mut lanes = [0.0; 16];
            // SAFETY: `self` proves AVX-512 F; the array is as long as the vector.
            unsafe { _mm512_storeu_ps(lanes.as_mut_ptr(), x) };
            lanes
        }

        #[inline(always)]
        fn mul_add_lanes(self, a: __m512, b: __m512, c: __m512) -> __m512 {
            // SAFETY: `self` proves AVX-512 F.
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }

        #[inline(always)]
        fn widen(self, x: &[u16; 16]) -> __m512 {
            // SAFETY: `self` proves AVX-512 F; the array is as long as the vector.
            unsafe {
                let words = _mm512_cvtepu16_epi32(_mm256_loadu_si256(x.as_ptr().cast()));
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(words))
            }
        }

        #[inline(always)]
        fn splat_pair(self, x: u32) -> [__m512; 2] {
            self.load_pairs(&[x; 16])
        }

        #[inline(always)]
        fn load_pairs(self, x: &[u32; 16]) -> [__m512; 2] {
            // SAFETY: `self` proves AVX-512 F; the array is as long as the vector.
            unsafe {
                let pairs = _mm512_loadu_si512(x.as_ptr().cast());
                let odd = _mm512_and_si512(pairs, _mm512_set1_epi32(ODD.cast_signed()));
                [_mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs)), _mm512_castsi512_ps(odd)]
            }
        }

        #[inline(always)]
        fn dot_pairs(self, a: [__m512; 2], b: [__m512; 2], c: __m512) -> __m512 {
            self.mul_add_lanes(a[0], b[0], self.mul_add_lanes(a[1], b[1], c))
        }
    }

    impl Arithmetic for Avx512Bf16 {
        type Lanes = __m512;
        type Pairs = __m512i;
        const SUMS: usize = Avx512::SUMS;

        #[inline(always)]
        fn mul_add(self, a: f32, b: f32, c: f32) -> f32 {
            self.0.mul_add(a, b, c)
        }

        #[inline(always)]
        fn splat(self, x: f32) -> __m512 {
            self.0.splat(x)
        }

        #[inline(always)]
        fn load(self, x: &[f32; 16]) -> __m512 {
            self.0.load(x)
        }

        #[inline(always)]
        fn store(self, x: __m512) -> [f32; 16] {
            self.0.store(x)
        }

        #[inline(always)]
        fn mul_add_lanes(self, a: __m512, b: __m512, c: __m512) -> __m512 {
            self.0.mul_add_lanes(a, b, c)
        }

        #[inline(always)]
        fn widen(self, x: &[u16; 16]) -> __m512 {
            self.0.widen(x)
        }

        #[inline(always)]
        fn splat_pair(self, x: u32) -> __m512i {
            // SAFETY: `self` proves AVX-512 F.
            unsafe { _mm512_set1_epi32(x.cast_signed()) }
        }

        #[inline(always)]
        fn load_pairs(self, x: &[u32; 16]) -> __m512i {
            // SAFETY: `self` proves AVX-512 F; the array is as long as the vector.
            unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
        }

        #[inline(always)]
        fn dot_pairs(self, a: __m512i, b: __m512i, c: __m512) -> __m512 {
            // SAFETY: `self` proves AVX-512 BF16; a vector of pairs is any 512 bits.
            unsafe {
                let [a, b] = [a, b].map(|pairs| std::mem::transmute::<__m512i, __m512bh>(pairs));
                _mm512_dpbf16_ps(c, a, b)
            }
        }

        #[inline(always)]
        fn pair_neighbours(self, x: &[f32; 32]) -> [u32; 16] {
            let mut pairs = [0; 16];
            // SAFETY: `self` proves AVX-512 BF16; both halves of `x` and the pairs are as long as a vector.
            unsafe {
                let [low, high] = [0, 16].map(|at| _mm512_loadu_ps(x.as_ptr().add(at)));
                _mm512_storeu_si512(pairs.as_mut_ptr().cast(), round_to_bf16(low, high));
            }
            pairs
        }

        #[inline(always)]
        fn pair_rows(self, even: &[f32; 16], odd: &[f32; 16]) -> [u32; 16] {
            let mut pairs = [0; 16];
            // SAFETY: `self` proves AVX-512 BF16 and BW; all arrays are as long as a vector.
            unsafe {
                let lanes = pair_lanes(_mm512_loadu_ps(even.as_ptr()), _mm512_loadu_ps(odd.as_ptr()));
                _mm512_storeu_si512(pairs.as_mut_ptr().cast(), lanes);
            }
            pairs
        }
    }

    /// 32 numbers as bf16, first those of `low`: to nearest and ties to even, denormals to zero.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(crate) fn round_to_bf16(low: __m512, high: __m512) -> __m512i {
        // SAFETY: both types are 512 bits, and any bits will do.
        unsafe { std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low)) }
    }

    /// 16 pairs of bf16 of the numbers in the same lane, the even one in the low half.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(crate) fn pair_lanes(even: __m512, odd: __m512) -> __m512i {
        // Halves of a pair: first the 16 of `even`, then those of `odd`. A constant, or each call would make it anew.
        const ORDER: [u16; 32] = {
            let mut order = [0; 32];
            let mut at = 0;
            while at < 32 {
                order[at] = (at / 2 + at % 2 * 16) as u16;
                at += 1;
            }
            order
        };
        // SAFETY: both types are 512 bits, and any bits will do.
        let order = unsafe { std::mem::transmute::<[u16; 32], __m512i>(ORDER) };
        _mm512_permutexvar_epi16(order, round_to_bf16(even, odd))
    }
}

/// Compiles one portable body for every [`Level`] and makes a function that picks by its first argument.
///
/// ```
/// topspin_kernels::multiversion! {
///     /// Sum of `x[i] * y[i]`.
///     pub fn dot(math, x: &[f32], y: &[f32]) -> f32 {
///         let (x, _) = x.as_chunks::<16>();
///         let (y, _) = y.as_chunks::<16>();
///         let mut sums = [0.0; 16];
///         for (x, y) in x.iter().zip(y) {
///             for lane in 0..16 {
///                 sums[lane] = math.mul_add(x[lane], y[lane], sums[lane]);
///             }
///         }
///         sums.iter().sum()
///     }
/// }
/// # use topspin_kernels::simd::Level;
/// assert_eq!(dot(Level::detect(), &[2.0; 32], &[3.0; 32]), 192.0);
/// ```
///
/// The first parameter is a bare name for the [`Arithmetic`] of the level; callers pass a [`Level`] in its place. Loops
/// over arrays of fixed length (16 lanes suit all levels) become vector code; a single running sum does not, because its
/// order is fixed. For the same reason results are the same bits on every call at one level, but fused levels differ
/// from `Scalar`. Helper functions called from a body must be `#[inline(always)]` and take `math: impl Arithmetic`,
/// else they are compiled for the baseline. One type parameter with a bound may follow the name. `exp` and the like of std are calls, never vectors: write polynomials.
#[macro_export]
macro_rules! multiversion {
    ($(#[$meta:meta])* $vis:vis fn $name:ident $(<$generic:ident: $bound:path>)? (
        $math:ident $(, $arg:ident: $type:ty)* $(,)?
    ) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name $(<$generic: $bound>)? (level: $crate::simd::Level $(, $arg: $type)*) $(-> $ret)? {
            #[inline(always)]
            fn body $(<$generic: $bound>)? ($math: impl $crate::simd::Arithmetic $(, $arg: $type)*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2 $(<$generic: $bound>)? ($($arg: $type),*) $(-> $ret)? {
                // SAFETY: this function is only entered where its features are present.
                body $(::<$generic>)? (unsafe { $crate::simd::Avx2::new() } $(, $arg)*)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
            fn avx512 $(<$generic: $bound>)? ($($arg: $type),*) $(-> $ret)? {
                // SAFETY: this function is only entered where its features are present.
                body $(::<$generic>)? (unsafe { $crate::simd::Avx512::new() } $(, $arg)*)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
            fn avx512bf16 $(<$generic: $bound>)? ($($arg: $type),*) $(-> $ret)? {
                // SAFETY: this function is only entered where its features are present.
                body $(::<$generic>)? (unsafe { $crate::simd::Avx512Bf16::new() } $(, $arg)*)
            }

            match level.verified() {
                #[cfg(target_arch = "aarch64")]
                $crate::simd::Level::Neon => body $(::<$generic>)? ($crate::simd::Fused $(, $arg)*),
                #[cfg(target_arch = "x86_64")]
                // SAFETY: `verified` made sure that the processor has these instructions.
                $crate::simd::Level::Avx2 => unsafe { avx2 $(::<$generic>)? ($($arg),*) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as above.
                $crate::simd::Level::Avx512 => unsafe { avx512 $(::<$generic>)? ($($arg),*) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as above.
                $crate::simd::Level::Avx512Bf16 => unsafe { avx512bf16 $(::<$generic>)? ($($arg),*) },
                _ => body $(::<$generic>)? ($crate::simd::Plain $(, $arg)*),
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    multiversion! {
        /// Sum of products over whole blocks of 16.
        #[inline(never)]
        fn dot(math, x: &[f32], y: &[f32]) -> f32 {
            let (x, _) = x.as_chunks::<16>();
            let (y, _) = y.as_chunks::<16>();
            let mut sums = [0.0; 16];
            for (x, y) in x.iter().zip(y) {
                for lane in 0..16 {
                    sums[lane] = math.mul_add(x[lane], y[lane], sums[lane]);
                }
            }
            sums.iter().sum()
        }
    }

    #[test]
    fn every_level_computes_the_sum() {
        let x: Vec<f32> = (0..160).map(|i| (i as f32 * 0.7).sin()).collect();
        let y: Vec<f32> = (0..160).map(|i| (i as f32 * 0.3).cos()).collect();
        let exact: f64 = x.iter().zip(&y).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum();
        for level in Level::available() {
            assert!((f64::from(dot(level, &x, &y)) - exact).abs() < 1e-4, "{level}");
        }
    }

    #[test]
    fn fused_levels_round_once() {
        // 1 - e^2 rounds to 1, so only the fused product leaves the square of the error behind.
        let e = f32::EPSILON;
        assert_eq!(Plain.mul_add(1.0 + e, 1.0 - e, -1.0), 0.0);
        assert_eq!(Fused.mul_add(1.0 + e, 1.0 - e, -1.0), -e * e);
    }

    #[test]
    fn names_are_read_back() {
        for level in Level::ALL {
            assert_eq!(level.name().parse(), Ok(level));
        }
        let unknown = "sse9".parse::<Level>().unwrap_err();
        assert!(unknown.to_string().contains("`sse9`"));
    }

    #[test]
    fn scalar_is_always_available() {
        assert_eq!(Level::available().next(), Some(Level::Scalar));
        assert!(Level::detect().is_available());
    }

    #[test]
    #[should_panic(expected = "is above")]
    fn a_foreign_level_is_refused() {
        let foreign = if cfg!(target_arch = "x86_64") { Level::Neon } else { Level::Avx2 };
        foreign.verified();
    }
}
