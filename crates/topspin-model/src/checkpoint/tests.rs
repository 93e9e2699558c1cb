mod damaged;

use std::fs;

use proptest::prelude::*;
use serde_json::{Map, json};

use super::*;
use crate::config::DecoderConfig;
use crate::decoder::testing::check_frozen;
use crate::dialect::Dialect;
use crate::testing::{random_parameters, small_config, tiny_config};
use crate::tokenizer::Tokenizer;

/// A tensor of a hand-made file: name, type, shape, bytes.
type Raw<'a> = (&'a str, &'a str, &'a [usize], Vec<u8>);

/// A safetensors file written by hand, so that the reader is not tested against the writer alone.
fn file(tensors: &[Raw]) -> Vec<u8> {
    let mut header = Map::new();
    header.insert("__metadata__".into(), json!({ "format": "pt" }));
    let mut data = Vec::new();
    for (name, dtype, shape, bytes) in tensors {
        let offsets = [data.len(), data.len() + bytes.len()];
        header.insert((*name).into(), json!({ "dtype": dtype, "shape": shape, "data_offsets": offsets }));
        data.extend(bytes);
    }
    let header = serde_json::to_vec(&header).unwrap();
    [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat()
}

fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

fn layout(entries: &[(&str, &[usize])]) -> Layout {
    let mut layout = Layout::new();
    for (name, shape) in entries {
        layout.push(*name, shape);
    }
    layout
}

fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        fs::write(dir.path().join(name), bytes).unwrap();
    }
    dir
}

/// The message of opening and checking a folder, with its path written as `DIR`.
fn error(dir: &tempfile::TempDir, layout: &Layout) -> String {
    let attempt = Checkpoint::open(dir.path()).and_then(|c| c.check(layout));
    attempt.unwrap_err().to_string().replace(&dir.path().display().to_string(), "DIR")
}

