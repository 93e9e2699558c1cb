//! What was measured, as a table or as one JSON object.

use std::collections::BTreeMap;

use serde::Serialize;

use super::clock::Times;
use super::subject::Subject;
use crate::{engine, output};

/// What one repetition did.
pub struct Done {
    /// Rows that went through the model: a prompt counts once.
    pub rows: u64,
    /// Floating-point operations, counted from the architecture.
    pub flops: u64,
    /// Tokens that were generated.
    pub new_tokens: Option<u64>,
    /// Pairs that were trained on.
    pub pairs: Option<u64>,
}

/// What was measured.
#[derive(Serialize)]
pub struct Figures {
    work: &'static str,
    model: String,
    dtype: &'static str,
    threads: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    new_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    new_tokens_per_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pairs: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pairs_per_s: Option<f64>,
    tokens_per_s: f64,
    seconds: f64,
    /// `generate_s` and the like, where the work has several phases.
    #[serde(flatten)]
    phases: BTreeMap<String, f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_seconds: Option<f64>,
    flops: u64,
    gflops: f64,
    product_gflops: f64,
    mfu: f64,
    peak_product_gflops: f64,
    peak_share: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    peak_rss_bytes: Option<u64>,
    /// Seconds of a repetition by operation, in the mean.
    operations: BTreeMap<&'static str, f64>,
}

impl Figures {
    /// The figures of work whose phases that generate and train have the names `generate` and `train`.
    pub fn new(work: &'static str, subject: &Subject, done: Done, times: Times) -> Self {
        let seconds = times.seconds;
        let rate = |count: Option<u64>, phase: &str| Some(count? as f64 / times.phases.get(phase)?);
        let flops_per_s = done.flops as f64 / seconds;
        Self {
            work,
            model: subject.name.clone(),
            dtype: engine::name(subject.precision),
            threads: rayon::current_num_threads(),
            new_tokens: done.new_tokens,
            new_tokens_per_s: rate(done.new_tokens, "generate"),
            pairs: done.pairs,
            pairs_per_s: rate(done.pairs, "train"),
            tokens_per_s: done.rows as f64 / seconds,
            seconds,
            phases: match times.phases.len() {
                1 => BTreeMap::new(),
                _ => times.phases.into_iter().map(|(name, seconds)| (format!("{name}_s"), seconds)).collect(),
            },
            cpu_seconds: times.cpu_seconds,
            flops: done.flops,
            gflops: flops_per_s / 1e9,
            product_gflops: times.product_rate / 1e9,
            mfu: flops_per_s / times.product_rate,
            peak_product_gflops: times.peak_product_rate / 1e9,
            peak_share: flops_per_s / times.peak_product_rate,
            peak_rss_bytes: times.peak_rss_bytes,
            operations: times.operations,
        }
    }

    /// Prints one JSON object, or a table.
    pub fn print(&self, json: bool) -> anyhow::Result<()> {
        if json { output::print_json(self) } else { self.print_table() }
    }

    fn print_table(&self) -> anyhow::Result<()> {
        output::print(|out| {
            writeln!(out, "{} of {}, {}, {} threads", self.work, self.model, self.dtype, self.threads)?;
            let mut line = |name: &str, value: String, remark: &str| {
                writeln!(out, "{}", format!("{name:<22} {value:>10}   {remark}").trim_end())
            };
            let several = !self.phases.is_empty();
            if let (Some(count), Some(rate)) = (self.new_tokens, self.new_tokens_per_s) {
                line("new tokens/s", format!("{rate:.1}"), &format!("{count} tokens"))?;
            }
            if let (Some(count), Some(rate)) = (self.pairs, self.pairs_per_s) {
                let remark = format!("{count} pairs{}", if several { ", in training" } else { "" });
                line("pairs/s", format!("{rate:.3}"), &remark)?;
            }
            line("tokens/s", format!("{:.1}", self.tokens_per_s), "prompts counted once")?;
            line("seconds", format!("{:.3}", self.seconds), "")?;
            for (phase, seconds) in &self.phases {
                line(&format!("  {phase}"), format!("{seconds:.3}"), "")?;
            }
            if let Some(seconds) = self.cpu_seconds {
                line("processor seconds", format!("{seconds:.3}"), "")?;
            }
            line("GFLOP", format!("{:.1}", self.flops as f64 / 1e9), "counted from the architecture")?;
            line("GFLOP/s", format!("{:.1}", self.gflops), "")?;
            let share = |share: f64| format!("{:.1}%", 100.0 * share);
            let of = |rate: f64, what: &str| format!("of {rate:.1} GFLOP/s, {what}");
            line("MFU", share(self.mfu), &of(self.product_gflops, "the same products alone"))?;
            line("share of the peak", share(self.peak_share), &of(self.peak_product_gflops, "one large product"))?;
            if let Some(bytes) = self.peak_rss_bytes {
                line("peak memory, MiB", format!("{:.1}", bytes as f64 / f64::from(1 << 20)), "")?;
            }
            writeln!(out)?;
            let total: f64 = self.operations.values().sum();
            let elsewhere = ("all else", (self.seconds - total).max(0.0));
            let mut rows: Vec<_> = self.operations.iter().map(|(name, seconds)| (*name, *seconds)).collect();
            rows.push(elsewhere);
            rows.sort_by(|a, b| b.1.total_cmp(&a.1));
            for (name, seconds) in rows {
                writeln!(out, "{name:<22} {seconds:>10.3} s {:>5.1}%", 100.0 * seconds / self.seconds)?;
            }
            Ok(())
        })
    }
}
