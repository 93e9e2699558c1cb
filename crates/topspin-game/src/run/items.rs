//! The records of a run as tokens: which train, which evaluate, and who takes which share.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use serde::Serialize;
use topspin_data::{Dataset, Need, Options, Place, Reason, Record, Source, Unusable};
use topspin_model::chat::Message;
use topspin_model::config::DecoderConfig;
use topspin_model::conversation::Conversation;
use topspin_model::dialect::Dialect;
use topspin_model::error::ModelError;
use topspin_model::hub::Hub;
use topspin_rollout::Finish;

use super::RunError;
use super::manifest::Records;
use crate::config::{Config, Data, Turns, fetch};
use crate::pair::Example;

/// Seed of the held-out share and of the test records drawn: not the run's, so that runs with other seeds are evaluated
/// on the same prompts.
const TEST_SEED: u64 = 0;

/// A record with a response, as tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// The record's number, its line where there is one data file: so it is called in `rollouts.jsonl`, and random draws
    /// go by it.
    pub line: usize,
    /// The record's id.
    pub id: String,
    /// Tokens of the prompt.
    pub prompt: Vec<u32>,
    /// Tokens of the real response.
    pub real: Vec<u32>,
    /// Whether the real response was cut.
    pub finish: Finish,
    /// Tokens of the rejected response and whether it was cut, where the data play the opponent in some iteration.
    pub rejected: Option<(Vec<u32>, Finish)>,
    /// The record, where responses are scored by their text.
    pub record: Option<Record>,
    /// The whole conversation as something to imitate, where all turns of the assistant are.
    conversation: Option<Example>,
}

impl Item {
    /// The item as something to imitate.
    fn example(&self) -> Example {
        let last = || {
            let (prompt, response) = (self.prompt.clone(), self.real.clone());
            Example { prompt_id: self.id.clone(), prompt, response, turns: Vec::new() }
        };
        self.conversation.clone().unwrap_or_else(last)
    }
}

/// A record to evaluate on.
#[derive(Clone, Debug, PartialEq)]
pub struct TestItem {
    /// The record's number, as an [`Item`]'s.
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

/// A line of `skipped.jsonl`: a record that was left out.
#[derive(Serialize)]
struct Skipped<'a> {
    file: &'a Path,
    line: usize,
    reason: Reason,
    problem: &'a str,
}

/// Where a run's records are, on this machine.
pub struct DataFiles {
    /// Those to train on.
    pub train: Vec<Source>,
    /// Those to evaluate on; none, where a share of the others is held out.
    pub test: Vec<Source>,
}

impl DataFiles {
    /// What `config` names, fetched if it is on the Hub.
    pub fn find(config: &Config) -> Result<Self, RunError> {
        let (data, hub) = (&config.data, Hub::from_env());
        let test = if data.test.is_empty() { Vec::new() } else { vec![Source::new(&data.test)] };
        Ok(Self { train: fetch(data.train.to_vec(), &hub)?, test: fetch(test, &hub)? })
    }
}

/// All records of a run.
#[derive(Clone, Debug)]
pub struct Items {
    /// To train on, in the drawn order from which shares are taken.
    pub train: Vec<Item>,
    /// To evaluate on.
    pub test: Vec<TestItem>,
    /// How many there are of what.
    pub records: Records,
    /// Those that cannot be used.
    unusable: Vec<Unusable>,
    /// Those whose prompt is longer than `data.max_prompt_tokens`.
    too_long: Vec<Unusable>,
}

