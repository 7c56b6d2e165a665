//! Several upstreams behind one model, and what the tests of failures say and read.

use std::net::SocketAddr;

use crate::support::upstream::{answer, completion, delta, finish, json};
use crate::support::{Answer, Received, Scripted, Setup, chat, post};

/// Names of the providers of a [`fleet`], the first in its order.
pub const NAMES: [&str; 4] = ["up", "second", "third", "fourth"];

/// A gateway in front of these upstreams, which are `up`, `second`, … and serve the model `m` in
/// this order. `lines` go into every `[[provider]]`.
pub fn fleet(upstreams: &[SocketAddr], lines: &str) -> Setup {
    let mut setup = Setup::to(upstreams[0]).provider(lines).models(&model("m", upstreams.len()));
    for (name, addr) in NAMES.iter().zip(upstreams).skip(1) {
        setup = setup.more(&provider(name, *addr, lines));
    }
    setup
}

/// A `[[provider]]` that is not warmed up.
pub fn provider(name: &str, addr: SocketAddr, lines: &str) -> String {
    let pool = if lines.contains("pool") { "" } else { "pool = { min_warm = 0 }\n" };
    format!("[[provider]]\nname = \"{name}\"\nbase_url = \"http://{addr}/v1\"\n{pool}{lines}\n")
}

/// A `[[model]]` that the first `count` providers serve by priority.
pub fn model(name: &str, count: usize) -> String {
    model_with(name, count, "")
}

/// The same with further lines.
pub fn model_with(name: &str, count: usize, lines: &str) -> String {
    let targets: Vec<String> = NAMES[..count]
        .iter()
        .enumerate()
        .map(|(at, name)| {
            format!("{{ provider = \"{name}\", model = \"served\", priority = {at} }}")
        })
        .collect();
    format!("[[model]]\nname = \"{name}\"\n{lines}\ntargets = [{}]\n", targets.join(", "))
}

/// Asks for `m` on a connection of its own.
#[track_caller]
pub fn ask(addr: SocketAddr, stream: bool) -> Answer {
    post(addr, "/v1/chat/completions", chat("m", stream, "Hello"))
}

/// A chat request that the provider keeps: a second one would do harm.
pub fn stored(message: &str) -> String {
    let mut body: serde_json::Value =
        serde_json::from_str(&chat("m", false, message)).expect("JSON");
    body["store"] = true.into();
    body.to_string()
}

/// Whether a request wants a stream.
pub fn wants_stream(request: &Received) -> bool {
    request.json()["stream"] == true
}

/// A good answer that says `text`, streamed if that was asked for.
pub fn good(request: &Received, text: &str) -> Vec<u8> {
    if wants_stream(request) {
        events(&[&delta(text), &finish()].map(String::as_str).concat())
    } else {
        json(200, &completion(text))
    }
}

/// A whole stream of these events.
pub fn events(text: &str) -> Vec<u8> {
    answer(200, &[("content-type", "text/event-stream")], text)
}

/// An upstream that always says `text`.
pub fn saying(text: &'static str) -> Scripted {
    Scripted::answering(move |request| good(request, text))
}

/// What a stream or a whole answer says, with the error in it if there is one.
pub fn content(answer: &Answer) -> (String, Option<serde_json::Value>) {
    if answer.header("content-type").is_some_and(|kind| kind.starts_with("application/json")) {
        let json = answer.json();
        let text = json["choices"][0]["message"]["content"].as_str().unwrap_or_default();
        return (text.to_owned(), json.get("error").cloned());
    }
    let (mut text, mut error) = (String::new(), None);
    for line in answer.data_lines().iter().filter(|line| *line != "[DONE]") {
        let frame: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        text.push_str(frame["choices"][0]["delta"]["content"].as_str().unwrap_or_default());
        error = error.or(frame.get("error").cloned());
    }
    (text, error)
}

/// A good answer that says `text`, to its end.
#[track_caller]
pub fn expect_text(answer: &Answer, text: &str) {
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(!answer.broken, "the answer broke off: {}", answer.text());
    assert_eq!(content(answer), (text.to_owned(), None), "{}", answer.text());
    let is_stream = answer.header("content-type").is_some_and(|t| t.starts_with("text/event"));
    assert!(!is_stream || answer.text().ends_with("data: [DONE]\n\n"), "{}", answer.text());
}
