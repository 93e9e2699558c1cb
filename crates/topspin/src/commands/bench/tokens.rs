//! Token ids to work on: out of a file of ids, out of a data file, or random.

use std::path::{Path, PathBuf};

use anyhow::{anyhow, ensure};
use serde::Deserialize;
use topspin_data::Need;
use topspin_kernels::rng::{Key, Stream};

use super::subject::Subject;
use crate::input;

/// Where token ids come from.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "Work")]
pub struct TokenFlags {
    /// Take prompts and responses from this data file; needs a `--model`, whose tokenizer reads them
    ///
    /// They are as long as they are, whatever `--prompt-tokens` says. Where a generated response is wanted too, it is
    /// the real one of the next record.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["tokens", "architecture"])]
    data: Option<PathBuf>,
    /// Take token ids from this JSON file, so that another program can have the same [default: random]
    ///
    /// `prompts` is a list of lists of ids, `pairs` a list of objects with `prompt`, `real` and `generated`, `iteration`
    /// one of objects with `prompt` and `real`. They are as long as they are, whatever `--prompt-tokens` says.
    #[arg(long, value_name = "FILE")]
    tokens: Option<PathBuf>,
}

/// What a file of token ids holds.
#[derive(Default, Deserialize)]
struct TokenFile {
    #[serde(default)]
    prompts: Vec<Vec<u32>>,
    #[serde(default)]
    pairs: Vec<TokenPair>,
    #[serde(default)]
    iteration: Vec<TokenExample>,
}

/// Token ids of one pair.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct TokenPair {
    /// The prompt.
    pub prompt: Vec<u32>,
    /// The response from the data.
    pub real: Vec<u32>,
    /// The opponent's.
    pub generated: Vec<u32>,
}

/// Token ids of a prompt and its real response.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct TokenExample {
    /// The prompt.
    pub prompt: Vec<u32>,
    /// The response from the data.
    pub real: Vec<u32>,
}

impl TokenFlags {
    /// Whether token ids are random, so that their lengths are those that were asked for.
    pub fn are_random(&self) -> bool {
        self.data.is_none() && self.tokens.is_none()
    }

    /// `n` prompts; those of a file in turn, where it has fewer.
    pub fn prompts(&self, subject: &Subject, n: usize, len: usize) -> anyhow::Result<Vec<Vec<u32>>> {
        let prompts = match (&self.tokens, &self.data) {
            (Some(path), _) => some(path, "prompts", read(path)?.prompts)?,
            (None, Some(path)) => records(path, subject, Need::Prompt)?.into_iter().map(|line| line.prompt).collect(),
            (None, None) => {
                let random = Random::new(subject);
                (0..n as u64).map(|at| random.ids(at, len)).collect()
            }
        };
        Ok(prompts.into_iter().cycle().take(n).collect())
    }

    /// `n` pairs; those of a file in turn, where it has fewer.
    pub fn pairs(&self, subject: &Subject, n: usize, prompt: usize, response: usize) -> anyhow::Result<Vec<TokenPair>> {
        let pairs = match (&self.tokens, &self.data) {
            (Some(path), _) => some(path, "pairs", read(path)?.pairs)?,
            (None, Some(path)) => {
                let examples = examples(path, subject)?;
                let next = examples.clone().into_iter().cycle().skip(1);
                let pair = |(TokenExample { prompt, real }, next): (TokenExample, TokenExample)| TokenPair {
                    prompt,
                    real,
                    generated: next.real,
                };
                examples.into_iter().zip(next).map(pair).collect()
            }
            (None, None) => {
                let random = Random::new(subject);
                let pair = |at: u64| TokenPair {
                    prompt: random.ids(3 * at, prompt),
                    real: random.ids(3 * at + 1, response),
                    generated: random.ids(3 * at + 2, response),
                };
                (0..n as u64).map(pair).collect()
            }
        };
        Ok(pairs.into_iter().cycle().take(n).collect())
    }

    /// The first `n` prompts and real responses of a file, or all of them; random ones have any length from half to one
    /// and a half times the one asked for.
    pub fn examples(
        &self,
        subject: &Subject,
        n: Option<usize>,
        prompt: usize,
        response: usize,
    ) -> anyhow::Result<Vec<TokenExample>> {
        const RANDOM: usize = 64;
        let (path, mut examples) = match (&self.tokens, &self.data) {
            (Some(path), _) => (path, some(path, "iteration", read(path)?.iteration)?),
            (None, Some(path)) => (path, examples(path, subject)?),
            (None, None) => {
                let random = Random::new(subject);
                let example = |at: u64| TokenExample {
                    prompt: random.ids_about(2 * at, prompt),
                    real: random.ids_about(2 * at + 1, response),
                };
                return Ok((0..n.unwrap_or(RANDOM) as u64).map(example).collect());
            }
        };
        if let Some(n) = n {
            // Not in turn: a prompt that comes twice would be computed once, and the figures too good.
            let have = examples.len();
            ensure!(n <= have, "`{}` has {have} prompts; ask for at most so many with `--prompts`", path.display());
            examples.truncate(n);
        }
        Ok(examples)
    }
}

fn read(path: &Path) -> anyhow::Result<TokenFile> {
    let text = topspin_files::read_to_string(path)?;
    serde_json::from_str(&text).map_err(|e| anyhow!("`{}` does not hold token ids as wanted: {e}", path.display()))
}

fn some<T>(path: &Path, key: &str, list: Vec<T>) -> anyhow::Result<Vec<T>> {
    ensure!(!list.is_empty(), "`{}` has no `{key}`; give it some", path.display());
    Ok(list)
}

fn records(path: &Path, subject: &Subject, need: Need) -> anyhow::Result<Vec<input::Line>> {
    let dialect = subject.dialect().expect("the command line asks for a model beside a data file");
    let lines = input::read(path, need, None, dialect)?;
    lines.iter().try_for_each(|line| line.check_prompt(subject.config.max_positions))?;
    Ok(lines)
}

fn examples(path: &Path, subject: &Subject) -> anyhow::Result<Vec<TokenExample>> {
    let dialect = subject.dialect().expect("the command line asks for a model beside a data file");
    let example = |line: input::Line| {
        let real = line.response(dialect, subject.config.max_positions)?;
        Ok(TokenExample { prompt: line.prompt, real })
    };
    records(path, subject, Need::Response)?.into_iter().map(example).collect()
}

/// Random token ids, the same at every call.
struct Random {
    /// Those that may be drawn: no special tokens.
    ids: Vec<u32>,
    key: Key,
}

impl Random {
    fn new(subject: &Subject) -> Self {
        let tokenizer = subject.dialect().map(|dialect| dialect.tokenizer());
        let plain = |id: &u32| tokenizer.is_none_or(|tokenizer| !tokenizer.is_special(*id));
        Self { ids: (0..subject.config.vocab_size as u32).filter(plain).collect(), key: Key::new(0, "bench", 0) }
    }

    fn ids(&self, number: u64, len: usize) -> Vec<u32> {
        let stream = self.key.stream(number, 0);
        (0..len as u32).map(|at| self.ids[below(stream, at, self.ids.len())]).collect()
    }

    fn ids_about(&self, number: u64, len: usize) -> Vec<u32> {
        let (shortest, longest) = (len.div_ceil(2), len + len / 2);
        self.ids(number, shortest + below(self.key.stream(number, 1), 0, longest - shortest + 1))
    }
}

fn below(stream: Stream, at: u32, n: usize) -> usize {
    (stream.uniform(at) * n as f64) as usize
}
