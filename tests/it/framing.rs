//! HTTP/1.1 that two parsers could read differently: one error, a closed connection, and nothing of
//! it upstream.

use crate::support::client::{encode, encode_post, find};
use crate::support::frames::{self, END_HEADERS, END_STREAM, Frames, GOAWAY, HEADERS, RST_STREAM};
use crate::support::upstream::{completion, json};
use crate::support::{
    Gateway, H2, KEY, Raw, Scripted, Setup, chat, eventually, get, post, request,
};

const CHAT: &str = "/v1/chat/completions";

fn answering() -> (Scripted, Gateway) {
    let upstream = Scripted::answering(|_| json(200, &completion("fine")));
    let gateway = Setup::to(upstream.addr).start();
    (upstream, gateway)
}

/// A whole, good request: what an attacker would like to be read as one.
fn smuggled() -> Vec<u8> {
    encode_post(CHAT, chat("smuggled", false, "x"))
}

/// Sends `bytes` and then a good request; the answer must be one error, and the end.
#[track_caller]
fn refused(gateway: &Gateway, bytes: &[u8], status: u16) {
    let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(300)]).into_owned();
    let mut raw = Raw::connect(gateway.addr);
    // A refusal may come (and the connection close) before everything is sent.
    let _ = raw.try_send([bytes, &smuggled()].concat());
    let answer = raw.answer();
    assert_eq!(answer.status, status, "{shown:?}: {}", answer.text());
    assert_eq!(answer.json()["error"]["type"], "invalid_request_error", "{shown:?}");
    assert_eq!(answer.header("connection"), Some("close"), "{shown:?}");
    let rest = raw.rest();
    assert!(rest.is_empty(), "{shown:?} got a second answer: {}", String::from_utf8_lossy(&rest));
}

fn head_with(version: &str, fields: &str) -> String {
    format!(
        "POST {CHAT} {version}\r\nhost: gateway.test\r\nauthorization: Bearer {KEY}\r\n{fields}\r\n"
    )
}

#[test]
fn case_01_bodies_of_two_lengths() {
    let (upstream, gateway) = answering();
    let body = chat("m", false, "x");
    let length = body.len();
    let chunked = format!("{length:x}\r\n{body}\r\n0\r\n\r\n");
    for (fields, body) in [
        (format!("content-length: {length}\r\ntransfer-encoding: chunked\r\n"), &chunked),
        ("transfer-encoding: chunked\r\ncontent-length: 0\r\n".into(), &chunked),
        (format!("content-length: {length}\r\ncontent-length: {length}\r\n"), &body),
        (format!("content-length: {length}\r\nContent-Length: 0\r\n"), &body),
        (format!("content-length: {length}, {length}\r\n"), &body),
        (format!("content-length: +{length}\r\n"), &body),
        (format!("content-length: -{length}\r\n"), &body),
        (format!("content-length: 0x{length:x}\r\n"), &body),
        (format!("content-length: {length} \t1\r\n"), &body),
        ("content-length: \r\n".into(), &body),
        ("content-length: 99999999999999999999999999\r\n".into(), &body),
        (format!("content-length : {length}\r\n"), &body),
        (format!("content-length\r\n: {length}\r\n"), &body),
        ("transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n".into(), &chunked),
        ("transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n".into(), &chunked),
        ("transfer-encoding: chunked, chunked\r\n".into(), &chunked),
        ("transfer-encoding: gzip, chunked\r\n".into(), &chunked),
        ("transfer-encoding: identity\r\n".into(), &chunked),
        ("transfer-encoding: xchunked\r\n".into(), &chunked),
        ("transfer-encoding: \"chunked\"\r\n".into(), &chunked),
        ("transfer-encoding:\x0bchunked\r\n".into(), &chunked),
        ("transfer-encoding: chunked\r\n folded: 1\r\n".into(), &chunked),
        ("x: y\r\n transfer-encoding: chunked\r\n".into(), &chunked),
    ] {
        refused(&gateway, format!("{}{body}", head_with("HTTP/1.1", &fields)).as_bytes(), 400);
    }
    assert_eq!(upstream.count(), 0, "{:?}", upstream.requests());
}

