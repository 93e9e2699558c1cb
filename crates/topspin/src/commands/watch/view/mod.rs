//! The view: a head, the panes that there is room for, and a line of keys.

mod curves;
mod results;
mod samples;
#[cfg(test)]
mod tests;
mod text;

use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::prelude::Frame;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, BorderType, Clear, Paragraph};

use super::app::{App, Pane};
use super::model::{Watched, Work};
use crate::progress::{Facts, bytes, clock, duration};

/// A screen of at least so many columns and lines has room for all panes.
const ALL_PANES: (u16, u16) = (110, 30);

/// How things look: without colour they differ in shape and weight as well.
#[derive(Clone, Copy, Debug)]
pub struct Theme {
    pub colour: bool,
}

impl Theme {
    fn coloured(self, style: Style, colour: Color) -> Style {
        if self.colour { style.fg(colour) } else { style }
    }

    fn plain(self) -> Style {
        Style::default()
    }

    fn faint(self) -> Style {
        Style::default().add_modifier(Modifier::DIM)
    }

    fn strong(self) -> Style {
        Style::default().add_modifier(Modifier::BOLD)
    }

    fn best(self) -> Style {
        self.coloured(self.strong(), Color::Green)
    }

    fn alarm(self) -> Style {
        self.coloured(self.strong(), Color::Yellow)
    }

    fn chosen(self) -> Style {
        self.coloured(self.strong(), Color::Cyan)
    }

    /// Of a chart's line number `at`.
    fn line(self, at: usize, is_latest: bool) -> Style {
        const COLOURS: [Color; 6] = [Color::Cyan, Color::Yellow, Color::Magenta, Color::Green, Color::Blue, Color::Red];
        let style = if is_latest { self.strong() } else { self.plain() };
        self.coloured(style, COLOURS[at % COLOURS.len()])
    }
}

/// Draws everything.
pub fn draw(frame: &mut Frame, watched: &Watched, app: &App, theme: Theme) {
    let area = frame.area();
    let has_all = area.width >= ALL_PANES.0 && area.height >= ALL_PANES.1;
    // What is least missed goes first where there is no room.
    let (head, tabs, foot) = match area.height {
        0..=5 => (0, 0, 0),
        6..=9 => (1, 0, 0),
        _ => (3, u16::from(!has_all), 1),
    };
    let rows = [Constraint::Length(head), Constraint::Length(tabs), Constraint::Min(0), Constraint::Length(foot)];
    let [head, tabs, body, foot] = Layout::vertical(rows).areas(area);
    draw_head(frame, head, watched, theme);
    draw_tabs(frame, tabs, watched, app, theme);
    if has_all {
        let [left, right] = Layout::horizontal([Constraint::Percentage(60), Constraint::Min(0)]).areas(body);
        let halves = [Constraint::Percentage(60), Constraint::Min(0)];
        let [curves, results] = Layout::vertical(halves).areas(left);
        let [samples, guards] = Layout::vertical(halves).areas(right);
        for (pane, area) in Pane::ALL.into_iter().zip([curves, results, samples, guards]) {
            draw_pane(frame, area, pane, watched, app, theme);
        }
    } else {
        draw_pane(frame, body, app.pane, watched, app, theme);
    }
    draw_foot(frame, foot, watched, theme);
    if app.helps {
        draw_help(frame, area, theme);
    }
}

fn draw_pane(frame: &mut Frame, area: Rect, pane: Pane, watched: &Watched, app: &App, theme: Theme) {
    let (is_chosen, scrolled) = (pane == app.pane, app.scrolled[pane as usize]);
    let (border, style) = match is_chosen {
        true => (BorderType::Thick, theme.chosen()),
        false => (BorderType::Plain, theme.faint()),
    };
    let title = format!(" {} {} ", pane as usize + 1, pane.name());
    let title_style = if is_chosen { theme.chosen() } else { theme.plain() };
    let block = Block::bordered().border_type(border).border_style(style).title(Span::styled(title, title_style));
    match pane {
        Pane::Curves => curves::draw(frame, area, block, watched, app, theme),
        Pane::Results => results::draw(frame, area, block, watched, scrolled, theme),
        Pane::Samples => samples::draw(frame, area, block, watched, app, theme),
        Pane::Guards => results::draw_guards(frame, area, block, watched, scrolled),
    }
}

