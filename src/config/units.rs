//! Durations, sizes and points in time as text: a whole number with its unit, or RFC 3339.

use std::time::Duration;

use serde::Serializer;

use super::fault::{Wrong, nearest, quote};
use crate::money;

/// A thousand times the cost: above, a percentage was taken for a factor.
const MOST_MARKUP_BPS: u32 = 10_000_000;

const DURATIONS: &[(&str, u64)] = &[
    ("us", 1),
    ("ms", 1_000),
    ("s", 1_000_000),
    ("m", 60_000_000),
    ("h", 3_600_000_000),
    ("d", 86_400_000_000),
];

const SIZES: &[(&str, u64)] = &[
    ("B", 1),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// Reads `250ms`, `10s`, `5m`, `1h`, `2d`.
pub(super) fn parse_duration(text: &str) -> Result<Duration, Wrong> {
    parse_with(text, DURATIONS, "us, ms, s, m, h or d", "\"10s\"").map(Duration::from_micros)
}

/// Reads `512B`, `64KiB`, `32MiB`, `1GiB`, `1MB`: bytes.
pub(super) fn parse_size(text: &str) -> Result<u64, Wrong> {
    parse_with(text, SIZES, "B, KB, MB, GB, KiB, MiB, GiB or TiB", "\"32MiB\"")
}

/// Prints a duration in the largest unit that divides it: `90s`, `2m`, `1500us`.
pub fn print_duration(duration: Duration) -> String {
    let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    if micros == 0 {
        return "0s".into();
    }
    let (unit, scale) = largest(micros, DURATIONS);
    format!("{}{unit}", micros / scale)
}

/// Prints a number of bytes in the largest unit that divides it: `32MiB`, `1001B`.
pub fn print_size(bytes: u64) -> String {
    if bytes == 0 {
        return "0B".into();
    }
    let (unit, scale) = largest(bytes, SIZES);
    format!("{}{unit}", bytes / scale)
}

/// A factor as hundredths of a percent: `1.2` is 12_000. At most four digits after the point.
pub(super) fn parse_markup(text: &str) -> Result<u32, Wrong> {
    let wrong = |problem: &str| {
        let problem = format!("{problem}, not {}", quote(text));
        Wrong::new(problem, "write for example \"1.2\" for 20 percent on top")
    };
    // A millionth of a unit for a million of them: the same scale as six digits after the point.
    let millionths = money::parse_per_million(text)
        .map_err(|_| wrong("must be a factor: digits, and a point where there is a fraction"))?;
    if millionths % 100 != 0 {
        return Err(wrong("must have at most four digits after the point"));
    }
    let bps = u32::try_from(millionths / 100).ok().filter(|bps| *bps <= MOST_MARKUP_BPS);
    bps.ok_or_else(|| wrong("must be at most 1000"))
}

/// Prints hundredths of a percent as a factor.
pub(super) fn print_markup(bps: u32) -> String {
    money::format_per_million(u64::from(bps) * 100)
}

/// RFC 3339 with an offset, in milliseconds since 1970.
pub(super) fn parse_time(text: &str) -> Result<u64, Wrong> {
    let wrong = |problem: &str| {
        Wrong::new(
            format!("must be a time of RFC 3339, and {} {problem}", quote(text)),
            "write for example \"2027-01-31T00:00:00Z\"",
        )
    };
    let parsed: toml::value::Datetime = text.parse().map_err(|_| wrong("is none"))?;
    let (date, time) = match (parsed.date, parsed.time) {
        (Some(date), Some(time)) => (date, time),
        (Some(_), None) => return Err(wrong("has no time of day")),
        _ => return Err(wrong("has no date")),
    };
    let east_minutes = match parsed.offset {
        Some(toml::value::Offset::Z) => 0,
        Some(toml::value::Offset::Custom { minutes }) => i64::from(minutes),
        None => return Err(wrong("has no offset from UTC")),
    };
    let days = days_since_1970(i64::from(date.year), i64::from(date.month), i64::from(date.day));
    let minutes = (days * 24 + i64::from(time.hour)) * 60 + i64::from(time.minute) - east_minutes;
    let ms = (minutes * 60 + i64::from(time.second.unwrap_or(0))) * 1_000
        + i64::from(time.nanosecond.unwrap_or(0) / 1_000_000);
    u64::try_from(ms).map_err(|_| wrong("is before 1970"))
}

/// Serialises a duration as the configuration writes it.
pub(super) fn duration<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&print_duration(*value))
}

/// Serialises an optional duration: none is `off`.
pub(super) fn duration_or_off<S: Serializer>(
    value: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => duration(value, serializer),
        None => serializer.serialize_str("off"),
    }
}

