//! What every store of objects promises of its log, of repeated requests and of parallel ones.

use std::collections::BTreeSet;

use super::tests::{act, edited, everywhere, key, made, puts, remembered};
use super::*;

#[test]
fn an_answer_is_remembered_once_and_for_a_day() {
    everywhere(|store| {
        let at = 1_700_000_000_000;
        let remember = |time| Change {
            remember: Some(remembered("once", time)),
            audit: vec![act("key.create", "k")],
            ..Change::default()
        };
        assert_eq!(store.remembered("owner", "once").expect("asked"), None);
        store.apply(&remember(at)).expect("first");
        for time in [at, at + 1, at + REMEMBERED_MS - 1] {
            assert!(matches!(store.apply(&remember(time)), Err(ApplyError::Repeated)));
        }
        let found = store.remembered("owner", "once").expect("asked");
        assert_eq!(found, Some(remembered("once", at)));
        assert_eq!(store.remembered("ann", "once").expect("asked"), None);
        assert_eq!(store.head().expect("a head").count, 1, "repetitions did nothing");
        store.apply(&remember(at + REMEMBERED_MS)).expect("a day later it is a new request");
        let other = Remembered { principal: "ann".to_owned(), ..remembered("once", at) };
        let change = Change { remember: Some(other), ..Change::default() };
        store.apply(&change).expect("keys of two principals do not meet");
        let later = remembered("later", at + 2 * REMEMBERED_MS);
        let change = Change { remember: Some(later), ..Change::default() };
        store.apply(&change).expect("later");
        assert_eq!(store.remembered("owner", "once").expect("asked"), None, "forgotten");
        assert_eq!(store.remembered("ann", "once").expect("asked"), None, "forgotten");
    });
}

#[test]
fn the_audit_log_is_one_chain_in_the_order_of_the_changes() {
    everywhere(|store| {
        assert_eq!(store.head().expect("a head"), Head::default());
        assert!(store.verify(Some(Head::default())).expect("walked").ok);
        let mut heads = Vec::new();
        for at in 0..4 {
            let id = at.to_string();
            let audit = vec![
                act("key.create", &id),
                AuditDraft { before: None, after: None, ..act("denied", &id) },
            ];
            heads.push(store.apply(&Change { audit, ..Change::default() }).expect("logged"));
        }
        store.apply(&puts([made(key("k"))])).expect("a change without an entry");
        let head = store.head().expect("a head");
        assert_eq!((head.count, Some(&head)), (8, heads.last()));
        let rows = store.audit(0, 100, true).expect("the log");
        let seen: Vec<_> = rows.iter().map(|row| (row.seq, row.id.as_str())).collect();
        let want = [(1, "0"), (2, "0"), (3, "1"), (4, "1"), (5, "2"), (6, "2"), (7, "3"), (8, "3")];
        assert_eq!(seen, want);
        assert_eq!(rows[7].hash, head.hash);
        assert_eq!(rows.iter().map(|row| row.hash).collect::<BTreeSet<_>>().len(), 8);
        let seqs = |since, limit, ascending| -> Vec<u64> {
            let rows = store.audit(since, limit, ascending).expect("the log");
            rows.iter().map(|row| row.seq).collect()
        };
        assert_eq!(seqs(3, 2, true), [4, 5]);
        assert_eq!(seqs(3, 2, false), [8, 7]);
        assert_eq!(seqs(6, 9, false), [8, 7]);
        assert!(seqs(8, 9, true).is_empty());
        assert!(seqs(u64::MAX, 9, true).is_empty());
        for expected in heads.into_iter().map(Some).chain([None]) {
            let verdict = store.verify(expected).expect("walked");
            let want = Verdict { ok: true, count: 8, head: head.hash, fault: None };
            assert_eq!(verdict, want);
        }
    });
}

#[test]
fn a_head_that_was_kept_elsewhere_must_be_in_the_chain() {
    everywhere(|store| {
        let audit = vec![act("key.create", "1"), act("key.block", "1")];
        let head = store.apply(&Change { audit, ..Change::default() }).expect("logged");
        let other = Head { hash: [1; 32], ..head };
        for (expected, want) in [
            (Head { count: 3, ..head }, "row 3 was removed"),
            (Head { count: 9, ..head }, "rows 3 to 9 were removed"),
            (other, "row 2 is not the one of the given head: it, or a row before it, was changed"),
            (
                Head { count: 1, ..head },
                "row 1 is not the one of the given head: it, or a row before it, was changed",
            ),
            (Head { count: 0, ..head }, "the given head cannot be: 0 rows have the hash 0"),
        ] {
            let verdict = store.verify(Some(expected)).expect("walked");
            assert!(!verdict.ok);
            assert_eq!(verdict.fault.as_deref(), Some(want));
        }
    });
}

#[test]
fn of_parallel_edits_exactly_one_wins_each_revision() {
    everywhere(|store| {
        store.apply(&puts([made(key("k"))])).expect("made");
        let (threads, edits) = (4, 10);
        std::thread::scope(|scope| {
            for thread in 0..threads {
                scope.spawn(move || {
                    for edit in 0..edits {
                        let action = format!("{thread}.{edit}");
                        loop {
                            let row = store.get(ObjectKind::Key, "k").expect("asked");
                            let put = edited(row.expect("there"), |row| row.body.push('x'));
                            let audit = vec![act(&action, "k")];
                            match store.apply(&Change { audit, ..puts([put]) }) {
                                Ok(_) => break,
                                Err(ApplyError::Conflict(..)) => {}
                                Err(other) => panic!("{other}"),
                            }
                        }
                    }
                });
            }
        });
        let row = store.get(ObjectKind::Key, "k").expect("asked").expect("there");
        let total = threads * edits;
        assert_eq!(row.revision, 1 + total);
        assert_eq!(row.body.len(), key("k").body.len() + total as usize);
        let verdict = store.verify(None).expect("walked");
        assert_eq!((verdict.ok, verdict.count), (true, total));
    });
}
