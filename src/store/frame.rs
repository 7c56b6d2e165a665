//! The form of a record in the journal.
//!
//! A frame is `length u32 | CRC-32 u32 | version u8 | kind u8 | payload`, little-endian, padded with
//! zeros to four bytes. The length counts version, kind and payload; the checksum covers them. A
//! length of zero is the end of what was written. This frame is the same in every version to come,
//! so that an older program can tell a newer record from a damaged one.

use super::codec::{Cursor, Put, TEXT_BYTES_MAX, Take};
use super::record::{
    ATTEMPTS_MAX, Attempt, CANDIDATES_MAX, Candidate, Flags, List, Open, Record, Settle, State,
};
use super::units::Units;
use crate::error::Kind;
use crate::ident::RequestId;

/// The version of the records that this program writes, and the newest that it reads. Version 1, which
/// is still read, knew no money, no tags and no addresses.
pub const VERSION: u8 = 2;

/// No frame is longer than this, padding included.
pub(super) const RECORD_BYTES_MAX: usize = 8192;

const FRAME_BYTES: usize = 8;
/// Every frame begins at a multiple of this, counted from the first.
pub(super) const ALIGNMENT: usize = 4;
const KIND_OPEN: u8 = 1;
const KIND_SETTLE: u8 = 2;
/// Larger counts of one request are lies; this bounds a counter to five bytes.
const UNIT_MAX: u64 = (1 << 35) - 1;
const UNITS_BYTES_MAX: usize = 4 + Units::COUNT * 5;
/// 50 days: bounds a time to six bytes.
const TIME_US_MAX: u64 = (1 << 42) - 2;
const TIME_BYTES_MAX: usize = 6;
const AMOUNT_BYTES_MAX: usize = 19;
const PRICE_VERSION_BYTES: usize = 8;
const CLIENT_BYTES_MAX: usize = 64;
const MODEL_SERVED_BYTES_MAX: usize = 128;
const UPSTREAM_ID_BYTES_MAX: usize = 64;
const NO_ERROR: u8 = u8::MAX;

/// The size of a request's `Settle` at most; taken when the request is opened, so that settling
/// cannot fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Room {
    attempts: u8,
    target_bytes: u8,
}

impl Room {
    /// Enough for every `Settle`.
    pub const LARGEST: Room =
        Room { attempts: ATTEMPTS_MAX as u8, target_bytes: TEXT_BYTES_MAX as u8 };

    /// Room for this many attempts at targets whose names have at most so many bytes. Larger numbers
    /// than a record can hold are cut.
    pub fn new(attempts: usize, target_bytes: usize) -> Self {
        Room {
            attempts: attempts.min(ATTEMPTS_MAX) as u8,
            target_bytes: target_bytes.min(TEXT_BYTES_MAX) as u8,
        }
    }

    /// In the journal, in bytes.
    pub const fn bytes(self) -> usize {
        let target = 1 + self.target_bytes as usize;
        let money = AMOUNT_BYTES_MAX + PRICE_VERSION_BYTES;
        let attempt = target + 1 + UNITS_BYTES_MAX + TIME_BYTES_MAX + money;
        let fixed = FRAME_BYTES + 2 + 16 + 8 + 2 + 3 + 1 + 3 * TIME_BYTES_MAX;
        let fixed = fixed + money + 2 * AMOUNT_BYTES_MAX;
        let texts = target + 1 + MODEL_SERVED_BYTES_MAX + 1 + UPSTREAM_ID_BYTES_MAX;
        align(fixed + texts + UNITS_BYTES_MAX + self.attempts as usize * attempt)
    }
}

const _: () = assert!(Room::LARGEST.bytes() <= RECORD_BYTES_MAX);
const _: () = assert!(
    FRAME_BYTES
        + (2 + 16 + 8 + 8 * 256 + 1 + CLIENT_BYTES_MAX + 1 + 3 + 10 + AMOUNT_BYTES_MAX)
        + (1 + CANDIDATES_MAX * (256 + 4) + 4)
        <= RECORD_BYTES_MAX
);

const fn align(bytes: usize) -> usize {
    bytes.next_multiple_of(ALIGNMENT)
}

/// Writes the frame of `open` into `out`, all but its length. Gives the length field's value and
/// the size of the padded frame.
pub(super) fn encode_open(open: &Open<'_>, out: &mut [u8]) -> Option<Encoded> {
    frame(out, KIND_OPEN, |out| put_open(out, open))
}

