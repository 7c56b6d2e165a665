//! However a request ends, its reservation goes and its record stays: answers that outgrow what was
//! reserved, callers who leave, keys that are blocked, usage that makes no sense.

use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};

use serde_json::{Value, json};

use crate::fleet::content;
use crate::governed::{
    CHAT, Gate, admin, ask, begin, completed, key, model, price, record_of, records, refused,
    sized, stop, tokens, under_way, usage, using,
};
use crate::support::client::encode;
use crate::support::upstream::{answer, completion, delta, json as whole};
use crate::support::{
    Answer, Gateway, H2, KEY, Raw, Scripted, Setup, WAIT, chat, eventually, request,
};

/// An upstream whose streams say what the test says, piece by piece; nothing ends one.
struct Tap {
    upstream: Scripted,
    say: Sender<String>,
}

impl Tap {
    fn start() -> Tap {
        let (say, heard) = channel::<String>();
        let heard = Mutex::new(heard);
        let upstream = Scripted::start(move |peer| {
            while peer.request().is_some() && peer.start_events() {
                let heard = heard.lock().expect("one stream at a time");
                loop {
                    match heard.recv_timeout(WAIT) {
                        Ok(text) if text.is_empty() => break,
                        Ok(text) if peer.chunk(&text) => {}
                        _ => return,
                    }
                }
                peer.last_chunk();
            }
        });
        Tap { upstream, say }
    }

    fn say(&self, text: impl Into<String>) {
        self.say.send(text.into()).expect("the upstream listens");
    }

    fn end(&self, input: u64, output: u64) {
        self.say(stop(Some(&tokens(input, output))));
        self.say("");
    }
}

fn setup(upstream: &Scripted, limits: &str) -> Setup {
    let keys = key("caller", KEY, &format!("limits = {limits}"));
    Setup::to(upstream.addr).models(&model("m", "")).keys(&keys).more(&price("m"))
}

/// Begins a stream and reads its first word.
#[track_caller]
fn stream(gateway: &Gateway, tap: &Tap, secret: &str, body: String) -> (Raw, Answer) {
    let mut raw = begin(gateway.addr, secret, body);
    tap.say(delta("first"));
    let mut answer = raw.head();
    assert_eq!(answer.status, 200);
    raw.read_until(&mut answer, "first");
    (raw, answer)
}

/// Nothing is reserved and nothing runs.
#[track_caller]
fn expect_idle(gateway: &Gateway, object: &str) -> Value {
    eventually("nothing is reserved", || {
        let used = usage(gateway, object);
        let is_free = |budget: &Value| budget["reserved"] == "0";
        used["parallel"]["used"].as_u64().unwrap_or(0) == 0
            && used["budget"].as_array().expect("a list").iter().all(is_free)
    });
    usage(gateway, object)
}

const ROOMY: &str =
    "{ parallel = 5, tpm = 1000000, budget = [{ amount = \"1\", overrun = \"strict\" }] }";

#[test]
fn an_answer_beyond_its_reservation_is_finished_and_flagged() {
    for limits in ["{ tpm = 200, overrun = \"finish\" }", "{ budget = [{ amount = \"0.0003\" }] }"]
    {
        let tap = Tap::start();
        let gateway = setup(&tap.upstream, limits).start();
        let body = sized("m", true, 10, 200);
        let (mut raw, mut answer) = stream(&gateway, &tap, KEY, body.clone());
        for _ in 0..10 {
            tap.say(delta(&"x".repeat(200)));
        }
        tap.end(50, 500);
        raw.rest_of(&mut answer);
        let (text, error) = content(&answer);
        assert_eq!((text.len(), error), (2005, None), "{limits}");
        assert!(answer.text().ends_with("data: [DONE]\n\n"), "{}", answer.text());
        let record = record_of(&gateway, &answer);
        assert_eq!((&record["overrun"], &record["state"]), (&true.into(), &"settled".into()));
        assert_eq!(record["units"], json!({"in_text": 50, "out_text": 500}), "{record}");
        assert_eq!(record["charge"], "0.00105", "{record}");
        // All of it counts: the next one finds no room.
        let used = usage(&gateway, "keys/caller");
        match used["tpm"].is_null() {
            true => assert_eq!(used["budget"][0]["spent"], "0.00105", "{used}"),
            false => assert_eq!(used["tpm"]["used"], 550, "{used}"),
        }
        assert_eq!(ask(gateway.addr, KEY, body).status, 429);
    }
}

