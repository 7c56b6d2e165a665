//! Prices and rates.

use super::*;
use Resource::{Prices, Rates};

#[test]
fn prices_are_made_changed_and_gone_and_the_book_is_told() {
    let file = FileObjects { providers: vec!["openai".to_owned()], ..default_file() };
    let office = Office::with(file, objects::open(None).expect("a store"));
    let body = json!({"provider": "openia", "model": "gpt-4o", "input": "2.5"});
    let made = office.create(Prices, body);
    assert!(made["warnings"][0].as_str().is_some_and(|it| it.contains("openia")), "{made}");
    office.ok(Prices, Verb::Delete, text(&made, "id"), Value::Null);
    office.changed.lock().expect("no panic").clear();
    let body = json!({"provider": "openai", "model": "gpt-4o", "input": "2.5", "output": "10"});
    let made = office.create(Prices, body.clone());
    let id = text(&made, "id");
    assert_eq!(made["warnings"], Value::Null, "of a provider that there is");
    assert_eq!((text(&made, "name"), text(&made, "input")), ("openai/gpt-4o", "2.5"));
    assert_eq!(*office.changed.lock().expect("no panic"), [Changed::Prices]);
    let input = |office: &Office| -> Vec<Option<String>> {
        office.directory.prices().iter().map(|entry| entry.base.get("input")).collect()
    };
    assert_eq!(input(&office), [Some("2.5".to_owned())]);
    assert_eq!(office.refused(Prices, Verb::Create, "", body).code, "name_taken");

    office.ok(
        Prices,
        Verb::Update,
        id,
        json!({"input": "3", "valid_from": "2027-02-01T00:00:00Z"}),
    );
    assert_eq!(input(&office.reopened(default_file())), [Some("3".to_owned())]);
    assert_eq!(office.directory.prices()[0].valid_from_unix_ms, 1_801_440_000_000);
    let refusal = office.refused(Prices, Verb::Update, id, json!({"input": 3}));
    assert_eq!((refusal.status, refusal.field.as_deref()), (400, Some("input")));
    assert!(refusal.message.contains("\"3\""), "{}", refusal.message);
    for wrong in [json!({"inputs": "3"}), json!({"inputs": null})] {
        let refusal = office.refused(Prices, Verb::Update, id, wrong);
        assert_eq!((refusal.status, refusal.field.as_deref()), (400, Some("inputs")));
    }

    office.ok(Prices, Verb::Delete, id, Value::Null);
    assert!(input(&office).is_empty() && input(&office.reopened(default_file())).is_empty());
    office.ok(Prices, Verb::Restore, id, Value::Null);
    assert_eq!(input(&office), [Some("3".to_owned())]);
    let list = office.ok(Prices, Verb::List, "", Value::Null);
    assert_eq!(names(&list), ["openai/gpt-4o from 2027-02-01T00:00:00.000Z"]);
}

/// The undated one would be changed where the one in force was meant.
#[test]
fn a_price_of_several_dates_is_named_by_its_id() {
    let office = Office::new();
    let body =
        |from: Value| json!({"provider": "p", "model": "m", "input": "1", "valid_from": from});
    let old = office.create(Prices, body(Value::Null));
    let change = json!({"input": "2"});
    office.ok(Prices, Verb::Update, "p/m", change.clone());
    let new = office.create(Prices, body("2027-02-01T00:00:00Z".into()));
    office.create(Prices, json!({"provider": "p", "model": "m-mini", "input": "1"}));
    for verb in [Verb::Update, Verb::Delete, Verb::Show] {
        let refusal = office.refused(Prices, verb, "p/m", change.clone());
        assert_eq!((refusal.status, refusal.code), (409, "ambiguous"), "{verb:?}");
        for part in [text(&old, "id"), text(&new, "id"), "from 2027-02-01", "use the id"] {
            assert!(refusal.message.contains(part), "{}", refusal.message);
        }
    }
    office.ok(Prices, Verb::Update, text(&new, "name"), change.clone());
    office.ok(Prices, Verb::Delete, text(&old, "id"), Value::Null);
    let shown = office.show(Prices, "p/m");
    assert_eq!(text(&shown, "id"), text(&new, "id"), "now only one has the name");
}

#[test]
fn rates_are_made_changed_and_gone_and_the_table_is_told() {
    let office = Office::new();
    let made = office.create(Rates, json!({"from": "USD", "to": "EUR", "rate": "0.92"}));
    assert_eq!(text(&made, "name"), "USD/EUR");
    assert_eq!(*office.changed.lock().expect("no panic"), [Changed::Rates]);
    let rates = |office: &Office| -> Vec<u128> {
        office.directory.rates().iter().map(|row| row.rate_pico).collect()
    };
    assert_eq!(rates(&office), [920_000_000_000]);
    office.ok(Rates, Verb::Update, text(&made, "id"), json!({"rate": "0.93"}));
    assert_eq!(rates(&office), [930_000_000_000]);
    assert_eq!(rates(&office.reopened(default_file())), [930_000_000_000]);
    let body = json!({"from": "USD", "to": "EUR", "rate": "0.9"});
    assert_eq!(office.refused(Rates, Verb::Create, "", body).code, "name_taken");
    office.ok(Rates, Verb::Delete, "USD/EUR", Value::Null);
    assert!(rates(&office).is_empty());
}

#[test]
fn the_file_s_prices_are_shown_count_and_stay() {
    let body = json!({"provider": "p", "model": "m", "input": "1"});
    let entry = crate::price::Entry::from_json(&body).expect("a price");
    let file = FileObjects { prices: vec![entry], ..default_file() };
    let office = Office::with(file, objects::open(None).expect("a store"));
    assert_eq!(office.directory.prices().len(), 1);
    let refusal = office.refused(Prices, Verb::Create, "", body);
    assert_eq!((refusal.status, refusal.code), (409, "managed_by_file"));
    let refusal = office.refused(Prices, Verb::Delete, "p/m", Value::Null);
    assert_eq!(refusal.code, "managed_by_file");
    assert_eq!(office.show(Prices, "p/m")["managed_by"], "file");
}
