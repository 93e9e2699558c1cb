//! Requests and settings that cannot be run.

use topspin_rollout::{Engine, EngineSettings, Request, RolloutError, Sampling};

use crate::common::*;

#[test]
fn requests_that_cannot_be_run_are_named() {
    let decoder = model(0);
    let good = sample(vec![1], 0, 1);
    let message = |settings: EngineSettings, bad: Request| {
        let mut engine = Engine::new(&decoder, settings).unwrap();
        engine.run(&[good.clone(), bad], |_, _| panic!("nothing should run")).unwrap_err().to_string()
    };
    let settings = EngineSettings::default;
    assert_eq!(
        message(settings(), sample(vec![1; CONTEXT], 0, 1)),
        "the prompt of request 1 has 80 tokens, which leaves no room for a response in the model's context of 80: \
         shorten it to 79 tokens or fewer"
    );
    assert_eq!(
        message(settings(), sample(vec![], 0, 1)),
        "the prompt of request 1 is empty: give it one token at least, such as the beginning-of-text token"
    );
    assert_eq!(
        message(settings(), sample(vec![3, 50], 0, 1)),
        "token 1 of the prompt of request 1 is 50, outside the model's vocabulary of 50: encode it with the tokenizer \
         of this model"
    );
    assert_eq!(
        message(settings(), score(vec![3, 50], vec![4])),
        "token 1 of the prompt of request 1 is 50, outside the model's vocabulary of 50: encode it with the tokenizer \
         of this model"
    );
    assert_eq!(
        message(settings(), score(vec![3], vec![4, 5, 51])),
        "token 2 of the response of request 1 is 51, outside the model's vocabulary of 50: encode it with the \
         tokenizer of this model"
    );
    assert_eq!(
        message(settings(), score(vec![3], vec![])),
        "the response of request 1 is empty: give it one token at least, such as the end-of-turn token"
    );
    assert_eq!(
        message(settings(), score(vec![3; 30], vec![4; 52])),
        "the prompt of request 1 and its response have 82 tokens, but the model's context holds 80: shorten them"
    );
    assert_eq!(
        message(EngineSettings { kv_slots: Some(60), ..settings() }, score(vec![3; 20], vec![4; 30])),
        "request 1 needs up to 64 key/value slots, but `kv_slots` is 60: raise it to 64"
    );
    assert_eq!(message(settings(), sample(vec![3], 0, 0)), "`max_new_tokens` of request 1 is 0; it must be 1 at least");
    assert_eq!(
        message(EngineSettings { kv_slots: Some(60), ..settings() }, sample(vec![3; 20], 0, 30)),
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

#[test]
fn diverged_weights_are_an_error() {
    let mut decoder = model(1);
    decoder.update(|_, params| params[0] = f32::NAN);
    let good = sample(vec![1], 0, 1);
    let bad = sample(vec![0], 0, 1);
    let run = Engine::new(&decoder, EngineSettings::default()).unwrap().run(&[good, bad], |_, _| {});
    assert_eq!(run, Err(RolloutError::NotFinite { request: 1, at: 0 }));
    // The damaged embedding is read behind the second token.
    let bad = score(vec![1], vec![2, 0, 3]);
    let run = Engine::new(&decoder, EngineSettings::default()).unwrap().run(&[bad], |_, _| {});
    assert_eq!(run, Err(RolloutError::NotFinite { request: 0, at: 2 }));
}
