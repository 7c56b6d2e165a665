//! Strict reading of a JSON request: each accessor checks the type and range of one field and
//! refuses with the message, `param` and `code` that a hosted provider gives.

use serde_json::{Map, Value};

use crate::sim::refusal::Refusal;

/// An object in the request, with its path for messages.
#[derive(Clone)]
pub(super) struct Fields<'a> {
    map: &'a Map<String, Value>,
    path: String,
}

/// Fields that a gateway may use between itself and its callers and must not send upstream.
const GATEWAY_PREFIXES: &[&str] = &["foretoken", "x-foretoken", "x_foretoken", "_foretoken"];

impl<'a> Fields<'a> {
    /// The request itself.
    pub(super) fn of_body(value: &'a Value) -> Result<Self, Refusal> {
        match value {
            Value::Object(map) => Ok(Fields { map, path: String::new() }),
            other => Err(Refusal::invalid(
                400,
                None,
                format!("Invalid body: expected an object, but got {} instead.", type_name(other)),
            )),
        }
    }

    /// An element of a list or a field, under its own path.
    pub(super) fn of(value: &'a Value, path: String) -> Result<Self, Refusal> {
        match value {
            Value::Object(map) => Ok(Fields { map, path }),
            other => Err(wrong_type(&path, "an object", other)),
        }
    }

    /// The path of `name` in here.
    pub(super) fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// Refuses what a gateway must have added; with `strict` also whatever is not in `known`.
    pub(super) fn refuse_unknown(&self, known: &[&str], strict: bool) -> Result<(), Refusal> {
        for name in self.map.keys() {
            let gateways = GATEWAY_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
            if gateways || strict && !known.contains(&name.as_str()) {
                let path = self.path_of(name);
                let message = format!("Unknown parameter: '{path}'.");
                return Err(Refusal::bad(path, Some("unknown_parameter"), message));
            }
        }
        Ok(())
    }

    /// The raw value; `null` counts as absent.
    pub(super) fn value(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    /// A value that must be there.
    pub(super) fn required(&self, name: &str) -> Result<&'a Value, Refusal> {
        self.value(name).ok_or_else(|| missing(self.path_of(name)))
    }

    /// A string.
    pub(super) fn text(&self, name: &str) -> Result<Option<&'a str>, Refusal> {
        self.typed(name, "a string", Value::as_str)
    }

    /// A string that must be there and not be empty.
    pub(super) fn required_text(&self, name: &str) -> Result<&'a str, Refusal> {
        match self.text(name)? {
            Some("") => Err(self.bad_value(name, "expected a non-empty string".to_owned())),
            Some(text) => Ok(text),
            None => Err(missing(self.path_of(name))),
        }
    }

    /// A boolean.
    pub(super) fn flag(&self, name: &str) -> Result<Option<bool>, Refusal> {
        self.typed(name, "a boolean", Value::as_bool)
    }

    /// An integer within bounds.
    pub(super) fn integer(&self, name: &str, min: i64, max: i64) -> Result<Option<i64>, Refusal> {
        let number = self.typed(name, "an integer", Value::as_i64)?;
        self.bounded(name, "integer", number, min, max)
    }

    /// A number within bounds.
    pub(super) fn number(&self, name: &str, min: f64, max: f64) -> Result<Option<f64>, Refusal> {
        let number = self.typed(name, "a decimal", Value::as_f64)?;
        self.bounded(name, "decimal", number, min, max)
    }

    /// An array.
    pub(super) fn list(&self, name: &str) -> Result<Option<&'a [Value]>, Refusal> {
        self.typed(name, "an array", |value| value.as_array().map(Vec::as_slice))
    }

    /// An array that must be there with at least one element.
    pub(super) fn required_list(&self, name: &str) -> Result<&'a [Value], Refusal> {
        match self.list(name)? {
            Some([]) => {
                let path = self.path_of(name);
                let message = format!(
                    "Invalid '{path}': empty array. Expected an array with minimum length 1, but got an empty array instead."
                );
                Err(Refusal::bad(path, Some("empty_array"), message))
            }
            Some(list) => Ok(list),
            None => Err(missing(self.path_of(name))),
        }
    }

    /// The elements of a list as objects, each with its path.
    pub(super) fn objects(&self, name: &str) -> Result<Vec<Fields<'a>>, Refusal> {
        let path = self.path_of(name);
        let element = |(at, value)| Fields::of(value, format!("{path}[{at}]"));
        self.list(name)?.unwrap_or_default().iter().enumerate().map(element).collect()
    }

    /// An object.
    pub(super) fn object(&self, name: &str) -> Result<Option<Fields<'a>>, Refusal> {
        self.value(name).map(|value| Fields::of(value, self.path_of(name))).transpose()
    }

    /// A string out of a list.
    pub(super) fn one_of(&self, name: &str, known: &[&str]) -> Result<Option<&'a str>, Refusal> {
        match self.text(name)? {
            Some(text) if !known.contains(&text) => Err(self.unsupported(name, text, known)),
            other => Ok(other),
        }
    }

    /// A string out of a list that must be there.
    pub(super) fn required_one_of(&self, name: &str, known: &[&str]) -> Result<&'a str, Refusal> {
        self.one_of(name, known)?.ok_or_else(|| missing(self.path_of(name)))
    }

    /// A string, or a list of at most `max` strings.
    pub(super) fn texts(&self, name: &str, max: usize) -> Result<Vec<&'a str>, Refusal> {
        let path = self.path_of(name);
        match self.value(name) {
            None => Ok(Vec::new()),
            Some(Value::String(text)) => Ok(vec![text]),
            Some(Value::Array(list)) if list.len() > max => {
                let message = format!(
                    "Invalid '{path}': array too long. Expected an array with maximum length {max}, but got an array with length {} instead.",
                    list.len()
                );
                Err(Refusal::bad(path, Some("array_above_max_length"), message))
            }
            Some(Value::Array(list)) => list
                .iter()
                .enumerate()
                .map(|(at, value)| {
                    let element = format!("{path}[{at}]");
                    value.as_str().ok_or_else(|| wrong_type(&element, "a string", value))
                })
                .collect(),
            Some(other) => Err(wrong_type(&path, "a string or an array of strings", other)),
        }
    }

    /// `metadata`: at most 16 pairs of strings.
    pub(super) fn metadata(&self) -> Result<(), Refusal> {
        let Some(metadata) = self.object("metadata")? else { return Ok(()) };
        if metadata.map.len() > 16 {
            return Err(self.bad_value("metadata", "expected at most 16 pairs".to_owned()));
        }
        metadata.map.keys().try_for_each(|name| metadata.text(name).map(|_| ()))
    }

    /// A value that is of the right type and wrong all the same.
    pub(super) fn bad_value(&self, name: &str, why: String) -> Refusal {
        let path = self.path_of(name);
        let message = format!("Invalid '{path}': {why}.");
        Refusal::bad(path, Some("invalid_value"), message)
    }

    /// A field that may not stand next to what else was sent.
    pub(super) fn unfit(&self, name: &str, message: impl Into<String>) -> Refusal {
        Refusal::bad(self.path_of(name), None, message)
    }

    fn unsupported(&self, name: &str, text: &str, known: &[&str]) -> Refusal {
        let path = self.path_of(name);
        let message =
            format!("Invalid value: '{text}'. Supported values are: '{}'.", known.join("', '"));
        Refusal::bad(path, Some("invalid_value"), message)
    }

    fn typed<T>(
        &self,
        name: &str,
        expected: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, Refusal> {
        let Some(value) = self.value(name) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| wrong_type(&self.path_of(name), expected, value))
    }

    fn bounded<T: PartialOrd + std::fmt::Display>(
        &self,
        name: &str,
        kind: &'static str,
        number: Option<T>,
        min: T,
        max: T,
    ) -> Result<Option<T>, Refusal> {
        let Some(number) = number else { return Ok(None) };
        let (side, sign, bound) = match () {
            () if number < min => ("below minimum", ">=", min),
            () if number > max => ("above maximum", "<=", max),
            () => return Ok(Some(number)),
        };
        let path = self.path_of(name);
        let message = format!(
            "Invalid '{path}': {kind} {side} value. Expected a value {sign} {bound}, but got {number} instead."
        );
        let code = match (kind, sign) {
            ("integer", ">=") => "integer_below_min_value",
            ("integer", _) => "integer_above_max_value",
            (_, ">=") => "decimal_below_min_value",
            _ => "decimal_above_max_value",
        };
        Err(Refusal::bad(path, Some(code), message))
    }
}

