//! Architectures by name: dimensions of published models, to be measured with random weights.

use clap::ValueEnum;
use rayon::prelude::*;
use topspin_kernels::memory::Memory;
use topspin_kernels::rng::Key;
use topspin_model::config::{DecoderConfig, RopeScaling};

/// An architecture as typed. Only the dimensions have a bearing on time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Architecture {
    /// 30 layers of width 576
    #[value(name = "smollm2-135m")]
    SmolLm2With135M,
    /// 32 layers of width 960
    #[value(name = "smollm2-360m")]
    SmolLm2With360M,
    /// 24 layers of width 2048
    #[value(name = "smollm2-1.7b")]
    SmolLm2With1700M,
    /// 16 layers of width 2048
    #[value(name = "llama-3.2-1b")]
    Llama32With1B,
}

impl Architecture {
    /// The name that is typed.
    pub fn name(self) -> String {
        self.to_possible_value().expect("no architecture is hidden").get_name().to_owned()
    }

    /// Dimensions and constants.
    pub fn config(self) -> DecoderConfig {
        // Layers, width, inner width, heads, key/value heads, vocabulary, base of the rotary frequencies, positions.
        let (layers, d, f, heads, kv_heads, vocabulary, theta, positions) = match self {
            Self::SmolLm2With135M => (30, 576, 1536, 9, 3, 49152, 1e5, 8192),
            Self::SmolLm2With360M => (32, 960, 2560, 15, 5, 49152, 1e5, 8192),
            Self::SmolLm2With1700M => (24, 2048, 8192, 32, 32, 49152, 1.3e5, 8192),
            Self::Llama32With1B => (16, 2048, 8192, 32, 8, 128_256, 5e5, 131_072),
        };
        let rope_scaling = match self {
            Self::Llama32With1B => RopeScaling::Llama3 {
                factor: 32.0,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_positions: 8192,
            },
            _ => RopeScaling::None,
        };
        DecoderConfig {
            vocab_size: vocabulary,
            hidden_size: d,
            intermediate_size: f,
            num_layers: layers,
            num_heads: heads,
            num_kv_heads: kv_heads,
            head_dim: 64,
            rms_norm_eps: 1e-5,
            rope_theta: theta,
            rope_scaling,
            max_positions: positions,
            tie_word_embeddings: true,
            ..DecoderConfig::default()
        }
    }
}

/// Random parameters, the same at every call: norms of 1, matrices of the spread that models begin with, .02.
pub fn random_parameters(config: &DecoderConfig) -> Memory<f32> {
    const CHUNK: usize = 1 << 16;
    let (key, width) = (Key::new(0, "bench parameters", 0), 0.02 * 12_f32.sqrt());
    let layout = config.layout();
    let mut params = Memory::zeroed(layout.len());
    params.fill(1.0);
    for (number, entry) in layout.entries().iter().enumerate().filter(|(_, entry)| entry.shape.len() > 1) {
        params[entry.range()].par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, params)| {
            let stream = key.stream(number as u64, chunk as u32);
            let numbers = (0..).flat_map(|at| stream.block(at));
            for (param, bits) in params.iter_mut().zip(numbers) {
                *param = width * ((bits >> 8) as f32 / (1 << 24) as f32 - 0.5);
            }
        });
    }
    params
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dimensions_fit_each_other_and_the_name() {
        // As the models' own files count them.
        let parameters = [134_515_008, 361_821_120, 1_711_376_384, 1_235_814_400];
        for (&architecture, parameters) in Architecture::value_variants().iter().zip(parameters) {
            let config = architecture.config();
            assert_eq!(config.validate(), Ok(()), "{architecture:?}");
            assert_eq!(config.layout().len(), parameters, "{architecture:?}");
        }
    }

    #[test]
    fn random_parameters_have_the_spread_that_they_should() {
        let config = DecoderConfig { num_layers: 1, vocab_size: 999, ..Architecture::SmolLm2With135M.config() };
        let params = random_parameters(&config);
        let embedding = &params[config.layout().entries()[0].range()];
        let mean =
            |of: fn(f64) -> f64| embedding.iter().map(|&x| of(f64::from(x))).sum::<f64>() / embedding.len() as f64;
        assert!(mean(|x| x).abs() < 1e-4 && (mean(|x| x * x).sqrt() - 0.02).abs() < 1e-4);
        assert!(params[params.len() - config.hidden_size..].iter().all(|&norm| norm == 1.0));
    }
}
