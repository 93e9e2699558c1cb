//! How well real and generated responses can be told apart by a number that each has: a log-ratio, or just a length.

use sha2::{Digest, Sha256};

use crate::bootstrap::{Z, finite, standard_deviation};
use crate::{Bootstrap, EvalError, Evaluated, Figure, REAL, Report, SAMPLED, SAMPLED_BEFORE, win_rate};

/// The area under the ROC curve: the probability that the number of a real response is higher than that of a generated
/// one, equal ones counting one half (Mann and Whitney 1947). From 0 to 1; one half is chance, and both ends tell the two
/// apart without fail.
///
/// The standard error is DeLong's (1988): `sqrt(var(a)/m + var(b)/n)`, where `a` has for each of the m real responses the
/// share of generated ones that it exceeds, `b` for each of the n generated ones the share of real ones that exceed it.
/// It takes all responses as independent, which those to one prompt are not quite. The interval is 1.96 standard errors to
/// either side, within 0 and 1; it is absent where the standard error is 0, as where no two responses lie the wrong way
/// round, which says nothing of others.
///
/// # Errors
/// [`EvalError::Empty`] if either kind has none, [`EvalError::NotFinite`] for the first number that is none, counted from
/// the real ones on.
pub fn auc(real: &[f64], generated: &[f64]) -> Result<Figure, EvalError> {
    check(real, generated)?;
    let exceeds = |values: &[f64], others: &[f64]| -> Vec<f64> {
        let mut sorted = others.to_vec();
        sorted.sort_by(f64::total_cmp);
        let share = |value: &f64| {
            let below = sorted.partition_point(|other| other < value);
            let equal = sorted.partition_point(|other| other <= value) - below;
            (below as f64 + 0.5 * equal as f64) / sorted.len() as f64
        };
        values.iter().map(share).collect()
    };
    let (of_real, of_generated) = (exceeds(real, generated), exceeds(generated, real));
    let value = of_real.iter().sum::<f64>() / real.len() as f64;
    let variance =
        |shares: &[f64]| standard_deviation(shares).map(|deviation| deviation * deviation / shares.len() as f64);
    let stderr = variance(&of_real).zip(variance(&of_generated)).map(|(a, b)| (a + b).sqrt());
    let width = stderr.filter(|&stderr| stderr > 0.0).map(|stderr| Z * stderr);
    Ok(Figure {
        value,
        low: width.map(|width| (value - width).max(0.0)),
        high: width.map(|width| (value + width).min(1.0)),
        stderr,
        n: real.len() + generated.len(),
    })
}

/// The judgement by one threshold that is right most often.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BestThreshold {
    /// The mean of the share of real responses and of the share of generated ones that are judged right, from one half to
    /// 1: with as many of each, the share of all. It is `(1 + D) / 2` with Kolmogorov and Smirnov's D. As the threshold was
    /// chosen on the same responses, it is too high for few of them.
    pub accuracy: f64,
    /// Where to part them; the lowest of equally good places.
    pub threshold: f64,
    /// Whether those at the threshold and above are judged real, rather than generated.
    pub real_above: bool,
}

impl BestThreshold {
    /// Whether a response is judged real.
    fn is_real(&self, value: f64) -> bool {
        (value >= self.threshold) == self.real_above
    }
}

/// Finds the threshold, and whether real responses lie above or below it.
///
/// # Errors
/// As for [`auc`].
pub fn best_threshold(real: &[f64], generated: &[f64]) -> Result<BestThreshold, EvalError> {
    check(real, generated)?;
    let mut levels: Vec<f64> = real.iter().chain(generated).copied().collect();
    levels.sort_by(f64::total_cmp);
    levels.dedup_by(|a, b| *a == *b);
    let below = |values: &[f64]| {
        shares_below(values.iter().map(|value| levels.partition_point(|level| level < value)), levels.len())
    };
    let gaps = below(generated).into_iter().zip(below(real)).map(|(generated, real)| generated - real);
    let larger = |best: (usize, f64), gap: (usize, f64)| if gap.1.abs() > best.1.abs() { gap } else { best };
    let (at, gap) = gaps.enumerate().reduce(larger).expect("both kinds have responses");
    Ok(BestThreshold { accuracy: 0.5 + gap.abs() / 2.0, threshold: levels[at], real_above: gap >= 0.0 })
}

