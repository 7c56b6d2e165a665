//! What the objects of each kind consist of: one file for each kind reads its fields from JSON and
//! writes them back.

pub(super) mod account;
pub(super) mod key;
pub(super) mod principal;
pub(super) mod project;
pub(super) mod rate;
pub(super) mod user;

use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use super::fields::{Fields, NAME_CHARS_MAX};
use super::refusal::Refusal;
use super::{Resource, limits};
use crate::limits::LimitSet;
use crate::price;
use crate::store::objects::{ObjectKind, ObjectRow};
use account::Account;
use key::Key;
use principal::Principal;
use project::Project;
use rate::Rate;
use user::User;

/// An object as its kind has it.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Doc {
    Account(Account),
    Project(Project),
    User(User),
    Key(Key),
    Price(Box<price::Entry>),
    Rate(Rate),
    Principal(Principal),
}

/// What a caller wants an object to be: its owners are still as the caller named them.
pub(super) struct Draft {
    pub name: String,
    pub account: Option<String>,
    pub project: Option<String>,
    pub user: Option<String>,
    pub doc: Doc,
}

/// The kind of a resource.
pub(super) fn kind_of(resource: Resource) -> ObjectKind {
    match resource {
        Resource::Keys => ObjectKind::Key,
        Resource::Accounts => ObjectKind::Account,
        Resource::Projects => ObjectKind::Project,
        Resource::Users => ObjectKind::User,
        Resource::Prices => ObjectKind::Price,
        Resource::Rates => ObjectKind::Rate,
        Resource::Principals => ObjectKind::Principal,
    }
}

/// What an id of the kind begins with.
pub(super) fn id_prefix(kind: ObjectKind) -> &'static str {
    match kind {
        ObjectKind::Account => "acc_",
        ObjectKind::Project => "prj_",
        ObjectKind::User => "usr_",
        ObjectKind::Key => "key_",
        ObjectKind::Price => "prc_",
        ObjectKind::Rate => "rat_",
        ObjectKind::Principal => "prn_",
    }
}

/// The fields that can be set, the owners among them.
pub(super) fn known(kind: ObjectKind) -> &'static [&'static str] {
    match kind {
        ObjectKind::Account => account::FIELDS,
        ObjectKind::Project => project::FIELDS,
        ObjectKind::User => user::FIELDS,
        ObjectKind::Key => key::FIELDS,
        ObjectKind::Rate => rate::FIELDS,
        ObjectKind::Principal => principal::FIELDS,
        ObjectKind::Price => &PRICE_FIELDS,
    }
}

static PRICE_FIELDS: LazyLock<Vec<&str>> =
    LazyLock::new(|| [price::ENTRY_KEYS, price::Prices::NAMES].concat());

/// Reads what a caller sent, or what a merge patch made of it.
pub(super) fn read(kind: ObjectKind, map: &Map<String, Value>) -> Result<Draft, Refusal> {
    if kind == ObjectKind::Price {
        return price_draft(map);
    }
    if map.contains_key("status") && kind != ObjectKind::Rate {
        let message = "`status` is changed by block, unblock, delete and restore";
        return Err(Refusal::new(400, "unknown_field", message).of("status"));
    }
    let fields = Fields::of(map, "", known(kind))?;
    let reference = |name: &str| {
        if !known(kind).contains(&name) {
            return Ok(None);
        }
        fields.text(name, NAME_CHARS_MAX).map(|text| text.map(str::to_owned))
    };
    let doc = doc(kind, &fields)?;
    let name = match &doc {
        Doc::Rate(rate) => rate.name(),
        _ => fields.required("name", NAME_CHARS_MAX)?.to_owned(),
    };
    Ok(Draft {
        name,
        account: reference("account")?,
        project: reference("project")?,
        user: reference("user")?,
        doc,
    })
}

