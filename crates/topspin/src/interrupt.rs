//! Ctrl-C.
//!
//! It ends the program at once with exit code 130, except while some work holds a [`Graceful`]: then the first one only
//! asks that work to come to an end, and the second ends the program.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

use anyhow::Context;
use signal_hook::consts::SIGINT;
use signal_hook::flag;

use crate::error::INTERRUPTED;

/// Whether the next Ctrl-C ends the program.
static FATAL: LazyLock<Arc<AtomicBool>> = LazyLock::new(|| Arc::new(AtomicBool::new(true)));
/// Whether Ctrl-C was pressed since the last [`Graceful`] began.
static REQUESTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(|| Arc::new(AtomicBool::new(false)));

/// Installs the handler.
pub fn listen() -> anyhow::Result<()> {
    // In this order: the first Ctrl-C finds `FATAL` as the work left it and sets it for the second.
    flag::register_conditional_shutdown(SIGINT, INTERRUPTED.into(), Arc::clone(&FATAL))
        .and_then(|_| flag::register(SIGINT, Arc::clone(&FATAL)))
        .and_then(|_| flag::register(SIGINT, Arc::clone(&REQUESTED)))
        .context("the handler of Ctrl-C cannot be installed")?;
    Ok(())
}

/// Work that wants to come to an orderly end; Ctrl-C is fatal again when it is dropped.
#[must_use = "Ctrl-C is fatal again when this is dropped"]
pub struct Graceful(());

impl Graceful {
    /// Begins such work.
    pub fn begin() -> Self {
        REQUESTED.store(false, Ordering::SeqCst);
        FATAL.store(false, Ordering::SeqCst);
        Self(())
    }

    /// Set once the user has asked for the end of such work.
    pub fn requested() -> &'static AtomicBool {
        &REQUESTED
    }
}

impl Drop for Graceful {
    fn drop(&mut self) {
        FATAL.store(true, Ordering::SeqCst);
    }
}
