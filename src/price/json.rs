//! Entries as JSON: in the same names as a `[[price]]` table, prices as decimal text.

use std::fmt::Write as _;
use std::str::FromStr;

use jiff::civil::Date;
use jiff::{Timestamp, tz::TimeZone};
use serde_json::{Map, Value, json};

use super::entry::{Entry, LongContext, Tier};
use super::prices::Prices;
use crate::money::Currency;

/// Bytes of a name.
const NAME_BYTES_MAX: usize = 256;
/// Tiers of an entry, and steps of a long context.
const PARTS_MAX: usize = 16;

/// The keys of an entry beside its prices.
pub const KEYS: &[&str] =
    &["provider", "model", "group", "currency", "valid_from", "tiers", "long_context"];

/// What is wrong with one field of an entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FieldFault {
    /// Its path: `tiers.batch.input`, `long_context[0].above`.
    pub field: String,
    /// The end of a sentence that begins with the field, with the cure.
    pub message: String,
}

impl Entry {
    /// The entry in JSON. The version is not in it: it follows from the rest.
    pub fn to_json(&self) -> Value {
        let mut body = Map::new();
        body.insert("provider".into(), json!(self.provider));
        body.insert("model".into(), json!(self.model));
        if let Some(group) = &self.group {
            body.insert("group".into(), json!(group));
        }
        body.insert("currency".into(), json!(self.currency.as_str()));
        if self.valid_from_unix_ms > 0 {
            body.insert("valid_from".into(), json!(rfc3339(self.valid_from_unix_ms)));
        }
        write_prices(&self.base, &mut body);
        if !self.tiers.is_empty() {
            let tiers = self.tiers.iter().map(|tier| {
                let mut body = Map::new();
                write_prices(&tier.prices, &mut body);
                write_steps(&tier.long_context, &mut body);
                (tier.name.clone(), Value::Object(body))
            });
            body.insert("tiers".into(), Value::Object(tiers.collect()));
        }
        write_steps(&self.long_context, &mut body);
        Value::Object(body)
    }

    /// The JSON with its keys sorted and without blanks, whatever order a map is kept in.
    pub(super) fn canonical_json(&self) -> String {
        let mut text = String::new();
        canonical(&self.to_json(), &mut text);
        text
    }

    /// Reads an entry and stamps it with its version. A `null` is as good as a missing field.
    ///
    /// # Errors
    /// All faults at once, in the order of their fields.
    pub fn from_json(value: &Value) -> Result<Entry, Vec<FieldFault>> {
        let mut reader = Reader { faults: Vec::new() };
        let Some(body) = value.as_object() else {
            reader.fault("", "must be an object with provider, model and prices");
            return Err(reader.faults);
        };
        let provider = reader.required(body, "provider", "name the provider it is the price of");
        let model = reader.required(body, "model", "name the model as the provider calls it");
        if model.trim_end_matches('*').contains('*') || model.ends_with("**") {
            reader.fault("model", "may have one `*`, at its end, for all that begin so");
        }
        let group = reader.text(body, "group");
        let currency = reader.currency(body);
        let valid_from_unix_ms = reader.valid_from(body);
        let base = reader.prices(body, "", KEYS);
        let tiers = reader.tiers(body);
        let long_context = reader.steps(body, "");
        let empty = base.is_empty()
            && tiers.iter().all(|tier| tier.prices.is_empty())
            && long_context.iter().all(|step| step.prices.is_empty());
        if empty && reader.faults.is_empty() {
            reader.fault("input", "is missing, as is any other price; what is free costs \"0\"");
        }
        if !reader.faults.is_empty() {
            return Err(reader.faults);
        }
        let entry = Entry {
            provider,
            model,
            group,
            currency,
            valid_from_unix_ms,
            base,
            tiers,
            long_context,
            version: 0,
        };
        Ok(entry.stamped())
    }
}

