//! The order in which a stage visits its examples.

use std::ops::Range;

use topspin_kernels::rng::Rng;

/// A place in the order of a stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Whole passes over the examples.
    pub epoch: u32,
    /// Examples visited in the pass at hand.
    pub visited: u64,
}

/// Batches of a stage: in each pass every example once, in a new random order; the last batch of a pass may be short.
///
/// Examples of one group stay side by side. Batches have their size all the same: a group that begins in one may end in
/// the next.
///
/// The order of a pass is a function of the seed, the iteration and the pass alone, so a stage goes on from a
/// [`Position`] as if it had never stopped.
#[derive(Clone, Debug)]
pub struct Batches {
    seed: u64,
    iteration: u64,
    size: usize,
    epochs: u32,
    position: Position,
    groups: Vec<Range<usize>>,
    order: Vec<usize>,
}

impl Batches {
    /// `epochs` passes over `groups` of examples, which count up from 0, in batches of `size`, from `start`.
    ///
    /// # Panics
    /// If `size` is 0.
    pub fn new(
        seed: u64,
        iteration: u64,
        groups: Vec<Range<usize>>,
        size: usize,
        epochs: u32,
        start: Position,
    ) -> Self {
        assert!(size > 0, "a batch has examples");
        let mut batches = Self { seed, iteration, size, epochs, position: start, groups, order: Vec::new() };
        batches.shuffle();
        batches
    }

    /// Batches of the whole stage.
    pub fn total(&self) -> u32 {
        self.epochs * self.order.len().div_ceil(self.size) as u32
    }

    /// Where the stage stands: what was given out counts as visited.
    pub fn position(&self) -> Position {
        self.position
    }

    fn shuffle(&mut self) {
        let mut groups = self.groups.clone();
        let purpose = format!("order of epoch {}", self.position.epoch);
        Rng::new(self.seed, &purpose, self.iteration).shuffle(&mut groups);
        self.order = groups.into_iter().flatten().collect();
    }
}

/// Groups of one: `examples` in any order.
pub fn singly(examples: usize) -> Vec<Range<usize>> {
    (0..examples).map(|example| example..example + 1).collect()
}

impl Iterator for Batches {
    /// Indices of examples.
    type Item = Vec<usize>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.position.epoch >= self.epochs || self.order.is_empty() {
            return None;
        }
        let start = self.position.visited as usize;
        let end = self.order.len().min(start + self.size);
        let batch = self.order[start..end].to_vec();
        self.position.visited = end as u64;
        if end == self.order.len() {
            self.position = Position { epoch: self.position.epoch + 1, visited: 0 };
            self.shuffle();
        }
        Some(batch)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(examples: usize, size: usize, epochs: u32, start: Position) -> Vec<Vec<usize>> {
        Batches::new(7, 2, singly(examples), size, epochs, start).collect()
    }

    proptest! {
        #[test]
        fn every_pass_visits_every_example_once(examples in 0..40usize, size in 1..9usize, epochs in 0..4u32) {
            let batches = all(examples, size, epochs, Position::default());
            let total = Batches::new(7, 2, singly(examples), size, epochs, Position::default()).total();
            prop_assert_eq!(batches.len(), total as usize);
            let per_pass = examples.div_ceil(size).max(1);
            for pass in batches.chunks(per_pass) {
                prop_assert!(pass[..pass.len() - 1].iter().all(|batch| batch.len() == size));
                let mut seen = pass.concat();
                seen.sort();
                prop_assert_eq!(seen, (0..examples).collect::<Vec<_>>());
            }
        }

        #[test]
        fn a_stage_goes_on_where_it_stopped(examples in 1..40usize, size in 1..9usize, epochs in 1..4u32, cut in 0..200usize) {
            let whole = all(examples, size, epochs, Position::default());
            let cut = cut % (whole.len() + 1);
            let mut first = Batches::new(7, 2, singly(examples), size, epochs, Position::default());
            let mut joined: Vec<_> = first.by_ref().take(cut).collect();
            joined.extend(all(examples, size, epochs, first.position()));
            prop_assert_eq!(joined, whole);
        }
    }

    proptest! {
        #[test]
        fn groups_stay_side_by_side(sizes in prop::collection::vec(1..6usize, 1..20), size in 1..9usize) {
            let mut end = 0;
            let groups: Vec<_> = sizes.iter().map(|size| { end += size; end - size..end }).collect();
            let batches: Vec<_> = Batches::new(7, 2, groups.clone(), size, 1, Position::default()).collect();
            prop_assert!(batches[..batches.len() - 1].iter().all(|batch| batch.len() == size));
            let order = batches.concat();
            let mut found = Vec::new();
            let mut rest = &order[..];
            while let Some(first) = rest.first() {
                let group = groups.iter().find(|group| group.start == *first).unwrap();
                prop_assert_eq!(&rest[..group.len()], &group.clone().collect::<Vec<_>>()[..]);
                found.push(group.clone());
                rest = &rest[group.len()..];
            }
            found.sort_by_key(|group| group.start);
            prop_assert_eq!(found, groups);
        }
    }

    #[test]
    fn passes_iterations_and_seeds_differ() {
        let order = |seed, iteration, epoch| {
            Batches::new(seed, iteration, singly(30), 30, 9, Position { epoch, visited: 0 }).next().unwrap()
        };
        let orders = [order(1, 1, 0), order(1, 1, 1), order(1, 2, 0), order(2, 1, 0)];
        for (at, a) in orders.iter().enumerate() {
            assert_ne!(*a, (0..30).collect::<Vec<_>>());
            orders[at + 1..].iter().for_each(|b| assert_ne!(a, b));
        }
    }
}
