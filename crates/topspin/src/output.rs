//! Results: text on stdout, and lines of JSON in a file or on stdout.

use std::io::{self, BufWriter, ErrorKind, Write, stdout};
use std::path::Path;

use anyhow::Context;
use serde::Serialize;
use topspin_files::{Action, FileError};

/// Writes to stdout through a buffer. A reader that went away is an error that ends the program in peace.
pub fn print(fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> anyhow::Result<()> {
    let mut out = BufWriter::new(stdout().lock());
    fill(&mut out).and_then(|()| out.flush()).context("cannot write to stdout")
}

/// Writes one value as a line of JSON on stdout.
pub fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    print(|out| write_line(out, value))
}

/// Writes one line of JSON for each value: all of them to `path` or nothing; `-` is stdout.
pub fn write_jsonl<T: Serialize>(path: &Path, values: impl IntoIterator<Item = T>) -> anyhow::Result<()> {
    let mut values = values.into_iter();
    if path == Path::new("-") {
        print(|out| values.try_for_each(|value| write_line(out, &value)))
    } else {
        Ok(topspin_files::write_atomic(path, |out| values.try_for_each(|value| write_line(out, &value)))?)
    }
}

/// Checks that a file can be where `path` says, so that this is not found out when the work is done.
pub fn check(path: &Path) -> anyhow::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let problem = match (path.is_dir(), parent.is_dir()) {
        (true, _) => ErrorKind::IsADirectory,
        (_, false) => ErrorKind::NotFound,
        _ => return Ok(()),
    };
    Err(FileError::new(Action::Write, path, problem.into()).into())
}

fn write_line(out: &mut (impl Write + ?Sized), value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    out.write_all(b"\n")
}
