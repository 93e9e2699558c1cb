//! What can go wrong with a file, said in one sentence.

use std::fmt;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// What was being done to a path when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Opening or reading a file.
    Read,
    /// Creating, writing or replacing a file or a folder of files.
    Write,
    /// Creating a folder.
    CreateFolder,
    /// Removing a file or a folder.
    Remove,
    /// Creating a symbolic link.
    Link,
    /// Taking a lock.
    Lock,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::CreateFolder => "create the folder",
            Self::Remove => "remove",
            Self::Link => "create the link",
            Self::Lock => "lock",
        })
    }
}

/// A failed access to the file system.
///
/// The message already holds the cause, so there is no `source()`: a printed chain says nothing twice.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// An operation on one path failed.
    #[error("cannot {action} `{}`: {}", path.display(), reason(Some(*action), error))]
    Io {
        /// What was being done.
        action: Action,
        /// The path as the caller gave it.
        path: PathBuf,
        /// What the operating system said.
        error: io::Error,
    },
    /// A rename failed.
    #[error("cannot rename `{}` to `{}`: {}", from.display(), to.display(), reason(None, error))]
    Rename {
        /// The old path.
        from: PathBuf,
        /// The new path.
        to: PathBuf,
        /// What the operating system said.
        error: io::Error,
    },
    /// Another process holds the lock of a folder.
    #[error("the folder `{}` is in use by another process; wait for it to end, or choose another folder", dir.display())]
    InUse {
        /// The locked folder.
        dir: PathBuf,
    },
}

impl FileError {
    /// Puts an action and a path to an error of `std`.
    pub fn new(action: Action, path: &Path, error: io::Error) -> Self {
        Self::Io { action, path: path.into(), error }
    }

    /// The path concerned; of a rename, the old one.
    pub fn path(&self) -> &Path {
        match self {
            Self::Io { path, .. } | Self::Rename { from: path, .. } | Self::InUse { dir: path } => path,
        }
    }

    /// The kind of the error; [`ErrorKind::WouldBlock`] where a folder is in use.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Io { error, .. } | Self::Rename { error, .. } => error.kind(),
            Self::InUse { .. } => ErrorKind::WouldBlock,
        }
    }
}

/// The cause in plain words, with what would mend it.
fn reason(action: Option<Action>, error: &io::Error) -> String {
    let text = match (error.kind(), action) {
        (ErrorKind::NotFound, Some(Action::Read | Action::Remove)) => "there is no such file or folder; check the path",
        (ErrorKind::NotFound, _) => "the folder that should hold it does not exist; create it, or check the path",
        (ErrorKind::PermissionDenied, Some(Action::Read)) => {
            "permission denied; give yourself the right to read it, or run as its owner"
        }
        (ErrorKind::PermissionDenied, _) => {
            "permission denied; give yourself the right to write in its folder, or choose another folder"
        }
        (ErrorKind::ReadOnlyFilesystem, _) => "the file system is read-only; choose a folder on another one",
        (ErrorKind::StorageFull, _) => "no space is left on the device; free some, or choose a folder on another one",
        (ErrorKind::QuotaExceeded, _) => "the disk quota is used up; free some space, or choose another folder",
        (ErrorKind::IsADirectory, _) => "it is a folder; name a file",
        (ErrorKind::NotADirectory, _) => "a part of the path is a file where a folder should be; check the path",
        (ErrorKind::AlreadyExists, _) => "something of that name is already there; remove it, or choose another name",
        (ErrorKind::InvalidData, Some(Action::Read)) => "it is not UTF-8 text; check that it is the right file",
        _ => return error.to_string(),
    };
    text.into()
}
