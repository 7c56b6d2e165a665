//! The only place that makes answers of our own: errors in the caller's dialect, the list of
//! models, and the head of an answer that is passed on.

use std::future::poll_fn;
use std::task::Poll;

use crate::auth::Grant;
use crate::dialect::{error_body, error_frame};
use crate::error::{Error, Kind};
use crate::exchange::{AnswerBody, Downstream, Gone};
use crate::proxy::answer::{Answer, Reader};
use crate::proxy::attempt::upstream_id;
use crate::proxy::rates;
use crate::proxy::record::Record;
use crate::proxy::snapshot::Snapshot;
use crate::wire::{Headers, Name};

/// What is passed on of an answer's headers. Rate limits, cookies and organisations are those of
/// the gateway's account, not of the caller's.
const PASSED_ON: [Name; 7] = [
    Name::ContentType,
    Name::ContentDisposition,
    Name::ContentLanguage,
    Name::CacheControl,
    Name::Date,
    Name::OpenaiProcessingMs,
    Name::OpenaiVersion,
];

/// Starts an answer that is passed on.
pub(super) fn start_success<D: Downstream>(
    answer: &Answer,
    body: AnswerBody,
    down: &mut D,
    record: &mut Record<'_>,
) {
    let worker = record.worker();
    let mut headers = worker.headers.take();
    headers.clear();
    let upstream = answer.exchange().head();
    for (id, name, value) in upstream.headers.iter() {
        if PASSED_ON.contains(&id) {
            headers.push(name, value);
        }
    }
    if let Some(id) = upstream_id(answer.exchange()) {
        headers.put_cleaned("x-upstream-request-id", id);
        record.upstream_id(id);
    }
    if matches!(answer.reader, Reader::Stream(_)) {
        // Proxies behind us must not collect the events.
        headers.push(b"x-accel-buffering", b"no");
    }
    own_headers(&mut headers, record);
    let status = upstream.status;
    record.status(status);
    down.start(status, &headers, body);
    worker.headers.replace(headers);
}

/// Starts a stream of which the upstream has said nothing yet.
pub(super) fn start_stream<D: Downstream>(down: &mut D, record: &mut Record<'_>) {
    let mut headers = Headers::default();
    headers.put(Name::ContentType, b"text/event-stream");
    headers.put(Name::CacheControl, b"no-cache");
    headers.push(b"x-accel-buffering", b"no");
    own_headers(&mut headers, record);
    record.status(200);
    down.start(200, &headers, AnswerBody::Stream);
}

fn own_headers(headers: &mut Headers, record: &Record<'_>) {
    headers.push(b"x-request-id", &record.id().text());
    headers.put_cleaned("x-foretoken-model", record.alias().as_bytes());
    headers.put_cleaned("x-foretoken-target", record.target_name().as_bytes());
    let mut digits = itoa::Buffer::new();
    headers.push(b"x-foretoken-attempts", digits.format(record.attempts()).as_bytes());
    headers.push(b"x-foretoken-overhead-us", digits.format(record.overhead_us()).as_bytes());
    rates::put(headers, record.rates());
}

/// Tells an error wherever the answer stands: as a whole, or inside of a stream that has been begun
/// by comments.
pub(super) async fn error_anywhere<D: Downstream>(
    error_: &Error,
    down: &mut D,
    record: &mut Record<'_>,
) {
    if !down.started() {
        return error(error_, down, record).await;
    }
    let frame = error_frame(record.stream_kind(), error_, 0);
    let sent = poll_fn(|cx| Poll::Ready(down.send(cx, &frame, true))).await;
    if sent.is_ok() {
        record.add_bytes_out(frame.len());
    }
}

