//! What an upstream's error body or frame says, in all the shapes that occur, and which kind of
//! fault it is.

use serde_json::Value;

use super::errors::{passed_on, sentence};
use super::retry_after::told_in;
use crate::error::{Error, Kind};

/// Bytes of an error body that are still parsed.
const BODY_BYTES_MAX: usize = 256 << 10;
/// Characters of an upstream's message that are kept.
const MESSAGE_CHARS_MAX: usize = 2000;
/// Characters of an upstream's code, type or parameter that are kept.
const WORD_CHARS_MAX: usize = 200;

/// An error that an upstream reported inside of a stream, or in a body with status 200.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamError {
    pub message: String,
    /// Its own `type`.
    pub error_type: Option<String>,
    /// Its own `code`.
    pub code: Option<String>,
    /// The field of the request that it names.
    pub param: Option<String>,
    /// What it means to us.
    pub kind: Kind,
    /// "Try again in", if it says so.
    pub retry_after_ms: Option<u64>,
}

impl StreamError {
    /// A fault of our own finding.
    pub(super) fn new(kind: Kind, message: &str) -> Self {
        StreamError {
            message: message.to_owned(),
            error_type: None,
            code: None,
            param: None,
            kind,
            retry_after_ms: None,
        }
    }

    /// Reads an error frame's data or a whole body. What cannot be read is a server error.
    pub(super) fn from_frame(data: &[u8]) -> Self {
        let said = Said::read(data);
        StreamError {
            kind: said.kind(None),
            retry_after_ms: told_in(&said.message),
            message: said.message,
            error_type: said.error_type,
            code: said.code,
            param: said.param,
        }
    }
}

impl From<&StreamError> for Error {
    /// For the caller: the upstream's message and code where they concern the request, else our own
    /// sentence. Scrub the message before it goes out.
    fn from(said: &StreamError) -> Error {
        let server = said.kind == Kind::ServerError && !said.message.is_empty();
        let mut error = if passed_on(said.kind) || server {
            Error::upstream(said.kind, &said.message[..])
        } else {
            Error::upstream(said.kind, sentence(said.kind)).because(&said.message)
        };
        if passed_on(said.kind) {
            error.code = said.code.clone();
            error.param = said.param.clone();
        }
        error.retry_after_ms = said.retry_after_ms;
        error
    }
}

/// The fields of an error, wherever they stood. Texts are cut to a bound and hold no control
/// characters.
#[derive(Debug, Default)]
pub(super) struct Said {
    pub message: String,
    pub error_type: Option<String>,
    pub code: Option<String>,
    pub param: Option<String>,
    /// OpenRouter's sign that a moderation refused the request.
    moderated: bool,
    /// The body had the shape of an error at all: an HTML page of a proxy has not.
    pub is_error: bool,
}

impl Said {
    /// Reads `{"error":{…}}`, `{"error":"…"}`, the bare object of vLLM and Azure, a failed
    /// response, Responses' error event, and FastAPI's `detail`.
    pub fn read(body: &[u8]) -> Said {
        if body.len() > BODY_BYTES_MAX {
            return Said::default();
        }
        let Ok(value) = serde_json::from_slice::<Value>(body) else { return Said::default() };
        let value = value.get(0).unwrap_or(&value);
        let inner = [&value["error"], &value["response"]["error"]]
            .into_iter()
            .find(|error| error.is_object() || error.is_string());
        let Some(inner) = inner else { return Said::of(value, None) };
        match inner.as_str() {
            Some(message) => Said::of(value, Some(message)),
            None => Said::of(inner, None),
        }
    }

    fn of(value: &Value, message: Option<&str>) -> Said {
        let message = message
            .or_else(|| value["message"].as_str())
            .or_else(|| value["detail"].as_str())
            .or_else(|| value["detail"][0]["msg"].as_str())
            .unwrap_or_default();
        let code = match &value["code"] {
            Value::Null => &value["statusCode"],
            code => code,
        };
        Said {
            message: clean(message, MESSAGE_CHARS_MAX),
            error_type: word(&value["type"]),
            code: word(code),
            param: word(&value["param"]),
            moderated: value["metadata"]["reasons"].is_array(),
            is_error: !message.is_empty() || !code.is_null(),
        }
    }

