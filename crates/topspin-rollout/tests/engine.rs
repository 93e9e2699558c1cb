//! The engine against naive generation: one sequence at a time, its whole path computed anew for every token.

use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;
use topspin_kernels::cpu::Cpu;
use topspin_kernels::device::Use;
use topspin_kernels::gemm::Precision;
use topspin_kernels::rng::{Key, Rng};
use topspin_model::batch::Batch;
use topspin_model::config::DecoderConfig;
use topspin_model::decoder::{Decoder, Keep, Tape};
use topspin_rollout::{
    Completion, Engine, EngineSettings, Event, Finish, Progress, Request, RolloutError, SampleKey, Sampler, Sampling,
};

const VOCAB: usize = 50;
const CONTEXT: usize = 80;

/// A model of random weights, sharp enough for its log-probabilities to differ.
fn model(seed: u64) -> Decoder<Cpu> {
    model_of(Precision::F32, VOCAB, seed)
}

fn model_of(precision: Precision, vocab_size: usize, seed: u64) -> Decoder<Cpu> {
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
    };
    let mut rng = Rng::new(seed, "model", 0);
    let params: Vec<f32> = (0..config.layout().len()).map(|_| 0.5 * rng.normal() as f32).collect();
    Decoder::new(Cpu::new(), config, params, precision, Use::Forward)
}

/// Rows of a path that is in no store, all of them in one span.
fn whole(path: &[u32]) -> Batch {
    let mut batch = Batch::default();
    batch.push(path, &[], None, 0);
    batch
}

/// One response, token by token.
fn naive(decoder: &Decoder<Cpu>, settings: &EngineSettings, request: &Request) -> Completion {
    let sampler = Sampler::new(settings.sampling).unwrap();
    let stream = Key::new(settings.seed, "rollout", settings.iteration).stream(request.key.prompt, request.key.sample);
    let mut tape = Tape::new(decoder.device(), Keep::Nothing);
    let mut path = request.prompt.clone();
    let finish = loop {
        let position = path.len() - request.prompt.len();
        let mut batch = whole(&path);
        batch.outputs.push(path.len() as u32 - 1);
        let mut kv = decoder.kv(path.len());
        let choices = decoder.next_tokens(&batch, &mut kv, &mut tape, |_, logits, tokens| {
            tokens[0] = sampler.sample(logits, stream.uniform(position as u32));
        });
        path.push(choices[0].token);
        if settings.stop_ids.contains(&choices[0].token) {
            break Finish::Stop;
        }
        if position + 1 == request.max_new_tokens || path.len() == CONTEXT {
            break Finish::Length;
        }
    };
    // Log-probabilities by scoring: the response's rows but the last predict it.
    let first = request.prompt.len();
    let mut batch = whole(&path[..path.len() - 1]);
    batch.outputs = (first as u32 - 1..path.len() as u32 - 1).collect();
    batch.targets = path[first..].to_vec();
    let logprobs = decoder.logprobs(&batch, &mut tape);
    Completion { token_ids: path.split_off(first), logprobs, finish }
}

/// Equal to the bit.
fn assert_same(got: &[Completion], expected: &[Completion]) -> Result<(), TestCaseError> {
    let bits = |completion: &Completion| completion.logprobs.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    prop_assert_eq!(got.len(), expected.len());
    for (got, expected) in got.iter().zip(expected) {
        prop_assert_eq!(&got.token_ids, &expected.token_ids);
        prop_assert_eq!(got.finish, expected.finish);
        prop_assert_eq!(bits(got), bits(expected), "{:?} is not {:?}", got, expected);
    }
    Ok(())
}

/// Requests over a few prompts, which begin alike now and then, in any order; some reach the context's end.
fn requests() -> impl Strategy<Value = Vec<Request>> {
    let prompts = prop::collection::vec(prop::collection::vec(0..VOCAB as u32, 1..=CONTEXT - 1), 1..4);
    prompts.prop_flat_map(|prompts| {
        let request =
            (0..prompts.len(), 0..3u32, 1..40usize, any::<bool>()).prop_map(move |(at, sample, limit, short)| {
                let mut prompt = prompts[at].clone();
                if short {
                    prompt.truncate(20);
                }
                Request { prompt, key: SampleKey { prompt: at as u64, sample }, max_new_tokens: limit }
            });
        prop::collection::vec(request, 1..12)
    })
}

