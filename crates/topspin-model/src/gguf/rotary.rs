//! How rotary positions are scaled, by a GGUF file's settings and by the tensors of divisors beside them.

use super::families::Settings;
use super::settings::Keys;
use super::{Value, keys};
use crate::config::{DecoderConfig, Family, RopeScaling, yarn_attention_factor};
use crate::error::ModelError;

/// Divisors of the frequencies: those that Llama 3.1's scaling comes to.
const DIVISORS: &str = "rope_freqs.weight";
/// Divisors up to the original context, and beyond it.
const SHORT: &str = "rope_factors_short.weight";
const LONG: &str = "rope_factors_long.weight";

/// Tensors of divisors by their names.
pub(super) type Divisors = Vec<(&'static str, Vec<f64>)>;

/// Enters how the rotary positions of `config` are scaled into the settings, and returns the tensors that say the rest. An
/// error is what files have no place for.
pub(super) fn describe_scaling(config: &DecoderConfig, keys: &mut Keys) -> Result<Divisors, String> {
    let mut put = |key: &'static str, value: f64| drop(keys.insert(key, Value::Float(value)));
    let by_frequency = matches!(config.family, Family::Llama | Family::Granite);
    match &config.rope_scaling {
        RopeScaling::None => return Ok(Divisors::new()),
        RopeScaling::Linear { factor } => {
            put(keys::SCALING_FACTOR, *factor);
            keys.insert(keys::SCALING, Value::String("linear".into()));
            return Ok(Divisors::new());
        }
        RopeScaling::Yarn { factor, beta_fast, beta_slow, truncate: true, original_positions, attention_factor }
            if !matches!(config.family, Family::Gemma3 | Family::Phi3) =>
        {
            put(keys::SCALING_FACTOR, *factor);
            put(keys::YARN_FAST, *beta_fast);
            put(keys::YARN_SLOW, *beta_slow);
            // Of what the paper suggests.
            put(keys::SCALING_ATTENTION, attention_factor / yarn_attention_factor(*factor, 1.0));
            keys.insert(keys::ORIGINAL_CONTEXT, Value::Int(*original_positions as i64));
            keys.insert(keys::SCALING, Value::String("yarn".into()));
            return Ok(Divisors::new());
        }
        scaling @ RopeScaling::Llama3 { .. } if by_frequency => {
            return Ok(vec![(DIVISORS, scaling.divisors(config.rope_theta, config.rotary_dim()))]);
        }
        RopeScaling::LongRope { short_factor, long_factor, attention_factor: 1.0, .. }
            if by_frequency && short_factor == long_factor =>
        {
            return Ok(vec![(DIVISORS, short_factor.clone())]);
        }
        RopeScaling::LongRope { short_factor, long_factor, original_positions, attention_factor, .. }
            if config.family == Family::Phi3 =>
        {
            put(keys::SCALING_ATTENTION, *attention_factor);
            keys.insert(keys::ORIGINAL_CONTEXT, Value::Int(*original_positions as i64));
            return Ok(vec![(SHORT, short_factor.clone()), (LONG, long_factor.clone())]);
        }
        _ => {}
    }
    let kind = config.rope_scaling.kind();
    let model = config.family.model_type();
    Err(format!(
        "of a `{model}` that format has no place for rotary positions scaled as `{kind}`; export a Hugging Face folder"
    ))
}

/// Tensors that say how the rotary positions of `config` are scaled.
pub(super) fn rotary_tensors(config: &DecoderConfig) -> &'static [&'static str] {
    match (&config.rope_scaling, config.family) {
        (RopeScaling::LongRope { .. }, Family::Phi3) => &[SHORT, LONG],
        (RopeScaling::LongRope { .. }, _) => &[DIVISORS],
        _ => &[],
    }
}

