//! Random models for this crate's tests.

use std::path::Path;

use proptest::prelude::*;

use crate::config::DecoderConfig;
use crate::gguf::testing::{Writer, byte_vocabulary_keys};
use crate::gguf::{Gguf, read_dialect};
use crate::tokenizer::Tokenizer;

prop_compose! {
    /// A small configuration of any shape that the decoder can have.
    pub(crate) fn tiny_config()(
        vocab_size in 1_usize..20, hidden_size in 1_usize..12, intermediate_size in 1_usize..12,
        num_layers in 1_usize..4, num_kv_heads in 1_usize..4, group in 1_usize..4, half_head in 1_usize..4,
        rms_norm_eps in 1e-8_f32..1e-3, rope_theta in 100.0_f64..1e6, max_positions in 1_usize..100,
        tie_word_embeddings in any::<bool>(),
    ) -> DecoderConfig {
        DecoderConfig {
            vocab_size, hidden_size, intermediate_size, num_layers, num_heads: num_kv_heads * group, num_kv_heads,
            head_dim: 2 * half_head, rms_norm_eps, rope_theta, max_positions, tie_word_embeddings,
            ..DecoderConfig::default()
        }
    }
}

/// One small configuration.
pub(crate) fn small_config(vocab_size: usize) -> DecoderConfig {
    DecoderConfig {
        vocab_size,
        hidden_size: 8,
        intermediate_size: 6,
        num_layers: 1,
        num_heads: 2,
        num_kv_heads: 1,
        head_dim: 4,
        rms_norm_eps: 1e-5,
        rope_theta: 1e4,
        max_positions: 16,
        tie_word_embeddings: true,
        ..DecoderConfig::default()
    }
}

/// Values of both signs and many magnitudes, never zero.
pub(crate) fn random_parameters(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        // SplitMix64.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    (0..n).map(|_| f32::from_bits((next() as u32 & 0x83ff_ffff) | (120 << 23))).collect()
}

/// A byte-level tokenizer: the 256 bytes, `<|endoftext|>` (256, the end token), `<|im_start|>`, `<|im_end|>`, and two
/// merged tokens.
pub(crate) fn byte_tokenizer() -> Tokenizer {
    let bytes = byte_vocabulary_keys(Writer::new()).finish();
    let gguf = Gguf::parse(Path::new("m.gguf"), &mut &bytes[..], bytes.len() as u64).unwrap();
    read_dialect(&gguf).unwrap().tokenizer().clone()
}
