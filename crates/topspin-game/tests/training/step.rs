//! Steps: the first of an iteration, what moves the parameters, and what leaves them alone.

use std::f64::consts::LN_2;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use topspin_game::objective::{Additions, Loss, Objective};
use topspin_game::pair::{Example, Pair, Response, Tree, all_pairs};
use topspin_game::trainer::{TrainError, TrainSettings, Trainer};
use topspin_kernels::cpu::Cpu;
use topspin_kernels::gemm::Precision;

use crate::common::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn against_itself_the_loss_is_ln_2_and_every_margin_0(
        config in config(),
        seed in any::<u64>(),
        mut trees in trees(),
        beta in 0.05..5.0f64,
        batch_tokens in 1..80usize,
        bf16 in any::<bool>(),
    ) {
        let precision = if bf16 { Precision::Bf16 } else { Precision::F32 };
        let decoder = decoder(&config, &params(&config, seed), precision);
        let mut trainer = Trainer::new(decoder, settings(ADAMW, batch_tokens));
        score_trees(&trainer, &mut trees);
        for pair in all_pairs(&trees) {
            let one = trainer.spin_gradient(&trees, &[pair], &Loss::new(Objective::Logistic, beta)).unwrap();
            prop_assert_eq!(one.game.unwrap().margin, 0.0);
        }
        let step = trainer.spin_step(&trees, &all_pairs(&trees), &Loss::new(Objective::Logistic, beta)).unwrap();
        prop_assert_eq!(step.metrics.loss.to_bits(), LN_2.to_bits());
        let game = step.metrics.game.unwrap();
        prop_assert_eq!([game.reward_real, game.reward_generated, game.margin, game.accuracy], [0.0; 4]);
        let pairs = all_pairs(&trees);
        let sum = |response: &Response| response.logprobs.iter().map(|&x| f64::from(x)).sum::<f64>();
        let mean = |sums: Vec<f64>| sums.iter().sum::<f64>() / sums.len() as f64;
        let real = mean(pairs.iter().map(|pair| sum(&trees[pair.tree].real)).collect());
        let generated = mean(pairs.iter().map(|pair| sum(&trees[pair.tree].generated[pair.generated])).collect());
        prop_assert!((game.logp_real - real).abs() < 1e-9 && (game.logp_generated - generated).abs() < 1e-9);
    }
}

/// A model, trees scored by it, and a trainer.
fn example(settings: TrainSettings) -> (Vec<Tree>, Trainer<Cpu>) {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let config = config().new_tree(&mut runner).unwrap().current();
    let mut trees = trees().new_tree(&mut runner).unwrap().current();
    let trainer = trainer(&config, 5, settings);
    score_trees(&trainer, &mut trees);
    trees[0].real.logprobs[0] -= 1.0;
    (trees, trainer)
}

#[test]
fn steps_follow_the_schedule_and_lower_the_loss() {
    let settings = settings(ADAMW, 40);
    let (trees, mut trainer) = example(settings);
    let mut losses = Vec::new();
    for done in 0..6 {
        let step = trainer.spin_step(&trees, &all_pairs(&trees), &Loss::new(Objective::Logistic, 0.1)).unwrap();
        assert_eq!((step.metrics.step, step.metrics.lr), (done + 1, settings.schedule.at(done)));
        assert!(step.throughput.tokens > 0 && step.throughput.flops.0 > 0 && step.throughput.seconds > 0.0);
        losses.push(step.metrics.loss);
    }
    // The warm-up's first step has learning rate 0.
    assert_eq!(losses[0], losses[1]);
    assert!(losses[1..].is_sorted_by(|before, after| before > after), "{losses:?}");
}

