//! What changed since a run began is named, and nothing is done.

use super::*;

fn error(result: Result<Summary, RunError>) -> String {
    let error = result.unwrap_err().to_string();
    assert!(!error.ends_with('.') && !error.contains('\n'), "{error}");
    error
}

/// Begins a run and stops it in its first stage.
fn begin(fixture: &Fixture, out: &str, sets: &[&str]) {
    let stop = AtomicBool::new(true);
    let stopped = play(&fixture.config(out, sets), &mut Silent, &stop);
    assert!(matches!(stopped, Err(RunError::Stopped { .. })));
}

#[test]
fn a_changed_setting_is_named_with_both_values() {
    let fixture = Fixture::new();
    begin(&fixture, "out", &[]);
    let dir = fixture.path("out");
    assert_eq!(
        error(fixture.play("out", &["game.beta=[1, 0.5]"])),
        format!(
            "the run in `{dir}` was begun with `game.beta` = 1.0, and it is now [1.0, 0.5]; set it back, or choose \
             another `output.dir`"
        )
    );
    assert!(error(fixture.play("out", &["game.seed=3"])).contains("`game.seed` = 0, and it is now 3"));
    assert!(error(fixture.play("out", &["eval.greedy=false"])).contains("`eval.greedy` = true, and it is now false"));
    // What changes no artefact may change.
    let free = [
        "rollout.live_sequences=9",
        "output.threads=1",
        "output.tensorboard=false",
        "output.prometheus=[::1]:9464",
        "eval.best=greedy.tokens.mean",
        "eval.goal=highest",
    ];
    fixture.play("out", &free).unwrap();
}

#[test]
fn a_changed_input_is_named() {
    let fixture = Fixture::new();
    begin(&fixture, "out", &[]);
    let (dir, test) = (fixture.path("out"), fixture.path("test.jsonl"));
    let mend = "restore it, or choose another `output.dir`";

    let data = fs::read_to_string(&test).unwrap();
    fixture.write_data("test.jsonl", 6, 9);
    assert_eq!(
        error(fixture.play("out", &[])),
        format!("what `data.test` names has changed since the run in `{dir}` began (the content of `{test}`); {mend}")
    );
    // The same content elsewhere is the same input, other content is not.
    let moved = fixture.path("moved.jsonl");
    let set = format!("data.test={moved}");
    fs::rename(&test, &moved).unwrap();
    assert!(error(fixture.play("out", &[&set])).contains(&format!("(`{test}` -> `{moved}`)")));
    fs::write(&moved, data).unwrap();
    fixture.play("out", &[&set]).unwrap();

    // Of a model, any file counts.
    let tokenizer = fixture.path("model/tokenizer_config.json");
    let settings = fs::read_to_string(&tokenizer).unwrap();
    fs::write(&tokenizer, settings.replacen('{', "{ ", 1)).unwrap();
    assert!(error(fixture.play("out", &[&set])).starts_with("what `model.path` names has changed"));
}

#[test]
fn a_changed_artefact_is_named() {
    let fixture = Fixture::new();
    fixture.play("out", &[]).unwrap();
    let pairs = fixture.path("out/iter-1/pairs.jsonl");
    let text = fs::read_to_string(&pairs).unwrap();
    fs::write(&pairs, text.replacen('1', "2", 1)).unwrap();
    assert_eq!(
        error(fixture.play("out", &[])),
        format!(
            "`{pairs}` has changed since the stage `iter-1/pairs` wrote it; restore it, or start again in another \
             `output.dir`"
        )
    );
    fs::remove_file(&pairs).unwrap();
    assert!(error(fixture.play("out", &[])).contains("there is no such file"));
}

#[test]
fn a_folder_of_something_else_is_left_alone() {
    let fixture = Fixture::new();
    fs::create_dir(fixture.path("out")).unwrap();
    fs::write(fixture.path("out/thesis.tex"), "").unwrap();
    let dir = fixture.path("out");
    assert_eq!(
        error(fixture.play("out", &[])),
        format!("`{dir}` holds files, but is not the folder of a run; choose another `output.dir`")
    );
    // What a run leaves that died before it had a manifest is no obstacle.
    fs::create_dir(fixture.path("new")).unwrap();
    fs::write(fixture.path("new/.config.toml.tmp"), "[mod").unwrap();
    fs::write(fixture.path("new/config.toml"), "[mod").unwrap();
    begin(&fixture, "new", &[]);
}

#[test]
fn two_runs_do_not_share_a_folder() {
    let fixture = Fixture::new();
    fs::create_dir(fixture.path("out")).unwrap();
    let lock = topspin_files::lock(Path::new(&fixture.path("out"))).unwrap();
    assert!(error(fixture.play("out", &[])).contains("is in use by another process"));
    drop(lock);
    begin(&fixture, "out", &[]);
}

#[test]
fn a_damaged_manifest_is_named() {
    let fixture = Fixture::new();
    begin(&fixture, "out", &[]);
    let path = fixture.path("out/manifest.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, &text[..text.len() / 2]).unwrap();
    assert!(error(fixture.play("out", &[])).contains(&format!("of `{path}` cannot be understood (EOF")));
    fs::write(&path, text.replace("\"format\": 1", "\"format\": 99")).unwrap();
    assert!(error(fixture.play("out", &[])).contains("whose folders have another form"));
    fs::write(&path, text.replace("iter-1/train", "iter-1/rest")).unwrap();
    assert!(error(fixture.play("out", &[])).contains("its stages are not those of the configuration"));
}
