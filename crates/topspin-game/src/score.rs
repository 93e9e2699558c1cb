//! Log-probabilities of given responses where nothing is sampled beside them: held-out likelihood, the opponent's view of
//! responses from the iteration before, `topspin score`.

use topspin_kernels::device::Device;
use topspin_model::decoder::{Decoder, Tape};

use crate::tree::{TokenTree, TreeError, pack};

/// Log-probability of each token of each response of each tree.
///
/// They are, to the bit, those that the sampler reports and training starts from, however trees are packed. `tape` may
/// keep nothing; `batch_tokens` bounds the rows of a batch and with them the memory.
pub fn score<D: Device>(
    decoder: &Decoder<D>,
    tape: &mut Tape<D>,
    trees: &[TokenTree],
    batch_tokens: usize,
) -> Result<Vec<Vec<Vec<f32>>>, TreeError> {
    trees.iter().try_for_each(|tree| tree.check(decoder.config()))?;
    let mut scores: Vec<_> = trees.iter().map(|tree| Vec::with_capacity(tree.responses.len())).collect();
    for packed in pack(trees, batch_tokens) {
        let logprobs = decoder.logprobs(&packed.batch, tape);
        for branch in packed.branches {
            // Branches come in order, so this is the place `branch.response`.
            scores[branch.tree].push(logprobs[branch.outputs].to_vec());
        }
    }
    Ok(scores)
}
