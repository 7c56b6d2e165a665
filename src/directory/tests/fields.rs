//! Every field of every kind with everything that it must not be.

use super::*;
use Resource::{Accounts, Keys, Prices, Principals, Projects, Rates, Users};

/// A good body for each kind, to which one bad field is added.
fn base(resource: Resource) -> Value {
    match resource {
        Keys | Accounts | Projects | Users => json!({"name": "x"}),
        Principals => json!({"name": "x", "role": "viewer"}),
        Prices => json!({"provider": "p", "model": "m", "input": "1"}),
        Rates => json!({"from": "USD", "to": "EUR", "rate": "1"}),
    }
}

fn refused(office: &Office, resource: Resource, field: &str, value: Value) -> Refusal {
    let mut body = base(resource);
    body[field] = value;
    let count = office.log().len();
    let refusal = office.refused(resource, Verb::Create, "", body);
    assert_eq!(office.log().len(), count, "nothing was written");
    refusal
}

#[test]
fn wrong_types_are_400_and_wrong_values_422_with_the_field() {
    let office = Office::new();
    let long = "x".repeat(300);
    let many: Vec<_> = (0..300).map(|n| n.to_string()).collect();
    let big = json!({"a": "x".repeat(5000)});
    #[rustfmt::skip]
    let cases = [
        (Keys, "name", json!(7), 400), (Keys, "name", json!(""), 422),
        (Keys, "name", json!("a\r\nb"), 422), (Keys, "name", json!("a\u{0}"), 422),
        (Keys, "name", json!(" a"), 422), (Keys, "name", json!(long), 422),
        (Keys, "name", Value::Null, 422),
        (Keys, "project", json!(["p"]), 400), (Keys, "project", json!("none"), 422),
        (Keys, "user", json!({}), 400), (Keys, "user", json!("none"), 422),
        (Keys, "models", json!("gpt-*"), 400), (Keys, "models", json!(many), 422),
        (Keys, "deny_models", json!(5), 400),
        (Keys, "aliases", json!([]), 400), (Keys, "endpoints", json!("chat"), 400),
        (Keys, "cidrs", json!("10.0.0.0/8"), 400), (Keys, "expires_at", json!(1_900_000_000), 400),
        (Keys, "expires_at", json!("tomorrow"), 422), (Keys, "expires_at", json!("2030-01-31"), 422),
        (Keys, "expires_at", json!("1960-01-01T00:00:00Z"), 422),
        (Keys, "expires_at", json!("2027-01-15T08:00:00Z"), 422),
        (Keys, "tags", json!("a"), 400), (Keys, "tags", json!(many), 422),
        (Keys, "metadata", json!("a"), 400), (Keys, "metadata", big.clone(), 422),
        (Keys, "limits", json!("600"), 400),
        (Accounts, "currency", json!(1), 400), (Accounts, "currency", json!("usd"), 422),
        (Accounts, "currency", json!("DOLLAR"), 422),
        (Accounts, "billing", json!(true), 400), (Accounts, "billing", json!("free"), 422),
        (Accounts, "balance", json!(100), 400), (Accounts, "balance", json!("100"), 422),
        (Accounts, "timezone", json!("Mars/Olympus"), 422), (Accounts, "timezone", json!(1), 400),
        (Accounts, "price_group", json!("none"), 422), (Accounts, "markup", json!(1.2), 400),
        (Accounts, "markup", json!("1.23456"), 422), (Accounts, "markup", json!("-1"), 422),
        (Accounts, "markup", json!("1001"), 422), (Accounts, "queue", json!("2s"), 400),
        (Accounts, "metadata", big, 422),
        (Projects, "account", json!(1), 400), (Projects, "account", json!("none"), 422),
        (Projects, "models", json!({}), 400), (Projects, "limits", json!([]), 400),
        (Users, "email", json!("ada"), 422), (Users, "email", json!("a b@example.com"), 422),
        (Users, "email", json!(5), 400),
        (Principals, "role", json!(1), 400), (Principals, "expires_at", json!("x"), 422),
        (Rates, "from", json!("EUR"), 422), (Rates, "from", json!(1), 400),
        (Rates, "rate", json!(1.08), 400), (Rates, "rate", json!("0"), 422),
        (Rates, "rate", json!("-1"), 422), (Rates, "rate", json!("1e3"), 422),
        (Rates, "valid_from", json!("soon"), 422),
    ];
    for (resource, field, value, status) in cases {
        let refusal = refused(&office, resource, field, value.clone());
        let at = format!("{resource:?} {field} {value}: {refusal:?}");
        assert_eq!(refusal.status, status, "{at}");
        let named = refusal.field.as_deref().unwrap_or("");
        // The currencies of a rate are compared with each other.
        let is_pair = resource == Rates && named == "to";
        assert!(named.starts_with(field) || is_pair || named == "balance", "{at}");
        assert!(!refusal.message.chars().any(char::is_control), "{at}");
    }
}

