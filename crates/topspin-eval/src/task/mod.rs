//! Tasks of an evaluation: what is asked of models, and what is measured of what they say.
//!
//! [`TaskSettings`] is a task as it is written, in a file of `[[task]]` tables ([`read`]) or in that of the tasks that go by name
//! ([`PRESETS`]); a [`Task`] is one that was checked. Whoever has the models asks them and gives what they said to the task, which
//! makes an [`Evaluated`](crate::Evaluated) of each record; [`Measured`] are the figures of all, and [`compare`] sets those of two
//! models against each other.

mod answers;
mod error;
mod load;
mod measured;
mod question;
mod settings;

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

pub use answers::{Answers, scored};
pub use error::{ChoiceError, TaskError};
pub use load::{PRESETS, presets, read, with_names};
pub use measured::{Comparison, Measured, compare};
pub use question::{ANSWERS, CHOICES, Question};
pub use settings::{FilterSettings, MetricSettings, OutputType, TaskSettings};

use crate::measure::higher_is_better;
use crate::pattern::{FLEXIBLE, INVALID, STRICT};
use crate::{EvalError, Measure, Normalisation, Pattern, RegexFilter, Unit, exact_match};

/// The name of the filter that takes all of an answer.
pub const UNFILTERED: &str = "none";

/// The name of the metric that is a regular expression.
const REGEX: &str = "regex";

/// A task whose settings are checked.
#[derive(Clone, Debug)]
pub struct Task {
    /// Its name: that of the settings, and of its temperature where these have several.
    pub name: String,
    /// Its settings.
    pub settings: TaskSettings,
    /// The temperature of sampling; 0 is greedy.
    pub temperature: f64,
    metrics: Vec<Metric>,
    filters: Vec<Filter>,
}

/// A metric of answers.
#[derive(Clone, Debug)]
struct Metric {
    name: String,
    rule: Rule,
}

#[derive(Clone, Debug)]
enum Rule {
    Measure(Measure),
    Exact(Normalisation),
    Regex(Pattern),
}

/// A way to take an answer out of what was said.
#[derive(Clone, Debug)]
struct Filter {
    name: String,
    settings: FilterSettings,
    filter: RegexFilter,
}

impl Task {
    /// Checks settings. They are as many tasks as they have temperatures.
    ///
    /// # Errors
    /// [`TaskError::Setting`] for the first setting that cannot be used.
    pub fn new(settings: &TaskSettings) -> Result<Vec<Self>, TaskError> {
        let name = &settings.name;
        let fault = |key, problem: String| TaskError::Setting { task: name.clone(), key, problem };
        let is_name = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
        if name.is_empty() || !name.chars().all(is_name) {
            return Err(fault(
                "name",
                "must be made of letters, digits, `_`, `-` and `.`: files are named by it".into(),
            ));
        }
        check_kind(settings).map_err(|(key, problem)| fault(key, problem))?;
        let metrics = settings.metrics.iter().map(|metric| Metric::new(metric).map_err(|e| fault("metrics", e)));
        let metrics = metrics.collect::<Result<Vec<_>, _>>()?;
        let filters = settings.filters.iter().map(|filter| Filter::new(filter).map_err(|e| fault("filters", e)));
        let filters = filters.collect::<Result<Vec<_>, _>>()?;
        let twice = |names: Vec<&str>| names.iter().enumerate().any(|(at, name)| names[..at].contains(name));
        if twice(metrics.iter().map(|metric| &*metric.name).collect()) {
            return Err(fault("metrics", "names a metric twice; name each once, or write two tasks".into()));
        }
        if twice(filters.iter().map(|filter| &*filter.name).collect()) {
            return Err(fault("filters", "has two filters of one name; give each its own".into()));
        }
        let temperature = |&temperature: &f64| {
            let name = match (settings.temperatures.len(), temperature) {
                (1, _) => name.clone(),
                (_, 0.0) => format!("{name}_greedy"),
                _ => format!("{name}_t{temperature}"),
            };
            Self { name, settings: settings.clone(), temperature, metrics: metrics.clone(), filters: filters.clone() }
        };
        Ok(settings.temperatures.iter().map(temperature).collect())
    }

    /// Whether its metrics compare with references.
    pub fn needs_references(&self) -> bool {
        self.metrics.iter().any(|metric| !matches!(metric.rule, Rule::Regex(_)))
    }

