//! The record of one request: what is learned along the path, and what is made of it at the end,
//! exactly once and whatever ends the request.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use crate::auth::{Grant, Held};
use crate::clock::{self, Now};
use crate::dialect::{Endpoint, StreamKind, Units};
use crate::error::{Error, Kind};
use crate::ident::RequestId;
use crate::proxy::answer::{Answer, Reader};
use crate::proxy::attempt::{Pick, Winner};
use crate::proxy::plan::Plan;
use crate::proxy::snapshot::Snapshot;
use crate::proxy::worker::Worker;
use crate::telemetry::{self, Inflight, Line, Series, TokenKind};
use crate::wire::Version;

/// How an answer that flowed has ended.
pub(super) enum Outcome<'a> {
    Whole,
    Fault(&'a Error),
}

/// What is known of a request so far.
pub(super) struct Record<'w> {
    worker: &'w Worker,
    id: RequestId,
    now: Now,
    client: IpAddr,
    version: Version,
    held: Option<Rc<Held>>,
    endpoint: Option<Endpoint>,
    model: Arc<str>,
    stream: bool,
    body_bytes: u64,
    bytes_out: u64,
    sent_at: Option<Instant>,
    ttft_us: Option<u64>,
    attempts: u32,
    status: u16,
    error: Option<Kind>,
    target: Option<Served>,
    upstream_id: Option<Box<str>>,
    units: Units,
    settled: bool,
}

/// Who served, and where it is counted.
struct Served {
    alias: Arc<str>,
    target: Arc<str>,
    series: Arc<Series>,
    _inflight: Inflight,
}

impl<'w> Record<'w> {
    pub(super) fn new(worker: &'w Worker, now: Now, client: IpAddr, version: Version) -> Self {
        Record {
            worker,
            id: worker.request_id(now),
            now,
            client,
            version,
            held: None,
            endpoint: None,
            model: Arc::from(""),
            stream: false,
            body_bytes: 0,
            bytes_out: 0,
            sent_at: None,
            ttft_us: None,
            attempts: 0,
            status: 0,
            error: None,
            target: None,
            upstream_id: None,
            units: Units::default(),
            settled: false,
        }
    }

