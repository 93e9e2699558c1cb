//! Writers that replace their destination whole.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::{Action, FileError};

/// Writes a file so that it has either its old content or all of the new, across a kill or a power cut.
///
/// `fill` writes to a temporary file beside the destination, which is synchronised and renamed. If `fill` or a later
/// step fails, the temporary file is removed and the destination is as it was. A destination that is no regular file
/// (`/dev/null`, a pipe) is written in place: a rename would put a file in its stead. A link is followed.
pub fn write_atomic(path: &Path, fill: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> Result<(), FileError> {
    let fail = |e| FileError::new(Action::Write, path, e);
    match fs::metadata(path) {
        Ok(there) if there.is_dir() => return Err(fail(ErrorKind::IsADirectory.into())),
        Ok(there) if !there.is_file() => {
            let mut out = BufWriter::new(File::options().write(true).open(path).map_err(fail)?);
            return fill(&mut out).and_then(|()| out.flush()).map_err(fail);
        }
        _ => {}
    }
    // `/dev/stdout` is a link, to a regular file where the output was redirected to one.
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.into());
    let temporary = beside(&target, "tmp").map_err(fail)?;
    let attempt = || {
        clear(&temporary)?;
        let mut out = BufWriter::new(File::create_new(&temporary)?);
        fill(&mut out)?;
        out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        fs::rename(&temporary, &target)?;
        sync_folder(parent(&target))
    };
    attempt().map_err(|e| {
        // The first error is the one to tell; this clean-up may fail for the same reason.
        let _ = clear(&temporary);
        fail(e)
    })
}

/// Replaces a file by these bytes so that a reader sees the old content or the new, never a part.
///
/// Unlike [`write_atomic`] it does not wait for the disk: after a power cut the file may be empty. For what is written often and
/// missed by nobody.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let fail = |e| FileError::new(Action::Write, path, e);
    let temporary = beside(path, "tmp").map_err(fail)?;
    fs::write(&temporary, bytes).and_then(|()| fs::rename(&temporary, path)).map_err(|e| {
        let _ = clear(&temporary);
        fail(e)
    })
}

/// Writes a folder of files so that it is there whole or not at all.
///
/// `fill` gets an empty temporary folder beside the destination, which is synchronised and renamed. A folder that
/// already stands at `path` is replaced **with all it holds**: where it may be the user's own, ask first. If `fill`
/// fails, the temporary folder is removed and the destination is as it was.
pub fn write_dir_atomic<E: From<FileError>>(path: &Path, fill: impl FnOnce(&Path) -> Result<(), E>) -> Result<(), E> {
    let fail = |e| E::from(FileError::new(Action::Write, path, e));
    // Before the work, not after it.
    if fs::symlink_metadata(path).is_ok_and(|there| !there.is_dir()) {
        return Err(fail(ErrorKind::AlreadyExists.into()));
    }
    let temporary = beside(path, "tmp").map_err(fail)?;
    let old = beside(path, "old").map_err(fail)?;
    clear(&temporary).and_then(|()| fs::create_dir(&temporary)).map_err(fail)?;
    let swap = || {
        sync_tree(&temporary)?;
        // A folder cannot be renamed over one that is not empty. A kill between the two renames leaves no
        // folder at `path`, which reads as "not written yet"; it never leaves half of one.
        clear(&old)?;
        match fs::rename(path, &old) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        fs::rename(&temporary, path)?;
        sync_folder(parent(path))?;
        clear(&old)
    };
    fill(&temporary).and_then(|()| swap().map_err(fail)).inspect_err(|_| {
        let _ = clear(&temporary);
    })
}

/// Makes `link` a symbolic link to `target`, replacing a link or a file of that name in one step.
///
/// `target` is stored as it is given: relative to the link's own folder, so that the whole may be moved.
#[cfg(unix)]
pub fn symlink_atomic(target: &Path, link: &Path) -> Result<(), FileError> {
    let attempt = || {
        let temporary = beside(link, "tmp")?;
        clear(&temporary)?;
        std::os::unix::fs::symlink(target, &temporary)?;
        fs::rename(&temporary, link).inspect_err(|_| {
            let _ = clear(&temporary);
        })?;
        sync_folder(parent(link))
    };
    attempt().map_err(|e| FileError::new(Action::Link, link, e))
}

/// `a/b` and `tmp` give `a/.b.tmp`: on the same file system, so that a rename suffices, and out of sight.
fn beside(path: &Path, suffix: &str) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| io::Error::other("the path ends in no name; name a file or a folder"))?;
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(".");
    hidden.push(suffix);
    Ok(path.with_file_name(hidden))
}

/// The folder that holds `path`, where the empty parent of a bare name means the current one.
fn parent(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Removes whatever is at `path`, if anything: a leftover need not be of the kind that is about to be written.
fn clear(path: &Path) -> io::Result<()> {
    let done = match fs::symlink_metadata(path) {
        Ok(there) if there.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) => Err(e),
    };
    done.or_else(|e| if e.kind() == ErrorKind::NotFound { Ok(()) } else { Err(e) })
}

/// Puts a folder's files, then its own entries, on the disk.
fn sync_tree(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            sync_tree(&entry.path())?;
        } else if kind.is_file() {
            File::open(entry.path())?.sync_all()?;
        }
    }
    sync_folder(dir)
}

/// Makes renames in a folder last. Some network file systems cannot and say so; they have no better way either.
fn sync_folder(dir: &Path) -> io::Result<()> {
    match File::open(dir)?.sync_all() {
        Err(e) if matches!(e.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Ok(()),
        done => done,
    }
}
