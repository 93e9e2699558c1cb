//! What the settings of a GGUF file mean, by its architecture.
//!
//! Keys and what they leave unsaid are those of llama.cpp: its `convert_hf_to_gguf.py`, which writes the files, and the
//! loading of each architecture, which fills in what the published models have in common.

use topspin_kernels::device::LogitScale;

use super::{Gguf, Value, keys};
use crate::config::{Biases, DecoderConfig, Family, LayerKind, RopeScaling, all_but_last};
use crate::error::ModelError;

/// Architectures by llama.cpp's names. Mistral's files say `llama`, and nothing of a window.
pub(super) const ARCHITECTURES: [(&str, Family); 9] = [
    ("llama", Family::Llama),
    ("qwen2", Family::Qwen2),
    ("qwen3", Family::Qwen3),
    ("gemma2", Family::Gemma2),
    ("gemma3", Family::Gemma3),
    ("phi3", Family::Phi3),
    ("smollm3", Family::SmolLm3),
    ("olmo2", Family::Olmo2),
    ("granite", Family::Granite),
];

/// Keys, behind the architecture's name, that are read in all of them, or that change nothing in the arithmetic.
#[rustfmt::skip]
const KNOWN_KEYS: [&str; 25] = [
    CAUSAL, EXPERTS, USED_EXPERTS,
    keys::CONTEXT, keys::WIDTH, keys::GATED_WIDTH, keys::LAYERS, keys::HEADS, keys::KV_HEADS, keys::KEY_WIDTH,
    keys::VALUE_WIDTH, keys::EPS, keys::VOCABULARY, keys::ROTARY_WIDTH, keys::ROTARY_BASE, keys::SCALING,
    keys::SCALING_FACTOR, keys::SCALING_FACTOR_BEFORE, keys::SCALING_ATTENTION, keys::SCALING_FINETUNED,
    keys::ORIGINAL_CONTEXT, keys::YARN_ATTENTION, keys::YARN_FAST, keys::YARN_SLOW, keys::YARN_EXTRAPOLATION,
];

/// Keys that have one value in all models that the decoder runs.
const CAUSAL: &str = "attention.causal";
const EXPERTS: &str = "expert_count";
const USED_EXPERTS: &str = "expert_used_count";

/// Keys that are read in one family alone.
fn own_keys(family: Family) -> &'static [&'static str] {
    match family {
        Family::Gemma2 => &[keys::WINDOW, keys::WINDOW_PATTERN, keys::ATTENTION_SOFTCAP, keys::LOGIT_SOFTCAP],
        Family::Gemma3 => &[keys::WINDOW, keys::WINDOW_PATTERN, keys::LOGIT_SOFTCAP, keys::LOCAL_ROTARY_BASE],
        Family::Phi3 => &[keys::WINDOW],
        Family::Granite => &[keys::ATTENTION_SCALE, keys::EMBEDDING_SCALE, keys::LOGIT_SCALE, keys::RESIDUAL_SCALE],
        _ => &[],
    }
}

impl Gguf {
    /// The decoder's dimensions and constants. An architecture or a key that asks for other arithmetic is an error.
    pub fn config(&self) -> Result<DecoderConfig, ModelError> {
        let settings = Settings::of(self)?;
        settings.refuse_other_arithmetic()?;
        let mut config = settings.unscaled()?;
        config.rope_scaling = settings.rope_scaling(&config)?;
        if let RopeScaling::LongRope { original_positions, .. } = config.rope_scaling {
            config.max_positions = config.max_positions.min(original_positions);
        }
        config.validate().map_err(|e| ModelError::config(&self.path, e.key, e.problem))?;
        Ok(config)
    }
}

/// The keys of the architecture that a file names.
pub(super) struct Settings<'a> {
    pub(super) gguf: &'a Gguf,
    architecture: &'a str,
    pub(super) family: Family,
}

impl<'a> Settings<'a> {
    pub(super) fn of(gguf: &'a Gguf) -> Result<Self, ModelError> {
        let found = gguf.text(keys::ARCHITECTURE)?;
        let found = found.ok_or_else(|| ModelError::config(&gguf.path, keys::ARCHITECTURE, "is missing"))?;
        match ARCHITECTURES.into_iter().find(|(architecture, _)| *architecture == found) {
            Some((architecture, family)) => Ok(Self { gguf, architecture, family }),
            None => Err(ModelError::Architecture {
                path: gguf.path.clone(),
                found: found.into(),
                known: ARCHITECTURES.map(|(architecture, _)| architecture).join(", "),
            }),
        }
    }

    /// The key as the file spells it.
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    pub(super) fn fail(&self, name: &str, problem: impl Into<String>) -> ModelError {
        ModelError::config(&self.gguf.path, self.key(name), problem)
    }

