//! JSON lines.

use std::io::{BufRead, Read};

use serde_json::Value;

use super::{Fields, MAX_RECORD, RawRow, too_large};
use crate::Fault;
use crate::shape::kind;

/// Records of a file of JSON lines. Blank lines between them are no records.
pub(super) struct Lines<R> {
    input: R,
    line: usize,
    bytes: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    pub fn new(input: R) -> Self {
        Self { input, line: 0, bytes: Vec::new() }
    }
}

impl<R: BufRead> Iterator for Lines<R> {
    type Item = RawRow;

    fn next(&mut self) -> Option<RawRow> {
        loop {
            self.bytes.clear();
            // One byte more, to tell a line of the limit from a longer one.
            let mut input = (&mut self.input).take(MAX_RECORD as u64 + 1);
            match input.read_until(b'\n', &mut self.bytes) {
                Err(e) => return Some(Err(e)),
                Ok(0) => return None,
                Ok(_) => self.line += 1,
            }
            if self.bytes.len() > MAX_RECORD {
                return Some(Err(too_large("line", self.line)));
            }
            let text = self.bytes.trim_ascii();
            if !text.is_empty() {
                return Some(Ok(match object(text) {
                    Ok(fields) => (self.line, Ok(fields)),
                    Err((_, fault)) => (self.line, Err(fault)),
                }));
            }
        }
    }
}

/// The fields of a JSON object. An error comes with its line in the text, from 0.
pub(super) fn object(text: &[u8]) -> Result<Fields, (usize, Fault)> {
    if let Err(e) = std::str::from_utf8(text) {
        let before = &text[..e.valid_up_to()];
        return Err((before.iter().filter(|&&byte| byte == b'\n').count(), Fault::NotUtf8));
    }
    match serde_json::from_slice(text) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(other) => Err((0, Fault::NotObject { found: kind(&other) })),
        Err(e) => {
            let full = e.to_string();
            let reason = full.rsplit_once(" at line ").map_or(full.as_str(), |(reason, _)| reason).into();
            Err((e.line().saturating_sub(1), Fault::NotJson { reason, column: e.column() }))
        }
    }
}
