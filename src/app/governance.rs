//! From a configuration to what governs requests: prices, terms, and the objects that the file
//! defines.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::build::cidr;
use crate::admit::{LimitSet, QueueSettings, ScopeKind, Terms};
use crate::auth::{Aliases, Grant, Names};
use crate::config::{self, Config, Fault, Loaded, OnDisconnect};
use crate::directory::{FileAccount, FileObjects, FileProject, FileUser};
use crate::ident::{AccountId, Alias, KeyId, ProjectId};
use crate::price::{Book, Entry, RateRow, Rates};
use crate::proxy::{CandidateTerms, Pricing, RouteTerms, Unpriced};

/// Prices and rates that were set by the admin API, beside those of the file.
#[derive(Clone, Default)]
pub(super) struct Stored {
    pub prices: Vec<Entry>,
    pub rates: Vec<RateRow>,
}

/// The prices of a generation. Of two for the same model and time that of the file counts.
pub(super) fn pricing(config: &Config, stored: &Stored) -> Pricing {
    let prices = stored.prices.iter().chain(&config.prices).cloned().collect();
    let rates = stored.rates.iter().chain(&config.rates).copied().collect();
    Pricing {
        book: Book::new(prices),
        rates: Rates::new(rates),
        default: config.default_price.clone().map(Arc::new),
    }
}

/// The currencies that neither the file nor the store has a rate for.
pub(super) fn unrated(loaded: &Loaded, stored: &Stored) -> Vec<Fault> {
    let missing = loaded.unrated.iter().filter(|it| !it.is_met_by(&stored.rates));
    missing.map(|it| it.fault.clone()).collect()
}

/// What governs each route, in the order of the file.
pub(super) fn route_terms(config: &Config, pricing: &Pricing) -> Vec<RouteTerms> {
    config.models.iter().map(|model| terms_of(config, model, pricing)).collect()
}

fn terms_of(config: &Config, model: &config::Model, pricing: &Pricing) -> RouteTerms {
    RouteTerms {
        max_output: model.max_output_tokens,
        unpriced: match model.unpriced {
            config::Unpriced::Free => Unpriced::Free,
            config::Unpriced::Refuse => Unpriced::Refuse,
            config::Unpriced::Default => Unpriced::Default,
        },
        queue: model.queue.map(queue),
        candidates: model
            .targets
            .iter()
            .map(|target| CandidateTerms {
                provider: target.provider.as_str().into(),
                prices: match &target.model {
                    config::TargetModel::AsAsked => None,
                    config::TargetModel::Named(name) => {
                        pricing.book.find(&target.provider, name, None).cloned()
                    }
                },
                drain: drain(config, model, target),
            })
            .collect(),
    }
}

fn drain(config: &Config, model: &config::Model, target: &config::Target) -> Option<Duration> {
    let bound = config.provider(&target.provider)?.timeouts.drain_max;
    (config.on_disconnect(model, target) == OnDisconnect::Drain).then_some(bound)
}

fn queue(queue: config::Queue) -> QueueSettings {
    QueueSettings { wait: queue.wait, depth: queue.depth }
}

/// The revisions of the file's limits: a set that a reload has not changed keeps its own, so that the
/// grants that carry it stay as they are, too.
#[derive(Default)]
pub(super) struct Revisions {
    known: HashMap<(ScopeKind, String), Arc<LimitSet>>,
    generation: u64,
}

impl Revisions {
    fn of(
        &mut self,
        kind: ScopeKind,
        name: &str,
        limits: Option<&Arc<LimitSet>>,
    ) -> Option<Arc<LimitSet>> {
        let place = (kind, name.to_owned());
        let Some(limits) = limits else {
            self.known.remove(&place);
            return None;
        };
        if let Some(known) = self.known.get(&place) {
            let same = LimitSet { revision: known.revision, ..LimitSet::clone(limits) };
            if same == **known {
                return Some(known.clone());
            }
        }
        let new = LimitSet { revision: self.generation, ..LimitSet::clone(limits) };
        let new = Arc::new(new);
        self.known.insert(place, new.clone());
        Some(new)
    }
}