fn write_prices(prices: &Prices, body: &mut Map<String, Value>) {
    for name in Prices::NAMES {
        if let Some(text) = prices.get(name) {
            body.insert((*name).into(), json!(text));
        }
    }
}

fn write_steps(steps: &[LongContext], body: &mut Map<String, Value>) {
    if steps.is_empty() {
        return;
    }
    let steps = steps.iter().map(|step| {
        let mut body = Map::new();
        body.insert("above".into(), json!(step.above_tokens));
        write_prices(&step.prices, &mut body);
        Value::Object(body)
    });
    body.insert("long_context".into(), Value::Array(steps.collect()));
}

fn canonical(value: &Value, text: &mut String) {
    match value {
        Value::Object(body) => {
            let mut members: Vec<_> = body.iter().collect();
            members.sort_by_key(|(name, _)| *name);
            text.push('{');
            for (at, (name, value)) in members.into_iter().enumerate() {
                let comma = if at > 0 { "," } else { "" };
                let _ = write!(text, "{comma}{}:", Value::from(name.as_str()));
                canonical(value, text);
            }
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    text.push(',');
                }
                canonical(item, text);
            }
            text.push(']');
        }
        scalar => {
            let _ = write!(text, "{scalar}");
        }
    }
}

fn rfc3339(unix_ms: u64) -> String {
    let ms = i64::try_from(unix_ms).unwrap_or(i64::MAX);
    Timestamp::from_millisecond(ms).unwrap_or(Timestamp::MAX).to_string()
}

/// Gathers faults while it reads.
struct Reader {
    faults: Vec<FieldFault>,
}

impl Reader {
    fn fault(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.faults.push(FieldFault { field: field.into(), message: message.into() });
    }

    fn text(&mut self, body: &Map<String, Value>, name: &str) -> Option<String> {
        match body.get(name)? {
            Value::Null => None,
            Value::String(text) if text.trim().is_empty() => {
                self.fault(name, "must not be empty");
                None
            }
            Value::String(text) if text.len() > NAME_BYTES_MAX => {
                self.fault(name, format!("is longer than {NAME_BYTES_MAX} bytes"));
                None
            }
            Value::String(text) => Some(text.clone()),
            _ => {
                self.fault(name, "must be a text");
                None
            }
        }
    }

    fn required(&mut self, body: &Map<String, Value>, name: &str, cure: &str) -> String {
        let before = self.faults.len();
        let text = self.text(body, name);
        if text.is_none() && self.faults.len() == before {
            self.fault(name, format!("is missing; {cure}"));
        }
        text.unwrap_or_default()
    }

    fn currency(&mut self, body: &Map<String, Value>) -> Currency {
        let Some(text) = self.text(body, "currency") else { return Currency::USD };
        Currency::parse(&text).unwrap_or_else(|| {
            self.fault("currency", "must be three capital letters such as \"USD\"");
            Currency::USD
        })
    }

    fn valid_from(&mut self, body: &Map<String, Value>) -> u64 {
        let Some(text) = self.text(body, "valid_from") else { return 0 };
        // A day alone is its beginning in UTC.
        let time = Timestamp::from_str(&text).ok().or_else(|| {
            let day = Date::from_str(&text).ok()?;
            TimeZone::UTC.to_timestamp(day.at(0, 0, 0, 0)).ok()
        });
        let unix_ms = time.and_then(|time| u64::try_from(time.as_millisecond()).ok());
        unix_ms.unwrap_or_else(|| {
            self.fault("valid_from", "must be a time such as \"2026-01-31T00:00:00Z\"");
            0
        })
    }

