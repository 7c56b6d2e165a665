//! A header list in one buffer: names and values lie one after the other, so that a list is filled
//! and emptied for every request of a connection without an allocation.

/// The names that the gateway acts on. Everything else is `Other`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Name {
    Accept,
    AcceptEncoding,
    ApiKey,
    Authorization,
    CacheControl,
    Connection,
    ContentDisposition,
    ContentEncoding,
    ContentLanguage,
    ContentLength,
    ContentType,
    Date,
    Expect,
    Host,
    IdempotencyKey,
    OpenaiBeta,
    OpenaiProcessingMs,
    OpenaiVersion,
    RetryAfter,
    RetryAfterMs,
    Traceparent,
    Tracestate,
    TransferEncoding,
    Upgrade,
    UserAgent,
    Via,
    XApiKey,
    XForwardedFor,
    XGoogApiKey,
    XRequestId,
    Other,
}

/// Every known name in lower case, in the order of [`Name`].
const NAMES: [&str; Name::Other as usize] = [
    "accept",
    "accept-encoding",
    "api-key",
    "authorization",
    "cache-control",
    "connection",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-length",
    "content-type",
    "date",
    "expect",
    "host",
    "idempotency-key",
    "openai-beta",
    "openai-processing-ms",
    "openai-version",
    "retry-after",
    "retry-after-ms",
    "traceparent",
    "tracestate",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "via",
    "x-api-key",
    "x-forwarded-for",
    "x-goog-api-key",
    "x-request-id",
];

impl Name {
    /// The name on the wire, in lower case; empty for `Other`.
    pub fn text(self) -> &'static str {
        NAMES.get(self as usize).copied().unwrap_or("")
    }

    /// Finds the known name, whatever the case.
    pub fn of(text: &[u8]) -> Name {
        use Name::*;
        // The length and the first letter leave at most two candidates.
        let Some(&first) = text.first() else { return Other };
        let candidates: &[Name] = match (text.len(), first | 0x20) {
            (3, b'v') => &[Via],
            (4, b'd') => &[Date],
            (4, b'h') => &[Host],
            (6, b'a') => &[Accept],
            (6, b'e') => &[Expect],
            (7, b'a') => &[ApiKey],
            (7, b'u') => &[Upgrade],
            (9, b'x') => &[XApiKey],
            (10, b'c') => &[Connection],
            (10, b'u') => &[UserAgent],
            (10, b't') => &[Tracestate],
            (11, b'o') => &[OpenaiBeta],
            (11, b'r') => &[RetryAfter],
            (11, b't') => &[Traceparent],
            (12, b'c') => &[ContentType],
            (12, b'x') => &[XRequestId],
            (13, b'a') => &[Authorization],
            (13, b'c') => &[CacheControl],
            (14, b'c') => &[ContentLength],
            (14, b'o') => &[OpenaiVersion],
            (14, b'r') => &[RetryAfterMs],
            (14, b'x') => &[XGoogApiKey],
            (15, b'a') => &[AcceptEncoding],
            (15, b'i') => &[IdempotencyKey],
            (15, b'x') => &[XForwardedFor],
            (16, b'c') => &[ContentEncoding, ContentLanguage],
            (17, b't') => &[TransferEncoding],
            (19, b'c') => &[ContentDisposition],
            (20, b'o') => &[OpenaiProcessingMs],
            _ => return Other,
        };
        for &name in candidates {
            if text.eq_ignore_ascii_case(name.text().as_bytes()) {
                return name;
            }
        }
        Other
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    id: Name,
    name_len: u32,
    start: u32,
    value_len: u32,
}

/// A list of header fields, in order.
#[derive(Default, Clone, Debug)]
pub struct Headers {
    raw: Vec<u8>,
    index: Vec<Entry>,
}

impl Headers {
    /// Empties the list, keeping its memory.
    pub fn clear(&mut self) {
        self.raw.clear();
        self.index.clear();
    }