fn sampling() -> impl Strategy<Value = Sampling> {
    prop_oneof![
        3 => Just(Sampling::default()),
        1 => Just(Sampling::greedy()),
        1 => (0.3..2.0f64, 0..20usize, 0.3..1.0f64)
            .prop_map(|(temperature, top_k, top_p)| Sampling { temperature, top_k, top_p }),
    ]
}

/// The fewest slots with which each request can be completed alone.
fn fewest_slots(requests: &[Request]) -> usize {
    let blocks = |len: usize| len.next_multiple_of(16);
    let of = |request: &Request| {
        let limit = request.max_new_tokens.min(CONTEXT - request.prompt.len());
        blocks(request.prompt.len()) + blocks(limit - 1)
    };
    requests.iter().map(of).max().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn equals_naive_generation_whatever_runs_beside_it(
        (precision, model_seed) in (prop_oneof![Just(Precision::F32), Just(Precision::Bf16)], 0..4u64),
        (requests, order_seed) in (requests(), any::<u64>()),
        sampling in sampling(),
        stop_ids in prop::collection::vec(0..VOCAB as u32, 0..3),
        (seed, iteration) in (any::<u64>(), 0..3u64),
        live_sequences in 1..14usize,
        rows_per_step in prop_oneof![1..8usize, 1..200usize],
        spare_slots in prop_oneof![2 => (0..200usize).prop_map(Some), 1 => Just(None)],
        threads in 1..=3usize,
    ) {
        let decoder = model_of(precision, VOCAB, model_seed);
        let kv_slots = spare_slots.map(|spare| fewest_slots(&requests) + spare);
        let settings =
            EngineSettings { live_sequences, rows_per_step, kv_slots, stop_ids, sampling, seed, iteration };
        let expected: Vec<Completion> = requests.iter().map(|request| naive(&decoder, &settings, request)).collect();

        let mut order: Vec<usize> = (0..requests.len()).collect();
        Rng::new(order_seed, "order", 0).shuffle(&mut order);
        let requests: Vec<Request> = order.iter().map(|&at| requests[at].clone()).collect();
        let expected: Vec<Completion> = order.iter().map(|&at| expected[at].clone()).collect();

        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let mut ended = vec![0; requests.len()];
        let mut streamed = vec![(Vec::new(), Vec::new()); requests.len()];
        let mut steps: Vec<Progress> = vec![Progress::default()];
        let got = pool.install(|| {
            let mut engine = Engine::new(&decoder, settings.clone()).unwrap();
            engine.run_with(&requests, |event| match event {
                Event::Token { request, token, logprob } => {
                    streamed[request].0.push(token);
                    streamed[request].1.push(logprob);
                }
                Event::Completion { request, completion } => {
                    assert_eq!(streamed[request], (completion.token_ids.clone(), completion.logprobs.clone()));
                    ended[request] += 1;
                }
                Event::Step(progress) => steps.push(progress),
            })
        });
        assert_same(&got.unwrap(), &expected)?;
        prop_assert!(ended.iter().all(|&times| times == 1));

        let last = steps[steps.len() - 1];
        let tokens: usize = expected.iter().map(|completion| completion.token_ids.len()).sum();
        prop_assert_eq!(last.tokens, tokens as u64);
        prop_assert_eq!((last.completed, last.live, last.waiting), (requests.len(), 0, 0));
        for steps in steps.windows(2) {
            prop_assert!(steps[1].live <= live_sequences);
            prop_assert!((1..=rows_per_step as u64).contains(&(steps[1].rows - steps[0].rows)));
            prop_assert_eq!(steps[1].completed + steps[1].live + steps[1].waiting, requests.len());
        }
    }

    /// Turns of a conversation compute only what is new, whether the last turn ended or was stopped.
    #[test]
    fn a_conversation_continues_what_is_stored(
        first in prop::collection::vec(0..VOCAB as u32, 1..20),
        turns in prop::collection::vec((prop::collection::vec(0..VOCAB as u32, 1..6), 1..8usize), 1..4),
        stopped in any::<bool>(),
        (cut, replacement) in (1..30usize, prop::option::of(0..VOCAB as u32)),
    ) {
        let decoder = model(1);
        let settings = EngineSettings { kv_slots: Some(CONTEXT + 48), ..EngineSettings::default() };
        let stop = AtomicBool::new(false);
        let mut engine = Engine::new(&decoder, settings.clone()).unwrap().stop_when(&stop);
        let mut prompt = first;
        let mut stored: Vec<u32> = Vec::new();
        for (turn, (addition, max_new_tokens)) in turns.into_iter().enumerate() {
            if turn == 1 {
                // Back to an earlier point, with or without another token there.
                prompt.truncate(cut);
                prompt.extend(replacement);
            }
            let request = Request { prompt: prompt.clone(), key: SampleKey::default(), max_new_tokens };
            let mut tokens = Vec::new();
            let mut prompt_rows = 0;
            let stop_after = if stopped && turn == 0 { 1 } else { max_new_tokens };
            let run = engine.run_with(std::slice::from_ref(&request), |event| match event {
                Event::Token { token, .. } => {
                    tokens.push(token);
                    stop.store(tokens.len() == stop_after, Ordering::Relaxed);
                }
                Event::Step(progress) => prompt_rows = progress.prompt_rows,
                Event::Completion { .. } => {}
            });
            stop.store(false, Ordering::Relaxed);
            let expected = naive(&decoder, &settings, &request);
            match run {
                Ok(completions) => assert_same(&completions, &[expected])?,
                Err(error) => {
                    prop_assert_eq!(error, RolloutError::Stopped { completed: 0, requests: 1 });
                    prop_assert_eq!(&tokens[..], &expected.token_ids[..1]);
                }
            }
            // The last prompt row is computed in any case.
            let common = prompt.iter().zip(&stored).take_while(|(a, b)| a == b).count();
            prop_assert_eq!(prompt_rows as usize, prompt.len() - common.min(prompt.len() - 1));
            prompt.extend(tokens);
            stored = prompt[..prompt.len() - 1].to_vec();
            prompt.extend(addition);
        }
    }
}

