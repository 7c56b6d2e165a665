//! The end of the program: what is under way finishes, nothing new begins, and whoever insists is
//! obeyed.

use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt as _;
use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};

use crate::fleet::{ask, expect_text, fleet};
use crate::support::frames::{DATA, Frames};
use crate::support::process::Process;
use crate::support::upstream::{delta, finish};
use crate::support::{H2, Raw, Scripted, WAIT, chat, client, eventually};

const CHAT: &str = "/v1/chat/completions";

/// Says "one", and "two" with the end for every word on the channel. To who does not want a stream
/// it says all at once, then.
fn waiting() -> (Scripted, Sender<()>) {
    let (go, wait) = channel::<()>();
    let wait = Mutex::new(wait);
    let upstream = Scripted::start(move |peer| {
        while let Some(request) = peer.request() {
            let is_stream = crate::fleet::wants_stream(&request);
            if is_stream {
                peer.start_events();
                peer.chunk(delta("one"));
            }
            let _ = wait.lock().expect("the gate").recv_timeout(WAIT);
            if is_stream {
                peer.chunk(delta("two") + &finish());
                peer.last_chunk();
            } else {
                peer.write(crate::fleet::good(&request, "late"));
            }
        }
    });
    (upstream, go)
}

struct Draining {
    process: Process,
    upstream: Scripted,
    go: Sender<()>,
    _dir: tempfile::TempDir,
}

fn serve() -> Draining {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("foretoken.toml");
    let (upstream, go) = waiting();
    fleet(&[upstream.addr], "").workers(2).write(&path);
    Draining { process: Process::serve(&path), upstream, go, _dir: dir }
}

fn ready(process: &Process) -> u16 {
    let mut caller = Raw::connect(process.admin);
    caller.send("GET /health/ready HTTP/1.1\r\nhost: localhost\r\n\r\n");
    caller.answer().status
}

#[test]
fn a_drain_lets_everything_finish_and_begins_nothing() {
    let Draining { mut process, upstream, go, _dir } = serve();
    let mut stream = Raw::connect(process.addr);
    stream.send(client::encode_post(CHAT, chat("m", true, "Hello")));
    let mut answer = stream.head();
    stream.read_until(&mut answer, "one");
    let mut unary = Raw::connect(process.addr);
    unary.send(client::encode_post(CHAT, chat("m", false, "Hello")));
    let h2 = H2::connect(process.addr);
    let mut on_h2 = h2.open_post(CHAT, chat("m", true, "Hello"));
    let mut h2_answer = on_h2.head();
    on_h2.read_until(&mut h2_answer, "one");
    eventually("the upstream has all", || upstream.count() == 3);
    let mut idle = Raw::connect(process.addr);
    idle.send(client::encode("GET", "/v1/models", &[], ""));
    assert_eq!(idle.answer().status, 401);
    let mut idle_h2 = Frames::connect(process.addr, &[]);
    assert!(idle_h2.find(|frame| frame.kind == crate::support::frames::SETTINGS).is_some());
    assert_eq!(ready(&process), 200);

    process.signal(libc::SIGTERM);
    eventually("not ready any more", || ready(&process) == 503);
    idle.expect_end();
    assert!(idle_h2.last_goaway().is_some(), "no GOAWAY");
    eventually("nobody is let in", || TcpStream::connect(process.addr).is_err());
    assert!(process.is_running(), "it ended with streams open:\n{}", process.said());

    for _ in 0..3 {
        go.send(()).expect("the upstream waits");
    }
    stream.rest_of(&mut answer);
    expect_text(&answer, "onetwo");
    let late = unary.answer();
    expect_text(&late, "late");
    assert_eq!(late.header("connection"), Some("close"));
    unary.expect_end();
    stream.expect_end();
    on_h2.rest_of(&mut h2_answer);
    expect_text(&h2_answer, "onetwo");
    assert!(h2.ended().is_none(), "the connection ended with an error");
    let status = process.wait();
    assert_eq!((status.code(), status.signal()), (Some(0), None), "{}", process.said());
}

#[test]
fn a_second_signal_cuts() {
    for second in [libc::SIGTERM, libc::SIGINT] {
        let Draining { mut process, upstream: _upstream, go, _dir } = serve();
        let mut stream = Raw::connect(process.addr);
        stream.send(client::encode_post(CHAT, chat("m", true, "Hello")));
        let mut answer = stream.head();
        stream.read_until(&mut answer, "one");
        process.signal(libc::SIGTERM);
        eventually("it drains", || process.said().contains("draining"));
        assert!(process.is_running());
        process.signal(second);
        let status = process.wait();
        assert_eq!((status.code(), status.signal()), (Some(0), None), "{}", process.said());
        stream.rest_of(&mut answer);
        assert!(answer.broken, "what was cut looks complete: {}", answer.text());
        drop(go);
    }
}

#[test]
fn without_anything_under_way_the_end_comes_at_once() {
    let Draining { mut process, upstream: _upstream, go, _dir } = serve();
    go.send(()).expect("the upstream waits");
    expect_text(&ask(process.addr, false), "late");
    let mut kept = Raw::connect(process.addr);
    kept.send(client::encode("GET", "/v1/models", &[], ""));
    assert_eq!(kept.answer().status, 401);
    process.signal(libc::SIGINT);
    assert_eq!(process.wait().code(), Some(0), "{}", process.said());
    kept.expect_end();
}

#[test]
fn a_stream_that_does_not_end_is_cut_when_the_time_is_over() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("foretoken.toml");
    let (upstream, _go) = waiting();
    let log = dir.path().join("access.log");
    let setup = fleet(&[upstream.addr], "").server("[server.timeouts]\ndrain = \"1s\"");
    setup.access_log(&log).write(&path);
    let mut process = Process::serve(&path);
    let mut caller = Frames::connect(process.addr, &[]);
    let body = chat("m", true, "Hello");
    let key = format!("Bearer {}", crate::support::KEY);
    let block = crate::support::frames::block(&[
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "gateway.test"),
        (":path", CHAT),
        ("authorization", &key),
    ]);
    let (headers, end) = (crate::support::frames::HEADERS, crate::support::frames::END_STREAM);
    caller.send(headers, crate::support::frames::END_HEADERS, 1, &block).expect("sent");
    caller.send(DATA, end, 1, body.as_bytes()).expect("sent");
    let has = |payload: &[u8]| client::find(payload, b"one").is_some();
    assert!(caller.find(|frame| frame.kind == DATA && has(&frame.payload)).is_some());
    process.signal(libc::SIGTERM);
    assert_eq!(process.wait().code(), Some(0), "{}", process.said());
    let ended = caller.find(|frame| frame.kind == DATA && frame.flags & end != 0);
    assert!(ended.is_none(), "what was cut looks complete");
    // What has flowed is booked, and is no success.
    let line = std::fs::read_to_string(&log).expect("a log");
    let line: serde_json::Value = serde_json::from_str(line.trim()).expect("one line");
    assert_eq!(line["error"], "cancelled", "{line}");
    assert!(
        line["tokens_in"].as_u64() > Some(0) && line["tokens_out"].as_u64() > Some(0),
        "{line}"
    );
}
