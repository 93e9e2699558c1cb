//! The encodings of GGUF files, and their decoding to f32.
//!
//! The quantised types store blocks of consecutive elements, little-endian, as laid out in ggml's `ggml-common.h`. Those
//! of 32 elements have one f16 scale `d` each, and those with a `_1` one f16 minimum `m` (the types that end in `_K`, of
//! 256 elements, are in [`k_quants`]):
//!
//! | type | bytes of a block | element |
//! |---|---|---|
//! | Q8_0 | `d`, 32 signed bytes `q` | `d q` |
//! | Q4_0 | `d`, 16 bytes of two nibbles `q` | `d (q - 8)` |
//! | Q4_1 | `d`, `m`, 16 bytes of two nibbles `q` | `d q + m` |
//! | Q5_0 | `d`, 32 bits `h`, 16 bytes of two nibbles `n` | `d (q - 16)`, `q = n + 16 h` |
//! | Q5_1 | `d`, `m`, 32 bits `h`, 16 bytes of two nibbles `n` | `d q + m`, `q = n + 16 h` |
//!
//! Byte j of the nibbles holds element j in its low half and element j + 16 in its high half. Bit j of `h` belongs to
//! element j.
//!
//! Each operation is rounded to f32 in the order of the formula, as in the `gguf` package's `quants.py`, so that values
//! agree to the bit.

use std::hint::black_box;

use super::k_quants::{self, SUPER_BLOCK};
use crate::multiversion;
use crate::simd::Level;

/// Elements of a quantised block of the simple types.
const BLOCK: usize = 32;

/// An encoding of tensor elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(non_camel_case_types, reason = "the names of the format")]
pub enum GgmlType {
    /// 32-bit floating point.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of an f32.
    BF16,
    /// 8 bits and a scale.
    Q8_0,
    /// 4 bits and a scale.
    Q4_0,
    /// 4 bits, a scale and a minimum.
    Q4_1,
    /// 5 bits and a scale.
    Q5_0,
    /// 5 bits, a scale and a minimum.
    Q5_1,
    /// 2 bits, with scales and minima of 16 elements in 4 bits each.
    Q2_K,
    /// 3 bits, with scales of 16 elements in 6 bits.
    Q3_K,
    /// 4 bits, with scales and minima of 32 elements in 6 bits each.
    Q4_K,
    /// 5 bits, with scales and minima of 32 elements in 6 bits each.
    Q5_K,
    /// 6 bits, with scales of 16 elements in 8 bits.
    Q6_K,
}

impl GgmlType {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q8_0,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q2_K,
        Self::Q3_K,
        Self::Q4_K,
        Self::Q5_K,
        Self::Q6_K,
    ];

    /// The type of that number in a tensor table, or the name of one that cannot be read.
    pub fn from_number(number: u32) -> Result<Self, String> {
        let known = NUMBERS.into_iter().find(|&(other, _)| other == number).map(|(_, kind)| kind);
        known.ok_or_else(|| unsupported_name(number).map_or(format!("type {number}"), str::to_owned))
    }

    /// The number in a tensor table.
    pub fn number(self) -> u32 {
        NUMBERS.into_iter().find(|&(_, kind)| kind == self).expect("the table has every type").0
    }

    /// Elements and bytes of one block.
    pub fn block(self) -> (usize, usize) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::BF16 => (1, 2),
            Self::Q8_0 => (BLOCK, 34),
            Self::Q4_0 => (BLOCK, 18),
            Self::Q4_1 => (BLOCK, 20),
            Self::Q5_0 => (BLOCK, 22),
            Self::Q5_1 => (BLOCK, 24),
            Self::Q2_K => (SUPER_BLOCK, 84),
            Self::Q3_K => (SUPER_BLOCK, 110),
            Self::Q4_K => (SUPER_BLOCK, 144),
            Self::Q5_K => (SUPER_BLOCK, 176),
            Self::Q6_K => (SUPER_BLOCK, 210),
        }
    }

    /// Bytes that whole blocks of `elements` take.
    pub fn bytes(self, elements: usize) -> usize {
        let (per_block, bytes) = self.block();
        elements / per_block * bytes
    }

    /// Decodes whole blocks with the vector instructions of `level`, whose bits, but for those of NaNs, are the same at all levels.
    ///
    /// # Panics
    /// If `encoded` is not as long as the blocks of `out`.
    pub fn decode(self, level: Level, encoded: &[u8], out: &mut [f32]) {
        assert_eq!(encoded.len(), self.bytes(out.len()), "bytes of {} elements of {self:?}", out.len());
        decode(level, self, encoded, out);
    }
}

