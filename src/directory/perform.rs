//! The way of a call: who may ask, was it asked before, what is to change, the store, then what is live.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use rand::rngs::StdRng;
use rand::{RngCore as _, SeedableRng as _};
use serde_json::{Map, Value, json};

use super::file::{Card, Filed};
use super::kinds::{Stored, kind_of};
use super::live::{Effect, effective_limits};
use super::replay::{self, Fingerprint};
use super::{Call, Caller, Live, Refusal, Reply, Role, Verb, access};
use crate::admit::ScopeNames;
use crate::auth::{Digest, Shared, digest};
use crate::clock::Now;
use crate::ident::{AccountId, KeyId, ProjectId};
use crate::limits::LimitSet;
use crate::price;
use crate::store::StoreError;
use crate::store::objects::{ApplyError, AuditDraft, Change, ObjectKind, Objects, Put};

/// Accounts, projects, users, keys, prices, rates and principals: the one place where they change.
pub struct Directory {
    pub(super) objects: Arc<dyn Objects>,
    pub(super) live: Live,
    state: RwLock<State>,
    /// One change at a time: what was checked still holds when it is written. Look-ups do not wait.
    edits: Mutex<Edits>,
}

/// Whose a key is, and what it may use up.
#[derive(Clone, Debug)]
pub struct KeyScope {
    pub account: AccountId,
    /// Without a model.
    pub names: ScopeNames,
    pub limits: Option<Arc<LimitSet>>,
}

/// What is asked too often for the store.
#[derive(Default)]
pub(super) struct State {
    pub filed: Arc<Filed>,
    pub tokens: HashMap<Digest, Token>,
    /// Those of the store, by id.
    pub prices: BTreeMap<String, price::Entry>,
    /// Those of the store, by id.
    pub rates: BTreeMap<String, price::RateRow>,
}

/// A principal, by one of its tokens.
#[derive(Clone, Debug)]
pub(super) struct Token {
    pub id: String,
    pub name: String,
    pub role: Role,
    pub account: Option<String>,
    pub project: Option<String>,
    pub expires_at_unix_ms: Option<u64>,
    /// Of a token that was rotated out.
    pub valid_until_unix_ms: Option<u64>,
}

/// What only whoever makes a change uses.
pub(super) struct Edits {
    random: StdRng,
    pub shared: Shared,
}

/// What a call will do.
pub(super) struct Plan {
    pub change: Change,
    pub effects: Vec<Effect>,
    pub reply: Reply,
}

/// A call that changes something, while it is worked on.
pub(super) struct Act<'a> {
    pub directory: &'a Directory,
    pub caller: &'a Caller,
    pub call: &'a Call,
    pub kind: ObjectKind,
    pub body: Map<String, Value>,
    pub now: Now,
    pub edits: &'a mut Edits,
}

impl Directory {
    pub(super) fn new(objects: Arc<dyn Objects>, live: Live, state: State, shared: Shared) -> Self {
        let edits = Edits { random: StdRng::from_os_rng(), shared };
        Directory { objects, live, state: RwLock::new(state), edits: Mutex::new(edits) }
    }

    /// Does what is asked, or says why not. Blocks on the disk: not for a worker's thread. When it
    /// returns, the change is durable and in force on every worker.
    ///
    /// # Errors
    /// A [`Refusal`]. Refused for want of rights (403) is noted in the audit log.
    pub fn perform(&self, caller: &Caller, call: &Call, now: Now) -> Result<Reply, Refusal> {
        let kind = kind_of(call.resource);
        let done = access::may_ask(caller, kind, call.verb).and_then(|()| match call.verb {
            Verb::List => self.list(caller, call),
            Verb::Show => self.show(caller, call, now),
            _ => self.write(caller, call, now),
        });
        if let Err(refusal) = &done
            && refusal.status == 403
        {
            self.note_denied(caller, call, refusal, now);
        }
        done
    }

    /// Whose token this is, if it is good. The address is left empty.
    pub fn principal(&self, token: &[u8], now: Now) -> Option<Caller> {
        let state = self.state();
        let token = state.tokens.get(&digest(token))?;
        let ends = [token.expires_at_unix_ms, token.valid_until_unix_ms];
        if ends.into_iter().flatten().any(|end| now.unix_ms >= end) {
            return None;
        }
        Some(Caller {
            name: token.name.clone(),
            role: token.role,
            account: token.account.clone(),
            project: token.project.clone(),
            from: String::new(),
        })
    }

