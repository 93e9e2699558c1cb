//! Guards in whole runs: what they say, record and stop.

use super::resume::play_with_stops;
use super::settings::lines;
use super::*;

/// Keeps what it is warned of.
#[derive(Default)]
pub(super) struct Warned(pub Vec<String>);

impl Observer for Warned {
    fn begin(&mut self, _: &str, _: &'static str, _: usize, _: usize) {}
    fn advance(&mut self, _: usize, _: &str) {}
    fn end(&mut self) {}
    fn say(&mut self, _: &str) {}

    fn warn(&mut self, line: &str) {
        self.0.push(line.into());
    }
}

fn error(result: Result<Summary, RunError>) -> String {
    let error = result.unwrap_err().to_string();
    assert!(!error.ends_with('.') && !error.contains('\n'), "{error}");
    error
}

#[test]
fn a_rate_that_is_absurd_ends_the_run_and_a_lower_one_starts_the_stage_over() {
    let fixture = Fixture::new();
    fixture.play("whole", &[]).unwrap();
    let text = error(fixture.play("out", &["train.lr=1e30"]));
    let (problem, mend) = text.split_once("; ").unwrap();
    assert_eq!(mend, "the same command with a lower `train.lr` starts the stage over");
    let is_told = ["the loss of step ", "the gradient of step "].iter().any(|words| problem.starts_with(words));
    assert!(is_told && problem.contains("of `iter-1/train` is not "), "{problem}");
    assert!(!Path::new(&fixture.path("out/iter-1/model")).exists());
    // Nothing is hidden by asking again.
    assert_eq!(error(fixture.play("out", &["train.lr=1e30"])), text);
    fixture.play("out", &[]).unwrap();
    assert_same(&fixture.path("whole"), &fixture.path("out"));
}

#[test]
fn a_rate_of_a_finished_iteration_stays() {
    let fixture = Fixture::new();
    fixture.play("whole", &["train.lr=[1e-3, 2e-3]"]).unwrap();
    let text = error(fixture.play("out", &["train.lr=[1e-3, 1e30]"]));
    let mend =
        "; the same command with a lower value for iteration 2 in `train.lr` = [0.001, 1e30] starts the stage over";
    assert!(text.contains("of `iter-2/train` ") && text.ends_with(mend), "{text}");
    let text = error(fixture.play("out", &["train.lr=1e-4"]));
    assert!(text.contains("was begun with `train.lr` = [0.001, 1") && text.contains("it is now 0.0001"), "{text}");
    fixture.play("out", &["train.lr=[1e-3, 2e-3]"]).unwrap();
    assert_same(&fixture.path("whole"), &fixture.path("out"));
}

#[test]
fn supervised_stages_have_their_own_rates() {
    let fixture = Fixture::new();
    fixture.play("whole", &["game.iterations=0"]).unwrap();
    let sets = ["game.iterations=0", "sft.lr=1e30"];
    let text = error(fixture.play("out", &sets));
    assert!(text.ends_with("; the same command with a lower `sft.lr` starts the stage over"), "{text}");
    let sets = ["game.iterations=0", "sft.controls=[{epochs=1, lr=1e30}]"];
    let text = error(fixture.play("out", &sets));
    assert!(text.ends_with("; the same command with a lower `lr` in `sft.controls` starts the stage over"), "{text}");
    // Nothing but the rate.
    let text = error(fixture.play("out", &["game.iterations=0", "sft.controls=[{epochs=2, lr=1e-2}]"]));
    assert!(text.contains("was begun with `sft.controls` = "), "{text}");
    fixture.play("out", &["game.iterations=0"]).unwrap();
    assert_same(&fixture.path("whole"), &fixture.path("out"));
}

#[test]
fn a_gradient_beyond_the_usual_ends_the_run_with_its_state() {
    let fixture = Fixture::new();
    // So steep that the norms are above 1, which is always usual.
    let sets = ["train.epochs=4", "train.checkpoint_every=0", "game.iterations=1", "game.beta=20"];
    fixture.play("whole", &sets).unwrap();
    let strict: Vec<_> = sets.into_iter().chain(["guard.gradient=1.02"]).collect();
    let text = error(fixture.play("out", &strict));
    let done = lines(&fixture.path("out/iter-1/metrics.partial.jsonl")).len();
    assert!(done >= 10, "{done}");
    let expected = [
        format!("the gradient of step {} of `iter-1/train` has the norm ", done + 1),
        " times the usual ".into(),
        "; the same command with a lower `train.lr` starts the stage over; ".into(),
        format!("with a larger `guard.gradient`, or 0, it goes on from step {done}"),
    ];
    assert!(expected.iter().all(|part| text.contains(part)), "{text}");
    assert!(Path::new(&fixture.path("out/iter-1/state.bin")).exists());
    // It goes on from there: what it has done so far is not done again.
    let go = AtomicBool::new(false);
    let mut observer = StageStart::default();
    let going_on: Vec<_> = sets.into_iter().chain(["guard.gradient=0"]).collect();
    play(&fixture.config("out", &going_on), &mut observer, &go).unwrap();
    assert!(observer.0.contains(&("iter-1/train".into(), done)), "{:?}", observer.0);
    assert_same(&fixture.path("whole"), &fixture.path("out"));

    // Or, with a lower rate, from the beginning, though the state is there.
    assert_eq!(error(fixture.play("other", &strict)), text);
    let mut observer = StageStart::default();
    let slower: Vec<_> = sets.into_iter().chain(["train.lr=1e-4"]).collect();
    play(&fixture.config("other", &slower), &mut observer, &go).unwrap();
    assert!(observer.0.contains(&("iter-1/train".into(), 0)), "{:?}", observer.0);
    fixture.play("slower", &slower).unwrap();
    assert_same(&fixture.path("slower"), &fixture.path("other"));
}

/// Where stages began.
#[derive(Default)]
struct StageStart(Vec<(String, usize)>);

impl Observer for StageStart {
    fn begin(&mut self, stage: &str, _: &'static str, _: usize, done: usize) {
        self.0.push((stage.into(), done));
    }

