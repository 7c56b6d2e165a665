//! Accounts, projects and users: their fields, and acts on all that belongs to them.

use super::*;
use crate::ident::AccountId;
use Resource::{Accounts, Keys, Principals, Projects, Users};

/// An account `acme` with a project `web`, a user `ada`, and keys `a`, `b` (ada's) and `c`.
fn acme() -> (Office, [String; 3]) {
    let office = Office::new();
    office.create(Accounts, json!({"name": "acme"}));
    office.create(Projects, json!({"name": "web", "account": "acme"}));
    office.create(Users, json!({"name": "ada", "account": "acme"}));
    let secrets = ["a", "b", "c"].map(|name| {
        let mut body = json!({"name": name, "project": "web"});
        if name == "b" {
            body["user"] = "ada".into();
        }
        text(&office.create(Keys, body), "secret").to_owned()
    });
    (office, secrets)
}

fn answers(office: &Office, secrets: &[String; 3]) -> [u16; 3] {
    secrets.each_ref().map(|secret| office.answer(secret))
}

#[test]
fn an_account_comes_back_as_it_was_made_and_its_terms_hold() {
    let office = Office::new();
    let fields = json!({
        "name": "acme", "currency": "EUR", "billing": "prepaid", "balance": "12.5",
        "timezone": "Europe/Berlin", "price_group": "resale", "limits": {"rpm": 5},
        "queue": {"wait": "2s", "depth": 100}, "metadata": {"crm": "4711"},
    });
    let made = office.create(Accounts, fields.clone());
    let id = text(&made, "id");
    assert!(id.starts_with("acc_"));
    let shown = office.show(Accounts, "acme");
    for (field, value) in fields.as_object().expect("an object") {
        assert_eq!(&shown[field], value, "{field}");
    }
    let terms = office.accounts.cell(&AccountId::from(id)).terms();
    assert_eq!(terms.currency.as_str(), "EUR");
    assert_eq!((terms.markup_bps, terms.balance_pico), (12_000, Some(12_500_000_000_000)));
    assert_eq!(terms.time_zone.iana_name(), Some("Europe/Berlin"));
    let queue = terms.queue.as_ref().expect("a queue");
    assert_eq!((queue.wait, queue.depth), (Duration::from_secs(2), 100));

    office.ok(Accounts, Verb::Update, "acme", json!({"markup": "1.25"}));
    let after = office.reopened(default_file());
    let terms = after.accounts.cell(&AccountId::from(id)).terms();
    assert_eq!((terms.markup_bps, terms.currency.as_str()), (12_500, "EUR"));
    assert_eq!(office.show(Accounts, "acme")["markup"], "1.25");
    for wrong in [json!({"price_group": "none"}), json!({"markup": null, "price_group": "none"})] {
        let refusal = office.refused(Accounts, Verb::Update, "acme", wrong);
        assert_eq!((refusal.status, refusal.field.as_deref()), (422, Some("price_group")));
    }
}

#[test]
fn the_currency_of_an_account_is_fixed_by_the_first_booking() {
    let office = Office::new();
    let made = office.create(Accounts, json!({"name": "acme", "currency": "EUR"}));
    let id = AccountId::from(text(&made, "id"));
    let change = |to: &str| {
        let body = json!({ "currency": to });
        office.perform(&owner(), &call(Accounts, Verb::Update, "acme", body))
    };
    change("USD").expect("nothing was booked");
    assert_eq!(office.accounts.cell(&id).terms().currency.as_str(), "USD");

    let spent = admit::Spent { at_unix_ms: START_UNIX_MS, cost_pico: 7, ..Default::default() };
    *office.history.answer.lock().expect("no panic") = Some(vec![spent]);
    let refusal = change("EUR").expect_err("booked");
    assert_eq!((refusal.status, refusal.field.as_deref()), (422, Some("currency")));
    *office.history.answer.lock().expect("no panic") = None;
    assert_eq!(change("EUR").expect_err("nobody knows").code, "store_unavailable");

    // In use, and the record is still under way.
    *office.history.answer.lock().expect("no panic") = Some(Vec::new());
    office.create(Resource::Projects, json!({"name": "web", "account": "acme"}));
    let key = office.create(Resource::Keys, json!({"name": "k", "project": "web"}));
    change("EUR").expect("a key that nobody used");
    let used = [(text(&key, "id").into(), START_UNIX_MS)];
    office.directory.note_used(&used).expect("noted");
    assert_eq!(change("USD").expect_err("used").field.as_deref(), Some("currency"));
}

