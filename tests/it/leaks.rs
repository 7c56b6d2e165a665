//! What must stay where it is: the admin API off the data port, credentials with their
//! destination, headers behind the allow-lists, secrets and prompts out of everything that is
//! written down.

use std::sync::{Arc, Mutex};

use crate::support::client::{encode_post, find};
use crate::support::process::Process;
use crate::support::upstream::{answer, completion, delta, json};
use crate::support::{
    Gateway, H2, KEY, Raw, Scripted, Setup, UPSTREAM_KEY, WAIT, chat, get, post, request,
};

const CHAT: &str = "/v1/chat/completions";

fn fine() -> Scripted {
    Scripted::answering(|_| json(200, &completion("fine")))
}

#[test]
fn case_54_admin_paths_on_the_data_port_do_not_exist() {
    let upstream = fine();
    let gateway = Setup::to(upstream.addr).start();
    let token = format!("Bearer {}", crate::support::ADMIN_TOKEN);
    let bearer = format!("Bearer {KEY}");
    let h2 = H2::connect(gateway.addr);
    for path in [
        "/admin",
        "/admin/",
        "/admin/v1/status",
        "/admin/v1/config",
        "/admin/v1/reload",
        "/v1/admin/v1/status",
        "/v1/../admin/v1/status",
        "//admin//v1/status",
        "/%61dmin/v1/status",
        "/metrics",
        "/v1/metrics",
        "/health",
        "/health/live",
        "/health/ready",
        "/debug/pprof",
        "/sim/stats",
        "/",
    ] {
        for key in [&token, &bearer, &String::new()] {
            let headers: &[(&str, &str)] =
                if key.is_empty() { &[] } else { &[("authorization", key.as_str())] };
            for method in ["GET", "POST"] {
                let answer = request(gateway.addr, method, path, headers, b"");
                answer.expect_error(404, "unknown_url");
                let answer = h2.request(method, path, headers, b"");
                answer.expect_error(404, "unknown_url");
            }
        }
    }
    // And the other way round: the admin port serves no models, and asks for its own token.
    let headers = [("authorization", bearer.as_str())];
    for path in [CHAT, "/v1/models"] {
        let answer = request(gateway.admin, "POST", path, &headers, chat("m", false, "x"));
        assert!(matches!(answer.status, 401 | 403 | 404), "{path}: {}", answer.status);
    }
    for headers in [&[][..], &headers, &[("authorization", "Bearer ")]] {
        let mut raw = Raw::connect(gateway.admin);
        let fields: String =
            headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        raw.send(format!("GET /admin/v1/status HTTP/1.1\r\nhost: localhost\r\n{fields}\r\n"));
        assert_eq!(raw.answer().status, 401, "{headers:?}");
    }
    assert_eq!(gateway.admin("GET", "/admin/v1/status").status, 200);
    assert_eq!(upstream.count(), 0);
}

#[test]
fn case_55_what_callers_say_of_the_upstream_is_not_acted_on() {
    let upstream = fine();
    let elsewhere = fine();
    let url = format!("http://{}/v1", elsewhere.addr);
    let gateway = Setup::to(upstream.addr).start();
    let bearer = format!("Bearer {KEY}");
    for field in ["api_base", "base_url", "api_url", "proxy", "endpoint", "custom_llm_provider"] {
        let body = format!(
            "{{\"model\":\"m\",\"messages\":[],\"{field}\":\"{url}\",\"api_key\":\"sk-x\",\
             \"models\":[\"other\"],\"provider\":{{\"order\":[\"{url}\"]}}}}"
        );
        let headers = [
            ("authorization", bearer.as_str()),
            ("x-api-base", url.as_str()),
            ("x-base-url", &url),
            ("x-forwarded-host", "elsewhere.test"),
            ("forwarded", "host=elsewhere.test"),
        ];
        let answer = request(gateway.addr, "POST", CHAT, &headers, &body);
        assert_eq!(answer.status, 200, "{}", answer.text());
        let last = upstream.requests().pop().expect("a request");
        assert_eq!(last.text(), body, "the body is the caller's own business");
        assert_eq!(last.header("authorization"), Some(format!("Bearer {UPSTREAM_KEY}").as_str()));
        assert_eq!(last.header("host"), Some(upstream.addr.to_string().as_str()));
    }
    // An absolute target, another host: still this gateway's routes.
    let target = format!("http://{}{CHAT}", elsewhere.addr);
    let answer = post(gateway.addr, &target, chat("m", false, "x"));
    assert_eq!(answer.status, 200);
    // Case 56: images are named, not fetched.
    let body = format!(
        "{{\"model\":\"m\",\"messages\":[{{\"role\":\"user\",\"content\":[{{\"type\":\"image_url\",\
         \"image_url\":{{\"url\":\"{url}/image.png\"}}}}]}}]}}"
    );
    assert_eq!(post(gateway.addr, CHAT, body).status, 200);
    assert_eq!((elsewhere.count(), elsewhere.connections()), (0, 0));
}

