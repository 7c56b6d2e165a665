//! Usage and records as JSON: for the admin API, and for callers who ask about their own key.

use std::ops::ControlFlow;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::admin::query::unix_ms;
use crate::clock;
use crate::directory::{Caller, Refusal};
use crate::ident::RequestId;
use crate::money::{Currency, format_pico};
use crate::store::objects::ObjectKind;
use crate::store::{
    Attempt, Cursor, Filter, Flags, GroupBy, RecordQuery, State, StatusFilter, Store, StoreError,
    StoredRecord, Sums, Units, UsageQuery, UsageRow,
};

/// Records of a page, unless the query says otherwise.
const PAGE: usize = 100;
/// Groups of one report.
const GROUPS_MAX: usize = 6;

/// Looks up what objects are called.
pub(super) trait Names {
    /// The name of an object by its id.
    fn name_of(&self, kind: ObjectKind, id: &str) -> Option<String>;
    /// The id of an object by its id or by its name, among what the caller sees; of a key in this
    /// project, if one is named. A name that fits several is refused.
    fn id_of(
        &self,
        caller: &Caller,
        kind: ObjectKind,
        text: &str,
        project: Option<&str>,
    ) -> Result<Option<String>, Refusal>;
}

/// What can be reported about.
pub(super) struct Reports {
    pub store: Arc<dyn Store>,
    pub names: Arc<dyn Names + Send + Sync>,
}

type Parameters = [(String, String)];

impl Reports {
    /// Sums of usage, within what the caller may see.
    ///
    /// # Errors
    /// A filter that names nothing, or a store that does not answer.
    pub(super) fn usage(&self, caller: &Caller, query: &Parameters) -> Result<Value, Refusal> {
        let mut filter = self.filter(caller, query)?;
        confine(&mut filter, caller)?;
        self.sums(filter, query).map(|report| seen_by(caller, report))
    }

    /// Sums of the usage of one key.
    ///
    /// # Errors
    /// A faulty query, or a store that does not answer.
    pub(super) fn own_usage(&self, key: &str, query: &Parameters) -> Result<Value, Refusal> {
        for (name, _) in query {
            if !["from", "to", "group_by"].contains(&name.as_str()) {
                let message = format!("there is no parameter `{name}` here: from, to, group_by");
                return Err(Refusal::new(400, "unknown_parameter", message).of(name));
            }
        }
        if let Some(groups) = find(query, "group_by") {
            let hidden = ["project", "user", "account", "target"];
            if let Some(group) = groups.split(',').find(|group| hidden.contains(group)) {
                let message =
                    format!("`group_by` cannot be {group} here: model, day, hour, end_user or tag");
                return Err(Refusal::new(400, "invalid_parameter", message).of("group_by"));
            }
        }
        let filter = Filter { key: Some(key.to_owned()), ..Filter::default() };
        let mut report = self.sums(filter, query)?;
        without_costs(&mut report);
        Ok(report)
    }

    fn sums(&self, filter: Filter, query: &Parameters) -> Result<Value, Refusal> {
        let (from, to) = (time(query, "from")?, time(query, "to")?);
        let group_by = groups(query)?;
        let asked =
            UsageQuery { filter, from_unix_ms: from, to_unix_ms: to, group_by: group_by.clone() };
        let rows = self.store.usage(&asked).map_err(|error| fault(&error))?;
        let data: Vec<Value> = rows.iter().map(|row| self.row(&group_by, row)).collect();
        Ok(json!({
            "data": data,
            "from": from.map(text_of),
            "to": to.map(text_of),
            "complete_until": text_of(self.store.complete_until_unix_ms()),
        }))
    }

    fn row(&self, group_by: &[GroupBy], row: &UsageRow) -> Value {
        let mut out = Map::new();
        for (group, value) in group_by.iter().zip(&row.values) {
            match owner(*group) {
                Some(kind) => {
                    out.insert(group.name().into(), self.name(kind, value).into());
                    out.insert(format!("{}_id", group.name()), value.as_str().into());
                }
                None => {
                    out.insert(group.name().into(), value.as_str().into());
                }
            }
        }
        let Sums { requests, errors, estimated, unsettled, ref units, charge_pico, .. } = row.sums;
        let reserved = row.sums.unsettled_cost_pico;
        out.insert("requests".into(), requests.into());
        out.insert("errors".into(), errors.into());
        out.insert("estimated".into(), estimated.into());
        out.insert("unsettled".into(), unsettled.into());
        out.insert("unpriced".into(), row.sums.unpriced.into());
        out.insert("overruns".into(), row.sums.overruns.into());
        out.insert("units".into(), units_of(units, Some(requests)));
        out.insert("cost".into(), money(row.cost_pico).into());
        out.insert("charge".into(), money(charge_pico).into());
        out.insert("reserved".into(), money(reserved).into());
        out.insert("currency".into(), currency(row.currency).into());
        Value::Object(out)
    }

