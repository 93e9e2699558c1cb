//! Figures with 95% intervals.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::EvalError;

/// A figure and the interval that holds it with 95% confidence.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// The figure.
    pub value: f64,
    /// The lower end; absent where no interval is sound, as of a minimum, or of one response alone.
    pub low: Option<f64>,
    /// The upper end, absent like the lower one.
    pub high: Option<f64>,
    /// The standard error: the standard deviation of the figure over other responses of the same kind. Absent where
    /// none is sound, as of one response alone.
    pub stderr: Option<f64>,
    /// The number of responses behind it.
    pub n: usize,
}

impl Figure {
    /// A figure that has no interval.
    pub fn without_interval(value: f64, n: usize) -> Self {
        Self { value, low: None, high: None, stderr: None, n }
    }

    /// The figure on a scale that grows with the present one, as a perplexity grows with its logarithm. The ends of the
    /// interval carry over; the standard error does not, and is left out.
    pub fn rescale(self, to: impl Fn(f64) -> f64) -> Self {
        Self { value: to(self.value), low: self.low.map(&to), high: self.high.map(&to), stderr: None, n: self.n }
    }
}

/// The figure with its interval, as it is printed: `0.305 [0.280, 0.332]`.
impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |value: f64| {
            let digits = if value.abs() < 10.0 { 3 } else { 1 };
            format!("{value:.digits$}")
        };
        write!(f, "{}", number(self.value))?;
        match (self.low, self.high) {
            (Some(low), Some(high)) => write!(f, " [{}, {}]", number(low), number(high)),
            _ => Ok(()),
        }
    }
}

/// The percentile bootstrap (Efron 1979): responses are drawn with replacement, as many as there are, `replicates`
/// times, and the interval runs from the 2.5th to the 97.5th percentile of the statistic over the draws. The standard
/// error is the standard deviation over them, unless the statistic has a formula of its own.
///
/// The random numbers are SplitMix64 (Steele, Lea, Flood 2014), started at `seed`; draw i of a replicate takes the
/// next number `r` and picks the response `r * n >> 64`. Values of the same length meet the same draws.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bootstrap {
    /// The start of the random numbers.
    pub seed: u64,
    /// The number of draws; at least 1.
    pub replicates: usize,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Self { seed: 0, replicates: 2000 }
    }
}

impl Bootstrap {
    /// Any statistic of responses `0..n`, given by their places; each place occurs once for the value itself.
    ///
    /// # Errors
    /// [`EvalError::Empty`] if `n` is 0.
    pub fn figure(&self, n: usize, statistic: impl Fn(&[usize]) -> f64) -> Result<Figure, EvalError> {
        if n == 0 {
            return Err(EvalError::Empty);
        }
        let places: Vec<usize> = (0..n).collect();
        let value = statistic(&places);
        if n == 1 {
            return Ok(Figure::without_interval(value, n));
        }
        let (mut random, mut drawn) = (SplitMix { state: self.seed }, Vec::new());
        let draw = |_| {
            random.places(n, &mut drawn);
            statistic(&drawn)
        };
        let mut draws: Vec<f64> = (0..self.replicates.max(1)).map(draw).collect();
        draws.sort_by(f64::total_cmp);
        let (low, high) = (Some(quantile(&draws, 0.025)), Some(quantile(&draws, 0.975)));
        Ok(Figure { value, low, high, stderr: standard_deviation(&draws), n })
    }

    /// The mean of one value a response. Its standard error is `s / sqrt(n)` with the standard deviation
    /// `s = sqrt(sum((x - mean)^2) / (n - 1))`.
    ///
    /// # Errors
    /// [`EvalError::Empty`] without values, [`EvalError::NotFinite`] for the first value that is no number.
    pub fn mean(&self, values: &[f64]) -> Result<Figure, EvalError> {
        finite(values)?;
        let figure = self.figure(values.len(), |places| mean_at(values, places))?;
        Ok(Figure { stderr: standard_error(values), ..figure })
    }

