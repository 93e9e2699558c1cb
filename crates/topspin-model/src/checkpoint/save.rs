//! Saving a model as a folder that transformers opens.

use std::collections::HashMap;
use std::io::{self, Write};
use std::path::Path;

use half::bf16;
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde_json::{Map, Value};
use topspin_kernels::arena::Layout;

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
}

impl SaveDtype {
    /// The name in `config.json`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::Bf16 => "bfloat16",
        }
    }

    fn dtype(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::Bf16 => Dtype::BF16,
        }
    }
}

/// Writes a model as a Hugging Face folder: `config.json`, `generation_config.json`, `model.safetensors`,
/// `tokenizer.json` and `tokenizer_config.json`, the last with the chat template inside.
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
    topspin_files::create_dir_all(dir)?;
    write_weights(&dir.join(super::SINGLE), &layout, parameters, dtype)?;

    let tokenizer = dialect.tokenizer();
    topspin_files::write_atomic(&dir.join("tokenizer.json"), |out| out.write_all(tokenizer.definition().as_bytes()))?;
    let mut settings = tokenizer.settings().clone();
    if let Some(template) = dialect.template() {
        settings.insert("chat_template".into(), template.source().into());
    }
    write_json(&dir.join("tokenizer_config.json"), settings)?;

    let ids = tokenizer.special_ids();
    let mut generation = Map::new();
    generation.insert("_from_model_config".into(), true.into());
    ids.write_to(&mut generation);
    write_json(&dir.join("generation_config.json"), generation)?;
    // Last: a folder without it is no model, so one cut short is not taken for one.
    write_json(&dir.join("config.json"), config.to_json(dtype, &ids))
}

fn write_json(path: &Path, object: Map<String, Value>) -> Result<(), ModelError> {
    let text = format!("{:#}\n", Value::Object(object));
    Ok(topspin_files::write_atomic(path, |out| out.write_all(text.as_bytes()))?)
}

fn write_weights(path: &Path, layout: &Layout, parameters: &[f32], dtype: SaveDtype) -> Result<(), ModelError> {
    let size = dtype.dtype().bitsize() / 8;
    let tensors = layout.entries().iter().map(|entry| {
        let range = entry.range();
        let info = TensorInfo {
            dtype: dtype.dtype(),
            shape: entry.shape.clone(),
            data_offsets: (range.start * size, range.end * size),
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
        write_elements(out, parameters, dtype)
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
        }
        out.write_all(&buffer)?;
    }
    Ok(())
}
