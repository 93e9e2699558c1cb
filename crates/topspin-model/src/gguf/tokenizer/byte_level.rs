//! Byte-level BPE: a text is cut into pieces, and the bytes of each piece are merged.

use serde_json::{Value as Json, json};
use tokenizers::models::bpe::Merges;

use super::{Gguf, Parts, Vocabulary, keys};
use crate::error::ModelError;

/// The kinds by llama.cpp's names for them (`src/llama-vocab.cpp`), each as the `tokenizer.json` has it that its models
/// are published with.
const KINDS: [(&str, Kind); 15] = [
    // llama.cpp's own, for files that name none.
    ("default", Kind::new(Cut::Default)),
    ("gpt-2", Kind::new(Cut::Gpt2)),
    // OLMo 1.7, with GPT-NeoX's tokenizer.
    ("olmo", Kind::new(Cut::Gpt2).composed()),
    // SmolLM and SmolLM2; StarCoder 2; Refact and Granite 3.
    ("smollm", Kind::new(Cut::DigitsThenGpt2)),
    ("starcoder", Kind::new(Cut::DigitsThenGpt2)),
    ("refact", Kind::new(Cut::DigitsThenGpt2)),
    ("llama-bpe", Kind::new(Cut::Llama3).whole_words().begins()),
    ("llama3", Kind::new(Cut::Llama3).whole_words().begins()),
    ("llama-v3", Kind::new(Cut::Llama3).whole_words().begins()),
    // Llama 3's tokens without its first one: Smaug, SmolLM3.
    ("smaug-bpe", Kind::new(Cut::Llama3).whole_words()),
    // GPT-4's tokens (cl100k): DBRX, Phi-4, OLMo 2, Granite 4.
    ("dbrx", Kind::new(Cut::Llama3)),
    // Qwen 1.5 to 3.
    ("qwen2", Kind::new(Cut::Qwen2).composed()),
    ("qwen35", Kind::new(Cut::Qwen35).composed()),
    // GPT-4o's tokens (o200k): Phi-4-mini.
    ("gpt-4o", Kind::new(Cut::Gpt4o)),
    // Mistral Nemo and later.
    ("tekken", Kind::new(Cut::Tekken).whole_words().begins()),
];

#[derive(Clone, Copy)]
struct Kind {
    cut: Cut,
    /// Letters and their accents are composed first (Unicode's NFC).
    composed: bool,
    /// A piece that is a token is taken as it is, whatever the merges make of it.
    whole_words: bool,
    /// A text begins with a token for that, in files that do not say.
    begins: bool,
}

impl Kind {
    const fn new(cut: Cut) -> Self {
        Self { cut, composed: false, whole_words: false, begins: false }
    }

    const fn composed(self) -> Self {
        Self { composed: true, ..self }
    }

    const fn whole_words(self) -> Self {
        Self { whole_words: true, ..self }
    }

    const fn begins(self) -> Self {
        Self { begins: true, ..self }
    }

    fn normalizer(self) -> Json {
        if self.composed { json!({ "type": "NFC" }) } else { Json::Null }
    }
}

/// How a text is cut into pieces.
#[derive(Clone, Copy)]
enum Cut {
    Default,
    Gpt2,
    DigitsThenGpt2,
    Llama3,
    Qwen2,
    Qwen35,
    Gpt4o,
    Tekken,
}

