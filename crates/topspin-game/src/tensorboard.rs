//! TensorBoard's event files, as far as scalars need them.
//!
//! A file is a sequence of records (TFRecord), numbers in little-endian order: the length of the data in 8 bytes, its checksum
//! in 4, the data, their checksum in 4. The checksum is CRC-32C, turned and shifted so that data which hold checksums do not
//! confuse it. The data are a message `Event` of protocol buffers; the first one names the version of the file.
//!
//! Sources: TensorFlow's `tensorflow/core/lib/io/record_writer.h` and `hash/crc32c.h`; TensorBoard's `event.proto` and
//! `summary.proto`.

use std::fs::File;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use topspin_files::{Action, FileError};

use crate::moment::now;

/// What the first record says of the file.
const VERSION: &[u8] = b"brain.Event:2";
/// Bytes of a record beside its data.
const FRAME: u64 = 16;

/// An event file that grows: a record for each step, one step after the other.
#[derive(Debug)]
pub struct EventFile {
    path: PathBuf,
    file: File,
}

impl EventFile {
    /// Opens the file, keeps its first records as long as they are whole and of one of `steps` after the other, from the
    /// first on, and cuts off the rest. Gives back the first step that is not there.
    ///
    /// What was damaged is cut off with all that follows: whoever writes the steps can write them again.
    ///
    /// # Errors
    /// If the file cannot be opened, read or written.
    pub fn resume(path: &Path, steps: Range<u64>) -> Result<(Self, u64), FileError> {
        let fail = |e| FileError::new(Action::Write, path, e);
        let file = topspin_files::append(path)?;
        let mut reader = topspin_files::open(path)?;
        let len = file.metadata().map_err(fail)?.len();
        let (mut bytes, mut next, mut is_begun) = (0, steps.start, false);
        while let Some(data) = read_record(&mut reader, len - bytes).map_err(fail)? {
            match Event::read(&data) {
                Some(Event { version: Some(VERSION), .. }) if !is_begun => is_begun = true,
                Some(Event { version: None, step }) if is_begun && step == next && steps.contains(&step) => next += 1,
                _ => break,
            }
            bytes += data.len() as u64 + FRAME;
        }
        file.set_len(bytes).map_err(fail)?;
        let mut events = Self { path: path.into(), file };
        if !is_begun {
            events.append(&version(now()))?;
        }
        Ok((events, next))
    }

    /// Appends the figures of a step. `wall_time` is in seconds since 1970.
    pub fn push(&mut self, wall_time: f64, step: u64, scalars: &[(String, f64)]) -> Result<(), FileError> {
        self.append(&figures(wall_time, step, scalars))
    }

    fn append(&mut self, data: &[u8]) -> Result<(), FileError> {
        // In one call, so that a record is torn only where the system tears it.
        self.file.write_all(&record(data)).map_err(|e| FileError::new(Action::Write, &self.path, e))
    }
}

fn masked_crc(data: &[u8]) -> [u8; 4] {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

fn record(data: &[u8]) -> Vec<u8> {
    let len = (data.len() as u64).to_le_bytes();
    [&len[..], &masked_crc(&len), data, &masked_crc(data)].concat()
}

/// The data of the next record; none where it is not whole. `left` is the number of bytes that follow, which no length can
/// exceed.
fn read_record(reader: &mut impl Read, left: u64) -> io::Result<Option<Vec<u8>>> {
    if left < FRAME {
        return Ok(None);
    }
    let (mut len, mut crc) = ([0; 8], [0; 4]);
    reader.read_exact(&mut len)?;
    reader.read_exact(&mut crc)?;
    let size = u64::from_le_bytes(len);
    if crc != masked_crc(&len) || size > left - FRAME {
        return Ok(None);
    }
    let mut data = Vec::new();
    reader.by_ref().take(size).read_to_end(&mut data)?;
    reader.read_exact(&mut crc)?;
    Ok((crc == masked_crc(&data)).then_some(data))
}

/// How a field is encoded.
#[derive(Clone, Copy)]
enum Wire {
    Varint = 0,
    Eight = 1,
    Bytes = 2,
    Four = 5,
}

/// A message as it grows, field by field.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(mut self, mut value: u64) -> Self {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
        self
    }

    fn key(self, field: u64, wire: Wire) -> Self {
        self.varint(field << 3 | wire as u64)
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    fn bytes(self, field: u64, bytes: &[u8]) -> Self {
        self.key(field, Wire::Bytes).varint(bytes.len() as u64).raw(bytes)
    }
}

