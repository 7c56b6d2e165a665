//! Golden streams, cut at every byte: what is passed on and what is signalled must not change.

use super::errors::{error_frame, sentence};
use super::stream::*;
use super::usage::Usage;
use crate::error::{Error, Kind};

/// The name and the bytes of a stream.
type Sample = (&'static str, &'static [u8]);

macro_rules! sample {
    ($name:literal) => {
        ($name, include_bytes!(concat!("../../tests/samples/", $name)) as &[u8])
    };
}

/// The end of reading a stream: everything that a caller of the reader can see.
#[derive(Debug, PartialEq, Clone)]
struct Outcome {
    out: Vec<u8>,
    signals: Signals,
    end: End,
    error: Option<super::said::StreamError>,
    usage: Option<Usage>,
    model: Option<String>,
    tier: Option<String>,
    content_bytes: u64,
    next_sequence: u64,
}

fn read<'a>(reader: StreamReader, pieces: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
    let mut reader = reader;
    let mut out = Vec::new();
    let mut signals = Signals::default();
    for piece in pieces {
        let now = reader.feed(piece, &mut out);
        assert!(!(now.first_content() && signals.first_content()), "said twice");
        assert!(!(now.finished() && signals.finished()), "said twice");
        signals = signals.and(now);
    }
    let (end, last) = reader.end(&mut out);
    let length = out.len();
    assert_eq!((reader.end(&mut out).0, out.len()), (end, length), "asked again");
    Outcome {
        out,
        signals: signals.and(last),
        end,
        error: reader.error().cloned(),
        usage: reader.usage(),
        model: reader.model_served().map(str::to_owned),
        tier: reader.service_tier().map(str::to_owned),
        content_bytes: reader.content_bytes(),
        next_sequence: reader.next_sequence(),
    }
}

/// Reads `bytes` whole, then cut in every way that matters, and asserts that nothing changes.
fn read_every_way(make: impl Fn() -> StreamReader, bytes: &[u8]) -> Outcome {
    let whole = read(make(), [bytes]);
    for cut in 0..=bytes.len() {
        let (head, tail) = bytes.split_at(cut);
        assert_eq!(read(make(), [head, tail]), whole, "cut {cut}");
    }
    for size in [1, 2, 7, 100, 4096] {
        assert_eq!(read(make(), bytes.chunks(size)), whole, "pieces of {size}");
    }
    whole
}

/// Complete streams: name and bytes, kind, choices.
const GOOD: &[(Sample, StreamKind, u32)] = &[
    (sample!("openai-chat-stream-usage.sse"), StreamKind::Chat, 1),
    (sample!("openai-chat-stream-tools.sse"), StreamKind::Chat, 1),
    (sample!("openai-chat-stream-n2-logprobs.sse"), StreamKind::Chat, 2),
    (sample!("vendor-reasoning-stream.sse"), StreamKind::Chat, 1),
    (sample!("azure-chat-stream.sse"), StreamKind::Chat, 1),
    (sample!("completions-stream.sse"), StreamKind::Completions, 1),
    (sample!("responses-stream.sse"), StreamKind::Responses, 1),
    (sample!("responses-stream-tools.sse"), StreamKind::Responses, 1),
    (sample!("responses-stream-incomplete.sse"), StreamKind::Responses, 1),
    (sample!("images-stream.sse"), StreamKind::Image, 1),
    (sample!("speech-stream.sse"), StreamKind::Speech, 1),
];

#[test]
fn good_streams_pass_verbatim_however_they_are_cut() {
    for &((name, bytes), kind, choices) in GOOD {
        let make = || StreamReader::new(kind, false).expect_choices(choices);
        let got = read_every_way(make, bytes);
        assert_eq!(got.out, bytes, "{name}");
        assert_eq!(got.end, End::Complete, "{name}");
        assert!(got.signals.first_content() && got.signals.finished(), "{name}");
        assert!(!got.signals.error() && !got.signals.server_tool(), "{name}");
        assert!(got.usage.is_some(), "{name}");
        let chat = matches!(kind, StreamKind::Chat | StreamKind::Completions);
        assert_eq!(got.signals.done_marker(), chat, "{name}");
    }
}

