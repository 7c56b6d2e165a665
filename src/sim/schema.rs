//! A value that fits a JSON schema, for forced tool calls and structured output. It knows what the
//! SDKs generate: types, properties, items, enum, const, $ref, anyOf, bounds, common formats.

use rand::Rng;
use rand::rngs::SmallRng;
use serde_json::{Map, Value, json};

/// Below this depth only required fields are filled, which ends recursive schemas.
const DEPTH_OPTIONAL: usize = 6;
const DEPTH_MAX: usize = 24;
/// How many values one answer may hold; a wide schema nested in itself would grow without end.
const VALUES_MAX: usize = 2000;
const ITEMS_DEFAULT: u64 = 2;
const ITEMS_MAX: u64 = 64;
const TEXT_MAX: u64 = 1000;

/// A value for `schema`; `$ref` is looked up in it as the root.
pub(super) fn fill(schema: &Value, rng: &mut SmallRng) -> Value {
    Filler { root: schema, rng, left: VALUES_MAX }.value(schema, 0)
}

struct Filler<'a, 'r> {
    root: &'a Value,
    rng: &'r mut SmallRng,
    left: usize,
}

impl Filler<'_, '_> {
    fn value(&mut self, schema: &Value, depth: usize) -> Value {
        self.left = self.left.saturating_sub(1);
        if depth > DEPTH_MAX || self.left == 0 {
            return Value::Null;
        }
        if let Some(inner) = self.indirect(schema) {
            return self.value(&inner, depth + 1);
        }
        if let Some(value) = schema.get("const") {
            return value.clone();
        }
        if let Some(Value::Array(values)) = schema.get("enum") {
            let at = self.rng.random_range(0..values.len().max(1));
            return values.get(at).cloned().unwrap_or_default();
        }
        match type_of(schema) {
            "object" => self.object(schema, depth),
            "array" => self.array(schema, depth),
            "string" => Value::String(self.text(schema)),
            "integer" => json!(self.integer(schema)),
            "number" => self.number(schema),
            "boolean" => json!(self.rng.random::<bool>()),
            _ => Value::Null,
        }
    }

    /// What `$ref`, `anyOf`, `oneOf` or `allOf` stand for.
    fn indirect(&self, schema: &Value) -> Option<Value> {
        if let Some(Value::String(reference)) = schema.get("$ref") {
            return self.root.pointer(reference.strip_prefix('#')?).cloned();
        }
        for name in ["anyOf", "oneOf"] {
            if let Some(Value::Array(choices)) = schema.get(name) {
                let filled = choices.iter().find(|choice| type_of(choice) != "null");
                return filled.or(choices.first()).cloned();
            }
        }
        let Some(Value::Array(parts)) = schema.get("allOf") else { return None };
        let mut merged = Map::new();
        for part in parts {
            let part = self.indirect(part).unwrap_or_else(|| part.clone());
            let Value::Object(part) = part else { continue };
            for (name, value) in part {
                merge(&mut merged, name, value);
            }
        }
        Some(Value::Object(merged))
    }

    fn object(&mut self, schema: &Value, depth: usize) -> Value {
        let required = schema.get("required").and_then(Value::as_array);
        let required = |name: &str| required.is_some_and(|list| list.iter().any(|n| n == name));
        let mut out = Map::new();
        if let Some(Value::Object(properties)) = schema.get("properties") {
            for (name, inner) in properties {
                if depth < DEPTH_OPTIONAL || required(name) {
                    out.insert(name.clone(), self.value(inner, depth + 1));
                }
            }
        }
        Value::Object(out)
    }

    fn array(&mut self, schema: &Value, depth: usize) -> Value {
        if let Some(Value::Array(fixed)) = schema.get("prefixItems") {
            return fixed.iter().map(|inner| self.value(inner, depth + 1)).collect();
        }
        let min = bound(schema, "minItems").unwrap_or(0.0) as u64;
        let max = bound(schema, "maxItems").map_or(u64::MAX, |max| max as u64);
        let default = if depth < DEPTH_OPTIONAL { ITEMS_DEFAULT } else { 0 };
        let count = default.min(max).max(min).min(ITEMS_MAX);
        let any = Value::Bool(true);
        let inner = schema.get("items").unwrap_or(&any);
        (0..count).map(|_| self.value(inner, depth + 1)).collect()
    }

    fn text(&mut self, schema: &Value) -> String {
        match schema.get("format").and_then(Value::as_str) {
            Some("date") => return "2026-01-02".into(),
            Some("date-time") => return "2026-01-02T03:04:05Z".into(),
            Some("time") => return "03:04:05Z".into(),
            Some("duration") => return "PT1H".into(),
            Some("email") => return "ada@example.com".into(),
            Some("uri") => return "https://example.com/a".into(),
            Some("hostname") => return "example.com".into(),
            Some("ipv4") => return "192.0.2.1".into(),
            Some("ipv6") => return "2001:db8::1".into(),
            Some("uuid") => return "6ba7b810-9dad-41d1-80b4-00c04fd430c8".into(),
            _ => {}
        }
        const VALUES: [&str; 6] = ["Oslo", "EUR/USD", "Zürich", "alpha", "two words", "東京"];
        let mut text = VALUES[self.rng.random_range(0..VALUES.len())].to_owned();
        let min = (bound(schema, "minLength").unwrap_or(0.0) as u64).min(TEXT_MAX);
        while (text.chars().count() as u64) < min {
            text.push('x');
        }
        match bound(schema, "maxLength") {
            Some(max) => text.chars().take(max as usize).collect(),
            None => text,
        }
    }

