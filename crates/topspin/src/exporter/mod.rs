//! The figures of a run at work, as Prometheus asks for them.
//!
//! Names are those of `metrics.jsonl` and `eval.json` with `topspin_` before them and an underscore for each other sign; units
//! stand at the end, as Prometheus has it (<https://prometheus.io/docs/practices/naming/>).

mod http;

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::prometheus_text;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use topspin_eval::Report;
use topspin_game::metrics::{StepMetrics, ThroughputLine};
use topspin_game::run::{Observer, resident_bytes};
use tracing::info;

/// What is known of the run.
#[derive(Debug, Default)]
struct Figures {
    stage: String,
    unit: &'static str,
    done: usize,
    total: usize,
    /// The last step, with its stage.
    step: Option<(String, StepMetrics, ThroughputLine)>,
    /// The last evaluation, with its folder.
    evaluation: Option<(String, Report)>,
}

/// Answers Prometheus from a thread of its own, until the program ends.
#[derive(Debug)]
pub struct Exporter {
    figures: Arc<Mutex<Figures>>,
}

impl Exporter {
    /// Begins to listen.
    ///
    /// # Errors
    /// If nobody can listen there.
    pub fn listen(address: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address).map_err(|e| refusal(address, &e))?;
        let address = listener.local_addr().map_err(|e| refusal(address, &e))?;
        let figures = Arc::new(Mutex::new(Figures::default()));
        let shared = Arc::clone(&figures);
        std::thread::spawn(move || http::serve(&listener, || text(&shared)));
        info!("figures for Prometheus at http://{address}{}", http::PATH);
        Ok(Self { figures })
    }

    fn change(&self, change: impl FnOnce(&mut Figures)) {
        // Each change is whole even where a panic came after it.
        change(&mut self.figures.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

fn refusal(address: SocketAddr, error: &std::io::Error) -> anyhow::Error {
    let why = match error.kind() {
        ErrorKind::AddrInUse => "another program listens there".into(),
        ErrorKind::AddrNotAvailable => "this machine has no such address".into(),
        ErrorKind::PermissionDenied => "that takes more rights than you have".into(),
        _ => error.to_string(),
    };
    anyhow::anyhow!(
        "cannot listen on `{address}` (`output.prometheus`): {why}; name another address or port, or leave it empty"
    )
}

/// Listens to a run for Prometheus, if it asks, and lets another listen as well.
pub struct Exported<L> {
    /// The other.
    pub listener: L,
    /// What answers.
    pub exporter: Option<Exporter>,
}

impl<L> Exported<L> {
    fn change(&self, change: impl FnOnce(&mut Figures)) {
        if let Some(exporter) = &self.exporter {
            exporter.change(change);
        }
    }
}

impl<L: Observer> Observer for Exported<L> {
    fn begin(&mut self, stage: &str, unit: &'static str, total: usize, done: usize) {
        self.change(|figures| {
            (figures.stage, figures.unit, figures.total, figures.done) = (stage.into(), unit, total, done);
        });
        self.listener.begin(stage, unit, total, done);
    }

    fn advance(&mut self, done: usize, note: &str) {
        self.change(|figures| figures.done = done);
        self.listener.advance(done, note);
    }

    fn end(&mut self) {
        self.listener.end();
    }

    fn say(&mut self, line: &str) {
        self.listener.say(line);
    }

    fn warn(&mut self, line: &str) {
        self.listener.warn(line);
    }

    fn step(&mut self, metrics: &StepMetrics, clock: &ThroughputLine) {
        self.change(|figures| figures.step = Some((figures.stage.clone(), metrics.clone(), *clock)));
        self.listener.step(metrics, clock);
    }

    fn evaluated(&mut self, folder: &str, report: &Report) {
        self.change(|figures| figures.evaluation = Some((folder.into(), report.clone())));
        self.listener.evaluated(folder, report);
    }
}

type Labels = Vec<(&'static str, String)>;

/// Metrics by name: each with its help, and its values with their labels.
#[derive(Default)]
struct Gauges(BTreeMap<String, (String, Vec<(Labels, f64)>)>);

impl Gauges {
    fn add(&mut self, name: &str, help: impl Into<String>, labels: Labels, value: f64) {
        let name = name.replace(|sign: char| !sign.is_ascii_alphanumeric(), "_");
        // Figures of a scorer may differ in nothing but signs that no metric can have; their labels tell them apart.
        self.0.entry(name).or_insert_with(|| (help.into(), Vec::new())).1.push((labels, value));
    }

    fn text(self) -> String {
        let mut registry = Registry::default();
        for (name, (help, values)) in self.0 {
            let family = Family::<Labels, Gauge<f64, AtomicU64>>::default();
            for (labels, value) in values {
                family.get_or_create(&labels).set(value);
            }
            registry.register(name, help, family);
        }
        let mut text = String::new();
        prometheus_text::encode(&mut text, &registry).expect("a string takes all that is written");
        text
    }
}

/// All figures in Prometheus' text format.
fn text(figures: &Mutex<Figures>) -> String {
    let mut gauges = Gauges::default();
    if let Some(bytes) = resident_bytes() {
        // The name that all programs have for it.
        gauges.add("process_resident_memory_bytes", "Resident memory size in bytes", Vec::new(), bytes as f64);
    }
    let figures = figures.lock().unwrap_or_else(PoisonError::into_inner);
    let Figures { stage, unit, done, total, step, evaluation } = &*figures;
    if !stage.is_empty() {
        let labels = || vec![("stage", stage.clone()), ("unit", (*unit).to_owned())];
        gauges.add("topspin_stage_done", "What is done of the stage at work, in its unit", labels(), *done as f64);
        gauges.add("topspin_stage_planned", "All that the stage at work has to do", labels(), *total as f64);
    }
    if let Some((stage, metrics, clock)) = step {
        let labels = || vec![("stage", stage.clone())];
        let step = f64::from(metrics.step);
        gauges.add("topspin_train_step", "Number of the last optimizer step in its stage", labels(), step);
        for (name, value) in metrics.figures() {
            let help = format!("{name} of the last optimizer step, as in metrics.jsonl");
            gauges.add(&format!("topspin_{name}"), help, labels(), value);
        }
        let [(speed, tokens_per_second), (mfu, share)] = clock.figures();
        let help = "Rows through the model in a second of the last optimizer step";
        gauges.add(&format!("topspin_{speed}"), help, labels(), tokens_per_second);
        let help = "Useful operations of the last optimizer step over those that products alone reach on the machine";
        gauges.add(&format!("topspin_{mfu}_ratio"), help, labels(), share);
    }
    if let Some((folder, report)) = evaluation {
        for (name, figure) in &report.figures {
            let labels = vec![("stage", folder.clone()), ("figure", name.clone())];
            gauges.add(
                &format!("topspin_eval_{name}"),
                format!("{name} of the last evaluation, as in eval.json"),
                labels,
                figure.value,
            );
        }
    }
    drop(figures);
    gauges.text()
}

#[cfg(test)]
mod tests {
    use topspin_eval::{Bootstrap, Figure};

    use super::*;

    #[test]
    fn figures_are_told_as_prometheus_has_it() {
        let mut figures =
            Figures { stage: "iter-1/train".into(), unit: "steps", done: 3, total: 9, ..Figures::default() };
        let metrics: StepMetrics =
            serde_json::from_str(r#"{"step":3,"train/loss":0.5,"rewards/real":0.1,"rewards/generated":-0.2,"rewards/accuracies":1,"rewards/margins":0.3,"logps/real":-12.5,"logps/generated":-31.0,"train/grad_norm":1.5,"train/learning_rate":5e-7}"#).unwrap();
        let clock = ThroughputLine { step: 3, tokens: 100, seconds: 0.5, tokens_per_second: 200.0, mfu: 0.25 };
        figures.step = Some(("iter-1/train".into(), metrics, clock));
        let mut report = Report::new(Bootstrap::default());
        report.add("nll.per_token", Figure::without_interval(1.25, 9));
        // Two names that become one, and a name that would break a line.
        report.add("greedy.a-b", Figure::without_interval(2.0, 9));
        report.add("greedy.a b\"\n\\", Figure::without_interval(f64::NAN, 9));
        report.add("greedy.a_b", Figure::without_interval(3.0, 9));
        figures.evaluation = Some(("iter-0".into(), report));
        let text = text(&Mutex::new(figures));
        let (memory, rest) = text.split_once("# HELP topspin").unwrap();
        assert!(memory.contains("\nprocess_resident_memory_bytes ") || cfg!(not(target_os = "linux")), "{memory}");
        // The order of values with different labels is not fixed.
        let mut lines: Vec<_> = rest.lines().collect();
        lines.sort_unstable();
        insta::assert_snapshot!(lines.join("\n"), @r##"
        # HELP topspin_eval_greedy_a_b___ greedy.a b"\n\\ of the last evaluation, as in eval.json.
        # HELP topspin_eval_nll_per_token nll.per_token of the last evaluation, as in eval.json.
        # HELP topspin_logps_generated logps/generated of the last optimizer step, as in metrics.jsonl.
        # HELP topspin_logps_real logps/real of the last optimizer step, as in metrics.jsonl.
        # HELP topspin_rewards_accuracies rewards/accuracies of the last optimizer step, as in metrics.jsonl.
        # HELP topspin_rewards_generated rewards/generated of the last optimizer step, as in metrics.jsonl.
        # HELP topspin_rewards_margins rewards/margins of the last optimizer step, as in metrics.jsonl.
        # HELP topspin_rewards_real rewards/real of the last optimizer step, as in metrics.jsonl.
        # HELP topspin_stage_done What is done of the stage at work, in its unit.
        # HELP topspin_stage_planned All that the stage at work has to do.
        # HELP topspin_throughput_mfu_ratio Useful operations of the last optimizer step over those that products alone reach on the machine.
        # HELP topspin_throughput_tokens_per_second Rows through the model in a second of the last optimizer step.
        # HELP topspin_train_grad_norm train/grad_norm of the last optimizer step, as in metrics.jsonl.
        # HELP topspin_train_learning_rate train/learning_rate of the last optimizer step, as in metrics.jsonl.
        # HELP topspin_train_loss train/loss of the last optimizer step, as in metrics.jsonl.
        # HELP topspin_train_step Number of the last optimizer step in its stage.
        # TYPE topspin_eval_greedy_a_b gauge
        # TYPE topspin_eval_greedy_a_b___ gauge
        # TYPE topspin_eval_nll_per_token gauge
        # TYPE topspin_logps_generated gauge
        # TYPE topspin_logps_real gauge
        # TYPE topspin_rewards_accuracies gauge
        # TYPE topspin_rewards_generated gauge
        # TYPE topspin_rewards_margins gauge
        # TYPE topspin_rewards_real gauge
        # TYPE topspin_stage_done gauge
        # TYPE topspin_stage_planned gauge
        # TYPE topspin_throughput_mfu_ratio gauge
        # TYPE topspin_throughput_tokens_per_second gauge
        # TYPE topspin_train_grad_norm gauge
        # TYPE topspin_train_learning_rate gauge
        # TYPE topspin_train_loss gauge
        # TYPE topspin_train_step gauge
        _eval_greedy_a_b greedy.a-b of the last evaluation, as in eval.json.
        topspin_eval_greedy_a_b___{stage="iter-0",figure="greedy.a b\"\n\\"} NaN
        topspin_eval_greedy_a_b{stage="iter-0",figure="greedy.a-b"} 2.0
        topspin_eval_greedy_a_b{stage="iter-0",figure="greedy.a_b"} 3.0
        topspin_eval_nll_per_token{stage="iter-0",figure="nll.per_token"} 1.25
        topspin_logps_generated{stage="iter-1/train"} -31.0
        topspin_logps_real{stage="iter-1/train"} -12.5
        topspin_rewards_accuracies{stage="iter-1/train"} 1.0
        topspin_rewards_generated{stage="iter-1/train"} -0.2
        topspin_rewards_margins{stage="iter-1/train"} 0.3
        topspin_rewards_real{stage="iter-1/train"} 0.1
        topspin_stage_done{stage="iter-1/train",unit="steps"} 3.0
        topspin_stage_planned{stage="iter-1/train",unit="steps"} 9.0
        topspin_throughput_mfu_ratio{stage="iter-1/train"} 0.25
        topspin_throughput_tokens_per_second{stage="iter-1/train"} 200.0
        topspin_train_grad_norm{stage="iter-1/train"} 1.5
        topspin_train_learning_rate{stage="iter-1/train"} 5e-7
        topspin_train_loss{stage="iter-1/train"} 0.5
        topspin_train_step{stage="iter-1/train"} 3.0
        "##);
    }
}
