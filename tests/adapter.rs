//! Runs that train an adapter, and what may be done with one.

use std::fs;

use crate::harness::Sandbox;
use crate::runs;

/// A finished run with an adapter, in the folder `game`.
fn played() -> Sandbox {
    let sandbox = runs::sandbox();
    let sets = "--set adapter.rank=4 --set adapter.alpha=8 --set sft.controls=[] --set train.optimizer=adamw";
    let said = sandbox.run(&format!("run run.toml --set output.dir=game {sets}"));
    assert!(said.starts_with("exit code: 0\n"), "{said}");
    sandbox
}

#[test]
fn an_adapter_is_a_model_like_any_other() {
    let sandbox = played();
    let described = sandbox.run("inspect game/iter-2/model");
    let adapter = "adapter                rank 4, alpha 8.0, rank_stabilized false, parameters ";
    assert!(described.contains(adapter), "{described}");

    // Alone, merged, and below products that decode anew: the same answers.
    sandbox.succeed("-q export game --iteration 2 --output merged");
    sandbox.succeed("-q export game --iteration 2 --output alone --format peft");
    let answers = |model: &str| {
        let output = model.replace(['/', ' '], "-");
        sandbox.succeed(&format!("-q generate -m {model} --dtype f32 --greedy -i test.jsonl -o {output}.jsonl"));
        let lines = sandbox.read_lines(&format!("{output}.jsonl"));
        lines.into_iter().map(|line| line["token_ids"].clone()).collect::<Vec<_>>()
    };
    let expected = answers("game/iter-2/model");
    for model in ["merged", "alone", "alone --weights stored"] {
        assert_eq!(answers(model), expected, "{model}");
    }
    assert_ne!(answers("model"), expected, "the adapter does nothing");

    let read = |name: &str| fs::read(sandbox.path(name)).unwrap();
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        assert!(read(&format!("alone/{name}")) == read(&format!("game/iter-2/model/{name}")), "{name}");
    }
    let card = sandbox.read("alone/README.md");
    assert!(card.contains("library_name: peft\n") && card.contains("\nAn adapter (LoRA) of rank 4, "), "{card}");
    let card = sandbox.read("merged/README.md");
    assert!(card.contains("an adapter (LoRA) of rank 4 is merged into them."), "{card}");
}

#[test]
fn what_cannot_be_done_with_an_adapter_is_said() {
    let sandbox = played();
    insta::assert_snapshot!(sandbox.run("export model --output out --format peft"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: `model` is a whole model, without an adapter; export it as `hf` or `gguf`
    ");
    insta::assert_snapshot!(sandbox.run("export game --output out --format peft --type bf16"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: an adapter is written in f32, as it was trained; leave `--type` out
    ");
    insta::assert_snapshot!(sandbox.run("run run.toml --set output.dir=other --set adapter.rank=4 --set adapter.targets='('"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: `[adapter]` cannot be used: the pattern \"(\" of its targets is no regular expression: Parsing error at position 1: Opening parenthesis without closing parenthesis
    ");
    // Its model has gone.
    fs::rename(sandbox.path("model"), sandbox.path("elsewhere")).unwrap();
    insta::assert_snapshot!(sandbox.run("generate -m game/iter-1/model -i test.jsonl"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: the adapter `game/iter-1/model` is of a model that cannot be opened: `model` is not a model: there is no such file or folder; check the path, or write `hf:org/name` for a model on the Hub (`base_model_name_or_path` in its `adapter_config.json` names it)
    ");
}
