//! What callers notice of what is administered, and what nobody may notice: keys that change while
//! connections are open, prices and rates on the next record, secrets, and a log that cannot be forged.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::admin_api::{Api, ask, ask_for, text};
use crate::support::client::{encode, find};
use crate::support::process::{Process, foretoken, run};
use crate::support::{
    ADMIN_TOKEN, Answer, Gateway, KEY, Raw, Setup, SimServer, UPSTREAM_KEY, WAIT, chat, eventually,
    request,
};

const CHAT: &str = "/v1/chat/completions";
/// Within this time a change is in force everywhere. It is in fact when the call has been answered.
const PROMISED: Duration = Duration::from_secs(1);

fn post_with(secret: &str) -> Vec<u8> {
    let bearer = format!("Bearer {secret}");
    encode("POST", CHAT, &[("authorization", &bearer)], chat("m", false, "Hello"))
}

/// Connections that are kept, so many that each worker has some.
fn connections(gateway: &Gateway) -> Vec<Raw> {
    (0..12).map(|_| Raw::connect(gateway.addr)).collect()
}

/// Until every one of the connections is answered so, for the promised time.
#[track_caller]
fn all_answer(connections: &mut [Raw], secret: &str, status: u16, what: &str) {
    let since = Instant::now();
    for raw in connections.iter_mut() {
        loop {
            raw.send(post_with(secret));
            let answer = raw.answer();
            if answer.status == status {
                break;
            }
            let told = format!("{what}: {} {}", answer.status, answer.text());
            assert!(since.elapsed() < PROMISED, "{told}");
        }
    }
}

#[test]
fn case_53_a_key_that_is_changed_is_so_on_every_worker_at_once() {
    let sim = SimServer::with(|_| {});
    let gateway = Setup::to(sim.addr).workers(2).start();
    let owner = Api::owner(&gateway);
    let secret = text(&owner.made("keys", json!({"name": "chat"})), "secret");
    let mut open = connections(&gateway);
    all_answer(&mut open, &secret, 200, "made");
    owner.post("/keys/chat/block");
    all_answer(&mut open, &secret, 403, "blocked");
    owner.post("/keys/chat/unblock");
    all_answer(&mut open, &secret, 200, "unblocked");
    owner.good("PATCH", "/keys/chat", json!({"models": ["other"]}));
    all_answer(&mut open, &secret, 403, "not this model");
    owner.good("PATCH", "/keys/chat", json!({"models": null}));
    all_answer(&mut open, &secret, 200, "all models");
    owner.good("PATCH", "/keys/chat", json!({"limits": {"rpm": 1}}));
    all_answer(&mut open, &secret, 429, "limited, and what was used counts");
    owner.good("PATCH", "/keys/chat", json!({"limits": null}));
    all_answer(&mut open, &secret, 200, "not limited");

    // Rotated without a grace: the old secret is out, the new one in.
    let rotated = owner.good("POST", "/keys/chat/rotate", json!({"grace": "0s"}));
    let new = text(&rotated, "secret");
    all_answer(&mut open, &secret, 401, "rotated out");
    all_answer(&mut open, &new, 200, "rotated in");
    // With one, both are good.
    let newer = text(&owner.good("POST", "/keys/chat/rotate", json!({"grace": "1h"})), "secret");
    assert!(owner.get("/keys/chat")["previous_valid_until"].is_string());
    all_answer(&mut open, &new, 200, "within the grace");
    all_answer(&mut open, &newer, 200, "the new one");

    owner.good("DELETE", "/keys/chat", Value::Null);
    all_answer(&mut open, &newer, 401, "deleted");
    owner.post("/keys/chat/restore");
    all_answer(&mut open, &newer, 200, "restored");
    all_answer(&mut open, &new, 401, "only the current one comes back");
    owner.post("/projects/default/block");
    all_answer(&mut open, &newer, 403, "its project is blocked");
    all_answer(&mut open, KEY, 200, "the file's key is not");
    owner.post("/projects/default/unblock");
    all_answer(&mut open, &newer, 200, "and unblocked");
    owner.good("DELETE", "/keys/chat", Value::Null);
    owner.post("/keys/chat/purge");
    all_answer(&mut open, &newer, 401, "purged");
    owner.call("POST", "/keys/chat/restore", &json!({})).expect_error(404, "not_found");
}

