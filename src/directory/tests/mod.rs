//! The directory over a real store in memory, with time that only moves when a test says so.

mod audit;
mod book;
mod fields;
mod keys;
mod limits;
mod owners;
mod reload;
mod replay;
mod roles;

use std::cell::Cell;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::*;
use crate::admit::{self, Accounts, ScopeKind, Terms};
use crate::auth::{Entry, GrantCache, Keyring};
use crate::clock::{self, Now};
use crate::store::StoreError;
use crate::store::objects::{self, AuditRow, Objects};

/// 2027-01-15T08:00:00Z.
const START_UNIX_MS: u64 = 1_800_000_000_000;

const HOUR_MS: u64 = 3_600_000;

/// A request for the history of a scope: account, kind, name, model, from.
type Asked = (String, ScopeKind, String, Option<String>, u64);

#[derive(Default)]
struct History {
    asked: Mutex<Vec<Asked>>,
    answer: Mutex<Option<Vec<admit::Spent>>>,
}

impl Spent for Arc<History> {
    fn history(
        &self,
        account: &str,
        kind: ScopeKind,
        name: &str,
        model: Option<&str>,
        from_unix_ms: u64,
    ) -> Result<Vec<admit::Spent>, StoreError> {
        let model = model.map(str::to_owned);
        let asked = (account.to_owned(), kind, name.to_owned(), model, from_unix_ms);
        self.asked.lock().expect("no panic").push(asked);
        let answer = self.answer.lock().expect("no panic").clone();
        answer.ok_or(StoreError::Damaged { path: "test".to_owned(), what: "it is down" })
    }
}

struct Office {
    directory: Directory,
    objects: Arc<dyn Objects>,
    keyring: Arc<Keyring>,
    accounts: Arc<Accounts>,
    history: Arc<History>,
    changed: Arc<Mutex<Vec<Changed>>>,
    now: Cell<Now>,
}

/// The file of most installations: nothing but the default account and project.
fn default_file() -> FileObjects {
    FileObjects {
        accounts: vec![FileAccount {
            name: "default".to_owned(),
            terms: Terms::default(),
            limits: None,
            metadata: Map::new(),
        }],
        projects: vec![FileProject {
            name: "default".to_owned(),
            account: "default".to_owned(),
            models: None,
            limits: None,
            tags: Vec::new(),
            metadata: Map::new(),
        }],
        price_groups: [("resale".to_owned(), 12_000)].into(),
        ..FileObjects::default()
    }
}

impl Office {
    fn new() -> Self {
        Self::with(default_file(), objects::open(None).expect("a store"))
    }

    fn with(file: FileObjects, objects: Arc<dyn Objects>) -> Self {
        let now = Now { instant: clock::instant(), unix_ms: START_UNIX_MS };
        let (keyring, accounts) = (Arc::new(Keyring::new()), Arc::new(Accounts::default()));
        let history = Arc::new(History::default());
        *history.answer.lock().expect("no panic") = Some(Vec::new());
        let changed = Arc::new(Mutex::new(Vec::new()));
        let live = Live {
            keyring: keyring.clone(),
            accounts: accounts.clone(),
            spent: Box::new(history.clone()),
            changed: Box::new({
                let changed = changed.clone();
                move |what| changed.lock().expect("no panic").push(what)
            }),
        };
        let directory = Directory::open(objects.clone(), live, file, now).expect("it opens");
        Office { directory, objects, keyring, accounts, history, changed, now: Cell::new(now) }
    }

    /// As after a restart: the same store, everything else anew, at the same time.
    fn reopened(&self, file: FileObjects) -> Office {
        let office = Office::with(file, self.objects.clone());
        office.now.set(self.now.get());
        office
    }

    fn wait(&self, ms: u64) {
        let now = self.now.get();
        let instant = now.instant + Duration::from_millis(ms);
        self.now.set(Now { instant, unix_ms: now.unix_ms + ms });
    }

    fn perform(&self, caller: &Caller, call: &Call) -> Result<Reply, Refusal> {
        self.directory.perform(caller, call, self.now.get())
    }

    /// An act of the owner that succeeds.
    fn ok(&self, resource: Resource, verb: Verb, id: &str, body: Value) -> Value {
        let done = self.perform(&owner(), &call(resource, verb, id, body));
        done.unwrap_or_else(|refusal| panic!("{resource:?} {verb:?} {id}: {refusal:?}")).body
    }

    /// An act of the owner that is refused.
    fn refused(&self, resource: Resource, verb: Verb, id: &str, body: Value) -> Refusal {
        match self.perform(&owner(), &call(resource, verb, id, body)) {
            Err(refusal) => refusal,
            Ok(reply) => panic!("{resource:?} {verb:?} {id} was done: {}", reply.body),
        }
    }

    fn create(&self, resource: Resource, body: Value) -> Value {
        self.ok(resource, Verb::Create, "", body)
    }

    fn show(&self, resource: Resource, id: &str) -> Value {
        self.ok(resource, Verb::Show, id, Value::Null)
    }

    /// What a worker that never saw the key makes of a secret.
    fn entry(&self, secret: &str) -> Option<Arc<Entry>> {
        let unix_ms = self.now.get().unix_ms;
        self.keyring.lookup(secret.as_bytes()).filter(|entry| entry.is_valid_at(unix_ms))
    }

    /// As a caller sees it: 200, 401 or 403.
    fn answer(&self, secret: &str) -> u16 {
        let unix_ms = self.now.get().unix_ms;
        let mut cache = GrantCache::new();
        match cache.get(&self.keyring, secret.as_bytes(), unix_ms) {
            None => 401,
            Some(held) if held.grant().usable_at(unix_ms).is_err() => 403,
            Some(_) => 200,
        }
    }

    fn log(&self) -> Vec<AuditRow> {
        self.objects.audit(0, 10_000, true).expect("a log")
    }

    fn last_entry(&self) -> AuditRow {
        self.log().pop().expect("an entry")
    }

    fn token(&self, token: &str) -> Option<Caller> {
        self.directory.principal(token.as_bytes(), self.now.get())
    }

    /// A caller by the token of a principal that is made for it.
    fn principal(&self, body: Value) -> Caller {
        let made = self.create(Resource::Principals, body);
        self.token(text(&made, "token")).expect("a good token")
    }
}

fn owner() -> Caller {
    Caller::owner("192.0.2.1")
}

fn call(resource: Resource, verb: Verb, id: &str, body: Value) -> Call {
    Call {
        resource,
        verb,
        id: (!id.is_empty()).then(|| id.to_owned()),
        body,
        query: Vec::new(),
        idempotency_key: None,
    }
}

fn with_query(call: Call, query: &[(&str, &str)]) -> Call {
    let query = query.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Call { query: query.collect(), ..call }
}

#[track_caller]
fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_else(|| panic!("`{field}` is no text in {value}"))
}

/// The names in a list's answer.
fn names(body: &Value) -> Vec<&str> {
    let data = body["data"].as_array().expect("data");
    data.iter().map(|it| text(it, "name")).collect()
}
