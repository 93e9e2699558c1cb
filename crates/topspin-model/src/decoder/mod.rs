//! The decoder: one definition of the arithmetic for generation, scoring and training.
//!
//! - Llama family: RMSNorm before each block, rotary positions, grouped-query attention, SwiGLU, no biases
//! - weights live in one flat arena ([`DecoderConfig::layout`]); query/key/value and gate/up are each one product
//! - rows of many paths packed without padding ([`Batch`]); logits only where a next token is wanted, in chunks
//! - keys and values go through one store, whether it holds a whole conversation or the batch at hand
//! - the residual stream, norms and softmax are f32; products run in f32 or bf16 with f32 accumulation
//!
//! `Decoder::forward` is the only forward: [`Decoder::next_tokens`] (generation), [`Decoder::logprobs`] (scoring) and
//! [`Decoder::backward`] (training) all stand on it, so that the numbers which they report agree to the bit.

mod backward;
mod flops;
mod tape;

use std::ops::Range;

use topspin_kernels::device::{Buffer, Device, HeadShape, Rows, Use};
use topspin_kernels::gemm::Precision;
use topspin_kernels::memory::Memory;

use crate::batch::Batch;
use crate::config::DecoderConfig;
pub use flops::Flops;
pub use tape::{Keep, Tape};

/// Most logits held at once, in elements (128 MiB): the head works through its rows in chunks of at most this size. Only the
/// last chunk's are still there when the backward begins; a batch of pairs with a vocabulary of 50,000 is one chunk.
const LOGITS_AT_ONCE: usize = 1 << 25;

/// Where the parameters of one layer lie in the arena.
#[derive(Clone, Debug)]
struct LayerRanges {
    attn_norm: Range<usize>,
    qkv: Range<usize>,
    o: Range<usize>,
    mlp_norm: Range<usize>,
    gate_up: Range<usize>,
    down: Range<usize>,
}

/// Where all parameters lie.
#[derive(Clone, Debug)]
struct Ranges {
    embed: Range<usize>,
    layers: Vec<LayerRanges>,
    norm: Range<usize>,
    /// The embedding's range when tied.
    head: Range<usize>,
}

impl Ranges {
    fn new(config: &DecoderConfig) -> Self {
        let layout = config.layout();
        let of = |name: &str| layout.get(name).map(|entry| entry.range());
        let must = |name: &str| of(name).expect("the layout names every tensor of its configuration");
        let layers = (0..config.num_layers)
            .map(|layer| {
                let of = |name: &str| must(&format!("model.layers.{layer}.{name}.weight"));
                LayerRanges {
                    attn_norm: of("input_layernorm"),
                    // Adjacent in the arena, so that each group is one matrix.
                    qkv: of("self_attn.q_proj").start..of("self_attn.v_proj").end,
                    o: of("self_attn.o_proj"),
                    mlp_norm: of("post_attention_layernorm"),
                    gate_up: of("mlp.gate_proj").start..of("mlp.up_proj").end,
                    down: of("mlp.down_proj"),
                }
            })
            .collect();
        let embed = must("model.embed_tokens.weight");
        let head = of("lm_head.weight").unwrap_or_else(|| embed.clone());
        Self { embed, layers, norm: must("model.norm.weight"), head }
    }
}

/// The matrices of one layer, laid out for products.
struct LayerWeights<D: Device> {
    qkv: D::Weight,
    o: D::Weight,
    gate_up: D::Weight,
    down: D::Weight,
}

/// A token that generation chose and its log-probability under the model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// Token id.
    pub token: u32,
    /// Natural logarithm of its probability at temperature 1.
    pub logprob: f32,
}

/// A Llama-family decoder on a device.
pub struct Decoder<D: Device> {
    device: D,
    config: DecoderConfig,
    precision: Precision,
    ranges: Ranges,
    params: D::Buffer,
    layers: Vec<LayerWeights<D>>,
    head: D::Weight,
    /// `[positions, cos | sin]`.
    rope: D::Buffer,
}

