//! The schemas of what was used, asked and done: usage, records, audit entries.

use serde_json::{Map, Value, json};

use super::reference;
use super::schemas::{integer, list, money, object, said, text, time};
use crate::admin::calls::GROUPS;

/// The disjoint counters of a request; what is 0 may be left out.
const UNITS: [&str; 20] = [
    "in_text",
    "in_audio",
    "in_image",
    "in_video",
    "in_tool",
    "in_cache_read",
    "in_cache_read_audio",
    "in_cache_write_5m",
    "in_cache_write_1h",
    "in_cache_write_other",
    "out_text",
    "out_reasoning",
    "out_audio",
    "out_image",
    "requests",
    "web_search",
    "seconds_in",
    "chars_in",
    "images_out",
    "search_units",
];

/// All of them, by name.
pub(super) fn all() -> Vec<(&'static str, Value)> {
    let units: Map<String, Value> =
        UNITS.iter().map(|name| ((*name).to_owned(), integer())).collect();
    let units = json!({
        "type": "object",
        "description": "What was used, in disjoint counters.",
        "properties": units,
    });
    vec![
        ("Units", units),
        ("UsageReport", report()),
        ("UsageRow", usage_row()),
        ("Record", record()),
        ("RecordList", list("Record")),
        ("Attempt", attempt()),
        ("AuditEntry", entry()),
        ("AuditList", list("AuditEntry")),
        ("AuditVerify", verify()),
        ("AuditVerdict", verdict()),
        ("Head", head()),
    ]
}

fn report() -> Value {
    let fresh = "Everything that ended before this instant is in the sums.";
    object(
        "Sums, a row for each group and currency.",
        [
            ("data", json!({ "type": "array", "items": reference("UsageRow") })),
            ("from", nullable("date-time")),
            ("to", nullable("date-time")),
            ("complete_until", said(time(), fresh)),
        ],
    )
}

fn usage_row() -> Value {
    let mut row = object(
        "The fields of `group_by` come first.",
        [
            ("requests", integer()),
            ("errors", integer()),
            ("units", reference("Units")),
            ("cost", said(money(), "What the upstreams cost, over all attempts.")),
            ("charge", said(money(), "What the account is charged.")),
            ("currency", text()),
            ("unsettled", said(integer(), "Requests whose usage is not known.")),
            ("estimated", said(integer(), "Requests whose usage was counted here.")),
        ],
    );
    for group in GROUPS {
        row["properties"][group] = text();
    }
    for owner in ["key", "project", "user", "account"] {
        row["properties"][format!("{owner}_id")] = text();
    }
    row
}

fn record() -> Value {
    let ms = |about: &str| said(json!({ "type": ["number", "null"] }), about);
    let named = || object("", [("id", text()), ("name", text())]);
    object(
        "One request, also if it failed or was refused.",
        [
            ("id", said(text(), "A ULID: the caller's `x-request-id`.")),
            ("time", time()),
            ("key", named()),
            ("project", text()),
            ("user", text()),
            ("account", text()),
            ("end_user", text()),
            ("tags", json!({ "type": "array", "items": text() })),
            ("model", said(text(), "As asked.")),
            ("model_served", text()),
            ("target", text()),
            ("state", json!({ "type": "string", "enum": ["settled", "estimated", "unsettled"] })),
            ("status", integer()),
            ("error", json!({ "type": ["string", "null"] })),
            ("units", reference("Units")),
            ("cost", said(json!({ "type": ["string", "null"] }), "Null while unsettled.")),
            ("charge", json!({ "type": ["string", "null"] })),
            ("currency", text()),
            ("unpriced", json!({ "type": "boolean" })),
            ("ttft_ms", ms("To the first content.")),
            ("total_ms", ms("To the end.")),
            ("overhead_ms", ms("Spent here before the upstream was asked.")),
            ("upstream_request_id", json!({ "type": ["string", "null"] })),
            ("attempts", json!({ "type": "array", "items": reference("Attempt") })),
        ],
    )
}

fn attempt() -> Value {
    object(
        "One try at one target; a lost hedge costs money too.",
        [
            ("target", text()),
            ("outcome", text()),
            ("status", json!({ "type": ["integer", "null"] })),
            ("units", reference("Units")),
            ("cost", json!({ "type": ["string", "null"] })),
        ],
    )
}

fn entry() -> Value {
    let object_of = object("", [("kind", text()), ("id", text()), ("name", text())]);
    object(
        "One administrative act. Secrets never appear.",
        [
            ("seq", integer()),
            ("time", time()),
            ("actor", text()),
            ("from", said(text(), "The address.")),
            ("action", said(text(), "As `key.block`; `denied` if it was refused.")),
            ("object", object_of),
            ("before", json!({ "type": ["object", "null"] })),
            ("after", json!({ "type": ["object", "null"] })),
            ("hash", said(hash(), "Over this entry and the hash before it.")),
        ],
    )
}

fn hash() -> Value {
    json!({ "type": "string", "pattern": "^[0-9a-f]{64}$" })
}

fn head() -> Value {
    object(
        "The end of the log, as it was kept somewhere else.",
        [("count", integer()), ("hash", hash())],
    )
}

fn verify() -> Value {
    object("", [("head", reference("Head"))])
}

fn verdict() -> Value {
    object(
        "",
        [
            ("ok", json!({ "type": "boolean" })),
            ("count", integer()),
            ("head", said(hash(), "The hash of the last entry.")),
            ("fault", json!({ "type": ["string", "null"] })),
        ],
    )
}

fn nullable(format: &str) -> Value {
    json!({ "type": ["string", "null"], "format": format })
}
