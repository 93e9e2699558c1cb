//! The engine against naive generation and scoring: one sequence at a time, its whole path computed anew for every token.

mod common;
mod errors;
mod naive;
mod steps;
