//! From flags to a model that is ready to compute.

use std::sync::Arc;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use topspin_game::config::Weights;
use topspin_kernels::cpu::Cpu;
use topspin_kernels::device::Use;
use topspin_kernels::gemm::Precision;
use topspin_kernels::simd::Level;
use topspin_model::decoder::Decoder;
use topspin_model::hub::Hub;
use topspin_model::source::{ModelFiles, ModelSource};
use tracing::info;

use crate::flags::{Dtype, Holding, ModelFlags};
use crate::progress;

/// A model, and how it is spoken to.
pub struct Model {
    /// Settings, tokenizer and chat template.
    pub files: ModelFiles,
    /// The decoder with its weights.
    pub decoder: Decoder<Cpu>,
}

impl Model {
    /// Sets the threads and loads the weights of a model that was opened from the same flags, to generate and score.
    ///
    /// The two are apart so that all that can be found wrong with the data is found before the weights are read.
    pub fn load(files: ModelFiles, flags: &ModelFlags) -> anyhow::Result<Self> {
        let precision = prepare(flags.compute.dtype, flags.compute.threads)?;
        Self::read(files, &flags.model, precision, flags.compute.weights)
    }

    /// Loads the weights of a model that goes by `name`, after [`prepare`].
    pub fn read(files: ModelFiles, name: &str, precision: Precision, weights: Holding) -> anyhow::Result<Self> {
        let for_use = Weights::from(weights).laid_out(Use::Forward);
        let decoder = files.frozen(Cpu::new(), precision, for_use)?;
        say(name, files.config.layout().len(), precision);
        Ok(Self { files, decoder })
    }
}

/// Says which model this is and how it is computed.
pub fn say(model: &str, parameters: usize, precision: Precision) {
    info!("`{model}`: {:.1} million parameters, {}", parameters as f64 / 1e6, computation(precision));
}

/// Finds a model, fetching it if need be, and reads all of it but the weights.
pub fn open(spec: &str) -> anyhow::Result<ModelFiles> {
    Ok(ModelFiles::open(&with_hub(|hub| ModelSource::resolve_with(spec, hub))?)?)
}

/// Does something that may fetch from the Hub, with a bar for each file that arrives.
pub fn with_hub<T>(fetch: impl FnOnce(&Hub) -> T) -> T {
    let bar = ProgressBar::hidden();
    let shown = bar.clone();
    let report = move |file: &str, done: u64, all: u64| {
        if shown.is_hidden() {
            let style = ProgressStyle::with_template("{prefix} {wide_bar} {binary_bytes}/{binary_total_bytes}");
            shown.set_style(style.expect("the template is a literal").progress_chars("━━─"));
            progress::show(&shown);
        }
        shown.set_prefix(file.to_owned());
        shown.set_length(all.max(done));
        shown.set_position(done);
    };
    let fetched = fetch(&Hub { progress: Some(Arc::new(report)), ..Hub::from_env() });
    bar.finish_and_clear();
    fetched
}

/// Sets the number of threads and chooses the precision of products.
pub fn prepare(dtype: Dtype, threads: Option<usize>) -> anyhow::Result<Precision> {
    let threads = threads.unwrap_or(0);
    // This thread is one of them: from outside of the pool, every operation would wait for another thread to wake up.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).use_current_thread();
    pool.build_global().with_context(|| format!("{threads} threads cannot be started; ask for fewer"))?;
    Ok(match dtype {
        Dtype::F32 => Precision::F32,
        Dtype::Bf16 => Precision::Bf16,
        Dtype::Auto if Level::detect() == Level::Avx512Bf16 => Precision::Bf16,
        Dtype::Auto => Precision::F32,
    })
}

/// The name of a precision as `--dtype` takes it.
pub fn name(precision: Precision) -> &'static str {
    match precision {
        Precision::F32 => "f32",
        Precision::Bf16 => "bf16",
    }
}

/// How is computed, in words.
pub fn computation(precision: Precision) -> String {
    let threads = rayon::current_num_threads();
    let s = if threads == 1 { "" } else { "s" };
    format!("{} on {}, {threads} thread{s}", name(precision), Level::detect())
}
