//! Limits of requests, tokens and parallel requests, as callers meet them.

use crate::governed::{
    CHAT, Gate, ask, begin, key, look, model, rate, record_of, refused, says_rates, sized, usage,
    using, wait_ms,
};
use crate::support::{Gateway, KEY, Scripted, Setup, chat, eventually, request};

/// One of the four scopes, with limits of its own.
const SCOPES: [&str; 4] = ["key", "user", "project", "account"];

/// An account `acme` with a project and a user who have two keys, `caller` and `sister`; and a key
/// `stranger` of another account. `limits` are those of one scope.
fn tenants(upstream: &Scripted, scope: &str, limits: &str) -> Setup {
    let of =
        |kind: &str| if kind == scope { format!("limits = {limits}\n") } else { String::new() };
    let owned = "project = \"p\"\nuser = \"ada\"\n";
    let tables = [
        format!("[[account]]\nname = \"acme\"\n{}", of("account")),
        format!("[[project]]\nname = \"p\"\naccount = \"acme\"\n{}", of("project")),
        format!("[[user]]\nname = \"ada\"\naccount = \"acme\"\n{}", of("user")),
        key("caller", KEY, &format!("{owned}{}", of("key"))),
        key("sister", "sk-sister", owned),
        key("stranger", "sk-stranger", ""),
    ];
    let models = [model("m", ""), model("n", "")].concat();
    Setup::to(upstream.addr).models(&models).keys(&tables.concat())
}

fn quick() -> Scripted {
    Scripted::answering(|request| using(request, 7, 3))
}

/// The path of a scope's object in the admin API.
fn object(scope: &str) -> String {
    let name = match scope {
        "key" => "caller",
        "user" => "ada",
        "project" => "p",
        _ => "acme",
    };
    format!("{scope}s/{name}")
}

#[test]
fn requests_per_minute_hold_for_every_scope() {
    let upstream = quick();
    for scope in SCOPES {
        let gateway = tenants(&upstream, scope, "{ rpm = 2 }").start();
        for left in [1, 0] {
            let answer = ask(gateway.addr, KEY, chat("m", left == 0, "x"));
            assert_eq!(answer.status, 200, "{scope}: {}", answer.text());
            assert_eq!(rate(&answer, "limit-requests"), 2);
            assert_eq!(rate(&answer, "remaining-requests"), left);
            assert!((1..=61_000).contains(&rate(&answer, "reset-requests")));
            assert_eq!(answer.header("x-ratelimit-limit-tokens"), None, "not limited");
        }
        let before = upstream.count();
        let answer = ask(gateway.addr, KEY, chat("n", false, "x"));
        let message = refused(&answer, "requests");
        let start = format!("the {scope}'s limit of 2 requests per minute is reached; it has room");
        assert!(message.starts_with(&start), "{message}");
        let wait = wait_ms(&answer);
        assert_eq!(rate(&answer, "limit-requests"), 2);
        assert_eq!(rate(&answer, "remaining-requests"), 0);
        let reset = rate(&answer, "reset-requests");
        assert!((1..=61_000).contains(&wait) && wait <= reset && reset <= 61_000, "{wait} {reset}");
        assert_eq!(upstream.count(), before, "the upstream is not troubled");
        let used = usage(&gateway, &object(scope));
        assert_eq!(
            used["rpm"],
            serde_json::json!({"limit": 2, "used": 2}),
            "refused ones are none"
        );
        // Whom it concerns, and nobody else.
        let sister = ask(gateway.addr, "sk-sister", chat("m", false, "x"));
        assert_eq!(sister.status, if scope == "key" { 200 } else { 429 }, "{scope}");
        let stranger = ask(gateway.addr, "sk-stranger", chat("m", false, "x"));
        assert_eq!(stranger.status, 200, "{scope}");
        assert!(!says_rates(&stranger), "nothing is limited: {:?}", stranger.headers);
    }
}

