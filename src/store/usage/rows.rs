//! Reading what is stored: rows of sums, and packed records by time.

use std::ops::ControlFlow;

use rusqlite::{Connection, OptionalExtension, Row, named_params};

use super::commit::read_sums;
use super::{damaged, fault_of};
use crate::store::query::{DAY_MS, Filter, Grain, HOUR_MS, UsageKey};
use crate::store::sums::Sums;
use crate::store::{StoreError, frame};

/// One who reads, within a transaction: all answers are of the same moment.
pub(super) struct Reader<'a> {
    pub(super) connection: &'a Connection,
    pub(super) name: &'a str,
}

/// A time: from the first moment to before the second.
pub(super) type Time = (u64, u64);

/// Who is visited with the frames of each request.
pub(super) type EachPair<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>;

/// The columns of a row of sums, in the order that [`Reader::each_row`] reads them.
const COLUMNS: &str = "s.start_ms, s.sums, \
     n.account, n.project, n.user, n.key, n.model, n.target, n.currency";
const NAME_FILTER: &str = "(:account IS NULL OR n.account = :account) \
     AND (:project IS NULL OR n.project = :project) \
     AND (:user IS NULL OR n.user = :user) \
     AND (:key IS NULL OR n.key = :key) \
     AND (:model IS NULL OR n.model = :model)";

/// A time as SQLite has it.
pub(super) fn ms(unix_ms: u64) -> i64 {
    i64::try_from(unix_ms).unwrap_or(i64::MAX)
}

