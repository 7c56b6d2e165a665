//! The record of one request: what is learned along the path, and what is made of it at the end,
//! exactly once and whatever ends the request.

use std::net::IpAddr;
use std::rc::Rc;
use std::task::Context;
use std::time::Instant;

use crate::admit::{Alerts, Rates, Refusal, Terms};
use crate::auth::{Grant, Held};
use crate::clock::{self, Now};
use crate::dialect::{Endpoint, StreamKind, Units};
use crate::error::{Error, Kind, Origin};
use crate::ident::{Alias, RequestId, TargetId};
use crate::meter::{
    self, AttemptRecord, Candidate, End, Entry, Mark, ModelEstimate, Opening, Priced, State,
};
use crate::money::Currency;
use crate::proxy::admission::{Admitted, BYTES_PER_TOKEN, Demand, error_of};
use crate::proxy::answer::{Answer, Reader};
use crate::proxy::attempt::{Pick, Winner};
use crate::proxy::ending::Place;
use crate::proxy::plan::Plan;
use crate::proxy::pricing::Bill;
use crate::proxy::snapshot::{CandidateSeries, Snapshot};
use crate::proxy::worker::{Kept, Payer, Worker};
use crate::route::MAX_PICKS;
use crate::telemetry::{self, Inflight, Line, TokenKind};
use crate::wire::Version;

/// How an answer that flowed has ended.
pub(super) enum Outcome<'a> {
    Whole,
    Fault(&'a Error),
}

/// What is known of a request so far.
pub(super) struct Record<'w> {
    worker: &'w Worker,
    snapshot: &'w Snapshot,
    id: RequestId,
    now: Now,
    client: IpAddr,
    version: Version,
    held: Option<Rc<Held>>,
    endpoint: Option<Endpoint>,
    model: Alias,
    stream: bool,
    body_bytes: u64,
    /// Of a text to speak.
    spoken_chars: u64,
    bytes_out: u64,
    sent_at: Option<Instant>,
    ttft_us: Option<u64>,
    attempts: u32,
    status: u16,
    error: Option<Kind>,
    served: Option<Served<'w>>,
    /// The candidate that failed last.
    last_asked: Option<Pick>,
    upstream_id: Option<Box<str>>,
    units: Units,
    entry: Option<Entry>,
    /// It was tried to open the record.
    was_opened: bool,
    /// Under way, and to be ended if the key is.
    place: Option<Place<'w>>,
    admitted: Option<Admitted>,
    /// Text beyond which more must be reserved.
    until_bytes: u64,
    terms: Option<Rc<Kept<Terms>>>,
    /// What is left of the tightest limits, once that is known.
    rates: Rates,
    waited: bool,
    /// The name by which prices are found where a target takes whatever was asked for.
    renamed: Option<Alias>,
    bill: Bill,
    estimate: Option<&'w ModelEstimate>,
}

/// What a record is opened with, beside what is known of the request already.
#[derive(Clone, Copy)]
pub(super) struct OpeningParts<'a> {
    pub plan: &'a Plan,
    pub grant: &'a Grant,
    pub end_user: Option<&'a str>,
    /// The labels of key and request, joined by commas.
    pub tags: &'a str,
}

/// Who served, and where it is counted.
struct Served<'w> {
    pick: Pick,
    alias: &'w Alias,
    target: &'w TargetId,
    counted: &'w CandidateSeries,
    _inflight: Inflight,
}

