use std::path::Path;

use proptest::prelude::*;

use super::super::testing::{Writer, byte_characters};
use super::super::tests::golden;
use super::*;
use crate::chat::Message;
use crate::testing::byte_tokenizer;

/// The ids and the text that the original of a golden tokenizer gives for each of the texts.
fn originals(name: &str) -> Vec<(String, Vec<u32>, String)> {
    let read = |name: &str| std::fs::read_to_string(golden("tokenizers").join(name)).unwrap();
    let texts: Vec<String> = serde_json::from_str(&read("texts.json")).unwrap();
    let all: Json = serde_json::from_str(&read(&format!("{name}.json"))).unwrap();
    let ids: Vec<Vec<u32>> = serde_json::from_value(all["ids"].clone()).unwrap();
    let decoded: Vec<Option<String>> = serde_json::from_value(all["decoded"].clone()).unwrap();
    assert!(texts.len() > 50 && texts.len() == ids.len() && texts.len() == decoded.len());
    let rows = texts.into_iter().zip(ids).zip(decoded);
    rows.map(|((text, ids), decoded)| (text.clone(), ids, decoded.unwrap_or(text))).collect()
}

/// Holds the tokenizer in a golden file to its original, `rename` the kind it names.
fn compare(name: &str, rename: Option<&str>) {
    let mut gguf = Gguf::open(&golden("tokenizers").join(format!("{name}.gguf"))).unwrap();
    if let Some(kind) = rename {
        gguf.metadata.insert("tokenizer.ggml.pre".into(), Value::String(kind.into()));
    }
    let tokenizer = read_tokenizer(&gguf).unwrap();
    // What is saved is the same tokenizer.
    let saved = Tokenizer::new(
        Path::new("tokenizer.json"),
        tokenizer.definition().into(),
        tokenizer.settings().clone(),
        &tokenizer.special_ids(),
    );
    for tokenizer in [&saved.unwrap(), &tokenizer] {
        for (text, ids, decoded) in originals(name) {
            assert_eq!(tokenizer.encode(&text).unwrap(), ids, "{text:?} in {name}");
            assert_eq!(tokenizer.decode(&ids), decoded, "{text:?} in {name}");
            let mut stream = tokenizer.stream();
            let mut shown: String = ids.into_iter().map(|id| stream.push(id)).collect();
            shown.push_str(&stream.finish());
            assert_eq!(shown, decoded, "{text:?} in {name}");
        }
    }
}

/// The originals are trained by `tokenizers` (`scripts/oracle/gguf_tokenizers.py`).
#[test]
fn byte_level_tokenizers_are_their_originals() {
    for name in ["default", "gpt-2", "olmo", "refact", "llama-bpe", "dbrx", "qwen2", "qwen35", "gpt-4o", "tekken"] {
        compare(name, None);
    }
    for (name, other) in [
        ("refact", "smollm"),
        ("refact", "starcoder"),
        ("llama-bpe", "llama3"),
        ("llama-bpe", "llama-v3"),
        ("llama-bpe", "smaug-bpe"),
    ] {
        compare(name, Some(other));
    }
}

/// The originals are trained by `sentencepiece`, as Llama 2 and Gemma are set up, and without a fallback to bytes.
#[test]
fn sentencepiece_tokenizers_are_their_originals() {
    for name in ["llama-2", "gemma", "no-bytes"] {
        compare(name, None);
    }
}

/// A vocabulary of bytes and the given tokens, cut by the named kind of pre-tokenizer.
fn byte_level(pre: Option<&str>, more: &[&str], change: impl Fn(Writer) -> Writer) -> Result<Dialect, ModelError> {
    let mut tokens = byte_characters();
    tokens.extend(["<s>", "</s>", "<user>"].iter().chain(more).map(ToString::to_string));
    let mut types = vec![NORMAL; tokens.len()];
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
    read(change(writer))
}

fn read(writer: Writer) -> Result<Dialect, ModelError> {
    let bytes = writer.finish();
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
            let tokenizer = byte_level(kind, &[pair], with_eos).unwrap().tokenizer().clone();
            let ids = tokenizer.encode(text).unwrap();
            assert_eq!(ids.contains(&259), expected, "{text:?} with {kind:?} became {ids:?}");
            assert_eq!(tokenizer.decode(&ids), text);
        }
    }
}

