//! Writing: one transaction for all that a batch changes.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use rusqlite::{
    Connection, OptionalExtension, Statement, Transaction, TransactionBehavior, params,
};

use super::names::{Names, Place, Quick};
use super::schema::TAGGED;
use super::tally::{OpenFrames, Tally};
use super::{Fault, damaged, fault_of};
use crate::ident::RequestId;
use crate::store::codec::{Put, Take};
use crate::store::query::{Grain, UsageKey};
use crate::store::sums::{OTHER, Sums};
use crate::store::{Abandoned, Batch, Covered, StoreError, frame};

/// Models and targets that are told apart for one key, over all time. Callers can invent model names
/// where an alias is a pattern; they must not fill the disk. What is above goes to the row
/// [`OTHER`](crate::store::OTHER) of its key.
pub const MODELS_PER_KEY_MAX: u32 = 1024;

/// Rows by end user and tag that a day can have; what is above goes to the label
/// [`OTHER`](crate::store::OTHER).
pub const LABEL_ROWS_PER_DAY_MAX: u64 = 100_000;

/// Rows of sums that are remembered between two commits, so that they need not be read again.
const ROWS_KEPT: usize = 1 << 15;
/// Days whose number of label rows is remembered.
const DAYS_KEPT: usize = 8;
/// The log of open requests is written anew once it is twice as long as it need be, and this.
const LOG_SLACK_BYTES: usize = 64 << 10;
const STATE_FORMAT: u8 = 1;

/// A row of sums: grain, start of the span, row of the name.
type RowId = (Grain, u64, i64);

/// The one who writes. What is in memory is what the last commit wrote.
pub(super) struct Writer {
    pub(super) connection: Connection,
    pub(super) name: String,
    /// What the blocks may take in all; `None`: as much as there is room for.
    pub(super) blocks_bytes_max: Option<usize>,
    blocks_bytes: usize,
    pub(super) label_rows_max: u64,
    state: State,
    open: OpenFrames,
    log_bytes: usize,
    names: Names,
    rows: HashMap<RowId, Sums, Quick>,
    label_rows: HashMap<u64, u64>,
    /// A transaction failed, so that nobody knows whether it was written: read it all again.
    is_doubtful: bool,
}

/// What belongs to one moment beside the sums.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct State {
    pub(super) covered: Covered,
    /// Settled without an `Open`: it was in a part that had to be cut off.
    pub(super) orphans: u64,
}

/// What was learned while a transaction was written.
#[derive(Default)]
struct Written {
    rows: Vec<(RowId, Sums)>,
    places: HashMap<Place, i64, Quick>,
    label_rows: HashMap<u64, u64>,
    log_bytes: usize,
    blocks_bytes: usize,
}

impl Writer {
    pub(super) fn open(
        connection: Connection,
        name: String,
        blocks_bytes_max: Option<usize>,
    ) -> Result<Self, StoreError> {
        let mut writer = Writer {
            connection,
            name,
            blocks_bytes_max,
            blocks_bytes: 0,
            label_rows_max: LABEL_ROWS_PER_DAY_MAX,
            state: State::default(),
            open: OpenFrames::default(),
            log_bytes: 0,
            names: Names::default(),
            rows: HashMap::default(),
            label_rows: HashMap::default(),
            is_doubtful: true,
        };
        writer.be_sure()?;
        Ok(writer)
    }

    pub(super) fn state(&mut self) -> Result<&State, StoreError> {
        self.be_sure()?;
        Ok(&self.state)
    }

    pub(super) fn commit(&mut self, batch: &Batch<'_>) -> Result<(), StoreError> {
        self.be_sure()?;
        let reached = &self.state.covered.positions;
        let tally = Tally::of(batch, reached, &self.open, &mut self.names);
        let orphans = self.state.orphans + tally.orphans;
        let state = State { covered: batch.covered.clone(), orphans };
        self.is_doubtful = true;
        let written = self.write(&tally, &state)?;
        let opened = tally.opened.iter().map(|(&id, &frame)| (id, frame.into())).collect();
        let closed = tally.closed;
        self.remember(written, state, opened, &closed);
        Ok(())
    }

