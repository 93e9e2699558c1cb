//! How a block stands in the residual stream: what it reads of it, and how it adds to it.

use topspin_kernels::device::{Buffer, Device, Plus, Rows};

use super::low_rank::{LowRankForward, LowRankGrads};
use super::ranges::{Block, Linear};
use super::{Decoder, DropoutDraw, LinearWeights};

/// What a block adds, where it is not added as it is made.
pub(super) struct Branch<D: Device> {
    /// The block's product, `[T, D]`.
    pub y: D::Buffer,
    /// Of the norm behind it, `[T]`.
    pub rstd: D::Buffer,
}

impl<D: Device> Branch<D> {
    /// Room for `rows` of `width`.
    pub(super) fn new(device: &D, rows: usize, width: usize) -> Self {
        Self { y: device.alloc(rows * width), rstd: device.alloc(rows) }
    }
}

impl<D: Device> Decoder<D> {
    /// `y = plus + x · wᵀ + bias`, with what an adapter adds; `len` elements of `y`.
    pub(super) fn linear_forward(
        &self,
        y: &mut D::Buffer,
        len: usize,
        x: Rows<D>,
        linear: &Linear,
        weights: &LinearWeights<D>,
        plus: Plus<D::Buffer>,
        low_rank: LowRankForward<D>,
    ) {
        self.device.linear_forward(y.head_mut(len), x.clone(), self.matrix(&linear.weight), &weights.base, plus);
        if let Some(adapter) = &weights.adapter {
            adapter.forward(&self.device, self.params(), y, len, x, low_rank);
        }
        if let Some(bias) = &linear.bias {
            self.device.bias_forward(y.head_mut(len), self.part(bias));
        }
    }

    /// The gradient `dx` of what the product reads, of which there are `len` elements.
    pub(super) fn linear_backward_input(
        &self,
        dx: &mut D::Buffer,
        len: usize,
        dy: Rows<D>,
        linear: &Linear,
        weights: &LinearWeights<D>,
        low_rank: &mut LowRankGrads<D>,
        draw: Option<DropoutDraw>,
    ) {
        let w = self.matrix(&linear.weight);
        self.device.linear_backward_input(dx.head_mut(len), dy.clone(), w, &weights.base, false);
        if let Some(adapter) = &weights.adapter {
            adapter.backward_input(&self.device, self.params(), dx, len, dy, low_rank, draw);
        }
    }

    /// The gradients of what is trained of the product, after [`linear_backward_input`](Self::linear_backward_input).
    pub(super) fn linear_backward_weight(
        &self,
        grads: &mut D::Buffer,
        dy: Rows<D>,
        x: Rows<D>,
        linear: &Linear,
        weights: &LinearWeights<D>,
        low_rank: &mut LowRankGrads<D>,
        forward: LowRankForward<D>,
        accumulate: bool,
    ) {
        if let Some(adapter) = &weights.adapter {
            adapter.backward_weight(&self.device, grads, dy.clone(), x.clone(), low_rank, forward, accumulate);
        }
        if let Some(dbias) = linear.bias.as_ref().and_then(|bias| self.grad(grads, bias)) {
            self.device.bias_backward(dbias, dy.clone());
        }
        if let Some(dw) = self.matrix_grad(grads, &linear.weight) {
            self.device.linear_backward_weight(dw, dy, x, &weights.base, accumulate);
        }
    }

    /// What the block's first product reads: the residual stream `x`, normed where the block norms before.
    pub(super) fn block_input_forward<'a>(
        &self,
        rows: usize,
        block: &Block,
        x: &'a D::Buffer,
        normed: &'a mut D::Rounded,
        rstd: &mut D::Buffer,
    ) -> Rows<'a, D> {
        let len = rows * self.config.hidden_size;
        let Some(weight) = &block.norm else { return Rows::Single(x.head(len)) };
        let (weight, norm) = (self.part(weight), self.config.norm());
        self.device.rmsnorm_forward(normed.head_mut(len), rstd.head_mut(rows), x.head(len), weight, norm);
        Rows::Rounded(normed.head(len))
    }

    /// Adds to `dx` what comes from the gradient of what the first product reads.
    pub(super) fn block_input_backward(
        &self,
        rows: usize,
        block: &Block,
        dx: &mut D::Buffer,
        dinput: &D::Buffer,
        grads: &mut D::Buffer,
        x: &D::Buffer,
        rstd: &D::Buffer,
    ) {
        let len = rows * self.config.hidden_size;
        let Some(weight) = &block.norm else { return self.device.add(dx.head_mut(len), dinput.head(len)) };
        self.device.rmsnorm_backward(
            dx.head_mut(len),
            self.grad(grads, weight),
            dinput.head(len),
            x.head(len),
            self.part(weight),
            rstd.head(rows),
            self.config.norm(),
        );
    }

    /// `next`: the residual stream `x`, plus the block's last product of `act`, normed or weighted as the model has it.
    pub(super) fn block_output_forward(
        &self,
        rows: usize,
        block: &Block,
        weights: &LinearWeights<D>,
        act: Rows<D>,
        x: &D::Buffer,
        next: &mut D::Buffer,
        branch: &mut Branch<D>,
        low_rank: LowRankForward<D>,
    ) {
        let (len, multiplier) = (rows * self.config.hidden_size, self.config.residual_multiplier);
        match &block.post_norm {
            None if multiplier == 1.0 => {
                self.linear_forward(next, len, act, &block.last, weights, Plus::Matrix(x.head(len)), low_rank);
            }
            None => {
                self.linear_forward(&mut branch.y, len, act, &block.last, weights, Plus::Nothing, low_rank);
                self.device.residual_forward(next.head_mut(len), x.head(len), branch.y.head(len), multiplier);
            }
            Some(post_norm) => {
                self.linear_forward(&mut branch.y, len, act, &block.last, weights, Plus::Nothing, low_rank);
                self.device.rmsnorm_add_forward(
                    next.head_mut(len),
                    branch.rstd.head_mut(rows),
                    branch.y.head(len),
                    self.part(post_norm),
                    x.head(len),
                    self.config.norm(),
                );
            }
        }
    }

    /// The gradient of the block's last product from that of the residual stream behind it, `dx`, which stays the gradient of
    /// the stream before. It is `dx` itself, or made in `dbranch`.
    pub(super) fn block_output_backward<'a>(
        &self,
        rows: usize,
        block: &Block,
        dx: &'a D::Buffer,
        dbranch: &'a mut D::Buffer,
        branch: &Branch<D>,
        grads: &mut D::Buffer,
    ) -> &'a D::Buffer {
        let (len, multiplier) = (rows * self.config.hidden_size, self.config.residual_multiplier);
        match &block.post_norm {
            None if multiplier == 1.0 => dx,
            None => {
                self.device.residual_backward(dbranch.head_mut(len), dx.head(len), multiplier);
                dbranch
            }
            Some(post_norm) => {
                self.device.zero(dbranch.head_mut(len));
                self.device.rmsnorm_backward(
                    dbranch.head_mut(len),
                    self.grad(grads, post_norm),
                    dx.head(len),
                    branch.y.head(len),
                    self.part(post_norm),
                    branch.rstd.head(rows),
                    self.config.norm(),
                );
                dbranch
            }
        }
    }
}
