//! Whole conversations as tokens, and which of them the assistant wrote.
//!
//! The tokens are those of the conversation rendered once. A turn of the assistant is what the model would write: all from
//! behind the generation prompt up to the token that ends the turn, which is included. Where it begins is found in one of
//! three ways, each of which is checked:
//!
//! 1. The template marks the words with `{% generation %}`, and is taken at its word.
//! 2. What the template writes of the messages before the turn, with its generation prompt, is what the whole begins with.
//! 3. A mark before the turn's content comes out once, and nothing else is changed by it. So it is where a template writes
//!    the messages before a turn in another way once the turn is there, such as a system message that goes to the last
//!    user.
//!
//! Behind a beginning that was found, the turn must end before the next user's words begin, and be what the message says, or
//! the end of it (templates drop the thinking of earlier turns), or end with it.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::chat::{ChatTemplate, Message};
use crate::dialect::Dialect;
use crate::error::ModelError;

/// A conversation as tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conversation {
    /// The tokens, up to the last one of the assistant.
    pub tokens: Vec<u32>,
    /// Where in them the assistant's turns are, in order, at least one; none is empty, and none begins at 0.
    pub turns: Vec<Range<usize>>,
}

/// Where in a text the contents of messages begin, by the number of the message.
type Starts = BTreeMap<usize, usize>;

/// A mark that no text has: a character that Unicode keeps free of meaning.
const MARK: char = '\u{fdd2}';

impl Dialect {
    /// Token ids of a conversation that ends with the assistant, and which of them the assistant wrote.
    ///
    /// # Errors
    /// If the conversation cannot be rendered or encoded, and [`ModelError::Template`] where the assistant's turns cannot
    /// be told from the rest beyond doubt.
    pub fn encode_conversation(&self, messages: &[Message]) -> Result<Conversation, ModelError> {
        let Some(template) = self.template() else { return self.encode_without_template(messages) };
        let text = template.render(messages, false)?;
        let (mut tokens, places) = self.tokenizer().encode_with_places(&text)?;
        let whole = Rendered { dialect: self, template, messages, text: &text, tokens: &tokens, places: &places };
        let turns = match template.marked(messages, &text)? {
            Some(spans) => whole.marked(&spans),
            None => whole.turns()?,
        };
        match (turns.first(), turns.last()) {
            (Some(first), Some(last)) if first.start > 0 => tokens.truncate(last.end),
            (Some(_), _) => {
                return Err(template.error("it begins with the assistant's words, and nothing predicts the first"));
            }
            (None, _) => return Err(template.error("it marks none of the assistant's words")),
        }
        Ok(Conversation { tokens, turns })
    }

    /// Such a model knows no conversations but of a prompt and an answer.
    fn encode_without_template(&self, messages: &[Message]) -> Result<Conversation, ModelError> {
        let (prompt, answer) = messages.split_at(messages.len().saturating_sub(1));
        let mut tokens = self.encode_prompt(prompt)?;
        let start = tokens.len();
        for message in answer {
            tokens.extend(self.encode_response(&message.content)?);
        }
        let turn = start..tokens.len();
        Ok(Conversation { tokens, turns: vec![turn] })
    }
}

/// A conversation as its template writes it.
struct Rendered<'a> {
    dialect: &'a Dialect,
    template: &'a ChatTemplate,
    messages: &'a [Message],
    text: &'a str,
    tokens: &'a [u32],
    /// The part of `text` that each token stands for.
    places: &'a [Range<usize>],
}