/// All objects that the file defines. `generation` rises from one call to the next.
pub(super) fn file_objects(
    config: &Config,
    revisions: &mut Revisions,
    generation: u64,
) -> FileObjects {
    revisions.generation = generation;
    let mut objects = objects_of(config);
    for account in &mut objects.accounts {
        account.limits = revisions.of(ScopeKind::Account, &account.name, account.limits.as_ref());
    }
    for project in &mut objects.projects {
        project.limits = revisions.of(ScopeKind::Project, &project.name, project.limits.as_ref());
    }
    for user in &mut objects.users {
        user.limits = revisions.of(ScopeKind::User, &user.name, user.limits.as_ref());
    }
    for (_, grant) in &mut objects.keys {
        grant.limits = revisions.of(ScopeKind::Key, &grant.key_name, grant.limits.as_ref());
    }
    objects
}

fn objects_of(config: &Config) -> FileObjects {
    let account = |account: &config::Account| FileAccount {
        name: account.name.clone(),
        terms: Terms {
            currency: account.currency,
            price_group: account.price_group.as_deref().map(Into::into),
            markup_bps: config.markup_bps(account),
            time_zone: account.time_zone.clone(),
            queue: account.queue.map(queue),
            balance_pico: account.balance_pico,
        },
        limits: account.limits.clone(),
        metadata: account.metadata.clone(),
    };
    let project = |project: &config::Project| FileProject {
        name: project.name.clone(),
        account: project.account.clone(),
        models: (project.models != ["*"]).then(|| project.models.clone()),
        limits: project.limits.clone(),
        tags: project.tags.clone(),
        metadata: project.metadata.clone(),
    };
    let user = |user: &config::User| FileUser {
        name: user.name.clone(),
        account: user.account.clone(),
        email: user.email.clone(),
        limits: user.limits.clone(),
    };
    FileObjects {
        accounts: config.accounts.iter().map(account).collect(),
        projects: config.projects.iter().map(project).collect(),
        users: config.users.iter().map(user).collect(),
        keys: config.keys.iter().map(|key| (key.sha256.0, grant(key))).collect(),
        prices: config.prices.clone(),
        rates: config.rates.clone(),
        providers: config.providers.iter().map(|provider| provider.name.clone()).collect(),
        price_groups: config
            .price_groups
            .iter()
            .map(|group| (group.name.clone(), group.markup_bps))
            .collect::<BTreeMap<_, _>>(),
    }
}

/// A key of the file.
fn grant(key: &config::Key) -> Grant {
    let base = Grant::open(
        KeyId::from(key.name.as_str()),
        AccountId::from(key.account.as_str()),
        ProjectId::from(key.project.as_str()),
    );
    let names = |list: &[String]| list.iter().map(|name| name.as_str().into()).collect::<Names>();
    let aliases: Aliases = key
        .aliases
        .iter()
        .map(|(name, alias)| (name.as_str().into(), Alias::from(alias.as_str())))
        .collect();
    Grant {
        user: key.user.as_deref().map(Into::into),
        models: names(&key.models),
        deny_models: names(&key.deny_models),
        aliases: (!aliases.is_empty()).then(|| Arc::new(aliases)),
        endpoints: key.endpoints.iter().map(|endpoint| endpoint.name().into()).collect(),
        cidrs: key.cidrs.iter().filter_map(cidr).collect(),
        expires_at_unix_ms: key.expires_at_unix_ms,
        limits: key.limits.clone(),
        tags: names(&key.tags),
        metadata: (!key.metadata.is_empty())
            .then(|| serde_json::Value::from(key.metadata.clone()).to_string().into()),
        ..base
    }
}
