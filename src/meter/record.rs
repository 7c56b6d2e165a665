//! The record of one request while it runs.

use std::io::Write;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use super::counters::{PairIndex, Shard};
use crate::clock::{self, Now};
use crate::error::Kind;
use crate::ident::{AccountId, Alias, KeyId, ProjectId, RequestId, TargetId};
use crate::money::Currency;
use crate::store::{
    ATTEMPTS_MAX, Attempt, Candidate, Flags, JournalFull, List, Mark, Open, Room, Settle, Slot,
    State, Units, Writer,
};

/// One worker's meter.
pub struct Meter {
    writer: Writer,
    shard: Arc<Shard>,
}

/// What is known of a request when it is let in.
#[derive(Clone, Copy, Debug)]
pub struct Opening<'a> {
    pub id: RequestId,
    pub key: &'a KeyId,
    pub account: &'a AccountId,
    pub project: &'a ProjectId,
    /// The owner of the key; empty if it has none.
    pub user: &'a str,
    /// The caller's own customer; empty if not given.
    pub end_user: &'a str,
    /// The labels of the request, joined by commas; empty if it has none.
    pub tags: &'a str,
    /// The caller's address.
    pub client: IpAddr,
    pub endpoint: &'a str,
    /// The model that was asked for.
    pub model: &'a Alias,
    pub is_stream: bool,
    /// The account's: all amounts of the request are in it.
    pub currency: Currency,
    pub reserved_tokens: u64,
    /// In 10^-12 of the account's currency.
    pub reserved_cost_pico: u128,
    /// In the order of the policy; the first [`CANDIDATES_MAX`](crate::store::CANDIDATES_MAX) are
    /// kept.
    pub candidates: &'a [Candidate<'a>],
    /// How many attempts there can be, and how long the longest name of a target is.
    pub room: Room,
}

/// How one attempt went.
#[derive(Clone, PartialEq, Debug)]
pub struct AttemptRecord {
    pub target: TargetId,
    /// `None` for the attempt whose answer the caller got; a hedge that lost is `Cancelled`.
    pub error: Option<Kind>,
    /// What it used; a lost attempt costs money too.
    pub units: Units,
    /// From sending to first content.
    pub ttft_us: Option<u64>,
    /// What the upstream asks for it, in 10^-12 of the account's currency.
    pub cost_pico: u128,
    /// The version of the price that `cost_pico` was computed by; 0 if there was none.
    pub price_version: u64,
}

/// What the answer that flows costs, as far as is known: goes with the units it was computed from.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Priced {
    /// What the upstream asks for this attempt, in 10^-12 of the account's currency.
    pub cost_pico: u128,
    /// What the account pays, in 10^-12 of its currency.
    pub charge_pico: u128,
    /// The version of the price; 0 if there was none.
    pub price_version: u64,
    /// What one unit of the price's currency is in the account's, times 10^12.
    pub fx_rate_pico: u128,
    /// There was no price, and requests without one are let through.
    pub is_unpriced: bool,
}

/// How a request ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct End {
    /// The status that the caller saw or would have seen.
    pub status: u16,
    pub error: Option<Kind>,
    pub state: State,
}

impl Meter {
    /// A meter that writes to the worker's own part of the journal and counts in its own shard.
    pub fn new(writer: Writer, shard: Arc<Shard>) -> Self {
        Meter { writer, shard }
    }

    /// Records that a request begins, before anything of it is sent upstream. From here on it is
    /// settled when the entry is, or when the entry is dropped.
    pub fn open(&self, opening: &Opening<'_>, now: Now) -> Result<Entry, JournalFull> {
        let mut room = [0; ADDRESS_BYTES_MAX];
        let open = Open {
            id: opening.id,
            time_unix_ms: now.unix_ms,
            key: opening.key.as_str(),
            account: opening.account.as_str(),
            project: opening.project.as_str(),
            user: opening.user,
            end_user: opening.end_user,
            tags: opening.tags,
            client: address(opening.client, &mut room),
            endpoint: opening.endpoint,
            model: opening.model.as_str(),
            is_stream: opening.is_stream,
            currency: opening.currency.to_bytes(),
            reserved_tokens: opening.reserved_tokens,
            reserved_cost_pico: opening.reserved_cost_pico,
            candidates: List::Borrowed(opening.candidates),
        };
        let slot = self.writer.open(&open, opening.room)?;
        Ok(Entry {
            slot: Some(slot),
            pair: self.shard.pair(opening.key, opening.model),
            currency: opening.currency,
            shard: self.shard.clone(),
            id: opening.id,
            opened: now.instant,
            reserved: (opening.reserved_tokens, opening.reserved_cost_pico),
            flags: if opening.is_stream { Flags::STREAM } else { Flags::NONE },
            attempts: Vec::new(),
            serving: None,
            units: Units::default(),
            priced: Priced::default(),
            is_sent: false,
            ttft_us: None,
            overhead_us: 0,
            model_served: String::new(),
            upstream_request_id: String::new(),
        })
    }
}

