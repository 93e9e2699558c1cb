//! Lines of JSON as the commands read them: the object itself, which goes into the output again, and the record that
//! it holds.

use std::collections::HashMap;
use std::io::{Read, stdin};
use std::path::Path;

use anyhow::{Context, anyhow};
use serde::Deserialize;
use serde_json::{Map, Value};
use topspin_data::{DataError, Fault, Need, Record};
use topspin_game::tree::TokenTree;
use topspin_model::chat::Message;
use topspin_model::dialect::Dialect;

/// One record of an input file.
pub struct Line {
    /// The object as it stands in the file.
    pub object: Map<String, Value>,
    /// What it says.
    pub record: Record,
    /// Token ids of the prompt.
    pub prompt: Vec<u32>,
}

/// Reads all records of a file, or of stdin for `-`, and tokenizes their prompts.
pub fn read(path: &Path, need: Need, limit: Option<usize>, dialect: &Dialect) -> anyhow::Result<Vec<Line>> {
    let bytes = if path == Path::new("-") {
        let mut bytes = Vec::new();
        stdin().lock().read_to_end(&mut bytes).context("cannot read stdin")?;
        bytes
    } else {
        topspin_files::read(path)?
    };
    let records = topspin_data::parse_records(&bytes[..], path, need)?.records;
    // Once more for the fields that a record does not hold: they belong into the output.
    let lines: Vec<&[u8]> = bytes.split(|&byte| byte == b'\n').collect();
    let line = |record: Record| {
        let line = lines[record.line - 1];
        let object = serde_json::from_slice(line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line))?;
        let messages: Vec<Message> = record.messages.iter().map(|m| Message::new(&m.role, &m.content)).collect();
        let prompt = dialect.encode_prompt(&messages).map_err(|e| at(path, &record, e))?;
        Ok(Line { object, record, prompt })
    };
    records.into_iter().take(limit.unwrap_or(usize::MAX)).map(line).collect()
}

/// An error about a record, with its place.
pub fn at(path: &Path, record: &Record, problem: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("`{}`, line {}: {problem}", path.display(), record.line)
}

impl Line {
    /// Checks that the prompt leaves room for a response.
    pub fn check_prompt(&self, path: &Path, context: usize) -> anyhow::Result<()> {
        let tokens = self.prompt.len();
        match tokens {
            0 => Err(at(path, &self.record, "the prompt has no tokens; give it some text")),
            _ if tokens < context => Ok(()),
            _ => {
                let most = context - 1;
                let problem = format!(
                    "the prompt has {tokens} tokens, which leaves no room for a response in the model's context of \
                     {context}; shorten it to {most} tokens or fewer"
                );
                Err(at(path, &self.record, problem))
            }
        }
    }

    /// The tokens of the response, checked to fit into the context behind the prompt.
    ///
    /// Where the line has `token_ids` that spell its response, as a line that `topspin generate` wrote does, they are
    /// taken: encoding the text again may give others.
    pub fn response(&self, path: &Path, dialect: &Dialect, context: usize) -> anyhow::Result<Vec<u32>> {
        let text = self.record.response.as_ref().ok_or_else(|| self.no_response(path))?;
        let generated = self.object.get("token_ids").and_then(|ids| Vec::<u32>::deserialize(ids).ok());
        let vocabulary = dialect.tokenizer().vocab_size();
        let spells = |ids: &Vec<u32>| {
            !ids.is_empty() && ids.iter().all(|&id| (id as usize) < vocabulary) && dialect.decode_response(ids) == *text
        };
        match generated.filter(spells) {
            Some(ids) => self.check_response(path, context, ids),
            None => self.encode(path, dialect, context, text),
        }
    }

    /// The error of a line that needs a response and has none.
    pub fn no_response(&self, path: &Path) -> anyhow::Error {
        DataError::Record { path: path.into(), line: self.record.line, fault: Fault::NoResponse }.into()
    }

    /// The tokens of a text as a response, checked to fit into the context behind the prompt.
    pub fn encode(&self, path: &Path, dialect: &Dialect, context: usize, text: &str) -> anyhow::Result<Vec<u32>> {
        let ids = dialect.encode_response(text).map_err(|e| at(path, &self.record, e))?;
        self.check_response(path, context, ids)
    }

    fn check_response(&self, path: &Path, context: usize, ids: Vec<u32>) -> anyhow::Result<Vec<u32>> {
        self.check_prompt(path, context)?;
        let (prompt, response) = (self.prompt.len(), ids.len());
        // The last token is predicted, but not fed.
        if prompt + response <= context + 1 {
            return Ok(ids);
        }
        let problem = format!(
            "prompt and response have {prompt} + {response} tokens, more than the model's context of {context}; shorten \
             one of them"
        );
        Err(at(path, &self.record, problem))
    }

    /// The prompt with some responses.
    pub fn tree<'a>(&'a self, responses: Vec<&'a [u32]>) -> TokenTree<'a> {
        TokenTree { prompt_id: &self.record.id, prompt: &self.prompt, responses }
    }

    /// The object without the keys that the output sets.
    pub fn object_without(&self, keys: &[&str]) -> Map<String, Value> {
        let mut object = self.object.clone();
        keys.iter().for_each(|key| {
            object.shift_remove(*key);
        });
        object
    }
}

/// Numbers prompts by their content and, where a prompt comes again, each time anew: (prompt, how often it came before).
///
/// So what a line gets does not depend on where it stands, nor on the other lines.
pub fn keys(lines: &[Line]) -> Vec<(u64, u32)> {
    let mut met: HashMap<u64, u32> = HashMap::new();
    let key = |line: &Line| {
        let hash = line.record.prompt_hash();
        let prompt = u64::from_le_bytes(hash[..8].try_into().expect("a hash has 32 bytes"));
        let before = met.entry(prompt).or_default();
        *before += 1;
        (prompt, *before - 1)
    };
    lines.iter().map(key).collect()
}