#[test]
fn reads_every_type_from_one_file_or_from_shards() {
    let layout = layout(&[("a", &[2]), ("b", &[1, 2]), ("c", &[1])]);
    let a = ("a", "F32", &[2_usize][..], f32s(&[1.5, -2.25]));
    // 0.5 and -2.0 in F16, -3.0 in BF16.
    let b = ("b", "F16", &[1, 2][..], vec![0x00, 0x38, 0x00, 0xc0]);
    let c = ("c", "BF16", &[1][..], vec![0x40, 0xc0]);
    let expected = [1.5, -2.25, 0.5, -2.0, -3.0];
    let read = |dir: &tempfile::TempDir| {
        let mut out = [f32::NAN; 5];
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        checkpoint.read_parameters(&layout, &mut out).unwrap();
        let b = checkpoint.read_rows(layout.get("b").unwrap()).unwrap();
        assert_eq!((b.kind, &b.bytes[..]), (GgmlType::F16, &[0x00, 0x38, 0x00, 0xc0][..]));
        out
    };
    // In another order than the layout's.
    let single = folder(&[(SINGLE, &file(&[c.clone(), a.clone(), b.clone()]))]);
    assert_eq!(read(&single), expected);
    let index =
        json!({ "metadata": {}, "weight_map": { "a": "1.safetensors", "b": "2.safetensors", "c": "1.safetensors" } });
    let shards = folder(&[
        (INDEX, index.to_string().as_bytes()),
        ("1.safetensors", &file(&[a.clone(), c.clone()])),
        ("2.safetensors", &file(std::slice::from_ref(&b))),
    ]);
    assert_eq!(read(&shards), expected);

    let misplaced = folder(&[
        (INDEX, index.to_string().as_bytes()),
        ("1.safetensors", &file(std::slice::from_ref(&a))),
        ("2.safetensors", &file(&[b.clone(), c])),
    ]);
    let problem =
        "tensor `c` in `DIR/1.safetensors` is missing, although `model.safetensors.index.json` says that it is there";
    assert_eq!(error(&misplaced, &layout), problem);
    let twice = folder(&[
        (INDEX, index.to_string().as_bytes()),
        ("1.safetensors", &file(std::slice::from_ref(&a))),
        ("2.safetensors", &file(&[a, b])),
    ]);
    let problem = "tensor `a` in `DIR/2.safetensors` is also in `DIR/1.safetensors`; remove one of the files";
    assert_eq!(error(&twice, &layout), problem);
    let gone = folder(&[(INDEX, index.to_string().as_bytes())]);
    let problem = "cannot read `DIR/1.safetensors`: there is no such file or folder; check the path";
    assert_eq!(error(&gone, &layout), problem);
    let outside = folder(&[(INDEX, br#"{"weight_map": {"a": "../../x"}}"#)]);
    let problem =
        "tensor `a` in `DIR/model.safetensors.index.json` is said to be in \"../../x\", which is no file of the folder";
    assert_eq!(error(&outside, &layout), problem);
}

#[test]
fn names_the_file_and_the_tensor() {
    let layout = layout(&[("a", &[2]), ("b", &[1])]);
    let a = ("a", "F32", &[2_usize][..], f32s(&[1.5, -2.25]));
    let b = ("b", "F32", &[1][..], f32s(&[4.0]));
    let one = |bytes: &[u8]| error(&folder(&[(SINGLE, bytes)]), &layout);
    let at = "in `DIR/model.safetensors`";
    assert_eq!(one(&file(std::slice::from_ref(&a))), format!("tensor `b` {at} is missing"));
    let odd = ("b", "F32", &[2][..], f32s(&[4.0, 5.0]));
    let problem = format!("tensor `b` {at} has the shape [2]; `config.json` asks for [1]");
    assert_eq!(one(&file(&[a.clone(), odd])), problem);
    let int = ("b", "I32", &[1][..], vec![1, 0, 0, 0]);
    let problem =
        format!("tensor `b` {at} is stored as I32, which is not supported; save the model as F32, F16 or BF16");
    assert_eq!(one(&file(&[a.clone(), int])), problem);
    let more = ("c", "F32", &[1][..], f32s(&[4.0]));
    let problem = format!("tensor `c` {at} is none that the decoder uses");
    assert_eq!(one(&file(&[a.clone(), b.clone(), more])), problem);

    let whole = file(&[a, b]);
    let weights = "cannot use the weights in `DIR/model.safetensors`:";
    let cut = one(&whole[..whole.len() - 1]);
    let (len, wanted) = (whole.len() - 1, whole.len());
    let problem = format!(
        "{weights} it ends after {len} bytes, but its header asks for {wanted}; the file is truncated, fetch it again"
    );
    assert_eq!(cut, problem);
    assert!(one(&whole[..40]).contains("it ends after 40 bytes"));
    assert!(one(&[&whole[..], &[0]].concat()).contains("the file is damaged"));
    let foreign = format!("{weights} it is not a safetensors file; check that it is the right one");
    assert_eq!(one(b"PK\x03\x04 a zip file"), foreign);
    assert_eq!(one(b""), foreign);
    assert_eq!(one(b"version https://git-lfs.github.com/spec/v1\n"), foreign);
    let none = folder(&[]);
    let problem = "cannot use the weights in `DIR`: it has neither `model.safetensors` nor \
                   `model.safetensors.index.json`; put the weights there, or name another folder";
    assert_eq!(error(&none, &layout), problem);
    let torch = folder(&[("pytorch_model.bin", b"x")]);
    assert!(error(&torch, &layout).contains("it has `pytorch_model.bin` but no `model.safetensors`"));
}

#[test]
fn passes_over_a_tied_head_and_rotary_buffers() {
    let embedding = "model.embed_tokens.weight";
    let tied = layout(&[(embedding, &[2, 1])]);
    let head = |shape: &'static [usize], n| ("lm_head.weight", "F32", shape, f32s(&vec![7.0; n]));
    let rotary = ("model.layers.0.self_attn.rotary_emb.inv_freq", "F32", &[1][..], f32s(&[1.0]));
    let base = (embedding, "F32", &[2, 1][..], f32s(&[1.0, 2.0]));
    let dir = folder(&[(SINGLE, &file(&[base.clone(), head(&[2, 1], 2), rotary]))]);
    let mut out = [0.0; 2];
    Checkpoint::open(dir.path()).unwrap().read_parameters(&tied, &mut out).unwrap();
    assert_eq!(out, [1.0, 2.0]);
    let dir = folder(&[(SINGLE, &file(&[base, head(&[3, 1], 3)]))]);
    assert_eq!(error(&dir, &tied), "tensor `lm_head.weight` in `DIR/model.safetensors` is none that the decoder uses");
}

fn dialect(config: &DecoderConfig) -> Dialect {
    let letters: String = ('a'..).take(config.vocab_size.saturating_sub(3)).collect();
    Dialect::new(Tokenizer::from_characters(&letters), None)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn saving_and_reading_gives_the_same_bits(config in tiny_config(), seed in any::<u64>()) {
        let layout = config.layout();
        let parameters = random_parameters(layout.len(), seed);
        let dir = tempfile::tempdir().unwrap();
        let read = |dtype| {
            save_folder(dir.path(), &config, &parameters, dtype, &dialect(&config)).unwrap();
            let mut out = vec![f32::NAN; parameters.len()];
            Checkpoint::open(dir.path()).unwrap().read_parameters(&layout, &mut out).unwrap();
            out
        };
        let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        prop_assert_eq!(bits(&read(SaveDtype::F32)), bits(&parameters));
        for (x, y) in parameters.iter().zip(read(SaveDtype::Bf16)) {
            prop_assert!((x - y).abs() <= x.abs() * 2.0_f32.powi(-8), "{x} became {y}");
        }
    }

    #[test]
    fn damage_is_an_error_and_no_panic(keep in 0.0_f64..1.0, at in any::<prop::sample::Index>(), bit in 0_u8..8) {
        let layout = layout(&[("a", &[2]), ("b", &[1])]);
        let whole = file(&[("a", "F32", &[2], f32s(&[1.0, 2.0])), ("b", "F32", &[1], f32s(&[4.0]))]);
        let cut = folder(&[(SINGLE, &whole[..(keep * whole.len() as f64) as usize])]);
        prop_assert!(Checkpoint::open(cut.path()).is_err());
        let mut flipped = whole.clone();
        let at = at.index(whole.len());
        flipped[at] ^= 1_u8 << bit;
        let flipped = folder(&[(SINGLE, &flipped)]);
        let mut out = [0.0; 3];
        let _ = Checkpoint::open(flipped.path()).and_then(|c| c.read_parameters(&layout, &mut out));
    }
}

/// The folders that transformers wrote for `tests/golden`, of all families.
#[test]
fn every_family_is_saved_as_it_was_read() {
    let folders = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/families");
    for folder in fs::read_dir(folders).unwrap().map(|folder| folder.unwrap().path()) {
        let read = |dir: &Path| {
            let config = DecoderConfig::read(&dir.join("config.json")).unwrap();
            let mut parameters = vec![f32::NAN; config.layout().len()];
            Checkpoint::open(dir).unwrap().read_parameters(&config.layout(), &mut parameters).unwrap();
            (config, parameters)
        };
        let (config, parameters) = read(&folder);
        let dir = tempfile::tempdir().unwrap();
        save_folder(dir.path(), &config, &parameters, SaveDtype::F32, &dialect(&config)).unwrap();
        assert_eq!(read(dir.path()), (config, parameters));
    }
}

/// As transformers wrote them, and in half the bits.
#[test]
fn matrices_of_every_family_give_the_same_bits_as_they_are_stored() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
    let folders = fs::read_dir(golden.join("families")).unwrap().map(|folder| folder.unwrap().path());
    let check = |dir: &Path| {
        let config = DecoderConfig::read(&dir.join("config.json")).unwrap();
        let checkpoint = Checkpoint::open(dir).unwrap();
        let mut parameters = vec![f32::NAN; config.layout().len()];
        checkpoint.read_parameters(&config.layout(), &mut parameters).unwrap();
        let name = dir.display().to_string();
        check_frozen(&name, &config, &parameters, || checkpoint.read_frozen(&config).unwrap());
        (config, parameters)
    };
    for folder in folders.chain(["tiny-llama", "tiny-llama-tied"].map(|name| golden.join(name))) {
        let (config, parameters) = check(&folder);
        let dir = tempfile::tempdir().unwrap();
        save_folder(dir.path(), &config, &parameters, SaveDtype::Bf16, &dialect(&config)).unwrap();
        check(dir.path());
    }
}

#[test]
fn the_same_model_gives_the_same_bytes() {
    let config = DecoderConfig { num_layers: 2, tie_word_embeddings: false, ..small_config(6) };
    let parameters = random_parameters(config.layout().len(), 5);
    let save = || {
        let dir = tempfile::tempdir().unwrap();
        save_folder(dir.path(), &config, &parameters, SaveDtype::F32, &dialect(&config)).unwrap();
        let mut files: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files.iter().map(|f| (f.file_name().unwrap().to_owned(), fs::read(f).unwrap())).collect::<Vec<_>>()
    };
    let saved = save();
    assert_eq!(saved, save());
    let names: Vec<_> = saved.iter().map(|(name, _)| name.to_str().unwrap()).collect();
    let expected =
        ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];
    assert_eq!(names, expected);
}
