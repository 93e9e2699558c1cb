//! Flags that several commands share.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use topspin_game::config::Weights;
use topspin_rollout::Sampling;

/// The model and how to compute with it.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Model")]
pub struct ModelFlags {
    /// A Hugging Face folder, an adapter's folder in PEFT's layout, a GGUF file, or `hf:ORG/NAME`
    ///
    /// `hf:` fetches from the Hugging Face Hub into its usual cache, once; with HF_HUB_OFFLINE=1 only the cache is used.
    #[arg(short, long, value_name = "MODEL")]
    pub model: String,
    #[command(flatten)]
    pub compute: ComputeFlags,
}

/// How to compute.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Computation")]
pub struct ComputeFlags {
    /// Precision of matrix products; sums, norms and softmax are always f32
    ///
    /// `auto` is bf16 where the processor multiplies it in hardware, and f32 elsewhere: emulated bf16 would be slower
    /// and no better. The choice is printed at the start.
    #[arg(long, value_enum, default_value_t = Dtype::Auto)]
    pub dtype: Dtype,
    /// Worker threads [default: one for each core]
    ///
    /// The results are the same, to the bit, whatever their number.
    #[arg(long, value_name = "N", value_parser = positive)]
    pub threads: Option<usize>,
    /// How weights that are not trained are held; the results do not depend on it
    #[arg(long, value_enum, default_value_t = Holding::Packed)]
    pub weights: Holding,
}

/// How weights that are not trained are held, as typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Holding {
    /// As they are stored, and laid out for products beside it
    Packed,
    /// As they are stored, and decoded by each product anew: the least memory
    Stored,
}

impl From<Holding> for Weights {
    fn from(holding: Holding) -> Self {
        match holding {
            Holding::Packed => Self::Packed,
            Holding::Stored => Self::Stored,
        }
    }
}

/// Precision of matrix products, as typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Dtype {
    /// What suits the processor
    Auto,
    /// 32-bit floating point
    F32,
    /// bfloat16 factors, summed in f32
    Bf16,
}

/// Records in, lines of JSON out.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Files")]
pub struct FileFlags {
    /// Records to read: JSON lines, or what else the name ends with; `-` is stdin
    ///
    /// `.json`, `.csv`, `.tsv` and `.parquet` are read too, and `.gz` and `.zst` behind all but the last.
    #[arg(short, long, value_name = "FILE")]
    pub input: PathBuf,
    /// Where to write lines of JSON, in the order of the input; `-` is stdout
    ///
    /// A file is written when all is done, whole or not at all.
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    pub output: PathBuf,
}

/// How tokens are chosen.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingFlags {
    /// Divides the logits: below 1 bolder, above 1 more varied, 0 the same as `--greedy`
    ///
    /// At 1, without cuts, responses are drawn from the model's own distribution, which self-play needs.
    #[arg(long, value_name = "T", default_value_t = 1.0, value_parser = temperature)]
    pub temperature: f64,
    /// Keep only the likeliest tokens that together have this probability; 1 keeps all
    #[arg(long, value_name = "P", default_value_t = 1.0, value_parser = probability)]
    pub top_p: f64,
    /// Keep only the K likeliest tokens [default: all]
    #[arg(long, value_name = "K", value_parser = positive)]
    pub top_k: Option<usize>,
    /// Always take the likeliest token
    #[arg(long, conflicts_with_all = ["temperature", "top_p", "top_k"])]
    pub greedy: bool,
    /// Longest response, its end-of-turn token included
    ///
    /// A response that reaches it is cut, and `finish_reason` says `length`.
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = positive)]
    pub max_new_tokens: usize,
    /// Seed of the random numbers
    ///
    /// Each prompt draws from a stream of its own, so what it gets does not depend on its neighbours or on threads.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
}

impl SamplingFlags {
    /// What was typed as the sampler takes it.
    pub fn sampling(&self) -> Sampling {
        if self.greedy {
            return Sampling::greedy();
        }
        Sampling { temperature: self.temperature, top_k: self.top_k.unwrap_or(0), top_p: self.top_p }
    }
}

/// Parses a count of one or more.
pub fn positive(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|&n| n > 0).ok_or_else(|| "it must be a whole number from 1 up".into())
}

/// Parses a temperature: 0 or more.
pub fn temperature(text: &str) -> Result<f64, String> {
    let inside = |t: &f64| t.is_finite() && *t >= 0.0;
    text.parse().ok().filter(inside).ok_or_else(|| "it must be a number, 0 (greedy) or above".into())
}

fn probability(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|p| 0.0 < *p && *p <= 1.0).ok_or_else(|| "it must be a number above 0, up to 1".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_out_of_range_are_refused() {
        assert_eq!(positive("3"), Ok(3));
        assert_eq!(temperature("0.7"), Ok(0.7));
        assert_eq!(probability("1"), Ok(1.0));
        for text in ["0", "-1", "x", "", "1.5"] {
            assert!(positive(text).is_err(), "{text}");
        }
        assert_eq!(temperature("0"), Ok(0.0));
        for text in ["-1", "nan", "inf", "x"] {
            assert!(temperature(text).is_err(), "{text}");
        }
        for text in ["0", "1.01", "nan", "x"] {
            assert!(probability(text).is_err(), "{text}");
        }
    }
}
