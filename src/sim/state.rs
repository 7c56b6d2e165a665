//! What all connections of one simulated provider share: settings, behaviour, counters, the log of
//! received requests, and the guard that notices a caller who leaves.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;
use bytes::Bytes;
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use crate::clock::{self, Now};
use crate::sim::behaviour::Behaviour;
use crate::sim::books::{Account, Books};
use crate::sim::json::{base64, hex};
use crate::sim::plan::Usage;
use crate::sim::settings::Settings;
use crate::sim::text::mix;

const CANCELS_MAX: usize = 100;
const LOG_MAX: usize = 1000;
const LOG_BYTES_MAX: usize = 256 << 20;

/// The endpoints, for counting.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Endpoint {
    Chat,
    Completions,
    Embeddings,
    Responses,
    Moderations,
    Images,
    Speech,
    Rerank,
    Models,
    Unknown,
}

const ENDPOINT_NAMES: [&str; 10] = [
    "chat",
    "completions",
    "embeddings",
    "responses",
    "moderations",
    "images",
    "speech",
    "rerank",
    "models",
    "unknown",
];

/// Counters since the start or the last reset.
#[derive(Clone, Debug, Default, Serialize, PartialEq)]
pub struct Stats {
    /// The provider's name.
    pub name: String,
    /// Connections accepted.
    pub connections: u64,
    /// Connections open now.
    pub open_connections: u64,
    /// Requests received (without `/sim/…`).
    pub requests: u64,
    /// Requests that did not pass validation.
    pub invalid: u64,
    /// Requests with a missing or wrong key.
    pub auth_failures: u64,
    /// Requests without a whole answer yet.
    pub in_flight: u64,
    /// Streamed answers that have begun and not ended.
    pub streams_open: u64,
    /// Answers given to the end, errors included.
    pub completed: u64,
    /// Answers broken off on purpose.
    pub broken: u64,
    /// Requests whose caller left before the end of the answer.
    pub cancelled: u64,
    /// When the last caller left; 0 if none did.
    pub last_cancel_unix_ms: u64,
    /// The last cancels, oldest first; at most 100.
    pub cancels: Vec<Cancel>,
    /// Requests by endpoint.
    pub by_endpoint: std::collections::BTreeMap<&'static str, u64>,
    /// Requests over HTTP/1.x.
    pub h1_requests: u64,
    /// Requests over HTTP/2.
    pub h2_requests: u64,
}

/// A caller left before the end of the answer.
#[derive(Clone, Debug, Serialize, PartialEq)]
pub struct Cancel {
    /// The `x-request-id` of the answer.
    pub id: String,
    /// The model asked for, if the request got that far.
    pub model: String,
    /// When it was noticed.
    pub time_unix_us: u64,
    /// Output tokens handed to the connection by then.
    pub tokens_sent: u64,
}

/// A request as it came in.
#[derive(Clone, Debug)]
pub struct Received {
    /// The `x-request-id` of the answer.
    pub id: String,
    /// The method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// `HTTP/1.0`, `HTTP/1.1` or `HTTP/2.0`.
    pub protocol: &'static str,
    /// Whether it came over TLS.
    pub tls: bool,
    /// Names in lower case; several values of one name in their order.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
    /// When the body was complete.
    pub time_unix_us: u64,
    /// Number of the connection, from 1.
    pub connection: u64,
}

impl Serialize for Received {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let mut out = serializer.serialize_struct("Received", 10)?;
        out.serialize_field("id", &self.id)?;
        out.serialize_field("method", &self.method)?;
        out.serialize_field("path", &self.path)?;
        out.serialize_field("protocol", self.protocol)?;
        out.serialize_field("tls", &self.tls)?;
        out.serialize_field("headers", &self.headers)?;
        out.serialize_field("body_base64", &base64(&self.body))?;
        out.serialize_field("body_sha256", &hex(&Sha256::digest(&self.body)))?;
        out.serialize_field("time_unix_us", &self.time_unix_us)?;
        out.serialize_field("connection", &self.connection)?;
        out.end()
    }
}

