//! The store of keys and values.

use std::cell::RefCell;
use std::thread::LocalKey;

use bytemuck::Pod;
use rayon::prelude::*;

use super::math::LANES;
use crate::bf16;
use crate::device::HeadShape;
use crate::gemm::Precision;
use crate::memory::Memory;
use crate::multiversion;
use crate::simd::{Arithmetic, Level};

/// In what form keys and values are held and multiplied.
pub trait Format: Copy + Send + Sync {
    /// The part of a key that one lane holds: some neighbouring channels.
    type Key: Pod + Send + Sync + 'static;
    /// A channel of a value.
    type Value: Pod + Send + Sync;
    /// 16 keys' parts in registers.
    type Keys<M: Arithmetic>: Copy;
    /// Channels in a [`Self::Key`].
    const CHANNELS: usize;

    /// The part of a key, or of a query, that holds these channels. Missing ones are 0.
    fn key(channels: &[f32]) -> Self::Key;
    /// 16 neighbouring parts, from their channels.
    fn keys<M: Arithmetic>(math: M, channels: &[f32]) -> [Self::Key; LANES];
    /// 16 parts that run along rows: each holds the same channel of some neighbouring rows, at most two.
    fn rows<M: Arithmetic>(math: M, first: &[f32; LANES], second: &[f32; LANES]) -> [Self::Key; LANES];
    /// A channel of a value.
    fn value(x: f32) -> Self::Value;
    /// From memory.
    fn load_keys<M: Arithmetic>(math: M, keys: &[Self::Key; LANES]) -> Self::Keys<M>;
    /// A query's part for every lane.
    fn splat_key<M: Arithmetic>(math: M, key: Self::Key) -> Self::Keys<M>;
    /// `sum += a · b` over the channels of a part, in each lane.
    fn mul_add<M: Arithmetic>(math: M, a: Self::Keys<M>, b: Self::Keys<M>, sum: M::Lanes) -> M::Lanes;
    /// 16 channels of a value.
    fn load_values<M: Arithmetic>(math: M, values: &[Self::Value; LANES]) -> M::Lanes;
    /// This thread's memory that nobody uses, see [`borrow`].
    fn unused() -> &'static LocalKey<RefCell<Vec<Memory<Self::Key>>>>;
}

thread_local! {
    static UNUSED_SINGLE: RefCell<Vec<Memory<f32>>> = const { RefCell::new(Vec::new()) };
    static UNUSED_PAIRS: RefCell<Vec<Memory<u32>>> = const { RefCell::new(Vec::new()) };
}

/// Calls `work` with `len` keys' parts of any content, in memory that the thread keeps: pages that are returned and asked
/// for again at every call cost more than what is written there.
pub fn borrow<F: Format, R>(len: usize, work: impl FnOnce(&mut [F::Key]) -> R) -> R {
    let mut memory = F::unused().with_borrow_mut(|unused| unused.pop().unwrap_or_default());
    let result = work(memory.grown(len));
    F::unused().with_borrow_mut(|unused| unused.push(memory));
    result
}

/// As they are.
#[derive(Clone, Copy)]
pub struct F32;

impl Format for F32 {
    type Key = f32;
    type Value = f32;
    type Keys<M: Arithmetic> = M::Lanes;
    const CHANNELS: usize = 1;

    #[inline(always)]
    fn key(channels: &[f32]) -> f32 {
        channels[0]
    }

    #[inline(always)]
    fn keys<M: Arithmetic>(_math: M, channels: &[f32]) -> [f32; LANES] {
        channels.try_into().expect("16 channels")
    }

    #[inline(always)]
    fn rows<M: Arithmetic>(_math: M, first: &[f32; LANES], _second: &[f32; LANES]) -> [f32; LANES] {
        *first
    }

    #[inline(always)]
    fn value(x: f32) -> f32 {
        x
    }

    #[inline(always)]
    fn load_keys<M: Arithmetic>(math: M, keys: &[f32; LANES]) -> M::Lanes {
        math.load(keys)
    }

    #[inline(always)]
    fn splat_key<M: Arithmetic>(math: M, key: f32) -> M::Lanes {
        math.splat(key)
    }

    #[inline(always)]
    fn mul_add<M: Arithmetic>(math: M, a: M::Lanes, b: M::Lanes, sum: M::Lanes) -> M::Lanes {
        math.mul_add_lanes(a, b, sum)
    }

