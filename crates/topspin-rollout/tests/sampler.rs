//! The sampler against slow and obvious references.

use proptest::prelude::*;
use topspin_kernels::rng::Key;
use topspin_rollout::{RolloutError, Sampler, Sampling};

/// Probabilities after temperature, top-k and top-p, and how far the nearest cumulative mass lies from `top_p`: where it
/// is as close as rounding reaches, either side is right.
fn reference(logits: &[f32], Sampling { temperature, top_k, top_p }: Sampling) -> (Vec<f64>, f64) {
    let scaled: Vec<f64> = logits.iter().map(|&logit| f64::from(logit) / temperature).collect();
    let mut sorted = scaled.clone();
    sorted.sort_by(|a, b| b.total_cmp(a));
    let cut = if top_k == 0 || top_k > sorted.len() { f64::NEG_INFINITY } else { sorted[top_k - 1] };
    let softmax = |keep: &dyn Fn(usize) -> bool| -> Vec<f64> {
        let weight = |at: usize| if keep(at) { (scaled[at] - sorted[0]).exp() } else { 0.0 };
        let total: f64 = (0..scaled.len()).map(weight).sum();
        (0..scaled.len()).map(|at| weight(at) / total).collect()
    };
    let after_k = softmax(&|at| scaled[at] >= cut);
    // Mass strictly above each value, going down.
    let mut order: Vec<usize> = (0..scaled.len()).collect();
    order.sort_by(|&a, &b| scaled[b].total_cmp(&scaled[a]));
    let (mut above, mut mass, mut nearest) = (vec![0.0; scaled.len()], 0.0, f64::INFINITY);
    for equals in order.chunk_by(|&a, &b| scaled[a] == scaled[b]) {
        nearest = nearest.min((mass - top_p).abs());
        equals.iter().for_each(|&at| above[at] = mass);
        mass += equals.iter().map(|&at| after_k[at]).sum::<f64>();
    }
    if top_p == 1.0 {
        return (after_k, f64::INFINITY);
    }
    (softmax(&|at| scaled[at] >= cut && above[at] < top_p), nearest)
}

fn logits() -> impl Strategy<Value = Vec<f32>> {
    // Several blocks and a part of one; values with many ties, and values with none.
    let len = prop_oneof![1..40usize, 200..1500usize];
    len.prop_flat_map(|len| {
        prop_oneof![
            prop::collection::vec((-40..40i32).prop_map(|x| x as f32 * 0.25), len),
            prop::collection::vec(-12.0..12.0f32, len),
            prop::collection::vec((0..4i32).prop_map(|x| 100.0 - x as f32), len),
        ]
    })
}

fn sampling() -> impl Strategy<Value = Sampling> {
    let temperature = prop_oneof![Just(1.0), 0.05..4.0f64];
    let top_k = prop_oneof![Just(0), 1..12usize, 1..2000usize];
    let top_p = prop_oneof![Just(1.0), 0.001..1.0f64, 0.9..1.0f64];
    (temperature, top_k, top_p).prop_map(|(temperature, top_k, top_p)| Sampling { temperature, top_k, top_p })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Each token's share of [0, 1) is its probability, in order of id.
    #[test]
    fn draws_invert_the_reference(logits in logits(), sampling in sampling(), uniforms in prop::collection::vec(0.0..1.0f64, 20)) {
        let (probs, nearest) = reference(&logits, sampling);
        prop_assume!(nearest > 1e-5);
        let sampler = Sampler::new(sampling).unwrap();
        for uniform in uniforms.into_iter().chain([0.0, 1.0 - f64::EPSILON / 2.0]) {
            let token = sampler.sample(&logits, uniform) as usize;
            prop_assert!(probs[token] > 0.0, "{token} was cut");
            let below: f64 = probs[..token].iter().sum();
            prop_assert!(below - 1e-5 <= uniform && uniform <= below + probs[token] + 1e-5, "{token} at {uniform}");
        }
    }

    /// Whatever survives the cuts can be drawn, and nothing else: at the middle of each share.
    #[test]
    fn every_kept_token_can_be_drawn(logits in logits(), sampling in sampling()) {
        let (probs, nearest) = reference(&logits, sampling);
        prop_assume!(nearest > 1e-5);
        let sampler = Sampler::new(sampling).unwrap();
        let mut below = 0.0;
        for (token, &p) in probs.iter().enumerate() {
            if p > 1e-4 {
                prop_assert_eq!(sampler.sample(&logits, below + p / 2.0) as usize, token);
            }
            below += p;
        }
    }

    #[test]
    fn greedy_takes_the_first_of_the_largest(logits in logits(), uniform in 0.0..1.0f64) {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let first = logits.iter().position(|&logit| logit == largest).unwrap();
        prop_assert_eq!(Sampler::new(Sampling::greedy()).unwrap().sample(&logits, uniform) as usize, first);
        // A temperature too small for f32 to tell from 0, and one that makes all differences large.
        for temperature in [1e-300, 1e-30] {
            let token = Sampler::new(Sampling { temperature, ..Sampling::default() }).unwrap().sample(&logits, uniform);
            prop_assert_eq!(logits[token as usize], largest);
        }
    }
}

