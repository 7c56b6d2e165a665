//! What is written about what was done.

use super::*;
use Resource::{Accounts, Keys, Principals, Projects};

#[test]
fn every_act_has_an_entry_with_before_and_after_and_reads_have_none() {
    let office = Office::new();
    let caller = Caller { from: "203.0.113.9".to_owned(), ..owner() };
    let act = |verb: Verb, id: &str, body: Value| {
        office.wait(1000);
        office.perform(&caller, &call(Keys, verb, id, body)).expect("done").body
    };
    let made = act(Verb::Create, "", json!({"name": "k", "limits": {"rpm": 5}}));
    let id = text(&made, "id");
    act(Verb::Update, id, json!({"limits": {"rpm": 7}}));
    act(Verb::Rotate, id, Value::Null);
    act(Verb::Block, id, json!({"now": true}));
    act(Verb::Unblock, id, Value::Null);
    act(Verb::Show, id, Value::Null);
    act(Verb::List, "", Value::Null);
    act(Verb::Delete, id, Value::Null);
    act(Verb::Restore, id, Value::Null);
    act(Verb::Delete, id, Value::Null);
    act(Verb::Purge, id, Value::Null);

    let log = office.log();
    let actions: Vec<&str> = log.iter().map(|entry| entry.action.as_str()).collect();
    let want =
        ["create", "update", "rotate", "block", "unblock", "delete", "restore", "delete", "purge"];
    assert_eq!(actions, want.map(|verb| format!("key.{verb}")));
    for entry in &log {
        assert_eq!((entry.actor.as_str(), entry.from.as_str()), ("owner", "203.0.113.9"));
        assert_eq!((entry.kind.as_str(), entry.id.as_str(), entry.name.as_str()), ("key", id, "k"));
    }
    let parse = |text: &Option<String>| -> Value {
        text.as_deref().map_or(Value::Null, |text| serde_json::from_str(text).expect("JSON"))
    };
    assert_eq!(log[0].time_unix_ms, START_UNIX_MS + 1000);
    assert_eq!(log[0].before, None);
    assert_eq!(parse(&log[0].after)["limits"], json!({"rpm": 5}));
    assert_eq!(parse(&log[1].before)["limits"], json!({"rpm": 5}));
    assert_eq!(parse(&log[1].after)["limits"], json!({"rpm": 7}));
    assert_ne!(parse(&log[2].before)["prefix"], parse(&log[2].after)["prefix"]);
    assert_eq!(parse(&log[3].after)["now"], json!(true));
    assert_eq!(parse(&log[3].before)["status"], "active");
    assert_eq!(parse(&log[3].after)["status"], "blocked");
    assert_eq!(parse(&log[8].before)["status"], "deleted");
    assert_eq!(log[8].after, None);
    assert!(office.objects.verify(None).expect("a verdict").ok);
}

#[test]
fn no_secret_token_or_digest_is_in_the_log() {
    let office = Office::new();
    let hex = |secret: &str| -> String {
        crate::auth::digest(secret.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
    };
    let mut secrets = vec!["imported-secret-text".to_owned()];
    let keep = |value: &Value, field: &str| text(value, field).to_owned();
    secrets.push(keep(&office.create(Keys, json!({"name": "a"})), "secret"));
    secrets.push(keep(&office.ok(Keys, Verb::Rotate, "a", Value::Null), "secret"));
    office.create(Keys, json!({"name": "b", "secret": secrets[0]}));
    office.create(Keys, json!({"name": "c", "sha256": hex("of-another-one-there")}));
    secrets.push("of-another-one-there".to_owned());
    let body = json!({"name": "ops", "role": "viewer"});
    secrets.push(keep(&office.create(Principals, body), "token"));
    secrets.push(keep(&office.ok(Principals, Verb::Rotate, "ops", Value::Null), "token"));
    let manager = Caller { role: Role::Manager, project: Some("default".into()), ..owner() };
    let given = json!({"name": "d", "secret": "denied-secret-text"});
    office.perform(&manager, &call(Keys, Verb::Create, "", given)).expect_err("denied");
    assert_eq!(office.last_entry().action, "denied");
    secrets.push("denied-secret-text".to_owned());

    let log = format!("{:?}", office.log()).to_lowercase();
    for secret in secrets {
        assert!(!log.contains(&secret.to_lowercase()), "{secret}");
        assert!(!log.contains(&hex(&secret)), "the digest of {secret}");
    }
}

#[test]
fn an_act_on_many_has_an_entry_for_each_and_one_for_all() {
    let office = Office::new();
    office.create(Accounts, json!({"name": "acme"}));
    office.create(Projects, json!({"name": "web", "account": "acme"}));
    for name in ["a", "b"] {
        office.create(Keys, json!({"name": name, "project": "web"}));
    }
    let before = office.log().len();
    office.ok(Projects, Verb::Block, "web", Value::Null);
    let log = office.log();
    let mut actions: Vec<_> =
        log[before..].iter().map(|it| (it.action.as_str(), &*it.name)).collect();
    actions.sort();
    assert_eq!(actions, [("key.block", "a"), ("key.block", "b"), ("project.block", "web")]);
    let all = log.iter().find(|entry| entry.action == "project.block").expect("an entry");
    assert!(all.after.as_deref().is_some_and(|after| after.contains(r#""changed":2"#)));
}
