//! Minimisation over logits: Newton's method with halved steps, steepest descent where it has no step, and plain gradient
//! descent.

use super::table::log_softmax;

/// A function of logits with its derivatives. A shift of all logits changes nothing.
pub(super) trait Smooth {
    /// Value and gradient.
    fn gradient(&self, logits: &[f64]) -> (f64, Vec<f64>);
    /// Second derivatives.
    fn hessian(&self, logits: &[f64]) -> Vec<Vec<f64>>;
    /// For each logit, what the terms that its slope is the sum of come to without their signs. Rounding error is in
    /// proportion to it.
    fn terms(&self, logits: &[f64]) -> Vec<f64>;
    /// Whether a response's minimum may lie at minus infinity.
    fn may_vanish(&self, response: usize) -> bool;
}

/// How an iteration found its policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Found {
    /// The minimum, to rounding error.
    Minimum,
    /// What a descent with line search ends at: the loss has kinks or is flat, and no minimum is known.
    Descent,
    /// What a given number of gradient steps come to.
    Steps,
}

/// Steps of Newton's method before it is given up; a smooth minimum takes about ten, one at infinity thirty.
const MOST_STEPS: usize = 200;
/// After a Newton step this short what is left is rounding error;
const SHORT: f64 = 1e-11;
/// or after one that is short enough for the loss to be a parabola, and promises this little.
const PARABOLA: f64 = 1e-6;
const PROMISE: f64 = 1e-24;
/// Slope and curvature of what is flat but for rounding error, over the size of its terms.
const FLAT_SLOPE: f64 = 1e-14;
const FLAT_CURVATURE: f64 = 1e-9;
/// A slope along which a response has vanished.
const VANISHED: f64 = 1e-13;
/// Log-probabilities that are so far from where they began, and still move this much, run away.
const AWAY: f64 = 25.0;
const MOVES: f64 = 1e-2;
/// Farthest that a step moves a logit: farther lie plateaus from which no slope leads back.
const FARTHEST: f64 = 8.0;
/// The share of the slope's promise that a step of steepest descent must keep.
const ARMIJO: f64 = 1e-4;

/// Log-probabilities of least loss; none where they run away.
pub(super) fn minimise(of: &impl Smooth, start: &[f64]) -> Option<(Vec<f64>, Found)> {
    let mut logits = start.to_vec();
    let mut moves = f64::INFINITY;
    for _ in 0..MOST_STEPS {
        let (loss, gradient) = of.gradient(&logits);
        let hessian = of.hessian(&logits);
        let terms = of.terms(&logits);
        let rests = |y: usize| {
            let flat = hessian[y][y].abs() <= FLAT_CURVATURE * terms[y] && gradient[y].abs() <= FLAT_SLOPE * terms[y];
            flat || of.may_vanish(y) && gradient[y].abs() < VANISHED
        };
        // A shift of all logits changes nothing, so one may stay: the largest, for it does not run away.
        let fixed = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]))?;
        let free: Vec<_> = (0..logits.len()).filter(|&y| y != fixed && !rests(y)).collect();
        let Some((step, convex)) = newton_step(&hessian, &gradient, &terms, &free) else {
            return Some((log_softmax(&logits), Found::Descent));
        };
        let parabola = convex && longest(&step) < PARABOLA && -dot(&step, &gradient) < PROMISE;
        if longest(&step) < SHORT || parabola {
            let found = if convex { Found::Minimum } else { Found::Descent };
            return Some((log_softmax(&moved(&logits, &step, 1.0)), found));
        }
        let lower = |step: &[f64], scale: f64, most: f64| {
            let moved = moved(&logits, step, scale);
            (of.gradient(&moved).0 <= most).then_some(moved)
        };
        // Near the minimum the loss cannot tell better from worse; the slack lets a last step through.
        let slack = 1e-14 * (1.0 + loss.abs());
        let first = (FARTHEST / longest(&step)).min(1.0);
        let by_newton = halvings(first).find_map(|scale| lower(&step, scale, loss + slack));
        // Beside a kink the curvature says nothing.
        let steepest = || {
            let down: Vec<f64> = gradient.iter().map(|g| -g).collect();
            let slope = ARMIJO * dot(&gradient, &gradient);
            halvings(FARTHEST / longest(&down)).find_map(|scale| lower(&down, scale, loss - scale * slope))
        };
        let Some(better) = by_newton.or_else(steepest) else {
            return Some((log_softmax(&logits), Found::Descent));
        };
        moves = farthest(&logits, &better);
        logits = better;
    }
    let away = farthest(&log_softmax(start), &log_softmax(&logits)) > AWAY && moves > MOVES;
    (!away).then(|| (log_softmax(&logits), Found::Descent))
}

