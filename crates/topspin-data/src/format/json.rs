//! JSON documents: a list of records, or an object that holds one list of them. Read as a stream, a record at a time.

use std::io::{self, BufRead, Cursor, Read};
use std::ops::Range;

use super::jsonl::{Lines, object};
use super::{MAX_RECORD, RawRow, error, too_large};
use crate::shape::is_field;

/// The records of a file that is called JSON, which many are that hold JSON lines.
pub(super) fn open(mut input: Box<dyn BufRead>) -> io::Result<Box<dyn Iterator<Item = RawRow>>> {
    let mut start = Vec::new();
    let first = read_line(&mut input, &mut start)?;
    let are_lines = match object(&start[first.clone()]) {
        // A whole object on a line is a record if it looks like one, or if it is not alone.
        Ok(fields) => fields.keys().any(|name| is_field(name)) || !read_line(&mut input, &mut start)?.is_empty(),
        Err(_) => false,
    };
    let input = Cursor::new(start).chain(input);
    Ok(if are_lines { Box::new(Lines::new(input)) } else { Box::new(Document::new(input)) })
}

/// Appends the next line that is not blank, or as much of it as a record may have, and says where in `text` it lies.
fn read_line(input: &mut impl BufRead, text: &mut Vec<u8>) -> io::Result<Range<usize>> {
    let mut from = text.len();
    let end = from + MAX_RECORD;
    while text[from..].trim_ascii().is_empty() && text.len() < end {
        from = text.len();
        if input.by_ref().take((end - from) as u64).read_until(b'\n', text)? == 0 {
            break;
        }
    }
    Ok(if text[from..].trim_ascii().is_empty() { from..from } else { from..text.len() })
}

/// The records of a document.
struct Document<R> {
    text: Text<R>,
    within: Within,
    /// The key of the list, where it stands in an object and has been met.
    list: Option<String>,
}

/// Where the reader stands.
#[derive(Clone, Copy, PartialEq)]
enum Within {
    /// Before the document.
    Nothing,
    /// Among the keys of the object that holds the list.
    Object,
    /// Among the records; `first` is whether none has been read.
    List { first: bool },
    /// Behind the document.
    End,
}

impl<R: Read> Document<R> {
    fn new(input: R) -> Self {
        Self { text: Text { input, buffer: Vec::new(), at: 0, line: 1 }, within: Within::Nothing, list: None }
    }

    /// The next record, if there is one.
    fn advance(&mut self) -> io::Result<Option<RawRow>> {
        loop {
            match self.within {
                Within::Nothing => match self.text.next_token()? {
                    Some(b'[') => self.within = Within::List { first: true },
                    Some(b'{') => self.within = Within::Object,
                    None => return Ok(None),
                    Some(_) => return Err(self.text.wrong("neither a list nor an object begins")),
                },
                Within::Object => self.key()?,
                Within::List { first } => {
                    let end = match self.text.peek_token()? {
                        Some(b']') => true,
                        Some(b',') if !first => {
                            self.text.at += 1;
                            false
                        }
                        _ if first => false,
                        _ => return Err(self.text.wrong("a comma or `]` is missing behind a record")),
                    };
                    if !end {
                        self.within = Within::List { first: false };
                        return self.record().map(Some);
                    }
                    self.text.at += 1;
                    self.within = if self.list.is_some() { Within::Object } else { Within::End };
                }
                Within::End => {
                    return match self.text.peek_token()? {
                        None => Ok(None),
                        Some(_) => Err(self.text.wrong("something follows the end of the document")),
                    };
                }
            }
        }
    }

