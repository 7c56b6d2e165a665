//! What every store of objects promises. Another implementation is one more line in
//! [`IMPLEMENTATIONS`].

use std::path::Path;
use std::sync::Arc;

use super::*;

struct Implementation {
    name: &'static str,
    /// Opens what lives in this directory, or makes it.
    open: fn(&Path) -> Arc<dyn Objects>,
    /// Whether it is there after the next opening.
    lasts: bool,
}

const IMPLEMENTATIONS: &[Implementation] = &[
    Implementation { name: "memory", open: |_| open(None).expect("in memory"), lasts: false },
    Implementation {
        name: "sqlite",
        open: |dir| open(Some(&dir.join("foretoken.db"))).expect("a file"),
        lasts: true,
    },
];

pub(super) fn everywhere(test: impl Fn(&dyn Objects)) {
    for implementation in IMPLEMENTATIONS {
        println!("store: {}", implementation.name);
        let dir = tempfile::tempdir().expect("a directory");
        test(&*(implementation.open)(dir.path()));
    }
}

pub(super) fn row(kind: ObjectKind, id: &str, name: &str) -> ObjectRow {
    ObjectRow {
        kind,
        id: id.to_owned(),
        name: name.to_owned(),
        status: Status::Active,
        account: "acc_1".to_owned(),
        project: "prj_1".to_owned(),
        user: String::new(),
        body: r#"{"models":["*"]}"#.to_owned(),
        revision: 1,
        created_unix_ms: 1_700_000_000_000,
        updated_unix_ms: 1_700_000_000_000,
        created_by: "owner".to_owned(),
    }
}

pub(super) fn key(id: &str) -> ObjectRow {
    row(ObjectKind::Key, id, id)
}

pub(super) fn made(row: ObjectRow) -> Put {
    Put { row, expect_revision: None }
}

/// The next revision of a row that is stored as it is given.
pub(super) fn edited(mut row: ObjectRow, edit: impl FnOnce(&mut ObjectRow)) -> Put {
    let expect_revision = Some(row.revision);
    row.revision += 1;
    edit(&mut row);
    Put { row, expect_revision }
}

pub(super) fn puts(puts: impl IntoIterator<Item = Put>) -> Change {
    Change { puts: puts.into_iter().collect(), ..Change::default() }
}

fn secret(id: &str, digest: [u8; 32]) -> SecretRow {
    SecretRow {
        digest,
        kind: ObjectKind::Key,
        id: id.to_owned(),
        prefix: "sk-ft-abcdef".to_owned(),
        valid_until_unix_ms: None,
    }
}

