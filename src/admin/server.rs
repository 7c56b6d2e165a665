//! Accepts the operator's connections and guards every call.
//!
//! Bounds: connections, time to send a head, time of a call, life of a connection, size of a body.
//! `axum::serve` knows none of them, hence hyper directly.

use std::collections::HashMap;
use std::future::Future;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::api::{Fault, router};
use super::calls::needs_token;
use super::{Control, Token};
use crate::directory::Caller;

/// Connections beyond this are closed at once.
const MAX_CONNECTIONS: usize = 256;
/// Of one peer: a silent one must not lock the others out.
const MAX_PER_PEER: usize = 64;
/// Time to send a head, also the time that an idle connection is kept.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for a call with its body.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// After this a connection takes no further call: nobody may hold a slot for ever by reading slowly.
const CONNECTION_LIFE: Duration = Duration::from_secs(300);
/// Then, and at the end of the process, running calls have this long.
const GRACE: Duration = Duration::from_secs(5);
/// Pause after a failed accept (no descriptors left), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const HEAD_BYTES: usize = 32 * 1024;

/// Serves the admin listener until `shutdown` comes; running calls then have a moment to end.
///
/// Cancel safety: dropping the future closes the listener and every connection.
pub async fn serve(
    listener: TcpListener,
    control: Arc<dyn Control>,
    token: Token,
    shutdown: impl Future<Output = ()>,
) {
    let is_loopback = listener.local_addr().is_ok_and(|address| address.ip().is_loopback());
    let guard = Guard { token, is_loopback, control: control.clone() };
    let router = router(control).layer(middleware::from_fn_with_state(guard, check));
    let (ending, _) = watch::channel(());
    let mut connections = JoinSet::new();
    let peers = Peers::default();
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            accepted = listener.accept() => accepted,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((stream, peer)) if connections.len() < MAX_CONNECTIONS => {
                let Some(place) = peers.enter(peer.ip()) else {
                    tracing::warn!(%peer, "too many admin connections of one peer: one was closed");
                    continue;
                };
                let serving = connection(stream, peer.ip(), router.clone(), ending.subscribe());
                connections.spawn(async move {
                    serving.await;
                    drop(place);
                });
            }
            Ok(_) => tracing::warn!("too many admin connections: one was closed"),
            Err(error) => {
                tracing::warn!("the admin listener cannot accept: {error}");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop((listener, ending));
    let all_ended = async { while connections.join_next().await.is_some() {} };
    let _ = timeout(GRACE, all_ended).await;
}

/// Connections by peer.
#[derive(Default, Clone)]
struct Peers(Arc<Mutex<HashMap<IpAddr, usize>>>);

impl Peers {
    /// A place for one more connection of this peer, given back on drop.
    fn enter(&self, peer: IpAddr) -> Option<Place> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(peer).or_default();
        if *count >= MAX_PER_PEER {
            return None;
        }
        *count += 1;
        Some(Place(self.clone(), peer))
    }
}

struct Place(Peers, IpAddr);

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.1);
            }
        }
    }
}

/// One connection, until its end, its allotted life or the end of the server.
async fn connection(
    stream: TcpStream,
    peer: IpAddr,
    router: Router,
    mut ending: watch::Receiver<()>,
) {
    let _ = stream.set_nodelay(true);
    let router = TowerToHyperService::new(router);
    let named = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(Peer(peer));
        router.call(request)
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), named);
    let mut served = pin!(served);
    tokio::select! {
        // A fault of the connection concerns its peer only, who has seen it.
        _ = served.as_mut() => return,
        _ = ending.changed() => {}
        () = sleep(CONNECTION_LIFE) => {}
    }
    served.as_mut().graceful_shutdown();
    let _ = timeout(GRACE, served).await;
}

/// Who is at the other end of a connection, beside each of its requests.
#[derive(Clone, Copy)]
struct Peer(IpAddr);

/// What the guard knows.
#[derive(Clone)]
struct Guard {
    token: Token,
    is_loopback: bool,
    control: Arc<dyn Control>,
}

