//! One layer: attention, then the gated layer, each with its backward below its forward.

use topspin_kernels::device::{Buffer, Device, Rows};

use super::Decoder;
use super::tape::{Grads, LayerParts, LayerTape, Scratch, Tape};
use crate::batch::Batch;

impl<D: Device> Decoder<D> {
    /// From a layer's input in the tape to the next layer's, storing keys and values at `kv_layer`.
    pub(super) fn layer_forward(
        &self,
        layer: usize,
        batch: &Batch,
        kv: &mut D::Kv,
        kv_layer: usize,
        tape: &mut Tape<D>,
    ) {
        let LayerParts { x, next, saved, scratch, rope } = tape.layer_mut(layer);
        let rope = self.rotary_table(layer).map(|table| &rope[table]);
        self.attention_block_forward(layer, batch, kv, kv_layer, rope, x, saved, scratch);
        self.mlp_block_forward(layer, batch.rows(), next, saved, scratch);
    }

    /// From the gradient of a layer's output to that of its input, both in `tape.grads.x`.
    pub(super) fn layer_backward(
        &self,
        layer: usize,
        batch: &Batch,
        tape: &mut Tape<D>,
        grads: &mut D::Buffer,
        accumulate: bool,
    ) {
        let mut acts = tape.grads.take().expect("a tape that keeps has gradients");
        let LayerParts { x, saved, scratch, rope, .. } = tape.layer_mut(layer);
        let rope = self.rotary_table(layer).map(|table| &rope[table]);
        self.mlp_block_backward(layer, batch.rows(), saved, scratch, &mut acts, grads, accumulate);
        self.attention_block_backward(layer, batch, rope, x, saved, scratch, &mut acts, grads, accumulate);
        tape.grads = Some(acts);
    }

    /// From the layer's input `x` to `saved.mid`.
    fn attention_block_forward(
        &self,
        layer: usize,
        batch: &Batch,
        kv: &mut D::Kv,
        kv_layer: usize,
        rope: Option<&D::Buffer>,
        x: &D::Buffer,
        saved: &mut LayerTape<D>,
        scratch: &mut Scratch<D>,
    ) {
        let Self { device, config, .. } = self;
        let (ranges, weights) = (&self.ranges.layers[layer], &self.layers[layer].attn);
        let (t, heads) = (batch.rows(), config.heads());
        let (q_len, qkv_len) = (t * heads.q_width(), t * heads.qkv_width());

        let input = self.block_input_forward(t, &ranges.attn, x, &mut scratch.normed, &mut saved.rstd_attn);
        let product = if ranges.head_norm.is_some() { &mut saved.qkv_product } else { &mut saved.qkv };
        self.linear_forward(product, qkv_len, input, &ranges.attn.first, &weights.first, None);
        if let Some(weight) = &ranges.head_norm {
            device.head_norm_forward(
                saved.qkv.head_mut(qkv_len),
                saved.rstd_heads.head_mut(t * config.head_norm_parts()),
                saved.qkv_product.head(qkv_len),
                self.part(weight),
                heads,
                config.norm(),
            );
        }
        if let Some(table) = rope {
            let table = table.head(table.len());
            device.rope_forward(saved.qkv.head_mut(qkv_len), table, &batch.positions, heads, config.rotary_dim());
        }
        device.kv_append(kv, kv_layer, saved.qkv.head(qkv_len), &batch.slots);
        device.attention_forward(
            saved.attn.head_mut(q_len),
            saved.lse.head_mut(t * heads.num_heads),
            saved.qkv.head(qkv_len),
            kv,
            kv_layer,
            &batch.spans,
            config.attention(layer),
        );
        let branch = saved.attn_branch.as_mut().unwrap_or(&mut scratch.branch);
        let act = Rows::Single(saved.attn.head(q_len));
        self.block_output_forward(t, &ranges.attn, &weights.last, act, x, &mut saved.mid, branch);
    }

