//! Attention's result for a path is the same to the bit however the path is stored, cut and accompanied.

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use topspin_kernels::cpu::Cpu;
use topspin_kernels::device::{Attention, Device, HeadShape, Segment, Span};
use topspin_kernels::gemm::Precision;

use crate::attention::{attentions, heads};
use crate::{Memory, all, all_mut, devices, filled, values};

/// Attention of one path as one segment of a fresh store.
fn alone(cpu: &Cpu, precision: Precision, qkv: &Memory, heads: HeadShape, attention: Attention) -> (Memory, Memory) {
    let rows = qkv.len() / heads.qkv_width();
    let spans = [Span { rows: 0..rows, path: vec![Segment { start: 0, len: rows }] }];
    run(cpu, precision, qkv, heads, attention, &(0..rows as u32).collect::<Vec<_>>(), rows, &spans)
}

fn run(
    cpu: &Cpu,
    precision: Precision,
    qkv: &Memory,
    heads: HeadShape,
    attention: Attention,
    slots: &[u32],
    size: usize,
    spans: &[Span],
) -> (Memory, Memory) {
    let rows = qkv.len() / heads.qkv_width();
    let mut kv = cpu.kv(precision, 1, size, heads);
    cpu.kv_append(&mut kv, 0, all(qkv), slots);
    let (mut out, mut lse) = (Memory::zeroed(rows * heads.q_width()), Memory::zeroed(rows * heads.num_heads));
    cpu.attention_forward(all_mut(&mut out), all_mut(&mut lse), all(qkv), &kv, 0, spans, attention);
    (out, lse)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_path_does_not_see_how_it_is_cut(
        (heads, qkv) in (heads(), 1usize..70).prop_flat_map(|(heads, rows)| (Just(heads), values(rows * heads.qkv_width()))),
        attention in attentions(),
        cuts in proptest::collection::vec(0.0f64..1.0, 0..4),
        gaps in proptest::collection::vec(0usize..40, 5),
        threads in 1usize..4,
    ) {
        let rows = qkv.len() / heads.qkv_width();
        let mut ends: Vec<usize> = cuts.iter().map(|cut| (cut * rows as f64) as usize).filter(|&end| end > 0).collect();
        ends.push(rows);
        ends.sort_unstable();
        ends.dedup();
        // Segments scattered over a larger store; each span sees those up to its own.
        let (mut slots, mut path, mut spans, mut slot, mut row) = (Vec::new(), Vec::new(), Vec::new(), 0, 0);
        for (end, gap) in ends.into_iter().zip(gaps) {
            slot += gap;
            let segment = Segment { start: slot, len: end - row };
            slots.extend((slot..slot + segment.len).map(|slot| slot as u32));
            path.push(segment);
            spans.push(Span { rows: row..end, path: path.clone() });
            (slot, row) = (slot + segment.len, end);
        }
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        for cpu in devices() {
            for precision in [Precision::F32, Precision::Bf16] {
                let scattered = pool.install(|| run(&cpu, precision, &qkv, heads, attention, &slots, slot, &spans));
                prop_assert_eq!(scattered, alone(&cpu, precision, &qkv, heads, attention));
            }
        }
    }
}

/// Gradients of a batch, from a forward of its own.
fn backward(
    cpu: &Cpu,
    precision: Precision,
    qkv: &Memory,
    dout: &Memory,
    heads: HeadShape,
    attention: Attention,
    spans: &[Span],
) -> Memory {
    let rows = qkv.len() / heads.qkv_width();
    let (out, lse) = run(cpu, precision, qkv, heads, attention, &(0..rows as u32).collect::<Vec<_>>(), rows, spans);
    let mut dqkv = filled(qkv.len(), f32::NAN);
    let (dqkv_mut, dout, out, qkv, lse) = (all_mut(&mut dqkv), all(dout), all(&out), all(qkv), all(&lse));
    cpu.attention_backward(precision, dqkv_mut, dout, out, qkv, lse, spans, heads, attention);
    dqkv
}

/// A root of as many rows and two branches behind it, from a row on.
fn tree(first: usize, [root, left, right]: [usize; 3]) -> Vec<Span> {
    let root = Segment { start: first, len: root };
    let left = Segment { start: first + root.len, len: left };
    let right = Segment { start: left.start + left.len, len: right };
    let rows = |segment: Segment| segment.start..segment.start + segment.len;
    let behind = |segment| Span { rows: rows(segment), path: vec![root, segment] };
    vec![Span { rows: rows(root), path: vec![root] }, behind(left), behind(right)]
}

/// So many trees that what lies between the passes of the backward does not fit at once, and some are cut there.
#[test]
fn a_trees_gradients_do_not_depend_on_its_neighbours() {
    let heads = HeadShape { num_heads: 6, num_kv_heads: 2, head_dim: 10 };
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut some = |len: usize| values(len).new_tree(&mut runner).unwrap().current();
    let sizes: Vec<_> = (0..24).map(|at| [90 + at, 80 + 3 * at, 120 - 2 * at]).collect();
    let (mut spans, mut trees, mut rows) = (Vec::new(), Vec::new(), 0);
    for sizes in sizes {
        spans.extend(tree(rows, sizes));
        let len = sizes.iter().sum::<usize>();
        trees.push((rows..rows + len, tree(0, sizes)));
        rows += len;
    }
    let (qkv, dout) = (some(rows * heads.qkv_width()), some(rows * heads.q_width()));
    let cpu = Cpu::new();
    let scale = 0.3;
    let plain = Attention { scale, softcap: None, window: None };
    let windowed = Attention { scale, softcap: Some(5.0), window: Some(100) };
    let cases = [(Precision::F32, plain), (Precision::Bf16, plain), (Precision::Bf16, windowed)];
    for (precision, attention) in cases {
        let together = backward(&cpu, precision, &qkv, &dout, heads, attention, &spans);
        for (rows, spans) in &trees {
            let of = |x: &[f32], width: usize| Memory::from(&x[rows.start * width..rows.end * width]);
            let (qkv, dout) = (of(&qkv, heads.qkv_width()), of(&dout, heads.q_width()));
            let alone = backward(&cpu, precision, &qkv, &dout, heads, attention, spans);
            assert!(alone == of(&together, heads.qkv_width()), "{precision:?}, rows {rows:?}");
        }
    }
}