    pub(super) fn abandon(&mut self) -> Result<Vec<Abandoned>, StoreError> {
        self.be_sure()?;
        let (mut tally, mut abandoned) = (Tally::default(), Vec::with_capacity(self.open.len()));
        for (&id, frame) in &self.open {
            tally.closed.push(id);
            let Some(open) = tally.abandon(frame, &mut self.names) else { continue };
            abandoned.push(Abandoned {
                id,
                time_unix_ms: open.time_unix_ms,
                key: open.key.to_owned(),
                model: open.model.to_owned(),
                reserved_tokens: open.reserved_tokens,
            });
        }
        abandoned.sort_by_key(|abandoned| abandoned.id);
        if !tally.closed.is_empty() {
            let state = self.state.clone();
            self.is_doubtful = true;
            let written = self.write(&tally, &state)?;
            let closed = tally.closed;
            self.remember(written, state, Vec::new(), &closed);
        }
        Ok(abandoned)
    }

    /// The file is the truth; memory follows it after a failure, and at the start.
    fn be_sure(&mut self) -> Result<(), StoreError> {
        if !self.is_doubtful {
            return Ok(());
        }
        (self.state, self.open, self.log_bytes) = read_all(&self.connection, &self.name)?;
        self.names = Names::default();
        self.rows.clear();
        self.label_rows.clear();
        self.is_doubtful = false;
        Ok(())
    }

    fn remember(
        &mut self,
        written: Written,
        state: State,
        opened: Vec<(RequestId, Box<[u8]>)>,
        closed: &[RequestId],
    ) {
        self.is_doubtful = false;
        self.state = state;
        closed.iter().for_each(|id| drop(self.open.remove(id)));
        self.open.extend(opened);
        (self.log_bytes, self.blocks_bytes) = (written.log_bytes, written.blocks_bytes);
        if self.rows.len() + written.rows.len() > ROWS_KEPT {
            self.rows.clear();
        }
        self.rows.extend(written.rows.into_iter().take(ROWS_KEPT));
        written.places.into_iter().for_each(|(place, row)| self.names.set_row(place, row));
        self.names.shrink();
        self.label_rows = written.label_rows;
        if self.label_rows.len() > DAYS_KEPT {
            self.label_rows.clear();
        }
    }

    fn write(&self, tally: &Tally<'_>, state: &State) -> Result<Written, StoreError> {
        let fault = fault_of(&self.name);
        let behavior = TransactionBehavior::Immediate;
        let transaction = Transaction::new_unchecked(&self.connection, behavior).map_err(&fault)?;
        let mut written = Written { label_rows: self.label_rows.clone(), ..Written::default() };
        written.blocks_bytes = self.put_blocks(tally, &fault)?;
        written.log_bytes = self.put_open(tally, &fault)?;
        let mut names = NameTable::new(&self.connection, &self.names).map_err(&fault)?;
        written.rows = self.put_sums(tally, &mut names, &fault)?;
        self.put_labels(tally, &mut names, &mut written.label_rows, &fault)?;
        written.places = names.rows;
        self.connection
            .prepare("UPDATE usage_state SET state = ?1")
            .and_then(|mut statement| statement.execute([state.pack()]))
            .map_err(&fault)?;
        transaction.commit().map_err(&fault)?;
        Ok(written)
    }

    /// Gives what all blocks take.
    fn put_blocks(&self, tally: &Tally<'_>, fault: Fault<'_>) -> Result<usize, StoreError> {
        let mut insert = self
            .connection
            .prepare(
                "INSERT INTO usage_block (first_ms, last_ms, count, bytes) VALUES (?1, ?2, ?3, ?4)",
            )
            .map_err(fault)?;
        let mut all_bytes = self.blocks_bytes;
        for block in &tally.blocks {
            let [first, last, count] =
                [block.first_ms, block.last_ms, block.count].map(|number| number as i64);
            insert.execute(params![first, last, count, block.bytes]).map_err(fault)?;
            all_bytes += block.bytes.len();
        }
        while self.blocks_bytes_max.is_some_and(|max| all_bytes > max) {
            let Some(freed_bytes) = drop_oldest(&self.connection).map_err(fault)? else { break };
            all_bytes -= freed_bytes.min(all_bytes);
        }
        Ok(all_bytes)
    }

