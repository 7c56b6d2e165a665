//! The path of one request: read, log, check the key, validate, plan the answer, spoil it if it is
//! to be spoilt, wait as long as a model would, play it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::request::Parts;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header,
};
use http_body_util::{BodyExt, Either, Full};
use hyper::body::Incoming;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use serde_json::Value;
use tokio::time::{sleep, sleep_until};

use crate::clock;
use crate::sim::behaviour::{Fault, Mode};
use crate::sim::books::Account;
use crate::sim::json::Object;
use crate::sim::plan::Job;
use crate::sim::play::{Broken, Pace, Play};
use crate::sim::refusal::Refusal;
use crate::sim::script::{End, Script};
use crate::sim::state::{Endpoint, Exchange, Received, Shared, count};
use crate::sim::text::mix;
use crate::sim::wire::Connection;
use crate::sim::{chat, completions, control, media, other, responses};

/// A slow reader pauses so long between two reads, times the factor.
const SLOW_READ_PAUSE: Duration = Duration::from_millis(20);
const SLOW_FACTOR: f64 = 10.0;
const RATE_REQUESTS: u64 = 10_000;
const RATE_TOKENS: u64 = 2_000_000;

/// An answer's body: plain for `/sim/…`, else played.
pub(super) type AnswerBody = Either<Full<Bytes>, Play>;

/// Answers one request. An error breaks the connection (HTTP/2: the stream) without an answer.
/// Dropping the future, as hyper does when the caller leaves, counts as a cancel.
pub(super) async fn serve(
    shared: Arc<Shared>,
    connection: Arc<Connection>,
    request: Request<Incoming>,
) -> Result<Response<AnswerBody>, Broken> {
    if request.uri().path().starts_with("/sim/") {
        return Ok(control::answer(&shared, request).await.map(Either::Left));
    }
    provide(shared, connection, request).await.map(|response| response.map(Either::Right))
}

async fn provide(
    shared: Arc<Shared>,
    connection: Arc<Connection>,
    request: Request<Incoming>,
) -> Result<Response<Play>, Broken> {
    let sequence = shared.next_sequence();
    let unique = shared.unique(sequence);
    let mut exchange = Exchange::new(shared.clone(), format!("req_{unique}"));
    let counters = &shared.counters;
    count(&counters.requests);
    count(if connection.h2 { &counters.h2_requests } else { &counters.h1_requests });
    let (parts, body) = request.into_parts();
    let route = route(&parts);
    shared.count_endpoint(route.as_ref().map_or(Endpoint::Unknown, |route| route.endpoint));
    // A body that breaks off means that the caller is gone: the exchange is dropped as a cancel.
    let body = read_body(&shared, body).await?;
    keep(&shared, &connection, &exchange.id, &parts, body.as_ref().ok());

    let now = clock::instant();
    let roll = mix(shared.settings.seed ^ sequence.rotate_left(32)) % 100;
    let switched = shared.behaviour().fault(now, roll);
    let created = shared.unix_us(now) / 1_000_000;
    let verdict = route.and_then(|route| {
        let hand =
            Hand { shared: &shared, parts: &parts, route, switched, unique: &unique, created };
        hand.judge(body?, &mut exchange)
    });
    let (fault, script) = match verdict {
        Ok((fault, script)) => (fault, Ok(script)),
        Err(refusal) => (switched, Err(refusal)),
    };
    match fault {
        Fault::StallHead => std::future::pending().await,
        Fault::Reset => {
            // Over HTTP/2 the other streams of the connection are not to suffer.
            connection.reset.store(!connection.h2, Ordering::Relaxed);
            exchange.broken();
            return Err(Broken);
        }
        _ => {}
    }
    match script {
        Ok(script) => Ok(play(exchange, script, fault, sequence, now).await),
        Err(refusal) => Ok(refuse(exchange, &refusal, now)),
    }
}

/// Which endpoint a request is for.
struct Route<'a> {
    endpoint: Endpoint,
    /// The rest of the path: a model's id.
    rest: Option<&'a str>,
    v2: bool,
}

