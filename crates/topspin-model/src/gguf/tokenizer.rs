//! The tokenizer and chat template inside a GGUF file, rebuilt as the `tokenizer.json` they were converted from.

use std::collections::HashSet;

use serde_json::{Map, json};

use super::{Gguf, Value};
use crate::chat::ChatTemplate;
use crate::config::SpecialIds;
use crate::dialect::Dialect;
use crate::error::ModelError;
use crate::tokenizer::Tokenizer;

/// How a text is cut into pieces before merging; the names are llama.cpp's.
#[derive(Clone, Copy, PartialEq, Eq)]
enum PreTokenizer {
    /// llama.cpp's own, for files that name none.
    Default,
    Gpt2,
    SmolLm,
    Llama3,
    Qwen2,
}

impl PreTokenizer {
    fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "default" => Self::Default,
            "gpt-2" => Self::Gpt2,
            "smollm" => Self::SmolLm,
            "llama-bpe" | "llama3" | "llama-v3" => Self::Llama3,
            "qwen2" => Self::Qwen2,
            _ => return None,
        })
    }

    /// The `pre_tokenizer` of the `tokenizer.json` that such a model is published with.
    fn definition(self) -> serde_json::Value {
        const CONTRACTIONS: &str = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
        const REST: &str = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
        let split = |pattern: &str| {
            let pattern = json!({ "Regex": pattern });
            json!({ "type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": false })
        };
        let steps = match self {
            Self::Gpt2 => return byte_level(false, true, true),
            Self::SmolLm => vec![json!({ "type": "Digits", "individual_digits": true }), byte_level(false, true, true)],
            Self::Llama3 => {
                let pattern = format!(r"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{REST}");
                vec![split(&pattern), byte_level(false, true, false)]
            }
            Self::Qwen2 => {
                let pattern = format!(r"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{REST}");
                vec![split(&pattern), byte_level(false, true, false)]
            }
            Self::Default => vec![
                split(r"[\p{P}\$\+<=>\^~\|]+"),
                split(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"),
                split(r"\p{N}+"),
                split("[0-9][0-9][0-9]"),
                byte_level(false, true, false),
            ],
        };
        json!({ "type": "Sequence", "pretokenizers": steps })
    }
}

fn byte_level(add_prefix_space: bool, trim_offsets: bool, use_regex: bool) -> serde_json::Value {
    json!({
        "type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": trim_offsets, "use_regex": use_regex
    })
}

/// Token types in `tokenizer.ggml.token_type`.
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

/// Rebuilds the tokenizer and compiles the chat template.
pub(crate) fn read_dialect(gguf: &Gguf) -> Result<Dialect, ModelError> {
    let tokenizer = read_tokenizer(gguf)?;
    let template = match gguf.text("tokenizer.chat_template")? {
        Some(source) => Some(ChatTemplate::new(&gguf.path, source, &tokenizer)?),
        None => None,
    };
    Ok(Dialect::new(tokenizer, template))
}

