//! `topspin watch`.

use std::fs;
use std::io::{Write, stderr};
use std::path::Path;
use std::process::{Command, Output};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Sandbox, program};

/// The longest that a screen may take to show what is waited for.
const PATIENCE: Duration = Duration::from_secs(120);

/// A terminal of its own in tmux, with a shell.
struct Screen {
    socket: String,
}

impl Screen {
    /// One of that size in the sandbox's folder; none where there is no tmux.
    fn open(sandbox: &Sandbox, columns: u32, rows: u32) -> Option<Self> {
        let socket = format!("topspin-{}-{columns}", std::process::id());
        let screen = Self { socket };
        let (columns, rows) = (columns.to_string(), rows.to_string());
        let shell = "env -u NO_COLOR PS1='$ ' LC_ALL=C.UTF-8 sh";
        let mut open = screen.tmux(&["-f", "/dev/null", "-u", "new-session", "-d", "-x", &columns, "-y", &rows, shell]);
        open.current_dir(sandbox.path(""));
        let opened = open.output().ok()?;
        assert!(opened.status.success(), "{opened:?}");
        Some(screen)
    }

    fn tmux(&self, args: &[&str]) -> Command {
        let mut command = Command::new("tmux");
        command.args(["-L", &self.socket]).args(args);
        command
    }

    fn ask(&self, args: &[&str]) -> String {
        let Output { status, stdout, stderr } = self.tmux(args).output().unwrap();
        assert!(status.success(), "{args:?}: {}", String::from_utf8_lossy(&stderr));
        String::from_utf8(stdout).unwrap()
    }

    /// Presses keys, by tmux's names of them.
    fn press(&self, keys: &[&str]) {
        self.ask(&[&["send-keys"], keys].concat());
    }

    /// Types a command line.
    fn enter(&self, line: &str) {
        self.ask(&["send-keys", "-l", line]);
        self.press(&["Enter"]);
    }

    fn text(&self) -> String {
        self.ask(&["capture-pane", "-p"])
    }

    /// Waits until the screen shows all of these, and gives it back.
    fn wait_for(&self, wanted: &[&str]) -> String {
        let start = Instant::now();
        loop {
            let text = self.text();
            if wanted.iter().all(|wanted| text.contains(wanted)) {
                return text;
            }
            assert!(start.elapsed() < PATIENCE, "{wanted:?} is not on the screen:\n{text}");
            sleep(Duration::from_millis(50));
        }
    }

    /// Whether the terminal is as the program found it: the same screen, and lines that are typed are shown and read.
    fn is_restored(&self, number: u32) {
        let text = self.wait_for(&[&format!("before-{number}"), "ended with"]);
        assert!(!text.contains("Curves"), "{text}");
        assert_eq!(self.ask(&["display-message", "-p", "#{alternate_on} #{cursor_flag}"]), "0 1\n");
        self.enter("echo back-$((6 * 7))");
        self.wait_for(&["echo back-$((6 * 7))\nback-42\n"]);
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = self.tmux(&["kill-server"]).output();
    }
}

/// A sandbox with a run whose supervised part is played.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::with_model();
    let line = |k: usize| json!({"prompt": format!("{k} and one"), "response": format!("that is {}", k + 1)});
    sandbox.write_lines("train.jsonl", &(0..14).map(line).collect::<Vec<Value>>());
    sandbox.write_lines("test.jsonl", &(0..23).map(|k| line(k * k)).collect::<Vec<Value>>());
    sandbox.write(
        "run.toml",
        "[model]\npath = 'model'\n[data]\ntrain = 'train.jsonl'\ntest = 'test.jsonl'\n[sft]\nlr = 1e-2\nbatch = 2\nepochs = 4\n\
         [game]\niterations = 2\nsamples = 2\nbeta = 0.5\n[rollout]\nmax_new_tokens = 24\n[train]\nlr = 1e-3\nbatch_pairs = 4\n\
         [eval]\nbest = 'greedy.tokens.mean'\n[output]\ndir = 'out'\n",
    );
    let said = sandbox.run("-q sft run.toml");
    assert!(said.starts_with("exit code: 0\n"), "{said}");
    sandbox
}