    /// Gives the length of the log.
    fn put_open(&self, tally: &Tally<'_>, fault: Fault<'_>) -> Result<usize, StoreError> {
        if tally.opened.is_empty() && tally.closed.is_empty() {
            return Ok(self.log_bytes);
        }
        let mut frames: Vec<u8> =
            tally.opened.values().flat_map(|frame| frame.iter()).copied().collect();
        let mut closed = Vec::with_capacity(tally.closed.len() * 16);
        tally.closed.iter().for_each(|id| closed.put_u128(id.to_u128()));
        let mut log_bytes = self.log_bytes + frames.len() + closed.len();
        let old_bytes: usize = self.open.values().map(|frame| frame.len()).sum();
        let gone = tally.closed.iter().filter_map(|id| self.open.get(id));
        let kept_bytes = old_bytes - gone.map(|frame| frame.len()).sum::<usize>();
        let need_bytes = kept_bytes + frames.len();
        if need_bytes == 0 || log_bytes > 2 * need_bytes + LOG_SLACK_BYTES {
            self.connection.execute("DELETE FROM usage_open", []).map_err(fault)?;
            let gone: std::collections::HashSet<_, Quick> = tally.closed.iter().collect();
            let kept = self.open.iter().filter(|(id, _)| !gone.contains(id));
            kept.for_each(|(_, frame)| frames.extend_from_slice(frame));
            closed.clear();
            log_bytes = frames.len();
        }
        if log_bytes > 0 {
            self.connection
                .prepare("INSERT INTO usage_open (frames, closed) VALUES (?1, ?2)")
                .and_then(|mut statement| statement.execute(params![frames, closed]))
                .map_err(fault)?;
        }
        Ok(log_bytes)
    }

    fn put_sums(
        &self,
        tally: &Tally<'_>,
        names: &mut NameTable<'_>,
        fault: Fault<'_>,
    ) -> Result<Vec<(RowId, Sums)>, StoreError> {
        let mut changes: HashMap<RowId, Sums, Quick> = HashMap::default();
        for (&(hour_ms, place), sums) in &tally.sums {
            let row = names.row(place).map_err(fault)?;
            for grain in Grain::ALL {
                changes.entry((grain, grain.start(hour_ms), row)).or_default().add(sums);
            }
        }
        // In the order of the table: neighbours share a page.
        let mut changes: Vec<_> = changes.into_iter().collect();
        changes.sort_unstable_by_key(|&(row, _)| row);
        let mut packed = Vec::new();
        let mut select = self
            .connection
            .prepare("SELECT sums FROM usage_sum WHERE grain = ?1 AND start_ms = ?2 AND name = ?3")
            .map_err(fault)?;
        let mut put = self
            .connection
            .prepare("INSERT OR REPLACE INTO usage_sum VALUES (?1, ?2, ?3, ?4)")
            .map_err(fault)?;
        for (row, sums) in &mut changes {
            let key = (row.0 as u8, row.1 as i64, row.2);
            match self.rows.get(row) {
                Some(before) => sums.add(before),
                None => {
                    let before = select
                        .query_row(key, |found| read_sums(found.get_ref(0)?.as_blob()?))
                        .optional()
                        .map_err(fault)?;
                    before.iter().for_each(|before| sums.add(before));
                }
            }
            packed.clear();
            sums.write(&mut packed);
            put.execute(params![key.0, key.1, key.2, packed]).map_err(fault)?;
        }
        Ok(changes)
    }

