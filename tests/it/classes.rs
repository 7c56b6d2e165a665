//! What an upstream's fault is to the caller, row by row: status, type, code, whether asking again
//! is of use, and whether another upstream is asked before.

use crate::fleet::{ask, expect_text, fleet, saying};
use crate::support::upstream::answer;
use crate::support::{Answer, Scripted};

/// A fault as an upstream tells it, and what becomes of it.
struct Row {
    status: u16,
    headers: &'static [(&'static str, &'static str)],
    body: &'static str,
    /// What the caller sees.
    seen: (u16, &'static str, &'static str),
    elsewhere: bool,
}

const fn row(
    status: u16,
    body: &'static str,
    seen: (u16, &'static str, &'static str),
    elsewhere: bool,
) -> Row {
    Row { status, headers: &[], body, seen, elsewhere }
}

const BARE: &str = "";
const PAGE: &str = "<html><body>Bad Gateway</body></html>";
const FAILED: (u16, &str, &str) = (502, "server_error", "upstream_error");
const BUSY: (u16, &str, &str) = (503, "server_error", "upstream_unavailable");
const LATE: (u16, &str, &str) = (504, "server_error", "upstream_timeout");
const LIMITED: (u16, &str, &str) = (429, "rate_limit_error", "upstream_rate_limited");
const OUR_KEY: (u16, &str, &str) = (502, "server_error", "upstream_auth_error");
const MISSING: (u16, &str, &str) = (404, "invalid_request_error", "model_not_found");

macro_rules! said {
    ($type:literal, $code:literal) => {
        concat!(
            "{\"error\":{\"message\":\"said by the upstream\",\"type\":\"",
            $type,
            "\",\"param\":null,\"code\":\"",
            $code,
            "\"}}"
        )
    };
}

/// Faults that are not the caller's: the message is ours.
const OF_THE_UPSTREAM: &[Row] = &[
    row(500, said!("server_error", "server_error"), FAILED, true),
    row(500, BARE, FAILED, true),
    row(502, PAGE, FAILED, true),
    row(520, PAGE, FAILED, true),
    row(527, BARE, FAILED, true),
    row(424, said!("server_error", "model_error"), FAILED, true),
    row(302, BARE, FAILED, true),
    row(503, BARE, BUSY, true),
    row(529, said!("overloaded_error", "overloaded"), BUSY, true),
    row(500, said!("overloaded_error", "x"), BUSY, true),
    row(504, PAGE, LATE, true),
    row(408, said!("timeout_error", "timeout"), LATE, true),
    row(429, said!("requests", "rate_limit_exceeded"), LIMITED, true),
    row(429, BARE, LIMITED, true),
    row(429, said!("insufficient_quota", "insufficient_quota"), BUSY, true),
    row(402, said!("x", "x"), BUSY, true),
    row(429, said!("x", "monthly_spend_limit_reached"), BUSY, true),
    row(401, said!("invalid_request_error", "invalid_api_key"), OUR_KEY, true),
    row(401, BARE, OUR_KEY, true),
    row(403, said!("permission_error", "x"), OUR_KEY, true),
    row(404, said!("invalid_request_error", "model_not_found"), MISSING, true),
    row(404, said!("x", "DeploymentNotFound"), MISSING, true),
    row(404, BARE, MISSING, true),
    row(403, said!("x", "unsupported_country_region_territory"), FAILED, true),
];

/// Faults of the request: status, body and all are the upstream's.
const OF_THE_REQUEST: &[Row] = &[
    row(
        400,
        said!("invalid_request_error", "bad_thing"),
        (400, "invalid_request_error", "bad_thing"),
        false,
    ),
    row(
        409,
        said!("invalid_request_error", "conflict"),
        (409, "invalid_request_error", "conflict"),
        false,
    ),
    row(
        413,
        said!("invalid_request_error", "too_big"),
        (413, "invalid_request_error", "too_big"),
        false,
    ),
    row(415, said!("invalid_request_error", "kind"), (415, "invalid_request_error", "kind"), false),
    row(
        422,
        said!("invalid_request_error", "field"),
        (422, "invalid_request_error", "field"),
        false,
    ),
    row(
        431,
        said!("invalid_request_error", "heads"),
        (431, "invalid_request_error", "heads"),
        false,
    ),
    row(
        400,
        said!("invalid_request_error", "context_length_exceeded"),
        (400, "invalid_request_error", "context_length_exceeded"),
        false,
    ),
    row(400, said!("x", "content_filter"), (400, "x", "content_filter"), false),
    row(
        400,
        said!("invalid_request_error", "content_policy_violation"),
        (400, "invalid_request_error", "content_policy_violation"),
        false,
    ),
    row(
        403,
        "{\"error\":{\"message\":\"flagged\",\"type\":\"t\",\"code\":\"c\",\
         \"metadata\":{\"reasons\":[\"x\"]}}}",
        (403, "t", "c"),
        false,
    ),
];

