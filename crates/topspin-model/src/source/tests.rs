use std::fs;

use proptest::prelude::*;

use super::*;
use crate::chat::Message;
use crate::checkpoint::{SaveDtype, save_folder};
use crate::gguf::testing::{byte_vocabulary_keys, llama_keys};
use crate::testing::{byte_tokenizer, random_parameters, small_config, tiny_config};

const TEMPLATE: &str = "{% for m in messages %}<|im_start|>{{ m.role + '\n' + m.content }}<|im_end|>\n{% endfor %}";

/// A folder with a model whose vocabulary holds the byte tokenizer.
fn saved(mut config: DecoderConfig, seed: u64) -> (tempfile::TempDir, DecoderConfig, Vec<f32>) {
    config.vocab_size += 261;
    let parameters = random_parameters(config.layout().len(), seed);
    let tokenizer = byte_tokenizer();
    let template = ChatTemplate::new(Path::new("t"), TEMPLATE, &tokenizer).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let dialect = Dialect::new(tokenizer, Some(template));
    save_folder(dir.path(), &config, &parameters, SaveDtype::F32, &dialect).unwrap();
    (dir, config, parameters)
}

fn open(dir: &Path) -> Result<ModelFiles, ModelError> {
    ModelFiles::open(&ModelSource::resolve(dir.to_str().unwrap())?)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn a_saved_model_opens_as_the_same_model(config in tiny_config(), seed in any::<u64>(), text in "\\PC{0,20}") {
        let (dir, config, parameters) = saved(config, seed);
        let model = open(dir.path()).unwrap();
        prop_assert_eq!(&model.config, &config);
        let mut read = vec![f32::NAN; parameters.len()];
        model.read_parameters(&mut read).unwrap();
        prop_assert_eq!(&read, &parameters);
        let tokenizer = model.dialect.tokenizer();
        prop_assert_eq!(tokenizer.encode(&text).unwrap(), byte_tokenizer().encode(&text).unwrap());
        prop_assert_eq!((tokenizer.end_of_turn(), tokenizer.stop_ids()), (258, &[256, 258][..]));
        let rendered = model.dialect.template().unwrap().render(&[Message::new("user", &text)], false).unwrap();
        prop_assert_eq!(rendered, format!("<|im_start|>user\n{text}<|im_end|>\n"));
        // Saving what was opened changes nothing.
        let again = tempfile::tempdir().unwrap();
        save_folder(again.path(), &model.config, &parameters, SaveDtype::F32, &model.dialect).unwrap();
        prop_assert_eq!(open(again.path()).unwrap().fingerprint().unwrap(), model.fingerprint().unwrap());
    }
}

/// Opens what may be damaged; where that succeeds, using it must too.
fn use_all(path: &Path) {
    let Ok(model) = open(path) else { return };
    if let Err(error) = model.read_parameters(&mut vec![0.0; model.config.layout().len()]) {
        // A bit may make a number into none.
        assert!(error.to_string().contains("which is no finite number"), "{error}");
    }
    let ids = model.dialect.encode_prompt(&[Message::new("user", "the \u{1f40d} <|im_end|>")]);
    model.dialect.decode_response(&ids.unwrap_or_default());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    #[test]
    fn a_damaged_gguf_file_never_panics(at in any::<prop::sample::Index>(), bit in 0_u8..8) {
        let (mut bytes, ..) = gguf_file();
        let at = at.index(bytes.len());
        bytes[at] ^= 1_u8 << bit;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.gguf");
        fs::write(&path, bytes).unwrap();
        use_all(&path);
    }

    #[test]
    fn a_damaged_folder_never_panics(at in any::<prop::sample::Index>(), bit in 0_u8..8, file in 0..4_usize) {
        let (dir, ..) = saved(small_config(1), 4);
        let path = dir.path().join(JSON[file]);
        let mut bytes = fs::read(&path).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= 1_u8 << bit;
        fs::write(&path, bytes).unwrap();
        use_all(dir.path());
    }
}

/// The files of JSON in a folder.
const JSON: [&str; 4] = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"];

/// Puts `new` in the place that `way` leads to, child by child.
fn replace(json: &mut serde_json::Value, way: &[prop::sample::Index], new: serde_json::Value) {
    use serde_json::Value;
    let Some((step, way)) = way.split_first() else { return *json = new };
    match json {
        Value::Array(items) if !items.is_empty() => {
            let at = step.index(items.len());
            replace(&mut items[at], way, new);
        }
        Value::Object(items) if !items.is_empty() => {
            let at = step.index(items.len());
            replace(items.values_mut().nth(at).unwrap(), way, new);
        }
        _ => *json = new,
    }
}