    fn put_labels(
        &self,
        tally: &Tally<'_>,
        names: &mut NameTable<'_>,
        label_rows: &mut HashMap<u64, u64>,
        fault: Fault<'_>,
    ) -> Result<(), StoreError> {
        if tally.labels.is_empty() {
            return Ok(());
        }
        let mut packed = Vec::new();
        let mut select = self
            .connection
            .prepare(
                "SELECT sums FROM usage_label \
                 WHERE start_ms = ?1 AND kind = ?2 AND label = ?3 AND name = ?4",
            )
            .map_err(fault)?;
        let mut put = self
            .connection
            .prepare("INSERT OR REPLACE INTO usage_label VALUES (?1, ?2, ?3, ?4, ?5)")
            .map_err(fault)?;
        for (label, sums) in &tally.labels {
            let name = names.row(label.place).map_err(fault)?;
            let (day, kind) = (label.day_ms as i64, label.kind);
            let mut find = |text: &str| {
                let read = |row: &rusqlite::Row<'_>| read_sums(row.get_ref(0)?.as_blob()?);
                select.query_row(params![day, kind, text, name], read).optional().map_err(fault)
            };
            let mut text = label.label;
            let mut before = find(text)?;
            if before.is_none() && kind != TAGGED {
                let rows = self.label_rows_of(label.day_ms, label_rows).map_err(fault)?;
                if *rows < self.label_rows_max {
                    *rows += 1;
                } else {
                    text = OTHER;
                    before = find(text)?;
                }
            }
            let mut sums = *sums;
            before.iter().for_each(|before| sums.add(before));
            packed.clear();
            sums.write(&mut packed);
            put.execute(params![day, kind, text, name, packed]).map_err(fault)?;
        }
        Ok(())
    }

    /// How many rows by label a day has, those of all that is tagged aside.
    fn label_rows_of<'a>(
        &self,
        day_ms: u64,
        known: &'a mut HashMap<u64, u64>,
    ) -> rusqlite::Result<&'a mut u64> {
        match known.entry(day_ms) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => {
                let rows: i64 = self.connection.query_row(
                    "SELECT count(*) FROM usage_label WHERE start_ms = ?1 AND kind <> ?2",
                    params![day_ms as i64, TAGGED],
                    |row| row.get(0),
                )?;
                Ok(entry.insert(rows as u64))
            }
        }
    }
}

/// The table of names, within one transaction.
struct NameTable<'a> {
    connection: &'a Connection,
    names: &'a Names,
    find: Statement<'a>,
    make: Statement<'a>,
    count: Statement<'a>,
    /// What was found out since the transaction began.
    rows: HashMap<Place, i64, Quick>,
}

impl<'a> NameTable<'a> {
    fn new(connection: &'a Connection, names: &'a Names) -> rusqlite::Result<Self> {
        let find = connection.prepare(
            "SELECT id FROM usage_name WHERE key = ?4 AND account = ?1 AND project = ?2 \
             AND user = ?3 AND model = ?5 AND target = ?6 AND currency = ?7",
        )?;
        let make = connection.prepare(
            "INSERT INTO usage_name (account, project, user, key, model, target, currency) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?;
        let count = connection.prepare(
            "SELECT count(*) FROM \
             (SELECT 1 FROM usage_name WHERE key = ?1 AND account = ?2 LIMIT ?3)",
        )?;
        Ok(NameTable { connection, names, find, make, count, rows: HashMap::default() })
    }

    /// The row of the name, which is made if need be.
    fn row(&mut self, place: Place) -> rusqlite::Result<i64> {
        if let Some(row) = self.names.row(place).or_else(|| self.rows.get(&place).copied()) {
            return Ok(row);
        }
        let name = self.names.name(place);
        let row = match self.find(&name)? {
            Some(row) => row,
            None if self.is_full(&name)? => {
                let other = UsageKey { model: OTHER, target: OTHER, ..name };
                match self.find(&other)? {
                    Some(row) => row,
                    None => self.make(&other)?,
                }
            }
            None => self.make(&name)?,
        };
        self.rows.insert(place, row);
        Ok(row)
    }

    fn find(&mut self, name: &UsageKey<'_>) -> rusqlite::Result<Option<i64>> {
        self.find.query_row(columns(name), |row| row.get(0)).optional()
    }

    fn make(&mut self, name: &UsageKey<'_>) -> rusqlite::Result<i64> {
        self.make.execute(columns(name))?;
        Ok(self.connection.last_insert_rowid())
    }

    fn is_full(&mut self, name: &UsageKey<'_>) -> rusqlite::Result<bool> {
        let count: u32 = self
            .count
            .query_row(params![name.key, name.account, MODELS_PER_KEY_MAX], |row| row.get(0))?;
        Ok(count >= MODELS_PER_KEY_MAX)
    }
}

fn columns<'a>(name: &UsageKey<'a>) -> [std::borrow::Cow<'a, str>; 7] {
    let UsageKey { account, project, user, key, model, target, currency } = *name;
    let texts = [account, project, user, key, model, target];
    let mut columns = [const { std::borrow::Cow::Borrowed("") }; 7];
    columns.iter_mut().zip(texts).for_each(|(column, text)| *column = text.into());
    columns[6] = String::from_utf8_lossy(&currency).into_owned().into();
    columns
}

