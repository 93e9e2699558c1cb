//! What keeps a page from being written.

use std::path::PathBuf;

use topspin_files::FileError;

/// A run's folder that no page can be made of.
#[derive(Debug, thiserror::Error)]
pub enum PageError {
    /// A file could not be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// A folder that is not a run's.
    #[error("`{}` is not the folder of a run: it has no `manifest.json`; name the folder that `topspin run` wrote", dir.display())]
    NotARun {
        /// The folder.
        dir: PathBuf,
    },
    /// A manifest that cannot be understood.
    #[error("line {line} of `{}` cannot be understood ({problem}); restore the file: without it nobody knows what the folder holds", path.display())]
    Manifest {
        /// The file.
        path: PathBuf,
        /// Its line, from 1.
        line: usize,
        /// What the parser said.
        problem: String,
    },
    /// Another file that cannot be understood.
    #[error(
        "line {line} of `{}` cannot be understood ({problem}); restore the file, or remove it and the page goes without",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Its line, from 1.
        line: usize,
        /// What the parser said.
        problem: String,
    },
}
