//! Keys with limits, upstreams that say what was used, and the books as the admin API shows them.

use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

use serde_json::{Value, json};

use crate::support::client::encode;
use crate::support::upstream::{Received, answer, json as json_answer};
use crate::support::{ADMIN_TOKEN, Answer, Gateway, Raw, Scripted, WAIT, request};

pub const CHAT: &str = "/v1/chat/completions";

/// A `[[key]]`.
pub fn key(name: &str, secret: &str, lines: &str) -> String {
    format!("[[key]]\nname = \"{name}\"\nsecret = \"{secret}\"\n{lines}\n")
}

/// A `[[model]]` that the provider `up` serves by the same name.
pub fn model(name: &str, lines: &str) -> String {
    let targets = format!("targets = [{{ provider = \"up\", model = \"{name}\" }}]");
    format!("[[model]]\nname = \"{name}\"\n{targets}\n{lines}\n")
}

/// Prices of `up`'s model in dollars for a million tokens: 1 for input and 2 for output, so a token
/// is a millionth of a dollar or two.
pub fn price(model: &str) -> String {
    format!("[[price]]\nprovider = \"up\"\nmodel = \"{model}\"\ninput = \"1\"\noutput = \"2\"\n")
}

/// Millionths as a decimal text.
pub fn micro(millionths: u64) -> String {
    format!("{}.{:06}", millionths / 1_000_000, millionths % 1_000_000)
}

/// A chat request of exactly so many bytes, which allows so many tokens of output.
pub fn sized(model: &str, stream: bool, max_tokens: u64, bytes: usize) -> String {
    let body = |text: &str| {
        let messages = json!([{"role": "user", "content": text}]);
        json!({"model": model, "stream": stream, "max_tokens": max_tokens, "messages": messages})
            .to_string()
    };
    let bare = body("").len();
    body(&"x".repeat(bytes.checked_sub(bare).expect("room for the request")))
}

/// A POST with this key, on a connection of its own.
#[track_caller]
pub fn ask(addr: SocketAddr, secret: &str, body: impl AsRef<[u8]>) -> Answer {
    ask_with(addr, secret, &[], body)
}

/// The same with further headers.
#[track_caller]
pub fn ask_with(
    addr: SocketAddr,
    secret: &str,
    more: &[(&str, &str)],
    body: impl AsRef<[u8]>,
) -> Answer {
    let bearer = format!("Bearer {secret}");
    let headers = [&[("authorization", bearer.as_str())], more].concat();
    request(addr, "POST", CHAT, &headers, body)
}

/// A request that was sent; its answer is read when the test wants it.
#[track_caller]
pub fn begin(addr: SocketAddr, secret: &str, body: impl AsRef<[u8]>) -> Raw {
    let bearer = format!("Bearer {secret}");
    let mut raw = Raw::connect(addr);
    raw.send(encode("POST", CHAT, &[("authorization", &bearer)], body));
    raw
}

/// A GET on the data port with this key.
#[track_caller]
pub fn look(addr: SocketAddr, secret: &str, path: &str) -> Answer {
    let bearer = format!("Bearer {secret}");
    request(addr, "GET", path, &[("authorization", &bearer)], b"")
}

/// A call of the admin API with a body.
#[track_caller]
pub fn admin(gateway: &Gateway, method: &str, path: &str, body: &Value) -> Answer {
    let token = format!("Bearer {ADMIN_TOKEN}");
    let headers = [("authorization", token.as_str())];
    request(gateway.admin, method, path, &headers, body.to_string())
}

/// What is used of an object's limits: `keys/caller`, `accounts/acme`.
#[track_caller]
pub fn usage(gateway: &Gateway, object: &str) -> Value {
    let answer = gateway.admin("GET", &format!("/admin/v1/{object}"));
    assert_eq!(answer.status, 200, "{object}: {}", answer.text());
    answer.json()["usage"].clone()
}

