//! Saving a model as a folder that transformers opens.

use std::collections::HashMap;
use std::io::{self, Write};
use std::path::Path;

use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde_json::{Map, Value, json};
use topspin_kernels::arena::{Entry, Layout};

use crate::config::DecoderConfig;
use crate::dialect::Dialect;
use crate::error::ModelError;

/// The element type of saved weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SaveDtype {
    /// As trained: reading it back gives the same bits.
    F32,
    /// Rounded to nearest even; half the size.
    Bf16,
    /// Rounded to nearest even; half the size, and no magnitude above 65504.
    F16,
}

impl SaveDtype {
    /// The name in `config.json`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::Bf16 => "bfloat16",
            Self::F16 => "float16",
        }
    }

    fn dtype(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::Bf16 => Dtype::BF16,
            Self::F16 => Dtype::F16,
        }
    }
}

/// Writes a model as a Hugging Face folder: `config.json`, `generation_config.json`, `model.safetensors` (in shards of 5 GB
/// with an index, if it is larger), `tokenizer.json` and `tokenizer_config.json`, the last with the chat template inside.
///
/// What the model's own `generation_config.json` says stays, with all tokens at which the model stops.
///
/// The same model gives the same bytes. Each file appears whole, but not all at once: where the folder as a whole must,
/// call this inside of [`topspin_files::write_dir_atomic`]. Other files in the folder stay as they are.
///
/// # Panics
/// If `parameters` is not the arena of `config`.
pub fn save_folder(
    dir: &Path,
    config: &DecoderConfig,
    parameters: &[f32],
    dtype: SaveDtype,
    dialect: &Dialect,
) -> Result<(), ModelError> {
    let layout = config.layout();
    assert_eq!(parameters.len(), layout.len(), "elements of the parameter arena");
    if dtype == SaveDtype::F16 {
        check_range(dir, &layout, parameters)?;
    }
    topspin_files::create_dir_all(dir)?;
    write_weights(dir, &layout, parameters, dtype, SHARD)?;

    let tokenizer = dialect.tokenizer();
    topspin_files::write_atomic(&dir.join("tokenizer.json"), |out| out.write_all(tokenizer.definition().as_bytes()))?;
    let mut settings = tokenizer.settings().clone();
    if let Some(template) = dialect.template() {
        settings.insert("chat_template".into(), template.source().into());
    }
    write_json(&dir.join("tokenizer_config.json"), settings)?;

    let ids = tokenizer.special_ids();
    let mut generation = dialect.generation().clone();
    if generation.is_empty() {
        generation.insert("_from_model_config".into(), true.into());
    }
    ids.write_to(&mut generation);
    write_json(&dir.join("generation_config.json"), generation)?;
    // Last: a folder without it is no model, so one cut short is not taken for one.
    write_json(&dir.join("config.json"), config.to_json(dtype, &ids))
}

/// Checks that no number becomes infinite in f16.
fn check_range(dir: &Path, layout: &Layout, parameters: &[f32]) -> Result<(), ModelError> {
    let too_large = |x: &&f32| x.is_finite() && x.abs() > f16::MAX.to_f32();
    match layout.entries().iter().find_map(|entry| Some((entry, parameters[entry.range()].iter().find(too_large)?))) {
        None => Ok(()),
        Some((entry, x)) => {
            let problem = format!("has the element {x}, which f16 cannot hold; choose bf16 or f32");
            Err(ModelError::tensor(dir, &entry.name, problem))
        }
    }
}

pub(crate) fn write_json(path: &Path, object: Map<String, Value>) -> Result<(), ModelError> {
    let text = format!("{:#}\n", Value::Object(object));
    Ok(topspin_files::write_atomic(path, |out| out.write_all(text.as_bytes()))?)
}

/// Most bytes of weights in one file, as the Hub's tools have it.
const SHARD: usize = 5_000_000_000;

