//! `topspin bench gemm`.

use std::time::Duration;

use serde::Serialize;
use topspin_game::run::product_rate;
use topspin_kernels::cpu::Cpu;
use topspin_kernels::device::{Buffer, Device, Matrix, Plus, Rows, Use};
use topspin_kernels::gemm::Precision;
use topspin_kernels::rate::{Product, noise, times};
use topspin_model::config::DecoderConfig;

use super::clock::median;
use super::subject::{Subject, SubjectFlags};
use crate::flags::positive;
use crate::progress::Bar;
use crate::{engine, output};

/// For how long each product is timed.
const SPAN: Duration = Duration::from_millis(30);

/// The matrix products of a model, one by one
///
/// `forward` has its weights packed beforehand, as generation does; `training forward`, `input gradient` and `weight
/// gradient` are those of a training step, packing on the way included where training does that. GFLOP/s of the median.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Numbers of rows
    #[arg(long, value_name = "N,..", value_delimiter = ',', default_values_t = [1, 16, 64, 384, 1536],
        value_parser = positive, help_heading = "Work")]
    rows: Vec<usize>,
    #[command(flatten)]
    subject: SubjectFlags,
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
    peak_product_gflops: f64,
    products: Vec<Rate>,
}

/// One product. Its shape is that of the matrix product behind it: for the weight's gradient the rows of the batch are
/// summed over.
#[derive(Serialize)]
struct Rate {
    product: &'static str,
    form: &'static str,
    batch_rows: usize,
    rows: usize,
    columns: usize,
    depth: usize,
    gflops: f64,
}

/// Measures and prints.
pub fn run(Args { rows, subject, json }: Args) -> anyhow::Result<()> {
    let subject = Subject::open(&subject)?;
    let device = Cpu::new();
    let mut peak = product_rate(&device, subject.precision);
    let matrices = matrices(&subject.config);
    let mut bar = Bar::begin("gemm", "products", matrices.len() * rows.len(), 0);
    let mut products = Vec::new();
    for (product, n, k) in matrices {
        for &batch_rows in &rows {
            for (form, shape, seconds) in measure(&device, subject.precision, n, k, batch_rows) {
                let gflops = shape.flops() as f64 / seconds / 1e9;
                let Product { rows, columns, depth } = shape;
                products.push(Rate { product, form, batch_rows, rows, columns, depth, gflops });
            }
            bar.step();
        }
    }
    drop(bar);
    peak = peak.max(product_rate(&device, subject.precision));
    let figures = Figures {
        work: "gemm",
        model: subject.name,
        dtype: engine::name(subject.precision),
        threads: rayon::current_num_threads(),
        peak_product_gflops: peak / 1e9,
        products,
    };
    if json { output::print_json(&figures) } else { print_table(&figures, &rows) }
}

/// Name, rows and columns of each weight matrix that a layer or the head has.
fn matrices(config: &DecoderConfig) -> [(&'static str, usize, usize); 5] {
    let (d, f, heads) = (config.hidden_size, config.intermediate_size, config.heads());
    [
        ("qkv", heads.qkv_width(), d),
        ("o", d, heads.q_width()),
        ("gate_up", 2 * f, d),
        ("down", d, f),
        ("head", config.vocab_size, d),
    ]
}

/// Median seconds of each form of the product of `m` rows with a weight matrix `[n, k]`.
fn measure(device: &Cpu, precision: Precision, n: usize, k: usize, m: usize) -> [(&'static str, Product, f64); 4] {
    let buffer = |len: usize| device.upload(noise(len));
    let (mut x, mut y, w, mut dw) = (buffer(m * k), buffer(m * n), buffer(n * k), device.alloc(n * k));
    let matrix = || Matrix::Single(w.head(n * k));
    let weight = |for_use| device.weight(precision, matrix(), n, k, for_use);
    let clock = |work: &mut dyn FnMut()| median(times(SPAN, &mut || work())).expect("there are some repetitions");

    let packed = weight(Use::Forward);
    let forward = clock(&mut || {
        device.linear_forward(y.head_mut(m * n), Rows::Single(x.head(m * k)), matrix(), &packed, Plus::Nothing);
    });
    drop(packed);
    let weight = weight(Use::ForwardAndBackward);
    let training_forward = clock(&mut || {
        device.linear_forward(y.head_mut(m * n), Rows::Single(x.head(m * k)), matrix(), &weight, Plus::Nothing);
    });
    let weight_gradient = clock(&mut || {
        device.linear_backward_weight(
            dw.head_mut(n * k),
            Rows::Single(y.head(m * n)),
            Rows::Single(x.head(m * k)),
            &weight,
            true,
        );
    });
    let input_gradient = clock(&mut || {
        device.linear_backward_input(x.head_mut(m * k), Rows::Single(y.head(m * n)), matrix(), &weight, false);
    });
    let shape = |rows, columns, depth| Product { rows, columns, depth };
    [
        ("forward", shape(m, n, k), forward),
        ("training forward", shape(m, n, k), training_forward),
        ("input gradient", shape(m, k, n), input_gradient),
        ("weight gradient", shape(n, k, m), weight_gradient),
    ]
}

fn print_table(figures: &Figures, rows: &[usize]) -> anyhow::Result<()> {
    let Figures { model, dtype, threads, peak_product_gflops, products, .. } = figures;
    output::print(|out| {
        writeln!(out, "products of {model}, {dtype}, {threads} threads, GFLOP/s by rows of the batch")?;
        writeln!(out, "one large product: {peak_product_gflops:.1}")?;
        writeln!(out)?;
        let header: String = rows.iter().map(|rows| format!(" {rows:>8}")).collect();
        writeln!(out, "{:<26}{header}", "")?;
        for product in products.chunk_by(|a, b| a.product == b.product) {
            for form in &product[..product.len() / rows.len()] {
                let of_form = product.iter().filter(|rate| rate.form == form.form);
                let rates: String = of_form.map(|rate| format!(" {:>8.1}", rate.gflops)).collect();
                writeln!(out, "{:<8} {:<17}{rates}", form.product, form.form)?;
            }
        }
        Ok(())
    })
}