impl Items {
    /// Reads and encodes the records that `config` names.
    pub fn load(
        config: &Config,
        files: &DataFiles,
        decoder: &DecoderConfig,
        dialect: &Dialect,
    ) -> Result<Self, RunError> {
        let data = &config.data;
        let train = read(data, &files.train, Need::Response)?;
        let mut records = Records { read: found(&train), duplicates: train.duplicates().len(), ..Records::default() };
        let (test, train) = if files.test.is_empty() {
            train.split_by_hash(data.test_share, TEST_SEED)?
        } else {
            let test = read(data, &files.test, Need::Prompt)?;
            records.read += found(&test);
            (test, train)
        };
        if config.game.takes_rejected() && data.max_unusable == 0.0 {
            check_rejected(&train)?;
        }
        let mut encoder = Encoder::new(config, decoder, dialect);
        encoder.unusable.extend(train.unusable.iter().chain(&test.unusable).cloned());
        let test = match config.eval.prompts {
            0 => test,
            most if most >= test.len() => test,
            most => test.sample(most, TEST_SEED)?,
        };
        // A held-out share has none of them; records of another file may.
        let tested: HashSet<_> = test.records.iter().map(Record::prompt_hash).collect();
        records.tested = train.records.iter().filter(|record| tested.contains(&record.prompt_hash())).count();
        let seed = config.game.seed;
        let train = encoder.encode_all(train.weighted(seed).shuffle(seed), Encoder::item)?;
        let test = encoder.encode_all(test, Encoder::test_item)?;

        let Encoder { unusable, too_long, .. } = encoder;
        records.train = train.len();
        records.test = test.len();
        records.cut = train.iter().filter(|item| item.finish == Finish::Length).count();
        records.too_long = too_long.len();
        for bad in &unusable {
            *records.unusable.entry(bad.reason.to_string()).or_default() += 1;
        }
        check_share(&unusable, &records, data.max_unusable)?;
        check_any_left(&records)?;
        Ok(Self { train, test, records, unusable, too_long })
    }

    /// The lines of `skipped.jsonl`.
    pub fn skipped(&self) -> impl Iterator<Item = impl Serialize + '_> {
        self.unusable.iter().chain(&self.too_long).map(|Unusable { place, reason, problem }| Skipped {
            file: &place.path,
            line: place.line,
            reason: *reason,
            problem,
        })
    }

    /// The items to train on by their numbers.
    pub fn by_line(&self) -> HashMap<usize, &Item> {
        self.train.iter().map(|item| (item.line, item)).collect()
    }

    /// The records that iteration `iteration` (from 1) plays on.
    pub fn share(&self, config: &Config, iteration: usize) -> Vec<&Item> {
        let size = |iteration: usize| match *config.data.prompts.of(iteration) {
            0 => self.train.len(),
            size => size.min(self.train.len()),
        };
        let fresh = (2..=iteration).filter(|&k| *config.data.fresh.of(k));
        let first = fresh.map(|k| size(k - 1)).sum::<usize>();
        self.train.iter().cycle().skip(first % self.train.len()).take(size(iteration)).collect()
    }

    /// The records of the supervised stage.
    pub fn supervised(&self, config: &Config) -> Vec<Example> {
        let size = if config.sft.prompts == 0 { self.train.len() } else { config.sft.prompts };
        self.train.iter().take(size).map(Item::example).collect()
    }
}

/// The records of `sources`, as the settings say that they are to be read.
fn read(data: &Data, sources: &[Source], need: Need) -> Result<Dataset, RunError> {
    let options = Options { need, shape: data.shape, columns: data.columns.clone(), tolerant: data.max_unusable > 0.0 };
    Ok(topspin_data::read(sources, &options)?)
}

/// Whether every record has a rejected response: else all that lack one are told at once.
fn check_rejected(train: &Dataset) -> Result<(), RunError> {
    let mut without = train.records.iter().filter(|record| record.rejected.is_none());
    let Some(first) = without.next() else { return Ok(()) };
    Err(RunError::NoRejected { without: 1 + without.count(), records: train.len(), first: first.place.clone() })
}

/// Records that a dataset had before any was passed over.
fn found(dataset: &Dataset) -> usize {
    dataset.len() + dataset.unusable.len()
}

