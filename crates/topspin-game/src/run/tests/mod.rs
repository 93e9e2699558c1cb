//! Whole runs of a tiny model on generated data.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use tempfile::TempDir;
use topspin_kernels::cpu::Cpu;
use topspin_kernels::gemm::Precision;
use topspin_kernels::rng::Rng;
use topspin_model::adapter::AdapterFiles;
use topspin_model::checkpoint::{SaveDtype, save_folder};
use topspin_model::config::DecoderConfig;
use topspin_model::decoder::{Keep, Tape};
use topspin_model::dialect::Dialect;
use topspin_model::source::ModelSource;
use topspin_model::tokenizer::Tokenizer;

use super::lines::read_lines;
use super::*;
use crate::pair::Tree;
use crate::score::score;
use crate::tree::TokenTree;

mod adapter;
mod changes;
mod data;
mod evaluation;
mod events;
mod given;
mod guards;
mod opponents;
mod progress;
mod resume;
mod rounds;
mod scores;
mod settings;
mod turns;

/// What the data and the tokenizer are made of.
const ALPHABET: &str = "abcdefgh ";

/// A folder with a random model and generated data.
struct Fixture {
    dir: TempDir,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let dialect = Dialect::new(Tokenizer::from_characters(ALPHABET), None);
        let config = DecoderConfig {
            vocab_size: dialect.tokenizer().vocab_size(),
            hidden_size: 16,
            intermediate_size: 24,
            num_layers: 2,
            num_heads: 2,
            num_kv_heads: 1,
            head_dim: 8,
            rms_norm_eps: 1e-5,
            rope_theta: 1e4,
            max_positions: 48,
            tie_word_embeddings: true,
            ..DecoderConfig::default()
        };
        let mut rng = Rng::new(7, "tiny model", 0);
        let parameters: Vec<f32> = (0..config.layout().len()).map(|_| 0.2 * rng.normal() as f32).collect();
        save_folder(&dir.path().join("model"), &config, &parameters, SaveDtype::F32, &dialect).unwrap();
        let fixture = Self { dir };
        fixture.write_data("train.jsonl", 24, 1);
        fixture.write_data("test.jsonl", 6, 2);
        fixture
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// Prompts of random letters, whose good response is the prompt backwards.
    fn write_data(&self, name: &str, records: usize, seed: u64) {
        let mut rng = Rng::new(seed, "data", 0);
        let letters: Vec<char> = ALPHABET.trim().chars().collect();
        let line = |_| {
            let prompt: String = (0..3 + rng.below(4)).map(|_| letters[rng.below(letters.len())]).collect();
            let response: String = prompt.chars().rev().collect();
            format!("{{\"prompt\": \"{prompt}\", \"response\": \"{response}\"}}\n")
        };
        fs::write(self.path(name), (0..records).map(line).collect::<String>()).unwrap();
    }

    /// A configuration of two small iterations in the folder `out`, with `sets` applied.
    fn config(&self, out: &str, sets: &[&str]) -> Config {
        let text = format!(
            "[model]\npath = {:?}\n[data]\ntrain = {:?}\ntest = {:?}\nprompts = 8\n\
             [sft]\nepochs = 2\nbatch = 8\nlr = 1e-2\ncontrols = [{{ epochs = 1, lr = 1e-2 }}]\n\
             [game]\niterations = 2\nsamples = 2\n[rollout]\nmax_new_tokens = 10\nlive_sequences = 5\n\
             [train]\nlr = 1e-3\nbatch_pairs = 3\nbatch_tokens = 64\ncheckpoint_every = 2\n\
             [eval]\nmax_new_tokens = 8\n[output]\ndir = {:?}\n",
            self.path("model"),
            self.path("train.jsonl"),
            self.path("test.jsonl"),
            self.path(out),
        );
        let sets: Vec<_> = sets.iter().map(ToString::to_string).collect();
        Config::parse(&text, Path::new("test.toml"), &sets).unwrap()
    }

    /// Plays to the end.
    fn play(&self, out: &str, sets: &[&str]) -> Result<Summary, RunError> {
        play(&self.config(out, sets), &mut Silent, &AtomicBool::new(false))
    }
}

fn play(config: &Config, observer: &mut dyn Observer, stop: &AtomicBool) -> Result<Summary, RunError> {
    run(&Cpu::new(), Precision::F32, config, Until::End, observer, stop)
}

/// A model and its parameters.
fn read_model(folder: &str) -> (ModelFiles, Vec<f32>) {
    let files = ModelFiles::open(&ModelSource::Folder(folder.into())).unwrap();
    let mut parameters = vec![0.0; files.config.layout().len()];
    files.read_parameters(&mut parameters).unwrap();
    (files, parameters)
}

/// The files under `dir` that a run reproduces, with their contents.
fn reproducible(dir: &str) -> Vec<(String, Vec<u8>)> {
    fn walk(dir: &Path, root: &Path, files: &mut Vec<(String, Vec<u8>)>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().display().to_string();
            if path.is_symlink() {
                files.push((name, fs::read_link(&path).unwrap().display().to_string().into_bytes()));
            } else if path.is_dir() {
                walk(&path, root, files);
            } else if !["config.toml", "throughput.jsonl", "events.out.tfevents.topspin"]
                .contains(&path.file_name().unwrap().to_str().unwrap())
            {
                files.push((name, fs::read(&path).unwrap()));
            }
        }
    }
    let mut files = Vec::new();
    walk(Path::new(dir), Path::new(dir), &mut files);
    files.sort();
    files
}

