//! `topspin generate` and `topspin score`: the fixed interfaces, and the numbers of the two against each other.

use serde_json::{Value, json};

use crate::harness::{CONTEXT, Sandbox};

/// Prompts of different lengths, one of them twice, one as a conversation.
fn prompts() -> Vec<Value> {
    vec![
        json!({"prompt": "What is a top?", "id": 7, "kept": {"z": [1, 2.5, null], "a": "é"}}),
        json!({"prompt": "a"}),
        json!({"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]}),
        json!({"prompt": "a"}),
        json!({"prompt": "Tell me all about spinning tops."}),
    ]
}

fn logprobs(line: &Value, key: &str) -> Vec<u32> {
    // Parsed as the shortest decimals that they are: bits of an f32.
    line[key].as_array().unwrap().iter().map(|x| x.to_string().parse::<f32>().unwrap().to_bits()).collect()
}

#[test]
fn a_line_out_is_the_line_in_and_what_was_generated() {
    let sandbox = Sandbox::with_model();
    sandbox.write_lines("in.jsonl", &prompts());
    sandbox.succeed("generate --model model --input in.jsonl --output out.jsonl --max-new-tokens 12 --seed 3");
    let out = sandbox.read_lines("out.jsonl");
    assert_eq!(out.len(), 5);
    for (line, input) in out.iter().zip(prompts()) {
        for (key, value) in input.as_object().unwrap() {
            assert_eq!(&line[key], value);
        }
        let added: Vec<_> = line.as_object().unwrap().keys().skip(input.as_object().unwrap().len()).collect();
        assert_eq!(added, ["response", "token_ids", "logprobs", "finish_reason"]);
        let ids = line["token_ids"].as_array().unwrap();
        assert_eq!(ids.len(), line["logprobs"].as_array().unwrap().len());
        assert!(line["logprobs"].as_array().unwrap().iter().all(|x| x.as_f64().unwrap() < 0.0));
        // Of a model of characters: one for each token, but for the end of turn (2).
        let stopped = ids.last().unwrap() == 2;
        assert_eq!(line["finish_reason"], if stopped { "stop" } else { "length" });
        if !stopped {
            assert_eq!(ids.len(), 12);
        }
        assert!(ids[..ids.len() - 1].iter().all(|id| id != 2), "it goes on behind its end");
    }
    assert_ne!(out[1]["token_ids"], out[3]["token_ids"], "a prompt that comes again is a new sample");
}

#[test]
fn what_a_prompt_gets_depends_on_nothing_but_itself() {
    let sandbox = Sandbox::with_model();
    sandbox.write_lines("in.jsonl", &prompts());
    let flags = "generate --model model --seed 5 --max-new-tokens 20 --samples 3";
    sandbox.succeed(&format!("{flags} --input in.jsonl --output all.jsonl"));
    let all = sandbox.read_lines("all.jsonl");
    assert_eq!(all.iter().map(|line| line["sample"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1, 2].repeat(5));
    sandbox.succeed(&format!("{flags} --input in.jsonl --output again.jsonl --threads 1 --live 2"));
    assert_eq!(sandbox.read("again.jsonl"), sandbox.read("all.jsonl"));
    let mut turned = prompts();
    turned.remove(2);
    turned.reverse();
    sandbox.write_lines("turned.jsonl", &turned);
    sandbox.succeed(&format!("{flags} --input turned.jsonl --output turned-out.jsonl"));
    let turned = sandbox.read_lines("turned-out.jsonl");
    assert_eq!(turned[..3], all[12..]);
    assert_eq!(turned[9..], all[..3]);
    sandbox.succeed(&format!("{flags} --input in.jsonl --output other.jsonl --seed 6").replacen(" --seed 5", "", 1));
    assert_ne!(sandbox.read("other.jsonl"), sandbox.read("all.jsonl"));
}

#[test]
fn generate_and_score_report_the_same_bits() {
    let sandbox = Sandbox::with_model();
    sandbox.write_lines("in.jsonl", &prompts());
    for dtype in ["f32", "bf16"] {
        for how in ["--greedy", "--temperature 1.3 --top-p 0.9 --samples 2", "--top-k 5"] {
            let flags = format!("--model model --dtype {dtype} --max-new-tokens 25 --seed 1 {how}");
            sandbox.succeed(&format!("generate --input in.jsonl --output out.jsonl {flags}"));
            sandbox.succeed(&format!("score --model model --dtype {dtype} --input out.jsonl --output scored.jsonl"));
            let (generated, scored) = (sandbox.read_lines("out.jsonl"), sandbox.read_lines("scored.jsonl"));
            assert_eq!(generated.len(), scored.len());
            for (generated, scored) in generated.iter().zip(&scored) {
                assert_eq!(generated["token_ids"], scored["token_ids"], "{flags}");
                assert_eq!(logprobs(generated, "logprobs"), logprobs(scored, "token_logprobs"), "{flags}");
            }
        }
    }
}

#[test]
fn a_response_is_scored_with_one_end_of_turn() {
    let sandbox = Sandbox::with_model();
    let line = |response: &str| json!({"prompt": "Hi", "response": response, "more": true});
    sandbox.write_lines("in.jsonl", &[line("abc"), line("abc<end>"), line("")]);
    sandbox.succeed("score --model model --input in.jsonl --output out.jsonl");
    let out = sandbox.read_lines("out.jsonl");
    let keys: Vec<_> = out[0].as_object().unwrap().keys().collect();
    assert_eq!(keys, ["prompt", "response", "more", "token_ids", "token_logprobs", "logprob"]);
    let ids = |at: usize| out[at]["token_ids"].as_array().unwrap().len();
    assert_eq!((ids(0), ids(1), ids(2)), (4, 4, 1));
    assert_eq!(out[0]["token_ids"][3], 2);
    assert_eq!(logprobs(&out[0], "token_logprobs"), logprobs(&out[1], "token_logprobs"));
    let sum: f64 = out[0]["token_logprobs"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).sum();
    assert!((out[0]["logprob"].as_f64().unwrap() - sum).abs() < 1e-5);
}

/// Tokens that do not spell the response, as when somebody has edited it, are not scored in its place.
#[test]
fn an_edited_response_is_scored_as_it_stands() {
    let sandbox = Sandbox::with_model();
    let stale = json!({"prompt": "Hi", "response": "abc", "token_ids": [40, 41, 2]});
    sandbox.write_lines("in.jsonl", &[stale, json!({"prompt": "Hi", "response": "abc", "token_ids": [999_999]})]);
    sandbox.succeed("score --model model --input in.jsonl --output out.jsonl");
    for line in sandbox.read_lines("out.jsonl") {
        assert_eq!(line["token_ids"].as_array().unwrap().len(), 4);
    }
}

#[test]
fn results_go_to_stdout_and_messages_to_stderr() {
    let sandbox = Sandbox::with_model();
    sandbox.write_lines("in.jsonl", &prompts());
    sandbox.succeed("generate --model model --input in.jsonl --output out.jsonl --greedy --max-new-tokens 4");
    let mut command = sandbox.topspin(&["-q", "generate", "--model", "model", "--input", "in.jsonl"]);
    let output = command.args(["--greedy", "--max-new-tokens", "4"]).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), sandbox.read("out.jsonl"));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");

    let mut piped = sandbox.topspin(&["-q", "generate", "--model", "model", "--input", "-"]);
    piped.write_stdin(sandbox.read("in.jsonl"));
    let output = piped.args(["--greedy", "--max-new-tokens", "4"]).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), sandbox.read("out.jsonl"));
}

#[test]
fn a_response_may_fill_the_context_and_no_more() {
    let sandbox = Sandbox::with_model();
    // `u:`, the text and `<sep>` are all but one of the positions.
    sandbox.write_lines("in.jsonl", &[json!({"prompt": "x".repeat(CONTEXT - 4)})]);
    sandbox.succeed("generate --model model --input in.jsonl --output out.jsonl --max-new-tokens 50");
    let out = sandbox.read_lines("out.jsonl");
    assert_eq!(out[0]["token_ids"].as_array().unwrap().len(), 1);
    sandbox.succeed("score --model model --input out.jsonl --output scored.jsonl");
}
