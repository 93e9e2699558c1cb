//! The model that is measured: one on disk, or random weights in a named architecture.

use anyhow::ensure;
use topspin_game::config::{self, Weights};
use topspin_kernels::cpu::Cpu;
use topspin_kernels::device::Use;
use topspin_kernels::gemm::Precision;
use topspin_kernels::timed::Timed;
use topspin_model::adapter::Adapter;
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
    /// A Hugging Face folder, an adapter's folder in PEFT's layout, a GGUF file, or `hf:ORG/NAME`
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
    weights: Weights,
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
        let precision = engine::prepare(flags.compute.dtype, flags.compute.threads)?;
        engine::say(&name, config.layout().len(), precision);
        let weights = flags.compute.weights.into();
        Ok(Self { name, config, precision, device: Timed::new(Cpu::new()), weights, files })
    }

    /// How the model is spoken to; a bare architecture cannot be.
    pub fn dialect(&self) -> Option<&Dialect> {
        self.files.as_ref().map(|files| &files.dialect)
    }

    /// The model to generate with; weights are read, or drawn.
    pub fn generator(&self) -> anyhow::Result<TimedDecoder> {
        self.frozen(Use::Forward)
    }

    /// The model to be trained: all of it, or an adapter of this rank beside all of its linear layers.
    pub fn trainee(&self, lora_rank: Option<usize>) -> anyhow::Result<TimedDecoder> {
        if let Some(rank) = lora_rank {
            let lora = config::Adapter { rank, ..config::Adapter::default() }.lora().expect("a rank makes an adapter");
            let adapter = Adapter::new(lora, &self.config)?;
            let parameters = adapter.initial(0, 0);
            return Ok(self.frozen(Use::ForwardAndBackward)?.with_adapter(adapter, parameters));
        }
        match &self.files {
            Some(files) => Ok(files.trainable(self.device.clone(), self.precision, Use::ForwardAndBackward)?),
            None => Ok(self.drawn(Use::ForwardAndBackward)),
        }
    }

    fn frozen(&self, packed: Use) -> anyhow::Result<TimedDecoder> {
        let for_use = self.weights.laid_out(packed);
        match &self.files {
            Some(files) => Ok(files.frozen(self.device.clone(), self.precision, for_use)?),
            None => Ok(self.drawn(for_use)),
        }
    }

    /// A decoder of random parameters.
    fn drawn(&self, for_use: Use) -> TimedDecoder {
        let params = random_parameters(&self.config);
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
