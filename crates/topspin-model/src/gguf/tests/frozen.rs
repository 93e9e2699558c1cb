//! Matrices as they are stored give the bits of the arena that they are decoded to.

use std::fs;

use super::super::tensors::gguf_name;
use super::super::testing::llama_keys;
use super::super::{GgmlType, Gguf};
use super::golden;
use crate::config::DecoderConfig;
use crate::decoder::testing::check_frozen;
use crate::testing::{random_parameters, small_config};

fn check(name: &str, gguf: &Gguf) {
    let config = gguf.config().unwrap();
    let mut arena = vec![f32::NAN; config.layout().len()];
    gguf.read_parameters(&config, &mut arena).unwrap();
    check_frozen(name, &config, &arena, || gguf.read_frozen(&config).unwrap());
}

#[test]
fn in_files_of_every_architecture() {
    let files = fs::read_dir(golden("gguf-families")).unwrap().map(|file| file.unwrap().path());
    for path in files.filter(|path| path.extension().is_some_and(|extension| extension == "gguf")) {
        check(&path.display().to_string(), &Gguf::open(&path).unwrap());
    }
}

/// Bytes of many codes, whose numbers in half precision are small.
fn random_blocks(kind: GgmlType, elements: usize, seed: u64) -> Vec<u8> {
    let mask = if kind.block().0 == 256 { 0x93 } else { 0xa3 };
    random_parameters(kind.bytes(elements), seed).into_iter().map(|x| (x.to_bits() >> 7) as u8 & mask).collect()
}

/// All encodings, mixed within groups, with query and key rows in the order of llama.cpp.
#[test]
fn in_files_that_mix_all_encodings() {
    for tie_word_embeddings in [false, true] {
        let config = DecoderConfig {
            hidden_size: 256,
            intermediate_size: 512,
            num_heads: 4,
            num_kv_heads: 2,
            head_dim: 64,
            // As many matrices as have each encoding somewhere.
            num_layers: 2,
            tie_word_embeddings,
            ..small_config(67)
        };
        let mut writer = llama_keys(&config);
        let mut kinds = GgmlType::ALL.into_iter().cycle();
        for (entry, seed) in config.layout().entries().iter().zip(0..) {
            let name = gguf_name(&entry.name, config.norm_position);
            let kind = if entry.shape.len() == 1 { GgmlType::F32 } else { kinds.next().unwrap() };
            writer = match kind {
                GgmlType::F32 | GgmlType::BF16 => {
                    writer.tensor(&name, kind, &entry.shape, &random_parameters(entry.len(), seed))
                }
                _ => writer.encoded(&name, kind, &entry.shape, &random_blocks(kind, entry.len(), seed)),
            };
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.gguf");
        fs::write(&path, writer.finish()).unwrap();
        check(&format!("tied: {tie_word_embeddings}"), &Gguf::open(&path).unwrap());
    }
}
