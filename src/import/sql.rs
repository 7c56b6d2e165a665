//! Dumps of databases as SQL: `CREATE TABLE` and `INSERT` of the tables that are wanted; every other
//! statement is stepped over. Nothing is executed.

use super::Fault;
use super::tables::{Cells, Lines, MOST_ROWS, Table};

/// The most columns of a table.
const MOST_COLUMNS: usize = 1_000;

/// What begins an item of `CREATE TABLE` that is no column.
const NO_COLUMNS: [&str; 9] =
    ["PRIMARY", "UNIQUE", "KEY", "INDEX", "CONSTRAINT", "FULLTEXT", "SPATIAL", "FOREIGN", "CHECK"];

/// The wanted tables of a dump.
pub(super) fn parse(text: &str, wanted: &[&str]) -> Result<Vec<Table>, Fault> {
    let mut scanner = Scanner { text, at: 0, lines: Lines::new(text), escapes: true };
    let mut tables: Vec<Table> = Vec::new();
    while scanner.skip_blank()? {
        match scanner.word().as_str() {
            "CREATE" => create(&mut scanner, wanted, &mut tables)?,
            "INSERT" | "REPLACE" => insert(&mut scanner, wanted, &mut tables)?,
            _ => {}
        }
        scanner.skip_statement()?;
    }
    Ok(tables)
}

/// `CREATE TABLE name (columns…`; the rest of the statement is left.
fn create(
    scanner: &mut Scanner<'_>,
    wanted: &[&str],
    tables: &mut Vec<Table>,
) -> Result<(), Fault> {
    scanner.skip_blank()?;
    if scanner.word() != "TABLE" {
        return Ok(());
    }
    scanner.skip_words(&["IF", "NOT", "EXISTS"])?;
    let Some(name) = scanner.table_name()? else { return Ok(()) };
    scanner.skip_blank()?;
    if !wanted.contains(&name.as_str()) || !scanner.eat('(') {
        return Ok(());
    }
    let mut columns = Vec::new();
    loop {
        scanner.skip_blank()?;
        let is_quoted = matches!(scanner.peek(), Some('`' | '"'));
        let Some(column) = scanner.identifier()? else { break };
        if is_quoted || !NO_COLUMNS.contains(&column.to_ascii_uppercase().as_str()) {
            columns.push(column);
        }
        if columns.len() > MOST_COLUMNS {
            return Err(scanner.fault("more than 1000 columns"));
        }
        if !scanner.skip_item()? {
            break;
        }
    }
    tables.retain(|table| table.name != name);
    tables.push(Table { name, columns, rows: Vec::new() });
    Ok(())
}

/// `INSERT INTO name (columns) VALUES (…), (…)`.
fn insert(
    scanner: &mut Scanner<'_>,
    wanted: &[&str],
    tables: &mut Vec<Table>,
) -> Result<(), Fault> {
    scanner.skip_words(&["IGNORE", "INTO"])?;
    let Some(name) = scanner.table_name()? else { return Ok(()) };
    if !wanted.contains(&name.as_str()) {
        return Ok(());
    }
    scanner.skip_blank()?;
    let named = if scanner.eat('(') { Some(scanner.column_list()?) } else { None };
    scanner.skip_words(&["VALUES"])?;
    let at = tables.iter().position(|table| table.name == name);
    let at = at.unwrap_or_else(|| {
        let columns = named.clone().unwrap_or_default();
        tables.push(Table { name: name.clone(), columns, rows: Vec::new() });
        tables.len() - 1
    });
    let table = &mut tables[at];
    if table.columns.is_empty() {
        let message =
            format!("the columns of {name} are not known: dump the table with its CREATE TABLE");
        return Err(scanner.fault(&message));
    }
    // Where each value goes.
    let order: Vec<Option<usize>> = match &named {
        None => (0..table.columns.len()).map(Some).collect(),
        Some(named) => {
            named.iter().map(|name| table.columns.iter().position(|own| own == name)).collect()
        }
    };
    loop {
        scanner.skip_blank()?;
        if !scanner.eat('(') {
            return Ok(());
        }
        let line = scanner.line();
        let values = scanner.values()?;
        if values.len() != order.len() {
            let (found, want) = (values.len(), order.len());
            return Err(scanner.fault(&format!("{found} values, where {want} columns are named")));
        }
        if table.rows.len() == MOST_ROWS {
            return Err(scanner.fault(&format!("more than {MOST_ROWS} rows of {name}")));
        }
        let mut cells = vec![None; table.columns.len()];
        for (value, place) in values.into_iter().zip(&order) {
            if let Some(place) = place {
                cells[*place] = value;
            }
        }
        table.rows.push(Cells { line, cells });
        scanner.skip_blank()?;
        if !scanner.eat(',') {
            return Ok(());
        }
    }
}

struct Scanner<'t> {
    text: &'t str,
    at: usize,
    lines: Lines<'t>,
    /// Is a backslash in a string special? It is for MySQL, which has names in backquotes.
    escapes: bool,
}

