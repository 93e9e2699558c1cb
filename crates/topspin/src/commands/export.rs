//! `topspin export`: a model for the rest of the world.

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::ValueEnum;
use topspin_files::{Action, FileError};
use topspin_game::card::{self, Exported};
use topspin_game::run::stage_of_model;
use topspin_kernels::memory::Memory;
use topspin_model::adapter::AdapterFiles;
use topspin_model::checkpoint::{SaveDtype, save_folder};
use topspin_model::gguf::{GgufDraft, SaveType};
use topspin_model::source::ModelFiles;
use tracing::info;

use crate::{engine, output};

const EXAMPLES: &str = "\
Examples:
  topspin export runs/e2e-smollm2 --output e2e --type bf16
  topspin export runs/e2e-smollm2 --output e2e-gguf --format gguf --type q8_0
  topspin export runs/e2e-smollm2 --iteration 1 --output e2e-1
  topspin export runs/e2e-smollm2-lora --output e2e-lora --format peft
  topspin export hf:HuggingFaceTB/SmolLM2-135M-Instruct --output smollm2 --format gguf --type f16";

/// Write a model for other programs: a Hugging Face folder, a GGUF file for llama.cpp, or an adapter for PEFT
///
/// Of a run it is the best iteration. An adapter is merged into its model, or written by itself with `--format peft`. The output is a new folder, written whole or not at all, that can be uploaded as it is:
/// the model with its tokenizer and chat template, and a model card, `README.md`, that tells what the run's files say: base
/// model, method, data, results and settings. A model that GGUF cannot hold is an error that says why.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// A run folder, or a model: a Hugging Face folder, an adapter's folder, a GGUF file, or `hf:ORG/NAME`
    #[arg(value_name = "RUN|MODEL")]
    from: String,
    /// The folder to write, whose name is also that of the model; it must not exist
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// The format
    #[arg(long, value_enum, default_value_t = Format::Hf)]
    format: Format,
    /// The type of the weights; in GGUF vectors stay f32, and so do adapters
    #[arg(long = "type", value_name = "TYPE", value_enum, default_value_t = Type::F32)]
    element_type: Type,
    /// Of a run, take this iteration; 0 is the supervised model [default: the best]
    #[arg(long, value_name = "N")]
    iteration: Option<usize>,
}

/// The format, as typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A Hugging Face folder, for transformers, vLLM and others
    Hf,
    /// One file, for llama.cpp and others
    Gguf,
    /// The adapter alone, for PEFT, vLLM and others
    Peft,
}

/// The type of the weights, as typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Type {
    /// As trained
    F32,
    /// bfloat16: half the size
    Bf16,
    /// IEEE half precision: half the size, and a narrower range
    F16,
    /// 8 bits and a scale for each 32 weights, in GGUF alone
    #[value(name = "q8_0")]
    Q8_0,
}

/// The name of a type as `--type` takes it.
fn name(element_type: Type) -> String {
    element_type.to_possible_value().expect("no type is hidden").get_name().to_owned()
}

/// Where the model comes from.
enum Origin {
    /// A stage folder of a run.
    Run { dir: PathBuf, folder: String },
    /// What the user named.
    Model,
}

/// Exports.
pub fn run(args: Args) -> anyhow::Result<()> {
    check_output(&args.output)?;
    let form = Form::new(args.format, args.element_type)?;
    let (origin, files) = open(&args)?;
    let title = args.output.file_name().unwrap_or(args.output.as_os_str()).to_string_lossy();
    let exported = Exported {
        name: &title,
        library: form.library(),
        architecture: files.config.family.model_type(),
        parameters: files.config.layout().len(),
        element_type: &name(args.element_type),
        adapter: files.adapter().map(AdapterFiles::adapter),
    };
    let card = match &origin {
        Origin::Run { dir, folder } => card::of_run(dir, folder, &exported)?,
        Origin::Model => card::of_model(&args.from, files.source().path(), &exported),
    };
    let writer = form.prepare(&files, &title)?;
    topspin_files::write_dir_atomic(&args.output, |dir| -> anyhow::Result<()> {
        writer.write(dir, &files)?;
        Ok(topspin_files::write_atomic(&dir.join("README.md"), |out| out.write_all(card.as_bytes()))?)
    })?;
    let what = if let Origin::Run { folder, .. } = &origin { folder.as_str() } else { &args.from };
    info!("wrote `{what}` in {} to `{}`", exported.element_type, args.output.display());
    Ok(())
}