#[test]
fn case_02_chunks_that_overflow_and_bare_line_feeds() {
    let (upstream, gateway) = answering();
    let body = chat("m", false, "x");
    let size = format!("{:x}", body.len());
    let head = head_with("HTTP/1.1", "transfer-encoding: chunked\r\n");
    for chunks in [
        format!("ffffffffffffffff0{size}\r\n{body}\r\n0\r\n\r\n"),
        format!("10000000000000000{size}\r\n{body}\r\n0\r\n\r\n"),
        format!("-{size}\r\n{body}\r\n0\r\n\r\n"),
        format!("+{size}\r\n{body}\r\n0\r\n\r\n"),
        format!("0x{size}\r\n{body}\r\n0\r\n\r\n"),
        format!(" {size}\r\n{body}\r\n0\r\n\r\n"),
        format!("{size} \r\n{body}\r\n0\r\n\r\n"),
        format!("{size}\n{body}\r\n0\r\n\r\n"),
        format!("{size}\r{body}\r\n0\r\n\r\n"),
        format!("{size}\r\n{body}\n0\r\n\r\n"),
        format!("{size}\r\n{body}0\r\n\r\n"),
        format!("{size}\r\n{body}xx0\r\n\r\n"),
        format!("{size}\r\n{body}\r\n0\n\n"),
        format!("{size}\r\n{body}\r\n0\r\ntrailer: 1\n\r\n"),
        format!("{size}\r\n{body}\r\n\r\n"),
        format!("{size};a=\x01\r\n{body}\r\n0\r\n\r\n"),
        format!("{size};{}\r\n{body}\r\n0\r\n\r\n", "e".repeat(5000)),
        format!("{size}\r\n{body}\r\n0\r\nt: {}\r\n\r\n", "e".repeat(70_000)),
    ] {
        refused(&gateway, format!("{head}{chunks}").as_bytes(), 400);
    }
    for head in [
        format!("POST {CHAT} HTTP/1.1\nhost: h\ncontent-length: 2\n\n{{}}"),
        format!("POST {CHAT} HTTP/1.1\r\nhost: h\ncontent-length: 2\r\n\r\n{{}}"),
        format!("POST {CHAT} HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\n{{}}"),
        format!("POST {CHAT} HTTP/1.1\r\nhost: h\rcontent-length: 2\r\n\r\n{{}}"),
    ] {
        refused(&gateway, head.as_bytes(), 400);
    }
    assert_eq!(upstream.count(), 0, "{:?}", upstream.requests());
}

#[test]
fn case_03_http_1_0_without_a_length() {
    let (upstream, gateway) = answering();
    let body = chat("m", false, "x");
    let chunked = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    let coded = head_with("HTTP/1.0", "transfer-encoding: chunked\r\n");
    refused(&gateway, format!("{coded}{chunked}").as_bytes(), 400);
    let open = head_with("HTTP/1.0", "");
    refused(&gateway, format!("{open}{body}").as_bytes(), 400);
    assert_eq!(upstream.count(), 0, "{:?}", upstream.requests());

    // With a length it is a request like any other; one that must not be kept waiting for an end.
    let whole = head_with("HTTP/1.0", &format!("content-length: {}\r\n", body.len()));
    let mut raw = Raw::connect(gateway.addr);
    raw.send(format!("{whole}{body}"));
    assert_eq!(raw.answer().status, 200);
    raw.expect_end();
    assert_eq!(upstream.count(), 1);
}

