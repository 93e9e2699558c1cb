//! An adapter's folder, in PEFT's layout.

use std::path::{Path, PathBuf};

use topspin_kernels::device::Device;
use topspin_kernels::memory::Memory;

use super::{Adapter, LoraConfig, peft};
use crate::checkpoint::{Checkpoint, SaveDtype, write_json, write_shard};
use crate::config::DecoderConfig;
use crate::decoder::Decoder;
use crate::error::ModelError;
use crate::tokenizer::read_object;

/// Name of the file of settings.
pub(crate) const SETTINGS: &str = "adapter_config.json";
/// Name of the file of parameters.
pub(crate) const WEIGHTS: &str = "adapter_model.safetensors";

/// An adapter whose settings and table of tensors are read and fit the model. The parameters are still on disk.
#[derive(Clone, Debug)]
pub struct AdapterFiles {
    adapter: Adapter,
    weights: Checkpoint,
    dir: PathBuf,
}

impl AdapterFiles {
    /// Whether `dir` is an adapter's.
    pub fn is_in(dir: &Path) -> bool {
        dir.join(SETTINGS).exists()
    }

    /// The model that the adapter in `dir` was trained on, as a user names it.
    pub fn base_of(dir: &Path) -> Result<String, ModelError> {
        let path = dir.join(SETTINGS);
        let (_, base) = read_settings(&path)?;
        if base.name.is_empty() {
            let problem = "is missing; name the model that the adapter was trained on".into();
            return Err(ModelError::Config { path, key: "base_model_name_or_path".into(), problem });
        }
        Ok(base.spec())
    }

    /// Opens the adapter in `dir` for a model.
    pub fn open(dir: &Path, decoder: &DecoderConfig) -> Result<Self, ModelError> {
        let path = dir.join(SETTINGS);
        let (config, _) = read_settings(&path)?;
        let adapter = Adapter::new(config, decoder)
            .map_err(|e| ModelError::Adapter { path: path.clone(), problem: e.to_string() })?;
        let weights = Checkpoint::open_file(dir.join(WEIGHTS), SETTINGS)?;
        weights.check(adapter.layout())?;
        Ok(Self { adapter, weights, dir: dir.into() })
    }

    /// The adapter.
    pub fn adapter(&self) -> &Adapter {
        &self.adapter
    }

    /// Files that decide what the adapter does.
    pub fn files(&self) -> [PathBuf; 2] {
        [SETTINGS, WEIGHTS].map(|name| self.dir.join(name))
    }

    /// Reads the parameters, an arena of [`Adapter::layout`].
    pub fn parameters(&self) -> Result<Memory<f32>, ModelError> {
        let mut parameters = Memory::zeroed(self.adapter.layout().len());
        self.weights.read_parameters(self.adapter.layout(), &mut parameters)?;
        Ok(parameters)
    }

    /// Writes the adapter as another folder.
    pub fn save_again(&self, dir: &Path) -> Result<(), ModelError> {
        save_adapter(dir, &self.adapter, &self.parameters()?, &Self::base_of(&self.dir)?)
    }

    /// The model with this adapter.
    pub fn attach<D: Device>(&self, decoder: Decoder<D>) -> Result<Decoder<D>, ModelError> {
        Ok(decoder.with_adapter(self.adapter.clone(), self.parameters()?))
    }
}

fn read_settings(path: &Path) -> Result<(LoraConfig, peft::Base), ModelError> {
    let object = read_object(path.into())?.ok_or_else(|| ModelError::NotAModel {
        spec: path.display().to_string(),
        problem: "there is no such file".into(),
    })?;
    peft::read(path, &object)
}

/// Writes an adapter of the model that a user names `base` as a folder that PEFT loads: `adapter_config.json` and `adapter_model.safetensors`.
///
/// # Panics
/// If `parameters` is not the adapter's arena.
pub fn save_adapter(dir: &Path, adapter: &Adapter, parameters: &[f32], base: &str) -> Result<(), ModelError> {
    let layout = adapter.layout();
    assert_eq!(parameters.len(), layout.len(), "elements of the adapter's arena");
    topspin_files::create_dir_all(dir)?;
    write_shard(&dir.join(WEIGHTS), layout.entries(), parameters, SaveDtype::F32)?;
    // Last: a folder without it is no adapter, so one cut short is not taken for one.
    write_json(&dir.join(SETTINGS), peft::write(adapter, base))
}
