//! How GGUF encodes the elements of a tensor, and their decoding to f32.
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

use half::{bf16, f16};

use super::k_quants::{self, SUPER_BLOCK};

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
    /// The type of that number in a tensor table, or the name of one that cannot be read.
    pub(super) fn from_number(number: u32) -> Result<Self, String> {
        let known = NUMBERS.into_iter().find(|&(other, _)| other == number).map(|(_, kind)| kind);
        known.ok_or_else(|| unsupported_name(number).map_or(format!("type {number}"), str::to_owned))
    }

    /// The number in a tensor table.
    pub(super) fn number(self) -> u32 {
        NUMBERS.into_iter().find(|&(_, kind)| kind == self).expect("the table has every type").0
    }

    /// Elements and bytes of one block.
    pub(super) fn block(self) -> (usize, usize) {
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

    /// Decodes whole blocks.
    pub(super) fn decode(self, encoded: &[u8], out: &mut [f32]) {
        let (elements, bytes) = self.block();
        debug_assert_eq!(encoded.len() / bytes, out.len() / elements);
        let blocks = encoded.chunks_exact(bytes).zip(out.chunks_exact_mut(elements));
        match self {
            Self::F32 => blocks.for_each(|(b, out)| out[0] = f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
            Self::F16 => blocks.for_each(|(b, out)| out[0] = half_at(b, 0)),
            Self::BF16 => blocks.for_each(|(b, out)| out[0] = bf16::from_le_bytes([b[0], b[1]]).to_f32()),
            Self::Q8_0 => blocks.for_each(|(b, out)| {
                let d = half_at(b, 0);
                for (x, &q) in out.iter_mut().zip(&b[2..]) {
                    *x = d * f32::from(q.cast_signed());
                }
            }),
            Self::Q4_0 => blocks.for_each(|(b, out)| {
                let d = half_at(b, 0);
                nibbles(&b[2..], out, |_, q| d * (f32::from(q) - 8.0));
            }),
            Self::Q4_1 => blocks.for_each(|(b, out)| {
                let (d, m) = (half_at(b, 0), half_at(b, 2));
                nibbles(&b[4..], out, |_, q| d * f32::from(q) + m);
            }),
            Self::Q5_0 => blocks.for_each(|(b, out)| {
                let (d, high) = (half_at(b, 0), bits_at(b, 2));
                nibbles(&b[6..], out, |j, low| d * (fifth_bit(low, high, j) - 16.0));
            }),
            Self::Q5_1 => blocks.for_each(|(b, out)| {
                let (d, m, high) = (half_at(b, 0), half_at(b, 2), bits_at(b, 4));
                nibbles(&b[8..], out, |j, low| d * fifth_bit(low, high, j) + m);
            }),
            Self::Q2_K => blocks.for_each(|(b, out)| k_quants::q2_k(b, out)),
            Self::Q3_K => blocks.for_each(|(b, out)| k_quants::q3_k(b, out)),
            Self::Q4_K => blocks.for_each(|(b, out)| k_quants::q4_k(b, out)),
            Self::Q5_K => blocks.for_each(|(b, out)| k_quants::q5_k(b, out)),
            Self::Q6_K => blocks.for_each(|(b, out)| k_quants::q6_k(b, out)),
        }
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

/// A type in which files are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(non_camel_case_types, reason = "the names of the format")]
pub enum SaveType {
    /// 32-bit floating point: reading it back gives the same bits.
    F32,
    /// IEEE half precision, rounded to nearest even.
    F16,
    /// bfloat16, rounded to nearest even.
    BF16,
    /// 8 bits and a scale for each 32 elements.
    Q8_0,
}

impl SaveType {
    /// The same among all that can be read.
    pub fn kind(self) -> GgmlType {
        match self {
            Self::F32 => GgmlType::F32,
            Self::F16 => GgmlType::F16,
            Self::BF16 => GgmlType::BF16,
            Self::Q8_0 => GgmlType::Q8_0,
        }
    }

    /// The number in `general.file_type`.
    pub(super) fn file_type(self) -> i64 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q8_0 => 7,
            Self::BF16 => 32,
        }
    }

    /// The largest magnitude that the type holds.
    pub(super) fn largest(self) -> f32 {
        match self {
            Self::F32 | Self::BF16 => f32::MAX,
            Self::F16 => f16::MAX.to_f32(),
            // That of a scale, times the largest code.
            Self::Q8_0 => f16::MAX.to_f32() * 127.0,
        }
    }

    /// Appends whole blocks, rounded as the `gguf` package's `quants.py` does.
    pub(super) fn encode(self, values: &[f32], out: &mut Vec<u8>) {
        match self {
            Self::F32 => out.extend(values.iter().flat_map(|x| x.to_le_bytes())),
            Self::F16 => out.extend(values.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes())),
            Self::BF16 => out.extend(values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes())),
            Self::Q8_0 => values.chunks_exact(BLOCK).for_each(|block| {
                let d = block.iter().fold(0.0_f32, |largest, x| largest.max(x.abs())) / 127.0;
                let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
                out.extend(f16::from_f32(d).to_le_bytes());
                out.extend(block.iter().map(|x| ((x * inverse).round() as i8).cast_unsigned()));
            }),
        }
    }
}

