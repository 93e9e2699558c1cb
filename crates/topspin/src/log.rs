//! Log lines on stderr: plain sentences, so that they read like the rest of the program.

use std::fmt;
use std::io::{self, Write, stderr};

use clap::Args;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

use crate::progress;

/// How much to say.
#[derive(Args, Debug)]
pub struct LogFlags {
    /// Say more on stderr; twice for everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = "Messages")]
    verbose: u8,
    /// Say nothing on stderr but warnings and errors
    #[arg(short, long, global = true, conflicts_with = "verbose", help_heading = "Messages")]
    quiet: bool,
}

impl LogFlags {
    /// Whether only warnings and errors are wanted; progress bars go too.
    pub fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// The libraries beneath speak up only when everything is wanted.
    fn directives(&self) -> &'static str {
        match (self.quiet, self.verbose) {
            (true, _) => "warn",
            (false, 0) => "warn,topspin=info",
            (false, 1) => "warn,topspin=debug",
            (false, _) => "trace",
        }
    }
}

/// Sends log lines to stderr from here on.
pub fn to_stderr(flags: &LogFlags) {
    progress::allow_bars(!flags.is_quiet());
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(flags.directives()))
        .event_format(Plain)
        .with_writer(AboveBars)
        .init();
}

/// A message and its fields; levels other than information are named.
struct Plain;

impl<S, N> FormatEvent<S, N> for Plain
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, ctx: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        match *event.metadata().level() {
            Level::INFO => {}
            Level::WARN => out.write_str("warning: ")?,
            Level::ERROR => out.write_str("error: ")?,
            Level::DEBUG => out.write_str("debug: ")?,
            Level::TRACE => write!(out, "trace: {}: ", event.metadata().target())?,
        }
        ctx.field_format().format_fields(out.by_ref(), event)?;
        writeln!(out)
    }
}

/// stderr, with progress bars out of the way while a line is written.
struct AboveBars;

impl Write for AboveBars {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        progress::above_bars(|| stderr().write(line))
    }

    fn flush(&mut self) -> io::Result<()> {
        stderr().flush()
    }
}

impl MakeWriter<'_> for AboveBars {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        Self
    }
}
