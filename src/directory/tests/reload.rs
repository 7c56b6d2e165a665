//! What the file defines, beside what the store holds.

use std::sync::Arc;

use super::*;
use crate::auth::{Digest, Grant, digest};
use crate::ident::AccountId;
use crate::limits::{BudgetLimit, LimitSet, Limits, Overrun, Period};
use crate::store::objects::{
    ApplyError, AuditRow, Change, Head, ListQuery, ObjectKind, ObjectRow, Remembered, SecretRow,
    Verdict,
};
use Resource::{Accounts, Keys, Projects};

fn file_key(secret: &str, name: &str) -> (Digest, Grant) {
    (digest(secret.as_bytes()), Grant::open(name.into(), "default".into(), "default".into()))
}

#[test]
fn what_the_file_defines_is_shown_and_read_only() {
    let file = FileObjects { keys: vec![file_key("in-the-file", "f")], ..default_file() };
    let office = Office::with(file, objects::open(None).expect("a store"));
    assert_eq!(office.answer("in-the-file"), 200);
    let shown = office.show(Keys, "f");
    assert_eq!((text(&shown, "id"), text(&shown, "managed_by")), ("f", "file"));
    assert_eq!(text(&shown, "project"), "default");
    for (resource, id) in [(Keys, "f"), (Projects, "default"), (Accounts, "default")] {
        for verb in [Verb::Update, Verb::Delete, Verb::Restore, Verb::Purge] {
            let refusal = office.refused(resource, verb, id, Value::Null);
            assert_eq!((refusal.status, refusal.code), (409, "managed_by_file"), "{verb:?} {id}");
        }
    }
    for verb in [Verb::Rotate, Verb::Block, Verb::Unblock] {
        assert_eq!(office.refused(Keys, verb, "f", Value::Null).code, "managed_by_file");
    }
    let refusal = office.refused(Keys, Verb::Create, "", json!({"name": "f"}));
    assert_eq!(refusal.code, "name_taken");
    let secret = json!({"name": "g", "secret": "in-the-file-but-longer"});
    office.create(Keys, secret);
    office.create(Keys, json!({"name": "h"}));
    let list = office.ok(Keys, Verb::List, "", Value::Null);
    assert_eq!(names(&list).last(), Some(&"f"), "the file's come last");
    let page = with_query(call(Keys, Verb::List, "", Value::Null), &[("limit", "2")]);
    let page = office.perform(&owner(), &page).expect("a page").body;
    let cursor = text(&page, "next_cursor");
    let rest = with_query(call(Keys, Verb::List, "", Value::Null), &[("cursor", cursor)]);
    let rest = office.perform(&owner(), &rest).expect("a page").body;
    assert_eq!((names(&rest), &rest["next_cursor"]), (vec!["f"], &Value::Null));
}

#[test]
fn a_reload_changes_the_file_s_objects_and_no_other() {
    let office = Office::new();
    let stored = office.create(Keys, json!({"name": "k"}));
    let secret = text(&stored, "secret");
    let mut file = default_file();
    file.keys = vec![file_key("one", "one")];
    file.projects[0].models = Some(vec!["gpt-*".to_owned()]);
    file.price_groups = [("resale".to_owned(), 15_000)].into();
    office.create(Accounts, json!({"name": "acme", "price_group": "resale"}));
    let now = office.now.get();
    let changes = office.directory.set_file_objects(file, now).expect("reloaded");
    assert_eq!(changes.added, 1);
    assert_eq!((office.answer("one"), office.answer(secret)), (200, 200));
    for secret in ["one", secret] {
        let entry = office.entry(secret).expect("known");
        assert!(!entry.grant.allows_model("claude"), "the project's models hold for {secret}");
    }
    let acme = office.show(Accounts, "acme");
    let cell = office.accounts.cell(&AccountId::from(text(&acme, "id")));
    assert_eq!(cell.terms().markup_bps, 15_000, "the group's markup is the file's");

    office.directory.set_file_objects(default_file(), now).expect("reloaded");
    assert_eq!((office.answer("one"), office.answer(secret)), (401, 200));
    assert!(office.entry(secret).expect("known").grant.allows_model("claude"));
}

