//! Taking in what a former process left behind.

use std::fmt;
use std::path::{Path, PathBuf};

use super::frame::{self, RECORD_BYTES_MAX, Stop};
use super::journal::OpenError;
use super::segment::{self, HEADER_BYTES, Header, sync_dir};
use super::{Abandoned, Batch, Covered, Span, Store};

/// Damaged segments are set aside for whoever wants to look; no more than this many.
const DAMAGED_KEPT: usize = 8;
const DAMAGED_EXTENSION: &str = "damaged";

/// What was found at the start.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Report {
    /// Segments of a former process.
    pub segments: usize,
    /// Records that were not in the store yet.
    pub records: usize,
    /// Requests that were never settled and count as unsettled now.
    pub unsettled: Vec<Abandoned>,
    /// Segments that ended within a record: normal after a sudden end.
    pub torn_segments: usize,
    /// What had to be cut off there.
    pub torn_bytes: usize,
    /// Segments with a fault before their end. They are set aside.
    pub damaged_segments: usize,
    /// What could not be read there: records that are lost.
    pub damaged_bytes: usize,
}

impl Report {
    /// Whether there was anything to do.
    pub fn is_empty(&self) -> bool {
        *self == Report::default()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "journal: took in {} records from {} segments, {} requests unsettled, \
             cut {} bytes of torn ends in {} segments, lost {} bytes to damage in {} segments",
            self.records,
            self.segments,
            self.unsettled.len(),
            self.torn_bytes,
            self.torn_segments,
            self.damaged_bytes,
            self.damaged_segments,
        )
    }
}

/// Brings all segments in `dir` into the store, then removes them. Gives the report and the number
/// of the first segment to come. Stopped at any point, it can be run again.
pub(super) fn replay(dir: &Path, store: &dyn Store) -> Result<(Report, u64), OpenError> {
    let mut report = Report::default();
    let mut covered = store.covered().map_err(OpenError::Store)?;
    let found = segments(dir)?;
    let mut damaged = Vec::new();
    for &(id, ref path) in &found {
        covered.highest = covered.highest.max(id);
        let bytes = std::fs::read(path).map_err(|cause| io_error(path, cause))?;
        report.segments += 1;
        match take_in(&bytes, id, path, store, &mut covered, &mut report)? {
            Tail::Torn(lost_bytes) => {
                report.torn_segments += 1;
                report.torn_bytes += lost_bytes;
            }
            Tail::Damaged(lost_bytes) => {
                report.damaged_segments += 1;
                report.damaged_bytes += lost_bytes;
                damaged.push(id);
            }
            Tail::Clean | Tail::Newer(_) => {}
        }
    }
    report.unsettled = store.abandon().map_err(OpenError::Store)?;
    for (id, path) in &found {
        let done = match damaged.contains(id) {
            true => std::fs::rename(path, path.with_extension(DAMAGED_EXTENSION)),
            false => segment::remove(path),
        };
        done.map_err(|cause| io_error(path, cause))?;
    }
    forget_old_damage(dir)?;
    sync_dir(dir).map_err(|cause| io_error(dir, cause))?;
    Ok((report, covered.highest + 1))
}