impl<D: Device> Decoder<D> {
    /// Puts `params`, an arena of [`DecoderConfig::layout`], on the device and lays its matrices out for products.
    ///
    /// # Panics
    /// If `params` has another length than the layout.
    pub fn new(device: D, config: DecoderConfig, params: Memory<f32>, precision: Precision, for_use: Use) -> Self {
        let len = config.layout().len();
        assert_eq!(params.len(), len, "the parameters must fill the arena");
        let params = device.upload(params);
        let ranges = Ranges::new(&config);
        let (d, f, heads) = (config.hidden_size, config.intermediate_size, config.heads());
        let weight = |range: &Range<usize>, n, k| device.weight(precision, params.part(range.clone()), n, k, for_use);
        let layers = ranges
            .layers
            .iter()
            .map(|layer| LayerWeights {
                qkv: weight(&layer.qkv, heads.qkv_width(), d),
                o: weight(&layer.o, d, heads.q_width()),
                gate_up: weight(&layer.gate_up, 2 * f, d),
                down: weight(&layer.down, d, f),
            })
            .collect();
        let head = weight(&ranges.head, config.vocab_size, d);

        let rope = device.upload(rope_table(&config).into());
        Self { device, precision, ranges, params, layers, head, rope, config }
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

    /// The parameter arena.
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
    pub fn update(&mut self, change: impl FnOnce(&D, &mut D::Buffer)) {
        change(&self.device, &mut self.params);
        let Self { device, params, ranges, layers, head, .. } = self;
        for (layer, ranges) in layers.iter_mut().zip(&ranges.layers) {
            device.weight_update(&mut layer.qkv, params.part(ranges.qkv.clone()));
            device.weight_update(&mut layer.o, params.part(ranges.o.clone()));
            device.weight_update(&mut layer.gate_up, params.part(ranges.gate_up.clone()));
            device.weight_update(&mut layer.down, params.part(ranges.down.clone()));
        }
        device.weight_update(head, params.part(ranges.head.clone()));
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
        let embed = self.params.part(self.ranges.embed.clone());
        device.embedding_forward(tape.inputs[0].head_mut(t * d), embed, &batch.tokens);
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
            self.params.part(self.ranges.norm.clone()),
            self.config.rms_norm_eps,
        );
        tape.logits_of = None;
    }

    /// One layer: from its input in the tape to the next layer's, storing keys and values at `kv_layer`.
    fn layer_forward(&self, layer: usize, batch: &Batch, kv: &mut D::Kv, kv_layer: usize, tape: &mut Tape<D>) {
        let Self { device, params, config, .. } = self;
        let (weights, ranges) = (&self.layers[layer], &self.ranges.layers[layer]);
        let (t, d, f, heads) = (batch.rows(), config.hidden_size, config.intermediate_size, config.heads());
        let (x, next, saved, scratch) = tape.layer_mut(layer);

        let part = |range: &Range<usize>| params.part(range.clone());
        let eps = config.rms_norm_eps;
        let normed = &mut scratch.normed;
        device.rmsnorm_forward(
            normed.head_mut(t * d),
            saved.rstd_attn.head_mut(t),
            x.head(t * d),
            part(&ranges.attn_norm),
            eps,
        );
        let qkv_len = t * heads.qkv_width();
        device.linear_forward(
            saved.qkv.head_mut(qkv_len),
            Rows::Rounded(normed.head(t * d)),
            part(&ranges.qkv),
            &weights.qkv,
            None,
        );
        device.rope_forward(saved.qkv.head_mut(qkv_len), self.rope.head(self.rope.len()), &batch.positions, heads);
        device.kv_append(kv, kv_layer, saved.qkv.head(qkv_len), &batch.slots);
        let q_len = t * heads.q_width();
        device.attention_forward(
            saved.attn.head_mut(q_len),
            saved.lse.head_mut(t * heads.num_heads),
            saved.qkv.head(qkv_len),
            kv,
            kv_layer,
            &batch.spans,
        );
        let (mid, attn) = (&mut saved.mid, Rows::Single(saved.attn.head(q_len)));
        device.linear_forward(mid.head_mut(t * d), attn, part(&ranges.o), &weights.o, Some(x.head(t * d)));

        device.rmsnorm_forward(
            normed.head_mut(t * d),
            saved.rstd_mlp.head_mut(t),
            saved.mid.head(t * d),
            part(&ranges.mlp_norm),
            eps,
        );
        let gate_up = &mut saved.gate_up;
        device.linear_forward(
            gate_up.head_mut(t * 2 * f),
            Rows::Rounded(normed.head(t * d)),
            part(&ranges.gate_up),
            &weights.gate_up,
            None,
        );
        device.swiglu_forward(scratch.act.head_mut(t * f), gate_up.head(t * 2 * f), f);
        let (act, mid) = (Rows::Rounded(scratch.act.head(t * f)), saved.mid.head(t * d));
        device.linear_forward(next.head_mut(t * d), act, part(&ranges.down), &weights.down, Some(mid));
    }

