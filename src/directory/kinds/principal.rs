//! Principals: those who may administer, besides the token of the configuration.

use serde_json::{Map, Value};

use super::super::fields::{Fields, rfc3339};
use super::super::{Role, refusal::Refusal};
use super::Writer;

pub(in super::super) const FIELDS: &[&str] = &["name", "role", "account", "project", "expires_at"];

/// The name of whoever holds the token of the configuration.
pub(in super::super) const OWNER: &str = "owner";

/// A principal's own fields.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(in super::super) struct Principal {
    pub role: Role,
    pub expires_at_unix_ms: Option<u64>,
}

impl Principal {
    pub fn read(fields: &Fields<'_>) -> Result<Self, Refusal> {
        let role = fields.required("role", 16)?;
        let role = Role::from_name(role)
            .ok_or_else(|| fields.bad("role", "must be owner, admin, manager or viewer"))?;
        if fields.text("name", 128)? == Some(OWNER) {
            return Err(fields.bad("name", "is that of the token of the configuration"));
        }
        Ok(Principal { role, expires_at_unix_ms: fields.time("expires_at")? })
    }

    /// Whether the role and what it is confined to go together.
    pub fn scope_fault(self, account: &str, project: &str) -> Option<(&'static str, &'static str)> {
        match self.role {
            Role::Owner if !account.is_empty() => {
                Some(("role", "an owner is confined to nothing; make it an admin"))
            }
            Role::Admin if account.is_empty() => Some(("account", "an admin needs an account")),
            Role::Admin if !project.is_empty() => {
                Some(("project", "an admin has a whole account; make it a manager"))
            }
            Role::Manager if project.is_empty() => Some(("project", "a manager needs a project")),
            _ => None,
        }
    }

    pub fn to_map(self) -> Map<String, Value> {
        Writer::new()
            .put("role", self.role.name())
            .maybe("expires_at", self.expires_at_unix_ms.map(rfc3339))
            .done()
    }
}
