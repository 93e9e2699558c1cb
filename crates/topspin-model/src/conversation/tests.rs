use std::fs;
use std::path::Path;

use proptest::prelude::*;
use serde::Deserialize;
use serde_json::json;

use super::*;
use crate::config::SpecialIds;
use crate::testing::byte_tokenizer;
use crate::tokenizer::Tokenizer;

/// A style of `tests/golden/chat`.
#[derive(Deserialize)]
struct Style {
    bos: String,
    eos: String,
    tagged: String,
    plain: String,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    messages: Vec<Message>,
    refused: Option<String>,
    all: Option<All>,
    last: Option<Last>,
}

#[derive(Deserialize)]
struct All {
    ids: Vec<u32>,
    turns: Vec<(usize, usize)>,
}

#[derive(Deserialize)]
struct Last {
    prompt: Vec<u32>,
    response: Vec<u32>,
}

const STYLES: [&str; 8] = ["chatml", "gemma", "llama-2", "llama-3", "mistral", "phi-3", "qwen-3", "zephyr"];

fn golden(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/chat");
    fs::read_to_string(folder.join(name)).unwrap()
}

fn dialect(style: &Style, template: &str) -> Dialect {
    let settings = json!({ "bos_token": style.bos, "eos_token": style.eos });
    let (path, settings) = (Path::new("tokenizer.json"), settings.as_object().unwrap().clone());
    let tokenizer = Tokenizer::new(path, golden("tokenizer.json"), settings, &SpecialIds::default()).unwrap();
    let template = ChatTemplate::new(Path::new("t"), template, &tokenizer).unwrap();
    Dialect::new(tokenizer, Some(template))
}

/// Of a template with `{% generation %}` and of the same without, tokens and turns are those of transformers.
#[test]
fn turns_are_those_of_transformers() {
    let mut compared = 0;
    for name in STYLES {
        let style: Style = serde_json::from_str(&golden(&format!("{name}.json"))).unwrap();
        for template in [&style.tagged, &style.plain] {
            let dialect = dialect(&style, template);
            for Case { messages, refused, all, last } in &style.cases {
                let found = dialect.encode_conversation(messages);
                if let Some(said) = refused {
                    let error = found.unwrap_err().to_string();
                    assert!(error.contains(said), "{name}: {error}");
                    continue;
                }
                let (all, last) = (all.as_ref().unwrap(), last.as_ref().unwrap());
                let Conversation { tokens, turns } = found.unwrap_or_else(|e| panic!("{name}, {messages:?}: {e}"));
                assert_eq!(tokens, all.ids, "{name}, {messages:?}");
                let turns: Vec<_> = turns.iter().map(|turn| (turn.start, turn.end)).collect();
                assert_eq!(turns, all.turns, "{name}, {messages:?}, {template}");

                let (answer, prompt) = messages.split_last().unwrap();
                assert_eq!(dialect.encode_prompt(prompt).unwrap(), last.prompt, "{name}, {messages:?}");
                assert_eq!(dialect.encode_response(&answer.content).unwrap(), last.response, "{name}, {messages:?}");
                compared += 1;
            }
        }
    }
    assert_eq!(compared, 2 * (STYLES.len() * 6 - 2));
}

fn byte_dialect(template: &str) -> Dialect {
    let tokenizer = byte_tokenizer();
    let template = ChatTemplate::new(Path::new("t"), template, &tokenizer).unwrap();
    Dialect::new(tokenizer, Some(template))
}

/// What the turns of a conversation say.
fn turns(dialect: &Dialect, conversation: &Conversation) -> Vec<String> {
    conversation.turns.iter().map(|turn| dialect.tokenizer().decode(&conversation.tokens[turn.clone()])).collect()
}

fn talk(contents: &[&str]) -> Vec<Message> {
    let role = |at: usize| if at.is_multiple_of(2) { "user" } else { "assistant" };
    contents.iter().enumerate().map(|(at, &content)| Message::new(role(at), content)).collect()
}

#[test]
fn an_end_that_the_tags_leave_out_is_part_of_the_turn() {
    let dialect = byte_dialect(
        "{% for m in messages %}<|im_start|>{% if m.role == 'user' %}{{ m.content }}{% else %}\
         {% generation %}{{ m.content }}{% endgeneration %}{% endif %}<|im_end|>{% endfor %}",
    );
    let conversation = dialect.encode_conversation(&talk(&["a", "b", "c", "d"])).unwrap();
    assert_eq!(turns(&dialect, &conversation), ["b<|im_end|>", "d<|im_end|>"]);
    // An answer of no words is still an answer, but nothing that the tags can mark.
    let conversation = dialect.encode_conversation(&talk(&["a", "", "c", "d"])).unwrap();
    assert_eq!(turns(&dialect, &conversation), ["d<|im_end|>"]);
}

