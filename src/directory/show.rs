//! Objects as callers see them: one by one with what they have used, or in pages.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::fields::{nearest, rfc3339, shortened};
use super::file::Card;
use super::kinds::{Doc, kind_of, known};
use super::limits::pico;
use super::live::{account_of, effective_limits, scope_kind};
use super::perform::{Act, Directory};
use super::{Call, Caller, Refusal, Reply, Resource};
use crate::admit::{BudgetFigures, Figures, ScopeKind, Use};
use crate::clock::Now;
use crate::ident::AccountId;
use crate::store::objects::{ListQuery, ObjectKind, ObjectRow, Position, Status};

const PAGE_ROWS_DEFAULT: usize = 100;
const PAGE_ROWS_MAX: usize = 1000;

/// How many pages of the store one page of an answer may cost: most of them may hold what is deleted.
const STEPS_MAX: usize = 20;

/// What the cursor of the file's objects begins with. The store's never do: theirs begin with a time.
const FILED: &str = "file:";

/// The filters of a list.
struct Filters {
    account: Option<String>,
    project: Option<String>,
    user: Option<String>,
    /// `None`: all but the deleted ones.
    status: Option<Status>,
    everything: bool,
    cursor: Option<String>,
    limit: usize,
}

/// Names of owners, so that a page asks for each once.
type Names = HashMap<(ObjectKind, String), Option<String>>;

impl Directory {
    /// One object, and what it has used of its limits.
    pub(super) fn show(&self, caller: &Caller, call: &Call, now: Now) -> Result<Reply, Refusal> {
        known_query(call, &["project"])?;
        let card = self.find(caller, kind_of(call.resource), call)?;
        let mut body = self.shown(&card);
        if let Some(kind) = scope_kind(card.row.kind) {
            body.insert("usage".to_owned(), self.usage(kind, &card, now));
        }
        if let Some(until) = self.previous_until(&card, now)? {
            body.insert("previous_valid_until".to_owned(), rfc3339(until).into());
        }
        Ok(Reply { status: 200, body: body.into() })
    }

    /// Until when the secret before the current one is good.
    fn previous_until(&self, card: &Card, now: Now) -> Result<Option<u64>, Refusal> {
        let kind = card.row.kind;
        if card.is_filed || !matches!(kind, ObjectKind::Key | ObjectKind::Principal) {
            return Ok(None);
        }
        let secrets = self.objects.secrets_of(kind, &card.row.id);
        let secrets = secrets.map_err(|error| Refusal::store(&error))?;
        let ends = secrets.into_iter().filter_map(|secret| secret.valid_until_unix_ms);
        Ok(ends.filter(|&end| end > now.unix_ms).max())
    }

    fn usage(&self, kind: ScopeKind, card: &Card, now: Now) -> Value {
        let cell = self.live.accounts.cell(&AccountId::from(account_of(&card.row)));
        let name = if kind == ScopeKind::Account { "" } else { card.row.id.as_str() };
        // A key that was not used lately is not known there.
        let limits = effective_limits(card);
        let state = cell.state_with(kind, name, limits.as_ref(), now);
        let mut usage = usage_of(&state.all);
        if let Some(balance) = &state.all.balance {
            usage.insert("balance".to_owned(), budget(balance));
        }
        if !state.models.is_empty() {
            let models = state.models.iter();
            let models = models.map(|(alias, state)| (alias.to_string(), usage_of(state).into()));
            usage.insert("models".to_owned(), Value::Object(models.collect()));
        }
        usage.into()
    }

    /// An object with the names of its owners.
    pub(super) fn shown(&self, card: &Card) -> Map<String, Value> {
        self.shown_with(card, &mut Names::new())
    }

    fn shown_with(&self, card: &Card, names: &mut Names) -> Map<String, Value> {
        let mut map = self.plain_with(card, names);
        if card.row.kind == ObjectKind::Key {
            let used = self.last_used(card);
            map.insert("last_used_at".to_owned(), used.map(rfc3339).into());
        }
        map
    }

    /// When a key was last used: noted in the store now and then, known to the keyring at once.
    pub(super) fn last_used(&self, card: &Card) -> Option<u64> {
        let noted = self.objects.last_used(&card.row.id).ok().flatten();
        let secrets = self.objects.secrets_of(ObjectKind::Key, &card.row.id).unwrap_or_default();
        let filed = self.state().filed.digest_of(&card.row.id);
        let digests = secrets.into_iter().map(|secret| secret.digest).chain(filed);
        digests.filter_map(|digest| self.live.keyring.last_used(&digest)).chain(noted).max()
    }

    /// An object as the audit log keeps it: without what changes by itself.
    pub(super) fn plain(&self, card: &Card) -> Map<String, Value> {
        self.plain_with(card, &mut Names::new())
    }

