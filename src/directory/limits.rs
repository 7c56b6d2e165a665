//! Limits as JSON: `{rpm, tpm, tpd, parallel, overrun, budget: [{amount, per, overrun, soft}], models}`.

use serde_json::{Map, Value, json};

use super::fields::{Fields, text_fault};
use super::refusal::Refusal;
use crate::limits::{BudgetLimit, LimitSet, Limits, Overrun, PERIOD_MAX_DAYS, Period};
use crate::money::format_pico;

const BUDGETS_MAX: usize = 8;
const MODELS_MAX: usize = 100;
const MODEL_CHARS_MAX: usize = 256;

const OF_A_MODEL: &[&str] = &["rpm", "tpm", "tpd", "parallel", "overrun", "budget"];
const ALL: &[&str] = &["rpm", "tpm", "tpd", "parallel", "overrun", "budget", "models"];
const OF_A_BUDGET: &[&str] = &["amount", "per", "overrun", "soft"];

/// The field `limits`. The revision is left at 0: it is that of the object.
pub(super) fn read(fields: &Fields<'_>) -> Result<Option<LimitSet>, Refusal> {
    let Some(map) = fields.object("limits")? else { return Ok(None) };
    let path = fields.path("limits.");
    let inner = Fields::of(map, path.as_str(), ALL)?;
    let mut set = LimitSet { all: limits(&inner)?, ..LimitSet::default() };
    let Some(models) = inner.object("models")? else { return Ok(Some(set)) };
    if models.len() > MODELS_MAX {
        return Err(inner.bad("models", format!("has more than {MODELS_MAX} entries")));
    }
    for (alias, value) in models.iter().filter(|(_, value)| !value.is_null()) {
        if let Some(why) = text_fault(alias, MODEL_CHARS_MAX) {
            return Err(inner.bad("models", format!("has a name that {why}")));
        }
        let path = inner.path(&format!("models.{alias}"));
        let map = value
            .as_object()
            .ok_or_else(|| Refusal::kind(&path, format!("`{path}` must be an object")))?;
        let of_model = limits(&Fields::of(map, format!("{path}."), OF_A_MODEL)?)?;
        set.models.insert(alias.clone(), of_model);
    }
    Ok(Some(set))
}

fn limits(fields: &Fields<'_>) -> Result<Limits, Refusal> {
    let budgets = fields.objects("budget", BUDGETS_MAX, OF_A_BUDGET)?;
    let budgets = budgets.iter().map(budget).collect::<Result<_, _>>()?;
    Ok(Limits {
        rpm: fields.limit("rpm")?,
        tpm: fields.limit("tpm")?,
        tpd: fields.limit("tpd")?,
        parallel: fields.limit("parallel")?,
        overrun: overrun(fields)?,
        budgets,
    })
}

fn budget(fields: &Fields<'_>) -> Result<BudgetLimit, Refusal> {
    let per = fields.required("per", 16)?;
    let period = Period::parse(per).ok_or_else(|| {
        let max = PERIOD_MAX_DAYS;
        fields.bad("per", format!("must be total, daily, weekly, monthly, or 1d to {max}d"))
    })?;
    let amount = fields.amount("amount")?;
    Ok(BudgetLimit {
        amount_pico: amount.ok_or_else(|| fields.bad("amount", "is missing"))?,
        period,
        overrun: overrun(fields)?,
        soft: fields.flag("soft")?.unwrap_or(false),
    })
}

fn overrun(fields: &Fields<'_>) -> Result<Overrun, Refusal> {
    let Some(text) = fields.text("overrun", 16)? else { return Ok(Overrun::default()) };
    Overrun::parse(text).ok_or_else(|| fields.bad("overrun", "must be finish, cut or strict"))
}

/// The inverse of [`read`]; only what is set.
pub(super) fn to_json(set: &LimitSet) -> Value {
    let mut map = of_one(&set.all);
    if !set.models.is_empty() {
        let models = set.models.iter().map(|(alias, it)| (alias.clone(), of_one(it).into()));
        map.insert("models".into(), Value::Object(models.collect()));
    }
    map.into()
}

