//! Packed trees against one plain row per response.

use std::ops::Range;

use proptest::prelude::*;
use topspin_game::objective::{Additions, Loss, Objective, Scored, Triplet};
use topspin_game::optimizer::Rule;
use topspin_game::pair::{Example, Response, Tree, all_pairs};
use topspin_game::policy::{Weighted, all_draws};
use topspin_game::trainer::TrainSettings;
use topspin_kernels::cpu::Cpu;
use topspin_kernels::gemm::Precision;
use topspin_kernels::memory::Memory;
use topspin_model::batch::Batch;
use topspin_model::config::DecoderConfig;
use topspin_model::decoder::{Decoder, Keep, Tape};

use crate::common::*;

/// Prompt and response as one row, the last token fed as well: nothing shared, nothing left out.
fn full_row(prompt: &[u32], response: &[u32]) -> Batch {
    let mut batch = Batch::default();
    batch.push(&[prompt, response].concat(), &[], None, 0);
    batch.outputs = (prompt.len() - 1..batch.rows() - 1).map(|row| row as u32).collect();
    batch.targets = response.to_vec();
    batch
}

struct FullRows {
    decoder: Decoder<Cpu>,
    tape: Tape<Cpu>,
}

impl FullRows {
    fn new(config: &DecoderConfig, seed: u64) -> Self {
        let decoder = decoder(config, &params(config, seed), Precision::F32);
        let tape = Tape::new(decoder.device(), Keep::Everything);
        Self { decoder, tape }
    }

    fn logprobs(&mut self, prompt: &[u32], response: &[u32]) -> Vec<f32> {
        self.decoder.logprobs(&full_row(prompt, response), &mut self.tape)
    }

    /// Adds to `grads` `d` times the gradient of the response's summed log-probability.
    fn backward(&mut self, prompt: &[u32], response: &[u32], d: f64, grads: &mut Memory<f32>) {
        let batch = full_row(prompt, response);
        self.decoder.logprobs(&batch, &mut self.tape);
        self.decoder.backward(&batch, &mut self.tape, &vec![d as f32; response.len()], grads, true);
    }

    /// What the decoder makes of a response, by the definitions.
    fn scored(&mut self, prompt: &[u32], response: &Response) -> Scored {
        let logprobs = self.logprobs(prompt, &response.token_ids);
        let sum = |logprobs: &[f32]| logprobs.iter().map(|&logprob| f64::from(logprob)).sum::<f64>();
        let logp = sum(&logprobs);
        Scored {
            logp,
            log_ratio: logp - sum(&response.logprobs),
            base_log_ratio: logp - sum(&response.base_logprobs),
            tokens: logprobs.len(),
        }
    }
}

/// The tree with what the loss needs of a base model, which is no function of the one in training.
fn with_base(mut tree: Tree, loss: &Loss) -> Tree {
    let needs = loss.needs();
    let twisted = |response: &Response| {
        let token_ids: Vec<_> = response.token_ids.iter().rev().map(|token| (token + 1) % 5).collect();
        let logprobs = token_ids.iter().map(|&token| -0.9 - 0.2 * token as f32).collect();
        Response::new(token_ids, logprobs, response.finish)
    };
    if needs.base_response {
        // Where the base is the opponent its responses are the generated ones.
        let beside =
            |(at, response): (usize, &Response)| if at % 3 == 1 { response.clone() } else { twisted(response) };
        tree.base = tree.generated.iter().enumerate().map(beside).collect();
    }
    for response in tree.generated.iter_mut().filter(|_| needs.base_logprobs) {
        response.base_logprobs = response.logprobs.iter().map(|logprob| 0.8 * logprob - 0.1).collect();
    }
    tree
}

fn without_clipping(rule: Rule, batch_tokens: usize, keep: Keep) -> TrainSettings {
    TrainSettings { max_grad_norm: None, keep, ..settings(rule, batch_tokens) }
}

