//! Self-play: objectives, pairs, tree batches, the trainer, the run and its stages.