#[test]
fn llama_3_begins_a_plain_prompt() {
    let llama = byte_level(Some("llama-bpe"), &[], with_eos).unwrap();
    assert!(llama.tokenizer().add_bos());
    assert_eq!(llama.encode_prompt(&[Message::new("user", "<user>")]).unwrap(), [256, 258]);
    let told =
        byte_level(Some("llama-bpe"), &[], |w| with_eos(w).value("tokenizer.ggml.add_bos_token", Value::Bool(false)));
    assert!(!told.unwrap().tokenizer().add_bos());
}

/// What transformers makes of a saved copy: with the special tokens that a text gets there.
#[test]
fn a_saved_copy_surrounds_a_text() {
    let surrounded = |add_bos: bool, add_eos: bool| -> Vec<u32> {
        let dialect = byte_level(None, &[], |w| {
            with_eos(w)
                .value("tokenizer.ggml.add_bos_token", Value::Bool(add_bos))
                .value("tokenizer.ggml.add_eos_token", Value::Bool(add_eos))
        });
        let definition = dialect.unwrap().tokenizer().definition().to_owned();
        definition.parse::<tokenizers::Tokenizer>().unwrap().encode("!", true).unwrap().get_ids().into()
    };
    assert_eq!(surrounded(false, false), [33]);
    assert_eq!(surrounded(true, false), [256, 33]);
    assert_eq!(surrounded(false, true), [33, 257]);
    assert_eq!(surrounded(true, true), [256, 33, 257]);
}

#[test]
fn all_end_tokens_stop() {
    let more = |w: Writer| with_eos(w).value("tokenizer.ggml.eot_token_id", Value::Int(258));
    assert_eq!(byte_level(Some("qwen2"), &[], more).unwrap().tokenizer().stop_ids(), [257, 258]);
}

#[test]
fn a_saved_copy_knows_the_longest_text() {
    let lengths = |w: Writer| {
        with_eos(w)
            .value("general.architecture", Value::String("qwen2".into()))
            .value("qwen2.context_length", Value::Int(40_960))
            .value("llama.context_length", Value::Int(1))
    };
    let dialect = byte_level(Some("qwen2"), &[], lengths).unwrap();
    assert_eq!(dialect.tokenizer().settings()["model_max_length"], 40_960);
}

/// Pieces with their types.
fn pieces(list: &[(&str, i64)], change: impl Fn(Writer) -> Writer) -> Result<Dialect, ModelError> {
    let tokens: Vec<String> = list.iter().map(|(piece, _)| piece.to_string()).collect();
    let writer = Writer::new()
        .value("tokenizer.ggml.model", Value::String("llama".into()))
        .value("tokenizer.ggml.tokens", Value::Strings(tokens))
        .value("tokenizer.ggml.token_type", Value::Ints(list.iter().map(|(_, kind)| *kind).collect()))
        .value("tokenizer.ggml.eos_token_id", Value::Int(1));
    read(change(writer))
}

fn with_scores(writer: Writer, scores: &[f64]) -> Writer {
    writer.value("tokenizer.ggml.scores", Value::Floats(scores.into()))
}

const FEW: [(&str, i64); 8] = [
    ("<unk>", UNKNOWN),
    ("<|end|>", CONTROL),
    ("▁", NORMAL),
    ("a", NORMAL),
    ("b", NORMAL),
    ("ab", NORMAL),
    ("▁a", NORMAL),
    ("<|endoftext|>", CONTROL),
];

#[test]
fn scores_say_what_merges_first() {
    let ids = |scores: [f64; 8]| {
        let dialect = pieces(&FEW, |w| with_scores(w, &scores)).unwrap();
        dialect.tokenizer().encode("ab").unwrap()
    };
    assert_eq!(ids([0.0, 0.0, -9.0, -9.0, -9.0, -1.0, -2.0, 0.0]), [2, 5]);
    assert_eq!(ids([0.0, 0.0, -9.0, -9.0, -9.0, -2.0, -1.0, 0.0]), [6, 4]);
    // Files that were made without scores have one for all: then the first piece was learned first.
    assert_eq!(ids([-1000.0; 8]), [2, 5]);
}

#[test]
fn a_llama_2_text_begins_like_a_word() {
    let scores = [0.0, 0.0, -9.0, -9.0, -9.0, -2.0, -1.0, 0.0];
    let dialect =
        pieces(&FEW, |w| with_scores(w, &scores).value("tokenizer.ggml.bos_token_id", Value::Int(1))).unwrap();
    let tokenizer = dialect.tokenizer();
    assert!(tokenizer.add_bos());
    assert_eq!(tokenizer.encode("a<|end|>a<|end|> a b").unwrap(), [6, 1, 6, 1, 2, 6, 2, 4]);
    assert_eq!(tokenizer.encode("a?!a").unwrap(), [6, 0, 3]);
    assert_eq!(tokenizer.decode(&[6, 2, 4]), "a b");
    let plain = pieces(&FEW, |w| with_scores(w, &scores).value("tokenizer.ggml.add_space_prefix", Value::Bool(false)));
    let plain = plain.unwrap();
    assert_eq!(plain.tokenizer().encode("a<|end|>a b").unwrap(), [3, 1, 3, 2, 4]);
    assert_eq!(plain.tokenizer().decode(&[6, 2, 4]), " a b");
}

