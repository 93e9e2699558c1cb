//! `topspin lab tables`: iterations on tables.

use std::io::Write;
use std::path::PathBuf;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use topspin_game::lab::{Descent, Expectation, Found, Play, Table, World};
use topspin_game::objective::{Additions, Loss, Objective};
use topspin_game::opponent::{Opponent, Weights};

use super::{FLOOR, name, positive, weight};
use crate::chart::{Chart, Figure, Line, Vertical};
use crate::flags::positive as count;
use crate::output;

/// Play iterations on tables of probabilities, exactly or with samples
///
/// Data and base model are random tables, and so are the lengths of responses. With infinite samples an iteration ends at the
/// minimum of its loss, found by Newton's method to rounding error. Where there is none, the command says so and takes
/// gradient steps, as it does with finite samples.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Objectives as `game.objective` names them, or `all`
    #[arg(long, value_name = "NAME,..", default_value = "logistic", value_parser = objectives)]
    objective: List<Objective>,
    /// Opponents as `game.opponent` names them, or `all`
    #[arg(long, value_name = "NAME,..", default_value = "latest", value_parser = opponents)]
    opponent: List<Opponent>,
    /// Weights of the KL term of the policy step
    #[arg(long, value_name = "B,..", value_delimiter = ',', value_parser = positive, default_values_t = [0.5, 1.0, 2.0])]
    beta: Vec<f64>,
    /// Iterations
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = count)]
    iterations: usize,
    /// Real and generated draws of each prompt and iteration [default: infinitely many]
    ///
    /// Every real one is paired with every generated one.
    #[arg(long, value_name = "N", value_parser = count)]
    samples: Option<usize>,
    #[command(flatten)]
    descent: DescentFlags,
    #[command(flatten)]
    additions: AdditionFlags,
    #[command(flatten)]
    weights: WeightFlags,
    #[command(flatten)]
    world: WorldFlags,
    /// File to draw all in, as SVG
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Print one JSON object instead of tables
    #[arg(long)]
    json: bool,
}

/// What takes the place of minimisation.
#[derive(Clone, Copy, Debug, clap::Args)]
#[command(next_help_heading = "Gradient steps, with finite samples or where there is no minimum")]
struct DescentFlags {
    /// Steps of an iteration
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = count)]
    steps: usize,
    /// Length of a step over that of the gradient by the logits
    #[arg(long, value_name = "X", default_value_t = 1.0, value_parser = positive)]
    step_size: f64,
}

/// What is added to the objective.
#[derive(Clone, Copy, Debug, clap::Args)]
#[command(next_help_heading = "Additions to the objective")]
struct AdditionFlags {
    /// Weight of the real response's negative log-likelihood per token
    #[arg(long, value_name = "W", default_value_t = 0.0, value_parser = weight)]
    nll: f64,
    /// Weight of DPOP's penalty for a falling real log-ratio
    #[arg(long, value_name = "W", default_value_t = 0.0, value_parser = weight)]
    dpop: f64,
    /// Share of pairs whose sides are taken to be exchanged, below 1/2
    #[arg(long, value_name = "E", default_value_t = 0.0, value_parser = below_one_half)]
    label_smoothing: f64,
    /// Weight of KL(base || p)
    #[arg(long, value_name = "W", default_value_t = 0.0, value_parser = weight)]
    forward_kl: f64,
    /// Weight of KL(p || base)
    #[arg(long, value_name = "W", default_value_t = 0.0, value_parser = weight)]
    reverse_kl: f64,
}

/// How an opponent's models weigh against each other.
#[derive(Clone, Copy, Debug, clap::Args)]
#[command(next_help_heading = "Opponents of several models")]
struct WeightFlags {
    /// In `history`, the weight of a model beside that of the next younger one
    #[arg(long, value_name = "W", default_value_t = 1.0, value_parser = share)]
    history_decay: f64,
    /// In `average`, the weight of what was averaged before
    #[arg(long, value_name = "W", default_value_t = 0.5, value_parser = share)]
    average_decay: f64,
    /// In `mixture`, the exponent of the base
    #[arg(long, value_name = "A", default_value_t = 0.1, value_parser = share)]
    mixture: f64,
}

