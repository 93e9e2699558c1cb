//! `topspin lab network`: theory, tables and a transformer side by side.

use std::io::Write;
use std::path::PathBuf;

use serde::Serialize;
use topspin_game::lab::{Descent, Expectation, Network, NetworkSettings, Play, Table, World, logistic_law};
use topspin_game::objective::{Loss, Objective};
use topspin_game::opponent::{Opponent, Weights};
use topspin_kernels::cpu::Cpu;
use tracing::info;

use super::tables::finite;
use super::{FLOOR, positive};
use crate::chart::{Chart, Figure, Line, Vertical};
use crate::flags::{Dtype, positive as count};
use crate::{engine, output};

/// Play the same iterations by theory, on tables, and with a tiny transformer
///
/// The task has four prompts with four valid answers each, of known probability. A base model of 27 thousand parameters gives
/// them evenly, and others besides. All responses are scored, so divergences are exact. The objective is the logistic one,
/// against the latest model.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Weights of the KL term of the policy step
    #[arg(long, value_name = "B,..", value_delimiter = ',', value_parser = positive, default_values_t = [0.5, 1.0, 2.0])]
    beta: Vec<f64>,
    #[command(flatten)]
    game: NetworkFlags,
    /// File to draw all in, as SVG
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Print one JSON object instead of tables
    #[arg(long)]
    json: bool,
}

/// How the network plays.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct NetworkFlags {
    /// Iterations
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = count)]
    iterations: usize,
    /// Real and generated responses of each prompt and iteration
    #[arg(long, value_name = "N", default_value_t = 8192, value_parser = count)]
    samples: usize,
    /// Optimizer steps of an iteration, each on all pairs
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = count)]
    steps: usize,
    /// Learning rate of an iteration's first step; it falls to 0
    #[arg(long, value_name = "X", default_value_t = 3e-3, value_parser = positive)]
    lr: f64,
    /// Seed of the task, the model and every draw
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Worker threads [default: one for each core]
    #[arg(long, value_name = "N", value_parser = count)]
    threads: Option<usize>,
}

/// The games of one beta.
#[derive(Serialize)]
pub(super) struct Compared {
    beta: f64,
    iterations: Vec<Row>,
}

/// Where the policies stand after an iteration: KL(data || p) of four games, and what else is known of the network.
#[derive(Serialize)]
struct Row {
    iteration: usize,
    law: f64,
    table: f64,
    sampled_table: f64,
    network: f64,
    network_total_variation: f64,
    network_outside: f64,
}

/// Plays, prints and draws.
pub fn run(args: Args) -> anyhow::Result<()> {
    if let Some(path) = &args.out {
        output::check(path)?;
    }
    let compared = compare(&args.beta, args.game)?;
    if let Some(path) = &args.out {
        super::write(path, &figure(&compared, args.game))?;
    }
    match args.json {
        true => output::print_json(&compared),
        false => output::print(|out| compared.iter().try_for_each(|compared| tell(out, compared))),
    }
}

