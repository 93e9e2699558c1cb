//! From what a user names to a model: its settings, its way of speaking, and its weights.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Serialize;
use sha2::{Digest, Sha256};
use topspin_files::{Action, FileError};
use topspin_kernels::device::{Device, Use};
use topspin_kernels::gemm::Precision;
use topspin_kernels::memory::Memory;

use crate::adapter::{Adapter, AdapterFiles, LoraConfig};
use crate::chat::ChatTemplate;
use crate::checkpoint::Checkpoint;
use crate::config::DecoderConfig;
use crate::decoder::{Decoder, Parameters};
use crate::dialect::Dialect;
use crate::error::ModelError;
use crate::gguf::{self, Gguf};
use crate::hub::Hub;
use crate::tokenizer;

/// A model on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelSource {
    /// A Hugging Face folder.
    Folder(PathBuf),
    /// A GGUF file.
    Gguf(PathBuf),
    /// An adapter's folder, and the model that it was trained on.
    Adapter(PathBuf, Box<ModelSource>),
}

impl ModelSource {
    /// Finds the model that `spec` names: a folder, an adapter's folder, a GGUF file, or `hf:org/name[@revision]` on the Hub.
    pub fn resolve(spec: &str) -> Result<Self, ModelError> {
        Self::resolve_with(spec, &Hub::from_env())
    }

    /// [`resolve`](Self::resolve) with another Hub than the environment's.
    pub fn resolve_with(spec: &str, hub: &Hub) -> Result<Self, ModelError> {
        if let Some(model) = spec.strip_prefix("hf:") {
            return Self::of_folder(&hub.fetch(model)?, hub);
        }
        let path = Path::new(spec);
        if path.is_dir() {
            return Self::of_folder(path, hub);
        }
        let problem = if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")) && path.exists() {
            return Ok(Self::Gguf(path.into()));
        } else if path.exists() {
            "it is a file, but not a `.gguf`; name the folder that holds it"
        } else {
            "there is no such file or folder; check the path, or write `hf:org/name` for a model on the Hub"
        };
        Err(ModelError::NotAModel { spec: spec.into(), problem: problem.into() })
    }

    /// A folder with a model, or with an adapter of one.
    fn of_folder(path: &Path, hub: &Hub) -> Result<Self, ModelError> {
        if !AdapterFiles::is_in(path) {
            return Ok(Self::Folder(path.into()));
        }
        let base = Self::resolve_with(&AdapterFiles::base_of(path)?, hub)
            .map_err(|e| ModelError::AdapterBase { adapter: path.into(), problem: e.to_string() })?;
        match base {
            Self::Adapter(base, _) => {
                let problem = format!("its base `{}` is an adapter too; merge that one first", base.display());
                Err(ModelError::NotAModel { spec: path.display().to_string(), problem })
            }
            base => Ok(Self::Adapter(path.into(), base.into())),
        }
    }

    /// The folder or the file; of an adapter its own.
    pub fn path(&self) -> &Path {
        match self {
            Self::Folder(path) | Self::Gguf(path) | Self::Adapter(path, _) => path,
        }
    }
}

impl fmt::Display for ModelSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path().display().fmt(f)
    }
}

/// A model whose settings, tokenizer and tables of tensors are read and fit each other. The weights are still on disk.
#[derive(Clone, Debug)]
pub struct ModelFiles {
    /// The decoder's dimensions.
    pub config: DecoderConfig,
    /// Tokenizer and chat template.
    pub dialect: Dialect,
    source: ModelSource,
    weights: Weights,
    adapter: Option<AdapterFiles>,
}

#[derive(Clone, Debug)]
enum Weights {
    Checkpoint(Checkpoint),
    Gguf(Gguf),
}

/// Files of a folder, beside the weights, that decide what the model does.
const FOLDER_FILES: [&str; 7] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
];

