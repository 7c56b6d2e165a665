//! An origin: scheme, host, port, TLS identity and protocol. It owns the pools, so that twenty
//! models behind five keys at one host share one set of warm connections.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use arc_swap::ArcSwapOption;

use crate::error::{Error, Kind};

/// The protocol that is spoken to an origin.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Protocol {
    /// HTTP/2 where TLS negotiates it, else HTTP/1.1.
    #[default]
    Auto,
    H1,
    /// HTTP/2; in clear by prior knowledge.
    H2,
}

/// Bounds and habits of a pool.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PoolSettings {
    /// Connections to keep open ahead of need, for the whole process.
    pub min_warm: usize,
    /// Concurrent streams per HTTP/2 connection.
    pub max_streams: usize,
    /// Connections per worker.
    pub max_connections: usize,
    /// Age at which a connection is not used again (jittered by a tenth).
    pub max_age: Duration,
    /// How long an idle connection is kept; below the upstream's own limit.
    pub idle: Duration,
}

impl Default for PoolSettings {
    fn default() -> Self {
        PoolSettings {
            min_warm: 1,
            max_streams: 64,
            max_connections: 20_000,
            max_age: Duration::from_secs(1800),
            idle: Duration::from_secs(55),
        }
    }
}

/// Everything that makes an origin what it is. Two providers with equal settings share it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OriginSettings {
    pub tls: bool,
    /// Host name or address, without brackets.
    pub host: String,
    pub port: u16,
    pub protocol: Protocol,
    /// One deadline over name lookup, TCP, TLS and HTTP/2 handshake.
    pub connect: Duration,
    /// The name to ask for in TLS, if not the host.
    pub server_name: Option<String>,
    /// Further roots, as PEM text.
    pub ca: Option<Arc<[u8]>>,
    pub pool: PoolSettings,
}

impl OriginSettings {
    /// `host:port` as in a `host` header: brackets around IPv6, no default port.
    pub fn authority(&self) -> String {
        let host = match self.host.parse::<std::net::Ipv6Addr>() {
            Ok(v6) => format!("[{v6}]"),
            Err(_) => self.host.clone(),
        };
        let default = if self.tls { 443 } else { 80 };
        if self.port == default { host } else { format!("{host}:{}", self.port) }
    }
}

/// An origin with what is known of it. Lives on over reloads that do not change its settings.
pub struct Origin {
    pub settings: OriginSettings,
    /// Never used twice in a process: the index of the pools of the workers.
    pub slot: usize,
    pub authority: String,
    pub(super) tls: Option<Arc<rustls::ClientConfig>>,
    addresses: ArcSwapOption<Vec<SocketAddr>>,
    /// Open connections by use, for metrics: idle, busy (HTTP/1.1), and HTTP/2.
    pub h1_idle: AtomicI64,
    pub h1_busy: AtomicI64,
    pub h2_open: AtomicI64,
    /// Dials that failed, and that were tried.
    pub dial_failures: AtomicU64,
    pub dials: AtomicU64,
}

static NEXT_SLOT: AtomicUsize = AtomicUsize::new(0);

impl Origin {
    /// `tls` must be given exactly when the settings say so.
    pub fn new(settings: OriginSettings, tls: Option<Arc<rustls::ClientConfig>>) -> Arc<Origin> {
        Arc::new(Origin {
            authority: settings.authority(),
            settings,
            slot: NEXT_SLOT.fetch_add(1, Relaxed),
            tls,
            addresses: ArcSwapOption::empty(),
            h1_idle: AtomicI64::new(0),
            h1_busy: AtomicI64::new(0),
            h2_open: AtomicI64::new(0),
            dial_failures: AtomicU64::new(0),
            dials: AtomicU64::new(0),
        })
    }

    /// The addresses to connect to. Looks the name up only if nobody has done so before.
    ///
    /// # Errors
    /// `Connect` if the name cannot be resolved.
    pub(super) async fn resolve(&self) -> Result<Arc<Vec<SocketAddr>>, Error> {
        if let Some(known) = self.addresses.load_full() {
            return Ok(known);
        }
        self.refresh().await
    }

    /// Looks the name up again. The old addresses stay in use if that fails. Called off the path.
    ///
    /// # Errors
    /// `Connect` if the name cannot be resolved.
    pub async fn refresh(&self) -> Result<Arc<Vec<SocketAddr>>, Error> {
        let OriginSettings { host, port, .. } = &self.settings;
        let found = match host.parse::<IpAddr>() {
            Ok(ip) => vec![SocketAddr::new(ip, *port)],
            Err(_) => {
                let found = tokio::net::lookup_host((host.as_str(), *port)).await;
                let found: Vec<SocketAddr> = found.map_err(unresolved)?.collect();
                if found.is_empty() {
                    return Err(unresolved("no address"));
                }
                interleave(found)
            }
        };
        let found = Arc::new(found);
        self.addresses.store(Some(found.clone()));
        Ok(found)
    }

    /// Whether `host` is a name whose addresses can change.
    pub fn is_named(&self) -> bool {
        self.settings.host.parse::<IpAddr>().is_err()
    }
}

fn unresolved(cause: impl std::fmt::Display) -> Error {
    Error::upstream(Kind::Connect, "the upstream's host name could not be resolved")
        .because(cause)
        .unprocessed()
}

/// Alternates the address families, the resolver's first choice first (RFC 8305, section 4).
fn interleave(found: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = found.first().is_some_and(SocketAddr::is_ipv6);
    let (a, b): (Vec<_>, Vec<_>) = found.into_iter().partition(|x| x.is_ipv6() == first_is_v6);
    let (mut a, mut b) = (a.into_iter(), b.into_iter());
    let mut out = Vec::new();
    loop {
        match (a.next(), b.next()) {
            (None, None) => return out,
            (x, y) => out.extend(x.into_iter().chain(y)),
        }
    }
}

/// A secret at a provider.
pub struct Credential {
    /// For logs and `status`: never the secret.
    pub name: String,
    /// The value of the `authorization` header, or empty where the upstream wants none.
    authorization: String,
}

impl Credential {
    /// A key that is sent as a bearer token.
    pub fn bearer(name: String, secret: &str) -> Self {
        Credential { name, authorization: format!("Bearer {secret}") }
    }

    /// No key at all.
    pub fn none(name: String) -> Self {
        Credential { name, authorization: String::new() }
    }

    /// The header value, if there is one.
    pub fn authorization(&self) -> Option<&str> {
        Some(self.authorization.as_str()).filter(|a| !a.is_empty())
    }

    /// The bare secret, to mask it in what an upstream says.
    pub fn secret(&self) -> Option<&str> {
        self.authorization.strip_prefix("Bearer ")
    }
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credential({}, ***)", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_alternate() {
        let parse = |list: &[&str]| -> Vec<SocketAddr> {
            list.iter().map(|a| a.parse().expect("address")).collect()
        };
        let mixed = parse(&["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1"]);
        let want = parse(&["[::1]:1", "1.1.1.1:1", "[::2]:1", "[::3]:1"]);
        assert_eq!(interleave(mixed), want);
    }

    #[test]
    fn secrets_do_not_print() {
        let credential = Credential::bearer("openai".into(), "sk-secret");
        assert!(!format!("{credential:?}").contains("sk-secret"));
        assert_eq!(credential.secret(), Some("sk-secret"));
    }
}
