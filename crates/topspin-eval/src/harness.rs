//! Results and samples as lm-evaluation-harness 0.4.13 writes them, so that tools which read its files read these.
//!
//! [`Results`] is the content of its `results_DATE.json`; each [`Sample`] is a line of `samples_TASK_DATE.jsonl`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::Figure;

/// The results of a model on tasks. Maps are keyed by the tasks' names.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// `name`, `alias` and `sample_len`, and for each metric and filter `METRIC,FILTER` and `METRIC_stderr,FILTER`; the
    /// latter is `N/A` where there is none.
    pub results: BTreeMap<String, Map<String, Value>>,
    /// Groups of tasks, and the tasks of each.
    pub group_subtasks: BTreeMap<String, Vec<String>>,
    /// The settings of each task.
    pub configs: BTreeMap<String, Map<String, Value>>,
    /// Its version: a number, a text or nothing.
    pub versions: BTreeMap<String, Value>,
    /// The number of solved examples before each question.
    #[serde(rename = "n-shot")]
    pub n_shot: BTreeMap<String, u64>,
    /// Which end of each metric is the better one; nothing if neither.
    pub higher_is_better: BTreeMap<String, BTreeMap<String, Option<bool>>>,
    /// The numbers of questions.
    #[serde(rename = "n-samples")]
    pub n_samples: BTreeMap<String, SampleCounts>,
    /// All else that the file has: `config` with the model's name, `date`, `task_hashes` and more.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// How many questions a task has, and how many of them were asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SampleCounts {
    /// The number that it has.
    pub original: usize,
    /// The number that was asked.
    pub effective: usize,
}

/// What a task contributes to [`Results`].
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    /// Its name.
    pub name: String,
    /// Its settings. `task_alias` is the name in tables; `num_fewshot` the number of solved examples, 0 if it is not there.
    pub config: Map<String, Value>,
    /// Its version.
    pub version: Value,
    /// The numbers of its questions.
    pub samples: SampleCounts,
    /// What was measured.
    pub metrics: Vec<Metric>,
}

/// A figure by the harness's names.
#[derive(Clone, Debug, PartialEq)]
pub struct Metric {
    /// The metric, as `exact_match`.
    pub name: String,
    /// How answers were taken out of responses, as `strict-match`; `none` if they were not.
    pub filter: String,
    /// The figure. Its interval has no place in the harness's files.
    pub figure: Figure,
    /// Whether a higher one is better; nothing where neither end is, or where nobody knows.
    pub higher_is_better: Option<bool>,
}

impl Results {
    /// Adds a task, or replaces the one of that name.
    pub fn add(&mut self, task: Task) {
        let Task { name, config, version, samples, metrics } = task;
        let alias = config.get("task_alias").cloned().unwrap_or_else(|| name.clone().into());
        let mut row = Map::new();
        row.insert("name".into(), name.clone().into());
        row.insert("alias".into(), alias);
        row.insert("sample_len".into(), samples.effective.into());
        let mut directions = BTreeMap::new();
        for Metric { name, filter, figure, higher_is_better } in metrics {
            row.insert(format!("{name},{filter}"), figure.value.into());
            row.insert(format!("{name}_stderr,{filter}"), figure.stderr.map_or("N/A".into(), Value::from));
            directions.insert(name, higher_is_better);
        }
        self.results.insert(name.clone(), row);
        let shots = config.get("num_fewshot").and_then(Value::as_u64).unwrap_or(0);
        self.n_shot.insert(name.clone(), shots);
        self.configs.insert(name.clone(), config);
        self.versions.insert(name.clone(), version);
        self.higher_is_better.insert(name.clone(), directions);
        self.n_samples.insert(name, samples);
    }

    /// Adds the hash of each task's samples to `task_hashes`: two runs with the same one asked the same questions.
    pub fn add_task_hash(&mut self, task: &str, samples: &[Sample]) {
        let hashes = samples.iter().map(|s| [&*s.doc_hash, &*s.prompt_hash, &*s.target_hash].concat());
        let hash = hash(&hashes.collect::<String>());
        let all = self.rest.entry("task_hashes").or_insert_with(|| Map::new().into());
        if let Value::Object(all) = all {
            all.insert(task.into(), hash.into());
        }
    }
}

