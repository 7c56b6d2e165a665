//! Misbehaviour on both sides: callers who leave, and everything the provider does wrong on purpose.

use super::*;

#[tokio::test]
async fn a_caller_who_leaves_in_mid_stream_is_noticed_on_both_protocols() {
    let sim = started(Settings { tokens: Lengths::constant(10_000), ..paced() }).await;
    let text = raw("/v1/chat/completions", &chat("m1", true).to_string());
    let mut stream = send_raw(sim.addr, &text).await;
    read_to(&mut stream, "\"content\":\"").await;
    assert_eq!(sim.stats().streams_open, 1);
    drop(stream);
    until("the cancel over HTTP/1", || sim.stats().cancelled == 1).await;

    let mut sender = h2_connect(&sim).await;
    let body = chat("m2", true).to_string();
    let request = request(Method::POST, "/v1/chat/completions", body);
    let mut response = sender.send_request(request).await.expect("a head");
    response.frame().await.expect("a frame").expect("data");
    drop(response);
    until("the cancel over HTTP/2", || sim.stats().cancelled == 2).await;

    let stats = sim.stats();
    assert_eq!((stats.streams_open, stats.in_flight, stats.completed), (0, 0, 0));
    let models: Vec<_> = stats.cancels.iter().map(|cancel| cancel.model.as_str()).collect();
    assert_eq!(models, ["m1", "m2"]);
    assert!(
        stats.cancels.iter().all(|cancel| cancel.tokens_sent > 0 && cancel.tokens_sent < 10_000)
    );
    assert!(stats.last_cancel_unix_ms > 1_600_000_000_000);
    for (page, cancel) in sim.books().iter().zip(&stats.cancels) {
        let cut = Cut { requests: 1, output: cancel.tokens_sent };
        assert_eq!((page.cut, page.begun.requests, page.completed), (cut, 1, Told::default()));
    }
}

#[tokio::test]
async fn a_caller_who_leaves_before_the_head_is_noticed_on_both_protocols() {
    let sim = started(quick()).await;
    let text = raw("/v1/chat/completions", &chat("sim-stall-head", true).to_string());
    let stream = send_raw(sim.addr, &text).await;
    until("the request over HTTP/1", || sim.stats().in_flight == 1 && !sim.received(1).is_empty())
        .await;
    drop(stream);
    until("the cancel over HTTP/1", || sim.stats().cancelled == 1).await;

    let mut sender = h2_connect(&sim).await;
    let body = chat("sim-stall-head", false).to_string();
    let asked = request(Method::POST, "/v1/chat/completions", body);
    {
        let mut pending = std::pin::pin!(sender.send_request(asked));
        let arrived = until("the request over HTTP/2", || sim.stats().h2_requests == 1);
        tokio::select! {
            biased;
            _ = &mut pending => panic!("answered"),
            () = arrived => {}
        }
    }
    until("the cancel over HTTP/2", || sim.stats().cancelled == 2).await;
    assert_eq!(sim.stats().in_flight, 0);
    // The connection outlives the stream.
    let body = chat("m", false).to_string();
    let response = sender.send_request(request(Method::POST, "/v1/chat/completions", body)).await;
    assert_eq!(response.expect("an answer").status(), StatusCode::OK);
}

#[tokio::test]
async fn stalls_send_what_they_promise_and_then_nothing() {
    let sim = started(quick()).await;
    for (model, before) in [("sim-stall", "\r\n\r\n"), ("sim-stall-mid", "\"content\":\"")] {
        let text = raw("/v1/chat/completions", &chat(model, true).to_string());
        let mut stream = send_raw(sim.addr, &text).await;
        let mut seen = read_to(&mut stream, before).await;
        assert!(seen.starts_with("HTTP/1.1 200 OK\r\n"), "{seen}");
        until("the stream is open", || sim.stats().streams_open == 1).await;
        // Its silence has no end, so what can be seen is that it neither ends nor finishes.
        let mut more = Vec::new();
        let end = timeout(Duration::from_millis(50), stream.read_to_end(&mut more)).await;
        assert!(end.is_err(), "{model} ended");
        seen.push_str(&String::from_utf8_lossy(&more));
        assert!(!seen.contains("[DONE]"));
        assert_eq!(
            seen.matches("\"content\":\"").count(),
            if model == "sim-stall" { 0 } else { 4 }
        );
        drop(stream);
        until("the stream is closed", || sim.stats().streams_open == 0).await;
    }
    assert_eq!(sim.stats().cancelled, 2);
}