/// Types by their numbers in a tensor table.
const NUMBERS: [(u32, GgmlType); 13] = [
    (0, GgmlType::F32),
    (1, GgmlType::F16),
    (2, GgmlType::Q4_0),
    (3, GgmlType::Q4_1),
    (6, GgmlType::Q5_0),
    (7, GgmlType::Q5_1),
    (8, GgmlType::Q8_0),
    (10, GgmlType::Q2_K),
    (11, GgmlType::Q3_K),
    (12, GgmlType::Q4_K),
    (13, GgmlType::Q5_K),
    (14, GgmlType::Q6_K),
    (30, GgmlType::BF16),
];

multiversion! {
    fn decode(_math, kind: GgmlType, encoded: &[u8], out: &mut [f32]) {
        decode_blocks(kind, encoded, out);
    }
}

/// Calls a function for each block. A macro: a function that is passed as a value would be compiled for the baseline.
macro_rules! each {
    ($encoded:ident, $out:ident, $decode:path) => {{
        let (blocks, _) = $encoded.as_chunks();
        let (out, _) = $out.as_chunks_mut();
        for (block, out) in blocks.iter().zip(out) {
            $decode(block, out);
        }
    }};
}

/// Decodes whole blocks. Inlined where it is called, for the vector instructions that are enabled there.
#[inline(always)]
pub(super) fn decode_blocks(kind: GgmlType, encoded: &[u8], out: &mut [f32]) {
    match kind {
        GgmlType::F32 => each!(encoded, out, single),
        GgmlType::F16 => each!(encoded, out, half_precision),
        GgmlType::BF16 => each!(encoded, out, upper_half),
        GgmlType::Q8_0 => each!(encoded, out, q8_0),
        GgmlType::Q4_0 => each!(encoded, out, q4_0),
        GgmlType::Q4_1 => each!(encoded, out, q4_1),
        GgmlType::Q5_0 => each!(encoded, out, q5_0),
        GgmlType::Q5_1 => each!(encoded, out, q5_1),
        GgmlType::Q2_K => each!(encoded, out, k_quants::q2_k),
        GgmlType::Q3_K => each!(encoded, out, k_quants::q3_k),
        GgmlType::Q4_K => each!(encoded, out, k_quants::q4_k),
        GgmlType::Q5_K => each!(encoded, out, k_quants::q5_k),
        GgmlType::Q6_K => each!(encoded, out, k_quants::q6_k),
    }
}

#[inline(always)]
fn single(bytes: &[u8; 4], out: &mut [f32; 1]) {
    *out = [f32::from_le_bytes(*bytes)];
}

#[inline(always)]
fn half_precision(bytes: &[u8; 2], out: &mut [f32; 1]) {
    *out = [half(*bytes)];
}

#[inline(always)]
fn upper_half(&[low, high]: &[u8; 2], out: &mut [f32; 1]) {
    *out = [f32::from_le_bytes([0, 0, low, high])];
}

#[inline(always)]
fn q8_0(block: &[u8; 34], out: &mut [f32; BLOCK]) {
    let (d, codes) = (half(*part(block, 0)), part::<BLOCK>(block, 2));
    for j in 0..BLOCK {
        out[j] = d * f32::from(codes[j].cast_signed());
    }
}

#[inline(always)]
fn q4_0(block: &[u8; 18], out: &mut [f32; BLOCK]) {
    let d = half(*part(block, 0));
    nibbles(part(block, 2), out, |_, q| d * (q - 8) as f32);
}

#[inline(always)]
fn q4_1(block: &[u8; 20], out: &mut [f32; BLOCK]) {
    let (d, m) = (half(*part(block, 0)), half(*part(block, 2)));
    nibbles(part(block, 4), out, |_, q| d * q as f32 + m);
}