fn upstream(row: &'static Row) -> Scripted {
    Scripted::answering(move |_| {
        let mut headers = row.headers.to_vec();
        headers.push(("content-type", "application/json"));
        answer(row.status, &headers, row.body)
    })
}

#[track_caller]
fn seen(answer: &Answer) -> (u16, String, String) {
    let json = answer.json();
    let field = |name: &str| json["error"][name].as_str().unwrap_or_default().to_owned();
    (answer.status, field("type"), field("code"))
}

fn check(row: &'static Row, stream: bool) -> Answer {
    let what = format!("{} {}", row.status, row.body);
    let bad = upstream(row);
    let alone = fleet(&[bad.addr], "").start();
    let answer = ask(alone.addr, stream);
    let (status, kind, code) = row.seen;
    assert_eq!(seen(&answer), (status, kind.to_owned(), code.to_owned()), "{what}");
    assert_eq!(answer.header("content-type"), Some("application/json"), "{what}");
    let error = &answer.json()["error"];
    assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{what}");
    let text = answer.text();
    assert!(!text.contains("127.0.0.1") && !text.contains("served"), "{what}: {text}");
    // Only waiting cures anything, and then the caller is told how long.
    let curable = matches!(answer.status, 429 | 503);
    let should_retry = answer.header("x-should-retry");
    assert_eq!(should_retry, (!curable).then_some("false"), "{what}");
    for name in ["retry-after", "retry-after-ms"] {
        assert_eq!(answer.header(name).is_some(), curable, "{what}: {name}");
    }

    let bad = upstream(row);
    let well = saying("from the second");
    let two = fleet(&[bad.addr, well.addr], "").start();
    let answer = ask(two.addr, stream);
    if row.elsewhere {
        expect_text(&answer, "from the second");
    } else {
        assert_eq!(answer.status, status, "{what}");
    }
    assert_eq!((bad.count(), well.count()), (1, usize::from(row.elsewhere)), "{what}");
    answer
}

#[test]
fn faults_of_an_upstream_are_tried_elsewhere_and_told_in_our_words() {
    for (at, row) in OF_THE_UPSTREAM.iter().enumerate() {
        check(row, at % 2 == 0);
    }
}

#[test]
fn our_own_words_do_not_hold_the_upstreams() {
    for row in OF_THE_UPSTREAM {
        let bad = upstream(row);
        let answer = ask(fleet(&[bad.addr], "").start().addr, false);
        assert!(!answer.text().contains("said by the upstream"), "{}", answer.text());
    }
}

#[test]
fn faults_of_the_request_are_told_as_the_upstream_told_them_and_not_tried_elsewhere() {
    for (at, row) in OF_THE_REQUEST.iter().enumerate() {
        let answer = check(row, at % 2 == 0);
        assert_eq!(answer.text(), row.body);
    }
}

#[test]
fn a_fault_of_the_request_costs_the_upstream_no_trust() {
    let row = &OF_THE_REQUEST[0];
    let bad = upstream(row);
    let well = saying("from the second");
    let gateway = fleet(&[bad.addr, well.addr], "").start();
    for _ in 0..10 {
        assert_eq!(ask(gateway.addr, false).status, 400);
    }
    assert_eq!((bad.count(), well.count()), (10, 0));
}

#[test]
fn nobody_listens_or_nobody_answers() {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let nobody = socket.local_addr().expect("an address");
    drop(socket);
    for stream in [false, true] {
        let answer = ask(fleet(&[nobody], "").start().addr, stream);
        assert_eq!(seen(&answer), (502, "server_error".into(), "upstream_error".into()));
        assert_eq!(answer.header("x-should-retry"), Some("false"));
        let well = saying("from the second");
        let gateway = fleet(&[nobody, well.addr], "").start();
        expect_text(&ask(gateway.addr, stream), "from the second");
    }
    let silent = Scripted::start(|peer| {
        peer.request();
        peer.wait_closed();
    });
    let answer =
        ask(fleet(&[silent.addr], "timeouts = { first_content = \"200ms\" }").start().addr, false);
    assert_eq!(seen(&answer), (504, "server_error".into(), "upstream_timeout".into()));
    assert_eq!(answer.header("x-should-retry"), Some("false"));
}
