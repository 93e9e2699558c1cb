//! Work that is shown while it goes on: a bar on stderr, or, where that is no terminal, a line now and then.

use std::io::{IsTerminal, stderr};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use chrono::{DateTime, Local};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use ratatui::crossterm::terminal;
use topspin_game::run::resident_bytes;
use tracing::info;

/// How often there is a line about progress where there are no bars.
const BETWEEN_LINES: Duration = Duration::from_secs(30);
/// How often a bar is drawn, at most.
const BETWEEN_DRAWINGS: Duration = Duration::from_millis(100);
/// Columns of a terminal that does not say how many it has.
const COLUMNS: usize = 80;
/// A bar of fewer columns says nothing.
const SHORTEST: usize = 6;

/// The bars on display: one object, so that log lines can be printed above them.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// Shows bars from here on, or not.
pub fn allow_bars(allowed: bool) {
    BARS.set_draw_target(if allowed { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() });
}

/// Shows a bar that was hidden so far.
pub fn show(bar: &ProgressBar) {
    BARS.add(bar.clone());
}

/// Does something to stderr while the bars are cleared away.
pub fn above_bars<R>(write: impl FnOnce() -> R) -> R {
    BARS.suspend(write)
}

/// Work that is shown while it goes on; its bar is gone when it is dropped.
pub struct Bar {
    facts: Facts,
    bar: ProgressBar,
    begun: Instant,
    drawn: Option<Instant>,
    last_line: Instant,
    shows_bar: bool,
}

impl Bar {
    /// Shows work of `total` steps, `done` of them behind it. `what` names the work and `unit` its steps, in the plural.
    pub fn begin(what: &str, unit: &str, total: usize, done: usize) -> Self {
        let now = Instant::now();
        let pace = Pace { done, total, before: done, seconds: 0.0 };
        let style = ProgressStyle::with_template("{msg}").expect("the template is a literal");
        let mut bar = Self {
            facts: Facts { what: what.into(), unit: unit.into(), pace, memory: None, note: String::new() },
            bar: BARS.add(ProgressBar::new_spinner().with_style(style)),
            begun: now,
            drawn: None,
            last_line: now,
            shows_bar: stderr().is_terminal(),
        };
        bar.show();
        bar
    }

    /// `done` steps are behind it; `note` says how it goes in a few words.
    pub fn advance(&mut self, done: usize, note: &str) {
        (self.facts.pace.done, self.facts.note) = (done, note.into());
        self.show();
    }

    /// One step more is behind it.
    pub fn step(&mut self) {
        self.facts.pace.done += 1;
        self.show();
    }

    fn show(&mut self) {
        if self.shows_bar && self.drawn.is_none_or(|drawn| drawn.elapsed() >= BETWEEN_DRAWINGS) {
            self.measure();
            let columns = terminal::size().map_or(COLUMNS, |(columns, _)| columns.into());
            // The last column is left free: some terminals go to the next line behind it.
            self.bar.set_message(self.facts.bar(columns.saturating_sub(1)));
            self.bar.tick();
            self.drawn = Some(Instant::now());
        }
        let Pace { done, total, .. } = self.facts.pace;
        if !self.shows_bar && self.last_line.elapsed() >= BETWEEN_LINES && done < total {
            self.measure();
            info!("{}", self.facts.line());
            self.last_line = Instant::now();
        }
    }

    fn measure(&mut self) {
        (self.facts.pace.seconds, self.facts.memory) = (self.begun.elapsed().as_secs_f64(), resident_bytes());
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// How far work is, and how fast.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pace {
    /// Steps behind it.
    pub done: usize,
    /// All of its steps.
    pub total: usize,
    /// Steps that were behind it when the clock was started.
    pub before: usize,
    /// What the clock says.
    pub seconds: f64,
}

impl Pace {
    /// Steps in a second, once there is one.
    pub fn rate(&self) -> Option<f64> {
        let steps = self.done.saturating_sub(self.before);
        (steps > 0 && self.seconds > 0.0).then(|| steps as f64 / self.seconds)
    }

    /// Seconds until the end at this rate.
    pub fn seconds_left(&self) -> Option<f64> {
        let left = self.total.saturating_sub(self.done);
        Some(left as f64 / self.rate()?).filter(|_| left > 0)
    }

