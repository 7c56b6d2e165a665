//! Money: what is reserved, what it really cost, and who pays how much of it.

use std::sync::mpsc::channel;

use serde_json::{Value, json};

use crate::governed::{
    Gate, admin, ask, begin, key, micro, model, price, record_of, refused, says_rates, sized,
    sought, usage, using,
};
use crate::support::{Answer, Gateway, KEY, Scripted, Setup, chat, eventually};

/// One key with these limits, one model with a price.
fn priced(upstream: &Scripted, limits: &str) -> Setup {
    let keys = key("caller", KEY, &format!("limits = {limits}"));
    Setup::to(upstream.addr).models(&model("m", "")).keys(&keys).more(&price("m"))
}

/// What a request of 200 bytes with 10 tokens of output reserves in strict mode, in millionths.
const RESERVED: u64 = 200 + 2 * 10;
/// What it costs: 7 tokens in, 3 out.
const COST: u64 = 7 + 2 * 3;

fn request() -> String {
    sized("m", false, 10, 200)
}

fn quick() -> Scripted {
    Scripted::answering(|request| using(request, 7, 3))
}

/// The only budget of an object.
#[track_caller]
fn budget(gateway: &Gateway, object: &str) -> Value {
    usage(gateway, object)["budget"][0].clone()
}

/// Refused for want of money: asking again does not help.
#[track_caller]
fn broke(answer: &Answer) -> String {
    assert_eq!(answer.header("x-should-retry"), Some("false"));
    assert!(!says_rates(answer), "budgets have no headers: {:?}", answer.headers);
    refused(answer, "insufficient_quota")
}

#[test]
fn a_budget_reserves_at_admission_and_settles_to_the_real_price() {
    let upstream = Gate::using(7, 3);
    // Two reservations do not fit; what the first leaves is exactly enough for the second.
    let amount = micro(RESERVED + COST);
    let limits = format!("{{ budget = [{{ amount = \"{amount}\", overrun = \"strict\" }}] }}");
    let gateway = priced(&upstream, &limits).start();
    let mut first = begin(gateway.addr, KEY, request());
    eventually("it is upstream", || upstream.count() == 1);
    let state = budget(&gateway, "keys/caller");
    assert_eq!(state["spent"], "0", "{state}");
    assert_eq!(state["reserved"], micro(RESERVED).trim_end_matches('0'), "{state}");
    assert_eq!((&state["per"], &state["resets_at"]), (&"total".into(), &Value::Null), "{state}");

    let answer = ask(gateway.addr, KEY, request());
    let message = broke(&answer);
    assert_eq!(
        message,
        "the key's total budget of 0.000233 USD has 0.000013 USD left of the 0.00022 USD that this \
         request may cost; ask for fewer tokens (max_tokens) or have the budget raised"
    );
    assert_eq!((answer.header("retry-after"), answer.header("retry-after-ms")), (None, None));
    upstream.open(1);
    let served = first.answer();
    assert_eq!(served.status, 200, "{}", served.text());
    assert!(!says_rates(&served), "{:?}", served.headers);
    let state = budget(&gateway, "keys/caller");
    assert_eq!((&state["spent"], &state["reserved"]), (&"0.000013".into(), &"0".into()), "{state}");
    // A token too many, then exactly what is left.
    broke(&ask(gateway.addr, KEY, sized("m", false, 10, 201)));
    upstream.open(1);
    assert_eq!(ask(gateway.addr, KEY, request()).status, 200, "equality admits");
    let state = budget(&gateway, "keys/caller");
    assert_eq!((&state["spent"], &state["reserved"]), (&"0.000026".into(), &"0".into()), "{state}");
    let record = record_of(&gateway, &served);
    assert_eq!((&record["cost"], &record["charge"]), (&"0.000013".into(), &"0.000013".into()));
    assert_eq!((&record["state"], &record["currency"]), (&"settled".into(), &"USD".into()));
    assert_eq!(record["unpriced"], false);
    assert_eq!(record["attempts"][0]["cost"], "0.000013", "{record}");
}