#[test]
fn limits_of_one_model_leave_the_others_alone() {
    let upstream = quick();
    for scope in SCOPES {
        for (limit, kind) in
            [("rpm = 1", "requests"), ("tpm = 10", "tokens"), ("tpd = 10", "tokens")]
        {
            let limits = format!("{{ models = {{ m = {{ {limit}, overrun = \"strict\" }} }} }}");
            let gateway = tenants(&upstream, scope, &limits).start();
            if kind == "requests" {
                assert_eq!(ask(gateway.addr, KEY, chat("m", false, "x")).status, 200);
            }
            let answer = ask(gateway.addr, KEY, sized("m", false, 1, 100));
            let message = refused(&answer, kind);
            assert!(message.starts_with(&format!("the {scope}'s limit of 1")), "{message}");
            assert!(message.contains(" for model m "), "{message}");
            let other = ask(gateway.addr, KEY, sized("n", false, 1, 100));
            assert_eq!(other.status, 200, "{scope} {limit}: {}", other.text());
            assert!(!says_rates(&other), "{:?}", other.headers);
        }
    }
}

#[test]
fn token_limits_reserve_and_then_count_what_was_used() {
    let upstream = Gate::using(7, 3);
    for scope in SCOPES {
        for (name, span) in [("tpm", "minute"), ("tpd", "day")] {
            let limits = format!("{{ {name} = 215, overrun = \"strict\" }}");
            let gateway = tenants(&upstream, scope, &limits).start();
            let before = upstream.count();
            let mut first = begin(gateway.addr, KEY, sized("m", false, 10, 200));
            eventually("it is upstream", || upstream.count() > before);
            let used = usage(&gateway, &object(scope));
            assert_eq!(used[name], serde_json::json!({"limit": 215, "used": 210}), "{scope}");
            // While the first has its reservation, there is room for 5 more.
            let answer = ask(gateway.addr, KEY, sized("m", false, 10, 200));
            let message = refused(&answer, "tokens");
            let start = format!(
                "the {scope}'s limit of 215 tokens per {span} has 5 left of the 210 this request \
                 may need; it has room again in "
            );
            assert!(message.starts_with(&start), "{message}");
            assert_eq!(rate(&answer, "remaining-tokens"), 5);
            assert!(wait_ms(&answer) <= rate(&answer, "reset-tokens"));
            upstream.open(1);
            let answer = first.answer();
            assert_eq!(answer.status, 200, "{}", answer.text());
            assert_eq!(rate(&answer, "limit-tokens"), 215);
            assert_eq!(rate(&answer, "remaining-tokens"), 5);
            assert_eq!(answer.header("x-ratelimit-limit-requests"), None, "not limited");
            // Ten are used: 206 do not fit, 205 do.
            let answer = ask(gateway.addr, KEY, sized("m", false, 6, 200));
            assert_eq!(rate(&answer, "remaining-tokens"), 205);
            refused(&answer, "tokens");
            upstream.open(1);
            let answer = ask(gateway.addr, KEY, sized("m", false, 5, 200));
            assert_eq!(answer.status, 200, "{}", answer.text());
            let used = usage(&gateway, &object(scope));
            assert_eq!(used[name], serde_json::json!({"limit": 215, "used": 20}), "{scope}");
        }
    }
}

#[test]
fn what_can_never_fit_is_not_to_be_asked_again() {
    let upstream = quick();
    for limits in ["tpm = 100", "tpd = 100"] {
        let setup = tenants(&upstream, "key", &format!("{{ {limits}, overrun = \"strict\" }}"));
        let gateway = setup.start();
        let answer = ask(gateway.addr, KEY, sized("m", false, 1, 100));
        let message = refused(&answer, "tokens");
        assert!(message.contains("100 tokens per"), "{message}");
        assert!(message.contains("is less than the 101 that this request may need"), "{message}");
        assert!(
            message.ends_with("ask for fewer tokens (max_tokens) or have the limit raised"),
            "{message}"
        );
        assert_eq!(answer.header("x-should-retry"), Some("false"));
        assert_eq!((answer.header("retry-after"), answer.header("retry-after-ms")), (None, None));
        // What fits is served.
        assert_eq!(ask(gateway.addr, KEY, sized("m", false, 2, 98)).status, 200);
    }
    for (limits, kind) in [("rpm = 0", "requests"), ("parallel = 0", "requests")] {
        let gateway = tenants(&upstream, "key", &format!("{{ {limits} }}")).start();
        let answer = ask(gateway.addr, KEY, chat("m", false, "x"));
        let message = refused(&answer, kind);
        assert!(message.ends_with("have the limit raised"), "{message}");
        assert_eq!(answer.header("x-should-retry"), Some("false"), "{limits}");
        assert_eq!(answer.header("retry-after"), None);
    }
}

