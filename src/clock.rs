//! The only reader of time. Everything else is given `now`.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// One reading of both clocks: monotonic for waiting, wall time for records.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Monotonic: durations and deadlines.
    pub instant: Instant,
    /// Wall clock, milliseconds since 1970 (UTC): ids and records only, never a duration.
    pub unix_ms: u64,
}

/// Reads both clocks.
pub fn now() -> Now {
    Now { instant: instant(), unix_ms: unix_ms() }
}

/// The monotonic clock.
pub fn instant() -> Instant {
    Instant::now()
}

/// The wall clock in milliseconds since 1970 (UTC).
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    since.as_millis() as u64
}

/// Whole milliseconds since the first reading in this process: an instant that fits into an atomic.
pub fn ms_since_start(at: Instant) -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    // A second back, so that 0 can mean "never".
    let start = *START.get_or_init(|| Instant::now() - Duration::from_secs(1));
    at.saturating_duration_since(start).as_millis() as u64
}

/// Whole microseconds between two instants, 0 if they are in the wrong order.
pub fn us_between(from: Instant, to: Instant) -> u64 {
    to.saturating_duration_since(from).as_micros() as u64
}

/// `unix_ms` as RFC 3339 in UTC with milliseconds: `2026-01-02T03:04:05.678Z`.
/// The civil date follows Howard Hinnant's `civil_from_days`.
pub fn rfc3339(unix_ms: u64) -> [u8; 24] {
    let (days, ms) = (unix_ms / 86_400_000, unix_ms % 86_400_000);
    let z = days as i64 + 719_468;
    let era = z / 146_097;
    let day_of_era = z % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let mut out = *b"0000-00-00T00:00:00.000Z";
    let mut put = |at: usize, width: usize, mut value: u64| {
        for slot in out[at..at + width].iter_mut().rev() {
            *slot = b'0' + (value % 10) as u8;
            value /= 10;
        }
    };
    put(0, 4, year as u64);
    put(5, 2, month as u64);
    put(8, 2, day as u64);
    put(11, 2, ms / 3_600_000);
    put(14, 2, ms / 60_000 % 60);
    put(17, 2, ms / 1_000 % 60);
    put(20, 3, ms % 1_000);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_print_as_rfc3339() {
        for (ms, want) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_767_225_599_999, "2025-12-31T23:59:59.999Z"),
            (4_107_542_400_001, "2100-03-01T00:00:00.001Z"),
        ] {
            assert_eq!(std::str::from_utf8(&rfc3339(ms)).expect("ascii"), want);
        }
    }
}
