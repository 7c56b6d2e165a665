//! Limits in force: what a key has used, edits that keep it, budgets that begin in the middle of a period.

use super::*;
use crate::admit::{Actual, Ask, Permit, ScopeNames, admit};
use crate::auth::Grant;
use Resource::{Accounts, Keys, Projects};

impl Office {
    /// A request with this key, admitted and not yet settled.
    fn admit(&self, secret: &str, cost_pico: u128) -> Result<Permit, admit::Refusal> {
        let entry = self.entry(secret).expect("known");
        let Grant { key_id, account, project, user, limits, .. } = &entry.grant;
        let cell = self.accounts.cell(account);
        let names = ScopeNames {
            project: project.clone(),
            user: user.clone(),
            key: key_id.clone(),
            model: None,
            asked: None,
        };
        let scopes = cell.scopes(names, limits.as_ref());
        let ask = Ask { cost_pico, cost_bound_pico: cost_pico, tokens: 10, tokens_bound: 10 };
        admit(&cell, &scopes, ask, self.now.get())
    }

    fn spend(&self, secret: &str, cost_pico: u128) {
        let permit = self.admit(secret, cost_pico).expect("room");
        permit.settle(Actual { tokens: 10, cost_pico }, self.now.get());
    }
}

const UNIT: u128 = crate::money::PICO;

#[test]
fn a_key_shows_what_it_has_used() {
    let office = Office::new();
    let limits = json!({"rpm": 10, "tpm": 1000, "parallel": 2,
                        "budget": [{"amount": "5", "per": "monthly"}]});
    let made = office.create(Keys, json!({"name": "k", "limits": limits}));
    let secret = text(&made, "secret");
    let usage = |name: &str| office.show(Keys, "k")["usage"][name].clone();
    assert_eq!(usage("rpm"), json!({"limit": 10, "used": 0}), "before its first request");
    assert_eq!(usage("tpd"), Value::Null);
    office.spend(secret, UNIT);
    let running = office.admit(secret, 2 * UNIT).expect("room");
    assert_eq!(usage("rpm"), json!({"limit": 10, "used": 2}));
    assert_eq!(usage("tpm"), json!({"limit": 1000, "used": 20}));
    assert_eq!(usage("parallel"), json!({"limit": 2, "used": 1}));
    let budget = json!([{"amount": "5", "per": "monthly", "spent": "1", "reserved": "2",
                         "remaining": "2", "resets_at": "2027-02-01T00:00:00.000Z", "soft": false}]);
    assert_eq!(usage("budget"), budget);
    drop(running);
    assert_eq!(usage("budget")[0]["remaining"], "4");
}

#[test]
fn an_edited_amount_keeps_what_is_spent_and_holds_at_once() {
    let office = Office::new();
    let budget = |amount: &str| json!({"budget": [{"amount": amount, "per": "daily"}]});
    let made = office.create(Keys, json!({"name": "k", "limits": budget("3")}));
    let secret = text(&made, "secret");
    office.spend(secret, 2 * UNIT);
    assert!(office.admit(secret, 2 * UNIT).is_err());
    office.ok(Keys, Verb::Update, "k", json!({"limits": budget("4")}));
    let spent = || office.show(Keys, "k")["usage"]["budget"][0]["spent"].clone();
    assert_eq!(spent(), "2");
    office.spend(secret, 2 * UNIT);
    office.ok(Keys, Verb::Update, "k", json!({"limits": budget("1")}));
    assert!(office.admit(secret, 1).is_err());
    assert!(office.history.asked.lock().expect("no panic").is_empty(), "nothing had to be asked");
    office.ok(Keys, Verb::Update, "k", json!({"limits": null}));
    assert!(office.admit(secret, 1000 * UNIT).is_ok());
}