#[test]
fn an_answer_beyond_its_reservation_is_cut_where_the_limit_says_so() {
    for (limits, kind) in [
        ("{ tpm = 200, overrun = \"cut\" }", "tokens"),
        ("{ budget = [{ amount = \"0.0003\", overrun = \"cut\" }] }", "insufficient_quota"),
    ] {
        let tap = Tap::start();
        let gateway = setup(&tap.upstream, limits).start();
        let (mut raw, mut answer) = stream(&gateway, &tap, KEY, sized("m", true, 10, 200));
        // One after the other: a limit is looked at with every piece that comes.
        for at in 0..10 {
            let word = format!("word{at}");
            tap.say(delta(&(word.clone() + &"x".repeat(195))));
            let has = |answer: &Answer| {
                [word.as_str(), "\"error\""].iter().any(|it| answer.text().contains(it))
            };
            while !has(&answer) {
                let piece = raw.piece().expect("no break").expect("an error before the end");
                answer.body.extend_from_slice(&piece);
            }
        }
        raw.rest_of(&mut answer);
        assert!(!answer.broken, "it ends in-band");
        let (text, error) = content(&answer);
        let error = error.unwrap_or_else(|| panic!("no error: {}", answer.text()));
        assert_eq!((&error["code"], &error["type"]), (&"quota_exhausted".into(), &kind.into()));
        assert!(
            error["message"].as_str().is_some_and(|it| it.starts_with("the key's ")),
            "{error}"
        );
        assert!(!answer.text().contains("[DONE]"), "{}", answer.text());
        assert!(text.len() < 2005, "{}", text.len());
        let record = record_of(&gateway, &answer);
        assert_eq!((&record["state"], &record["status"]), (&"estimated".into(), &200.into()));
        let said = text.len().div_ceil(4);
        assert_eq!(record["units"], json!({"in_text": 50, "out_text": said}), "{record}");
        expect_idle(&gateway, "keys/caller");
    }
}

/// What has come to its end needs no room any more, however far beyond its reservation that is.
#[test]
fn an_answer_that_has_ended_is_not_cut() {
    let tap = Tap::start();
    let gateway = setup(&tap.upstream, "{ tpm = 200, overrun = \"cut\" }").start();
    let (mut raw, mut answer) = stream(&gateway, &tap, KEY, sized("m", true, 10, 200));
    let rest = [delta(&"x".repeat(2000)), stop(Some(&tokens(50, 500)))].concat();
    tap.say(rest);
    tap.say("");
    raw.rest_of(&mut answer);
    let (text, error) = content(&answer);
    assert_eq!((text.len(), error), (2005, None));
    let record = record_of(&gateway, &answer);
    assert_eq!((&record["state"], &record["units"]["out_text"]), (&"settled".into(), &500.into()));
}

#[test]
fn strict_reserves_the_most_that_can_be_used() {
    let upstream = Gate::using(7, 3);
    let models = model("m", "max_output = 100");
    let body = chat("m", true, &"x".repeat(100));
    let most = body.len() + 100;
    for (limit, status) in [(most, 200), (most - 1, 429)] {
        let limits = format!("{{ tpm = {limit}, overrun = \"strict\" }}");
        let gateway = setup(&upstream, &limits).models(&models).start();
        upstream.open(1);
        let answer = ask(gateway.addr, KEY, body.clone());
        assert_eq!(answer.status, status, "{}", answer.text());
        if status == 429 {
            let message = refused(&answer, "tokens");
            assert!(message.contains(&format!("less than the {most} that")), "{message}");
        }
    }
}