#[test]
fn a_budget_holds_for_every_scope_and_for_single_models() {
    let upstream = quick();
    let limits = format!("budget = [{{ amount = \"{}\", overrun = \"strict\" }}]", micro(RESERVED));
    for scope in ["key", "user", "project", "account"] {
        for of_model in [false, true] {
            let limits = match of_model {
                true => format!("limits = {{ models = {{ m = {{ {limits} }} }} }}\n"),
                false => format!("limits = {{ {limits} }}\n"),
            };
            let of = |kind: &str| if kind == scope { limits.as_str() } else { "" };
            let owned = "project = \"p\"\nuser = \"ada\"\n";
            let tables = [
                format!("[[account]]\nname = \"acme\"\n{}", of("account")),
                format!("[[project]]\nname = \"p\"\naccount = \"acme\"\n{}", of("project")),
                format!("[[user]]\nname = \"ada\"\naccount = \"acme\"\n{}", of("user")),
                key("caller", KEY, &format!("{owned}{}", of("key"))),
                key("sister", "sk-sister", owned),
            ];
            let models = [model("m", ""), model("n", "")].concat();
            let setup = Setup::to(upstream.addr).models(&models).keys(&tables.concat());
            let gateway = setup.more(&price("m")).more(&price("n")).start();
            assert_eq!(ask(gateway.addr, KEY, request()).status, 200);
            let message = broke(&ask(gateway.addr, KEY, request()));
            assert!(message.starts_with(&format!("the {scope}'s total budget of ")), "{message}");
            assert_eq!(message.contains("for model m"), of_model, "{message}");
            let sister = ask(gateway.addr, "sk-sister", request());
            assert_eq!(sister.status, if scope == "key" { 200 } else { 429 }, "{scope}");
            let other = ask(gateway.addr, KEY, sized("n", false, 10, 200));
            assert_eq!(other.status, if of_model { 200 } else { 429 }, "{scope} {of_model}");
        }
    }
}

#[test]
fn the_status_of_a_refusal_for_money_can_be_402() {
    let upstream = quick();
    let limits = "{ budget = [{ amount = \"0.0001\", overrun = \"strict\" }], parallel = 0 }";
    let gateway = priced(&upstream, limits).server("over_budget_status = 402").start();
    // Of two limits that lack room the one that waiting does not cure is told.
    let answer = ask(gateway.addr, KEY, request());
    let money = priced(&upstream, "{ budget = [{ amount = \"0.0001\", overrun = \"strict\" }] }")
        .server("over_budget_status = 402")
        .start();
    assert_eq!(answer.header("x-should-retry"), Some("false"));
    let answer = ask(money.addr, KEY, request());
    answer.expect_error(402, "insufficient_quota");
    assert_eq!(answer.json()["error"]["type"], "insufficient_quota");
    assert_eq!(answer.header("x-should-retry"), Some("false"));
    assert_eq!(answer.header("retry-after"), None);
    let limited = priced(&upstream, "{ rpm = 0 }").server("over_budget_status = 402").start();
    assert_eq!(ask(limited.addr, KEY, request()).status, 429, "only for money");
}

#[test]
fn several_periods_hold_at_once() {
    let upstream = quick();
    let day = 24 * 3_600_000;
    for (small, name, longest) in [
        ("daily", "daily budget", day),
        ("weekly", "weekly budget", 7 * day),
        ("monthly", "monthly budget", 31 * day),
        ("3d", "budget for 3 days", 3 * day),
    ] {
        let amount = micro(RESERVED + COST);
        let limits = format!(
            "{{ budget = [{{ amount = \"10\", per = \"total\", overrun = \"strict\" }}, \
             {{ amount = \"{amount}\", per = \"{small}\", overrun = \"strict\" }}] }}"
        );
        let gateway = priced(&upstream, &limits).start();
        for _ in 0..2 {
            assert_eq!(ask(gateway.addr, KEY, request()).status, 200);
        }
        let answer = ask(gateway.addr, KEY, request());
        let message = refused(&answer, "insufficient_quota");
        assert!(message.starts_with(&format!("the key's {name} of ")), "{message}");
        assert!(message.contains("it has room again in "), "{message}");
        // The next period's begin is told, but a client must not ask again by itself.
        assert_eq!(answer.header("x-should-retry"), Some("false"));
        let ms: u64 = answer.header("retry-after-ms").expect("a time").parse().expect("a number");
        assert!(ms <= longest + 3_600_000, "{small}: {ms}");
        let seconds = answer.header("retry-after").expect("a time");
        assert_eq!(seconds, ms.div_ceil(1000).to_string());
        let budgets = usage(&gateway, "keys/caller")["budget"].clone();
        assert_eq!(budgets[0]["spent"], budgets[1]["spent"], "both count: {budgets}");
        assert_eq!((&budgets[0]["per"], &budgets[1]["per"]), (&"total".into(), &small.into()));
        assert!(budgets[1]["resets_at"].as_str().is_some_and(|at| at.contains("T00:00:00")));
    }
}

