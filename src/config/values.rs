//! What `read` makes of the text: for each table of the description one [`Node`] that has a value of
//! the described kind for every key, or none. A value that was at fault is replaced by a placeholder,
//! so that the rest of the file can still be looked at.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;

use super::net::{BaseUrl, Cidr};
use super::schema::{Kind, Table};
use super::secret::{Digest, Secret};
use super::settings::PemFile;
use crate::limits::Period;
use crate::money::Currency;

pub(super) type Span = Range<usize>;

/// A value that has passed its kind's rules.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Absent,
    Bool(bool),
    Integer(i64),
    Number(f64),
    /// None is the kind's word.
    Duration(Option<Duration>),
    Size(u64),
    Text(String),
    /// None is `off`.
    Address(Option<SocketAddr>),
    Network(Cidr),
    Url(BaseUrl),
    Secret(Secret),
    Digest(Digest),
    Pem(PemFile),
    Path(PathBuf),
    Time(u64),
    TimeZone(TimeZone),
    /// In 10^-12.
    Amount(u128),
    Period(Period),
    Document(Document),
    Headers(Vec<(String, Secret)>),
    Anything(serde_json::Map<String, serde_json::Value>),
    List(Vec<Item>),
    Node(Node),
    Nodes(Vec<Node>),
    /// Free names, each with its text.
    Pairs(Vec<(String, Item)>),
    /// Free names, each with its table.
    Named(Vec<(String, Node)>),
}

/// A file of text that the configuration names.
#[derive(Clone, Debug)]
pub(super) struct Document {
    /// As messages name it.
    pub path: PathBuf,
    pub text: Arc<str>,
}

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub value: Value,
    /// Of the value; of its table if it is a default.
    pub span: Span,
    /// Is it in the file?
    pub given: bool,
    /// It was at fault, or is missing though it must be there: the value is a placeholder.
    pub broken: bool,
}

/// The values of one table.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub label: &'static str,
    pub span: Span,
    pub items: BTreeMap<&'static str, Item>,
}

impl Value {
    /// A value of this kind for want of a better one.
    pub(super) fn placeholder(kind: &Kind, span: &Span) -> Value {
        match kind {
            Kind::Bool => Value::Bool(false),
            Kind::Integer { min, .. } => Value::Integer(*min),
            Kind::Number { min, .. } => Value::Number(*min),
            Kind::Duration { min, .. } => Value::Duration(Some(*min)),
            Kind::OneOf(numbers) => Value::Integer(numbers[0]),
            Kind::Size { min, .. } => Value::Size(*min),
            Kind::Amount => Value::Amount(0),
            Kind::Markup => Value::Integer(0),
            Kind::Period => Value::Period(Period::Total),
            Kind::TimeZone => Value::TimeZone(TimeZone::UTC),
            Kind::Document | Kind::PerMillion | Kind::Each => Value::Absent,
            Kind::Names => Value::Pairs(Vec::new()),
            Kind::Named(_) => Value::Named(Vec::new()),
            Kind::Name | Kind::Slug | Kind::Currency | Kind::Output => Value::Text(String::new()),
            Kind::Choice(choices) => Value::Text(choices.now[0].to_owned()),
            // Port 0 never clashes with another address.
            Kind::Address { .. } => Value::Address(Some((Ipv4Addr::LOCALHOST, 0).into())),
            Kind::Network | Kind::Url | Kind::Secret | Kind::Sha256 | Kind::Time => Value::Absent,
            Kind::Pem(_) => Value::Pem(PemFile::default()),
            Kind::Path => Value::Path(PathBuf::new()),
            Kind::Headers => Value::Headers(Vec::new()),
            Kind::Anything => Value::Anything(serde_json::Map::new()),
            Kind::List(_) => Value::List(Vec::new()),
            Kind::Section(table) | Kind::Inline(table) => {
                Value::Node(Node::placeholder(table, span))
            }
            Kind::Sections(_) | Kind::Inlines(_) => Value::Nodes(Vec::new()),
        }
    }
}

impl Node {
    fn placeholder(table: &'static Table, span: &Span) -> Node {
        let item = |kind: &Kind| Item {
            value: Value::placeholder(kind, span),
            span: span.clone(),
            given: false,
            broken: true,
        };
        let items = table.keys.iter().map(|key| (key.name, item(&key.kind))).collect();
        Node { label: table.label, span: span.clone(), items }
    }

    /// The item of a key of the description.
    pub(super) fn item(&self, key: &str) -> &Item {
        self.items.get(key).expect("the description has the key")
    }

    pub(super) fn span(&self, key: &str) -> &Span {
        &self.item(key).span
    }

    /// Is the key in the file, with a value that is no placeholder?
    pub(super) fn is_given(&self, key: &str) -> bool {
        let item = self.item(key);
        item.given && !item.broken
    }

    /// Was nothing in this table, or in a table within, at fault?
    pub(super) fn is_sound(&self) -> bool {
        self.items.values().all(|item| {
            !item.broken
                && match &item.value {
                    Value::Node(node) => node.is_sound(),
                    Value::Nodes(nodes) => nodes.iter().all(Node::is_sound),
                    Value::Named(nodes) => nodes.iter().all(|(_, node)| node.is_sound()),
                    Value::List(items) => items.iter().all(|item| !item.broken),
                    _ => true,
                }
        })
    }

