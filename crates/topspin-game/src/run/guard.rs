//! Signs that an iteration does harm, each of them a sentence. What they are measured by stands in `[guard]`.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use topspin_eval::Report;
use topspin_kernels::device::Device;

use super::pairs::PairFigures;
use super::summary::{better, is_within, words};
use super::{Run, RunError};
use crate::config::{Goal, Guard};

/// A guard that fired.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fired {
    /// Its key in `[guard]`; `loss` and `evaluation` have none there.
    pub guard: String,
    /// The step at which it fired, from 1, if that was in training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<u32>,
    /// What it saw, and what helps.
    pub sentence: String,
}

impl Fired {
    pub(super) fn new(guard: &str, sentence: String) -> Self {
        Self { guard: guard.into(), step: None, sentence }
    }

    /// What is said of it, `stage` being the one in which it fired.
    pub fn told(&self, stage: &str) -> String {
        match self.step {
            Some(step) => format!("{stage}, step {step}: {}", self.sentence),
            None => format!("{stage}: {}", self.sentence),
        }
    }
}

impl<D: Device + Clone> Run<'_, D> {
    /// Says what fired in a stage.
    pub(super) fn warn_of(&mut self, stage: &str, fired: &[Fired]) {
        fired.iter().for_each(|fired| self.observer.warn(&fired.told(stage)));
    }

    /// Results of a stage, if it is finished.
    pub(super) fn figures_of<T: DeserializeOwned>(&self, stage: &str) -> Result<Option<T>, RunError> {
        let Some(figures) = self.manifest.figures(stage) else { return Ok(None) };
        serde_json::from_value(figures.clone().into()).map(Some).map_err(|e| RunError::Damaged {
            path: self.path("manifest.json"),
            line: 1,
            problem: format!("the figures of `{stage}`: {e}"),
        })
    }

    /// Whether the model of the stage folder `folder`, an iteration's, is worse than that of the one before it.
    pub(super) fn harm(&self, folder: &str, after: &Report) -> Result<Option<Fired>, RunError> {
        let mut evaluated = self.manifest.evaluated();
        let is_iteration = |folder: &&str| folder.starts_with("iter-");
        let Some(before) = evaluated.rfind(is_iteration).filter(|_| is_iteration(&folder)) else {
            return Ok(None);
        };
        Ok(harm(&self.config.eval.best, self.config.eval.goal, &self.report(before)?, after))
    }
}

fn harm(metric: &str, goal: Goal, before: &Report, after: &Report) -> Option<Fired> {
    let (before, after) = (before.figures.get(metric)?, after.figures.get(metric)?);
    let apart = !is_within(before, after.value) && !is_within(after, before.value);
    (better(goal, before.value, after.value) && apart).then(|| {
        let sentence = format!(
            "`{metric}` went from {} to {}: the iteration did harm; a larger `game.beta` or a smaller `train.lr` takes smaller \
             steps",
            words(before),
            words(after)
        );
        Fired::new("evaluation", sentence)
    })
}

