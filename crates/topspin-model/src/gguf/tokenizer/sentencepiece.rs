//! SentencePiece's BPE: a text is merged as a whole, its spaces written as `▁`, and the score of what a pair makes says
//! which pair comes first. What no piece covers becomes bytes.
//!
//! The hub's `tokenizer.json` of such models (Llama 2, Mistral 7B, Phi-3, Gemma) has a list of merges in place of scores;
//! [`merges`] derives it as transformers does (`generate_merges` in `tokenization_utils_base.py`). The two differ where
//! one piece can be made of two overlapping pairs, such as `ababa` in `ab` `aba` `ba`: SentencePiece takes the left pair,
//! the list the one with the longer left half.

use std::cmp::Ordering;

use serde_json::{Value as Json, json};
use tokenizers::models::bpe::Merges;

use super::describe::Model;
use super::{BYTE, Gguf, NORMAL, Parts, USER_DEFINED, Value, Vocabulary, keys};
use crate::error::ModelError;

/// Most memory for merges in bytes, by the rough count of [`merges`]. The 61,249 of Phi-3's 32,064 tokens take 3 MB, and a
/// vocabulary eight times as large takes about eight times as much; pieces that are all parts of each other would take any
/// amount.
const MAX_MERGES: usize = 128 << 20;

/// What a file with SentencePiece's pieces describes.
pub(super) fn read_parts(gguf: &Gguf, vocabulary: &Vocabulary) -> Result<Parts, ModelError> {
    let fail = |key: &str, problem: String| Err(ModelError::config(&gguf.path, key, problem));
    for key in ["tokenizer.ggml.remove_extra_whitespaces", "tokenizer.ggml.precompiled_charsmap"] {
        if gguf.value(key).is_some_and(|value| *value != Value::Bool(false)) {
            let problem = "asks for a change of the text that is not supported; use the model's Hugging Face folder";
            return fail(key, problem.into());
        }
    }
    let scores = read_scores(gguf, vocabulary.tokens.len())?;
    let bytes = (0..vocabulary.tokens.len()).filter(|&id| vocabulary.kind(id) == BYTE).count();
    if vocabulary.unknown.is_none() && bytes < 256 {
        let problem = format!("has neither a token for the unknown nor one for each of the 256 bytes, but {bytes}");
        return fail(keys::TOKENS, problem);
    }
    let joins = |id: usize| [NORMAL, USER_DEFINED].contains(&vocabulary.kind(id));
    let Some(merges) = merges(vocabulary.tokens, scores, joins) else {
        let problem =
            format!("needs more than {} MiB of merges; the file is damaged, fetch it again", MAX_MERGES >> 20);
        return fail(keys::TOKENS, problem);
    };
    let unknown = vocabulary.unknown.map(|id| &vocabulary.tokens[id as usize]);
    let model = vocabulary.model(&gguf.path, merges, |builder| {
        let builder = builder.byte_fallback(bytes > 0).fuse_unk(true);
        unknown.into_iter().fold(builder, |builder, token| builder.unk_token(token.clone()))
    })?;

    // A text begins as a word does in the middle of one, and so does what follows a special token.
    let prefix = gguf.bool(keys::SPACE_PREFIX)?.unwrap_or(true);
    let show_spaces = json!({ "type": "Replace", "pattern": { "String": "▁" }, "content": " " });
    let mut decoders = vec![show_spaces, json!({ "type": "ByteFallback" }), json!({ "type": "Fuse" })];
    if prefix {
        decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
    }
    let phi3 = gguf.text(keys::ARCHITECTURE)? == Some("phi3");
    Ok(Parts {
        model,
        normalizer: normalizer(prefix),
        pre_tokenizer: Json::Null,
        post_processor: Json::Null,
        decoder: json!({ "type": "Sequence", "decoders": decoders }),
        add_bos: true,
        // Nothing in a file says so: Phi-3's `tokenizer.json` does of all tokens but three.
        strips_right: if phi3 { |token| !["<unk>", "<s>", "<|endoftext|>"].contains(&token) } else { |_| false },
    })
}

/// What is done to a text first.
fn normalizer(prefix: bool) -> Json {
    let mark_spaces = json!({ "type": "Replace", "pattern": { "String": " " }, "content": "▁" });
    match prefix {
        true => json!({ "type": "Sequence", "normalizers": [{ "type": "Prepend", "prepend": "▁" }, mark_spaces] }),
        false => mark_spaces,
    }
}

/// Whether a text begins as a word does in the middle of one, if it is prepared as SentencePiece does.
pub(super) fn space_prefix(found: &Json, pre_tokenizer: &Json) -> Option<bool> {
    // Gemma's cuts behind spaces, of which there are none any more.
    let idle = json!({
        "type": "Split", "pattern": { "String": " " }, "behavior": "MergedWithPrevious", "invert": false
    });
    let prefix = [true, false].into_iter().find(|&prefix| normalizer(prefix) == *found)?;
    (pre_tokenizer.is_null() || *pre_tokenizer == idle).then_some(prefix)
}

/// The score of each piece: the sooner it is made by merges, the higher. `None` if that is not all that the merges say.
pub(super) fn scores(tokens: &[String], model: &Model, joins: impl Fn(usize) -> bool) -> Option<Vec<f64>> {
    let made = made_by(&model.merges);
    let mut scores = vec![-(made.len() as f64); tokens.len()];
    for (rank, piece) in made.iter().enumerate() {
        *scores.get_mut(*model.vocab.get(piece)? as usize)? = -(rank as f64);
    }
    let mut derived = merges(tokens, &scores, joins)?;
    // Which pair of several that make a piece comes first is left open; see above.
    let same_order = made_by(&derived) == made;
    let mut given = model.merges.clone();
    given.sort_unstable();
    derived.sort_unstable();
    (same_order && given == derived).then_some(scores)
}