    pub(super) fn worker(&self) -> &'w Worker {
        self.worker
    }

    pub(super) fn id(&self) -> RequestId {
        self.id
    }

    pub(super) fn client(&self) -> IpAddr {
        self.client
    }

    pub(super) fn started(&self) -> Instant {
        self.now.instant
    }

    pub(super) fn attempts(&self) -> u32 {
        self.attempts
    }

    pub(super) fn has_content(&self) -> bool {
        self.ttft_us.is_some()
    }

    /// What an event stream of the endpoint consists of.
    pub(super) fn stream_kind(&self) -> StreamKind {
        self.endpoint.map_or(StreamKind::Opaque, StreamKind::of)
    }

    /// The alias that was routed by, or the name that was asked.
    pub(super) fn alias(&self) -> &str {
        self.target.as_ref().map_or(&self.model, |served| &served.alias)
    }

    pub(super) fn target_name(&self) -> &str {
        self.target.as_ref().map_or("", |served| &served.target)
    }

    /// Our own time before the first byte went to an upstream.
    pub(super) fn overhead_us(&self) -> u64 {
        self.sent_at.map_or(0, |sent| clock::us_between(self.now.instant, sent))
    }

    pub(super) fn key(&mut self, held: Rc<Held>) {
        self.held = Some(held);
    }

    pub(super) fn endpoint(&mut self, endpoint: Endpoint) {
        self.endpoint = Some(endpoint);
    }

    pub(super) fn body(&mut self, bytes: u64) {
        self.body_bytes = bytes;
    }

    pub(super) fn asked(&mut self, model: &str, stream: bool) {
        self.model = model.into();
        self.stream = stream;
    }

    /// Reserves what the request may cost, and opens its record in the journal.
    ///
    /// # Errors
    /// Limits that are reached, or a journal that is full.
    pub(super) fn admit(
        &mut self,
        plan: &Plan,
        _snapshot: &Snapshot,
        _grant: &Grant,
        _end_user: Option<&str>,
    ) -> Result<(), Error> {
        self.model = plan.model.clone();
        Ok(())
    }

    pub(super) fn first_sent(&mut self, at: Instant) {
        self.sent_at.get_or_insert(at);
    }

    pub(super) fn first_content(&mut self, at: Instant) {
        self.ttft_us.get_or_insert(clock::us_between(self.now.instant, at));
    }

    pub(super) fn attempt_over(&mut self, _pick: Pick, _error: Option<Kind>) {
        self.attempts += 1;
    }

    /// The attempt whose answer flows.
    pub(super) fn winner(&mut self, winner: &Winner, snapshot: &Snapshot) {
        self.attempts += 1;
        let Pick { route, candidate } = winner.pick;
        let counted = &snapshot.series[route][candidate];
        let route = snapshot.table.route(route);
        self.target = Some(Served {
            alias: route.alias.0.clone(),
            target: route.candidates[candidate].target.id.0.clone(),
            series: counted.series.clone(),
            _inflight: counted.series.shard(self.worker.index).enter(),
        });
    }

    pub(super) fn upstream_id(&mut self, id: &[u8]) {
        self.upstream_id = Some(String::from_utf8_lossy(id).into());
    }

    pub(super) fn status(&mut self, status: u16) {
        self.status = status;
    }

    pub(super) fn add_bytes_out(&mut self, bytes: usize) {
        self.bytes_out += bytes as u64;
    }

    /// Books an answer that flowed.
    pub(super) fn settle(&mut self, winner: &Winner, outcome: Outcome<'_>) {
        self.units = self.units_of(&winner.answer);
        if let Outcome::Fault(error) = outcome {
            self.error = Some(error.kind);
        }
    }

    fn units_of(&self, answer: &Answer) -> Units {
        let endpoint = self.endpoint.unwrap_or(Endpoint::ChatCompletions);
        match answer.usage() {
            Some(usage) => usage.units(endpoint),
            None => {
                let mut units = Units { estimated: true, ..Units::default() };
                units.in_text = self.body_bytes.div_ceil(4);
                if let Reader::Stream(reader) = &answer.reader {
                    units.out_text = reader.content_bytes().div_ceil(4);
                }
                units
            }
        }
    }

    /// The request ended with an error of ours.
    pub(super) fn fail(&mut self, error: &Error) {
        self.error = Some(error.kind);
        if self.status == 0 {
            self.status = error.status();
        }
    }

    fn log(&self) {
        let grant = self.held.as_ref().map(|held| held.grant());
        let line = Line {
            time_unix_ms: self.now.unix_ms,
            id: self.id,
            client: self.client,
            protocol: self.version.name(),
            key: grant.map_or("", |grant| &grant.key_name),
            project: grant.map_or("", |grant| grant.project.as_str()),
            account: grant.map_or("", |grant| grant.account.as_str()),
            endpoint: self.endpoint.map_or("", Endpoint::name),
            model: &self.model,
            target: self.target_name(),
            status: self.status,
            error: self.error,
            stream: self.stream,
            ttft_us: self.ttft_us,
            total_us: clock::us_between(self.now.instant, clock::instant()),
            overhead_us: self.sent_at.map(|_| self.overhead_us()),
            attempts: self.attempts,
            tokens_in: self.units.input(),
            tokens_out: self.units.output(),
            bytes_in: self.body_bytes,
            bytes_out: self.bytes_out,
            upstream_request_id: self.upstream_id.as_deref(),
        };
        self.worker.lane.write(&line);
    }

    fn count(&self) {
        let registry = &self.worker.shared.registry;
        let series = self.target.as_ref().map_or(registry.unrouted(), |served| &served.series);
        let units = &self.units;
        series.shard(self.worker.index).record(&telemetry::Record {
            status: self.status,
            ttft_us: self.ttft_us,
            overhead_us: self.sent_at.map(|_| self.overhead_us()),
            tokens: &[(TokenKind::InText, units.in_text), (TokenKind::OutText, units.out_text)],
        });
        if let (None, Some(kind)) = (&self.target, self.error) {
            registry.refuse(self.worker.index, kind);
        }
    }
}

impl Drop for Record<'_> {
    /// Whatever ends a request (an answer, an error, the caller's leaving, a panic), it is counted
    /// and logged once.
    fn drop(&mut self) {
        if self.status == 0 {
            self.status = Kind::ClientGone.row().status;
            self.error.get_or_insert(Kind::ClientGone);
        }
        self.count();
        self.log();
    }
}
