//! Whatever runs beside a request, it gets what it gets alone.

use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;
use topspin_kernels::gemm::Precision;
use topspin_kernels::rng::Rng;
use topspin_rollout::{
    Completion, Engine, EngineSettings, Event, Progress, Request, RolloutError, SampleKey, Sampling, Task,
};

use crate::common::*;

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

/// What may be wanted of prompt `at`.
fn task(at: usize) -> impl Strategy<Value = Task> {
    let sample = (0..3u32, 1..40usize).prop_map(move |(sample, max_new_tokens)| Task::Sample {
        key: SampleKey { prompt: at as u64, sample },
        max_new_tokens,
    });
    let given = prop::collection::vec(0..VOCAB as u32, 1..40).prop_map(|token_ids| Task::Score { token_ids });
    prop_oneof![sample, given]
}

/// Requests over a few prompts, which begin alike now and then, in any order; some reach the context's end.
fn requests() -> impl Strategy<Value = Vec<Request>> {
    let prompts = prop::collection::vec(prop::collection::vec(0..VOCAB as u32, 1..=CONTEXT - 1), 1..4);
    prompts.prop_flat_map(|prompts| {
        let request = (0..prompts.len(), any::<bool>()).prop_flat_map(move |(at, short)| {
            let mut prompt = prompts[at].clone();
            if short {
                prompt.truncate(20);
            }
            task(at).prop_map(move |mut task| {
                if let Task::Score { token_ids } = &mut task {
                    // The last token is not fed.
                    token_ids.truncate(CONTEXT + 1 - prompt.len());
                }
                Request { prompt: prompt.clone(), task }
            })
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
        let limit = match &request.task {
            Task::Sample { max_new_tokens, .. } => (*max_new_tokens).min(CONTEXT - request.prompt.len()),
            Task::Score { token_ids } => token_ids.len(),
        };
        blocks(request.prompt.len()) + blocks(limit - 1)
    };
    requests.iter().map(of).max().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn equals_naive_work_whatever_runs_beside_it(
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
                    let drawn = match requests[request].task {
                        Task::Sample { .. } => (completion.token_ids.clone(), completion.logprobs.clone()),
                        Task::Score { .. } => Default::default(),
                    };
                    assert_eq!(streamed[request], drawn);
                    ended[request] += 1;
                }
                Event::Step(progress) => steps.push(progress),
            })
        });
        assert_same(&got.unwrap(), &expected)?;
        prop_assert!(ended.iter().all(|&times| times == 1));

        let last = steps[steps.len() - 1];
        let tokens: usize = streamed.iter().map(|(tokens, _)| tokens.len()).sum();
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
            let request = sample(prompt.clone(), 0, max_new_tokens);
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
