//! Weights in safetensors files: one `model.safetensors`, or shards listed in `model.safetensors.index.json`.

mod save;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde_json::Value;
use topspin_files::{Action, FileError};
use topspin_kernels::arena::{Entry, Layout};
use topspin_kernels::simd::Level;
use topspin_kernels::stored::{GgmlType, StoredRows};

use crate::config::DecoderConfig;
use crate::decoder::Parameters;
use crate::error::ModelError;
use crate::tokenizer::read_object;

pub use save::{SaveDtype, save_folder};
pub(crate) use save::{write_json, write_shard};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The limit of the `safetensors` crate: a larger header is no header.
const MAX_HEADER: u64 = 100_000_000;

/// Elements converted at a time.
const CHUNK: usize = 1 << 16;

/// The opened weight files of a model folder. Their headers are in memory, the weights are read on request.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    files: Vec<PathBuf>,
    tensors: BTreeMap<String, Stored>,
    /// Name of the file of settings that the shapes follow from.
    settings: &'static str,
}

/// Where one tensor lies.
#[derive(Clone, Debug)]
struct Stored {
    /// Index into the files.
    file: usize,
    /// First byte, from the start of the file.
    start: u64,
    dtype: Dtype,
    shape: Vec<usize>,
}

impl Checkpoint {
    /// Reads the headers of a folder's weight files and checks that the files are as long as these say.
    pub fn open(dir: &Path) -> Result<Self, ModelError> {
        let single = dir.join(SINGLE);
        let index = dir.join(INDEX);
        if single.exists() {
            return Self::open_file(single, "config.json");
        }
        match read_object(index.clone())? {
            Some(object) => Self::open_shards(dir, &index, object.get("weight_map")),
            None => {
                let problem = if dir.join("pytorch_model.bin").exists()
                    || dir.join("pytorch_model.bin.index.json").exists()
                {
                    format!(
                        "it has `pytorch_model.bin` but no `{SINGLE}`; save the model again with transformers, \
                         which writes safetensors"
                    )
                } else {
                    format!("it has neither `{SINGLE}` nor `{INDEX}`; put the weights there, or name another folder")
                };
                Err(ModelError::weights(dir, problem))
            }
        }
    }

    fn open_shards(dir: &Path, index: &Path, map: Option<&Value>) -> Result<Self, ModelError> {
        let Some(map) = map.and_then(Value::as_object) else {
            return Err(ModelError::config(index, "weight_map", "is missing, or is not a table of tensors and files"));
        };
        if map.is_empty() {
            return Err(ModelError::config(index, "weight_map", "is empty; save the model again"));
        }
        let mut names = BTreeSet::new();
        for (tensor, file) in map {
            let plain = file
                .as_str()
                .filter(|f| matches!(Path::new(f).components().collect::<Vec<_>>()[..], [Component::Normal(_)]));
            match plain {
                Some(file) => names.insert(file),
                None => {
                    return Err(ModelError::tensor(
                        index,
                        tensor,
                        format!("is said to be in {file}, which is no file of the folder"),
                    ));
                }
            };
        }
        let mut checkpoint = Self { files: Vec::new(), tensors: BTreeMap::new(), settings: "config.json" };
        for name in names {
            checkpoint.add_file(dir.join(name))?;
        }
        for (tensor, file) in map {
            let found = checkpoint.tensors.get(tensor).map(|stored| &checkpoint.files[stored.file]);
            let wanted = dir.join(file.as_str().unwrap_or_default());
            if found != Some(&wanted) {
                return Err(ModelError::tensor(
                    &wanted,
                    tensor,
                    format!("is missing, although `{INDEX}` says that it is there"),
                ));
            }
        }
        Ok(checkpoint)
    }

    /// Reads the header of one file, whose shapes follow from the file `settings` beside it.
    pub(crate) fn open_file(path: PathBuf, settings: &'static str) -> Result<Self, ModelError> {
        let mut checkpoint = Self { files: Vec::new(), tensors: BTreeMap::new(), settings };
        checkpoint.add_file(path)?;
        Ok(checkpoint)
    }

