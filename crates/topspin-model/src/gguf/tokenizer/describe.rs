//! From a tokenizer and a chat template to what a GGUF file says of them.
//!
//! A file names the kind of the tokenizer and leaves the rest to what is known by that name. So a tokenizer can be written
//! if it is one that [`read_dialect`] would rebuild from the file, and that is checked by rebuilding it.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Deserialize;
use serde_json::Value as Json;

use super::{
    BYTE, CONTROL, Gguf, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, Value, byte_level, keys, read_dialect, sentencepiece,
};
use crate::dialect::Dialect;
use crate::tokenizer::Tokenizer;

const FOLDER: &str = "export a Hugging Face folder";

/// What the `tokenizers` library writes of a tokenizer, as far as a file tells of it.
#[derive(Deserialize)]
struct Definition {
    added_tokens: Vec<AddedToken>,
    normalizer: Json,
    pre_tokenizer: Json,
    model: Json,
}

/// A token that is found in a text before anything else is done to it.
#[derive(Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
    normalized: bool,
    special: bool,
}

/// A byte-pair model.
#[derive(Deserialize)]
pub(super) struct Model {
    pub vocab: HashMap<String, u32>,
    pub merges: Vec<(String, String)>,
    pub unk_token: Option<String>,
    pub byte_fallback: bool,
    pub ignore_merges: bool,
}

