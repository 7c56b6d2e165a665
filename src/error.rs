//! One table of error kinds as data: what each means for another attempt, for the health of a
//! target, and for the caller. Only `proxy/reply.rs` turns a kind into bytes.

use std::fmt;

use Effect::*;
use Kind::*;
use Same::*;

/// Where a fault arose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// The caller, or the connection to it.
    Downstream,
    /// A provider, or the connection to it.
    Upstream,
    /// This process.
    Internal,
}

/// What went wrong. The order is that of [`TABLE`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Kind {
    // Faults of an attempt.
    Connect,
    TimeoutHeaders,
    ServerError,
    Overloaded,
    UpstreamTimeout,
    RateLimited,
    QuotaExhausted,
    UpstreamAuth,
    ModelMissing,
    BadRequest,
    ContextLength,
    ContentFilter,
    Region,
    Truncated,
    IdleTimeout,
    // How a request can end without anybody being at fault.
    ClientGone,
    Cancelled,
    // Our own refusals.
    InvalidKey,
    KeyDisabled,
    ModelNotAllowed,
    EndpointNotAllowed,
    AddressNotAllowed,
    KeyLimited,
    UnknownModel,
    UnknownUrl,
    MethodNotAllowed,
    InvalidJson,
    InvalidRequest,
    BadFraming,
    UnsupportedMedia,
    HeadersTooLarge,
    BodyTooLarge,
    BodyTimeout,
    NoUpstream,
    Shedding,
    Internal,
    // Refusals by limits; after the others, because codes in journals are places in this list.
    KeyTokensLimited,
    KeyQuota,
    Unpriced,
}

/// May the same upstream be asked again?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Same {
    /// Never.
    No,
    /// Once on a fresh connection, if the one that failed had been used before.
    OnceFresh,
    /// Once after a pause, if it is the only candidate.
    OnceIfOnly,
}

/// What a fault says of the upstream's health.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Nothing: the caller's doing, or nobody's.
    Ignore,
    /// The target failed.
    Failure,
    /// The credential must rest until its reset time.
    CoolDown,
    /// The credential is no use for some minutes.
    ParkCredential,
    /// The target is no use for some minutes.
    ParkTarget,
}

/// One row of the table.
#[derive(Debug)]
pub struct Row {
    pub kind: Kind,
    /// The name in logs and metrics.
    pub name: &'static str,
    /// May another upstream be asked, as long as the caller has seen nothing?
    pub elsewhere: bool,
    pub same: Same,
    pub effect: Effect,
    /// The status that the caller sees.
    pub status: u16,
    /// `type` and `code` of OpenAI's error object.
    pub openai_type: &'static str,
    pub openai_code: &'static str,
    /// Whether the caller's SDK could cure it by asking again. `false` is said in `x-should-retry`.
    pub curable: bool,
}

#[rustfmt::skip]
macro_rules! rows {
    ($( $kind:ident $name:literal $elsewhere:literal $same:ident $effect:ident $status:literal $ty:literal $code:literal $curable:literal )*) => {
        /// All kinds, in the order of [`Kind`].
        pub const TABLE: &[Row] = &[ $( Row {
            kind: $kind, name: $name, elsewhere: $elsewhere, same: $same, effect: $effect,
            status: $status, openai_type: $ty, openai_code: $code, curable: $curable,
        } ),* ];
    };
}