    /// The prices of `body`; every key that is neither a price nor among `others` is a fault.
    fn prices(&mut self, body: &Map<String, Value>, path: &str, others: &[&str]) -> Prices {
        let mut prices = Prices::default();
        for (name, value) in body {
            if others.contains(&name.as_str()) || (value.is_null() && is_price(name)) {
                continue;
            }
            let told = match value {
                _ if !is_price(name) => Err(format!(
                    "is not known; here belong {}",
                    [others, Prices::NAMES].concat().join(", ")
                )),
                Value::String(text) => prices.set(name, text),
                Value::Number(number) => {
                    Err(format!("must be in quotes, \"{number}\": prices are exact, floats not"))
                }
                _ => Err("must be a number in quotes such as \"0.15\"".to_owned()),
            };
            if let Err(message) = told {
                self.fault(format!("{path}{name}"), message);
            }
        }
        prices
    }

    fn tiers(&mut self, body: &Map<String, Value>) -> Vec<Tier> {
        let tiers = match body.get("tiers") {
            None | Some(Value::Null) => return Vec::new(),
            Some(Value::Object(tiers)) if tiers.len() <= PARTS_MAX => tiers,
            Some(Value::Object(_)) => {
                self.fault("tiers", format!("has more than {PARTS_MAX} tiers"));
                return Vec::new();
            }
            Some(_) => {
                self.fault("tiers", "must name tiers: { batch = { input = \"0.075\" } }");
                return Vec::new();
            }
        };
        let mut read = Vec::new();
        for (name, tier) in tiers {
            let path = format!("tiers.{name}");
            let Some(tier) = tier.as_object() else {
                self.fault(path, "must be prices: { input = \"0.075\", output = \"0.30\" }");
                continue;
            };
            if name.is_empty() || name.len() > NAME_BYTES_MAX {
                self.fault(path, format!("must have a name of 1 to {NAME_BYTES_MAX} bytes"));
                continue;
            }
            let path = format!("{path}.");
            read.push(Tier {
                name: name.clone(),
                prices: self.prices(tier, &path, &["long_context"]),
                long_context: self.steps(tier, &path),
            });
        }
        read.sort_by(|one, other| one.name.cmp(&other.name));
        read
    }

    fn steps(&mut self, body: &Map<String, Value>, path: &str) -> Vec<LongContext> {
        let path = format!("{path}long_context");
        let form = "must be a list: [{ above = 200000, input = \"6\" }]";
        let steps = match body.get("long_context") {
            None | Some(Value::Null) => return Vec::new(),
            Some(Value::Array(steps)) if steps.len() <= PARTS_MAX => steps,
            Some(Value::Array(_)) => {
                self.fault(path, format!("has more than {PARTS_MAX} steps"));
                return Vec::new();
            }
            Some(_) => {
                self.fault(path, form);
                return Vec::new();
            }
        };
        let mut read: Vec<LongContext> = Vec::new();
        for (at, step) in steps.iter().enumerate() {
            let path = format!("{path}[{at}]");
            let Some(step) = step.as_object() else {
                self.fault(path, "must be like { above = 200000, input = \"6\" }");
                continue;
            };
            let prices = self.prices(step, &format!("{path}."), &["above"]);
            let above = step.get("above").and_then(Value::as_u64).filter(|&above| above > 0);
            match above {
                None => self.fault(
                    format!("{path}.above"),
                    "must be a number of tokens such as 200000: longer input costs these prices",
                ),
                Some(above) if read.iter().any(|step| step.above_tokens == above) => {
                    self.fault(format!("{path}.above"), "is the same as in a step before");
                }
                Some(above_tokens) => read.push(LongContext { above_tokens, prices }),
            }
        }
        read.sort_by_key(|step| step.above_tokens);
        read
    }
}

