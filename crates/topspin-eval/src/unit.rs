//! What a metric knows of each response, and the figures that come of it.

use serde::{Deserialize, Serialize};

use crate::corpus::CorpusStatistics;
use crate::{BleuStatistics, Bootstrap, ChrfStatistics, EvalError, Figure, share};

/// What a metric knows of one response. It is all that the metric's figure, and the difference between two models, are computed
/// from. As JSON it is a truth value, a number, a pair of numbers, or an object of counts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Unit {
    /// Yes or no; the figure is the share of yes.
    Hit(bool),
    /// A number; the figure is the mean.
    Value(f64),
    /// A numerator and a denominator, as errors and what could have been wrong; the figure is the sum of the former over that
    /// of the latter.
    Ratio([f64; 2]),
    /// Counts of BLEU.
    Bleu(BleuStatistics),
    /// Counts of chrF or chrF++.
    Chrf(ChrfStatistics),
    /// Nats and what they are spread over; the figure is `exp` of the sum of the former over that of the latter.
    #[serde(skip)]
    Perplexity([f64; 2]),
}

impl Unit {
    /// A number for the response alone, where there is a sound one: a ratio over 0 has none.
    pub fn value(&self) -> Option<f64> {
        match *self {
            Self::Hit(hit) => Some(f64::from(u8::from(hit))),
            Self::Value(value) => Some(value),
            Self::Ratio([numerator, denominator]) => (denominator != 0.0).then(|| numerator / denominator),
            Self::Perplexity([nats, over]) => (over != 0.0).then(|| (nats / over).exp()),
            Self::Bleu(counts) => Some(counts.sentence_score()),
            Self::Chrf(counts) => Some(counts.score()),
        }
    }

    /// What a metric knows of several responses to one prompt, which are one unit: the mean of hits and values, the sum of counts.
    /// A single response stays as it is.
    ///
    /// # Errors
    /// [`EvalError::Empty`] without units, [`EvalError::Mixed`] where they are of several kinds.
    pub fn pool(units: &[Self]) -> Result<Self, EvalError> {
        fn sum<S: CorpusStatistics>(all: &[S]) -> S {
            let mut sum = S::default();
            all.iter().for_each(|one| sum.add(one));
            sum
        }
        let mean = |values: &[f64]| Self::Value(values.iter().sum::<f64>() / values.len() as f64);
        if let [one] = units {
            return Ok(*one);
        }
        Ok(match Units::new(units)? {
            Units::Hits(hits) => mean(&numbers(&hits)),
            Units::Values(values) => mean(&values),
            Units::Ratios(ratios) => Self::Ratio(sum(&ratios).0),
            Units::Perplexities(ratios) => Self::Perplexity(sum(&ratios).0),
            Units::Bleu(counts) => Self::Bleu(sum(&counts)),
            Units::Chrf(counts) => Self::Chrf(sum(&counts)),
        })
    }
}

/// The units of one metric, one a response.
#[derive(Clone, Debug, PartialEq)]
enum Units {
    Hits(Vec<bool>),
    Values(Vec<f64>),
    Ratios(Vec<Ratio<false>>),
    Perplexities(Vec<Ratio<true>>),
    Bleu(Vec<BleuStatistics>),
    Chrf(Vec<ChrfStatistics>),
}

/// The sums of a ratio, whose score is the exponential of it where `EXP` says so; of 0 over 0 it is that of 0.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Ratio<const EXP: bool>([f64; 2]);

impl<const EXP: bool> CorpusStatistics for Ratio<EXP> {
    fn add(&mut self, other: &Self) {
        self.0[0] += other.0[0];
        self.0[1] += other.0[1];
    }

    fn score(&self) -> f64 {
        let [numerator, denominator] = self.0;
        let ratio = if numerator == 0.0 && denominator == 0.0 { 0.0 } else { numerator / denominator };
        if EXP { ratio.exp() } else { ratio }
    }
}

impl Units {
    /// # Errors
    /// [`EvalError::Empty`] without units, [`EvalError::Mixed`] where they are of several kinds.
    fn new(units: &[Unit]) -> Result<Self, EvalError> {
        /// The content of each, if all are of one kind.
        macro_rules! all {
            ($kind:path => $units:expr, $wrap:expr) => {{
                let content =
                    units.iter().map(|unit| if let $kind(content) = *unit { Some($wrap(content)) } else { None });
                content.collect::<Option<Vec<_>>>().map($units).ok_or(EvalError::Mixed)
            }};
        }
        match units.first().ok_or(EvalError::Empty)? {
            Unit::Hit(_) => all!(Unit::Hit => Self::Hits, std::convert::identity),
            Unit::Value(_) => all!(Unit::Value => Self::Values, std::convert::identity),
            Unit::Ratio(_) => all!(Unit::Ratio => Self::Ratios, Ratio),
            Unit::Perplexity(_) => all!(Unit::Perplexity => Self::Perplexities, Ratio),
            Unit::Bleu(_) => all!(Unit::Bleu => Self::Bleu, std::convert::identity),
            Unit::Chrf(_) => all!(Unit::Chrf => Self::Chrf, std::convert::identity),
        }
    }
}