    /// The part of what was said that is an answer: what stands before the first of `until`.
    pub fn cut<'a>(&self, said: &'a str) -> &'a str {
        let ends = self.settings.until.iter().filter_map(|end| said.find(end.as_str()));
        &said[..ends.min().unwrap_or(said.len())]
    }

    /// Whether a higher value of a figure is better; nothing where neither is, or where nobody knows.
    pub fn higher_is_better(&self, figure: &str) -> Option<bool> {
        let (metric, _) = metric_and_filter(figure);
        let is_right = |metric| matches!(metric, "acc" | "acc_norm" | "acc_bytes") || metric == REGEX;
        match metric {
            "word_perplexity" | "byte_perplexity" | "bits_per_byte" => Some(false),
            metric if self.settings.lower_is_better.iter().any(|name| name == metric) => Some(false),
            metric if is_right(metric) => Some(true),
            metric if metric.contains('.') => higher_is_better(metric),
            // So figures of answers are called in a run.
            metric => higher_is_better(&format!("greedy.{metric}")),
        }
    }

    /// The settings as lm-evaluation-harness has them in its results.
    pub fn config(&self, data: &str) -> Map<String, Value> {
        let Self { name, settings, temperature, filters, .. } = self;
        let kind = settings.output_type;
        let mut config = Map::new();
        let mut set = |key: &str, value: Value| config.insert(key.into(), value);
        set("task", name.as_str().into());
        set("dataset_path", data.into());
        set("columns", json!(settings.columns));
        set("output_type", kind.name().into());
        set("num_fewshot", 0.into());
        set("repeats", settings.samples.into());
        if kind == OutputType::GenerateUntil {
            set("metric_list", json!(settings.metrics));
            set("generation_kwargs", self.generation_kwargs().into());
            let steps = |filter: &Filter| {
                let FilterSettings { regex_pattern, group_select, fallback, .. } = &filter.settings;
                let regex = json!({ "function": "regex", "regex_pattern": regex_pattern, "group_select": group_select, "fallback": fallback });
                json!({ "name": filter.name, "filter": [regex, { "function": "take_first" }] })
            };
            set("filter_list", filters.iter().map(steps).collect());
            set("scorer", json!(settings.scorer));
        }
        if kind == OutputType::MultipleChoice {
            set("target_delimiter", json!(settings.target_delimiter));
        }
        if kind == OutputType::Discrimination {
            set("temperature", json!(temperature));
        }
        set("metadata", json!({ "version": settings.version }));
        config
    }

    /// The settings of sampling by the harness's names.
    pub fn generation_kwargs(&self) -> Map<String, Value> {
        let (until, most, temperature) = (&self.settings.until, self.settings.max_new_tokens, self.temperature);
        let kwargs =
            json!({ "until": until, "max_gen_toks": most, "do_sample": temperature > 0.0, "temperature": temperature });
        kwargs.as_object().cloned().unwrap_or_default()
    }
}

/// The metric and the filter of a figure: `exact_match,strict-match` has both, others have no filter.
pub fn metric_and_filter(figure: &str) -> (&str, &str) {
    figure.split_once(',').unwrap_or((figure, UNFILTERED))
}

/// The figure of a metric behind a filter.
fn figure_of(metric: &str, filter: &str) -> String {
    if filter == UNFILTERED { metric.into() } else { format!("{metric},{filter}") }
}

/// Whether settings are those of their kind of task, and in range: else the key, and what is wrong with it.
fn check_kind(settings: &TaskSettings) -> Result<(), (&'static str, String)> {
    let (usual, kind) = (TaskSettings::default(), settings.output_type);
    let is_set = [
        ("metrics", settings.metrics != usual.metrics),
        ("filters", settings.filters != usual.filters),
        ("samples", settings.samples != usual.samples),
        ("temperatures", settings.temperatures != usual.temperatures),
        ("until", settings.until != usual.until),
        ("scorer", settings.scorer != usual.scorer),
        ("lower_is_better", settings.lower_is_better != usual.lower_is_better),
    ];
    let foreign = is_set.iter().find(|(_, is_set)| *is_set && kind != OutputType::GenerateUntil);
    if let Some((key, _)) = foreign {
        let known = match kind {
            OutputType::MultipleChoice => "`acc`, `acc_norm` and `acc_bytes`",
            OutputType::Loglikelihood => "likelihoods and perplexities",
            _ => "`discrimination.log_ratio` and `discrimination.length`, of one sample at temperature 1,",
        };
        let problem = format!("belongs to `generate_until`; leave it out: {known} are what `{}` measures", kind.name());
        return Err((key, problem));
    }
    if settings.target_delimiter.is_some() && kind != OutputType::MultipleChoice {
        return Err(("target_delimiter", "belongs to `multiple_choice`; leave it out".into()));
    }
    for (key, count) in
        [("samples", settings.samples), ("max_new_tokens", settings.max_new_tokens), ("timeout", settings.timeout)]
    {
        if count == 0 {
            return Err((key, "is 0, but must be 1 or more".into()));
        }
    }
    let wrong = settings.temperatures.iter().find(|temperature| !(temperature.is_finite() && **temperature >= 0.0));
    if let Some(wrong) = wrong {
        return Err(("temperatures", format!("has {wrong}, but each must be a number, 0 (greedy) or above")));
    }
    if settings.temperatures.is_empty() {
        return Err(("temperatures", "is empty; give one at least, `[0]` for greedy answers".into()));
    }
    if settings.samples > 1 && settings.temperatures.contains(&0.0) {
        let problem = "asks for several answers, and greedy ones are all the same; set `temperatures`, or leave it out";
        return Err(("samples", problem.into()));
    }
    if settings.until.iter().any(String::is_empty) {
        return Err(("until", "has an empty text, which would end every answer at once; leave it out".into()));
    }
    Ok(())
}