#[test]
fn case_56_redirects_are_not_followed() {
    let elsewhere = fine();
    let location = format!("http://{}/v1/chat/completions", elsewhere.addr);
    for status in [301, 302, 303, 307, 308] {
        let location = location.clone();
        let upstream =
            Scripted::answering(move |_| answer(status, &[("location", &location)], b""));
        let gateway = Setup::to(upstream.addr).server("[server.retry]\nattempts = 1").start();
        let answer = post(gateway.addr, CHAT, chat("m", false, "x"));
        answer.expect_error(502, "upstream_error");
        assert_eq!(answer.header("location"), None);
        assert!(!answer.text().contains("127.0.0.1"), "{}", answer.text());
    }
    assert_eq!(elsewhere.connections(), 0, "the credential is for one destination only");
}

#[test]
fn case_58_headers_pass_by_an_allow_list_both_ways() {
    let upstream = Scripted::answering(|_| {
        let headers = [
            ("content-type", "application/json"),
            ("set-cookie", "session=upstream"),
            ("openai-organization", "org-upstream"),
            ("openai-project", "proj-upstream"),
            ("x-ratelimit-limit-requests", "5000"),
            ("x-ratelimit-remaining-tokens", "17"),
            ("anthropic-ratelimit-requests-limit", "1"),
            ("server", "upstream/1"),
            ("via", "1.1 upstream"),
            ("cf-ray", "abc"),
            ("alt-svc", "h3=\":443\""),
            ("strict-transport-security", "max-age=1"),
            ("access-control-allow-origin", "*"),
            ("x-request-id", "req-upstream"),
            ("x-foretoken-target", "forged"),
            ("openai-processing-ms", "12"),
            ("openai-version", "2020-10-01"),
            ("connection", "keep-alive, x-secret-hop"),
            ("x-secret-hop", "1"),
        ];
        answer(200, &headers, completion("fine"))
    });
    let gateway = Setup::to(upstream.addr).start();
    let bearer = format!("Bearer {KEY}");
    let sent = [
        ("authorization", bearer.as_str()),
        ("cookie", "session=caller"),
        ("x-api-key", "sk-other-of-the-caller"),
        ("api-key", "sk-other-of-the-caller"),
        ("x-goog-api-key", "sk-other-of-the-caller"),
        ("proxy-authorization", "Basic x"),
        ("openai-organization", "org-caller"),
        ("openai-project", "proj-caller"),
        ("x-stainless-os", "Linux"),
        ("x-forwarded-for", "9.9.9.9"),
        ("forwarded", "for=9.9.9.9"),
        ("referer", "http://intranet.test/"),
        ("user-agent", "caller/1"),
        ("accept-encoding", "gzip, br"),
        ("x-custom", "custom-of-the-caller"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ];
    let h2 = H2::connect(gateway.addr);
    let body = chat("m", false, "x");
    let by_h1 = request(gateway.addr, "POST", CHAT, &sent, &body);
    let by_h2 = h2.request("POST", CHAT, &sent, body.as_bytes());
    for request in upstream.requests() {
        let head = request.head.to_lowercase();
        for (name, value) in &sent {
            if *name == "traceparent" {
                assert_eq!(request.header(name), Some(*value));
                continue;
            }
            assert!(!head.contains(&value.to_lowercase()), "{name} was passed on:\n{head}");
        }
        assert_eq!(
            request.header("authorization"),
            Some(format!("Bearer {UPSTREAM_KEY}").as_str())
        );
        for name in ["cookie", "x-api-key", "api-key", "x-custom", "x-forwarded-for", "referer"] {
            assert_eq!(request.header(name), None, "{name}");
        }
    }
    for got in [by_h1, by_h2] {
        assert_eq!(got.status, 200);
        let mut names: Vec<&str> = got.headers.iter().map(|(n, _)| n.as_str()).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "content-length",
                "content-type",
                "openai-processing-ms",
                "openai-version",
                "x-foretoken-attempts",
                "x-foretoken-model",
                "x-foretoken-overhead-us",
                "x-foretoken-target",
                "x-request-id",
                "x-upstream-request-id",
            ]
        );
        assert_eq!(got.header("x-upstream-request-id"), Some("req-upstream"));
        assert_ne!(got.header("x-request-id"), Some("req-upstream"));
        assert_eq!(got.header("x-foretoken-target"), Some("up/*"));
    }
}

