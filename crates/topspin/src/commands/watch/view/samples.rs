//! A prompt with its real answer and a generated one.

use ratatui::layout::Rect;
use ratatui::prelude::Frame;
use ratatui::text::Line;
use ratatui::widgets::{Block, Paragraph};

use super::Theme;
use super::results::inside;
use super::text::wrap;
use crate::commands::watch::app::{App, Pane};
use crate::commands::watch::model::Watched;

/// Draws the pane.
pub fn draw(frame: &mut Frame, area: Rect, block: Block, watched: &Watched, app: &App, theme: Theme) {
    let all = watched.samples.all();
    let place = app.place(watched);
    let Some(sample) = all.get(place) else {
        return frame.render_widget(Paragraph::new("no answer yet").block(block), area);
    };
    let newest = if app.sample.is_none() { ", the newest" } else { "" };
    let stage = &watched.samples.stage;
    let block = block.title(format!(" {stage} ")).title(format!(" {} of {}{newest} ", place + 1, all.len()));
    let mut lines: Vec<Line> = Vec::new();
    let mut part = |title: String, text: &str| {
        lines.push(Line::styled(title, theme.faint()));
        lines.extend(wrap(text, inside(area)).into_iter().map(Line::raw));
        lines.push(Line::raw(""));
    };
    match sample.known(&watched.library) {
        Some(known) => {
            part("prompt".into(), &known.prompt);
            let real =
                known.real.iter().map(|real| if known.real.len() > 1 { format!("- {real}") } else { real.clone() });
            part("real".into(), &real.collect::<Vec<_>>().join("\n"));
        }
        None => part("prompt".into(), &format!("record {}", sample.id)),
    }
    let mut title = "generated".to_owned();
    title += &sample.of_prompt.map_or_else(String::new, |number| format!(", sample {}", number + 1));
    title += &sample.player.as_ref().map_or_else(String::new, |player| format!(", by {player}"));
    title += if sample.is_cut { ", cut at the limit" } else { "" };
    part(title, &sample.answer(&watched.library));
    if let Some(problem) = &watched.library.problem {
        part("tokens are numbers".into(), problem);
    }
    let last = lines.len().saturating_sub(usize::from(area.height.saturating_sub(2)).max(1));
    let scrolled = app.scrolled[Pane::Samples as usize].min(last);
    frame.render_widget(Paragraph::new(lines.split_off(scrolled.min(lines.len()))).block(block), area);
}
