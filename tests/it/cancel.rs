//! Callers who leave, callers who read slowly, and faults of our own: the upstream is told at once,
//! nobody else notices, and no byte goes to a neighbour.

use std::net::SocketAddr;
use std::time::Duration;

use foretoken::sim::{Distribution, Lengths};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::fleet::{expect_text, saying};
use crate::support::client::{Raw, chat, encode, encode_post};
use crate::support::process::Process;
use crate::support::{Answer, Gateway, H2, KEY, Setup, SimServer, block_on, eventually, post};

const CHAT: &str = "/v1/chat/completions";

/// An HTTP/2 connection that can be cut.
struct Cuttable {
    h2: H2,
    tcp: std::net::TcpStream,
}

impl Cuttable {
    fn connect(addr: SocketAddr) -> Cuttable {
        let tcp = std::net::TcpStream::connect(addr).expect("the gateway listens");
        tcp.set_nonblocking(true).expect("a mode");
        let second = tcp.try_clone().expect("a second handle");
        let io = block_on("a socket", async { tokio::net::TcpStream::from_std(second) });
        Cuttable { h2: H2::over(io.expect("a socket")), tcp }
    }

    fn cut(self) {
        let _ = self.tcp.shutdown(std::net::Shutdown::Both);
    }
}

/// A provider whose answers last for minutes.
fn lasting() -> SimServer {
    SimServer::with(|settings| {
        settings.gap = Distribution::constant(Duration::from_millis(20));
        settings.tokens = Lengths::constant(10_000);
    })
}

/// How a caller leaves.
#[derive(Clone, Copy, Debug)]
enum Leaving {
    H1Close,
    H1Reset,
    /// With a line end too many behind the request, as old clients send.
    H1StrayLineEnd,
    /// With the next request already in our buffer.
    H1Pipelined,
    H2Stream,
    H2Connection,
}

const LEAVING: [Leaving; 6] = [
    Leaving::H1Close,
    Leaving::H1Reset,
    Leaving::H1StrayLineEnd,
    Leaving::H1Pipelined,
    Leaving::H2Stream,
    Leaving::H2Connection,
];

/// Asks, waits for the provider to have the request (or for content), and leaves.
fn ask_and_leave(gateway: &Gateway, sim: &SimServer, model: &str, leaving: Leaving) {
    let mid_stream = model != "sim-stall-head";
    let body = chat(model, true, "Hello");
    let seen = sim.stats().requests;
    let received = || eventually("the provider has the request", || sim.stats().requests > seen);
    match leaving {
        Leaving::H2Stream | Leaving::H2Connection => {
            let caller = Cuttable::connect(gateway.addr);
            let mut stream = caller.h2.open_post(CHAT, body);
            received();
            if mid_stream {
                let mut answer = stream.head();
                stream.read_until(&mut answer, "\"content\"");
            }
            match leaving {
                Leaving::H2Stream => {
                    stream.cancel();
                    // The connection is still good.
                    assert_eq!(caller.h2.post("/v1/none", "{}").status, 404);
                }
                _ => caller.cut(),
            }
        }
        _ => {
            let mut caller = Raw::connect(gateway.addr);
            caller.send(encode_post(CHAT, &body));
            match leaving {
                Leaving::H1StrayLineEnd => caller.send("\r\n"),
                Leaving::H1Pipelined => caller.send(encode_post(CHAT, &body)),
                _ => {}
            }
            received();
            if mid_stream {
                let mut answer = caller.head();
                caller.read_until(&mut answer, "\"content\"");
            }
            if let Leaving::H1Reset = leaving {
                caller.reset();
            }
        }
    }
}

#[test]
fn case_28_when_the_caller_leaves_the_upstream_is_told_and_the_slot_is_free() {
    let dir = tempfile::tempdir().expect("a directory");
    for protocol in ["h1", "h2"] {
        let log = dir.path().join(protocol);
        let sim = lasting();
        let setup = Setup::to(sim.addr).provider(&format!("protocol = \"{protocol}\""));
        let gateway = setup.access_log(&log).start();
        let mut left = 0;
        for model in ["sim-stall-head", "lasting"] {
            for leaving in LEAVING {
                ask_and_leave(&gateway, &sim, model, leaving);
                left += 1;
                eventually(&format!("cancelled: {protocol} {model} {leaving:?}"), || {
                    sim.stats().cancelled == left
                });
                eventually("the slot is free", || running(&gateway) == 0);
                assert_eq!(sim.stats().requests, left, "{protocol} {model} {leaving:?}");
            }
        }
        assert_eq!(gateway.metric("foretoken_inflight", &[]), 0.0);
        gateway.finish();
        let text = std::fs::read_to_string(&log).expect("a log");
        let gone = text.lines().filter(|line| line.contains("\"error\":\"client_gone\"")).count();
        assert_eq!(gone as u64, left, "one line for each:\n{text}");
    }
}

/// Requests under way.
fn running(gateway: &Gateway) -> u64 {
    let status = gateway.admin("GET", "/admin/v1/status").json();
    status["requests"]["running"].as_u64().expect("a number")
}

