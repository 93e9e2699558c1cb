//! Laws that measures of answers keep, and what has no measure.

use std::collections::BTreeMap;

use proptest::prelude::*;
use topspin_eval::{
    BleuStatistics, Bootstrap, Choice, ChoiceScores, ChrfStatistics, CorpusStatistics, Discrimination, EvalError,
    Evaluated, Figure, Normalisation, Pattern, Perplexities, REAL, RegexFilter, Report, RougeL, SAMPLED,
    SAMPLED_BEFORE, Scored, Stemming, TextNll, auc, best_threshold, numeric_answer, numeric_match, share, win_rate,
};

fn ends(figure: Figure) -> (f64, f64) {
    (figure.low.unwrap(), figure.high.unwrap())
}

/// Random numbers of a normal distribution, by Box and Muller.
fn normal(seed: u64, n: usize, mean: f64) -> Vec<f64> {
    let mut state = seed;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    };
    (0..n).map(|_| mean + (-2.0 * uniform().ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos()).collect()
}

#[test]
fn nothing_to_compare_with_is_an_error() {
    let none: [&str; 0] = [];
    assert_eq!(BleuStatistics::new("a", &none), Err(EvalError::NoReference));
    assert_eq!(ChrfStatistics::chrf("a", &none), Err(EvalError::NoReference));
    assert_eq!(ChrfStatistics::chrf_plus_plus("a", &none), Err(EvalError::NoReference));
    assert_eq!(RougeL::new("a", &none, Stemming::None), Err(EvalError::NoReference));
    assert!(!Normalisation::squad().matches("", &none).unwrap());
    assert!(!numeric_match("7", &none) && !numeric_match("none", &["none"]));
    let bootstrap = Bootstrap::default();
    assert_eq!(bootstrap.corpus::<BleuStatistics>(&[]), Err(EvalError::Empty));
    let one = [BleuStatistics::default()];
    assert_eq!(bootstrap.corpus_difference(&one, &[]), Err(EvalError::Unpaired { left: 1, right: 0 }));
    assert_eq!(auc(&[], &[1.0]), Err(EvalError::Empty));
    assert_eq!(auc(&[1.0, 2.0], &[f64::NAN]), Err(EvalError::NotFinite { index: 2 }));
    assert_eq!(best_threshold(&[1.0], &[]), Err(EvalError::Empty));
    assert_eq!(win_rate(&[], &[]), Err(EvalError::Empty));
    assert_eq!(win_rate(&[1.0], &[]), Err(EvalError::Unpaired { left: 1, right: 0 }));
    assert_eq!(win_rate(&[1.0], &[f64::INFINITY]), Err(EvalError::NotFinite { index: 1 }));
    let text = |nats, tokens| TextNll::new("some words", nats, tokens);
    assert_eq!(Perplexities::new(&[], &bootstrap), Err(EvalError::Empty));
    assert_eq!(Perplexities::new(&[text(1.0, 0)], &bootstrap), Err(EvalError::NoTokens));
    assert_eq!(Perplexities::new(&[text(f64::NAN, 1)], &bootstrap), Err(EvalError::NotFinite { index: 0 }));
}

#[test]
fn a_question_needs_choices_with_a_length() {
    let choice = |text| Choice::new(text, -1.0);
    assert_eq!(ChoiceScores::new(&[], &[]), Err(EvalError::Empty));
    assert_eq!(ChoiceScores::new(&[choice("a"), choice("")], &[0]), Err(EvalError::EmptyChoice { index: 1 }));
    assert_eq!(ChoiceScores::new(&[choice("a")], &[1]), Err(EvalError::NoSuchChoice { index: 1, choices: 1 }));
    let broken = [choice("a"), Choice::new("b", f64::NAN)];
    assert_eq!(ChoiceScores::new(&broken, &[0]), Err(EvalError::NotFinite { index: 1 }));
}

