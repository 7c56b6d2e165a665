//! The admin server over a socket, asked by the command line's own client.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use super::{Ask, BoxFuture, Control, Outcome, Parameters, Problem, Token, request, send, serve};
use crate::auth::Secret;
use crate::directory::{Call, Caller, Reply, Role};

mod calls;

const TOKEN: &str = "right-token";

#[derive(Default)]
struct Fake {
    /// Held by a test that wants a reload to take its time.
    gate: Arc<tokio::sync::Mutex<()>>,
    ready: AtomicBool,
    faulty: AtomicBool,
    reloads: AtomicUsize,
    /// What was asked for, the last at the end.
    asked: Mutex<Vec<Asked>>,
    /// What the next operation answers; `{}` with status 200 otherwise.
    answer: Mutex<Option<Outcome>>,
}

/// An operation as it arrived.
#[derive(Debug, PartialEq)]
struct Asked {
    caller: Caller,
    what: What,
}

#[derive(Debug, PartialEq)]
enum What {
    Perform(Call),
    Usage(Parameters),
    Requests(Parameters),
    Request(String),
    Audit(Parameters),
    AuditVerify(Value),
}

impl Fake {
    fn note(&self, caller: Caller, what: What) -> BoxFuture<Outcome> {
        self.asked.lock().expect("unpoisoned").push(Asked { caller, what });
        let answer = self.answer.lock().expect("unpoisoned").take();
        Box::pin(async { answer.unwrap_or(Ok(Reply { status: 200, body: json!({}) })) })
    }
}

impl Control for Fake {
    fn ready(&self) -> bool {
        self.ready.load(SeqCst)
    }

    fn live(&self) -> bool {
        true
    }

    fn denied(&self, _: Caller, _: String, _: String) -> BoxFuture<()> {
        Box::pin(async {})
    }

    fn metrics(&self) -> String {
        "up 1\n".to_owned()
    }

    fn status(&self) -> Value {
        json!({ "generation": self.reloads.load(SeqCst) })
    }

    fn config(&self) -> Value {
        json!({ "provider": [{ "api_key": "***" }] })
    }

    fn routes(&self) -> Value {
        json!({ "data": [] })
    }

    fn reload(&self) -> BoxFuture<Result<Value, Vec<Problem>>> {
        let generation = self.reloads.fetch_add(1, SeqCst) + 1;
        let problem = Problem { line: Some(4), message: "no".to_owned(), ..Problem::default() };
        let faulty = self.faulty.load(SeqCst);
        let gate = Arc::clone(&self.gate);
        Box::pin(async move {
            let _open = gate.lock().await;
            if faulty { Err(vec![problem; 2]) } else { Ok(json!({ "generation": generation })) }
        })
    }

    /// `ROLE`, or `ROLE@ACCOUNT`.
    fn caller(&self, token: &[u8], from: IpAddr) -> Option<Caller> {
        let (role, account) = match std::str::from_utf8(token).ok()?.split_once('@') {
            Some((role, account)) => (role, Some(account.to_owned())),
            None => (std::str::from_utf8(token).ok()?, None),
        };
        let role = match role {
            "owner" => Role::Owner,
            "admin" => Role::Admin,
            "manager" => Role::Manager,
            "viewer" => Role::Viewer,
            _ => return None,
        };
        let name = "somebody".to_owned();
        Some(Caller { name, role, account, project: None, from: from.to_string() })
    }

    fn perform(&self, caller: Caller, call: Call) -> BoxFuture<Outcome> {
        self.note(caller, What::Perform(call))
    }

    fn usage(&self, caller: Caller, query: Parameters) -> BoxFuture<Outcome> {
        self.note(caller, What::Usage(query))
    }

    fn requests(&self, caller: Caller, query: Parameters) -> BoxFuture<Outcome> {
        self.note(caller, What::Requests(query))
    }

    fn request(&self, caller: Caller, id: String) -> BoxFuture<Outcome> {
        self.note(caller, What::Request(id))
    }

    fn audit(&self, caller: Caller, query: Parameters) -> BoxFuture<Outcome> {
        self.note(caller, What::Audit(query))
    }

