//! The operations that a decoder is made of, as one trait: another device is another implementation, nothing else.
//!
//! Every operation writes into memory that the caller passes ("destination passing"), takes its shapes from the
//! call, and has its backward directly below its forward. Gradients are *accumulated* (`+=`) wherever a tensor can
//! be reached from more than one place; the comment of each operation says which.
//!
//! Shapes: `T` rows (tokens) of a packed batch, `D` hidden size, `F` intermediate size, `V` vocabulary,
//! `H` query heads, `G` key/value heads, `C` channels of a head, `N` output rows.

use std::borrow::Cow;
use std::ops::Range;

use crate::gemm::Precision;
use crate::memory::Memory;
use crate::rng::Stream;
use crate::stored::Stored;

/// A shared view of part of a buffer.
pub struct In<'a, B> {
    /// The memory that holds the view.
    pub buffer: &'a B,
    /// Its elements.
    pub range: Range<usize>,
}

impl<B> Clone for In<'_, B> {
    fn clone(&self) -> Self {
        Self { buffer: self.buffer, range: self.range.clone() }
    }
}

/// An exclusive view of part of a buffer.
pub struct Out<'a, B> {
    /// The memory that holds the view.
    pub buffer: &'a mut B,
    /// Its elements.
    pub range: Range<usize>,
}

/// Memory of a device, counted in elements.
pub trait Buffer: Send + Sync + Sized {
    /// Number of elements.
    fn len(&self) -> usize;

    /// Whether there is no element.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements of `range`.
    fn part(&self, range: Range<usize>) -> In<'_, Self> {
        debug_assert!(range.end <= self.len());
        In { buffer: self, range }
    }

    /// The elements of `range`, to be written.
    fn part_mut(&mut self, range: Range<usize>) -> Out<'_, Self> {
        debug_assert!(range.end <= self.len());
        Out { buffer: self, range }
    }

    /// The first `len` elements.
    fn head(&self, len: usize) -> In<'_, Self> {
        self.part(0..len)
    }

    /// The first `len` elements, to be written.
    fn head_mut(&mut self, len: usize) -> Out<'_, Self> {
        self.part_mut(0..len)
    }
}

/// Rows that a product reads.
pub enum Rows<'a, D: Device + ?Sized> {
    /// In single precision, for the product to round.
    Single(In<'a, D::Buffer>),
    /// In the precision of the product.
    Rounded(In<'a, D::Rounded>),
}

impl<D: Device + ?Sized> Clone for Rows<'_, D> {
    fn clone(&self) -> Self {
        match self {
            Rows::Single(rows) => Rows::Single(rows.clone()),
            Rows::Rounded(rows) => Rows::Rounded(rows.clone()),
        }
    }
}

impl<D: Device + ?Sized> Rows<'_, D> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Rows::Single(rows) => rows.range.len(),
            Rows::Rounded(rows) => rows.range.len(),
        }
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What a product is added to.
pub enum Plus<'a, B> {
    /// Nothing: the result is overwritten.
    Nothing,
    /// What stands in the result.
    Result,
    /// A matrix of the result's shape.
    Matrix(In<'a, B>),
}

/// Which elements of a matrix are dropped (Srivastava et al., "Dropout", JMLR 2014): each by itself, as the random numbers
/// at its place say. The others are divided by the share that is kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// Share of elements that become 0, below 1.
    pub rate: f32,
    /// The random numbers of the matrix.
    pub stream: Stream,
}

/// A matrix that products read, out x in and row-major as in checkpoints.
pub enum Matrix<'a, D: Device + ?Sized> {
    /// In single precision.
    Single(In<'a, D::Buffer>),
    /// As a file stores it. Results are those of its elements decoded to single precision, to the bit.
    Stored(&'a D::Stored),
}

/// The heads of an attention layer. A row of queries, keys and values is `[H*C | G*C | G*C]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadShape {
    /// Query heads, `H`.
    pub num_heads: usize,
    /// Key/value heads, `G`; each serves `H / G` query heads.
    pub num_kv_heads: usize,
    /// Channels of a head, `C`.
    pub head_dim: usize,
}

