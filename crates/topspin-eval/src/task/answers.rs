//! What a task makes of what a model said.

use serde_json::{Map, Value};

use super::{Task, UNFILTERED, Units, figure_of};
use crate::harness::{Request, Sample};
use crate::{Choice, ChoiceScores, EvalError, Evaluated, Nll, TextNll, Unit};

/// All answers of a model to one prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Answers {
    /// Their texts, [cut](Task::cut).
    pub texts: Vec<String>,
    /// Their numbers of tokens.
    pub tokens: Vec<usize>,
    /// Whether each ended by itself, rather than at the limit.
    pub stopped: Vec<bool>,
}

impl Task {
    /// What the metrics know of the answers to a prompt, by figure: the mean over them.
    ///
    /// # Errors
    /// Those of the metrics.
    pub fn units(&self, answers: &Answers, references: &[impl AsRef<str>]) -> Result<Units, EvalError> {
        let mut units = Units::new();
        for metric in &self.metrics {
            let mut note = |filter: &str, taken: &[String]| {
                let of_each = taken.iter().map(|answer| metric.unit(answer, references));
                let pooled = Unit::pool(&of_each.collect::<Result<Vec<_>, _>>()?)?;
                units.insert(figure_of(&metric.name, filter), pooled);
                Ok::<_, EvalError>(())
            };
            if self.filters.is_empty() || metric.reads_all() {
                note(UNFILTERED, &answers.texts)?;
                continue;
            }
            for filter in &self.filters {
                let taken =
                    answers.texts.iter().map(|text| filter.filter.apply(text)).collect::<Result<Vec<_>, _>>()?;
                note(&filter.name, &taken)?;
            }
        }
        let tokens: Vec<_> = answers.tokens.iter().map(|&tokens| Unit::Value(tokens as f64)).collect();
        units.insert("tokens.mean".into(), Unit::pool(&tokens)?);
        for (reason, wanted) in [("finish.stop", true), ("finish.length", false)] {
            let ends: Vec<_> = answers.stopped.iter().map(|&stopped| Unit::Hit(stopped == wanted)).collect();
            units.insert(reason.into(), Unit::pool(&ends)?);
        }
        Ok(units)
    }

    /// The samples of the harness for one prompt, one a filter.
    ///
    /// # Errors
    /// A filter takes too many steps.
    pub fn generated(
        &self,
        (doc_id, doc): (usize, &Map<String, Value>),
        (prompt, target): (&str, &str),
        answers: &Answers,
        record: &Evaluated,
    ) -> Result<Vec<Sample>, EvalError> {
        let sample = |filter: &str, taken: String| {
            let request = Request::generation(prompt, self.generation_kwargs(), &answers.texts, &taken);
            Sample::new(doc_id, doc.clone(), target, vec![request], filter, values(record, filter))
        };
        let mut samples = Vec::new();
        for filter in &self.filters {
            samples.push(sample(&filter.name, filter.filter.apply(&answers.texts[0])?));
        }
        samples.push(sample(UNFILTERED, answers.texts[0].clone()));
        Ok(samples)
    }
}

/// The sample of the harness for texts whose log-probabilities were asked for.
pub fn scored(
    (doc_id, doc): (usize, &Map<String, Value>),
    target: &str,
    requests: Vec<Request>,
    record: &Evaluated,
) -> Sample {
    Sample::new(doc_id, doc.clone(), target, requests, UNFILTERED, values(record, UNFILTERED))
}

/// The values of a record's figures behind a filter, as the harness has them in a sample.
fn values(record: &Evaluated, filter: &str) -> Map<String, Value> {
    let of_filter = record.units.iter().filter_map(|(figure, unit)| {
        let (metric, of) = super::metric_and_filter(figure);
        (of == filter).then(|| (metric.to_owned(), unit.value().map_or(Value::Null, Value::from)))
    });
    of_filter.collect()
}

impl Evaluated {
    /// Notes the likelihood of the record's good responses by their texts and, of each, the log-probability in nats and the number
    /// of tokens: as [`Evaluated::set_nll`], and for words and bytes.
    pub fn set_likelihood(&mut self, responses: &[(&str, f64, usize)]) {
        let all: Vec<_> =
            responses.iter().map(|&(text, logprob, tokens)| TextNll::new(text, -logprob, tokens)).collect();
        let sum = |of: fn(&TextNll) -> usize| all.iter().map(of).sum::<usize>() as f64;
        let nats = all.iter().map(|text| text.nats).sum::<f64>();
        self.set_nll(Nll { nats, tokens: all.iter().map(|text| text.tokens).sum() });
        let bytes = sum(|text| text.bytes);
        let units = [
            ("word_perplexity", Unit::Perplexity([nats, sum(|text| text.words)])),
            ("byte_perplexity", Unit::Perplexity([nats, bytes])),
            ("bits_per_byte", Unit::Ratio([nats / std::f64::consts::LN_2, bytes])),
        ];
        self.units.extend(units.map(|(name, unit)| (name.to_owned(), unit)));
    }

    /// Notes which choice is the most probable.
    ///
    /// # Errors
    /// As for [`ChoiceScores::new`].
    pub fn set_choices(&mut self, choices: &[Choice], right: &[usize]) -> Result<(), EvalError> {
        let ChoiceScores { acc, acc_norm, acc_bytes } = ChoiceScores::new(choices, right)?;
        let units = [("acc", acc), ("acc_norm", acc_norm), ("acc_bytes", acc_bytes)];
        self.units.extend(units.map(|(name, is_right)| (name.to_owned(), Unit::Hit(is_right))));
        Ok(())
    }
}
