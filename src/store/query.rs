//! Questions to a store, and what it answers.

use std::fmt;

use super::record::{Open, Record, Settle};
use super::sums::Sums;
use super::{StoreError, frame};
use crate::ident::RequestId;

/// The length of an hour.
pub const HOUR_MS: u64 = 3_600_000;

/// The length of a day, in UTC.
pub const DAY_MS: u64 = 24 * HOUR_MS;

/// How many records one call of [`records`](super::Store::records) looks at.
pub const SCAN_MAX: usize = 500_000;

/// Separates the labels in [`Open::tags`].
pub const TAG_SEPARATOR: char = ',';

/// The labels in a record's text, at most [`TAGS_MAX`]; each is given once.
pub fn tags(text: &str) -> impl Iterator<Item = &str> {
    let each = || text.split(TAG_SEPARATOR).map(str::trim).filter(|tag| !tag.is_empty());
    each().take(TAGS_MAX).enumerate().filter_map(move |(at, tag)| {
        let is_new = each().take(at).all(|earlier| earlier != tag);
        is_new.then_some(tag)
    })
}

/// More labels of one request are not counted apart.
pub const TAGS_MAX: usize = 32;

/// How long a time the sums of a row are over.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Grain {
    /// Everything since the beginning.
    Total = 0,
    /// One day, in UTC.
    Day = 1,
    /// One hour.
    Hour = 2,
}

impl Grain {
    /// All of them.
    pub const ALL: [Grain; 3] = [Grain::Total, Grain::Day, Grain::Hour];

    /// The start of the span that `unix_ms` lies in.
    pub fn start(self, unix_ms: u64) -> u64 {
        match self {
            Grain::Total => 0,
            Grain::Day => unix_ms - unix_ms % DAY_MS,
            Grain::Hour => unix_ms - unix_ms % HOUR_MS,
        }
    }
}

/// What a row of sums is about: ids, never names. Requests belong to the time of their opening.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Debug)]
pub struct UsageKey<'a> {
    pub account: &'a str,
    pub project: &'a str,
    /// The owner of the key; empty if it has none.
    pub user: &'a str,
    /// Empty if a `Settle` had lost its `Open`.
    pub key: &'a str,
    /// The model that was asked for, or [`OTHER`](super::OTHER).
    pub model: &'a str,
    /// The target that answered; empty if none did.
    pub target: &'a str,
    pub currency: [u8; 3],
}

/// Which rows and records are meant: those with all of these ids. `None`: any.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Filter {
    pub account: Option<String>,
    pub project: Option<String>,
    pub user: Option<String>,
    pub key: Option<String>,
    /// The model that was asked for.
    pub model: Option<String>,
}

impl Filter {
    /// Whether the request is meant.
    pub fn matches(&self, open: &Open<'_>) -> bool {
        [
            (&self.account, open.account),
            (&self.project, open.project),
            (&self.user, open.user),
            (&self.key, open.key),
            (&self.model, open.model),
        ]
        .into_iter()
        .all(|(wanted, is)| wanted.as_deref().is_none_or(|wanted| wanted == is))
    }
}

/// What sums are told apart by.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum GroupBy {
    Key,
    Model,
    Project,
    User,
    Account,
    Target,
    EndUser,
    Tag,
    Day,
    Hour,
}

impl GroupBy {
    /// All of them.
    pub const ALL: [GroupBy; 10] = [
        GroupBy::Key,
        GroupBy::Model,
        GroupBy::Project,
        GroupBy::User,
        GroupBy::Account,
        GroupBy::Target,
        GroupBy::EndUser,
        GroupBy::Tag,
        GroupBy::Day,
        GroupBy::Hour,
    ];

    /// The name in queries and answers.
    pub fn name(self) -> &'static str {
        match self {
            GroupBy::Key => "key",
            GroupBy::Model => "model",
            GroupBy::Project => "project",
            GroupBy::User => "user",
            GroupBy::Account => "account",
            GroupBy::Target => "target",
            GroupBy::EndUser => "end_user",
            GroupBy::Tag => "tag",
            GroupBy::Day => "day",
            GroupBy::Hour => "hour",
        }
    }

    /// The inverse of [`GroupBy::name`].
    pub fn from_name(name: &str) -> Option<GroupBy> {
        GroupBy::ALL.into_iter().find(|group| group.name() == name)
    }
}

/// Asks for sums.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct UsageQuery {
    pub filter: Filter,
    /// Requests opened at this time or later. `None`: from the beginning.
    pub from_unix_ms: Option<u64>,
    /// Requests opened before this time. `None`: to the end.
    pub to_unix_ms: Option<u64>,
    /// In the order that the answer gives the values in. The currency always tells rows apart.
    pub group_by: Vec<GroupBy>,
}

/// A row of the answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UsageRow {
    /// One for each [`UsageQuery::group_by`]: ids; a day as `2026-01-02`, an hour as
    /// `2026-01-02T03:00:00Z`. A request with several tags counts in the row of each.
    pub values: Vec<String>,
    pub currency: [u8; 3],
    pub sums: Sums,
    /// What it cost, in 10^-12 of the currency. Where targets are told apart, what the attempts at
    /// this target cost, also those that others' answers overtook.
    pub cost_pico: u128,
}

