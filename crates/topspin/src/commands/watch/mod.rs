//! `topspin watch`: a run while it is at work, on the whole screen.

mod app;
mod curves;
mod library;
mod model;
mod samples;
mod tail;
mod view;

use std::io::{IsTerminal, stdout};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyEventKind};

use self::app::App;
use self::model::Watched;
use self::view::Theme;
use crate::error::{Interrupted, welcomes_colour};
use crate::interrupt::Graceful;
use crate::progress;

const EXAMPLES: &str = "\
Examples:
  topspin watch runs/e2e-smollm2
  ssh -t far topspin watch runs/e2e-smollm2         A run on another machine
  topspin inspect runs/e2e-smollm2                  The same once, as text

Keys: Tab and 1 to 4 choose a pane, the arrow keys what is in it, ? explains all, q quits. The run does not notice.";

/// Time between two looks at the run's files.
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);
/// The longest that a signal waits.
const BETWEEN_SIGNALS: Duration = Duration::from_millis(100);

/// See a run at work: how far it is, its curves, results, guards and newest answers
///
/// It reads files alone, those of the run's folder and the data that they name: the run may be on a shared disk, and the view may
/// be started and ended at any time. A run that is finished or rests can be looked at as well.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The folder of a run
    #[arg(value_name = "RUN")]
    run: PathBuf,
}

/// Watches until a key says that it is enough.
pub fn run(args: Args) -> anyhow::Result<()> {
    let mut watched = Watched::open(&args.run)?;
    if !stdout().is_terminal() {
        let run = args.run.display();
        bail!("stdout is no terminal, which `topspin watch` needs; `topspin inspect {run}` prints how far the run is");
    }
    // What else is on the screen would be drawn over.
    progress::allow_bars(false);
    let graceful = Graceful::begin();
    let mut screen = Screen::open().context("the terminal cannot be used")?;
    let ended = watch(&mut screen.terminal, &mut watched);
    drop(screen);
    drop(graceful);
    ended
}

fn watch(terminal: &mut DefaultTerminal, watched: &mut Watched) -> anyhow::Result<()> {
    let (mut app, theme) = (App::default(), Theme { colour: welcomes_colour() });
    let (mut looked, mut is_current) = (Instant::now(), false);
    loop {
        if Graceful::requested().load(Ordering::SeqCst) {
            return Err(Interrupted("no longer watched; the run itself goes on".into()).into());
        }
        if looked.elapsed() >= BETWEEN_LOOKS {
            watched.look();
            (looked, is_current) = (Instant::now(), false);
        }
        if !is_current {
            terminal.draw(|frame| view::draw(frame, watched, &app, theme))?;
            is_current = true;
        }
        if event::poll(BETWEEN_SIGNALS)? {
            is_current = false;
            match event::read()? {
                Event::Key(key) if key.kind != KeyEventKind::Release && app.press(key, watched) => return Ok(()),
                _ => {}
            }
        }
    }
}

/// The whole screen, given back when it is dropped; after a panic before its sentence is printed.
struct Screen {
    terminal: DefaultTerminal,
}

impl Screen {
    fn open() -> std::io::Result<Self> {
        let terminal = ratatui::try_init().inspect_err(|_| ratatui::restore())?;
        Ok(Self { terminal })
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = self.terminal.show_cursor();
        ratatui::restore();
    }
}