impl HeadShape {
    /// Width of a row of queries (and of attention's output).
    pub fn q_width(&self) -> usize {
        self.num_heads * self.head_dim
    }

    /// Width of a row of keys, or of values.
    pub fn kv_width(&self) -> usize {
        self.num_kv_heads * self.head_dim
    }

    /// Width of a row of queries, keys and values side by side.
    pub fn qkv_width(&self) -> usize {
        self.q_width() + 2 * self.kv_width()
    }
}

/// Keys and values of consecutive positions of a path, in slots `start .. start + len` of a key/value store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// First slot.
    pub start: usize,
    /// Number of slots.
    pub len: usize,
}

/// Consecutive query rows that stand at the end of one path.
///
/// The segments of `path`, in order, are all that the last row sees, itself included; each row before it sees one
/// position fewer. A tree `prompt -> {real, generated}` is three spans: the prompt's path is its own segment, each
/// branch's path is the prompt's segment followed by its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Rows of the batch.
    pub rows: Range<usize>,
    /// What the last of the rows sees.
    pub path: Vec<Segment>,
}

impl Span {
    /// Positions that the last row sees.
    pub fn context(&self) -> usize {
        self.path.iter().map(|segment| segment.len).sum()
    }
}

/// What attention makes of the products of queries and keys.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// Factor of the products; `1 / sqrt(C)` in most models.
    pub scale: f32,
    /// Scores `s` become `cap * tanh(s / cap)` (Gemma 2, arXiv 2408.00118).
    pub softcap: Option<f32>,
    /// Positions that a row sees at most, its own included (Mistral 7B, arXiv 2310.06825).
    pub window: Option<usize>,
}

impl Attention {
    /// The first position that a row sees which is the last of `end` positions.
    pub fn first_seen(&self, end: usize) -> usize {
        self.window.map_or(0, |window| end.saturating_sub(window))
    }
}

/// Constants of RMSNorm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Norm {
    /// Added to the mean square.
    pub eps: f32,
    /// Added to each weight: 1 where weights are stored as their distance from it, as in Gemma.
    pub offset: f32,
}

/// What the gate of a gated layer goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)`, which makes the layer a SwiGLU (Shazeer, arXiv 2002.05202).
    Silu,
    /// `x / 2 * (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))` (Hendrycks & Gimpel, arXiv 1606.08415).
    GeluTanh,
}

/// The last step to logits, `cap * tanh(multiplier * x / cap)`; without a cap `multiplier * x`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LogitScale {
    /// Factor of the head's product.
    pub multiplier: f32,
    /// Bound of the logits' magnitude (Gemma 2, arXiv 2408.00118).
    pub softcap: Option<f32>,
}

impl LogitScale {
    /// Logits as the head's product gives them.
    pub const NONE: Self = Self { multiplier: 1.0, softcap: None };
}

/// Which products a prepared weight takes part in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Generation and scoring.
    Forward,
    /// Training as well.
    ForwardAndBackward,
    /// All, with no copy laid out beside the matrix: least memory, and each product lays out what it reads.
    InPlace,
}

/// Settings of one AdamW step (Loshchilov & Hutter, arXiv 1711.05101).
#[derive(Clone, Copy, Debug)]
pub struct AdamW {
    /// Learning rate.
    pub lr: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// Number of this step, from 1: it corrects the moments' bias.
    pub step: u32,
}

/// Settings of one RMSprop step, in PyTorch's form: `p -= lr * g / (sqrt(v) + eps)`.
#[derive(Clone, Copy, Debug)]
pub struct RmsProp {
    /// Learning rate.
    pub lr: f32,
    /// Decay of the squared gradient, PyTorch's `alpha`.
    pub decay: f32,
    /// Added to the root.
    pub eps: f32,
    /// Weight decay, added to the gradient as PyTorch does.
    pub weight_decay: f32,
}

