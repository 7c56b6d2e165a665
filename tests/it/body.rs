//! What is inside of bodies: JSON that could be read in two ways, bombs, endless lines, and answers
//! cut wherever it hurts.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use foretoken::dialect::{StreamKind, StreamReader};

use crate::support::client::{encode, encode_post};
use crate::support::process::Process;
use crate::support::upstream::{answer, chunk, completion, delta, finish, json};
use crate::support::{Answer, Gateway, H2, KEY, Raw, Scripted, Setup, chat, post, request};

const CHAT: &str = "/v1/chat/completions";

fn fine() -> (Scripted, Gateway) {
    let upstream = Scripted::answering(|_| json(200, &completion("fine")));
    let gateway = Setup::to(upstream.addr).start();
    (upstream, gateway)
}

#[test]
fn case_16_depth() {
    let (upstream, gateway) = fine();
    for depth in [100_000, 5_000_000] {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let (open, close) = (open.repeat(depth), close.repeat(depth));
            let body = format!("{{\"model\":\"m\",\"x\":{open}1{close}}}");
            post(gateway.addr, CHAT, &body).expect_error(400, "invalid_json");
            // And one that never gets to the bottom.
            let body = format!("{{\"model\":\"m\",\"x\":{open}");
            post(gateway.addr, CHAT, &body).expect_error(400, "invalid_json");
        }
    }
    assert_eq!(upstream.count(), 0);
    let (open, close) = ("[".repeat(500), "]".repeat(500));
    let body = format!("{{\"model\":\"m\",\"messages\":[],\"x\":{open}1{close}}}");
    assert_eq!(post(gateway.addr, CHAT, &body).status, 200, "deep tool schemas are fine");
    assert_eq!(upstream.only().body, body.as_bytes());
}

