//! Floating-point operations, counted from the architecture.

use crate::adapter::Adapter;
use crate::batch::Batch;
use crate::config::DecoderConfig;

/// Counts the multiplications and additions of matrix products and attention; all else is small beside them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flops(pub u64);

impl Flops {
    /// One forward of `batch`: two operations for each weight and row, the head only at output rows, and four for each
    /// channel of each (query, key) pair that attention looks at.
    pub fn forward(config: &DecoderConfig, adapter: Option<&Adapter>, batch: &Batch) -> Self {
        Self(of_model(config, batch) + of_adapter(adapter, batch) + of_attention(config, batch))
    }

    /// Forward and backward: each product has two in the backward, or one where its weights are not trained. Recomputation is
    /// not counted, being no useful work.
    pub fn forward_and_backward(config: &DecoderConfig, adapter: Option<&Adapter>, batch: &Batch) -> Self {
        let products = if adapter.is_some() { 2 } else { 3 };
        let trained = of_adapter(adapter, batch) + of_attention(config, batch);
        Self(products * of_model(config, batch) + 3 * trained)
    }
}

/// Products with the model's own matrices.
fn of_model(config: &DecoderConfig, batch: &Batch) -> u64 {
    let heads = config.heads();
    let (d, f) = (config.hidden_size, config.intermediate_size);
    let layer = d * heads.qkv_width() + heads.q_width() * d + 3 * d * f;
    let products = 2 * (config.num_layers * layer * batch.rows()) as u64;
    products + 2 * (d * config.vocab_size * batch.outputs.len()) as u64
}

/// Products with an adapter's matrices.
fn of_adapter(adapter: Option<&Adapter>, batch: &Batch) -> u64 {
    2 * (adapter.map_or(0, |adapter| adapter.layout().len()) * batch.rows()) as u64
}

fn of_attention(config: &DecoderConfig, batch: &Batch) -> u64 {
    let windowed = (0..config.num_layers).filter(|&layer| config.attention(layer).window.is_some()).count();
    let in_layers = |layers: usize, window| if layers > 0 { layers as u64 * batch.attended(window) } else { 0 };
    let attended = in_layers(config.num_layers - windowed, None) + in_layers(windowed, config.sliding_window);
    4 * config.heads().q_width() as u64 * attended
}