fn read_tokenizer(gguf: &Gguf) -> Result<Tokenizer, ModelError> {
    let fail = |key: &str, problem: String| ModelError::config(&gguf.path, key, problem);
    match gguf.text("tokenizer.ggml.model")? {
        Some("gpt2") => {}
        Some(other) => {
            let problem = format!(
                "is `{other}`, which is not supported; it must be `gpt2`, or use the model's Hugging Face folder"
            );
            return Err(fail("tokenizer.ggml.model", problem));
        }
        None => return Err(fail("tokenizer.ggml.model", "is missing".into())),
    }
    let kind = gguf.text("tokenizer.ggml.pre")?.unwrap_or("default");
    let Some(pre_tokenizer) = PreTokenizer::from_name(kind) else {
        let known = "`smollm`, `default`, `gpt-2`, `llama-bpe` or `qwen2`";
        let problem =
            format!("is `{kind}`, which is not supported; it must be {known}, or use the model's Hugging Face folder");
        return Err(fail("tokenizer.ggml.pre", problem));
    };
    let strings = |key: &str| match gguf.value(key) {
        Some(Value::Strings(list)) => Ok(list.as_slice()),
        Some(_) => Err(fail(key, "is not a list of strings".into())),
        None => Err(fail(key, "is missing".into())),
    };
    let tokens = strings("tokenizer.ggml.tokens")?;
    let mut merges = Vec::new();
    for merge in strings("tokenizer.ggml.merges")? {
        let Some(pair) = merge.split_once(' ') else {
            return Err(fail("tokenizer.ggml.merges", format!("has the entry {merge:?}, which is not a pair")));
        };
        merges.push(pair);
    }
    let types = match gguf.value("tokenizer.ggml.token_type") {
        None => &[],
        Some(Value::Ints(list)) if list.len() == tokens.len() => list.as_slice(),
        Some(_) => {
            let problem = format!("is not a list of {} numbers, one for each token", tokens.len());
            return Err(fail("tokenizer.ggml.token_type", problem));
        }
    };
    let mut seen = HashSet::new();
    if let Some(twice) = tokens.iter().find(|token| !seen.insert(token.as_str())) {
        return Err(fail("tokenizer.ggml.tokens", format!("has the token {twice:?} twice")));
    }

    let ids = special_ids(gguf)?;
    let all_ids = [ids.bos, ids.pad].into_iter().flatten().chain(ids.eos.iter().copied());
    if let Some(id) = all_ids.max().filter(|&id| id as usize >= tokens.len()) {
        return Err(fail(
            "tokenizer.ggml.tokens",
            format!("has {} tokens, but a special token has the id {id}", tokens.len()),
        ));
    }
    let token = |id: Option<u32>| id.map(|id| tokens[id as usize].clone());
    let add_bos = match gguf.bool("tokenizer.ggml.add_bos_token")? {
        Some(add) => add,
        // Files older than the key: the family always begins with it.
        None => pre_tokenizer == PreTokenizer::Llama3,
    };

    let post_processor = match token(ids.bos).filter(|_| add_bos) {
        Some(bos) => begin_with(&bos, ids.bos),
        None => byte_level(true, false, true),
    };
    let added = tokens.iter().zip(types).zip(0_u32..).filter(|((_, kind), _)| [CONTROL, USER_DEFINED].contains(kind));
    let added = added.map(|((token, &kind), id)| {
        json!({
            "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            "special": kind == CONTROL
        })
    });
    let vocabulary: Map<String, serde_json::Value> = tokens.iter().cloned().zip((0_u32..).map(Into::into)).collect();
    let definition = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added.collect::<Vec<_>>(),
        "normalizer": null,
        "pre_tokenizer": pre_tokenizer.definition(),
        "post_processor": post_processor,
        "decoder": byte_level(true, true, true),
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            // Llama 3 takes a word that is a token as it is, whatever the merges make of it.
            "ignore_merges": pre_tokenizer == PreTokenizer::Llama3,
            "vocab": vocabulary,
            "merges": merges,
        },
    });

    let mut settings = Map::new();
    settings.insert("tokenizer_class".into(), "PreTrainedTokenizerFast".into());
    settings.insert("clean_up_tokenization_spaces".into(), false.into());
    settings.insert("add_bos_token".into(), add_bos.into());
    settings.insert("bos_token".into(), json!(token(ids.bos)));
    settings.insert("eos_token".into(), json!(token(ids.eos.first().copied())));
    settings.insert("pad_token".into(), json!(token(ids.pad)));
    let unknown = gguf.token_id("tokenizer.ggml.unknown_token_id")?.filter(|&id| (id as usize) < tokens.len());
    settings.insert("unk_token".into(), json!(token(unknown)));
    if let Some(longest) = gguf.count("llama.context_length")? {
        settings.insert("model_max_length".into(), longest.into());
    }
    Tokenizer::new(&gguf.path, definition.to_string(), settings, &ids)
}

/// The post-processor that puts one token before a text.
fn begin_with(bos: &str, id: Option<u32>) -> serde_json::Value {
    let special = |type_id: u32| json!({ "SpecialToken": { "id": bos, "type_id": type_id } });
    let sequence = |name: &str, type_id: u32| json!({ "Sequence": { "id": name, "type_id": type_id } });
    json!({
        "type": "TemplateProcessing",
        "single": [special(0), sequence("A", 0)],
        "pair": [special(0), sequence("A", 0), special(1), sequence("B", 1)],
        "special_tokens": { bos: { "id": bos, "ids": [id], "tokens": [bos] } },
    })
}