#[test]
fn a_request_that_an_upstream_refuses_leaves_nothing_reserved() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let nobody = closed.local_addr().expect("an address");
    drop(closed);
    for status in [400, 401, 429, 500, 503] {
        let upstream = Scripted::answering(move |_| {
            whole(status, "{\"error\":{\"message\":\"no\",\"type\":\"x\",\"code\":\"y\"}}")
        });
        let gateway = setup(&upstream, ROOMY).start();
        let answer = ask(gateway.addr, KEY, chat("m", false, "x"));
        assert!(answer.status >= 400);
        let used = expect_idle(&gateway, "keys/caller");
        assert_eq!((&used["tpm"]["used"], &used["budget"][0]["spent"]), (&0.into(), &"0".into()));
        let record = record_of(&gateway, &answer);
        assert_eq!((&record["state"], &record["units"]), (&"settled".into(), &json!({})));
    }
    let setup = Setup::to(nobody).models(&model("m", "")).more(&price("m"));
    let gateway = setup.keys(&key("caller", KEY, &format!("limits = {ROOMY}"))).start();
    let answer = ask(gateway.addr, KEY, chat("m", false, "x"));
    assert_eq!(answer.status, 502, "{}", answer.text());
    let used = expect_idle(&gateway, "keys/caller");
    assert_eq!((&used["tpm"]["used"], &used["budget"][0]["spent"]), (&0.into(), &"0".into()));
}

#[test]
fn a_caller_who_leaves_before_the_first_token_leaves_nothing_running() {
    for over_h2 in [false, true] {
        let upstream = Gate::using(7, 3);
        let gateway = setup(&upstream, ROOMY).start();
        let body = sized("m", true, 10, 200);
        if over_h2 {
            let h2 = H2::connect(gateway.addr);
            let stream = h2.open_post(CHAT, &body);
            eventually("it is upstream", || upstream.count() == 1);
            stream.cancel();
            let used = expect_idle(&gateway, "keys/caller");
            assert_eq!(used["budget"][0]["spent"], "0.00022", "{used}");
        } else {
            let raw = begin(gateway.addr, KEY, &body);
            eventually("it is upstream", || upstream.count() == 1);
            drop(raw);
            let used = expect_idle(&gateway, "keys/caller");
            // Nobody knows what the upstream did: what was reserved counts, and the record says so.
            assert_eq!(used["budget"][0]["spent"], "0.00022", "{used}");
        }
        let record = records(&gateway, "key=caller", 1).remove(0);
        assert_eq!((&record["state"], &record["cost"]), (&"unsettled".into(), &Value::Null));
        assert_eq!(
            (&record["reserved"], &record["error"]),
            (&"0.00022".into(), &"client_gone".into())
        );
    }
}

#[test]
fn a_caller_who_leaves_is_charged_what_was_streamed_or_what_the_upstream_says() {
    for (policy, place) in
        [("cancel", "model"), ("drain", "model"), ("drain", "target"), ("drain", "provider")]
    {
        let tap = Tap::start();
        let line = format!("on_disconnect = \"{policy}\"");
        let own = |it: &str| if place == it { line.as_str() } else { "" };
        let target = match place {
            "target" => format!("{{ provider = \"up\", model = \"m\", {line} }}"),
            _ => "{ provider = \"up\", model = \"m\" }".into(),
        };
        let models = format!("[[model]]\nname = \"m\"\ntargets = [{target}]\n{}\n", own("model"));
        let setup = setup(&tap.upstream, ROOMY).models(&models).provider(own("provider"));
        let gateway = setup.start();
        let (raw, answer) = stream(&gateway, &tap, KEY, sized("m", true, 10, 200));
        drop(raw);
        // The worker has heard of the end once it has answered what came after it.
        for _ in 0..2 {
            assert_eq!(crate::support::get(gateway.addr, "/v1/models").status, 200);
        }
        if policy == "drain" {
            tap.say(delta("second"));
            tap.end(70, 30);
        }
        let record = record_of(&gateway, &answer);
        let used = expect_idle(&gateway, "keys/caller");
        assert_eq!(
            (&record["client_gone"], &record["error"]),
            (&true.into(), &"client_gone".into())
        );
        let (state, units, spent) = match policy {
            "cancel" => ("estimated", json!({"in_text": 50, "out_text": 2}), "0.000054"),
            _ => ("settled", json!({"in_text": 70, "out_text": 30}), "0.00013"),
        };
        assert_eq!(
            (&record["state"], &record["units"]),
            (&state.into(), &units),
            "{policy} {place}"
        );
        assert_eq!(
            (&record["charge"], &used["budget"][0]["spent"]),
            (&spent.into(), &spent.into())
        );
        if policy == "cancel" {
            eventually("the upstream is told", || {
                let _ = tap.say.send(delta("more"));
                tap.upstream.connections() == 1 && used["parallel"]["used"] == 0
            });
        }
    }
}

