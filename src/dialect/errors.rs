//! Faults: what an upstream's answer means, and how a fault is told to the caller in OpenAI's
//! shapes, as a body or inside a stream.

use super::json::quote_into;
use super::retry_after::retry_after_ms;
use super::said::Said;
use super::stream::StreamKind;
use crate::error::{Error, Kind};

pub use super::scrub::{scrub, scrub_error};

/// What an answer that is no success means: by status, then code, then type. A body of status 200
/// that holds an error is read the same way.
///
/// For faults of the request the upstream's status, message, code and field are kept (scrub the
/// message before it goes out); for all others the message is ours and the upstream's words are the
/// cause for the log. `headers` are looked up by their names in lower case.
pub fn classify<'h>(
    status: u16,
    headers: impl Fn(&str) -> Option<&'h str>,
    body: &[u8],
    now_unix_ms: u64,
) -> Error {
    let said = Said::read(body);
    let kind = said.kind(Some(status));
    let mut error = if passed_on(kind) && !said.message.is_empty() {
        Error::upstream(kind, &said.message[..])
    } else {
        Error::upstream(kind, sentence(kind))
    };
    if passed_on(kind) {
        error.status = Some(status).filter(|status| (400..500).contains(status));
        error.code = said.code.clone();
        error.param = said.param.clone();
    } else {
        let quota = kind == Kind::QuotaExhausted;
        error.retry_after_ms = retry_after_ms(&headers, &said.message, quota, now_unix_ms);
    }
    let words = [said.code.as_deref(), said.error_type.as_deref()];
    let words: Vec<&str> = words.into_iter().flatten().collect();
    error.because(format!("status {status} [{}] {}", words.join(", "), said.message))
}

/// Whether the upstream's own message concerns the caller: the request is at fault.
pub(super) fn passed_on(kind: Kind) -> bool {
    matches!(kind, Kind::BadRequest | Kind::ContextLength | Kind::ContentFilter)
}

/// What to tell the caller where the upstream's own words must not get through: they may name an
/// account, a key or a URL.
pub fn sentence(kind: Kind) -> &'static str {
    match kind {
        Kind::RateLimited => {
            "All upstreams of this model are limiting requests: ask again after the time in \
             Retry-After."
        }
        Kind::QuotaExhausted | Kind::Overloaded => {
            "No upstream is available for this model right now: ask again shortly."
        }
        Kind::UpstreamAuth => {
            "The gateway's own credential was refused by the upstream; your key is fine. Tell the \
             operator."
        }
        Kind::ModelMissing => "The upstream does not know this model. Tell the operator.",
        Kind::Region => "The upstream does not serve the gateway's region. Tell the operator.",
        Kind::UpstreamTimeout | Kind::TimeoutHeaders => "The upstream did not answer in time.",
        Kind::BadRequest => "The upstream refused the request.",
        Kind::ContextLength => "The request is too long for this model: shorten it.",
        Kind::ContentFilter => "The request was refused by a content filter: change its content.",
        Kind::Truncated => "The upstream broke off the answer before it was complete.",
        _ => "The upstream had an error.",
    }
}

/// OpenAI's error object as a body: `{"error":{message, type, param, code}}`.
pub fn error_body(error: &Error) -> Vec<u8> {
    let mut out = Vec::with_capacity(128 + error.message.len());
    out.extend_from_slice(b"{\"error\":");
    object_into(&mut out, error);
    out.push(b'}');
    out
}