#[test]
fn a_pattern_that_is_none_is_named() {
    let Err(EvalError::Pattern { pattern, .. }) = Pattern::new("(a") else { panic!("taken") };
    assert_eq!(pattern, "(a");
    // A search that would take exponentially long ends.
    let slow = RegexFilter::new(r"(a|b|ab)*(?=c)", 0, "none").unwrap();
    let error = slow.apply(&"ab".repeat(40)).unwrap_err();
    assert!(error.to_string().contains("`(a|b|ab)*(?=c)`"), "{error}");
}

#[test]
fn a_filter_without_that_many_matches_falls_back() {
    let filter = |select| RegexFilter::new("[0-9]", select, "?").unwrap();
    let found = [-3, -2, -1, 0, 1, 2].map(|select| filter(select).apply("a1b2").unwrap());
    assert_eq!(found, ["?", "1", "2", "1", "2", "?"]);
}

#[test]
fn numbers_are_the_same_however_they_are_written() {
    assert!(numeric_match("so it is $1,200.50.", &["#### 7", "#### 1200.5"]));
    assert!(!numeric_match("so it is 1,200.51", &["#### 1200.5"]));
    assert_eq!(numeric_answer("#### 3 and 4").as_deref(), Some("3"));
}

#[test]
fn a_difference_of_corpora_is_of_pairs() {
    let references = ["the cat sat on the mat today", "a dog ran over the green hill", "we all went home at nine"];
    let responses = |skip| {
        let texts = (0..60).map(|i| references[i % 3].split(' ').skip(if i % 2 == 0 { 1 } else { skip }));
        let texts = texts.map(|words| words.collect::<Vec<_>>().join(" ")).enumerate();
        texts.map(|(i, text)| BleuStatistics::new(&text, &[references[i % 3]]).unwrap()).collect::<Vec<_>>()
    };
    let (short, long) = (responses(3), responses(1));
    let bootstrap = Bootstrap { seed: 2, replicates: 500 };
    let alone = [bootstrap.corpus(&short).unwrap(), bootstrap.corpus(&long).unwrap()];
    let figure = bootstrap.corpus_difference(&short, &long).unwrap();
    assert!((figure.value - (alone[1].value - alone[0].value)).abs() < 1e-9);
    assert!(figure.value > 5.0 && figure.low.unwrap() > 0.0, "{figure:?}");
    let same = bootstrap.corpus_difference(&long, &long).unwrap();
    assert_eq!((same.value, ends(same), same.stderr), (0.0, (0.0, 0.0), Some(0.0)));
}

#[test]
fn standard_errors_are_as_large_as_figures_scatter() {
    // AUC, the best threshold's accuracy and a win rate of 300 pairs of samples of 40, against their own standard errors.
    let figures = |seed| {
        let (real, generated) = (normal(seed, 40, 1.0), normal(seed ^ 0xabcd_ef01, 40, 0.0));
        [auc(&real, &generated).unwrap(), win_rate(&generated, &real).unwrap()]
    };
    let all: Vec<[Figure; 2]> = (0..300).map(|i| figures(7919 * i + 1)).collect();
    for k in 0..2 {
        let values: Vec<f64> = all.iter().map(|figures| figures[k].value).collect();
        let mean = values.iter().sum::<f64>() / 300.0;
        let scatter = (values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / 299.0).sqrt();
        let claimed = all.iter().map(|figures| figures[k].stderr.unwrap()).sum::<f64>() / 300.0;
        assert!((claimed / scatter - 1.0).abs() < 0.2, "figure {k}: {claimed} claimed, {scatter} seen");
    }
    // Phi(1 / sqrt 2) = 0.7602 is the truth of both.
    for k in 0..2 {
        let held = all.iter().filter(|f| (f[k].low.unwrap()..=f[k].high.unwrap()).contains(&0.7602)).count();
        assert!((270..=297).contains(&held), "figure {k}: {held} of 300");
    }
}