#[tokio::test]
async fn cuts_and_resets_break_the_connection_and_are_no_cancels() {
    let sim = started(quick()).await;
    let mut cut =
        send_raw(sim.addr, &raw("/v1/chat/completions", &chat("sim-cut", true).to_string())).await;
    let mut seen = Vec::new();
    timeout(LIMIT, cut.read_to_end(&mut seen)).await.expect("in time").expect("a plain close");
    let seen = String::from_utf8_lossy(&seen);
    // The role chunk carries an empty content.
    assert_eq!(seen.matches("\"content\":\"").count(), 4);
    assert!(!seen.ends_with("0\r\n\r\n") && !seen.contains("[DONE]"));

    let text = raw("/v1/chat/completions", &chat("sim-reset", true).to_string());
    let mut reset = send_raw(sim.addr, &text).await;
    let fault =
        timeout(LIMIT, reset.read(&mut [0; 16])).await.expect("in time").expect_err("a reset");
    assert_eq!(fault.kind(), std::io::ErrorKind::ConnectionReset);

    let mut sender = h2_connect(&sim).await;
    let body = chat("sim-reset", false).to_string();
    let refused = sender.send_request(request(Method::POST, "/v1/chat/completions", body)).await;
    assert!(refused.is_err());
    let body = chat("sim-cut", true).to_string();
    let begun = sender.send_request(request(Method::POST, "/v1/chat/completions", body)).await;
    assert!(collect(begun.expect("a head")).await.is_err());
    let body = chat("m", false).to_string();
    let response = sender.send_request(request(Method::POST, "/v1/chat/completions", body)).await;
    assert_eq!(response.expect("the connection lives on").status(), StatusCode::OK);
    let stats = sim.stats();
    assert_eq!((stats.broken, stats.cancelled), (4, 0));
}

#[tokio::test]
async fn truncated_documents_and_streams_end_cleanly() {
    let sim = started(quick()).await;
    let stream = post(&sim, "/v1/chat/completions", &chat("sim-truncate", true)).await;
    let text = String::from_utf8_lossy(&stream.body);
    assert!(!text.contains("\"stop\"") && !text.contains("[DONE]") && text.ends_with("\n\n"));
    let document = post(&sim, "/v1/chat/completions", &chat("sim-truncate", false)).await;
    assert!(serde_json::from_slice::<Value>(&document.body).is_err());
    assert_eq!(document.header("content-length"), "");
}

#[tokio::test]
async fn an_endless_line_goes_on_until_the_caller_leaves() {
    let sim = started(quick()).await;
    let text = raw("/v1/chat/completions", &chat("sim-endless", true).to_string());
    let mut stream = send_raw(sim.addr, &text).await;
    let (mut seen, mut buffer) = (0, vec![0; 64 << 10]);
    while seen < 4 << 20 {
        let len = timeout(LIMIT, stream.read(&mut buffer)).await.expect("in time").expect("reads");
        assert_ne!(len, 0);
        seen += len;
    }
    drop(stream);
    until("the cancel", || sim.stats().cancelled == 1).await;
}