/// Like [`encode_open`]; at most what `room` promised is written.
pub(super) fn encode_settle(settle: &Settle<'_>, room: Room, out: &mut [u8]) -> Option<Encoded> {
    frame(out, KIND_SETTLE, |out| put_settle(out, settle, room))
}

/// A frame that lacks its length: the last thing to be written, so that a process that dies halfway
/// leaves no half record.
#[derive(Clone, Copy)]
pub(super) struct Encoded {
    pub(super) length: u32,
    pub(super) frame_bytes: usize,
}

fn frame(out: &mut [u8], kind: u8, payload: impl FnOnce(&mut Cursor<'_>)) -> Option<Encoded> {
    let (head, body) = out.split_at_mut_checked(FRAME_BYTES)?;
    let mut cursor = Cursor::new(body);
    cursor.put(&[VERSION, kind]);
    payload(&mut cursor);
    let body = cursor.finish()?;
    head[4..].copy_from_slice(&crc32fast::hash(body).to_le_bytes());
    Some(Encoded { length: body.len() as u32, frame_bytes: align(FRAME_BYTES + body.len()) })
}

fn put_open(out: &mut impl Put, open: &Open<'_>) {
    out.put_u128(open.id.to_u128());
    out.put_u64(open.time_unix_ms);
    for text in
        [open.key, open.account, open.project, open.user, open.end_user, open.endpoint, open.model]
    {
        out.put_text(text, TEXT_BYTES_MAX);
    }
    out.put_text(open.tags, TEXT_BYTES_MAX);
    out.put_text(open.client, CLIENT_BYTES_MAX);
    out.put_u8(u8::from(open.is_stream));
    out.put(&open.currency);
    out.put_varint(open.reserved_tokens);
    out.put_varint_u128(open.reserved_cost_pico);
    let candidates = open.candidates.as_slice();
    let kept = candidates.len().min(CANDIDATES_MAX);
    out.put_u8(kept as u8);
    for candidate in &candidates[..kept] {
        out.put_text(candidate.target, TEXT_BYTES_MAX);
        out.put_u32(candidate.score.to_bits());
    }
}

fn put_settle(out: &mut impl Put, settle: &Settle<'_>, room: Room) {
    let target_bytes = usize::from(room.target_bytes);
    out.put_u128(settle.id.to_u128());
    out.put_u64(settle.time_unix_ms);
    out.put_u16(settle.status);
    out.put(&[error_code(settle.error), settle.state as u8, settle.flags.0]);
    out.put_text(settle.target, target_bytes);
    out.put_text(settle.model_served, MODEL_SERVED_BYTES_MAX);
    out.put_text(settle.upstream_request_id, UPSTREAM_ID_BYTES_MAX);
    out.put_units(&settle.units, UNIT_MAX);
    for amount in [settle.cost_pico, settle.charge_pico, settle.fx_rate_pico] {
        out.put_varint_u128(amount);
    }
    out.put_u64(settle.price_version);
    put_time(out, settle.ttft_us);
    put_time(out, Some(settle.total_us));
    put_time(out, Some(settle.overhead_us));
    let attempts = settle.attempts.as_slice();
    let kept = attempts.len().min(usize::from(room.attempts));
    out.put_u8(kept as u8);
    for attempt in &attempts[..kept] {
        out.put_text(attempt.target, target_bytes);
        out.put_u8(error_code(attempt.error));
        out.put_units(&attempt.units, UNIT_MAX);
        put_time(out, attempt.ttft_us);
        out.put_varint_u128(attempt.cost_pico);
        out.put_u64(attempt.price_version);
    }
}

fn error_code(error: Option<Kind>) -> u8 {
    error.map_or(NO_ERROR, |kind| kind as u8)
}

fn put_time(out: &mut impl Put, time_us: Option<u64>) {
    out.put_varint(time_us.map_or(0, |us| us.min(TIME_US_MAX) + 1));
}

/// A frame as it stands in a segment.
pub(super) fn whole(record: &Record<'_>) -> Vec<u8> {
    let mut out = vec![0; RECORD_BYTES_MAX];
    let encoded = match record {
        Record::Open(open) => encode_open(open, &mut out),
        Record::Settle(settle) => encode_settle(settle, Room::LARGEST, &mut out),
    }
    .expect("a record fits into the largest frame");
    out[..4].copy_from_slice(&encoded.length.to_le_bytes());
    out.truncate(encoded.frame_bytes);
    out
}

/// Why there is no record at some place in a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stop {
    /// A length of zero, or no room for a frame.
    End,
    /// Not a record, or a damaged one.
    Bad,
    /// A sound record of a later version, or of a kind that this program does not know.
    Newer(u8),
}

