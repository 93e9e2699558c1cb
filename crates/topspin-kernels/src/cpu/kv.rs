//! The store of keys and values.

use rayon::prelude::*;

use super::math::LANES;
use crate::device::HeadShape;

/// Keys and values of many sequences, by layer and slot.
///
/// Keys lie in blocks of 16 slots, `[G][slot / 16][C][16]`, so that one vector holds a channel of 16 keys and each
/// score is accumulated over channels in the same order wherever its key lies. Values lie in rows, `[G][slot][C']`,
/// `C'` being `C` rounded up to whole vectors.
pub struct KvStore {
    /// The heads whose keys and values these are.
    pub heads: HeadShape,
    slots: usize,
    layers: Vec<Layer>,
}

struct Layer {
    keys: Vec<f32>,
    values: Vec<f32>,
}

/// Keys and values of one head of one layer.
#[derive(Clone, Copy)]
pub struct HeadKv<'a> {
    /// `[slot / 16][C][16]`.
    pub keys: &'a [f32],
    /// `[slot][C']`.
    pub values: &'a [f32],
}

/// `C` rounded up to whole vectors.
pub fn padded_dim(head_dim: usize) -> usize {
    head_dim.next_multiple_of(LANES)
}

impl KvStore {
    /// An empty store.
    pub fn new(layers: usize, slots: usize, heads: HeadShape) -> Self {
        let slots = slots.next_multiple_of(LANES);
        let layer = || Layer {
            keys: vec![0.0; heads.num_kv_heads * slots * heads.head_dim],
            values: vec![0.0; heads.num_kv_heads * slots * padded_dim(heads.head_dim)],
        };
        Self { heads, slots, layers: (0..layers).map(|_| layer()).collect() }
    }

    /// Stores the keys and values of each row of `qkv` at its slot.
    pub fn append(&mut self, layer: usize, qkv: &[f32], slots: &[u32]) {
        let (heads, c) = (self.heads, self.heads.head_dim);
        let Layer { keys, values } = &mut self.layers[layer];
        let by_head =
            keys.par_chunks_mut(self.slots * c).zip(values.par_chunks_mut(self.slots * padded_dim(c))).enumerate();
        by_head.for_each(|(head, (keys, values))| {
            for (row, &slot) in qkv.chunks_exact(heads.qkv_width()).zip(slots) {
                let slot = slot as usize;
                let key = &row[heads.q_width() + head * c..][..c];
                let value = &row[heads.q_width() + heads.kv_width() + head * c..][..c];
                put_key(keys, slot, key);
                values[slot * padded_dim(c)..][..c].copy_from_slice(value);
            }
        });
    }

    /// Keys and values of one head.
    pub fn head(&self, layer: usize, head: usize) -> HeadKv<'_> {
        let c = self.heads.head_dim;
        let Layer { keys, values } = &self.layers[layer];
        let (k, v) = (self.slots * c, self.slots * padded_dim(c));
        HeadKv { keys: &keys[head * k..][..k], values: &values[head * v..][..v] }
    }
}

/// Puts one vector into its lane of a blocked table `[slot / 16][C][16]`.
pub fn put_key(blocks: &mut [f32], slot: usize, key: &[f32]) {
    let block = &mut blocks[slot / LANES * LANES * key.len()..][..LANES * key.len()];
    for (lanes, &x) in block.as_chunks_mut::<LANES>().0.iter_mut().zip(key) {
        lanes[slot % LANES] = x;
    }
}
