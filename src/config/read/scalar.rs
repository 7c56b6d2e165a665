//! The kinds that are one value: what the text must look like, and what is wrong if it does not.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use toml::de::DeValue;

use super::super::choices::{AccessLog, Choices};
use super::super::fault::{Wrong, did_you_mean, nearest, quote};
use super::super::net::{BaseUrl, Cidr};
use super::super::schema::{Kind, or};
use super::super::secret::{Digest, Secret};
use super::super::units::{
    parse_duration, parse_markup, parse_size, parse_time, print_duration, print_size,
};
use super::super::values::Value;
use super::{Reader, a_type};
use crate::limits::{PERIOD_MAX_DAYS, Period};
use crate::money::{self, AmountError};

impl Reader<'_, '_> {
    /// Reads a value that is neither a list nor a described table.
    pub(super) fn scalar(&mut self, kind: &Kind, value: &DeValue<'_>) -> Result<Value, Wrong> {
        match (kind, value) {
            (Kind::Bool, DeValue::Boolean(value)) => Ok(Value::Bool(*value)),
            (Kind::Integer { min, max }, DeValue::Integer(found)) => {
                let number = i64::from_str_radix(found.as_str(), found.radix()).ok();
                match number.filter(|number| (min..=max).contains(&number)) {
                    Some(number) => Ok(Value::Integer(number)),
                    None => Err(outside(min, max, &found.to_string())),
                }
            }
            (Kind::Number { min, max }, DeValue::Integer(_) | DeValue::Float(_)) => {
                number(*min, *max, value)
            }
            (Kind::OneOf(numbers), DeValue::Integer(found)) => {
                let number = i64::from_str_radix(found.as_str(), found.radix()).ok();
                match number.filter(|number| numbers.contains(number)) {
                    Some(number) => Ok(Value::Integer(number)),
                    None => Err(Wrong::new(
                        format!("must be {}, not {found}", or(numbers)),
                        format!("write {}", or(numbers)),
                    )),
                }
            }
            (Kind::Time, DeValue::Datetime(time)) => parse_time(&time.to_string()).map(Value::Time),
            (Kind::Anything, DeValue::Table(_)) => match to_json(value) {
                serde_json::Value::Object(object) => Ok(Value::Anything(object)),
                _ => Err(wrong_type(kind, value)),
            },
            (kind, DeValue::String(text)) if kind.is_text() => self.text(kind, text),
            (kind, value) => Err(wrong_type(kind, value)),
        }
    }

    fn text(&mut self, kind: &Kind, text: &str) -> Result<Value, Wrong> {
        match kind {
            Kind::Duration { min, max, word } => duration(*min, *max, *word, text),
            Kind::Size { min, max } => {
                let size = parse_size(text)?;
                if !(*min..=*max).contains(&size) {
                    return Err(outside(&print_size(*min), &print_size(*max), text));
                }
                Ok(Value::Size(size))
            }
            Kind::Choice(choices) => choice(choices, text),
            Kind::Address { off } => address(*off, text),
            Kind::Network => Cidr::parse(text).map(Value::Network),
            Kind::Url => BaseUrl::parse(text).map(Value::Url),
            Kind::Time => parse_time(text).map(Value::Time),
            Kind::Secret => self.secret(text).map(Value::Secret),
            Kind::Sha256 => Digest::from_hex(text).map(Value::Digest).ok_or_else(|| {
                Wrong::new(
                    "must be 64 hexadecimal digits",
                    "print it with: printf %s SECRET | sha256sum",
                )
            }),
            Kind::Pem(label) => {
                let path = text.strip_prefix("file:").unwrap_or(text);
                self.files.pem(Path::new(path), label).map(Value::Pem)
            }
            Kind::Path => path(text).map(|text| Value::Path(text.into())),
            Kind::Output => output(text),
            Kind::Currency => match text.len() == 3 && text.bytes().all(|b| b.is_ascii_uppercase())
            {
                true => Ok(Value::Text(text.to_owned())),
                false => Err(Wrong::new(
                    format!("must be three capital letters, not {}", quote(text)),
                    "write for example \"USD\"",
                )),
            },
            Kind::Slug => slug(text),
            Kind::Amount => {
                money::parse_amount(text).map(Value::Amount).map_err(|error| no_amount(text, error))
            }
            Kind::PerMillion | Kind::Each => price(kind, text),
            Kind::Markup => parse_markup(text).map(|bps| Value::Integer(i64::from(bps))),
            Kind::Period => period(text),
            Kind::TimeZone => time_zone(text),
            Kind::Document => {
                let path = path(text)?;
                self.files.document(Path::new(path)).map(Value::Document)
            }
            _ => name(text).map(|text| Value::Text(text.to_owned())),
        }
    }