/// What the pairs of an iteration show before they are trained on; `before` are those of the iteration before it.
pub(super) fn of_pairs(guard: &Guard, pairs: &PairFigures, before: Option<&PairFigures>) -> Vec<Fired> {
    let mut fired = Vec::new();
    let mut fire = |guard, sentence| fired.push(Fired::new(guard, sentence));
    let PairFigures { real, generated, longer, .. } = pairs;
    if guard.longer > 0.0 && longer.max(1.0 - longer) >= guard.longer {
        let (side, share) = if *longer > 0.5 { ("generated", *longer) } else { ("real", 1.0 - longer) };
        fire(
            "longer",
            format!(
                "in {:.0}% of pairs the {side} response is the longer one: length alone tells them apart, and the model may \
                 learn nothing else",
                100.0 * share
            ),
        );
    }
    if guard.cut > 0.0 && (real.cut - generated.cut).abs() > guard.cut {
        fire(
            "cut",
            format!(
                "{:.0}% of real and {:.0}% of generated responses are cut: the end tells them apart; change \
                 `rollout.max_new_tokens`",
                100.0 * real.cut,
                100.0 * generated.cut
            ),
        );
    }
    // Before the first iteration nothing has been played yet.
    let advice = match before {
        Some(_) => "a larger `game.beta` or a smaller `train.lr` takes smaller steps",
        None => "a better supervised model to start from (`[sft]`) helps",
    };
    let apart = |a: f64, b: f64| (a / b).max(b / a);
    let mut differs = |of: &str, mean: f64| {
        let problem =
            format!("generated responses have {:.1} tokens on average, {of} {mean:.1}", generated.mean_tokens);
        fire("length", format!("{problem}: the model may learn little but length; {advice}"));
    };
    let off = apart(generated.mean_tokens, real.mean_tokens);
    if guard.length > 0.0 && off > guard.length {
        differs("real ones", real.mean_tokens);
    }
    if let Some(PairFigures { real: then_real, generated: then, .. }) = before {
        // A model that comes nearer to the data may come fast.
        let leaves = off > apart(then.mean_tokens, then_real.mean_tokens);
        if guard.length > 0.0 && leaves && apart(generated.mean_tokens, then.mean_tokens) > guard.length {
            differs("those of the iteration before", then.mean_tokens);
        }
    }
    // Beside the real responses to the same prompts, as variety depends on what is asked, and how often.
    let variety = |pairs: &PairFigures| Some(pairs.generated.distinct_2? / pairs.real.distinct_2?);
    let mut repeats = |now: f64, since: &str| {
        let problem = format!(
            "the variety of generated responses, in distinct pairs of tokens, is {now:.2} of that of real ones{since}"
        );
        fire("distinct", format!("{problem}: the model repeats itself; {advice}"));
    };
    if let Some(now) = variety(pairs) {
        if now < 1.0 - guard.distinct && guard.distinct > 0.0 {
            repeats(now, "");
        }
        if let Some(then) = before.and_then(variety)
            && apart(now, 1.0) > apart(then, 1.0)
            && now < (1.0 - guard.distinct) * then
            && guard.distinct > 0.0
        {
            repeats(now, &format!(", and was {then:.2} an iteration ago"));
        }
    }
    fired
}

/// A loss that rose.
pub(super) fn of_losses(start: Option<f64>, end: Option<f64>) -> Option<Fired> {
    let (start, end) = (start?, end?);
    (end > start).then(|| {
        let sentence = format!(
            "the loss ended at {end:.2}, above the {start:.2} that it began with: the steps follow the noise of single \
             samples; a smaller `train.lr`, or more `game.samples` and `train.batch_pairs`, lessen it"
        );
        Fired::new("loss", sentence)
    })
}

#[cfg(test)]
mod tests {
    use topspin_eval::{Bootstrap, Figure};

    use super::super::pairs::Side;
    use super::*;

    /// Pairs of an iteration as they should be.
    fn healthy() -> PairFigures {
        let side =
            |mean_tokens, cut, distinct_2| Side { responses: 300, mean_tokens, cut, distinct_2: Some(distinct_2) };
        PairFigures {
            pairs: 300,
            identical: 2,
            mixed: 0,
            skipped: None,
            real: side(30.0, 0.0, 0.4),
            generated: side(38.8, 0.05, 0.37),
            longer: 0.45,
        }
    }

    fn sentences(fired: &[Fired]) -> Vec<&str> {
        fired.iter().map(|fired| fired.sentence.as_str()).collect()
    }

    #[test]
    fn what_is_healthy_fires_nothing() {
        // A game that swings as one does at beta = 1.
        let mut next = healthy();
        next.generated.mean_tokens = 31.9;
        next.generated.distinct_2 = Some(0.3);
        assert_eq!(of_pairs(&Guard::default(), &next, Some(&healthy())), []);
        // Single words have no pairs of tokens.
        next.real.distinct_2 = None;
        assert_eq!(of_pairs(&Guard::default(), &next, Some(&healthy())), []);
        // What comes nearer to the data may come fast.
        let (mut far, near) = (healthy(), healthy());
        (far.generated.mean_tokens, far.generated.distinct_2) = (91.6, Some(0.9));
        assert_eq!(of_pairs(&Guard::default(), &near, Some(&far)), []);
        assert_eq!(of_losses(Some(std::f64::consts::LN_2), Some(0.5)), None);
        assert_eq!(of_losses(None, Some(3.0)), None);
    }