    fn audit_verify(&self, caller: Caller, body: Value) -> BoxFuture<Outcome> {
        self.note(caller, What::AuditVerify(body))
    }
}

/// A running server; it ends, and is waited for, on drop.
struct Server {
    control: Arc<Fake>,
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start() -> Self {
        let control = Arc::new(Fake::default());
        let (stop, stopped) = oneshot::channel::<()>();
        let (tell, told) = std::sync::mpsc::channel();
        let theirs = Arc::clone(&control);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("runtime").block_on(async move {
                let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
                tell.send(listener.local_addr().expect("address")).expect("test waits");
                let token = Token::new(TOKEN).expect("token");
                let shutdown = async { drop(stopped.await) };
                serve(listener, theirs, token, shutdown).await;
            });
        });
        let address = told.recv().expect("server starts");
        Server { control, address, stop: Some(stop), thread: Some(thread) }
    }

    fn ask(&self, method: &str, path: &str, token: Option<&str>) -> (u16, Value) {
        let token = token.map(Secret::new);
        request(method, &format!("http://{}", self.address), token.as_ref(), path, None)
            .expect("an answer")
    }

    /// Sends bytes as they are and gives what comes back, in lower case.
    fn raw(&self, bytes: &str) -> String {
        let mut stream = TcpStream::connect(self.address).expect("connect");
        stream.write_all(bytes.as_bytes()).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer.to_ascii_lowercase()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().expect("once").join();
        assert!(ended.is_ok() || std::thread::panicking());
    }
}

#[test]
fn health_and_metrics_need_no_token() {
    let server = Server::start();
    assert_eq!(server.ask("GET", "/health/live", None), (200, json!({"status": "live"})));
    assert_eq!(server.ask("GET", "/health/ready", None), (503, json!({"status": "not_ready"})));
    server.control.ready.store(true, SeqCst);
    assert_eq!(server.ask("GET", "/health/ready", None), (200, json!({"status": "ready"})));
    assert_eq!(server.ask("GET", "/metrics", None), (200, json!("up 1\n")));
    let answer = server.raw("GET /metrics HTTP/1.0\r\n\r\n");
    assert!(answer.contains("content-type: text/plain; version=0.0.4"), "{answer}");
    assert!(answer.contains("x-content-type-options: nosniff"), "{answer}");
    assert!(!answer.contains("access-control-"), "{answer}");
}

#[test]
fn the_api_needs_the_token() {
    let server = Server::start();
    let paths = ["status", "config", "routes", "openapi.json", "nothing"];
    for path in paths.map(|name| format!("/admin/v1/{name}")) {
        for token in [None, Some("wrong-token"), Some("right-toke"), Some("right-token2")] {
            let (status, answer) = server.ask("GET", &path, token);
            assert_eq!((status, &answer["error"]["code"]), (401, &json!("unauthorized")), "{path}");
            assert!(answer["error"]["message"].is_string());
        }
    }
    assert_eq!(server.ask("POST", "/admin/v1/reload", None).0, 401);
    assert_eq!(server.control.reloads.load(SeqCst), 0);

    let with_token = |path| server.ask("GET", path, Some(TOKEN));
    assert_eq!(with_token("/admin/v1/status"), (200, json!({"generation": 0})));
    assert_eq!(with_token("/admin/v1/config").1["provider"][0]["api_key"], "***");
    assert_eq!(with_token("/admin/v1/routes"), (200, json!({"data": []})));
    assert_eq!(with_token("/admin/v1/openapi.json").1["openapi"], "3.1.0");
}

#[test]
fn unknown_paths_and_wrong_methods_are_told_apart() {
    let server = Server::start();
    for path in ["/", "/v1/models", "/admin/v1/nothing", "/admin/v1/status/", "/metrics/x"] {
        let (status, answer) = server.ask("GET", path, Some(TOKEN));
        assert_eq!((status, &answer["error"]["code"]), (404, &json!("not_found")), "{path}");
    }
    let (status, answer) = server.ask("GET", "/admin/v1/reload", Some(TOKEN));
    assert_eq!((status, &answer["error"]["code"]), (405, &json!("method_not_allowed")));
    assert_eq!(server.control.reloads.load(SeqCst), 0);
    let answer = server.raw("DELETE /metrics HTTP/1.0\r\n\r\n");
    assert!(
        answer.starts_with("http/1.0 405") && answer.contains("\r\nallow: get\r\n"),
        "{answer}"
    );
}

