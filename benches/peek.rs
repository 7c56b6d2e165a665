//! The scan of a request's body, by its size: one long text, and a conversation of short ones.

use divan::{Bencher, counter::BytesCount};
use foretoken::dialect::{Endpoint, peek, splice};

fn main() {
    divan::main();
}

/// One message of about `bytes`.
fn one_text(bytes: usize) -> Vec<u8> {
    let text = "The quick brown fox jumps over the lazy dog, again. ".repeat(bytes / 52 + 1);
    format!(
        r#"{{"model":"gpt-4o-mini","messages":[{{"role":"user","content":"{text}"}}],"stream":true,"max_tokens":256}}"#
    )
    .into_bytes()
}

/// Messages of about 200 bytes with escapes, about `bytes` in all.
fn conversation(bytes: usize) -> Vec<u8> {
    let line =
        "Please look at this:\\n\\tlet x = \\\"y\\\";\\nand tell me why it does not compile. ";
    let message = format!(r#"{{"role":"user","content":"{}"}}"#, line.repeat(2));
    let messages = vec![message.as_str(); bytes / message.len() + 1].join(",");
    format!(r#"{{"model":"gpt-4o-mini","stream":true,"messages":[{messages}],"temperature":0.7}}"#)
        .into_bytes()
}

const SIZES: [usize; 4] = [1_000, 1_700, 100_000, 1_600_000];

#[divan::bench(args = SIZES)]
fn text(bencher: Bencher, bytes: usize) {
    let body = one_text(bytes);
    bencher
        .counter(BytesCount::new(body.len()))
        .bench(|| peek(divan::black_box(&body), Endpoint::ChatCompletions).is_ok());
}

#[divan::bench(args = SIZES)]
fn messages(bencher: Bencher, bytes: usize) {
    let body = conversation(bytes);
    bencher
        .counter(BytesCount::new(body.len()))
        .bench(|| peek(divan::black_box(&body), Endpoint::ChatCompletions).is_ok());
}

#[divan::bench]
fn splice_1k(bencher: Bencher) {
    let body = one_text(1_000);
    let asked = peek(&body, Endpoint::ChatCompletions).expect("valid");
    bencher.bench(|| splice(divan::black_box(&asked), Some("upstream/model"), true));
}
