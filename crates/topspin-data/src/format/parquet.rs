//! Parquet: tables by columns, for which rows are put together again.
//!
//! A reader of our own: Apache's allocates what headers claim and panics at what it does not expect (ARCHITECTURE.md). Here
//! whatever is claimed is held to a limit or found in the file before it is believed.
//!
//! Source: <https://github.com/apache/parquet-format>. Read are all types, the encodings PLAIN, dictionary, RLE and the three
//! DELTA ones, both versions of pages, and Snappy, gzip, zstd and LZ4. Dates and decimals come as the numbers that stand
//! for them, bytes that are no text as nothing.

mod column;
mod encoding;
mod schema;
mod thrift;

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::rc::Rc;

use serde_json::{Number, Value as Json};

use self::column::{Column, read_at};
use self::encoding::Scalar;
use self::schema::{Kind, Node, Repetition};
use self::thrift::Value;
use super::{Fields, MAX_RECORD, RawRow, error, too_large};
use crate::Fault;

/// Largest footer, in bytes. It describes each column of each row group in some hundred of them.
const MAX_FOOTER: u64 = 16 << 20;

/// What an entry costs beside its bytes, against [`MAX_RECORD`].
const ENTRY: usize = 64;

/// The rows of a file.
pub(super) struct Table {
    root: Node,
    /// Row groups that are left, the next one last.
    groups: Vec<Group>,
    rows: Assembly,
    /// Rows left in the row group at hand.
    left: u64,
    row: usize,
}

struct Group {
    rows: u64,
    columns: Vec<Column>,
}

impl Table {
    /// Reads the footer.
    pub fn open(mut file: File) -> io::Result<Self> {
        let len = file.seek(SeekFrom::End(0))?;
        let file = Rc::new(RefCell::new(file));
        let tail = read_at(&file, len.saturating_sub(8), 8)?;
        let footer = match <[u8; 8]>::try_from(tail) {
            Ok([a, b, c, d, b'P', b'A', b'R', b'1']) => u64::from(u32::from_le_bytes([a, b, c, d])),
            Ok([.., b'P', b'A', b'R', b'E']) => return Err(error("it is encrypted; decrypt it")),
            _ => return Err(error("it is not a Parquet file, or cut short; check that it is the right one")),
        };
        if footer > MAX_FOOTER || footer + 12 > len {
            return Err(error("its footer claims more bytes than there can be; fetch it again"));
        }
        let footer = read_at(&file, len - 8 - footer, footer as usize)?;
        let (about, _) = Value::read(&footer)?;
        let damaged = || error("its footer is damaged; fetch it again");
        let root = schema::read(about.list(2).ok_or_else(damaged)?)?;
        let leaves = root.leaves();
        let group = |group: &Value<'_>| {
            let chunks = group.list(1).filter(|chunks| chunks.len() == leaves.len())?;
            let columns = leaves.iter().zip(chunks).map(|(leaf, chunk)| Column::new(&file, leaf, chunk));
            Some(Group { rows: group.int(3)?.try_into().ok()?, columns: columns.collect::<Option<_>>()? })
        };
        let groups = about.list(4).ok_or_else(damaged)?.iter().rev().map(group).collect::<Option<_>>();
        let groups = groups.ok_or_else(damaged)?;
        let rows = Assembly { columns: Vec::new(), spent: 0, fault: None };
        Ok(Self { root, groups, rows, left: 0, row: 0 })
    }
}

impl Iterator for Table {
    type Item = RawRow;

    fn next(&mut self) -> Option<RawRow> {
        while self.left == 0 {
            let group = self.groups.pop()?;
            (self.left, self.rows.columns) = (group.rows, group.columns);
        }
        self.left -= 1;
        self.row += 1;
        Some(match self.rows.row(&self.root) {
            Err(_) if self.rows.spent > MAX_RECORD => Err(too_large("row", self.row)),
            fields => fields.map(|fields| (self.row, fields)),
        })
    }
}