/// No address is longer than this as text.
const ADDRESS_BYTES_MAX: usize = 45;

/// The address as text, without an allocation.
fn address(ip: IpAddr, room: &mut [u8; ADDRESS_BYTES_MAX]) -> &str {
    let mut rest = &mut room[..];
    let left = match write!(rest, "{ip}") {
        Ok(()) => rest.len(),
        Err(_) => return "",
    };
    std::str::from_utf8(&room[..ADDRESS_BYTES_MAX - left]).unwrap_or("")
}

/// The record of a request that runs. Settles exactly once: by [`Entry::settle`], or when it is
/// dropped, so that a caller who hangs up or a handler that panics is still counted.
pub struct Entry {
    /// `None` once settled.
    slot: Option<Slot>,
    shard: Arc<Shard>,
    pair: PairIndex,
    currency: Currency,
    id: RequestId,
    opened: Instant,
    reserved: (u64, u128),
    flags: Flags,
    attempts: Vec<AttemptRecord>,
    /// The target whose answer flows to the caller.
    serving: Option<TargetId>,
    units: Units,
    priced: Priced,
    is_sent: bool,
    ttft_us: Option<u64>,
    overhead_us: u64,
    model_served: String,
    upstream_request_id: String,
}

impl Entry {
    /// The request.
    pub fn id(&self) -> RequestId {
        self.id
    }

    /// When it was opened.
    pub fn opened(&self) -> Instant {
        self.opened
    }

    /// Something of the request is about to reach an upstream: from here on the usage of a request
    /// that ends without a word is not nothing but unknown.
    pub fn sent(&mut self) {
        self.is_sent = true;
    }

    /// Books an attempt that has ended. The first eight are kept one by one; what later ones used is
    /// added to the last.
    pub fn attempt(&mut self, attempt: AttemptRecord) {
        match self.attempts.len() {
            0 => self.attempts.reserve_exact(1),
            ATTEMPTS_MAX => {
                let last = &mut self.attempts[ATTEMPTS_MAX - 1];
                last.units.add(&attempt.units);
                last.cost_pico = last.cost_pico.saturating_add(attempt.cost_pico);
                if attempt.error.is_none() {
                    last.target = attempt.target;
                    last.error = None;
                    last.ttft_us = attempt.ttft_us;
                    last.price_version = attempt.price_version;
                }
                return;
            }
            _ => {}
        }
        self.attempts.push(attempt);
    }

    /// From here on the caller gets this target's answer. The request counts for it however it ends;
    /// if the entry is dropped, the running attempt is booked with what is known.
    pub fn serving(&mut self, target: TargetId) {
        self.serving = Some(target);
    }

    /// The first content reached the caller. Only the first call counts.
    pub fn first_content(&mut self, now: Instant) {
        self.ttft_us.get_or_insert(clock::us_between(self.opened, now));
    }

    /// From the opening to the first content, once it came.
    pub fn ttft_us(&self) -> Option<u64> {
        self.ttft_us
    }

    /// What the caller is charged for, as far as is known now; replaces what was known before.
    pub fn units(&mut self, units: Units) {
        self.units = units;
    }

    /// What those units cost and are charged; replaces what was known before. The cost is booked
    /// with the attempt that serves: here it counts only if the entry is dropped while it runs.
    pub fn price(&mut self, priced: Priced) {
        self.priced = priced;
    }

    /// More is used than a limit has room for, and the limit lets requests finish.
    pub fn overrun(&mut self) {
        self.flags = self.flags.with(Flags::OVERRUN);
    }

    /// The request waited for room in a limit. How long is part of the overhead.
    pub fn waited(&mut self) {
        self.flags = self.flags.with(Flags::WAITED);
    }

    /// Time that the gateway itself added.
    pub fn overhead(&mut self, overhead_us: u64) {
        self.overhead_us = self.overhead_us.saturating_add(overhead_us);
    }

    /// The model that the upstream named, if it is not the one that it was asked for.
    pub fn model_served(&mut self, model: &str) {
        model.clone_into(&mut self.model_served);
    }

    /// The upstream's own id of the request.
    pub fn upstream_request_id(&mut self, id: &str) {
        id.clone_into(&mut self.upstream_request_id);
    }

