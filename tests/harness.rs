//! A folder of its own for each test, a tiny model in it, and what the program said as one block of text.

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use serde_json::{Value, json};
use tempfile::TempDir;
use topspin_kernels::rng::Key;
use topspin_model::chat::ChatTemplate;
use topspin_model::checkpoint::{SaveDtype, save_folder};
use topspin_model::config::DecoderConfig;
use topspin_model::dialect::Dialect;
use topspin_model::tokenizer::Tokenizer;

/// Records of several shapes, all of which can be used.
pub fn pairs() -> Vec<Value> {
    vec![
        json!({"prompt": "one", "response": "1"}),
        json!({"prompt": "two", "response": "2 or so"}),
        json!({"prompt": "two", "references": ["2", "two"]}),
        json!({"messages": [
            {"role": "system", "content": "Count."}, {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b"}, {"role": "user", "content": "three"}], "response": "3"}),
    ]
}

/// A temporary working directory.
pub struct Sandbox {
    dir: TempDir,
}

impl Sandbox {
    /// An empty one.
    pub fn new() -> Self {
        Self { dir: TempDir::new().expect("the system has a folder for temporary files") }
    }

    /// One with the folder `model`, a tiny random model of characters.
    pub fn with_model() -> Self {
        let sandbox = Self::new();
        save_tiny_model(&sandbox.path("model"));
        sandbox
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), content).expect("a sandbox is writable");
    }

    /// Reads a file.
    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// Writes a file of JSON lines.
    pub fn write_lines(&self, name: &str, lines: &[Value]) {
        self.write(name, lines.iter().map(|line| format!("{line}\n")).collect::<String>());
    }

    /// Reads a file of JSON lines.
    pub fn read_lines(&self, name: &str) -> Vec<Value> {
        self.read(name).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Names of what is in it, sorted, hidden files included.
    pub fn names(&self) -> Vec<String> {
        self.read_dir("")
    }

    /// Names of what is in a folder of it.
    pub fn read_dir(&self, name: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// The program with the sandbox as its working directory and nothing of ours in its environment.
    pub fn topspin(&self, args: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.current_dir(self.dir.path()).args(args);
        for name in ["RUST_BACKTRACE", "NO_COLOR", "COLUMNS", "TOPSPIN_SIMD", "RAYON_NUM_THREADS"] {
            command.env_remove(name);
        }
        command
    }

    /// Runs the program with the words of `line` as arguments.
    pub fn run(&self, line: &str) -> String {
        block(&mut self.topspin(&line.split_whitespace().collect::<Vec<_>>()))
    }

    /// Runs the program with the words of `line` as arguments, which must succeed.
    pub fn finish(&self, line: &str) {
        let said = self.run(line);
        assert!(said.starts_with("exit code: 0\n"), "{line}\n{said}");
    }

    /// Runs the program with the words of `line` as arguments, which must succeed and write nothing but messages.
    pub fn succeed(&self, line: &str) {
        let said = self.run(line);
        assert!(said.starts_with("exit code: 0\n--- stdout\n--- stderr\n"), "{line}\n{said}");
    }
}

/// Positions of the tiny model.
pub const CONTEXT: usize = 64;

/// Every printable ASCII character is a token of the tiny model, and the line feed.
fn characters() -> String {
    (' '..='~').chain(['\n']).collect()
}

/// Saves a random model with a chat template: `u:` and `<sep>` around a user's message, `a:` and `<end>` around an
/// assistant's.
pub fn save_tiny_model(dir: &Path) {
    let tokenizer = Tokenizer::from_characters(&characters());
    let template = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}\
                    {% if m.role == 'assistant' %}<end>{% else %}<sep>{% endif %}{% endfor %}";
    let config = DecoderConfig {
        vocab_size: tokenizer.vocab_size(),
        hidden_size: 32,
        intermediate_size: 48,
        num_layers: 2,
        num_heads: 4,
        num_kv_heads: 2,
        head_dim: 8,
        rms_norm_eps: 1e-5,
        rope_theta: 1e4,
        max_positions: CONTEXT,
        tie_word_embeddings: false,
        ..DecoderConfig::default()
    };
    let template = ChatTemplate::new(Path::new("template"), template, &tokenizer).unwrap();
    let dialect = Dialect::new(tokenizer, Some(template));
    let layout = config.layout();
    let mut params = vec![0.0; layout.len()];
    for (number, entry) in layout.entries().iter().enumerate() {
        let stream = Key::new(7, "tiny", 0).stream(number as u64, 0);
        for (at, param) in params[entry.range()].iter_mut().enumerate() {
            // Norms about 1, matrices of a spread that makes predictions neither flat nor certain.
            let noise = stream.uniform(at as u32) as f32 - 0.5;
            *param = if entry.shape.len() == 1 { 1.0 + 0.2 * noise } else { noise };
        }
    }
    save_folder(dir, &config, &params, SaveDtype::F32, &dialect).unwrap();
}

/// The built program.
pub fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_topspin"))
}

/// The root of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Exit code, stdout and stderr in one block.
pub fn block(command: &mut Command) -> String {
    let output = command.output().expect("the program is built");
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("the program writes UTF-8");
    let code = output.status.code().map_or("none".into(), |code| code.to_string());
    format!("exit code: {code}\n--- stdout\n{}--- stderr\n{}", text(&output.stdout), text(&output.stderr))
}
