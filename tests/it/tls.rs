//! TLS on both sides.

use std::path::Path;
use std::sync::Arc;

use crate::support::client::encode_post;
use crate::support::tls::{Authority, Issued, connect, connect_h2, try_connect};
use crate::support::upstream::{completion, json};
use crate::support::{Gateway, Raw, Scripted, Setup, SimServer, chat, eventually, get, post};

const CHAT: &str = "/v1/chat/completions";

/// The TLS part of a configuration with these certificates, by the names of their files.
fn tls_server(dir: &Path, names: &[&str]) -> String {
    let pairs: Vec<String> = names
        .iter()
        .map(|name| {
            let path = dir.join(name);
            let path = path.display();
            format!("{{ cert = \"file:{path}.pem\", key = \"file:{path}.key\" }}")
        })
        .collect();
    let pairs = pairs.join(", ");
    format!("[server.tls]\nlisten = [\"127.0.0.1:0\"]\ncertificates = [{pairs}]\n")
}

fn fine() -> Scripted {
    Scripted::answering(|_| json(200, &completion("fine")))
}

#[test]
fn alpn_picks_the_protocol() {
    let dir = tempfile::tempdir().expect("a directory");
    let authority = Authority::new();
    authority.issue(&["gateway.test"]).write(dir.path(), "a");
    let upstream = fine();
    let gateway = Setup::to(upstream.addr).server(&tls_server(dir.path(), &["a"])).start();

    for (offers, settled) in [
        (&["http/1.1"][..], Some("http/1.1")),
        (&[], None),
        (&["h2", "http/1.1"], Some("h2")),
        (&["http/1.1", "h2"], Some("h2")),
    ] {
        let (mut raw, got) = connect(gateway.tls(), &authority.client(offers), "gateway.test");
        assert_eq!(got.alpn.as_deref(), settled, "{offers:?}");
        if settled != Some("h2") {
            for stream in [false, true] {
                raw.send(encode_post(CHAT, chat("m", stream, "x")));
                assert_eq!(raw.answer().status, 200);
            }
        }
    }
    let h2 = connect_h2(gateway.tls(), &authority.client(&["h2"]), "gateway.test");
    for _ in 0..3 {
        assert_eq!(h2.post(CHAT, chat("m", false, "x")).status, 200);
    }
    // Nothing in common: refused, not guessed.
    let other = authority.client(&["spdy/3"]);
    assert!(try_connect(gateway.tls(), &other, "gateway.test").is_err());
    // And cleartext on the TLS port gets no answer of substance.
    let mut raw = Raw::connect(gateway.tls());
    raw.send(encode_post(CHAT, chat("m", false, "x")));
    assert!(!String::from_utf8_lossy(&raw.rest()).contains(" 200 "));
}

#[test]
fn large_bodies_and_streams_pass_tls() {
    let dir = tempfile::tempdir().expect("a directory");
    let authority = Authority::new();
    authority.issue(&["gateway.test"]).write(dir.path(), "a");
    let sim = SimServer::start();
    let gateway = Setup::to(sim.addr).server(&tls_server(dir.path(), &["a"])).start();
    let body = chat("m", false, &"word ".repeat(400_000));
    let clear = post(gateway.addr, CHAT, &body);
    assert_eq!(clear.status, 200);
    let (mut raw, _) = connect(gateway.tls(), &authority.client(&[]), "gateway.test");
    let h2 = connect_h2(gateway.tls(), &authority.client(&["h2"]), "gateway.test");
    let said = |answer: crate::support::Answer| answer.json()["choices"].clone();
    let clear = said(clear);
    raw.send(encode_post(CHAT, &body));
    assert_eq!(said(raw.answer()), clear);
    assert_eq!(said(h2.post(CHAT, &body)), clear);
    // A megabyte in a stream of small pieces.
    let big = chat("sim-big", true, "x");
    let clear = post(gateway.addr, CHAT, &big).data_lines().len();
    raw.send(encode_post(CHAT, &big));
    let answer = raw.answer();
    assert_eq!(answer.data_lines().len(), clear);
    assert_eq!(answer.data_lines().last().map(String::as_str), Some("[DONE]"));
    assert_eq!(h2.post(CHAT, &big).data_lines().len(), clear);
}

