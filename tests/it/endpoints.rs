//! Every endpoint that is served, against the simulated provider, which holds requests to the API.

use serde_json::{Value, json};

use crate::support::{H2, Raw, Setup, SimServer, client, post};

/// Path, body, and what must be in the answer.
fn calls() -> Vec<(&'static str, Value, &'static str)> {
    let message = json!([{"role": "user", "content": "Hello"}]);
    vec![
        ("/v1/chat/completions", json!({"model": "m", "messages": message}), "chat.completion"),
        ("/v1/completions", json!({"model": "m", "prompt": "Hello"}), "text_completion"),
        ("/v1/embeddings", json!({"model": "m", "input": "Hello"}), "\"embedding\""),
        ("/v1/responses", json!({"model": "m", "input": "Hello"}), "\"output_text\""),
        ("/v1/moderations", json!({"model": "m", "input": "Hello"}), "\"flagged\""),
        ("/v1/images/generations", json!({"model": "m", "prompt": "a dot"}), "\"b64_json\""),
        (
            "/v1/rerank",
            json!({"model": "m", "query": "a", "documents": ["a", "b"]}),
            "\"relevance_score\"",
        ),
        (
            "/v2/rerank",
            json!({"model": "m", "query": "a", "documents": ["a", "b"]}),
            "\"relevance_score\"",
        ),
    ]
}

#[test]
fn every_endpoint_passes_on_h1_and_h2() {
    let sim = SimServer::start();
    let gateway = Setup::to(sim.addr).start();
    let h2 = H2::connect(gateway.addr);
    for (path, body, holds) in calls() {
        let body = body.to_string();
        for answer in [post(gateway.addr, path, &body), h2.post(path, &body)] {
            assert_eq!(answer.status, 200, "{path}: {}", answer.text());
            assert!(answer.text().contains(holds), "{path}: {}", answer.text());
            assert_eq!(answer.header("x-foretoken-attempts"), Some("1"), "{path}");
        }
    }
    let speech = json!({"model": "m", "input": "Hello", "voice": "alloy"}).to_string();
    let spoken = post(gateway.addr, "/v1/audio/speech", &speech);
    assert_eq!(spoken.status, 200);
    assert!(spoken.header("content-type").is_some_and(|t| t.starts_with("audio/")));
    assert!(!spoken.body.is_empty() && !spoken.broken);
}

#[test]
fn every_stream_passes_and_ends_well() {
    let sim = SimServer::start();
    let gateway = Setup::to(sim.addr).start();
    for (path, body, last) in [
        ("/v1/completions", json!({"model": "m", "prompt": "Hello", "stream": true}), "[DONE]"),
        (
            "/v1/responses",
            json!({"model": "m", "input": "Hello", "stream": true}),
            "response.completed",
        ),
        (
            "/v1/images/generations",
            json!({"model": "gpt-image-1", "prompt": "a dot", "stream": true, "partial_images": 1}),
            "image_generation.completed",
        ),
        (
            "/v1/audio/speech",
            json!({"model": "m", "input": "Hello", "voice": "alloy", "stream_format": "sse"}),
            "speech.audio.done",
        ),
    ] {
        let mut raw = Raw::connect(gateway.addr);
        raw.send(client::encode_post(path, body.to_string()));
        let answer = raw.answer();
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        assert!(!answer.broken, "{path}");
        let lines = answer.data_lines();
        let end = lines.last().map_or("", String::as_str);
        assert!(end.contains(last), "{path}: {end}");
    }
}
