//! Times as one types them: `now`, `30d`, `12h`, `2026-01-31`, or RFC 3339.

use std::time::Duration;

use crate::admin::query::unix_ms;
use crate::clock;

/// A time to come: `30d` is thirty days from now.
pub(crate) fn ahead(text: &str, now_unix_ms: u64) -> Result<String, String> {
    read(text, |span_ms| now_unix_ms.checked_add(span_ms))
}

/// A time gone by: `30d` is thirty days ago.
pub(crate) fn ago(text: &str, now_unix_ms: u64) -> Result<String, String> {
    read(text, |span_ms| now_unix_ms.checked_sub(span_ms))
}

fn read(text: &str, from_span: impl Fn(u64) -> Option<u64>) -> Result<String, String> {
    let at = match span(text) {
        _ if text == "now" => from_span(0),
        Some(span) => u64::try_from(span.as_millis()).ok().and_then(from_span),
        None => unix_ms(text),
    };
    match at.filter(|at| *at <= LAST_UNIX_MS) {
        Some(at) => Ok(String::from_utf8_lossy(&clock::rfc3339(at)).into_owned()),
        None => Err(format!(
            "`{text}` is no time: write a span as 30d or 12h, a date as 2026-01-31, or \
            2026-01-31T12:00:00Z"
        )),
    }
}

/// The end of the year 9999.
const LAST_UNIX_MS: u64 = 253_402_300_799_999;

/// `90s`, `15m`, `12h`, `30d`, `2w`.
fn span(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        "w" => 604_800,
        _ => return None,
    };
    Some(Duration::from_secs(number.parse::<u64>().ok()?.checked_mul(seconds)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_reach_forward_or_back() {
        let now = 1_700_000_000_000;
        assert_eq!(ahead("now", now).as_deref(), Ok("2023-11-14T22:13:20.000Z"));
        assert_eq!(ago("now", now), ahead("now", now));
        assert_eq!(ahead("30d", now).as_deref(), Ok("2023-12-14T22:13:20.000Z"));
        assert_eq!(ago("90s", now).as_deref(), Ok("2023-11-14T22:11:50.000Z"));
        assert_eq!(ago("2w", now).as_deref(), Ok("2023-10-31T22:13:20.000Z"));
        for text in ["2026-01-31", "2026-01-31T00:00:00Z", "2026-01-31T02:00:00+02:00"] {
            assert_eq!(ahead(text, now).as_deref(), Ok("2026-01-31T00:00:00.000Z"), "{text}");
        }
        for bad in ["", "30", "d", "30y", "-1d", "99999999999999999999d", "999999w", "soon"] {
            assert!(ahead(bad, now).is_err_and(|why| why.contains("30d")), "{bad}");
        }
        assert!(ago("60000d", now).is_err(), "before 1970");
    }
}
