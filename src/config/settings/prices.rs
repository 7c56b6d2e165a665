//! Price groups, and how prices and rates are written.

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::super::units;
use crate::money::{self, Currency};
use crate::price;

/// A markup that leaves the cost as it is, in hundredths of a percent.
pub const UNCHANGED_BPS: u32 = 10_000;

/// Accounts that pay the same.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct PriceGroup {
    pub name: String,
    /// What is charged for what costs 10,000.
    #[serde(rename = "markup", serialize_with = "markup")]
    pub markup_bps: u32,
}

/// Hundredths of a percent as the factor of the file: 12_000 is `1.2`.
pub(super) fn markup<S: Serializer>(bps: &u32, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&units::print_markup(*bps))
}

pub(super) fn currency<S: Serializer>(
    currency: &Currency,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(currency.as_str())
}

pub(super) fn entries<S: Serializer>(
    entries: &[price::Entry],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(entries.iter().map(price::Entry::to_json))
}

/// The table `[prices]`: of what it names only the default is a setting by then.
pub(super) fn default<S: Serializer>(
    entry: &Option<price::Entry>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let json = entry.as_ref().map(|entry| {
        let mut json = entry.to_json();
        if let Some(object) = json.as_object_mut() {
            object.remove("provider");
            object.remove("model");
        }
        json
    });
    let mut map = serializer.serialize_map(Some(1))?;
    map.serialize_entry("default", &json)?;
    map.end()
}

pub(super) fn rates<S: Serializer>(
    rates: &[price::RateRow],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Row<'a> {
        from: &'a str,
        to: &'a str,
        rate: String,
        #[serde(serialize_with = "units::time")]
        valid_from: Option<u64>,
    }
    serializer.collect_seq(rates.iter().map(|row| Row {
        from: row.from.as_str(),
        to: row.to.as_str(),
        rate: money::format_pico(i128::try_from(row.rate_pico).unwrap_or(i128::MAX)),
        valid_from: Some(row.valid_from_unix_ms).filter(|at| *at > 0),
    }))
}
