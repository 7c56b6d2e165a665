//! `/sim/…`: reading the counters and the log, switching the behaviour. Never counted, never
//! logged, reachable whatever the behaviour is.

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use serde::Serialize;
use serde_json::json;

use crate::sim::behaviour::Change;
use crate::sim::json::push_json;
use crate::sim::server::change_behaviour;
use crate::sim::state::Shared;

const BODY_MAX_BYTES: usize = 64 << 10;
const REQUESTS_DEFAULT: usize = 100;

/// Answers a control request.
pub(super) async fn answer(shared: &Shared, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (parts, body) = request.into_parts();
    match (&parts.method, parts.uri.path()) {
        (&Method::GET, "/sim/stats") => reply(StatusCode::OK, &shared.stats()),
        (&Method::GET, "/sim/books") => {
            reply(StatusCode::OK, &json!({ "data": shared.books().pages() }))
        }
        (&Method::GET, "/sim/requests") => match last(parts.uri.query()) {
            Ok(last) => reply(StatusCode::OK, &shared.received(last)),
            Err(message) => refuse(StatusCode::BAD_REQUEST, &message),
        },
        (&Method::POST, "/sim/behaviour") => match Limited::new(body, BODY_MAX_BYTES)
            .collect()
            .await
        {
            Ok(body) => behave(shared, &body.to_bytes()),
            Err(_) => refuse(StatusCode::PAYLOAD_TOO_LARGE, "the body is too long or broke off"),
        },
        (&Method::POST, "/sim/goaway") => {
            shared.goaway.send_modify(|number| *number += 1);
            reply(StatusCode::OK, &json!({}))
        }
        (&Method::POST, "/sim/reset") => {
            shared.reset();
            reply(StatusCode::OK, &json!({}))
        }
        _ => refuse(
            StatusCode::NOT_FOUND,
            "use GET /sim/stats, GET /sim/books, GET /sim/requests, POST /sim/behaviour, POST /sim/goaway or POST /sim/reset",
        ),
    }
}

/// `last=N` of the query.
fn last(query: Option<&str>) -> Result<usize, String> {
    let mut pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    pairs.try_fold(REQUESTS_DEFAULT, |_, pair| match pair.strip_prefix("last=") {
        Some(number) => number.parse().map_err(|_| format!("{pair:?} is not a number")),
        None => Err(format!("{pair:?}: only last=N is known")),
    })
}

fn behave(shared: &Shared, body: &[u8]) -> Response<Full<Bytes>> {
    let change: Change = match serde_json::from_slice(body) {
        Ok(change) => change,
        Err(fault) => return refuse(StatusCode::BAD_REQUEST, &fault.to_string()),
    };
    match change_behaviour(shared, &change) {
        Ok(now) => reply(
            StatusCode::OK,
            &json!({
                "mode": now.mode,
                "factor": now.factor,
                "status": now.status,
                "percent": now.percent,
                "ttft": now.ttft.unwrap_or(shared.settings.ttft).to_string(),
                "gap": now.gap.unwrap_or(shared.settings.gap).to_string(),
            }),
        ),
        Err(message) => refuse(StatusCode::BAD_REQUEST, &message),
    }
}

fn refuse(status: StatusCode, message: &str) -> Response<Full<Bytes>> {
    reply(status, &json!({"error": {"message": message}}))
}

fn reply(status: StatusCode, value: &impl Serialize) -> Response<Full<Bytes>> {
    let mut out = Vec::new();
    push_json(&mut out, value);
    out.push(b'\n');
    let mut response = Response::new(Full::new(Bytes::from(out)));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_of_requests_is_strict() {
        assert_eq!(last(None), Ok(REQUESTS_DEFAULT));
        assert_eq!(last(Some("last=7")), Ok(7));
        assert!(last(Some("last=x")).is_err() && last(Some("first=7")).is_err());
    }
}
