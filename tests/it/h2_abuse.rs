//! HTTP/2 callers who keep the gateway busy at little cost to themselves: they are cut off, and
//! neighbours notice nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use crate::support::frames::{
    self, CONTINUATION, DATA, END_HEADERS, END_STREAM, Frames, GOAWAY, HEADERS,
    INITIAL_WINDOW_SIZE, RST_STREAM, WINDOW_UPDATE,
};
use crate::support::{
    Gateway, H2, KEY, Raw, Scripted, Setup, SimServer, chat, client, eventually, get,
};

const CHAT: &str = "/v1/chat/completions";
const CANCEL: [u8; 4] = [0, 0, 0, 8];
const ENHANCE_YOUR_CALM: u32 = 11;

fn post_block() -> Vec<u8> {
    let bearer = format!("Bearer {KEY}");
    frames::block(&[
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "gateway.test"),
        (":path", CHAT),
        ("authorization", &bearer),
        ("content-type", "application/json"),
    ])
}

/// The frames of one chat request.
fn request(stream: u32, body: &str) -> Vec<u8> {
    let mut out = frames::encode(HEADERS, END_HEADERS, stream, &post_block());
    out.extend(frames::encode(DATA, END_STREAM, stream, body.as_bytes()));
    out
}

/// The gateway has closed the connection because of the caller's manners.
#[track_caller]
fn expect_goaway(frames: &mut Frames) {
    let goaway = frames.last_goaway().expect("a GOAWAY before the end of the connection");
    assert_eq!(goaway.error_code(), ENHANCE_YOUR_CALM, "{goaway:?}");
}

#[track_caller]
fn still_serves(gateway: &Gateway) {
    assert_eq!(get(gateway.addr, "/v1/models").status, 200);
    let h2 = H2::connect(gateway.addr);
    let bearer = format!("Bearer {KEY}");
    let answer = h2.request("GET", "/v1/models", &[("authorization", &bearer)], b"");
    assert_eq!(answer.status, 200);
}

#[test]
fn case_06_rapid_reset() {
    let sim = SimServer::start();
    let gateway = Setup::to(sim.addr).start();
    let mut frames = Frames::connect(gateway.addr, &[]);
    let body = chat("sim-stall-head", false, "x");
    for i in 0..20_000 {
        let stream = 2 * i + 1;
        let mut bytes = request(stream, &body);
        bytes.extend(frames::encode(RST_STREAM, 0, stream, &CANCEL));
        if frames.send_bytes(&bytes).is_err() {
            break;
        }
    }
    expect_goaway(&mut frames);
    let started = sim.stats().requests;
    assert!(started <= 400, "{started} requests were started upstream");
    eventually("nothing is left behind", || sim.stats().in_flight == 0);
    still_serves(&gateway);
}

#[test]
fn case_06_resets_that_wait_for_the_upstream_to_start() {
    let sim = SimServer::start();
    let gateway = Setup::to(sim.addr).start();
    let mut frames = Frames::connect(gateway.addr, &[]);
    let body = chat("sim-stall-head", false, "x");
    let mut started = 0;
    for i in 0..1000 {
        let stream = 2 * i + 1;
        if frames.send_bytes(&request(stream, &body)).is_err() {
            break;
        }
        // Each one costs the provider something before it is given up.
        let gone = started;
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(2);
        while sim.stats().requests == gone && std::time::Instant::now() < deadline {
            std::thread::sleep(std::time::Duration::from_micros(200));
        }
        started = sim.stats().requests;
        if started == gone || frames.send(RST_STREAM, 0, stream, &CANCEL).is_err() {
            break;
        }
    }
    expect_goaway(&mut frames);
    assert!((150..=400).contains(&started), "{started} requests were started upstream");
    eventually("nothing is left behind", || sim.stats().in_flight == 0);
    still_serves(&gateway);
}

#[test]
fn case_06_callers_who_cancel_now_and_then_are_served() {
    let sim = SimServer::with(|s| s.tokens = foretoken::sim::Lengths::constant(3));
    let gateway = Setup::to(sim.addr).start();
    let h2 = H2::connect(gateway.addr);
    let stalled = chat("sim-stall", true, "x");
    // More cancels in all than are forgiven at once, each beside an answer that is waited for.
    for _ in 0..300 {
        let cancelled = h2.open_post(CHAT, &stalled);
        assert_eq!(h2.post(CHAT, chat("m", false, "x")).status, 200);
        cancelled.cancel();
    }
    eventually("nothing is left behind", || sim.stats().in_flight == 0);
}