    /// Follows `env:` and `file:`. What comes out is never part of a message.
    fn secret(&mut self, text: &str) -> Result<Secret, Wrong> {
        let (whence, secret) = if let Some(variable) = text.strip_prefix("env:") {
            (format!("names the environment variable {variable}, which "), self.variable(variable)?)
        } else if let Some(path) = text.strip_prefix("file:") {
            let bytes = self.files.read(Path::new(path))?;
            let whence = format!("names the file {}, which ", quote(path));
            let secret = String::from_utf8(bytes).map_err(|_| {
                Wrong::new(format!("{whence}is not UTF-8"), "write the secret as text")
            })?;
            let line = secret.strip_suffix('\n').unwrap_or(&secret);
            (whence, line.strip_suffix('\r').unwrap_or(line).to_owned())
        } else if let Some(name) = shell_variable(text) {
            let problem = "is written like a variable of the shell, which is not looked up";
            return Err(Wrong::new(problem, format!("write \"env:{name}\"")));
        } else {
            (String::new(), text.to_owned())
        };
        let wrong = |problem: &str, cure: &str| Err(Wrong::new(format!("{whence}{problem}"), cure));
        if secret.is_empty() {
            return wrong("is empty", "give it a value, or remove the key");
        }
        if secret.chars().any(char::is_control) {
            return wrong("has a line break or another control character in it", "remove that");
        }
        if secret.trim() != secret {
            return wrong("has blanks at its start or end", "remove them");
        }
        if secret.len() > LONGEST_SECRET_BYTES {
            return wrong("is longer than 4096 bytes", "use a shorter one");
        }
        Ok(Secret::new(&secret))
    }

    fn variable(&self, name: &str) -> Result<String, Wrong> {
        if !is_variable(name) {
            // Not repeated: it may be the secret itself.
            let problem = "has something after \"env:\" that is no name of a variable";
            return Err(Wrong::new(problem, "write \"env:NAME\", or the secret without \"env:\""));
        }
        (self.env)(name).ok_or_else(|| {
            let problem = format!("names the environment variable {name}, which is not set");
            Wrong::new(problem, "set it, or remove the key")
        })
    }
}