/// Real responses to prompts beside responses that a model generated to them.
///
/// In self-play the score of a response is its log-ratio: what the policy gives to it less what its opponent gives to it, in nats.
/// If it tells held-out real responses from the opponent's own samples, there was something to learn from these samples; where
/// lengths alone do as well, that may be all that was learnt.
#[derive(Clone, Debug, Default)]
pub struct Discrimination {
    log_ratios: Sides,
    lengths: Sides,
    /// Which half of the prompts each belongs to, by the hash of its id.
    halves: Vec<bool>,
}

/// A number of each real response and of each generated one, in pairs.
#[derive(Clone, Debug, Default)]
struct Sides {
    real: Vec<f64>,
    generated: Vec<f64>,
}

impl Sides {
    /// For each pair the share of its two responses that are judged right by the best threshold of the other half of the prompts,
    /// so that no response has a part in the threshold that judges it; nothing where a half has no prompts.
    fn judged(&self, halves: &[bool]) -> Option<Vec<f64>> {
        let of_half = |half: bool| {
            let of = |values: &[f64]| {
                values.iter().zip(halves).filter(|(_, of)| **of == half).map(|(value, _)| *value).collect::<Vec<_>>()
            };
            best_threshold(&of(&self.real), &of(&self.generated)).ok()
        };
        let (first, second) = (of_half(true)?, of_half(false)?);
        let judge = |((real, generated), half): ((&f64, &f64), &bool)| {
            let threshold = if *half { &second } else { &first };
            let right = [threshold.is_real(*real), !threshold.is_real(*generated)];
            right.into_iter().filter(|right| *right).count() as f64 / 2.0
        };
        Some(self.real.iter().zip(&self.generated).zip(halves).map(judge).collect())
    }

    /// Adds the area under the curve and the accuracy.
    fn report(&self, report: &mut Report, by: &str, halves: &[bool]) -> Result<(), EvalError> {
        report.add(format!("discrimination.{by}.auc"), auc(&self.real, &self.generated)?);
        if let Some(judged) = self.judged(halves) {
            report.add(format!("discrimination.{by}.accuracy"), report.bootstrap.mean(&judged)?);
        }
        Ok(())
    }

    /// The figure of that name of the pairs at `places`.
    fn figure_at(&self, name: &str, places: &[usize]) -> Option<f64> {
        let at = |values: &[f64]| places.iter().map(|&i| values[i]).collect::<Vec<_>>();
        let (real, generated) = (at(&self.real), at(&self.generated));
        let figure = match name {
            "auc" => auc(&real, &generated).ok()?,
            "pairs" => win_rate(&generated, &real).ok()?,
            _ => return None,
        };
        Some(figure.value)
    }
}

/// Which half of the prompts one belongs to: the last bit of SHA-256 of its id, so that the order of the records has no part in it.
fn half(id: &str) -> bool {
    Sha256::digest(id).last().is_some_and(|byte| byte & 1 == 1)
}

impl Discrimination {
    /// What two models give to the records: the real responses beside the samples of the one `before`, the opponent. Without it
    /// there are no log-ratios: the real responses stand beside the model's own samples, and length alone can tell. Records
    /// that lack a response are left out.
    pub fn new(records: &[Evaluated], before: Option<&[Evaluated]>) -> Self {
        let sample = if before.is_some() { SAMPLED_BEFORE } else { SAMPLED };
        let mut all = Self::default();
        for (place, now) in records.iter().enumerate() {
            let (Some(real), Some(sample)) = (now.responses.get(REAL), now.responses.get(sample)) else { continue };
            let log_ratios = match before.map(|before| before.get(place).map(|then| &then.responses)) {
                None => None,
                Some(then) => {
                    let then = then.and_then(|then| Some((then.get(REAL)?.logp(), then.get(SAMPLED)?.logp())));
                    let Some((real_then, sample_then)) = then else { continue };
                    Some((real.logp() - real_then, sample.logp() - sample_then))
                }
            };
            all.push(half(&now.id), log_ratios, (real.token_ids.len(), sample.token_ids.len()));
        }
        all
    }

