//! Users: people inside an account who own keys.

use serde_json::{Map, Value};

use super::super::fields::Fields;
use super::super::{limits, refusal::Refusal};
use super::Writer;
use crate::limits::LimitSet;

pub(in super::super) const FIELDS: &[&str] = &["name", "account", "email", "limits", "metadata"];

/// The longest address that mail can have.
const EMAIL_CHARS_MAX: usize = 254;

/// A user's own fields.
#[derive(Clone, PartialEq, Debug)]
pub(in super::super) struct User {
    pub email: Option<String>,
    pub limits: Option<LimitSet>,
    pub metadata: Map<String, Value>,
}

impl User {
    pub fn read(fields: &Fields<'_>) -> Result<Self, Refusal> {
        let email = fields.text("email", EMAIL_CHARS_MAX)?;
        let is_address = |text: &str| {
            let parts = text.split_once('@');
            let whole = parts.is_some_and(|(name, host)| !name.is_empty() && !host.is_empty());
            whole && !text.contains(char::is_whitespace)
        };
        if email.is_some_and(|text| !is_address(text)) {
            return Err(fields.bad("email", "must be an address, like \"ada@example.com\""));
        }
        Ok(User {
            email: email.map(str::to_owned),
            limits: limits::read(fields)?,
            metadata: fields.metadata()?,
        })
    }

    pub fn to_map(&self) -> Map<String, Value> {
        Writer::new()
            .maybe("email", self.email.clone())
            .limits(self.limits.as_ref())
            .put("metadata", self.metadata.clone())
            .done()
    }
}