#[test]
fn case_58_a_providers_key_in_its_error_is_masked() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = dir.path().join("access.log");
    // What a provider might say, wherever it can say it; `K` stands for the key it was given.
    let error = |message: &str| {
        format!(
            "{{\"error\":{{\"message\":\"{message} K and Bearer K\",\"type\":\"invalid_request_error\",\
             \"param\":\"K\",\"code\":\"K\"}}}}"
        )
        .replace('K', UPSTREAM_KEY)
    };
    let (go_on, wait) = std::sync::mpsc::channel();
    let wait = Mutex::new(wait);
    let upstream = Scripted::start(move |peer| {
        while let Some(request) = peer.request() {
            let said = error("Incorrect API key provided:");
            let how = request.json()["messages"][0]["content"].as_str().unwrap_or("").to_owned();
            let event = format!("data: {said}\n\n");
            match how.as_str() {
                "200" => {
                    peer.write(json(200, &said));
                }
                "first" => {
                    peer.start_events();
                    peer.chunk(&event);
                    peer.last_chunk();
                }
                "mid" => {
                    peer.start_events();
                    peer.chunk(delta("hello"));
                    // The caller has the content by then: the status cannot tell any more.
                    let _ = wait.lock().expect("no panic").recv_timeout(WAIT);
                    peer.chunk(&event);
                    peer.last_chunk();
                }
                "head" => {
                    peer.write(format!(
                        "HTTP/1.1 200 {UPSTREAM_KEY}\r\nbad {UPSTREAM_KEY}\r\n\r\n"
                    ));
                    return;
                }
                status => {
                    let status = status.parse().expect("a status");
                    peer.write(answer(
                        status,
                        &[("content-type", "application/json"), ("x-request-id", UPSTREAM_KEY)],
                        &said,
                    ));
                }
            };
        }
    });
    let setup = Setup::to(upstream.addr).access_log(&log).server("[server.retry]\nattempts = 1");
    // What an upstream says has consequences, so each saying gets a gateway of its own.
    let look_around = |gateway: Gateway, way: &str| {
        let metrics = gateway.metrics();
        let status = gateway.admin("GET", "/admin/v1/status").text();
        let routes = gateway.admin("GET", "/admin/v1/routes").text();
        gateway.finish();
        let log = std::fs::read_to_string(&log).expect("a log");
        for text in [metrics, status, routes, log] {
            assert!(!text.contains(UPSTREAM_KEY), "{way}: {text}");
        }
    };
    let mut asked = 0;
    for way in [
        "400", "401", "403", "404", "409", "413", "422", "429", "500", "503", "200", "first",
        "head",
    ] {
        for stream in [false, true] {
            let gateway = setup.start();
            let answer = post(gateway.addr, CHAT, chat("m", stream, way));
            let all = format!("{:?} {}", answer.headers, answer.text());
            assert!(!all.contains(UPSTREAM_KEY), "{way} stream {stream}: {all}");
            assert!(all.contains("error"), "{way} stream {stream}: {all}");
            assert!(upstream.count() > asked, "{way}: the upstream was asked");
            asked = upstream.count();
            look_around(gateway, way);
        }
    }
    let gateway = setup.start();
    let mut raw = Raw::connect(gateway.addr);
    raw.send(encode_post(CHAT, chat("m", true, "mid")));
    let mut answer = raw.head();
    raw.read_until(&mut answer, "hello");
    go_on.send(()).expect("the script waits");
    raw.rest_of(&mut answer);
    assert!(answer.text().contains("error"), "{}", answer.text());
    assert!(!answer.text().contains(UPSTREAM_KEY), "{}", answer.text());
    drop(raw);
    look_around(gateway, "mid");
}