#[test]
fn a_step_without_a_number_leaves_everything_as_it_was() {
    let (trees, mut trainer) = example(settings(ADAMW, 50));
    let (_, mut untouched) = example(settings(ADAMW, 50));
    let pairs = all_pairs(&trees);
    for trainer in [&mut trainer, &mut untouched] {
        trainer.spin_step(&trees, &pairs, &Loss::new(Objective::Logistic, 0.1)).unwrap();
    }
    let before = bits(&trainer.decoder().read_params());

    let mut bad = trees.clone();
    bad[0].real.logprobs[0] = f32::NAN;
    let error = trainer.spin_step(&bad, &pairs, &Loss::new(Objective::Logistic, 0.1)).unwrap_err();
    assert_eq!(error, TrainError::NotFinite { what: "loss", step: 2 });
    assert_eq!(error.to_string(), "the loss of step 2 is not a finite number; lower the learning rate");
    // The loss of equal log-ratios is ln 2 for any beta, but this one's derivative is beyond f32.
    let at_itself = |trainer: &Trainer<_>| {
        let mut trees = trees.clone();
        score_trees(trainer, &mut trees);
        trees
    };
    let error = trainer.spin_step(&at_itself(&trainer), &pairs, &Loss::new(Objective::Logistic, 1e40)).unwrap_err();
    assert_eq!(error, TrainError::NotFinite { what: "gradient", step: 2 });
    assert_eq!(bits(&trainer.decoder().read_params()), before);
    assert_eq!(trainer.steps(), 1);

    for trainer in [&mut trainer, &mut untouched] {
        trainer.spin_step(&trees, &pairs, &Loss::new(Objective::Logistic, 0.1)).unwrap();
    }
    assert_eq!(bits(&trainer.decoder().read_params()), bits(&untouched.decoder().read_params()));
    assert_ne!(bits(&trainer.decoder().read_params()), before);
}

#[test]
fn what_cannot_be_trained_on_is_named() {
    let (mut trees, mut trainer) = example(settings(ADAMW, 50));
    let mut spin = |trees: &[_], pairs: &[_]| {
        trainer.spin_step(trees, pairs, &Loss::new(Objective::Logistic, 0.1)).unwrap_err().to_string()
    };
    assert_eq!(spin(&trees, &[]), "step 1 has no examples; give it at least one");
    let first = [Pair { tree: 0, generated: 0 }];
    let generated = trees[0].generated[0].clone();
    trees[0].generated[0].logprobs.push(-1.0);
    let tokens = generated.token_ids.len();
    assert_eq!(
        spin(&trees, &first),
        format!(
            "a response to the prompt `a test's` has {tokens} tokens but {} log-probabilities of the opponent; score \
             its pairs anew",
            tokens + 1
        )
    );
    trees[0].generated[0] = generated;
    trees[0].real.token_ids = vec![1; 40];
    trees[0].real.logprobs = vec![-1.0; 40];
    assert!(spin(&trees, &first).contains("but the model's context holds 32"), "{}", spin(&trees, &first));
    trees[0].real.token_ids = vec![4000; 1];
    trees[0].real.logprobs = vec![-1.0; 1];
    assert!(spin(&trees, &first).contains("has the token 4000"), "{}", spin(&trees, &first));
    trees[0].real.token_ids.clear();
    trees[0].real.logprobs.clear();
    assert!(spin(&trees, &first).contains("has no tokens"), "{}", spin(&trees, &first));
    let with = |reverse_kl, objective| {
        let additions = Additions { reverse_kl, ..Additions::default() };
        Loss { objective, beta: 0.1, additions }
    };
    let (trees, _) = example(settings(ADAMW, 50));
    let error = trainer.spin_step(&trees, &first, &with(0.1, Objective::Logistic)).unwrap_err().to_string();
    let problem = format!("has {tokens} tokens but 0 log-probabilities of the base model; score its pairs anew");
    assert!(error.ends_with(&problem), "{error}");
    let error = trainer.spin_step(&trees, &first, &with(0.0, Objective::Triplet)).unwrap_err().to_string();
    let wanted = trees[0].generated.len();
    let problem = format!("has {wanted} generated responses but 0 of the base model; make its pairs anew");
    assert!(error.ends_with(&problem), "{error}");
    let example = Example { prompt_id: "b".into(), prompt: vec![], response: vec![1], turns: vec![] };
    let error = trainer.sft_step(&[example], &[0]).unwrap_err().to_string();
    assert_eq!(error, "the prompt `b` has no tokens; remove its record");
}
