//! What the head of a request says: which key, from where, and what of it is passed on.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

use crate::auth::Cidr;
use crate::upstream::Credential;
use crate::wire::{Headers, Name, RequestHead};

/// The key that a caller presents; the first way that is used counts.
pub(super) fn presented_key(head: &RequestHead) -> Option<Cow<'_, [u8]>> {
    let headers = &head.headers;
    if let Some(bearer) = headers.get(Name::Authorization).and_then(bearer_token) {
        return Some(Cow::Borrowed(bearer));
    }
    for name in [Name::ApiKey, Name::XApiKey, Name::XGoogApiKey] {
        if let Some(value) = headers.get(name).filter(|value| !value.is_empty()) {
            return Some(Cow::Borrowed(value));
        }
    }
    let query = head.path.split_once('?')?.1;
    let value = query.split('&').find_map(|pair| pair.strip_prefix("key="))?;
    (!value.is_empty()).then(|| percent_decoded(value))
}

fn bearer_token(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    let token = token.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"bearer ") && !token.is_empty()).then_some(token)
}

fn percent_decoded(text: &str) -> Cow<'_, [u8]> {
    if !text.contains('%') {
        return Cow::Borrowed(text.as_bytes());
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).and_then(|pair| std::str::from_utf8(pair).ok());
        match (bytes[at], hex.and_then(|pair| u8::from_str_radix(pair, 16).ok())) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 3;
            }
            (byte, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    Cow::Owned(out)
}

/// Who is calling: the peer, or what the nearest trusted proxy says of it. Read from the right,
/// because everything further left can be made up by the caller.
pub(super) fn client_address(head: &RequestHead, peer: SocketAddr, trusted: &[Cidr]) -> IpAddr {
    let is_trusted = |ip: IpAddr| trusted.iter().any(|cidr| cidr.contains(ip));
    let mut client = peer.ip().to_canonical();
    if trusted.is_empty() || !is_trusted(client) {
        return client;
    }
    let forwarded: Vec<&[u8]> = head
        .headers
        .iter()
        .filter(|(id, ..)| *id == Name::XForwardedFor)
        .flat_map(|(_, _, value)| value.split(|&b| b == b','))
        .collect();
    for hop in forwarded.into_iter().rev() {
        let parsed =
            std::str::from_utf8(hop).ok().and_then(|hop| hop.trim().parse::<IpAddr>().ok());
        let Some(ip) = parsed else { break };
        client = ip.to_canonical();
        if !is_trusted(client) {
            break;
        }
    }
    client
}

/// Gateways that a request may pass, and how they say so (RFC 9110, 7.6.3). Other proxies' names are
/// nobody's business further on.
pub(super) const MAX_HOPS: usize = 8;
const VIA: &str = "1.1 foretoken, 1.1 foretoken, 1.1 foretoken, 1.1 foretoken, \
                   1.1 foretoken, 1.1 foretoken, 1.1 foretoken, 1.1 foretoken, ";
const ONE_HOP: usize = VIA.len() / MAX_HOPS;

/// How many gateways a request has passed.
pub(super) fn hops_of(head: &RequestHead) -> usize {
    head.headers.get(Name::Via).map_or(0, |via| memchr::memmem::find_iter(via, "foretoken").count())
}

/// What is passed on of a request's headers: an allow-list, so that no secret, cookie or telemetry
/// of the caller reaches a provider by default.
const PASSED_ON: [Name; 5] =
    [Name::Accept, Name::IdempotencyKey, Name::OpenaiBeta, Name::Traceparent, Name::Tracestate];

/// Fills `out` with the headers of the upstream request.
pub(super) fn upstream_headers(
    head: &RequestHead,
    credential: &Credential,
    extra: &[(String, String)],
    out: &mut Headers,
) {
    out.clear();
    if let Some(authorization) = credential.authorization() {
        out.put(Name::Authorization, authorization.as_bytes());
    }
    out.put(Name::ContentType, b"application/json");
    // Usage and content are looked for in the bytes of the answer: they must come in clear.
    out.put(Name::AcceptEncoding, b"identity");
    out.put(Name::UserAgent, USER_AGENT.as_bytes());
    let hops = hops_of(head).min(MAX_HOPS - 1) + 1;
    out.put(Name::Via, &VIA.as_bytes()[..hops * ONE_HOP - 2]);
    for (id, name, value) in head.headers.iter() {
        if PASSED_ON.contains(&id) {
            out.push(name, value);
        }
    }
    for (name, value) in extra {
        out.put_cleaned(name, value.as_bytes());
    }
}

const USER_AGENT: &str = concat!("foretoken/", env!("CARGO_PKG_VERSION"));

#[cfg(test)]
mod tests {
    use super::*;

    fn head(path: &str, fields: &[(&str, &str)]) -> RequestHead {
        let mut head = RequestHead { path: path.into(), ..RequestHead::default() };
        for (name, value) in fields {
            head.headers.push(name.as_bytes(), value.as_bytes());
        }
        head
    }

    #[test]
    fn a_key_is_found_wherever_clients_put_it() {
        for (path, fields, want) in [
            ("/", &[("authorization", "Bearer a")][..], Some("a")),
            ("/", &[("AUTHORIZATION", "bearer  a ")], Some("a")),
            ("/", &[("authorization", "Basic x"), ("api-key", "b")], Some("b")),
            ("/", &[("x-api-key", "c")], Some("c")),
            ("/", &[("x-goog-api-key", "d")], Some("d")),
            ("/v1/models?alt=1&key=e%2Ff", &[], Some("e/f")),
            ("/?key=", &[], None),
            ("/", &[("authorization", "Bearer ")], None),
            ("/", &[], None),
        ] {
            let head = head(path, fields);
            let found = presented_key(&head);
            assert_eq!(found.as_deref(), want.map(str::as_bytes), "{path} {fields:?}");
        }
    }

    #[test]
    fn forwarded_addresses_count_only_behind_a_trusted_proxy() {
        let trusted: Vec<Cidr> = vec!["10.0.0.0/8".parse().expect("cidr")];
        let peer = |text: &str| -> SocketAddr { text.parse().expect("address") };
        let head = head("/", &[("x-forwarded-for", "6.6.6.6, 1.2.3.4, 10.0.0.9")]);
        for (from, trusted, want) in [
            ("10.1.1.1:1", &trusted[..], "1.2.3.4"),
            ("9.9.9.9:1", &trusted, "9.9.9.9"),
            ("10.1.1.1:1", &[], "10.1.1.1"),
        ] {
            assert_eq!(client_address(&head, peer(from), trusted).to_string(), want);
        }
    }

    #[test]
    fn nothing_of_the_callers_identity_is_passed_on() {
        let head = head(
            "/",
            &[
                ("authorization", "Bearer caller"),
                ("cookie", "c"),
                ("openai-organization", "org"),
                ("x-stainless-os", "Linux"),
                ("x-forwarded-for", "1.1.1.1"),
                ("traceparent", "00-1"),
                ("host", "gateway"),
            ],
        );
        let mut out = Headers::default();
        upstream_headers(&head, &Credential::bearer("k".into(), "ours"), &[], &mut out);
        let names: Vec<_> = out.iter().map(|(_, n, _)| String::from_utf8_lossy(n)).collect();
        assert_eq!(
            names,
            [
                "authorization",
                "content-type",
                "accept-encoding",
                "user-agent",
                "via",
                "traceparent"
            ]
        );
        assert_eq!(out.get(Name::Authorization), Some(&b"Bearer ours"[..]));
    }
}