    pub(super) fn text(&self, name: &str) -> Result<Option<&'a str>, ModelError> {
        self.gguf.text(&self.key(name))
    }

    pub(super) fn count(&self, name: &str) -> Result<Option<usize>, ModelError> {
        self.gguf.count(&self.key(name))
    }

    pub(super) fn float(&self, name: &str) -> Result<Option<f64>, ModelError> {
        self.gguf.float(&self.key(name))
    }

    fn required<T>(&self, name: &str, value: Option<T>) -> Result<T, ModelError> {
        value.ok_or_else(|| self.fail(name, "is missing"))
    }

    /// All but how the rotary positions are scaled.
    pub(super) fn unscaled(&self) -> Result<DecoderConfig, ModelError> {
        let mut config = self.dimensions()?;
        // Before anything is made one for each layer.
        config.validate().map_err(|e| ModelError::config(&self.gguf.path, e.key, e.problem))?;
        self.read_family(&mut config)?;
        self.read_layers(&mut config)?;
        Ok(config)
    }

    fn refuse_other_arithmetic(&self) -> Result<(), ModelError> {
        for (key, value) in self.gguf.metadata() {
            let name = key.strip_prefix(self.architecture).and_then(|rest| rest.strip_prefix('.'));
            let Some(name) = name else { continue };
            if !KNOWN_KEYS.contains(&name) && !own_keys(self.family).contains(&name) {
                let problem = "is not a key that the decoder knows, and ignoring it might give another model";
                return Err(self.fail(name, problem));
            }
            let plain = match name {
                CAUSAL => *value == Value::Bool(true),
                EXPERTS | USED_EXPERTS => *value == Value::Int(0),
                // Granite's switch of rotary positions; to others it only says how the model was made.
                keys::SCALING_FINETUNED => self.family != Family::Granite || *value == Value::Bool(true),
                _ => true,
            };
            if !plain {
                return Err(self.fail(name, "asks for arithmetic that the decoder does not have"));
            }
        }
        Ok(())
    }

    /// What all families have.
    fn dimensions(&self) -> Result<DecoderConfig, ModelError> {
        let required = |name: &str| self.required(name, self.count(name)?);
        let hidden_size = required(keys::WIDTH)?;
        let num_heads = required(keys::HEADS)?;
        let head_dim = match self.count(keys::KEY_WIDTH)? {
            Some(n) => n,
            None => hidden_size.checked_div(num_heads).unwrap_or(0),
        };
        let embedding = "token_embd.weight";
        let vocab_size = match self.gguf.tensor(embedding) {
            Some(tensor) => tensor.shape.first().copied().unwrap_or(0),
            None => return Err(ModelError::tensor(&self.gguf.path, embedding, "is missing")),
        };
        self.require_head_dim(keys::VALUE_WIDTH, head_dim)?;
        Ok(DecoderConfig {
            vocab_size,
            hidden_size,
            intermediate_size: required(keys::GATED_WIDTH)?,
            num_layers: required(keys::LAYERS)?,
            num_heads,
            num_kv_heads: self.count(keys::KV_HEADS)?.unwrap_or(num_heads),
            head_dim,
            rms_norm_eps: self.required(keys::EPS, self.float(keys::EPS)?)? as f32,
            rope_theta: self.float(keys::ROTARY_BASE)?.unwrap_or(10_000.0),
            max_positions: required(keys::CONTEXT)?,
            tie_word_embeddings: self.gguf.tensor("output.weight").is_none(),
            biases: self.biases(),
            partial_rotary_factor: self.partial_rotary_factor(head_dim)?,
            ..DecoderConfig::of_family(self.family)
        })
    }

    fn require_head_dim(&self, name: &str, head_dim: usize) -> Result<(), ModelError> {
        match self.count(name)? {
            Some(n) if n != head_dim => {
                let problem = format!("is {n}, which is not supported; it must be {head_dim}, the size of a head");
                Err(self.fail(name, problem))
            }
            _ => Ok(()),
        }
    }

    /// The share of a head's channels that `rope.dimension_count` is.
    fn partial_rotary_factor(&self, head_dim: usize) -> Result<f64, ModelError> {
        let name = keys::ROTARY_WIDTH;
        if self.family != Family::Phi3 {
            return self.require_head_dim(name, head_dim).map(|()| 1.0);
        }
        let Some(n) = self.count(name)? else { return Ok(1.0) };
        let share = n as f64 / head_dim as f64;
        // The number of channels is this times the size of a head, rounded down.
        let exact = [share, share.next_up()].into_iter().find(|share| (head_dim as f64 * share) as usize == n);
        exact.ok_or_else(|| self.fail(name, format!("is {n}, which is no part of a head of {head_dim}")))
    }

    /// Which biases there are: where a family may have them or not, the tensors say.
    fn biases(&self) -> Biases {
        let has = |part: &str| self.gguf.tensor(&format!("blk.0.{part}.bias")).is_some();
        match self.family {
            Family::Qwen2 => Biases { qkv: true, o: false, mlp: false },
            Family::Llama | Family::SmolLm3 | Family::Granite => {
                let attention = has("attn_q") || has("attn_output");
                Biases { qkv: attention, o: attention, mlp: has("ffn_gate") }
            }
            _ => Biases::default(),
        }
    }

    /// Constants that a family has keys for and others lack.
    fn read_family(&self, config: &mut DecoderConfig) -> Result<(), ModelError> {
        let positive = |name: &str| -> Result<Option<f32>, ModelError> {
            // As in llama.cpp, 0 counts as absent.
            Ok(self.float(name)?.map(|x| x as f32).filter(|&x| x != 0.0))
        };
        match self.family {
            Family::Gemma2 | Family::Gemma3 => {
                config.embedding_multiplier = config.root_of_width();
                config.attention_scale = Some(gemma_attention_scale(config));
                config.logit_scale.softcap = positive(keys::LOGIT_SOFTCAP)?;
                if self.family == Family::Gemma2 {
                    config.attention_softcap = positive(keys::ATTENTION_SOFTCAP)?;
                } else {
                    config.local_rope_theta = Some(self.float(keys::LOCAL_ROTARY_BASE)?.unwrap_or(10_000.0));
                }
            }
            Family::Granite => {
                let divisor = self.required(keys::LOGIT_SCALE, positive(keys::LOGIT_SCALE)?)?;
                let plain = config.attention(0).scale;
                config.logit_scale = LogitScale { multiplier: 1.0 / divisor, softcap: None };
                config.attention_scale = Some(positive(keys::ATTENTION_SCALE)?.unwrap_or(plain));
                config.embedding_multiplier = positive(keys::EMBEDDING_SCALE)?.unwrap_or(1.0);
                config.residual_multiplier = positive(keys::RESIDUAL_SCALE)?.unwrap_or(1.0);
            }
            _ => {}
        }
        Ok(())
    }

    /// The sliding window, and which layers have it or lack rotary positions.
    fn read_layers(&self, config: &mut DecoderConfig) -> Result<(), ModelError> {
        let layers = config.num_layers;
        match self.family {
            Family::Gemma2 | Family::Gemma3 => {
                let absent = (self.family == Family::Gemma2).then_some(4096);
                config.sliding_window = self.count(keys::WINDOW)?.or(absent).filter(|&window| window > 0);
                let windowed = match config.sliding_window {
                    Some(_) => self.windowed(layers, window_period(self.family))?,
                    None => vec![false; layers],
                };
                config.layer_kinds = LayerKind::rotary(windowed);
            }
            // llama.cpp reads the window but does without: the models do have it, in every layer.
            Family::Phi3 => config.sliding_window = self.count(keys::WINDOW)?.filter(|&window| window > 0),
            Family::SmolLm3 => {
                let rotary = all_but_last(layers, SMOLLM3_PERIOD).into_iter();
                config.layer_kinds = rotary.map(|rotary| LayerKind { windowed: false, rotary }).collect();
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether each layer is windowed: all but the last of each `period`, unless the file has a list or another period.
    fn windowed(&self, layers: usize, period: usize) -> Result<Vec<bool>, ModelError> {
        let period = match self.gguf.value(&self.key(keys::WINDOW_PATTERN)) {
            Some(Value::Bools(list)) if list.len() == layers => return Ok(list.clone()),
            Some(Value::Bools(list)) => {
                let problem = format!("names {} layers, but there are {layers}", list.len());
                return Err(self.fail(keys::WINDOW_PATTERN, problem));
            }
            Some(_) => self.count(keys::WINDOW_PATTERN)?.unwrap_or(period),
            None => period,
        };
        Ok(all_but_last(layers, period))
    }
}

/// The last of so many layers has no window, in files that do not say.
pub(super) fn window_period(family: Family) -> usize {
    if family == Family::Gemma2 { 2 } else { 6 }
}

/// The last of so many layers has no rotary positions. No key says it.
const SMOLLM3_PERIOD: usize = 4;

/// No key says it. As in llama.cpp, the largest model of each generation, known by its number of layers, goes by the width
/// that the heads share, the others by the width of a head.
fn gemma_attention_scale(config: &DecoderConfig) -> f32 {
    let largest = if config.family == Family::Gemma2 { 46 } else { 62 };
    let width = if config.num_layers == largest { config.hidden_size / config.num_heads } else { config.head_dim };
    (width as f64).powf(-0.5) as f32
}