impl<'w> Record<'w> {
    pub(super) fn new(
        worker: &'w Worker,
        snapshot: &'w Snapshot,
        now: Now,
        client: IpAddr,
        version: Version,
    ) -> Self {
        Record {
            worker,
            snapshot,
            id: worker.request_id(now),
            now,
            client,
            version,
            held: None,
            endpoint: None,
            model: Alias::from(""),
            stream: false,
            body_bytes: 0,
            spoken_chars: 0,
            bytes_out: 0,
            sent_at: None,
            ttft_us: None,
            attempts: 0,
            status: 0,
            error: None,
            served: None,
            last_asked: None,
            upstream_id: None,
            units: Units::default(),
            entry: None,
            was_opened: false,
            place: None,
            admitted: None,
            until_bytes: u64::MAX,
            terms: None,
            rates: Rates::default(),
            waited: false,
            renamed: None,
            bill: Bill::default(),
            estimate: None,
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
        self.served.as_ref().map_or(self.model.as_str(), |served| served.alias.as_str())
    }

    pub(super) fn target_name(&self) -> &str {
        match (&self.served, self.last_asked) {
            (Some(served), _) => served.target.as_str(),
            (None, Some(Pick { route, candidate })) => {
                self.snapshot.table.route(route).candidates[candidate].target.id.as_str()
            }
            (None, None) => "",
        }
    }

    /// Our own time before the first byte went to an upstream.
    pub(super) fn overhead_us(&self) -> u64 {
        self.sent_at.map_or(0, |sent| clock::us_between(self.now.instant, sent))
    }

    pub(super) fn key(&mut self, held: Rc<Held>) {
        self.held = Some(held);
    }

    /// From here on the request ends when its key is blocked at once.
    pub(super) fn under_way(&mut self, place: Place<'w>) {
        self.place = Some(place);
    }

    /// Whether the key was blocked at once.
    pub(super) fn poll_ended(&self, cx: &mut Context<'_>) -> bool {
        self.place.as_ref().is_some_and(|place| place.poll_ended(cx))
    }

    /// What is left of the tightest limits of the key.
    pub(super) fn rates(&self) -> &Rates {
        &self.rates
    }

    pub(super) fn endpoint(&mut self, endpoint: Endpoint) {
        self.endpoint = Some(endpoint);
    }

    pub(super) fn body(&mut self, bytes: u64) {
        self.body_bytes = bytes;
    }

    /// A text is to be spoken: that is billed by the character where the upstream names no usage.
    pub(super) fn spoken(&mut self, chars: u64) {
        self.spoken_chars = chars;
    }

    pub(super) fn asked(&mut self, model: Alias, stream: bool) {
        self.model = model;
        self.stream = stream;
    }

    /// Weighs the request.
    ///
    /// # Errors
    /// `Unpriced` where nobody knows what the model costs, and it is then not to be served.
    pub(super) fn demand(&mut self, plan: &Plan, payer: &Payer) -> Result<Demand, Error> {
        let snapshot = self.snapshot;
        let kept = payer.terms();
        let terms = kept.shared();
        let at = self.now.unix_ms;
        self.renamed.clone_from(&plan.renamed);
        let name = plan.asked_name();
        let estimate = &snapshot.estimates[plan.route];
        let find = || snapshot.ceiling(plan.route, name, terms, at);
        let ceiling = match snapshot.passes_names_on(plan.route) {
            true => find(),
            false => payer.ceiling(at, find),
        };
        if snapshot.is_all_refused(plan, terms, at) {
            let pick = Pick { route: plan.route, candidate: 0 };
            let what = match snapshot.lacks_rate(pick, name, terms, at) {
                Some(from) => format!("no exchange rate from {from} to {}", terms.currency),
                None => "no price here".to_owned(),
            };
            return Err(Error::downstream(
                Kind::Unpriced,
                format!(
                    "the model `{name}` has {what}, and is not served without one; ask the operator to set it"
                ),
            )
            .param("model"));
        }
        self.terms = Some(kept);
        self.estimate = Some(estimate);
        Ok(Demand::of(plan, estimate, snapshot.terms[plan.route].max_output, ceiling))
    }

    /// The request was let in.
    pub(super) fn admitted(&mut self, admitted: Admitted, rates: Rates, waited: bool) {
        self.until_bytes = admitted.until_bytes();
        self.admitted = Some(admitted);
        self.rates = rates;
        self.waited = waited;
    }

    /// The request was not let in. It is recorded all the same, if there is room in the journal.
    pub(super) fn refused(&mut self, refusal: &Refusal, opening: &OpeningParts<'_>) -> Error {
        self.rates = refusal.rates;
        let _ = self.open(opening);
        error_of(refusal, self.snapshot.settings.over_budget_status)
    }

    /// The request ended while it waited for room. It is recorded, too, if there is room for that.
    pub(super) fn left_queue(&mut self, error: Error, opening: &OpeningParts<'_>) -> Error {
        self.waited = true;
        let _ = self.open(opening);
        error
    }

    /// Opens the request's record in the journal, before anything of it is sent.
    ///
    /// # Errors
    /// A journal that is full.
    pub(super) fn open(&mut self, parts: &OpeningParts<'_>) -> Result<(), Error> {
        self.was_opened = true;
        let OpeningParts { plan, grant, end_user, tags } = *parts;
        let snapshot = self.snapshot;
        let route = snapshot.table.route(plan.route);
        let mut candidates = [Candidate::default(); MAX_PICKS];
        for (slot, candidate) in candidates.iter_mut().zip(&route.candidates) {
            let score = candidate.weight as f32;
            *slot = Candidate { target: candidate.target.id.as_str(), score };
        }
        let count = route.candidates.len().min(MAX_PICKS);
        let reserved = self.admitted.as_ref().map(Admitted::reserved).unwrap_or_default();
        let opening = Opening {
            id: self.id,
            key: &grant.key_id,
            account: &grant.account,
            project: &grant.project,
            user: grant.user.as_deref().unwrap_or(""),
            end_user: end_user.unwrap_or(""),
            tags,
            client: self.client,
            endpoint: plan.endpoint.name(),
            model: &plan.model,
            is_stream: plan.stream,
            currency: self.terms.as_ref().map_or(Currency::USD, |terms| terms.shared().currency),
            reserved_tokens: reserved.tokens,
            reserved_cost_pico: reserved.cost_pico,
            candidates: &candidates[..count],
            room: snapshot.room,
        };
        let mut entry = match self.worker.meter.open(&opening, self.now) {
            Ok(entry) => entry,
            // The operator prefers answers to books; the journal counts what is missing.
            Err(_) if snapshot.settings.serves_unrecorded => {
                self.worker.shared.registry.unrecorded();
                return Ok(());
            }
            Err(full) => {
                return Err(Error::new(
                    Kind::Shedding,
                    Origin::Internal,
                    "the gateway cannot keep its books at the moment; ask again shortly",
                )
                .because(full));
            }
        };
        if self.waited {
            entry.waited();
        }
        self.entry = Some(entry);
        Ok(())
    }

    /// The bytes of text that an answer may have before [`Record::extend`] must be asked.
    pub(super) fn reserved_until_bytes(&self) -> u64 {
        self.until_bytes
    }

    /// Reserves more for an answer of so many bytes of text.
    ///
    /// # Errors
    /// A limit without room that says that the answer is then cut.
    pub(super) fn extend(&mut self, bytes: u64) -> Result<(), Error> {
        let Some(admitted) = &mut self.admitted else { return Ok(()) };
        let extended = admitted.extend(bytes, clock::now());
        self.until_bytes = admitted.until_bytes();
        if admitted.overrun
            && let Some(entry) = &mut self.entry
        {
            entry.overrun();
        }
        extended.map_err(|refusal| {
            let mut error = error_of(&refusal, self.snapshot.settings.over_budget_status);
            error.code = Some("quota_exhausted".into());
            error
        })
    }

    pub(super) fn first_sent(&mut self, at: Instant) {
        if self.sent_at.is_none() {
            self.sent_at = Some(at);
            if let Some(entry) = &mut self.entry {
                entry.sent();
                entry.overhead(clock::us_between(self.now.instant, at));
            }
        }
    }

    pub(super) fn first_content(&mut self, at: Instant) {
        self.ttft_us.get_or_insert(clock::us_between(self.now.instant, at));
        if let (Some(entry), true) = (&mut self.entry, self.stream) {
            entry.first_content(at);
        }
    }

    /// An attempt ended without an answer that the caller got.
    pub(super) fn attempt_over(&mut self, pick: Pick, error: Kind) {
        self.attempts += 1;
        self.last_asked = Some(pick);
        let Pick { route, candidate } = pick;
        let target = &self.snapshot.table.route(route).candidates[candidate].target;
        self.snapshot.series[route][candidate].target.attempt(self.worker.index, Some(error));
        if let Some(entry) = &mut self.entry {
            entry.attempt(AttemptRecord {
                target: target.id.clone(),
                error: Some(error),
                units: meter::Units::default(),
                ttft_us: None,
                cost_pico: 0,
                price_version: 0,
            });
        }
    }

    /// The attempt whose answer flows.
    pub(super) fn winner(&mut self, pick: Pick) {
        self.attempts += 1;
        let Pick { route, candidate } = pick;
        let counted = &self.snapshot.series[route][candidate];
        let route = self.snapshot.table.route(route);
        self.served = Some(Served {
            pick,
            alias: &route.alias,
            target: &route.candidates[candidate].target.id,
            counted,
            _inflight: counted.series.shard(self.worker.index).enter(),
        });
    }

    pub(super) fn upstream_id(&mut self, id: &[u8]) {
        let id: Box<str> = String::from_utf8_lossy(id).into();
        if let Some(entry) = &mut self.entry {
            entry.upstream_request_id(&id);
        }
        self.upstream_id = Some(id);
    }

    pub(super) fn status(&mut self, status: u16) {
        self.status = status;
    }

    pub(super) fn add_bytes_out(&mut self, bytes: usize) {
        self.bytes_out += bytes as u64;
    }

    /// Books an answer that flowed, before its last bytes go to the caller. With
    /// `fsync = "always"` they wait for the mark.
    pub(super) fn settle(&mut self, winner: &Winner<'_>, outcome: Outcome<'_>) -> Mark {
        self.units = self.units_of(&winner.answer);
        let error = match outcome {
            Outcome::Whole => None,
            Outcome::Fault(error) => Some(error.kind),
        };
        self.error = error;
        if let Some(served) = &self.served {
            served.counted.target.attempt(self.worker.index, error);
        }
        let units = meter_units(&self.units);
        self.bill = self.bill_of(&winner.answer, &units);
        if let (Some(estimate), false) = (self.estimate, self.units.estimated) {
            estimate.learn_input(self.units.input(), self.body_bytes);
            estimate.learn_output(self.units.output());
        }
        let now = clock::now();
        let (tokens, charge_pico) = (units.tokens(), self.bill.charge_pico);
        let alerts = self.admitted.take().map(|admitted| admitted.settle(tokens, charge_pico, now));
        let mark = match self.entry.take() {
            Some(entry) => {
                let overran = alerts.as_ref().is_some_and(|alerts| alerts.overran);
                self.book(entry, winner, units, error, overran, now)
            }
            None => Mark::default(),
        };
        let unpriced = self.bill.unpriced;
        if unpriced || alerts.as_ref().is_some_and(|alerts| !alerts.passed.is_empty()) {
            self.alert(unpriced, alerts.as_ref());
        }
        mark
    }

    /// Books the end in the journal.
    fn book(
        &self,
        mut entry: Entry,
        winner: &Winner<'_>,
        units: meter::Units,
        error: Option<Kind>,
        overran: bool,
        now: Now,
    ) -> Mark {
        let Bill { cost_pico, charge_pico, price_version, fx_rate_pico, unpriced } = self.bill;
        if let Some(served) = &self.served {
            entry.attempt(AttemptRecord {
                target: served.target.clone(),
                error,
                units,
                ttft_us: self.ttft_us,
                cost_pico,
                price_version,
            });
            if error.is_some() {
                entry.serving(served.target.clone());
            }
        }
        entry.units(units);
        entry.price(Priced {
            cost_pico,
            charge_pico,
            price_version,
            fx_rate_pico,
            is_unpriced: unpriced,
        });
        if let Some(model) = winner.answer.model_served() {
            entry.model_served(model);
        }
        if error == Some(Kind::ClientGone) {
            entry.client_gone();
        }
        if overran {
            entry.overrun();
        }
        let state = if self.units.estimated { State::Estimated } else { State::Settled };
        entry.settle(End { status: self.status, error, state }, now)
    }

    /// The name by which prices are found where a target takes whatever was asked for.
    fn priced_name(&self) -> &str {
        self.renamed.as_ref().unwrap_or(&self.model).as_str()
    }

    /// What the answer costs.
    fn bill_of(&self, answer: &Answer, units: &meter::Units) -> Bill {
        let (Some(served), Some(terms)) = (&self.served, &self.terms) else {
            return Bill::default();
        };
        let (name, tier) = (self.priced_name(), answer.service_tier());
        self.snapshot.bill(served.pick, name, terms.shared(), self.now.unix_ms, units, tier)
    }

    #[cold]
    fn alert(&self, unpriced: bool, alerts: Option<&Alerts>) {
        let grant = self.held.as_ref().map(|held| held.grant());
        let key = grant.map_or("", |grant| grant.key_name.as_ref());
        for alert in alerts.iter().flat_map(|alerts| &alerts.passed) {
            self.worker.tell_passed(alert, key);
        }
        if let (true, Some(served), Some(terms)) = (unpriced, &self.served, &self.terms) {
            let (name, at) = (self.priced_name(), self.now.unix_ms);
            let terms = terms.shared();
            let rate = self.snapshot.lacks_rate(served.pick, name, terms, at);
            let rate = rate.map(|from| (from, terms.currency));
            self.worker.tell_unpriced(self.model.as_str(), key, rate);
        }
    }

    fn units_of(&self, answer: &Answer) -> Units {
        let endpoint = self.endpoint.unwrap_or(Endpoint::ChatCompletions);
        let mut units = match answer.usage() {
            Some(usage) => {
                let mut units = usage.units(endpoint);
                if usage.input.is_none() && usage.total.is_none() && usage.output.is_some() {
                    // Half of a usage: the other half is not nothing.
                    units.in_text = self.body_bytes.div_ceil(BYTES_PER_TOKEN);
                    units.estimated = true;
                }
                units
            }
            None => self.units_without_usage(endpoint, answer),
        };
        units.web_search = units.web_search.max(answer.web_searches());
        units
    }

    /// What is known when the upstream did not say: what is counted in pieces exactly, tokens by the
    /// length of the text.
    fn units_without_usage(&self, endpoint: Endpoint, answer: &Answer) -> Units {
        let mut units = Units::default();
        match (endpoint, &answer.reader) {
            (Endpoint::ImageGenerations, Reader::Unary(reader)) if reader.images() > 0 => {
                units.images_out = reader.images();
            }
            (Endpoint::Speech, _) if self.spoken_chars > 0 => units.chars_in = self.spoken_chars,
            (Endpoint::Moderations, _) => {}
            (_, reader) => {
                units.estimated = true;
                units.in_text = self.body_bytes.div_ceil(BYTES_PER_TOKEN);
                let written = match reader {
                    Reader::Stream(reader) => reader.content_bytes(),
                    Reader::Unary(reader) => reader.content_bytes(),
                    Reader::Opaque => 0,
                };
                units.out_text = written.div_ceil(BYTES_PER_TOKEN);
            }
        }
        units
    }

    /// The request ended with an error of ours.
    pub(super) fn fail(&mut self, error: &Error) {
        self.error = Some(error.kind);
        if self.status == 0 {
            self.status = error.status();
        }
        // Nothing of an answer reached the caller: the reservation goes back. What an upstream may
        // have worked on all the same is unknown when it never said how it went.
        let vague = matches!(
            error.kind,
            Kind::TimeoutHeaders
                | Kind::Connect
                | Kind::Truncated
                | Kind::ClientGone
                | Kind::KeyDisabled
        );
        let is_known = self.sent_at.is_none() || !vague || error.unprocessed;
        if !self.was_opened {
            self.open_refused();
        }
        self.end_without_answer(error.kind, is_known);
    }

    /// Opens the record of a request that was refused before its limits were asked: whoever looks for
    /// the use of a blocked key must find it. So many a second and no more, because such a caller is
    /// held by no limit.
    fn open_refused(&mut self) {
        let (Some(held), Some(endpoint)) = (self.held.clone(), self.endpoint) else { return };
        if !self.worker.may_record_refusal(self.now.instant) {
            return;
        }
        let grant = held.grant();
        let opening = Opening {
            id: self.id,
            key: &grant.key_id,
            account: &grant.account,
            project: &grant.project,
            user: grant.user.as_deref().unwrap_or(""),
            end_user: "",
            tags: "",
            client: self.client,
            endpoint: endpoint.name(),
            model: &self.model.clone(),
            is_stream: self.stream,
            currency: self.worker.account(grant).shared().terms().currency,
            reserved_tokens: 0,
            reserved_cost_pico: 0,
            candidates: &[],
            room: self.snapshot.room,
        };
        self.entry = self.worker.meter.open(&opening, self.now).ok();
    }

    /// Books a request of which the caller got nothing. What was reserved comes back, unless it is
    /// not known what an upstream has used: then it counts until somebody finds out.
    fn end_without_answer(&mut self, kind: Kind, is_known: bool) {
        let now = clock::now();
        if let Some(entry) = self.entry.take() {
            let state = if is_known { State::Settled } else { State::Unsettled };
            let _ = entry.settle(End { status: self.status, error: Some(kind), state }, now);
        }
        if let Some(admitted) = self.admitted.take().filter(|_| !is_known) {
            admitted.forfeit(now);
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
            model: self.model.as_str(),
            target: self.target_name(),
            status: self.status,
            error: self.error,
            stream: self.stream,
            ttft_us: self.ttft_us.filter(|_| self.stream),
            total_us: clock::us_between(self.now.instant, clock::instant()),
            overhead_us: self.sent_at.map(|_| self.overhead_us()),
            attempts: self.attempts,
            tokens_in: self.units.input(),
            tokens_out: self.units.output(),
            charge_pico: self.bill.charge_pico,
            currency: self.terms.as_ref().map_or("", |terms| terms.shared().currency.as_str()),
            bytes_in: self.body_bytes,
            bytes_out: self.bytes_out,
            upstream_request_id: self.upstream_id.as_deref(),
        };
        self.worker.lane.write(&line);
    }

    fn count(&self) {
        let registry = &self.worker.shared.registry;
        let asked = self.last_asked.map(|p| &self.snapshot.series[p.route][p.candidate]);
        let counted = self.served.as_ref().map(|served| served.counted).or(asked);
        let series = counted.map_or(registry.unrouted(), |counted| &counted.series);
        let units = &self.units;
        let cache_write =
            [units.in_cache_write_5m, units.in_cache_write_1h, units.in_cache_write_other];
        let cache_write = cache_write.into_iter().fold(0, u64::saturating_add);
        series.shard(self.worker.index).record(&telemetry::Record {
            status: self.status,
            ttft_us: self.ttft_us.filter(|_| self.stream),
            overhead_us: self.sent_at.map(|_| self.overhead_us()),
            tokens: &[
                (TokenKind::InText, units.in_text),
                (TokenKind::InAudio, units.in_audio),
                (TokenKind::InImage, units.in_image),
                (TokenKind::InCacheRead, units.in_cache_read + units.in_cache_read_audio),
                (TokenKind::InTool, units.in_tool),
                (TokenKind::InCacheWrite, cache_write),
                (TokenKind::OutText, units.out_text),
                (TokenKind::OutReasoning, units.out_reasoning),
                (TokenKind::OutAudio, units.out_audio),
                (TokenKind::OutImage, units.out_image),
            ],
        });
        if let (None, Some(kind)) = (counted, self.error) {
            registry.refuse(self.worker.index, kind);
        }
    }
}

impl Drop for Record<'_> {
    /// Whatever ends a request (an answer, an error, the caller's leaving, a panic), it is counted
    /// and logged once.
    fn drop(&mut self) {
        if self.status == 0 {
            // Callers who leave are booked where that is noticed: this is the end of the process.
            let panicking = std::thread::panicking();
            let kind = if panicking { Kind::Internal } else { Kind::Cancelled };
            self.status = kind.row().status;
            self.error.get_or_insert(kind);
            let is_known = self.sent_at.is_none();
            self.end_without_answer(kind, is_known);
        }
        self.count();
        self.log();
    }
}

fn meter_units(units: &Units) -> meter::Units {
    meter::Units {
        in_text: units.in_text,
        in_audio: units.in_audio,
        in_image: units.in_image,
        in_video: units.in_video,
        in_tool: units.in_tool,
        in_cache_read: units.in_cache_read,
        in_cache_read_audio: units.in_cache_read_audio,
        in_cache_write_5m: units.in_cache_write_5m,
        in_cache_write_1h: units.in_cache_write_1h,
        in_cache_write_other: units.in_cache_write_other,
        out_text: units.out_text,
        out_reasoning: units.out_reasoning,
        out_audio: units.out_audio,
        out_image: units.out_image,
        web_search: units.web_search,
        search_units: units.search_units,
        chars_in: units.chars_in,
        images_out: units.images_out,
        seconds_in_milli: units.seconds_in_milli,
    }
}
