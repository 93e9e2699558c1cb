//! `data.train`: one file or pattern, or several with weights.

use serde::{Deserialize, Serialize};
use topspin_data::Source;
use topspin_model::error::ModelError;
use topspin_model::hub::Hub;

/// One path or pattern, or a list of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "expected a path, or a list of paths and of tables such as { path = \"a.jsonl\", weight = 2 }"
)]
pub enum Sources {
    /// One.
    One(String),
    /// Several.
    Several(Vec<Part>),
}

/// One of several.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum Part {
    /// Each record once.
    Path(String),
    /// Each record as often as the weight says.
    Weighted {
        /// The path or pattern.
        path: String,
        /// How often a record is drawn in an epoch; once, if nothing is said.
        #[serde(default = "once")]
        weight: f64,
    },
}

fn once() -> f64 {
    1.0
}

impl Sources {
    /// Whether nothing is named, or something by an empty name.
    pub fn is_empty(&self) -> bool {
        let sources = self.to_vec();
        sources.is_empty() || sources.iter().any(|source| source.spec.is_empty())
    }

    /// What is named, in order.
    pub fn to_vec(&self) -> Vec<Source> {
        let part = |part: &Part| match part {
            Part::Path(path) => Source::new(path),
            Part::Weighted { path, weight } => Source { weight: *weight, ..Source::new(path) },
        };
        match self {
            Self::One(path) => vec![Source::new(path)],
            Self::Several(parts) => parts.iter().map(part).collect(),
        }
    }
}

impl Default for Sources {
    fn default() -> Self {
        Self::One(String::new())
    }
}

impl<T: Into<String>> From<T> for Sources {
    fn from(path: T) -> Self {
        Self::One(path.into())
    }
}

/// The same sources on this machine: a data set on the Hub, `hf:org/name`, is fetched, and its files take its place.
pub fn fetch(sources: Vec<Source>, hub: &Hub) -> Result<Vec<Source>, ModelError> {
    let mut local = Vec::new();
    for source in sources {
        match source.spec.strip_prefix("hf:") {
            Some(name) => {
                let files = hub.fetch_data(name)?.into_iter();
                local.extend(files.map(|file| Source { spec: file.to_string_lossy().into_owned(), ..source.clone() }));
            }
            None => local.push(source),
        }
    }
    Ok(local)
}
