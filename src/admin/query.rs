//! Query parameters: each call names its own, and whatever else comes is a mistake that is told.

use axum::extract::Query;
use axum::http::Uri;
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::api::Fault;
use crate::clock;

/// The longest value.
const VALUE_BYTES_MAX: usize = 512;
/// Rows of a page.
const LIMIT_MAX: u64 = 1000;

/// One parameter of a call.
#[derive(Clone, Copy)]
pub(super) struct Parameter {
    pub(super) name: &'static str,
    pub(super) shape: Shape,
    pub(super) about: &'static str,
}

/// What its value looks like.
#[derive(Clone, Copy)]
pub(super) enum Shape {
    Text,
    /// A whole number, 0 too.
    Count,
    /// Rows of a page.
    Limit,
    /// An instant. It is handed on in one form: RFC 3339 in UTC with milliseconds.
    Time,
    /// `true` or `false`; the bare name means `true`.
    Flag,
    /// One of these.
    One(&'static [&'static str]),
    /// Some of these, comma-separated.
    Some(&'static [&'static str]),
    /// An HTTP status or a class of them.
    Status,
}

/// Reads the query of a request. The values are checked; an empty one counts as not said.
pub(super) fn read(uri: &Uri, known: &[Parameter]) -> Result<Vec<(String, String)>, Fault> {
    let Ok(Query(pairs)) = Query::<Vec<(String, String)>>::try_from_uri(uri) else {
        return Err(Fault::new(
            400,
            "invalid_query",
            "the query cannot be read: write ?name=value",
        ));
    };
    let mut read: Vec<(String, String)> = Vec::with_capacity(pairs.len());
    for (name, value) in pairs {
        let Some(parameter) = known.iter().find(|parameter| parameter.name == name) else {
            return Err(unknown(&name, known));
        };
        if read.iter().any(|(other, _)| *other == name) {
            let message = format!("`{name}` is there twice: say it once");
            return Err(Fault::of_field(400, "invalid_parameter", &message, &name));
        }
        let is_bare_flag = matches!(parameter.shape, Shape::Flag) && value.is_empty();
        if value.is_empty() && !is_bare_flag {
            continue;
        }
        let value = check(parameter.shape, &value).map_err(|why| {
            let message = format!("`{name}` {why}");
            Fault::of_field(400, "invalid_parameter", &message, &name)
        })?;
        read.push((name, value));
    }
    Ok(read)
}

fn unknown(name: &str, known: &[Parameter]) -> Fault {
    let name: String = name.chars().take(64).collect();
    let names: Vec<&str> = known.iter().map(|parameter| parameter.name).collect();
    let cure = match nearest(&name, &names) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None if names.is_empty() => "this call has none".to_owned(),
        None => format!("valid: {}", names.join(", ")),
    };
    let message = format!("there is no parameter `{name}` here: {cure}");
    Fault::of_field(400, "unknown_parameter", &message, &name)
}

/// The value as it is handed on, or what is wrong with it.
fn check(shape: Shape, value: &str) -> Result<String, String> {
    if value.len() > VALUE_BYTES_MAX {
        return Err(format!("is too long: {VALUE_BYTES_MAX} bytes at most"));
    }
    if value.chars().any(char::is_control) {
        return Err("holds control characters".to_owned());
    }
    let is_number = value.bytes().all(|byte| byte.is_ascii_digit());
    match shape {
        Shape::Text => {}
        Shape::Count if is_number && value.parse::<u64>().is_ok() => {}
        Shape::Count => return Err("must be a whole number".to_owned()),
        Shape::Limit if is_number && value.parse().is_ok_and(|n| (1..=LIMIT_MAX).contains(&n)) => {}
        Shape::Limit => return Err(format!("must be a whole number from 1 to {LIMIT_MAX}")),
        Shape::Time => {
            return match unix_ms(value) {
                Some(at) => Ok(String::from_utf8_lossy(&clock::rfc3339(at)).into_owned()),
                None => Err("must be a time as 2026-01-31T12:00:00Z (a `+` written as %2B), or a \
                    date as 2026-01-31"
                    .to_owned()),
            };
        }
        Shape::Flag => {
            return match value {
                "" | "true" | "1" => Ok("true".to_owned()),
                "false" | "0" => Ok("false".to_owned()),
                _ => Err("must be true or false".to_owned()),
            };
        }
        Shape::One(words) => word(value, words)?,
        Shape::Some(words) => {
            let mut seen = Vec::new();
            for part in value.split(',').map(str::trim) {
                word(part, words)?;
                if seen.contains(&part) {
                    return Err(format!("holds `{part}` twice"));
                }
                seen.push(part);
            }
            return Ok(seen.join(","));
        }
        Shape::Status => status(value)?,
    }
    Ok(value.to_owned())
}

fn word(value: &str, words: &[&str]) -> Result<(), String> {
    if words.contains(&value) {
        return Ok(());
    }
    let value: String = value.chars().take(64).collect();
    let cure = match nearest(&value, words) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => format!("valid: {}", words.join(", ")),
    };
    Err(format!("cannot be `{value}`: {cure}"))
}

fn status(value: &str) -> Result<(), String> {
    let bytes = value.as_bytes();
    let is_class = bytes.len() == 3 && bytes[0].is_ascii_digit() && value.ends_with("xx");
    let is_code = bytes.len() == 3 && bytes.iter().all(u8::is_ascii_digit);
    match (is_class || is_code) && (b'1'..=b'5').contains(&bytes[0]) {
        true => Ok(()),
        false => Err("must be an HTTP status as 429, or a class as 4xx".to_owned()),
    }
}