fn any_json() -> impl Strategy<Value = serde_json::Value> {
    use serde_json::json;
    prop_oneof![
        Just(json!(null)),
        Just(json!(true)),
        Just(json!(-1)),
        Just(json!(1e308)),
        Just(json!(u64::MAX)),
        Just(json!("")),
        Just(json!([])),
        Just(json!({})),
        Just(json!([[1, "a"], null])),
        Just(json!({"type": "Sequence", "a": []})),
        (0..300_u32).prop_map(serde_json::Value::from),
        "\\PC{0,8}".prop_map(serde_json::Value::from),
    ]
}

proptest! {
    /// Runs long with `PROPTEST_CASES`.
    #[test]
    fn json_of_the_wrong_shape_never_panics(
        file in 0..JSON.len(),
        changes in prop::collection::vec((prop::collection::vec(any::<prop::sample::Index>(), 1..6), any_json()), 1..4),
    ) {
        let (dir, ..) = saved(small_config(1), 4);
        let path = dir.path().join(JSON[file]);
        let mut json = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        changes.into_iter().for_each(|(way, new)| replace(&mut json, &way, new));
        fs::write(&path, json.to_string()).unwrap();
        use_all(dir.path());
    }
}

#[test]
fn models_can_be_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<ModelFiles>();
}

#[test]
fn a_fingerprint_follows_the_contents() {
    let (one, ..) = saved(small_config(1), 1);
    let (same, ..) = saved(small_config(1), 1);
    let (other, ..) = saved(small_config(1), 2);
    let print = |dir: &tempfile::TempDir| open(dir.path()).unwrap().fingerprint().unwrap();
    assert_eq!(print(&one).len(), 64);
    assert_eq!(print(&one), print(&same));
    assert_ne!(print(&one), print(&other));
    fs::write(same.path().join("chat_template.jinja"), "another").unwrap();
    assert_ne!(print(&one), print(&same));
}

/// A GGUF file of a small model, and what it holds.
fn gguf_file() -> (Vec<u8>, DecoderConfig, Vec<f32>) {
    let mut config = small_config(1);
    config.vocab_size = 261;
    let mut writer = byte_vocabulary_keys(llama_keys(&config));
    let names = [
        ("token_embd", "model.embed_tokens"),
        ("output_norm", "model.norm"),
        ("blk.0.attn_norm", "model.layers.0.input_layernorm"),
        ("blk.0.attn_q", "model.layers.0.self_attn.q_proj"),
        ("blk.0.attn_k", "model.layers.0.self_attn.k_proj"),
        ("blk.0.attn_v", "model.layers.0.self_attn.v_proj"),
        ("blk.0.attn_output", "model.layers.0.self_attn.o_proj"),
        ("blk.0.ffn_norm", "model.layers.0.post_attention_layernorm"),
        ("blk.0.ffn_gate", "model.layers.0.mlp.gate_proj"),
        ("blk.0.ffn_up", "model.layers.0.mlp.up_proj"),
        ("blk.0.ffn_down", "model.layers.0.mlp.down_proj"),
    ];
    let layout = config.layout();
    let parameters = random_parameters(layout.len(), 3);
    for (name, ours) in names {
        let entry = layout.get(&format!("{ours}.weight")).unwrap();
        writer =
            writer.tensor(&format!("{name}.weight"), gguf::GgmlType::F32, &entry.shape, &parameters[entry.range()]);
    }
    (writer.finish(), config, parameters)
}

#[test]
fn a_gguf_file_opens_as_a_model() {
    let (bytes, config, parameters) = gguf_file();
    let layout = config.layout();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    fs::write(&path, bytes).unwrap();
    let model = open(&path).unwrap();
    assert_eq!(model.config, config);
    let description = model.describe();
    assert_eq!(description.parameters, layout.len());
    assert_eq!(description.stored_types, BTreeMap::from([("F32".to_owned(), layout.len())]));
    assert_eq!((description.end_of_turn.as_str(), description.chat_template), ("<|endoftext|>", false));
    let before = model.fingerprint().unwrap();
    fs::rename(&path, dir.path().join("n.gguf")).unwrap();
    assert_eq!(open(&dir.path().join("n.gguf")).unwrap().fingerprint().unwrap(), before, "the name does not matter");
    fs::rename(dir.path().join("n.gguf"), &path).unwrap();
    let mut read = vec![0.0; parameters.len()];
    model.read_parameters(&mut read).unwrap();
    let norm = layout.get("model.norm.weight").unwrap().range();
    assert_eq!(read[norm.clone()], parameters[norm]);
}

