//! From TOML to values: walks the text by the description in `keys.rs` and notes what does not fit.

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::fault::{Sink, Wrong, did_you_mean, nearest, quote};
use super::load::Files;
use super::schema::{Key, Kind, Start, Table};
use super::secret::Secret;
use super::values::{Item, Node, Span, Value};

mod scalar;

/// What reading a value needs beside the text.
pub(super) struct Reader<'a, 'f> {
    pub sink: Sink<'a>,
    pub files: Files<'f>,
    pub env: &'f dyn Fn(&str) -> Option<String>,
    /// The text could only be read in part: what is missing may be there.
    pub partial: bool,
}

/// Where a value stands, for messages.
#[derive(Clone, Copy)]
struct Place {
    key: &'static str,
    label: &'static str,
}

impl Reader<'_, '_> {
    /// Reads one table: what it has, what it may not have, what it lacks, and its defaults.
    pub(super) fn table(
        &mut self,
        table: &'static Table,
        span: &Span,
        found: &DeTable<'_>,
    ) -> Node {
        for name in found.keys() {
            if !table.keys.iter().any(|key| key.name == name.get_ref().as_ref()) {
                self.unknown(table, &name.span(), name.get_ref());
            }
        }
        let mut items = BTreeMap::new();
        for key in table.keys {
            items.insert(key.name, self.key(table, key, span, found));
        }
        Node { label: table.label, span: span.clone(), items }
    }

    fn key(&mut self, table: &Table, key: &Key, span: &Span, found: &DeTable<'_>) -> Item {
        let place = Place { key: key.name, label: table.label };
        if let Some(value) = found.get(key.name) {
            let mut item = self.value(place, &key.kind, value);
            item.given = true;
            return item;
        }
        let value = match key.start {
            Start::Is(text) => return self.default(place, key, text, span),
            Start::Absent => Value::Absent,
            Start::Required => {
                if !self.partial {
                    let example = key.kind.literal(key.example.unwrap_or("…"));
                    let message = format!("{} lacks the key {}", table.label, quote(key.name));
                    self.sink.fault(
                        span,
                        message,
                        format!("add for example {} = {example}", key.name),
                    );
                }
                let value = Value::placeholder(&key.kind, span);
                return Item { value, span: span.clone(), given: false, broken: true };
            }
        };
        Item { value, span: span.clone(), given: false, broken: false }
    }

    /// Reads a default by the same rules as a value of the file.
    fn default(&mut self, place: Place, key: &Key, text: &'static str, span: &Span) -> Item {
        let literal = key.kind.literal(text);
        let value = DeValue::parse(&literal).expect("the description's defaults are TOML");
        // A default can only be at fault by a mistake in `keys.rs`, which a test would find.
        let mut item = self.value(place, &key.kind, &value);
        item.span = span.clone();
        item.given = false;
        if let Value::Node(node) = &mut item.value {
            node.move_to(span);
        }
        item
    }

    fn unknown(&mut self, table: &Table, span: &Span, name: &str) {
        if table.later.contains(&name) {
            let message = format!("{} is not available in this version of foretoken", quote(name));
            return self.sink.fault(span, message, "remove it: nothing would act on it");
        }
        let names = table.keys.iter().map(|key| key.name);
        let synonym = table.keys.iter().find(|key| key.also.contains(&name));
        let cure = match (nearest(name, names.clone()), synonym) {
            (Some(near), None) => format!("did you mean {}?", quote(near)),
            (_, Some(key)) => format!("did you mean {}?", quote(key.name)),
            (None, None) => did_you_mean(name, names, "key"),
        };
        self.sink.fault(span, format!("unknown key {} in {}", quote(name), table.label), cure);
    }

    /// Reads a value of a kind; notes the fault and gives a placeholder if it is none.
    fn value(&mut self, place: Place, kind: &Kind, found: &Spanned<DeValue<'_>>) -> Item {
        let span = found.span();
        let read = match (kind, found.get_ref()) {
            (Kind::List(inner), DeValue::Array(array)) => Ok(self.list(place, inner, array)),
            (Kind::Section(table) | Kind::Inline(table), DeValue::Table(found)) => {
                Ok(Value::Node(self.table(table, &span, found)))
            }
            (Kind::Sections(table) | Kind::Inlines(table), DeValue::Array(array)) => {
                self.tables(place, table, array)
            }
            (Kind::Headers, DeValue::Table(found)) => Ok(self.headers(place, found)),
            (Kind::Names, DeValue::Table(found)) => Ok(self.pairs(place, found)),
            (Kind::Named(table), DeValue::Table(found)) => Ok(self.named(place, table, found)),
            (kind, value) => self.scalar(kind, value),
        };
        if let (Kind::Secret, DeValue::String(text), Ok(_)) = (kind, found.get_ref(), &read) {
            self.variable_without_env(place, &span, text);
        }
        match read {
            Ok(value) => {
                // Some of its tables were none, each noted where it stands.
                let broken = match (&value, found.get_ref()) {
                    (Value::Nodes(nodes), DeValue::Array(array)) => nodes.len() < array.len(),
                    _ => false,
                };
                Item { value, span, given: true, broken }
            }
            Err(wrong) => {
                self.wrong(place, &span, wrong);
                let value = Value::placeholder(kind, &span);
                Item { value, span, given: true, broken: true }
            }
        }
    }

