//! Rotary frequencies, and how models stretch them over longer contexts than they were first trained on.

use super::InvalidConfig;

/// What is done to rotary frequencies, under transformers' names.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Nothing.
    None,
    /// Positions are divided by `factor` (Chen et al., arXiv 2306.15595).
    Linear {
        /// How many times longer contexts become.
        factor: f64,
    },
    /// The base grows once a sequence is longer than `max_positions`. Up to there, which is as long as sequences get here,
    /// it is as it was.
    Dynamic {
        /// How fast the base grows.
        factor: f64,
    },
    /// Slow frequencies are divided by `factor`, fast ones kept, those between interpolated (Llama 3.1, arXiv 2407.21783).
    Llama3 {
        /// Divisor of slow frequencies.
        factor: f64,
        /// Turns over the original context below which a frequency is slow.
        low_freq_factor: f64,
        /// And above which it is fast.
        high_freq_factor: f64,
        /// The original context, in tokens.
        original_positions: usize,
    },
    /// The same by a ramp over the frequencies' indices, with a factor of scores (Peng et al., arXiv 2309.00071).
    Yarn {
        /// Divisor of slow frequencies.
        factor: f64,
        /// Turns over the original context at which the ramp begins.
        beta_fast: f64,
        /// And at which it ends.
        beta_slow: f64,
        /// Whether the ramp begins and ends at whole indices.
        truncate: bool,
        /// The original context, in tokens.
        original_positions: usize,
        /// Factor of rotated queries and of rotated keys.
        attention_factor: f64,
    },
    /// A divisor for each frequency (Ding et al., arXiv 2402.13753). A sequence longer than the original context has others,
    /// from its first position on; sequences are no longer than that here.
    LongRope {
        /// Divisors up to the original context.
        short_factor: Vec<f64>,
        /// Divisors beyond it.
        long_factor: Vec<f64>,
        /// The original context, in tokens.
        original_positions: usize,
        /// The context that the divisors beyond it are for.
        long_positions: usize,
        /// Factor of rotated queries and of rotated keys.
        attention_factor: f64,
    },
}

impl RopeScaling {
    /// The name of its kind in `config.json`.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::None => "default",
            Self::Linear { .. } => "linear",
            Self::Dynamic { .. } => "dynamic",
            Self::Llama3 { .. } => "llama3",
            Self::Yarn { .. } => "yarn",
            Self::LongRope { .. } => "longrope",
        }
    }

    /// The `dim / 2` frequencies, in radians for each position.
    pub(crate) fn frequencies(&self, theta: f64, dim: usize) -> Vec<f32> {
        self.scaled(theta, dim).into_iter().map(|frequency| frequency as f32).collect()
    }

    /// What each of the unscaled frequencies is divided by.
    pub(crate) fn divisors(&self, theta: f64, dim: usize) -> Vec<f64> {
        Self::None
            .scaled(theta, dim)
            .into_iter()
            .zip(self.scaled(theta, dim))
            .map(|(plain, scaled)| plain / scaled)
            .collect()
    }

    fn scaled(&self, theta: f64, dim: usize) -> Vec<f64> {
        let plain = |i: usize| theta.powf(-((2 * i) as f64) / dim as f64);
        let scaled: Box<dyn Fn(usize) -> f64> = match self {
            Self::None | Self::Dynamic { .. } => Box::new(plain),
            Self::Linear { factor } => Box::new(move |i| plain(i) / factor),
            &Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_positions } => Box::new(move |i| {
                let turns = original_positions as f64 * plain(i) / std::f64::consts::TAU;
                let kept = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
                plain(i) * (kept + (1.0 - kept) / factor)
            }),
            &Self::Yarn { factor, beta_fast, beta_slow, truncate, original_positions, .. } => {
                // The index whose frequency makes so many turns over the original context.
                let index_of = |turns: f64| {
                    dim as f64 * (original_positions as f64 / (turns * std::f64::consts::TAU)).ln() / (2.0 * theta.ln())
                };
                let (first, last) = (index_of(beta_fast), index_of(beta_slow));
                let (first, last) = if truncate { (first.floor(), last.ceil()) } else { (first, last) };
                let (first, last) = (first.max(0.0), last.min((dim - 1) as f64));
                let width = if first == last { 0.001 } else { last - first };
                Box::new(move |i| {
                    let stretched = ((i as f64 - first) / width).clamp(0.0, 1.0);
                    plain(i) * (1.0 - stretched + stretched / factor)
                })
            }
            Self::LongRope { short_factor, .. } => Box::new(move |i| plain(i) / short_factor[i]),
        };
        (0..dim / 2).map(scaled).collect()
    }

    /// Factor of rotated queries and of rotated keys.
    pub(crate) fn attention_factor(&self) -> f32 {
        match self {
            Self::Yarn { attention_factor, .. } | Self::LongRope { attention_factor, .. } => *attention_factor as f32,
            _ => 1.0,
        }
    }

    /// Whether the constants make sense for so many frequencies.
    pub(super) fn validate(&self, frequencies: usize) -> Result<(), InvalidConfig> {
        let fail = |problem: String| Err(InvalidConfig { key: "rope_scaling", problem });
        let constants: &[(&str, f64)] = match self {
            Self::None => &[],
            Self::Linear { factor } | Self::Dynamic { factor } => &[("factor", *factor)],
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, .. } => &[
                ("factor", *factor),
                ("low_freq_factor", *low_freq_factor),
                ("high_freq_factor - low_freq_factor", high_freq_factor - low_freq_factor),
            ],
            Self::Yarn { factor, beta_fast, beta_slow, attention_factor, .. } => &[
                ("factor", *factor),
                ("beta_fast", *beta_fast),
                ("beta_slow", *beta_slow),
                ("attention_factor", *attention_factor),
            ],
            Self::LongRope { attention_factor, .. } => &[("attention_factor", *attention_factor)],
        };
        if let Some((name, value)) = constants.iter().find(|(_, value)| !(value.is_finite() && *value > 0.0)) {
            return fail(format!("has a `{name}` of {value}; it must be positive"));
        }
        if let Self::LongRope { short_factor, long_factor, .. } = self {
            for (name, factors) in [("short_factor", short_factor), ("long_factor", long_factor)] {
                if factors.len() != frequencies {
                    let problem = format!("has a `{name}` of {} numbers; it must have {frequencies}", factors.len());
                    return fail(problem);
                }
                if let Some(factor) = factors.iter().find(|factor| !(factor.is_finite() && **factor > 0.0)) {
                    return fail(format!("has {factor} in its `{name}`, whose numbers must be positive"));
                }
            }
        }
        Ok(())
    }
}

/// What YaRN's paper suggests as the factor of rotated queries and of rotated keys, `0.1 ln(factor) + 1` (Peng et al., arXiv
/// 2309.00071); `weight` is that of the logarithm, where a model has one.
pub(crate) fn yarn_attention_factor(factor: f64, weight: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * weight * factor.ln() + 1.0 }
}
