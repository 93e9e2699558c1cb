//! What a task is, as it is written.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// What is asked of a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputType {
    /// An answer to each prompt, which is measured against references.
    #[default]
    GenerateUntil,
    /// The log-probability of each choice behind its prompt.
    MultipleChoice,
    /// The log-probability of the responses of the data.
    Loglikelihood,
    /// A sample beside each response of the data, and how well the two kinds are told apart.
    Discrimination,
}

impl OutputType {
    /// Its name, as it is written in settings and results.
    pub fn name(self) -> &'static str {
        match self {
            Self::GenerateUntil => "generate_until",
            Self::MultipleChoice => "multiple_choice",
            Self::Loglikelihood => "loglikelihood",
            Self::Discrimination => "discrimination",
        }
    }
}

/// `[[task]]`: what is asked of the models, and what is measured.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TaskSettings {
    /// What it is called in tables and files: letters, digits, `_`, `-` and `.`. Empty: as its preset.
    pub name: String,
    /// The task that goes by name whose settings it begins with. Empty: none.
    pub preset: String,
    /// What it is about, in a line.
    pub description: String,
    /// Its version, which stands in results: figures of two versions do not compare.
    pub version: f64,
    /// What is asked: `generate_until` (an answer to each prompt), `multiple_choice` (the log-probability of each choice),
    /// `loglikelihood` (that of the data's responses) or `discrimination` (samples beside the data's responses).
    pub output_type: OutputType,
    /// The file with its records. Empty: that of `--data`.
    pub data: String,
    /// The columns that hold fields under another name, by the field, as in `data.columns` of a run; of `multiple_choice` also
    /// `choices` and `answer`.
    pub columns: BTreeMap<String, String>,
    /// Use only the first records, so many. 0: all.
    pub limit: usize,
    /// What is measured of answers: `exact_match`, `normalized_match`, `numeric_match`, `bleu`, `chrf`, `chrf_plus_plus`,
    /// `rouge_l`, `regex`; by name or as a table with `metric` and its arguments: `ignore_case`, `ignore_punctuation`,
    /// `ignore_numbers` and `regexes_to_ignore` of `exact_match`, `pattern` of `regex`.
    #[serde(deserialize_with = "names_or_tables")]
    pub metrics: Vec<MetricSettings>,
    /// How the answer is taken out of what the model said: `strict-match` and `flexible-extract` are GSM8K's, and a table with
    /// `name`, `regex_pattern`, `group_select` and `fallback` is one of your own. Of several each has figures. None: all of it
    /// is the answer.
    #[serde(deserialize_with = "names_or_tables")]
    pub filters: Vec<FilterSettings>,
    /// Temperatures of sampling; 0 is greedy. Of several each has figures, as a task of its own.
    pub temperatures: Vec<f64>,
    /// Samples of each prompt. What is measured is the mean over them.
    pub samples: usize,
    /// Longest answer in tokens, its end-of-turn token included.
    pub max_new_tokens: usize,
    /// Texts that end an answer before its end of turn; they and what follows are cut off.
    pub until: Vec<String>,
    /// What stands between a prompt and a choice. Left out: nothing where the model has a chat template or a separator token,
    /// else a space.
    pub target_delimiter: Option<String>,
    /// A command that scores answers, its words as a list, as `eval.scorer` of a run.
    pub scorer: Vec<String>,
    /// Figures of the scorer of which the lower one is better: they win where they are lower.
    pub lower_is_better: Vec<String>,
    /// The longest silence of the scorer in seconds, after which it is ended.
    pub timeout: usize,
}

impl Default for TaskSettings {
    fn default() -> Self {
        Self {
            name: String::new(),
            preset: String::new(),
            description: String::new(),
            version: 1.0,
            output_type: OutputType::default(),
            data: String::new(),
            columns: BTreeMap::new(),
            limit: 0,
            metrics: Vec::new(),
            filters: Vec::new(),
            temperatures: vec![0.0],
            samples: 1,
            max_new_tokens: 256,
            until: Vec::new(),
            target_delimiter: None,
            scorer: Vec::new(),
            lower_is_better: Vec::new(),
            timeout: 600,
        }
    }
}

/// A metric with its arguments, which are those of lm-evaluation-harness where it has the same one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MetricSettings {
    /// Its name.
    pub metric: String,
    /// Of `exact_match`: differences of case do not count.
    #[serde(skip_serializing_if = "is_false")]
    pub ignore_case: bool,
    /// Of `exact_match`: ASCII punctuation does not count.
    #[serde(skip_serializing_if = "is_false")]
    pub ignore_punctuation: bool,
    /// Of `exact_match`: the digits 0 to 9 do not count.
    #[serde(skip_serializing_if = "is_false")]
    pub ignore_numbers: bool,
    /// Of `exact_match`: matches of these regular expressions do not count.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub regexes_to_ignore: Vec<String>,
    /// Of `regex`: what a good answer matches somewhere.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub pattern: String,
}

fn is_false(flag: &bool) -> bool {
    !flag
}

impl From<String> for MetricSettings {
    fn from(metric: String) -> Self {
        Self { metric, ..Self::default() }
    }
}

/// How an answer is taken out of what a model said.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FilterSettings {
    /// Its name.
    pub name: String,
    /// The regular expression whose match, or first group that is not empty, is the answer.
    pub regex_pattern: String,
    /// Which match: 0 is the first, -1 the last.
    pub group_select: isize,
    /// The answer where there is no match.
    pub fallback: String,
}

impl From<String> for FilterSettings {
    fn from(name: String) -> Self {
        Self { name, ..Self::default() }
    }
}

/// A value that is written as its name, or as a table with more.
struct NameOrTable<T>(T);

impl<'de, T: Deserialize<'de> + From<String>> Deserialize<'de> for NameOrTable<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de> + From<String>> Visitor<'de> for Either<T> {
            type Value = NameOrTable<T>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a name, or a table")
            }

            fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
                Ok(NameOrTable(T::from(name.into())))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(NameOrTable)
            }
        }

        deserializer.deserialize_any(Either(PhantomData))
    }
}

fn names_or_tables<'de, D: Deserializer<'de>, T: Deserialize<'de> + From<String>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    let values: Vec<NameOrTable<T>> = Vec::deserialize(deserializer)?;
    Ok(values.into_iter().map(|NameOrTable(value)| value).collect())
}