    /// Logits `[n, V]` of a chunk of the outputs, into `tape.logits`.
    fn logits(&self, outputs: Range<usize>, tape: &mut Tape<D>) {
        let (n, d, v) = (outputs.len(), self.config.hidden_size, self.config.vocab_size);
        let head = self.params.part(self.ranges.head.clone());
        let hidden = Rows::Rounded(tape.normed_out.part(outputs.start * d..outputs.end * d));
        self.device.linear_forward(tape.logits.head_mut(n * v), hidden, head, &self.head, None);
        tape.logits_of = Some(outputs);
    }

    /// Log-probabilities of `targets` from the logits that the tape holds, into `tape.logp` and `tape.lse_out`.
    fn logprobs_of_chunk(&self, outputs: Range<usize>, targets: &[u32], tape: &mut Tape<D>) {
        let logits = tape.logits.head(outputs.len() * self.config.vocab_size);
        let (logp, lse) = (tape.logp.part_mut(outputs.clone()), tape.lse_out.part_mut(outputs));
        self.device.logprob_forward(logp, lse, logits, targets);
    }

    /// The outputs in runs of about the same length whose logits fit into [`LOGITS_AT_ONCE`].
    fn head_chunks(&self, outputs: usize) -> impl DoubleEndedIterator<Item = Range<usize>> + use<D> {
        let count = outputs.div_ceil(head_chunk(self.config.vocab_size));
        let size = outputs.div_ceil(count.max(1)).max(1);
        (0..outputs.div_ceil(size)).map(move |chunk| chunk * size..outputs.min((chunk + 1) * size))
    }
}

/// Most output rows whose logits are held at once.
fn head_chunk(vocab_size: usize) -> usize {
    (LOGITS_AT_ONCE / vocab_size).max(1)
}

impl DecoderConfig {
    /// The attention heads.
    pub fn heads(&self) -> HeadShape {
        HeadShape { num_heads: self.num_heads, num_kv_heads: self.num_kv_heads, head_dim: self.head_dim }
    }
}

/// `[positions, cos(C/2) | sin(C/2)]`; frequencies `theta^(-2i/C)`, angles in f32 as transformers computes them.
fn rope_table(config: &DecoderConfig) -> Vec<f32> {
    let half = config.head_dim / 2;
    let frequency = |i: usize| (1.0 / config.rope_theta.powf((2 * i) as f64 / config.head_dim as f64)) as f32;
    let frequencies: Vec<f32> = (0..half).map(frequency).collect();
    let mut table = Vec::with_capacity(config.max_positions * config.head_dim);
    for position in 0..config.max_positions {
        let angles = frequencies.iter().map(|frequency| position as f32 * frequency);
        table.extend(angles.clone().map(f32::cos));
        table.extend(angles.map(f32::sin));
    }
    table
}
