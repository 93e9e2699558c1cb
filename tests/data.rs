//! `topspin data inspect`, and data of other formats in other commands.

use serde_json::{Value, json};

use crate::harness::{CONTEXT, Sandbox, pairs};

fn records() -> Vec<Value> {
    let more = [
        json!({"prompt": "four", "chosen": "4", "rejected": "5"}),
        json!({"prompt": "one", "response": "1"}),
        json!({"prompt": " "}),
        json!({"text": "five"}),
        json!({"prompt": 6}),
    ];
    pairs().into_iter().chain(more).collect()
}

#[test]
fn says_what_data_holds() {
    let sandbox = Sandbox::new();
    sandbox.write_lines("data.jsonl", &records());
    insta::assert_snapshot!(sandbox.run("data inspect data.jsonl"), @"
    exit code: 0
    --- stdout
    files                  data.jsonl
    records                9
    unusable               1 malformed, 2 empty
    exact duplicates       1
    different prompts      4
    with response          5
    with rejected          1
    with references        1
    with system message    1
    with several turns     1

    prompt characters      least 3, median 3, 95% up to 13, most 13
        2 - 3          4  ########################################
        4 - 7          1  ##########
        8 - 15         1  ##########

    response characters    least 1, median 1, 95% up to 7, most 7
       1 - 1         4  ########################################
       2 - 3         0
       4 - 7         1  ##########

    examples (what is trained on is marked {+so+})

    `data.jsonl`, line 1
    user: one
    assistant: {+1+}

    `data.jsonl`, line 2
    user: two
    assistant: {+2 or so+}

    `data.jsonl`, line 3
    user: two
    assistant: (nothing is trained on)
    --- stderr
    ");
    insta::assert_snapshot!(sandbox.run("data inspect data.jsonl --problems --examples 0 --json"), @r#"
    exit code: 0
    --- stdout
    {"files":["data.jsonl"],"records":9,"unusable":{"malformed":1,"empty":2},"duplicates":1,"different_prompts":4,"with_response":5,"with_rejected":1,"with_references":1,"with_system_message":1,"with_several_turns":1,"unit":"characters","prompt_lengths":{"least":3,"median":3,"p95":13,"most":13,"histogram":[{"from":2,"to":3,"count":4},{"from":4,"to":7,"count":1},{"from":8,"to":15,"count":1}]},"response_lengths":{"least":1,"median":1,"p95":7,"most":7,"histogram":[{"from":1,"to":1,"count":4},{"from":2,"to":3,"count":0},{"from":4,"to":7,"count":1}]},"problems":[{"place":"`data.jsonl`, line 7","kind":"empty","problem":"`prompt` is empty; fill it in or remove the record"},{"place":"`data.jsonl`, line 8","kind":"empty","problem":"there is no prompt; add `prompt` (or `question`, or `messages`), or name its column in `data.columns`"},{"place":"`data.jsonl`, line 9","kind":"malformed","problem":"`prompt` must be a string and is a number"},{"place":"`data.jsonl`, line 6","kind":"duplicate","problem":"it repeats an earlier record word for word"}],"examples":[]}
    --- stderr
    "#);
    insta::assert_snapshot!(sandbox.run("data inspect nowhere.jsonl"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: cannot read `nowhere.jsonl`: there is no such file or folder; check the path
    ");
    insta::assert_snapshot!(sandbox.run("data inspect *.parquet"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: `*.parquet` matches no file; check the path
    ");
    insta::assert_snapshot!(sandbox.run("data inspect data.jsonl --column promt=text"), @"
    exit code: 2
    --- stdout
    --- stderr
    error: invalid value 'promt=text' for '--column <FIELD=NAME>': `promt` is no field of a record, such as `prompt` or `response`

    For more information, try '--help'.
    ");
}

#[test]
fn says_what_a_model_makes_of_data() {
    let sandbox = Sandbox::with_model();
    let mut lines = records();
    lines.truncate(4);
    lines.push(json!({"prompt": "x".repeat(CONTEXT), "response": "y"}));
    lines.push(json!({"prompt": "é", "response": "y"}));
    sandbox.write_lines("data.jsonl", &lines);
    insta::assert_snapshot!(
        sandbox.run("data inspect data.jsonl --model model --max-response-tokens 4 --problems --examples 4"), @r#"
    exit code: 0
    --- stdout
    files                  data.jsonl
    records                6
    unusable               1 malformed, 1 too long
    exact duplicates       0
    different prompts      5
    with response          5
    with rejected          0
    with references        1
    with system message    1
    with several turns     1
    responses cut          1

    prompt tokens          least 6, median 6, 95% up to 25, most 25
        4 - 7          3  ########################################
        8 - 15         0
       16 - 31         1  ##############

    response tokens        least 2, median 2, 95% up to 8, most 8
       2 - 3         2  ########################################
       4 - 7         0
       8 - 15        1  ####################

    `data.jsonl`, line 5: too long: the prompt has 67 tokens, and the model's context is 64
    `data.jsonl`, line 6: malformed: cannot turn the text "u:é<sep>" into tokens: the model has no token for 'é'; remove it, or choose a model that knows it
    `data.jsonl`, line 2: cut: the response has 8 tokens and is cut to 4

    examples (what is trained on is marked {+so+})

    `data.jsonl`, line 1
    u:one<sep>{+1<end>+}

    `data.jsonl`, line 2
    u:two<sep>{+2 or+} (4 tokens more are cut off)

    `data.jsonl`, line 3
    u:two<sep> (nothing is trained on)

    `data.jsonl`, line 4
    s:Count.<sep>u:a<sep>a:b<end>u:three<sep>{+3<end>+}
    --- stderr
    "#);
}

/// The same records as a table under other names: the same facts.
#[test]
fn a_table_is_inspected_like_lines() {
    let sandbox = Sandbox::new();
    sandbox.write("table.csv", "frage,antwort\none,1\n\"two,\n2\",2\n");
    sandbox.write_lines(
        "lines.jsonl",
        &[json!({"prompt": "one", "response": "1"}), json!({"prompt": "two,\n2", "response": "2"})],
    );
    let facts = |line: &str| {
        let said = sandbox.run(&format!("data inspect {line} --json --examples 0"));
        let json = said.lines().find(|line| line.starts_with('{')).unwrap_or_else(|| panic!("{said}"));
        let mut facts: Value = serde_json::from_str(json).unwrap();
        facts.as_object_mut().unwrap().remove("files");
        facts
    };
    let table = facts("table.csv --column prompt=frage --column response=antwort");
    assert_eq!(table, facts("lines.jsonl"));
    assert_eq!((&table["records"], &table["with_response"]), (&json!(2), &json!(2)));
}

/// Whatever the format of the input, the output is lines of JSON with all of its fields.
#[test]
fn other_commands_read_other_formats() {
    let sandbox = Sandbox::with_model();
    sandbox.write("in.csv", "prompt,response,source\na,bcd,web\nHello,h,\n");
    sandbox.succeed("score --model model --input in.csv --output csv.jsonl");
    let lines =
        [json!({"prompt": "a", "response": "bcd", "source": "web"}), json!({"prompt": "Hello", "response": "h"})];
    sandbox.write_lines("in.jsonl", &lines);
    sandbox.succeed("score --model model --input in.jsonl --output lines.jsonl");
    assert_eq!(sandbox.read("csv.jsonl"), sandbox.read("lines.jsonl"));
    sandbox.write("in.json", Value::from(lines.to_vec()).to_string());
    sandbox.succeed("score --model model --input in.json --output json.jsonl");
    assert_eq!(sandbox.read("json.jsonl"), sandbox.read("lines.jsonl"));
}
