//! The whole path over real sockets on one machine: a caller, the gateway with one worker, and an
//! upstream that costs as little as possible. Compare the two `direct` rows with the others: the
//! difference is what the gateway adds to one request at a time.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::OnceLock;

use foretoken::app::{Options, Running, start};
use foretoken::config;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const EVENTS: usize = 100;

fn main() {
    divan::main();
}

fn event(text: &str) -> String {
    format!(
        "data: {{\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\
         \"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{text}\"}},\"finish_reason\":null}}]}}\n\n"
    )
}

fn chunk(data: &str) -> String {
    format!("{:x}\r\n{data}\r\n", data.len())
}

fn unary_answer() -> String {
    let body = format!(
        "{{\"id\":\"c\",\"choices\":[{{\"index\":0,\"message\":{{\"content\":\"{}\"}}}}],\
         \"usage\":{{\"prompt_tokens\":9,\"completion_tokens\":2,\"total_tokens\":11}}}}",
        "x".repeat(900)
    );
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// The events as single writes, so that each is relayed by itself.
fn stream_answer() -> Vec<String> {
    let head =
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    let mut out = vec![head.to_owned()];
    out.extend((0..EVENTS).map(|_| chunk(&event("token "))));
    let stop = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
    out.push(chunk(stop) + &chunk("data: [DONE]\n\n") + "0\r\n\r\n");
    out
}

fn upstream() -> SocketAddr {
    static ADDRESS: OnceLock<SocketAddr> = OnceLock::new();
    *ADDRESS.get_or_init(|| {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address");
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                std::thread::spawn(move || serve(socket));
            }
        });
        address
    })
}

fn serve(mut socket: TcpStream) {
    socket.set_nodelay(true).expect("nodelay");
    let (unary, stream) = (unary_answer(), stream_answer());
    let mut seen = Vec::new();
    let mut buffer = [0; 64 * 1024];
    while let Ok(read @ 1..) = socket.read(&mut buffer) {
        seen.extend_from_slice(&buffer[..read]);
        if !seen.ends_with(b"\"end\":1}") {
            continue;
        }
        let pieces: Vec<&str> = if memchr::memmem::find(&seen, b"\"stream\":true").is_some() {
            stream.iter().map(String::as_str).collect()
        } else {
            vec![&unary]
        };
        seen.clear();
        for piece in pieces {
            if socket.write_all(piece.as_bytes()).is_err() {
                return;
            }
        }
    }
}

fn gateway() -> SocketAddr {
    static RUNNING: OnceLock<Running> = OnceLock::new();
    let running = RUNNING.get_or_init(|| {
        let text = format!(
            "[server]\nlisten = [\"127.0.0.1:0\"]\nworkers = 1\n[admin]\nlisten = \"off\"\n\
             [store]\npath = \":memory:\"\n[log]\naccess = \"off\"\n\
             [[provider]]\nname = \"up\"\nbase_url = \"http://{}/v1\"\n\
             [[model]]\nname = \"*\"\ntargets = [{{ provider = \"up\", model = \"*\" }}]\n\
             [[key]]\nname = \"bench\"\nsecret = \"sk-bench\"\n",
            upstream()
        );
        let loaded = config::parse(&text, "bench", Path::new("."), &|_| None).expect("valid");
        start(Options { loaded, path: None, fault_hook: None }).expect("started")
    });
    running.listen[0]
}

struct Caller {
    socket: TcpStream,
    request: String,
    buffer: Vec<u8>,
}

impl Caller {
    fn new(address: SocketAddr, stream: bool) -> Caller {
        let socket = TcpStream::connect(address).expect("connect");
        socket.set_nodelay(true).expect("nodelay");
        let body = format!(
            "{{\"model\":\"m\",\"stream\":{stream},\"messages\":[{{\"role\":\"user\",\"content\":\"{}\"}}],\"end\":1}}",
            "word ".repeat(190)
        );
        let request = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: h\r\nauthorization: Bearer sk-bench\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        Caller { socket, request, buffer: vec![0; 64 * 1024] }
    }

    /// One request, to the last byte of its answer.
    fn call(&mut self, end: &[u8]) {
        self.socket.write_all(self.request.as_bytes()).expect("write");
        let mut tail = Vec::new();
        loop {
            let read = self.socket.read(&mut self.buffer).expect("read");
            assert!(read > 0, "closed early");
            tail.extend_from_slice(&self.buffer[..read]);
            if tail.ends_with(end) {
                return;
            }
            let keep = tail.len().saturating_sub(end.len());
            tail.drain(..keep);
        }
    }
}

#[divan::bench]
fn unary_1k_direct(bencher: divan::Bencher<'_, '_>) {
    let mut caller = Caller::new(upstream(), false);
    bencher.bench_local(|| caller.call(b"11}}"));
}

#[divan::bench]
fn unary_1k(bencher: divan::Bencher<'_, '_>) {
    let mut caller = Caller::new(gateway(), false);
    bencher.bench_local(|| caller.call(b"11}}"));
}

#[divan::bench]
fn stream_100_events_direct(bencher: divan::Bencher<'_, '_>) {
    let mut caller = Caller::new(upstream(), true);
    bencher.bench_local(|| caller.call(b"0\r\n\r\n"));
}

#[divan::bench]
fn stream_100_events(bencher: divan::Bencher<'_, '_>) {
    let mut caller = Caller::new(gateway(), true);
    bencher.bench_local(|| caller.call(b"0\r\n\r\n"));
}