    /// Records, newest first.
    ///
    /// # Errors
    /// A filter that names nothing, or a store that does not answer.
    pub(super) fn requests(&self, caller: &Caller, query: &Parameters) -> Result<Value, Refusal> {
        let mut filter = self.filter(caller, query)?;
        confine(&mut filter, caller)?;
        let limit = find(query, "limit").and_then(|text| text.parse().ok()).unwrap_or(PAGE);
        let cursor = match find(query, "cursor") {
            None => None,
            Some(text) => Some(Cursor::parse(text).ok_or_else(|| {
                let message = "`cursor` is not one that this call gave; start without it";
                Refusal::new(400, "invalid_parameter", message).of("cursor")
            })?),
        };
        let asked = RecordQuery {
            filter,
            status: find(query, "status").and_then(StatusFilter::parse),
            since_unix_ms: time(query, "since")?,
            until_unix_ms: time(query, "until")?,
            oldest_first: false,
            cursor,
        };
        let mut data = Vec::new();
        let next = self.store.records(&asked, &mut |record| {
            data.push(self.record(record));
            if data.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        let next = next.map_err(|error| fault(&error))?;
        let page = json!({ "data": data, "next_cursor": next.map(|cursor| cursor.to_string()) });
        Ok(seen_by(caller, page))
    }

    /// One record.
    ///
    /// # Errors
    /// One that is not there, or not for this caller.
    pub(super) fn request(&self, caller: &Caller, id: &str) -> Result<Value, Refusal> {
        let missing = || {
            let message = "there is no record with this id, or it is not kept any more; records \
                           appear some seconds after their request has ended";
            Refusal::new(404, "not_found", message)
        };
        let id: RequestId = id.parse().map_err(|_| missing())?;
        let found = self.store.record(id).map_err(|error| fault(&error))?.ok_or_else(missing)?;
        let record = found.record();
        let mut filter = Filter::default();
        confine(&mut filter, caller)?;
        if !filter.matches(&record.open) {
            return Err(missing());
        }
        Ok(seen_by(caller, self.record(&record)))
    }

    fn record(&self, record: &StoredRecord<'_>) -> Value {
        let StoredRecord { open, settle } = record;
        let is_known = settle.state != State::Unsettled;
        let amount = |pico: u128| is_known.then(|| money(pico));
        let attempts: Vec<Value> = settle.attempts.as_slice().iter().map(attempt).collect();
        let candidates: Vec<Value> = open
            .candidates
            .as_slice()
            .iter()
            .map(|candidate| json!({"target": candidate.target, "score": candidate.score}))
            .collect();
        let tags: Vec<&str> = open.tags.split(',').filter(|tag| !tag.is_empty()).collect();
        json!({
            "id": open.id.to_string(),
            "time": text_of(open.time_unix_ms),
            "key": {"id": open.key, "name": self.name(ObjectKind::Key, open.key)},
            "project": self.name(ObjectKind::Project, open.project),
            "user": self.name(ObjectKind::User, open.user),
            "account": self.name(ObjectKind::Account, open.account),
            "end_user": open.end_user,
            "tags": tags,
            "client": open.client,
            "endpoint": open.endpoint,
            "stream": settle.flags.has(Flags::STREAM),
            "model": open.model,
            "model_served": settle.model_served,
            "target": settle.target,
            "state": settle.state.name(),
            "status": settle.status,
            "error": settle.error.map(|kind| kind.name()),
            "client_gone": settle.flags.has(Flags::CLIENT_GONE),
            "waited": settle.flags.has(Flags::WAITED),
            "overrun": settle.flags.has(Flags::OVERRUN),
            "units": units_of(&settle.units, None),
            "cost": amount(settle.cost_pico),
            "charge": amount(settle.charge_pico),
            "reserved": (!is_known).then(|| money(open.reserved_cost_pico)),
            "reserved_tokens": (!is_known).then_some(open.reserved_tokens),
            "currency": currency(open.currency),
            "unpriced": settle.flags.has(Flags::UNPRICED),
            "price_version": (settle.price_version != 0)
                .then(|| format!("{:016x}", settle.price_version)),
            "fx_rate": (settle.fx_rate_pico != 0).then(|| money(settle.fx_rate_pico)),
            "ttft_ms": settle.ttft_us.map(ms),
            "total_ms": ms(settle.total_us),
            "overhead_ms": ms(settle.overhead_us),
            "upstream_request_id": (!settle.upstream_request_id.is_empty())
                .then_some(settle.upstream_request_id),
            "attempts": attempts,
            "candidates": candidates,
        })
    }

    fn filter(&self, caller: &Caller, query: &Parameters) -> Result<Filter, Refusal> {
        let id = |name: &str, kind: ObjectKind, project: Option<&str>| {
            let Some(text) = find(query, name) else { return Ok(None) };
            let found = self.names.id_of(caller, kind, text, project);
            found.map_err(|refusal| refusal.of(name))?.map(Some).ok_or_else(|| {
                let message = format!("`{name}`: there is none with this id or name");
                Refusal::new(404, "not_found", message).of(name)
            })
        };
        let project = id("project", ObjectKind::Project, None)?;
        Ok(Filter {
            account: id("account", ObjectKind::Account, None)?,
            user: id("user", ObjectKind::User, None)?,
            // Two projects may have a key of the same name: each finds its own.
            key: id("key", ObjectKind::Key, project.as_deref())?,
            project,
            model: find(query, "model").map(str::to_owned),
        })
    }

    fn name(&self, kind: ObjectKind, id: &str) -> String {
        if id.is_empty() {
            return String::new();
        }
        self.names.name_of(kind, id).unwrap_or_else(|| id.to_owned())
    }
}

/// Takes out what upstreams charge: beside the charge it would tell the owner's margin.
fn without_costs(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for hidden in ["cost", "price_version", "fx_rate"] {
                map.remove(hidden);
            }
            map.values_mut().for_each(without_costs);
        }
        Value::Array(list) => list.iter_mut().for_each(without_costs),
        _ => {}
    }
}

