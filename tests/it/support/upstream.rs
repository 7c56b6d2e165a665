//! Upstreams: the simulated provider, and servers that say exactly the bytes of a script.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use foretoken::sim::{Distribution, Lengths, Settings, Sim};

use super::client::find;
use super::{WAIT, block_on, runtime};

/// A simulated provider.
pub struct SimServer {
    sim: Sim,
}

impl SimServer {
    /// A quick one: the first token at once, 20 tokens, no gaps to speak of.
    #[track_caller]
    pub fn start() -> SimServer {
        SimServer::with(|_| ())
    }

    /// A quick one with changes.
    #[track_caller]
    pub fn with(change: impl FnOnce(&mut Settings)) -> SimServer {
        let mut settings = Settings {
            ttft: Distribution::constant(Duration::from_millis(1)),
            gap: Distribution::constant(Duration::from_micros(200)),
            tokens: Lengths::constant(20),
            ..Settings::default()
        };
        change(&mut settings);
        let sim = block_on("the simulated provider's start", async {
            // On the runtime itself, so that its tasks outlive this thread's `block_on`.
            runtime().spawn(foretoken::sim::start(settings)).await.expect("no panic")
        });
        SimServer { sim: sim.expect("a free port") }
    }
}

impl Deref for SimServer {
    type Target = Sim;
    fn deref(&self) -> &Sim {
        &self.sim
    }
}

/// A request as its bytes came in.
#[derive(Clone, Debug, Default)]
pub struct Received {
    /// Request line and header lines, without the empty line.
    pub head: String,
    pub body: Vec<u8>,
    /// The number of the connection, from 1.
    pub connection: usize,
}

impl Received {
    /// The first value of a header, given in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.split("\r\n").skip(1).find_map(|line| {
            let (n, value) = line.split_once(':')?;
            n.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// `POST /v1/chat/completions`
    pub fn target(&self) -> &str {
        self.head.split(" HTTP/").next().unwrap_or_default()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("a JSON body")
    }
}

#[derive(Default)]
struct Shared {
    requests: Mutex<Vec<Received>>,
    sockets: Mutex<Vec<TcpStream>>,
    faults: Mutex<Vec<String>>,
    connections: AtomicUsize,
    stop: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An HTTP/1.1 server that runs one script per connection, each on a thread.
pub struct Scripted {
    pub addr: SocketAddr,
    shared: Arc<Shared>,
}

impl Scripted {
    /// Runs `script` for every connection; when it returns, the connection is closed.
    #[track_caller]
    pub fn start(script: impl Fn(&mut Peer) + Send + Sync + 'static) -> Scripted {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let addr = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared::default());
        let (mine, script) = (shared.clone(), Arc::new(script));
        std::thread::spawn(move || {
            for tcp in listener.incoming() {
                let Ok(tcp) = tcp else { continue };
                if mine.stop.load(SeqCst) {
                    return;
                }
                let number = mine.connections.fetch_add(1, SeqCst) + 1;
                let (shared, script) = (mine.clone(), script.clone());
                lock(&shared.sockets).push(tcp.try_clone().expect("a second handle"));
                std::thread::spawn(move || serve(tcp, number, &shared, &*script));
            }
        });
        Scripted { addr, shared }
    }

    /// Answers every request with the bytes that `answer` gives, on connections that are kept.
    #[track_caller]
    pub fn answering(answer: impl Fn(&Received) -> Vec<u8> + Send + Sync + 'static) -> Scripted {
        Scripted::start(move |peer| {
            while let Some(request) = peer.request() {
                peer.write(answer(&request));
            }
        })
    }

    /// Every request that came so far.
    pub fn requests(&self) -> Vec<Received> {
        lock(&self.shared.requests).clone()
    }

    /// How many requests came so far.
    pub fn count(&self) -> usize {
        lock(&self.shared.requests).len()
    }

    /// How many connections came so far.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(SeqCst)
    }

    /// The only request that came.
    #[track_caller]
    pub fn only(&self) -> Received {
        let requests = self.requests();
        assert_eq!(requests.len(), 1, "{requests:?}");
        requests.into_iter().next().expect("one")
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        let _ = TcpStream::connect_timeout(&self.addr, Duration::from_secs(1));
        for socket in lock(&self.shared.sockets).drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
        let faults = lock(&self.shared.faults);
        if !std::thread::panicking() {
            assert!(faults.is_empty(), "the script of an upstream failed: {faults:?}");
        }
    }
}

