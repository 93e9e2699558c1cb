//! `topspin bench`: that it measures what it says; how fast anything is, no test says.

use serde_json::{Value, json};

use crate::harness::{Sandbox, root};

/// Runs a benchmark, which must succeed, and reads its JSON object.
fn bench(sandbox: &Sandbox, line: &str) -> Value {
    let line = format!("-q bench {line} --json");
    let output = sandbox.topspin(&line.split_whitespace().collect::<Vec<_>>()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn number(figures: &Value, name: &str) -> f64 {
    figures[name].as_f64().unwrap_or_else(|| panic!("{name}: {figures}"))
}

/// Figures that all work has are there, finite, and agree with each other.
fn check(figures: &Value) {
    for name in ["tokens_per_s", "seconds", "flops", "gflops", "product_gflops", "mfu", "peak_product_gflops"] {
        assert!(number(figures, name) > 0.0, "{name}: {figures}");
    }
    let near = |a: f64, b: f64| assert!((a / b - 1.0).abs() < 1e-9, "{a} {b}: {figures}");
    let of = |name| number(figures, name);
    near(of("gflops") * 1e9 * of("seconds"), of("flops"));
    near(of("mfu") * of("product_gflops"), of("gflops"));
    near(of("peak_share") * of("peak_product_gflops"), of("gflops"));
    let operations = figures["operations"].as_object().unwrap();
    assert!(operations["linear_forward"].as_f64().unwrap() > 0.0, "{figures}");
    assert!(operations.values().all(|seconds| seconds.as_f64().unwrap() >= 0.0), "{figures}");
    if cfg!(target_os = "linux") {
        assert!(figures["peak_rss_bytes"].as_u64().is_some_and(|bytes| bytes > 1 << 20), "{figures}");
    }
}

/// Floating-point operations of a forward of the tiny model: of `rows` rows, `outputs` rows of logits and as many pairs
/// of query and key as `contexts` sum up to.
fn forward(sandbox: &Sandbox, rows: usize, outputs: usize, contexts: impl Iterator<Item = usize>) -> usize {
    let config: Value = serde_json::from_str(&sandbox.read("model/config.json")).unwrap();
    let of = |name: &str| config[name].as_u64().unwrap() as usize;
    let (d, f, vocabulary) = (of("hidden_size"), of("intermediate_size"), of("vocab_size"));
    let (q, kv) = (of("head_dim") * of("num_attention_heads"), of("head_dim") * of("num_key_value_heads"));
    // Query, key, value, output; gate, up, down. Then scores and their sums of values.
    let weights = d * q + 2 * d * kv + q * d + 3 * d * f;
    let attention: usize = contexts.map(|context| 2 * q * context + 2 * q * context).sum();
    of("num_hidden_layers") * (2 * weights * rows + attention) + 2 * d * vocabulary * outputs
}

#[test]
fn figures_have_their_names_and_are_numbers() {
    let sandbox = Sandbox::with_model();
    let generate = bench(
        &sandbox,
        "generate --model model --sequences 3 --prompt-tokens 5 --response-tokens 7 --steps 2 --threads 1",
    );
    check(&generate);
    assert_eq!((&generate["work"], &generate["model"]), (&"generate".into(), &"model".into()));
    assert_eq!((&generate["threads"], &generate["new_tokens"]), (&1.into(), &21.into()));
    assert!((number(&generate, "new_tokens_per_s") * number(&generate, "seconds") - 21.0).abs() < 1e-6);
    // The last new token is not fed; each but the first comes from a row of its own.
    assert_eq!(generate["flops"], 3 * forward(&sandbox, 5 + 6, 7, 1..=11));
    assert!(generate["operations"].get("attention_backward").is_none());

    let train =
        bench(&sandbox, "train --model model --pairs 2 --prompt-tokens 5 --response-tokens 7 --steps 2 --dtype f32");
    check(&train);
    assert_eq!((&train["work"], &train["dtype"], &train["pairs"]), (&"train".into(), &"f32".into(), &2.into()));
    assert!((number(&train, "pairs_per_s") * number(&train, "seconds") - 2.0).abs() < 1e-6);
    // A prompt and two branches of 6 rows behind it, forward and twice as much backward.
    assert_eq!(train["flops"], 2 * 3 * forward(&sandbox, 5 + 2 * 6, 14, (1..=5).chain(6..=11).chain(6..=11)));
    assert!(number(&train["operations"], "attention_backward") > 0.0);
    let peers = std::fs::read_to_string(root().join("benches/peers/compare.py")).unwrap();
    assert!(peers.contains("new_tokens_per_s") && peers.contains("pairs_per_s"));
}

#[test]
fn fewer_live_sequences_do_the_same_work_in_more_steps() {
    let sandbox = Sandbox::with_model();
    let line = "generate --model model --sequences 3 --prompt-tokens 5 --response-tokens 4 --steps 1 --live-sequences";
    let [alone, together] = ["1", "3"].map(|live| bench(&sandbox, &format!("{line} {live}")));
    assert_eq!(alone["flops"], together["flops"]);
}

#[test]
fn recomputation_is_no_useful_work() {
    let sandbox = Sandbox::with_model();
    let line = "train --model model --pairs 3 --prompt-tokens 5 --response-tokens 7 --steps 1 --batch-tokens 20";
    let [kept, again] = ["", "--recompute"].map(|flag| bench(&sandbox, &format!("{line} {flag}")));
    check(&again);
    assert_eq!(kept["flops"], again["flops"]);
}

#[test]
fn an_iteration_is_all_its_stages() {
    let sandbox = Sandbox::with_model();
    let examples = [(vec![5, 6, 7], vec![8, 9, 2]), (vec![7, 5], vec![6, 2]), (vec![9; 4], vec![5, 5, 5, 2])];
    let examples = examples.map(|(prompt, real)| json!({ "prompt": prompt, "real": real }));
    sandbox.write("tokens.json", json!({ "iteration": examples }).to_string());
    let line = "iteration --model model --tokens tokens.json --max-new-tokens 1 --batch-pairs 2";
    let figures = bench(&sandbox, line);
    check(&figures);
    assert_eq!((&figures["new_tokens"], &figures["pairs"]), (&3.into(), &3.into()));
    let phases = ["generate_s", "train_s"].map(|name| number(&figures, name));
    assert!((phases.iter().sum::<f64>() / number(&figures, "seconds") - 1.0).abs() < 1e-9);
    assert!((number(&figures, "new_tokens_per_s") * phases[0] - 3.0).abs() < 1e-6);
    assert!((number(&figures, "pairs_per_s") * phases[1] - 3.0).abs() < 1e-6);
    let flops = [(3, 3), (2, 2), (4, 4)].map(|(prompt, real)| {
        let fed = prompt + real - 1;
        // A generated response of one token is predicted by the prompt's last row and adds no row. Generation computes
        // the same rows as training: the prompt once, and the real response behind it.
        (1 + 3) * forward(&sandbox, fed, real + 1, 1..=fed)
    });
    assert_eq!(figures["flops"], flops.iter().sum::<usize>());
    let rows = 2 * (5 + 3 + 7);
    assert!((number(&figures, "tokens_per_s") * number(&figures, "seconds") - f64::from(rows)).abs() < 1e-6);

    let figures = bench(&sandbox, &format!("{line} --prompts 1 --steps 2"));
    assert_eq!((&figures["pairs"], &figures["flops"]), (&1.into(), &flops[0].into()));
    insta::assert_snapshot!(sandbox.run(&format!("-q bench {line} --prompts 4")), @"
    exit code: 2
    --- stdout
    --- stderr
    error: `tokens.json` has 3 prompts; ask for at most so many with `--prompts`
    ");
}

#[test]
fn an_iteration_needs_no_file() {
    let sandbox = Sandbox::with_model();
    let line = "iteration --model model --prompts 5 --prompt-tokens 6 --response-tokens 4 --max-new-tokens 3";
    let figures = bench(&sandbox, line);
    check(&figures);
    assert_eq!(figures["pairs"], 5);
    assert!((5..=15).contains(&figures["new_tokens"].as_u64().unwrap()), "{figures}");
}

#[test]
fn token_ids_may_come_from_a_file() {
    let sandbox = Sandbox::with_model();
    let tokens = r#"{"prompts": [[5, 6], [7]], "pairs": [{"prompt": [5], "real": [6, 2], "generated": [7, 8, 2]}]}"#;
    sandbox.write("tokens.json", tokens);
    // Three tokens for each of four prompts, which are the two of the file in turn.
    let figures =
        bench(&sandbox, "generate --model model --tokens tokens.json --sequences 4 --response-tokens 3 --steps 1");
    assert_eq!(figures["new_tokens"], 12);
    let figures = bench(&sandbox, "train --model model --tokens tokens.json --pairs 2 --steps 1");
    assert_eq!(figures["pairs"], 2);
    let rate = |name: &str| number(&figures, name);
    assert!((rate("tokens_per_s") * rate("seconds") - 2.0 * (1 + 1 + 2) as f64).abs() < 1e-6);
}

#[test]
fn a_data_file_is_read_as_the_model_reads_it() {
    let sandbox = Sandbox::with_model();
    let record = |prompt: &str, response: &str| json!({ "prompt": prompt, "response": response });
    sandbox.write_lines("data.jsonl", &[record("ab", "c"), record("abc", "def")]);
    // In the template of the tiny model: `u:`, the prompt and `<sep>`, each of them one token a character but the last.
    let (prompts, responses) = ([2 + 2 + 1, 2 + 3 + 1], [1 + 1, 3 + 1]);
    let rows = |figures: &Value| number(figures, "tokens_per_s") * number(figures, "seconds");
    let figures =
        bench(&sandbox, "generate --model model --data data.jsonl --sequences 2 --response-tokens 3 --steps 1");
    assert!((rows(&figures) - (prompts[0] + prompts[1] + 2 * 2) as f64).abs() < 1e-6, "{figures}");
    // The other response of each pair is that of the next record.
    let figures = bench(&sandbox, "train --model model --data data.jsonl --pairs 2 --steps 1");
    let branches = 2 * (responses[0] - 1 + responses[1] - 1);
    assert!((rows(&figures) - (prompts[0] + prompts[1] + branches) as f64).abs() < 1e-6, "{figures}");
    let figures = bench(&sandbox, "iteration --model model --data data.jsonl --max-new-tokens 2");
    check(&figures);
    assert_eq!(figures["pairs"], 2);
}

#[test]
fn products_are_told_by_shape_and_form() {
    let sandbox = Sandbox::with_model();
    let figures = bench(&sandbox, "gemm --model model --rows 1,5");
    assert!(number(&figures, "peak_product_gflops") > 0.0);
    let products = figures["products"].as_array().unwrap();
    assert_eq!(products.len(), 5 * 4 * 2);
    let config: Value = serde_json::from_str(&sandbox.read("model/config.json")).unwrap();
    for product in products {
        assert!(number(product, "gflops") > 0.0, "{product}");
        let shape = ["rows", "columns", "depth"].map(|name| product[name].as_u64().unwrap());
        let rows = product["batch_rows"].as_u64().unwrap();
        let (out, inner) = match product["product"].as_str().unwrap() {
            "qkv" => (4 * 8 + 2 * 2 * 8, 32),
            "o" => (32, 4 * 8),
            "gate_up" => (2 * 48, 32),
            "down" => (32, 48),
            "head" => (config["vocab_size"].as_u64().unwrap(), 32),
            other => panic!("{other}"),
        };
        let expected = match product["form"].as_str().unwrap() {
            "forward" | "training forward" => [rows, out, inner],
            "input gradient" => [rows, inner, out],
            "weight gradient" => [out, inner, rows],
            other => panic!("{other}"),
        };
        assert_eq!(shape, expected, "{product}");
    }
    let table = sandbox.run("-q bench gemm --architecture smollm2-135m --rows 1");
    assert!(table.starts_with("exit code: 0\n--- stdout\nproducts of smollm2-135m, "), "{table}");
    assert_eq!(table.matches("weight gradient").count(), 5, "{table}");
}

#[test]
fn an_architecture_needs_no_file() {
    let sandbox = Sandbox::new();
    let line = "--architecture smollm2-135m --sequences 1 --prompt-tokens 2 --response-tokens 2 --steps 1";
    let figures = bench(&sandbox, &format!("generate {line}"));
    check(&figures);
    assert_eq!(figures["model"], "smollm2-135m");
    // 30 layers of width 576, three rows, of which two give logits.
    let layer = 2 * 576 * (576 + 2 * 192 + 576 + 3 * 1536);
    assert_eq!(figures["flops"], 30 * (3 * layer + 4 * 576 * (1 + 2 + 3)) + 2 * 2 * 576 * 49152);
}

#[test]
fn figures_show_how_time_grows() {
    let sandbox = Sandbox::with_model();
    let line = "scaling --model model --out deep/figures --batch-tokens 10,30 --prompt-tokens 3,6,9 --thread-counts 1,2 \
                --live-sequences 1,2,4 --train-tokens 4 --generate-tokens 3 --steps 1";
    let figures = bench(&sandbox, line);
    let xs = |name: &str| -> Vec<u64> {
        let points = figures[name].as_array().unwrap();
        assert!(points.iter().all(|p| number(p, "seconds") > 0.0 && number(p, "arithmetic_seconds") > 0.0), "{name}");
        points.iter().map(|point| point["x"].as_u64().unwrap()).collect()
    };
    assert_eq!(xs("train_by_batch_tokens"), [10, 30]);
    assert_eq!(xs("train_by_prompt_tokens"), [3, 6, 9]);
    assert_eq!(xs("train_by_threads"), [1, 2]);
    assert_eq!(xs("generate_by_live_sequences"), [1, 2, 4]);
    for (name, charts, points) in [
        ("train-batch-tokens", 1, 4),
        ("train-prompt-tokens", 1, 6),
        ("train-threads", 1, 4),
        ("generate-live-sequences", 2, 9),
    ] {
        let svg = sandbox.read(&format!("deep/figures/{name}.svg"));
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n") && !svg.contains("NaN"), "{svg}");
        assert_eq!((svg.matches("<g ").count(), svg.matches("<circle").count()), (charts, points), "{svg}");
        assert!(svg.contains("<desc>model, "), "{svg}");
    }
}

#[test]
fn tables_name_what_they_show() {
    let sandbox = Sandbox::with_model();
    let size = "--model model --prompt-tokens 4 --response-tokens 3";
    let said = sandbox.run(&format!("-q bench iteration {size} --max-new-tokens 3 --prompts 2"));
    let names =
        ["iteration of model, ", "\nnew tokens/s ", "\npairs/s ", "\n  generate_s ", "\nMFU ", "\nlinear_forward "];
    assert!(names.iter().all(|name| said.contains(name)) && said.contains(", in training\n"), "{said}");
    let said = sandbox.run(&format!("-q bench train {size} --steps 1"));
    assert!(said.contains("share of the peak") && !said.contains("new tokens/s") && !said.contains("_s "), "{said}");
}

#[test]
fn work_that_cannot_be_done() {
    let sandbox = Sandbox::with_model();
    sandbox.write("tokens.json", r#"{"prompts": []}"#);
    insta::assert_snapshot!(sandbox.run("-q bench generate --model model --tokens tokens.json"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: `tokens.json` has no `prompts`; give it some
    ");
    insta::assert_snapshot!(sandbox.run("-q bench iteration --model model --tokens tokens.json"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: `tokens.json` has no `iteration`; give it some
    ");
    insta::assert_snapshot!(sandbox.run("-q bench train --model model --prompt-tokens 60 --response-tokens 60"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: prompts of 60 tokens with responses of 60 are longer than the model's context of 64; ask for fewer
    ");
    sandbox.write("tokens.json", json!({ "iteration": [{ "prompt": vec![5; 60], "real": vec![6; 6] }] }).to_string());
    insta::assert_snapshot!(sandbox.run("-q bench iteration --model model --tokens tokens.json"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: the prompt `1` with its response has 66 tokens, but the model's context holds 64; shorten or remove its record
    ");
    insta::assert_snapshot!(sandbox.run("-q bench train --architecture smollm"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: invalid value 'smollm' for '--architecture <NAME>'
      [possible values: smollm2-135m, smollm2-360m, smollm2-1.7b, llama-3.2-1b]

      tip: a similar value exists: 'smollm2-1.7b'

    For more information, try '--help'.
    ");
    insta::assert_snapshot!(sandbox.run("-q bench train --model model --architecture smollm2-135m"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: the argument '--model <MODEL>' cannot be used with '--architecture <NAME>'

    Usage: topspin bench train <--model <MODEL>|--architecture <NAME>>

    For more information, try '--help'.
    ");
    insta::assert_snapshot!(sandbox.run("-q bench train"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: the following required arguments were not provided:
      <--model <MODEL>|--architecture <NAME>>

    Usage: topspin bench train <--model <MODEL>|--architecture <NAME>>

    For more information, try '--help'.
    ");
    insta::assert_snapshot!(sandbox.run("-q bench train --architecture smollm2-135m --data data.jsonl"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: the argument '--architecture <NAME>' cannot be used with '--data <FILE>'

    Usage: topspin bench train <--model <MODEL>|--architecture <NAME>>

    For more information, try '--help'.
    ");
    insta::assert_snapshot!(sandbox.run("-q bench scaling --model model --out figures"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: prompts of 1024 tokens with responses of 128 are longer than the model's context of 64; ask for fewer
    ");
    let size = "--prompt-tokens 3 --train-tokens 3 --generate-tokens 3";
    insta::assert_snapshot!(sandbox.run(&format!("-q bench scaling --model model --out tokens.json {size}")), @"
    exit code: 2
    --- stdout
    --- stderr
    error: cannot create the folder `tokens.json`: something of that name is already there; remove it, or choose another name
    ");
    assert_eq!(sandbox.names(), ["model", "tokens.json"]);
}