#[test]
fn an_answer_without_its_caller_is_read_to_its_usage_before_the_first_token_too() {
    let upstream = Gate::using(70, 30);
    let setup = setup(&upstream, ROOMY).models(&model("m", "on_disconnect = \"drain\""));
    for stream in [false, true] {
        let gateway = setup.start();
        let before = upstream.count();
        let raw = begin(gateway.addr, KEY, sized("m", stream, 10, 200));
        eventually("it is upstream", || upstream.count() > before);
        drop(raw);
        upstream.open(1);
        let record = records(&gateway, "key=caller", 1).remove(0);
        assert_eq!((&record["state"], &record["charge"]), (&"settled".into(), &"0.00013".into()));
        let used = expect_idle(&gateway, "keys/caller");
        assert_eq!(used["budget"][0]["spent"], "0.00013", "stream {stream}: {used}");
    }
}

#[test]
fn a_handler_that_panics_leaves_nothing_reserved() {
    let upstream = Scripted::answering(|request| using(request, 7, 3));
    let setup = setup(&upstream, ROOMY).hook(|head| {
        assert!(head.headers.find("x-test-panic").is_none(), "as the test wants it");
    });
    let gateway = setup.start();
    for _ in 0..3 {
        let bearer = format!("Bearer {KEY}");
        let headers = [("authorization", bearer.as_str()), ("x-test-panic", "1")];
        let mut raw = Raw::connect(gateway.addr);
        raw.send(encode("POST", CHAT, &headers, chat("m", false, "x")));
        assert_ne!(raw.try_head().map(|answer| answer.status), Some(200));
    }
    let used = expect_idle(&gateway, "keys/caller");
    assert_eq!(used["budget"][0]["spent"], "0", "{used}");
    assert_eq!(ask(gateway.addr, KEY, chat("m", false, "x")).status, 200);
}

#[test]
fn what_ends_with_the_process_is_in_the_books_of_the_next() {
    use foretoken::app::Stop;
    let dir = tempfile::tempdir().expect("a directory");
    for (graceful, spent, state) in [(true, "0.000013", "settled"), (false, "0.00022", "unsettled")]
    {
        let path = dir.path().join(format!("books-{graceful}"));
        let upstream = Gate::using(7, 3);
        let setup = setup(&upstream, ROOMY).store(&path);
        let gateway = setup.start();
        let mut raw = begin(gateway.addr, KEY, sized("m", false, 10, 200));
        eventually("it is upstream", || upstream.count() == 1);
        if graceful {
            gateway.running().stop(Stop::Gracefully);
            upstream.open(1);
            assert_eq!(raw.answer().status, 200);
            gateway.finish();
        } else {
            drop(gateway);
        }
        let next = setup.start();
        let used = expect_idle(&next, "keys/caller");
        assert_eq!(used["budget"][0]["spent"], spent, "{used}");
        let record = records(&next, "key=caller", 1).remove(0);
        assert_eq!(record["state"], state, "{record}");
    }
}

/// A key made by the admin API: its id and its secret.
#[track_caller]
fn made(gateway: &Gateway, body: &Value) -> (String, String) {
    let answer = admin(gateway, "POST", "/admin/v1/keys", body);
    assert_eq!(answer.status, 201, "{}", answer.text());
    let key = answer.json();
    let text = |name: &str| key[name].as_str().expect("text").to_owned();
    (text("id"), text("secret"))
}

