//! The OpenAPI document, made from the list of calls.

use serde_json::{Map, Value, json};

use super::api::{CALLS, Call};

/// The document: OpenAPI 3.1.
pub(super) fn document() -> Value {
    let mut paths = Map::new();
    for call in CALLS {
        let path = paths.entry(call.path).or_insert_with(|| json!({}));
        path[call.method.as_str().to_ascii_lowercase()] = operation(call);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "foretoken admin API",
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "MIT OR Apache-2.0" },
        },
        "paths": paths,
        "components": {
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
            "schemas": { "Error": error_schema() },
        },
    })
}

fn operation(call: &Call) -> Value {
    let needs_token = Call::needs_token(call.path);
    let mut responses = Map::new();
    for &(status, description) in call.answers {
        let content = match status {
            // An error object, but for health, whose refusal looks like its consent.
            400.. if needs_token => error_content(),
            _ => {
                let kind = if call.media == "text/plain" { "string" } else { "object" };
                json!({ call.media: { "schema": { "type": kind } } })
            }
        };
        let answer = json!({ "description": description, "content": content });
        responses.insert(status.to_string(), answer);
    }
    if needs_token {
        let answer =
            json!({ "description": "The token is missing or wrong.", "content": error_content() });
        responses.insert("401".to_owned(), answer);
    }
    json!({
        "operationId": operation_id(call),
        "summary": call.summary,
        "security": if needs_token { json!([{ "token": [] }]) } else { json!([]) },
        "responses": responses,
    })
}

/// `GET /admin/v1/status` → `get_status`.
fn operation_id(call: &Call) -> String {
    let path = call.path.strip_prefix("/admin/v1").unwrap_or(call.path);
    let words = path.replace(|c: char| !c.is_ascii_alphanumeric(), "_");
    format!("{}{words}", call.method.as_str().to_ascii_lowercase())
}

fn error_content() -> Value {
    json!({ "application/json": { "schema": { "$ref": "#/components/schemas/Error" } } })
}

fn error_schema() -> Value {
    json!({
        "type": "object",
        "required": ["error"],
        "properties": { "error": {
            "type": "object",
            "required": ["code", "message"],
            "properties": {
                "code": { "type": "string" },
                "message": { "type": "string" },
                "field": { "type": "string" },
                "problems": { "type": "array", "items": {
                    "type": "object",
                    "required": ["message"],
                    "properties": {
                        "field": { "type": "string" },
                        "message": { "type": "string" },
                        "line": { "type": "integer" },
                        "column": { "type": "integer" },
                    },
                } },
            },
        } },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_is_described() {
        let document = document();
        for call in CALLS {
            let operation = &document["paths"][call.path][call.method.as_str().to_lowercase()];
            assert_eq!(operation["summary"], call.summary);
            let has_401 = operation["responses"].get("401").is_some();
            assert_eq!(has_401, call.path.starts_with("/admin/"), "{}", call.path);
        }
        let reload = &document["paths"]["/admin/v1/reload"]["post"];
        assert_eq!(reload["operationId"], "post_reload");
        let faulty = &reload["responses"]["422"]["content"]["application/json"]["schema"];
        assert_eq!(faulty["$ref"], "#/components/schemas/Error");
    }
}