/// Reads an instant: RFC 3339, or a date, which is its midnight in UTC. In milliseconds since 1970;
/// nothing before, and nothing after the year 9999.
pub fn unix_ms(text: &str) -> Option<u64> {
    let at = match text.parse::<Timestamp>() {
        Ok(at) => at,
        // A date alone: jiff would also read a date of something longer, hence the length.
        Err(_) if text.len() == 10 => {
            text.parse::<Date>().ok()?.to_zoned_datetime(TimeZone::UTC).ok()?.timestamp()
        }
        Err(_) => return None,
    };
    u64::try_from(at.as_millisecond()).ok()
}

/// The name that was most likely meant: a third of its letters may be wrong.
fn nearest<'n>(wrong: &str, names: &[&'n str]) -> Option<&'n str> {
    let scored = names.iter().map(|name| (edits(wrong, name), *name));
    let near = scored.filter(|(far, name)| *far <= (name.len().max(wrong.len()) / 3).max(1));
    near.min_by_key(|(far, _)| *far).map(|(_, name)| name)
}

/// Insertions, deletions and replacements between two short texts.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (above, letter) in a.chars().flat_map(char::to_lowercase).enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], above + 1);
        for (at, other) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *other);
            diagonal = row[at + 1];
            row[at + 1] = replaced.min(diagonal + 1).min(row[at] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[Parameter] = &[
        Parameter { name: "project", shape: Shape::Text, about: "" },
        Parameter { name: "limit", shape: Shape::Limit, about: "" },
        Parameter { name: "from", shape: Shape::Time, about: "" },
        Parameter { name: "cascade", shape: Shape::Flag, about: "" },
        Parameter { name: "since", shape: Shape::Count, about: "" },
        Parameter { name: "kind", shape: Shape::One(&["active", "blocked"]), about: "" },
        Parameter { name: "group_by", shape: Shape::Some(&["key", "model", "day"]), about: "" },
        Parameter { name: "status", shape: Shape::Status, about: "" },
    ];

    fn query(text: &str) -> Result<Vec<(String, String)>, Fault> {
        read(&format!("/x?{text}").parse().expect("a URI"), KNOWN)
    }

    #[test]
    fn good_values_are_handed_on_in_one_form() {
        for (text, want) in [
            ("project=a%20b%2Fc", ("project", "a b/c")),
            ("limit=1000", ("limit", "1000")),
            ("from=2026-01-31", ("from", "2026-01-31T00:00:00.000Z")),
            ("from=2026-01-31T12:00:00%2B02:00", ("from", "2026-01-31T10:00:00.000Z")),
            ("cascade", ("cascade", "true")),
            ("cascade=0", ("cascade", "false")),
            ("since=0", ("since", "0")),
            ("group_by=key,%20day", ("group_by", "key,day")),
            ("status=4xx", ("status", "4xx")),
            ("status=429", ("status", "429")),
        ] {
            let got = query(text).expect(text);
            assert_eq!(got, [(want.0.to_owned(), want.1.to_owned())], "{text}");
        }
        assert!(query("").expect("empty").is_empty());
        assert!(query("project=&limit=").expect("nothing said").is_empty());
    }

    #[test]
    fn bad_ones_are_told_with_the_cure() {
        for (text, field, cure) in [
            ("projet=a", "projet", "did you mean `project`?"),
            ("Limit=1", "Limit", "did you mean `limit`?"),
            ("zzz=1", "zzz", "valid: project, limit"),
            ("project=a&project=b", "project", "twice"),
            ("project=a%0Ab", "project", "control"),
            ("limit=0", "limit", "1 to 1000"),
            ("limit=1001", "limit", "1 to 1000"),
            ("limit=%2B5", "limit", "1 to 1000"),
            ("limit=99999999999999999999999", "limit", "1 to 1000"),
            ("since=-1", "since", "whole number"),
            ("from=yesterday", "from", "2026-01-31"),
            ("from=2026-02-30", "from", "2026-01-31"),
            ("from=1969-12-31", "from", "2026-01-31"),
            ("from=2026-01-31T12:00:00+02:00", "from", "%2B"),
            ("cascade=maybe", "cascade", "true or false"),
            ("kind=actve", "kind", "did you mean `active`?"),
            ("group_by=key,key", "group_by", "twice"),
            ("group_by=key,colour", "group_by", "valid: key, model, day"),
            ("status=9xx", "status", "4xx"),
            ("status=42", "status", "4xx"),
            ("status=%C3%A9x", "status", "4xx"),
        ] {
            let fault = query(text).expect_err(text);
            let (status, error) = fault.parts();
            assert_eq!((status, error["field"].as_str()), (400, Some(field)), "{text}");
            assert!(error["message"].as_str().expect("text").contains(cure), "{text}: {error}");
        }
        let long = format!("project={}", "a".repeat(VALUE_BYTES_MAX + 1));
        assert!(query(&long).is_err());
    }

    #[test]
    fn times_are_bounded() {
        assert_eq!(unix_ms("1970-01-01T00:00:01.5Z"), Some(1500));
        assert_eq!(unix_ms("1970-01-02"), Some(86_400_000));
        for bad in
            ["", "2026", "2026-01", "1", "2026-01-01T00:00:00", "-000001-01-01", "99999-01-01"]
        {
            assert_eq!(unix_ms(bad), None, "{bad}");
        }
    }
}
