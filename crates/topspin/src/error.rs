//! How the program words what went wrong, and which exit code says so.
//!
//! Whatever comes back as an error is something that the user can mend: a file, a flag, a full disk. A fault of the
//! program itself is a panic. So the two never need telling apart case by case.

use std::any::Any;
use std::io::{self, ErrorKind, IsTerminal, Write, stderr};
use std::panic;
use std::process::ExitCode;
use std::sync::Once;

use topspin_files::FileError;

use crate::interrupt;

/// Exit code of a fault of the program.
pub const FAULT: u8 = 1;
/// Exit code of what the user can mend; also clap's, for a command line that it cannot read.
const USER: u8 = 2;

/// Work that ended early because the user asked for it; the sentence says how to go on.
#[derive(Debug)]
pub struct Interrupted(pub String);

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Interrupted {}

/// Prints the sentence of an error and gives the exit code that goes with it.
pub fn report(error: &anyhow::Error) -> ExitCode {
    if is_broken_pipe(error) {
        // `topspin ... | head` has all that it wanted.
        return ExitCode::SUCCESS;
    }
    if let Some(Interrupted(how_to_go_on)) = error.downcast_ref() {
        say(how_to_go_on);
        return ExitCode::from(interrupt::exit_code());
    }
    say(&format!("{} {error:#}", label()));
    ExitCode::from(USER)
}

/// Prints what clap has to say: help and version on stdout, a wrong command line on stderr.
pub fn print_usage(message: &clap::Error) -> anyhow::Result<ExitCode> {
    message.print()?;
    Ok(ExitCode::from(if message.use_stderr() { USER } else { 0 }))
}

/// Has a panic say one sentence instead of Rust's report; with `RUST_BACKTRACE` set the report comes as well.
pub fn word_panics() {
    let rusts_own = panic::take_hook();
    let backtrace = std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0");
    panic::set_hook(Box::new(move |info| {
        // Several workers may panic over the same thing.
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            let place = info.location().map(|at| format!(" at {}:{}", at.file(), at.line())).unwrap_or_default();
            say(&format!(
                "{} this is a fault of topspin {}, not of yours (`{}`{place}); please report it with the command that \
                 you ran",
                label(),
                env!("CARGO_PKG_VERSION"),
                message_of(info.payload()),
            ));
        });
        if backtrace {
            rusts_own(info);
        }
    }));
}

fn message_of(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let kind = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        kind.or_else(|| cause.downcast_ref().map(FileError::kind)) == Some(ErrorKind::BrokenPipe)
    })
}

/// `error:`, in red where that is welcome.
fn label() -> &'static str {
    if stderr().is_terminal() && welcomes_colour() { "\x1b[1;31merror:\x1b[0m" } else { "error:" }
}

/// Whether the user has nothing against colour: see no-color.org.
pub fn welcomes_colour() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn say(sentence: &str) {
    // With stderr closed there is nobody to tell, and the exit code still says it.
    let _ = writeln!(stderr(), "{sentence}");
}
