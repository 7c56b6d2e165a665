//! The result: plain settings, every default filled in. Serialised, they look like the file, with
//! secrets masked.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::choices::{
    AccessLog, Dialect, Level, OnDisconnect, Policy, Protocol, Unpriced, WhenFull,
};
use super::net::{BaseUrl, Cidr};
use super::secret::Secret;
use super::units;
use crate::price;

mod callers;
mod prices;

pub use callers::{Account, Key, Project, Queue, User};
pub use prices::{PriceGroup, UNCHANGED_BPS};

/// The whole configuration.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Config {
    pub server: Server,
    pub admin: Admin,
    pub store: Store,
    pub log: Log,
    #[serde(rename = "provider")]
    pub providers: Vec<Provider>,
    #[serde(rename = "model")]
    pub models: Vec<Model>,
    /// What models cost, and what is charged: of this file, of further ones and imported, without
    /// those that others go before.
    #[serde(rename = "price", serialize_with = "prices::entries")]
    pub prices: Vec<price::Entry>,
    /// For models without a price whose policy is [`Unpriced::Default`]; always there if one has it.
    /// Its provider and model are `*`.
    #[serde(rename = "prices", serialize_with = "prices::default")]
    pub default_price: Option<price::Entry>,
    #[serde(rename = "price_group")]
    pub price_groups: Vec<PriceGroup>,
    #[serde(rename = "rate", serialize_with = "prices::rates")]
    pub rates: Vec<price::RateRow>,
    /// Always holds `default`.
    #[serde(rename = "account")]
    pub accounts: Vec<Account>,
    /// Always holds `default`.
    #[serde(rename = "project")]
    pub projects: Vec<Project>,
    #[serde(rename = "user")]
    pub users: Vec<User>,
    #[serde(rename = "key")]
    pub keys: Vec<Key>,
}

impl Config {
    /// The configuration as JSON in the shape of the file, secrets masked.
    pub fn masked(&self) -> serde_json::Value {
        serde_json::to_value(self).expect("settings have text keys and finite numbers only")
    }

    /// The provider of this name.
    pub fn provider(&self, name: &str) -> Option<&Provider> {
        self.providers.iter().find(|provider| provider.name == name)
    }

    /// What becomes of an answer of `target`, one of `model`'s, whose caller has left: the target's
    /// word, else the model's, else the provider's, else `cancel`.
    pub fn on_disconnect(&self, model: &Model, target: &Target) -> OnDisconnect {
        let provider = || self.provider(&target.provider).and_then(|it| it.on_disconnect);
        let said = target.on_disconnect.or(model.on_disconnect).or_else(provider);
        said.unwrap_or(OnDisconnect::Cancel)
    }

    /// What an account pays for what costs 10,000: its own markup, else that of its price group.
    pub fn markup_bps(&self, account: &Account) -> u32 {
        let is_own = |group: &&PriceGroup| Some(&group.name) == account.price_group.as_ref();
        let group = || self.price_groups.iter().find(is_own).map(|group| group.markup_bps);
        account.markup_bps.or_else(group).unwrap_or(UNCHANGED_BPS)
    }
}

/// The data port.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Server {
    /// In clear; empty only if TLS listens.
    pub listen: Vec<SocketAddr>,
    /// 0 is one per core.
    pub workers: usize,
    pub trusted_proxies: Vec<Cidr>,
    /// SSE comment after so much silence before the first content.
    #[serde(serialize_with = "units::duration_or_off")]
    pub keep_alive_comment: Option<Duration>,
    /// The status of a refusal for want of money: 429 or 402.
    pub over_budget_status: u16,
    pub tls: Option<Tls>,
    pub limits: Limits,
    pub timeouts: Timeouts,
    pub retry: Retry,
}

/// TLS listeners.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Tls {
    /// Never empty.
    pub listen: Vec<SocketAddr>,
    /// Never empty; the first serves names that no other has.
    pub certificates: Vec<Certificate>,
}

/// One certificate: PEM that was read, but not yet decoded.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Certificate {
    pub cert: PemFile,
    pub key: PemFile,
}

/// A PEM file with what it held when it was read: a changed file makes a changed configuration.
/// Prints its path only.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct PemFile {
    pub path: PathBuf,
    pub bytes: Arc<[u8]>,
}

impl fmt::Debug for PemFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "file:{} ({} bytes)", self.path.display(), self.bytes.len())
    }
}

impl Serialize for PemFile {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("file:{}", self.path.display()))
    }
}

/// What requests and connections may use up.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Limits {
    /// Bytes of one request body.
    #[serde(rename = "body", serialize_with = "units::size")]
    pub body_bytes: u64,
    /// Bytes of one request head.
    #[serde(rename = "headers", serialize_with = "units::size")]
    pub headers_bytes: u64,
    pub header_count: usize,
    /// Bytes of path and query.
    #[serde(rename = "uri", serialize_with = "units::size")]
    pub uri_bytes: u64,
    /// All workers together.
    pub connections: usize,
    /// Of one HTTP/2 connection.
    pub streams_per_connection: u32,
    /// In flight, all workers together.
    pub requests: usize,
    /// Bytes of all request bodies held.
    #[serde(rename = "body_memory", serialize_with = "units::size")]
    pub body_memory_bytes: u64,
}

/// How long callers may take.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Timeouts {
    #[serde(serialize_with = "units::duration")]
    pub header: Duration,
    #[serde(serialize_with = "units::duration")]
    pub body: Duration,
    #[serde(serialize_with = "units::duration")]
    pub idle: Duration,
    #[serde(serialize_with = "units::duration")]
    pub write: Duration,
    #[serde(serialize_with = "units::duration")]
    pub tls_handshake: Duration,
    #[serde(serialize_with = "units::duration")]
    pub drain: Duration,
}

