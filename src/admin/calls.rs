//! The list of calls, from which the router, the guard and the OpenAPI document are made. A new call is
//! a row here, and an arm where it is answered (`api.rs`).

use std::sync::LazyLock;

use axum::http::Method;

use super::query::{Parameter, Shape};
use super::resources::{KINDS, Kind};
use crate::directory::{Caller, Resource, Role, Verb};

/// One call.
pub(super) struct Call {
    pub(super) method: Method,
    /// With `{id}` where an id or a name stands.
    pub(super) path: String,
    pub(super) summary: String,
    pub(super) gate: Gate,
    pub(super) query: Vec<Parameter>,
    /// The schema of the body, if there may be one. An empty body is `{}`.
    pub(super) body: Option<String>,
    /// Answers beside those that every call can give.
    pub(super) answers: Vec<(u16, &'static str, Content)>,
    pub(super) action: Action,
}

/// What an answer is made of.
#[derive(Clone)]
pub(super) enum Content {
    /// JSON of the schema with this name.
    Json(String),
    Text,
}

/// What a call does.
#[derive(Clone, Copy)]
pub(super) enum Action {
    Live,
    Ready,
    Metrics,
    Status,
    Config,
    Routes,
    Reload,
    OpenApi,
    Perform(Resource, Verb),
    Usage,
    Requests,
    Request,
    Audit,
    AuditVerify,
}

/// Who may call.
#[derive(Clone, Copy)]
pub(super) enum Gate {
    /// Anybody, without a token.
    Open,
    /// Any principal; the answer holds only what lies in its scope.
    Principals,
    /// These roles.
    Roles(&'static [Role]),
    /// Whoever may see all accounts: what is shown cannot be cut down to a scope.
    Unscoped,
    /// The directory decides, and writes a denial into the audit log. The roles are for the document.
    Directory(&'static [Role]),
}

/// All roles, the mightiest first.
pub(super) const ROLES: &[Role] = &[Role::Owner, Role::Admin, Role::Manager, Role::Viewer];

impl Gate {
    pub(super) fn lets_in(self, caller: &Caller) -> bool {
        match self {
            Gate::Open | Gate::Principals | Gate::Directory(_) => true,
            Gate::Roles(roles) => roles.contains(&caller.role),
            Gate::Unscoped => caller.account.is_none() && caller.project.is_none(),
        }
    }

    pub(super) fn roles(self) -> &'static [Role] {
        match self {
            Gate::Open => &[],
            Gate::Principals | Gate::Unscoped => ROLES,
            Gate::Roles(roles) | Gate::Directory(roles) => roles,
        }
    }
}

/// Whether a path needs a token: everything under `/admin`, known or not.
pub(super) fn needs_token(path: &str) -> bool {
    path == "/admin" || path.starts_with("/admin/")
}

impl Call {
    /// Whether the path of a request is that of this call.
    pub(super) fn is_at(&self, path: &str) -> bool {
        let (mut want, mut got) = (self.path.split('/'), path.split('/'));
        loop {
            match (want.next(), got.next()) {
                (None, None) => return true,
                (Some("{id}"), Some(part)) if !part.is_empty() => {}
                (Some(want), Some(got)) if want == got => {}
                _ => return false,
            }
        }
    }
}

/// All calls.
pub(super) static CALLS: LazyLock<Vec<Call>> = LazyLock::new(|| {
    let mut calls = process();
    for kind in KINDS {
        calls.extend(kind.verbs.iter().map(|verb| on_objects(kind, *verb)));
    }
    calls.extend(records());
    calls.extend(audit());
    calls
});

fn call(method: Method, path: &str, summary: &str, gate: Gate, action: Action) -> Call {
    Call {
        method,
        path: path.to_owned(),
        summary: summary.to_owned(),
        gate,
        query: Vec::new(),
        body: None,
        answers: Vec::new(),
        action,
    }
}

impl Call {
    fn answer(mut self, status: u16, text: &'static str, schema: &str) -> Self {
        self.answers.push((status, text, Content::Json(schema.to_owned())));
        self
    }

    fn ask(mut self, query: &[Parameter]) -> Self {
        self.query.extend_from_slice(query);
        self
    }