/// Log-probabilities after `steps` steps down the gradient, each `step_size` times as long as it.
pub(super) fn descend(of: &impl Smooth, start: &[f64], steps: usize, step_size: f64) -> Vec<f64> {
    let mut logits = start.to_vec();
    for _ in 0..steps {
        let (_, gradient) = of.gradient(&logits);
        logits = moved(&logits, &gradient, -step_size);
    }
    log_softmax(&logits)
}

/// A scale, half of it, and so on for fifty times.
fn halvings(scale: f64) -> impl Iterator<Item = f64> {
    (0..50).map(move |halvings| scale * 0.5f64.powi(halvings))
}

fn farthest(from: &[f64], to: &[f64]) -> f64 {
    from.iter().zip(to).fold(0.0, |farthest, (from, to)| farthest.max((from - to).abs()))
}

fn longest(step: &[f64]) -> f64 {
    step.iter().fold(0.0, |longest, s| longest.max(s.abs()))
}

fn moved(logits: &[f64], step: &[f64], scale: f64) -> Vec<f64> {
    logits.iter().zip(step).map(|(logit, step)| logit + scale * step).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Newton's step, and whether the loss is convex here; where it is not, the curvature is raised until the step goes down.
/// Nothing where no logit is `free`.
fn newton_step(hessian: &[Vec<f64>], gradient: &[f64], terms: &[f64], free: &[usize]) -> Option<(Vec<f64>, bool)> {
    if free.is_empty() {
        return None;
    }
    // In units in which each diagonal element is 1, a response of small probability counts like any other.
    let unit = |&i: &usize| hessian[i][i].abs().max(FLAT_CURVATURE * terms[i]).sqrt().recip();
    let units: Vec<f64> = free.iter().map(unit).collect();
    let down: Vec<f64> = free.iter().zip(&units).map(|(&i, unit)| -gradient[i] * unit).collect();
    let raised = [0.0, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0, 1e3, 1e4].into_iter().find_map(|by| {
        let element =
            |a: usize, b: usize| hessian[free[a]][free[b]] * units[a] * units[b] + if a == b { by } else { 0.0 };
        let matrix = (0..free.len()).map(|a| (0..free.len()).map(|b| element(a, b)).collect()).collect();
        Some((solve(matrix, &down)?, by == 0.0))
    });
    let (solution, convex) = raised?;
    let mut step = vec![0.0; gradient.len()];
    for ((&i, unit), s) in free.iter().zip(&units).zip(solution) {
        step[i] = s * unit;
    }
    Some((step, convex))
}

/// The solution of `matrix · x = right` by Cholesky's decomposition; nothing where the matrix, symmetric but for rounding,
/// is not positive definite.
fn solve(mut matrix: Vec<Vec<f64>>, right: &[f64]) -> Option<Vec<f64>> {
    let n = right.len();
    for i in 0..n {
        for j in 0..=i {
            let known: f64 = (0..j).map(|k| matrix[i][k] * matrix[j][k]).sum();
            let rest = matrix[i][j] - known;
            if i == j && rest < 1e-13 {
                return None;
            }
            matrix[i][j] = if i == j { rest.sqrt() } else { rest / matrix[j][j] };
        }
    }
    let mut x = right.to_vec();
    for i in 0..n {
        let known: f64 = (0..i).map(|k| matrix[i][k] * x[k]).sum();
        x[i] = (x[i] - known) / matrix[i][i];
    }
    for i in (0..n).rev() {
        let known: f64 = (i + 1..n).map(|k| matrix[k][i] * x[k]).sum();
        x[i] = (x[i] - known) / matrix[i][i];
    }
    Some(x)
}
