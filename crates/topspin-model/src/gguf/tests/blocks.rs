//! Blocks made by hand.

use proptest::prelude::*;

use topspin_kernels::simd::Level;

use super::super::GgmlType;
use super::super::testing::encode;

fn decode(kind: GgmlType, bytes: &[u8]) -> Vec<f32> {
    let (elements, size) = kind.block();
    let mut out = vec![f32::NAN; bytes.len() / size * elements];
    kind.decode(Level::detect(), bytes, &mut out);
    out
}

#[test]
fn decodes_blocks_made_by_hand() {
    // 0.5 is 0x3800 in f16, -2.0 is 0xc000.
    let mut q8 = vec![0x00, 0x38];
    q8.extend((0..32).map(|i| if i == 31 { 0x80 } else { i as u8 }));
    let expected: Vec<f32> = (0..32).map(|i| if i == 31 { -64.0 } else { i as f32 / 2.0 }).collect();
    assert_eq!(decode(GgmlType::Q8_0, &q8), expected);

    let mut q4 = vec![0x00, 0x38];
    q4.extend((0..16).map(|j| j | (15 - j) << 4));
    let low = (0..16).map(|j| (j as f32 - 8.0) / 2.0);
    let high = (0..16).map(|j| (7.0 - j as f32) / 2.0);
    assert_eq!(decode(GgmlType::Q4_0, &q4), low.chain(high).collect::<Vec<_>>());

    q4.splice(2..2, [0x00, 0xc0]);
    let low = (0..16).map(|j| j as f32 / 2.0 - 2.0);
    let high = (0..16).map(|j| (15.0 - j as f32) / 2.0 - 2.0);
    assert_eq!(decode(GgmlType::Q4_1, &q4), low.chain(high).collect::<Vec<_>>());

    assert_eq!(decode(GgmlType::F16, &[0x00, 0x38, 0x00, 0xc0]), [0.5, -2.0]);
    assert_eq!(decode(GgmlType::BF16, &[0x80, 0x3f, 0x40, 0xc0]), [1.0, -3.0]);
    assert_eq!(decode(GgmlType::F32, &(-1.5_f32).to_le_bytes()), [-1.5]);
}

proptest! {
    /// An error of at most half a quantisation step, and what rounding the scale to f16 adds.
    #[test]
    fn decoding_undoes_encoding(values in prop::collection::vec(-3.0_f32..3.0, 32 * 5)) {
        for kind in [GgmlType::F32, GgmlType::F16, GgmlType::BF16, GgmlType::Q8_0, GgmlType::Q4_0, GgmlType::Q4_1] {
            let decoded = decode(kind, &encode(kind, &values));
            for (block, decoded) in values.chunks(32).zip(decoded.chunks(32)) {
                let largest = block.iter().fold(0.0_f32, |m, x| m.max(x.abs()));
                let min = block.iter().copied().fold(f32::INFINITY, f32::min);
                let max = block.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                for (x, y) in block.iter().zip(decoded) {
                    let allowed = match kind {
                        GgmlType::F32 => 0.0,
                        GgmlType::F16 => x.abs() * 2.0_f32.powi(-11) + 1e-7,
                        GgmlType::BF16 => x.abs() * 2.0_f32.powi(-8),
                        GgmlType::Q8_0 => largest / 127.0 * 0.5 + largest * 1e-3,
                        // The element of the largest magnitude sets the scale; the other end may be cut by a step.
                        GgmlType::Q4_0 => largest / 8.0 + largest * 1e-3,
                        GgmlType::Q4_1 => (max - min) / 15.0 * 0.5 + largest * 2e-3,
                        _ => unreachable!("not in the list above"),
                    };
                    prop_assert!((x - y).abs() <= allowed, "{kind:?}: {x} became {y}");
                }
            }
        }
    }
}
