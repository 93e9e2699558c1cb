//! Byte-level BPE: a text is cut into pieces, and the bytes of each piece are merged.

use serde_json::{Value as Json, json};
use tokenizers::models::bpe::Merges;

use super::{Gguf, Parts, Vocabulary};
use crate::error::ModelError;

const PRE: &str = "tokenizer.ggml.pre";
const MERGES: &str = "tokenizer.ggml.merges";

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

/// What a file with byte-level tokens describes.
pub(super) fn read_parts(gguf: &Gguf, vocabulary: &Vocabulary) -> Result<Parts, ModelError> {
    let name = gguf.text(PRE)?.unwrap_or("default");
    let Some((_, kind)) = KINDS.iter().find(|(known, _)| *known == name) else {
        let known: Vec<String> = KINDS.iter().map(|(known, _)| format!("`{known}`")).collect();
        let problem = format!(
            "is `{name}`, which is not supported; it must be one of {}, or use the model's Hugging Face folder",
            known.join(", ")
        );
        return Err(ModelError::config(&gguf.path, PRE, problem));
    };
    let merges = read_merges(gguf)?;
    Ok(Parts {
        model: vocabulary.model(&gguf.path, merges, |builder| builder.ignore_merges(kind.whole_words))?,
        normalizer: if kind.composed { json!({ "type": "NFC" }) } else { Json::Null },
        pre_tokenizer: kind.cut.pre_tokenizer(),
        post_processor: byte_level(true, false, true),
        decoder: byte_level(true, true, true),
        add_bos: kind.begins,
        strips_right: |_| false,
    })
}

fn read_merges(gguf: &Gguf) -> Result<Merges, ModelError> {
    let pairs = gguf.strings(MERGES)?.iter().map(|merge| match merge.split_once(' ') {
        Some((left, right)) => Ok((left.into(), right.into())),
        None => {
            let problem = format!("has the entry {merge:?}, which is not a pair");
            Err(ModelError::config(&gguf.path, MERGES, problem))
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
