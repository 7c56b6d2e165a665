//! Faults of a configuration: where, what, and the cure; gathered, sorted and printed together.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;

use serde::Serialize;

use super::load::Fingerprint;

/// One fault, or one warning, of a configuration file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Fault {
    /// The file as it was named to us.
    pub file: String,
    /// Counted from 1; 0 if the fault is of the file as a whole.
    pub line: usize,
    /// In characters, counted from 1; 0 if the fault is of the file as a whole.
    pub column: usize,
    /// What is wrong. Never holds a secret.
    pub message: String,
    /// What to do about it.
    pub cure: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        write!(f, ": {}", self.message)?;
        if !self.cure.is_empty() {
            write!(f, "; {}", self.cure)?;
        }
        Ok(())
    }
}

/// All faults of one configuration, in the order of the file. Prints one a line.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(transparent)]
pub struct Faults {
    /// At least one.
    pub faults: Vec<Fault>,
    /// Every file that was read or looked for: a change to one of them may be the cure.
    #[serde(skip)]
    pub fingerprint: Fingerprint,
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, fault) in self.faults.iter().enumerate() {
            if at > 0 {
                f.write_str("\n")?;
            }
            fault.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

/// What is wrong with a value, as the end of a sentence that begins with the value's key.
#[derive(Debug)]
pub(super) struct Wrong {
    pub problem: String,
    pub cure: String,
}

impl Wrong {
    pub(super) fn new(problem: impl Into<String>, cure: impl Into<String>) -> Wrong {
        Wrong { problem: problem.into(), cure: cure.into() }
    }
}

/// More faults than anybody reads in one go; each costs a walk through the text.
const MOST_FAULTS: usize = 1000;

/// Gathers the faults and warnings of one file.
pub(super) struct Sink<'a> {
    file: &'a str,
    text: &'a str,
    faults: Vec<(usize, Fault)>,
    warnings: Vec<(usize, Fault)>,
    /// Lines that are no TOML: what else seems wrong there follows from that.
    syntax_lines: BTreeSet<usize>,
}

impl<'a> Sink<'a> {
    pub(super) fn new(file: &'a str, text: &'a str) -> Self {
        Sink { file, text, faults: Vec::new(), warnings: Vec::new(), syntax_lines: BTreeSet::new() }
    }

    /// Notes a fault at `span` of the text.
    pub(super) fn fault(
        &mut self,
        span: &Range<usize>,
        message: impl Into<String>,
        cure: impl Into<String>,
    ) {
        if self.faults.len() >= MOST_FAULTS {
            return;
        }
        let fault = self.locate(span.start, message.into(), cure.into());
        if !self.syntax_lines.contains(&fault.line) {
            self.faults.push((span.start, fault));
        }
    }

    /// Notes a warning at `span` of the text: the file can be used all the same.
    pub(super) fn warn(
        &mut self,
        span: &Range<usize>,
        message: impl Into<String>,
        cure: impl Into<String>,
    ) {
        if self.warnings.len() >= MOST_FAULTS {
            return;
        }
        let fault = self.locate(span.start, message.into(), cure.into());
        self.warnings.push((span.start, fault));
    }

    /// Notes a fault of TOML's grammar: one a line, since the parser stumbles on after the first.
    pub(super) fn syntax(&mut self, span: &Range<usize>, message: &str) {
        if self.faults.len() >= MOST_FAULTS {
            return;
        }
        let mut message = message.trim_end().replace('\n', "; ");
        let mut cure = "";
        if message == "duplicate key" {
            let name = self.text.get(span.clone()).unwrap_or("").trim_matches('"');
            message = format!("duplicate key {}", quote(name));
            cure = "remove one of the two";
        }
        let fault = self.locate(span.start, message, cure.to_owned());
        if self.syntax_lines.insert(fault.line) {
            self.faults.push((span.start, fault));
        }
    }

    pub(super) fn is_clean(&self) -> bool {
        self.faults.is_empty()
    }

