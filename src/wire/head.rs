//! HTTP/1.1 heads, read with `httparse` and then held to stricter rules: whatever two parsers could
//! read differently is refused, since the next hop may be the other parser.

use crate::error::{Error, Kind};
use crate::wire::{Headers, Name};

/// The methods that an endpoint can ask for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Method {
    #[default]
    Get,
    Head,
    Post,
    Delete,
    Options,
    /// Anything else: no endpoint knows it.
    Other,
}

impl Method {
    /// The method of this token; methods are case-sensitive.
    pub fn of(token: &str) -> Method {
        match token {
            "GET" => Method::Get,
            "POST" => Method::Post,
            "HEAD" => Method::Head,
            "DELETE" => Method::Delete,
            "OPTIONS" => Method::Options,
            _ => Method::Other,
        }
    }

    /// The token on the wire.
    pub fn text(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Post => "POST",
            Method::Head => "HEAD",
            Method::Delete => "DELETE",
            Method::Options => "OPTIONS",
            Method::Other => "OTHER",
        }
    }
}

/// The protocol that a request came by.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Version {
    Http10,
    #[default]
    Http11,
    H2,
}

impl Version {
    /// The name in logs.
    pub fn name(self) -> &'static str {
        match self {
            Version::Http10 => "h1.0",
            Version::Http11 => "h1",
            Version::H2 => "h2",
        }
    }
}

/// The head of a request, whatever protocol it came by. Its memory is used again for the next
/// request of the connection.
#[derive(Default, Debug)]
pub struct RequestHead {
    pub method: Method,
    /// Path and query, starting with a slash.
    pub path: String,
    pub version: Version,
    pub headers: Headers,
}

/// The head of an answer.
#[derive(Default, Debug)]
pub struct ResponseHead {
    pub status: u16,
    pub headers: Headers,
}

/// How the end of a body is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BodyFraming {
    Length(u64),
    Chunked,
    /// Until the connection is closed: answers only.
    Close,
}

/// Bounds of a head.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HeadLimits {
    pub bytes: usize,
    pub count: usize,
    pub uri: usize,
}

/// What the head says of the connection and of the body.
#[derive(Clone, Copy, Debug)]
pub struct ParsedRequest {
    /// Bytes of the head.
    pub len: usize,
    pub body: BodyFraming,
    pub keep_alive: bool,
    pub expects_continue: bool,
}

/// Like [`ParsedRequest`], for an answer.
#[derive(Clone, Copy, Debug)]
pub struct ParsedResponse {
    pub len: usize,
    pub body: BodyFraming,
    pub keep_alive: bool,
}

/// More fields than this are never parsed, whatever the limits say.
const MAX_FIELDS: usize = 256;

fn bad(message: impl Into<String>) -> Error {
    Error::downstream(Kind::BadFraming, message)
}

/// Reads a request head from the start of `buf` into `head`. `None`: more bytes are needed.
///
/// # Errors
/// `BadFraming` (400), `HeadersTooLarge` (431); the connection must be closed after either.
pub fn parse_request(
    buf: &[u8],
    limits: &HeadLimits,
    head: &mut RequestHead,
) -> Result<Option<ParsedRequest>, Error> {
    let window = &buf[..buf.len().min(limits.bytes)];
    let mut fields = [const { std::mem::MaybeUninit::uninit() }; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut []);
    let outcome = request.parse_with_uninit_headers(window, &mut fields);
    let len = match outcome {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) if buf.len() >= limits.bytes => {
            return Err(too_large(limits));
        }
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(too_large(limits)),
        Err(error) => return Err(bad(format!("the request head is malformed: {error}"))),
    };
    refuse_bare_lf(&buf[..len])?;
    if request.headers.len() > limits.count {
        return Err(too_large(limits));
    }
    head.headers.clear();
    for field in request.headers.iter() {
        head.headers.push(field.name.as_bytes(), field.value);
    }
    head.method = Method::of(request.method.unwrap_or(""));
    head.version = if request.version == Some(0) { Version::Http10 } else { Version::Http11 };
    set_path(head, request.path.unwrap_or(""), limits)?;
    request_framing(head, len).map(Some)
}

fn too_large(limits: &HeadLimits) -> Error {
    Error::downstream(
        Kind::HeadersTooLarge,
        format!(
            "the request head is larger than {} bytes or {} fields; send fewer or shorter headers",
            limits.bytes, limits.count
        ),
    )
}

/// httparse takes a bare LF for a line end. Proxies that do not would see another head.
fn refuse_bare_lf(head: &[u8]) -> Result<(), Error> {
    for at in memchr::memchr_iter(b'\n', head) {
        if at == 0 || head[at - 1] != b'\r' {
            return Err(bad("a line of the request head ends in LF without CR"));
        }
    }
    Ok(())
}

