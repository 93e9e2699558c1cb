//! What a run leaves for other tools.

use serde_json::json;

use super::resume::{StopIn, play_with_stops};
use super::settings::lines;
use super::*;
use crate::metrics::{StepMetrics, ThroughputLine};
use crate::tensorboard::steps_of;

const FILE: &str = "events.out.tfevents.topspin";

/// Whether each step of each stage, and each evaluated iteration, stands once in the event files.
fn assert_complete(fixture: &Fixture, out: &str) {
    let steps = |folder: &str| steps_of(Path::new(&fixture.path(&format!("{out}/{folder}/{FILE}"))));
    for folder in ["iter-0", "control-1", "iter-1", "iter-2"] {
        let metrics = lines(&fixture.path(&format!("{out}/{folder}/metrics.jsonl")));
        assert!(metrics.len() > 2);
        assert_eq!(steps(folder), (1..=metrics.len() as u64).collect::<Vec<_>>(), "{folder}");
    }
    assert_eq!(steps("."), [0, 1, 2]);
}

#[test]
fn a_step_stands_once_in_event_files_however_often_the_run_was_stopped() {
    let fixture = Fixture::new();
    fixture.play("whole", &[]).unwrap();
    assert_complete(&fixture, "whole");
    for (out, sets) in [("stopped", &[][..]), ("rounds", &["game.refresh=3", "train.optimizer=adamw"])] {
        let (stops, stages) = play_with_stops(&fixture.config(out, sets), 5, 30);
        assert!(stops > 5 && stages.iter().any(|stage| stage.ends_with("/train")), "{stops}: {stages:?}");
        assert_complete(&fixture, out);
    }
}

/// Damages event files, each time in another way, and stops after some steps.
struct Vandal<'a> {
    files: Vec<String>,
    stop: &'a AtomicBool,
    left: usize,
}

impl Observer for Vandal<'_> {
    fn begin(&mut self, _: &str, _: &'static str, _: usize, _: usize) {}

    fn advance(&mut self, _: usize, _: &str) {
        self.left = self.left.saturating_sub(1);
        self.stop.store(self.left == 0, Ordering::Relaxed);
    }

    fn end(&mut self) {}
    fn say(&mut self, _: &str) {}
    fn warn(&mut self, _: &str) {}
}

impl Vandal<'_> {
    fn damage(&self, rng: &mut Rng) {
        for file in self.files.iter().filter(|file| Path::new(file).exists()) {
            let mut bytes = fs::read(file).unwrap();
            match rng.below(4) {
                0 => bytes.clear(),
                1 => bytes.truncate(rng.below(bytes.len() + 1)),
                2 => bytes.extend([0; 64]),
                _ => {
                    let at = rng.below(bytes.len().max(1));
                    bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 0x10);
                }
            }
            fs::write(file, bytes).unwrap();
        }
    }
}