fn of_one(limits: &Limits) -> Map<String, Value> {
    let mut map = Map::new();
    let counts = [
        ("rpm", limits.rpm),
        ("tpm", limits.tpm),
        ("tpd", limits.tpd),
        ("parallel", limits.parallel),
    ];
    for (name, count) in counts {
        if let Some(count) = count {
            map.insert(name.into(), count.into());
        }
    }
    if limits.overrun != Overrun::default() {
        map.insert("overrun".into(), limits.overrun.name().into());
    }
    if limits.has_budget() {
        map.insert("budget".into(), limits.budgets.iter().map(of_budget).collect());
    }
    map
}

fn of_budget(budget: &BudgetLimit) -> Value {
    json!({
        "amount": pico(budget.amount_pico),
        "per": budget.period.to_string(),
        "overrun": budget.overrun.name(),
        "soft": budget.soft,
    })
}

/// An amount, as shown.
pub(super) fn pico(amount_pico: u128) -> String {
    format_pico(i128::try_from(amount_pico).unwrap_or(i128::MAX))
}

/// The first limit of `before` that `after` does not hold to: whoever is bound by limits may make
/// them tighter and add to them, but nothing else.
pub(super) fn widened(before: Option<&LimitSet>, after: Option<&LimitSet>) -> Option<String> {
    let nothing = LimitSet::default();
    let (before, after) = (before.unwrap_or(&nothing), after.unwrap_or(&nothing));
    let none = Limits::default();
    before.each().find_map(|(model, old)| {
        let new = match model {
            None => &after.all,
            Some(model) => after.models.get(model).unwrap_or(&none),
        };
        let field = widened_in(old, new)?;
        Some(match model {
            None => format!("limits.{field}"),
            Some(model) => format!("limits.models.{model}.{field}"),
        })
    })
}

fn widened_in(old: &Limits, new: &Limits) -> Option<&'static str> {
    let counts = [
        ("rpm", old.rpm, new.rpm),
        ("tpm", old.tpm, new.tpm),
        ("tpd", old.tpd, new.tpd),
        ("parallel", old.parallel, new.parallel),
    ];
    let wider =
        |old: Option<u64>, new: Option<u64>| old.is_some_and(|old| new.is_none_or(|new| new > old));
    if let Some((name, ..)) = counts.into_iter().find(|&(_, old, new)| wider(old, new)) {
        return Some(name);
    }
    let has_tokens = old.tpm.is_some() || old.tpd.is_some();
    if has_tokens && (new.overrun as u8) < (old.overrun as u8) {
        return Some("overrun");
    }
    let kept = |old: &BudgetLimit| {
        new.budgets.iter().any(|new| {
            new.period == old.period
                && new.amount_pico <= old.amount_pico
                && new.overrun as u8 >= old.overrun as u8
                && (old.soft || !new.soft)
        })
    };
    (!old.budgets.iter().all(kept)).then_some("budget")
}