#[test]
fn case_04_no_upgrade_and_what_follows_is_the_next_request() {
    let (upstream, gateway) = answering();
    let bearer = format!("Bearer {KEY}");
    for protocol in ["websocket", "h2c", "TLS/1.0"] {
        let fields = [
            ("authorization", bearer.as_str()),
            ("connection", "upgrade, http2-settings"),
            ("upgrade", protocol),
            ("http2-settings", "AAMAAABkAAQAAP__"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        let first = encode("POST", CHAT, &fields, chat("first", false, "x"));
        let second = encode_post(CHAT, chat("second", false, "x"));
        let mut raw = Raw::connect(gateway.addr);
        raw.send([first, second].concat());
        for _ in 0..2 {
            let answer = raw.answer();
            assert_eq!(answer.status, 200, "{}", answer.text());
            assert_eq!(answer.header("upgrade"), None);
        }
    }
    let requests = upstream.requests();
    let models: Vec<_> = requests.iter().map(|r| r.json()["model"].clone()).collect();
    assert_eq!(models, ["first", "second", "first", "second", "first", "second"]);
    for request in &requests {
        for name in ["upgrade", "http2-settings", "sec-websocket-key"] {
            assert_eq!(request.header(name), None, "{}", request.head);
        }
    }
}

#[test]
fn case_04_an_upstream_cannot_switch_protocols() {
    let upstream = Scripted::answering(|_| {
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}".to_vec()
    });
    let gateway = Setup::to(upstream.addr).server("[server.retry]\nattempts = 1").start();
    post(gateway.addr, CHAT, chat("m", false, "x")).expect_error(502, "upstream_error");
}

#[test]
fn case_05_early_401_with_unread_body() {
    let (upstream, gateway) = answering();
    let inner = smuggled();
    let wrong = [("authorization", "Bearer wrong")];

    // The body comes only after the answer, in two parts, and looks like a request itself.
    let whole = encode("POST", CHAT, &wrong, &inner);
    let (head, body) = whole.split_at(whole.len() - inner.len());
    let mut raw = Raw::connect(gateway.addr);
    raw.send(head);
    raw.answer().expect_error(401, "invalid_api_key");
    raw.send(&body[..10]);
    raw.send(&body[10..]);
    raw.send(encode_post(CHAT, chat("honest", false, "x")));
    assert_eq!(raw.answer().status, 200, "the connection is kept after a small body");
    assert_eq!(upstream.only().json()["model"], "honest");

    // All at once, chunked.
    let coded = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: h\r\nauthorization: Bearer wrong\r\n\
         transfer-encoding: chunked\r\n\r\n{:x}\r\n",
        inner.len()
    );
    let mut raw = Raw::connect(gateway.addr);
    raw.send([coded.as_bytes(), &inner, b"\r\n0\r\n\r\n"].concat());
    raw.answer().expect_error(401, "invalid_api_key");
    raw.send(encode_post(CHAT, chat("honest", false, "x")));
    assert_eq!(raw.answer().status, 200);
    assert_eq!(upstream.count(), 2);
    assert_eq!(upstream.requests()[1].json()["model"], "honest");
}

#[test]
fn case_05_an_early_answer_to_a_large_body_closes_the_connection() {
    let (upstream, gateway) = answering();
    let inner = smuggled();
    // More than anybody would drain: filled with requests from its first byte to its last.
    let large: Vec<u8> = inner.iter().copied().cycle().take(inner.len() * 20_000).collect();
    for (path, key, status, code) in
        [(CHAT, "wrong", 401, "invalid_api_key"), ("/v1/nothing", KEY, 404, "unknown_url")]
    {
        let bearer = format!("Bearer {key}");
        let whole = encode("POST", path, &[("authorization", &bearer)], &large);
        let mut raw = Raw::connect(gateway.addr);
        // The gateway stops reading at some point; what it has answered by then is to be read.
        raw.tcp().set_nonblocking(false).expect("blocking");
        raw.send(&whole[..whole.len() - large.len() + 100]);
        let answer = raw.answer();
        answer.expect_error(status, code);
        assert_eq!(answer.header("connection"), Some("close"));
        let _ = raw.try_send(&whole[whole.len() - large.len() + 100..]);
        let rest = raw.rest();
        assert!(rest.is_empty(), "{:?}", String::from_utf8_lossy(&rest));
    }
    assert_eq!(upstream.count(), 0, "nothing of the body was read as a request");
}

#[test]
fn case_05_a_caller_who_waits_for_100_continue() {
    let (upstream, gateway) = answering();
    let body = chat("m", false, "x");
    let head = |key: &str| {
        let fields = format!("expect: 100-continue\r\ncontent-length: {}\r\n", body.len());
        head_with("HTTP/1.1", &fields).replace(KEY, key)
    };
    let mut raw = Raw::connect(gateway.addr);
    raw.send(head(KEY));
    assert_eq!(raw.any_head().expect("an answer").status, 100);
    raw.send(&body);
    assert_eq!(raw.answer().status, 200);

    let mut raw = Raw::connect(gateway.addr);
    raw.send(head("wrong"));
    let answer = raw.any_head().expect("an answer");
    assert_eq!(answer.status, 401, "no body is asked for");
    // Whether the caller sends the body now cannot be known: no further request here.
    assert_eq!(answer.header("connection"), Some("close"));
    assert_eq!(upstream.count(), 1);
}

