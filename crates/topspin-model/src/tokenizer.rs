//! Text to token ids and back, and the tokens with a role.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::config::SpecialIds;
use crate::error::ModelError;

/// A tokenizer together with the tokens that begin, separate, pad and end.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// What `tokenizer.json` holds: as it was read, so that saving it loses nothing.
    definition: String,
    /// What `tokenizer_config.json` holds, without a chat template.
    settings: Map<String, Value>,
    vocab_size: usize,
    bos: Option<u32>,
    add_bos: bool,
    pad: Option<u32>,
    separator: Option<u32>,
    stop_ids: Vec<u32>,
    end_of_turn: u32,
}

/// Keys of `tokenizer_config.json` that name one token each, and are visible in chat templates.
const TOKEN_KEYS: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

impl Tokenizer {
    /// Builds a tokenizer from the contents of `tokenizer.json` and `tokenizer_config.json`, and from the ids that
    /// `generation_config.json` and `config.json` repeat. `path` is only named in errors.
    pub(crate) fn new(
        path: &Path,
        definition: String,
        settings: Map<String, Value>,
        ids: &SpecialIds,
    ) -> Result<Self, ModelError> {
        // Some parts of the parser below panic where the text is not even JSON.
        serde_json::from_str::<serde::de::IgnoredAny>(&definition)
            .map_err(|e| ModelError::Json { path: path.into(), problem: e.to_string() })?;
        let inner = definition.parse::<tokenizers::Tokenizer>().map_err(|e| unreadable(path, e))?;
        Self::with_definition(path, inner, definition, settings, ids)
    }

    /// The same from the parts that a `tokenizer.json` would describe.
    pub(crate) fn from_parts(
        path: &Path,
        inner: tokenizers::Tokenizer,
        settings: Map<String, Value>,
        ids: &SpecialIds,
    ) -> Result<Self, ModelError> {
        let definition = inner.to_string(false).map_err(|e| unreadable(path, e))?;
        Self::with_definition(path, inner, definition, settings, ids)
    }

    fn with_definition(
        path: &Path,
        mut inner: tokenizers::Tokenizer,
        definition: String,
        mut settings: Map<String, Value>,
        ids: &SpecialIds,
    ) -> Result<Self, ModelError> {
        let fail = |problem: String| ModelError::tokenizer(path, problem);
        // Both would cut or lengthen prompts behind our back.
        inner.with_truncation(None).map_err(|e| fail(e.to_string()))?;
        inner.with_padding(None);
        settings.remove("chat_template");
        let vocab_size = inner.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1);

