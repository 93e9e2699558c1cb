//! What the viewer has chosen to look at, and the keys that change it.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::curves::Quantity;
use super::model::Watched;

/// A part of the view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pane {
    Curves,
    Results,
    Samples,
    Guards,
}

impl Pane {
    /// All of them, by the number that chooses them.
    pub const ALL: [Self; 4] = [Self::Curves, Self::Results, Self::Samples, Self::Guards];

    pub fn name(self) -> &'static str {
        match self {
            Self::Curves => "Curves",
            Self::Results => "Results",
            Self::Samples => "Samples",
            Self::Guards => "Guards",
        }
    }
}

/// What the viewer has chosen.
#[derive(Debug)]
pub struct App {
    /// The pane that keys go to; on a small screen the only one.
    pub pane: Pane,
    /// What the curves are of.
    pub quantity: Quantity,
    /// Number of the sample that is looked at; the newest, if none is chosen.
    pub sample: Option<usize>,
    /// Lines of each pane that are scrolled by.
    pub scrolled: [usize; 4],
    /// Whether the keys are explained.
    pub helps: bool,
}

impl Default for App {
    fn default() -> Self {
        Self { pane: Pane::Curves, quantity: Quantity::Loss, sample: None, scrolled: [0; 4], helps: false }
    }
}

/// How far a key for a page scrolls.
const PAGE: usize = 10;

impl App {
    /// Does what a key says; whether it asks for the end.
    pub fn press(&mut self, key: KeyEvent, watched: &Watched) -> bool {
        let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c') if is_control => return true,
            _ if self.helps => self.helps = false,
            KeyCode::Char('q') | KeyCode::Esc => return true,
            KeyCode::Char('?' | 'h') => self.helps = true,
            KeyCode::Tab | KeyCode::Right => self.pane = next(&Pane::ALL, self.pane, 1),
            KeyCode::BackTab | KeyCode::Left => self.pane = next(&Pane::ALL, self.pane, -1),
            KeyCode::Char(digit @ '1'..='4') => self.pane = Pane::ALL[digit as usize - '1' as usize],
            KeyCode::Char('c') => self.quantity = next(&Quantity::ALL, self.quantity, 1),
            KeyCode::Char('C') => self.quantity = next(&Quantity::ALL, self.quantity, -1),
            KeyCode::Char('n') => self.go(1, watched),
            KeyCode::Char('p') => self.go(-1, watched),
            KeyCode::Down | KeyCode::Char('j') => self.scroll(1),
            KeyCode::Up | KeyCode::Char('k') => self.scroll(-1),
            KeyCode::PageDown => self.scroll(PAGE as isize),
            KeyCode::PageUp => self.scroll(-(PAGE as isize)),
            KeyCode::Home => *self.scrolled() = 0,
            _ => {}
        }
        false
    }

    /// In the curves there is nothing to scroll, but another quantity.
    fn scroll(&mut self, by: isize) {
        match self.pane {
            Pane::Curves => self.quantity = next(&Quantity::ALL, self.quantity, by.signum()),
            _ => *self.scrolled() = self.scrolled().saturating_add_signed(by),
        }
    }

    fn scrolled(&mut self) -> &mut usize {
        &mut self.scrolled[self.pane as usize]
    }

    /// Goes to a later sample, or an earlier one; behind the last it is again the newest of each moment.
    fn go(&mut self, by: isize, watched: &Watched) {
        let all = watched.samples.all();
        let last = all.len().saturating_sub(1);
        let at = self.place(watched).saturating_add_signed(by);
        self.sample = if at > last || all.is_empty() { None } else { Some(all[at].number) };
        self.scrolled[Pane::Samples as usize] = 0;
    }

    /// The place of the sample that is looked at. One that is gone has the oldest in its stead.
    pub fn place(&self, watched: &Watched) -> usize {
        let all = watched.samples.all();
        let last = all.len().saturating_sub(1);
        self.sample.map_or(last, |number| all.partition_point(|sample| sample.number < number).min(last))
    }
}

fn next<T: Copy + PartialEq>(all: &[T], now: T, by: isize) -> T {
    let at = all.iter().position(|one| *one == now).unwrap_or(0) as isize;
    all[(at + by).rem_euclid(all.len() as isize) as usize]
}
