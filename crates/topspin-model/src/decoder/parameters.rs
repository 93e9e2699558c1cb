//! Parameters in the forms that a decoder takes them in.

use topspin_kernels::arena::{Entry, Layout};
use topspin_kernels::memory::Memory;
use topspin_kernels::stored::{Stored, StoredRows};

use crate::config::DecoderConfig;

/// Parameters of a decoder.
pub enum Parameters {
    /// All in single precision, an arena of [`DecoderConfig::layout`]: they can be trained.
    Arena(Memory<f32>),
    /// Matrices as their file stores them, which never change. Results are those of the arena that the file is decoded to, to
    /// the bit.
    Frozen {
        /// Those of [`DecoderConfig::matrices`].
        matrices: Vec<Stored>,
        /// Norms and biases, an arena of [`DecoderConfig::vectors`].
        vectors: Memory<f32>,
    },
}

impl From<Memory<f32>> for Parameters {
    fn from(arena: Memory<f32>) -> Self {
        Self::Arena(arena)
    }
}

/// A copy.
impl From<Vec<f32>> for Parameters {
    fn from(arena: Vec<f32>) -> Self {
        Self::Arena(arena.into())
    }
}

/// A copy.
impl From<&[f32]> for Parameters {
    fn from(arena: &[f32]) -> Self {
        Self::Arena(arena.into())
    }
}

impl Parameters {
    /// Matrices as they are stored, from what reads the rows of a matrix and what decodes a vector.
    pub(crate) fn read_frozen<E>(
        config: &DecoderConfig,
        read_rows: impl Fn(&Entry) -> Result<StoredRows, E>,
        decode: impl Fn(&Entry, &mut [f32]) -> Result<(), E>,
    ) -> Result<Self, E> {
        let layout = config.layout();
        let read_matrix = |tensors: Vec<String>| {
            let entries =
                tensors.iter().map(|name| layout.get(name).expect("a matrix is made of tensors of the layout"));
            let entries: Vec<&Entry> = entries.collect();
            let parts = entries.iter().map(|entry| read_rows(entry)).collect::<Result<_, E>>()?;
            Ok(Stored::new(entries[0].shape[1], parts))
        };
        let matrices = config.matrices().into_iter().map(read_matrix).collect::<Result<_, E>>()?;
        let layout: Layout = config.vectors();
        let mut vectors = Memory::zeroed(layout.len());
        layout.entries().iter().try_for_each(|entry| decode(entry, &mut vectors[entry.range()]))?;
        Ok(Self::Frozen { matrices, vectors })
    }
}