/// Reads the frame at the start of `bytes`; with the record comes the size of its padded frame.
pub(super) fn decode(bytes: &[u8]) -> Result<(Record<'_>, usize), Stop> {
    let mut take = Take::new(bytes);
    let (Some(length), Some(crc)) = (take.u32(), take.u32()) else { return Err(Stop::End) };
    let length = length as usize;
    if length == 0 {
        return Err(Stop::End);
    }
    if length > RECORD_BYTES_MAX - FRAME_BYTES {
        return Err(Stop::Bad);
    }
    let body = take.bytes(length).ok_or(Stop::Bad)?;
    if crc32fast::hash(body) != crc {
        return Err(Stop::Bad);
    }
    let record = match *body {
        [version @ 1..=VERSION, KIND_OPEN, ref payload @ ..] => {
            take_open(Take::new(payload), version, true).map(Record::Open)
        }
        [version @ 1..=VERSION, KIND_SETTLE, ref payload @ ..] => {
            let mut attempts = Vec::new();
            take_settle(Take::new(payload), version, |attempt| attempts.push(attempt))
                .map(|settle| Record::Settle(Settle { attempts: List::Owned(attempts), ..settle }))
        }
        [version, _, ..] if version >= VERSION => return Err(Stop::Newer(version)),
        _ => None,
    };
    Ok((record.ok_or(Stop::Bad)?, align(FRAME_BYTES + length).min(bytes.len())))
}

/// The first frame of a run that was checked before, padding included.
pub(super) fn split(bytes: &[u8]) -> Option<&[u8]> {
    let length = Take::new(bytes).u32()? as usize;
    if length == 0 {
        return None;
    }
    bytes.get(..align(FRAME_BYTES + length).min(bytes.len()))
}

/// The id in a frame that was checked before, if it holds an `Open`.
pub(super) fn opens(frame: &[u8]) -> Option<RequestId> {
    let (_, kind, mut take) = payload(frame)?;
    if kind == KIND_OPEN { take.u128().map(RequestId::from_u128) } else { None }
}

/// The `Open` in a frame that was checked before, without its candidates: nothing is allocated.
pub(super) fn open_of(frame: &[u8]) -> Option<Open<'_>> {
    match payload(frame)? {
        (version, KIND_OPEN, take) => take_open(take, version, false),
        _ => None,
    }
}