fn set_path(head: &mut RequestHead, target: &str, limits: &HeadLimits) -> Result<(), Error> {
    if target.len() > limits.uri {
        return Err(Error {
            status: Some(414),
            ..bad(format!("the request target is longer than {} bytes", limits.uri))
        });
    }
    head.path.clear();
    let path = if target.starts_with('/') || target == "*" {
        target
    } else if let Some(rest) = absolute_form(target) {
        rest
    } else {
        return Err(bad("the request target must start with a slash"));
    };
    if path.bytes().any(|b| b == b'#' || b <= 0x20 || b == 0x7f) {
        return Err(bad("the request target holds a character that must be percent-encoded"));
    }
    head.path.push_str(path);
    Ok(())
}

/// The path of `http://authority/path`, as proxies send it.
fn absolute_form(target: &str) -> Option<&str> {
    let rest = ["http://", "https://"].iter().find_map(|scheme| {
        target.get(..scheme.len()).filter(|s| s.eq_ignore_ascii_case(scheme))?;
        target.get(scheme.len()..)
    })?;
    let slash = rest.find('/')?;
    valid_authority(&rest.as_bytes()[..slash]).then(|| &rest[slash..])
}

/// Whether `authority` can be a host with an optional port: `a/?#` and userinfo are not.
pub fn valid_authority(authority: &[u8]) -> bool {
    !authority.is_empty()
        && authority.iter().all(|&b| {
            b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':' | b'[' | b']' | b'%')
        })
}

fn request_framing(head: &RequestHead, len: usize) -> Result<ParsedRequest, Error> {
    let headers = &head.headers;
    let http10 = head.version == Version::Http10;
    match (headers.count(Name::Host), headers.get(Name::Host)) {
        (0, _) if http10 => {}
        (1, Some(host)) if valid_authority(host) => {}
        (0, _) => return Err(bad("the host header is missing")),
        (1, _) => return Err(bad("the host header is not a host name")),
        _ => return Err(bad("there is more than one host header")),
    }
    let coded = transfer_coding(headers)?;
    let length = content_length(headers)?;
    let body = match (coded, length) {
        (true, _) if http10 => {
            return Err(bad("HTTP/1.0 knows no transfer-encoding; send content-length"));
        }
        (true, Some(_)) => {
            return Err(bad("content-length and transfer-encoding exclude each other"));
        }
        (true, None) => BodyFraming::Chunked,
        (false, Some(length)) => BodyFraming::Length(length),
        (false, None) if http10 && head.method == Method::Post => {
            return Err(bad("a body in HTTP/1.0 needs content-length"));
        }
        (false, None) => BodyFraming::Length(0),
    };
    let expects_continue = match headers.get(Name::Expect) {
        None => false,
        Some(value) if value.eq_ignore_ascii_case(b"100-continue") => !http10,
        Some(_) => {
            return Err(Error { status: Some(417), ..bad("this expectation is not known") });
        }
    };
    Ok(ParsedRequest { len, body, keep_alive: keeps_alive(headers, http10), expects_continue })
}

/// Whether the body is chunked. Any other coding, or more than one, is refused.
fn transfer_coding(headers: &Headers) -> Result<bool, Error> {
    match (headers.count(Name::TransferEncoding), headers.get(Name::TransferEncoding)) {
        (0, _) => Ok(false),
        (1, Some(value)) if value.eq_ignore_ascii_case(b"chunked") => Ok(true),
        _ => Err(bad("transfer-encoding must be given once, as chunked")),
    }
}

/// The one content-length. Repeated, signed or list values are refused, even if they agree.
fn content_length(headers: &Headers) -> Result<Option<u64>, Error> {
    match (headers.count(Name::ContentLength), headers.get(Name::ContentLength)) {
        (0, _) => Ok(None),
        (1, Some(value))
            if !value.is_empty() && value.len() <= 18 && value.iter().all(u8::is_ascii_digit) =>
        {
            let length = value.iter().fold(0u64, |n, d| n * 10 + u64::from(d - b'0'));
            Ok(Some(length))
        }
        (1, _) => Err(bad("content-length is not a number")),
        _ => Err(bad("content-length is given more than once")),
    }
}

fn keeps_alive(headers: &Headers, http10: bool) -> bool {
    let mut keep = !http10;
    for (id, _, value) in headers.iter() {
        if id != Name::Connection {
            continue;
        }
        for token in value.split(|&b| b == b',') {
            let token = token.trim_ascii();
            if token.eq_ignore_ascii_case(b"close") {
                return false;
            }
            keep |= token.eq_ignore_ascii_case(b"keep-alive");
        }
    }
    keep
}

