//! A provider must not be one of our own listeners: each request would come back as another one,
//! until the limits stop it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::fault::{Sink, quote};
use super::net::BaseUrl;
use super::presets;
use super::values::{Item, Node, Value};

/// Notes each provider whose address is one that `[server]`, `[server.tls]` or `[admin]` listens on.
pub(super) fn check(root: &Node, sink: &mut Sink<'_>) {
    let server = root.node("server");
    let tls = server.node_if("tls").map_or(&[][..], |tls| tls.list("listen"));
    let own: Vec<(SocketAddr, &str)> = server
        .list("listen")
        .iter()
        .map(|item| (item, "[server]"))
        .chain(tls.iter().map(|item| (item, "[server.tls]")))
        .chain([(root.node("admin").item("listen"), "[admin]")])
        .filter_map(|(item, label)| Some((address(item)?, label)))
        .collect();
    for provider in root.nodes("provider") {
        let Some((url, key)) = base_url(provider) else { continue };
        let Some((listen, label)) = own.iter().find(|(listen, _)| is_same(&url, *listen)) else {
            continue;
        };
        let message = format!(
            "[[provider]] {} is at {url}, where {label} listens ({listen}): this gateway would ask itself",
            quote(&provider.text_if("name").unwrap_or_default())
        );
        let cure = "change base_url, or \"listen\" and the callers' base URL";
        sink.fault(provider.span(key), message, cure);
    }
}

fn address(item: &Item) -> Option<SocketAddr> {
    if let Value::Address(address) = item.value { address } else { None }
}

/// Where a provider is, and the key that says so.
fn base_url(provider: &Node) -> Option<(BaseUrl, &'static str)> {
    let item = provider.item("base_url");
    if let Value::Url(url) = &item.value {
        return Some((url.clone(), "base_url"));
    }
    let preset = provider.text_if("preset").and_then(|name| presets::find(&name))?;
    let is_default = !item.broken && !provider.item("preset").broken;
    is_default.then(|| BaseUrl::parse(preset.base_url).ok()).flatten().map(|url| (url, "preset"))
}

/// Does a connection to `url` end at a socket that listens on `listen`? Other names of this machine
/// are not known here.
fn is_same(url: &BaseUrl, listen: SocketAddr) -> bool {
    if url.port != listen.port() {
        return false;
    }
    let listen = listen.ip().to_canonical();
    if url.host == "localhost" {
        return listen.is_loopback() || listen.is_unspecified();
    }
    let Ok(host) = url.host.parse::<IpAddr>() else { return false };
    let host = match host.to_canonical() {
        // To connect to no address in particular is to connect to this machine.
        IpAddr::V4(v4) if v4.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(v6) if v6.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        host => host,
    };
    // A socket on [::] takes IPv4 as well.
    let is_any = listen.is_unspecified() && (listen.is_ipv6() || host.is_ipv4());
    host == listen || (is_any && host.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_surely_ends_here_is_the_same() {
        let same = |url: &str, listen: &str| {
            let url = BaseUrl::parse(url).expect(url);
            is_same(&url, listen.parse().expect(listen))
        };
        for (url, listen) in [
            ("http://127.0.0.1:8080/v1", "127.0.0.1:8080"),
            ("http://LOCALHOST:8080", "127.0.0.1:8080"),
            ("http://localhost:8080", "[::1]:8080"),
            ("http://127.0.0.1:8080", "0.0.0.0:8080"),
            ("http://127.0.0.1:8080", "[::]:8080"),
            ("http://[::1]:8080", "[::]:8080"),
            ("http://0.0.0.0:8080", "127.0.0.1:8080"),
            ("https://10.0.0.5:8443", "10.0.0.5:8443"),
            ("http://127.0.0.1", "127.0.0.1:80"),
        ] {
            assert!(same(url, listen), "{url} {listen}");
        }
        for (url, listen) in [
            ("http://127.0.0.1:8081", "127.0.0.1:8080"),
            ("http://127.0.0.2:8080", "127.0.0.1:8080"),
            ("http://[::1]:8080", "127.0.0.1:8080"),
            ("http://[::1]:8080", "0.0.0.0:8080"),
            ("http://10.0.0.5:8080", "0.0.0.0:8080"),
            ("http://gpu-1:8080", "0.0.0.0:8080"),
            ("http://localhost:8080", "10.0.0.5:8080"),
        ] {
            assert!(!same(url, listen), "{url} {listen}");
        }
    }
}
