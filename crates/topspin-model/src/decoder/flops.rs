//! Floating-point operations, counted from the architecture.

use crate::batch::Batch;
use crate::config::DecoderConfig;

/// Counts the multiplications and additions of matrix products and attention; all else is small beside them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flops(pub u64);

impl Flops {
    /// One forward of `batch`: two operations for each weight and row, the head only at output rows, and four for each
    /// channel of each (query, key) pair that attention looks at.
    pub fn forward(config: &DecoderConfig, batch: &Batch) -> Self {
        let heads = config.heads();
        let (d, f) = (config.hidden_size, config.intermediate_size);
        let layer = d * heads.qkv_width() + heads.q_width() * d + 3 * d * f;
        let products = 2 * (config.num_layers * layer * batch.rows()) as u64;
        let head = 2 * (d * config.vocab_size * batch.outputs.len()) as u64;
        let windowed = (0..config.num_layers).filter(|&layer| config.attention(layer).window.is_some()).count();
        let in_layers = |layers: usize, window| if layers > 0 { layers as u64 * batch.attended(window) } else { 0 };
        let attended = in_layers(config.num_layers - windowed, None) + in_layers(windowed, config.sliding_window);
        let attention = 4 * heads.q_width() as u64 * attended;
        Self(products + head + attention)
    }

    /// Forward and backward: each product has two in the backward. Recomputation is not counted, being no useful work.
    pub fn forward_and_backward(config: &DecoderConfig, batch: &Batch) -> Self {
        Self(3 * Self::forward(config, batch).0)
    }
}
