//! The calls of the admin listener: one list, from which the router, the guard and the OpenAPI document are
//! made. A new call is a function and a row.

use std::sync::Arc;

use axum::body::{Body, HttpBody as _};
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Json, Router};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde_json::{Value, json};

use super::{Control, Problem, openapi};

/// The largest body of a call.
pub(super) const MAX_BODY_BYTES: usize = 1 << 20;

/// What every handler is given.
pub(super) type Shared = Arc<dyn Control>;

/// One call.
pub(super) struct Call {
    pub(super) method: Method,
    pub(super) path: &'static str,
    pub(super) summary: &'static str,
    /// Answers beside those that every call can give.
    pub(super) answers: &'static [(u16, &'static str)],
    /// What a good answer is made of.
    pub(super) media: &'static str,
    handler: fn() -> MethodRouter<Shared>,
}

impl Call {
    /// Whether the caller must show the token: everything under `/admin`, known or not.
    pub(super) fn needs_token(path: &str) -> bool {
        path == "/admin" || path.starts_with("/admin/")
    }
}

const JSON: &str = "application/json";

/// All calls.
pub(super) static CALLS: &[Call] = &[
    Call {
        method: Method::GET,
        path: "/health/live",
        summary: "Whether the process is in order; if not, it should be started anew.",
        answers: &[(200, "In order."), (503, "Not in order.")],
        media: JSON,
        handler: || get(live),
    },
    Call {
        method: Method::GET,
        path: "/health/ready",
        summary: "Whether callers are served: the data listener is open and no drain has begun.",
        answers: &[(200, "Ready."), (503, "Not ready.")],
        media: JSON,
        handler: || get(ready),
    },
    Call {
        method: Method::GET,
        path: "/metrics",
        summary: "Metrics in Prometheus' text format.",
        answers: &[(200, "The metrics.")],
        media: "text/plain",
        handler: || get(metrics),
    },
    Call {
        method: Method::GET,
        path: "/admin/v1/status",
        summary: "Version, uptime, generation and the outcome of the last reload.",
        answers: &[(200, "The status.")],
        media: JSON,
        handler: || get(async |State(control): State<Shared>| Json(control.status())),
    },
    Call {
        method: Method::GET,
        path: "/admin/v1/config",
        summary: "The running configuration, secrets masked.",
        answers: &[(200, "The configuration.")],
        media: JSON,
        handler: || get(async |State(control): State<Shared>| Json(control.config())),
    },
    Call {
        method: Method::GET,
        path: "/admin/v1/routes",
        summary: "Per alias and target: share, times, in-flight requests, health and pool.",
        answers: &[(200, "The routes.")],
        media: JSON,
        handler: || get(async |State(control): State<Shared>| Json(control.routes())),
    },
    Call {
        method: Method::POST,
        path: "/admin/v1/reload",
        summary: "Loads the configuration again. A faulty file changes nothing.",
        answers: &[
            (200, "Accepted: the generation and what changed."),
            (422, "Faulty: all faults of the file."),
        ],
        media: JSON,
        handler: || post(reload),
    },
    Call {
        method: Method::GET,
        path: "/admin/v1/openapi.json",
        summary: "This document.",
        answers: &[(200, "An OpenAPI 3.1 document.")],
        media: JSON,
        handler: || get(async || Json(openapi::document())),
    },
];

/// The router over [`CALLS`], without the guard.
pub(super) fn router(control: Shared) -> Router {
    let calls = CALLS
        .iter()
        .fold(Router::new(), |router, call| router.route(call.path, (call.handler)()))
        .fallback(async || Fault::new(404, "not_found", "there is no such path here"));
    calls.method_not_allowed_fallback(wrong_method).with_state(control)
}

async fn live(State(control): State<Shared>) -> Response {
    health(control.live(), "live", "failing")
}

async fn ready(State(control): State<Shared>) -> Response {
    health(control.ready(), "ready", "not_ready")
}

fn health(good: bool, yes: &str, no: &str) -> Response {
    let (status, text) =
        if good { (StatusCode::OK, yes) } else { (StatusCode::SERVICE_UNAVAILABLE, no) };
    (status, Json(json!({ "status": text }))).into_response()
}

async fn metrics(State(control): State<Shared>) -> Response {
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    ([(header::CONTENT_TYPE, kind)], control.metrics()).into_response()
}

async fn reload(State(control): State<Shared>, request: Request) -> Result<Response, Fault> {
    let _: Value = body(request.into_body()).await?;
    match control.reload().await {
        Ok(answer) => Ok(Json(answer).into_response()),
        Err(problems) => Err(Fault::configuration(&problems)),
    }
}