fn special_ids(gguf: &Gguf) -> Result<SpecialIds, ModelError> {
    let id = |name: &str| gguf.token_id(&format!("tokenizer.ggml.{name}_token_id"));
    let mut eos = Vec::new();
    // End of text, of a turn, of a message: all of them end an answer.
    for name in ["eos", "eot", "eom"] {
        if let Some(id) = id(name)?
            && !eos.contains(&id)
        {
            eos.push(id);
        }
    }
    Ok(SpecialIds { bos: id("bos")?, eos, pad: id("padding")? })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::testing::{Writer, byte_characters};
    use super::*;
    use crate::chat::Message;
    use crate::testing::byte_tokenizer;

    /// A vocabulary of bytes and the given tokens, cut by the named kind of pre-tokenizer.
    fn dialect(pre: Option<&str>, more: &[&str], change: impl Fn(Writer) -> Writer) -> Result<Dialect, ModelError> {
        let mut tokens = byte_characters();
        tokens.extend(["<s>", "</s>", "<user>"].iter().chain(more).map(ToString::to_string));
        let mut types = vec![1; tokens.len()];
        types[256..259].copy_from_slice(&[CONTROL, CONTROL, USER_DEFINED]);
        // Every token of more than one character is the merge of its first and its rest.
        let merges = more.iter().map(|token| {
            let first = token.chars().next().map_or(0, char::len_utf8);
            format!("{} {}", &token[..first], &token[first..])
        });
        let mut writer = Writer::new()
            .value("tokenizer.ggml.model", Value::String("gpt2".into()))
            .value("tokenizer.ggml.token_type", Value::Ints(types))
            .value("tokenizer.ggml.merges", Value::Strings(merges.collect()))
            .value("tokenizer.ggml.bos_token_id", Value::Int(256))
            .value("tokenizer.ggml.tokens", Value::Strings(tokens));
        if let Some(pre) = pre {
            writer = writer.value("tokenizer.ggml.pre", Value::String(pre.into()));
        }
        let bytes = change(writer).finish();
        read_dialect(&Gguf::parse(Path::new("m.gguf"), &mut &bytes[..], bytes.len() as u64)?)
    }

    fn with_eos(writer: Writer) -> Writer {
        writer.value("tokenizer.ggml.eos_token_id", Value::Int(257))
    }

    #[test]
    fn merges_and_special_tokens() {
        let tokenizer = byte_tokenizer();
        let pieces = |text: &str| -> Vec<String> {
            tokenizer.encode(text).unwrap().into_iter().map(|id| tokenizer.token(id).unwrap()).collect()
        };
        assert_eq!(pieces("the then <|im_end|>"), ["the", "Ġ", "the", "n", "Ġ", "<|im_end|>"]);
        assert_eq!(tokenizer.decode(&tokenizer.encode("Zürich 水\n").unwrap()), "Zürich 水\n");
        assert_eq!((tokenizer.bos(), tokenizer.add_bos(), tokenizer.stop_ids()), (Some(257), false, &[256][..]));
    }

    /// How each kind cuts a text shows in which two-character tokens can form.
    #[test]
    fn pre_tokenizers_cut_as_llama_cpp_does() {
        let kinds = [None, Some("default"), Some("gpt-2"), Some("smollm"), Some("llama-bpe"), Some("qwen2")];
        // A pair, and the kinds that let it form.
        let cases: [(&str, &str, [bool; 6]); 6] = [
            ("12", "12", [true, true, true, false, true, false]),
            ("1234", "34", [false, false, true, false, false, false]),
            ("a-b", "-b", [false, false, false, false, true, true]),
            ("$+", "$+", [true, true, true, true, true, true]),
            ("!\n", "!Ċ", [false, false, false, false, true, true]),
            ("I'LL", "'L", [false, false, false, false, true, true]),
        ];
        for (text, pair, forms) in cases {
            for (kind, expected) in kinds.into_iter().zip(forms) {
                let tokenizer = dialect(kind, &[pair], with_eos).unwrap().tokenizer().clone();
                let ids = tokenizer.encode(text).unwrap();
                assert_eq!(ids.contains(&259), expected, "{text:?} with {kind:?} became {ids:?}");
                assert_eq!(tokenizer.decode(&ids), text);
            }
        }
    }

    #[test]
    fn llama_3_begins_a_plain_prompt() {
        let llama = dialect(Some("llama-bpe"), &[], with_eos).unwrap();
        assert!(llama.tokenizer().add_bos());
        assert_eq!(llama.encode_prompt(&[Message::new("user", "<user>")]).unwrap(), [256, 258]);
        let told =
            dialect(Some("llama-bpe"), &[], |w| with_eos(w).value("tokenizer.ggml.add_bos_token", Value::Bool(false)));
        assert!(!told.unwrap().tokenizer().add_bos());
    }

    #[test]
    fn all_end_tokens_stop() {
        let more = |w: Writer| with_eos(w).value("tokenizer.ggml.eot_token_id", Value::Int(258));
        assert_eq!(dialect(Some("qwen2"), &[], more).unwrap().tokenizer().stop_ids(), [257, 258]);
    }

    #[test]
    fn names_what_is_wrong() {
        let error = |result: Result<Dialect, ModelError>| result.unwrap_err().to_string();
        assert_eq!(
            error(dialect(Some("tekken"), &[], with_eos)),
            "`tokenizer.ggml.pre` in `m.gguf` is `tekken`, which is not supported; it must be `smollm`, `default`, \
             `gpt-2`, `llama-bpe` or `qwen2`, or use the model's Hugging Face folder"
        );
        assert!(error(dialect(None, &[], |w| w)).contains("no token that ends a turn"));
        let far = |w: Writer| w.value("tokenizer.ggml.eos_token_id", Value::Int(1000));
        assert!(error(dialect(None, &[], far)).contains("a special token has the id 1000"));
        assert!(error(dialect(None, &["</s>"], with_eos)).contains("has the token \"</s>\" twice"));
        let template = |w: Writer| with_eos(w).value("tokenizer.chat_template", Value::String("{% if".into()));
        assert!(
            error(dialect(None, &[], template)).starts_with("cannot apply the chat template of `m.gguf`: syntax error")
        );
        let plain = Writer::new().value("tokenizer.ggml.model", Value::String("llama".into())).finish();
        let plain = Gguf::parse(Path::new("m.gguf"), &mut &plain[..], plain.len() as u64).unwrap();
        assert!(
            error(read_dialect(&plain))
                .starts_with("`tokenizer.ggml.model` in `m.gguf` is `llama`, which is not supported")
        );
    }
}