#[test]
fn case_07_streams_that_the_gateway_is_made_to_reset() {
    // A WINDOW_UPDATE of zero, and DATA after the end: stream errors of the caller's making, to
    // which the gateway itself answers with a reset.
    for made in ["window", "data"] {
        let sim = SimServer::start();
        let gateway = Setup::to(sim.addr).start();
        let mut frames = Frames::connect(gateway.addr, &[]);
        let body = chat("sim-stall-head", false, "x");
        for i in 0..20_000 {
            let stream = 2 * i + 1;
            let mut bytes = request(stream, &body);
            bytes.extend(match made {
                "window" => frames::encode(WINDOW_UPDATE, 0, stream, &[0; 4]),
                _ => frames::encode(DATA, 0, stream, b"more"),
            });
            if frames.send_bytes(&bytes).is_err() {
                break;
            }
        }
        assert!(frames.last_goaway().is_some(), "{made}: a GOAWAY");
        let started = sim.stats().requests;
        assert!(started <= 400, "{made}: {started} requests were started upstream");
        eventually("nothing is left behind", || sim.stats().in_flight == 0);
        still_serves(&gateway);
    }
}

#[test]
fn case_08_continuation_flood() {
    let sim = SimServer::start();
    let gateway = Setup::to(sim.addr).start();
    for payload in [Vec::new(), frames::block(&[("x-filler", &"y".repeat(1000))])] {
        let mut frames = Frames::connect(gateway.addr, &[]);
        frames.send(HEADERS, 0, 1, &post_block()).expect("taken");
        let more = frames::encode(CONTINUATION, 0, 1, &payload).repeat(64);
        for _ in 0..2000 {
            if frames.send_bytes(&more).is_err() {
                break;
            }
        }
        // Returns when the gateway closes the connection, and only then.
        frames.last_goaway();
    }
    assert_eq!(sim.stats().requests, 0);
    still_serves(&gateway);
}

#[test]
fn case_09_floods_of_empty_and_tiny_data() {
    let sim = SimServer::start();
    let limits = "[server.limits]\nbody = \"64KiB\"\n[server.timeouts]\nbody = \"3s\"";
    let gateway = Setup::to(sim.addr).server(limits).start();
    for payload in [&b""[..], b" "] {
        let mut frames = Frames::connect(gateway.addr, &[]);
        frames.send(HEADERS, END_HEADERS, 1, &post_block()).expect("taken");
        // Nobody reads these: the connection window alone would stop an honest caller.
        let more = frames::encode(DATA, 0, 1, payload).repeat(1000);
        let mut taken = 0;
        while taken < 4000 && frames.send_bytes(&more).is_ok() {
            taken += 1;
        }
        // Cut off, or at least refused: no such stream goes on for ever.
        let end = frames.find(|f| f.kind == GOAWAY || (f.stream == 1 && f.kind != WINDOW_UPDATE));
        assert!(end.is_some() || taken < 4000, "{} frames were taken", taken * 1000);
        drop(frames);
    }
    eventually("no connection is left behind", || {
        gateway.metric("foretoken_connections", &["state=\"open\""]) == 0.0
    });
    assert_eq!(sim.stats().requests, 0);
    still_serves(&gateway);
}

#[test]
fn case_10_zero_windows_are_evicted_and_the_upstream_is_not_read_meanwhile() {
    const STREAMS: usize = 30;
    let written = Arc::new(AtomicUsize::new(0));
    let over = Arc::new(AtomicUsize::new(0));
    let (w, o) = (written.clone(), over.clone());
    // An upstream that talks as long as somebody listens.
    let upstream = Scripted::start(move |peer| {
        if peer.request().is_none() {
            return;
        }
        peer.start_events();
        let piece = crate::support::upstream::delta(&"x".repeat(60_000));
        while peer.chunk(&piece) {
            w.fetch_add(piece.len(), SeqCst);
        }
        o.fetch_add(1, SeqCst);
    });
    let timeouts = "[server.timeouts]\nwrite = \"1s\"";
    let gateway = Setup::to(upstream.addr).server(timeouts).start();
    let mut frames = Frames::connect(gateway.addr, &[(INITIAL_WINDOW_SIZE, 0)]);
    for i in 0..STREAMS {
        let bytes = request(2 * i as u32 + 1, &chat("m", true, "x"));
        frames.send_bytes(&bytes).expect("taken");
    }
    // A neighbour is served while they hang.
    still_serves(&gateway);
    let mut reset = std::collections::HashSet::new();
    while reset.len() < STREAMS {
        let frame = frames.read().expect("the connection goes on: only the streams are evicted");
        assert!(frame.kind != DATA || frame.payload.is_empty(), "no window, no data");
        if frame.kind == RST_STREAM {
            reset.insert(frame.stream);
        }
    }
    eventually("the upstream connections are cut", || over.load(SeqCst) == STREAMS);
    // What lies in socket buffers on the way (up to 6 MiB each on this system's defaults) is not
    // memory of the gateway; a gateway that read on would take hundreds of megabytes in a second.
    let each = written.load(SeqCst) / STREAMS;
    assert!(each < 12 << 20, "{each} bytes of each answer were taken");
    assert_eq!(gateway.metric("foretoken_inflight", &[]), 0.0);
    still_serves(&gateway);
}