#[test]
fn parallel_requests_hold_their_place_until_they_end() {
    for scope in SCOPES {
        for stream in [false, true] {
            let upstream = Gate::using(7, 3);
            let gateway = tenants(&upstream, scope, "{ parallel = 2 }").start();
            let mut running: Vec<_> =
                (0..2).map(|_| begin(gateway.addr, KEY, chat("m", stream, "x"))).collect();
            eventually("both are upstream", || upstream.count() == 2);
            let answer = ask(gateway.addr, KEY, chat("m", stream, "x"));
            let message = refused(&answer, "requests");
            assert_eq!(
                message,
                format!(
                    "the {scope}'s limit of 2 requests at the same time is reached; ask again \
                     when another request has ended"
                )
            );
            assert_eq!(wait_ms(&answer), 1000);
            assert!(!says_rates(&answer), "none of these has a header: {:?}", answer.headers);
            let used = usage(&gateway, &object(scope));
            assert_eq!(used["parallel"], serde_json::json!({"limit": 2, "used": 2}));
            upstream.open(1);
            eventually("one has ended", || running.iter().any(crate::support::Raw::has_input));
            eventually("its place is free", || {
                usage(&gateway, &object(scope))["parallel"]["used"] == 1
            });
            running.push(begin(gateway.addr, KEY, chat("m", stream, "x")));
            eventually("the next is upstream", || upstream.count() == 3);
            upstream.open(2);
            for raw in &mut running {
                let answer = raw.answer();
                assert_eq!(answer.status, 200, "{}", answer.text());
                assert!(!says_rates(&answer), "{:?}", answer.headers);
            }
            eventually("all places are free", || {
                usage(&gateway, &object(scope))["parallel"]["used"] == 0
            });
        }
    }
}

#[test]
fn the_headers_tell_the_tightest_scope() {
    let upstream = quick();
    let tables = [
        "[[account]]\nname = \"acme\"\nlimits = { rpm = 4, tpd = 9000000 }\n".to_owned(),
        "[[project]]\nname = \"p\"\naccount = \"acme\"\nlimits = { rpm = 100, tpm = 90000 }\n"
            .into(),
        key("a", "sk-a", "project = \"p\"\nlimits = { rpm = 10, tpm = 500000 }"),
        key("b", "sk-b", "project = \"p\"\nlimits = { rpm = 1 }"),
    ];
    let gateway = Setup::to(upstream.addr).keys(&tables.concat()).start();
    let answer = ask(gateway.addr, "sk-a", chat("m", false, "x"));
    assert_eq!((rate(&answer, "limit-requests"), rate(&answer, "remaining-requests")), (4, 3));
    assert_eq!(rate(&answer, "limit-tokens"), 90_000);
    let answer = ask(gateway.addr, "sk-b", chat("m", false, "x"));
    assert_eq!((rate(&answer, "limit-requests"), rate(&answer, "remaining-requests")), (1, 0));
    let answer = ask(gateway.addr, "sk-b", chat("m", false, "x"));
    assert!(refused(&answer, "requests").starts_with("the key's limit of 1 requests"));
    assert_eq!((rate(&answer, "limit-requests"), rate(&answer, "remaining-requests")), (1, 0));
    for _ in 0..2 {
        assert_eq!(ask(gateway.addr, "sk-a", chat("m", false, "x")).status, 200);
    }
    let answer = ask(gateway.addr, "sk-a", chat("m", false, "x"));
    assert!(refused(&answer, "requests").starts_with("the account's limit of 4 requests"));
    assert_eq!((rate(&answer, "limit-requests"), rate(&answer, "remaining-requests")), (4, 0));
}

