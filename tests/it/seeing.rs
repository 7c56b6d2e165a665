//! What operators see: one line per request with the right numbers, metrics, health, ids, traces.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::fleet::{ask, expect_text, fleet, good, saying};
use crate::support::client::{encode, encode_post};
use crate::support::upstream::answer;
use crate::support::{
    Answer, H2, KEY, Raw, Scripted, Setup, SimServer, chat, eventually, post, request,
};

const CHAT: &str = "/v1/chat/completions";

fn lines(path: &std::path::Path) -> BTreeMap<String, Value> {
    let text = std::fs::read_to_string(path).expect("a log");
    text.lines()
        .map(|line| {
            let line: Value = serde_json::from_str(line).expect("one JSON object per line");
            (line["id"].as_str().expect("an id").to_owned(), line)
        })
        .collect()
}

#[track_caller]
fn id(answer: &Answer) -> String {
    answer.header("x-request-id").expect("an id").to_owned()
}

/// A ULID: 26 characters of Crockford's alphabet, the first at most 7.
fn is_ulid(id: &str) -> bool {
    let alphabet = |c: char| c.is_ascii_digit() || (c.is_ascii_uppercase() && !"ILOU".contains(c));
    id.len() == 26 && id.chars().all(alphabet) && id.as_bytes()[0] <= b'7'
}

#[test]
fn every_request_has_one_line_with_the_right_numbers() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = dir.path().join("access.log");
    let sim = SimServer::start();
    let gateway = Setup::to(sim.addr).access_log(&log).start();
    let h2 = H2::connect(gateway.addr);
    let body = chat("gpt-x", false, "Hello");
    let whole = post(gateway.addr, CHAT, &body);
    let usage = whole.json()["usage"].clone();
    let streamed = h2.post(CHAT, chat("gpt-x", true, "Hello"));
    let failed = post(gateway.addr, CHAT, chat("sim-error-503", false, "Hello"));
    let limited = post(gateway.addr, CHAT, chat("sim-429", false, "Hello"));
    let foreign = request(gateway.addr, "POST", CHAT, &[("authorization", "Bearer x")], &body);
    let unknown = post(gateway.addr, "/v1/no/such", "{}");
    let broken = post(gateway.addr, CHAT, "{\"model\":");
    let models = request(
        gateway.addr,
        "GET",
        "/v1/models",
        &[("authorization", &format!("Bearer {KEY}"))],
        "",
    );
    let all = [&whole, &streamed, &failed, &limited, &foreign, &unknown, &broken, &models];
    let ids: Vec<String> = all.iter().map(|answer| id(answer)).collect();
    assert!(ids.iter().all(|id| is_ulid(id)), "{ids:?}");
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), all.len(), "ids are unique");
    gateway.finish();

    let lines = lines(&log);
    assert_eq!(lines.len(), all.len(), "one line each: {lines:?}");
    for (answer, id) in all.iter().zip(&ids) {
        let line = &lines[id];
        assert_eq!(line["status"], answer.status, "{line}");
        assert_eq!(line["bytes_out"], answer.body.len(), "{line}");
        assert_eq!(line["client"], "127.0.0.1", "{line}");
    }
    let line = |answer: &Answer| &lines[&id(answer)];

    let first = line(&whole);
    for (name, want) in [
        ("protocol", "h1"),
        ("key", "caller"),
        ("project", "default"),
        ("account", "default"),
        ("endpoint", "chat"),
        ("model", "gpt-x"),
        ("target", "up/*"),
    ] {
        assert_eq!(first[name], want, "{first}");
    }
    assert_eq!(first["bytes_in"], body.len());
    assert_eq!(first["attempts"], 1);
    assert_eq!((&first["stream"], &first["error"]), (&false.into(), &Value::Null));
    assert_eq!(first["upstream_request_id"].as_str(), whole.header("x-upstream-request-id"));
    let overhead = whole.header("x-foretoken-overhead-us").expect("an overhead");
    assert_eq!(first["overhead_us"].to_string(), overhead);
    let us =
        |line: &Value, name: &str| line[name].as_u64().unwrap_or_else(|| panic!("{name}: {line}"));
    // A whole answer has no first token to speak of.
    assert!(us(first, "overhead_us") <= us(first, "total_us"), "{first}");
    assert_eq!(first["ttft_us"], Value::Null, "{first}");

    let second = line(&streamed);
    assert_eq!((&second["protocol"], &second["stream"]), (&"h2".into(), &true.into()));
    assert!(us(second, "overhead_us") <= us(second, "ttft_us"), "{second}");
    assert!(us(second, "ttft_us") <= us(second, "total_us"), "{second}");
    for line in [first, second] {
        assert_eq!(line["tokens_in"], usage["prompt_tokens"], "{line}");
        assert_eq!(line["tokens_out"], usage["completion_tokens"], "{line}");
    }
    for (answer, error, key) in [
        (&failed, "overloaded", Some("caller")),
        (&limited, "rate_limited", Some("caller")),
        (&foreign, "invalid_key", None),
        (&unknown, "unknown_url", None),
        (&broken, "invalid_json", Some("caller")),
    ] {
        let line = line(answer);
        assert_eq!(line["error"], error, "{line}");
        assert_eq!(line["key"].as_str(), key, "{line}");
        assert_eq!(line["tokens_out"], 0, "{line}");
    }
    assert_eq!(line(&foreign)["attempts"], 0);
    assert_eq!(line(&models)["endpoint"], "models");
}

