//! Accounts: who pays, in what currency and on what terms.

use std::time::Duration;

use jiff::tz::TimeZone;
use serde_json::{Map, Value, json};

use super::super::fields::{Fields, format_duration_ms};
use super::super::{limits, refusal::Refusal};
use super::Writer;
use crate::admit::{QueueSettings, Terms};
use crate::limits::LimitSet;
use crate::money::{Currency, PICO, format_pico, parse_amount};

pub(in super::super) const FIELDS: &[&str] = &[
    "name",
    "currency",
    "billing",
    "balance",
    "timezone",
    "price_group",
    "markup",
    "limits",
    "queue",
    "metadata",
];

/// No markup.
pub(in super::super) const UNCHANGED_BPS: u32 = 10_000;
const MARKUP_MAX_BPS: u128 = 1_000 * UNCHANGED_BPS as u128;
const WAIT_MAX_MS: u64 = 600_000;
const DEPTH_MAX: u64 = 100_000;

/// An account's own fields.
#[derive(Clone, PartialEq, Debug)]
pub(in super::super) struct Account {
    pub currency: Currency,
    /// Prepaid if it has one.
    pub balance_pico: Option<u128>,
    /// The IANA name of its time zone.
    pub timezone: String,
    pub price_group: Option<String>,
    /// In 1/10,000; instead of that of the price group.
    pub markup_bps: Option<u32>,
    pub limits: Option<LimitSet>,
    /// How long in milliseconds, and how many.
    pub queue: Option<(u64, usize)>,
    pub metadata: Map<String, Value>,
}

impl Account {
    pub fn read(fields: &Fields<'_>) -> Result<Self, Refusal> {
        Ok(Account {
            currency: currency(fields, "currency")?.unwrap_or_default(),
            balance_pico: balance(fields)?,
            timezone: timezone(fields)?,
            price_group: fields.text("price_group", 128)?.map(str::to_owned),
            markup_bps: markup(fields)?,
            limits: limits::read(fields)?,
            queue: queue(fields)?,
            metadata: fields.metadata()?,
        })
    }

    pub fn to_map(&self) -> Map<String, Value> {
        let billing = if self.balance_pico.is_some() { "prepaid" } else { "postpaid" };
        let queue = self
            .queue
            .map(|(wait_ms, depth)| json!({"wait": format_duration_ms(wait_ms), "depth": depth}));
        Writer::new()
            .put("currency", self.currency.as_str())
            .put("billing", billing)
            .maybe("balance", self.balance_pico.map(limits::pico))
            .put("timezone", self.timezone.as_str())
            .maybe("price_group", self.price_group.clone())
            .maybe("markup", self.markup_bps.map(format_markup))
            .limits(self.limits.as_ref())
            .maybe("queue", queue)
            .put("metadata", self.metadata.clone())
            .done()
    }

    /// What admission and pricing go by. `group_bps` is the markup of its price group.
    pub fn terms(&self, group_bps: Option<u32>) -> Terms {
        let queue = self
            .queue
            .map(|(wait_ms, depth)| QueueSettings { wait: Duration::from_millis(wait_ms), depth });
        Terms {
            currency: self.currency,
            price_group: self.price_group.as_deref().map(Into::into),
            markup_bps: self.markup_bps.or(group_bps).unwrap_or(UNCHANGED_BPS),
            // It was found when it was set; a system without its table counts days in UTC.
            time_zone: TimeZone::get(&self.timezone).unwrap_or(TimeZone::UTC),
            queue,
            balance_pico: self.balance_pico.and_then(|pico| i128::try_from(pico).ok()),
        }
    }
}

/// A field with a currency.
pub(super) fn currency(fields: &Fields<'_>, name: &str) -> Result<Option<Currency>, Refusal> {
    let Some(text) = fields.text(name, 16)? else { return Ok(None) };
    Currency::parse(text)
        .map(Some)
        .ok_or_else(|| fields.bad(name, "must be three capital letters, like \"USD\""))
}

fn balance(fields: &Fields<'_>) -> Result<Option<u128>, Refusal> {
    let balance_pico = fields.amount("balance")?;
    match (fields.text("billing", 16)?.unwrap_or("postpaid"), balance_pico) {
        ("prepaid", None) => {
            Err(fields
                .bad("balance", "is missing: a prepaid account begins with one, like \"100\""))
        }
        ("postpaid", Some(_)) => {
            Err(fields.bad("balance", "belongs to prepaid accounts; set `billing` to \"prepaid\""))
        }
        ("prepaid" | "postpaid", balance_pico) => Ok(balance_pico),
        _ => Err(fields.bad("billing", "must be postpaid or prepaid")),
    }
}

fn timezone(fields: &Fields<'_>) -> Result<String, Refusal> {
    let Some(name) = fields.text("timezone", 64)? else { return Ok("UTC".to_owned()) };
    match TimeZone::get(name) {
        Ok(zone) => Ok(zone.iana_name().unwrap_or(name).to_owned()),
        Err(_) => Err(fields.bad("timezone", "must be an IANA name, like \"Europe/Berlin\"")),
    }
}

/// A factor as text, up to four digits after the point.
fn markup(fields: &Fields<'_>) -> Result<Option<u32>, Refusal> {
    const STEP_PICO: u128 = PICO / UNCHANGED_BPS as u128;
    let Some(text) = fields.decimal("markup")? else { return Ok(None) };
    let pico = parse_amount(text).map_err(|error| fields.bad("markup", error))?;
    if pico % STEP_PICO != 0 {
        return Err(fields.bad("markup", "has more than 4 digits after the point"));
    }
    if pico / STEP_PICO > MARKUP_MAX_BPS {
        return Err(fields.bad("markup", "is more than 1000"));
    }
    Ok(Some((pico / STEP_PICO) as u32))
}

/// The inverse: 12_500 is `1.25`.
pub(in super::super) fn format_markup(bps: u32) -> String {
    format_pico(i128::from(bps) * (PICO / u128::from(UNCHANGED_BPS)) as i128)
}

fn queue(fields: &Fields<'_>) -> Result<Option<(u64, usize)>, Refusal> {
    let Some(map) = fields.object("queue")? else { return Ok(None) };
    let inner = Fields::of(map, fields.path("queue."), &["wait", "depth"])?;
    let wait_ms = inner.duration_ms("wait", WAIT_MAX_MS)?;
    let depth = inner.count("depth", DEPTH_MAX)?;
    match (wait_ms, depth) {
        (None, _) => Err(inner.bad("wait", "is missing, like \"2s\"")),
        (_, None) => Err(inner.bad("depth", "is missing, like 100")),
        (Some(wait_ms), Some(depth)) => Ok(Some((wait_ms, depth as usize))),
    }
}