#[test]
fn case_59_canaries_are_nowhere_to_be_found() {
    let dir = tempfile::tempdir().expect("a directory");
    let (config, log) = (dir.path().join("edge.toml"), dir.path().join("access.log"));
    let prompt = "canary-prompt-5d1f7c";
    let reply = "canary-reply-93ab20";
    let text = format!("echo {reply}");
    let seen = Arc::new(Mutex::new(0));
    let count = seen.clone();
    let upstream = Scripted::answering(move |request| {
        *count.lock().expect("no panic") += 1;
        match request.json()["model"].as_str() {
            Some("bad") => {
                json(400, "{\"error\":{\"message\":\"no\",\"type\":\"invalid_request_error\"}}")
            }
            Some("broken") => json(500, &format!("{{\"error\":{{\"message\":\"{prompt}\"}}}}")),
            Some("garbage") => b"garbage\r\n\r\n".to_vec(),
            Some("cut") => json(200, &completion(&text))[..120].to_vec(),
            _ => json(200, &completion(&text)),
        }
    });
    let wrong = "sk-canary-wrong-key-77";
    let setup = Setup::to(upstream.addr).access_log(&log).store(&dir.path().join("books"));
    setup.write(&config);
    // As talkative as it gets.
    let loud = setup.text().replace("level = \"error\"", "level = \"trace\"");
    assert!(loud.contains("\"trace\""));
    std::fs::write(&config, loud).expect("written");
    let mut process = Process::serve(&config);
    let bearer = format!("Bearer {wrong}");
    for model in ["m", "bad", "broken", "garbage"] {
        for stream in [false, true] {
            post(process.addr, CHAT, chat(model, stream, prompt));
        }
    }
    let mut answers = Vec::new();
    answers.push(request(
        process.addr,
        "POST",
        CHAT,
        &[("authorization", &bearer)],
        chat("m", false, "x"),
    ));
    answers.push(get(process.addr, &format!("/v1/nothing?key={KEY}")));
    answers.push(post(process.addr, CHAT, format!("{{\"model\":\"m\",\"x\":\"{prompt}")));
    answers.push(post(process.addr, CHAT, format!("{{\"model\":7,\"x\":\"{prompt}\"}}")));
    let mut raw = Raw::connect(process.addr);
    raw.send(format!("POST {CHAT} HTTP/1.1\r\nauthorization: Bearer {KEY}\r\nbad\r\n\r\n{prompt}"));
    answers.push(raw.answer());
    // One that leaves in the middle.
    let mut raw = Raw::connect(process.addr);
    raw.send(&encode_post(CHAT, chat("m", false, prompt))[..200]);
    drop(raw);
    for answer in &answers {
        assert!(answer.status >= 400);
        let all = format!("{:?} {}", answer.headers, answer.text());
        for canary in [prompt, KEY, UPSTREAM_KEY, wrong] {
            assert!(!all.contains(canary), "{canary} in an error: {all}");
        }
    }
    let token = format!("Bearer {}", crate::support::ADMIN_TOKEN);
    let admin =
        |path: &str| request(process.admin, "GET", path, &[("authorization", &token)], b"").text();
    let mut places: Vec<(String, Vec<u8>)> = Vec::new();
    let routes = ["/metrics", "/admin/v1/status", "/admin/v1/config", "/admin/v1/routes"];
    for path in routes {
        places.push((path.into(), admin(path).into_bytes()));
    }
    process.signal(libc::SIGTERM);
    assert!(process.wait().success());
    places.push(("the process log".into(), process.said().into_bytes()));
    let mut files = vec![dir.path().to_owned()];
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(std::fs::read_dir(&path).expect("listed").map(|e| e.expect("one").path()));
        } else if path != config {
            places.push((path.display().to_string(), std::fs::read(&path).expect("read")));
        }
    }
    assert!(places.iter().any(|(name, bytes)| name.ends_with("access.log") && !bytes.is_empty()));
    assert!(*seen.lock().expect("no panic") >= 8, "the canaries were in play");
    for (name, bytes) in &places {
        for canary in [prompt, reply, KEY, UPSTREAM_KEY, wrong, crate::support::ADMIN_TOKEN] {
            assert!(
                find(bytes, canary.as_bytes()).is_none(),
                "{canary} in {name}: {}",
                String::from_utf8_lossy(bytes)
            );
        }
    }
}
