//! Limits and money where they are least expected: prices with gaps, names behind patterns, budgets
//! that come late, amounts beyond all measure.

use serde_json::json;

use crate::governed::{admin, ask, look, micro, price, record_of, sized, sought, usage};
use crate::support::upstream::{completion, json as whole};
use crate::support::{KEY, Scripted, Setup};

fn upstream() -> Scripted {
    Scripted::answering(|_| whole(200, &completion("fine")))
}

/// What was used a moment ago is not in the store yet, and counts all the same.
#[test]
fn a_budget_that_comes_right_after_the_use_counts_it() {
    let upstream = upstream();
    let gateway = Setup::to(upstream.addr).more(&price("*")).start();
    let made = admin(&gateway, "POST", "/admin/v1/keys", &json!({"name": "late"}));
    let secret = made.json()["secret"].as_str().expect("a secret").to_owned();
    let answer = ask(gateway.addr, &secret, sized("m", false, 5, 100));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let budget = json!({"limits": {"budget": [{"amount": "1", "per": "total"}]}});
    let patched = admin(&gateway, "PATCH", "/admin/v1/keys/late", &budget);
    assert_eq!(patched.status, 200, "{}", patched.text());
    let spent = usage(&gateway, "keys/late")["budget"][0]["spent"].clone();
    assert_eq!(spent, record_of(&gateway, &answer)["charge"]);
    assert_ne!(spent, "0");
}

#[test]
fn a_kind_without_a_price_does_not_make_the_others_free() {
    let model = |name: &str, lines: &str| {
        format!(
            "[[model]]\nname = \"{name}\"\n{lines}\n\
             targets = [{{ provider = \"up\", model = \"{name}\" }}]\n\
             [[price]]\nprovider = \"up\"\nmodel = \"{name}\"\noutput = \"2\"\n"
        )
    };
    let models = [model("half", ""), model("strict", "unpriced = \"refuse\"")].concat();
    let upstream = upstream();
    let gateway = Setup::to(upstream.addr).models(&models).start();
    ask(gateway.addr, KEY, sized("strict", false, 5, 100)).expect_error(403, "model_unpriced");
    let answer = ask(gateway.addr, KEY, sized("half", false, 5, 100));
    let record = record_of(&gateway, &answer);
    let output = record["units"]["out_text"].as_u64().expect("some output");
    assert_eq!(record["charge"], micro(2 * output), "{record}");
    assert_eq!(record["unpriced"], true, "and it is said that something had no price");
}

#[test]
fn a_limit_on_a_name_holds_also_where_a_pattern_serves_it() {
    let models = "[[model]]\nname = \"sim/*\"\ntargets = [{ provider = \"up\", model = \"*\" }]\n";
    let keys = format!(
        "[[key]]\nname = \"caller\"\nsecret = \"{KEY}\"\n\
         limits = {{ models = {{ \"sim/a\" = {{ rpm = 1 }}, \"sim/*\" = {{ rpm = 2 }} }} }}\n"
    );
    let upstream = upstream();
    let gateway = Setup::to(upstream.addr).models(models).keys(&keys).start();
    let status = |name: &str| ask(gateway.addr, KEY, sized(name, false, 5, 100)).status;
    assert_eq!(
        ["sim/a", "sim/a", "sim/b", "sim/c", "sim/d"].map(status),
        [200, 429, 200, 200, 429]
    );
    let models = look(gateway.addr, KEY, "/v1/key").json()["usage"]["models"].clone();
    assert_eq!(
        (&models["sim/a"]["rpm"]["used"], &models["sim/*"]["rpm"]["used"]),
        (&1.into(), &2.into())
    );
}

#[test]
fn a_price_beyond_all_measure_reserves_more_than_nothing() {
    let more = "[[price]]\nprovider = \"up\"\nmodel = \"*\"\nrequest = \"20\"\ninput = \"1\"\noutput = \"1\"\n\
                [[rate]]\nfrom = \"USD\"\nto = \"IRR\"\nrate = \"1100000\"\n\
                [[account]]\nname = \"iran\"\ncurrency = \"IRR\"\n\
                [[project]]\nname = \"iran\"\naccount = \"iran\"\n";
    let keys = format!(
        "[[key]]\nname = \"caller\"\nsecret = \"{KEY}\"\nproject = \"iran\"\n\
         limits = {{ budget = [{{ amount = \"1\", per = \"total\", overrun = \"strict\" }}] }}\n"
    );
    let upstream = upstream();
    let gateway = Setup::to(upstream.addr).more(more).keys(&keys).start();
    let answer = ask(gateway.addr, KEY, sized("m", false, 5, 100));
    answer.expect_error(429, "insufficient_quota");
    assert_eq!(usage(&gateway, "keys/caller")["budget"][0]["spent"], "0");
}

/// What the upstream costs beside what is charged would tell everybody the margin.
#[test]
fn costs_are_the_owners_affair() {
    let more = format!("[[account]]\nname = \"default\"\nmarkup = \"3\"\n{}", price("*"));
    let upstream = upstream();
    let gateway = Setup::to(upstream.addr).more(&more).start();
    let answer = ask(gateway.addr, KEY, sized("m", false, 5, 100));
    let record = record_of(&gateway, &answer);
    assert_ne!(record["cost"], record["charge"], "{record}");
    let own = look(gateway.addr, KEY, "/v1/usage").json();
    assert_eq!(own["data"][0]["charge"], record["charge"], "{own}");
    assert!(own["data"][0].get("cost").is_none(), "{own}");
    let viewer = json!({"name": "v", "role": "viewer", "account": "default"});
    let token = admin(&gateway, "POST", "/admin/v1/principals", &viewer).json();
    let token = format!("Bearer {}", token["token"].as_str().expect("a token"));
    let id = record["id"].as_str().expect("an id");
    for path in ["usage".to_owned(), "requests".to_owned(), format!("requests/{id}")] {
        let path = format!("/admin/v1/{path}");
        let headers = [("authorization", token.as_str())];
        let seen = crate::support::request(gateway.admin, "GET", &path, &headers, b"");
        assert_eq!(seen.status, 200, "{path}: {}", seen.text());
        let text = seen.text();
        assert!(text.contains("\"charge\"") && !text.contains("\"cost\""), "{path}: {text}");
    }
    sought(&gateway, "/admin/v1/usage", |sums| sums["data"][0].get("cost").cloned());
}
