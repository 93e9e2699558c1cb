//! Rates of the three products at the shapes of SmolLM2-135M; a `Gelem/s` is a GFLOP/s.
//!
//! `cargo bench -p topspin-kernels --bench gemm -- 'forward/.*/m16$'` runs a part. `RAYON_NUM_THREADS` sets the number
//! of threads, `TOPSPIN_SIMD` caps the vector level.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use topspin_kernels::device::Use;
use topspin_kernels::gemm::{
    Elements, Numbers, Plus, Precision, Weight, linear_backward_input, linear_backward_weight, linear_forward,
};
use topspin_kernels::simd::Level;
use topspin_kernels::stored::{GgmlType, Stored, StoredRows};

/// `(k, n)`: queries, keys and values; attention's output; gate and up; down; logits.
const LAYERS: [(usize, usize); 5] = [(576, 960), (576, 576), (576, 3072), (1536, 576), (576, 49152)];

/// Numbers in [-1, 1) without a pattern that a cache or a multiplier could profit from.
fn values(len: usize) -> Vec<f32> {
    (0..len).map(|i| (i as u32).wrapping_mul(0x9e37_79b9) as i32 as f32 / 2f32.powi(31)).collect()
}

fn products(criterion: &mut Criterion) {
    let level = Level::detect();
    for (k, n) in LAYERS {
        let w = values(n * k);
        for precision in [Precision::F32, Precision::Bf16] {
            let [weight, in_training] = [Use::Forward, Use::ForwardAndBackward]
                .map(|for_use| Weight::prepare(level, precision, Elements::Single(&w), n, k, for_use));
            let mut group = |name: &str, rows: &[usize], run: &mut dyn FnMut(usize)| {
                let mut group = criterion.benchmark_group(format!("{name}/{precision:?}/k{k}n{n}"));
                group.sample_size(10).warm_up_time(Duration::from_millis(200));
                group.measurement_time(Duration::from_millis(800));
                for &m in rows {
                    group.throughput(Throughput::Elements(2 * (m * n * k) as u64));
                    group.bench_function(BenchmarkId::from_parameter(format!("m{m}")), |bench| bench.iter(|| run(m)));
                }
                group.finish();
            };
            let largest = if n > 40_000 { 512 } else { 2048 };
            let (x, dy) = (values(largest * k), values(largest * n));
            let (mut y, mut dx, mut dw) = (vec![0.0; largest * n], vec![0.0; largest * k], vec![0.0; n * k]);
            let all: Vec<_> = [1, 4, 16, 64, 512, 2048].into_iter().filter(|&m| m <= largest).collect();
            let training: Vec<_> = all.iter().copied().filter(|&m| m >= 512).collect();
            group("forward", &all, &mut |m| {
                linear_forward(
                    black_box(&mut y[..m * n]),
                    Numbers::F32(black_box(&x[..m * k])),
                    Elements::Single(&w),
                    &weight,
                    Plus::Nothing,
                );
            });
            group("forward_in_training", &training, &mut |m| {
                linear_forward(
                    black_box(&mut y[..m * n]),
                    Numbers::F32(black_box(&x[..m * k])),
                    Elements::Single(&w),
                    &in_training,
                    Plus::Nothing,
                );
            });
            group("backward_input", &training, &mut |m| {
                linear_backward_input(
                    black_box(&mut dx[..m * k]),
                    Numbers::F32(black_box(&dy[..m * n])),
                    Elements::Single(&w),
                    &in_training,
                    false,
                );
            });
            group("backward_weight", &training, &mut |m| {
                let (dy, x) = (&dy[..m * n], &x[..m * k]);
                linear_backward_weight(
                    black_box(&mut dw),
                    Numbers::F32(black_box(dy)),
                    Numbers::F32(black_box(x)),
                    &in_training,
                    true,
                );
            });
        }
    }
}

/// A layer of a model of eight billion parameters, `(k, n)`.
const LARGE: (usize, usize) = (4096, 4096);

/// The forward with a matrix packed beforehand, and with it as a file stores it; the gradient of the input with the latter.
fn stored_products(criterion: &mut Criterion) {
    let (level, (k, n)) = (Level::detect(), LARGE);
    for kind in [GgmlType::BF16, GgmlType::Q8_0, GgmlType::Q4_0, GgmlType::Q4_K, GgmlType::Q6_K] {
        // Blocks of many codes, whose numbers in half precision are small.
        let bytes = values(kind.bytes(n * k)).into_iter().map(|x| (x.to_bits() >> 7) as u8 & 0x93).collect();
        let matrix = Stored::new(k, vec![StoredRows { kind, bytes }]);
        for precision in [Precision::F32, Precision::Bf16] {
            let [packed, in_place] = [Use::Forward, Use::InPlace]
                .map(|for_use| Weight::prepare(level, precision, Elements::Stored(&matrix), n, k, for_use));
            let mut group = criterion.benchmark_group(format!("stored/{precision:?}/{kind:?}"));
            group.sample_size(10).warm_up_time(Duration::from_millis(200));
            group.measurement_time(Duration::from_millis(800));
            for m in [1, 8, 64, 1024] {
                let (x, mut y, mut dx) = (values(m * k), vec![0.0; m * n], vec![0.0; m * k]);
                group.throughput(Throughput::Elements(2 * (m * n * k) as u64));
                for (name, weight) in [("packed", &packed), ("in_place", &in_place)] {
                    group.bench_function(format!("{name}/m{m}"), |bench| {
                        let (x, w) = (Numbers::F32(&x), Elements::Stored(&matrix));
                        bench.iter(|| linear_forward(black_box(&mut y), black_box(x), w, weight, Plus::Nothing));
                    });
                }
                group.bench_function(format!("input/m{m}"), |bench| {
                    let (dy, w) = (Numbers::F32(&y), Elements::Stored(&matrix));
                    bench.iter(|| linear_backward_input(black_box(&mut dx), black_box(dy), w, &in_place, false));
                });
            }
            group.finish();
        }
    }
}

criterion_group!(benches, products, stored_products);
criterion_main!(benches);