#[test]
fn faults_inside_of_fields_have_their_path() {
    let office = Office::new();
    for (resource, field, value, status, path) in [
        (Keys, "models", json!(["a", 5]), 400, "models[1]"),
        (Keys, "models", json!(["*a*b*c*d*"]), 422, "models[0]"),
        (Keys, "aliases", json!({"a": 5}), 400, "aliases.a"),
        (Keys, "aliases", json!({"a": ""}), 422, "aliases.a"),
        (Keys, "endpoints", json!(["chat", "chats"]), 422, "endpoints[1]"),
        (Keys, "cidrs", json!(["10.0.0.1/8"]), 422, "cidrs[0]"),
        (Keys, "tags", json!(["a,b"]), 422, "tags[0]"),
        (Keys, "tags", json!(["a\nb"]), 422, "tags[0]"),
        (Keys, "limits", json!({"budget": [{"amount": 5}]}), 422, "limits.budget[0].per"),
        (Accounts, "queue", json!({"wait": "2s"}), 422, "queue.depth"),
        (Accounts, "queue", json!({"wait": 2, "depth": 1}), 400, "queue.wait"),
        (Accounts, "queue", json!({"wait": "2 s", "depth": 1}), 422, "queue.wait"),
        (Accounts, "queue", json!({"wait": "99d", "depth": 1}), 422, "queue.wait"),
        (Accounts, "queue", json!({"wait": "2s", "depth": -1}), 422, "queue.depth"),
    ] {
        let refusal = refused(&office, resource, field, value.clone());
        assert_eq!(refusal.status, status, "{value}: {refusal:?}");
        assert_eq!(refusal.field.as_deref(), Some(path), "{value}");
    }
}

#[test]
fn unknown_fields_are_refused_with_the_nearest_name() {
    let office = Office::new();
    for (resource, field, cure) in [
        (Keys, "model", "`models`"),
        (Keys, "expires", "`expires_at`"),
        (Accounts, "timezon", "`timezone`"),
        (Projects, "limit", "`limits`"),
        (Users, "mail", "`email`"),
        (Principals, "rol", "`role`"),
        (Rates, "rates", "`rate`"),
        (Keys, "status", "unblock"),
        (Accounts, "id", "here belong"),
    ] {
        let refusal = refused(&office, resource, field, json!("x"));
        assert_eq!((refusal.status, refusal.code), (400, "unknown_field"), "{field}");
        assert!(refusal.message.contains(cure), "{field}: {}", refusal.message);
    }
    office.create(Keys, json!({"name": "k"}));
    let refusal = office.refused(Keys, Verb::Update, "k", json!({"limit": null}));
    assert_eq!((refusal.status, refusal.code), (400, "unknown_field"), "null does not hide it");
    let refusal = office.refused(Keys, Verb::Update, "k", json!({"secret": "x"}));
    assert_eq!(refusal.code, "unknown_field");
}

#[test]
fn verbs_take_their_options_and_no_other() {
    let office = Office::new();
    office.create(Keys, json!({"name": "k"}));
    for (verb, body, status, field) in [
        (Verb::Rotate, json!({"grace": 24}), 400, "grace"),
        (Verb::Rotate, json!({"grace": "24"}), 422, "grace"),
        (Verb::Rotate, json!({"grace": "91d"}), 422, "grace"),
        (Verb::Rotate, json!({"gracee": "1h"}), 400, "gracee"),
        (Verb::Block, json!({"now": "yes"}), 400, "now"),
        (Verb::Block, json!({"later": true}), 400, "later"),
        (Verb::Unblock, json!({"now": true}), 400, "now"),
    ] {
        let refusal = office.refused(Keys, verb, "k", body.clone());
        assert_eq!((refusal.status, refusal.field.as_deref()), (status, Some(field)), "{body}");
    }
    for body in [json!([]), json!("x"), json!(5)] {
        assert_eq!(office.refused(Keys, Verb::Create, "", body).status, 400);
    }
    assert_eq!(office.refused(Keys, Verb::Show, "", Value::Null).status, 400);
    assert_eq!(office.refused(Projects, Verb::Rotate, "default", Value::Null).status, 404);
}