    fn body(mut self, schema: &str) -> Self {
        self.body = Some(schema.to_owned());
        self
    }
}

/// What concerns the process as a whole.
fn process() -> Vec<Call> {
    const OWNER: Gate = Gate::Roles(&[Role::Owner]);
    let get = |path, summary, gate, action| call(Method::GET, path, summary, gate, action);
    let mut metrics =
        get("/metrics", "Metrics in Prometheus' text format.", Gate::Open, Action::Metrics);
    metrics.answers.push((200, "The metrics.", Content::Text));
    vec![
        get(
            "/health/live",
            "Whether the process is in order; if not, it should be started anew.",
            Gate::Open,
            Action::Live,
        )
        .answer(200, "In order.", "Health")
        .answer(503, "Not in order.", "Health"),
        get(
            "/health/ready",
            "Whether callers are served: the data listener is open and no drain has begun.",
            Gate::Open,
            Action::Ready,
        )
        .answer(200, "Ready.", "Health")
        .answer(503, "Not ready.", "Health"),
        metrics,
        get(
            "/admin/v1/status",
            "Version, uptime, generation and the outcome of the last reload.",
            Gate::Unscoped,
            Action::Status,
        )
        .answer(200, "The status.", "Status"),
        get(
            "/admin/v1/config",
            "The running configuration, secrets masked.",
            OWNER,
            Action::Config,
        )
        .answer(200, "The configuration.", "Config"),
        get(
            "/admin/v1/routes",
            "Per alias and target: share, times, in-flight requests, health and pool.",
            Gate::Unscoped,
            Action::Routes,
        )
        .answer(200, "The routes.", "Routes"),
        call(
            Method::POST,
            "/admin/v1/reload",
            "Loads the configuration again. A faulty file changes nothing.",
            OWNER,
            Action::Reload,
        )
        .body("Reload")
        .answer(200, "Accepted: the generation and what changed.", "Reloaded")
        .answer(422, "Faulty: all faults of the file.", "Error"),
        get("/admin/v1/openapi.json", "This document.", Gate::Principals, Action::OpenApi).answer(
            200,
            "An OpenAPI 3.1 document.",
            "OpenApi",
        ),
    ]
}

/// One verb on one kind of object.
fn on_objects(kind: &'static Kind, verb: Verb) -> Call {
    match verb {
        Verb::Create | Verb::List => on_kind(kind, verb),
        _ => on_kind(kind, verb).ask(kind.single),
    }
}

fn on_kind(kind: &'static Kind, verb: Verb) -> Call {
    let (plural, one, schema) = (kind.plural, kind.one, kind.schema);
    let all = format!("/admin/v1/{plural}");
    let single = format!("{all}/{{id}}");
    let under = |word: &str| format!("{single}/{word}");
    let action = Action::Perform(kind.resource, verb);
    let reads = Gate::Directory(kind.readers);
    let writes = Gate::Directory(kind.writers);
    let post = |path: String, summary: String| call(Method::POST, &path, &summary, writes, action);
    match verb {
        Verb::Create => post(all, format!("Makes {one}. {}", kind.about))
            .body(&format!("{schema}Create"))
            .answer(201, "Made.", schema),
        Verb::List => {
            call(Method::GET, &all, &format!("Lists {plural}, newest first."), reads, action)
                .ask(kind.filters)
                .ask(&PAGE)
                .answer(200, "A page.", &format!("{schema}List"))
        }
        Verb::Show => {
            call(Method::GET, &single, &format!("Shows {one}.{}", kind.shown), reads, action)
                .answer(200, "As it is now.", schema)
        }
        Verb::Update => {
            let summary = format!("Changes {one}: a JSON merge patch, null removes a field.");
            call(Method::PATCH, &single, &summary, writes, action)
                .body(&format!("{schema}Patch"))
                .answer(200, "As it is now.", schema)
        }
        Verb::Delete => {
            let summary = format!("Deletes {one}; `restore` brings it back.");
            call(Method::DELETE, &single, &summary, writes, action)
                .ask(kind.deleting)
                .answer(200, "Deleted.", schema)
        }
        Verb::Restore => post(under("restore"), format!("Brings a deleted {} back.", kind.noun))
            .body("Empty")
            .answer(200, "As it is now.", schema),
        Verb::Purge => post(
            under("purge"),
            format!("Removes a deleted {} for good. Records and audit entries stay.", kind.noun),
        )
        .body("Empty")
        .answer(200, "Gone: as it was.", schema),
        Verb::Rotate => post(
            under("rotate"),
            format!(
                "Gives {one} a new secret, shown this once; the old one stays valid for `grace`."
            ),
        )
        .body("Rotate")
        .answer(200, "With the new secret.", schema),
        Verb::Block => post(under("block"), kind.blocking.to_owned()).body("Block").answer(
            200,
            "As it is now.",
            schema,
        ),
        Verb::Unblock => {
            post(under("unblock"), format!("Takes back the block of {}.", kind.blocked))
                .body("Empty")
                .answer(200, "As it is now.", schema)
        }
    }
}

const CURSOR: Parameter =
    Parameter { name: "cursor", shape: Shape::Text, about: "`next_cursor` of the page before." };
const LIMIT: Parameter =
    Parameter { name: "limit", shape: Shape::Limit, about: "Rows of a page, 1 to 1000." };
const PAGE: [Parameter; 2] = [CURSOR, LIMIT];

/// A filter by an object.
const fn by(name: &'static str) -> Parameter {
    Parameter { name, shape: Shape::Text, about: "Only of this one: a name or an id." }
}

const MODEL: Parameter =
    Parameter { name: "model", shape: Shape::Text, about: "Only this alias, as callers ask." };

/// What was used and what was asked.
fn records() -> Vec<Call> {
    let from = Parameter {
        name: "from",
        shape: Shape::Time,
        about: "Start, inclusive: RFC 3339, or a date (UTC).",
    };
    let to = Parameter { name: "to", about: "End, exclusive.", ..from };
    let group_by = Parameter {
        name: "group_by",
        shape: Shape::Some(&GROUPS),
        about: "What the rows tell apart, comma-separated; currencies always are.",
    };
    let status = Parameter {
        name: "status",
        shape: Shape::Status,
        about: "Only this HTTP status (429), or this class (4xx).",
    };
    let since = Parameter { name: "since", ..from };
    let until = Parameter { name: "until", ..to };
    let get = |path, summary, action| call(Method::GET, path, summary, Gate::Principals, action);
    vec![
        get("/admin/v1/usage", "Requests, units, cost and charge, summed up.", Action::Usage)
            .ask(&[from, to, group_by])
            .ask(&[by("key"), MODEL, by("project"), by("user"), by("account")])
            .answer(200, "The sums.", "UsageReport"),
        get("/admin/v1/requests", "Usage records, newest first.", Action::Requests)
            .ask(&[by("key"), MODEL, by("project"), by("account"), status, since, until])
            .ask(&PAGE)
            .answer(200, "A page.", "RecordList"),
        get("/admin/v1/requests/{id}", "One record with its attempts.", Action::Request)
            .answer(200, "The record.", "Record")
            .answer(404, "There is none with this id, or its retention is over.", "Error"),
    ]
}

/// By what usage can be told apart.
pub(super) const GROUPS: [&str; 10] =
    ["key", "model", "project", "user", "account", "target", "end_user", "tag", "day", "hour"];

fn audit() -> Vec<Call> {
    let since = Parameter {
        name: "since",
        shape: Shape::Count,
        about: "Only entries after the one with this number.",
    };
    vec![
        call(
            Method::GET,
            "/admin/v1/audit",
            "Administrative acts, oldest first. Reads are no acts.",
            Gate::Unscoped,
            Action::Audit,
        )
        .ask(&[since])
        .ask(&PAGE)
        .answer(200, "A page.", "AuditList"),
        call(
            Method::POST,
            "/admin/v1/audit/verify",
            "Recomputes the chain of hashes; with a head that was kept, a cut-off tail is found too.",
            Gate::Unscoped,
            Action::AuditVerify,
        )
        .body("AuditVerify")
        .answer(200, "The verdict; `ok` tells it.", "AuditVerdict"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_health_and_metrics_are_open() {
        let paths = |calls: Vec<&'static Call>| -> Vec<&str> {
            calls.iter().map(|call| call.path.as_str()).collect()
        };
        let open = CALLS.iter().filter(|call| !needs_token(&call.path)).collect();
        assert_eq!(paths(open), ["/health/live", "/health/ready", "/metrics"]);
        let open = CALLS.iter().filter(|call| matches!(call.gate, Gate::Open)).collect();
        assert_eq!(paths(open), ["/health/live", "/health/ready", "/metrics"]);
        assert!(needs_token("/admin") && needs_token("/admin/nothing"));
    }

    #[test]
    fn no_call_is_listed_twice_and_paths_are_told_apart() {
        for (at, one) in CALLS.iter().enumerate() {
            for other in &CALLS[at + 1..] {
                assert!(one.method != other.method || one.path != other.path, "{}", one.path);
            }
        }
        let at = |method: Method, path: &str| {
            let found = CALLS.iter().filter(|call| call.method == method && call.is_at(path));
            found.map(|call| call.path.as_str()).collect::<Vec<_>>()
        };
        assert_eq!(at(Method::POST, "/admin/v1/keys/a/rotate"), ["/admin/v1/keys/{id}/rotate"]);
        assert_eq!(at(Method::GET, "/admin/v1/keys/a%2Fb"), ["/admin/v1/keys/{id}"]);
        for path in
            ["/admin/v1/keys/", "/admin/v1/keys/a/b", "/admin/v1", "/admin/v1/rates/x/block"]
        {
            assert!(at(Method::GET, path).is_empty() && at(Method::POST, path).is_empty());
        }
    }
}
