//! All figures of an evaluation, as `eval.json` holds them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Bootstrap, EvalError, Evaluated, Figure, Lengths, NllFigures, Unit};

/// The figures of one evaluation by name, in the order of their names.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// How the intervals were drawn.
    pub bootstrap: Bootstrap,
    /// The stage folder of the model that this one was trained from and is set against: its opponent in the metrics
    /// `discrimination`. The model as it came has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// Figures by name; a dot parts a group from its members, as in `nll.per_token`.
    pub figures: BTreeMap<String, Figure>,
}

impl Report {
    /// A report without figures yet.
    pub fn new(bootstrap: Bootstrap) -> Self {
        Self { bootstrap, before: None, figures: BTreeMap::new() }
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

    /// Adds the figure of each metric that the records have units of.
    ///
    /// # Errors
    /// As for [`Bootstrap::units`].
    pub fn add_units(&mut self, records: &[Evaluated]) -> Result<(), EvalError> {
        let mut all = BTreeMap::<&str, Vec<Unit>>::new();
        for (name, unit) in records.iter().flat_map(|record| &record.units) {
            all.entry(name).or_default().push(*unit);
        }
        for (name, units) in all {
            let figure = self.bootstrap.units(&units)?;
            self.add(name, figure);
        }
        Ok(())
    }
}