#[test]
fn without_an_overlap_nothing_is_known_of_the_width() {
    let figure = auc(&[5.0, 6.0, 7.0], &[1.0, 2.0]).unwrap();
    assert_eq!((figure.value, figure.stderr, figure.low, figure.high, figure.n), (1.0, Some(0.0), None, None, 5));
    assert_eq!(auc(&[5.0], &[1.0, 5.0]).unwrap().stderr, None);
    let best = best_threshold(&[1.0, 2.0], &[5.0, 6.0, 7.0]).unwrap();
    assert_eq!((best.accuracy, best.threshold, best.real_above), (1.0, 5.0, false));
    // Wilson's interval has a width even so.
    assert_eq!(win_rate(&[0.0; 4], &[1.0; 4]).unwrap().low, share(4, 4).unwrap().low);
}

/// Records with a log-probability, and a length, of the real response, of the model's own sample and of that of the model before.
fn responses(rows: &[[(f64, usize); 3]]) -> Vec<Evaluated> {
    let scored = |&(logp, length): &(f64, usize)| {
        let logprobs = std::iter::once(logp as f32).chain(std::iter::repeat_n(0.0, length - 1)).collect();
        Scored { token_ids: vec![7; length], logprobs }
    };
    let record = |(place, row): (usize, &[(f64, usize); 3])| {
        let kinds = [REAL, SAMPLED, SAMPLED_BEFORE].map(String::from);
        let responses: BTreeMap<_, _> = kinds.into_iter().zip(row.iter().map(scored)).collect();
        Evaluated { id: format!("p{place}"), responses, ..Evaluated::default() }
    };
    rows.iter().enumerate().map(record).collect()
}

fn rows(n: usize) -> impl Strategy<Value = Vec<[(f64, usize); 3]>> {
    prop::collection::vec(prop::array::uniform3((-9.0..0.0f64, 1..6usize)), n)
}

proptest! {
    #[test]
    fn a_difference_of_discrimination_is_of_its_figures(a in rows(12), b in rows(12), before in rows(12)) {
        let bootstrap = Bootstrap { seed: 1, replicates: 50 };
        let before = responses(&before);
        let [left, right] = [a, b].map(|rows| Discrimination::new(&responses(&rows), Some(&before)));
        let report = |of: &Discrimination| {
            let mut report = Report::new(bootstrap);
            of.report(&mut report).unwrap();
            report.figures
        };
        let (then, now) = (report(&left), report(&right));
        prop_assert_eq!(now.len(), 5);
        for (name, figure) in &now {
            let difference = Discrimination::difference(&left, &right, name, &bootstrap).unwrap().unwrap();
            prop_assert!((difference.value - (figure.value - then[name].value)).abs() < 1e-12, "{}", name);
            let none = Discrimination::difference(&left, &left, name, &bootstrap).unwrap().unwrap();
            prop_assert_eq!((none.value, none.low, none.high), (0.0, Some(0.0), Some(0.0)));
        }
        for name in ["nll.per_token", "discrimination.length.colour"] {
            prop_assert_eq!(Discrimination::difference(&left, &right, name, &bootstrap).unwrap(), None);
        }
    }
}

#[test]
fn without_a_model_before_length_alone_tells() {
    let rows = [[(-1.0, 2), (-3.0, 5), (-2.0, 9)], [(-1.0, 3), (-1.0, 4), (-2.0, 1)]];
    let figures = |before: Option<&[Evaluated]>| {
        let mut report = Report::new(Bootstrap::default());
        Discrimination::new(&responses(&rows), before).report(&mut report).unwrap();
        report.figures
    };
    let alone = figures(None);
    let names: Vec<_> = alone.keys().map(String::as_str).collect();
    // Both prompts are of one half, so there is no threshold to judge them by.
    assert_eq!(names, ["discrimination.length.auc"]);
    // Its own samples are all longer; of those of the model before one is, and one is not.
    assert_eq!(alone["discrimination.length.auc"].value, 0.0);
    let before = responses(&[[(-2.0, 2), (-2.5, 9), (-1.0, 1)], [(-1.0, 3), (-1.0, 1), (-1.0, 1)]]);
    let all = figures(Some(&before));
    assert_eq!(all["discrimination.length.auc"].value, 0.5);
    // Log-ratios 1 and 0 of real responses, 0.5 and -1 of the samples.
    assert_eq!(all["discrimination.log_ratio.auc"].value, 0.75);
    assert_eq!(all["discrimination.log_ratio.pairs"].value, 1.0);
    // What the model before lacks is left out.
    assert_eq!(figures(Some(&before[..1]))["discrimination.log_ratio.auc"].n, 2);
}