impl ModelFiles {
    /// Opens a model. All that can be found wrong without reading the weights themselves is found here; in
    /// particular, an arena of the size that [`config`](Self::config) asks for is no larger than the files warrant.
    pub fn open(source: &ModelSource) -> Result<Self, ModelError> {
        let source = source.clone();
        let files = match &source {
            ModelSource::Adapter(dir, base) => return Self::open(base)?.with_adapter(dir),
            ModelSource::Folder(dir) => {
                let path = dir.join("config.json");
                let Some(json) = tokenizer::read_object(path.clone())? else {
                    let problem = "it is a folder without `config.json`; name a folder in the Hugging Face layout";
                    return Err(ModelError::NotAModel { spec: dir.display().to_string(), problem: problem.into() });
                };
                let config = DecoderConfig::from_json(&path, &json)?;
                let weights = Checkpoint::open(dir)?;
                weights.check(&config.layout())?;
                let (tokenizer, settings) = tokenizer::read_folder(dir, &json)?;
                let template = ChatTemplate::from_folder(dir, &settings, &tokenizer)?;
                let generation = tokenizer::read_object(dir.join("generation_config.json"))?.unwrap_or_default();
                Self {
                    config,
                    dialect: Dialect::new(tokenizer, template).with_generation(generation),
                    source,
                    weights: Weights::Checkpoint(weights),
                    adapter: None,
                }
            }
            ModelSource::Gguf(path) => {
                let weights = Gguf::open(path)?;
                let config = weights.config()?;
                weights.check(&config)?;
                let dialect = gguf::read_dialect(&weights)?;
                Self { config, dialect, source, weights: Weights::Gguf(weights), adapter: None }
            }
        };
        if let Some(problem) = files.dialect.tokenizer().misfit(files.config.vocab_size) {
            let problem = format!("{problem}; the files are of two different models");
            return Err(ModelError::tokenizer(files.source.path(), problem));
        }
        Ok(files)
    }

    /// The same model with the adapter in the folder `dir`, in place of the one that it has.
    pub fn with_adapter(&self, dir: &Path) -> Result<Self, ModelError> {
        let base = match &self.source {
            ModelSource::Adapter(_, base) => base.clone(),
            source => source.clone().into(),
        };
        let adapter = Some(AdapterFiles::open(dir, &self.config)?);
        Ok(Self { adapter, source: ModelSource::Adapter(dir.into(), base), ..self.clone() })
    }

    /// The folder or file it was opened from.
    pub fn source(&self) -> &ModelSource {
        &self.source
    }

    /// The adapter, if this is a model with one.
    pub fn adapter(&self) -> Option<&AdapterFiles> {
        self.adapter.as_ref()
    }

    /// The model with its weights as they are stored, and with its adapter if it has one. Nothing but an adapter can be trained.
    pub fn frozen<D: Device>(&self, device: D, precision: Precision, for_use: Use) -> Result<Decoder<D>, ModelError> {
        let decoder = Decoder::new(device, self.config.clone(), self.read_frozen()?, precision, for_use);
        match &self.adapter {
            Some(files) => files.attach(decoder),
            None => Ok(decoder),
        }
    }

    /// The model with all its parameters in single precision, to be trained; an adapter is merged into them.
    pub fn trainable<D: Device>(
        &self,
        device: D,
        precision: Precision,
        for_use: Use,
    ) -> Result<Decoder<D>, ModelError> {
        let mut parameters = Memory::zeroed(self.config.layout().len());
        self.read_parameters(&mut parameters)?;
        Ok(Decoder::new(device, self.config.clone(), parameters.into(), precision, for_use))
    }

    /// Reads all parameters, as f32, into the arena `out` of [`DecoderConfig::layout`]; an adapter is merged into them.
    ///
    /// # Panics
    /// If `out` is not of the arena's size.
    pub fn read_parameters(&self, out: &mut [f32]) -> Result<(), ModelError> {
        self.read_base(out)?;
        if let Some(files) = &self.adapter {
            files.adapter().merge_into(&files.parameters()?, &self.config, out);
        }
        Ok(())
    }

    /// Reads the parameters of the model without its adapter.
    fn read_base(&self, out: &mut [f32]) -> Result<(), ModelError> {
        match &self.weights {
            Weights::Checkpoint(checkpoint) => checkpoint.read_parameters(&self.config.layout(), out),
            Weights::Gguf(gguf) => gguf.read_parameters(&self.config, out),
        }
    }

    /// Reads the parameters of the model without its adapter, with all matrices as they are stored, in no more memory than
    /// these take.
    pub fn read_frozen(&self) -> Result<Parameters, ModelError> {
        match &self.weights {
            Weights::Checkpoint(checkpoint) => checkpoint.read_frozen(&self.config),
            Weights::Gguf(gguf) => gguf.read_frozen(&self.config),
        }
    }

