//! The table of a flat arena: which tensor lies where.
//!
//! Parameters, gradients and each optimizer moment are one contiguous buffer apiece, all described by the same
//! [`Layout`], so that clipping, stepping, checksums and checkpoints are one loop each.

use std::collections::HashMap;
use std::ops::Range;

/// One tensor of an arena.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The tensor's name as Hugging Face checkpoints spell it.
    pub name: String,
    /// First element in the arena.
    pub offset: usize,
    /// Row-major shape.
    pub shape: Vec<usize>,
}

impl Entry {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether the tensor has no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Elements of the arena that belong to the tensor.
    pub fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.len()
    }
}

/// Names, offsets and shapes of the tensors of one arena, without gaps and in order of offset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    entries: Vec<Entry>,
    by_name: HashMap<String, usize>,
    len: usize,
}

impl Layout {
    /// An empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a tensor directly behind the last one and returns its place.
    ///
    /// # Panics
    /// If the name is taken: layouts are written by code, so this is a fault of the program.
    pub fn push(&mut self, name: impl Into<String>, shape: &[usize]) -> Range<usize> {
        let name = name.into();
        let entry = Entry { name: name.clone(), offset: self.len, shape: shape.to_vec() };
        let range = entry.range();
        assert!(self.by_name.insert(name, self.entries.len()).is_none(), "tensor `{}` stands twice", entry.name);
        self.len = range.end;
        self.entries.push(entry);
        range
    }

    /// All tensors, in order of offset.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The tensor of that name.
    pub fn get(&self, name: &str) -> Option<&Entry> {
        self.by_name.get(name).map(|&at| &self.entries[at])
    }

    /// Number of elements of the arena.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the arena holds no tensor.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}
