//! Answers the calls of the list (`calls.rs`): reads query, body and headers, asks [`Control`], and writes
//! what comes back.

use std::sync::Arc;

use axum::body::{Body, HttpBody as _};
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, on};
use axum::{Json, Router};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde_json::{Value, json};

use super::calls::{Action, CALLS, Call, Gate};
use super::{Control, Problem, openapi, query};
use crate::directory::{self, Caller, Refusal, Reply};

/// The largest body of a call.
pub(super) const MAX_BODY_BYTES: usize = 1 << 20;
/// The longest `Idempotency-Key`.
const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;
/// The longest id or name in a path.
const ID_BYTES_MAX: usize = 512;

/// What every handler is given.
pub(super) type Shared = Arc<dyn Control>;

/// The router over [`CALLS`], without the guard, which adds the [`Caller`].
pub(super) fn router(control: Shared) -> Router {
    let calls = CALLS.iter().fold(Router::new(), |router, call| {
        let handler = async move |State(control): State<Shared>,
                                  id: Option<Path<String>>,
                                  request: Request| {
            let id = id.map(|Path(id)| id);
            respond(call, &control, id, request).await.unwrap_or_else(Fault::into_response)
        };
        router.route(&call.path, on(filter(&call.method), handler))
    });
    let calls = calls.fallback(async || Fault::new(404, "not_found", "there is no such path here"));
    calls.method_not_allowed_fallback(wrong_method).with_state(control)
}

fn filter(method: &Method) -> MethodFilter {
    MethodFilter::try_from(method.clone()).expect("the list holds common methods only")
}

/// Answers one call.
async fn respond(
    call: &'static Call,
    control: &Shared,
    id: Option<String>,
    request: Request,
) -> Result<Response, Fault> {
    if matches!(call.gate, Gate::Open) {
        return Ok(open(call.action, control));
    }
    let (mut parts, body) = request.into_parts();
    let Some(caller) = parts.extensions.remove::<Caller>() else {
        return Err(Fault::new(401, "unauthorized", "this call needs a token"));
    };
    if !call.gate.lets_in(&caller) {
        let (fault, reason) = forbidden(call);
        control.denied(caller, format!("{} {}", call.method, call.path), reason).await;
        return Err(fault);
    }
    let id = id.map(checked_id).transpose()?;
    let query = query::read(&parts.uri, &call.query)?;
    let idempotency_key = match call.method {
        Method::POST => idempotency_key(&parts.headers)?,
        _ => None,
    };
    let body = match call.body {
        Some(_) => read_body(body).await?,
        None => json!({}),
    };
    let asked = Asked { caller, id, query, body, idempotency_key };
    answer(call, control, asked).await
}

/// A call, read and checked as far as this room can.
struct Asked {
    caller: Caller,
    id: Option<String>,
    query: Vec<(String, String)>,
    body: Value,
    idempotency_key: Option<String>,
}

async fn answer(call: &Call, control: &Shared, asked: Asked) -> Result<Response, Fault> {
    let Asked { caller, id, query, body, idempotency_key } = asked;
    let outcome = match call.action {
        Action::Live | Action::Ready | Action::Metrics => return Ok(open(call.action, control)),
        Action::Status => return Ok(Json(control.status()).into_response()),
        Action::Config => return Ok(Json(control.config()).into_response()),
        Action::Routes => return Ok(Json(control.routes()).into_response()),
        Action::OpenApi => return Ok(Json(openapi::document()).into_response()),
        Action::Reload => {
            let outcome = control.reload().await;
            let answer = outcome.map_err(|problems| Fault::configuration(&problems))?;
            return Ok(Json(answer).into_response());
        }
        Action::Perform(resource, verb) => {
            let call = directory::Call { resource, verb, id, body, query, idempotency_key };
            control.perform(caller, call).await
        }
        Action::Usage => control.usage(caller, query).await,
        Action::Requests => control.requests(caller, query).await,
        Action::Request => control.request(caller, id.unwrap_or_default()).await,
        Action::Audit => control.audit(caller, query).await,
        Action::AuditVerify => {
            check_head(&body)?;
            control.audit_verify(caller, body).await
        }
    };
    outcome.map(reply).map_err(Fault::from)
}

/// Health and metrics. Whatever query a prober adds is its own affair.
fn open(action: Action, control: &Shared) -> Response {
    match action {
        Action::Live => health(control.live(), "live", "failing"),
        Action::Ready => health(control.ready(), "ready", "not_ready"),
        _ => {
            let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
            ([(header::CONTENT_TYPE, kind)], control.metrics()).into_response()
        }
    }
}