/// Phi-3's special tokens take the white space behind them along, but for `<unk>`, `<s>` and `<|endoftext|>`.
#[test]
fn phi_3_drops_what_follows_a_special_token() {
    let scores = [0.0, 0.0, -9.0, -9.0, -9.0, -2.0, -1.0, 0.0];
    let ids = |architecture: &str| {
        let change =
            |w: Writer| with_scores(w, &scores).value("general.architecture", Value::String(architecture.into()));
        pieces(&FEW, change).unwrap().tokenizer().encode("<|end|>\n a<|endoftext|> a").unwrap()
    };
    assert_eq!(ids("phi3"), [1, 6, 7, 2, 6]);
    assert_eq!(ids("llama"), [1, 2, 0, 6, 7, 2, 6]);
}

#[test]
fn names_what_is_wrong() {
    let error = |result: Result<Dialect, ModelError>| result.unwrap_err().to_string();
    assert_eq!(
        error(byte_level(Some("bloom"), &[], with_eos)),
        "`tokenizer.ggml.pre` in `m.gguf` is `bloom`, which is not supported; it must be one of `default`, `gpt-2`, \
         `olmo`, `smollm`, `starcoder`, `refact`, `llama-bpe`, `llama3`, `llama-v3`, `smaug-bpe`, `dbrx`, `qwen2`, \
         `qwen35`, `gpt-4o`, `tekken`, or use the model's Hugging Face folder"
    );
    assert!(error(byte_level(None, &[], |w| w)).contains("no token that ends a turn"));
    let far = |w: Writer| w.value("tokenizer.ggml.eos_token_id", Value::Int(1000));
    assert!(error(byte_level(None, &[], far)).contains("a special token has the id 1000"));
    assert!(error(byte_level(None, &["</s>"], with_eos)).contains("has the token \"</s>\" twice"));
    let long = "x".repeat(MAX_TOKEN + 1);
    assert!(error(byte_level(None, &[&long], with_eos)).contains("has a token of 1025 bytes, number 259"));
    let template = |w: Writer| with_eos(w).value("tokenizer.chat_template", Value::String("{% if".into()));
    assert!(
        error(byte_level(None, &[], template)).starts_with("cannot apply the chat template of `m.gguf`: syntax error")
    );
    let other = Writer::new().value("tokenizer.ggml.model", Value::String("bert".into()));
    assert_eq!(
        error(read(other)),
        "`tokenizer.ggml.model` in `m.gguf` is `bert`, which is not supported; it must be `gpt2` or `llama`, or use the \
         model's Hugging Face folder"
    );

    // The merges speak of tokens that are not there.
    let merges = Value::Strings(vec!["a b".into()]);
    let lacking = Writer::new()
        .value("tokenizer.ggml.model", Value::String("gpt2".into()))
        .value("tokenizer.ggml.tokens", Value::Strings(vec!["a".into(), "b".into()]))
        .value("tokenizer.ggml.merges", merges);
    let lacking = error(read(lacking));
    assert!(lacking.starts_with("cannot use the tokenizer in `m.gguf`: it is not a tokenizer that"), "{lacking}");
    assert!(lacking.contains("`ab`"), "{lacking}");
}