/// Puts rows together from the entries of all columns.
struct Assembly {
    columns: Vec<Column>,
    /// What the row at hand costs so far.
    spent: usize,
    /// What is wrong with it, if it can be read nevertheless.
    fault: Option<Fault>,
}

impl Assembly {
    fn row(&mut self, root: &Node) -> io::Result<Result<Fields, Fault>> {
        (self.spent, self.fault) = (0, None);
        for column in &mut self.columns {
            if column.peek()?.is_some_and(|levels| levels.repeats > 0) {
                return Err(column.damaged("a row begins within a list"));
            }
        }
        match self.content(root)? {
            Json::Object(fields) => Ok(self.fault.take().map_or(Ok(fields), Err)),
            _ => Err(error("its schema is a list; make it a table")),
        }
    }

    /// A field's value, which each of its columns has an entry of next.
    fn value(&mut self, node: &Node) -> io::Result<Json> {
        match node.repetition {
            Repetition::Required => self.content(node),
            Repetition::Optional if self.definition(node)? < node.definition => self.nothing(node, Json::Null),
            Repetition::Optional => self.content(node),
            // Without a group around it: a list that is never missing.
            Repetition::Repeated => self.list(node, node),
        }
    }

    /// The same where it is known to be there.
    fn content(&mut self, node: &Node) -> io::Result<Json> {
        match &node.kind {
            Kind::Leaf { is_text, .. } => {
                let scalar = self.columns[node.columns.start].take()?;
                self.spend(if let Some(Scalar::Bytes(bytes)) = &scalar { bytes.len() } else { 0 })?;
                Ok(scalar.map_or(Json::Null, |scalar| self.json(scalar, *is_text)))
            }
            Kind::Group(children) => {
                let mut fields = Fields::new();
                for child in children {
                    let value = self.value(child)?;
                    fields.insert(child.name.clone(), value);
                }
                Ok(Json::Object(fields))
            }
            Kind::List(repeated) => self.list(repeated, repeated.item(&node.name).unwrap_or(repeated)),
        }
    }

    /// The items of a repeated field, each of which is `item`.
    fn list(&mut self, repeated: &Node, item: &Node) -> io::Result<Json> {
        if self.definition(repeated)? < repeated.definition {
            return self.nothing(repeated, Json::Array(Vec::new()));
        }
        let mut items = Vec::new();
        loop {
            items.push(if std::ptr::eq(repeated, item) { self.content(item)? } else { self.value(item)? });
            let next = self.columns[repeated.columns.start].peek()?;
            if next.is_none_or(|levels| levels.repeats < repeated.repeats) {
                return Ok(Json::Array(items));
            }
        }
    }

    /// The definition level of a field's next entry.
    fn definition(&mut self, node: &Node) -> io::Result<u16> {
        let column = &mut self.columns[node.columns.start];
        let levels = column.peek()?.ok_or_else(|| column.damaged("it ends before its rows do"))?;
        Ok(levels.definition)
    }

    /// `value`, for which each column has an entry without a value.
    fn nothing(&mut self, node: &Node, value: Json) -> io::Result<Json> {
        for column in node.columns.clone() {
            self.columns[column].take()?;
        }
        self.spend(0)?;
        Ok(value)
    }

    fn spend(&mut self, bytes: usize) -> io::Result<()> {
        self.spent += ENTRY + bytes;
        if self.spent > MAX_RECORD { Err(error("too large")) } else { Ok(()) }
    }

    fn json(&mut self, scalar: Scalar, is_text: bool) -> Json {
        match scalar {
            Scalar::Bool(value) => Json::Bool(value),
            Scalar::Int(value) => Json::Number(value.into()),
            Scalar::Float(value) => Number::from_f64(value).map_or(Json::Null, Json::Number),
            Scalar::Bytes(bytes) => match String::from_utf8(bytes) {
                Ok(text) => Json::String(text),
                Err(_) => {
                    if is_text {
                        self.fault = Some(Fault::NotUtf8);
                    }
                    Json::Null
                }
            },
        }
    }
}
