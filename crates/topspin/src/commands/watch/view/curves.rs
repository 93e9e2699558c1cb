//! Curves of the training at work and of those before it.

use ratatui::layout::{Constraint, Rect};
use ratatui::prelude::Frame;
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Axis, Block, Chart, Dataset, GraphType, LegendPosition, Paragraph};

use super::Theme;
use crate::commands::watch::app::App;
use crate::commands::watch::curves::{Curve, Quantity};
use crate::commands::watch::model::Watched;

/// Lines that are drawn at once.
const MOST: usize = 6;

/// A line of the chart.
struct Drawn {
    name: String,
    points: Vec<(f64, f64)>,
    /// Whether it is of the latest training.
    is_latest: bool,
}

/// Draws the pane.
pub fn draw(frame: &mut Frame, area: Rect, block: Block, watched: &Watched, app: &App, theme: Theme) {
    let block = block.title(format!(" {} ", app.quantity.name()));
    let columns = usize::from(area.width);
    let drawn = lines(&watched.curves, app.quantity, columns);
    let Some([x, y]) = bounds(&drawn) else {
        let why = match watched.curves.iter().any(|curve| curve.last().is_some()) {
            true => format!("supervised training has no {}; ↑ and ↓ choose something else", app.quantity.name()),
            false => "no training step yet".into(),
        };
        return frame.render_widget(Paragraph::new(why).block(block), area);
    };
    let datasets = drawn.iter().enumerate().map(|(at, line)| {
        let (marker, graph) = match line.is_latest {
            true => (Marker::Braille, GraphType::Line),
            false => (Marker::Dot, GraphType::Scatter),
        };
        let style = theme.line(at, line.is_latest);
        Dataset::default().name(Span::styled(line.name.clone(), style)).marker(marker).graph_type(graph).style(style)
    });
    let datasets = datasets.zip(&drawn).map(|(dataset, line)| dataset.data(&line.points)).collect();
    let labels = |[low, high]: [f64; 2]| [low, high].map(|value| Line::raw(number(value)));
    let middle = Line::raw(number((y[0] + y[1]) / 2.0));
    let [low, high] = labels(y);
    let chart = Chart::new(datasets)
        .x_axis(Axis::default().title("step").bounds(x).labels([x[0], x[1]].map(|step| format!("{step:.0}"))))
        .y_axis(Axis::default().bounds(y).labels([low, middle, high]))
        .legend_position(Some(LegendPosition::TopRight))
        .hidden_legend_constraints((Constraint::Percentage(60), Constraint::Percentage(60)));
    // Not with the chart, whose legend would look like its border.
    frame.render_widget(&block, area);
    frame.render_widget(chart, block.inner(area));
}

/// What is drawn: the latest training last, so that it lies above the others. Supervised training and self-play are not
/// compared: their losses are of different things.
fn lines(curves: &[Curve], quantity: Quantity, columns: usize) -> Vec<Drawn> {
    let begun = || curves.iter().filter_map(|curve| Some((curve, curve.last()?.game.is_some())));
    let Some((latest, plays)) = begun().next_back() else { return Vec::new() };
    let mut alike: Vec<_> = begun().filter(|(_, also)| *also == plays).map(|(curve, _)| curve).collect();
    alike.drain(..alike.len().saturating_sub(MOST / quantity.lines().len()));
    let mut drawn = Vec::new();
    for curve in alike {
        for &(name, of) in quantity.lines() {
            let points = curve.steps().filter_map(|metrics| Some((f64::from(metrics.step), of(metrics)?)));
            let points = thin(points.filter(|(_, value)| value.is_finite()).collect(), columns);
            let Some((_, value)) = points.last().copied() else { continue };
            let is_latest = curve.folder == latest.folder;
            let mark = if is_latest { '⠒' } else { '•' };
            let name = [mark.to_string(), curve.folder.clone(), name.into(), number(value)];
            let name = name.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ");
            drawn.push(Drawn { name, points, is_latest });
        }
    }
    drawn
}

/// Fewer points of the same look: of those that share a column the least and the greatest.
fn thin(points: Vec<(f64, f64)>, columns: usize) -> Vec<(f64, f64)> {
    let each = points.len().div_ceil(2 * columns.max(1));
    if each <= 2 {
        return points;
    }
    let extremes = |some: &[(f64, f64)]| {
        let by_value = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
        let mut both: Vec<_> =
            some.iter().min_by(by_value).into_iter().chain(some.iter().max_by(by_value)).copied().collect();
        both.sort_by(|a, b| a.0.total_cmp(&b.0));
        both
    };
    let last = points.last().copied();
    let mut thin: Vec<_> = points.chunks(each).flat_map(extremes).collect();
    // Its value is told beside the name.
    if thin.last() != last.as_ref() {
        thin.extend(last);
    }
    thin
}

/// The range of steps and that of values, with a little room.
fn bounds(drawn: &[Drawn]) -> Option<[[f64; 2]; 2]> {
    let all = || drawn.iter().flat_map(|line| line.points.iter().copied());
    let range = |of: fn((f64, f64)) -> f64| {
        let (low, high) = all().map(of).fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        (low <= high).then_some([low, high])
    };
    let [first, last] = range(|point| point.0)?;
    let [low, high] = range(|point| point.1)?;
    // The room of a curve that is flat: some of its height above 0.
    let room = 0.05 * if high > low { high - low } else { high.abs().max(1e-6) };
    // A loss has no values below 0, so neither has its axis.
    let bottom = if low >= 0.0 { (low - room).max(0.0) } else { low - room };
    Some([[first, if last > first { last } else { first + 1.0 }], [bottom, high + room]])
}

/// A number in a few characters.
pub fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        v if !(1e-3..1e5).contains(&v) => format!("{value:.1e}"),
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thinned_curves_keep_their_extremes_and_their_end() {
        let value = |step: usize| ((step * 7919) % 1000) as f64;
        let points: Vec<_> = (0..100_000).map(|step| (step as f64, value(step))).collect();
        let thinned = thin(points.clone(), 80);
        assert!(thinned.len() <= 2 * 2 * 80 + 1, "{}", thinned.len());
        let extremes = |points: &[(f64, f64)]| {
            points.iter().fold((f64::MAX, f64::MIN), |(low, high), point| (low.min(point.1), high.max(point.1)))
        };
        assert_eq!(extremes(&thinned), extremes(&points));
        assert_eq!(thinned.last(), points.last());
        assert!(thinned.windows(2).all(|pair| pair[0].0 <= pair[1].0));
        assert_eq!(thin(points[..160].to_vec(), 80), points[..160]);
    }

    #[test]
    fn numbers_are_short() {
        let told = [0.0, 0.71234, -12.345, 123.4, 5e-7, 1234567.0, -0.5].map(number);
        assert_eq!(told, ["0", "0.712", "-12.3", "123", "5.0e-7", "1.2e6", "-0.500"]);
    }
}
