//! Callers who take their time, and more callers than there is room for.

use std::os::unix::process::CommandExt;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::client::{encode_post, find};
use crate::support::process::{Process, foretoken};
use crate::support::upstream::{completion, json};
use crate::support::{
    Answer, H2, KEY, Raw, Scripted, Setup, WAIT, chat, eventually, get, post, tls,
};

const CHAT: &str = "/v1/chat/completions";

fn fine() -> Scripted {
    Scripted::answering(|_| json(200, &completion("fine")))
}

#[test]
fn case_12_slow_header() {
    let upstream = fine();
    let gateway = Setup::to(upstream.addr).server("[server.timeouts]\nheader = \"400ms\"").start();
    // Nothing at all: closed without a word.
    Raw::connect(gateway.addr).expect_end();
    // A head that does not get on, and one that drips.
    let mut raw = Raw::connect(gateway.addr);
    raw.send("POST /v1/chat/completions HTTP/1.1\r\nhost: h\r\n");
    raw.answer().expect_error(408, "request_timeout");
    raw.expect_end();
    let mut raw = Raw::connect(gateway.addr);
    raw.send("GET /v1/models HTTP/1.1\r\nx: ");
    let dripped = (0..2000)
        .take_while(|_| {
            std::thread::sleep(Duration::from_millis(10));
            raw.try_send("y").is_ok()
        })
        .count();
    assert!(dripped < 2000, "twenty seconds of single bytes were waited for");
    // The second head of a connection is no different.
    let mut raw = Raw::connect(gateway.addr);
    raw.send(encode_post(CHAT, chat("m", false, "x")));
    assert_eq!(raw.answer().status, 200);
    raw.send("G");
    raw.answer().expect_error(408, "request_timeout");
    raw.expect_end();
    // HTTP/2: half a preface.
    let mut raw = Raw::connect(gateway.addr);
    raw.send(b"PRI * HT");
    raw.rest();
    assert_eq!(upstream.count(), 1);
}

#[test]
fn case_12_an_idle_connection_is_closed_but_not_early() {
    let upstream = fine();
    let timeouts = "[server.timeouts]\nheader = \"200ms\"\nidle = \"1500ms\"";
    let gateway = Setup::to(upstream.addr).server(timeouts).start();
    let mut raw = Raw::connect(gateway.addr);
    raw.send(encode_post(CHAT, chat("m", false, "x")));
    assert_eq!(raw.answer().status, 200);
    // Longer than a head may take: the wait for a head is not one for its bytes.
    std::thread::sleep(Duration::from_millis(500));
    raw.send(encode_post(CHAT, chat("m", false, "x")));
    assert_eq!(raw.answer().status, 200);
    raw.expect_end();
    let h2 = H2::connect(gateway.addr);
    assert_eq!(h2.post(CHAT, chat("m", false, "x")).status, 200);
    assert!(h2.ended().is_none(), "an idle HTTP/2 connection ends without an error");
}

