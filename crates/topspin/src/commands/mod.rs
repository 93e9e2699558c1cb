//! One file for each command: its flags, and what it does.

pub mod bench;
pub mod chat;
pub mod completions;
pub mod data;
pub mod eval;
pub mod export;
pub mod generate;
pub mod inspect;
pub mod lab;
pub mod quickstart;
pub mod reference;
pub mod report;
pub mod run;
pub mod score;
pub mod sft;
pub mod watch;
