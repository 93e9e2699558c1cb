//! Runs of a tiny model, and what becomes of them when they are interrupted.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use topspin_kernels::rng::Rng;
use topspin_model::checkpoint::{SaveDtype, save_folder};
use topspin_model::config::DecoderConfig;
use topspin_model::dialect::Dialect;
use topspin_model::tokenizer::Tokenizer;

use crate::harness::{Sandbox, block, program};

const LETTERS: [char; 8] = ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'];

/// A sandbox with a random model, generated data, and the configuration `run.toml` of a run of some seconds.
pub fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    let dialect = Dialect::new(Tokenizer::from_characters(&String::from_iter(LETTERS)), None);
    let config = DecoderConfig {
        vocab_size: dialect.tokenizer().vocab_size(),
        hidden_size: 32,
        intermediate_size: 48,
        num_layers: 2,
        num_heads: 2,
        num_kv_heads: 1,
        head_dim: 16,
        rms_norm_eps: 1e-5,
        rope_theta: 1e4,
        max_positions: 64,
        tie_word_embeddings: true,
        ..DecoderConfig::default()
    };
    let mut rng = Rng::new(11, "tiny model", 0);
    let parameters: Vec<f32> = (0..config.layout().len()).map(|_| 0.1 * rng.normal() as f32).collect();
    save_folder(&sandbox.path("model"), &config, &parameters, SaveDtype::F32, &dialect).unwrap();
    for (name, records) in [("train.jsonl", 60), ("test.jsonl", 12)] {
        let line = |_| {
            let prompt: String = (0..3 + rng.below(5)).map(|_| LETTERS[rng.below(LETTERS.len())]).collect();
            let response: String = prompt.chars().rev().collect();
            format!("{{\"prompt\": \"{prompt}\", \"response\": \"{response}\"}}\n")
        };
        sandbox.write(name, (0..records).map(line).collect::<String>());
    }
    sandbox.write(
        "run.toml",
        "[model]\npath = 'model'\n[data]\ntrain = 'train.jsonl'\ntest = 'test.jsonl'\nprompts = 30\n\
         [sft]\nlr = 1e-2\nbatch = 6\ncontrols = [{ epochs = 1, lr = 1e-2 }]\n\
         [game]\niterations = 2\nsamples = 3\nopponent = 'latest_two'\n[rollout]\nmax_new_tokens = 20\nlive_sequences = 7\n\
         [train]\nlr = 1e-3\nbatch_pairs = 5\ncheckpoint_every = 3\n",
    );
    sandbox
}

/// Starts `topspin run` with its output in the folder `out`.
pub fn start(sandbox: &Sandbox, out: &str) -> Child {
    let mut command = Command::new(program());
    command.current_dir(sandbox.path("")).args(["run", "run.toml", "--set", &format!("output.dir={out}")]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Plays to the end.
pub fn play(sandbox: &Sandbox, out: &str) {
    let said = sandbox.run(&format!("run run.toml --set output.dir={out}"));
    assert!(said.starts_with("exit code: 0\n"), "{said}");
}

/// Waits until the run's files have changed `changes` times, or until the run is over. Returns whether it is.
pub fn wait_for_changes(child: &mut Child, dir: &Path, changes: usize) -> bool {
    let mut left = changes;
    let mut last = sizes(dir);
    while left > 0 {
        if child.try_wait().unwrap().is_some() {
            return true;
        }
        std::thread::sleep(Duration::from_micros(500));
        let now = sizes(dir);
        if now != last {
            (last, left) = (now, left - 1);
        }
    }
    false
}

/// Number and total size of all files below `dir`, hidden ones and folders on the way included.
fn sizes(dir: &Path) -> (usize, u64) {
    let Ok(entries) = fs::read_dir(dir) else { return (0, 0) };
    entries.flatten().fold((0, 0), |(number, bytes), entry| match entry.metadata() {
        Ok(there) if there.is_dir() => {
            let (n, b) = sizes(&entry.path());
            (number + 1 + n, bytes + b)
        }
        Ok(there) => (number + 1, bytes + there.len()),
        Err(_) => (number, bytes),
    })
}

/// The files of a run that do not depend on the clock, by name, sorted.
pub fn reproducible(dir: &Path) -> Vec<(String, Vec<u8>)> {
    fn walk(dir: &Path, root: &Path, files: &mut Vec<(String, Vec<u8>)>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().display().to_string();
            if path.is_symlink() {
                files.push((name, fs::read_link(&path).unwrap().display().to_string().into_bytes()));
            } else if path.is_dir() {
                walk(&path, root, files);
            } else if !name.ends_with("throughput.jsonl")
                && !name.contains("tfevents")
                && !["config.toml", "progress.json"].contains(&&*name)
            {
                files.push((name, fs::read(&path).unwrap()));
            }
        }
    }
    let mut files = Vec::new();
    walk(dir, dir, &mut files);
    files.sort();
    files
}

/// Whether a run that was interrupted left what one that was not did: the same weights and metrics byte for byte, no row
/// twice, none lost.
pub fn assert_same_run(sandbox: &Sandbox, whole: &str, out: &str) {
    let [a, b] = [whole, out].map(|dir| reproducible(&sandbox.path(dir)));
    let names = |files: &[(String, Vec<u8>)]| files.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&a), names(&b));
    for ((name, a), (_, b)) in a.iter().zip(&b) {
        assert!(a == b, "{name} differs");
    }
    let lines = |name: &str| -> Vec<Value> {
        let text = sandbox.read(&format!("{out}/{name}"));
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    for k in 1..=2 {
        let mut samples = Vec::new();
        // In the one round of the iteration, or in each of several.
        for folder in [format!("iter-{k}")].into_iter().chain((1..9).map(|round| format!("iter-{k}/round-{round}"))) {
            if sandbox.path(&format!("{out}/{folder}/rollouts.jsonl")).exists() {
                let key =
                    |line: &Value| (folder.clone(), line["line"].as_u64().unwrap(), line["sample"].as_u64().unwrap());
                samples.extend(lines(&format!("{folder}/rollouts.jsonl")).iter().map(key));
            }
        }
        let drawn = samples.len();
        samples.sort_unstable();
        samples.dedup();
        assert_eq!(samples.len(), drawn, "samples of iteration {k}");
        // Each prompt once, or in each of two passes.
        assert!([30 * 3, 2 * 30 * 3].contains(&drawn), "{drawn} samples of iteration {k}");
        let steps = lines(&format!("iter-{k}/metrics.jsonl")).len();
        for name in ["metrics", "throughput"] {
            let numbers: Vec<_> = lines(&format!("iter-{k}/{name}.jsonl")).iter().map(|l| l["step"].as_u64()).collect();
            assert_eq!(numbers, (1..=steps as u64).map(Some).collect::<Vec<_>>(), "{name} of iteration {k}");
        }
    }
}