    /// Reads a key and, unless it is a list's, its value; or the end of the object.
    fn key(&mut self) -> io::Result<()> {
        match self.text.peek_token()? {
            Some(b',') => self.text.at += 1,
            Some(b'}') if self.list.is_none() => {
                return Err(self.text.wrong("the object ends and holds no list of records"));
            }
            Some(b'}') => {
                self.text.at += 1;
                self.within = Within::End;
                return Ok(());
            }
            _ => {}
        }
        let key = self.text.value()?;
        let Ok(key) = serde_json::from_slice::<String>(&key) else {
            return Err(self.text.wrong("a key in quotes is missing"));
        };
        if self.text.next_token()? != Some(b':') {
            return Err(self.text.wrong("a colon is missing behind a key"));
        }
        if self.text.peek_token()? != Some(b'[') {
            // Said of the whole, such as its version.
            return self.text.value().map(drop);
        }
        if let Some(list) = &self.list {
            let problem = format!("`{list}` and `{key}` are lists, and only one can be the records; remove the other");
            return Err(error(problem));
        }
        self.text.at += 1;
        (self.list, self.within) = (Some(key), Within::List { first: true });
        Ok(())
    }

    fn record(&mut self) -> io::Result<RawRow> {
        self.text.peek_token()?;
        let line = self.text.line;
        let value = self.text.value()?;
        Ok(Ok(match object(&value) {
            Ok(fields) => (line, Ok(fields)),
            Err((below, fault)) => (line + below, Err(fault)),
        }))
    }
}

impl<R: Read> Iterator for Document<R> {
    type Item = RawRow;

    fn next(&mut self) -> Option<RawRow> {
        self.advance().unwrap_or_else(|e| Some(Err(e)))
    }
}

/// A text that is looked at byte by byte.
struct Text<R> {
    input: R,
    buffer: Vec<u8>,
    at: usize,
    /// The line of the next byte, from 1.
    line: usize,
}

impl<R: Read> Text<R> {
    /// The next byte, which stays where it is.
    fn peek(&mut self) -> io::Result<Option<u8>> {
        if self.at == self.buffer.len() {
            self.buffer.clear();
            self.at = 0;
            self.input.by_ref().take(1 << 16).read_to_end(&mut self.buffer)?;
        }
        Ok(self.buffer.get(self.at).copied())
    }

    /// The next byte that is no white space, which stays where it is.
    fn peek_token(&mut self) -> io::Result<Option<u8>> {
        while let Some(byte) = self.peek()? {
            match byte {
                b' ' | b'\t' | b'\r' => {}
                b'\n' => self.line += 1,
                _ => return Ok(Some(byte)),
            }
            self.at += 1;
        }
        Ok(None)
    }

    fn next_token(&mut self) -> io::Result<Option<u8>> {
        let token = self.peek_token()?;
        self.at += usize::from(token.is_some());
        Ok(token)
    }

    /// The bytes of the next value: up to where its brackets are closed, or else up to what may follow a value. Whether
    /// they are JSON is another's to say.
    fn value(&mut self) -> io::Result<Vec<u8>> {
        let begun = match self.peek_token()? {
            None => return Err(self.wrong("the document ends where a value is due")),
            Some(_) => self.line,
        };
        let (mut bytes, mut depth, mut quoted, mut escaped) = (Vec::new(), 0_usize, false, false);
        while let Some(byte) = self.peek()? {
            if !quoted && depth == 0 && matches!(byte, b',' | b']' | b'}' | b':') {
                return Ok(bytes);
            }
            if bytes.len() == MAX_RECORD {
                return Err(too_large("line", begun));
            }
            bytes.push(byte);
            self.at += 1;
            self.line += usize::from(byte == b'\n');
            match byte {
                _ if escaped => escaped = false,
                b'\\' if quoted => escaped = true,
                b'"' => quoted = !quoted,
                b'{' | b'[' if !quoted => depth += 1,
                b'}' | b']' if !quoted => depth -= 1,
                _ => {}
            }
            if !quoted && depth == 0 && matches!(byte, b'}' | b']' | b'"') {
                return Ok(bytes);
            }
        }
        Err(error(format!("it ends within the value that begins on line {begun}; it is cut short, fetch it again")))
    }

    fn wrong(&self, problem: &str) -> io::Error {
        error(format!("it is no JSON document of records: {problem} on line {}", self.line))
    }
}
