//! Measures of an answer against references, by name.

use serde::{Deserialize, Serialize};

use crate::{
    BleuStatistics, ChrfStatistics, EvalError, Normalisation, RougeL, Stemming, Unit, exact_match, numeric_match,
};

/// A measure of an answer against references.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// The share of answers that are a reference, white space at the ends aside.
    ExactMatch,
    /// The same, without differences of case, punctuation, articles and white space (SQuAD's rule).
    NormalizedMatch,
    /// The share of answers whose number, the one behind `####` or else the last, is that of a reference.
    NumericMatch,
    /// BLEU of the corpus, 0 to 100.
    Bleu,
    /// chrF of the corpus, 0 to 100.
    Chrf,
    /// chrF++ of the corpus, 0 to 100.
    ChrfPlusPlus,
    /// The mean F-measure of ROUGE-L, 0 to 1, of words with the Porter stemmer.
    RougeL,
}

impl Measure {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::ExactMatch,
        Self::NormalizedMatch,
        Self::NumericMatch,
        Self::Bleu,
        Self::Chrf,
        Self::ChrfPlusPlus,
        Self::RougeL,
    ];

    /// Its name, as it is written in settings and results.
    pub fn name(self) -> &'static str {
        match self {
            Self::ExactMatch => "exact_match",
            Self::NormalizedMatch => "normalized_match",
            Self::NumericMatch => "numeric_match",
            Self::Bleu => "bleu",
            Self::Chrf => "chrf",
            Self::ChrfPlusPlus => "chrf_plus_plus",
            Self::RougeL => "rouge_l",
        }
    }

    /// What it knows of an answer. Higher is better.
    ///
    /// # Errors
    /// [`EvalError::NoReference`] where there is none.
    pub fn unit(self, answer: &str, references: &[impl AsRef<str>]) -> Result<Unit, EvalError> {
        if references.is_empty() {
            return Err(EvalError::NoReference);
        }
        Ok(match self {
            Self::ExactMatch => Unit::Hit(exact_match(answer, references)),
            Self::NormalizedMatch => Unit::Hit(Normalisation::squad().matches(answer, references)?),
            Self::NumericMatch => Unit::Hit(numeric_match(answer, references)),
            Self::Bleu => Unit::Bleu(BleuStatistics::new(answer, references)?),
            Self::Chrf => Unit::Chrf(ChrfStatistics::chrf(answer, references)?),
            Self::ChrfPlusPlus => Unit::Chrf(ChrfStatistics::chrf_plus_plus(answer, references)?),
            Self::RougeL => Unit::Value(RougeL::new(answer, references, Stemming::Porter)?.fmeasure),
        })
    }
}

/// Whether a higher value of a figure is better, by its name in an evaluation; nothing where neither is, or where nobody knows.
pub fn higher_is_better(figure: &str) -> Option<bool> {
    match figure.split_once('.') {
        Some(("nll", name)) => Some(name == "probability"),
        Some((_, name)) => Measure::ALL.iter().any(|measure| measure.name() == name).then_some(true),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_settings() {
        for measure in Measure::ALL {
            let quoted = format!("\"{}\"", measure.name());
            assert_eq!(serde_json::to_string(&measure).unwrap(), quoted);
            assert_eq!(serde_json::from_str::<Measure>(&quoted).unwrap(), measure);
        }
    }

    #[test]
    fn figures_have_a_better_end() {
        assert_eq!(
            ["nll.per_token", "nll.probability", "sampled.chrf"].map(higher_is_better),
            [Some(false), Some(true), Some(true)]
        );
        assert_eq!(["greedy.tokens.mean", "discrimination.length.auc", "score"].map(higher_is_better), [None; 3]);
    }

    #[test]
    fn each_measure_has_its_best_at_a_reference() {
        let references = ["The answer is 42, they say.", "It is forty-two of them all."];
        for measure in Measure::ALL {
            let value = |answer: &str| measure.unit(answer, &references).unwrap().value().unwrap();
            let best =
                if matches!(measure, Measure::Bleu | Measure::Chrf | Measure::ChrfPlusPlus) { 100.0 } else { 1.0 };
            assert!((value(references[0]) - best).abs() < 1e-9, "{measure:?}");
            assert!(value("No idea: 41") < best, "{measure:?}");
            assert_eq!(measure.unit("x", &[] as &[&str]), Err(EvalError::NoReference));
        }
    }
}
