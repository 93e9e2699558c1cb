//! A task asked of a model.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use topspin_eval::harness::{Request, Sample};
use topspin_eval::task::{self, Answers, Measured, OutputType, Task};
use topspin_eval::{Bootstrap, Choice, Discrimination, Evaluated, REAL, SAMPLED, SAMPLED_BEFORE, Scored, Unit};
use topspin_game::command::{Call, CommandError};
use topspin_game::pair::Response;
use topspin_game::run::Generation;
use topspin_game::scorer;
use topspin_model::dialect::Dialect;
use topspin_model::source::ModelFiles;
use topspin_rollout::{Completion, Finish, Sampling};

use super::docs::{Doc, Docs, references, targets};
use crate::engine::Model;
use crate::error::Interrupted;
use crate::generation::{self, Plan};
use crate::input::{Line, at};
use crate::interrupt::Graceful;
use crate::progress::Bar;
use crate::{output, scoring};

/// The questions of a task as tokens of one model.
pub struct Asked {
    /// The prompts.
    lines: Vec<Line>,
    /// Texts of each whose log-probabilities are wanted: its choices, or its responses.
    texts: Vec<Vec<Vec<u32>>>,
}

impl Asked {
    /// Tokenizes, and finds what does not fit into the model.
    pub fn new(task: &Task, docs: &Docs, files: &ModelFiles) -> anyhow::Result<Self> {
        let (dialect, context) = (&files.dialect, files.config.max_positions);
        let delimiter = task.settings.target_delimiter.as_deref().unwrap_or_else(|| delimiter(dialect));
        let (mut lines, mut texts) = (Vec::new(), Vec::new());
        for doc in &docs.all {
            let line = Line::new(doc.fields.clone(), doc.record.clone(), dialect)?;
            line.check_prompt(context)?;
            let choice = |text: &String| {
                let ids = dialect.tokenizer().encode(&format!("{delimiter}{text}")).map_err(|e| at(&doc.record, e))?;
                line.check_response(context, ids)
            };
            let target = |text: &&str| line.encode(dialect, context, text);
            texts.push(match (task.settings.output_type, &doc.question) {
                (OutputType::GenerateUntil, _) => Vec::new(),
                (_, Some(question)) => question.choices.iter().map(choice).collect::<anyhow::Result<_>>()?,
                (OutputType::Discrimination, _) => {
                    targets(&doc.record).iter().take(1).map(target).collect::<anyhow::Result<_>>()?
                }
                _ => targets(&doc.record).iter().map(target).collect::<anyhow::Result<_>>()?,
            });
            lines.push(line);
        }
        Ok(Self { lines, texts })
    }
}

/// What stands between a prompt and a choice: nothing where the chat template or a token parts them, else the harness's space.
fn delimiter(dialect: &Dialect) -> &'static str {
    let is_parted = dialect.template().is_some() || dialect.tokenizer().separator().is_some();
    if is_parted { "" } else { " " }
}

/// What answers depend on, beside the model: file, limit, columns, temperature, samples, tokens.
type Asking = (String, usize, BTreeMap<String, String>, u64, usize, usize);

/// A model that is asked.
pub struct Answering<'a> {
    model: &'a Model,
    name: &'a str,
    seed: u64,
    live: usize,
    /// What it has answered: tasks that differ in what is measured share it.
    answered: Vec<(Asking, Vec<Completion>)>,
}

impl<'a> Answering<'a> {
    /// A model that goes by `name` and has not been asked yet.
    pub fn new(model: &'a Model, name: &'a str, seed: u64, live: usize) -> Self {
        Self { model, name, seed, live, answered: Vec::new() }
    }

    /// What a task measures, and the samples in the order of the file. `before` is what the task measured of the model that the
    /// log-ratio is to.
    pub fn measure(
        &mut self,
        task: &Task,
        docs: &Docs,
        asked: &Asked,
        before: Option<&[Evaluated]>,
    ) -> anyhow::Result<(Measured, Vec<Sample>)> {
        let bootstrap = Bootstrap::default();
        let none: [&str; 0] = [];
        let (measured, mut samples) = match task.settings.output_type {
            OutputType::GenerateUntil => {
                let (records, answers, samples) = self.generate(task, docs, asked)?;
                let texts: Vec<_> = answers.iter().flat_map(|answers| &answers.texts).collect();
                (Measured::new(bootstrap, records, &texts, None)?, samples)
            }
            OutputType::Discrimination => {
                let (records, samples) = self.tell_apart(task, docs, asked, before)?;
                let discrimination = Discrimination::new(&records, before);
                (Measured::new(bootstrap, records, &none, Some(discrimination))?, samples)
            }
            _ => {
                let (records, samples) = self.score(docs, asked)?;
                (Measured::new(bootstrap, records, &none, None)?, samples)
            }
        };
        samples.sort_by_key(|sample| sample.doc_id);
        Ok((measured, samples))
    }

