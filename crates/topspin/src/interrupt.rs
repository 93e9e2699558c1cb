//! Ctrl-C, and a polite `kill`.
//!
//! Either ends the program at once, except while some work holds a [`Graceful`]: then the first one only asks that work to
//! come to an end, and the second ends the program.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};

use anyhow::Context;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// The signals with the exit codes that tell of them: 128 and the signal's number, as shells have it.
const SIGNALS: [(i32, u8); 2] = [(SIGINT, 130), (SIGTERM, 143)];

/// Exit code that tells of the last signal.
static CODE: LazyLock<Arc<AtomicUsize>> = LazyLock::new(|| Arc::new(AtomicUsize::new(SIGNALS[0].1.into())));
/// Whether the next signal ends the program.
static FATAL: LazyLock<Arc<AtomicBool>> = LazyLock::new(|| Arc::new(AtomicBool::new(true)));
/// Whether there was a signal since the last [`Graceful`] began.
static REQUESTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(|| Arc::new(AtomicBool::new(false)));

/// Installs the handlers.
pub fn listen() -> anyhow::Result<()> {
    for (signal, code) in SIGNALS {
        // In this order: the first signal finds `FATAL` as the work left it and sets it for the second.
        flag::register_conditional_shutdown(signal, code.into(), Arc::clone(&FATAL))
            .and_then(|_| flag::register(signal, Arc::clone(&FATAL)))
            .and_then(|_| flag::register_usize(signal, Arc::clone(&CODE), code.into()))
            .and_then(|_| flag::register(signal, Arc::clone(&REQUESTED)))
            .context("the handler of Ctrl-C cannot be installed")?;
    }
    Ok(())
}

/// The exit code of work that came to its end because of a signal.
pub fn exit_code() -> u8 {
    CODE.load(Ordering::SeqCst) as u8
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

    /// Such work was the last: what is left of the program is its own orderly end.
    pub fn last(self) {
        std::mem::forget(self);
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
