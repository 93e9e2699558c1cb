//! `topspin bench frozen`.

use std::time::Instant;

use anyhow::ensure;
use serde::Serialize;
use topspin_kernels::cpu::Cpu;
use topspin_kernels::device::{Buffer, Device, Matrix, Rows, Segment, Use};
use topspin_kernels::gemm::Precision;
use topspin_kernels::rate::noise;
use topspin_kernels::stored::Stored;
use topspin_model::batch::Batch;
use topspin_model::decoder::{Decoder, Keep, Parameters, Tape};

use crate::flags::{ModelFlags, positive};
use crate::{engine, machine, output};

/// A model whose matrices stay as its file stores them: what a base costs that only adapters are trained on
///
/// Reads the weights without decoding them, then times one forward of some rows with their log-probabilities, the gradients of
/// the inputs of all matrices at as many rows, and the same prompt continued token by token. Products decode what they read.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelFlags,
    /// Rows of the forward and of the gradients
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = positive, help_heading = "Work")]
    rows: usize,
    /// Tokens generated, one at a time
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = positive, help_heading = "Work")]
    new_tokens: usize,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// What was measured.
#[derive(Serialize)]
struct Figures {
    work: &'static str,
    model: String,
    dtype: &'static str,
    threads: usize,
    rows: usize,
    read_seconds: f64,
    forward_seconds: f64,
    input_gradient_seconds: f64,
    seconds_per_token: f64,
    peak_rss_bytes: Option<u64>,
}

/// Measures and prints.
pub fn run(Args { model, rows, new_tokens, json }: Args) -> anyhow::Result<()> {
    let files = engine::open(&model.model)?;
    let precision = engine::prepare(&model.compute)?;
    let config = &files.config;
    ensure!(
        rows + new_tokens <= config.max_positions,
        "{rows} rows and {new_tokens} tokens behind them are longer than the model's context of {}; ask for fewer",
        config.max_positions
    );
    engine::say(&model.model, config.layout().len(), precision);
    let (parameters, read_seconds) = timed(|| files.read_frozen());
    let parameters = parameters?;
    let Parameters::Frozen { matrices, .. } = &parameters else { unreachable!("what is read is frozen") };
    // The table of an untied embedding takes part in no product.
    let of_products = &matrices[usize::from(!config.tie_word_embeddings)..];
    let ((), input_gradient_seconds) =
        timed(|| of_products.iter().for_each(|matrix| input_gradient(precision, matrix, rows)));

    let decoder = Decoder::new(Cpu::new(), config.clone(), parameters, precision, Use::InPlace);
    let mut tape = Tape::new(decoder.device(), Keep::LayerInputs);
    let tokens: Vec<u32> = (0..=rows).map(|at| (at * at * 31 + 7) as u32 % config.vocab_size as u32).collect();
    let mut batch = Batch::default();
    batch.push(&tokens[..rows], &[], None, 0);
    batch.outputs = (0..rows as u32).collect();
    batch.targets = tokens[1..].to_vec();
    let (logprobs, forward_seconds) = timed(|| decoder.logprobs(&batch, &mut tape));
    ensure!(
        logprobs.iter().all(|logprob| logprob.is_finite()),
        "the weights give log-probabilities that are no numbers"
    );
    let ((), generation) = timed(|| generate(&decoder, &tokens[..1], new_tokens));

    let figures = Figures {
        work: "frozen",
        model: model.model,
        dtype: engine::name(precision),
        threads: rayon::current_num_threads(),
        rows,
        read_seconds,
        forward_seconds,
        input_gradient_seconds,
        seconds_per_token: generation / new_tokens as f64,
        peak_rss_bytes: machine::peak_rss_bytes(),
    };
    if json { output::print_json(&figures) } else { print_table(&figures) }
}

fn timed<R>(work: impl FnOnce() -> R) -> (R, f64) {
    let start = Instant::now();
    let result = work();
    (result, start.elapsed().as_secs_f64())
}

fn input_gradient(precision: Precision, matrix: &Stored, rows: usize) {
    let (cpu, n, k) = (Cpu::new(), matrix.rows(), matrix.columns());
    let weight = cpu.weight(precision, Matrix::Stored(matrix), n, k, Use::InPlace);
    let (dy, mut dx) = (noise(rows * n), cpu.alloc(rows * k));
    cpu.linear_backward_input(dx.head_mut(rows * k), Rows::Single(dy.head(rows * n)), Matrix::Stored(matrix), &weight);
}

/// Continues a prompt greedily, token by token.
fn generate(decoder: &Decoder<Cpu>, prompt: &[u32], new_tokens: usize) {
    let (mut kv, mut tape) = (decoder.kv(prompt.len() + new_tokens), Tape::new(decoder.device(), Keep::Nothing));
    let mut next = prompt.to_vec();
    for past in 0..new_tokens {
        let mut batch = Batch::default();
        batch.push(&next, &[], (past > 0).then_some(Segment { start: 0, len: past }), past);
        batch.outputs = vec![0];
        let choose = |_: usize, logits: &[f32], tokens: &mut [u32]| {
            let largest = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
            tokens[0] = largest.expect("a vocabulary has tokens") as u32;
        };
        next = vec![decoder.next_tokens(&batch, &mut kv, &mut tape, choose)[0].token];
    }
}

fn print_table(figures: &Figures) -> anyhow::Result<()> {
    let Figures { model, dtype, threads, rows, .. } = figures;
    output::print(|out| {
        writeln!(out, "{model} as it is stored, {dtype}, {threads} threads")?;
        let mut line = |name: &str, value: f64, remark: String| {
            writeln!(out, "{}", format!("{name:<22} {value:>10.3}   {remark}").trim_end())
        };
        line("read, s", figures.read_seconds, String::new())?;
        line("forward, s", figures.forward_seconds, format!("{rows} rows, with log-probabilities"))?;
        line("input gradients, s", figures.input_gradient_seconds, format!("{rows} rows, all matrices"))?;
        line("generation, s/token", figures.seconds_per_token, "one sequence".into())?;
        if let Some(bytes) = figures.peak_rss_bytes {
            line("peak memory, GiB", bytes as f64 / f64::from(1 << 30), String::new())?;
        }
        Ok(())
    })
}
