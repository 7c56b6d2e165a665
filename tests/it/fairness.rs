//! Many at once: never one more than there is room for, and one who floods harms nobody else.

use std::sync::mpsc::{Receiver, channel};

use crate::governed::{
    CHAT, Gate, ask, begin, key, micro, model, price, refused, sized, under_way, usage, using,
};
use crate::support::h2::H2Stream;
use crate::support::{Answer, Gateway, H2, KEY, Raw, Scripted, Setup, WAIT, chat, eventually};

/// What there is room for.
const ROOM: u64 = 137;
/// Streams of one connection.
const STREAMS: usize = 100;

/// How many callers ask at the same time: `FORETOKEN_CALLERS` (the full promise is 10000), else 1000.
fn callers() -> usize {
    let set = std::env::var("FORETOKEN_CALLERS").ok();
    set.map_or(1000, |text| text.parse().expect("FORETOKEN_CALLERS is a number"))
}

/// What came of it while the upstream holds its answers back.
struct Crowd {
    refused: Vec<Answer>,
    /// The answers of those who were let in, later.
    rest: Receiver<Answer>,
    _connections: Vec<H2>,
}

/// Every caller opens its stream and sends its head first; then all bodies go out at once, so that
/// the last money is asked for by all of them together.
fn storm(gateway: &Gateway, upstream: &Gate, body: &str) -> Crowd {
    let connections: Vec<H2> =
        (0..callers().div_ceil(STREAMS)).map(|_| H2::connect(gateway.addr)).collect();
    let bearer = format!("Bearer {KEY}");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let mut streams: Vec<H2Stream> = (0..callers())
        .map(|at| connections[at / STREAMS].try_open("POST", CHAT, &headers, None).expect("room"))
        .collect();
    eventually("all heads are there", || under_way(gateway) == streams.len() as u64);
    for stream in &mut streams {
        let body = bytes::Bytes::copy_from_slice(body.as_bytes());
        stream.send.send_data(body, true).expect("it is taken");
    }
    let (sender, rest) = channel();
    streams.into_iter().for_each(|stream| stream.answer_later(sender.clone()));
    let answer = || rest.recv_timeout(WAIT).expect("an answer for everybody who is not let in");
    let refused = (ROOM as usize..callers()).map(|_| answer()).collect();
    eventually("those let in are upstream", || upstream.count() as u64 >= ROOM);
    assert!(rest.try_recv().is_err(), "one too many was refused");
    Crowd { refused, rest, _connections: connections }
}