#[tokio::test]
async fn the_behaviour_can_be_switched_over_http_and_in_process() {
    let sim = started(quick()).await;
    let errors = json!({"mode": "errors", "status": 502});
    let now = post(&sim, "/sim/behaviour", &errors).await;
    assert_eq!((&now.json()["mode"], &now.json()["status"]), (&json!("errors"), &json!(502)));
    let hit = post(&sim, "/v1/chat/completions", &chat("m", false)).await;
    assert_eq!(hit.status.as_u16(), 502);
    sim.set_behaviour(&change(json!({"mode": "reject429"}))).expect("valid");
    let hit = post(&sim, "/v1/embeddings", &json!({"model": "m", "input": "x"})).await;
    assert_eq!(hit.status.as_u16(), 429);
    sim.set_behaviour(&change(json!({"mode": "errors", "percent": 50}))).expect("valid");
    let mut faults = 0;
    for _ in 0..60 {
        let answer = post(&sim, "/v1/chat/completions", &chat("m", false)).await;
        faults += usize::from(answer.status.as_u16() == 502);
    }
    assert!((10..50).contains(&faults), "{faults} of 60 at 50 %");
    assert_eq!(post(&sim, "/sim/behaviour", &json!({"mode": "odd"})).await.status.as_u16(), 400);
    assert!(sim.set_behaviour(&change(json!({"percent": 101}))).is_err());
    assert_eq!(post(&sim, "/sim/reset", &json!({})).await.status, StatusCode::OK);
    assert_eq!((sim.stats().requests, sim.received(9).len()), (0, 0));
    let fine = post(&sim, "/v1/chat/completions", &chat("m", false)).await;
    assert_eq!(fine.status, StatusCode::OK);
}

#[tokio::test]
async fn a_black_hole_freezes_everything_but_the_control() {
    let sim = started(Settings { tokens: Lengths::constant(40), ..paced() }).await;
    let text = raw("/v1/chat/completions", &chat("m", true).to_string());
    let mut old = send_raw(sim.addr, &text).await;
    read_to(&mut old, "\"content\":\"").await;
    post(&sim, "/sim/behaviour", &json!({"mode": "blackhole"})).await;
    let mut new = send_raw(sim.addr, &text).await;
    let mut h2 = send_raw(sim.addr, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    until("the new request", || sim.stats().requests == 2).await;
    for stream in [&mut new, &mut h2] {
        let silence = timeout(Duration::from_millis(50), stream.read(&mut [0; 64])).await;
        assert!(silence.is_err(), "the black hole answered");
    }
    // What was on its way arrives, but never the end: unfrozen, it would come without a silence.
    let mut seen = Vec::new();
    while let Ok(read) = timeout(Duration::from_millis(100), old.read_buf(&mut seen)).await {
        assert_ne!(read.expect("reads"), 0, "the stream ended in the black hole");
        assert!(!String::from_utf8_lossy(&seen).contains("[DONE]"), "the stream went on");
    }
    assert_eq!(sim.stats().completed, 0);
    let stats = call(&sim, request(Method::GET, "/sim/stats", "")).await.expect("an answer");
    assert_eq!(stats.json()["streams_open"], 1);
    post(&sim, "/sim/behaviour", &json!({"mode": "normal"})).await;
    read_to(&mut old, "[DONE]").await;
    let len = timeout(LIMIT, h2.read(&mut [0; 64])).await.expect("in time").expect("reads");
    assert_ne!(len, 0, "no SETTINGS after the black hole");
}

#[tokio::test]
async fn goaway_ends_connections_after_their_requests() {
    let sim = started(Settings { tokens: Lengths::constant(30), ..paced() }).await;
    let text = raw("/v1/chat/completions", &chat("m", true).to_string());
    let mut h1 = send_raw(sim.addr, &text).await;
    let mut sender = h2_connect(&sim).await;
    let body = chat("m", true).to_string();
    let asked = request(Method::POST, "/v1/chat/completions", body);
    let h2 = sender.send_request(asked).await.expect("a head");
    read_to(&mut h1, "\"content\":\"").await;
    sim.goaway();
    let answer = collect(h2).await.expect("the stream finishes");
    assert!(answer.body.ends_with(b"data: [DONE]\n\n"));
    let mut rest = String::new();
    timeout(LIMIT, h1.read_to_string(&mut rest)).await.expect("closes").expect("reads");
    assert!(rest.ends_with("data: [DONE]\n\n\r\n0\r\n\r\n"), "{rest}");
    until("the connections have ended", || sim.stats().open_connections == 0).await;
}
