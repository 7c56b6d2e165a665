//! The access log: one JSON line per request, written by hand into a buffer of the worker.
//!
//! A [`Lane`] is shared between one worker and the writer thread only, and the writer takes the whole
//! buffer in one exchange, so a worker practically never waits for the lock. What a line holds is fixed
//! here: names, times and counts. Secrets, prompts and answers have no field.

use std::io::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::Thread;

use super::json;
use crate::clock;
use crate::error::Kind;
use crate::ident::RequestId;
use crate::money::PICO;

/// How many bytes may wait in a lane; further lines are dropped and counted until the writer has caught up.
pub const MAX_LANE_BYTES: usize = 1 << 20;

/// When so much waits in a lane the writer stops gathering: at 100,000 lines a second a lane would
/// otherwise be full before the gathering ends.
pub(super) const HURRY_BYTES: usize = 128 << 10;

/// Where the lines go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Destination {
    /// Standard output.
    Stdout,
    /// Standard error, beside the process log.
    Stderr,
    /// Nowhere.
    Off,
    /// Appended to a file, which is made if need be and opened anew when it was rotated away.
    File(PathBuf),
}

impl Destination {
    /// Reads the configuration's value: `stdout`, `stderr`, `off`, else a path.
    pub fn parse(text: &str) -> Self {
        match text {
            "stdout" => Destination::Stdout,
            "stderr" => Destination::Stderr,
            "off" => Destination::Off,
            path => Destination::File(path.into()),
        }
    }
}

/// What is said of one request. Empty texts and absent values are left out of the line.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    /// When the request came.
    pub time_unix_ms: u64,
    /// The `x-request-id` of the answer.
    pub id: RequestId,
    /// Who called: the socket's peer, or what a trusted proxy said.
    pub client: IpAddr,
    /// How: `h1`, `h2`, `h3`.
    pub protocol: &'a str,
    /// The name of the key, never its secret.
    pub key: &'a str,
    /// The project of the key.
    pub project: &'a str,
    /// The account of the key.
    pub account: &'a str,
    /// What was called: `chat`, `embeddings`, …
    pub endpoint: &'a str,
    /// The model that was asked for.
    pub model: &'a str,
    /// The target that served.
    pub target: &'a str,
    /// What the caller saw.
    pub status: u16,
    /// What went wrong.
    pub error: Option<Kind>,
    /// Whether a stream was asked for.
    pub stream: bool,
    /// From the request to the first content.
    pub ttft_us: Option<u64>,
    /// From the request to the end of the answer.
    pub total_us: u64,
    /// Our own time before the first upstream byte was sent.
    pub overhead_us: Option<u64>,
    /// How many upstreams were asked.
    pub attempts: u32,
    /// Input tokens of all kinds.
    pub tokens_in: u64,
    /// Output tokens of all kinds.
    pub tokens_out: u64,
    /// What the account is charged, in 10^-12 of its currency.
    pub charge_pico: u128,
    /// The account's currency, where anything is charged.
    pub currency: &'a str,
    /// Bytes of the request's body.
    pub bytes_in: u64,
    /// Bytes of the answer's body.
    pub bytes_out: u64,
    /// The upstream's own id of the request.
    pub upstream_request_id: Option<&'a str>,
}

impl Line<'_> {
    /// Appends the line with its line feed. The time comes first, so that sorted files stay sorted.
    pub fn append(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"time\":\"");
        out.extend_from_slice(&clock::rfc3339(self.time_unix_ms));
        out.extend_from_slice(b"\",\"id\":\"");
        out.extend_from_slice(&self.id.text());
        out.extend_from_slice(b"\",\"client\":\"");
        append_address(out, self.client);
        out.push(b'"');
        text(out, ",\"protocol\":", self.protocol);
        text(out, ",\"key\":", self.key);
        text(out, ",\"project\":", self.project);
        text(out, ",\"account\":", self.account);
        text(out, ",\"endpoint\":", self.endpoint);
        text(out, ",\"model\":", self.model);
        text(out, ",\"target\":", self.target);
        count(out, ",\"status\":", self.status.into());
        text(out, ",\"error\":", self.error.map_or("", Kind::name));
        let stream: &[u8] = if self.stream { b",\"stream\":true" } else { b",\"stream\":false" };
        out.extend_from_slice(stream);
        if let Some(ttft_us) = self.ttft_us {
            count(out, ",\"ttft_us\":", ttft_us);
        }
        count(out, ",\"total_us\":", self.total_us);
        if let Some(overhead_us) = self.overhead_us {
            count(out, ",\"overhead_us\":", overhead_us);
        }
        count(out, ",\"attempts\":", self.attempts.into());
        count(out, ",\"tokens_in\":", self.tokens_in);
        count(out, ",\"tokens_out\":", self.tokens_out);
        if self.charge_pico > 0 {
            out.extend_from_slice(b",\"charge\":\"");
            append_amount(out, self.charge_pico);
            out.push(b'"');
            text(out, ",\"currency\":", self.currency);
        }
        count(out, ",\"bytes_in\":", self.bytes_in);
        count(out, ",\"bytes_out\":", self.bytes_out);
        text(out, ",\"upstream_request_id\":", self.upstream_request_id.unwrap_or(""));
        out.extend_from_slice(b"}\n");
    }
}