    fn add_file(&mut self, path: PathBuf) -> Result<(), ModelError> {
        let (metadata, data) = read_header(&path)?;
        for (name, info) in metadata.tensors() {
            let TensorInfo { dtype, shape, data_offsets } = info;
            let stored = Stored {
                file: self.files.len(),
                start: data + data_offsets.0 as u64,
                dtype: *dtype,
                shape: shape.clone(),
            };
            if let Some(other) = self.tensors.insert(name.clone(), stored) {
                let problem = format!("is also in `{}`; remove one of the files", self.files[other.file].display());
                return Err(ModelError::tensor(&path, name, problem));
            }
        }
        self.files.push(path);
        Ok(())
    }

    /// The weight files.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Element type and shape of each tensor, in order of name.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, Dtype, &[usize])> {
        self.tensors.iter().map(|(name, stored)| (name.as_str(), stored.dtype, stored.shape.as_slice()))
    }

    /// Checks that the files hold exactly the tensors of the layout, in their shapes and in a type that can be read.
    ///
    /// Two kinds of other tensors are passed over, as transformers does: an output head in a model whose head is the
    /// embedding, and the rotary frequencies that old checkpoints carry, which follow from the settings.
    pub fn check(&self, layout: &Layout) -> Result<(), ModelError> {
        for entry in layout.entries() {
            let stored = self.stored(entry)?;
            let path = &self.files[stored.file];
            if stored.shape != entry.shape {
                let problem =
                    format!("has the shape {:?}; `{}` asks for {:?}", stored.shape, self.settings, entry.shape);
                return Err(ModelError::tensor(path, &entry.name, problem));
            }
            if !matches!(stored.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
                let problem = format!(
                    "is stored as {}, which is not supported; save the model as F32, F16 or BF16",
                    stored.dtype
                );
                return Err(ModelError::tensor(path, &entry.name, problem));
            }
        }
        let embedding = layout.get("model.embed_tokens.weight").map(|entry| &entry.shape);
        for (name, stored) in &self.tensors {
            let tied_head = name == "lm_head.weight" && embedding == Some(&stored.shape);
            if layout.get(name).is_none() && !tied_head && !name.ends_with(".rotary_emb.inv_freq") {
                return Err(ModelError::tensor(&self.files[stored.file], name, "is none that the decoder uses"));
            }
        }
        Ok(())
    }

    /// Reads all parameters of the layout into the arena `out`, as f32.
    ///
    /// # Panics
    /// If `out` is not of the arena's size.
    pub fn read_parameters(&self, layout: &Layout, out: &mut [f32]) -> Result<(), ModelError> {
        assert_eq!(out.len(), layout.len(), "elements of the parameter arena");
        self.check(layout)?;
        layout.entries().iter().try_for_each(|entry| self.decode(entry, &mut out[entry.range()]))
    }

    /// Reads the parameters of a model, its matrices as they are stored.
    pub fn read_frozen(&self, config: &DecoderConfig) -> Result<Parameters, ModelError> {
        self.check(&config.layout())?;
        let read_rows = |entry: &Entry| {
            let rows = self.read_rows(entry)?;
            check_rows(&self.files[self.stored(entry)?.file], &entry.name, &rows)?;
            Ok(rows)
        };
        Parameters::read_frozen(config, read_rows, |entry, out| self.decode(entry, out))
    }

    /// Reads a tensor as f32.
    fn decode(&self, entry: &Entry, out: &mut [f32]) -> Result<(), ModelError> {
        let stored = self.stored(entry)?;
        let (kind, mut tensor) = (encoding(stored.dtype), self.open_tensor(stored)?);
        let mut buffer = vec![0; kind.bytes(CHUNK.min(out.len()))];
        for part in out.chunks_mut(CHUNK) {
            let encoded = &mut buffer[..kind.bytes(part.len())];
            tensor.read_exact(encoded).map_err(|e| self.unread(stored, e))?;
            kind.decode(Level::detect(), encoded, part);
        }
        check_finite(&self.files[stored.file], &entry.name, out, 0)
    }

    /// Reads a matrix as it is.
    fn read_rows(&self, entry: &Entry) -> Result<StoredRows, ModelError> {
        let stored = self.stored(entry)?;
        let kind = encoding(stored.dtype);
        let mut bytes = vec![0; kind.bytes(entry.len())];
        self.open_tensor(stored)?.read_exact(&mut bytes).map_err(|e| self.unread(stored, e))?;
        Ok(StoredRows { kind, bytes })
    }

    /// The file of a tensor, from its first byte on.
    fn open_tensor(&self, stored: &Stored) -> Result<impl Read, ModelError> {
        let mut file = topspin_files::open(&self.files[stored.file])?;
        file.seek(SeekFrom::Start(stored.start)).map_err(|e| self.unread(stored, e))?;
        Ok(file)
    }

    fn unread(&self, stored: &Stored, error: std::io::Error) -> ModelError {
        FileError::new(Action::Read, &self.files[stored.file], error).into()
    }

    fn stored(&self, entry: &Entry) -> Result<&Stored, ModelError> {
        self.tensors.get(&entry.name).ok_or_else(|| {
            // Of a sharded model, no one file is at fault.
            let place = match &self.files[..] {
                [file] => file.as_path(),
                files => files.first().and_then(|file| file.parent()).unwrap_or(Path::new(".")),
            };
            ModelError::tensor(place, &entry.name, "is missing")
        })
    }
}