fn doc(kind: ObjectKind, fields: &Fields<'_>) -> Result<Doc, Refusal> {
    Ok(match kind {
        ObjectKind::Account => Doc::Account(Account::read(fields)?),
        ObjectKind::Project => Doc::Project(Project::read(fields)?),
        ObjectKind::User => Doc::User(User::read(fields)?),
        ObjectKind::Key => Doc::Key(Key::read(fields)?),
        ObjectKind::Rate => Doc::Rate(Rate::read(fields)?),
        ObjectKind::Principal => Doc::Principal(Principal::read(fields)?),
        ObjectKind::Price => unreachable!("prices have a reader of their own"),
    })
}

fn price_draft(map: &Map<String, Value>) -> Result<Draft, Refusal> {
    Fields::of(map, "", known(ObjectKind::Price))?;
    let entry = price::Entry::from_json(&Value::Object(map.clone())).map_err(|faults| {
        let fault = faults.into_iter().next();
        let (field, message) = fault.map_or_else(Default::default, |it| (it.field, it.message));
        if field.is_empty() {
            return Refusal::new(400, "invalid_type", format!("a price {message}"));
        }
        let message = format!("`{field}` {message}");
        let is_typed = |value: &Value| match field.as_str() {
            "tiers" => value.is_object(),
            "long_context" => value.is_array(),
            _ => value.is_string(),
        };
        match map.get(&field).is_none_or(is_typed) {
            true => Refusal::value(&field, message),
            false => Refusal::kind(&field, message),
        }
    })?;
    let doc = Doc::Price(Box::new(entry));
    Ok(Draft { name: price_name(&doc), account: None, project: None, user: None, doc })
}

/// Prices have no name of their own: of two with the same provider, model, group and beginning, only
/// one could count.
fn price_name(doc: &Doc) -> String {
    let Doc::Price(entry) = doc else { return String::new() };
    named_price(entry)
}

/// The name under which a price is found.
pub(super) fn named_price(entry: &price::Entry) -> String {
    let group = entry.group.as_ref().map(|group| format!(" for {group}")).unwrap_or_default();
    let from = match entry.valid_from_unix_ms {
        0 => String::new(),
        unix_ms => format!(" from {}", super::fields::rfc3339(unix_ms)),
    };
    format!("{}/{}{group}{from}", entry.provider, entry.model)
}

/// What the store keeps of an object beside its name, its owners and its status.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Stored {
    pub doc: Doc,
    /// The beginning of its secret, for display.
    pub prefix: String,
    /// The id of the owner whose block took it along, and whose unblock brings it back.
    pub blocked_by: Option<String>,
    /// The id of the owner whose deletion took it along, and whose restore brings it back.
    pub deleted_by: Option<String>,
    /// Of what is deleted: it was blocked then, and will be again after a restore.
    pub was_blocked: bool,
}

impl Stored {
    /// Of what was made just now.
    pub fn new(doc: Doc) -> Self {
        Stored {
            doc,
            prefix: String::new(),
            blocked_by: None,
            deleted_by: None,
            was_blocked: false,
        }
    }

    /// As text, for the store.
    pub fn to_body(&self) -> String {
        let mut body = json!({ "fields": self.doc.to_map() });
        if !self.prefix.is_empty() {
            body["prefix"] = self.prefix.as_str().into();
        }
        for (name, owner) in [("blocked_by", &self.blocked_by), ("deleted_by", &self.deleted_by)] {
            if let Some(owner) = owner {
                body[name] = owner.as_str().into();
            }
        }
        if self.was_blocked {
            body["was_blocked"] = true.into();
        }
        body.to_string()
    }