    /// The kind of fault, by status, then code, then type. `status`: that of the answer, unless it
    /// is a success.
    pub fn kind(&self, status: Option<u16>) -> Kind {
        let of_code = self.code.as_deref().and_then(|code| code.parse::<u16>().ok());
        let status = status.filter(|status| *status >= 300);
        let status = status.or(of_code.filter(|code| (400..600).contains(code)));
        match status {
            Some(401) => Kind::UpstreamAuth,
            Some(402) => Kind::QuotaExhausted,
            Some(403) => self.request_fault().unwrap_or(Kind::UpstreamAuth),
            Some(404) => match self.request_fault() {
                Some(kind) => kind,
                // Only what speaks of the model says anything of the target: a stored response
                // that does not exist is the caller's matter.
                None if self.is_error && !self.of_the_model() => Kind::BadRequest,
                None => Kind::ModelMissing,
            },
            Some(408 | 504) => Kind::UpstreamTimeout,
            Some(424) => Kind::ServerError,
            Some(429) if self.of_quota() => Kind::QuotaExhausted,
            Some(429) => Kind::RateLimited,
            Some(400..500) => self.request_fault().unwrap_or(Kind::BadRequest),
            Some(503 | 529) => Kind::Overloaded,
            Some(_) if self.of_overload() => Kind::Overloaded,
            Some(_) => Kind::ServerError,
            None => self.kind_by_words(),
        }
    }

    fn kind_by_words(&self) -> Kind {
        if let Some(kind) = self.request_fault() {
            return kind;
        }
        if self.any(&[
            "rate_limit_exceeded",
            "rate_limit_error",
            "too_many_requests",
            "requests",
            "tokens",
        ]) {
            return Kind::RateLimited;
        }
        if self.of_overload() {
            return Kind::Overloaded;
        }
        if self.any(&["timeout", "timeout_error", "deadline_exceeded"]) {
            return Kind::UpstreamTimeout;
        }
        if self.any(&[
            "invalid_request_error",
            "BadRequestError",
            "invalid_prompt",
            "invalid_image",
        ]) {
            return Kind::BadRequest;
        }
        Kind::ServerError
    }

    /// What a code or type says whatever the status is.
    fn request_fault(&self) -> Option<Kind> {
        let message = self.message.to_ascii_lowercase();
        let long = ["maximum context length", "prompt is too long", "context window"];
        if self.any(&["context_length_exceeded"]) || long.iter().any(|part| message.contains(part))
        {
            return Some(Kind::ContextLength);
        }
        let filtered = ["content_filter", "content_policy_violation", "moderation_blocked"];
        if self.moderated || self.any(&filtered) {
            return Some(Kind::ContentFilter);
        }
        if self.any(&["unsupported_country_region_territory"]) {
            return Some(Kind::Region);
        }
        if self.of_quota() {
            return Some(Kind::QuotaExhausted);
        }
        if self.any(&["invalid_api_key", "authentication_error", "token_expired"]) {
            return Some(Kind::UpstreamAuth);
        }
        let missing = ["model_not_found", "DeploymentNotFound", "deployment_not_found"];
        self.any(&missing).then_some(Kind::ModelMissing)
    }

    fn of_quota(&self) -> bool {
        const CODES: &[&str] = &[
            "insufficient_quota",
            "credit_balance_exhausted",
            "billing_error",
            "billing_hard_limit_reached",
            "billing_not_active",
            "quota_exceeded",
        ];
        let limit = |word: &Option<String>| {
            word.as_ref().is_some_and(|word| word.ends_with("_spend_limit_reached"))
        };
        self.any(CODES) || limit(&self.code) || limit(&self.error_type)
    }

    fn of_overload(&self) -> bool {
        self.any(&[
            "overloaded_error",
            "overloaded",
            "service_unavailable_error",
            "slow_down",
            "engine_overloaded",
            "server_is_overloaded",
            "service_unavailable",
        ])
    }

    fn of_the_model(&self) -> bool {
        let message = self.message.to_ascii_lowercase();
        match self.param.as_deref() {
            Some(param) => param == "model",
            None => message.contains("model") || message.contains("deployment"),
        }
    }

    /// Whether the code or the type is one of `words`.
    fn any(&self, words: &[&str]) -> bool {
        let is = |word: &Option<String>| word.as_deref().is_some_and(|word| words.contains(&word));
        is(&self.code) || is(&self.error_type)
    }
}

fn word(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if !text.is_empty() => Some(clean(text, WORD_CHARS_MAX)),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// Without control characters, which would forge a line of a log, and not endless.
fn clean(text: &str, chars_max: usize) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().take(chars_max).map(plain).collect()
}
