//! Changing what is there: update, delete, restore, purge, and the block of a single object.

use serde_json::{Map, Value};

use super::create::settable;
use super::fields::Fields;
use super::file::Card;
use super::kinds::{self, Doc};
use super::live::{Effect, account_of, scope_kind};
use super::names::not_deleted;
use super::perform::{Act, Plan};
use super::{Refusal, Reply};
use crate::admit::ScopeKind;
use crate::auth::Grant;
use crate::store::objects::{ObjectKind, ObjectRow, SecretRow, Status};

/// How many keys are looked at in one step.
pub(super) const PAGE_ROWS: usize = 500;

impl Act<'_> {
    /// A merge patch (RFC 7396) over the fields that can be set; the result is checked as a whole.
    pub(super) fn update(&mut self) -> Result<Plan, Refusal> {
        let before = self.target()?;
        not_deleted(&before)?;
        self.check_patch()?;
        let mut map = settable(&before);
        merge(&mut map, &self.body);
        let draft = kinds::read(self.kind, &map)?;
        let owners = self.owners(&draft)?;
        let mut after = before.clone();
        after.row.name = draft.name;
        (after.row.account, after.row.project, after.row.user) =
            (owners.account, owners.project, owners.user);
        after.stored.doc = draft.doc;
        fixed(&before, &after)?;
        self.check_currency(&before, &after)?;
        self.check(Some(&before), &after)?;
        if after == before {
            return Ok(self.unchanged(&before));
        }
        let secrets = self.secrets_of(&before)?;
        let (mut plan, after) = self.writing(Some(&before), after);
        plan.effects = self.effects(Some(&before), &after, &secrets, Vec::new(), false)?;
        if models(&before) != models(&after) {
            self.regrant(&after, &mut plan.effects)?;
        }
        self.replying(plan, &after)
    }

    /// An account's currency may still be chosen while nothing was booked in it.
    fn check_currency(&self, before: &Card, after: &Card) -> Result<(), Refusal> {
        match (&before.stored.doc, &after.stored.doc) {
            (Doc::Account(old), Doc::Account(new)) if old.currency != new.currency => {}
            _ => return Ok(()),
        }
        let (id, spent) = (&before.row.id, &self.directory.live.spent);
        let history = spent.history(id, ScopeKind::Account, "", None, 0);
        // The store lags behind: a request that is under way has used its key already.
        let is_booked = !history.map_err(|error| Refusal::store(&error))?.is_empty()
            || self.has_used_keys(&before.row)?;
        if is_booked {
            let message = "what was booked in a currency stays in it; make another account";
            return Err(Refusal::value("currency", message));
        }
        Ok(())
    }

    fn has_used_keys(&self, owner: &ObjectRow) -> Result<bool, Refusal> {
        let mut last: Option<ObjectRow> = None;
        loop {
            let rows = self.page_of(ObjectKind::Key, owner, last.as_ref(), PAGE_ROWS)?;
            let is_end = rows.len() < PAGE_ROWS;
            last = rows.last().cloned();
            for row in rows {
                if self.directory.last_used(&Act::card(row)?).is_some() {
                    return Ok(true);
                }
            }
            if is_end {
                return Ok(false);
            }
        }
    }

    /// Fields of the patch that mean nothing: with null they would vanish unseen.
    fn check_patch(&self) -> Result<(), Refusal> {
        let nulls = self.body.iter().filter(|(_, value)| value.is_null());
        let names: Map<String, Value> =
            nulls.map(|(name, _)| (name.clone(), Value::Null)).collect();
        Fields::of(&names, "", kinds::known(self.kind)).map(drop)
    }

    /// Out of use, with what belongs to it if that is asked for.
    pub(super) fn delete(&mut self) -> Result<Plan, Refusal> {
        let before = self.target()?;
        if before.row.status == Status::Deleted {
            let (kind, name) = (self.kind, &before.row.name);
            let message =
                format!("the {kind} `{name}` is deleted already; restore it, or purge it");
            return Err(Refusal::conflict("deleted", message));
        }
        let is_cascade = match self.call.query.iter().find(|(name, _)| name == "cascade") {
            None => false,
            Some((_, value)) => match value.as_str() {
                "true" | "1" => true,
                "false" | "0" => false,
                _ => return Err(Refusal::value("cascade", "`cascade` must be true or false")),
            },
        };
        if matches!(self.kind, ObjectKind::Account | ObjectKind::Project | ObjectKind::User) {
            let living = self.dependants(&before.row, false)?;
            if let Some((kind, filed)) = living {
                if !is_cascade || filed {
                    return Err(in_use(&before, kind, filed));
                }
                self.delete_dependants(&before.row)?;
            }
        }
        let plan = self.deleting(&before, None)?;
        Ok(plan)
    }

    /// The plan that deletes one object. `owner` is the object that takes it along.
    pub(super) fn deleting(&mut self, before: &Card, owner: Option<&str>) -> Result<Plan, Refusal> {
        let mut after = before.clone();
        after.stored.was_blocked = before.row.status == Status::Blocked;
        after.stored.deleted_by = owner.map(str::to_owned);
        after.row.status = Status::Deleted;
        let secrets = self.secrets_of(before)?;
        let (mut plan, after) = self.writing(Some(before), after);
        plan.effects = self.effects(Some(before), &after, &secrets, Vec::new(), false)?;
        self.forget_old(&mut plan, &secrets);
        self.replying(plan, &after)
    }

    /// A secret that was rotated out does not come back with a restore.
    fn forget_old(&self, plan: &mut Plan, secrets: &[SecretRow]) {
        let old = secrets.iter().filter(|secret| secret.valid_until_unix_ms.is_some());
        plan.change.secrets_remove = old.map(|secret| secret.digest).collect();
    }

    /// Back in use, as blocked as it was.
    pub(super) fn restore(&mut self) -> Result<Plan, Refusal> {
        let before = self.target()?;
        self.nothing_else()?;
        if before.row.status != Status::Deleted {
            let message = format!("the {} `{}` is not deleted", self.kind, before.row.name);
            return Err(Refusal::conflict("not_deleted", message));
        }
        self.owners_live(&before.row)?;
        self.check(None, &before)?;
        let plan = self.restoring(&before)?;
        self.restore_dependants(&before.row, plan)
    }

    /// The plan that restores one object.
    pub(super) fn restoring(&mut self, before: &Card) -> Result<Plan, Refusal> {
        let mut after = before.clone();
        let was_blocked = after.stored.was_blocked;
        after.row.status = if was_blocked { Status::Blocked } else { Status::Active };
        after.stored.was_blocked = false;
        after.stored.deleted_by = None;
        let mut secrets = self.secrets_of(before)?;
        secrets.retain(|secret| secret.valid_until_unix_ms.is_none());
        let (mut plan, after) = self.writing(Some(before), after);
        plan.effects = self.effects(Some(before), &after, &secrets, Vec::new(), false)?;
        self.replying(plan, &after)
    }

    fn owners_live(&self, row: &ObjectRow) -> Result<(), Refusal> {
        let of = [
            (ObjectKind::Account, &row.account),
            (ObjectKind::Project, &row.project),
            (ObjectKind::User, &row.user),
        ];
        for (kind, id) in of.into_iter().filter(|(_, id)| !id.is_empty()) {
            let directory = self.directory;
            let filed = directory.state().filed.card(kind, id).is_some();
            let stored = directory.objects.get(kind, id).map_err(|error| Refusal::store(&error))?;
            let lives = stored.is_some_and(|row| row.status != Status::Deleted);
            if !filed && !lives {
                let message = format!("its {kind} is deleted; restore that first");
                return Err(Refusal::conflict("owner_deleted", message));
            }
        }
        Ok(())
    }

    /// Gone for good.
    pub(super) fn purge(&mut self) -> Result<Plan, Refusal> {
        let before = self.target()?;
        self.nothing_else()?;
        if before.row.status != Status::Deleted {
            let message =
                format!("the {} `{}` is in use; delete it first", self.kind, before.row.name);
            return Err(Refusal::conflict("not_deleted", message));
        }
        if let Some((kind, filed)) = self.dependants(&before.row, true)? {
            return Err(in_use(&before, kind, filed));
        }
        let mut plan = self.unchanged(&before);
        plan.change.removes = vec![(self.kind, before.row.id.clone())];
        plan.change.audit = vec![self.audit("purge", Some(&before), None)];
        if let Some(kind) = scope_kind(self.kind) {
            let is_account = kind == ScopeKind::Account;
            let name = if is_account { String::new() } else { before.row.id.clone() };
            plan.effects.push(Effect::Limits {
                account: account_of(&before.row).to_owned(),
                scope: (kind, name),
                limits: None,
                spent: Vec::new(),
            });
        }
        if let Some(body) = plan.reply.body.as_object_mut() {
            body.insert("status".to_owned(), "purged".into());
        }
        Ok(plan)
    }

    /// Block and unblock of a key or a principal.
    pub(super) fn block(&mut self) -> Result<Plan, Refusal> {
        let before = self.target()?;
        not_deleted(&before)?;
        let is_block = self.call.verb == super::Verb::Block;
        let is_now = self.now_option(is_block)?;
        let mut plan = self.blocking(&before, is_block, is_now, None)?;
        if is_now {
            // Whoever reads the log wants to know whether streams were cut.
            for entry in &mut plan.change.audit {
                let after = entry.after.as_deref().map(serde_json::from_str::<Value>);
                if let Some(Ok(mut after)) = after {
                    after["now"] = true.into();
                    entry.after = Some(after.to_string());
                }
            }
        }
        Ok(plan)
    }

    /// The plan that blocks or unblocks one object. `owner` is the object that takes it along.
    pub(super) fn blocking(
        &mut self,
        before: &Card,
        is_block: bool,
        is_now: bool,
        owner: Option<&str>,
    ) -> Result<Plan, Refusal> {
        let mut after = before.clone();
        after.row.status = if is_block { Status::Blocked } else { Status::Active };
        after.stored.blocked_by = owner.filter(|_| is_block).map(str::to_owned);
        let secrets = self.secrets_of(before)?;
        let (mut plan, after) = self.writing(Some(before), after);
        plan.effects = self.effects(Some(before), &after, &secrets, Vec::new(), is_now)?;
        self.replying(plan, &after)
    }

    /// The option `now` of a block.
    pub(super) fn now_option(&self, is_block: bool) -> Result<bool, Refusal> {
        let known: &[&str] = if is_block { &["now"] } else { &[] };
        Ok(Fields::of(&self.body, "", known)?.flag("now")?.unwrap_or(false))
    }

    /// A verb without options.
    pub(super) fn nothing_else(&self) -> Result<(), Refusal> {
        match self.body.keys().next() {
            None => Ok(()),
            Some(name) => {
                let name = super::fields::shortened(name);
                let message =
                    format!("`{name}` is not known; {} has no options", self.call.verb.name());
                Err(Refusal::new(400, "unknown_field", message).of(name))
            }
        }
    }

    pub(super) fn secrets_of(&self, card: &Card) -> Result<Vec<SecretRow>, Refusal> {
        if !matches!(card.row.kind, ObjectKind::Key | ObjectKind::Principal) {
            return Ok(Vec::new());
        }
        let secrets = self.directory.objects.secrets_of(card.row.kind, &card.row.id);
        secrets.map_err(|error| Refusal::store(&error))
    }

    /// What the workers are given for a key.
    pub(super) fn grant(&mut self, card: &Card) -> Result<Grant, Refusal> {
        let project = self.project_of(&card.row)?;
        self.grant_in(card, &project)
    }

    pub(super) fn grant_in(&mut self, card: &Card, project: &Card) -> Result<Grant, Refusal> {
        let Doc::Key(key) = &card.stored.doc else {
            return Err(Refusal::new(
                503,
                "store_unavailable",
                "a key was stored as something else",
            ));
        };
        let shared = &mut self.edits.shared;
        let models = models(project).map(|models| shared.names(models));
        Ok(key.grant(&card.row, &project.row.account, models.as_ref(), shared))
    }

    /// New grants for all keys of a project whose models are others now.
    fn regrant(&mut self, project: &Card, effects: &mut Vec<Effect>) -> Result<(), Refusal> {
        let mut last: Option<ObjectRow> = None;
        loop {
            let rows = self.page_of(ObjectKind::Key, &project.row, last.as_ref(), PAGE_ROWS)?;
            let is_end = rows.len() < PAGE_ROWS;
            last = rows.last().cloned();
            for row in rows.into_iter().filter(|row| row.status != Status::Deleted) {
                let card = Act::card(row)?;
                let secrets = super::create::digests(&self.secrets_of(&card)?);
                let grant = Box::new(self.grant_in(&card, project)?);
                effects.push(Effect::Key { grant, secrets, gone: Vec::new(), is_ending: false });
            }
            if is_end {
                return Ok(());
            }
        }
    }

    fn unchanged(&self, card: &Card) -> Plan {
        let body = Value::Object(self.directory.shown(card));
        Plan { change: Default::default(), effects: Vec::new(), reply: Reply { status: 200, body } }
    }

    pub(super) fn replying(&self, mut plan: Plan, card: &Card) -> Result<Plan, Refusal> {
        plan.reply.body = Value::Object(self.directory.shown(card));
        Ok(plan)
    }
}

