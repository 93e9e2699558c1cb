//! A decoder of matrices as their file stores them, against one of the arena that the file is decoded to.

use topspin_kernels::cpu::Cpu;
use topspin_kernels::device::{Segment, Use};
use topspin_kernels::gemm::Precision;

use super::{Decoder, Keep, Parameters, Tape};
use crate::batch::Batch;
use crate::config::DecoderConfig;

/// A batch of one path behind `past` rows of it in the store.
fn path(tokens: &[u32], past: usize) -> Batch {
    let mut batch = Batch::default();
    batch.push(tokens, &[], (past > 0).then_some(Segment { start: 0, len: past }), past);
    batch
}

fn largest(logits: &[f32]) -> u32 {
    let better = |best: usize, at: usize| if logits[at] > logits[best] { at } else { best };
    (0..logits.len()).fold(0, better) as u32
}

/// Bits of the log-probabilities of a sequence, and what follows its first tokens, token by token.
fn results(decoder: &Decoder<Cpu>, tokens: &[u32]) -> (Vec<u32>, Vec<(u32, u32)>) {
    let mut tape = Tape::new(decoder.device(), Keep::Nothing);
    let mut batch = path(tokens, 0);
    batch.outputs = (0..tokens.len() as u32 - 1).collect();
    batch.targets = tokens[1..].to_vec();
    let logprobs = decoder.logprobs(&batch, &mut tape);
    assert!(logprobs.iter().all(|logprob| logprob.is_finite() && *logprob < 0.0), "{logprobs:?}");

    let (mut kv, mut next, mut past, mut choices) = (decoder.kv(16), tokens[..2].to_vec(), 0, Vec::new());
    for _ in 0..8 {
        let mut batch = path(&next, past);
        batch.outputs = vec![next.len() as u32 - 1];
        let choose = |_: usize, logits: &[f32], tokens: &mut [u32]| tokens[0] = largest(logits);
        let choice = decoder.next_tokens(&batch, &mut kv, &mut tape, choose)[0];
        choices.push((choice.token, choice.logprob.to_bits()));
        (past, next) = (past + next.len(), vec![choice.token]);
    }
    (logprobs.into_iter().map(f32::to_bits).collect(), choices)
}

/// Checks that `frozen` parameters give the bits that the arena gives, packed or not.
pub(crate) fn check_frozen(name: &str, config: &DecoderConfig, arena: &[f32], frozen: impl Fn() -> Parameters) {
    let tokens: Vec<u32> = (0..11).map(|at| (at * at * 7 + 3) % config.vocab_size as u32).collect();
    for precision in [Precision::F32, Precision::Bf16] {
        let of = |params: Parameters, for_use: Use| {
            results(&Decoder::new(Cpu::new(), config.clone(), params, precision, for_use), &tokens)
        };
        let expected = of(arena.into(), Use::Forward);
        assert_eq!(of(frozen(), Use::InPlace), expected, "{name}, {precision:?}");
        assert_eq!(of(frozen(), Use::Forward), expected, "{name}, {precision:?}, packed");
        assert_eq!(of(arena.into(), Use::InPlace), expected, "{name}, {precision:?}, the arena not packed");
    }
}
