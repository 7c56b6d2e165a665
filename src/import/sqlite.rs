//! Tables of a SQLite file, opened for reading only.

use std::path::Path;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};

use super::Fault;
use super::tables::{Cells, MOST_ROWS, Table};

/// What every SQLite file begins with.
pub(super) const MAGIC: &[u8] = b"SQLite format 3\0";

/// The wanted tables of a file, those that are there.
pub(super) fn read(path: &Path, wanted: &[&str]) -> Result<Vec<Table>, Fault> {
    let wrong =
        |error: rusqlite::Error| Fault::new(format!("it cannot be read as a database: {error}"));
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(wrong)?;
    let mut tables = Vec::new();
    for name in wanted {
        let known = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?1";
        let mut known = connection.prepare(known).map_err(wrong)?;
        if known.exists([name]).map_err(wrong)? {
            tables.push(table(&connection, name).map_err(wrong)?);
        }
    }
    if let Some(full) = tables.iter().find(|table| table.rows.len() > MOST_ROWS) {
        return Err(Fault::new(format!("more than {MOST_ROWS} rows of {}", full.name)));
    }
    Ok(tables)
}

fn table(connection: &Connection, name: &str) -> Result<Table, rusqlite::Error> {
    // The name is one of ours; one row more than may be, to see that there are too many.
    let sql = format!("SELECT * FROM \"{name}\" LIMIT {}", MOST_ROWS + 1);
    let mut statement = connection.prepare(&sql)?;
    let columns: Vec<String> = statement.column_names().into_iter().map(str::to_owned).collect();
    let mut table = Table { name: name.to_owned(), columns, rows: Vec::new() };
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let cells = (0..table.columns.len()).map(|at| row.get_ref(at).map(text));
        table.rows.push(Cells { line: 0, cells: cells.collect::<Result<_, _>>()? });
    }
    Ok(table)
}

fn text(value: ValueRef<'_>) -> Option<String> {
    match value {
        ValueRef::Null => None,
        ValueRef::Integer(number) => Some(number.to_string()),
        ValueRef::Real(number) => Some(number.to_string()),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => {
            Some(String::from_utf8_lossy(bytes).into_owned())
        }
    }
}
