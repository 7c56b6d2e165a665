//! The provider over real sockets: what a client sees, and what the provider says it saw.

mod answers;
mod faults;

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::sim::{Change, Cut, Distribution, Lengths, Settings, Sim, Told, start};

const LIMIT: Duration = Duration::from_secs(20);

fn quick() -> Settings {
    Settings {
        ttft: Distribution::constant(Duration::ZERO),
        gap: Distribution::constant(Duration::ZERO),
        tokens: Lengths::constant(12),
        ..Settings::default()
    }
}

fn paced() -> Settings {
    Settings { gap: Distribution::constant(Duration::from_millis(5)), ..quick() }
}

async fn started(settings: Settings) -> Sim {
    start(settings).await.expect("a free port")
}

/// Waits for something that other tasks bring about.
async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let waiting = async {
        while !done() {
            tokio::task::yield_now().await;
        }
    };
    timeout(LIMIT, waiting).await.unwrap_or_else(|_| panic!("never happened: {what}"));
}

fn chat(model: &str, stream: bool) -> Value {
    json!({"model": model, "stream": stream, "messages": [{"role": "user", "content": "hello"}]})
}

fn raw(path: &str, body: &str) -> String {
    let len = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nhost: sim\r\ncontent-type: application/json\r\ncontent-length: {len}\r\n\r\n{body}"
    )
}

async fn send_raw(addr: SocketAddr, text: &str) -> TcpStream {
    let mut stream = TcpStream::connect(addr).await.expect("connects");
    stream.write_all(text.as_bytes()).await.expect("writes");
    stream
}

/// Reads until `mark` has come.
async fn read_to(stream: &mut TcpStream, mark: &str) -> String {
    let mut all = Vec::new();
    let reading = async {
        while !String::from_utf8_lossy(&all).contains(mark) {
            let len = stream.read_buf(&mut all).await.expect("reads");
            assert_ne!(len, 0, "ended before {mark:?}: {}", String::from_utf8_lossy(&all));
        }
    };
    timeout(LIMIT, reading).await.expect("in time");
    String::from_utf8_lossy(&all).into_owned()
}

struct Answer {
    status: StatusCode,
    headers: http::HeaderMap,
    body: Bytes,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The text of a streamed chat answer.
    fn streamed(&self) -> String {
        let text = std::str::from_utf8(&self.body).expect("UTF-8");
        let frames = text.lines().filter_map(|line| line.strip_prefix("data: {"));
        let chunks = frames.map(|frame| format!("{{{frame}"));
        chunks
            .map(|chunk| serde_json::from_str::<Value>(&chunk).expect("JSON"))
            .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().map(str::to_owned))
            .collect()
    }
}

fn request(method: Method, path: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    Request::builder()
        .method(method)
        .uri(format!("http://sim{path}"))
        .header("host", "sim")
        .header("content-type", "application/json")
        .header("authorization", "Bearer sk-good")
        .body(Full::new(body.into()))
        .expect("a request")
}

type Sender = http2::SendRequest<Full<Bytes>>;

async fn h2_client<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S) -> Sender {
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .expect("an HTTP/2 handshake");
    tokio::spawn(connection);
    sender
}

async fn h2_connect(sim: &Sim) -> Sender {
    h2_client(TcpStream::connect(sim.addr).await.expect("connects")).await
}

async fn collect(response: http::Response<hyper::body::Incoming>) -> Result<Answer, hyper::Error> {
    let (parts, body) = response.into_parts();
    let body = body.collect().await?.to_bytes();
    Ok(Answer { status: parts.status, headers: parts.headers, body })
}

async fn call_h2(sim: &Sim, request: Request<Full<Bytes>>) -> Result<Answer, hyper::Error> {
    let response = h2_connect(sim).await.send_request(request).await?;
    timeout(LIMIT, collect(response)).await.expect("in time")
}

/// One request over HTTP/1.1 on its own connection.
async fn call(sim: &Sim, request: Request<Full<Bytes>>) -> Result<Answer, hyper::Error> {
    let stream = TcpStream::connect(sim.addr).await.expect("connects");
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let (mut parts, body) = request.into_parts();
    parts.uri = parts.uri.path_and_query().expect("a path").as_str().parse().expect("a path");
    let response = sender.send_request(Request::from_parts(parts, body)).await?;
    timeout(LIMIT, collect(response)).await.expect("in time")
}

async fn post(sim: &Sim, path: &str, body: &Value) -> Answer {
    call(sim, request(Method::POST, path, body.to_string())).await.expect("an answer")
}

fn change(json: Value) -> Change {
    serde_json::from_value(json).expect("a change")
}
