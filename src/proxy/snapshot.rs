//! One generation of everything that a request reads: routes, providers, settings.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::auth::Cidr;
use crate::health::CredentialState;
use crate::meter::{ModelEstimate, Room};
use crate::proxy::pricing::{Pricing, RouteTerms};
use crate::route::{Candidate, Table};
use crate::telemetry::{Series, TargetSeries};
use crate::upstream::{Credential, Origin};

/// Limits and habits of the path.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Largest request body, also after decompression.
    pub body_bytes: usize,
    /// From the head of a request to the last byte of its body.
    pub body_time: Duration,
    /// How long a caller may take nothing of its answer.
    pub write_time: Duration,
    /// Upstreams asked per request, at most.
    pub attempts: u8,
    /// Retries per request that are allowed on average, and how many are always allowed.
    pub retry_ratio: f64,
    pub retry_min: u32,
    /// How much of an answer, and for how long, is held back before its first content.
    pub hold_bytes: usize,
    pub hold_time: Duration,
    /// Silence after which a stream gets a comment; `None` never.
    pub keep_alive_comment: Option<Duration>,
    /// Proxies whose `x-forwarded-for` is believed.
    pub trusted_proxies: Vec<Cidr>,
    /// Requests that the journal has no room for are served without a record.
    pub serves_unrecorded: bool,
    /// The status of a request for which there is no money left: 429 or 402.
    pub over_budget_status: u16,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            body_bytes: 32 << 20,
            body_time: Duration::from_secs(60),
            write_time: Duration::from_secs(60),
            attempts: 3,
            retry_ratio: 0.2,
            retry_min: 10,
            hold_bytes: 64 << 10,
            hold_time: Duration::from_secs(10),
            keep_alive_comment: None,
            trusted_proxies: Vec::new(),
            serves_unrecorded: false,
            over_budget_status: 429,
        }
    }
}

/// How long a provider may take; `None` for ever.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Timeouts {
    pub connect: Duration,
    pub first_content: Option<Duration>,
    pub idle: Option<Duration>,
    pub total: Option<Duration>,
}

/// A credential with what is known of it.
pub struct KeyedCredential {
    pub credential: Arc<Credential>,
    pub state: Arc<CredentialState>,
}

/// A provider: an origin, its keys and its habits.
pub struct Provider {
    pub name: String,
    pub origin: Arc<Origin>,
    /// The path that endpoints are appended to, without a slash at its end: `/v1`.
    pub base_path: String,
    pub credentials: Vec<KeyedCredential>,
    pub timeouts: Timeouts,
    /// Whether the server understands `stream_options.include_usage`.
    pub include_usage: bool,
    /// Further headers to send.
    pub headers: Vec<(String, String)>,
    pub turn: AtomicUsize,
}

impl Provider {
    /// The credential to use now: in turn, those that rest left out. When all are parked the one
    /// that is parked the shortest is tried; while all wait for a rate limit, the soonest reset is
    /// given instead.
    ///
    /// # Errors
    /// How long until the first rate limit resets.
    pub fn pick(&self, now: Instant) -> Result<&KeyedCredential, Duration> {
        let count = self.credentials.len();
        let turn = if count > 1 { self.turn.fetch_add(1, Relaxed) } else { 0 };
        let in_turn = (0..count).map(|at| &self.credentials[(turn + at) % count]);
        let mut soonest: Option<Duration> = None;
        let mut parked: Option<(Duration, &KeyedCredential)> = None;
        for keyed in in_turn {
            if let Some(wait) = keyed.state.cooling(now) {
                soonest = Some(soonest.map_or(wait, |s| s.min(wait)));
            } else if let Some(wait) = keyed.state.parked(now) {
                if parked.is_none_or(|(shortest, _)| wait < shortest) {
                    parked = Some((wait, keyed));
                }
            } else {
                return Ok(keyed);
            }
        }
        match (parked, soonest) {
            (Some((_, keyed)), None) => Ok(keyed),
            (_, soonest) => Err(soonest.unwrap_or(Duration::from_secs(1))),
        }
    }

    /// Whether a credential is free to be used.
    pub fn usable(&self, now: Instant) -> bool {
        self.credentials
            .iter()
            .any(|k| k.state.cooling(now).is_none() && k.state.parked(now).is_none())
    }
}

/// Where the requests of one candidate are counted.
pub struct CandidateSeries {
    pub series: Arc<Series>,
    pub target: Arc<TargetSeries>,
}

/// One generation. Replaced as a whole; what is learned lives on inside the parts it shares with
/// the next one.
pub struct Snapshot {
    pub generation: u64,
    pub table: Table,
    pub providers: Vec<Provider>,
    /// By route and candidate, as in the table.
    pub series: Vec<Vec<CandidateSeries>>,
    /// What was learned of each route's model, as in the table.
    pub estimates: Vec<Arc<ModelEstimate>>,
    /// What governs each route beside its targets, as in the table.
    pub terms: Vec<RouteTerms>,
    pub pricing: Pricing,
    /// Room in the journal for the end of one request.
    pub room: Room,
    pub settings: Settings,
}

impl Snapshot {
    /// The provider of a candidate.
    pub fn provider(&self, candidate: &Candidate) -> &Provider {
        &self.providers[candidate.target.provider]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::{OriginSettings, PoolSettings, Protocol};

    fn provider(keys: usize) -> Provider {
        let origin = OriginSettings {
            tls: false,
            host: "127.0.0.1".into(),
            port: 1,
            protocol: Protocol::H1,
            connect: Duration::from_secs(1),
            server_name: None,
            ca: None,
            pool: PoolSettings::default(),
        };
        let keyed = |n: usize| KeyedCredential {
            credential: Arc::new(Credential::bearer(format!("k{n}"), "secret")),
            state: Arc::default(),
        };
        Provider {
            name: "p".into(),
            origin: Origin::new(origin, None),
            base_path: "/v1".into(),
            credentials: (0..keys).map(keyed).collect(),
            timeouts: Timeouts {
                connect: Duration::from_secs(1),
                first_content: None,
                idle: None,
                total: None,
            },
            include_usage: true,
            headers: vec![],
            turn: AtomicUsize::new(0),
        }
    }

    #[test]
    fn credentials_take_turns_and_those_that_rest_are_left_out() {
        let (provider, now) = (provider(3), Instant::now());
        let name = |p: &Provider| p.pick(now).map(|k| k.credential.name.clone());
        let three: Vec<_> = (0..3).map(|_| name(&provider).expect("free")).collect();
        assert_eq!(three, ["k0", "k1", "k2"]);
        provider.credentials[0].state.cool(now, Duration::from_secs(5));
        provider.credentials[1].state.park(now);
        for _ in 0..4 {
            assert_eq!(name(&provider).expect("free"), "k2");
        }
        provider.credentials[2].state.cool(now, Duration::from_secs(3));
        assert_eq!(name(&provider), Err(Duration::from_secs(3)));
    }

    #[test]
    fn a_parked_credential_is_tried_when_there_is_no_other() {
        let (provider, now) = (provider(2), Instant::now());
        provider.credentials[0].state.park(now);
        provider.credentials[0].state.park(now);
        provider.credentials[1].state.park(now);
        assert_eq!(provider.pick(now).expect("last resort").credential.name, "k1");
        assert!(!provider.usable(now));
    }
}