#[test]
fn a_soft_budget_admits_and_raises_one_alert() {
    let upstream = quick();
    let limits = "{ budget = [{ amount = \"0.00002\", per = \"daily\", soft = true }] }";
    let gateway = priced(&upstream, limits).start();
    let passed = || gateway.metric("foretoken_soft_budgets_passed_total", &[]);
    assert_eq!(ask(gateway.addr, KEY, request()).status, 200);
    assert_eq!(passed(), 0.0, "0.000013 of 0.00002 are spent");
    for _ in 0..3 {
        assert_eq!(ask(gateway.addr, KEY, request()).status, 200);
        assert_eq!(passed(), 1.0);
    }
    let state = budget(&gateway, "keys/caller");
    assert_eq!((&state["soft"], &state["spent"]), (&true.into(), &"0.000052".into()), "{state}");
    assert_eq!(state["remaining"], "0");
}

#[test]
fn a_prepaid_account_is_served_as_long_as_its_balance_lasts() {
    let upstream = Gate::using(7, 3);
    let account = format!(
        "[[account]]\nname = \"acme\"\nbilling = \"prepaid\"\nbalance = \"{}\"\n\
         limits = {{ overrun = \"strict\" }}\n\
         [[project]]\nname = \"p\"\naccount = \"acme\"\n",
        micro(RESERVED + COST)
    );
    let keys = key("caller", KEY, "project = \"p\"");
    let setup = Setup::to(upstream.addr).models(&model("m", "")).keys(&keys);
    let gateway = setup.more(&account).more(&price("m")).start();
    let mut first = begin(gateway.addr, KEY, request());
    eventually("it is upstream", || upstream.count() == 1);
    let message = broke(&ask(gateway.addr, KEY, request()));
    assert!(
        message.starts_with("the account's prepaid balance has 0.000013 USD left"),
        "{message}"
    );
    assert!(message.ends_with("top it up"), "{message}");
    upstream.open(2);
    assert_eq!(first.answer().status, 200);
    assert_eq!(ask(gateway.addr, KEY, request()).status, 200, "equality admits");
    broke(&ask(gateway.addr, KEY, request()));
    let balance = usage(&gateway, "accounts/acme")["balance"].clone();
    assert_eq!((&balance["spent"], &balance["reserved"]), (&"0.000026".into(), &"0".into()));
}

#[test]
fn a_model_without_a_price_is_refused_free_or_at_the_default() {
    let upstream = quick();
    let models = [
        model("refused", "unpriced = \"refuse\""),
        model("free", "unpriced = \"free\""),
        model("standard", "unpriced = \"default\""),
        model("dear", "unpriced = \"refuse\""),
    ];
    let gateway = Setup::to(upstream.addr)
        .models(&models.concat())
        .more("[prices]\ndefault = { input = \"10\", output = \"20\" }")
        .more(&price("dear"))
        .start();
    let answer = ask(gateway.addr, KEY, chat("refused", false, "x"));
    answer.expect_error(403, "model_unpriced");
    assert_eq!(answer.header("x-should-retry"), Some("false"));
    assert!(answer.text().contains("the model `refused` has no price here"), "{}", answer.text());
    assert_eq!(upstream.count(), 0);
    for (name, cost, unpriced) in
        [("free", "0", true), ("standard", "0.00013", false), ("dear", "0.000013", false)]
    {
        let answer = ask(gateway.addr, KEY, chat(name, false, "x"));
        assert_eq!(answer.status, 200, "{name}: {}", answer.text());
        let record = record_of(&gateway, &answer);
        assert_eq!((&record["cost"], &record["charge"]), (&cost.into(), &cost.into()), "{record}");
        assert_eq!(record["unpriced"], unpriced, "{record}");
        assert_eq!(record["price_version"].is_null(), unpriced, "{record}");
    }
    assert_eq!(gateway.metric("foretoken_unpriced_total", &[]), 1.0);
    let sums = gateway.admin("GET", "/admin/v1/usage?group_by=model").json();
    let free =
        sums["data"].as_array().and_then(|rows| rows.iter().find(|it| it["model"] == "free"));
    assert_eq!(free.map(|row| &row["unpriced"]), Some(&json!(1)), "{sums}");
}