/// Shared by all connections.
pub(super) struct Shared {
    pub(super) settings: Settings,
    pub(super) counters: Counters,
    /// A new value asks all connections to end gracefully.
    pub(super) goaway: watch::Sender<u64>,
    behaviour: ArcSwap<Behaviour>,
    /// Held for a push or a copy, never across an await.
    kept: Mutex<Kept>,
    /// Held for one entry or a copy, never across an await.
    books: Mutex<Books>,
    sequence: AtomicU64,
    connection_sequence: AtomicU64,
    start: Now,
}

/// All relaxed: they are counts, and no other memory is read on the strength of one.
#[derive(Default)]
pub(super) struct Counters {
    pub(super) connections: AtomicU64,
    pub(super) open_connections: AtomicU64,
    pub(super) requests: AtomicU64,
    pub(super) invalid: AtomicU64,
    pub(super) auth_failures: AtomicU64,
    in_flight: AtomicU64,
    streams_open: AtomicU64,
    completed: AtomicU64,
    broken: AtomicU64,
    cancelled: AtomicU64,
    pub(super) h1_requests: AtomicU64,
    pub(super) h2_requests: AtomicU64,
    by_endpoint: [AtomicU64; ENDPOINT_NAMES.len()],
}

#[derive(Default)]
struct Kept {
    cancels: VecDeque<Cancel>,
    log: VecDeque<Received>,
    log_bytes: usize,
}