/// Reads what [`Sums::write`] wrote, for SQLite's own error type.
pub(super) fn read_sums(packed: &[u8]) -> rusqlite::Result<Sums> {
    Sums::read(packed).ok_or(rusqlite::Error::InvalidQuery)
}

/// Gives the bytes of the block that went; `None` if there was none.
fn drop_oldest(connection: &Connection) -> rusqlite::Result<Option<usize>> {
    let found = connection
        .prepare(
            "DELETE FROM usage_block WHERE seq = (SELECT min(seq) FROM usage_block) \
             RETURNING last_ms, length(bytes)",
        )?
        .query_row([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))
        .optional()?;
    let Some((last_ms, freed_bytes)) = found else { return Ok(None) };
    connection.execute(
        "UPDATE usage_state SET kept_from_ms = max(kept_from_ms, ?1)",
        [last_ms.saturating_add(1)],
    )?;
    Ok(Some(freed_bytes as usize))
}

fn read_all(connection: &Connection, name: &str) -> Result<(State, OpenFrames, usize), StoreError> {
    let fault = fault_of(name);
    let packed: Vec<u8> = connection
        .query_row("SELECT state FROM usage_state", [], |row| row.get(0))
        .map_err(&fault)?;
    let state = State::unpack(&packed).ok_or_else(|| damaged(name, "its state cannot be read"))?;
    let (mut open, mut log_bytes) = (OpenFrames::default(), 0);
    let mut statement =
        connection.prepare("SELECT frames, closed FROM usage_open ORDER BY seq").map_err(&fault)?;
    let mut rows = statement.query([]).map_err(&fault)?;
    while let Some(row) = rows.next().map_err(&fault)? {
        let frames = row.get_ref(0).and_then(|it| Ok(it.as_blob()?)).map_err(&fault)?;
        let closed = row.get_ref(1).and_then(|it| Ok(it.as_blob()?)).map_err(&fault)?;
        log_bytes += frames.len() + closed.len();
        let mut take = Take::new(closed);
        while let Some(id) = take.u128() {
            open.remove(&RequestId::from_u128(id));
        }
        let mut rest = frames;
        while let Some(frame) = frame::split(rest) {
            let is_sound = frame::decode(frame).is_ok();
            let id = frame::opens(frame).filter(|_| is_sound);
            let id = id.ok_or_else(|| damaged(name, "its open requests cannot be read"))?;
            open.insert(id, frame.into());
            rest = &rest[frame.len()..];
        }
    }
    Ok((state, open, log_bytes))
}

impl State {
    fn pack(&self) -> Vec<u8> {
        let mut out = vec![STATE_FORMAT];
        out.put_u64(self.covered.highest);
        out.put_u64(self.orphans);
        for (&segment, &end) in &self.covered.positions {
            out.put_varint(segment);
            out.put_varint(end);
        }
        out
    }

    fn unpack(packed: &[u8]) -> Option<State> {
        let mut state = State::default();
        if packed.is_empty() {
            return Some(state);
        }
        let mut take = Take::new(packed);
        if take.u8()? != STATE_FORMAT {
            return None;
        }
        state.covered.highest = take.u64()?;
        state.orphans = take.u64()?;
        while take.left() > 0 {
            state.covered.positions.insert(take.varint()?, take.varint()?);
        }
        Some(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_comes_back_as_it_was_written() {
        let positions = [(7, 4096), (u64::MAX, u64::MAX)].into();
        let state = State { covered: Covered { highest: 9, positions }, orphans: 3 };
        assert_eq!(State::unpack(&state.pack()), Some(state.clone()));
        assert_eq!(State::unpack(&[]), Some(State::default()));
        assert_eq!(State::unpack(&[STATE_FORMAT + 1]), None);
    }
}
