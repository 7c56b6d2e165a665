//! Waiting for room instead of an instant refusal: in fair turn, bounded, and counted as our own
//! time.

use std::time::Instant;

use crate::governed::{
    Gate, admin, ask, begin, key, model, price, record_of, refused, sized, under_way, usage,
};
use crate::support::{Answer, Gateway, H2, KEY, Raw, Setup, chat, eventually};

const CHAT: &str = crate::governed::CHAT;

/// An account with room for one request and a queue; its keys are `caller` and `sk-…` of these names.
fn setup(upstream: &Gate, queue: &str, others: &[&str]) -> Setup {
    let account = format!(
        "[[account]]\nname = \"acme\"\nlimits = {{ parallel = 1 }}\nqueue = {queue}\n\
         [[project]]\nname = \"p\"\naccount = \"acme\"\n"
    );
    let more = others.iter().map(|name| key(name, &format!("sk-{name}"), "project = \"p\""));
    let keys: String = more.collect();
    let own = key("caller", KEY, "project = \"p\"");
    Setup::to(upstream.addr)
        .models(&model("m", ""))
        .keys(&(account + &own + &keys))
        .more(&price("m"))
}

/// A request with a mark by which the upstream's books tell it from others.
fn marked(mark: &str) -> String {
    chat("m", false, mark)
}

/// The marks of what came upstream, in order.
fn order(upstream: &Gate) -> Vec<String> {
    let mark = |request: crate::support::Received| {
        request.json()["messages"][0]["content"].as_str().expect("a mark").to_owned()
    };
    upstream.requests().into_iter().map(mark).collect()
}

/// Sends a request that has to wait, and waits until it does.
#[track_caller]
fn stand(gateway: &Gateway, secret: &str, mark: &str) -> Raw {
    let before = under_way(gateway);
    let raw = begin(gateway.addr, secret, marked(mark));
    eventually("it waits", || under_way(gateway) > before);
    raw
}

#[track_caller]
fn overhead_us(answer: &Answer) -> u64 {
    let text = answer.header("x-foretoken-overhead-us").expect("every answer has it");
    text.parse().expect("a number")
}

