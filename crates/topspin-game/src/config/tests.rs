use std::path::Path;

use proptest::prelude::*;

use super::*;

fn parse(text: &str, sets: &[&str]) -> Result<Config, ConfigError> {
    let sets: Vec<_> = sets.iter().map(ToString::to_string).collect();
    Config::parse(text, Path::new("c.toml"), &sets)
}

/// What is said of a configuration that lacks nothing but has this one fault.
fn error(text: &str, sets: &[&str]) -> String {
    let given = ["model.path=m", "data.train=t", "output.dir=o"];
    let sets: Vec<_> = given.iter().chain(sets).copied().collect();
    let error = parse(text, &sets).and_then(|config| config.check()).unwrap_err().to_string();
    assert!(!error.ends_with('.') && !error.contains('\n'), "{error}");
    error
}

#[test]
fn the_defaults_lack_only_what_must_be_given() {
    for key in ["model.path", "data.train", "output.dir"] {
        let others: Vec<_> = ["model.path", "data.train", "output.dir"].into_iter().filter(|k| *k != key).collect();
        let sets: Vec<_> = others.iter().map(|key| format!("{key}=x")).collect();
        let config = parse("", &sets.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
        assert_eq!(
            config.check().unwrap_err().to_string(),
            format!("`{key}` is not set; give it in the configuration file or with `--set {key}=...`")
        );
    }
    parse("", &["model.path=x", "data.train=x", "output.dir=x"]).unwrap().check().unwrap();
}

#[test]
fn every_default_is_spelled_out() {
    let text = Config::default().to_toml();
    for (key, _) in Config::default().entries() {
        let (_, name) = key.split_once('.').unwrap();
        // A table that is empty has a heading of its own.
        let heading = format!("[{key}]");
        assert!(text.lines().any(|line| line == heading || line.starts_with(&format!("{name} = "))), "{key}");
    }
    assert_eq!(parse(&text, &[]).unwrap(), Config::default());
}

#[test]
fn unknown_keys_are_named_with_their_place_and_neighbour() {
    let unknown = |text, sets| error(text, sets);
    assert_eq!(
        unknown("# a comment\n[game]\nseed = 1\nbetta = 3", &[]),
        "unknown key `game.betta` in `c.toml`, line 4; did you mean `game.beta`?"
    );
    assert_eq!(
        unknown("[gane]\nbeta = 3", &[]),
        "unknown key `gane.beta` in `c.toml`, line 2; did you mean `game.beta`?"
    );
    assert_eq!(
        unknown("", &["train.batch_pair=3"]),
        "unknown key `train.batch_pair` given with `--set`; did you mean `train.batch_pairs`?"
    );
    assert_eq!(
        unknown("", &["temprature=3"]),
        "unknown key `temprature` given with `--set`; did you mean `rollout.temperature`?"
    );
    // Of two faults the first in the file is told.
    assert!(unknown("[train]\nxlr = 1\n[data]\nxtrain = 2", &[]).contains("line 2"));
}

#[test]
fn values_of_another_type_are_named() {
    for (text, sets, expected) in [
        (
            "[train]\n\nclip = 'x'",
            &[][..],
            "`train.clip` in `c.toml`, line 3: invalid type: string \"x\", expected a number",
        ),
        ("[game]\nbeta = 'x'", &[], "`game.beta` in `c.toml`, line 2: invalid type: string \"x\", expected a number"),
        (
            "[game]\nbeta = { a = 1 }",
            &[],
            "`game.beta` in `c.toml`, line 2: invalid type: map, expected one value, or a list with a value for each \
             iteration",
        ),
        (
            "",
            &["game.refresh=sometimes"],
            "`game.refresh` given with `--set`: expected \"never\", \"epoch\", or a number of steps",
        ),
        (
            "[game]\nseed = -1",
            &[],
            "`game.seed` in `c.toml`, line 2: invalid value: integer `-1`, expected a whole number, 0 or more",
        ),
        (
            "",
            &["train.batch_pairs=1.5"],
            "`train.batch_pairs` given with `--set`: invalid type: floating point `1.5`, expected a whole number, 0 or more",
        ),
        (
            "",
            &["train.optimizer=sgd"],
            "`train.optimizer` given with `--set`: unknown variant `sgd`, expected `adamw` or `rmsprop`",
        ),
        (
            "[output]\nprometheus = '9464'",
            &[],
            "`output.prometheus` in `c.toml`, line 2: `9464` is not an address and a port, such as \"127.0.0.1:9464\"",
        ),
        ("", &["beta"], "`--set beta` is not of the form `table.key=value`, as in `--set game.beta=0.2`"),
    ] {
        assert_eq!(error(text, sets), expected);
    }
}

#[test]
fn what_is_not_toml_is_named_with_its_line() {
    assert!(error("[game]\nbeta = = 3", &[]).starts_with("line 2 of `c.toml` cannot be understood: "));
    assert_eq!(
        error("beta = 3\n[game]\nseed = 3", &[]),
        "line 1 of `c.toml` cannot be understood: `beta` stands outside of every table; put it below its table, such as \
         `[game]`"
    );
}

#[test]
fn values_out_of_range_are_named() {
    for (set, expected) in [
        ("game.beta=0", "`game.beta` is 0, but must be a number above 0"),
        ("game.beta=[1, 2, nan]", "`game.beta` is NaN, but must be a number above 0"),
        ("train.lr=inf", "`train.lr` is inf, but must be a number above 0"),
        ("train.beta1=1", "`train.beta1` is 1, but must be 0 or above, and below 1"),
        ("train.clip=-1", "`train.clip` is -1, but must be 0 or a number above it"),
        ("sft.warmup=1.1", "`sft.warmup` is 1.1, but must be between 0 and 1"),
        ("rollout.top_p=0", "`rollout.top_p` is 0, but must be above 0, and 1 at most"),
        ("data.test_share=1", "`data.test_share` is 1, but must be above 0 and below 1"),
        ("data.max_unusable=1.5", "`data.max_unusable` is 1.5, but must be between 0 and 1"),
        ("data.train=[{path='a', weight=0}]", "`data.train.weight` is 0, but must be above 0, and 100 at most"),
        (
            "data.columns={promt='frage'}",
            "`data.columns` is \"promt\", but must be a table whose keys are fields of a record, such as `prompt` and \
             `response`",
        ),
        ("guard.real_fall=-0.1", "`guard.real_fall` is -0.1, but must be 0 or a number above it"),
        ("guard.accuracy=98", "`guard.accuracy` is 98, but must be between 0 and 1"),
        ("guard.longer=0.4", "`guard.longer` is 0.4, but must be 0, or above 1/2 and 1 at most"),
        ("guard.length=0.5", "`guard.length` is 0.5, but must be 0, or a number above 1"),
        ("guard.gradient=nan", "`guard.gradient` is NaN, but must be 0, or a number above 1"),
        ("game.samples=[1, 0, 1]", "`game.samples` is 0, but must be 1 or more"),
        ("train.batch_tokens=0", "`train.batch_tokens` is 0, but must be 1 or more"),
        ("train.clip=[1, -1, 1]", "`train.clip` is -1, but must be 0 or a number above it"),
        ("sft.controls=[{epochs=0, lr=1}]", "`sft.controls.epochs` is 0, but must be 1 or more"),
        ("game.refresh=0", "`game.refresh` is 0, but must be 1 or more"),
    ] {
        assert_eq!(error("", &[set]), expected);
    }
    assert_eq!(
        error("", &["game.samples=[1, 40, 1]", "game.refresh=[1, 2, 1]"]),
        "`game.refresh` is 2, but must be 3 or more with 40 `game.samples` and 16 `train.batch_pairs`: the pairs of a prompt are \
         of one opponent"
    );
    assert_eq!(
        error("", &["game.opponent=['latest', 'latest', 'latest_two']", "game.refresh=['never', 'epoch', 'never']"]),
        "`game.opponent` is \"latest_two\", but must be another one where `game.refresh` is not \"never\" in the iteration and \
         the one before: samples are taken over from whole iterations"
    );
    assert_eq!(
        error("", &["game.opponent=data", "game.samples=[1, 4, 1]"]),
        "`game.samples` is 4, but must be 1 where `game.opponent` is \"data\": a record has one rejected response"
    );
    // 0 switches a guard off.
    let guards = ["real_fall", "accuracy", "longer", "cut", "length", "distinct", "gradient"];
    let off: Vec<_> = guards.iter().map(|guard| format!("guard.{guard}=0")).collect();
    let given = ["model.path=m", "data.train=t", "output.dir=o"];
    let sets: Vec<_> = given.into_iter().chain(off.iter().map(String::as_str)).collect();
    parse("", &sets).unwrap().check().unwrap();
    for (sets, expected) in [
        (
            &["score.kind=regex"][..],
            "`score.pattern` is not set; give it in the configuration file or with `--set score.pattern=...`",
        ),
        (
            &["score.kind=command"],
            "`score.command` is not set; give it in the configuration file or with `--set score.command=...`",
        ),
        (
            &["score.kind=regex", "score.pattern=(a"],
            "`score.pattern` is \"(a\", but must be a regular expression (Parsing error at position 2: Opening parenthesis \
             without closing parenthesis)",
        ),
        (
            &["score.kind=exact_match", "score.pattern=a"],
            "`score.pattern` is \"a\", but must be left out unless `score.kind` is \"regex\"",
        ),
        (
            &["score.target_tokens=3"],
            "`score.target_tokens` is 3, but must be left out unless `score.kind` is \"length\"",
        ),
        (
            &["score.command=['a']"],
            "`score.command` is [\"a\"], but must be left out unless `score.kind` is \"command\"",
        ),
        (&["score.use=policy"], "`score.use` is \"policy\", but must be \"pairs\" where `score.kind` is \"none\""),
        (
            &["score.gap=0.5"],
            "`score.gap` is 0.5, but must be 0 unless a score judges pairs (`score.kind`, `score.use`)",
        ),
        (&["score.kind=numeric", "score.gap=[0, -1, 0]"], "`score.gap` is -1, but must be 0 or a number above it"),
        (&["score.timeout=0"], "`score.timeout` is 0, but must be 1 or more"),
        (
            &["score.kind=numeric", "game.opponent=data"],
            "`score.kind` is \"numeric\", but must be \"none\" where `game.opponent` is \"data\": nothing is sampled that could be \
             scored",
        ),
    ] {
        assert_eq!(error("", sets), expected);
    }
    for (set, expected) in [
        ("game.samples=1", "`game.samples` is 1, but must be 2 or more where `score.use` is \"policy\""),
        (
            "game.opponent=['latest', 'mixture', 'latest']",
            "`game.opponent` is \"mixture\", but must be one whose samples are the reference's own where `score.use` is \"policy\"",
        ),
        ("game.objective=hinge", "`game.objective` is \"hinge\", but must be left out where `score.use` is \"policy\""),
        ("game.nll=0.1", "`game.nll` is 0.1, but must be 0 where `score.use` is \"policy\""),
        ("game.dpop=[0, 1, 0]", "`game.dpop` is [0.0, 1.0, 0.0], but must be 0 where `score.use` is \"policy\""),
        ("score.gap=1", "`score.gap` is 1, but must be 0 unless a score judges pairs"),
    ] {
        let found = error("", &["score.kind=length", "score.use=policy", "game.samples=4", set]);
        assert!(found.starts_with(expected), "{found}");
    }
    let off = error("", &["eval.best=greedy.exact_match", "eval.greedy=false"]);
    assert!(
        off.starts_with("`eval.best` is \"greedy.exact_match\", but must be a metric of what is generated"),
        "{off}"
    );
}

#[test]
fn lists_have_a_value_for_each_iteration() {
    assert_eq!(
        error("[game]\nbeta = [0.1, 1.0]", &[]),
        "`game.beta` lists 2 values for 3 iterations (`game.iterations`); give one value for all, or one for each"
    );
    // Lists of another kind.
    let others = ["adapter.targets", "data.train", "eval.scorer", "sft.controls"];
    let mut by_iteration = Vec::new();
    for (key, default) in Config::default().entries() {
        let list = |n: usize| format!("{key}=[{}]", vec![default.to_string(); n].join(","));
        if others.contains(&&*key) || parse("", &[&list(3)]).is_err() {
            continue;
        }
        assert!(error("", &[&list(4)]).starts_with(&format!("`{key}` lists 4 values for 3 iterations")), "{key}");
        parse("", &["model.path=x", "data.train=x", "output.dir=x", &list(3)]).unwrap().check().unwrap();
        by_iteration.push(key);
    }
    let fixed = |key: &str| !by_iteration.iter().any(|other| other == key);
    let of = |table: &str| {
        Config::default()
            .entries()
            .into_iter()
            .map(|(key, _)| key)
            .filter(|key| key.starts_with(table))
            .collect::<Vec<_>>()
    };
    let fixed: Vec<_> = ["game.", "rollout.", "train."].into_iter().flat_map(of).filter(|key| fixed(key)).collect();
    // The rest of these tables is by iteration.
    assert_eq!(
        fixed,
        [
            "game.iterations",
            "game.seed",
            "rollout.live_sequences",
            "rollout.max_new_tokens",
            "rollout.rows_per_step",
            "train.batch_tokens",
            "train.checkpoint_every",
            "train.recompute",
        ]
    );
    let none = error("", &["game.iterations=0", "game.beta=[]"]);
    assert!(none.starts_with("`game.beta` lists 0 values for 0 iterations"), "{none}");
    let config = parse("[game]\nbeta = [0.1, 0.1, 5]", &[]).unwrap();
    assert_eq!([1, 2, 3].map(|k| *config.game.beta.of(k)), [0.1, 0.1, 5.0]);
}

#[test]
fn training_data_is_one_file_or_several_with_weights() {
    let sources = |text: &str| parse(text, &[]).unwrap().data.train.to_vec();
    let source = |spec: &str, weight| topspin_data::Source { spec: spec.into(), weight };
    assert_eq!(sources("[data]\ntrain = 'a'"), [source("a", 1.0)]);
    let mixed = [source("a*", 1.0), source("b", 2.0), source("c", 0.5)];
    assert_eq!(sources("[data]\ntrain = ['a*', { path = 'b', weight = 2 }, { path = 'c', weight = 0.5 }]"), mixed);
    let tables = "[[data.train]]\npath = 'b'\nweight = 2\n[[data.train]]\npath = 'c'\nweight = 0.5\n";
    assert_eq!(sources(tables), mixed[1..]);
    for text in ["train = 3", "train = [3]", "train = [{ path = 'a', wait = 2 }]", "train = [{ weight = 2 }]"] {
        let error = error(&format!("[data]\n{text}"), &[]);
        let expected = "`data.train` in `c.toml`, line 2: expected a path, or a list of paths and of tables";
        assert!(error.starts_with(expected), "{error}");
    }
    for none in ["''", "[]", "['a', '']"] {
        let config = parse("", &["model.path=m", "output.dir=o", &format!("data.train={none}")]).unwrap();
        assert!(matches!(config.check(), Err(ConfigError::Missing { key }) if key == "data.train"), "{none}");
    }
}

#[test]
fn the_command_line_comes_last_and_needs_no_quotes() {
    let config = parse(
        "[data]\ntrain = 'a'\n[game]\nseed = 1",
        &["data.train=some folder/b.jsonl", "game.seed = 2", "game.seed=3", "eval.scorer=['python3', 'x.py']"],
    );
    let config = config.unwrap();
    assert_eq!((config.data.train, config.game.seed), ("some folder/b.jsonl".into(), 3));
    assert_eq!(config.eval.scorer, ["python3", "x.py"]);
}

#[test]
fn a_run_is_named_after_its_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("my-run.toml");
    std::fs::write(&path, "[model]\npath = 'm'\n[data]\ntrain = 't'").unwrap();
    assert_eq!(Config::load(&path, &[]).unwrap().output.dir, "runs/my-run");
    assert_eq!(Config::load(&path, &["output.dir=elsewhere".into()]).unwrap().output.dir, "elsewhere");
    let missing = Config::load(&dir.path().join("none.toml"), &[]).unwrap_err().to_string();
    assert!(missing.contains("none.toml`: there is no such file"), "{missing}");
}