#[test]
fn price_groups_markups_and_currencies_make_the_charge() {
    let upstream = quick();
    let account = |name: &str, lines: &str| {
        format!(
            "[[account]]\nname = \"{name}\"\n{lines}\n\
             [[project]]\nname = \"{name}\"\naccount = \"{name}\"\n{}",
            key(name, &format!("sk-{name}"), &format!("project = \"{name}\""))
        )
    };
    let resale = "[[price]]\nprovider = \"up\"\nmodel = \"m\"\ngroup = \"resale\"\ninput = \"3\"\noutput = \"4\"\n";
    let tables = [
        "[[price_group]]\nname = \"plus\"\nmarkup = \"1.5\"\n".to_owned(),
        "[[price_group]]\nname = \"resale\"\nmarkup = \"2\"\n".into(),
        "[[rate]]\nfrom = \"EUR\"\nto = \"USD\"\nrate = \"1.25\"\n".into(),
        resale.into(),
        price("m"),
        price("n"),
        account("plain", ""),
        account("marked", "markup = \"1.1\""),
        account("plus", "price_group = \"plus\""),
        account("resale", "price_group = \"resale\""),
        account("euro", "currency = \"EUR\"\nmarkup = \"1.5\""),
        account("euroresale", "currency = \"EUR\"\nprice_group = \"resale\""),
    ];
    let models = [model("m", ""), model("n", "")].concat();
    let gateway = Setup::to(upstream.addr).models(&models).keys(&tables.concat()).start();
    // 7 in and 3 out: 0.000013 of cost, 0.000033 at resale prices; a euro is 1.25 dollars.
    for (name, asked, cost, charge, currency, rate) in [
        ("plain", "m", "0.000013", "0.000013", "USD", "1"),
        ("marked", "m", "0.000013", "0.0000143", "USD", "1"),
        ("plus", "m", "0.000013", "0.0000195", "USD", "1"),
        ("resale", "m", "0.000013", "0.000033", "USD", "1"),
        ("resale", "n", "0.000013", "0.000026", "USD", "1"),
        ("euro", "m", "0.0000104", "0.0000156", "EUR", "0.8"),
        ("euroresale", "m", "0.0000104", "0.0000264", "EUR", "0.8"),
    ] {
        let answer = ask(gateway.addr, &format!("sk-{name}"), chat(asked, false, "x"));
        assert_eq!(answer.status, 200, "{name}: {}", answer.text());
        let record = record_of(&gateway, &answer);
        let money = (&record["cost"], &record["charge"], &record["currency"], &record["fx_rate"]);
        let want = (&cost.into(), &charge.into(), &currency.into(), &rate.into());
        assert_eq!(money, want, "{name} {asked}");
    }
    let sums = sought(&gateway, "/admin/v1/usage?group_by=account", |sums| {
        (sums["data"].as_array()?.len() == 6).then(|| sums["data"].clone())
    });
    for row in sums.as_array().expect("a list") {
        let euro = row["account"].as_str().is_some_and(|name| name.starts_with("euro"));
        assert_eq!(row["currency"], if euro { "EUR" } else { "USD" }, "{row}");
    }
}

/// The budget counts what is charged, in the account's own money, and reserves just so.
#[test]
fn a_budget_is_in_the_accounts_money() {
    let upstream = Gate::using(7, 3);
    // 220 tokens' dollars are 176 millionths of a euro, and 264 with the markup.
    let tables = [
        "[[rate]]\nfrom = \"EUR\"\nto = \"USD\"\nrate = \"1.25\"\n",
        "[[account]]\nname = \"a\"\ncurrency = \"EUR\"\nmarkup = \"1.5\"\n",
        "limits = { budget = [{ amount = \"0.000264\", overrun = \"strict\" }] }\n",
        "[[project]]\nname = \"p\"\naccount = \"a\"\n",
    ];
    let keys = [tables.concat(), key("caller", KEY, "project = \"p\"")].concat();
    let setup = Setup::to(upstream.addr).models(&model("m", "")).keys(&keys).more(&price("m"));
    let gateway = setup.start();
    let mut first = begin(gateway.addr, KEY, request());
    eventually("it is upstream", || upstream.count() == 1);
    let state = budget(&gateway, "accounts/a");
    assert_eq!((&state["reserved"], &state["remaining"]), (&"0.000264".into(), &"0".into()));
    assert!(broke(&ask(gateway.addr, KEY, request())).contains("0 EUR left of the 0.000264 EUR"));
    upstream.open(1);
    assert_eq!(first.answer().status, 200);
    let state = budget(&gateway, "accounts/a");
    assert_eq!((&state["spent"], &state["reserved"]), (&"0.0000156".into(), &"0".into()));
}

