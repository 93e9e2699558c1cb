//! An adapter made part of the model that it was trained on.

use topspin_kernels::device::Use;
use topspin_kernels::gemm::{Elements, Numbers, Precision, Weight, linear_backward_input};
use topspin_kernels::simd::Level;

use super::Adapter;
use crate::config::DecoderConfig;

impl Adapter {
    /// Adds `s · B · A` to each adapted matrix in `model`, the arena of `decoder`; `parameters` are the adapter's.
    ///
    /// # Panics
    /// If one of them is not of its arena's size.
    pub fn merge_into(&self, parameters: &[f32], decoder: &DecoderConfig, model: &mut [f32]) {
        assert_eq!(parameters.len(), self.layout.len(), "elements of the adapter's arena");
        let layout = decoder.layout();
        assert_eq!(model.len(), layout.len(), "elements of the parameter arena");
        for member in self.layers.iter().flatten().flatten().flat_map(|group| &group.members) {
            let matrix = layout.get(&format!("{}.weight", member.module)).expect("an adapter fits its model");
            let scaled: Vec<f32> = parameters[member.b.clone()].iter().map(|b| member.scale * b).collect();
            let (a, rank) = (Elements::Single(&parameters[member.a.clone()]), member.ranks.len());
            let (level, width) = (Level::detect(), member.a.len() / rank);
            let weight = Weight::prepare(level, Precision::F32, a, rank, width, Use::ForwardAndBackward);
            linear_backward_input(&mut model[matrix.range()], Numbers::F32(&scaled), a, &weight, true);
        }
    }
}
