//! Every call as it arrives at `Control`: method, path, query, body, caller, headers; and what is refused
//! before it gets there.

use serde_json::{Value, json};

use super::super::calls::{Action, CALLS};
use super::super::resources::KINDS;
use super::{Ask, Asked, Server, TOKEN, What, send};
use crate::auth::Secret;
use crate::directory::{Call, Caller, Refusal, Reply, Resource, Role, Verb};

impl Server {
    fn send(&self, token: &str, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        let ask = Ask { method, path, body, idempotency_key: None };
        send(&format!("http://{}", self.address), Some(&Secret::new(token)), &ask)
            .expect("an answer")
    }

    /// What came through since the last time.
    fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.control.asked.lock().expect("unpoisoned"))
    }

    /// The one operation that came through.
    fn one(&self) -> What {
        let mut asked = self.asked();
        assert_eq!(asked.len(), 1, "{asked:?}");
        asked.remove(0).what
    }

    fn answer(&self, outcome: Result<Reply, Refusal>) {
        *self.control.answer.lock().expect("unpoisoned") = Some(outcome);
    }
}

fn perform(resource: Resource, verb: Verb, id: Option<&str>, body: Value) -> What {
    let id = id.map(str::to_owned);
    What::Perform(Call { resource, verb, id, body, query: Vec::new(), idempotency_key: None })
}

#[test]
fn every_verb_of_every_kind_arrives() {
    let server = Server::start();
    let body = json!({"name": "x", "limits": {"rpm": 5}});
    let mut seen = 0;
    for kind in KINDS {
        for &verb in kind.verbs {
            let all = format!("/admin/v1/{}", kind.plural);
            let single = format!("{all}/a%2Fb%20%C3%A9");
            let (method, path, takes_body) = match verb {
                Verb::Create => ("POST", all, true),
                Verb::List => ("GET", all, false),
                Verb::Show => ("GET", single, false),
                Verb::Update => ("PATCH", single, true),
                Verb::Delete => ("DELETE", single, false),
                Verb::Rotate => ("POST", format!("{single}/rotate"), true),
                Verb::Block => ("POST", format!("{single}/block"), true),
                Verb::Unblock => ("POST", format!("{single}/unblock"), true),
                Verb::Restore => ("POST", format!("{single}/restore"), true),
                Verb::Purge => ("POST", format!("{single}/purge"), true),
            };
            let (status, answer) = server.send(TOKEN, method, &path, Some(&body));
            assert_eq!((status, answer), (200, json!({})), "{method} {path}");
            let id = (!matches!(verb, Verb::Create | Verb::List)).then_some("a/b é");
            let want = if takes_body { body.clone() } else { json!({}) };
            assert_eq!(server.one(), perform(kind.resource, verb, id, want), "{method} {path}");
            seen += 1;
        }
    }
    let listed = CALLS.iter().filter(|call| matches!(call.action, Action::Perform(..))).count();
    assert_eq!(seen, listed);
    assert_eq!(seen, 7 * 7 + 2 * 3 + 3 * 2);
}

#[test]
fn verbs_are_where_they_make_sense_only() {
    let server = Server::start();
    for path in
        ["prices/x/block", "rates/x/rotate", "accounts/x/rotate", "users/x/rotate", "keys/x/y"]
    {
        let (status, answer) = server.send(TOKEN, "POST", &format!("/admin/v1/{path}"), None);
        assert_eq!((status, &answer["error"]["code"]), (404, &json!("not_found")), "{path}");
    }
    for (method, path, allow) in [
        ("PUT", "/admin/v1/keys/x", "get, patch, delete"),
        ("DELETE", "/admin/v1/keys", "post, get"),
        ("GET", "/admin/v1/keys/x/rotate", "post"),
        ("POST", "/admin/v1/usage", "get"),
        ("GET", "/admin/v1/audit/verify", "post"),
        ("PATCH", "/admin/v1/requests/x", "get"),
    ] {
        let answer = server.raw(&format!(
            "{method} {path} HTTP/1.0\r\nauthorization: Bearer {TOKEN}\r\ncontent-length: 0\r\n\r\n"
        ));
        assert!(answer.starts_with("http/1.0 405"), "{method} {path}: {answer}");
        assert!(answer.contains(&format!("\r\nallow: {allow}\r\n")), "{answer}");
        assert!(answer.contains("method_not_allowed"), "{answer}");
    }
    assert!(server.asked().is_empty());
}