    /// The caller left.
    pub fn client_gone(&mut self) {
        self.flags = self.flags.with(Flags::CLIENT_GONE);
    }

    /// Books the end. To be called before the last bytes are handed to the caller; with
    /// `fsync = "always"` they wait for the mark.
    pub fn settle(mut self, end: End, now: Now) -> Mark {
        self.finish(end, now)
    }

    fn finish(&mut self, end: End, now: Now) -> Mark {
        let Some(slot) = self.slot.take() else { return Mark::default() };
        let winner = self.attempts.iter().rfind(|attempt| attempt.error.is_none());
        let target = winner.map(|attempt| &attempt.target).or(self.serving.as_ref());
        let mut attempts = [Attempt::default(); ATTEMPTS_MAX];
        for (slot, attempt) in attempts.iter_mut().zip(&self.attempts) {
            *slot = Attempt {
                target: attempt.target.as_str(),
                error: attempt.error,
                units: attempt.units,
                ttft_us: attempt.ttft_us,
                cost_pico: attempt.cost_pico,
                price_version: attempt.price_version,
            };
        }
        if self.priced.is_unpriced {
            self.flags = self.flags.with(Flags::UNPRICED);
        }
        let costs = self.attempts.iter().map(|attempt| attempt.cost_pico);
        let settle = Settle {
            id: self.id,
            time_unix_ms: now.unix_ms,
            status: end.status,
            error: end.error,
            state: end.state,
            flags: self.flags,
            target: target.map_or("", TargetId::as_str),
            model_served: &self.model_served,
            upstream_request_id: &self.upstream_request_id,
            units: self.units,
            cost_pico: costs.fold(0, u128::saturating_add),
            charge_pico: self.priced.charge_pico,
            price_version: self.priced.price_version,
            fx_rate_pico: self.priced.fx_rate_pico,
            ttft_us: self.ttft_us,
            total_us: clock::us_between(self.opened, now.instant),
            overhead_us: self.overhead_us,
            attempts: List::Borrowed(&attempts[..self.attempts.len()]),
        };
        let booked = self.attempts.iter().zip(settle.attempts.as_slice());
        let booked = booked.map(|(attempt, recorded)| (&attempt.target, recorded));
        self.shard.count(self.pair, self.currency, target, &settle, self.reserved, booked);
        slot.settle(&settle)
    }

