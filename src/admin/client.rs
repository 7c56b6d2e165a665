//! The other end of the admin API, for the command line: one blocking HTTP/1.1 call over a plain socket.
//! Small on purpose: the command line needs no TLS stack and no runtime to ask a process on this host.

use std::io::{self, ErrorKind, Read, Write as _};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use serde_json::Value;
use thiserror::Error;

use crate::auth::Secret;
use crate::clock;

/// Time to get a connection, over all addresses of the name.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time between two pieces of the answer.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
const MAX_ANSWER_BYTES: usize = 64 << 20;
const MAX_HEAD_BYTES: usize = 64 << 10;
const MAX_HEADERS: usize = 64;
const MAX_CHUNK_LINE_BYTES: usize = 4096;
/// The port of the admin listener, where none is said.
const DEFAULT_PORT: u16 = 9090;

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The address or the token cannot be used as it is.
    #[error("{0}")]
    Usage(String),
    /// Nobody answers there.
    #[error(
        "cannot reach the admin API at {url}: {cause}. Is foretoken running? `--admin URL` or FORETOKEN_ADMIN_URL say where to look"
    )]
    Unreachable {
        /// Where.
        url: String,
        /// Why.
        cause: String,
    },
    /// Somebody answers, but not as an admin API does.
    #[error(
        "{url} does not answer like foretoken's admin API: {cause}. Is it the address of `[admin] listen`?"
    )]
    Garbled {
        /// Where.
        url: String,
        /// What was wrong.
        cause: String,
    },
}

impl ClientError {
    /// Whether nobody answered: the command line's exit code 3.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, ClientError::Unreachable { .. })
    }
}

/// Asks `base_url` (`http://127.0.0.1:9090`; scheme and port may be left out) for `path`, and gives the
/// status and the JSON of the answer: `null` if it is empty, a string if it is plain text. Blocks the
/// thread.
pub fn request(
    method: &str,
    base_url: &str,
    token: Option<&Secret>,
    path: &str,
    body: Option<&Value>,
) -> Result<(u16, Value), ClientError> {
    send(base_url, token, &Ask { method, path, body, idempotency_key: None })
}

/// One call.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// `GET`, `POST`, …
    pub method: &'a str,
    /// With its query, percent-encoded.
    pub path: &'a str,
    /// The JSON to send.
    pub body: Option<&'a Value>,
    /// Makes a repetition harmless.
    pub idempotency_key: Option<&'a str>,
}

/// As [`request`], with all that can be said.
pub fn send(
    base_url: &str,
    token: Option<&Secret>,
    ask: &Ask<'_>,
) -> Result<(u16, Value), ClientError> {
    let base = Base::parse(base_url)?;
    let call = render(&base, token, ask)?;
    let unreachable = |cause: io::Error| ClientError::Unreachable {
        url: base_url.to_owned(),
        cause: reason(&cause),
    };
    let mut stream = connect(&base).map_err(unreachable)?;
    stream.write_all(&call).map_err(unreachable)?;
    let answer = Answer::read(&mut stream).map_err(|fault| match fault {
        Fault::Silent(cause) => unreachable(cause),
        Fault::Garbled(cause) => ClientError::Garbled { url: base_url.to_owned(), cause },
    })?;
    match answer.value() {
        Ok(value) => Ok((answer.status, value)),
        Err(cause) => Err(ClientError::Garbled { url: base_url.to_owned(), cause }),
    }
}

/// A base URL, taken apart.
#[derive(Debug, PartialEq, Eq)]
struct Base {
    /// Host with brackets and port, as it goes into `Host`.
    authority: String,
    host: String,
    port: u16,
    /// What comes before the path, without a slash at its end.
    prefix: String,
}

impl Base {
    fn parse(url: &str) -> Result<Self, ClientError> {
        let fault = |why: &str| ClientError::Usage(format!("`{url}` is no admin URL: {why}"));
        let (rest, default_port) = match url.split_once("://") {
            None => (url, DEFAULT_PORT),
            Some(("http", rest)) => (rest, 80),
            Some(("https", _)) => {
                return Err(fault(
                    "https is not spoken here; use an address that is reached \
                    without TLS, for instance through an SSH tunnel",
                ));
            }
            Some(_) => return Err(fault("write http://HOST:PORT")),
        };
        let (authority, prefix) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        if authority.contains(['@', '?', '#']) || !rest.bytes().all(|byte| byte.is_ascii_graphic())
        {
            return Err(fault("it has characters that do not belong there"));
        }
        let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, port)) => (host, port),
            None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
        };
        if port.matches(':').count() > 1 {
            return Err(fault("write an IPv6 address in brackets"));
        }
        let port = match port.strip_prefix(':') {
            Some(port) => port.parse().map_err(|_| fault("the port is no number"))?,
            None if port.is_empty() => default_port,
            None => return Err(fault("the port is no number")),
        };
        if host.is_empty() {
            return Err(fault("the host is missing"));
        }
        Ok(Base {
            authority: authority.to_owned(),
            host: host.to_owned(),
            port,
            prefix: prefix.trim_end_matches('/').to_owned(),
        })
    }
}

