//! The records of a run as tokens: which train, which evaluate, and who takes which share.

use std::path::{Path, PathBuf};

use serde::Serialize;
use topspin_data::{Dataset, Need, Record, read_records};
use topspin_model::chat::Message;
use topspin_model::config::DecoderConfig;
use topspin_model::dialect::Dialect;
use topspin_rollout::Finish;

use super::RunError;
use crate::config::Config;
use crate::pair::Example;

/// Seed of the held-out share and of the test records drawn: not the run's, so that runs with other seeds are evaluated
/// on the same prompts.
const TEST_SEED: u64 = 0;

/// A record with a response, as tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Its line in the data file: its number in random draws and in `rollouts.jsonl`.
    pub line: usize,
    /// The record's id.
    pub id: String,
    /// Tokens of the prompt.
    pub prompt: Vec<u32>,
    /// Tokens of the real response.
    pub real: Vec<u32>,
    /// Whether the real response was cut.
    pub finish: Finish,
}

impl Item {
    /// The item as something to imitate.
    pub fn example(&self) -> Example {
        Example { prompt_id: self.id.clone(), prompt: self.prompt.clone(), response: self.real.clone() }
    }
}

/// A record to evaluate on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestItem {
    /// Its line in the data file.
    pub line: usize,
    /// The record.
    pub record: Record,
    /// Tokens of the prompt.
    pub prompt: Vec<u32>,
    /// Good responses as text: the record's response, or else its references.
    pub good: Vec<String>,
    /// The same as tokens, cut as training's are.
    pub good_tokens: Vec<Vec<u32>>,
}

/// A record that was left out, as `skipped.jsonl` names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// The data file.
    pub file: PathBuf,
    /// Its line, from 1.
    pub line: usize,
    /// Tokens of its prompt, more than `data.max_prompt_tokens`.
    pub prompt_tokens: usize,
}

/// All records of a run.
#[derive(Clone, Debug)]
pub struct Items {
    /// To train on, in the drawn order from which shares are taken.
    pub train: Vec<Item>,
    /// To evaluate on.
    pub test: Vec<TestItem>,
    /// Left out.
    pub skipped: Vec<Skipped>,
}

impl Items {
    /// Reads and encodes the records that `config` names.
    pub fn load(config: &Config, decoder: &DecoderConfig, dialect: &Dialect) -> Result<Self, RunError> {
        let data = &config.data;
        let train_path = Path::new(&data.train);
        let train = read_records(train_path, Need::Response)?;
        let (test, train, test_path) = if data.test.is_empty() {
            let (held, rest) = train.split_by_hash(data.test_share, TEST_SEED)?;
            (held, rest, train_path)
        } else {
            let path = Path::new(&data.test);
            (read_records(path, Need::Prompt)?, train, path)
        };
        let test = match config.eval.prompts {
            0 => test,
            most if most >= test.len() => test,
            most => test.sample(most, TEST_SEED)?,
        };

        let response_limit = match data.max_response_tokens {
            0 => config.rollout.max_new_tokens,
            most => most,
        };
        let encoder =
            Encoder { dialect, context: decoder.max_positions, prompt_limit: data.max_prompt_tokens, response_limit };
        let mut skipped = Vec::new();
        let train = encoder.encode_all(train.shuffle(config.game.seed), train_path, &mut skipped, Encoder::item)?;
        let test = encoder.encode_all(test, test_path, &mut skipped, Encoder::test_item)?;
        for (what, left) in [("train", train.len()), ("evaluate", test.len())] {
            if left == 0 {
                let what = format!("no record is left to {what} on");
                let mend = "add records, raise `data.max_prompt_tokens`, or change `data.test_share`".into();
                return Err(RunError::NoRecords { what, mend });
            }
        }
        Ok(Self { train, test, skipped })
    }

