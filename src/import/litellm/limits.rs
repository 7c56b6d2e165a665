//! Limits as the tables of LiteLLM state them, on keys, teams and users alike.

use serde_json::value::RawValue;

use crate::import::decimal::Decimal;
use crate::import::names::is_name;
use crate::import::plan::{Budget, Limits};
use crate::import::report::{At, Report};
use crate::import::tables::{Row, cell};

/// The largest amount that foretoken takes: a billion.
const MOST: u64 = 1_000_000_000;

/// The longest budget period in days.
const MOST_DAYS: u64 = 3660;

/// Reads the limits of a row.
///
/// # Errors
/// Why the row lets nothing through: it is to be left out, with everything that belongs to it.
pub(super) fn of(row: &Row<'_>, at: &At, report: &mut Report) -> Result<Limits, String> {
    let mut limits = Limits::default();
    for (column, name) in
        [("rpm_limit", "rpm"), ("tpm_limit", "tpm"), ("max_parallel_requests", "parallel")]
    {
        let Some(text) = row.get(column) else { continue };
        let at = at.part(column, row.line);
        let Some(number) = count(text) else {
            report.none(&at, "it is no number");
            continue;
        };
        if number == 0 {
            return Err(format!("its {column} is 0"));
        }
        match name {
            "rpm" => limits.rpm = Some(number),
            "tpm" => limits.tpm = Some(number),
            _ => limits.parallel = Some(number),
        }
        report.taken(&at, format!("{name} = {number}"));
    }
    if let Some(text) = row.get("max_budget") {
        money(row, text, at, report, &mut limits)?;
    }
    if let Some(amount) = row.get("soft_budget").and_then(Decimal::parse) {
        let at = at.part("soft_budget", row.line);
        match budget(amount, row.get("budget_duration")) {
            Ok((budget, _)) => {
                limits.budgets.push(Budget { soft: true, ..budget });
                report.changed(&at, "a soft budget, which counts from zero");
            }
            Err(why) => report.none(&at, why),
        }
    }
    by_model(row, at, report, &mut limits)?;
    Ok(limits)
}

/// `max_budget` with its duration and with what is spent of it.
fn money(
    row: &Row<'_>,
    text: &str,
    at: &At,
    report: &mut Report,
    limits: &mut Limits,
) -> Result<(), String> {
    let at = at.part("max_budget", row.line);
    let Some(amount) = Decimal::parse(text) else {
        report.none(&at, "it is no amount");
        return Ok(());
    };
    let spent = row.get("spend").and_then(Decimal::parse).unwrap_or(Decimal::ZERO);
    if amount.is_zero() {
        return Err("its max_budget is 0".to_owned());
    }
    let duration = row.get("budget_duration");
    // Without a reset only what is left matters, and that can be said.
    let left = match duration {
        None => amount.minus(spent).filter(|left| left.text(12, true).0 != "0"),
        Some(_) => Some(amount),
    };
    let Some(left) = left else {
        return Err(format!("its budget of {amount} is spent"));
    };
    match budget(left, duration) {
        Err(why) => report.none(&at, why),
        Ok((budget, said)) => {
            let said = said.map_or(String::new(), |said| format!("; {said}"));
            let (own, per) = (&budget.amount, &budget.per);
            match (spent.is_zero(), duration) {
                (true, _) if said.is_empty() => {
                    report.taken(&at, format!("a budget of {own}, {per}"))
                }
                (true, _) => report.changed(&at, format!("a budget of {own}, {per}{said}")),
                (false, None) => report.changed(
                    &at,
                    format!("spent so far: {spent} of {amount}: the budget is the rest, {own}"),
                ),
                (false, Some(_)) => report.changed(
                    &at,
                    format!("spent so far: {spent} of {amount}: counts from zero{said}"),
                ),
            }
            limits.budgets.push(budget);
        }
    }
    Ok(())
}

/// A budget, and what is different about its period.
///
/// # Errors
/// Why there can be none.
pub(super) fn budget(
    amount: Decimal,
    duration: Option<&str>,
) -> Result<(Budget, Option<String>), String> {
    if Decimal::whole(MOST).minus(amount).is_none() {
        return Err("it is more than a billion: no limit".to_owned());
    }
    let (per, said) = match duration {
        None => ("total".to_owned(), None),
        Some(text) => period(text)?,
    };
    Ok((Budget { amount: amount.text(12, true).0, per, soft: false }, said))
}

/// `30d`, `24h`, `1mo`: the period here, and what is different about it.
fn period(text: &str) -> Result<(String, Option<String>), String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let wrong = || format!("{text} is no duration");
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let days = |days: u64, said: Option<String>| match days {
        0 => Err(wrong()),
        1 => Ok(("daily".to_owned(), said)),
        days if days <= MOST_DAYS => Ok((format!("{days}d"), said)),
        _ => Ok(("total".to_owned(), Some(format!("for ever instead of {text}")))),
    };
    let shorter = |hours: u64| {
        // A longer period is the stricter one: no more can be spent than before.
        let whole = hours.div_ceil(24).max(1);
        let said = (hours == 0 || !hours.is_multiple_of(24))
            .then(|| format!("for each {whole} d instead of {text}: no shorter periods"));
        days(whole, said)
    };
    match unit {
        "d" => days(number, None),
        "mo" if number == 1 => Ok(("monthly".to_owned(), None)),
        "mo" => {
            let said = format!("30 days a month instead of {text}");
            days(number.saturating_mul(30), Some(said))
        }
        "w" => days(number.saturating_mul(7), None),
        "h" => shorter(number),
        "m" => shorter(number / 60),
        "s" => shorter(number / 3600),
        _ => Err(wrong()),
    }
}

