//! From what a user names to open files.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Chain, Cursor, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use topspin_files::{Action, FileError};

use crate::DataError;

/// A file, or a pattern that stands for several, and how often its records are drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// A path, or a pattern with `*`, `?` or `[`.
    pub spec: String,
    /// How often each record is drawn in an epoch: see [`Dataset::weighted`](crate::Dataset::weighted).
    pub weight: f64,
}

impl Source {
    /// What `spec` names, each record once.
    pub fn new(spec: impl Into<String>) -> Self {
        Self { spec: spec.into(), weight: 1.0 }
    }

    /// The files, those of a pattern in the order of their names.
    ///
    /// # Errors
    /// [`DataError::Pattern`] for a pattern that is none or that no file matches. A path that is no pattern is not looked
    /// for yet.
    pub fn files(&self) -> Result<Vec<PathBuf>, DataError> {
        let path = Path::new(&self.spec);
        if !self.spec.contains(['*', '?', '[']) || path.exists() {
            return Ok(vec![path.into()]);
        }
        let fail = |problem: String| DataError::Pattern { pattern: self.spec.clone(), problem };
        let mut files = Vec::new();
        for file in glob::glob(&self.spec).map_err(|e| fail(format!("is no pattern ({}); mend it", e.msg)))? {
            let file = file.map_err(|e| {
                let path = e.path().to_path_buf();
                FileError::new(Action::Read, &path, e.into())
            })?;
            if file.is_file() {
                files.push(file);
            }
        }
        if files.is_empty() { Err(fail("matches no file; check the path".into())) } else { Ok(files) }
    }
}

/// Largest window of a zstd frame, in bytes: what `zstd --ultra --long` asks for at most.
const ZSTD_WINDOW: u64 = 128 << 20;

/// Opens a text file, whatever it is compressed with; `-` is stdin. A byte-order mark is left out.
pub(crate) fn open_text(path: &Path) -> Result<Box<dyn BufRead>, DataError> {
    let plain: Box<dyn BufRead> = match compression(path) {
        _ if path == Path::new("-") => Box::new(BufReader::new(io::stdin())),
        Some("gz") => Box::new(BufReader::new(Gzip(MultiGzDecoder::new(topspin_files::open(path)?)))),
        Some("zst") => Box::new(BufReader::new(Zstd::new(topspin_files::open(path)?))),
        _ => Box::new(topspin_files::open(path)?),
    };
    let fail = |e| FileError::new(Action::Read, path, e);
    Ok(Box::new(without_mark(plain).map_err(fail)?))
}

/// The compression that a name tells, in small letters.
pub(crate) fn compression(path: &Path) -> Option<&'static str> {
    let extension = path.extension()?.to_str()?;
    ["gz", "zst"].into_iter().find(|known| extension.eq_ignore_ascii_case(known))
}

/// Some editors open a text with a byte-order mark.
fn without_mark<R: BufRead>(mut input: R) -> io::Result<Chain<Cursor<Vec<u8>>, R>> {
    let mut start = Vec::new();
    input.by_ref().take(3).read_to_end(&mut start)?;
    if start == b"\xef\xbb\xbf" {
        start.clear();
    }
    Ok(Cursor::new(start).chain(input))
}

/// An error of a compressed stream, said so.
fn damaged(kind: &str, error: impl std::fmt::Display) -> io::Error {
    io::Error::other(format!("its {kind} stream is damaged or cut short ({error}); fetch it again"))
}

/// Decodes gzip, all members of a file.
struct Gzip(MultiGzDecoder<BufReader<File>>);

impl Read for Gzip {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.0.read(out).map_err(|e| damaged("gzip", e))
    }
}

/// Decodes zstd, all frames of a source, and holds each to its checksum.
pub(crate) struct Zstd<R> {
    source: R,
    decoder: FrameDecoder,
    in_frame: bool,
}

impl<R: BufRead> Zstd<R> {
    /// Decodes what `source` holds.
    pub fn new(source: R) -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(ZSTD_WINDOW);
        Self { source, decoder, in_frame: false }
    }

    /// Begins the next frame, if there is one.
    fn begin(&mut self) -> io::Result<bool> {
        while !self.in_frame && !self.source.fill_buf()?.is_empty() {
            match self.decoder.init(&mut self.source) {
                Ok(()) => self.in_frame = true,
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                    io::copy(&mut self.source.by_ref().take(length.into()), &mut io::sink())?;
                }
                Err(e) => return Err(damaged("zstd", e)),
            }
        }
        Ok(self.in_frame)
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.begin()? {
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                let one = BlockDecodingStrategy::UptoBlocks(1);
                self.decoder.decode_blocks(&mut self.source, one).map_err(|e| damaged("zstd", e))?;
            }
            let read = self.decoder.read(out)?;
            if read > 0 || out.is_empty() {
                return Ok(read);
            }
            let given = self.decoder.get_checksum_from_data();
            if given.is_some() && given != self.decoder.get_calculated_checksum() {
                return Err(damaged("zstd", "its checksum is another"));
            }
            self.in_frame = false;
        }
        Ok(0)
    }
}