/// The endpoint of a method and path, with or without `/v1`.
fn route(parts: &Parts) -> Result<Route<'_>, Refusal> {
    let whole = parts.uri.path();
    let path = whole.strip_prefix("/v1").filter(|rest| rest.starts_with('/')).unwrap_or(whole);
    let (method, endpoint, rest) = match path {
        "/chat/completions" => (Method::POST, Endpoint::Chat, None),
        "/completions" => (Method::POST, Endpoint::Completions, None),
        "/embeddings" => (Method::POST, Endpoint::Embeddings, None),
        "/responses" => (Method::POST, Endpoint::Responses, None),
        "/moderations" => (Method::POST, Endpoint::Moderations, None),
        "/images/generations" => (Method::POST, Endpoint::Images, None),
        "/audio/speech" => (Method::POST, Endpoint::Speech, None),
        "/rerank" | "/v2/rerank" => (Method::POST, Endpoint::Rerank, None),
        "/models" => (Method::GET, Endpoint::Models, None),
        _ => match path.strip_prefix("/models/").filter(|id| !id.is_empty()) {
            Some(id) => (Method::GET, Endpoint::Models, Some(id)),
            None => {
                let message = format!("Unknown request URL: {} {whole}.", parts.method);
                return Err(Refusal::invalid(404, Some("unknown_url"), message));
            }
        },
    };
    if parts.method != method {
        let message = format!("Not allowed to {} on {whole}. Use {method}.", parts.method);
        let refusal = Refusal::invalid(405, Some("method_not_allowed"), message);
        return Err(refusal.header("allow", method.as_str()));
    }
    Ok(Route { endpoint, rest, v2: path == "/v2/rerank" })
}

/// The whole body, or the refusal of a body that is too long.
async fn read_body(shared: &Shared, mut body: Incoming) -> Result<Result<Bytes, Refusal>, Broken> {
    let limit = shared.settings.body_limit_bytes;
    let mut whole = BytesMut::new();
    let mut first = None;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return Err(Broken) };
        let Ok(data) = frame.into_data() else { continue };
        if whole.len() + first.as_ref().map_or(0, Bytes::len) + data.len() > limit {
            let message = format!("Request body is larger than {limit} bytes.");
            return Ok(Err(Refusal::invalid(413, Some("request_too_large"), message)));
        }
        // Most bodies are one frame, which then needs no copy.
        match (&first, whole.is_empty()) {
            (None, true) => first = Some(data),
            _ => {
                if let Some(first) = first.take() {
                    whole.extend_from_slice(&first);
                }
                whole.extend_from_slice(&data);
            }
        }
        if let Some(pause) = read_pause(shared) {
            sleep(pause).await;
        }
    }
    Ok(Ok(first.unwrap_or_else(|| whole.freeze())))
}

fn read_pause(shared: &Shared) -> Option<Duration> {
    let behaviour = shared.behaviour();
    let slow = behaviour.mode == Mode::SlowRead && !behaviour.over(clock::instant());
    slow.then(|| SLOW_READ_PAUSE.mul_f64(behaviour.factor))
}

fn keep(shared: &Shared, connection: &Connection, id: &str, parts: &Parts, body: Option<&Bytes>) {
    if shared.settings.log_requests == 0 {
        return;
    }
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    shared.keep(Received {
        id: id.to_owned(),
        method: parts.method.to_string(),
        path: parts.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
        protocol: match parts.version {
            Version::HTTP_2 => "HTTP/2.0",
            Version::HTTP_10 => "HTTP/1.0",
            _ => "HTTP/1.1",
        },
        tls: connection.tls,
        headers: parts
            .headers
            .iter()
            .map(|(name, value)| (name.to_string(), text(value)))
            .collect(),
        body: body.cloned().unwrap_or_default(),
        time_unix_us: shared.unix_us(clock::instant()),
        connection: connection.id,
    });
}

/// A request in the hands of the judge.
struct Hand<'a> {
    shared: &'a Shared,
    parts: &'a Parts,
    route: Route<'a>,
    /// The fault that the run-time switch has chosen.
    switched: Fault,
    unique: &'a str,
    created: u64,
}