/// Numbers of hits.
fn numbers(hits: &[bool]) -> Vec<f64> {
    hits.iter().map(|&hit| f64::from(u8::from(hit))).collect()
}

impl Bootstrap {
    /// The figure of a metric.
    ///
    /// # Errors
    /// [`EvalError::Empty`] without units, [`EvalError::Mixed`] where they are of several kinds, [`EvalError::NotFinite`] for the
    /// first number that is none, and [`EvalError::NoTokens`] for ratios whose denominators are all 0.
    pub fn units(&self, units: &[Unit]) -> Result<Figure, EvalError> {
        match Units::new(units)? {
            Units::Hits(hits) => share(hits.iter().filter(|&&hit| hit).count(), hits.len()),
            Units::Values(values) => self.mean(&values),
            Units::Ratios(ratios) => self.corpus(&with_weight(ratios)?),
            Units::Perplexities(ratios) => self.corpus(&with_weight(ratios)?),
            Units::Bleu(counts) => self.corpus(&counts),
            Units::Chrf(counts) => self.corpus(&counts),
        }
    }

    /// The difference `right - left` of a metric between two models, whose responses to one prompt stand at one place. A draw
    /// takes the same prompts of both, so the difference is significant at the 5% level where its interval leaves out 0.
    ///
    /// # Errors
    /// As for [`Bootstrap::units`], and [`EvalError::Unpaired`] if the numbers of responses differ.
    pub fn units_difference(&self, left: &[Unit], right: &[Unit]) -> Result<Figure, EvalError> {
        match (Units::new(left)?, Units::new(right)?) {
            (Units::Hits(left), Units::Hits(right)) => self.difference(&numbers(&left), &numbers(&right)),
            (Units::Values(left), Units::Values(right)) => self.difference(&left, &right),
            (Units::Ratios(left), Units::Ratios(right)) => self.ratio_difference(left, right),
            (Units::Perplexities(left), Units::Perplexities(right)) => self.ratio_difference(left, right),
            (Units::Bleu(left), Units::Bleu(right)) => self.corpus_difference(&left, &right),
            (Units::Chrf(left), Units::Chrf(right)) => self.corpus_difference(&left, &right),
            _ => Err(EvalError::Mixed),
        }
    }

    fn ratio_difference<const EXP: bool>(
        &self,
        left: Vec<Ratio<EXP>>,
        right: Vec<Ratio<EXP>>,
    ) -> Result<Figure, EvalError> {
        check_finite(&left)?;
        check_finite(&right)?;
        self.corpus_difference(&left, &right)
    }
}

fn check_finite<const EXP: bool>(ratios: &[Ratio<EXP>]) -> Result<(), EvalError> {
    let finite = |ratio: &Ratio<EXP>| ratio.0.iter().all(|number| number.is_finite());
    ratios.iter().position(|ratio| !finite(ratio)).map_or(Ok(()), |index| Err(EvalError::NotFinite { index }))
}