/// The pieces that merges make, one after another.
fn made_by(merges: &Merges) -> Vec<String> {
    let mut made: Vec<String> = merges.iter().map(|(left, right)| format!("{left}{right}")).collect();
    made.dedup();
    made
}

fn read_scores(gguf: &Gguf, tokens: usize) -> Result<&[f64], ModelError> {
    let fail = |problem: String| Err(ModelError::config(&gguf.path, keys::SCORES, problem));
    match gguf.value(keys::SCORES) {
        None => fail("is missing".into()),
        Some(Value::Floats(list)) if list.len() == tokens => match list.iter().position(|score| score.is_nan()) {
            Some(id) => fail(format!("has no number for token {id}; the file is damaged, fetch it again")),
            None => Ok(list),
        },
        Some(_) => fail(format!("is not a list of {tokens} numbers, one for each token")),
    }
}

/// All pairs of pieces that make up a piece: those of the piece with the highest score first, those of one piece by the
/// length of their left half, the longest first. Pieces of equal score come in the order of their ids. Only pieces that
/// `joins` takes part. `None` if there are too many to hold.
///
/// Time and memory are proportional to the bytes of all pieces and merges, but for sorting the pieces.
fn merges(tokens: &[String], scores: &[f64], joins: impl Fn(usize) -> bool) -> Option<Merges> {
    let mut ids: Vec<usize> = (0..tokens.len()).filter(|&id| joins(id) && !tokens[id].is_empty()).collect();
    ids.sort_unstable_by(|&a, &b| tokens[a].cmp(&tokens[b]));
    let heads = longest_parts(&ids, tokens, |part, whole| whole.starts_with(part));
    ids.sort_unstable_by(|&a, &b| tokens[a].bytes().rev().cmp(tokens[b].bytes().rev()));
    let tails = longest_parts(&ids, tokens, |part, whole| whole.ends_with(part));

    let by_score = |a: usize, b: usize| scores[b].partial_cmp(&scores[a]).unwrap_or(Ordering::Equal);
    ids.sort_unstable_by(|&a, &b| by_score(a, b).then(a.cmp(&b)));
    let mut merges = Vec::new();
    let mut memory = 0;
    // Where a tail of the piece begins, in increasing order.
    let mut cuts = Vec::new();
    for id in ids {
        let piece = tokens[id].as_str();
        cuts.clear();
        cuts.extend(parts(&tails, id).map(|tail| piece.len() - tokens[tail].len()));
        for head in parts(&heads, id) {
            let end = tokens[head].len();
            while cuts.last().is_some_and(|&cut| cut > end) {
                cuts.pop();
            }
            if cuts.last() == Some(&end) {
                merges.push((piece[..end].into(), piece[end..].into()));
                memory += piece.len() + size_of::<(String, String)>();
            }
        }
        if memory > MAX_MERGES {
            return None;
        }
    }
    Some(merges)
}

/// For each piece the longest other one that is a part of it. The ids come in an order in which a part stands before all
/// that it is a part of, and nothing else stands between these.
fn longest_parts(ids: &[usize], tokens: &[String], is_part: impl Fn(&str, &str) -> bool) -> Vec<Option<usize>> {
    let mut longest = vec![None; tokens.len()];
    let mut open: Vec<usize> = Vec::new();
    for &id in ids {
        while open.last().is_some_and(|&part| !is_part(&tokens[part], &tokens[id])) {
            open.pop();
        }
        longest[id] = open.last().copied();
        open.push(id);
    }
    longest
}

/// All parts of a piece, ever shorter.
fn parts(longest: &[Option<usize>], id: usize) -> impl Iterator<Item = usize> {
    std::iter::successors(longest[id], |&part| longest[part])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Every cut of every piece, in the order of transformers' `generate_merges`.
    fn slow_merges(tokens: &[String], scores: &[f64], joins: &[bool]) -> Merges {
        let is_piece = |text: &str| tokens.iter().zip(joins).any(|(token, &joins)| joins && token == text);
        let mut all = Vec::new();
        for (id, token) in tokens.iter().enumerate().filter(|(id, _)| joins[*id]) {
            for (at, _) in token.char_indices().skip(1) {
                let (left, right) = token.split_at(at);
                if is_piece(left) && is_piece(right) {
                    all.push((-scores[id], id, usize::MAX - at, (left.to_owned(), right.to_owned())));
                }
            }
        }
        all.sort_by(|a, b| a.partial_cmp(b).unwrap());
        all.into_iter().map(|(.., merge)| merge).collect()
    }

    proptest! {
        #[test]
        fn merges_are_all_cuts(
            set in prop::collection::hash_map("[abé]{1,7}", (-9_i32..3, prop::bool::weighted(0.9)), 1..60),
        ) {
            let mut list: Vec<(String, (i32, bool))> = set.into_iter().collect();
            list.sort();
            let tokens: Vec<String> = list.iter().map(|(token, _)| token.clone()).collect();
            let scores: Vec<f64> = list.iter().map(|(_, (score, _))| f64::from(*score) * 0.5).collect();
            let joins: Vec<bool> = list.iter().map(|(_, (_, joins))| *joins).collect();
            prop_assert_eq!(merges(&tokens, &scores, |id| joins[id]).unwrap(), slow_merges(&tokens, &scores, &joins));
        }
    }
}