#[test]
fn case_05_early_answers_on_h2_leave_the_connection_alone() {
    let (upstream, gateway) = answering();
    let h2 = H2::connect(gateway.addr);
    for _ in 0..20 {
        // The body is never sent.
        let headers = [("authorization", "Bearer wrong")];
        let mut stream = h2.try_open("POST", CHAT, &headers, None).expect("a stream");
        let mut answer = stream.head();
        stream.rest_of(&mut answer);
        answer.expect_error(401, "invalid_api_key");
    }
    assert_eq!(h2.post(CHAT, chat("m", false, "x")).status, 200);
    assert_eq!(upstream.count(), 1);
}

#[test]
fn case_52_hosts_that_are_none() {
    let (upstream, gateway) = answering();
    for host in ["a/?#", "a/b", "a b", "user@a", "a\\b", "a?b", "a#b", "a,b", "", "\"a\"", "a\tb"] {
        let text = format!("GET /v1/models HTTP/1.1\r\nhost: {host}\r\n\r\n");
        refused(&gateway, text.as_bytes(), 400);
    }
    for text in [
        "GET /v1/models HTTP/1.1\r\n\r\n",
        "GET /v1/models HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n",
        "GET /v1/models HTTP/1.1\r\nhost: a\r\nHost: b\r\n\r\n",
        "GET http://a@b/v1/models HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET v1/models HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET /v1/models#x HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET /v1/models HTTP/1.2\r\nhost: a\r\n\r\n",
        "GET /v1/models HTTP/3.0\r\nhost: a\r\n\r\n",
        "GET  /v1/models HTTP/1.1\r\nhost: a\r\n\r\n",
        "G@T /v1/models HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET /v1/models HTTP/1.1\r\nhost: a\r\nx y: 1\r\n\r\n",
        "GET /v1/models HTTP/1.1\r\nhost: a\r\n: 1\r\n\r\n",
        "GET /v1/models HTTP/1.1\r\nhost: a\r\nx: a\0b\r\n\r\n",
    ] {
        refused(&gateway, text.as_bytes(), 400);
    }
    assert_eq!(upstream.count(), 0);
    // A name, an address and a port are fine.
    for host in ["gateway.test", "127.0.0.1:8080", "[::1]:8080", "a-b_c.test:1"] {
        let mut raw = Raw::connect(gateway.addr);
        raw.send(format!(
            "GET /v1/models HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {KEY}\r\n\r\n"
        ));
        assert_eq!(raw.answer().status, 200, "{host}");
    }
}

#[test]
fn case_52_authorities_that_are_none_on_h2() {
    let (upstream, gateway) = answering();
    let bearer = format!("Bearer {KEY}");
    let get = |fields: &[(&str, &str)]| {
        let mut frames = Frames::connect(gateway.addr, &[]);
        let block = frames::block(fields);
        frames.send(HEADERS, END_STREAM | END_HEADERS, 1, &block).expect("taken");
        let answer = frames.find(|f| {
            f.kind == GOAWAY || (f.stream == 1 && matches!(f.kind, HEADERS | RST_STREAM))
        });
        answer.expect("an answer")
    };
    let fields = |authority: &'static str, path: &'static str, host: Option<&'static str>| {
        let mut fields = vec![(":method", "GET"), (":scheme", "http"), (":path", path)];
        if !authority.is_empty() {
            fields.push((":authority", authority));
        }
        fields.push(("authorization", &bearer));
        fields.extend(host.map(|host| ("host", host)));
        get(&fields)
    };
    // `:status 200` is one byte, an index of the static table: 0x88.
    let good = fields("gateway.test", "/v1/models", None);
    assert!(good.kind == HEADERS && good.payload[0] == 0x88, "{good:?}");
    for (authority, path, host) in [
        ("a/?#", "/v1/models", None),
        ("u@a", "/v1/models", None),
        ("a b", "/v1/models", None),
        ("", "/v1/models", Some("a/?#")),
        ("gateway.test", "/v1/models", Some("a/?#")),
        ("gateway.test", "v1/models", None),
    ] {
        let answer = fields(authority, path, host);
        let is_error = answer.kind != HEADERS || answer.payload[0] != 0x88;
        assert!(is_error, "{authority:?} {path:?} {host:?} was taken");
    }
    assert_eq!(upstream.count(), 0);
}

