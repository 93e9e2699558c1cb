//! The tokenizer and chat template in a GGUF file, rebuilt as the model's own `tokenizer.json` has them.
//!
//! A file lists the tokens and says in one word of which kind the tokenizer is: byte-level BPE (`gpt2`, in
//! [`byte_level`]) or SentencePiece's BPE (`llama`, in [`sentencepiece`]). The rest is known by that word: it is what the
//! models of the kind are published with.

mod byte_level;
mod describe;
mod sentencepiece;

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value as Json, json};
use tokenizers::models::bpe::{BPE, BpeBuilder, Merges, Vocab};
use tokenizers::{AddedToken, DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper};

use super::{Gguf, Value, keys};
use crate::chat::ChatTemplate;
use crate::config::SpecialIds;
use crate::dialect::Dialect;
use crate::error::ModelError;
use crate::tokenizer::{Tokenizer, unreadable};
pub(super) use describe::{check, describe};

/// Token types in `tokenizer.ggml.token_type`, as SentencePiece numbers them.
const NORMAL: i64 = 1;
const UNKNOWN: i64 = 2;
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;
const UNUSED: i64 = 5;
const BYTE: i64 = 6;

/// Most bytes of a token. The longest of SmolLM2's takes 162, and what looks for special tokens in a text takes up to a
/// kilobyte of memory for each byte of them.
const MAX_TOKEN: usize = 1024;

/// Reads the tokenizer and compiles the chat template.
pub(crate) fn read_dialect(gguf: &Gguf) -> Result<Dialect, ModelError> {
    let tokenizer = read_tokenizer(gguf)?;
    let template = match gguf.text(keys::TEMPLATE)? {
        Some(source) => Some(ChatTemplate::new(&gguf.path, source, &tokenizer)?),
        None => None,
    };
    Ok(Dialect::new(tokenizer, template))
}

/// What tells one kind of tokenizer from another. The small parts are as `tokenizer.json` spells them.
struct Parts {
    model: BPE,
    normalizer: Json,
    pre_tokenizer: Json,
    /// For texts without a token added before or behind them.
    post_processor: Json,
    decoder: Json,
    /// Whether a text begins with a token for that, in files that do not say.
    add_bos: bool,
    /// The special tokens, if any, that take the white space behind them along.
    strips_right: fn(&str) -> bool,
}

fn read_tokenizer(gguf: &Gguf) -> Result<Tokenizer, ModelError> {
    let fail = |key: &str, problem: String| ModelError::config(&gguf.path, key, problem);
    let read_parts = match gguf.text(keys::TOKENIZER)? {
        Some("gpt2") => byte_level::read_parts,
        Some("llama") => sentencepiece::read_parts,
        Some(other) => {
            let problem = format!(
                "is `{other}`, which is not supported; it must be `gpt2` or `llama`, or use the model's Hugging Face \
                 folder"
            );
            return Err(fail(keys::TOKENIZER, problem));
        }
        None => return Err(fail(keys::TOKENIZER, "is missing".into())),
    };
    let vocabulary = Vocabulary::read(gguf)?;
    let parts = read_parts(gguf, &vocabulary)?;

    let tokens = vocabulary.tokens;
    let ids = special_ids(gguf)?;
    let all_ids = [ids.bos, ids.pad].into_iter().flatten().chain(ids.eos.iter().copied());
    if let Some(id) = all_ids.max().filter(|&id| id as usize >= tokens.len()) {
        return Err(fail(keys::TOKENS, format!("has {} tokens, but a special token has the id {id}", tokens.len())));
    }
    let eos = ids.eos.first().copied();
    let add_bos = gguf.bool(keys::ADD_BOS)?.unwrap_or(parts.add_bos);
    let add_eos = gguf.bool(keys::ADD_EOS)?.unwrap_or(false);
    let named = |id: u32| (id, &tokens[id as usize]);
    let post_processor = match (ids.bos.filter(|_| add_bos).map(named), eos.filter(|_| add_eos).map(named)) {
        (None, None) => parts.post_processor,
        (before, behind) => surround(before, behind),
    };

    let path = &gguf.path;
    let mut inner = tokenizers::Tokenizer::new(parts.model);
    inner.with_normalizer(part::<NormalizerWrapper>(path, parts.normalizer)?);
    inner.with_pre_tokenizer(part::<PreTokenizerWrapper>(path, parts.pre_tokenizer)?);
    inner.with_post_processor(part::<PostProcessorWrapper>(path, post_processor)?);
    inner.with_decoder(part::<DecoderWrapper>(path, parts.decoder)?);
    inner.add_tokens(&vocabulary.added(parts.strips_right));

    let token = |id: Option<u32>| id.map(|id| tokens[id as usize].as_str());
    let mut settings = Map::new();
    settings.insert("tokenizer_class".into(), "PreTrainedTokenizerFast".into());
    settings.insert("clean_up_tokenization_spaces".into(), false.into());
    settings.insert("add_bos_token".into(), add_bos.into());
    if add_eos {
        settings.insert("add_eos_token".into(), true.into());
    }
    settings.insert("bos_token".into(), json!(token(ids.bos)));
    settings.insert("eos_token".into(), json!(token(eos)));
    settings.insert("pad_token".into(), json!(token(ids.pad)));
    settings.insert("unk_token".into(), json!(token(vocabulary.unknown)));
    let architecture = gguf.text(keys::ARCHITECTURE)?.unwrap_or("llama");
    if let Some(longest) = gguf.count(&format!("{architecture}.{}", keys::CONTEXT))? {
        settings.insert("model_max_length".into(), longest.into());
    }
    Tokenizer::from_parts(path, inner, settings, &ids)
}

