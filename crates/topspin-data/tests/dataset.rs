//! Splits and draws: what a record gets depends on its prompt and the seed alone.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use proptest::prelude::*;
use topspin_data::{DataError, Dataset, Message, Place, Record};

fn dataset(prompts: &[u16]) -> Dataset {
    let records = prompts
        .iter()
        .enumerate()
        .map(|(i, p)| Record {
            id: format!("{i}"),
            messages: vec![Message { role: "user".into(), content: format!("prompt {p}") }],
            response: Some(format!("response {i}")),
            rejected: None,
            references: Vec::new(),
            place: Place { path: Path::new("data.jsonl").into(), line: i + 1 },
            number: i + 1,
            weight: 1.0,
        })
        .collect();
    Dataset { records, unusable: Vec::new(), lines: prompts.len() }
}

fn prompts(data: &Dataset) -> HashSet<String> {
    data.records.iter().map(|r| r.messages[0].content.clone()).collect()
}

fn lines(data: &Dataset) -> Vec<usize> {
    data.records.iter().map(|r| r.place.line).collect()
}

#[test]
fn a_hash_is_of_roles_and_contents() {
    let record = |parts: &[(&str, &str)]| Record {
        messages: parts.iter().map(|&(r, c)| Message { role: r.into(), content: c.into() }).collect(),
        ..dataset(&[1]).records.remove(0)
    };
    let all = [
        record(&[("user", "ab")]),
        record(&[("user", "a"), ("user", "b")]),
        record(&[("system", "ab")]),
        record(&[("user", "a"), ("userb", "")]),
        record(&[("user", "ab"), ("", "")]),
    ];
    assert_eq!(all.iter().map(Record::prompt_hash).collect::<HashSet<_>>().len(), all.len());
    // Written out once by another program (hashlib), so that ids stay the same across versions.
    let hex: String = all[0].prompt_hash().iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(hex, "f06bc282895e9c26503a7a73b6e0e86e41e9cbbc483c1e4f04d5328a9cf2fae1");
}

#[test]
fn a_share_is_about_that_share() {
    let data = dataset(&(0..20_000).collect::<Vec<_>>());
    for share in [0.0, 0.1, 0.5, 1.0] {
        let (held, rest) = data.clone().split_by_hash(share, 11).unwrap();
        assert_eq!(held.len() + rest.len(), data.len());
        // Five standard deviations of a binomial at most.
        assert!((held.len() as f64 / 20_000.0 - share).abs() < 0.018, "{share}: {}", held.len());
    }
    for share in [-0.1, 1.1, f64::NAN] {
        assert!(matches!(data.clone().split_by_hash(share, 0), Err(DataError::Share { .. })));
    }
}

#[test]
fn too_much_is_an_error() {
    let error = dataset(&[1, 2]).sample(3, 0).unwrap_err().to_string();
    assert_eq!(error, "3 records were asked for and there are 2; ask for 2 or fewer, or add data");
    assert_eq!(lines(&dataset(&[5, 6, 7]).take(2).unwrap()), [1, 2]);
}

proptest! {
    #[test]
    fn a_split_parts_prompts(all in prop::collection::vec(0u16..60, 1..80), seed: u64, a in 0.0..1.0, b in 0.0..1.0) {
        let data = dataset(&all);
        let (held, rest) = data.clone().split_by_hash(f64::min(a, b), seed).unwrap();
        prop_assert!(prompts(&held).is_disjoint(&prompts(&rest)));
        prop_assert_eq!(held.len() + rest.len(), data.len());
        prop_assert!(lines(&held).is_sorted() && lines(&rest).is_sorted());
        let (more, _) = data.split_by_hash(f64::max(a, b), seed).unwrap();
        prop_assert!(prompts(&held).is_subset(&prompts(&more)));
    }

    #[test]
    fn a_draw_is_a_permutation_that_does_not_depend_on_the_file(
        all in prop::collection::hash_set(0u16..1000, 2..60), seed: u64, cut in 0usize..60,
    ) {
        let all: Vec<u16> = all.into_iter().collect();
        let data = dataset(&all);
        let drawn = data.clone().shuffle(seed);
        let mut sorted = lines(&drawn);
        sorted.sort_unstable();
        prop_assert_eq!(sorted, lines(&data));

        let mut reversed = data.clone();
        reversed.records.reverse();
        prop_assert_eq!(&reversed.shuffle(seed), &drawn);
        let cut = cut.min(data.len());
        prop_assert_eq!(&data.clone().sample(cut, seed).unwrap().records[..], &drawn.records[..cut]);
        if data.len() > 20 {
            prop_assert_ne!(data.shuffle(seed ^ 1), drawn);
        }
    }

    #[test]
    fn repeats_are_counted(all in prop::collection::vec(0u16..20, 1..40)) {
        let data = dataset(&all);
        prop_assert_eq!(data.repeated_prompts(), all.len() - all.iter().collect::<HashSet<_>>().len());
        prop_assert!(data.duplicates().is_empty());
        let mut twice = data.clone();
        twice.records.extend(data.records);
        prop_assert_eq!(twice.duplicates().len(), all.len());
    }

    /// Whole copies by count, the fraction by a choice that goes by the id: the same in any order, and more for more.
    #[test]
    fn a_weight_is_how_often_a_record_is_drawn(n in 1usize..80, weight in 0.05..4.0, more in 0.0..2.0, seed: u64) {
        let weighted = |weight: f64, reversed: bool| {
            let mut data = dataset(&(0..n as u16).collect::<Vec<_>>());
            data.records.iter_mut().for_each(|record| record.weight = weight);
            if reversed {
                data.records.reverse();
            }
            data.weighted(seed)
        };
        let copies = |data: &Dataset| {
            let mut copies = HashMap::new();
            data.records.iter().for_each(|record| *copies.entry(record.id.clone()).or_insert(0) += 1);
            copies
        };
        let data = weighted(weight, false);
        for count in copies(&data).values() {
            prop_assert!(*count == weight.floor() as usize || *count == weight.ceil() as usize);
        }
        let numbers: HashSet<_> = data.records.iter().map(|record| record.number).collect();
        prop_assert_eq!(numbers.len(), data.len());
        prop_assert_eq!(copies(&data), copies(&weighted(weight, true)));
        let larger = copies(&weighted(weight + more, false));
        for (id, count) in copies(&data) {
            prop_assert!(larger[&id] >= count);
        }
    }
}

#[test]
fn half_a_weight_is_about_half_of_the_records_and_depends_on_the_seed() {
    let half = |seed| {
        let mut data = dataset(&(0..10_000).collect::<Vec<_>>());
        data.records.iter_mut().for_each(|record| record.weight = 0.5);
        lines(&data.weighted(seed))
    };
    // Five standard deviations of a binomial.
    assert!(half(1).len().abs_diff(5_000) < 250, "{}", half(1).len());
    assert_ne!(half(1), half(2));
}
