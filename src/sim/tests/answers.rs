//! Well-behaved answers, refusals, and the record of what was received.

use super::*;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::sim::json::{base64, hex};

#[tokio::test]
async fn both_protocols_and_both_paths_give_one_answer() {
    let sim = started(quick()).await;
    let body = chat("m", false);
    let h1 = post(&sim, "/v1/chat/completions", &body).await;
    let h2 = call_h2(&sim, request(Method::POST, "/chat/completions", body.to_string()))
        .await
        .expect("an answer");
    assert_eq!((h1.status, h2.status), (StatusCode::OK, StatusCode::OK));
    assert_eq!(h1.json()["choices"], h2.json()["choices"]);
    assert_eq!(h1.json()["usage"]["completion_tokens"], 12);
    assert_eq!(h1.header("content-length"), h1.body.len().to_string());
    assert!(h1.header("x-request-id").starts_with("req_"));
    assert_ne!(h1.header("x-request-id"), h2.header("x-request-id"));
    assert!(!h1.header("x-ratelimit-remaining-requests").is_empty());
    let streamed = post(&sim, "/v1/chat/completions", &chat("m", true)).await;
    assert_eq!(streamed.header("content-type"), "text/event-stream; charset=utf-8");
    assert_eq!(h1.json()["choices"][0]["message"]["content"], streamed.streamed());
    assert!(streamed.body.ends_with(b"data: [DONE]\n\n"));
    let stats = sim.stats();
    assert_eq!((stats.h1_requests, stats.h2_requests, stats.connections), (2, 1, 3));
    assert_eq!((stats.completed, stats.cancelled, stats.streams_open), (3, 0, 0));
    assert_eq!(stats.by_endpoint["chat"], 3);
    sim.shutdown().await;
}

#[tokio::test]
async fn every_endpoint_answers() {
    let sim = started(quick()).await;
    let prompt = json!({"model": "m", "prompt": "x"});
    for (path, body) in [
        ("/v1/completions", prompt.clone()),
        ("/v1/embeddings", json!({"model": "m", "input": "x", "dimensions": 3})),
        ("/v1/responses", json!({"model": "m", "input": "x"})),
        ("/v1/moderations", json!({"input": "x"})),
        ("/v1/images/generations", json!({"prompt": "x"})),
        ("/v1/audio/speech", json!({"model": "m", "voice": "v", "input": "x"})),
        ("/v1/rerank", json!({"model": "m", "query": "x", "documents": ["x"]})),
        ("/v2/rerank", json!({"model": "m", "query": "x", "documents": ["x"]})),
    ] {
        let answer = post(&sim, path, &body).await;
        assert_eq!(answer.status, StatusCode::OK, "{path} {:?}", answer.body);
        assert!(!answer.body.is_empty());
    }
    for path in ["/v1/models", "/models/gpt-4o"] {
        let answer = call(&sim, request(Method::GET, path, "")).await.expect("an answer");
        assert_eq!(answer.status, StatusCode::OK, "{path}");
    }
    assert_eq!((sim.stats().requests, sim.stats().invalid), (10, 0));
}

#[tokio::test]
async fn bad_requests_are_refused_and_counted() {
    let keys = vec!["sk-good".to_owned()];
    let sim = started(Settings { keys, body_limit_bytes: 1000, ..quick() }).await;
    let good = chat("m", false).to_string();
    let with = |name: &'static str, value: &'static str| {
        let mut request = request(Method::POST, "/v1/chat/completions", good.clone());
        request.headers_mut().insert(name, http::HeaderValue::from_static(value));
        request
    };
    let to = |method: Method, path: &str, body: &str| request(method, path, body.to_owned());
    let long = "x".repeat(1001);
    for (request, status, code) in [
        (with("authorization", "Bearer sk-bad"), 401, Some("invalid_api_key")),
        (with("authorization", "Basic sk-good"), 401, None),
        (with("content-type", "text/plain"), 415, Some("unsupported_content_type")),
        (with("x-foretoken-tags", "a"), 400, None),
        (to(Method::POST, "/v1/chat/completions", "{\"model\":"), 400, None),
        (to(Method::POST, "/v1/chat/completions", "{}"), 400, Some("missing_required_parameter")),
        (to(Method::POST, "/v1/chat/completions", &long), 413, Some("request_too_large")),
        (to(Method::POST, "/v1/v1/models", "{}"), 404, Some("unknown_url")),
        (to(Method::GET, "/v1/embeddings", ""), 405, Some("method_not_allowed")),
    ] {
        let what = format!("{request:?}");
        let answer = call(&sim, request).await.expect("an answer");
        assert_eq!(answer.status.as_u16(), status, "{what}");
        let error = &answer.json()["error"];
        assert_eq!(error["code"].as_str(), code, "{what}");
        assert_eq!(error["type"], "invalid_request_error");
    }
    let stats = sim.stats();
    assert_eq!((stats.invalid, stats.auth_failures, stats.completed), (7, 2, 9));
    assert_eq!(post(&sim, "/v1/chat/completions", &chat("m", false)).await.status, StatusCode::OK);
}