#[test]
fn without_a_template_there_is_one_turn() {
    let dialect = Dialect::new(Tokenizer::from_characters("abc"), None);
    let conversation = dialect.encode_conversation(&talk(&["ab", "c"])).unwrap();
    assert_eq!(conversation.tokens, [3, 4, 1, 5, 2]);
    assert_eq!(turns(&dialect, &conversation), ["c<end>"]);
    assert!(dialect.encode_conversation(&talk(&["a", "b", "c", "a"])).is_err());
}

#[test]
fn turns_that_cannot_be_told_are_an_error() {
    let error = |template: &str, contents: &[&str]| {
        let error = byte_dialect(template).encode_conversation(&talk(contents)).unwrap_err().to_string();
        error.strip_prefix("cannot apply the chat template of `t`: ").unwrap().to_owned()
    };
    let talk = ["a", "b", "c", "d"];
    // Only the last two messages are written: the first answer is nowhere.
    let unclear = "what it writes of the assistant's message 2 cannot be told from the rest; mark the assistant's words in \
                   it with `{% generation %}` and `{% endgeneration %}`, or set `sft.turns` to \"last\"";
    let write = "<|im_start|>{{ m.content }}<|im_end|>";
    assert_eq!(error(&format!("{{% for m in messages[-2:] %}}{write}{{% endfor %}}"), &talk), unclear);
    // The last answer is changed.
    assert_eq!(
        error("{% for m in messages %}<|im_start|>{{ m.content | replace('d', 'x') }}<|im_end|>{% endfor %}", &talk),
        unclear.replace('2', "4")
    );
    // Each answer is written twice.
    assert_eq!(
        error(
            "{% for m in messages %}<|im_start|>{{ messages|length }}{{ m.content }}{{ m.content }}<|im_end|>{% endfor %}",
            &talk
        ),
        unclear
    );
    // Only the last answer ends.
    let open = "{% for m in messages %}<|im_start|>{{ m.content }}{% if loop.last %}<|im_end|>{% endif %}{% endfor %}";
    let problem = "it does not end the assistant's message 2 with `<|im_end|>`; set `sft.turns` to \"last\"";
    assert_eq!(error(open, &talk), problem);
    // No answer ends, and the user's next words do, with what the assistant said.
    let open = "{% for m in messages %}<|im_start|>{{ m.content }}{% if m.role == 'user' or loop.last %}<|im_end|>{% endif %}{% endfor %}";
    assert_eq!(error(open, &["a", "b", "b", "d"]), problem);
    // A text that ends its own turn.
    let chat = format!("{{% for m in messages %}}{write}{{% endfor %}}");
    let problem = "the assistant's message 2 holds `<|im_end|>`, which ends a turn; remove it";
    assert_eq!(error(&chat, &["a", "b<|im_end|>b", "c", "d"]), problem);
    // Tags that are not by pairs once they are written, and tags around nothing.
    let turned = "{% for m in messages %}{% set x %}{% generation %}{{ m.content }}{% endgeneration %}{% endset %}\
                  {{ x | reverse }}{% endfor %}";
    assert_eq!(
        error(turned, &talk),
        "what it writes between `{% generation %}` and `{% endgeneration %}` cannot be told apart"
    );
    let nothing = format!("{chat}{{% generation %}}{{% endgeneration %}}");
    assert_eq!(error(&nothing, &talk), "it marks none of the assistant's words");
    let first = "{% generation %}{{ messages[1].content }}{% endgeneration %}<|im_end|>";
    assert_eq!(error(first, &talk), "it begins with the assistant's words, and nothing predicts the first");
}

const CHATML: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
                      {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

proptest! {
    /// Whatever is said, the turns hold it, and the rest of the tokens is what stands around it.
    #[test]
    fn turns_say_what_the_assistant_says(contents in prop::collection::vec("[a-z {%\\n\\u{e9}\\u{1f980}]{0,6}", 2..7)) {
        let mut contents: Vec<&str> = contents.iter().map(String::as_str).collect();
        contents.truncate(contents.len() / 2 * 2);
        let dialect = byte_dialect(CHATML);
        let conversation = dialect.encode_conversation(&talk(&contents)).unwrap();
        let said: Vec<_> = contents.iter().skip(1).step_by(2).map(|text| format!("{text}<|im_end|>")).collect();
        prop_assert_eq!(turns(&dialect, &conversation), said);
        let whole = dialect.template().unwrap().render(&talk(&contents), false).unwrap();
        prop_assert_eq!(dialect.tokenizer().decode(&conversation.tokens) + "\n", whole);
    }
}