#[test]
fn case_47_secrets_and_tokens_that_begin_alike_are_told_apart() {
    let sim = SimServer::with(|_| {});
    let gateway = Setup::to(sim.addr).start();
    let owner = Api::owner(&gateway);
    let start = "sk-0123456789abcdef0"; // 20 characters
    for end in ["one", "two"] {
        let body = json!({"name": end, "secret": format!("{start}-{end}"), "models": [end]});
        let made = owner.made("keys", body);
        assert!(made["secret"].is_null(), "a secret that was brought along is not sent back");
    }
    for (end, model, status) in
        [("-one", "one", 200), ("-two", "two", 200), ("-one", "two", 403), ("-two", "one", 403)]
    {
        assert_eq!(ask_for(gateway.addr, &format!("{start}{end}"), model).status, status, "{end}");
    }
    for end in ["", "-", "-on", "-one ", "-one1", "-ONE"] {
        let secret = format!("{start}{end}");
        let want = if end == "-one " { 200 } else { 401 };
        assert_eq!(ask_for(gateway.addr, &secret, "one").status, want, "{end:?}");
    }
    // On the admin port only a whole token is one, and a caller's key is none.
    let vera = text(&owner.made("principals", json!({"name": "v", "role": "viewer"})), "token");
    for (token, status) in [
        (vera.clone(), 200),
        (vera[..20].to_owned(), 401),
        (format!("{vera}x"), 401),
        (format!("{start}-one"), 401),
        (KEY.to_owned(), 401),
        (ADMIN_TOKEN[..20].to_owned(), 401),
    ] {
        let api = Api { addr: gateway.admin, token };
        assert_eq!(api.call("GET", "/keys", &Value::Null).status, status, "{}", api.token);
    }
    // And a token opens nothing on the data port.
    ask(gateway.addr, &vera).expect_error(401, "invalid_api_key");
    ask(gateway.addr, ADMIN_TOKEN).expect_error(401, "invalid_api_key");
}

#[test]
fn case_51_sql_in_tokens_names_and_filters_is_only_text() {
    let sim = SimServer::with(|_| {});
    let gateway = Setup::to(sim.addr).start();
    let owner = Api::owner(&gateway);
    owner.made("keys", json!({"name": "chat"}));
    let texts = [
        "' OR '1'='1",
        "'; DROP TABLE objects; --",
        "x' UNION SELECT * FROM secrets --",
        "\" OR 1=1 --",
        "%",
        "_",
        "*",
    ];
    for sql in texts {
        ask(gateway.addr, sql).expect_error(401, "invalid_api_key");
        let api = Api { addr: gateway.admin, token: sql.into() };
        api.call("GET", "/keys", &Value::Null).expect_error(401, "unauthorized");
        let encoded: String = sql.bytes().map(|byte| format!("%{byte:02X}")).collect();
        owner.call("GET", &format!("/keys/{encoded}"), &Value::Null).expect_error(404, "not_found");
        for path in ["usage?key", "usage?project", "requests?account"] {
            let answer = owner.call("GET", &format!("/{path}={encoded}"), &Value::Null);
            answer.expect_error(404, "not_found");
        }
        let report = owner.get(&format!("/usage?model={encoded}"));
        assert_eq!(report["data"], json!([]), "{sql}");
        owner.bad("GET", &format!("/keys?cursor={encoded}"), &Value::Null, 400, "cursor");
        // As a name it is one.
        let made = owner.made("keys", json!({"name": sql, "metadata": {"note": sql}}));
        assert_eq!((&made["name"], &made["metadata"]["note"]), (&json!(sql), &json!(sql)));
        assert_eq!(owner.get(&format!("/keys/{encoded}"))["id"], made["id"]);
        assert_eq!(ask_for(gateway.addr, &text(&made, "secret"), sql).status, 200, "{sql}");
    }
    let count = owner.get("/keys?limit=1000")["data"].as_array().expect("rows").len();
    assert_eq!(count, texts.len() + 2);
    assert_eq!(owner.post("/audit/verify")["ok"], true);
}

