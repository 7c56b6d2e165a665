//! The life of a key, from its creation to its purge.

use super::*;
use Resource::{Keys, Principals, Projects, Users};

#[test]
fn a_key_is_made_shown_once_and_good_at_once() {
    let office = Office::new();
    let made = office.perform(
        &owner(),
        &call(Keys, Verb::Create, "", json!({"name": "chat", "models": ["gpt-*"]})),
    );
    let made = made.expect("made");
    assert_eq!(made.status, 201);
    let secret = text(&made.body, "secret");
    assert!(secret.starts_with("sk-ft-") && secret.len() == 49, "{secret}");
    assert_eq!(text(&made.body, "prefix"), &secret[..12]);
    assert!(text(&made.body, "id").starts_with("key_"));
    assert_eq!(text(&made.body, "project"), "default");
    assert_eq!(text(&made.body, "account_id"), "default");

    let entry = office.entry(secret).expect("a worker knows it");
    assert!(entry.grant.allows_model("gpt-4o") && !entry.grant.allows_model("claude"));
    assert_eq!(entry.grant.key_id.as_str(), text(&made.body, "id"));

    let shown = office.show(Keys, "chat");
    assert!(shown.get("secret").is_none());
    assert_eq!(shown["usage"]["rpm"], Value::Null);
    let dump = format!("{shown} {:?}", office.log());
    assert!(!dump.contains(secret), "the secret is kept nowhere");
}

