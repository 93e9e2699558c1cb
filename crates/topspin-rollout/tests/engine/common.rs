//! Small random models, and what a request gets without an engine.

use topspin_kernels::cpu::Cpu;
use topspin_kernels::device::Use;
use topspin_kernels::gemm::Precision;
use topspin_kernels::rng::{Key, Rng};
use topspin_model::batch::Batch;
use topspin_model::config::DecoderConfig;
use topspin_model::decoder::{Decoder, Keep, Tape};
use topspin_rollout::{Completion, Engine, EngineSettings, Event, Finish, Progress, Request, SampleKey, Sampler, Task};

pub const VOCAB: usize = 50;
pub const CONTEXT: usize = 80;

/// A model of random weights, sharp enough for its log-probabilities to differ.
pub fn model(seed: u64) -> Decoder<Cpu> {
    model_of(Precision::F32, VOCAB, seed)
}

pub fn model_of(precision: Precision, vocab_size: usize, seed: u64) -> Decoder<Cpu> {
    let config = DecoderConfig {
        vocab_size,
        hidden_size: 16,
        intermediate_size: 24,
        num_layers: 2,
        num_heads: 4,
        num_kv_heads: 2,
        head_dim: 6,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        max_positions: CONTEXT,
        tie_word_embeddings: seed.is_multiple_of(2),
        ..DecoderConfig::default()
    };
    let mut rng = Rng::new(seed, "model", 0);
    let params: Vec<f32> = (0..config.layout().len()).map(|_| 0.5 * rng.normal() as f32).collect();
    Decoder::new(Cpu::new(), config, params.into(), precision, Use::Forward)
}

/// Rows of a path that is in no store, all of them in one span.
fn whole(path: &[u32]) -> Batch {
    let mut batch = Batch::default();
    batch.push(path, &[], None, 0);
    batch
}

/// What a request gets, token by token.
pub fn naive(decoder: &Decoder<Cpu>, settings: &EngineSettings, request: &Request) -> Completion {
    let token_ids = match &request.task {
        Task::Sample { key, max_new_tokens } => naive_tokens(decoder, settings, &request.prompt, *key, *max_new_tokens),
        Task::Score { token_ids } => token_ids.clone(),
    };
    let stops = settings.stop_ids.contains(&token_ids[token_ids.len() - 1]);
    let finish = if stops { Finish::Stop } else { Finish::Length };
    // Log-probabilities by scoring: the response's rows but the last predict it.
    let first = request.prompt.len();
    let path = [&request.prompt[..], &token_ids].concat();
    let mut batch = whole(&path[..path.len() - 1]);
    batch.outputs = (first as u32 - 1..path.len() as u32 - 1).collect();
    batch.targets = token_ids.clone();
    let logprobs = decoder.logprobs(&batch, &mut Tape::new(decoder.device(), Keep::Nothing));
    Completion { token_ids, logprobs, finish }
}

/// The tokens of a sample.
fn naive_tokens(
    decoder: &Decoder<Cpu>,
    settings: &EngineSettings,
    prompt: &[u32],
    key: SampleKey,
    max_new_tokens: usize,
) -> Vec<u32> {
    let sampler = Sampler::new(settings.sampling).unwrap();
    let stream = Key::new(settings.seed, "rollout", settings.iteration).stream(key.prompt, key.sample);
    let mut tape = Tape::new(decoder.device(), Keep::Nothing);
    let mut path = prompt.to_vec();
    loop {
        let position = path.len() - prompt.len();
        let mut batch = whole(&path);
        batch.outputs.push(path.len() as u32 - 1);
        let mut kv = decoder.kv(path.len());
        let choices = decoder.next_tokens(&batch, &mut kv, &mut tape, |_, logits, tokens| {
            tokens[0] = sampler.sample(logits, stream.uniform(position as u32));
        });
        path.push(choices[0].token);
        let stops = settings.stop_ids.contains(&choices[0].token);
        if stops || position + 1 == max_new_tokens || path.len() == CONTEXT {
            return path.split_off(prompt.len());
        }
    }
}

/// A request for a sample.
pub fn sample(prompt: Vec<u32>, sample: u32, max_new_tokens: usize) -> Request {
    Request { prompt, task: Task::Sample { key: SampleKey { prompt: 0, sample }, max_new_tokens } }
}

/// A request for the log-probabilities of a given response.
pub fn score(prompt: Vec<u32>, token_ids: Vec<u32>) -> Request {
    Request { prompt, task: Task::Score { token_ids } }
}

/// The progress after each step.
pub fn steps_of(decoder: &Decoder<Cpu>, settings: EngineSettings, requests: &[Request]) -> Vec<Progress> {
    let mut steps = Vec::new();
    let mut engine = Engine::new(decoder, settings).unwrap();
    let run = engine.run_with(requests, |event| {
        if let Event::Step(progress) = event {
            steps.push(progress);
        }
    });
    run.unwrap();
    steps
}