pub(super) fn act(action: &str, id: &str) -> AuditDraft {
    AuditDraft {
        time_unix_ms: 1_700_000_000_000,
        actor: "owner".to_owned(),
        from: "127.0.0.1".to_owned(),
        action: action.to_owned(),
        kind: "key".to_owned(),
        id: id.to_owned(),
        name: "ci".to_owned(),
        before: None,
        after: Some(r#"{"name":"ci"}"#.to_owned()),
    }
}

pub(super) fn remembered(key: &str, time_unix_ms: u64) -> Remembered {
    Remembered {
        principal: "owner".to_owned(),
        key: key.to_owned(),
        fingerprint: [9; 32],
        status: 201,
        body: r#"{"id":"key_1"}"#.to_owned(),
        time_unix_ms,
    }
}

fn all(store: &dyn Objects, kind: ObjectKind) -> Vec<ObjectRow> {
    let mut rows = Vec::new();
    store.each(kind, &mut |row| rows.push(row)).expect("all");
    rows.sort_by(|a, b| a.id.cmp(&b.id));
    rows
}

fn all_secrets(store: &dyn Objects) -> Vec<SecretRow> {
    let mut rows = Vec::new();
    store.each_secret(&mut |row| rows.push(row)).expect("all");
    rows.sort_by_key(|row| row.digest);
    rows
}

/// Everything that can be asked for, to see that a refused change left no trace.
fn everything(store: &dyn Objects) -> String {
    let objects: Vec<_> = ObjectKind::ALL.iter().map(|kind| all(store, *kind)).collect();
    let remembered = store.remembered("owner", "once").expect("answers");
    let audit = store.audit(0, 100, true).expect("the log");
    let head = store.head().expect("a head");
    format!("{objects:?} {:?} {remembered:?} {audit:?} {head:?}", all_secrets(store))
}

#[test]
fn objects_come_back_as_they_were_put() {
    everywhere(|store| {
        let mut rows = Vec::new();
        for (at, kind) in ObjectKind::ALL.iter().enumerate() {
            rows.push(ObjectRow {
                status: Status::ALL[at % 3],
                user: format!("usr_{at}"),
                created_unix_ms: 1_700_000_000_000 + at as u64,
                updated_unix_ms: 1_800_000_000_000 + at as u64,
                created_by: format!("admin {at}"),
                revision: 7 + at as u64,
                // The same id and name in each kind: kinds do not meet.
                ..row(*kind, "same", "same")
            });
        }
        store.apply(&puts(rows.iter().cloned().map(made))).expect("made");
        for want in &rows {
            let got = store.get(want.kind, "same").expect("asked");
            assert_eq!(got.as_ref(), Some(want));
            assert_eq!(all(store, want.kind), std::slice::from_ref(want));
            let project = &want.project;
            let by_name = store.by_name(want.kind, project, "same").expect("asked");
            let is_named = want.status != Status::Deleted;
            assert_eq!(by_name.as_ref(), Some(want).filter(|_| is_named));
        }
        assert_eq!(store.get(ObjectKind::Key, "sam").expect("asked"), None);
        assert_eq!(store.by_name(ObjectKind::Key, "prj_2", "same").expect("asked"), None);
    });
}

#[test]
fn an_edit_of_what_is_not_there_any_more_is_refused() {
    everywhere(|store| {
        store.apply(&puts([made(key("k"))])).expect("made");
        let first = edited(key("k"), |row| row.body = "first".to_owned());
        store.apply(&puts([first.clone()])).expect("edited");
        let second = edited(key("k"), |row| row.body = "second".to_owned());
        for change in [
            puts([second]),
            puts([made(row(ObjectKind::Key, "k", "other"))]),
            puts([edited(key("never"), |_| {})]),
            Change { removes: vec![(ObjectKind::Key, "never".to_owned())], ..Change::default() },
            Change { removes: vec![(ObjectKind::User, "k".to_owned())], ..Change::default() },
            Change { secrets_put: vec![secret("never", [1; 32])], ..Change::default() },
        ] {
            let before = everything(store);
            let refused = store.apply(&change).expect_err("stale");
            assert!(matches!(refused, ApplyError::Conflict(..)), "{refused}");
            assert_eq!(everything(store), before);
        }
        assert_eq!(store.get(ObjectKind::Key, "k").expect("asked"), Some(first.row));
    });
}

#[test]
fn a_refused_change_leaves_nothing_of_itself() {
    everywhere(|store| {
        store.apply(&puts([made(key("a")), made(key("b"))])).expect("made");
        let owned = Change { secrets_put: vec![secret("a", [1; 32])], ..Change::default() };
        store.apply(&owned).expect("owned");
        let before = everything(store);
        let good = Change {
            puts: vec![made(key("c")), edited(key("a"), |row| row.name = "new".to_owned())],
            removes: vec![(ObjectKind::Key, "b".to_owned())],
            secrets_put: vec![secret("c", [2; 32])],
            secrets_remove: vec![[1; 32]],
            audit: vec![act("key.create", "c")],
            remember: Some(remembered("once", 5)),
        };
        let mut name = good.clone();
        name.puts.push(made(row(ObjectKind::Key, "d", "new")));
        let mut digest = good.clone();
        digest.secrets_put.push(secret("a", [2; 32]));
        let mut stale = good.clone();
        stale.puts.push(made(key("a")));
        for (change, want) in [
            (name, "the name is taken"),
            (digest, "the secret is in use"),
            (stale, "the key `a` was changed meanwhile; read it again"),
        ] {
            assert_eq!(store.apply(&change).expect_err("refused").to_string(), want);
            assert_eq!(everything(store), before);
        }
        store.apply(&good).expect("the fault was not in this part");
        assert_ne!(everything(store), before);
    });
}

#[test]
fn names_are_unique_among_those_that_are_not_deleted() {
    everywhere(|store| {
        let taken = |put: Put| match store.apply(&puts([put])) {
            Ok(_) => false,
            Err(ApplyError::NameTaken) => true,
            Err(other) => panic!("{other}"),
        };
        let named = |id: &str, project: &str| ObjectRow {
            project: project.to_owned(),
            ..row(ObjectKind::Key, id, "ci")
        };
        assert!(!taken(made(named("1", "a"))));
        assert!(taken(made(named("2", "a"))));
        assert!(!taken(made(named("3", "b"))), "of another project");
        assert!(!taken(made(named("4", ""))), "of no project");
        assert!(taken(made(named("5", ""))));
        let moved = edited(named("3", "b"), |row| row.project = "a".to_owned());
        assert!(taken(moved), "moved into a project where it is taken");

        let deleted = edited(named("1", "a"), |row| row.status = Status::Deleted);
        assert!(!taken(deleted.clone()));
        assert!(!taken(made(named("2", "a"))), "the name of a deleted key is free");
        let restored = edited(deleted.row.clone(), |row| row.status = Status::Active);
        assert!(taken(restored));
        let renamed = edited(deleted.row, |row| {
            (row.status, row.name) = (Status::Active, "ci-1".to_owned());
        });
        assert!(!taken(renamed));
        let found = store.by_name(ObjectKind::Key, "a", "ci").expect("asked").expect("found");
        assert_eq!(found.id, "2");

        let user = |id: &str, project: &str| ObjectRow {
            project: project.to_owned(),
            ..row(ObjectKind::User, id, "ann")
        };
        assert!(!taken(made(user("1", "a"))));
        assert!(taken(made(user("2", "b"))), "only keys are named within a project");
        assert!(!taken(made(row(ObjectKind::Price, "1", ""))));
        assert!(!taken(made(row(ObjectKind::Price, "2", ""))), "an empty name is none");
        assert_eq!(store.by_name(ObjectKind::Price, "", "").expect("asked"), None);
    });
}

#[test]
fn a_name_moves_from_a_purged_object_to_a_new_one_in_one_change() {
    everywhere(|store| {
        store.apply(&puts([made(row(ObjectKind::Key, "old", "ci"))])).expect("made");
        let removes = vec![(ObjectKind::Key, "old".to_owned())];
        let change = Change { removes, ..puts([made(row(ObjectKind::Key, "new", "ci"))]) };
        store.apply(&change).expect("moved");
        let found = store.by_name(ObjectKind::Key, "prj_1", "ci").expect("asked").expect("found");
        assert_eq!(found.id, "new");
    });
}

#[test]
fn ids_are_compared_byte_by_byte() {
    everywhere(|store| {
        let ids =
            ["a", "A", "a ", " a", "a\0", "a\0b", "", "é", "e\u{301}", "1", "01", "1.0", "%", "_"];
        store.apply(&puts(ids.map(|id| made(key(id))))).expect("all differ");
        for id in ids {
            let found = store.get(ObjectKind::Key, id).expect("asked").expect("found");
            assert_eq!((found.id.as_str(), found.name.as_str()), (id, id));
        }
        let removes = vec![(ObjectKind::Key, "a\0".to_owned())];
        store.apply(&Change { removes, ..Change::default() }).expect("removed");
        assert_eq!(all(store, ObjectKind::Key).len(), ids.len() - 1);
    });
}

#[test]
fn case_47_secrets_that_begin_alike_are_two() {
    everywhere(|store| {
        let (mut one, mut other) = ([7; 32], [7; 32]);
        (one[31], other[31]) = (0, 1);
        let change = Change {
            secrets_put: vec![secret("a", one), secret("b", other)],
            ..puts([made(key("a")), made(key("b"))])
        };
        store.apply(&change).expect("two secrets");
        assert_eq!(store.secrets_of(ObjectKind::Key, "a").expect("asked"), [secret("a", one)]);
        assert_eq!(store.secrets_of(ObjectKind::Key, "b").expect("asked"), [secret("b", other)]);
        let stolen = Change { secrets_put: vec![secret("b", one)], ..Change::default() };
        assert!(matches!(store.apply(&stolen), Err(ApplyError::DigestTaken)));
        let of_another_kind = SecretRow { kind: ObjectKind::Principal, ..secret("a", one) };
        let change = Change {
            secrets_put: vec![of_another_kind],
            ..puts([made(row(ObjectKind::Principal, "a", "ann"))])
        };
        assert!(matches!(store.apply(&change), Err(ApplyError::DigestTaken)));
        let moved = Change { secrets_remove: vec![one], ..stolen };
        store.apply(&moved).expect("taken from one, given to the other in one step");
        assert!(store.secrets_of(ObjectKind::Key, "a").expect("asked").is_empty());
        assert_eq!(store.secrets_of(ObjectKind::Key, "b").expect("asked").len(), 2);
    });
}

#[test]
fn a_rotated_key_has_its_current_secret_first() {
    everywhere(|store| {
        let ends = |digest, at| SecretRow { valid_until_unix_ms: Some(at), ..secret("k", digest) };
        let change = Change { secrets_put: vec![secret("k", [3; 32])], ..puts([made(key("k"))]) };
        store.apply(&change).expect("made");
        for (old, new, at) in [(3, 1, 100), (1, 2, 200)] {
            let secrets_put = vec![ends([old; 32], at), secret("k", [new; 32])];
            store.apply(&Change { secrets_put, ..Change::default() }).expect("rotated");
        }
        let want = [secret("k", [2; 32]), ends([1; 32], 200), ends([3; 32], 100)];
        assert_eq!(store.secrets_of(ObjectKind::Key, "k").expect("asked"), want);
        assert_eq!(all_secrets(store).len(), 3);
    });
}

#[test]
fn what_belongs_to_a_purged_key_goes_with_it() {
    everywhere(|store| {
        let change = Change {
            secrets_put: vec![secret("a", [1; 32]), secret("a", [2; 32]), secret("b", [3; 32])],
            ..puts([made(key("a")), made(key("b"))])
        };
        store.apply(&change).expect("made");
        store.touch(&[("a".to_owned(), 5), ("b".to_owned(), 6)]).expect("touched");
        let removes = vec![(ObjectKind::Key, "a".to_owned())];
        store.apply(&Change { removes, ..Change::default() }).expect("purged");
        assert_eq!(store.get(ObjectKind::Key, "a").expect("asked"), None);
        assert_eq!(all_secrets(store), [secret("b", [3; 32])]);
        assert_eq!(store.last_used("a").expect("asked"), None);
        assert_eq!(store.last_used("b").expect("asked"), Some(6));
    });
}

#[test]
fn the_time_of_last_use_never_goes_back() {
    everywhere(|store| {
        for (unix_ms, want) in [(100, 100), (90, 100), (110, 110)] {
            store.touch(&[("k".to_owned(), unix_ms)]).expect("touched");
            assert_eq!(store.last_used("k").expect("asked"), Some(want));
        }
        store.touch(&[]).expect("nothing to do");
        assert_eq!(store.last_used("K").expect("asked"), None);
    });
}

/// Keys of two accounts, three projects, two users and all states, some made in the same
/// millisecond and with ids of different lengths.
fn many() -> Vec<ObjectRow> {
    let of = |at: u64| ObjectRow {
        account: format!("acc_{}", at % 2),
        project: if at.is_multiple_of(5) { String::new() } else { format!("prj_{}", at % 3) },
        user: if at.is_multiple_of(3) { String::new() } else { format!("usr_{}", at % 2) },
        status: Status::ALL[(at % 4 % 3) as usize],
        created_unix_ms: 1_000 + at / 4,
        ..key(&format!("key_{}", "x".repeat((at * 7 % 11) as usize) + &at.to_string()))
    };
    (0..60).map(of).collect()
}

fn listed(store: &dyn Objects, query: &ListQuery) -> Vec<ObjectRow> {
    let mut query = query.clone();
    let mut rows: Vec<ObjectRow> = Vec::new();
    loop {
        let page = store.list(&query).expect("a page");
        assert!(page.len() <= query.limit);
        let Some(last) = page.last() else { return rows };
        // As it comes back from a caller.
        query.after = Position::parse(&last.position().to_string());
        assert!(query.after.is_some());
        rows.extend(page);
    }
}

#[test]
fn lists_are_newest_first_and_every_filter_holds() {
    everywhere(|store| {
        let mut rows = many();
        let other = ObjectRow { created_unix_ms: 1, ..row(ObjectKind::User, "u", "u") };
        store.apply(&puts(rows.iter().cloned().chain([other]).map(made))).expect("made");
        rows.sort_by(|a, b| (b.created_unix_ms, &b.id).cmp(&(a.created_unix_ms, &a.id)));
        let texts = |texts: &[&str]| -> Vec<Option<String>> {
            [None].into_iter().chain(texts.iter().map(|it| Some((*it).to_owned()))).collect()
        };
        let states = [None, Some(Status::Active), Some(Status::Blocked), Some(Status::Deleted)];
        let mut not_empty = 0;
        for account in texts(&["acc_0", "acc_1", "acc_2"]) {
            for project in texts(&["prj_0", "prj_1", ""]) {
                for user in texts(&["usr_0", ""]) {
                    for status in states {
                        let is_in = |row: &&ObjectRow| {
                            account.as_ref().is_none_or(|it| *it == row.account)
                                && project.as_ref().is_none_or(|it| *it == row.project)
                                && user.as_ref().is_none_or(|it| *it == row.user)
                                && status.is_none_or(|it| it == row.status)
                        };
                        let want: Vec<_> = rows.iter().filter(is_in).cloned().collect();
                        let query = ListQuery {
                            account: account.clone(),
                            project: project.clone(),
                            user: user.clone(),
                            status,
                            ..ListQuery::new(ObjectKind::Key, 7)
                        };
                        assert_eq!(listed(store, &query), want, "{query:?}");
                        not_empty += u32::from(!want.is_empty());
                    }
                }
            }
        }
        assert!(not_empty > 60, "{not_empty}");
        assert!(store.list(&ListQuery::new(ObjectKind::Key, 0)).expect("asked").is_empty());
        let one = store.list(&ListQuery::new(ObjectKind::Key, usize::MAX)).expect("asked");
        assert_eq!(one, rows);
    });
}

#[test]
fn a_list_goes_on_where_it_was_although_that_object_is_purged() {
    everywhere(|store| {
        store.apply(&puts(many().into_iter().map(made))).expect("made");
        let mut query = ListQuery::new(ObjectKind::Key, 10);
        let first = store.list(&query).expect("a page");
        query.after = first.last().map(ObjectRow::position);
        let second = store.list(&query).expect("a page");
        let removes = vec![(ObjectKind::Key, first[9].id.clone())];
        let newer = ObjectRow { created_unix_ms: 9_999, ..key("newer") };
        store.apply(&Change { removes, ..puts([made(newer)]) }).expect("changed");
        assert_eq!(store.list(&query).expect("a page"), second);
    });
}

#[test]
fn cursors_that_nobody_was_given_are_recognised() {
    for text in ["", "1", "x.key", "-1.key", "+1.key", ".key", "18446744073709551616.key"] {
        assert_eq!(Position::parse(text), None, "{text}");
    }
    let dotted = ObjectRow { created_unix_ms: 12, ..key("a.b'c") }.position();
    assert_eq!(dotted.to_string(), "12.a.b'c");
    assert_eq!(Position::parse("12.a.b'c"), Some(dotted));
}

#[test]
fn case_51_sql_in_any_field_is_inert() {
    everywhere(|store| {
        store.apply(&puts([made(key("victim"))])).expect("made");
        for evil in [
            "'; DROP TABLE object; --",
            "' OR '1'='1",
            "\" OR 1=1 --",
            "victim' --",
            "?1",
            ":id",
            "x'); DELETE FROM audit; --",
            "\\'; DROP TABLE secret; --",
            "a\0'; DROP TABLE object; --",
        ] {
            assert_eq!(store.get(ObjectKind::Key, evil).expect("asked"), None);
            assert_eq!(store.by_name(ObjectKind::Key, evil, evil).expect("asked"), None);
            assert_eq!(store.remembered(evil, evil).expect("asked"), None);
            assert_eq!(store.last_used(evil).expect("asked"), None);
            let text = || evil.to_owned();
            let row = ObjectRow {
                account: text(),
                project: text(),
                user: text(),
                body: text(),
                created_by: text(),
                ..key(evil)
            };
            let draft = AuditDraft {
                time_unix_ms: 1,
                actor: text(),
                from: text(),
                action: text(),
                kind: text(),
                id: text(),
                name: text(),
                before: Some(text()),
                after: Some(text()),
            };
            let answer = Remembered { principal: text(), body: text(), ..remembered(evil, 1) };
            let digest = <[u8; 32]>::try_from(&evil.repeat(32).as_bytes()[..32]).expect("long");
            let change = Change {
                secrets_put: vec![SecretRow { prefix: text(), ..secret(evil, digest) }],
                audit: vec![draft],
                remember: Some(answer.clone()),
                ..puts([made(row.clone())])
            };
            store.apply(&change).expect("made");
            store.touch(&[(text(), 3)]).expect("touched");
            assert_eq!(store.get(ObjectKind::Key, evil).expect("asked"), Some(row.clone()));
            let named = store.by_name(ObjectKind::Key, evil, evil).expect("asked");
            assert_eq!(named, Some(row.clone()));
            let query = ListQuery {
                account: Some(text()),
                project: Some(text()),
                user: Some(text()),
                ..ListQuery::new(ObjectKind::Key, 10)
            };
            assert_eq!(store.list(&query).expect("listed"), std::slice::from_ref(&row));
            let after = ObjectRow { created_unix_ms: 0, ..row.clone() }.position();
            let none = ListQuery { after: Some(after), ..ListQuery::new(ObjectKind::Key, 10) };
            assert!(store.list(&none).expect("listed").is_empty());
            let secrets = store.secrets_of(ObjectKind::Key, evil).expect("asked");
            assert_eq!(secrets[0].prefix, evil);
            assert_eq!(store.remembered(evil, evil).expect("asked"), Some(answer));
            assert_eq!(store.last_used(evil).expect("asked"), Some(3));
            let last = store.audit(0, 1, false).expect("the log").remove(0);
            assert_eq!((last.actor, last.after), (text(), Some(text())));
            let removes = vec![(ObjectKind::Key, text())];
            store.apply(&Change { removes, ..Change::default() }).expect("purged");
            assert_eq!(all(store, ObjectKind::Key), [key("victim")], "{evil}");
        }
        assert!(store.verify(None).expect("walked").ok);
    });
}

#[test]
fn everything_is_there_after_the_next_opening() {
    for implementation in IMPLEMENTATIONS.iter().filter(|it| it.lasts) {
        let dir = tempfile::tempdir().expect("a directory");
        let store = (implementation.open)(dir.path());
        let change = Change {
            secrets_put: vec![secret("k", [1; 32])],
            audit: vec![act("key.create", "k")],
            remember: Some(remembered("once", 5)),
            ..puts([made(key("k"))])
        };
        let head = store.apply(&change).expect("made");
        store.touch(&[("k".to_owned(), 77)]).expect("touched");
        let before = everything(&*store);
        drop(store);
        let store = (implementation.open)(dir.path());
        assert_eq!(everything(&*store), before);
        assert_eq!(store.head().expect("a head"), head);
        assert_eq!(store.last_used("k").expect("asked"), Some(77));
        let audit = vec![act("key.block", "k")];
        store.apply(&Change { audit, ..Change::default() }).expect("the chain goes on");
        assert!(store.verify(Some(head)).expect("walked").ok);
    }
}