/// What a caller may see of a report.
fn seen_by(caller: &Caller, mut report: Value) -> Value {
    if caller.is_confined() {
        without_costs(&mut report);
    }
    report
}

/// Narrows a filter to what the caller may see.
fn confine(filter: &mut Filter, caller: &Caller) -> Result<(), Refusal> {
    for (own, asked) in
        [(&caller.account, &mut filter.account), (&caller.project, &mut filter.project)]
    {
        match (own, &asked) {
            (Some(own), Some(other)) if *own != **other => {
                // As if it did not exist.
                return Err(Refusal::new(404, "not_found", "there is none with this id or name"));
            }
            (Some(own), _) => *asked = Some(own.clone()),
            (None, _) => {}
        }
    }
    Ok(())
}

fn attempt(attempt: &Attempt<'_>) -> Value {
    json!({
        "target": attempt.target,
        "outcome": attempt.error.map_or("ok", |kind| kind.name()),
        "status": attempt.error.map(|kind| kind.row().status),
        "units": units_of(&attempt.units, None),
        "cost": money(attempt.cost_pico),
        "price_version": (attempt.price_version != 0)
            .then(|| format!("{:016x}", attempt.price_version)),
        "ttft_ms": attempt.ttft_us.map(ms),
    })
}

/// The counters that are not zero.
fn units_of(units: &Units, requests: Option<u64>) -> Value {
    let mut out = Map::new();
    for (name, value) in Units::NAMES.iter().zip(units.values()) {
        match *name {
            _ if value == 0 => {}
            "seconds_in_milli" => {
                let thousandths = i128::from(value) * 1_000_000_000;
                out.insert("seconds_in".into(), number(&format_pico(thousandths)));
            }
            name => {
                out.insert(name.into(), value.into());
            }
        }
    }
    if let Some(requests) = requests {
        out.insert("requests".into(), requests.into());
    }
    Value::Object(out)
}

fn number(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| text.into())
}

fn owner(group: GroupBy) -> Option<ObjectKind> {
    Some(match group {
        GroupBy::Key => ObjectKind::Key,
        GroupBy::Project => ObjectKind::Project,
        GroupBy::User => ObjectKind::User,
        GroupBy::Account => ObjectKind::Account,
        _ => return None,
    })
}

fn groups(query: &Parameters) -> Result<Vec<GroupBy>, Refusal> {
    let Some(text) = find(query, "group_by") else { return Ok(Vec::new()) };
    let names = GroupBy::ALL.map(GroupBy::name).join(", ");
    let bad = |message: String| Refusal::new(400, "invalid_parameter", message).of("group_by");
    let mut groups = Vec::new();
    for name in text.split(',').map(str::trim) {
        let group = GroupBy::from_name(name).ok_or_else(|| {
            bad(format!("`group_by` cannot be `{}`; valid: {names}", name.escape_debug()))
        })?;
        if !groups.contains(&group) {
            groups.push(group);
        }
    }
    if groups.len() > GROUPS_MAX {
        return Err(bad(format!("`group_by` has more than {GROUPS_MAX} groups: ask for fewer")));
    }
    Ok(groups)
}

fn time(query: &Parameters, name: &str) -> Result<Option<u64>, Refusal> {
    let Some(text) = find(query, name) else { return Ok(None) };
    unix_ms(text).map(Some).ok_or_else(|| {
        let message = format!("`{name}` must be a time as 2026-01-31T12:00:00Z, or a date");
        Refusal::new(400, "invalid_parameter", message).of(name)
    })
}

fn find<'q>(query: &'q Parameters, name: &str) -> Option<&'q str> {
    query.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

fn fault(error: &StoreError) -> Refusal {
    match error {
        StoreError::TooMuch { .. } => Refusal::new(422, "too_much", error.to_string()),
        _ => {
            let message = format!("the store does not answer ({error}); try again");
            Refusal::new(503, "store_unavailable", message)
        }
    }
}

fn money(pico: u128) -> String {
    format_pico(i128::try_from(pico).unwrap_or(i128::MAX))
}

fn currency(letters: [u8; 3]) -> String {
    Currency::from_bytes(letters).map_or_else(String::new, |currency| currency.to_string())
}

fn text_of(unix_ms: u64) -> String {
    String::from_utf8_lossy(&clock::rfc3339(unix_ms)).into_owned()
}

fn ms(us: u64) -> f64 {
    us as f64 / 1000.0
}