/// Serialises an optional duration: none is `forever`.
pub(super) fn duration_or_forever<S: Serializer>(
    value: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => duration(value, serializer),
        None => serializer.serialize_str("forever"),
    }
}

/// Serialises bytes as the configuration writes them.
pub(super) fn size<S: Serializer>(value: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&print_size(*value))
}

/// Serialises milliseconds since 1970 as RFC 3339.
pub(super) fn time<S: Serializer>(value: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(unix_ms) => {
            let text = crate::clock::rfc3339(*unix_ms);
            serializer.serialize_str(std::str::from_utf8(&text).expect("RFC 3339 is ASCII"))
        }
        None => serializer.serialize_none(),
    }
}

fn parse_with(text: &str, units: &[(&str, u64)], list: &str, example: &str) -> Result<u64, Wrong> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = (&text[..digits], text[digits..].trim_start());
    if number.is_empty() || unit.starts_with(['.', ',', '-', '+', '_']) {
        return Err(Wrong::new(
            format!("must be a whole number and a unit, and {} is not", quote(text)),
            format!("write for example {example}"),
        ));
    }
    if unit.is_empty() {
        return Err(Wrong::new(format!("has no unit in {}", quote(text)), format!("use {list}")));
    }
    let Some((_, scale)) = units.iter().find(|(name, _)| *name == unit) else {
        let cure = match nearest(unit, units.iter().map(|(name, _)| *name)) {
            Some(near) => format!("did you mean \"{number}{near}\"? Units are {list}"),
            None => format!("use {list}"),
        };
        return Err(Wrong::new(format!("has the unknown unit {}", quote(unit)), cure));
    };
    number.parse::<u64>().ok().and_then(|number| number.checked_mul(*scale)).ok_or_else(|| {
        Wrong::new(format!("is too large: {}", quote(text)), format!("write for example {example}"))
    })
}

fn largest(value: u64, units: &[(&'static str, u64)]) -> (&'static str, u64) {
    let fits = units.iter().filter(|(_, scale)| value.is_multiple_of(*scale));
    *fits.max_by_key(|(_, scale)| *scale).expect("the smallest unit divides everything")
}

/// Days of the civil calendar, after Howard Hinnant's `days_from_civil`.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_read_and_print() {
        for (text, ms) in [("250ms", 250), ("10s", 10_000), ("5m", 300_000), ("2d", 172_800_000)] {
            let read = parse_duration(text).expect(text);
            assert_eq!(read, Duration::from_millis(ms));
            assert_eq!(print_duration(read), text);
        }
        for (text, bytes) in
            [("1B", 1), ("64KiB", 65_536), ("32MiB", 33_554_432), ("3MB", 3_000_000)]
        {
            assert_eq!(parse_size(text).expect(text), bytes);
            assert_eq!(print_size(bytes), text);
        }
        assert_eq!(print_duration(Duration::from_secs(90)), "90s");
        assert_eq!(print_duration(Duration::ZERO), "0s");
    }

    #[test]
    fn what_is_no_number_with_a_unit_is_refused_with_a_cure() {
        for (text, problem, cure) in [
            ("10", "has no unit in \"10\"", "use us, ms, s, m, h or d"),
            ("10sec", "has the unknown unit \"sec\"", "use us, ms, s, m, h or d"),
            (
                "5M",
                "has the unknown unit \"M\"",
                "did you mean \"5m\"? Units are us, ms, s, m, h or d",
            ),
            (
                "1.5s",
                "must be a whole number and a unit, and \"1.5s\" is not",
                "write for example \"10s\"",
            ),
            (
                "-1s",
                "must be a whole number and a unit, and \"-1s\" is not",
                "write for example \"10s\"",
            ),
            ("", "must be a whole number and a unit, and \"\" is not", "write for example \"10s\""),
            (
                "99999999999999999999s",
                "is too large: \"99999999999999999999s\"",
                "write for example \"10s\"",
            ),
        ] {
            let wrong = parse_duration(text).expect_err(text);
            assert_eq!((wrong.problem.as_str(), wrong.cure.as_str()), (problem, cure));
        }
        assert!(parse_size("1mb").expect_err("case counts").cure.contains("\"1MB\""));
        assert!(parse_size("9999999999TiB").is_err());
    }

    #[test]
    fn times_are_rfc_3339_with_an_offset() {
        assert_eq!(parse_time("1970-01-01T00:00:00Z").expect("time"), 0);
        assert_eq!(parse_time("2000-02-29T01:00:00.5+01:00").expect("time"), 951_782_400_500);
        assert_eq!(parse_time("2100-03-01T00:00:00Z").expect("time"), 4_107_542_400_000);
        for text in ["2027-01-31", "2027-01-31T00:00:00", "tomorrow", "1969-12-31T23:59:59Z", ""] {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }
}
