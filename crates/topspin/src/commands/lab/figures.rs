//! `topspin lab figures`: the figures of docs/method.md.

use std::path::PathBuf;

use topspin_game::lab::{Descent, Expectation, Found, Iteration, Play, Table, World};
use topspin_game::objective::{Additions, Loss, Objective};
use topspin_game::opponent::{Opponent, Weights};

use super::network::{NetworkFlags, compare, figure as network_figure};
use super::tables::finite;
use super::{FLOOR, name};
use crate::chart::{Chart, Figure, Line, Vertical};
use crate::output;

/// Draw the figures of docs/method.md
///
/// Writes SVG files. Those of tables take a second and are the same each time; that of the network takes about a minute.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder to write the figures into; it is made where there is none
    #[arg(short, long, value_name = "DIR")]
    out: PathBuf,
    /// Leave out the network's figure
    #[arg(long)]
    tables_only: bool,
    #[command(flatten)]
    network: NetworkFlags,
}

/// Draws.
pub fn run(args: Args) -> anyhow::Result<()> {
    topspin_files::create_dir_all(&args.out)?;
    let mut figures = vec![
        ("lab-beta", betas()),
        ("lab-objectives", objectives()),
        ("lab-linear", linear()),
        ("lab-additions", additions()),
        ("lab-opponents", opponents()),
        ("lab-samples", samples()),
    ];
    if !args.tables_only {
        figures.push(("lab-network", network_figure(&compare(&[0.5, 1.0, 2.0], args.network)?, args.network)));
    }
    let paths: Vec<_> = figures.iter().map(|(name, _)| args.out.join(format!("{name}.svg"))).collect();
    for (path, (_, figure)) in paths.iter().zip(&figures) {
        super::write(path, figure)?;
    }
    output::print(|out| paths.iter().try_for_each(|path| writeln!(out, "{}", path.display())))
}

/// The logistic game against the latest model at beta 1, on the tables of all figures.
fn play(objective: Objective, beta: f64) -> Play {
    Play {
        world: World::random(4, 8, 0),
        loss: Loss::new(objective, beta),
        opponent: Opponent::Latest,
        weights: Weights { history_decay: 1.0, average_decay: 0.5, mixture: 0.3 },
        expectation: Expectation::Exact,
        descent: Descent { steps: 100, step_size: 1.0 },
    }
}

/// KL(data || p) by iteration.
fn line(name: String, play: &Play, iterations: usize) -> Line {
    of_policies(name, play, play.run(iterations).into_iter())
}

/// The same, as long as an iteration ends at a minimum: not where probabilities are so small that rounding hides it.
fn line_of_minima(name: String, play: &Play, iterations: usize) -> Line {
    let minima = play.run(iterations).into_iter().take_while(|iteration| iteration.found == Found::Minimum);
    of_policies(name, play, minima)
}

fn of_policies(name: String, play: &Play, iterations: impl Iterator<Item = Iteration>) -> Line {
    let policies = iterations.map(|iteration| iteration.policy);
    let divergences = [play.world.base.clone()].into_iter().chain(policies).map(|policy| play.world.data.kl(&policy));
    Line { name, points: finite(divergences.enumerate().map(|(at, kl)| [at as f64, kl])) }
}

fn by_iteration(y_label: &str, lines: Vec<Line>) -> Chart {
    Chart {
        x_label: "iteration".into(),
        y_label: y_label.into(),
        by_factors: false,
        vertical: Vertical::ByFactors { floor: FLOOR },
        lines,
    }
}

fn drawn(title: &str, what: &str, charts: Vec<Chart>) -> Figure {
    let world = "mean over 4 prompts with 8 responses, random tables".into();
    Figure { title: title.into(), subtitles: [what.into(), world], charts }
}

const KL: &str = "KL(data || p)";

fn betas() -> Figure {
    let lines = [0.45, 0.5, 0.7, 1.0, 2.0, 5.0];
    let lines = lines.map(|beta| line_of_minima(format!("beta {beta}"), &play(Objective::Logistic, beta), 10));
    drawn(
        "Beta is an inverse step length",
        "logistic against the latest model, exact minimum of each iteration",
        vec![by_iteration(KL, lines.into())],
    )
}

