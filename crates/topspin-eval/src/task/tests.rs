use std::path::Path;

use proptest::prelude::*;
use serde_json::json;

use super::load::parse;
use super::*;
use crate::{Bootstrap, Choice, Evaluated, Perplexities, TextNll};

const BOOTSTRAP: Bootstrap = Bootstrap { seed: 5, replicates: 100 };

fn tasks(text: &str) -> Result<Vec<Task>, TaskError> {
    with_names(&[] as &[&str], parse(text, Path::new("t.toml"))?, |_| {})
}

/// The one task that a table is.
fn task(keys: &str) -> Task {
    tasks(&format!("[[task]]\nname = 'x'\n{keys}")).unwrap().remove(0)
}

fn error(keys: &str) -> String {
    tasks(&format!("[[task]]\nname = 'x'\n{keys}")).unwrap_err().to_string()
}

fn answers(texts: &[&str]) -> Answers {
    let tokens = texts.iter().map(|text| text.len()).collect();
    Answers {
        texts: texts.iter().map(|text| (*text).into()).collect(),
        tokens,
        stopped: texts.iter().map(|_| true).collect(),
    }
}

#[test]
fn tasks_that_go_by_name_can_be_asked() {
    for settings in presets() {
        assert_eq!(Task::new(&settings).unwrap()[0].name, settings.name);
        assert!(!settings.description.is_empty(), "{}", settings.name);
    }
}

#[test]
fn the_example_of_the_docs_can_be_asked() {
    let page = include_str!("../../../../docs/evaluation.md");
    let (_, behind) = page.split_once("```toml\n").unwrap();
    let (example, _) = behind.split_once("```").unwrap();
    let names: Vec<_> = tasks(example).unwrap().into_iter().map(|task| task.name).collect();
    assert_eq!(names, ["arithmetic_greedy", "arithmetic_t1", "dates"]);
}

#[test]
fn a_preset_is_what_a_task_begins_with() {
    let own = task("preset = 'gsm8k'\nmax_new_tokens = 9\nmetrics = ['bleu']");
    let preset = with_names(&["gsm8k"], Vec::new(), |_| {}).unwrap().remove(0);
    assert_eq!((own.settings.max_new_tokens, own.settings.version), (9, preset.settings.version));
    assert_eq!(own.settings.filters, preset.settings.filters);
    assert_eq!(own.settings.metrics, [MetricSettings::from("bleu".to_owned())]);
}

#[test]
fn gsm8k_is_that_of_the_harness() {
    // tests/golden/metrics holds both to lm-evaluation-harness.
    let task = with_names(&["gsm8k"], Vec::new(), |_| {}).unwrap().remove(0);
    let target = "Two more than two.\n#### 4";
    for said in ["It is 2 + 2 = 4.\n#### 4", "That is $4.", "#### 4 or 5", "none", "4, no, 5"] {
        let units = task.units(&answers(&[said]), &[target]).unwrap();
        for (name, filter) in
            [("strict-match", RegexFilter::strict_match()), ("flexible-extract", RegexFilter::flexible_extract())]
        {
            let expected = Normalisation::gsm8k().matches(&filter.apply(said).unwrap(), &[target]).unwrap();
            assert_eq!(units[&format!("exact_match,{name}")], Unit::Hit(expected), "{said}, {name}");
        }
        assert_eq!(units["numeric_match"], Measure::NumericMatch.unit(said, &[target]).unwrap());
    }
}

#[test]
fn arguments_overlook_what_they_say() {
    let unit = |keys: &str, answer: &str| {
        let task = task(&format!("metrics = [{{ metric = 'exact_match', {keys} }}]"));
        task.units(&answers(&[answer]), &["It is 7!"]).unwrap()["exact_match"]
    };
    assert_eq!(unit("ignore_case = true", " it IS 7! "), Unit::Hit(true));
    assert_eq!(unit("ignore_case = true", "it is 8!"), Unit::Hit(false));
    assert_eq!(unit("ignore_punctuation = true", "It is 7"), Unit::Hit(true));
    assert_eq!(unit("ignore_numbers = true", "It is 8!"), Unit::Hit(true));
    assert_eq!(unit("regexes_to_ignore = ['t is']", "I 7!"), Unit::Hit(true));
}