    /// What can be said of a request that nobody settled.
    fn abandoned(&self) -> End {
        let (status, error) = match std::thread::panicking() {
            true => (500, Kind::Internal),
            false => (499, Kind::ClientGone),
        };
        let is_known = !self.units.is_zero();
        let state = match (self.is_sent || !self.attempts.is_empty(), is_known) {
            (_, true) => State::Estimated,
            (true, false) => State::Unsettled,
            (false, false) => State::Settled,
        };
        End { status, error: Some(error), state }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if self.slot.is_none() {
            return;
        }
        let end = self.abandoned();
        if end.error == Some(Kind::ClientGone) {
            self.client_gone();
        }
        if let Some(target) = self.serving.clone() {
            let (units, ttft_us) = (self.units, self.ttft_us);
            let Priced { cost_pico, price_version, .. } = self.priced;
            let error = end.error;
            let attempt = AttemptRecord { target, error, units, ttft_us, cost_pico, price_version };
            self.attempt(attempt);
        }
        self.finish(end, clock::now());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::meter::Counters;
    use crate::store::{Database, Fsync, Journal, RowKey, Settings, Store, Sums};

    struct Bench {
        store: Arc<Database>,
        journal: Journal,
        counters: Counters,
    }

    fn bench() -> Bench {
        let store = Arc::new(Database::in_memory().expect("memory"));
        let settings = Settings::new(None, 1, 1 << 20, Fsync::Every(Duration::from_millis(50)));
        let (journal, _) = Journal::open(&settings, store.clone()).expect("opened");
        Bench { store, journal, counters: Counters::new(1) }
    }

    /// Runs one request, and gives its row as the statistics and as the store have it.
    fn run(target: &str, request: impl FnOnce(Entry)) -> Sums {
        let Bench { store, journal, counters } = bench();
        let writer = journal.writer(0).expect("a writer");
        let meter = Meter::new(writer, counters.shard(0).expect("a shard"));
        let opening = Opening {
            id: RequestId::new(1, 1),
            key: &"k".into(),
            account: &"a".into(),
            project: &"p".into(),
            user: "",
            end_user: "",
            tags: "",
            client: [127, 0, 0, 1].into(),
            endpoint: "chat",
            model: &"m".into(),
            is_stream: true,
            currency: Currency::USD,
            reserved_tokens: 500,
            reserved_cost_pico: 7,
            candidates: &[Candidate { target, score: 1.0 }],
            room: Room::LARGEST,
        };
        request(meter.open(&opening, clock::now()).expect("room"));
        drop(meter);
        journal.close().expect("the store takes it");
        let counted = counters.read();
        assert_eq!(counted, store.rows().expect("rows").into_iter().collect());
        assert_eq!(counted.values().map(|sums| sums.requests).sum::<u64>(), 1, "exactly once");
        let key = RowKey { key: "k".into(), model: "m".into(), target: target.into() };
        counted.get(&key).copied().unwrap_or_default()
    }

    fn attempt(error: Option<Kind>, in_text: u64) -> AttemptRecord {
        let units = Units { in_text, ..Units::default() };
        let (cost_pico, price_version) = (u128::from(in_text) * 100, 9);
        AttemptRecord { target: "t".into(), error, units, ttft_us: None, cost_pico, price_version }
    }

    #[test]
    fn a_settled_request_counts_for_the_target_that_answered() {
        let row = run("t", |mut entry| {
            entry.sent();
            entry.attempt(attempt(Some(Kind::ServerError), 1));
            entry.attempt(attempt(None, 10));
            entry.units(Units { in_text: 10, ..Units::default() });
            entry.price(Priced { cost_pico: 1000, charge_pico: 1500, ..Priced::default() });
            entry.overrun();
            entry.settle(End { status: 200, error: None, state: State::Settled }, clock::now());
        });
        assert_eq!((row.requests, row.errors, row.unsettled), (1, 0, 0));
        assert_eq!((row.attempts, row.units.in_text, row.attempt_units.in_text), (2, 10, 11));
        assert_eq!((row.cost_pico, row.attempt_cost_pico, row.charge_pico), (1100, 1100, 1500));
        assert_eq!((row.unpriced, row.overruns), (0, 1));
    }

    #[test]
    fn a_dropped_request_is_booked_by_what_is_known() {
        let nothing_sent = run("", drop);
        assert_eq!((nothing_sent.requests, nothing_sent.errors), (1, 1));
        assert_eq!((nothing_sent.unsettled, nothing_sent.estimated), (0, 0));

        let sent = run("", |mut entry| entry.sent());
        assert_eq!((sent.unsettled, sent.unsettled_tokens, sent.unsettled_cost_pico), (1, 500, 7));

        let streamed = run("t", |mut entry| {
            entry.sent();
            entry.serving("t".into());
            entry.units(Units { out_text: 3, ..Units::default() });
            let is_unpriced = true;
            let priced = Priced { cost_pico: 3, charge_pico: 4, is_unpriced, ..Priced::default() };
            entry.price(priced);
        });
        assert_eq!((streamed.estimated, streamed.unsettled, streamed.units.out_text), (1, 0, 3));
        assert_eq!((streamed.attempts, streamed.attempt_units.out_text), (1, 3));
        assert_eq!((streamed.cost_pico, streamed.attempt_cost_pico), (3, 3));
        assert_eq!((streamed.charge_pico, streamed.unpriced), (4, 1));
    }

    #[test]
    fn a_panic_settles_too() {
        let row = run("", |mut entry| {
            entry.sent();
            let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
                let _entry = entry;
                panic!("a handler fails");
            }));
            assert!(caught.is_err());
        });
        assert_eq!((row.requests, row.errors, row.unsettled), (1, 1, 1));
    }

    #[test]
    fn more_attempts_than_a_record_holds_lose_no_units() {
        let row = run("t", |mut entry| {
            for _ in 0..ATTEMPTS_MAX + 4 {
                entry.attempt(attempt(Some(Kind::Connect), 1));
            }
            entry.attempt(attempt(None, 1));
            entry.settle(End { status: 200, error: None, state: State::Settled }, clock::now());
        });
        assert_eq!((row.requests, row.attempts), (1, ATTEMPTS_MAX as u64));
        assert_eq!(row.attempt_units.in_text, ATTEMPTS_MAX as u64 + 5);
        assert_eq!(row.cost_pico, (ATTEMPTS_MAX as u128 + 5) * 100);
    }

    #[test]
    fn addresses_fit_into_their_room() {
        for ip in ["127.0.0.1", "::ffff:255.255.255.255", "2001:db8:1111:2222:3333:4444:5555:6666"]
        {
            let mut room = [0; ADDRESS_BYTES_MAX];
            assert_eq!(address(ip.parse().expect("an address"), &mut room), ip);
        }
    }
}
