//! HTTP/1.1 callers that see every byte.

use std::fmt::Write as _;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use super::{KEY, WAIT};

/// An answer as it came.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The connection ended before the body did.
    pub broken: bool,
}

impl Answer {
    /// The first value of a header, given in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("{e}: status {}, {:?}", self.status, self.text()))
    }

    /// `error.code` of an error answer.
    #[track_caller]
    pub fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
    }

    /// The status and the code of an error must be these.
    #[track_caller]
    pub fn expect_error(&self, status: u16, code: &str) {
        assert_eq!(self.status, status, "{}", self.text());
        assert_eq!(self.code(), code, "{}", self.text());
        assert!(!self.broken, "the answer broke off");
    }

    /// The payloads of `data:` lines, in order.
    pub fn data_lines(&self) -> Vec<String> {
        let text = self.text();
        text.lines().filter_map(|l| l.strip_prefix("data: ")).map(str::to_owned).collect()
    }
}

/// The body of a chat request.
pub fn chat(model: &str, stream: bool, message: &str) -> String {
    serde_json::json!({
        "model": model,
        "stream": stream,
        "messages": [{"role": "user", "content": message}],
    })
    .to_string()
}

/// A request with [`KEY`] on a connection of its own.
#[track_caller]
pub fn post(addr: SocketAddr, path: &str, body: impl AsRef<[u8]>) -> Answer {
    let bearer = format!("Bearer {KEY}");
    request(addr, "POST", path, &[("authorization", &bearer)], body)
}

/// A GET with [`KEY`] on a connection of its own.
#[track_caller]
pub fn get(addr: SocketAddr, path: &str) -> Answer {
    let bearer = format!("Bearer {KEY}");
    request(addr, "GET", path, &[("authorization", &bearer)], b"")
}

/// A request with just these headers (and host, content-type and content-length) on a connection of
/// its own.
#[track_caller]
pub fn request(
    addr: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: impl AsRef<[u8]>,
) -> Answer {
    let mut raw = Raw::connect(addr);
    raw.send(encode(method, path, headers, body));
    raw.answer()
}

