//! Records as the commands read them: the fields of a line or a row, which go into the output again, and the record that
//! they hold.

use std::collections::HashMap;
use std::path::Path;

use anyhow::anyhow;
use serde::Deserialize;
use topspin_data::{DataError, Fault, Fields, Need, Options, Record};
use topspin_game::tree::TokenTree;
use topspin_model::chat::Message;
use topspin_model::dialect::Dialect;

/// One record of an input file.
pub struct Line {
    /// The fields as they stand in the file.
    pub fields: Fields,
    /// What they say.
    pub record: Record,
    /// Token ids of the prompt.
    pub prompt: Vec<u32>,
}

/// Reads the first `limit` records of a file, or of stdin for `-`, and tokenizes their prompts.
pub fn read(path: &Path, need: Need, limit: Option<usize>, dialect: &Dialect) -> anyhow::Result<Vec<Line>> {
    let options = Options::new(need);
    let line = |found: Result<_, DataError>| {
        let (fields, record) = found?;
        Line::new(fields, record, dialect)
    };
    topspin_data::records(path, &options)?.take(limit.unwrap_or(usize::MAX)).map(line).collect()
}

/// A record's prompt, as a chat template takes it.
pub fn messages(record: &Record) -> Vec<Message> {
    record.messages.iter().map(|message| Message::new(&message.role, &message.content)).collect()
}

/// An error about a record, with its place.
pub fn at(record: &Record, problem: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("{}: {problem}", record.place)
}

impl Line {
    /// Tokenizes the prompt of a record.
    pub fn new(fields: Fields, record: Record, dialect: &Dialect) -> anyhow::Result<Self> {
        let prompt = dialect.encode_prompt(&messages(&record)).map_err(|e| at(&record, e))?;
        Ok(Self { fields, record, prompt })
    }

    /// Checks that the prompt leaves room for a response.
    pub fn check_prompt(&self, context: usize) -> anyhow::Result<()> {
        let tokens = self.prompt.len();
        match tokens {
            0 => Err(at(&self.record, "the prompt has no tokens; give it some text")),
            _ if tokens < context => Ok(()),
            _ => {
                let most = context - 1;
                let problem = format!(
                    "the prompt has {tokens} tokens, which leaves no room for a response in the model's context of \
                     {context}; shorten it to {most} tokens or fewer"
                );
                Err(at(&self.record, problem))
            }
        }
    }

    /// The tokens of the response, checked to fit into the context behind the prompt.
    ///
    /// Where the line has `token_ids` that spell its response, as a line that `topspin generate` wrote does, they are
    /// taken: encoding the text again may give others.
    pub fn response(&self, dialect: &Dialect, context: usize) -> anyhow::Result<Vec<u32>> {
        let text = self.record.response.as_ref().ok_or_else(|| self.no_response())?;
        let generated = self.fields.get("token_ids").and_then(|ids| Vec::<u32>::deserialize(ids).ok());
        let vocabulary = dialect.tokenizer().vocab_size();
        let spells = |ids: &Vec<u32>| {
            !ids.is_empty() && ids.iter().all(|&id| (id as usize) < vocabulary) && dialect.decode_response(ids) == *text
        };
        match generated.filter(spells) {
            Some(ids) => self.check_response(context, ids),
            None => self.encode(dialect, context, text),
        }
    }

    /// The error of a line that needs a response and has none.
    pub fn no_response(&self) -> anyhow::Error {
        DataError::Record { place: self.record.place.clone(), fault: Fault::NoResponse }.into()
    }

    /// The tokens of a text as a response, checked to fit into the context behind the prompt.
    pub fn encode(&self, dialect: &Dialect, context: usize, text: &str) -> anyhow::Result<Vec<u32>> {
        let ids = dialect.encode_response(text).map_err(|e| at(&self.record, e))?;
        self.check_response(context, ids)
    }

    /// Checks that tokens fit into the context behind the prompt.
    pub fn check_response(&self, context: usize, ids: Vec<u32>) -> anyhow::Result<Vec<u32>> {
        self.check_prompt(context)?;
        let (prompt, response) = (self.prompt.len(), ids.len());
        // The last token is predicted, but not fed.
        if prompt + response <= context + 1 {
            return Ok(ids);
        }
        let problem = format!(
            "prompt and response have {prompt} + {response} tokens, more than the model's context of {context}; shorten \
             one of them"
        );
        Err(at(&self.record, problem))
    }

    /// The prompt with some responses.
    pub fn tree<'a>(&'a self, responses: Vec<&'a [u32]>) -> TokenTree<'a> {
        TokenTree { prompt_id: &self.record.id, prompt: &self.prompt, responses, turns: &[] }
    }

    /// The fields without those that the output sets.
    pub fn fields_without(&self, keys: &[&str]) -> Fields {
        let mut fields = self.fields.clone();
        keys.iter().for_each(|key| {
            fields.shift_remove(*key);
        });
        fields
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
