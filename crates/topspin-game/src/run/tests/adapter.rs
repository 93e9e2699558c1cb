//! Runs that train an adapter in place of the model's own parameters.

use topspin_model::adapter::Targets;

use super::resume::play_with_stops;
use super::*;

const SETS: [&str; 4] =
    ["adapter.rank=2", "adapter.alpha=4", "adapter.targets=[\"q_proj\", \"down_proj\"]", "train.optimizer=adamw"];

fn sets<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&SETS[..], more].concat()
}

/// The adapter that a stage ended with, above the model that the run started from.
fn read_adapter(fixture: &Fixture, folder: &str) -> (AdapterFiles, Vec<f32>) {
    let (base, _) = read_model(&fixture.path("model"));
    let files = AdapterFiles::open(Path::new(&fixture.path(folder)), &base.config).unwrap();
    let parameters = files.parameters().unwrap().to_vec();
    (files, parameters)
}

#[test]
fn an_adapter_goes_through_the_whole_run() {
    let fixture = Fixture::new();
    fixture.play("out", &sets(&[])).unwrap();
    let folders = ["iter-0", "iter-1", "iter-2", "control-1"].map(|folder| format!("out/{folder}/model"));
    let mut seen: Vec<Vec<f32>> = Vec::new();
    for folder in &folders {
        // No second copy of the model, only what was trained.
        let mut names: Vec<_> =
            fs::read_dir(fixture.path(folder)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["adapter_config.json", "adapter_model.safetensors", "trainer_state.json"]);
        let (files, parameters) = read_adapter(&fixture, folder);
        let config = files.adapter().config();
        assert_eq!((config.rank, config.alpha), (2, 4.0));
        assert_eq!(config.targets, Targets::Names(vec!["q_proj".into(), "down_proj".into()]));
        assert!(!seen.contains(&parameters), "{folder} is another stage's");
        seen.push(parameters);
        // The folder alone names all that is needed.
        let source = ModelSource::resolve(&fixture.path(folder)).unwrap();
        assert_eq!(
            source,
            ModelSource::Adapter(
                fixture.path(folder).into(),
                Box::new(ModelSource::Folder(fixture.path("model").into()))
            )
        );
        assert!(ModelFiles::open(&source).unwrap().adapter().is_some());
    }
}

#[test]
fn the_first_step_of_an_adapter_starts_at_the_opponent() {
    let fixture = Fixture::new();
    for (out, merge) in [("kept", "adapter.merge=false"), ("merged", "adapter.merge=true")] {
        fixture.play(out, &sets(&[merge])).unwrap();
        for k in 1..=2 {
            let metrics = fs::read_to_string(fixture.path(&format!("{out}/iter-{k}/metrics.jsonl"))).unwrap();
            let lines: Vec<Value> = metrics.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            assert_eq!(lines[0]["train/loss"].as_f64().unwrap().to_bits(), std::f64::consts::LN_2.to_bits());
            let last = lines.last().unwrap();
            assert_ne!(last["rewards/margins"].as_f64(), Some(0.0), "the adapter does not move");
        }
    }
}

#[test]
fn stops_leave_no_trace_in_an_adapter() {
    let fixture = Fixture::new();
    let sets = sets(&["adapter.dropout=0.2"]);
    fixture.play("whole", &sets).unwrap();
    let (stops, _) = play_with_stops(&fixture.config("stopped", &sets), 5, 50);
    assert!(stops >= 5, "{stops} stops");
    assert_same(&fixture.path("whole"), &fixture.path("stopped"));
}