#[test]
fn a_project_narrows_the_models_of_its_keys_at_once() {
    let (office, secrets) = acme();
    let allows = |model: &str| office.entry(&secrets[0]).expect("known").grant.allows_model(model);
    assert!(allows("gpt-4o") && allows("claude"));
    office.ok(Projects, Verb::Update, "web", json!({"models": ["gpt-*"]}));
    assert!(allows("gpt-4o") && !allows("claude"));
    let late = office.create(Keys, json!({"name": "late", "project": "web"}));
    let late = office.entry(text(&late, "secret")).expect("known");
    assert!(!late.grant.allows_model("claude"));
    let after = office.reopened(default_file());
    assert!(!after.entry(&secrets[0]).expect("known").grant.allows_model("claude"));
    office.ok(Projects, Verb::Update, "web", json!({"models": null}));
    assert!(allows("claude"));
}

#[test]
fn an_owner_blocks_all_its_keys_and_unblocks_those_it_blocked() {
    for (resource, name, all) in [
        (Projects, "web", [true; 3]),
        (Accounts, "acme", [true; 3]),
        (Users, "ada", [false, true, false]),
    ] {
        let (office, secrets) = acme();
        let status = |blocked: bool| if blocked { 403 } else { 200 };
        let done = office.ok(resource, Verb::Block, name, Value::Null);
        let count = all.iter().filter(|&&it| it).count();
        assert_eq!(done["keys"]["changed"], count, "{name}");
        assert_eq!(answers(&office, &secrets), all.map(status), "{name}");
        let again = office.ok(resource, Verb::Block, name, Value::Null);
        assert_eq!(again["keys"]["changed"], 0);
        assert_eq!(answers(&office.reopened(default_file()), &secrets), all.map(status));
        office.ok(resource, Verb::Unblock, name, Value::Null);
        assert_eq!(answers(&office, &secrets), [200; 3]);

        office.ok(Keys, Verb::Block, "b", Value::Null);
        office.ok(resource, Verb::Block, name, Value::Null);
        office.ok(resource, Verb::Unblock, name, Value::Null);
        assert_eq!(answers(&office, &secrets), [200, 403, 200], "blocked by itself it stays");
    }
}

#[test]
fn the_keys_of_a_project_of_the_file_can_be_blocked_too() {
    let office = Office::new();
    let made = office.create(Keys, json!({"name": "k"}));
    let mut worker = GrantCache::new();
    let secret = text(&made, "secret").as_bytes();
    let stream = worker.get(&office.keyring, secret, START_UNIX_MS).expect("known");
    let done = office.ok(Projects, Verb::Block, "default", json!({"now": true}));
    assert_eq!(done["keys"], json!({"changed": 1, "managed_by_file": 0}));
    assert!(stream.is_ended());
    assert_eq!(office.answer(text(&made, "secret")), 403);
}

#[test]
fn nothing_that_is_in_use_is_deleted_unless_all_of_it_shall_go() {
    for (resource, name, all) in
        [(Projects, "web", [401; 3]), (Accounts, "acme", [401; 3]), (Users, "ada", [200, 401, 200])]
    {
        let (office, secrets) = acme();
        let boss = json!({"name": "boss", "role": "admin", "account": "acme"});
        let token = text(&office.create(Principals, boss), "token").to_owned();
        let refusal = office.refused(resource, Verb::Delete, name, Value::Null);
        assert_eq!((refusal.status, refusal.code), (409, "in_use"), "{name}");
        assert_eq!(answers(&office, &secrets), [200; 3]);
        let cascade =
            with_query(call(resource, Verb::Delete, name, Value::Null), &[("cascade", "true")]);
        office.perform(&owner(), &cascade).expect("all of it");
        assert_eq!(answers(&office, &secrets), all, "{name}");
        assert_eq!(office.token(&token).is_none(), resource == Accounts);
        assert_eq!(office.refused(resource, Verb::Purge, name, Value::Null).code, "in_use");

        office.ok(resource, Verb::Restore, name, Value::Null);
        assert_eq!(answers(&office, &secrets), [200; 3], "{name} and all that went with it");
        assert_eq!(answers(&office.reopened(default_file()), &secrets), [200; 3]);
        assert!(office.token(&token).is_some());
    }
}

