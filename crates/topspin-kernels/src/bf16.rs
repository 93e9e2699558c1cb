//! Numbers rounded to bf16, two of them to a 32-bit word as the dot product of AVX-512 wants them.

/// The half of a pair that holds the odd number, which widened is its own `f32`.
pub(crate) const ODD: u32 = 0xffff_0000;

/// The bf16 nearest to `x`, ties to even, as the high half of a word. A NaN stays one and becomes quiet.
#[inline(always)]
pub(crate) fn round(x: f32) -> u32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1));
    let kept = if x.is_nan() { bits | 0x0040_0000 } else { rounded };
    kept & ODD
}

/// Two bf16 in one word, the even one in the low half.
#[inline(always)]
pub(crate) fn pair(even: f32, odd: f32) -> u32 {
    (round(even) >> 16) | round(odd)
}

/// The even and the odd half of a pair.
#[inline(always)]
pub(crate) fn widen(pair: u32) -> [f32; 2] {
    [f32::from_bits(pair << 16), f32::from_bits(pair & ODD)]
}

#[cfg(test)]
mod tests {
    use half::bf16;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn rounding_is_that_of_half(bits: u32) {
            let x = f32::from_bits(bits);
            prop_assert_eq!((round(x) >> 16) as u16, bf16::from_f32(x).to_bits());
        }
    }
}