#[test]
fn the_name_picks_the_certificate() {
    let dir = tempfile::tempdir().expect("a directory");
    let authority = Authority::new();
    let first = authority.issue(&["one.test", "uno.test"]);
    let second = authority.issue(&["two.test"]);
    let wild = authority.issue(&["*.wild.test"]);
    first.write(dir.path(), "first");
    second.write(dir.path(), "second");
    wild.write(dir.path(), "wild");
    let upstream = fine();
    let files = tls_server(dir.path(), &["first", "second", "wild"]);
    let gateway = Setup::to(upstream.addr).server(&files).start();
    let client = authority.client(&["http/1.1"]);
    let of = |name: &str| connect(gateway.tls(), &client, name).1.certificate;
    for (name, issued) in [
        ("one.test", &first),
        ("uno.test", &first),
        ("two.test", &second),
        ("TWO.test", &second),
        ("a.wild.test", &wild),
    ] {
        assert_eq!(of(name), issued.der, "{name}");
    }
    // A name that nobody has gets the first; the caller then sees that it is not meant.
    assert!(try_connect(gateway.tls(), &client, "a.b.wild.test").is_err());
    assert!(try_connect(gateway.tls(), &client, "other.test").is_err());
}

fn certificate(gateway: &Gateway, authority: &Authority, name: &str) -> Option<Vec<u8>> {
    let client = authority.client(&["http/1.1"]);
    let settled = try_connect(gateway.tls(), &client, name).ok()?.1;
    Some(settled.certificate.to_vec())
}

#[test]
fn certificates_are_read_again_when_their_files_change() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = dir.path().join("edge.toml");
    let authority = Authority::new();
    let old = authority.issue(&["gateway.test"]);
    old.write(dir.path(), "a");
    let sim = SimServer::start();
    let setup = Setup::to(sim.addr).server(&tls_server(dir.path(), &["a"]));
    let gateway = setup.start_file(&config);
    assert_eq!(certificate(&gateway, &authority, "gateway.test"), Some(old.der.to_vec()));
    // Somebody who is connected, in the middle of an answer.
    let (mut known, _) = connect(gateway.tls(), &authority.client(&[]), "gateway.test");
    known.send(encode_post(CHAT, chat("sim-stall-mid", true, "x")));
    let mut begun = known.head();
    known.read_until(&mut begun, "delta");

    // As a renewal does it: new files put in the place of the old ones. Nobody tells the gateway.
    let new = authority.issue(&["gateway.test"]);
    replace(&new, dir.path(), "a");
    eventually("the new certificate is served", || {
        certificate(&gateway, &authority, "gateway.test") == Some(new.der.to_vec())
    });
    assert!(known.try_send("").is_ok() && !begun.broken);

    // A pair that does not belong together is not taken; the old one goes on serving.
    let third = authority.issue(&["gateway.test"]);
    std::fs::write(dir.path().join("a.pem"), &third.cert_pem).expect("written");
    let problems = gateway.running().reload().expect_err("key and certificate differ");
    assert!(format!("{problems:?}").contains("a.key"), "{problems:?}");
    assert_eq!(certificate(&gateway, &authority, "gateway.test"), Some(new.der.to_vec()));
    assert_eq!(gateway.metric("foretoken_config_last_reload_success", &[]), 0.0);
    // The other half arrives.
    std::fs::write(dir.path().join("a.key"), &third.key_pem).expect("written");
    eventually("the pair is served once it is whole", || {
        certificate(&gateway, &authority, "gateway.test") == Some(third.der.to_vec())
    });
    assert_eq!(get(gateway.addr, "/v1/models").status, 200);
}

