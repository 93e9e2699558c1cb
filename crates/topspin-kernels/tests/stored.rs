//! Products with matrices as files store them, against the same products with the matrices decoded beforehand.

use proptest::collection::vec;
use proptest::prelude::*;
use topspin_kernels::cpu::Cpu;
use topspin_kernels::device::{Buffer, Device, Matrix, Use};
use topspin_kernels::gemm::{Elements, Numbers, Plus, Precision, Weight, linear_backward_input, linear_forward};
use topspin_kernels::memory::Memory;
use topspin_kernels::simd::Level;
use topspin_kernels::stored::{GgmlType, Stored, StoredRows};

/// SplitMix64.
fn random_bits(seed: u64) -> impl Iterator<Item = u64> {
    (1..).map(move |n: u64| {
        let mut z = seed.wrapping_add(n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
}

/// Numbers in (-1, 1).
fn random(len: usize, seed: u64) -> Vec<f32> {
    random_bits(seed).take(len).map(|bits| (bits >> 40) as f32 / (1 << 23) as f32 - 1.0).collect()
}

/// Blocks of any codes, whose numbers in floating point are neither huge nor none.
fn random_rows(kind: GgmlType, rows: usize, columns: usize, seed: u64) -> StoredRows {
    let mut bytes: Vec<u8> = random_bits(seed).take(kind.bytes(rows * columns)).map(|bits| bits as u8).collect();
    let halves: &[usize] = match kind {
        GgmlType::F32 | GgmlType::BF16 => &[],
        GgmlType::F16 | GgmlType::Q8_0 | GgmlType::Q4_0 | GgmlType::Q5_0 => &[0],
        GgmlType::Q4_1 | GgmlType::Q5_1 | GgmlType::Q4_K | GgmlType::Q5_K => &[0, 2],
        GgmlType::Q2_K => &[80, 82],
        GgmlType::Q3_K => &[108],
        GgmlType::Q6_K => &[208],
    };
    for block in bytes.chunks_exact_mut(kind.block().1) {
        // An exponent near 1 in each of the formats.
        halves.iter().for_each(|at| block[at + 1] = block[at + 1] & 0x83 | 0x30);
        match kind {
            GgmlType::F32 => block[3] = block[3] & 0x80 | 0x3f,
            GgmlType::BF16 => block[1] = block[1] & 0x80 | 0x3f,
            _ => {}
        }
    }
    StoredRows { kind, bytes }
}

fn decoded(matrix: &Stored) -> Vec<f32> {
    let mut out = vec![f32::NAN; matrix.rows() * matrix.columns()];
    matrix.decode(Level::Scalar, 0..matrix.rows(), 0..matrix.columns(), &mut out);
    assert!(out.iter().all(|x| x.is_finite()) && out.iter().any(|&x| x != out[0]));
    out
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

fn check(matrix: &Stored, m: usize, seed: u64, levels: impl Iterator<Item = Level>) {
    let (n, k) = (matrix.rows(), matrix.columns());
    let w = decoded(matrix);
    let (x, dy, residual) = (random(m * k, seed), random(m * n, seed + 1), random(m * n, seed + 2));
    for level in levels {
        for precision in [Precision::F32, Precision::Bf16] {
            let both = |w: Elements, for_use: Use| {
                let weight = Weight::prepare(level, precision, w, n, k, for_use);
                let (mut y, mut dx) = (vec![f32::NAN; m * n], vec![f32::NAN; m * k]);
                linear_forward(&mut y, Numbers::F32(&x), w, &weight, Plus::Matrix(&residual));
                linear_backward_input(&mut dx, Numbers::F32(&dy), w, &weight, false);
                [bits(&y), bits(&dx)]
            };
            let expected = both(Elements::Single(&w), Use::ForwardAndBackward);
            for for_use in [Use::InPlace, Use::Forward, Use::ForwardAndBackward] {
                let found = both(Elements::Stored(matrix), for_use);
                assert!(found[0] == expected[0], "forward, {level}, {precision:?}, {for_use:?}, [{n}, {k}], {m} rows");
                assert!(found[1] == expected[1], "input, {level}, {precision:?}, {for_use:?}, [{n}, {k}], {m} rows");
            }
            assert!(both(Elements::Single(&w), Use::InPlace) == expected, "{level}, {precision:?}, not packed");
        }
    }
}

/// Parts of a matrix: encodings and numbers of rows.
fn parts() -> impl Strategy<Value = Vec<(GgmlType, usize)>> {
    vec((prop::sample::select(&GgmlType::ALL[..]), prop_oneof![1..20_usize, 1..150_usize]), 1..4)
}

fn matrix(parts: &[(GgmlType, usize)], columns: usize, seed: u64) -> Stored {
    let rows = |(at, &(kind, rows)): (usize, &(GgmlType, usize))| random_rows(kind, rows, columns, seed + at as u64);
    Stored::new(columns, parts.iter().enumerate().map(rows).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn products_have_the_bits_of_the_decoded_matrix(parts in parts(), units in 1..12_usize, m in 1..40_usize, seed: u64) {
        let block = parts.iter().map(|(kind, _)| kind.block().0).max().unwrap();
        // In numbers that are no blocks, of any length.
        let columns = units * block + if block == 1 { seed as usize % 300 } else { 0 };
        check(&matrix(&parts, columns, seed), m, seed, Level::available());
    }

    #[test]
    fn rows_are_those_of_the_decoded_table(parts in parts(), units in 1..5_usize, seed: u64) {
        let columns = units * 256;
        let table = matrix(&parts, columns, seed);
        let single = Memory::from(decoded(&table));
        let ids: Vec<u32> = random_bits(seed).take(50).map(|bits| (bits % table.rows() as u64) as u32).collect();
        for level in Level::available() {
            let cpu = Cpu::with_level(level);
            let gathered = |table: Matrix<Cpu>| {
                let mut out = Memory::zeroed(ids.len() * columns);
                cpu.embedding_forward(out.head_mut(ids.len() * columns), table, &ids, 1.7);
                bits(&out)
            };
            prop_assert!(gathered(Matrix::Stored(&table)) == gathered(Matrix::Single(single.head(single.len()))), "{level}");
        }
    }
}

/// Several blocks of the reduction, several parts of panels, and boundaries of the one within blocks of the other.
#[test]
fn products_of_large_matrices_have_the_bits_of_the_decoded_matrix() {
    for (kinds, columns) in [
        ([GgmlType::Q4_K, GgmlType::Q6_K, GgmlType::Q4_0], 3584),
        ([GgmlType::Q8_0, GgmlType::Q5_1, GgmlType::BF16], 2080),
        ([GgmlType::F16, GgmlType::F32, GgmlType::BF16], 2777),
    ] {
        let parts = [(kinds[0], 1500), (kinds[1], 33), (kinds[2], 700)];
        check(&matrix(&parts, columns, 7), 5, 8, [Level::detect()].into_iter());
    }
}
