//! Faults of upstreams: before the caller has seen anything another one takes over, afterwards
//! nothing is repeated and nothing that broke looks complete.

use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};

use foretoken::sim::{Change, Mode};

use crate::fleet::{
    ask, content, events, expect_text, fleet, good, model, saying, stored, wants_stream,
};
use crate::h2raw::RawH2;
use crate::support::upstream::{completion, delta, finish, json};
use crate::support::{H2, Peer, Raw, Scripted, Setup, SimServer, chat, client, eventually, post};

const CHAT: &str = "/v1/chat/completions";

/// The event that opens a stream, without content.
fn role() -> String {
    delta("").replace("\"content\"", "\"role\":\"assistant\",\"content\"")
}

/// Reads a request and breaks off without a byte.
fn resetting() -> Scripted {
    Scripted::start(|peer| {
        if peer.request().is_some() {
            peer.reset();
        }
    })
}

/// Something to wait for in a script, and the hand that lets it go on.
fn gate() -> (Sender<()>, impl Fn() + Send + Sync) {
    let (open, wait) = channel::<()>();
    let wait = Mutex::new(wait);
    (open, move || {
        let _ = wait.lock().expect("gate").recv_timeout(crate::support::WAIT);
    })
}

#[test]
fn case_18_a_reset_before_the_first_byte_is_retried_once_elsewhere() {
    for stream in [false, true] {
        let (bad, well) = (resetting(), saying("from the second"));
        let gateway = fleet(&[bad.addr, well.addr], "").start();
        let answer = ask(gateway.addr, stream);
        expect_text(&answer, "from the second");
        assert_eq!(answer.header("x-foretoken-attempts"), Some("2"));
        assert_eq!(answer.header("x-foretoken-target"), Some("second/served"));
        assert_eq!((bad.count(), well.count()), (1, 1), "one attempt each");
        let (first, second) = (bad.only(), well.only());
        assert_eq!(first.body, second.body, "both were asked the same");
        let requests = |labels: &[&str]| gateway.metric("foretoken_requests_total", labels);
        eventually("it is counted", || requests(&["target=\"second/served\""]) == 1.0);
        assert_eq!(requests(&[]), 1.0, "one request in the books:\n{}", gateway.metrics());
    }
}

#[test]
fn case_18_a_request_that_may_have_done_something_is_not_sent_twice() {
    let (bad, well) = (resetting(), saying("from the second"));
    let gateway = fleet(&[bad.addr, well.addr], "").start();
    post(gateway.addr, CHAT, stored("Hello")).expect_error(502, "upstream_error");
    assert_eq!((bad.count(), well.count()), (1, 0), "it was sent on a second time");

    // Nothing was sent to a port that nobody listens on, so the next one may be asked.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let dead = nobody.local_addr().expect("an address");
    drop(nobody);
    let gateway = fleet(&[dead, well.addr], "").start();
    expect_text(&post(gateway.addr, CHAT, stored("Hello")), "from the second");
}

/// Breaks off after the first content.
fn break_off(peer: &mut Peer, how: &str) {
    match how {
        "reset" => peer.reset(),
        "close" => {}
        "end without a finish" => {
            peer.last_chunk();
        }
        "close in mid-frame" => {
            peer.chunk(&delta("two")[..40]);
        }
        "rubbish" => {
            peer.write("no chunk size\r\n");
        }
        other => panic!("{other}"),
    }
}

