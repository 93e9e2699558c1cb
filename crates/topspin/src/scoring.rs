//! Log-probabilities of given responses, with a bar: what `score` and `eval` share.

use std::time::Instant;

use topspin_game::score::score;
use topspin_game::tree::TokenTree;
use topspin_model::decoder::{Keep, Tape};
use tracing::info;

use crate::engine::Model;
use crate::progress::Bar;

/// Rows of one forward: enough to fill the processor, few beside the weights.
const ROWS: usize = 1024;

/// Trees scored between two movements of the bar.
const TREES: usize = 16;

/// The log-probability of each token of each response of each tree.
pub fn score_all(model: &Model, trees: &[TokenTree<'_>]) -> anyhow::Result<Vec<Vec<Vec<f32>>>> {
    // All of them before the first is computed: a long record at the end must not cost the work before it.
    trees.iter().try_for_each(|tree| tree.check(&model.files.config))?;
    let mut tape = Tape::new(model.decoder.device(), Keep::Nothing);
    let mut logprobs = Vec::with_capacity(trees.len());
    let mut bar = Bar::begin("scoring", "prompts", trees.len(), 0);
    let start = Instant::now();
    let mut rows = 0;
    for some in trees.chunks(TREES) {
        logprobs.extend(score(&model.decoder, &mut tape, some, ROWS)?);
        rows += some.iter().map(TokenTree::rows).sum::<usize>();
        bar.advance(logprobs.len(), &format!("{:.0} tokens/s", rows as f64 / start.elapsed().as_secs_f64()));
    }
    drop(bar);
    let (seconds, responses) =
        (start.elapsed().as_secs_f64(), trees.iter().map(|tree| tree.responses.len()).sum::<usize>());
    info!("{responses} responses scored, {rows} tokens in {seconds:.1} s ({:.0} tokens/s)", rows as f64 / seconds);
    Ok(logprobs)
}