/// The view beside a run that rests, goes on and ends, on a usual terminal and on a large one.
#[test]
fn a_run_is_seen_at_work() {
    let sandbox = sandbox();
    let (Some(small), Some(large)) = (Screen::open(&sandbox, 80, 24), Screen::open(&sandbox, 140, 45)) else {
        let _ = writeln!(stderr(), "\nwatch::a_run_is_seen_at_work: the view was NOT looked at: there is no `tmux`\n");
        return;
    };
    let program = program().display().to_string();
    for (number, screen) in (1..).zip([&small, &large]) {
        screen.enter(&format!("echo before-{number}; '{program}' watch out; echo ended with $?"));
        screen.wait_for(&["7 of 19 stages are done, and iter-1/rollouts is next", "not at work since ", "q quit"]);
    }
    // On the small one a pane at a time, on the large one all.
    let text = small.text();
    assert!(text.contains("┏ 1 Curves ") && !text.contains("3 Samples ─"), "{text}");
    large.wait_for(&[" 1 Curves ", " 2 Results ", " 3 Samples ", " 4 Guards "]);

    let said = sandbox.run("-q run run.toml");
    assert!(said.starts_with("exit code: 0\n"), "{said}");
    for screen in [&small, &large] {
        screen.wait_for(&["all 19 stages are done", "finished"]);
    }
    // The last values of the run's files.
    let metrics: Vec<Value> = sandbox.read_lines("out/iter-2/metrics.jsonl");
    let last = |metrics: &Value, of: &str| metrics[of].as_f64().unwrap();
    let accuracy = last(metrics.last().unwrap(), "rewards/accuracies");
    let accuracy = if accuracy == 0.0 { "0".into() } else { format!("{accuracy:.3}") };
    let eval: Value = serde_json::from_str(&sandbox.read("out/iter-2/eval.json")).unwrap();
    let figure = eval["figures"]["greedy.tokens.mean"]["value"].as_f64().unwrap();
    let figure = format!("{figure:.*}", if figure < 10.0 { 3 } else { 1 });
    let sampled = sandbox.read_lines("out/iter-2/sampled.jsonl");
    let prompt = |place: usize| sampled[place]["prompt"].as_str().unwrap();

    small.press(&["Down"]);
    let curves = small.wait_for(&["━ accuracy ", &format!("⠒ iter-2 {accuracy}"), "• iter-1 "]);
    assert!(curves.chars().any(|c| ('\u{2801}'..='\u{28ff}').contains(&c)), "{curves}");
    small.press(&["Tab"]);
    small.wait_for(&["┏ 2 Results ", "greedy.tokens.mean", "base ", "iter-0 ", "★"]);
    assert!(small.text().lines().any(|line| line.contains("iter-2") && line.contains(&figure)), "{}", small.text());
    small.press(&["3"]);
    small.wait_for(&["┏ 3 Samples ", " iter-2/sampled ", " 23 of 23, the newest ", prompt(22), "generated"]);
    small.press(&["p", "p"]);
    small.wait_for(&[" 21 of 23 ", prompt(20)]);
    small.press(&["4", "?"]);
    small.wait_for(&[" Keys ", "Any key closes this"]);
    small.press(&["x"]);
    small.wait_for(&["┏ 4 Guards "]);
    // A smaller one in the middle of it, and back.
    small.ask(&["resize-window", "-x", "9", "-y", "3"]);
    small.ask(&["resize-window", "-x", "80", "-y", "24"]);
    small.wait_for(&["┏ 4 Guards ", "finished"]);
    large.wait_for(&["⠒ iter-2 ", "★ ", &figure, prompt(22), "real", "generated"]);

    small.press(&["q"]);
    small.is_restored(1);
    assert!(small.text().contains("ended with 0\n"), "{}", small.text());
    terminate(&large, "watch out");
    large.is_restored(2);
    assert!(large.text().contains("no longer watched; the run itself goes on\nended with 143\n"), "{}", large.text());

    // Colour where it is welcome, and none where it is not.
    for (setting, is_coloured) in [("", true), ("NO_COLOR=1 ", false)] {
        small.enter(&format!("clear; {setting}'{program}' watch out; echo closed with $?"));
        small.wait_for(&["all 19 stages are done"]);
        let raw = small.ask(&["capture-pane", "-p", "-e"]);
        assert_eq!(raw.contains("\u{1b}[38;5;"), is_coloured, "{raw:?}");
        small.press(&["Escape"]);
        small.wait_for(&["closed with 0\n"]);
    }
}

