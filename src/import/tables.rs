//! Tables as databases export them: CSV with a head, `COPY` blocks of `pg_dump`, JSON arrays. Every
//! cell is text, or nothing; numbers never become floats.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::Fault;

/// The most rows of one table, and the most columns.
pub(super) const MOST_ROWS: usize = 1_000_000;
const MOST_COLUMNS: usize = 1_000;

/// A table with its rows.
#[derive(Default, Debug)]
pub(super) struct Table {
    /// Empty if the format has none.
    pub name: String,
    pub columns: Vec<String>,
    pub rows: Vec<Cells>,
}

/// The cells of one row, in the order of the columns.
#[derive(Debug)]
pub(super) struct Cells {
    /// Where the row begins; 0 where there are no lines.
    pub line: usize,
    pub cells: Vec<Option<String>>,
}

/// A row that is asked by the names of its columns.
#[derive(Clone, Copy)]
pub(super) struct Row<'t> {
    pub line: usize,
    columns: &'t [String],
    cells: &'t [Option<String>],
}

impl Table {
    pub(super) fn has(&self, column: &str) -> bool {
        self.columns.iter().any(|name| name == column)
    }

    pub(super) fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        self.rows.iter().map(|row| Row {
            line: row.line,
            columns: &self.columns,
            cells: &row.cells,
        })
    }
}

impl<'t> Row<'t> {
    /// The text of a cell; what is null, empty or missing is nothing.
    pub(super) fn get(&self, column: &str) -> Option<&'t str> {
        let at = self.columns.iter().position(|name| name == column)?;
        self.cells.get(at)?.as_deref().filter(|text| !text.is_empty())
    }

    /// Is the switch on? Databases write it in many ways.
    pub(super) fn is_true(&self, column: &str) -> bool {
        self.get(column).is_some_and(|text| ["t", "true", "1", "TRUE", "True"].contains(&text))
    }

    /// The texts of a list: `{a,"b c"}` as PostgreSQL writes it, or JSON.
    pub(super) fn list(&self, column: &str) -> Vec<String> {
        self.get(column).map(list).unwrap_or_default()
    }

    /// The members of a JSON object, each as JSON; nothing if it is no object.
    pub(super) fn object(&self, column: &str) -> BTreeMap<String, Box<RawValue>> {
        self.get(column).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
    }
}

/// A JSON value as a cell: a text is its content, everything else its JSON.
pub(super) fn cell(raw: &RawValue) -> Option<String> {
    match raw.get() {
        "null" => None,
        text if text.starts_with('"') => serde_json::from_str(text).ok(),
        other => Some(other.to_owned()),
    }
}

fn list(text: &str) -> Vec<String> {
    if text.starts_with('[') {
        return serde_json::from_str(text).unwrap_or_default();
    }
    let Some(inner) = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) else {
        return Vec::new();
    };
    let (mut items, mut item, mut quoted) = (Vec::new(), String::new(), false);
    let mut letters = inner.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '"' => quoted = !quoted,
            '\\' => item.extend(letters.next()),
            ',' if !quoted => items.push(std::mem::take(&mut item)),
            other => item.push(other),
        }
    }
    items.push(item);
    items.retain(|item| !item.is_empty());
    items
}

/// The tables of a text, whichever of the formats it is.
pub(super) fn parse(text: &str) -> Result<Vec<Table>, Fault> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    match text.trim_start().as_bytes().first() {
        None => Err(Fault::new("it is empty")),
        Some(b'[' | b'{') => json(text).map(|table| vec![table]),
        Some(_) if text.lines().any(is_copy) => copies(text),
        Some(_) => csv(text).map(|table| vec![table]),
    }
}

/// An array of objects, or one object after the other.
fn json(text: &str) -> Result<Table, Fault> {
    let wrong =
        |error: serde_json::Error| Fault::at(error.line(), format!("it is no JSON: {error}"));
    let items: Vec<&RawValue> = if text.trim_start().starts_with('[') {
        serde_json::from_str(text).map_err(wrong)?
    } else {
        let stream = serde_json::Deserializer::from_str(text).into_iter();
        stream.collect::<Result<_, _>>().map_err(wrong)?
    };
    let mut table = Table::default();
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    let mut lines = Lines::new(text);
    for item in items {
        let line = lines.of(item.get().as_ptr() as usize - text.as_ptr() as usize);
        let object: BTreeMap<String, &RawValue> = serde_json::from_str(item.get())
            .map_err(|_| Fault::at(line, "an object is expected here"))?;
        let mut cells = vec![None; table.columns.len()];
        for (name, raw) in object {
            let at = *places.entry(name).or_insert_with_key(|name| {
                table.columns.push(name.clone());
                table.columns.len() - 1
            });
            cells.resize(cells.len().max(at + 1), None);
            cells[at] = cell(raw);
        }
        push(&mut table, line, cells)?;
    }
    Ok(table)
}