/// The body as JSON; an empty one counts as `{}`.
async fn body(body: Body) -> Result<Value, Fault> {
    let too_large = || {
        let message = format!("a body may have {MAX_BODY_BYTES} bytes at most");
        Fault::new(413, "body_too_large", &message)
    };
    // An announced length is refused before anything is read.
    if body.size_hint().lower() > MAX_BODY_BYTES as u64 {
        return Err(too_large());
    }
    let bytes =
        Limited::new(body, MAX_BODY_BYTES).collect().await.map_err(|error| match error
            .is::<LengthLimitError>(
        ) {
            true => too_large(),
            false => Fault::new(400, "body_incomplete", "the body did not arrive whole"),
        })?;
    let bytes = bytes.to_bytes();
    if bytes.trim_ascii().is_empty() {
        return Ok(json!({}));
    }
    match serde_json::from_slice(&bytes) {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(_) => Err(Fault::new(400, "invalid_json", "the body must be a JSON object, or empty")),
        Err(error) => {
            Err(Fault::new(400, "invalid_json", &format!("the body is no JSON: {error}")))
        }
    }
}

async fn wrong_method(request: Request) -> Response {
    let path = request.uri().path();
    let known: Vec<&str> =
        CALLS.iter().filter(|call| call.path == path).map(|call| call.method.as_str()).collect();
    let allow = known.join(", ");
    let message = format!("{} is not for this path: use {allow}", request.method());
    let mut answer = Fault::new(405, "method_not_allowed", &message).into_response();
    if let Ok(value) = HeaderValue::from_str(&allow) {
        answer.headers_mut().insert(header::ALLOW, value);
    }
    answer
}

/// A refusal: `{"error": {"code", "message", …}}`.
#[derive(Debug)]
pub(super) struct Fault {
    status: StatusCode,
    error: Value,
}

impl Fault {
    pub(super) fn new(status: u16, code: &str, message: &str) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Fault { status, error: json!({ "code": code, "message": message }) }
    }

    fn configuration(problems: &[Problem]) -> Self {
        let count = match problems.len() {
            1 => "1 fault".to_owned(),
            many => format!("{many} faults"),
        };
        let message = format!("the configuration has {count}; the running one stays in force");
        let mut fault = Fault::new(422, "invalid_configuration", &message);
        fault.error["problems"] = json!(problems);
        if let Some(field) = problems.first().and_then(|problem| problem.field.as_deref()) {
            fault.error["field"] = json!(field);
        }
        fault
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        (self.status, Json(json!({ "error": self.error }))).into_response()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use hyper::body::Frame;

    use super::*;

    #[test]
    fn only_health_and_metrics_are_open() {
        let open: Vec<&str> =
            CALLS.iter().map(|call| call.path).filter(|path| !Call::needs_token(path)).collect();
        assert_eq!(open, ["/health/live", "/health/ready", "/metrics"]);
        assert!(Call::needs_token("/admin") && Call::needs_token("/admin/nothing"));
    }

    /// So many spaces, one frame each 64 KiB, of which the head said nothing.
    struct Spaces(usize);

    impl axum::body::HttpBody for Spaces {
        type Data = axum::body::Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Self::Data>, Infallible>>> {
            let piece = self.0.min(65_536);
            self.0 -= piece;
            let frame = Frame::data(vec![b' '; piece].into());
            Poll::Ready((piece > 0).then_some(Ok(frame)))
        }
    }

    #[test]
    fn a_body_of_unknown_length_is_cut_off() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
        let read = |length| runtime.block_on(body(Body::new(Spaces(length))));
        assert_eq!(read(MAX_BODY_BYTES).expect("just fits"), json!({}));
        for length in [MAX_BODY_BYTES + 1, usize::MAX] {
            let fault = read(length).expect_err("too large");
            assert_eq!(fault.status, 413);
            assert_eq!(fault.error["code"], "body_too_large");
        }
    }

    #[test]
    fn a_faulty_file_is_answered_with_all_its_faults() {
        let problem = |line, message: &str| Problem {
            line: Some(line),
            column: Some(3),
            message: message.to_owned(),
            field: None,
        };
        let fault = Fault::configuration(&[problem(7, "one"), problem(9, "two")]);
        assert_eq!(fault.status, 422);
        assert_eq!(fault.error["problems"][1], json!({"line": 9, "column": 3, "message": "two"}));
        assert_eq!(problem(7, "one").to_string(), "7:3: one");
    }
}