    /// Faults and warnings, each in the order of the file.
    pub(super) fn finish(mut self) -> (Vec<Fault>, Vec<Fault>) {
        let sorted = |list: &mut Vec<(usize, Fault)>| {
            list.sort_by_key(|(at, _)| *at);
            std::mem::take(list).into_iter().map(|(_, fault)| fault).collect()
        };
        (sorted(&mut self.faults), sorted(&mut self.warnings))
    }

    /// A fault at a byte of the text, which is noted nowhere.
    pub(super) fn locate(&self, offset: usize, message: String, cure: String) -> Fault {
        let (line, column) = position(self.text, offset);
        Fault { file: self.file.to_owned(), line, column, message, cure }
    }
}

/// Line and column, from 1, of a byte offset; columns are characters.
pub(super) fn position(text: &str, offset: usize) -> (usize, usize) {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    let before = &text[..offset];
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// Quotes a text from the file for a message: escaped and bounded, so that a message stays one line.
pub(super) fn quote(text: &str) -> String {
    const LONGEST: usize = 80;
    match text.char_indices().nth(LONGEST) {
        Some((at, _)) => format!("\"{}…\"", text[..at].escape_debug()),
        None => format!("\"{}\"", text.escape_debug()),
    }
}

/// The cure for a wrong name: the nearest valid one, else all of them.
pub(super) fn did_you_mean<'n>(
    wrong: &str,
    names: impl Iterator<Item = &'n str> + Clone,
    what: &str,
) -> String {
    const MOST: usize = 24;
    if let Some(name) = nearest(wrong, names.clone()) {
        return format!("did you mean {}?", quote(name));
    }
    let mut list: Vec<&str> = names.clone().take(MOST).collect();
    if list.is_empty() {
        return format!("there is no {what} yet");
    }
    if names.count() > MOST {
        list.push("…");
    }
    format!("valid: {}", list.join(", "))
}

/// The name that was most likely meant: within a third of its length in edits, and none nearer.
pub(super) fn nearest<'n>(wrong: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    const LONGEST: usize = 64;
    if wrong.chars().count() > LONGEST {
        return None;
    }
    let wrong = wrong.to_lowercase();
    names
        .filter(|name| name.len() <= LONGEST)
        .map(|name| (edits(&wrong, &name.to_lowercase()), name))
        .filter(|(far, name)| *far <= (name.chars().count().max(wrong.len()) / 3).max(1))
        .min_by_key(|(far, _)| *far)
        .map(|(_, name)| name)
}

/// Optimal string alignment distance: insertions, deletions, replacements, neighbours swapped.
fn edits(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: [Vec<usize>; 3] = [vec![0; b.len() + 1], (0..=b.len()).collect(), vec![]];
    rows[2] = vec![0; b.len() + 1];
    for i in 1..=a.len() {
        rows[2][0] = i;
        for j in 1..=b.len() {
            let replace = rows[1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replace.min(rows[1][j] + 1).min(rows[2][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[0][j - 2] + 1);
            }
            rows[2][j] = best;
        }
        rows.rotate_left(1);
    }
    rows[1][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_offered_and_a_far_one_is_not() {
        let names = ["policy", "targets", "fallbacks", "name"];
        let near = |wrong| nearest(wrong, names.iter().copied());
        assert_eq!(near("polcy"), Some("policy"));
        assert_eq!(near("polciy"), Some("policy"), "neighbours swapped");
        assert_eq!(near("Target"), Some("targets"));
        assert_eq!(near("nmae"), Some("name"));
        assert_eq!(near("timeout"), None);
        assert_eq!(near(""), None);
    }

    #[test]
    fn columns_are_characters_and_a_cut_character_is_no_panic() {
        assert_eq!(position("a\nüb", 4), (2, 2));
        assert_eq!(position("a\nüb", 3), (2, 1));
        assert_eq!(position("a", 99), (1, 2));
    }

    #[test]
    fn a_quoted_text_stays_on_one_line() {
        assert_eq!(quote("a\nb\u{1b}"), r#""a\nb\u{1b}""#);
        assert!(quote(&"x".repeat(1000)).len() < 100);
    }
}
