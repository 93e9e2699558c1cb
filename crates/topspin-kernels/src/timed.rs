//! A device that tells where the time goes, and which matrix products it was asked for.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::device::{
    Activation, AdamW, Attention, Device, Dropout, HeadShape, In, LogitScale, Matrix, Norm, Out, Plus, RmsProp, Rows,
    Span, Use,
};
use crate::gemm::Precision;
use crate::memory::Memory;
use crate::rate::Product;
use crate::stored::Stored;

/// Seconds by operation, under the name that the operation has in [`Device`].
pub type Seconds = BTreeMap<&'static str, f64>;

/// How often each matrix product was computed.
pub type Products = BTreeMap<Product, u64>;

/// What is counted.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Time in operations.
    pub seconds: Seconds,
    /// Products of the linear layers, forward and backward.
    pub products: Products,
}

/// A device, with the time that each of its operations takes. Clones count together.
///
/// Time is taken from a call to its return, so the device must be done by then.
#[derive(Clone, Debug)]
pub struct Timed<D> {
    device: D,
    counts: Arc<Mutex<Counts>>,
}

/// A weight of the device and its shape.
pub struct TimedWeight<W> {
    weight: W,
    n: usize,
    k: usize,
}

impl<D> Timed<D> {
    /// A device that has not worked yet.
    pub fn new(device: D) -> Self {
        Self { device, counts: Arc::default() }
    }

    /// What was counted since the last call of this.
    pub fn take(&self) -> Counts {
        std::mem::take(&mut *self.lock())
    }

    /// The device itself, uncounted.
    pub fn inner(&self) -> &D {
        &self.device
    }

    fn time<R>(&self, operation: &'static str, work: impl FnOnce(&D) -> R) -> R {
        let start = Instant::now();
        let result = work(&self.device);
        let elapsed = start.elapsed().as_secs_f64();
        *self.lock().seconds.entry(operation).or_default() += elapsed;
        result
    }

    fn count(&self, rows: usize, columns: usize, depth: usize) {
        let product = Product { rows, columns, depth };
        if product.flops() > 0 {
            *self.lock().products.entry(product).or_default() += 1;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The same rows for the device that is timed.
fn inner<'a, D: Device>(rows: Rows<'a, Timed<D>>) -> Rows<'a, D> {
    match rows {
        Rows::Single(rows) => Rows::Single(rows),
        Rows::Rounded(rows) => Rows::Rounded(rows),
    }
}

/// The same matrix for the device that is timed.
fn inner_matrix<'a, D: Device>(matrix: Matrix<'a, Timed<D>>) -> Matrix<'a, D> {
    match matrix {
        Matrix::Single(matrix) => Matrix::Single(matrix),
        Matrix::Stored(matrix) => Matrix::Stored(matrix),
    }
}

impl<D: Device> Device for Timed<D> {
    type Buffer = D::Buffer;
    type Rounded = D::Rounded;
    type Weight = TimedWeight<D::Weight>;
    type Stored = D::Stored;
    type Kv = D::Kv;

    fn alloc(&self, len: usize) -> Self::Buffer {
        self.device.alloc(len)
    }

    fn alloc_rounded(&self, precision: Precision, len: usize) -> Self::Rounded {
        self.device.alloc_rounded(precision, len)
    }

    fn upload(&self, from: Memory<f32>) -> Self::Buffer {
        self.device.upload(from)
    }

    fn store(&self, matrix: Stored) -> Self::Stored {
        self.device.store(matrix)
    }

    fn write(&self, to: Out<Self::Buffer>, from: &[f32]) {
        self.time("write", |device| device.write(to, from))
    }

    fn read(&self, from: In<Self::Buffer>, to: &mut [f32]) {
        self.time("read", |device| device.read(from, to))
    }

