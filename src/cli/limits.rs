//! Limits and free fields on the command line, as they go into the JSON of a call.

use clap::Args;
use serde_json::{Map, Value, json};

use crate::money;

/// Limits. What is not said is not limited; in an update it stays as it is.
#[derive(Args, Default)]
pub(crate) struct LimitArgs {
    /// Requests in any 60 seconds
    #[arg(long, value_name = "N", help_heading = "Limits", allow_negative_numbers = true, value_parser = whole)]
    rpm: Option<u64>,
    /// Tokens in any 60 seconds
    #[arg(long, value_name = "N", help_heading = "Limits", allow_negative_numbers = true, value_parser = whole)]
    tpm: Option<u64>,
    /// Tokens in any 24 hours
    #[arg(long, value_name = "N", help_heading = "Limits", allow_negative_numbers = true, value_parser = whole)]
    tpd: Option<u64>,
    /// Requests at the same time
    #[arg(long, value_name = "N", help_heading = "Limits", allow_negative_numbers = true, value_parser = whole)]
    parallel: Option<u64>,
    /// Money in a period: AMOUNT/PERIOD, then /soft, /finish, /cut or /strict if wanted. Periods: total,
    /// daily, weekly, monthly, 7d. May be repeated; an update replaces all budgets
    #[arg(long, value_name = "AMOUNT/PERIOD", help_heading = "Limits", value_parser = budget)]
    budget: Vec<Value>,
    /// What happens to a stream that outgrows its reservation
    #[arg(long, value_parser = OVERRUNS, help_heading = "Limits")]
    overrun: Option<String>,
}

const OVERRUNS: [&str; 3] = ["finish", "cut", "strict"];

impl LimitArgs {
    pub(crate) fn fill(&self, body: &mut Map<String, Value>) {
        let mut limits = Map::new();
        let numbers =
            [("rpm", self.rpm), ("tpm", self.tpm), ("tpd", self.tpd), ("parallel", self.parallel)];
        for (name, number) in numbers {
            if let Some(number) = number {
                limits.insert(name.to_owned(), json!(number));
            }
        }
        if !self.budget.is_empty() {
            limits.insert("budget".to_owned(), json!(self.budget));
        }
        if let Some(overrun) = &self.overrun {
            limits.insert("overrun".to_owned(), json!(overrun));
        }
        if !limits.is_empty() {
            body.insert("limits".to_owned(), Value::Object(limits));
        }
    }
}

/// `1000`. `0` is a number, too: whether it is a limit, the gateway says.
fn whole(text: &str) -> Result<u64, String> {
    let is_digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(number) if is_digits => Ok(number),
        _ => Err("write a whole number in digits alone, for example 1000; \
            `foretoken … update --clear` takes a limit away"
            .to_owned()),
    }
}

/// `100/monthly`, `80/monthly/soft`, `100/daily/strict`.
fn budget(text: &str) -> Result<Value, String> {
    let mut parts = text.split('/');
    let amount = parts.next().unwrap_or_default();
    money::parse_amount(amount).map_err(|why| format!("the amount `{amount}` {why}"))?;
    let per = match parts.next() {
        Some(per @ ("total" | "daily" | "weekly" | "monthly")) => per,
        Some(days) if is_days(days) => days,
        _ => {
            let cure = "write AMOUNT/PERIOD, for example 100/monthly; periods are total, daily, \
                weekly, monthly, or days as 7d";
            return Err(cure.to_owned());
        }
    };
    let mut budget = json!({ "amount": amount, "per": per });
    for word in parts {
        match word {
            "soft" => budget["soft"] = json!(true),
            _ if OVERRUNS.contains(&word) => budget["overrun"] = json!(word),
            _ => return Err(format!("`{word}` is none of soft, finish, cut, strict")),
        }
    }
    Ok(budget)
}

fn is_days(text: &str) -> bool {
    text.strip_suffix('d').is_some_and(|days| days.parse::<u16>().is_ok_and(|days| days > 0))
}

/// Any field of the API, also those without an option of their own.
#[derive(Args, Default)]
pub(crate) struct SetArgs {
    /// Set any field: FIELD=JSON, or FIELD=TEXT; dots lead inside (limits.rpm=5). May be repeated
    #[arg(long, value_name = "FIELD=VALUE", value_parser = assignment)]
    set: Vec<(String, Value)>,
}

impl SetArgs {
    pub(crate) fn fill(&self, body: &mut Map<String, Value>) -> Result<(), String> {
        self.set.iter().try_for_each(|(path, value)| put(body, path, value.clone()))
    }
}

