//! Tables for people: columns that fit the terminal, numbers under one another. Programs read `--json`.

use std::io::IsTerminal as _;

use serde_json::Value;

use crate::money;

/// The width of a table on a terminal that does not say its own, if its columns can be made so narrow.
const WIDTH: usize = 80;
/// No narrower than this.
const NARROWEST: usize = 6;
/// Between two columns.
const GAP: &str = "  ";

/// How a column is set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Set {
    /// To the left, and cut (`…`) where there is no room.
    Cut,
    /// To the left, whole: ids and times are of no use otherwise.
    Whole,
    /// To the right, whole.
    Right,
}

/// A table that grows row by row.
pub(crate) struct Table {
    heads: Vec<(&'static str, Set)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(heads: &[(&'static str, Set)]) -> Self {
        Table { heads: heads.to_vec(), rows: Vec::new() }
    }

    pub(crate) fn row(&mut self, cells: Vec<String>) {
        debug_assert_eq!(cells.len(), self.heads.len());
        self.rows.push(cells.iter().map(|cell| printable(cell)).collect());
    }

    /// The lines, as wide as the terminal; whole if they go to a file or another program.
    pub(crate) fn render(&self) -> String {
        self.render_to(here())
    }

    /// The lines. A column without a single value is left out; without a width nothing is cut.
    fn render_to(&self, most: Option<usize>) -> String {
        let is_used = |at: &usize| self.rows.iter().any(|row| !row[*at].is_empty());
        let columns: Vec<usize> = (0..self.heads.len()).filter(is_used).collect();
        let widths = self.widths(&columns, most.unwrap_or(usize::MAX));
        let mut out = String::new();
        let heads: Vec<String> = self.heads.iter().map(|(head, _)| (*head).to_owned()).collect();
        for row in std::iter::once(&heads).chain(&self.rows) {
            let mut line = String::new();
            for (&at, &width) in columns.iter().zip(&widths) {
                if !line.is_empty() {
                    line += GAP;
                }
                let cell = cut(&row[at], width);
                line += &match self.heads[at].1 {
                    Set::Right => format!("{cell:>width$}"),
                    _ => format!("{cell:width$}"),
                };
            }
            out += line.trim_end();
            out.push('\n');
        }
        out
    }

    /// The widest columns that may be cut give way, until the table fits.
    fn widths(&self, columns: &[usize], most: usize) -> Vec<usize> {
        let length = |text: &str| text.chars().count();
        let natural = |at: &usize| {
            let cells = self.rows.iter().map(|row| length(&row[*at])).max().unwrap_or(0);
            cells.max(length(self.heads[*at].0))
        };
        let mut widths: Vec<usize> = columns.iter().map(natural).collect();
        let gaps = GAP.len() * columns.len().saturating_sub(1);
        while widths.iter().sum::<usize>() + gaps > most {
            let may_shrink =
                |at: &usize| self.heads[columns[*at]].1 == Set::Cut && widths[*at] > NARROWEST;
            let widest = (0..widths.len()).filter(may_shrink).max_by_key(|at| widths[*at]);
            let Some(widest) = widest else { break };
            widths[widest] -= 1;
        }
        widths
    }
}

/// The width of what stdout is. Tests have that of a terminal, wherever they run.
fn here() -> Option<usize> {
    if cfg!(test) {
        return Some(WIDTH);
    }
    let columns = std::env::var("COLUMNS").ok();
    let terminal = terminal_size::terminal_size_of(std::io::stdout());
    let terminal = terminal.map(|(width, _)| usize::from(width.0));
    width(std::io::stdout().is_terminal(), columns.as_deref(), terminal)
}

/// `COLUMNS` counts before what the terminal says of itself; `None` where nothing is to be cut.
fn width(is_terminal: bool, columns: Option<&str>, terminal: Option<usize>) -> Option<usize> {
    let columns = columns.and_then(|columns| columns.trim().parse().ok());
    is_terminal.then(|| columns.or(terminal).filter(|width| *width > 0).unwrap_or(WIDTH))
}

fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    format!("{kept}…")
}

/// Names come from whoever asked for them: nothing in them may steer a terminal.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// A value as a cell: texts as they are, nothing for null.
pub(crate) fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

