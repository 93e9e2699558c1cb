//! A run that was stopped, however often, ends with the same bytes as one that was not.

use topspin_model::chat::ChatTemplate;

use super::*;

/// Sets the stop flag after a number of calls.
struct StopAfter<'a> {
    left: u64,
    stop: &'a AtomicBool,
    begun: Vec<(String, usize)>,
}

impl Observer for StopAfter<'_> {
    fn begin(&mut self, stage: &str, _: &'static str, _: usize, done: usize) {
        self.begun.push((stage.into(), done));
    }

    fn advance(&mut self, _: usize, _: &str) {
        match self.left {
            0 => self.stop.store(true, Ordering::Relaxed),
            _ => self.left -= 1,
        }
    }

    fn end(&mut self) {}
    fn say(&mut self, _: &str) {}
    fn warn(&mut self, _: &str) {}
}

/// Plays with stops at random places; returns how often it was stopped and which stages went on from their middle.
/// `longest` must exceed the steps that a response takes: one that is not completed is begun anew.
pub(super) fn play_with_stops(config: &Config, seed: u64, longest: usize) -> (usize, Vec<String>) {
    let mut rng = Rng::new(seed, "stops", 0);
    let (mut stops, mut resumed) = (0, Vec::new());
    loop {
        let stop = AtomicBool::new(false);
        let mut observer = StopAfter { left: rng.below(longest) as u64, stop: &stop, begun: Vec::new() };
        let ended = play(config, &mut observer, &stop);
        resumed.extend(observer.begun.into_iter().filter(|(_, done)| *done > 0).map(|(stage, _)| stage));
        match ended {
            Ok(_) => return (stops, resumed),
            Err(RunError::Stopped { .. }) => stops += 1,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn stops_leave_no_trace() {
    let fixture = Fixture::new();
    let sets = ["game.opponent=latest_two", "train.optimizer=adamw"];
    fixture.play("whole", &sets).unwrap();
    let mut resumed = Vec::new();
    for seed in 0..3 {
        let out = format!("stopped-{seed}");
        let (stops, stages) = play_with_stops(&fixture.config(&out, &sets), seed, 50);
        assert!(stops >= 5, "{stops} stops");
        resumed.extend(stages);
        assert_same(&fixture.path("whole"), &fixture.path(&out));
    }
    for work in ["iter-0/train", "iter-1/train", "iter-2/rollouts"] {
        assert!(resumed.iter().any(|stage| stage == work), "no run went on in {work}: {resumed:?}");
    }
}

#[test]
fn speed_settings_leave_no_trace() {
    let fixture = Fixture::new();
    fixture.play("a", &[]).unwrap();
    let sets =
        ["rollout.live_sequences=3", "rollout.rows_per_step=7", "train.recompute=true", "train.checkpoint_every=0"];
    fixture.play("b", &sets).unwrap();
    assert_same(&fixture.path("a"), &fixture.path("b"));
}

/// Between any two writes of a stage's end the process may die: what it had is then there, and the manifest does not
/// name it.
#[test]
fn a_death_before_the_manifest_leaves_no_trace() {
    let fixture = Fixture::new();
    fixture.play("whole", &[]).unwrap();
    let config = fixture.config("dead", &[]);
    loop {
        // One stage more is done, but not entered: the manifest is put back to what it was before.
        let manifest = fixture.path("dead/manifest.json");
        let before = fs::read(&manifest).ok();
        let stop = AtomicBool::new(false);
        let mut observer = StopAtNextStage { stop: &stop, stages: 0 };
        let ended = play(&config, &mut observer, &stop);
        if let Some(before) = before {
            fs::write(&manifest, before).unwrap();
        }
        let stop = AtomicBool::new(false);
        let again = play(&config, &mut StopAtNextStage { stop: &stop, stages: 0 }, &stop);
        match (ended, again) {
            (Ok(_), Ok(_)) => break,
            (Err(RunError::Stopped { .. }), Err(RunError::Stopped { .. })) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_same(&fixture.path("whole"), &fixture.path("dead"));
}

/// Lets one stage be done and stops in the next.
struct StopAtNextStage<'a> {
    stop: &'a AtomicBool,
    stages: usize,
}

impl Observer for StopAtNextStage<'_> {
    fn begin(&mut self, _: &str, _: &'static str, _: usize, _: usize) {
        self.stages += 1;
        if self.stages > 1 {
            self.stop.store(true, Ordering::Relaxed);
        }
    }

    fn advance(&mut self, _: usize, _: &str) {}
    fn end(&mut self) {}
    fn say(&mut self, _: &str) {}
    fn warn(&mut self, _: &str) {}
}

/// Stops in a stage after some steps of it.
pub(super) struct StopIn<'a> {
    pub stage: &'a str,
    pub steps: usize,
    pub inside: bool,
    pub stop: &'a AtomicBool,
}

impl Observer for StopIn<'_> {
    fn begin(&mut self, stage: &str, _: &'static str, _: usize, _: usize) {
        self.inside = stage == self.stage;
    }

    fn advance(&mut self, done: usize, _: &str) {
        if self.inside && done >= self.steps {
            self.stop.store(true, Ordering::Relaxed);
        }
    }

    fn end(&mut self) {}
    fn say(&mut self, _: &str) {}
    fn warn(&mut self, _: &str) {}
}

#[test]
fn a_state_without_its_metrics_is_named() {
    let fixture = Fixture::new();
    let config = fixture.config("out", &["train.checkpoint_every=1"]);
    let partial = fixture.path("out/iter-1/metrics.partial.jsonl");
    let stop = AtomicBool::new(false);
    let ended = play(&config, &mut StopIn { stage: "iter-1/train", steps: 2, inside: false, stop: &stop }, &stop);
    assert!(matches!(ended, Err(RunError::Stopped { .. })), "{ended:?}");
    fs::write(&partial, "").unwrap();
    let error = fixture.play("out", &["train.checkpoint_every=1"]).unwrap_err().to_string();
    let state = fixture.path("out/iter-1/state.bin");
    assert_eq!(
        error,
        format!(
            "`{partial}` lacks steps that the training state `{state}` has behind it; remove both, and the stage starts \
             over"
        )
    );
    fs::remove_file(state).unwrap();
    fixture.play("out", &[]).unwrap();
    fixture.play("whole", &[]).unwrap();
    assert_same(&fixture.path("whole"), &fixture.path("out"));
}

#[test]
fn rollouts_go_on_beside_real_responses_that_are_scored() {
    let fixture = Fixture::new();
    fixture.play("whole", &[]).unwrap();
    let stop = AtomicBool::new(false);
    let observer = &mut StopIn { stage: "iter-1/rollouts", steps: 4, inside: false, stop: &stop };
    let ended = play(&fixture.config("out", &[]), observer, &stop);
    assert!(matches!(ended, Err(RunError::Stopped { .. })), "{ended:?}");
    let partial = fixture.path("out/iter-1/rollouts.partial.jsonl");
    let there: Vec<Rollout> = read_lines(Path::new(&partial)).unwrap();
    let real = there.iter().filter(|rollout| rollout.sample.is_none()).count();
    assert!((1..8).contains(&real) && there.len() > real, "{real} of {}", there.len());
    fixture.play("out", &[]).unwrap();
    assert_same(&fixture.path("whole"), &fixture.path("out"));
}

/// Earlier builds scored real responses in the stage of pairs, which does so still where they have no scores.
#[test]
fn rollouts_without_real_responses_will_do() {
    let fixture = Fixture::new();
    let go = AtomicBool::new(false);
    let mut observer = StopAfter { left: u64::MAX, stop: &go, begun: Vec::new() };
    play(&fixture.config("whole", &[]), &mut observer, &go).unwrap();
    let scores_pairs = |observer: &StopAfter| observer.begun.iter().any(|(stage, _)| stage == "iter-1/pairs");
    assert!(!scores_pairs(&observer), "prompts were computed twice");

    // To the end of the rollouts, two samples and a real response to each of 8 prompts.
    let stop = AtomicBool::new(false);
    let mut observer = StopIn { stage: "iter-1/rollouts", steps: 24, inside: false, stop: &stop };
    let ended = play(&fixture.config("old", &[]), &mut observer, &stop);
    assert!(matches!(&ended, Err(RunError::Stopped { stage }) if stage == "iter-1/pairs"), "{ended:?}");
    let mut manifest = Manifest::read(Path::new(&fixture.path("old"))).unwrap();
    let rollouts = manifest.stages.iter_mut().find(|stage| stage.name == "iter-1/rollouts").unwrap();
    rollouts.files.remove("iter-1/real.jsonl").unwrap();
    manifest.write(Path::new(&fixture.path("old"))).unwrap();
    fs::remove_file(fixture.path("old/iter-1/real.jsonl")).unwrap();

    let mut observer = StopAfter { left: u64::MAX, stop: &go, begun: Vec::new() };
    play(&fixture.config("old", &[]), &mut observer, &go).unwrap();
    assert!(scores_pairs(&observer));
    for name in ["pairs.jsonl", "metrics.jsonl", "model/model.safetensors"] {
        let [whole, old] = ["whole", "old"].map(|out| fs::read(fixture.path(&format!("{out}/iter-1/{name}"))).unwrap());
        assert!(whole == old, "{name} differs");
    }
}

/// A chat template may print the date: on another day the prompts must be those that the run began with.
#[test]
fn the_date_of_the_beginning_stays() {
    let fixture = Fixture::new();
    let (model, parameters) = read_model(&fixture.path("model"));
    let template = "{{ messages[0].content }}{{ 'a' if strftime_now('%Y') == '1970' else 'b' }}";
    let tokenizer = model.dialect.tokenizer().clone();
    let template = ChatTemplate::new(Path::new("template"), template, &tokenizer).unwrap();
    let dialect = Dialect::new(tokenizer, Some(template));
    save_folder(Path::new(&fixture.path("model")), &model.config, &parameters, SaveDtype::F32, &dialect).unwrap();

    let stop = AtomicBool::new(false);
    let config = fixture.config("out", &[]);
    let ended = play(&config, &mut StopIn { stage: "iter-0/train", steps: 1, inside: false, stop: &stop }, &stop);
    assert!(matches!(ended, Err(RunError::Stopped { .. })), "{ended:?}");
    let mut manifest = Manifest::read(Path::new(&fixture.path("out"))).unwrap();
    assert!(manifest.date.unwrap() > 1_700_000_000, "{:?}", manifest.date);
    manifest.date = Some(1_000);
    manifest.write(Path::new(&fixture.path("out"))).unwrap();
    fixture.play("out", &[]).unwrap();

    let in_1970 = dialect.tokenizer().encode("a").unwrap()[0];
    let pairs = fs::read_to_string(fixture.path("out/iter-1/pairs.jsonl")).unwrap();
    for pair in pairs.lines() {
        let pair: Value = serde_json::from_str(pair).unwrap();
        assert_eq!(pair["prompt"].as_array().unwrap().last().unwrap().as_u64(), Some(in_1970.into()));
    }
}

#[test]
fn a_finished_stage_is_never_done_again() {
    let fixture = Fixture::new();
    fixture.play("out", &[]).unwrap();
    // Nothing of what the stages before needed is needed any more.
    for folder in ["iter-0", "iter-1", "control-1", "iter-2"] {
        fs::remove_dir_all(fixture.path(&format!("out/{folder}/model"))).unwrap();
    }
    let before = reproducible(&fixture.path("out"));
    let summary = fixture.play("out", &[]).unwrap();
    assert_eq!(summary.rows.len(), 5);
    assert_eq!(reproducible(&fixture.path("out")), before);
}

#[test]
fn a_run_goes_on_from_its_supervised_part() {
    let fixture = Fixture::new();
    fixture.play("whole", &[]).unwrap();
    let config = fixture.config("parts", &[]);
    let go = AtomicBool::new(false);
    let summary = run(&Cpu::new(), Precision::F32, &config, Until::Supervised, &mut Silent, &go).unwrap();
    let folders: Vec<_> = summary.rows.iter().map(|row| row.folder.as_str()).collect();
    assert_eq!(folders, ["base", "iter-0", "control-1"]);
    assert!(!Path::new(&fixture.path("parts/iter-1")).exists());
    fixture.play("parts", &[]).unwrap();
    assert_same(&fixture.path("whole"), &fixture.path("parts"));
}

#[test]
fn saved_models_are_the_trained_ones() {
    let fixture = Fixture::new();
    fixture.play("out", &[]).unwrap();
    let parameters = |folder: &str| read_model(&fixture.path(folder)).1;
    let all =
        ["model", "out/iter-0/model", "out/control-1/model", "out/iter-1/model", "out/iter-2/model"].map(parameters);
    for (at, a) in all.iter().enumerate() {
        assert!(a.iter().all(|x| x.is_finite()));
        all[at + 1..].iter().for_each(|b| assert!(a != b));
    }
}