    fn plain_with(&self, card: &Card, names: &mut Names) -> Map<String, Value> {
        let row = &card.row;
        let mut map = Map::new();
        map.insert("id".to_owned(), row.id.as_str().into());
        map.insert("name".to_owned(), row.name.as_str().into());
        if row.kind != ObjectKind::Rate && row.kind != ObjectKind::Price {
            map.insert("status".to_owned(), row.status.name().into());
        } else if row.status == Status::Deleted {
            map.insert("status".to_owned(), Status::Deleted.name().into());
        }
        for (field, kind, id) in owners(row) {
            let name = names
                .entry((kind, id.to_owned()))
                .or_insert_with(|| self.name_of(kind, id).filter(|_| !id.is_empty()));
            map.insert(field.to_owned(), name.clone().into());
            let id = (!id.is_empty()).then_some(id);
            map.insert(format!("{field}_id"), id.into());
        }
        // Fields that are not set are null, so that every object of a kind has the same.
        let set = card.stored.doc.to_map();
        // But a price is those few that are set.
        let known = if row.kind == ObjectKind::Price { &[] } else { known(row.kind) };
        for field in known {
            map.entry(*field).or_insert(Value::Null);
        }
        if let Doc::Account(_) | Doc::Project(_) | Doc::User(_) | Doc::Key(_) = card.stored.doc {
            map.insert("limits".to_owned(), json!({}));
        }
        map.extend(set);
        if let Doc::Price(entry) = &card.stored.doc {
            map.insert("version".to_owned(), format!("{:016x}", entry.version).into());
        }
        if matches!(row.kind, ObjectKind::Key | ObjectKind::Principal) {
            map.insert("prefix".to_owned(), card.stored.prefix.as_str().into());
        }
        map.insert("managed_by".to_owned(), if card.is_filed { "file" } else { "api" }.into());
        if !card.is_filed {
            map.insert("created_at".to_owned(), rfc3339(row.created_unix_ms).into());
            map.insert("created_by".to_owned(), row.created_by.as_str().into());
            map.insert("updated_at".to_owned(), rfc3339(row.updated_unix_ms).into());
        }
        map
    }

    /// A page of objects, newest first; those of the file come last.
    pub(super) fn list(&self, caller: &Caller, call: &Call) -> Result<Reply, Refusal> {
        let kind = kind_of(call.resource);
        let filters = self.filters(caller, call)?;
        let mut names = Names::new();
        let mut data = Vec::new();
        let mut shown = |card: &Card| -> Value { self.shown_with(card, &mut names).into() };
        let filed_after = match filters.cursor.as_deref().map(|text| text.strip_prefix(FILED)) {
            Some(Some(name)) => Some(name.to_owned()),
            _ => {
                let (rows, next) = self.rows(caller, kind, &filters)?;
                for row in rows {
                    data.push(shown(&Act::card(row)?));
                }
                if let Some(next) = next {
                    let body = json!({ "data": data, "next_cursor": next.to_string() });
                    return Ok(Reply { status: 200, body });
                }
                None
            }
        };
        let filed = self.state().filed.clone();
        let mut left = filed.all(kind).filter(|card| {
            let is_after = filed_after.as_deref().is_none_or(|name| card.row.id.as_str() > name);
            is_after && caller.sees(&card.row) && filters.lets(&card.row)
        });
        let mut last = filed_after.clone().unwrap_or_default();
        while data.len() < filters.limit
            && let Some(card) = left.next()
        {
            data.push(shown(card));
            last.clone_from(&card.row.id);
        }
        let next = left.next().map(|_| format!("{FILED}{last}"));
        Ok(Reply { status: 200, body: json!({ "data": data, "next_cursor": next }) })
    }

    /// Rows of the store up to the limit, and where the next page begins if there may be one.
    fn rows(
        &self,
        caller: &Caller,
        kind: ObjectKind,
        filters: &Filters,
    ) -> Result<(Vec<ObjectRow>, Option<Position>), Refusal> {
        let mut query = ListQuery::new(kind, filters.limit);
        query.account = filters.account.clone().filter(|_| kind != ObjectKind::Account);
        query.project = filters.project.clone().filter(|_| kind != ObjectKind::Project);
        query.user = filters.user.clone();
        query.status = filters.status;
        if let Some(cursor) = &filters.cursor {
            let place = Position::parse(cursor);
            query.after = Some(place.ok_or_else(|| {
                Refusal::new(400, "invalid_request", "`cursor` is not one of ours").of("cursor")
            })?);
        }
        let mut rows = Vec::new();
        for _ in 0..STEPS_MAX {
            let page = self.objects.list(&query).map_err(|error| Refusal::store(&error))?;
            let is_end = page.len() < filters.limit;
            for row in page {
                if rows.len() == filters.limit {
                    return Ok((rows, query.after));
                }
                query.after = Some(row.position());
                if caller.sees(&row) && filters.lets(&row) {
                    rows.push(row);
                }
            }
            if is_end {
                return Ok((rows, None));
            }
            if rows.len() == filters.limit {
                break;
            }
        }
        Ok((rows, query.after))
    }