fn health(good: bool, yes: &str, no: &str) -> Response {
    let (status, text) =
        if good { (StatusCode::OK, yes) } else { (StatusCode::SERVICE_UNAVAILABLE, no) };
    (status, Json(json!({ "status": text }))).into_response()
}

fn reply(reply: Reply) -> Response {
    let status = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    match (status, reply.body) {
        (StatusCode::NO_CONTENT, _) | (_, Value::Null) => status.into_response(),
        (_, body) => (status, Json(body)).into_response(),
    }
}

/// The refusal, and its words.
fn forbidden(call: &Call) -> (Fault, String) {
    let message = match call.gate {
        Gate::Unscoped => {
            "this shows all accounts: a principal bound to one may not see it".to_owned()
        }
        _ => {
            let roles: Vec<&str> = call.gate.roles().iter().map(|role| role.name()).collect();
            format!("this needs the role {}", roles.join(" or "))
        }
    };
    (Fault::new(403, "forbidden", &message), message)
}

fn checked_id(id: String) -> Result<String, Fault> {
    if id.len() > ID_BYTES_MAX || id.chars().any(char::is_control) {
        let message = "this is no id and no name: too long, or with control characters";
        return Err(Fault::of_field(400, "invalid_id", message, "id"));
    }
    Ok(id)
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Fault> {
    const NAME: &str = "idempotency-key";
    let mut values = headers.get_all(NAME).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let refuse = |message: &str| Fault::of_field(400, "invalid_idempotency_key", message, NAME);
    if values.next().is_some() {
        return Err(refuse("there are two Idempotency-Key headers: send one"));
    }
    let value = value.to_str().ok().map(str::trim).unwrap_or_default();
    match value.len() {
        1..=IDEMPOTENCY_KEY_BYTES_MAX => Ok(Some(value.to_owned())),
        _ => Err(refuse("an Idempotency-Key has 1 to 255 printable ASCII characters")),
    }
}

/// The body of `audit/verify`: `{head?: {count, hash}}`.
fn check_head(body: &Value) -> Result<(), Fault> {
    let refuse = |message: &str, field: &str| Fault::of_field(400, "invalid_field", message, field);
    let fields = body.as_object().into_iter().flatten();
    if let Some((name, _)) = fields.clone().find(|(name, _)| *name != "head") {
        return Err(refuse("there is only `head` here", name));
    }
    let Some((_, head)) = fields.clone().next().filter(|(_, head)| !head.is_null()) else {
        return Ok(());
    };
    let Some(head) = head.as_object() else {
        return Err(refuse("`head` is an object: {\"count\": 17, \"hash\": \"…\"}", "head"));
    };
    if let Some(name) = head.keys().find(|name| !["count", "hash"].contains(&name.as_str())) {
        return Err(refuse("a head has `count` and `hash`", &format!("head.{name}")));
    }
    if !head.get("count").is_some_and(Value::is_u64) {
        return Err(refuse("`count` is a whole number", "head.count"));
    }
    let hash = head.get("hash").and_then(Value::as_str).unwrap_or_default();
    if hash.len() != 64 || !hash.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(refuse("`hash` has 64 hexadecimal digits", "head.hash"));
    }
    Ok(())
}

/// The body as JSON; an empty one counts as `{}`.
async fn read_body(body: Body) -> Result<Value, Fault> {
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
        CALLS.iter().filter(|call| call.is_at(path)).map(|call| call.method.as_str()).collect();
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

    /// A fault of one field.
    pub(super) fn of_field(status: u16, code: &str, message: &str, field: &str) -> Self {
        let mut fault = Fault::new(status, code, message);
        fault.error["field"] = json!(field);
        fault
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

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        match &refusal.field {
            Some(field) => Fault::of_field(refusal.status, refusal.code, &refusal.message, field),
            None => Fault::new(refusal.status, refusal.code, &refusal.message),
        }
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

    impl Fault {
        /// For the tests of this room.
        pub(in crate::admin) fn parts(&self) -> (u16, &Value) {
            (self.status.as_u16(), &self.error)
        }
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
        let read = |length| runtime.block_on(read_body(Body::new(Spaces(length))));
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
            file: None,
        };
        let fault = Fault::configuration(&[problem(7, "one"), problem(9, "two")]);
        assert_eq!(fault.status, 422);
        assert_eq!(fault.error["problems"][1], json!({"line": 9, "column": 3, "message": "two"}));
        assert_eq!(problem(7, "one").to_string(), "7:3: one");
    }
}