#[test]
fn line_ends_of_every_kind_pass_verbatim() {
    for &((name, bytes), kind, choices) in GOOD {
        let text = std::str::from_utf8(bytes).expect("utf-8");
        for end in ["\r\n", "\r"] {
            let text = text.replace('\n', end);
            let make = || StreamReader::new(kind, false).expect_choices(choices);
            let got = read(make(), text.as_bytes().chunks(3));
            assert_eq!(got.out, text.as_bytes(), "{name}");
            assert_eq!(got.end, End::Complete, "{name}");
        }
    }
}

#[test]
fn the_usage_chunk_we_asked_for_is_taken_out_and_read() {
    for &((name, bytes), kind, choices) in GOOD {
        let text = std::str::from_utf8(bytes).expect("utf-8");
        let chat = matches!(kind, StreamKind::Chat | StreamKind::Completions);
        for end in ["\n", "\r\n", "\r"] {
            let text = text.replace('\n', end);
            let blank = format!("{end}{end}");
            let kept: String = text
                .split_inclusive(&blank)
                .filter(|frame| !(chat && frame.contains("\"choices\":[],\"usage\":{")))
                .collect();
            let make = || StreamReader::new(kind, true).expect_choices(choices);
            let got = match chat {
                true => read_every_way(make, text.as_bytes()),
                false => read(make(), [text.as_bytes()]),
            };
            assert_eq!(String::from_utf8_lossy(&got.out), kept, "{name} {end:?}");
            assert_eq!(got.end, End::Complete, "{name}");
            assert!(got.usage.is_some(), "{name}");
        }
    }
}

#[test]
fn what_a_stream_says_is_read() {
    let (_, bytes) = sample!("openai-chat-stream-usage.sse");
    let got = read(StreamReader::new(StreamKind::Chat, false), [bytes]);
    assert_eq!(got.model.as_deref(), Some("gpt-4o-mini-2024-07-18"));
    assert_eq!(got.tier.as_deref(), Some("default"));
    assert_eq!(got.content_bytes, "Hello, 世界 🌍".len() as u64);
    let usage = got.usage.expect("usage");
    assert_eq!((usage.input, usage.cache_read), (Some(1200), Some(1024)));
    let (_, bytes) = sample!("responses-stream.sse");
    let got = read(StreamReader::new(StreamKind::Responses, false), [bytes]);
    assert_eq!(got.next_sequence, 17);
    assert_eq!(got.model.as_deref(), Some("gpt-5-mini-2025-08-07"));
    assert_eq!(got.usage.expect("usage").reasoning, Some(16));
}

#[test]
fn the_first_content_is_said_with_the_frame_that_carries_it() {
    let (_, bytes) = sample!("vendor-reasoning-stream.sse");
    let mut reader = StreamReader::new(StreamKind::Chat, false);
    let mut out = Vec::new();
    for frame in std::str::from_utf8(bytes).expect("utf-8").split_inclusive("\n\n") {
        let signals = reader.feed(frame.as_bytes(), &mut out);
        assert_eq!(signals.first_content(), frame.contains("2+2"), "{frame}");
    }
}

#[test]
fn an_error_frame_stops_the_stream_and_is_not_passed_on() {
    for ((name, bytes), kind, class, shown) in [
        (sample!("openai-chat-stream-error.sse"), StreamKind::Chat, Kind::ServerError, 2),
        (sample!("openrouter-stream-error.sse"), StreamKind::Chat, Kind::ServerError, 2),
        (sample!("responses-stream-error.sse"), StreamKind::Responses, Kind::RateLimited, 1),
        (sample!("responses-stream-failed.sse"), StreamKind::Responses, Kind::ServerError, 2),
    ] {
        let got = read_every_way(|| StreamReader::new(kind, false), bytes);
        let text = std::str::from_utf8(bytes).expect("utf-8");
        let want: String = text.split_inclusive("\n\n").take(shown).collect();
        assert_eq!(String::from_utf8_lossy(&got.out), want, "{name}");
        assert_eq!((got.end, got.signals.error()), (End::Truncated, true), "{name}");
        assert!(!got.signals.finished(), "{name}");
        let error = got.error.expect("error");
        assert_eq!(error.kind, class, "{name}");
        assert!(!error.message.is_empty(), "{name}");
    }
    let (_, bytes) = sample!("responses-stream-error.sse");
    let got = read(StreamReader::new(StreamKind::Responses, false), [bytes]);
    let error = got.error.expect("error");
    assert_eq!(error.retry_after_ms, Some(6570));
    assert_eq!((error.code.as_deref(), got.next_sequence), (Some("rate_limit_exceeded"), 2));
}