/// A field is missing.
pub(super) fn missing(path: String) -> Refusal {
    let message = format!("Missing required parameter: '{path}'.");
    Refusal::bad(path, Some("missing_required_parameter"), message)
}

/// A field has the wrong type.
pub(super) fn wrong_type(path: &str, expected: &str, got: &Value) -> Refusal {
    let message = format!(
        "Invalid type for '{path}': expected {expected}, but got {} instead.",
        type_name(got)
    );
    Refusal::bad(path, Some("invalid_type"), message)
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(number) if number.is_f64() => "a decimal",
        Value::Number(_) => "an integer",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn refusals_name_the_field_and_the_fault() {
        let body = json!({"t": "x", "n": 0, "f": 2.5, "e": [], "o": {"in": 1}, "list": ["a", 1],
            "metadata": {"a": 1}, "nothing": null, "i": 1.5});
        let fields = Fields::of_body(&body).expect("an object");
        let inner = fields.object("o").expect("fits").expect("there");
        for (refused, param, code) in [
            (fields.flag("t").err(), "t", "invalid_type"),
            (fields.integer("n", 1, 5).err(), "n", "integer_below_min_value"),
            (fields.integer("i", 1, 5).err(), "i", "invalid_type"),
            (fields.number("f", 0.0, 2.0).err(), "f", "decimal_above_max_value"),
            (fields.required_list("e").err(), "e", "empty_array"),
            (fields.required("nothing").err(), "nothing", "missing_required_parameter"),
            (fields.one_of("t", &["y"]).err(), "t", "invalid_value"),
            (fields.texts("list", 4).err(), "list[1]", "invalid_type"),
            (fields.texts("list", 1).err(), "list", "array_above_max_length"),
            (inner.text("in").err(), "o.in", "invalid_type"),
            (fields.metadata().err(), "metadata.a", "invalid_type"),
        ] {
            let refusal = refused.expect(param);
            assert_eq!((refusal.status, refusal.invalid), (400, true));
            assert_eq!(refusal.param.as_deref(), Some(param));
            assert_eq!(refusal.code, Some(code), "{}", refusal.message);
        }
        assert_eq!(fields.number("n", 0.0, 1.0).expect("an integer is a number"), Some(0.0));
    }

    #[test]
    fn a_gateways_own_fields_are_always_refused_and_strange_ones_on_request() {
        let known = &["model"];
        let of = |body: Value, strict| {
            Fields::of_body(&body).expect("an object").refuse_unknown(known, strict).is_ok()
        };
        assert!(of(json!({"model": 1, "top_k": 1}), false));
        assert!(!of(json!({"model": 1, "top_k": 1}), true));
        assert!(!of(json!({"model": 1, "foretoken_tags": 1}), false));
        assert!(!of(json!({"model": 1, "x-foretoken-key": 1}), false));
        assert!(Fields::of_body(&json!([1])).is_err());
    }
}