impl Settings<'_> {
    /// The scaling of a model whose dimensions are known.
    pub(super) fn rope_scaling(&self, config: &DecoderConfig) -> Result<RopeScaling, ModelError> {
        let name = keys::SCALING;
        // As in llama.cpp, an absent kind is this one, and a factor of 0 is absent.
        let kind = self.text(name)?.unwrap_or("linear");
        let factor = match self.float(keys::SCALING_FACTOR)? {
            None => self.float(keys::SCALING_FACTOR_BEFORE)?,
            factor => factor,
        };
        let factor = factor.filter(|&factor| factor != 0.0 && factor != 1.0);
        let plain = kind == "none" || kind == "linear" && factor.is_none();
        let has = |tensor: &str| self.gguf.tensor(tensor).is_some();
        match self.family {
            Family::Phi3 if (has(SHORT) || has(LONG)) && (plain || kind == "longrope") => self.by_length(config),
            Family::Llama | Family::Granite if has(DIVISORS) && plain => self.by_frequency(config),
            // Of YaRN Gemma's windowed layers would need a part, and Phi means something else by it.
            Family::Gemma3 | Family::Phi3 if kind == "yarn" => Err(self.unsupported(name)),
            _ if kind == "yarn" => self.yarn(config, factor.unwrap_or(1.0)),
            _ if kind == "linear" || plain => {
                self.refuse_attention_factor()?;
                Ok(factor.filter(|_| !plain).map_or(RopeScaling::None, |factor| RopeScaling::Linear { factor }))
            }
            _ => Err(self.unsupported(name)),
        }
    }

    fn unsupported(&self, name: &str) -> ModelError {
        self.fail(name, "asks for arithmetic that the decoder does not have")
    }

    fn refuse_attention_factor(&self) -> Result<(), ModelError> {
        let name = keys::SCALING_ATTENTION;
        match self.float(name)? {
            Some(factor) if factor != 1.0 => Err(self.unsupported(name)),
            _ => Ok(()),
        }
    }

    fn original_positions(&self, config: &DecoderConfig) -> Result<usize, ModelError> {
        Ok(self.count(keys::ORIGINAL_CONTEXT)?.unwrap_or(config.max_positions))
    }

    fn yarn(&self, config: &DecoderConfig, factor: f64) -> Result<RopeScaling, ModelError> {
        let extrapolation = keys::YARN_EXTRAPOLATION;
        if self.float(extrapolation)?.is_some_and(|factor| factor != 1.0) {
            return Err(self.unsupported(extrapolation));
        }
        let suggested = yarn_attention_factor(factor, 1.0);
        let stated = self.float(keys::YARN_ATTENTION)?.unwrap_or(suggested);
        Ok(RopeScaling::Yarn {
            factor,
            beta_fast: self.float(keys::YARN_FAST)?.unwrap_or(32.0),
            beta_slow: self.float(keys::YARN_SLOW)?.unwrap_or(1.0),
            truncate: true,
            original_positions: self.original_positions(config)?,
            attention_factor: stated * self.float(keys::SCALING_ATTENTION)?.unwrap_or(1.0),
        })
    }

    /// Phi's divisors.
    fn by_length(&self, config: &DecoderConfig) -> Result<RopeScaling, ModelError> {
        Ok(RopeScaling::LongRope {
            short_factor: self.divisors(SHORT, config)?,
            long_factor: self.divisors(LONG, config)?,
            original_positions: self.original_positions(config)?,
            long_positions: config.max_positions,
            attention_factor: self.float(keys::SCALING_ATTENTION)?.unwrap_or(1.0),
        })
    }

    /// Divisors whatever the length. transformers has no name for that alone; this one, with nothing beyond the original
    /// context, computes the same.
    fn by_frequency(&self, config: &DecoderConfig) -> Result<RopeScaling, ModelError> {
        self.refuse_attention_factor()?;
        let divisors = self.divisors(DIVISORS, config)?;
        Ok(RopeScaling::LongRope {
            short_factor: divisors.clone(),
            long_factor: divisors,
            original_positions: config.max_positions,
            long_positions: config.max_positions,
            attention_factor: 1.0,
        })
    }

    /// One for each frequency.
    fn divisors(&self, name: &str, config: &DecoderConfig) -> Result<Vec<f64>, ModelError> {
        let fail = |problem: String| ModelError::tensor(&self.gguf.path, name, problem);
        let tensor = self.gguf.tensor(name).ok_or_else(|| fail("is missing".into()))?;
        let expected = [config.rotary_dim() / 2];
        if tensor.shape != expected {
            let problem = format!("has the shape {:?}; the model's settings ask for {expected:?}", tensor.shape);
            return Err(fail(problem));
        }
        let mut divisors = vec![0.0; tensor.elements()];
        self.gguf.read_f32(name, &mut divisors)?;
        Ok(divisors.into_iter().map(f64::from).collect())
    }
}