/// Names as they stand in messages.
fn quoted(names: &[impl AsRef<str>]) -> String {
    names.iter().map(|name| format!("`{}`", name.as_ref())).collect::<Vec<_>>().join(", ")
}

impl Metric {
    /// Checks a metric; else what is wrong with it.
    fn new(settings: &MetricSettings) -> Result<Self, String> {
        let MetricSettings { metric: name, ignore_case: case, ignore_punctuation: punctuation, .. } = settings;
        let (numbers, regexes, pattern) = (settings.ignore_numbers, &settings.regexes_to_ignore, &settings.pattern);
        let normalises = *case || *punctuation || numbers || !regexes.is_empty();
        let of_exact = name == Measure::ExactMatch.name();
        if normalises && !of_exact {
            return Err(format!("gives `{name}` an argument of `exact_match`; leave it out"));
        }
        if !pattern.is_empty() && name != REGEX {
            return Err(format!("gives `{name}` a `pattern`, which belongs to `{REGEX}`; leave it out"));
        }
        let read = |pattern: &String| Pattern::new(pattern).map_err(|e| format!("has a fault: {e}"));
        let rule = match Measure::ALL.into_iter().find(|measure| measure.name() == name) {
            _ if normalises => {
                let patterns = regexes.iter().map(read).collect::<Result<_, _>>()?;
                let (case, punctuation) = (*case, *punctuation);
                Rule::Exact(Normalisation { patterns, case, punctuation, numbers, ..Normalisation::default() })
            }
            Some(measure) => Rule::Measure(measure),
            None if name == REGEX && pattern.is_empty() => {
                return Err(format!(
                    "has `{REGEX}` without a pattern; write `{{ metric = \"{REGEX}\", pattern = '...' }}`"
                ));
            }
            None if name == REGEX => Rule::Regex(read(pattern)?),
            None => {
                let known: Vec<_> = Measure::ALL.iter().map(|measure| measure.name()).chain([REGEX]).collect();
                return Err(format!("has `{name}`, which is no metric; choose from {}", quoted(&known)));
            }
        };
        Ok(Self { name: name.clone(), rule })
    }

    /// Whether it finds the answer by a rule of its own in all that was said.
    fn reads_all(&self) -> bool {
        matches!(self.rule, Rule::Measure(Measure::NumericMatch))
    }

    fn unit(&self, answer: &str, references: &[impl AsRef<str>]) -> Result<Unit, EvalError> {
        match &self.rule {
            Rule::Measure(measure) => measure.unit(answer, references),
            Rule::Regex(pattern) => pattern.is_match(answer).map(Unit::Hit),
            Rule::Exact(normalisation) => {
                let references = references.iter().map(|reference| normalisation.apply(reference.as_ref()));
                let references = references.collect::<Result<Vec<_>, _>>()?;
                Ok(Unit::Hit(exact_match(&normalisation.apply(answer)?, &references)))
            }
        }
    }
}

impl Filter {
    /// Checks a filter, or finds the one that goes by its name; else what is wrong with it.
    fn new(settings: &FilterSettings) -> Result<Self, String> {
        let known = |name: &str, pattern: &str, group_select| FilterSettings {
            name: name.into(),
            regex_pattern: pattern.into(),
            group_select,
            fallback: INVALID.into(),
        };
        let known = [known("strict-match", STRICT, 0), known("flexible-extract", FLEXIBLE, -1)];
        let is_bare = settings.regex_pattern.is_empty();
        let settings = match known.iter().find(|known| is_bare && known.name == settings.name) {
            Some(known) => known,
            None if is_bare => {
                let known: Vec<_> = known.iter().map(|known| &known.name).collect();
                return Err(format!(
                    "has `{}` without `regex_pattern`; give it one, or choose from {}",
                    settings.name,
                    quoted(&known)
                ));
            }
            None => settings,
        };
        let FilterSettings { name, regex_pattern, group_select, fallback } = settings;
        if name.is_empty() || name == UNFILTERED || name.contains(',') {
            return Err(format!("has one called `{name}`; give it a name without commas that is not `{UNFILTERED}`"));
        }
        let filter =
            RegexFilter::new(regex_pattern, *group_select, fallback).map_err(|e| format!("has a fault: {e}"))?;
        Ok(Self { name: name.clone(), settings: settings.clone(), filter })
    }
}

/// Units by figure.
type Units = BTreeMap<String, Unit>;

#[cfg(test)]
mod tests;