/// Stands before every call, also of unknown paths.
async fn check(State(guard): State<Guard>, mut request: Request, next: Next) -> Response {
    let mut answer = match guard.let_in(&mut request) {
        Err(refusal) => refusal,
        Ok(()) => match timeout(CALL_TIMEOUT, next.run(request)).await {
            Ok(answer) => answer,
            Err(_) => Fault::new(408, "timeout", "the call took too long").into_response(),
        },
    };
    let headers = answer.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // A page may bring a policy of its own.
    headers
        .entry(header::CONTENT_SECURITY_POLICY)
        .or_insert(HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"));
    answer
}

impl Guard {
    /// A call with a right token is always let in, its [`Caller`] beside it: a web page cannot have one.
    /// Without one, what is open is open, but not to a page that was loaded from a name which now points
    /// at this host (DNS rebinding): on a loopback listener such a call carries that foreign name in
    /// `Host`.
    fn let_in(&self, request: &mut Request<Body>) -> Result<(), Response> {
        let shown = bearer(request.headers());
        let peer = request.extensions().get::<Peer>().map(|peer| peer.0);
        if let Some(caller) = shown.zip(peer).and_then(|(token, peer)| self.caller(token, peer)) {
            request.extensions_mut().insert(caller);
            return Ok(());
        }
        if needs_token(request.uri().path()) {
            let message = match shown {
                None => "send an admin token as `Authorization: Bearer TOKEN`",
                Some(_) => {
                    "this is neither the admin token of this process nor a valid one of a principal"
                }
            };
            let mut answer = Fault::new(401, "unauthorized", message).into_response();
            let scheme = HeaderValue::from_static("Bearer");
            answer.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
            return Err(answer);
        }
        if self.is_loopback && !request.headers().get_all(header::HOST).iter().all(is_local_host) {
            let message = "this listener is local: ask by its address or as localhost, \
                or send an admin token";
            return Err(Fault::new(403, "host_not_allowed", message).into_response());
        }
        Ok(())
    }

    /// Whose token this is: the owner's, which is configured, or a principal's.
    fn caller(&self, token: &[u8], peer: IpAddr) -> Option<Caller> {
        if self.token.matches(token) {
            return Some(Caller::owner(peer.to_string()));
        }
        // No token at all must never be somebody's, whatever was stored.
        if token.is_empty() {
            return None;
        }
        self.control.caller(token, peer)
    }
}

/// The bearer token; none if the header is missing, comes twice or has another scheme.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (scheme, token) = value.as_bytes().split_first_chunk::<7>()?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

/// Whether a `Host` names no domain that somebody else could own: an address, or `localhost`.
fn is_local_host(host: &HeaderValue) -> bool {
    let Ok(host) = host.to_str() else { return false };
    if let Some((address, port)) = host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return address.parse::<IpAddr>().is_ok() && (port.is_empty() || port.starts_with(':'));
    }
    let name = host.split_once(':').map_or(host, |(name, _)| name);
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    name.parse::<IpAddr>().is_ok() || name == "localhost" || name.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_hosts_are_told_from_local_ones() {
        for (host, want) in [
            ("127.0.0.1:9090", true),
            ("127.0.0.1", true),
            ("[::1]:9090", true),
            ("LOCALHOST:9090", true),
            ("gw.localhost", true),
            ("localhost.evil.example", false),
            ("evil.example:9090", false),
            ("127.0.0.1.evil.example", false),
            ("[::1].evil.example", false),
            ("", false),
        ] {
            assert_eq!(is_local_host(&HeaderValue::from_static(host)), want, "{host}");
        }
    }

    #[test]
    fn the_bearer_token_is_read() {
        let read = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, HeaderValue::from_static(value));
            }
            bearer(&headers).map(<[u8]>::to_vec)
        };
        assert_eq!(read(&["Bearer abc"]).as_deref(), Some(&b"abc"[..]));
        assert_eq!(read(&["bearer  abc "]).as_deref(), Some(&b"abc"[..]));
        assert_eq!(read(&["Basic abc"]), None);
        assert_eq!(read(&["Bearer"]), None);
        assert_eq!(read(&[]), None);
        assert_eq!(read(&["Bearer abc", "Bearer abc"]), None);
    }
}