#[test]
fn lines_that_cannot_be_written_are_counted() {
    let well = saying("well");
    let gateway = fleet(&[well.addr], "").access_log(std::path::Path::new("/dev/full")).start();
    for _ in 0..5 {
        expect_text(&ask(gateway.addr, false), "well");
    }
    eventually("the lost lines are counted", || {
        gateway.metric("foretoken_access_log_dropped_total", &[]) == 5.0
    });
    let status = gateway.admin("GET", "/admin/v1/status").json();
    assert_eq!(status["access_log_dropped"], 5);
}

#[test]
fn metrics_tell_what_happened() {
    let limited = Scripted::answering(|_| answer(429, &[("retry-after", "30")], ""));
    let well = saying("well");
    let gateway = fleet(&[limited.addr, well.addr], "").start();
    for stream in [false, true, true] {
        expect_text(&ask(gateway.addr, stream), "well");
    }
    post(gateway.addr, CHAT, chat("none", false, "Hello")).expect_error(404, "model_not_found");
    let metric = |name: &str, labels: &[&str]| gateway.metric(name, labels);
    let served = ["model=\"m\"", "target=\"second/served\""];
    // A request is counted when it is over, a moment after the caller has its answer.
    eventually("all are counted", || metric("foretoken_requests_total", &[]) == 4.0);
    let of = |more: &'static str| [served[0], served[1], more];
    assert_eq!(metric("foretoken_requests_total", &of("status=\"200\"")), 3.0);
    assert_eq!(metric("foretoken_requests_total", &["status=\"404\""]), 1.0);
    assert_eq!(metric("foretoken_requests_refused_total", &["kind=\"unknown_model\""]), 1.0);
    // Of the two streams: a whole answer has no first token to speak of.
    assert_eq!(metric("foretoken_ttft_seconds_count", &served), 2.0);
    assert_eq!(metric("foretoken_ttft_seconds_bucket", &of("le=\"+Inf\"")), 2.0);
    assert!(metric("foretoken_ttft_seconds_sum", &served) > 0.0);
    assert_eq!(metric("foretoken_overhead_seconds_count", &[]), 3.0);
    assert_eq!(metric("foretoken_inflight", &served), 0.0);
    // The whole answer tells its usage (7 and 3); the streams of this upstream do not.
    let tokens = |kind| metric("foretoken_tokens_total", &["model=\"m\"", kind]);
    assert!(tokens("kind=\"in_text\"") >= 7.0 && tokens("kind=\"out_text\"") >= 3.0);
    let attempts = |labels: &[&str]| gateway.metric("foretoken_attempts_total", labels);
    assert_eq!(attempts(&["target=\"second/served\""]), 3.0, "{}", gateway.metrics());
    assert_eq!(attempts(&["target=\"up/served\"", "outcome=\"rate_limited\""]), 1.0);
    assert_eq!(metric("foretoken_breaker_state", &["target=\"second/served\""]), 0.0);
    let idle = ["protocol=\"h1\"", "state=\"idle\""];
    let origin = format!("origin=\"{}\"", well.addr);
    eventually("the warm connection is shown", || {
        gateway.metric("foretoken_pool_connections", &[&origin, idle[0], idle[1]]) == 1.0
    });
    assert_eq!(metric("foretoken_config_generation", &[]), 1.0);
    assert_eq!(metric("foretoken_config_last_reload_success", &[]), 1.0);
    assert_eq!(metric("foretoken_access_log_dropped_total", &[]), 0.0);
}

