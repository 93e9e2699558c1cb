//! The types in which files are written.

use half::{bf16, f16};

use super::GgmlType;

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
            Self::Q8_0 => values.chunks_exact(GgmlType::Q8_0.block().0).for_each(|block| {
                let d = block.iter().fold(0.0_f32, |largest, x| largest.max(x.abs())) / 127.0;
                let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
                out.extend(f16::from_f32(d).to_le_bytes());
                out.extend(block.iter().map(|x| ((x * inverse).round() as i8).cast_unsigned()));
            }),
        }
    }
}