/// Asks the process in a terminal to end, as `kill` does.
fn terminate(screen: &Screen, command: &str) {
    let shell = screen.ask(&["display-message", "-p", "#{pane_pid}"]);
    let children = Command::new("ps").args(["-o", "pid=,args=", "--ppid", shell.trim()]).output().unwrap();
    let children = String::from_utf8(children.stdout).unwrap();
    let child = children.lines().find(|line| line.ends_with(command)).expect("the program runs in the terminal");
    let pid = child.split_whitespace().next().unwrap();
    assert!(Command::new("kill").args(["-TERM", pid]).status().unwrap().success());
}

/// What cannot be watched is told in a sentence.
#[test]
fn what_cannot_be_watched_is_told() {
    let sandbox = Sandbox::new();
    insta::assert_snapshot!(sandbox.run("watch nowhere"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: cannot read `nowhere/manifest.json`: there is no such file or folder; check the path
    ");
    fs::create_dir(sandbox.path("folder")).unwrap();
    insta::assert_snapshot!(sandbox.run("watch folder"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: `folder` is not the folder of a run: it has no `manifest.json`; name the folder that `topspin run` wrote
    ");
    let manifest = |text: &str| {
        fs::create_dir_all(sandbox.path("out")).unwrap();
        sandbox.write("out/manifest.json", text);
        sandbox.write("out/config.toml", "[model]\npath = 'gone'\n[data]\ntrain = 'gone.jsonl'\n");
        sandbox.run("watch out")
    };
    insta::assert_snapshot!(manifest("{\"format\": 1, \"topsp"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: line 1 of `out/manifest.json` cannot be understood (EOF while parsing a string at line 1 column 20); restore the file, or start again in another `output.dir`
    ");
    insta::assert_snapshot!(manifest("{\"format\": 2, \"topspin\": \"9.0.0\", \"acts\": []}"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: the run in `out` was begun by topspin 9.0.0, whose folders have another form; go on with that version, or choose another `output.dir`
    ");
    let of_stages = |stages: &str| {
        format!("{{\"format\": 1, \"topspin\": \"0.1.0\", \"seed\": 0, \"inputs\": {{}}, \"stages\": [{stages}]}}")
    };
    let stages = of_stages("{\"name\": \"iter-0/train\", \"state\": \"pending\"}");
    insta::assert_snapshot!(manifest(&stages), @"
    exit code: 2
    --- stdout
    --- stderr
    error: the run in `out` has begun none of its stages yet; start it, or let it go on, with `topspin run`
    ");
    fs::create_dir(sandbox.path("out/iter-0")).unwrap();
    insta::assert_snapshot!(sandbox.run("watch out"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: stdout is no terminal, which `topspin watch` needs; `topspin inspect out` prints how far the run is
    ");
    sandbox.write("out/config.toml", "[model]\npth = 'gone'\n");
    let said = sandbox.run("watch out");
    assert!(said.starts_with("exit code: 2\n--- stdout\n--- stderr\nerror: ") && said.contains("pth"), "{said}");
    assert!(!Path::new(&sandbox.path("out/progress.json")).exists());
}
