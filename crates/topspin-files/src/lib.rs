//! File access whose errors name the path, and writes that happen whole or not at all.
//!
//! Every function is the one of `std` with the same name, except that its error is a sentence about a path. The
//! writers build beside the destination and rename, so that a reader sees the old content or the new, never a part.
//! What a killed process left behind (`.<name>.tmp`, `.<name>.old`) is replaced by the next write of the same name.

mod error;
mod write;

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

pub use error::{Action, FileError};
pub use write::{replace, symlink_atomic, write_atomic, write_dir_atomic};

/// Reads a whole file.
pub fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    fs::read(path).map_err(|e| FileError::new(Action::Read, path, e))
}

/// Reads a whole file as UTF-8.
pub fn read_to_string(path: &Path) -> Result<String, FileError> {
    fs::read_to_string(path).map_err(|e| FileError::new(Action::Read, path, e))
}

/// Opens a file for buffered reading. Errors of later reads carry no path: wrap them in [`FileError::new`].
pub fn open(path: &Path) -> Result<BufReader<File>, FileError> {
    // A folder opens without complaint on Unix and fails at the first read, when the path is forgotten.
    let attempt = || {
        let file = File::open(path)?;
        if file.metadata()?.is_dir() { Err(io::Error::from(io::ErrorKind::IsADirectory)) } else { Ok(file) }
    };
    attempt().map(BufReader::new).map_err(|e| FileError::new(Action::Read, path, e))
}

/// Opens a file for appending and creates it where there is none. Appends are not atomic: a reader may meet a
/// line cut short by a kill.
pub fn append(path: &Path) -> Result<File, FileError> {
    OpenOptions::new().append(true).create(true).open(path).map_err(|e| FileError::new(Action::Write, path, e))
}

/// Creates a folder and those above it; one that exists is no error.
pub fn create_dir_all(path: &Path) -> Result<(), FileError> {
    fs::create_dir_all(path).map_err(|e| FileError::new(Action::CreateFolder, path, e))
}

/// Removes a file or a symbolic link; its absence is an error.
pub fn remove_file(path: &Path) -> Result<(), FileError> {
    fs::remove_file(path).map_err(|e| FileError::new(Action::Remove, path, e))
}

/// Removes a folder with all it holds; its absence is an error.
pub fn remove_dir_all(path: &Path) -> Result<(), FileError> {
    fs::remove_dir_all(path).map_err(|e| FileError::new(Action::Remove, path, e))
}

/// Renames a file or a folder on one file system.
pub fn rename(from: &Path, to: &Path) -> Result<(), FileError> {
    fs::rename(from, to).map_err(|error| FileError::Rename { from: from.into(), to: to.into(), error })
}

/// A folder held by this process until the value is dropped, or until the process ends in whatever way.
#[derive(Debug)]
#[must_use = "the folder is released when the lock is dropped"]
pub struct Lock {
    file: File,
}

impl Drop for Lock {
    /// Unlocks outright: closing the file would not do while a child process that is just being started has it too.
    fn drop(&mut self) {
        // Where this fails, the end of the process unlocks.
        let _ = self.file.unlock();
    }
}

/// Takes the advisory lock of a folder, the file `.lock` in it, without waiting.
///
/// Another holder, in this process or another, is [`FileError::InUse`]. The file itself stays: removing it would let
/// two processes lock two files of the same name.
pub fn lock(dir: &Path) -> Result<Lock, FileError> {
    let path: PathBuf = dir.join(".lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|e| FileError::new(Action::Lock, &path, e))?;
    match file.try_lock() {
        Ok(()) => Ok(Lock { file }),
        Err(TryLockError::WouldBlock) => Err(FileError::InUse { dir: dir.into() }),
        Err(TryLockError::Error(e)) => Err(FileError::new(Action::Lock, &path, e)),
    }
}
