//! Writing a model as a GGUF file, version 3.
//!
//! What the file will say is put together first, as the [`Gguf`] that a reader would see, and read back: so whatever the
//! format has no place for is found before a byte is written. Then the weights go by tensor after tensor.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use topspin_kernels::arena::{Entry, Layout};

use super::SaveType;
use super::header::{ALIGNMENT, ARRAY, BOOL, F32, I32, I64, MAGIC, STRING, U32};
use super::rotary::Divisors;
use super::{CHUNK_BLOCKS, GgmlType, Gguf, TensorInfo, Value, settings, tensors, tokenizer};
use crate::config::DecoderConfig;
use crate::dialect::Dialect;
use crate::error::ModelError;

/// A model as a GGUF file will hold it: all but the weights.
#[derive(Debug)]
pub struct GgufDraft {
    /// What is exported, for errors.
    source: PathBuf,
    /// In the terms of the file.
    config: DecoderConfig,
    gguf: Gguf,
    save_type: SaveType,
    /// Tensors that no parameters are, behind those that are.
    divisors: Divisors,
}

impl GgufDraft {
    /// What a file will say of the model, and an error if that would be another model. `source` is only named in errors.
    pub fn new(
        source: &Path,
        config: &DecoderConfig,
        dialect: &Dialect,
        save_type: SaveType,
    ) -> Result<Self, ModelError> {
        let fail = |problem: String| ModelError::Export { path: source.into(), problem };
        let config = settings::in_terms_of_files(config);
        let (mut metadata, divisors) = settings::describe(&config).map_err(fail)?;
        metadata.extend(tokenizer::describe(dialect, config.vocab_size).map_err(fail)?);
        metadata.insert("general.type".into(), Value::String("model".into()));
        metadata.insert("general.file_type".into(), Value::Int(save_type.file_type()));
        if save_type == SaveType::Q8_0 {
            // That of the encoding of blocks.
            metadata.insert("general.quantization_version".into(), Value::Int(2));
        }
        let entries = config.layout().entries().to_vec();
        let parameters = entries.into_iter().map(|entry| {
            let kind = tensor_type(&entry, save_type).kind();
            (tensors::gguf_name(&entry.name, config.norm_position), kind, entry.shape)
        });
        let others = divisors.iter().map(|(name, list)| ((*name).into(), GgmlType::F32, vec![list.len()]));
        let gguf = Gguf::draft(source, metadata, parameters.chain(others));
        settings::check(&gguf, &config).map_err(fail)?;
        tokenizer::check(&gguf, dialect).map_err(fail)?;
        Ok(Self { source: source.into(), config, gguf, save_type, divisors })
    }

    /// Matrices that are stored as F16, because the file's type has blocks that do not divide their rows.
    pub fn kept_as_f16(&self) -> usize {
        let is_f16 = |(_, tensor): &(&str, &TensorInfo)| tensor.kind == GgmlType::F16;
        if self.save_type == SaveType::F16 { 0 } else { self.gguf.tensors().filter(is_f16).count() }
    }

    /// Writes the file, whole or not at all, with the parameters of the configuration's arena.
    ///
    /// # Panics
    /// If `parameters` is not the arena of the configuration.
    pub fn write(&self, path: &Path, parameters: &[f32]) -> Result<(), ModelError> {
        let layout = self.config.layout();
        assert_eq!(parameters.len(), layout.len(), "elements of the parameter arena");
        self.check_range(&layout, parameters)?;
        topspin_files::write_atomic(path, |out| {
            self.gguf.write_header(out)?;
            for entry in layout.entries() {
                let mut tensor = TensorWriter::new(out, tensor_type(entry, self.save_type));
                let values = &parameters[entry.range()];
                tensors::in_order_of_files(entry, &self.config, values, |part| tensor.write(part))?;
                tensor.finish()?;
            }
            for (_, divisors) in &self.divisors {
                let mut tensor = TensorWriter::new(out, SaveType::F32);
                tensor.write(&divisors.iter().map(|&x| x as f32).collect::<Vec<_>>())?;
                tensor.finish()?;
            }
            Ok(())
        })?;
        Ok(())
    }

    /// Checks that no number becomes infinite in the file.
    fn check_range(&self, layout: &Layout, parameters: &[f32]) -> Result<(), ModelError> {
        for entry in layout.entries() {
            let kind = tensor_type(entry, self.save_type);
            if let Some(x) = parameters[entry.range()].iter().find(|x| x.is_finite() && x.abs() > kind.largest()) {
                let problem = format!("has the element {x}, which {kind:?} cannot hold; choose bf16 or f32");
                return Err(ModelError::tensor(&self.source, &entry.name, problem));
            }
        }
        Ok(())
    }
}

/// The type that a tensor gets in a file of `save_type`: as in llama.cpp's conversion, vectors are not rounded, and rows
/// that blocks do not divide are F16.
fn tensor_type(entry: &Entry, save_type: SaveType) -> SaveType {
    let row = entry.shape.last().copied().unwrap_or(1);
    match save_type {
        _ if entry.shape.len() == 1 => SaveType::F32,
        SaveType::Q8_0 if !row.is_multiple_of(GgmlType::Q8_0.block().0) => SaveType::F16,
        other => other,
    }
}