/// An error inside a stream, as one complete frame. Nothing may follow it, no `[DONE]` either.
/// `sequence_number` is that of a Responses event. An opaque stream has no such form: the result is
/// empty, and the stream must be reset.
pub fn error_frame(kind: StreamKind, error: &Error, sequence_number: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(256 + 2 * error.message.len());
    match kind {
        StreamKind::Opaque => return out,
        StreamKind::Responses => {
            // The schema has the fields flat, the live API nested, and SDKs raise only on the
            // latter: both.
            out.extend_from_slice(b"event: error\ndata: {\"type\":\"error\",\"sequence_number\":");
            out.extend_from_slice(sequence_number.to_string().as_bytes());
            out.extend_from_slice(b",\"code\":");
            quote_into(&mut out, error.code());
            out.extend_from_slice(b",\"message\":");
            quote_into(&mut out, &error.message);
            out.extend_from_slice(b",\"param\":");
            optional_into(&mut out, error.param.as_deref());
            out.extend_from_slice(b",\"error\":");
        }
        _ => out.extend_from_slice(b"data: {\"error\":"),
    }
    object_into(&mut out, error);
    out.extend_from_slice(b"}\n\n");
    out
}

fn object_into(out: &mut Vec<u8>, error: &Error) {
    out.extend_from_slice(b"{\"message\":");
    quote_into(out, &error.message);
    out.extend_from_slice(b",\"type\":");
    quote_into(out, error.kind.row().openai_type);
    out.extend_from_slice(b",\"param\":");
    optional_into(out, error.param.as_deref());
    out.extend_from_slice(b",\"code\":");
    quote_into(out, error.code());
    out.push(b'}');
}