fn replace(issued: &Issued, dir: &Path, name: &str) {
    issued.write(dir, "next");
    for ending in ["key", "pem"] {
        let from = dir.join(format!("next.{ending}"));
        std::fs::rename(from, dir.join(format!("{name}.{ending}"))).expect("renamed");
    }
}

#[test]
fn callers_may_resume_but_not_send_early() {
    let dir = tempfile::tempdir().expect("a directory");
    let authority = Authority::new();
    authority.issue(&["gateway.test"]).write(dir.path(), "a");
    let upstream = fine();
    let gateway = Setup::to(upstream.addr).server(&tls_server(dir.path(), &["a"])).start();
    let client = authority.client(&["http/1.1"]);
    let mut resumed = Vec::new();
    for _ in 0..2 {
        let (mut raw, settled) = connect(gateway.tls(), &client, "gateway.test");
        resumed.push(settled.resumed);
        // The ticket comes with the answer.
        raw.send(encode_post(CHAT, chat("m", false, "x")));
        assert_eq!(raw.answer().status, 200);
    }
    assert_eq!(resumed, [false, true]);
}

#[test]
fn case_15_client_hellos_in_pieces_and_cut_off() {
    let dir = tempfile::tempdir().expect("a directory");
    let authority = Authority::new();
    authority.issue(&["gateway.test"]).write(dir.path(), "a");
    let upstream = fine();
    let gateway = Setup::to(upstream.addr).server(&tls_server(dir.path(), &["a"])).start();
    let name = rustls::pki_types::ServerName::try_from("gateway.test").expect("a name");
    let mut hello = Vec::new();
    let mut tls = rustls::ClientConnection::new(authority.client(&["h2"]), name).expect("a client");
    while tls.wants_write() {
        tls.write_tls(&mut hello).expect("memory");
    }
    for cut in (0..hello.len()).step_by(7) {
        let mut raw = Raw::connect(gateway.tls());
        raw.send(&hello[..cut]);
        raw.half_close();
        raw.rest();
    }
    // One TLS record per byte of the message, which is allowed, and a reset in the middle.
    let records: Vec<u8> = hello[5..].iter().flat_map(|byte| [0x16, 3, 1, 0, 1, *byte]).collect();
    let mut raw = Raw::connect(gateway.tls());
    let _ = raw.try_send(&records);
    raw.half_close();
    raw.rest();
    let mut raw = Raw::connect(gateway.tls());
    raw.send(&records[..600]);
    raw.reset();
    // Nonsense.
    let mut raw = Raw::connect(gateway.tls());
    let _ = raw.try_send([0xff; 4096]);
    raw.rest();
    eventually("no connection is left behind", || {
        gateway.metric("foretoken_connections", &["state=\"open\""]) == 0.0
    });
    let (mut raw, _) = connect(gateway.tls(), &authority.client(&[]), "gateway.test");
    raw.send(encode_post(CHAT, chat("m", false, "x")));
    assert_eq!(raw.answer().status, 200);
}

fn to_tls(port: u16, dir: &Path, lines: &str) -> Setup {
    let ca = dir.join("root.pem");
    let tls = format!("tls = {{ ca = \"file:{}\"{lines} }}\n", ca.display());
    Setup::to_url(&format!("https://localhost:{port}/v1"))
        .server("[server.retry]\nattempts = 1")
        .provider(&tls)
}

