//! Models and data sets from the Hugging Face Hub, through its cache.

mod data;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hf_hub::progress::{DownloadEvent, ProgressEvent, ProgressHandler};
use hf_hub::repository::{RepoType, RepoTypeModel};
use hf_hub::{HFClient, HFClientSync, HFError, HFRepositorySync};
use serde_json::Value;

use crate::adapter;
use crate::error::ModelError;
use crate::tokenizer::read_object;

/// Called as a file arrives, with its name, the bytes so far and the bytes in all (0 if unknown). It must not block.
pub type Progress = Arc<dyn Fn(&str, u64, u64) + Send + Sync>;

/// Where models and data sets are fetched from and kept.
///
/// What is not set here comes from the environment as in `huggingface_hub`: `HF_ENDPOINT`, `HF_TOKEN` (or the login
/// that is stored), `HF_HUB_CACHE` or `HF_HOME`.
#[derive(Clone, Default)]
pub struct Hub {
    /// The server; by default the public one.
    pub endpoint: Option<String>,
    /// The folder of the cache, in the layout that all Hugging Face libraries share.
    pub cache: Option<PathBuf>,
    /// Whether to use the cache only.
    pub offline: bool,
    /// Told of each file as it arrives.
    pub progress: Option<Progress>,
}

/// Files that a model may do without; of its card the licence is passed on.
const OPTIONAL: [&str; 7] = [
    "README.md",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
];

impl Hub {
    /// The Hub as the environment describes it; `HF_HUB_OFFLINE` set to a true value keeps to the cache.
    pub fn from_env() -> Self {
        let offline = std::env::var("HF_HUB_OFFLINE").is_ok_and(|value| is_true(&value));
        Self { offline, ..Self::default() }
    }

    /// Fetches what is not in the cache of a model named `org/name` or `org/name@revision`, and returns its folder.
    ///
    /// All files are of one commit, the one that the revision (by default `main`) names when the first is fetched.
    pub fn fetch(&self, model: &str) -> Result<PathBuf, ModelError> {
        let (id, revision) = model.split_once('@').unwrap_or((model, "main"));
        let (owner, name) = hf_hub::split_id(id);
        if !(is_name(name) && (is_name(owner) || !id.contains('/'))) || revision.is_empty() {
            let problem = "a model on the Hub is written `hf:org/name` or `hf:org/name@revision`".into();
            return Err(ModelError::NotAModel { spec: format!("hf:{model}"), problem });
        }
        self.connect(model, "model", |client| client.model(owner, name))?.all(revision)
    }

    /// Opens the repository that `spec` names, of the kind `noun`.
    fn connect<'a, T: RepoType>(
        &'a self,
        spec: &'a str,
        noun: &'static str,
        open: impl FnOnce(&HFClientSync) -> HFRepositorySync<T>,
    ) -> Result<Fetch<'a, T>, ModelError> {
        let mut builder = HFClient::builder();
        if let Some(endpoint) = &self.endpoint {
            builder = builder.endpoint(endpoint);
        }
        if let Some(cache) = &self.cache {
            builder = builder.cache_dir(cache);
        }
        let fail = |problem: String| ModelError::Hub { repo: format!("hf:{spec}"), problem };
        let client = builder.build().map_err(|e| fail(e.to_string()))?;
        let endpoint = client.endpoint().to_owned();
        let cache = client.cache_dir().to_owned();
        let client = HFClientSync::from_inner(client).map_err(|e| fail(e.to_string()))?;
        Ok(Fetch { hub: self, spec, noun, endpoint, cache, repo: open(&client) })
    }
}

/// Whether a repository or its owner may be called so.
fn is_name(part: &str) -> bool {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !part.is_empty() && part.chars().all(is_allowed) && !part.starts_with('.')
}

/// The folder in the cache that holds the repository's file `name`, and its commit: the file is `snapshots/<commit>/<name>`.
fn snapshot(file: &Path, name: &str, revision: &str) -> (PathBuf, String) {
    let dir = file.ancestors().nth(Path::new(name).components().count()).unwrap_or(Path::new(""));
    let commit = dir.file_name().and_then(|name| name.to_str()).unwrap_or(revision);
    (dir.to_owned(), commit.to_owned())
}

/// One repository being fetched.
struct Fetch<'a, T: RepoType> {
    hub: &'a Hub,
    /// As the user named it, behind `hf:`.
    spec: &'a str,
    /// What it is.
    noun: &'static str,
    endpoint: String,
    cache: PathBuf,
    repo: HFRepositorySync<T>,
}

