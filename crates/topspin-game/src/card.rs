//! Model cards: what an exported model is, for people and for the Hugging Face Hub.
//!
//! A card is Markdown behind a head in YAML (<https://huggingface.co/docs/hub/model-cards>). It holds what the files of the
//! run say, and nothing else.

use std::fmt::Write;
use std::path::Path;

use topspin_model::adapter::Adapter;

use crate::config::Config;
use crate::run::{Input, Manifest, RunError, Summary};

/// What is exported, as far as a card tells it.
#[derive(Clone, Copy, Debug)]
pub struct Exported<'a> {
    /// The name of the card's model.
    pub name: &'a str,
    /// What opens it, by the Hub's name: `transformers`, `gguf` or `peft`.
    pub library: &'a str,
    /// The family of the decoder.
    pub architecture: &'a str,
    /// Number of parameters, tied ones once.
    pub parameters: usize,
    /// The type of its elements.
    pub element_type: &'a str,
    /// The adapter that is merged into it or, for `peft`, is all there is.
    pub adapter: Option<&'a Adapter>,
}

impl Exported<'_> {
    /// What there is, in a sentence.
    fn sentence(&self) -> String {
        let Self { architecture, element_type, .. } = self;
        let model = format!("{} parameters of the architecture `{architecture}`", grouped(self.parameters));
        let Some(adapter) = self.adapter else { return format!("{model}, in {element_type}.") };
        let (rank, own) = (adapter.config().rank, grouped(adapter.layout().len()));
        match self.library {
            "peft" => format!("An adapter (LoRA) of rank {rank}, {own} parameters, for a model of {model}."),
            _ => format!("{model}, in {element_type}; an adapter (LoRA) of rank {rank} is merged into them."),
        }
    }
}

/// Settings that name files and commands of the machine, or say nothing about the model.
const LOCAL: [&str; 4] = ["model.", "output.", "data.test", "data.train"];

/// The card of the model in the stage folder `folder` of the run in `dir`.
pub fn of_run(dir: &Path, folder: &str, exported: &Exported) -> Result<String, RunError> {
    let summary = Summary::read(dir)?;
    let manifest = Manifest::read(dir)?;
    let path = dir.join("config.toml");
    let config = Config::parse(&topspin_files::read_to_string(&path)?, &path, &[])?;
    let base = manifest.inputs.get("model.path");
    let mut card =
        Card::new(&config.model.path, base.map(|base| base.path.as_path()), &["spin", "self-play"], exported);
    card.line(&format!(
        "This model was fine-tuned by self-play with Topspin {} from {}. {}",
        manifest.topspin,
        shown(&config.model.path),
        rank(&summary, folder)
    ));
    card.method(&config, folder);
    card.data(&manifest);
    card.results(&summary);
    card.settings(&config);
    Ok(card.text)
}

/// The card of a model that no run made: `spec` as the user named it, found in the folder or file `path`.
pub fn of_model(spec: &str, path: &Path, exported: &Exported) -> String {
    let mut card = Card::new(spec, Some(path), &[], exported);
    card.line(&format!("This is {}, written by Topspin {}.", shown(spec), env!("CARGO_PKG_VERSION")));
    card.text
}

/// A model or a file without the folders that it is in, which are the machine's own.
fn shown(spec: &str) -> String {
    match spec.strip_prefix("hf:") {
        Some(model) => {
            let id = model.split('@').next().unwrap_or(model);
            format!("[{model}](https://huggingface.co/{id})")
        }
        None => {
            let name = Path::new(spec).file_name().map(|name| name.to_string_lossy());
            format!("`{}`", name.as_deref().unwrap_or(spec))
        }
    }
}

/// Which of the run's models this is.
fn rank(summary: &Summary, folder: &str) -> String {
    let metric = &summary.metric;
    match summary.best() {
        Some(best) if best.folder == folder => format!("It is `{folder}`, the best of the run by `{metric}`."),
        Some(best) => format!("It is `{folder}`; the best of the run by `{metric}` is `{}`.", best.folder),
        None => format!("It is `{folder}`."),
    }
}

/// Lines of a model card's head that say under which licence it is, as they stand there.
fn licence(card: &str) -> Vec<&str> {
    let mut lines = card.lines();
    if lines.next().map(str::trim_end) != Some("---") {
        return Vec::new();
    }
    let head = lines.take_while(|line| line.trim_end() != "---");
    let says = |line: &&str| {
        let value = line.split_once(':').filter(|(key, _)| ["license", "license_name", "license_link"].contains(key));
        value.is_some_and(|(_, value)| !value.trim().is_empty())
    };
    head.filter(says).map(str::trim_end).collect()
}

/// A number in groups of three digits.
fn grouped(n: usize) -> String {
    let digits = n.to_string();
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
    groups.join(",")
}

/// A card as it is put together.
struct Card {
    text: String,
}

