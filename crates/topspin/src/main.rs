//! The command line: what each command is, and how the program ends.
//!
//! Exit codes: 0 done; 2 for what the user can mend, with one sentence on stderr; 1 for a fault of the program, which
//! is a panic and nothing else; 130 after Ctrl-C. Results go to stdout; logs, progress and errors go to stderr.

mod chart;
mod cli;
mod commands;
mod engine;
mod error;
mod exporter;
mod flags;
mod generation;
mod input;
mod interrupt;
mod log;
mod machine;
mod output;
mod progress;
mod scoring;

use std::panic::catch_unwind;
use std::process::ExitCode;

use clap::Parser;
use topspin_kernels::simd::Level;

use cli::{Cli, Command};

fn main() -> ExitCode {
    error::word_panics();
    match catch_unwind(parse_and_run) {
        Ok(Ok(code)) => code,
        Ok(Err(error)) => error::report(&error),
        Err(_) => ExitCode::from(error::FAULT),
    }
}

fn parse_and_run() -> anyhow::Result<ExitCode> {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(message) => return error::print_usage(&message),
    };
    log::to_stderr(&cli.log);
    interrupt::listen()?;
    Level::check_cap()?;
    dispatch(cli.command)?;
    Ok(ExitCode::SUCCESS)
}

fn dispatch(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Quickstart(args) => commands::quickstart::run(args),
        Command::Run(args) => commands::run::run(args),
        Command::Sft(args) => commands::sft::run(args),
        Command::Generate(args) => commands::generate::run(args),
        Command::Score(args) => commands::score::run(args),
        Command::Eval(args) => commands::eval::run(args),
        Command::Chat(args) => commands::chat::run(args),
        Command::Export(args) => commands::export::run(args),
        Command::Inspect(args) => commands::inspect::run(args),
        Command::Watch(args) => commands::watch::run(args),
        Command::Report(args) => commands::report::run(args),
        Command::Data(args) => commands::data::run(args),
        Command::Bench(args) => commands::bench::run(args),
        Command::Lab(args) => commands::lab::run(args),
        Command::Completions(args) => commands::completions::run(args),
        Command::Reference => commands::reference::run(),
    }
}
