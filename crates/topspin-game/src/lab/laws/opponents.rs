//! Where iterations against each opponent go.

use proptest::prelude::*;

use super::*;

proptest! {
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
}
