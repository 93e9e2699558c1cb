//! The view of a run whose files are written here, on terminals of several sizes.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use serde_json::{Value, json};
use tempfile::TempDir;
use topspin_eval::{Bootstrap, Figure, Report};
use topspin_game::metrics::{GameMetrics, StepMetrics};
use topspin_game::moment::now;
use topspin_game::run::{Fired, Input, Manifest, Progress, State};

use super::*;
use crate::commands::watch::curves::Quantity;

const STAGES: [&str; 14] = [
    "base/greedy",
    "base/eval",
    "iter-0/train",
    "iter-0/greedy",
    "iter-0/eval",
    "iter-1/rollouts",
    "iter-1/pairs",
    "iter-1/train",
    "iter-1/greedy",
    "iter-1/eval",
    "iter-2/rollouts",
    "iter-2/pairs",
    "iter-2/train",
    "iter-2/eval",
];
/// The stage at work.
const AT: usize = 12;

fn metrics(steps: u32, plays: bool) -> String {
    let line = |step: u32| {
        let (t, wave) = (f64::from(step), f64::from(step % 7) / 100.0);
        let game = GameMetrics {
            reward_real: 0.01 * t,
            reward_generated: -0.02 * t,
            accuracy: (0.5 + t / 60.0).min(1.0),
            margin: 0.03 * t,
            logp_real: -12.5 + 0.05 * t,
            logp_generated: -31.0 - 0.3 * t,
        };
        let loss = (-0.03 * t).exp() * std::f64::consts::LN_2 + wave;
        let game = plays.then_some(game);
        let metrics = StepMetrics { step, loss, game, fit: None, grad_norm: 1.5 + 10.0 * wave, lr: 1e-3 };
        serde_json::to_string(&metrics).unwrap() + "\n"
    };
    (1..=steps).map(line).collect()
}

fn lines(lines: &[Value]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// The folder of a run in its second iteration.
fn folder() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let write = |name: &str, text: String| {
        fs::create_dir_all(path(name).parent().unwrap()).unwrap();
        fs::write(path(name), text).unwrap();
    };
    let train = path("train.jsonl");
    let mut manifest = Manifest::new(0, Default::default(), None, STAGES.map(String::from));
    manifest.inputs.insert("data.train".into(), Input::new(train.clone(), String::new()));
    manifest.stages.iter_mut().take(AT).for_each(|stage| stage.state = State::Done);
    manifest.stages[6].guards = vec![Fired {
        guard: "longer".into(),
        step: None,
        sentence: "in 96% of pairs the real response is the longer one: length alone tells them apart, and the model may learn \
                   nothing else"
            .into(),
    }];
    manifest.write(dir.path()).unwrap();
    let data = format!("[model]\npath = 'gone'\n[data]\ntrain = '{}'\n", train.display());
    write("config.toml", data + "[eval]\nbest = 'greedy.exact_match'\ngoal = 'highest'\n");
    for (folder, right, tokens) in [("base", 0.25, 30.0), ("iter-0", 0.375, 21.5), ("iter-1", 0.625, 18.25)] {
        let mut report = Report::new(Bootstrap::default());
        let figure = |value: f64, half: f64| Figure {
            low: Some(value - half),
            high: Some(value + half),
            ..Figure::without_interval(value, 80)
        };
        report.add("greedy.exact_match", figure(right, 0.1));
        report.add("greedy.tokens.mean", figure(tokens, 2.0));
        report.add("nll.per_token", figure(2.0 - right, 0.05));
        write(&format!("{folder}/eval.json"), serde_json::to_string(&report).unwrap());
    }
    write("iter-0/metrics.jsonl", metrics(20, false));
    write("iter-1/metrics.jsonl", metrics(60, true));
    write("iter-2/metrics.partial.jsonl", metrics(40, true) + "{\"step\": 41, \"lo");
    write(
        "train.jsonl",
        lines(&[
            json!({"id": "plain", "prompt": "What is VI?", "response": "six"}),
            json!({"id": "nasty", "prompt": "Say \u{1b}[2J\u{202e}日本語で、ゆっくりと話してください。\nPlease.",
               "response": "はい、わかりました。\u{7}"}),
        ]),
    );
    let rollout = |id: &str, sample: Option<u32>, ids: &[u32]| {
        let logprobs = vec![-0.5; ids.len()];
        let response = json!({"token_ids": ids, "logprobs": logprobs, "finish": "length"});
        let mut line = json!({"line": 1, "prompt_id": id, "response": response});
        if let Some(sample) = sample {
            line["sample"] = sample.into();
        }
        line
    };
    let rollouts =
        [rollout("plain", Some(0), &[5, 6]), rollout("nasty", None, &[1]), rollout("nasty", Some(1), &[7, 8, 9])];
    write("iter-2/rollouts.jsonl", lines(&rollouts));
    let now = now();
    let progress = Progress {
        stage: STAGES[AT].into(),
        unit: "steps".into(),
        done: 40,
        total: 100,
        done_before: 10,
        began: now - 15.0,
        run_began: now - 83.0,
        written: now,
        note: "loss 0.2288, accuracy 1.00, margin 1.200".into(),
        resident_bytes: Some(1_234_567_890),
        pid: 1,
        at_work: true,
    };
    write("progress.json", serde_json::to_string(&progress).unwrap());
    dir
}