impl Hand<'_> {
    /// The answer and what is wrong with it on purpose, or a refusal.
    fn judge(&self, body: Bytes, exchange: &mut Exchange) -> Result<(Fault, Script), Refusal> {
        self.check_key()?;
        self.check_headers()?;
        if self.route.endpoint == Endpoint::Models {
            self.refuse_by(self.switched, "")?;
            let script = other::models(&self.shared.settings, self.route.rest)?;
            return Ok((self.switched, script));
        }
        let value: Value = serde_json::from_slice(&body).map_err(|fault| {
            let message = format!("We could not parse the JSON body of your request: {fault}.");
            Refusal::invalid(400, None, message)
        })?;
        let model = value.get("model").and_then(Value::as_str).unwrap_or_default();
        exchange.model = model.to_owned();
        let fault = match self.switched {
            Fault::None => Fault::of_model(model),
            switched => switched,
        };
        let settings = &self.shared.settings;
        let job = Job { settings, body: &body, fault, unique: self.unique, created: self.created };
        let mut script = self.answer(&value, &job)?;
        if !model.is_empty() && !other::exists(settings, model) {
            return Err(other::unknown_model(model));
        }
        self.refuse_by(fault, model)?;
        match fault {
            Fault::OkError => {
                script = Script::document(server_error(502, "Provider returned error").body(), 0);
            }
            Fault::InbandError | Fault::InbandFirst if !script.streamed => {
                return Err(server_error(500, "The server had an error. Sorry about that!"));
            }
            _ => script.spoil(fault, |number| self.error_frame(number)),
        }
        let user = value.get("user").and_then(Value::as_str).unwrap_or_default();
        exchange.book(Account::new(model, user, self.key().unwrap_or_default()), script.usage);
        Ok((fault, script))
    }

    fn answer(&self, value: &Value, job: &Job<'_>) -> Result<Script, Refusal> {
        match self.route.endpoint {
            Endpoint::Chat => chat::answer(value, job),
            Endpoint::Completions => completions::answer(value, job),
            Endpoint::Responses => responses::answer(value, job),
            Endpoint::Embeddings => other::embeddings(value, job),
            Endpoint::Moderations => other::moderations(value, job),
            Endpoint::Images => media::images(value, job),
            Endpoint::Speech => media::speech(value, job),
            Endpoint::Rerank => other::rerank(value, job, self.route.v2),
            Endpoint::Models | Endpoint::Unknown => {
                Err(Refusal::invalid(404, Some("unknown_url"), "Unknown request URL."))
            }
        }
    }

    /// The scheme and what follows it.
    fn authorization(&self) -> Option<(&str, &str)> {
        let value = self.parts.headers.get(header::AUTHORIZATION)?;
        value.to_str().ok()?.split_once(' ')
    }

    fn key(&self) -> Option<&str> {
        self.authorization().map(|(_, key)| key)
    }

    fn check_key(&self) -> Result<(), Refusal> {
        let keys = &self.shared.settings.keys;
        if keys.is_empty() {
            return Ok(());
        }
        match self.authorization() {
            Some((scheme, key))
                if scheme.eq_ignore_ascii_case("bearer") && keys.iter().any(|k| k == key) =>
            {
                Ok(())
            }
            Some((scheme, _)) if scheme.eq_ignore_ascii_case("bearer") => {
                count(&self.shared.counters.auth_failures);
                Err(wrong_key())
            }
            _ => {
                count(&self.shared.counters.auth_failures);
                let message = "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth (i.e. Authorization: Bearer YOUR_KEY).";
                Err(Refusal::new(401, "invalid_request_error", None, message))
            }
        }
    }

    fn check_headers(&self) -> Result<(), Refusal> {
        let headers = &self.parts.headers;
        if let Some(name) = headers.keys().find(|name| name.as_str().starts_with("x-foretoken")) {
            let message = format!("Unknown header: '{name}'.");
            return Err(Refusal::invalid(400, None, message));
        }
        if self.parts.method != Method::POST {
            return Ok(());
        }
        let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let essence = kind.unwrap_or_default().split(';').next().unwrap_or_default().trim();
        if essence.eq_ignore_ascii_case("application/json") {
            return Ok(());
        }
        let message = format!("Unsupported content type '{essence}': use 'application/json'.");
        Err(Refusal::invalid(415, Some("unsupported_content_type"), message))
    }

    /// Faults that are a whole error answer.
    fn refuse_by(&self, fault: Fault, model: &str) -> Result<(), Refusal> {
        Err(match fault {
            Fault::Status(status @ 400..500) => {
                let message = format!("Simulated error {status}.");
                Refusal::new(status, "invalid_request_error", None, message)
            }
            Fault::Status(status) => server_error(status, &format!("Simulated error {status}.")),
            Fault::RateLimited => rate_limited(model),
            Fault::Quota => {
                let message =
                    "You exceeded your current quota, please check your plan and billing details.";
                Refusal::new(429, "insufficient_quota", Some("insufficient_quota"), message)
            }
            Fault::Unauthorized => wrong_key(),
            Fault::Missing => other::unknown_model(model),
            Fault::ContextLength => {
                let message = "This model's maximum context length is 8192 tokens. However, your messages resulted in more. Please reduce the length of the messages.";
                let code = Some("context_length_exceeded");
                Refusal::new(400, "invalid_request_error", code, message).param("messages")
            }
            _ => return Ok(()),
        })
    }

    /// An error in mid-stream, after `number` frames.
    fn error_frame(&self, number: usize) -> Vec<u8> {
        let error = server_error(500, "The server had an error while processing your request.");
        if self.route.endpoint != Endpoint::Responses {
            return [b"data: ", error.body().as_slice(), b"\n\n"].concat();
        }
        let mut out = b"event: error\ndata: ".to_vec();
        Object::new(&mut out)
            .field("type", "error")
            .field("code", error.code)
            .field("message", &error.message)
            .field("param", ())
            .field("sequence_number", number)
            .nest("error", |out| error.write(out))
            .end();
        out.extend_from_slice(b"\n\n");
        out
    }
}

