//! The admin API over HTTP, as those use it who administer: every kind of object with its verbs and
//! bad values, who may see and do what, and what callers notice of a change, and when.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::support::client::encode;
use crate::support::{
    ADMIN_TOKEN, Answer, Gateway, KEY, Raw, Setup, SimServer, chat, eventually, request,
};

const CHAT: &str = "/v1/chat/completions";

/// All kinds, and what it takes to make one.
fn kinds() -> [(&'static str, Value); 7] {
    [
        ("accounts", json!({"name": "acme"})),
        ("projects", json!({"name": "search"})),
        ("users", json!({"name": "ada"})),
        ("keys", json!({"name": "chat"})),
        ("prices", json!({"provider": "up", "model": "m", "input": "1"})),
        ("rates", json!({"from": "USD", "to": "EUR", "rate": "0.92"})),
        ("principals", json!({"name": "bob", "role": "viewer"})),
    ]
}

/// The admin API with somebody's token.
pub struct Api {
    pub addr: SocketAddr,
    pub token: String,
}

impl Api {
    pub fn owner(gateway: &Gateway) -> Api {
        Api { addr: gateway.admin, token: ADMIN_TOKEN.to_owned() }
    }

    /// The same for a principal that is made for it.
    #[track_caller]
    pub fn principal(&self, body: Value) -> Api {
        let made = self.made("principals", body);
        Api { addr: self.addr, token: text(&made, "token") }
    }

    #[track_caller]
    pub fn send(&self, method: &str, path: &str, more: &[(&str, &str)], body: &str) -> Answer {
        let bearer = format!("Bearer {}", self.token);
        let mut headers = vec![("authorization", bearer.as_str())];
        headers.extend_from_slice(more);
        request(self.addr, method, &format!("/admin/v1{path}"), &headers, body)
    }

    #[track_caller]
    pub fn call(&self, method: &str, path: &str, body: &Value) -> Answer {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.send(method, path, &[], &body)
    }

    #[track_caller]
    pub fn good(&self, method: &str, path: &str, body: Value) -> Value {
        let answer = self.call(method, path, &body);
        assert!(answer.status < 300, "{method} {path} {body}: {} {}", answer.status, answer.text());
        answer.json()
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Value {
        self.good("GET", path, Value::Null)
    }

    #[track_caller]
    pub fn post(&self, path: &str) -> Value {
        self.good("POST", path, Value::Null)
    }

    #[track_caller]
    pub fn made(&self, plural: &str, body: Value) -> Value {
        let answer = self.call("POST", &format!("/{plural}"), &body);
        assert_eq!(answer.status, 201, "{plural} {body}: {}", answer.text());
        answer.json()
    }

    /// Refused with this status and for this field.
    #[track_caller]
    pub fn bad(&self, method: &str, path: &str, body: &Value, status: u16, field: &str) {
        let answer = self.call(method, path, body);
        let told = format!("{method} {path} {body}: {} {}", answer.status, answer.text());
        assert_eq!(answer.status, status, "{told}");
        assert_eq!(answer.json()["error"]["field"], field, "{told}");
        let message = text(&answer.json()["error"], "message");
        assert!(!message.is_empty() && !message.contains("panic"), "{told}");
    }

    /// The log's entries after this number.
    #[track_caller]
    pub fn log(&self, since: u64) -> Vec<Value> {
        let page = self.get(&format!("/audit?since={since}&limit=1000"));
        page["data"].as_array().expect("entries").clone()
    }

    /// The number of the last entry.
    #[track_caller]
    pub fn head(&self) -> u64 {
        self.post("/audit/verify")["count"].as_u64().expect("a count")
    }
}

#[track_caller]
pub fn text(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap_or_else(|| panic!("no {field}: {value}")).to_owned()
}

/// A call on the data port.
#[track_caller]
pub fn ask(addr: SocketAddr, secret: &str) -> Answer {
    ask_for(addr, secret, "m")
}

#[track_caller]
pub fn ask_for(addr: SocketAddr, secret: &str, model: &str) -> Answer {
    let bearer = format!("Bearer {secret}");
    request(addr, "POST", CHAT, &[("authorization", &bearer)], chat(model, false, "Hello"))
}

fn start() -> (SimServer, Gateway) {
    let sim = SimServer::with(|_| {});
    let gateway = Setup::to(sim.addr).start();
    (sim, gateway)
}

#[test]
fn every_kind_is_made_listed_shown_changed_deleted_restored_and_purged() {
    let (_sim, gateway) = start();
    let owner = Api::owner(&gateway);
    for (plural, body) in kinds() {
        let made = owner.made(plural, body.clone());
        let id = text(&made, "id");
        let one = format!("/{plural}/{id}");
        for (field, value) in body.as_object().expect("an object") {
            assert_eq!(&made[field], value, "{plural}.{field}");
        }
        assert_eq!(made["managed_by"], "api", "{made}");
        let listed = |status: &str| {
            let page = owner.get(&format!("/{plural}?status={status}"));
            let rows = page["data"].as_array().expect("rows").clone();
            rows.iter().any(|row| row["id"] == *id)
        };
        assert!(listed("active") && listed("all") && !listed("deleted"), "{plural}");
        assert_eq!(owner.get(&one)["id"], *id);

        let patch = match plural {
            "prices" => json!({"output": "4"}),
            "rates" => json!({"rate": "0.93"}),
            "principals" => json!({"expires_at": "2999-01-01T00:00:00.000Z"}),
            _ => json!({"metadata": {"note": "changed"}}),
        };
        let changed = owner.good("PATCH", &one, patch.clone());
        for (field, value) in patch.as_object().expect("an object") {
            assert_eq!(&changed[field], value, "{plural}");
            assert_eq!(&owner.get(&one)[field], value, "{plural}");
        }
        // The same again is refused, where names are unique.
        let twice = owner.call("POST", &format!("/{plural}"), &body);
        twice.expect_error(409, "name_taken");

        if !matches!(plural, "prices" | "rates") {
            for (verb, status) in [("block", "blocked"), ("unblock", "active")] {
                let answer = owner.post(&format!("{one}/{verb}"));
                if matches!(plural, "keys" | "principals") {
                    assert_eq!(answer["status"], status, "{plural}");
                } else {
                    assert_eq!(answer["keys"]["changed"], 0, "{plural}: it has none");
                }
            }
        }
        owner.call("POST", &format!("{one}/purge"), &json!({})).expect_error(409, "not_deleted");
        assert_eq!(owner.good("DELETE", &one, Value::Null)["status"], "deleted", "{plural}");
        owner.call("PATCH", &one, &patch).expect_error(409, "deleted");
        assert!(listed("deleted") && !listed("active"), "{plural}");
        let back = owner.post(&format!("{one}/restore"));
        assert_ne!(back["status"], "deleted", "{plural}");
        owner.call("POST", &format!("{one}/restore"), &json!({})).expect_error(409, "not_deleted");
        owner.good("DELETE", &one, Value::Null);
        owner.post(&format!("{one}/purge"));
        owner.call("GET", &one, &Value::Null).expect_error(404, "not_found");
        owner.call("POST", &format!("{one}/restore"), &json!({})).expect_error(404, "not_found");
        // A name that is free again.
        owner.made(plural, body);
        // What the list of calls does not have.
        let answer = owner.call("PUT", &one, &json!({}));
        assert_eq!((answer.status, answer.code().as_str()), (405, "method_not_allowed"));
        assert!(answer.header("allow").is_some_and(|allow| allow.contains("PATCH")), "{plural}");
    }
    let verdict = owner.post("/audit/verify");
    assert_eq!(verdict["ok"], true, "{verdict}");
}

/// Values that no field takes, and those that each field in particular does not.
#[test]
fn every_bad_value_is_refused_with_its_field_and_changes_nothing() {
    let (_sim, gateway) = start();
    let owner = Api::owner(&gateway);
    let ids: Vec<(&str, Value, String)> = kinds()
        .into_iter()
        .map(|(plural, body)| (plural, body.clone(), text(&owner.made(plural, body), "id")))
        .collect();
    let before = owner.head();
    let document = owner.get("/openapi.json");
    for (plural, body, id) in &ids {
        let schema = &document["paths"][format!("/admin/v1/{plural}/{{id}}")]["patch"];
        let reference = &schema["requestBody"]["content"]["application/json"]["schema"]["$ref"];
        let pointer = reference.as_str().expect("a schema").trim_start_matches('#').to_owned();
        let fields = document.pointer(&pointer).expect("it")["properties"].clone();
        let fields = fields.as_object().expect("fields");
        assert!(fields.len() >= 3, "{plural}");
        let one = format!("/{plural}/{id}");
        for field in fields.keys() {
            // No field takes a truth value, a number below zero, or one beyond all bounds.
            for wrong in [json!(true), json!(-1), json!(1e300), json!([[[]]])] {
                let answer = owner.call("PATCH", &one, &json!({ field: wrong }));
                let told = format!("{plural}.{field} = {wrong}: {}", answer.text());
                assert!([400, 422].contains(&answer.status), "{told}");
                let named = text(&answer.json()["error"], "field");
                assert!(named.starts_with(field.as_str()), "{told}");
                let mut body = body.clone();
                body[field] = wrong;
                let answer = owner.call("POST", &format!("/{plural}"), &body);
                assert!([400, 422].contains(&answer.status), "made: {told}");
            }
            let huge = json!({ field: "x".repeat(100_000) });
            let answer = owner.call("PATCH", &one, &huge);
            assert!([400, 422].contains(&answer.status), "{plural}.{field}: {}", answer.text());
            assert!(answer.body.len() < 2000, "{plural}.{field}: it is sent back");
        }
        for wrong in ["nmae", "id", "created_at", "__proto__", "status"] {
            owner.bad("PATCH", &one, &json!({ wrong: "x" }), 400, wrong);
            owner.bad("PATCH", &one, &json!({ wrong: null }), 400, wrong);
        }
    }
    for (body, status, field) in [
        (json!({}), 422, "name"),
        (json!({"name": ""}), 422, "name"),
        (json!({"name": " a"}), 422, "name"),
        (json!({"name": "a\r\nx: y"}), 422, "name"),
        (json!({"name": "n".repeat(129)}), 422, "name"),
        (json!({"name": "k", "project": "none"}), 422, "project"),
        (json!({"name": "k", "user": "none"}), 422, "user"),
        (json!({"name": "k", "models": ["a*b*c*d*e*f"]}), 422, "models[0]"),
        (json!({"name": "k", "endpoints": ["chat", "chta"]}), 422, "endpoints[1]"),
        (json!({"name": "k", "cidrs": ["10.0.0.0/33"]}), 422, "cidrs[0]"),
        (json!({"name": "k", "expires_at": "soon"}), 422, "expires_at"),
        (json!({"name": "k", "expires_at": "2001-01-01T00:00:00Z"}), 422, "expires_at"),
        (json!({"name": "k", "tags": ["a,b"]}), 422, "tags[0]"),
        (json!({"name": "k", "metadata": {"a": "m".repeat(5000)}}), 422, "metadata"),
        (json!({"name": "k", "secret": "short"}), 422, "secret"),
        (json!({"name": "k", "secret": "with blanks in it 0123"}), 422, "secret"),
        (json!({"name": "k", "sha256": "00"}), 422, "sha256"),
        (json!({"name": "k", "limits": {"rpm": -1}}), 422, "limits.rpm"),
        (json!({"name": "k", "limits": {"rpm": 1.5}}), 400, "limits.rpm"),
        (json!({"name": "k", "limits": {"tpd": u64::MAX}}), 422, "limits.tpd"),
        (json!({"name": "k", "limits": {"budget": [{"amount": 1}]}}), 422, "limits.budget[0].per"),
        (
            json!({"name": "k", "limits": {"budget": [{"amount": 1, "per": "daily"}]}}),
            400,
            "limits.budget[0].amount",
        ),
        (
            json!({"name": "k", "limits": {"models": {"m": {"rpm": "1"}}}}),
            400,
            "limits.models.m.rpm",
        ),
    ] {
        owner.bad("POST", "/keys", &body, status, field);
    }
    for (path, body, status, field) in [
        ("/accounts", json!({"name": "b", "currency": "usd"}), 422, "currency"),
        ("/accounts", json!({"name": "b", "billing": "prepaid"}), 422, "balance"),
        ("/accounts", json!({"name": "b", "timezone": "Mars/Base"}), 422, "timezone"),
        ("/accounts", json!({"name": "b", "markup": "1.00001"}), 422, "markup"),
        ("/accounts", json!({"name": "b", "queue": {"wait": "2"}}), 422, "queue.wait"),
        ("/users", json!({"name": "b", "email": "nobody"}), 422, "email"),
        ("/rates", json!({"from": "USD", "to": "USD", "rate": "1"}), 422, "to"),
        ("/rates", json!({"from": "USD", "to": "EUR", "rate": "0"}), 422, "rate"),
        ("/rates", json!({"from": "USD", "to": "EUR", "rate": 0.92}), 400, "rate"),
        ("/prices", json!({"provider": "up", "model": "x", "input": "-1"}), 422, "input"),
        ("/prices", json!({"provider": "up", "model": "x", "input": "1e3"}), 422, "input"),
        ("/prices", json!({"provider": "up", "model": "a*b", "input": "1"}), 422, "model"),
        ("/principals", json!({"name": "b", "role": "king"}), 422, "role"),
        ("/principals", json!({"name": "owner", "role": "viewer"}), 422, "name"),
        ("/principals", json!({"name": "b", "role": "manager"}), 422, "project"),
        ("/keys/chat/rotate", json!({"grace": 5}), 400, "grace"),
        ("/keys/chat/rotate", json!({"grace": "-1h"}), 422, "grace"),
        ("/keys/chat/rotate", json!({"grcae": "1h"}), 400, "grcae"),
        ("/keys/chat/block", json!({"now": "yes"}), 400, "now"),
        ("/keys/chat/unblock", json!({"now": true}), 400, "now"),
        ("/keys/chat/restore", json!({"all": true}), 400, "all"),
        ("/audit/verify", json!({"head": 7}), 400, "head"),
        ("/audit/verify", json!({"head": {"count": -1, "hash": "00"}}), 400, "head.count"),
    ] {
        owner.bad("POST", path, &body, status, field);
    }
    for (path, field) in [
        ("/keys?limit=0", "limit"),
        ("/keys?limit=1001", "limit"),
        ("/keys?status=gone", "status"),
        ("/keys?colour=red", "colour"),
        ("/keys?cursor=nonsense", "cursor"),
        ("/usage?group_by=colour", "group_by"),
        ("/usage?from=yesterday", "from"),
        ("/requests?cursor=nonsense", "cursor"),
        ("/requests?status=42", "status"),
        ("/audit?since=-1", "since"),
    ] {
        owner.bad("GET", path, &Value::Null, 400, field);
    }
    for (body, status, code) in [
        ("{", 400, "invalid_json"),
        ("[]", 400, "invalid_json"),
        ("\"name\"", 400, "invalid_json"),
        ("\u{0}", 400, "invalid_json"),
    ] {
        owner.send("POST", "/keys", &[], body).expect_error(status, code);
    }
    let deep = format!("{{\"metadata\":{}1{}}}", "[".repeat(5000), "]".repeat(5000));
    owner.send("POST", "/keys", &[], &deep).expect_error(400, "invalid_json");
    // Refused by its announced length, before it is read.
    let mut raw = Raw::connect(gateway.admin);
    raw.send(format!(
        "POST /admin/v1/keys HTTP/1.1\r\nhost: h\r\nauthorization: Bearer {ADMIN_TOKEN}\r\n\
         content-length: {}\r\n\r\n",
        2 << 20
    ));
    raw.answer().expect_error(413, "body_too_large");
    assert_eq!(owner.head(), before, "nothing was changed by any of it");
    assert_eq!(ask(gateway.addr, KEY).status, 200, "and it still serves");
}

#[test]
fn case_50_nobody_sees_grants_or_widens_beyond_its_own() {
    let (_sim, gateway) = start();
    let owner = Api::owner(&gateway);
    for account in ["acme", "rival"] {
        owner.made("accounts", json!({"name": account, "limits": {"rpm": 100}}));
        for part in ["web", "batch"] {
            let project = format!("{account}-{part}");
            let body = json!({"name": project, "account": account, "limits": {"rpm": 50}});
            owner.made("projects", body);
            owner.made("keys", json!({"name": "chat", "project": project}));
        }
        owner.made("users", json!({"name": format!("{account}-ada"), "account": account}));
    }
    let admin = owner.principal(json!({"name": "anna", "role": "admin", "account": "acme"}));
    let manager = owner.principal(json!({"name": "max", "role": "manager", "project": "acme-web"}));
    let viewer = owner.principal(json!({"name": "vera", "role": "viewer", "account": "acme"}));
    let id = |path: &str| text(&owner.get(path), "id");
    let rival = id("/accounts/rival");
    let rival_web = id("/projects/rival-web");
    let rival_key = id("/keys/chat?project=rival-web");
    let batch_key = id("/keys/chat?project=acme-batch");
    let web_key = id("/keys/chat?project=acme-web");

    let denied = |who: &Api, name: &str, method: &str, path: &str, body: Value| {
        let before = owner.head();
        let answer = who.call(method, path, &body);
        assert_eq!(answer.status, 403, "{name} {method} {path} {body}: {}", answer.text());
        let log = owner.log(before);
        assert_eq!(log.len(), 1, "{name} {method} {path}: one entry, no change: {log:?}");
        assert_eq!(log[0]["action"], "denied", "{log:?}");
        assert_eq!(log[0]["actor"], name, "{log:?}");
        assert!(!text(&log[0]["after"], "attempt").is_empty(), "{log:?}");
    };
    let rival_of = |path: &str| format!("{path}/{rival_key}");
    for (who, name) in [(&admin, "anna"), (&manager, "max"), (&viewer, "vera")] {
        let denied = |method: &str, path: &str, body: Value| denied(who, name, method, path, body);
        // What is foreign: not seen, as if it were not there, and not touched.
        for path in [rival_of("/keys"), format!("/projects/{rival_web}"), "/keys/none".into()] {
            who.call("GET", &path, &Value::Null).expect_error(404, "not_found");
        }
        denied("PATCH", &rival_of("/keys"), json!({"limits": {"rpm": 1}}));
        for verb in ["rotate", "block", "unblock", "restore", "purge"] {
            denied("POST", &format!("/keys/{rival_key}/{verb}"), json!({}));
        }
        denied("DELETE", &rival_of("/keys"), Value::Null);
        denied("POST", "/keys", json!({"name": "k", "project": rival_web}));
        denied("POST", &format!("/projects/{rival_web}/block"), json!({}));
        denied("POST", &format!("/accounts/{rival}/block"), json!({}));
        denied("GET", &format!("/keys?project={rival_web}"), Value::Null);
        denied("POST", "/principals", json!({"name": "p", "role": "owner"}));
        denied("POST", "/principals", json!({"name": "p", "role": "admin", "account": "rival"}));
        denied("POST", "/accounts", json!({"name": "own"}));
        denied("POST", "/prices", json!({"provider": "up", "model": "m", "input": "0"}));
        denied("POST", "/rates", json!({"from": "USD", "to": "EUR", "rate": "1"}));
        denied("GET", "/prices", Value::Null);
        // Lists hold what is their own.
        for row in who.get("/keys?limit=1000")["data"].as_array().expect("rows") {
            assert_eq!(row["account"], "acme", "{name}: {row}");
            assert!(name != "max" || row["project"] == "acme-web", "{name}: {row}");
        }
        // What shows all accounts, or concerns the whole process.
        for (method, path) in [("GET", "/audit"), ("POST", "/audit/verify"), ("POST", "/reload")] {
            denied(method, path, Value::Null);
        }
    }
    // A viewer changes nothing, not even its own.
    denied(&viewer, "vera", "PATCH", &format!("/keys/{web_key}"), json!({"limits": {"rpm": 1}}));
    denied(&viewer, "vera", "POST", "/keys", json!({"name": "k", "project": "acme-web"}));
    denied(&viewer, "vera", "GET", "/config", Value::Null);
    // A manager has one project.
    denied(&manager, "max", "POST", &format!("/keys/{batch_key}/block"), json!({}));
    denied(&manager, "max", "PATCH", "/projects/acme-web", json!({"limits": {"rpm": 51}}));
    denied(&manager, "max", "PATCH", "/projects/acme-web", json!({"limits": null}));
    denied(&manager, "max", "PATCH", "/projects/acme-web", json!({"models": ["*"]}));
    denied(&manager, "max", "POST", "/keys", json!({"name": "k", "secret": "sk-of-somebody-else"}));
    manager.good("PATCH", "/projects/acme-web", json!({"limits": {"rpm": 49}}));
    manager.made("keys", json!({"name": "k"}));
    assert_eq!(manager.get("/keys/k")["project"], "acme-web", "there, without being said");
    // An admin has one account, and what binds it stays.
    denied(&admin, "anna", "PATCH", "/accounts/acme", json!({"limits": {"rpm": 101}}));
    denied(&admin, "anna", "PATCH", "/accounts/acme", json!({"markup": "0.5"}));
    denied(&admin, "anna", "PATCH", &format!("/keys/{web_key}"), json!({"project": rival_web}));
    admin.good("PATCH", "/accounts/acme", json!({"limits": {"rpm": 99}}));
    // What is handed out does not outlast what one has.
    let soon = "2999-01-01T00:00:00Z";
    let short = owner
        .principal(json!({"name": "tim", "role": "admin", "account": "acme", "expires_at": soon}));
    denied(
        &short,
        "tim",
        "POST",
        "/principals",
        json!({"name": "q", "role": "viewer",
        "account": "acme"}),
    );
    let wild = Api { addr: gateway.admin, token: "ft-nobody".into() };
    wild.call("GET", "/keys", &Value::Null).expect_error(401, "unauthorized");
}

/// The number of requests of each key that a report has, by key and account.
fn sums(report: &Value) -> Vec<(String, u64)> {
    let rows = report["data"].as_array().expect("rows").iter();
    rows.map(|row| (text(row, "account"), row["requests"].as_u64().expect("a count"))).collect()
}

#[test]
fn case_49_two_accounts_with_the_same_names_never_see_each_other() {
    let (_sim, gateway) = start();
    let owner = Api::owner(&gateway);
    let mut tenants = Vec::new();
    for (account, calls) in [("acme", 1), ("rival", 2)] {
        owner.made("accounts", json!({"name": account}));
        let project = format!("{account}-web");
        owner.made("projects", json!({"name": project, "account": account}));
        let body = json!({"name": "chat", "project": project, "limits": {"rpm": 10}});
        let secret = text(&owner.made("keys", body), "secret");
        let name = format!("{account}-admin");
        let admin = owner.principal(json!({"name": name, "role": "admin", "account": account}));
        for _ in 0..calls {
            assert_eq!(ask(gateway.addr, &secret).status, 200);
        }
        tenants.push((account, calls, secret, admin));
    }
    eventually("all is booked", || {
        let report = owner.get("/usage?group_by=account");
        sums(&report).iter().map(|(_, count)| count).sum::<u64>() == 3
    });
    for (account, calls, secret, admin) in &tenants {
        let own = vec![((*account).to_owned(), *calls)];
        // Each finds its own by a name that both have.
        for path in ["/usage?group_by=account", "/usage?group_by=account&key=chat"] {
            assert_eq!(sums(&admin.get(path)), own, "{account} {path}");
        }
        let records = admin.get("/requests?key=chat");
        let records = records["data"].as_array().expect("records").clone();
        assert_eq!(records.len() as u64, *calls, "{account}");
        assert!(records.iter().all(|record| record["account"] == *account), "{records:?}");
        let used = admin.get("/keys/chat")["usage"]["rpm"]["used"].clone();
        assert_eq!(used, *calls, "{account}: of its own key");

        let bearer = format!("Bearer {secret}");
        let headers = [("authorization", bearer.as_str())];
        let report = request(gateway.addr, "GET", "/v1/usage", &headers, b"").json();
        assert_eq!(report["data"][0]["requests"], *calls, "{report}");
        let key = request(gateway.addr, "GET", "/v1/key", &headers, b"").json();
        assert_eq!(key["usage"]["rpm"]["used"], *calls, "{key}");
        for foreign in ["key=", "account=rival"] {
            let path = format!("/v1/usage?{foreign}");
            let answer = request(gateway.addr, "GET", &path, &headers, b"");
            assert!(answer.status == 400 || answer.json() == report, "{}", answer.text());
        }
        // The other's records do not exist, nor do its objects.
        let (other, ..) = tenants.iter().find(|(name, ..)| name != account).expect("two");
        let record = owner.get(&format!("/requests?account={other}"))["data"][0].clone();
        let path = format!("/requests/{}", text(&record, "id"));
        admin.call("GET", &path, &Value::Null).expect_error(404, "not_found");
        for filter in ["usage?account", "requests?account", "usage?project", "requests?project"] {
            let hidden = if filter.ends_with("account") { *other } else { &format!("{other}-web") };
            let told = admin.call("GET", &format!("/{filter}={hidden}"), &Value::Null);
            let none = admin.call("GET", &format!("/{filter}=nobody"), &Value::Null);
            told.expect_error(404, "not_found");
            assert_eq!(told.text(), none.text(), "{filter}: not to be told from nobody's");
        }
    }
}

#[test]
fn a_repeated_post_is_done_once() {
    let (_sim, gateway) = start();
    let owner = Api::owner(&gateway);
    let send = |api: &Api, path: &str, key: &str, body: &str| {
        api.send("POST", path, &[("idempotency-key", key)], body)
    };
    let first = send(&owner, "/keys", "one", "{\"name\": \"chat\", \"tags\": [\"a\"]}");
    assert_eq!(first.status, 201, "{}", first.text());
    let secret = text(&first.json(), "secret");
    let head = owner.head();
    // The same again, written otherwise.
    let again = send(&owner, "/keys", "one", "{\"tags\":[\"a\"],\"name\":\"chat\"}");
    assert_eq!((again.status, &again.json()["replayed"]), (201, &json!(true)));
    assert_eq!(again.json()["id"], first.json()["id"]);
    assert!(again.json()["secret"].is_null() && !again.text().contains(&secret));
    // Another body, another path, another verb.
    for (path, body) in [
        ("/keys", "{\"name\": \"other\"}"),
        ("/keys/chat/block", "{\"name\": \"chat\", \"tags\": [\"a\"]}"),
        ("/projects", "{\"name\": \"chat\", \"tags\": [\"a\"]}"),
    ] {
        send(&owner, path, "one", body).expect_error(409, "idempotency_conflict");
    }
    assert_eq!(owner.head(), head, "nothing was done");
    // Somebody else's key is another one.
    let other = owner.principal(json!({"name": "olga", "role": "owner"}));
    assert_eq!(send(&other, "/projects", "one", "{\"name\": \"p\"}").status, 201);
    // A rotation that is sent again is no second rotation.
    let rotated = send(&owner, "/keys/chat/rotate", "two", "").json();
    let new = text(&rotated, "secret");
    let again = send(&owner, "/keys/chat/rotate", "two", "").json();
    assert!(again["secret"].is_null() && again["replayed"] == true, "{again}");
    for good in [&secret, &new] {
        assert_eq!(ask(gateway.addr, good).status, 200);
    }
    for bad in ["", " ", &"k".repeat(256)] {
        let answer = send(&owner, "/keys", bad, "{\"name\": \"x\"}");
        answer.expect_error(400, "invalid_idempotency_key");
    }
}

#[test]
fn lists_go_on_by_cursor_over_more_than_a_thousand_keys() {
    let (_sim, gateway) = start();
    let owner = Api::owner(&gateway);
    let mut raw = Raw::connect(gateway.admin);
    let bearer = format!("Bearer {ADMIN_TOKEN}");
    let headers = [("authorization", bearer.as_str())];
    const KEYS: usize = 1100;
    for at in 0..KEYS {
        let body = json!({"name": format!("key-{at}")}).to_string();
        raw.send(encode("POST", "/admin/v1/keys", &headers, body));
        assert_eq!(raw.answer().status, 201);
    }
    for limit in [1000, 333] {
        let mut rows = Vec::new();
        let mut cursor = String::new();
        loop {
            let page = owner.get(&format!("/keys?limit={limit}{cursor}"));
            let page_rows = page["data"].as_array().expect("rows");
            assert!(page_rows.len() <= limit);
            rows.extend(page_rows.iter().cloned());
            let Some(next) = page["next_cursor"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        // Each once, newest first, and the file's at the end.
        assert_eq!(rows.pop().map(|row| text(&row, "name")).as_deref(), Some("caller"));
        let times: Vec<String> = rows.iter().map(|row| text(row, "created_at")).collect();
        assert!(times.is_sorted_by(|one, next| one >= next), "by {limit}");
        let mut names: Vec<String> = rows.iter().map(|row| text(row, "name")).collect();
        names.sort();
        names.dedup();
        assert_eq!((names.len(), rows.len()), (KEYS, KEYS), "by {limit}");
    }
    // A whole project of them is blocked at once.
    let blocked = owner.post("/projects/default/block");
    assert_eq!(blocked["keys"], json!({"changed": KEYS, "managed_by_file": 1}));
    assert!(
        owner.get("/keys?status=active&limit=1000")["data"].as_array().expect("rows").len() <= 1
    );
    assert_eq!(owner.post("/projects/default/unblock")["keys"]["changed"], KEYS);
}

#[test]
fn what_the_file_defines_is_read_only() {
    let (_sim, gateway) = start();
    let owner = Api::owner(&gateway);
    for one in ["/keys/caller", "/projects/default", "/accounts/default"] {
        assert_eq!(owner.get(one)["managed_by"], "file");
        for (method, path, body) in [
            ("PATCH", one.to_owned(), json!({"limits": {"rpm": 1}})),
            ("DELETE", one.to_owned(), Value::Null),
            ("POST", format!("{one}/restore"), json!({})),
            ("POST", format!("{one}/purge"), json!({})),
        ] {
            owner.call(method, &path, &body).expect_error(409, "managed_by_file");
        }
    }
    for verb in ["rotate", "block", "unblock"] {
        let path = format!("/keys/caller/{verb}");
        owner.call("POST", &path, &json!({})).expect_error(409, "managed_by_file");
    }
    for (plural, body) in [
        ("keys", json!({"name": "caller"})),
        ("accounts", json!({"name": "default"})),
        ("projects", json!({"name": "default"})),
    ] {
        let answer = owner.call("POST", &format!("/{plural}"), &body);
        answer.expect_error(409, "name_taken");
    }
    let taken = owner.call("POST", "/keys", &json!({"name": "k", "secret": KEY}));
    taken.expect_error(409, "secret_taken");
    assert_eq!(ask(gateway.addr, KEY).status, 200);
    assert_eq!(owner.head(), 0, "nothing was done");
}

#[test]
fn a_patch_is_merged_and_null_takes_away() {
    let (_sim, gateway) = start();
    let owner = Api::owner(&gateway);
    let limits = json!({"rpm": 5, "tpm": 1000, "models": {"m": {"rpm": 1}, "n": {"rpm": 2}}});
    let body = json!({"name": "chat", "limits": limits, "tags": ["a", "b"],
        "metadata": {"a": "1", "b": "2"}, "expires_at": "2999-01-01T00:00:00Z"});
    owner.made("keys", body);
    let patch = json!({"limits": {"rpm": null, "tpd": 9, "models": {"m": null}}, "tags": ["c"],
        "metadata": {"a": null, "c": "3"}, "expires_at": null});
    let key = owner.good("PATCH", "/keys/chat", patch);
    assert_eq!(key["limits"], json!({"tpm": 1000, "tpd": 9, "models": {"n": {"rpm": 2}}}));
    assert_eq!((&key["tags"], &key["expires_at"]), (&json!(["c"]), &Value::Null));
    assert_eq!(key["metadata"], json!({"b": "2", "c": "3"}));
    let none = owner.good("PATCH", "/keys/chat", json!({"limits": null, "tags": null}));
    assert_eq!((&none["limits"], &none["tags"]), (&json!({}), &json!([])));
    owner.bad("PATCH", "/keys/chat", &json!({"name": null}), 422, "name");
    // The same again is no act.
    let head = owner.head();
    owner.good("PATCH", "/keys/chat", json!({"limits": null}));
    assert_eq!(owner.head(), head);
}
