//! Pairs of a real and a generated response. A [`Tree`] is one line of `pairs.jsonl`.
//!
//! The opponent does not change within a round, so its log-probabilities are constants. It reports those of its own
//! responses and of the real ones as it samples, and they stand here with the tokens.
//! Token ids are what was sampled and what is trained on; text is never tokenized a second time.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use topspin_rollout::Finish;

/// A response and what the opponent thought of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Response {
    /// Tokens, at least one; the end-of-turn token is one of them.
    pub token_ids: Vec<u32>,
    /// Log-probability of each token under the opponent.
    pub logprobs: Vec<f32>,
    /// Log-probability of each token under the base model, where the loss needs it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub base_logprobs: Vec<f32>,
    /// Why it ended: `stop` or `length`.
    #[serde(with = "FinishName")]
    pub finish: Finish,
}

impl Response {
    /// A response with the opponent's log-probabilities alone.
    pub fn new(token_ids: Vec<u32>, logprobs: Vec<f32>, finish: Finish) -> Self {
        Self { token_ids, logprobs, base_logprobs: Vec::new(), finish }
    }
}

/// How [`Finish`] is spelt.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Finish", rename_all = "snake_case")]
enum FinishName {
    Stop,
    Length,
}

/// A prompt with its real response and the opponent's own: as many pairs as there are generated responses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tree {
    /// Names the prompt in messages and reports.
    pub prompt_id: String,
    /// Tokens of the prompt, at least one.
    pub prompt: Vec<u32>,
    /// The response from the data.
    pub real: Response,
    /// Responses of the opponent.
    pub generated: Vec<Response>,
    /// Where the loss needs them, responses of the base model with its own log-probabilities: one beside each generated one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub base: Vec<Response>,
}

impl Tree {
    /// The base model's response beside a generated one, where there is one and it is not the same.
    pub(crate) fn other_base(&self, generated: usize) -> Option<&Response> {
        self.base.get(generated).filter(|base| base.token_ids != self.generated[generated].token_ids)
    }
}

/// A prompt with a response to imitate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// Names the prompt in messages.
    pub prompt_id: String,
    /// Tokens of the prompt, at least one.
    pub prompt: Vec<u32>,
    /// Tokens of the response, at least one; the end-of-turn token is one of them.
    pub response: Vec<u32>,
    /// Parts of the prompt to imitate as well, earlier turns of the assistant; none is empty, and none begins at 0.
    pub turns: Vec<Range<usize>>,
}

/// One pair out of a list of trees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// Index of the tree.
    pub tree: usize,
    /// Index among the tree's generated responses.
    pub generated: usize,
}

/// All pairs of a list of trees, tree by tree.
pub fn all_pairs(trees: &[Tree]) -> Vec<Pair> {
    let of_tree =
        |(at, tree): (usize, &Tree)| (0..tree.generated.len()).map(move |generated| Pair { tree: at, generated });
    trees.iter().enumerate().flat_map(of_tree).collect()
}

/// Where in [`all_pairs`] of trees of these `sizes` those stand that belong together: neighbours of one tree, `most` at a
/// time.
pub fn siblings(sizes: impl IntoIterator<Item = usize>, most: usize) -> Vec<Range<usize>> {
    let mut groups = Vec::new();
    let mut end = 0;
    for size in sizes {
        let start = end;
        end += size;
        groups.extend((start..end).step_by(most).map(|at| at..end.min(at + most)));
    }
    groups
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn trees() -> impl Strategy<Value = Vec<Tree>> {
        // Any finite number: what is read must be what was written, to the bit.
        let logprob = any::<f32>().prop_filter("finite", |x| x.is_finite());
        let finish = prop_oneof![Just(Finish::Stop), Just(Finish::Length)];
        let response = (prop::collection::vec((any::<u32>(), logprob), 1..6), finish).prop_map(|(tokens, finish)| {
            let (token_ids, logprobs) = tokens.into_iter().unzip();
            Response::new(token_ids, logprobs, finish)
        });
        let responses = prop::collection::vec(response, 2..5);
        let tree = (".{0,8}", prop::collection::vec(any::<u32>(), 1..5), responses);
        let tree = tree.prop_map(|(prompt_id, prompt, mut generated)| {
            let real = generated.pop().unwrap();
            Tree { prompt_id, prompt, real, generated, base: Vec::new() }
        });
        prop::collection::vec(tree, 0..5)
    }

    proptest! {
        #[test]
        fn a_line_reads_back_to_the_bit(trees in trees()) {
            for tree in trees {
                let read: Tree = serde_json::from_str(&serde_json::to_string(&tree).unwrap()).unwrap();
                let bits = |tree: &Tree| tree.generated[0].logprobs.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                prop_assert_eq!(bits(&read), bits(&tree));
                prop_assert_eq!(read, tree);
            }
        }
    }

    proptest! {
        #[test]
        fn siblings_are_of_one_tree_and_as_many_as_may_be(trees in trees(), most in 1..5usize) {
            let pairs = all_pairs(&trees);
            let groups = siblings(trees.iter().map(|tree| tree.generated.len()), most);
            prop_assert_eq!(groups.iter().cloned().flatten().collect::<Vec<_>>(), (0..pairs.len()).collect::<Vec<_>>());
            for group in &groups {
                prop_assert!((1..=most).contains(&group.len()));
                let tree = pairs[group.start].tree;
                prop_assert!(pairs[group.clone()].iter().all(|pair| pair.tree == tree));
                let last_of_tree = pairs.get(group.end).is_none_or(|next| next.tree != tree);
                prop_assert!(group.len() == most || last_of_tree);
            }
        }
    }

    #[test]
    fn a_line_has_the_documented_form() {
        let response = Response::new;
        let mut tree = Tree {
            prompt_id: "7".into(),
            prompt: vec![1, 2],
            real: response(vec![5, 0], vec![-0.5, -1.25], Finish::Stop),
            generated: vec![response(vec![6], vec![-0.1], Finish::Length)],
            base: Vec::new(),
        };
        assert_eq!(
            serde_json::to_string(&tree).unwrap(),
            r#"{"prompt_id":"7","prompt":[1,2],"real":{"token_ids":[5,0],"logprobs":[-0.5,-1.25],"finish":"stop"},"generated":[{"token_ids":[6],"logprobs":[-0.1],"finish":"length"}]}"#
        );
        tree.generated[0].base_logprobs = vec![-0.3];
        tree.base = vec![response(vec![7], vec![-0.2], Finish::Length)];
        let line = serde_json::to_string(&tree).unwrap();
        let end = r#""logprobs":[-0.1],"base_logprobs":[-0.3],"finish":"length"}],"base":[{"token_ids":[7],"logprobs":[-0.2],"finish":"length"}]}"#;
        assert!(line.ends_with(end), "{line}");
        assert_eq!(serde_json::from_str::<Tree>(&line).unwrap(), tree);
    }
}