        let named = |key: &str| -> Result<Option<u32>, ModelError> {
            let Some(token) = settings.get(key).and_then(token_text) else { return Ok(None) };
            let id = inner.token_to_id(token);
            id.map(Some).ok_or_else(|| fail(format!("its `{key}` is `{token}`, which its vocabulary lacks")))
        };
        let bos = named("bos_token")?.or(ids.bos);
        let pad = named("pad_token")?.or(ids.pad);
        let separator = named("sep_token")?;
        let mut stop_ids = Vec::new();
        for id in named("eos_token")?.into_iter().chain(ids.eos.iter().copied()) {
            if !stop_ids.contains(&id) {
                stop_ids.push(id);
            }
        }
        let Some(&end_of_turn) = stop_ids.first() else {
            let problem = "it has no token that ends a turn; name one as `eos_token` in `tokenizer_config.json`";
            return Err(fail(problem.into()));
        };
        if let Some(id) =
            [bos, pad].into_iter().flatten().chain(stop_ids.iter().copied()).find(|&id| id as usize >= vocab_size)
        {
            return Err(fail(format!("a special token has the id {id}, but there are only {vocab_size} ids")));
        }
        let add_bos = match settings.get("add_bos_token").and_then(Value::as_bool) {
            Some(add) => add,
            // Otherwise the post-processor decides, and shows it on the empty text.
            None => bos.is_some() && inner.encode_fast("", true).is_ok_and(|e| e.get_ids().first().copied() == bos),
        };
        Ok(Self { inner, definition, settings, vocab_size, bos, add_bos, pad, separator, stop_ids, end_of_turn })
    }

    /// A tokenizer of single characters: `<pad>` (0), `<sep>` (1, between prompt and response), `<end>` (2, at the end
    /// of a response), then the different characters of `text` in order of code point.
    pub fn from_characters(text: &str) -> Self {
        let specials = ["<pad>", "<sep>", "<end>"];
        let characters: BTreeSet<char> = text.chars().collect();
        let tokens = specials.iter().map(ToString::to_string).chain(characters.iter().map(char::to_string));
        let vocabulary: Map<String, Value> = tokens.zip((0_u32..).map(Value::from)).collect();
        let added = specials.iter().zip(0_u32..).map(|(token, id)| {
            json!({
                "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true
            })
        });
        let definition = json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added.collect::<Vec<_>>(),
            "normalizer": null,
            // `[\s\S]` rather than a flag for `.`: regex engines disagree on the flags.
            "pre_tokenizer":
                { "type": "Split", "pattern": { "Regex": r"[\s\S]" }, "behavior": "Isolated", "invert": false },
            "post_processor": null,
            "decoder": { "type": "Fuse" },
            // No `unk_token` in the vocabulary: an unknown character is an error, not a token.
            "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>" },
        });
        let settings = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": false,
            "pad_token": specials[0],
            "sep_token": specials[1],
            "eos_token": specials[2],
        });
        let Value::Object(settings) = settings else { unreachable!("the literal above is an object") };
        Self::new(Path::new("tokenizer.json"), definition.to_string(), settings, &SpecialIds::default())
            .expect("a tokenizer made here is valid")
    }

    /// Token ids of a text. Special tokens written out in it become their ids; none are added.
    ///
    /// # Errors
    /// If the vocabulary has no token for a part of the text, which byte-level vocabularies do not know.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        match self.inner.encode_fast(text, false) {
            Ok(encoding) => Ok(encoding.get_ids().to_vec()),
            Err(_) => Err(self.unknown(text)),
        }
    }

    /// The error of a text that cannot be encoded.
    fn unknown(&self, text: &str) -> ModelError {
        // The tokenizer does not say where; a text is short enough to look.
        let unknown = text.chars().find(|c| self.inner.encode_fast(c.to_string(), false).is_err());
        let problem = unknown.map_or("it is outside of the vocabulary".into(), |c| {
            format!("the model has no token for {c:?}; remove it, or choose a model that knows it")
        });
        ModelError::Encode { text: text.chars().take(60).collect(), problem }
    }

    /// Token ids of a text as [`encode`](Self::encode) has them, and which bytes of it each stands for. They overlap where
    /// a character takes several tokens, and leave no gap.
    pub(crate) fn encode_with_places(&self, text: &str) -> Result<(Vec<u32>, Vec<Range<usize>>), ModelError> {
        let encoding = self.inner.encode(text, false).map_err(|_| self.unknown(text))?;
        let mut end = 0;
        let place = |&(from, to): &(usize, usize)| {
            // Some tokenizers do not count the space before a word as part of it.
            let from = from.min(end);
            end = end.max(to);
            from..end
        };
        let places = encoding.get_offsets().iter().map(place).collect();
        Ok((encoding.get_ids().to_vec(), places))
    }

    /// The text of some ids, special tokens included. Bytes that are not UTF-8 become U+FFFD; unknown ids vanish.
    pub fn decode(&self, ids: &[u32]) -> String {
        // Only decoders that no language model uses can fail.
        self.inner.decode(ids, false).unwrap_or_default()
    }

    /// A decoder for output that appears token by token.
    pub fn stream(&self) -> TextStream<'_> {
        TextStream { tokenizer: self, context: Vec::new(), pending: Vec::new() }
    }

    /// One more than the largest id.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// What is wrong with the tokenizer for a model of `rows` tokens. Tokens that were added beyond them are borne as long as
    /// none is of those that prompts and turns are made of: some models have one for images, and no row for it.
    pub(crate) fn misfit(&self, rows: usize) -> Option<String> {
        let ids = self.inner.get_vocab(false).into_values().max().map_or(0, |id| id as usize + 1);
        if ids > rows {
            let all = self.vocab_size;
            return Some(format!("it has {all} ids, but the model's vocabulary has {rows}"));
        }
        let needed = [self.bos, self.separator, Some(self.end_of_turn)].into_iter().flatten();
        let id = needed.chain(self.stop_ids.iter().copied()).find(|&id| id as usize >= rows)?;
        let token = self.token(id).unwrap_or_default();
        Some(format!("its special token `{token}` has the id {id}, but the model's vocabulary has {rows}"))
    }

    /// The token that begins a sequence, if the model has one.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// Whether a prompt without a chat template begins with [`bos`](Self::bos).
    pub fn add_bos(&self) -> bool {
        self.add_bos
    }

    /// The token that fills up batches elsewhere; never needed here, and saved with the model.
    pub fn pad(&self) -> Option<u32> {
        self.pad
    }

    /// The token between a prompt and its response in a model without a chat template.
    pub fn separator(&self) -> Option<u32> {
        self.separator
    }

    /// The tokens at which generation stops.
    pub fn stop_ids(&self) -> &[u32] {
        &self.stop_ids
    }

    /// The token that ends a response in the training data; one of [`stop_ids`](Self::stop_ids).
    pub fn end_of_turn(&self) -> u32 {
        self.end_of_turn
    }

    /// The text of one token as the vocabulary spells it.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Whether an id is that of a special token, one that no ordinary text turns into.
    pub fn is_special(&self, id: u32) -> bool {
        self.inner.get_added_tokens_decoder().get(&id).is_some_and(|token| token.special)
    }

    /// Makes `id` the end of a turn, and a stop token if it is none yet.
    pub(crate) fn set_end_of_turn(&mut self, id: u32) {
        self.end_of_turn = id;
        if !self.stop_ids.contains(&id) {
            self.stop_ids.push(id);
        }
    }

    /// Names and texts of the special tokens, as chat templates refer to them.
    pub(crate) fn named_tokens(&self) -> impl Iterator<Item = (&'static str, &str)> {
        TOKEN_KEYS.into_iter().filter_map(|key| Some((key, token_text(self.settings.get(key)?)?)))
    }

    /// The contents of `tokenizer.json`.
    pub(crate) fn definition(&self) -> &str {
        &self.definition
    }

    /// What `tokenizer.json` would hold if it were written now, all that may be left out included.
    pub(crate) fn current_definition(&self) -> Value {
        serde_json::to_value(&self.inner).unwrap_or_default()
    }

    /// The id of a token that `tokenizer_config.json` names by this key.
    pub(crate) fn named_id(&self, key: &str) -> Option<u32> {
        self.inner.token_to_id(token_text(self.settings.get(key)?)?)
    }

    /// The contents of `tokenizer_config.json`, without a chat template.
    pub(crate) fn settings(&self) -> &Map<String, Value> {
        &self.settings
    }

    /// The ids that `config.json` repeats.
    pub(crate) fn special_ids(&self) -> SpecialIds {
        SpecialIds { bos: self.bos, eos: self.stop_ids.clone(), pad: self.pad }
    }
}