    pub(super) fn bool_or(&self, key: &str, default: bool) -> bool {
        if let Value::Bool(value) = self.item(key).value { value } else { default }
    }

    pub(super) fn integer<N: TryFrom<i64>>(&self, key: &str) -> N {
        let Value::Integer(value) = self.item(key).value else { return self.mismatch(key) };
        N::try_from(value).ok().expect("the description's bounds fit the setting's type")
    }

    /// Nothing if it is absent.
    pub(super) fn integer_if<N: TryFrom<i64>>(&self, key: &str) -> Option<N> {
        matches!(self.item(key).value, Value::Integer(_)).then(|| self.integer(key))
    }

    pub(super) fn number(&self, key: &str) -> f64 {
        let Value::Number(value) = self.item(key).value else { return self.mismatch(key) };
        value
    }

    pub(super) fn duration(&self, key: &str) -> Duration {
        let Value::Duration(Some(value)) = self.item(key).value else { return self.mismatch(key) };
        value
    }

    /// None is the kind's word.
    pub(super) fn duration_or_word(&self, key: &str) -> Option<Duration> {
        let Value::Duration(value) = self.item(key).value else { return self.mismatch(key) };
        value
    }

    pub(super) fn size(&self, key: &str) -> u64 {
        let Value::Size(value) = self.item(key).value else { return self.mismatch(key) };
        value
    }

    pub(super) fn text(&self, key: &str) -> String {
        self.text_if(key).unwrap_or_else(|| self.mismatch(key))
    }

    pub(super) fn text_if(&self, key: &str) -> Option<String> {
        if let Value::Text(value) = &self.item(key).value { Some(value.clone()) } else { None }
    }

    pub(super) fn secret_if(&self, key: &str) -> Option<Secret> {
        if let Value::Secret(value) = &self.item(key).value { Some(value.clone()) } else { None }
    }

    /// In 10^-12; nothing if it is absent.
    pub(super) fn amount_if(&self, key: &str) -> Option<u128> {
        if let Value::Amount(value) = self.item(key).value { Some(value) } else { None }
    }

    /// In milliseconds since 1970; nothing if it is absent.
    pub(super) fn time_if(&self, key: &str) -> Option<u64> {
        if let Value::Time(unix_ms) = self.item(key).value { Some(unix_ms) } else { None }
    }

    pub(super) fn period(&self, key: &str) -> Period {
        let Value::Period(value) = self.item(key).value else { return self.mismatch(key) };
        value
    }

    pub(super) fn time_zone(&self, key: &str) -> TimeZone {
        let Value::TimeZone(value) = &self.item(key).value else { return self.mismatch(key) };
        value.clone()
    }

    pub(super) fn currency(&self, key: &str) -> Currency {
        // A currency that was at fault is an empty text.
        Currency::parse(&self.text(key)).unwrap_or_default()
    }

    /// A table of anything.
    pub(super) fn object(&self, key: &str) -> serde_json::Map<String, serde_json::Value> {
        match &self.item(key).value {
            Value::Anything(object) => object.clone(),
            _ => serde_json::Map::new(),
        }
    }

    /// Free names with their texts.
    pub(super) fn pairs(&self, key: &str) -> &[(String, Item)] {
        if let Value::Pairs(pairs) = &self.item(key).value { pairs } else { &[] }
    }

    /// Free names with their tables.
    pub(super) fn named(&self, key: &str) -> &[(String, Node)] {
        if let Value::Named(nodes) = &self.item(key).value { nodes } else { &[] }
    }

    pub(super) fn pem_if(&self, key: &str) -> Option<PemFile> {
        if let Value::Pem(value) = &self.item(key).value { Some(value.clone()) } else { None }
    }

    /// The items of a list; nothing if it is absent.
    pub(super) fn list(&self, key: &str) -> &[Item] {
        if let Value::List(items) = &self.item(key).value { items } else { &[] }
    }

    pub(super) fn texts(&self, key: &str) -> Vec<String> {
        let text = |item: &Item| match &item.value {
            Value::Text(text) => Some(text.clone()),
            _ => None,
        };
        self.list(key).iter().filter_map(text).collect()
    }

    pub(super) fn networks(&self, key: &str) -> Vec<Cidr> {
        let network = |item: &Item| match item.value {
            Value::Network(network) => Some(network),
            _ => None,
        };
        self.list(key).iter().filter_map(network).collect()
    }

    pub(super) fn addresses(&self, key: &str) -> Vec<SocketAddr> {
        let address = |item: &Item| match item.value {
            Value::Address(address) => address,
            _ => None,
        };
        self.list(key).iter().filter_map(address).collect()
    }

    /// The table under a key that has a default or is given.
    pub(super) fn node(&self, key: &str) -> &Node {
        self.node_if(key).unwrap_or_else(|| self.mismatch(key))
    }

    pub(super) fn node_if(&self, key: &str) -> Option<&Node> {
        if let Value::Node(node) = &self.item(key).value { Some(node) } else { None }
    }

    /// The tables of a list; nothing if it is absent.
    pub(super) fn nodes(&self, key: &str) -> &[Node] {
        if let Value::Nodes(nodes) = &self.item(key).value { nodes } else { &[] }
    }

    /// The description and the settings disagree about a kind: a mistake in this room.
    fn mismatch<T>(&self, key: &str) -> T {
        panic!("{key} of {} is not of the kind that its setting has", self.label)
    }
}