impl Cut {
    /// As `tokenizer.json` spells it.
    fn pre_tokenizer(self) -> Json {
        const CONTRACTIONS: &str = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
        // What may stand before the letters of a word, and what follows a run of signs.
        const LEAD: &str = r"[^\r\n\p{L}\p{N}]?";
        const SIGNS: &str = r" ?[^\s\p{L}\p{N}]+[\r\n]*";
        const SIGNS_OR_SLASH: &str = r" ?[^\s\p{L}\p{N}]+[\r\n/]*";
        const SPACE: &str = r"\s*[\r\n]+|\s+(?!\S)|\s+";
        // Words whose capitals come first: `camelCase` is two.
        const CAPITAL: &str = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]";
        const SMALL: &str = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]";

        let pattern = match self {
            Self::Gpt2 => return byte_level(false, true, true),
            Self::DigitsThenGpt2 => {
                let digits = json!({ "type": "Digits", "individual_digits": true });
                return sequence(vec![digits, byte_level(false, true, true)]);
            }
            Self::Default => {
                return sequence(vec![
                    split(r"[\p{P}\$\+<=>\^~\|]+"),
                    split(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"),
                    split(r"\p{N}+"),
                    split("[0-9][0-9][0-9]"),
                    byte_level(false, true, false),
                ]);
            }
            Self::Llama3 => format!(r"{CONTRACTIONS}|{LEAD}\p{{L}}+|\p{{N}}{{1,3}}|{SIGNS}|{SPACE}"),
            Self::Qwen2 => format!(r"{CONTRACTIONS}|{LEAD}\p{{L}}+|\p{{N}}|{SIGNS}|{SPACE}"),
            Self::Qwen35 => {
                let signs = r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*";
                format!(r"{CONTRACTIONS}|{LEAD}[\p{{L}}\p{{M}}]+|\p{{N}}|{signs}|{SPACE}")
            }
            Self::Gpt4o => format!(
                r"{LEAD}{CAPITAL}*{SMALL}+{CONTRACTIONS}?|{LEAD}{CAPITAL}+{SMALL}*{CONTRACTIONS}?|\p{{N}}{{1,3}}|{SIGNS_OR_SLASH}|{SPACE}"
            ),
            Self::Tekken => {
                format!(r"{LEAD}{CAPITAL}*{SMALL}+|{LEAD}{CAPITAL}+{SMALL}*|\p{{N}}|{SIGNS_OR_SLASH}|{SPACE}")
            }
        };
        sequence(vec![split(&pattern), byte_level(false, true, false)])
    }
}

/// The first name of the kind that prepares a text like this.
pub(super) fn name(normalizer: &Json, pre_tokenizer: &Json, whole_words: bool) -> Option<&'static str> {
    let steps = steps(pre_tokenizer);
    let same = |kind: &Kind| {
        kind.whole_words == whole_words
            && kind.normalizer() == *normalizer
            && self::steps(&kind.cut.pre_tokenizer()) == steps
    };
    KINDS.iter().find(|(_, kind)| same(kind)).map(|(name, _)| *name)
}

/// What a pre-tokenizer does, one thing after another and each in one spelling, without what changes no token.
fn steps(pre_tokenizer: &Json) -> Vec<Json> {
    if let Some(Json::Array(parts)) = pre_tokenizer.get("pretokenizers") {
        return parts.iter().flat_map(steps).collect();
    }
    let mut step = pre_tokenizer.clone();
    if let Json::Object(fields) = &mut step {
        fields.remove("trim_offsets");
        // The patterns match every character, so removing what is between matches removes nothing.
        if fields.get("behavior") == Some(&"Removed".into()) && fields.get("invert") == Some(&true.into()) {
            fields.insert("behavior".into(), "Isolated".into());
            fields.insert("invert".into(), false.into());
        }
    }
    vec![step]
}

/// What a file with byte-level tokens describes.
pub(super) fn read_parts(gguf: &Gguf, vocabulary: &Vocabulary) -> Result<Parts, ModelError> {
    let name = gguf.text(keys::PRE_TOKENIZER)?.unwrap_or("default");
    let Some((_, kind)) = KINDS.iter().find(|(known, _)| *known == name) else {
        let known: Vec<String> = KINDS.iter().map(|(known, _)| format!("`{known}`")).collect();
        let problem = format!(
            "is `{name}`, which is not supported; it must be one of {}, or use the model's Hugging Face folder",
            known.join(", ")
        );
        return Err(ModelError::config(&gguf.path, keys::PRE_TOKENIZER, problem));
    };
    let merges = read_merges(gguf)?;
    Ok(Parts {
        model: vocabulary.model(&gguf.path, merges, |builder| builder.ignore_merges(kind.whole_words))?,
        normalizer: kind.normalizer(),
        pre_tokenizer: kind.cut.pre_tokenizer(),
        post_processor: byte_level(true, false, true),
        decoder: byte_level(true, true, true),
        add_bos: kind.begins,
        strips_right: |_| false,
    })
}

fn read_merges(gguf: &Gguf) -> Result<Merges, ModelError> {
    let pairs = gguf.strings(keys::MERGES)?.iter().map(|merge| match merge.split_once(' ') {
        Some((left, right)) => Ok((left.into(), right.into())),
        None => {
            let problem = format!("has the entry {merge:?}, which is not a pair");
            Err(ModelError::config(&gguf.path, keys::MERGES, problem))
        }
    });
    pairs.collect()
}

fn sequence(steps: Vec<Json>) -> Json {
    json!({ "type": "Sequence", "pretokenizers": steps })
}

fn split(pattern: &str) -> Json {
    json!({ "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false })
}

fn byte_level(add_prefix_space: bool, trim_offsets: bool, use_regex: bool) -> Json {
    json!({
        "type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": trim_offsets, "use_regex": use_regex
    })
}
