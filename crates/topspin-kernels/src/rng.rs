//! Counter-based random numbers: a number is a function of where it is used, not of what was drawn before.
//!
//! The generator is Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011):
//! ten rounds of a keyed bijection on 128-bit counters. [`Stream`] is random access, keyed by (seed, iteration, prompt,
//! sample) and counted by position, so a sample does not depend on its neighbours, on the number of workers, or on
//! where a killed run stopped. [`Rng`] walks through counters in order, for initialisation and shuffles.

/// Multipliers and key increments of Philox4x32 (Salmon et al. 2011, table 2 and section 4.3).
const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// Philox4x32-10: the block of 128 random bits that `key` assigns to `counter`.
pub fn philox4x32(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let [low, high]: [u64; 2] = [0, 1].map(|i| u64::from(MULTIPLIERS[i]) * u64::from(counter[2 * i]));
        counter = [
            (high >> 32) as u32 ^ counter[1] ^ key[0],
            high as u32,
            (low >> 32) as u32 ^ counter[3] ^ key[1],
            low as u32,
        ];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

/// Key of all numbers drawn for one purpose in one iteration of one run.
///
/// It is 64 bits of the block that the seed assigns to (iteration, purpose): two such triples share a key with
/// probability 2^-64. Below a key nothing is hashed, so streams of one key never overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key([u32; 2]);

impl Key {
    /// The key of `purpose`, a name that no other use of random numbers in the run has, in `iteration`.
    pub fn new(seed: u64, purpose: &str, iteration: u64) -> Self {
        let [iteration_low, iteration_high] = halves(iteration);
        let [purpose_low, purpose_high] = halves(fnv1a(purpose.as_bytes()));
        let block = philox4x32([iteration_low, iteration_high, purpose_low, purpose_high], halves(seed));
        Self([block[0], block[1]])
    }

    /// The numbers of one sample of one prompt.
    pub fn stream(self, prompt: u64, sample: u32) -> Stream {
        Stream { key: self, prompt, sample }
    }
}

/// Random numbers by position, for one sample of one prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    key: Key,
    prompt: u64,
    sample: u32,
}

impl Stream {
    /// The 128 random bits of `position`.
    pub fn block(&self, position: u32) -> [u32; 4] {
        let [prompt_low, prompt_high] = halves(self.prompt);
        philox4x32([position, self.sample, prompt_low, prompt_high], self.key.0)
    }

    /// The uniform number of `position`, a multiple of 2^-53 in `[0, 1)`.
    pub fn uniform(&self, position: u32) -> f64 {
        let block = self.block(position);
        uniform_of(join(block[0], block[1]))
    }
}

/// Random numbers in sequence.
#[derive(Clone, Debug)]
pub struct Rng {
    key: Key,
    counter: u128,
    block: [u32; 4],
    /// Words of `block` that are spent.
    spent: usize,
}

impl Rng {
    /// The sequence of [`Key::new`]`(seed, purpose, iteration)`, from its beginning.
    pub fn new(seed: u64, purpose: &str, iteration: u64) -> Self {
        Self { key: Key::new(seed, purpose, iteration), counter: 0, block: [0; 4], spent: 4 }
    }