/// Whether all values of a tensor, just read, are finite numbers; they are those from element `first` on.
pub(crate) fn check_finite(path: &Path, tensor: &str, values: &[f32], first: usize) -> Result<(), ModelError> {
    // All of a part before the first is looked for: so it takes no branches, and little beside the reading.
    let is_finite = |part: &[f32]| part.iter().fold(true, |all, x| all & x.is_finite());
    let Some(part) = values.chunks(CHUNK).position(|part| !is_finite(part)) else { return Ok(()) };
    let at = values[part * CHUNK..].iter().position(|x| !x.is_finite()).unwrap_or_default() + part * CHUNK;
    let problem = format!(
        "has {} as its element {}, which is no finite number; fetch the file again, or take weights from before \
         training diverged",
        values[at],
        first + at
    );
    Err(ModelError::tensor(path, tensor, problem))
}

/// The same for rows that stay as they are stored.
pub(crate) fn check_rows(path: &Path, tensor: &str, rows: &StoredRows) -> Result<(), ModelError> {
    let (block, bytes) = rows.kind.block();
    let mut values = vec![0.0; CHUNK];
    for (at, part) in rows.bytes.chunks(rows.kind.bytes(CHUNK)).enumerate() {
        let values = &mut values[..part.len() / bytes * block];
        rows.kind.decode(Level::detect(), part, values);
        check_finite(path, tensor, values, at * CHUNK)?;
    }
    Ok(())
}

/// How elements of a type that [`Checkpoint::check`] admits are encoded.
fn encoding(dtype: Dtype) -> GgmlType {
    match dtype {
        Dtype::F32 => GgmlType::F32,
        Dtype::F16 => GgmlType::F16,
        Dtype::BF16 => GgmlType::BF16,
        _ => unreachable!("`check` admits three types"),
    }
}

/// The header of a safetensors file, and the first byte of the weights.
fn read_header(path: &Path) -> Result<(Metadata, u64), ModelError> {
    let mut file = topspin_files::open(path)?;
    let fail = |e| FileError::new(Action::Read, path, e);
    let len = file.get_ref().metadata().map_err(fail)?.len();
    let foreign = || ModelError::weights(path, "it is not a safetensors file; check that it is the right one");
    // The length of the JSON, then the JSON: nine bytes tell.
    let mut start = [0; 9];
    if len < start.len() as u64 {
        return Err(foreign());
    }
    file.read_exact(&mut start).map_err(fail)?;
    let header = u64::from_le_bytes([start[0], start[1], start[2], start[3], start[4], start[5], start[6], start[7]]);
    if !(2..=MAX_HEADER).contains(&header) || start[8] != b'{' {
        return Err(foreign());
    }
    let truncated = |wanted: u64| {
        let problem = format!(
            "it ends after {len} bytes, but its header asks for {wanted}; the file is truncated, fetch it again"
        );
        ModelError::weights(path, problem)
    };
    let data = 8 + header;
    if data > len {
        return Err(truncated(data));
    }
    let mut json = vec![b'{'; header as usize];
    file.read_exact(&mut json[1..]).map_err(fail)?;
    let metadata: Metadata = serde_json::from_slice(&json)
        .map_err(|e| ModelError::weights(path, format!("its header is damaged ({e}); fetch the file again")))?;
    match data.checked_add(metadata.data_len() as u64) {
        Some(end) if end == len => Ok((metadata, data)),
        Some(end) if end < len => {
            let problem =
                format!("it has {len} bytes, but its header accounts for {end}; the file is damaged, fetch it again");
            Err(ModelError::weights(path, problem))
        }
        end => Err(truncated(end.unwrap_or(u64::MAX))),
    }
}

#[cfg(test)]
mod tests;
