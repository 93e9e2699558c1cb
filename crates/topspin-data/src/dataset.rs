//! Records, and what can be drawn from many of them.
//!
//! Splits and draws depend on hashes of the prompts and not on the place in the file: a record that is added or
//! removed leaves the others where they were.

use std::collections::{HashMap, HashSet};
use std::fmt::Write;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::DataError;

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// What was said.
    pub content: String,
}

/// A prompt, with the response and the references that the data gives to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The record's own `id`, or else the first 16 hexadecimal digits of [`Record::prompt_hash`]; so records with the
    /// same prompt share an id, and no two prompts do.
    pub id: String,
    /// The prompt: an optional system message, then the user and the assistant by turns, the user last.
    pub messages: Vec<Message>,
    /// The response of the data.
    pub response: Option<String>,
    /// Responses that are all good, for evaluation.
    pub references: Vec<String>,
    /// The line of the file, counted from 1.
    pub line: usize,
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

/// Records in the order of the file, or in a drawn order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dataset {
    /// The records.
    pub records: Vec<Record>,
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

    /// The number of records that repeat an earlier one: prompt, response and references.
    pub fn duplicates(&self) -> usize {
        let mut seen = HashSet::new();
        self.records.iter().filter(|r| !seen.insert((&r.messages, &r.response, &r.references))).count()
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
        let (held, rest) = self.records.into_iter().partition(|record| {
            let key = key(seed, "split", &record.prompt_hash(), 0);
            let first = u64::from_be_bytes(key[..8].try_into().expect("a hash has 32 bytes"));
            ((first >> 11) as f64) / ((1u64 << 53) as f64) < share
        });
        Ok((Self { records: held }, Self { records: rest }))
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
        Self { records: keyed.into_iter().map(|(_, record)| record).collect() }
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

/// A hash for one `purpose`, so that a split and an order with the same seed have nothing to do with each other.
fn key(seed: u64, purpose: &str, prompt: &[u8; 32], k: u64) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(seed.to_le_bytes());
    hash.update(purpose);
    hash.update(prompt);
    hash.update(k.to_le_bytes());
    hash.finalize().into()
}
