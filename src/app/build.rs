//! From a configuration to one generation of tables. What did not change keeps what was learned:
//! warm connections, times, rests and counters.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use super::governance::{Stored, pricing, route_terms};
use crate::auth::Cidr;
use crate::config::{self, Config};
use crate::health::{CredentialState, TargetState};
use crate::ident::TargetId;
use crate::listener;
use crate::meter::{Estimates, Room};
use crate::proxy::{CandidateSeries, KeyedCredential, Provider, Settings, Snapshot, Timeouts};
use crate::route::{Candidate, Route, Table, Target, policy};
use crate::telemetry::Registry;
use crate::upstream::{self, Credential, Origin, OriginSettings, PoolSettings, Protocol};
use crate::wire::HeadLimits;

/// Why a valid configuration could not be put to work.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct BuildFault(pub String);

/// A year: what `off` means where a limit must be a number.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// Builds generations.
pub(super) struct Builder {
    workers: usize,
    registry: Arc<Registry>,
    estimates: Arc<Estimates>,
    origins: Vec<Arc<Origin>>,
    credentials: HashMap<CredentialKey, (Arc<Credential>, Arc<CredentialState>)>,
    targets: HashMap<TargetKey, Arc<TargetState>>,
}

/// Provider, destination and digest of the secret: a credential is bound to its destination.
type CredentialKey = (String, String, [u8; 32]);
/// Provider, destination and upstream model.
type TargetKey = (String, String, Option<String>);

impl Builder {
    pub(super) fn new(workers: usize, registry: Arc<Registry>) -> Self {
        Builder {
            workers,
            registry,
            estimates: Arc::default(),
            origins: Vec::new(),
            credentials: HashMap::new(),
            targets: HashMap::new(),
        }
    }

    /// Builds a generation. On a fault nothing has changed.
    ///
    /// # Errors
    /// TLS roots that cannot be used.
    pub(super) fn build(
        &mut self,
        config: &Config,
        stored: &Stored,
        generation: u64,
    ) -> Result<Snapshot, BuildFault> {
        let mut next = Builder::new(self.workers, self.registry.clone());
        next.estimates = self.estimates.clone();
        let providers: Vec<Provider> = config
            .providers
            .iter()
            .map(|provider| self.provider(provider, &mut next))
            .collect::<Result<_, _>>()?;
        let routes = self.routes(config, &mut next);
        let series = routes.iter().map(|route| self.series(route)).collect();
        let estimates = routes.iter().map(|route| self.estimates.model(&route.alias)).collect();
        let table = Table::new(routes).map_err(|e| BuildFault(e.to_string()))?;
        *self = next;
        self.estimates.retain(|model| config.models.iter().any(|m| m.name == model.as_str()));
        let settings = settings(config);
        let candidates = table.routes().iter().flat_map(|route| &route.candidates);
        let longest = candidates.map(|c| c.target.id.as_str().len()).max().unwrap_or(0);
        // The first attempt may be made twice, on a stale and on a fresh connection.
        let room = Room::new(usize::from(settings.attempts) + 1, longest);
        let pricing = pricing(config, stored);
        let terms = route_terms(config, &pricing);
        Ok(Snapshot {
            generation,
            table,
            providers,
            series,
            estimates,
            terms,
            pricing,
            room,
            settings,
        })
    }

    fn provider(
        &self,
        provider: &config::Provider,
        next: &mut Builder,
    ) -> Result<Provider, BuildFault> {
        let origin = self.origin(provider, next)?;
        let credentials = if provider.api_keys.is_empty() {
            vec![self.credential(provider, 0, None, next)]
        } else {
            let keys = provider.api_keys.iter().enumerate();
            keys.map(|(at, key)| self.credential(provider, at, Some(key), next)).collect()
        };
        let limit = |limit: Duration| Some(limit).filter(|limit| !limit.is_zero());
        let timeouts = &provider.timeouts;
        Ok(Provider {
            name: provider.name.clone(),
            origin,
            base_path: provider.base_url.path.trim_end_matches('/').to_owned(),
            credentials,
            timeouts: Timeouts {
                connect: timeouts.connect,
                first_content: limit(timeouts.first_content),
                idle: limit(timeouts.idle),
                total: timeouts.total,
            },
            include_usage: provider.include_usage,
            headers: provider
                .headers
                .iter()
                .map(|(name, value)| (name.clone(), value.expose().to_owned()))
                .collect(),
            turn: AtomicUsize::new(0),
        })
    }

    fn origin(
        &self,
        provider: &config::Provider,
        next: &mut Builder,
    ) -> Result<Arc<Origin>, BuildFault> {
        let settings = origin_settings(provider);
        let known = next.origins.iter().chain(&self.origins).find(|o| o.settings == settings);
        if let Some(origin) = known.cloned() {
            if !next.origins.iter().any(|o| Arc::ptr_eq(o, &origin)) {
                next.origins.push(origin.clone());
            }
            return Ok(origin);
        }
        let tls = if settings.tls {
            let config = upstream::client_config(settings.ca.as_deref(), settings.protocol);
            Some(config.map_err(|e| {
                let file = provider.tls.ca.as_ref().map(|ca| ca.path.display().to_string());
                BuildFault(format!(
                    "provider \"{}\": tls.ca {}: {e}",
                    provider.name,
                    file.unwrap_or_default()
                ))
            })?)
        } else {
            None
        };
        let origin = Origin::new(settings, tls);
        next.origins.push(origin.clone());
        Ok(origin)
    }

