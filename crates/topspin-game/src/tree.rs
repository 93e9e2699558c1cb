//! Packs prompts and their responses into batches without padding, each prompt computed once.
//!
//! A tree is a prompt with branches, the responses; every branch attends to the prompt and to itself. Its rows are the
//! tokens of the prompt, then those of each branch but the last, which predicts nothing that is wanted. The last row of
//! the prompt predicts the first token of every branch. Where parts of the prompt are wanted as well, earlier turns of the
//! assistant, its rows predict them.

use std::collections::HashMap;
use std::ops::Range;

use topspin_model::batch::Batch;
use topspin_model::config::DecoderConfig;

use crate::pair::{Pair, Response, Tree};

/// A prompt and the responses to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenTree<'a> {
    /// Names the prompt in messages.
    pub prompt_id: &'a str,
    /// Tokens of the prompt, at least one.
    pub prompt: &'a [u32],
    /// Tokens of each response, at least one.
    pub responses: Vec<&'a [u32]>,
    /// Parts of the prompt that are wanted too; none is empty, and none begins at 0.
    pub turns: &'a [Range<usize>],
}

/// What makes a tree unfit for a model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// No token to predict from.
    #[error("the prompt `{prompt_id}` has no tokens; remove its record")]
    EmptyPrompt {
        /// The prompt's name.
        prompt_id: String,
    },
    /// No token to predict.
    #[error("a response to the prompt `{prompt_id}` has no tokens; remove its record")]
    EmptyResponse {
        /// The prompt's name.
        prompt_id: String,
    },
    /// The sequence leaves the positions that the model has.
    #[error(
        "the prompt `{prompt_id}` with its response has {tokens} tokens, but the model's context holds {context}; \
         shorten or remove its record"
    )]
    TooLong {
        /// The prompt's name.
        prompt_id: String,
        /// Tokens of prompt and response.
        tokens: usize,
        /// The model's positions.
        context: usize,
    },
    /// The token is not in the vocabulary.
    #[error(
        "the prompt `{prompt_id}` or its response has the token {token}, but the model's vocabulary has \
         {vocab_size} tokens; use the tokenizer of this model"
    )]
    ForeignToken {
        /// The prompt's name.
        prompt_id: String,
        /// The token.
        token: u32,
        /// Tokens that the model has.
        vocab_size: usize,
    },
}

impl TokenTree<'_> {
    /// Rows that the tree takes in a batch.
    pub fn rows(&self) -> usize {
        self.prompt.len() + self.responses.iter().map(|response| response.len() - 1).sum::<usize>()
    }

    /// Whether a model of these dimensions can compute the tree.
    pub fn check(&self, config: &DecoderConfig) -> Result<(), TreeError> {
        let prompt_id = || self.prompt_id.to_owned();
        if self.prompt.is_empty() {
            return Err(TreeError::EmptyPrompt { prompt_id: prompt_id() });
        }
        if self.responses.iter().any(|response| response.is_empty()) {
            return Err(TreeError::EmptyResponse { prompt_id: prompt_id() });
        }
        let longest = self.responses.iter().map(|response| response.len()).max().unwrap_or(0);
        let (tokens, context) = (self.prompt.len() + longest, config.max_positions);
        // A response of the full context has its last token one position behind it, but that one is not fed.
        if tokens > context + 1 {
            return Err(TreeError::TooLong { prompt_id: prompt_id(), tokens, context });
        }
        let all = std::iter::once(self.prompt).chain(self.responses.iter().copied()).flatten();
        match all.copied().find(|&token| token as usize >= config.vocab_size) {
            Some(token) => {
                Err(TreeError::ForeignToken { prompt_id: prompt_id(), token, vocab_size: config.vocab_size })
            }
            None => Ok(()),
        }
    }
}

/// One response in a packed batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Branch {
    /// Index of the tree among those that were packed.
    pub tree: usize,
    /// Index of the response in its tree.
    pub response: usize,
    /// The batch's outputs that predict the response, in order of its tokens.
    pub outputs: Range<usize>,
}

/// A batch of whole trees, and which of its outputs belong to whom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packed {
    /// The rows; slot `t` is row `t`.
    pub batch: Batch,
    /// Every response of every tree in order.
    pub branches: Vec<Branch>,
}