/// Whether two runs left the same files.
fn assert_same(a: &str, b: &str) {
    let (a, b) = (reproducible(a), reproducible(b));
    let names = |files: &[(String, Vec<u8>)]| files.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&a), names(&b));
    for ((name, a), (_, b)) in a.iter().zip(&b) {
        assert!(a == b, "{name} differs");
    }
}

#[test]
fn a_run_leaves_what_is_documented() {
    let fixture = Fixture::new();
    let summary = fixture.play("out", &[]).unwrap();
    let folders: Vec<_> = summary.rows.iter().map(|row| row.folder.as_str()).collect();
    assert_eq!(folders, ["base", "iter-0", "control-1", "iter-1", "iter-2"]);

    let names: Vec<_> = reproducible(&fixture.path("out")).into_iter().map(|(name, _)| name).collect();
    let evaluated = ["eval.json", "eval.jsonl", "greedy.jsonl", "metrics.jsonl"];
    let model = ["config", "generation_config", "model.safetensors", "tokenizer", "tokenizer_config"];
    let mut expected: Vec<String> = [".lock", "best", "manifest.json"].map(String::from).into();
    for folder in ["control-1", "iter-0", "iter-1", "iter-2"] {
        expected.extend(evaluated.iter().chain(&["sampled.jsonl"]).map(|name| format!("{folder}/{name}")));
        let file = |name: &str| if name.contains('.') { name.into() } else { format!("{name}.json") };
        expected.extend(model.map(|name| format!("{folder}/model/{}", file(name))));
        expected.push(format!("{folder}/model/trainer_state.json"));
        if folder.starts_with("iter-") && folder != "iter-0" {
            expected.extend(["pairs.jsonl", "real.jsonl", "rollouts.jsonl"].map(|name| format!("{folder}/{name}")));
        }
    }
    expected.extend(["eval.json", "eval.jsonl", "greedy.jsonl", "sampled.jsonl"].map(|name| format!("base/{name}")));
    expected.sort();
    assert_eq!(names, expected);
    let best = fs::read_link(fixture.path("out/best")).unwrap();
    assert_eq!(best.to_str(), summary.best().map(|row| row.folder.as_str()));
}

/// Sampling cuts and tempers the distribution that it draws from, not what it reports.
#[test]
fn real_responses_are_scored_by_the_opponent() {
    let fixture = Fixture::new();
    let sets = ["rollout.temperature=0.5", "rollout.top_k=3", "rollout.live_sequences=3", "rollout.rows_per_step=9"];
    fixture.play("out", &sets).unwrap();
    for k in 1..=2 {
        let path = |name: &str| fixture.path(&format!("out/iter-{k}/{name}.jsonl"));
        let trees: Vec<Tree> = read_lines(Path::new(&path("pairs"))).unwrap();
        let reals: Vec<Rollout> = read_lines(Path::new(&path("real"))).unwrap();
        let rollouts: Vec<Rollout> = read_lines(Path::new(&path("rollouts"))).unwrap();
        let lines = |rollouts: &[Rollout]| rollouts.iter().map(|rollout| rollout.line).collect::<Vec<_>>();
        let mut prompts = lines(&rollouts);
        prompts.dedup();
        assert_eq!(lines(&reals), prompts);

        let (files, parameters) = read_model(&fixture.path(&format!("out/iter-{}/model", k - 1)));
        let decoder = Decoder::new(Cpu::new(), files.config, parameters.into(), Precision::F32, Use::Forward);
        let real = |tree: &Tree| reals.iter().find(|real| real.prompt_id == tree.prompt_id).unwrap().response.clone();
        let expected: Vec<_> = trees.iter().map(real).collect();
        let bare = trees.iter().map(|tree| TokenTree {
            prompt_id: &tree.prompt_id,
            prompt: &tree.prompt,
            responses: vec![&tree.real.token_ids],
            turns: &[],
        });
        let mut tape = Tape::new(decoder.device(), Keep::Nothing);
        let scores = score(&decoder, &mut tape, &bare.collect::<Vec<_>>(), 64).unwrap();
        let bits = |logprobs: &[f32]| logprobs.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        for ((tree, expected), scores) in trees.iter().zip(expected).zip(scores) {
            assert_eq!(tree.real, expected);
            assert_eq!(bits(&tree.real.logprobs), bits(&scores[0]));
        }
    }
}

#[test]
fn the_first_step_starts_at_the_opponent() {
    let fixture = Fixture::new();
    fixture.play("out", &[]).unwrap();
    for k in 1..=2 {
        let metrics = fs::read_to_string(fixture.path(&format!("out/iter-{k}/metrics.jsonl"))).unwrap();
        let first: Value = serde_json::from_str(metrics.lines().next().unwrap()).unwrap();
        assert_eq!(first["train/loss"].as_f64().unwrap().to_bits(), std::f64::consts::LN_2.to_bits());
        assert_eq!((first["rewards/margins"].as_f64(), first["rewards/real"].as_f64()), (Some(0.0), Some(0.0)));
    }
}
