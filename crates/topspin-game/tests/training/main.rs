//! The training core on random models: trees against full rows, PyTorch's figures, stopping and going on.

mod adapter;
mod common;
mod families;
mod golden;
mod objectives;
mod policy;
mod state;
mod step;
mod stored;
mod trees;