/// The request as bytes. Whatever could split it is refused.
fn render(base: &Base, token: Option<&Secret>, ask: &Ask<'_>) -> Result<Vec<u8>, ClientError> {
    let &Ask { method, path, body, idempotency_key } = ask;
    let is_clean = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
    if !path.starts_with('/') || !is_clean(path) || !is_clean(method) {
        return Err(ClientError::Usage(format!("`{method} {path}` cannot be asked for")));
    }
    let mut head = format!(
        "{method} {}{path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\naccept: application/json\r\n",
        base.prefix, base.authority,
    );
    if let Some(token) = token {
        if !is_clean(token.reveal()) {
            let cure = "the admin token may hold printable ASCII only; check FORETOKEN_ADMIN_TOKEN";
            return Err(ClientError::Usage(cure.to_owned()));
        }
        head += &format!("authorization: Bearer {}\r\n", token.reveal());
    }
    if let Some(key) = idempotency_key {
        if !is_clean(key) {
            let cure = "an idempotency key may hold printable ASCII only, and no spaces";
            return Err(ClientError::Usage(cure.to_owned()));
        }
        head += &format!("idempotency-key: {key}\r\n");
    }
    let body = body.map(Value::to_string).unwrap_or_default();
    if !body.is_empty() {
        head += "content-type: application/json\r\n";
    }
    head += &format!("content-length: {}\r\n\r\n{body}", body.len());
    Ok(head.into_bytes())
}

/// Tries the addresses of the name one after the other within one deadline.
fn connect(base: &Base) -> io::Result<TcpStream> {
    let addresses: Vec<SocketAddr> = (base.host.as_str(), base.port).to_socket_addrs()?.collect();
    let deadline = clock::instant() + CONNECT_TIMEOUT;
    let mut last = io::Error::new(ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        let left = deadline.saturating_duration_since(clock::instant());
        if left.is_zero() {
            break;
        }
        match TcpStream::connect_timeout(&address, left) {
            Ok(stream) => {
                stream.set_read_timeout(Some(READ_TIMEOUT))?;
                stream.set_write_timeout(Some(READ_TIMEOUT))?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::ConnectionRefused => "nobody listens there (connection refused)".to_owned(),
        ErrorKind::TimedOut | ErrorKind::WouldBlock => "no answer in time".to_owned(),
        _ => error.to_string(),
    }
}

/// What can go wrong while an answer is read.
#[derive(Debug)]
enum Fault {
    /// The connection failed or fell silent.
    Silent(io::Error),
    /// The bytes are not an answer.
    Garbled(String),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Fault::Silent(error)
    }
}

fn garbled<T>(cause: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::Garbled(cause.into()))
}

/// An answer, whole.
#[derive(Debug)]
struct Answer {
    status: u16,
    is_json: bool,
    body: Vec<u8>,
}

impl Answer {
    fn read(source: &mut impl Read) -> Result<Self, Fault> {
        let mut input = Input { source, buffer: Vec::new() };
        loop {
            let head = Head::read(&mut input)?;
            if !(100..200).contains(&head.status) {
                let body = head.read_body(&mut input)?;
                return Ok(Answer { status: head.status, is_json: head.is_json, body });
            }
        }
    }

    fn value(&self) -> Result<Value, String> {
        if self.body.is_empty() {
            return Ok(Value::Null);
        }
        if self.is_json {
            return serde_json::from_slice(&self.body)
                .map_err(|error| format!("faulty JSON ({error})"));
        }
        Ok(Value::String(String::from_utf8_lossy(&self.body).into_owned()))
    }
}

/// What the head says of the body.
struct Head {
    status: u16,
    is_json: bool,
    is_chunked: bool,
    length_bytes: Option<usize>,
}

impl Head {
    fn read(input: &mut Input<'_, impl Read>) -> Result<Self, Fault> {
        loop {
            let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
            let mut parsed = httparse::Response::new(&mut headers);
            match parsed.parse(&input.buffer) {
                Ok(httparse::Status::Complete(used)) => {
                    let head = Head::interpret(&parsed)?;
                    input.buffer.drain(..used);
                    return Ok(head);
                }
                Ok(httparse::Status::Partial) if input.buffer.len() < MAX_HEAD_BYTES => {}
                Ok(_) => return garbled("its head is too long"),
                Err(error) => return garbled(format!("it speaks no HTTP/1.1 ({error})")),
            }
            input.must_fill("its head")?;
        }
    }

