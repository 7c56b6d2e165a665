//! Reading JSON as strictly as it was described: every fault names its field and the cure.

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::refusal::Refusal;
use crate::money;

/// The largest count that can be set: above, somebody has mistaken the unit.
const COUNT_MAX: u64 = 1_000_000_000_000;

/// The longest name.
pub(super) const NAME_CHARS_MAX: usize = 128;

/// The largest `metadata`, as JSON.
const METADATA_BYTES_MAX: usize = 4096;

/// One JSON object, of which only known fields are read. A field that is null counts as missing.
pub(super) struct Fields<'a> {
    map: &'a Map<String, Value>,
    /// What stands before the names of its fields: `limits.`.
    path: String,
}

impl<'a> Fields<'a> {
    /// All fields of `map` must be among `known`.
    pub fn of(
        map: &'a Map<String, Value>,
        path: impl Into<String>,
        known: &[&str],
    ) -> Result<Self, Refusal> {
        let fields = Fields { map, path: path.into() };
        match map.keys().find(|name| !known.contains(&name.as_str())) {
            None => Ok(fields),
            Some(wrong) => {
                let cure = match nearest(wrong, known) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("here belong {}", known.join(", ")),
                };
                let path = fields.path(&shortened(wrong));
                let message = format!("`{path}` is not known; {cure}");
                Err(Refusal::new(400, "unknown_field", message).of(path))
            }
        }
    }

    /// The path of one of its fields.
    pub fn path(&self, name: &str) -> String {
        format!("{}{name}", self.path)
    }

    fn get(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    /// The field holds the wrong type of JSON.
    fn wrong(&self, name: &str, must: &str) -> Refusal {
        let path = self.path(name);
        Refusal::kind(&path, format!("`{path}` must be {must}"))
    }

    /// The field holds what it cannot mean.
    pub fn bad(&self, name: &str, why: impl std::fmt::Display) -> Refusal {
        let path = self.path(name);
        Refusal::value(&path, format!("`{path}` {why}"))
    }

    /// A text of 1 to `chars_max` characters, without control characters or blanks at its ends.
    pub fn text(&self, name: &str, chars_max: usize) -> Result<Option<&'a str>, Refusal> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let text = value.as_str().ok_or_else(|| self.wrong(name, "a text"))?;
        match text_fault(text, chars_max) {
            Some(why) => Err(self.bad(name, why)),
            None => Ok(Some(text)),
        }
    }

    /// As [`Fields::text`], and it must be there.
    pub fn required(&self, name: &str, chars_max: usize) -> Result<&'a str, Refusal> {
        self.text(name, chars_max)?.ok_or_else(|| self.bad(name, "is missing"))
    }

    pub fn flag(&self, name: &str) -> Result<Option<bool>, Refusal> {
        let Some(value) = self.get(name) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| self.wrong(name, "true or false"))
    }

    /// A whole number that is not negative.
    pub fn count(&self, name: &str, max: u64) -> Result<Option<u64>, Refusal> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let Value::Number(number) = value else {
            return Err(self.wrong(name, "a whole number, without quotes"));
        };
        let count = match (number.as_u64(), number.as_f64()) {
            (Some(count), _) => count,
            (None, Some(float)) if float < 0.0 => {
                return Err(self.bad(name, "must not be negative; null removes it"));
            }
            (None, Some(float)) if float > u64::MAX as f64 => u64::MAX,
            _ => return Err(self.wrong(name, "a whole number")),
        };
        if count > max {
            return Err(self.bad(name, format!("is more than {max}")));
        }
        Ok(Some(count))
    }

    /// A limit: a count up to a size at which it is no limit any more.
    pub fn limit(&self, name: &str) -> Result<Option<u64>, Refusal> {
        self.count(name, COUNT_MAX)
    }

    /// Money: decimal text, in 10^-12.
    pub fn amount(&self, name: &str) -> Result<Option<u128>, Refusal> {
        let Some(text) = self.decimal(name)? else { return Ok(None) };
        money::parse_amount(text).map(Some).map_err(|error| self.bad(name, error))
    }

    /// A number that must be written as a text, since floats are not exact.
    pub fn decimal(&self, name: &str) -> Result<Option<&'a str>, Refusal> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(Value::Number(number)) => Err(self.wrong(
                name,
                &format!("in quotes, \"{number}\": amounts are exact and JSON's numbers are not"),
            )),
            Some(_) => Err(self.wrong(name, "an amount in quotes, like \"12.50\"")),
        }
    }

    /// A time as RFC 3339, in milliseconds since 1970.
    pub fn time(&self, name: &str) -> Result<Option<u64>, Refusal> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let text = value
            .as_str()
            .ok_or_else(|| self.wrong(name, "a time in quotes, like \"2030-01-31T00:00:00Z\""))?;
        let time = text.parse::<Timestamp>().ok();
        let unix_ms = time.and_then(|time| u64::try_from(time.as_millisecond()).ok());
        unix_ms.map(Some).ok_or_else(|| {
            self.bad(name, "must be a time after 1970 like \"2030-01-31T00:00:00Z\" (RFC 3339)")
        })
    }

    /// A duration like `24h`, in milliseconds.
    pub fn duration_ms(&self, name: &str, max_ms: u64) -> Result<Option<u64>, Refusal> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let text =
            value.as_str().ok_or_else(|| self.wrong(name, "a duration in quotes, like \"24h\""))?;
        let ms = parse_duration_ms(text).ok_or_else(|| {
            self.bad(name, "must be a whole number with a unit (ms, s, m, h, d), like \"24h\"")
        })?;
        if ms > max_ms {
            return Err(self.bad(name, format!("is longer than {}", format_duration_ms(max_ms))));
        }
        Ok(Some(ms))
    }

    /// A list of texts.
    pub fn list(
        &self,
        name: &str,
        items_max: usize,
        chars_max: usize,
    ) -> Result<Option<Vec<&'a str>>, Refusal> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let items = value.as_array().ok_or_else(|| self.wrong(name, "a list of texts"))?;
        if items.len() > items_max {
            return Err(self.bad(name, format!("has more than {items_max} entries")));
        }
        let one = |(at, item): (usize, &'a Value)| {
            let name = format!("{name}[{at}]");
            let text = item.as_str().ok_or_else(|| self.wrong(&name, "a text"))?;
            match text_fault(text, chars_max) {
                Some(why) => Err(self.bad(&name, why)),
                None => Ok(text),
            }
        };
        items.iter().enumerate().map(one).collect::<Result<Vec<_>, _>>().map(Some)
    }

    /// A list of objects with these fields.
    pub fn objects(
        &self,
        name: &str,
        items_max: usize,
        known: &[&str],
    ) -> Result<Vec<Fields<'a>>, Refusal> {
        let Some(value) = self.get(name) else { return Ok(Vec::new()) };
        let items = value.as_array().ok_or_else(|| self.wrong(name, "a list of objects"))?;
        if items.len() > items_max {
            return Err(self.bad(name, format!("has more than {items_max} entries")));
        }
        let one = |(at, item): (usize, &'a Value)| {
            let name = format!("{name}[{at}]");
            let map = item.as_object().ok_or_else(|| self.wrong(&name, "an object"))?;
            Fields::of(map, self.path(&format!("{name}.")), known)
        };
        items.iter().enumerate().map(one).collect()
    }

    /// An object.
    pub fn object(&self, name: &str) -> Result<Option<&'a Map<String, Value>>, Refusal> {
        let Some(value) = self.get(name) else { return Ok(None) };
        value.as_object().map(Some).ok_or_else(|| self.wrong(name, "an object"))
    }

    /// An object with whatever is wanted in it, up to a size.
    pub fn metadata(&self) -> Result<Map<String, Value>, Refusal> {
        let Some(map) = self.object("metadata")? else { return Ok(Map::new()) };
        if Value::Object(map.clone()).to_string().len() > METADATA_BYTES_MAX {
            let why = format!("is more than {METADATA_BYTES_MAX} bytes of JSON");
            return Err(self.bad("metadata", why));
        }
        Ok(map.clone())
    }
}