#[test]
fn case_19_a_stream_that_breaks_off_ends_in_an_error_and_is_not_repeated() {
    let dir = tempfile::tempdir().expect("a directory");
    for how in ["reset", "close", "end without a finish", "close in mid-frame", "rubbish"] {
        let log = dir.path().join(how.replace(' ', "-"));
        // As long as nobody has seen the content another upstream may be asked: the caller says
        // when it has it.
        let (go, wait) = gate();
        let bad = Scripted::start(move |peer| {
            if peer.request().is_some() {
                peer.start_events();
                peer.chunk(role() + &delta("one"));
                wait();
                break_off(peer, how);
            }
        });
        let well = saying("from the second");
        let gateway = fleet(&[bad.addr, well.addr], "").access_log(&log).start();

        let mut caller = Raw::connect(gateway.addr);
        caller.send(client::encode_post(CHAT, chat("m", true, "Hello")));
        let mut answer = caller.head();
        caller.read_until(&mut answer, "one");
        let _ = go.send(());
        caller.rest_of(&mut answer);
        check_broken(&answer, how);

        let h2 = H2::connect(gateway.addr);
        let mut stream = h2.open_post(CHAT, chat("m", true, "Hello"));
        let mut answer = stream.head();
        stream.read_until(&mut answer, "one");
        let _ = go.send(());
        stream.rest_of(&mut answer);
        check_broken(&answer, how);

        assert_eq!((bad.count(), well.count()), (2, 0), "{how}: nothing is repeated");
        gateway.finish();
        let text = std::fs::read_to_string(&log).expect("a log");
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(lines.len(), 2, "{text}");
        for line in lines {
            assert_eq!(line["error"], "truncated", "{how}: {line}");
            assert_eq!(line["attempts"], 1, "{how}: {line}");
            let tokens = |name: &str| line[name].as_u64().unwrap_or_default();
            assert!(tokens("tokens_in") > 0 && tokens("tokens_out") > 0, "{how}: {line}");
        }
    }
}

#[track_caller]
fn check_broken(answer: &crate::support::Answer, how: &str) {
    assert_eq!(answer.status, 200);
    assert!(!answer.broken, "{how}: the error ends the answer well");
    let (text, error) = content(answer);
    assert_eq!(text, "one", "{how}");
    let error = error.unwrap_or_else(|| panic!("{how}: no error in {}", answer.text()));
    assert_eq!(error["code"], "upstream_stream_interrupted", "{how}: {error}");
    assert!(!answer.text().contains("[DONE]"), "{how}: it looks complete: {}", answer.text());
}

#[test]
fn case_19_an_answer_that_breaks_off_before_the_caller_saw_it_is_asked_for_elsewhere() {
    let bad = Scripted::start(|peer| {
        if let Some(request) = peer.request() {
            if wants_stream(&request) {
                peer.start_events();
                peer.chunk(role());
            } else {
                let whole = json(200, &completion("half of it"));
                peer.write(&whole[..whole.len() - 30]);
            }
        }
    });
    let well = saying("from the second");
    let gateway = fleet(&[bad.addr, well.addr], "").start();
    for stream in [false, true] {
        let answer = ask(gateway.addr, stream);
        expect_text(&answer, "from the second");
        assert_eq!(answer.header("x-foretoken-attempts"), Some("2"));
    }
}

#[test]
fn an_error_inside_of_a_good_status_is_one_all_the_same() {
    let said =
        "{\"error\":{\"message\":\"overloaded, sorry\",\"type\":\"server_error\",\"code\":502}}";
    let frame = format!("data: {said}\n\n");
    let first = Scripted::answering(move |request| match wants_stream(request) {
        true => events(&frame),
        false => json(200, said),
    });
    let well = saying("from the second");
    let gateway = fleet(&[first.addr, well.addr], "").start();
    for stream in [false, true] {
        expect_text(&ask(gateway.addr, stream), "from the second");
    }
    assert_eq!((first.count(), well.count()), (2, 2));

    let alone = fleet(&[first.addr], "").start();
    ask(alone.addr, false).expect_error(502, "upstream_error");

    // Content and error in one read: nobody has seen the content, so another one is asked.
    let both = format!("{}{}data: {said}\n\n", role(), delta("one"));
    let at_once = Scripted::answering(move |_| events(&both));
    let gateway = fleet(&[at_once.addr, well.addr], "").start();
    expect_text(&ask(gateway.addr, true), "from the second");

    // Once content has flowed the upstream's own words are passed on, and nothing follows them.
    let (go, wait) = gate();
    let late = Scripted::start(move |peer| {
        while peer.request().is_some() {
            peer.start_events();
            peer.chunk(role() + &delta("one"));
            wait();
            peer.chunk(format!("data: {said}\n\n{}", finish()));
            peer.last_chunk();
        }
    });
    let gateway = fleet(&[late.addr, well.addr], "").start();
    let before = well.count();
    let mut caller = Raw::connect(gateway.addr);
    caller.send(client::encode_post(CHAT, chat("m", true, "Hello")));
    let mut answer = caller.head();
    caller.read_until(&mut answer, "one");
    go.send(()).expect("the upstream waits");
    caller.rest_of(&mut answer);
    let (text, error) = content(&answer);
    let error = error.unwrap_or_else(|| panic!("no error in {}", answer.text()));
    assert_eq!((text.as_str(), &error["code"]), ("one", &"upstream_error".into()));
    assert!(error["message"].as_str().is_some_and(|m| m.contains("sorry")), "{error}");
    assert!(!answer.broken && !answer.text().contains("[DONE]"), "{}", answer.text());
    assert_eq!(well.count(), before, "nothing is repeated");
}

