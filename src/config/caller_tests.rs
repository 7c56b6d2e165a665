//! Accounts, projects, users, keys, their limits, and what else governs requests.

use std::time::Duration;

use super::tests::{HEAD, config, fault, warnings};
use super::*;
use crate::limits::{BudgetLimit, Limits, Overrun, Period};
use crate::money::PICO;

const ALL: &str = r#"
limits = { rpm = 600, tpm = 200000, tpd = 10000000, parallel = 50, overrun = "strict", budget = [
    { amount = "100.5", per = "monthly", overrun = "cut" },
    { amount = "0.000000000001", per = "7d", soft = true },
    { amount = "9" },
], models = { m = { rpm = 6, budget = [{ amount = "1", per = "daily" }] } } }
"#;

#[test]
fn limits_are_read_for_every_scope() {
    let text = format!(
        "{HEAD}{ALL}[[account]]\nname = \"a\"\n{ALL}[[project]]\nname = \"p\"\n{ALL}[[user]]\nname = \"u\"\n{ALL}"
    );
    let config = config(&text);
    let sets = [
        &config.keys[0].limits,
        &config.accounts[1].limits,
        &config.projects[1].limits,
        &config.users[0].limits,
    ];
    let budget =
        |amount_pico, period, overrun, soft| BudgetLimit { amount_pico, period, overrun, soft };
    for set in sets {
        let set = set.as_ref().expect("limits");
        assert_eq!(
            set.all,
            Limits {
                rpm: Some(600),
                tpm: Some(200_000),
                tpd: Some(10_000_000),
                parallel: Some(50),
                overrun: Overrun::Strict,
                budgets: vec![
                    budget(1005 * PICO / 10, Period::Monthly, Overrun::Cut, false),
                    budget(1, Period::Days(7), Overrun::Finish, true),
                    budget(9 * PICO, Period::Total, Overrun::Finish, false),
                ],
            }
        );
        assert_eq!(set.models.len(), 1);
        assert_eq!((set.models["m"].rpm, set.models["m"].tpm), (Some(6), None));
        assert_eq!(set.models["m"].budgets[0].period, Period::Daily);
    }
    let json = &config.masked()["key"][0]["limits"];
    assert_eq!(json["rpm"], 600);
    assert_eq!(json["budget"][0]["amount"], "100.5");
    assert_eq!(json["budget"][1]["per"], "7d");
    assert_eq!(json["models"]["m"]["rpm"], 6);
    assert_eq!(json["models"]["m"].get("tpm"), None);
}

#[test]
fn without_limits_there_are_none() {
    let config =
        config(&format!("{HEAD}limits = {{ overrun = \"finish\", models = {{ m = {{}} }} }}\n"));
    assert_eq!(config.keys[0].limits, None, "nothing is limited");
    assert_eq!((&config.accounts[0].limits, &config.projects[0].limits), (&None, &None));
    assert_eq!(config.masked()["key"][0]["limits"], serde_json::Value::Null);
}

#[test]
fn accounts_have_billing_a_zone_a_group_and_a_queue() {
    let text = "[[price_group]]\nname = \"g\"\nmarkup = \"1.25\"\n[[account]]\nname = \"a\"\n\
                currency = \"EUR\"\nbilling = \"prepaid\"\nbalance = \"12.50\"\ntimezone = \"Europe/Berlin\"\n\
                price_group = \"g\"\nqueue = { wait = \"2s\", depth = 7 }\nmetadata = { a = 1 }\n\
                [[account]]\nname = \"b\"\nprice_group = \"g\"\nmarkup = \"0.9\"\nqueue = { wait = \"1s\" }\n";
    let config = config(&format!("{HEAD}{text}"));
    let [default, a, b] = &config.accounts[..] else { panic!("three accounts") };
    assert_eq!((a.currency.as_str(), a.billing), ("EUR", Billing::Prepaid));
    assert_eq!(a.balance_pico, Some(12_500_000_000_000));
    assert_eq!(a.time_zone.iana_name(), Some("Europe/Berlin"));
    assert_eq!(a.queue, Some(Queue { wait: Duration::from_secs(2), depth: 7 }));
    assert_eq!((config.markup_bps(a), config.markup_bps(b)), (12_500, 9_000));
    assert_eq!(b.queue.map(|queue| queue.depth), Some(100));
    assert_eq!((default.billing, default.balance_pico), (Billing::Postpaid, None));
    assert_eq!((config.markup_bps(default), default.queue), (UNCHANGED_BPS, None));
    let json = &config.masked()["account"][1];
    assert_eq!(json["balance"], "12.5");
    assert_eq!(json["timezone"], "Europe/Berlin");
    assert_eq!(json["queue"]["wait"], "2s");
    assert_eq!(config.masked()["account"][2]["markup"], "0.9");
    assert_eq!(config.masked()["price_group"][0]["markup"], "1.25");
}

