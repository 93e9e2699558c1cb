//! Commands of the user's: started, watched, read line by line, and ended where they fall silent.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use topspin_files::FileError;

/// Longest line that is read, in bytes: no number and no object of figures is longer.
const LONGEST: usize = 1 << 20;
/// Lines that wait to be taken.
const WAITING: usize = 1024;
/// Time between two looks at whether it is to end.
const GLANCE: Duration = Duration::from_millis(20);

/// What a command did wrong, or why it was ended.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// It failed, fell silent, or printed what it should not.
    #[error("the command `{command}` (`{setting}`) {problem}; try it by hand on `{}`", file.display())]
    Fault {
        /// The setting that names it.
        setting: String,
        /// The command.
        command: String,
        /// What it did.
        problem: String,
        /// The file that it was to read.
        file: PathBuf,
    },
    /// It was ended because its work is to end early.
    #[error("`{work}` was stopped")]
    Stopped {
        /// What it worked for.
        work: String,
    },
    /// Its file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
}

/// A command and the file that is its input.
pub struct Call<'a> {
    /// The setting that names it.
    pub setting: &'a str,
    /// The program with its arguments, one word at least.
    pub command: &'a [String],
    /// Its input.
    pub file: &'a Path,
    /// Longest silence.
    pub patience: Duration,
    /// What it works for: a stage of a run, or a task.
    pub work: &'a str,
    /// Set when it is to end early.
    pub stop: &'a AtomicBool,
}

impl Call<'_> {
    /// Runs the command to its end and hands over what it prints, line by line, without the line's end. An error ends it.
    pub fn run<E: From<CommandError>>(&self, mut take: impl FnMut(&str) -> Result<(), E>) -> Result<(), E> {
        let (program, arguments) = self.command.split_first().expect("a command that is run has a name");
        let mut command = Command::new(program);
        // What it has to say beside its figures goes where this program's own messages go.
        command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::inherit());
        command.stdin(topspin_files::open(self.file).map_err(CommandError::from)?.into_inner());
        let child = command.spawn().map_err(|e| self.fault(&format!("cannot be started ({e})")))?;
        let mut running = Running(child);
        let lines = read(running.0.stdout.take().expect("its output is piped"));
        let mut heard = Instant::now();
        loop {
            match lines.recv_timeout(GLANCE) {
                Ok(line) => {
                    take(&line.map_err(|problem| self.fault(&problem))?)?;
                    heard = Instant::now();
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.check(heard)?;
        }
        let status = loop {
            match running.0.try_wait().map_err(|e| self.fault(&format!("cannot be waited for ({e})")))? {
                Some(status) => break status,
                None => thread::sleep(GLANCE),
            }
            self.check(heard)?;
        };
        // A signal from the terminal ends the command too: that is no fault of its own.
        self.check(Instant::now())?;
        if status.success() { Ok(()) } else { Err(self.fault(&format!("failed ({status})")).into()) }
    }

    /// What the command did wrong.
    pub fn fault(&self, problem: &str) -> CommandError {
        let (setting, command) = (self.setting.into(), self.command.join(" "));
        CommandError::Fault { setting, command, problem: problem.into(), file: self.file.into() }
    }

    /// Whether it may go on, having been heard of at `heard`.
    fn check(&self, heard: Instant) -> Result<(), CommandError> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(CommandError::Stopped { work: self.work.into() });
        }
        if heard.elapsed() > self.patience {
            return Err(self.fault(&format!("was silent for {} s, and was ended", self.patience.as_secs())));
        }
        Ok(())
    }
}

/// A process that does not outlive its call.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Where it has ended by itself there is nothing to end.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a process prints, line by line, or why it cannot be read. The thread that reads ends with the output: a process
/// that was left behind by an ended one may hold it open.
fn read(output: ChildStdout) -> Receiver<Result<String, String>> {
    let (send, lines) = sync_channel(WAITING);
    thread::spawn(move || {
        let mut output = BufReader::new(output);
        loop {
            let mut line = Vec::new();
            let said = match output.by_ref().take(LONGEST as u64).read_until(b'\n', &mut line) {
                Ok(0) => return,
                Ok(LONGEST) if !line.ends_with(b"\n") => Err(format!("printed a line of more than {LONGEST} bytes")),
                Ok(_) => {
                    let text = String::from_utf8_lossy(&line);
                    Ok(text.trim_end_matches('\n').trim_end_matches('\r').to_owned())
                }
                Err(e) => Err(format!("cannot be read ({e})")),
            };
            if send.send(said).is_err() {
                return;
            }
        }
    });
    lines
}