/// The error for a definition that the tokenizer's library refuses.
pub(crate) fn unreadable(path: &Path, problem: impl Display) -> ModelError {
    ModelError::tokenizer(path, format!("it is not a tokenizer that `tokenizers` reads: {problem}"))
}

/// A token in `tokenizer_config.json`: its text, or an object with the text as `content`.
fn token_text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

/// Reads a folder's tokenizer: `tokenizer.json`, and for the special tokens `tokenizer_config.json`,
/// `special_tokens_map.json` and the ids that the model's own files repeat.
pub(crate) fn read_folder(
    dir: &Path,
    config: &Map<String, Value>,
) -> Result<(Tokenizer, Map<String, Value>), ModelError> {
    let path = dir.join("tokenizer.json");
    if !path.exists() {
        let problem = "it has no `tokenizer.json`; write one with \
             `AutoTokenizer.from_pretrained(...).save_pretrained(...)` of transformers";
        return Err(ModelError::tokenizer(dir, problem));
    }
    let definition = topspin_files::read_to_string(&path)?;
    let mut settings = read_object(dir.join("tokenizer_config.json"))?.unwrap_or_default();
    for (key, value) in read_object(dir.join("special_tokens_map.json"))?.unwrap_or_default() {
        // Older folders name some tokens only here.
        if TOKEN_KEYS.contains(&key.as_str()) && settings.get(&key).is_none_or(Value::is_null) {
            settings.insert(key, value);
        }
    }
    let mut ids = SpecialIds::from_json(&read_object(dir.join("generation_config.json"))?.unwrap_or_default());
    let model = SpecialIds::from_json(config);
    ids.bos = ids.bos.or(model.bos);
    ids.pad = ids.pad.or(model.pad);
    ids.eos.extend(model.eos);
    Ok((Tokenizer::new(&path, definition, settings.clone(), &ids)?, settings))
}

/// A JSON object from a file, or `None` without the file.
pub(crate) fn read_object(path: PathBuf) -> Result<Option<Map<String, Value>>, ModelError> {
    if !path.exists() {
        return Ok(None);
    }
    let text = topspin_files::read_to_string(&path)?;
    match serde_json::from_str(&text) {
        Ok(object) => Ok(Some(object)),
        Err(e) => Err(ModelError::Json { path, problem: e.to_string() }),
    }
}

/// Turns ids into text as they arrive, and never splits a character whose bytes arrive in several tokens.
#[derive(Clone, Debug)]
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    /// The ids last turned into text: some decoders treat the first token of a text differently.
    context: Vec<u32>,
    /// The ids not turned into text yet.
    pending: Vec<u32>,
}