#[test]
fn metrics_are_well_formed_and_name_no_caller() {
    let well = saying("well");
    let gateway = fleet(&[well.addr], "").start();
    expect_text(&ask(gateway.addr, false), "well");
    eventually("it is counted", || gateway.metric("foretoken_requests_total", &[]) == 1.0);
    let scraped = gateway.admin("GET", "/metrics");
    let kind = scraped.header("content-type").expect("a type");
    assert!(kind.starts_with("text/plain; version=0.0.4"), "{kind}");
    let text = scraped.text();
    let mut described = BTreeSet::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let name = rest.split(' ').next().expect("a name");
            assert!(described.insert(name.to_owned()), "{name} is described twice");
            continue;
        }
        if line.starts_with("# HELP ") {
            continue;
        }
        let (series, value) = line.rsplit_once(' ').expect("a sample");
        assert!(value.parse::<f64>().is_ok(), "{line}");
        let name = series.split('{').next().expect("a name");
        let family = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|end| name.strip_suffix(end).filter(|base| described.contains(*base)))
            .unwrap_or(name);
        assert!(described.contains(family), "{name} is not described");
        let known = ["foretoken_", "process_"].iter().any(|prefix| name.starts_with(prefix));
        assert!(known, "{name}");
    }
    let samples: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let told = |word| samples.iter().any(|line| line.contains(word));
    assert!(!told("caller") && !told("default") && !told("Hello"), "{text}");
}

#[test]
fn health_needs_no_token() {
    let well = saying("well");
    let gateway = fleet(&[well.addr], "").start();
    for path in ["/health/live", "/health/ready"] {
        let mut caller = Raw::connect(gateway.admin);
        caller.send(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n"));
        let answer = caller.answer();
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    }
    let refused = request(gateway.admin, "GET", "/admin/v1/status", &[], "");
    assert!(matches!(refused.status, 401 | 403), "{}", refused.text());
}

#[test]
fn traces_go_through_and_answers_name_who_served() {
    let well = Scripted::answering(|request| {
        let mut bytes = good(request, "well");
        let at = bytes.windows(2).position(|w| w == b"\r\n").expect("a line") + 2;
        bytes.splice(at..at, *b"x-request-id: theirs-1\r\n");
        bytes
    });
    let gateway = fleet(&[well.addr], "").start();
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let key = format!("Bearer {KEY}");
    let headers = [
        ("authorization", key.as_str()),
        ("traceparent", trace),
        ("tracestate", "vendor=1"),
        ("x-request-id", "of-the-caller"),
    ];
    for stream in [false, true] {
        let mut caller = Raw::connect(gateway.addr);
        caller.send(encode("POST", CHAT, &headers, chat("m", stream, "Hello")));
        let answer = caller.answer();
        expect_text(&answer, "well");
        assert!(is_ulid(&id(&answer)), "the id is ours: {}", id(&answer));
        for (name, want) in [
            ("x-upstream-request-id", "theirs-1"),
            ("x-foretoken-model", "m"),
            ("x-foretoken-target", "up/served"),
            ("x-foretoken-attempts", "1"),
        ] {
            assert_eq!(answer.header(name), Some(want), "{name}");
        }
        let overhead = answer.header("x-foretoken-overhead-us").expect("an overhead");
        assert!(overhead.parse::<u64>().is_ok_and(|us| us > 0), "{overhead}");
    }
    for request in well.requests() {
        assert_eq!(request.header("traceparent"), Some(trace));
        assert_eq!(request.header("tracestate"), Some("vendor=1"));
        assert_eq!(request.header("x-request-id"), None);
    }
    // Without one there is none to pass on.
    let mut caller = Raw::connect(gateway.addr);
    caller.send(encode_post(CHAT, chat("m", false, "Hello")));
    expect_text(&caller.answer(), "well");
    assert_eq!(well.requests()[2].header("traceparent"), None);
}
