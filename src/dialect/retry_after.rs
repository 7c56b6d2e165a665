//! How long to wait before asking again: headers and messages of many vendors, one number.

/// A wait above this is taken for an error of the upstream, except for a spent quota.
const ABSURD_MS: u64 = 3_600_000;
/// The longest wait for a spent quota: a month.
const QUOTA_MS: u64 = 31 * 86_400_000;

/// How long an answer says to wait: `retry-after-ms`, `retry-after`, the reset of a limit that is
/// used up, or "try again in" in its message; the first that makes sense. `quota`: it may be long.
pub fn retry_after_ms<'h>(
    headers: &impl Fn(&str) -> Option<&'h str>,
    message: &str,
    quota: bool,
    now_unix_ms: u64,
) -> Option<u64> {
    let limit_ms = if quota { QUOTA_MS } else { ABSURD_MS };
    let sane = |wait_ms: &u64| *wait_ms <= limit_ms;
    let in_ms = || headers("retry-after-ms").and_then(|value| decimal(value.trim())).map(ceil);
    let header = || headers("retry-after").and_then(|value| reset_ms(value, now_unix_ms));
    in_ms()
        .filter(sane)
        .or_else(|| header().filter(sane))
        .or_else(|| used_up(headers, now_unix_ms).filter(sane))
        .or_else(|| told_in(message).filter(sane))
}

/// The latest reset among the limits of which nothing remains.
fn used_up<'h>(headers: &impl Fn(&str) -> Option<&'h str>, now_unix_ms: u64) -> Option<u64> {
    const LIMITS: [[&str; 2]; 3] = [
        ["x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"],
        ["x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"],
        ["x-ratelimit-remaining-project-tokens", "x-ratelimit-reset-project-tokens"],
    ];
    let reset = |[remaining, reset]: [&str; 2]| {
        let nothing = decimal(headers(remaining)?.trim())? == 0.0;
        if nothing { reset_ms(headers(reset)?, now_unix_ms) } else { None }
    };
    LIMITS.into_iter().filter_map(reset).max()
}

/// "try again in 6.57s", "retry in 20ms".
pub(super) fn told_in(message: &str) -> Option<u64> {
    let start = ["try again in ", "retry in "]
        .into_iter()
        .find_map(|phrase| message.find(phrase).map(|at| at + phrase.len()))?;
    let rest = &message[start..];
    let end = rest
        .find(|c: char| !(c.is_ascii_alphanumeric() || c == '.' || c == 'µ'))
        .unwrap_or(rest.len());
    duration(rest[..end].trim_end_matches('.')).map(ceil)
}

/// Milliseconds from now, rounded up, that a reset value means: a number (seconds from now, or a
/// time in seconds or milliseconds since 1970), a Go duration, an RFC 3339 time or an HTTP date.
/// `None`: not understood.
pub fn reset_ms(value: &str, now_unix_ms: u64) -> Option<u64> {
    let value = value.trim();
    if let Some(number) = decimal(value) {
        return Some(if number >= 1e11 {
            ceil(number).saturating_sub(now_unix_ms)
        } else if number >= 1e9 {
            ceil(number * 1000.0).saturating_sub(now_unix_ms)
        } else {
            ceil(number * 1000.0)
        });
    }
    if let Some(wait_ms) = duration(value) {
        return Some(ceil(wait_ms));
    }
    let unix_ms = rfc3339(value).or_else(|| http_date(value))?;
    Some(u64::try_from(unix_ms).unwrap_or(0).saturating_sub(now_unix_ms))
}

fn ceil(value: f64) -> u64 {
    // A hair less, so that 0.12 s does not become 121 ms.
    (value - 1e-6).ceil() as u64
}

/// Digits with at most one dot.
fn decimal(text: &str) -> Option<f64> {
    let digits = text.bytes().filter(u8::is_ascii_digit).count();
    let dots = text.bytes().filter(|&b| b == b'.').count();
    if digits == 0 || dots > 1 || digits + dots != text.len() || text.len() > 40 {
        return None;
    }
    text.parse().ok()
}

/// Go's durations in milliseconds: numbers with units, nothing between.
fn duration(mut text: &str) -> Option<f64> {
    // `ms` before `m`: the first that fits is taken.
    const UNITS: [(&str, f64); 8] = [
        ("ms", 1.0),
        ("us", 0.001),
        ("µs", 0.001),
        ("ns", 0.000_001),
        ("d", 86_400_000.0),
        ("h", 3_600_000.0),
        ("m", 60_000.0),
        ("s", 1000.0),
    ];
    if text.is_empty() {
        return None;
    }
    let mut sum = 0.0;
    while !text.is_empty() {
        let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
        let number = decimal(&text[..end])?;
        let (unit, factor) = UNITS.into_iter().find(|(unit, _)| text[end..].starts_with(unit))?;
        sum += number * factor;
        text = &text[end + unit.len()..];
    }
    Some(sum)
}