impl Fetch<'_, RepoTypeModel> {
    /// Fetches a model, or an adapter of one.
    fn all(&self, revision: &str) -> Result<PathBuf, ModelError> {
        let Some(config) = self.file("config.json", revision)? else {
            return self.adapter(revision)?.ok_or_else(|| self.absent("config.json"));
        };
        let (dir, commit) = snapshot(&config, "config.json", revision);
        for name in OPTIONAL {
            self.pinned(name, &commit)?;
        }
        let index_name = "model.safetensors.index.json";
        if self.pinned("model.safetensors", &commit)?.is_some() {
            return Ok(dir);
        }
        let Some(index) = self.pinned(index_name, &commit)? else {
            return Err(self.absent("model.safetensors` or `model.safetensors.index.json"));
        };
        let index = read_object(index)?.unwrap_or_default();
        let map = index.get("weight_map").and_then(Value::as_object);
        let mut shards: Vec<&str> = map.into_iter().flat_map(|map| map.values()).filter_map(Value::as_str).collect();
        shards.sort_unstable();
        shards.dedup();
        for shard in shards {
            self.pinned(shard, &commit)?.ok_or_else(|| self.absent(shard))?;
        }
        Ok(dir)
    }

    /// Fetches an adapter, if the repository is one's.
    fn adapter(&self, revision: &str) -> Result<Option<PathBuf>, ModelError> {
        let Some(settings) = self.file(adapter::SETTINGS, revision)? else { return Ok(None) };
        let (dir, commit) = snapshot(&settings, adapter::SETTINGS, revision);
        self.pinned(adapter::WEIGHTS, &commit)?.ok_or_else(|| self.absent(adapter::WEIGHTS))?;
        Ok(Some(dir))
    }
}

impl<T: RepoType> Fetch<'_, T> {
    /// A file of a fixed commit, which can be taken from the cache unasked: it never changes.
    fn pinned(&self, name: &str, commit: &str) -> Result<Option<PathBuf>, ModelError> {
        match self.repo.download_file().filename(name).revision(commit).local_files_only(true).send() {
            Ok(path) => Ok(Some(path)),
            // The cache remembers what a commit does not have.
            Err(HFError::EntryNotFound { .. }) => Ok(None),
            Err(HFError::LocalEntryNotFound { .. }) if self.hub.offline => Ok(None),
            Err(HFError::LocalEntryNotFound { .. }) => self.file(name, commit),
            Err(e) => Err(self.fail(e)),
        }
    }

    /// A file of a revision, or `None` if the repository does not have it.
    fn file(&self, name: &str, revision: &str) -> Result<Option<PathBuf>, ModelError> {
        let report = self.hub.progress.clone().map(|report| Report { file: name.to_owned(), report });
        let request = self.repo.download_file().filename(name).revision(revision).local_files_only(self.hub.offline);
        match request.maybe_progress(report.map(hf_hub::progress::Progress::new)).send() {
            Ok(path) => Ok(Some(path)),
            Err(HFError::EntryNotFound { .. } | HFError::LocalEntryNotFound { .. }) => Ok(None),
            Err(e) => Err(self.fail(e)),
        }
    }

    fn absent(&self, file: &str) -> ModelError {
        let problem = if self.hub.offline {
            let cache = self.cache.display();
            format!("`{file}` is not in the cache `{cache}`, and `HF_HUB_OFFLINE` is set; unset it to fetch the file")
        } else {
            format!(
                "there is no such {} at {}, or it has no `{file}`; check the name and the revision",
                self.noun, self.endpoint
            )
        };
        self.problem(problem)
    }

    fn problem(&self, problem: String) -> ModelError {
        ModelError::Hub { repo: format!("hf:{}", self.spec), problem }
    }

    fn fail(&self, error: HFError) -> ModelError {
        let endpoint = &self.endpoint;
        let problem = match error {
            HFError::AuthRequired { .. } => format!(
                "there is no such {}, or it asks for a login; check the name, and set `HF_TOKEN` if it is private",
                self.noun
            ),
            HFError::Forbidden { .. } => {
                "access to it is restricted; accept its terms on its page, and set `HF_TOKEN` to a token that may read"
                    .into()
            }
            HFError::RateLimited { .. } => "the Hub turns down so many requests; wait, or set `HF_TOKEN`".into(),
            HFError::Request { source, .. } => format!(
                "{endpoint} cannot be reached ({source}); check the network, or set `HF_HUB_OFFLINE=1` to use the cache"
            ),
            HFError::Io(e) => format!("the cache `{}` cannot be used: {e}", self.cache.display()),
            other => other.to_string(),
        };
        self.problem(problem)
    }
}

/// Passes the bytes of one file on.
struct Report {
    file: String,
    report: Progress,
}

impl ProgressHandler for Report {
    fn on_progress(&self, event: &ProgressEvent) {
        match event {
            ProgressEvent::Download(DownloadEvent::Progress { files }) => {
                for file in files {
                    (self.report)(&self.file, file.bytes_completed, file.total_bytes);
                }
            }
            ProgressEvent::Download(DownloadEvent::AggregateProgress { bytes_completed, total_bytes, .. }) => {
                (self.report)(&self.file, *bytes_completed, *total_bytes);
            }
            _ => {}
        }
    }
}

/// The spellings that `huggingface_hub` takes for true.
fn is_true(value: &str) -> bool {
    ["1", "on", "yes", "true"].contains(&value.to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests;
