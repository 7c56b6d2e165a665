//! An HTTP/2 upstream that is played frame by frame: the only way to say exactly which streams a
//! GOAWAY leaves out. Heads of requests are not decoded; their bodies are.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};

use crate::support::WAIT;
use crate::support::frames::{
    ACK, DATA, END_HEADERS, END_STREAM, Frame, GOAWAY, HEADERS, PING, SETTINGS, encode,
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A listening socket; its connections come one by one.
pub struct RawH2 {
    pub addr: SocketAddr,
    connections: Receiver<TcpStream>,
}

/// One connection, after the handshake.
pub struct Conn {
    tcp: TcpStream,
    /// Bodies by stream, as far as they have come.
    bodies: BTreeMap<u32, Vec<u8>>,
}

impl RawH2 {
    pub fn start() -> RawH2 {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let addr = listener.local_addr().expect("an address");
        let (sender, connections) = channel();
        std::thread::spawn(move || {
            for tcp in listener.incoming().map_while(Result::ok) {
                if sender.send(tcp).is_err() {
                    return;
                }
            }
        });
        RawH2 { addr, connections }
    }

    /// The next connection, its preface read and our settings sent.
    #[track_caller]
    pub fn accept(&self) -> Conn {
        let tcp = self.connections.recv_timeout(WAIT).expect("a connection from the gateway");
        tcp.set_read_timeout(Some(WAIT)).expect("a timeout");
        tcp.set_nodelay(true).expect("no delay");
        let mut conn = Conn { tcp, bodies: BTreeMap::new() };
        let mut preface = [0; PREFACE.len()];
        conn.tcp.read_exact(&mut preface).expect("the preface");
        assert_eq!(preface, PREFACE);
        conn.send(SETTINGS, 0, 0, &[]);
        conn
    }

    /// How many more connections have come.
    pub fn more(&self) -> usize {
        self.connections.try_iter().count()
    }
}

impl Conn {
    #[track_caller]
    pub fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let frame = encode(kind, flags, stream, payload);
        self.tcp.write_all(&frame).expect("the gateway takes frames");
    }

    /// The next frame; `None` at the end of the connection. Settings and pings are acknowledged.
    pub fn frame(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.tcp.read_exact(&mut head).ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let mut payload = vec![0; length];
        self.tcp.read_exact(&mut payload).ok()?;
        let frame = Frame { kind: head[3], flags: head[4], stream, payload };
        if matches!(frame.kind, SETTINGS | PING) && frame.flags & ACK == 0 {
            let echo: &[u8] = if frame.kind == PING { &frame.payload } else { &[] };
            let echo = encode(frame.kind, ACK, 0, echo);
            let _ = self.tcp.write_all(&echo);
        }
        Some(frame)
    }

    /// The next request that is complete: its stream and its body; `None` at the end.
    pub fn request(&mut self) -> Option<(u32, String)> {
        loop {
            let frame = self.frame()?;
            if frame.kind == DATA {
                self.bodies.entry(frame.stream).or_default().extend_from_slice(&frame.payload);
                if frame.flags & END_STREAM != 0 {
                    let body = self.bodies.remove(&frame.stream).unwrap_or_default();
                    return Some((frame.stream, String::from_utf8_lossy(&body).into_owned()));
                }
            }
        }
    }

    /// A whole answer of status 200 in JSON.
    #[track_caller]
    pub fn answer(&mut self, stream: u32, body: &str) {
        // `:status 200` and `content-type` have numbers in HPACK's static table (8 and 31).
        let kind = b"application/json";
        let mut block = vec![0x88, 0x0f, 0x10, kind.len() as u8];
        block.extend_from_slice(kind);
        self.send(HEADERS, END_HEADERS, stream, &block);
        self.send(DATA, END_STREAM, stream, body.as_bytes());
    }

    /// Nothing above `last` was looked at.
    #[track_caller]
    pub fn goaway(&mut self, last: u32) {
        let mut payload = last.to_be_bytes().to_vec();
        payload.extend_from_slice(&[0; 4]);
        self.send(GOAWAY, 0, 0, &payload);
    }
}