/// The `Settle` in a frame that was checked before. Its attempts go to `each` and not into the
/// list: nothing is allocated.
pub(super) fn settle_of<'a>(frame: &'a [u8], each: impl FnMut(Attempt<'a>)) -> Option<Settle<'a>> {
    match payload(frame)? {
        (version, KIND_SETTLE, take) => take_settle(take, version, each),
        _ => None,
    }
}

fn payload(frame: &[u8]) -> Option<(u8, u8, Take<'_>)> {
    let mut take = Take::new(frame);
    let length = take.u32()? as usize;
    let mut take = Take::new(frame.get(FRAME_BYTES..FRAME_BYTES + length)?);
    Some((take.u8()?, take.u8()?, take))
}

fn take_open(mut take: Take<'_>, version: u8, with_candidates: bool) -> Option<Open<'_>> {
    let mut open = Open::new(RequestId::from_u128(take.u128()?));
    open.time_unix_ms = take.u64()?;
    for text in [
        &mut open.key,
        &mut open.account,
        &mut open.project,
        &mut open.user,
        &mut open.end_user,
        &mut open.endpoint,
        &mut open.model,
    ] {
        *text = take.text()?;
    }
    if version >= 2 {
        open.tags = take.text()?;
        open.client = take.text()?;
        open.is_stream = take.u8()? != 0;
        open.currency = take.array()?;
    }
    open.reserved_tokens = take.varint()?;
    open.reserved_cost_pico = take.varint_u128()?;
    if !with_candidates {
        return Some(open);
    }
    let count = usize::from(take.u8()?);
    let mut candidates = Vec::with_capacity(count.min(CANDIDATES_MAX));
    for _ in 0..count {
        candidates.push(Candidate { target: take.text()?, score: f32::from_bits(take.u32()?) });
    }
    open.candidates = List::Owned(candidates);
    (take.left() == 0).then_some(open)
}

fn take_settle<'a>(
    mut take: Take<'a>,
    version: u8,
    mut each: impl FnMut(Attempt<'a>),
) -> Option<Settle<'a>> {
    let mut settle = Settle::new(RequestId::from_u128(take.u128()?));
    settle.time_unix_ms = take.u64()?;
    settle.status = take.u16()?;
    settle.error = take_error(&mut take)?;
    settle.state = State::from_code(take.u8()?)?;
    settle.flags = Flags(take.u8()?);
    settle.target = take.text()?;
    settle.model_served = take.text()?;
    settle.upstream_request_id = take.text()?;
    settle.units = take.units()?;
    if version >= 2 {
        settle.cost_pico = take.varint_u128()?;
        settle.charge_pico = take.varint_u128()?;
        settle.fx_rate_pico = take.varint_u128()?;
        settle.price_version = take.u64()?;
    }
    settle.ttft_us = take_time(&mut take)?;
    settle.total_us = take_time(&mut take)?.unwrap_or(0);
    settle.overhead_us = take_time(&mut take)?.unwrap_or(0);
    for _ in 0..take.u8()? {
        let mut attempt = Attempt {
            target: take.text()?,
            error: take_error(&mut take)?,
            units: take.units()?,
            ttft_us: take_time(&mut take)?,
            ..Attempt::default()
        };
        if version >= 2 {
            attempt.cost_pico = take.varint_u128()?;
            attempt.price_version = take.u64()?;
        }
        each(attempt);
    }
    (take.left() == 0).then_some(settle)
}

fn take_error(take: &mut Take<'_>) -> Option<Option<Kind>> {
    match take.u8()? {
        NO_ERROR => Some(None),
        code => Some(Some(Kind::from_code(code).unwrap_or(Kind::Internal))),
    }
}

fn take_time(take: &mut Take<'_>) -> Option<Option<u64>> {
    Some(take.varint()?.checked_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn largest_units() -> Units {
        Units::from_values([u64::MAX; Units::COUNT])
    }

    fn settle<'a>(attempts: &'a [Attempt<'a>], name: &'a str) -> Settle<'a> {
        Settle {
            id: RequestId::new(u64::MAX, u128::MAX),
            time_unix_ms: u64::MAX,
            status: 599,
            error: Some(Kind::Truncated),
            state: State::Estimated,
            flags: Flags::STREAM.with(Flags::CLIENT_GONE),
            target: name,
            model_served: name,
            upstream_request_id: name,
            units: largest_units(),
            cost_pico: u128::MAX,
            charge_pico: u128::MAX,
            price_version: u64::MAX,
            fx_rate_pico: u128::MAX,
            ttft_us: Some(u64::MAX),
            total_us: u64::MAX,
            overhead_us: u64::MAX,
            attempts: List::Borrowed(attempts),
        }
    }

    #[test]
    fn records_come_back_as_they_were_written() {
        let candidates = [
            Candidate { target: "a/m", score: 0.25 },
            Candidate { target: "b/m", score: f32::INFINITY },
        ];
        let open = Open {
            id: RequestId::new(1_700_000_000_000, 7),
            time_unix_ms: 1_700_000_000_000,
            key: "key-1",
            account: "acme",
            project: "chat",
            user: "",
            end_user: "kunde \u{1F980}",
            tags: "blue,green",
            client: "2001:db8::1",
            is_stream: true,
            currency: *b"EUR",
            endpoint: "chat",
            model: "gpt-4o",
            reserved_tokens: 4096,
            reserved_cost_pico: 1 << 80,
            candidates: List::Borrowed(&candidates),
        };
        let attempts = [
            Attempt { target: "a/m", error: Some(Kind::ServerError), ..Attempt::default() },
            Attempt {
                target: "b/m",
                units: Units { in_text: 11, out_text: 5, ..Units::default() },
                ttft_us: Some(0),
                cost_pico: 4_600,
                price_version: 7,
                ..Attempt::default()
            },
        ];
        let settle = Settle {
            id: open.id,
            status: 200,
            error: None,
            target: "b/m",
            units: attempts[1].units,
            ttft_us: None,
            total_us: 900,
            overhead_us: 12,
            ..settle(&attempts, "b/m")
        };
        let records = [Record::Open(open), Record::Settle(settle)];
        let frames = records.each_ref().map(whole);
        for (record, bytes) in records.into_iter().zip(&frames) {
            assert_eq!(bytes.len() % 4, 0);
            assert_eq!(decode(bytes), Ok((record, bytes.len())));
        }
    }

    /// The bytes were written by the program before money was recorded.
    #[test]
    fn records_of_version_1_are_read() {
        let mut payload = vec![1, KIND_OPEN];
        payload.put_u128(7);
        payload.put_u64(1_700_000_000_000);
        for text in ["k", "acme", "chat", "", "", "chat", "gpt-4o"] {
            payload.put_text(text, TEXT_BYTES_MAX);
        }
        payload.put(&[0x80, 0x20, 0x07, 0]);
        let want = Open {
            time_unix_ms: 1_700_000_000_000,
            key: "k",
            account: "acme",
            project: "chat",
            endpoint: "chat",
            model: "gpt-4o",
            reserved_tokens: 4096,
            reserved_cost_pico: 7,
            ..Open::new(RequestId::from_u128(7))
        };
        assert_eq!(decode(&framed_by_hand(&payload)).map(|(it, _)| it), Ok(Record::Open(want)));

        let mut payload = vec![1, KIND_SETTLE];
        payload.put_u128(7);
        payload.put_u64(9);
        payload.put_u16(200);
        payload.put(&[NO_ERROR, 0, 2]);
        for text in ["a/m", "", "up"] {
            payload.put_text(text, TEXT_BYTES_MAX);
        }
        let units = Units { in_text: 11, out_text: 5, ..Units::default() };
        payload.put_units(&units, UNIT_MAX);
        payload.put(&[3, 4, 5, 1, 3]);
        payload.put(b"a/m");
        payload.put(&[NO_ERROR]);
        payload.put_units(&units, UNIT_MAX);
        payload.put(&[3]);
        let attempt = Attempt { target: "a/m", units, ttft_us: Some(2), ..Attempt::default() };
        let want = Settle {
            time_unix_ms: 9,
            status: 200,
            state: State::Settled,
            flags: Flags::STREAM,
            target: "a/m",
            upstream_request_id: "up",
            units,
            ttft_us: Some(2),
            total_us: 3,
            overhead_us: 4,
            attempts: List::Owned(vec![attempt]),
            ..Settle::new(RequestId::from_u128(7))
        };
        assert_eq!(decode(&framed_by_hand(&payload)).map(|(it, _)| it), Ok(Record::Settle(want)));
    }

    fn framed_by_hand(payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        out.put_u32(payload.len() as u32);
        out.put_u32(crc32fast::hash(payload));
        out.put(payload);
        out.resize(align(out.len()), 0);
        out
    }

    #[test]
    fn a_checked_frame_is_read_without_its_lists() {
        let candidates = [Candidate { target: "a/m", score: 1.0 }];
        let open = Open {
            model: "m",
            candidates: List::Borrowed(&candidates),
            ..Open::new(RequestId::new(5, 5))
        };
        let bytes = whole(&Record::Open(open.clone()));
        assert_eq!(open_of(&bytes), Some(Open { candidates: List::EMPTY, ..open }));
        assert_eq!(settle_of(&bytes, |_| ()), None);
        let attempts = [Attempt { target: "a/m", cost_pico: 3, ..Attempt::default() }];
        let settle =
            Settle { attempts: List::Borrowed(&attempts), ..Settle::new(RequestId::new(5, 5)) };
        let bytes = whole(&Record::Settle(settle.clone()));
        let mut seen = Vec::new();
        let read = settle_of(&bytes, |attempt| seen.push(attempt));
        assert_eq!(read, Some(Settle { attempts: List::EMPTY, ..settle }));
        assert_eq!((seen.as_slice(), open_of(&bytes)), (attempts.as_slice(), None));
    }

    #[test]
    fn the_largest_settle_fits_into_its_room() {
        let name = "n".repeat(300);
        let attempt = Attempt {
            target: &name,
            error: Some(Kind::Internal),
            units: largest_units(),
            ttft_us: Some(u64::MAX),
            cost_pico: u128::MAX,
            price_version: u64::MAX,
        };
        let attempts = [attempt; ATTEMPTS_MAX + 3];
        for room in [Room::new(0, 0), Room::new(3, 40), Room::LARGEST] {
            let mut out = vec![0; room.bytes()];
            let encoded = encode_settle(&settle(&attempts, &name), room, &mut out);
            let encoded = encoded.expect("the room holds it");
            assert!(encoded.frame_bytes > room.bytes() - 8, "the room is not wasted");
        }
    }

    #[test]
    fn a_newer_record_is_told_from_a_damaged_one() {
        let mut bytes = whole(&Record::Settle(settle(&[], "t")));
        bytes[8] = VERSION + 1;
        assert_eq!(decode(&bytes), Err(Stop::Bad), "the checksum comes first");
        let length = u32::from_le_bytes(bytes[..4].try_into().expect("four")) as usize;
        let crc = crc32fast::hash(&bytes[8..8 + length]);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(decode(&bytes), Err(Stop::Newer(VERSION + 1)));
    }
}