/// Limits for single models: `model_max_budget`, and two that hide in the metadata.
fn by_model(
    row: &Row<'_>,
    at: &At,
    report: &mut Report,
    limits: &mut Limits,
) -> Result<(), String> {
    for (model, raw) in row.object("model_max_budget") {
        let at = at.part("model_max_budget", row.line).part(&model, row.line);
        if !is_name(&model) {
            report.none(&at, "it cannot be the name of a model");
            continue;
        }
        let (amount, duration) = model_budget(&raw);
        match amount.as_deref().and_then(Decimal::parse).filter(|amount| !amount.is_zero()) {
            None => report.none(&at, "it is no amount above 0: take the model from the key"),
            Some(amount) => match budget(amount, duration.as_deref()) {
                Err(why) => report.none(&at, why),
                Ok((budget, _)) => {
                    let own = limits.models.entry(model).or_default();
                    own.budgets.push(budget);
                    report.changed(&at, "a budget for the model, which counts from zero");
                }
            },
        }
    }
    let metadata = row.object("metadata");
    for (column, name) in [("model_rpm_limit", "rpm"), ("model_tpm_limit", "tpm")] {
        let direct = row.object(column);
        let inner = metadata.get(column).and_then(|raw| cell(raw));
        let inner = inner.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        let all: Vec<(String, Box<RawValue>)> =
            direct.into_iter().chain::<std::collections::BTreeMap<_, _>>(inner).collect();
        for (model, raw) in all {
            let at = at.part(column, row.line).part(&model, row.line);
            let number = count(raw.get()).filter(|number| *number > 0 && is_name(&model));
            let Some(number) = number else {
                report.none(&at, "it is no number above 0: take the model from the key");
                continue;
            };
            let own = limits.models.entry(model).or_default();
            match name {
                "rpm" => own.rpm = Some(number),
                _ => own.tpm = Some(number),
            }
            report.taken(&at, format!("{name} = {number} for the model"));
        }
    }
    Ok(())
}

/// Either an amount, or an object with one and a period.
fn model_budget(raw: &RawValue) -> (Option<String>, Option<String>) {
    let object: Option<std::collections::BTreeMap<String, Box<RawValue>>> =
        serde_json::from_str(raw.get()).ok();
    let Some(object) = object else { return (cell(raw), None) };
    let of = |names: [&str; 2]| {
        names.into_iter().find_map(|name| object.get(name)).and_then(|raw| cell(raw))
    };
    (of(["budget_limit", "max_budget"]), of(["time_period", "budget_duration"]))
}

/// A whole number, as databases may write it: `600` or `600.0`.
fn count(text: &str) -> Option<u64> {
    Decimal::parse(text)?.to_whole().filter(|number| i64::try_from(*number).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::tables;

    fn limits(head: &str, cells: &str) -> (Result<Limits, String>, Report) {
        let table = tables::parse(&format!("{head}\n{cells}\n")).expect("CSV").remove(0);
        let row = table.rows().next().expect("a row");
        let mut report = Report::default();
        (of(&row, &At::new("k", 2), &mut report), report)
    }

    #[test]
    fn periods_are_never_shorter_than_they_were() {
        for (text, want, is_same) in [
            ("30d", "30d", true),
            ("1d", "daily", true),
            ("24h", "daily", true),
            ("1mo", "monthly", true),
            ("7d", "7d", true),
            ("1h", "daily", false),
            ("36h", "2d", false),
            ("30s", "daily", false),
            ("3mo", "90d", false),
            ("99999d", "total", false),
        ] {
            let (per, said) = period(text).expect(text);
            assert_eq!((per.as_str(), said.is_none()), (want, is_same), "{text}");
        }
        for text in ["", "d", "0d", "1y", "-1d", "99999999999999999999d"] {
            assert!(period(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_budget_for_ever_is_what_is_left_and_one_with_a_period_counts_from_zero() {
        let (own, report) = limits("max_budget,spend", "100,12.300000000000001");
        assert_eq!(own.expect("open").budgets[0].amount, "87.699999999999");
        assert!(report.lines()[0].what.starts_with("spent so far: 12.300000000000001 of 100"));
        let (own, report) = limits("max_budget,spend,budget_duration", "100,12.3,30d");
        let own = own.expect("open");
        assert_eq!((own.budgets[0].amount.as_str(), own.budgets[0].per.as_str()), ("100", "30d"));
        assert_eq!(report.lines()[0].what, "spent so far: 12.3 of 100: counts from zero");
        assert!(limits("max_budget,spend", "5,7").0.is_err(), "spent");
        assert!(limits("rpm_limit,x", "0,").0.is_err(), "nothing is let through");
        assert!(limits("max_budget,x", "1e12,").0.expect("open").is_empty());
    }

    #[test]
    fn limits_of_single_models_are_found_in_both_places() {
        let (own, _) = limits(
            "model_max_budget,metadata",
            r#""{""gpt-4o"": {""budget_limit"": 0.5, ""time_period"": ""1d""}, ""o1"": 2}","{""model_rpm_limit"": {""gpt-4o"": 7}}""#,
        );
        let own = own.expect("open");
        let model = &own.models["gpt-4o"];
        assert_eq!((model.rpm, model.budgets[0].amount.as_str()), (Some(7), "0.5"));
        assert_eq!(own.models["o1"].budgets[0].per, "total");
    }
}
