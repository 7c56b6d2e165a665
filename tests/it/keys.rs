//! Who may do what: every way to present a key, and what a key is held to.

use crate::support::client::encode;
use crate::support::process::{Process, foretoken, run};
use crate::support::upstream::{completion, json};
use crate::support::{
    Answer, H2, KEY, Raw, Scripted, Setup, UPSTREAM_KEY, chat, eventually, request,
};

const CHAT: &str = "/v1/chat/completions";

fn fine() -> Scripted {
    Scripted::answering(|_| json(200, &completion("fine")))
}

fn key(name: &str, secret: &str, more: &str) -> String {
    format!("[[key]]\nname = \"{name}\"\nsecret = \"{secret}\"\n{more}\n")
}

#[track_caller]
fn with(addr: std::net::SocketAddr, path: &str, headers: &[(&str, &str)]) -> Answer {
    request(addr, "POST", path, headers, chat("m", false, "x"))
}

#[test]
fn case_46_unset_variables_and_empty_secrets_refuse_the_start() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = dir.path().join("edge.toml");
    std::fs::write(dir.path().join("empty"), "\n").expect("written");
    std::fs::write(dir.path().join("full"), "sk-from-a-file\n").expect("written");
    let upstream = fine();
    let base = Setup::to(upstream.addr).keys("");
    for (lines, says) in [
        (key("a", "env:FORETOKEN_TEST_UNSET", ""), "FORETOKEN_TEST_UNSET"),
        (key("a", "env:FORETOKEN_TEST_EMPTY", ""), "FORETOKEN_TEST_EMPTY"),
        (key("a", "env:", ""), "env:"),
        (key("a", "", ""), "empty"),
        (key("a", "file:empty", ""), "empty"),
        (key("a", "file:missing", ""), "missing"),
        (key("a", "file:", ""), "file:"),
        ("[[key]]\nname = \"a\"\n".to_owned(), "secret"),
    ] {
        base.clone().keys(&lines).write(&config);
        for verb in ["serve", "check"] {
            let mut command = foretoken();
            command.arg(verb).arg("--config").arg(&config);
            command.env_remove("FORETOKEN_TEST_UNSET").env("FORETOKEN_TEST_EMPTY", "");
            let (code, _, said) = run(&mut command);
            assert_eq!(code, 2, "{verb} {lines}: {said}");
            assert!(said.contains(says), "{verb} {lines}: {said}");
            assert!(said.contains("edge.toml:"), "with the place: {said}");
        }
    }
    // The same for what is presented upstream and for the admin API.
    for (from, to) in [
        (format!("api_key = \"{UPSTREAM_KEY}\""), "api_key = \"env:FORETOKEN_TEST_UNSET\""),
        (format!("token = \"{}\"", crate::support::ADMIN_TOKEN), "token = \"\""),
    ] {
        let text = Setup::to(upstream.addr).text();
        assert!(text.contains(&from));
        std::fs::write(&config, text.replace(&from, to)).expect("written");
        let (code, _, said) = run(foretoken().arg("serve").arg("--config").arg(&config));
        assert_eq!(code, 2, "{to}: {said}");
    }
    // And with everything set it starts, and the secrets are those of the file and the variable.
    base.keys(&[key("a", "env:FORETOKEN_TEST_SET", ""), key("b", "file:full", "")].concat())
        .write(&config);
    let mut command = foretoken();
    command.arg("serve").arg("--config").arg(&config).env("FORETOKEN_TEST_SET", "sk-from-env");
    let process = Process::spawn(command);
    for secret in ["sk-from-env", "sk-from-a-file"] {
        let bearer = format!("Bearer {secret}");
        let answer = with(process.addr, CHAT, &[("authorization", &bearer)]);
        assert_eq!(answer.status, 200, "{secret}: {}", answer.text());
    }
    for secret in ["env:FORETOKEN_TEST_SET", "file:full", "sk-from-a-file\\n", "sk-from"] {
        let bearer = format!("Bearer {secret}");
        let answer = with(process.addr, CHAT, &[("authorization", &bearer)]);
        answer.expect_error(401, "invalid_api_key");
    }
}