    /// A secret in the file that looks like the name of a variable: most likely one.
    fn variable_without_env(&mut self, place: Place, span: &Span, text: &str) {
        let capital = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
        let is_name =
            text.starts_with(|c: char| c.is_ascii_uppercase()) && text.bytes().all(capital);
        // Header values may well be a word in capitals.
        if !is_name || place.key == "headers" {
            return;
        }
        // Repeated only if it is surely no secret.
        let words = ["KEY", "TOKEN", "SECRET"];
        let is_sure = text.split('_').any(|part| words.contains(&part)) && text.contains('_');
        let name = if is_sure || (self.env)(text).is_some() { text } else { "NAME" };
        let message = format!(
            "{} in {} looks like the name of an environment variable, and is taken as it stands",
            quote(place.key),
            place.label
        );
        self.sink.warn(span, message, format!("did you mean \"env:{name}\"?"));
    }

    fn wrong(&mut self, place: Place, span: &Span, wrong: Wrong) {
        let message = format!("{} in {} {}", quote(place.key), place.label, wrong.problem);
        self.sink.fault(span, message, wrong.cure);
    }

    fn list(&mut self, place: Place, inner: &Kind, array: &DeArray<'_>) -> Value {
        Value::List(array.iter().map(|item| self.value(place, inner, item)).collect())
    }

    fn tables(
        &mut self,
        place: Place,
        table: &'static Table,
        array: &DeArray<'_>,
    ) -> Result<Value, Wrong> {
        let mut nodes = Vec::with_capacity(array.len());
        for item in array.iter() {
            match item.get_ref() {
                DeValue::Table(found) => nodes.push(self.table(table, &item.span(), found)),
                other => {
                    let problem = format!("must hold tables, not {}", a_type(other));
                    self.wrong(place, &item.span(), Wrong::new(problem, "write { … }"));
                }
            }
        }
        Ok(Value::Nodes(nodes))
    }

    /// Names of the file's own choice, with names.
    fn pairs(&mut self, place: Place, found: &DeTable<'_>) -> Value {
        let mut pairs = Vec::with_capacity(found.len());
        for (name, value) in found {
            if self.is_name(place, &name.span(), name.get_ref()) {
                pairs.push((name.get_ref().to_string(), self.value(place, &Kind::Name, value)));
            }
        }
        Value::Pairs(pairs)
    }

    /// Names of the file's own choice, with tables.
    fn named(&mut self, place: Place, table: &'static Table, found: &DeTable<'_>) -> Value {
        let mut nodes = Vec::with_capacity(found.len());
        for (name, value) in found {
            if !self.is_name(place, &name.span(), name.get_ref()) {
                continue;
            }
            match value.get_ref() {
                DeValue::Table(found) => {
                    nodes.push((
                        name.get_ref().to_string(),
                        self.table(table, &value.span(), found),
                    ));
                }
                other => {
                    let problem = format!("must hold tables, not {}", a_type(other));
                    self.wrong(place, &value.span(), Wrong::new(problem, "write { … }"));
                }
            }
        }
        Value::Named(nodes)
    }

    fn is_name(&mut self, place: Place, span: &Span, name: &str) -> bool {
        let read = scalar::name(name);
        let is_one = read.is_ok();
        if let Err(wrong) = read {
            self.wrong(place, span, wrong);
        }
        is_one
    }

    /// Header lines: names in lower case, none that the gateway sets itself.
    fn headers(&mut self, place: Place, found: &DeTable<'_>) -> Value {
        let mut headers: Vec<(String, Secret)> = Vec::new();
        for (name, value) in found {
            let lower = name.get_ref().to_ascii_lowercase();
            let problem = if !is_token(&lower) {
                Some(("has a name that is no header name:", "use letters, digits and hyphens"))
            } else if OWN_HEADERS.contains(&lower.as_str()) {
                Some(("has a header that is set for each request:", "remove it"))
            } else if headers.iter().any(|(other, _)| *other == lower) {
                Some(("has the same header twice:", "remove one"))
            } else {
                None
            };
            if let Some((problem, cure)) = problem {
                let problem = format!("{problem} {}", quote(name.get_ref()));
                self.wrong(place, &name.span(), Wrong::new(problem, cure));
                continue;
            }
            let item = self.value(place, &Kind::Secret, value);
            if let Value::Secret(secret) = item.value {
                headers.push((lower, secret));
            }
        }
        Value::Headers(headers)
    }
}

impl Node {
    /// Defaults have no place of their own: faults about them point at the table that lacks them.
    fn move_to(&mut self, span: &Span) {
        self.span = span.clone();
        for item in self.items.values_mut() {
            item.span = span.clone();
            if let Value::Node(node) = &mut item.value {
                node.move_to(span);
            }
        }
    }
}

/// Header lines that belong to the connection or to the gateway.
const OWN_HEADERS: &[&str] = &[
    "host",
    "content-length",
    "content-type",
    "content-encoding",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "proxy-connection",
    "upgrade",
    "te",
    "trailer",
    "expect",
    "accept-encoding",
];

fn is_token(name: &str) -> bool {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !name.is_empty() && name.len() <= 128 && name.bytes().all(token)
}

/// A value's type with its article, as messages name it.
fn a_type(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a number with a point",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