fn push(table: &mut Table, line: usize, cells: Vec<Option<String>>) -> Result<(), Fault> {
    if table.rows.len() == MOST_ROWS {
        return Err(Fault::at(line, format!("more than {MOST_ROWS} rows")));
    }
    if cells.len() > MOST_COLUMNS {
        return Err(Fault::at(line, format!("more than {MOST_COLUMNS} columns")));
    }
    table.rows.push(Cells { line, cells });
    Ok(())
}

/// Does a `COPY table (columns) FROM stdin;` begin here?
fn is_copy(line: &str) -> bool {
    line.starts_with("COPY ") && line.trim_end().ends_with("FROM stdin;")
}

fn copies(text: &str) -> Result<Vec<Table>, Fault> {
    let mut tables: Vec<Table> = Vec::new();
    let mut open: Option<Table> = None;
    for (at, line) in text.lines().enumerate() {
        match &mut open {
            None if is_copy(line) => open = Some(copy_head(line, at + 1)?),
            None => {}
            Some(_) if line == "\\." => tables.extend(open.take()),
            Some(table) => {
                let cells = line.split('\t').map(copy_cell).collect::<Vec<_>>();
                if cells.len() != table.columns.len() {
                    let (found, want) = (cells.len(), table.columns.len());
                    let message = format!("{found} cells, where the table has {want} columns");
                    return Err(Fault::at(at + 1, message));
                }
                push(table, at + 1, cells)?;
            }
        }
    }
    match open {
        Some(table) => {
            let message = format!("the rows of {} do not end: the file is cut off", table.name);
            Err(Fault::at(text.lines().count(), message))
        }
        None => Ok(tables),
    }
}

/// `COPY public."Name" (a, b) FROM stdin;`
fn copy_head(line: &str, number: usize) -> Result<Table, Fault> {
    let parts = line["COPY ".len()..]
        .split_once('(')
        .and_then(|(name, rest)| Some((name.trim(), rest.rsplit_once(')')?.0)));
    let Some((name, columns)) = parts else {
        return Err(Fault::at(number, "this COPY names no columns"));
    };
    let bare = |text: &str| text.trim().trim_matches('"').to_owned();
    let name = bare(name.rsplit('.').next().unwrap_or(name));
    Ok(Table { name, columns: columns.split(',').map(bare).collect(), rows: Vec::new() })
}

fn copy_cell(text: &str) -> Option<String> {
    if text == "\\N" {
        return None;
    }
    let mut out = String::with_capacity(text.len());
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        let letter = match letter {
            '\\' => match letters.next() {
                Some('n') => '\n',
                Some('t') => '\t',
                Some('r') => '\r',
                Some(other) => other,
                None => '\\',
            },
            other => other,
        };
        out.push(letter);
    }
    Some(out)
}

/// CSV with a head, as RFC 4180 has it.
fn csv(text: &str) -> Result<Table, Fault> {
    let mut table = Table::default();
    let (mut rest, mut line) = (text, 1);
    while !rest.is_empty() {
        let start = line;
        let mut cells = Vec::new();
        loop {
            let (cell, after) =
                csv_cell(rest).ok_or_else(|| Fault::at(line, "the quotes of a cell do not end"))?;
            line += rest[..rest.len() - after.len()].matches('\n').count();
            cells.push(Some(cell).filter(|cell| !cell.is_empty()));
            rest = after;
            match rest.strip_prefix(',') {
                Some(after) if cells.len() <= MOST_COLUMNS => rest = after,
                _ => break,
            }
        }
        let end = rest.strip_prefix("\r\n").or_else(|| rest.strip_prefix('\n'));
        rest = match end {
            Some(after) => after,
            None if rest.is_empty() => rest,
            None => return Err(Fault::at(line, "something stands behind the quotes of a cell")),
        };
        line += usize::from(end.is_some());
        if cells.iter().all(Option::is_none) && cells.len() == 1 {
            continue;
        }
        if table.columns.is_empty() {
            let name = |cell: Option<String>| cell.unwrap_or_default().trim().to_owned();
            table.columns = cells.into_iter().map(name).collect();
        } else if cells.len() != table.columns.len() {
            let (found, want) = (cells.len(), table.columns.len());
            return Err(Fault::at(start, format!("{found} cells, where the head has {want}")));
        } else {
            push(&mut table, start, cells)?;
        }
    }
    Ok(table)
}