    /// Answers to prompts.
    fn generate(
        &mut self,
        task: &Task,
        docs: &Docs,
        asked: &Asked,
    ) -> anyhow::Result<(Vec<Evaluated>, Vec<Answers>, Vec<Sample>)> {
        let dialect = &self.model.files.dialect;
        let count = task.settings.samples;
        let completions = self.complete(task, asked, task.temperature, count)?;
        let answers: Vec<_> = completions.chunks(count).map(|of_prompt| read(task, of_prompt, dialect)).collect();
        let mut records = Vec::new();
        for (doc, answers) in docs.all.iter().zip(&answers) {
            records.push(Evaluated { units: task.units(answers, &references(&doc.record))?, ..evaluated(doc) });
        }
        for (name, units) in self.ask_scorer(task, docs, &completions)? {
            for (record, units) in records.iter_mut().zip(units.chunks(count)) {
                if record.units.insert(name.clone(), Unit::pool(units)?).is_some() {
                    bail!(
                        "the scorer of the task `{}` says `{name}`, which is a figure of the task; call it otherwise",
                        task.name
                    );
                }
            }
        }
        let mut samples = Vec::new();
        for (((doc, line), answers), record) in docs.all.iter().zip(&asked.lines).zip(&answers).zip(&records) {
            let target = references(&doc.record).first().copied().unwrap_or_default();
            let prompt = dialect.tokenizer().decode(&line.prompt);
            samples.extend(task.generated((doc.id, &doc.fields), (&prompt, target), answers, record)?);
        }
        Ok((records, answers, samples))
    }

    /// Answers, those to one prompt side by side.
    fn complete(
        &mut self,
        task: &Task,
        asked: &Asked,
        temperature: f64,
        samples: usize,
    ) -> anyhow::Result<Vec<Completion>> {
        let settings = &task.settings;
        let max_new_tokens = settings.max_new_tokens;
        let asking: Asking = (
            settings.data.clone(),
            settings.limit,
            settings.columns.clone(),
            temperature.to_bits(),
            samples,
            max_new_tokens,
        );
        if let Some((_, completions)) = self.answered.iter().find(|(known, _)| *known == asking) {
            return Ok(completions.clone());
        }
        let sampling = Sampling { temperature, ..Sampling::default() };
        let plan = Plan { sampling, max_new_tokens, samples, live: self.live, seed: self.seed };
        let completions = generation::generate(self.model, &asked.lines, &plan)?;
        self.answered.push((asking, completions.clone()));
        Ok(completions)
    }

    /// The log-probabilities of the texts of each question.
    fn score_texts(&self, asked: &Asked) -> anyhow::Result<Vec<Vec<Vec<f32>>>> {
        let trees = asked
            .lines
            .iter()
            .zip(&asked.texts)
            .map(|(line, texts)| line.tree(texts.iter().map(Vec::as_slice).collect()));
        scoring::score_all(self.model, &trees.collect::<Vec<_>>())
    }

    /// Choices, or responses of the data.
    fn score(&self, docs: &Docs, asked: &Asked) -> anyhow::Result<(Vec<Evaluated>, Vec<Sample>)> {
        let tokenizer = self.model.files.dialect.tokenizer();
        let (mut records, mut samples) = (Vec::new(), Vec::new());
        let scores = self.score_texts(asked)?;
        for (((doc, line), texts), logprobs) in docs.all.iter().zip(&asked.lines).zip(&asked.texts).zip(&scores) {
            let mut record = evaluated(doc);
            let logps: Vec<f64> = logprobs.iter().map(|of_text| sum(of_text)).collect();
            let target = match &doc.question {
                Some(question) => {
                    let choices = question.choices.iter().zip(&logps).map(|(text, &logp)| Choice::new(text, logp));
                    record
                        .set_choices(&choices.collect::<Vec<_>>(), &question.right)
                        .map_err(|e| at(&doc.record, e))?;
                    question.right[0].to_string()
                }
                None => {
                    let responses = targets(&doc.record);
                    let scored = responses.iter().zip(&logps).zip(logprobs);
                    record.set_likelihood(
                        &scored.map(|((&text, &logp), of_text)| (text, logp, of_text.len())).collect::<Vec<_>>(),
                    );
                    responses[0].into()
                }
            };
            let prompt = tokenizer.decode(&line.prompt);
            let request =
                |(ids, &logp): (&Vec<u32>, &f64)| Request::loglikelihood(&prompt, &tokenizer.decode(ids), logp, None);
            let requests = texts.iter().zip(&logps).map(request).collect();
            samples.push(task::scored((doc.id, &doc.fields), &target, requests, &record));
            records.push(record);
        }
        Ok((records, samples))
    }

