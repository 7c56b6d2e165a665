//! What the rooms above ask of the store's objects.

use serde_json::Value;

use super::perform::Directory;
use super::{Call, Caller, Refusal, Resource, Verb};
use crate::price;
use crate::store::objects::ObjectKind;

impl Directory {
    /// The prices that were set here, without those of the file.
    pub fn stored_prices(&self) -> Vec<price::Entry> {
        self.state().prices.values().cloned().collect()
    }

    /// The rates that were set here, without those of the file.
    pub fn stored_rates(&self) -> Vec<price::RateRow> {
        self.state().rates.values().copied().collect()
    }

    /// The id of an object, deleted or not, by its id or by a name that only one has. `None` if there
    /// is none.
    ///
    /// # Errors
    /// A name that fits several, and of the store.
    pub fn id_of(
        &self,
        caller: &Caller,
        kind: ObjectKind,
        text: &str,
        project: Option<&str>,
    ) -> Result<Option<String>, Refusal> {
        let call = Call {
            // Only the kind is looked at.
            resource: Resource::Keys,
            verb: Verb::Show,
            id: Some(text.to_owned()),
            body: Value::Null,
            query: project
                .filter(|_| kind == ObjectKind::Key)
                .map(|project| ("project".to_owned(), project.to_owned()))
                .into_iter()
                .collect(),
            idempotency_key: None,
        };
        match self.find(caller, kind, &call) {
            Ok(card) => Ok(Some(card.row.id)),
            Err(refusal) if refusal.code == "ambiguous" || refusal.status >= 500 => Err(refusal),
            Err(_) => Ok(None),
        }
    }
}