/// Without those that have no weight: a draw of them alone would have no ratio.
fn with_weight<const EXP: bool>(mut ratios: Vec<Ratio<EXP>>) -> Result<Vec<Ratio<EXP>>, EvalError> {
    check_finite(&ratios)?;
    ratios.retain(|ratio| ratio.0[1] != 0.0);
    if ratios.is_empty() { Err(EvalError::NoTokens) } else { Ok(ratios) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Nll, NllFigures};

    const BOOTSTRAP: Bootstrap = Bootstrap { seed: 3, replicates: 200 };

    proptest! {
        /// Units give the figures that the metrics themselves define.
        #[test]
        fn units_are_the_metrics(rows in prop::collection::vec((any::<bool>(), -3.0..9.0f64, 1..30usize), 2..30)) {
            let units = |of: fn(&(bool, f64, usize)) -> Unit| rows.iter().map(of).collect::<Vec<_>>();
            let hits = rows.iter().filter(|row| row.0).count();
            prop_assert_eq!(BOOTSTRAP.units(&units(|row| Unit::Hit(row.0))), share(hits, rows.len()));
            let values: Vec<_> = rows.iter().map(|row| row.1).collect();
            prop_assert_eq!(BOOTSTRAP.units(&units(|row| Unit::Value(row.1))), BOOTSTRAP.mean(&values));
            let nll: Vec<_> = rows.iter().map(|&(_, nats, tokens)| Nll { nats, tokens }).collect();
            let nll = NllFigures::new(&nll, &BOOTSTRAP).unwrap();
            prop_assert_eq!(BOOTSTRAP.units(&units(|row| Unit::Ratio([row.1, row.2 as f64]))), Ok(nll.per_token));
            let perplexity = BOOTSTRAP.units(&units(|row| Unit::Perplexity([row.1, row.2 as f64]))).unwrap();
            prop_assert!((perplexity.value / nll.perplexity.value - 1.0).abs() < 1e-12);
        }

        /// A model against itself has no difference, and a difference is that of the figures.
        #[test]
        fn differences_are_of_figures(
            rows in prop::collection::vec(((any::<bool>(), 0.5..9.0f64), (any::<bool>(), 0.5..9.0f64), 1..30usize), 2..30),
        ) {
            type Side = (bool, f64);
            type Kind = fn(&Side, usize) -> Unit;
            let kinds: [Kind; 4] = [
                |side, _| Unit::Hit(side.0),
                |side, _| Unit::Value(side.1),
                |side, tokens| Unit::Ratio([side.1, tokens as f64]),
                |side, tokens| Unit::Perplexity([side.1, tokens as f64]),
            ];
            for kind in kinds {
                let left: Vec<_> = rows.iter().map(|row| kind(&row.0, row.2)).collect();
                let right: Vec<_> = rows.iter().map(|row| kind(&row.1, row.2)).collect();
                let difference = BOOTSTRAP.units_difference(&left, &right).unwrap();
                let figure = |units: &[Unit]| BOOTSTRAP.units(units).unwrap().value;
                prop_assert!((difference.value - (figure(&right) - figure(&left))).abs() < 1e-9);
                let none = BOOTSTRAP.units_difference(&left, &left).unwrap();
                prop_assert_eq!((none.value, none.low, none.high), (0.0, Some(0.0), Some(0.0)));
            }
        }
    }

    proptest! {
        /// Prompts with as many responses each have, pooled, the figure of all responses.
        #[test]
        fn pooled_units_keep_the_figure(rows in prop::collection::vec((any::<bool>(), 0.0..9.0f64, 1..30usize), 6)) {
            type Kind = fn(&(bool, f64, usize)) -> Unit;
            let kinds: [Kind; 4] = [
                |row| Unit::Hit(row.0),
                |row| Unit::Value(row.1),
                |row| Unit::Ratio([row.1, row.2 as f64]),
                |row| Unit::Perplexity([row.1, row.2 as f64]),
            ];
            for kind in kinds {
                let all: Vec<_> = rows.iter().map(kind).collect();
                let pooled: Vec<_> = all.chunks(3).map(|some| Unit::pool(some).unwrap()).collect();
                let figure = |units: &[Unit]| BOOTSTRAP.units(units).unwrap().value;
                prop_assert!((figure(&pooled) - figure(&all)).abs() < 1e-9 * figure(&all).max(1.0));
                prop_assert_eq!(Unit::pool(&all[..1]), Ok(all[0]));
            }
        }
    }

    #[test]
    fn units_are_plain_json() {
        let said = r#"[true,0.5,[1.0,4.0]]"#;
        let units: Vec<Unit> = serde_json::from_str(said).unwrap();
        assert_eq!(units, [Unit::Hit(true), Unit::Value(0.5), Unit::Ratio([1.0, 4.0])]);
        assert_eq!(serde_json::to_string(&units).unwrap(), said);
        let bleu = Unit::Bleu(BleuStatistics::new("the cat sat", &["the cat sat down"]).unwrap());
        let chrf = Unit::Chrf(ChrfStatistics::chrf("the cat", &["the cat sat"]).unwrap());
        for unit in [bleu, chrf] {
            assert_eq!(serde_json::from_str::<Unit>(&serde_json::to_string(&unit).unwrap()).unwrap(), unit);
        }
    }

    #[test]
    fn what_gives_no_figure_is_told() {
        assert_eq!(BOOTSTRAP.units(&[]), Err(EvalError::Empty));
        assert_eq!(Unit::pool(&[]), Err(EvalError::Empty));
        assert_eq!(Unit::pool(&[Unit::Hit(true), Unit::Value(1.0)]), Err(EvalError::Mixed));
        assert_eq!(BOOTSTRAP.units(&[Unit::Hit(true), Unit::Value(1.0)]), Err(EvalError::Mixed));
        assert_eq!(BOOTSTRAP.units_difference(&[Unit::Hit(true)], &[Unit::Value(1.0)]), Err(EvalError::Mixed));
        assert_eq!(BOOTSTRAP.units(&[Unit::Ratio([1.0, 0.0])]), Err(EvalError::NoTokens));
        let nan = Unit::Ratio([f64::NAN, 1.0]);
        assert_eq!(BOOTSTRAP.units(&[Unit::Ratio([1.0, 1.0]), nan]), Err(EvalError::NotFinite { index: 1 }));
        let unpaired = BOOTSTRAP.units_difference(&[Unit::Hit(true)], &[Unit::Hit(true), Unit::Hit(false)]);
        assert_eq!(unpaired, Err(EvalError::Unpaired { left: 1, right: 2 }));
    }
}
