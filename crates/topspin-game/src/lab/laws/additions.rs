//! Where additions move the fixed point to.

use proptest::prelude::*;

use super::*;

proptest! {
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
        for (objective, slope) in [
            (Objective::Logistic, 0.5),
            (Objective::Exponential, 1.0),
            (Objective::Squared, 2.0),
            (Objective::Sppo, 1.0),
            (Objective::Space, 0.5),
        ] {
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
            if distance(&rest, models.last().unwrap()) > 1e-11 {
                // A small step takes more iterations than there is time for.
                continue;
            }
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
}