#[test]
fn a_failure_after_content_is_passed_on_and_reported() {
    let text = "event: response.output_text.delta\n\
        data: {\"type\":\"response.output_text.delta\",\"delta\":\"x\"}\n\n\
        event: response.failed\n\
        data: {\"type\":\"response.failed\",\"response\":{\"error\":{\"code\":\"server_error\",\
        \"message\":\"m\"},\"usage\":{\"input_tokens\":3,\"output_tokens\":1}}}\n\n";
    let got = read_every_way(|| StreamReader::new(StreamKind::Responses, false), text.as_bytes());
    assert_eq!(got.out, text.as_bytes());
    assert!(got.signals.error() && got.signals.finished());
    assert_eq!(got.error.expect("error").message, "m");
    assert_eq!(got.usage.and_then(|usage| usage.input), Some(3));
}

#[test]
fn a_stream_without_its_end_is_truncated_wherever_it_breaks() {
    for &((name, bytes), kind, choices) in GOOD {
        let text = std::str::from_utf8(bytes).expect("utf-8");
        let terminal = match kind {
            StreamKind::Chat | StreamKind::Completions => text.rfind("finish_reason\":\""),
            _ => text.rfind("\nevent: ").or_else(|| text.rfind("\ndata: ")),
        };
        let terminal = terminal.expect("terminal marker");
        for cut in 0..terminal {
            let make = StreamReader::new(kind, false).expect_choices(choices);
            let got = read(make, [&bytes[..cut]]);
            assert_eq!(got.end, End::Truncated, "{name} {cut}");
            // An error can be appended, and the frames before it are still whole ones.
            assert!(got.out.is_empty() || got.out.ends_with(b"\n\n"), "{name} {cut}");
        }
    }
    let error = Error::upstream(Kind::Truncated, sentence(Kind::Truncated));
    let frame = error_frame(StreamKind::Chat, &error, 0);
    let mut again = StreamReader::new(StreamKind::Chat, false);
    assert!(again.feed(&frame, &mut Vec::new()).error());
}

#[test]
fn every_choice_must_finish() {
    let (_, bytes) = sample!("openai-chat-stream-n2-logprobs.sse");
    let text = std::str::from_utf8(bytes).expect("utf-8");
    let frames: Vec<&str> = text.split_inclusive("\n\n").collect();
    let first = frames.iter().position(|frame| frame.contains(":\"stop\"")).expect("finish");
    let cut: String = frames[..=first].concat();
    for choices in [1, 2, 3] {
        let make = StreamReader::new(StreamKind::Chat, false).expect_choices(choices);
        assert_eq!(read(make, [cut.as_bytes()]).end, End::Truncated);
    }
    let both: String = frames[..first + 2].concat();
    for (choices, end) in [(1, End::Complete), (2, End::Complete), (3, End::Truncated)] {
        let make = StreamReader::new(StreamKind::Chat, false).expect_choices(choices);
        assert_eq!(read(make, [both.as_bytes()]).end, end);
    }
}

#[test]
fn a_last_frame_without_its_blank_line_is_completed() {
    let finish = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}";
    for (rest, end, added) in [
        ("data: [DONE]", End::Complete, "\n\n"),
        ("data: [DONE]\n", End::Complete, "\n"),
        ("data: [DONE]\r\n", End::Complete, "\n"),
        (finish, End::Complete, "\n\n"),
    ] {
        let text = format!(": hi\n\n{rest}");
        let make = || StreamReader::new(StreamKind::Chat, false);
        let got = read_every_way(make, text.as_bytes());
        assert_eq!(String::from_utf8_lossy(&got.out), format!("{text}{added}"));
        assert_eq!(got.end, end);
        assert!(got.signals.finished());
    }
    for rest in [&finish[..finish.len() - 1], "data: [DON", ": comm", "data: {\"choices\":[]} x"] {
        let text = format!(": hi\n\n{rest}");
        let got = read(StreamReader::new(StreamKind::Chat, false), [text.as_bytes()]);
        assert_eq!((got.out.as_slice(), got.end), (&b": hi\n\n"[..], End::Truncated), "{rest}");
    }
}

