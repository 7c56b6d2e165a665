//! Who may do what. Each refusal leaves an entry in the audit log, and nothing else.

use super::*;
use Resource::{Accounts, Keys, Prices, Principals, Projects, Rates, Users};

/// Two accounts with a project, a user, a key and a principal each.
struct Tenants {
    office: Office,
    admin: Caller,
    manager: Caller,
    viewer: Caller,
}

fn tenants() -> Tenants {
    let office = Office::new();
    for account in ["acme", "rival"] {
        let (project, user) = (format!("{account}-web"), format!("{account}-ada"));
        office.create(Accounts, json!({"name": account, "limits": {"rpm": 100}}));
        office
            .create(Projects, json!({"name": project, "account": account, "limits": {"rpm": 50}}));
        office.create(Projects, json!({"name": format!("{account}-batch"), "account": account}));
        office.create(Users, json!({"name": user, "account": account}));
        let key = json!({"name": format!("{account}-key"), "project": project, "user": user});
        office.create(Keys, key);
        office.create(
            Principals,
            json!({"name": format!("{account}-boss"), "role": "admin", "account": account}),
        );
    }
    office.create(Keys, json!({"name": "batch-key", "project": "acme-batch"}));
    let admin = office.principal(json!({"name": "a", "role": "admin", "account": "acme"}));
    let manager = office.principal(json!({"name": "m", "role": "manager", "project": "acme-web"}));
    let viewer = office.principal(json!({"name": "v", "role": "viewer", "account": "acme"}));
    Tenants { office, admin, manager, viewer }
}

impl Tenants {
    fn id(&self, resource: Resource, name: &str) -> String {
        text(&self.office.show(resource, name), "id").to_owned()
    }

    #[track_caller]
    fn denied(&self, caller: &Caller, call: &Call) {
        let before = self.office.log().len();
        let refusal = self.office.perform(caller, call).expect_err("denied");
        assert_eq!((refusal.status, refusal.code), (403, "forbidden"), "{call:?}: {refusal:?}");
        let log = self.office.log();
        assert_eq!(log.len(), before + 1, "an entry and no change: {call:?}");
        let entry = log.last().expect("an entry");
        assert_eq!((entry.action.as_str(), &entry.actor), ("denied", &caller.name));
        let after = entry.after.as_deref().expect("what was tried");
        let attempt = format!("{}.{}", entry.kind, call.verb.name());
        assert!(after.contains(&attempt), "{after}");
    }

    #[track_caller]
    fn allowed(&self, caller: &Caller, call: &Call) -> Value {
        let done = self.office.perform(caller, call);
        done.unwrap_or_else(|refusal| panic!("{call:?}: {refusal:?}")).body
    }

    #[track_caller]
    fn missing(&self, caller: &Caller, call: &Call) {
        let refusal = self.office.perform(caller, call).expect_err("not to be seen");
        assert_eq!((refusal.status, refusal.code), (404, "not_found"), "{call:?}: {refusal:?}");
    }
}

#[test]
fn case_50_nobody_reads_beyond_its_own() {
    let all = tenants();
    for caller in [&all.admin, &all.viewer] {
        for (resource, names_seen, foreign) in [
            (Accounts, vec!["acme"], "rival"),
            (Projects, vec!["acme-batch", "acme-web"], "rival-web"),
            (Users, vec!["acme-ada"], "rival-ada"),
            (Keys, vec!["acme-key", "batch-key"], "rival-key"),
            (Principals, vec!["a", "acme-boss", "m", "v"], "rival-boss"),
        ] {
            let list = all.allowed(caller, &call(resource, Verb::List, "", Value::Null));
            let mut seen = names(&list);
            seen.sort();
            assert_eq!(seen, names_seen, "{resource:?}");
            let id = all.id(resource, foreign);
            all.missing(caller, &call(resource, Verb::Show, &id, Value::Null));
            all.missing(caller, &call(resource, Verb::Show, foreign, Value::Null));
            let own = names_seen[0];
            all.allowed(caller, &call(resource, Verb::Show, own, Value::Null));
        }
    }
    let manager = &all.manager;
    let list = |resource| all.allowed(manager, &call(resource, Verb::List, "", Value::Null));
    assert_eq!(names(&list(Keys)), ["acme-key"]);
    assert_eq!(names(&list(Projects)), ["acme-web"]);
    let other = all.id(Keys, "batch-key");
    all.missing(manager, &call(Keys, Verb::Show, &other, Value::Null));
    for (resource, caller) in [
        (Prices, &all.admin),
        (Rates, &all.viewer),
        (Accounts, &all.manager),
        (Principals, &all.manager),
    ] {
        all.denied(caller, &call(resource, Verb::List, "", Value::Null));
    }
    let filtered = with_query(call(Keys, Verb::List, "", Value::Null), &[("account", "rival")]);
    all.denied(&all.admin, &filtered);
    let nowhere = with_query(call(Keys, Verb::List, "", Value::Null), &[("account", "nobody")]);
    let (real, none) = [&filtered, &nowhere]
        .map(|call| all.office.perform(&all.admin, call).expect_err("denied").code)
        .into();
    assert_eq!(real, none, "what is there and what is not looks the same");
}

