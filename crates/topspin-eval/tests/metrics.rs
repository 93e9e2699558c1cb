//! Figures against their definitions, intervals against theory.

use proptest::prelude::*;
use topspin_eval::{
    Bootstrap, EvalError, Evaluated, Figure, Lengths, Nll, NllFigures, Report, Unit, distinct_n, distinct_runs,
    exact_match, share,
};

fn ends(figure: Figure) -> (f64, f64) {
    (figure.low.unwrap(), figure.high.unwrap())
}

#[test]
fn an_exact_match_is_of_the_trimmed_whole() {
    assert!(exact_match(" 42\n", &["41", "42 "]));
    assert!(!exact_match("42.", &["42"]));
    assert!(!exact_match("4 2", &["42"]));
    assert!(!exact_match("", &[] as &[&str]));
}

#[test]
fn distinct_runs_are_counted_over_all_responses() {
    let responses = ["a b a b", "a  b c", "d"];
    assert_eq!(distinct_n(&responses, 1).unwrap().value, 4.0 / 8.0);
    // ab ba ab, ab bc: runs do not cross from one response into the next.
    assert_eq!(distinct_n(&responses, 2).unwrap(), Figure::without_interval(3.0 / 5.0, 3));
    assert_eq!(distinct_n(&responses, 5), Err(EvalError::Empty));
    assert_eq!(distinct_n(&responses, 0), Err(EvalError::Empty));
    // The same letters as tokens.
    let tokens = [&[1, 2, 1, 2][..], &[1, 2, 3], &[4]];
    assert_eq!(distinct_runs(&tokens, 2), distinct_n(&responses, 2));
    assert_eq!(distinct_runs(&tokens, 5), Err(EvalError::Empty));
}

#[test]
fn an_interval_is_as_wide_as_theory_says() {
    // The standard error of a mean of n uniform values is sqrt(1/12 / n).
    let n = 600;
    let values: Vec<f64> = (0..n).map(|i| ((i * 7919) % n) as f64 / n as f64).collect();
    let figure = Bootstrap::default().mean(&values).unwrap();
    let (low, high) = ends(figure);
    let expected = 2.0 * 1.96 * (1.0f64 / 12.0 / n as f64).sqrt();
    assert!(((high - low) / expected - 1.0).abs() < 0.1, "{} instead of {expected}", high - low);
    assert!(((low + high) / 2.0 - figure.value).abs() < 0.1 * expected);
}

#[test]
fn intervals_hold_the_truth_about_as_often_as_they_claim() {
    // Samples of 40 exponential values, mean 1; the percentile bootstrap is known to fall a little short of 95%.
    let mut state = 9u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    };
    let held = (0..400)
        .filter(|&seed| {
            let values: Vec<f64> = (0..40).map(|_| -uniform().ln()).collect();
            let (low, high) = ends(Bootstrap { seed, replicates: 400 }.mean(&values).unwrap());
            (low..=high).contains(&1.0)
        })
        .count();
    assert!((345..=395).contains(&held), "{held} of 400");
}

#[test]
fn a_share_has_width_at_its_ends() {
    // Newcombe (1998), table I: 81 of 263 and 0 of 20.
    let (low, high) = ends(share(81, 263).unwrap());
    assert!((low - 0.2553).abs() < 5e-5 && (high - 0.3662).abs() < 5e-5, "{low} {high}");
    let (low, high) = ends(share(0, 20).unwrap());
    assert!(low == 0.0 && (high - 0.1611).abs() < 5e-5, "{high}");
    assert_eq!(ends(share(20, 20).unwrap()).1, 1.0);
}

#[test]
fn likelihood_is_averaged_over_tokens_and_over_responses() {
    let responses = [Nll { nats: 2.0, tokens: 4 }, Nll { nats: 6.0, tokens: 4 }, Nll { nats: 0.0, tokens: 0 }];
    let figures = NllFigures::new(&responses, &Bootstrap::default()).unwrap();
    assert_eq!((figures.per_token.value, figures.per_token.n), (1.0, 2));
    assert_eq!((figures.per_response.value, figures.per_response.n), (8.0 / 3.0, 3));
    assert_eq!(figures.perplexity.value, 1f64.exp());
    assert_eq!(ends(figures.per_token), (0.5, 1.5));
    assert_eq!(ends(figures.perplexity), (0.5f64.exp(), 1.5f64.exp()));

    let with = |nats, tokens| NllFigures::new(&[Nll { nats, tokens }], &Bootstrap::default());
    assert_eq!(with(1.0, 0), Err(EvalError::NoTokens));
    assert_eq!(with(f64::NAN, 1), Err(EvalError::NotFinite { index: 0 }));
    assert_eq!(NllFigures::new(&[], &Bootstrap::default()), Err(EvalError::Empty));
    assert_eq!(with(1.0, 2).unwrap().per_token, Figure::without_interval(0.5, 1));
}