    fn interpret(parsed: &httparse::Response<'_, '_>) -> Result<Self, Fault> {
        let status = parsed.code.unwrap_or(0);
        let mut head = Head { status, is_json: false, is_chunked: false, length_bytes: None };
        for header in parsed.headers.iter() {
            let value = String::from_utf8_lossy(header.value).trim().to_ascii_lowercase();
            match header.name.to_ascii_lowercase().as_str() {
                "content-type" => head.is_json = value.starts_with("application/json"),
                "transfer-encoding" => head.is_chunked = value == "chunked",
                "content-length" => match value.parse() {
                    Ok(length) if length <= MAX_ANSWER_BYTES => head.length_bytes = Some(length),
                    _ => return garbled(format!("content-length {value}")),
                },
                _ => {}
            }
        }
        if matches!(status, 100..200 | 204 | 304) {
            (head.is_chunked, head.length_bytes) = (false, Some(0));
        }
        Ok(head)
    }

    fn read_body(&self, input: &mut Input<'_, impl Read>) -> Result<Vec<u8>, Fault> {
        if self.is_chunked {
            return read_chunks(input);
        }
        match self.length_bytes {
            Some(length) => input.take(length),
            None => {
                while input.fill()? {}
                Ok(std::mem::take(&mut input.buffer))
            }
        }
    }
}

fn read_chunks(input: &mut Input<'_, impl Read>) -> Result<Vec<u8>, Fault> {
    let mut body = Vec::new();
    loop {
        let line = input.line()?;
        let digits = line.split(';').next().unwrap_or_default().trim();
        let Ok(length) = usize::from_str_radix(digits, 16) else {
            return garbled(format!("a chunk of length `{digits}`"));
        };
        if length == 0 {
            while !input.line()?.is_empty() {}
            return Ok(body);
        }
        if length.saturating_add(body.len()) > MAX_ANSWER_BYTES {
            return garbled("its answer is too long");
        }
        body.extend_from_slice(&input.take(length)?);
        if !input.line()?.is_empty() {
            return garbled("a chunk does not end where it should");
        }
    }
}

/// Bytes that came and were not used yet.
struct Input<'a, R> {
    source: &'a mut R,
    buffer: Vec<u8>,
}

