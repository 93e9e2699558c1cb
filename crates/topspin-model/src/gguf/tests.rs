//! Whole files: golden ones, and damaged ones.

mod blocks;
mod families;
mod frozen;
mod write;

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use safetensors::SafeTensors;

use super::testing::{Writer, byte_vocabulary_keys};
use super::*;

pub(super) fn golden(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(folder)
}

/// Every element type, written by the `gguf` package and decoded by it (`scripts/oracle/gguf_blocks.py`).
#[test]
fn blocks_decode_to_the_same_bits() {
    let gguf = Gguf::open(&golden("gguf-blocks/blocks.gguf")).unwrap();
    let bytes = std::fs::read(golden("gguf-blocks/decoded.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!((gguf.tensors().count(), expected.len()), (13, 13));
    for (name, tensor) in gguf.tensors() {
        assert_eq!(format!("{:?}", tensor.kind), name);
        let expected = expected.tensor(name).unwrap();
        assert_eq!(tensor.shape, expected.shape());
        let mut decoded = vec![f32::NAN; tensor.elements()];
        gguf.read_f32(name, &mut decoded).unwrap();
        for (i, (x, y)) in decoded.iter().zip(expected.data().chunks_exact(4)).enumerate() {
            let y = f32::from_le_bytes(y.try_into().unwrap());
            assert_eq!(x.to_bits(), y.to_bits(), "element {i} of {name} is {x}; it should be {y}");
        }
    }
}

fn parse(bytes: &[u8]) -> Result<Gguf, ModelError> {
    Gguf::parse(Path::new("m.gguf"), &mut &*bytes, bytes.len() as u64)
}

/// Small whole files: tokenizers of both kinds, tensors, settings.
fn files() -> [Vec<u8>; 2] {
    let pieces: Vec<String> =
        ["<unk>", "<s>", "</s>", "▁", "a", "b", "▁a", "ab", "▁ab", "<0x0A>"].map(String::from).into();
    let sentencepiece = Writer::new()
        .value("general.architecture", Value::String("llama".into()))
        .value("tokenizer.ggml.model", Value::String("llama".into()))
        .value("tokenizer.ggml.scores", Value::Floats((0..pieces.len()).map(|i| -(i as f64)).collect()))
        .value("tokenizer.ggml.token_type", Value::Ints(vec![2, 3, 3, 1, 1, 1, 1, 1, 1, 6]))
        .value("tokenizer.ggml.tokens", Value::Strings(pieces))
        .value("tokenizer.ggml.bos_token_id", Value::Int(1))
        .value("tokenizer.ggml.eos_token_id", Value::Int(2));
    [sentencepiece, byte_vocabulary_keys(Writer::new())].map(|writer| {
        writer
            .tensor("vector", GgmlType::F32, &[3], &[1.0, -2.0, 0.5])
            .tensor("matrix", GgmlType::Q8_0, &[2, 32], &(0..64).map(|i| i as f32).collect::<Vec<_>>())
            .finish()
    })
}

/// Does with a file all that is done with one: an error is as good as a result.
fn use_all(bytes: &[u8]) {
    let Ok(gguf) = parse(bytes) else { return };
    let _ = gguf.config();
    for (_, tensor) in gguf.tensors() {
        let encoded = &bytes[tensor.offset as usize..][..tensor.kind.bytes(tensor.elements())];
        tensor.kind.decode(Level::detect(), encoded, &mut vec![0.0; tensor.elements()]);
    }
    let Ok(dialect) = read_dialect(&gguf) else { return };
    if let Ok(ids) = dialect.tokenizer().encode("ab <s>the ba\n \u{1f600}") {
        dialect.tokenizer().decode(&ids);
    }
}

#[derive(Clone, Debug)]
enum Damage {
    Flip { at: prop::sample::Index, bit: u8 },
    Cut { at: prop::sample::Index, n: usize },
    Write { at: prop::sample::Index, number: u64 },
    Repeat { at: prop::sample::Index, n: usize },
}

fn damage() -> impl Strategy<Value = Damage> {
    let at = any::<prop::sample::Index>;
    // Lengths and counts that are absurd, or nearly right.
    let number = prop_oneof![any::<u64>(), 0..300_u64, Just(u64::MAX), Just(1 << 40), Just(1 << 63)];
    prop_oneof![
        (at(), 0_u8..8).prop_map(|(at, bit)| Damage::Flip { at, bit }),
        (at(), 1_usize..40).prop_map(|(at, n)| Damage::Cut { at, n }),
        (at(), number).prop_map(|(at, number)| Damage::Write { at, number }),
        (at(), 1_usize..40).prop_map(|(at, n)| Damage::Repeat { at, n }),
    ]
}

impl Damage {
    fn apply(&self, bytes: &mut Vec<u8>) {
        let len = bytes.len();
        match self {
            Self::Flip { at, bit } => bytes[at.index(len)] ^= 1 << bit,
            Self::Cut { at, n } => {
                let at = at.index(len);
                bytes.drain(at..(at + n).min(len - 1).max(at));
            }
            Self::Write { at, number } => {
                let at = at.index(len);
                bytes.iter_mut().skip(at).zip(number.to_le_bytes()).for_each(|(byte, new)| *byte = new);
            }
            Self::Repeat { at, n } => {
                let at = at.index(len);
                bytes.extend_from_within(at..(at + n).min(len));
            }
        }
    }
}

proptest! {
    /// Runs long with `PROPTEST_CASES`.
    #[test]
    fn a_damaged_file_never_panics(kind in 0..2_usize, damages in prop::collection::vec(damage(), 1..6)) {
        let mut bytes = files()[kind].clone();
        damages.iter().for_each(|damage| damage.apply(&mut bytes));
        use_all(&bytes);
    }
}

/// What one number out of place makes of a file of 300 bytes.
#[test]
fn absurd_numbers_are_errors() {
    let error = |bytes: &[u8]| parse(bytes).unwrap_err().to_string();
    let key = |kind: u32, value: &[u8]| {
        let mut bytes = Writer::new().finish();
        bytes.truncate(24);
        bytes[16] = 1;
        bytes.extend(1_u64.to_le_bytes());
        bytes.push(b'k');
        bytes.extend(kind.to_le_bytes());
        bytes.extend(value);
        bytes
    };
    let array =
        |kind: u32, n: u64, elements: &[u8]| key(9, &[&kind.to_le_bytes(), &n.to_le_bytes()[..], elements].concat());
    let cut = "reaches beyond the end of the file";
    // Kinds of elements: 8 strings, 7 truth values, 0 bytes, 9 arrays.
    for (bytes, expected) in [
        (key(8, &(1_u64 << 43).to_le_bytes()), cut),
        (array(8, 1 << 43, &[0; 80]), cut),
        (array(0, 1 << 43, &[7; 80]), cut),
        (array(7, 2, &[1, 2]), "`k` in `m.gguf` is 2 where 0 or 1 should be"),
        (array(9, 1, &[0; 80]), "`k` in `m.gguf` is an array of arrays, which is not supported"),
        (key(8, &[&2_u64.to_le_bytes()[..], b"\xff\xfe"].concat()), "is not UTF-8; the file is damaged"),
        (key(13, &[0; 8]), "`k` in `m.gguf` is of the unknown type 13"),
        (key(10, &u64::MAX.to_le_bytes()), "`k` in `m.gguf` is 18446744073709551615, which is too large"),
    ] {
        let found = error(&bytes);
        assert!(found.contains(expected), "{found}");
    }

    // A string that the file could hold, but no header does.
    let bytes = key(8, &(1_u64 << 30).to_le_bytes());
    let long = Gguf::parse(Path::new("m.gguf"), &mut &*bytes, 1 << 40).unwrap_err().to_string();
    assert!(long.contains("the value of `k` ends at byte 1073741869, and no header is longer than 128 MiB"), "{long}");
}

#[test]
fn misplaced_tensors_are_errors() {
    let error = |offsets: [u64; 3]| {
        let rows = offsets.iter().zip(["a", "b", "c"]);
        let writer = rows.fold(Writer::new(), |writer, (&offset, name)| writer.raw_tensor(name, 0, &[16], offset));
        let mut bytes = writer.finish();
        bytes.resize(bytes.len() + 256, 1);
        parse(&bytes).map(drop).map_err(|e| e.to_string())
    };
    assert_eq!(error([64, 0, 128]), Ok(()));
    let overlap = "tensor `b` in `m.gguf` overlaps tensor `c`; the file is damaged, fetch it again";
    assert_eq!(error([128, 32, 0]), Err(overlap.into()));
    assert_eq!(
        error([128, 64, 64]),
        Err("tensor `c` in `m.gguf` overlaps tensor `b`; the file is damaged, fetch it again".into())
    );
    let odd = "tensor `b` in `m.gguf` begins at the offset 65, which is no multiple of 32; the file is damaged, fetch it again";
    assert_eq!(error([0, 65, 160]), Err(odd.into()));
    assert!(error([0, 64, u64::MAX - 31]).unwrap_err().starts_with("tensor `c` in `m.gguf` reaches beyond the end"));
}
