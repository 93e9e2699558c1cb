//! The processor as a [`Device`]: plain memory, vector code by run-time detection, threads by rayon.
//!
//! Work runs on rayon's current pool: a caller that wants another number of threads installs its own.

mod attention;
mod bias;
mod columns;
mod dropout;
mod elementwise;
mod embedding;
mod kv;
mod logprob;
pub mod math;
mod norm;
mod optimizer;
mod parallel;
mod rounded;

use std::borrow::Cow;
use std::ops::Range;

use rayon::prelude::*;

use crate::device::{
    Activation, AdamW, Attention, Buffer, Device, Dropout, HeadShape, In, LogitScale, Matrix, Norm, Out, Plus, RmsProp,
    Rows, Span, Use,
};
use crate::gemm::{self, Elements, Numbers, Precision, Weight};
use crate::memory;
use crate::simd::Level;
use crate::stored::Stored;
pub use kv::KvStore;
use rounded::NumbersMut;
pub use rounded::Rounded;

/// The processor.
#[derive(Clone, Copy, Debug)]
pub struct Cpu {
    level: Level,
}

impl Cpu {
    /// The processor with the best vector instructions that it has.
    pub fn new() -> Self {
        Self::with_level(Level::detect())
    }

    /// The processor with the vector instructions of `level`.
    ///
    /// # Panics
    /// If the level is not available here.
    pub fn with_level(level: Level) -> Self {
        Self { level: level.verified() }
    }

    /// The vector instructions in use.
    pub fn level(&self) -> Level {
        self.level
    }
}

impl Default for Cpu {
    fn default() -> Self {
        Self::new()
    }
}

type Memory = memory::Memory<f32>;

impl Buffer for Memory {
    fn len(&self) -> usize {
        <[f32]>::len(self)
    }
}

impl<'a> In<'a, Memory> {
    fn get(self) -> &'a [f32] {
        &self.buffer[self.range]
    }
}

impl<'a> Out<'a, Memory> {
    fn get(self) -> &'a mut [f32] {
        &mut self.buffer[self.range]
    }
}

impl<'a> Plus<'a, Memory> {
    fn get(self) -> gemm::Plus<'a> {
        match self {
            Plus::Nothing => gemm::Plus::Nothing,
            Plus::Result => gemm::Plus::Result,
            Plus::Matrix(matrix) => gemm::Plus::Matrix(matrix.get()),
        }
    }
}

/// Where a gradient goes: to what wants it, or nowhere.
fn wanted<'a>(gradient: Option<Out<'a, Memory>>, unwanted: &'a mut Memory, len: usize) -> &'a mut [f32] {
    match gradient {
        Some(gradient) => gradient.get(),
        None => unwanted.grown(len),
    }
}

impl<'a> Rows<'a, Cpu> {
    fn get(self) -> Numbers<'a> {
        match self {
            Rows::Single(rows) => Numbers::F32(rows.get()),
            Rows::Rounded(rows) => rows.get(),
        }
    }
}

impl<'a> Matrix<'a, Cpu> {
    fn get(self) -> Elements<'a> {
        match self {
            Matrix::Single(matrix) => Elements::Single(matrix.get()),
            Matrix::Stored(matrix) => Elements::Stored(matrix),
        }
    }
}

impl Device for Cpu {
    type Buffer = Memory;
    type Rounded = Rounded;
    type Weight = Weight;
    type Stored = Stored;
    type Kv = KvStore;

    fn alloc(&self, len: usize) -> Memory {
        Memory::zeroed(len)
    }

    fn alloc_rounded(&self, precision: Precision, len: usize) -> Rounded {
        Rounded::zeroed(precision, len)
    }

    fn upload(&self, from: Memory) -> Memory {
        from
    }

    fn store(&self, matrix: Stored) -> Stored {
        matrix
    }

    fn write(&self, to: Out<Memory>, from: &[f32]) {
        to.get().copy_from_slice(from);
    }

    fn read(&self, from: In<Memory>, to: &mut [f32]) {
        to.copy_from_slice(from.get());
    }