#[test]
fn prices_and_rates_that_are_set_count_and_are_on_the_record() {
    let sim = SimServer::with(|_| {});
    let filed = "[[price]]\nprovider = \"up\"\nmodel = \"filed\"\ninput = \"3\"\noutput = \"3\"\n";
    let gateway = Setup::to(sim.addr).more(filed).start();
    let owner = Api::owner(&gateway);
    owner.made("accounts", json!({"name": "eu", "currency": "EUR", "markup": "2"}));
    owner.made("projects", json!({"name": "eu", "account": "eu"}));
    let euro = text(&owner.made("keys", json!({"name": "k", "project": "eu"})), "secret");

    let record = |answer: &Answer| -> Value {
        assert_eq!(answer.status, 200, "{}", answer.text());
        let path = format!("/requests/{}", answer.header("x-request-id").expect("an id"));
        eventually("it is booked", || owner.call("GET", &path, &Value::Null).status == 200);
        owner.get(&path)
    };
    // The first record that is so: a change is in force shortly after its answer.
    let until = |secret: &str, is: &dyn Fn(&Value) -> bool| -> Value {
        let since = Instant::now();
        loop {
            let booked = record(&ask(gateway.addr, secret));
            if is(&booked) {
                return booked;
            }
            assert!(since.elapsed() < WAIT, "it does not come to count: {booked}");
        }
    };
    // In units of the last digit, exactly: tokens x price.
    let pico = |value: &Value| foretoken::money::parse_amount(value.as_str().expect("money"));
    let tokens = |record: &Value| {
        let units = record["units"].as_object().expect("units").values();
        units.map(|count| u128::from(count.as_u64().expect("a count"))).sum::<u128>()
    };
    let free = record(&ask(gateway.addr, KEY));
    assert_eq!((&free["cost"], &free["unpriced"]), (&json!("0"), &json!(true)));
    assert!(free["price_version"].is_null(), "{free}");

    let body = json!({"provider": "up", "model": "m", "input": "7", "output": "7"});
    let price = owner.made("prices", body);
    let priced = until(KEY, &|booked| booked["price_version"] == price["version"]);
    assert_eq!(pico(&priced["cost"]), Ok(tokens(&priced) * 7_000_000), "{priced}");
    assert_eq!(priced["unpriced"], false);

    let id = text(&price, "id");
    let dearer =
        owner.good("PATCH", &format!("/prices/{id}"), json!({"input": "9", "output": "9"}));
    assert_ne!(dearer["version"], price["version"]);
    let second = until(KEY, &|booked| booked["price_version"] == dearer["version"]);
    assert_eq!(pico(&second["cost"]), Ok(tokens(&second) * 9_000_000));
    // The record of before stays as it was.
    assert_eq!(owner.get(&format!("/requests/{}", text(&priced, "id"))), priced);

    // Another currency: cost x markup x rate, and the rate is on the record.
    let rate = owner.made("rates", json!({"from": "USD", "to": "EUR", "rate": "0.5"}));
    let exchanged = until(&euro, &|booked| booked["fx_rate"] == "0.5");
    assert_eq!(exchanged["currency"], "EUR");
    assert_eq!(pico(&exchanged["charge"]), Ok(tokens(&exchanged) * 9_000_000), "{exchanged}");
    owner.good("PATCH", &format!("/rates/{}", text(&rate, "id")), json!({"rate": "0.25"}));
    let exchanged = until(&euro, &|booked| booked["fx_rate"] == "0.25");
    assert_eq!(pico(&exchanged["charge"]), Ok(tokens(&exchanged) * 4_500_000), "{exchanged}");

    // What the file says goes before.
    let body = json!({"provider": "up", "model": "filed", "input": "1", "output": "1"});
    let answer = owner.call("POST", "/prices", &body);
    assert!([201, 409].contains(&answer.status), "{}", answer.text());
    let of_file = record(&ask_for(gateway.addr, KEY, "filed"));
    assert_eq!(pico(&of_file["cost"]), Ok(tokens(&of_file) * 3_000_000), "{of_file}");
    // A price that is deleted counts no more.
    owner.good("DELETE", &format!("/prices/{id}"), Value::Null);
    until(KEY, &|booked| booked["price_version"].is_null() && booked["cost"] == "0");
}

