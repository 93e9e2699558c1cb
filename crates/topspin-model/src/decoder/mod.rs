//! The decoder: one definition of the arithmetic for generation, scoring and training.
//!
//! - RMSNorm, rotary positions, grouped-query attention and a gated layer, in all ways that [`DecoderConfig`] has
//! - weights live in one flat arena ([`DecoderConfig::layout`]), or matrices stay as their file stores them
//!   ([`Parameters`]); query/key/value and gate/up are each one product
//! - rows of many paths packed without padding ([`Batch`]); logits only where a next token is wanted, in chunks
//! - keys and values go through one store, whether it holds a whole conversation or the batch at hand
//! - the residual stream, norms and softmax are f32; products run in f32 or bf16 with f32 accumulation
//!
//! `Decoder::forward` is the only forward: [`Decoder::next_tokens`] (generation), [`Decoder::logprobs`] (scoring) and
//! [`Decoder::backward`] (training) all stand on it, so that the numbers which they report agree to the bit.

mod backward;
mod block;
mod flops;
mod head;
mod layer;
mod low_rank;
mod parameters;
mod ranges;
mod rotary;
mod tape;

use std::borrow::Cow;
use std::ops::Range;

use topspin_kernels::arena::Layout;
use topspin_kernels::device::{Buffer, Device, In, Matrix, Out, Use};
use topspin_kernels::gemm::Precision;
use topspin_kernels::memory::Memory;

use crate::adapter::{Adapter, Site};
use crate::batch::Batch;
use crate::config::DecoderConfig;
pub use flops::Flops;
pub use low_rank::DropoutDraw;
use low_rank::LowRank;
pub use parameters::Parameters;
use ranges::{Block, Layer, Linear, Place, Ranges};
use rotary::Rotary;
pub use tape::{Keep, Tape};

/// The matrix of a product, laid out for it.
struct LinearWeights<D: Device> {
    base: D::Weight,
    adapter: Option<LowRank<D>>,
}

/// The matrices of a block.
struct BlockWeights<D: Device> {
    first: LinearWeights<D>,
    last: LinearWeights<D>,
}

/// The matrices of one layer.
struct LayerWeights<D: Device> {
    attn: BlockWeights<D>,
    mlp: BlockWeights<D>,
}

/// A token that generation chose and its log-probability under the model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// Token id.
    pub token: u32,
    /// Natural logarithm of its probability at temperature 1.
    pub logprob: f32,
}

/// An adapter on a device.
struct Adapted<D: Device> {
    adapter: Adapter,
    params: D::Buffer,
}

/// A decoder on a device, alone or with an adapter, which then is all of it that is trained.
pub struct Decoder<D: Device> {
    device: D,
    config: DecoderConfig,
    precision: Precision,
    ranges: Ranges,
    params: D::Buffer,
    stored: Vec<D::Stored>,
    layers: Vec<LayerWeights<D>>,
    head: D::Weight,
    rotary: Rotary,
    adapted: Option<Adapted<D>>,
}

impl<D: Device> Decoder<D> {
    /// Puts `params` on the device and lays their matrices out for products.
    ///
    /// # Panics
    /// If `params` are of another configuration.
    pub fn new(device: D, config: DecoderConfig, params: Parameters, precision: Precision, for_use: Use) -> Self {
        let (layout, params, matrices) = match params {
            Parameters::Arena(params) => (config.layout(), params, None),
            Parameters::Frozen { matrices, vectors } => (config.vectors(), vectors, Some(matrices)),
        };
        assert_eq!(params.len(), layout.len(), "the parameters must fill the arena");
        let ranges = Ranges::new(&config, matrices.is_some());
        let params = device.upload(params);
        let stored: Vec<_> = matrices.into_iter().flatten().map(|matrix| device.store(matrix)).collect();
        let (d, f, heads) = (config.hidden_size, config.intermediate_size, config.heads());
        let weight = |place: &Place, n, k| device.weight(precision, matrix(&params, &stored, place), n, k, for_use);
        let linear = |linear: &Linear, n, k| LinearWeights { base: weight(&linear.weight, n, k), adapter: None };
        let block = |block: &Block, [inner_out, inner_in]: [usize; 2]| BlockWeights {
            first: linear(&block.first, inner_out, d),
            last: linear(&block.last, d, inner_in),
        };
        let layer = |layer: &Layer| LayerWeights {
            attn: block(&layer.attn, [heads.qkv_width(), heads.q_width()]),
            mlp: block(&layer.mlp, [2 * f, f]),
        };
        let layers = ranges.layers.iter().map(layer).collect();
        let head = weight(&ranges.head, config.vocab_size, d);
        let rotary = Rotary::new(&config);
        Self { device, precision, ranges, params, stored, layers, head, rotary, config, adapted: None }
    }