#[test]
fn a_report_goes_to_json_and_back() {
    let bootstrap = Bootstrap { seed: 3, replicates: 50 };
    let mut report = Report::new(bootstrap);
    report.add("exact_match", share(1, 3).unwrap());
    report.add_lengths("tokens", &Lengths::new(&[3, 9, 4], &bootstrap).unwrap());
    let nll = [Nll { nats: 2.5, tokens: 3 }, Nll { nats: 7.25, tokens: 9 }];
    report.add_nll("nll", &NllFigures::new(&nll, &bootstrap).unwrap());
    let record = |stops| Evaluated { units: [("end.stop".into(), Unit::Hit(stops))].into(), ..Evaluated::default() };
    report.add_units(&[true, false, true].map(record)).unwrap();
    let text = serde_json::to_string_pretty(&report).unwrap();
    assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["figures"]["tokens.median"]["value"], 4.0);
    assert_eq!(json["figures"]["end.stop"]["n"], 3);
    assert!(json["figures"]["tokens.max"]["low"].is_null());
    let names: Vec<&String> = report.figures.keys().collect();
    assert_eq!(names.len(), 1 + 4 + 4 + 1, "{names:?}");
}

#[test]
fn a_figure_of_an_older_report_has_no_standard_error() {
    let text = r#"{"value": 0.5, "low": 0.25, "high": null, "n": 7}"#;
    let figure = Figure { low: Some(0.25), ..Figure::without_interval(0.5, 7) };
    assert_eq!(serde_json::from_str::<Figure>(text).unwrap(), figure);
}

#[test]
fn a_mean_of_zeros_and_ones_and_its_share_have_the_same_standard_error() {
    let values = [1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0];
    let mean = Bootstrap::default().mean(&values).unwrap();
    assert!((mean.stderr.unwrap() - share(3, 7).unwrap().stderr.unwrap()).abs() < 1e-15);
    assert_eq!(share(1, 1).unwrap().stderr, None);
    assert_eq!(mean.rescale(f64::exp).stderr, None);
}

#[test]
fn nothing_gives_an_error_and_not_a_number() {
    let bootstrap = Bootstrap::default();
    assert_eq!(bootstrap.mean(&[]), Err(EvalError::Empty));
    assert_eq!(Lengths::new(&[], &bootstrap), Err(EvalError::Empty));
    assert_eq!(share(0, 0), Err(EvalError::Empty));
    assert_eq!(bootstrap.difference(&[1.0], &[1.0, 2.0]), Err(EvalError::Unpaired { left: 1, right: 2 }));
    assert_eq!(bootstrap.mean(&[1.0, f64::INFINITY]), Err(EvalError::NotFinite { index: 1 }));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn lengths_are_those_of_the_sorted_list(mut lengths in prop::collection::vec(0usize..500, 1..40), seed: u64) {
        let found = Lengths::new(&lengths, &Bootstrap { seed, replicates: 100 }).unwrap();
        lengths.sort_unstable();
        let n = lengths.len();
        let middle = (lengths[(n - 1) / 2] + lengths[n / 2]) as f64 / 2.0;
        prop_assert_eq!(found.median.value, middle);
        prop_assert!((found.mean.value - lengths.iter().sum::<usize>() as f64 / n as f64).abs() < 1e-9);
        prop_assert_eq!((found.min.value, found.max.value), (lengths[0] as f64, lengths[n - 1] as f64));
        if n > 1 {
            for figure in [found.mean, found.median] {
                let (low, high) = ends(figure);
                prop_assert!(found.min.value <= low && low <= high && high <= found.max.value);
            }
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_interval(values in prop::collection::vec(-9.0..9.0, 12..40), seed: u64) {
        let at = |seed| Bootstrap { seed, replicates: 60 }.mean(&values).unwrap();
        prop_assert_eq!(at(seed), at(seed));
        prop_assert_ne!(at(seed), at(seed ^ 0x5555));
    }

    #[test]
    fn a_difference_is_of_pairs(left in prop::collection::vec(-9.0..9.0, 2..40), shift in -3.0..3.0, seed: u64) {
        // However the values scatter, a constant shift is certain.
        let right: Vec<f64> = left.iter().map(|v| v + shift).collect();
        let figure = Bootstrap { seed, replicates: 100 }.difference(&left, &right).unwrap();
        let (low, high) = ends(figure);
        for value in [figure.value, low, high] {
            prop_assert!(f64::abs(value - shift) < 1e-9);
        }
    }
}
