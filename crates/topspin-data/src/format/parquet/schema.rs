//! The tree of a file's fields.
//!
//! Source: <https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift> for the numbers of
//! fields and types, and LogicalTypes.md beside it for lists.

use std::io;
use std::ops::Range;

use super::super::error;
use super::thrift::Value;

/// Fields within fields.
const MAX_DEPTH: u16 = 32;

/// How often a field's value is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repetition {
    Required,
    Optional,
    Repeated,
}

/// How values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Physical {
    Bool,
    Int32,
    Int64,
    /// A moment of old: 12 bytes.
    Int96,
    Float,
    Double,
    Bytes,
    /// So many bytes each.
    Fixed(usize),
}

/// A field.
#[derive(Debug)]
pub struct Node {
    pub name: String,
    pub repetition: Repetition,
    /// The definition level at which this field is there, and the repetition level of its items, if it is repeated.
    pub definition: u16,
    pub repeats: u16,
    /// Its columns, numbered over the whole file.
    pub columns: Range<usize>,
    pub kind: Kind,
}

/// What a field holds.
#[derive(Debug)]
pub enum Kind {
    /// One column.
    Leaf { physical: Physical, is_text: bool },
    /// Fields.
    Group(Vec<Node>),
    /// A list: a group around one repeated field.
    List(Box<Node>),
}

impl Node {
    /// The columns in their order.
    pub fn leaves(&self) -> Vec<&Node> {
        match &self.kind {
            Kind::Leaf { .. } => vec![self],
            Kind::Group(children) => children.iter().flat_map(Node::leaves).collect(),
            Kind::List(child) => child.leaves(),
        }
    }

    /// Of the repeated field of a list named `list`: the field that is the item, where it is not this one itself.
    ///
    /// Old writers did without a group around the item; how to tell is a rule of the format.
    pub fn item(&self, list: &str) -> Option<&Node> {
        match &self.kind {
            Kind::Group(children) if self.name != "array" && self.name != format!("{list}_tuple") => {
                match &children[..] {
                    [only] => Some(only),
                    _ => None,
                }
            }
            _ => None,
        }
    }
}

/// Reads the tree out of the footer's list, which has each field before those within it.
pub fn read(elements: &[Value<'_>]) -> io::Result<Node> {
    let mut reader = Reader { elements, at: 0, columns: 0 };
    let root = reader.node(0, 0, 0)?;
    match root.kind {
        Kind::Group(_) if reader.at == elements.len() => Ok(root),
        _ => Err(damaged()),
    }
}

fn damaged() -> io::Error {
    error("its schema is damaged; fetch it again")
}

struct Reader<'a> {
    elements: &'a [Value<'a>],
    at: usize,
    columns: usize,
}

impl Reader<'_> {
    fn node(&mut self, depth: u16, mut definition: u16, mut repeats: u16) -> io::Result<Node> {
        let element = self.elements.get(self.at).ok_or_else(damaged)?;
        self.at += 1;
        if depth == MAX_DEPTH {
            return Err(error(format!("its schema is more than {MAX_DEPTH} fields deep; flatten it")));
        }
        let name = String::from_utf8_lossy(element.bytes(4).ok_or_else(damaged)?).into_owned();
        let repetition = match element.int(3) {
            _ if depth == 0 => Repetition::Required,
            Some(0) => Repetition::Required,
            Some(1) => Repetition::Optional,
            Some(2) => Repetition::Repeated,
            _ => return Err(damaged()),
        };
        definition += u16::from(repetition != Repetition::Required);
        repeats += u16::from(repetition == Repetition::Repeated);
        let first = self.columns;
        let kind = match element.size(5) {
            None | Some(0) => {
                self.columns += 1;
                Kind::Leaf { physical: physical(element)?, is_text: is_text(element) }
            }
            Some(children) => {
                let children = (0..children).map(|_| self.node(depth + 1, definition, repeats));
                let mut children = children.collect::<io::Result<Vec<_>>>()?;
                let is_list =
                    element.int(6) == Some(3) || element.field(10).is_some_and(|kind| kind.field(3).is_some());
                match children.pop() {
                    Some(only) if is_list && children.is_empty() && only.repetition == Repetition::Repeated => {
                        Kind::List(Box::new(only))
                    }
                    last => {
                        children.extend(last);
                        Kind::Group(children)
                    }
                }
            }
        };
        Ok(Node { name, repetition, definition, repeats, columns: first..self.columns, kind })
    }
}

fn physical(element: &Value<'_>) -> io::Result<Physical> {
    Ok(match element.int(1) {
        Some(0) => Physical::Bool,
        Some(1) => Physical::Int32,
        Some(2) => Physical::Int64,
        Some(3) => Physical::Int96,
        Some(4) => Physical::Float,
        Some(5) => Physical::Double,
        Some(6) => Physical::Bytes,
        Some(7) => match element.size(2) {
            Some(len) if len > 0 => Physical::Fixed(len),
            _ => return Err(damaged()),
        },
        _ => return Err(damaged()),
    })
}

/// Whether bytes are said to be text: a string, the name of an alternative, or JSON.
fn is_text(element: &Value<'_>) -> bool {
    let by_logical = |kind: &Value<'_>| [1, 4, 12].iter().any(|&id| kind.field(id).is_some());
    matches!(element.int(6), Some(0 | 4 | 19)) || element.field(10).is_some_and(by_logical)
}