/// All games for each beta.
pub(super) fn compare(betas: &[f64], flags: NetworkFlags) -> anyhow::Result<Vec<Compared>> {
    // So small a model gains nothing from bf16.
    engine::prepare(Dtype::F32, flags.threads)?;
    let NetworkFlags { iterations, samples, steps, lr, seed, .. } = flags;
    let network = Network::new(&Cpu::new(), seed)?;
    let world = network.world()?;
    info!("the base model has {:.1}% outside of the valid answers", 100.0 * outside(&world.base));
    let settings = NetworkSettings { iterations, draws: samples, steps: steps as u32, lr };
    let compared = |&beta: &f64| {
        let mut iteration = 0;
        let policies = network.play(beta, settings, |policy| {
            iteration += 1;
            info!("beta {beta}, iteration {iteration} of {iterations}: KL(data || p) {:.4}", world.data.kl(policy));
        })?;
        let law = std::iter::successors(Some(world.base.clone()), |p| Some(logistic_law(p, p, &world.data, beta)));
        let law: Vec<_> = law.skip(1).take(iterations).collect();
        let table = tables(&world, beta, iterations, Expectation::Exact);
        let sampled = tables(&world, beta, iterations, Expectation::Samples { draws: samples, seed });
        let row = |iteration: usize, [law, table, sampled, network]: [&Table; 4]| Row {
            iteration,
            law: world.data.kl(law),
            table: world.data.kl(table),
            sampled_table: world.data.kl(sampled),
            network: world.data.kl(network),
            network_total_variation: world.data.total_variation(network),
            network_outside: outside(network),
        };
        let rows = (0..iterations).map(|k| row(k + 1, [&law[k], &table[k], &sampled[k], &policies[k]]));
        Ok(Compared { beta, iterations: [row(0, [&world.base; 4])].into_iter().chain(rows).collect() })
    };
    betas.iter().map(compared).collect()
}

/// The policies of the same game on tables.
fn tables(world: &World, beta: f64, iterations: usize, expectation: Expectation) -> Vec<Table> {
    let play = Play {
        world: world.clone(),
        loss: Loss::new(Objective::Logistic, beta),
        opponent: Opponent::Latest,
        weights: Weights { history_decay: 1.0, average_decay: 0.0, mixture: 0.0 },
        expectation,
        // The loss bends by a few tenths of beta^2 at most.
        descent: Descent { steps: 300, step_size: 4.0 / (beta * beta) },
    };
    play.run(iterations).into_iter().map(|iteration| iteration.policy).collect()
}

/// Mass of what is not valid: the first entry of each row.
fn outside(policy: &Table) -> f64 {
    policy.probs().iter().map(|row| row[0]).sum::<f64>() / policy.probs().len() as f64
}

fn tell(out: &mut dyn Write, Compared { beta, iterations }: &Compared) -> std::io::Result<()> {
    writeln!(out, "beta {beta}, KL(data || p)")?;
    writeln!(
        out,
        "{:>9} {:>10} {:>10} {:>14} {:>10} {:>16} {:>10}",
        "iteration", "law", "table", "sampled table", "network", "total variation", "outside"
    )?;
    for row in iterations {
        let [law, table, sampled, network] =
            [row.law, row.table, row.sampled_table, row.network].map(|kl| format!("{:.5}", kl.abs()));
        let (variation, outside) = (row.network_total_variation, row.network_outside);
        writeln!(
            out,
            "{:>9} {law:>10} {table:>10} {sampled:>14} {network:>10} {variation:>16.4} {outside:>10.4}",
            row.iteration
        )?;
    }
    writeln!(out)
}

/// A chart for each beta.
pub(super) fn figure(compared: &[Compared], flags: NetworkFlags) -> Figure {
    let NetworkFlags { samples, steps, .. } = flags;
    let line = |name: &str, of: &Compared, kl: fn(&Row) -> f64| Line {
        name: name.into(),
        points: finite(of.iterations.iter().map(|row| [row.iteration as f64, kl(row)])),
    };
    let chart = |of: &Compared| Chart {
        x_label: "iteration".into(),
        y_label: format!("beta {}: KL(data || p)", of.beta),
        by_factors: false,
        // Samples leave far more than that.
        vertical: Vertical::ByFactors { floor: FLOOR.max(1e-6) },
        lines: vec![
            line("law", of, |row| row.law),
            line("table", of, |row| row.table),
            line("sampled table", of, |row| row.sampled_table),
            line("network", of, |row| row.network),
        ],
    };
    Figure {
        title: "Theory, tables and a transformer".into(),
        subtitles: [
            format!("logistic, {samples} samples of each prompt and iteration; the network takes {steps} steps"),
            "four valid answers to each prompt; all responses are scored".into(),
        ],
        charts: compared.iter().map(chart).collect(),
    }
}