#[test]
fn refusals_are_recorded_and_cost_nothing() {
    let upstream = quick();
    let setup = tenants(&upstream, "key", "{ rpm = 1 }");
    let gateway = setup.start();
    let served = ask(gateway.addr, KEY, chat("m", false, "x"));
    let turned = ask(gateway.addr, KEY, chat("m", false, "x"));
    refused(&turned, "requests");
    let record = record_of(&gateway, &turned);
    assert_eq!((&record["state"], &record["status"]), (&"settled".into(), &429.into()), "{record}");
    assert_eq!(record["units"], serde_json::json!({}), "{record}");
    assert_eq!(record["key"]["name"], "caller");
    assert_eq!(record_of(&gateway, &served)["units"]["in_text"], 7);
    let sums = gateway.admin("GET", "/admin/v1/usage?group_by=key").json();
    assert_eq!((&sums["data"][0]["requests"], &sums["data"][0]["errors"]), (&2.into(), &1.into()));
}

/// A key's own name for a model stands for the alias, in limits, in prices and upstream.
#[test]
fn a_keys_own_names_for_models_are_rewritten() {
    let upstream = quick();
    let aliases = "aliases = { \"gpt-4\" = \"gpt-4o\", \"best\" = \"wild/x\" }\n";
    let limits = "limits = { models = { \"gpt-4o\" = { rpm = 1 } } }";
    let models = [
        "[[model]]\nname = \"gpt-4o\"\ntargets = [{ provider = \"up\", model = \"real\" }]\n",
        "[[model]]\nname = \"*\"\ntargets = [{ provider = \"up\", model = \"*\" }]\n",
    ];
    let keys = [key("caller", KEY, &format!("{aliases}{limits}")), key("plain", "sk-plain", "")];
    let gateway = Setup::to(upstream.addr).models(&models.concat()).keys(&keys.concat()).start();
    let sent = |secret: &str, model: &str, stream: bool| {
        let answer = ask(gateway.addr, secret, chat(model, stream, "x"));
        assert_eq!(answer.status, 200, "{model}: {}", answer.text());
        upstream.requests().last().expect("one").json()["model"].clone()
    };
    assert_eq!(sent(KEY, "gpt-4", false), "real");
    // Its limit is that of the model it stands for.
    let answer = ask(gateway.addr, KEY, chat("gpt-4o", false, "x"));
    assert!(refused(&answer, "requests").contains("for model gpt-4o"), "{}", answer.text());
    refused(&ask(gateway.addr, KEY, chat("gpt-4", false, "x")), "requests");
    for stream in [false, true] {
        assert_eq!(sent(KEY, "best", stream), "wild/x", "also where any name is passed on");
        assert_eq!(sent("sk-plain", "best", stream), "best", "nobody else's names");
        assert_eq!(sent("sk-plain", "gpt-4", stream), "gpt-4");
    }
    let listed = look(gateway.addr, KEY, "/v1/models").json();
    assert_eq!(listed["data"][0]["id"], "gpt-4o", "{listed}");
}

#[track_caller]
fn own(gateway: &Gateway, secret: &str, path: &str) -> serde_json::Value {
    let answer = look(gateway.addr, secret, path);
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    answer.json()
}

