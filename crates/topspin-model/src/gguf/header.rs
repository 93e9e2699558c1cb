//! The part of a GGUF file before the weights: magic, version, metadata, tensor table.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use topspin_files::{Action, FileError};

use super::{GgmlType, Gguf, TensorInfo, keys};
use crate::error::ModelError;

/// A metadata value. Numbers are widened to one integer and one floating type.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Any of the integer types.
    Int(i64),
    /// Either floating type.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// UTF-8 text.
    String(String),
    /// An array of integers.
    Ints(Vec<i64>),
    /// An array of floating numbers.
    Floats(Vec<f64>),
    /// An array of truth values.
    Bools(Vec<bool>),
    /// An array of strings.
    Strings(Vec<String>),
}

/// Tensors begin at multiples of this, in files that do not say.
pub(super) const ALIGNMENT: u64 = 32;

pub(super) const MAGIC: [u8; 4] = *b"GGUF";
const MAX_DIMENSIONS: u32 = 4;

/// Most bytes of metadata and tensor table. A vocabulary of 256,000 tokens takes 10 MB; a count that a damaged file makes
/// too large must not turn gigabytes of weights into lists.
const MAX_HEADER: u64 = 128 << 20;

impl Gguf {
    /// Reads the header from `input`, of which there are `len` bytes. `path` is only named in errors.
    pub(crate) fn parse(path: &Path, input: &mut impl Read, len: u64) -> Result<Self, ModelError> {
        let mut reader = Reader { path, input, at: 0, len };
        if len < 4 || reader.bytes::<4>("the magic number")? != MAGIC {
            return Err(ModelError::weights(path, "it is not a GGUF file; check that it is the right one"));
        }
        match reader.u32("the version")? {
            2 | 3 => {}
            1 => {
                let problem =
                    "it is GGUF version 1, which is no longer in use; convert the model again with a current llama.cpp";
                return Err(ModelError::weights(path, problem));
            }
            big if big.swap_bytes() <= 3 => {
                let problem = "its numbers are big-endian; convert the model again for little-endian machines";
                return Err(ModelError::weights(path, problem));
            }
            version => {
                let problem = format!("it is GGUF version {version}; versions 2 and 3 are supported");
                return Err(ModelError::weights(path, problem));
            }
        }
        let tensor_count = reader.u64("the number of tensors")?;
        let key_count = reader.u64("the number of keys")?;
        let mut metadata = BTreeMap::new();
        for _ in 0..key_count {
            let key = reader.string("a key")?;
            let value = reader.value(&key)?;
            if metadata.insert(key.clone(), value).is_some() {
                return Err(ModelError::config(path, key, "stands twice"));
            }
        }
        let mut tensors = BTreeMap::new();
        for _ in 0..tensor_count {
            let (name, tensor) = reader.tensor()?;
            if tensors.insert(name.clone(), tensor).is_some() {
                return Err(ModelError::tensor(path, name, "stands twice"));
            }
        }
        let end_of_header = reader.at;
        let mut gguf = Self { path: path.into(), metadata, tensors };
        gguf.place_tensors(end_of_header, len)?;
        Ok(gguf)
    }

    /// Turns offsets from the start of the weights into offsets from the start of the file, and checks that the extents
    /// are aligned, apart from each other and within the file.
    fn place_tensors(&mut self, end_of_header: u64, len: u64) -> Result<(), ModelError> {
        let alignment = self.count(keys::ALIGNMENT)?.unwrap_or(ALIGNMENT as usize) as u64;
        if !alignment.is_power_of_two() || alignment > 1 << 20 {
            let problem = format!("is {alignment}; it must be a power of two of at most 2^20");
            return Err(ModelError::config(&self.path, keys::ALIGNMENT, problem));
        }
        let data = end_of_header.next_multiple_of(alignment);
        let mut extents = Vec::with_capacity(self.tensors.len());
        for (name, tensor) in &mut self.tensors {
            let size = tensor.size();
            let end = data.checked_add(tensor.offset).and_then(|start| start.checked_add(size));
            if end.is_none_or(|end| end > len) {
                let problem =
                    format!("reaches beyond the end of the file at {len} bytes; the file is truncated, fetch it again");
                return Err(ModelError::tensor(&self.path, name, problem));
            }
            if !tensor.offset.is_multiple_of(alignment) {
                let problem = format!(
                    "begins at the offset {}, which is no multiple of {alignment}; the file is damaged, fetch it again",
                    tensor.offset
                );
                return Err(ModelError::tensor(&self.path, name, problem));
            }
            tensor.offset += data;
            if size > 0 {
                extents.push((tensor.offset, tensor.offset + size, name.as_str()));
            }
        }
        extents.sort_unstable();
        for pair in extents.windows(2) {
            let ((_, end, first), (start, _, second)) = (pair[0], pair[1]);
            if start < end {
                let problem = format!("overlaps tensor `{first}`; the file is damaged, fetch it again");
                return Err(ModelError::tensor(&self.path, second, problem));
            }
        }
        Ok(())
    }
}

