//! The audit log as JSON.

use serde_json::{Value, json};

use crate::clock;
use crate::directory::Refusal;
use crate::store::StoreError;
use crate::store::objects::{AuditRow, Head, Objects};

/// Entries of a page, unless the query says otherwise.
const PAGE: usize = 100;

/// Entries of the log, oldest first.
///
/// # Errors
/// A store that does not answer.
pub(super) fn list(objects: &dyn Objects, query: &[(String, String)]) -> Result<Value, Refusal> {
    let number = |name: &str| {
        let found = query.iter().find(|(known, _)| known == name);
        found.and_then(|(_, value)| value.parse::<u64>().ok())
    };
    if query.iter().any(|(name, _)| name == "cursor") && number("cursor").is_none() {
        let message = "`cursor` is not one that this call gave; start without it";
        return Err(Refusal::new(400, "invalid_parameter", message).of("cursor"));
    }
    let since = number("cursor").or(number("since")).unwrap_or(0);
    let limit = number("limit").and_then(|limit| usize::try_from(limit).ok()).unwrap_or(PAGE);
    let mut rows = objects.audit(since, limit + 1, true).map_err(|error| fault(&error))?;
    let is_more = rows.len() > limit;
    rows.truncate(limit);
    let next = rows.last().filter(|_| is_more).map(|row| row.seq.to_string());
    Ok(json!({ "data": rows.iter().map(entry).collect::<Vec<_>>(), "next_cursor": next }))
}

/// Walks the whole log.
///
/// # Errors
/// A store that does not answer, or a head that is none.
pub(super) fn verify(objects: &dyn Objects, body: &Value) -> Result<Value, Refusal> {
    let expected = match body.get("head") {
        None | Some(Value::Null) => None,
        Some(head) => Some(head_of(head).ok_or_else(|| {
            let message = "`head` must be {\"count\": 17, \"hash\": \"64 hexadecimal digits\"}";
            Refusal::new(422, "invalid_value", message).of("head")
        })?),
    };
    let verdict = objects.verify(expected).map_err(|error| fault(&error))?;
    Ok(json!({
        "ok": verdict.ok,
        "count": verdict.count,
        "head": hex(&verdict.head),
        "fault": verdict.fault,
    }))
}

fn head_of(head: &Value) -> Option<Head> {
    let text = head.get("hash")?.as_str()?;
    let mut hash = [0; 32];
    if text.len() != 2 * hash.len() || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (at, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(Head { count: head.get("count")?.as_u64()?, hash })
}

fn entry(row: &AuditRow) -> Value {
    let json = |text: &Option<String>| {
        text.as_ref().map(|text| serde_json::from_str(text).unwrap_or_else(|_| json!(text)))
    };
    json!({
        "seq": row.seq,
        "time": String::from_utf8_lossy(&clock::rfc3339(row.time_unix_ms)),
        "actor": row.actor,
        "from": row.from,
        "action": row.action,
        "object": {"kind": row.kind, "id": row.id, "name": row.name},
        "before": json(&row.before),
        "after": json(&row.after),
        "hash": hex(&row.hash),
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn fault(error: &StoreError) -> Refusal {
    let message = format!("the store does not answer ({error}); try again");
    Refusal::new(503, "store_unavailable", message)
}
