//! Metrics against the tools of the field: `tests/golden/metrics`, written by `scripts/oracle/text_metrics.py`.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::Value;
use topspin_eval::{
    BleuStatistics, Bootstrap, Choice, ChoiceScores, ChrfStatistics, CorpusStatistics, Normalisation, Perplexities,
    RegexFilter, RougeL, Stemming, TextNll, auc, best_threshold, numeric_answer, share, win_rate,
};

/// The golden files, or those of more random cases (`tests/golden/README.md`).
fn golden<T: DeserializeOwned>(name: &str) -> T {
    let ours = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/metrics");
    let folder = std::env::var_os("TOPSPIN_TEST_METRICS").map_or_else(ours, PathBuf::from);
    serde_json::from_str(&std::fs::read_to_string(folder.join(name)).unwrap()).unwrap()
}

fn rows(name: &str) -> Vec<Value> {
    let rows: Vec<Value> = golden(name);
    assert!(rows.len() > 3);
    rows
}

fn close(found: f64, expected: &Value, what: &str) {
    let expected = expected.as_f64().unwrap();
    assert!((found - expected).abs() <= 1e-9 * expected.abs().max(1.0), "{what}: {found} instead of {expected}");
}

fn string(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn floats(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

/// A response and its references.
fn texts(case: &Value) -> (String, Vec<String>) {
    let times = case["times"].as_u64().unwrap() as usize;
    let references = case["references"].as_array().unwrap().iter().map(|text| string(text).repeat(times));
    (string(&case["response"]).repeat(times), references.collect())
}

#[test]
fn a_response_has_the_scores_of_sacrebleu_and_rouge_score() {
    for case in rows("texts.json") {
        let (response, references) = texts(&case);
        let bleu = BleuStatistics::new(&response, &references).unwrap();
        let sums = [[bleu.response_words, bleu.reference_words].as_slice(), &bleu.shared, &bleu.runs].concat();
        assert_eq!(serde_json::to_value(sums).unwrap(), case["bleu_sums"], "{case}");
        close(bleu.sentence_score(), &case["sentence_bleu"], &format!("BLEU of {case}"));
        close(ChrfStatistics::chrf(&response, &references).unwrap().score(), &case["chrf"], &format!("chrF of {case}"));
        let plus_plus = ChrfStatistics::chrf_plus_plus(&response, &references).unwrap();
        close(plus_plus.score(), &case["chrf++"], &format!("chrF++ of {case}"));
        for (name, stemming) in [("rouge_l", Stemming::None), ("rouge_l_stemmed", Stemming::Porter)] {
            let rouge = RougeL::new(&response, &references, stemming).unwrap();
            for (i, found) in [rouge.precision, rouge.recall, rouge.fmeasure].into_iter().enumerate() {
                close(found, &case[name][i], &format!("{name} of {case}"));
            }
        }
        if let Some(normalised) = case["normalised"].as_str() {
            assert_eq!(Normalisation::squad().apply(&response).unwrap(), normalised);
        }
    }
}

/// A corpus has sacrebleu's score, and an interval that is as wide as sacrebleu's: both draw whole responses.
fn check_corpus<S: CorpusStatistics>(name: &str, of: impl Fn(&str, &[String]) -> S) {
    let corpus: Value = golden("corpus.json");
    let (short, long): (Vec<_>, Vec<_>) = rows("texts.json").into_iter().partition(|case| case["times"] == 1);
    let statistics = |cases: &[Value]| -> Vec<S> {
        let texts = cases.iter().map(texts);
        texts.map(|(response, references)| of(&response, &references)).collect()
    };
    let bootstrap = Bootstrap { seed: 1, replicates: 4000 };
    let figure = bootstrap.corpus(&statistics(&short)).unwrap();
    close(figure.value, &corpus[format!("{name}_short")], name);
    let half_width = (figure.high.unwrap() - figure.low.unwrap()) / 2.0;
    let expected = corpus[format!("{name}_half_width")].as_f64().unwrap();
    assert!((half_width / expected - 1.0).abs() < 0.06, "{name}: {half_width} instead of {expected}");
    assert!((figure.stderr.unwrap() * 1.96 / expected - 1.0).abs() < 0.15, "{name}: {:?}", figure.stderr);
    let all = statistics(&[short, long].concat());
    close(Bootstrap { replicates: 1, ..bootstrap }.corpus(&all).unwrap().value, &corpus[name], name);
}

#[test]
fn a_corpus_has_the_score_and_the_interval_of_sacrebleu() {
    check_corpus("bleu", |response, references| BleuStatistics::new(response, references).unwrap());
    check_corpus("chrf", |response, references| ChrfStatistics::chrf(response, references).unwrap());
    check_corpus("chrf++", |response, references| ChrfStatistics::chrf_plus_plus(response, references).unwrap());
}

#[test]
fn matches_overlook_what_the_harness_and_squad_overlook() {
    let none = Normalisation::default;
    let rules = [
        ("exact", none()),
        ("case", Normalisation { case: true, ..none() }),
        ("case_punctuation", Normalisation { case: true, punctuation: true, ..none() }),
        ("numbers", Normalisation { numbers: true, ..none() }),
        ("squad", Normalisation::squad()),
    ];
    for row in rows("matches.json") {
        for (name, rule) in &rules {
            let found = rule.matches(string(&row["response"]), &[string(&row["reference"])]).unwrap();
            assert_eq!(found, row[name].as_bool().unwrap(), "{name}: {row}");
        }
    }
}

#[test]
fn answers_are_found_where_the_harness_finds_them() {
    let gsm8k = Normalisation::gsm8k();
    for row in rows("answers.json") {
        let response = string(&row["response"]);
        for (name, filter) in [("strict", RegexFilter::strict_match()), ("flexible", RegexFilter::flexible_extract())] {
            let answer = filter.apply(response).unwrap();
            assert_eq!(answer, string(&row[name]), "{name}: {row}");
            let right = gsm8k.matches(&answer, &["He has #### 72"]).unwrap();
            assert_eq!(right, row[format!("{name}_right")].as_bool().unwrap(), "{name}: {row}");
        }
        assert_eq!(numeric_answer(response).as_deref(), row["number"].as_str(), "{row}");
    }
}

#[test]
fn filters_take_the_matches_of_the_harness() {
    for row in rows("filters.json") {
        let select = row["select"].as_i64().unwrap() as isize;
        let filter = RegexFilter::new(string(&row["pattern"]), select, "[invalid]").unwrap();
        assert_eq!(filter.apply(string(&row["response"])).unwrap(), string(&row["filtered"]), "{row}");
    }
}

#[test]
fn choices_are_scored_as_in_the_harness() {
    for row in rows("choices.json") {
        let texts = row["choices"].as_array().unwrap().iter().map(string);
        let choices: Vec<_> = texts.zip(floats(&row["logprobs"])).map(|(text, lp)| Choice::new(text, lp)).collect();
        let right: Vec<usize> = serde_json::from_value(row["gold"].clone()).unwrap();
        let ChoiceScores { acc, acc_norm, acc_bytes } = ChoiceScores::new(&choices, &right).unwrap();
        for (name, found) in [("acc", acc), ("acc_norm", acc_norm), ("acc_bytes", acc_bytes)] {
            assert_eq!(f64::from(found), row[name].as_f64().unwrap(), "{name}: {row}");
        }
    }
}

#[test]
fn perplexities_are_those_of_the_harness() {
    let case: Value = golden("perplexities.json");
    let documents = case["documents"].as_array().unwrap().iter().map(string);
    let nats = floats(&case["nats"]);
    let texts: Vec<_> = documents.zip(&nats).map(|(text, &nats)| TextNll::new(text, nats, 2)).collect();
    let counts = |of: fn(&TextNll) -> usize| Value::from(texts.iter().map(of).collect::<Vec<_>>());
    assert_eq!(counts(|text| text.words), case["words"]);
    assert_eq!(counts(|text| text.bytes), case["bytes"]);
    let bootstrap = Bootstrap::default();
    let found = Perplexities::new(&texts, &bootstrap).unwrap();
    close(found.word.value, &case["word_perplexity"], "words");
    close(found.byte.value, &case["byte_perplexity"], "bytes");
    close(found.bits_per_byte.value, &case["bits_per_byte"], "bits");
    let mean = bootstrap.mean(&nats).unwrap();
    close(mean.stderr.unwrap(), &case["mean_stderr"], "standard error");
    assert!((found.token.value - (mean.value / 2.0).exp()).abs() < 1e-9 * found.token.value);
}

#[test]
fn real_and_generated_responses_are_told_apart_as_well_as_scikit_learn_and_scipy_say() {
    for row in rows("discrimination.json") {
        let (real, generated) = (floats(&row["real"]), floats(&row["generated"]));
        let found = auc(&real, &generated).unwrap();
        close(found.value, &row["auc"], "AUC");
        close(found.stderr.unwrap(), &row["stderr"], "standard error");
        let best = best_threshold(&real, &generated).unwrap();
        close(best.accuracy, &row["best"], "accuracy");
        // The threshold does what is said of it.
        let above = |values: &[f64]| {
            values.iter().filter(|&&v| (v >= best.threshold) == best.real_above).count() as f64 / values.len() as f64
        };
        close((above(&real) + 1.0 - above(&generated)) / 2.0, &row["best"], "accuracy");
    }
}

#[test]
fn intervals_of_shares_are_those_of_scipy() {
    for row in rows("win_rates.json") {
        let (wins, n) = (row["wins"].as_u64().unwrap() as usize, row["n"].as_u64().unwrap() as usize);
        let right: Vec<f64> = (0..n).map(|i| if i < wins { 1.5 } else { -0.5 }).collect();
        let found = win_rate(&vec![0.5; n], &right).unwrap();
        for figure in [found, share(wins, n).unwrap()] {
            close(figure.low.unwrap(), &row["low"], "low");
            close(figure.high.unwrap(), &row["high"], "high");
        }
    }
}