#[test]
fn projects_users_and_keys_carry_what_the_file_says() {
    let text = "aliases = { \"gpt-4\" = \"m\" }\n[[project]]\nname = \"x\"\nmodels = [\"m\"]\n\
                tags = [\"t\"]\nmetadata = { a = \"b\" }\n[[user]]\nname = \"u\"\nemail = \"u@example.com\"\n";
    let config = config(&format!("{HEAD}{text}"));
    assert_eq!(config.keys[0].aliases, [("gpt-4".to_owned(), "m".to_owned())]);
    assert_eq!(config.projects[0].models, ["*"], "the default project keeps nobody from anything");
    let project = &config.projects[1];
    assert_eq!((&project.models[..], &project.tags[..]), (&["m".into()][..], &["t".into()][..]));
    assert_eq!(project.metadata["a"], "b");
    assert_eq!(config.users[0].email.as_deref(), Some("u@example.com"));
    assert_eq!(config.masked()["key"][0]["aliases"]["gpt-4"], "m");
}

#[test]
fn the_nearest_word_says_what_becomes_of_an_answer_without_a_reader() {
    let text = HEAD
        .replace("/v1\"", "/v1\"\non_disconnect = \"drain\"\ntimeouts = { drain_max = \"5s\" }")
        .replace(
            "[{ provider = \"p\" }]",
            "[{ provider = \"p\" }, { provider = \"p\", model = \"n\", on_disconnect = \"cancel\" }]",
        );
    let loaded = config(&text);
    assert_eq!(loaded.providers[0].timeouts.drain_max, Duration::from_secs(5));
    let said = |config: &Config| {
        let model = &config.models[0];
        let said = model.targets.iter().map(|target| config.on_disconnect(model, target).name());
        said.collect::<Vec<_>>()
    };
    assert_eq!(said(&loaded), ["drain", "cancel"]);
    let of_model = text
        .replace("on_disconnect = \"cancel\"", "on_disconnect = \"drain\"")
        .replace("name = \"m\"", "name = \"m\"\non_disconnect = \"cancel\"");
    assert_eq!(said(&config(&of_model)), ["cancel", "drain"]);
    assert_eq!(said(&config(HEAD)), ["cancel"]);
}

#[test]
fn models_have_a_ceiling_a_policy_and_a_queue() {
    let text = HEAD.replace(
        "name = \"m\"",
        "name = \"m\"\nmax_output = 16384\nunpriced = \"refuse\"\nqueue = { wait = \"500ms\" }",
    );
    let model = &config(&text).models[0];
    assert_eq!((model.max_output_tokens, model.unpriced), (Some(16_384), Unpriced::Refuse));
    assert_eq!(model.queue, Some(Queue { wait: Duration::from_millis(500), depth: 100 }));
    let model = &config(HEAD).models[0];
    assert_eq!((model.max_output_tokens, model.unpriced), (None, Unpriced::Free));
}