/// A question, what the model was asked, what it said and how that was judged; one for each filter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The place of the question in the task, counted from 0.
    pub doc_id: usize,
    /// The question as the data has it.
    pub doc: Map<String, Value>,
    /// The right answer, or the place of the right choice.
    pub target: String,
    /// What was passed to the model: `gen_args_0`, ..., each with `arg_0`, ...
    pub arguments: Map<String, Value>,
    /// What it said to each request: texts, or the log-probability and whether greedy decoding gives the same, as texts.
    pub resps: Vec<Vec<Value>>,
    /// The same behind the filter, one a request.
    pub filtered_resps: Vec<Value>,
    /// The filter's name.
    pub filter: String,
    /// The metrics' names.
    pub metrics: Vec<String>,
    /// SHA-256 of `doc` as indented JSON.
    pub doc_hash: String,
    /// SHA-256 of the first request's prompt.
    pub prompt_hash: String,
    /// SHA-256 of `target`.
    pub target_hash: String,
    /// The metrics' values by name: a number or, for a metric of the whole corpus, what it is computed from.
    #[serde(flatten)]
    pub values: Map<String, Value>,
}

/// One call of the model.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// The prompt or context first.
    arguments: [Value; 2],
    said: Vec<Value>,
    filtered: Value,
}

impl Request {
    /// A text that goes on from a prompt: the settings of sampling (`generation_kwargs`), all texts that were sampled, and
    /// the answer that the filter took out of them.
    pub fn generation(prompt: &str, settings: Map<String, Value>, texts: &[impl AsRef<str>], filtered: &str) -> Self {
        let said = texts.iter().map(|text| text.as_ref().into()).collect();
        Self { arguments: [prompt.into(), settings.into()], said, filtered: filtered.into() }
    }

    /// The log-probability of a given text behind a context, in nats, and whether greedy decoding gives that text, if that is
    /// known.
    pub fn loglikelihood(context: &str, text: &str, logprob: f64, is_greedy: Option<bool>) -> Self {
        // Python's words for both.
        let is_greedy = is_greedy.map_or("None", |is_greedy| if is_greedy { "True" } else { "False" });
        let said: Value = vec![format!("{logprob:?}"), is_greedy.into()].into();
        Self { arguments: [context.into(), text.into()], said: vec![said.clone()], filtered: said }
    }
}

impl Sample {
    /// Puts together a sample of at least one request; the hash of the prompt is that of the first one.
    ///
    /// The hash of `doc` is the harness's own, but where a number is written with an exponent, which Python does otherwise.
    pub fn new(
        doc_id: usize,
        doc: Map<String, Value>,
        target: &str,
        requests: Vec<Request>,
        filter: &str,
        values: Map<String, Value>,
    ) -> Self {
        let doc_hash = hash_of_doc(&doc);
        let prompt = requests.first().and_then(|request| request.arguments[0].as_str()).unwrap_or_default();
        let prompt_hash = hash(prompt);
        let named = |request: &Request| {
            let arguments = request.arguments.iter().cloned().enumerate();
            Value::Object(arguments.map(|(place, argument)| (format!("arg_{place}"), argument)).collect())
        };
        let arguments = requests.iter().map(named).enumerate();
        Self {
            doc_id,
            doc,
            target: target.into(),
            arguments: arguments.map(|(place, named)| (format!("gen_args_{place}"), named)).collect(),
            resps: requests.iter().map(|request| request.said.clone()).collect(),
            filtered_resps: requests.into_iter().map(|request| request.filtered).collect(),
            filter: filter.into(),
            metrics: values.keys().cloned().collect(),
            doc_hash,
            prompt_hash,
            target_hash: hash(target),
            values,
        }
    }
}

/// SHA-256 of a question as indented JSON, which is `doc_hash`.
pub fn hash_of_doc(doc: &Map<String, Value>) -> String {
    hash(&format!("{:#}", Value::Object(doc.clone())))
}

fn hash(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}
