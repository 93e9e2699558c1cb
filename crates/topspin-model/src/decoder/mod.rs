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
mod parameters;
mod ranges;
mod rotary;
mod tape;

use std::ops::Range;

use topspin_kernels::device::{Buffer, Device, In, Matrix, Use};
use topspin_kernels::gemm::Precision;

use crate::batch::Batch;
use crate::config::DecoderConfig;
pub use flops::Flops;
pub use parameters::Parameters;
use ranges::{Block, Layer, Linear, Place, Ranges};
use rotary::Rotary;
pub use tape::{Keep, Tape};

/// The matrices of a block, laid out for products.
struct BlockWeights<D: Device> {
    first: D::Weight,
    last: D::Weight,
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

/// A decoder on a device.
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
        let block = |block: &Block, [inner_out, inner_in]: [usize; 2]| BlockWeights {
            first: weight(&block.first.weight, inner_out, d),
            last: weight(&block.last.weight, d, inner_in),
        };
        let layer = |layer: &Layer| LayerWeights {
            attn: block(&layer.attn, [heads.qkv_width(), heads.q_width()]),
            mlp: block(&layer.mlp, [2 * f, f]),
        };
        let layers = ranges.layers.iter().map(layer).collect();
        let head = weight(&ranges.head, config.vocab_size, d);
        let rotary = Rotary::new(&config);
        Self { device, precision, ranges, params, stored, layers, head, rotary, config }
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

    /// The parameter arena; of a frozen decoder that of norms and biases.
    pub fn params(&self) -> &D::Buffer {
        &self.params
    }

    /// The parameter arena, copied to the host.
    pub fn read_params(&self) -> Vec<f32> {
        let mut params = vec![0.0; self.params.len()];
        self.device.read(self.params.head(params.len()), &mut params);
        params
    }

    /// Changes the parameters and lays the matrices out anew.
    ///
    /// # Panics
    /// If matrices are kept as stored.
    pub fn update(&mut self, change: impl FnOnce(&D, &mut D::Buffer)) {
        change(&self.device, &mut self.params);
        let Self { device, params, ranges, layers, head, .. } = self;
        let update = |weight: &mut D::Weight, linear: &Linear| {
            device.weight_update(weight, params.part(linear.weight.arena()));
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

    /// A matrix.
    fn matrix(&self, place: &Place) -> Matrix<'_, D> {
        matrix(&self.params, &self.stored, place)
    }

    /// Parameters of the arena.
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
