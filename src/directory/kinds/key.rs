//! Keys: what their holders may do.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::super::fields::{Fields, rfc3339, text_fault};
use super::super::{limits, refusal::Refusal};
use super::{GLOB_CHARS_MAX, Writer, globs, tags};
use crate::auth::{Aliases, Cidr, Grant, Names, Shared};
use crate::dialect::endpoint::{ENDPOINTS, Endpoint};
use crate::ident::{AccountId, Alias, KeyId, ProjectId};
use crate::limits::LimitSet;
use crate::store::objects::{ObjectRow, Status};

pub(in super::super) const FIELDS: &[&str] = &[
    "name",
    "project",
    "user",
    "models",
    "deny_models",
    "aliases",
    "endpoints",
    "cidrs",
    "limits",
    "expires_at",
    "tags",
    "metadata",
];

const ALIASES_MAX: usize = 100;
const CIDRS_MAX: usize = 64;

/// A key's own fields.
#[derive(Clone, PartialEq, Debug)]
pub(in super::super) struct Key {
    pub models: Vec<String>,
    pub deny_models: Vec<String>,
    pub aliases: BTreeMap<String, String>,
    pub endpoints: Vec<String>,
    pub cidrs: Vec<String>,
    pub limits: Option<LimitSet>,
    pub expires_at_unix_ms: Option<u64>,
    pub tags: Vec<String>,
    pub metadata: Map<String, Value>,
}

impl Key {
    pub fn read(fields: &Fields<'_>) -> Result<Self, Refusal> {
        Ok(Key {
            models: globs(fields, "models")?.unwrap_or_else(|| vec!["*".to_owned()]),
            deny_models: globs(fields, "deny_models")?.unwrap_or_default(),
            aliases: aliases(fields)?,
            endpoints: endpoints(fields)?,
            cidrs: cidrs(fields)?,
            limits: limits::read(fields)?,
            expires_at_unix_ms: fields.time("expires_at")?,
            tags: tags(fields)?,
            metadata: fields.metadata()?,
        })
    }

    pub fn to_map(&self) -> Map<String, Value> {
        let aliases = self.aliases.iter().map(|(name, alias)| (name.clone(), alias.clone().into()));
        Writer::new()
            .put("models", self.models.clone())
            .put("deny_models", self.deny_models.clone())
            .put("aliases", aliases.collect::<Map<_, _>>())
            .put("endpoints", self.endpoints.clone())
            .put("cidrs", self.cidrs.clone())
            .limits(self.limits.as_ref())
            .maybe("expires_at", self.expires_at_unix_ms.map(rfc3339))
            .put("tags", self.tags.clone())
            .put("metadata", self.metadata.clone())
            .done()
    }

    /// What the workers are given. `account` and `project_models` are those of the key's project.
    pub fn grant(
        &self,
        row: &ObjectRow,
        account: &str,
        project_models: Option<&Names>,
        shared: &mut Shared,
    ) -> Grant {
        let aliases: Aliases = self
            .aliases
            .iter()
            .map(|(name, alias)| (shared.text(name), Alias(shared.text(alias))))
            .collect();
        let cidrs: Vec<Cidr> = self.cidrs.iter().filter_map(|it| Cidr::parse(it).ok()).collect();
        let metadata = (!self.metadata.is_empty())
            .then(|| shared.text(&Value::Object(self.metadata.clone()).to_string()));
        let limits = self.limits.as_ref().filter(|limits| !limits.is_empty());
        Grant {
            key_id: KeyId::from(row.id.as_str()),
            // Not shared: a name is most often one key's own.
            key_name: row.name.as_str().into(),
            account: AccountId(shared.text(account)),
            project: ProjectId(shared.text(&row.project)),
            user: (!row.user.is_empty()).then(|| shared.text(&row.user)),
            models: shared.names(&self.models),
            deny_models: shared.names(&self.deny_models),
            project_models: project_models.cloned(),
            aliases: shared.aliases(aliases),
            endpoints: shared.names(&self.endpoints),
            cidrs: shared.cidrs(&cidrs),
            expires_at_unix_ms: self.expires_at_unix_ms,
            blocked: row.status == Status::Blocked,
            tags: shared.names(&self.tags),
            limits: limits
                .map(|limits| shared.limits(LimitSet { revision: row.revision, ..limits.clone() })),
            metadata,
        }
    }
}

fn aliases(fields: &Fields<'_>) -> Result<BTreeMap<String, String>, Refusal> {
    let Some(map) = fields.object("aliases")? else { return Ok(BTreeMap::new()) };
    if map.len() > ALIASES_MAX {
        return Err(fields.bad("aliases", format!("has more than {ALIASES_MAX} entries")));
    }
    let one = |(name, alias): (&String, &Value)| {
        if let Some(why) = text_fault(name, GLOB_CHARS_MAX) {
            return Err(fields.bad("aliases", format!("has a name that {why}")));
        }
        let path = format!("aliases.{name}");
        let alias = alias.as_str().ok_or_else(|| {
            Refusal::kind(&path, format!("`{path}` must be the alias that it stands for"))
        })?;
        match text_fault(alias, GLOB_CHARS_MAX) {
            Some(why) => Err(fields.bad(&path, why)),
            None => Ok((name.clone(), alias.to_owned())),
        }
    };
    map.iter().filter(|(_, alias)| !alias.is_null()).map(one).collect()
}

fn endpoints(fields: &Fields<'_>) -> Result<Vec<String>, Refusal> {
    let names = fields.list("endpoints", ENDPOINTS.len(), 64)?.unwrap_or_default();
    match names.iter().position(|name| Endpoint::from_name(name).is_none()) {
        None => Ok(super::owned(names)),
        Some(at) => {
            let valid = ENDPOINTS.map(Endpoint::name).join(", ");
            Err(fields.bad(&format!("endpoints[{at}]"), format!("is none of {valid}")))
        }
    }
}

fn cidrs(fields: &Fields<'_>) -> Result<Vec<String>, Refusal> {
    let texts = fields.list("cidrs", CIDRS_MAX, 64)?.unwrap_or_default();
    for (at, text) in texts.iter().enumerate() {
        if let Err(error) = Cidr::parse(text) {
            let path = format!("cidrs[{at}]");
            return Err(Refusal::value(&path, format!("`{path}`: {error}")));
        }
    }
    Ok(super::owned(texts))
}
