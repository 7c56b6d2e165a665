//! Acts on all that belongs to an account, a project or a user. A thousand keys are changed in a few
//! steps of the store, each whole and each with an entry in the audit log for every key; if one fails,
//! the answer says how far it came, and the same call goes on from there.

use serde_json::{Value, json};

use super::edit::PAGE_ROWS;
use super::file::Card;
use super::names::not_deleted;
use super::perform::{Act, Plan};
use super::{Refusal, Reply, Verb};
use crate::store::objects::{AuditDraft, Change, ObjectKind, ObjectRow, Status};

/// Kinds that may belong to another object, in the order in which they are deleted.
const DEPENDANTS: [ObjectKind; 4] =
    [ObjectKind::Key, ObjectKind::Principal, ObjectKind::User, ObjectKind::Project];

impl Act<'_> {
    /// Block and unblock of all keys of an object. What an operator has blocked by itself stays blocked.
    pub(super) fn block_all(&mut self) -> Result<Plan, Refusal> {
        // An owner that the file defines may have keys that were made here.
        let owner = self.directory.find(self.caller, self.kind, self.call)?;
        not_deleted(&owner)?;
        let is_block = self.call.verb == Verb::Block;
        let is_now = self.now_option(is_block)?;
        let id = owner.row.id.clone();
        let changed = self.on_each(ObjectKind::Key, &owner.row, |act, card| {
            let is_wanted = match (is_block, card.row.status) {
                (_, Status::Deleted) => false,
                // Blocked already; but what runs with it has to end, too.
                (true, Status::Blocked) => is_now,
                (true, Status::Active) => true,
                (false, status) => {
                    status == Status::Blocked && card.stored.blocked_by.as_deref() == Some(&*id)
                }
            };
            if !is_wanted {
                return Ok(None);
            }
            let was_blocked = card.row.status == Status::Blocked;
            let by = if was_blocked { card.stored.blocked_by.clone() } else { Some(id.clone()) };
            act.blocking(card, is_block, is_now, by.as_deref()).map(Some)
        })?;
        self.done(&owner, changed)
    }

    /// The answer and the entry for an act on all keys of `owner`.
    fn done(&self, owner: &Card, changed: usize) -> Result<Plan, Refusal> {
        let filed = self.directory.state().filed.clone();
        let is_of = |card: &&Card| belongs(&card.row, &owner.row);
        let by_file = filed.all(ObjectKind::Key).filter(is_of).count();
        let keys = json!({ "changed": changed, "managed_by_file": by_file });
        let entry = AuditDraft {
            after: Some(json!({ "keys": keys }).to_string()),
            before: None,
            ..self.audit(self.call.verb.name(), Some(owner), None)
        };
        let mut body = self.directory.shown(owner);
        body.insert("keys".to_owned(), keys);
        let reply = Reply { status: 200, body: Value::Object(body) };
        let change = Change { audit: vec![entry], ..Change::default() };
        Ok(Plan { change, effects: Vec::new(), reply })
    }

    /// Whatever belongs to an object: its kind, and whether the file defines it. With `deleted` also
    /// what is deleted.
    pub(super) fn dependants(
        &self,
        owner: &ObjectRow,
        deleted: bool,
    ) -> Result<Option<(ObjectKind, bool)>, Refusal> {
        let filed = self.directory.state().filed.clone();
        for kind in kinds_of(owner.kind) {
            if filed.all(kind).any(|card| belongs(&card.row, owner)) {
                return Ok(Some((kind, true)));
            }
            let mut last: Option<ObjectRow> = None;
            loop {
                let rows = self.page_of(kind, owner, last.as_ref(), PAGE_ROWS)?;
                if rows.iter().any(|row| deleted || row.status != Status::Deleted) {
                    return Ok(Some((kind, false)));
                }
                if rows.len() < PAGE_ROWS {
                    break;
                }
                last = rows.last().cloned();
            }
        }
        Ok(None)
    }

    /// Deletes all that belongs to an object.
    pub(super) fn delete_dependants(&mut self, owner: &ObjectRow) -> Result<(), Refusal> {
        for kind in kinds_of(owner.kind) {
            self.on_each(kind, owner, |act, card| {
                if card.row.status == Status::Deleted {
                    return Ok(None);
                }
                act.deleting(card, Some(&owner.id)).map(Some)
            })?;
        }
        Ok(())
    }

    /// Restores what was deleted together with an object. Comes after the object itself: without its
    /// project a key would have nobody to pay for it.
    pub(super) fn restore_dependants(
        &mut self,
        owner: &ObjectRow,
        mut plan: Plan,
    ) -> Result<Plan, Refusal> {
        if kinds_of(owner.kind).next().is_none() {
            return Ok(plan);
        }
        let change = std::mem::take(&mut plan.change);
        let effects = std::mem::take(&mut plan.effects);
        let reply = plan.reply.clone();
        self.directory.commit(self.caller, Plan { change, effects, reply }, None, self.now)?;
        let mut kinds: Vec<_> = kinds_of(owner.kind).collect();
        kinds.reverse();
        for kind in kinds {
            let changed = self.on_each(kind, owner, |act, card| {
                let is_taken = card.stored.deleted_by.as_deref() == Some(owner.id.as_str());
                if card.row.status != Status::Deleted || !is_taken {
                    return Ok(None);
                }
                act.restoring(card).map(Some)
            })?;
            if kind == ObjectKind::Key
                && let Some(body) = plan.reply.body.as_object_mut()
            {
                body.insert("keys".to_owned(), json!({ "changed": changed }));
            }
        }
        Ok(plan)
    }

    /// Makes a plan for each object of a kind that belongs to `owner`, and carries them out a page at
    /// a time. Answers how many there were.
    fn on_each(
        &mut self,
        kind: ObjectKind,
        owner: &ObjectRow,
        mut plan: impl FnMut(&mut Act<'_>, &Card) -> Result<Option<Plan>, Refusal>,
    ) -> Result<usize, Refusal> {
        let mut done = 0;
        let mut last: Option<ObjectRow> = None;
        loop {
            let rows = self.page_of(kind, owner, last.as_ref(), PAGE_ROWS)?;
            let is_end = rows.len() < PAGE_ROWS;
            last = rows.last().cloned();
            let mut whole = Plan {
                change: Change::default(),
                effects: Vec::new(),
                reply: Reply { status: 200, body: Value::Null },
            };
            let mut one = Act {
                directory: self.directory,
                caller: self.caller,
                call: self.call,
                kind,
                body: Default::default(),
                now: self.now,
                edits: &mut *self.edits,
            };
            let mut count = 0;
            for row in rows {
                let card = Act::card(row)?;
                if let Some(part) = plan(&mut one, &card)? {
                    count += 1;
                    add(&mut whole, part);
                }
            }
            self.directory
                .commit(self.caller, whole, None, self.now)
                .map_err(|refusal| after_some(refusal, done, kind))?;
            done += count;
            if is_end {
                return Ok(done);
            }
        }
    }
}

