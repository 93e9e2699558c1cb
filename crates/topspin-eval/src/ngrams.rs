//! Runs of n items, counted.

use std::collections::HashMap;
use std::hash::Hash;

/// How often each run of `n` items occurs; `n` is at least 1.
pub(crate) fn count<T: Eq + Hash>(items: &[T], n: usize) -> HashMap<&[T], u64> {
    let mut counts = HashMap::new();
    for run in items.windows(n) {
        *counts.entry(run).or_default() += 1;
    }
    counts
}

/// The number of runs that two counts share: of each run the smaller count.
pub(crate) fn shared<T: Eq + Hash>(left: &HashMap<&[T], u64>, right: &HashMap<&[T], u64>) -> u64 {
    left.iter().map(|(run, &count)| count.min(right.get(run).copied().unwrap_or(0))).sum()
}
