//! Texts of others on a terminal: nothing in them may move the cursor, and lines end where the pane does.

use ratatui::style::Style;
use ratatui::text::Span;

/// Columns that a tabulator is shown as.
const TAB: &str = "    ";

/// What stands for a character that would do something else than be shown.
pub fn harmless(character: char) -> Option<char> {
    match character {
        '\0'..='\x1f' => char::from_u32('\u{2400}' as u32 + character as u32),
        '\x7f' => Some('\u{2421}'),
        // Control characters beyond ASCII, marks of direction, and what has neither width nor shape.
        '\u{80}'..='\u{9f}'
        | '\u{ad}'
        | '\u{61c}'
        | '\u{200b}'
        | '\u{200e}'
        | '\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{feff}'
        | '\u{fff9}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e007f}' => Some('\u{fffd}'),
        _ => None,
    }
}

/// A text in lines of at most so many columns, broken between words where there are some.
pub fn wrap(text: &str, columns: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for line in text.split('\n') {
        let line = line.strip_suffix('\r').unwrap_or(line).replace('\t', TAB);
        let line: String = line.chars().map(|character| harmless(character).unwrap_or(character)).collect();
        lines.extend(wrap_line(&line, columns.max(1)));
    }
    lines
}

fn wrap_line(line: &str, columns: usize) -> Vec<String> {
    let (mut lines, mut now, mut width) = (Vec::new(), String::new(), 0);
    for word in line.split_inclusive(' ') {
        let length = self::width(word.trim_end());
        if width > 0 && width + length > columns && length <= columns {
            lines.push(std::mem::take(&mut now));
            width = 0;
        }
        for grapheme in Span::raw(word).styled_graphemes(Style::default()) {
            // What is wider than a line, such as a letter with a hundred marks, has a stand-in.
            let symbol = if self::width(grapheme.symbol) > columns { "\u{fffd}" } else { grapheme.symbol };
            let wide = self::width(symbol);
            if width + wide > columns && width > 0 {
                lines.push(std::mem::take(&mut now));
                width = 0;
                // The space that the line is broken at.
                if symbol == " " {
                    continue;
                }
            }
            now += symbol;
            width += wide;
        }
    }
    lines.push(now);
    lines
}

/// Columns that a text takes: those of its characters, as they are drawn one by one.
pub fn width(text: &str) -> usize {
    let characters = Span::raw(text);
    characters.styled_graphemes(Style::default()).map(|character| Span::raw(character.symbol).width()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_fit_and_lose_nothing() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("one two three", 8), ["one two ", "three"]);
        assert_eq!(wrap("incomprehensible", 6), ["incomp", "rehens", "ible"]);
        assert_eq!(wrap("a\n\nb\r\n", 9), ["a", "", "b", ""]);
        // Each of these takes two columns.
        assert_eq!(wrap("日本語で話す", 5), ["日本", "語で", "話す"]);
        assert_eq!(wrap("e\u{301}e\u{301}e\u{301}", 2), ["e\u{301}e\u{301}", "e\u{301}"]);
        assert_eq!(wrap("日a", 1), ["\u{fffd}", "a"]);
        assert_eq!(wrap("", 0), [""]);
    }

    #[test]
    fn what_is_no_text_is_shown_and_not_done() {
        assert_eq!(wrap("\x1b[2Jgone\x07\x7f\u{9b}31m", 80), ["␛[2Jgone␇␡\u{fffd}31m"]);
        assert_eq!(wrap("a\u{202e}b\u{200b}c\u{feff}", 80), ["a\u{fffd}b\u{fffd}c\u{fffd}"]);
        assert_eq!(wrap("a\tb", 80), ["a    b"]);
        let all: String = (0..0xf_ffff).filter_map(char::from_u32).filter(|&c| c != '\n').collect();
        let shown = wrap(&all, 100);
        assert!(shown.iter().all(|line| !line.chars().any(char::is_control)));
        assert!(shown.iter().all(|line| width(line) <= 100));
    }
}
