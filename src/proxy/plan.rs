//! What is to be done for one request, in owned form: it outlives the request body.

use crate::auth::Grant;
use crate::dialect::{Asked, Endpoint, StreamKind};
use crate::error::{Error, Kind};
use crate::ident::Alias;
use crate::proxy::snapshot::Snapshot;

/// The plan of one request.
pub(super) struct Plan {
    pub endpoint: Endpoint,
    /// The model name as the caller wrote it.
    pub model: Alias,
    /// Index of the route in the snapshot.
    pub route: usize,
    pub stream: bool,
    /// Whether the caller wants to see the usage chunk.
    pub wants_usage: bool,
    /// Answers per request, each with its own end.
    pub choices: u32,
    /// Whether a duplicate upstream would do no harm.
    pub duplicate_safe: bool,
    pub max_output_tokens: Option<u64>,
    pub body_bytes: usize,
}

impl Plan {
    /// Finds the route, and holds the caller to its grant.
    ///
    /// # Errors
    /// `ModelNotAllowed` before `UnknownModel`, so that nobody learns which other models exist.
    pub(super) fn resolve(
        snapshot: &Snapshot,
        grant: &Grant,
        asked: &Asked<'_>,
        model: Alias,
    ) -> Result<Plan, Error> {
        let route = snapshot.table.find(model.as_str());
        if !grant.allows_model(model.as_str()) {
            return Err(Error::downstream(
                Kind::ModelNotAllowed,
                format!(
                    "the model `{model}` is not allowed for this key; GET /v1/models lists those that are"
                ),
            )
            .param("model"));
        }
        let route = route.ok_or_else(|| unknown_model(model.as_str()))?;
        Ok(Plan {
            endpoint: asked.endpoint,
            model,
            route,
            stream: asked.stream,
            wants_usage: asked.wants_usage(),
            choices: asked.choices(),
            duplicate_safe: asked.duplicate_safe,
            max_output_tokens: asked.max_output_tokens,
            body_bytes: asked.estimate_bytes,
        })
    }

    /// What an event stream of this endpoint consists of.
    pub(super) fn stream_kind(&self) -> StreamKind {
        StreamKind::of(self.endpoint)
    }
}

pub(super) fn unknown_model(model: &str) -> Error {
    Error::downstream(
        Kind::UnknownModel,
        format!("the model `{model}` does not exist here; GET /v1/models lists those that do"),
    )
    .param("model")
}
