//! The configuration of a run: its tables, every default with its reason, and how it is read.
//!
//! A default stands in exactly one place, the `Default` of its table below; the comment of the key says why it is what
//! it is. Paths are relative to the working directory. A key of type [`PerIteration`] takes one value for the whole
//! run or a list with one value for each self-play iteration. All that act on single iterations and change what comes out
//! are of this type. Others are read before the first iteration (`data.max_prompt_tokens`, and `rollout.max_new_tokens`, at
//! which real responses and the evaluation's are cut as well) or have a bearing on time and memory alone
//! (`rollout.live_sequences`, `train.batch_tokens`).

mod address;
mod check;
mod error;
mod game;
mod guard;
mod load;
mod score;
mod sources;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use topspin_data::RecordShape;
use topspin_eval::Measure;
use topspin_kernels::device::Use;
use topspin_model::adapter::{LoraConfig, Targets};

pub use address::Address;
pub use error::ConfigError;
pub use game::Game;
pub use guard::Guard;
pub use score::{Score, ScoreKind, ScoreUse};
pub use sources::{Part, Sources, fetch};

use crate::schedule::{PerIteration, Shape};

/// All settings of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The model that the run starts from.
    pub model: Model,
    /// An adapter that is trained in place of the model's own parameters.
    pub adapter: Adapter,
    /// Prompts and their good responses.
    pub data: Data,
    /// Supervised warm-up, and the supervised controls.
    pub sft: Sft,
    /// The game itself.
    pub game: Game,
    /// How the opponent's responses are sampled.
    pub rollout: Rollout,
    /// An explicit score of the samples.
    pub score: Score,
    /// Optimization in the self-play iterations; clipping, batching and recomputation of the supervised stages too.
    pub train: Train,
    /// Signs that an iteration does harm.
    pub guard: Guard,
    /// Evaluation after each stage.
    pub eval: Eval,
    /// Where the run goes and how it computes.
    pub output: Output,
}

/// `[model]`: the model that the run starts from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Model {
    /// A Hugging Face folder, an adapter's folder in PEFT's layout, a GGUF file, or `hf:org/name`. Required: no model suits every
    /// data set.
    pub path: String,
    /// How weights that are not trained are held: all of them while responses are generated and scored, and those below an
    /// adapter always. The results do not depend on it.
    pub weights: Weights,
}

/// How weights that are not trained are held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Weights {
    /// As they are stored, and laid out for products beside it: two bytes a weight more in bf16, four where an adapter is
    /// trained.
    #[default]
    Packed,
    /// As they are stored, in bf16, f16 or the blocks of a GGUF file, and decoded by each product anew: the least memory.
    Stored,
}

impl Weights {
    /// What weights are laid out for, when they are wanted for `packed`.
    pub fn laid_out(self, packed: Use) -> Use {
        match self {
            Self::Packed => packed,
            Self::Stored => Use::InPlace,
        }
    }
}

/// `[adapter]`: an adapter of low rank (LoRA, arXiv 2106.09685) that is trained in place of the model's own parameters. Names and
/// defaults that are not ours are PEFT's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Adapter {
    /// Rank of its matrices; 0: no adapter, all parameters of the model are trained. With an adapter take learning rates
    /// some ten times as high. Where `model.path` is an adapter's folder, that adapter is trained on, and this stays 0.
    pub rank: usize,
    /// Its weight is `alpha / rank`, or `alpha / sqrt(rank)` with `rank_stabilized`.
    pub alpha: f64,
    /// Rank-stabilised LoRA (arXiv 2312.03732): for large ranks.
    pub rank_stabilized: bool,
    /// Share of what it reads that is dropped in training. 0: an iteration sees its pairs once; and only then are an
    /// iteration's first margins exactly 0.
    pub dropout: f64,
    /// The linear layers that have one: `"all-linear"`, a list of names such as `["q_proj", "v_proj"]`, or a regular
    /// expression that whole names match, such as `'.*\.mlp\..*'`.
    pub targets: Targets,
    /// Whether it is merged into the model at the end of each stage, and the next stage begins a new one. Off: one adapter
    /// goes through the whole run, and the model below it stays as it came.
    pub merge: bool,
}

impl Default for Adapter {
    fn default() -> Self {
        Self { rank: 0, alpha: 32.0, rank_stabilized: false, dropout: 0.0, targets: Targets::AllLinear, merge: false }
    }
}

