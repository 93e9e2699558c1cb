//! Angles of rotary positions.

use topspin_kernels::device::Device;

use super::Decoder;
use crate::config::DecoderConfig;

/// Frequencies of the layers.
pub(super) struct Rotary {
    /// Of layers in general, then of windowed ones where these have their own.
    frequencies: Vec<Vec<f32>>,
    /// Factor of all cosines and sines.
    factor: f32,
}

impl Rotary {
    pub(super) fn new(config: &DecoderConfig) -> Self {
        let DecoderConfig { rope_theta, rope_scaling, local_rope_theta, .. } = config;
        let dim = config.rotary_dim();
        let local = local_rope_theta.map(|theta| crate::config::RopeScaling::None.frequencies(theta, dim));
        let frequencies = [rope_scaling.frequencies(*rope_theta, dim)].into_iter().chain(local).collect();
        Self { frequencies, factor: rope_scaling.attention_factor() }
    }

    /// Tables of the first positions, `[positions, cos | sin]`; angles in f32 as transformers computes them.
    pub(super) fn tables<D: Device>(&self, device: &D, positions: usize) -> Vec<D::Buffer> {
        let table = |frequencies: &Vec<f32>| {
            let mut table = Vec::with_capacity(2 * positions * frequencies.len());
            for position in 0..positions {
                let angles = frequencies.iter().map(|frequency| position as f32 * frequency);
                table.extend(angles.clone().map(|angle| self.factor * angle.cos()));
                table.extend(angles.map(|angle| self.factor * angle.sin()));
            }
            device.upload(table.into())
        };
        self.frequencies.iter().map(table).collect()
    }
}

impl<D: Device> Decoder<D> {
    /// Which of the tables turns the queries and keys of a layer, if any does.
    pub(super) fn rotary_table(&self, layer: usize) -> Option<usize> {
        let kind = self.config.layer_kind(layer);
        let local = kind.windowed && self.rotary.frequencies.len() > 1;
        kind.rotary.then_some(usize::from(local))
    }
}