#[test]
fn case_20_waiting_for_the_first_token_has_a_time_of_its_own() {
    let first = Scripted::start(|peer| {
        while let Some(request) = peer.request() {
            if request.text().contains("with a head") {
                peer.start_events();
                peer.chunk(role());
            }
            peer.wait_closed();
        }
    });
    let times = "timeouts = { first_content = \"300ms\", idle = \"60s\" }";
    let alone = fleet(&[first.addr], times).start();
    ask(alone.addr, false).expect_error(504, "upstream_timeout");
    ask(alone.addr, true).expect_error(504, "upstream_timeout");
    let answer = post(alone.addr, CHAT, chat("m", true, "with a head"));
    let (text, error) = content(&answer);
    assert_eq!((answer.status, text.as_str()), (200, ""));
    assert_eq!(error.expect("an error in the stream")["code"], "upstream_timeout");
    assert!(!answer.broken && !answer.text().contains("[DONE]"));

    let well = saying("from the second");
    let gateway = fleet(&[first.addr, well.addr], times).start();
    for body in ["without", "with a head"] {
        let answer = post(gateway.addr, CHAT, chat("m", true, body));
        expect_text(&answer, "from the second");
        assert_eq!(answer.header("x-foretoken-attempts"), Some("2"));
    }
}

#[test]
fn case_20_waiting_for_the_next_token_has_a_time_of_its_own() {
    let (go, wait) = gate();
    let upstream = Scripted::start(move |peer| {
        while let Some(request) = peer.request() {
            if request.text().contains("never") {
                peer.wait_closed();
                return;
            }
            peer.start_events();
            peer.chunk(role() + &delta("one"));
            if request.text().contains("stall") {
                peer.wait_closed();
                return;
            }
            wait();
            peer.chunk(delta("two") + &finish());
            peer.last_chunk();
        }
    });
    // A stream that has begun outlives the time for the first token.
    let lenient =
        fleet(&[upstream.addr], "timeouts = { first_content = \"300ms\", idle = \"60s\" }").start();
    let mut caller = Raw::connect(lenient.addr);
    caller.send(client::encode_post(CHAT, chat("m", true, "wait")));
    let mut answer = caller.head();
    caller.read_until(&mut answer, "one");
    post(lenient.addr, CHAT, chat("m", true, "never")).expect_error(504, "upstream_timeout");
    go.send(()).expect("the upstream waits");
    caller.rest_of(&mut answer);
    expect_text(&answer, "onetwo");

    let strict =
        fleet(&[upstream.addr], "timeouts = { first_content = \"60s\", idle = \"300ms\" }").start();
    let answer = post(strict.addr, CHAT, chat("m", true, "stall"));
    let (text, error) = content(&answer);
    assert_eq!(text, "one");
    assert_eq!(error.expect("an error in the stream")["code"], "upstream_timeout");
    assert!(!answer.broken && !answer.text().contains("[DONE]"), "{}", answer.text());
}

