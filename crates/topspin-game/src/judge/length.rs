//! Minus the tokens by which the length differs from a target: `-|tokens - target|`, so with target 0 minus the length.

use super::Answer;

pub(super) fn score(answer: &Answer, target: usize) -> f64 {
    -(answer.tokens.abs_diff(target) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_of_the_target_cost_the_same() {
        let of = |tokens, target| score(&Answer { response: "", references: &[], tokens }, target);
        assert_eq!([3, 5, 7, 12].map(|tokens| of(tokens, 5)), [-2.0, 0.0, -2.0, -7.0]);
        assert_eq!([1, 40].map(|tokens| of(tokens, 0)), [-1.0, -40.0]);
    }
}
