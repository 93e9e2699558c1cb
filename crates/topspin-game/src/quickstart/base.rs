//! The base model: a small transformer that learns the subject, and the habits with it.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use topspin_kernels::device::{Device, Use};
use topspin_kernels::gemm::Precision;
use topspin_kernels::rng::{Key, Rng};
use topspin_model::chat::Message;
use topspin_model::checkpoint::{SaveDtype, save_folder};
use topspin_model::config::DecoderConfig;
use topspin_model::decoder::{Decoder, Keep};
use topspin_model::dialect::Dialect;
use topspin_model::tokenizer::Tokenizer;

use super::QuickstartError;
use super::task::{CHARACTERS, Question, habitual};
use crate::optimizer::{OptimizerSettings, Rule, matrices};
use crate::order::{Batches, Position, singly};
use crate::pair::Example;
use crate::run::Observer;
use crate::schedule::{Schedule, Shape, Warmup};
use crate::trainer::{TrainSettings, Trainer};

/// Passes over the questions.
const EPOCHS: u32 = 10;
/// Answers per optimizer step.
const BATCH: usize = 32;

/// 106 thousand parameters.
fn dimensions(vocab_size: usize) -> DecoderConfig {
    DecoderConfig {
        vocab_size,
        hidden_size: 64,
        intermediate_size: 168,
        num_layers: 2,
        num_heads: 4,
        num_kv_heads: 4,
        head_dim: 16,
        rms_norm_eps: 1e-5,
        rope_theta: 1e4,
        max_positions: 128,
        tie_word_embeddings: false,
        ..DecoderConfig::default()
    }
}

/// Gains of 1; matrices normal with variance `1 / fan-in`, so that each product keeps the size of what goes through it.
pub(crate) fn random_parameters(config: &DecoderConfig, seed: u64, purpose: &str) -> Vec<f32> {
    let mut rng = Rng::new(seed, purpose, 0);
    let layout = config.layout();
    let mut parameters = vec![1.0; layout.len()];
    for entry in layout.entries() {
        if let [_, fan_in] = entry.shape[..] {
            let scale = 1.0 / (fan_in as f64).sqrt();
            parameters[entry.range()].fill_with(|| (rng.normal() * scale) as f32);
        }
    }
    parameters
}

/// Trains the base model on `questions` and saves it as a folder.
pub fn train<D: Device + Clone>(
    device: &D,
    questions: &[Question],
    seed: u64,
    folder: &Path,
    observer: &mut dyn Observer,
    stop: &AtomicBool,
) -> Result<(), QuickstartError> {
    let dialect = Dialect::new(Tokenizer::from_characters(CHARACTERS), None);
    let config = dimensions(dialect.tokenizer().vocab_size());
    let mut rng = Rng::new(seed, "quickstart habits", 0);
    let example = |question: &Question| {
        Ok(Example {
            prompt_id: question.prompt.clone(),
            prompt: dialect.encode_prompt(&[Message::new("user", &question.prompt)])?,
            response: dialect.encode_response(&habitual(&question.answer, &mut rng))?,
            turns: Vec::new(),
        })
    };
    let examples = questions.iter().map(example).collect::<Result<Vec<_>, QuickstartError>>()?;

    let batches = Batches::new(seed, 0, singly(examples.len()), BATCH, EPOCHS, Position::default());
    let settings = TrainSettings {
        optimizer: OptimizerSettings {
            rule: Rule::AdamW { beta1: 0.9, beta2: 0.98, eps: 1e-8 },
            weight_decay: 0.0,
            decays: matrices,
        },
        schedule: Schedule::new(4e-3, Shape::Cosine, Warmup::Share(0.05), batches.total()),
        max_grad_norm: Some(1.0),
        batch_tokens: usize::MAX,
        keep: Keep::Everything,
        dropout: Key::new(seed, "dropout", 0),
    };
    let parameters = random_parameters(&config, seed, "quickstart model");
    // So small a model gains nothing from bf16.
    let decoder = Decoder::new(device.clone(), config, parameters.into(), Precision::F32, Use::ForwardAndBackward);
    let mut trainer = Trainer::new(decoder, settings);
    observer.begin("base model", "steps", batches.total() as usize, 0);
    for chosen in batches {
        if stop.load(Ordering::Relaxed) {
            return Err(QuickstartError::Stopped);
        }
        let step = trainer.sft_step(&examples, &chosen)?;
        observer.advance(step.metrics.step as usize, &format!("loss {:.3}", step.metrics.loss));
    }
    observer.end();
    let decoder = trainer.into_decoder();
    save_folder(folder, decoder.config(), &decoder.read_params(), SaveDtype::F32, &dialect)?;
    Ok(())
}
