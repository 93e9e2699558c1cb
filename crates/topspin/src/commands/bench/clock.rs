//! The clock: times of repetitions and of their phases, and the rate that their matrix products have alone.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use topspin_game::run::product_rate;
use topspin_kernels::cpu::Cpu;
use topspin_kernels::gemm::Precision;
use topspin_kernels::rate::{Product, best_seconds};
use topspin_kernels::timed::{Products, Seconds, Timed};

use super::subject::Subject;
use crate::machine;

/// For how long products are timed at a time, in seconds: each of a few, and all of many together.
const SPAN_OF_ONE: f64 = 0.025;
const SPAN_OF_ALL: f64 = 1.0;

/// Where products are told apart by their dimensions: in quarters of an octave. Lengths vary in generation from step to
/// step, and to time each of some hundred shapes would take longer than the work.
type Class = [u32; 3];

/// One repetition of the work.
#[derive(Default)]
struct Lap {
    /// Seconds by phase.
    phases: BTreeMap<&'static str, f64>,
    /// Processor time, where the kernel tells.
    processor: Option<f64>,
    /// Seconds by operation.
    operations: Seconds,
}

impl Lap {
    fn seconds(&self) -> f64 {
        self.phases.values().sum()
    }
}

/// Times work. What happens outside of [`Clock::phase`] does not count.
pub struct Clock {
    device: Timed<Cpu>,
    precision: Precision,
    now: Lap,
    laps: Vec<Lap>,
    /// Products of all phases so far, warm-up included.
    products: Products,
    /// Operations in a second by class of product: the best that was seen.
    rates: BTreeMap<Class, f64>,
    /// Operations in a second of one large product: the best that was seen.
    peak_rate: f64,
    peak_bytes: Option<u64>,
}

impl Clock {
    /// A clock for work on the decoders of a subject.
    pub fn new(subject: &Subject) -> Self {
        Self {
            device: subject.device.clone(),
            precision: subject.precision,
            now: Lap::default(),
            laps: Vec::new(),
            products: Products::new(),
            rates: BTreeMap::new(),
            peak_rate: 0.0,
            peak_bytes: None,
        }
    }

    /// Times a part of a repetition.
    pub fn phase<R>(&mut self, name: &'static str, work: impl FnOnce() -> R) -> R {
        self.device.take();
        let (clock, processor) = (Instant::now(), machine::cpu_seconds());
        let result = work();
        *self.now.phases.entry(name).or_default() += clock.elapsed().as_secs_f64();
        let spent = machine::cpu_seconds().zip(processor).map(|(now, then)| now - then);
        self.now.processor = spent.map(|spent| spent + self.now.processor.unwrap_or_default());
        let counts = self.device.take();
        counts.seconds.into_iter().for_each(|(name, seconds)| *self.now.operations.entry(name).or_default() += seconds);
        counts.products.into_iter().for_each(|(product, times)| *self.products.entry(product).or_default() += times);
        // Loading comes before the first phase, so it is counted in.
        self.peak_bytes = self.peak_bytes.max(machine::peak_rss_bytes());
        result
    }

    /// Ends a repetition, which counts.
    pub fn lap(&mut self) {
        self.laps.push(std::mem::take(&mut self.now));
    }

    /// Ends a repetition that was a warm-up: its times do not count.
    pub fn warm(&mut self) {
        self.now = Lap::default();
    }

    /// Times the matrix products of the work so far, each alone, and one large product.
    ///
    /// Before and after the work that counts, and the better is taken: anything else that runs on the machine can only
    /// slow them down. The memory that it takes is not counted, where the kernel can forget it.
    pub fn measure_products(&mut self) {
        let flops = |product: &Product| product.flops() * self.products[product];
        let mut classes: BTreeMap<Class, Product> = BTreeMap::new();
        for product in self.products.keys() {
            let main = classes.entry(class(product)).or_insert(*product);
            if flops(product) > flops(main) {
                *main = *product;
            }
        }
        let span = Duration::from_secs_f64(SPAN_OF_ONE.min(SPAN_OF_ALL / classes.len().max(1) as f64));
        for (product, seconds) in best_seconds(self.device.inner(), self.precision, classes.into_values(), span) {
            let best = self.rates.entry(class(&product)).or_default();
            *best = best.max(product.flops() as f64 / seconds);
        }
        self.peak_rate = self.peak_rate.max(product_rate(self.device.inner(), self.precision));
        machine::forget_peak();
    }

    /// Ends the measurement.
    pub fn stop(mut self) -> Times {
        self.measure_products();
        let repetitions = self.laps.len() as f64;
        let mut operations = Seconds::new();
        for (name, seconds) in self.laps.iter().flat_map(|lap| &lap.operations) {
            *operations.entry(name).or_default() += seconds / repetitions;
        }
        let names: Vec<&str> = self.laps[0].phases.keys().copied().collect();
        let of = |name: &str| median(self.laps.iter().map(|lap| lap.phases[name]).collect());
        let (mut flops, mut seconds) = (0.0, 0.0);
        for (product, &times) in &self.products {
            let work = (product.flops() * times) as f64;
            flops += work;
            seconds += work / self.rates[&class(product)];
        }
        Times {
            seconds: median(self.laps.iter().map(Lap::seconds).collect()).expect("there is one repetition at least"),
            phases: names.into_iter().map(|name| (name, of(name).expect("every repetition has it"))).collect(),
            cpu_seconds: median(self.laps.iter().filter_map(|lap| lap.processor).collect()),
            operations,
            product_rate: flops / seconds,
            peak_product_rate: self.peak_rate,
            peak_rss_bytes: self.peak_bytes,
        }
    }
}

/// What a clock says.
pub struct Times {
    /// Median repetition.
    pub seconds: f64,
    /// Median of each phase.
    pub phases: BTreeMap<&'static str, f64>,
    /// Processor time of the median repetition, where the kernel tells.
    pub cpu_seconds: Option<f64>,
    /// Seconds of a repetition by operation, in the mean.
    pub operations: Seconds,
    /// Operations in a second of the work's matrix products, each at its rate alone.
    pub product_rate: f64,
    /// Operations in a second of one large product.
    pub peak_product_rate: f64,
    /// Largest resident set during the work and the loading before it.
    pub peak_rss_bytes: Option<u64>,
}

fn class(product: &Product) -> Class {
    [product.rows, product.columns, product.depth].map(|n| (4.0 * (n as f64).log2()) as u32)
}

/// The middle of some values, if there are any.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let (low, high) = (values.get(values.len().saturating_sub(1) / 2)?, values.get(values.len() / 2)?);
    Some((low + high) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0]), Some(3.0));
        assert_eq!(median(vec![9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![9.0, 1.0, 2.0, 4.0]), Some(3.0));
    }

    #[test]
    fn shapes_far_apart_are_of_different_classes() {
        let of = |rows, columns, depth| class(&Product { rows, columns, depth });
        assert_eq!(of(500, 576, 576), of(512 - 8, 576, 576));
        assert_ne!(of(64, 576, 576), of(512, 576, 576));
        assert_ne!(of(64, 576, 1536), of(64, 1536, 576));
        assert_ne!(of(1, 960, 576), of(2, 960, 576));
    }
}
