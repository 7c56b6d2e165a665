//! What the configuration file defines: shown like everything else, changed by a reload only.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::kinds::account::{Account, UNCHANGED_BPS};
use super::kinds::{Doc, Stored, key::Key, named_price, project::Project, rate::Rate, user::User};
use crate::admit::Terms;
use crate::auth::{Digest, Grant, Names};
use crate::limits::LimitSet;
use crate::price;
use crate::store::objects::{ObjectKind, ObjectRow, Status};

/// All that the file defines. Ids are names there.
#[derive(Clone, Default)]
pub struct FileObjects {
    pub accounts: Vec<FileAccount>,
    pub projects: Vec<FileProject>,
    pub users: Vec<FileUser>,
    /// `Grant::project_models` need not be filled in.
    pub keys: Vec<(Digest, Grant)>,
    pub prices: Vec<price::Entry>,
    pub rates: Vec<price::RateRow>,
    /// The names of the providers, for which prices can be made.
    pub providers: Vec<String>,
    /// The markup of each price group, in 1/10,000.
    pub price_groups: BTreeMap<String, u32>,
}

/// A `[[account]]`.
#[derive(Clone)]
pub struct FileAccount {
    pub name: String,
    /// With the markup that results from its own and from that of its price group.
    pub terms: Terms,
    pub limits: Option<Arc<LimitSet>>,
    pub metadata: Map<String, Value>,
}

/// A `[[project]]`.
#[derive(Clone)]
pub struct FileProject {
    pub name: String,
    pub account: String,
    /// `None` allows all.
    pub models: Option<Vec<String>>,
    pub limits: Option<Arc<LimitSet>>,
    pub tags: Vec<String>,
    pub metadata: Map<String, Value>,
}

/// A `[[user]]`.
#[derive(Clone)]
pub struct FileUser {
    pub name: String,
    pub account: String,
    pub email: Option<String>,
    pub limits: Option<Arc<LimitSet>>,
}

/// An object with its fields, wherever it is defined.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Card {
    pub row: ObjectRow,
    pub stored: Stored,
    /// Defined by the configuration file.
    pub is_filed: bool,
}

/// The file's objects, in the form in which they are shown and looked up.
#[derive(Default)]
pub(super) struct Filed {
    pub objects: FileObjects,
    pub cards: BTreeMap<(ObjectKind, String), Card>,
}

impl Filed {
    pub fn new(objects: FileObjects) -> Self {
        let mut cards = BTreeMap::new();
        let mut add = |row: ObjectRow, doc: Doc| {
            let stored = Stored::new(doc);
            cards.insert((row.kind, row.id.clone()), Card { row, stored, is_filed: true });
        };
        for it in &objects.accounts {
            add(row(ObjectKind::Account, &it.name, "", "", ""), Doc::Account(account(it)));
        }
        for it in &objects.projects {
            let project = Project {
                models: it.models.clone(),
                limits: it.limits.as_deref().cloned(),
                tags: it.tags.clone(),
                metadata: it.metadata.clone(),
            };
            add(row(ObjectKind::Project, &it.name, &it.account, "", ""), Doc::Project(project));
        }
        for it in &objects.users {
            let user = User {
                email: it.email.clone(),
                limits: it.limits.as_deref().cloned(),
                metadata: Map::new(),
            };
            add(row(ObjectKind::User, &it.name, &it.account, "", ""), Doc::User(user));
        }
        for (_, grant) in &objects.keys {
            let user = grant.user.as_deref().unwrap_or("");
            let (account, project) = (grant.account.as_str(), grant.project.as_str());
            let mut row = row(ObjectKind::Key, grant.key_id.as_str(), account, project, user);
            row.name = grant.key_name.to_string();
            if grant.blocked {
                row.status = Status::Blocked;
            }
            add(row, Doc::Key(key(grant)));
        }
        for entry in &objects.prices {
            let row = row(ObjectKind::Price, &named_price(entry), "", "", "");
            add(row, Doc::Price(Box::new(entry.clone())));
        }
        for rate in &objects.rates {
            let rate = Rate(*rate);
            add(row(ObjectKind::Rate, &rate.name(), "", "", ""), Doc::Rate(rate));
        }
        Filed { objects, cards }
    }

    /// The file's object with this id.
    pub fn card(&self, kind: ObjectKind, id: &str) -> Option<&Card> {
        self.cards.get(&(kind, id.to_owned()))
    }

    /// The digest of the secret of one of the file's keys.
    pub fn digest_of(&self, key: &str) -> Option<Digest> {
        let of_key = |(_, grant): &&(Digest, Grant)| grant.key_id.as_str() == key;
        self.objects.keys.iter().find(of_key).map(|(digest, _)| *digest)
    }

    /// All of one kind, by name.
    pub fn all(&self, kind: ObjectKind) -> impl Iterator<Item = &Card> {
        let from = (kind, String::new());
        self.cards.range(from..).take_while(move |((it, _), _)| *it == kind).map(|(_, card)| card)
    }
}

fn row(kind: ObjectKind, name: &str, account: &str, project: &str, user: &str) -> ObjectRow {
    ObjectRow {
        kind,
        id: name.to_owned(),
        name: name.to_owned(),
        status: Status::Active,
        account: account.to_owned(),
        project: project.to_owned(),
        user: user.to_owned(),
        body: String::new(),
        revision: 0,
        created_unix_ms: 0,
        updated_unix_ms: 0,
        created_by: String::new(),
    }
}

fn account(it: &FileAccount) -> Account {
    let terms = &it.terms;
    let queue = terms.queue.as_ref();
    Account {
        currency: terms.currency,
        balance_pico: terms.balance_pico.and_then(|pico| u128::try_from(pico).ok()),
        timezone: terms.time_zone.iana_name().unwrap_or("UTC").to_owned(),
        price_group: terms.price_group.as_deref().map(str::to_owned),
        markup_bps: (terms.markup_bps != UNCHANGED_BPS).then_some(terms.markup_bps),
        limits: it.limits.as_deref().cloned(),
        queue: queue.map(|queue| (queue.wait.as_millis() as u64, queue.depth)),
        metadata: it.metadata.clone(),
    }
}

fn key(grant: &Grant) -> Key {
    let list = |names: &Names| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
    let aliases = grant.aliases.iter().flat_map(|table| table.iter());
    let metadata = grant.metadata.as_deref().and_then(|text| serde_json::from_str(text).ok());
    Key {
        models: list(&grant.models),
        deny_models: list(&grant.deny_models),
        aliases: aliases.map(|(name, alias)| (name.to_string(), alias.to_string())).collect(),
        endpoints: list(&grant.endpoints),
        cidrs: grant.cidrs.iter().map(ToString::to_string).collect(),
        limits: grant.limits.as_deref().cloned(),
        expires_at_unix_ms: grant.expires_at_unix_ms,
        tags: list(&grant.tags),
        metadata: metadata.unwrap_or_default(),
    }
}