#[cfg(unix)]
#[test]
fn ctrl_c_saves_and_says_how_to_go_on() {
    let sandbox = sandbox();
    play(&sandbox, "whole");
    let mut stops = 0;
    for changes in [4, 30, 60, 90, 5, 40, 30] {
        let mut child = start(&sandbox, "out");
        if !wait_for_changes(&mut child, &sandbox.path("out"), changes) {
            let signal = if stops % 2 == 0 { "-INT" } else { "-TERM" };
            Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
            let code = child.wait().unwrap().code();
            let mut said = String::new();
            child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
            // The signal may come when all is done.
            if code == Some(0) {
                break;
            }
            assert_eq!(code, Some(if signal == "-INT" { 130 } else { 143 }), "{said}");
            let last = said.lines().last().unwrap();
            assert!(last.starts_with("stopped in the stage `") && last.ends_with("goes on from there"), "{said}");
            stops += 1;
        }
    }
    assert!(stops > 0);
    play(&sandbox, "out");
    assert_same_run(&sandbox, "whole", "out");
}

#[test]
fn two_runs_in_one_folder_at_once_are_refused() {
    let sandbox = sandbox();
    fs::create_dir(sandbox.path("out")).unwrap();
    let _lock = topspin_files::lock(&sandbox.path("out")).unwrap();
    let said = block(&mut sandbox.topspin(&["run", "run.toml", "--set", "output.dir=out"]));
    assert_eq!(
        said,
        "exit code: 2\n--- stdout\n--- stderr\nerror: the folder `out` is in use by another process; wait for it to end, \
         or choose another folder\n"
    );
}

/// A cap on vector instructions stands for a processor that has no more of them.
#[test]
fn a_run_needs_no_particular_processor() {
    for level in ["scalar", "avx2", "avx512"] {
        for dtype in ["f32", "bf16"] {
            let sandbox = sandbox();
            let set =
                format!("run run.toml --set game.iterations=1 --set output.precision={dtype} --set output.dir=out");
            let mut command = sandbox.topspin(&set.split_whitespace().collect::<Vec<_>>());
            let said = block(command.env("TOPSPIN_SIMD", level));
            assert!(said.starts_with("exit code: 0\n"), "{level}, {dtype}: {said}");
            // Sampling and training agree to the bit: against itself a model has no margin.
            let first = &sandbox.read_lines("out/iter-1/metrics.jsonl")[0];
            assert_eq!(first["train/loss"].as_f64(), Some(std::f64::consts::LN_2), "{level}, {dtype}: {first}");
        }
    }
}

#[test]
fn a_run_that_diverges_says_what_mends_it() {
    let sandbox = sandbox();
    // A threshold that is crossed in any run.
    let run = |rest: &str| sandbox.run(&format!("-q run run.toml --set guard.cut=0.001 --set output.dir={rest}"));
    assert!(run("whole").starts_with("exit code: 0\n"));
    let said = run("out --set train.lr=1e30");
    assert!(said.starts_with("exit code: 2\n--- stdout\n--- stderr\n"), "{said}");
    let error = said.lines().last().unwrap();
    assert!(error.starts_with("error: the ") && error.contains(" of `iter-1/train` is not "), "{said}");
    assert!(error.ends_with("; the same command with a lower `train.lr` starts the stage over"), "{said}");
    assert!(run("out").starts_with("exit code: 0\n"));
    assert_same_run(&sandbox, "whole", "out");

    // What fired is shown with the results, as data too.
    let inspected = sandbox.topspin(&["inspect", "out", "--json"]).output().unwrap();
    let facts: Value = serde_json::from_slice(&inspected.stdout).unwrap();
    let guards = facts["guards"].as_array().unwrap();
    assert!(!guards.is_empty() && guards.iter().all(|fired| fired["sentence"].is_string()), "{facts}");
    let text = sandbox.run("inspect out");
    let (_, below) = text.split_once("\nguards that fired:\n").unwrap();
    for (line, fired) in below.lines().zip(guards) {
        let (stage, sentence) = (fired["stage"].as_str().unwrap(), fired["sentence"].as_str().unwrap());
        assert!(line.starts_with(stage) && line.ends_with(sentence), "{line}");
    }
}
