//! The model that is measured: one on disk, or random weights in a named architecture.

use anyhow::ensure;
use topspin_kernels::cpu::Cpu;
use topspin_kernels::device::Use;
use topspin_kernels::gemm::Precision;
use topspin_kernels::memory::Memory;
use topspin_kernels::timed::Timed;
use topspin_model::config::DecoderConfig;
use topspin_model::decoder::Decoder;
use topspin_model::dialect::Dialect;
use topspin_model::source::ModelFiles;

use super::architecture::{Architecture, random_parameters};
use crate::engine;
use crate::flags::ComputeFlags;

/// What is measured and how it computes.
#[derive(Debug, clap::Args)]
pub struct SubjectFlags {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    compute: ComputeFlags,
}

/// One of the two.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
#[command(next_help_heading = "Model")]
struct Which {
    /// A Hugging Face folder, a GGUF file, or `hf:ORG/NAME`
    #[arg(short, long, value_name = "MODEL")]
    model: Option<String>,
    /// Random weights in the dimensions of this model, in place of `--model`
    #[arg(long, value_name = "NAME", value_enum)]
    architecture: Option<Architecture>,
}

/// A decoder whose operations are timed.
pub type TimedDecoder = Decoder<Timed<Cpu>>;

/// A model that is open; its weights are not read yet.
pub struct Subject {
    /// As it was typed.
    pub name: String,
    /// Dimensions.
    pub config: DecoderConfig,
    /// Precision of products.
    pub precision: Precision,
    /// The device that all decoders of this subject work on.
    pub device: Timed<Cpu>,
    files: Option<ModelFiles>,
}

impl Subject {
    /// Opens what the flags name and sets the threads.
    pub fn open(flags: &SubjectFlags) -> anyhow::Result<Self> {
        let Which { model, architecture } = &flags.which;
        let (name, config, files) = match (model, architecture) {
            (Some(model), _) => {
                let files = engine::open(model)?;
                (model.clone(), files.config.clone(), Some(files))
            }
            (None, Some(architecture)) => (architecture.name(), architecture.config(), None),
            (None, None) => unreachable!("the command line asks for one of the two"),
        };
        let precision = engine::prepare(&flags.compute)?;
        engine::say(&name, config.layout().len(), precision);
        Ok(Self { name, config, precision, device: Timed::new(Cpu::new()), files })
    }

    /// How the model is spoken to; a bare architecture cannot be.
    pub fn dialect(&self) -> Option<&Dialect> {
        self.files.as_ref().map(|files| &files.dialect)
    }

    /// Reads the weights, or draws them.
    pub fn decoder(&self, for_use: Use) -> anyhow::Result<TimedDecoder> {
        let params = match &self.files {
            Some(files) => {
                let mut params = Memory::zeroed(self.config.layout().len());
                files.read_parameters(&mut params)?;
                params
            }
            None => random_parameters(&self.config),
        };
        Ok(self.lay_out(params, for_use))
    }

    /// A decoder of given parameters.
    pub fn lay_out(&self, params: Memory<f32>, for_use: Use) -> TimedDecoder {
        Decoder::new(self.device.clone(), self.config.clone(), params.into(), self.precision, for_use)
    }

    /// Checks that prompts and responses of these lengths fit into the model's context.
    pub fn check_lengths(&self, prompt: usize, response: usize) -> anyhow::Result<()> {
        let context = self.config.max_positions;
        ensure!(
            prompt + response <= context,
            "prompts of {prompt} tokens with responses of {response} are longer than the model's context of {context}; \
             ask for fewer"
        );
        Ok(())
    }
}