    /// The share that is done.
    pub fn share(&self) -> f64 {
        if self.total == 0 { 0.0 } else { (self.done as f64 / self.total as f64).min(1.0) }
    }

    /// Rate and time left, in words.
    pub fn words(&self) -> Vec<String> {
        let left = self.seconds_left().map(|seconds| format!("{} left", duration(seconds)));
        self.rate().map(rate).into_iter().chain(left).collect()
    }
}

/// What is told of work.
pub struct Facts {
    /// The work, if it is named.
    pub what: String,
    /// Its steps, in the plural.
    pub unit: String,
    /// How far it is.
    pub pace: Pace,
    /// Resident, in bytes.
    pub memory: Option<u64>,
    /// How it goes in a few words.
    pub note: String,
}

impl Facts {
    /// A sentence.
    fn line(&self) -> String {
        let Pace { done, total, .. } = self.pace;
        let mut parts = vec![format!("{}: {done} of {total} {}", self.what, self.unit)];
        parts.extend(self.pace.words());
        parts.extend(self.memory.map(bytes));
        parts.extend(Some(self.note.clone()).filter(|note| !note.is_empty()));
        parts.join(", ")
    }

    /// A line of at most so many columns: a bar with all that fits beside it.
    pub fn bar(&self, columns: usize) -> String {
        let Pace { done, total, .. } = self.pace;
        // What is told, the most important first: in this order it goes where there is room.
        let mut parts = vec![format!("{done}/{total}")];
        parts.extend(self.pace.words().into_iter().rev());
        parts.extend(self.memory.map(bytes));
        let first = parts.len();
        parts.extend(self.note.split(", ").filter(|part| !part.is_empty()).map(str::to_owned));
        let head = Some(format!("{} ", self.what)).filter(|head| head.len() > 1).unwrap_or_default();
        let tail = |number: usize| {
            let mut shown = parts[..number].to_vec();
            if number > 1 {
                shown[0] += &format!(" {}", self.unit);
            }
            // As one reads it: the rate before the time that follows from it.
            let words = self.pace.words().len().min(number.min(first).saturating_sub(1));
            shown[1..1 + words].reverse();
            shown.join(", ")
        };
        let room = |text: &str| columns.checked_sub(head.chars().count() + 1 + text.chars().count());
        let fits = |number: &usize| room(&tail(*number)).is_some_and(|room| room >= SHORTEST);
        let Some(number) = (1..=parts.len()).rev().find(fits) else {
            let short = [format!("{head}{}", parts[0]), parts[0].clone()];
            return short.into_iter().find(|short| short.chars().count() <= columns).unwrap_or_default();
        };
        let tail = tail(number);
        let length = room(&tail).unwrap_or_default();
        let full = (self.pace.share() * length as f64) as usize;
        format!("{head}{}{} {tail}", "━".repeat(full), "─".repeat(length - full))
    }
}

/// Steps in a second, or in a unit of time in which there are some.
pub fn rate(per_second: f64) -> String {
    let (value, unit) = match per_second {
        r if r >= 1.0 => (r, "s"),
        r if r * 60.0 >= 1.0 => (r * 60.0, "min"),
        r => (r * 3600.0, "h"),
    };
    if value >= 100.0 { format!("{value:.0}/{unit}") } else { format!("{value:.1}/{unit}") }
}

/// A time in its two largest units.
pub fn duration(seconds: f64) -> String {
    // From a float the conversion saturates, so that no rate is too small.
    let s = seconds.round() as u64;
    match (s / 86_400, s / 3600 % 24, s / 60 % 60, s % 60) {
        (0, 0, 0, s) => format!("{s}s"),
        (0, 0, min, s) => format!("{min}m {s:02}s"),
        (0, h, min, _) => format!("{h}h {min:02}m"),
        (d, h, ..) => format!("{d}d {h:02}h"),
    }
}

/// A moment in seconds since 1970 as the clock on the wall shows it, with its day if that is not today.
pub fn clock(moment: f64) -> String {
    let Some(moment) = DateTime::from_timestamp(moment as i64, 0) else { return "a moment that no clock knows".into() };
    let (moment, now) = (moment.with_timezone(&Local), Local::now());
    let form = if moment.date_naive() == now.date_naive() { "%H:%M" } else { "%Y-%m-%d %H:%M" };
    moment.format(form).to_string()
}

/// An amount of memory.
pub fn bytes(bytes: u64) -> String {
    match bytes as f64 {
        b if b >= 1e9 => format!("{:.1} GB", b / 1e9),
        b => format!("{:.0} MB", b / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        let pace = Pace { done: 320, total: 1000, before: 20, seconds: 60.0 };
        let note = "loss 0.6931, accuracy 0.50, margin 0.000".into();
        Facts { what: "iter-1/train".into(), unit: "steps".into(), pace, memory: Some(1_234_567_890), note }
    }

    #[test]
    fn a_line_says_all() {
        assert_eq!(
            facts().line(),
            "iter-1/train: 320 of 1000 steps, 5.0/s, 2m 16s left, 1.2 GB, loss 0.6931, accuracy 0.50, margin 0.000"
        );
        let begins = Facts { pace: Pace { done: 0, total: 9, before: 0, seconds: 1.0 }, memory: None, ..facts() };
        let line = Facts { note: String::new(), ..begins }.line();
        assert_eq!(line, "iter-1/train: 0 of 9 steps");
    }

    #[test]
    fn a_bar_tells_what_there_is_room_for() {
        let bars: Vec<_> = [120, 80, 60, 50, 40, 30, 22, 12, 3].map(|columns| facts().bar(columns)).into();
        assert_eq!(
            bars,
            [
                "iter-1/train ━━━━━━━─────────────── 320/1000 steps, 5.0/s, 2m 16s left, 1.2 GB, loss 0.6931, accuracy 0.50, margin 0.000",
                "iter-1/train ━━━──────── 320/1000 steps, 5.0/s, 2m 16s left, 1.2 GB, loss 0.6931",
                "iter-1/train ━━━───────── 320/1000 steps, 5.0/s, 2m 16s left",
                "iter-1/train ━━─────── 320/1000 steps, 2m 16s left",
                "iter-1/train ━━━━━───────────── 320/1000",
                "iter-1/train ━━────── 320/1000",
                "iter-1/train 320/1000",
                "320/1000",
                "",
            ]
        );
    }

    #[test]
    fn a_bar_fits_and_is_as_long_as_there_is_room() {
        for done in [0, 1, 20, 999, 1000, 1001] {
            for columns in 0..200 {
                let mut facts = facts();
                facts.pace.done = done;
                let bar = facts.bar(columns);
                assert!(bar.chars().count() <= columns, "{columns}: {bar}");
                assert!(!bar.contains('━') && !bar.contains('─') || bar.chars().count() == columns, "{columns}: {bar}");
            }
        }
    }

    #[test]
    fn amounts_are_told_in_units_that_fit() {
        let rates = [1234.5, 99.94, 1.0, 0.5, 0.02, 0.01, 1e-9].map(rate);
        assert_eq!(rates, ["1234/s", "99.9/s", "1.0/s", "30.0/min", "1.2/min", "36.0/h", "0.0/h"]);
        let times = [0.2, 59.4, 60.0, 3599.0, 3600.0, 86_399.0, 86_400.0 * 9.5, 1e300].map(duration);
        assert_eq!(times[..6], ["0s", "59s", "1m 00s", "59m 59s", "1h 00m", "23h 59m"]);
        assert_eq!(times[6], "9d 12h");
        assert_eq!([0, 999_999_999, 1_000_000_000].map(bytes), ["0 MB", "1000 MB", "1.0 GB"]);
    }

    #[test]
    fn the_clock_tells_the_day_if_it_is_another() {
        let now = Local::now();
        assert_eq!(clock(now.timestamp() as f64), now.format("%H:%M").to_string());
        assert!(clock(0.0).starts_with("19"), "{}", clock(0.0));
        assert_eq!(clock(f64::MAX), "a moment that no clock knows");
    }

    #[test]
    fn what_an_earlier_call_did_is_no_part_of_the_rate() {
        let pace = Pace { done: 50, total: 100, before: 40, seconds: 5.0 };
        assert_eq!((pace.rate(), pace.seconds_left(), pace.share()), (Some(2.0), Some(25.0), 0.5));
        assert_eq!(Pace { done: 40, ..pace }.rate(), None);
        assert_eq!(Pace { done: 100, ..pace }.seconds_left(), None);
        assert_eq!(Pace::default().share(), 0.0);
    }
}