fn objectives() -> Figure {
    let chart = |y_label: &str, objectives: &[Objective]| {
        let lines = objectives.iter().map(|&objective| match objective {
            Objective::LengthNormalized => line(format!("{}, beta 6", name(objective)), &play(objective, 6.0), 10),
            _ => line(name(objective), &play(objective, 1.0), 10),
        });
        by_iteration(y_label, lines.collect())
    };
    let (settling, other): (Vec<_>, Vec<_>) = Objective::ALL.iter().partition(|objective| {
        use Objective::{ApoZero, Hinge, Linear, Triplet};
        ![ApoZero, Hinge, Linear, Triplet].contains(objective)
    });
    drawn(
        "Objectives",
        "beta 1 against the latest model; linear and apo_zero, which have no minimum: 100 gradient steps of size 1",
        vec![chart("KL(data || p): these settle on the data", &settling), chart("KL(data || p): these do not", &other)],
    )
}

/// Losses and policies by gradient steps, the start first.
type Flow = Vec<(f64, Table)>;

/// Along one iteration, by gradient steps.
fn linear() -> Figure {
    let additions = |forward_kl, reverse_kl| Additions { forward_kl, reverse_kl, ..Additions::default() };
    let flows = [
        ("linear alone", additions(0.0, 0.0)),
        ("with reverse_kl 1", additions(0.0, 1.0)),
        ("with forward_kl 4", additions(4.0, 0.0)),
    ];
    let flows = flows.map(|(name, additions)| {
        let mut play = play(Objective::Linear, 1.0);
        play.loss.additions = additions;
        let start = (play.loss(&play.world.base), play.world.base.clone());
        let points = std::iter::once(start).chain(play.flow(1, 1024));
        (name, play.world.data.clone(), points.collect::<Flow>())
    });
    let chart = |y_label: &str, vertical, value: &dyn Fn(&Table, &Flow, usize) -> f64| Chart {
        x_label: "gradient steps of size 1".into(),
        y_label: y_label.into(),
        by_factors: true,
        vertical,
        lines: flows
            .iter()
            .map(|(name, data, points)| {
                let at = (0..=10).map(|power| 1usize << power);
                Line { name: (*name).into(), points: at.map(|step| [step as f64, value(data, points, step)]).collect() }
            })
            .collect(),
    };
    drawn(
        "The linear objective has no minimum",
        "beta 1, the first iteration",
        vec![
            chart("how far the loss has fallen", Vertical::FromZero, &|_, points, step| points[0].0 - points[step].0),
            chart(KL, Vertical::ByFactors { floor: FLOOR }, &|data, points, step| data.kl(&points[step].1)),
        ],
    )
}

fn additions() -> Figure {
    let none = Additions::default();
    let lines = [
        ("nothing added", none),
        ("nll 0.5", Additions { nll: 0.5, ..none }),
        ("dpop 1", Additions { dpop: 1.0, ..none }),
        ("label_smoothing 0.2", Additions { label_smoothing: 0.2, ..none }),
        ("forward_kl 0.1", Additions { forward_kl: 0.1, ..none }),
        ("reverse_kl 0.1", Additions { reverse_kl: 0.1, ..none }),
    ];
    let lines = lines.map(|(name, additions)| {
        let mut play = play(Objective::Logistic, 2.0);
        play.loss.additions = additions;
        line(name.into(), &play, 15)
    });
    drawn(
        "What is added to the objective",
        "logistic against the latest model, beta 2",
        vec![by_iteration(KL, lines.into())],
    )
}

fn opponents() -> Figure {
    let chart = |beta: f64| {
        let opponents = Opponent::ALL.into_iter().filter(|&opponent| opponent != Opponent::Data);
        let game = |opponent| Play { opponent, ..play(Objective::Logistic, beta) };
        let lines = opponents.map(|opponent| line_of_minima(name(opponent), &game(opponent), 12));
        by_iteration(&format!("KL(data || p), beta {beta}"), lines.collect())
    };
    drawn(
        "Opponents",
        "logistic, exact minimum of each iteration; average with decay 0.5, mixture of weight 0.3",
        vec![chart(0.45), chart(2.0)],
    )
}

fn samples() -> Figure {
    let chart = |beta: f64| {
        let game = |expectation| Play { expectation, ..play(Objective::Logistic, beta) };
        let drawn = [10, 100, 1000, 10_000].map(|draws| {
            let play = game(Expectation::Samples { draws, seed: 0 });
            line(format!("{draws} samples"), &play, 10)
        });
        let exact = line("infinitely many".into(), &game(Expectation::Exact), 10);
        by_iteration(&format!("KL(data || p), beta {beta}"), drawn.into_iter().chain([exact]).collect())
    };
    drawn(
        "Finite samples",
        "logistic against the latest model; finite samples: 100 gradient steps of size 1 in each iteration",
        vec![chart(1.0), chart(2.0)],
    )
}