/// Which answers are meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StatusFilter {
    /// This one.
    Exact(u16),
    /// Those that begin with this digit: `4` for 400 to 499.
    Class(u16),
}

impl StatusFilter {
    /// Whether `status` is meant.
    pub fn matches(self, status: u16) -> bool {
        match self {
            StatusFilter::Exact(exact) => status == exact,
            StatusFilter::Class(class) => status / 100 == class,
        }
    }

    /// Reads `404` or `4xx`.
    pub fn parse(text: &str) -> Option<StatusFilter> {
        let digits = text.strip_suffix("xx").unwrap_or(text);
        if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let number = digits.parse().ok()?;
        match (digits.len(), text.len()) {
            (1, 3) => Some(StatusFilter::Class(number)),
            (3, 3) => Some(StatusFilter::Exact(number)),
            _ => None,
        }
    }
}

/// Asks for records.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct RecordQuery {
    pub filter: Filter,
    pub status: Option<StatusFilter>,
    /// Requests opened at this time or later.
    pub since_unix_ms: Option<u64>,
    /// Requests opened before this time.
    pub until_unix_ms: Option<u64>,
    /// Newest first, unless this is set.
    pub oldest_first: bool,
    /// Where an earlier call with the same query left off.
    pub cursor: Option<Cursor>,
}

/// A place in a list of records: printed as text for whoever asks page by page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cursor(pub(super) u128);

impl Cursor {
    /// Reads what was printed.
    pub fn parse(text: &str) -> Option<Cursor> {
        let plain = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if plain { u128::from_str_radix(text, 16).ok().map(Cursor) } else { None }
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// A request that has ended: both of its records.
#[derive(Clone, PartialEq, Debug)]
pub struct StoredRecord<'a> {
    pub open: Open<'a>,
    pub settle: Settle<'a>,
}

impl<'a> StoredRecord<'a> {
    /// Unpacks a pair of frames.
    pub(super) fn read(open: &'a [u8], settle: &'a [u8]) -> Option<Self> {
        match (frame::decode(open), frame::decode(settle)) {
            (Ok((Record::Open(open), _)), Ok((Record::Settle(settle), _))) => {
                Some(StoredRecord { open, settle })
            }
            _ => None,
        }
    }
}

/// A record that stands by itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OwnedRecord {
    open: Box<[u8]>,
    settle: Box<[u8]>,
}

impl OwnedRecord {
    /// `None` if these are no such frames.
    pub(super) fn new(open: &[u8], settle: &[u8]) -> Option<Self> {
        StoredRecord::read(open, settle)?;
        Some(OwnedRecord { open: open.into(), settle: settle.into() })
    }

    /// What is recorded.
    pub fn record(&self) -> StoredRecord<'_> {
        StoredRecord::read(&self.open, &self.settle).expect("checked when it was made")
    }
}

/// Asks what was spent, span by span: to rebuild what limits have in memory.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct SpentQuery {
    pub filter: Filter,
    /// Where one span ends and the next begins, in any order. The first span begins with the
    /// first request ever, the last has no end.
    pub edges_unix_ms: Vec<u64>,
}

/// What was spent in a span.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Spent {
    /// The last moment of the span; [`u64::MAX`] for the last one.
    pub until_unix_ms: u64,
    pub requests: u64,
    /// Used, or reserved by a request whose usage is unknown.
    pub tokens: u64,
    /// Charged, or reserved by a request whose usage is unknown.
    pub cost_pico: u128,
}

/// The time in an id.
pub(super) fn time_of(id: RequestId) -> u64 {
    (id.to_u128() >> 80) as u64
}

/// An answer with too many rows, or one that takes too many records to find.
pub(super) fn too_much(what: &'static str) -> StoreError {
    StoreError::TooMuch { what }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_filters_are_a_number_or_a_class() {
        assert_eq!(StatusFilter::parse("404"), Some(StatusFilter::Exact(404)));
        assert_eq!(StatusFilter::parse("5xx"), Some(StatusFilter::Class(5)));
        for text in ["", "xx", "4", "40", "4040", "40xx", "4XX", "+40", "x04"] {
            assert_eq!(StatusFilter::parse(text), None, "{text}");
        }
        assert!(StatusFilter::Class(5).matches(503) && !StatusFilter::Class(5).matches(404));
    }

    #[test]
    fn cursors_come_back_and_nothing_else_is_one() {
        let cursor = Cursor(u128::MAX / 3);
        assert_eq!(Cursor::parse(&cursor.to_string()), Some(cursor));
        for text in ["", "0", "+0000000000000000000000000000000", &"0".repeat(33)] {
            assert_eq!(Cursor::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_label_counts_once() {
        assert_eq!(tags("a, b,,a ,c").collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(tags("").count(), 0);
    }
}