proptest! {
    /// What `config.toml` holds is what the run was begun with, to the bit.
    #[test]
    fn the_written_configuration_reads_back(
        beta in prop::collection::vec(1e-12..1e12f64, 1..4),
        lr in prop::num::f64::POSITIVE,
        seed in 0..=i64::MAX as u64,
        path in "\\PC{0,12}",
        sizes in prop::collection::vec(0..1usize << 40, 3),
    ) {
        let mut config = Config::default();
        config.game.beta = if beta.len() == 1 { PerIteration::One(beta[0]) } else { PerIteration::Each(beta) };
        config.train.lr = PerIteration::One(lr);
        config.sft.lr = lr;
        config.game.seed = seed;
        config.model.path = path.clone();
        config.eval.scorer = vec![path];
        (config.train.batch_tokens, config.eval.prompts) = (sizes[0], sizes[1]);
        config.data.prompts = PerIteration::Each(sizes);
        config.data.columns = BTreeMap::from([("prompt".into(), config.model.path.clone())]);
        let weighted = Part::Weighted { path: config.model.path.clone(), weight: lr };
        config.data.train = Sources::Several(vec![weighted.clone(), Part::Path("a".into()), weighted.clone()]);
        prop_assert_eq!(&parse(&config.to_toml(), &[]).unwrap(), &config);
        config.data.train = Sources::Several(vec![weighted]);
        prop_assert_eq!(parse(&config.to_toml(), &[]).unwrap(), config);
    }
}