fn request(prompt: Vec<u32>, sample: u32, max_new_tokens: usize) -> Request {
    Request { prompt, key: SampleKey { prompt: 0, sample }, max_new_tokens }
}

/// The progress after each step.
fn steps_of(decoder: &Decoder<Cpu>, settings: EngineSettings, requests: &[Request]) -> Vec<Progress> {
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

#[test]
fn samples_of_a_prompt_share_it() {
    let decoder = model(0);
    let requests: Vec<Request> = (0..10).map(|sample| request((0..40).collect(), sample, 5)).collect();
    let prompt_rows = |live_sequences| {
        let settings = EngineSettings { live_sequences, ..EngineSettings::default() };
        steps_of(&decoder, settings, &requests).last().unwrap().prompt_rows
    };
    assert_eq!(prompt_rows(10), 40);
    // Five at a time: the second five begin from the last prompt row, computed again.
    assert_eq!(prompt_rows(5), 40 + 1);
    assert_eq!(prompt_rows(1), 40 + 9);
    // They need not stand side by side.
    let mut interleaved = requests.clone();
    interleaved.extend((0..10).map(|sample| request(vec![7, 8], sample, 5)));
    interleaved.sort_by_key(|request| request.key.sample);
    let settings = EngineSettings { live_sequences: 10, ..EngineSettings::default() };
    assert_eq!(steps_of(&decoder, settings, &interleaved).last().unwrap().prompt_rows, 40 + 2);
}

#[test]
fn a_place_is_filled_at_once() {
    let decoder = model(0);
    // A long response and twenty of one token each: the second place serves one of them in each step.
    let mut requests = vec![request(vec![1], 0, 21)];
    requests.extend((1..=20).map(|at| request(vec![at], 0, 1)));
    let settings = EngineSettings { live_sequences: 2, ..EngineSettings::default() };
    let steps = steps_of(&decoder, settings, &requests);
    assert_eq!(steps.len(), 21);
    assert_eq!(steps.last().unwrap().tokens, 41);
}

#[test]
fn a_long_prompt_is_split_over_steps() {
    let decoder = model(0);
    let requests = [request(vec![1, 2], 0, 10), request((0..30).collect(), 0, 2)];
    let settings = EngineSettings { rows_per_step: 8, ..EngineSettings::default() };
    let steps = steps_of(&decoder, settings, &requests);
    // The first sequence goes on beside the second one's prompt: 6 rows of it, then 7 three times, then 3.
    assert_eq!(steps[..5].iter().map(|step| step.rows).collect::<Vec<_>>(), [8, 16, 24, 32, 36]);
    assert_eq!(steps[..5].iter().map(|step| step.tokens).collect::<Vec<_>>(), [1, 2, 3, 4, 6]);
    assert_eq!(steps.len(), 10);
}

#[test]
fn sequences_that_gave_way_come_back() {
    let decoder = model(1);
    // Each alone fits into the store; four of them do not.
    let requests: Vec<Request> = (0..4).map(|at| request(vec![at; 10], at, 60)).collect();
    let settings = |kv_slots| EngineSettings { kv_slots, ..EngineSettings::default() };
    let rows = |kv_slots| steps_of(&decoder, settings(kv_slots), &requests).last().unwrap().rows;
    assert_eq!(rows(None), 4 * (10 + 59));
    assert!(rows(Some(16 + 64)) >= 4 * (10 + 59));
    assert!(rows(Some(16 + 64 + 80)) > 4 * (10 + 59), "nothing was computed again, so nothing gave way");
    let run = |kv_slots| {
        let mut order = Vec::new();
        let mut engine = Engine::new(&decoder, settings(kv_slots)).unwrap();
        let completions = engine.run(&requests, |request, _| order.push(request)).unwrap();
        assert_eq!(order, [0, 1, 2, 3], "the last must give way, and come back first");
        completions
    };
    assert_eq!(run(None), run(Some(16 + 64)));
    assert_eq!(run(None), run(Some(16 + 64 + 80)));
}

#[test]
fn a_prompt_that_was_let_go_is_computed_again() {
    let decoder = model(1);
    // The first sequence grows into the last free block while the others' prompt has no live sequence.
    let mut requests = vec![request(vec![9; 10], 0, 60)];
    requests.extend((0..4).map(|sample| request((0..40).collect(), sample, 1)));
    let settings = |kv_slots| EngineSettings { live_sequences: 2, kv_slots, ..EngineSettings::default() };
    let prompt_rows = |kv_slots| steps_of(&decoder, settings(kv_slots), &requests).last().unwrap().prompt_rows;
    assert_eq!(prompt_rows(None), 10 + 40 + 3);
    assert!(prompt_rows(Some(80)) > 10 + 40 + 40, "the prompt was never let go");
    let run = |kv_slots| Engine::new(&decoder, settings(kv_slots)).unwrap().run(&requests, |_, _| {}).unwrap();
    assert_eq!(run(None), run(Some(80)));
}

#[test]
fn logits_in_several_chunks_go_to_their_sequences() {
    // 2^24 logits are held at once, those of 64 outputs here.
    let decoder = model_of(Precision::F32, 1 << 18, 0);
    let requests: Vec<Request> = (0..70).map(|sample| request(vec![1, 2], sample, 1)).collect();
    let run = |live_sequences| {
        let settings = EngineSettings { live_sequences, ..EngineSettings::default() };
        Engine::new(&decoder, settings).unwrap().run(&requests, |_, _| {}).unwrap()
    };
    assert_eq!(run(70), run(35));
}

#[test]
fn keys_seed_and_iteration_decide() {
    let decoder = model(2);
    let run = |seed, iteration, key| {
        let settings = EngineSettings { seed, iteration, ..EngineSettings::default() };
        let request = Request { prompt: vec![3, 4, 5], key, max_new_tokens: 20 };
        Engine::new(&decoder, settings).unwrap().run(&[request], |_, _| {}).unwrap().remove(0).token_ids
    };
    let key = |prompt, sample| SampleKey { prompt, sample };
    let base = run(1, 1, key(1, 1));
    assert_eq!(base, run(1, 1, key(1, 1)));
    for other in [run(2, 1, key(1, 1)), run(1, 2, key(1, 1)), run(1, 1, key(2, 1)), run(1, 1, key(1, 2))] {
        assert_ne!(base, other);
    }
}

#[test]
fn no_request_is_no_work() {
    let decoder = model(0);
    let completions = Engine::new(&decoder, EngineSettings::default()).unwrap().run(&[], |_, _| panic!("of what?"));
    assert_eq!(completions, Ok(Vec::new()));
}

#[test]
fn a_run_can_be_stopped_and_the_engine_used_again() {
    let decoder = model(0);
    let requests: Vec<Request> = (0..6).map(|at| request(vec![at, at], 0, 2 + at as usize)).collect();
    let stop = AtomicBool::new(false);
    let mut engine = Engine::new(&decoder, EngineSettings::default()).unwrap().stop_when(&stop);
    let mut ended = Vec::new();
    let stopped = engine.run(&requests, |request, _| {
        ended.push(request);
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(stopped, Err(RolloutError::Stopped { completed: 1, requests: 6 }));
    assert_eq!(ended, [0]);
    stop.store(false, Ordering::Relaxed);
    let fresh = Engine::new(&decoder, EngineSettings::default()).unwrap().run(&requests, |_, _| {});
    assert_eq!(engine.run(&requests, |_, _| {}), fresh);
}

#[test]
fn diverged_weights_are_an_error() {
    let mut decoder = model(1);
    decoder.update(|_, params| params[0] = f32::NAN);
    let good = request(vec![1], 0, 1);
    let bad = request(vec![0], 0, 1);
    let run = Engine::new(&decoder, EngineSettings::default()).unwrap().run(&[good, bad], |_, _| {});
    assert_eq!(run, Err(RolloutError::NotFinite { request: 1, at: 0 }));
}

#[test]
fn requests_that_cannot_be_run_are_named() {
    let decoder = model(0);
    let good = request(vec![1], 0, 1);
    let message = |settings: EngineSettings, bad: Request| {
        let mut engine = Engine::new(&decoder, settings).unwrap();
        engine.run(&[good.clone(), bad], |_, _| panic!("nothing should run")).unwrap_err().to_string()
    };
    let settings = EngineSettings::default;
    assert_eq!(
        message(settings(), request(vec![1; CONTEXT], 0, 1)),
        "the prompt of request 1 has 80 tokens, which leaves no room for a response in the model's context of 80: \
         shorten it to 79 tokens or fewer"
    );
    assert_eq!(
        message(settings(), request(vec![], 0, 1)),
        "the prompt of request 1 is empty: give it one token at least, such as the beginning-of-text token"
    );
    assert_eq!(
        message(settings(), request(vec![3, 50], 0, 1)),
        "token 1 of the prompt of request 1 is 50, outside the model's vocabulary of 50: encode it with the tokenizer \
         of this model"
    );
    assert_eq!(
        message(settings(), request(vec![3], 0, 0)),
        "`max_new_tokens` of request 1 is 0; it must be 1 at least"
    );
    assert_eq!(
        message(EngineSettings { kv_slots: Some(60), ..settings() }, request(vec![3; 20], 0, 30)),
        "request 1 needs up to 64 key/value slots, but `kv_slots` is 60: raise it to 64"
    );
}

#[test]
fn settings_out_of_range_are_named() {
    let decoder = model(0);
    let message = |settings| Engine::new(&decoder, settings).err().unwrap().to_string();
    let base = EngineSettings::default;
    assert_eq!(message(EngineSettings { live_sequences: 0, ..base() }), "`live_sequences` is 0; it must be 1 at least");
    assert_eq!(message(EngineSettings { rows_per_step: 0, ..base() }), "`rows_per_step` is 0; it must be 1 at least");
    let sampling = Sampling { top_p: 2.0, ..Sampling::default() };
    assert!(message(EngineSettings { sampling, ..base() }).starts_with("`top_p` is 2;"));
}