/// Writes the weights as one file, or as several with an index where they take more than `limit` bytes.
fn write_weights(
    dir: &Path,
    layout: &Layout,
    parameters: &[f32],
    dtype: SaveDtype,
    limit: usize,
) -> Result<(), ModelError> {
    let size = dtype.dtype().bitsize() / 8;
    let shards = shards(layout.entries(), size, limit);
    if let [all] = shards[..] {
        return write_shard(&dir.join(super::SINGLE), all, parameters, dtype);
    }
    let mut files = Map::new();
    for (number, shard) in shards.iter().enumerate() {
        let name = format!("model-{:05}-of-{:05}.safetensors", number + 1, shards.len());
        write_shard(&dir.join(&name), shard, parameters, dtype)?;
        files.extend(shard.iter().map(|entry| (entry.name.clone(), name.as_str().into())));
    }
    let index = json!({ "metadata": { "total_size": parameters.len() * size }, "weight_map": files });
    let Value::Object(index) = index else { unreachable!("the literal above is an object") };
    write_json(&dir.join(super::INDEX), index)
}

/// The tensors in runs of at most `limit` bytes, but for a tensor that has more by itself.
fn shards(entries: &[Entry], size: usize, limit: usize) -> Vec<&[Entry]> {
    let mut shards = Vec::new();
    let mut first = 0;
    for at in 1..=entries.len() {
        let bytes = |end: usize| (entries[end - 1].range().end - entries[first].offset) * size;
        if at == entries.len() || bytes(at + 1) > limit {
            shards.push(&entries[first..at]);
            first = at;
        }
    }
    shards
}

/// Writes neighbouring tensors of an arena.
pub(crate) fn write_shard(
    path: &Path,
    entries: &[Entry],
    parameters: &[f32],
    dtype: SaveDtype,
) -> Result<(), ModelError> {
    let size = dtype.dtype().bitsize() / 8;
    let all = entries[0].offset..entries[entries.len() - 1].range().end;
    let tensors = entries.iter().map(|entry| {
        let range = entry.range();
        let info = TensorInfo {
            dtype: dtype.dtype(),
            shape: entry.shape.clone(),
            data_offsets: ((range.start - all.start) * size, (range.end - all.start) * size),
        };
        (entry.name.clone(), info)
    });
    // transformers refuses files without it.
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let metadata = Metadata::new(Some(format), tensors.collect()).expect("a layout has no gaps");
    let mut header = serde_json::to_vec(&metadata).expect("names and numbers are valid JSON");
    // Weights begin at a multiple of 8 bytes.
    header.resize(header.len().next_multiple_of(8), b' ');
    topspin_files::write_atomic(path, |out| {
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;
        write_elements(out, &parameters[all], dtype)
    })?;
    Ok(())
}

fn write_elements(out: &mut impl Write, parameters: &[f32], dtype: SaveDtype) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(super::CHUNK * 4);
    for part in parameters.chunks(super::CHUNK) {
        buffer.clear();
        match dtype {
            SaveDtype::F32 => buffer.extend(part.iter().flat_map(|x| x.to_le_bytes())),
            SaveDtype::Bf16 => buffer.extend(part.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes())),
            SaveDtype::F16 => buffer.extend(part.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes())),
        }
        out.write_all(&buffer)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Checkpoint;
    use crate::testing::{random_parameters, small_config};

    #[test]
    fn weights_are_written_in_shards_that_are_read_as_one() {
        let layout = small_config(50).layout();
        let parameters = random_parameters(layout.len(), 3);
        let largest = layout.entries().iter().map(Entry::len).max().unwrap() * 4;
        // All in one, each tensor by itself, and something between.
        for (limit, files) in [(layout.len() * 4, 1), (1, layout.entries().len()), (largest, 2)] {
            let dir = tempfile::tempdir().unwrap();
            write_weights(dir.path(), &layout, &parameters, SaveDtype::F32, limit).unwrap();
            let checkpoint = Checkpoint::open(dir.path()).unwrap();
            assert_eq!(checkpoint.files().len(), files, "{limit}");
            let mut read = vec![f32::NAN; parameters.len()];
            checkpoint.read_parameters(&layout, &mut read).unwrap();
            assert_eq!(read, parameters);
            if files > 1 {
                assert!(dir.path().join(format!("model-00001-of-{files:05}.safetensors")).exists());
            }
        }
    }
}