/// A started binary with its store in `dir`, which says much in its log.
fn process(dir: &Path, sim: &SimServer) -> Process {
    let config = dir.join("foretoken.toml");
    let setup = Setup::to(sim.addr).store(&dir.join("books.db"));
    let text = setup.access_log(&dir.join("access.log")).text();
    std::fs::write(&config, text.replace("level = \"error\"", "level = \"debug\""))
        .expect("written");
    Process::serve(&config)
}

#[test]
fn secrets_are_shown_once_and_kept_nowhere() {
    let dir = tempfile::tempdir().expect("a directory");
    let sim = SimServer::with(|_| {});
    let mut process = process(dir.path(), &sim);
    let owner = Api { addr: process.admin, token: ADMIN_TOKEN.into() };
    let made = owner.made("keys", json!({"name": "chat"}));
    let mut secrets = vec![text(&made, "secret")];
    secrets.push(text(&owner.post("/keys/chat/rotate"), "secret"));
    let brought = "sk-brought-along-0123456789";
    owner.made("keys", json!({"name": "brought", "secret": brought}));
    let vera = owner.made("principals", json!({"name": "vera", "role": "viewer"}));
    secrets.push(text(&vera, "token"));
    secrets.push(text(&owner.post("/principals/vera/rotate"), "token"));
    // Refused ones, too: a viewer's attempt, a name that is taken, a wrong field.
    let viewer = Api { addr: process.admin, token: secrets[3].clone() };
    let canary = "sk-canary-0123456789abcdef";
    for (api, body) in [
        (&viewer, json!({"name": "x", "secret": canary})),
        (&owner, json!({"name": "chat", "secret": canary})),
        (&owner, json!({"name": "x", "secret": canary, "tags": 5})),
        (&owner, json!({"name": "x", "secret": canary, "sha256": "00"})),
    ] {
        let answer = api.call("POST", "/keys", &body);
        assert!(answer.status >= 400 && !answer.text().contains(canary), "{}", answer.text());
    }
    let keyed = [("idempotency-key", "one")];
    let body = json!({"name": "once"}).to_string();
    secrets.push(text(&owner.send("POST", "/keys", &keyed, &body).json(), "secret"));
    for secret in [&secrets[1], brought, canary, KEY] {
        ask(process.addr, secret);
    }
    secrets.extend([brought, canary, KEY, UPSTREAM_KEY, ADMIN_TOKEN].map(str::to_owned));

    let answers: String = [
        "/keys?status=all",
        "/keys/chat",
        "/principals",
        "/principals/vera",
        "/audit?limit=1000",
        "/config",
        "/status",
        "/routes",
        "/requests",
        "/usage?group_by=key",
    ]
    .map(|path| owner.call("GET", path, &Value::Null).text())
    .concat();
    let metrics = request(process.admin, "GET", "/metrics", &[], b"").text();
    process.signal(libc::SIGTERM);
    assert!(process.wait().success());
    let mut places = vec![("answers".to_owned(), answers.into_bytes())];
    places.push(("metrics".to_owned(), metrics.into_bytes()));
    places.push(("the log".to_owned(), process.said().into_bytes()));
    let mut files = vec![dir.path().to_owned()];
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(
                std::fs::read_dir(&path).expect("listed").map(|it| it.expect("one").path()),
            );
        } else if !path.ends_with("foretoken.toml") {
            places.push((path.display().to_string(), std::fs::read(&path).expect("read")));
        }
    }
    assert!(places.len() >= 5, "store, journal and access log: {}", places.len());
    for (place, bytes) in &places {
        for secret in &secrets {
            assert!(find(bytes, secret.as_bytes()).is_none(), "{secret} is in {place}");
        }
    }
}