#[test]
fn several_samples_are_one_unit() {
    let task = task("metrics = ['exact_match', 'chrf']\ntemperatures = [1]\nsamples = 3");
    let units = task.units(&answers(&["yes", "no", "yes"]), &["yes"]).unwrap();
    assert_eq!(units["exact_match"], Unit::Value(2.0 / 3.0));
    assert!(matches!(units["chrf"], Unit::Chrf(_)));
    assert_eq!(units["tokens.mean"], Unit::Value(8.0 / 3.0));
    assert_eq!(units["finish.length"], Unit::Value(0.0));
}

#[test]
fn answers_end_where_a_text_says() {
    let task = task("until = ['\\n', 'Q:']".replace("'", "\"").as_str());
    assert_eq!(task.cut("one Q: two\nthree"), "one ");
    assert_eq!(task.cut("one"), "one");
}

#[test]
fn temperatures_are_tasks_of_their_own() {
    let names = |keys: &str| -> Vec<String> {
        tasks(&format!("[[task]]\nname = 'x'\n{keys}")).unwrap().into_iter().map(|task| task.name).collect()
    };
    assert_eq!(names("temperatures = [0.7]"), ["x"]);
    assert_eq!(names("temperatures = [0, 0.7, 1]"), ["x_greedy", "x_t0.7", "x_t1"]);
}

#[test]
fn settings_that_cannot_be_used_are_told() {
    for (keys, said) in [
        ("metrics = ['blue']", "`metrics` of the task `x` has `blue`, which is no metric; choose from `exact_match`, "),
        ("metrics = ['regex']", "`metrics` of the task `x` has `regex` without a pattern; "),
        ("metrics = [{ metric = 'regex', pattern = '(' }]", "`metrics` of the task `x` has a fault: the pattern `(` "),
        ("metrics = [{ metric = 'bleu', pattern = 'a' }]", "`metrics` of the task `x` gives `bleu` a `pattern`, "),
        (
            "metrics = [{ metric = 'bleu', ignore_case = true }]",
            "`metrics` of the task `x` gives `bleu` an argument of ",
        ),
        ("metrics = ['bleu', 'bleu']", "`metrics` of the task `x` names a metric twice; "),
        ("filters = ['strict']", "`filters` of the task `x` has `strict` without `regex_pattern`; "),
        ("filters = [{ name = 'none', regex_pattern = 'a' }]", "`filters` of the task `x` has one called `none`; "),
        ("filters = [{ name = 'a', regex_pattern = '[' }]", "`filters` of the task `x` has a fault: the pattern `[` "),
        ("temperatures = [-1]", "`temperatures` of the task `x` has -1, but each must be "),
        ("temperatures = []", "`temperatures` of the task `x` is empty; "),
        ("samples = 2", "`samples` of the task `x` asks for several answers, and greedy ones are all the same; "),
        ("samples = 0", "`samples` of the task `x` is 0, but must be 1 or more"),
        ("until = ['']", "`until` of the task `x` has an empty text, "),
        (
            "output_type = 'loglikelihood'\nmetrics = ['bleu']",
            "`metrics` of the task `x` belongs to `generate_until`; ",
        ),
        ("target_delimiter = ' '", "`target_delimiter` of the task `x` belongs to `multiple_choice`; "),
        ("name = 'y'", "line 3 of `t.toml` cannot be understood: duplicate key"),
        (
            "metrics = [1]",
            "line 3 of `t.toml` cannot be understood: invalid type: integer `1`, expected a name, or a table",
        ),
        ("\n\nsample = 1", "line 5 of `t.toml` cannot be understood: unknown field `sample`, "),
        ("preset = 'gsm9k'", "no task goes by the name `gsm9k`; choose one of `nll`, "),
        ("[[task]]\nname = 'x'", "two tasks are called `x`; "),
        ("[[task]]\nname = 'a/b'", "`name` of the task `a/b` must be made of letters, "),
    ] {
        let error = error(keys);
        assert!(error.starts_with(said), "{keys}\n{error}\n{said}");
    }
    assert_eq!(tasks("").unwrap_err().to_string(), "`t.toml` has no task; begin one with `[[task]]`");
}

#[test]
fn figures_have_a_better_end() {
    let task = task("lower_is_better = ['errors']");
    for (figure, better) in [
        ("exact_match,strict-match", Some(true)),
        ("acc_norm", Some(true)),
        ("nll.per_token", Some(false)),
        ("word_perplexity", Some(false)),
        ("errors", Some(false)),
        ("score", None),
        ("tokens.mean", None),
        ("discrimination.length.auc", None),
    ] {
        assert_eq!(task.higher_is_better(figure), better, "{figure}");
    }
}