    #[inline(always)]
    fn load_values<M: Arithmetic>(math: M, values: &[f32; LANES]) -> M::Lanes {
        math.load(values)
    }

    fn unused() -> &'static LocalKey<RefCell<Vec<Memory<f32>>>> {
        &UNUSED_SINGLE
    }
}

/// Rounded to bf16, two channels of a key to a lane.
#[derive(Clone, Copy)]
pub struct Bf16;

impl Format for Bf16 {
    type Key = u32;
    type Value = u16;
    type Keys<M: Arithmetic> = M::Pairs;
    const CHANNELS: usize = 2;

    #[inline(always)]
    fn key(channels: &[f32]) -> u32 {
        bf16::pair(channels[0], channels.get(1).copied().unwrap_or(0.0))
    }

    #[inline(always)]
    fn keys<M: Arithmetic>(math: M, channels: &[f32]) -> [u32; LANES] {
        math.pair_neighbours(channels.try_into().expect("32 channels"))
    }

    #[inline(always)]
    fn rows<M: Arithmetic>(math: M, first: &[f32; LANES], second: &[f32; LANES]) -> [u32; LANES] {
        math.pair_rows(first, second)
    }

    #[inline(always)]
    fn value(x: f32) -> u16 {
        (bf16::round(x) >> 16) as u16
    }

    #[inline(always)]
    fn load_keys<M: Arithmetic>(math: M, keys: &[u32; LANES]) -> M::Pairs {
        math.load_pairs(keys)
    }

    #[inline(always)]
    fn splat_key<M: Arithmetic>(math: M, key: u32) -> M::Pairs {
        math.splat_pair(key)
    }

    #[inline(always)]
    fn mul_add<M: Arithmetic>(math: M, a: M::Pairs, b: M::Pairs, sum: M::Lanes) -> M::Lanes {
        math.dot_pairs(a, b, sum)
    }

    #[inline(always)]
    fn load_values<M: Arithmetic>(math: M, values: &[u16; LANES]) -> M::Lanes {
        math.widen(values)
    }

    fn unused() -> &'static LocalKey<RefCell<Vec<Memory<u32>>>> {
        &UNUSED_PAIRS
    }
}

/// Keys and values of many sequences, by layer and slot, in the precision of the model's products.
pub enum KvStore {
    /// In single precision.
    F32(Store<F32>),
    /// Rounded to bf16.
    Bf16(Store<Bf16>),
}

/// Keys and values in one format.
///
/// Keys lie in blocks of 16 slots, `[G][slot / 16][part][16]`, a part being one or two channels, so that one vector holds
/// a part of 16 keys and each score is accumulated over channels in the same order wherever its key lies. Values lie in
/// rows, `[G][slot][C']`, `C'` being `C` rounded up to whole vectors.
pub struct Store<F: Format> {
    /// The heads whose keys and values these are.
    pub heads: HeadShape,
    slots: usize,
    layers: Vec<Layer<F>>,
}

struct Layer<F: Format> {
    keys: Memory<F::Key>,
    values: Memory<F::Value>,
}

/// Keys and values of one head of one layer.
#[derive(Clone, Copy)]
pub struct HeadKv<'a, F: Format> {
    /// `[slot / 16][part][16]`.
    pub keys: &'a [F::Key],
    /// `[slot][C']`.
    pub values: &'a [F::Value],
}

/// `C` rounded up to whole vectors.
pub fn padded_dim(head_dim: usize) -> usize {
    head_dim.next_multiple_of(LANES)
}

/// Parts of a key.
#[inline(always)]
pub fn parts<F: Format>(head_dim: usize) -> usize {
    head_dim.div_ceil(F::CHANNELS)
}

impl KvStore {
    /// An empty store.
    pub fn new(precision: Precision, layers: usize, slots: usize, heads: HeadShape) -> Self {
        match precision {
            Precision::F32 => Self::F32(Store::new(layers, slots, heads)),
            Precision::Bf16 => Self::Bf16(Store::new(layers, slots, heads)),
        }
    }

    /// Stores the keys and values of each row of `qkv` at its slot.
    pub fn append(&mut self, level: Level, layer: usize, qkv: &[f32], slots: &[u32]) {
        match self {
            Self::F32(store) => store.append(level, layer, qkv, slots),
            Self::Bf16(store) => store.append(level, layer, qkv, slots),
        }
    }
}

