//! What docs/method.md says about objectives, additions and opponents, on random tables.

use proptest::prelude::*;

use super::*;
use crate::objective::{Additions, Loss, Objective};
use crate::opponent::{Opponent, Weights};

const WEIGHTS: Weights = Weights { history_decay: 1.0, average_decay: 0.6, mixture: 0.3 };

fn world() -> impl Strategy<Value = World> {
    (1..3usize, 3..7usize, any::<u64>()).prop_map(|(prompts, responses, seed)| World::random(prompts, responses, seed))
}

fn play(world: World, objective: Objective, beta: f64) -> Play {
    let descent = Descent { steps: 100, step_size: 1.0 };
    let loss = Loss::new(objective, beta);
    Play { world, loss, opponent: Opponent::Latest, weights: WEIGHTS, expectation: Expectation::Exact, descent }
}

fn with(additions: Additions, mut play: Play) -> Play {
    play.loss.additions = additions;
    play
}

/// Largest difference of log-probabilities.
fn distance(a: &Table, b: &Table) -> f64 {
    let pairs = a.log_probs().iter().flatten().zip(b.log_probs().iter().flatten());
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// `log(data / policy)` with its mean over responses taken off: what is left of it in margins.
fn error(data: &Table, policy: &Table) -> Vec<f64> {
    let row = |(data, policy): (&Vec<f64>, &Vec<f64>)| -> Vec<f64> {
        let errors: Vec<f64> = data.iter().zip(policy).map(|(data, policy)| data - policy).collect();
        let mean = errors.iter().sum::<f64>() / errors.len() as f64;
        errors.iter().map(|error| error - mean).collect()
    };
    data.log_probs().iter().zip(policy.log_probs()).flat_map(row).collect()
}

/// `data e^(-size error)`: a table whose error is `size` times that of the base.
fn near(world: &World, size: f64) -> Table {
    Table::combined(&[&world.data, &world.base], |entries| (1.0 - size) * entries[0] + size * entries[1])
}

/// The policy that follows `models`, which must be a minimum.
fn minimum(play: &Play, models: &[Table]) -> Table {
    let Iteration { policy, found } = play.iterate(models, models.len() - 1);
    assert_eq!(found, Found::Minimum, "{:?}", play.loss);
    policy
}

proptest! {
    /// SPIN, Theorem 5.4, iteration by iteration; and the exponential objective, which has 2 beta in the place of beta.
    #[test]
    fn logistic_and_exponential_follow_the_law(world in world(), beta in 0.4..4.0f64) {
        for (objective, beta_of_law) in [(Objective::Logistic, beta), (Objective::Exponential, 2.0 * beta)] {
            let play = play(world.clone(), objective, beta);
            let mut policy = world.base.clone();
            for Iteration { policy: next, found } in play.run(4) {
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
        let once = minimum(&play(world.clone(), Objective::Logistic, 1.0), &[world.base.clone()]);
        prop_assert!(distance(&once, &world.data) < 1e-9);
        let twice = play(world.clone(), Objective::Logistic, 0.5).run(2).pop().unwrap();
        prop_assert!(distance(&twice.policy, &world.base) < 1e-8);
    }

    /// `p = q (c d / q)^(|y| / beta)`: the constant, which lengths keep from cancelling, makes it sum to 1.
    #[test]
    fn length_normalized_steps_farther_where_responses_are_long(world in world(), beta in 3.0..20.0f64) {
        let next = minimum(&play(world.clone(), Objective::LengthNormalized, beta), &[world.base.clone()]);
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
        let next = minimum(&play(world.clone(), Objective::Space, 1.0), &[world.base.clone()]);
        prop_assert!(distance(&next, &world.data) < 1e-9);
    }

    /// With samples of density q and a reference r: `p = r (d / q)^(1 / beta)`, for every opponent.
    #[test]
    fn opponents_follow_the_law_with_their_own_reference(world in world(), beta in 0.7..3.0f64) {
        for opponent in Opponent::ALL {
            let play = Play { opponent, ..play(world.clone(), Objective::Logistic, beta) };
            let mut models = vec![world.base.clone()];
            for _ in 0..4 {
                let (base, latest) = (&models[0], &models[models.len() - 1]);
                let mean = |models: &[&Table]| {
                    Table::combined(models, |entries| entries.iter().map(|entry| entry.exp()).sum::<f64>().ln())
                };
                let (samples, reference) = match opponent {
                    Opponent::Latest => (latest.clone(), latest.clone()),
                    Opponent::LatestTwo if models.len() > 1 => (mean(&[&models[models.len() - 2], latest]), latest.clone()),
                    Opponent::LatestTwo => (latest.clone(), latest.clone()),
                    Opponent::History => {
                        let all = mean(&models.iter().collect::<Vec<_>>());
                        (all.clone(), all)
                    }
                    Opponent::Base => (base.clone(), base.clone()),
                    Opponent::Average => {
                        let average = models[1..].iter().fold(base.clone(), |average, model| {
                            Table::combined(&[&average, model], |entries| 0.6 * entries[0] + 0.4 * entries[1])
                        });
                        (average.clone(), average)
                    }
                    Opponent::Mixture => {
                        let mixed = Table::combined(&[base, latest], |entries| 0.3 * entries[0] + 0.7 * entries[1]);
                        (latest.clone(), mixed)
                    }
                    Opponent::Data => (world.rejected.clone(), latest.clone()),
                };
                let next = minimum(&play, &models);
                let expected = logistic_law(&reference, &samples, &world.data, beta);
                prop_assert!(distance(&next, &expected) < 1e-8, "{opponent:?}: {}", distance(&next, &expected));
                models.push(next);
            }
            let last = &models[models.len() - 1];
            match opponent {
                // It answers to the same opponent each time.
                Opponent::Base => prop_assert!(distance(last, &models[1]) < 1e-8),
                Opponent::Average => {
                    let e = error(&world.data, &models[1]);
                    let factor = (1.0 - 0.4 / beta).powi(3);
                    for (e, after) in e.iter().zip(error(&world.data, last)) {
                        prop_assert!((after - factor * e).abs() < 1e-7);
                    }
                }
                _ => {}
            }
        }
    }

    /// Near the data errors add up by the opponents' shares: with all models as the opponent, n of them, the error of their
    /// mixture is multiplied by `1 - 1 / (beta (n + 1))`; with the latest two, `e - (e + e of the one before) / (2 beta)`
    /// comes after e.
    #[test]
    fn errors_near_the_data_by_opponent(world in world(), beta in 0.4..3.0f64) {
        let start = near(&world, 1e-4);
        let world = World { base: start.clone(), ..world };
        let errors = |opponent| -> Vec<Vec<f64>> {
            let play = Play { opponent, ..play(world.clone(), Objective::Logistic, beta) };
            let policies = play.run(5).into_iter().map(|iteration| error(&world.data, &iteration.policy));
            [error(&world.data, &start)].into_iter().chain(policies).collect()
        };
        let (history, two) = (errors(Opponent::History), errors(Opponent::LatestTwo));
        for at in 0..start.log_probs().iter().map(Vec::len).sum() {
            let mut mixed = history[0][at];
            for n in 1..6 {
                prop_assert!((history[n][at] - (1.0 - 1.0 / beta) * mixed).abs() < 1e-6, "{history:?}");
                mixed *= 1.0 - 1.0 / (beta * (n + 1) as f64);
            }
            for n in 1..5 {
                let expected = two[n][at] - (two[n][at] + two[n - 1][at]) / (2.0 * beta);
                prop_assert!((two[n + 1][at] - expected).abs() < 1e-5, "{two:?}");
            }
        }
    }

    /// With a geometric mixture of weight a the policy rests at `base^(a beta / (1 + a beta)) d^(1 / (1 + a beta))`, and an
    /// iteration multiplies what separates it from there by `1 - a - 1 / beta`.
    #[test]
    fn a_mixture_rests_between_base_and_data(world in world(), beta in 0.7..3.0f64) {
        let play = Play { opponent: Opponent::Mixture, ..play(world.clone(), Objective::Logistic, beta) };
        let a = WEIGHTS.mixture;
        let rest = Table::combined(&[&world.base, &world.data], |entries| {
            (a * beta * entries[0] + entries[1]) / (1.0 + a * beta)
        });
        prop_assert!(distance(&minimum(&play, &[world.base.clone(), rest.clone()]), &rest) < 1e-9);
        let next = minimum(&play, &[world.base.clone(), world.data.clone()]);
        for (before, after) in error(&rest, &world.data).iter().zip(error(&rest, &next)) {
            prop_assert!((after - (1.0 - a - 1.0 / beta) * before).abs() < 1e-8);
        }
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
        let losses = [0.0, 5.0, 10.0, 15.0].map(|fall| {
            // What it loses goes to a response that the opponent gives too seldom.
            let least = (0..base[0].len()).min_by(|&a, &b| excess(a).total_cmp(&excess(b))).unwrap();
            let mut rows = world.base.log_probs().to_vec();
            rows[0][least] = (base[0][least] + base[0][most] * (1.0 - (-fall as f64).exp())).ln();
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

    /// A forward KL of weight k gives it the minimum `base + (beta / k) (d - q)` where that is positive, and none elsewhere;
    /// a reverse one gives it none, for it stays bounded where a probability goes to 0.
    #[test]
    fn a_forward_kl_holds_linear_and_a_reverse_one_does_not(world in world(), beta in 0.3..3.0f64, k in 0.1..20.0f64) {
        let forward = Additions { forward_kl: k, ..Additions::default() };
        let play_forward = with(forward, play(world.clone(), Objective::Linear, beta));
        let (data, base) = (world.data.probs(), world.base.probs());
        let latest = near(&world, 0.5);
        let expected: Vec<Vec<f64>> = data.iter().zip(&base).zip(latest.probs()).map(|((d, b), q)| {
            d.iter().zip(b).zip(q).map(|((d, b), q)| b + beta / k * (d - q)).collect()
        }).collect();
        let smallest = expected.iter().flatten().copied().fold(f64::INFINITY, f64::min);
        prop_assume!(smallest.abs() > 1e-3);
        let next = play_forward.iterate(&[world.base.clone(), latest.clone()], 1);
        if smallest > 0.0 {
            prop_assert_eq!(next.found, Found::Minimum);
            for (found, expected) in next.policy.probs().iter().flatten().zip(expected.iter().flatten()) {
                prop_assert!((found - expected).abs() < 1e-9, "{found} {expected}");
            }
        } else {
            prop_assert_eq!(next.found, Found::Steps);
        }
        let reverse = Additions { reverse_kl: k, ..Additions::default() };
        let play_reverse = with(reverse, play(world.clone(), Objective::Linear, beta));
        // The response that the opponent has most too much of vanishes, and the loss with it.
        let excess = |y: usize| base[0][y] - data[0][y];
        let most = (0..base[0].len()).max_by(|&a, &b| excess(a).total_cmp(&excess(b))).unwrap();
        let losses = [20.0, 200.0, 2000.0, 20_000.0].map(|fall| {
            let mut rows = world.base.log_probs().to_vec();
            rows[0][most] -= fall;
            play_reverse.loss(&Table::from_logits(rows))
        });
        for (at, pair) in losses.windows(2).enumerate() {
            let expected = -beta * excess(most) * 180.0 * 10f64.powi(at as i32) / base.len() as f64;
            prop_assert!((pair[1] - pair[0] - expected).abs() < 1e-6 * (1.0 - expected), "{losses:?} {expected}");
        }
    }

    /// Where additions move the fixed point to. With `c = beta |l'(0)|`: a likelihood per token of weight v to
    /// `d (c + v / |y|)`, a forward KL of weight k to the mixture `(c d + k base) / (c + k)`, a reverse one to the solution of
    /// `p (c + k (log(p / base) - KL(p || base))) = c d`.
    #[test]
    fn additions_move_the_fixed_point(world in world(), beta in 0.5..3.0f64, weight in 0.05..2.0f64) {
        for (objective, slope) in [(Objective::Logistic, 0.5), (Objective::Exponential, 1.0), (Objective::Squared, 2.0)] {
            let c = beta * slope;
            let at_rest = |additions: Additions, policy: &Table| {
                let play = with(additions, play(world.clone(), objective, beta));
                distance(&minimum(&play, &[world.base.clone(), policy.clone()]), policy)
            };
            let per_token = Table::from_logits(
                world.data.log_probs().iter().zip(&world.tokens).map(|(row, tokens)| {
                    row.iter().zip(tokens).map(|(d, &n)| d + (c + weight / n as f64).ln()).collect()
                }).collect(),
            );
            let moved = at_rest(Additions { nll: weight, ..Additions::default() }, &per_token);
            prop_assert!(moved < 1e-8, "{objective:?}: {moved}");
            let mixed = Table::combined(&[&world.data, &world.base], |e| (c * e[0].exp() + weight * e[1].exp()).ln());
            let moved = at_rest(Additions { forward_kl: weight, ..Additions::default() }, &mixed);
            prop_assert!(moved < 1e-8, "{objective:?}: {moved}");
            let reverse = Additions { reverse_kl: weight, ..Additions::default() };
            let play = with(reverse, play(world.clone(), objective, beta));
            let mut models = vec![world.base.clone()];
            for _ in 0..60 {
                models.push(minimum(&play, &models));
            }
            let rest = models.pop().unwrap();
            prop_assume!(distance(&rest, models.last().unwrap()) < 1e-11);
            for ((p, base), d) in rest.log_probs().iter().zip(world.base.log_probs()).zip(world.data.log_probs()) {
                let kl: f64 = p.iter().zip(base).map(|(p, base)| p.exp() * (p - base)).sum();
                for ((p, base), d) in p.iter().zip(base).zip(d) {
                    let left = p.exp() * (c + weight * (p - base - kl));
                    prop_assert!((left - c * d.exp()).abs() < 1e-8, "{left} {}", c * d.exp());
                }
            }
        }
    }

    /// DPOP with weight c stands still as soon as no ratio `d / q` is more than `1 + c` times another, and only then.
    #[test]
    fn dpop_stands_still_near_the_data(
        world in world(),
        beta in 0.5..3.0f64,
        dpop in 0.1..5.0f64,
        directions in prop::collection::vec(prop::collection::vec(-1.0..1.0f64, 7), 30),
    ) {
        let play = with(Additions { dpop, ..Additions::default() }, play(world.clone(), Objective::Logistic, beta));
        let ratios: Vec<f64> = {
            let (data, base) = (&world.data.log_probs()[0], &world.base.log_probs()[0]);
            data.iter().zip(base).map(|(d, q)| d - q).collect()
        };
        let (least, most) = ratios.iter().fold((f64::MAX, f64::MIN), |(low, high), &r| (low.min(r), high.max(r)));
        let range = (most - least) / (1.0 + dpop).ln();
        prop_assume!((range - 1.0).abs() > 0.05 && world.tokens.len() == 1);
        let loss = |by: &dyn Fn(usize) -> f64| {
            let row = world.base.log_probs()[0].iter().enumerate().map(|(y, logit)| logit + by(y)).collect();
            play.loss(&Table::from_logits(vec![row]))
        };
        let here = loss(&|_| 0.0);
        if range < 1.0 {
            for direction in &directions {
                for size in [1e-4, 0.1, 2.0] {
                    prop_assert!(loss(&|y| size * direction[y]) > here - 1e-14);
                }
            }
        } else {
            // Take mass from where the data have least of it, and give it to where they have most.
            let base = world.base.probs();
            let moved = |y: usize| {
                let by = if ratios[y] == least { -1e-5 } else if ratios[y] == most { 1e-5 } else { 0.0 };
                (1.0 + by / base[0][y]).ln()
            };
            prop_assert!(loss(&moved) < here);
        }
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