    /// The mean of `right - left` over pairs of values, response by response. The difference is significant at the 5%
    /// level where its interval leaves out 0; two overlapping intervals of the means themselves would say nothing.
    ///
    /// # Errors
    /// As for [`Bootstrap::mean`], and [`EvalError::Unpaired`] if the numbers of values differ.
    pub fn difference(&self, left: &[f64], right: &[f64]) -> Result<Figure, EvalError> {
        if left.len() != right.len() {
            return Err(EvalError::Unpaired { left: left.len(), right: right.len() });
        }
        let differences: Vec<f64> = left.iter().zip(right).map(|(l, r)| r - l).collect();
        self.mean(&differences)
    }
}

/// The share of `hits` among `n` responses, with Wilson's score interval (1927): unlike the bootstrap's, it has a
/// width where all or none hit. The standard error is that of the mean of zeros and ones, `sqrt(p (1 - p) / (n - 1))`.
///
/// # Errors
/// [`EvalError::Empty`] if `n` is 0.
pub fn share(hits: usize, n: usize) -> Result<Figure, EvalError> {
    if n == 0 {
        return Err(EvalError::Empty);
    }
    let p = hits as f64 / n as f64;
    let stderr = (n > 1).then(|| (p * (1.0 - p) / (n as f64 - 1.0)).sqrt());
    let (low, high) = wilson(p, n);
    Ok(Figure { value: p, low: Some(low), high: Some(high), stderr, n })
}

/// The 97.5th percentile of the normal distribution.
pub(crate) const Z: f64 = 1.959_963_984_540_054;

/// Wilson's score interval of a share `p` of `n`.
pub(crate) fn wilson(p: f64, n: usize) -> (f64, f64) {
    let count = n as f64;
    let scale = 1.0 + Z * Z / count;
    let centre = (p + Z * Z / (2.0 * count)) / scale;
    let half = Z / scale * (p * (1.0 - p) / count + Z * Z / (4.0 * count * count)).sqrt();
    // Rounding must not put the ends beyond the share itself.
    ((centre - half).clamp(0.0, p), (centre + half).clamp(p, 1.0))
}

pub(crate) fn finite(values: &[f64]) -> Result<(), EvalError> {
    values.iter().position(|v| !v.is_finite()).map_or(Ok(()), |index| Err(EvalError::NotFinite { index }))
}

fn mean_at(values: &[f64], places: &[usize]) -> f64 {
    places.iter().map(|&i| values[i]).sum::<f64>() / places.len() as f64
}

/// The standard deviation of a population of which these values were drawn; of a single one there is none.
pub(crate) fn standard_deviation(values: &[f64]) -> Option<f64> {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|v| (v - mean) * (v - mean)).sum();
    (values.len() > 1).then(|| (squares / (n - 1.0)).sqrt())
}

/// The standard error of the mean of values.
pub(crate) fn standard_error(values: &[f64]) -> Option<f64> {
    standard_deviation(values).map(|deviation| deviation / (values.len() as f64).sqrt())
}

/// The quantile of sorted values, linear between neighbours.
pub(crate) fn quantile(sorted: &[f64], q: f64) -> f64 {
    let at = q * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    below + (above - below) * at.fract()
}

/// A stream of random numbers.
struct SplitMix {
    state: u64,
}

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Draws `n` of the places `0..n` with replacement.
    fn places(&mut self, n: usize, into: &mut Vec<usize>) {
        into.clear();
        into.extend((0..n).map(|_| ((u128::from(self.next()) * n as u128) >> 64) as usize));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_mix_gives_the_published_numbers() {
        // Vigna's splitmix64.c from the state 1234567.
        let mut random = SplitMix { state: 1_234_567 };
        let first: Vec<u64> = (0..3).map(|_| random.next()).collect();
        assert_eq!(first, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn quantiles_lie_between_neighbours() {
        assert_eq!(quantile(&[1.0, 2.0, 4.0], 0.5), 2.0);
        assert_eq!(quantile(&[1.0, 2.0, 4.0], 0.75), 3.0);
        assert_eq!(quantile(&[5.0], 0.975), 5.0);
    }
}