#[test]
fn a_forged_audit_log_is_found() {
    let dir = tempfile::tempdir().expect("a directory");
    let sim = SimServer::with(|_| {});
    let process = process(dir.path(), &sim);
    let owner = Api { addr: process.admin, token: ADMIN_TOKEN.into() };
    for at in 0..5 {
        owner.made("keys", json!({"name": format!("key-{at}")}));
    }
    let verify = |head: Option<&str>| {
        let mut command = foretoken();
        command.args(["audit", "verify", "--admin", &format!("http://{}", process.admin)]);
        command.env("FORETOKEN_ADMIN_TOKEN", ADMIN_TOKEN).current_dir(dir.path());
        if let Some(head) = head {
            command.args(["--head", head]);
        }
        run(&mut command)
    };
    let (code, told, err) = verify(None);
    assert_eq!(code, 0, "{told}{err}");
    let head = told.trim().rsplit(' ').next().expect("a head").to_owned();
    assert!(head.starts_with("5:"), "{told}");
    assert_eq!(verify(Some(&head)).0, 0);

    let database = rusqlite::Connection::open(dir.path().join("books.db")).expect("opened");
    database.busy_timeout(Duration::from_secs(10)).expect("set");
    let forge = |sql: &str| database.execute_batch(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
    // The simplest attempts are refused by the database.
    for sql in ["UPDATE audit SET actor = 'x' WHERE seq = 2", "DELETE FROM audit WHERE seq = 2"] {
        assert!(database.execute_batch(sql).is_err(), "{sql}");
    }
    forge("DROP TRIGGER audit_unchanged; DROP TRIGGER audit_kept; DROP TRIGGER audit_appended;");
    forge("CREATE TABLE copied AS SELECT * FROM audit;");
    for sql in [
        "UPDATE audit SET actor = 'x' WHERE seq = 2",
        "UPDATE audit SET time_unix_ms = time_unix_ms + 1 WHERE seq = 3",
        "UPDATE audit SET after = replace(after, 'key-1', 'key-9') WHERE seq = 2",
        "UPDATE audit SET hash = (SELECT hash FROM audit WHERE seq = 1) WHERE seq = 5",
        "DELETE FROM audit WHERE seq = 2",
        "DELETE FROM audit WHERE seq = 1",
        "DELETE FROM audit WHERE seq = 5",
        "DELETE FROM audit",
    ] {
        forge(sql);
        let (code, told, err) = verify(None);
        assert_eq!(code, 1, "{sql}: {told}{err}");
        assert!(err.contains("THE AUDIT LOG IS BROKEN"), "{sql}: {err}");
        forge("DELETE FROM audit; INSERT INTO audit SELECT * FROM copied;");
        assert_eq!(verify(None).0, 0, "whole again after {sql}");
    }
    // A tail that is cut off with care leaves a chain that holds: the kept head tells.
    forge("DELETE FROM audit WHERE seq > 3");
    forge("UPDATE audit_head SET count = 3, hash = (SELECT hash FROM audit WHERE seq = 3)");
    let (code, told, err) = verify(Some(&head));
    assert_eq!(code, 1, "{told}{err}");
    assert!(err.contains("THE AUDIT LOG IS BROKEN"), "{err}");
    for wrong in ["5", "5:00", "x:00"] {
        assert_eq!(verify(Some(wrong)).0, 2, "{wrong}");
    }
}
