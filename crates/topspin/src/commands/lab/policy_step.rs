//! `topspin lab policy-step`: the best policy against a given score.

use std::io::Write;

use serde::Serialize;
use topspin_game::lab::{PolicyStep, World};
use topspin_kernels::rng::Rng;

use super::positive;
use super::tables::two_to_many;
use crate::output;

/// Policies that the closed form is compared with, for each beta.
const PERTURBATIONS: usize = 1000;

/// Show that the policy step has the closed form reference * exp(score / beta) / Z
///
/// Scores and reference are random. What maximises the mean score less beta KL(p || reference) is searched by Newton's method, without
/// the closed form, and laid beside it; so are a thousand perturbations of it, none of which may reach its value.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Weights of the KL term
    #[arg(long, value_name = "B,..", value_delimiter = ',', value_parser = positive, default_values_t = [0.5, 1.0, 2.0])]
    beta: Vec<f64>,
    /// Responses
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = two_to_many)]
    responses: usize,
    /// Seed of scores, reference and perturbations
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Print one JSON object instead of tables
    #[arg(long)]
    json: bool,
}

/// What came out for one beta.
#[derive(Serialize)]
struct Outcome {
    beta: f64,
    score: Vec<f64>,
    reference: Vec<f64>,
    closed_form: Vec<f64>,
    searched: Option<Vec<f64>>,
    /// beta log Z.
    optimum: f64,
    value: f64,
    best_perturbation: f64,
}

/// Searches and prints.
pub fn run(args: Args) -> anyhow::Result<()> {
    let outcomes: Vec<_> = args.beta.iter().map(|&beta| outcome(&args, beta)).collect();
    match args.json {
        true => output::print_json(&outcomes),
        false => output::print(|out| outcomes.iter().try_for_each(|outcome| tell(out, outcome))),
    }
}

fn outcome(args: &Args, beta: f64) -> Outcome {
    let world = World::random(1, args.responses, args.seed);
    let mut rng = Rng::new(args.seed, "lab scores", 0);
    let step = PolicyStep {
        score: (0..args.responses).map(|_| rng.normal()).collect(),
        reference: world.base.log_probs()[0].clone(),
        beta,
    };
    let closed = step.closed_form();
    let perturbed = |number: usize| {
        // From barely to wholly different.
        let size = 10f64.powf(-4.0 + 5.0 * number as f64 / PERTURBATIONS as f64);
        let logits: Vec<_> = closed.iter().map(|log_prob| log_prob + size * rng.normal()).collect();
        let log_sum = logits.iter().map(|logit: &f64| logit.exp()).sum::<f64>().ln();
        step.value(&logits.iter().map(|logit| logit - log_sum).collect::<Vec<_>>())
    };
    let best_perturbation = (0..PERTURBATIONS).map(perturbed).fold(f64::NEG_INFINITY, f64::max);
    let probs = |row: &[f64]| row.iter().map(|log_prob| log_prob.exp()).collect();
    Outcome {
        beta,
        reference: probs(&step.reference),
        closed_form: probs(&closed),
        searched: step.searched().map(|row| probs(&row)),
        optimum: step.optimum(),
        value: step.value(&closed),
        best_perturbation,
        score: step.score,
    }
}

fn tell(out: &mut dyn Write, outcome: &Outcome) -> std::io::Result<()> {
    let Outcome { beta, score, reference, closed_form, searched, optimum, value, best_perturbation } = outcome;
    writeln!(out, "beta {beta}")?;
    writeln!(out, "{:>10} {:>10} {:>12} {:>12}", "score", "reference", "closed form", "searched")?;
    for (at, closed) in closed_form.iter().enumerate() {
        let found = searched.as_ref().map_or("none".into(), |searched| format!("{:.6}", searched[at]));
        writeln!(out, "{:>10.4} {:>10.6} {closed:>12.6} {found:>12}", score[at], reference[at])?;
    }
    if let Some(searched) = searched {
        let pairs = closed_form.iter().zip(searched);
        let difference = pairs.map(|(closed, searched)| (closed - searched).abs()).fold(0.0, f64::max);
        writeln!(out, "largest difference of the two: {difference:.1e}")?;
    }
    writeln!(out, "value {value:.12}, beta log Z {optimum:.12}")?;
    writeln!(out, "the best of {PERTURBATIONS} perturbations is {:.1e} below\n", value - best_perturbation)
}