/// Pearson's statistic over cells that expect 5 draws at least, the rest in one, and the number of cells.
fn chi_square(counts: &[u32], probs: &[f64]) -> (f64, usize) {
    let draws: u32 = counts.iter().sum();
    let mut cells = vec![(0.0, 0.0)];
    for (&count, p) in counts.iter().zip(probs) {
        let (count, expected) = (f64::from(count), p * f64::from(draws));
        if expected >= 5.0 {
            cells.push((count, expected));
        } else {
            cells[0] = (cells[0].0 + count, cells[0].1 + expected);
        }
    }
    cells.retain(|&(_, expected)| expected > 0.0);
    (cells.iter().map(|(count, expected)| (count - expected).powi(2) / expected).sum(), cells.len())
}

/// Draws at the random numbers that the engine uses follow the softmax; the same draws do not follow that of a temperature 10% off.
#[test]
fn draws_follow_the_softmax() {
    let key = Key::new(5, "test", 0);
    for vocab_size in [40, 700] {
        let logits: Vec<f32> = (0..vocab_size).map(|at| (key.stream(1, 0).uniform(at) * 5.0) as f32).collect();
        let sampler = Sampler::new(Sampling::default()).unwrap();
        let mut counts = vec![0; logits.len()];
        for sample in 0..500 {
            for position in 0..400 {
                counts[sampler.sample(&logits, key.stream(2, sample).uniform(position)) as usize] += 1;
            }
        }
        let law = |temperature| reference(&logits, Sampling { temperature, ..Sampling::default() }).0;
        // Mean n - 1, variance 2 (n - 1); six standard deviations.
        let bound = |cells: usize| cells as f64 + 6.0 * (2.0 * cells as f64).sqrt();
        let (right, cells) = chi_square(&counts, &law(1.0));
        assert!(right < bound(cells), "{right} over {cells} cells");
        let (wrong, cells) = chi_square(&counts, &law(1.1));
        assert!(wrong > bound(cells), "{wrong} over {cells} cells: the test cannot tell");
    }
}

#[test]
fn broken_logits_give_some_id() {
    let broken = [vec![f32::NAN; 300], vec![f32::NEG_INFINITY; 300], vec![f32::INFINITY; 300], {
        let mut logits = vec![1.0; 300];
        logits[270] = f32::NAN;
        logits
    }];
    let settings = [
        Sampling::default(),
        Sampling::greedy(),
        Sampling { top_k: 3, ..Sampling::default() },
        Sampling { top_k: 290, top_p: 0.5, temperature: 2.0 },
        Sampling { top_p: 0.5, ..Sampling::default() },
    ];
    for logits in &broken {
        for sampling in settings {
            assert!((Sampler::new(sampling).unwrap().sample(logits, 0.7) as usize) < logits.len());
        }
    }
}

#[test]
fn settings_out_of_range_are_named() {
    let base = Sampling::default();
    let message = |sampling| match Sampler::new(sampling) {
        Err(error @ RolloutError::Setting { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        message(Sampling { temperature: -1.0, ..base }),
        "`temperature` is -1; it must be a finite number, 0 (greedy) or above"
    );
    assert!(message(Sampling { temperature: f64::NAN, ..base }).contains("`temperature` is NaN"));
    assert!(message(Sampling { temperature: f64::INFINITY, ..base }).contains("`temperature` is inf"));
    assert_eq!(message(Sampling { top_p: 1.5, ..base }), "`top_p` is 1.5; it must be above 0, and 1 at most");
    assert!(message(Sampling { top_p: 0.0, ..base }).contains("`top_p` is 0"));
    assert!(message(Sampling { top_p: f64::NAN, ..base }).contains("`top_p` is NaN"));
}