fn is_price(name: &str) -> bool {
    Prices::NAMES.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(value: Value) -> Vec<(String, String)> {
        let faults = Entry::from_json(&value).expect_err("a fault");
        faults.into_iter().map(|fault| (fault.field, fault.message)).collect()
    }

    #[test]
    fn an_entry_is_read_and_written_in_the_names_of_the_table() {
        let value = json!({
            "provider": "openai", "model": "gpt-4o*", "group": "retail", "currency": "EUR",
            "valid_from": "2026-01-31T00:00:00Z", "input": "2.5", "output": "10",
            "request": "0.001",
            "tiers": {"batch": {"input": "1.25", "long_context": [{"above": 9, "input": "2"}]}},
            "long_context": [{"above": 200000, "input": "5"}, {"above": 400000, "input": "7"}],
        });
        let entry = Entry::from_json(&value).expect("good");
        assert_eq!(entry.to_json(), value);
        assert_eq!(entry.valid_from_unix_ms, 1_769_817_600_000);
        assert_eq!(entry.currency.as_str(), "EUR");
        assert_eq!(entry.long_context[1].above_tokens, 400_000);
    }

    #[test]
    fn what_is_not_said_is_usd_always_and_for_the_upstream() {
        let entry = Entry::from_json(&json!({
            "provider": "p", "model": "m", "input": "1", "group": null, "output": null,
        }));
        let entry = entry.expect("good");
        assert_eq!(
            (entry.currency, entry.valid_from_unix_ms, entry.group),
            (Currency::USD, 0, None)
        );
        assert!(entry.base.get("output").is_none());
        let day = Entry::from_json(&json!({
            "provider": "p", "model": "m", "input": "1", "valid_from": "2026-01-31",
        }));
        assert_eq!(day.expect("good").valid_from_unix_ms, 1_769_817_600_000);
    }

    #[test]
    fn every_fault_is_told_with_its_path_and_cure() {
        let told = faults(json!({
            "model": "a*b", "currency": "usd", "valid_from": "soon", "inptu": "1",
            "input": 0.15, "output": "1e-6", "reasoning": true,
            "tiers": {"batch": {"input": "-1", "above": 1}, "flex": "half"},
            "long_context": [{"input": "1"}, {"above": 5, "output": "x"}, {"above": 5}, 7],
        }));
        let find = |field: &str| {
            let found = told.iter().find(|(path, _)| path == field);
            &found.unwrap_or_else(|| panic!("{field}: {told:?}")).1
        };
        assert!(find("provider").contains("is missing; name the provider"));
        assert!(find("model").contains("at its end"));
        assert!(find("currency").contains("\"USD\""));
        assert!(find("valid_from").contains("2026-01-31T00:00:00Z"));
        assert!(find("inptu").contains("is not known; here belong provider"));
        assert!(find("input").contains("must be in quotes, \"0.15\""));
        assert!(find("output").contains("must be a number like"));
        assert!(find("reasoning").contains("in quotes such as"));
        assert!(find("tiers.batch.input").contains("must be a number like"));
        assert!(find("tiers.batch.above").contains("is not known; here belong long_context"));
        assert!(find("tiers.flex").contains("must be prices"));
        assert!(find("long_context[0].above").contains("a number of tokens"));
        assert!(find("long_context[1].output").contains("must be a number like"));
        assert!(find("long_context[2].above").contains("the same as"));
        assert!(find("long_context[3]").contains("must be like"));
        assert_eq!(told.len(), 15, "{told:?}");
    }

    #[test]
    fn an_entry_without_prices_or_of_another_shape_is_refused() {
        let told = faults(json!({"provider": "p", "model": "m"}));
        assert_eq!(told[0].0, "input");
        assert!(told[0].1.contains("what is free costs \"0\""));
        assert_eq!(faults(json!([1])).len(), 1);
        let long = "x".repeat(NAME_BYTES_MAX + 1);
        let told = faults(json!({"provider": long, "model": 7, "input": "1", "group": " "}));
        let fields: Vec<&str> = told.iter().map(|(field, _)| field.as_str()).collect();
        assert_eq!(fields, ["provider", "model", "group"]);
        let many: Vec<Value> =
            (1..=17).map(|above| json!({"above": above, "input": "1"})).collect();
        let told =
            faults(json!({"provider": "p", "model": "m", "input": "1", "long_context": many}));
        assert!(told[0].1.contains("more than 16"));
    }
}