#[test]
fn a_target_that_takes_any_model_is_priced_by_the_name_that_is_passed_on() {
    let upstream = quick();
    let prices = [
        price("gpt-*"),
        "[[price]]\nprovider = \"up\"\nmodel = \"gpt-4o\"\ninput = \"100\"\noutput = \"100\"\n"
            .into(),
    ];
    let models = "[[model]]\nname = \"*\"\nunpriced = \"refuse\"\n\
                  targets = [{ provider = \"up\", model = \"*\" }]\n";
    let keys = key("caller", KEY, "aliases = { \"best\" = \"gpt-4o\" }");
    let gateway =
        Setup::to(upstream.addr).models(models).keys(&keys).more(&prices.concat()).start();
    for (asked, cost) in
        [("gpt-4o-mini", "0.000013"), ("gpt-4o", "0.001"), ("best", "0.001"), ("gpt-5", "0.000013")]
    {
        for stream in [false, true] {
            let answer = ask(gateway.addr, KEY, chat(asked, stream, "x"));
            assert_eq!(answer.status, 200, "{asked}: {}", answer.text());
            let record = record_of(&gateway, &answer);
            assert_eq!((&record["cost"], &record["model"]), (&cost.into(), &asked.into()));
        }
    }
    ask(gateway.addr, KEY, chat("claude", false, "x")).expect_error(403, "model_unpriced");
}

/// Raising an amount keeps what is spent; and a price of the admin API counts at once.
#[test]
fn budgets_and_prices_can_be_changed_while_they_are_used() {
    let upstream = quick();
    let gateway = Setup::to(upstream.addr).models(&model("m", "")).more(&price("m")).start();
    let limits = |amount: u64| json!({"budget": [{"amount": micro(amount), "per": "total", "overrun": "strict"}]});
    let made = admin(
        &gateway,
        "POST",
        "/admin/v1/keys",
        &json!({"name": "made", "limits": limits(RESERVED)}),
    );
    assert_eq!(made.status, 201, "{}", made.text());
    let made = made.json();
    let (id, secret) = (made["id"].as_str().expect("an id"), made["secret"].as_str().expect("one"));
    assert_eq!(ask(gateway.addr, secret, request()).status, 200);
    broke(&ask(gateway.addr, secret, request()));
    let path = format!("/admin/v1/keys/{id}");
    let patched = admin(&gateway, "PATCH", &path, &json!({"limits": limits(RESERVED + COST)}));
    assert_eq!(patched.status, 200, "{}", patched.text());
    let state = budget(&gateway, &format!("keys/{id}"));
    assert_eq!(state["spent"], "0.000013", "{state}");
    assert_eq!(ask(gateway.addr, secret, request()).status, 200, "on the very next request");
    broke(&ask(gateway.addr, secret, request()));
}

/// Several callers at the same moment: never more than one gets the last money.
#[test]
fn the_last_money_is_given_once() {
    let upstream = Gate::using(7, 3);
    let limits =
        format!("{{ budget = [{{ amount = \"{}\", overrun = \"strict\" }}] }}", micro(RESERVED));
    let gateway = priced(&upstream, &limits).workers(2).start();
    let (sender, answers) = channel();
    for _ in 0..16 {
        let (sender, addr) = (sender.clone(), gateway.addr);
        std::thread::spawn(move || sender.send(ask(addr, KEY, request())));
    }
    drop(sender);
    let first: Vec<Answer> = (0..15).map(|_| answers.recv().expect("an answer")).collect();
    first.iter().for_each(|answer| drop(broke(answer)));
    upstream.open(1);
    assert_eq!(answers.recv().expect("the last").status, 200);
    assert_eq!(upstream.count(), 1);
}
