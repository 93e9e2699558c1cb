//! What a run tells to TensorBoard and to Prometheus, read by them where they are there.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write, stderr};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::harness::{Sandbox, program, root};
use crate::runs::{play, sandbox, start, wait_for_changes};

const FILE: &str = "events.out.tfevents.topspin";
const STAGES: [&str; 4] = ["iter-0", "control-1", "iter-1", "iter-2"];

/// Python with TensorBoard and Prometheus' client, which `scripts/oracle/setup.sh tensorboard` makes.
fn python() -> Option<PathBuf> {
    Some(root().join("target/tensorboard-venv/bin/python")).filter(|python| python.exists())
}

/// Says on stderr itself, since a test's own output is shown only when it fails.
fn skip(test: &str, who: &str) {
    let _ = writeln!(
        stderr(),
        "\nevents::{test}: {who} did NOT look: there is no target/tensorboard-venv; `scripts/oracle/setup.sh tensorboard` makes it\n"
    );
}

/// What a script makes of `input`.
fn ask(python: &PathBuf, script: &str, args: &[String], input: &str) -> Value {
    let mut command = Command::new(python);
    command.arg(root().join("tests/tensorboard").join(script)).args(args);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Kills the run of `out` at a change of its files and starts it again until it ends; says how often.
fn play_with_kills(sandbox: &Sandbox, out: &str) -> usize {
    (0..200)
        .find(|kills| {
            let mut child = start(sandbox, out);
            let ended = wait_for_changes(&mut child, &sandbox.path(out), 25 + 7 * (kills % 5));
            if !ended {
                child.kill().unwrap();
            }
            let status = child.wait().unwrap();
            assert!(status.success() || !ended, "{status}");
            ended
        })
        .expect("the run comes to its end")
}

/// The scalars of a step, or of an evaluation, by tag; values are single precision there.
type Scalars = BTreeMap<(u64, String), f32>;

/// What TensorBoard should find in a training stage.
fn of_stage(sandbox: &Sandbox, folder: &str) -> Scalars {
    let mut scalars = Scalars::new();
    for (file, tag) in [("metrics", ""), ("throughput", "throughput/")] {
        for line in sandbox.read_lines(&format!("{folder}/{file}.jsonl")) {
            for (name, value) in line.as_object().unwrap() {
                if !["step", "tokens", "seconds"].contains(&name.as_str()) {
                    let key = (line["step"].as_u64().unwrap(), format!("{tag}{name}"));
                    scalars.insert(key, value.as_f64().unwrap() as f32);
                }
            }
        }
    }
    scalars
}

/// What it should find at the root.
fn of_evaluations(sandbox: &Sandbox, out: &str) -> Scalars {
    let mut scalars = Scalars::new();
    for iteration in 0..=2 {
        let report: Value = serde_json::from_str(&sandbox.read(&format!("{out}/iter-{iteration}/eval.json"))).unwrap();
        for (name, figure) in report["figures"].as_object().unwrap() {
            for (end, key) in [("", "value"), ("/low", "low"), ("/high", "high")] {
                if let Some(value) = figure[key].as_f64() {
                    scalars.insert((iteration, format!("eval/{name}{end}")), value as f32);
                }
            }
        }
    }
    scalars
}

#[test]
fn tensorboard_reads_each_step_once_after_kills() {
    let sandbox = sandbox();
    let kills = play_with_kills(&sandbox, "out");
    assert!(kills > 2, "{kills} kills");
    // The same again adds nothing.
    let bytes =
        || STAGES.iter().chain(&["."]).map(|folder| fs::read(sandbox.path(&format!("out/{folder}/{FILE}"))).unwrap());
    let before: Vec<_> = bytes().collect();
    play(&sandbox, "out");
    assert!(bytes().eq(before));

    let Some(python) = python() else { return skip("tensorboard_reads_each_step_once_after_kills", "TensorBoard") };
    let folders: Vec<_> = STAGES.iter().chain(&["."]).map(|folder| format!("out/{folder}")).collect();
    let paths: Vec<_> = folders.iter().map(|folder| sandbox.path(folder).display().to_string()).collect();
    let found = ask(&python, "read.py", &paths, "");
    for (folder, path) in folders.iter().zip(&paths) {
        let mut scalars = Scalars::new();
        let mut times = BTreeMap::new();
        for (tag, values) in found[path].as_object().unwrap() {
            for value in values.as_array().unwrap() {
                let step = value[0].as_u64().unwrap();
                let twice = scalars.insert((step, tag.clone()), value[1].as_f64().unwrap() as f32);
                assert_eq!(twice, None, "{folder}: {tag} of step {step}");
                times.insert(step, value[2].as_f64().unwrap());
            }
        }
        let expected = if folder == "out/." { of_evaluations(&sandbox, "out") } else { of_stage(&sandbox, folder) };
        assert!(expected.len() > 20, "{folder}");
        assert_eq!(scalars, expected, "{folder}");
        // In the order of the steps, and of this day.
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        assert!(
            times.values().is_sorted() && times.values().all(|time| (now - 3600.0..=now).contains(time)),
            "{times:?}"
        );
    }
}

/// A run that serves its figures at a port of its own choice, which its log names.
fn serve(sandbox: &Sandbox) -> (Child, SocketAddr) {
    let mut command = Command::new(program());
    let sets = ["output.prometheus=127.0.0.1:0", "output.dir=out", "sft.epochs=60"];
    command.current_dir(sandbox.path("")).args(["run", "run.toml"]).args(sets.iter().flat_map(|set| ["--set", set]));
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let line = lines.by_ref().map(Result::unwrap).find(|line| line.contains("/metrics")).unwrap();
    let address =
        line.split_once("http://").and_then(|(_, rest)| rest.strip_suffix("/metrics")).unwrap().parse().unwrap();
    // Else the run would wait for somebody to read on.
    std::thread::spawn(move || lines.for_each(drop));
    (child, address)
}

/// The answer to a request, its head and its body.
fn get(address: SocketAddr, path: &str) -> Option<(String, String)> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.into(), body.into()))
}