/// Reads a stream with a frame far above what is held, in pieces of a read's usual size.
fn long(kind: StreamKind, text: &str) -> Outcome {
    let make = || StreamReader::new(kind, true);
    let whole = read(make(), text.as_bytes().chunks(8192));
    for size in [1, 61, 4096, 16_384, 16_385] {
        let mut got = read(make(), text.as_bytes().chunks(size));
        // Rough, and only so for long frames.
        got.content_bytes = whole.content_bytes;
        assert_eq!(got, whole, "{size}");
    }
    assert_eq!(whole.out, text.as_bytes());
    whole
}

#[test]
fn frames_too_long_to_hold_pass_as_they_come_and_are_still_read() {
    let fill = "x\\\"y".repeat(20_000);
    let usage = "{\"input_tokens\":3,\"output_tokens\":1}";
    let text = format!(
        "event: response.completed\ndata: {{\"type\":\"response.completed\",\"response\":{{\
         \"output\":[{{\"text\":\"{fill}\"}}],\"usage\":{usage}}}}}\n\n"
    );
    let got = long(StreamKind::Responses, &text);
    assert_eq!((got.end, got.usage.and_then(|u| u.input)), (End::Complete, Some(3)));

    let text = format!(
        "data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{fill}\"}},\
         \"finish_reason\":\"length\"}}],\"usage\":{{\"prompt_tokens\":5}}}}\n\n"
    );
    let got = long(StreamKind::Chat, &text);
    assert_eq!((got.end, got.usage.and_then(|u| u.input)), (End::Complete, Some(5)));
    assert!(got.signals.first_content() && got.content_bytes > 70_000);

    let text = format!(
        "event: image_generation.completed\ndata: {{\"type\":\"image_generation.completed\",\
         \"b64_json\":\"{}\",\"usage\":{usage}}}\n\n",
        "QUJD".repeat(50_000)
    );
    let got = long(StreamKind::Image, &text);
    assert_eq!((got.end, got.usage.and_then(|u| u.output)), (End::Complete, Some(1)));
    assert!(got.signals.first_content());
}

#[test]
fn a_long_frame_that_breaks_off_needs_a_blank_line_before_an_error() {
    let text = format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{}", "x".repeat(40_000));
    let mut reader = StreamReader::new(StreamKind::Chat, false);
    let mut out = Vec::new();
    for piece in text.as_bytes().chunks(1000) {
        reader.feed(piece, &mut out);
    }
    assert_eq!(out, text.as_bytes());
    assert!(reader.mid_frame());
    assert_eq!(reader.end(&mut out).0, End::Truncated);
}

#[test]
fn an_endless_line_is_given_up() {
    let mut reader = StreamReader::new(StreamKind::Chat, false).max_frame(100_000);
    let mut out = Vec::new();
    let mut failed = false;
    for _ in 0..200 {
        failed |= reader.feed(&[b'x'; 1000], &mut out).error();
    }
    assert!(failed && out.len() <= 101_000);
    assert_eq!(reader.error().map(|error| error.kind), Some(Kind::Truncated));
}

#[test]
fn opaque_bytes_pass_at_once() {
    let mut reader = StreamReader::new(StreamKind::Opaque, true);
    let mut out = Vec::new();
    assert!(reader.feed(b"ID3", &mut out).first_content());
    assert!(!reader.feed(b"\0\n\n", &mut out).first_content());
    assert_eq!(out, b"ID3\0\n\n");
    assert_eq!(reader.end(&mut out).0, End::Complete);
}

#[test]
fn text_about_usage_errors_and_ends_is_only_text() {
    let content =
        r#"\"usage\":{\"prompt_tokens\":1},\"error\":{\"a\":1},\"finish_reason\":\"stop\" [DONE]"#;
    let text = format!(
        "data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{content}\"}},\
         \"finish_reason\":null}}],\"usage\":null,\"error\":null}}\n\n"
    );
    let got = read_every_way(|| StreamReader::new(StreamKind::Chat, true), text.as_bytes());
    assert_eq!(got.out, text.as_bytes());
    assert_eq!((got.end, got.usage, got.error), (End::Truncated, None, None));
}

#[test]
fn server_tools_are_signalled() {
    let text = "data: {\"type\":\"response.web_search_call.in_progress\"}\n\n";
    let mut reader = StreamReader::new(StreamKind::Responses, false);
    let signals = reader.feed(text.as_bytes(), &mut Vec::new());
    assert!(signals.server_tool() && !signals.first_content());
}
