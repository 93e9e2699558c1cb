//! The table of evaluations, and the guards that fired.

use ratatui::layout::{Constraint, Rect};
use ratatui::prelude::Frame;
use ratatui::text::Line;
use ratatui::widgets::{Block, Cell, Paragraph, Row, Table};

use super::Theme;
use super::text::{width, wrap};
use crate::commands::watch::model::Watched;

/// Draws the table: the metric that names the best, and as many others as there is room for.
pub fn draw(frame: &mut Frame, area: Rect, block: Block, watched: &Watched, scrolled: usize, theme: Theme) {
    let summary = &watched.summary;
    if summary.rows.is_empty() {
        let text = format!("no model is evaluated yet; `{}` will name the best", summary.metric);
        return frame.render_widget(lines(wrap(&text, inside(area))).block(block), area);
    }
    let table = summary.table();
    let best = summary.best().map(|row| row.folder.as_str());
    let mut widths = Vec::new();
    for column in 0..table[0].len() {
        let wide = table.iter().map(|row| width(&row[column])).max().unwrap_or(0);
        if widths.len() >= 2 && widths.iter().sum::<usize>() + 2 * widths.len() + 2 + wide > inside(area) {
            break;
        }
        widths.push(wide);
    }
    let row = |row: &Vec<String>| -> Row<'static> {
        let is_best = Some(row[0].as_str()) == best;
        let mark = if is_best { "★" } else { "" };
        let cells = std::iter::once(mark).chain(row.iter().take(widths.len()).map(String::as_str));
        let cells = cells.map(|cell| Cell::from(cell.to_owned()));
        Row::new(cells.collect::<Vec<_>>()).style(if is_best { theme.best() } else { theme.plain() })
    };
    let rows: Vec<_> = table[1..].iter().map(row).collect();
    // The head stays, and the last row stays in sight.
    let height = usize::from(area.height.saturating_sub(3)).max(1);
    let scrolled = scrolled.min(rows.len().saturating_sub(height));
    let constraints = std::iter::once(1).chain(widths.iter().map(|&wide| wide as u16)).map(Constraint::Length);
    let head = Row::new(std::iter::once("").chain(table[0].iter().take(widths.len()).map(String::as_str)));
    let left_out = table[0].len() - widths.len();
    let block = match left_out {
        0 => block,
        1 => block.title(" 1 column more in a wider window "),
        n => block.title(format!(" {n} columns more in a wider window ")),
    };
    let shown = rows.into_iter().skip(scrolled).collect::<Vec<_>>();
    let table = Table::new(shown, constraints).column_spacing(2).header(head.style(theme.faint())).block(block);
    frame.render_widget(table, area);
}

/// Draws the guards.
pub fn draw_guards(frame: &mut Frame, area: Rect, block: Block, watched: &Watched, scrolled: usize) {
    let guards = &watched.summary.guards;
    let told = match guards.is_empty() {
        true => wrap("no guard has fired in a finished stage", inside(area)),
        false => guards.iter().flat_map(|(stage, fired)| wrap(&fired.told(stage), inside(area))).collect(),
    };
    let scrolled = scrolled.min(told.len().saturating_sub(usize::from(area.height.saturating_sub(2)).max(1)));
    let block = if guards.is_empty() { block } else { block.title(format!(" {} ", guards.len())) };
    frame.render_widget(lines(told.into_iter().skip(scrolled)).block(block), area);
}

/// Columns between the borders.
pub fn inside(area: Rect) -> usize {
    usize::from(area.width.saturating_sub(2))
}

fn lines<'a>(lines: impl IntoIterator<Item = String>) -> Paragraph<'a> {
    Paragraph::new(lines.into_iter().map(Line::raw).collect::<Vec<_>>())
}