/// The accuracy is that of thresholds which the judged had no part in: without a signal it is chance, and as good as the truth
/// where there is one.
#[test]
fn the_accuracy_does_not_flatter() {
    let accuracies = |shift: f64| {
        let accuracy = |seed: u64| {
            let (real, generated) = (normal(seed, 60, shift), normal(seed ^ 0xabcd_ef01, 60, 0.0));
            let rows: Vec<_> = real.iter().zip(&generated).map(|(r, g)| [(*r, 3), (0.0, 3), (*g, 3)]).collect();
            let mut report = Report::new(Bootstrap { seed: 1, replicates: 200 });
            let none = responses(&vec![[(0.0, 3); 3]; 60]);
            Discrimination::new(&responses(&rows), Some(&none)).report(&mut report).unwrap();
            report.figures["discrimination.log_ratio.accuracy"]
        };
        (0..200).map(|i| accuracy(7919 * i + 1)).collect::<Vec<_>>()
    };
    // One threshold at half the shift is right with probability Phi(shift / 2).
    for (shift, truth) in [(0.0, 0.5), (2.0, 0.8413)] {
        let all = accuracies(shift);
        let mean = all.iter().map(|figure| figure.value).sum::<f64>() / 200.0;
        assert!((mean - truth).abs() < 0.02, "{mean} for {truth}");
        assert!(all.iter().all(|figure| (figure.low..=figure.high).contains(&Some(figure.value))));
        let held = all.iter().filter(|figure| (figure.low..=figure.high).contains(&Some(truth))).count();
        assert!(held >= 170, "{held} of 200 for {truth}");
    }
}

/// Scores of a few values, so that ties are frequent.
fn scores(n: impl Into<prop::collection::SizeRange>) -> impl Strategy<Value = Vec<f64>> {
    prop::collection::vec((0i32..9).prop_map(|v| f64::from(v) - 4.0), n)
}

