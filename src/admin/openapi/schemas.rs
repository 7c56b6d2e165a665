//! The schemas: of each kind of object its answer, its bodies and its list, and what they are made of.

use serde_json::{Map, Value, json};

use super::{records, reference};
use crate::admin::resources::{COMMON, Field, Form, KINDS, Kind, Place};

/// All schemas, by name.
pub(super) fn all() -> Value {
    let mut all = Map::new();
    for kind in KINDS {
        of_kind(kind, &mut all);
    }
    for (name, schema) in parts().into_iter().chain(bodies()).chain(process()).chain(records::all())
    {
        all.insert(name.to_owned(), schema);
    }
    Value::Object(all)
}

/// An object with these fields, and perhaps more.
pub(super) fn object<const N: usize>(about: &str, fields: [(&str, Value); N]) -> Value {
    let fields: Map<String, Value> =
        fields.into_iter().map(|(name, schema)| (name.to_owned(), schema)).collect();
    json!({ "type": "object", "description": about, "properties": fields })
}

/// The same, without more.
fn closed<const N: usize>(about: &str, fields: [(&str, Value); N]) -> Value {
    let mut schema = object(about, fields);
    schema["additionalProperties"] = json!(false);
    schema
}

/// A page of a list.
pub(super) fn list(item: &str) -> Value {
    object(
        "A page.",
        [
            ("data", json!({ "type": "array", "items": reference(item) })),
            ("next_cursor", said(json!({ "type": ["string", "null"] }), "Null on the last page.")),
        ],
    )
}

/// A schema with its description.
pub(super) fn said(mut schema: Value, about: &str) -> Value {
    schema["description"] = json!(about);
    schema
}

/// Money: a decimal string.
pub(super) fn money() -> Value {
    json!({ "type": "string", "pattern": "^-?[0-9]+([.][0-9]{1,12})?$" })
}

pub(super) fn time() -> Value {
    json!({ "type": "string", "format": "date-time" })
}

pub(super) fn text() -> Value {
    json!({ "type": "string" })
}

pub(super) fn integer() -> Value {
    json!({ "type": "integer", "minimum": 0 })
}

fn of_kind(kind: &Kind, all: &mut Map<String, Value>) {
    let name = kind.schema;
    let is_shown = |field: &&Field| field.place != Place::Given || field.name == "secret";
    let shown = kind.fields.iter().filter(is_shown).chain(COMMON);
    all.insert(name.to_owned(), fields(shown, false));

    let is_given = |field: &&Field| field.place != Place::Told;
    let mut create = fields(kind.fields.iter().filter(is_given), false);
    let needed: Vec<&str> = kind
        .fields
        .iter()
        .filter(|field| field.place == Place::Needed)
        .map(|field| field.name)
        .collect();
    create["required"] = json!(needed);
    create["additionalProperties"] = json!(false);
    all.insert(format!("{name}Create"), create);

    let is_changed = |field: &&Field| matches!(field.place, Place::Needed | Place::Free);
    let mut patch = fields(kind.fields.iter().filter(is_changed), true);
    patch["additionalProperties"] = json!(false);
    all.insert(format!("{name}Patch"), patch);
    all.insert(format!("{name}List"), list(name));
}

fn fields<'f>(fields: impl Iterator<Item = &'f Field>, is_patch: bool) -> Value {
    let mut properties = Map::new();
    for field in fields {
        let mut schema = form(field.form);
        if is_patch && field.place == Place::Free {
            schema = or_null(schema);
        }
        properties.insert(field.name.to_owned(), said(schema, field.about));
    }
    json!({ "type": "object", "properties": properties })
}

/// In a merge patch, null removes.
fn or_null(mut schema: Value) -> Value {
    match schema["type"].as_str() {
        Some(kind) => {
            let both = json!([kind, "null"]);
            schema["type"] = both;
            if let Some(words) = schema["enum"].as_array_mut() {
                words.push(Value::Null);
            }
            schema
        }
        None => json!({ "anyOf": [schema, { "type": "null" }] }),
    }
}

fn form(form: Form) -> Value {
    match form {
        Form::Text => text(),
        Form::Texts => json!({ "type": "array", "items": text() }),
        Form::Flag => json!({ "type": "boolean" }),
        Form::Money => money(),
        Form::Currency => json!({ "type": "string", "pattern": "^[A-Z]{3}$" }),
        Form::Time => time(),
        Form::Enum(words) => json!({ "type": "string", "enum": words }),
        Form::Map => json!({ "type": "object", "additionalProperties": text() }),
        Form::Free => json!({ "type": "object" }),
        // 3.1 allows a description beside a reference.
        Form::Schema("LongContext") => {
            json!({ "type": "array", "items": reference("LongContext") })
        }
        Form::Schema(name) => reference(name),
    }
}

fn duration() -> Value {
    json!({ "type": "string", "pattern": "^[0-9]+(ms|s|m|h|d)$" })
}

fn overrun() -> Value {
    let about = "What happens to a stream that grows beyond its reservation: it finishes, it is cut, \
        or (`strict`) the upper bound is reserved so that it cannot.";
    said(json!({ "type": "string", "enum": ["finish", "cut", "strict"] }), about)
}