#[test]
fn case_50_nobody_writes_beyond_its_own() {
    let all = tenants();
    let foreign = [
        (Keys, "rival-key", json!({"limits": {"rpm": 1}})),
        (Projects, "rival-web", json!({"tags": ["x"]})),
        (Users, "rival-ada", json!({"email": "x@example.com"})),
        (Principals, "rival-boss", json!({"expires_at": "2027-02-01T00:00:00Z"})),
    ];
    for (resource, name, patch) in foreign {
        let id = all.id(resource, name);
        for verb in [Verb::Update, Verb::Delete, Verb::Block, Verb::Restore, Verb::Purge] {
            let body = if verb == Verb::Update { patch.clone() } else { Value::Null };
            all.denied(&all.admin, &call(resource, verb, &id, body));
        }
    }
    let rotate = call(Keys, Verb::Rotate, &all.id(Keys, "rival-key"), Value::Null);
    all.denied(&all.admin, &rotate);
    for (resource, body) in [
        (Keys, json!({"name": "x", "project": "rival-web"})),
        (Keys, json!({"name": "x", "project": "nobody-s"})),
        (Keys, json!({"name": "x", "project": "acme-web", "user": "rival-ada"})),
        (Projects, json!({"name": "x", "account": "rival"})),
        (Projects, json!({"name": "x", "account": "default"})),
        (Users, json!({"name": "x", "account": "rival"})),
        (Accounts, json!({"name": "x"})),
        (Prices, json!({"provider": "p", "model": "m", "input": "1"})),
        (Rates, json!({"from": "USD", "to": "EUR", "rate": "1"})),
    ] {
        all.denied(&all.admin, &call(resource, Verb::Create, "", body));
    }
    let moved = json!({"project": "rival-web"});
    all.denied(&all.admin, &call(Keys, Verb::Update, "acme-key", moved));
}

#[test]
fn case_50_nobody_widens_its_own_scope() {
    let all = tenants();
    let (admin, manager) = (&all.admin, &all.manager);
    for patch in [
        json!({"billing": "prepaid", "balance": "1000000"}),
        json!({"price_group": "resale"}),
        json!({"markup": "0"}),
        json!({"currency": "EUR"}),
        json!({"name": "other"}),
        json!({"timezone": "Asia/Tokyo"}),
        json!({"limits": {"rpm": 101}}),
        json!({"limits": null}),
        json!({"limits": {"rpm": null}}),
    ] {
        // The currency of an account is fixed for everybody: a matter of its own.
        if patch.get("currency").is_none() {
            all.denied(admin, &call(Accounts, Verb::Update, "acme", patch));
        } else {
            assert!(
                all.office.perform(admin, &call(Accounts, Verb::Update, "acme", patch)).is_err()
            );
        }
    }
    all.allowed(admin, &call(Accounts, Verb::Update, "acme", json!({"limits": {"rpm": 90}})));
    all.allowed(admin, &call(Accounts, Verb::Update, "acme", json!({"metadata": {"a": 1}})));
    all.denied(admin, &call(Accounts, Verb::Delete, "acme", Value::Null));

    for patch in [
        json!({"limits": {"rpm": 51}}),
        json!({"limits": null}),
        json!({"models": ["*"]}),
        json!({"name": "other"}),
        json!({"account": "rival"}),
    ] {
        all.denied(manager, &call(Projects, Verb::Update, "acme-web", patch));
    }
    all.allowed(manager, &call(Projects, Verb::Update, "acme-web", json!({"limits": {"rpm": 5}})));
    for (resource, verb, id) in [
        (Projects, Verb::Delete, "acme-web"),
        (Projects, Verb::Create, ""),
        (Users, Verb::Create, ""),
        (Users, Verb::Delete, "acme-ada"),
        (Principals, Verb::Create, ""),
        (Accounts, Verb::Update, "acme"),
    ] {
        all.denied(manager, &call(resource, verb, id, json!({"name": "x"})));
    }
    let secret = json!({"name": "x", "secret": "a-secret-from-elsewhere"});
    all.denied(manager, &call(Keys, Verb::Create, "", secret));
    let made = all.allowed(manager, &call(Keys, Verb::Create, "", json!({"name": "x"})));
    assert_eq!(text(&made, "project"), "acme-web", "where a manager's keys go by themselves");
    all.allowed(manager, &call(Keys, Verb::Rotate, "x", Value::Null));
    all.allowed(manager, &call(Projects, Verb::Block, "acme-web", Value::Null));
}