#[test]
fn case_47_keys_that_begin_alike() {
    let upstream = fine();
    let start = "sk-0123456789abcdef0"; // 20 characters
    let one = format!("{start}-one");
    let two = format!("{start}-two");
    let keys = [
        key("one", &one, "models = [\"m1\"]"),
        key("two", &two, "models = [\"m2\"]"),
        key("short", start, "models = [\"m3\"]"),
    ];
    let gateway = Setup::to(upstream.addr).keys(&keys.concat()).start();
    // Twice, so that whatever is remembered of the first round is used in the second.
    for _ in 0..2 {
        for (secret, own) in [(&one, "m1"), (&two, "m2"), (&start.to_owned(), "m3")] {
            let bearer = format!("Bearer {secret}");
            for model in ["m1", "m2", "m3"] {
                let headers = [("authorization", bearer.as_str())];
                let answer = request(gateway.addr, "POST", CHAT, &headers, chat(model, false, "x"));
                let want = if model == own { 200 } else { 403 };
                assert_eq!(answer.status, want, "{secret} {model}: {}", answer.text());
            }
        }
        for wrong in [
            format!("{start}-"),
            format!("{start}-on"),
            format!("{start}-onf"),
            format!("{start}-one "),
            format!("{start}-ONE"),
            format!("{start}-one{}", "x".repeat(5000)),
            start[..19].to_owned(),
        ] {
            let bearer = format!("Bearer {wrong}x").replace(" x", " y");
            let answer = with(gateway.addr, CHAT, &[("authorization", &bearer)]);
            answer.expect_error(401, "invalid_api_key");
        }
    }
}

#[test]
fn a_key_can_be_presented_in_every_usual_way() {
    let upstream = fine();
    let odd = "sk-odd/+=&%";
    let keys = [key("caller", KEY, ""), key("odd", odd, "")].concat();
    let gateway = Setup::to(upstream.addr).keys(&keys).start();
    let bearer = format!("Bearer {KEY}");
    let lower = format!("bearer   {KEY}  ");
    for headers in [
        &[("authorization", bearer.as_str())][..],
        &[("Authorization", lower.as_str())],
        &[("api-key", KEY)],
        &[("Api-Key", KEY)],
        &[("x-api-key", KEY)],
        &[("x-goog-api-key", KEY)],
        &[("authorization", "Basic dXNlcjpwYXNz"), ("x-api-key", KEY)],
    ] {
        assert_eq!(with(gateway.addr, CHAT, headers).status, 200, "{headers:?}");
    }
    let query = format!("{CHAT}?alt=sse&key={KEY}");
    assert_eq!(with(gateway.addr, &query, &[]).status, 200);
    let query = format!("{CHAT}?key=sk-odd%2F%2b%3D%26%25");
    assert_eq!(with(gateway.addr, &query, &[]).status, 200);
    let h2 = H2::connect(gateway.addr);
    for (name, value) in [("api-key", KEY), ("authorization", bearer.as_str())] {
        let answer = h2.request("POST", CHAT, &[(name, value)], chat("m", false, "x").as_bytes());
        assert_eq!(answer.status, 200, "{name}");
    }
    for request in upstream.requests() {
        assert_eq!(request.target(), "POST /v1/chat/completions", "no query is passed on");
        assert!(!request.head.contains(KEY), "{}", request.head);
    }
    let count = upstream.count();
    for headers in [
        &[][..],
        &[("authorization", "Bearer")],
        &[("authorization", "Bearer ")],
        &[("authorization", KEY)],
        &[("authorization", "Basic sk-caller")],
        &[("x-api-key", "")],
        &[("cookie", KEY)],
    ] {
        let answer = with(gateway.addr, CHAT, headers);
        answer.expect_error(401, "invalid_api_key");
        assert_eq!(answer.header("x-should-retry"), Some("false"), "{headers:?}");
    }
    // Case 51: whatever is in it, an unknown key is nothing but an unknown key.
    for secret in ["' OR 1=1 --", "\"; DROP TABLE keys; --", "*", "%", "../../etc/passwd", "\u{0}"]
    {
        let bearer = format!("Bearer {secret}");
        let mut raw = Raw::connect(gateway.addr);
        let request = encode("POST", CHAT, &[("authorization", &bearer)], chat("m", false, "x"));
        let _ = raw.try_send(request);
        let status = raw.answer().status;
        assert!(matches!(status, 400 | 401), "{secret:?}: {status}");
    }
    // A wrong key in one place is not made good by a right one in another.
    let wrong = [("authorization", "Bearer wrong"), ("x-api-key", KEY)];
    with(gateway.addr, CHAT, &wrong).expect_error(401, "invalid_api_key");
    assert_eq!(upstream.count(), count);
}

