//! SmolLM2's GGUF file, held to what transformers makes of it (`tests/golden/smollm2.json`).

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;
use topspin_model::chat::Message;
use topspin_model::checkpoint::{SaveDtype, save_folder};
use topspin_model::source::{ModelFiles, ModelSource};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn model() -> &'static ModelFiles {
    static MODEL: OnceLock<ModelFiles> = OnceLock::new();
    MODEL.get_or_init(|| {
        let output = Command::new(root().join("scripts/smollm2.sh")).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let path = String::from_utf8(output.stdout).unwrap();
        ModelFiles::open(&ModelSource::resolve(path.trim_end()).unwrap()).unwrap()
    })
}

fn golden(part: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(root().join("tests/golden/smollm2.json")).unwrap();
    let all: Value = serde_json::from_str(&text).unwrap();
    all[part].as_array().unwrap().clone()
}

fn text<'a>(case: &'a Value, key: &str) -> &'a str {
    case[key].as_str().unwrap()
}

fn ids(case: &Value, key: &str) -> Vec<u32> {
    serde_json::from_value(case[key].clone()).unwrap()
}

fn messages(case: &Value) -> Vec<Message> {
    serde_json::from_value(case["messages"].clone()).unwrap()
}

#[test]
fn texts_become_the_same_tokens() {
    let tokenizer = model().dialect.tokenizer();
    for case in golden("texts") {
        let text = text(&case, "text");
        assert_eq!(tokenizer.encode(text).unwrap(), ids(&case, "ids"), "{text:?}");
        assert_eq!(tokenizer.decode(&ids(&case, "ids")), text);
        let mut stream = tokenizer.stream();
        let mut shown: String = ids(&case, "ids").into_iter().map(|id| stream.push(id)).collect();
        shown.push_str(&stream.finish());
        assert_eq!(shown, text);
    }
}

#[test]
fn prompts_and_responses_become_the_same_tokens() {
    let dialect = &model().dialect;
    for case in golden("prompts") {
        let rendered = dialect.template().unwrap().render(&messages(&case), true).unwrap();
        assert_eq!(rendered, text(&case, "text"));
        assert_eq!(dialect.encode_prompt(&messages(&case)).unwrap(), ids(&case, "ids"));
        let response = ids(&case, "response_ids");
        assert_eq!(dialect.encode_response(text(&case, "response")).unwrap(), response);
        assert_eq!(dialect.decode_response(&response), text(&case, "response"));
    }
}

#[test]
fn conversations_are_written_the_same_way() {
    let template = model().dialect.template().unwrap();
    for case in golden("chats") {
        let prompt = case["add_generation_prompt"].as_bool().unwrap();
        assert_eq!(template.render(&messages(&case), prompt).unwrap(), text(&case, "text"));
    }
}

#[test]
fn is_described() {
    let found = model().describe();
    assert_eq!((found.parameters, found.max_positions, found.num_layers), (134_515_008, 8192, 30));
    assert!(found.tie_word_embeddings && found.chat_template);
    assert_eq!(
        (found.end_of_turn.as_str(), found.stop_tokens.as_slice()),
        ("<|im_end|>", &["<|im_end|>".to_owned()][..])
    );
    let types: Vec<_> = found.stored_types.iter().map(|(kind, n)| (kind.as_str(), *n)).collect();
    assert_eq!(types, [("F32", 35_136), ("Q4_1", 106_168_320), ("Q8_0", 28_311_552)]);
}

#[test]
fn a_saved_copy_is_the_same_model() {
    let model = model();
    let mut parameters = vec![f32::NAN; model.config.layout().len()];
    model.read_parameters(&mut parameters).unwrap();
    assert!(parameters.iter().all(|x| x.is_finite()));
    let dir = tempfile::tempdir().unwrap();
    save_folder(dir.path(), &model.config, &parameters, SaveDtype::F32, &model.dialect).unwrap();
    let copy = ModelFiles::open(&ModelSource::resolve(dir.path().to_str().unwrap()).unwrap()).unwrap();
    assert_eq!(copy.config, model.config);
    let mut read = vec![f32::NAN; parameters.len()];
    copy.read_parameters(&mut read).unwrap();
    assert!(parameters.iter().zip(&read).all(|(x, y)| x.to_bits() == y.to_bits()));
    for case in golden("prompts") {
        assert_eq!(copy.dialect.encode_prompt(&messages(&case)).unwrap(), ids(&case, "ids"));
    }
}