    /// The same with an adapter, whose parameters are `params`, in place of the one that it had.
    ///
    /// # Panics
    /// If `params` has another length than the adapter's arena.
    pub fn with_adapter(mut self, adapter: Adapter, params: Memory<f32>) -> Self {
        assert_eq!(params.len(), adapter.layout().len(), "the parameters must fill the adapter's arena");
        let params = self.device.upload(params);
        for (layer, LayerWeights { attn, mlp }) in self.layers.iter_mut().enumerate() {
            let linears = [&mut attn.first, &mut attn.last, &mut mlp.first, &mut mlp.last];
            for ((linear, site), group) in linears.into_iter().zip(Site::ALL).zip(adapter.layer(layer)) {
                let low_rank = |group| LowRank::new(&self.device, self.precision, &params, layer, site, group);
                linear.adapter = group.as_ref().map(low_rank);
            }
        }
        self.adapted = Some(Adapted { adapter, params });
        self
    }

    /// The adapter, if there is one.
    pub fn adapter(&self) -> Option<&Adapter> {
        self.adapted.as_ref().map(|adapted| &adapted.adapter)
    }

    /// The device.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// Dimensions and constants.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// Precision of the matrix products.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The table of the arena that is trained: the adapter's, or the model's where there is none.
    pub fn layout(&self) -> Cow<'_, Layout> {
        match &self.adapted {
            Some(adapted) => Cow::Borrowed(adapted.adapter.layout()),
            None => Cow::Owned(self.config.layout()),
        }
    }

    /// The arena that is trained.
    pub fn params(&self) -> &D::Buffer {
        self.adapted.as_ref().map_or(&self.params, |adapted| &adapted.params)
    }

    /// The arena that is trained, copied to the host.
    pub fn read_params(&self) -> Vec<f32> {
        let params = self.params();
        let mut copy = vec![0.0; params.len()];
        self.device.read(params.head(copy.len()), &mut copy);
        copy
    }

    /// Changes the arena that is trained and lays its matrices out anew.
    ///
    /// # Panics
    /// If matrices are kept as stored, and there is no adapter.
    pub fn update(&mut self, change: impl FnOnce(&D, &mut D::Buffer)) {
        let Self { device, params, ranges, layers, head, adapted, .. } = self;
        if let Some(Adapted { params, .. }) = adapted {
            change(device, params);
            let weights = layers.iter_mut().flat_map(|LayerWeights { attn, mlp }| [attn, mlp]);
            let linears = weights.flat_map(|BlockWeights { first, last }| [first, last]);
            linears.filter_map(|linear| linear.adapter.as_mut()).for_each(|adapter| adapter.update(device, params));
            return;
        }
        change(device, params);
        let update = |weights: &mut LinearWeights<D>, linear: &Linear| {
            device.weight_update(&mut weights.base, params.part(linear.weight.arena()));
        };
        for (layer, ranges) in layers.iter_mut().zip(&ranges.layers) {
            for (block, ranges) in [(&mut layer.attn, &ranges.attn), (&mut layer.mlp, &ranges.mlp)] {
                update(&mut block.first, &ranges.first);
                update(&mut block.last, &ranges.last);
            }
        }
        device.weight_update(head, params.part(ranges.head.arena()));
    }

    /// A store for the keys and values of `slots` tokens.
    pub fn kv(&self, slots: usize) -> D::Kv {
        self.device.kv(self.precision, self.config.num_layers, slots, self.config.heads())
    }

    /// Runs `batch` on top of what `kv` holds, stores its keys and values there, and lets `choose` pick the next token
    /// of each output row.
    ///
    /// `choose(first, logits, tokens)` gets the logits `[n, V]` of the outputs `first .. first + n` and fills `tokens`.
    /// It is called for chunks of outputs in order.
    pub fn next_tokens(
        &self,
        batch: &Batch,
        kv: &mut D::Kv,
        tape: &mut Tape<D>,
        mut choose: impl FnMut(usize, &[f32], &mut [u32]),
    ) -> Vec<Choice> {
        tape.reserve(self, batch);
        self.forward(batch, Some(kv), tape);
        let mut choices = Vec::with_capacity(batch.outputs.len());
        for chunk in self.head_chunks(batch.outputs.len()) {
            let (n, v) = (chunk.len(), self.config.vocab_size);
            self.logits(chunk.clone(), tape);
            let mut tokens = vec![0; n];
            choose(chunk.start, &self.device.host(tape.logits.head(n * v)), &mut tokens);
            self.logprobs_of_chunk(chunk.clone(), &tokens, tape);
            let mut logprobs = vec![0.0; n];
            self.device.read(tape.logp.part(chunk), &mut logprobs);
            let pairs = tokens.into_iter().zip(logprobs);
            choices.extend(pairs.map(|(token, logprob)| Choice { token, logprob }));
        }
        choices
    }

    /// Log-probabilities of `batch.targets`, one per output row. The batch holds its whole paths: slot `t` is row `t`.
    ///
    /// With a tape that keeps activations, [`Decoder::backward`] may follow.
    pub fn logprobs(&self, batch: &Batch, tape: &mut Tape<D>) -> Vec<f32> {
        assert_eq!(batch.outputs.len(), batch.targets.len(), "scoring needs the target of every output");
        tape.reserve(self, batch);
        self.forward(batch, None, tape);
        for chunk in self.head_chunks(batch.outputs.len()) {
            self.logits(chunk.clone(), tape);
            self.logprobs_of_chunk(chunk.clone(), &batch.targets[chunk], tape);
        }
        let mut logprobs = vec![0.0; batch.outputs.len()];
        self.device.read(tape.logp.head(logprobs.len()), &mut logprobs);
        logprobs
    }

    /// The forward: leaves the normed hidden states of the output rows, `[N, D]`, in `tape.normed_out`.
    ///
    /// `kv` is the store that the batch continues, or nothing for a batch that holds its whole paths itself.
    fn forward(&self, batch: &Batch, kv: Option<&mut D::Kv>, tape: &mut Tape<D>) {
        let (t, n, d) = (batch.rows(), batch.outputs.len(), self.config.hidden_size);
        let device = &self.device;
        let embed = self.matrix(&self.ranges.embed);
        let scale = self.config.embedding_multiplier;
        device.embedding_forward(tape.inputs[0].head_mut(t * d), embed, &batch.tokens, scale);
        match kv {
            Some(kv) => (0..self.config.num_layers).for_each(|layer| self.layer_forward(layer, batch, kv, layer, tape)),
            None => {
                // Keys and values of one layer are wanted only until its attention is done.
                let mut kv = tape.kv.take().expect("a reserved tape has a store");
                (0..self.config.num_layers).for_each(|layer| self.layer_forward(layer, batch, &mut kv, 0, tape));
                tape.kv = Some(kv);
            }
        }
        let last = tape.input_index(self.config.num_layers);
        device.gather_forward(tape.gathered.head_mut(n * d), tape.inputs[last].head(t * d), &batch.outputs);
        device.rmsnorm_forward(
            tape.normed_out.head_mut(n * d),
            tape.rstd_out.head_mut(n),
            tape.gathered.head(n * d),
            self.part(&self.ranges.norm),
            self.config.norm(),
        );
        tape.logits_of = None;
    }

    /// Where the gradient of parameters of the model goes, if they are trained.
    fn grad<'a>(&self, grads: &'a mut D::Buffer, range: &Range<usize>) -> Option<Out<'a, D::Buffer>> {
        self.adapted.is_none().then(|| grads.part_mut(range.clone()))
    }

    /// Where the gradient of a matrix of the model goes, if it is trained.
    fn matrix_grad<'a>(&self, grads: &'a mut D::Buffer, place: &Place) -> Option<Out<'a, D::Buffer>> {
        self.adapted.is_none().then(|| grads.part_mut(place.arena()))
    }

    /// A matrix of the model.
    fn matrix(&self, place: &Place) -> Matrix<'_, D> {
        matrix(&self.params, &self.stored, place)
    }

    /// Parameters of the model.
    fn part(&self, range: &Range<usize>) -> In<'_, D::Buffer> {
        self.params.part(range.clone())
    }
}

/// The matrix at a place.
fn matrix<'a, D: Device>(params: &'a D::Buffer, stored: &'a [D::Stored], place: &Place) -> Matrix<'a, D> {
    match place {
        Place::Arena(range) => Matrix::Single(params.part(range.clone())),
        Place::Stored(at) => Matrix::Stored(&stored[*at]),
    }
}

#[cfg(test)]
pub(crate) mod testing;