/// Reads the head of an answer to a POST or GET. `None`: more bytes are needed.
///
/// # Errors
/// `ServerError` when the upstream sends something that is no answer.
pub fn parse_response(
    buf: &[u8],
    limits: &HeadLimits,
    head: &mut ResponseHead,
) -> Result<Option<ParsedResponse>, Error> {
    let odd = |what: &str| {
        Error::upstream(Kind::ServerError, "the upstream's answer could not be read").because(what)
    };
    let mut fields = [const { std::mem::MaybeUninit::uninit() }; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut []);
    let outcome = httparse::ParserConfig::default().parse_response_with_uninit_headers(
        &mut response,
        buf,
        &mut fields,
    );
    let len = match outcome {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) if buf.len() >= limits.bytes => {
            return Err(odd("head too large"));
        }
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(odd(&format!("bad head: {error}"))),
    };
    head.status = response.code.unwrap_or(0);
    head.headers.clear();
    for field in response.headers.iter() {
        head.headers.push(field.name.as_bytes(), field.value);
    }
    let http10 = response.version == Some(0);
    let coded = transfer_coding(&head.headers).map_err(|e| odd(&e.message))?;
    let length = content_length(&head.headers).map_err(|e| odd(&e.message))?;
    let mut keep_alive = keeps_alive(&head.headers, http10);
    let body = match (coded, length) {
        _ if head.status < 200 || head.status == 204 || head.status == 304 => {
            BodyFraming::Length(0)
        }
        (true, length) => {
            // RFC 9112, 6.3: the coding counts; what follows on the connection is not trusted.
            keep_alive &= length.is_none();
            BodyFraming::Chunked
        }
        (false, Some(length)) => BodyFraming::Length(length),
        (false, None) => {
            keep_alive = false;
            BodyFraming::Close
        }
    };
    Ok(Some(ParsedResponse { len, body, keep_alive }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HeadLimits = HeadLimits { bytes: 4096, count: 20, uri: 256 };

    fn request(text: &str) -> Result<Option<(RequestHead, ParsedRequest)>, Error> {
        let mut head = RequestHead::default();
        let parsed = parse_request(text.as_bytes(), &LIMITS, &mut head)?;
        Ok(parsed.map(|parsed| (head, parsed)))
    }

    #[test]
    fn an_ordinary_head() {
        let text = "POST /v1/x?a=b HTTP/1.1\r\nHost: h:1\r\nContent-Length: 12\r\n\r\nbody";
        let (head, parsed) = request(text).expect("valid").expect("whole");
        assert_eq!((head.method, head.path.as_str()), (Method::Post, "/v1/x?a=b"));
        assert_eq!((parsed.len, parsed.body), (text.len() - 4, BodyFraming::Length(12)));
        assert!(parsed.keep_alive && !parsed.expects_continue);
        for cut in 0..text.len() - 4 {
            assert!(request(&text[..cut]).expect("valid so far").is_none(), "{cut}");
        }
    }

    #[test]
    fn the_absolute_form_is_taken_for_its_path() {
        let (head, _) = request("GET HTTP://h/v1/models HTTP/1.1\r\nhost: h\r\n\r\n")
            .expect("valid")
            .expect("whole");
        assert_eq!(head.path, "/v1/models");
    }

    #[test]
    fn heads_that_two_parsers_could_read_differently_are_refused() {
        let long = format!("GET /{} HTTP/1.1\r\nhost: h\r\n\r\n", "a".repeat(300));
        for (text, status) in [
            ("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 1, 1\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: +1\r\n\r\n", 400),
            (
                "POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
                400,
            ),
            ("POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: gzip, chunked\r\n\r\n", 400),
            (
                "POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n",
                400,
            ),
            ("POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n", 400),
            ("POST / HTTP/1.0\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nhost: a/?#\r\n\r\n", 400),
            ("GET / HTTP/1.1\nhost: a\n\n", 400),
            ("GET / HTTP/1.1\r\nhost: a\r\nx: 1\n\r\n", 400),
            ("GET / HTTP/1.1\r\nhost : a\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nhost: a\r\n folded\r\n\r\n", 400),
            ("GET /a#b HTTP/1.1\r\nhost: a\r\n\r\n", 400),
            ("GET v1 HTTP/1.1\r\nhost: a\r\n\r\n", 400),
            ("GET / HTTP/2.0\r\nhost: a\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nhost: a\r\nexpect: magic\r\n\r\n", 417),
            (long.as_str(), 414),
        ] {
            assert_eq!(request(text).expect_err(text).status(), status, "{text:?}");
        }
    }

    #[test]
    fn heads_are_bounded() {
        let many: String = (0..30).map(|i| format!("x{i}: y\r\n")).collect();
        let text = format!("GET / HTTP/1.1\r\nhost: a\r\n{many}\r\n");
        assert_eq!(request(&text).expect_err("too many").status(), 431);
        let big = format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}", "y".repeat(5000));
        assert_eq!(request(&big).expect_err("too big").status(), 431);
    }

    #[test]
    fn answers_tell_how_their_body_ends() {
        let mut head = ResponseHead::default();
        for (text, body, keep) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", BodyFraming::Length(5), true),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", BodyFraming::Chunked, true),
            ("HTTP/1.1 200 OK\r\n\r\n", BodyFraming::Close, false),
            ("HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\n", BodyFraming::Length(5), false),
            ("HTTP/1.1 204 No\r\n\r\n", BodyFraming::Length(0), true),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
                BodyFraming::Chunked,
                false,
            ),
        ] {
            let parsed =
                parse_response(text.as_bytes(), &LIMITS, &mut head).expect(text).expect(text);
            assert_eq!((parsed.body, parsed.keep_alive), (body, keep), "{text:?}");
        }
        let bad = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n";
        assert!(parse_response(bad, &LIMITS, &mut head).is_err());
        assert!(parse_response(b"garbage\r\n\r\n", &LIMITS, &mut head).is_err());
    }
}