#[tokio::test]
async fn model_names_bring_their_errors() {
    let sim = started(quick()).await;
    for (model, status, code) in [
        ("sim-error-503", 503, "server_error"),
        ("sim-429", 429, "rate_limit_exceeded"),
        ("sim-quota", 429, "insufficient_quota"),
        ("sim-401", 401, "invalid_api_key"),
        ("sim-404", 404, "model_not_found"),
        ("sim-400-context", 400, "context_length_exceeded"),
        ("sim-200-error", 200, "server_error"),
    ] {
        let answer = post(&sim, "/v1/chat/completions", &chat(model, true)).await;
        assert_eq!(answer.status.as_u16(), status, "{model}");
        assert_eq!(answer.json()["error"]["code"], code, "{model}");
        if model == "sim-429" {
            assert_eq!(
                (answer.header("retry-after"), answer.header("retry-after-ms")),
                ("1", "1000")
            );
            assert_eq!(answer.header("x-ratelimit-remaining-requests"), "0");
        }
    }
    assert_eq!(sim.stats().invalid, 0);
    let mid = post(&sim, "/v1/chat/completions", &chat("sim-inband-error", true)).await;
    let text = String::from_utf8_lossy(&mid.body);
    assert!(text.contains("\"content\":\"") && !text.contains("[DONE]"));
    assert!(text.lines().rfind(|line| !line.is_empty()).expect("a line").contains("{\"error\":{"));
    let body = json!({"model": "sim-inband-error", "input": "x", "stream": true});
    let events = post(&sim, "/v1/responses", &body).await;
    let text = String::from_utf8_lossy(&events.body);
    let number = text.matches("event: ").count() - 1;
    assert!(text.contains(&format!("\"sequence_number\":{number},\"error\":{{")), "{text}");
}

#[tokio::test]
async fn what_was_received_can_be_read_bit_for_bit() {
    let sim = started(quick()).await;
    let body = "{ \"model\":\"sim-echo\",\n\"messages\" : [{\"role\":\"user\",\"content\":\"\\u00e9 é 1e2\"}], \"seed\":0}";
    let asked = request(Method::POST, "/v1/chat/completions?a=b", body);
    let answer = call(&sim, asked).await.expect("an answer");
    let digest = hex(&Sha256::digest(body.as_bytes()));
    let content = answer.json()["choices"][0]["message"]["content"].clone();
    assert_eq!(content, format!("{digest} {}", body.len()));
    let seen = sim.received(1).remove(0);
    assert_eq!(
        (seen.body.as_ref(), seen.path.as_str()),
        (body.as_bytes(), "/v1/chat/completions?a=b")
    );
    assert_eq!((seen.method.as_str(), seen.protocol, seen.tls), ("POST", "HTTP/1.1", false));
    assert!(seen.headers.contains(&("authorization".into(), "Bearer sk-good".into())));
    assert_eq!(seen.id, answer.header("x-request-id"));
    let over_http =
        call(&sim, request(Method::GET, "/sim/requests?last=5", "")).await.expect("a list");
    let list = over_http.json();
    assert_eq!(list.as_array().map(Vec::len), Some(1));
    assert_eq!(list[0]["body_base64"], base64(body.as_bytes()));
    assert_eq!((&list[0]["body_sha256"], &list[0]["connection"]), (&json!(digest), &json!(1)));
}

#[tokio::test]
async fn gzip_and_big_answers_are_whole() {
    let sim = started(quick()).await;
    for stream in [false, true] {
        let zipped = post(&sim, "/v1/chat/completions", &chat("sim-gzip", stream)).await;
        assert_eq!(zipped.header("content-encoding"), "gzip");
        let mut plain = String::new();
        let mut decoder = flate2::read::GzDecoder::new(zipped.body.as_ref());
        std::io::Read::read_to_string(&mut decoder, &mut plain).expect("gzip");
        assert!(plain.contains("\"finish_reason\":\"stop\""));
        let big = post(&sim, "/v1/chat/completions", &chat("sim-big", stream)).await;
        assert!(big.body.len() > 1 << 20);
        assert!(!stream || big.streamed().len() == 1 << 20);
    }
}

#[tokio::test]
async fn canaries_come_back_to_their_own_caller_only() {
    let sim = started(quick()).await;
    let ask = |mark: usize| {
        let content = format!("please say canary:c{mark}-x now");
        json!({"model": "m", "stream": true, "messages": [{"role": "user", "content": content}]})
    };
    for mark in 0..8 {
        let answer = post(&sim, "/v1/chat/completions", &ask(mark)).await;
        assert!(answer.streamed().starts_with(&format!("canary:c{mark}-x ")));
    }
}

