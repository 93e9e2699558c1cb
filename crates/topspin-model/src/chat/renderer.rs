//! The thread that renders: one with a deep stack, which can be given up.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use minijinja::Error;

/// How long a rendering is waited for. A list that is added to itself is put together outside of any step: 33 times over, that
/// takes longer than anyone waits, and some fifty megabytes a second. What is given up goes on until the process ends.
const PATIENCE: Duration = Duration::from_secs(5);

/// Bytes of stack for values within values: enough for as many as a rendering has steps, since the engine goes down into them
/// one by one. They are taken as they are used.
const DEEP_STACK: usize = 1 << 29;

type Rendered = Result<String, Error>;
type Job = Box<dyn FnOnce() -> Rendered + Send>;

/// Renders on a thread of its own, started when it is first wanted and shared by all copies.
#[derive(Clone, Debug, Default)]
pub(super) struct Renderer(Arc<Mutex<Option<Worker>>>);

#[derive(Debug)]
struct Worker {
    jobs: Sender<Job>,
    done: Receiver<Rendered>,
}

impl Worker {
    fn start() -> std::io::Result<Self> {
        let ((jobs, todo), (send, done)) = (mpsc::channel::<Job>(), mpsc::channel());
        // Ends with the last of those that ask for work.
        let work = move || todo.into_iter().try_for_each(|job| send.send(job()));
        thread::Builder::new().name("chat template".into()).stack_size(DEEP_STACK).spawn(work)?;
        Ok(Self { jobs, done })
    }
}

impl Renderer {
    /// Has `render` done; a problem is one of its time or thread.
    pub fn run(&self, render: impl FnOnce() -> Rendered + Send + 'static) -> Result<Rendered, String> {
        let mut worker = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at_work = match worker.take() {
            Some(at_work) => at_work,
            None => Worker::start().map_err(|e| format!("there is no thread to run it on ({e})"))?,
        };
        let failed = || "the engine fails on it".to_owned();
        at_work.jobs.send(Box::new(render)).map_err(|_| failed())?;
        match at_work.done.recv_timeout(PATIENCE) {
            Ok(rendered) => {
                *worker = Some(at_work);
                Ok(rendered)
            }
            Err(RecvTimeoutError::Timeout) => {
                Err(format!("it takes longer than {} s; mend the template", PATIENCE.as_secs()))
            }
            Err(RecvTimeoutError::Disconnected) => Err(failed()),
        }
    }
}