fn serve(tcp: TcpStream, number: usize, shared: &Arc<Shared>, script: &dyn Fn(&mut Peer)) {
    let _ = tcp.set_read_timeout(Some(WAIT));
    let _ = tcp.set_write_timeout(Some(WAIT));
    let _ = tcp.set_nodelay(true);
    let mut peer = Peer { tcp, buf: Vec::new(), number, shared: shared.clone() };
    let outcome = catch_unwind(AssertUnwindSafe(|| script(&mut peer)));
    if let Err(panic) = outcome {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        lock(&shared.faults).push(text.unwrap_or_else(|| "a panic".into()));
    }
    let _ = peer.tcp.shutdown(Shutdown::Both);
}

/// One connection from the gateway.
pub struct Peer {
    pub tcp: TcpStream,
    buf: Vec<u8>,
    /// From 1.
    pub number: usize,
    shared: Arc<Shared>,
}

impl Peer {
    /// Reads and records a request; `None` at the end of the connection (or of patience).
    pub fn request(&mut self) -> Option<Received> {
        let end = loop {
            if let Some(at) = find(&self.buf, b"\r\n\r\n") {
                break at;
            }
            self.fill()?;
        };
        let head = String::from_utf8_lossy(&self.buf[..end]).into_owned();
        self.buf.drain(..end + 4);
        let mut request = Received { head, body: Vec::new(), connection: self.number };
        let length =
            request.header("content-length").map(|l| l.parse::<usize>().expect("a length"));
        assert!(request.header("transfer-encoding").is_none(), "bodies are sent with their length");
        let length = length.unwrap_or(0);
        while self.buf.len() < length {
            self.fill()?;
        }
        request.body = self.buf.drain(..length).collect();
        lock(&self.shared.requests).push(request.clone());
        Some(request)
    }

    fn fill(&mut self) -> Option<()> {
        let mut bytes = [0; 64 * 1024];
        match self.tcp.read(&mut bytes) {
            Ok(0) | Err(_) => None,
            Ok(read) => {
                self.buf.extend_from_slice(&bytes[..read]);
                Some(())
            }
        }
    }

    /// Waits until the gateway closes the connection; `false` if it does not, or sends more.
    pub fn wait_closed(&mut self) -> bool {
        let mut byte = [0];
        match self.tcp.read(&mut byte) {
            Ok(read) => read == 0,
            Err(e) => {
                !matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
            }
        }
    }

    /// Writes bytes as they are; whether the gateway still took them.
    pub fn write(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.tcp.write_all(bytes.as_ref()).is_ok()
    }

    /// The head of a stream of events, chunked.
    pub fn start_events(&mut self) -> bool {
        self.write(
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n",
        )
    }

    /// One chunk.
    pub fn chunk(&mut self, data: impl AsRef<[u8]>) -> bool {
        self.write(chunk(data))
    }

    /// The chunk that ends a body.
    pub fn last_chunk(&mut self) -> bool {
        self.write("0\r\n\r\n")
    }

    /// The next close is a TCP reset.
    pub fn reset(&self) {
        let _ = socket2::SockRef::from(&self.tcp).set_linger(Some(Duration::ZERO));
        // The registry's handle would keep the socket open otherwise.
        lock(&self.shared.sockets).retain(|s| s.peer_addr().ok() != self.tcp.peer_addr().ok());
    }
}

/// One chunk of a chunked body.
pub fn chunk(data: impl AsRef<[u8]>) -> Vec<u8> {
    let data = data.as_ref();
    let mut out = format!("{:x}\r\n", data.len()).into_bytes();
    out.extend_from_slice(data);
    out.extend_from_slice(b"\r\n");
    out
}

/// A whole answer with a length.
pub fn answer(status: u16, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let mut head = format!("HTTP/1.1 {status} Status\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    let mut out = head.into_bytes();
    out.extend_from_slice(body);
    out
}

/// A JSON answer.
pub fn json(status: u16, body: &str) -> Vec<u8> {
    answer(status, &[("content-type", "application/json")], body)
}

/// A completion that says `text`.
pub fn completion(text: &str) -> String {
    serde_json::json!({
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "upstream-model",
        "choices": [{
            "index": 0,
            "message": {"role": "assistant", "content": text},
            "finish_reason": "stop",
        }],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
    })
    .to_string()
}

/// One event of a chat stream that adds `text`.
pub fn delta(text: &str) -> String {
    let text = serde_json::Value::from(text);
    format!(
        "data: {{\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\
         \"choices\":[{{\"index\":0,\"delta\":{{\"content\":{text}}},\"finish_reason\":null}}]}}\n\n"
    )
}

/// The events that end a chat stream.
pub fn finish() -> String {
    "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\
     \"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n"
        .to_owned()
}