/// Whether no more records than `most`, a share of all, cannot be used.
fn check_share(unusable: &[Unusable], records: &Records, most: f64) -> Result<(), RunError> {
    let Some(first) = unusable.first() else { return Ok(()) };
    if unusable.len() as f64 <= most * records.read as f64 {
        return Ok(());
    }
    Err(RunError::Unusable {
        unusable: unusable.len(),
        read: records.read,
        reasons: by_reason(&records.unusable),
        most,
        first: format!("{}: {}", first.place, first.problem),
    })
}

/// Whether there is something to train on and something to evaluate on.
fn check_any_left(records: &Records) -> Result<(), RunError> {
    let what = match (records.train, records.test) {
        (0, _) => "train",
        (_, 0) => "evaluate",
        _ => return Ok(()),
    };
    let mend = "add records, raise `data.max_prompt_tokens`, or change `data.test_share`".into();
    Err(RunError::NoRecords { what: format!("no record is left to {what} on"), mend })
}

/// Counts by reason, in words.
pub fn by_reason(counts: &BTreeMap<String, usize>) -> String {
    counts.iter().map(|(reason, count)| format!("{count} {reason}")).collect::<Vec<_>>().join(", ")
}

/// A record's prompt, as a chat template takes it.
fn messages(record: &Record) -> Vec<Message> {
    record.messages.iter().map(|message| Message::new(&*message.role, &*message.content)).collect()
}

/// From records to tokens.
struct Encoder<'a> {
    dialect: &'a Dialect,
    context: usize,
    /// 0: none but the context.
    prompt_limit: usize,
    response_limit: usize,
    turns: Turns,
    takes_rejected: bool,
    /// Whether responses are scored by their text.
    scored: bool,
    /// Whether a record that cannot be used is left out; else it is an error.
    tolerant: bool,
    unusable: Vec<Unusable>,
    too_long: Vec<Unusable>,
    /// Where the records stand that were left out here: of several copies, one is told.
    left_out: HashSet<Place>,
}

/// Why a record is not encoded, in a sentence.
enum Problem {
    /// It cannot be used.
    Unusable(Reason, String),
    /// The settings leave it out.
    TooLong(String),
}

/// A text that the model cannot read.
fn malformed(error: ModelError) -> Problem {
    Problem::Unusable(Reason::Malformed, error.to_string())
}

impl<'a> Encoder<'a> {
    fn new(config: &Config, decoder: &DecoderConfig, dialect: &'a Dialect) -> Self {
        let response_limit = match config.data.max_response_tokens {
            0 => config.rollout.max_new_tokens,
            most => most,
        };
        Self {
            dialect,
            context: decoder.max_positions,
            prompt_limit: config.data.max_prompt_tokens,
            response_limit,
            turns: config.sft.turns,
            takes_rejected: config.game.takes_rejected(),
            scored: config.score.is_given(),
            tolerant: config.data.max_unusable > 0.0,
            unusable: Vec::new(),
            too_long: Vec::new(),
            left_out: HashSet::new(),
        }
    }

    fn encode_all<T>(
        &mut self,
        records: Dataset,
        encode: impl Fn(&Self, Record, Vec<u32>) -> Result<T, Problem>,
    ) -> Result<Vec<T>, RunError> {
        let mut items = Vec::with_capacity(records.len());
        for record in records.records {
            let place = record.place.clone();
            let prompt = self.prompt(&record).and_then(|prompt| self.check_length(prompt));
            match prompt.and_then(|prompt| encode(self, record, prompt)) {
                Ok(item) => items.push(item),
                Err(Problem::Unusable(_, problem)) if !self.tolerant => {
                    return Err(RunError::Record { place, problem });
                }
                Err(problem) if self.left_out.insert(place.clone()) => match problem {
                    Problem::Unusable(reason, problem) => self.unusable.push(Unusable { place, reason, problem }),
                    Problem::TooLong(problem) => {
                        self.too_long.push(Unusable { place, reason: Reason::TooLong, problem });
                    }
                },
                Err(_) => {}
            }
        }
        Ok(items)
    }