// Numbers of fields.
const WALL_TIME: u64 = 1;
const STEP: u64 = 2;
const FILE_VERSION: u64 = 3;
const SUMMARY: u64 = 5;
const SUMMARY_VALUE: u64 = 1;
const VALUE_TAG: u64 = 1;
const VALUE_SIMPLE: u64 = 2;

fn at(wall_time: f64) -> Message {
    Message::default().key(WALL_TIME, Wire::Eight).raw(&wall_time.to_le_bytes())
}

/// The event that names the version.
fn version(wall_time: f64) -> Vec<u8> {
    at(wall_time).bytes(FILE_VERSION, VERSION).0
}

/// The event of a step. Its values are single precision: the format has no others of this kind.
fn figures(wall_time: f64, step: u64, scalars: &[(String, f64)]) -> Vec<u8> {
    let mut summary = Message::default();
    for (tag, value) in scalars {
        let value = Message::default()
            .bytes(VALUE_TAG, tag.as_bytes())
            .key(VALUE_SIMPLE, Wire::Four)
            .raw(&(*value as f32).to_le_bytes());
        summary = summary.bytes(SUMMARY_VALUE, &value.0);
    }
    // A number that is 0 is left out.
    let event = if step > 0 { at(wall_time).key(STEP, Wire::Varint).varint(step) } else { at(wall_time) };
    event.bytes(SUMMARY, &summary.0).0
}

/// What is to be known of an event that was written.
#[derive(Debug, Default, PartialEq)]
struct Event<'a> {
    step: u64,
    version: Option<&'a [u8]>,
}

impl<'a> Event<'a> {
    /// Reads an event; none if it is not one.
    fn read(mut data: &'a [u8]) -> Option<Self> {
        let mut event = Self::default();
        while !data.is_empty() {
            let key = read_varint(&mut data)?;
            match (key >> 3, key & 7) {
                (STEP, 0) => event.step = read_varint(&mut data)?,
                (_, 0) => drop(read_varint(&mut data)?),
                (_, 1) => drop(data.split_off(..8)?),
                (_, 5) => drop(data.split_off(..4)?),
                (field, 2) => {
                    let len = read_varint(&mut data)?.try_into().ok()?;
                    let bytes = data.split_off(..len)?;
                    if field == FILE_VERSION {
                        event.version = Some(bytes);
                    }
                }
                _ => return None,
            }
        }
        Some(event)
    }
}