/// The samples of an answer by name and labels, each of a metric with one HELP and one TYPE before it, as the format wants it.
fn samples(body: &str) -> BTreeMap<String, f64> {
    let mut samples = BTreeMap::new();
    let mut metrics = Vec::new();
    let mut lines = body.lines().peekable();
    assert!(body.ends_with('\n'));
    while let Some(line) = lines.next() {
        let (name, help) = line.strip_prefix("# HELP ").unwrap_or_else(|| panic!("{line}")).split_once(' ').unwrap();
        assert!(!help.is_empty() && !metrics.contains(&name), "{line}");
        metrics.push(name);
        let is_name =
            |name: &str| name.chars().all(|sign| sign.is_ascii_lowercase() || sign.is_ascii_digit() || sign == '_');
        assert!(is_name(name) && (name.starts_with("topspin_") || name.starts_with("process_")), "{name}");
        assert_eq!(lines.next(), Some(&*format!("# TYPE {name} gauge")));
        while let Some(sample) = lines.next_if(|line| !line.starts_with('#')) {
            let (key, value) = sample.rsplit_once(' ').unwrap();
            let labels = key.strip_prefix(name).unwrap_or_else(|| panic!("{sample} of {name}"));
            assert!(labels.is_empty() || labels.starts_with('{') && labels.ends_with('}'), "{sample}");
            assert_eq!(samples.insert(key.into(), value.parse().unwrap()), None, "{sample}");
        }
    }
    samples
}

#[test]
fn prometheus_is_told_how_the_run_goes() {
    let sandbox = sandbox();
    let (mut child, address) = serve(&sandbox);
    let mut answers = Vec::new();
    while let Some((head, body)) = get(address, "/metrics") {
        assert!(
            head.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"),
            "{head}"
        );
        answers.push(body);
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(child.wait().unwrap().success());
    // Once in the supervised stage, and at last behind an evaluation.
    let all: Vec<_> = answers.iter().map(|body| samples(body)).collect();
    let first = "topspin_train_step{stage=\"iter-0/train\"}";
    let at = all.iter().position(|samples| samples.contains_key(first)).expect("the stage takes long enough");
    let train = &all[at];
    let metrics = sandbox.read_lines("out/iter-0/metrics.jsonl");
    let line = &metrics[train[first] as usize - 1];
    for (name, figure) in [
        ("topspin_train_loss", "train/loss"),
        ("topspin_train_grad_norm", "train/grad_norm"),
        ("topspin_train_learning_rate", "train/learning_rate"),
    ] {
        assert_eq!(Some(train[&format!("{name}{{stage=\"iter-0/train\"}}")]), line[figure].as_f64(), "{name}");
    }
    assert!(train["topspin_throughput_tokens_per_second{stage=\"iter-0/train\"}"] > 0.0);
    assert!(train["topspin_throughput_mfu_ratio{stage=\"iter-0/train\"}"] > 0.0);
    let planned = train.get("topspin_stage_planned{stage=\"iter-0/train\",unit=\"steps\"}");
    assert_eq!(planned, Some(&(metrics.len() as f64)));
    assert!(!cfg!(target_os = "linux") || train["process_resident_memory_bytes"] > 1e6);
    let base: Value = serde_json::from_str(&sandbox.read("out/base/eval.json")).unwrap();
    let key = "topspin_eval_nll_per_token{stage=\"base\",figure=\"nll.per_token\"}";
    assert_eq!(train.get(key).copied(), base["figures"]["nll.per_token"]["value"].as_f64());
    let step = |samples: &BTreeMap<String, f64>| samples.get(first).copied();
    assert!(
        all.iter().filter_map(step).is_sorted() && all.iter().filter_map(step).max_by(f64::total_cmp) > step(train)
    );
    assert!(all.iter().any(|samples| samples.contains_key("topspin_rewards_margins{stage=\"iter-2/train\"}")));

    let Some(python) = python() else { return skip("prometheus_is_told_how_the_run_goes", "Prometheus' client") };
    let found = ask(&python, "scrape.py", &[], &answers[at]);
    let found: Vec<_> = found
        .as_array()
        .unwrap()
        .iter()
        .map(|sample| {
            let labels: Vec<_> = sample[1]
                .as_object()
                .unwrap()
                .iter()
                .map(|(key, value)| format!("{key}=\"{}\"", value.as_str().unwrap()))
                .collect();
            let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
            (format!("{}{labels}", sample[0].as_str().unwrap()), sample[2].as_f64().unwrap())
        })
        .collect();
    assert_eq!(found.into_iter().collect::<BTreeMap<_, _>>(), *train);
}

#[test]
fn a_port_that_is_taken_is_told_before_anything_is_done() {
    let sandbox = sandbox();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let said = sandbox.run(&format!("run run.toml --set output.dir=out --set output.prometheus={address}"));
    assert_eq!(
        said,
        format!(
            "exit code: 2\n--- stdout\n--- stderr\nerror: cannot listen on `{address}` (`output.prometheus`): another program \
             listens there; name another address or port, or leave it empty\n"
        )
    );
    assert!(!sandbox.path("out").exists());
}
