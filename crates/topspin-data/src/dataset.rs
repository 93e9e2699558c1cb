//! Records, and what can be drawn from many of them.
//!
//! Splits and draws depend on hashes of the prompts and ids, not on the place in a file: a record that is added or
//! removed leaves the others where they were.

use std::collections::{HashMap, HashSet};
use std::fmt::Write;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{DataError, Place, Unusable};

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// What was said.
    pub content: String,
}

/// A prompt, with the responses and the references that the data gives to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// The record's own `id`, or else the first 16 hexadecimal digits of [`Record::prompt_hash`]; so records with the
    /// same prompt share an id, and no two prompts do.
    pub id: String,
    /// The prompt: an optional system message, then the user and the assistant by turns, the user last.
    pub messages: Vec<Message>,
    /// The response of the data, or of two the better one.
    pub response: Option<String>,
    /// The worse one of two responses.
    pub rejected: Option<String>,
    /// Responses that are all good, for evaluation.
    pub references: Vec<String>,
    /// Where the record stands.
    pub place: Place,
    /// Its number in the dataset: its line, with several files counted on from one to the next; of a further copy
    /// ([`Dataset::weighted`]) counted on from the last line of all. No two records have the same.
    pub number: usize,
    /// How often it is drawn in an epoch.
    pub weight: f64,
}

impl Record {
    /// SHA-256 of the prompt: for each message the role and the content, each after its length in bytes (u64,
    /// little-endian), so that no two prompts are written alike.
    pub fn prompt_hash(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for text in self.messages.iter().flat_map(|m| [&m.role, &m.content]) {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        }
        hash.finalize().into()
    }
}

/// The first 16 hexadecimal digits of a hash.
pub(crate) fn short_hex(hash: &[u8; 32]) -> String {
    hash[..8].iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Records in the order of the files, or in a drawn order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Dataset {
    /// The records.
    pub records: Vec<Record>,
    /// Records that were passed over.
    pub unusable: Vec<Unusable>,
    /// Lines of all files together.
    pub lines: usize,
}

impl Dataset {
    /// The number of records.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The number of records whose prompt an earlier record has already. With several responses to a prompt this is
    /// as it should be.
    pub fn repeated_prompts(&self) -> usize {
        let mut seen = HashSet::new();
        self.records.iter().filter(|record| !seen.insert(&record.messages)).count()
    }

    /// The records that repeat an earlier one: prompt, responses and references.
    pub fn duplicates(&self) -> Vec<&Record> {
        let mut seen = HashSet::new();
        let records = self.records.iter();
        records.filter(|r| !seen.insert((&r.messages, &r.response, &r.rejected, &r.references))).collect()
    }

    /// Has each record as often as its weight says: 2 is twice, and 0.5 is half of the records once. Which half, a hash of
    /// the record's id and the seed decides, not its place; so records that share an id share that fate.
    ///
    /// For a weight w a record is there floor(w) times, and once more if the first 53 bits of SHA-256(`seed`, `"weight"`,
    /// SHA-256(id)), read as a fraction, are below the rest. So a larger weight has all that a smaller one has.
    pub fn weighted(self, seed: u64) -> Self {
        let mut records = Vec::with_capacity(self.records.len());
        for record in self.records {
            let id: [u8; 32] = Sha256::digest(&record.id).into();
            let drawn = fraction(&key(seed, "weight", &id, 0)) < record.weight.fract();
            // `as` saturates, and cuts off the fraction.
            for copy in 0..record.weight as usize + usize::from(drawn) {
                records.push(Record { number: record.number + copy * self.lines, ..record.clone() });
            }
        }
        Self { records, ..self }
    }

    /// Splits into the held-out records, about `share` of the distinct prompts, and the rest; both keep their order.
    ///
    /// A prompt is held out if the first 53 bits of SHA-256(`seed`, `"split"`, prompt hash), read as a fraction, are
    /// below `share`. So all records with a prompt fall on one side, and a larger share holds out all that a smaller
    /// one does.
    ///
    /// # Errors
    /// [`DataError::Share`] unless `0 <= share <= 1`.
    pub fn split_by_hash(self, share: f64, seed: u64) -> Result<(Self, Self), DataError> {
        if !(0.0..=1.0).contains(&share) {
            return Err(DataError::Share { share });
        }
        let is_held = |record: &Record| fraction(&key(seed, "split", &record.prompt_hash(), 0)) < share;
        let (held, rest) = self.records.into_iter().partition(is_held);
        let held = Self { records: held, unusable: Vec::new(), lines: self.lines };
        Ok((held, Self { records: rest, ..self }))
    }

    /// Puts the records in a drawn order: by SHA-256(`seed`, `"order"`, prompt hash, k) for the k-th record (from 0)
    /// with that prompt.
    pub fn shuffle(self, seed: u64) -> Self {
        let mut met: HashMap<[u8; 32], u64> = HashMap::new();
        let mut keyed: Vec<_> = self
            .records
            .into_iter()
            .map(|record| {
                let hash = record.prompt_hash();
                let k = met.entry(hash).or_default();
                *k += 1;
                (key(seed, "order", &hash, *k - 1), record)
            })
            .collect();
        keyed.sort_by_key(|(key, _)| *key);
        Self { records: keyed.into_iter().map(|(_, record)| record).collect(), ..self }
    }

    /// Draws `n` records without replacement: the first `n` of [`Dataset::shuffle`], so that a larger draw with the
    /// same seed holds the smaller one.
    ///
    /// # Errors
    /// [`DataError::TooFew`] if there are fewer than `n`.
    pub fn sample(self, n: usize, seed: u64) -> Result<Self, DataError> {
        self.shuffle(seed).take(n)
    }

    /// Keeps the first `n` records.
    ///
    /// # Errors
    /// [`DataError::TooFew`] if there are fewer than `n`.
    pub fn take(mut self, n: usize) -> Result<Self, DataError> {
        if n > self.len() {
            return Err(DataError::TooFew { wanted: n, have: self.len() });
        }
        self.records.truncate(n);
        Ok(self)
    }
}

/// The first 53 bits of a hash as a fraction, 0 up to but not 1.
fn fraction(hash: &[u8; 32]) -> f64 {
    let first = u64::from_be_bytes(hash[..8].try_into().expect("a hash has 32 bytes"));
    ((first >> 11) as f64) / ((1u64 << 53) as f64)
}

/// A hash for one `purpose`, so that a split and an order with the same seed have nothing to do with each other.
fn key(seed: u64, purpose: &str, of: &[u8; 32], k: u64) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(seed.to_le_bytes());
    hash.update(purpose);
    hash.update(of);
    hash.update(k.to_le_bytes());
    hash.finalize().into()
}
