//! Rates: what one unit of a currency is worth in another, from a moment on.

use serde_json::{Map, Value};

use super::super::fields::{Fields, rfc3339};
use super::super::{limits, refusal::Refusal};
use super::Writer;
use super::account::currency;
use crate::money::Currency;
use crate::price::RateRow;

pub(in super::super) const FIELDS: &[&str] = &["from", "to", "rate", "valid_from"];

/// One row of the table of rates.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(in super::super) struct Rate(pub RateRow);

impl Rate {
    pub fn read(fields: &Fields<'_>) -> Result<Self, Refusal> {
        let of = |name: &str| -> Result<Currency, Refusal> {
            currency(fields, name)?.ok_or_else(|| fields.bad(name, "is missing"))
        };
        let (from, to) = (of("from")?, of("to")?);
        if from == to {
            return Err(fields.bad("to", "is the same currency as `from`"));
        }
        let rate_pico = fields.amount("rate")?.ok_or_else(|| fields.bad("rate", "is missing"))?;
        if rate_pico == 0 {
            return Err(fields.bad("rate", "must be more than zero"));
        }
        let valid_from_unix_ms = fields.time("valid_from")?.unwrap_or(0);
        Ok(Rate(RateRow { from, to, rate_pico, valid_from_unix_ms }))
    }

    pub fn to_map(self) -> Map<String, Value> {
        let Rate(row) = self;
        let from = (row.valid_from_unix_ms > 0).then(|| rfc3339(row.valid_from_unix_ms));
        Writer::new()
            .put("from", row.from.as_str())
            .put("to", row.to.as_str())
            .put("rate", limits::pico(row.rate_pico))
            .maybe("valid_from", from)
            .done()
    }

    /// The name under which a rate is found: of two with the same only one could count.
    pub fn name(self) -> String {
        let Rate(row) = self;
        let from = match row.valid_from_unix_ms {
            0 => String::new(),
            unix_ms => format!(" from {}", rfc3339(unix_ms)),
        };
        format!("{}/{}{from}", row.from, row.to)
    }
}
