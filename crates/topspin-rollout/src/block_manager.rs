//! Which slots of the key/value store belong to which path.

use std::collections::BTreeSet;
use std::ops::Range;

use topspin_kernels::device::Segment;
use topspin_model::batch::Batch;

/// Slots of a block. The CPU's store keeps the keys of 16 slots in shared vectors, and every segment begins with a block.
pub const BLOCK: usize = 16;

/// The slots of consecutive positions: adjacent blocks form one segment, and only the last block may be part empty.
///
/// It owns its blocks until it is given back to the manager, so it is not `Clone`.
#[derive(Debug, Default)]
pub struct Path {
    segments: Vec<Segment>,
}

impl Path {
    /// Number of positions.
    pub fn len(&self) -> usize {
        self.segments.iter().map(|segment| segment.len).sum()
    }

    /// Whether it has no position, hence no block.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// The slots in order of position.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// This path and, behind it, another.
    pub fn followed_by(mut self, other: Path) -> Path {
        self.segments.extend(other.segments);
        self
    }

    /// Appends rows for `tokens`, which stand at positions `first ..` of this path, behind the segments `past`.
    pub fn push_rows(&self, batch: &mut Batch, past: &[Segment], first: usize, tokens: &[u32]) {
        let mut past = past.to_vec();
        let mut begin = 0;
        for &segment in &self.segments {
            let end = begin + segment.len;
            let rows = first.max(begin)..end.min(first + tokens.len());
            if !rows.is_empty() {
                let held = rows.start - begin;
                let own = (held > 0).then_some(Segment { start: segment.start, len: held });
                batch.push(&tokens[rows.start - first..rows.end - first], &past, own, segment.start + held);
            }
            past.push(segment);
            begin = end;
        }
    }
}

/// Blocks of a segment, which begins with a block.
fn blocks_of(segment: Segment) -> Range<usize> {
    segment.start / BLOCK..(segment.start + segment.len).div_ceil(BLOCK)
}

/// Hands out the blocks of a key/value store.
///
/// A block has one owner. Prompts that several sequences share are owned, and counted, by the scheduler's `Prompt`.
#[derive(Debug)]
pub struct BlockManager {
    free: BTreeSet<usize>,
}

impl BlockManager {
    /// A manager of a store of `slots`, of which a rest that fills no block is left unused. `held` keeps its blocks.
    pub fn new(slots: usize, held: &Path) -> Self {
        let mut free = BTreeSet::from_iter(0..slots / BLOCK);
        for block in held.segments.iter().flat_map(|&segment| blocks_of(segment)) {
            free.remove(&block);
        }
        Self { free }
    }

    /// Number of blocks that nothing owns.
    pub fn free_blocks(&self) -> usize {
        self.free.len()
    }

    /// Lengthens a path by `slots`; does nothing and returns false if there are not enough free blocks.
    pub fn extend(&mut self, path: &mut Path, slots: usize) -> bool {
        // What the last block has left.
        let mut room = path.segments.last().map_or(0, |last| last.len.next_multiple_of(BLOCK) - last.len);
        if slots.saturating_sub(room).div_ceil(BLOCK) > self.free.len() {
            return false;
        }
        let mut missing = slots;
        while missing > 0 {
            if room == 0 {
                self.append_block(path);
                room = BLOCK;
            }
            let taken = room.min(missing);
            path.segments.last_mut().expect("a path with room has a segment").len += taken;
            (room, missing) = (room - taken, missing - taken);
        }
        true
    }

    /// Gives a path without room in its last block a free one: that behind its last if it can be had, which keeps the
    /// segment whole, else the lowest, which keeps the part of the store in use small.
    fn append_block(&mut self, path: &mut Path) {
        let behind = path.segments.last().map(|&last| blocks_of(last).end);
        if behind.is_some_and(|block| self.free.remove(&block)) {
            return;
        }
        let block = self.free.pop_first().expect("the caller made sure that a block is free");
        path.segments.push(Segment { start: block * BLOCK, len: 0 });
    }

    /// Shortens a path to its first `len` positions and takes back the blocks that it no longer needs.
    pub fn truncate(&mut self, path: &mut Path, len: usize) {
        let mut begin = 0;
        path.segments.retain_mut(|segment| {
            let before = blocks_of(*segment);
            segment.len = segment.len.min(len.saturating_sub(begin));
            begin += segment.len;
            self.free.extend(blocks_of(*segment).end..before.end);
            segment.len > 0
        });
    }