/// What is wrong with a text that will stand in logs, lists and headers.
pub(super) fn text_fault(text: &str, chars_max: usize) -> Option<String> {
    if text.is_empty() {
        return Some("must not be empty".to_owned());
    }
    if text.chars().nth(chars_max).is_some() {
        return Some(format!("is longer than {chars_max} characters"));
    }
    if text.chars().any(char::is_control) {
        return Some("must not have control characters in it".to_owned());
    }
    (text.trim() != text).then(|| "must not begin or end with a blank".to_owned())
}

/// A whole number and its unit, in milliseconds.
fn parse_duration_ms(text: &str) -> Option<u64> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit())?;
    let (digits, unit) = text.split_at(unit_at);
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit_ms)
}

/// The inverse of reading a duration: in the largest unit that leaves a whole number.
pub(super) fn format_duration_ms(ms: u64) -> String {
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")];
    match units.into_iter().find(|(unit_ms, _)| ms > 0 && ms.is_multiple_of(*unit_ms)) {
        Some((unit_ms, unit)) => format!("{}{unit}", ms / unit_ms),
        None => format!("{ms}ms"),
    }
}

/// A time, as shown.
pub(super) fn rfc3339(unix_ms: u64) -> String {
    String::from_utf8_lossy(&crate::clock::rfc3339(unix_ms)).into_owned()
}