#[test]
fn a_key_sees_its_own_limits_and_usage_and_nobody_elses() {
    let upstream = quick();
    let limits = "limits = { rpm = 5, tpd = 100000, parallel = 3, models = { z = { rpm = 2 } }, budget = [{ amount = \"1\", per = \"daily\" }] }";
    let keys = [key("caller", KEY, limits), key("other", "sk-other", "")];
    let gateway = Setup::to(upstream.addr).keys(&keys.concat()).start();
    // Also before it was ever used.
    let before = own(&gateway, KEY, "/v1/key");
    assert_eq!(before["name"], "caller", "{before}");
    assert_eq!(before["usage"]["rpm"], serde_json::json!({"limit": 5, "used": 0}), "{before}");
    assert_eq!(before["usage"]["budget"][0]["remaining"], "1", "{before}");
    assert_eq!(before["usage"]["models"]["z"]["rpm"]["limit"], 2, "{before}");
    for _ in 0..2 {
        assert_eq!(ask(gateway.addr, KEY, chat("m", false, "x")).status, 200);
    }
    assert_eq!(ask(gateway.addr, "sk-other", chat("n", false, "x")).status, 200);
    let after = own(&gateway, KEY, "/v1/key");
    assert_eq!(after["usage"]["rpm"], serde_json::json!({"limit": 5, "used": 2}), "{after}");
    assert_eq!(after["usage"]["tpd"], serde_json::json!({"limit": 100_000, "used": 20}), "{after}");
    assert_eq!(after["usage"]["parallel"]["used"], 0, "asking for oneself is none");
    let other = own(&gateway, "sk-other", "/v1/key");
    assert_eq!((&other["name"], &other["usage"]["rpm"]), (&"other".into(), &().into()), "{other}");
    let text = other.to_string();
    assert!(!text.contains("caller") && !text.contains("sk-"), "{text}");

    eventually("the books have it", || {
        let sums = own(&gateway, KEY, "/v1/usage?group_by=model");
        sums["data"][0]["requests"] == 2 && sums["data"][0]["units"]["in_text"] == 14
    });
    eventually("the books have the other's", || {
        own(&gateway, "sk-other", "/v1/usage?group_by=model")["data"][0]["requests"] == 1
    });
    let sums = own(&gateway, KEY, "/v1/usage?group_by=model");
    assert_eq!(sums["data"].as_array().map(Vec::len), Some(1), "only its own: {sums}");
    assert_eq!(sums["data"][0]["model"], "m", "{sums}");
    for widening in
        ["key=other", "account=default", "project=default", "group_by=key", "group_by=target"]
    {
        let answer = look(gateway.addr, KEY, &format!("/v1/usage?{widening}"));
        match answer.status {
            400 => {}
            200 => assert!(!answer.text().contains("other"), "{widening}: {}", answer.text()),
            status => panic!("{widening}: {status} {}", answer.text()),
        }
    }
    for path in ["/v1/key", "/v1/usage"] {
        request(gateway.addr, "GET", path, &[], b"").expect_error(401, "invalid_api_key");
    }
}

#[test]
fn labels_end_up_in_the_usage() {
    let upstream = quick();
    let gateway = Setup::to(upstream.addr).keys(&key("caller", KEY, "tags = [\"team-a\"]")).start();
    let bearer = format!("Bearer {KEY}");
    let send = |headers: &[(&str, &str)], body: String| {
        let headers = [&[("authorization", bearer.as_str())], headers].concat();
        let answer = request(gateway.addr, "POST", CHAT, &headers, body);
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer
    };
    let labels = [("x-foretoken-tags", "blue, team-a,red"), ("x-foretoken-end-user", "eva")];
    let first = send(&labels, chat("m", false, "x"));
    let mut body: serde_json::Value = serde_json::from_str(&chat("m", false, "x")).expect("a body");
    body["user"] = "adam".into();
    send(&[], body.to_string());
    // The header goes before the field.
    send(&[("x-foretoken-end-user", "eva"), ("x-foretoken-tags", "red")], body.to_string());
    let record = record_of(&gateway, &first);
    assert_eq!(record["tags"], serde_json::json!(["team-a", "blue", "red"]), "{record}");
    assert_eq!(record["end_user"], "eva");
    for (group, want) in [
        ("tag", vec![("blue", 1), ("red", 2), ("team-a", 3)]),
        ("end_user", vec![("adam", 1), ("eva", 2)]),
    ] {
        let path = format!("/admin/v1/usage?group_by={group}");
        let rows = crate::governed::sought(&gateway, &path, |sums| {
            let data = sums["data"].as_array().expect("a list");
            let mut rows: Vec<(String, u64)> = data
                .iter()
                .map(|row| {
                    let name = row[group].as_str().expect("a name").to_owned();
                    (name, row["requests"].as_u64().expect("a number"))
                })
                .collect();
            rows.sort();
            (rows.iter().map(|row| row.1).max() == want.iter().map(|row| Some(row.1)).max()?)
                .then_some(rows)
        });
        let want: Vec<_> = want.into_iter().map(|(name, count)| (name.to_owned(), count)).collect();
        assert_eq!(rows, want, "{group}");
    }
    for request in upstream.requests() {
        assert!(!request.head.contains("x-foretoken-"), "labels stay here: {}", request.head);
    }
    let long = "t".repeat(300);
    let headers = [("authorization", bearer.as_str()), ("x-foretoken-tags", &long)];
    let answer = request(gateway.addr, "POST", CHAT, &headers, chat("m", false, "x"));
    answer.expect_error(400, "invalid_value");
    assert_eq!(answer.json()["error"]["param"], "x-foretoken-tags");
}