/// Limits, for all models (`None`) or for one, with a budget that there was none like before: by
/// this a budget is known over an edit.
pub(super) fn new_budgets<'a>(
    before: Option<&LimitSet>,
    after: &'a LimitSet,
) -> Vec<(Option<&'a str>, &'a Limits)> {
    let had = |model: Option<&str>, new: &BudgetLimit| {
        let sets = before.into_iter().flat_map(LimitSet::each);
        let mut budgets = sets.filter(|(name, _)| *name == model).flat_map(|(_, it)| &it.budgets);
        budgets.any(|old| (old.period, old.soft) == (new.period, new.soft))
    };
    let is_new = |(model, limits): &(Option<&str>, &Limits)| {
        limits.budgets.iter().any(|budget| !had(*model, budget))
    };
    after.each().filter(is_new).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(value: Value) -> Result<LimitSet, Refusal> {
        let map: Map<String, Value> = [("limits".to_owned(), value)].into_iter().collect();
        read(&Fields::of(&map, "", &["limits"]).expect("known")).map(Option::unwrap_or_default)
    }

    fn full() -> Value {
        json!({
            "rpm": 600, "tpm": 200_000, "tpd": 1_000_000, "parallel": 50, "overrun": "cut",
            "budget": [
                {"amount": "100.5", "per": "monthly", "overrun": "strict", "soft": false},
                {"amount": "80", "per": "7d", "overrun": "finish", "soft": true},
            ],
            "models": {"gpt-4o": {"rpm": 10}},
        })
    }

    #[test]
    fn limits_are_written_as_they_are_read() {
        let set = parse(full()).expect("valid");
        assert_eq!(set.all.rpm, Some(600));
        assert_eq!(set.all.budgets[0].amount_pico, 100_500_000_000_000);
        assert_eq!(set.models["gpt-4o"].rpm, Some(10));
        assert_eq!(to_json(&set), full());
        assert_eq!(to_json(&parse(json!({})).expect("empty")), json!({}));
    }

    #[test]
    fn every_fault_names_its_field() {
        for (value, status, field, cure) in [
            (json!(5), 400, "limits", "object"),
            (json!({"rmp": 5}), 400, "limits.rmp", "`rpm`"),
            (json!({"rpm": "5"}), 400, "limits.rpm", "without quotes"),
            (json!({"rpm": 1.5}), 400, "limits.rpm", "whole number"),
            (json!({"rpm": true}), 400, "limits.rpm", "whole number"),
            (json!({"rpm": -1}), 422, "limits.rpm", "negative"),
            (json!({"tpm": 1e30}), 422, "limits.tpm", "more than"),
            (json!({"tpd": u64::MAX}), 422, "limits.tpd", "more than"),
            (json!({"overrun": "stop"}), 422, "limits.overrun", "finish, cut or strict"),
            (json!({"budget": {"amount": "1"}}), 400, "limits.budget", "list"),
            (json!({"budget": [7]}), 400, "limits.budget[0]", "object"),
            (json!({"budget": [{"per": "daily"}]}), 422, "limits.budget[0].amount", "missing"),
            (json!({"budget": [{"amount": "1"}]}), 422, "limits.budget[0].per", "missing"),
            (
                json!({"budget": [{"amount": 100, "per": "daily"}]}),
                400,
                "limits.budget[0].amount",
                "\"100\"",
            ),
            (
                json!({"budget": [{"amount": "-1", "per": "daily"}]}),
                422,
                "limits.budget[0].amount",
                "number",
            ),
            (
                json!({"budget": [{"amount": "1e3", "per": "daily"}]}),
                422,
                "limits.budget[0].amount",
                "number",
            ),
            (
                json!({"budget": [{"amount": "1", "per": "hourly"}]}),
                422,
                "limits.budget[0].per",
                "total, daily",
            ),
            (
                json!({"budget": [{"amount": "1", "per": "daily", "soft": "yes"}]}),
                400,
                "limits.budget[0].soft",
                "true or false",
            ),
            (
                json!({"budget": [{"amount": "1", "per": "daily", "period": "daily"}]}),
                400,
                "limits.budget[0].period",
                "here belong",
            ),
            (json!({"models": {"m": 1}}), 400, "limits.models.m", "object"),
            (json!({"models": {"m": {"models": {}}}}), 400, "limits.models.m.models", "belong"),
            (json!({"models": {"m": {"rpm": -5}}}), 422, "limits.models.m.rpm", "negative"),
        ] {
            let refusal = parse(value.clone()).expect_err(&value.to_string());
            assert_eq!(refusal.status, status, "{value}: {refusal:?}");
            assert_eq!(refusal.field.as_deref(), Some(field), "{value}");
            assert!(refusal.message.contains(cure), "{value}: {}", refusal.message);
        }
    }

    #[test]
    fn what_is_wider_is_found() {
        let base = parse(full()).expect("valid");
        for (path, new, want) in [
            ("/rpm", json!(599), None),
            ("/rpm", json!(601), Some("limits.rpm")),
            ("/rpm", json!(null), Some("limits.rpm")),
            ("/overrun", json!("strict"), None),
            ("/overrun", json!("finish"), Some("limits.overrun")),
            ("/budget/0/amount", json!("100"), None),
            ("/budget/0/amount", json!("101"), Some("limits.budget")),
            ("/budget/0/soft", json!(true), Some("limits.budget")),
            ("/budget/0/per", json!("daily"), Some("limits.budget")),
            ("/budget/1/soft", json!(false), None),
            ("/models", json!({}), Some("limits.models.gpt-4o.rpm")),
            ("/models", json!({"gpt-4o": {"rpm": 9}, "other": {"rpm": 1}}), None),
        ] {
            let mut value = full();
            *value.pointer_mut(path).expect(path) = new.clone();
            let after = parse(value).expect("valid");
            assert_eq!(widened(Some(&base), Some(&after)).as_deref(), want, "{path} {new}");
        }
        assert_eq!(widened(Some(&base), None).as_deref(), Some("limits.rpm"));
        assert_eq!(widened(None, Some(&base)), None);
    }
}