fn read_varint(data: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = *data.split_off_first()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// Steps of the records of an event file that are whole, for tests of what writes them.
#[cfg(test)]
pub(crate) fn steps_of(path: &Path) -> Vec<u64> {
    let bytes = std::fs::read(path).unwrap();
    let (mut rest, mut steps) = (&bytes[..], Vec::new());
    while let Some(data) = {
        let left = rest.len() as u64;
        read_record(&mut rest, left).unwrap()
    } {
        let event = Event::read(&data).unwrap();
        if event.version.is_none() {
            steps.push(event.step);
        }
    }
    assert!(rest.is_empty(), "{} ends with {} bytes that are no record", path.display(), rest.len());
    steps
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    struct Golden {
        wall_time: f64,
        events: Vec<GoldenEvent>,
    }

    #[derive(Deserialize)]
    struct GoldenEvent {
        wall_time: f64,
        step: u64,
        scalars: Vec<(String, f64)>,
    }

    fn golden(name: &str) -> Vec<u8> {
        fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/tensorboard").join(name)).unwrap()
    }

    #[test]
    fn the_bytes_are_those_of_tensorboard() {
        let Golden { wall_time, events } = serde_json::from_slice(&golden("events.json")).unwrap();
        let mut bytes = record(&version(wall_time));
        for GoldenEvent { wall_time, step, scalars } in &events {
            bytes.extend(record(&figures(*wall_time, *step, scalars)));
        }
        assert!(events.len() > 3 && bytes == golden("events.out.tfevents.golden"));
    }

    #[test]
    fn events_of_tensorboard_are_read() {
        let bytes = golden("events.out.tfevents.golden");
        let Golden { events, .. } = serde_json::from_slice(&golden("events.json")).unwrap();
        let mut rest = &bytes[..];
        let mut next = || {
            let left = rest.len() as u64;
            read_record(&mut rest, left).unwrap()
        };
        assert_eq!(Event::read(&next().unwrap()).unwrap().version, Some(VERSION));
        for event in events {
            assert_eq!(Event::read(&next().unwrap()), Some(Event { step: event.step, version: None }));
        }
        assert_eq!(next(), None);
    }

    fn scalars(step: u64) -> Vec<(String, f64)> {
        vec![("a/b".into(), step as f64 * 0.3), ("c".into(), -1.0)]
    }

    /// A file of the steps from 1 on.
    fn written(path: &Path, steps: u64) -> Vec<u8> {
        let (mut events, next) = EventFile::resume(path, 1..1).unwrap();
        assert_eq!(next, 1);
        (1..=steps).for_each(|step| events.push(7.5, step, &scalars(step)).unwrap());
        fs::read(path).unwrap()
    }

    proptest! {
        /// Wherever a file was torn or damaged, and whatever stands behind, it goes on from the last whole step before that, or
        /// from that which is asked for.
        #[test]
        fn a_damaged_file_goes_on_from_its_last_whole_step(
            steps in 0..6u64,
            cut in any::<prop::sample::Index>(),
            damage in any::<prop::sample::Index>(),
            flip in 0..=255u8,
            garbage in prop::collection::vec(any::<u8>(), 0..40),
            keep in 0..8u64,
        ) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("events");
            let whole = written(&path, steps);
            let mut bytes = whole.clone();
            bytes.truncate(cut.index(bytes.len() + 1));
            if let Some(byte) = bytes.len().checked_sub(1).map(|_| damage.index(bytes.len())) {
                bytes[byte] ^= flip;
            }
            let sound = bytes.iter().zip(&whole).take_while(|(a, b)| a == b).count();
            bytes.extend(&garbage);
            fs::write(&path, &bytes).unwrap();

            let (mut events, next) = EventFile::resume(&path, 1..keep + 1).unwrap();
            let ends: Vec<usize> = (0..=steps).map(|step| {
                let records = (1..=step).map(|step| record(&figures(7.5, step, &scalars(step))).len());
                record(&version(7.5)).len() + records.sum::<usize>()
            }).collect();
            let left = ends.iter().filter(|&&end| end <= sound).count().saturating_sub(1) as u64;
            prop_assert_eq!(next, left.min(keep) + 1);
            (next..=9).for_each(|step| events.push(7.5, step, &scalars(step)).unwrap());
            prop_assert_eq!(steps_of(&path), (1..=9).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_step_that_is_not_the_next_is_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events");
        let (mut events, next) = EventFile::resume(&path, 0..9).unwrap();
        assert_eq!(next, 0);
        [0, 1, 3].iter().for_each(|&step| events.push(1.5, step, &scalars(step)).unwrap());
        assert_eq!(EventFile::resume(&path, 0..9).unwrap().1, 2);
        assert_eq!(steps_of(&path), [0, 1]);
        // Records that claim more than there is are not believed.
        fs::write(&path, record(&version(1.5))).unwrap();
        let claim = u64::MAX.to_le_bytes();
        let mut file = topspin_files::append(&path).unwrap();
        file.write_all(&[&claim[..], &masked_crc(&claim), &[0; 40]].concat()).unwrap();
        assert_eq!(EventFile::resume(&path, 0..9).unwrap().1, 0);
        assert_eq!(steps_of(&path), [0; 0]);
    }
}