#[test]
fn what_was_deleted_by_itself_does_not_come_back_with_its_project() {
    let (office, secrets) = acme();
    let a = text(&office.show(Keys, "a"), "id").to_owned();
    office.ok(Keys, Verb::Delete, "a", Value::Null);
    let cascade =
        with_query(call(Projects, Verb::Delete, "web", Value::Null), &[("cascade", "true")]);
    office.perform(&owner(), &cascade).expect("deleted");
    assert_eq!(office.refused(Keys, Verb::Restore, &a, Value::Null).code, "owner_deleted");
    let refusal = office.refused(Keys, Verb::Create, "", json!({"name": "x", "project": "web"}));
    assert_eq!(refusal.status, 422, "a deleted project takes no keys");
    office.ok(Projects, Verb::Restore, "web", Value::Null);
    assert_eq!(answers(&office, &secrets), [401, 200, 200]);
    let odd = with_query(call(Projects, Verb::Delete, "web", Value::Null), &[("cascade", "maybe")]);
    assert_eq!(office.perform(&owner(), &odd).expect_err("odd").status, 422);
}

#[test]
fn a_key_that_was_blocked_by_itself_stays_so_whatever_its_project_goes_through() {
    let (office, secrets) = acme();
    office.ok(Keys, Verb::Block, "a", Value::Null);
    office.ok(Projects, Verb::Block, "web", Value::Null);
    let cascade =
        with_query(call(Projects, Verb::Delete, "web", Value::Null), &[("cascade", "true")]);
    office.perform(&owner(), &cascade).expect("deleted");
    office.ok(Projects, Verb::Restore, "web", Value::Null);
    assert_eq!(answers(&office, &secrets), [403; 3]);
    office.ok(Projects, Verb::Unblock, "web", Value::Null);
    assert_eq!(answers(&office, &secrets), [403, 200, 200]);
}

#[test]
fn a_thousand_keys_are_blocked_and_unblocked_together() {
    let office = Office::new();
    office.create(Projects, json!({"name": "web"}));
    let secrets: Vec<String> = (0..1100)
        .map(|n| {
            let body = json!({"name": format!("k{n}"), "project": "web"});
            text(&office.create(Keys, body), "secret").to_owned()
        })
        .collect();
    let done = office.ok(Projects, Verb::Block, "web", Value::Null);
    assert_eq!(done["keys"]["changed"], 1100);
    assert!(secrets.iter().all(|secret| office.answer(secret) == 403));
    office.ok(Projects, Verb::Unblock, "web", Value::Null);
    assert!(secrets.iter().all(|secret| office.answer(secret) == 200));
}

#[test]
fn what_belongs_together_stays_in_one_account() {
    let (office, secrets) = acme();
    office.create(Accounts, json!({"name": "rival"}));
    office.create(Projects, json!({"name": "other", "account": "rival"}));
    office.create(Users, json!({"name": "eve", "account": "rival"}));
    office.create(Projects, json!({"name": "batch", "account": "acme"}));
    for (resource, id, patch, field) in [
        (Keys, "a", json!({"project": "other"}), "project"),
        (Keys, "a", json!({"user": "eve"}), "user"),
        (Keys, "b", json!({"project": "other"}), "user"),
        (Projects, "web", json!({"account": "rival"}), "account"),
        (Users, "ada", json!({"account": "rival"}), "account"),
    ] {
        let refusal = office.refused(resource, Verb::Update, id, patch.clone());
        assert_eq!((refusal.status, refusal.field.as_deref()), (422, Some(field)), "{patch}");
    }
    let moved = office.ok(Keys, Verb::Update, "a", json!({"project": "batch", "user": "ada"}));
    assert_eq!(text(&moved, "project"), "batch");
    let entry = office.entry(&secrets[0]).expect("known");
    assert_eq!(entry.grant.project.as_str(), text(&moved, "project_id"));
}
