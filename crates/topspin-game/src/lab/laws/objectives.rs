//! Where exact iterations of an objective go, and what samples leave.

use proptest::prelude::*;

use super::*;

proptest! {
    /// SPIN, Theorem 5.4, iteration by iteration; and the exponential objective, which has 2 beta in the place of beta.
    #[test]
    fn logistic_and_exponential_follow_the_law(world in world(), beta in 0.2..4.0f64) {
        for (objective, beta_of_law) in [(Objective::Logistic, beta), (Objective::Exponential, 2.0 * beta)] {
            let play = play(world.clone(), objective, beta);
            let mut policy = world.base.clone();
            // Below 1/2 errors grow, and margins with them until the slope of the loss is rounding error.
            let iterations = if beta_of_law < 0.5 { 1 } else { 4 };
            for Iteration { policy: next, found } in play.run(iterations) {
                let expected = logistic_law(&policy, &policy, &world.data, beta_of_law);
                prop_assert!(distance(&next, &expected) < 1e-9, "{objective:?}: {}", distance(&next, &expected));
                prop_assert_eq!(found, Found::Minimum);
                for (before, after) in error(&world.data, &policy).iter().zip(error(&world.data, &next)) {
                    prop_assert!((after - (1.0 - 1.0 / beta_of_law) * before).abs() < 1e-8, "{before} {after}");
                }
                policy = next;
            }
        }
    }

    #[test]
    fn beta_one_is_there_in_one_iteration_and_one_half_comes_back_in_two(world in world()) {
        let once = minimum(&play(world.clone(), Objective::Logistic, 1.0), std::slice::from_ref(&world.base));
        prop_assert!(distance(&once, &world.data) < 1e-9);
        let twice = play(world.clone(), Objective::Logistic, 0.5).run(2).pop().unwrap();
        prop_assert!(distance(&twice.policy, &world.base) < 1e-8);
    }

    /// `p = q (c d / q)^(|y| / beta)`: the constant, which lengths keep from cancelling, makes it sum to 1.
    #[test]
    fn length_normalized_steps_farther_where_responses_are_long(world in world(), beta in 3.0..20.0f64) {
        let next = minimum(&play(world.clone(), Objective::LengthNormalized, beta), std::slice::from_ref(&world.base));
        for (prompt, found) in next.log_probs().iter().enumerate() {
            let (data, base) = (&world.data.log_probs()[prompt], &world.base.log_probs()[prompt]);
            let at = |log_c: f64| -> Vec<f64> {
                let power = |y: usize| world.tokens[prompt][y] as f64 / beta;
                (0..data.len()).map(|y| base[y] + power(y) * (data[y] - base[y] + log_c)).collect()
            };
            let (mut low, mut high) = (-20.0, 20.0);
            for _ in 0..100 {
                let middle = 0.5 * (low + high);
                let mass: f64 = at(middle).iter().map(|log_prob| log_prob.exp()).sum();
                *(if mass > 1.0 { &mut high } else { &mut low }) = middle;
            }
            for (found, expected) in found.iter().zip(at(low)) {
                prop_assert!((found - expected).abs() < 1e-8, "{found} {expected}");
            }
        }
    }

    /// Near the data, one iteration multiplies the error by `1 - s / beta`, by `1 - (1 - 2 e) s / beta` with labels
    /// smoothed by `e`.
    #[test]
    fn errors_near_the_data_shrink_by_a_factor(world in world(), beta in 0.3..3.0f64, smoothing in 0.05..0.4f64) {
        let start = near(&world, 1e-4);
        for (objective, s) in [
            (Objective::Logistic, 1.0),
            (Objective::Exponential, 0.5),
            (Objective::Squared, 0.5),
            (Objective::Sppo, 0.25),
            (Objective::Space, 1.0),
        ] {
            for smoothing in [0.0, smoothing] {
                let additions = Additions { label_smoothing: smoothing, ..Additions::default() };
                let play = with(additions, play(world.clone(), objective, beta));
                let next = minimum(&play, std::slice::from_ref(&start));
                let factor = 1.0 - (1.0 - 2.0 * smoothing) * s / beta;
                for (before, after) in error(&world.data, &start).iter().zip(error(&world.data, &next)) {
                    prop_assert!((after - factor * before).abs() < 1e-6, "{objective:?}: {after} {before} {factor}");
                }
            }
        }
    }

    /// At q = d every objective but T-SPIN stays; with a minimum that no other policy shares but for hinge, linear and
    /// APO-zero, to whose loss all near policies are alike.
    #[test]
    fn the_data_are_a_fixed_point(world in world(), beta in 0.3..3.0f64) {
        for &objective in Objective::ALL.iter().filter(|&&objective| objective != Objective::Triplet) {
            let play = play(world.clone(), objective, beta);
            let Iteration { policy, found } = play.iterate(std::slice::from_ref(&world.data), 0);
            prop_assert!(distance(&policy, &world.data) < 1e-9, "{objective:?}: {}", distance(&policy, &world.data));
            let flat = [Objective::Hinge, Objective::Linear, Objective::ApoZero].contains(&objective);
            prop_assert_eq!(found, if flat { Found::Descent } else { Found::Minimum }, "{:?}", objective);
        }
    }

    #[test]
    fn space_is_there_in_one_iteration_at_beta_one(world in world()) {
        let next = minimum(&play(world.clone(), Objective::Space, 1.0), std::slice::from_ref(&world.base));
        prop_assert!(distance(&next, &world.data) < 1e-9);
    }

    /// Of two responses, hinge sets the margin to 1, however near the data are: a step of 1 / beta.
    #[test]
    fn hinge_takes_a_step_of_one_over_beta(seed: u64, beta in 0.3..3.0f64) {
        let world = World::random(1, 2, seed);
        let away = error(&world.data, &world.base)[0];
        prop_assume!(away.abs() > 1e-2);
        let Iteration { policy, .. } = play(world.clone(), Objective::Hinge, beta).iterate(std::slice::from_ref(&world.base), 0);
        let step = away - error(&world.data, &policy)[0];
        prop_assert!((step - away.signum() / (2.0 * beta)).abs() < 1e-4, "{step} {away}");
    }

    /// APO-zero is `1 + sum (q - d) sigmoid(beta r)`: a response that the opponent gives too often is to vanish.
    #[test]
    fn apo_zero_has_no_minimum(world in world(), beta in 0.5..3.0f64) {
        let play = play(world.clone(), Objective::ApoZero, beta);
        prop_assert_eq!(play.iterate(std::slice::from_ref(&world.base), 0).found, Found::Steps);
        let (data, base) = (world.data.probs(), world.base.probs());
        let excess = |y: usize| base[0][y] - data[0][y];
        let most = (0..base[0].len()).max_by(|&a, &b| excess(a).total_cmp(&excess(b))).unwrap();
        let losses = [0.0, 5.0, 10.0, 15.0].map(|fall: f64| {
            // What it loses goes to a response that the opponent gives too seldom.
            let least = (0..base[0].len()).min_by(|&a, &b| excess(a).total_cmp(&excess(b))).unwrap();
            let mut rows = world.base.log_probs().to_vec();
            rows[0][least] = (base[0][least] + base[0][most] * (1.0 - (-fall).exp())).ln();
            rows[0][most] -= fall;
            play.loss(&Table::from_logits(rows))
        });
        prop_assert!(losses.windows(2).all(|pair| pair[1] < pair[0]), "{losses:?}");
    }

    /// The linear objective's loss falls without end along its gradient: each step changes logits by the same amount.
    #[test]
    fn linear_has_no_minimum(world in world(), beta in 0.3..3.0f64) {
        let play = play(world.clone(), Objective::Linear, beta);
        prop_assert_eq!(play.iterate(std::slice::from_ref(&world.base), 0).found, Found::Steps);
        let flow = play.flow(100, 5);
        let losses: Vec<_> = flow.iter().map(|point| point.0).collect();
        for (at, pair) in losses.windows(2).enumerate() {
            let slope = losses[0];
            prop_assert!((pair[1] - pair[0] - slope).abs() < 1e-9 * (at + 2) as f64 * slope.abs(), "{losses:?}");
        }
        prop_assert!(losses[0] < 0.0);
    }

    /// T-SPIN has no reference: near the uniform distribution it goes to `(d / base)^(1 / (2 beta))` whatever the opponent.
    #[test]
    fn triplet_does_not_rest_on_the_data(seed: u64, responses in 3..7usize, beta in 0.5..3.0f64) {
        let mut world = World::random(1, responses, seed);
        let small = |table: &Table| Table::combined(&[table], |entries| 1e-4 * entries[0]);
        (world.data, world.base) = (small(&world.data), small(&world.base));
        let play = play(world.clone(), Objective::Triplet, beta);
        let rest = Table::combined(&[&world.data, &world.base], |entries| (entries[0] - entries[1]) / (2.0 * beta));
        for opponent in [&world.base, &world.data, &rest] {
            let next = minimum(&play, &[world.base.clone(), opponent.clone()]);
            prop_assert!(distance(&next, &rest) < 1e-6, "{}", distance(&next, &rest));
        }
    }

    /// Finite samples estimate the exact gradient.
    #[test]
    fn many_samples_step_like_all(world in world(), seed: u64) {
        let mut play = play(world.clone(), Objective::Linear, 1.0);
        play.descent = Descent { steps: 1, step_size: 1.0 };
        let exact = play.iterate(std::slice::from_ref(&world.base), 0);
        play.expectation = Expectation::Samples { draws: 10_000, seed };
        let sampled = play.iterate(std::slice::from_ref(&world.base), 0);
        prop_assert_eq!(sampled.found, Found::Steps);
        // Each share is within .005 by one standard deviation; a log-probability sums few of them.
        let off = distance(&exact.policy, &sampled.policy);
        prop_assert!(off > 0.0 && off < 0.06, "{off}");
    }
}

/// With N samples of n responses the divergence settles at about `(n - 1) / (N (2 beta - 1))`.
#[test]
fn samples_leave_a_divergence() {
    let (prompts, responses, draws, iterations) = (8, 5, 10_000, 30);
    for beta in [0.8, 1.0, 2.0] {
        let world = World::random(prompts, responses, 3);
        let mut play = play(World { base: world.data.clone(), ..world }, Objective::Logistic, beta);
        play.expectation = Expectation::Samples { draws, seed: 0 };
        play.descent = Descent { steps: 300, step_size: 3.0 / (beta * beta) };
        let divergences: Vec<_> =
            play.run(iterations).iter().map(|iteration| play.world.data.kl(&iteration.policy)).collect();
        let found = divergences[10..].iter().sum::<f64>() / (iterations - 10) as f64;
        let expected = (responses - 1) as f64 / (draws as f64 * (2.0 * beta - 1.0));
        assert!((found / expected - 1.0).abs() < 0.25, "beta {beta}: {found} {expected}");
    }
}
