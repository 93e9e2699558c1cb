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
    /// Its text in order.
    pub parts: Vec<Part>,
    /// Tokens that are cut off.
    #[serde(skip_serializing_if = "is_zero")]
    pub cut: usize,
}

/// What the model reads, or is trained to write.
#[derive(Serialize)]
pub struct Part {
    text: String,
    trained: bool,
}

impl Part {
    /// What the model only reads.
    pub fn read(text: String) -> Self {
        Self { text, trained: false }
    }

    /// What it is trained to write.
    pub fn trained(text: String) -> Self {
        Self { text, trained: true }
    }
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
        let parts = vec![Part::read(format!("{read}assistant: ")), Part::trained(trained)];
        Self { place: record.place.to_string(), parts, cut: 0 }
    }

    /// The text, what is trained on between `marks`.
    pub fn text(&self, marks: Marks) -> String {
        let Marks(open, close) = marks;
        let part = |part: &Part| match shown(&part.text) {
            text if part.trained && !text.is_empty() => format!("{open}{text}{close}"),
            text => text,
        };
        let text: String = self.parts.iter().map(part).collect();
        match self.cut {
            _ if !self.parts.iter().any(|part| part.trained && !part.text.is_empty()) => {
                format!("{} (nothing is trained on)", text.trim_end())
            }
            0 => text,
            cut => format!("{text} ({cut} tokens more are cut off)"),
        }
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
