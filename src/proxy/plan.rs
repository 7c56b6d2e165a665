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
    /// The alias that the key's own name for the model stands for, if it has one.
    pub renamed: Option<Alias>,
    /// Answers per request, each with its own end.
    pub choices: u32,
    /// Answers that are generated and billed, shown or not.
    pub candidates: u32,
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
        let renamed = grant.alias_of(model.as_str()).cloned();
        let alias = renamed.as_ref().unwrap_or(&model);
        let route = snapshot.table.find(alias.as_str());
        if !grant.allows_model(alias.as_str()) {
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
            renamed,
            route,
            stream: asked.stream,
            wants_usage: asked.wants_usage(),
            choices: asked.choices(),
            candidates: asked.candidates(),
            duplicate_safe: asked.duplicate_safe,
            max_output_tokens: asked.max_output_tokens,
            body_bytes: asked.estimate_bytes,
        })
    }

    /// The name that is passed on where a target takes whatever was asked for.
    pub(super) fn asked_name(&self) -> &str {
        self.renamed.as_ref().unwrap_or(&self.model).as_str()
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