    /// The records that iteration `iteration` (from 1) plays on.
    pub fn share(&self, config: &Config, iteration: usize) -> Vec<&Item> {
        let size = |iteration: usize| match *config.data.prompts.of(iteration) {
            0 => self.train.len(),
            size => size.min(self.train.len()),
        };
        let first = if config.data.fresh { (1..iteration).map(size).sum::<usize>() } else { 0 };
        self.train.iter().cycle().skip(first % self.train.len()).take(size(iteration)).collect()
    }

    /// The records of the supervised stage.
    pub fn supervised(&self, config: &Config) -> Vec<Example> {
        let size = if config.sft.prompts == 0 { self.train.len() } else { config.sft.prompts };
        self.train.iter().take(size).map(Item::example).collect()
    }
}

/// From records to tokens.
struct Encoder<'a> {
    dialect: &'a Dialect,
    context: usize,
    /// 0: none but the context.
    prompt_limit: usize,
    response_limit: usize,
}

impl Encoder<'_> {
    fn encode_all<T>(
        &self,
        records: Dataset,
        path: &Path,
        skipped: &mut Vec<Skipped>,
        encode: impl Fn(&Self, Record, Vec<u32>) -> Result<T, String>,
    ) -> Result<Vec<T>, RunError> {
        let mut items = Vec::with_capacity(records.len());
        for record in records.records {
            let line = record.line;
            let fail = |problem| RunError::Record { path: path.into(), line, problem };
            let prompt = self.prompt(&record).map_err(fail)?;
            if self.prompt_limit > 0 && prompt.len() > self.prompt_limit {
                skipped.push(Skipped { file: path.into(), line, prompt_tokens: prompt.len() });
            } else if prompt.len() >= self.context {
                return Err(fail(format!(
                    "the prompt has {} tokens, which leaves no room for a response in the model's context of {}; shorten \
                     it, or set `data.max_prompt_tokens` to leave such records out",
                    prompt.len(),
                    self.context
                )));
            } else {
                items.push(encode(self, record, prompt).map_err(fail)?);
            }
        }
        Ok(items)
    }

    fn prompt(&self, record: &Record) -> Result<Vec<u32>, String> {
        let messages: Vec<_> =
            record.messages.iter().map(|m| Message::new(m.role.as_str(), m.content.as_str())).collect();
        let tokens = self.dialect.encode_prompt(&messages).map_err(|e| e.to_string())?;
        if tokens.is_empty() { Err("the prompt has no tokens; fill it in".into()) } else { Ok(tokens) }
    }

    /// Tokens of a good response, cut where generated ones are, and whether it was.
    fn response(&self, text: &str, prompt: &[u32]) -> Result<(Vec<u32>, Finish), String> {
        let mut tokens = self.dialect.encode_response(text).map_err(|e| e.to_string())?;
        let limit = self.response_limit.min(self.context - prompt.len());
        let finish = if tokens.len() > limit { Finish::Length } else { Finish::Stop };
        // Without an end-of-turn token: it did not end there.
        tokens.truncate(limit);
        Ok((tokens, finish))
    }

    fn item(&self, record: Record, prompt: Vec<u32>) -> Result<Item, String> {
        let text = record.response.as_deref().unwrap_or_default();
        let (real, finish) = self.response(text, &prompt)?;
        Ok(Item { line: record.line, id: record.id, prompt, real, finish })
    }

    fn test_item(&self, record: Record, prompt: Vec<u32>) -> Result<TestItem, String> {
        let response = record.response.iter().filter(|text| !text.trim().is_empty());
        let mut good: Vec<String> = response.cloned().collect();
        if good.is_empty() {
            good.clone_from(&record.references);
        }
        let tokens = good.iter().map(|text| self.response(text, &prompt).map(|(tokens, _)| tokens));
        let good_tokens = tokens.collect::<Result<_, _>>()?;
        Ok(TestItem { line: record.line, record, prompt, good, good_tokens })
    }
}
