//! `{% generation %}`: by these tags a template says which words are the assistant's. They print nothing.
//!
//! The engine does not know them. For a plain rendering they become a condition that always holds; to find the words, a
//! filter that puts a mark before and behind. Either is a block as the tag is, with the same trimming around it.

use std::ops::Range;

/// Before and behind the assistant's words: characters that Unicode keeps free of meaning, for uses such as this.
pub(super) const OPEN: char = '\u{fdd0}';
const CLOSE: char = '\u{fdd1}';

/// The filter.
pub(super) fn mark(words: &str) -> String {
    format!("{OPEN}{words}{CLOSE}")
}

/// Whether a template has the tags.
pub(super) fn are_in(source: &str) -> bool {
    without_tags(source) != source
}

/// The template that prints what `source` prints.
pub(super) fn without_tags(source: &str) -> String {
    with_blocks(source, "if true", "endif")
}

/// The template that prints the marks too.
pub(super) fn with_filters(source: &str) -> String {
    with_blocks(source, "filter generation", "endfilter")
}

/// Puts other blocks in the place of the tags.
fn with_blocks(source: &str, begin: &str, end: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        out.push_str(before);
        let close = tag.find("%}").map_or(tag.len(), |close| close + 2);
        let (tag, after) = tag.split_at(close);
        let name = tag.trim_matches(['{', '}', '%', '-', '+']).trim();
        match name {
            "generation" => out.push_str(&tag.replacen(name, begin, 1)),
            "endgeneration" => out.push_str(&tag.replacen(name, end, 1)),
            _ => out.push_str(tag),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

/// The text without its marks, and what they enclosed; `None` if they are not by pairs.
pub(super) fn spans(marked: &str) -> Option<(String, Vec<Range<usize>>)> {
    let mut text = String::with_capacity(marked.len());
    let (mut spans, mut begin) = (Vec::new(), None);
    for c in marked.chars() {
        match (c, begin) {
            (OPEN, None) => begin = Some(text.len()),
            (CLOSE, Some(start)) => {
                spans.push(start..text.len());
                begin = None;
            }
            (OPEN | CLOSE, _) => return None,
            (c, _) => text.push(c),
        }
    }
    begin.is_none().then_some((text, spans))
}