    /// The name of an object by its id, also of one that is deleted. `None` if there never was one, it
    /// was purged, or the store does not answer.
    pub fn name_of(&self, kind: ObjectKind, id: &str) -> Option<String> {
        if let Some(card) = self.state().filed.card(kind, id) {
            return Some(card.row.name.clone());
        }
        self.objects.get(kind, id).ok().flatten().map(|row| row.name)
    }

    /// The scope of a key, deleted or not, and its limits: what it takes to give it its place in the
    /// books before its first request, so that what it has spent can be put there.
    ///
    /// # Errors
    /// Of the store.
    pub fn key_scope(&self, id: &str) -> Result<Option<KeyScope>, StoreError> {
        let filed = self.state().filed.card(ObjectKind::Key, id).cloned();
        let card = match filed {
            Some(card) => card,
            None => match self.objects.get(ObjectKind::Key, id)? {
                None => return Ok(None),
                Some(row) => super::load::card(row)?,
            },
        };
        let row = &card.row;
        let names = ScopeNames {
            project: ProjectId::from(row.project.as_str()),
            user: (!row.user.is_empty()).then(|| row.user.as_str().into()),
            key: KeyId::from(id),
            model: None,
            asked: None,
        };
        let account = AccountId::from(row.account.as_str());
        Ok(Some(KeyScope { account, names, limits: effective_limits(&card) }))
    }

    /// All prices. Those of the file come last: of two for the same they count.
    pub fn prices(&self) -> Vec<price::Entry> {
        let state = self.state();
        let filed = &state.filed.objects.prices;
        state.prices.values().chain(filed).cloned().collect()
    }

    /// All rates. Those of the file come last: of two for the same they count.
    pub fn rates(&self) -> Vec<price::RateRow> {
        let state = self.state();
        let filed = &state.filed.objects.rates;
        state.rates.values().chain(filed).copied().collect()
    }

    /// Notes when keys were last used, in milliseconds since 1970.
    ///
    /// # Errors
    /// Of the store: the same can be noted again later.
    pub fn note_used(&self, used: &[(KeyId, u64)]) -> Result<(), StoreError> {
        let used: Vec<_> = used.iter().map(|(id, unix_ms)| (id.to_string(), *unix_ms)).collect();
        self.objects.touch(&used)
    }

    pub(super) fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn state_mut(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn edits(&self) -> MutexGuard<'_, Edits> {
        self.edits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, caller: &Caller, call: &Call, now: Now) -> Result<Reply, Refusal> {
        let body = match &call.body {
            Value::Null => Map::new(),
            Value::Object(map) => map.clone(),
            _ => return Err(Refusal::new(400, "invalid_type", "the body must be a JSON object")),
        };
        let mut edits = self.edits();
        let fingerprint = replay::fingerprint(call)?;
        if let Some(known) = &fingerprint
            && let Some(reply) = self.replayed(caller, known, now)?
        {
            return Ok(reply);
        }
        let kind = kind_of(call.resource);
        let mut act = Act { directory: self, caller, call, kind, body, now, edits: &mut edits };
        let plan = act.plan()?;
        self.commit(caller, plan, fingerprint.as_ref(), now)
    }

    /// First the store, then what is live. If the store fails, nothing has changed.
    pub(super) fn commit(
        &self,
        caller: &Caller,
        plan: Plan,
        fingerprint: Option<&Fingerprint>,
        now: Now,
    ) -> Result<Reply, Refusal> {
        let Plan { mut change, effects, reply } = plan;
        change.remember =
            fingerprint.map(|known| replay::remember(&caller.name, known, &reply, now.unix_ms));
        let is_idle = change == Change::default();
        if !is_idle {
            self.objects.apply(&change).map_err(refused)?;
        }
        self.take_effect(effects, now);
        Ok(reply)
    }

    /// Notes a call that was refused for want of rights before it came here, as `POST
    /// /admin/v1/reload`. Blocks on the disk.
    pub fn note_denied_call(&self, caller: &Caller, attempt: &str, reason: &str, now: Now) {
        let attempt = json!({ "attempt": attempt, "reason": reason });
        self.note(caller, ("process", String::new()), &attempt, now);
    }

    fn note_denied(&self, caller: &Caller, call: &Call, refusal: &Refusal, now: Now) {
        let kind = kind_of(call.resource);
        let attempt = json!({
            "attempt": format!("{kind}.{}", call.verb.name()),
            "field": refusal.field,
            "reason": refusal.message,
        });
        let id = call.id.as_deref().map(super::fields::shortened).unwrap_or_default();
        self.note(caller, (kind.name(), id), &attempt, now);
    }

