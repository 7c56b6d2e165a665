//! What comes back: lists as tables, one object as a sheet, a secret alone on stdout.

use serde_json::{Map, Value};

use super::super::print;
use super::super::remote::RemoteArgs;
use super::super::table::{Table, cell, day, printable};
use super::Kind;

/// Where an answer may hold a secret: a key's, or a principal's token.
const SECRETS: [&str; 2] = ["secret", "token"];

fn secret(answer: &Value) -> Option<&str> {
    SECRETS.iter().find_map(|name| answer[*name].as_str())
}

/// `key chat-backend (key_01…)`.
fn title<K: Kind>(answer: &Value, otherwise: &str) -> String {
    let id = answer["id"].as_str();
    let name = answer["name"].as_str().or(id).unwrap_or(otherwise);
    let title = match id.filter(|id| *id != name) {
        Some(id) => format!("{} {name} ({id})", K::NOUN),
        None => format!("{} {name}", K::NOUN),
    };
    printable(&title)
}

/// Stdout and stderr of something that was made.
pub(super) fn made_text<K: Kind>(answer: &Value, is_json: bool) -> (String, String) {
    let title = title::<K>(answer, "");
    let (told, note) = match secret(answer) {
        Some(secret) => (
            format!("{}\n", printable(secret)),
            format!("{title} was created. Its secret is shown only once: keep it now.\n"),
        ),
        None if answer["replayed"] == true => (
            String::new(),
            format!(
                "{title} was created before, with this idempotency key. A secret is not shown again.\n"
            ),
        ),
        None => (format!("{title} created\n"), String::new()),
    };
    if is_json { (format!("{answer:#}\n"), note) } else { (told, note) }
}

pub(super) fn made<K: Kind>(remote: &RemoteArgs, answer: &Value) {
    say(made_text::<K>(answer, remote.is_json()));
}

/// Stdout and stderr of a rotation.
pub(super) fn rotated_text<K: Kind>(answer: &Value, is_json: bool) -> (String, String) {
    let title = title::<K>(answer, "");
    let (told, note) = match secret(answer) {
        Some(secret) => (
            format!("{}\n", printable(secret)),
            format!("{title} has a new secret. It is shown only once: keep it now.\n"),
        ),
        None => (
            String::new(),
            format!(
                "{title} was rotated before, with this idempotency key. The secret is not shown again.\n"
            ),
        ),
    };
    if is_json { (format!("{answer:#}\n"), note) } else { (told, note) }
}

pub(super) fn rotated<K: Kind>(remote: &RemoteArgs, answer: &Value) {
    say(rotated_text::<K>(answer, remote.is_json()));
}

fn say((told, note): (String, String)) {
    eprint!("{note}");
    print(&told);
}

/// `key chat-backend (key_01…) blocked`.
pub(super) fn done<K: Kind>(remote: &RemoteArgs, answer: &Value, id: &str, done: &str) {
    match remote.is_json() {
        true => print(&format!("{answer:#}\n")),
        false => print(&done_text::<K>(answer, id, done)),
    }
}

/// With how many keys, after an act on all of them.
pub(super) fn done_text<K: Kind>(answer: &Value, id: &str, done: &str) -> String {
    let count = match answer["keys"]["changed"].as_u64() {
        Some(1) => ": 1 key".to_owned(),
        Some(count) => format!(": {count} keys"),
        None => String::new(),
    };
    let filed = match answer["keys"]["managed_by_file"].as_u64() {
        None | Some(0) => String::new(),
        Some(count) => format!("; {count} of the configuration file stay as they are"),
    };
    format!("{} {done}{count}{filed}\n", title::<K>(answer, id))
}

pub(super) fn list<K: Kind>(remote: &RemoteArgs, answer: &Value) {
    if remote.is_json() {
        print(&format!("{answer:#}\n"));
        return;
    }
    let (told, note) = list_text::<K>(answer);
    print(&told);
    eprint!("{note}");
}

/// The table, and how to get at the rest.
pub(super) fn list_text<K: Kind>(answer: &Value) -> (String, String) {
    let rows = answer["data"].as_array().map(Vec::as_slice).unwrap_or_default();
    if rows.is_empty() {
        return (String::new(), format!("no {}\n", K::PLURAL));
    }
    let heads: Vec<_> =
        K::COLUMNS.iter().map(|(head, _, set)| (head.trim_end_matches('@'), *set)).collect();
    let mut table = Table::new(&heads);
    for row in rows {
        let cells = K::COLUMNS.iter().map(|(head, pointer, _)| {
            let value = row.pointer(pointer).unwrap_or(&Value::Null);
            if head.ends_with('@') { day(value) } else { cell(value) }
        });
        table.row(cells.collect());
    }
    (table.render(), more(answer))
}