#[test]
fn case_57_control_characters_split_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = dir.path().join("access.log");
    let upstream = Scripted::answering(|request| {
        if request.text().contains("odd-header") {
            let extra = "x-request-id: a\x0b{\"forged\":true}\u{85}\r\ncontent-type: application/json; x=\u{e9}\r\n";
            let body = completion("fine");
            let length = body.len();
            return format!("HTTP/1.1 200 OK\r\n{extra}content-length: {length}\r\n\r\n{body}")
                .into_bytes();
        }
        json(
            400,
            "{\"error\":{\"message\":\"no\\r\\nset-cookie: forged\\u0000\",\"type\":\"invalid_request_error\",\"param\":\"a\\r\\nb\",\"code\":\"c\\nd\"}}",
        )
    });
    let key = "[[key]]\nname = \"caller\\u000aforged\"\nsecret = \"K\"\n".replace('K', KEY);
    // A key name with a line break is either refused with the file or harmless.
    let named = Setup::to(upstream.addr).access_log(&log).keys(&key);
    let plain = Setup::to(upstream.addr).access_log(&log);
    let taken = foretoken::config::parse(&named.text(), "test", dir.path(), &|_| None).is_ok();
    let gateway = if taken { named.start() } else { plain.start() };

    let mut asked = 0;
    for model in ["a\\r\\nset-cookie: x", "a\\nb", "a\\u0000b", "a\\u0085\\u2028b", "a\\u007fb"] {
        let body = format!("{{\"model\":\"{model}\",\"messages\":[]}}");
        let answer = post(gateway.addr, CHAT, body);
        asked += 1;
        assert!(answer.status == 400, "{model}: {} {}", answer.status, answer.text());
        assert_eq!(answer.header("set-cookie"), None);
    }
    for path in ["/v1/models/a%0d%0aset-cookie:%20x", "/v1/%00%0a%0d", "/v1/models/%f0%28%8c%28"] {
        let answer = get(gateway.addr, path);
        asked += 1;
        // The name that the caller gave may come back, as JSON.
        assert!(matches!(answer.status, 200 | 404), "{path}: {}", answer.text());
        assert_eq!(answer.header("set-cookie"), None, "{path}");
        assert!(answer.json().is_object());
    }
    let bearer = format!("Bearer {KEY}");
    for value in ["a\u{85}b", "{\"forged\":true}", "\u{e9}", "a\tb"] {
        let headers =
            [("authorization", bearer.as_str()), ("traceparent", value), ("user-agent", value)];
        request(gateway.addr, "GET", "/v1/models", &headers, b"");
        asked += 1;
    }
    // The upstream's own words: an error with line breaks, and odd header values.
    let answer = post(gateway.addr, CHAT, chat("m", false, "x"));
    asked += 1;
    assert_eq!(answer.status, 400, "{}", answer.text());
    assert_eq!(answer.json()["error"]["message"], "no\r\nset-cookie: forged\0");
    assert_eq!(answer.header("set-cookie"), None);
    post(gateway.addr, CHAT, chat("m", false, "odd-header"));
    asked += 1;

    gateway.finish();
    let text = std::fs::read(&log).expect("a log");
    let text = String::from_utf8(text).expect("the log is UTF-8 whatever callers send");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), asked, "a line for each request, no more:\n{text}");
    for line in lines {
        let line: serde_json::Value = serde_json::from_str(line).expect("each line is JSON");
        assert!(line["forged"].is_null(), "{line}");
    }
}

