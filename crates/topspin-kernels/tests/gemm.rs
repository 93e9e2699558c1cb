//! The products of a linear layer against sums in double precision, and the promise that an element of a result
//! depends on its own row, its own column and nothing else.

use half::bf16;
use proptest::prelude::*;
use topspin_kernels::device::Use;
use topspin_kernels::gemm::{
    Elements, Numbers, Plus, Precision, Weight, linear_backward_input, linear_backward_weight, linear_forward,
};
use topspin_kernels::simd::Level;

const PRECISIONS: [Precision; 2] = [Precision::F32, Precision::Bf16];

/// Numbers in (-1, 1) that differ from call to call by `seed`.
fn random(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// What the product sees of a number.
fn seen(precision: Precision, x: f32) -> f64 {
    match precision {
        Precision::F32 => x.into(),
        Precision::Bf16 => bf16::from_f32(x).into(),
    }
}

/// Compares `got` with `before + sum over d of a(i, d) * b(j, d)` for all `i`, `j`.
fn check(
    what: &str,
    got: &[f32],
    before: Option<&[f32]>,
    [rows, columns, depth]: [usize; 3],
    a: impl Fn(usize, usize) -> f64,
    b: impl Fn(usize, usize) -> f64,
) {
    for i in 0..rows {
        for j in 0..columns {
            let start = before.map_or(0.0, |before| f64::from(before[i * columns + j]));
            let terms = (0..depth).map(|d| a(i, d) * b(j, d));
            let (sum, size) = terms.fold((start, start.abs()), |(sum, size), term| (sum + term, size + term.abs()));
            let error = (f64::from(got[i * columns + j]) - sum).abs();
            // Rounding errors add up like a random walk along a sum.
            let allowed = f64::from(f32::EPSILON) * size.max(1e-3) * (2.0 + (depth as f64).sqrt() / 4.0);
            assert!(error <= allowed, "{what}: [{i}, {j}] of [{rows}, {columns}], depth {depth}: off by {error}");
        }
    }
}

fn check_all(m: usize, n: usize, k: usize, seed: u64, accumulate: bool) {
    let (x, w, dy) = (random(m * k, seed), random(n * k, seed + 1), random(m * n, seed + 2));
    let (y0, dx0, dw0) = (random(m * n, seed + 3), random(m * k, seed + 4), random(n * k, seed + 5));
    for level in Level::available() {
        for precision in PRECISIONS {
            let what = |name: &str| format!("{name}, {precision:?}, {level}, accumulate {accumulate}");
            let see = |x: &[f32]| -> Vec<f64> { x.iter().map(|&x| seen(precision, x)).collect() };
            let (xs, ws, dys) = (see(&x), see(&w), see(&dy));
            for for_use in [Use::Forward, Use::ForwardAndBackward] {
                let weight = Weight::prepare(level, precision, Elements::Single(&w), n, k, for_use);
                let mut y = vec![f32::NAN; m * n];
                let residual = accumulate.then_some(&y0[..]);
                // Added to another matrix than the result, which is of any content.
                let plus = residual.map_or(Plus::Nothing, Plus::Matrix);
                linear_forward(&mut y, Numbers::F32(&x), Elements::Single(&w), &weight, plus);
                check(&what("forward"), &y, residual, [m, n, k], |i, d| xs[i * k + d], |j, d| ws[j * k + d]);
                if accumulate {
                    let mut sum = y0.clone();
                    linear_forward(&mut sum, Numbers::F32(&x), Elements::Single(&w), &weight, Plus::Result);
                    assert_eq!(bits(&sum), bits(&y), "{}", what("added to the result"));
                }

                let mut dx = if accumulate { dx0.clone() } else { vec![f32::NAN; m * k] };
                linear_backward_input(&mut dx, Numbers::F32(&dy), Elements::Single(&w), &weight, accumulate);
                let before = accumulate.then_some(&dx0[..]);
                check(&what("input"), &dx, before, [m, k, n], |i, d| dys[i * n + d], |j, d| ws[d * k + j]);

                let mut dw = dw0.clone();
                linear_backward_weight(&mut dw, Numbers::F32(&dy), Numbers::F32(&x), &weight, accumulate);
                let before = accumulate.then_some(&dw0[..]);
                check(&what("weight"), &dw, before, [n, k, m], |i, d| dys[d * n + i], |j, d| xs[d * k + j]);
            }
        }
    }
}

/// Checks that rows computed alone, in other company, in another order, with weights laid out for training and by other
/// numbers of threads are the same bits, and that weight gradients are the same bits for every number of threads.
fn check_invariance(m: usize, n: usize, k: usize, seed: u64, levels: &[Level]) {
    let (x, w, dy) = (random(m * k, seed), random(n * k, seed + 1), random(m * n, seed + 2));
    let pools = [1, 2, 5].map(|threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap());
    for &level in levels {
        for precision in PRECISIONS {
            let [weight, in_training] = [Use::Forward, Use::ForwardAndBackward]
                .map(|for_use| Weight::prepare(level, precision, Elements::Single(&w), n, k, for_use));
            let by = |weight: &Weight, x: &[f32], rows: usize| {
                let mut y = vec![f32::NAN; rows * n];
                linear_forward(&mut y, Numbers::F32(x), Elements::Single(&w), weight, Plus::Nothing);
                y
            };
            let forward = |x: &[f32], rows: usize| by(&weight, x, rows);
            let backward = |dy: &[f32], rows: usize| {
                let mut dx = vec![f32::NAN; rows * k];
                linear_backward_input(&mut dx, Numbers::F32(dy), Elements::Single(&w), &in_training, false);
                dx
            };
            let gradient = || {
                let mut dw = random(n * k, seed + 3);
                linear_backward_weight(&mut dw, Numbers::F32(&dy), Numbers::F32(&x), &in_training, true);
                dw
            };
            let (y, dx, dw) = pools[0].install(|| (forward(&x, m), backward(&dy, m), gradient()));
            for pool in &pools {
                let (again_y, again_dx, again_dw) = pool.install(|| (forward(&x, m), backward(&dy, m), gradient()));
                let what = format!("{precision:?}, {level}, {} threads", pool.current_num_threads());
                assert!(bits(&y) == bits(&again_y), "forward, {what}");
                let trained = pool.install(|| by(&in_training, &x, m));
                assert!(bits(&y) == bits(&trained), "forward in training, {what}");
                assert!(bits(&dx) == bits(&again_dx), "input, {what}");
                assert!(bits(&dw) == bits(&again_dw), "weight, {what}");
                // Subsets that start anywhere, in reverse order.
                for count in [1, 2, 3, 5, 7, 13].into_iter().filter(|&count| count <= m) {
                    let first = seed as usize % (m - count + 1);
                    let rows = || (first..first + count).rev();
                    let pick = |of: &[f32], width: usize| -> Vec<f32> {
                        rows().flat_map(|row| of[row * width..][..width].to_vec()).collect()
                    };
                    let few = pool.install(|| forward(&pick(&x, k), count));
                    assert!(bits(&few) == bits(&pick(&y, n)), "forward, {what}, {count} rows from {first}");
                    let few = pool.install(|| backward(&pick(&dy, n), count));
                    assert!(bits(&few) == bits(&pick(&dx, k)), "input, {what}, {count} rows from {first}");
                }
            }
        }
    }
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// Checks that rows which are rounded already give the bits that the same rows give when a product rounds them.
fn check_rounded(m: usize, n: usize, k: usize, seed: u64) {
    let (x, w, dy) = (random(m * k, seed), random(n * k, seed + 1), random(m * n, seed + 2));
    let round = |x: &[f32]| -> Vec<u16> { x.iter().map(|&x| bf16::from_f32(x).to_bits()).collect() };
    let (rounded_x, rounded_dy) = (round(&x), round(&dy));
    for level in Level::available() {
        let weight = Weight::prepare(level, Precision::Bf16, Elements::Single(&w), n, k, Use::ForwardAndBackward);
        let all = |x: Numbers, dy: Numbers| {
            let (mut y, mut dx, mut dw) = (vec![0.0; m * n], vec![0.0; m * k], vec![0.0; n * k]);
            linear_forward(&mut y, x, Elements::Single(&w), &weight, Plus::Nothing);
            linear_backward_input(&mut dx, dy, Elements::Single(&w), &weight, false);
            linear_backward_weight(&mut dw, dy, x, &weight, false);
            [y, dx, dw].map(|result| bits(&result))
        };
        let expected = all(Numbers::F32(&x), Numbers::F32(&dy));
        assert!(all(Numbers::Bf16(&rounded_x), Numbers::Bf16(&rounded_dy)) == expected, "{level}, {m} x {n} x {k}");
        // One of the two operands of a weight's gradient may be rounded and the other not.
        assert!(all(Numbers::Bf16(&rounded_x), Numbers::F32(&dy)) == expected, "{level}, {m} x {n} x {k}, x alone");
    }
}

/// Sizes that hit every edge: 1, odd, below and above a tile, a panel and a group of panels.
fn size(largest: usize) -> impl Strategy<Value = usize> {
    prop_oneof![1 => Just(1), 4 => 1..20_usize, 4 => 1..largest]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn products_match_double_precision(m in size(60), n in size(150), k in size(150), seed: u64, accumulate: bool) {
        check_all(m, n, k, seed, accumulate);
    }

    #[test]
    fn rounded_rows_give_the_same_bits(m in size(60), n in size(150), k in size(150), seed: u64) {
        check_rounded(m, n, k, seed);
    }

    #[test]
    fn an_element_depends_on_its_row_and_column_alone(m in size(130), n in size(200), k in size(200), seed: u64) {
        check_invariance(m, n, k, seed, &Level::available().collect::<Vec<_>>());
    }
}

/// Products of two bf16 are exact in `f32`, so no level's multiply-add can differ from another's.
#[test]
fn bf16_is_the_same_bits_at_every_level() {
    for (case, (m, n, k)) in [(1, 40, 33), (13, 70, 1301), (29, 33, 64)].into_iter().enumerate() {
        let seed = 31 + case as u64;
        let (x, w, dy) = (random(m * k, seed), random(n * k, seed + 1), random(m * n, seed + 2));
        let all = |level: Level| {
            let weight = Weight::prepare(level, Precision::Bf16, Elements::Single(&w), n, k, Use::ForwardAndBackward);
            let (mut y, mut dx, mut dw) = (vec![0.0; m * n], vec![0.0; m * k], vec![0.0; n * k]);
            linear_forward(&mut y, Numbers::F32(&x), Elements::Single(&w), &weight, Plus::Nothing);
            linear_backward_input(&mut dx, Numbers::F32(&dy), Elements::Single(&w), &weight, false);
            linear_backward_weight(&mut dw, Numbers::F32(&dy), Numbers::F32(&x), &weight, true);
            [y, dx, dw].map(|result| bits(&result))
        };
        for level in Level::available() {
            assert!(all(level) == all(Level::Scalar), "{level}, {m} x {n} x {k}");
        }
    }
}

#[test]
fn products_match_double_precision_over_several_blocks_of_the_reduction() {
    check_all(5, 33, 1300, 11, false);
    check_all(5, 2701, 20, 12, true);
    check_all(1501, 10, 19, 13, true);
}

#[test]
fn products_match_double_precision_over_several_parts_of_panels_packed_on_the_way() {
    check_all(3, 2001, 1200, 14, false);
    check_all(3, 1200, 2001, 15, true);
}

/// The layers of a model of 100 thousand parameters and of one of 135 million.
#[test]
fn elements_of_real_layers_depend_on_their_row_and_column_alone() {
    let levels: Vec<_> = Level::available().collect();
    for (n, k) in [(64, 64), (96, 64), (200, 64), (64, 172), (260, 64)] {
        check_invariance(67, n, k, 21, &levels);
    }
    for (n, k) in [(576, 576), (960, 576), (3072, 576), (576, 1536)] {
        check_invariance(101, n, k, 22, &[Level::detect()]);
    }
    check_invariance(9, 49152, 576, 23, &[Level::detect()]);
}

#[test]
#[should_panic(expected = "numbers rounded to bf16 in a product of F32")]
fn a_product_in_single_precision_refuses_rounded_rows() {
    let w = random(6, 1);
    let weight = Weight::prepare(Level::detect(), Precision::F32, Elements::Single(&w), 2, 3, Use::Forward);
    linear_forward(&mut [0.0; 2], Numbers::Bf16(&[0; 3]), Elements::Single(&w), &weight, Plus::Nothing);
}

#[test]
fn update_forgets_the_old_weights() {
    let (n, k) = (37, 21);
    let (old, new, x) = (random(n * k, 1), random(n * k, 2), random(3 * k, 3));
    for precision in PRECISIONS {
        let level = Level::detect();
        let mut updated = Weight::prepare(level, precision, Elements::Single(&old), n, k, Use::Forward);
        updated.update(Elements::Single(&new));
        let fresh = Weight::prepare(level, precision, Elements::Single(&new), n, k, Use::Forward);
        let forward = |weight: &Weight| {
            let mut y = vec![0.0; 3 * n];
            linear_forward(&mut y, Numbers::F32(&x), Elements::Single(&new), weight, Plus::Nothing);
            bits(&y)
        };
        assert_eq!(forward(&updated), forward(&fresh));
    }
}
