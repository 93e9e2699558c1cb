//! The output head: logits where a next token is wanted, in chunks, and what becomes of them.

use std::ops::Range;

use topspin_kernels::device::{Buffer, Device, LogitScale, Plus, Rows};

use super::{Decoder, Tape};
use crate::batch::Batch;

/// Most logits held at once, in elements (128 MiB): the head works through its rows in chunks of at most this size. Only the
/// last chunk's are still there when the backward begins; a batch of pairs with a vocabulary of 50,000 is one chunk.
const LOGITS_AT_ONCE: usize = 1 << 25;

/// Most output rows whose logits are held at once.
pub(super) fn head_chunk(vocab_size: usize) -> usize {
    (LOGITS_AT_ONCE / vocab_size).max(1)
}

impl<D: Device> Decoder<D> {
    /// The outputs in runs of about the same length whose logits fit into [`LOGITS_AT_ONCE`].
    pub(super) fn head_chunks(&self, outputs: usize) -> impl DoubleEndedIterator<Item = Range<usize>> + use<D> {
        let count = outputs.div_ceil(head_chunk(self.config.vocab_size));
        let size = outputs.div_ceil(count.max(1)).max(1);
        (0..outputs.div_ceil(size)).map(move |chunk| chunk * size..outputs.min((chunk + 1) * size))
    }

    /// Logits `[n, V]` of a chunk of the outputs, into `tape.logits`.
    pub(super) fn logits(&self, outputs: Range<usize>, tape: &mut Tape<D>) {
        let (n, d, v) = (outputs.len(), self.config.hidden_size, self.config.vocab_size);
        let hidden = Rows::Rounded(tape.normed_out.part(outputs.start * d..outputs.end * d));
        let head = self.matrix(&self.ranges.head);
        self.device.linear_forward(tape.logits.head_mut(n * v), hidden, head, &self.head, Plus::Nothing);
        if self.config.logit_scale != LogitScale::NONE {
            self.device.logit_scale_forward(tape.logits.head_mut(n * v), self.config.logit_scale);
        }
        tape.logits_of = Some(outputs);
    }

    /// Log-probabilities of `targets` from the logits that the tape holds, into `tape.logp` and `tape.lse_out`.
    pub(super) fn logprobs_of_chunk(&self, outputs: Range<usize>, targets: &[u32], tape: &mut Tape<D>) {
        let logits = tape.logits.head(outputs.len() * self.config.vocab_size);
        let (logp, lse) = (tape.logp.part_mut(outputs.clone()), tape.lse_out.part_mut(outputs));
        self.device.logprob_forward(logp, lse, logits, targets);
    }

    /// From `dlogp` to the gradient of the residual stream behind the last layer, in `tape.grads.x`.
    pub(super) fn head_backward(
        &self,
        batch: &Batch,
        tape: &mut Tape<D>,
        dlogp: &[f32],
        grads: &mut D::Buffer,
        accumulate: bool,
    ) {
        let (t, n) = (batch.rows(), batch.outputs.len());
        let (d, v) = (self.config.hidden_size, self.config.vocab_size);
        let device = &self.device;
        let mut acts = tape.grads.take().expect("a tape that keeps has gradients");
        device.write(acts.logp.head_mut(n), dlogp);

        // From the last chunk: its logits are still there from the forward.
        let mut accumulate = accumulate;
        for chunk in self.head_chunks(n).rev() {
            if tape.logits_of.as_ref() != Some(&chunk) {
                self.logits(chunk.clone(), tape);
            }
            let dlogits = tape.logits.head_mut(chunk.len() * v);
            let targets = &batch.targets[chunk.clone()];
            let (dlogp, lse) = (acts.logp.part(chunk.clone()), tape.lse_out.part(chunk.clone()));
            device.logprob_backward(dlogits, dlogp, lse, targets, self.config.logit_scale);
            tape.logits_of = None;
            let dlogits = || Rows::Single(tape.logits.head(chunk.len() * v));
            let hidden: Range<usize> = chunk.start * d..chunk.end * d;
            let head = &self.ranges.head;
            if let Some(dhead) = self.matrix_grad(grads, head) {
                let normed = Rows::Rounded(tape.normed_out.part(hidden.clone()));
                device.linear_backward_weight(dhead, dlogits(), normed, &self.head, accumulate);
                accumulate = true;
            }
            let dhidden = acts.normed_out.part_mut(hidden);
            device.linear_backward_input(dhidden, dlogits(), self.matrix(head), &self.head, false);
        }

        device.zero(acts.gathered.head_mut(n * d));
        device.rmsnorm_backward(
            acts.gathered.head_mut(n * d),
            self.grad(grads, &self.ranges.norm),
            acts.normed_out.head(n * d),
            tape.gathered.head(n * d),
            self.part(&self.ranges.norm),
            tape.rstd_out.head(n),
            self.config.norm(),
        );
        device.zero(acts.x.head_mut(t * d));
        device.gather_backward(acts.x.head_mut(t * d), acts.gathered.head(n * d), &batch.outputs);
        tape.grads = Some(acts);
    }
}