/// What is played over.
#[derive(Clone, Copy, Debug, clap::Args)]
#[command(next_help_heading = "Tables")]
struct WorldFlags {
    /// Prompts
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = count)]
    prompts: usize,
    /// Responses to each prompt, at least 2
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = two_to_many)]
    responses: usize,
    /// Seed of tables and draws
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

/// A list that is written with commas.
#[derive(Clone, Debug)]
struct List<T>(Vec<T>);

/// One game.
#[derive(Serialize)]
struct Game {
    objective: Objective,
    opponent: Opponent,
    beta: f64,
    iterations: Vec<Row>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remark: Option<String>,
}

/// Where a policy stands.
#[derive(Clone, Copy, Serialize)]
struct Row {
    iteration: usize,
    kl_data_policy: f64,
    kl_policy_data: f64,
    total_variation: f64,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Outcome {
    prompts: usize,
    responses: usize,
    samples: Option<usize>,
    games: Vec<Game>,
}

/// Plays, prints and draws.
pub fn run(args: Args) -> anyhow::Result<()> {
    if let Some(path) = &args.out {
        output::check(path)?;
    }
    let mut games = Vec::new();
    for &objective in &args.objective.0 {
        for &opponent in &args.opponent.0 {
            games.extend(args.beta.iter().map(|&beta| game(&args, objective, opponent, beta)));
        }
    }
    if let Some(path) = &args.out {
        super::write(path, &figure(&args, &games))?;
    }
    let WorldFlags { prompts, responses, .. } = args.world;
    match args.json {
        true => output::print_json(&Outcome { prompts, responses, samples: args.samples, games }),
        false => output::print(|out| games.iter().try_for_each(|game| tell(out, game))),
    }
}

fn game(args: &Args, objective: Objective, opponent: Opponent, beta: f64) -> Game {
    let WorldFlags { prompts, responses, seed } = args.world;
    let AdditionFlags { nll, dpop, label_smoothing, forward_kl, reverse_kl } = args.additions;
    let WeightFlags { history_decay, average_decay, mixture } = args.weights;
    let DescentFlags { steps, step_size } = args.descent;
    let additions = Additions { nll, dpop, label_smoothing, forward_kl, reverse_kl };
    let play = Play {
        world: World::random(prompts, responses, seed),
        loss: Loss { objective, beta, additions },
        opponent,
        weights: Weights { history_decay, average_decay, mixture },
        expectation: args.samples.map_or(Expectation::Exact, |draws| Expectation::Samples { draws, seed }),
        descent: Descent { steps, step_size },
    };
    let played = play.run(args.iterations);
    let row = |iteration: usize, policy: &Table| Row {
        iteration,
        kl_data_policy: play.world.data.kl(policy),
        kl_policy_data: policy.kl(&play.world.data),
        total_variation: policy.total_variation(&play.world.data),
    };
    let rows = played.iter().enumerate().map(|(number, iteration)| row(number + 1, &iteration.policy));
    let iterations = [row(0, &play.world.base)].into_iter().chain(rows).collect();
    let since = |found: Found| played.iter().position(|iteration| iteration.found == found).map(|number| number + 1);
    let remark = match (args.samples, since(Found::Steps), since(Found::Descent)) {
        (Some(_), ..) => None,
        (None, Some(first), _) => Some(format!(
            "in iteration {first} the loss has no minimum; from there on {steps} gradient steps of size {step_size} take \
             its place wherever there is none"
        )),
        (None, None, Some(first)) => Some(format!(
            "in iteration {first} the loss is flat or has kinks, and no minimum is known; this is what a descent with line \
             search ends at"
        )),
        _ => None,
    };
    Game { objective, opponent, beta, iterations, remark }
}

fn tell(out: &mut dyn Write, game: &Game) -> std::io::Result<()> {
    let Game { objective, opponent, beta, iterations, remark } = game;
    writeln!(out, "{} against {}, beta {beta}", name(objective), name(opponent))?;
    writeln!(out, "{:>9} {:>14} {:>14} {:>16}", "iteration", "KL(data || p)", "KL(p || data)", "total variation")?;
    for Row { iteration, kl_data_policy, kl_policy_data, total_variation } in iterations {
        let figures = [kl_data_policy, kl_policy_data, total_variation].map(|x| shown(*x));
        writeln!(out, "{iteration:>9} {:>14} {:>14} {:>16}", figures[0], figures[1], figures[2])?;
    }
    match remark {
        Some(remark) => writeln!(out, "{remark}\n"),
        None => writeln!(out),
    }
}

/// Four digits; what rounding leaves of 0 is 0.
fn shown(x: f64) -> String {
    match x.abs() {
        size if size < 1e-14 => "0".into(),
        0.01..1e4 => format!("{x:.4}"),
        _ => format!("{x:.3e}"),
    }
}

fn figure(args: &Args, games: &[Game]) -> Figure {
    let WorldFlags { prompts, responses, .. } = args.world;
    let samples = args.samples.map_or("infinite samples".into(), |n| format!("{n} samples"));
    let label = |game: &Game| {
        let several = [args.objective.0.len() > 1, args.opponent.0.len() > 1, args.beta.len() > 1];
        let parts = [name(game.objective), name(game.opponent), format!("beta {}", game.beta)];
        let parts: Vec<_> = parts.into_iter().zip(several).filter(|part| part.1).map(|part| part.0).collect();
        if parts.is_empty() { name(game.objective) } else { parts.join(", ") }
    };
    let chart = |y_label: &str, value: fn(&Row) -> f64| Chart {
        x_label: "iteration".into(),
        y_label: y_label.into(),
        by_factors: false,
        vertical: Vertical::ByFactors { floor: FLOOR },
        lines: games
            .iter()
            .map(|game| Line {
                name: label(game),
                points: finite(game.iterations.iter().map(|row| [row.iteration as f64, value(row)])),
            })
            .collect(),
    };
    Figure {
        title: "Self-play on tables".into(),
        subtitles: [format!("{prompts} prompts, {responses} responses, {samples}"), String::new()],
        charts: vec![
            chart("KL(data || p)", |row| row.kl_data_policy),
            chart("KL(p || data)", |row| row.kl_policy_data),
            chart("total variation", |row| row.total_variation),
        ],
    }
}

/// The points that can be drawn.
pub(super) fn finite(points: impl Iterator<Item = [f64; 2]>) -> Vec<[f64; 2]> {
    points.filter(|point| point[1].is_finite()).collect()
}

fn objectives(text: &str) -> Result<List<Objective>, String> {
    list(text, Objective::ALL)
}

fn opponents(text: &str) -> Result<List<Opponent>, String> {
    list(text, &Opponent::ALL)
}

fn list<T: Copy + Serialize + DeserializeOwned>(text: &str, all: &[T]) -> Result<List<T>, String> {
    if text == "all" {
        return Ok(List(all.to_vec()));
    }
    let one = |word: &str| {
        serde_json::from_value(Value::String(word.trim().into())).map_err(|_| {
            let names: Vec<_> = all.iter().map(|known| format!("`{}`", name(known))).collect();
            format!("`{word}` is none of {}", names.join(", "))
        })
    };
    text.split(',').map(one).collect::<Result<_, _>>().map(List)
}

fn share(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|x| (0.0..=1.0).contains(x)).ok_or_else(|| "it must be a number from 0 to 1".into())
}

fn below_one_half(text: &str) -> Result<f64, String> {
    let inside = |x: &f64| (0.0..0.5).contains(x);
    text.parse().ok().filter(inside).ok_or_else(|| "it must be a number from 0, below 0.5".into())
}

/// Two at least, and no more than a table of pairs is quick for.
pub(super) fn two_to_many(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| (2..=64).contains(n)).ok_or_else(|| "it must be a whole number from 2 to 64".into())
}
