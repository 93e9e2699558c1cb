//! All figures of an evaluation, as `eval.json` holds them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Bootstrap, EvalError, Figure, Lengths, NllFigures, share};

/// The figures of one evaluation by name, in the order of their names.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// How the intervals were drawn.
    pub bootstrap: Bootstrap,
    /// Figures by name; a dot parts a group from its members, as in `nll.per_token`.
    pub figures: BTreeMap<String, Figure>,
}

impl Report {
    /// A report without figures yet.
    pub fn new(bootstrap: Bootstrap) -> Self {
        Self { bootstrap, figures: BTreeMap::new() }
    }

    /// Adds a figure, or replaces the one of that name.
    pub fn add(&mut self, name: impl Into<String>, figure: Figure) {
        self.figures.insert(name.into(), figure);
    }

    /// Adds `<group>.mean`, `.median`, `.min` and `.max`.
    pub fn add_lengths(&mut self, group: &str, lengths: &Lengths) {
        let Lengths { mean, median, min, max } = *lengths;
        for (name, figure) in [("mean", mean), ("median", median), ("min", min), ("max", max)] {
            self.add(format!("{group}.{name}"), figure);
        }
    }

    /// Adds `<group>.per_token`, `.per_response` and `.perplexity`.
    pub fn add_nll(&mut self, group: &str, nll: &NllFigures) {
        let NllFigures { per_token, per_response, perplexity, probability } = *nll;
        let figures = [
            ("per_token", per_token),
            ("per_response", per_response),
            ("perplexity", perplexity),
            ("probability", probability),
        ];
        for (name, figure) in figures {
            self.add(format!("{group}.{name}"), figure);
        }
    }

    /// Adds `<group>.<reason>`, the share of responses that ended for each reason.
    pub fn add_end_reasons<'a>(
        &mut self,
        group: &str,
        reasons: impl IntoIterator<Item = &'a str>,
    ) -> Result<(), EvalError> {
        for (reason, figure) in end_reasons(reasons)? {
            self.add(format!("{group}.{reason}"), figure);
        }
        Ok(())
    }
}

/// The share of responses that ended for each reason, one reason a response.
///
/// # Errors
/// [`EvalError::Empty`] if there are none.
pub fn end_reasons<'a>(reasons: impl IntoIterator<Item = &'a str>) -> Result<BTreeMap<String, Figure>, EvalError> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for reason in reasons {
        *counts.entry(reason).or_default() += 1;
    }
    let n = counts.values().sum();
    if n == 0 {
        return Err(EvalError::Empty);
    }
    counts.into_iter().map(|(reason, count)| Ok((reason.to_string(), share(count, n)?))).collect()
}