    /// 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.spent == 4 {
            let words = [0, 32, 64, 96].map(|shift| (self.counter >> shift) as u32);
            self.block = philox4x32(words, self.key.0);
            self.counter += 1;
            self.spent = 0;
        }
        self.spent += 1;
        self.block[self.spent - 1]
    }

    /// 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        let low = self.next_u32();
        join(low, self.next_u32())
    }

    /// A multiple of 2^-53 in `[0, 1)`.
    pub fn uniform(&mut self) -> f64 {
        uniform_of(self.next_u64())
    }

    /// A multiple of 2^-24 in `[0, 1)`.
    pub fn uniform_f32(&mut self) -> f32 {
        (self.next_u32() >> 8) as f32 * (1.0 / (1 << 24) as f32)
    }

    /// A draw of the normal distribution with mean 0 and variance 1 (Box & Muller 1958).
    pub fn normal(&mut self) -> f64 {
        // 1 - u lies in (0, 1], where the logarithm is finite.
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// An integer in `0..n`, each equally likely (Lemire 2019, arXiv 1805.10941: rejection, no modulo bias).
    ///
    /// # Panics
    /// If `n` is 0.
    pub fn below(&mut self, n: usize) -> usize {
        assert!(n > 0, "there is no integer below 0");
        let n = n as u64;
        let rejected_under = n.wrapping_neg() % n;
        loop {
            let product = u128::from(self.next_u64()) * u128::from(n);
            if product as u64 >= rejected_under {
                return (product >> 64) as usize;
            }
        }
    }

    /// Puts `items` in a random order, each order equally likely (Fisher & Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

/// Low and high half.
fn halves(x: u64) -> [u32; 2] {
    [x as u32, (x >> 32) as u32]
}

/// The inverse of [`halves`].
fn join(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

/// The top 53 bits as a multiple of 2^-53.
fn uniform_of(bits: u64) -> f64 {
    (bits >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

/// FNV-1a, 64 bits (Fowler, Noll, Vo; RFC 9923).
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::{Key, Rng, fnv1a, philox4x32};

    /// `kat_vectors` of Random123 1.14, the lines `philox4x32 10`.
    #[test]
    fn known_answers() {
        let answers = [
            ([0; 4], [0; 2], [0x6627_E8D5, 0xE169_C58D, 0xBC57_AC4C, 0x9B00_DBD8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408F_276D, 0x41C8_3B0E, 0xA20B_C7C6, 0x6D54_51FD]),
            (
                [0x243F_6A88, 0x85A3_08D3, 0x1319_8A2E, 0x0370_7344],
                [0xA409_3822, 0x299F_31D0],
                [0xD16C_FE09, 0x94FD_CCEB, 0x5001_E420, 0x2412_6EA1],
            ),
        ];
        for (counter, key, block) in answers {
            assert_eq!(philox4x32(counter, key), block);
        }
    }

    /// The published test vectors of FNV-1a.
    #[test]
    fn fnv_known_answers() {
        assert_eq!(fnv1a(b""), 0xCBF2_9CE4_8422_2325);
        assert_eq!(fnv1a(b"a"), 0xAF63_DC4C_8601_EC8C);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_F739_67E8);
    }

    #[test]
    fn every_part_of_the_address_matters() {
        let at = |seed, purpose, iteration, prompt, sample, position| {
            Key::new(seed, purpose, iteration).stream(prompt, sample).block(position)
        };
        let high = 1 << 32;
        let blocks = [
            at(0, "a", 0, 0, 0, 0),
            at(1, "a", 0, 0, 0, 0),
            at(high, "a", 0, 0, 0, 0),
            at(0, "b", 0, 0, 0, 0),
            at(0, "a", 1, 0, 0, 0),
            at(0, "a", high, 0, 0, 0),
            at(0, "a", 0, 1, 0, 0),
            at(0, "a", 0, high, 0, 0),
            at(0, "a", 0, 0, 1, 0),
            at(0, "a", 0, 0, 0, 1),
        ];
        assert_eq!(HashSet::from(blocks).len(), blocks.len());
        assert_eq!(blocks[0], at(0, "a", 0, 0, 0, 0));
    }

    /// Pearson's statistic of `counts` against equal chances.
    fn chi_square(counts: &[u32]) -> f64 {
        let expected = counts.iter().sum::<u32>() as f64 / counts.len() as f64;
        counts.iter().map(|&count| (f64::from(count) - expected).powi(2) / expected).sum()
    }

    proptest! {
        #[test]
        fn uniform_is_even(seed: u64, prompt: u64) {
            let key = Key::new(seed, "test", 3);
            let mut rng = Rng::new(seed, "test", 4);
            let mut counts = [[0; 10]; 3];
            for position in 0..10_000 {
                // Neighbouring samples, neighbouring positions, and the sequence.
                for (counts, u) in counts.iter_mut().zip([
                    key.stream(prompt, position).uniform(0),
                    key.stream(prompt, 0).uniform(position),
                    f64::from(rng.uniform_f32()),
                ]) {
                    prop_assert!((0.0..1.0).contains(&u));
                    counts[(u * 10.0) as usize] += 1;
                }
            }
            for counts in counts {
                // 9 degrees of freedom: beyond 50 with probability 1e-7.
                prop_assert!(chi_square(&counts) < 50.0, "{counts:?}");
            }
        }

        #[test]
        fn normal_has_its_moments(seed: u64) {
            let mut rng = Rng::new(seed, "test", 0);
            let n = 20_000;
            let draws: Vec<f64> = (0..n).map(|_| rng.normal()).collect();
            let moment = |power| draws.iter().map(|x| x.powi(power)).sum::<f64>() / f64::from(n);
            // Standard deviations of the moments over n: sqrt(1, 2, 15, 96) / sqrt(n); six of them.
            for (power, mean, deviation) in [(1, 0.0, 1.0f64), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0)] {
                let bound = 6.0 * (deviation / f64::from(n)).sqrt();
                prop_assert!((moment(power) - mean).abs() < bound, "moment {power} is {}", moment(power));
            }
        }

        #[test]
        fn below_is_even(seed: u64, n in 1usize..40) {
            let mut rng = Rng::new(seed, "test", 0);
            let mut counts = vec![0; n];
            for _ in 0..n * 500 {
                counts[rng.below(n)] += 1;
            }
            // Mean n - 1, variance 2 (n - 1).
            let freedom = n as f64 - 1.0;
            prop_assert!(chi_square(&counts) <= freedom + 8.0 * (2.0 * freedom).sqrt(), "{counts:?}");
        }

        #[test]
        fn below_reaches_large_bounds(seed: u64) {
            // Two thirds of 2^64: taking the remainder would hit the lower half twice as often as the upper.
            let n = (u64::MAX / 3 * 2) as usize;
            let mut rng = Rng::new(seed, "test", 0);
            let low = (0..2000).filter(|_| rng.below(n) < n / 2).count();
            prop_assert!((800..1200).contains(&low), "{low} of 2000");
        }

        #[test]
        fn shuffle_permutes(seed: u64, len in 0usize..50) {
            let mut items: Vec<usize> = (0..len).collect();
            Rng::new(seed, "test", 0).shuffle(&mut items);
            items.sort_unstable();
            prop_assert_eq!(items, (0..len).collect::<Vec<_>>());
        }
    }

    #[test]
    fn shuffle_makes_each_order_equally_often() {
        let mut rng = Rng::new(11, "test", 0);
        let mut counts = [0; 27];
        for _ in 0..6000 {
            let mut items = [0, 1, 2];
            rng.shuffle(&mut items);
            counts[items[0] * 9 + items[1] * 3 + items[2]] += 1;
        }
        let seen: Vec<u32> = counts.into_iter().filter(|&count| count > 0).collect();
        assert_eq!(seen.len(), 6);
        // 5 degrees of freedom: beyond 40 with probability 1e-7.
        assert!(chi_square(&seen) < 40.0, "{seen:?}");
    }
}
