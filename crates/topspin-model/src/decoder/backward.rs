//! The backward of [`Decoder::logprobs`].

use topspin_kernels::device::{Buffer, Device};

use super::{Decoder, Keep, Place, Tape};
use crate::batch::Batch;

impl<D: Device> Decoder<D> {
    /// The gradient of `sum_n dlogp[n] * logprobs[n]` in `grads`, an arena of [`Decoder::layout`]: in place of what is
    /// there, or added to it when `accumulate`.
    ///
    /// `tape` holds the forward of the same `batch` by [`Decoder::logprobs`] at the same parameters.
    ///
    /// # Panics
    /// If the tape keeps nothing, or `dlogp` has another length than the outputs.
    pub fn backward(&self, batch: &Batch, tape: &mut Tape<D>, dlogp: &[f32], grads: &mut D::Buffer, accumulate: bool) {
        assert!(tape.keep != Keep::Nothing, "a tape that keeps nothing cannot be run backward");
        assert_eq!(dlogp.len(), batch.outputs.len(), "one gradient for each output");
        if !accumulate && self.adapted.is_none() {
            self.zero_sums(batch, grads);
        }
        self.head_backward(batch, tape, dlogp, grads, accumulate);
        for layer in (0..self.config.num_layers).rev() {
            if tape.keep == Keep::LayerInputs {
                let mut kv = tape.kv.take().expect("a reserved tape has a store");
                self.layer_forward(layer, batch, &mut kv, 0, tape);
                tape.kv = Some(kv);
            }
            self.layer_backward(layer, batch, tape, grads, accumulate);
        }
        let dx = &tape.grads.as_ref().expect("a tape that keeps has gradients").x;
        if let Some(dembed) = self.matrix_grad(grads, &self.ranges.embed) {
            let (dx, scale) = (dx.head(batch.rows() * self.config.hidden_size), self.config.embedding_multiplier);
            self.device.embedding_backward(dembed, dx, &batch.tokens, scale);
        }
    }

    /// Zeros for what the backward only ever adds to. The products write theirs.
    fn zero_sums(&self, batch: &Batch, grads: &mut D::Buffer) {
        let [embed, head] = [&self.ranges.embed, &self.ranges.head].map(Place::arena);
        // A tied embedding is the head's matrix; without an output there is no product of the head.
        let untied = (head != embed).then_some(&embed);
        let sums = self.ranges.vectors.iter().chain(untied).chain(batch.outputs.is_empty().then_some(&head));
        sums.into_iter().for_each(|range| self.device.zero(grads.part_mut(range.clone())));
    }
}