#[test]
fn who_waits_is_served_in_fair_turn() {
    let upstream = Gate::using(7, 3);
    let gateway = setup(&upstream, "{ wait = \"60s\" }", &["b", "c"]).start();
    let mut all = vec![begin(gateway.addr, KEY, marked("first"))];
    eventually("it is upstream", || upstream.count() == 1);
    let start = Instant::now();
    // One key floods; two others come later, one of them twice.
    for (secret, mark) in
        [(KEY, "a1"), (KEY, "a2"), (KEY, "a3"), ("sk-b", "b1"), ("sk-c", "c1"), ("sk-b", "b2")]
    {
        all.push(stand(&gateway, secret, mark));
    }
    assert_eq!(upstream.count(), 1, "there is room for one");
    let stood = start.elapsed();
    upstream.open(7);
    let answers: Vec<Answer> = all.iter_mut().map(Raw::answer).collect();
    for answer in &answers {
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    // Who was served longest ago comes first: those who never were, then the flooder.
    assert_eq!(order(&upstream), ["first", "b1", "c1", "a1", "b2", "a2", "a3"]);
    // The wait is our time, in the answer and in the record.
    let record = record_of(&gateway, &answers[1]);
    assert_eq!(
        (&record["waited"], &record["state"]),
        (&true.into(), &"settled".into()),
        "{record}"
    );
    let told = overhead_us(&answers[1]);
    assert!(u128::from(told) >= stood.as_micros() / 2, "{told} of {stood:?}");
    assert_eq!(record["overhead_ms"].as_f64(), Some(told as f64 / 1000.0), "{record}");
    assert_eq!(record_of(&gateway, &answers[0])["waited"], false);
    assert_eq!(usage(&gateway, "accounts/acme")["parallel"]["used"], 0);
}

#[test]
fn a_queue_is_bounded_in_depth_and_in_time() {
    let upstream = Gate::using(7, 3);
    let gateway = setup(&upstream, "{ wait = \"60s\", depth = 2 }", &["b"]).start();
    let mut first = begin(gateway.addr, KEY, marked("first"));
    eventually("it is upstream", || upstream.count() == 1);
    let mut waiting = [stand(&gateway, KEY, "a1"), stand(&gateway, "sk-b", "b1")];
    for secret in [KEY, "sk-b"] {
        let message = refused(&ask(gateway.addr, secret, marked("no")), "requests");
        assert!(
            message.starts_with("the account's limit of 1 requests at the same time"),
            "{message}"
        );
    }
    upstream.open(3);
    assert_eq!(first.answer().status, 200);
    for raw in &mut waiting {
        assert_eq!(raw.answer().status, 200);
    }
    // Whose wait is over is refused as if there were no queue.
    let short = setup(&upstream, "{ wait = \"50ms\" }", &[]).start();
    let before = upstream.count();
    let mut first = begin(short.addr, KEY, marked("first"));
    eventually("it is upstream", || upstream.count() > before);
    let answer = ask(short.addr, KEY, marked("late"));
    refused(&answer, "requests");
    assert_eq!(answer.header("retry-after"), Some("1"));
    let record = record_of(&short, &answer);
    assert_eq!((&record["status"], &record["state"]), (&429.into(), &"settled".into()), "{record}");
    upstream.open(1);
    assert_eq!(first.answer().status, 200);
    eventually("nothing is left behind", || under_way(&short) == 0);
}

#[test]
fn what_waiting_does_not_cure_does_not_wait() {
    let upstream = Gate::using(7, 3);
    upstream.open(1);
    let gateway = setup(&upstream, "{ wait = \"10m\" }", &[]).start();
    let made = |limits: serde_json::Value| {
        let body =
            serde_json::json!({"name": limits.to_string(), "project": "p", "limits": limits});
        let made = admin(&gateway, "POST", "/admin/v1/keys", &body);
        assert_eq!(made.status, 201, "{}", made.text());
        made.json()["secret"].as_str().expect("a secret").to_owned()
    };
    let poor = made(serde_json::json!({"budget": [
        {"amount": "0.0001", "per": "total", "overrun": "strict"}]}));
    refused(&ask(gateway.addr, &poor, sized("m", false, 10, 200)), "insufficient_quota");
    let small = made(serde_json::json!({"tpm": 100, "overrun": "strict"}));
    refused(&ask(gateway.addr, &small, sized("m", false, 10, 200)), "tokens");
    assert_eq!(upstream.count(), 0);
}

#[test]
fn an_alias_can_have_a_queue_of_its_own() {
    let upstream = Gate::using(7, 3);
    let models = [model("m", ""), model("patient", "queue = { wait = \"60s\", depth = 1 }")];
    let keys = key("caller", KEY, "limits = { parallel = 1 }");
    let gateway = Setup::to(upstream.addr).models(&models.concat()).keys(&keys).start();
    let mut first = begin(gateway.addr, KEY, marked("first"));
    eventually("it is upstream", || upstream.count() == 1);
    let mut second = begin(gateway.addr, KEY, chat("patient", true, "second"));
    eventually("it waits", || under_way(&gateway) == 2);
    refused(&ask(gateway.addr, KEY, marked("m has none")), "requests");
    refused(&ask(gateway.addr, KEY, chat("patient", false, "full")), "requests");
    upstream.open(2);
    assert_eq!((first.answer().status, second.answer().status), (200, 200));
    assert_eq!(order(&upstream), ["first", "second"]);
}

#[test]
fn who_leaves_the_queue_frees_its_place() {
    for over_h2 in [false, true] {
        let upstream = Gate::using(7, 3);
        let gateway = setup(&upstream, "{ wait = \"60s\", depth = 1 }", &["b"]).start();
        let mut first = begin(gateway.addr, KEY, marked("first"));
        eventually("it is upstream", || upstream.count() == 1);
        if over_h2 {
            let h2 = H2::connect(gateway.addr);
            let stream = h2.open_post(CHAT, marked("left"));
            eventually("it waits", || under_way(&gateway) == 2);
            stream.cancel();
            eventually("its place is free", || under_way(&gateway) == 1);
        } else {
            drop(stand(&gateway, KEY, "left"));
            eventually("its place is free", || under_way(&gateway) == 1);
        }
        // One who left is in the books, too.
        let left = crate::governed::sought(&gateway, "/admin/v1/requests", |list| {
            let data = list["data"].as_array().expect("a list");
            data.iter().find(|record| record["error"] == "client_gone").cloned()
        });
        assert_eq!((&left["state"], &left["units"]), (&"settled".into(), &serde_json::json!({})));
        let mut second = stand(&gateway, "sk-b", "second");
        upstream.open(2);
        assert_eq!((first.answer().status, second.answer().status), (200, 200));
        assert_eq!(order(&upstream), ["first", "second"], "over h2: {over_h2}");
        assert_eq!(usage(&gateway, "accounts/acme")["parallel"]["used"], 0);
    }
}

/// A limit that is raised lets those in who wait for it.
#[test]
fn room_that_an_operator_makes_is_given_to_those_who_wait() {
    let upstream = Gate::using(7, 3);
    let models = model("m", "queue = { wait = \"60s\" }");
    let gateway = Setup::to(upstream.addr).models(&models).start();
    let body = serde_json::json!({"name": "made", "limits": {"parallel": 1}});
    let made = admin(&gateway, "POST", "/admin/v1/keys", &body).json();
    let (id, secret) = (made["id"].as_str().expect("id"), made["secret"].as_str().expect("one"));
    let mut first = begin(gateway.addr, secret, marked("first"));
    eventually("it is upstream", || upstream.count() == 1);
    let mut second = stand(&gateway, secret, "second");
    let path = format!("/admin/v1/keys/{id}");
    let raised = serde_json::json!({"limits": {"parallel": 2}});
    assert_eq!(admin(&gateway, "PATCH", &path, &raised).status, 200);
    eventually("the second is let in", || upstream.count() == 2);
    upstream.open(2);
    assert_eq!((first.answer().status, second.answer().status), (200, 200));
}
