//! Thrift's compact protocol, in which Parquet writes its footers and page headers: read into a tree, with nothing
//! allocated that the bytes do not hold.
//!
//! Source: <https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md>.

use std::io;

use super::super::error;

/// Structures within structures; Parquet's own are six deep.
const MAX_DEPTH: usize = 32;

/// A value, as Parquet uses them.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    Bool(bool),
    Int(i64),
    Bytes(&'a [u8]),
    List(Vec<Value<'a>>),
    /// Fields by their number.
    Struct(Vec<(i16, Value<'a>)>),
    /// A number with a point, a map or a UUID, which Parquet's structures do without where they matter here.
    Other,
}

impl<'a> Value<'a> {
    /// Reads a structure, and tells how many bytes it takes.
    pub fn read(bytes: &'a [u8]) -> io::Result<(Self, usize)> {
        let mut reader = Reader { bytes, at: 0 };
        let value =
            reader.structure(0).ok_or_else(|| error("its structure is damaged or cut short; fetch it again"))?;
        Ok((value, reader.at))
    }

    /// The field with the number `id` of a structure.
    pub fn field(&self, id: i16) -> Option<&Value<'a>> {
        let Self::Struct(fields) = self else { return None };
        fields.iter().find(|(number, _)| *number == id).map(|(_, value)| value)
    }

    /// A field that is a whole number.
    pub fn int(&self, id: i16) -> Option<i64> {
        if let Some(Self::Int(value)) = self.field(id) { Some(*value) } else { None }
    }

    /// A field that is a count or a size.
    pub fn size(&self, id: i16) -> Option<usize> {
        self.int(id).and_then(|value| value.try_into().ok())
    }

    /// A field that is true or false.
    pub fn bool(&self, id: i16) -> Option<bool> {
        if let Some(Self::Bool(value)) = self.field(id) { Some(*value) } else { None }
    }

    /// A field that is bytes.
    pub fn bytes(&self, id: i16) -> Option<&'a [u8]> {
        if let Some(Self::Bytes(bytes)) = self.field(id) { Some(*bytes) } else { None }
    }

    /// A field that is a list.
    pub fn list(&self, id: i16) -> Option<&[Value<'a>]> {
        if let Some(Self::List(items)) = self.field(id) { Some(items) } else { None }
    }
}

/// Reads a variable-length whole number, seven bits a byte.
pub fn varint(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.get(*at)?;
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// The sign from the lowest bit.
pub fn zigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let bytes = self.bytes.get(self.at..self.at.checked_add(len)?)?;
        self.at += len;
        Some(bytes)
    }

    fn varint(&mut self) -> Option<u64> {
        varint(self.bytes, &mut self.at)
    }

    fn structure(&mut self, depth: usize) -> Option<Value<'a>> {
        let mut fields = Vec::new();
        let mut id = 0_i16;
        loop {
            let head = self.byte()?;
            if head == 0 {
                return Some(Value::Struct(fields));
            }
            id = match head >> 4 {
                0 => zigzag(self.varint()?).try_into().ok()?,
                step => id.checked_add(i16::from(step))?,
            };
            let value = match head & 15 {
                1 => Value::Bool(true),
                2 => Value::Bool(false),
                kind => self.value(kind, depth)?,
            };
            fields.push((id, value));
        }
    }

    fn value(&mut self, kind: u8, depth: usize) -> Option<Value<'a>> {
        if depth == MAX_DEPTH {
            return None;
        }
        Some(match kind {
            // Within a list; a field's truth stands in its head.
            1 | 2 => Value::Bool(self.byte()? == 1),
            3 => Value::Int((self.byte()? as i8).into()),
            4..=6 => Value::Int(zigzag(self.varint()?)),
            7 => self.take(8).map(|_| Value::Other)?,
            8 => {
                let len = self.varint()?.try_into().ok()?;
                Value::Bytes(self.take(len)?)
            }
            9 | 10 => {
                let head = self.byte()?;
                let len = if head >> 4 == 15 { self.varint()? } else { u64::from(head >> 4) };
                // The list grows as its items are found: a length is only a claim.
                let items = (0..len).map(|_| self.value(head & 15, depth + 1));
                Value::List(items.collect::<Option<_>>()?)
            }
            11 => {
                let len = self.varint()?;
                let kinds = if len > 0 { self.byte()? } else { 0 };
                for _ in 0..len {
                    self.value(kinds >> 4, depth + 1)?;
                    self.value(kinds & 15, depth + 1)?;
                }
                Value::Other
            }
            12 => self.structure(depth + 1)?,
            13 => self.take(16).map(|_| Value::Other)?,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_structure_is_read_to_its_end() {
        // Fields 1: -3, 2: true, 4: "ab", 20: [7, 8], and a structure in 21; then a byte of something else.
        let bytes = [0x15, 5, 0x11, 0x28, 2, b'a', b'b', 0x09, 40, 0x25, 14, 16, 0x1c, 0x12, 0, 0, 9];
        let (value, len) = Value::read(&bytes).unwrap();
        assert_eq!((value.int(1), value.bool(2), value.bytes(4)), (Some(-3), Some(true), Some(&b"ab"[..])));
        assert_eq!(value.list(20), Some(&[Value::Int(7), Value::Int(8)][..]));
        assert_eq!(value.field(21).and_then(|inner| inner.bool(1)), Some(false));
        assert_eq!((len, value.int(2), value.size(1), value.field(3)), (bytes.len() - 1, None, None, None));
    }

    #[test]
    fn what_is_claimed_must_be_there() {
        // A list of 2^60 numbers, a text of 2^60 bytes, and structures without end.
        let many = [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x10];
        assert!(Value::read(&[&[0x19, 0xf5], &many[..], &[2; 40]].concat()).is_err());
        assert!(Value::read(&[&[0x18], &many[..], &[b'a'; 40]].concat()).is_err());
        assert!(Value::read(&[0x1c; 1_000_000]).is_err());
        assert!(Value::read(&[&[0x19], &[0x19; 1_000_000][..]].concat()).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_do_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Value::read(&bytes);
        }
    }
}