fn server_error(status: u16, message: &str) -> Refusal {
    Refusal::new(status, "server_error", Some("server_error"), message)
}

fn wrong_key() -> Refusal {
    // Without the key itself, which hosted providers show in part.
    let message = "Incorrect API key provided. You can find your API key in your account.";
    Refusal::new(401, "invalid_request_error", Some("invalid_api_key"), message)
}

fn rate_limited(model: &str) -> Refusal {
    let message =
        format!("Rate limit reached for {model} on requests per min. Please try again in 1s.");
    Refusal::new(429, "requests", Some("rate_limit_exceeded"), message)
        .header("retry-after", "1")
        .header("retry-after-ms", "1000")
        .header("x-ratelimit-remaining-requests", "0")
        .header("x-ratelimit-reset-requests", "1s")
}

async fn play(
    mut exchange: Exchange,
    script: Script,
    fault: Fault,
    sequence: u64,
    started: Instant,
) -> Response<Play> {
    let shared = exchange.shared().clone();
    let (mut pace, slowness) = {
        let behaviour = shared.behaviour();
        let over = behaviour.over(started);
        let settings = &shared.settings;
        let pace = Pace {
            rng: SmallRng::seed_from_u64(mix(settings.seed) ^ mix(!sequence)),
            ttft: behaviour.ttft.filter(|_| !over).unwrap_or(settings.ttft),
            gap: behaviour.gap.filter(|_| !over).unwrap_or(settings.gap),
            factor: if fault == Fault::Slow { SLOW_FACTOR } else { 1.0 },
        };
        (pace, behaviour.slowness(started))
    };
    let silent = script.steps.is_empty() && script.end == End::Stall;
    let early = script.streamed && (shared.settings.early_head || fault == Fault::Comments);
    if script.streamed {
        exchange.begin_stream();
    }
    if !early && !silent {
        let wait = match script.streamed {
            true => pace.first(slowness),
            false => pace.whole(script.tokens, slowness),
        };
        // Counted from `started`, so that our own work is not added to the model's time.
        let due = started + wait;
        if due > clock::instant() {
            sleep_until(due.into()).await;
        }
    }
    let mut headers = common_headers(&exchange, started);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(script.content_type));
    if script.gzip {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    let mut response = Response::new(Play::new(script, pace, !early, exchange));
    *response.headers_mut() = headers;
    response
}

fn refuse(exchange: Exchange, refusal: &Refusal, started: Instant) -> Response<Play> {
    if refusal.invalid {
        count(&exchange.shared().counters.invalid);
    }
    let mut headers = common_headers(&exchange, started);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    for (name, value) in &refusal.headers {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    let settings = &exchange.shared().settings;
    let pace = Pace {
        rng: SmallRng::seed_from_u64(0),
        ttft: settings.ttft,
        gap: settings.gap,
        factor: 1.0,
    };
    let script = Script::document(refusal.body(), 0);
    let mut response = Response::new(Play::new(script, pace, true, exchange));
    *response.status_mut() =
        StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    *response.headers_mut() = headers;
    response
}

fn common_headers(exchange: &Exchange, started: Instant) -> HeaderMap {
    let shared = exchange.shared();
    let mut headers = HeaderMap::with_capacity(16);
    let mut put = |name: &'static str, text: &str| {
        if let Ok(value) = HeaderValue::from_str(text) {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    put("x-request-id", &exchange.id);
    put("x-sim-name", &shared.settings.name);
    put("openai-version", "2020-10-01");
    let ms = clock::us_between(started, clock::instant()) / 1000;
    put("openai-processing-ms", itoa::Buffer::new().format(ms));
    let left = RATE_REQUESTS.saturating_sub(shared.in_flight());
    put("x-ratelimit-limit-requests", itoa::Buffer::new().format(RATE_REQUESTS));
    put("x-ratelimit-remaining-requests", itoa::Buffer::new().format(left));
    put("x-ratelimit-reset-requests", "6ms");
    put("x-ratelimit-limit-tokens", itoa::Buffer::new().format(RATE_TOKENS));
    put("x-ratelimit-remaining-tokens", itoa::Buffer::new().format(RATE_TOKENS - 1000));
    put("x-ratelimit-reset-tokens", "30ms");
    headers
}