#[rustfmt::skip]
rows! {
//  kind               name                  elsewhere same    effect     status  type                     code                       curable
    Connect            "connect"               true  OnceFresh Failure        502 "server_error"          "upstream_error"              false
    TimeoutHeaders     "timeout_headers"       true  No        Failure        504 "server_error"          "upstream_timeout"            false
    ServerError        "server_error"          true  OnceIfOnly Failure       502 "server_error"          "upstream_error"              false
    Overloaded         "overloaded"            true  No        Failure        503 "server_error"          "upstream_unavailable"        true
    UpstreamTimeout    "upstream_timeout"      true  No        Failure        504 "server_error"          "upstream_timeout"            false
    RateLimited        "rate_limited"          true  No        CoolDown       429 "rate_limit_error"      "upstream_rate_limited"       true
    QuotaExhausted     "quota_exhausted"       true  No        ParkCredential 503 "server_error"          "upstream_unavailable"        true
    UpstreamAuth       "upstream_auth"         true  No        ParkCredential 502 "server_error"          "upstream_auth_error"         false
    ModelMissing       "model_missing"         true  No        ParkTarget     404 "invalid_request_error" "model_not_found"             false
    BadRequest         "bad_request"           false No        Ignore         400 "invalid_request_error" "invalid_request"             false
    ContextLength      "context_length"        false No        Ignore         400 "invalid_request_error" "context_length_exceeded"     false
    ContentFilter      "content_filter"        false No        Ignore         400 "invalid_request_error" "content_policy_violation"    false
    Region             "region"                true  No        ParkTarget     502 "server_error"          "upstream_error"              false
    Truncated          "truncated"             true  No        Failure        502 "server_error"          "upstream_stream_interrupted" false
    IdleTimeout        "idle_timeout"          true  No        Failure        504 "server_error"          "upstream_timeout"            false
    ClientGone         "client_gone"           false No        Ignore         499 "invalid_request_error" "client_closed_request"       false
    Cancelled          "cancelled"             false No        Ignore         503 "server_error"          "shutting_down"               true
    InvalidKey         "invalid_key"           false No        Ignore         401 "invalid_request_error" "invalid_api_key"             false
    KeyDisabled        "key_disabled"          false No        Ignore         403 "permission_error"      "key_disabled"                false
    ModelNotAllowed    "model_not_allowed"     false No        Ignore         403 "permission_error"      "model_not_allowed"           false
    EndpointNotAllowed "endpoint_not_allowed"  false No        Ignore         403 "permission_error"      "endpoint_not_allowed"        false
    AddressNotAllowed  "address_not_allowed"   false No        Ignore         403 "permission_error"      "address_not_allowed"         false
    KeyLimited         "key_limited"           false No        Ignore         429 "requests"              "rate_limit_exceeded"         true
    UnknownModel       "unknown_model"         false No        Ignore         404 "invalid_request_error" "model_not_found"             false
    UnknownUrl         "unknown_url"           false No        Ignore         404 "invalid_request_error" "unknown_url"                 false
    MethodNotAllowed   "method_not_allowed"    false No        Ignore         405 "invalid_request_error" "method_not_allowed"          false
    InvalidJson        "invalid_json"          false No        Ignore         400 "invalid_request_error" "invalid_json"                false
    InvalidRequest     "invalid_request"       false No        Ignore         400 "invalid_request_error" "invalid_value"               false
    BadFraming         "bad_framing"           false No        Ignore         400 "invalid_request_error" "invalid_http"                false
    UnsupportedMedia   "unsupported_media"     false No        Ignore         415 "invalid_request_error" "unsupported_media_type"      false
    HeadersTooLarge    "headers_too_large"     false No        Ignore         431 "invalid_request_error" "headers_too_large"           false
    BodyTooLarge       "body_too_large"        false No        Ignore         413 "invalid_request_error" "request_too_large"           false
    BodyTimeout        "body_timeout"          false No        Ignore         408 "invalid_request_error" "request_timeout"             true
    NoUpstream         "no_upstream"           true  No        Ignore         503 "server_error"          "upstream_unavailable"        true
    Shedding           "shedding"              false No        Ignore         503 "server_error"          "overloaded"                  true
    Internal           "internal"              false No        Ignore         500 "server_error"          "internal_error"              true
    KeyTokensLimited   "key_tokens_limited"    false No        Ignore         429 "tokens"                "rate_limit_exceeded"         true
    KeyQuota           "key_quota"             false No        Ignore         429 "insufficient_quota"    "insufficient_quota"          false
    Unpriced           "unpriced"              false No        Ignore         403 "permission_error"      "model_unpriced"              false
}

impl Kind {
    /// The kind's row.
    pub fn row(self) -> &'static Row {
        &TABLE[self as usize]
    }

    /// The name in logs and metrics.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// The kind with this name, as it was written to a log or to the journal.
    pub fn from_code(code: u8) -> Option<Kind> {
        TABLE.get(usize::from(code)).map(|row| row.kind)
    }
}