    fn credential(
        &self,
        provider: &config::Provider,
        at: usize,
        secret: Option<&config::Secret>,
        next: &mut Builder,
    ) -> KeyedCredential {
        let digest = secret.map_or([0; 32], |secret| secret.digest().0);
        let key = (provider.name.clone(), destination(provider), digest);
        let (credential, state) = self.credentials.get(&key).cloned().unwrap_or_else(|| {
            let name = format!("{}#{}", provider.name, at + 1);
            let credential = match secret {
                Some(secret) => Credential::bearer(name, secret.expose()),
                None => Credential::none(name),
            };
            (Arc::new(credential), Arc::default())
        });
        next.credentials.insert(key, (credential.clone(), state.clone()));
        KeyedCredential { credential, state }
    }

    fn routes(&self, config: &Config, next: &mut Builder) -> Vec<Route> {
        let by_name: HashMap<&str, usize> =
            config.models.iter().enumerate().map(|(at, m)| (m.name.as_str(), at)).collect();
        config
            .models
            .iter()
            .map(|model| Route {
                alias: model.name.as_str().into(),
                policy: policy::find(model.policy.name()).unwrap_or(policy::POLICIES[0]),
                candidates: model
                    .targets
                    .iter()
                    .map(|target| self.candidate(config, target, next))
                    .collect(),
                fallbacks: model
                    .fallbacks
                    .iter()
                    .filter_map(|name| by_name.get(name.as_str()).copied())
                    .collect(),
                rewrite_model: model.rewrite_model,
            })
            .collect()
    }

    fn candidate(&self, config: &Config, target: &config::Target, next: &mut Builder) -> Candidate {
        // Checked when the file was read: the provider exists.
        let provider = config.providers.iter().position(|p| p.name == target.provider);
        let provider = provider.unwrap_or_default();
        let model = match &target.model {
            config::TargetModel::AsAsked => None,
            config::TargetModel::Named(name) => Some(name.clone()),
        };
        let key =
            (target.provider.clone(), destination(&config.providers[provider]), model.clone());
        let state = next.targets.get(&key).or_else(|| self.targets.get(&key)).cloned();
        let state = state.unwrap_or_else(|| TargetState::new(self.workers));
        next.targets.insert(key, state.clone());
        let id = format!("{}/{}", target.provider, model.as_deref().unwrap_or("*"));
        Candidate {
            target: Arc::new(Target {
                id: TargetId::from(id.as_str()),
                provider,
                upstream_model: model.as_deref().map(Into::into),
                state,
            }),
            weight: target.weight,
            priority: target.priority,
        }
    }

    fn series(&self, route: &Route) -> Vec<CandidateSeries> {
        route
            .candidates
            .iter()
            .map(|candidate| CandidateSeries {
                series: self.registry.series(route.alias.as_str(), candidate.target.id.as_str()),
                target: self.registry.target(candidate.target.id.as_str()),
            })
            .collect()
    }
}

fn destination(provider: &config::Provider) -> String {
    let scheme = if provider.base_url.https { "https" } else { "http" };
    format!("{scheme}://{}{}", provider.base_url.authority(), provider.base_url.path)
}

pub(super) fn origin_settings(provider: &config::Provider) -> OriginSettings {
    let pool = &provider.pool;
    OriginSettings {
        tls: provider.base_url.https,
        host: provider.base_url.host.clone(),
        port: provider.base_url.port,
        protocol: match provider.protocol {
            config::Protocol::H1 => Protocol::H1,
            config::Protocol::H2 => Protocol::H2,
            config::Protocol::Auto => Protocol::Auto,
        },
        connect: provider.timeouts.connect,
        server_name: provider.tls.server_name.clone(),
        ca: provider.tls.ca.as_ref().map(|ca| ca.bytes.clone()),
        pool: PoolSettings {
            min_warm: pool.min_warm,
            max_streams: pool.max_streams as usize,
            max_connections: pool.max_connections,
            max_age: pool.max_age.unwrap_or(FOREVER),
            idle: pool.idle.unwrap_or(FOREVER),
        },
    }
}

pub(super) fn cidr(cidr: &config::Cidr) -> Option<Cidr> {
    format!("{}/{}", cidr.address, cidr.prefix_bits).parse().ok()
}

fn settings(config: &Config) -> Settings {
    let server = &config.server;
    Settings {
        body_bytes: server.limits.body_bytes as usize,
        body_time: server.timeouts.body,
        write_time: server.timeouts.write,
        attempts: server.retry.attempts.min(8) as u8,
        retry_ratio: server.retry.budget_share,
        retry_min: server.retry.budget_min_per_second,
        hold_bytes: server.retry.hold_bytes as usize,
        hold_time: server.retry.hold_max,
        keep_alive_comment: server.keep_alive_comment,
        trusted_proxies: server.trusted_proxies.iter().filter_map(cidr).collect(),
        serves_unrecorded: config.store.when_full == config::WhenFull::Drop,
        over_budget_status: server.over_budget_status,
    }
}

/// The settings of the caller's side.
pub(super) fn listener_settings(config: &Config) -> listener::Settings {
    let (limits, timeouts) = (&config.server.limits, &config.server.timeouts);
    listener::Settings {
        head: HeadLimits {
            bytes: limits.headers_bytes as usize,
            count: limits.header_count,
            uri: limits.uri_bytes as usize,
        },
        connections: limits.connections,
        streams_per_connection: limits.streams_per_connection,
        header: timeouts.header,
        idle: timeouts.idle,
        write: timeouts.write,
        tls_handshake: timeouts.tls_handshake,
    }
}

/// The certificates of the TLS listeners.
pub(super) fn certificates(tls: &config::Tls) -> Vec<listener::CertificatePair> {
    tls.certificates
        .iter()
        .map(|pair| listener::CertificatePair {
            cert_name: pair.cert.path.display().to_string(),
            cert: pair.cert.bytes.clone(),
            key_name: pair.key.path.display().to_string(),
            key: pair.key.bytes.clone(),
        })
        .collect()
}
