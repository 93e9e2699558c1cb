//! Angles of rotary positions.

use topspin_kernels::device::Device;

use super::Decoder;
use crate::config::{DecoderConfig, RopeScaling};

/// How the layers turn queries and keys: those in general, then windowed ones where these have a base of their own.
pub(super) struct Rotary(Vec<Turns>);

/// Frequencies, and the factor of all cosines and sines.
struct Turns {
    frequencies: Vec<f32>,
    factor: f32,
}

impl Rotary {
    pub(super) fn new(config: &DecoderConfig) -> Self {
        let dim = config.rotary_dim();
        let turns = |theta: f64, scaling: &RopeScaling| Turns {
            frequencies: scaling.frequencies(theta, dim),
            factor: scaling.attention_factor(),
        };
        let local = config.local_rope_theta.map(|theta| turns(theta, &RopeScaling::None));
        Self([turns(config.rope_theta, &config.rope_scaling)].into_iter().chain(local).collect())
    }

    /// Tables of the first positions, `[positions, cos | sin]`; angles in f32 as transformers computes them.
    pub(super) fn tables<D: Device>(&self, device: &D, positions: usize) -> Vec<D::Buffer> {
        let table = |Turns { frequencies, factor }: &Turns| {
            let mut table = Vec::with_capacity(2 * positions * frequencies.len());
            for position in 0..positions {
                let angles = frequencies.iter().map(|frequency| position as f32 * frequency);
                table.extend(angles.clone().map(|angle| factor * angle.cos()));
                table.extend(angles.map(|angle| factor * angle.sin()));
            }
            device.upload(table.into())
        };
        self.0.iter().map(table).collect()
    }
}

impl<D: Device> Decoder<D> {
    /// Which of the tables turns the queries and keys of a layer, if any does.
    pub(super) fn rotary_table(&self, layer: usize) -> Option<usize> {
        let kind = self.config.layer_kind(layer);
        let local = kind.windowed && self.rotary.0.len() > 1;
        kind.rotary.then_some(usize::from(local))
    }
}