#[test]
fn case_16_models_that_could_be_read_in_two_ways() {
    let upstream = Scripted::answering(|_| json(200, &completion("fine")));
    let gateway = Setup::to(upstream.addr)
        .keys(&format!("[[key]]\nname = \"k\"\nsecret = \"{KEY}\"\nmodels = [\"cheap\"]\n"))
        .start();
    for (body, code) in [
        (r#"{"model":"cheap","model":"dear"}"#, 400),
        (r#"{"model":"cheap","messages":[],"model":"cheap"}"#, 400),
        (r#"{"model":"cheap","mod\u0065l":"dear"}"#, 400),
        (r#"{"mod\u0065l":"dear","model":"cheap"}"#, 400),
        (r#"{"model":"cheap","Model":"dear"}"#, 400),
        (r#"{"model":"cheap","MODEL":"dear"}"#, 400),
        (r#"{"mode\u006c":"dear"}"#, 400),
        (r#"{"model":"cheap","stream":false,"stream":true}"#, 400),
        (r#"{"model":"cheap","\u017ftream":true}"#, 400),
        (r#"{"model":["cheap"]}"#, 400),
        (r#"{"model":null}"#, 400),
        (r#"{"messages":[]}"#, 400),
        (r#"{"model":"cheap"}{"model":"dear"}"#, 400),
        (r#"{"model":"cheap"},"model":"dear""#, 400),
        ("{\"model\":\"cheap\"}\0", 400),
        ("\u{feff}{\"model\":\"cheap\"}", 400),
        (r#"{"model":"cheap""#, 400),
        (r#"{"model":"cheap",}"#, 400),
        (r#"{"model":"cheap" "x":1}"#, 400),
        (r#"{'model':'cheap'}"#, 400),
        (r#"{"model":"cheap",/*"model":"dear"*/"x":1}"#, 400),
        (r#"{"x":"\ud800","model":"cheap","y":[1,2}}"#, 400),
        (r#"["model","cheap"]"#, 400),
        ("", 400),
        (r#"{"model":"dear"}"#, 403),
        (r#"{"model":"d\u0065ar"}"#, 403),
        (r#"{"model":"cheap "}"#, 403),
        (r#"{"model":"Cheap"}"#, 403),
    ] {
        let answer = post(gateway.addr, CHAT, body);
        assert_eq!(answer.status, code, "{body}: {}", answer.text());
        assert!(answer.json()["error"]["type"].is_string(), "{}", answer.text());
    }
    let mut latin = br#"{"model":"cheap\xff"}"#.to_vec();
    latin.splice(15..19, [0xff]);
    assert_eq!(post(gateway.addr, CHAT, &latin).status, 400, "not UTF-8");
    assert_eq!(upstream.count(), 0, "{:?}", upstream.requests());

    // What policy read is what the upstream gets, bit for bit, however it is written.
    for body in [
        r#"{"model":"ch\u0065ap","messages":[]}"#,
        "{ \"messages\" : [ ] ,\r\n\t\"model\" : \"cheap\" , \"x\": 1.0e+5 }\n ",
        r#"{"a":{"model":"dear"},"model":"cheap","b":[{"model":"dear"}],"c":"\"model\":\"dear\""}"#,
    ] {
        assert_eq!(post(gateway.addr, CHAT, body).status, 200, "{body}");
        let last = upstream.requests().pop().expect("a request");
        assert_eq!(last.text(), body);
    }
}

#[test]
fn case_16_an_alias_is_put_where_the_model_stood_and_nowhere_else() {
    let upstream = Scripted::answering(|_| json(200, &completion("fine")));
    let gateway = Setup::to(upstream.addr)
        .models("[[model]]\nname = \"alias\"\ntargets = [{ provider = \"up\", model = \"real \\\"x\\\"\" }]\n")
        .start();
    let body = r#"{"a":{"model":"alias"} ,"model" : "al\u0069as","x":"alias","t":1.50}"#;
    let answer = post(gateway.addr, CHAT, body);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(
        upstream.only().text(),
        r#"{"a":{"model":"alias"} ,"model" : "real \"x\"","x":"alias","t":1.50}"#
    );
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).expect("memory");
    encoder.finish().expect("memory")
}

/// `mib` MiB of zeros, compressed.
fn bomb(mib: usize) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let block = vec![0; 1 << 20];
    for _ in 0..mib {
        encoder.write_all(&block).expect("memory");
    }
    encoder.finish().expect("memory")
}

/// The most memory that a process has used so far.
fn peak_mib(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1024
}

#[track_caller]
fn post_coded(addr: std::net::SocketAddr, coding: &str, body: &[u8]) -> Answer {
    let bearer = format!("Bearer {KEY}");
    let headers = [("authorization", bearer.as_str()), ("content-encoding", coding)];
    let mut raw = Raw::connect(addr);
    let _ = raw.try_send(encode("POST", CHAT, &headers, body));
    raw.answer()
}

#[test]
fn case_23_compressed_requests_and_bombs() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = dir.path().join("edge.toml");
    let upstream = Scripted::answering(|_| json(200, &completion("fine")));
    Setup::to(upstream.addr).server("[server.limits]\nbody = \"8MiB\"").write(&config);
    let process = Process::serve(&config);
    let plain = chat("m", false, &"hello ".repeat(1000));
    for coding in ["gzip", "GZIP", "x-gzip"] {
        let answer = post_coded(process.addr, coding, &gzip(plain.as_bytes()));
        assert_eq!(answer.status, 200, "{coding}: {}", answer.text());
    }
    for request in upstream.requests() {
        assert_eq!(request.body, plain.as_bytes(), "the upstream gets it in clear");
        assert_eq!(request.header("content-encoding"), None);
    }
    let count = upstream.count();
    let before = peak_mib(process.pid());
    post_coded(process.addr, "gzip", &bomb(1000)).expect_error(413, "request_too_large");
    let grown = peak_mib(process.pid()) - before;
    assert!(grown < 40, "{grown} MiB for a limit of 8");
    post_coded(process.addr, "br", b"x").expect_error(415, "unsupported_media_type");
    post_coded(process.addr, "gzip, gzip", &gzip(&gzip(plain.as_bytes())))
        .expect_error(415, "unsupported_media_type");
    let whole = gzip(plain.as_bytes());
    for broken in [&whole[..whole.len() - 9], &whole[..20], b"not gzip at all", b""] {
        let answer = post_coded(process.addr, "gzip", broken);
        assert_eq!(answer.status, 400, "{}", answer.text());
    }
    assert_eq!(upstream.count(), count);
}

#[test]
fn case_23_bombs_in_answers() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = dir.path().join("edge.toml");
    let packed = bomb(400);
    let upstream = Scripted::answering(move |request| {
        let kind = if request.text().contains("\"stream\":true") {
            "text/event-stream"
        } else {
            "application/json"
        };
        if request.text().contains("small") {
            let body = gzip(completion("fine").as_bytes());
            return answer(200, &[("content-type", kind), ("content-encoding", "gzip")], body);
        }
        answer(200, &[("content-type", kind), ("content-encoding", "gzip")], &packed)
    });
    Setup::to(upstream.addr).server("[server.retry]\nattempts = 1").write(&config);
    let process = Process::serve(&config);
    let small = post(process.addr, CHAT, chat("m", false, "small"));
    assert_eq!(small.header("content-encoding"), None, "it is unpacked on the way");
    assert_eq!(small.json()["choices"][0]["message"]["content"], "fine");

    let before = peak_mib(process.pid());
    for stream in [true, false] {
        let mut raw = Raw::connect(process.addr);
        raw.send(encode_post(CHAT, chat("m", stream, "x")));
        let mut head = raw.head();
        // Read and thrown away: what counts is what the gateway holds.
        let mut total = 0;
        loop {
            match raw.piece() {
                Ok(Some(piece)) => {
                    total += piece.len();
                    head.body = piece;
                }
                Ok(None) => break,
                Err(_) => {
                    head.broken = true;
                    break;
                }
            }
        }
        assert!(total <= 257 << 20, "{total} bytes were unpacked");
        let told = head.broken || head.status == 502 || head.text().contains("\"error\"");
        assert!(told, "stream {stream}: a cut answer must not look whole");
    }
    let grown = peak_mib(process.pid()) - before;
    assert!(grown < 110, "{grown} MiB");
    assert_eq!(post(process.addr, CHAT, chat("m", false, "small")).status, 200);
}

#[test]
fn case_23_an_endless_line() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = dir.path().join("edge.toml");
    let taken = Arc::new(AtomicUsize::new(0));
    let count = taken.clone();
    let upstream = Scripted::start(move |peer| {
        let Some(request) = peer.request() else { return };
        peer.start_events();
        if request.text().contains("after-content") {
            peer.chunk(delta("hello"));
        }
        peer.chunk("data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"");
        let piece = vec![b'a'; 1 << 20];
        // A limit of its own, so that a gateway without one does not hang the test.
        for _ in 0..300 {
            if !peer.chunk(&piece) {
                return;
            }
            count.fetch_add(piece.len(), SeqCst);
        }
    });
    Setup::to(upstream.addr).server("[server.retry]\nattempts = 1").write(&config);
    let process = Process::serve(&config);
    let before = peak_mib(process.pid());
    for message in ["after-content", "x"] {
        taken.store(0, SeqCst);
        let mut raw = Raw::connect(process.addr);
        raw.send(encode_post(CHAT, chat("m", true, message)));
        let mut head = raw.head();
        let mut tail = Vec::new();
        loop {
            match raw.piece() {
                Ok(Some(piece)) => {
                    tail.extend_from_slice(&piece);
                    let keep = tail.len().saturating_sub(4096);
                    tail.drain(..keep);
                }
                Ok(None) => break,
                Err(_) => {
                    head.broken = true;
                    break;
                }
            }
        }
        let tail = String::from_utf8_lossy(&tail);
        assert!(!tail.contains("[DONE]"), "{message}");
        assert!(head.broken || tail.contains("\"error\""), "{message}: {tail}");
        let taken = taken.load(SeqCst);
        assert!(taken < 100 << 20, "{message}: {taken} bytes of one line were taken");
    }
    let grown = peak_mib(process.pid()) - before;
    assert!(grown < 40, "{grown} MiB for one line");
}

/// A golden sample and how it is asked for.
struct Sample {
    name: &'static str,
    path: &'static str,
    ask: &'static str,
    kind: StreamKind,
    sse: &'static [u8],
}

macro_rules! sample {
    ($name:literal, $path:literal, $ask:literal, $kind:ident) => {
        Sample {
            name: $name,
            path: $path,
            ask: $ask,
            kind: StreamKind::$kind,
            sse: include_bytes!(concat!("../samples/", $name, ".sse")),
        }
    };
}

/// Every golden sample of a stream.
fn samples() -> Vec<Sample> {
    vec![
        sample!(
            "openai-chat-stream-usage",
            "/v1/chat/completions",
            "\"stream_options\":{\"include_usage\":true}",
            Chat
        ),
        sample!(
            "openai-chat-stream-tools",
            "/v1/chat/completions",
            "\"stream_options\":{\"include_usage\":true}",
            Chat
        ),
        sample!(
            "openai-chat-stream-n2-logprobs",
            "/v1/chat/completions",
            "\"n\":2,\"stream_options\":{\"include_usage\":true}",
            Chat
        ),
        sample!(
            "azure-chat-stream",
            "/v1/chat/completions",
            "\"stream_options\":{\"include_usage\":true}",
            Chat
        ),
        sample!(
            "vendor-reasoning-stream",
            "/v1/chat/completions",
            "\"stream_options\":{\"include_usage\":true}",
            Chat
        ),
        sample!(
            "sse-edge-cases",
            "/v1/chat/completions",
            "\"stream_options\":{\"include_usage\":true}",
            Chat
        ),
        sample!(
            "openai-chat-stream-error",
            "/v1/chat/completions",
            "\"stream_options\":{\"include_usage\":true}",
            Chat
        ),
        sample!(
            "openrouter-stream-error",
            "/v1/chat/completions",
            "\"stream_options\":{\"include_usage\":true}",
            Chat
        ),
        sample!(
            "completions-stream",
            "/v1/completions",
            "\"prompt\":\"x\",\"stream_options\":{\"include_usage\":true}",
            Completions
        ),
        sample!("responses-stream", "/v1/responses", "\"input\":\"x\"", Responses),
        sample!("responses-stream-tools", "/v1/responses", "\"input\":\"x\"", Responses),
        sample!("responses-stream-incomplete", "/v1/responses", "\"input\":\"x\"", Responses),
        sample!("responses-stream-failed", "/v1/responses", "\"input\":\"x\"", Responses),
        sample!("responses-stream-error", "/v1/responses", "\"input\":\"x\"", Responses),
        sample!("images-stream", "/v1/images/generations", "\"prompt\":\"x\"", Image),
        sample!(
            "speech-stream",
            "/v1/audio/speech",
            "\"input\":\"x\",\"stream_format\":\"sse\"",
            Speech
        ),
    ]
}

/// How a scripted upstream cuts a sample up.
#[derive(Clone, Copy, Debug)]
enum Cut {
    Whole,
    EveryByte,
    /// Two chunks, the first of this many bytes.
    At(usize),
    /// Chunks of this many bytes.
    Every(usize),
}

fn cut_up(data: &[u8], cut: Cut) -> Vec<u8> {
    let pieces: Vec<&[u8]> = match cut {
        Cut::Whole => vec![data],
        Cut::EveryByte => data.chunks(1).collect(),
        Cut::At(at) => vec![&data[..at], &data[at..]],
        Cut::Every(size) => data.chunks(size).collect(),
    };
    pieces.into_iter().filter(|piece| !piece.is_empty()).flat_map(chunk).collect()
}

#[test]
fn case_24_golden_streams_cut_at_every_byte() {
    // The request's `cut` field says which sample to send, and how.
    let upstream = Scripted::start(|peer| {
        let samples = samples();
        while let Some(request) = peer.request() {
            let cut = request.json()["metadata"]["cut"].clone();
            let number = |at: usize| cut[at].as_u64().expect("a number") as usize;
            let sse = samples[number(0)].sse;
            let how = match number(1) {
                0 => Cut::Whole,
                1 => Cut::EveryByte,
                2 => Cut::At(number(2)),
                _ => Cut::Every(number(2)),
            };
            peer.start_events();
            peer.write(cut_up(sse, how));
            peer.last_chunk();
        }
    });
    let setup = Setup::to(upstream.addr).server("[server.retry]\nattempts = 1");
    for (nth, sample) in samples().iter().enumerate() {
        let mut gateway = setup.start();
        let mut h2 = H2::connect(gateway.addr);
        let ask = |how: usize, size: usize| {
            format!(
                "{{\"model\":\"m\",\"stream\":true,{},\"metadata\":{{\"cut\":[{nth},{how},{size}]}}}}",
                sample.ask
            )
        };
        let whole = post(gateway.addr, sample.path, ask(0, 0));
        let text = whole.text();
        let fails = sample.name.ends_with("error") || sample.name.ends_with("failed");
        if fails {
            // The fault is told once, and nothing after it.
            let told = whole.status != 200 || text.contains("error");
            assert!(told && !text.contains("[DONE]"), "{}: {text}", sample.name);
        } else {
            assert_eq!(whole.status, 200, "{}: {text}", sample.name);
            assert_eq!(whole.body, sample.sse, "{}: bit for bit", sample.name);
        }
        let len = sample.sse.len();
        let step = (len / 60).max(1);
        let mut cuts = vec![(1, 0), (3, 2), (3, 3), (3, 7), (3, 100)];
        cuts.extend((nth % step..len).step_by(step).map(|at| (2, at)));
        let mut raw = Raw::connect(gateway.addr);
        for (how, size) in cuts {
            if fails {
                // A fault has consequences (a key rests, a target is shunned): each cut gets a
                // gateway that knows nothing of the one before.
                gateway = setup.start();
                h2 = H2::connect(gateway.addr);
                raw = Raw::connect(gateway.addr);
            }
            let same = |answer: Answer, by: &str| {
                let shown = format!("{} cut {how}/{size} by {by}", sample.name);
                assert!(!answer.broken, "{shown}");
                if fails && answer.status != whole.status {
                    // A fault that comes in the same read as the first content has reached nobody
                    // yet, and may be told by the status.
                    assert!(answer.text().contains("error"), "{shown}: {}", answer.text());
                    return;
                }
                assert_eq!(answer.status, whole.status, "{shown}");
                assert_eq!(answer.text(), whole.text(), "{shown}");
            };
            raw.send(encode_post(sample.path, ask(how, size)));
            same(raw.answer(), "HTTP/1.1");
            if fails {
                gateway = setup.start();
                h2 = H2::connect(gateway.addr);
            }
            if how != 2 || size % 5 == 0 {
                same(h2.post(sample.path, ask(how, size)), "HTTP/2");
            }
        }
    }
}

#[test]
fn case_24_a_stream_is_stripped_of_usage_alike_wherever_it_is_cut() {
    let usage = "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\
                 \"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2,\"total_tokens\":3}}\n\n";
    let head = delta("h\u{e9}\u{1f600}");
    let end = finish();
    let (last, done) = end.split_once("data: [DONE]").expect("a marker");
    let sent = format!("{head}{last}{usage}data: [DONE]{done}");
    let wanted = format!("{head}{last}data: [DONE]{done}");
    let data = sent.clone();
    let upstream = Scripted::start(move |peer| {
        while let Some(request) = peer.request() {
            let at = request.json()["metadata"]["cut"].as_u64().expect("a number") as usize;
            assert_eq!(request.json()["stream_options"]["include_usage"], true);
            peer.start_events();
            let cut = if at == 0 { Cut::EveryByte } else { Cut::At(at) };
            peer.write(cut_up(data.as_bytes(), cut));
            peer.last_chunk();
        }
    });
    let gateway = Setup::to(upstream.addr).start();
    let mut raw = Raw::connect(gateway.addr);
    for at in 0..sent.len() {
        let body = format!("{{\"model\":\"m\",\"stream\":true,\"metadata\":{{\"cut\":{at}}}}}");
        raw.send(encode_post(CHAT, body));
        assert_eq!(raw.answer().text(), wanted, "cut at {at}");
    }
}

#[test]
fn case_24_the_samples_are_read_as_the_gateway_reads_them() {
    // The kinds above are those that the dialect gives the endpoints; else the test above would
    // pass with readers that look at nothing.
    for sample in samples() {
        let mut reader = StreamReader::new(sample.kind, false);
        let mut out = Vec::new();
        let signals = reader.feed(sample.sse, &mut out);
        assert!(
            signals.first_content() || signals.finished() || signals.error(),
            "{}: nothing was recognised",
            sample.name
        );
    }
}

#[test]
fn bodies_above_the_limit_are_refused_early() {
    let (upstream, gateway) = {
        let upstream = Scripted::answering(|_| json(200, &completion("fine")));
        let limits = "[server.limits]\nbody = \"64KiB\"";
        let gateway = Setup::to(upstream.addr).server(limits).start();
        (upstream, gateway)
    };
    // Announced: before a byte of it.
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: h\r\nauthorization: Bearer {KEY}\r\ncontent-length: 65537\r\n\r\n"
    );
    let mut raw = Raw::connect(gateway.addr);
    raw.send(&head);
    raw.answer().expect_error(413, "request_too_large");
    // Not announced: once it is too much.
    let mut raw = Raw::connect(gateway.addr);
    raw.send(head.replace("content-length: 65537", "transfer-encoding: chunked"));
    for _ in 0..100 {
        if raw.try_send(chunk(vec![b' '; 1024])).is_err() {
            break;
        }
    }
    raw.answer().expect_error(413, "request_too_large");
    let h2 = H2::connect(gateway.addr);
    h2.post(CHAT, vec![b' '; 70_000]).expect_error(413, "request_too_large");
    assert_eq!(upstream.count(), 0);
    // Just at the limit is not above it.
    let mut body = chat("m", false, "x");
    body.extend(std::iter::repeat_n(' ', 65_536 - body.len()));
    assert_eq!(post(gateway.addr, CHAT, &body).status, 200);
    assert_eq!(h2.post(CHAT, &body).status, 200);
    let get = request(gateway.addr, "GET", CHAT, &[], b"");
    assert_eq!(get.status, 405);
}