/// A reader that knows how many bytes are left, so that no length is believed before it is checked.
struct Reader<'a, R> {
    path: &'a Path,
    input: &'a mut R,
    at: u64,
    len: u64,
}

impl<R: Read> Reader<'_, R> {
    /// Counts `n` bytes as read, if there are so many.
    fn take(&mut self, n: u64, what: &str) -> Result<(), ModelError> {
        if n > self.len - self.at {
            let problem = format!(
                "{what} at byte {} reaches beyond the end of the file at {} bytes; the file is truncated or \
                 damaged, fetch it again",
                self.at, self.len
            );
            return Err(ModelError::weights(self.path, problem));
        }
        self.at += n;
        if self.at > MAX_HEADER {
            let problem = format!(
                "{what} ends at byte {}, and no header is longer than {} MiB; the file is damaged, fetch it again",
                self.at,
                MAX_HEADER >> 20
            );
            return Err(ModelError::weights(self.path, problem));
        }
        Ok(())
    }

    fn fill(&mut self, out: &mut [u8]) -> Result<(), ModelError> {
        self.input.read_exact(out).map_err(|e| FileError::new(Action::Read, self.path, e).into())
    }

    fn bytes<const N: usize>(&mut self, what: &str) -> Result<[u8; N], ModelError> {
        self.take(N as u64, what)?;
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn u32(&mut self, what: &str) -> Result<u32, ModelError> {
        Ok(u32::from_le_bytes(self.bytes(what)?))
    }

    fn u64(&mut self, what: &str) -> Result<u64, ModelError> {
        Ok(u64::from_le_bytes(self.bytes(what)?))
    }

    fn string(&mut self, what: &str) -> Result<String, ModelError> {
        let at = self.at;
        let n = self.u64(what)?;
        self.take(n, what)?;
        let mut bytes = vec![0; n as usize];
        self.fill(&mut bytes)?;
        String::from_utf8(bytes).map_err(|_| {
            let problem = format!("{what} at byte {at} is not UTF-8; the file is damaged, fetch it again");
            ModelError::weights(self.path, problem)
        })
    }

    fn value(&mut self, key: &str) -> Result<Value, ModelError> {
        let what = format!("the value of `{key}`");
        let what = what.as_str();
        let kind = self.u32(what)?;
        Ok(match kind {
            STRING => Value::String(self.string(what)?),
            ARRAY => self.array(key, what)?,
            BOOL => Value::Bool(self.bool(key, what)?),
            F32 | F64 => Value::Float(self.float(kind, what)?),
            _ => Value::Int(self.int(kind, key, what)?),
        })
    }

    fn array(&mut self, key: &str, what: &str) -> Result<Value, ModelError> {
        let kind = self.u32(what)?;
        let n = self.u64(what)?;
        // Grown as elements arrive, so that a count without elements behind it takes no memory.
        let mut range = 0..n;
        Ok(match kind {
            STRING => Value::Strings(range.try_fold(Vec::new(), |list, _| push(list, self.string(what)))?),
            BOOL => Value::Bools(range.try_fold(Vec::new(), |list, _| push(list, self.bool(key, what)))?),
            F32 | F64 => Value::Floats(range.try_fold(Vec::new(), |list, _| push(list, self.float(kind, what)))?),
            ARRAY => return Err(ModelError::config(self.path, key, "is an array of arrays, which is not supported")),
            _ => Value::Ints(range.try_fold(Vec::new(), |list, _| push(list, self.int(kind, key, what)))?),
        })
    }

    fn bool(&mut self, key: &str, what: &str) -> Result<bool, ModelError> {
        match self.bytes(what)? {
            [0] => Ok(false),
            [1] => Ok(true),
            [other] => Err(ModelError::config(self.path, key, format!("is {other} where 0 or 1 should be"))),
        }
    }

    fn float(&mut self, kind: u32, what: &str) -> Result<f64, ModelError> {
        Ok(if kind == F32 {
            f32::from_le_bytes(self.bytes(what)?).into()
        } else {
            f64::from_le_bytes(self.bytes(what)?)
        })
    }

    fn int(&mut self, kind: u32, key: &str, what: &str) -> Result<i64, ModelError> {
        Ok(match kind {
            0 => u8::from_le_bytes(self.bytes(what)?).into(),
            1 => i8::from_le_bytes(self.bytes(what)?).into(),
            2 => u16::from_le_bytes(self.bytes(what)?).into(),
            3 => i16::from_le_bytes(self.bytes(what)?).into(),
            U32 => u32::from_le_bytes(self.bytes(what)?).into(),
            I32 => i32::from_le_bytes(self.bytes(what)?).into(),
            10 => {
                let value = u64::from_le_bytes(self.bytes(what)?);
                let problem = || format!("is {value}, which is too large");
                i64::try_from(value).map_err(|_| ModelError::config(self.path, key, problem()))?
            }
            I64 => i64::from_le_bytes(self.bytes(what)?),
            _ => {
                let problem = format!("is of the unknown type {kind}; the file is damaged or newer than this program");
                return Err(ModelError::config(self.path, key, problem));
            }
        })
    }

    /// One row of the tensor table; its offset still counts from the start of the weights.
    fn tensor(&mut self) -> Result<(String, TensorInfo), ModelError> {
        let what = "the table of tensors";
        let name = self.string(what)?;
        let fail = |problem: String| Err(ModelError::tensor(self.path, &name, problem));
        let dimensions = self.u32(what)?;
        if dimensions > MAX_DIMENSIONS {
            return fail(format!("has {dimensions} dimensions; at most {MAX_DIMENSIONS} are possible"));
        }
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            shape.insert(0, usize::try_from(self.u64(what)?).unwrap_or(usize::MAX));
        }
        let number = self.u32(what)?;
        let offset = self.u64(what)?;
        let kind = match GgmlType::from_number(number) {
            Ok(kind) => kind,
            Err(found) => {
                return fail(format!(
                    "is stored as {found}, which is not supported; choose a file in F32, F16, BF16, Q4_0 to Q8_0 or \
                     Q2_K to Q6_K"
                ));
            }
        };
        let elements = shape.iter().try_fold(1_usize, |n, &size| n.checked_mul(size));
        // The encoded form takes at most 4 bytes an element: then no byte count can overflow either.
        if elements.is_none_or(|n| n > usize::MAX / 4) {
            return fail(format!("has the impossible shape {shape:?}; the file is damaged, fetch it again"));
        }
        let row = shape.last().copied().unwrap_or(1);
        if !row.is_multiple_of(kind.block().0) {
            return fail(format!("has rows of {row} elements, which blocks of {} do not divide", kind.block().0));
        }
        Ok((name, TensorInfo { kind, shape, offset }))
    }
}

