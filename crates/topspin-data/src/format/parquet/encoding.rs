//! How Parquet writes numbers and texts. Decoders give one value at a time, so that a run of a million costs nothing.
//!
//! Source: <https://github.com/apache/parquet-format/blob/master/Encodings.md>. A decoder that runs out of bytes gives
//! `None`, and whoever asked says what that means.

use std::rc::Rc;
use std::vec;

use super::schema::Physical;
use super::thrift::{varint, zigzag};

/// Most values of a page, and of a dictionary: writers make pages of a megabyte or so.
pub const MAX_VALUES: usize = 1 << 24;

/// A stored value.
#[derive(Clone, Debug, PartialEq)]
pub enum Scalar {
    Bool(bool),
    Int(i64),
    Float(f64),
    Bytes(Vec<u8>),
}

/// Bytes that are read from the front.
#[derive(Clone)]
pub struct Input {
    bytes: Rc<[u8]>,
    at: usize,
    end: usize,
}

impl Input {
    /// All of `bytes`.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { end: bytes.len(), bytes: bytes.into(), at: 0 }
    }

    fn rest(&self) -> &[u8] {
        &self.bytes[self.at..self.end]
    }

    /// The next `len` bytes as an input of their own.
    pub fn split(&mut self, len: usize) -> Option<Self> {
        let end = self.at.checked_add(len).filter(|&end| end <= self.end)?;
        let part = Self { bytes: Rc::clone(&self.bytes), at: self.at, end };
        self.at = end;
        Some(part)
    }

    /// The next bytes, as many as the u32 before them says.
    pub fn split_counted(&mut self) -> Option<Self> {
        let len = u32::from_le_bytes(self.array()?);
        self.split(len.try_into().ok()?)
    }

    fn take(&mut self, len: usize) -> Option<&[u8]> {
        let from = self.at;
        let end = from.checked_add(len).filter(|&end| end <= self.end)?;
        self.at = end;
        Some(&self.bytes[from..end])
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    /// The next byte.
    pub fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn varint(&mut self) -> Option<u64> {
        let mut read = 0;
        let value = varint(self.rest(), &mut read)?;
        self.at += read;
        Some(value)
    }

    /// The `width` bits that begin at bit `from`, the lowest first; `width` is 64 at most.
    fn bits(&self, from: usize, width: usize) -> Option<u64> {
        let bytes = self.rest().get(from / 8..(from + width).div_ceil(8))?;
        let all = bytes.iter().rev().fold(0_u128, |bits, &byte| bits << 8 | u128::from(byte));
        Some(((all >> (from % 8)) & ((1_u128 << width) - 1)) as u64)
    }

    /// The next value in the plain encoding; of truths, which are bits there, see [`Values`].
    pub fn plain(&mut self, physical: Physical) -> Option<Scalar> {
        Some(match physical {
            Physical::Bool => return None,
            Physical::Int32 => Scalar::Int(i32::from_le_bytes(self.array()?).into()),
            Physical::Int64 => Scalar::Int(i64::from_le_bytes(self.array()?)),
            Physical::Int96 => Scalar::Bytes(self.take(12)?.into()),
            Physical::Float => Scalar::Float(f32::from_le_bytes(self.array()?).into()),
            Physical::Double => Scalar::Float(f64::from_le_bytes(self.array()?)),
            Physical::Bytes => {
                let len = u32::from_le_bytes(self.array()?);
                Scalar::Bytes(self.take(len.try_into().ok()?)?.into())
            }
            Physical::Fixed(len) => Scalar::Bytes(self.take(len)?.into()),
        })
    }
}

/// Small numbers of so many bits each: runs of one number, and packed groups of eight.
pub struct Hybrid {
    input: Input,
    width: usize,
    run: Run,
}

enum Run {
    Same { value: u64, left: u64 },
    Packed { bit: usize, left: u64, bytes: usize },
}

impl Hybrid {
    /// Numbers of `width` bits.
    pub fn new(input: Input, width: usize) -> Option<Self> {
        (width <= 32).then_some(Self { input, width, run: Run::Same { value: 0, left: 0 } })
    }