/// What one caller has read so far must be of its own question.
#[track_caller]
fn check_canary(token: &str, answer: &Answer, whole: bool) {
    let text = answer.text();
    let mut found = 0;
    let mut said = String::new();
    for line in answer.data_lines() {
        if let Ok(frame) = serde_json::from_str::<serde_json::Value>(&line) {
            said.push_str(frame["choices"][0]["delta"]["content"].as_str().unwrap_or_default());
        }
    }
    for at in said.match_indices("canary:").map(|(at, _)| at + 7) {
        let theirs: String = said[at..].chars().take_while(char::is_ascii_hexdigit).collect();
        // The last token may not have come whole yet.
        assert!(token.starts_with(&theirs), "{token} was answered {theirs}: {text}");
        found += usize::from(theirs == token);
    }
    if whole {
        assert_eq!(found, 1, "{token}: {text}");
        assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    }
}

/// One caller: many questions on kept connections, most of which are given up somewhere.
fn restless_caller(addr: SocketAddr, seed: u64, questions: u32) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut h1 = Raw::connect(addr);
    let mut h2 = Cuttable::connect(addr);
    for question in 0..questions {
        let token = format!("{seed:08x}{question:08x}{:016x}", rng.random::<u64>());
        let body = chat("m", true, &format!("Say canary:{token} please"));
        let stays = rng.random_bool(0.4);
        let pieces = rng.random_range(0..12);
        if rng.random_bool(0.5) {
            let mut stream = h2.h2.open_post(CHAT, &body);
            if !stays && pieces == 0 {
                stream.cancel();
                continue;
            }
            let mut answer = stream.head();
            assert_eq!(answer.status, 200, "{}", answer.text());
            if stays {
                stream.rest_of(&mut answer);
            } else {
                for _ in 0..pieces {
                    let Some(piece) = stream.piece().expect("the stream goes on") else { break };
                    answer.body.extend_from_slice(&piece);
                }
            }
            check_canary(&token, &answer, stays);
            if !stays && rng.random_bool(0.2) {
                std::mem::replace(&mut h2, Cuttable::connect(addr)).cut();
            } else if !stays {
                stream.cancel();
            }
        } else {
            let request = encode_post(CHAT, &body);
            let sent = if stays { request.len() } else { rng.random_range(1..=request.len()) };
            h1.send(&request[..sent]);
            if sent == request.len() && (stays || pieces > 0) {
                let mut answer = h1.head();
                assert_eq!(answer.status, 200, "{}", answer.text());
                if stays {
                    h1.rest_of(&mut answer);
                } else {
                    for _ in 0..pieces {
                        let Ok(Some(piece)) = h1.piece() else { break };
                        answer.body.extend_from_slice(&piece);
                    }
                }
                check_canary(&token, &answer, stays);
            }
            if !stays {
                let old = std::mem::replace(&mut h1, Raw::connect(addr));
                if rng.random_bool(0.5) { old.reset() } else { drop(old) }
            }
        }
    }
}

#[test]
fn case_48_no_byte_of_an_answer_reaches_another_caller() {
    for protocol in ["h1", "h2"] {
        let sim = SimServer::with(|settings| {
            settings.gap = Distribution::constant(Duration::from_millis(1));
            settings.tokens = Lengths::constant(30);
        });
        let setup = Setup::to(sim.addr).provider(&format!("protocol = \"{protocol}\""));
        let gateway = setup.start();
        std::thread::scope(|scope| {
            for seed in 0..6 {
                let addr = gateway.addr;
                scope.spawn(move || restless_caller(addr, seed, 60));
            }
        });
        let stats = sim.stats();
        assert!(stats.cancelled > 20 && stats.completed > 100, "{stats:?}");
        assert_eq!(stats.invalid, 0, "a request reached the provider in pieces");
        eventually("all slots are free", || running(&gateway) == 0);
        eventually("the provider has no request left", || sim.stats().in_flight == 0);
    }
}

#[test]
fn one_slow_reader_does_not_hold_up_fifty_fast_ones_on_shared_connections() {
    let sim = SimServer::with(|settings| settings.gap = Distribution::constant(Duration::ZERO));
    let provider =
        "protocol = \"h2\"\npool = { max_streams = 100, max_connections = 1, min_warm = 0 }";
    let gateway = Setup::to(sim.addr).provider(provider).start();
    let io = block_on("a connection", tokio::net::TcpStream::connect(gateway.addr));
    // The caller has room for everybody on the connection, but little for each stream.
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(65_535).initial_connection_window_size(64 << 20);
    let caller = H2::with(io.expect("the gateway listens"), &builder);
    let mut slow = caller.open_post(CHAT, chat("sim-big", true, "Hello"));
    let mut slow_answer = slow.head();
    slow.read_until(&mut slow_answer, "\"content\"");
    let fast: Vec<_> = (0..50)
        .map(|n| (n, caller.open_post(CHAT, chat("m", true, &format!("Say canary:{n:032x}")))))
        .collect();
    for (n, stream) in fast {
        let answer = stream.answer();
        assert!(!answer.broken, "{}", answer.text());
        check_canary(&format!("{n:032x}"), &answer, true);
    }
    assert_eq!(sim.stats().connections, 1, "one connection for all");
    slow.rest_of(&mut slow_answer);
    assert!(!slow_answer.broken && slow_answer.body.len() > 1 << 20);
    assert!(slow_answer.text().ends_with("data: [DONE]\n\n"));
}