#[test]
fn a_new_budget_knows_what_was_spent_before_it() {
    let office = Office::new();
    let made = office.create(Keys, json!({"name": "k"}));
    let (id, secret) = (text(&made, "id"), text(&made, "secret"));
    let spent =
        admit::Spent { at_unix_ms: START_UNIX_MS, requests: 5, tokens: 500, cost_pico: 3 * UNIT };
    *office.history.answer.lock().expect("no panic") = Some(vec![spent]);
    let limits = json!({"limits": {"budget": [{"amount": "4", "per": "monthly"}]}});
    office.ok(Keys, Verb::Update, id, limits.clone());
    let asked = office.history.asked.lock().expect("no panic").clone();
    let month_ago = START_UNIX_MS - 32 * 24 * HOUR_MS;
    assert_eq!(asked, [("default".to_owned(), ScopeKind::Key, id.to_owned(), None, month_ago)]);
    let budget = office.show(Keys, id)["usage"]["budget"][0].clone();
    assert_eq!((&budget["spent"], &budget["remaining"]), (&json!("3"), &json!("1")));
    assert!(office.admit(secret, 2 * UNIT).is_err() && office.admit(secret, UNIT).is_ok());

    office.create(Projects, json!({"name": "web"}));
    office.ok(Projects, Verb::Update, "web", limits);
    assert_eq!(office.show(Projects, "web")["usage"]["budget"][0]["spent"], "3");
}

#[test]
fn a_store_that_cannot_tell_what_was_spent_gets_no_new_budget() {
    let office = Office::new();
    let made = office.create(Keys, json!({"name": "k"}));
    *office.history.answer.lock().expect("no panic") = None;
    let limits = json!({"limits": {"budget": [{"amount": "4", "per": "total"}]}});
    let refusal = office.refused(Keys, Verb::Update, "k", limits);
    assert_eq!((refusal.status, refusal.code), (503, "store_unavailable"));
    assert_eq!(office.show(Keys, "k")["limits"], json!({}));
    assert!(office.entry(text(&made, "secret")).expect("known").grant.limits.is_none());
}

#[test]
fn owners_limits_bind_their_keys() {
    let office = Office::new();
    office.create(Accounts, json!({"name": "acme", "limits": {"rpm": 3}}));
    office.create(Projects, json!({"name": "web", "account": "acme", "limits": {"rpm": 2}}));
    let made = office.create(Keys, json!({"name": "k", "project": "web", "limits": {"rpm": 9}}));
    let secret = text(&made, "secret");
    office.spend(secret, 0);
    office.spend(secret, 0);
    assert!(office.admit(secret, 0).is_err(), "the project's");
    office.ok(Projects, Verb::Update, "web", json!({"limits": null}));
    office.spend(secret, 0);
    assert!(office.admit(secret, 0).is_err(), "the account's");
    let used = |resource, name| office.show(resource, name)["usage"]["rpm"].clone();
    assert_eq!(used(Accounts, "acme"), json!({"limit": 3, "used": 3}));
    office.ok(Accounts, Verb::Update, "acme", json!({"limits": {"rpm": 100}}));
    assert!(office.reopened(default_file()).admit(secret, 0).is_ok());
    office.ok(Accounts, Verb::Update, "acme", json!({"limits": {"rpm": 0}}));
    assert!(office.reopened(default_file()).admit(secret, 0).is_err(), "also after a restart");
}

#[test]
fn a_prepaid_account_runs_dry() {
    let office = Office::new();
    let body = json!({"name": "acme", "billing": "prepaid", "balance": "2"});
    office.create(Accounts, body);
    office.create(Projects, json!({"name": "web", "account": "acme"}));
    let made = office.create(Keys, json!({"name": "k", "project": "web"}));
    let secret = text(&made, "secret");
    office.spend(secret, 2 * UNIT);
    assert!(office.admit(secret, 1).is_err());
    let balance = office.show(Accounts, "acme")["usage"]["balance"].clone();
    assert_eq!((&balance["amount"], &balance["remaining"]), (&json!("2"), &json!("0")));
    office.ok(Accounts, Verb::Update, "acme", json!({"balance": "3"}));
    assert!(office.admit(secret, UNIT).is_ok());
}
