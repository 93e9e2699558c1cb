//! What settings do to a run.

use serde_json::json;

use super::*;

/// The lines of a file as JSON.
pub(super) fn lines(path: &str) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

pub(super) fn figures(fixture: &Fixture, out: &str, stage: &str) -> Map<String, Value> {
    let manifest = Manifest::read(Path::new(&fixture.path(out))).unwrap();
    manifest.figures(stage).unwrap().clone()
}

#[test]
fn a_list_gives_each_iteration_its_own_value() {
    let fixture = Fixture::new();
    let sets = ["game.samples=[1, 3]", "data.prompts=[4, 5]", "train.epochs=[2, 1]", "train.lr=[1e-3, 1e-4]"];
    fixture.play("out", &sets).unwrap();
    for (k, samples, epochs, lr) in [(1, 4, 2, 1e-3), (2, 15, 1, 1e-4)] {
        assert_eq!(lines(&fixture.path(&format!("out/iter-{k}/rollouts.jsonl"))).len(), samples);
        let pairs = figures(&fixture, "out", &format!("iter-{k}/pairs"))["pairs"].as_u64().unwrap();
        let metrics = lines(&fixture.path(&format!("out/iter-{k}/metrics.jsonl")));
        assert_eq!(metrics.len() as u64, epochs * pairs.div_ceil(3));
        let highest = metrics.iter().map(|m| m["train/learning_rate"].as_f64().unwrap()).fold(0.0, f64::max);
        assert!(highest > 0.5 * lr && highest <= lr, "{highest}");
    }
}

#[test]
fn iterations_take_fresh_shares_or_the_same() {
    let fixture = Fixture::new();
    let prompts = |out: &str, k: usize| -> Vec<u64> {
        let mut seen: Vec<_> = lines(&fixture.path(&format!("{out}/iter-{k}/rollouts.jsonl")))
            .iter()
            .map(|line| line["line"].as_u64().unwrap())
            .collect();
        seen.dedup();
        seen
    };
    fixture.play("fresh", &["data.prompts=14", "game.samples=1"]).unwrap();
    let (first, second) = (prompts("fresh", 1), prompts("fresh", 2));
    assert_eq!((first.len(), second.len()), (14, 14));
    // 24 records: the second share is what the first left, and then it starts over.
    assert!(second[..10].iter().all(|line| !first.contains(line)));
    assert_eq!(second[10..], first[..4]);

    fixture.play("same", &["data.prompts=14", "game.samples=1", "data.fresh=false"]).unwrap();
    assert_eq!(prompts("same", 1), first);
    assert_eq!(prompts("same", 2), first);
    fixture
        .play(
            "twice",
            &["data.prompts=9", "game.samples=1", "game.iterations=4", "data.fresh=[true, true, false, true]"],
        )
        .unwrap();
    let [first, second, third, fourth] = [1, 2, 3, 4].map(|k| prompts("twice", k));
    assert_eq!(third, second);
    assert_eq!((&fourth[..6], &fourth[6..]), (&prompts("fresh", 2)[4..10], &first[..3]));

    // The same prompts, and yet other samples: random numbers go by iteration.
    let tokens = |k: usize| {
        let lines = lines(&fixture.path(&format!("same/iter-{k}/rollouts.jsonl")));
        lines.iter().map(|line| line["response"]["token_ids"].clone()).collect::<Vec<_>>()
    };
    assert_ne!(tokens(1), tokens(2));
}

#[test]
fn without_a_supervised_stage_the_model_stays_as_it_is() {
    let fixture = Fixture::new();
    fixture.play("out", &["sft.enabled=false", "sft.controls=[]", "game.iterations=1"]).unwrap();
    let weights = |folder: &str| fs::read(fixture.path(&format!("{folder}/model.safetensors"))).unwrap();
    assert_eq!(weights("model"), weights("out/iter-0/model"));
    assert!(!Path::new(&fixture.path("out/control-1")).exists());
}

#[test]
fn a_share_of_the_prompts_is_held_out_where_no_test_file_is_named() {
    let fixture = Fixture::new();
    let sets = ["data.test=", "data.test_share=0.3", "data.prompts=0", "game.iterations=1", "eval.prompts=0"];
    fixture.play("out", &sets).unwrap();
    let trained = lines(&fixture.path("out/iter-1/pairs.jsonl"));
    let tested = lines(&fixture.path("out/iter-1/greedy.jsonl"));
    assert!(!tested.is_empty() && tested.len() < 24);
    for generation in &tested {
        assert!(trained.iter().all(|tree| tree["prompt_id"] != generation["id"]));
    }
}