#[test]
fn case_39_a_panic_ends_one_request_only() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = dir.path().join("access.log");
    let sim = lasting();
    let well = saying("well");
    let second = crate::fleet::provider("second", well.addr, "");
    let model = "[[model]]\nname = \"quick\"\ntargets = [{ provider = \"second\" }]\n";
    let gateway = Setup::to(sim.addr)
        .more(&format!("{second}{model}"))
        .access_log(&log)
        .hook(|head| assert!(head.headers.find("x-test-panic").is_none(), "on purpose"))
        .start();
    let bearer = format!("Bearer {KEY}");
    let headers = [("authorization", bearer.as_str()), ("x-test-panic", "1")];

    let mut neighbour = Raw::connect(gateway.addr);
    neighbour.send(encode_post(CHAT, chat("lasting", true, "Hello")));
    let mut lasting = neighbour.head();
    let h2 = H2::connect(gateway.addr);
    let mut beside = h2.open_post(CHAT, chat("lasting", true, "Hello"));
    let mut beside_answer = beside.head();

    let mut victim = Raw::connect(gateway.addr);
    victim.send(encode("POST", CHAT, &headers, chat("quick", false, "Hello")));
    assert!(victim.try_head().is_none_or(|answer| answer.status == 500));
    let body = chat("quick", false, "Hello");
    // An error of the stream, not silence; it may come before the body is sent.
    if let Ok(mut stream) = h2.try_open("POST", CHAT, &headers, Some(body.as_bytes())) {
        assert!(!stream.try_head().is_ok_and(|answer| answer.status != 500));
    }

    neighbour.read_until(&mut lasting, "\"content\"");
    beside.read_until(&mut beside_answer, "\"content\"");
    expect_text(&post(gateway.addr, CHAT, chat("quick", false, "Hello")), "well");
    expect_text(&h2.post(CHAT, chat("quick", false, "Hello")), "well");
    neighbour.reset();
    beside.cancel();
    eventually("all slots are free", || running(&gateway) == 0);
    gateway.finish();
    let text = std::fs::read_to_string(&log).expect("a log");
    let ours = text.lines().filter(|line| line.contains("\"error\":\"internal\"")).count();
    assert_eq!(ours, 2, "the fault is ours, and is in the books:\n{text}");
}

#[test]
fn case_38_after_a_pause_of_the_process_nothing_is_asked_again() {
    const REQUESTS: u64 = 20;
    let sim = SimServer::with(|settings| {
        settings.ttft = Distribution::constant(Duration::from_millis(700));
    });
    let dir = tempfile::tempdir().expect("a directory");
    let config = dir.path().join("foretoken.toml");
    let setup = Setup::to(sim.addr)
        .provider("timeouts = { first_content = \"2s\", idle = \"2s\" }")
        .server("[server.retry]\nbudget = 0.2\nbudget_min = 1");
    setup.write(&config);
    let process = Process::serve(&config);
    let callers: Vec<_> = (0..REQUESTS)
        .map(|n| {
            let addr = process.addr;
            std::thread::spawn(move || post(addr, CHAT, chat("m", n % 2 == 0, "Hello")))
        })
        .collect();
    eventually("the provider has all requests", || sim.stats().requests == REQUESTS);
    process.signal(libc::SIGSTOP);
    // The pause itself: longer than every limit that is configured.
    std::thread::sleep(Duration::from_secs(3));
    process.signal(libc::SIGCONT);
    for caller in callers {
        let answer = caller.join().expect("no panic");
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(!answer.broken && !answer.text().contains("\"error\""), "{}", answer.text());
    }
    assert_eq!(sim.stats().requests, REQUESTS, "answers that had come were asked for again");
}

#[test]
fn case_05_an_early_refusal_on_h2_reaches_the_caller_whatever_it_still_sends() {
    let well = saying("well");
    let gateway = Setup::to(well.addr).start();
    let caller = H2::connect(gateway.addr);
    let headers = [("authorization", "Bearer not-a-key")];
    let small = bytes::Bytes::from(chat("m", false, "Hello"));
    // More than fits into the stream's window, so that its end is never sent.
    let large = bytes::Bytes::from(vec![b' '; 4 << 20]);
    for nth in 0..200 {
        let mut stream = caller.try_open("POST", CHAT, &headers, None).expect("a stream");
        // The refusal may be here already, and the body then be of no use.
        let body = if nth % 10 == 0 { &large } else { &small };
        let _ = stream.send.send_data(body.clone(), true);
        stream.answer().expect_error(401, "invalid_api_key");
    }
    expect_text(&caller.post(CHAT, small), "well");
    assert_eq!(well.count(), 1);
}
