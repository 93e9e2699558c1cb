//! Topspin's matrix products beside those of gemmkit 0.1.2, in f32, at the shapes of SmolLM2-135M.
//!
//!     cargo run --release --manifest-path benches/peers/gemmkit/Cargo.toml -- [THREADS]
//!
//! Prints GFLOP/s, the median over at least five calls of each, called in turn; then for which numbers of rows
//! gemmkit gives a row other bits than it has among 64 rows.

use std::time::{Duration, Instant};

use gemmkit::{MatMut, MatRef, Parallelism, gemm};
use topspin_kernels::device::Use;
use topspin_kernels::gemm::{Precision, Weight, linear_backward_input, linear_backward_weight, linear_forward};
use topspin_kernels::simd::Level;

/// `(k, n)`: queries, keys and values; attention's output; gate and up; down; logits.
const SHAPES: [(usize, usize); 5] = [(576, 960), (576, 576), (576, 3072), (1536, 576), (576, 49152)];
/// Rows of the left operand.
const ROWS: [usize; 5] = [1, 16, 64, 512, 2048];

fn main() {
    let threads = std::env::args().nth(1).map_or(1, |threads| threads.parse().expect("a number of threads"));
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
    let parallelism = if threads == 1 { Parallelism::Serial } else { Parallelism::Rayon(threads) };
    pool.install(|| {
        println!("{threads} threads, {:?}, GFLOP/s in f32: Topspin / gemmkit = ratio\n", Level::detect());
        println!("| k x n | rows | forward | backward, input | backward, weight |");
        println!("|---|---|---|---|---|");
        for (k, n) in SHAPES {
            rates(k, n, parallelism);
        }
        println!();
        for (k, n) in SHAPES {
            let other = rows_with_other_bits(k, n, parallelism);
            println!("{k} x {n}: gemmkit's bits differ from those among 64 rows when there are {other:?} rows");
        }
    });
}

/// One line of the table for each number of rows.
fn rates(k: usize, n: usize, parallelism: Parallelism) {
    let w = values(n * k, 2);
    let weight = Weight::prepare(Level::detect(), Precision::F32, &w, n, k, Use::Forward);
    for m in ROWS.into_iter().filter(|m| m * n < 1 << 26) {
        let (x, dy) = (values(m * k, 1), values(m * n, 3));
        let (mut y, mut dx, mut dw) = (vec![0.0; m * n], vec![0.0; m * k], vec![0.0; n * k]);
        let mut row = format!("| {k} x {n} | {m} |");
        let mut add = |ours: &mut dyn FnMut(), theirs: &mut dyn FnMut()| {
            let [ours, theirs] = medians([ours, theirs]).map(|seconds| 2e-9 * (m * n * k) as f64 / seconds);
            row += &format!(" {ours:.1} / {theirs:.1} = {:.2} |", ours / theirs);
        };
        let mut own = y.clone();
        add(&mut || linear_forward(&mut own, &x, &w, &weight, None), &mut || {
            let (x, w) = (MatRef::from_row_major(&x, m, k), MatRef::new(&w, k, n, 1, k as isize));
            gemm(1.0, x, w, 0.0, MatMut::from_row_major(&mut y, m, n), parallelism);
        });
        let mut own = dx.clone();
        add(&mut || linear_backward_input(&mut own, &dy, &w, &weight), &mut || {
            let (dy, w) = (MatRef::from_row_major(&dy, m, n), MatRef::from_row_major(&w, n, k));
            gemm(1.0, dy, w, 0.0, MatMut::from_row_major(&mut dx, m, k), parallelism);
        });
        let mut own = dw.clone();
        add(&mut || linear_backward_weight(&mut own, &dy, &x, &weight, true), &mut || {
            let (dy, x) = (MatRef::new(&dy, n, m, 1, n as isize), MatRef::from_row_major(&x, m, k));
            gemm(1.0, dy, x, 1.0, MatMut::from_row_major(&mut dw, n, k), parallelism);
        });
        println!("{row}");
    }
}

/// Median seconds of each, called in turn for a second, at least five times.
fn medians(mut work: [&mut dyn FnMut(); 2]) -> [f64; 2] {
    let mut seconds = [Vec::new(), Vec::new()];
    work.iter_mut().for_each(|work| work());
    let start = Instant::now();
    while seconds[0].len() < 5 || start.elapsed() < Duration::from_secs(1) {
        for (work, seconds) in work.iter_mut().zip(&mut seconds) {
            let start = Instant::now();
            work();
            seconds.push(start.elapsed().as_secs_f64());
        }
    }
    seconds.map(|mut seconds| {
        seconds.sort_by(f64::total_cmp);
        seconds[seconds.len() / 2]
    })
}

/// Numbers of rows below 20 at which a row has other bits than among 64 rows.
fn rows_with_other_bits(k: usize, n: usize, parallelism: Parallelism) -> Vec<usize> {
    let (w, x) = (values(n * k, 2), values(64 * k, 1));
    let product = |x: &[f32]| {
        let m = x.len() / k;
        let mut y = vec![0.0f32; m * n];
        let (x, w) = (MatRef::from_row_major(x, m, k), MatRef::new(&w, k, n, 1, k as isize));
        gemm(1.0, x, w, 0.0, MatMut::from_row_major(&mut y, m, n), parallelism);
        y.into_iter().map(f32::to_bits).collect::<Vec<_>>()
    };
    let all = product(&x);
    (1..20).filter(|m| product(&x[3 * k..][..m * k]) != all[3 * n..][..m * n]).collect()
}

/// Numbers in [-1, 1) without a pattern.
fn values(len: usize, seed: u32) -> Vec<f32> {
    (0..len as u32).map(|i| (i ^ seed << 28).wrapping_mul(0x9e37_79b9) as i32 as f32 / 2f32.powi(31)).collect()
}
