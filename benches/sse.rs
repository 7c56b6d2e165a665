//! One chunk of a stream through the reader, as it arrives: a frame per read.

use divan::{AllocProfiler, Bencher};
use foretoken::dialect::{StreamKind, StreamReader};

#[global_allocator]
static ALLOC: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

const CONTENT: &str = concat!(
    r#"data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1767225600,"#,
    r#""model":"m","choices":[{"index":0,"delta":{"content":"Hello "},"finish_reason":null}]}"#,
    "\n\n"
);
const USAGE_NULL: &str = concat!(
    r#"data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1767225600,"#,
    r#""model":"gpt-4o-mini-2024-07-18","service_tier":"default","system_fingerprint":"fp_1","#,
    r#""choices":[{"index":0,"delta":{"content":"Hello "},"logprobs":null,"finish_reason":null}],"#,
    r#""usage":null,"obfuscation":"x9"}"#,
    "\n\n"
);
const RESPONSES: &str = concat!(
    "event: response.output_text.delta\n",
    r#"data: {"type":"response.output_text.delta","item_id":"msg_1","output_index":1,"#,
    r#""content_index":0,"delta":"Hello, ","logprobs":[],"sequence_number":11}"#,
    "\n\n"
);

fn chunk(bencher: Bencher, kind: StreamKind, frame: &str) {
    let mut reader = StreamReader::new(kind, true);
    let mut out = Vec::with_capacity(4096);
    reader.feed(frame.as_bytes(), &mut out);
    bencher.bench_local(|| {
        out.clear();
        reader.feed(divan::black_box(frame.as_bytes()), &mut out)
    });
}

#[divan::bench]
fn content_160(bencher: Bencher) {
    chunk(bencher, StreamKind::Chat, CONTENT);
}

#[divan::bench]
fn usage_null_280(bencher: Bencher) {
    chunk(bencher, StreamKind::Chat, USAGE_NULL);
}

#[divan::bench]
fn responses_delta(bencher: Bencher) {
    chunk(bencher, StreamKind::Responses, RESPONSES);
}

/// The same frame cut in two by the reads.
#[divan::bench]
fn content_160_cut(bencher: Bencher) {
    let (head, tail) = CONTENT.as_bytes().split_at(90);
    let mut reader = StreamReader::new(StreamKind::Chat, true);
    let mut out = Vec::with_capacity(4096);
    reader.feed(CONTENT.as_bytes(), &mut out);
    bencher.bench_local(|| {
        out.clear();
        reader.feed(divan::black_box(head), &mut out);
        reader.feed(divan::black_box(tail), &mut out)
    });
}