/// How to go on, if there is more.
pub(in crate::cli) fn more(answer: &Value) -> String {
    match answer["next_cursor"].as_str() {
        Some(cursor) => format!("there are more: --cursor {}\n", printable(cursor)),
        None => String::new(),
    }
}

pub(super) fn sheet(remote: &RemoteArgs, answer: &Value) {
    match remote.is_json() {
        true => print(&format!("{answer:#}\n")),
        false => print(&sheet_text(answer)),
    }
}

/// What stands at the top of a sheet, in this order.
const FIRST: [&str; 3] = ["name", "id", "status"];

/// One field a line, nested ones with dots; current use of the limits at the end. What is empty is left
/// out.
pub(super) fn sheet_text(answer: &Value) -> String {
    let Some(fields) = answer.as_object() else { return format!("{answer:#}\n") };
    let currency = fields.get("currency").map(cell).unwrap_or_default();
    let mut lines = Vec::new();
    for name in FIRST {
        if let Some(value) = fields.get(name) {
            lines.push((name.to_owned(), cell(value)));
        }
    }
    let rest =
        fields.iter().filter(|(name, _)| !FIRST.contains(&name.as_str()) && *name != "usage");
    for (name, value) in rest {
        flatten(name, value, &currency, &mut lines);
    }
    if let Some(usage) = fields.get("usage").and_then(Value::as_object) {
        used("", usage, &currency, &mut lines);
    }
    lines.retain(|(_, value)| !value.is_empty());
    let width = lines.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    lines
        .iter()
        .map(|(name, value)| format!("{:width$}  {}\n", printable(name), printable(value)))
        .collect()
}

fn flatten(name: &str, value: &Value, currency: &str, lines: &mut Vec<(String, String)>) {
    match value {
        Value::Object(inner) => {
            for (key, value) in inner {
                flatten(&format!("{name}.{key}"), value, currency, lines);
            }
        }
        Value::Array(items) if name.ends_with("budget") => {
            for budget in items {
                lines.push((name.to_owned(), budget_text(budget, currency)));
            }
        }
        Value::String(_) if name == "balance" => {
            lines.push((name.to_owned(), amount(value, currency)));
        }
        other => lines.push((name.to_owned(), cell(other))),
    }
}

/// `100 EUR`; the number alone where the answer has no currency.
fn amount(value: &Value, currency: &str) -> String {
    format!("{} {currency}", cell(value)).trim_end().to_owned()
}

/// `100 monthly, soft`. A soft one stops nothing, so that its overrun would say nothing.
fn budget_text(budget: &Value, currency: &str) -> String {
    let mut text = format!("{} {}", amount(&budget["amount"], currency), cell(&budget["per"]));
    if budget["soft"] == true {
        text += ", soft";
    } else if let Some(overrun) = budget["overrun"].as_str() {
        text += &format!(", {overrun}");
    }
    text
}

/// `3.2 EUR spent, 0.1 EUR reserved, 96.7 EUR left`.
fn spending(state: &Value, currency: &str) -> String {
    let parts = [("spent", "spent"), ("reserved", "reserved"), ("remaining", "left")];
    parts.map(|(name, word)| format!("{} {word}", amount(&state[name], currency))).join(", ")
}

/// Current use: `used rpm  12 of 600`; budgets with what is left and when they begin anew.
fn used(of: &str, usage: &Map<String, Value>, currency: &str, lines: &mut Vec<(String, String)>) {
    for (name, value) in usage {
        match value {
            Value::Object(inner) if name == "balance" && inner.contains_key("spent") => {
                let paid_in = amount(&value["amount"], currency);
                let text = format!("{paid_in} paid in: {}", spending(value, currency));
                lines.push((format!("used {of}{name}"), text));
            }
            Value::Object(inner) if inner.contains_key("limit") => {
                let text = format!("{} of {}", cell(&value["used"]), cell(&value["limit"]));
                lines.push((format!("used {of}{name}"), text));
            }
            Value::Object(inner) => {
                // Limits of a model; `models` itself is no name of one.
                let of = if name == "models" { of.to_owned() } else { format!("{of}{name} ") };
                used(&of, inner, currency, lines);
            }
            Value::Array(budgets) => {
                for budget in budgets {
                    let mut text = budget_text(budget, currency);
                    text += &format!(": {}", spending(budget, currency));
                    if let Some(at) = budget["resets_at"].as_str() {
                        text += &format!(", anew at {at}");
                    }
                    lines.push((format!("used {of}{name}"), text));
                }
            }
            _ => {}
        }
    }
}