    fn host<'a>(&self, from: In<'a, Self::Buffer>) -> Cow<'a, [f32]> {
        self.time("host", |device| device.host(from))
    }

    fn zero(&self, to: Out<Self::Buffer>) {
        self.time("zero", |device| device.zero(to))
    }

    fn embedding_forward(&self, out: Out<Self::Buffer>, table: Matrix<Self>, ids: &[u32], scale: f32) {
        self.time("embedding_forward", |device| device.embedding_forward(out, inner_matrix(table), ids, scale))
    }

    fn embedding_backward(&self, dtable: Out<Self::Buffer>, dout: In<Self::Buffer>, ids: &[u32], scale: f32) {
        self.time("embedding_backward", |device| device.embedding_backward(dtable, dout, ids, scale))
    }

    fn gather_forward(&self, out: Out<Self::Buffer>, x: In<Self::Buffer>, rows: &[u32]) {
        self.time("gather_forward", |device| device.gather_forward(out, x, rows))
    }

    fn gather_backward(&self, dx: Out<Self::Buffer>, dout: In<Self::Buffer>, rows: &[u32]) {
        self.time("gather_backward", |device| device.gather_backward(dx, dout, rows))
    }

    fn rmsnorm_forward(
        &self,
        y: Out<Self::Rounded>,
        rstd: Out<Self::Buffer>,
        x: In<Self::Buffer>,
        w: In<Self::Buffer>,
        norm: Norm,
    ) {
        self.time("rmsnorm_forward", |device| device.rmsnorm_forward(y, rstd, x, w, norm))
    }

    fn rmsnorm_add_forward(
        &self,
        y: Out<Self::Buffer>,
        rstd: Out<Self::Buffer>,
        x: In<Self::Buffer>,
        w: In<Self::Buffer>,
        residual: In<Self::Buffer>,
        norm: Norm,
    ) {
        self.time("rmsnorm_add_forward", |device| device.rmsnorm_add_forward(y, rstd, x, w, residual, norm))
    }

    fn rmsnorm_backward(
        &self,
        dx: Out<Self::Buffer>,
        dw: Option<Out<Self::Buffer>>,
        dy: In<Self::Buffer>,
        x: In<Self::Buffer>,
        w: In<Self::Buffer>,
        rstd: In<Self::Buffer>,
        norm: Norm,
    ) {
        self.time("rmsnorm_backward", |device| device.rmsnorm_backward(dx, dw, dy, x, w, rstd, norm))
    }

    fn head_norm_forward(
        &self,
        y: Out<Self::Buffer>,
        rstd: Out<Self::Buffer>,
        x: In<Self::Buffer>,
        w: In<Self::Buffer>,
        heads: HeadShape,
        norm: Norm,
    ) {
        self.time("head_norm_forward", |device| device.head_norm_forward(y, rstd, x, w, heads, norm))
    }

    fn head_norm_backward(
        &self,
        dqkv: Out<Self::Buffer>,
        dw: Option<Out<Self::Buffer>>,
        x: In<Self::Buffer>,
        w: In<Self::Buffer>,
        rstd: In<Self::Buffer>,
        heads: HeadShape,
        norm: Norm,
    ) {
        self.time("head_norm_backward", |device| device.head_norm_backward(dqkv, dw, x, w, rstd, heads, norm))
    }

    fn weight(&self, precision: Precision, w: Matrix<Self>, n: usize, k: usize, for_use: Use) -> Self::Weight {
        TimedWeight { weight: self.device.weight(precision, inner_matrix(w), n, k, for_use), n, k }
    }

    fn weight_update(&self, weight: &mut Self::Weight, w: In<Self::Buffer>) {
        self.time("weight_update", |device| device.weight_update(&mut weight.weight, w))
    }

    fn linear_forward(
        &self,
        y: Out<Self::Buffer>,
        x: Rows<Self>,
        w: Matrix<Self>,
        weight: &Self::Weight,
        plus: Plus<Self::Buffer>,
    ) {
        self.count(y.range.len() / weight.n, weight.n, weight.k);
        self.time("linear_forward", |device| device.linear_forward(y, inner(x), inner_matrix(w), &weight.weight, plus))
    }

    fn linear_backward_input(
        &self,
        dx: Out<Self::Buffer>,
        dy: Rows<Self>,
        w: Matrix<Self>,
        weight: &Self::Weight,
        accumulate: bool,
    ) {
        self.count(dy.len() / weight.n, weight.k, weight.n);
        self.time("linear_backward_input", |device| {
            device.linear_backward_input(dx, inner(dy), inner_matrix(w), &weight.weight, accumulate)
        })
    }

    fn linear_backward_weight(
        &self,
        dw: Out<Self::Buffer>,
        dy: Rows<Self>,
        x: Rows<Self>,
        weight: &Self::Weight,
        accumulate: bool,
    ) {
        self.count(weight.n, weight.k, dy.len() / weight.n);
        self.time("linear_backward_weight", |device| {
            device.linear_backward_weight(dw, inner(dy), inner(x), &weight.weight, accumulate)
        })
    }

    fn columns_forward(
        &self,
        to: Out<Self::Buffer>,
        width: usize,
        columns: Range<usize>,
        from: In<Self::Buffer>,
        scale: f32,
    ) {
        self.time("columns_forward", |device| device.columns_forward(to, width, columns, from, scale))
    }

    fn columns_backward(
        &self,
        dfrom: Out<Self::Buffer>,
        dto: In<Self::Buffer>,
        width: usize,
        columns: Range<usize>,
        scale: f32,
    ) {
        self.time("columns_backward", |device| device.columns_backward(dfrom, dto, width, columns, scale))
    }

    fn dropout_forward(&self, y: Out<Self::Rounded>, x: Rows<Self>, width: usize, dropout: Dropout) {
        self.time("dropout_forward", |device| device.dropout_forward(y, inner(x), width, dropout))
    }

    fn dropout_backward(&self, dx: Out<Self::Buffer>, dy: In<Self::Buffer>, width: usize, dropout: Dropout) {
        self.time("dropout_backward", |device| device.dropout_backward(dx, dy, width, dropout))
    }

    fn bias_forward(&self, y: Out<Self::Buffer>, bias: In<Self::Buffer>) {
        self.time("bias_forward", |device| device.bias_forward(y, bias))
    }

    fn bias_backward(&self, dbias: Out<Self::Buffer>, dy: Rows<Self>) {
        self.time("bias_backward", |device| device.bias_backward(dbias, inner(dy)))
    }

    fn residual_forward(&self, y: Out<Self::Buffer>, residual: In<Self::Buffer>, x: In<Self::Buffer>, multiplier: f32) {
        self.time("residual_forward", |device| device.residual_forward(y, residual, x, multiplier))
    }

    fn residual_backward(&self, dx: Out<Self::Buffer>, dy: In<Self::Buffer>, multiplier: f32) {
        self.time("residual_backward", |device| device.residual_backward(dx, dy, multiplier))
    }

    fn add(&self, to: Out<Self::Buffer>, x: In<Self::Buffer>) {
        self.time("add", |device| device.add(to, x))
    }

    fn rope_forward(
        &self,
        qkv: Out<Self::Buffer>,
        table: In<Self::Buffer>,
        positions: &[u32],
        heads: HeadShape,
        dim: usize,
    ) {
        self.time("rope_forward", |device| device.rope_forward(qkv, table, positions, heads, dim))
    }

    fn rope_backward(
        &self,
        dqkv: Out<Self::Buffer>,
        table: In<Self::Buffer>,
        positions: &[u32],
        heads: HeadShape,
        dim: usize,
    ) {
        self.time("rope_backward", |device| device.rope_backward(dqkv, table, positions, heads, dim))
    }

    fn kv(&self, precision: Precision, layers: usize, slots: usize, heads: HeadShape) -> Self::Kv {
        self.device.kv(precision, layers, slots, heads)
    }

    fn kv_append(&self, kv: &mut Self::Kv, layer: usize, qkv: In<Self::Buffer>, slots: &[u32]) {
        self.time("kv_append", |device| device.kv_append(kv, layer, qkv, slots))
    }

    fn attention_forward(
        &self,
        out: Out<Self::Buffer>,
        lse: Out<Self::Buffer>,
        qkv: In<Self::Buffer>,
        kv: &Self::Kv,
        layer: usize,
        spans: &[Span],
        attention: Attention,
    ) {
        self.time("attention_forward", |device| device.attention_forward(out, lse, qkv, kv, layer, spans, attention))
    }

    fn attention_backward(
        &self,
        precision: Precision,
        dqkv: Out<Self::Buffer>,
        dout: In<Self::Buffer>,
        out: In<Self::Buffer>,
        qkv: In<Self::Buffer>,
        lse: In<Self::Buffer>,
        spans: &[Span],
        heads: HeadShape,
        attention: Attention,
    ) {
        self.time("attention_backward", |device| {
            device.attention_backward(precision, dqkv, dout, out, qkv, lse, spans, heads, attention)
        })
    }

    fn glu_forward(&self, y: Out<Self::Rounded>, gate_up: In<Self::Buffer>, width: usize, activation: Activation) {
        self.time("glu_forward", |device| device.glu_forward(y, gate_up, width, activation))
    }

    fn glu_backward(
        &self,
        dgate_up: Out<Self::Rounded>,
        y: Out<Self::Rounded>,
        dy: In<Self::Buffer>,
        gate_up: In<Self::Buffer>,
        width: usize,
        activation: Activation,
    ) {
        self.time("glu_backward", |device| device.glu_backward(dgate_up, y, dy, gate_up, width, activation))
    }

    fn logit_scale_forward(&self, logits: Out<Self::Buffer>, scale: LogitScale) {
        self.time("logit_scale_forward", |device| device.logit_scale_forward(logits, scale))
    }

    fn logprob_forward(
        &self,
        logp: Out<Self::Buffer>,
        lse: Out<Self::Buffer>,
        logits: In<Self::Buffer>,
        targets: &[u32],
    ) {
        self.time("logprob_forward", |device| device.logprob_forward(logp, lse, logits, targets))
    }

    fn logprob_backward(
        &self,
        logits: Out<Self::Buffer>,
        dlogp: In<Self::Buffer>,
        lse: In<Self::Buffer>,
        targets: &[u32],
        scale: LogitScale,
    ) {
        self.time("logprob_backward", |device| device.logprob_backward(logits, dlogp, lse, targets, scale))
    }

    fn adamw_step(
        &self,
        params: Out<Self::Buffer>,
        first: Out<Self::Buffer>,
        second: Out<Self::Buffer>,
        grads: In<Self::Buffer>,
        grad_scale: f32,
        settings: AdamW,
    ) {
        self.time("adamw_step", |device| device.adamw_step(params, first, second, grads, grad_scale, settings))
    }

    fn rmsprop_step(
        &self,
        params: Out<Self::Buffer>,
        square: Out<Self::Buffer>,
        grads: In<Self::Buffer>,
        grad_scale: f32,
        settings: RmsProp,
    ) {
        self.time("rmsprop_step", |device| device.rmsprop_step(params, square, grads, grad_scale, settings))
    }

    fn sum_squares(&self, x: In<Self::Buffer>) -> f64 {
        self.time("sum_squares", |device| device.sum_squares(x))
    }
}
