//! Signs that an iteration did harm, each of them a line.

use serde::de::DeserializeOwned;
use topspin_kernels::device::Device;

use super::pairs::PairFigures;
use super::summary::{better, is_within, words};
use super::train::TrainFigures;
use super::{Run, RunError, is_wanted};

/// Nats a token by which the log-probability of real responses may fall. It falls a little where the model gives up
/// mass to answers that the data lacks; where an iteration collapsed it fell by 0.15 (docs/method.md).
const REAL_FALL: f64 = 0.1;
/// Share of pairs told apart above which there is nothing left to learn.
const SATURATED: f64 = 0.98;
/// Share of pairs in which the same side is the longer one, above which length alone tells them apart.
const LONGER: f64 = 0.9;
/// Difference between the shares of responses cut at the length limit, above which the end tells them apart.
const CUT: f64 = 0.2;

impl<D: Device + Clone> Run<'_, D> {
    /// Warns of what went wrong in iteration `k`.
    pub(super) fn guard(&mut self, k: usize) -> Result<(), RunError> {
        let name = format!("iter-{k}");
        let mut warnings = match is_wanted(&self.config, "pairs") {
            true => {
                let pairs: PairFigures = self.figures_of(&format!("{name}/pairs"))?;
                let train: TrainFigures = self.figures_of(&format!("{name}/train"))?;
                warnings(&pairs, &train)
            }
            false => Vec::new(),
        };
        let (best, goal) = (&self.config.eval.best, self.config.eval.goal);
        let (before, after) = (self.report(&format!("iter-{}", k - 1))?, self.report(&name)?);
        if let (Some(before), Some(after)) = (before.figures.get(best), after.figures.get(best))
            && better(goal, before.value, after.value)
            && !is_within(before, after.value)
            && !is_within(after, before.value)
        {
            warnings.push(format!(
                "`{best}` went from {} to {}: the iteration did harm; a larger `game.beta` or a smaller `train.lr` takes \
                 smaller steps",
                words(before),
                words(after)
            ));
        }
        warnings.iter().for_each(|warning| self.observer.warn(&format!("{name}: {warning}")));
        Ok(())
    }

    /// Results of a finished stage.
    fn figures_of<T: DeserializeOwned>(&self, stage: &str) -> Result<T, RunError> {
        let figures = self.manifest.figures(stage).cloned().unwrap_or_default();
        serde_json::from_value(figures.into()).map_err(|e| RunError::Damaged {
            path: self.path("manifest.json"),
            line: 1,
            problem: format!("the figures of `{stage}`: {e}"),
        })
    }
}

fn warnings(pairs: &PairFigures, train: &TrainFigures) -> Vec<String> {
    let mut warnings = Vec::new();
    if let (Some(loss), Some(start)) = (train.loss, train.first_loss)
        && loss > start
    {
        warnings.push(format!(
            "the loss ended at {loss:.2}, above the {start:.2} that it began with: the steps follow the noise of single \
             samples; a smaller `train.lr`, or more `game.samples` and `train.batch_pairs`, lessen it"
        ));
    }
    if let Some(change) = train.real_change
        && change < -REAL_FALL * pairs.real.mean_tokens
    {
        warnings.push(format!(
            "the log-probability of real responses fell by {:.2} nats ({:.2} a token) below its start: the model is \
             pushed away from good responses too",
            -change,
            -change / pairs.real.mean_tokens
        ));
    }
    if let Some(accuracy) = train.accuracy
        && accuracy >= SATURATED
    {
        warnings.push(format!(
            "{:.1}% of pairs were told apart at the end: there is nothing left to learn from these samples",
            100.0 * accuracy
        ));
    }
    if pairs.longer >= LONGER || pairs.longer <= 1.0 - LONGER {
        let (longer, share) =
            if pairs.longer >= LONGER { ("generated", pairs.longer) } else { ("real", 1.0 - pairs.longer) };
        warnings.push(format!(
            "in {:.0}% of pairs the {longer} response is the longer one: length alone tells them apart, and the model \
             may learn nothing else",
            100.0 * share
        ));
    }
    if (pairs.real.cut - pairs.generated.cut).abs() > CUT {
        warnings.push(format!(
            "{:.0}% of real and {:.0}% of generated responses are cut: the end tells them apart; change \
             `rollout.max_new_tokens`",
            100.0 * pairs.real.cut,
            100.0 * pairs.generated.cut
        ));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::super::pairs::Side;
    use super::*;

    /// An iteration as it should be.
    fn healthy() -> (PairFigures, TrainFigures) {
        let side = |mean_tokens, cut| Side { responses: 300, mean_tokens, cut };
        let pairs = PairFigures {
            pairs: 300,
            identical: 2,
            mixed: 0,
            skipped: None,
            real: side(37.0, 0.0),
            generated: side(34.0, 0.05),
            longer: 0.45,
        };
        let train = TrainFigures {
            steps: 38,
            examples: 300,
            loss: Some(0.5),
            first_loss: Some(std::f64::consts::LN_2),
            real_change: Some(-1.2),
            generated_change: Some(-8.0),
            accuracy: Some(0.85),
        };
        (pairs, train)
    }

    #[test]
    fn what_is_healthy_is_not_warned_of() {
        let (pairs, train) = healthy();
        assert_eq!(warnings(&pairs, &train), Vec::<String>::new());
        assert_eq!(warnings(&pairs, &TrainFigures::default()), Vec::<String>::new());
    }

    #[test]
    fn each_sign_has_its_line() {
        let warned = |change: &dyn Fn(&mut PairFigures, &mut TrainFigures)| {
            let (mut pairs, mut train) = healthy();
            change(&mut pairs, &mut train);
            let mut warnings = warnings(&pairs, &train);
            assert_eq!(warnings.len(), 1, "{warnings:?}");
            warnings.remove(0)
        };
        let noisy = warned(&|_, train| train.loss = Some(0.91));
        assert!(noisy.starts_with("the loss ended at 0.91, above the 0.69 that it began with"), "{noisy}");
        // The collapse of the second iteration that the method's page tells of.
        let fell = warned(&|_, train| train.real_change = Some(-5.6));
        assert!(fell.starts_with("the log-probability of real responses fell by 5.60 nats (0.15 a token)"), "{fell}");
        let saturated = warned(&|_, train| train.accuracy = Some(0.995));
        assert!(saturated.starts_with("99.5% of pairs were told apart"), "{saturated}");
        let short = warned(&|pairs, _| pairs.longer = 0.04);
        assert!(short.starts_with("in 96% of pairs the real response is the longer one"), "{short}");
        let long = warned(&|pairs, _| pairs.longer = 0.95);
        assert!(long.starts_with("in 95% of pairs the generated response is the longer one"), "{long}");
        let cut = warned(&|pairs, _| pairs.generated.cut = 0.4);
        assert!(cut.starts_with("0% of real and 40% of generated responses are cut"), "{cut}");
    }
}