impl Adapter {
    /// The settings of the adapter, if there is to be one.
    pub fn lora(&self) -> Option<LoraConfig> {
        let &Self { rank, alpha, rank_stabilized, dropout, ref targets, merge: _ } = self;
        (rank > 0).then(|| LoraConfig { rank_stabilized, dropout, ..LoraConfig::new(rank, alpha, targets.clone()) })
    }
}

/// `[data]`: prompts and their good responses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Data {
    /// Training records: a file, a pattern such as `"data/*.jsonl"`, or a list of them. JSON lines, JSON, CSV, TSV, each also
    /// compressed (`.gz`, `.zst`), and Parquet, as the name ends; or `hf:org/name` on the Hub (docs/data.md). An item of the list may be a table `{ path = "a.jsonl",
    /// weight = 2.0 }`: its records are drawn twice in an epoch, at 0.5 half of them once, the half that a hash of the
    /// record's id and `game.seed` name. Required.
    pub train: Sources,
    /// Records to evaluate on, a file, a pattern or `hf:org/name/PATTERN`. Empty: a share of `train`, chosen by the hash of the prompt, so that no
    /// prompt stands on both sides and the choice survives a reordered file.
    pub test: String,
    /// The shape of the records. Auto, as nearly all collections show theirs by their fields; name it where a record has
    /// those of two.
    pub shape: RecordShape,
    /// Columns that are called otherwise than the fields of the shape: `columns = { prompt = "frage", response =
    /// "antwort" }`. None.
    pub columns: BTreeMap<String, String>,
    /// Share of the records that may be unusable: malformed, without a prompt or a response, or longer than the model's
    /// context. They are left out, counted by reason, and named in `skipped.jsonl`. 0: the first one is an error, since a
    /// record that is dropped changes what a model learns.
    pub max_unusable: f64,
    /// The share of prompts that is held out when `test` is empty. A twentieth: enough to see a change on a few
    /// thousand records, little enough to spare.
    pub test_share: f64,
    /// Records that an iteration plays on; 0 is all of them, as in the SPIN paper.
    pub prompts: PerIteration<usize>,
    /// Whether an iteration takes the next share of `prompts` records, and starts over at the end, or begins where the
    /// iteration before did. The next, because a model that has been trained on a response has less to learn from it.
    pub fresh: PerIteration<bool>,
    /// Longest prompt in tokens; records with a longer one are left out, counted, and named in `skipped.jsonl`. 0 sets
    /// no limit but the model's context, beyond which a record is an error.
    pub max_prompt_tokens: usize,
    /// Longest real response in tokens; longer ones are cut there and count as cut, as generated ones do. 0 takes
    /// `rollout.max_new_tokens`: any other limit would let length alone tell real from generated.
    pub max_response_tokens: usize,
}

impl Default for Data {
    fn default() -> Self {
        Self {
            train: Sources::default(),
            test: String::new(),
            shape: RecordShape::Auto,
            columns: BTreeMap::new(),
            max_unusable: 0.0,
            test_share: 0.05,
            prompts: PerIteration::One(0),
            fresh: PerIteration::One(true),
            max_prompt_tokens: 0,
            max_response_tokens: 0,
        }
    }
}

/// `[sft]`: supervised warm-up, and the supervised controls.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sft {
    /// Whether the game starts from a supervised model. It should: self-play refines a model that already answers.
    pub enabled: bool,
    /// Records trained on; 0 is all of them.
    pub prompts: usize,
    /// Which of the assistant's turns in a conversation are trained on: `last`, the response to the prompt, or `all`. The
    /// last, as self-play, which shares all that comes before it between both responses (docs/data.md); `all` learns more
    /// from conversations of several turns.
    pub turns: Turns,
    /// Passes over them. One: a converged supervised model is a fixed point of self-play (docs/method.md).
    pub epochs: usize,
    /// Peak learning rate; 2e-5 is the usual one for full fine-tuning of small models.
    pub lr: f64,
    /// The optimizer. AdamW, as the supervised models of the literature.
    pub optimizer: OptimizerKind,
    /// Responses per optimizer step.
    pub batch: usize,
    /// Course of the learning rate after warm-up. Linear to zero: the schedule ends where the stage ends.
    pub schedule: Shape,
    /// Share of the steps in which the learning rate rises to its peak. A tenth: AdamW's second moment settles first.
    pub warmup: f64,
    /// Controls: the supervised model trained on in the supervised way, each with settings of its own, so that the table
    /// shows what self-play adds. None; give one as many updates as self-play has.
    pub controls: Vec<Control>,
}

/// Turns of the assistant that are trained on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Turns {
    /// The last one.
    #[default]
    Last,
    /// All.
    All,
}