/// A run, when all texts are there that will ever be.
fn watched(dir: &Path) -> Watched {
    let mut watched = Watched::open(dir).unwrap();
    let start = Instant::now();
    while watched.library.problem.is_none() || watched.library.known("nasty", false).is_none() {
        assert!(start.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(5));
        watched.library.look();
    }
    // It is on the screen, and temporary folders have names that vary.
    watched.dir = "runs/test".into();
    watched
}

fn screen(watched: &Watched, app: &App, columns: u16, rows: u16) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(columns, rows)).unwrap();
    terminal.draw(|frame| draw(frame, watched, app, Theme { colour: true })).unwrap();
    terminal
}

/// What is on a screen; of a wide character the second column is its own.
fn shown(watched: &Watched, app: &App, columns: u16, rows: u16) -> String {
    let terminal = screen(watched, app, columns, rows);
    let buffer = terminal.backend().buffer();
    let line = |y: u16| {
        let (mut line, mut x) = (String::new(), 0);
        while x < columns {
            let symbol = buffer[(x, y)].symbol();
            line += symbol;
            x += text::width(symbol).max(1) as u16;
        }
        line.trim_end().to_owned() + "\n"
    };
    (0..rows).map(line).collect()
}

fn app(pane: Pane) -> App {
    App { pane, ..App::default() }
}

#[test]
fn a_run_at_work() {
    let dir = folder();
    let watched = watched(dir.path());
    for pane in Pane::ALL {
        insta::assert_snapshot!(format!("{}-80x24", pane.name().to_lowercase()), shown(&watched, &app(pane), 80, 24));
    }
    insta::assert_snapshot!("all-120x40", shown(&watched, &app(Pane::Samples), 120, 40));
    let chosen = App { quantity: Quantity::LogProbabilities, ..App::default() };
    insta::assert_snapshot!("log-probabilities-80x24", shown(&watched, &chosen, 80, 24));
    let helps = App { helps: true, ..App::default() };
    insta::assert_snapshot!("help-80x24", shown(&watched, &helps, 80, 24));
    insta::assert_snapshot!("samples-24x9", shown(&watched, &app(Pane::Samples), 24, 9));
    insta::assert_snapshot!("results-30x5", shown(&watched, &app(Pane::Results), 30, 5));
}

#[test]
fn any_size_will_do() {
    let dir = folder();
    let watched = watched(dir.path());
    for (columns, rows) in (1..45).flat_map(|columns| (1..20).map(move |rows| (columns, rows))).chain([(300, 100)]) {
        for pane in Pane::ALL {
            let app = App { helps: columns % 3 == 0, scrolled: [usize::MAX; 4], ..app(pane) };
            screen(&watched, &app, columns, rows);
        }
    }
}

#[test]
fn without_colour_there_is_none() {
    let dir = folder();
    let watched = watched(dir.path());
    for pane in Pane::ALL {
        let mut terminal = Terminal::new(TestBackend::new(120, 40)).unwrap();
        let app = App { helps: true, ..app(pane) };
        terminal.draw(|frame| draw(frame, &watched, &app, Theme { colour: false })).unwrap();
        let cells = &terminal.backend().buffer().content;
        assert!(cells.iter().all(|cell| (cell.fg, cell.bg) == (Color::Reset, Color::Reset)));
    }
    let coloured = screen(&watched, &App::default(), 80, 24);
    assert!(coloured.backend().buffer().content.iter().any(|cell| cell.fg != Color::Reset));
}