/// Waits until `what` can be made of an answer of the admin API.
#[track_caller]
pub fn sought<T>(gateway: &Gateway, path: &str, what: impl Fn(&Value) -> Option<T>) -> T {
    let end = Instant::now() + WAIT;
    loop {
        let answer = gateway.admin("GET", path);
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        let answer = answer.json();
        if let Some(found) = what(&answer) {
            return found;
        }
        assert!(Instant::now() < end, "did not come to pass within {WAIT:?}: {path}: {answer}");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// The records that a filter finds, newest first, once there are `count`.
#[track_caller]
pub fn records(gateway: &Gateway, filter: &str, count: usize) -> Vec<Value> {
    let path = format!("/admin/v1/requests?{filter}");
    let found = sought(gateway, &path, |answer| {
        let data = answer["data"].as_array().expect("a list");
        (data.len() >= count).then(|| data.clone())
    });
    assert_eq!(found.len(), count, "{found:?}");
    found
}

/// The record of an answer.
#[track_caller]
pub fn record_of(gateway: &Gateway, answer: &Answer) -> Value {
    let id = answer.header("x-request-id").expect("every answer has one").to_owned();
    sought(gateway, "/admin/v1/requests?limit=1000", |list| {
        let data = list["data"].as_array().expect("a list");
        data.iter().find(|record| record["id"] == *id).cloned()
    })
}

/// A refusal by a limit, in OpenAI's shape; the message.
#[track_caller]
pub fn refused(answer: &Answer, kind: &str) -> String {
    let code = if kind == "insufficient_quota" { kind } else { "rate_limit_exceeded" };
    answer.expect_error(429, code);
    let error = &answer.json()["error"];
    assert_eq!(error["type"], kind, "{error}");
    assert_eq!(error["param"], Value::Null, "{error}");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert!(answer.header("x-request-id").is_some());
    error["message"].as_str().expect("a message").to_owned()
}

/// How long a refused caller is to wait, in milliseconds: both headers say the same.
#[track_caller]
pub fn wait_ms(answer: &Answer) -> u64 {
    let number = |name| answer.header(name).and_then(|text| text.parse::<u64>().ok());
    let ms = number("retry-after-ms").expect("milliseconds");
    assert!(ms > 0);
    assert_eq!(number("retry-after"), Some(ms.div_ceil(1000)), "{ms}");
    assert_ne!(answer.header("x-should-retry"), Some("false"));
    ms
}

/// A number of an `x-ratelimit-…` header.
#[track_caller]
pub fn rate(answer: &Answer, name: &str) -> u64 {
    let text = answer.header(&format!("x-ratelimit-{name}"));
    let text = text.unwrap_or_else(|| panic!("{name}: {:?}", answer.headers));
    text.parse().unwrap_or_else(|_| span_ms(text))
}

/// Whether an answer says anything of limits.
pub fn says_rates(answer: &Answer) -> bool {
    answer.headers.iter().any(|(name, _)| name.starts_with("x-ratelimit-"))
}

/// `1m2.5s` in milliseconds.
#[track_caller]
fn span_ms(text: &str) -> u64 {
    let (mut sum, mut digits, mut unit) = (0.0, String::new(), String::new());
    let add = |digits: &str, unit: &str| {
        let each = match unit {
            "h" => 3_600_000.0,
            "m" => 60_000.0,
            "s" => 1_000.0,
            "ms" => 1.0,
            _ => panic!("no span of time: {text:?}"),
        };
        digits.parse::<f64>().expect("a number") * each
    };
    for c in text.chars() {
        if c.is_ascii_alphabetic() {
            unit.push(c);
            continue;
        }
        if !unit.is_empty() {
            sum += add(&std::mem::take(&mut digits), &std::mem::take(&mut unit));
        }
        digits.push(c);
    }
    (sum + add(&digits, &unit)).round() as u64
}

/// A whole answer with this usage.
pub fn completed(usage: &Value) -> Vec<u8> {
    let message = json!({"role": "assistant", "content": "fine"});
    let choice = json!({"index": 0, "message": message, "finish_reason": "stop"});
    let body = json!({
        "id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice],
        "usage": usage,
    });
    json_answer(200, &body.to_string())
}

/// An answer that used so much: whole, or as a stream if that was asked for.
pub fn using(request: &Received, input: u64, output: u64) -> Vec<u8> {
    let usage = tokens(input, output);
    if request.json()["stream"] != true {
        return completed(&usage);
    }
    let text = [crate::support::upstream::delta("fine"), stop(Some(&usage))].concat();
    answer(200, &[("content-type", "text/event-stream")], text)
}

/// A usage object.
pub fn tokens(input: u64, output: u64) -> Value {
    json!({"prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output})
}

/// The events that end a stream, the one with its usage among them.
pub fn stop(usage: Option<&Value>) -> String {
    let head = "{\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",";
    let mut text = format!(
        "data: {head}\"choices\":[{{\"index\":0,\"delta\":{{}},\"finish_reason\":\"stop\"}}]}}\n\n"
    );
    if let Some(usage) = usage {
        text.push_str(&format!("data: {head}\"choices\":[],\"usage\":{usage}}}\n\n"));
    }
    text + "data: [DONE]\n\n"
}

/// How many may still pass, and a bell for changes.
type Door = Arc<(Mutex<u64>, Condvar)>;

/// An upstream whose answers wait until the test lets them go.
pub struct Gate {
    upstream: Scripted,
    door: Door,
}

impl Gate {
    /// Answers that used so much.
    pub fn using(input: u64, output: u64) -> Gate {
        Gate::answering(move |request| using(request, input, output))
    }

    pub fn answering(answer: impl Fn(&Received) -> Vec<u8> + Send + Sync + 'static) -> Gate {
        let door = Door::default();
        let mine = door.clone();
        let upstream = Scripted::start(move |peer| {
            while let Some(request) = peer.request() {
                pass(&mine);
                peer.write(answer(&request));
            }
        });
        Gate { upstream, door }
    }

    /// Lets so many answers go.
    pub fn open(&self, count: u64) {
        let mut left = self.door.0.lock().unwrap_or_else(PoisonError::into_inner);
        *left = left.saturating_add(count);
        self.door.1.notify_all();
    }
}

impl Deref for Gate {
    type Target = Scripted;
    fn deref(&self) -> &Scripted {
        &self.upstream
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.open(u64::MAX);
    }
}

fn pass(door: &Door) {
    let left = door.0.lock().unwrap_or_else(PoisonError::into_inner);
    let waited = door.1.wait_timeout_while(left, 2 * WAIT, |left| *left == 0);
    let (mut left, _) = waited.unwrap_or_else(PoisonError::into_inner);
    if *left != u64::MAX {
        *left = left.saturating_sub(1);
    }
}
