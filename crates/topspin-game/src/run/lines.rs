//! Files of JSON lines that grow while a stage runs and survive its death.

use std::fs::File;
use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use topspin_files::{Action, FileError};

use super::RunError;

/// A file of JSON lines that is appended to, line by line.
pub struct Lines {
    path: PathBuf,
    file: File,
}

impl Lines {
    /// Opens the file, keeps its first lines as long as they are whole and there are at most `keep` of them, cuts off
    /// the rest, and gives back what was kept.
    ///
    /// What follows a torn line is dropped with it: the line was being written when the process died.
    pub fn resume<T: DeserializeOwned>(path: &Path, keep: usize) -> Result<(Self, Vec<T>), FileError> {
        let fail = |e| FileError::new(Action::Write, path, e);
        let file = topspin_files::append(path)?;
        let mut reader = topspin_files::open(path)?;
        let (mut kept, mut bytes, mut line) = (Vec::new(), 0, Vec::new());
        while kept.len() < keep {
            line.clear();
            let read = reader.read_until(b'\n', &mut line).map_err(fail)?;
            let Some(text) = line.strip_suffix(b"\n") else { break };
            let Ok(value) = serde_json::from_slice(text) else { break };
            kept.push(value);
            bytes += read as u64;
        }
        file.set_len(bytes).map_err(fail)?;
        Ok((Self { path: path.into(), file }, kept))
    }

    /// Appends a line.
    pub fn push(&mut self, value: &impl Serialize) -> Result<(), FileError> {
        let mut line = line_of(value);
        line.push(b'\n');
        // In one call, so that a line is torn only where the system tears it.
        self.file.write_all(&line).map_err(|e| FileError::new(Action::Write, &self.path, e))
    }

    /// Has the lines survive a power cut from here on.
    pub fn sync(&self) -> Result<(), FileError> {
        self.file.sync_data().map_err(|e| FileError::new(Action::Write, &self.path, e))
    }

    /// Writes the finished file at `path`, its lines behind those of the files `before`. This one stays until the stage is
    /// entered as finished: a run that dies in between goes on from it.
    pub fn finish(self, path: &Path, before: &[PathBuf]) -> Result<(), FileError> {
        let mut files = before.iter().chain([&self.path]);
        topspin_files::write_atomic(path, |out| {
            files.try_for_each(|path| io::copy(&mut File::open(path)?, out).map(drop))
        })
    }
}

/// Writes a whole file of JSON lines, or nothing.
pub fn write_lines<T: Serialize>(path: &Path, values: impl IntoIterator<Item = T>) -> Result<(), FileError> {
    topspin_files::write_atomic(path, |out| {
        values.into_iter().try_for_each(|value| {
            out.write_all(&line_of(&value))?;
            out.write_all(b"\n")
        })
    })
}

/// Writes a JSON value as a file that is pleasant to read.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<(), FileError> {
    topspin_files::write_atomic(path, |out| {
        serde_json::to_writer_pretty(&mut *out, value).map_err(io::Error::from)?;
        out.write_all(b"\n")
    })
}

/// Reads a file of one JSON value.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, RunError> {
    let text = topspin_files::read(path)?;
    let damaged =
        |e: serde_json::Error| RunError::Damaged { path: path.into(), line: e.line(), problem: e.to_string() };
    serde_json::from_slice(&text).map_err(damaged)
}

/// Reads a file of JSON lines that a stage has finished.
pub fn read_lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, RunError> {
    let mut values = Vec::new();
    for (number, line) in topspin_files::open(path)?.split(b'\n').enumerate() {
        let line = line.map_err(|e| FileError::new(Action::Read, path, e))?;
        let damaged =
            |e: serde_json::Error| RunError::Damaged { path: path.into(), line: number + 1, problem: e.to_string() };
        values.push(serde_json::from_slice(&line).map_err(damaged)?);
    }
    Ok(values)
}

fn line_of(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("records of a run have string keys and can be written as JSON")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Wherever a file was torn, and whatever a power cut left behind the tear, its whole lines are kept and the file
        /// goes on from there.
        #[test]
        fn a_torn_file_goes_on_from_its_last_whole_line(
            texts in prop::collection::vec("\\PC{0,9}", 0..8),
            cut in any::<prop::sample::Index>(),
            garbage in prop_oneof![Just(&b""[..]), Just(&b"\0\0\0\n\"x\"\n"[..])],
            keep in 0..10usize,
        ) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("x.partial.jsonl");
            write_lines(&path, &texts).unwrap();
            let mut bytes = fs::read(&path).unwrap();
            bytes.truncate(cut.index(bytes.len() + 1));
            let whole = bytes.iter().filter(|&&byte| byte == b'\n').count().min(keep);
            bytes.extend(garbage);
            fs::write(&path, bytes).unwrap();

            let (mut lines, kept) = Lines::resume::<String>(&path, keep).unwrap();
            prop_assert_eq!(&kept[..], &texts[..whole]);
            lines.push(&"more").unwrap();
            let finished = dir.path().join("x.jsonl");
            lines.finish(&finished, &[]).unwrap();
            let read: Vec<String> = read_lines(&finished).unwrap();
            let expected: Vec<_> = texts[..whole].iter().cloned().chain(["more".to_owned()]).collect();
            prop_assert_eq!(read, expected);
        }
    }

    #[test]
    fn a_damaged_line_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.jsonl");
        fs::write(&path, "1\n2\nx\n").unwrap();
        let error = read_lines::<u32>(&path).unwrap_err().to_string();
        assert!(error.starts_with(&format!("line 3 of `{}` cannot be understood", path.display())), "{error}");
    }
}