#[test]
fn reads_of_records_and_of_the_audit_log_arrive() {
    let server = Server::start();
    let pairs = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    };
    for (path, want) in [
        (
            "usage?from=2026-01-01&to=2026-02-01T00:00:00Z&group_by=key,model,day&project=p",
            What::Usage(pairs(&[
                ("from", "2026-01-01T00:00:00.000Z"),
                ("to", "2026-02-01T00:00:00.000Z"),
                ("group_by", "key,model,day"),
                ("project", "p"),
            ])),
        ),
        ("usage", What::Usage(vec![])),
        (
            "requests?key=k&model=gpt-*&status=4xx&since=2026-01-01&cursor=abc&limit=1000",
            What::Requests(pairs(&[
                ("key", "k"),
                ("model", "gpt-*"),
                ("status", "4xx"),
                ("since", "2026-01-01T00:00:00.000Z"),
                ("cursor", "abc"),
                ("limit", "1000"),
            ])),
        ),
        ("requests/01JDXK", What::Request("01JDXK".into())),
        ("audit?since=17&limit=5", What::Audit(pairs(&[("since", "17"), ("limit", "5")]))),
    ] {
        let (status, _) = server.send(TOKEN, "GET", &format!("/admin/v1/{path}"), None);
        assert_eq!(status, 200, "{path}");
        assert_eq!(server.one(), want, "{path}");
    }
    let head = json!({"head": {"count": 17, "hash": "ab".repeat(32)}});
    for body in [json!({}), json!({"head": null}), head] {
        server.send(TOKEN, "POST", "/admin/v1/audit/verify", Some(&body));
        assert_eq!(server.one(), What::AuditVerify(body));
    }
    server.send(TOKEN, "POST", "/admin/v1/audit/verify", None);
    assert_eq!(server.one(), What::AuditVerify(json!({})));
}

#[test]
fn filters_of_lists_and_cascades_arrive() {
    let server = Server::start();
    let query = |path: &str, method: &str| {
        server.send(TOKEN, method, &format!("/admin/v1/{path}"), None);
        match server.one() {
            What::Perform(call) => call.query,
            other => panic!("{other:?}"),
        }
    };
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(
        query("keys?project=p&user=u&status=blocked&cursor=c&limit=7", "GET"),
        [
            pair("project", "p"),
            pair("user", "u"),
            pair("status", "blocked"),
            pair("cursor", "c"),
            pair("limit", "7")
        ]
    );
    assert_eq!(query("accounts/a?cascade=true", "DELETE"), [pair("cascade", "true")]);
    for (path, method) in
        [("keys/k", "GET"), ("keys/k", "PATCH"), ("keys/k", "DELETE"), ("keys/k/rotate", "POST")]
    {
        assert_eq!(query(&format!("{path}?project=p"), method), [pair("project", "p")], "{path}");
    }
    assert_eq!(query("principals?account=a", "GET"), [pair("account", "a")]);
}

#[test]
fn bad_queries_never_arrive() {
    let server = Server::start();
    for (method, path, field) in [
        ("GET", "keys?projekt=p", "projekt"),
        ("GET", "keys?status=gone", "status"),
        ("GET", "keys?limit=1001", "limit"),
        ("GET", "keys?limit=5&limit=6", "limit"),
        ("GET", "prices?project=p", "project"),
        ("GET", "keys/x?user=u", "user"),
        ("GET", "users/x?project=p", "project"),
        ("POST", "keys?name=x", "name"),
        ("DELETE", "keys/x?cascade=true", "cascade"),
        ("DELETE", "projects/x?cascade=perhaps", "cascade"),
        ("GET", "usage?group_by=colour", "group_by"),
        ("GET", "usage?from=now", "from"),
        ("GET", "requests?status=abc", "status"),
        ("GET", "audit?since=2026-01-01", "since"),
        ("GET", "status?verbose=1", "verbose"),
        ("GET", "config?x", "x"),
    ] {
        let (status, answer) = server.send(TOKEN, method, &format!("/admin/v1/{path}"), None);
        assert_eq!((status, &answer["error"]["field"]), (400, &json!(field)), "{path}: {answer}");
        assert!(answer["error"]["message"].as_str().is_some_and(|text| text.len() > 10));
    }
    // Probes and scrapers may add what they like.
    assert_eq!(server.ask("GET", "/metrics?name[]=x", None).0, 200);
    assert!(server.asked().is_empty());
}

