//! What the rooms above ask of the store's objects.

use serde_json::Value;

use super::perform::Directory;
use super::{Call, Caller, Resource, Verb};
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
    /// is none, or the store does not answer.
    pub fn id_of(
        &self,
        caller: &Caller,
        kind: ObjectKind,
        text: &str,
        project: Option<&str>,
    ) -> Option<String> {
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
        self.find(caller, kind, &call).ok().map(|card| card.row.id)
    }
}
