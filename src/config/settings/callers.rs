//! Who calls and who pays: accounts, projects, users, keys, and what limits them.

use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use super::super::choices::{Billing, Endpoint};
use super::super::net::Cidr;
use super::super::secret::Digest;
use super::super::units;
use super::prices::{currency, markup};
use crate::limits::{LimitSet, Limits};
use crate::money::{self, Currency};

/// Who pays.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Account {
    pub name: String,
    #[serde(serialize_with = "currency")]
    pub currency: Currency,
    pub billing: Billing,
    /// Of a prepaid account, in 10^-12 of its currency; of no other.
    #[serde(rename = "balance", serialize_with = "amount")]
    pub balance_pico: Option<i128>,
    /// Where the days of its budgets begin. Has a name of the IANA database.
    #[serde(rename = "timezone", serialize_with = "time_zone")]
    pub time_zone: TimeZone,
    /// Its selling prices and its markup: a [`super::PriceGroup`], or the group of a price.
    pub price_group: Option<String>,
    /// Instead of its group's; see [`super::Config::markup_bps`].
    #[serde(rename = "markup", serialize_with = "markup_if")]
    pub markup_bps: Option<u32>,
    /// Waiting for room in its limits, instead of a refusal.
    pub queue: Option<Queue>,
    #[serde(serialize_with = "limits")]
    pub limits: Option<Arc<LimitSet>>,
    pub metadata: Map<String, Value>,
}

/// Waiting instead of a refusal.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Queue {
    /// At most so long.
    #[serde(serialize_with = "units::duration")]
    pub wait: Duration,
    /// So many requests at once.
    pub depth: usize,
}

/// A group of keys.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Project {
    pub name: String,
    /// The name of an account here.
    pub account: String,
    /// What its keys may use at most: globs, as in [`Key::models`].
    pub models: Vec<String>,
    #[serde(serialize_with = "limits")]
    pub limits: Option<Arc<LimitSet>>,
    /// Every record of its keys carries them.
    pub tags: Vec<String>,
    pub metadata: Map<String, Value>,
}

/// A person who has keys.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct User {
    pub name: String,
    /// The name of an account here.
    pub account: String,
    pub email: Option<String>,
    #[serde(serialize_with = "limits")]
    pub limits: Option<Arc<LimitSet>>,
}

/// A key that callers present. The secret itself is not kept.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Key {
    pub name: String,
    /// The name of a project here.
    pub project: String,
    /// The account of that project.
    pub account: String,
    /// The name of a user here, of the same account.
    pub user: Option<String>,
    /// SHA-256 of what callers present. No two keys have the same.
    pub sha256: Digest,
    /// A star stands for any text.
    pub models: Vec<String>,
    pub deny_models: Vec<String>,
    /// What its callers ask for, and what that stands for: a model here.
    #[serde(serialize_with = "pairs")]
    pub aliases: Vec<(String, String)>,
    /// Empty is everything.
    pub endpoints: Vec<Endpoint>,
    /// Empty is everywhere.
    pub cidrs: Vec<Cidr>,
    #[serde(serialize_with = "limits")]
    pub limits: Option<Arc<LimitSet>>,
    /// Milliseconds since 1970.
    #[serde(rename = "expires_at", serialize_with = "units::time")]
    pub expires_at_unix_ms: Option<u64>,
    pub tags: Vec<String>,
    pub metadata: Map<String, Value>,
}

fn amount<S: Serializer>(pico: &Option<i128>, serializer: S) -> Result<S::Ok, S::Error> {
    pico.map(money::format_pico).serialize(serializer)
}

fn markup_if<S: Serializer>(bps: &Option<u32>, serializer: S) -> Result<S::Ok, S::Error> {
    match bps {
        Some(bps) => markup(bps, serializer),
        None => serializer.serialize_none(),
    }
}

fn time_zone<S: Serializer>(zone: &TimeZone, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(zone.iana_name().unwrap_or("UTC"))
}

fn pairs<S: Serializer>(pairs: &[(String, String)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(pairs.iter().map(|(name, value)| (name, value)))
}

/// Limits in the shape of the file: only what is limited.
fn limits<S: Serializer>(set: &Option<Arc<LimitSet>>, serializer: S) -> Result<S::Ok, S::Error> {
    let Some(set) = set else { return serializer.serialize_none() };
    let mut json = json_of(&set.all);
    if !set.models.is_empty() {
        let models = set.models.iter();
        let models: Map<String, Value> =
            models.map(|(alias, limits)| (alias.clone(), json_of(limits).into())).collect();
        json.insert("models".into(), models.into());
    }
    let mut map = serializer.serialize_map(Some(json.len()))?;
    for (name, value) in &json {
        map.serialize_entry(name, value)?;
    }
    map.end()
}

fn json_of(limits: &Limits) -> Map<String, Value> {
    let Limits { rpm, tpm, tpd, parallel, overrun, budgets } = limits;
    let numbers = [("rpm", rpm), ("tpm", tpm), ("tpd", tpd), ("parallel", parallel)];
    let numbers = numbers.into_iter().filter_map(|(name, limit)| limit.map(|it| (name, it.into())));
    let mut json: Map<String, Value> =
        numbers.map(|(name, value): (&str, Value)| (name.to_owned(), value)).collect();
    if tpm.is_some() || tpd.is_some() {
        json.insert("overrun".into(), overrun.name().into());
    }
    let budget = |budget: &crate::limits::BudgetLimit| {
        serde_json::json!({
            "amount": money::format_pico(i128::try_from(budget.amount_pico).unwrap_or(i128::MAX)),
            "per": budget.period.to_string(),
            "overrun": budget.overrun.name(),
            "soft": budget.soft,
        })
    };
    if !budgets.is_empty() {
        json.insert("budget".into(), budgets.iter().map(budget).collect());
    }
    json
}