#[test]
fn a_key_that_is_blocked_now_ends_what_runs_and_what_waits() {
    for workers in [1, 2] {
        let tap = Tap::start();
        let upstream = Gate::using(7, 3);
        let slow = format!(
            "[[provider]]\nname = \"slow\"\nbase_url = \"http://{}/v1\"\npool = {{ min_warm = 0 }}\n\
             [[model]]\nname = \"slow\"\ntargets = [{{ provider = \"slow\" }}]\n\
             [[model]]\nname = \"queued\"\nqueue = {{ wait = \"60s\" }}\n\
             targets = [{{ provider = \"slow\" }}]\n",
            upstream.addr
        );
        let gateway = setup(&tap.upstream, "{}").more(&slow).workers(workers).start();
        let budget = json!([{"amount": "1", "per": "total"}]);
        let limits = json!({
            "budget": budget, "parallel": 9, "models": {"queued": {"parallel": 0}},
        });
        let (id, secret) = made(&gateway, &json!({"name": "made", "limits": limits}));
        let (mut flowing, mut answer) = stream(&gateway, &tap, &secret, chat("m", true, "x"));
        let mut waiting: Vec<Raw> = [false, true]
            .map(|stream| begin(gateway.addr, &secret, chat("slow", stream, "x")))
            .into();
        eventually("they are upstream", || upstream.count() == 2);
        let limits = json!({
            "budget": budget, "parallel": 3, "models": {"queued": {"parallel": 9}},
        });
        let path = format!("/admin/v1/keys/{id}");
        let patched = admin(&gateway, "PATCH", &path, &json!({"limits": limits}));
        assert_eq!(patched.status, 200, "{}", patched.text());
        let mut other = begin(gateway.addr, KEY, chat("slow", false, "x"));
        eventually("another's is upstream", || upstream.count() == 3);
        // All three places are taken: this one waits in the queue, and another key's does not mind.
        waiting.push(begin(gateway.addr, &secret, chat("queued", false, "x")));
        eventually("it stands in the queue", || under_way(&gateway) == 5);
        let blocked = admin(&gateway, "POST", &format!("{path}/block"), &json!({"now": true}));
        assert_eq!(blocked.status, 200, "{}", blocked.text());

        flowing.rest_of(&mut answer);
        let (text, error) = content(&answer);
        assert_eq!((text.as_str(), answer.broken), ("first", false));
        let error = error.expect("an error in the stream");
        assert_eq!(
            (&error["code"], &error["type"]),
            (&"key_disabled".into(), &"permission_error".into())
        );
        assert!(!answer.text().contains("[DONE]"));
        for raw in &mut waiting {
            let answer = raw.answer();
            answer.expect_error(403, "key_disabled");
            assert_eq!(answer.header("x-should-retry"), Some("false"));
        }
        ask(gateway.addr, &secret, chat("m", false, "x")).expect_error(403, "key_disabled");
        let record = record_of(&gateway, &answer);
        assert_eq!(
            (&record["state"], &record["error"]),
            (&"estimated".into(), &"key_disabled".into())
        );
        assert_eq!(record["units"]["out_text"], 2, "{record}");
        expect_idle(&gateway, &format!("keys/{id}"));
        // Nobody else's requests.
        upstream.open(3);
        assert_eq!(other.answer().status, 200);
        let back = admin(&gateway, "POST", &format!("{path}/unblock"), &json!({}));
        assert_eq!(back.status, 200, "{}", back.text());
        upstream.open(1);
        assert_eq!(ask(gateway.addr, &secret, chat("slow", false, "x")).status, 200);
    }
}

#[test]
fn case_53_a_revoked_key_is_dead_on_every_worker() {
    let upstream = Scripted::answering(|request| using(request, 7, 3));
    let gateway = setup(&upstream, "{}").workers(2).start();
    for (verb, status, code) in [
        ("block", 403, "key_disabled"),
        ("", 401, "invalid_api_key"),
        ("rotate", 401, "invalid_api_key"),
    ] {
        let (id, secret) = made(&gateway, &json!({"name": format!("made-{verb}")}));
        let bearer = format!("Bearer {secret}");
        let head = [("authorization", bearer.as_str())];
        let bytes = encode("POST", CHAT, &head, chat("m", false, "x"));
        // Connections of both workers, each of which has used the key just now.
        let mut callers: Vec<Raw> = (0..16).map(|_| Raw::connect(gateway.addr)).collect();
        for raw in &mut callers {
            raw.send(&bytes);
            assert_eq!(raw.answer().status, 200);
        }
        let h2 = H2::connect(gateway.addr);
        assert_eq!(h2.request("POST", CHAT, &head, chat("m", false, "x").as_bytes()).status, 200);
        let path = format!("/admin/v1/keys/{id}");
        let done = match verb {
            "" => admin(&gateway, "DELETE", &path, &json!({})),
            "rotate" => admin(&gateway, "POST", &format!("{path}/rotate"), &json!({"grace": "0s"})),
            verb => admin(&gateway, "POST", &format!("{path}/{verb}"), &json!({})),
        };
        assert!(matches!(done.status, 200 | 204), "{verb}: {}", done.text());
        // Not within a second: at once.
        let before = upstream.count();
        for raw in &mut callers {
            raw.send(&bytes);
            raw.answer().expect_error(status, code);
        }
        h2.request("POST", CHAT, &head, chat("m", false, "x").as_bytes())
            .expect_error(status, code);
        request(gateway.addr, "POST", CHAT, &head, chat("m", false, "x"))
            .expect_error(status, code);
        assert_eq!(upstream.count(), before);
    }
}

