//! `topspin generate`: a response to each prompt of a file.

use topspin_data::Need;

use crate::engine::Model;
use crate::flags::{FileFlags, ModelFlags, SamplingFlags, positive};
use crate::generation::{self, Generated, Plan};
use crate::{engine, input, output};

const EXAMPLES: &str = "\
Examples:
  topspin generate --model M --input prompts.jsonl --output out.jsonl
  topspin generate --model M --input prompts.jsonl --greedy | jq -r .response
  topspin generate --model M --input prompts.jsonl --output out.jsonl --samples 8 --seed 1";

/// Answer the prompts of a file
///
/// A line of the input has `prompt`, a string that the model's chat template makes a user's message of, or `messages`, a
/// conversation that ends with the user. A line of the output is that line with `response`, `token_ids` (the end-of-turn
/// token included), `logprobs` (one for each token: the model's own at temperature 1, whatever the sampling),
/// `finish_reason` (`stop` or `length`) and, with more than one sample, `sample`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    model: ModelFlags,
    #[command(flatten)]
    files: FileFlags,
    #[command(flatten)]
    sampling: SamplingFlags,
    /// Responses to each prompt
    #[arg(long, value_name = "S", default_value_t = 1, value_parser = positive, help_heading = "Sampling")]
    samples: usize,
    /// Most sequences generated side by side
    ///
    /// More fill the processor better and take more memory, up to the point where it is busy anyway; the results are
    /// the same.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = positive, help_heading = "Computation")]
    live: usize,
}

/// Generates and writes.
pub fn run(args: Args) -> anyhow::Result<()> {
    output::check(&args.files.output)?;
    let files = engine::open(&args.model.model)?;
    let lines = input::read(&args.files.input, Need::Prompt, None, &files.dialect)?;
    for line in &lines {
        line.check_prompt(files.config.max_positions)?;
    }
    let model = Model::load(files, &args.model)?;
    let plan = Plan {
        sampling: args.sampling.sampling(),
        max_new_tokens: args.sampling.max_new_tokens,
        samples: args.samples,
        live: args.live,
        seed: args.sampling.seed,
    };
    let completions = generation::generate(&model, &lines, &plan)?;
    let out = completions.into_iter().enumerate().map(|(at, completion)| {
        let sample = (args.samples > 1).then_some(at % args.samples);
        Generated::new(&lines[at / args.samples], completion, sample, &model.files.dialect)
    });
    output::write_jsonl(&args.files.output, out)
}
