//! What was measured, as figures and as a table.

use serde::Serialize;

use super::PAIRS;
use crate::chart::{Chart, Figure, Line, Vertical};
use crate::output;

/// What was measured.
#[derive(Serialize)]
pub struct Scaling {
    pub work: &'static str,
    pub model: String,
    pub machine: String,
    pub dtype: &'static str,
    pub threads: usize,
    pub train_tokens: usize,
    pub generate_tokens: usize,
    pub train_by_batch_tokens: Vec<Point>,
    pub train_by_prompt_tokens: Vec<Point>,
    pub train_by_threads: Vec<Point>,
    pub generate_by_live_sequences: Vec<Point>,
}

/// A point of a figure.
#[derive(Clone, Copy, Serialize)]
pub struct Point {
    /// What varies.
    pub x: usize,
    /// A step.
    pub seconds: f64,
    /// Its arithmetic at the rate of one large product.
    pub arithmetic_seconds: f64,
    /// In generation: tokens over the time of the whole, prompts included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new_tokens_per_s: Option<f64>,
}

impl Scaling {
    /// The figures and their files' names.
    pub fn figures(&self) -> [(&'static str, Figure); 4] {
        let (train_tokens, generate_tokens) = (self.train_tokens, self.generate_tokens);
        // Of a path the last part: where the model was is of no interest elsewhere.
        let model = self.model.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        let figure = |title: &str, setting: &str, charts| Figure {
            title: title.into(),
            subtitles: [format!("{model}, {}; {setting}", self.dtype), self.machine.clone()],
            charts,
        };
        let train = |title: &str, setting: String, x_label: &str, points: &[Point]| {
            figure(title, &setting, vec![times(x_label, "seconds a step", 1.0, false, points)])
        };
        let generated = &self.generate_by_live_sequences;
        let rates =
            generated.iter().map(|point| [point.x as f64, point.new_tokens_per_s.unwrap_or_default()]).collect();
        let live = "sequences side by side";
        [
            (
                "train-batch-tokens",
                train(
                    "Training step by batch tokens",
                    format!("pairs of {train_tokens} + {train_tokens} tokens in one batch"),
                    "batch tokens",
                    &self.train_by_batch_tokens,
                ),
            ),
            (
                "train-prompt-tokens",
                train(
                    "Training step by prompt length",
                    format!("{PAIRS} pairs, responses of {train_tokens} tokens"),
                    "tokens of each prompt",
                    &self.train_by_prompt_tokens,
                ),
            ),
            (
                "train-threads",
                train(
                    "Training step by threads",
                    format!("{PAIRS} pairs of {train_tokens} + {train_tokens} tokens"),
                    "threads",
                    &self.train_by_threads,
                ),
            ),
            (
                "generate-live-sequences",
                figure(
                    "Generation by live sequences",
                    &format!("prompts of {generate_tokens} tokens, {generate_tokens} new ones"),
                    vec![
                        Chart {
                            x_label: live.into(),
                            y_label: "new tokens a second, prompts' time included".into(),
                            by_factors: true,
                            vertical: Vertical::FromZero,
                            lines: vec![Line { name: "measured".into(), points: rates }],
                        },
                        times(live, "milliseconds a step, a new token for each", 1e3, true, generated),
                    ],
                ),
            ),
        ]
    }

    pub fn print_table(&self) -> anyhow::Result<()> {
        let Self { model, dtype, threads, machine, .. } = self;
        output::print(|out| {
            writeln!(out, "scaling of {model}, {dtype}, {threads} threads; {machine}")?;
            for (title, points) in [
                ("training step by batch tokens", &self.train_by_batch_tokens),
                ("training step by prompt tokens", &self.train_by_prompt_tokens),
                ("training step by threads", &self.train_by_threads),
                ("generation step by live sequences", &self.generate_by_live_sequences),
            ] {
                writeln!(out, "\n{title:<36} {:>10} {:>10}", "seconds", "arithmetic")?;
                for Point { x, seconds, arithmetic_seconds, new_tokens_per_s } in points {
                    let rate = new_tokens_per_s.map(|rate| format!("  {rate:.1} new tokens/s")).unwrap_or_default();
                    writeln!(out, "{x:>36} {seconds:>10.4} {arithmetic_seconds:>10.4}{rate}")?;
                }
            }
            Ok(())
        })
    }
}

/// A chart of times, and of what their arithmetic alone would take; a second has `units` of the vertical axis.
fn times(x_label: &str, y_label: &str, units: f64, by_factors: bool, points: &[Point]) -> Chart {
    let line = |name: &str, seconds: fn(&Point) -> f64| Line {
        name: name.into(),
        points: points.iter().map(|point| [point.x as f64, units * seconds(point)]).collect(),
    };
    let lines = vec![line("measured", |p| p.seconds), line("arithmetic alone", |p| p.arithmetic_seconds)];
    Chart { x_label: x_label.into(), y_label: y_label.into(), by_factors, vertical: Vertical::FromZero, lines }
}
