//! How rotary positions are scaled, by a GGUF file's settings and by the tensors of divisors beside them.

use super::families::Settings;
use crate::config::{DecoderConfig, Family, RopeScaling, yarn_attention_factor};
use crate::error::ModelError;

/// Divisors of the frequencies: those that Llama 3.1's scaling comes to.
const DIVISORS: &str = "rope_freqs.weight";
/// Divisors up to the original context, and beyond it.
const SHORT: &str = "rope_factors_short.weight";
const LONG: &str = "rope_factors_long.weight";

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
        let name = "rope.scaling.type";
        // As in llama.cpp, an absent kind is this one, and a factor of 0 is absent.
        let kind = self.text(name)?.unwrap_or("linear");
        let factor = match self.float("rope.scaling.factor")? {
            None => self.float("rope.scale_linear")?,
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
        let name = "rope.scaling.attn_factor";
        match self.float(name)? {
            Some(factor) if factor != 1.0 => Err(self.unsupported(name)),
            _ => Ok(()),
        }
    }

    fn original_positions(&self, config: &DecoderConfig) -> Result<usize, ModelError> {
        Ok(self.count("rope.scaling.original_context_length")?.unwrap_or(config.max_positions))
    }

    fn yarn(&self, config: &DecoderConfig, factor: f64) -> Result<RopeScaling, ModelError> {
        let extrapolation = "rope.scaling.yarn_ext_factor";
        if self.float(extrapolation)?.is_some_and(|factor| factor != 1.0) {
            return Err(self.unsupported(extrapolation));
        }
        let suggested = yarn_attention_factor(factor, 1.0);
        let stated = self.float("rope.scaling.yarn_attn_factor")?.unwrap_or(suggested);
        Ok(RopeScaling::Yarn {
            factor,
            beta_fast: self.float("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
            beta_slow: self.float("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
            truncate: true,
            original_positions: self.original_positions(config)?,
            attention_factor: stated * self.float("rope.scaling.attn_factor")?.unwrap_or(1.0),
        })
    }

    /// Phi's divisors.
    fn by_length(&self, config: &DecoderConfig) -> Result<RopeScaling, ModelError> {
        Ok(RopeScaling::LongRope {
            short_factor: self.divisors(SHORT, config)?,
            long_factor: self.divisors(LONG, config)?,
            original_positions: self.original_positions(config)?,
            long_positions: config.max_positions,
            attention_factor: self.float("rope.scaling.attn_factor")?.unwrap_or(1.0),
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
