//! Memory that begins at a line of the cache.
//!
//! What `Vec` gets from the system begins 16 bytes behind one, so that each vector of 16 numbers would lie across two
//! lines, and cost two reads of the cache.

use std::fmt::{self, Debug};
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use bytemuck::{Pod, Zeroable};

/// A line of the cache.
#[derive(Clone, Copy, Zeroable, Pod)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Numbers whose first begins a line of the cache.
#[derive(Clone)]
pub struct Memory<T> {
    lines: Vec<Line>,
    len: usize,
    numbers: PhantomData<T>,
}

impl<T: Pod> Memory<T> {
    /// `len` zeros.
    pub fn zeroed(len: usize) -> Self {
        let lines = bytemuck::zeroed_vec((len * size_of::<T>()).div_ceil(size_of::<Line>()));
        Self { lines, len, numbers: PhantomData }
    }

    /// The first `len` numbers, whatever they are, in larger memory if there are fewer.
    pub fn grown(&mut self, len: usize) -> &mut [T] {
        if self.len < len {
            *self = Self::zeroed(len);
        }
        &mut self[..len]
    }
}

impl<T> Default for Memory<T> {
    fn default() -> Self {
        Self { lines: Vec::new(), len: 0, numbers: PhantomData }
    }
}

impl<T: Pod> Deref for Memory<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &bytemuck::cast_slice(&self.lines)[..self.len]
    }
}

impl<T: Pod> DerefMut for Memory<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.len]
    }
}

/// A copy.
impl<T: Pod> From<&[T]> for Memory<T> {
    fn from(numbers: &[T]) -> Self {
        let mut memory = Self::zeroed(numbers.len());
        memory.copy_from_slice(numbers);
        memory
    }
}

/// A copy.
impl<T: Pod> From<Vec<T>> for Memory<T> {
    fn from(numbers: Vec<T>) -> Self {
        Self::from(&numbers[..])
    }
}

impl<T: Pod + PartialEq> PartialEq for Memory<T> {
    fn eq(&self, other: &Self) -> bool {
        self[..] == other[..]
    }
}

impl<T: Pod + Debug> Debug for Memory<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self[..].fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_begin_a_line() {
        for len in [0, 1, 15, 16, 17, 1000] {
            let numbers: Vec<u16> = (0..len).collect();
            let mut memory = Memory::from(numbers.clone());
            assert_eq!(memory[..], numbers);
            assert_eq!(memory.as_ptr().align_offset(64), 0);
            assert_eq!(memory.grown(len as usize / 2), &numbers[..len as usize / 2]);
            assert_eq!(memory.grown(2000).len(), 2000);
            assert_eq!(memory.as_ptr().align_offset(64), 0);
        }
    }
}
