//! Chat templates: Jinja programs that write a conversation as the text a model was trained on.
//!
//! The environment is the one of transformers' `apply_chat_template`: trimmed blocks, loop controls, Python's string
//! methods, `raise_exception`, `strftime_now`, Python's form of JSON.

mod marks;
mod renderer;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, Value, context};
use serde::{Deserialize, Serialize};
use serde_json::Map;

use crate::clock::Clock;
use crate::error::ModelError;
use crate::tokenizer::{Tokenizer, read_object};
use renderer::Renderer;

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant`, or what else the template knows.
    pub role: String,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A turn of `role`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

/// A compiled chat template.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    path: PathBuf,
    source: String,
    environment: Arc<Environment<'static>>,
    renderer: Renderer,
    tokens: BTreeMap<&'static str, String>,
    /// Whether the template says itself which words are the assistant's.
    is_marked: bool,
    clock: Clock,
}

const NAME: &str = "chat_template";
/// The same template with the marks that `{% generation %}` stands for.
const MARKED: &str = "chat_template with marks";

/// Steps that a rendering may take: an operation is one, and so are 64 bytes that are written or held on the way. No
/// conversation that fits into a model comes near, and what does not end, or doubles a text at each turn, is over in a
/// part of a second and below some hundred megabytes.
const FUEL: u64 = 2_000_000;

/// Characters of an error that are told: a template may raise what it likes.
const TOLD: usize = 300;

impl ChatTemplate {
    /// Compiles a template. `path` is only named in errors; the tokenizer's special tokens are visible to the template
    /// by their names (`bos_token`, ...).
    pub fn new(path: &Path, source: &str, tokenizer: &Tokenizer) -> Result<Self, ModelError> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.expect("the delimiters are the usual ones"));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.set_formatter(format_like_python);
        environment.add_filter("tojson", to_json);
        environment.add_filter("generation", marks::mark);
        environment.add_function("raise_exception", |message: Value| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, shortened(&message)))
        });
        environment.set_fuel(Some(FUEL));
        let is_marked = marks::are_in(source);
        let mut add = |name, source| {
            environment
                .add_template_owned(name, source)
                .map_err(|e| ModelError::Template { path: path.into(), problem: shortened(&e) })
        };
        add(NAME, marks::without_tags(source))?;
        if is_marked {
            add(MARKED, marks::with_filters(source))?;
        }
        let tokens = tokenizer.named_tokens().map(|(key, token)| (key, token.to_owned())).collect();
        let clock = Clock::now();
        let environment = Arc::new(environment);
        let (path, source, renderer) = (path.into(), source.into(), Renderer::default());
        let mut template = Self { path, source, environment, renderer, tokens, is_marked, clock };
        template.set_clock(clock);
        Ok(template)
    }

    fn set_clock(&mut self, clock: Clock) {
        self.clock = clock;
        Arc::make_mut(&mut self.environment).add_function("strftime_now", move |format: &str| {
            clock.format(format).map_err(|problem| Error::new(ErrorKind::InvalidOperation, problem))
        });
    }

    /// The moment that the template is told, in seconds since 1970, if it asks for the date.
    pub fn date(&self) -> Option<u64> {
        self.source.contains("strftime_now").then_some(self.clock.seconds)
    }

    /// The same template at another moment, in seconds since 1970.
    pub fn at(mut self, seconds: u64) -> Self {
        self.set_clock(Clock { seconds });
        self
    }

    /// Finds and compiles the template of a model folder, if it has one: in `chat_template.jinja`, in
    /// `chat_template.json`, or in `tokenizer_config.json`, whose contents are `settings`.
    pub(crate) fn from_folder(
        dir: &Path,
        settings: &Map<String, serde_json::Value>,
        tokenizer: &Tokenizer,
    ) -> Result<Option<Self>, ModelError> {
        let path = dir.join("chat_template.jinja");
        if path.exists() {
            return Self::new(&path, &topspin_files::read_to_string(&path)?, tokenizer).map(Some);
        }
        let path = dir.join("chat_template.json");
        if let Some(object) = read_object(path.clone())? {
            return from_json(&path, object.get("chat_template"), tokenizer);
        }
        from_json(&dir.join("tokenizer_config.json"), settings.get("chat_template"), tokenizer)
    }

    /// The template's text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Writes a conversation; with `add_generation_prompt` up to where the model's answer begins.
    ///
    /// # Errors
    /// [`ModelError::Template`] if the template refuses the conversation, fails, or takes more steps than any template
    /// needs: whatever it says, time and memory are bounded.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, ModelError> {
        self.render_as(NAME, messages, add_generation_prompt)
    }

    /// Where in `text`, the rendering of `messages`, the words are that the template marks as the assistant's, with
    /// `{% generation %}` as transformers has it; `None` if it marks none.
    pub(crate) fn marked(&self, messages: &[Message], text: &str) -> Result<Option<Vec<Range<usize>>>, ModelError> {
        if !self.is_marked {
            return Ok(None);
        }
        match marks::spans(&self.render_as(MARKED, messages, false)?) {
            Some((unmarked, spans)) if unmarked == text => Ok(Some(spans)),
            _ => {
                Err(self
                    .error("what it writes between `{% generation %}` and `{% endgeneration %}` cannot be told apart"))
            }
        }
    }

    /// An error about this template.
    pub(crate) fn error(&self, problem: impl Into<String>) -> ModelError {
        ModelError::Template { path: self.path.clone(), problem: problem.into() }
    }

    fn render_as(
        &self,
        name: &'static str,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<String, ModelError> {
        let values = context! {
            messages => Serde(messages),
            add_generation_prompt => add_generation_prompt,
            // Templates ask whether these are none, which an undefined name is not.
            tools => Value::from(()),
            documents => Value::from(()),
            ..Value::from_pairs(self.tokens.iter().map(|(&key, token)| (key, token.as_str())))
        };
        let environment = self.environment.clone();
        let render = move || environment.get_template(name)?.render(values);
        let rendered = self.renderer.run(render).map_err(|problem| self.error(problem))?;
        rendered.map_err(|e| {
            self.error(match e.kind() {
                ErrorKind::OutOfFuel => format!(
                    "it takes more than {FUEL} steps, operations and pieces of 64 bytes; shorten the conversation, or \
                     mend the template"
                ),
                _ => shortened(&e),
            })
        })
    }
}

/// The beginning of a text, which may be of any length; what lies behind it is not even made.
fn shortened(text: &impl std::fmt::Display) -> String {
    struct Short(String);
    impl std::fmt::Write for Short {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            let room = TOLD.saturating_sub(self.0.chars().count());
            self.0.extend(text.chars().take(room));
            if text.chars().nth(room).is_some() { Err(std::fmt::Error) } else { Ok(()) }
        }
    }
    let mut short = Short(String::new());
    let whole = write!(short, "{text}");
    if whole.is_err() {
        short.0.push_str("...");
    }
    short.0
}

/// One template, or a list of named ones of which `default` is the one for chats.
fn from_json(
    path: &Path,
    value: Option<&serde_json::Value>,
    tokenizer: &Tokenizer,
) -> Result<Option<ChatTemplate>, ModelError> {
    use serde_json::Value;
    let source = match value {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(source)) => Some(source.as_str()),
        Some(Value::Array(list)) => {
            let default = list.iter().find(|item| item.get("name").is_some_and(|name| name == "default"));
            default
                .or(if list.len() == 1 { list.first() } else { None })
                .and_then(|item| item.get("template")?.as_str())
        }
        Some(_) => None,
    };
    match source {
        Some(source) => ChatTemplate::new(path, source, tokenizer).map(Some),
        None => {
            let problem = "is neither a text nor a list with a template named `default`";
            Err(ModelError::config(path, "chat_template", problem))
        }
    }
}

/// `None`, `True` and `False` where Jinja's own spelling is lower-case.
fn format_like_python(out: &mut minijinja::Output, state: &mut State, value: &Value) -> Result<(), Error> {
    match value.kind() {
        ValueKind::None => out.write_str("None").map_err(Error::from),
        ValueKind::Bool => out.write_str(if value.is_true() { "True" } else { "False" }).map_err(Error::from),
        // The engine pays for these only when all is written, which may be never.
        ValueKind::Seq | ValueKind::Map | ValueKind::Iterable => {
            let mut text = Metered { state, bytes: Vec::new(), out_of_fuel: None };
            let written = io::Write::write_fmt(&mut text, format_args!("{value}"));
            match (text.out_of_fuel, written) {
                (Some(error), _) => Err(error),
                (None, Err(_)) => Err(Error::new(ErrorKind::InvalidOperation, "a value cannot be written")),
                (None, Ok(())) => out.write_str(&String::from_utf8_lossy(&text.bytes)).map_err(Error::from),
            }
        }
        _ => minijinja::escape_formatter(out, state, value),
    }
}

/// `json.dumps(value, ensure_ascii=False, indent=indent)`.
fn to_json(state: &State, value: Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    options.get::<Option<bool>>("ensure_ascii")?;
    options.assert_all_used()?;
    let mut out = Metered { state, bytes: Vec::new(), out_of_fuel: None };
    let written = match indent {
        Some(n) if n > MAX_INDENT => {
            return Err(Error::new(ErrorKind::InvalidOperation, format!("JSON cannot be indented by {n}")));
        }
        Some(n) => {
            let spaces = " ".repeat(n);
            let formatter = serde_json::ser::PrettyFormatter::with_indent(spaces.as_bytes());
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, formatter))
        }
        None => value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, Spaced)),
    };
    match (out.out_of_fuel, written) {
        (Some(error), _) => Err(error),
        (None, Err(e)) => Err(Error::new(ErrorKind::BadSerialization, "cannot be written as JSON").with_source(e)),
        (None, Ok(())) => Ok(Value::from_safe_string(String::from_utf8_lossy(&out.bytes).into_owned())),
    }
}

/// Largest indentation of JSON.
const MAX_INDENT: usize = 64;

/// Bytes that are paid for before they are held: a list that holds itself twice, and so on, is short to say and long to
/// write.
struct Metered<'a, 'template, 'env> {
    state: &'a State<'template, 'env>,
    bytes: Vec<u8>,
    out_of_fuel: Option<Error>,
}

impl io::Write for Metered<'_, '_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Many writes are of a byte or two; a step for each is as the engine counts.
        self.state.consume_fuel(1 + bytes.len() as u64 / 64).map_err(|error| {
            self.out_of_fuel = Some(error);
            io::Error::other("out of fuel")
        })?;
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Python's separators, `, ` and `: `.
struct Spaced;

impl serde_json::ser::Formatter for Spaced {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

#[cfg(test)]
mod hostile;

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;

    fn template(source: &str) -> ChatTemplate {
        ChatTemplate::new(Path::new("m/t.jinja"), source, &Tokenizer::from_characters("ab")).unwrap()
    }

    fn render(source: &str) -> String {
        template(source).render(&[Message::new("user", " Hé <b> "), Message::new("assistant", "ok")], true).unwrap()
    }

    #[test]
    fn renders_as_transformers_does() {
        // Each expectation is what Jinja2 prints with the settings of transformers.
        assert_eq!(
            render("{% for m in messages %}\n  {% if loop.first %}\n[{{ m.role }}]\n  {% endif %}\n{% endfor %}\n"),
            "[user]\n"
        );
        assert_eq!(render("{{ messages[0]['content'].strip() + eos_token }}"), "Hé <b><end>");
        assert_eq!(render("{{ messages[0].content | trim }}|{{ messages[1:] | length }}"), "Hé <b>|1");
        assert_eq!(render("{{ messages[0] | tojson }}"), r#"{"role": "user", "content": " Hé <b> "}"#);
        assert_eq!(render("{{ [1, {}] | tojson(indent=2) }}"), "[\n  1,\n  {}\n]");
        assert_eq!(render("{{ tools is none }} {{ none }} {{ bos_token is defined }}"), "True None False");
        assert_eq!(
            render(
                "{% for m in messages %}{% if m.role == 'user' %}{% continue %}{% endif %}{{ m.content }}{% endfor %}"
            ),
            "ok"
        );
        assert_eq!(render("a {%- generation -%} b {%- endgeneration %} c"), "ab c");
        assert_eq!(
            render(
                "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}"
            ),
            "2"
        );
        assert_eq!(render("{{ strftime_now('%Y').startswith('2') }}"), "True");
        assert_eq!(render("{% if add_generation_prompt %}go{% endif %}"), "go");
    }

    #[test]
    fn an_exception_is_the_message() {
        let error =
            template("{{ raise_exception('Roles must alternate') }}").render(&[], false).unwrap_err().to_string();
        assert_eq!(
            error,
            "cannot apply the chat template of `m/t.jinja`: invalid operation: Roles must alternate (in \
             chat_template:1)"
        );
        let broken = ChatTemplate::new(Path::new("t"), "{% if %}", &Tokenizer::from_characters("a")).unwrap_err();
        assert!(broken.to_string().starts_with("cannot apply the chat template of `t`: syntax error"), "{broken}");
    }

    #[test]
    fn is_found_in_its_usual_places() {
        let dir = tempfile::tempdir().unwrap();
        let tokenizer = Tokenizer::from_characters("ab");
        let find = |settings: serde_json::Value| {
            ChatTemplate::from_folder(dir.path(), settings.as_object().unwrap(), &tokenizer)
                .map(|t| t.map(|t| t.source().to_owned()))
        };
        assert_eq!(find(json!({})).unwrap(), None);
        assert_eq!(find(json!({"chat_template": "one"})).unwrap().as_deref(), Some("one"));
        let named =
            json!({"chat_template": [{"name": "rag", "template": "x"}, {"name": "default", "template": "two"}]});
        assert_eq!(find(named).unwrap().as_deref(), Some("two"));
        let error = find(json!({"chat_template": [{"name": "a", "template": "x"}, {"name": "b", "template": "y"}]}));
        assert!(error.unwrap_err().to_string().contains("a list with a template named `default`"));
        fs::write(dir.path().join("chat_template.json"), r#"{"chat_template": "three"}"#).unwrap();
        assert_eq!(find(json!({"chat_template": "one"})).unwrap().as_deref(), Some("three"));
        fs::write(dir.path().join("chat_template.jinja"), "four").unwrap();
        assert_eq!(find(json!({})).unwrap().as_deref(), Some("four"));
    }
}
