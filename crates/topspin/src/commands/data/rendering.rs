//! Records as a model gets to see them, with what is trained on set off from what is only read.

use std::io::{IsTerminal, stdout};

use serde::Serialize;
use topspin_data::Record;

/// Characters of a text that are shown at most.
const SHOWN: usize = 1200;

/// A record as text.
#[derive(Serialize)]
pub struct Example {
    /// Where it stands.
    pub place: String,
    /// What the model reads.
    pub read: String,
    /// What it is trained to write behind that.
    pub trained: String,
    /// Tokens that are cut off.
    #[serde(skip_serializing_if = "is_zero")]
    pub cut: usize,
}

fn is_zero(n: &usize) -> bool {
    *n == 0
}

impl Example {
    /// A record as it is written, where there is no model to say how it is rendered.
    pub fn plain(record: &Record) -> Self {
        let turn = |role: &str, content: &str| format!("{role}: {content}\n");
        let read: String = record.messages.iter().map(|m| turn(&m.role, &m.content)).collect();
        let trained = record.response.clone().unwrap_or_default();
        Self { place: record.place.to_string(), read: format!("{read}assistant: "), trained, cut: 0 }
    }

    /// The text, what is trained on between `marks`.
    pub fn text(&self, marks: Marks) -> String {
        let Marks(open, close) = marks;
        if self.trained.is_empty() {
            return format!("{} (nothing is trained on)", shown(&self.read).trim_end());
        }
        let cut = if self.cut > 0 { format!(" ({} tokens more are cut off)", self.cut) } else { String::new() };
        format!("{}{open}{}{close}{cut}", shown(&self.read), shown(&self.trained))
    }
}

/// What stands before and behind what is trained on.
#[derive(Clone, Copy)]
pub struct Marks(&'static str, &'static str);

impl Marks {
    /// Green in a terminal, unless colours are not wanted; else signs, as `wdiff` sets off what is new.
    pub fn of_stdout() -> Self {
        let colour = stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        if colour { Self("\x1b[32m", "\x1b[0m") } else { Self("{+", "+}") }
    }

    /// What the marks mean.
    pub fn legend(self) -> String {
        format!("what is trained on is marked {}so{}", self.0, self.1)
    }
}

/// A text without its middle, if it is long, and without what would move a terminal's cursor.
fn shown(text: &str) -> String {
    let visible =
        |c: char| if c.is_control() && c != '\n' && c != '\t' { c.escape_default().to_string() } else { c.into() };
    let all = text.chars().count();
    if all <= SHOWN {
        return text.chars().map(visible).collect();
    }
    let start: String = text.chars().take(SHOWN / 2).map(visible).collect();
    let end: String = text.chars().skip(all - SHOWN / 2).map(visible).collect();
    format!("{start} [... {} characters ...] {end}", all - SHOWN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_lose_their_middle_and_escapes_their_power() {
        let text = format!("\x1b[31m{}é", "a".repeat(SHOWN));
        let shown = shown(&text);
        assert!(shown.starts_with("\\u{1b}[31ma") && shown.ends_with("aé") && shown.contains("[... 6 characters ...]"));
        assert_eq!(super::shown("a\n\tb\u{7}"), "a\n\tb\\u{7}");
    }
}