#[test]
fn a_key_with_the_secret_of_a_file_s_key_waits_until_the_file_drops_it() {
    let office = Office::new();
    let secret = "the-same-secret-twice";
    office.create(Keys, json!({"name": "stored", "secret": secret}));
    let file = FileObjects { keys: vec![file_key(secret, "filed")], ..default_file() };
    let now = office.now.get();
    office.directory.set_file_objects(file.clone(), now).expect("reloaded");
    let name = |office: &Office| office.entry(secret).map(|it| it.grant.key_name.to_string());
    assert_eq!(name(&office).as_deref(), Some("filed"));
    let again = office.reopened(file);
    assert_eq!(name(&again).as_deref(), Some("filed"));
    for office in [&office, &again] {
        let told = office.directory.shadowed().expect("told");
        assert!(told.len() == 1 && told[0].contains("the key `stored` (key_"), "{told:?}");
    }
    let other = json!({"name": "third", "secret": secret});
    assert_eq!(office.refused(Keys, Verb::Create, "", other).code, "secret_taken");
    office.directory.set_file_objects(default_file(), now).expect("reloaded");
    assert_eq!(name(&office).as_deref(), Some("stored"));
    assert_eq!(office.directory.shadowed().expect("told"), [""; 0]);
    let made = office.create(Projects, json!({"name": "search"}));
    let mut file = default_file();
    file.projects.push(FileProject { name: "search".to_owned(), ..file.projects[0].clone() });
    office.directory.set_file_objects(file, now).expect("reloaded");
    let told = office.directory.shadowed().expect("told");
    assert!(told.len() == 1 && told[0].contains(text(&made, "id")), "{told:?}");
}

/// The file's objects have no id but their name, which a stored key of another project may have too.
#[test]
fn a_name_that_the_file_has_too_is_not_taken_for_the_file_s() {
    let mut file = default_file();
    let search = FileProject { name: "search".to_owned(), ..file.projects[0].clone() };
    file.projects.push(search);
    let (secret, mut grant) = file_key("in-the-file", "chat");
    grant.project = "search".into();
    file.keys = vec![(secret, grant)];
    let office = Office::with(file, objects::open(None).expect("a store"));
    let made = office.create(Keys, json!({"name": "chat"}));
    let id = text(&made, "id");
    let at = |verb, project: Option<&str>, id: &str| {
        let query: Vec<_> = project.map(|project| ("project", project)).into_iter().collect();
        office.perform(&owner(), &with_query(call(Keys, verb, id, Value::Null), &query))
    };
    let shown = |project| at(Verb::Show, project, "chat").map(|reply| reply.body["id"].clone());
    assert_eq!(shown(Some("default")).expect("the stored one"), id);
    assert_eq!(shown(Some("search")).expect("the file's"), "chat");
    let refusal = shown(None).expect_err("either may be meant");
    assert_eq!((refusal.status, refusal.code), (409, "ambiguous"));
    assert_eq!(
        refusal.message,
        format!(
            "`chat` fits more than one key: `{id}` in the project `default`, `chat` of the \
             configuration file in the project `search`; use the id, or say in which project: --in \
             NAME, or ?project=NAME"
        )
    );
    assert_eq!(at(Verb::Block, None, "chat").expect_err("the same").code, "ambiguous");
    let refusal = at(Verb::Show, Some("search"), id).expect_err("it is in another project");
    assert_eq!(refusal.message, format!("there is no key `{id}` in the project `search`"));
    at(Verb::Block, Some("default"), "chat").expect("the stored one is blocked");
    at(Verb::Unblock, None, id).expect("an id is enough");

    let id_of = |name, project| office.directory.id_of(&owner(), ObjectKind::Key, name, project);
    assert_eq!(id_of("chat", Some("default")), Ok(Some(id.to_owned())));
    assert_eq!(id_of("chat", Some("search")), Ok(Some("chat".to_owned())));
    assert_eq!(id_of("none", None), Ok(None));
    assert_eq!(id_of("chat", None).expect_err("either").code, "ambiguous");
}

#[test]
fn a_budget_that_a_reload_adds_knows_what_was_spent() {
    let office = Office::new();
    let spent = admit::Spent { at_unix_ms: START_UNIX_MS, cost_pico: 7, ..Default::default() };
    *office.history.answer.lock().expect("no panic") = Some(vec![spent]);
    let budget = BudgetLimit {
        amount_pico: 100,
        period: Period::Total,
        overrun: Overrun::Finish,
        soft: false,
    };
    let all = Limits { budgets: vec![budget], ..Limits::default() };
    let mut file = default_file();
    file.accounts[0].limits = Some(Arc::new(LimitSet { all, revision: 2, ..LimitSet::default() }));
    office.directory.set_file_objects(file, office.now.get()).expect("reloaded");
    let usage = office.show(Accounts, "default")["usage"]["budget"][0].clone();
    assert_eq!(usage["spent"], "0.000000000007");
}