#[test]
fn bad_bodies_never_arrive() {
    let server = Server::start();
    let raw = |method: &str, path: &str, body: &str| {
        server.raw(&format!(
            "{method} /admin/v1/{path} HTTP/1.0\r\nauthorization: Bearer {TOKEN}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ))
    };
    let deep = format!("{{\"metadata\":{}1{}}}", "[".repeat(10_000), "]".repeat(10_000));
    for body in ["[]", "\"x\"", "7", "{\"name\":", "{\"name\": NaN}", "\u{0}", deep.as_str()] {
        for (method, path) in [("POST", "keys"), ("PATCH", "keys/x"), ("POST", "keys/x/rotate")] {
            let answer = raw(method, path, body);
            assert!(answer.starts_with("http/1.0 400"), "{path} {body:.20}: {answer}");
            assert!(answer.contains("invalid_json"), "{answer}");
        }
    }
    for body in [
        json!({"haed": {}}),
        json!({"head": 17}),
        json!({"head": {"count": -1, "hash": "ab".repeat(32)}}),
        json!({"head": {"count": 1.5, "hash": "ab".repeat(32)}}),
        json!({"head": {"count": 1}}),
        json!({"head": {"count": 1, "hash": "zz".repeat(32)}}),
        json!({"head": {"count": 1, "hash": "ab".repeat(32), "more": 1}}),
    ] {
        let (status, answer) = server.send(TOKEN, "POST", "/admin/v1/audit/verify", Some(&body));
        assert_eq!((status, &answer["error"]["code"]), (400, &json!("invalid_field")), "{body}");
        assert!(answer["error"]["field"].is_string());
    }
    assert!(server.asked().is_empty());
    assert!(raw("POST", "keys/x/unblock", "").starts_with("http/1.0 200"));
    assert_eq!(server.one(), perform(Resource::Keys, Verb::Unblock, Some("x"), json!({})));
}

#[test]
fn idempotency_keys_are_handed_on_or_refused() {
    let server = Server::start();
    let post = |method: &str, headers: &str| {
        server.raw(&format!(
            "{method} /admin/v1/keys/k/rotate HTTP/1.0\r\nauthorization: Bearer {TOKEN}\r\n{headers}content-length: 0\r\n\r\n"
        ))
    };
    let longest = "k".repeat(255);
    for key in ["once", "2f1c-…".trim_end_matches('…'), &longest] {
        assert!(post("POST", &format!("Idempotency-Key: {key}\r\n")).starts_with("http/1.0 200"));
        let What::Perform(call) = server.one() else { panic!("no operation") };
        assert_eq!(call.idempotency_key.as_deref(), Some(key));
    }
    for headers in [
        format!("idempotency-key: {longest}k\r\n"),
        "idempotency-key: \r\n".to_owned(),
        "idempotency-key: \u{e9}\r\n".to_owned(),
        "idempotency-key: a\r\nidempotency-key: b\r\n".to_owned(),
    ] {
        let answer = post("POST", &headers);
        assert!(answer.starts_with("http/1.0 400"), "{headers}: {answer}");
        assert!(answer.contains("invalid_idempotency_key"), "{answer}");
    }
    assert!(server.asked().is_empty());
    // Elsewhere the header means nothing.
    let ask =
        Ask { method: "GET", path: "/admin/v1/keys", body: None, idempotency_key: Some("once") };
    let url = format!("http://{}", server.address);
    assert_eq!(send(&url, Some(&Secret::new(TOKEN)), &ask).expect("an answer").0, 200);
    let What::Perform(call) = server.one() else { panic!("no operation") };
    assert_eq!(call.idempotency_key, None);
}

#[test]
fn the_caller_is_named_with_role_scope_and_address() {
    let server = Server::start();
    let caller = |token: &str| {
        assert_eq!(server.send(token, "GET", "/admin/v1/keys", None).0, 200);
        server.asked().remove(0).caller
    };
    let want = |name: &str, role, account: Option<&str>| Caller {
        name: name.into(),
        role,
        account: account.map(str::to_owned),
        project: None,
        from: "127.0.0.1".into(),
    };
    assert_eq!(caller(TOKEN), want("owner", Role::Owner, None));
    assert_eq!(caller("manager@acme"), want("somebody", Role::Manager, Some("acme")));
    let (status, answer) = server.send("stranger", "GET", "/admin/v1/keys", None);
    assert_eq!((status, &answer["error"]["code"]), (401, &json!("unauthorized")));
    assert!(server.asked().is_empty());
    // A principal's token proves as much as the owner's that the caller is no web page.
    let get = "GET /metrics HTTP/1.1\r\nhost: gw.example\r\nconnection: close\r\n";
    assert!(server.raw(&format!("{get}\r\n")).starts_with("http/1.1 403"));
    let shown = server.raw(&format!("{get}authorization: Bearer viewer\r\n\r\n"));
    assert!(shown.starts_with("http/1.1 200"), "{shown}");
}

#[test]
fn roles_reach_as_far_as_they_should() {
    let server = Server::start();
    // Owner's token, principals: owner, admin of an account, manager, viewer, viewer of an account.
    let tokens = [TOKEN, "owner", "admin@acme", "manager@acme", "viewer", "viewer@acme"];
    for (method, path, want) in [
        ("GET", "status", [200, 200, 403, 403, 200, 403]),
        ("GET", "routes", [200, 200, 403, 403, 200, 403]),
        ("GET", "openapi.json", [200, 200, 200, 200, 200, 200]),
        ("GET", "config", [200, 200, 403, 403, 403, 403]),
        ("POST", "reload", [200, 200, 403, 403, 403, 403]),
        ("GET", "usage", [200, 200, 200, 200, 200, 200]),
        ("GET", "requests", [200, 200, 200, 200, 200, 200]),
        ("GET", "audit", [200, 200, 403, 403, 200, 403]),
        ("POST", "audit/verify", [200, 200, 403, 403, 200, 403]),
        // The directory decides, so that it can note what it denies.
        ("POST", "prices", [200, 200, 200, 200, 200, 200]),
        ("DELETE", "keys/x", [200, 200, 200, 200, 200, 200]),
    ] {
        for (token, want) in tokens.iter().zip(want) {
            let (status, answer) = server.send(token, method, &format!("/admin/v1/{path}"), None);
            assert_eq!(status, want, "{token} {method} {path}");
            if want == 403 {
                assert_eq!(answer["error"]["code"], "forbidden");
            }
        }
    }
}

#[test]
fn answers_and_refusals_are_handed_back() {
    let server = Server::start();
    let key = json!({"id": "key_1", "secret": "sk-ft-x"});
    server.answer(Ok(Reply { status: 201, body: key.clone() }));
    let body = json!({"name": "x"});
    assert_eq!(server.send(TOKEN, "POST", "/admin/v1/keys", Some(&body)), (201, key));
    server.answer(Ok(Reply { status: 204, body: Value::Null }));
    assert_eq!(server.send(TOKEN, "DELETE", "/admin/v1/keys/x", None), (204, Value::Null));
    for (status, field) in [(403, None), (409, None), (422, Some("limits.budget[0].amount"))] {
        let message = "so it is".to_owned();
        let field = field.map(str::to_owned);
        server.answer(Err(Refusal { status, code: "a_code", message, field: field.clone() }));
        let (got, answer) = server.send(TOKEN, "PATCH", "/admin/v1/keys/x", Some(&body));
        let mut want = json!({"code": "a_code", "message": "so it is"});
        if let Some(field) = field {
            want["field"] = json!(field);
        }
        assert_eq!((got, answer), (status, json!({"error": want})));
    }
}