fn texts() -> impl Strategy<Value = String> {
    prop_oneof!["[a-c .,'&;!\\-\n0-2é日]{0,30}", any::<String>()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn scores_of_any_text_are_in_range(response in texts(), references in prop::collection::vec(texts(), 1..4)) {
        let bleu = BleuStatistics::new(&response, &references).unwrap();
        let chrf = ChrfStatistics::chrf(&response, &references).unwrap();
        let plus_plus = ChrfStatistics::chrf_plus_plus(&response, &references).unwrap();
        for score in [bleu.score(), bleu.sentence_score(), chrf.score(), plus_plus.score()] {
            prop_assert!((0.0..=100.0 + 1e-9).contains(&score), "{}", score);
        }
        for stemming in [Stemming::None, Stemming::Porter] {
            let rouge = RougeL::new(&response, &references, stemming).unwrap();
            for score in [rouge.precision, rouge.recall, rouge.fmeasure] {
                prop_assert!((0.0..=1.0).contains(&score));
            }
        }
        // A response that is a reference has all that there is to have.
        let itself = [&references[0], &response];
        let bleu = BleuStatistics::new(&response, &itself).unwrap();
        let rouge = RougeL::new(&response, &itself, Stemming::Porter).unwrap();
        prop_assert!(bleu.response_words == 0 || (bleu.sentence_score() - 100.0).abs() < 1e-9);
        prop_assert!(rouge.fmeasure == 1.0 || rouge == RougeL::default());
        let chrf = ChrfStatistics::chrf(&response, &[&response]).unwrap().score();
        prop_assert!(chrf == 0.0 || (chrf - 100.0).abs() < 1e-9);
        prop_assert!(Normalisation::squad().matches(&response, &itself).unwrap());
    }

    #[test]
    fn a_number_keeps_its_value(value in -1_000_000i64..1_000_000, cents in 0u32..100, before in "[a-z ]{0,9}") {
        let text = format!("{before}${value}.{cents:02}.");
        let expected = format!("{value}.{cents:02}").parse::<f64>().unwrap();
        prop_assert_eq!(numeric_answer(&text).unwrap().parse::<f64>().unwrap(), expected);
        let same = [format!("#### {value}.{cents:02}000")];
        prop_assert!(numeric_match(&text, &same));
    }

    #[test]
    fn longest_common_subsequences_are_the_longest(left in "[abc]{1,7}", right in "[abc]{1,7}") {
        let spaced = |text: &str| text.chars().map(String::from).collect::<Vec<_>>().join(" ");
        let subsequences = |text: &str| -> std::collections::HashSet<String> {
            let letters: Vec<char> = text.chars().collect();
            let chosen = |set: u32| (0..letters.len()).filter(|i| set >> i & 1 == 1).map(|i| letters[i]).collect();
            (0..1 << letters.len()).map(chosen).collect()
        };
        let longest = subsequences(&left).intersection(&subsequences(&right)).map(String::len).max().unwrap();
        let found = RougeL::new(&spaced(&left), &[spaced(&right)], Stemming::None).unwrap();
        prop_assert!((found.precision * left.len() as f64 - longest as f64).abs() < 1e-9);
        prop_assert!((found.recall * right.len() as f64 - longest as f64).abs() < 1e-9);
    }

    #[test]
    fn exchanged_sides_exchange_what_is_said_of_them(pairs in prop::collection::vec((-3i32..4, -3i32..4), 2..30)) {
        let (left, right): (Vec<f64>, Vec<f64>) = pairs.iter().map(|&(l, r)| (f64::from(l), f64::from(r))).unzip();
        for (one, other) in [
            (win_rate(&left, &right).unwrap(), win_rate(&right, &left).unwrap()),
            (auc(&left, &right).unwrap(), auc(&right, &left).unwrap()),
        ] {
            prop_assert!((one.value + other.value - 1.0).abs() < 1e-12);
            prop_assert!((one.stderr.unwrap() - other.stderr.unwrap()).abs() < 1e-12);
            prop_assert_eq!(one.low.is_some(), other.high.is_some());
            if let (Some(low), Some(high)) = (one.low, other.high) {
                prop_assert!((low + high - 1.0).abs() < 1e-12 && low <= one.value);
            }
        }
    }

    #[test]
    fn no_threshold_is_better_than_the_best(real in scores(1..20), generated in scores(1..20), seed: u64) {
        let best = best_threshold(&real, &generated).unwrap();
        let share = |values: &[f64], t: f64| values.iter().filter(|&&v| v >= t).count() as f64 / values.len() as f64;
        let accuracy = |t| (share(&real, t) + 1.0 - share(&generated, t)) / 2.0;
        let all = real.iter().chain(&generated).map(|&t| accuracy(t).max(1.0 - accuracy(t)));
        let most = all.fold(0.5f64, f64::max);
        prop_assert!((best.accuracy - most).abs() < 1e-12);
        let at = accuracy(best.threshold);
        let judged = if best.real_above { at } else { 1.0 - at };
        prop_assert!((judged - most).abs() < 1e-12);
        // AUC is the mean over all pairs.
        let won = |r: f64, g: f64| if r > g { 1.0 } else { 0.5 * f64::from(r == g) };
        let pairs = real.iter().flat_map(|&r| generated.iter().map(move |&g| won(r, g)));
        let mean = pairs.sum::<f64>() / (real.len() * generated.len()) as f64;
        prop_assert!((auc(&real, &generated).unwrap().value - mean).abs() < 1e-12);
    }
}