/// `[[sft.controls]]`: one supervised control.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Control {
    /// Passes over the supervised records.
    pub epochs: usize,
    /// Peak learning rate.
    pub lr: f64,
}

impl Default for Sft {
    fn default() -> Self {
        Self {
            enabled: true,
            prompts: 0,
            turns: Turns::Last,
            epochs: 1,
            lr: 2e-5,
            optimizer: OptimizerKind::AdamW,
            batch: 16,
            schedule: Shape::Linear,
            warmup: 0.1,
            controls: Vec::new(),
        }
    }
}

/// `[rollout]`: how the opponent's responses are sampled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rollout {
    /// Sampling temperature. 1: the loss is derived for samples of the opponent's own density.
    pub temperature: PerIteration<f64>,
    /// Sample among the `top_k` likeliest tokens; 0 is no cut, for the same reason.
    pub top_k: PerIteration<usize>,
    /// Sample among the likeliest tokens that together have this probability; 1 is no cut, for the same reason.
    pub top_p: PerIteration<f64>,
    /// Longest response in tokens. Longer ones are cut and count as cut.
    pub max_new_tokens: usize,
    /// Sequences generated side by side. 64 fill the matrix units of a small machine.
    pub live_sequences: usize,
    /// Rows, prompt tokens and continuing sequences together, in one step of generation.
    pub rows_per_step: usize,
}

impl Default for Rollout {
    fn default() -> Self {
        Self {
            temperature: PerIteration::One(1.0),
            top_k: PerIteration::One(0),
            top_p: PerIteration::One(1.0),
            max_new_tokens: 256,
            live_sequences: 64,
            rows_per_step: 512,
        }
    }
}

/// The optimizers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// AdamW (Loshchilov & Hutter, arXiv 1711.05101): two moments.
    AdamW,
    /// RMSprop in PyTorch's form: one moment.
    RmsProp,
}

/// `[train]`: optimization. Of a list for clipping, decay or the constants of an optimizer, the supervised stages take the first
/// value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Train {
    /// The optimizer of self-play. RMSprop, as SPIN: it needs a moment less. Its moment starts at 0, uncorrected, so that
    /// early steps are up to ten times as long: with fewer than some hundred steps to an iteration take AdamW.
    pub optimizer: PerIteration<OptimizerKind>,
    /// Peak learning rate of self-play. A tenth of the supervised one, as the policy is to stay near its opponent.
    pub lr: PerIteration<f64>,
    /// Course of the learning rate after warm-up.
    pub schedule: PerIteration<Shape>,
    /// Share of the steps in which the learning rate rises to its peak.
    pub warmup: PerIteration<f64>,
    /// Passes over an iteration's pairs. One: with more, the model leaves the opponent whose samples it trains on.
    pub epochs: PerIteration<usize>,
    /// Pairs per optimizer step.
    pub batch_pairs: PerIteration<usize>,
    /// Most pairs of one prompt that go into a step together. They share the rows of the prompt and of the real response:
    /// 4 take half the time of 4 pairs apart, but a step sees fewer prompts. 1 shuffles all pairs.
    pub pairs_per_prompt: PerIteration<usize>,
    /// Rows of one forward and backward, which bounds the memory of activations; a step of more rows accumulates
    /// gradients. 1024: on two cores 512 are 4% slower, and 2048 are no faster and take a sixth more memory in a model of
    /// 135 million parameters. A tree that alone is longer makes a batch of its own.
    pub batch_tokens: usize,
    /// Largest norm of the gradient; 0 does not clip. 1 is the custom, and keeps the first steps of a moment small.
    pub clip: PerIteration<f64>,
    /// Weight decay. None: a few hundred steps at small rates need none.
    pub weight_decay: PerIteration<f64>,
    /// AdamW's decay of the first moment.
    pub beta1: PerIteration<f64>,
    /// AdamW's decay of the second moment.
    pub beta2: PerIteration<f64>,
    /// RMSprop's decay of the squared gradient, PyTorch's `alpha`.
    pub decay: PerIteration<f64>,
    /// Added to the root of the second moment, for both optimizers.
    pub eps: PerIteration<f64>,
    /// Whether activations within layers are computed again in the backward instead of kept: about a quarter more time
    /// for much less memory a row. The results are the same.
    pub recompute: bool,
    /// Optimizer steps between two checkpoints of an unfinished stage; 0 writes none. A killed run loses at most these.
    pub checkpoint_every: usize,
}

