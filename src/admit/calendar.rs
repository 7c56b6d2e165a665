//! When a budget's period begins and ends, by the days of a time zone.

use jiff::civil::{Date, date};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};

use crate::limits::Period;

/// Later times are taken for this one: some days before the last year that there are dates for.
const UNIX_MS_MAX: u64 = 253_000_000_000_000;

/// From when to when (exclusive) the period lasts that `unix_ms` lies in, in milliseconds since
/// 1970. It always ends after `unix_ms`.
pub fn bounds(period: Period, zone: &TimeZone, unix_ms: u64) -> (u64, u64) {
    let all = (0, u64::MAX);
    let Ok(at) = Timestamp::from_millisecond(unix_ms.min(UNIX_MS_MAX) as i64) else { return all };
    let today = at.to_zoned_datetime(zone.clone()).date();
    let Some((first, next)) = days(period, today) else { return all };
    let midnight = |day: Date| {
        let at = day.to_zoned_datetime(zone.clone()).ok()?;
        u64::try_from(at.timestamp().as_millisecond()).ok()
    };
    let start = midnight(first).unwrap_or(0);
    (start, midnight(next).unwrap_or(u64::MAX).max(unix_ms.saturating_add(1)))
}

/// The first day of the period that `today` lies in, and of the one after it.
fn days(period: Period, today: Date) -> Option<(Date, Date)> {
    let plus = |from: Date, days: i64| from.checked_add(Span::new().days(days)).ok();
    match period {
        Period::Total => None,
        Period::Daily => Some((today, plus(today, 1)?)),
        Period::Weekly => {
            let monday = plus(today, -i64::from(today.weekday().to_monday_zero_offset()))?;
            Some((monday, plus(monday, 7)?))
        }
        Period::Monthly => {
            let first = today.first_of_month();
            Some((first, first.checked_add(Span::new().months(1)).ok()?))
        }
        Period::Days(length) => {
            let length = i64::from(length.max(1));
            let epoch = date(1970, 1, 1);
            let passed = i64::from((today - epoch).get_days());
            let first = plus(epoch, passed.div_euclid(length) * length)?;
            Some((first, plus(first, length)?))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unix_ms(text: &str) -> u64 {
        text.parse::<Timestamp>().expect("a time").as_millisecond() as u64
    }

    #[test]
    fn periods_begin_at_local_midnight_also_where_a_day_has_23_or_25_hours() {
        let hour = 3_600_000;
        for (period, zone, at, start, end) in [
            (
                "daily",
                "UTC",
                "2026-03-04T05:06:07Z",
                "2026-03-04T00:00:00Z",
                "2026-03-05T00:00:00Z",
            ),
            // The hour from 2 to 3 is left out; then it comes twice.
            (
                "daily",
                "Europe/Berlin",
                "2026-03-29T12:00:00Z",
                "2026-03-28T23:00:00Z",
                "2026-03-29T22:00:00Z",
            ),
            (
                "daily",
                "Europe/Berlin",
                "2026-10-25T00:30:00Z",
                "2026-10-24T22:00:00Z",
                "2026-10-25T23:00:00Z",
            ),
            // There is no midnight on that day: it begins at 1.
            (
                "daily",
                "America/Santiago",
                "2026-09-06T12:00:00Z",
                "2026-09-06T04:00:00Z",
                "2026-09-07T03:00:00Z",
            ),
            (
                "weekly",
                "America/New_York",
                "2026-03-09T03:59:59Z",
                "2026-03-02T05:00:00Z",
                "2026-03-09T04:00:00Z",
            ),
            (
                "monthly",
                "Asia/Kolkata",
                "2026-02-28T18:30:00Z",
                "2026-02-28T18:30:00Z",
                "2026-03-31T18:30:00Z",
            ),
            ("7d", "UTC", "1970-01-08T00:00:00Z", "1970-01-08T00:00:00Z", "1970-01-15T00:00:00Z"),
        ] {
            let period = Period::parse(period).expect("a period");
            let zone = TimeZone::get(zone).expect("a zone");
            let want = (unix_ms(start), unix_ms(end));
            assert_eq!(bounds(period, &zone, unix_ms(at)), want, "{period} at {at}");
            assert_eq!(bounds(period, &zone, want.0), want, "{period}: the start is inside");
            assert_eq!(bounds(period, &zone, want.1 - 1), want, "{period}: so is the last moment");
            assert_eq!(bounds(period, &zone, want.1).0, want.1, "{period}: no gap");
            assert_eq!((want.1 - want.0) % hour, 0);
        }
    }

    #[test]
    fn no_time_is_too_early_or_too_late() {
        let zone = TimeZone::get("Pacific/Kiritimati").expect("a zone");
        for period in [Period::Daily, Period::Weekly, Period::Monthly, Period::Days(3660)] {
            for at in [0, 1, UNIX_MS_MAX, u64::MAX - 1] {
                let (start, end) = bounds(period, &zone, at);
                assert!(start <= at && at < end, "{period} at {at}: {start} to {end}");
            }
        }
        assert_eq!(bounds(Period::Total, &zone, 7), (0, u64::MAX));
    }
}