    fn filters(&self, caller: &Caller, call: &Call) -> Result<Filters, Refusal> {
        let known: &[&str] = match call.resource {
            Resource::Keys => &["project", "account", "user", "status", "cursor", "limit"],
            Resource::Projects | Resource::Users => &["account", "status", "cursor", "limit"],
            Resource::Principals => &["account", "project", "status", "cursor", "limit"],
            Resource::Accounts | Resource::Prices | Resource::Rates => {
                &["status", "cursor", "limit"]
            }
        };
        known_query(call, known)?;
        let text = |name: &str| {
            let pair = call.query.iter().find(|(key, _)| key == name);
            pair.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
        };
        let owner = |kind: ObjectKind| {
            let field = kind.name();
            let card = text(field).map(|text| self.owner(caller, kind, text, field));
            card.transpose().map(|card| card.map(|card| card.row.id))
        };
        let everything = text("status") == Some("all");
        let status = text("status").filter(|_| !everything).map(|text| {
            Status::from_name(text).ok_or_else(|| {
                Refusal::value("status", "`status` must be active, blocked, deleted or all")
            })
        });
        let limit = text("limit").map(|text| {
            let number = text.parse().ok().filter(|limit| (1..=PAGE_ROWS_MAX).contains(limit));
            number.ok_or_else(|| {
                Refusal::value("limit", format!("`limit` must be 1 to {PAGE_ROWS_MAX}"))
            })
        });
        let own_account = caller.account.clone();
        Ok(Filters {
            account: owner(ObjectKind::Account)?.or(own_account),
            project: owner(ObjectKind::Project)?
                .or_else(|| caller.project.clone().filter(|_| call.resource == Resource::Keys)),
            user: owner(ObjectKind::User)?,
            status: status.transpose()?,
            everything,
            cursor: text("cursor").map(str::to_owned),
            limit: limit.transpose()?.unwrap_or(PAGE_ROWS_DEFAULT),
        })
    }
}

impl Filters {
    fn lets(&self, row: &ObjectRow) -> bool {
        let is = |wanted: &Option<String>, id: &str| wanted.as_deref().is_none_or(|it| it == id);
        let status = match self.status {
            Some(status) => row.status == status,
            None => self.everything || row.status != Status::Deleted,
        };
        let account = row.kind == ObjectKind::Account || is(&self.account, &row.account);
        let project = row.kind == ObjectKind::Project || is(&self.project, &row.project);
        status && account && project && is(&self.user, &row.user)
    }
}

/// Query parameters that mean nothing are a mistake.
fn known_query(call: &Call, known: &[&str]) -> Result<(), Refusal> {
    let Some((wrong, _)) = call.query.iter().find(|(name, _)| !known.contains(&name.as_str()))
    else {
        return Ok(());
    };
    let cure = match nearest(wrong, known) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("here belong {}", known.join(", ")),
    };
    let wrong = shortened(wrong);
    let message = format!("`{wrong}` is not known; {cure}");
    Err(Refusal::new(400, "unknown_parameter", message).of(wrong))
}

/// The owners that objects of a kind have: the field, the kind and the id of each.
fn owners(row: &ObjectRow) -> Vec<(&'static str, ObjectKind, &str)> {
    let account = ("account", ObjectKind::Account, row.account.as_str());
    let project = ("project", ObjectKind::Project, row.project.as_str());
    match row.kind {
        ObjectKind::Key => vec![project, account, ("user", ObjectKind::User, &row.user)],
        ObjectKind::Project | ObjectKind::User => vec![account],
        ObjectKind::Principal => vec![account, project],
        ObjectKind::Account | ObjectKind::Price | ObjectKind::Rate => Vec::new(),
    }
}

fn usage_of(state: &Figures) -> Map<String, Value> {
    let used =
        |used: &Option<Use>| used.as_ref().map(|it| json!({ "limit": it.limit, "used": it.used }));
    let mut map = Map::new();
    for (name, value) in [
        ("rpm", used(&state.rpm)),
        ("tpm", used(&state.tpm)),
        ("tpd", used(&state.tpd)),
        ("parallel", used(&state.parallel)),
    ] {
        map.insert(name.to_owned(), value.into());
    }
    map.insert("budget".to_owned(), state.budgets.iter().map(budget).collect());
    map
}

fn budget(state: &BudgetFigures) -> Value {
    json!({
        "amount": pico(state.amount_pico),
        "per": state.period.to_string(),
        "spent": pico(state.spent_pico),
        "reserved": pico(state.reserved_pico),
        "remaining": pico(state.remaining_pico),
        "resets_at": state.resets_at_unix_ms.map(rfc3339),
        "soft": state.soft,
    })
}