/// Further attempts at a request.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Retry {
    /// The first included.
    pub attempts: u32,
    /// A share of all requests, 0 to 1.
    #[serde(rename = "budget")]
    pub budget_share: f64,
    /// Further attempts per second that the budget always grants.
    #[serde(rename = "budget_min")]
    pub budget_min_per_second: u32,
    #[serde(serialize_with = "units::duration")]
    pub hold_max: Duration,
    #[serde(serialize_with = "units::size")]
    pub hold_bytes: u64,
}

/// The admin port.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Admin {
    /// None is off.
    #[serde(serialize_with = "address_or_off")]
    pub listen: Option<SocketAddr>,
    /// None only on loopback: then one is made at the start.
    pub token: Option<Secret>,
}

/// What is kept.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Store {
    pub path: StorePath,
    /// The largest size of the local journal.
    #[serde(rename = "journal", serialize_with = "units::size")]
    pub journal_bytes: u64,
    pub fsync: Fsync,
    /// The journal is moved to the database so often.
    #[serde(serialize_with = "units::duration")]
    pub flush: Duration,
    pub when_full: WhenFull,
    /// Records of single requests are kept for so long; none is for ever.
    #[serde(serialize_with = "units::duration_or_forever")]
    pub retention: Option<Duration>,
}

/// Where usage is kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StorePath {
    /// `:memory:`: nothing outlives the process.
    Memory,
    /// Relative to the working directory.
    File(PathBuf),
}

impl Serialize for StorePath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            StorePath::Memory => serializer.serialize_str(":memory:"),
            StorePath::File(path) => serializer.collect_str(&path.display()),
        }
    }
}

/// When the journal reaches the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fsync {
    /// Before a request is sent on.
    Always,
    /// At least so often.
    Every(Duration),
}

impl Serialize for Fsync {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Fsync::Always => serializer.serialize_str("always"),
            Fsync::Every(duration) => units::duration(duration, serializer),
        }
    }
}

/// What is written about requests and the process.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Log {
    pub access: AccessLog,
    pub level: Level,
}

/// A server that models run on.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Provider {
    pub name: String,
    pub preset: Option<&'static str>,
    pub dialect: Dialect,
    pub base_url: BaseUrl,
    /// One credential each; empty: none is sent.
    pub api_keys: Vec<Secret>,
    pub protocol: Protocol,
    pub timeouts: ProviderTimeouts,
    pub pool: Pool,
    pub tls: ProviderTls,
    /// Ask for usage in streams whose caller did not.
    pub include_usage: bool,
    /// Names in lower case.
    #[serde(serialize_with = "headers")]
    pub headers: Vec<(String, Secret)>,
    /// See [`Config::on_disconnect`].
    pub on_disconnect: Option<OnDisconnect>,
}

/// How long a provider may take.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct ProviderTimeouts {
    /// DNS, TCP, TLS and HTTP/2 together.
    #[serde(serialize_with = "units::duration")]
    pub connect: Duration,
    #[serde(serialize_with = "units::duration")]
    pub first_content: Duration,
    /// Between two pieces.
    #[serde(serialize_with = "units::duration")]
    pub idle: Duration,
    #[serde(serialize_with = "units::duration_or_off")]
    pub total: Option<Duration>,
    /// For what is left of an answer whose caller has left, if it is read on.
    #[serde(serialize_with = "units::duration")]
    pub drain_max: Duration,
}

/// Connections to a provider.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Pool {
    /// For the whole process.
    pub min_warm: usize,
    /// On one HTTP/2 connection.
    pub max_streams: u32,
    /// For each worker.
    pub max_connections: usize,
    #[serde(serialize_with = "units::duration_or_off")]
    pub max_age: Option<Duration>,
    #[serde(serialize_with = "units::duration_or_off")]
    pub idle: Option<Duration>,
}

/// Whom to trust, beside the system's roots.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct ProviderTls {
    pub ca: Option<PemFile>,
    pub server_name: Option<String>,
}

/// A name that callers use for a model.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Model {
    /// A name, `prefix/*` or `*`: a star only stands at the end.
    pub name: String,
    pub policy: Policy,
    /// Never empty.
    pub targets: Vec<Target>,
    /// Names of other models here; never in a circle.
    pub fallbacks: Vec<String>,
    pub rewrite_model: bool,
    /// The most tokens that one answer may have; what strict limits reserve.
    #[serde(rename = "max_output")]
    pub max_output_tokens: Option<u64>,
    pub unpriced: Unpriced,
    /// Waiting for a target that is free, instead of a refusal.
    pub queue: Option<Queue>,
    /// See [`Config::on_disconnect`].
    pub on_disconnect: Option<OnDisconnect>,
}

/// One place where a model may be served.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Target {
    /// The name of a provider here.
    pub provider: String,
    pub model: TargetModel,
    pub weight: u32,
    /// Lower ones first.
    pub priority: u32,
    /// See [`Config::on_disconnect`].
    pub on_disconnect: Option<OnDisconnect>,
}

/// What a target calls the model.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TargetModel {
    /// What the caller asked for is passed on.
    AsAsked,
    /// This name.
    Named(String),
}

impl Serialize for TargetModel {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            TargetModel::AsAsked => serializer.serialize_str("*"),
            TargetModel::Named(name) => serializer.serialize_str(name),
        }
    }
}

fn address_or_off<S: Serializer>(
    address: &Option<SocketAddr>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match address {
        Some(address) => serializer.collect_str(address),
        None => serializer.serialize_str("off"),
    }
}

fn headers<S: Serializer>(headers: &[(String, Secret)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(headers.iter().map(|(name, value)| (name, value)))
}