#[test]
fn case_12_silent_h2_peers_are_closed() {
    let upstream = fine();
    let timeouts = "[server.timeouts]\nheader = \"300ms\"\nidle = \"1s\"\nwrite = \"1s\"";
    let gateway = Setup::to(upstream.addr).server(timeouts).start();
    // No settings; settings and nothing else; half a header block. None answers a PING.
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let headers = [0, 0, 1, 1, 0, 0, 0, 0, 1, 0x82];
    let mut silent = Vec::new();
    for more in [&b""[..], &settings, &[settings.as_slice(), &headers].concat()] {
        let mut raw = Raw::connect(gateway.addr);
        raw.send([b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", more].concat());
        silent.push(raw);
    }
    for mut raw in silent {
        // Returns when the gateway closes the connection, and only then.
        raw.rest();
    }
}

#[test]
fn case_12_slow_body() {
    let upstream = fine();
    let gateway = Setup::to(upstream.addr).server("[server.timeouts]\nbody = \"400ms\"").start();
    let whole = encode_post(CHAT, chat("m", false, "hello"));
    let mut raw = Raw::connect(gateway.addr);
    raw.send(&whole[..whole.len() - 5]);
    raw.answer().expect_error(408, "request_timeout");
    raw.expect_end();
    let mut raw = Raw::connect(gateway.addr);
    raw.send(&whole[..find(&whole, b"\r\n\r\n").expect("a head") + 4]);
    // One byte at a time keeps nobody waiting longer.
    let mut dripped = 0;
    while dripped < 2000 && raw.try_send(" ").is_ok() {
        dripped += 1;
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(dripped < 2000, "twenty seconds of single bytes were waited for");
    let h2 = H2::connect(gateway.addr);
    let bearer = format!("Bearer {}", crate::support::KEY);
    let headers = [("authorization", bearer.as_str())];
    let mut stream = h2.try_open("POST", CHAT, &headers, None).expect("a stream");
    let mut answer = stream.head();
    stream.rest_of(&mut answer);
    answer.expect_error(408, "request_timeout");
    assert_eq!(h2.post(CHAT, chat("m", false, "x")).status, 200, "other streams go on");
    assert_eq!(upstream.count(), 1);
}

#[test]
fn case_12_slow_tls_handshake() {
    let dir = tempfile::tempdir().expect("a directory");
    let (cert, key) = tls::Authority::new().issue(&["gateway.test"]).write(dir.path(), "a");
    let upstream = fine();
    let server = format!(
        "[server.tls]\nlisten = [\"127.0.0.1:0\"]\n\
         certificates = [{{ cert = \"{}\", key = \"{}\" }}]\n\
         [server.timeouts]\ntls_handshake = \"400ms\"",
        cert.display(),
        key.display()
    );
    let gateway = Setup::to(upstream.addr).server(&server).start();
    // Nothing; the start of a record that never ends; bytes that drip.
    let mut silent = Raw::connect(gateway.tls());
    let mut half = Raw::connect(gateway.tls());
    half.send([0x16, 3, 1, 0x02, 0x00, 1, 0]);
    silent.rest();
    half.rest();
    let mut drip = Raw::connect(gateway.tls());
    drip.send([0x16, 3, 1, 0x40, 0x00, 1, 0, 0x3f, 0xfc]);
    let dripped = (0..2000)
        .take_while(|_| {
            std::thread::sleep(Duration::from_millis(10));
            drip.try_send([0]).is_ok()
        })
        .count();
    assert!(dripped < 2000, "twenty seconds of single bytes were waited for");
    eventually("no connection is left behind", || {
        gateway.metric("foretoken_connections", &["state=\"open\""]) == 0.0
    });
}

#[test]
fn case_12_a_caller_who_does_not_read_is_cut_off() {
    let over = Arc::new(Mutex::new(Vec::new()));
    let o = over.clone();
    let upstream = Scripted::start(move |peer| {
        while peer.request().is_some() {
            peer.start_events();
            let piece = crate::support::upstream::delta(&"x".repeat(60_000));
            while peer.chunk(&piece) {}
            o.lock().expect("no panic").push(peer.number);
        }
    });
    let gateway = Setup::to(upstream.addr).server("[server.timeouts]\nwrite = \"500ms\"").start();
    let mut raw = Raw::connect(gateway.addr);
    raw.send(encode_post(CHAT, chat("m", true, "x")));
    // Not a byte is read here.
    eventually("the upstream is let go", || over.lock().expect("no panic").len() == 1);
    let rest = raw.rest();
    assert!(find(&rest, b"0\r\n\r\n").is_none(), "a cut answer has no end");
    assert!(find(&rest, b"[DONE]").is_none());
}

/// An upstream whose answers wait for a word.
fn held() -> (Scripted, Sender<()>) {
    let (release, wait) = channel::<()>();
    let wait = Mutex::new(wait);
    let upstream = Scripted::answering(move |_| {
        // Disconnected: all may go.
        let _ = wait.lock().expect("no panic").recv_timeout(WAIT);
        json(200, &completion("fine"))
    });
    (upstream, release)
}

#[track_caller]
fn expect_shed(answer: &Answer) {
    answer.expect_error(503, "overloaded");
    assert!(answer.header("retry-after").is_some(), "{:?}", answer.headers);
    assert_ne!(answer.header("x-should-retry"), Some("false"));
}

#[test]
fn case_30_above_the_limit_of_requests_callers_are_refused_and_the_admitted_finish() {
    let (upstream, release) = held();
    let gateway = Setup::to(upstream.addr).server("[server.limits]\nrequests = 4").start();
    let mut admitted: Vec<Raw> = Vec::new();
    for _ in 0..4 {
        let mut raw = Raw::connect(gateway.addr);
        raw.send(encode_post(CHAT, chat("m", false, "x")));
        admitted.push(raw);
    }
    eventually("four are under way", || upstream.count() == 4);
    for _ in 0..10 {
        expect_shed(&post(gateway.addr, CHAT, chat("m", false, "x")));
    }
    let h2 = H2::connect(gateway.addr);
    expect_shed(&h2.post(CHAT, chat("m", true, "x")));
    assert_eq!(upstream.count(), 4, "what is refused never reaches the upstream");
    assert_eq!(get(gateway.addr, "/v1/models").status, 200, "the list costs nothing");
    let refused = gateway.metric("foretoken_requests_refused_total", &["kind=\"shedding\""]);
    assert_eq!(refused, 11.0);
    drop(release);
    for mut raw in admitted {
        assert_eq!(raw.answer().status, 200);
    }
    for _ in 0..8 {
        assert_eq!(post(gateway.addr, CHAT, chat("m", false, "x")).status, 200, "room again");
    }
}

#[test]
fn case_30_room_comes_back_however_requests_end() {
    let (upstream, release) = held();
    let gateway = Setup::to(upstream.addr).server("[server.limits]\nrequests = 2").start();
    for round in 1..=5 {
        // Two that leave while the upstream is at it.
        let mut gone = Vec::new();
        for _ in 0..2 {
            let mut raw = Raw::connect(gateway.addr);
            raw.send(encode_post(CHAT, chat("m", false, "x")));
            gone.push(raw);
        }
        eventually("both are under way", || upstream.count() == 2 * round);
        expect_shed(&post(gateway.addr, CHAT, chat("m", false, "x")));
        drop(gone);
        eventually("both are gone", || gateway.metric("foretoken_inflight", &[]) == 0.0);
    }
    drop(release);
    for _ in 0..3 {
        post(gateway.addr, CHAT, "{").expect_error(400, "invalid_json");
        assert_eq!(post(gateway.addr, CHAT, chat("m", false, "x")).status, 200);
    }
}

#[test]
fn case_31_above_the_memory_for_bodies_callers_are_refused() {
    let (upstream, release) = held();
    let limits = "[server.limits]\nbody = \"1MiB\"\nbody_memory = \"4MiB\"";
    let gateway = Setup::to(upstream.addr).server(limits).start();
    let large = chat("m", false, &"x".repeat(900_000));
    let mut admitted: Vec<Raw> = Vec::new();
    loop {
        let mut raw = Raw::connect(gateway.addr);
        let _ = raw.try_send(encode_post(CHAT, &large));
        let before = admitted.len();
        eventually("it is under way or refused", || upstream.count() > before || raw.has_input());
        if upstream.count() == before {
            expect_shed(&raw.answer());
            break;
        }
        admitted.push(raw);
    }
    let held = admitted.len();
    assert!((2..=4).contains(&held), "{held} bodies of 900 kB were held in 4 MiB");
    for _ in 0..3 {
        let mut raw = Raw::connect(gateway.addr);
        let _ = raw.try_send(encode_post(CHAT, &large));
        expect_shed(&raw.answer());
    }
    assert_eq!(upstream.count(), held);
    post(gateway.addr, CHAT, vec![b' '; 1_100_000]).expect_error(413, "request_too_large");
    drop(release);
    for mut raw in admitted {
        assert_eq!(raw.answer().status, 200);
    }
    for _ in 0..4 {
        assert_eq!(post(gateway.addr, CHAT, &large).status, 200, "the memory came back");
    }
}

#[test]
fn case_31_the_memory_for_bodies_is_one_for_all_streams_of_a_connection() {
    const STREAMS: usize = 6;
    let (upstream, release) = held();
    let limits = "[server.limits]\nbody = \"1MiB\"\nbody_memory = \"4MiB\"";
    let gateway = Setup::to(upstream.addr).server(limits).start();
    let large = chat("m", false, &"x".repeat(900_000));
    let h2 = H2::connect(gateway.addr);
    let streams: Vec<_> = (0..STREAMS).map(|_| h2.open_post(CHAT, &large)).collect();
    let refused =
        || gateway.metric("foretoken_requests_refused_total", &["kind=\"shedding\""]) as usize;
    eventually("each is under way or refused", || upstream.count() + refused() == STREAMS);
    let held = upstream.count();
    assert!((1..=4).contains(&held), "{held} bodies of 900 kB were held in 4 MiB");
    drop(release);
    let mut served = 0;
    for stream in streams {
        let answer = stream.answer();
        if answer.status == 200 {
            served += 1;
        } else {
            expect_shed(&answer);
        }
    }
    assert_eq!(served, held);
    assert_eq!(h2.post(CHAT, &large).status, 200, "the memory came back");
}

#[test]
fn case_31_announcing_a_body_takes_no_memory_from_others() {
    let upstream = fine();
    let limits = "[server.limits]\nbody = \"1MiB\"\nbody_memory = \"2MiB\"";
    let gateway = Setup::to(upstream.addr).server(limits).start();
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: h\r\nauthorization: Bearer {KEY}\r\ncontent-length: 1000000\r\n\r\n{{"
    );
    let silent: Vec<Raw> = (0..100)
        .map(|_| {
            let mut raw = Raw::connect(gateway.addr);
            raw.send(&head);
            raw
        })
        .collect();
    let serving = || gateway.metric("foretoken_connections", &["state=\"serving\""]) as usize;
    eventually("all have begun", || serving() >= silent.len());
    for _ in 0..3 {
        assert_eq!(post(gateway.addr, CHAT, chat("m", false, "x")).status, 200);
    }
}

#[test]
fn case_31_connections_are_bounded() {
    let upstream = fine();
    let gateway = Setup::to(upstream.addr).server("[server.limits]\nconnections = 5").start();
    let mut open: Vec<Raw> = Vec::new();
    for _ in 0..5 {
        let mut raw = Raw::connect(gateway.addr);
        raw.send(encode_post(CHAT, chat("m", false, "x")));
        assert_eq!(raw.answer().status, 200);
        open.push(raw);
    }
    let mut raw = Raw::connect(gateway.addr);
    let answer = raw.answer();
    answer.expect_error(503, "overloaded");
    raw.expect_end();
    open[0].send(encode_post(CHAT, chat("m", false, "x")));
    assert_eq!(open[0].answer().status, 200, "those who are in are served");
    open.pop();
    eventually("one more gets in", || {
        let mut raw = Raw::connect(gateway.addr);
        raw.try_send(encode_post(CHAT, chat("m", false, "x"))).is_ok()
            && raw.try_head().is_some_and(|answer| answer.status == 200)
    });
}

/// Processor time that a process has used, in clock ticks.
fn cpu_ticks(pid: i32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let fields = stat.rsplit_once(')').expect("a name").1.split_whitespace();
    fields.skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("a number")).sum()
}

#[test]
fn case_29_out_of_descriptors() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = dir.path().join("edge.toml");
    let upstream = fine();
    let text = Setup::to(upstream.addr).text().replace("level = \"error\"", "level = \"warn\"");
    std::fs::write(&config, text).expect("written");
    let mut command = foretoken();
    command.arg("serve").arg("--config").arg(&config);
    // SAFETY: setrlimit is a plain system call, fit for the time between fork and exec.
    unsafe {
        command.pre_exec(|| {
            let limit = libc::rlimit { rlim_cur: 64, rlim_max: 64 };
            match libc::setrlimit(libc::RLIMIT_NOFILE, &limit) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        });
    }
    let mut process = Process::spawn(command);
    let mut known = Raw::connect(process.addr);
    known.send(encode_post(CHAT, chat("m", false, "x")));
    assert_eq!(known.answer().status, 200);
    // More connections than descriptors can serve: the others are told so at once, and what is
    // kept free goes on serving those who are in, and the operator.
    let mut crowd: Vec<Raw> = (0..150).map(|_| Raw::connect(process.addr)).collect();
    let mut last = crowd.pop().expect("the last of them");
    last.answer().expect_error(503, "overloaded");
    for _ in 0..3 {
        known.send(encode_post(CHAT, chat("m", false, "x")));
        assert_eq!(known.answer().status, 200, "who was connected is served");
    }
    let mut health = Raw::connect(process.admin);
    health.send("GET /health/ready HTTP/1.1\r\nhost: localhost\r\n\r\n");
    assert_eq!(health.answer().status, 200);
    assert!(process.said().contains("limits.connections"), "{}", process.said());
    crowd.clear();
    drop(health);

    // Somebody takes the descriptors away: nothing can be accepted, and the processor is left in
    // peace.
    let limit = libc::rlimit { rlim_cur: 8, rlim_max: 64 };
    // SAFETY: a plain system call about a child of ours.
    let lowered =
        unsafe { libc::prlimit(process.pid(), libc::RLIMIT_NOFILE, &limit, std::ptr::null_mut()) };
    assert_eq!(lowered, 0);
    let waiting = Raw::connect(process.addr);
    eventually("accepting fails", || process.said().contains("cannot accept"));
    let before = cpu_ticks(process.pid());
    std::thread::sleep(Duration::from_secs(1));
    let used = cpu_ticks(process.pid()) - before;
    assert!(used <= 30, "{used} ticks of a hundred were used by accepting in vain");
    known.send(encode_post(CHAT, chat("m", false, "x")));
    assert_eq!(known.answer().status, 200, "who was connected is served");

    let limit = libc::rlimit { rlim_cur: 64, rlim_max: 64 };
    // SAFETY: as above.
    unsafe { libc::prlimit(process.pid(), libc::RLIMIT_NOFILE, &limit, std::ptr::null_mut()) };
    drop(waiting);
    let mut raw = Raw::connect(process.addr);
    raw.send(encode_post(CHAT, chat("m", false, "x")));
    assert_eq!(raw.answer().status, 200, "and so is everybody once there is room");
    assert!(process.is_running());
}
