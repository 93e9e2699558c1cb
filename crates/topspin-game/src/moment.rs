//! Moments as files and tools have them: in seconds since 1970.

use std::time::{SystemTime, UNIX_EPOCH};

/// The present moment.
pub fn now() -> f64 {
    seconds(SystemTime::now())
}

/// A moment; 0 if it lies before 1970.
pub fn seconds(moment: SystemTime) -> f64 {
    moment.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}