/// The day of a time, for columns.
pub(crate) fn day(value: &Value) -> String {
    value.as_str().unwrap_or_default().chars().take(10).collect()
}

/// A whole number with its thousands apart: `1,234,567`.
pub(crate) fn grouped(number: u128) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A decimal text as pico-units, exact. `None` if it is none.
pub(crate) fn pico(value: &Value) -> Option<i128> {
    let text = value.as_str()?;
    let (sign, text) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text),
    };
    // Sums may be larger than a single amount may be: the whole and the fraction are read apart.
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let whole = whole.parse::<u64>().ok()?;
    let fraction = money::parse_amount(&format!("0.{fraction}")).ok()?;
    let pico = u128::from(whole) * money::PICO + fraction;
    Some(sign * i128::try_from(pico).ok()?)
}

/// Money for people: six digits after the point, half-even; `--json` has all of them.
pub(crate) fn rounded(pico: i128) -> String {
    let micro = money::mul_div_half_even(pico.unsigned_abs(), 1, 1_000_000).unwrap_or_default();
    let sign = if pico < 0 && micro > 0 { "-" } else { "" };
    format!("{sign}{}.{:06}", micro / 1_000_000, micro % 1_000_000)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_table_fits_and_keeps_what_must_be_whole() {
        let heads = [
            ("NAME", Set::Cut),
            ("PROJECT", Set::Cut),
            ("NOTHING", Set::Cut),
            ("COUNT", Set::Right),
            ("ID", Set::Whole),
        ];
        let mut table = Table::new(&heads);
        let id = "key_01JDXKAAAAAAAAAAAAAAAAAAAA";
        let long = "a-name-that-is-much-longer-than-anybody-would-want-it-to-be".to_owned();
        table.row(vec![long, "default".into(), String::new(), "7".into(), id.into()]);
        table.row(vec!["b\u{1b}[2J".into(), "p".into(), String::new(), "1,234".into(), "x".into()]);
        let told = table.render();
        let lines: Vec<&str> = told.lines().collect();
        assert!(lines.iter().all(|line| line.chars().count() <= 80), "{told}");
        assert!(!told.contains("NOTHING") && !told.contains('\u{1b}'), "{told}");
        assert!(lines[1].contains(id) && lines[1].contains('…'), "{told}");
        assert!(lines[1].contains("default"), "the widest gives way first: {told}");
        let end = |line: &str, word: &str| {
            line.find(word).map(|at| line[..at + word.len()].chars().count())
        };
        assert_eq!(end(lines[0], "COUNT"), end(lines[2], "1,234"), "{told}");
        assert_eq!(end(lines[0], "COUNT"), end(lines[1], "  7"), "{told}");
        for wide in [None, Some(120)] {
            let told = table.render_to(wide);
            assert!(told.contains("want-it-to-be") && !told.contains('…'), "{told}");
        }
        let narrow = table.render_to(Some(60));
        assert!(narrow.lines().all(|line| line.chars().count() <= 60), "{narrow}");
    }

    #[test]
    fn the_terminal_says_how_wide() {
        assert_eq!(width(false, Some("40"), Some(40)), None, "a file is cut nowhere");
        assert_eq!(width(true, Some("200"), Some(90)), Some(200));
        assert_eq!(width(true, None, Some(132)), Some(132));
        assert_eq!(width(true, Some("wide"), Some(132)), Some(132));
        for (columns, terminal) in [(None, None), (None, Some(0)), (Some("0"), None)] {
            assert_eq!(width(true, columns, terminal), Some(80));
        }
    }

    #[test]
    fn numbers_and_money_are_readable() {
        for (number, want) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), want);
        }
        for (text, want) in [
            ("0", "0.000000"),
            ("12.5", "12.500000"),
            ("0.0000005", "0.000000"),
            ("0.0000015", "0.000002"),
            ("-0.25", "-0.250000"),
            ("5000000000.000000000001", "5000000000.000000"),
        ] {
            assert_eq!(rounded(pico(&json!(text)).expect(text)), want, "{text}");
        }
        for bad in [json!(1.5), json!(null), json!("x"), json!("1."), json!("--1")] {
            assert_eq!(pico(&bad), None, "{bad}");
        }
    }
}