impl Packed {
    fn push(&mut self, index: usize, tree: &TokenTree) {
        let batch = &mut self.batch;
        let root = batch.rows() as u32;
        let prompt = batch.push(tree.prompt, &[], None, batch.rows());
        let fork = batch.rows() as u32 - 1;
        for turn in tree.turns {
            // A token is predicted by the row before it.
            batch.outputs.extend(turn.clone().map(|at| root + at as u32 - 1));
            batch.targets.extend_from_slice(&tree.prompt[turn.clone()]);
        }
        for (at, response) in tree.responses.iter().enumerate() {
            let (first_row, first_output) = (batch.rows() as u32, batch.outputs.len());
            let fed = &response[..response.len() - 1];
            if !fed.is_empty() {
                batch.push(fed, &[prompt], None, batch.rows());
            }
            batch.outputs.push(fork);
            batch.outputs.extend(first_row..first_row + fed.len() as u32);
            batch.targets.extend_from_slice(response);
            let outputs = first_output..batch.outputs.len();
            self.branches.push(Branch { tree: index, response: at, outputs });
        }
    }
}

/// Packs trees, in order, into batches of at most `batch_tokens` rows. A tree is never split: one with more rows makes
/// a batch of its own.
pub fn pack(trees: &[TokenTree], batch_tokens: usize) -> Vec<Packed> {
    let mut batches: Vec<Packed> = Vec::new();
    for (index, tree) in trees.iter().enumerate() {
        match batches.last_mut() {
            Some(packed) if packed.batch.rows() + tree.rows() <= batch_tokens => packed.push(index, tree),
            _ => {
                let mut packed = Packed::default();
                packed.push(index, tree);
                batches.push(packed);
            }
        }
    }
    batches
}

/// Some pairs of one tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    /// Index of the tree.
    pub tree: usize,
    /// Index of each generated response, and how many pairs share the branch because their responses are equal.
    pub generated: Vec<(usize, u32)>,
}

impl Group {
    /// The branches: the real response, then the generated ones, then those of the base model beside them, if the tree has
    /// such, that are others.
    pub fn token_tree<'a>(&self, trees: &'a [Tree]) -> TokenTree<'a> {
        let tree = &trees[self.tree];
        let responses = self.responses(tree).map(|response| &response.token_ids[..]);
        TokenTree { prompt_id: &tree.prompt_id, prompt: &tree.prompt, responses: responses.collect(), turns: &[] }
    }

    /// The responses of the branches.
    pub fn responses<'a>(&self, tree: &'a Tree) -> impl Iterator<Item = &'a Response> {
        let generated = self.generated.iter().map(|&(index, _)| &tree.generated[index]);
        let base = self.generated.iter().filter_map(|&(index, _)| tree.other_base(index));
        std::iter::once(&tree.real).chain(generated).chain(base)
    }
}

/// Collects pairs by tree, in the order in which each tree and each response first occurs.
///
/// Pairs of one tree whose generated responses, and those of the base model beside them, agree in tokens and
/// log-probabilities are equal in every respect: they share one branch, which counts as many times.
pub(crate) fn group<'a>(trees: &'a [Tree], pairs: &[Pair]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let mut group_of = HashMap::new();
    let mut branch_of = HashMap::new();
    for pair in pairs {
        let at = *group_of.entry(pair.tree).or_insert_with(|| {
            groups.push(Group { tree: pair.tree, generated: Vec::new() });
            groups.len() - 1
        });
        let generated = &mut groups[at].generated;
        let tree = &trees[pair.tree];
        let key = |response: &'a Response| {
            let logprobs = response.logprobs.iter().chain(&response.base_logprobs);
            (&response.token_ids, logprobs.map(|logprob| logprob.to_bits()).collect::<Vec<_>>())
        };
        let keys = (key(&tree.generated[pair.generated]), tree.base.get(pair.generated).map(key));
        let branch = *branch_of.entry((pair.tree, keys)).or_insert_with(|| {
            generated.push((pair.generated, 0));
            generated.len() - 1
        });
        generated[branch].1 += 1;
    }
    groups
}