/// What a peer sent, cut to what a message can hold.
pub(super) fn shortened(text: &str) -> String {
    let clean = text.chars().filter(|c| !c.is_control());
    clean.take(NAME_CHARS_MAX).collect()
}

/// The name that was most likely meant: within a third of its length in edits.
pub(super) fn nearest<'n>(wrong: &str, names: &[&'n str]) -> Option<&'n str> {
    let wrong = wrong.to_lowercase();
    if wrong.len() > 64 {
        return None;
    }
    let far = |name: &str| edits(wrong.as_bytes(), name.as_bytes());
    let near = names.iter().map(|name| (far(name), *name));
    near.filter(|(far, name)| *far <= (name.len().max(wrong.len()) / 3).max(1))
        .min_by_key(|(far, _)| *far)
        .map(|(_, name)| name)
}

/// How many bytes have to be put in, taken out, replaced, or swapped with their neighbour.
fn edits(one: &[u8], other: &[u8]) -> usize {
    let mut rows =
        [vec![0; other.len() + 1], (0..=other.len()).collect(), vec![0; other.len() + 1]];
    for i in 1..=one.len() {
        let [older, old, new] = &mut rows;
        new[0] = i;
        for j in 1..=other.len() {
            let replaced = old[j - 1] + usize::from(one[i - 1] != other[j - 1]);
            new[j] = replaced.min(old[j] + 1).min(new[j - 1] + 1);
            if i > 1 && j > 1 && one[i - 1] == other[j - 2] && one[i - 2] == other[j - 1] {
                new[j] = new[j].min(older[j - 2] + 1);
            }
        }
        rows.rotate_left(1);
    }
    rows[1][other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_they_are_read() {
        for text in ["24h", "1d", "90m", "5s", "250ms", "0ms"] {
            let ms = parse_duration_ms(text).expect(text);
            let shown = format_duration_ms(ms);
            assert_eq!(parse_duration_ms(&shown), Some(ms), "{text} {shown}");
        }
        assert_eq!(format_duration_ms(86_400_000), "1d");
        for text in ["", "24", "h", "-1h", "1.5h", "1 h", "1w", "99999999999999999999d", "1hh"] {
            assert_eq!(parse_duration_ms(text), None, "{text}");
        }
    }

    #[test]
    fn the_nearest_name_is_offered() {
        let names = ["rpm", "tpm", "parallel", "budget"];
        assert_eq!(nearest("budgets", &names), Some("budget"));
        assert_eq!(nearest("Paralel", &names), Some("parallel"));
        assert_eq!(nearest("rmp", &names), Some("rpm"));
        assert_eq!(nearest("colour", &names), None);
    }
}
