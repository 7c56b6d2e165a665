//! Texts made from the description: the reference, and the commented example.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::keys::ROOT;
use super::presets::PROVIDERS;
use super::schema::{Key, Kind, Start, Table};

/// Where comment lines are broken.
const WIDTH: usize = 96;

/// Every table and key in Markdown: `foretoken config reference`.
pub fn reference() -> String {
    let mut out = String::from("# Configuration of foretoken\n\n");
    paragraph(&mut out, "", ROOT.doc);
    let mut said = BTreeSet::new();
    for key in ROOT.keys {
        let table = key.kind.table().expect("the file consists of tables");
        table_reference(&mut out, table, &mut said);
    }
    out.push_str(
        "\n## Presets of [[provider]]\n\n| preset | base_url | dialect | include_usage |\n",
    );
    out.push_str("| --- | --- | --- | --- |\n");
    for preset in PROVIDERS {
        let _ = writeln!(
            out,
            "| `{}` | {} | {} | {} |",
            preset.name, preset.base_url, preset.dialect, preset.include_usage
        );
    }
    out
}

/// One table and those within it, unless an earlier one had them.
fn table_reference(out: &mut String, table: &Table, said: &mut BTreeSet<&'static str>) {
    if !said.insert(table.label) {
        return;
    }
    let _ = write!(out, "\n## {}\n\n", table.label);
    paragraph(out, "", table.doc);
    out.push_str("\n| key | value | default | |\n| --- | --- | --- | --- |\n");
    for key in table.keys {
        let default = match key.start {
            Start::Required => "required".to_owned(),
            Start::Absent => String::new(),
            Start::Is("{}") => String::new(),
            Start::Is(text) => format!("`{}`", key.kind.literal(text)),
        };
        let _ = writeln!(
            out,
            "| `{}` | {} | {default} | {}{} |",
            key.name,
            key.kind.describe(),
            key.doc,
            example(key)
        );
    }
    if !table.later.is_empty() {
        let names: Vec<String> = table.later.iter().map(|name| format!("`{name}`")).collect();
        let _ = write!(out, "\nNot available in this version: {}.\n", names.join(", "));
    }
    for key in table.keys {
        if let Some(inner) = key.kind.table() {
            table_reference(out, inner, said);
        }
    }
}

fn example(key: &Key) -> String {
    match key.example {
        Some(text) => format!(" Example: `{} = {}`", key.name, key.kind.literal(text)),
        None => String::new(),
    }
}

/// A commented configuration with every key: `foretoken config init`. What is in force in it is
/// enough to serve; the rest is commented out at its default, or with an example.
pub fn init() -> String {
    let mut out = String::new();
    paragraph(&mut out, "# ", "Configuration of foretoken.");
    paragraph(&mut out, "# ", ROOT.doc);
    paragraph(
        &mut out,
        "# ",
        "Lines that begin with \"#\" and no blank are settings: at their default, or as an example \
         where there is none.",
    );
    let mut init = Init { out, said: BTreeSet::new() };
    for key in ROOT.keys {
        init.section("", key, true);
    }
    init.out
}

/// The example while it is written.
struct Init {
    out: String,
    /// Keys that are explained already, by name and sentence: a table that stands at several places
    /// is explained at the first.
    said: BTreeSet<(&'static str, &'static str)>,
}

impl Init {
    /// One table with its header; tables within it that have headers of their own come after its
    /// keys.
    fn section(&mut self, parent: &str, key: &Key, outer_shown: bool) {
        let table = key.kind.table().expect("only tables have headers");
        let path =
            if parent.is_empty() { key.name.to_owned() } else { format!("{parent}.{}", key.name) };
        let shown = key.shown && outer_shown;
        let mark = if shown { "" } else { "#" };
        self.out.push('\n');
        paragraph(&mut self.out, "# ", table.doc);
        let _ = match key.kind {
            Kind::Sections(_) => writeln!(self.out, "{mark}[[{path}]]"),
            _ => writeln!(self.out, "{mark}[{path}]"),
        };
        // Before any inner table explains them once more.
        self.said.extend(table.keys.iter().map(|key| (key.name, key.doc)));
        for inner in table.keys.iter().filter(|key| !matches!(key.kind, Kind::Section(_))) {
            self.setting(inner, shown);
        }
        for inner in table.keys.iter().filter(|key| matches!(key.kind, Kind::Section(_))) {
            self.section(&path, inner, shown);
        }
    }

    fn setting(&mut self, key: &Key, outer_shown: bool) {
        paragraph(&mut self.out, "# ", key.doc);
        match key.kind {
            Kind::Choice(choices) => {
                paragraph(&mut self.out, "# ", &format!("One of: {}.", choices.now.join(", ")))
            }
            Kind::List(Kind::Choice(choices)) => {
                paragraph(&mut self.out, "# ", &format!("Of: {}.", choices.now.join(", ")));
            }
            kind => {
                if let Some(table) = kind.table() {
                    self.explain("#   ", table);
                }
            }
        }
        let mark = if key.shown && outer_shown { "" } else { "#" };
        let _ = writeln!(self.out, "{mark}{} = {}", key.name, value(key));
    }

    /// What the keys of a table in braces are, and of tables within it.
    fn explain(&mut self, lead: &str, table: &Table) {
        for key in table.keys {
            if !self.said.insert((key.name, key.doc)) {
                continue;
            }
            paragraph(&mut self.out, lead, &format!("{}: {}", key.name, key.doc));
            if let Some(inner) = key.kind.table() {
                self.explain(&format!("{lead}  "), inner);
            }
        }
    }
}

/// The example of a key, else its default.
fn value(key: &Key) -> String {
    match (key.example, key.start, key.kind) {
        (Some(text), _, kind) => kind.literal(text),
        (None, Start::Is("{}"), Kind::Inline(table)) => {
            let pairs: Vec<String> =
                table.keys.iter().map(|key| format!("{} = {}", key.name, value(key))).collect();
            format!("{{ {} }}", pairs.join(", "))
        }
        (None, Start::Is(text), kind) => kind.literal(text),
        (None, Start::Absent | Start::Required, kind) => kind.literal(""),
    }
}

/// Breaks a text into lines that begin with `lead`.
fn paragraph(out: &mut String, lead: &str, text: &str) {
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() && lead.len() + line.len() + 1 + word.len() > WIDTH {
            let _ = writeln!(out, "{lead}{line}");
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    if !line.is_empty() {
        let _ = writeln!(out, "{lead}{line}");
    }
}