fn add(whole: &mut Plan, part: Plan) {
    let Change { puts, secrets_put, secrets_remove, audit, .. } = part.change;
    whole.change.puts.extend(puts);
    whole.change.secrets_put.extend(secrets_put);
    whole.change.secrets_remove.extend(secrets_remove);
    whole.change.audit.extend(audit);
    whole.effects.extend(part.effects);
}

fn after_some(refusal: Refusal, done: usize, kind: ObjectKind) -> Refusal {
    if done == 0 {
        return refusal;
    }
    let message = format!("{done} {kind}s are done, then: {}; repeat to go on", refusal.message);
    Refusal { message, ..refusal }
}

/// The kinds that can belong to an object of this kind.
fn kinds_of(owner: ObjectKind) -> impl Iterator<Item = ObjectKind> {
    DEPENDANTS.into_iter().filter(move |kind| match owner {
        ObjectKind::Account => true,
        ObjectKind::Project => matches!(kind, ObjectKind::Key | ObjectKind::Principal),
        ObjectKind::User => *kind == ObjectKind::Key,
        _ => false,
    })
}

fn belongs(row: &ObjectRow, owner: &ObjectRow) -> bool {
    match owner.kind {
        ObjectKind::Account => row.account == owner.id,
        ObjectKind::Project => row.project == owner.id,
        ObjectKind::User => row.user == owner.id,
        _ => false,
    }
}