/// `2026-01-01T02:00:12.5+02:00` in milliseconds since 1970; no zone is UTC.
fn rfc3339(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    let separators = [(4, b'-'), (7, b'-'), (13, b':'), (16, b':')];
    if bytes.len() < 19 || separators.iter().any(|&(at, byte)| bytes[at] != byte) {
        return None;
    }
    if !matches!(bytes[10], b'T' | b't' | b' ') {
        return None;
    }
    let field = |from: usize, to: usize| digits(text.get(from..to)?);
    let ms = civil_ms(field(0, 4)?, field(5, 7)?, field(8, 10)?)?
        + clock_ms(field(11, 13)?, field(14, 16)?, field(17, 19)?)?;
    let mut rest = text.get(19..)?;
    let mut fraction_ms = 0;
    if let Some(fraction) = rest.strip_prefix('.') {
        let end = fraction.find(|c: char| !c.is_ascii_digit()).unwrap_or(fraction.len());
        fraction_ms = (format!("0.{}", &fraction[..end]).parse::<f64>().ok()? * 1000.0) as i64;
        rest = &fraction[end..];
    }
    let offset_ms = match rest {
        "" | "Z" | "z" => 0,
        _ => {
            let sign = match rest.chars().next()? {
                '+' => 1,
                '-' => -1,
                _ => return None,
            };
            let (hours, minutes) = (rest.get(1..3)?, rest.get(3..)?);
            let minutes = minutes.strip_prefix(':').unwrap_or(minutes);
            sign * clock_ms(digits(hours)?, digits(minutes)?, 0)?
        }
    };
    Some(ms + fraction_ms - offset_ms)
}

/// `Thu, 01 Jan 2026 00:00:30 GMT` in milliseconds since 1970.
fn http_date(text: &str) -> Option<i64> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (_, date) = text.split_once(", ")?;
    let mut parts = date.split(' ');
    let day = digits(parts.next()?)?;
    let month = parts.next()?;
    let month = MONTHS.iter().position(|name| *name == month)? as i64 + 1;
    let year = digits(parts.next()?)?;
    let mut clock = parts.next()?.split(':');
    let mut field = || digits(clock.next()?);
    let clock_ms = clock_ms(field()?, field()?, field()?)?;
    (parts.next()? == "GMT").then_some(civil_ms(year, month, day)? + clock_ms)
}

fn digits(text: &str) -> Option<i64> {
    let plain = !text.is_empty() && text.len() <= 4 && text.bytes().all(|b| b.is_ascii_digit());
    if plain { text.parse().ok() } else { None }
}

fn clock_ms(hour: i64, minute: i64, second: i64) -> Option<i64> {
    // 60: a leap second.
    (hour < 24 && minute < 60 && second <= 60)
        .then_some(((hour * 60 + minute) * 60 + second) * 1000)
}

/// Days since 1970 by Howard Hinnant's `days_from_civil`, in milliseconds.
fn civil_ms(year: i64, month: i64, day: i64) -> Option<i64> {
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year - era * 400;
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Some((era * 146_097 + day_of_era - 719_468) * 86_400_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    /// 2026-01-01T00:00:00Z, the `now` of the vectors.
    const NOW: u64 = 1_767_225_600_000;

    #[test]
    fn the_vectors() {
        let text = include_str!("../../tests/samples/reset-time-vectors.json");
        let vectors: Value = serde_json::from_str(text).expect("json");
        for vector in vectors["vectors"].as_array().expect("vectors") {
            let value = vector["value"].as_str().expect("value");
            let want = vector["seconds"].as_f64().map(|seconds| (seconds * 1000.0).ceil() as u64);
            assert_eq!(reset_ms(value, NOW), want, "{value}");
        }
    }

    #[test]
    fn odd_values_do_no_harm() {
        for value in [
            "-1",
            "1..2",
            ".",
            "9".repeat(50).as_str(),
            "1h-2m",
            "1x",
            "µs",
            "2026-13-01T00:00:00Z",
            "2026-01-01T25:00:00Z",
            "2026-01-01T00:00:00+0x",
            "Thu, 01 Foo 2026 00:00:30 GMT",
            "Thu, 1 Jan 2026 00:00 GMT",
            "日本語, 01 Jan",
            "2026-01-01T00:00:0é",
        ] {
            assert_eq!(reset_ms(value, NOW), None, "{value}");
        }
        assert_eq!(reset_ms("0001-01-01T00:00:00Z", NOW), Some(0));
        assert!(reset_ms("9999-12-31T23:59:59Z", NOW).is_some());
    }

    fn told(pairs: &[(&str, &'static str)], message: &str, quota: bool) -> Option<u64> {
        let headers = |name: &str| pairs.iter().find(|pair| pair.0 == name).map(|pair| pair.1);
        retry_after_ms(&headers, message, quota, NOW)
    }

    #[test]
    fn the_most_exact_word_wins() {
        let all = [
            ("retry-after-ms", "6570"),
            ("retry-after", "7"),
            ("x-ratelimit-remaining-tokens", "0"),
            ("x-ratelimit-reset-tokens", "9s"),
        ];
        let message = "Rate limit reached. Please try again in 20ms. Visit us.";
        assert_eq!(told(&all, message, false), Some(6570));
        assert_eq!(told(&all[1..], message, false), Some(7000));
        assert_eq!(told(&all[2..], message, false), Some(9000));
        assert_eq!(told(&all[3..], message, false), Some(20));
        assert_eq!(told(&[], "Please retry in 34.5s.", false), Some(34_500));
        assert_eq!(told(&[], "later", false), None);
        // Nonsense is passed over.
        let odd = [("retry-after-ms", "-5"), ("retry-after", "7200")];
        assert_eq!(told(&odd, message, false), Some(20));
        assert_eq!(told(&odd, message, true), Some(7_200_000));
        let date = [("retry-after", "Thu, 01 Jan 2026 00:00:30 GMT")];
        assert_eq!(told(&date, "", false), Some(30_000));
    }
}