#[test]
fn keys_are_held_to_models_endpoints_networks_and_dates() {
    let upstream = fine();
    let keys = [
        key("models", "sk-models", "models = [\"gpt-*\", \"o1\"]\ndeny_models = [\"*-secret\"]"),
        key("endpoints", "sk-endpoints", "endpoints = [\"embeddings\", \"models\"]"),
        key("elsewhere", "sk-elsewhere", "cidrs = [\"10.0.0.0/8\", \"fd00::/8\"]"),
        key("here", "sk-here", "cidrs = [\"127.0.0.0/8\"]"),
        key("expired", "sk-expired", "expires_at = \"2020-01-31T00:00:00Z\""),
        key("lasting", "sk-lasting", "expires_at = \"2999-01-31T00:00:00Z\""),
    ];
    let models = "[[model]]\nname = \"*\"\ntargets = [{ provider = \"up\", model = \"*\" }]\n";
    let gateway = Setup::to(upstream.addr).keys(&keys.concat()).models(models).start();
    let ask = |secret: &str, path: &str, body: String| {
        let bearer = format!("Bearer {secret}");
        request(gateway.addr, "POST", path, &[("authorization", &bearer)], body)
    };
    for (model, ok) in [
        ("gpt-4o", true),
        ("gpt-", true),
        ("o1", true),
        ("gpt", false),
        ("o1-mini", false),
        ("xgpt-4o", false),
        ("GPT-4o", false),
        ("gpt-4o-secret", false),
        ("gpt-*", true),
        ("*", false),
    ] {
        let answer = ask("sk-models", CHAT, chat(model, false, "x"));
        if ok {
            assert_eq!(answer.status, 200, "{model}: {}", answer.text());
        } else {
            answer.expect_error(403, "model_not_allowed");
            assert_eq!(answer.json()["error"]["param"], "model");
        }
    }
    let embed = || "{\"model\":\"m\",\"input\":\"x\"}".to_owned();
    ask("sk-endpoints", CHAT, chat("m", false, "x")).expect_error(403, "endpoint_not_allowed");
    assert_eq!(ask("sk-endpoints", "/v1/embeddings", embed()).status, 200);
    for path in ["/v1/key", "/v1/usage"] {
        let bearer = [("authorization", "Bearer sk-endpoints")];
        let own = request(gateway.addr, "GET", path, &bearer, b"");
        assert_eq!(own.status, 200, "{path}: what it is and has used, a key may always see");
    }
    ask("sk-elsewhere", CHAT, chat("m", false, "x")).expect_error(403, "address_not_allowed");
    assert_eq!(ask("sk-here", CHAT, chat("m", false, "x")).status, 200);
    // Nobody is believed what they say of their address.
    let headers = [("authorization", "Bearer sk-elsewhere"), ("x-forwarded-for", "10.0.0.1")];
    with(gateway.addr, CHAT, &headers).expect_error(403, "address_not_allowed");
    ask("sk-expired", CHAT, chat("m", false, "x")).expect_error(403, "key_disabled");
    assert_eq!(ask("sk-lasting", CHAT, chat("m", false, "x")).status, 200);
}

#[test]
fn a_trusted_proxy_is_believed_and_nobody_further_left() {
    let upstream = fine();
    let keys = key("k", KEY, "cidrs = [\"10.0.0.0/8\"]");
    let gateway =
        Setup::to(upstream.addr).server("trusted_proxies = [\"127.0.0.1\"]").keys(&keys).start();
    let bearer = format!("Bearer {KEY}");
    for (forwarded, status) in [
        ("10.1.2.3", 200),
        ("6.6.6.6, 10.1.2.3", 200),
        ("10.1.2.3, 6.6.6.6", 403),
        ("10.1.2.3, 127.0.0.1", 200),
        ("nonsense", 403),
        ("10.1.2.3, nonsense", 403),
        ("", 403),
    ] {
        let headers = [("authorization", bearer.as_str()), ("x-forwarded-for", forwarded)];
        assert_eq!(with(gateway.addr, CHAT, &headers).status, status, "{forwarded:?}");
    }
}

