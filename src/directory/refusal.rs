//! Why an act was not done, in words that tell the cure.

/// Why an act was not done. Nothing has changed then, unless the message says so.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// As an HTTP status.
    pub status: u16,
    /// For programs: `invalid_value`, `forbidden`, `not_found`, …
    pub code: &'static str,
    /// For people.
    pub message: String,
    /// Which field of the body or of the query is at fault: `limits.budget[0].amount`.
    pub field: Option<String>,
}

impl Refusal {
    /// A refusal that concerns no field.
    pub fn new(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        Refusal { status, code, message: message.into(), field: None }
    }

    /// The same, about this field.
    pub fn of(self, field: impl Into<String>) -> Self {
        Refusal { field: Some(field.into()), ..self }
    }

    /// A field holds another type of JSON than it should.
    pub(super) fn kind(field: &str, message: impl Into<String>) -> Self {
        Refusal::new(400, "invalid_type", message).of(field)
    }

    /// A field holds what it cannot mean.
    pub(super) fn value(field: &str, message: impl Into<String>) -> Self {
        Refusal::new(422, "invalid_value", message).of(field)
    }

    /// Beyond what the caller may do.
    pub(super) fn forbidden(message: impl Into<String>) -> Self {
        Refusal::new(403, "forbidden", message)
    }

    /// In the way of what is there.
    pub(super) fn conflict(code: &'static str, message: impl Into<String>) -> Self {
        Refusal::new(409, code, message)
    }

    /// The store did not do its part.
    pub(super) fn store(error: &crate::store::StoreError) -> Self {
        let message =
            format!("nothing was changed: the store does not answer ({error}); try again");
        Refusal::new(503, "store_unavailable", message)
    }
}
