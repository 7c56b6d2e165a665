//! `Idempotency-Key`.

use super::*;
use Resource::{Keys, Principals};

fn keyed(key: &str, call: Call) -> Call {
    Call { idempotency_key: Some(key.to_owned()), ..call }
}

#[test]
fn a_repeated_create_makes_one_key_and_does_not_show_its_secret_again() {
    let office = Office::new();
    let create = |key: &str, body: Value| {
        let call = keyed(key, call(Keys, Verb::Create, "", body));
        office.perform(&owner(), &call)
    };
    let first = create("one", json!({"name": "k", "tags": ["a"]})).expect("made");
    let secret = text(&first.body, "secret").to_owned();
    let count = office.log().len();
    let again = create("one", json!({"tags": ["a"], "name": "k"})).expect("the same answer");
    assert_eq!(again.status, 201);
    assert_eq!(again.body["id"], first.body["id"]);
    assert_eq!((&again.body["secret"], &again.body["replayed"]), (&Value::Null, &json!(true)));
    assert_eq!(office.log().len(), count);
    assert_eq!(office.answer(&secret), 200);

    let other = create("one", json!({"name": "l", "tags": ["a"]})).expect_err("another body");
    assert_eq!((other.status, other.code), (409, "idempotency_conflict"));
    let refusal = create("two", json!({"name": "k"})).expect_err("done anew");
    assert_eq!(refusal.code, "name_taken");
    create("two", json!({"name": "m"})).expect("what was refused is not remembered");
}

#[test]
fn verbs_are_done_once() {
    let office = Office::new();
    let made = office.create(Keys, json!({"name": "k"}));
    let id = text(&made, "id");
    let rotate = keyed("r", call(Keys, Verb::Rotate, id, Value::Null));
    let first = office.perform(&owner(), &rotate).expect("rotated").body;
    let second = office.perform(&owner(), &rotate).expect("the same").body;
    assert_eq!((&second["secret"], &second["prefix"]), (&Value::Null, &first["prefix"]));
    assert_eq!(office.answer(text(&made, "secret")), 200, "not rotated twice");
    let block = keyed("r", call(Keys, Verb::Block, id, Value::Null));
    assert_eq!(office.perform(&owner(), &block).expect_err("another act").status, 409);
    let block = keyed("b", call(Keys, Verb::Block, id, Value::Null));
    let first = office.perform(&owner(), &block).expect("blocked");
    office.ok(Keys, Verb::Unblock, id, Value::Null);
    assert_eq!(office.perform(&owner(), &block).expect("the same"), first);
    assert_eq!(text(&office.show(Keys, id), "status"), "active", "not blocked again");
}

#[test]
fn what_is_remembered_is_the_caller_s_own_and_for_a_day() {
    let office = Office::new();
    let ops = office.principal(json!({"name": "ops", "role": "owner"}));
    let create = |name: &str| keyed("one", call(Keys, Verb::Create, "", json!({"name": name})));
    office.perform(&owner(), &create("k")).expect("made");
    office.perform(&ops, &create("l")).expect("somebody else's key is another");
    office.wait(24 * HOUR_MS - 1);
    assert_eq!(office.perform(&owner(), &create("m")).expect_err("known").status, 409);
    office.wait(1);
    office.perform(&owner(), &create("m")).expect("forgotten");
}

#[test]
fn a_token_is_not_shown_again_either_and_bad_keys_are_refused() {
    let office = Office::new();
    let body = json!({"name": "ops", "role": "viewer"});
    let create = keyed("t", call(Principals, Verb::Create, "", body));
    let first = office.perform(&owner(), &create).expect("made").body;
    assert!(first["token"].is_string());
    let again = office.perform(&owner(), &create).expect("the same").body;
    assert_eq!((&again["token"], &again["replayed"]), (&Value::Null, &json!(true)));
    for key in ["", "a\nb", &"x".repeat(256)] {
        let call = keyed(key, call(Keys, Verb::Create, "", json!({"name": "k"})));
        let refusal = office.perform(&owner(), &call).expect_err("no key");
        assert_eq!(refusal.status, 400);
        assert_eq!(refusal.field.as_deref(), Some("Idempotency-Key"));
    }
}