/// Commits one segment's new records.
fn take_in(
    bytes: &[u8],
    id: u64,
    path: &Path,
    store: &dyn Store,
    covered: &mut Covered,
    report: &mut Report,
) -> Result<Tail, OpenError> {
    let newer = |version| OpenError::Newer { path: path.to_owned(), version };
    let made_bytes = match segment::read_header(bytes) {
        Header::Segment { bytes } => bytes,
        Header::Unused if bytes.iter().all(|&byte| byte == 0) => return Ok(Tail::Clean),
        Header::Newer(version) => return Err(newer(version)),
        Header::Unused | Header::Bad => return Ok(Tail::Damaged(bytes.len())),
    };
    let from = covered.positions.get(&id).map_or(HEADER_BYTES, |&at| at as usize);
    let Some(unread) = bytes.get(from..) else {
        return Ok(Tail::Damaged(from - bytes.len()));
    };
    let (mut records, mut sound_bytes) = (0, 0);
    let mut tail = walk(unread, |end| {
        records += 1;
        sound_bytes = end;
    });
    if let Tail::Newer(version) = tail {
        return Err(newer(u16::from(version)));
    }
    // Segments are made in full: no sudden end of the process makes one shorter.
    if bytes.len() < made_bytes && !matches!(tail, Tail::Damaged(_)) {
        tail = Tail::Damaged(made_bytes - from - sound_bytes);
    }
    if records > 0 {
        report.records += records;
        covered.positions.insert(id, (from + sound_bytes) as u64);
        let span = Span { segment: id, start: from as u64, bytes: &unread[..sound_bytes] };
        let batch = Batch { spans: vec![span], covered: covered.clone() };
        store.commit(&batch).map_err(OpenError::Store)?;
    }
    Ok(tail)
}

/// How a run of records ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Tail {
    /// Nothing but zeros follows.
    Clean,
    /// Fewer bytes than one record's could not be read, and no record follows.
    Torn(usize),
    /// Whole records are lost, or may be.
    Damaged(usize),
    /// A sound record that only a later version of this program can read.
    Newer(u8),
}

/// Checks records from the start of `bytes`; `visit` gets the offset after each. Stops at the first
/// thing that is not a sound record.
pub(super) fn walk(bytes: &[u8], mut visit: impl FnMut(usize)) -> Tail {
    let mut at = 0;
    loop {
        match frame::decode(&bytes[at..]) {
            Ok((_, frame_bytes)) => {
                at += frame_bytes;
                visit(at);
            }
            Err(Stop::Newer(version)) => return Tail::Newer(version),
            Err(Stop::End | Stop::Bad) => break,
        }
    }
    match bytes[at..].iter().rposition(|&byte| byte != 0) {
        None => Tail::Clean,
        Some(last) if last < RECORD_BYTES_MAX && !holds_record(&bytes[at..]) => {
            Tail::Torn(last + 1)
        }
        Some(last) => Tail::Damaged(last + 1),
    }
}

/// Whether a sound record begins anywhere in `bytes`: what is torn is the last that was written, so
/// that bytes before a sound record were changed later.
fn holds_record(bytes: &[u8]) -> bool {
    let starts = (0..bytes.len().min(RECORD_BYTES_MAX)).step_by(frame::ALIGNMENT);
    starts.skip(1).any(|at| matches!(frame::decode(&bytes[at..]), Ok(_) | Err(Stop::Newer(_))))
}

fn segments(dir: &Path) -> Result<Vec<(u64, PathBuf)>, OpenError> {
    let mut found: Vec<_> = files(dir)?
        .into_iter()
        .filter_map(|path| Some((segment::id_of(path.file_name()?.to_str()?)?, path)))
        .collect();
    // A lane's numbers grow, and a request stays in its lane: in this order every `Open` comes
    // before its `Settle`.
    found.sort();
    Ok(found)
}

fn files(dir: &Path) -> Result<Vec<PathBuf>, OpenError> {
    let read = || std::fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<Result<_, _>>();
    read().map_err(|cause| io_error(dir, cause))
}

fn forget_old_damage(dir: &Path) -> Result<(), OpenError> {
    let mut damaged = files(dir)?;
    damaged.retain(|path| path.extension().is_some_and(|it| it == DAMAGED_EXTENSION));
    damaged.sort();
    let surplus = damaged.len().saturating_sub(DAMAGED_KEPT);
    for path in &damaged[..surplus] {
        segment::remove(path).map_err(|cause| io_error(path, cause))?;
    }
    Ok(())
}

pub(super) fn io_error(path: &Path, cause: std::io::Error) -> OpenError {
    OpenError::Io { path: path.to_owned(), cause }
}
