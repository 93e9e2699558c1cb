//! Signs that an iteration did harm, each of them a line.

use serde::de::DeserializeOwned;
use topspin_kernels::device::Device;

use super::pairs::PairFigures;
use super::summary::better;
use super::train::TrainFigures;
use super::{Run, RunError};

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
        let pairs: PairFigures = self.figures_of(&format!("{name}/pairs"))?;
        let train: TrainFigures = self.figures_of(&format!("{name}/train"))?;
        let mut warnings = warnings(&pairs, &train);
        let (best, goal) = (&self.config.eval.best, self.config.eval.goal);
        let (before, after) = (self.report(&format!("iter-{}", k - 1))?, self.report(&name)?);
        if let (Some(before), Some(after)) = (before.figures.get(best), after.figures.get(best))
            && better(goal, before.value, after.value)
            && !super::summary::is_within(before, after.value)
            && !super::summary::is_within(after, before.value)
        {
            warnings.push(format!(
                "`{best}` went from {:.4} to {:.4}, beyond its interval: the iteration did harm; a larger `game.beta` or a \
                 smaller `train.lr` takes smaller steps",
                before.value, after.value
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