/// The run goes on from its other files, and writes what is missing again.
#[test]
fn damaged_event_files_are_mended() {
    let fixture = Fixture::new();
    let mut rng = Rng::new(3, "damage", 0);
    let mut stops = 0;
    loop {
        let stop = AtomicBool::new(false);
        // A stage's file is looked at while the stage is at work; that of evaluations always.
        let at_work = |folder: &&str| !Path::new(&fixture.path(&format!("out/{folder}/throughput.jsonl"))).exists();
        let folders = ["iter-0", "control-1", "iter-1", "iter-2"].into_iter().filter(at_work).chain(["."]);
        let files = folders.map(|folder| fixture.path(&format!("out/{folder}/{FILE}"))).collect();
        let mut vandal = Vandal { files, stop: &stop, left: 2 + rng.below(30) };
        vandal.damage(&mut rng);
        match play(&fixture.config("out", &[]), &mut vandal, &stop) {
            Ok(_) => break,
            Err(RunError::Stopped { .. }) => stops += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(stops > 5, "{stops}");
    assert_complete(&fixture, "out");
    fixture.play("whole", &[]).unwrap();
    assert_same(&fixture.path("whole"), &fixture.path("out"));
}

#[test]
fn files_that_are_wanted_later_have_what_was_before() {
    let fixture = Fixture::new();
    let stop = AtomicBool::new(false);
    let mut observer = StopIn { stage: "iter-1/train", steps: 3, inside: false, stop: &stop };
    let ended = play(&fixture.config("out", &["output.tensorboard=false"]), &mut observer, &stop);
    assert!(matches!(ended, Err(RunError::Stopped { .. })), "{ended:?}");
    let file = |folder: &str| fixture.path(&format!("out/{folder}/{FILE}"));
    assert!([".", "iter-0", "iter-1"].iter().all(|folder| !Path::new(&file(folder)).exists()));
    fixture.play("out", &[]).unwrap();
    let steps = |folder: &str| lines(&fixture.path(&format!("out/{folder}/metrics.jsonl"))).len() as u64;
    assert_eq!(steps_of(Path::new(&file("iter-1"))), (1..=steps("iter-1")).collect::<Vec<_>>());
    assert_eq!(steps_of(Path::new(&file("."))), [0, 1, 2]);
    // What is finished stays as it is.
    assert!(!Path::new(&file("iter-0")).exists());
}

/// A run that an earlier build began has other names in its lines.
#[test]
fn metrics_of_an_earlier_build_go_on() {
    let fixture = Fixture::new();
    fixture.play("whole", &[]).unwrap();
    let stop = AtomicBool::new(false);
    let mut observer = StopIn { stage: "iter-1/train", steps: 3, inside: false, stop: &stop };
    let ended = play(&fixture.config("out", &[]), &mut observer, &stop);
    assert!(matches!(ended, Err(RunError::Stopped { .. })), "{ended:?}");
    let partial = fixture.path("out/iter-1/metrics.partial.jsonl");
    let mut text = fs::read_to_string(&partial).unwrap();
    for (new, old) in [("train/loss", "loss"), ("train/grad_norm", "grad_norm"), ("train/learning_rate", "lr")] {
        assert_eq!(text.matches(&format!("\"{new}\"")).count(), 3, "{text}");
        text = text.replace(&format!("\"{new}\""), &format!("\"{old}\""));
    }
    fs::write(&partial, text).unwrap();
    fixture.play("out", &[]).unwrap();
    for name in ["model/model.safetensors", "model/trainer_state.json", "eval.json"] {
        let read = |out: &str| fs::read(fixture.path(&format!("{out}/iter-2/{name}"))).unwrap();
        assert!(read("whole") == read("out"), "{name}");
    }
    assert_complete(&fixture, "out");
    let figures = |out: &str| {
        let manifest = Manifest::read(Path::new(&fixture.path(out))).unwrap();
        manifest.figures("iter-1/train").cloned()
    };
    assert_eq!(figures("out"), figures("whole"));
}

/// Transformers' names and places for what `metrics.jsonl` holds.
#[test]
fn the_state_of_a_trainer_tells_all_steps() {
    let fixture = Fixture::new();
    fixture.play("out", &["game.refresh=epoch", "train.epochs=2"]).unwrap();
    for (folder, epochs, batch) in [("iter-0", 2, 8), ("control-1", 1, 8), ("iter-1", 2, 3)] {
        let metrics = lines(&fixture.path(&format!("out/{folder}/metrics.jsonl")));
        let state = fs::read(fixture.path(&format!("out/{folder}/model/trainer_state.json"))).unwrap();
        let state: Value = serde_json::from_slice(&state).unwrap();
        let (steps, log) = (metrics.len(), state["log_history"].as_array().unwrap());
        assert_eq!((&state["global_step"], &state["max_steps"]), (&json!(steps), &json!(steps)));
        assert_eq!((&state["epoch"], &state["num_train_epochs"]), (&json!(f64::from(epochs)), &json!(epochs)));
        assert_eq!((&state["train_batch_size"], log.len()), (&json!(batch), steps));
        for (at, (line, entry)) in metrics.iter().zip(log).enumerate() {
            let mut expected = line.as_object().unwrap().clone();
            for name in ["loss", "grad_norm", "learning_rate"] {
                let value = expected.remove(&format!("train/{name}")).unwrap();
                expected.insert(name.into(), value);
            }
            expected.insert("epoch".into(), json!((at + 1) as f64 * f64::from(epochs) / steps as f64));
            assert_eq!(entry, &Value::Object(expected), "{folder}");
        }
    }
}

/// Writes down what it is told.
#[derive(Default)]
struct Told {
    stage: String,
    steps: Vec<(String, StepMetrics, ThroughputLine)>,
    evaluated: Vec<(String, topspin_eval::Report)>,
}

impl Observer for Told {
    fn begin(&mut self, stage: &str, _: &'static str, _: usize, _: usize) {
        self.stage = stage.into();
    }

    fn advance(&mut self, _: usize, _: &str) {}
    fn end(&mut self) {}
    fn say(&mut self, _: &str) {}
    fn warn(&mut self, _: &str) {}

    fn step(&mut self, metrics: &StepMetrics, clock: &ThroughputLine) {
        self.steps.push((self.stage.clone(), metrics.clone(), *clock));
    }

    fn evaluated(&mut self, folder: &str, report: &topspin_eval::Report) {
        self.evaluated.push((folder.into(), report.clone()));
    }
}

#[test]
fn a_listener_is_told_of_steps_and_evaluations() {
    let fixture = Fixture::new();
    let mut told = Told::default();
    let config = fixture.config("out", &[]);
    let summary = play(&config, &mut told, &AtomicBool::new(false)).unwrap();
    let rows: Vec<_> = summary.rows.iter().map(|row| (row.folder.clone(), row.report.clone())).collect();
    assert_eq!(told.evaluated, rows);
    for folder in ["iter-0", "control-1", "iter-1", "iter-2"] {
        let of_stage = || told.steps.iter().filter(|(stage, ..)| *stage == format!("{folder}/train"));
        let metrics: Vec<StepMetrics> =
            read_lines(Path::new(&fixture.path(&format!("out/{folder}/metrics.jsonl")))).unwrap();
        let clock: Vec<ThroughputLine> =
            read_lines(Path::new(&fixture.path(&format!("out/{folder}/throughput.jsonl")))).unwrap();
        assert_eq!(of_stage().map(|(_, metrics, _)| metrics.clone()).collect::<Vec<_>>(), metrics);
        assert_eq!(of_stage().map(|(.., clock)| *clock).collect::<Vec<_>>(), clock);
    }
    // Of what is done an earlier call is told again.
    let mut again = Told::default();
    play(&config, &mut again, &AtomicBool::new(false)).unwrap();
    assert_eq!((again.evaluated, again.steps), (rows, Vec::new()));
}