/// What objects are made of.
fn parts() -> Vec<(&'static str, Value)> {
    let limit = |about: &str| said(json!({ "type": ["integer", "null"], "minimum": 0 }), about);
    let numbers = || {
        [
            ("rpm", limit("Requests in any 60 seconds.")),
            ("tpm", limit("Tokens in any 60 seconds.")),
            ("tpd", limit("Tokens in any 24 hours.")),
            ("parallel", limit("Requests at the same time.")),
            ("overrun", overrun()),
            ("budget", json!({ "type": "array", "items": reference("Budget") })),
        ]
    };
    let mut limits = closed("What may be used. What is not said is not limited.", numbers());
    let about = "Further limits by model alias.";
    let of_model = closed("", numbers());
    limits["properties"]["models"] =
        said(json!({ "type": "object", "additionalProperties": of_model }), about);
    let used = || object("", [("limit", integer()), ("used", integer())]);
    let per = json!({ "type": "string", "pattern": "^(total|daily|weekly|monthly|[1-9][0-9]*d)$" });
    let budget = closed(
        "Money that may be spent in a period of the account's time zone.",
        [
            ("amount", money()),
            ("per", per.clone()),
            ("overrun", overrun()),
            ("soft", said(json!({ "type": "boolean" }), "Admits, and raises an alert.")),
        ],
    );
    let budget_usage = object(
        "A budget as it stands.",
        [
            ("amount", money()),
            ("per", per),
            ("spent", money()),
            ("reserved", said(money(), "Held by requests under way.")),
            ("remaining", money()),
            ("resets_at", json!({ "type": ["string", "null"], "format": "date-time" })),
            ("soft", json!({ "type": "boolean" })),
        ],
    );
    let usage = object(
        "Current use, of what has a limit.",
        [
            ("rpm", used()),
            ("tpm", used()),
            ("tpd", used()),
            ("parallel", used()),
            ("budget", json!({ "type": "array", "items": reference("BudgetUsage") })),
        ],
    );
    let queue = closed(
        "How long and how many requests wait.",
        [("wait", duration()), ("depth", integer())],
    );
    let long = object(
        "Prices above so many input tokens, named as those of the entry.",
        [("above", integer())],
    );
    vec![
        ("Limits", limits),
        ("Budget", budget),
        ("BudgetUsage", budget_usage),
        ("ScopeUsage", usage),
        ("Queue", queue),
        ("LongContext", long),
        (
            "KeysChanged",
            object(
                "How many keys an act on all of them changed.",
                [
                    ("changed", integer()),
                    ("managed_by_file", said(integer(), "These stay as the file says.")),
                ],
            ),
        ),
    ]
}

/// Bodies of verbs.
fn bodies() -> Vec<(&'static str, Value)> {
    let grace = said(duration(), "How long the old secret stays valid; `24h` if not said.");
    let now = said(json!({ "type": "boolean" }), "Ends running streams too, in-band.");
    vec![
        ("Empty", closed("Nothing has to be said.", [])),
        ("Rotate", closed("", [("grace", grace)])),
        ("Block", closed("", [("now", now)])),
        ("Reload", object("Nothing has to be said.", [])),
    ]
}

/// What concerns the process.
fn process() -> Vec<(&'static str, Value)> {
    let texts = || json!({ "type": "array", "items": text() });
    let problem = object(
        "A fault of the configuration.",
        [
            ("field", text()),
            ("file", said(text(), "A file that the configuration names; else its own.")),
            ("message", text()),
            ("line", integer()),
            ("column", integer()),
        ],
    );
    let error = object(
        "What went wrong: `code` for programs, `message` for people, `field` where one is at fault.",
        [
            ("code", text()),
            ("message", text()),
            ("field", text()),
            ("problems", json!({ "type": "array", "items": reference("Problem") })),
        ],
    );
    let mut wrapped = object("A refusal.", [("error", error)]);
    wrapped["required"] = json!(["error"]);
    wrapped["properties"]["error"]["required"] = json!(["code", "message"]);
    let changes = json!({ "type": "array", "items": { "type": "object" } });
    vec![
        ("Error", wrapped),
        ("Problem", problem),
        ("Health", object("", [("status", text())])),
        (
            "Status",
            object(
                "How the process is doing.",
                [
                    ("version", text()),
                    ("ready", json!({ "type": "boolean" })),
                    ("uptime_s", integer()),
                    ("generation", integer()),
                    ("reload", json!({ "type": "object" })),
                    ("journal", json!({ "type": ["object", "null"] })),
                ],
            ),
        ),
        ("Config", object("As the file, secrets masked.", [])),
        (
            "Routes",
            object("", [("data", json!({ "type": "array", "items": { "type": "object" } }))]),
        ),
        (
            "Reloaded",
            object(
                "",
                [
                    ("generation", integer()),
                    ("changes", changes),
                    ("needs_restart", texts()),
                    ("warnings", said(texts(), "What of the store the file stands before.")),
                ],
            ),
        ),
        ("OpenApi", object("", [("openapi", text())])),
    ]
}