/// A device: its memory and the operations on it.
///
/// Contract of every implementation: a row of a result depends, to the bit, on that row's inputs alone, never on
/// the other rows, their number or order, or the number of threads.
pub trait Device: Send + Sync {
    /// Memory of numbers in single precision.
    type Buffer: Buffer;
    /// Memory of numbers that products alone read, in the precision of these: rounded by the operation that makes them
    /// as the product would round them, they take less of the memory's time. No bit of a product depends on it.
    type Rounded: Buffer;
    /// A weight matrix laid out for products.
    type Weight: Send + Sync;
    /// A weight matrix as a file stores it.
    type Stored: Send + Sync;
    /// Keys and values of many sequences, by layer and slot.
    type Kv: Send + Sync;

    /// Zeroed memory of `len` elements.
    fn alloc(&self, len: usize) -> Self::Buffer;
    /// Zeroed memory of `len` elements for products in `precision`.
    fn alloc_rounded(&self, precision: Precision, len: usize) -> Self::Rounded;
    /// Memory that holds `from`. On a device that shares the host's memory it is that memory, not a copy.
    fn upload(&self, from: Memory<f32>) -> Self::Buffer;
    /// The matrix in the device's memory. On a device that shares the host's memory it is that memory, not a copy.
    fn store(&self, matrix: Stored) -> Self::Stored;
    /// Copies from the host.
    fn write(&self, to: Out<Self::Buffer>, from: &[f32]);
    /// Copies to the host.
    fn read(&self, from: In<Self::Buffer>, to: &mut [f32]);
    /// The elements for the host to look at: borrowed from a device that shares the host's memory, else copied.
    fn host<'a>(&self, from: In<'a, Self::Buffer>) -> Cow<'a, [f32]>;
    /// Sets all elements to zero.
    fn zero(&self, to: Out<Self::Buffer>);

    /// `out[T,D] = scale * table[ids[t]]`.
    fn embedding_forward(&self, out: Out<Self::Buffer>, table: Matrix<Self>, ids: &[u32], scale: f32);
    /// `dtable[ids[t]] += scale * dout[t]`, in order of `t`.
    fn embedding_backward(&self, dtable: Out<Self::Buffer>, dout: In<Self::Buffer>, ids: &[u32], scale: f32);

    /// `out[N,D] = x[rows[n]]`.
    fn gather_forward(&self, out: Out<Self::Buffer>, x: In<Self::Buffer>, rows: &[u32]);
    /// `dx[rows[n]] += dout[n]`, in order of `n`.
    fn gather_backward(&self, dx: Out<Self::Buffer>, dout: In<Self::Buffer>, rows: &[u32]);

    /// `y[T,D] = x * rstd * (w + offset)`, `rstd[T] = 1 / sqrt(mean(x^2) + eps)` (Zhang & Sennrich, arXiv 1910.07467).
    fn rmsnorm_forward(
        &self,
        y: Out<Self::Rounded>,
        rstd: Out<Self::Buffer>,
        x: In<Self::Buffer>,
        w: In<Self::Buffer>,
        norm: Norm,
    );
    /// `y[T,D] = residual[T,D] +` the norm of `x[T,D]`, and its `rstd[T]`.
    fn rmsnorm_add_forward(
        &self,
        y: Out<Self::Buffer>,
        rstd: Out<Self::Buffer>,
        x: In<Self::Buffer>,
        w: In<Self::Buffer>,
        residual: In<Self::Buffer>,
        norm: Norm,
    );
    /// `dx[T,D] += ..`, `dw[D] += ..` if it is wanted, of both forwards.
    fn rmsnorm_backward(
        &self,
        dx: Out<Self::Buffer>,
        dw: Option<Out<Self::Buffer>>,
        dy: In<Self::Buffer>,
        x: In<Self::Buffer>,
        w: In<Self::Buffer>,
        rstd: In<Self::Buffer>,
        norm: Norm,
    );
    /// `y[T,..]`: the queries and keys of `x[T,H*C|G*C|G*C]` normed, the values as they are. `w` are weights of queries and
    /// then of keys: `C` of each, for every head by itself (Qwen 3, arXiv 2505.09388), or `H*C` and `G*C`, for all heads
    /// together (OLMo 2, arXiv 2501.00656). `rstd[T, parts]`, a part being what is normed by itself.
    fn head_norm_forward(
        &self,
        y: Out<Self::Buffer>,
        rstd: Out<Self::Buffer>,
        x: In<Self::Buffer>,
        w: In<Self::Buffer>,
        heads: HeadShape,
        norm: Norm,
    );
    /// `dqkv[T,..]` from the gradient of `y` to that of `x`, in place; `dw += ..` if it is wanted.
    fn head_norm_backward(
        &self,
        dqkv: Out<Self::Buffer>,
        dw: Option<Out<Self::Buffer>>,
        x: In<Self::Buffer>,
        w: In<Self::Buffer>,
        rstd: In<Self::Buffer>,
        heads: HeadShape,
        norm: Norm,
    );

    /// Lays out `w[n,k]` (out x in, as in checkpoints) for products in `precision`.
    fn weight(&self, precision: Precision, w: Matrix<Self>, n: usize, k: usize, for_use: Use) -> Self::Weight;
    /// The same after `w`, in single precision, changed.
    fn weight_update(&self, weight: &mut Self::Weight, w: In<Self::Buffer>);
    /// `y[T,n] = plus + x[T,k] · wᵀ`.
    fn linear_forward(
        &self,
        y: Out<Self::Buffer>,
        x: Rows<Self>,
        w: Matrix<Self>,
        weight: &Self::Weight,
        plus: Plus<Self::Buffer>,
    );
    /// `dx[T,k] = dy[T,n] · w`, or `+=` when `accumulate`.
    fn linear_backward_input(
        &self,
        dx: Out<Self::Buffer>,
        dy: Rows<Self>,
        w: Matrix<Self>,
        weight: &Self::Weight,
        accumulate: bool,
    );
    /// `dw[n,k] = dy[T,n]ᵀ · x[T,k]`, or `+=` when `accumulate`.
    fn linear_backward_weight(
        &self,
        dw: Out<Self::Buffer>,
        dy: Rows<Self>,
        x: Rows<Self>,
        weight: &Self::Weight,
        accumulate: bool,
    );

    /// The columns `columns` of `to[T,width]` become `scale * from[T,columns]`.
    fn columns_forward(
        &self,
        to: Out<Self::Buffer>,
        width: usize,
        columns: Range<usize>,
        from: In<Self::Buffer>,
        scale: f32,
    );
    /// `dfrom[T,columns] += scale *` the columns `columns` of `dto[T,width]`.
    fn columns_backward(
        &self,
        dfrom: Out<Self::Buffer>,
        dto: In<Self::Buffer>,
        width: usize,
        columns: Range<usize>,
        scale: f32,
    );

    /// `y[T,width]`: `x[T,width]` with some elements dropped.
    fn dropout_forward(&self, y: Out<Self::Rounded>, x: Rows<Self>, width: usize, dropout: Dropout);
    /// `dx[T,width] += dy[T,width]` with the same elements dropped.
    fn dropout_backward(&self, dx: Out<Self::Buffer>, dy: In<Self::Buffer>, width: usize, dropout: Dropout);

    /// `y[T,n] += bias[n]`.
    fn bias_forward(&self, y: Out<Self::Buffer>, bias: In<Self::Buffer>);
    /// `dbias[n] += sum_t dy[t,n]`.
    fn bias_backward(&self, dbias: Out<Self::Buffer>, dy: Rows<Self>);

    /// `y = residual + multiplier * x`.
    fn residual_forward(&self, y: Out<Self::Buffer>, residual: In<Self::Buffer>, x: In<Self::Buffer>, multiplier: f32);
    /// `dx = multiplier * dy`; the residual's gradient is `dy`.
    fn residual_backward(&self, dx: Out<Self::Buffer>, dy: In<Self::Buffer>, multiplier: f32);
    /// `to += x`.
    fn add(&self, to: Out<Self::Buffer>, x: In<Self::Buffer>);

    /// Rotates the first `dim` channels of the queries and keys of `qkv[T,H*C|G*C|G*C]` in place by their position (Su et
    /// al., arXiv 2104.09864). `table[p] = [cos(dim/2) | sin(dim/2)]`; channel `i` is paired with `i + dim/2`, as in Hugging
    /// Face's Llama.
    fn rope_forward(
        &self,
        qkv: Out<Self::Buffer>,
        table: In<Self::Buffer>,
        positions: &[u32],
        heads: HeadShape,
        dim: usize,
    );
    /// Rotates gradients of queries and keys back, in place.
    fn rope_backward(
        &self,
        dqkv: Out<Self::Buffer>,
        table: In<Self::Buffer>,
        positions: &[u32],
        heads: HeadShape,
        dim: usize,
    );

    /// A store of keys and values of `layers` layers and `slots` slots, held and multiplied in `precision`.
    fn kv(&self, precision: Precision, layers: usize, slots: usize, heads: HeadShape) -> Self::Kv;
    /// Stores the keys and values of each row of `qkv` at `slots[t]` of `layer`.
    fn kv_append(&self, kv: &mut Self::Kv, layer: usize, qkv: In<Self::Buffer>, slots: &[u32]);

    /// `out[T,H*C]`: scaled dot-product attention of the queries of `qkv` over what each span sees;
    /// `lse[T,H]`: logarithm of the softmax's normaliser, which the backward needs.
    fn attention_forward(
        &self,
        out: Out<Self::Buffer>,
        lse: Out<Self::Buffer>,
        qkv: In<Self::Buffer>,
        kv: &Self::Kv,
        layer: usize,
        spans: &[Span],
        attention: Attention,
    );
    /// `dqkv[T,..] = ..` (overwritten) for a batch that holds all of its keys itself: slot `s` is row `s`. The forward's
    /// store was one of `precision`; its rounding counts as the identity.
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
    );

    /// `y[T,F] = activation(gate) * up`, `gate_up[T,F|F]`.
    fn glu_forward(&self, y: Out<Self::Rounded>, gate_up: In<Self::Buffer>, width: usize, activation: Activation);
    /// `dgate_up[T, F|F]` from `dy[T,F]`, and the forward's `y[T,F]`, which need not be kept for it.
    fn glu_backward(
        &self,
        dgate_up: Out<Self::Rounded>,
        y: Out<Self::Rounded>,
        dy: In<Self::Buffer>,
        gate_up: In<Self::Buffer>,
        width: usize,
        activation: Activation,
    );

    /// Brings the head's product to its final form, in place. Its backward is [`logprob_backward`](Self::logprob_backward)'s.
    fn logit_scale_forward(&self, logits: Out<Self::Buffer>, scale: LogitScale);

    /// `logp[N] = logits[n, targets[n]] - lse[n]`, `lse[N] = log sum exp(logits[n])`, for `logits[N,V]`.
    fn logprob_forward(
        &self,
        logp: Out<Self::Buffer>,
        lse: Out<Self::Buffer>,
        logits: In<Self::Buffer>,
        targets: &[u32],
    );
    /// `logits[n,v] := dlogp[n] * (1[v = targets[n]] - softmax(logits[n])[v])`, in place, times the derivative of `scale`,
    /// which made the logits.
    fn logprob_backward(
        &self,
        logits: Out<Self::Buffer>,
        dlogp: In<Self::Buffer>,
        lse: In<Self::Buffer>,
        targets: &[u32],
        scale: LogitScale,
    );

    /// One AdamW step on `params` after scaling the gradient by `grad_scale`.
    fn adamw_step(
        &self,
        params: Out<Self::Buffer>,
        first: Out<Self::Buffer>,
        second: Out<Self::Buffer>,
        grads: In<Self::Buffer>,
        grad_scale: f32,
        settings: AdamW,
    );
    /// One RMSprop step on `params` after scaling the gradient by `grad_scale`.
    fn rmsprop_step(
        &self,
        params: Out<Self::Buffer>,
        square: Out<Self::Buffer>,
        grads: In<Self::Buffer>,
        grad_scale: f32,
        settings: RmsProp,
    );
    /// Sum of squares, accumulated in f64 in a fixed order.
    fn sum_squares(&self, x: In<Self::Buffer>) -> f64;
}