fn measured(records: impl IntoIterator<Item = (f64, bool)>) -> Measured {
    let record = |(place, (value, right)): (usize, (f64, bool))| {
        let mut record = Evaluated { line: place, id: place.to_string(), ..Evaluated::default() };
        record.units = [("errors".to_owned(), Unit::Value(value)), ("acc".to_owned(), Unit::Hit(right))].into();
        record
    };
    let records = records.into_iter().enumerate().map(record).collect();
    Measured::new(BOOTSTRAP, records, &[] as &[&str], None).unwrap()
}

#[test]
fn the_better_one_wins() {
    let (left, right) =
        (measured([(3.0, true), (1.0, true), (2.0, false)]), measured([(1.0, true), (1.0, true), (4.0, true)]));
    let wins = |task: &Task| {
        ["errors", "acc"].map(|figure| compare(task, &left, &right, figure).unwrap().unwrap().win_rate.unwrap().value)
    };
    // One higher, one lower, one equal; then one better and two equal.
    assert_eq!(wins(&task("")), [0.5, 2.0 / 3.0]);
    let lower = measured([(1.0, true), (1.0, true), (1.0, true)]);
    let rate = |task: &Task| compare(task, &left, &lower, "errors").unwrap().unwrap().win_rate.unwrap().value;
    assert!((rate(&task("lower_is_better = ['errors']")) - 2.5 / 3.0).abs() < 1e-12);
    assert!((rate(&task("")) - 0.5 / 3.0).abs() < 1e-12);
    let difference = compare(&task(""), &left, &right, "acc").unwrap().unwrap().difference;
    assert!((difference.value - 1.0 / 3.0).abs() < 1e-12);
    assert_eq!(compare(&task(""), &left, &right, "bleu").unwrap(), None);
}

#[test]
fn the_preferred_choice_is_counted() {
    let mut record = Evaluated::default();
    record.set_choices(&[Choice::new("ab", -2.0), Choice::new("abcd", -2.5)], &[1]).unwrap();
    let units: Vec<_> = record.units.into_iter().collect();
    let hit = |name: &str, hit| (name.to_owned(), Unit::Hit(hit));
    assert_eq!(units, [hit("acc", false), hit("acc_bytes", true), hit("acc_norm", true)]);
}

proptest! {
    /// Perplexities out of units are those of texts.
    #[test]
    fn likelihoods_are_those_of_texts(texts in prop::collection::vec(("[a-c é日]{1,20}", 0.1..30.0f64, 1..9usize), 2..9)) {
        let record = |(place, (text, nats, tokens)): (usize, &(String, f64, usize))| {
            let mut record = Evaluated { id: place.to_string(), ..Evaluated::default() };
            record.set_likelihood(&[(text, -nats, *tokens)]);
            record
        };
        let records: Vec<_> = texts.iter().enumerate().map(record).collect();
        let found = Measured::new(BOOTSTRAP, records, &[] as &[&str], None).unwrap().report.figures;
        let texts: Vec<_> = texts.iter().map(|(text, nats, tokens)| TextNll::new(text, *nats, *tokens)).collect();
        let expected = Perplexities::new(&texts, &BOOTSTRAP).unwrap();
        for (name, figure) in [
            ("nll.perplexity", expected.token),
            ("word_perplexity", expected.word),
            ("byte_perplexity", expected.byte),
            ("bits_per_byte", expected.bits_per_byte),
        ] {
            prop_assert!((found[name].value / figure.value - 1.0).abs() < 1e-9, "{}", name);
            prop_assert!((found[name].low.unwrap() / figure.low.unwrap() - 1.0).abs() < 1e-9, "{}", name);
            prop_assert_eq!(found[name].n, figure.n);
        }
    }
}

#[test]
fn the_configuration_is_written_as_the_harness_does() {
    let task = task("preset = 'gsm8k'\nlimit = 3");
    let config = task.config("d.jsonl");
    assert_eq!(config["task"], "x");
    assert_eq!(config["metadata"], json!({ "version": 3.0 }));
    assert_eq!(config["metric_list"][0]["regexes_to_ignore"], json!([",", r"\$", "(?s).*#### ", r"\.$"]));
    let strict = &config["filter_list"][0];
    assert_eq!((&strict["name"], &strict["filter"][0]["regex_pattern"]), (&json!("strict-match"), &json!(STRICT)));
    assert_eq!(config["generation_kwargs"]["do_sample"], false);
}