/// Adds one.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Shared {
    pub(super) fn new(settings: Settings) -> Self {
        Shared {
            settings,
            counters: Counters::default(),
            goaway: watch::Sender::new(0),
            behaviour: ArcSwap::default(),
            kept: Mutex::default(),
            books: Mutex::default(),
            sequence: AtomicU64::new(0),
            connection_sequence: AtomicU64::new(1),
            start: clock::now(),
        }
    }

    /// The current behaviour.
    pub(super) fn behaviour(&self) -> arc_swap::Guard<Arc<Behaviour>> {
        self.behaviour.load()
    }

    /// Replaces the behaviour for all that follows.
    pub(super) fn set_behaviour(&self, behaviour: Behaviour) {
        self.behaviour.store(Arc::new(behaviour));
    }

    /// A number for each request, from 0.
    pub(super) fn next_sequence(&self) -> u64 {
        self.sequence.fetch_add(1, Ordering::Relaxed)
    }

    /// A number for each connection, from 1; a reset does not start it anew.
    pub(super) fn next_connection(&self) -> u64 {
        self.connection_sequence.fetch_add(1, Ordering::Relaxed)
    }

    /// 32 hex digits for the request `sequence`: unique, and the same in every run of this seed.
    pub(super) fn unique(&self, sequence: u64) -> String {
        format!("{:016x}{sequence:016x}", mix(self.settings.seed ^ mix(sequence)))
    }

    /// Requests without a whole answer yet.
    pub(super) fn in_flight(&self) -> u64 {
        self.counters.in_flight.load(Ordering::Relaxed)
    }

    /// Counts a request of an endpoint.
    pub(super) fn count_endpoint(&self, endpoint: Endpoint) {
        count(&self.counters.by_endpoint[endpoint as usize]);
    }

    /// Wall-clock microseconds since 1970 (UTC).
    pub(super) fn unix_us(&self, at: Instant) -> u64 {
        self.start.unix_ms * 1000 + clock::us_between(self.start.instant, at)
    }

    /// Keeps a request for `GET /sim/requests`.
    pub(super) fn keep(&self, received: Received) {
        let count_max = self.settings.log_requests.min(LOG_MAX);
        if count_max == 0 {
            return;
        }
        let mut kept = self.kept();
        kept.log_bytes += received.body.len();
        kept.log.push_back(received);
        while kept.log.len() > count_max || kept.log_bytes > LOG_BYTES_MAX && kept.log.len() > 1 {
            let gone = kept.log.pop_front().map_or(0, |oldest| oldest.body.len());
            kept.log_bytes -= gone;
        }
    }

    /// The last `last` requests, oldest first.
    pub(super) fn received(&self, last: usize) -> Vec<Received> {
        let kept = self.kept();
        kept.log.iter().skip(kept.log.len().saturating_sub(last)).cloned().collect()
    }

    pub(super) fn stats(&self) -> Stats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.counters;
        let cancels: Vec<_> = self.kept().cancels.iter().cloned().collect();
        Stats {
            name: self.settings.name.clone(),
            connections: read(&counters.connections),
            open_connections: read(&counters.open_connections),
            requests: read(&counters.requests),
            invalid: read(&counters.invalid),
            auth_failures: read(&counters.auth_failures),
            in_flight: read(&counters.in_flight),
            streams_open: read(&counters.streams_open),
            completed: read(&counters.completed),
            broken: read(&counters.broken),
            cancelled: read(&counters.cancelled),
            last_cancel_unix_ms: cancels.last().map_or(0, |cancel| cancel.time_unix_us / 1000),
            cancels,
            by_endpoint: ENDPOINT_NAMES
                .iter()
                .zip(&counters.by_endpoint)
                .map(|(name, counter)| (*name, read(counter)))
                .filter(|(_, requests)| *requests > 0)
                .collect(),
            h1_requests: read(&counters.h1_requests),
            h2_requests: read(&counters.h2_requests),
        }
    }

    /// Counters (not the gauges of what is open), log and behaviour as at the start.
    pub(super) fn reset(&self) {
        let counters = &self.counters;
        for counter in [
            &counters.connections,
            &counters.requests,
            &counters.invalid,
            &counters.auth_failures,
            &counters.completed,
            &counters.broken,
            &counters.cancelled,
            &counters.h1_requests,
            &counters.h2_requests,
        ]
        .into_iter()
        .chain(&counters.by_endpoint)
        {
            counter.store(0, Ordering::Relaxed);
        }
        *self.kept() = Kept::default();
        *self.books() = Books::default();
        self.set_behaviour(Behaviour::default());
    }

    pub(super) fn books(&self) -> MutexGuard<'_, Books> {
        // Each entry is one sum: a panic in the middle leaves nothing half done worth stopping for.
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // A panic while it was held leaves whole elements behind, which is good enough here.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One request from its head to the last byte of its answer. Dropped before `complete` or `broken`
/// it was the caller who left: hyper drops the service future or the body when the connection or
/// the stream is gone.
pub(super) struct Exchange {
    shared: Arc<Shared>,
    pub(super) id: String,
    pub(super) model: String,
    /// Where the answer is booked, and the usage that it tells.
    booked: Option<(Account, Option<Usage>)>,
    tokens_sent: u64,
    streaming: bool,
    ended: bool,
}

