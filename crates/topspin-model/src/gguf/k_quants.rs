//! Blocks of 256 elements whose scales are themselves quantised: the types that end in `_K`.
//!
//! A block is eight rows of 32 elements, `r` = 0..8, with place `l` = 0..32 in a row. As laid out in ggml's
//! `ggml-common.h`, f16 `d` and `m` little-endian:
//!
//! | type | bytes of a block | element |
//! |---|---|---|
//! | Q2_K | 16 `s`, 64 `q`, `d`, `m` | `(d a) q - m b`; nibbles of `s` number 2r + l / 16: `a` low, `b` high |
//! | Q3_K | 32 `h`, 64 `q`, 12 of scales, `d` | `(d (a - 32)) (q - 4 + 4 h)`; scale `a` number 2r + l / 16 |
//! | Q4_K | `d`, `m`, 12 of scales, 128 `q` | `(d a) q - m b`; scale `a` and minimum `b` number r |
//! | Q5_K | `d`, `m`, 12 of scales, 32 `h`, 128 `n` | `(d a) q - m b`, `q = n + 16 h`; scales as in Q4_K |
//! | Q6_K | 128 `n`, 64 `h`, 16 signed `s`, `d` | `(d s) (q - 32)`, `q = n + 16 h`; `s` number 2r + l / 16 |
//!
//! Where the codes of row r lie:
//!
//! | codes | bytes of the row | bits |
//! |---|---|---|
//! | two bits: `q` of Q2_K and Q3_K, `h` of Q6_K | 32 (r / 4) + l | 2 (r mod 4) |
//! | a nibble: `q` of Q4_K, `n` of Q5_K | 32 (r / 2) + l | 4 (r mod 2) |
//! | a nibble: `n` of Q6_K | 64 (r / 4) + 32 (r mod 2) + l | 4 (r / 2 mod 2) |
//! | one bit: `h` of Q3_K and Q5_K | l | r |
//!
//! Six bits of a scale in twelve bytes `s`: in Q3_K number k has its low four in nibble k / 8 of byte k mod 8 and its
//! high two in bits 2 (k / 4) of byte 8 + k mod 4. In Q4_K and Q5_K scale k and minimum k below 4 are the low six bits of
//! bytes k and 4 + k; from 4 on the low four are the nibbles of byte 4 + k (the scale's the low one), and the high two are
//! the top bits of bytes k - 4 and k.

use super::blocks::half_at;

/// Elements of a block.
pub(super) const SUPER_BLOCK: usize = 256;

const ROW: usize = 32;

/// Decodes one block of 84 bytes.
pub(super) fn q2_k(block: &[u8], out: &mut [f32]) {
    let (scales, codes) = (&block[..16], &block[16..80]);
    let (d, m) = (half_at(block, 80), half_at(block, 82));
    fill(out, |k| {
        let (scale, minimum) = (d * f32::from(scales[k] & 15), m * f32::from(scales[k] >> 4));
        move |r, l| scale * f32::from(two_bits(codes, r, l)) - minimum
    });
}

/// Decodes one block of 110 bytes.
pub(super) fn q3_k(block: &[u8], out: &mut [f32]) {
    let (high, codes, packed) = (&block[..32], &block[32..96], &block[96..108]);
    let d = half_at(block, 108);
    fill(out, |k| {
        let scale = packed[k % 8] >> (4 * (k / 8)) & 15 | (packed[8 + k % 4] >> (2 * (k / 4)) & 3) << 4;
        let scale = d * (f32::from(scale) - 32.0);
        move |r, l| scale * (f32::from(two_bits(codes, r, l) | bit(high, r, l) << 2) - 4.0)
    });
}

/// Decodes one block of 144 bytes.
pub(super) fn q4_k(block: &[u8], out: &mut [f32]) {
    let (scales, codes) = (scales_and_minima(block), &block[16..144]);
    fill(out, |k| {
        let (scale, minimum) = scales[k / 2];
        move |r, l| scale * f32::from(nibble(codes, r, l)) - minimum
    });
}

/// Decodes one block of 176 bytes.
pub(super) fn q5_k(block: &[u8], out: &mut [f32]) {
    let (scales, high, low) = (scales_and_minima(block), &block[16..48], &block[48..176]);
    fill(out, |k| {
        let (scale, minimum) = scales[k / 2];
        move |r, l| scale * f32::from(nibble(low, r, l) | bit(high, r, l) << 4) - minimum
    });
}

/// Decodes one block of 210 bytes.
pub(super) fn q6_k(block: &[u8], out: &mut [f32]) {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let d = half_at(block, 208);
    fill(out, |k| {
        let scale = d * f32::from(scales[k].cast_signed());
        move |r, l| {
            let low = low[64 * (r / 4) + 32 * (r % 2) + l] >> (4 * (r / 2 % 2)) & 15;
            scale * (f32::from(low | two_bits(high, r, l) << 4) - 32.0)
        }
    });
}

/// Fills a block by half rows, the least that has one scale: `half` makes of the number of one what gives the element in a
/// row and place.
fn fill<E: Fn(usize, usize) -> f32>(out: &mut [f32], half: impl Fn(usize) -> E) {
    for (k, places) in out.chunks_exact_mut(ROW / 2).enumerate() {
        let element = half(k);
        let (r, first) = (k / 2, ROW / 2 * (k % 2));
        for (l, x) in places.iter_mut().enumerate() {
            *x = element(r, first + l);
        }
    }
}

/// `d` and `m` times the scale and the minimum of each row, of the 16 bytes that begin a block of Q4_K or Q5_K.
fn scales_and_minima(block: &[u8]) -> [(f32, f32); 8] {
    let (d, m, packed) = (half_at(block, 0), half_at(block, 2), &block[4..16]);
    std::array::from_fn(|k| {
        let (scale, minimum) = match k {
            0..4 => (packed[k] & 63, packed[k + 4] & 63),
            _ => {
                let low = packed[k + 4];
                (low & 15 | packed[k - 4] >> 6 << 4, low >> 4 | packed[k] >> 6 << 4)
            }
        };
        (d * f32::from(scale), m * f32::from(minimum))
    })
}

fn two_bits(bytes: &[u8], r: usize, l: usize) -> u8 {
    bytes[32 * (r / 4) + l] >> (2 * (r % 4)) & 3
}

fn nibble(bytes: &[u8], r: usize, l: usize) -> u8 {
    bytes[32 * (r / 2) + l] >> (4 * (r % 2)) & 15
}

fn bit(bytes: &[u8], r: usize, l: usize) -> u8 {
    bytes[l] >> r & 1
}
