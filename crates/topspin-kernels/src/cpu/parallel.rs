//! How rows are spread over threads.

use rayon::prelude::*;

/// Elements below which another thread costs more than it saves.
pub const GRAIN: usize = 1 << 14;

/// Calls `f(t, row)` for each row of `width` elements, in parallel where there are enough.
pub fn for_rows<T: Send>(rows: &mut [T], width: usize, f: impl Fn(usize, &mut [T]) + Sync) {
    let per_task = (GRAIN / width.max(1)).max(1);
    let run = |task: usize, rows: &mut [T]| {
        for (at, row) in rows.chunks_exact_mut(width).enumerate() {
            f(task * per_task + at, row);
        }
    };
    if rows.len() <= GRAIN {
        run(0, rows);
    } else {
        rows.par_chunks_mut(per_task * width).enumerate().for_each(|(task, rows)| run(task, rows));
    }
}

/// The same for two outputs of the same number of rows.
pub fn for_rows2<A: Send, B: Send>(
    first: &mut [A],
    first_width: usize,
    second: &mut [B],
    second_width: usize,
    f: impl Fn(usize, &mut [A], &mut [B]) + Sync,
) {
    let per_task = (GRAIN / first_width.max(second_width).max(1)).max(1);
    let run = |task: usize, first: &mut [A], second: &mut [B]| {
        let rows = first.chunks_exact_mut(first_width).zip(second.chunks_exact_mut(second_width));
        for (at, (first, second)) in rows.enumerate() {
            f(task * per_task + at, first, second);
        }
    };
    if first.len().max(second.len()) <= GRAIN {
        run(0, first, second);
    } else {
        let tasks = first.par_chunks_mut(per_task * first_width).zip(second.par_chunks_mut(per_task * second_width));
        tasks.enumerate().for_each(|(task, (first, second))| run(task, first, second));
    }
}
