//! Operations as forward and backward pairs, on a device.
pub mod arena;