impl Crowd {
    /// Lets the upstream answer; everybody who was let in is served.
    #[track_caller]
    fn expect_served(&self, upstream: &Gate) {
        assert_eq!(upstream.count() as u64, ROOM);
        upstream.open(u64::MAX);
        for _ in 0..ROOM {
            let answer = self.rest.recv_timeout(WAIT).expect("an answer");
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
        assert_eq!(upstream.count() as u64, ROOM);
    }
}

#[test]
fn case_33_the_last_money_and_many_callers() {
    // 200 bytes in and one token out at most, in millionths.
    let reserved = 200 + 2;
    let body = sized("m", false, 1, 200);
    for workers in [1, 2] {
        let upstream = Gate::using(199, 1);
        let limits = format!(
            "limits = {{ budget = [{{ amount = \"{}\", overrun = \"strict\" }}] }}",
            micro(reserved * ROOM)
        );
        let setup = Setup::to(upstream.addr).models(&model("m", "")).more(&price("m"));
        let gateway = setup.keys(&key("caller", KEY, &limits)).workers(workers).start();
        let crowd = storm(&gateway, &upstream, &body);
        assert_eq!(upstream.count() as u64, ROOM, "on {workers} workers");
        for answer in &crowd.refused {
            refused(answer, "insufficient_quota");
        }
        let budget = &usage(&gateway, "keys/caller")["budget"][0];
        assert_eq!(
            (&budget["remaining"], &budget["spent"]),
            (&"0".into(), &"0".into()),
            "{budget}"
        );
        crowd.expect_served(&upstream);
        let budget = &usage(&gateway, "keys/caller")["budget"][0];
        assert_eq!(budget["reserved"], "0", "{budget}");
        let spent = micro(201 * ROOM);
        assert_eq!(budget["spent"], spent.trim_end_matches('0'), "{budget}");
    }
}

#[test]
fn case_33_a_rate_and_many_callers() {
    for workers in [1, 2] {
        for limits in [
            format!("{{ rpm = {ROOM} }}"),
            format!("{{ parallel = {ROOM} }}"),
            format!("{{ tpm = {}, overrun = \"strict\" }}", 201 * ROOM),
        ] {
            let upstream = Gate::using(199, 1);
            let setup = Setup::to(upstream.addr).models(&model("m", "")).workers(workers);
            let gateway = setup.keys(&key("caller", KEY, &format!("limits = {limits}"))).start();
            let body = sized("m", false, 1, 200);
            let crowd = storm(&gateway, &upstream, &body);
            assert_eq!(upstream.count() as u64, ROOM, "{limits} on {workers} workers");
            let kind = if limits.contains("tpm") { "tokens" } else { "requests" };
            for answer in &crowd.refused {
                refused(answer, kind);
            }
            crowd.expect_served(&upstream);
        }
    }
}

/// Two tenants: `flood`, with these limits, and `calm` without any.
fn tenants(upstream: &Scripted, limits: &str, server: &str) -> Setup {
    let tenant = |name: &str, limits: &str| {
        format!(
            "[[account]]\nname = \"{name}\"\nlimits = {limits}\n\
             [[project]]\nname = \"{name}\"\naccount = \"{name}\"\n{}",
            key(name, &format!("sk-{name}"), &format!("project = \"{name}\""))
        )
    };
    let keys = tenant("flood", limits) + &tenant("calm", "{}");
    Setup::to(upstream.addr).models(&model("m", "")).keys(&keys).server(server).workers(2)
}

#[test]
fn case_32_one_who_asks_for_twenty_times_its_limit_harms_nobody() {
    let upstream = Scripted::answering(|request| using(request, 7, 3));
    let gateway = tenants(&upstream, "{ rpm = 20 }", "").start();
    let addr = gateway.addr;
    let (sender, flooded) = channel();
    for _ in 0..4 {
        let sender = sender.clone();
        std::thread::spawn(move || {
            for _ in 0..100 {
                let _ = sender.send(ask(addr, "sk-flood", chat("m", false, "x")).status);
            }
        });
    }
    drop(sender);
    for at in 0..100 {
        let answer = ask(addr, "sk-calm", chat("m", at % 2 == 0, "x"));
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let flooded: Vec<u16> = flooded.iter().collect();
    assert_eq!(flooded.len(), 400);
    assert_eq!(flooded.iter().filter(|status| **status == 200).count(), 20);
    assert!(flooded.iter().all(|status| matches!(status, 200 | 429)), "{flooded:?}");
}

#[test]
fn case_32_the_last_room_of_the_process_is_not_the_flooders() {
    let upstream = Gate::using(7, 3);
    let gateway = tenants(&upstream, "{}", "[server.limits]\nrequests = 64").start();
    // One calm request runs, so that the flooder is not alone; then the flood takes all it gets.
    let mut calm = vec![begin(gateway.addr, "sk-calm", chat("m", false, "x"))];
    eventually("it is upstream", || upstream.count() == 1);
    let mut flood: Vec<Raw> =
        (0..100).map(|_| begin(gateway.addr, "sk-flood", chat("m", false, "x"))).collect();
    // Seven eighths of 64 are for everybody.
    eventually("the flood is let in", || upstream.count() == 56);
    eventually("the rest of it is turned away", || {
        flood.iter().filter(|raw| raw.has_input()).count() == 45
    });
    calm.extend((0..7).map(|_| begin(gateway.addr, "sk-calm", chat("m", false, "x"))));
    eventually("the calm ones are let in", || upstream.count() == 63);
    let answer = ask(gateway.addr, "sk-flood", chat("m", false, "x"));
    answer.expect_error(503, "overloaded");
    assert!(answer.header("retry-after").is_some());
    upstream.open(u64::MAX);
    for raw in &mut calm {
        let answer = raw.answer();
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let statuses: Vec<u16> = flood.iter_mut().map(|raw| raw.answer().status).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 55);
    assert!(statuses.iter().all(|status| matches!(status, 200 | 503)), "{statuses:?}");
    eventually("nothing is left behind", || under_way(&gateway) == 0);
}

#[test]
fn case_32_the_last_memory_for_bodies_is_not_the_flooders() {
    let upstream = Gate::using(7, 3);
    let limits = "[server.limits]\nbody = \"1MiB\"\nbody_memory = \"1MiB\"";
    let gateway = tenants(&upstream, "{}", limits).start();
    let calm_body = sized("m", false, 1, 4 << 10);
    let mut calm = vec![begin(gateway.addr, "sk-calm", &calm_body)];
    eventually("it is upstream", || upstream.count() == 1);
    let large = sized("m", false, 1, 100 << 10);
    let mut flood: Vec<Raw> = Vec::new();
    for _ in 0..20 {
        let mut raw = Raw::connect(gateway.addr);
        let bearer = [("authorization", "Bearer sk-flood")];
        // Who is turned away early may not take it all.
        let _ = raw.try_send(crate::support::client::encode("POST", CHAT, &bearer, &large));
        flood.push(raw);
    }
    eventually("the flood is upstream or turned away", || {
        let turned = flood.iter().filter(|raw| raw.has_input()).count();
        turned > 0 && turned + upstream.count() - 1 == flood.len()
    });
    let before = upstream.count();
    calm.extend((0..5).map(|_| begin(gateway.addr, "sk-calm", &calm_body)));
    eventually("the calm ones are let in", || upstream.count() == before + 5);
    upstream.open(u64::MAX);
    for raw in &mut calm {
        let answer = raw.answer();
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    eventually("nothing is left behind", || under_way(&gateway) == 0);
    let status = gateway.admin("GET", "/admin/v1/status").json();
    assert_eq!(status["body_memory"]["used_bytes"], 0, "{status}");
}

/// Fairness holds in an account too: a key that floods does not keep the others from a queue.
#[test]
fn a_key_that_floods_the_queue_stands_behind_the_others() {
    let upstream = Gate::using(7, 3);
    let tables = [
        "[[account]]\nname = \"acme\"\nlimits = { parallel = 4 }\n\
         queue = { wait = \"60s\", depth = 200 }\n[[project]]\nname = \"p\"\naccount = \"acme\"\n"
            .to_owned(),
        key("flood", "sk-flood", "project = \"p\""),
        key("calm", "sk-calm", "project = \"p\""),
    ];
    let setup = Setup::to(upstream.addr).models(&model("m", "")).keys(&tables.concat());
    let gateway = setup.start();
    let mut flood: Vec<Raw> =
        (0..80).map(|_| begin(gateway.addr, "sk-flood", chat("m", false, "flood"))).collect();
    eventually("the flood stands in the queue", || under_way(&gateway) == 80);
    let mut calm = begin(gateway.addr, "sk-calm", chat("m", false, "calm"));
    eventually("so does the calm one", || under_way(&gateway) == 81);
    upstream.open(1);
    eventually("the next is let in", || upstream.count() == 5);
    assert!(upstream.requests()[4].text().contains("calm"), "its turn is the very next");
    upstream.open(u64::MAX);
    assert_eq!(calm.answer().status, 200);
    for raw in &mut flood {
        assert_eq!(raw.answer().status, 200);
    }
}
