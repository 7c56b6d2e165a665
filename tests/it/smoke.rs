//! The least that must work: one answer and one stream, over HTTP/1.1 and HTTP/2.

use crate::support::gateway::KEY;
use crate::support::{
    Answer, H2, Raw, Scripted, Setup, SimServer, UPSTREAM_KEY, chat, client, post,
};

#[track_caller]
fn content_of(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["choices"][0]["message"]["content"].as_str().expect("content").to_owned()
}

/// The joined content of a stream that ended well.
#[track_caller]
fn streamed(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(!answer.broken, "{}", answer.text());
    let mut lines = answer.data_lines();
    assert_eq!(lines.pop().as_deref(), Some("[DONE]"), "{}", answer.text());
    let mut text = String::new();
    for line in lines {
        let frame: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        text.push_str(frame["choices"][0]["delta"]["content"].as_str().unwrap_or_default());
    }
    text
}

#[test]
fn one_answer_and_one_stream_on_h1_and_h2() {
    let sim = SimServer::with(|s| s.keys = vec![UPSTREAM_KEY.into()]);
    let gateway = Setup::to(sim.addr).start();
    let whole = content_of(&post(gateway.addr, "/v1/chat/completions", chat("m", false, "hello")));
    assert!(!whole.is_empty());

    let mut raw = Raw::connect(gateway.addr);
    for _ in 0..2 {
        raw.send(client::encode_post("/v1/chat/completions", chat("m", true, "hello")));
        assert_eq!(streamed(&raw.answer()), whole, "the same text, on a connection that is kept");
    }

    let h2 = H2::connect(gateway.addr);
    assert_eq!(content_of(&h2.post("/v1/chat/completions", chat("m", false, "hello"))), whole);
    assert_eq!(streamed(&h2.post("/v1/chat/completions", chat("m", true, "hello"))), whole);

    assert_eq!(sim.stats().requests, 5);
    assert_eq!(gateway.metric("foretoken_requests_total", &["status=\"200\""]), 5.0);
}

#[test]
fn a_request_that_goes_in_circles_is_ended() {
    let upstream = Scripted::start(|peer| {
        while let Some(request) = peer.request() {
            peer.write(crate::fleet::good(&request, "hello"));
        }
    });
    let gateway = Setup::to(upstream.addr).start();
    let call = |hops: usize| {
        let via = vec!["1.1 foretoken"; hops].join(", ");
        let body = chat("m", false, "Hello");
        let mut caller = Raw::connect(gateway.addr);
        caller.send(format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: h\r\nauthorization: Bearer {KEY}\r\n\
             via: {via}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ));
        caller.answer()
    };
    assert_eq!(call(7).status, 200, "a chain of gateways is no circle");
    let answer = call(8);
    assert_eq!(answer.status, 508);
    assert!(answer.text().contains("base_url"), "{}", answer.text());
    assert_eq!(upstream.count(), 1);
}