/// The metadata of a file with this tokenizer and template, for a model whose embedding has so many `rows`. An error is a
/// problem that ends the sentence.
pub(crate) fn describe(dialect: &Dialect, rows: usize) -> Result<BTreeMap<String, Value>, String> {
    let tokenizer = dialect.tokenizer();
    let Definition { added_tokens, normalizer, pre_tokenizer, model } = definition(tokenizer)?;
    let kind = model.get("type").and_then(Json::as_str).unwrap_or_default().to_owned();
    let Some(model) = serde_json::from_value::<Model>(model).ok().filter(|_| kind == "BPE") else {
        return Err(format!("its tokenizer is of the kind `{kind}`, and that format has BPE alone; {FOLDER}"));
    };
    if tokenizer.vocab_size() > rows {
        let ids = tokenizer.vocab_size();
        return Err(format!("its tokenizer has {ids} ids, but its vocabulary has {rows}"));
    }
    let mut tokens = Tokens::new(rows);
    model.vocab.iter().for_each(|(token, &id)| tokens.put(id, token, NORMAL));
    for token in &added_tokens {
        tokens.put(token.id, &token.content, if token.special { CONTROL } else { USER_DEFINED });
    }
    let mut metadata = special_tokens(dialect)?;
    match byte_level::name(&normalizer, &pre_tokenizer, model.ignore_merges) {
        Some(name) => {
            metadata.push((keys::TOKENIZER, Value::String("gpt2".into())));
            metadata.push((keys::PRE_TOKENIZER, Value::String(name.into())));
            metadata.push((keys::MERGES, Value::Strings(pairs(&model.merges)?)));
        }
        None => {
            let Some(prefix) = sentencepiece::space_prefix(&normalizer, &pre_tokenizer) else {
                return Err(format!(
                    "its tokenizer prepares a text as none does that has a name there (its `normalizer` is {normalizer}, \
                     its `pre_tokenizer` {pre_tokenizer}); {FOLDER}"
                ));
            };
            if let Some(token) = added_tokens.iter().find(|token| token.normalized) {
                let token = &token.content;
                return Err(format!(
                    "its tokenizer looks for `{token}` in the prepared text, and that format does so before; {FOLDER}"
                ));
            }
            tokens.name_pieces(&model);
            let scores = sentencepiece::scores(&tokens.texts, &model, |id| tokens.joins(id)).ok_or_else(|| {
                format!("the order of its tokenizer's merges is none that scores of pieces can express; {FOLDER}")
            })?;
            metadata.push((keys::TOKENIZER, Value::String("llama".into())));
            metadata.push((keys::PRE_TOKENIZER, Value::String("default".into())));
            metadata.push((keys::SPACE_PREFIX, Value::Bool(prefix)));
            metadata.push((keys::SCORES, Value::Floats(scores)));
        }
    }
    metadata.push((keys::TOKENS, Value::Strings(tokens.texts)));
    metadata.push((keys::TOKEN_TYPES, Value::Ints(tokens.types)));
    Ok(metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

/// Whether the tokenizer in a file is this one.
pub(crate) fn check(gguf: &Gguf, dialect: &Dialect) -> Result<(), String> {
    let rebuilt = read_dialect(gguf).map_err(|e| e.to_string())?;
    let (ours, theirs) = (dialect.tokenizer(), rebuilt.tokenizer());
    let odd = |what: &str| Err(format!("that format has no place for {what}; {FOLDER}"));
    let found: HashSet<(u32, bool, bool, bool, bool)> = definition(theirs)?.added_tokens.iter().map(flags).collect();
    if let Some(token) = definition(ours)?.added_tokens.iter().find(|token| !found.contains(&flags(token))) {
        return odd(&format!("what the tokenizer does around `{}`, such as taking white space along", token.content));
    }
    let roles = |tokenizer: &Tokenizer| {
        (tokenizer.bos(), tokenizer.add_bos(), tokenizer.pad(), tokenizer.end_of_turn(), tokenizer.stop_ids().to_vec())
    };
    if roles(ours) != roles(theirs) {
        return odd("the model's special tokens");
    }
    if dialect.template().is_none() && ours.separator().is_some() {
        return odd("the token between a prompt and its response");
    }
    for text in probes() {
        // A text that cannot be encoded is the same in both.
        let ids = |tokenizer: &Tokenizer| tokenizer.encode(&text).ok();
        if ids(ours) != ids(theirs) {
            return odd(&format!("what the tokenizer makes of {text:?}"));
        }
    }
    Ok(())
}

fn flags(token: &AddedToken) -> (u32, bool, bool, bool, bool) {
    (token.id, token.single_word, token.lstrip, token.rstrip, token.special)
}

/// Texts at which tokenizers differ.
fn probes() -> [String; 4] {
    [
        "  Two spaces\n\n\tit's I'LL 1234567 3.14 camelCaseHTTPServer (don't)!!\r\n  ",
        "Größe naïve e\u{301}\u{327} Ελληνικά हिन्दी ไทย 日本語 한국어 العربية עברית \u{1f469}\u{200d}\u{1f680} \u{a0}\u{2009}x",
        "a▁b ▁▁ c//d\n/e$+<=>^~|`\u{0}\u{7f}",
        " ",
    ]
    .map(String::from)
}

fn definition(tokenizer: &Tokenizer) -> Result<Definition, String> {
    // In one spelling, whatever version wrote the file.
    serde_json::from_value(tokenizer.current_definition())
        .map_err(|e| format!("its tokenizer cannot be described ({e})"))
}

/// Keys of tokens with a role, and of the template.
fn special_tokens(dialect: &Dialect) -> Result<Vec<(&'static str, Value)>, String> {
    let tokenizer = dialect.tokenizer();
    let ids = tokenizer.special_ids();
    let id = |id: u32| Value::Int(id.into());
    if ids.eos.len() > keys::ENDS.len() {
        let (n, most) = (ids.eos.len(), keys::ENDS.len());
        return Err(format!("it stops at {n} different tokens, and that format names {most} at most; {FOLDER}"));
    }
    let unknown = tokenizer.named_id("unk_token");
    let named = [(keys::BOS, ids.bos), (keys::PADDING, ids.pad), (keys::UNKNOWN_TOKEN, unknown)];
    let mut metadata: Vec<(&'static str, Value)> =
        named.into_iter().filter_map(|(key, token)| Some((key, id(token?)))).collect();
    metadata.extend(keys::ENDS.into_iter().zip(ids.eos.iter().map(|&end| id(end))));
    metadata.push((keys::ADD_BOS, Value::Bool(tokenizer.add_bos())));
    if tokenizer.settings().get("add_eos_token").and_then(Json::as_bool) == Some(true) {
        metadata.push((keys::ADD_EOS, Value::Bool(true)));
    }
    metadata.extend(dialect.template().map(|template| (keys::TEMPLATE, Value::String(template.source().into()))));
    Ok(metadata)
}

/// Merges as files spell them.
fn pairs(merges: &[(String, String)]) -> Result<Vec<String>, String> {
    let pair = |(left, right): &(String, String)| match left.contains(' ') || right.contains(' ') {
        false => Ok(format!("{left} {right}")),
        true => {
            Err(format!("its tokenizer merges {left:?} and {right:?}, and that format parts them by a space; {FOLDER}"))
        }
    };
    merges.iter().map(pair).collect()
}

/// Texts and types of all tokens, the id of each being its place.
struct Tokens {
    texts: Vec<String>,
    types: Vec<i64>,
}

impl Tokens {
    /// As many as the embedding has rows: those that no token belongs to are named so that none is like another.
    fn new(rows: usize) -> Self {
        Self { texts: (0..rows).map(|id| format!("[PAD{id}]")).collect(), types: vec![UNUSED; rows] }
    }

    fn put(&mut self, id: u32, text: &str, kind: i64) {
        let id = id as usize;
        (self.texts[id], self.types[id]) = (text.into(), kind);
    }

    /// Tells the pieces that stand for bytes, and for what has no piece, from the others.
    fn name_pieces(&mut self, model: &Model) {
        for (text, kind) in self.texts.iter().zip(&mut self.types) {
            if model.unk_token.as_ref() == Some(text) {
                *kind = UNKNOWN;
            } else if model.byte_fallback && *kind == NORMAL && is_byte(text) {
                *kind = BYTE;
            }
        }
    }

    /// Whether a piece takes part in merges.
    fn joins(&self, id: usize) -> bool {
        [NORMAL, USER_DEFINED].contains(&self.types[id])
    }
}

/// Whether a piece is written like `<0x0A>`.
fn is_byte(piece: &str) -> bool {
    let digits = piece.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|digits| digits.len() == 2 && u8::from_str_radix(digits, 16).is_ok())
}