impl<'t> Scanner<'t> {
    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn eat(&mut self, letter: char) -> bool {
        let is_there = self.rest().starts_with(letter);
        self.at += if is_there { letter.len_utf8() } else { 0 };
        is_there
    }

    fn line(&mut self) -> usize {
        self.lines.of(self.at)
    }

    fn fault(&mut self, message: &str) -> Fault {
        Fault::at(self.line(), message)
    }

    /// Steps over blanks and comments; false at the end.
    fn skip_blank(&mut self) -> Result<bool, Fault> {
        loop {
            let rest = self.rest();
            self.at += rest.len() - rest.trim_start().len();
            let rest = self.rest();
            let end = if rest.starts_with("--") || rest.starts_with('#') {
                rest.find('\n').unwrap_or(rest.len())
            } else if rest.starts_with("/*") {
                match rest.find("*/") {
                    Some(end) => end + 2,
                    None => return Err(self.fault("a comment that begins here does not end")),
                }
            } else {
                return Ok(!rest.is_empty());
            };
            self.at += end;
        }
    }

    /// A bare word in capitals; empty if there is none.
    fn word(&mut self) -> String {
        let rest = self.rest();
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        self.at += end;
        rest[..end].to_ascii_uppercase()
    }

    /// Steps over these words, those of them that are there.
    fn skip_words(&mut self, words: &[&str]) -> Result<(), Fault> {
        for word in words {
            self.skip_blank()?;
            let before = self.at;
            if self.word() != *word {
                self.at = before;
            }
        }
        Ok(())
    }

    /// A name, bare or in quotes.
    fn identifier(&mut self) -> Result<Option<String>, Fault> {
        self.skip_blank()?;
        let rest = self.rest();
        if let Some(quote @ ('`' | '"')) = self.peek() {
            let Some(end) = rest[1..].find(quote) else {
                return Err(self.fault("a name that begins here does not end"));
            };
            self.at += end + 2;
            return Ok(Some(rest[1..=end].to_owned()));
        }
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        self.at += end;
        Ok(Some(rest[..end].to_owned()).filter(|name| !name.is_empty()))
    }

    /// A table's name, perhaps behind that of its database.
    fn table_name(&mut self) -> Result<Option<String>, Fault> {
        self.skip_blank()?;
        self.escapes = self.peek() == Some('`');
        let mut name = self.identifier()?;
        while self.eat('.') {
            name = self.identifier()?;
        }
        Ok(name)
    }

    fn column_list(&mut self) -> Result<Vec<String>, Fault> {
        let mut columns = Vec::new();
        while let Some(column) = self.identifier()? {
            columns.push(column);
            self.skip_blank()?;
            if !self.eat(',') || columns.len() > MOST_COLUMNS {
                break;
            }
        }
        self.skip_blank()?;
        if self.eat(')') { Ok(columns) } else { Err(self.fault("a list of columns is expected")) }
    }

    /// The values up to the closing bracket.
    fn values(&mut self) -> Result<Vec<Option<String>>, Fault> {
        let mut values = Vec::new();
        loop {
            self.skip_blank()?;
            values.push(self.value()?);
            self.skip_blank()?;
            if self.eat(')') {
                return Ok(values);
            }
            if !self.eat(',') || values.len() > MOST_COLUMNS {
                return Err(self.fault("a value, a comma or a closing bracket is expected"));
            }
        }
    }

    fn value(&mut self) -> Result<Option<String>, Fault> {
        if self.peek() == Some('\'') {
            return self.string().map(Some);
        }
        let rest = self.rest();
        let end = rest.find([',', ')', '\'', '\n']).unwrap_or(rest.len());
        let bare = rest[..end].trim();
        self.at += end;
        match self.peek() {
            // An introducer: `_binary 'x'`, `N'x'`, `X'41'`.
            Some('\'') => {
                let is_hex = bare.eq_ignore_ascii_case("x");
                let inner = self.string()?;
                Ok(Some(inner).filter(|_| !is_hex))
            }
            _ if bare.is_empty() => Err(self.fault("a value is expected")),
            _ => Ok(Some(bare.to_owned()).filter(|text| !text.eq_ignore_ascii_case("NULL"))),
        }
    }

    /// A string in single quotes.
    fn string(&mut self) -> Result<String, Fault> {
        let start = self.at;
        let mut out = String::new();
        self.at += 1;
        loop {
            let rest = self.rest();
            let Some(end) = rest.find(['\'', '\\']) else {
                self.at = start;
                return Err(self.fault("a string that begins here does not end"));
            };
            out.push_str(&rest[..end]);
            self.at += end + 1;
            let is_quote = rest[end..].starts_with('\'');
            if is_quote && !self.eat('\'') {
                return Ok(out);
            }
            match (is_quote, self.escapes, self.peek()) {
                (true, ..) => out.push('\''),
                (false, true, Some(letter)) => {
                    self.at += letter.len_utf8();
                    out.push(escaped(letter));
                }
                (false, ..) => out.push('\\'),
            }
        }
    }

