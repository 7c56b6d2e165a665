//! HTTP/2 frame by frame, for callers who do not keep to the rules.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::WAIT;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// The `SETTINGS_INITIAL_WINDOW_SIZE` parameter.
pub const INITIAL_WINDOW_SIZE: u16 = 4;

/// A frame.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    /// The error code of a GOAWAY or RST_STREAM.
    #[track_caller]
    pub fn error_code(&self) -> u32 {
        let at = match self.kind {
            GOAWAY => 4,
            RST_STREAM => 0,
            kind => panic!("frame type {kind} has no error code"),
        };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().expect("four bytes"))
    }
}

/// One connection in clear.
pub struct Frames {
    tcp: TcpStream,
    buf: Vec<u8>,
}

impl Frames {
    /// Connects and sends preface and settings.
    #[track_caller]
    pub fn connect(addr: SocketAddr, settings: &[(u16, u32)]) -> Frames {
        let tcp = TcpStream::connect_timeout(&addr, WAIT).expect("the gateway listens");
        tcp.set_read_timeout(Some(WAIT)).expect("a timeout");
        tcp.set_write_timeout(Some(WAIT)).expect("a timeout");
        tcp.set_nodelay(true).expect("no delay");
        let mut frames = Frames { tcp, buf: Vec::new() };
        let payload: Vec<u8> = settings
            .iter()
            .flat_map(|(id, value)| {
                let mut bytes = id.to_be_bytes().to_vec();
                bytes.extend(value.to_be_bytes());
                bytes
            })
            .collect();
        let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        hello.extend(encode(SETTINGS, 0, 0, &payload));
        frames.send_bytes(&hello).expect("the gateway takes the preface");
        frames
    }

    pub fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// The other side has closed.
    pub fn send_bytes(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.tcp.write_all(bytes)
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// The other side has closed.
    pub fn send(
        &mut self,
        kind: u8,
        flags: u8,
        stream: u32,
        payload: &[u8],
    ) -> std::io::Result<()> {
        self.tcp.write_all(&encode(kind, flags, stream, payload))
    }

    /// The next frame; `None` at the end of the connection. Settings and pings are acknowledged on
    /// the way and passed on too.
    #[track_caller]
    pub fn read(&mut self) -> Option<Frame> {
        loop {
            if self.buf.len() >= 9 {
                let length =
                    u32::from_be_bytes([0, self.buf[0], self.buf[1], self.buf[2]]) as usize;
                if self.buf.len() >= 9 + length {
                    let head: Vec<u8> = self.buf.drain(..9).collect();
                    let payload: Vec<u8> = self.buf.drain(..length).collect();
                    let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
                    let frame = Frame { kind: head[3], flags: head[4], stream, payload };
                    if matches!(frame.kind, SETTINGS | PING) && frame.flags & ACK == 0 {
                        let echo: &[u8] = if frame.kind == PING { &frame.payload } else { &[] };
                        let _ = self.send(frame.kind, ACK, 0, echo);
                    }
                    return Some(frame);
                }
            }
            let mut bytes = [0; 16 * 1024];
            match self.tcp.read(&mut bytes) {
                Ok(0) => return None,
                Ok(read) => self.buf.extend_from_slice(&bytes[..read]),
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    panic!("no frame came within {WAIT:?}")
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
    }

    /// Reads on to the first frame that `wanted` takes; `None` at the end of the connection.
    #[track_caller]
    pub fn find(&mut self, mut wanted: impl FnMut(&Frame) -> bool) -> Option<Frame> {
        loop {
            let frame = self.read()?;
            if wanted(&frame) {
                return Some(frame);
            }
        }
    }

    /// Reads to the end of the connection; the last GOAWAY, if there was one.
    #[track_caller]
    pub fn last_goaway(&mut self) -> Option<Frame> {
        let mut last = None;
        while let Some(frame) = self.read() {
            if frame.kind == GOAWAY {
                last = Some(frame);
            }
        }
        last
    }
}

/// The bytes of a frame.
pub fn encode(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

/// A header block of literals that are never indexed (RFC 7541, 6.2.2).
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        put_string(name, &mut out);
        put_string(value, &mut out);
    }
    out
}

/// An integer with a prefix of `bits` bits; `first` holds the bits before it.
pub fn put_int(value: usize, bits: u8, first: u8, out: &mut Vec<u8>) {
    let max = (1usize << bits) - 1;
    if value < max {
        return out.push(first | value as u8);
    }
    out.push(first | max as u8);
    let mut rest = value - max;
    while rest >= 128 {
        out.push((rest % 128) as u8 | 128);
        rest /= 128;
    }
    out.push(rest as u8);
}

/// A string without Huffman coding.
pub fn put_string(text: &str, out: &mut Vec<u8>) {
    put_int(text.len(), 7, 0, out);
    out.extend(text.as_bytes());
}