    /// Levels up to `highest`.
    pub fn of_levels(input: Input, highest: u16) -> Self {
        let width = (u16::BITS - highest.leading_zeros()) as usize;
        Self { input, width, run: Run::Same { value: 0, left: 0 } }
    }

    /// Begins the next run.
    fn begin(&mut self) -> Option<()> {
        let head = self.input.varint()?;
        let count = head >> 1;
        self.run = if head & 1 == 1 {
            // The last group may be cut where its padding would stand.
            let bytes = usize::try_from(count).ok()?.checked_mul(self.width)?.min(self.input.rest().len());
            Run::Packed { bit: 0, left: count.checked_mul(8)?, bytes }
        } else {
            let bytes = self.input.take(self.width.div_ceil(8))?;
            let value = bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte));
            Run::Same { value, left: count }
        };
        Some(())
    }
}

impl Iterator for Hybrid {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        loop {
            match &mut self.run {
                Run::Same { left: 0, .. } => self.begin()?,
                Run::Packed { left: 0, bytes, .. } => {
                    self.input.at += *bytes;
                    self.run = Run::Same { value: 0, left: 0 };
                }
                Run::Same { value, left } => {
                    *left -= 1;
                    return Some(*value);
                }
                Run::Packed { bit, left, .. } => {
                    let value = self.input.bits(*bit, self.width)?;
                    *bit += self.width;
                    *left -= 1;
                    return Some(value);
                }
            }
        }
    }
}

/// Whole numbers by their differences, up to `most` of them. What follows them stays in the input.
fn deltas(input: &mut Input, most: usize) -> Option<Vec<i64>> {
    let block = usize::try_from(input.varint()?).ok()?;
    let parts = usize::try_from(input.varint()?).ok()?;
    let total = usize::try_from(input.varint()?).ok().filter(|&total| total <= most)?;
    let mut last = zigzag(input.varint()?);
    let part = block.checked_div(parts).filter(|part| *part > 0 && part % 8 == 0)?;
    let mut values = Vec::new();
    if total > 0 {
        values.push(last);
    }
    while values.len() < total {
        let least = zigzag(input.varint()?);
        let widths = input.take(parts)?.to_vec();
        for width in widths.into_iter().map(usize::from) {
            if values.len() == total {
                // Parts behind the last value have a width and no bytes.
                break;
            }
            if width > 64 {
                return None;
            }
            let bits = input.split(part.checked_mul(width)? / 8)?;
            for at in 0..part.min(total - values.len()) {
                last = last.wrapping_add(least).wrapping_add(bits.bits(at * width, width)? as i64);
                values.push(last);
            }
        }
    }
    Some(values)
}

/// The values of a page.
pub enum Values {
    Plain(Physical, Input),
    /// A bit each.
    Bits(Input, usize),
    Runs(Hybrid),
    /// Places in a dictionary.
    Places(Rc<[Scalar]>, Hybrid),
    Ints(vec::IntoIter<i64>),
    /// Texts by their lengths and, where they have one, by how long a beginning they share with the one before.
    Texts {
        shared: Option<vec::IntoIter<i64>>,
        lengths: vec::IntoIter<i64>,
        input: Input,
        last: Vec<u8>,
    },
}

