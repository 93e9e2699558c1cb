//! The training state in the middle of a stage: what a killed run needs to end with the same bytes.
//!
//! One file, little-endian:
//!
//! | bytes | content |
//! |---|---|
//! | 16 | `topspin state 1\n` |
//! | to the next `\n` | a JSON object: `tag`, `rule`, `steps`, `epoch`, `visited`, `params` (the arena's length) |
//! | 4 x `params` | the parameters, f32 |
//! | 4 x `params` for each moment | the optimizer's moments, f32 |
//! | 32 | SHA-256 of all that precedes |

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use topspin_files::{Action, FileError};
use topspin_kernels::device::{Buffer, Device};

use crate::order::Position;
use crate::trainer::Trainer;

const MAGIC: &[u8; 16] = b"topspin state 1\n";
const DIGEST: usize = 32;
/// Elements on the way between device and file at once.
const CHUNK: usize = 1 << 16;
/// Longest header that is read: a damaged file need not have a line end.
const LONGEST_HEADER: u64 = 1 << 16;

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    tag: String,
    rule: String,
    steps: u32,
    epoch: u32,
    visited: u64,
    params: u64,
}

/// Why a training state could not be saved or taken up.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file is not what was written.
    #[error("the training state `{}` is damaged: {problem}; remove it, and its stage starts over", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The file is sound but of another stage.
    #[error("the training state `{}` is of another stage: {problem}; remove it, and the stage starts over", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What differs.
        problem: String,
    },
}

impl<D: Device> Trainer<D> {
    /// Saves parameters, moments and `position`, whole or not at all. `tag` says what the state belongs to: the stage
    /// and its inputs.
    pub fn save_state(&self, path: &Path, tag: &str, position: Position) -> Result<(), StateError> {
        let (decoder, optimizer) = (self.decoder(), self.optimizer());
        let header = Header {
            tag: tag.into(),
            rule: optimizer.settings().rule.name().into(),
            steps: optimizer.steps(),
            epoch: position.epoch,
            visited: position.visited,
            params: decoder.params().len() as u64,
        };
        topspin_files::write_atomic(path, |out| {
            let mut out = Hashing { out, hash: Sha256::new() };
            out.write_all(MAGIC)?;
            serde_json::to_writer(&mut out, &header)?;
            out.write_all(b"\n")?;
            for arena in std::iter::once(decoder.params()).chain(optimizer.moments()) {
                write_arena(decoder.device(), arena, &mut out)?;
            }
            let digest = out.hash.finalize();
            out.out.write_all(&digest)
        })?;
        Ok(())
    }

    /// Takes up a state that a trainer of the same model and settings saved under the same tag, and returns its
    /// position. From there on the trainer does, to the bit, what the other one would have done.
    ///
    /// The file is verified before anything is changed. If it cannot be read after that, the trainer is of no use.
    pub fn load_state(&mut self, path: &Path, tag: &str) -> Result<Position, StateError> {
        let mut file = topspin_files::open(path)?;
        let fail = |e| StateError::from(FileError::new(Action::Read, path, e));
        let damaged = |problem: String| StateError::Damaged { path: path.into(), problem };
        let header = read_header(&mut file).map_err(fail)?.map_err(damaged)?;
        self.expect(&header, tag).map_err(|problem| StateError::Foreign { path: path.into(), problem })?;
        let body = file.stream_position().map_err(fail)?;
        let arenas = 1 + self.optimizer().moments().len() as u64;
        let expected = body + 4 * arenas * header.params + DIGEST as u64;
        verify(&mut file, expected).map_err(fail)?.map_err(damaged)?;

        file.seek(io::SeekFrom::Start(body)).map_err(fail)?;
        let (decoder, optimizer) = self.state_mut();
        let mut done = Ok(());
        decoder.update(|device, params| done = read_arena(device, params, &mut file));
        done.map_err(fail)?;
        let device = decoder.device();
        optimizer.restore(header.steps, |moment| read_arena(device, moment, &mut file)).map_err(fail)?;
        Ok(Position { epoch: header.epoch, visited: header.visited })
    }

