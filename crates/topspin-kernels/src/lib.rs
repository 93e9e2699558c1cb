//! Operations as forward and backward pairs, on a device.
pub mod arena;
mod bf16;
pub mod cpu;
pub mod device;
pub mod gemm;
pub mod memory;
pub mod rate;
pub mod rng;
pub mod simd;
pub mod stored;
pub mod timed;
