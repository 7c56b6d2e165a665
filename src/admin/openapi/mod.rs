//! The OpenAPI document, made from the list of calls and from the fields of the kinds of objects.

mod records;
mod schemas;

use serde_json::{Map, Value, json};

use super::api::MAX_BODY_BYTES;
use super::calls::{Action, CALLS, Call, Content, Gate, needs_token};
use super::query::{Parameter, Shape};

/// The document: OpenAPI 3.1.
pub(super) fn document() -> Value {
    let mut paths = Map::new();
    for call in CALLS.iter() {
        let path = paths.entry(call.path.clone()).or_insert_with(|| json!({}));
        path[call.method.as_str().to_ascii_lowercase()] = operation(call);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "foretoken admin API",
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "MIT OR Apache-2.0" },
            "description": format!(
                "Times are RFC 3339 in UTC, money is decimal strings (never numbers, which would be \
                read as floats), durations are texts as `24h`. A body has {MAX_BODY_BYTES} bytes at \
                most; POST accepts an empty one. Lists go on with `next_cursor`. What is defined in \
                the configuration file is read-only here (409 `managed_by_file`)."
            ),
        },
        "paths": paths,
        "components": {
            "securitySchemes": { "token": {
                "type": "http",
                "scheme": "bearer",
                "description": "The owner's token of the configuration, or a principal's.",
            } },
            "parameters": { "IdempotencyKey": {
                "name": "Idempotency-Key",
                "in": "header",
                "description": "Makes a repetition harmless for 24 hours: the same key with the same \
                    body is answered as the first time, without the secret; with another body it is \
                    409 `idempotency_conflict`.",
                "schema": { "type": "string", "minLength": 1, "maxLength": 255 },
            } },
            "schemas": schemas::all(),
        },
    })
}

/// A reference to a schema of the document.
fn reference(schema: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{schema}") })
}

fn operation(call: &Call) -> Value {
    let mut operation = json!({
        "operationId": operation_id(call),
        "summary": call.summary,
        "tags": [tag(call)],
        "security": if needs_token(&call.path) { json!([{ "token": [] }]) } else { json!([]) },
        "responses": responses(call),
    });
    let parameters = parameters(call);
    if !parameters.is_empty() {
        operation["parameters"] = json!(parameters);
    }
    if let Some(schema) = &call.body {
        // Even where fields are needed: without them it is 400, and the answer names them.
        operation["requestBody"] = json!({
            "required": schema.ends_with("Create") || schema.ends_with("Patch"),
            "content": { "application/json": { "schema": reference(schema) } },
        });
    }
    if !matches!(call.gate, Gate::Open) {
        let roles: Vec<&str> = call.gate.roles().iter().map(|role| role.name()).collect();
        let scope = match call.gate {
            Gate::Unscoped => " who is not bound to an account or project",
            Gate::Directory(_) => ", each within its scope",
            _ => "",
        };
        operation["description"] = json!(format!("For {}{scope}.", roles.join(", ")));
        operation["x-foretoken-roles"] = json!(roles);
    }
    operation
}

/// `POST /admin/v1/keys/{id}/rotate` → `post_keys_id_rotate`.
fn operation_id(call: &Call) -> String {
    let path = call.path.strip_prefix("/admin/v1").unwrap_or(&call.path);
    let words = path.replace(['{', '}'], "").replace(|c: char| !c.is_ascii_alphanumeric(), "_");
    format!("{}{words}", call.method.as_str().to_ascii_lowercase())
}

/// By what the calls are grouped where the document is shown.
fn tag(call: &Call) -> &str {
    match call.path.strip_prefix("/admin/v1/").and_then(|rest| rest.split('/').next()) {
        Some("status" | "config" | "routes" | "reload" | "openapi.json") | None => "process",
        Some(first) => first,
    }
}

fn parameters(call: &Call) -> Vec<Value> {
    let mut parameters = Vec::new();
    if call.path.contains("{id}") {
        let about = match call.action {
            Action::Request => "The record's id, which callers see as `x-request-id`.",
            _ => "Its id, or its name where only one has it; percent-encoded.",
        };
        parameters.push(json!({
            "name": "id", "in": "path", "required": true, "description": about,
            "schema": { "type": "string" },
        }));
    }
    parameters.extend(call.query.iter().map(parameter));
    if call.method == "POST" {
        parameters.push(json!({ "$ref": "#/components/parameters/IdempotencyKey" }));
    }
    parameters
}

fn parameter(parameter: &Parameter) -> Value {
    let list = |words: &[&str]| json!({ "type": "string", "enum": words });
    let schema = match parameter.shape {
        Shape::Text => json!({ "type": "string" }),
        Shape::Count => json!({ "type": "integer", "minimum": 0 }),
        Shape::Limit => json!({ "type": "integer", "minimum": 1, "maximum": 1000 }),
        Shape::Time => json!({ "type": "string", "format": "date-time" }),
        Shape::Flag => json!({ "type": "boolean" }),
        Shape::One(words) => list(words),
        Shape::Some(words) => json!({ "type": "array", "items": list(words) }),
        Shape::Status => json!({ "type": "string", "pattern": "^[1-5]([0-9]{2}|xx)$" }),
    };
    let mut described = json!({
        "name": parameter.name, "in": "query", "description": parameter.about, "schema": schema,
    });
    if matches!(parameter.shape, Shape::Some(_)) {
        // `group_by=key,day`, not `group_by=key&group_by=day`.
        described["explode"] = json!(false);
        described["style"] = json!("form");
    }
    described
}