/// A fault with what is needed to decide, to answer and to log.
#[derive(Debug, Clone)]
pub struct Error {
    pub kind: Kind,
    pub origin: Origin,
    /// For the caller: says what to do, names no upstream URL, key or account.
    pub message: String,
    /// The field of the request that is at fault.
    pub param: Option<String>,
    /// Replaces the table's status (a 4xx of the upstream that is passed on).
    pub status: Option<u16>,
    /// Replaces the table's code (an upstream's own).
    pub code: Option<String>,
    /// How long to wait before asking again, if that is known.
    pub retry_after_ms: Option<u64>,
    /// For our own log: the low-level cause.
    pub cause: Option<String>,
    /// The upstream's own error object, cleaned of secrets, to be passed on as it is.
    pub body: Option<Vec<u8>>,
    /// The upstream surely never looked at the request, so that asking again cannot double it.
    pub unprocessed: bool,
}

impl Error {
    /// An error with a sentence for the caller.
    pub fn new(kind: Kind, origin: Origin, message: impl Into<String>) -> Self {
        Error {
            kind,
            origin,
            message: message.into(),
            param: None,
            status: None,
            code: None,
            retry_after_ms: None,
            cause: None,
            body: None,
            unprocessed: false,
        }
    }

    /// A fault of an upstream.
    pub fn upstream(kind: Kind, message: impl Into<String>) -> Self {
        Self::new(kind, Origin::Upstream, message)
    }

    /// A fault of the caller.
    pub fn downstream(kind: Kind, message: impl Into<String>) -> Self {
        Self::new(kind, Origin::Downstream, message)
    }

    /// Adds the low-level cause for the log.
    pub fn because(mut self, cause: impl fmt::Display) -> Self {
        self.cause = Some(cause.to_string());
        self
    }

    /// Says that the upstream never looked at the request.
    pub fn unprocessed(mut self) -> Self {
        self.unprocessed = true;
        self
    }

    /// Names the field at fault.
    pub fn param(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// For the process log: the kind and the cause, without an upstream's own words, which may
    /// repeat the prompt.
    pub fn for_log(&self) -> String {
        let cause = self.cause.as_deref().unwrap_or("");
        let cause = match cause.strip_prefix("status ") {
            Some(rest) => &cause[..7 + rest.bytes().take_while(u8::is_ascii_digit).count()],
            None if self.kind == Kind::Connect => cause,
            None => "",
        };
        let gap = if cause.is_empty() { "" } else { ": " };
        format!("{}{gap}{cause}", self.kind.name())
    }

    /// The status that the caller sees.
    pub fn status(&self) -> u16 {
        self.status.unwrap_or(self.kind.row().status)
    }

    /// The `code` that the caller sees.
    pub fn code(&self) -> &str {
        self.code.as_deref().unwrap_or(self.kind.row().openai_code)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.name(), self.message)?;
        match &self.cause {
            Some(cause) => write!(f, " ({cause})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_kinds() {
        for (at, row) in TABLE.iter().enumerate() {
            assert_eq!(row.kind as usize, at, "{}", row.name);
            assert_eq!(Kind::from_code(at as u8), Some(row.kind));
        }
        assert_eq!(Kind::Unpriced as usize + 1, TABLE.len());
    }

    #[test]
    fn an_upstreams_words_stay_out_of_the_log() {
        let said = Error::upstream(Kind::ServerError, "m").because("status 500 [code] the prompt");
        assert_eq!(said.for_log(), "server_error: status 500");
        let refused = Error::upstream(Kind::Connect, "m").because("connection refused");
        assert_eq!(refused.for_log(), "connect: connection refused");
        let odd = Error::upstream(Kind::Truncated, "m").because("their words");
        assert_eq!(odd.for_log(), "truncated");
    }

    #[test]
    fn our_own_credentials_never_look_like_the_callers() {
        assert_eq!(Kind::UpstreamAuth.row().status, 502);
    }
}