impl Values {
    /// The decoder for an encoding's number; `None` for one that is not known, or where what it begins with is damaged.
    pub fn new(encoding: i64, physical: Physical, dictionary: Option<&Rc<[Scalar]>>, mut input: Input) -> Option<Self> {
        let is_int = matches!(physical, Physical::Int32 | Physical::Int64);
        let is_bytes = matches!(physical, Physical::Bytes | Physical::Fixed(_));
        Some(match encoding {
            0 if physical == Physical::Bool => Self::Bits(input, 0),
            0 => Self::Plain(physical, input),
            2 | 8 => {
                let width = input.byte()?;
                Self::Places(Rc::clone(dictionary?), Hybrid::new(input, width.into())?)
            }
            3 if physical == Physical::Bool => Self::Runs(Hybrid::new(input.split_counted()?, 1)?),
            5 if is_int => {
                let mut ints = deltas(&mut input, MAX_VALUES)?;
                if physical == Physical::Int32 {
                    // Their differences wrap around at 32 bits.
                    ints.iter_mut().for_each(|int| *int = i64::from(*int as i32));
                }
                Self::Ints(ints.into_iter())
            }
            6 | 7 if is_bytes => {
                let shared = if encoding == 7 { Some(deltas(&mut input, MAX_VALUES)?.into_iter()) } else { None };
                let lengths = deltas(&mut input, MAX_VALUES)?.into_iter();
                Self::Texts { shared, lengths, input, last: Vec::new() }
            }
            _ => return None,
        })
    }
}

impl Iterator for Values {
    type Item = Scalar;

    fn next(&mut self) -> Option<Scalar> {
        match self {
            Self::Plain(physical, input) => input.plain(*physical),
            Self::Bits(input, at) => {
                *at += 1;
                input.bits(*at - 1, 1).map(|bit| Scalar::Bool(bit == 1))
            }
            Self::Runs(runs) => runs.next().map(|bit| Scalar::Bool(bit == 1)),
            Self::Places(dictionary, places) => dictionary.get(usize::try_from(places.next()?).ok()?).cloned(),
            Self::Ints(ints) => ints.next().map(Scalar::Int),
            Self::Texts { shared, lengths, input, last } => {
                let keep = match shared {
                    Some(shared) => usize::try_from(shared.next()?).ok().filter(|&keep| keep <= last.len())?,
                    None => 0,
                };
                last.truncate(keep);
                last.extend(input.take(lengths.next()?.try_into().ok()?)?);
                Some(Scalar::Bytes(last.clone()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn runs_and_groups_follow_each_other() {
        // Ten times 5, then 1 to 7 and 0 in three bits each, the lowest first, then twice 7.
        let bytes = vec![20, 5, 3, 0b1101_0001, 0b0101_1000, 0b0001_1111, 4, 7];
        let found: Vec<_> = Hybrid::new(Input::new(bytes), 3).unwrap().collect();
        assert_eq!(found, [&[5; 10][..], &[1, 2, 3, 4, 5, 6, 7, 0], &[7, 7]].concat());
    }

    #[test]
    fn a_count_of_differences_is_only_a_claim() {
        // Blocks of 128 in 4 parts, 2^40 values, the first 0; each block has the least difference 0 and no bits.
        let head = [128, 1, 4, 0x80, 0x80, 0x80, 0x80, 0x80, 0x20, 0];
        let bytes = [&head[..], &[0; 5000]].concat();
        assert!(deltas(&mut Input::new(bytes.clone()), MAX_VALUES).is_none());
        let few = [&[128, 1, 4, 200, 1, 0][..], &[0; 10]].concat();
        assert_eq!(deltas(&mut Input::new(few), MAX_VALUES).unwrap(), [0; 200]);
    }

    proptest! {
        /// Any bytes give values or none, a run of any claimed length one at a time.
        #[test]
        fn no_bytes_do_harm(bytes in prop::collection::vec(any::<u8>(), 0..100), width in 0usize..40) {
            if let Some(numbers) = Hybrid::new(Input::new(bytes.clone()), width) {
                numbers.take(1000).for_each(drop);
            }
            let dictionary: Rc<[Scalar]> = [Scalar::Int(1), Scalar::Bytes(vec![2])].into();
            let physical = [
                Physical::Bool,
                Physical::Int32,
                Physical::Int64,
                Physical::Int96,
                Physical::Double,
                Physical::Bytes,
                Physical::Fixed(3),
            ];
            for (encoding, physical) in (0..10).flat_map(|encoding| physical.map(|physical| (encoding, physical))) {
                let input = Input::new(bytes.clone());
                if let Some(values) = Values::new(encoding, physical, Some(&dictionary), input) {
                    values.take(1000).for_each(drop);
                }
            }
        }
    }
}