/// Kinds of values.
pub(super) const U32: u32 = 4;
pub(super) const I32: u32 = 5;
pub(super) const F32: u32 = 6;
pub(super) const BOOL: u32 = 7;
pub(super) const STRING: u32 = 8;
pub(super) const ARRAY: u32 = 9;
pub(super) const I64: u32 = 11;
const F64: u32 = 12;

fn push<T>(mut list: Vec<T>, item: Result<T, ModelError>) -> Result<Vec<T>, ModelError> {
    list.push(item?);
    Ok(list)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::super::testing::Writer;
    use super::*;

    fn parse(bytes: &[u8]) -> Result<Gguf, ModelError> {
        Gguf::parse(Path::new("m.gguf"), &mut &*bytes, bytes.len() as u64)
    }

    /// A small file with every kind of value and of tensor.
    fn small() -> Vec<u8> {
        Writer::new()
            .value("general.architecture", Value::String("llama".into()))
            .value("a.int", Value::Int(-7))
            .value("a.float", Value::Float(0.25))
            .value("a.bool", Value::Bool(true))
            .value("a.ints", Value::Ints(vec![1, -2]))
            .value("a.floats", Value::Floats(vec![0.5]))
            .value("a.bools", Value::Bools(vec![true, false]))
            .value("a.strings", Value::Strings(vec!["x".into(), "".into()]))
            .tensor("vector", GgmlType::F32, &[3], &[1.0, -2.0, 0.5])
            .tensor("matrix", GgmlType::Q8_0, &[2, 32], &(0..64).map(|i| i as f32).collect::<Vec<_>>())
            .finish()
    }

    #[test]
    fn reads_values_and_tensors() {
        let bytes = small();
        let gguf = parse(&bytes).unwrap();
        assert_eq!(gguf.value("a.int"), Some(&Value::Int(-7)));
        assert_eq!(gguf.value("a.float"), Some(&Value::Float(0.25)));
        assert_eq!(gguf.value("a.bools"), Some(&Value::Bools(vec![true, false])));
        assert_eq!(gguf.value("a.strings"), Some(&Value::Strings(vec!["x".into(), "".into()])));
        assert_eq!(gguf.metadata().count(), 8);
        assert_eq!(gguf.tensor("matrix").unwrap().shape, [2, 32]);

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.gguf");
        fs::write(&path, &bytes).unwrap();
        let gguf = Gguf::open(&path).unwrap();
        let mut out = [0.0; 3];
        gguf.read_f32("vector", &mut out).unwrap();
        assert_eq!(out, [1.0, -2.0, 0.5]);
        let missing = gguf.read_f32("nothing", &mut out).unwrap_err().to_string();
        assert_eq!(missing, format!("tensor `nothing` in `{}` is missing", path.display()));
    }

    #[test]
    fn names_what_is_wrong() {
        let error = |bytes: &[u8]| parse(bytes).unwrap_err().to_string();
        let foreign = "cannot use the weights in `m.gguf`: it is not a GGUF file; check that it is the right one";
        assert_eq!(error(b"PK\x03\x04 and so on"), foreign);
        assert_eq!(error(b""), foreign);
        let with_version = |version: u32| [&MAGIC[..], &version.to_le_bytes(), &[0; 16]].concat();
        assert!(error(&with_version(1)).contains("GGUF version 1"));
        assert!(error(&with_version(4)).contains("GGUF version 4; versions 2 and 3 are supported"));
        assert!(error(&with_version(3_u32.swap_bytes())).contains("big-endian"));
        // A count without anything behind it.
        let many = [&MAGIC[..], &3_u32.to_le_bytes(), &u64::MAX.to_le_bytes(), &u64::MAX.to_le_bytes()].concat();
        assert_eq!(
            error(&many),
            "cannot use the weights in `m.gguf`: a key at byte 24 reaches beyond the end of the file at 24 bytes; \
             the file is truncated or damaged, fetch it again"
        );
        let bytes = small();
        let cut = error(&bytes[..bytes.len() - 1]);
        let len = bytes.len() - 1;
        assert_eq!(
            cut,
            format!(
                "tensor `matrix` in `m.gguf` reaches beyond the end of the file at {len} bytes; the file is \
                 truncated, fetch it again"
            )
        );
        let odd = Writer::new().raw_tensor("w", 23, &[256], 0).finish();
        assert_eq!(
            error(&odd),
            "tensor `w` in `m.gguf` is stored as IQ4_XS, which is not supported; choose a file in F32, F16, BF16, \
             Q4_0 to Q8_0 or Q2_K to Q6_K"
        );
        let huge = Writer::new().raw_tensor("w", 0, &[u64::MAX, 2], 0).finish();
        assert!(error(&huge).contains("impossible shape"));
        let twice = Writer::new().raw_tensor("w", 0, &[0], 0).raw_tensor("w", 0, &[0], 0).finish();
        assert_eq!(error(&twice), "tensor `w` in `m.gguf` stands twice");
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_error_or_a_file(
            mut bytes in prop::collection::vec(any::<u8>(), 0..400), header in any::<bool>(),
        ) {
            if header && bytes.len() > 8 {
                bytes[..4].copy_from_slice(&MAGIC);
                bytes[4..8].copy_from_slice(&3_u32.to_le_bytes());
            }
            let _ = parse(&bytes);
        }

        #[test]
        fn a_truncated_file_is_an_error(keep in 0.0_f64..1.0) {
            let bytes = small();
            let cut = &bytes[..(keep * bytes.len() as f64) as usize];
            prop_assert!(parse(cut).is_err());
        }

        #[test]
        fn a_flipped_bit_never_panics(at in any::<prop::sample::Index>(), bit in 0_u8..8) {
            let mut bytes = small();
            let at = at.index(bytes.len());
            bytes[at] ^= 1_u8 << bit;
            // What parses must also be readable: the extents were checked.
            if let Ok(gguf) = parse(&bytes) {
                let dir = tempfile::tempdir().unwrap();
                let path = dir.path().join("m.gguf");
                fs::write(&path, &bytes).unwrap();
                let opened = Gguf::open(&path).unwrap();
                for (name, tensor) in gguf.tensors() {
                    let mut out = vec![0.0; tensor.elements()];
                    opened.read_f32(name, &mut out).unwrap();
                }
            }
        }
    }
}
