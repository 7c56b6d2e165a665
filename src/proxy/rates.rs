//! The `x-ratelimit-*` family: what is left of the tightest limits of a key, as OpenAI's clients read
//! it.

use std::io::Write as _;

use crate::admit::{Rate, Rates};
use crate::wire::Headers;

/// Adds the headers of every dimension that has a limit.
pub(super) fn put(headers: &mut Headers, rates: &Rates) {
    if let Some(rate) = &rates.requests {
        let names = [
            "x-ratelimit-limit-requests",
            "x-ratelimit-remaining-requests",
            "x-ratelimit-reset-requests",
        ];
        dimension(headers, names, rate);
    }
    if let Some(rate) = &rates.tokens {
        let names = [
            "x-ratelimit-limit-tokens",
            "x-ratelimit-remaining-tokens",
            "x-ratelimit-reset-tokens",
        ];
        dimension(headers, names, rate);
    }
}

fn dimension(headers: &mut Headers, [limit, remaining, reset]: [&str; 3], rate: &Rate) {
    let mut digits = itoa::Buffer::new();
    headers.push(limit.as_bytes(), digits.format(rate.limit).as_bytes());
    headers.push(remaining.as_bytes(), digits.format(rate.remaining).as_bytes());
    let mut room = [0; 32];
    headers.push(reset.as_bytes(), duration(rate.reset_ms, &mut room));
}

/// A time as OpenAI writes it: `0s`, `120ms`, `1.5s`, `6m0s`, `1h0m12s`.
fn duration(ms: u64, room: &mut [u8; 32]) -> &[u8] {
    let (seconds, rest) = (ms / 1000, ms % 1000);
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let size = room.len();
    let mut out = &mut room[..];
    // A time of any length fits: the largest has 27 characters.
    let _ = match (hours, minutes, seconds, rest) {
        (0, 0, 0, 0) => write!(out, "0s"),
        (0, 0, 0, _) => write!(out, "{rest}ms"),
        _ => {
            let _ = match (hours, minutes) {
                (0, 0) => Ok(()),
                (0, _) => write!(out, "{minutes}m"),
                _ => write!(out, "{hours}h{minutes}m"),
            };
            match rest {
                0 => write!(out, "{seconds}s"),
                _ => {
                    let (places, digits) = match rest {
                        _ if rest % 100 == 0 => (1, rest / 100),
                        _ if rest % 10 == 0 => (2, rest / 10),
                        _ => (3, rest),
                    };
                    write!(out, "{seconds}.{digits:0places$}s")
                }
            }
        }
    };
    let len = size - out.len();
    &room[..len]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_clients_read_them() {
        for (ms, want) in [
            (0, "0s"),
            (120, "120ms"),
            (1_000, "1s"),
            (1_500, "1.5s"),
            (50_529, "50.529s"),
            (7_060, "7.06s"),
            (360_000, "6m0s"),
            (3_723_500, "1h2m3.5s"),
            (3_600_000, "1h0m0s"),
        ] {
            assert_eq!(duration(ms, &mut [0; 32]), want.as_bytes(), "{ms}");
        }
        assert!(duration(u64::MAX, &mut [0; 32]).ends_with(b"s"));
    }
}