impl Exchange {
    pub(super) fn new(shared: Arc<Shared>, id: String) -> Self {
        count(&shared.counters.in_flight);
        Exchange {
            shared,
            id,
            model: String::new(),
            booked: None,
            tokens_sent: 0,
            streaming: false,
            ended: false,
        }
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The answer is a stream and begins now.
    pub(super) fn begin_stream(&mut self) {
        self.streaming = true;
        count(&self.shared.counters.streams_open);
    }

    /// An answer that tells `usage` begins.
    pub(super) fn book(&mut self, account: Account, usage: Option<Usage>) {
        self.shared.books().begin(&account, usage);
        self.booked = Some((account, usage));
    }

    /// Notes output tokens handed to the connection.
    pub(super) fn sent(&mut self, tokens: u32) {
        self.tokens_sent += u64::from(tokens);
    }

    /// The whole answer has been handed to the connection.
    pub(super) fn complete(&mut self) {
        if !std::mem::replace(&mut self.ended, true) {
            count(&self.shared.counters.completed);
            if let Some((account, usage)) = &self.booked {
                self.shared.books().complete(account, *usage);
            }
            self.release();
        }
    }

    /// The answer is broken off on purpose.
    pub(super) fn broken(&mut self) {
        if !std::mem::replace(&mut self.ended, true) {
            count(&self.shared.counters.broken);
            self.release();
        }
    }

    fn release(&self) {
        self.shared.counters.in_flight.fetch_sub(1, Ordering::Relaxed);
        if self.streaming {
            self.shared.counters.streams_open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        if let Some((account, _)) = &self.booked {
            self.shared.books().cut(account, self.tokens_sent);
        }
        let cancel = Cancel {
            id: std::mem::take(&mut self.id),
            model: std::mem::take(&mut self.model),
            time_unix_us: self.shared.unix_us(clock::instant()),
            tokens_sent: self.tokens_sent,
        };
        let mut kept = self.shared.kept();
        if kept.cancels.len() == CANCELS_MAX {
            kept.cancels.pop_front();
        }
        kept.cancels.push_back(cancel);
        drop(kept);
        count(&self.shared.counters.cancelled);
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(shared: &Shared, body_bytes: usize) {
        shared.keep(Received {
            id: String::new(),
            method: "POST".into(),
            path: "/".into(),
            protocol: "HTTP/1.1",
            tls: false,
            headers: vec![("a".into(), "b".into())],
            body: Bytes::from(vec![b'x'; body_bytes]),
            time_unix_us: body_bytes as u64,
            connection: 1,
        });
    }

    #[test]
    fn the_log_is_bounded_by_count_and_bytes() {
        let shared = Shared::new(Settings { log_requests: 3, ..Settings::default() });
        (0..5).for_each(|bytes| received(&shared, bytes));
        let sizes: Vec<_> = shared.received(2).iter().map(|r| r.body.len()).collect();
        assert_eq!((shared.received(100).len(), sizes), (3, vec![3, 4]));
        received(&shared, LOG_BYTES_MAX);
        assert_eq!(shared.received(100).len(), 1);
        let off = Shared::new(Settings { log_requests: 0, ..Settings::default() });
        received(&off, 1);
        assert!(off.received(100).is_empty());
    }

    #[test]
    fn received_requests_serialize_with_body_and_digest() {
        let shared = Shared::new(Settings::default());
        received(&shared, 3);
        let json = serde_json::to_value(&shared.received(1)[0]).expect("serializes");
        assert_eq!(json["body_base64"], "eHh4");
        let digest = "cd2eb0837c9b4c962c22d2ff8b5441b7b45805887f051d39bf133b583baf6860";
        assert_eq!(json["body_sha256"], digest);
        assert_eq!(json["headers"][0][1], "b");
    }

    #[test]
    fn an_exchange_ends_once_and_a_dropped_one_is_a_cancel() {
        let shared = Arc::new(Shared::new(Settings::default()));
        let mut done = Exchange::new(shared.clone(), "1".into());
        done.begin_stream();
        done.complete();
        done.broken();
        drop(done);
        let mut left = Exchange::new(shared.clone(), "2".into());
        left.model = "m".into();
        left.sent(7);
        assert_eq!(shared.stats().in_flight, 1);
        drop(left);
        (0..CANCELS_MAX).for_each(|_| drop(Exchange::new(shared.clone(), "x".into())));
        let stats = shared.stats();
        assert_eq!((stats.completed, stats.broken, stats.cancelled), (1, 0, 101));
        assert_eq!((stats.in_flight, stats.streams_open, stats.cancels.len()), (0, 0, 100));
        shared.reset();
        assert_eq!(shared.stats(), Stats { name: "sim".into(), ..Stats::default() });
    }
}
