//! Rows for products to read, in the precision of these.

use bytemuck::Pod;

use super::kv::{F32, borrow};
use crate::bf16;
use crate::device::{Buffer, In, Out};
use crate::gemm::{Numbers, Precision};
use crate::memory::Memory;
use crate::multiversion;
use crate::simd::Level;

/// Memory of rows that products alone read.
#[derive(Clone, Debug)]
pub enum Rounded {
    /// In single precision.
    F32(Memory<f32>),
    /// Rounded to bf16.
    Bf16(Memory<u16>),
}

impl Rounded {
    /// `len` zeros for products in `precision`.
    pub fn zeroed(precision: Precision, len: usize) -> Self {
        match precision {
            Precision::F32 => Self::F32(Memory::zeroed(len)),
            Precision::Bf16 => Self::Bf16(Memory::zeroed(len)),
        }
    }

    /// The numbers, widened where they are rounded.
    pub fn to_f32(&self) -> Vec<f32> {
        match self {
            Self::F32(numbers) => numbers.to_vec(),
            Self::Bf16(numbers) => numbers.iter().map(|&x| f32::from_bits(u32::from(x) << 16)).collect(),
        }
    }
}

impl Buffer for Rounded {
    fn len(&self) -> usize {
        match self {
            Self::F32(numbers) => numbers.len(),
            Self::Bf16(numbers) => numbers.len(),
        }
    }
}

impl<'a> In<'a, Rounded> {
    pub(super) fn get(self) -> Numbers<'a> {
        match self.buffer {
            Rounded::F32(numbers) => Numbers::F32(&numbers[self.range]),
            Rounded::Bf16(numbers) => Numbers::Bf16(&numbers[self.range]),
        }
    }
}

/// [`Numbers`] to be written.
pub enum NumbersMut<'a> {
    F32(&'a mut [f32]),
    Bf16(&'a mut [u16]),
}

impl<'a> Out<'a, Rounded> {
    pub(super) fn get(self) -> NumbersMut<'a> {
        match self.buffer {
            Rounded::F32(numbers) => NumbersMut::F32(&mut numbers[self.range]),
            Rounded::Bf16(numbers) => NumbersMut::Bf16(&mut numbers[self.range]),
        }
    }
}

/// A number as products read it.
pub trait Number: Pod + Send + Sync {
    /// Has `fill` write a row in single precision, and rounds it to `row`.
    fn fill<R>(level: Level, row: &mut [Self], fill: impl FnOnce(&mut [f32]) -> R) -> R;
}

impl Number for f32 {
    fn fill<R>(_level: Level, row: &mut [f32], fill: impl FnOnce(&mut [f32]) -> R) -> R {
        fill(row)
    }
}

impl Number for u16 {
    fn fill<R>(level: Level, row: &mut [u16], fill: impl FnOnce(&mut [f32]) -> R) -> R {
        // The row in single precision stays in the nearest cache.
        borrow::<F32, R>(row.len(), |exact| {
            let result = fill(exact);
            round(level, row, exact);
            result
        })
    }
}

multiversion! {
    /// The bf16 nearest to each number.
    fn round(math, to: &mut [u16], from: &[f32]) {
        let ((to, last), (from, rest)) = (to.as_chunks_mut::<32>(), from.as_chunks::<32>());
        for (to, from) in to.iter_mut().zip(from) {
            // The even one of a pair lies in the low half, which `to_le` makes the first.
            *to = bytemuck::cast(math.pair_neighbours(from).map(u32::to_le));
        }
        for (to, &x) in last.iter_mut().zip(rest) {
            *to = (bf16::round(x) >> 16) as u16;
        }
    }
}
