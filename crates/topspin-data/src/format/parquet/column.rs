//! A column of a row group: its pages, decompressed one at a time, as entries.
//!
//! An entry is a value or the lack of one, with the levels that say where in the tree of fields it belongs (Melnik et
//! al., "Dremel: Interactive Analysis of Web-Scale Datasets", VLDB 2010).

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::rc::Rc;

use flate2::bufread::MultiGzDecoder;

use super::super::error;
use super::encoding::{Hybrid, Input, MAX_VALUES, Scalar, Values};
use super::schema::{Kind, Node, Physical};
use super::thrift::Value;
use crate::source::Zstd;

/// Largest page in bytes, packed or not. The largest that a common writer makes is a hundred million.
const MAX_PAGE: usize = 256 << 20;

/// Bytes in which a page's header is looked for first, and then: it holds a few numbers and two values as statistics, and
/// some writers do not cut those short.
const HEADER: usize = 1 << 12;
const MAX_HEADER: usize = 1 << 20;

/// The levels of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Levels {
    /// Which list it goes on with; 0 begins a row.
    pub repeats: u16,
    /// How much of the way from the root to the column is there.
    pub definition: u16,
}

/// Reads so many bytes of a file.
pub fn read_at(file: &RefCell<File>, at: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut file = file.borrow_mut();
    file.seek(SeekFrom::Start(at))?;
    let mut bytes = Vec::new();
    file.by_ref().take(len as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A column of a row group.
pub struct Column {
    file: Rc<RefCell<File>>,
    name: String,
    physical: Physical,
    highest: Levels,
    codec: i64,
    /// Where the next page begins, and where the last ends.
    at: u64,
    end: u64,
    dictionary: Option<Rc<[Scalar]>>,
    page: Option<Page>,
    next: Option<Levels>,
}

struct Page {
    left: usize,
    repeats: Option<Hybrid>,
    definitions: Option<Hybrid>,
    values: Values,
}

impl Column {
    /// The column of the field `leaf` that the footer's `chunk` describes; `None` if that is damaged.
    pub fn new(file: &Rc<RefCell<File>>, leaf: &Node, chunk: &Value<'_>) -> Option<Self> {
        let Kind::Leaf { physical, .. } = leaf.kind else { return None };
        let chunk = chunk.field(3)?;
        let offset = |id| chunk.int(id).and_then(|offset| u64::try_from(offset).ok());
        let data = offset(9)?;
        let at = offset(11).filter(|&dictionary| dictionary > 0 && dictionary < data).unwrap_or(data);
        Some(Self {
            file: Rc::clone(file),
            name: leaf.name.clone(),
            physical,
            highest: Levels { repeats: leaf.repeats, definition: leaf.definition },
            codec: chunk.int(4)?,
            at,
            end: at.checked_add(offset(7)?)?,
            dictionary: None,
            page: None,
            next: None,
        })
    }

    /// The levels of the next entry, if there is one.
    pub fn peek(&mut self) -> io::Result<Option<Levels>> {
        if self.next.is_none() {
            while self.page.as_ref().is_none_or(|page| page.left == 0) {
                if !self.turn()? {
                    return Ok(None);
                }
            }
            let page = self.page.as_mut().expect("a page was turned to");
            page.left -= 1;
            let level = |levels: &mut Option<Hybrid>| levels.as_mut().map_or(Some(0), Iterator::next);
            let (Some(repeats), Some(definition)) = (level(&mut page.repeats), level(&mut page.definitions)) else {
                return Err(self.damaged("a page lacks levels"));
            };
            if repeats > self.highest.repeats.into() || definition > self.highest.definition.into() {
                return Err(self.damaged("a level is too high"));
            }
            self.next = Some(Levels { repeats: repeats as u16, definition: definition as u16 });
        }
        Ok(self.next)
    }

    /// The value of the next entry, which goes with it; `None` where it has none.
    pub fn take(&mut self) -> io::Result<Option<Scalar>> {
        let Some(levels) = self.peek()? else { return Err(self.damaged("it ends before its rows do")) };
        self.next = None;
        if levels.definition < self.highest.definition {
            return Ok(None);
        }
        let value = self.page.as_mut().and_then(|page| page.values.next());
        value.map(Some).ok_or_else(|| self.damaged("a page lacks values"))
    }

    /// An error about this column.
    pub fn damaged(&self, problem: &str) -> io::Error {
        error(format!("its column `{}` is damaged ({problem}); fetch it again", self.name))
    }

    /// Reads the next page; `false` if there is none.
    fn turn(&mut self) -> io::Result<bool> {
        if self.at >= self.end {
            return Ok(false);
        }
        let mut start = read_at(&self.file, self.at, HEADER)?;
        if Value::read(&start).is_err() {
            start = read_at(&self.file, self.at, MAX_HEADER)?;
        }
        let (header, len) = Value::read(&start).map_err(|_| self.damaged("the header of a page"))?;
        let (Some(size), Some(packed)) = (header.size(2), header.size(3)) else {
            return Err(self.damaged("a page has no size"));
        };
        if size > MAX_PAGE || packed > MAX_PAGE {
            return Err(self.damaged(&format!("a page claims more than {} MiB", MAX_PAGE >> 20)));
        }
        let from = self.at + len as u64;
        self.at = from + packed as u64;
        let bytes = read_at(&self.file, from, packed)?;
        if self.at > self.end || bytes.len() < packed {
            return Err(self.damaged("a page is cut short"));
        }
        match header.int(1) {
            Some(0) => self.page = Some(self.data(&header, &bytes, size)?),
            Some(2) => self.dictionary = Some(self.dictionary(&header, &bytes, size)?),
            Some(3) => self.page = Some(self.data_v2(&header, &bytes, size)?),
            // An index, which only a search needs.
            _ => {}
        }
        Ok(true)
    }

    fn dictionary(&self, header: &Value<'_>, bytes: &[u8], size: usize) -> io::Result<Rc<[Scalar]>> {
        let mut input = Input::new(self.unpack(bytes, size)?);
        let count = header.field(7).and_then(|dictionary| dictionary.size(1)).filter(|&count| count <= MAX_VALUES);
        // Grown as values are found: their number is only a claim.
        let values = count.and_then(|count| (0..count).map(|_| input.plain(self.physical)).collect::<Option<Rc<_>>>());
        values.ok_or_else(|| self.damaged("a dictionary"))
    }

    /// A page whose levels stand before the values, packed with them.
    fn data(&self, header: &Value<'_>, bytes: &[u8], size: usize) -> io::Result<Page> {
        let about = header.field(5).ok_or_else(|| self.damaged("a page has no header"))?;
        let mut input = Input::new(self.unpack(bytes, size)?);
        let mut levels = |highest: u16, encoding: Option<i64>| {
            if highest == 0 {
                return Ok(None);
            }
            match encoding {
                Some(3) => {
                    let part = input.split_counted().ok_or_else(|| self.damaged("the levels of a page"))?;
                    Ok(Some(Hybrid::of_levels(part, highest)))
                }
                _ => Err(self.unknown("levels are bit-packed as of old")),
            }
        };
        let repeats = levels(self.highest.repeats, about.int(4))?;
        let definitions = levels(self.highest.definition, about.int(3))?;
        self.page(about.size(1), repeats, definitions, about.int(2), input)
    }

    /// A page of the second version, whose levels stand before the packed values.
    fn data_v2(&self, header: &Value<'_>, bytes: &[u8], size: usize) -> io::Result<Page> {
        let damaged = || self.damaged("the levels of a page");
        let about = header.field(8).ok_or_else(damaged)?;
        let (repeats, definitions) = (about.size(6).unwrap_or(0), about.size(5).unwrap_or(0));
        let len = repeats.checked_add(definitions).filter(|&len| len <= size).ok_or_else(damaged)?;
        let (levels, values) = bytes.split_at_checked(len).ok_or_else(damaged)?;
        let mut levels = Input::new(levels.into());
        let mut part = |highest: u16, len: usize| {
            let part = levels.split(len).ok_or_else(damaged)?;
            Ok::<_, io::Error>((highest > 0).then(|| Hybrid::of_levels(part, highest)))
        };
        let repeats = part(self.highest.repeats, repeats)?;
        let definitions = part(self.highest.definition, definitions)?;
        let is_packed = about.bool(7).unwrap_or(true) && size > len;
        let values = if is_packed { self.unpack(values, size - len)? } else { values.into() };
        self.page(about.size(1), repeats, definitions, about.int(4), Input::new(values))
    }

    fn page(
        &self,
        entries: Option<usize>,
        repeats: Option<Hybrid>,
        definitions: Option<Hybrid>,
        encoding: Option<i64>,
        input: Input,
    ) -> io::Result<Page> {
        let left = entries
            .filter(|&entries| entries <= MAX_VALUES)
            .ok_or_else(|| self.damaged(&format!("a page claims more than {} million values", MAX_VALUES >> 20)))?;
        let encoding = encoding.ok_or_else(|| self.damaged("a page has no encoding"))?;
        if !matches!(encoding, 0 | 2 | 3 | 5..=8) {
            return Err(self.unknown(&format!("values are in the encoding {encoding}")));
        }
        let values = Values::new(encoding, self.physical, self.dictionary.as_ref(), input);
        let values = values.ok_or_else(|| self.damaged("the beginning of a page"))?;
        Ok(Page { left, repeats, definitions, values })
    }

    fn unknown(&self, what: &str) -> io::Error {
        error(format!("its column `{}` cannot be read: {what}; write the file with pyarrow's settings", self.name))
    }

    /// Decompresses what has `size` bytes then.
    fn unpack(&self, bytes: &[u8], size: usize) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        // A byte more than is claimed shows that the claim is wrong, and no more is unpacked.
        let most = size as u64 + 1;
        let unpacked = match self.codec {
            0 => bytes.take(most).read_to_end(&mut out).is_ok(),
            1 => {
                out.resize(size, 0);
                snap::raw::decompress_len(bytes).is_ok_and(|len| len == size)
                    && snap::raw::Decoder::new().decompress(bytes, &mut out).is_ok()
            }
            2 => MultiGzDecoder::new(bytes).take(most).read_to_end(&mut out).is_ok(),
            6 => Zstd::new(bytes).take(most).read_to_end(&mut out).is_ok(),
            7 => {
                out.resize(size, 0);
                lz4_flex::block::decompress_into(bytes, &mut out).is_ok_and(|len| len == size)
            }
            other => {
                let name = ["none", "Snappy", "gzip", "LZO", "Brotli", "Hadoop's LZ4"];
                let name = usize::try_from(other).ok().and_then(|other| name.get(other)).unwrap_or(&"unknown");
                return Err(self.unknown(&format!("it is compressed by {name}")));
            }
        };
        if unpacked && out.len() == size { Ok(out) } else { Err(self.damaged("a page cannot be decompressed")) }
    }
}