#[inline(always)]
fn q5_0(block: &[u8; 22], out: &mut [f32; BLOCK]) {
    let (d, high) = (half(*part(block, 0)), i32::from_le_bytes(*part(block, 2)));
    nibbles(part(block, 6), out, |j, low| d * (fifth_bit(low, high, j) - 16) as f32);
}

#[inline(always)]
fn q5_1(block: &[u8; 24], out: &mut [f32; BLOCK]) {
    let (d, m, high) = (half(*part(block, 0)), half(*part(block, 2)), i32::from_le_bytes(*part(block, 4)));
    nibbles(part(block, 8), out, |j, low| d * fifth_bit(low, high, j) as f32 + m);
}

/// The code of element j from its nibble and bit j of `high`.
#[inline(always)]
fn fifth_bit(low: i32, high: i32, j: usize) -> i32 {
    low | (high >> j & 1) << 4
}

/// Fills a block from each element's number and nibble.
#[inline(always)]
fn nibbles(codes: &[u8; BLOCK / 2], out: &mut [f32; BLOCK], element: impl Fn(usize, i32) -> f32) {
    // First the codes alone, and those of one block: loops over 16 elements would be unrolled, and vectors be made of one
    // element each of 16 blocks, which lie apart.
    let codes = black_box(codes);
    let mut nibbles = [0; BLOCK];
    for j in 0..BLOCK / 2 {
        nibbles[j] = codes[j] & 15;
        nibbles[j + BLOCK / 2] = codes[j] >> 4;
    }
    for j in 0..BLOCK {
        out[j] = element(j, i32::from(nibbles[j]));
    }
}

/// Some of the bytes of a block.
#[inline(always)]
pub(super) fn part<const N: usize>(bytes: &[u8], at: usize) -> &[u8; N] {
    bytes[at..].first_chunk().expect("blocks are as long as their fields")
}

/// A number in half precision, exactly. Without a branch, so that loops of it become vector code.
#[inline(always)]
pub(super) fn half(bytes: [u8; 2]) -> f32 {
    const INFINITY: u32 = 0x7c00 << 13;
    let bits = u32::from(u16::from_le_bytes(bytes));
    let (sign, magnitude) = ((bits & 0x8000) << 16, (bits & 0x7fff) << 13);
    // The exponent's bias is 15 there and 127 here; the product makes normal numbers of denormals too.
    let finite = (f32::from_bits(magnitude) * f32::from_bits((127 + 127 - 15) << 23)).to_bits();
    let quiet = if magnitude > INFINITY { 0x0040_0000 } else { 0 };
    let magnitude = if magnitude < INFINITY { finite } else { magnitude | 0x7f80_0000 | quiet };
    f32::from_bits(sign | magnitude)
}

/// Names of common types that are not decoded, so that the error is one that can be looked up.
fn unsupported_name(number: u32) -> Option<&'static str> {
    Some(match number {
        9 => "Q8_1",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        40 => "NVFP4",
        41 => "Q1_0",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use half::f16;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn halves_are_those_of_the_library() {
        for bits in 0..=u16::MAX {
            let expected = f16::from_bits(bits).to_f32().to_bits();
            assert_eq!(half(bits.to_le_bytes()).to_bits(), expected, "{bits:#x}");
        }
    }

    proptest! {
        #[test]
        fn every_level_decodes_to_the_same_bits(seed in prop::collection::vec(any::<u8>(), 4 * 210)) {
            for kind in GgmlType::ALL {
                let (elements, bytes) = kind.block();
                let blocks = seed.len() / bytes;
                let decoded = |level: Level| {
                    let mut out = vec![f32::NAN; blocks * elements];
                    kind.decode(level, &seed[..blocks * bytes], &mut out);
                    // Of the sum of two NaNs, which one it is depends on the order of the operands.
                    out.into_iter().map(|x| if x.is_nan() { f32::NAN } else { x }.to_bits()).collect::<Vec<_>>()
                };
                let expected = decoded(Level::Scalar);
                for level in Level::available() {
                    prop_assert!(decoded(level) == expected, "{kind:?}, {level}");
                }
            }
        }
    }
}
