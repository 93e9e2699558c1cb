//! The lines of a file that grows, read as they come: what was read once is not read again.

use std::fs::{File, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// A longer line is passed over, so that a damaged file costs no more memory than a sound one.
const LONGEST: usize = 16 << 20;

/// What a look at the file brings.
#[derive(Debug, PartialEq)]
pub enum News<'a> {
    /// It is another file than before, or a shorter one: what was read of it holds no more.
    Anew,
    /// A whole line, without its end.
    Line(&'a [u8]),
}

/// A file of lines, and how far it is read.
pub struct Tail {
    path: PathBuf,
    /// Where to begin: at most so many bytes before the end that the file has at the first look.
    most: u64,
    file: Option<Identity>,
    at: u64,
    part: Vec<u8>,
    /// Whether the line at hand is passed over, for it is too long or its beginning was not read.
    skips: bool,
}

impl Tail {
    /// The whole of a file.
    pub fn whole(path: PathBuf) -> Self {
        Self::last(path, u64::MAX)
    }

    /// The whole lines within the last `most` bytes, and all that comes behind them.
    pub fn last(path: PathBuf, most: u64) -> Self {
        Self { path, most, file: None, at: 0, part: Vec::new(), skips: false }
    }

    /// Which file it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads what has come since the last look. A last line without its end is handed over when the end is there.
    pub fn look(&mut self, mut take: impl FnMut(News)) -> io::Result<()> {
        let mut file = File::open(&self.path)?;
        let there = file.metadata()?;
        let identity = identity(&there);
        let is_other = self.file.as_ref().is_some_and(|before| *before != identity) || there.len() < self.at;
        if is_other {
            take(News::Anew);
        }
        if is_other || self.file.is_none() {
            self.part.clear();
            self.at = there.len().saturating_sub(self.most);
            self.skips = self.at > 0;
        }
        self.file = Some(identity);
        file.seek(SeekFrom::Start(self.at))?;
        let mut chunk = vec![0; 1 << 16];
        loop {
            let read = file.read(&mut chunk)?;
            if read == 0 {
                return Ok(());
            }
            self.at += read as u64;
            for piece in chunk[..read].split_inclusive(|&byte| byte == b'\n') {
                self.push(piece, &mut take);
            }
        }
    }

    fn push(&mut self, piece: &[u8], take: &mut impl FnMut(News)) {
        let end = piece.strip_suffix(b"\n");
        if !self.skips {
            self.part.extend(end.unwrap_or(piece));
            self.skips = self.part.len() > LONGEST;
        }
        if end.is_some() && !self.skips {
            take(News::Line(&self.part));
        }
        if end.is_some() || self.skips {
            self.part.clear();
        }
        self.skips &= end.is_none();
    }
}

/// What tells one file from another of the same name.
type Identity = (u64, u64);

#[cfg(unix)]
fn identity(file: &Metadata) -> Identity {
    use std::os::unix::fs::MetadataExt;
    (file.dev(), file.ino())
}

/// Elsewhere its length alone has to tell.
#[cfg(not(unix))]
fn identity(_: &Metadata) -> Identity {
    (0, 0)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;

    /// What a look brings, `!` where the file is another.
    fn looked(tail: &mut Tail) -> Vec<String> {
        let mut news = Vec::new();
        let told = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        tail.look(|some| {
            news.push(match some {
                News::Anew => "!".into(),
                News::Line(line) => told(line),
            })
        })
        .unwrap();
        news
    }

    fn append(path: &Path, text: &str) {
        fs::OpenOptions::new().append(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
    }

    #[test]
    fn lines_come_once_and_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.jsonl");
        let mut tail = Tail::whole(path.clone());
        assert_eq!(tail.look(|_| ()).unwrap_err().kind(), io::ErrorKind::NotFound);
        fs::write(&path, "one\ntw").unwrap();
        assert_eq!(looked(&mut tail), ["one"]);
        assert_eq!(looked(&mut tail), [""; 0]);
        append(&path, "o\n\nthree\n");
        assert_eq!(looked(&mut tail), ["two", "", "three"]);
        // Cut, as a run that goes on from a saved state does.
        fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(4).unwrap();
        assert_eq!(looked(&mut tail), ["!", "one"]);
        append(&path, "2\n");
        assert_eq!(looked(&mut tail), ["2"]);
        // Replaced, by a longer one.
        fs::write(dir.path().join("y"), "1\n22\n333\n4444\n").unwrap();
        fs::rename(dir.path().join("y"), &path).unwrap();
        assert_eq!(looked(&mut tail), ["!", "1", "22", "333", "4444"]);
        fs::remove_file(&path).unwrap();
        assert!(tail.look(|_| ()).is_err());
    }

    #[test]
    fn of_a_long_file_the_end_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.jsonl");
        fs::write(&path, (0..100_000).map(|k| format!("{k}\n")).collect::<String>()).unwrap();
        let mut tail = Tail::last(path.clone(), 20);
        assert_eq!(looked(&mut tail), ["99997", "99998", "99999"]);
        append(&path, "more\n");
        assert_eq!(looked(&mut tail), ["more"]);
    }

    #[test]
    fn a_line_without_an_end_costs_no_memory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.jsonl");
        let mut text = vec![b'x'; LONGEST + (2 << 20)];
        text.extend(b"\nnext\n");
        fs::write(&path, text).unwrap();
        let mut tail = Tail::whole(path);
        assert_eq!(looked(&mut tail), ["next"]);
        assert!(tail.part.capacity() <= 2 * LONGEST + (1 << 17));
    }
}