fn is_variable(name: &str) -> bool {
    let first = |b: &u8| b.is_ascii_alphabetic() || *b == b'_';
    name.as_bytes().first().is_some_and(first)
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// The name in `$NAME`, `${NAME}` and `os.environ/NAME`: others write references so.
fn shell_variable(text: &str) -> Option<&str> {
    let name = match text.strip_prefix('$') {
        Some(rest) => {
            rest.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or(rest)
        }
        None => text.strip_prefix("os.environ/")?,
    };
    Some(name).filter(|name| is_variable(name))
}

/// More than any provider's key, and short enough for a header line.
const LONGEST_SECRET_BYTES: usize = 4096;

fn duration(
    min: Duration,
    max: Duration,
    word: Option<&'static str>,
    text: &str,
) -> Result<Value, Wrong> {
    if word == Some(text) {
        return Ok(Value::Duration(None));
    }
    let duration = parse_duration(text).map_err(|mut wrong| {
        if let Some(word) = word {
            wrong.cure.push_str(&format!(", or \"{word}\""));
        }
        wrong
    })?;
    if !(min..=max).contains(&duration) {
        return Err(outside(&print_duration(min), &print_duration(max), text));
    }
    Ok(Value::Duration(Some(duration)))
}

fn number(min: f64, max: f64, value: &DeValue<'_>) -> Result<Value, Wrong> {
    let text = match value {
        DeValue::Integer(found) if found.radix() == 10 => found.as_str(),
        DeValue::Float(found) => found.as_str(),
        _ => "",
    };
    match text.parse::<f64>().ok().filter(|number| (min..=max).contains(number)) {
        Some(number) => Ok(Value::Number(number)),
        None => Err(outside(&min, &max, text)),
    }
}

fn choice(choices: &Choices, text: &str) -> Result<Value, Wrong> {
    if choices.now.contains(&text) {
        return Ok(Value::Text(text.to_owned()));
    }
    let list = || choices.now.join(", ");
    if choices.later.contains(&text) {
        let problem =
            format!("is {}, which is not available in this version of foretoken", quote(text));
        return Err(Wrong::new(problem, format!("valid: {}", list())));
    }
    let problem = format!("has the unknown value {}", quote(text));
    let cure = match nearest(text, choices.now.iter().copied()) {
        Some(near) => format!("did you mean {}?", quote(near)),
        None => did_you_mean(text, choices.now.iter().copied(), "value"),
    };
    Err(Wrong::new(problem, cure))
}

fn address(off: bool, text: &str) -> Result<Value, Wrong> {
    if off && text == "off" {
        return Ok(Value::Address(None));
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(Value::Address(Some(address)));
    }
    let problem = format!("must be an address with a port, and {} is none", quote(text));
    // The ways that other servers write it.
    let port = text.rsplit(':').next().unwrap_or("").parse::<u16>().ok();
    let cure = match (text.rsplit_once(':'), port) {
        (Some(("localhost", _)), Some(port)) => {
            format!("write \"127.0.0.1:{port}\" or \"[::1]:{port}\"")
        }
        (Some(("" | "*", _)) | None, Some(port)) => {
            format!("write \"0.0.0.0:{port}\" or \"[::]:{port}\" for all addresses of this machine")
        }
        _ => "write for example \"127.0.0.1:8080\" or \"[::1]:8080\"".to_owned(),
    };
    Err(Wrong::new(problem, cure))
}

fn path(text: &str) -> Result<&str, Wrong> {
    if text.is_empty() {
        return Err(Wrong::new("is empty", "name a file"));
    }
    if text.chars().any(char::is_control) {
        return Err(Wrong::new(format!("has a control character in {}", quote(text)), "remove it"));
    }
    Ok(text)
}

/// A path must look like one: a mistyped `stderr` would else become a file.
fn output(text: &str) -> Result<Value, Wrong> {
    let text = path(text)?;
    if AccessLog::WORDS.contains(&text) || text.contains(['/', '.', '\\']) {
        return Ok(Value::Text(text.to_owned()));
    }
    let cure = match nearest(text, AccessLog::WORDS.iter().copied()) {
        Some(near) => format!("did you mean {}? A file is written as \"./{text}\"", quote(near)),
        None => format!("valid: stdout, stderr, off, or a file as in \"./{text}\""),
    };
    Err(Wrong::new(format!("has the unknown value {}", quote(text)), cure))
}

fn no_amount(text: &str, error: AmountError) -> Wrong {
    let cure = match error {
        AmountError::Form => "write for example \"12.50\"",
        AmountError::TooFine(_) => "round it",
        AmountError::TooLarge => "write less",
    };
    match error {
        AmountError::Form => Wrong::new(format!("{error}, not {}", quote(text)), cure),
        _ => Wrong::new(format!("{error}: {}", quote(text)), cure),
    }
}

/// Only whether it is a price: it is kept as it was written.
fn price(kind: &Kind, text: &str) -> Result<Value, Wrong> {
    let read = match kind {
        Kind::PerMillion => money::parse_per_million(text).map(|_| ()),
        _ => money::parse_amount(text).map(|_| ()),
    };
    read.map(|()| Value::Text(text.to_owned())).map_err(|error| match error {
        // For a million of them, its bound is another than that of an amount.
        AmountError::TooLarge => Wrong::new(format!("is too large: {}", quote(text)), "write less"),
        error => no_amount(text, error),
    })
}

fn period(text: &str) -> Result<Value, Wrong> {
    if let Some(period) = Period::parse(text) {
        return Ok(Value::Period(period));
    }
    const WORDS: [&str; 4] = ["total", "daily", "weekly", "monthly"];
    let problem = format!("has the unknown value {}", quote(text));
    // The ways that others say it.
    let near = match text {
        "day" | "1day" | "24h" => Some("daily"),
        "week" => Some("weekly"),
        "month" | "1mo" => Some("monthly"),
        "never" | "once" => Some("total"),
        _ => nearest(text, WORDS.into_iter()),
    };
    let days = format!("1 to {PERIOD_MAX_DAYS} days as in \"7d\"");
    Err(Wrong::new(
        problem,
        match near {
            Some(near) => format!("did you mean {}? Else {days}", quote(near)),
            None => format!("valid: {}, or {days}", WORDS.join(", ")),
        },
    ))
}

fn time_zone(text: &str) -> Result<Value, Wrong> {
    if let Some(zone) = jiff::tz::db().get(text).ok().filter(|zone| !zone.is_unknown()) {
        return Ok(Value::TimeZone(zone));
    }
    let names: Vec<String> = jiff::tz::db().available().map(|name| name.to_string()).collect();
    let cure = match nearest(text, names.iter().map(String::as_str)) {
        Some(near) => format!("did you mean {}?", quote(near)),
        None => "write for example \"Europe/Berlin\" or \"UTC\"".to_owned(),
    };
    Err(Wrong::new(format!("names no time zone: {}", quote(text)), cure))
}

/// Names end up in logs, metrics and header lines: no control characters, bounded.
pub(super) fn name(text: &str) -> Result<&str, Wrong> {
    const LONGEST: usize = 256;
    if text.is_empty() {
        return Err(Wrong::new("is empty", "give it a name"));
    }
    if text.len() > LONGEST {
        return Err(Wrong::new("is longer than 256 bytes", "use a shorter name"));
    }
    if text.chars().any(char::is_control) {
        return Err(Wrong::new(format!("has a control character in {}", quote(text)), "remove it"));
    }
    if text.trim() != text {
        return Err(Wrong::new(
            format!("has blanks at the start or end of {}", quote(text)),
            format!("write {}", quote(text.trim())),
        ));
    }
    Ok(text)
}

fn slug(text: &str) -> Result<Value, Wrong> {
    let text = name(text)?;
    if text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
        return Ok(Value::Text(text.to_owned()));
    }
    Err(Wrong::new(
        format!(
            "must be at most 64 letters, digits, \".\", \"_\" and \"-\", unlike {}",
            quote(text)
        ),
        "choose another name",
    ))
}