/// A vocabulary of which 16 rows of logits are held at once, so that the head works in chunks: the forward's logits are gone
/// when the backward wants those of all but the last.
#[test]
fn outputs_in_chunks_give_the_gradient_of_each_alone() {
    let config = DecoderConfig {
        vocab_size: 1 << 21,
        hidden_size: 4,
        intermediate_size: 3,
        num_layers: 1,
        num_heads: 1,
        num_kv_heads: 1,
        head_dim: 4,
        rms_norm_eps: 1e-5,
        rope_theta: 1e4,
        max_positions: 64,
        tie_word_embeddings: true,
        ..DecoderConfig::default()
    };
    let tokens: Vec<u32> = (0..38).map(|at| at * 54_321).collect();
    let whole = full_row(&tokens[..1], &tokens[1..]);
    let derivatives: Vec<f32> = (0..37).map(|at| 0.3 - 0.02 * at as f32).collect();
    let mut rows = FullRows::new(&config, 7);
    let mut gradient_of = |outputs: Range<usize>| {
        let mut batch = whole.clone();
        batch.outputs = whole.outputs[outputs.clone()].to_vec();
        batch.targets = whole.targets[outputs.clone()].to_vec();
        let logprobs = rows.decoder.logprobs(&batch, &mut rows.tape);
        let mut grads = Memory::zeroed(rows.decoder.params().len());
        rows.decoder.backward(&batch, &mut rows.tape, &derivatives[outputs], &mut grads, false);
        (bits(&logprobs), grads)
    };
    let (together, grads) = gradient_of(0..37);
    let (alone, terms): (Vec<_>, Vec<_>) = [0..9, 9..20, 20..36, 36..37].map(&mut gradient_of).into_iter().unzip();
    assert_eq!(together, alone.concat());
    let (error, name) = distance_from_sum(&config, &grads, &terms);
    assert!(error < 2e-5, "{name}: {error:e}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn loss_and_gradient_are_those_of_full_rows(
        config in config(),
        seed in any::<u64>(),
        trees in trees(),
        beta in 0.05..2.0f64,
        objective in prop::sample::select(Objective::ALL),
        added in any::<[bool; 3]>(),
        batch_tokens in 1..80usize,
    ) {
        let [nll, forward_kl, reverse_kl] = added.map(|added| if added { 0.4 } else { 0.0 });
        let additions = Additions { nll, forward_kl, reverse_kl, ..Additions::default() };
        let wanted = Loss { objective, beta, additions };
        let trees: Vec<_> = trees.into_iter().map(|tree| with_base(tree, &wanted)).collect();
        let pairs = all_pairs(&trees);
        let mut trainer = trainer(&config, seed, without_clipping(ADAMW, batch_tokens, Keep::Everything));
        let found = trainer.spin_gradient(&trees, &pairs, &wanted).unwrap();

        let mut rows = FullRows::new(&config, seed);
        let (mut loss, mut margins) = (0.0, 0.0);
        let mut terms = [(); 3].map(|()| Memory::zeroed(trainer.grads().len()));
        for pair in &pairs {
            let Tree { prompt, real, generated, base, .. } = &trees[pair.tree];
            let (generated, base) = (&generated[pair.generated], base.get(pair.generated));
            let beside = base.map(|base| {
                let scored = rows.scored(prompt, base);
                Scored { log_ratio: 0.0, base_log_ratio: scored.log_ratio, ..scored }
            });
            let at = Triplet { real: rows.scored(prompt, real), generated: rows.scored(prompt, generated), base: beside };
            let cost = wanted.pair(&at);
            loss += cost.loss / pairs.len() as f64;
            margins += beta * (at.real.log_ratio - at.generated.log_ratio) / pairs.len() as f64;
            let responses = [Some(real), Some(generated), base];
            let slopes = [cost.d_real, cost.d_generated, cost.d_base];
            for ((response, slope), term) in responses.into_iter().zip(slopes).zip(&mut terms) {
                if let Some(response) = response {
                    rows.backward(prompt, &response.token_ids, slope / pairs.len() as f64, term);
                }
            }
        }
        prop_assert!((found.loss - loss).abs() < 1e-12 * (1.0 + loss.abs()), "{} {loss}", found.loss);
        let margin = found.game.unwrap().margin;
        prop_assert!((margin - margins).abs() < 1e-12 * (1.0 + margins.abs()), "{margin} {margins}");
        let (error, name) = distance_from_sum(&config, trainer.grads(), &terms);
        prop_assert!(error < 2e-5, "{name}: {error:e}");
    }

    #[test]
    fn supervised_loss_and_gradient_are_those_of_full_rows(
        config in config(),
        seed in any::<u64>(),
        trees in trees(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 4),
        batch_tokens in 1..80usize,
    ) {
        let example = |tree: Tree| {
            // Two earlier turns of the assistant, or fewer where the prompt has no room.
            let mut cuts: Vec<_> = cuts.iter().map(|cut| 1 + cut.index(tree.prompt.len())).collect();
            cuts.sort_unstable();
            let turns = cuts.chunks(2).map(|cut| cut[0]..cut[1].min(tree.prompt.len())).filter(|turn| !turn.is_empty());
            let turns = turns.collect();
            Example { prompt_id: tree.prompt_id, prompt: tree.prompt, response: tree.real.token_ids, turns }
        };
        let examples: Vec<_> = trees.into_iter().map(example).collect();
        let chosen: Vec<usize> = (0..examples.len()).rev().collect();
        let mut trainer = trainer(&config, seed, without_clipping(ADAMW, batch_tokens, Keep::Everything));
        let found = trainer.sft_gradient(&examples, &chosen).unwrap();

        let mut rows = FullRows::new(&config, seed);
        let earlier = |example: &Example| example.turns.iter().map(|turn| turn.len()).sum::<usize>();
        let tokens = examples.iter().map(|example| earlier(example) + example.response.len()).sum::<usize>() as f64;
        let mut loss = 0.0;
        let mut terms = [Memory::zeroed(trainer.grads().len())];
        for Example { prompt, response, turns, .. } in &examples {
            let earlier = turns.iter().map(|turn| (&prompt[..turn.start], &prompt[turn.clone()]));
            for (prompt, response) in earlier.chain([(&prompt[..], &response[..])]) {
                loss -= rows.logprobs(prompt, response).iter().map(|&x| f64::from(x)).sum::<f64>() / tokens;
                rows.backward(prompt, response, -1.0 / tokens, &mut terms[0]);
            }
        }
        prop_assert!((found.loss - loss).abs() < 1e-12 * (1.0 + loss), "{} {loss}", found.loss);
        let (error, name) = distance_from_sum(&config, trainer.grads(), &terms);
        prop_assert!(error < 2e-5, "{name}: {error:e}");
    }

    /// Samples that are equal, and prompts that are split, included.
    #[test]
    fn the_weighted_fit_and_its_gradient_are_those_of_full_rows(
        config in config(),
        seed in any::<u64>(),
        trees in trees(),
        scores in prop::collection::vec(-2.0..2.0f64, 5),
        beta in 0.3..3.0f64,
        keep in prop::collection::vec(any::<bool>(), 3),
        batch_tokens in 1..80usize,
    ) {
        let mut scores = scores.into_iter().cycle();
        let weighted = |tree: Tree| {
            let samples = tree.generated.into_iter().map(|response| (response.token_ids, scores.next().unwrap()));
            Weighted::new(tree.prompt_id, tree.prompt, samples.collect(), beta)
        };
        let prompts: Vec<_> = trees.into_iter().map(weighted).collect();
        let mut keep = keep.into_iter().cycle();
        let mut chosen: Vec<_> = all_draws(&prompts).into_iter().rev().collect();
        chosen.retain(|draw| draw.prompt == 0 || keep.next().unwrap());
        let mut trainer = trainer(&config, seed, without_clipping(ADAMW, batch_tokens, Keep::Everything));
        let found = trainer.fit_gradient(&prompts, &chosen).unwrap();

        let mut rows = FullRows::new(&config, seed);
        let (mut loss, mut mean, mut sums) = (0.0, 0.0, [0.0; 2]);
        let mut terms = [Memory::zeroed(trainer.grads().len())];
        for draw in &chosen {
            let Weighted { prompt, samples, .. } = &prompts[draw.prompt];
            let sample = &samples[draw.sample];
            let all: f64 = samples.iter().map(|other| (other.score / beta).exp()).sum();
            let weight = samples.len() as f64 * (sample.score / beta).exp() / all;
            let share = weight / chosen.len() as f64;
            loss -= share * rows.logprobs(prompt, &sample.token_ids).iter().map(|&x| f64::from(x)).sum::<f64>();
            rows.backward(prompt, &sample.token_ids, -share, &mut terms[0]);
            mean += sample.score / chosen.len() as f64;
            sums = [sums[0] + weight, sums[1] + weight * weight];
        }
        prop_assert!((found.loss - loss).abs() < 1e-12 * (1.0 + loss), "{} {loss}", found.loss);
        let (error, name) = distance_from_sum(&config, trainer.grads(), &terms);
        prop_assert!(error < 2e-5, "{name}: {error:e}");
        let fit = found.fit.unwrap();
        prop_assert!((fit.score - mean).abs() < 1e-12, "{} {mean}", fit.score);
        prop_assert!((fit.effective_samples - sums[0] * sums[0] / sums[1]).abs() < 1e-9, "{}", fit.effective_samples);
    }

    #[test]
    fn computing_activations_again_changes_no_bit(
        config in config(),
        seed in any::<u64>(),
        trees in trees(),
        batch_tokens in 1..80usize,
    ) {
        let grads = |keep| {
            let mut trainer = trainer(&config, seed, without_clipping(ADAMW, batch_tokens, keep));
            let _ = trainer.spin_gradient(&trees, &all_pairs(&trees), &Loss::new(Objective::Logistic, 0.3)).unwrap();
            bits(trainer.grads())
        };
        prop_assert_eq!(grads(Keep::LayerInputs), grads(Keep::Everything));
    }

    /// Bitwise, in both precisions: the contract on which the first loss of an iteration rests.
    #[test]
    fn a_score_depends_on_nothing_beside_the_response(
        config in config(),
        seed in any::<u64>(),
        mut trees in trees(),
        budgets in (1..80usize, 1..80usize),
        bf16 in any::<bool>(),
    ) {
        let precision = if bf16 { Precision::Bf16 } else { Precision::F32 };
        let decoder = decoder(&config, &params(&config, seed), precision);
        let mut tape = Tape::new(decoder.device(), Keep::Nothing);
        let mut score = |trees: &[Tree], batch_tokens| {
            let trees: Vec<_> = trees.iter().map(tokens_of).collect();
            topspin_game::score::score(&decoder, &mut tape, &trees, batch_tokens).unwrap()
        };
        let first = score(&trees, budgets.0);
        trees.reverse();
        trees.iter_mut().for_each(|tree| tree.generated.reverse());
        let mut second = score(&trees, budgets.1);
        second.reverse();
        second.iter_mut().for_each(|scores| scores[1..].reverse());
        let all_bits = |scores: &[Vec<Vec<f32>>]| scores.iter().flatten().map(|s| bits(s)).collect::<Vec<_>>();
        prop_assert_eq!(all_bits(&first), all_bits(&second));

        let mut tape = Tape::new(decoder.device(), Keep::Everything);
        for (tree, scores) in trees.iter().rev().zip(&first) {
            let alone = decoder.logprobs(&full_row(&tree.prompt, &tree.real.token_ids), &mut tape);
            prop_assert_eq!(bits(&alone), bits(&scores[0]));
        }
    }

    #[test]
    fn branches_do_not_see_each_other(
        config in config(),
        seed in any::<u64>(),
        mut trees in trees(),
        which in any::<prop::sample::Index>(),
    ) {
        let trainer = trainer(&config, seed, settings(ADAMW, 1000));
        let score = |trees: &[Tree]| trainer.score(&trees.iter().map(tokens_of).collect::<Vec<_>>()).unwrap();
        let before = score(&trees);
        let branch = which.index(trees[0].generated.len() + 1);
        let changed = match branch {
            0 => &mut trees[0].real,
            _ => &mut trees[0].generated[branch - 1],
        };
        changed.token_ids.iter_mut().for_each(|token| *token = (*token + 1) % 5);
        let after = score(&trees);
        for (tree, (before, after)) in before.iter().zip(&after).enumerate() {
            for (response, (before, after)) in before.iter().zip(after).enumerate() {
                let same = bits(before) == bits(after);
                prop_assert_eq!(same, (tree, response) != (0, branch), "tree {}, response {}", tree, response);
            }
        }
    }
}