    /// Takes back all blocks of a path and leaves it empty.
    pub fn release(&mut self, path: &mut Path) {
        self.truncate(path, 0);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Slots in order of position.
    fn slots(path: &Path) -> Vec<usize> {
        path.segments.iter().flat_map(|segment| segment.start..segment.start + segment.len).collect()
    }

    #[derive(Clone, Debug)]
    enum Act {
        Extend(usize, usize),
        Truncate(usize, usize),
        Release(usize),
    }

    fn acts() -> impl Strategy<Value = Vec<Act>> {
        let act = prop_oneof![
            6 => (0..6usize, 0..70usize).prop_map(|(path, slots)| Act::Extend(path, slots)),
            2 => (0..6usize, 0..100usize).prop_map(|(path, len)| Act::Truncate(path, len)),
            1 => (0..6usize).prop_map(Act::Release),
        ];
        prop::collection::vec(act, 0..80)
    }

    proptest! {
        /// Against paths that are plain lists of slots.
        #[test]
        fn no_slot_has_two_owners(total in 0..500usize, acts in acts()) {
            let mut manager = BlockManager::new(total, &Path::default());
            let mut paths: Vec<Path> = (0..6).map(|_| Path::default()).collect();
            let mut expected: Vec<Vec<usize>> = vec![Vec::new(); 6];
            for act in acts {
                match act {
                    Act::Extend(at, n) => {
                        let blocks = |len: usize| len.div_ceil(BLOCK);
                        // Only a path that was cut in two within a block wastes any of it, and none is here.
                        let needed = blocks(paths[at].len() + n) - blocks(paths[at].len());
                        let fits = needed <= manager.free_blocks();
                        prop_assert_eq!(manager.extend(&mut paths[at], n), fits);
                        let now = slots(&paths[at]);
                        prop_assert_eq!(now.len(), expected[at].len() + if fits { n } else { 0 });
                        prop_assert!(now.starts_with(&expected[at]), "what was stored has moved");
                        expected[at] = now;
                    }
                    Act::Truncate(at, len) => {
                        manager.truncate(&mut paths[at], len);
                        expected[at].truncate(len);
                    }
                    Act::Release(at) => {
                        manager.release(&mut paths[at]);
                        expected[at].clear();
                    }
                }
                let mut used = BTreeSet::new();
                for (path, expected) in paths.iter().zip(&expected) {
                    prop_assert_eq!(&slots(path), expected);
                    prop_assert!(path.segments.iter().all(|segment| segment.start % BLOCK == 0 && segment.len > 0));
                    prop_assert!(slots(path).into_iter().all(|slot| slot < total && used.insert(slot)));
                }
                let owned: BTreeSet<usize> = used.iter().map(|slot| slot / BLOCK).collect();
                prop_assert!(owned.is_disjoint(&manager.free));
                prop_assert_eq!(owned.len() + manager.free_blocks(), total / BLOCK);
            }
            for path in &mut paths {
                manager.release(path);
            }
            prop_assert_eq!(manager.free_blocks(), total / BLOCK);
        }

        /// A manager built around a path hands out all other blocks and no block of the path.
        #[test]
        fn held_blocks_stay_held(lens in prop::collection::vec(1..60usize, 1..6)) {
            let mut manager = BlockManager::new(400, &Path::default());
            let mut held = Path::default();
            for len in lens {
                let mut part = Path::default();
                prop_assert!(manager.extend(&mut part, len));
                held = held.followed_by(part);
            }
            let free = manager.free_blocks();
            let mut manager = BlockManager::new(400, &held);
            prop_assert_eq!(manager.free_blocks(), free);
            let mut rest = Path::default();
            prop_assert!(manager.extend(&mut rest, free * BLOCK));
            prop_assert!(slots(&rest).iter().all(|slot| !slots(&held).contains(slot)));
            manager.release(&mut held);
            manager.release(&mut rest);
            prop_assert_eq!(manager.free_blocks(), 400 / BLOCK);
        }

        /// Rows pushed in any pieces stand at their positions and slots, and see all positions up to their own.
        #[test]
        fn rows_see_their_whole_path(cuts in prop::collection::vec(1..40usize, 1..6), grown in prop::collection::vec(1..30usize, 1..6)) {
            let mut manager = BlockManager::new(1000, &Path::default());
            let (mut past, mut path, mut other) = (Path::default(), Path::default(), Path::default());
            manager.extend(&mut past, 21);
            // Another path grows in between, so that this one falls into several segments.
            for &n in &grown {
                manager.extend(&mut path, n);
                manager.extend(&mut other, n);
            }
            let len = path.len();
            let tokens: Vec<u32> = (0..len as u32).collect();
            let mut batch = Batch::default();
            let mut first = 0;
            for cut in cuts.into_iter().chain([len]) {
                let end = len.min(first + cut);
                path.push_rows(&mut batch, past.segments(), first, &tokens[first..end]);
                first = end;
            }
            prop_assert_eq!(&batch.tokens, &tokens);
            let path_slots: Vec<usize> = slots(&past).into_iter().chain(slots(&path)).collect();
            for span in &batch.spans {
                let seen = slots(&Path { segments: span.path.clone() });
                prop_assert_eq!(&seen[..], &path_slots[..seen.len()]);
                for row in span.rows.clone() {
                    let position = batch.positions[row] as usize;
                    prop_assert_eq!(position, 21 + row);
                    prop_assert_eq!(seen.len() - (span.rows.end - 1 - row), position + 1);
                    prop_assert_eq!(batch.slots[row] as usize, path_slots[position]);
                }
            }
        }
    }
}
