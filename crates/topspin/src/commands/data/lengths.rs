//! How long texts are: a few quantiles, and a histogram.

use std::io::{self, Write};

use serde::Serialize;

/// Characters of the longest bar.
const BAR: usize = 40;

/// Lengths of many texts.
#[derive(Serialize)]
pub struct Lengths {
    least: usize,
    median: usize,
    /// The 95th percentile.
    p95: usize,
    most: usize,
    histogram: Vec<Bin>,
}

/// How many lengths lie between two, both included.
#[derive(Serialize)]
struct Bin {
    from: usize,
    to: usize,
    count: usize,
}

impl Lengths {
    /// Of one length or more. The bins double in width: 0, 1, 2-3, 4-7, ...
    pub fn new(mut lengths: Vec<usize>) -> Option<Self> {
        lengths.sort_unstable();
        let (&least, &most) = (lengths.first()?, lengths.last()?);
        let bin = |length: usize| (usize::BITS - length.leading_zeros()) as usize;
        let mut histogram: Vec<Bin> = (bin(least)..=bin(most))
            .map(|k| Bin { from: (1 << k) >> 1, to: if k == 0 { 0 } else { (1 << k) - 1 }, count: 0 })
            .collect();
        lengths.iter().for_each(|&length| histogram[bin(length) - bin(least)].count += 1);
        let at = |percent: usize| lengths[(lengths.len() * percent / 100).min(lengths.len() - 1)];
        Some(Self { least, median: at(50), p95: at(95), most, histogram })
    }

    /// Prints the quantiles and the bars.
    pub fn print(&self, title: &str, out: &mut dyn Write) -> io::Result<()> {
        let Self { least, median, p95, most, histogram } = self;
        writeln!(out, "\n{title:<22} least {least}, median {median}, 95% up to {p95}, most {most}")?;
        let highest = histogram.iter().map(|bin| bin.count).max().unwrap_or(1);
        let width = most.to_string().len() + 1;
        for Bin { from, to, count } in histogram {
            let bar = "#".repeat((count * BAR).div_ceil(highest));
            let line = format!("  {from:>width$} - {to:<width$} {count:>8}  {bar}");
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_falls_into_its_bin() {
        let lengths = Lengths::new(vec![9, 0, 1, 2, 3, 3, 15, 16]).unwrap();
        let bins: Vec<_> = lengths.histogram.iter().map(|bin| (bin.from, bin.to, bin.count)).collect();
        assert_eq!(bins, [(0, 0, 1), (1, 1, 1), (2, 3, 3), (4, 7, 0), (8, 15, 2), (16, 31, 1)]);
        assert_eq!((lengths.least, lengths.median, lengths.p95, lengths.most), (0, 3, 16, 16));
        assert!(Lengths::new(Vec::new()).is_none());
        let one = Lengths::new(vec![5]).unwrap();
        assert_eq!((one.histogram.len(), one.histogram[0].from, one.histogram[0].count), (1, 4, 1));
    }
}