/// A header block that names one long field `times` times: it goes into the table once (literal
/// with indexing), and costs a byte from then on.
fn repeated(times: usize) -> Vec<u8> {
    let mut block = post_block();
    block.push(0x40);
    frames::put_string("x-bomb", &mut block);
    frames::put_string(&"y".repeat(3900), &mut block);
    block.extend([0x80 | 62].repeat(times));
    block
}

#[test]
fn case_11_hpack_bomb() {
    let sim = SimServer::start();
    let gateway = Setup::to(sim.addr).start();
    // 15 MB of headers in 8 KB, and in CONTINUATION frames: cut off.
    for continued in [false, true] {
        let mut frames = Frames::connect(gateway.addr, &[]);
        let block = repeated(4000);
        let (first, rest) = block.split_at(block.len() / 2);
        let sent = if continued {
            let first = frames::encode(HEADERS, END_STREAM, 1, first);
            let rest = frames::encode(CONTINUATION, END_HEADERS, 1, rest);
            frames.send_bytes(&[first, rest].concat())
        } else {
            frames.send(HEADERS, END_HEADERS | END_STREAM, 1, &block)
        };
        sent.expect("taken");
        expect_goaway(&mut frames);
    }
    // Not that much too much: an answer, and the connection carries on.
    let mut frames = Frames::connect(gateway.addr, &[]);
    frames.send(HEADERS, END_HEADERS | END_STREAM, 1, &repeated(17)).expect("taken");
    let answer = frames
        .find(|f| f.kind == GOAWAY || (f.stream == 1 && matches!(f.kind, HEADERS | RST_STREAM)))
        .expect("an answer");
    // `431`, as a Huffman-coded or a plain string.
    let is_431 = [&b"\x83\x69\x90\xff"[..], b"\x03431"]
        .iter()
        .any(|text| client::find(&answer.payload, text).is_some());
    assert!(answer.kind == HEADERS && is_431, "{answer:?}");
    frames.send_bytes(&request(3, &chat("m", false, "x"))).expect("taken");
    let answer = frames.find(|f| f.stream == 3 && f.kind == HEADERS).expect("an answer");
    assert_eq!(answer.payload[0], 0x88, "200");
    assert_eq!(sim.stats().requests, 1);
}

#[test]
fn case_11_too_many_headers_on_h2() {
    let sim = SimServer::start();
    let gateway = Setup::to(sim.addr).start();
    let h2 = H2::connect(gateway.addr);
    let bearer = format!("Bearer {KEY}");
    let names: Vec<String> = (0..150).map(|i| format!("x-{i}")).collect();
    let mut headers = vec![("authorization", bearer.as_str())];
    headers.extend(names.iter().map(|name| (name.as_str(), "y")));
    let answer = h2.request("GET", "/v1/models", &headers, b"");
    answer.expect_error(431, "headers_too_large");
    let answer = h2.request("GET", "/v1/models", &headers[..90], b"");
    assert_eq!(answer.status, 200, "the connection is fine");
}

#[test]
fn a_preface_that_is_none_ends_the_connection() {
    let sim = SimServer::start();
    let gateway = Setup::to(sim.addr).start();
    for bytes in [
        &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\rX"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nGET / HTTP/1.1\r\n\r\n",
    ] {
        let mut raw = Raw::connect(gateway.addr);
        let _ = raw.try_send(bytes);
        let rest = raw.rest();
        assert!(client::find(&rest, b" 200 ").is_none(), "{}", String::from_utf8_lossy(&rest));
    }
    still_serves(&gateway);
}