#[test]
fn the_store_says_how_often_how_long_and_what_if_full() {
    let text = "[server]\nover_budget_status = 402\n[store]\nflush = \"250ms\"\nretention = \"30d\"\nwhen_full = \"drop\"\n";
    let given = config(&format!("{HEAD}{text}"));
    assert_eq!(given.server.over_budget_status, 402);
    assert_eq!(given.store.flush, Duration::from_millis(250));
    assert_eq!(given.store.retention, Some(Duration::from_secs(30 * 86_400)));
    assert_eq!(given.store.when_full, WhenFull::Drop);
    let default = config(HEAD);
    assert_eq!(default.server.over_budget_status, 429);
    assert_eq!(default.store.retention, Some(Duration::from_secs(90 * 86_400)));
    assert_eq!(
        (default.store.flush, default.store.when_full),
        (Duration::from_secs(1), WhenFull::Refuse)
    );
    let forever = config(&format!("{HEAD}[store]\nretention = \"forever\"\n"));
    assert_eq!(forever.store.retention, None);
    assert_eq!(forever.masked()["store"]["retention"], "forever");
}

#[test]
fn each_mistake_about_callers_has_its_own_sentence_and_cure() {
    let limits = |text: &str| fault(&format!("[[project]]\nname = \"x\"\nlimits = {{ {text} }}"));
    for (text, want) in [
        ("rmp = 1", r#"unknown key "rmp" in limits; did you mean "rpm"?"#),
        ("tokens = 1", r#"unknown key "tokens" in limits; did you mean "tpm"?"#),
        ("rpm = -1", r#""rpm" in limits must be 0 to 1000000000, not -1; write 0 to 1000000000"#),
        (
            "tpm = 99999999999999999999",
            r#""tpm" in limits must be 0 to 1000000000000, not 99999999999999999999; write 0 to 1000000000000"#,
        ),
        (
            "parallel = \"5\"",
            r#""parallel" in limits must be a whole number, not a string; write a number without quotes"#,
        ),
        (
            "overrun = \"strickt\"",
            r#""overrun" in limits has the unknown value "strickt"; did you mean "strict"?"#,
        ),
        (
            "budget = [{ amount = 100, per = \"monthly\" }]",
            r#""amount" in budget of limits must be text, so that it stays exact, not the number 100; write "100""#,
        ),
        (
            "budget = [{ amount = 12.5 }]",
            r#""amount" in budget of limits must be text, so that it stays exact, not the number 12.5; write "12.5""#,
        ),
        (
            "budget = [{ amount = \"-1\" }]",
            r#""amount" in budget of limits must be a number like "12.50": digits, and a point where there is a fraction, not "-1"; write for example "12.50""#,
        ),
        (
            "budget = [{ amount = \"1000000001\" }]",
            r#""amount" in budget of limits is more than a billion: "1000000001"; write less"#,
        ),
        (
            "budget = [{ amount = \"0.0000000000001\" }]",
            r#""amount" in budget of limits has more than 12 digits after the point: "0.0000000000001"; round it"#,
        ),
        (
            "budget = [{ per = \"daily\" }]",
            r#"budget of limits lacks the key "amount"; add for example amount = "100""#,
        ),
        (
            "budget = [{ amount = \"1\", per = \"montly\" }]",
            r#""per" in budget of limits has the unknown value "montly"; did you mean "monthly"? Else 1 to 3660 days as in "7d""#,
        ),
        (
            "budget = [{ amount = \"1\", per = \"0d\" }]",
            r#""per" in budget of limits has the unknown value "0d"; valid: total, daily, weekly, monthly, or 1 to 3660 days as in "7d""#,
        ),
        (
            "budget = [{ amount = \"1\", per = \"24h\" }]",
            r#""per" in budget of limits has the unknown value "24h"; did you mean "daily"? Else 1 to 3660 days as in "7d""#,
        ),
        (
            "budget = { amount = \"1\" }",
            r#""budget" in limits must be a list of tables, not a table; write [{ … }]"#,
        ),
        ("models = { m = 5 }", r#""models" in limits must hold tables, not a number; write { … }"#),
        (
            "models = { m = { models = {} } }",
            r#"unknown key "models" in limits of a model; valid: rpm, tpm, tpd, parallel, overrun, budget"#,
        ),
    ] {
        assert_eq!(limits(text), want, "{text}");
    }
    let account = |text: &str| fault(&format!("[[account]]\nname = \"x\"\n{text}"));
    for (text, want) in [
        (
            "billing = \"prepaid\"",
            r#"[[account]] "x" is prepaid and lacks the key "balance"; add for example balance = "100.00""#,
        ),
        (
            "balance = \"5\"",
            r#""balance" in [[account]] has no effect: billing is "postpaid"; write billing = "prepaid", or remove it"#,
        ),
        (
            "timezone = \"Europe/Berln\"",
            r#""timezone" in [[account]] names no time zone: "Europe/Berln"; did you mean "Europe/Berlin"?"#,
        ),
        (
            "timezone = \"+02:00\"",
            r#""timezone" in [[account]] names no time zone: "+02:00"; write for example "Europe/Berlin" or "UTC""#,
        ),
        (
            "price_group = \"gold\"",
            r#""price_group" in [[account]] names "gold", which is no [[price_group]]; there is no [[price_group]] yet"#,
        ),
        (
            "markup = 1.2",
            r#""markup" in [[account]] must be text, so that it stays exact, not the number 1.2; write "1.2""#,
        ),
        (
            "markup = \"20%\"",
            r#""markup" in [[account]] must be a factor: digits, and a point where there is a fraction, not "20%"; write for example "1.2" for 20 percent on top"#,
        ),
        (
            "markup = \"1.23456\"",
            r#""markup" in [[account]] must have at most four digits after the point, not "1.23456"; write for example "1.2" for 20 percent on top"#,
        ),
        ("queue = {}", r#"queue lacks the key "wait"; add for example wait = "2s""#),
        (
            "queue = { wait = 2 }",
            r#""wait" in queue has no unit in 2; write "2s" for seconds, or use us, ms, m, h or d"#,
        ),
        ("budget = []", r#"unknown key "budget" in [[account]]; did you mean "limits"?"#),
    ] {
        assert_eq!(account(text), want, "{text}");
    }
    for (text, want) in [
        (
            "[[key]]\nname = \"x\"\nsecret = \"sk-abcdefgh\"\naliases = { a = \"mm\" }",
            r#""aliases" in [[key]] names "mm", which is no [[model]]; did you mean "m"?"#,
        ),
        (
            "[[key]]\nname = \"x\"\nsecret = \"sk-abcdefgh\"\naliases = { a = 1 }",
            r#""aliases" in [[key]] must be a string, not a number; write it in quotes"#,
        ),
        (
            "[server]\nover_budget_status = 403",
            r#""over_budget_status" in [server] must be 429 or 402, not 403; write 429 or 402"#,
        ),
        (
            "[store]\nwhen_full = \"wait\"",
            r#""when_full" in [store] has the unknown value "wait"; valid: refuse, drop"#,
        ),
        (
            "[store]\nretention = \"1h\"",
            r#""retention" in [store] must be 1d to 36500d, not 1h; write 1d to 36500d"#,
        ),
    ] {
        assert_eq!(fault(text), want, "{text}");
    }
}

#[test]
fn a_limit_for_no_model_and_a_project_without_models_are_warned_of() {
    let text = format!(
        "{HEAD}limits = {{ models = {{ mm = {{ rpm = 1 }} }} }}\n[[project]]\nname = \"x\"\nmodels = [\"n*\"]\n"
    );
    assert_eq!(
        warnings(&text),
        [
            "f.toml:11:28: \"models\" in limits has \"mm\", which is no [[model]] here; did you mean \"m\"?",
            "f.toml:14:11: \"models\" in [[project]] has \"n*\", which is no [[model]] here; valid: m",
        ]
    );
}

#[test]
fn a_changed_limit_is_a_difference() {
    let text = format!("{HEAD}limits = {{ rpm = 1 }}\n");
    let changes = diff(&config(&text), &config(&text.replace("rpm = 1", "rpm = 2")));
    assert_eq!(changes, [Change { what: "[[key]] \"k\"".into(), how: How::Changed }]);
    assert_eq!(diff(&config(&text), &config(&text)), []);
}
