//! What steps are made of.

use std::sync::atomic::{AtomicBool, Ordering};

use topspin_kernels::gemm::Precision;
use topspin_model::batch::Batch;
use topspin_model::decoder::Flops;
use topspin_rollout::{Engine, EngineSettings, Finish, Request, RolloutError, SampleKey, Task};

use crate::common::*;

#[test]
fn samples_of_a_prompt_share_it() {
    let decoder = model(0);
    let requests: Vec<Request> = (0..10).map(|at| sample((0..40).collect(), at, 5)).collect();
    let prompt_rows = |live_sequences| {
        let settings = EngineSettings { live_sequences, ..EngineSettings::default() };
        steps_of(&decoder, settings, &requests).last().unwrap().prompt_rows
    };
    assert_eq!(prompt_rows(10), 40);
    // Five at a time: the second five begin from the last prompt row, computed again.
    assert_eq!(prompt_rows(5), 40 + 1);
    assert_eq!(prompt_rows(1), 40 + 9);
    // They need not stand side by side.
    let others = (0..10).map(|at| sample(vec![7, 8], at, 5));
    let interleaved: Vec<_> = requests.iter().cloned().zip(others).flat_map(|(a, b)| [a, b]).collect();
    let settings = EngineSettings { live_sequences: 10, ..EngineSettings::default() };
    assert_eq!(steps_of(&decoder, settings, &interleaved).last().unwrap().prompt_rows, 40 + 2);
}

#[test]
fn a_place_is_filled_at_once() {
    let decoder = model(0);
    // A long response and twenty of one token each: the second place serves one of them in each step.
    let mut requests = vec![sample(vec![1], 0, 21)];
    requests.extend((1..=20).map(|at| sample(vec![at], 0, 1)));
    let settings = EngineSettings { live_sequences: 2, ..EngineSettings::default() };
    let steps = steps_of(&decoder, settings, &requests);
    assert_eq!(steps.len(), 21);
    assert_eq!(steps.last().unwrap().tokens, 41);
}

#[test]
fn a_long_prompt_is_split_over_steps() {
    let decoder = model(0);
    let requests = [sample(vec![1, 2], 0, 10), sample((0..30).collect(), 0, 2)];
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
    let requests: Vec<Request> = (0..4).map(|at| sample(vec![at; 10], at, 60)).collect();
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
fn a_given_response_goes_with_its_prompt() {
    let decoder = model(0);
    let (prompt, given): (Vec<u32>, Vec<u32>) = ((0..40).collect(), (5..35).collect());
    let mut requests: Vec<Request> = (0..4).map(|at| sample(prompt.clone(), at, 5)).collect();
    requests.insert(2, score(prompt.clone(), given.clone()));
    let steps = steps_of(&decoder, EngineSettings::default(), &requests);
    assert_eq!((steps[0].rows, steps[0].tokens, steps[0].completed), (40 + 29, 4, 1));
    let last = steps.last().unwrap();
    assert_eq!((last.rows, last.prompt_rows, last.tokens), (40 + 29 + 4 * 4, 40, 4 * 5));
    // Two at a time: the third and fourth begin together from the last prompt row, computed again, and then the fifth.
    let settings = EngineSettings { live_sequences: 2, ..EngineSettings::default() };
    assert_eq!(steps_of(&decoder, settings, &requests).last().unwrap().prompt_rows, 40 + 2);

    // The work of a given response is that of its path with its log-probabilities.
    let path = [&prompt[..], &given[..29]].concat();
    let mut batch = Batch::default();
    batch.push(&path, &[], None, 0);
    batch.outputs = (39..69).collect();
    let alone = steps_of(&decoder, EngineSettings::default(), &[score(prompt, given)]);
    assert_eq!(alone[0].flops, Flops::forward(decoder.config(), None, &batch).0);
    assert_eq!((alone.len(), alone[0].tokens), (1, 0));
}

#[test]
fn a_given_response_fills_steps_up() {
    let decoder = model(0);
    let requests = [sample(vec![1, 2], 0, 10), score(vec![3, 4], (0..30).collect())];
    let settings = EngineSettings { rows_per_step: 8, ..EngineSettings::default() };
    let steps = steps_of(&decoder, settings, &requests);
    // Two prompts and 4 of its rows, then 7 at a time beside the sample's, then the last 4 of 29.
    assert_eq!(steps[..5].iter().map(|step| step.rows).collect::<Vec<_>>(), [8, 16, 24, 32, 37]);
    assert_eq!(steps[..5].iter().map(|step| step.completed).collect::<Vec<_>>(), [0, 0, 0, 0, 1]);
    assert_eq!((steps.len(), steps[9].tokens), (10, 10));
}

#[test]
fn a_given_response_that_gave_way_comes_back() {
    let decoder = model(1);
    let requests = [sample(vec![0; 10], 0, 60), score(vec![1; 10], (0..50).chain(0..10).collect())];
    // They grow side by side until one of them is in the other's way.
    let settings = |kv_slots| EngineSettings { rows_per_step: 2, kv_slots, ..EngineSettings::default() };
    let rows = |kv_slots| steps_of(&decoder, settings(kv_slots), &requests).last().unwrap().rows;
    assert_eq!(rows(None), 2 * (10 + 59));
    assert!(rows(Some(8 * 16)) > 2 * (10 + 59), "nothing gave way");
    let run = |kv_slots| Engine::new(&decoder, settings(kv_slots)).unwrap().run(&requests, |_, _| {}).unwrap();
    assert_eq!(run(None), run(Some(8 * 16)));
}

#[test]
fn a_stop_id_ends_a_given_response_only_where_it_ends() {
    let decoder = model(0);
    let settings = EngineSettings { stop_ids: vec![7], ..EngineSettings::default() };
    let requests = [vec![7, 3, 7], vec![7, 3], vec![7]].map(|given| score(vec![1, 2], given));
    let completions = Engine::new(&decoder, settings).unwrap().run(&requests, |_, _| {}).unwrap();
    let ends: Vec<_> = completions.iter().map(|completion| (completion.logprobs.len(), completion.finish)).collect();
    assert_eq!(ends, [(3, Finish::Stop), (2, Finish::Length), (1, Finish::Stop)]);
}

#[test]
fn a_prompt_that_was_let_go_is_computed_again() {
    let decoder = model(1);
    // The first sequence grows into the last free block while the others' prompt has no live sequence.
    let mut requests = vec![sample(vec![9; 10], 0, 60)];
    requests.extend((0..4).map(|at| sample((0..40).collect(), at, 1)));
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
    let requests: Vec<Request> = (0..70).map(|at| sample(vec![1, 2], at, 1)).collect();
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
        let request = Request { prompt: vec![3, 4, 5], task: Task::Sample { key, max_new_tokens: 20 } };
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
    let requests: Vec<Request> = (0..6).map(|at| sample(vec![at, at], 0, 2 + at as usize)).collect();
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
