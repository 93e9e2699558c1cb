//! A packed batch: rows of tokens, what each row sees, and where a next token is wanted.

use topspin_kernels::device::{Segment, Span};

/// Tokens of many paths packed without padding.
///
/// Rows, slots and positions go side by side: row `t` holds token `tokens[t]` at position `positions[t]` of its path,
/// and its keys and values are stored at `slots[t]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Token of each row.
    pub tokens: Vec<u32>,
    /// Position of each row within its path, from 0.
    pub positions: Vec<u32>,
    /// Key/value slot of each row. In a batch to be differentiated, slot `t` is row `t`.
    pub slots: Vec<u32>,
    /// Runs of rows and what they see, in order of rows.
    pub spans: Vec<Span>,
    /// Rows whose next token is wanted; a row may stand here more than once (once per branch that follows it).
    pub outputs: Vec<u32>,
    /// Next token of each output row, where it is known: scoring and training. Empty in generation.
    pub targets: Vec<u32>,
}

impl Batch {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Empties the batch and keeps its memory.
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.positions.clear();
        self.slots.clear();
        self.spans.clear();
        self.outputs.clear();
        self.targets.clear();
    }

    /// Appends a span of `tokens` behind `past` (segments already stored), kept at `slots start ..`, and returns the
    /// segment that its own keys and values form.
    ///
    /// `own` is a segment that directly precedes `start` and belongs to the same path: the new rows extend it.
    pub fn push(&mut self, tokens: &[u32], past: &[Segment], own: Option<Segment>, start: usize) -> Segment {
        let first = self.rows();
        let before: usize = past.iter().map(|segment| segment.len).sum();
        let held = own.map_or(0, |segment| {
            debug_assert_eq!(segment.start + segment.len, start);
            segment.len
        });
        let segment = Segment { start: start - held, len: held + tokens.len() };
        for (at, &token) in tokens.iter().enumerate() {
            self.tokens.push(token);
            self.positions.push((before + held + at) as u32);
            self.slots.push((start + at) as u32);
        }
        let mut path = past.to_vec();
        path.push(segment);
        self.spans.push(Span { rows: first..self.rows(), path });
        segment
    }

    /// Number of (query, key) pairs that attention looks at, within a window if there is one.
    pub fn attended(&self, window: Option<usize>) -> u64 {
        let triangle = |n: u64| n * (n + 1) / 2;
        let rows_of = |span: &Span| {
            let (last, rows) = (span.context() as u64, span.rows.len() as u64);
            // A row sees one position more than the one before it, less what lies beyond the window.
            let beyond = |seen: u64| window.map_or(0, |window| seen.saturating_sub(window as u64));
            let all = triangle(last) - triangle(last - rows);
            all - (triangle(beyond(last)) - triangle(beyond(last - rows)))
        };
        self.spans.iter().map(rows_of).sum()
    }
}