#[test]
fn case_21_after_a_goaway_only_what_was_not_looked_at_is_sent_again() {
    let upstream = RawH2::start();
    let gateway = Setup::to(upstream.addr).provider("protocol = \"h2\"").start();
    let callers: Vec<_> = (0..4)
        .map(|n| {
            let addr = gateway.addr;
            std::thread::spawn(move || (n, post(addr, CHAT, stored(&format!("marker-{n}")))))
        })
        .collect();
    let marker = |body: &str| -> usize {
        let at = body.find("marker-").expect("a marker") + 7;
        body[at..=at].parse().expect("a digit")
    };
    let mut first = upstream.accept();
    let mut on_first: Vec<(u32, usize)> = (0..4)
        .map(|_| first.request().expect("a request"))
        .map(|(stream, body)| (stream, marker(&body)))
        .collect();
    on_first.sort_unstable();
    let streams: Vec<u32> = on_first.iter().map(|(stream, _)| *stream).collect();
    assert_eq!(streams, [1, 3, 5, 7], "all on one connection");

    first.goaway(3);
    let mut again = Vec::new();
    let mut conns = [upstream.accept()];
    while again.len() < 2 {
        let at = conns.len() - 1;
        let (stream, body) = conns[at].request().expect("a replay");
        again.push(marker(&body));
        conns[at].answer(stream, &completion("replayed"));
        if again.len() < 2 && upstream.more() > 0 {
            panic!("every replayed request dials a connection of its own");
        }
    }
    first.answer(1, &completion("first"));
    // Stream 3 was looked at and gets no answer: it must not be sent again.
    drop(first);
    let mut want: Vec<usize> = on_first[2..].iter().map(|(_, marker)| *marker).collect();
    want.sort_unstable();
    again.sort_unstable();
    assert_eq!(again, want, "replayed");
    for caller in callers {
        let (n, answer) = caller.join().expect("no panic");
        if n == on_first[0].1 {
            expect_text(&answer, "first");
        } else if n == on_first[1].1 {
            answer.expect_error(502, "upstream_error");
        } else {
            expect_text(&answer, "replayed");
        }
    }
    assert_eq!(upstream.more(), 0, "nothing more was sent");
}

#[test]
fn case_22_a_storm_of_errors_does_not_multiply_the_load() {
    const REQUESTS: u64 = 200;
    for (mode, status, code) in
        [(Mode::Errors, 503, "upstream_unavailable"), (Mode::Errors, 500, "upstream_error")]
    {
        let sims = [SimServer::start(), SimServer::start(), SimServer::start()];
        for sim in &sims {
            let change = Change { mode: Some(mode), status: Some(status), ..Change::default() };
            sim.set_behaviour(&change).expect("a good change");
        }
        let addrs: Vec<_> = sims.iter().map(|sim| sim.addr).collect();
        let setup = fleet(&addrs, "").server("[server.retry]\nbudget = 0.2\nbudget_min = 0");
        let gateway = setup.start();
        let addr = gateway.addr;
        let callers: Vec<_> = (0..8)
            .map(|_| {
                std::thread::spawn(move || {
                    let mut caller = Raw::connect(addr);
                    for _ in 0..REQUESTS / 8 {
                        caller.send(client::encode_post(CHAT, chat("m", false, "Hello")));
                        let answer = caller.answer();
                        assert_eq!(answer.code(), code, "{}", answer.text());
                    }
                })
            })
            .collect();
        callers.into_iter().for_each(|caller| caller.join().expect("no panic"));
        let sent: u64 = sims.iter().map(|sim| sim.stats().requests).sum();
        assert!(sent > REQUESTS, "nothing was retried at all");
        assert!(sent <= REQUESTS + REQUESTS / 5, "{REQUESTS} requests became {sent}");
    }
}

fn limited(retry_after: &'static str) -> Scripted {
    Scripted::answering(move |_| {
        let body = "{\"error\":{\"message\":\"slow down\",\"type\":\"requests\",\
                    \"code\":\"rate_limit_exceeded\"}}";
        let headers = [("content-type", "application/json"), ("retry-after", retry_after)];
        crate::support::upstream::answer(429, &headers, body)
    })
}