/// Checks that a new folder can be where `path` says, so that this is not found out when the work is done.
fn check_output(path: &Path) -> anyhow::Result<()> {
    match path.symlink_metadata() {
        Ok(_) => Err(FileError::new(Action::Write, path, ErrorKind::AlreadyExists.into()).into()),
        Err(_) => output::check(path),
    }
}

/// Opens the model that is asked for, all of it but the weights.
fn open(args: &Args) -> anyhow::Result<(Origin, ModelFiles)> {
    let dir = Path::new(&args.from);
    if !dir.join("manifest.json").exists() {
        if args.iteration.is_some() {
            bail!(
                "`--iteration` is one of a run, and `{}` is none (it has no `manifest.json`); leave it out",
                args.from
            );
        }
        return Ok((Origin::Model, engine::open(&args.from)?));
    }
    let folder = stage_of_model(dir, args.iteration)?;
    let files = engine::open(&dir.join(&folder).join("model").display().to_string())?;
    Ok((Origin::Run { dir: dir.into(), folder }, files))
}

/// A format with a type that it has.
enum Form {
    Folder(SaveDtype),
    Gguf(SaveType),
    Adapter,
}

impl Form {
    fn new(format: Format, element_type: Type) -> anyhow::Result<Self> {
        Ok(match (format, element_type) {
            (Format::Hf, Type::F32) => Self::Folder(SaveDtype::F32),
            (Format::Hf, Type::Bf16) => Self::Folder(SaveDtype::Bf16),
            (Format::Hf, Type::F16) => Self::Folder(SaveDtype::F16),
            (Format::Hf, Type::Q8_0) => {
                bail!("`--type q8_0` is one of GGUF; add `--format gguf`, or choose `f32`, `bf16` or `f16`")
            }
            (Format::Peft, Type::F32) => Self::Adapter,
            (Format::Peft, _) => bail!("an adapter is written in f32, as it was trained; leave `--type` out"),
            (Format::Gguf, Type::F32) => Self::Gguf(SaveType::F32),
            (Format::Gguf, Type::Bf16) => Self::Gguf(SaveType::BF16),
            (Format::Gguf, Type::F16) => Self::Gguf(SaveType::F16),
            (Format::Gguf, Type::Q8_0) => Self::Gguf(SaveType::Q8_0),
        })
    }

    /// The Hub's name of what opens it.
    fn library(&self) -> &'static str {
        match self {
            Self::Folder(_) => "transformers",
            Self::Gguf(_) => "gguf",
            Self::Adapter => "peft",
        }
    }

    /// Finds out, before the weights are read, whether the model can be written so.
    fn prepare(&self, files: &ModelFiles, title: &str) -> anyhow::Result<Writer> {
        Ok(match self {
            Self::Folder(dtype) => Writer::Folder(*dtype),
            Self::Gguf(save_type) => {
                let draft = GgufDraft::new(files.source().path(), &files.config, &files.dialect, *save_type)?;
                let kept = draft.kept_as_f16();
                if kept > 0 {
                    info!("{kept} matrices stay F16: blocks of 32 do not divide their rows");
                }
                Writer::Gguf { draft, name: format!("{title}-{save_type:?}.gguf") }
            }
            Self::Adapter => match files.adapter() {
                Some(adapter) => Writer::Adapter(adapter.clone()),
                None => bail!(
                    "`{}` is a whole model, without an adapter; export it as `hf` or `gguf`",
                    files.source().path().display()
                ),
            },
        })
    }
}

/// A format that is ready for the weights.
enum Writer {
    Folder(SaveDtype),
    Gguf { draft: GgufDraft, name: String },
    Adapter(AdapterFiles),
}

impl Writer {
    /// Reads the parameters and writes them into an empty folder.
    fn write(&self, dir: &Path, files: &ModelFiles) -> anyhow::Result<()> {
        let parameters = || -> anyhow::Result<_> {
            let mut parameters = Memory::zeroed(files.config.layout().len());
            files.read_parameters(&mut parameters)?;
            Ok(parameters)
        };
        match self {
            Self::Folder(dtype) => save_folder(dir, &files.config, &parameters()?, *dtype, &files.dialect)?,
            Self::Gguf { draft, name } => draft.write(&dir.join(name), &parameters()?)?,
            Self::Adapter(adapter) => adapter.save_again(dir)?,
        }
        Ok(())
    }
}
