//! Folders of `tests/golden` that hold a model and what it must compute.

use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use topspin_game::pair::{Response, Tree};
use topspin_kernels::cpu::Cpu;
use topspin_kernels::gemm::Precision;
use topspin_model::adapter::AdapterFiles;
use topspin_model::checkpoint::Checkpoint;
use topspin_model::config::DecoderConfig;
use topspin_model::decoder::Decoder;
use topspin_rollout::Finish;

use crate::common::decoder;

/// The pairs of a step of self-play, and what it must come to.
#[derive(Deserialize)]
pub struct Spin {
    pub beta: f64,
    pub pairs: Vec<TokenPair>,
    pub loss: f64,
    pub margins: Vec<f64>,
}

#[derive(Deserialize)]
pub struct TokenPair {
    pub prompt: Vec<u32>,
    pub real: Vec<u32>,
    pub generated: Vec<u32>,
}

/// A model, perhaps with an adapter, the scalars `E` and the tensors that it must compute.
pub struct Stored<E> {
    pub config: DecoderConfig,
    /// Those of the model alone.
    pub params: Vec<f32>,
    pub adapter: Option<AdapterFiles>,
    pub expected: E,
    tensors: Vec<u8>,
}

/// A folder of `tests/golden`.
pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name)
}

impl<E: DeserializeOwned> Stored<E> {
    /// A model's folder.
    pub fn read(folder: &Path) -> Self {
        Self::read_with(folder, folder, None)
    }

    /// An adapter's folder, and that of its model.
    pub fn read_adapter(folder: &Path, model: &Path) -> Self {
        let config = DecoderConfig::read(&model.join("config.json")).unwrap();
        Self::read_with(folder, model, Some(AdapterFiles::open(folder, &config).unwrap()))
    }

    fn read_with(folder: &Path, model: &Path, adapter: Option<AdapterFiles>) -> Self {
        let config = DecoderConfig::read(&model.join("config.json")).unwrap();
        let layout = config.layout();
        let mut params = vec![0.0; layout.len()];
        Checkpoint::open(model).unwrap().read_parameters(&layout, &mut params).unwrap();
        let expected = serde_json::from_slice(&std::fs::read(folder.join("expected.json")).unwrap()).unwrap();
        let tensors = std::fs::read(folder.join("expected.safetensors")).unwrap();
        Self { config, params, adapter, expected, tensors }
    }
}

impl<E> Stored<E> {
    pub fn tensor(&self, name: &str) -> Vec<f32> {
        let tensors = SafeTensors::deserialize(&self.tensors).unwrap();
        let (quads, rest) = tensors.tensor(name).unwrap().data().as_chunks();
        assert!(rest.is_empty());
        quads.iter().map(|&quad| f32::from_le_bytes(quad)).collect()
    }

    pub fn decoder(&self) -> Decoder<Cpu> {
        let decoder = decoder(&self.config, &self.params, Precision::F32);
        match &self.adapter {
            Some(files) => files.attach(decoder).unwrap(),
            None => decoder,
        }
    }

    /// The pairs, each a tree of its own, with the log-probabilities of the stored opponent.
    pub fn trees(&self, pairs: &[TokenPair]) -> Vec<Tree> {
        let tree = |(at, pair): (usize, &TokenPair)| {
            let response = |side: &str, tokens: &[u32]| {
                Response::new(tokens.to_vec(), self.tensor(&format!("opponent.{at}.{side}")), Finish::Stop)
            };
            Tree {
                prompt_id: at.to_string(),
                prompt: pair.prompt.clone(),
                real: response("real", &pair.real),
                generated: vec![response("generated", &pair.generated)],
                base: Vec::new(),
            }
        };
        pairs.iter().enumerate().map(tree).collect()
    }
}