    /// An attempt to go beyond one's rights leaves a trace. That the store may be down must not make it
    /// succeed or look otherwise.
    fn note(&self, caller: &Caller, (kind, id): (&str, String), attempt: &Value, now: Now) {
        let entry = AuditDraft {
            time_unix_ms: now.unix_ms,
            actor: caller.name.clone(),
            from: caller.from.clone(),
            action: "denied".to_owned(),
            kind: kind.to_owned(),
            id,
            name: String::new(),
            before: None,
            after: Some(attempt.to_string()),
        };
        let change = Change { audit: vec![entry], ..Change::default() };
        if let Err(error) = self.objects.apply(&change) {
            tracing::warn!(%error, caller = caller.name, "a denied act could not be noted");
        }
    }
}

fn refused(error: ApplyError) -> Refusal {
    match error {
        ApplyError::NameTaken => {
            Refusal::conflict("name_taken", "the name is taken; choose another").of("name")
        }
        ApplyError::DigestTaken => {
            Refusal::conflict("secret_taken", "another key has this secret").of("secret")
        }
        ApplyError::Store(error) => Refusal::store(&error),
        ApplyError::Conflict(..) | ApplyError::Repeated => {
            Refusal::conflict("conflict", format!("nothing was changed: {error}"))
        }
    }
}

impl Act<'_> {
    fn plan(&mut self) -> Result<Plan, Refusal> {
        match (self.call.verb, self.kind) {
            (Verb::Create, _) => self.create(),
            (Verb::Update, _) => self.update(),
            (Verb::Delete, _) => self.delete(),
            (Verb::Restore, _) => self.restore(),
            (Verb::Purge, _) => self.purge(),
            (Verb::Rotate, ObjectKind::Key | ObjectKind::Principal) => self.rotate(),
            (Verb::Block | Verb::Unblock, ObjectKind::Key | ObjectKind::Principal) => self.block(),
            (
                Verb::Block | Verb::Unblock,
                ObjectKind::Account | ObjectKind::Project | ObjectKind::User,
            ) => self.block_all(),
            (verb, kind) => {
                let message = format!("a {kind} has no {}", verb.name());
                Err(Refusal::new(404, "not_found", message))
            }
        }
    }

    pub(super) fn random(&mut self) -> [u8; 32] {
        let mut bytes = [0; 32];
        self.edits.random.fill_bytes(&mut bytes);
        bytes
    }

    /// A plan that writes this card in place of what is stored, with its entry in the audit log.
    pub(super) fn writing(&self, before: Option<&Card>, mut after: Card) -> (Plan, Card) {
        after.row.updated_unix_ms = self.now.unix_ms;
        after.row.revision = before.map_or(0, |card| card.row.revision) + 1;
        after.row.body = after.stored.to_body();
        let put =
            Put { row: after.row.clone(), expect_revision: before.map(|card| card.row.revision) };
        let entry = self.audit(self.call.verb.name(), before, Some(&after));
        let change = Change { puts: vec![put], audit: vec![entry], ..Change::default() };
        let reply = Reply { status: 200, body: Value::Null };
        (Plan { change, effects: Vec::new(), reply }, after)
    }

    /// The entry for what was `before` and is `after`.
    pub(super) fn audit(
        &self,
        verb: &str,
        before: Option<&Card>,
        after: Option<&Card>,
    ) -> AuditDraft {
        let of = after.or(before);
        let text = |card: &Card| Value::Object(self.directory.plain(card)).to_string();
        AuditDraft {
            time_unix_ms: self.now.unix_ms,
            actor: self.caller.name.clone(),
            from: self.caller.from.clone(),
            action: format!("{}.{verb}", self.kind),
            kind: self.kind.name().to_owned(),
            id: of.map(|card| card.row.id.clone()).unwrap_or_default(),
            name: of.map(|card| card.row.name.clone()).unwrap_or_default(),
            before: before.map(text),
            after: after.map(text),
        }
    }

    /// The object that the call names, as far as the caller may write to it.
    pub(super) fn target(&self) -> Result<Card, Refusal> {
        let card = self.directory.find(self.caller, self.kind, self.call)?;
        if card.is_filed {
            let (kind, name) = (self.kind, &card.row.name);
            let message = format!(
                "the {kind} `{name}` is defined in the configuration file; change it there and reload"
            );
            return Err(Refusal::conflict("managed_by_file", message));
        }
        Ok(card)
    }

    /// The card that a row is, with its fields.
    pub(super) fn card(row: crate::store::objects::ObjectRow) -> Result<Card, Refusal> {
        let stored = Stored::of(&row)?;
        Ok(Card { row, stored, is_filed: false })
    }
}
