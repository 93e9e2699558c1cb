//! What can go wrong with a model's files, each said in one sentence.

use std::path::{Path, PathBuf};

use topspin_files::FileError;

/// A model that cannot be found, read, used or saved.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file could not be opened, read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// What was named as a model is none.
    #[error("`{spec}` is not a model: {problem}")]
    NotAModel {
        /// The model as the user named it.
        spec: String,
        /// Why, and what would mend it.
        problem: String,
    },
    /// A file that should be JSON is not.
    #[error("`{}` is not valid JSON: {problem}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What the parser said, with line and column.
        problem: String,
    },
    /// A setting of the model is missing, out of range, or asks for arithmetic that the decoder does not have.
    #[error("`{key}` in `{}` {problem}", path.display())]
    Config {
        /// `config.json`, or the GGUF file.
        path: PathBuf,
        /// The key as that file spells it.
        key: String,
        /// The rest of the sentence.
        problem: String,
    },
    /// The model is of a family that the decoder does not run.
    #[error(
        "`{}` describes a model of the architecture `{found}`, which is not supported; choose one of {known}",
        path.display()
    )]
    Architecture {
        /// `config.json`, or the GGUF file.
        path: PathBuf,
        /// The architecture it names.
        found: String,
        /// Those that are supported, as such a file names them.
        known: String,
    },
    /// An adapter's settings do not fit the model.
    #[error("cannot use the adapter of `{}`: {problem}", path.display())]
    Adapter {
        /// `adapter_config.json`.
        path: PathBuf,
        /// Why, and what would mend it.
        problem: String,
    },
    /// The model that an adapter was trained on is not where its settings say.
    #[error(
        "the adapter `{}` is of a model that cannot be opened: {problem} (`base_model_name_or_path` in its `adapter_config.json` \
         names it)",
        adapter.display()
    )]
    AdapterBase {
        /// The adapter's folder.
        adapter: PathBuf,
        /// What is wrong with the model.
        problem: String,
    },
    /// A weight file as a whole cannot be used.
    #[error("cannot use the weights in `{}`: {problem}", path.display())]
    Weights {
        /// The weight file, or the folder that lacks one.
        path: PathBuf,
        /// Why, and what would mend it.
        problem: String,
    },
    /// One tensor of a weight file cannot be used.
    #[error("tensor `{tensor}` in `{}` {problem}", path.display())]
    Tensor {
        /// The weight file.
        path: PathBuf,
        /// The tensor as that file spells it.
        tensor: String,
        /// The rest of the sentence.
        problem: String,
    },
    /// The tokenizer's definition cannot be used.
    #[error("cannot use the tokenizer in `{}`: {problem}", path.display())]
    Tokenizer {
        /// The file that defines it, or the folder that lacks one.
        path: PathBuf,
        /// Why, and what would mend it.
        problem: String,
    },
    /// A text cannot be expressed in the tokenizer's vocabulary.
    #[error("cannot turn the text {text:?} into tokens: {problem}")]
    Encode {
        /// The text, cut after some characters.
        text: String,
        /// What the tokenizer said.
        problem: String,
    },
    /// A conversation cannot be put into the model's format.
    #[error("cannot apply the chat template of `{}`: {problem}", path.display())]
    Template {
        /// The file that holds the template.
        path: PathBuf,
        /// What the template engine said.
        problem: String,
    },
    /// A model cannot be written in a format.
    #[error("cannot export `{}` as GGUF: {problem}", path.display())]
    Export {
        /// The model.
        path: PathBuf,
        /// What the format cannot hold, and what would mend it.
        problem: String,
    },
    /// A model or a data set could not be fetched from the Hugging Face Hub, or is not in its cache.
    #[error("cannot fetch `{repo}`: {problem}")]
    Hub {
        /// The model as the user named it, with `hf:`.
        repo: String,
        /// Why, and what would mend it.
        problem: String,
    },
}

impl ModelError {
    /// A [`ModelError::Config`] from its parts.
    pub(crate) fn config(path: &Path, key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Config { path: path.into(), key: key.into(), problem: problem.into() }
    }

    /// A [`ModelError::Weights`] from its parts.
    pub(crate) fn weights(path: &Path, problem: impl Into<String>) -> Self {
        Self::Weights { path: path.into(), problem: problem.into() }
    }

    /// A [`ModelError::Tensor`] from its parts.
    pub(crate) fn tensor(path: &Path, tensor: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Tensor { path: path.into(), tensor: tensor.into(), problem: problem.into() }
    }

    /// A [`ModelError::Tokenizer`] from its parts.
    pub(crate) fn tokenizer(path: &Path, problem: impl Into<String>) -> Self {
        Self::Tokenizer { path: path.into(), problem: problem.into() }
    }
}