#[tokio::test]
async fn tls_speaks_what_alpn_chose() {
    let made =
        rcgen::generate_simple_self_signed(vec!["sim.test".to_owned()]).expect("a certificate");
    let der = made.cert.der().clone();
    let key = rustls::pki_types::PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut server = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![der.clone()], key)
        .expect("a key that fits");
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let sim = started(Settings { tls: Some(Arc::new(server)), ..quick() }).await;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(der).expect("a root");
    for (alpn, protocol) in [(&b"h2"[..], "HTTP/2.0"), (b"http/1.1", "HTTP/1.1")] {
        let mut client = rustls::ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots.clone())
            .with_no_client_auth();
        client.alpn_protocols = vec![alpn.to_vec()];
        let name = "sim.test".try_into().expect("a name");
        let stream = TcpStream::connect(sim.addr).await.expect("connects");
        let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
        let mut stream = connector.connect(name, stream).await.expect("a handshake");
        let body = chat("m", false).to_string();
        if alpn == b"h2" {
            let asked = request(Method::POST, "/v1/chat/completions", body);
            let response = h2_client(stream).await.send_request(asked).await.expect("an answer");
            assert_eq!((response.status(), response.version()), (StatusCode::OK, Version::HTTP_2));
        } else {
            stream.write_all(raw("/v1/chat/completions", &body).as_bytes()).await.expect("writes");
            let mut head = [0; 15];
            stream.read_exact(&mut head).await.expect("reads");
            assert_eq!(&head, b"HTTP/1.1 200 OK");
        }
        let seen = sim.received(1).remove(0);
        assert_eq!((seen.protocol, seen.tls), (protocol, true));
    }
}

#[tokio::test]
async fn garbage_is_refused_and_shutdown_closes_everything() {
    let sim = started(quick()).await;
    let mut garbage = send_raw(sim.addr, "\0\0\0\0 what?\r\n\r\n").await;
    let mut seen = String::new();
    let _ = timeout(LIMIT, garbage.read_to_string(&mut seen)).await.expect("closes");
    assert!(seen.starts_with("HTTP/1.1 400"), "{seen}");
    let text = raw("/v1/chat/completions", &chat("sim-stall", true).to_string());
    let mut open = send_raw(sim.addr, &text).await;
    read_to(&mut open, "\r\n\r\n").await;
    let addr = sim.addr;
    timeout(LIMIT, sim.shutdown()).await.expect("in time");
    let end = timeout(LIMIT, open.read(&mut [0; 16])).await.expect("in time");
    assert!(matches!(end, Ok(0) | Err(_)));
    assert!(TcpStream::connect(addr).await.is_err());
}

#[tokio::test]
async fn the_books_add_up_to_what_was_told_as_usage() {
    let sim = started(quick()).await;
    let mut told = Told::default();
    for (model, stream, asks) in [
        ("a-sim-cached", false, false),
        ("a-sim-cached", true, true),
        // Not asked for, or not given: answers without usage.
        ("a-sim-cached", true, false),
        ("sim-no-usage", false, false),
        ("sim-cut", true, true),
    ] {
        let mut body = chat(model, stream);
        body["user"] = "ada".into();
        if asks {
            body["stream_options"] = json!({"include_usage": true});
        }
        let asked = request(Method::POST, "/v1/chat/completions", body.to_string());
        let answer = call(&sim, asked).await.ok();
        let Some(answer) = answer.filter(|_| model == "a-sim-cached") else { continue };
        told.requests += 1;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        let lines = text.lines().map(|line| line.trim_start_matches("data: "));
        let usage = lines
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .find_map(|value| value.get("usage").filter(|usage| usage.is_object()).cloned());
        if let Some(usage) = usage {
            let number = |at: &str| usage.pointer(at).and_then(Value::as_u64).expect("a number");
            told.reported += 1;
            told.input += number("/prompt_tokens");
            told.cached += number("/prompt_tokens_details/cached_tokens");
            told.output += number("/completion_tokens");
            told.reasoning += number("/completion_tokens_details/reasoning_tokens");
        }
    }
    assert_eq!((told.requests, told.reported), (3, 2));
    let pages = sim.books();
    let page = |model: &str| pages.iter().find(|page| page.model == model).expect("a page");
    assert_eq!((page("a-sim-cached").completed, page("a-sim-cached").begun), (told, told));
    assert_eq!(page("a-sim-cached").user, "ada");
    let silent = page("sim-no-usage").completed;
    assert_eq!((silent.requests, silent.reported, silent.output), (1, 0, 0));
    let cut = page("sim-cut");
    assert_eq!((cut.begun.requests, cut.begun.reported, cut.completed.requests), (1, 0, 0));
    let over_http = call(&sim, request(Method::GET, "/sim/books", "")).await.expect("an answer");
    assert_eq!(over_http.json()["data"], serde_json::to_value(&pages).expect("JSON"));
    sim.reset();
    assert!(sim.books().is_empty());
}
