//! How often a worker asks for memory: never for a chunk of a stream, seldom for a request.
//!
//! A global allocator counts what the worker's thread does; the fault hook, which runs there, says
//! which thread that is. Upstream and caller work in lockstep, so that every chunk is a read of its
//! own. Now and then a worker looks after its pools, which also takes memory: the best of a few
//! rounds counts.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use foretoken::app::{Options, Running, start};

const ROUNDS: usize = 5;
const PER_ROUND: usize = 100;
const WARM_UP: usize = 100;
/// What one request over HTTP/1.1 may cost.
const REQUEST_MAX: u64 = 20;
/// Nothing here takes that long; a hang must become a failure.
const PATIENCE: Duration = Duration::from_secs(20);

static COUNT: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static IS_WORKER: Cell<bool> = const { Cell::new(false) };
}

struct Counting;

fn count() {
    // A thread that is ending has no such variable any more; it is no worker.
    if IS_WORKER.try_with(Cell::get).unwrap_or(false) {
        COUNT.fetch_add(1, Relaxed);
    }
}

// SAFETY: everything is handed to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count();
        unsafe { System.realloc(pointer, layout, new_size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const EVENT: &str = "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\
    \"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" word\"},\
    \"finish_reason\":null}]}\n\n";
const LAST: &str = "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\
    \"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n\
    data: [DONE]\n\n";
const ANSWER: &str = "{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion\",\"created\":1,\
    \"model\":\"m\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\
    \"content\":\"Hello\"},\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":5,\
    \"completion_tokens\":1,\"total_tokens\":6}}";

/// One HTTP message: its head, and the rest of the stream after it.
fn read_head(reader: &mut BufReader<TcpStream>) -> Option<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).expect("a head within the time limit") == 0 {
            return None;
        }
    }
    Some(head)
}

fn read_body(reader: &mut BufReader<TcpStream>, head: &str) -> Vec<u8> {
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .expect("a length")
        .parse()
        .expect("a number");
    let mut body = vec![0; length];
    reader.read_exact(&mut body).expect("a body within the time limit");
    body
}

/// An upstream that streams one event for each word on the channel, and answers whole to whoever
/// does not want a stream.
fn upstream() -> (SocketAddr, Sender<&'static str>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address");
    let (sender, cues) = channel();
    std::thread::spawn(move || {
        let cues = Arc::new(std::sync::Mutex::new(cues));
        for stream in listener.incoming().map_while(Result::ok) {
            let cues = cues.clone();
            std::thread::spawn(move || serve(stream, &cues));
        }
    });
    (address, sender)
}

fn serve(stream: TcpStream, cues: &std::sync::Mutex<Receiver<&'static str>>) {
    let mut out = stream.try_clone().expect("clone");
    out.set_nodelay(true).expect("nodelay");
    let mut reader = BufReader::new(stream);
    while let Some(head) = read_head(&mut reader) {
        let body = read_body(&mut reader, &head);
        if !body.windows(13).any(|part| part == b"\"stream\":true") {
            let length = ANSWER.len();
            let text = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{ANSWER}"
            );
            out.write_all(text.as_bytes()).expect("send");
            continue;
        }
        out.write_all(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n",
        )
        .expect("send");
        while let Ok(event) = cues.lock().expect("cues").recv() {
            let end = if event == LAST { "0\r\n\r\n" } else { "" };
            let text = format!("{:x}\r\n{event}\r\n{end}", event.len());
            out.write_all(text.as_bytes()).expect("send");
            if event == LAST {
                break;
            }
        }
    }
}

fn gateway(upstream: SocketAddr) -> Running {
    let text = format!(
        "[server]\nlisten = [\"127.0.0.1:0\"]\nworkers = 1\n[admin]\nlisten = \"off\"\n\
         [store]\npath = \":memory:\"\n[log]\naccess = \"off\"\n\
         [[provider]]\nname = \"p\"\nbase_url = \"http://{upstream}/v1\"\n\
         [[model]]\nname = \"m\"\ntargets = [{{ provider = \"p\", model = \"served\" }}]\n\
         [[key]]\nname = \"k\"\nsecret = \"sk-ft-alloc-test\"\n"
    );
    let loaded = foretoken::config::parse(&text, "alloc", Path::new("."), &|_| None)
        .expect("a configuration without faults");
    let fault_hook: foretoken::proxy::FaultHook = Arc::new(|_| IS_WORKER.set(true));
    start(Options { loaded, path: None, fault_hook: Some(fault_hook) }).expect("started")
}

fn request(stream: bool) -> String {
    let body = format!(
        "{{\"model\":\"m\",\"stream\":{stream},\"messages\":[{{\"role\":\"user\",\"content\":\"Hi\"}}]}}"
    );
    let length = body.len();
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer sk-ft-alloc-test\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

/// Runs `one` many times; the fewest allocations of a round.
fn fewest(mut one: impl FnMut()) -> u64 {
    (0..WARM_UP).for_each(|_| one());
    (0..ROUNDS)
        .map(|_| {
            let before = COUNT.load(Relaxed);
            (0..PER_ROUND).for_each(|_| one());
            COUNT.load(Relaxed) - before
        })
        .min()
        .expect("there are rounds")
}

/// Both figures in one test: the counter is one for the process.
#[test]
fn a_chunk_takes_no_memory_and_a_request_little() {
    let (upstream, cues) = upstream();
    let running = gateway(upstream);
    let caller = TcpStream::connect(running.listen[0]).expect("connect");
    caller.set_read_timeout(Some(PATIENCE)).expect("timeout");
    let mut out = caller.try_clone().expect("clone");
    let mut reader = BufReader::new(caller);

    let whole = request(false);
    let of_requests = fewest(|| {
        out.write_all(whole.as_bytes()).expect("send");
        let head = read_head(&mut reader).expect("an answer");
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        assert_eq!(read_body(&mut reader, &head), ANSWER.as_bytes());
    });
    assert!(COUNT.load(Relaxed) > 0, "the worker's thread was not found: nothing was counted");

    out.write_all(request(true).as_bytes()).expect("send");
    cues.send(EVENT).expect("upstream");
    let head = read_head(&mut reader).expect("an answer");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let mut chunk = || {
        let mut line = String::new();
        reader.read_line(&mut line).expect("a chunk within the time limit");
        let length = usize::from_str_radix(line.trim(), 16).expect("a chunk's size");
        let mut data = vec![0; length + 2];
        reader.read_exact(&mut data).expect("a chunk within the time limit");
        data
    };
    assert_eq!(chunk(), [EVENT.as_bytes(), b"\r\n"].concat());
    let of_chunks = fewest(|| {
        cues.send(EVENT).expect("upstream");
        assert_eq!(chunk(), [EVENT.as_bytes(), b"\r\n"].concat());
    });
    cues.send(LAST).expect("upstream");
    assert!(chunk().ends_with(b"[DONE]\n\n\r\n"));

    let per_request = of_requests.div_ceil(PER_ROUND as u64);
    println!(
        "allocations of a worker: {of_chunks} for {PER_ROUND} chunks of a stream, {of_requests} for {PER_ROUND} requests"
    );
    assert_eq!(of_chunks, 0, "a chunk of a stream takes memory");
    assert!(per_request <= REQUEST_MAX, "a request takes memory {per_request} times");
}
