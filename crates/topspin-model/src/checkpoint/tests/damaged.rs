//! Files that say what is not so.

use serde_json::Value;

use super::*;

/// A file with this header, and `data` bytes behind it.
fn with_header(header: &str, data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![1; data]].concat()
}

/// What is said of a folder with one weight file; its path is written as `FILE`.
fn said(bytes: &[u8]) -> String {
    let dir = folder(&[(SINGLE, bytes)]);
    let layout = layout(&[("a", &[2]), ("b", &[1])]);
    error(&dir, &layout).replace("`DIR/model.safetensors`", "FILE")
}

#[test]
fn headers_that_claim_what_is_not_there() {
    let entry = |shape: &str, from: u64, to: u64| {
        format!(r#"{{"dtype": "F32", "shape": {shape}, "data_offsets": [{from}, {to}]}}"#)
    };
    let two = |a: &str, b: &str| format!(r#"{{"a": {a}, "b": {b}}}"#);
    let a = entry("[2]", 0, 8);

    // Terabytes, in the length of the header, in offsets, and in a shape.
    let weights = "cannot use the weights in FILE:";
    for claimed in [1 << 40, u64::MAX] {
        let bytes = [&u64::to_le_bytes(claimed)[..], &with_header(&two(&a, &entry("[1]", 8, 12)), 12)[8..]].concat();
        assert_eq!(said(&bytes), format!("{weights} it is not a safetensors file; check that it is the right one"));
    }
    let far = said(&with_header(&two(&a, &entry("[1099511627776]", 8, 4398046511112)), 12));
    assert!(
        far.starts_with(&format!("{weights} it ends after ")) && far.ends_with("the file is truncated, fetch it again")
    );
    let damaged = |header: &str, data: usize, problem: &str| {
        let said = said(&with_header(header, data));
        let whole =
            said.starts_with(&format!("{weights} its header is damaged (")) && said.ends_with("; fetch the file again");
        assert!(whole && said.contains(problem), "{said}");
    };
    // A shape that its bytes do not hold, or whose product no number holds.
    damaged(&two(&a, &entry("[1099511627776]", 8, 12)), 12, "");
    damaged(&two(&a, &entry("[4294967296, 4294967296, 4294967296]", 8, 12)), 12, "");
    // Overlapping, with a hole between, backwards, the same twice.
    damaged(&two(&a, &entry("[1]", 4, 8)), 8, "`b`");
    damaged(&two(&a, &entry("[1]", 12, 16)), 16, "`b`");
    damaged(&two(&a, &entry("[1]", 12, 8)), 12, "`b`");
    damaged(&two(&a, &a), 8, "");
    // What is no header at all.
    damaged(r#"{"a": 3}"#, 8, "");
    damaged(r#"{"a": {"dtype": "F32"}}"#, 8, "missing field");
    damaged(r#"{"a": {"dtype": "F33", "shape": [2], "data_offsets": [0, 8]}}"#, 8, "F33");
    damaged(r#"{"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}"#, 8, "-2");
    damaged(&format!("{{{}", "[".repeat(1 << 20)), 8, "");
    // A name twice: one of them holds bytes that no tensor has.
    damaged(&format!(r#"{{"a": {a}, "b": {}, "a": {}}}"#, entry("[1]", 8, 12), entry("[2]", 12, 20)), 20, "");
}

#[test]
fn an_index_that_is_wrong() {
    let layout = layout(&[("a", &[2])]);
    let a = file(&[("a", "F32", &[2], f32s(&[1.5, -2.25]))]);
    let said = |index: &[u8]| {
        let dir = folder(&[(INDEX, index), ("1.safetensors", &a)]);
        error(&dir, &layout).replace("DIR/model.safetensors.index.json", "INDEX")
    };
    assert!(said(b"{").starts_with("`INDEX` is not valid JSON: EOF"), "{}", said(b"{"));
    assert!(said(b"[]").starts_with("`INDEX` is not valid JSON: invalid type: sequence"), "{}", said(b"[]"));
    assert!(said(b"{\"weight_map\": {\"\xff\": 1}}").contains("INDEX`: it is not UTF-8 text"));
    for none in ["{}", r#"{"weight_map": []}"#, r#"{"weight_map": null}"#] {
        let problem = "`weight_map` in `INDEX` is missing, or is not a table of tensors and files";
        assert_eq!(said(none.as_bytes()), problem);
    }
    assert_eq!(said(br#"{"weight_map": {}}"#), "`weight_map` in `INDEX` is empty; save the model again");
    for place in ["../x", "/etc/passwd", "a/../1.safetensors", "./1.safetensors", "..", ".", "", "sub/1.safetensors"] {
        let index = json!({"weight_map": {"a": place}}).to_string();
        let problem = format!("tensor `a` in `INDEX` is said to be in {place:?}, which is no file of the folder");
        assert_eq!(said(index.as_bytes()), problem);
    }
    for place in [json!(3), json!(null), json!(["1.safetensors"])] {
        let index = json!({"weight_map": {"a": place}}).to_string();
        assert!(said(index.as_bytes()).ends_with(&format!("is said to be in {place}, which is no file of the folder")));
    }
    // A file that is there and is none of weights, one that is a tensor short, and one that cannot have a name.
    let own = said(br#"{"weight_map": {"a": "model.safetensors.index.json"}}"#);
    assert!(own.ends_with("it is not a safetensors file; check that it is the right one"), "{own}");
    let more = said(br#"{"weight_map": {"a": "1.safetensors", "b": "1.safetensors"}}"#);
    assert!(more.starts_with("tensor `b` in `DIR/1.safetensors` is missing, although"), "{more}");
    assert!(said(br#"{"weight_map": {"a": "1\u0000"}}"#).starts_with("cannot read `DIR/1\0`"));
}

/// Weights that are no numbers are told where they are read, by the tensor's name.
#[test]
fn weights_that_are_no_numbers_are_named() {
    let n = CHUNK + 3;
    let layout = layout(&[("a", &[n]), ("b", &[1])]);
    let read = |at: usize, value: f32| {
        let mut a: Vec<f32> = (0..n).map(|i| i as f32 - 7.5).collect();
        a[at] = value;
        let dir = folder(&[(SINGLE, &file(&[("a", "F32", &[n], f32s(&a)), ("b", "F32", &[1], f32s(&[4.0]))]))]);
        let read = Checkpoint::open(dir.path()).unwrap().read_parameters(&layout, &mut vec![0.0; n + 1]);
        read.map_err(|e| e.to_string().replace(&dir.path().display().to_string(), "DIR"))
    };
    assert_eq!(read(3, f32::MAX), Ok(()));
    for (at, value, name) in
        [(0, f32::NAN, "NaN"), (CHUNK + 2, f32::INFINITY, "inf"), (CHUNK - 1, f32::NEG_INFINITY, "-inf")]
    {
        let problem = format!(
            "tensor `a` in `DIR/model.safetensors` has {name} as its element {at}, which is no finite number; fetch the file \
             again, or take weights from before training diverged"
        );
        assert_eq!(read(at, value), Err(problem));
    }
}

/// What a file of an index may say in place of a name, and what a folder may hold under it.
fn place() -> impl Strategy<Value = Value> {
    let name =
        prop_oneof![Just("1.safetensors"), Just("2.safetensors"), Just(INDEX), Just("../1.safetensors"), Just("3")];
    prop_oneof![
        8 => name.prop_map(Value::from),
        1 => "\\PC{0,6}".prop_map(Value::from),
        1 => prop_oneof![Just(json!(null)), Just(json!(1)), Just(json!([])), Just(json!({}))],
    ]
}

proptest! {
    /// Whatever an index and its shards say, there is an error, or the numbers are those that the shards hold. Runs long
    /// with `PROPTEST_CASES`.
    #[test]
    fn a_random_index_never_panics(
        map in prop::collection::btree_map("[abc]", place(), 0..4),
        shards in prop::collection::vec(prop::collection::vec(("[abc]", prop::collection::vec(-9.0_f32..9.0, 0..3)), 0..3), 2),
        around in 0..4_u8,
        damage in prop::option::weighted(0.3, (any::<prop::sample::Index>(), any::<u8>())),
    ) {
        let index = match around {
            0 => json!({"weight_map": map}),
            1 => json!({"metadata": {"total_size": 1_u64 << 50}, "weight_map": map}),
            2 => json!({"metadata": [], "weight_map": map, "more": null}),
            _ => json!([map]),
        };
        let mut index = index.to_string().into_bytes();
        if let Some((at, byte)) = damage {
            let at = at.index(index.len());
            index[at] = byte;
        }
        let mut files = Vec::new();
        for tensors in &shards {
            let shapes: Vec<_> = tensors.iter().map(|(name, values)| (name, [values.len()], f32s(values))).collect();
            let raw: Vec<Raw> =
                shapes.iter().map(|(name, shape, bytes)| (name.as_str(), "F32", &shape[..], bytes.clone())).collect();
            files.push(file(&raw));
        }
        let dir = folder(&[(INDEX, &index), ("1.safetensors", &files[0]), ("2.safetensors", &files[1])]);
        if let Ok(checkpoint) = Checkpoint::open(dir.path()) {
            let shapes: Vec<_> = checkpoint.tensors().map(|(name, _, shape)| (name.to_owned(), shape.to_vec())).collect();
            let mut layout = Layout::new();
            shapes.iter().for_each(|(name, shape)| {
                layout.push(name.clone(), shape);
            });
            let mut out = vec![f32::NAN; layout.len()];
            checkpoint.read_parameters(&layout, &mut out).unwrap();
            // A tensor that two of its files have is an error, so there is no choice.
            let names = ["1.safetensors", "2.safetensors"];
            let used = shards.iter().zip(names).filter(|(_, name)| checkpoint.files().iter().any(|file| file.ends_with(name)));
            let held: BTreeMap<_, _> = used.flat_map(|(tensors, _)| tensors.iter().cloned()).collect();
            for entry in layout.entries() {
                prop_assert_eq!(&out[entry.range()], &held[&entry.name][..]);
            }
        }
    }
}
