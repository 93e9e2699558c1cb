//! Operations as forward and backward pairs, on a device.
pub mod arena;
pub mod device;
pub mod rng;
pub mod simd;
