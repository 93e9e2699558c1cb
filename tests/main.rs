//! Drives the built program as a user would: arguments and files in; exit code, stdout, stderr and files out.

mod harness;

mod adapter;
mod bad_input;
mod bench;
mod chat;
mod data;
mod disk;
mod eval;
mod events;
mod export;
mod generate;
mod help;
mod inspect;
mod kill;
mod lab;
mod malformed;
mod preference;
mod reference;
mod report;
mod runs;
mod scores;
mod smollm2;
mod watch;