/// What a file lists about its tokens, the id of each being its place in the list.
struct Vocabulary<'a> {
    tokens: &'a [String],
    /// One for each token, or none at all.
    types: &'a [i64],
    /// The token for what the vocabulary has none for.
    unknown: Option<u32>,
}

impl<'a> Vocabulary<'a> {
    fn read(gguf: &'a Gguf) -> Result<Self, ModelError> {
        let fail = |key: &str, problem: String| Err(ModelError::config(&gguf.path, key, problem));
        let tokens = gguf.strings(keys::TOKENS)?;
        let mut seen = HashSet::with_capacity(tokens.len());
        for (id, token) in tokens.iter().enumerate() {
            if token.len() > MAX_TOKEN {
                let n = token.len();
                return fail(
                    keys::TOKENS,
                    format!("has a token of {n} bytes, number {id}; at most {MAX_TOKEN} are possible"),
                );
            }
            if !seen.insert(token.as_str()) {
                return fail(keys::TOKENS, format!("has the token {token:?} twice"));
            }
        }
        let types = match gguf.value(keys::TOKEN_TYPES) {
            None => &[],
            Some(Value::Ints(list)) if list.len() == tokens.len() => list.as_slice(),
            Some(_) => {
                return fail(
                    keys::TOKEN_TYPES,
                    format!("is not a list of {} numbers, one for each token", tokens.len()),
                );
            }
        };
        let named = gguf.token_id(keys::UNKNOWN_TOKEN)?.filter(|&id| (id as usize) < tokens.len());
        let typed = || types.iter().zip(0..).find_map(|(&kind, id)| (kind == UNKNOWN).then_some(id));
        Ok(Self { tokens, types, unknown: named.or_else(typed) })
    }

    fn kind(&self, id: usize) -> i64 {
        self.types.get(id).copied().unwrap_or(NORMAL)
    }

    /// A model of these tokens and merges.
    fn model(
        &self,
        path: &Path,
        merges: Merges,
        configure: impl Fn(BpeBuilder) -> BpeBuilder,
    ) -> Result<BPE, ModelError> {
        let vocabulary: Vocab = self.tokens.iter().cloned().zip(0..).collect();
        let builder = configure(BPE::builder().vocab_and_merges(vocabulary, merges));
        builder.build().map_err(|e| unreadable(path, e))
    }

    /// The tokens that are found in a text before anything else is done to it.
    fn added(&self, strips_right: fn(&str) -> bool) -> Vec<AddedToken> {
        let kinds = (0..self.tokens.len()).map(|id| self.kind(id));
        let added = self.tokens.iter().zip(kinds).filter(|(_, kind)| [UNKNOWN, CONTROL, USER_DEFINED].contains(kind));
        let added = added.map(|(token, kind)| {
            AddedToken::from(token.as_str(), kind != USER_DEFINED).normalized(false).rstrip(strips_right(token))
        });
        added.collect()
    }
}

fn special_ids(gguf: &Gguf) -> Result<SpecialIds, ModelError> {
    let mut eos = Vec::new();
    for key in keys::ENDS {
        if let Some(id) = gguf.token_id(key)?
            && !eos.contains(&id)
        {
            eos.push(id);
        }
    }
    Ok(SpecialIds { bos: gguf.token_id(keys::BOS)?, eos, pad: gguf.token_id(keys::PADDING)? })
}

/// A part of a tokenizer from its JSON, or none from `null`.
fn part<T: DeserializeOwned>(path: &Path, definition: Json) -> Result<Option<T>, ModelError> {
    serde_json::from_value(definition).map_err(|e| unreadable(path, e))
}

/// The post-processor that puts one token before a text, or behind it, or both.
fn surround(before: Option<(u32, &String)>, behind: Option<(u32, &String)>) -> Json {
    let sequence = |name: &str, type_id: u32| {
        let special = |(_, token)| json!({ "SpecialToken": { "id": token, "type_id": type_id } });
        let text = json!({ "Sequence": { "id": name, "type_id": type_id } });
        before.map(special).into_iter().chain([text]).chain(behind.map(special)).collect::<Vec<_>>()
    };
    let special: Map<String, Json> = before
        .into_iter()
        .chain(behind)
        .map(|(id, token)| (token.clone(), json!({ "id": token, "ids": [id], "tokens": [token] })))
        .collect();
    let pair = [sequence("A", 0), sequence("B", 1)].concat();
    json!({
        "type": "TemplateProcessing",
        "single": sequence("A", 0),
        "pair": pair,
        "special_tokens": special,
    })
}
