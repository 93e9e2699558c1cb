//! The backward of [`Decoder::logprobs`].

use std::ops::Range;

use topspin_kernels::device::{Buffer, Device, Rows};

use super::{Decoder, Keep, Ranges, Tape};
use crate::batch::Batch;

impl<D: Device> Decoder<D> {
    /// The gradient of `sum_n dlogp[n] * logprobs[n]` in `grads`, an arena of the parameters' layout: in place of what
    /// is there, or added to it when `accumulate`.
    ///
    /// `tape` holds the forward of the same `batch` by [`Decoder::logprobs`] at the same parameters.
    ///
    /// # Panics
    /// If the tape keeps nothing, or `dlogp` has another length than the outputs.
    pub fn backward(&self, batch: &Batch, tape: &mut Tape<D>, dlogp: &[f32], grads: &mut D::Buffer, accumulate: bool) {
        assert!(tape.keep != Keep::Nothing, "a tape that keeps nothing cannot be run backward");
        assert_eq!(dlogp.len(), batch.outputs.len(), "one gradient for each output");
        if !accumulate {
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
        let dembed = grads.part_mut(self.ranges.embed.clone());
        self.device.embedding_backward(dembed, dx.head(batch.rows() * self.config.hidden_size), &batch.tokens);
    }

    /// Zeros for what the backward only ever adds to. The products write theirs.
    fn zero_sums(&self, batch: &Batch, grads: &mut D::Buffer) {
        let Ranges { embed, layers, norm, head } = &self.ranges;
        let mut sums: Vec<&Range<usize>> = vec![norm];
        sums.extend(layers.iter().flat_map(|layer| [&layer.attn_norm, &layer.mlp_norm]));
        // A tied embedding is the head's matrix; without an output there is no product of the head.
        let untied = (head != embed).then_some(embed);
        sums.extend(untied.into_iter().chain(batch.outputs.is_empty().then_some(head)));
        sums.into_iter().for_each(|range| self.device.zero(grads.part_mut(range.clone())));
    }

    /// From `dlogp` to the gradient of the residual stream behind the last layer, in `tape.grads.x`.
    fn head_backward(&self, batch: &Batch, tape: &mut Tape<D>, dlogp: &[f32], grads: &mut D::Buffer, accumulate: bool) {
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
            device.logprob_backward(dlogits, acts.logp.part(chunk.clone()), tape.lse_out.part(chunk.clone()), targets);
            tape.logits_of = None;
            let dlogits = || Rows::Single(tape.logits.head(chunk.len() * v));
            let hidden: Range<usize> = chunk.start * d..chunk.end * d;
            let head = self.ranges.head.clone();
            let dhead = grads.part_mut(head.clone());
            let normed = Rows::Rounded(tape.normed_out.part(hidden.clone()));
            device.linear_backward_weight(dhead, dlogits(), normed, &self.head, accumulate);
            accumulate = true;
            let dhidden = acts.normed_out.part_mut(hidden);
            device.linear_backward_input(dhidden, dlogits(), self.params.part(head), &self.head);
        }

        device.zero(acts.gathered.head_mut(n * d));
        device.rmsnorm_backward(
            acts.gathered.head_mut(n * d),
            grads.part_mut(self.ranges.norm.clone()),
            acts.normed_out.head(n * d),
            tape.gathered.head(n * d),
            self.params.part(self.ranges.norm.clone()),
            tape.rstd_out.head(n),
        );
        device.zero(acts.x.head_mut(t * d));
        device.gather_backward(acts.x.head_mut(t * d), acts.gathered.head(n * d), &batch.outputs);
        tape.grads = Some(acts);
    }