fn in_use(card: &Card, kind: ObjectKind, filed: bool) -> Refusal {
    let (own, name) = (card.row.kind, &card.row.name);
    let message = if filed {
        format!(
            "the configuration file has a {kind} of the {own} `{name}`; take it out there first"
        )
    } else if card.row.status == Status::Deleted {
        format!("there is still a {kind} of the {own} `{name}`; purge it first")
    } else {
        format!(
            "there is a {kind} of the {own} `{name}`; delete it first, or with cascade=true all at once"
        )
    };
    Refusal::conflict("in_use", message)
}

/// The models that a project allows.
fn models(card: &Card) -> Option<&Vec<String>> {
    match &card.stored.doc {
        Doc::Project(project) => project.models.as_ref(),
        _ => None,
    }
}

/// What stays as it was made.
fn fixed(before: &Card, after: &Card) -> Result<(), Refusal> {
    let (old, new) = (&before.row, &after.row);
    if old.account != new.account && old.kind != ObjectKind::Principal {
        let field = if old.kind == ObjectKind::Key { "project" } else { "account" };
        let message = format!("a {} stays in its account; make another one there", old.kind);
        return Err(Refusal::value(field, message));
    }
    Ok(())
}

/// RFC 7396: objects are merged, null takes away, everything else replaces.
fn merge(target: &mut Map<String, Value>, patch: &Map<String, Value>) {
    for (name, value) in patch {
        match value {
            Value::Null => {
                target.remove(name);
            }
            Value::Object(inner) => {
                let slot = target.entry(name.clone()).or_insert_with(|| Map::new().into());
                if !slot.is_object() {
                    *slot = Map::new().into();
                }
                if let Some(map) = slot.as_object_mut() {
                    merge(map, inner);
                }
            }
            other => {
                target.insert(name.clone(), other.clone());
            }
        }
    }
}