    /// Adds a prompt of a half: the log-ratios, if there are any, and the lengths in tokens of its real and of its generated
    /// response.
    fn push(&mut self, half: bool, log_ratios: Option<(f64, f64)>, lengths: (usize, usize)) {
        self.halves.push(half);
        if let Some((real, generated)) = log_ratios {
            self.log_ratios.real.push(real);
            self.log_ratios.generated.push(generated);
        }
        self.lengths.real.push(lengths.0 as f64);
        self.lengths.generated.push(lengths.1 as f64);
    }

    /// Whether there are no prompts.
    pub fn is_empty(&self) -> bool {
        self.lengths.real.is_empty()
    }

    /// Adds `discrimination.log_ratio.auc` ([`auc`]), `.accuracy` (the share of responses that are judged right by the
    /// [`best_threshold`] of the other half of the prompts) and `.pairs`, the share of prompts whose
    /// real response has the higher log-ratio (what training calls `rewards/accuracies`, held out), and the first two of
    /// `discrimination.length`. Without log-ratios there are the latter alone.
    ///
    /// # Errors
    /// As for [`auc`].
    pub fn report(&self, report: &mut Report) -> Result<(), EvalError> {
        if !self.log_ratios.real.is_empty() {
            self.log_ratios.report(report, "log_ratio", &self.halves)?;
            report.add("discrimination.log_ratio.pairs", win_rate(&self.log_ratios.generated, &self.log_ratios.real)?);
        }
        self.lengths.report(report, "length", &self.halves)
    }

    /// The difference `right - left` of a figure that [`report`](Self::report) adds, over the same prompts; nothing where it is
    /// not a figure of both.
    ///
    /// # Errors
    /// As for [`Bootstrap::figure`].
    pub fn difference(
        left: &Self,
        right: &Self,
        figure: &str,
        bootstrap: &Bootstrap,
    ) -> Result<Option<Figure>, EvalError> {
        let Some((by, name)) = figure.strip_prefix("discrimination.").and_then(|figure| figure.split_once('.')) else {
            return Ok(None);
        };
        let sides = |of: &Self| if by == "length" { of.lengths.clone() } else { of.log_ratios.clone() };
        let (left_sides, right_sides) = (sides(left), sides(right));
        let n = right_sides.real.len();
        if n == 0 || left_sides.real.len() != n {
            return Ok(None);
        }
        if name == "accuracy" {
            let judged = left_sides.judged(&left.halves).zip(right_sides.judged(&right.halves));
            return judged.map(|(left, right)| bootstrap.difference(&left, &right)).transpose();
        }
        let at = |places: &[usize]| Some(right_sides.figure_at(name, places)? - left_sides.figure_at(name, places)?);
        // All draws have the figure, or none has.
        bootstrap
            .figure(n, |places| at(places).unwrap_or(f64::NAN))
            .map(|figure| Some(figure).filter(|figure| !figure.value.is_nan()))
    }
}

fn check(real: &[f64], generated: &[f64]) -> Result<(), EvalError> {
    if real.is_empty() || generated.is_empty() {
        return Err(EvalError::Empty);
    }
    finite(&[real, generated].concat())
}

/// The share of ranks below each rank.
fn shares_below(ranks: impl ExactSizeIterator<Item = usize>, levels: usize) -> Vec<f64> {
    let n = ranks.len() as f64;
    let mut counts = vec![0usize; levels];
    ranks.for_each(|rank| counts[rank] += 1);
    let mut below = 0;
    let before = |count: usize| {
        below += count;
        (below - count) as f64 / n
    };
    counts.into_iter().map(before).collect()
}
