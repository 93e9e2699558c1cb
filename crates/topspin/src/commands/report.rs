//! `topspin report`: a run as a page to look at.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::bail;
use topspin_eval::page::{Folder, Most, Piece, RunPage, html};
use topspin_model::dialect::Dialect;
use tracing::warn;

use crate::flags::positive;
use crate::{engine, output};

const EXAMPLES: &str = "\
Examples:
  topspin report runs/e2e-smollm2                            Writes runs/e2e-smollm2/report.html
  topspin report runs/beta-0.1 runs/beta-1 --output beta.html    Two runs over each other
  topspin report runs/moved --model models/SmolLM2-135M      The run's own model is elsewhere now

The page is one file: it fetches nothing, and can be mailed or kept beside the run. While the run goes on, the same command
writes what is there by then.";

/// Write a run as a page to look at: results, curves, and its answers beside the real ones
///
/// The page says which iteration is best and by how much more than chance, whether the run learns or collapses, and shows
/// what was answered to each prompt, iteration by iteration, each token shaded by what the opponents gave to it. A second run
/// is laid over the first.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The folder of a run
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// The folder of a run to lay over it
    #[arg(value_name = "RUN")]
    other: Option<PathBuf>,
    /// The page; `-` is stdout [default: report.html in the run's folder, of two runs in the working directory]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Whose tokenizer spells the tokens [default: the run's own model]
    #[arg(short, long, value_name = "MODEL")]
    model: Option<String>,
    /// Most prompts of each kind to look at one by one, the first of the run
    ///
    /// All figures are those of all prompts.
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = positive)]
    prompts: usize,
    /// Most different answers to a training prompt in one iteration, the most frequent
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = positive)]
    answers: usize,
}

/// Reads and writes.
pub fn run(args: Args) -> anyhow::Result<()> {
    let path = args.output.clone().unwrap_or_else(|| match &args.other {
        None => args.run.join("report.html"),
        Some(_) => PathBuf::from("report.html"),
    });
    let folders = std::iter::once(&args.run).chain(&args.other).map(|dir| Folder::open(dir));
    let folders = folders.collect::<Result<Vec<_>, _>>()?;
    let to_stdout = path == Path::new("-");
    if !to_stdout {
        output::check(&path)?;
    }
    let pages = folders.iter().map(|folder| read(folder, &args)).collect::<anyhow::Result<Vec<_>>>()?;
    if to_stdout {
        return output::print(|out| html(&pages, out));
    }
    topspin_files::write_atomic(&path, |out| html(&pages, out))?;
    let size = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
    output::print(|out| {
        writeln!(out, "`{}` ({:.1} MB) is written; open it in a browser", path.display(), size as f64 / 1e6)
    })
}

fn read(folder: &Folder, args: &Args) -> anyhow::Result<RunPage> {
    let most = Most { prompts: args.prompts, answers: args.answers };
    match dialect(folder, args.model.as_deref()) {
        Ok(dialect) => {
            let speller = Speller { dialect, special: RefCell::default() };
            Ok(RunPage::read(folder, Some(&|ids: &[u32]| speller.spell(ids)), most)?)
        }
        Err(error) if args.model.is_some() => Err(error),
        Err(error) => {
            let mut page = RunPage::read(folder, None, most)?;
            let dir = folder.dir().display();
            warn!("`{dir}`: tokens cannot be spelled ({error:#}); name a model that has the tokenizer with `--model`");
            page.note(format!(
                "The tokenizer of the run's model could not be read ({error:#}), so tokens of the training prompts are numbers; \
                 --model names a model that has it."
            ));
            Ok(page)
        }
    }
}

/// How the run's model spells: by the given model, or else by the run's own.
fn dialect(folder: &Folder, given: Option<&str>) -> anyhow::Result<Dialect> {
    let Some(spec) = given.map(str::to_owned).or_else(|| speller_of(folder)) else {
        bail!("its config.toml names no model");
    };
    Ok(engine::open(&spec)?.dialect)
}

/// A model that has a run's tokenizer: one that the run saved, or the one that it started from.
pub fn speller_of(folder: &Folder) -> Option<String> {
    let models = folder.stage_folders().into_iter().map(|stage| folder.dir().join(stage).join("model"));
    // An adapter's folder has no tokenizer: the model below it does.
    let mut saved = models.filter(|model| model.join("tokenizer.json").exists());
    saved.find_map(|model| Some(model.to_str()?.to_owned())).or_else(|| folder.model().map(str::to_owned))
}

/// Spells tokens by a model's tokenizer.
struct Speller {
    dialect: Dialect,
    /// What is known of ids so far: the tokenizer makes a list of all special ones each time that it is asked.
    special: RefCell<HashMap<u32, bool>>,
}

impl Speller {
    /// The text of each token. That of a character whose bytes are several tokens stands at the last of them.
    fn spell(&self, ids: &[u32]) -> Vec<Piece> {
        let (tokenizer, mut special) = (self.dialect.tokenizer(), self.special.borrow_mut());
        let mut stream = tokenizer.stream();
        let mut piece = |&id: &u32| {
            let special = *special.entry(id).or_insert_with(|| tokenizer.is_special(id));
            Piece { text: stream.push(id), special }
        };
        let mut pieces: Vec<Piece> = ids.iter().map(&mut piece).collect();
        if let Some(last) = pieces.last_mut() {
            last.text += &stream.finish();
        }
        pieces
    }
}