impl TextStream<'_> {
    /// Takes the next id and returns the text that has become certain, often none.
    pub fn push(&mut self, id: u32) -> String {
        self.pending.push(id);
        let text = self.pending_text();
        if text.is_empty() || text.ends_with('\u{fffd}') {
            return String::new();
        }
        self.context = std::mem::take(&mut self.pending);
        text
    }

    /// The text of the ids still held back: bytes that never became a character.
    pub fn finish(self) -> String {
        self.pending_text()
    }

    fn pending_text(&self) -> String {
        let before = self.tokenizer.decode(&self.context);
        let all = self.tokenizer.decode(&[&self.context[..], &self.pending].concat());
        match all.strip_prefix(&before) {
            Some(text) => text.into(),
            // A decoder may show bytes that follow a good character as a run of bad ones.
            None => self.tokenizer.decode(&self.pending),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::byte_tokenizer;

    #[test]
    fn characters() {
        let tokenizer = Tokenizer::from_characters("zebra a\n<");
        assert_eq!(tokenizer.vocab_size(), 3 + 8);
        assert_eq!(tokenizer.encode("\n <<sep>").unwrap(), [3, 4, 5, 1]);
        assert_eq!(tokenizer.decode(&[6, 7, 4, 2]), "ab <end>");
        assert_eq!((tokenizer.pad(), tokenizer.separator(), tokenizer.end_of_turn()), (Some(0), Some(1), 2));
        assert_eq!((tokenizer.stop_ids(), tokenizer.bos(), tokenizer.add_bos()), (&[2][..], None, false));
        assert!(tokenizer.is_special(1) && !tokenizer.is_special(3));
        let error = tokenizer.encode("a zébra").unwrap_err().to_string();
        assert_eq!(
            error,
            "cannot turn the text \"a zébra\" into tokens: the model has no token for 'é'; remove it, or choose a \
             model that knows it"
        );
        let again = Tokenizer::from_characters("raezb <\n\n");
        assert_eq!(again.definition(), tokenizer.definition(), "the bytes depend on the set of characters only");
    }

    fn build(settings: Value, ids: &SpecialIds) -> Result<Tokenizer, ModelError> {
        let definition = Tokenizer::from_characters("ab").definition().to_owned();
        Tokenizer::new(Path::new("m/tokenizer.json"), definition, settings.as_object().unwrap().clone(), ids)
    }

    #[test]
    fn finds_the_special_tokens_in_all_their_places() {
        let ids = SpecialIds { bos: Some(3), eos: vec![2, 4], pad: None };
        let t = build(json!({"eos_token": {"content": "<sep>"}, "add_bos_token": true}), &ids).unwrap();
        assert_eq!(t.stop_ids(), [1, 2, 4]);
        assert_eq!((t.end_of_turn(), t.bos(), t.add_bos(), t.pad()), (1, Some(3), true, None));
        let t = build(json!({"bos_token": null}), &ids).unwrap();
        assert_eq!((t.end_of_turn(), t.add_bos()), (2, false));
    }

    #[test]
    fn names_what_is_wrong() {
        let error = |settings, ids| build(settings, ids).unwrap_err().to_string();
        let none = SpecialIds::default();
        let at = "cannot use the tokenizer in `m/tokenizer.json`:";
        assert_eq!(
            error(json!({}), &none),
            format!("{at} it has no token that ends a turn; name one as `eos_token` in `tokenizer_config.json`")
        );
        assert_eq!(
            error(json!({"eos_token": "</s>"}), &none),
            format!("{at} its `eos_token` is `</s>`, which its vocabulary lacks")
        );
        let far = SpecialIds { eos: vec![99], ..none };
        assert_eq!(error(json!({}), &far), format!("{at} a special token has the id 99, but there are only 5 ids"));
        let broken = Tokenizer::from_characters("ab").definition().replace("Fuse", "\"Fuse");
        let broken = Tokenizer::new(Path::new("m/tokenizer.json"), broken, Map::new(), &far).unwrap_err().to_string();
        assert!(broken.starts_with("`m/tokenizer.json` is not valid JSON: expected"), "{broken}");
        let foreign = Tokenizer::new(Path::new("x"), "{}".into(), Map::new(), &far).unwrap_err().to_string();
        assert!(foreign.starts_with("cannot use the tokenizer in `x`: it is not a tokenizer"), "{foreign}");
    }

    proptest! {
        #[test]
        fn a_stream_shows_the_text_and_no_half_characters(text in "\\PC{0,12}") {
            let tokenizer = byte_tokenizer();
            let ids = tokenizer.encode(&text).unwrap();
            let mut stream = tokenizer.stream();
            let mut shown = String::new();
            for &id in &ids {
                shown.push_str(&stream.push(id));
                prop_assert!(text.starts_with(&shown), "{shown:?}");
            }
            shown.push_str(&stream.finish());
            prop_assert_eq!(shown, text);
        }

        #[test]
        fn a_stream_shows_what_decoding_shows(ids in prop::collection::vec(0_u32..260, 0..30)) {
            let tokenizer = byte_tokenizer();
            let mut stream = tokenizer.stream();
            let mut shown: String = ids.iter().map(|&id| stream.push(id)).collect();
            shown.push_str(&stream.finish());
            prop_assert_eq!(shown, tokenizer.decode(&ids));
        }
    }
}