/// Fields to remove.
#[derive(Args, Default)]
pub(crate) struct ClearArgs {
    /// Remove fields, for example limits, limits.rpm, expires_at. May be repeated or comma-separated
    #[arg(long, value_name = "FIELD", value_delimiter = ',')]
    clear: Vec<String>,
}

impl ClearArgs {
    pub(crate) fn fill(&self, body: &mut Map<String, Value>) -> Result<(), String> {
        self.clear.iter().try_for_each(|path| put(body, field_of(path), Value::Null))
    }
}

/// Options that are named otherwise than the field that they set.
fn field_of(option: &str) -> &str {
    match option {
        "rpm" => "limits.rpm",
        "tpm" => "limits.tpm",
        "tpd" => "limits.tpd",
        "parallel" => "limits.parallel",
        "overrun" => "limits.overrun",
        "budget" => "limits.budget",
        "expires" => "expires_at",
        "tag" => "tags",
        "alias" => "aliases",
        field => field,
    }
}

/// `FIELD=JSON`; what is no JSON is a text.
fn assignment(text: &str) -> Result<(String, Value), String> {
    match text.split_once('=') {
        Some((field, value)) if !field.is_empty() => {
            let value = serde_json::from_str(value).unwrap_or_else(|_| json!(value));
            Ok((field.to_owned(), value))
        }
        _ => Err("write FIELD=VALUE, for example limits.rpm=5".to_owned()),
    }
}

/// `NAME=TEXT`.
pub(crate) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE".to_owned()),
    }
}

/// Pairs as an object.
pub(crate) fn object(pairs: &[(String, String)]) -> Value {
    Value::Object(pairs.iter().map(|(name, value)| (name.clone(), json!(value))).collect())
}

/// Puts a value where a dotted path leads, making the objects on the way.
fn put(body: &mut Map<String, Value>, path: &str, value: Value) -> Result<(), String> {
    let (first, rest) = match path.split_once('.') {
        Some((first, rest)) => (first, Some(rest)),
        None => (path, None),
    };
    if first.is_empty() {
        return Err(format!("`{path}` is no field"));
    }
    let Some(rest) = rest else {
        body.insert(first.to_owned(), value);
        return Ok(());
    };
    match body.entry(first).or_insert_with(|| json!({})) {
        Value::Object(inner) => put(inner, rest, value),
        _ => Err(format!("`{first}` is set as a whole already, so `{path}` cannot be set in it")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_are_read() {
        for (text, want) in [
            ("100/monthly", json!({"amount": "100", "per": "monthly"})),
            ("80.5/7d/soft", json!({"amount": "80.5", "per": "7d", "soft": true})),
            ("1/daily/strict", json!({"amount": "1", "per": "daily", "overrun": "strict"})),
            (
                "1/total/soft/cut",
                json!({"amount": "1", "per": "total", "soft": true, "overrun": "cut"}),
            ),
        ] {
            assert_eq!(budget(text), Ok(want), "{text}");
        }
        for (text, cure) in [
            ("100", "AMOUNT/PERIOD"),
            ("100/yearly", "weekly"),
            ("100/0d", "7d"),
            ("100/99999d", "7d"),
            ("-5/daily", "must be a number"),
            ("$5/daily", "must be a number"),
            ("5/daily/hard", "strict"),
        ] {
            let why = budget(text).expect_err(text);
            assert!(why.contains(cure), "{text}: {why}");
        }
    }

    #[test]
    fn numbers_are_digits_alone() {
        assert_eq!((whole("0"), whole("10000")), (Ok(0), Ok(10_000)));
        for text in ["", "1k", "10_000", "-1", "+1", "1.5", "1e3", "99999999999999999999"] {
            assert!(whole(text).is_err_and(|why| why.contains("for example 1000")), "{text}");
        }
    }

    #[test]
    fn fields_are_set_and_cleared_in_depth() {
        let mut body = Map::new();
        let set = ["limits.rpm=5", "email=a@b", "balance=\"12\"", "x.y.z=[1]"];
        let set = SetArgs { set: set.map(|text| assignment(text).expect(text)).to_vec() };
        set.fill(&mut body).expect("set");
        let clear = ClearArgs { clear: vec!["tpm".into(), "expires".into(), "metadata".into()] };
        clear.fill(&mut body).expect("cleared");
        let want = json!({"limits": {"rpm": 5, "tpm": null}, "email": "a@b", "balance": "12",
            "x": {"y": {"z": [1]}}, "expires_at": null, "metadata": null});
        assert_eq!(Value::Object(body.clone()), want);
        assert!(put(&mut body, "email.host", json!(1)).is_err_and(|why| why.contains("email")));
        assert!(put(&mut body, ".x", json!(1)).is_err());
        assert!(assignment("=5").is_err() && assignment("rpm").is_err());
    }
}