/// Answers with an error.
pub(super) async fn error<D: Downstream>(error: &Error, down: &mut D, record: &mut Record<'_>) {
    let mut headers = Headers::default();
    headers.put(Name::ContentType, b"application/json");
    headers.push(b"x-request-id", &record.id().text());
    if record.attempts() > 0 {
        headers.put_cleaned("x-foretoken-model", record.alias().as_bytes());
        let attempts = record.attempts().to_string();
        headers.push(b"x-foretoken-attempts", attempts.as_bytes());
    }
    rates::put(&mut headers, record.rates());
    let row = error.kind.row();
    // What we have tried again ourselves must not be multiplied by the caller's own retries.
    let is_ours = matches!(error.kind, Kind::KeyLimited | Kind::KeyTokensLimited | Kind::KeyQuota);
    // A limit that this request alone is above has no time to wait for; a budget that begins anew has.
    let never = is_ours && error.retry_after_ms.is_none();
    if !row.curable || never || record.attempts() > 1 {
        headers.push(b"x-should-retry", b"false");
    }
    match error.kind {
        Kind::MethodNotAllowed => {
            headers.put_cleaned("allow", error.param.as_deref().unwrap_or("POST").as_bytes());
        }
        _ if never => {}
        _ if (row.curable || is_ours) && matches!(error.status(), 402 | 429 | 503) => {
            // An upstream's rate frees up gradually: never worth more than a minute's wait. Our own
            // limits know their true time.
            let wait_ms = error.retry_after_ms.unwrap_or(1000).max(1);
            let wait_ms = if is_ours { wait_ms } else { wait_ms.min(60_000) };
            headers.put(Name::RetryAfter, wait_ms.div_ceil(1000).to_string().as_bytes());
            headers.put(Name::RetryAfterMs, wait_ms.to_string().as_bytes());
        }
        _ => {}
    }
    let body = match &error.body {
        Some(body) => body.clone(),
        None if error.kind == Kind::MethodNotAllowed => {
            error_body(&Error { param: None, ..error.clone() })
        }
        None => error_body(error),
    };
    record.status(error.status());
    whole(error.status(), &headers, &body, down, record).await;
}

/// The models that the key may use.
pub(super) async fn models<D: Downstream>(
    snapshot: &Snapshot,
    grant: &Grant,
    down: &mut D,
    record: &mut Record<'_>,
) {
    let data: Vec<serde_json::Value> = snapshot
        .table
        .routes()
        .iter()
        .map(|route| route.alias.as_str())
        .filter(|alias| !alias.contains('*') && grant.allows_model(alias))
        .map(model_object)
        .collect();
    json(&serde_json::json!({"object": "list", "data": data}), down, record).await;
}

/// One model of the list.
pub(super) async fn model<D: Downstream>(id: &str, down: &mut D, record: &mut Record<'_>) {
    json(&model_object(id), down, record).await;
}

fn model_object(id: &str) -> serde_json::Value {
    // Aliases have no birthday; a fixed one keeps the answer the same over restarts.
    serde_json::json!({"id": id, "object": "model", "created": 1_767_225_600, "owned_by": "foretoken"})
}

/// Answers with a JSON value.
pub(super) async fn json<D: Downstream>(
    value: &serde_json::Value,
    down: &mut D,
    record: &mut Record<'_>,
) {
    json_text(value.to_string().as_bytes(), down, record).await;
}

/// Answers with JSON that is written already.
pub(super) async fn json_text<D: Downstream>(text: &[u8], down: &mut D, record: &mut Record<'_>) {
    let mut headers = Headers::default();
    headers.put(Name::ContentType, b"application/json");
    headers.push(b"x-request-id", &record.id().text());
    record.status(200);
    whole(200, &headers, text, down, record).await;
}

async fn whole<D: Downstream>(
    status: u16,
    headers: &Headers,
    body: &[u8],
    down: &mut D,
    record: &mut Record<'_>,
) {
    if down.started() {
        return;
    }
    down.start(status, headers, AnswerBody::Length(body.len() as u64));
    let sent: Result<(), Gone> = poll_fn(|cx| Poll::Ready(down.send(cx, body, true))).await;
    if sent.is_ok() {
        record.add_bytes_out(body.len());
    }
}