/// One tensor on its way into the file.
struct TensorWriter<'a, W> {
    out: &'a mut W,
    save_type: SaveType,
    /// Bytes of the tensor so far.
    written: u64,
    buffer: Vec<u8>,
}

impl<'a, W: Write> TensorWriter<'a, W> {
    fn new(out: &'a mut W, save_type: SaveType) -> Self {
        Self { out, save_type, written: 0, buffer: Vec::new() }
    }

    /// Appends elements, whole blocks of them.
    fn write(&mut self, values: &[f32]) -> io::Result<()> {
        for part in values.chunks(CHUNK_BLOCKS * self.save_type.kind().block().0) {
            self.buffer.clear();
            self.save_type.encode(part, &mut self.buffer);
            self.out.write_all(&self.buffer)?;
            self.written += self.buffer.len() as u64;
        }
        Ok(())
    }

    /// Fills up to where the next tensor begins.
    fn finish(self) -> io::Result<()> {
        let gap = padded(self.written) - self.written;
        self.out.write_all(&[0; ALIGNMENT as usize][..gap as usize])
    }
}

impl Gguf {
    /// The header of a file that is to be written: its settings, and its tensors one behind another.
    pub(super) fn draft(
        path: &Path,
        metadata: BTreeMap<String, Value>,
        tensors: impl IntoIterator<Item = (String, GgmlType, Vec<usize>)>,
    ) -> Self {
        let mut offset = 0;
        let mut place = |(name, kind, shape): (String, GgmlType, Vec<usize>)| {
            let tensor = TensorInfo { kind, shape, offset };
            offset += padded(tensor.size());
            (name, tensor)
        };
        let tensors = tensors.into_iter().map(&mut place).collect();
        Self { path: path.into(), metadata, tensors }
    }

    /// Writes magic, version, metadata and tensor table of a [`draft`](Self::draft), up to where the weights begin.
    pub(super) fn write_header(&self, out: &mut impl Write) -> io::Result<()> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(3_u32.to_le_bytes());
        bytes.extend((self.tensors.len() as u64).to_le_bytes());
        bytes.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            put_string(&mut bytes, key);
            put_value(&mut bytes, value);
        }
        let mut tensors: Vec<_> = self.tensors.iter().collect();
        tensors.sort_unstable_by_key(|(_, tensor)| tensor.offset);
        for (name, tensor) in tensors {
            put_string(&mut bytes, name);
            bytes.extend((tensor.shape.len() as u32).to_le_bytes());
            bytes.extend(tensor.shape.iter().rev().flat_map(|&n| (n as u64).to_le_bytes()));
            bytes.extend(tensor.kind.number().to_le_bytes());
            bytes.extend(tensor.offset.to_le_bytes());
        }
        bytes.resize(padded(bytes.len() as u64) as usize, 0);
        out.write_all(&bytes)
    }
}

/// Bytes up to where the next tensor may begin.
pub(super) fn padded(bytes: u64) -> u64 {
    bytes.next_multiple_of(ALIGNMENT)
}

/// A value in the types that llama.cpp asks for: numbers of 32 bits, where they fit.
fn put_value(out: &mut Vec<u8>, value: &Value) {
    let put_kind = |out: &mut Vec<u8>, kind: u32| out.extend(kind.to_le_bytes());
    let put_array = |out: &mut Vec<u8>, kind: u32, n: usize| {
        put_kind(out, ARRAY);
        put_kind(out, kind);
        out.extend((n as u64).to_le_bytes());
    };
    match value {
        Value::Int(x) => match u32::try_from(*x) {
            Ok(x) => {
                put_kind(out, U32);
                out.extend(x.to_le_bytes());
            }
            Err(_) => {
                put_kind(out, I64);
                out.extend(x.to_le_bytes());
            }
        },
        Value::Float(x) => {
            put_kind(out, F32);
            out.extend((*x as f32).to_le_bytes());
        }
        Value::Bool(x) => {
            put_kind(out, BOOL);
            out.push((*x).into());
        }
        Value::String(x) => {
            put_kind(out, STRING);
            put_string(out, x);
        }
        Value::Ints(list) => {
            put_array(out, I32, list.len());
            out.extend(list.iter().flat_map(|&x| (x as i32).to_le_bytes()));
        }
        Value::Floats(list) => {
            put_array(out, F32, list.len());
            out.extend(list.iter().flat_map(|&x| (x as f32).to_le_bytes()));
        }
        Value::Bools(list) => {
            put_array(out, BOOL, list.len());
            out.extend(list.iter().map(|&x| u8::from(x)));
        }
        Value::Strings(list) => {
            put_array(out, STRING, list.len());
            list.iter().for_each(|x| put_string(out, x));
        }
    }
}

pub(super) fn put_string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}