fn outside(min: &dyn std::fmt::Display, max: &dyn std::fmt::Display, found: &str) -> Wrong {
    Wrong::new(format!("must be {min} to {max}, not {found}"), format!("write {min} to {max}"))
}

fn wrong_type(kind: &Kind, value: &DeValue<'_>) -> Wrong {
    let bare = matches!(value, DeValue::Integer(_) | DeValue::Float(_));
    let number = match value {
        DeValue::Integer(found) => found.to_string(),
        DeValue::Float(found) => found.to_string(),
        _ => String::new(),
    };
    let (must, cure) = match kind {
        Kind::Duration { .. } if bare => {
            return Wrong::new(
                format!("has no unit in {number}"),
                format!("write \"{number}s\" for seconds, or use us, ms, m, h or d"),
            );
        }
        Kind::Size { .. } if bare => {
            return Wrong::new(
                format!("has no unit in {number}"),
                format!("write \"{number}B\" for bytes, or use KB, MB, GB, KiB, MiB, GiB or TiB"),
            );
        }
        Kind::Amount | Kind::PerMillion | Kind::Each | Kind::Markup if bare => {
            let number = number.trim_end_matches(['.']);
            return Wrong::new(
                format!("must be text, so that it stays exact, not the number {number}"),
                format!("write \"{number}\""),
            );
        }
        Kind::Bool => ("true or false", "write true or false without quotes".to_owned()),
        Kind::Integer { .. } | Kind::OneOf(_) => {
            ("a whole number", "write a number without quotes".to_owned())
        }
        Kind::Number { .. } => ("a number", "write a number without quotes".to_owned()),
        Kind::List(inner) => {
            let example = if inner.is_text() { "[\"…\"]" } else { "[…]" };
            ("a list", format!("write {example}"))
        }
        Kind::Headers | Kind::Anything | Kind::Names | Kind::Inline(_) | Kind::Named(_) => {
            ("a table", "write { … }".to_owned())
        }
        Kind::Inlines(_) => ("a list of tables", "write [{ … }]".to_owned()),
        Kind::Section(table) | Kind::Sections(table) => {
            let must =
                if matches!(kind, Kind::Section(_)) { "one table" } else { "a list of tables" };
            (must, format!("write {}", table.label))
        }
        _ => ("a string", "write it in quotes".to_owned()),
    };
    Wrong::new(format!("must be {must}, not {}", a_type(value)), cure)
}

/// Times become text; numbers that JSON has no form for become text as well.
fn to_json(value: &DeValue<'_>) -> serde_json::Value {
    match value {
        DeValue::String(text) => text.as_ref().into(),
        DeValue::Integer(found) => match i64::from_str_radix(found.as_str(), found.radix()) {
            Ok(number) => number.into(),
            Err(_) => found.to_string().into(),
        },
        DeValue::Float(found) => {
            match found.as_str().parse().ok().and_then(serde_json::Number::from_f64) {
                Some(number) => number.into(),
                None => found.to_string().into(),
            }
        }
        DeValue::Boolean(value) => (*value).into(),
        DeValue::Datetime(time) => time.to_string().into(),
        DeValue::Array(array) => array.iter().map(|item| to_json(item.get_ref())).collect(),
        DeValue::Table(table) => {
            let pair = |(name, value): (
                &toml::Spanned<toml::de::DeString<'_>>,
                &toml::Spanned<DeValue<'_>>,
            )| { (name.get_ref().to_string(), to_json(value.get_ref())) };
            serde_json::Value::Object(table.iter().map(pair).collect())
        }
    }
}