/// Splits groups of more than `batch_tokens` rows into such with part of the pairs, each with the prompt and the real
/// response again. A mean over pairs does not change: each part has the real branch of its own pairs.
pub(crate) fn split(trees: &[Tree], groups: Vec<Group>, batch_tokens: usize) -> Vec<Group> {
    let mut parts = Vec::with_capacity(groups.len());
    for group in groups {
        let tree = &trees[group.tree];
        let common = tree.prompt.len() + tree.real.token_ids.len().saturating_sub(1);
        let mut part = Group { tree: group.tree, generated: Vec::new() };
        let mut rows = common;
        for (index, weight) in group.generated {
            let own = std::iter::once(&tree.generated[index]).chain(tree.other_base(index));
            let own: usize = own.map(|response| response.token_ids.len().saturating_sub(1)).sum();
            if rows + own > batch_tokens && !part.generated.is_empty() {
                let next = Group { tree: group.tree, generated: Vec::new() };
                parts.push(std::mem::replace(&mut part, next));
                rows = common;
            }
            part.generated.push((index, weight));
            rows += own;
        }
        parts.push(part);
    }
    parts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use topspin_kernels::device::{Segment, Span};
    use topspin_rollout::Finish;

    use super::*;

    #[test]
    fn a_tree_has_its_prompt_once_and_a_fork() {
        let responses: Vec<&[u32]> = vec![&[20, 21, 22], &[30], &[40, 41]];
        let tree = TokenTree { prompt_id: "a", prompt: &[10, 11], responses, turns: &[] };
        let other = TokenTree { prompt_id: "b", prompt: &[50], responses: vec![&[60, 61]], turns: &[] };
        let packed = pack(&[tree, other], 7);
        assert_eq!(packed.len(), 1);
        let Packed { batch, branches } = &packed[0];
        assert_eq!(batch.tokens, [10, 11, 20, 21, 40, 50, 60]);
        assert_eq!(batch.positions, [0, 1, 2, 3, 2, 0, 1]);
        assert_eq!(batch.slots, [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(batch.outputs, [1, 2, 3, 1, 1, 4, 5, 6]);
        assert_eq!(batch.targets, [20, 21, 22, 30, 40, 41, 60, 61]);
        let segment = |start, len| Segment { start, len };
        let span = |rows, path: &[Segment]| Span { rows, path: path.to_vec() };
        assert_eq!(
            batch.spans,
            [
                span(0..2, &[segment(0, 2)]),
                span(2..4, &[segment(0, 2), segment(2, 2)]),
                span(4..5, &[segment(0, 2), segment(4, 1)]),
                span(5..6, &[segment(5, 1)]),
                span(6..7, &[segment(5, 1), segment(6, 1)]),
            ]
        );
        let branch = |tree, response, outputs| Branch { tree, response, outputs };
        assert_eq!(*branches, [branch(0, 0, 0..3), branch(0, 1, 3..4), branch(0, 2, 4..6), branch(1, 0, 6..8)]);
    }

    #[test]
    fn turns_of_the_prompt_are_predicted_within_it() {
        let before = TokenTree { prompt_id: "a", prompt: &[9], responses: vec![&[8]], turns: &[] };
        let turns = [1..3, 5..6];
        let tree =
            TokenTree { prompt_id: "b", prompt: &[10, 11, 12, 13, 14, 15], responses: vec![&[20, 21]], turns: &turns };
        let Packed { batch, branches } = pack(&[before, tree], 8).remove(0);
        assert_eq!(batch.tokens, [9, 10, 11, 12, 13, 14, 15, 20]);
        assert_eq!(batch.outputs, [0, 1, 2, 5, 6, 7]);
        assert_eq!(batch.targets, [8, 11, 12, 15, 20, 21]);
        assert_eq!(branches.iter().map(|branch| branch.outputs.clone()).collect::<Vec<_>>(), [0..1, 4..6]);
    }

    fn tokens(longest: usize) -> impl Strategy<Value = Vec<u32>> {
        // Few tokens, so that equal responses occur.
        prop::collection::vec(0..3u32, 1..=longest)
    }

    fn trees() -> impl Strategy<Value = Vec<Tree>> {
        let response = |token_ids: Vec<u32>| {
            let logprobs = token_ids.iter().map(|&token| -(token as f32) - 0.5).collect();
            Response::new(token_ids, logprobs, Finish::Stop)
        };
        let tree =
            (tokens(6), tokens(4), prop::collection::vec(tokens(4), 1..9)).prop_map(move |(prompt, real, all)| {
                let generated = all.into_iter().map(response).collect();
                Tree { prompt_id: "p".into(), prompt, real: response(real), generated, base: Vec::new() }
            });
        prop::collection::vec(tree, 1..6)
    }

    proptest! {
        #[test]
        fn batches_keep_the_order_and_the_budget(trees in trees(), budget in 1..40usize) {
            let groups = group(&trees, &crate::pair::all_pairs(&trees));
            let token_trees: Vec<_> = groups.iter().map(|group| group.token_tree(&trees)).collect();
            let batches = pack(&token_trees, budget);
            let branches: Vec<_> = batches.iter().flat_map(|packed| &packed.branches).collect();
            let expected = token_trees.iter().enumerate();
            let expected = expected.flat_map(|(tree, t)| (0..t.responses.len()).map(move |r| (tree, r)));
            prop_assert_eq!(branches.iter().map(|b| (b.tree, b.response)).collect::<Vec<_>>(), expected.collect::<Vec<_>>());
            for packed in &batches {
                let whole = packed.branches.iter().all(|branch| branch.tree == packed.branches[0].tree);
                prop_assert!(packed.batch.rows() <= budget || whole);
                for branch in &packed.branches {
                    prop_assert_eq!(
                        &packed.batch.targets[branch.outputs.clone()],
                        token_trees[branch.tree].responses[branch.response]
                    );
                }
            }
        }

        #[test]
        fn grouping_and_splitting_keep_every_pair(
            trees in trees(),
            budget in 1..40usize,
            keep in prop::collection::vec(any::<bool>(), 8),
        ) {
            let mut keep = keep.into_iter().cycle();
            let mut pairs = crate::pair::all_pairs(&trees);
            pairs.retain(|_| keep.next().unwrap());
            let key = |tree: usize, generated: usize| (tree, trees[tree].generated[generated].token_ids.clone());
            let mut expected: Vec<_> = pairs.iter().map(|pair| key(pair.tree, pair.generated)).collect();
            let parts = split(&trees, group(&trees, &pairs), budget);
            let mut found = Vec::new();
            for part in &parts {
                prop_assert!(part.token_tree(&trees).rows() <= budget || part.generated.len() == 1);
                for &(generated, weight) in &part.generated {
                    found.extend(std::iter::repeat_n(key(part.tree, generated), weight as usize));
                }
            }
            expected.sort();
            found.sort();
            prop_assert_eq!(found, expected);
            // Equal responses share a branch wherever a tree was not split.
            for part in parts.iter().filter(|part| parts.iter().filter(|other| other.tree == part.tree).count() == 1) {
                let mut branches: Vec<_> = part.generated.iter().map(|&(g, _)| key(part.tree, g)).collect();
                branches.sort();
                branches.dedup();
                prop_assert_eq!(branches.len(), part.generated.len());
            }
        }
    }

    #[test]
    fn what_the_model_cannot_compute_is_named() {
        let config = DecoderConfig {
            vocab_size: 9,
            hidden_size: 4,
            intermediate_size: 4,
            num_layers: 1,
            num_heads: 1,
            num_kv_heads: 1,
            head_dim: 4,
            rms_norm_eps: 1e-5,
            rope_theta: 1e4,
            max_positions: 4,
            tie_word_embeddings: true,
            ..DecoderConfig::default()
        };
        let check = |prompt: &[u32], response: &[u32]| {
            TokenTree { prompt_id: "x", prompt, responses: vec![&[1], response], turns: &[] }.check(&config)
        };
        assert_eq!(check(&[1, 2], &[3, 4, 5]), Ok(()));
        let prompt_id = || "x".to_owned();
        assert_eq!(check(&[], &[3]), Err(TreeError::EmptyPrompt { prompt_id: prompt_id() }));
        assert_eq!(check(&[1], &[]), Err(TreeError::EmptyResponse { prompt_id: prompt_id() }));
        let long = TreeError::TooLong { prompt_id: prompt_id(), tokens: 6, context: 4 };
        assert_eq!(check(&[1, 2], &[3, 4, 5, 6]), Err(long));
        let foreign = TreeError::ForeignToken { prompt_id: prompt_id(), token: 9, vocab_size: 9 };
        assert_eq!(check(&[1, 9], &[3]), Err(foreign.clone()));
        assert_eq!(check(&[1], &[3, 9]), Err(foreign));
    }
}
