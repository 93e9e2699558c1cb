//! How a model is spoken to: the tokenizer and the chat template together.
//!
//! Training and generation both go through [`Dialect::encode_prompt`] and [`Dialect::encode_response`], so a model is
//! sampled in exactly the format it is trained on.

use std::path::Path;

use serde_json::{Map, Value};

use crate::chat::{ChatTemplate, Message};
use crate::error::ModelError;
use crate::tokenizer::Tokenizer;

/// A tokenizer and, if the model has one, its chat template.
#[derive(Clone, Debug)]
pub struct Dialect {
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    /// What `generation_config.json` holds.
    generation: Map<String, Value>,
}

impl Dialect {
    /// Puts the two together. The token that the template writes behind an assistant's words becomes the end of a turn:
    /// it may be another one than the tokenizer's `eos_token`.
    pub fn new(mut tokenizer: Tokenizer, template: Option<ChatTemplate>) -> Self {
        if let Some(id) = template.as_ref().and_then(|template| end_of_turn(&tokenizer, template)) {
            tokenizer.set_end_of_turn(id);
        }
        Self { tokenizer, template, generation: Map::new() }
    }

    /// The same, with what the model's `generation_config.json` holds, which is kept for whoever generates elsewhere.
    pub(crate) fn with_generation(self, generation: Map<String, Value>) -> Self {
        Self { generation, ..self }
    }

    /// The contents of `generation_config.json`, empty if there is none.
    pub(crate) fn generation(&self) -> &Map<String, Value> {
        &self.generation
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The chat template.
    pub fn template(&self) -> Option<&ChatTemplate> {
        self.template.as_ref()
    }

    /// The same, with the chat template's date set to a moment, in seconds since 1970.
    pub fn at(self, seconds: u64) -> Self {
        Self { template: self.template.map(|template| template.at(seconds)), ..self }
    }

    /// Token ids of a conversation up to where the model's answer begins.
    ///
    /// With a template: the rendered conversation with its generation prompt. Without one, the conversation must be a
    /// single user message, and the ids are those of its text, behind the begin token if the tokenizer adds it and
    /// before the separator token if it has one.
    pub fn encode_prompt(&self, messages: &[Message]) -> Result<Vec<u32>, ModelError> {
        if let Some(template) = &self.template {
            return self.tokenizer.encode(&template.render(messages, true)?);
        }
        let [Message { role, content }] = messages else {
            return Err(no_template(format!("{} messages", messages.len())));
        };
        if role != "user" {
            return Err(no_template(format!("one message of the role `{role}`")));
        }
        let bos = self.tokenizer.bos().filter(|_| self.tokenizer.add_bos());
        let text = self.tokenizer.encode(content)?;
        Ok(bos.into_iter().chain(text).chain(self.tokenizer.separator()).collect())
    }

    /// Token ids of a real response: those of its text, then exactly one end-of-turn token.
    pub fn encode_response(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        let mut ids = self.tokenizer.encode(text)?;
        // A text that already ends the turn, as raw logs do, must not end it twice.
        ids.truncate(self.without_stop(&ids).len());
        ids.push(self.tokenizer.end_of_turn());
        Ok(ids)
    }

    /// The text of a response, without the stop token at its end.
    pub fn decode_response(&self, ids: &[u32]) -> String {
        self.tokenizer.decode(self.without_stop(ids))
    }

    /// Whether generation stops at this token.
    pub fn is_stop(&self, id: u32) -> bool {
        self.tokenizer.stop_ids().contains(&id)
    }

    fn without_stop<'a>(&self, mut ids: &'a [u32]) -> &'a [u32] {
        while let [rest @ .., last] = ids
            && self.is_stop(*last)
        {
            ids = rest;
        }
        ids
    }
}

fn no_template(found: String) -> ModelError {
    let problem =
        format!("the model has none, so a prompt must be one message of the role `user`, and this is {found}");
    ModelError::Template { path: Path::new("tokenizer_config.json").into(), problem }
}

/// The first special token behind the words of an assistant, if the template writes one.
fn end_of_turn(tokenizer: &Tokenizer, template: &ChatTemplate) -> Option<u32> {
    // A word that no template contains, and that survives trimming.
    let words = "topspin7b3e";
    let conversation = [Message::new("user", "a"), Message::new("assistant", words)];
    let text = template.render(&conversation, false).ok()?;
    let (_, behind) = text.rsplit_once(words)?;
    tokenizer.encode(behind).ok()?.into_iter().find(|&id| tokenizer.is_special(id))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::byte_tokenizer;

    const CHATML: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
                          {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

    fn chatml() -> Dialect {
        let tokenizer = byte_tokenizer();
        let template = ChatTemplate::new(Path::new("t"), CHATML, &tokenizer).unwrap();
        Dialect::new(tokenizer, Some(template))
    }

    #[test]
    fn prompts_go_through_the_template() {
        let dialect = chatml();
        let ids = dialect.encode_prompt(&[Message::new("user", "hi")]).unwrap();
        assert_eq!(dialect.tokenizer().decode(&ids), "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n");
        assert_eq!(dialect.tokenizer().token(ids[0]).as_deref(), Some("<|im_start|>"));
    }

    #[test]
    fn the_template_says_what_ends_a_turn() {
        let tokenizer = byte_tokenizer();
        let eos = tokenizer.end_of_turn();
        let dialect = chatml();
        let end = dialect.tokenizer().end_of_turn();
        assert_eq!(dialect.tokenizer().token(end).as_deref(), Some("<|im_end|>"));
        assert_ne!(end, eos);
        assert_eq!(dialect.tokenizer().stop_ids(), [eos, end]);
        let silent = ChatTemplate::new(Path::new("t"), "{{ messages[0].content }}", &tokenizer).unwrap();
        assert_eq!(Dialect::new(tokenizer, Some(silent)).tokenizer().end_of_turn(), eos);
    }

    #[test]
    fn without_a_template_a_prompt_is_its_text_and_a_separator() {
        let dialect = Dialect::new(Tokenizer::from_characters("abc"), None);
        assert_eq!(dialect.encode_prompt(&[Message::new("user", "cab")]).unwrap(), [5, 3, 4, 1]);
        let error = dialect.encode_prompt(&[Message::new("system", "a"), Message::new("user", "b")]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot apply the chat template of `tokenizer_config.json`: the model has none, so a prompt must be one \
             message of the role `user`, and this is 2 messages"
        );
    }

    proptest! {
        #[test]
        fn a_response_ends_exactly_once(text in "[a-zé ]{0,10}", ends in 0_usize..3) {
            let dialect = chatml();
            let ids = dialect.encode_response(&format!("{text}{}", "<|im_end|>".repeat(ends))).unwrap();
            prop_assert_eq!(ids.iter().filter(|&&id| dialect.is_stop(id)).count(), 1);
            prop_assert_eq!(*ids.last().unwrap(), dialect.tokenizer().end_of_turn());
            prop_assert_eq!(dialect.decode_response(&ids), text.clone());
            prop_assert_eq!(dialect.decode_response(&ids[..ids.len() - 1]), text);
        }
    }
}