/// The bytes of a request.
pub fn encode(
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: impl AsRef<[u8]>,
) -> Vec<u8> {
    let body = body.as_ref();
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: gateway.test\r\n");
    for (name, value) in headers {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    if method != "GET" {
        let length = body.len();
        let _ = write!(head, "content-type: application/json\r\ncontent-length: {length}\r\n");
    }
    head.push_str("\r\n");
    let mut out = head.into_bytes();
    out.extend_from_slice(body);
    out
}

/// The bytes of a POST to `path` with [`KEY`].
pub fn encode_post(path: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let bearer = format!("Bearer {KEY}");
    encode("POST", path, &[("authorization", &bearer)], body)
}

/// A byte stream.
pub trait Duplex: Read + Write + Send {}
impl<T: Read + Write + Send> Duplex for T {}

enum Framing {
    Length(u64),
    Chunked,
    Close,
    Done,
}

/// One connection. Reads are bounded by [`WAIT`]; an answer that does not come fails the test.
pub struct Raw {
    io: Box<dyn Duplex>,
    tcp: TcpStream,
    buf: Vec<u8>,
    framing: Framing,
    ended: bool,
}

impl Raw {
    #[track_caller]
    pub fn connect(addr: SocketAddr) -> Raw {
        let tcp = TcpStream::connect_timeout(&addr, WAIT).expect("the gateway listens");
        let io = tcp.try_clone().expect("a second handle");
        Raw::over(tcp, Box::new(io))
    }

    /// A connection over `io`, which goes over `tcp`.
    pub fn over(tcp: TcpStream, io: Box<dyn Duplex>) -> Raw {
        tcp.set_read_timeout(Some(WAIT)).expect("a timeout");
        tcp.set_write_timeout(Some(WAIT)).expect("a timeout");
        tcp.set_nodelay(true).expect("no delay");
        Raw { io, tcp, buf: Vec::new(), framing: Framing::Done, ended: false }
    }

    /// The socket below.
    pub fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).expect("the gateway takes what is sent");
    }

    /// Sends, and tells whether the other side still took it.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.io.write_all(bytes.as_ref())?;
        self.io.flush()
    }

    /// Says that no more will be sent.
    pub fn half_close(&self) {
        let _ = self.tcp.shutdown(Shutdown::Write);
    }

    /// Whether something has come that was not read yet. Does not wait.
    pub fn has_input(&self) -> bool {
        let _ = self.tcp.set_nonblocking(true);
        let peeked = self.tcp.peek(&mut [0]);
        let _ = self.tcp.set_nonblocking(false);
        !self.buf.is_empty() || !matches!(peeked, Err(e) if e.kind() == ErrorKind::WouldBlock)
    }

    /// Cuts the connection by a TCP reset.
    pub fn reset(self) {
        let _ = socket2::SockRef::from(&self.tcp).set_linger(Some(std::time::Duration::ZERO));
    }

    /// Reads more; `false` at the end of the connection, however it ended.
    #[track_caller]
    fn fill(&mut self) -> bool {
        let mut bytes = [0; 16 * 1024];
        match self.io.read(&mut bytes) {
            Ok(0) => self.ended = true,
            Ok(read) => self.buf.extend_from_slice(&bytes[..read]),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                let got = String::from_utf8_lossy(&self.buf);
                panic!("nothing came within {WAIT:?}; so far: {got:?}");
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(_) => self.ended = true,
        }
        !self.ended
    }

    /// Everything up to the end of the connection.
    #[track_caller]
    pub fn rest(&mut self) -> Vec<u8> {
        while self.fill() {}
        std::mem::take(&mut self.buf)
    }

    /// Whether the other side has closed and nothing more is to be read. Waits for it.
    #[track_caller]
    pub fn expect_end(&mut self) {
        let rest = self.rest();
        assert!(rest.is_empty(), "more than expected: {:?}", String::from_utf8_lossy(&rest));
    }

    /// Waits for the head of an answer (those of 1xx are passed over); `None` at the end of the
    /// connection.
    #[track_caller]
    pub fn try_head(&mut self) -> Option<Answer> {
        loop {
            let answer = self.any_head()?;
            if answer.status >= 200 {
                return Some(answer);
            }
        }
    }

    /// Waits for the head of an answer; its body is read by [`Raw::piece`].
    #[track_caller]
    pub fn head(&mut self) -> Answer {
        match self.try_head() {
            Some(answer) => answer,
            None => panic!(
                "the connection ended without an answer: {:?}",
                String::from_utf8_lossy(&self.buf)
            ),
        }
    }

    /// The next head, 1xx too.
    #[track_caller]
    pub fn any_head(&mut self) -> Option<Answer> {
        let end = loop {
            if let Some(at) = find(&self.buf, b"\r\n\r\n") {
                break at + 4;
            }
            if !self.fill() {
                return None;
            }
        };
        let head: Vec<u8> = self.buf.drain(..end).collect();
        let head = String::from_utf8(head).expect("answers have ASCII heads");
        let mut lines = head.split("\r\n");
        let first = lines.next().unwrap_or_default();
        assert!(first.starts_with("HTTP/1."), "no status line: {first:?}");
        let status = first.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
        let headers: Vec<(String, String)> = lines
            .filter(|line| !line.is_empty())
            .map(|line| {
                let (name, value) = line.split_once(':').expect("a header field");
                (name.to_ascii_lowercase(), value.trim().to_owned())
            })
            .collect();
        let answer = Answer { status, headers, ..Answer::default() };
        let coded = answer.header("transfer-encoding").is_some();
        let length = answer.header("content-length").map(|l| l.parse().expect("a length"));
        assert!(!(coded && length.is_some()), "two framings: {head:?}");
        self.framing = match (coded, length) {
            _ if status < 200 || status == 204 || status == 304 => Framing::Done,
            (true, _) => Framing::Chunked,
            (false, Some(length)) => Framing::Length(length),
            (false, None) => Framing::Close,
        };
        Some(answer)
    }

    /// The next piece of the body as it came; `Ok(None)` at its end.
    ///
    /// # Errors
    /// The connection ended before the body did.
    #[track_caller]
    pub fn piece(&mut self) -> Result<Option<Vec<u8>>, Broken> {
        match self.framing {
            Framing::Done => Ok(None),
            Framing::Length(0) => {
                self.framing = Framing::Done;
                Ok(None)
            }
            Framing::Length(left) => {
                if self.buf.is_empty() && !self.fill() {
                    return Err(Broken);
                }
                let take = self.buf.len().min(left as usize);
                self.framing = Framing::Length(left - take as u64);
                Ok(Some(self.buf.drain(..take).collect()))
            }
            Framing::Close => {
                if self.buf.is_empty() && !self.fill() {
                    self.framing = Framing::Done;
                    return Ok(None);
                }
                Ok(Some(std::mem::take(&mut self.buf)))
            }
            Framing::Chunked => self.chunk(),
        }
    }

    #[track_caller]
    fn chunk(&mut self) -> Result<Option<Vec<u8>>, Broken> {
        loop {
            if let Some(line) = find(&self.buf, b"\r\n") {
                let size = std::str::from_utf8(&self.buf[..line]).expect("a chunk size");
                let size = usize::from_str_radix(size, 16).expect("a chunk size");
                if self.buf.len() >= line + 2 + size + 2 {
                    assert_eq!(&self.buf[line + 2 + size..][..2], b"\r\n", "the end of a chunk");
                    let data = self.buf[line + 2..line + 2 + size].to_vec();
                    self.buf.drain(..line + 2 + size + 2);
                    if size == 0 {
                        self.framing = Framing::Done;
                        return Ok(None);
                    }
                    return Ok(Some(data));
                }
            }
            if !self.fill() {
                return Err(Broken);
            }
        }
    }

    /// A whole answer.
    #[track_caller]
    pub fn answer(&mut self) -> Answer {
        let mut answer = self.head();
        self.rest_of(&mut answer);
        answer
    }

    /// Reads the rest of the body into `answer`.
    #[track_caller]
    pub fn rest_of(&mut self, answer: &mut Answer) {
        loop {
            match self.piece() {
                Ok(Some(piece)) => answer.body.extend_from_slice(&piece),
                Ok(None) => return,
                Err(Broken) => {
                    answer.broken = true;
                    return;
                }
            }
        }
    }

    /// Reads pieces of the body into `answer` until it holds `text`.
    #[track_caller]
    pub fn read_until(&mut self, answer: &mut Answer, text: &str) {
        while find(&answer.body, text.as_bytes()).is_none() {
            match self.piece() {
                Ok(Some(piece)) => answer.body.extend_from_slice(&piece),
                Ok(None) | Err(Broken) => {
                    panic!("the answer ended without {text:?}: {:?}", answer.text())
                }
            }
        }
    }
}

/// The connection ended before the body did.
#[derive(Debug, PartialEq)]
pub struct Broken;

/// Where `needle` begins in `hay`.
pub fn find(hay: &[u8], needle: &[u8]) -> Option<usize> {
    memchr::memmem::find(hay, needle)
}
