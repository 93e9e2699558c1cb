//! GGUF: one file that holds a model's settings, tokenizer, chat template and, often quantised, weights.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>, versions 2 and 3, little-endian. A file is
//! untrusted input: every count and length is checked against the bytes that are there before memory is taken for it.

mod encode;
mod families;
mod header;
mod keys;
mod rotary;
mod settings;
mod tensors;
mod tokenizer;
mod write;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use topspin_files::{Action, FileError};
use topspin_kernels::simd::Level;
pub use topspin_kernels::stored::GgmlType;
use topspin_kernels::stored::StoredRows;

use crate::error::ModelError;
pub use encode::SaveType;
pub use header::Value;
pub(crate) use tokenizer::read_dialect;
pub use write::GgufDraft;

/// Bytes read at a time: whole blocks, and little beside the weights themselves.
const CHUNK_BLOCKS: usize = 4096;

/// An opened GGUF file: its metadata and its table of tensors. The weights are read on request.
#[derive(Clone, Debug)]
pub struct Gguf {
    path: PathBuf,
    metadata: BTreeMap<String, Value>,
    tensors: BTreeMap<String, TensorInfo>,
}

/// Where and how one tensor is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// How its elements are encoded.
    pub kind: GgmlType,
    /// Row-major shape: the reverse of the order in the file, which puts the fastest dimension first.
    pub shape: Vec<usize>,
    /// First byte, from the start of the file; of a file to be written, from the start of its weights.
    offset: u64,
}

impl TensorInfo {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        // Checked not to overflow when the table was read.
        self.shape.iter().product()
    }

    /// Number of bytes that hold them.
    fn size(&self) -> u64 {
        let (elements, bytes) = self.kind.block();
        (self.elements() / elements) as u64 * bytes as u64
    }
}

impl Gguf {
    /// Reads the metadata and the tensor table, and checks that the file holds all the tensors' bytes.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let mut file = topspin_files::open(path)?;
        let len = file.get_ref().metadata().map_err(|e| FileError::new(Action::Read, path, e))?.len();
        Self::parse(path, &mut file, len)
    }

    /// The metadata value of that key.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.metadata.get(key)
    }

    /// All metadata, in order of key.
    pub fn metadata(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.metadata.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name)
    }

    /// All tensors, in order of name.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &TensorInfo)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// Decodes a tensor into `out`, row-major as [`TensorInfo::shape`] says.
    ///
    /// # Panics
    /// If `out` is not of the tensor's size.
    pub fn read_f32(&self, name: &str, out: &mut [f32]) -> Result<(), ModelError> {
        let (tensor, mut file) = self.open_tensor(name)?;
        assert_eq!(out.len(), tensor.elements(), "elements of `{name}`");
        let (elements, bytes) = tensor.kind.block();
        let mut buffer = vec![0; CHUNK_BLOCKS * bytes];
        for part in out.chunks_mut(CHUNK_BLOCKS * elements) {
            let encoded = &mut buffer[..tensor.kind.bytes(part.len())];
            file.read_exact(encoded).map_err(|e| self.unread(e))?;
            tensor.kind.decode(Level::detect(), encoded, part);
        }
        Ok(())
    }

    /// Reads a tensor as it is.
    fn read_rows(&self, name: &str) -> Result<StoredRows, ModelError> {
        let (tensor, mut file) = self.open_tensor(name)?;
        let mut bytes = vec![0; tensor.kind.bytes(tensor.elements())];
        file.read_exact(&mut bytes).map_err(|e| self.unread(e))?;
        Ok(StoredRows { kind: tensor.kind, bytes })
    }

    /// A tensor, and the file from its first byte on.
    fn open_tensor(&self, name: &str) -> Result<(&TensorInfo, impl Read + use<>), ModelError> {
        let tensor = self.tensor(name).ok_or_else(|| ModelError::tensor(&self.path, name, "is missing"))?;
        let mut file = topspin_files::open(&self.path)?;
        file.seek(SeekFrom::Start(tensor.offset)).map_err(|e| self.unread(e))?;
        Ok((tensor, file))
    }

    fn unread(&self, error: std::io::Error) -> ModelError {
        FileError::new(Action::Read, &self.path, error).into()
    }

    /// The value of a key that must be text.
    fn text(&self, key: &str) -> Result<Option<&str>, ModelError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(ModelError::config(&self.path, key, "is not a string")),
        }
    }

    /// The value of a key that must be there and be a list of strings.
    fn strings(&self, key: &str) -> Result<&[String], ModelError> {
        match self.value(key) {
            Some(Value::Strings(list)) => Ok(list),
            Some(_) => Err(ModelError::config(&self.path, key, "is not a list of strings")),
            None => Err(ModelError::config(&self.path, key, "is missing")),
        }
    }

    /// The value of a key that must be a whole number, not negative.
    fn count(&self, key: &str) -> Result<Option<usize>, ModelError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Int(n)) if let Ok(n) = usize::try_from(*n) => Ok(Some(n)),
            Some(_) => Err(ModelError::config(&self.path, key, "is not a whole number")),
        }
    }

    /// The value of a key that must be a token id.
    fn token_id(&self, key: &str) -> Result<Option<u32>, ModelError> {
        match self.count(key)?.map(u32::try_from) {
            None => Ok(None),
            Some(Ok(id)) => Ok(Some(id)),
            Some(Err(_)) => Err(ModelError::config(&self.path, key, "is too large for a token id")),
        }
    }

    /// The value of a key that must be a number.
    fn float(&self, key: &str) -> Result<Option<f64>, ModelError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Float(x)) => Ok(Some(*x)),
            Some(Value::Int(n)) => Ok(Some(*n as f64)),
            Some(_) => Err(ModelError::config(&self.path, key, "is not a number")),
        }
    }

    /// The value of a key that must be true or false.
    fn bool(&self, key: &str) -> Result<Option<bool>, ModelError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(_) => Err(ModelError::config(&self.path, key, "is not true or false")),
        }
    }
}