impl Card {
    /// The head and the title. `base` is the model it comes from, as it was named, and `path` where that lies.
    fn new(base: &str, path: Option<&Path>, tags: &[&str], exported: &Exported) -> Self {
        let mut text = String::from("---\n");
        let mut put = |line: String| text.extend([line.as_str(), "\n"]);
        if let Some(model) = base.strip_prefix("hf:") {
            put(format!("base_model: {}", model.split('@').next().unwrap_or(model)));
        }
        // Where there is none, or none that can be read, nothing is known of a licence.
        let readme =
            path.and_then(|path| topspin_files::read_to_string(&path.join("README.md")).ok()).unwrap_or_default();
        licence(&readme).into_iter().for_each(|line| put(line.into()));
        put(format!("library_name: {}", exported.library));
        put("pipeline_tag: text-generation".into());
        put("tags:".into());
        ["topspin"].iter().chain(tags).for_each(|tag| put(format!("- {tag}")));
        put(format!("---\n\n# {}\n", exported.name));
        put(format!("{}\n", exported.sentence()));
        Self { text }
    }

    fn line(&mut self, line: &str) {
        self.text.extend([line, "\n"]);
    }

    fn table(&mut self, rows: impl IntoIterator<Item = Vec<String>>) {
        for (at, cells) in rows.into_iter().enumerate() {
            self.line(&format!("| {} |", cells.join(" | ")));
            if at == 0 {
                self.line(&format!("|{}", "---|".repeat(cells.len())));
            }
        }
    }

    fn method(&mut self, config: &Config, folder: &str) {
        let value = |key: &str| {
            let found = config.entries().into_iter().find(|(other, _)| other == key);
            found.map(|(_, value)| value.to_string().trim_matches('"').to_owned()).unwrap_or_default()
        };
        self.line("\n## Method\n");
        if folder == "iter-0" {
            let how = if config.sft.enabled { "supervised on the good responses" } else { "not trained at all" };
            self.line(&format!("`iter-0` is what the game starts from: a model {how}."));
            return;
        }
        self.line(
            "Self-play fine-tuning, SPIN (Chen, Deng, Yuan, Ji, Gu: \"Self-Play Fine-Tuning Converts Weak Language Models to \
             Strong Language Models\", ICML 2024, [arXiv 2401.01335](https://arxiv.org/abs/2401.01335)): in each iteration \
             the model answers the prompts, and is trained to prefer the good responses of the data to its own.",
        );
        let played = folder.strip_prefix("iter-").unwrap_or(folder);
        self.line(&format!(
            "Objective `{}`, beta {}, {} sample(s) of each prompt; {played} iteration(s) played of {}, after {}.",
            value("game.objective"),
            value("game.beta"),
            value("game.samples"),
            config.game.iterations,
            if config.sft.enabled { "a supervised warm-up" } else { "no supervised warm-up" },
        ));
    }

    fn data(&mut self, manifest: &Manifest) {
        self.line("\n## Data\n");
        let records = &manifest.records;
        self.line(&format!("{} records to train on, {} to evaluate on.\n", records.train, records.test));
        let head = ["setting", "file", "SHA-256"].map(String::from).to_vec();
        let row = |(key, input): (&String, &Input)| {
            let name = shown(&input.path.to_string_lossy());
            let weight = if input.weight == 1.0 { String::new() } else { format!(", weight {}", input.weight) };
            vec![format!("`{key}`"), format!("{name}{weight}"), format!("`{}`", input.sha256)]
        };
        self.table([head].into_iter().chain(manifest.inputs.iter().map(row)));
    }

    fn results(&mut self, summary: &Summary) {
        if summary.rows.is_empty() {
            return;
        }
        self.line("\n## Results\n");
        self.table(summary.table());
        self.line("\nIn brackets: 95% intervals over the records evaluated on.");
    }

    fn settings(&mut self, config: &Config) {
        self.line("\n## Settings\n\n```toml");
        for (key, value) in config.entries() {
            let local =
                LOCAL.iter().any(|local| key.starts_with(local)) || ["eval.scorer", "score.command"].contains(&&*key);
            if !local || key == "output.precision" {
                let _ = writeln!(self.text, "{key} = {value}");
            }
        }
        self.line("```");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPORTED: Exported = Exported {
        name: "small",
        library: "transformers",
        architecture: "llama",
        parameters: 1_250_000,
        element_type: "bf16",
        adapter: None,
    };

    #[test]
    fn a_licence_is_that_of_the_base() {
        let card =
            "---\nlicense: other\nlicense_name: gemma\nlanguage: en\ntags:\n- license: none\n---\nlicense: mit\n";
        assert_eq!(licence(card), ["license: other", "license_name: gemma"]);
        assert!(licence("license: mit\n").is_empty());
        assert!(licence("---\nlicense:\n- mit\n---\n").is_empty());

        let base = tempfile::tempdir().unwrap();
        std::fs::write(base.path().join("README.md"), card).unwrap();
        let text = of_model("hf:org/base@v2", base.path(), &EXPORTED);
        let expected = format!(
            "---\nbase_model: org/base\nlicense: other\nlicense_name: gemma\nlibrary_name: transformers\n\
             pipeline_tag: text-generation\ntags:\n- topspin\n---\n\n# small\n\n1,250,000 parameters of the architecture \
             `llama`, in bf16.\n\nThis is [org/base@v2](https://huggingface.co/org/base), written by Topspin {}.\n",
            env!("CARGO_PKG_VERSION")
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn folders_of_the_machine_are_not_told() {
        assert_eq!(shown("/home/someone/models/base.gguf"), "`base.gguf`");
        let text = of_model("/home/someone/base", Path::new("/home/someone/base"), &EXPORTED);
        assert!(!text.contains("someone") && !text.contains("base_model"), "{text}");
    }
}