    /// SHA-256, in hexadecimal, over all files that decide what the model does. It does not depend on where they are.
    pub fn fingerprint(&self) -> Result<String, ModelError> {
        let base = match &self.source {
            ModelSource::Adapter(_, base) => base.path(),
            source => source.path(),
        };
        let mut files: Vec<PathBuf> = match &self.weights {
            Weights::Checkpoint(checkpoint) => {
                let beside = FOLDER_FILES.map(|name| base.join(name));
                beside.into_iter().filter(|path| path.exists()).chain(checkpoint.files().iter().cloned()).collect()
            }
            Weights::Gguf(_) => vec![base.into()],
        };
        files.extend(self.adapter.iter().flat_map(AdapterFiles::files));
        let mut all = Sha256::new();
        for path in files {
            // Names and digests rather than contents: then no two sets of files look alike.
            if let (false, Some(name)) = (matches!(self.source, ModelSource::Gguf(_)), path.file_name()) {
                all.update(name.as_encoded_bytes());
                all.update([0]);
            }
            all.update(digest(&path)?);
        }
        Ok(all.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// What there is to say about the model.
    pub fn describe(&self) -> Description {
        let tokenizer = self.dialect.tokenizer();
        let token = |id: u32| tokenizer.token(id).unwrap_or_else(|| id.to_string());
        let mut stored_types = BTreeMap::new();
        let mut count = |kind: String, elements: usize| *stored_types.entry(kind).or_insert(0) += elements;
        match &self.weights {
            Weights::Checkpoint(checkpoint) => {
                checkpoint.tensors().for_each(|(_, dtype, shape)| count(dtype.to_string(), shape.iter().product()));
            }
            Weights::Gguf(gguf) => {
                gguf.tensors().for_each(|(_, tensor)| count(format!("{:?}", tensor.kind), tensor.elements()));
            }
        }
        Description {
            path: self.source.path().into(),
            architecture: self.config.family.model_type().into(),
            parameters: self.config.layout().len(),
            stored_types,
            vocab_size: self.config.vocab_size,
            hidden_size: self.config.hidden_size,
            intermediate_size: self.config.intermediate_size,
            num_layers: self.config.num_layers,
            num_heads: self.config.num_heads,
            num_kv_heads: self.config.num_kv_heads,
            head_dim: self.config.head_dim,
            max_positions: self.config.max_positions,
            tie_word_embeddings: self.config.tie_word_embeddings,
            chat_template: self.dialect.template().is_some(),
            end_of_turn: token(tokenizer.end_of_turn()),
            stop_tokens: tokenizer.stop_ids().iter().map(|&id| token(id)).collect(),
            adapter: self.adapter.as_ref().map(|files| AdapterDescription::new(files.adapter())),
        }
    }
}

/// What there is to say about a model, for people and as JSON.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Description {
    /// The folder or file.
    pub path: PathBuf,
    /// The family of the decoder.
    pub architecture: String,
    /// Number of parameters, tied ones once.
    pub parameters: usize,
    /// Number of elements stored in each type.
    pub stored_types: BTreeMap<String, usize>,
    /// V.
    pub vocab_size: usize,
    /// D.
    pub hidden_size: usize,
    /// F.
    pub intermediate_size: usize,
    /// Number of decoder layers.
    pub num_layers: usize,
    /// Number of query heads.
    pub num_heads: usize,
    /// Number of key/value heads.
    pub num_kv_heads: usize,
    /// Elements per head.
    pub head_dim: usize,
    /// Longest sequence, in tokens.
    pub max_positions: usize,
    /// Whether the output head is the embedding matrix.
    pub tie_word_embeddings: bool,
    /// Whether there is a chat template.
    pub chat_template: bool,
    /// The token that ends a response.
    pub end_of_turn: String,
    /// The tokens at which generation stops.
    pub stop_tokens: Vec<String>,
    /// The adapter that the model is used with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<AdapterDescription>,
}

/// What there is to say about an adapter.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AdapterDescription {
    /// r.
    pub rank: usize,
    /// The numerator of its factor.
    pub alpha: f64,
    /// Whether the factor is over the root of the rank.
    pub rank_stabilized: bool,
    /// Number of its parameters.
    pub parameters: usize,
    /// The last parts of the names of the linear layers that have one.
    pub modules: Vec<String>,
}

impl AdapterDescription {
    fn new(adapter: &Adapter) -> Self {
        let LoraConfig { rank, alpha, rank_stabilized, .. } = *adapter.config();
        let modules = adapter.module_names().into_iter().map(String::from).collect();
        Self { rank, alpha, rank_stabilized, parameters: adapter.layout().len(), modules }
    }
}

/// SHA-256 of a file.
fn digest(path: &Path) -> Result<[u8; 32], FileError> {
    let mut file = topspin_files::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hash.finalize().into()),
            Ok(n) => hash.update(&buffer[..n]),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(FileError::new(Action::Read, path, e)),
        }
    }
}

#[cfg(test)]
mod tests;
