//! `topspin chat`: a conversation in the terminal.

use std::io::{self, BufRead, IsTerminal, Write, stdin, stdout};

use anyhow::Context;
use topspin_kernels::cpu::Cpu;
use topspin_model::chat::Message;
use topspin_rollout::{Engine, EngineSettings, Event, Request, RolloutError, SampleKey, Task};

use crate::engine::{self, Model};
use crate::flags::{ModelFlags, SamplingFlags};
use crate::interrupt::Graceful;

const EXAMPLES: &str = "\
Examples:
  topspin chat --model M
  topspin chat --model M --system 'Answer in one sentence.' --temperature 0.7
  echo 'What is a top?' | topspin chat --model M --greedy";

/// Talk to a model in the terminal
///
/// Type a message and Enter. `/reset` forgets the conversation, `/quit` or Ctrl-D ends it, Ctrl-C ends the answer.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    model: ModelFlags,
    #[command(flatten)]
    sampling: SamplingFlags,
    /// Instructions that stand before the conversation
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
}

/// Talks until the input ends.
pub fn run(args: Args) -> anyhow::Result<()> {
    let model = Model::load(engine::open(&args.model.model)?, &args.model)?;
    let interactive = stdin().is_terminal() && stdout().is_terminal();
    let mut chat = Chat::new(&model, &args)?;
    let mut input = stdin().lock();
    let mut line = String::new();
    loop {
        if interactive {
            show("> ")?;
        }
        line.clear();
        if input.read_line(&mut line).context("cannot read from stdin; type or pipe UTF-8 text")? == 0 {
            break;
        }
        match line.trim() {
            "" => {}
            "/quit" => return Ok(()),
            "/reset" => chat.reset(),
            // A turn that cannot be taken, because it is too long for one, is no reason to lose the others.
            text if interactive => chat.answer(text).or_else(|problem| show(&format!("{problem}\n")))?,
            text => chat.answer(text)?,
        }
    }
    if interactive { show("\n") } else { Ok(()) }
}

/// A conversation and the engine that holds its keys and values.
struct Chat<'a> {
    model: &'a Model,
    args: &'a Args,
    engine: Engine<'a, Cpu>,
    /// Slots of the engine's store.
    slots: usize,
    messages: Vec<Message>,
    /// Answers given so far: each has random numbers of its own.
    answers: u64,
}

impl<'a> Chat<'a> {
    fn new(model: &'a Model, args: &'a Args) -> anyhow::Result<Self> {
        let slots = 2048;
        let engine = new_engine(model, args, slots)?;
        let mut chat = Self { model, args, engine, slots, messages: Vec::new(), answers: 0 };
        chat.reset();
        Ok(chat)
    }

    /// Forgets the conversation.
    fn reset(&mut self) {
        self.messages = self.args.system.iter().map(|text| Message::new("system", text)).collect();
    }

    /// Takes a turn and prints the answer as it comes.
    fn answer(&mut self, text: &str) -> anyhow::Result<()> {
        self.messages.push(Message::new("user", text));
        match self.stream() {
            Ok(answer) => self.messages.push(Message::new("assistant", answer)),
            Err(problem) => {
                self.messages.pop();
                return Err(problem);
            }
        }
        self.answers += 1;
        Ok(())
    }

    fn stream(&mut self) -> anyhow::Result<String> {
        let dialect = &self.model.files.dialect;
        let request = Request {
            prompt: dialect.encode_prompt(&self.messages)?,
            task: Task::Sample {
                key: SampleKey { prompt: self.answers, sample: 0 },
                max_new_tokens: self.args.sampling.max_new_tokens,
            },
        };
        self.check(&request.prompt)?;
        self.make_room(&request.prompt)?;
        let mut text = dialect.tokenizer().stream();
        let (mut answer, mut shown) = (String::new(), Ok(()));
        let mut say = |part: &str| {
            answer.push_str(part);
            if shown.is_ok() {
                shown = show(part);
            }
        };
        // From here on Ctrl-C ends the answer.
        let work = Graceful::begin();
        let ended = self.engine.run_with(&[request], |event| {
            if let Event::Token { token, .. } = event
                && !dialect.is_stop(token)
            {
                say(&text.push(token));
            }
        });
        drop(work);
        say(&text.finish());
        shown?;
        show("\n")?;
        match ended {
            Ok(_) | Err(RolloutError::Stopped { .. }) => Ok(answer),
            Err(problem) => Err(problem.into()),
        }
    }

    /// Checks that the conversation leaves room for an answer.
    fn check(&self, prompt: &[u32]) -> anyhow::Result<()> {
        let (tokens, context) = (prompt.len(), self.model.files.config.max_positions);
        anyhow::ensure!(
            tokens < context,
            "the conversation has {tokens} tokens, which leaves no room for an answer in the model's context of \
             {context}; start anew with `/reset`"
        );
        Ok(())
    }

    /// Makes the store twice as large as is needed where it is too small, which costs the keys and values in it.
    fn make_room(&mut self, prompt: &[u32]) -> anyhow::Result<()> {
        // Prompt and answer each begin with a block of slots.
        let answer = self.args.sampling.max_new_tokens.min(self.model.files.config.max_positions);
        let needed = prompt.len() + answer + 32;
        if needed > self.slots {
            self.slots = 2 * needed;
            self.engine = new_engine(self.model, self.args, self.slots)?;
        }
        Ok(())
    }
}

fn new_engine<'a>(model: &'a Model, args: &Args, slots: usize) -> anyhow::Result<Engine<'a, Cpu>> {
    let settings = EngineSettings {
        live_sequences: 1,
        kv_slots: Some(slots),
        stop_ids: model.files.dialect.tokenizer().stop_ids().to_vec(),
        sampling: args.sampling.sampling(),
        seed: args.sampling.seed,
        ..EngineSettings::default()
    };
    Ok(Engine::new(&model.decoder, settings)?.stop_when(Graceful::requested()))
}

/// Prints a piece of text at once.
fn show(text: &str) -> anyhow::Result<()> {
    let write = |mut out: io::StdoutLock<'_>| out.write_all(text.as_bytes()).and_then(|()| out.flush());
    write(stdout().lock()).context("cannot write to stdout")
}