#[test]
fn upstreams_with_a_root_of_their_own_by_h2_and_h1() {
    let dir = tempfile::tempdir().expect("a directory");
    let authority = Authority::new();
    std::fs::write(dir.path().join("root.pem"), authority.pem()).expect("written");
    let issued = authority.issue(&["localhost"]);
    for (server, protocol, came) in [
        (&["h2", "http/1.1"][..], "auto", "HTTP/2.0"),
        (&["http/1.1"], "auto", "HTTP/1.1"),
        (&[], "auto", "HTTP/1.1"),
        (&["h2", "http/1.1"], "h1", "HTTP/1.1"),
        (&["h2", "http/1.1"], "h2", "HTTP/2.0"),
    ] {
        let sim = SimServer::with(|s| s.tls = Some(issued.server(server)));
        let line = format!("protocol = \"{protocol}\"\n");
        let gateway = to_tls(sim.addr.port(), dir.path(), "").provider(&line).start();
        for stream in [false, true, false] {
            let answer = post(gateway.addr, CHAT, chat("m", stream, "x"));
            assert_eq!(answer.status, 200, "{server:?} {protocol}: {}", answer.text());
        }
        let received = sim.received(10);
        assert_eq!(received.len(), 3);
        for request in received {
            assert_eq!((request.protocol, request.tls), (came, true), "{server:?} {protocol}");
        }
        assert_eq!(sim.stats().connections, 1, "one handshake carried all three");
    }
}

#[test]
fn an_upstream_that_cannot_prove_itself_gets_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let authority = Authority::new();
    std::fs::write(dir.path().join("root.pem"), authority.pem()).expect("written");
    let stranger = Authority::new();
    for (issued, lines) in [
        (stranger.issue(&["localhost"]), ""),
        (authority.issue(&["elsewhere.test"]), ""),
        (authority.issue(&["localhost"]), ", server_name = \"elsewhere.test\""),
    ] {
        let sim = SimServer::with(|s| s.tls = Some(issued.server(&["h2", "http/1.1"])));
        let gateway = to_tls(sim.addr.port(), dir.path(), lines).start();
        let answer = post(gateway.addr, CHAT, chat("m", false, "x"));
        answer.expect_error(502, "upstream_error");
        assert!(!answer.text().contains("localhost"), "no upstream is named: {}", answer.text());
        assert_eq!(sim.stats().requests, 0);
    }
    // The name that is expected can be set.
    let issued = authority.issue(&["elsewhere.test"]);
    let sim = SimServer::with(|s| s.tls = Some(issued.server(&["h2"])));
    let lines = ", server_name = \"elsewhere.test\"";
    let gateway = to_tls(sim.addr.port(), dir.path(), lines).start();
    assert_eq!(post(gateway.addr, CHAT, chat("m", false, "x")).status, 200);
}

#[test]
fn upstream_sessions_are_resumed() {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    let dir = tempfile::tempdir().expect("a directory");
    let authority = Authority::new();
    std::fs::write(dir.path().join("root.pem"), authority.pem()).expect("written");
    let config = authority.issue(&["localhost"]).server(&["http/1.1"]);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let kinds = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = kinds.clone();
    // One request per connection, so that each needs a handshake.
    std::thread::spawn(move || {
        for tcp in listener.incoming().flatten() {
            let _ = tcp.set_read_timeout(Some(crate::support::WAIT));
            let tls = rustls::ServerConnection::new(config.clone()).expect("a server");
            let mut io = rustls::StreamOwned::new(tls, tcp);
            let mut read = Vec::new();
            let mut bytes = [0; 4096];
            while !read.ends_with(b"}") {
                match io.read(&mut bytes) {
                    Ok(n) if n > 0 => read.extend_from_slice(&bytes[..n]),
                    _ => break,
                }
            }
            if !read.is_empty() {
                seen.lock().expect("no panic").push(io.conn.handshake_kind());
            }
            let body = completion("fine");
            let length = body.len();
            let _ = io.write_all(
                format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}").as_bytes(),
            );
            io.conn.send_close_notify();
            let _ = io.flush();
        }
    });
    let gateway = to_tls(port, dir.path(), "").start();
    for _ in 0..3 {
        let answer = post(gateway.addr, CHAT, chat("m", false, "x"));
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let kinds = kinds.lock().expect("no panic").clone();
    assert_eq!(kinds.len(), 3);
    assert_eq!(kinds[0], Some(rustls::HandshakeKind::Full));
    for kind in &kinds[1..] {
        assert_eq!(*kind, Some(rustls::HandshakeKind::Resumed));
    }
}