impl<R: Read> Input<'_, R> {
    /// Reads a piece; `false` at the end.
    fn fill(&mut self) -> Result<bool, Fault> {
        let mut piece = [0; 16 * 1024];
        let read = loop {
            match self.source.read(&mut piece) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        if self.buffer.len() + read > MAX_ANSWER_BYTES + MAX_HEAD_BYTES {
            return garbled("its answer is too long");
        }
        self.buffer.extend_from_slice(&piece[..read]);
        Ok(read > 0)
    }

    fn must_fill(&mut self, part: &str) -> Result<(), Fault> {
        match self.fill()? {
            true => Ok(()),
            false => {
                let cause = format!("the connection was closed before the end of {part}");
                Err(Fault::Silent(io::Error::new(ErrorKind::UnexpectedEof, cause)))
            }
        }
    }

    fn take(&mut self, length: usize) -> Result<Vec<u8>, Fault> {
        while self.buffer.len() < length {
            self.must_fill("its answer")?;
        }
        let rest = self.buffer.split_off(length);
        Ok(std::mem::replace(&mut self.buffer, rest))
    }

    /// The next line without its end.
    fn line(&mut self) -> Result<String, Fault> {
        loop {
            if let Some(at) = self.buffer.windows(2).position(|pair| pair == b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..at + 2).take(at).collect();
                return Ok(String::from_utf8_lossy(&line).into_owned());
            }
            if self.buffer.len() > MAX_CHUNK_LINE_BYTES {
                return garbled("a line of its answer has no end");
            }
            self.must_fill("its answer")?;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Gives one byte at a time.
    struct Trickle<'a>(&'a [u8]);

    impl Read for Trickle<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let Some((first, rest)) = self.0.split_first() else { return Ok(0) };
            (out[0], self.0) = (*first, rest);
            Ok(1)
        }
    }

    fn both_ways(text: &str) -> Result<(u16, Value), Fault> {
        let value = |answer: Answer| (answer.status, answer.value().expect("value"));
        let slow = Answer::read(&mut Trickle(text.as_bytes())).map(value);
        let fast = Answer::read(&mut text.as_bytes()).map(value);
        assert_eq!(format!("{slow:?}"), format!("{fast:?}"));
        fast
    }

    #[test]
    fn answers_are_read_however_they_are_framed() {
        let json_head = "HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\n";
        for (text, want) in [
            (format!("{json_head}Content-Length: 7\r\n\r\n{{\"a\":1}}"), (200, json!({"a": 1}))),
            (
                format!(
                    "{json_head}Transfer-Encoding: chunked\r\n\r\n3;x=y\r\n{{\"a\r\n4\r\n\":1}}\r\n0\r\nt: 1\r\n\r\n"
                ),
                (200, json!({"a": 1})),
            ),
            (format!("{json_head}\r\n[1,2]"), (200, json!([1, 2]))),
            (
                format!("HTTP/1.1 100 Continue\r\n\r\n{json_head}content-length: 2\r\n\r\n{{}}"),
                (200, json!({})),
            ),
            ("HTTP/1.1 204 No Content\r\n\r\n".to_owned(), (204, Value::Null)),
            ("HTTP/1.1 500 Oops\r\nContent-Length: 2\r\n\r\nno".to_owned(), (500, json!("no"))),
        ] {
            assert_eq!(both_ways(&text).expect("an answer"), want);
        }
    }

    #[test]
    fn broken_answers_are_told_from_missing_ones() {
        for text in [
            "SSH-2.0-OpenSSH_9\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n",
        ] {
            assert!(matches!(both_ways(text), Err(Fault::Garbled(_))), "{text}");
        }
        for text in ["", "HTTP/1.1 200", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc"] {
            assert!(matches!(both_ways(text), Err(Fault::Silent(_))), "{text}");
        }
        let endless = format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(MAX_HEAD_BYTES));
        assert!(matches!(Answer::read(&mut endless.as_bytes()), Err(Fault::Garbled(_))));
    }

    #[test]
    fn urls_are_taken_apart() {
        for (url, host, port, prefix) in [
            ("http://127.0.0.1:9090", "127.0.0.1", 9090, ""),
            ("http://[::1]:9/", "::1", 9, ""),
            ("[::1]", "::1", 9090, ""),
            ("gw", "gw", 9090, ""),
            ("gw:1", "gw", 1, ""),
            ("http://gw/foretoken/", "gw", 80, "/foretoken"),
        ] {
            let base = Base::parse(url).expect(url);
            assert_eq!((base.host.as_str(), base.port, base.prefix.as_str()), (host, port, prefix));
        }
        for (url, why) in [
            ("https://gw", "SSH tunnel"),
            ("ftp://gw", "http://HOST:PORT"),
            ("http://", "host"),
            ("http://gw:x", "port"),
            ("::1", "brackets"),
            ("http://a@b", "characters"),
            ("http://gw\r\nx: y", "characters"),
        ] {
            let fault = Base::parse(url).map(|_| ()).expect_err(url).to_string();
            assert!(fault.contains(why), "{fault}");
        }
    }

    #[test]
    fn nothing_can_be_slipped_into_a_request() {
        let base = Base::parse("http://gw:1/x").expect("url");
        let body = json!({"k": 1});
        let render = |token: Option<&str>, path, idempotency_key| {
            let ask = Ask { method: "POST", path, body: Some(&body), idempotency_key };
            render(&base, token.map(Secret::new).as_ref(), &ask)
        };
        let plain = render(Some("t"), "/a", Some("once"));
        let want = "POST /x/a HTTP/1.1\r\nhost: gw:1\r\nconnection: close\r\n\
            accept: application/json\r\nauthorization: Bearer t\r\n\
            idempotency-key: once\r\ncontent-type: application/json\r\ncontent-length: 7\r\n\r\n{\"k\":1}";
        assert_eq!(String::from_utf8(plain.expect("bytes")).expect("text"), want);
        assert!(render(Some("t\r\nx: y"), "/a", None).is_err());
        assert!(render(None, "/a\r\nx: y", None).is_err());
        assert!(render(None, "a", None).is_err());
        assert!(render(None, "/a", Some("k\r\nx: y")).is_err());
    }

    #[test]
    fn nobody_there_is_an_error_of_its_own() {
        // A port that was free a moment ago, and that nobody is told of.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address");
        drop(listener);
        let fault = request("GET", &address.to_string(), None, "/", None).expect_err("nobody");
        assert!(fault.is_unreachable(), "{fault}");
        assert!(fault.to_string().contains("--admin URL"), "{fault}");
        let usage = request("GET", "https://x", None, "/", None).expect_err("no TLS");
        assert!(!usage.is_unreachable());
    }
}