    /// Steps over the rest of an item in brackets; true if another follows.
    fn skip_item(&mut self) -> Result<bool, Fault> {
        let mut depth = 0usize;
        loop {
            match self.peek() {
                None => return Err(self.fault("a statement does not end: the file is cut off")),
                Some('\'') => drop(self.string()?),
                Some('`' | '"') => drop(self.identifier()?),
                Some('(') => (depth, self.at) = (depth + 1, self.at + 1),
                Some(')') if depth > 0 => (depth, self.at) = (depth - 1, self.at + 1),
                Some(')') => return Ok(false),
                Some(',') if depth == 0 => {
                    self.at += 1;
                    return Ok(true);
                }
                Some(letter) => self.at += letter.len_utf8(),
            }
        }
    }

    /// Steps behind the next semicolon that is in no string.
    fn skip_statement(&mut self) -> Result<(), Fault> {
        loop {
            let rest = self.rest();
            let Some(next) = rest.find([';', '\'', '`', '"']) else {
                self.at = self.text.len();
                return Ok(());
            };
            self.at += next;
            match self.peek() {
                Some(';') => {
                    self.at += 1;
                    return Ok(());
                }
                Some('\'') => drop(self.string()?),
                _ => drop(self.identifier()?),
            }
        }
    }
}

/// What a letter behind a backslash stands for in MySQL.
fn escaped(letter: char) -> char {
    match letter {
        'n' => '\n',
        't' => '\t',
        'r' => '\r',
        '0' => '\0',
        'b' => '\u{8}',
        'Z' => '\u{1a}',
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::tables::Row;

    #[test]
    fn a_dump_of_mysql_gives_the_wanted_tables() {
        let dump = "-- MySQL dump 10.13\n/*!40101 SET NAMES utf8mb4 */;\n# x;\n\
            CREATE TABLE `logs` (\n  `id` int,\n  `content` text\n);\n\
            INSERT INTO `logs` VALUES (1,'a;b\\'c);');\n\
            CREATE TABLE IF NOT EXISTS `tokens` (\n  `id` bigint NOT NULL,\n  `name` varchar(9) DEFAULT 'a,b',\n  \
            `key` char(48),\n  `rate` decimal(10,2),\n  PRIMARY KEY (`id`),\n  KEY `idx` (`name`(10))\n) ENGINE=InnoDB;\n\
            LOCK TABLES `tokens` WRITE;\n\
            INSERT INTO `tokens` VALUES (1,'it''s \\\"x\\\"\\n\\\\',NULL,-1.50),\n(2,'渠道',_binary 'ab',0x41);\n\
            INSERT INTO `db`.`tokens` (`key`, `id`) VALUES ('z', 3);\n";
        let tables = parse(dump, &["tokens"]).expect("a dump");
        assert_eq!(tables.len(), 1);
        assert_eq!(tables[0].columns, ["id", "name", "key", "rate"]);
        let rows: Vec<Row<'_>> = tables[0].rows().collect();
        assert_eq!(rows[0].get("name"), Some("it's \"x\"\n\\"));
        assert_eq!((rows[0].get("key"), rows[0].get("rate")), (None, Some("-1.50")));
        assert_eq!((rows[1].get("name"), rows[1].get("key")), (Some("渠道"), Some("ab")));
        assert_eq!(
            (rows[2].get("id"), rows[2].get("key"), rows[2].get("name")),
            (Some("3"), Some("z"), None)
        );
        assert_eq!([rows[0].line, rows[1].line], [18, 19]);
    }

    #[test]
    fn a_backslash_is_itself_in_other_dialects() {
        let dump = "CREATE TABLE \"tokens\" (id integer, \"key\" text);INSERT INTO \"tokens\" VALUES (1,'a\\');";
        let tables = parse(dump, &["tokens"]).expect("a dump");
        assert_eq!(tables[0].rows().next().and_then(|row| row.get("key")), Some("a\\"));
    }

    #[test]
    fn what_is_cut_off_or_no_sql_is_told_with_its_line() {
        for (dump, line) in [
            ("CREATE TABLE `tokens` (\n`id` int\n", 3),
            ("CREATE TABLE `tokens` (`id` int);\nINSERT INTO `tokens` VALUES (1", 2),
            ("CREATE TABLE `tokens` (`id` int);\nINSERT INTO `tokens` VALUES ('1);", 2),
            ("CREATE TABLE `tokens` (`id` int);\n\nINSERT INTO `tokens` VALUES (1,2);", 3),
            ("INSERT INTO `tokens` VALUES (1);", 1),
            ("\n/* x", 2),
        ] {
            assert_eq!(parse(dump, &["tokens"]).expect_err(dump).line, line, "{dump}");
        }
        for garbage in ["", "((((((((", ")))';", "\u{0}\u{1}`", "model_list:\n  - a: 'b\n"] {
            let _ =
                parse(garbage, &["tokens"]).map(|tables| assert!(tables.is_empty(), "{garbage}"));
        }
    }
}