impl Rendered<'_> {
    /// The tokens of which some part is in one of `spans`, each time with the end of the turn, if that is what follows.
    fn marked(&self, spans: &[Range<usize>]) -> Vec<Range<usize>> {
        let (mut turns, mut behind) = (Vec::new(), 0);
        for span in spans {
            // A token that is in two of them is in the first.
            let start = self.token_behind(span.start).max(behind);
            let len = self.places[start..].iter().take_while(|place| place.start < span.end).count();
            if len > 0 {
                let ends = self.tokens.get(start + len) == Some(&self.dialect.tokenizer().end_of_turn());
                behind = start + len + usize::from(ends);
                turns.push(start..behind);
            }
        }
        turns
    }

    /// Finds the turns of the assistant.
    fn turns(&self) -> Result<Vec<Range<usize>>, ModelError> {
        let (last, mut asked, mut marked) = (self.messages.len() - 1, None, None);
        let mut turns = Vec::new();
        for at in (0..=last).filter(|&at| self.messages[at].role == "assistant") {
            let before = self.template.render(&self.messages[..at], true)?;
            let start = if self.text.starts_with(&before) {
                Some(before.len())
            } else {
                self.found(&mut marked, "assistant")?.get(&at).copied()
            };
            let limit = if at == last {
                Some(self.text.len())
            } else {
                self.found(&mut asked, "user")?.get(&(at + 1)).copied()
            };
            match (start, limit) {
                (Some(start), Some(limit)) => turns.push(self.turn(at, start, limit)?),
                _ => return Err(self.unclear(at)),
            }
        }
        Ok(turns)
    }

    /// [`starts`](Self::starts), computed where it is asked for first.
    fn found<'a>(&self, known: &'a mut Option<Starts>, role: &str) -> Result<&'a Starts, ModelError> {
        match known {
            Some(starts) => Ok(starts),
            None => Ok(known.insert(self.starts(role)?)),
        }
    }

    /// The turn that is message `at`, which begins at `start` in the text and is over before `limit`.
    fn turn(&self, at: usize, start: usize, limit: usize) -> Result<Range<usize>, ModelError> {
        let tokenizer = self.dialect.tokenizer();
        let (end_of_turn, content) = (tokenizer.end_of_turn(), self.messages[at].content.trim());
        let end_text = tokenizer.token(end_of_turn).unwrap_or_default();
        if content.contains(&end_text) {
            let problem = format!("{} holds `{end_text}`, which ends a turn; remove it", of(at));
            return Err(self.template.error(problem));
        }
        let first = self.token_behind(start);
        let end = (first..self.tokens.len())
            .take_while(|&token| self.places[token].start < limit)
            .find(|&token| self.tokens[token] == end_of_turn);
        let Some(end) = end else {
            let problem = format!("it does not end {} with `{end_text}`; set `sft.turns` to \"last\"", of(at));
            return Err(self.template.error(problem));
        };
        let written = self.text.get(start..self.places[end].start).unwrap_or_default().trim();
        if content.ends_with(written) || written.ends_with(content) {
            Ok(first..end + 1)
        } else {
            Err(self.unclear(at))
        }
    }

    /// Where in the text the content of each message of `role` begins, if a mark before it changes nothing else; else nothing.
    fn starts(&self, role: &str) -> Result<Starts, ModelError> {
        let speaking: Vec<_> = (0..self.messages.len()).filter(|&at| self.messages[at].role == role).collect();
        // Inside of white space, where the template trims contents.
        for is_inside in [false, true] {
            let mut messages = self.messages.to_vec();
            for &at in &speaking {
                messages[at].content = with_mark(&messages[at].content, is_inside);
            }
            let marked = self.template.render(&messages, false)?;
            let starts: Vec<_> =
                marked.match_indices(MARK).enumerate().map(|(k, (at, mark))| at - k * mark.len()).collect();
            if starts.len() == speaking.len() && marked.replace(MARK, "") == self.text {
                return Ok(speaking.into_iter().zip(starts).collect());
            }
        }
        Ok(Starts::new())
    }

    /// The first token that stands for something behind the byte `at`.
    fn token_behind(&self, at: usize) -> usize {
        self.places.partition_point(|place| place.end <= at)
    }

    fn unclear(&self, at: usize) -> ModelError {
        self.template.error(format!(
            "what it writes of {} cannot be told from the rest; mark the assistant's words in it with `{{% generation %}}` \
             and `{{% endgeneration %}}`, or set `sft.turns` to \"last\"",
            of(at)
        ))
    }
}

/// A message, in words.
fn of(at: usize) -> String {
    format!("the assistant's message {}", at + 1)
}

fn with_mark(content: &str, is_inside: bool) -> String {
    let before = if is_inside { content.len() - content.trim_start().len() } else { 0 };
    let (before, after) = content.split_at(before);
    format!("{before}{MARK}{after}")
}

#[cfg(test)]
mod tests;