/// The f16 that begins at a byte of a block.
pub(super) fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// The 32 bits that begin at a byte of a block.
fn bits_at(block: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
}

/// The code of element j from its nibble and bit j of `high`.
fn fifth_bit(low: u8, high: u32, j: usize) -> f32 {
    f32::from(low | ((high >> j & 1) as u8) << 4)
}

/// Fills a block from each element's number and nibble.
fn nibbles(bytes: &[u8], out: &mut [f32], element: impl Fn(usize, u8) -> f32) {
    let (low, high) = out.split_at_mut(BLOCK / 2);
    for (j, ((x, y), &byte)) in low.iter_mut().zip(high).zip(bytes).enumerate() {
        *x = element(j, byte & 15);
        *y = element(j + BLOCK / 2, byte >> 4);
    }
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
    use proptest::prelude::*;

    use super::super::testing::encode;
    use super::*;

    fn decode(kind: GgmlType, bytes: &[u8]) -> Vec<f32> {
        let (elements, size) = kind.block();
        let mut out = vec![f32::NAN; bytes.len() / size * elements];
        kind.decode(bytes, &mut out);
        out
    }

    #[test]
    fn decodes_blocks_made_by_hand() {
        // 0.5 is 0x3800 in f16, -2.0 is 0xc000.
        let mut q8 = vec![0x00, 0x38];
        q8.extend((0..32).map(|i| if i == 31 { 0x80 } else { i as u8 }));
        let expected: Vec<f32> = (0..32).map(|i| if i == 31 { -64.0 } else { i as f32 / 2.0 }).collect();
        assert_eq!(decode(GgmlType::Q8_0, &q8), expected);

        let mut q4 = vec![0x00, 0x38];
        q4.extend((0..16).map(|j| j | (15 - j) << 4));
        let low = (0..16).map(|j| (j as f32 - 8.0) / 2.0);
        let high = (0..16).map(|j| (7.0 - j as f32) / 2.0);
        assert_eq!(decode(GgmlType::Q4_0, &q4), low.chain(high).collect::<Vec<_>>());

        q4.splice(2..2, [0x00, 0xc0]);
        let low = (0..16).map(|j| j as f32 / 2.0 - 2.0);
        let high = (0..16).map(|j| (15.0 - j as f32) / 2.0 - 2.0);
        assert_eq!(decode(GgmlType::Q4_1, &q4), low.chain(high).collect::<Vec<_>>());

        assert_eq!(decode(GgmlType::F16, &[0x00, 0x38, 0x00, 0xc0]), [0.5, -2.0]);
        assert_eq!(decode(GgmlType::BF16, &[0x80, 0x3f, 0x40, 0xc0]), [1.0, -3.0]);
        assert_eq!(decode(GgmlType::F32, &(-1.5_f32).to_le_bytes()), [-1.5]);
    }

    proptest! {
        /// An error of at most half a quantisation step, and what rounding the scale to f16 adds.
        #[test]
        fn decoding_undoes_encoding(values in prop::collection::vec(-3.0_f32..3.0, 32 * 5)) {
            for kind in [GgmlType::F32, GgmlType::F16, GgmlType::BF16, GgmlType::Q8_0, GgmlType::Q4_0, GgmlType::Q4_1] {
                let decoded = decode(kind, &encode(kind, &values));
                for (block, decoded) in values.chunks(32).zip(decoded.chunks(32)) {
                    let largest = block.iter().fold(0.0_f32, |m, x| m.max(x.abs()));
                    let min = block.iter().copied().fold(f32::INFINITY, f32::min);
                    let max = block.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                    for (x, y) in block.iter().zip(decoded) {
                        let allowed = match kind {
                            GgmlType::F32 => 0.0,
                            GgmlType::F16 => x.abs() * 2.0_f32.powi(-11) + 1e-7,
                            GgmlType::BF16 => x.abs() * 2.0_f32.powi(-8),
                            GgmlType::Q8_0 => largest / 127.0 * 0.5 + largest * 1e-3,
                            // The element of the largest magnitude sets the scale; the other end may be cut by a step.
                            GgmlType::Q4_0 => largest / 8.0 + largest * 1e-3,
                            GgmlType::Q4_1 => (max - min) / 15.0 * 0.5 + largest * 2e-3,
                            _ => unreachable!("not in the list above"),
                        };
                        prop_assert!((x - y).abs() <= allowed, "{kind:?}: {x} became {y}");
                    }
                }
            }
        }
    }
}