    /// Gives memory back that one large list has left behind.
    pub fn shrink(&mut self, keep_bytes: usize) {
        if self.raw.capacity() > keep_bytes {
            self.raw = Vec::new();
        }
    }

    /// Adds a field as it is. The caller has made sure that it is a valid one.
    pub fn push(&mut self, name: &[u8], value: &[u8]) {
        self.push_as(Name::of(name), name, value);
    }

    /// Adds a field with a known name.
    pub fn put(&mut self, name: Name, value: &[u8]) {
        self.push_as(name, name.text().as_bytes(), value);
    }

    /// Adds a field that is made of bytes from outside: anything that could split a head
    /// (CR, LF, NUL, other control bytes) is left out.
    pub fn put_cleaned(&mut self, name: &str, value: &[u8]) {
        let start = self.raw.len() as u32;
        self.raw.extend_from_slice(name.as_bytes());
        let before = self.raw.len();
        self.raw.extend(value.iter().copied().filter(|&b| b >= 0x20 && b != 0x7f));
        let value_len = (self.raw.len() - before) as u32;
        self.index.push(Entry {
            id: Name::of(name.as_bytes()),
            name_len: name.len() as u32,
            start,
            value_len,
        });
    }

    fn push_as(&mut self, id: Name, name: &[u8], value: &[u8]) {
        let start = self.raw.len() as u32;
        self.raw.extend_from_slice(name);
        self.raw.extend_from_slice(value);
        self.index.push(Entry {
            id,
            name_len: name.len() as u32,
            start,
            value_len: value.len() as u32,
        });
    }

    /// The first field with this name.
    pub fn get(&self, name: Name) -> Option<&[u8]> {
        self.index.iter().find(|e| e.id == name).map(|e| self.value(e))
    }

    /// The first field with this name, if it is ASCII text.
    pub fn text(&self, name: Name) -> Option<&str> {
        std::str::from_utf8(self.get(name)?).ok()
    }

    /// The first field with this name, given in lower case.
    pub fn find(&self, name: &str) -> Option<&[u8]> {
        self.iter().find(|(_, n, _)| n.eq_ignore_ascii_case(name.as_bytes())).map(|(_, _, v)| v)
    }

    /// How many fields have this name.
    pub fn count(&self, name: Name) -> usize {
        self.index.iter().filter(|e| e.id == name).count()
    }

    /// All fields in order: known name, name as received, value.
    pub fn iter(&self) -> impl Iterator<Item = (Name, &[u8], &[u8])> {
        self.index.iter().map(|e| {
            let start = e.start as usize;
            (e.id, &self.raw[start..start + e.name_len as usize], self.value(e))
        })
    }

    /// The number of fields.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there is no field.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    fn value(&self, e: &Entry) -> &[u8] {
        let start = e.start as usize + e.name_len as usize;
        &self.raw[start..start + e.value_len as usize]
    }

    /// Appends the fields as they stand in an HTTP/1.1 head, each with its CRLF.
    pub fn write_h1(&self, out: &mut Vec<u8>) {
        for (_, name, value) in self.iter() {
            out.extend_from_slice(name);
            out.extend_from_slice(b": ");
            out.extend_from_slice(value);
            out.extend_from_slice(b"\r\n");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_name_is_found_in_any_case() {
        for (at, text) in NAMES.iter().enumerate() {
            assert_eq!(Name::of(text.as_bytes()) as usize, at, "{text}");
            assert_eq!(Name::of(text.to_uppercase().as_bytes()) as usize, at, "{text}");
        }
        assert_eq!(Name::of(b"x-other"), Name::Other);
        assert_eq!(Name::of(b""), Name::Other);
    }

    #[test]
    fn values_cannot_split_a_head() {
        let mut headers = Headers::default();
        headers.put_cleaned("x-a", b"1\r\nx-b: 2\0");
        let mut out = Vec::new();
        headers.write_h1(&mut out);
        assert_eq!(out, b"x-a: 1x-b: 2\r\n");
    }
}