    /// A sample of its own beside each response of the data, both with its log-probabilities, and so are the samples of the model
    /// `before`.
    fn tell_apart(
        &mut self,
        task: &Task,
        docs: &Docs,
        asked: &Asked,
        before: Option<&[Evaluated]>,
    ) -> anyhow::Result<(Vec<Evaluated>, Vec<Sample>)> {
        let own = self.complete(task, asked, 1.0, 1)?;
        let of_before = |place: usize| before.map(|before| &before[place].responses[SAMPLED].token_ids);
        let tree = |place: usize| {
            let texts = asked.texts[place].iter().chain(of_before(place));
            asked.lines[place].tree(texts.map(Vec::as_slice).collect())
        };
        let trees: Vec<_> = (0..asked.lines.len()).map(tree).collect();
        let scores = scoring::score_all(self.model, &trees)?;
        let dialect = &self.model.files.dialect;
        let (mut records, mut samples) = (Vec::new(), Vec::new());
        for (place, ((doc, line), completion)) in docs.all.iter().zip(&asked.lines).zip(own).enumerate() {
            let mut record = evaluated(doc);
            let mut note = |kind: &str, token_ids: &[u32], logprobs: &[f32]| {
                record.responses.insert(kind.into(), Scored { token_ids: token_ids.into(), logprobs: logprobs.into() });
            };
            note(REAL, &asked.texts[place][0], &scores[place][0]);
            // The sampler reports, to the bit, what scoring would.
            note(SAMPLED, &completion.token_ids, &completion.logprobs);
            if let Some(sample) = of_before(place) {
                note(SAMPLED_BEFORE, sample, &scores[place][1]);
            }
            let prompt = dialect.tokenizer().decode(&line.prompt);
            let request = |scored: &Scored| {
                Request::loglikelihood(&prompt, &dialect.tokenizer().decode(&scored.token_ids), scored.logp(), None)
            };
            let requests = record.responses.values().map(request).collect();
            samples.push(task::scored((doc.id, &doc.fields), targets(&doc.record)[0], requests, &record));
            records.push(record);
        }
        Ok((records, samples))
    }

    /// What the task's scorer, if it has one, says of the answers.
    fn ask_scorer(
        &self,
        task: &Task,
        docs: &Docs,
        completions: &[Completion],
    ) -> anyhow::Result<BTreeMap<String, Vec<Unit>>> {
        if task.settings.scorer.is_empty() {
            return Ok(BTreeMap::new());
        }
        let dialect = &self.model.files.dialect;
        let of_each = docs.all.iter().flat_map(|doc| std::iter::repeat_n(doc, task.settings.samples));
        let generations = of_each.zip(completions).map(|(doc, completion)| {
            let Completion { token_ids, logprobs, finish } = completion.clone();
            let good = references(&doc.record).into_iter().map(String::from).collect();
            let mut generation =
                Generation::new(&doc.record, good, &Response::new(token_ids, logprobs, finish), dialect);
            generation.response = task.cut(&generation.response).into();
            generation
        });
        let file = answers_file(&task.name);
        output::write_jsonl(&file, generations)?;
        let mut bar = Bar::begin("scoring", "answers", completions.len(), 0);
        let graceful = Graceful::begin();
        let call = Call {
            setting: "scorer",
            command: &task.settings.scorer,
            file: &file,
            patience: Duration::from_secs(task.settings.timeout as u64),
            work: &task.name,
            stop: Graceful::requested(),
        };
        let said = scorer::score(&call, completions.len(), |done| bar.advance(done, ""));
        drop(bar);
        drop(graceful);
        match said {
            Ok(units) => {
                topspin_files::remove_file(&file)?;
                Ok(units)
            }
            Err(CommandError::Stopped { work }) => {
                topspin_files::remove_file(&file)?;
                let said = format!(
                    "stopped while the answers of `{}` to `{work}` were scored; nothing of it is kept",
                    self.name
                );
                Err(Interrupted(said).into())
            }
            // The file stays: it is what the command can be tried on.
            Err(error) => Err(error.into()),
        }
    }
}

/// The file of the answers that a scorer reads.
fn answers_file(task: &str) -> PathBuf {
    std::env::temp_dir().join(format!("topspin-{}-{task}.jsonl", std::process::id()))
}

/// Nothing but which record it is.
fn evaluated(doc: &Doc) -> Evaluated {
    Evaluated { line: doc.id, id: doc.record.id.clone(), ..Evaluated::default() }
}

/// Answers as text.
fn read(task: &Task, completions: &[Completion], dialect: &Dialect) -> Answers {
    let of = |completion: &Completion| {
        let said = dialect.decode_response(&completion.token_ids);
        let text = task.cut(&said).to_owned();
        let stopped = completion.finish == Finish::Stop || text.len() < said.len();
        (text, stopped)
    };
    let (texts, stopped) = completions.iter().map(of).unzip();
    Answers { texts, tokens: completions.iter().map(|completion| completion.token_ids.len()).collect(), stopped }
}

fn sum(logprobs: &[f32]) -> f64 {
    logprobs.iter().copied().map(f64::from).sum()
}
