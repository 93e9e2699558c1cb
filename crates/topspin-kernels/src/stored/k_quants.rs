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

use super::blocks::{half, part};

/// Elements of a block.
pub(super) const SUPER_BLOCK: usize = 256;

/// Elements of half a row, the least that has one scale.
const HALF: usize = 16;

#[inline(always)]
pub(super) fn q2_k(block: &[u8; 84], out: &mut [f32; SUPER_BLOCK]) {
    let (scales, codes) = (part::<16>(block, 0), part(block, 16));
    let (d, m) = (half(*part(block, 80)), half(*part(block, 82)));
    fill(out, |k| {
        let (scale, minimum) = (d * f32::from(scales[k] & 15), m * f32::from(scales[k] >> 4));
        let code = two_bits(codes, k);
        move |l| scale * code(l) as f32 - minimum
    });
}

#[inline(always)]
pub(super) fn q3_k(block: &[u8; 110], out: &mut [f32; SUPER_BLOCK]) {
    let (high, codes, packed) = (part(block, 0), part(block, 32), part::<12>(block, 96));
    let d = half(*part(block, 108));
    fill(out, |k| {
        let scale = packed[k % 8] >> (4 * (k / 8)) & 15 | (packed[8 + k % 4] >> (2 * (k / 4)) & 3) << 4;
        let scale = d * (f32::from(scale) - 32.0);
        let (low, high) = (two_bits(codes, k), bit(high, k));
        move |l| scale * ((low(l) | high(l) << 2) - 4) as f32
    });
}

#[inline(always)]
pub(super) fn q4_k(block: &[u8; 144], out: &mut [f32; SUPER_BLOCK]) {
    let (scales, codes) = (scales_and_minima(part(block, 0)), part(block, 16));
    fill(out, |k| {
        let ((scale, minimum), code) = (scales[k / 2], nibble(codes, k));
        move |l| scale * code(l) as f32 - minimum
    });
}

#[inline(always)]
pub(super) fn q5_k(block: &[u8; 176], out: &mut [f32; SUPER_BLOCK]) {
    let (scales, high, low) = (scales_and_minima(part(block, 0)), part(block, 16), part(block, 48));
    fill(out, |k| {
        let ((scale, minimum), low, high) = (scales[k / 2], nibble(low, k), bit(high, k));
        move |l| scale * (low(l) | high(l) << 4) as f32 - minimum
    });
}

#[inline(always)]
pub(super) fn q6_k(block: &[u8; 210], out: &mut [f32; SUPER_BLOCK]) {
    let (low, high, scales) = (part::<128>(block, 0), part(block, 128), part::<16>(block, 192));
    let d = half(*part(block, 208));
    fill(out, |k| {
        let r = k / 2;
        let scale = d * f32::from(scales[k].cast_signed());
        let (low, high) = (codes(low, 64 * (r / 4) + 32 * (r % 2), 4 * (r / 2 % 2), 15, k), two_bits(high, k));
        move |l| scale * ((low(l) | high(l) << 4) - 32) as f32
    });
}

/// Fills a block by half rows: `half` makes of the number of one what gives the element in each of its places.
#[inline(always)]
fn fill<E: Fn(usize) -> f32>(out: &mut [f32; SUPER_BLOCK], half: impl Fn(usize) -> E) {
    for (k, places) in out.as_chunks_mut::<HALF>().0.iter_mut().enumerate() {
        let element = half(k);
        for l in 0..HALF {
            places[l] = element(l);
        }
    }
}

/// `d` and `m` times the scale and the minimum of each row, of the 16 bytes that begin a block of Q4_K or Q5_K.
#[inline(always)]
fn scales_and_minima(block: &[u8; 16]) -> [(f32, f32); 8] {
    let (d, m, packed) = (half(*part(block, 0)), half(*part(block, 2)), part::<12>(block, 4));
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

/// Two bits of each place of half row k.
#[inline(always)]
fn two_bits(bytes: &[u8; 64], k: usize) -> impl Fn(usize) -> i32 {
    let r = k / 2;
    codes(bytes, 32 * (r / 4), 2 * (r % 4), 3, k)
}

/// The nibble of each place of half row k, in all types but Q6_K.
#[inline(always)]
fn nibble(bytes: &[u8; 128], k: usize) -> impl Fn(usize) -> i32 {
    let r = k / 2;
    codes(bytes, 32 * (r / 2), 4 * (r % 2), 15, k)
}

/// A bit of each place of half row k.
#[inline(always)]
fn bit(bytes: &[u8; 32], k: usize) -> impl Fn(usize) -> i32 {
    codes(bytes, 0, k / 2, 1, k)
}

/// The bits of `mask`, `shift` bits up, of each place of half row k in a row of bytes from `row` on.
#[inline(always)]
fn codes(bytes: &[u8], row: usize, shift: usize, mask: i32, k: usize) -> impl Fn(usize) -> i32 {
    let bytes = part::<HALF>(bytes, row + HALF * (k % 2));
    move |l| i32::from(bytes[l]) >> shift & mask
}