#[test]
fn requests_cut_in_half_have_no_consequence() {
    let (upstream, gateway) = answering();
    let whole = encode_post(CHAT, chat("m", false, "hello"));
    let body_at = find(&whole, b"\r\n\r\n").expect("a head") + 4;
    for cut in [1, 10, body_at - 2, body_at, body_at + 1, whole.len() - 1] {
        let mut raw = Raw::connect(gateway.addr);
        raw.send(&whole[..cut]);
        raw.half_close();
        // An error is allowed, a success is not.
        let rest = raw.rest();
        assert!(find(&rest, b" 200 ").is_none(), "{cut}: {}", String::from_utf8_lossy(&rest));
        let mut raw = Raw::connect(gateway.addr);
        raw.send(&whole[..cut]);
        raw.reset();
    }
    eventually("no request is under way", || {
        gateway.metric("foretoken_connections", &["state=\"open\""]) == 0.0
    });
    assert_eq!(upstream.count(), 0);
    assert_eq!(post(gateway.addr, CHAT, chat("m", false, "hello")).status, 200);
}

#[test]
fn requests_are_the_same_wherever_they_are_cut() {
    let (upstream, gateway) = answering();
    let body = chat("m", false, "h\u{e9}llo");
    let plain = encode_post(CHAT, &body);
    let (one, two) = body.split_at(body.len() / 2);
    let coded = format!(
        "{}{:x};x=y\r\n{one}\r\n{:X}\r\n{two}\r\n0\r\nt: 1\r\n\r\n",
        head_with("HTTP/1.1", "Transfer-Encoding: Chunked\r\n"),
        one.len(),
        two.len()
    );
    let mut raw = Raw::connect(gateway.addr);
    let mut asked = 0;
    for whole in [plain.as_slice(), coded.as_bytes()] {
        for cut in 1..whole.len() {
            raw.send(&whole[..cut]);
            raw.send(&whole[cut..]);
            let answer = raw.answer();
            assert_eq!(answer.status, 200, "cut at {cut}: {}", answer.text());
            asked += 1;
        }
        // And every byte on its own.
        for byte in whole {
            raw.send([*byte]);
        }
        assert_eq!(raw.answer().status, 200);
        asked += 1;
    }
    let requests = upstream.requests();
    assert_eq!(requests.len(), asked);
    assert!(requests.iter().all(|r| r.body == body.as_bytes()));
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let upstream =
        Scripted::answering(|r| json(200, &completion(r.json()["model"].as_str().unwrap())));
    let gateway = Setup::to(upstream.addr).start();
    let requests: Vec<u8> =
        (0..20).flat_map(|i| encode_post(CHAT, chat(&format!("m{i}"), false, "x"))).collect();
    let mut raw = Raw::connect(gateway.addr);
    raw.send(requests);
    for i in 0..20 {
        let answer = raw.answer();
        assert_eq!(answer.json()["choices"][0]["message"]["content"], format!("m{i}"));
    }
}

#[test]
fn heads_are_bounded() {
    let (_upstream, gateway) = answering();
    let fields = |n: usize| -> String { (0..n).map(|i| format!("x-{i}: y\r\n")).collect() };
    let bearer = format!("authorization: Bearer {KEY}\r\n");
    let get = |path: &str, fields: &str| {
        let mut raw = Raw::connect(gateway.addr);
        let _ = raw.try_send(format!("GET {path} HTTP/1.1\r\nhost: h\r\n{bearer}{fields}\r\n"));
        raw.answer()
    };
    assert_eq!(get("/v1/models", &fields(90)).status, 200);
    get("/v1/models", &fields(101)).expect_error(431, "headers_too_large");
    get("/v1/models", &fields(3000)).expect_error(431, "headers_too_large");
    let long = format!("x: {}\r\n", "y".repeat(60_000));
    assert_eq!(get("/v1/models", &long).status, 200);
    let longer = format!("x: {}\r\n", "y".repeat(70_000));
    get("/v1/models", &longer).expect_error(431, "headers_too_large");
    assert_eq!(get(&format!("/v1/models?{}", "q".repeat(8000)), "").status, 200);
    assert_eq!(get(&format!("/v1/models?{}", "q".repeat(9000)), "").status, 414);
    // A head that never ends is not collected for ever.
    let mut raw = Raw::connect(gateway.addr);
    raw.send("GET /v1/models HTTP/1.1\r\n");
    let line = format!("x: {}\r\n", "y".repeat(1000));
    for _ in 0..10_000 {
        if raw.try_send(&line).is_err() {
            break;
        }
    }
    // Returns when the gateway closes the connection, and only then.
    raw.rest();
}