#[test]
fn a_reload_answers_what_changed_or_all_that_is_wrong() {
    let server = Server::start();
    let reload = "/admin/v1/reload";
    assert_eq!(server.ask("POST", reload, Some(TOKEN)), (200, json!({"generation": 1})));
    server.control.faulty.store(true, SeqCst);
    let (status, answer) = server.ask("POST", reload, Some(TOKEN));
    assert_eq!((status, &answer["error"]["code"]), (422, &json!("invalid_configuration")));
    assert_eq!(
        answer["error"]["problems"],
        json!([{"line": 4, "message": "no"}, {"line": 4, "message": "no"}])
    );
}

#[test]
fn bodies_are_bounded_and_must_be_json() {
    let server = Server::start();
    let head = format!("POST /admin/v1/reload HTTP/1.0\r\nauthorization: Bearer {TOKEN}\r\n");
    let post =
        |body: &str| server.raw(&format!("{head}content-length: {}\r\n\r\n{body}", body.len()));
    assert!(post("{nonsense").starts_with("http/1.0 400"));
    assert!(post("[]").starts_with("http/1.0 400"));
    assert_eq!(server.control.reloads.load(SeqCst), 0);
    assert!(post(" {} ").starts_with("http/1.0 200"));
    let announced = server.raw(&format!("{head}content-length: 2000000\r\n\r\n"));
    assert!(announced.starts_with("http/1.0 413"), "{announced}");
    assert_eq!(server.control.reloads.load(SeqCst), 1);
}

#[test]
fn a_page_behind_a_foreign_name_reads_nothing() {
    let server = Server::start();
    let get = |host: &str, more: &str| {
        server.raw(&format!(
            "GET /metrics HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{more}\r\n"
        ))
    };
    assert!(get("evil.example:9090", "").starts_with("http/1.1 403"));
    assert!(get("localhost:9090", "").starts_with("http/1.1 200"));
    assert!(get("127.0.0.1", "").starts_with("http/1.1 200"));
    // Behind a reverse proxy the name is foreign, and the token proves that it is no page.
    let token = format!("authorization: Bearer {TOKEN}\r\n");
    assert!(get("gw.example", &token).starts_with("http/1.1 200"));
}

#[test]
fn garbage_is_refused_and_the_server_lives_on() {
    let server = Server::start();
    assert!(server.raw("\0\x01garbage\r\n\r\n").starts_with("http/1.1 400"));
    let long = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "a".repeat(100_000));
    let mut stream = TcpStream::connect(server.address).expect("connect");
    // The server may close before all of it is sent.
    let _ = stream.write_all(long.as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP/1.1 2"));
    assert_eq!(server.ask("GET", "/health/live", None).0, 200);
}

#[test]
fn the_end_does_not_wait_for_idle_connections() {
    let server = Server::start();
    let mut idle = TcpStream::connect(server.address).expect("connect");
    idle.write_all(b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n").expect("sent");
    let mut first = [0; 1024];
    assert!(idle.read(&mut first).expect("an answer") > 0);
    drop(server);
    assert_eq!(idle.read(&mut first).expect("closed"), 0);
}

#[test]
fn the_end_waits_for_a_running_call() {
    let mut server = Server::start();
    let gate = Arc::clone(&server.control.gate);
    let held = gate.blocking_lock();
    let mut caller = TcpStream::connect(server.address).expect("connect");
    let head = format!(
        "POST /admin/v1/reload HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {TOKEN}\r\n\r\n"
    );
    caller.write_all(head.as_bytes()).expect("sent");
    while server.control.reloads.load(SeqCst) == 0 {
        std::thread::yield_now();
    }
    drop(server.stop.take());
    while TcpStream::connect(server.address).is_ok() {
        std::thread::yield_now();
    }
    drop(held);
    let mut answer = String::new();
    caller.read_to_string(&mut answer).expect("an answer, then the end");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}