fn optional_into(out: &mut Vec<u8>, text: Option<&str>) {
    match text {
        Some(text) => quote_into(out, text),
        None => out.extend_from_slice(b"null"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::said::StreamError;
    use super::*;
    use serde_json::Value;

    fn class(status: u16, body: &str) -> Kind {
        classify(status, |_| None, body.as_bytes(), 0).kind
    }

    #[test]
    fn openais_errors_are_classified() {
        let text = include_str!("../../tests/samples/openai-errors.json");
        let samples: Vec<Value> = serde_json::from_str(text).expect("json");
        let want = [
            Kind::ContextLength,
            Kind::UpstreamAuth,
            Kind::UpstreamAuth,
            Kind::ModelMissing,
            Kind::BadRequest,
            Kind::RateLimited,
            Kind::QuotaExhausted,
            Kind::ServerError,
            Kind::Overloaded,
        ];
        assert_eq!(samples.len(), want.len());
        for (sample, want) in samples.iter().zip(want) {
            let headers = |name: &str| sample["headers"][name].as_str();
            let status = sample["status"].as_u64().expect("status") as u16;
            let body = sample["body"].to_string();
            let error = classify(status, headers, body.as_bytes(), 0);
            assert_eq!(error.kind, want, "{body}");
            let message = sample["body"]["error"]["message"].as_str().expect("message");
            assert_eq!(error.message == message, passed_on(want), "{body}");
            if passed_on(want) {
                assert_eq!(error.status(), status);
                assert_eq!(Some(error.code()), sample["body"]["error"]["code"].as_str());
            }
            let wait = match want {
                Kind::RateLimited => Some(6570),
                Kind::Overloaded => Some(2000),
                _ => None,
            };
            assert_eq!(error.retry_after_ms, wait, "{body}");
        }
    }

    #[test]
    fn other_vendors_shapes() {
        for (status, body, want) in [
            (400, r#"{"error":{"message":"x","code":"content_filter"}}"#, Kind::ContentFilter),
            (
                400,
                r#"{"object":"error","message":"x","type":"BadRequestError","code":400}"#,
                Kind::BadRequest,
            ),
            (400, r#"{"error":{"code":"billing_hard_limit_reached"}}"#, Kind::QuotaExhausted),
            (402, r#"{"error":{"code":402,"message":"credits"}}"#, Kind::QuotaExhausted),
            (
                403,
                r#"{"error":{"code":403,"message":"flagged","metadata":{"reasons":["x"]}}}"#,
                Kind::ContentFilter,
            ),
            (403, r#"{"error":{"code":"unsupported_country_region_territory"}}"#, Kind::Region),
            (
                404,
                r#"{"object":"error","message":"The model `x` does not exist.",
                "type":"NotFoundError","code":404}"#,
                Kind::ModelMissing,
            ),
            (404, r#"{"error":{"code":"DeploymentNotFound","message":"m"}}"#, Kind::ModelMissing),
            (404, "<html>nginx</html>", Kind::ModelMissing),
            (
                404,
                r#"{"error":{"message":"Response with id 'resp_1' not found.",
                "type":"invalid_request_error","param":null,"code":null}}"#,
                Kind::BadRequest,
            ),
            (
                404,
                r#"{"error":{"message":"The model's file is gone","param":"file"}}"#,
                Kind::BadRequest,
            ),
            (408, "", Kind::UpstreamTimeout),
            (409, "", Kind::BadRequest),
            (422, r#"{"detail":[{"msg":"field required","loc":["body"]}]}"#, Kind::BadRequest),
            (424, "", Kind::ServerError),
            (429, r#"{"error":{"type":"project_spend_limit_reached"}}"#, Kind::QuotaExhausted),
            (429, "slow down", Kind::RateLimited),
            (500, r#"{"error":{"type":"overloaded_error"}}"#, Kind::Overloaded),
            (502, "", Kind::ServerError),
            (504, "", Kind::UpstreamTimeout),
            (524, "", Kind::ServerError),
            (529, "", Kind::Overloaded),
            (302, "", Kind::ServerError),
            (200, r#"{"error":{"code":502,"message":"Provider disconnected"}}"#, Kind::ServerError),
            (200, r#"{"error":{"code":"rate_limit_exceeded","type":"tokens"}}"#, Kind::RateLimited),
            (200, r#"{"error":{"type":"invalid_request_error","message":"m"}}"#, Kind::BadRequest),
        ] {
            assert_eq!(class(status, body), want, "{status} {body}");
        }
        let detail = classify(422, |_| None, br#"{"detail":[{"msg":"field required"}]}"#, 0);
        assert_eq!((detail.message.as_str(), detail.status()), ("field required", 422));
    }

    #[test]
    fn no_words_of_an_upstream_about_keys_or_accounts_get_through() {
        let body = br#"{"error":{"message":"Limit for org-secret","type":"tokens"}}"#;
        let error = classify(429, |_| None, body, 0);
        assert!(!error.message.contains("org-secret"));
        assert!(error.cause.is_some_and(|cause| cause.contains("org-secret")));
        let error = Error::from(&StreamError::from_frame(body));
        assert!(!error.message.contains("org-secret"));
        let forged = br#"{"error":{"message":"a\r\nb\u0000","type":"invalid_request_error"}}"#;
        assert_eq!(classify(400, |_| None, forged, 0).message, "a  b ");
    }

    #[test]
    fn bodies_and_frames_are_json_for_any_message() {
        let message = "quote \" slash \\ newline \n nul \0 é \u{2028}";
        let error = Error::upstream(Kind::Truncated, message).param("a\"b");
        let body: Value = serde_json::from_slice(&error_body(&error)).expect("json");
        let want = serde_json::json!({"message": message, "type": "server_error",
            "param": "a\"b", "code": "upstream_stream_interrupted"});
        assert_eq!(body["error"], want);
        for kind in
            [StreamKind::Chat, StreamKind::Completions, StreamKind::Image, StreamKind::Speech]
        {
            let frame = error_frame(kind, &error, 9);
            let data = frame.strip_prefix(b"data: ").expect("data");
            let data = data.strip_suffix(b"\n\n").expect("end");
            assert_eq!(serde_json::from_slice::<Value>(data).expect("json")["error"], want);
        }
        let frame = error_frame(StreamKind::Responses, &error, 9);
        let data = frame.strip_prefix(b"event: error\ndata: ").expect("event");
        let data: Value = serde_json::from_slice(data).expect("json");
        assert_eq!(data["error"], want);
        assert_eq!((&data["type"], &data["sequence_number"]), (&"error".into(), &9.into()));
        assert_eq!(data["message"], message);
        assert_eq!(error_frame(StreamKind::Opaque, &error, 0), b"");
    }
}