impl<F: Format> Store<F> {
    fn new(layers: usize, slots: usize, heads: HeadShape) -> Self {
        let slots = slots.next_multiple_of(LANES);
        let layer = || Layer {
            keys: Memory::zeroed(heads.num_kv_heads * slots * parts::<F>(heads.head_dim)),
            values: Memory::zeroed(heads.num_kv_heads * slots * padded_dim(heads.head_dim)),
        };
        Self { heads, slots, layers: (0..layers).map(|_| layer()).collect() }
    }

    fn append(&mut self, level: Level, layer: usize, qkv: &[f32], slots: &[u32]) {
        let (heads, c) = (self.heads, self.heads.head_dim);
        let Layer { keys, values } = &mut self.layers[layer];
        let (width, first_key, first_value) = (heads.qkv_width(), heads.q_width(), heads.q_width() + heads.kv_width());
        let put_keys = || {
            let by_head = keys.par_chunks_mut(self.slots * parts::<F>(c)).enumerate();
            by_head.for_each(|(head, keys)| put_keys::<F>(level, keys, &qkv[first_key + head * c..], width, slots, c));
        };
        let put_values = || {
            let by_head = values.par_chunks_mut(self.slots * padded_dim(c)).enumerate();
            by_head.for_each(|(head, values)| {
                put_values::<F>(level, values, &qkv[first_value + head * c..], width, slots, c);
            });
        };
        rayon::join(put_keys, put_values);
    }

    /// Keys and values of one head.
    pub fn head(&self, layer: usize, head: usize) -> HeadKv<'_, F> {
        let c = self.heads.head_dim;
        let Layer { keys, values } = &self.layers[layer];
        let (k, v) = (self.slots * parts::<F>(c), self.slots * padded_dim(c));
        HeadKv { keys: &keys[head * k..][..k], values: &values[head * v..][..v] }
    }
}

multiversion! {
    /// Puts each row's first `c` numbers into its slot's lane of a blocked table, see [`put_key`].
    fn put_keys<F: Format>(math, blocks: &mut [F::Key], rows: &[f32], width: usize, slots: &[u32], c: usize) {
        for (at, &slot) in slots.iter().enumerate() {
            put_key::<F>(math, blocks, slot as usize, &rows[at * width..][..c]);
        }
    }
}

multiversion! {
    /// Puts each row's first `c` numbers into its slot's row.
    fn put_values<F: Format>(_math, values: &mut [F::Value], rows: &[f32], width: usize, slots: &[u32], c: usize) {
        for (at, &slot) in slots.iter().enumerate() {
            let to = &mut values[slot as usize * padded_dim(c)..][..c];
            for (to, &x) in to.iter_mut().zip(&rows[at * width..][..c]) {
                *to = F::value(x);
            }
        }
    }
}

/// Puts one vector into its lane of a blocked table `[slot / 16][part][16]`.
#[inline(always)]
pub fn put_key<F: Format>(math: impl Arithmetic, blocks: &mut [F::Key], slot: usize, key: &[f32]) {
    let parts = parts::<F>(key.len());
    let (block, lane) = (&mut blocks[slot / LANES * LANES * parts..][..LANES * parts], slot % LANES);
    let mut at = 0;
    for_parts::<F>(math, key, |some| {
        for &part in some {
            block[at * LANES + lane] = part;
            at += 1;
        }
    });
}

/// A query in the parts that it is multiplied in.
#[inline(always)]
pub fn put_query<F: Format>(math: impl Arithmetic, to: &mut [F::Key], query: &[f32]) {
    let mut at = 0;
    for_parts::<F>(math, query, |some| {
        to[at..][..some.len()].copy_from_slice(some);
        at += some.len();
    });
}

/// Calls `put` with the parts of a vector, some at a time.
#[inline(always)]
fn for_parts<F: Format>(math: impl Arithmetic, vector: &[f32], mut put: impl FnMut(&[F::Key])) {
    let mut whole = vector.chunks_exact(LANES * F::CHANNELS);
    for channels in &mut whole {
        put(&F::keys(math, channels));
    }
    for channels in whole.remainder().chunks(F::CHANNELS) {
        put(&[F::key(channels)]);
    }
}
