//! The two records of a request. Their form in the journal is in `frame.rs`.

use super::units::Units;
use crate::error::Kind;
use crate::ident::RequestId;

/// How many candidates an [`Open`] keeps; the rest is left out.
pub const CANDIDATES_MAX: usize = 16;

/// How many attempts a [`Settle`] can keep.
pub const ATTEMPTS_MAX: usize = 8;

/// Stands where no currency is known: ISO 4217's own code for that.
pub const NO_CURRENCY: [u8; 3] = *b"XXX";

/// A list that is borrowed when it is written and owned when it was read. (A `Cow` would do, but
/// it would tie the records to one lifetime exactly.)
#[derive(Clone, Debug)]
pub enum List<'a, T> {
    Borrowed(&'a [T]),
    Owned(Vec<T>),
}

impl<T> List<'_, T> {
    /// Nothing.
    pub const EMPTY: Self = List::Borrowed(&[]);

    /// The entries.
    pub fn as_slice(&self) -> &[T] {
        match self {
            List::Borrowed(slice) => slice,
            List::Owned(vec) => vec,
        }
    }
}

impl<T: PartialEq> PartialEq for List<'_, T> {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

/// A target that could have served the request, with the score that the policy gave it.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub struct Candidate<'a> {
    /// The printable name of the target.
    pub target: &'a str,
    /// What the policy ordered by; its meaning is the policy's.
    pub score: f32,
}

/// Written before anything of a request is sent upstream: who asks for what, and what is reserved.
/// Texts above 255 bytes are cut; the empty text stands for "none".
#[derive(Clone, PartialEq, Debug)]
pub struct Open<'a> {
    pub id: RequestId,
    pub time_unix_ms: u64,
    /// The id of the key, never its secret.
    pub key: &'a str,
    pub account: &'a str,
    pub project: &'a str,
    /// The owner of the key.
    pub user: &'a str,
    /// The caller's own customer.
    pub end_user: &'a str,
    /// The labels of the request, joined by commas.
    pub tags: &'a str,
    /// The caller's address, at most 64 bytes.
    pub client: &'a str,
    pub endpoint: &'a str,
    /// The model that was asked for.
    pub model: &'a str,
    /// A stream of events is asked for.
    pub is_stream: bool,
    /// What the account pays in: all amounts of the request are in it.
    pub currency: [u8; 3],
    pub reserved_tokens: u64,
    /// In 10^-12 of the account's currency.
    pub reserved_cost_pico: u128,
    /// At most [`CANDIDATES_MAX`] are kept.
    pub candidates: List<'a, Candidate<'a>>,
}

impl Open<'_> {
    /// The open record of `id` in which nothing else is filled in.
    pub fn new(id: RequestId) -> Self {
        Open {
            id,
            time_unix_ms: 0,
            key: "",
            account: "",
            project: "",
            user: "",
            end_user: "",
            tags: "",
            client: "",
            endpoint: "",
            model: "",
            is_stream: false,
            currency: NO_CURRENCY,
            reserved_tokens: 0,
            reserved_cost_pico: 0,
            candidates: List::EMPTY,
        }
    }
}

/// How the units of a request were come by.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(u8)]
pub enum State {
    /// As the upstream reported, or certainly nothing.
    Settled = 0,
    /// Counted by us, because the upstream never said.
    Estimated = 1,
    /// Unknown: the reservation stands in for it until somebody resolves it.
    #[default]
    Unsettled = 2,
}

impl State {
    /// The name in records and logs.
    pub fn name(self) -> &'static str {
        ["settled", "estimated", "unsettled"][self as usize]
    }

    pub(super) fn from_code(code: u8) -> Option<State> {
        [State::Settled, State::Estimated, State::Unsettled].get(usize::from(code)).copied()
    }
}

/// Yes-or-no facts of a settled request.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Flags(pub(super) u8);

impl Flags {
    /// None of them.
    pub const NONE: Flags = Flags(0);
    /// The caller left before the end.
    pub const CLIENT_GONE: Flags = Flags(1);
    /// The answer was a stream of events.
    pub const STREAM: Flags = Flags(2);
    /// There was no price: cost and charge are zero for want of one.
    pub const UNPRICED: Flags = Flags(4);
    /// More was used than a limit had room for, and the limit lets requests finish.
    pub const OVERRUN: Flags = Flags(8);
    /// The request waited for room in a limit.
    pub const WAITED: Flags = Flags(16);

    /// Whether `flag` is among them.
    pub fn has(self, flag: Flags) -> bool {
        self.0 & flag.0 == flag.0
    }

    /// These and `flag`.
    pub fn with(self, flag: Flags) -> Flags {
        Flags(self.0 | flag.0)
    }
}

/// One try at one target.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Attempt<'a> {
    /// The printable name of the target.
    pub target: &'a str,
    /// `None` for the attempt whose answer the caller got.
    pub error: Option<Kind>,
    /// What the attempt used; a lost one costs money too.
    pub units: Units,
    /// From sending to first content.
    pub ttft_us: Option<u64>,
    /// What the upstream asks for it, in 10^-12 of the account's currency.
    pub cost_pico: u128,
    /// The version of the price that `cost_pico` was computed by; 0 if there was none.
    pub price_version: u64,
}

/// Written when a request has ended, however it ended.
#[derive(Clone, PartialEq, Debug)]
pub struct Settle<'a> {
    pub id: RequestId,
    pub time_unix_ms: u64,
    /// The status that the caller saw or would have seen.
    pub status: u16,
    pub error: Option<Kind>,
    pub state: State,
    pub flags: Flags,
    /// The target whose answer the caller got; empty if none.
    pub target: &'a str,
    /// The model that the upstream named, at most 128 bytes.
    pub model_served: &'a str,
    /// The upstream's own request id, at most 64 bytes.
    pub upstream_request_id: &'a str,
    /// What the caller is charged for: the winner's units.
    pub units: Units,
    /// What all attempts cost, in 10^-12 of the account's currency.
    pub cost_pico: u128,
    /// What the account pays, in 10^-12 of its currency.
    pub charge_pico: u128,
    /// The version of the price that `charge_pico` was computed by; 0 if there was none.
    pub price_version: u64,
    /// What one unit of the price's currency is in the account's, times 10^12; 0 if no price.
    pub fx_rate_pico: u128,
    pub ttft_us: Option<u64>,
    pub total_us: u64,
    /// What the gateway itself added, queue wait included.
    pub overhead_us: u64,
    /// At most [`ATTEMPTS_MAX`], and as many as room was taken for, are kept: the first ones.
    pub attempts: List<'a, Attempt<'a>>,
}

impl Settle<'_> {
    /// The record of `id` as it stands when nothing is known: unsettled.
    pub fn new(id: RequestId) -> Self {
        Settle {
            id,
            time_unix_ms: 0,
            status: 0,
            error: None,
            state: State::Unsettled,
            flags: Flags::NONE,
            target: "",
            model_served: "",
            upstream_request_id: "",
            units: Units::default(),
            cost_pico: 0,
            charge_pico: 0,
            price_version: 0,
            fx_rate_pico: 0,
            ttft_us: None,
            total_us: 0,
            overhead_us: 0,
            attempts: List::EMPTY,
        }
    }
}

/// One of the two.
#[derive(Clone, PartialEq, Debug)]
pub enum Record<'a> {
    Open(Open<'a>),
    Settle(Settle<'a>),
}

impl Record<'_> {
    /// The request that it belongs to.
    pub fn id(&self) -> RequestId {
        match self {
            Record::Open(open) => open.id,
            Record::Settle(settle) => settle.id,
        }
    }
}
