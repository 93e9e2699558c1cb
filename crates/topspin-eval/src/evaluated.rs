//! What an evaluation knows of each record, from which it can be compared with another one.

use std::collections::{BTreeMap, HashMap, VecDeque};

use serde::{Deserialize, Serialize};

use crate::{Bootstrap, EvalError, Figure, Nll, Unit};

/// The figure that a likelihood is kept under; the others of its group follow from it.
const NLL: &str = "nll.per_token";

/// The record's first good response.
pub const REAL: &str = "real";
/// What the model itself sampled.
pub const SAMPLED: &str = "sampled";
/// What the model before it sampled, the opponent ([`Report::before`](crate::Report::before)).
pub const SAMPLED_BEFORE: &str = "sampled_before";

/// A response under a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scored {
    /// Its tokens.
    pub token_ids: Vec<u32>,
    /// The log-probability of each, in nats.
    pub logprobs: Vec<f32>,
}

impl Scored {
    /// The log-probability of the whole response, in nats.
    pub fn logp(&self) -> f64 {
        self.logprobs.iter().copied().map(f64::from).sum()
    }
}

/// What is known of one record under a model: a line of `eval.jsonl`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Evaluated {
    /// The record's number, as in the run's other files.
    pub line: usize,
    /// The record's id.
    pub id: String,
    /// Responses that the model has scored, by what they are: [`REAL`], [`SAMPLED`] or [`SAMPLED_BEFORE`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub responses: BTreeMap<String, Scored>,
    /// What each metric knows, by the name of its figure. Of a group that follows from one of them only that one is here.
    pub units: BTreeMap<String, Unit>,
}

impl Evaluated {
    /// Notes the likelihood of the record's good responses.
    pub fn set_nll(&mut self, nll: Nll) {
        self.units.insert(NLL.into(), Unit::Ratio([nll.nats, nll.tokens as f64]));
    }

    /// What the metric behind a figure knows of the record.
    pub fn unit(&self, figure: &str) -> Option<Unit> {
        let nll = || match self.units.get(NLL) {
            Some(&Unit::Ratio(nll)) => Some(nll),
            _ => None,
        };
        match figure {
            "nll.perplexity" => nll().map(Unit::Perplexity),
            "nll.per_response" => nll().map(|[nats, _]| Unit::Value(nats)),
            "nll.probability" => nll().map(|[nats, _]| Unit::Value((-nats).exp())),
            figure => self.units.get(figure).copied(),
        }
    }
}

/// The difference `right - left` of a figure between two evaluations, over the records that both have it for, paired by their
/// ids (of several with one id, in their order); nothing where there are none.
///
/// # Errors
/// As for [`Bootstrap::units_difference`].
pub fn paired_difference(
    left: &[Evaluated],
    right: &[Evaluated],
    figure: &str,
    bootstrap: &Bootstrap,
) -> Result<Option<Figure>, EvalError> {
    let mut of_id = HashMap::<&str, VecDeque<&Evaluated>>::new();
    left.iter().for_each(|record| of_id.entry(&record.id).or_default().push_back(record));
    let pair = |record: &Evaluated| {
        let left = of_id.get_mut(&*record.id)?.pop_front()?;
        Some((left.unit(figure)?, record.unit(figure)?))
    };
    let (left, right): (Vec<_>, Vec<_>) = right.iter().filter_map(pair).unzip();
    if right.is_empty() { Ok(None) } else { bootstrap.units_difference(&left, &right).map(Some) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evaluated(id: &str, nats: f64, hit: bool) -> Evaluated {
        let mut record = Evaluated { id: id.into(), ..Evaluated::default() };
        record.set_nll(Nll { nats, tokens: 4 });
        record.units.insert("greedy.exact_match".into(), Unit::Hit(hit));
        record
    }

    #[test]
    fn records_are_paired_by_their_ids() {
        let left = [evaluated("a", 1.0, false), evaluated("b", 2.0, false), evaluated("c", 9.0, true)];
        let right = [evaluated("b", 4.0, true), evaluated("a", 2.0, false)];
        let difference = |figure| paired_difference(&left, &right, figure, &Bootstrap::default()).unwrap();
        assert_eq!(difference("nll.per_token").unwrap().value, 0.375);
        assert_eq!(difference("nll.per_response").unwrap().value, 1.5);
        assert_eq!(difference("nll.perplexity").unwrap().value, (6.0_f64 / 8.0).exp() - (3.0_f64 / 8.0).exp());
        assert_eq!(difference("greedy.exact_match").unwrap().value, 0.5);
        assert_eq!(difference("greedy.tokens.median"), None);
        // Of the same id in their order.
        let twice = [evaluated("a", 1.0, false), evaluated("a", 2.0, false)];
        let then = [evaluated("a", 1.5, true), evaluated("a", 4.5, true), evaluated("a", 9.0, true)];
        let of_two = paired_difference(&twice, &then, "nll.per_response", &Bootstrap::default()).unwrap().unwrap();
        assert_eq!((of_two.value, of_two.n), (1.5, 2));
    }

    #[test]
    fn a_line_reads_back() {
        let record = evaluated("a", 1.5, true);
        let line = serde_json::to_string(&record).unwrap();
        assert_eq!(line, r#"{"line":0,"id":"a","units":{"greedy.exact_match":true,"nll.per_token":[1.5,4.0]}}"#);
        assert_eq!(serde_json::from_str::<Evaluated>(&line).unwrap(), record);
    }
}