fn text(out: &mut Vec<u8>, name: &str, value: &str) {
    if !value.is_empty() {
        out.extend_from_slice(name.as_bytes());
        json::string(out, value);
    }
}

fn count(out: &mut Vec<u8>, name: &str, value: u64) {
    out.extend_from_slice(name.as_bytes());
    json::number(out, value);
}

/// A decimal without needless zeros, written without an allocation.
fn append_amount(out: &mut Vec<u8>, pico: u128) {
    let (whole, mut rest) = (pico / PICO, (pico % PICO) as u64);
    json::number(out, u64::try_from(whole).unwrap_or(u64::MAX));
    if rest == 0 {
        return;
    }
    out.push(b'.');
    let mut place = (PICO / 10) as u64;
    while rest > 0 {
        out.push(b'0' + (rest / place) as u8);
        rest %= place;
        place /= 10;
    }
}

/// IPv4 by hand, as the formatter's padding support costs more than the digits.
fn append_address(out: &mut Vec<u8>, address: IpAddr) {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            for (at, octet) in v4.octets().into_iter().enumerate() {
                if at > 0 {
                    out.push(b'.');
                }
                json::number(out, octet.into());
            }
        }
        IpAddr::V6(v6) => {
            let _ = write!(out, "{v6}");
        }
    }
}

/// What a worker and the writer thread share.
#[derive(Default)]
pub(super) struct Slot {
    /// Held by the worker while it writes one line, by the writer for an exchange of two vectors.
    buffer: Mutex<Vec<u8>>,
    /// Lines that found the buffer full.
    pub(super) dropped: AtomicU64,
}

impl Slot {
    pub(super) fn buffer(&self) -> MutexGuard<'_, Vec<u8>> {
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A worker's way into the log. Cheap to clone; meant for one worker.
#[derive(Clone)]
pub struct Lane(Option<(Arc<Slot>, Thread)>);

impl Lane {
    pub(super) fn new(slot: Arc<Slot>, writer: Thread) -> Self {
        Lane(Some((slot, writer)))
    }

    /// A lane that leads nowhere.
    pub fn off() -> Self {
        Lane(None)
    }