    /// A prompt is within the limit, and leaves room for a response.
    fn check_length(&self, prompt: Vec<u32>) -> Result<Vec<u32>, Problem> {
        let (tokens, context) = (prompt.len(), self.context);
        if self.prompt_limit > 0 && tokens > self.prompt_limit {
            let problem = format!("the prompt has {tokens} tokens, more than `data.max_prompt_tokens`");
            return Err(Problem::TooLong(problem));
        }
        if tokens < context {
            return Ok(prompt);
        }
        let problem = format!(
            "the prompt has {tokens} tokens, which leaves no room for a response in the model's context of {context}; \
             shorten it, or set `data.max_prompt_tokens` to leave such records out"
        );
        Err(Problem::Unusable(Reason::TooLong, problem))
    }

    fn prompt(&self, record: &Record) -> Result<Vec<u32>, Problem> {
        let tokens = self.dialect.encode_prompt(&messages(record)).map_err(malformed)?;
        if tokens.is_empty() {
            return Err(Problem::Unusable(Reason::Empty, "the prompt has no tokens; fill it in".into()));
        }
        Ok(tokens)
    }

    /// Tokens of a good response, cut where generated ones are, and whether it was.
    fn response(&self, text: &str, prompt: &[u32]) -> Result<(Vec<u32>, Finish), Problem> {
        Ok(self.cut(self.dialect.encode_response(text).map_err(malformed)?, prompt))
    }

    fn cut(&self, mut tokens: Vec<u32>, prompt: &[u32]) -> (Vec<u32>, Finish) {
        let limit = self.response_limit.min(self.context - prompt.len());
        let finish = if tokens.len() > limit { Finish::Length } else { Finish::Stop };
        // Without an end-of-turn token: it did not end there.
        tokens.truncate(limit);
        (tokens, finish)
    }

    fn item(&self, record: Record, prompt: Vec<u32>) -> Result<Item, Problem> {
        let text = record.response.as_deref().unwrap_or_default();
        let (real, finish) = self.response(text, &prompt)?;
        let conversation = match self.turns {
            Turns::Last => None,
            Turns::All => Some(self.conversation(&record, text)?),
        };
        let rejected = if self.takes_rejected { Some(self.rejected(&record, &prompt)?) } else { None };
        let (line, id) = (record.number, record.id.clone());
        Ok(Item { line, id, prompt, real, finish, rejected, record: self.scored.then_some(record), conversation })
    }

    fn rejected(&self, record: &Record, prompt: &[u32]) -> Result<(Vec<u32>, Finish), Problem> {
        match &record.rejected {
            Some(text) => self.response(text, prompt),
            None => {
                let problem = "there is no rejected response, and `game.opponent` = \"data\" needs one; add `rejected`";
                Err(Problem::Unusable(Reason::Empty, problem.into()))
            }
        }
    }

    /// All turns of the assistant as something to imitate: the last one as the response, cut as such.
    fn conversation(&self, record: &Record, response: &str) -> Result<Example, Problem> {
        let mut messages = messages(record);
        messages.push(Message::new("assistant", response));
        let Conversation { mut tokens, mut turns } = self.dialect.encode_conversation(&messages).map_err(malformed)?;
        let response = turns.pop().map_or_else(Vec::new, |last| tokens.split_off(last.start));
        let prompt = self.check_length(tokens)?;
        let (response, _) = self.cut(response, &prompt);
        Ok(Example { prompt_id: record.id.clone(), prompt, response, turns })
    }

    fn test_item(&self, record: Record, prompt: Vec<u32>) -> Result<TestItem, Problem> {
        let response = record.response.iter().filter(|text| !text.trim().is_empty());
        let mut good: Vec<String> = response.cloned().collect();
        if good.is_empty() {
            good.clone_from(&record.references);
        }
        let tokens = good.iter().map(|text| self.response(text, &prompt).map(|(tokens, _)| tokens));
        let good_tokens = tokens.collect::<Result<_, _>>()?;
        Ok(TestItem { line: record.number, record, prompt, good, good_tokens })
    }
}