    fn integer(&mut self, schema: &Value) -> i64 {
        let (min, max) = limits(schema, 1.0);
        let (min, max) = (min.ceil() as i64, max.floor() as i64);
        let picked = self.rng.random_range(min..=max.max(min));
        match bound(schema, "multipleOf").map(|step| step as i64) {
            Some(step) if step > 1 => {
                min.div_euclid(step) * step + if min % step == 0 { 0 } else { step }
            }
            _ => picked,
        }
    }

    fn number(&mut self, schema: &Value) -> Value {
        let (min, max) = limits(schema, 0.25);
        // Quarters print short and exactly.
        let picked = (self.rng.random_range(min..=max.max(min)) * 4.0).round() / 4.0;
        json!(picked.clamp(min, max.max(min)))
    }
}

/// The smallest and largest number that fits; `step` is kept from an exclusive bound.
fn limits(schema: &Value, step: f64) -> (f64, f64) {
    let min = bound(schema, "minimum").or(bound(schema, "exclusiveMinimum").map(|min| min + step));
    let max = bound(schema, "maximum").or(bound(schema, "exclusiveMaximum").map(|max| max - step));
    match (min, max) {
        (Some(min), Some(max)) => (min, max),
        (Some(min), None) => (min, min + 100.0),
        (None, Some(max)) => (max - 100.0, max),
        (None, None) => (0.0, 100.0),
    }
}

fn bound(schema: &Value, name: &str) -> Option<f64> {
    schema.get(name).and_then(Value::as_f64).map(|value| value.clamp(-1e15, 1e15))
}

fn type_of(schema: &Value) -> &str {
    match schema.get("type") {
        Some(Value::String(name)) => name,
        Some(Value::Array(names)) => {
            let mut names = names.iter().filter_map(Value::as_str);
            names.find(|name| *name != "null").unwrap_or("null")
        }
        _ if schema.get("properties").is_some() => "object",
        _ if schema.get("items").is_some() => "array",
        _ => "string",
    }
}

/// `properties` and `required` of several parts add up; of the rest the last counts.
fn merge(into: &mut Map<String, Value>, name: String, value: Value) {
    match (into.get_mut(&name), value) {
        (Some(Value::Object(have)), Value::Object(more)) => have.extend(more),
        (Some(Value::Array(have)), Value::Array(more)) if name == "required" => have.extend(more),
        (_, value) => drop(into.insert(name, value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    fn filled(schema: Value) -> Value {
        fill(&schema, &mut SmallRng::seed_from_u64(3))
    }

    #[test]
    fn values_fit_their_schema() {
        let value = filled(json!({
            "type": "object",
            "properties": {
                "name": {"type": "string", "minLength": 12, "maxLength": 14},
                "age": {"type": "integer", "minimum": 5, "maximum": 6},
                "share": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
                "ok": {"type": "boolean"},
                "unit": {"enum": ["C", "F"]},
                "kind": {"const": "k"},
                "tags": {"type": "array", "items": {"type": "string"}, "minItems": 3},
                "maybe": {"type": ["null", "integer"]},
                "either": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/Point"}]},
                "both": {"allOf": [{"$ref": "#/$defs/Point"},
                    {"properties": {"z": {"type": "integer"}}, "required": ["z"]}]},
                "day": {"type": "string", "format": "date"},
                "six": {"type": "integer", "multipleOf": 6, "minimum": 1}
            },
            "required": ["name", "age"],
            "$defs": {"Point": {"type": "object", "properties": {"x": {"type": "integer"}},
                "required": ["x"]}}
        }));
        let text = value["name"].as_str().expect("text");
        assert!((12..=14).contains(&text.chars().count()), "{text}");
        assert!((5..=6).contains(&value["age"].as_i64().expect("integer")));
        let share = value["share"].as_f64().expect("number");
        assert!(share > 0.0 && share <= 1.0, "{share}");
        assert!(value["ok"].is_boolean() && value["maybe"].is_i64());
        assert!(value["unit"] == "C" || value["unit"] == "F");
        assert_eq!(value["kind"], "k");
        assert_eq!(value["tags"].as_array().map(Vec::len), Some(3));
        assert!(value["either"]["x"].is_i64());
        assert!(value["both"]["x"].is_i64() && value["both"]["z"].is_i64());
        assert_eq!(value["day"], "2026-01-02");
        assert_eq!(value["six"], 6);
    }

    #[test]
    fn hostile_schemas_end() {
        let wide: Map<_, _> = (0..50).map(|at| (format!("p{at}"), json!({"$ref": "#"}))).collect();
        let names: Vec<_> = wide.keys().cloned().collect();
        filled(json!({"type": "object", "properties": wide, "required": names}));
        filled(json!({"$ref": "#"}));
        filled(json!({"type": "array", "minItems": 1e300}));
        filled(json!({"type": "integer", "minimum": 9e18, "maximum": -9e18}));
        filled(json!({"type": "integer", "multipleOf": 7, "minimum": -1e300}));
        filled(json!({"enum": []}));
        filled(json!({"allOf": [{"allOf": [{"$ref": "#/nowhere"}]}]}));
        filled(json!({"allOf": [{"$ref": "#"}]}));
        assert_eq!(filled(json!(true)), filled(json!({})));
    }
}