impl Default for Train {
    fn default() -> Self {
        Self {
            optimizer: PerIteration::One(OptimizerKind::RmsProp),
            lr: PerIteration::One(2e-6),
            schedule: PerIteration::One(Shape::Linear),
            warmup: PerIteration::One(0.1),
            epochs: PerIteration::One(1),
            batch_pairs: PerIteration::One(16),
            pairs_per_prompt: PerIteration::One(4),
            batch_tokens: 1024,
            clip: PerIteration::One(1.0),
            weight_decay: PerIteration::One(0.0),
            beta1: PerIteration::One(0.9),
            beta2: PerIteration::One(0.999),
            decay: PerIteration::One(0.99),
            eps: PerIteration::One(1e-8),
            recompute: false,
            checkpoint_every: 20,
        }
    }
}

/// Which end of a metric is the better one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Goal {
    /// The smallest value is the best.
    Lowest,
    /// The largest value is the best.
    Highest,
}

/// `[eval]`: evaluation after each stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Eval {
    /// Test records used, drawn by the hash of the prompt, the same for every seed; 0 is all of them. 200 take little
    /// time beside an iteration.
    pub prompts: usize,
    /// Whether to generate greedily.
    pub greedy: bool,
    /// Whether to sample at temperature 1.
    pub sampled: bool,
    /// Longest response in tokens; 0 takes `rollout.max_new_tokens`.
    pub max_new_tokens: usize,
    /// What is measured of the generations against the references: `exact_match`, `normalized_match`, `numeric_match`, `bleu`,
    /// `chrf`, `chrf_plus_plus`, `rouge_l` (docs/evaluation.md). Exact matches alone: which of the others says something depends on
    /// the task.
    pub metrics: Vec<Measure>,
    /// A command that scores generations: it reads a file of them as its input, and prints a line for each, a number (the metric
    /// `score`), a pair `[numerator, denominator]`, or a JSON object of these by metric (docs/evaluation.md). Empty: none.
    pub scorer: Vec<String>,
    /// The longest silence of the scorer in seconds, after which it is ended. Ten minutes: one that loads a model first has
    /// answered by then.
    pub timeout: usize,
    /// The metric that names the best stage: a figure of `eval.json`, such as `greedy.exact_match`, or one of the
    /// scorer's behind `greedy.` or `sampled.`. The held-out likelihood exists for every data set; where a task has a
    /// measure of its own, name that.
    pub best: String,
    /// Which end of it is the better one. The lowest is, of `nll.per_token`.
    pub goal: Goal,
    /// Iterations in a row without a better best one after which the run ends. 0: it plays them all, since a later iteration may
    /// win back what one has lost.
    pub patience: usize,
}

impl Default for Eval {
    fn default() -> Self {
        Self {
            prompts: 200,
            greedy: true,
            sampled: true,
            max_new_tokens: 0,
            metrics: vec![Measure::ExactMatch],
            scorer: Vec::new(),
            timeout: 600,
            best: "nll.per_token".into(),
            goal: Goal::Lowest,
            patience: 0,
        }
    }
}

/// What matrix products are computed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PrecisionChoice {
    /// bf16 where the processor multiplies it natively, else f32.
    Auto,
    /// Single precision.
    F32,
    /// bf16 with f32 accumulation.
    Bf16,
}

/// The number format of saved weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SaveDtype {
    /// As they were trained.
    F32,
    /// Rounded to bf16; the next iteration starts from the rounded weights.
    Bf16,
}

/// `[output]`: where the run goes and how it computes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Output {
    /// The run's folder. Empty: `runs/` and the name of the configuration file.
    pub dir: String,
    /// What matrix products are computed in. The resolved configuration names the one taken.
    pub precision: PrecisionChoice,
    /// Threads; 0 is one for each core. The results do not depend on it.
    pub threads: usize,
    /// Number format of saved weights. f32: small updates would be lost in bf16 from one iteration to the next.
    pub save_dtype: SaveDtype,
    /// Whether to write event files for TensorBoard, `events.out.tfevents.topspin` in the folder of each training stage and at
    /// the root. On: they take some hundred bytes a step.
    pub tensorboard: bool,
    /// An address such as `"127.0.0.1:9464"` at whose `/metrics` Prometheus finds the figures of the run while it is at work
    /// (docs/monitoring.md). Empty: none, as whoever reaches the port can read them.
    pub prometheus: Address,
}

impl Default for Output {
    fn default() -> Self {
        Self {
            dir: String::new(),
            precision: PrecisionChoice::Auto,
            threads: 0,
            save_dtype: SaveDtype::F32,
            tensorboard: true,
            prometheus: Address::default(),
        }
    }
}
