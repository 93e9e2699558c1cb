//! Which linear layers an adapter has, by PEFT's rules.

use fancy_regex::Regex;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use super::{AdapterError, LoraConfig, RANKS, last};

/// PEFT's key of ranks by pattern.
const RANK_PATTERN: &str = "rank_pattern";

/// How PEFT spells all linear layers but the head.
const ALL_LINEAR: &str = "all-linear";

/// Linear layers, as `target_modules` of PEFT names them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Targets {
    /// All but the output head: `"all-linear"`.
    AllLinear,
    /// Those whose whole name ends with one of these.
    Names(Vec<String>),
    /// Those whose whole name the regular expression matches.
    Pattern(String),
}

impl Serialize for Targets {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::AllLinear => ALL_LINEAR.serialize(serializer),
            Self::Names(names) => names.serialize(serializer),
            Self::Pattern(pattern) => pattern.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Targets {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a pattern, or a list of names")]
        enum Spelled {
            One(String),
            Many(Vec<String>),
        }
        Ok(match Spelled::deserialize(deserializer)? {
            Spelled::One(text) if text == ALL_LINEAR => Self::AllLinear,
            Spelled::One(pattern) => Self::Pattern(pattern),
            Spelled::Many(names) => Self::Names(names),
        })
    }
}

/// A regular expression that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the pattern {pattern:?} of its targets is no regular expression: {problem}")]
pub struct BadPattern {
    /// The expression.
    pub pattern: String,
    /// What the parser said.
    pub problem: String,
}

fn regex(pattern: &str, whole: String) -> Result<Regex, BadPattern> {
    // First as it was written, so that positions are told in that.
    let read =
        |text: &str| Regex::new(text).map_err(|e| BadPattern { pattern: pattern.into(), problem: e.to_string() });
    read(pattern)?;
    read(&whole)
}

/// [`Targets`], ready to be asked.
enum Match {
    All,
    Names(Vec<String>),
    Pattern(Regex),
}

impl Match {
    fn new(targets: &Targets) -> Result<Self, BadPattern> {
        Ok(match targets {
            Targets::AllLinear => Self::All,
            Targets::Names(names) => Self::Names(names.clone()),
            // As Python's `fullmatch`.
            Targets::Pattern(pattern) => Self::Pattern(regex(pattern, format!("^(?:{pattern})$"))?),
        })
    }

    fn has(&self, module: &str) -> bool {
        match self {
            Self::All => true,
            Self::Names(names) => names.iter().any(|name| ends_with(module, name)),
            // An expression that gives up on a name of a few words has not matched it.
            Self::Pattern(regex) => regex.is_match(module).unwrap_or(false),
        }
    }
}

/// Whether `name` is the whole of `module` or what follows one of its dots.
fn ends_with(module: &str, name: &str) -> bool {
    module.strip_suffix(name).is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

/// Values by pattern of a module's name, in the order of the file.
struct ByPattern(Vec<(Regex, f64)>);

impl ByPattern {
    fn new(key: &'static str, patterns: &Map<String, Value>) -> Result<Self, AdapterError> {
        let read = |(pattern, value): (&String, &Value)| {
            let fits =
                |&number: &f64| if key == RANK_PATTERN { RANKS.contains(&(number as usize)) } else { number > 0.0 };
            let number = value.as_f64().filter(fits).ok_or_else(|| AdapterError::Setting {
                what: key,
                problem: format!("has {value} for {pattern:?}, which is out of range"),
            })?;
            // As PEFT's `get_pattern_key`: behind a dot or at the beginning, to the end.
            Ok((regex(pattern, format!("^(?:.*\\.)?(?:{pattern})$"))?, number))
        };
        patterns.iter().map(read).collect::<Result<_, AdapterError>>().map(Self)
    }

    fn find(&self, module: &str) -> Option<f64> {
        self.0.iter().find(|(regex, _)| regex.is_match(module).unwrap_or(false)).map(|&(_, value)| value)
    }
}

/// The settings, ready to be asked for each module.
pub(super) struct Matcher<'a> {
    config: &'a LoraConfig,
    targets: Match,
    exclude: Option<Match>,
    ranks: ByPattern,
    alphas: ByPattern,
}

impl<'a> Matcher<'a> {
    pub(super) fn new(config: &'a LoraConfig) -> Result<Self, AdapterError> {
        Ok(Self {
            config,
            targets: Match::new(&config.targets)?,
            exclude: config.exclude.as_ref().map(Match::new).transpose()?,
            ranks: ByPattern::new(RANK_PATTERN, &config.rank_pattern)?,
            alphas: ByPattern::new("alpha_pattern", &config.alpha_pattern)?,
        })
    }

    /// Rank and factor of the adapter of `module`, whose name is `model.layers.N.…`, if it has one.
    pub(super) fn find(&self, module: &str) -> Option<(usize, f32)> {
        let layer = || module.split('.').nth(2).and_then(|number| number.parse().ok());
        // A pattern speaks for the layers too.
        let in_layer = match (&self.config.layers, &self.targets) {
            (Some(layers), Match::All | Match::Names(_)) => layer().is_some_and(|layer| layers.contains(&layer)),
            _ => true,
        };
        let excluded = self.exclude.as_ref().is_some_and(|exclude| exclude.has(module));
        if !in_layer || excluded || !self.targets.has(module) {
            return None;
        }
        let rank = self.ranks.find(module).map_or(self.config.rank, |rank| rank as usize);
        let alpha = self.alphas.find(module).unwrap_or(self.config.alpha);
        Some((rank, self.config.scale(rank, alpha)))
    }
}

/// Names among `targets` that are those of no linear layer in `known`.
pub(super) fn unknown<'a>(targets: &'a Targets, known: &[&str]) -> Option<&'a str> {
    let Targets::Names(names) = targets else { return None };
    names.iter().map(String::as_str).find(|name| !known.contains(&last(name)))
}