/// The run, its stage, and how far that is.
fn draw_head(frame: &mut Frame, area: Rect, watched: &Watched, theme: Theme) {
    let (work, columns) = (watched.work(), usize::from(area.width));
    let progress = watched.progress.as_ref();
    let (done, all) = (watched.manifest.finished(), watched.manifest.stages.len());
    let state = match &work {
        Work::Going => {
            let elapsed = progress.map(|progress| duration(progress.written - progress.run_began));
            let memory = progress.and_then(|progress| progress.resident_bytes).map(bytes);
            let told: Vec<_> = elapsed.into_iter().chain(memory).collect();
            format!("at work {}", told.join(", "))
        }
        Work::Finished => "finished".into(),
        Work::Rests(Some(since)) => format!("not at work since {}", clock(*since)),
        Work::Rests(None) => "not at work".into(),
    };
    let stage = match (watched.stage(), &work) {
        (Some((number, name)), Work::Going) => format!("stage {number} of {all}: {name}"),
        (Some(_), Work::Finished) => format!("ended early without a better iteration: {done} of {all} stages are done"),
        (Some((_, name)), _) => format!("{done} of {all} stages are done, and {name} is next"),
        (None, _) => format!("all {all} stages are done"),
    };
    let note = progress.filter(|_| work == Work::Going).map_or("", |progress| progress.note.as_str());
    let bar = match (&work, progress, watched.pace()) {
        (Work::Going, Some(progress), Some(pace)) => {
            Facts { what: String::new(), unit: progress.unit.clone(), pace, memory: None, note: String::new() }
                .bar(columns)
        }
        (Work::Going, ..) => "getting ready".into(),
        (Work::Rests(_), ..) => "the same `topspin run` goes on where it ended".into(),
        (Work::Finished, ..) => "`topspin report` makes a page of it".into(),
    };
    let state_style = if matches!(work, Work::Rests(_)) { theme.alarm() } else { theme.plain() };
    let name = watched.dir.display().to_string();
    let lines = [
        sides(name, theme.strong(), state, state_style, columns),
        sides(stage, theme.plain(), note.into(), theme.faint(), columns),
        Line::raw(bar),
    ];
    // Of one line alone the bar is the one.
    let lines = if area.height == 1 { lines[2..].to_vec() } else { lines.to_vec() };
    frame.render_widget(Paragraph::new(lines), area);
}

/// Two texts at the two ends of a line, the right one only where there is room for it.
fn sides<'a>(left: String, left_style: Style, right: String, right_style: Style, columns: usize) -> Line<'a> {
    let clean = |text: &str| text::wrap(text, usize::MAX).join(" ");
    let (left, right) = (clean(&left), clean(&right));
    let gap = columns.saturating_sub(text::width(&left) + text::width(&right));
    let left = Span::styled(left, left_style);
    if gap == 0 {
        left.into()
    } else {
        Line::from(vec![left, " ".repeat(gap).into(), Span::styled(right, right_style)])
    }
}

fn draw_tabs(frame: &mut Frame, area: Rect, watched: &Watched, app: &App, theme: Theme) {
    let tabs = Pane::ALL.into_iter().map(|pane| {
        let count = match pane {
            Pane::Guards if !watched.summary.guards.is_empty() => format!(" ({})", watched.summary.guards.len()),
            _ => String::new(),
        };
        let text = format!(" {} {}{count} ", pane as usize + 1, pane.name());
        if pane == app.pane { Span::styled(text, theme.chosen().add_modifier(Modifier::REVERSED)) } else { text.into() }
    });
    frame.render_widget(Line::from(tabs.collect::<Vec<_>>()), area);
}

fn draw_foot(frame: &mut Frame, area: Rect, watched: &Watched, theme: Theme) {
    let line = match &watched.problem {
        Some(problem) => Line::styled(text::wrap(problem, usize::MAX).join(" "), theme.alarm()),
        None => Line::styled("q quit  ? help  Tab pane  ↑↓ choose or scroll  c curve  p n sample", theme.faint()),
    };
    frame.render_widget(line, area);
}

const HELP: [&str; 12] = [
    "q, Esc, Ctrl-C    quit; the run goes on",
    "Tab, → and ←      next pane, and the one before",
    "1 2 3 4           curves, results, samples, guards",
    "↑ ↓, PgUp PgDn    in the curves another quantity;",
    "                  elsewhere scroll",
    "c                 another quantity, from any pane",
    "p n               the sample before, and the next;",
    "                  behind the last, always the newest",
    "",
    "★ is the best so far. ⠒ is the training at work, and",
    "• are those before it; their last values are beside.",
    "Any key closes this.",
];

fn draw_help(frame: &mut Frame, area: Rect, theme: Theme) {
    let wide = HELP.iter().map(|line| text::width(line)).max().unwrap_or(0) as u16 + 4;
    let high = HELP.len() as u16 + 2;
    let (width, height) = (wide.min(area.width), high.min(area.height));
    let (x, y) = (area.x + (area.width - width) / 2, area.y + (area.height - height) / 2);
    let area = Rect { x, y, width, height };
    let block = Block::bordered().border_type(BorderType::Thick).border_style(theme.chosen()).title(" Keys ");
    frame.render_widget(Clear, area);
    frame.render_widget(Paragraph::new(HELP.map(|line| Line::raw(format!(" {line}"))).to_vec()).block(block), area);
}