/// One cell and what follows it. `None`: its quotes do not end.
fn csv_cell(text: &str) -> Option<(String, &str)> {
    let Some(mut rest) = text.strip_prefix('"') else {
        let end = text.find([',', '\n']).unwrap_or(text.len());
        let cell = &text[..end];
        let bare = if text[end..].starts_with(',') { cell } else { cell.trim_end_matches('\r') };
        return Some((bare.to_owned(), &text[bare.len()..]));
    };
    let mut cell = String::new();
    loop {
        let end = rest.find('"')?;
        cell.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('"') {
            Some(after) => {
                cell.push('"');
                rest = after;
            }
            None => return Some((cell, rest)),
        }
    }
}

/// Line numbers of places that are asked for in their order.
pub(super) struct Lines<'t> {
    bytes: &'t [u8],
    at: usize,
    line: usize,
}

impl<'t> Lines<'t> {
    pub(super) fn new(text: &'t str) -> Lines<'t> {
        Lines { bytes: text.as_bytes(), at: 0, line: 1 }
    }

    /// The line of a place that is not before the last one.
    pub(super) fn of(&mut self, place: usize) -> usize {
        let place = place.clamp(self.at, self.bytes.len());
        self.line += memchr::memchr_iter(b'\n', &self.bytes[self.at..place]).count();
        self.at = place;
        self.line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Table {
        let mut tables = parse(text).expect("tables");
        assert_eq!(tables.len(), 1);
        tables.remove(0)
    }

    #[test]
    fn three_formats_say_the_same() {
        let csv = "token,models,spend,note\r\nab,\"{gpt-4o,\"\"o 1\"\"}\",1.5e-05,\"two\nlines\"\r\ncd,{},,\r\n";
        let copy = "SET x = 1;\nCOPY public.\"T\" (token, models, spend, note) FROM stdin;\nab\t{gpt-4o,\"o 1\"}\t1.5e-05\ttwo\\nlines\ncd\t{}\t\\N\t\n\\.\n";
        let json = "[\n{\"token\":\"ab\",\"models\":[\"gpt-4o\",\"o 1\"],\"spend\":1.5e-05,\"note\":\"two\\nlines\"},\n{\"token\":\"cd\",\"models\":[],\"spend\":null,\"extra\":{\"a\":1}}]";
        for (text, second) in [(csv, 4), (copy, 4), (json, 3)] {
            let table = one(text);
            let rows: Vec<Row<'_>> = table.rows().collect();
            assert_eq!(rows[0].get("token"), Some("ab"), "{text}");
            assert_eq!(rows[0].list("models"), ["gpt-4o", "o 1"]);
            assert_eq!(rows[0].get("spend"), Some("1.5e-05"), "never a float");
            assert_eq!(rows[0].get("note"), Some("two\nlines"));
            assert_eq!(rows[1].get("spend"), None);
            assert!(rows[1].list("models").is_empty());
            assert_eq!((rows.len(), rows[1].line), (2, second));
        }
        assert_eq!(one(copy).name, "T");
        assert_eq!(one("{\"a\":1}\n{\"a\":2}\n").rows.len(), 2);
    }

    #[test]
    fn what_is_malformed_is_told_with_its_line() {
        for (text, line) in [
            ("a,b\n1,2\n3\n", 3),
            ("a,b\n1,\"2\n", 2),
            ("a,b\n1,\"2\"x\n", 2),
            ("COPY t (a, b) FROM stdin;\n1\n\\.\n", 2),
            ("COPY t (a, b) FROM stdin;\n1\t2\n", 2),
            ("[{\"a\":1},\n{\"a\":}]", 2),
            ("[1]", 1),
            ("", 0),
        ] {
            assert_eq!(parse(text).expect_err(text).line, line, "{text}");
        }
        let deep = "[".repeat(100_000);
        assert!(parse(&deep).is_err());
    }
}