    /// From the gradient of `saved.mid` to that of `x`, both in `acts.x`.
    fn attention_block_backward(
        &self,
        layer: usize,
        batch: &Batch,
        rope: Option<&D::Buffer>,
        x: &D::Buffer,
        saved: &mut LayerTape<D>,
        scratch: &mut Scratch<D>,
        acts: &mut Grads<D>,
        grads: &mut D::Buffer,
        accumulate: bool,
    ) {
        let Self { device, config, .. } = self;
        let (ranges, weights) = (&self.ranges.layers[layer], &self.layers[layer].attn);
        let (t, d, heads) = (batch.rows(), config.hidden_size, config.heads());
        let (q_len, qkv_len) = (t * heads.q_width(), t * heads.qkv_width());

        let branch = saved.attn_branch.as_ref().unwrap_or(&scratch.branch);
        let dy = self.block_output_backward(t, &ranges.attn, &acts.x, &mut acts.branch, branch, grads);
        let (dy, o) = (|| Rows::Single(dy.head(t * d)), &ranges.attn.last.weight);
        let dw = grads.part_mut(o.arena());
        device.linear_backward_weight(dw, dy(), Rows::Single(saved.attn.head(q_len)), &weights.last, accumulate);
        device.linear_backward_input(acts.attn.head_mut(q_len), dy(), self.matrix(o), &weights.last);
        device.attention_backward(
            self.precision,
            acts.qkv.head_mut(qkv_len),
            acts.attn.head(q_len),
            saved.attn.head(q_len),
            saved.qkv.head(qkv_len),
            saved.lse.head(t * heads.num_heads),
            &batch.spans,
            heads,
            config.attention(layer),
        );
        if let Some(table) = rope {
            let table = table.head(table.len());
            device.rope_backward(acts.qkv.head_mut(qkv_len), table, &batch.positions, heads, config.rotary_dim());
        }
        if let Some(weight) = &ranges.head_norm {
            device.head_norm_backward(
                acts.qkv.head_mut(qkv_len),
                grads.part_mut(weight.clone()),
                saved.qkv_product.head(qkv_len),
                self.part(weight),
                saved.rstd_heads.head(t * config.head_norm_parts()),
                heads,
                config.norm(),
            );
        }
        let (dqkv, qkv) = (|| Rows::Single(acts.qkv.head(qkv_len)), &ranges.attn.first);
        if let Some(bias) = &qkv.bias {
            device.bias_backward(grads.part_mut(bias.clone()), dqkv());
        }
        // The normed input is cheaper to compute again than to keep.
        let input = self.block_input_forward(t, &ranges.attn, x, &mut scratch.normed, &mut saved.rstd_attn);
        let dw = grads.part_mut(qkv.weight.arena());
        device.linear_backward_weight(dw, dqkv(), input, &weights.first, accumulate);
        device.linear_backward_input(acts.normed.head_mut(t * d), dqkv(), self.matrix(&qkv.weight), &weights.first);
        self.block_input_backward(t, &ranges.attn, &mut acts.x, &acts.normed, grads, x, &saved.rstd_attn);
    }

    /// From `saved.mid` to the next layer's input.
    fn mlp_block_forward(
        &self,
        layer: usize,
        rows: usize,
        next: &mut D::Buffer,
        saved: &mut LayerTape<D>,
        scratch: &mut Scratch<D>,
    ) {
        let (ranges, weights) = (&self.ranges.layers[layer].mlp, &self.layers[layer].mlp);
        let f = self.config.intermediate_size;
        let input = self.block_input_forward(rows, ranges, &saved.mid, &mut scratch.normed, &mut saved.rstd_mlp);
        self.linear_forward(&mut saved.gate_up, rows * 2 * f, input, &ranges.first, &weights.first, None);
        let (act, gate_up) = (scratch.act.head_mut(rows * f), saved.gate_up.head(rows * 2 * f));
        self.device.glu_forward(act, gate_up, f, self.config.activation);
        let branch = saved.mlp_branch.as_mut().unwrap_or(&mut scratch.branch);
        let act = Rows::Rounded(scratch.act.head(rows * f));
        self.block_output_forward(rows, ranges, &weights.last, act, &saved.mid, next, branch);
    }

    /// From the gradient of the next layer's input to that of `saved.mid`, both in `acts.x`.
    fn mlp_block_backward(
        &self,
        layer: usize,
        rows: usize,
        saved: &mut LayerTape<D>,
        scratch: &mut Scratch<D>,
        acts: &mut Grads<D>,
        grads: &mut D::Buffer,
        accumulate: bool,
    ) {
        let Self { device, config, .. } = self;
        let (ranges, weights) = (&self.ranges.layers[layer].mlp, &self.layers[layer].mlp);
        let (d, f) = (config.hidden_size, config.intermediate_size);

        let branch = saved.mlp_branch.as_ref().unwrap_or(&scratch.branch);
        let dy = self.block_output_backward(rows, ranges, &acts.x, &mut acts.branch, branch, grads);
        let (dy, down) = (|| Rows::Single(dy.head(rows * d)), &ranges.last.weight);
        device.linear_backward_input(acts.act.head_mut(rows * f), dy(), self.matrix(down), &weights.last);
        // The gated product and the normed input are cheaper to compute again than to keep.
        device.glu_backward(
            acts.gate_up.head_mut(rows * 2 * f),
            scratch.act.head_mut(rows * f),
            acts.act.head(rows * f),
            saved.gate_up.head(rows * 2 * f),
            f,
            config.activation,
        );
        let (dw, act) = (grads.part_mut(down.arena()), Rows::Rounded(scratch.act.head(rows * f)));
        device.linear_backward_weight(dw, dy(), act, &weights.last, accumulate);
        let (dgate_up, gate_up) = (|| Rows::Rounded(acts.gate_up.head(rows * 2 * f)), &ranges.first);
        if let Some(bias) = &gate_up.bias {
            device.bias_backward(grads.part_mut(bias.clone()), dgate_up());
        }
        let input = self.block_input_forward(rows, ranges, &saved.mid, &mut scratch.normed, &mut saved.rstd_mlp);
        let dw = grads.part_mut(gate_up.weight.arena());
        device.linear_backward_weight(dw, dgate_up(), input, &weights.first, accumulate);
        let dinput = acts.normed.head_mut(rows * d);
        device.linear_backward_input(dinput, dgate_up(), self.matrix(&gate_up.weight), &weights.first);
        self.block_input_backward(rows, ranges, &mut acts.x, &acts.normed, grads, &saved.mid, &saved.rstd_mlp);
    }
}