#[test]
fn names_what_is_wrong_with_pieces() {
    let error = |result: Result<Dialect, ModelError>| result.unwrap_err().to_string();
    let scores = [0.0; 8];
    let at = |key: &str| format!("`tokenizer.ggml.{key}` in `m.gguf`");
    assert_eq!(error(pieces(&FEW, |w| w)), format!("{} is missing", at("scores")));
    let short = error(pieces(&FEW, |w| with_scores(w, &scores[..7])));
    assert_eq!(short, format!("{} is not a list of 8 numbers, one for each token", at("scores")));
    let mut odd = scores;
    odd[3] = f64::NAN;
    let odd = error(pieces(&FEW, |w| with_scores(w, &odd)));
    assert_eq!(odd, format!("{} has no number for token 3; the file is damaged, fetch it again", at("scores")));
    let bare = error(pieces(&FEW[1..], |w| with_scores(w, &scores[..7])));
    assert_eq!(
        bare,
        format!("{} has neither a token for the unknown nor one for each of the 256 bytes, but 0", at("tokens"))
    );
    let strip = |w: Writer| with_scores(w, &scores).value("tokenizer.ggml.remove_extra_whitespaces", Value::Bool(true));
    assert_eq!(
        error(pieces(&FEW, strip)),
        format!(
            "{} asks for a change of the text that is not supported; use the model's Hugging Face folder",
            at("remove_extra_whitespaces")
        )
    );

    let types = Writer::new()
        .value("tokenizer.ggml.model", Value::String("llama".into()))
        .value("tokenizer.ggml.tokens", Value::Strings(vec!["a".into()]))
        .value("tokenizer.ggml.token_type", Value::Ints(vec![1, 1]));
    assert_eq!(error(read(types)), format!("{} is not a list of 1 numbers, one for each token", at("token_type")));
    // Pieces that are all parts of each other.
    let list: Vec<(String, i64)> = (1..=1000).map(|n| ("a".repeat(n), NORMAL)).collect();
    let list: Vec<_> = list.iter().map(|(piece, kind)| (piece.as_str(), *kind)).chain([FEW[0]]).collect();
    let many = error(pieces(&list, |w| with_scores(w, &vec![0.0; list.len()])));
    assert_eq!(
        many,
        format!("{} needs more than 128 MiB of merges; the file is damaged, fetch it again", at("tokens"))
    );
}

prop_compose! {
    /// What a file may list, sensible for the most part.
    fn any_vocabulary()(
        model in prop::sample::select(vec!["gpt2", "llama"]),
        pre in prop::sample::select(vec!["default", "smollm", "qwen2", "tekken"]),
        tokens in prop::collection::hash_set("[ab▁Ġ ]{1,4}|<s>|<0x[0-6][1-3]>|\\PC{0,2}", 1..24),
        mut types in prop::collection::vec(prop_oneof![20 => 1..7_i64, 1 => Just(-1)], 24),
        mut scores in prop::collection::vec(prop_oneof![50 => -9.0..9.0_f64, 1 => Just(f64::NAN)], 24),
        merges in prop::collection::vec("[ab▁Ġ] [ab▁Ġ]|a{1,2} a{1,2}", 0..3),
        bos in prop::option::of(0..24_i64), eos in 0..16_i64, unknown in prop::option::of(0..26_i64),
        add_bos in any::<bool>(), add_eos in any::<bool>(), add_space_prefix in any::<bool>(),
        uneven in prop::bool::weighted(0.05),
    ) -> Vec<(&'static str, Value)> {
        types.truncate(tokens.len() + usize::from(uneven));
        scores.truncate(tokens.len());
        let mut values = vec![
            ("tokenizer.ggml.model", Value::String(model.into())),
            ("tokenizer.ggml.pre", Value::String(pre.into())),
            ("tokenizer.ggml.tokens", Value::Strings(tokens.into_iter().collect())),
            ("tokenizer.ggml.token_type", Value::Ints(types)),
            ("tokenizer.ggml.scores", Value::Floats(scores)),
            ("tokenizer.ggml.merges", Value::Strings(merges)),
            ("tokenizer.ggml.eos_token_id", Value::Int(eos)),
            ("tokenizer.ggml.add_bos_token", Value::Bool(add_bos)),
            ("tokenizer.ggml.add_eos_token", Value::Bool(add_eos)),
            ("tokenizer.ggml.add_space_prefix", Value::Bool(add_space_prefix)),
        ];
        values.extend(bos.map(|id| ("tokenizer.ggml.bos_token_id", Value::Int(id))));
        values.extend(unknown.map(|id| ("tokenizer.ggml.unknown_token_id", Value::Int(id))));
        values
    }
}

proptest! {
    #[test]
    fn any_vocabulary_is_an_error_or_a_tokenizer(
        values in any_vocabulary(), text in "[ab▁Ġ ]{0,20}|(<s>|a|<0x61>| |\\n){0,9}|\\PC{0,9}",
    ) {
        let writer = values.into_iter().fold(Writer::new(), |writer, (key, value)| writer.value(key, value));
        if let Ok(dialect) = read(writer) {
            let tokenizer = dialect.tokenizer();
            let ids = tokenizer.encode(&text).unwrap();
            prop_assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()));
            tokenizer.decode(&ids);
            let mut stream = tokenizer.stream();
            ids.into_iter().for_each(|id| drop(stream.push(id)));
        }
    }
}
