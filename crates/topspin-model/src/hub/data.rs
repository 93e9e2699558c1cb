//! Data sets on the Hub: which of their files are meant, and fetching those.

use std::fs;
use std::path::{Path, PathBuf};

use hf_hub::HFError;
use hf_hub::repository::{RepoTreeEntry, RepoTypeDataset};

use super::{Fetch, Hub, snapshot};
use crate::error::ModelError;

/// What names of data files end with, before what they may be compressed with.
const FORMATS: [&str; 6] = ["jsonl", "ndjson", "json", "csv", "tsv", "parquet"];

impl Hub {
    /// Fetches what is not in the cache of the files that `spec` names, `org/name` or `org/name@revision`, and returns
    /// them in the order of their names.
    ///
    /// Behind a further slash stands a path in the repository, or a pattern with `*` and `?`, which stop at a slash. Without
    /// one, the data files of the folder are meant that have `train` as a word in their path: so the Hub tells splits apart.
    /// All files are of one commit, the one that the revision (by default `main`) names when the first is fetched.
    pub fn fetch_data(&self, spec: &str) -> Result<Vec<PathBuf>, ModelError> {
        let mut parts = spec.splitn(3, '/');
        let (owner, rest) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let (name, revision) = rest.split_once('@').unwrap_or((rest, "main"));
        if !(super::is_name(owner) && super::is_name(name)) || revision.is_empty() {
            let problem =
                "a data set on the Hub is written `hf:org/name`, with `@revision` and `/PATTERN` behind it at will";
            return Err(ModelError::Hub { repo: format!("hf:{spec}"), problem: problem.into() });
        }
        let fetch = self.connect(spec, "data set", |client| client.dataset(owner, name))?;
        let listed = if self.offline {
            let folder = fetch.cache.join(format!("datasets--{owner}--{name}"));
            cached(&folder, revision)
        } else {
            fetch.listed(revision)?
        };
        let chosen = choose(listed, parts.next()).map_err(|problem| fetch.problem(problem))?;
        let mut files = Vec::new();
        let mut commit = revision.to_owned();
        for path in &chosen {
            let file = if files.is_empty() { fetch.file(path, &commit)? } else { fetch.pinned(path, &commit)? };
            let file = file.ok_or_else(|| fetch.absent(path))?;
            (_, commit) = snapshot(&file, path, revision);
            files.push(file);
        }
        Ok(files)
    }
}

impl Fetch<'_, RepoTypeDataset> {
    /// Paths of all files.
    fn listed(&self, revision: &str) -> Result<Vec<String>, ModelError> {
        let path = |entry| match entry {
            RepoTreeEntry::File { path, .. } => Some(path),
            RepoTreeEntry::Directory { .. } => None,
        };
        match self.repo.list_tree().revision(revision).recursive(true).send() {
            Ok(entries) => Ok(entries.into_iter().filter_map(path).collect()),
            Err(HFError::Http { context }) if context.status.as_u16() == 404 => {
                let problem =
                    format!("there is no such data set at {}; check the name and the revision", self.endpoint);
                Err(self.problem(problem))
            }
            Err(e) => Err(self.fail(e)),
        }
    }
}

/// Paths of the files of a revision that are in the cache of a repository.
fn cached(repo: &Path, revision: &str) -> Vec<String> {
    let commit = fs::read_to_string(repo.join("refs").join(revision)).unwrap_or_else(|_| revision.into());
    let root = repo.join("snapshots").join(commit.trim());
    let (mut paths, mut folders) = (Vec::new(), vec![root.clone()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
            if entry.is_dir() {
                folders.push(entry);
            } else if let Some(path) = entry.strip_prefix(&root).ok().and_then(Path::to_str) {
                paths.push(path.to_owned());
            }
        }
    }
    paths
}

/// The files that are meant, sorted.
fn choose(mut paths: Vec<String>, pattern: Option<&str>) -> Result<Vec<String>, String> {
    paths.sort();
    let some = |paths: &[String]| paths.iter().take(5).map(|path| format!("`{path}`")).collect::<Vec<_>>().join(", ");
    if let Some(pattern) = pattern {
        let options = glob::MatchOptions { require_literal_separator: true, ..glob::MatchOptions::default() };
        let wanted =
            glob::Pattern::new(pattern).map_err(|e| format!("`{pattern}` is no pattern ({}); mend it", e.msg))?;
        let matching: Vec<_> = paths.iter().filter(|path| wanted.matches_with(path, options)).cloned().collect();
        return match matching.is_empty() {
            true => Err(format!("no file matches `{pattern}`; there are {}", some(&paths))),
            false => Ok(matching),
        };
    }
    let is_training = |path: &String| {
        let plain = path.strip_suffix(".gz").or(path.strip_suffix(".zst")).unwrap_or(path);
        let is_data = plain.rsplit_once('.').is_some_and(|(_, format)| FORMATS.contains(&format));
        is_data && path.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word == "train")
    };
    let training: Vec<_> = paths.iter().filter(|path| is_training(path)).cloned().collect();
    let folder = |path: &String| path.rsplit_once('/').map_or(String::new(), |(folder, _)| folder.to_owned());
    match &training[..] {
        [] => Err(format!(
            "no data file has `train` as a word in its path; name files behind a slash, as `hf:org/name/PATTERN`; there are \
             {}",
            some(&paths)
        )),
        [first, others @ ..] if others.iter().all(|path| folder(path) == folder(first)) => Ok(training),
        several => Err(format!(
            "there are files to train on in several folders; name some behind a slash, as `hf:org/name/PATTERN`: {}",
            some(several)
        )),
    }
}