    fn host<'a>(&self, from: In<'a, Memory>) -> Cow<'a, [f32]> {
        Cow::Borrowed(from.get())
    }

    fn zero(&self, to: Out<Memory>) {
        to.get().par_chunks_mut(parallel::GRAIN).for_each(|part| part.fill(0.0));
    }

    fn embedding_forward(&self, out: Out<Memory>, table: Matrix<Self>, ids: &[u32], scale: f32) {
        match table {
            Matrix::Single(table) => embedding::gather_forward(out.get(), table.get(), ids, scale),
            Matrix::Stored(table) => embedding::gather_stored(self.level, out.get(), table, ids, scale),
        }
    }

    fn embedding_backward(&self, dtable: Out<Memory>, dout: In<Memory>, ids: &[u32], scale: f32) {
        embedding::gather_backward(dtable.get(), dout.get(), ids, scale);
    }

    fn gather_forward(&self, out: Out<Memory>, x: In<Memory>, rows: &[u32]) {
        embedding::gather_forward(out.get(), x.get(), rows, 1.0);
    }

    fn gather_backward(&self, dx: Out<Memory>, dout: In<Memory>, rows: &[u32]) {
        embedding::gather_backward(dx.get(), dout.get(), rows, 1.0);
    }

    fn rmsnorm_forward(&self, y: Out<Rounded>, rstd: Out<Memory>, x: In<Memory>, w: In<Memory>, norm: Norm) {
        let (rstd, x, w) = (rstd.get(), x.get(), w.get());
        match y.get() {
            NumbersMut::F32(y) => norm::rmsnorm_forward(self.level, y, rstd, x, w, norm),
            NumbersMut::Bf16(y) => norm::rmsnorm_forward(self.level, y, rstd, x, w, norm),
        }
    }

    fn rmsnorm_add_forward(
        &self,
        y: Out<Memory>,
        rstd: Out<Memory>,
        x: In<Memory>,
        w: In<Memory>,
        residual: In<Memory>,
        norm: Norm,
    ) {
        norm::rmsnorm_add_forward(self.level, y.get(), rstd.get(), x.get(), w.get(), residual.get(), norm);
    }

    fn rmsnorm_backward(
        &self,
        dx: Out<Memory>,
        dw: Option<Out<Memory>>,
        dy: In<Memory>,
        x: In<Memory>,
        w: In<Memory>,
        rstd: In<Memory>,
        norm: Norm,
    ) {
        let (mut unwanted, w) = (Memory::default(), w.get());
        let dw = wanted(dw, &mut unwanted, w.len());
        norm::rmsnorm_backward(self.level, dx.get(), dw, dy.get(), x.get(), w, rstd.get(), norm);
    }

    fn head_norm_forward(
        &self,
        y: Out<Memory>,
        rstd: Out<Memory>,
        x: In<Memory>,
        w: In<Memory>,
        heads: HeadShape,
        norm: Norm,
    ) {
        norm::head_norm_forward(self.level, y.get(), rstd.get(), x.get(), w.get(), heads, norm);
    }

    fn head_norm_backward(
        &self,
        dqkv: Out<Memory>,
        dw: Option<Out<Memory>>,
        x: In<Memory>,
        w: In<Memory>,
        rstd: In<Memory>,
        heads: HeadShape,
        norm: Norm,
    ) {
        let (mut unwanted, w) = (Memory::default(), w.get());
        let dw = wanted(dw, &mut unwanted, w.len());
        norm::head_norm_backward(self.level, dqkv.get(), dw, x.get(), w, rstd.get(), heads, norm);
    }

    fn weight(&self, precision: Precision, w: Matrix<Self>, n: usize, k: usize, for_use: Use) -> Weight {
        Weight::prepare(self.level, precision, w.get(), n, k, for_use)
    }

    fn weight_update(&self, weight: &mut Weight, w: In<Memory>) {
        weight.update(Elements::Single(w.get()));
    }

    fn linear_forward(&self, y: Out<Memory>, x: Rows<Self>, w: Matrix<Self>, weight: &Weight, plus: Plus<Memory>) {
        gemm::linear_forward(y.get(), x.get(), w.get(), weight, plus.get());
    }

    fn linear_backward_input(
        &self,
        dx: Out<Memory>,
        dy: Rows<Self>,
        w: Matrix<Self>,
        weight: &Weight,
        accumulate: bool,
    ) {
        gemm::linear_backward_input(dx.get(), dy.get(), w.get(), weight, accumulate);
    }

    fn linear_backward_weight(
        &self,
        dw: Out<Memory>,
        dy: Rows<Self>,
        x: Rows<Self>,
        weight: &Weight,
        accumulate: bool,
    ) {
        gemm::linear_backward_weight(dw.get(), dy.get(), x.get(), weight, accumulate);
    }

    fn columns_forward(&self, to: Out<Memory>, width: usize, columns: Range<usize>, from: In<Memory>, scale: f32) {
        columns::columns_forward(to.get(), width, columns, from.get(), scale);
    }

    fn columns_backward(&self, dfrom: Out<Memory>, dto: In<Memory>, width: usize, columns: Range<usize>, scale: f32) {
        columns::columns_backward(dfrom.get(), dto.get(), width, columns, scale);
    }

    fn dropout_forward(&self, y: Out<Rounded>, x: Rows<Self>, width: usize, dropout: Dropout) {
        match y.get() {
            NumbersMut::F32(y) => dropout::dropout_forward(self.level, y, x.get(), width, dropout),
            NumbersMut::Bf16(y) => dropout::dropout_forward(self.level, y, x.get(), width, dropout),
        }
    }

    fn dropout_backward(&self, dx: Out<Memory>, dy: In<Memory>, width: usize, dropout: Dropout) {
        dropout::dropout_backward(dx.get(), dy.get(), width, dropout);
    }

    fn bias_forward(&self, y: Out<Memory>, bias: In<Memory>) {
        bias::bias_forward(y.get(), bias.get());
    }

    fn bias_backward(&self, dbias: Out<Memory>, dy: Rows<Self>) {
        bias::bias_backward(dbias.get(), dy.get());
    }

    fn residual_forward(&self, y: Out<Memory>, residual: In<Memory>, x: In<Memory>, multiplier: f32) {
        elementwise::residual_forward(y.get(), residual.get(), x.get(), multiplier);
    }

    fn residual_backward(&self, dx: Out<Memory>, dy: In<Memory>, multiplier: f32) {
        elementwise::residual_backward(dx.get(), dy.get(), multiplier);
    }

    fn add(&self, to: Out<Memory>, x: In<Memory>) {
        elementwise::add(to.get(), x.get());
    }

    fn rope_forward(&self, qkv: Out<Memory>, table: In<Memory>, positions: &[u32], heads: HeadShape, dim: usize) {
        elementwise::rope_forward(self.level, qkv.get(), table.get(), positions, heads, dim);
    }

    fn rope_backward(&self, dqkv: Out<Memory>, table: In<Memory>, positions: &[u32], heads: HeadShape, dim: usize) {
        elementwise::rope_backward(self.level, dqkv.get(), table.get(), positions, heads, dim);
    }

    fn kv(&self, precision: Precision, layers: usize, slots: usize, heads: HeadShape) -> KvStore {
        KvStore::new(precision, layers, slots, heads)
    }

    fn kv_append(&self, kv: &mut KvStore, layer: usize, qkv: In<Memory>, slots: &[u32]) {
        kv.append(self.level, layer, qkv.get(), slots);
    }

    fn attention_forward(
        &self,
        out: Out<Memory>,
        lse: Out<Memory>,
        qkv: In<Memory>,
        kv: &KvStore,
        layer: usize,
        spans: &[Span],
        attention: Attention,
    ) {
        attention::attention_forward(self.level, out.get(), lse.get(), qkv.get(), kv, layer, spans, attention);
    }

    fn attention_backward(
        &self,
        precision: Precision,
        dqkv: Out<Memory>,
        dout: In<Memory>,
        out: In<Memory>,
        qkv: In<Memory>,
        lse: In<Memory>,
        spans: &[Span],
        heads: HeadShape,
        attention: Attention,
    ) {
        let (dqkv, dout, out, qkv, lse) = (dqkv.get(), dout.get(), out.get(), qkv.get(), lse.get());
        attention::attention_backward(self.level, precision, dqkv, dout, out, qkv, lse, spans, heads, attention);
    }

    fn glu_forward(&self, y: Out<Rounded>, gate_up: In<Memory>, width: usize, activation: Activation) {
        match y.get() {
            NumbersMut::F32(y) => elementwise::glu_forward(self.level, y, gate_up.get(), width, activation),
            NumbersMut::Bf16(y) => elementwise::glu_forward(self.level, y, gate_up.get(), width, activation),
        }
    }

    fn glu_backward(
        &self,
        dgate_up: Out<Rounded>,
        y: Out<Rounded>,
        dy: In<Memory>,
        gate_up: In<Memory>,
        width: usize,
        activation: Activation,
    ) {
        let (level, dy, gate_up) = (self.level, dy.get(), gate_up.get());
        match (dgate_up.get(), y.get()) {
            (NumbersMut::F32(dgate_up), NumbersMut::F32(y)) => {
                elementwise::glu_backward(level, dgate_up, y, dy, gate_up, width, activation);
            }
            (NumbersMut::Bf16(dgate_up), NumbersMut::Bf16(y)) => {
                elementwise::glu_backward(level, dgate_up, y, dy, gate_up, width, activation);
            }
            _ => panic!("gradients and product in one precision"),
        }
    }

    fn logit_scale_forward(&self, logits: Out<Memory>, scale: LogitScale) {
        logprob::logit_scale_forward(self.level, logits.get(), scale);
    }

    fn logprob_forward(&self, logp: Out<Memory>, lse: Out<Memory>, logits: In<Memory>, targets: &[u32]) {
        logprob::logprob_forward(self.level, logp.get(), lse.get(), logits.get(), targets);
    }

    fn logprob_backward(
        &self,
        logits: Out<Memory>,
        dlogp: In<Memory>,
        lse: In<Memory>,
        targets: &[u32],
        scale: LogitScale,
    ) {
        logprob::logprob_backward(self.level, logits.get(), dlogp.get(), lse.get(), targets, scale);
    }

    fn adamw_step(
        &self,
        params: Out<Memory>,
        first: Out<Memory>,
        second: Out<Memory>,
        grads: In<Memory>,
        grad_scale: f32,
        settings: AdamW,
    ) {
        let (first, second) = (first.get(), second.get());
        optimizer::adamw_step(self.level, params.get(), first, second, grads.get(), grad_scale, settings);
    }

    fn rmsprop_step(
        &self,
        params: Out<Memory>,
        square: Out<Memory>,
        grads: In<Memory>,
        grad_scale: f32,
        settings: RmsProp,
    ) {
        optimizer::rmsprop_step(self.level, params.get(), square.get(), grads.get(), grad_scale, settings);
    }

    fn sum_squares(&self, x: In<Memory>) -> f64 {
        optimizer::sum_squares(x.get())
    }
}