#[test]
fn dropout_depends_on_the_seed_and_leaves_the_opponent_alone() {
    let fixture = Fixture::new();
    let first_losses = |out: &str, more: &[&str]| {
        // Without warm-up, so that the seeds' adapters are all at zero, where dropout changes no loss, only the gradient.
        fixture.play(out, &sets(&[&["sft.enabled=false", "game.iterations=1"], more].concat())).unwrap();
        let metrics = fs::read_to_string(fixture.path(&format!("{out}/iter-1/metrics.jsonl"))).unwrap();
        let lines = metrics.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.map(|line| line["train/loss"].as_f64().unwrap()).collect::<Vec<_>>()
    };
    let plain = first_losses("plain", &[]);
    let dropped = first_losses("dropped", &["adapter.dropout=0.5"]);
    assert_eq!((plain[0], dropped[0]), (std::f64::consts::LN_2, std::f64::consts::LN_2));
    assert_ne!(plain[1..], dropped[1..]);
    // The same rollouts: nothing is dropped where the opponent answers.
    let rollouts = |out: &str| fs::read(fixture.path(&format!("{out}/iter-1/rollouts.jsonl"))).unwrap();
    assert_eq!(rollouts("plain"), rollouts("dropped"));
}

#[test]
fn merged_stages_are_whole_models_and_begin_new_adapters() {
    let fixture = Fixture::new();
    fixture.play("out", &sets(&["adapter.merge=true"])).unwrap();
    let mut last = read_model(&fixture.path("model")).1;
    let (config, layout) = {
        let (files, _) = read_model(&fixture.path("model"));
        (files.config.clone(), files.config.layout())
    };
    for folder in ["iter-0", "iter-1", "iter-2"] {
        let (files, parameters) = read_model(&fixture.path(&format!("out/{folder}/model")));
        assert_eq!(files.config, config);
        for entry in layout.entries() {
            let adapted = entry.name.ends_with("q_proj.weight") || entry.name.ends_with("down_proj.weight");
            let changed = parameters[entry.range()] != last[entry.range()];
            assert_eq!(changed, adapted, "{folder}: {}", entry.name);
        }
        last = parameters;
    }
}

#[test]
fn a_run_may_start_from_an_adapter() {
    let fixture = Fixture::new();
    fixture.play("first", &sets(&[])).unwrap();
    let start = format!("model.path={:?}", fixture.path("first/iter-2/model"));
    fixture.play("second", &[&start, "sft.enabled=false", "train.optimizer=adamw"]).unwrap();
    // Untrained, it is the one that the run started from.
    let (first, second) = (read_adapter(&fixture, "first/iter-2/model"), read_adapter(&fixture, "second/iter-0/model"));
    assert_eq!(first.0.adapter(), second.0.adapter());
    assert_eq!(first.1, second.1);
    assert_ne!(read_adapter(&fixture, "second/iter-1/model").1, second.1);
    let base = AdapterFiles::base_of(Path::new(&fixture.path("second/iter-1/model"))).unwrap();
    assert_eq!(base, fixture.path("model"));
}

#[test]
fn adapters_that_cannot_be_are_refused_before_anything_is_written() {
    let fixture = Fixture::new();
    let error = |sets: &[&str]| fixture.play("out", sets).unwrap_err().to_string();
    let known = "q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj";
    let problem = "its targets name `lm_head`, which is no linear layer of the model's blocks";
    assert_eq!(
        error(&["adapter.rank=2", "adapter.targets=[\"lm_head\"]"]),
        format!("`[adapter]` cannot be used: {problem}; there are {known}")
    );
    assert_eq!(
        error(&["adapter.merge=true"]),
        "`adapter.merge` is true, but must be false where there is no adapter: `adapter.rank` makes one"
    );
    fixture.play("first", &sets(&[])).unwrap();
    let start = format!("model.path={:?}", fixture.path("first/iter-1/model"));
    let problem = error(&[&start, "adapter.rank=2"]);
    assert!(
        problem
            .starts_with(&format!("`model.path` is the adapter `{}` already, and", fixture.path("first/iter-1/model"))),
        "{problem}"
    );
    assert!(!Path::new(&fixture.path("out/manifest.json")).exists());
}
