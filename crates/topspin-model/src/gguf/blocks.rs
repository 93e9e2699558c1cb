//! How GGUF encodes the elements of a tensor, and their decoding to f32.
//!
//! The quantised types store blocks of 32 consecutive elements with one f16 scale `d` (and for Q4_1 one f16 minimum
//! `m`) each, little-endian, as laid out in ggml's `ggml-common.h`:
//!
//! | type | bytes of a block | element |
//! |---|---|---|
//! | Q8_0 | `d`, 32 signed bytes `q` | `d q` |
//! | Q4_0 | `d`, 16 bytes of two nibbles `q` | `d (q - 8)` |
//! | Q4_1 | `d`, `m`, 16 bytes of two nibbles `q` | `d q + m` |
//!
//! Byte j of the nibbles holds element j in its low half and element j + 16 in its high half.

use half::{bf16, f16};

/// Elements of a quantised block.
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
}

impl GgmlType {
    /// The type of that number in a tensor table, or the name of one that cannot be read.
    pub(super) fn from_number(number: u32) -> Result<Self, String> {
        Ok(match number {
            0 => Self::F32,
            1 => Self::F16,
            2 => Self::Q4_0,
            3 => Self::Q4_1,
            8 => Self::Q8_0,
            30 => Self::BF16,
            _ => return Err(unsupported_name(number).map_or(format!("type {number}"), str::to_owned)),
        })
    }

    /// Elements and bytes of one block.
    pub(super) fn block(self) -> (usize, usize) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::BF16 => (1, 2),
            Self::Q8_0 => (BLOCK, 34),
            Self::Q4_0 => (BLOCK, 18),
            Self::Q4_1 => (BLOCK, 20),
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
                nibbles(&b[2..], out, |q| d * (q - 8.0));
            }),
            Self::Q4_1 => blocks.for_each(|(b, out)| {
                let (d, m) = (half_at(b, 0), half_at(b, 2));
                nibbles(&b[4..], out, |q| d * q + m);
            }),
        }
    }
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

fn nibbles(bytes: &[u8], out: &mut [f32], element: impl Fn(f32) -> f32) {
    let (low, high) = out.split_at_mut(BLOCK / 2);
    for ((x, y), &byte) in low.iter_mut().zip(high).zip(bytes) {
        *x = element((byte & 15).into());
        *y = element((byte >> 4).into());
    }
}

/// Names of common types that are not decoded, so that the error is one that can be looked up.
fn unsupported_name(number: u32) -> Option<&'static str> {
    Some(match number {
        6 => "Q5_0",
        7 => "Q5_1",
        9 => "Q8_1",
        10 => "Q2_K",
        11 => "Q3_K",
        12 => "Q4_K",
        13 => "Q5_K",
        14 => "Q6_K",
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
                        };
                        prop_assert!((x - y).abs() <= allowed, "{kind:?}: {x} became {y}");
                    }
                }
            }
        }
    }
}
