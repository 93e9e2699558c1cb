//! The date that chat templates may print, and that names of files hold.

use std::time::{SystemTime, UNIX_EPOCH};

/// A moment in UTC.
///
/// Some templates write today's date into the prompt. It is read once, so that one process sees one date, and from
/// `SOURCE_DATE_EPOCH` (seconds since 1970) where that is set, so that a run can be repeated on another day.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// Since 1970.
    pub seconds: u64,
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

impl Clock {
    /// The moment, or that of `SOURCE_DATE_EPOCH`.
    pub fn now() -> Self {
        let fixed = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|text| text.parse::<u32>().ok());
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        Self { seconds: fixed.map_or_else(now, u64::from) }
    }

    /// Python's `strftime` for the directives that templates use, in the C locale.
    ///
    /// # Errors
    /// The directive is none of these, in words.
    pub fn format(self, format: &str) -> Result<String, String> {
        let days = self.seconds / 86_400;
        let second = self.seconds % 86_400;
        let (year, month, day) = civil(days);
        let month_name = MONTHS[month as usize - 1];
        let day_name = DAYS[(days as usize + 4) % 7];
        let mut out = String::new();
        let mut rest = format.chars();
        while let Some(c) = rest.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            let piece = match rest.next() {
                Some('Y') => format!("{year}"),
                Some('y') => format!("{:02}", year % 100),
                Some('m') => format!("{month:02}"),
                Some('B') => month_name.into(),
                Some('b') => month_name[..3].into(),
                Some('d') => format!("{day:02}"),
                Some('A') => day_name.into(),
                Some('a') => day_name[..3].into(),
                Some('j') => format!("{:03}", days - days_before(year) + 1),
                Some('H') => format!("{:02}", second / 3600),
                Some('M') => format!("{:02}", second / 60 % 60),
                Some('S') => format!("{:02}", second % 60),
                Some('%') => "%".into(),
                other => {
                    return Err(format!(
                        "`strftime_now` does not know `%{}`",
                        other.map(String::from).unwrap_or_default()
                    ));
                }
            };
            out.push_str(&piece);
        }
        Ok(out)
    }
}

/// Year, month and day of a day counted from 1970-01-01, in the proleptic Gregorian calendar.
fn civil(days: u64) -> (u64, u64, u64) {
    // Close from below: a year has at most 366 days.
    let mut year = 1970 + days / 366;
    while days_before(year + 1) <= days {
        year += 1;
    }
    let mut day = days - days_before(year);
    let leap = days_before(year + 1) - days_before(year) == 366;
    let lengths = [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in lengths {
        if day < length {
            break;
        }
        day -= length;
        month += 1;
    }
    (year, month, day + 1)
}

/// Days from 1970-01-01 to the first of January of a year, 1970 or later.
fn days_before(year: u64) -> u64 {
    let y = year - 1;
    let leaps = y / 4 - y / 100 + y / 400;
    (year - 1970) * 365 + leaps - 477
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_as_python_does() {
        let at = |seconds: u64| Clock { seconds }.format("%a %A %d %b %B %m %Y %y %j %H:%M:%S %%").unwrap();
        // datetime.fromtimestamp(..., UTC).strftime(...)
        assert_eq!(at(0), "Thu Thursday 01 Jan January 01 1970 70 001 00:00:00 %");
        assert_eq!(at(1_709_251_199), "Thu Thursday 29 Feb February 02 2024 24 060 23:59:59 %");
        assert_eq!(at(4_107_542_400), "Mon Monday 01 Mar March 03 2100 00 060 00:00:00 %");
        assert_eq!(Clock { seconds: 0 }.format("%Q").unwrap_err(), "`strftime_now` does not know `%Q`");
    }
}