fn responses(call: &Call) -> Value {
    let mut responses = Map::new();
    let error = |text: &str| json!({ "description": text, "content": error_content() });
    for (status, text) in refusals(call) {
        responses.insert(status.to_string(), error(text));
    }
    for (status, text, content) in &call.answers {
        let content = match content {
            Content::Text => json!({ "text/plain": { "schema": { "type": "string" } } }),
            Content::Json(schema) => {
                json!({ "application/json": { "schema": reference(schema) } })
            }
        };
        responses.insert(status.to_string(), json!({ "description": text, "content": content }));
    }
    Value::Object(responses)
}

fn error_content() -> Value {
    json!({ "application/json": { "schema": reference("Error") } })
}

/// What every call of its sort can be refused with.
fn refusals(call: &Call) -> Vec<(u16, &'static str)> {
    if !needs_token(&call.path) {
        return Vec::new();
    }
    let mut refusals = vec![
        (400, "Not understood: the query, the JSON, or the type of a field."),
        (401, "The token is missing, wrong or expired."),
        (403, "The role or the scope of the token does not reach so far."),
    ];
    if call.body.is_some() {
        refusals.push((413, "The body is too large."));
    }
    if let Action::Perform(..) = call.action {
        refusals.push((422, "Understood, but a value cannot be: `field` names it."));
        refusals.push((503, "The store cannot be written to; nothing was changed."));
        if call.path.contains("{id}") {
            refusals.push((404, "There is none with this id or name, or it is out of scope."));
        }
        if call.method != "GET" {
            let text = "In conflict: the name is taken, the file manages it, something living \
                belongs to it, or the Idempotency-Key was used with another body.";
            refusals.push((409, text));
        }
    }
    refusals
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_is_described() {
        let document = document();
        let mut ids = Vec::new();
        for call in CALLS.iter() {
            let operation = &document["paths"][&call.path][call.method.as_str().to_lowercase()];
            assert_eq!(operation["summary"], call.summary.as_str());
            let has_401 = operation["responses"].get("401").is_some();
            assert_eq!(has_401, call.path.starts_with("/admin/"), "{}", call.path);
            assert!(
                operation["responses"]
                    .as_object()
                    .is_some_and(|all| { all.keys().any(|status| status.starts_with('2')) }),
                "{} has no good answer",
                call.path
            );
            let of_path = call.path.matches('{').count();
            let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
            let described = parameters.iter().filter(|one| one["in"] == "path").count();
            assert_eq!(of_path, described, "{}", call.path);
            assert_eq!(
                parameters
                    .iter()
                    .any(|one| one["$ref"] == "#/components/parameters/IdempotencyKey"),
                call.method == "POST"
            );
            ids.push(operation["operationId"].as_str().expect("an id").to_owned());
        }
        let reload = &document["paths"]["/admin/v1/reload"]["post"];
        assert_eq!(reload["operationId"], "post_reload");
        let faulty = &reload["responses"]["422"]["content"]["application/json"]["schema"];
        assert_eq!(faulty["$ref"], "#/components/schemas/Error");
        let count = ids.len();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), count, "operation ids are unique");
    }

    #[test]
    fn every_reference_leads_somewhere_and_every_schema_is_used() {
        let document = document();
        let mut references = Vec::new();
        collect(&document, &mut references);
        for reference in &references {
            let pointer = reference.strip_prefix('#').expect("within the document");
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
        for name in document["components"]["schemas"].as_object().expect("schemas").keys() {
            let own = format!("#/components/schemas/{name}");
            assert!(references.contains(&own), "{name} is not used");
        }
    }

    fn collect(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    match value.as_str() {
                        Some(text) if name == "$ref" => found.push(text.to_owned()),
                        _ => collect(value, found),
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|item| collect(item, found)),
            _ => {}
        }
    }

    #[test]
    fn schemas_have_types_and_bodies_are_closed() {
        let document = document();
        let schemas = document["components"]["schemas"].as_object().expect("schemas");
        for (name, schema) in schemas {
            assert_eq!(schema["type"], "object", "{name}");
            let fields = schema["properties"].as_object().into_iter().flatten();
            for (field, described) in fields {
                let is_typed =
                    ["type", "$ref", "anyOf"].iter().any(|key| described.get(key).is_some());
                assert!(is_typed, "{name}.{field}");
            }
            if name.ends_with("Create") || name.ends_with("Patch") {
                assert_eq!(schema["additionalProperties"], false, "{name}");
            }
        }
        assert_eq!(schemas["KeyCreate"]["required"], json!(["name"]));
        assert_eq!(schemas["PriceCreate"]["required"], json!(["provider", "model"]));
        assert!(schemas["KeyPatch"].get("required").is_none());
        let of_key = |schema: &str, field: &str| schemas[schema]["properties"].get(field).is_some();
        assert!(of_key("Key", "prefix") && !of_key("KeyCreate", "prefix"));
        assert!(of_key("KeyCreate", "sha256") && !of_key("Key", "sha256"));
        assert!(of_key("Key", "secret"), "creation and rotation answer it");
        let account = |schema: &str| schemas[schema]["properties"].get("currency").is_some();
        assert!(account("AccountCreate") && !account("AccountPatch"), "a currency stays");
        // What can be removed by a patch may be null in it; a name cannot.
        assert_eq!(schemas["KeyPatch"]["properties"]["tags"]["type"], json!(["array", "null"]));
        assert_eq!(schemas["KeyPatch"]["properties"]["name"]["type"], "string");
    }
}