    #[test]
    fn each_sign_has_its_sentence() {
        let off =
            Guard { real_fall: 0.0, accuracy: 0.0, longer: 0.0, cut: 0.0, length: 0.0, distinct: 0.0, gradient: 0.0 };
        let fired = |change: &dyn Fn(&mut PairFigures)| {
            let mut pairs = healthy();
            change(&mut pairs);
            assert_eq!(of_pairs(&off, &pairs, Some(&healthy())), []);
            let fired = of_pairs(&Guard::default(), &pairs, Some(&healthy()));
            (fired[0].guard.clone(), sentences(&fired).join("\n"))
        };
        let (guard, short) = fired(&|pairs| pairs.longer = 0.04);
        assert!(
            guard == "longer" && short.starts_with("in 96% of pairs the real response is the longer one"),
            "{short}"
        );
        let (guard, long) = fired(&|pairs| pairs.longer = 0.95);
        assert!(
            guard == "longer" && long.starts_with("in 95% of pairs the generated response is the longer"),
            "{long}"
        );
        let (guard, cut) = fired(&|pairs| pairs.generated.cut = 0.4);
        assert!(guard == "cut" && cut.starts_with("0% of real and 40% of generated responses are cut"), "{cut}");
        // The collapse of the second iteration that the method's page tells of went from 38.8 tokens to 20.1.
        let (guard, collapsed) = fired(&|pairs| pairs.generated.mean_tokens = 20.1);
        assert!(guard == "length" && collapsed.starts_with("generated responses have 20.1 tokens"), "{collapsed}");
        assert!(collapsed.contains("average, those of the iteration before 38.8: the model may"), "{collapsed}");
        let (guard, rambles) = fired(&|pairs| pairs.generated.mean_tokens = 91.6);
        let told: Vec<_> = rambles.lines().collect();
        assert_eq!((guard.as_str(), told.len()), ("length", 2));
        assert!(told[0].contains("have 91.6 tokens on average, real ones 30.0"), "{rambles}");
        assert!(told[0].ends_with("a smaller `train.lr` takes smaller steps"), "{rambles}");
        let (guard, repeats) = fired(&|pairs| pairs.generated.distinct_2 = Some(0.1));
        let told: Vec<_> = repeats.lines().collect();
        assert_eq!((guard.as_str(), told.len()), ("distinct", 2));
        assert!(told[0].contains("is 0.25 of that of real ones: the model repeats itself"), "{repeats}");
        assert!(told[1].contains("is 0.25 of that of real ones, and was 0.92 an iteration ago"), "{repeats}");

        let noisy = of_losses(Some(std::f64::consts::LN_2), Some(0.91)).unwrap();
        let told = noisy.told("iter-1/train");
        assert!(told.starts_with("iter-1/train: the loss ended at 0.91, above the 0.69 that it began with"), "{told}");
    }

    #[test]
    fn an_evaluation_that_got_worse_beyond_both_intervals_fires() {
        let report = |value: f64, half: f64| {
            let mut report = Report::new(Bootstrap::default());
            let figure =
                Figure { low: Some(value - half), high: Some(value + half), ..Figure::without_interval(value, 9) };
            report.add("x", figure);
            report
        };
        let sentence = |goal, before: (f64, f64), after: (f64, f64)| {
            harm("x", goal, &report(before.0, before.1), &report(after.0, after.1)).map(|fired| fired.sentence)
        };
        let worse = sentence(Goal::Lowest, (0.133, 0.02), (0.43, 0.02)).unwrap();
        assert!(worse.starts_with("`x` went from 0.133 [0.113, 0.153] to 0.430"), "{worse}");
        assert_eq!(sentence(Goal::Lowest, (0.133, 0.02), (0.15, 0.005)), None);
        assert_eq!(sentence(Goal::Highest, (0.133, 0.02), (0.43, 0.02)), None);
        assert!(sentence(Goal::Highest, (0.43, 0.02), (0.133, 0.02)).is_some());
    }
}