    fn advance(&mut self, _: usize, _: &str) {}
    fn end(&mut self) {}
    fn say(&mut self, _: &str) {}
    fn warn(&mut self, _: &str) {}
}

/// Thresholds at which most guards fire in any run.
const NERVOUS: [&str; 6] = [
    "guard.real_fall=1e-9",
    "guard.accuracy=1e-9",
    "guard.longer=0.500001",
    "guard.cut=1e-9",
    "guard.length=1.000001",
    "guard.distinct=1e-9",
];
const OFF: [&str; 6] =
    ["guard.real_fall=0", "guard.accuracy=0", "guard.longer=0", "guard.cut=0", "guard.length=0", "guard.distinct=0"];

#[test]
fn what_fires_is_said_recorded_and_shown() {
    let fixture = Fixture::new();
    let go = AtomicBool::new(false);
    let mut warned = Warned::default();
    let summary = play(&fixture.config("out", &NERVOUS), &mut warned, &go).unwrap();
    let manifest = Manifest::read(Path::new(&fixture.path("out"))).unwrap();
    let recorded: Vec<_> = manifest.guards().map(|(stage, fired)| fired.told(stage)).collect();
    assert_eq!(recorded, warned.0);
    for (stage, guard) in [
        ("iter-1/pairs", "longer"),
        ("iter-1/pairs", "cut"),
        ("iter-1/pairs", "length"),
        ("iter-1/train", "accuracy"),
        ("iter-2/pairs", "length"),
    ] {
        assert!(
            manifest.guards().any(|(at, fired)| (at, fired.guard.as_str()) == (stage, guard)),
            "{guard}: {recorded:?}"
        );
    }
    // Guards of training name their step, and fire once.
    let in_training = |stage: &str| {
        let fired = manifest.guards().filter(|(at, fired)| *at == stage && fired.step.is_some());
        fired.map(|(_, fired)| fired.guard.clone()).collect::<Vec<_>>()
    };
    let mut once = in_training("iter-1/train");
    once.dedup();
    assert!(!once.is_empty());
    assert_eq!(once, in_training("iter-1/train"));
    let shown = summary.to_string();
    let (_, below) = shown.split_once("\nguards that fired:\n").unwrap();
    assert_eq!(below.lines().collect::<Vec<_>>(), recorded);
    // A second call does nothing, and shows them all the same.
    let mut again = Warned::default();
    assert_eq!(play(&fixture.config("out", &[]), &mut again, &go).unwrap(), summary);
    assert_eq!(again.0, Vec::<String>::new());

    let mut quiet = Warned::default();
    let summary = play(&fixture.config("off", &OFF), &mut quiet, &go).unwrap();
    assert!(
        summary.guards.iter().all(|(_, fired)| ["loss", "evaluation"].contains(&fired.guard.as_str())),
        "{summary}"
    );
}

#[test]
fn stops_leave_no_trace_in_what_fires() {
    let fixture = Fixture::new();
    fixture.play("whole", &NERVOUS).unwrap();
    for seed in 0..2 {
        let out = format!("stopped-{seed}");
        let (stops, _) = play_with_stops(&fixture.config(&out, &NERVOUS), seed, 50);
        assert!(stops >= 5, "{stops} stops");
        assert_same(&fixture.path("whole"), &fixture.path(&out));
    }
}