#[test]
fn case_50_a_principal_never_grants_more_than_it_has() {
    let all = tenants();
    let admin = &all.admin;
    for body in [
        json!({"name": "x", "role": "owner"}),
        json!({"name": "x", "role": "admin", "account": "rival"}),
        json!({"name": "x", "role": "viewer", "account": "rival"}),
        json!({"name": "x", "role": "manager", "project": "rival-web"}),
    ] {
        all.denied(admin, &call(Principals, Verb::Create, "", body));
    }
    let made = all.allowed(
        admin,
        &call(Principals, Verb::Create, "", json!({"name": "x", "role": "viewer"})),
    );
    assert_eq!(text(&made, "account"), "acme", "not a viewer of everything");
    all.denied(admin, &call(Principals, Verb::Update, "x", json!({"role": "owner"})));
    all.denied(admin, &call(Principals, Verb::Update, "x", json!({"account": "rival"})));
    let all_of_it = call(Principals, Verb::Update, "x", json!({"account": null}));
    assert_eq!(all.allowed(admin, &all_of_it)["account"], "acme");

    let body = json!({"name": "short", "role": "admin", "account": "acme",
                      "expires_at": "2027-02-01T00:00:00Z"});
    let short = all.office.principal(body);
    let make = |end: Value| {
        call(
            Principals,
            Verb::Create,
            "",
            json!({"name": "y", "role": "viewer", "expires_at": end}),
        )
    };
    all.denied(&short, &make(Value::Null));
    all.denied(&short, &make(json!("2027-02-01T00:00:01Z")));
    all.denied(&short, &call(Principals, Verb::Update, "short", json!({"expires_at": null})));
    all.denied(&short, &call(Principals, Verb::Rotate, "acme-boss", Value::Null));
    all.allowed(&short, &make(json!("2027-02-01T00:00:00Z")));
}

#[test]
fn a_viewer_changes_nothing() {
    let all = tenants();
    for resource in Resource::ALL {
        for verb in Verb::ALL.into_iter().filter(|verb| !verb.is_read()) {
            all.denied(&all.viewer, &call(resource, verb, "acme", json!({"name": "x"})));
        }
    }
    let global = all.office.principal(json!({"name": "auditor", "role": "viewer"}));
    let list = all.allowed(&global, &call(Accounts, Verb::List, "", Value::Null));
    assert_eq!(names(&list).len(), 3);
    all.allowed(&global, &call(Prices, Verb::List, "", Value::Null));
}

#[test]
fn roles_and_scopes_have_to_go_together() {
    let all = tenants();
    for (body, field) in [
        (json!({"role": "admin"}), "account"),
        (json!({"role": "manager", "account": "acme"}), "project"),
        (json!({"role": "owner", "account": "acme"}), "role"),
        (json!({"role": "admin", "project": "acme-web"}), "project"),
        (json!({"role": "manager", "project": "acme-web", "account": "rival"}), "project"),
        (json!({"role": "king"}), "role"),
        (json!({}), "role"),
        (json!({"role": "viewer", "name": "owner"}), "name"),
    ] {
        let mut with_name = json!({"name": "x"});
        for (name, value) in body.as_object().expect("an object") {
            with_name[name] = value.clone();
        }
        let refusal = all.office.refused(Principals, Verb::Create, "", with_name.clone());
        assert_eq!((refusal.status, refusal.field.as_deref()), (422, Some(field)), "{with_name}");
    }
    assert_eq!(all.manager.account.as_deref(), Some(all.id(Accounts, "acme").as_str()));
}
