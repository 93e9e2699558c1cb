//! What the models answer: the newest responses of the stage at work, or of the last that has any.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use topspin_game::run::{Generation, Manifest, Rollout, State};
use topspin_rollout::Finish;

use super::library::{Known, Library, spoken};
use super::tail::{News, Tail};

/// Samples that one can go through.
const KEPT: usize = 100;
/// How much of a file is read that was there before.
const LATEST_BYTES: u64 = 1 << 20;

/// A response.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Counts all that were read.
    pub number: usize,
    /// The record's id.
    pub id: String,
    /// Which of the samples to its prompt, where there are several.
    pub of_prompt: Option<u32>,
    /// Who of several players gave it.
    pub player: Option<String>,
    /// Why it ended: `stop` or `length`.
    pub is_cut: bool,
    /// Whether its prompt is one to evaluate on.
    is_test: bool,
    answer: Answer,
}

#[derive(Clone, Debug)]
enum Answer {
    Tokens(Vec<u32>),
    Text(String, Known),
}

impl Sample {
    /// What was generated.
    pub fn answer(&self, library: &Library) -> String {
        match &self.answer {
            Answer::Tokens(ids) => library.spell(ids),
            Answer::Text(text, _) => text.clone(),
        }
    }

    /// The prompt with its real answers, if they are known.
    pub fn known<'a>(&'a self, library: &'a Library) -> Option<&'a Known> {
        match &self.answer {
            Answer::Tokens(_) => library.known(&self.id, self.is_test),
            Answer::Text(_, known) => Some(known),
        }
    }
}

/// The newest samples.
#[derive(Default)]
pub struct Samples {
    /// The stage that they are from.
    pub stage: String,
    tail: Option<Tail>,
    kept: VecDeque<Sample>,
    /// Number of the next sample.
    next: usize,
}

impl Samples {
    /// Reads what has come since the last look.
    pub fn look(&mut self, manifest: &Manifest, dir: &Path) {
        let Some((stage, path, is_final)) = newest(manifest, dir) else { return };
        if self.tail.as_ref().is_none_or(|tail| tail.path() != path) {
            self.tail = Some(Tail::last(path, LATEST_BYTES));
            self.stage = stage.into();
            self.kept.clear();
        }
        let is_test = !stage.ends_with("/rollouts");
        let Some(mut tail) = self.tail.take() else { return };
        // What vanishes between two looks is another stage's turn by the next.
        let _ = tail.look(|news| match news {
            News::Anew => self.kept.clear(),
            News::Line(line) if is_final && is_test => self.push(line, Sample::of_generation),
            News::Line(line) => self.push(line, |rollout| Sample::of_rollout(rollout, is_test)),
        });
        self.tail = Some(tail);
    }

    fn push<T: DeserializeOwned>(&mut self, line: &[u8], sample: impl FnOnce(T) -> Option<Sample>) {
        let Some(sample) = serde_json::from_slice(line).ok().and_then(sample) else { return };
        if self.kept.len() == KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back(Sample { number: self.next, ..sample });
        self.next += 1;
    }

    /// The samples, the newest last.
    pub fn all(&self) -> &VecDeque<Sample> {
        &self.kept
    }
}

impl Sample {
    /// The scored real response of a prompt is no sample.
    fn of_rollout(rollout: Rollout, is_test: bool) -> Option<Self> {
        let sample = rollout.sample?;
        Some(Self {
            number: 0,
            id: rollout.prompt_id,
            of_prompt: (!is_test).then_some(sample),
            player: rollout.player,
            is_cut: rollout.response.finish == Finish::Length,
            is_test,
            answer: Answer::Tokens(rollout.response.token_ids),
        })
    }

    fn of_generation(generation: Generation) -> Option<Self> {
        let prompt = generation.prompt.unwrap_or_else(|| spoken(&generation.messages.unwrap_or_default()));
        Some(Self {
            number: 0,
            id: generation.id,
            of_prompt: None,
            player: None,
            is_cut: generation.finish_reason == "length",
            is_test: true,
            answer: Answer::Text(generation.response, Known { prompt, real: generation.references }),
        })
    }
}

/// The last stage that has responses, the file with them, and whether it is a finished one.
fn newest<'a>(manifest: &'a Manifest, dir: &Path) -> Option<(&'a str, PathBuf, bool)> {
    manifest.stages.iter().rev().find_map(|stage| {
        let (_, work) = stage.name.rsplit_once('/')?;
        if !["rollouts", "greedy", "sampled"].contains(&work) {
            return None;
        }
        let path = |end| Some(dir.join(format!("{}.{end}", stage.name))).filter(|path: &PathBuf| path.exists());
        let finished = || path("jsonl").filter(|_| stage.state == State::Done);
        let partial = path("partial.jsonl").map(|path| (path, false));
        let (path, is_final) = partial.or_else(|| Some((finished()?, true)))?;
        Some((stage.name.as_str(), path, is_final))
    })
}