#[test]
fn every_field_of_a_key_comes_back_and_reaches_the_workers() {
    let office = Office::new();
    let user = office.create(Users, json!({"name": "ada", "account": "default"}));
    let fields = json!({
        "name": "all", "project": "default", "user": "ada", "models": ["gpt-*"],
        "deny_models": ["gpt-4"], "aliases": {"mini": "gpt-4o-mini"}, "endpoints": ["chat"],
        "cidrs": ["10.0.0.0/8"], "limits": {"rpm": 5}, "expires_at": "2030-01-31T00:00:00.000Z",
        "tags": ["team-a", "blue"], "metadata": {"ticket": 7},
    });
    let made = office.create(Keys, fields.clone());
    let shown = office.show(Keys, text(&made, "id"));
    for (field, value) in fields.as_object().expect("an object") {
        assert_eq!(&shown[field], value, "{field}");
    }
    assert_eq!(shown["user_id"], user["id"]);
    let grant = &office.entry(text(&made, "secret")).expect("known").grant;
    assert_eq!(grant.user.as_deref(), Some(text(&user, "id")));
    assert!(!grant.allows_model("gpt-4") && grant.allows_model("gpt-4o"));
    assert_eq!(grant.alias_of("mini").map(|alias| alias.as_str()), Some("gpt-4o-mini"));
    assert!(grant.allows_endpoint("chat") && !grant.allows_endpoint("embeddings"));
    assert!(!grant.allows_address("11.0.0.1".parse().expect("an address")));
    assert_eq!(grant.limits.as_ref().expect("limits").all.rpm, Some(5));
    assert_eq!(grant.tags.iter().map(|tag| &**tag).collect::<Vec<_>>(), ["team-a", "blue"]);
    assert_eq!(grant.metadata.as_deref(), Some(r#"{"ticket":7}"#));
    assert!(grant.usable_at(1_896_048_000_000).is_err(), "2030-01-31");
}

#[test]
fn a_patch_changes_what_it_names_and_null_takes_away() {
    let office = Office::new();
    let body = json!({"name": "k", "limits": {"rpm": 5, "tpm": 9}, "tags": ["a"],
                      "metadata": {"x": 1, "y": 2}});
    let made = office.create(Keys, body);
    let secret = text(&made, "secret");
    let before = office.entry(secret).expect("known");
    let patch = json!({"limits": {"rpm": 7, "tpm": null}, "metadata": {"x": null}, "name": "new"});
    let after = office.ok(Keys, Verb::Update, text(&made, "id"), patch);
    assert_eq!(after["limits"], json!({"rpm": 7}));
    assert_eq!(after["metadata"], json!({"y": 2}));
    assert_eq!(after["tags"], json!(["a"]));
    assert!(before.is_stale());
    let grant = &office.entry(secret).expect("known").grant;
    let limits = grant.limits.as_ref().expect("limits");
    assert_eq!((limits.all.rpm, limits.all.tpm), (Some(7), None));
    let old = before.grant.limits.as_ref().expect("limits");
    assert!(limits.revision > old.revision, "the newer limits are known as such");
    assert_eq!(&*grant.key_name, "new");

    let count = office.log().len();
    office.ok(Keys, Verb::Update, "new", json!({"tags": ["a"]}));
    assert_eq!(office.log().len(), count, "nothing changed, nothing is logged");
    office.ok(Keys, Verb::Update, "new", json!({"limits": null}));
    assert!(office.entry(secret).expect("known").grant.limits.is_none());
}

#[test]
fn a_rotated_secret_is_good_for_its_grace_and_two_at_most() {
    let office = Office::new();
    let made = office.create(Keys, json!({"name": "k"}));
    let (id, first) = (text(&made, "id"), text(&made, "secret"));
    let rotated = office.ok(Keys, Verb::Rotate, id, Value::Null);
    let second = text(&rotated, "secret");
    assert_eq!(text(&rotated, "previous_valid_until"), "2027-01-16T08:00:00.000Z");
    assert_eq!(office.show(Keys, id)["previous_valid_until"], rotated["previous_valid_until"]);
    assert_eq!((office.answer(first), office.answer(second)), (200, 200));
    office.wait(24 * HOUR_MS - 1);
    assert_eq!(office.answer(first), 200);
    office.wait(1);
    assert_eq!((office.answer(first), office.answer(second)), (401, 200));

    let third = office.ok(Keys, Verb::Rotate, id, json!({"grace": "1h"}));
    let third = text(&third, "secret");
    assert_eq!((office.answer(second), office.answer(third)), (200, 200));
    let fourth = office.ok(Keys, Verb::Rotate, id, json!({"grace": "1h"}));
    let fourth = text(&fourth, "secret");
    let answers = [first, second, third, fourth].map(|secret| office.answer(secret));
    assert_eq!(answers, [401, 401, 200, 200], "the oldest of three goes at once");
    let fifth = office.ok(Keys, Verb::Rotate, id, json!({"grace": "0s"}));
    let answers = [third, fourth, text(&fifth, "secret")].map(|secret| office.answer(secret));
    assert_eq!(answers, [401, 401, 200], "without grace the new one is the only one");
    assert_eq!(office.reopened(default_file()).answer(text(&fifth, "secret")), 200);
}

#[test]
fn a_blocked_key_is_disabled_and_with_now_its_streams_end() {
    let office = Office::new();
    let made = office.create(Keys, json!({"name": "k"}));
    let (id, secret) = (text(&made, "id"), text(&made, "secret"));
    let mut worker = GrantCache::new();
    let get = |worker: &mut GrantCache| {
        worker.get(&office.keyring, secret.as_bytes(), office.now.get().unix_ms).expect("known")
    };
    let stream = get(&mut worker);
    office.ok(Keys, Verb::Update, id, json!({"tags": ["edited"]}));
    let blocked = office.ok(Keys, Verb::Block, id, Value::Null);
    assert_eq!(text(&blocked, "status"), "blocked");
    assert!(get(&mut worker).grant().blocked, "a worker's copy is no shelter");
    assert!(!stream.is_ended());
    office.ok(Keys, Verb::Block, id, json!({"now": true}));
    assert!(stream.is_ended(), "although it began before the edit and the first block");
    assert_eq!(office.answer(secret), 403);
    office.ok(Keys, Verb::Unblock, id, Value::Null);
    assert_eq!(office.answer(secret), 200);
    assert!(!get(&mut worker).is_ended());
}

#[test]
fn case_53_a_revoked_key_is_dead_for_every_worker_when_the_answer_comes() {
    let office = Office::new();
    let made = office.create(Keys, json!({"name": "k"}));
    let secret = text(&made, "secret");
    let unix_ms = office.now.get().unix_ms;
    let mut workers = [GrantCache::new(), GrantCache::new()];
    for worker in &mut workers {
        assert!(worker.get(&office.keyring, secret.as_bytes(), unix_ms).is_some());
    }
    office.ok(Keys, Verb::Delete, "k", Value::Null);
    for worker in &mut workers {
        assert!(worker.get(&office.keyring, secret.as_bytes(), unix_ms).is_none());
    }
    assert_eq!(office.reopened(default_file()).answer(secret), 401, "nor after a restart");
}

#[test]
fn a_restored_key_has_its_current_secret_and_its_block() {
    let office = Office::new();
    let made = office.create(Keys, json!({"name": "k"}));
    let (id, first) = (text(&made, "id"), text(&made, "secret"));
    let second = office.ok(Keys, Verb::Rotate, id, Value::Null);
    let second = text(&second, "secret");
    office.ok(Keys, Verb::Block, id, Value::Null);
    office.ok(Keys, Verb::Delete, id, Value::Null);
    assert_eq!((office.answer(first), office.answer(second)), (401, 401));
    assert_eq!(office.refused(Keys, Verb::Update, id, json!({})).code, "deleted");
    assert_eq!(office.refused(Keys, Verb::Delete, id, json!({})).code, "deleted");

    let restored = office.ok(Keys, Verb::Restore, "k", Value::Null);
    assert_eq!(text(&restored, "status"), "blocked", "a deletion is no way out of a block");
    assert_eq!((office.answer(first), office.answer(second)), (401, 403));
    office.ok(Keys, Verb::Unblock, id, Value::Null);
    assert_eq!((office.answer(first), office.answer(second)), (401, 200));
    assert_eq!(office.refused(Keys, Verb::Restore, id, json!({})).code, "not_deleted");
}

#[test]
fn only_a_deleted_key_is_purged_and_then_nothing_is_left() {
    let office = Office::new();
    let made = office.create(Keys, json!({"name": "k", "secret": "a-secret-of-the-past"}));
    let id = text(&made, "id");
    assert_eq!(office.refused(Keys, Verb::Purge, id, json!({})).code, "not_deleted");
    office.ok(Keys, Verb::Delete, id, Value::Null);
    let again = json!({"name": "other", "secret": "a-secret-of-the-past"});
    assert_eq!(office.refused(Keys, Verb::Create, "", again.clone()).code, "secret_taken");
    office.ok(Keys, Verb::Purge, id, Value::Null);
    assert_eq!(office.refused(Keys, Verb::Show, id, json!({})).status, 404);
    office.create(Keys, again);
}

#[test]
fn a_deleted_name_is_free_and_a_restore_finds_it_taken() {
    let office = Office::new();
    let first = office.create(Keys, json!({"name": "k"}));
    let refusal = office.refused(Keys, Verb::Create, "", json!({"name": "k"}));
    assert_eq!((refusal.status, refusal.code), (409, "name_taken"));
    office.ok(Keys, Verb::Delete, "k", Value::Null);
    let second = office.create(Keys, json!({"name": "k"}));
    assert_ne!(first["id"], second["id"]);
    let refusal = office.refused(Keys, Verb::Restore, text(&first, "id"), json!({}));
    assert_eq!(refusal.code, "name_taken");
    assert_eq!(office.answer(text(&first, "secret")), 401, "nothing was changed");

    office.create(Projects, json!({"name": "web"}));
    office.create(Keys, json!({"name": "k", "project": "web"}));
    assert_eq!(office.refused(Keys, Verb::Show, "k", json!({})).code, "ambiguous");
    let in_web = with_query(call(Keys, Verb::Show, "k", Value::Null), &[("project", "web")]);
    assert_eq!(text(&office.perform(&owner(), &in_web).expect("one").body, "project"), "web");
}

#[test]
fn imported_keys_keep_their_secret() {
    let office = Office::new();
    let secret = "sk-1234567890abcdef";
    let made = office.create(Keys, json!({"name": "a", "secret": secret}));
    assert!(made.get("secret").is_none(), "whoever gave it has it");
    assert_eq!(text(&made, "prefix"), "", "nothing of a short secret is shown");
    assert_eq!(office.answer(secret), 200);
    let hex: String =
        crate::auth::digest(b"another").iter().map(|byte| format!("{byte:02X}")).collect();
    office.create(Keys, json!({"name": "b", "sha256": hex}));
    assert_eq!(office.answer("another"), 200);
    for (body, status, field) in [
        (json!({"secret": "fifteen-letters"}), 422, "secret"),
        (json!({"secret": "with blanks in its midst"}), 422, "secret"),
        (json!({"secret": "x".repeat(1025)}), 422, "secret"),
        (json!({"secret": 1_234_567_890_123_456_u64}), 400, "secret"),
        (json!({"secret": secret}), 409, "secret"),
        (json!({"sha256": "abc"}), 422, "sha256"),
        (json!({"sha256": "g".repeat(64)}), 422, "sha256"),
        (json!({"sha256": hex, "secret": secret}), 422, "sha256"),
    ] {
        let mut body = body;
        body["name"] = "c".into();
        let refusal = office.refused(Keys, Verb::Create, "", body.clone());
        assert_eq!((refusal.status, refusal.field.as_deref()), (status, Some(field)), "{body}");
        assert!(!refusal.message.contains(secret));
    }
}

#[test]
fn case_47_keys_with_the_same_beginning_are_never_confused() {
    let office = Office::new();
    let begin = "sk-legacy-0123456789012345";
    let (one, two) = (format!("{begin}A"), format!("{begin}B"));
    office.create(Keys, json!({"name": "one", "secret": one}));
    office.create(Keys, json!({"name": "two", "secret": two}));
    let name = |secret: &str| office.entry(secret).map(|entry| entry.grant.key_name.to_string());
    assert_eq!(name(&one).as_deref(), Some("one"));
    assert_eq!(name(&two).as_deref(), Some("two"));
    assert_eq!((name(begin), name(&format!("{begin}C"))), (None, None));
    office.ok(Keys, Verb::Delete, "one", Value::Null);
    assert_eq!((office.answer(&one), office.answer(&two)), (401, 200));
}

#[test]
fn case_51_sql_is_a_name_like_any_other() {
    let office = Office::new();
    let evil = "'; DROP TABLE object; --";
    office.create(Keys, json!({"name": evil}));
    assert_eq!(text(&office.show(Keys, evil), "name"), evil);
    assert_eq!(office.refused(Keys, Verb::Show, "' OR '1'='1", json!({})).status, 404);
    assert_eq!(office.answer("' OR 1=1 --"), 401);
    assert!(office.token("' OR 1=1 --").is_none());
    let query = with_query(call(Keys, Verb::List, "", Value::Null), &[("project", evil)]);
    assert_eq!(office.perform(&owner(), &query).expect_err("none").status, 422);
}

#[test]
fn lists_are_newest_first_in_pages_and_by_filter() {
    let office = Office::new();
    office.create(Projects, json!({"name": "web"}));
    for n in 0..7 {
        office.wait(1);
        let project = if n % 2 == 0 { "web" } else { "default" };
        office.create(Keys, json!({"name": format!("k{n}"), "project": project}));
    }
    office.ok(Keys, Verb::Delete, "k5", Value::Null);
    office.ok(Keys, Verb::Block, "k0", Value::Null);
    let list = |query: &[(&str, &str)]| {
        let call = with_query(call(Keys, Verb::List, "", Value::Null), query);
        office.perform(&owner(), &call).expect("a list").body
    };
    assert_eq!(names(&list(&[])), ["k6", "k4", "k3", "k2", "k1", "k0"]);
    assert_eq!(names(&list(&[("status", "deleted")])), ["k5"]);
    assert_eq!(names(&list(&[("status", "blocked")])), ["k0"]);
    assert_eq!(names(&list(&[("status", "all")])).len(), 7);
    assert_eq!(names(&list(&[("project", "web")])), ["k6", "k4", "k2", "k0"]);

    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = list(&[("limit", "2"), ("cursor", &cursor)]);
        assert!(names(&page).len() <= 2);
        seen.extend(names(&page).iter().map(|name| name.to_string()));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(seen, ["k6", "k4", "k3", "k2", "k1", "k0"]);
    for (query, status) in [
        (("limit", "0"), 422),
        (("limit", "1001"), 422),
        (("limit", "x"), 422),
        (("status", "gone"), 422),
        (("cursor", "nonsense"), 400),
        (("projekt", "web"), 400),
        (("project", "none"), 422),
    ] {
        let call = with_query(call(Keys, Verb::List, "", Value::Null), &[query]);
        assert_eq!(
            office.perform(&owner(), &call).expect_err("refused").status,
            status,
            "{query:?}"
        );
    }
}

#[test]
fn when_a_key_was_used_is_shown() {
    let office = Office::new();
    let made = office.create(Keys, json!({"name": "k"}));
    assert_eq!(made["last_used_at"], Value::Null);
    let used = [(text(&made, "id").into(), START_UNIX_MS)];
    office.directory.note_used(&used).expect("noted");
    assert_eq!(text(&office.show(Keys, "k"), "last_used_at"), "2027-01-15T08:00:00.000Z");
}

#[test]
fn tokens_of_principals_are_rotated_blocked_and_end() {
    let office = Office::new();
    let body = json!({"name": "ops", "role": "viewer", "expires_at": "2027-01-20T00:00:00Z"});
    let made = office.create(Principals, body);
    let first = text(&made, "token");
    assert!(first.starts_with("ft-admin-") && made.get("secret").is_none());
    assert_eq!(office.token(first).expect("good").role, Role::Viewer);
    let rotated = office.ok(Principals, Verb::Rotate, "ops", json!({"grace": "2h"}));
    let second = text(&rotated, "token");
    assert!(office.token(first).is_some() && office.token(second).is_some());
    office.wait(2 * HOUR_MS);
    assert!(office.token(first).is_none() && office.token(second).is_some());
    office.ok(Principals, Verb::Block, "ops", Value::Null);
    assert!(office.token(second).is_none());
    assert!(office.reopened(default_file()).token(second).is_none());
    office.ok(Principals, Verb::Unblock, "ops", Value::Null);
    assert!(office.reopened(default_file()).token(second).is_some());
    office.wait(5 * 24 * HOUR_MS);
    assert!(office.token(second).is_none(), "it has expired");
    assert!(!format!("{:?}", office.log()).contains("ft-admin-x"));
}

#[test]
fn a_deleted_key_is_told_from_one_that_never_was_and_comes_back_by_its_name() {
    let office = Office::new();
    let first = office.create(Keys, json!({"name": "k"}));
    office.ok(Keys, Verb::Delete, "k", Value::Null);
    for id in ["k", text(&first, "id")] {
        let refusal = office.refused(Keys, Verb::Delete, id, Value::Null);
        assert_eq!((refusal.status, refusal.code), (409, "deleted"));
        assert_eq!(refusal.message, "the key `k` is deleted already; restore it, or purge it");
    }
    assert_eq!(office.refused(Keys, Verb::Delete, "never", Value::Null).code, "not_found");
    let second = office.create(Keys, json!({"name": "k"}));
    let refusal = office.refused(Keys, Verb::Restore, "k", Value::Null);
    assert_eq!(refusal.code, "name_taken", "the deleted one is meant: {}", refusal.message);
    office.ok(Keys, Verb::Update, text(&second, "id"), json!({"name": "other"}));
    let back = office.ok(Keys, Verb::Restore, "k", Value::Null);
    assert_eq!(text(&back, "id"), text(&first, "id"));
}
