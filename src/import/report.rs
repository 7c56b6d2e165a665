//! What became of each thing in the source, line by line. Nothing in a report is secret: places,
//! names and reasons only.

use std::fmt::Write as _;

use serde_json::{Value, json};

/// What became of one thing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Fate {
    /// It is in the result and means the same.
    Taken,
    /// It is in the result and means something else, or must be completed by hand.
    Changed,
    /// Nothing in the result stands for it.
    NoCounterpart,
}

impl Fate {
    /// All, in the order in which they are counted.
    pub const ALL: [Fate; 3] = [Fate::Taken, Fate::Changed, Fate::NoCounterpart];

    /// As people read it.
    pub fn label(self) -> &'static str {
        match self {
            Fate::Taken => "taken",
            Fate::Changed => "changed",
            Fate::NoCounterpart => "no counterpart",
        }
    }

    /// As programs read it.
    pub fn name(self) -> &'static str {
        match self {
            Fate::Taken => "taken",
            Fate::Changed => "changed",
            Fate::NoCounterpart => "no_counterpart",
        }
    }
}

/// Where something stands in the source.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct At {
    /// A path like `model_list[0].litellm_params.rpm`, or a row like `channels[3].models`.
    pub place: String,
    /// The line of the file, from 1; 0 where there are no lines.
    pub line: usize,
}

impl At {
    /// A place in a file with lines; 0 for none.
    pub(super) fn new(place: impl Into<String>, line: usize) -> At {
        At { place: place.into(), line }
    }

    /// A part of this place.
    pub(super) fn part(&self, name: &str, line: usize) -> At {
        At::new(format!("{}.{name}", self.place), line)
    }
}

/// One line of the report.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Line {
    pub fate: Fate,
    pub at: At,
    /// What it became, or why it did not.
    pub what: String,
}

/// A variable of the environment that the result refers to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Variable {
    pub name: String,
    /// What its value is.
    pub purpose: String,
}

/// Everything that an import has to tell.
#[derive(Clone, Default, Debug)]
pub struct Report {
    lines: Vec<Line>,
    variables: Vec<Variable>,
}

impl Report {
    /// The lines, in the order of the source.
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// The variables to set before the result is served.
    pub fn variables(&self) -> &[Variable] {
        &self.variables
    }

    /// How many lines have this fate.
    pub fn count(&self, fate: Fate) -> usize {
        self.lines.iter().filter(|line| line.fate == fate).count()
    }

    pub(super) fn taken(&mut self, at: &At, what: impl AsRef<str>) {
        self.add(Fate::Taken, at, what.as_ref());
    }

    pub(super) fn changed(&mut self, at: &At, what: impl AsRef<str>) {
        self.add(Fate::Changed, at, what.as_ref());
    }

    pub(super) fn none(&mut self, at: &At, what: impl AsRef<str>) {
        self.add(Fate::NoCounterpart, at, what.as_ref());
    }

    fn add(&mut self, fate: Fate, at: &At, what: &str) {
        let at = At { place: printable(&at.place), line: at.line };
        self.lines.push(Line { fate, at, what: printable(what) });
    }

    pub(super) fn variable(&mut self, name: &str, purpose: &str) {
        if self.variables.iter().all(|variable| variable.name != name) {
            let purpose = printable(purpose);
            self.variables.push(Variable { name: name.to_owned(), purpose });
        }
    }

    /// The counts, as a sentence.
    pub fn summary(&self) -> String {
        let part = |fate: Fate| format!("{} {}", self.count(fate), fate.label());
        Fate::ALL.map(part).join(", ")
    }

    /// The report for people: a table, the counts, and the variables.
    pub fn text(&self) -> String {
        let place = |line: &Line| match line.at.line {
            0 => line.at.place.clone(),
            number => format!("{} (line {number})", line.at.place),
        };
        // A single long place must not push every sentence off the screen.
        let width =
            self.lines.iter().map(|line| place(line).chars().count()).max().unwrap_or(0).min(64);
        let mut out = String::new();
        for line in &self.lines {
            let (fate, place) = (line.fate.label(), place(line));
            let _ = writeln!(out, "{fate:<14}  {place:<width$}  {}", line.what);
        }
        let _ = writeln!(out, "{}", self.summary());
        if !self.variables.is_empty() {
            out.push_str("\nset before serving:\n");
        }
        for variable in &self.variables {
            let _ = writeln!(out, "  {:<32}  {}", variable.name, variable.purpose);
        }
        out
    }

    /// The report for programs.
    pub fn to_json(&self) -> Value {
        let line = |line: &Line| {
            let number = (line.at.line > 0).then_some(line.at.line);
            json!({"fate": line.fate.name(), "place": line.at.place, "line": number, "what": line.what})
        };
        let variable =
            |variable: &Variable| json!({"name": variable.name, "purpose": variable.purpose});
        json!({
            "taken": self.count(Fate::Taken),
            "changed": self.count(Fate::Changed),
            "no_counterpart": self.count(Fate::NoCounterpart),
            "lines": self.lines.iter().map(line).collect::<Vec<_>>(),
            "variables": self.variables.iter().map(variable).collect::<Vec<_>>(),
        })
    }
}

/// Names come from others: what a terminal would obey is shown instead, and nothing is endless.
pub(super) fn printable(text: &str) -> String {
    const LONGEST_CHARS: usize = 400;
    let mut out = String::with_capacity(text.len().min(LONGEST_CHARS));
    for (count, letter) in text.chars().enumerate() {
        if count == LONGEST_CHARS {
            out.push('…');
            break;
        }
        match letter.is_control() {
            true => out.extend(letter.escape_default()),
            false => out.push(letter),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_a_table_a_sum_and_a_list_of_variables() {
        let mut report = Report::default();
        report.taken(&At::new("model_list[0]", 3), "gpt-4o -> openai/gpt-4o");
        report.none(&At::new("tokens[7]", 0), "blocked\u{1b}[2J\nthere");
        report.variable("OPENAI_API_KEY", "the key of openai");
        report.variable("OPENAI_API_KEY", "said twice");
        let text = report.text();
        assert!(text.contains("taken           model_list[0] (line 3)  gpt-4o -> openai/gpt-4o\n"));
        assert!(
            text.contains("no counterpart  tokens[7]               blocked\\u{1b}[2J\\nthere\n")
        );
        assert!(text.contains("1 taken, 0 changed, 1 no counterpart\n"), "{text}");
        assert!(
            text.ends_with("  OPENAI_API_KEY                    the key of openai\n"),
            "{text}"
        );
        let json = report.to_json();
        assert_eq!(json["lines"][0]["line"], 3);
        assert_eq!(json["lines"][1]["line"], Value::Null);
        assert_eq!(json["lines"][1]["fate"], "no_counterpart");
        assert_eq!(json["variables"].as_array().map(Vec::len), Some(1));
    }
}