    /// Takes the line, or drops and counts it if too much is waiting. Never waits for the destination.
    pub fn write(&self, line: &Line<'_>) {
        let Some((slot, writer)) = &self.0 else { return };
        let mut buffer = slot.buffer();
        let waiting_bytes = buffer.len();
        if waiting_bytes >= MAX_LANE_BYTES {
            slot.dropped.fetch_add(1, Relaxed);
            return;
        }
        line.append(&mut buffer);
        let now_waiting_bytes = buffer.len();
        drop(buffer);
        // Only the first line wakes the writer, which gathers what follows, and the one that makes it a
        // lot. The writer looks at the lanes before it goes to sleep, and a wake-up in between is
        // remembered, so none is missed.
        let is_much = waiting_bytes < HURRY_BYTES && now_waiting_bytes >= HURRY_BYTES;
        if waiting_bytes == 0 || is_much {
            writer.unpark();
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A line with every field filled.
    pub(in crate::telemetry) fn line() -> Line<'static> {
        Line {
            time_unix_ms: 1_767_225_599_999,
            id: RequestId::new(1_767_225_599_999, 7),
            client: "192.0.2.77".parse().expect("address"),
            protocol: "h2",
            key: "chat-backend",
            project: "web",
            account: "acme",
            endpoint: "chat",
            model: "gpt-4o-mini",
            target: "openai/gpt-4o-mini",
            status: 200,
            error: None,
            stream: true,
            ttft_us: Some(312_004),
            total_us: 2_000_123,
            overhead_us: Some(85),
            attempts: 1,
            tokens_in: 1_420,
            tokens_out: 96,
            charge_pico: 2_935_200_000,
            currency: "USD",
            bytes_in: 2_048,
            bytes_out: 40_960,
            upstream_request_id: Some("req_011CS"),
        }
    }

    fn printed(line: &Line<'_>) -> String {
        let mut out = Vec::new();
        line.append(&mut out);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn a_line_holds_every_field() {
        let want = concat!(
            r#"{"time":"2025-12-31T23:59:59.999Z","id":"01KDVDN9ZZ0000000000000007","#,
            r#""client":"192.0.2.77","protocol":"h2","key":"chat-backend","project":"web","#,
            r#""account":"acme","endpoint":"chat","model":"gpt-4o-mini","#,
            r#""target":"openai/gpt-4o-mini","status":200,"stream":true,"ttft_us":312004,"#,
            r#""total_us":2000123,"overhead_us":85,"attempts":1,"tokens_in":1420,"#,
            r#""tokens_out":96,"charge":"0.0029352","currency":"USD","bytes_in":2048,"bytes_out":40960,"#,
            r#""upstream_request_id":"req_011CS"}"#,
            "\n",
        );
        assert_eq!(printed(&line()), want);
    }

    #[test]
    fn what_is_not_there_is_left_out() {
        let printed = printed(&Line {
            client: "2001:db8::1".parse().expect("address"),
            key: "",
            target: "",
            error: Some(Kind::InvalidKey),
            ttft_us: None,
            overhead_us: None,
            upstream_request_id: None,
            ..line()
        });
        let value: serde_json::Value = serde_json::from_str(&printed).expect("JSON");
        assert_eq!(value["client"], "2001:db8::1");
        assert_eq!(value["error"], "invalid_key");
        for absent in ["key", "target", "ttft_us", "overhead_us", "upstream_request_id"] {
            assert!(value.get(absent).is_none(), "{absent}");
        }
    }

    #[test]
    fn case_57_no_field_can_forge_a_line_or_another_field() {
        let evil = "x\r\n{\"forged\":1}\0\",\"status\":999,\"y\":\"";
        let printed = printed(&Line {
            key: evil,
            project: evil,
            account: evil,
            endpoint: evil,
            model: evil,
            target: evil,
            protocol: evil,
            upstream_request_id: Some(evil),
            ..line()
        });
        assert_eq!(printed.lines().count(), 1);
        assert!(printed.bytes().all(|byte| byte >= b' ' || byte == b'\n'));
        let value: serde_json::Value = serde_json::from_str(&printed).expect("JSON");
        assert_eq!(value["status"], 200);
        assert!(value.get("forged").is_none() && value.get("y").is_none());
        assert_eq!(value["model"], evil);
    }

    #[test]
    fn ipv4_callers_of_a_dual_stack_listener_look_like_ipv4() {
        let client = "::ffff:10.0.255.1".parse().expect("address");
        assert!(printed(&Line { client, ..line() }).contains(r#""client":"10.0.255.1""#));
    }

    #[test]
    fn destinations_are_read() {
        assert_eq!(Destination::parse("stdout"), Destination::Stdout);
        assert_eq!(Destination::parse("stderr"), Destination::Stderr);
        assert_eq!(Destination::parse("off"), Destination::Off);
        assert_eq!(Destination::parse("log/a"), Destination::File("log/a".into()));
    }

    #[test]
    fn a_full_lane_drops_and_counts() {
        let slot = Arc::new(Slot::default());
        let lane = Lane::new(Arc::clone(&slot), std::thread::current());
        let line_bytes = printed(&line()).len();
        for _ in 0..MAX_LANE_BYTES / line_bytes + 11 {
            lane.write(&line());
        }
        assert!(slot.buffer().len() < MAX_LANE_BYTES + line_bytes);
        assert_eq!(slot.dropped.load(Relaxed), 10);
        slot.buffer().clear();
        lane.write(&line());
        assert_eq!(slot.buffer().len(), line_bytes);
        Lane::off().write(&line());
    }

    #[test]
    fn the_writer_is_woken_by_the_first_line_and_when_there_is_much() {
        let (tell, told) = std::sync::mpsc::channel();
        let waiter = std::thread::spawn(move || {
            while tell.send(()).is_ok() {
                std::thread::park();
            }
        });
        let woken = || told.recv_timeout(std::time::Duration::from_secs(60)).expect("woken");
        let slot = Arc::new(Slot::default());
        let lane = Lane::new(Arc::clone(&slot), waiter.thread().clone());
        woken();
        lane.write(&line());
        woken();
        while slot.buffer().len() < HURRY_BYTES {
            lane.write(&line());
        }
        woken();
        drop(told);
        waiter.thread().unpark();
        waiter.join().expect("thread");
    }
}