#[test]
fn case_25_missing_or_absurd_usage_is_estimated_and_flagged() {
    let odd = [
        Value::Null,
        json!({}),
        json!("none"),
        json!([7, 3]),
        json!({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}),
        json!({"prompt_tokens": -7, "completion_tokens": 3}),
        json!({"prompt_tokens": 7, "completion_tokens": -3}),
        json!({"prompt_tokens": 7.5, "completion_tokens": 3}),
        json!({"prompt_tokens": "7", "completion_tokens": 3}),
        json!({"prompt_tokens": 7, "completion_tokens": 1_000_000_001}),
        json!({"prompt_tokens": 1e30, "completion_tokens": 3}),
    ];
    for usage_said in odd {
        for stream in [false, true] {
            let said = usage_said.clone();
            let upstream = Scripted::answering(move |request| {
                if request.json()["stream"] != true {
                    return completed(&said);
                }
                let text = [delta("fine"), stop(Some(&said))].concat();
                answer(200, &[("content-type", "text/event-stream")], text)
            });
            let gateway = setup(&upstream, "{ tpm = 100000 }").start();
            let answer = ask(gateway.addr, KEY, sized("m", stream, 10, 200));
            assert_eq!(answer.status, 200, "{}", answer.text());
            let record = record_of(&gateway, &answer);
            let context = format!("{usage_said} {stream} {record}");
            assert_eq!(record["state"], "estimated", "{context}");
            assert_eq!(record["units"], json!({"in_text": 50, "out_text": 1}), "{context}");
            assert_eq!(record["charge"], "0.000052", "{context}");
            assert_eq!(usage(&gateway, "keys/caller")["tpm"]["used"], 51, "{context}");
            let sums = gateway.admin("GET", "/admin/v1/usage").json();
            assert_eq!(sums["data"][0]["estimated"], 1, "{sums}");
        }
    }
}

/// Whoever asks who still uses a blocked key must find it.
#[test]
fn what_is_refused_before_its_limits_are_asked_is_recorded_too() {
    let upstream = Scripted::answering(|_| whole(200, &completion("fine")));
    let keys = format!(
        "[[key]]\nname = \"caller\"\nsecret = \"{KEY}\"\n\
         [[key]]\nname = \"old\"\nsecret = \"sk-old-0123456789abcdef\"\n\
         expires_at = \"2020-01-31T00:00:00Z\"\n\
         [[key]]\nname = \"few\"\nsecret = \"sk-few-0123456789abcdef\"\nmodels = [\"gpt-*\"]\n"
    );
    let gateway = Setup::to(upstream.addr).keys(&keys).start();
    for (key, name, status, code) in [
        ("sk-old-0123456789abcdef", "old", 403, "key_disabled"),
        ("sk-few-0123456789abcdef", "few", 403, "model_not_allowed"),
    ] {
        let answer = ask(gateway.addr, key, chat("m", false, "x"));
        answer.expect_error(status, code);
        let record = record_of(&gateway, &answer);
        assert_eq!(record["key"]["name"], name, "{record}");
        assert_eq!((&record["status"], &record["error"]), (&status.into(), &code.into()));
        assert_eq!((&record["state"], &record["cost"]), (&"settled".into(), &"0".into()));
        assert_eq!(record["attempts"].as_array().map(Vec::len), Some(0));
    }
}