#[test]
fn long_prompts_are_left_out_only_on_request_and_named() {
    let fixture = Fixture::new();
    let long = "a".repeat(60);
    let data = fs::read_to_string(fixture.path("train.jsonl")).unwrap();
    fs::write(fixture.path("train.jsonl"), format!("{data}{{\"prompt\": \"{long}\", \"response\": \"b\"}}\n")).unwrap();
    let error = fixture.play("out", &[]).unwrap_err().to_string();
    assert!(error.contains("train.jsonl`, line 25: the prompt has 61 tokens, which leaves no room"), "{error}");

    fixture.play("out", &["data.max_prompt_tokens=30", "game.iterations=0", "sft.controls=[]"]).unwrap();
    let problem = "the prompt has 61 tokens, more than `data.max_prompt_tokens`";
    let skipped = json!({"file": fixture.path("train.jsonl"), "line": 25, "reason": "too_long", "problem": problem});
    assert_eq!(lines(&fixture.path("out/skipped.jsonl")), [skipped]);
    assert_eq!(Manifest::read(Path::new(&fixture.path("out"))).unwrap().records.too_long, 1);
}

#[test]
fn real_responses_are_cut_like_generated_ones() {
    let fixture = Fixture::new();
    fixture.play("out", &["rollout.max_new_tokens=4", "game.iterations=1"]).unwrap();
    let trees = lines(&fixture.path("out/iter-1/pairs.jsonl"));
    let (mut cut, mut whole) = (0, 0);
    for real in trees.iter().map(|tree| &tree["real"]) {
        let tokens = real["token_ids"].as_array().unwrap();
        let ends = tokens.last().unwrap() == 2;
        assert_eq!(real["finish"], if ends { "stop" } else { "length" });
        assert!(tokens.len() <= 4);
        if ends { whole += 1 } else { cut += 1 }
    }
    assert!(cut > 0 && whole > 0, "{cut} {whole}");
}

#[cfg(unix)]
#[test]
fn a_scorer_adds_figures_and_its_faults_are_named() {
    let fixture = Fixture::new();
    let script = |name: &str, text: &str| {
        fs::write(fixture.path(name), text).unwrap();
        format!("eval.scorer=['sh', '{}']", fixture.path(name))
    };
    let base = ["game.iterations=0", "sft.controls=[]", "eval.timeout=1"];
    let play = |scorer: &str| fixture.play("out", &[base[0], base[1], base[2], scorer]);
    let error = |scorer: &str| play(scorer).unwrap_err().to_string();
    let each = |answer: &str| format!("while read line; do echo '{answer}'; done");

    assert!(error(&script("a.sh", "exit 3")).contains("failed (exit status: 3); try it by hand on `"));
    let garbage = error(&script("b.sh", &each("{\"a\": \"x\"}")));
    assert!(garbage.contains("for line 1, which is neither a number nor an object of numbers; it must"), "{garbage}");
    assert!(error(&script("c.sh", "cat > /dev/null")).contains("printed 0 lines for the 6 that it reads; it must"));
    assert!(error(&script("d.sh", "yes 1")).contains("printed more than 6 lines, though it reads no more"));
    assert!(error(&script("e.sh", "sleep 30")).contains("was silent for 1 s, and was ended"));
    let kinds = error(&script("f.sh", "echo '{\"a\": 1}'; echo '{\"a\": true}'; cat > /dev/null"));
    assert!(kinds.contains("says of `a` in line 2 something of another kind than before"), "{kinds}");
    let names = error(&script("g.sh", "echo '{\"a\": 1}'; echo '{\"b\": 1}'; cat > /dev/null"));
    assert!(names.contains("says `b` in line 2, and `a` in the lines before"), "{names}");
    assert!(error("eval.scorer=['/nonexistent/x']").contains("cannot be started"));
    let misspelt = [base[0], base[1], "eval.best=greedy.slots"];
    let error_of = fixture.play("out", &misspelt).unwrap_err().to_string();
    assert!(error_of.starts_with("`eval.best` is `greedy.slots`, but the evaluation has no such metric"), "{error_of}");
    assert!(error_of.contains("`nll.per_token`"), "{error_of}");
    // A scorer that was mended does not cost the generations.
    let good = script("h.sh", &each("{\"hits\": true, \"rate\": [1, 4], \"worth\": 0.5}"));
    let summary = play(&good).unwrap();
    let figures = &summary.rows[0].report.figures;
    let of = |name: &str| figures[name].value;
    assert_eq!([of("greedy.hits"), of("sampled.rate"), of("sampled.worth")], [1.0, 0.25, 0.5]);
    assert_eq!(figures["sampled.rate"].low, Some(0.25));
    // But figures of two scorers do not stand in one table.
    assert!(error(&script("i.sh", &each("1"))).contains("`eval.scorer`"));
}