#[test]
fn case_22_a_rate_limit_is_left_alone_until_its_reset() {
    let upstream = limited("30");
    let keys = "api_keys = [\"sk-provider-one\", \"sk-provider-two\"]";
    let gateway = fleet(&[upstream.addr], keys).start();
    for _ in 0..20 {
        let answer = ask(gateway.addr, false);
        answer.expect_error(429, "upstream_rate_limited");
        assert_eq!(answer.json()["error"]["type"], "rate_limit_error");
        let seconds: u64 = answer.header("retry-after").expect("a time").parse().expect("seconds");
        let ms: u64 = answer.header("retry-after-ms").expect("a time").parse().expect("ms");
        assert_eq!(seconds, ms.div_ceil(1000).max(1));
        assert!((1..=30).contains(&seconds), "{seconds}");
        assert_eq!(answer.header("x-should-retry"), None, "waiting cures it");
    }
    let asked: Vec<String> = upstream
        .requests()
        .iter()
        .map(|request| request.header("authorization").unwrap_or_default().to_owned())
        .collect();
    assert_eq!(asked.len(), 2, "each key is tried once, then left alone: {asked:?}");
    assert_ne!(asked[0], asked[1]);
}

#[test]
fn case_22_the_soonest_reset_is_told_and_never_more_than_a_minute() {
    let (long, short) = (limited("600"), limited("20"));
    for order in [[long.addr, short.addr], [short.addr, long.addr]] {
        let before = (long.count(), short.count());
        let gateway = fleet(&order, "").start();
        for _ in 0..3 {
            let answer = ask(gateway.addr, true);
            answer.expect_error(429, "upstream_rate_limited");
            let seconds = answer.header("retry-after").expect("a time");
            let seconds: u64 = seconds.parse().expect("seconds");
            assert!((1..=20).contains(&seconds), "{seconds}");
        }
        assert_eq!((long.count(), short.count()), (before.0 + 1, before.1 + 1));
    }
    let alone = fleet(&[long.addr], "").start();
    for _ in 0..2 {
        assert_eq!(ask(alone.addr, false).header("retry-after"), Some("60"));
    }
    let well = saying("from the second");
    let gateway = fleet(&[long.addr, well.addr], "").start();
    let before = long.count();
    for _ in 0..5 {
        expect_text(&ask(gateway.addr, false), "from the second");
    }
    assert_eq!(long.count(), before + 1, "whoever limits is not asked again");
}

/// Answers the first request of the first connection well; on the second one it does `how`.
fn stale(how: &'static str) -> Scripted {
    Scripted::start(move |peer| {
        let mut nth = 0;
        while let Some(request) = peer.request() {
            nth += 1;
            if peer.number == 1 && nth == 2 {
                peer.write(how);
                return;
            }
            peer.write(good(&request, "well"));
        }
    })
}

#[test]
fn a_connection_that_died_while_it_waited_costs_nothing() {
    for stream in [false, true] {
        let upstream = stale("");
        let gateway = fleet(&[upstream.addr], "").start();
        for _ in 0..2 {
            let answer = ask(gateway.addr, stream);
            expect_text(&answer, "well");
        }
        let connections: Vec<_> = upstream.requests().iter().map(|r| r.connection).collect();
        assert_eq!(connections, [1, 1, 2], "once again, on a fresh connection");
    }
}

#[test]
fn a_request_that_was_answered_by_one_byte_is_not_taken_for_unseen() {
    for (how, body) in [("", stored("Hello")), ("HTTP/1.1 200 OK\r\ncontent-le", stored("Hello"))] {
        let upstream = stale(how);
        let gateway = fleet(&[upstream.addr], "").start();
        expect_text(&post(gateway.addr, CHAT, &body), "well");
        let answer = post(gateway.addr, CHAT, &body);
        assert_eq!(answer.status, 502, "{how:?}: {}", answer.text());
        assert_eq!(upstream.count(), 2, "{how:?}: it was sent a second time");
    }
}