#[test]
fn the_list_of_models_is_that_of_the_key() {
    let upstream = fine();
    let model = |name: &str| {
        format!(
            "[[model]]\nname = \"{name}\"\ntargets = [{{ provider = \"up\", model = \"x\" }}]\n"
        )
    };
    let models =
        [model("gpt-a"), model("gpt-b"), model("org/other:free"), model("wild/*")].concat();
    let keys = [
        key("all", "sk-all", ""),
        key("some", "sk-some", "models = [\"gpt-*\"]\ndeny_models = [\"gpt-b\"]"),
        key("none", "sk-none", "models = []"),
        key("blind", "sk-blind", "endpoints = [\"chat\"]"),
    ];
    let gateway = Setup::to(upstream.addr).models(&models).keys(&keys.concat()).start();
    let ask = |secret: &str, path: &str| {
        let bearer = format!("Bearer {secret}");
        request(gateway.addr, "GET", path, &[("authorization", &bearer)], b"")
    };
    let list = |secret: &str| -> Vec<String> {
        let answer = ask(secret, "/v1/models");
        assert_eq!(answer.status, 200, "{}", answer.text());
        let list = answer.json();
        assert_eq!(list["object"], "list");
        let data = list["data"].as_array().expect("a list");
        data.iter().map(|model| model["id"].as_str().expect("an id").to_owned()).collect()
    };
    let sorted = |mut names: Vec<String>| {
        names.sort();
        names
    };
    assert_eq!(sorted(list("sk-all")), ["gpt-a", "gpt-b", "org/other:free"]);
    assert_eq!(list("sk-some"), ["gpt-a"]);
    assert_eq!(list("sk-none"), Vec::<String>::new());
    ask("sk-blind", "/v1/models").expect_error(403, "endpoint_not_allowed");
    for (secret, id, status) in [
        ("sk-all", "gpt-b", 200),
        ("sk-some", "gpt-a", 200),
        ("sk-some", "gpt-b", 404),
        ("sk-all", "nothing", 404),
        ("sk-all", "org/other:free", 200),
        ("sk-all", "org%2Fother%3Afree", 200),
    ] {
        let answer = ask(secret, &format!("/v1/models/{id}"));
        assert_eq!(answer.status, status, "{secret} {id}: {}", answer.text());
    }
    // Not to be told from one that does not exist.
    let hidden = ask("sk-some", "/v1/models/gpt-b").text().replace("gpt-b", "X");
    assert_eq!(hidden, ask("sk-some", "/v1/models/gpt-z").text().replace("gpt-z", "X"));
}

#[test]
fn a_made_admin_token_is_shown_once_and_kept_to_its_owner() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().expect("a directory");
    let config = dir.path().join("edge.toml");
    let upstream = fine();
    let setup = Setup::to(upstream.addr).store(&dir.path().join("books"));
    let token = format!("token = \"{}\"\n", crate::support::ADMIN_TOKEN);
    let text = setup.text();
    assert!(text.contains(&token));
    std::fs::write(&config, text.replace(&token, "")).expect("written");
    let process = Process::serve(&config);
    eventually("the token is told", || process.said().contains("admin token"));
    let said = process.said();
    let line = said.lines().find(|line| line.contains("admin token")).expect("a line");
    let made = line.rsplit(' ').next().expect("a token");
    assert!(made.len() >= 32, "{made}");
    let bearer = format!("Bearer {made}");
    let answer =
        request(process.admin, "GET", "/admin/v1/status", &[("authorization", &bearer)], b"");
    assert_eq!(answer.status, 200);
    let kept: Vec<_> = std::fs::read_dir(dir.path())
        .expect("listed")
        .map(|entry| entry.expect("one").path())
        .filter(|path| path.is_file())
        .filter(|path| std::fs::read_to_string(path).is_ok_and(|text| text.contains(made)))
        .collect();
    assert_eq!(kept.len(), 1, "{kept:?}");
    let mode = std::fs::metadata(&kept[0]).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "{kept:?}");
}