    /// Reads what [`Stored::to_body`] wrote. An error is damage, or the work of a later version.
    pub fn of(row: &ObjectRow) -> Result<Stored, Refusal> {
        let unreadable = |why: &str| {
            let (kind, id) = (row.kind, &row.id);
            let message = format!("what is stored of the {kind} `{id}` cannot be read: {why}");
            Refusal::new(503, "store_unavailable", message)
        };
        let mut body: Map<String, Value> =
            serde_json::from_str(&row.body).map_err(|error| unreadable(&error.to_string()))?;
        let Some(Value::Object(map)) = body.remove("fields") else {
            return Err(unreadable("it has no fields"));
        };
        let doc = match row.kind {
            ObjectKind::Price => price_draft(&map).map(|draft| draft.doc),
            kind => Fields::of(&map, "", known(kind)).and_then(|fields| doc(kind, &fields)),
        };
        let text = |name: &str| body.get(name).and_then(Value::as_str).map(str::to_owned);
        Ok(Stored {
            doc: doc.map_err(|refusal| unreadable(&refusal.message))?,
            prefix: text("prefix").unwrap_or_default(),
            blocked_by: text("blocked_by"),
            deleted_by: text("deleted_by"),
            was_blocked: body.get("was_blocked") == Some(&Value::Bool(true)),
        })
    }
}

impl Doc {
    /// The fields of the kind, as they are set; the name and the owners are not among them.
    pub fn to_map(&self) -> Map<String, Value> {
        match self {
            Doc::Account(it) => it.to_map(),
            Doc::Project(it) => it.to_map(),
            Doc::User(it) => it.to_map(),
            Doc::Key(it) => it.to_map(),
            Doc::Rate(it) => it.to_map(),
            Doc::Principal(it) => it.to_map(),
            Doc::Price(entry) => match entry.to_json() {
                Value::Object(map) => map,
                _ => Map::new(),
            },
        }
    }

    /// The limits, of the kinds that have them.
    pub fn limits(&self) -> Option<&LimitSet> {
        match self {
            Doc::Account(it) => it.limits.as_ref(),
            Doc::Project(it) => it.limits.as_ref(),
            Doc::User(it) => it.limits.as_ref(),
            Doc::Key(it) => it.limits.as_ref(),
            Doc::Price(_) | Doc::Rate(_) | Doc::Principal(_) => None,
        }
    }
}

/// Collects the fields of an object; empty ones are left out only where that is said.
pub(super) struct Writer(Map<String, Value>);

impl Writer {
    pub fn new() -> Self {
        Writer(Map::new())
    }

    pub fn put(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.insert(name.to_owned(), value.into());
        self
    }

    pub fn maybe(self, name: &str, value: Option<impl Into<Value>>) -> Self {
        match value {
            Some(value) => self.put(name, value),
            None => self,
        }
    }

    pub fn limits(self, limits: Option<&LimitSet>) -> Self {
        self.maybe("limits", limits.map(limits::to_json))
    }

    pub fn done(self) -> Map<String, Value> {
        self.0
    }
}

const TAGS_MAX: usize = 32;
const TAG_CHARS_MAX: usize = 64;

/// The field `tags`. Records keep them in one text, separated by commas.
fn tags(fields: &Fields<'_>) -> Result<Vec<String>, Refusal> {
    let tags = fields.list("tags", TAGS_MAX, TAG_CHARS_MAX)?.unwrap_or_default();
    match tags.iter().position(|tag| tag.contains(',')) {
        Some(at) => Err(fields.bad(&format!("tags[{at}]"), "must not have a comma in it")),
        None => Ok(owned(tags)),
    }
}

const GLOBS_MAX: usize = 256;
const GLOB_CHARS_MAX: usize = 256;
/// Matching takes time with each star; nobody means more.
const STARS_MAX: usize = 4;

/// A field with globs of model names.
fn globs(fields: &Fields<'_>, name: &str) -> Result<Option<Vec<String>>, Refusal> {
    let Some(globs) = fields.list(name, GLOBS_MAX, GLOB_CHARS_MAX)? else { return Ok(None) };
    match globs.iter().position(|glob| glob.matches('*').count() > STARS_MAX) {
        Some(at) => {
            Err(fields.bad(&format!("{name}[{at}]"), format!("has more than {STARS_MAX} stars")))
        }
        None => Ok(Some(owned(globs))),
    }
}

fn owned(texts: Vec<&str>) -> Vec<String> {
    texts.into_iter().map(str::to_owned).collect()
}