#[test]
fn comments_keep_a_waiting_caller_connected_and_failover_possible() {
    let case = |prompt: &'static str, alone: bool, want: Result<&str, &str>| {
        let (go, wait) = gate();
        let first = Scripted::start(move |peer| {
            while let Some(request) = peer.request() {
                wait();
                if prompt == "break" {
                    return;
                }
                peer.write(good(&request, "at last"));
            }
        });
        let well = saying("from the second");
        let upstreams = [first.addr, well.addr];
        let upstreams = if alone { &upstreams[..1] } else { &upstreams };
        let gateway = fleet(upstreams, "").server("keep_alive_comment = \"1s\"").start();
        let mut caller = Raw::connect(gateway.addr);
        caller.send(client::encode_post(CHAT, chat("m", true, prompt)));
        let mut answer = caller.head();
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("content-type"), Some("text/event-stream"));
        caller.read_until(&mut answer, ": keep-alive\n\n");
        go.send(()).expect("the upstream waits");
        caller.rest_of(&mut answer);
        match want {
            Ok(text) => expect_text(&answer, text),
            Err(code) => {
                let (_, error) = content(&answer);
                assert_eq!(error.expect("an error in the stream")["code"], code);
                assert!(!answer.broken && !answer.text().contains("[DONE]"));
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| case("wait", true, Ok("at last")));
        scope.spawn(|| case("break", false, Ok("from the second")));
        scope.spawn(|| case("break", true, Err("upstream_error")));
    });
}

#[test]
fn fallbacks_follow_when_every_target_has_failed() {
    let (bad, worse, well) = (resetting(), resetting(), saying("from the fallback"));
    let models = format!(
        "{}fallbacks = [\"lost\", \"other\"]\n{}[[model]]\nname = \"other\"\n\
         targets = [{{ provider = \"third\", model = \"other-served\" }}]\n",
        model("m", 1),
        model("lost", 1).replace("\"up\"", "\"second\""),
    );
    let gateway = fleet(&[bad.addr, worse.addr, well.addr], "").models(&models).start();
    let answer = ask(gateway.addr, false);
    expect_text(&answer, "from the fallback");
    assert_eq!(well.only().json()["model"], "other-served");
    assert_eq!(answer.header("x-foretoken-model"), Some("other"));
    assert_eq!(answer.header("x-foretoken-target"), Some("third/other-served"));
    assert_eq!(answer.header("x-foretoken-attempts"), Some("3"));
    assert_eq!((bad.count(), worse.count()), (1, 1));
}

#[test]
fn a_target_that_fails_again_and_again_is_asked_last_until_it_recovers() {
    let sim = SimServer::start();
    let well = saying("from the second");
    let gateway = fleet(&[sim.addr, well.addr], "").start();
    let errors = Change { mode: Some(Mode::Errors), status: Some(500), ..Change::default() };
    sim.set_behaviour(&errors).expect("a good change");
    for _ in 0..20 {
        assert_eq!(ask(gateway.addr, false).status, 200);
    }
    let asked = sim.stats().requests;
    assert!((3..20).contains(&asked), "asked {asked} times in 20 requests");
    let resting = gateway.metric("foretoken_breaker_state", &["target=\"up/served\""]);
    assert_eq!(resting, 2.0, "{}", gateway.metrics());
    let normal = Change { mode: Some(Mode::Normal), ..Change::default() };
    sim.set_behaviour(&normal).expect("a good change");
    eventually("the target serves again", || {
        ask(gateway.addr, false).header("x-foretoken-target") == Some("up/served")
    });
}

#[test]
fn a_farewell_that_crosses_the_next_request_is_no_answer_to_it() {
    let upstream = Scripted::start(|peer| {
        if let Some(request) = peer.request() {
            peer.write(good(&request, "hello"));
        }
        // The time for an idle connection is over just as a request comes.
        if peer.request().is_some() {
            peer.write(
                "HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
            );
        }
    });
    let gateway = fleet(&[upstream.addr], "").start();
    for _ in 0..4 {
        expect_text(&ask(gateway.addr, false), "hello");
    }
}

#[test]
fn what_is_no_answer_is_not_passed_off_as_one() {
    let page = "<html>Sign in</html>";
    for (what, answer) in [
        (
            "half of one",
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n{\"choices\":[{"
                .to_owned(),
        ),
        (
            "nothing",
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 0\r\n\r\n"
                .to_owned(),
        ),
        (
            "a web page",
            format!(
                "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: {}\r\n\r\n{page}",
                page.len()
            ),
        ),
    ] {
        let upstream = Scripted::start(move |peer| {
            if peer.request().is_some() {
                peer.write(&answer);
            }
        });
        let gateway = fleet(&[upstream.addr], "").start();
        let answer = ask(gateway.addr, false);
        assert_eq!(answer.status, 502, "{what}: {}", answer.text());
    }
}
