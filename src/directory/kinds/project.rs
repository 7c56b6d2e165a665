//! Projects: parts of an account that keys belong to.

use serde_json::{Map, Value};

use super::super::fields::Fields;
use super::super::{limits, refusal::Refusal};
use super::{Writer, globs, tags};
use crate::limits::LimitSet;

pub(in super::super) const FIELDS: &[&str] =
    &["name", "account", "models", "limits", "tags", "metadata"];

/// A project's own fields.
#[derive(Clone, PartialEq, Debug)]
pub(in super::super) struct Project {
    /// What its keys may ask for at most; `None` is everything.
    pub models: Option<Vec<String>>,
    pub limits: Option<LimitSet>,
    pub tags: Vec<String>,
    pub metadata: Map<String, Value>,
}

impl Project {
    pub fn read(fields: &Fields<'_>) -> Result<Self, Refusal> {
        Ok(Project {
            models: globs(fields, "models")?,
            limits: limits::read(fields)?,
            tags: tags(fields)?,
            metadata: fields.metadata()?,
        })
    }

    pub fn to_map(&self) -> Map<String, Value> {
        Writer::new()
            .maybe("models", self.models.clone())
            .limits(self.limits.as_ref())
            .put("tags", self.tags.clone())
            .put("metadata", self.metadata.clone())
            .done()
    }
}