impl Reader<'_> {
    /// Visits the rows of a grain whose spans begin in `from..to`.
    pub(super) fn each_row(
        &self,
        grain: Grain,
        (from, to): Time,
        filter: &Filter,
        each: &mut dyn FnMut(&UsageKey<'_>, u64, &Sums),
    ) -> Result<(), StoreError> {
        if from >= to {
            return Ok(());
        }
        if filter.key.is_some() {
            return self.each_row_of_key(grain, (from, to), filter, each);
        }
        let sql = format!(
            "SELECT {COLUMNS} FROM usage_sum s CROSS JOIN usage_name n ON n.id = s.name \
             WHERE s.grain = :grain AND s.start_ms >= :from AND s.start_ms < :to AND {NAME_FILTER}"
        );
        self.rows(&sql, grain, (ms(from), ms(to)), filter, each)
    }

    /// One key has few names, so those are looked up span by span: the rows of a million other keys
    /// need not be read.
    fn each_row_of_key(
        &self,
        grain: Grain,
        (from, to): Time,
        filter: &Filter,
        each: &mut dyn FnMut(&UsageKey<'_>, u64, &Sums),
    ) -> Result<(), StoreError> {
        let ends: (Option<i64>, Option<i64>) = self
            .connection
            .prepare("SELECT min(start_ms), max(start_ms) FROM usage_sum WHERE grain = ?1")
            .and_then(|mut it| it.query_row([grain as u8], |row| Ok((row.get(0)?, row.get(1)?))))
            .map_err(fault_of(self.name))?;
        let (Some(first), Some(last)) = ends else { return Ok(()) };
        let step = match grain {
            Grain::Total | Grain::Day => DAY_MS,
            Grain::Hour => HOUR_MS,
        };
        let from = ms(from.checked_next_multiple_of(step).unwrap_or(u64::MAX)).max(first);
        let to = ms(to).min(last.saturating_add(1));
        let sql = format!(
            "WITH RECURSIVE span (ms) AS (SELECT :from WHERE :from < :to \
               UNION ALL SELECT ms + {step} FROM span WHERE ms + {step} < :to) \
             SELECT {COLUMNS} FROM usage_name n CROSS JOIN span CROSS JOIN usage_sum s \
             ON s.grain = :grain AND s.start_ms = span.ms AND s.name = n.id WHERE {NAME_FILTER} \
             AND n.key = :key"
        );
        self.rows(&sql, grain, (from, to), filter, each)
    }

    fn rows(
        &self,
        sql: &str,
        grain: Grain,
        (from, to): (i64, i64),
        filter: &Filter,
        each: &mut dyn FnMut(&UsageKey<'_>, u64, &Sums),
    ) -> Result<(), StoreError> {
        let fault = fault_of(self.name);
        let mut statement = self.connection.prepare(sql).map_err(&fault)?;
        let mut rows = statement
            .query(named_params! {
                ":grain": grain as u8, ":from": from, ":to": to,
                ":account": filter.account, ":project": filter.project, ":user": filter.user,
                ":key": filter.key, ":model": filter.model,
            })
            .map_err(&fault)?;
        while let Some(row) = rows.next().map_err(&fault)? {
            visit_row(row, each).map_err(|cause| self.row_fault(cause))?;
        }
        Ok(())
    }

    /// Visits the rows by label of the days that begin in `from..to`.
    pub(super) fn each_label(
        &self,
        kind: u8,
        (from, to): Time,
        filter: &Filter,
        each: &mut dyn FnMut(&str, &UsageKey<'_>, u64, &Sums),
    ) -> Result<(), StoreError> {
        let fault = fault_of(self.name);
        let sql = format!(
            "SELECT {COLUMNS}, s.label FROM usage_label s CROSS JOIN usage_name n ON n.id = s.name \
             WHERE s.kind = :kind AND s.start_ms >= :from AND s.start_ms < :to AND {NAME_FILTER}"
        );
        let mut statement = self.connection.prepare(&sql).map_err(&fault)?;
        let mut rows = statement
            .query(named_params! {
                ":kind": kind, ":from": ms(from), ":to": ms(to),
                ":account": filter.account, ":project": filter.project, ":user": filter.user,
                ":key": filter.key, ":model": filter.model,
            })
            .map_err(&fault)?;
        while let Some(row) = rows.next().map_err(&fault)? {
            let label = row.get_ref(9).and_then(|it| Ok(it.as_str()?)).map_err(&fault)?;
            visit_row(row, &mut |name, start, sums| each(label, name, start, sums))
                .map_err(|cause| self.row_fault(cause))?;
        }
        Ok(())
    }

    fn row_fault(&self, cause: rusqlite::Error) -> StoreError {
        match cause {
            rusqlite::Error::InvalidQuery => damaged(self.name, "its sums cannot be read"),
            cause => fault_of(self.name)(cause),
        }
    }

    /// From when on records are kept: what was opened before may be forgotten.
    pub(super) fn kept_from(&self) -> Result<u64, StoreError> {
        self.connection
            .prepare("SELECT kept_from_ms FROM usage_state")
            .and_then(|mut it| it.query_row([], |row| row.get::<_, i64>(0)))
            .map(|kept_from| kept_from.max(0) as u64)
            .map_err(fault_of(self.name))
    }

    /// The time of the newest record; 0 if there is none.
    pub(super) fn newest(&self) -> Result<u64, StoreError> {
        self.connection
            .prepare("SELECT max(last_ms) FROM usage_block")
            .and_then(|mut it| it.query_row([], |row| row.get::<_, Option<i64>>(0)))
            .map(|newest| newest.unwrap_or(0).max(0) as u64)
            .map_err(fault_of(self.name))
    }

    /// Visits the frames of all requests in blocks that have some of `from..to`; others come along.
    pub(super) fn each_pair(&self, (from, to): Time, each: EachPair<'_>) -> Result<(), StoreError> {
        let fault = fault_of(self.name);
        if from >= to {
            return Ok(());
        }
        let mut statement = self
            .connection
            .prepare(
                "SELECT bytes FROM usage_block WHERE last_ms >= ?1 AND first_ms < ?2 \
                 ORDER BY last_ms",
            )
            .map_err(&fault)?;
        let mut rows = statement.query([ms(from), ms(to)]).map_err(&fault)?;
        while let Some(row) = rows.next().map_err(&fault)? {
            let bytes = row.get_ref(0).and_then(|it| Ok(it.as_blob()?)).map_err(&fault)?;
            for (open, settle) in pairs(bytes) {
                if each(open, settle).is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// The records of one block.
    pub(super) fn block(&self, seq: i64) -> Result<Option<Vec<u8>>, StoreError> {
        self.connection
            .prepare("SELECT bytes FROM usage_block WHERE seq = ?1")
            .and_then(|mut it| it.query_row([seq], |row| row.get(0)).optional())
            .map_err(fault_of(self.name))
    }
}

/// The requests in a block, as frames.
pub(super) fn pairs(bytes: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let open = frame::split(rest)?;
        let settle = frame::split(&rest[open.len()..])?;
        rest = &rest[open.len() + settle.len()..];
        Some((open, settle))
    })
}

fn visit_row(
    row: &Row<'_>,
    each: &mut dyn FnMut(&UsageKey<'_>, u64, &Sums),
) -> rusqlite::Result<()> {
    let text = |at| Ok::<_, rusqlite::Error>(row.get_ref(at)?.as_str()?);
    let start: i64 = row.get(0)?;
    let sums = read_sums(row.get_ref(1)?.as_blob()?)?;
    let name = UsageKey {
        account: text(2)?,
        project: text(3)?,
        user: text(4)?,
        key: text(5)?,
        model: text(6)?,
        target: text(7)?,
        currency: text(8)?.as_bytes().try_into().map_err(|_| rusqlite::Error::InvalidQuery)?,
    };
    each(&name, start.max(0) as u64, &sums);
    Ok(())
}