#[test]
fn names_what_is_wrong() {
    let resolve = |spec: &str| ModelSource::resolve(spec).unwrap_err().to_string();
    assert_eq!(
        resolve("no/such/model"),
        "`no/such/model` is not a model: there is no such file or folder; check the path, or write `hf:org/name` for a \
         model on the Hub"
    );
    for spec in ["hf:", "hf:../x", "hf:a/b/c", "hf:a/b@", "hf:/b"] {
        let expected =
            format!("`{spec}` is not a model: a model on the Hub is written `hf:org/name` or `hf:org/name@revision`");
        assert_eq!(resolve(spec), expected);
    }

    let (dir, ..) = saved(small_config(1), 1);
    let error = |dir: &tempfile::TempDir| {
        open(dir.path()).unwrap_err().to_string().replace(&dir.path().display().to_string(), "DIR")
    };
    let weights = dir.path().join("model.safetensors");
    assert!(
        resolve(weights.to_str().unwrap()).ends_with("it is a file, but not a `.gguf`; name the folder that holds it")
    );
    fs::remove_file(weights).unwrap();
    assert!(error(&dir).starts_with("cannot use the weights in `DIR`: it has neither `model.safetensors`"));
    fs::write(dir.path().join("config.json"), "{").unwrap();
    let expected = "`DIR/config.json` is not valid JSON: EOF while parsing an object at line 1 column 1";
    assert_eq!(error(&dir), expected);
    fs::remove_file(dir.path().join("config.json")).unwrap();
    let expected =
        "`DIR` is not a model: it is a folder without `config.json`; name a folder in the Hugging Face layout";
    assert_eq!(error(&dir), expected);

    let (dir, ..) = saved(small_config(1), 1);
    let path = dir.path().join("config.json");
    let text = fs::read_to_string(&path).unwrap();
    // No arena of that size may be asked for before the files are looked at.
    fs::write(&path, text.replace("\"vocab_size\": 262", "\"vocab_size\": 200000000")).unwrap();
    let expected = "tensor `model.embed_tokens.weight` in `DIR/model.safetensors` has the shape [262, 8]; \
                    `config.json` asks for [200000000, 8]";
    assert_eq!(error(&dir), expected);
    fs::write(&path, text).unwrap();
    fs::remove_file(dir.path().join("tokenizer.json")).unwrap();
    assert!(error(&dir).starts_with("cannot use the tokenizer in `DIR`: it has no `tokenizer.json`"));

    let mut config = small_config(1);
    config.vocab_size = 5;
    let dir = tempfile::tempdir().unwrap();
    let parameters = random_parameters(config.layout().len(), 1);
    save_folder(dir.path(), &config, &parameters, SaveDtype::F32, &Dialect::new(byte_tokenizer(), None)).unwrap();
    let expected = "cannot use the tokenizer in `DIR`: it has 261 ids, but the model's vocabulary has 5; the files \
                    are of two different models";
    assert_eq!(error(&dir), expected);
}

/// Tokens that were added for what this decoder does not read, such as images, may have no row; those that a turn is made of
/// must.
#[test]
fn added_tokens_beyond_the_vocabulary_are_borne_unless_they_are_needed() {
    let (dir, config, _) = saved(small_config(0), 1);
    let edit = |name: &str, change: &dyn Fn(&mut serde_json::Value)| {
        let path = dir.path().join(name);
        let mut json = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut json);
        fs::write(&path, json.to_string()).unwrap();
    };
    edit("tokenizer.json", &|json| {
        let mut token = json["added_tokens"][0].clone();
        (token["id"], token["content"]) = (config.vocab_size.into(), "<image>".into());
        json["added_tokens"].as_array_mut().unwrap().push(token);
    });
    let tokenizer = open(dir.path()).unwrap().dialect.tokenizer().clone();
    assert_eq!(tokenizer.encode("<image>").unwrap(), [261]);
    edit("tokenizer_config.json", &|json| json["eos_token"] = "<image>".into());
    let error = open(dir.path()).unwrap_err().to_string();
    let problem = "its special token `<image>` has the id 261, but the model's vocabulary has 261; the files are of two \
                   different models";
    assert!(error.ends_with(problem), "{error}");
}