    /// From the gradient of a layer's output to that of its input, both in `tape.grads.x`.
    fn layer_backward(&self, layer: usize, batch: &Batch, tape: &mut Tape<D>, grads: &mut D::Buffer, accumulate: bool) {
        let Self { device, params, config, .. } = self;
        let (weights, ranges) = (&self.layers[layer], &self.ranges.layers[layer]);
        let (t, d, f, heads) = (batch.rows(), config.hidden_size, config.intermediate_size, config.heads());
        let (q_len, qkv_len) = (t * heads.q_width(), t * heads.qkv_width());
        let part = |range: &Range<usize>| params.part(range.clone());
        let mut acts = tape.grads.take().expect("a tape that keeps has gradients");
        let (x, _, saved, scratch) = tape.layer_mut(layer);

        // SwiGLU block. Its product and both normed inputs are cheaper to compute again than to keep.
        let dx = || Rows::Single(acts.x.head(t * d));
        device.linear_backward_input(acts.act.head_mut(t * f), dx(), part(&ranges.down), &weights.down);
        let (dgate_up, act) = (acts.gate_up.head_mut(t * 2 * f), &mut scratch.act);
        device.swiglu_backward(dgate_up, act.head_mut(t * f), acts.act.head(t * f), saved.gate_up.head(t * 2 * f), f);
        let dw = grads.part_mut(ranges.down.clone());
        device.linear_backward_weight(dw, dx(), Rows::Rounded(act.head(t * f)), &weights.down, accumulate);
        let (normed, mid, eps) = (&mut scratch.normed, &saved.mid, config.rms_norm_eps);
        let rstd = saved.rstd_mlp.head_mut(t);
        device.rmsnorm_forward(normed.head_mut(t * d), rstd, mid.head(t * d), part(&ranges.mlp_norm), eps);
        let dgate_up = || Rows::Rounded(acts.gate_up.head(t * 2 * f));
        let dw = grads.part_mut(ranges.gate_up.clone());
        device.linear_backward_weight(dw, dgate_up(), Rows::Rounded(normed.head(t * d)), &weights.gate_up, accumulate);
        let dnormed = acts.normed.head_mut(t * d);
        device.linear_backward_input(dnormed, dgate_up(), part(&ranges.gate_up), &weights.gate_up);
        device.rmsnorm_backward(
            acts.x.head_mut(t * d),
            grads.part_mut(ranges.mlp_norm.clone()),
            acts.normed.head(t * d),
            mid.head(t * d),
            part(&ranges.mlp_norm),
            saved.rstd_mlp.head(t),
        );

        // Attention block.
        let dx = || Rows::Single(acts.x.head(t * d));
        let dw = grads.part_mut(ranges.o.clone());
        device.linear_backward_weight(dw, dx(), Rows::Single(saved.attn.head(q_len)), &weights.o, accumulate);
        device.linear_backward_input(acts.attn.head_mut(q_len), dx(), part(&ranges.o), &weights.o);
        device.attention_backward(
            self.precision,
            acts.qkv.head_mut(qkv_len),
            acts.attn.head(q_len),
            saved.attn.head(q_len),
            saved.qkv.head(qkv_len),
            saved.lse.head(t * heads.num_heads),
            &batch.spans,
            heads,
        );
        device.rope_backward(acts.qkv.head_mut(qkv_len), self.rope.head(self.rope.len()), &batch.positions, heads);
        let rstd = saved.rstd_attn.head_mut(t);
        device.rmsnorm_forward(normed.head_mut(t * d), rstd, x.head(t * d), part(&ranges.attn_norm), eps);
        let dqkv = || Rows::Single(acts.qkv.head(qkv_len));
        let dw = grads.part_mut(ranges.qkv.clone());
        device.linear_backward_weight(dw, dqkv(), Rows::Rounded(normed.head(t * d)), &weights.qkv, accumulate);
        device.linear_backward_input(acts.normed.head_mut(t * d), dqkv(), part(&ranges.qkv), &weights.qkv);
        device.rmsnorm_backward(
            acts.x.head_mut(t * d),
            grads.part_mut(ranges.attn_norm.clone()),
            acts.normed.head(t * d),
            x.head(t * d),
            part(&ranges.attn_norm),
            saved.rstd_attn.head(t),
        );
        tape.grads = Some(acts);
    }
}