#[test]
fn names_outlive_a_deletion_and_a_key_s_scope_too() {
    let office = Office::new();
    let made = office.create(Keys, json!({"name": "k", "limits": {"rpm": 5}}));
    let id = text(&made, "id");
    office.ok(Keys, Verb::Delete, "k", Value::Null);
    let name = |id: &str| office.directory.name_of(ObjectKind::Key, id);
    assert_eq!(name(id).as_deref(), Some("k"));
    assert_eq!(
        office.directory.name_of(ObjectKind::Project, "default").as_deref(),
        Some("default")
    );
    let KeyScope { account, names, limits } =
        office.directory.key_scope(id).expect("a store").expect("a key");
    assert_eq!(account.as_str(), "default");
    assert_eq!((names.key.as_str(), names.project.as_str()), (id, "default"));
    assert_eq!(limits.expect("limits").all.rpm, Some(5));
    office.ok(Keys, Verb::Purge, id, Value::Null);
    assert_eq!(name(id), None);
}

/// A store whose disk is full.
struct Full(Arc<dyn Objects>);

fn fault() -> StoreError {
    StoreError::Damaged { path: "test".to_owned(), what: "the disk is full" }
}

impl Objects for Full {
    fn each(&self, kind: ObjectKind, f: &mut dyn FnMut(ObjectRow)) -> Result<(), StoreError> {
        self.0.each(kind, f)
    }

    fn each_secret(&self, f: &mut dyn FnMut(SecretRow)) -> Result<(), StoreError> {
        self.0.each_secret(f)
    }

    fn get(&self, kind: ObjectKind, id: &str) -> Result<Option<ObjectRow>, StoreError> {
        self.0.get(kind, id)
    }

    fn by_name(
        &self,
        kind: ObjectKind,
        project: &str,
        name: &str,
    ) -> Result<Option<ObjectRow>, StoreError> {
        self.0.by_name(kind, project, name)
    }

    fn list(&self, query: &ListQuery) -> Result<Vec<ObjectRow>, StoreError> {
        self.0.list(query)
    }

    fn secrets_of(&self, kind: ObjectKind, id: &str) -> Result<Vec<SecretRow>, StoreError> {
        self.0.secrets_of(kind, id)
    }

    fn apply(&self, _: &Change) -> Result<Head, ApplyError> {
        Err(ApplyError::Store(fault()))
    }

    fn remembered(&self, principal: &str, key: &str) -> Result<Option<Remembered>, StoreError> {
        self.0.remembered(principal, key)
    }

    fn audit(&self, since: u64, limit: usize, up: bool) -> Result<Vec<AuditRow>, StoreError> {
        self.0.audit(since, limit, up)
    }

    fn head(&self) -> Result<Head, StoreError> {
        self.0.head()
    }

    fn verify(&self, expected: Option<Head>) -> Result<Verdict, StoreError> {
        self.0.verify(expected)
    }

    fn touch(&self, _: &[(String, u64)]) -> Result<(), StoreError> {
        Err(fault())
    }

    fn last_used(&self, id: &str) -> Result<Option<u64>, StoreError> {
        self.0.last_used(id)
    }
}

#[test]
fn when_the_store_fails_nothing_is_changed_and_keys_go_on() {
    let office = Office::new();
    let made = office.create(Keys, json!({"name": "k"}));
    let secret = text(&made, "secret");
    let full = Office::with(default_file(), Arc::new(Full(office.objects.clone())));
    for (verb, id, body) in [
        (Verb::Create, "", json!({"name": "x", "secret": "a-secret-that-fails"})),
        (Verb::Update, "k", json!({"models": []})),
        (Verb::Block, "k", json!({"now": true})),
        (Verb::Rotate, "k", json!({"grace": "0s"})),
        (Verb::Delete, "k", Value::Null),
    ] {
        let refusal = full.refused(Keys, verb, id, body);
        assert_eq!((refusal.status, refusal.code), (503, "store_unavailable"), "{verb:?}");
    }
    let refusal = full.refused(Projects, Verb::Block, "default", Value::Null);
    assert_eq!(refusal.status, 503);
    assert_eq!((full.answer(secret), full.answer("a-secret-that-fails")), (200, 401));
    assert!(full.entry(secret).expect("known").grant.allows_model("anything"));
    let viewer = Caller { role: Role::Viewer, ..owner() };
    let denied = full.perform(&viewer, &call(Keys, Verb::Delete, "k", Value::Null));
    assert_eq!(denied.expect_err("denied").status, 403, "an unwritten log opens no door");
}