    /// Whether a header is of this trainer; what differs.
    fn expect(&self, header: &Header, tag: &str) -> Result<(), String> {
        let (params, rule) = (self.decoder().params().len() as u64, self.optimizer().settings().rule.name());
        if header.tag != tag {
            return Err(format!("it belongs to `{}`, not to `{tag}`", header.tag));
        }
        if header.rule != rule {
            return Err(format!("it was saved by the optimizer `{}`, not `{rule}`", header.rule));
        }
        if header.params != params {
            return Err(format!("it has {} parameters, but the model has {params}", header.params));
        }
        Ok(())
    }
}

/// A writer that hashes what passes.
struct Hashing<W> {
    out: W,
    hash: Sha256,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// The header, with the file left at the first parameter; what is wrong with it.
fn read_header(file: &mut BufReader<File>) -> io::Result<Result<Header, String>> {
    let mut magic = Vec::new();
    file.take(MAGIC.len() as u64).read_to_end(&mut magic)?;
    if magic != MAGIC {
        return Ok(Err("it does not begin as one".into()));
    }
    let mut line = Vec::new();
    file.take(LONGEST_HEADER).read_until(b'\n', &mut line)?;
    Ok(serde_json::from_slice(&line).map_err(|e| format!("its header cannot be read ({e})")))
}

/// Whether the file has the expected length and its digest; what is wrong with it.
fn verify(file: &mut BufReader<File>, expected: u64) -> io::Result<Result<(), String>> {
    let len = file.seek(io::SeekFrom::End(0))?;
    if len != expected {
        return Ok(Err(format!("it has {len} bytes instead of {expected}")));
    }
    file.rewind()?;
    let mut hash = Sha256::new();
    let mut rest = len - DIGEST as u64;
    let mut bytes = vec![0; 4 * CHUNK];
    while rest > 0 {
        let part = rest.min(bytes.len() as u64) as usize;
        file.read_exact(&mut bytes[..part])?;
        hash.update(&bytes[..part]);
        rest -= part as u64;
    }
    let mut digest = [0; DIGEST];
    file.read_exact(&mut digest)?;
    Ok(if hash.finalize()[..] == digest { Ok(()) } else { Err("its checksum does not match".into()) })
}

/// An arena in chunks.
fn chunks(len: usize) -> impl Iterator<Item = Range<usize>> {
    (0..len).step_by(CHUNK).map(move |start| start..len.min(start + CHUNK))
}

fn write_arena<D: Device>(device: &D, arena: &D::Buffer, out: &mut impl Write) -> io::Result<()> {
    let (mut elements, mut bytes) = (vec![0.0; CHUNK], Vec::with_capacity(4 * CHUNK));
    for chunk in chunks(arena.len()) {
        let elements = &mut elements[..chunk.len()];
        device.read(arena.part(chunk), elements);
        bytes.clear();
        bytes.extend(elements.iter().flat_map(|element| element.to_le_bytes()));
        out.write_all(&bytes)?;
    }
    Ok(())
}

fn read_arena<D: Device>(device: &D, arena: &mut D::Buffer, from: &mut impl Read) -> io::Result<()> {
    let (mut elements, mut bytes) = (vec![0.0; CHUNK], vec![0; 4 * CHUNK]);
    for chunk in chunks(arena.len()) {
        let (elements, bytes) = (&mut elements[..chunk.len()], &mut bytes[..4 * chunk.len()]);
        from.read_exact(bytes)?;
        let (quads, _) = bytes.as_chunks();
        elements.iter_mut().zip(quads).for_each(|(element, &quad)| *element = f32::from_le_bytes(quad));
        device.write(arena.part_mut(chunk), elements);
    }
    Ok(())
}