#[test]
fn keys_choose_what_is_seen() {
    let dir = folder();
    let watched = watched(dir.path());
    let mut app = App::default();
    let mut press = |keys: &[KeyCode]| {
        let ends = keys.iter().map(|&key| app.press(KeyEvent::from(key), &watched)).fold(false, |ends, now| ends | now);
        (ends, app.pane, app.quantity, app.place(&watched), app.sample.is_none())
    };
    use KeyCode::{BackTab, Char, Down, Esc, Tab, Up};
    assert_eq!(press(&[Tab, Tab]), (false, Pane::Samples, Quantity::Loss, 1, true));
    assert_eq!(press(&[Char('p')]), (false, Pane::Samples, Quantity::Loss, 0, false));
    assert_eq!(press(&[Char('p'), Char('n'), Char('n')]), (false, Pane::Samples, Quantity::Loss, 1, true));
    assert_eq!(press(&[BackTab, BackTab, Down, Char('c'), Up]), (false, Pane::Curves, Quantity::Accuracy, 1, true));
    assert_eq!(press(&[Up, Up]).2, Quantity::GradientNorm);
    assert_eq!(press(&[Char('4')]).1, Pane::Guards);
    // What explains the keys is closed by the one that would end the view otherwise.
    assert!(!press(&[Char('?'), Esc]).0 && press(&[Esc]).0 && press(&[Char('q')]).0);
    assert!(app.press(KeyEvent::new(Char('c'), KeyModifiers::CONTROL), &watched));
}

#[test]
fn who_is_not_at_work_is_known() {
    let dir = folder();
    let path = dir.path().join("progress.json");
    let there: Progress = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let write = |progress: &Progress| fs::write(&path, serde_json::to_string(progress).unwrap()).unwrap();
    let mut watched = watched(dir.path());
    watched.dir = dir.path().into();
    assert_eq!(watched.work(), Work::Going);
    assert_eq!(watched.stage(), Some((AT + 1, "iter-2/train")));
    assert_eq!(watched.pace().unwrap().rate(), Some(2.0));

    // Ended in good order.
    write(&Progress { at_work: false, ..there.clone() });
    watched.look();
    assert_eq!(watched.work(), Work::Rests(Some(there.written)));
    // Killed a while ago.
    let killed = Progress { written: there.written - 3600.0, ..there.clone() };
    write(&killed);
    let told = Watched::open(dir.path()).unwrap();
    assert_eq!(told.work(), Work::Rests(Some(killed.written)));
    let text = shown(&told, &App::default(), 80, 24);
    assert!(text.contains(&format!("not at work since {}", clock(killed.written))), "{text}");
    assert!(text.contains("12 of 14 stages are done, and iter-2/train is next"), "{text}");
    // On a machine whose clock is an hour late: it moves, so it is at work.
    let mut told = told;
    write(&Progress { written: killed.written + 1.0, ..killed });
    told.look();
    assert_eq!(told.work(), Work::Going);
    // A file that cannot be read tells nothing new, nor does one that is gone.
    fs::write(&path, "{").unwrap();
    told.look();
    fs::remove_file(&path).unwrap();
    told.look();
    assert_eq!(told.work(), Work::Going);

    let mut manifest = Manifest::read(dir.path()).unwrap();
    fs::copy(dir.path().join("iter-1/eval.json"), dir.path().join("iter-2/eval.json")).unwrap();
    manifest.stages.iter_mut().for_each(|stage| stage.state = State::Done);
    manifest.write(dir.path()).unwrap();
    told.look();
    assert_eq!((told.work(), told.stage()), (Work::Finished, None));
    assert_eq!(told.summary.rows.len(), 4);
}

#[test]
fn what_vanishes_is_told_and_may_come_back() {
    let dir = folder();
    let mut watched = watched(dir.path());
    watched.dir = dir.path().into();
    let manifest = dir.path().join("manifest.json");
    let text = fs::read(&manifest).unwrap();
    fs::remove_file(&manifest).unwrap();
    fs::remove_file(dir.path().join("iter-2/metrics.partial.jsonl")).unwrap();
    watched.look();
    assert!(watched.problem.as_ref().unwrap().contains("manifest.json"), "{:?}", watched.problem);
    let seen = shown(&watched, &App::default(), 80, 24);
    assert!(seen.contains("cannot read") && seen.contains("⠒ iter-2"), "{seen}");
    fs::write(&manifest, text).unwrap();
    fs::write(dir.path().join("iter-2/metrics.partial.jsonl"), metrics(41, true)).unwrap();
    watched.look();
    assert_eq!((&watched.problem, watched.curves[2].last().unwrap().step), (&None, 41));

    // Another run in the same place.
    let mut other = Manifest::new(1, Default::default(), None, ["iter-0/train", "iter-0/eval"].map(String::from));
    other.stages[0].state = State::Done;
    other.write(dir.path()).unwrap();
    watched.look();
    assert_eq!((&watched.problem, watched.curves.len(), watched.stage()), (&None, 1, Some((2, "iter-0/eval"))));
}
