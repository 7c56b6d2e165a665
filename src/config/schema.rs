//! The form of a description: what `keys.rs` says of every key.

use std::time::Duration;

use super::choices::Choices;

/// One table of the configuration.
#[derive(Debug)]
pub(super) struct Table {
    /// As messages and the reference name it: `[server]`, `[[model]]`, `targets of [[model]]`.
    pub label: &'static str,
    pub doc: &'static str,
    pub keys: &'static [Key],
    /// Keys of later versions: refused by name, so that nobody believes them to be in force.
    pub later: &'static [&'static str],
}

/// One key of a table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Key {
    pub name: &'static str,
    pub kind: Kind,
    pub start: Start,
    pub doc: &'static str,
    /// For the commented example, where it is not the default: TOML, or the bare text of a kind
    /// that is written as a string.
    pub example: Option<&'static str>,
    /// Is the key in force in the commented example, or commented out?
    pub shown: bool,
    /// What others call it: offered as "did you mean".
    pub also: &'static [&'static str],
}

/// What a key is when the file does not have it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Start {
    /// The default, written like [`Key::example`].
    Is(&'static str),
    /// The file must have it.
    Required,
    /// Nothing: the key's sentence says what that means.
    Absent,
}

/// What a value may be.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Bool,
    Integer {
        min: i64,
        max: i64,
    },
    Number {
        min: f64,
        max: f64,
    },
    /// One of these numbers.
    OneOf(&'static [i64]),
    /// A duration; where there is a `word`, that word is a value of its own.
    Duration {
        min: Duration,
        max: Duration,
        word: Option<&'static str>,
    },
    /// Bytes.
    Size {
        min: u64,
        max: u64,
    },
    /// The name of a thing: a text of 1 to 256 bytes without blanks at its ends.
    Name,
    /// A name that also becomes part of target names and metrics: letters, digits, `.`, `_`, `-`.
    Slug,
    /// Three capital letters.
    Currency,
    Choice(&'static Choices),
    /// A socket address; `off` too, if so said.
    Address {
        off: bool,
    },
    Network,
    Url,
    Secret,
    Sha256,
    /// A PEM file, which must hold a block with this in its label.
    Pem(&'static str),
    /// A path that need not exist.
    Path,
    /// `stdout`, `stderr`, `off` or a path.
    Output,
    Time,
    /// A name of the IANA database.
    TimeZone,
    /// Money, or a rate: a decimal text.
    Amount,
    /// The price of a million: a decimal text.
    PerMillion,
    /// The price of one: a decimal text.
    Each,
    /// A factor: a decimal text.
    Markup,
    /// How long a budget lasts.
    Period,
    /// A path of a file of text, which is read.
    Document,
    /// Free text keys with secrets as values: header lines.
    Headers,
    /// A table of anything.
    Anything,
    /// Free names with names as values.
    Names,
    List(&'static Kind),
    /// Written as `[name]`.
    Section(&'static Table),
    /// Written as `name = { … }`.
    Inline(&'static Table),
    /// Written as `[[name]]`.
    Sections(&'static Table),
    /// Written as `name = [{ … }]`.
    Inlines(&'static Table),
    /// Free names with such tables as values: `name = { a = { … } }`.
    Named(&'static Table),
}

impl Kind {
    /// The table that the value is, or is a list of.
    pub(super) fn table(&self) -> Option<&'static Table> {
        match self {
            Kind::Section(table) | Kind::Inline(table) => Some(table),
            Kind::Sections(table) | Kind::Inlines(table) | Kind::Named(table) => Some(table),
            _ => None,
        }
    }

    /// Is the value written as a string?
    pub(super) fn is_text(&self) -> bool {
        !matches!(
            self,
            Kind::Bool
                | Kind::Integer { .. }
                | Kind::Number { .. }
                | Kind::OneOf(_)
                | Kind::Headers
                | Kind::Anything
                | Kind::Names
                | Kind::Named(_)
                | Kind::List(_)
                | Kind::Section(_)
                | Kind::Inline(_)
                | Kind::Sections(_)
                | Kind::Inlines(_)
        )
    }

    /// A default or an example as TOML.
    pub(super) fn literal(&self, text: &str) -> String {
        if self.is_text() { format!("\"{text}\"") } else { text.to_owned() }
    }

    /// What the reference calls it.
    pub(super) fn describe(&self) -> String {
        match self {
            Kind::Bool => "true or false".into(),
            Kind::Integer { min, max } => format!("{min} to {max}"),
            Kind::Number { min, max } => format!("number, {min} to {max}"),
            Kind::OneOf(numbers) => or(numbers),
            Kind::Duration { word: Some(word), .. } => format!("duration or \"{word}\""),
            Kind::Duration { .. } => "duration".into(),
            Kind::Size { .. } => "size".into(),
            Kind::Name | Kind::Slug | Kind::Currency => "text".into(),
            Kind::Choice(choices) => choices.now.join(", "),
            Kind::Address { off: true } => "address or \"off\"".into(),
            Kind::Address { off: false } => "address".into(),
            Kind::Network => "network".into(),
            Kind::Url => "URL".into(),
            Kind::Secret => "secret".into(),
            Kind::Sha256 => "64 hexadecimal digits".into(),
            Kind::Pem(_) => "PEM file".into(),
            Kind::Path => "path".into(),
            Kind::Output => "stdout, stderr, off or a path".into(),
            Kind::Time => "time".into(),
            Kind::TimeZone => "time zone".into(),
            Kind::Amount => "decimal text".into(),
            Kind::PerMillion => "decimal text, for a million".into(),
            Kind::Each => "decimal text, for each".into(),
            Kind::Markup => "decimal text, a factor".into(),
            Kind::Period => "total, daily, weekly, monthly or days as in 7d".into(),
            Kind::Document => "path".into(),
            Kind::Names => "table of names".into(),
            Kind::Named(_) => "table of tables".into(),
            Kind::Headers => "table of secrets".into(),
            Kind::Anything => "table".into(),
            Kind::List(inner) => format!("list of: {}", inner.describe()),
            Kind::Section(_) | Kind::Inline(_) => "table".into(),
            Kind::Sections(_) | Kind::Inlines(_) => "list of tables".into(),
        }
    }
}

impl Key {
    const fn new(name: &'static str, kind: Kind, start: Start, doc: &'static str) -> Key {
        Key { name, kind, start, doc, example: None, shown: false, also: &[] }
    }

    /// A key with a default.
    pub(super) const fn with(
        name: &'static str,
        kind: Kind,
        default: &'static str,
        doc: &'static str,
    ) -> Key {
        Key::new(name, kind, Start::Is(default), doc)
    }

    /// A key that must be there.
    pub(super) const fn required(name: &'static str, kind: Kind, doc: &'static str) -> Key {
        Key::new(name, kind, Start::Required, doc).shown()
    }

    /// A key that may be absent.
    pub(super) const fn optional(name: &'static str, kind: Kind, doc: &'static str) -> Key {
        Key::new(name, kind, Start::Absent, doc)
    }

    /// With an example that is not the default.
    pub(super) const fn example(mut self, text: &'static str) -> Key {
        self.example = Some(text);
        self
    }

    /// In force in the commented example.
    pub(super) const fn shown(mut self) -> Key {
        self.shown = true;
        self
    }

    /// With names that others use.
    pub(super) const fn also(mut self, names: &'static [&'static str]) -> Key {
        self.also = names;
        self
    }
}

/// The keys of two lists, for tables that have some in common.
pub(super) const fn joined<const N: usize>(first: &[Key], second: &[Key]) -> [Key; N] {
    assert!(first.len() + second.len() == N);
    let mut keys = [second[0]; N];
    let mut at = 0;
    while at < N {
        keys[at] = if at < first.len() { first[at] } else { second[at - first.len()] };
        at += 1;
    }
    keys
}

/// Numbers as a choice: `429 or 402`.
pub(super) fn or(numbers: &[i64]) -> String {
    let texts: Vec<String> = numbers.iter().map(i64::to_string).collect();
    texts.join(" or ")
}

pub(super) const KIB: u64 = 1 << 10;
pub(super) const MIB: u64 = 1 << 20;
pub(super) const GIB: u64 = 1 << 30;
pub(super) const TIB: u64 = 1 << 40;

/// A duration in milliseconds within bounds.
pub(super) const fn duration(min_ms: u64, max_ms: u64) -> Kind {
    Kind::Duration {
        min: Duration::from_millis(min_ms),
        max: Duration::from_millis(max_ms),
        word: None,
    }
}

/// A duration in milliseconds within bounds, or a word.
pub(super) const fn duration_or(word: &'static str, min_ms: u64, max_ms: u64) -> Kind {
    Kind::Duration {
        min: Duration::from_millis(min_ms),
        max: Duration::from_millis(max_ms),
        word: Some(word),
    }
}
